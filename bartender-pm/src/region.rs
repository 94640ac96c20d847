//! A region: home, view, log and checkpoint behind one handle.
//! SKELETON: signatures are fixed, bodies follow.

use crate::error::Result;
use std::path::Path;

/// When a commit is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// After the persist barrier: an acknowledged transaction survives.
    #[default]
    Immediate,
    /// At once. The last moments may be lost in a crash; what survives is a
    /// prefix of what was committed. On lanes it equals `Immediate`.
    Eventual,
}

/// How to open a region.
#[derive(Debug, Clone)]
pub struct Options {}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        todo!()
    }
    /// Bytes of home (address space) reserved at creation. Default 64 GiB. Rounded up to 2 MiB.
    pub fn max_size(&mut self, _bytes: u64) -> &mut Self {
        todo!()
    }
    /// Bytes of log at creation. Default 64 MiB.
    pub fn log_size(&mut self, _bytes: u64) -> &mut Self {
        todo!()
    }
    /// Default durability of commits.
    pub fn durability(&mut self, _d: Durability) -> &mut Self {
        todo!()
    }
    /// Whether a missing file is created (default true).
    pub fn create(&mut self, _yes: bool) -> &mut Self {
        todo!()
    }
    /// Whether a background thread checkpoints (default true). Without it
    /// a commit that finds the log full checkpoints by itself.
    pub fn background(&mut self, _yes: bool) -> &mut Self {
        todo!()
    }
    /// Shared memory only: flush and fence as on DAX.
    pub fn force_flush(&mut self, _yes: bool) -> &mut Self {
        todo!()
    }
    /// Opens or creates the region at `path`; the medium is found by looking at the file.
    pub fn open(&self, _path: impl AsRef<Path>) -> Result<Region> {
        todo!()
    }
}

/// What opening found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Opened {
    /// The region was created by this open.
    pub created: bool,
    /// The last user closed it (nothing had to be recovered).
    pub clean: bool,
    /// Counts the opens of this region, this one included.
    pub generation: u64,
    /// Records replayed from the log.
    pub records: u64,
    /// Bytes of those records.
    pub bytes: u64,
}

/// An open region. Cheap to clone (a reference count).
#[derive(Debug, Clone)]
pub struct Region {}

impl Region {
    /// What opening found.
    pub fn opened(&self) -> &Opened {
        todo!()
    }
    /// Where home offset 0 is mapped: the home address. The view.
    pub fn base(&self) -> *mut u8 {
        todo!()
    }
    /// Bytes of home reserved: offsets below it are valid home offsets.
    pub fn max_size(&self) -> u64 {
        todo!()
    }
    /// Whether `address` lies in the view.
    pub fn contains(&self, _address: usize) -> bool {
        todo!()
    }
    /// Allocates home space in the file up to home offset `end` (rule 5) and makes it
    /// readable (zeroes) in the view. Idempotent; grows in steps of 2 MiB and more.
    /// The first 2 MiB are there after creation.
    /// # Errors
    /// `OutOfSpace` beyond the maximum size; `Io` (disk full): nothing changed, region usable.
    pub fn extend(&self, _end: u64) -> Result<()> {
        todo!()
    }
    /// Home bytes allocated in the file so far.
    pub fn size(&self) -> u64 {
        todo!()
    }
    /// Highest sequence number drawn so far.
    pub fn last_seq(&self) -> u64 {
        todo!()
    }
    /// Everything up to this number is in the home, durably.
    pub fn checkpoint_seq(&self) -> u64 {
        todo!()
    }
    /// Everything up to this number is durable.
    pub fn durable_seq(&self) -> u64 {
        todo!()
    }
    /// Starts writing: enters the gate, takes a lane. One per transaction, from before its
    /// first store into the view to after its commit or the restoration of the old bytes.
    pub fn writer(&self) -> Result<Writer<'_>> {
        todo!()
    }
    /// Waits until everything up to `seq` is durable.
    /// # Errors
    /// `Poisoned` if it never will be.
    pub fn wait_durable(&self, _seq: u64) -> Result<()> {
        todo!()
    }
    /// Copies all durable records to the home, makes it durable, truncates the log.
    pub fn checkpoint(&self) -> Result<()> {
        todo!()
    }
    /// Waits for everything that was committed, `Eventual` included.
    pub fn sync(&self) -> Result<()> {
        todo!()
    }
    /// Waits for running writers, checkpoints, marks the region clean. Later calls fail with `Closed`.
    /// (Dropping the last clone does the same and ignores errors.)
    pub fn close(&self) -> Result<()> {
        todo!()
    }
}

/// The right of one transaction to write. `!Send`.
#[derive(Debug)]
pub struct Writer<'r> {
    _r: &'r Region,
}

impl Writer<'_> {
    /// Writes wholly fresh bytes (never reachable by a committed transaction whose number is
    /// above `checkpoint_seq`) straight to the home, and nothing to the view. They are made
    /// durable by the `append` that follows, before its record. Rule 6.
    pub fn write_fresh(&mut self, _offset: u64, _bytes: &[u8]) -> Result<()> {
        todo!()
    }
    /// Commits: draws a number and appends the record. On lanes it is durable on return
    /// (one barrier); on a stream it has its position, and locks may be released, but nobody may
    /// be answered before `Region::wait_durable(ticket.seq)` returns (not needed for `Eventual`).
    /// # Errors
    /// `LogFull`, `Poisoned`, `Forked`, `Closed`: nothing was committed, restore the view.
    pub fn append(&mut self, _record: &mut Record, _d: Durability) -> Result<Ticket> {
        todo!()
    }
}

/// What `append` returns.
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    /// The transaction's sequence number.
    pub seq: u64,
    /// Whether it is durable already.
    pub durable: bool,
}

/// A redo record under construction: reuse it, it keeps its buffer.
#[derive(Debug, Default)]
pub struct Record {}

impl Record {
    /// An empty record.
    pub fn new() -> Self {
        todo!()
    }
    /// Empties it.
    pub fn clear(&mut self) {
        todo!()
    }
    /// Adds the new bytes at home offset `offset`. Ranges must not overlap.
    pub fn change(&mut self, _offset: u64, _bytes: &[u8]) {
        todo!()
    }
    /// Adds an extent written by `write_fresh`, with its CRC-32C.
    pub fn extent(&mut self, _offset: u64, _len: u64, _crc: u32) {
        todo!()
    }
    /// Bytes the record will take in the log.
    pub fn size(&self) -> u64 {
        todo!()
    }
}

//! The redo log: lanes or a stream, and the numbers that order their records.
//!
//! # Lanes
//!
//! Each lane is a ring with a writer of its own; a commit there is one
//! barrier and shares no line of the log with another. Per lane:
//!
//! - `tail`: absolute end of its last durable record. Stored by the lane's
//!   owner (whoever holds the gate's slot of the same number, or lane 0's
//!   lock), read by the checkpoint.
//! - `head`: absolute start of its first record that is not in the home.
//!   Stored by the checkpoint, read by the owner.
//! - `pending`: a number not above the one that the commit under way has or
//!   will draw, or [`IDLE`].
//!
//! *The horizon.* A commit stores `pending`, then draws its number from `next`
//! by a read-modify-write, writes its record durably, stores `tail`, and
//! stores `IDLE`. The checkpoint loads `next` first and the `pending`s after
//! it. If it sees a `next` above number n, the drawing of n happened before
//! (release sequence), and so did the store of `pending`: it sees that value
//! or a later one. `IDLE`, or a later commit's `pending`, was stored (release)
//! after the `tail` that covers n. So every number at or below
//! `min(next - 1, pending - 1 of all lanes)` is durable and inside its lane's
//! `tail`, and the home may take it. After drawing, a commit cannot abort:
//! an I/O error leaves `pending` as it is and poisons the region.
//!
//! # The stream
//!
//! Records get number and position under one lock, in the order of their
//! dependencies, and gather in a batch in DRAM. The first that waits becomes
//! the leader and writes the batch with one barrier; the others wait for it.
//! A number at or below `durable` is durable with all before it.
//!
//! *A replicated stream.* The leader hands the batch to [`Replication`], which
//! writes it here and elsewhere at once, and finishes it when every replica has
//! it: `tail` and `durable` then mean all of them.
//!
//! *Links settle nothing.* Each epoch of a replicated stream opens with a link, a record without ranges. Until a record with
//! ranges behind it is on every replica, `tail` stays before it, the home is not taken to it, and no record says that it is durable. So
//! whoever finds links at the end of its log knows that nobody holds on to them, and puts its own in their place: reigns
//! that fail take no space.

mod sealed;

pub use sealed::{Replication, Sealed};

use crate::counts;
use crate::error::{Error, Result};
use crate::layout::RECORD_ALIGN;
use crate::medium::{LogStyle, Medium};
use crate::record::Record;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, Turn, thread};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// No commit under way on this lane.
const IDLE: u64 = u64::MAX;

/// How long a leader waits for the members of the last batch to come back:
/// far less than a synchronous write, and threefold the batch on a busy log.
const COHORT_WAIT: Duration = Duration::from_micros(30);

/// Bytes that the stream of a replicated region always leaves free: each epoch opens with a link, also where nothing was
/// committed since the log got full.
const RESERVE: u64 = 4096;

/// Longest record there is: its header counts bytes in 32 bits.
const MAX_RECORD: u64 = u32::MAX as u64 / RECORD_ALIGN * RECORD_ALIGN;

/// A batch of unawaited commits is written once it is this long, in bytes.
const BATCH_LIMIT: usize = 4 << 20;

/// A place in the file where a lane lies, and how far it is used.
#[repr(align(128))]
#[derive(Debug)]
pub(crate) struct Lane {
    /// First byte in the file.
    pub(crate) start: u64,
    /// Bytes; a multiple of [`RECORD_ALIGN`].
    pub(crate) len: u64,
    pub(crate) head: AtomicU64,
    pub(crate) tail: AtomicU64,
    pending: AtomicU64,
}

impl Lane {
    pub(crate) fn new(start: u64, len: u64, head: u64, tail: u64) -> Lane {
        Lane {
            start,
            len,
            head: AtomicU64::new(head),
            tail: AtomicU64::new(tail),
            pending: AtomicU64::new(IDLE),
        }
    }

    /// The one or two pieces of the file that hold `[at, at + len)`.
    #[inline]
    pub(crate) fn pieces(&self, at: u64, len: u64) -> [(u64, u64); 2] {
        ring_pieces(self.start, self.len, at, len)
    }

    /// Reads `[at, at + len)` of the ring.
    pub(crate) fn read(&self, medium: &dyn Medium, at: u64, len: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        let [first, second] = self.pieces(at, len);
        let (a, b) = bytes.split_at_mut(first.1 as usize);
        medium.read(first.0, a)?;
        if !b.is_empty() {
            medium.read(second.0, b)?;
        }
        Ok(bytes)
    }

    #[inline]
    fn free(&self, tail: u64) -> u64 {
        // Acquire: the checkpoint is done with what it gives back.
        self.len - (tail - self.head.load(Ordering::Acquire))
    }
}

/// The pieces of a ring of `ring` bytes at `start` that hold `[at, at + len)`.
#[inline]
pub(crate) fn ring_pieces(start: u64, ring: u64, at: u64, len: u64) -> [(u64, u64); 2] {
    // Lanes of their own have a power of two bytes: no division on their path.
    let from = if ring.is_power_of_two() {
        at & (ring - 1)
    } else {
        at % ring
    };
    let first = len.min(ring - from);
    [(start + from, first), (start, len - first)]
}

#[inline]
fn append_ring(medium: &dyn Medium, lane: &Lane, at: u64, bytes: &[u8]) -> Result<()> {
    let [first, second] = lane.pieces(at, bytes.len() as u64);
    let (a, b) = bytes.split_at(first.1 as usize);
    counts::log_bytes(bytes.len() as u64);
    if b.is_empty() {
        medium.append(&[(first.0, a)])
    } else {
        medium.append(&[(first.0, a), (second.0, b)])
    }
}

/// On lines of its own: every commit changes it, and what lies beside it is
/// only read.
#[repr(align(128))]
#[derive(Debug)]
struct Apart(AtomicU64);

/// The batch that gathers on a stream. Absolute offsets are of lane 0.
#[derive(Debug, Default)]
struct Batch {
    /// Sealed records, not yet handed to the medium.
    bytes: Vec<u8>,
    /// Where they will stand.
    start: u64,
    /// Number of the last of them.
    last: u64,
    /// Number and end of the last of them that settles something: of a replicated stream, the last with ranges.
    settles: Option<(u64, u64)>,
    /// How many they are.
    records: usize,
    /// How many the last written batch had.
    cohort: usize,
    /// Buffer of the last batch, to be used again.
    spare: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) style: LogStyle,
    pub(crate) epoch: u64,
    pub(crate) lanes: Box<[Lane]>,
    /// Where lane 0 ended when it was opened: its first record of this opening starts there.
    pub(crate) opened_at: u64,
    /// Longest record that fits an empty log.
    capacity: u64,
    /// The next number to be drawn.
    next: Apart,
    /// On a stream, the last durable number.
    durable: AtomicU64,
    /// On a stream, the number up to which the home may take it: that of the record which ends at `tail`.
    settled: AtomicU64,
    /// Who ships the stream to other machines, if anybody does.
    replication: Option<Arc<dyn Replication>>,
    /// Lowest start, in the stream, of what a replica has not taken home: its ring is as long as
    /// ours and lies at the same offsets.
    floor: AtomicU64,
    /// Lane 0 on a log of lanes: for records too long for their own lane and
    /// for writers without one.
    shared_lane: Mutex<()>,
    batch: Mutex<Batch>,
    /// `batch.records`, for the leader that waits for its cohort: it must not
    /// fight its members for the lock.
    joined: AtomicU64,
    /// Somebody leads: gathers a batch or writes it. Set under `batch`.
    leading: AtomicBool,
    /// A batch was written, or never will be.
    written: Turn,
    /// The first error, which made the region unusable.
    poison: OnceLock<Poison>,
    /// The log is searched for what recovery may have missed: nothing is appended or
    /// taken home before that is done.
    searching: AtomicBool,
    /// The search is done.
    found: Turn,
    /// Either of the two: who wants to go on has to look.
    barred: AtomicBool,
    /// Held where `barred` changes. Nothing is locked under it.
    barring: Mutex<()>,
    /// Where threads wait for space, and the checkpoint says that there is some.
    space: Mutex<()>,
    space_freed: Condvar,
}

/// What made a region unusable.
#[derive(Debug)]
enum Poison {
    /// An error of its medium.
    Failed(String),
    /// Another machine has taken over.
    Fenced { epoch: u64, current: u64 },
}

/// Why a record was not appended.
pub(crate) enum Refused {
    /// The lane has no room before the next checkpoint.
    NoSpace,
    Error(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused::Error(error)
    }
}

impl Log {
    pub(crate) fn new(style: LogStyle, epoch: u64, lanes: Vec<Lane>, next: u64) -> Log {
        let start = lanes[0].tail.load(Ordering::Relaxed);
        let longest = lanes.iter().map(|l| l.len).max().unwrap_or(0);
        Log {
            capacity: longest.min(MAX_RECORD),
            style,
            epoch,
            lanes: lanes.into(),
            opened_at: start,
            next: Apart(AtomicU64::new(next)),
            durable: AtomicU64::new(next - 1),
            settled: AtomicU64::new(next - 1),
            replication: None,
            floor: AtomicU64::new(u64::MAX),
            shared_lane: Mutex::new(()),
            batch: Mutex::new(Batch {
                start,
                last: next - 1,
                ..Batch::default()
            }),
            joined: AtomicU64::new(0),
            leading: AtomicBool::new(false),
            written: Turn::default(),
            poison: OnceLock::new(),
            searching: AtomicBool::new(false),
            found: Turn::default(),
            barred: AtomicBool::new(false),
            barring: Mutex::new(()),
            space: Mutex::new(()),
            space_freed: Condvar::new(),
        }
    }

    /// A stream that `replication` ships. What follows the number `committed`, whose record ends at offset `end`, is
    /// in the log, and not known to be on all replicas: it is not durable before
    /// [`settle`](Self::settle).
    pub(crate) fn replicated(
        mut self,
        replication: Option<Arc<dyn Replication>>,
        committed: u64,
        end: u64,
    ) -> Log {
        if replication.is_some() {
            self.capacity = self.lanes[0].len.min(self.capacity) - RESERVE;
        }
        self.replication = replication;
        self.durable = AtomicU64::new(committed);
        self.settled = AtomicU64::new(committed);
        self.lanes[0].tail = AtomicU64::new(end);
        self
    }

    /// Opens the epoch of a replicated stream, behind a record with checksum `before`: the first batch starts with it.
    pub(crate) fn open_epoch(&self, before: u32) -> Result<()> {
        let mut link = Record::link(before);
        let need = link.size();
        {
            // Whoever has the link has what is before it, which was not known to be everywhere.
            let mut batch = self.batch.lock();
            batch.settles = Some((batch.last, batch.start));
        }
        match self.append_to_stream(&mut link, need) {
            Ok(_) => Ok(()),
            Err(Refused::Error(error)) => Err(error),
            Err(Refused::NoSpace) => Err(self.too_long(need)),
        }
    }

    /// Everything up to number `seq`, whose record ends at offset `end`, is durable on every replica that has to
    /// have it. Only while nobody leads a batch below it.
    pub(crate) fn settle(&self, seq: u64, end: u64) {
        self.lanes[0].tail.fetch_max(end, Ordering::AcqRel);
        self.settled.fetch_max(seq, Ordering::AcqRel);
        self.durable.fetch_max(seq, Ordering::AcqRel);
        self.written.advance();
    }

    /// Where the next batch of the stream starts.
    pub(crate) fn batch_start(&self) -> u64 {
        self.batch.lock().start
    }

    /// Whether somebody ships the stream.
    pub(crate) fn replication(&self) -> Option<&Arc<dyn Replication>> {
        self.replication.as_ref()
    }

    /// Lowest start of what a replica still has in its ring. Whoever raises it has made room.
    pub(crate) fn set_floor(&self, floor: u64) {
        self.floor.store(floor, Ordering::Release);
        self.freed_space();
    }

    /// Bytes of records that the stream takes now.
    pub(crate) fn stream_free(&self) -> u64 {
        let lane = &self.lanes[0];
        let batch = self.batch.lock();
        let at = batch.start + batch.bytes.len() as u64;
        let head = lane.head.load(Ordering::Acquire);
        let head = head.min(self.floor.load(Ordering::Acquire));
        lane.len.saturating_sub(at - head + RESERVE)
    }

    /// Whether replicas, and not the local home, keep the stream's space.
    pub(crate) fn waits_for_replicas(&self) -> bool {
        self.floor.load(Ordering::Acquire) < self.lanes[0].head.load(Ordering::Acquire)
    }

    /// Slots of the gate that have a lane of their own.
    #[inline]
    pub(crate) fn own_lanes(&self) -> usize {
        match self.style {
            LogStyle::Lanes => self.lanes.len() - 1,
            LogStyle::Stream => 0,
        }
    }

    /// Longest record that fits an empty log.
    #[inline]
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// What to say of a record of `need` bytes that no log of this size takes.
    #[cold]
    pub(crate) fn too_long(&self, need: u64) -> Error {
        // On lanes, the longest of them is half of the log at least.
        let log_size = match self.style {
            LogStyle::Stream => need + (self.lanes[0].len - self.capacity),
            LogStyle::Lanes => 2 * need,
        };
        Error::LogFull {
            needed: need,
            capacity: self.capacity,
            log_size: (need <= MAX_RECORD).then(|| log_size.next_multiple_of(1 << 20)),
        }
    }

    /// Highest number drawn.
    pub(crate) fn last_seq(&self) -> u64 {
        self.next.0.load(Ordering::Acquire) - 1
    }

    /// Everything up to this number is durable.
    pub(crate) fn durable_seq(&self) -> u64 {
        match self.style {
            LogStyle::Stream => self.durable.load(Ordering::Acquire),
            LogStyle::Lanes => self.horizon(),
        }
    }

    /// Every record with this number or a lower one is durable and inside its
    /// lane's tail: the home may take it.
    pub(crate) fn horizon(&self) -> u64 {
        if self.style == LogStyle::Stream {
            return self.settled.load(Ordering::Acquire);
        }
        // Order matters, see the module's text.
        let next = self.next.0.load(Ordering::Acquire);
        if crate::mutant::is("ignore_pending") {
            return next - 1;
        }
        self.lanes
            .iter()
            .map(|l| l.pending.load(Ordering::Acquire))
            .fold(next, u64::min)
            - 1
    }

    /// Appends to the lane of gate slot `slot` (`None`: lane 0) or to the
    /// stream, and returns the record's number. On lanes it is durable then.
    #[inline]
    pub(crate) fn append(
        &self,
        medium: &dyn Medium,
        slot: Option<usize>,
        record: &mut Record,
    ) -> Result<u64, Refused> {
        let need = record.size();
        if need > self.capacity() {
            return Err(self.too_long(need).into());
        }
        if self.style == LogStyle::Stream {
            return self.append_to_stream(record, need);
        }
        match self.own_lane(slot, need) {
            Some(i) => self.append_to_lane(medium, i, record, need),
            None => {
                let _owner = self.shared_lane.lock();
                self.append_to_lane(medium, 0, record, need)
            }
        }
    }

    #[inline]
    fn append_to_lane(
        &self,
        medium: &dyn Medium,
        i: usize,
        record: &mut Record,
        need: u64,
    ) -> Result<u64, Refused> {
        self.check()?;
        let lane = &self.lanes[i];
        let tail = lane.tail.load(Ordering::Relaxed);
        if lane.free(tail) < need {
            return Err(Refused::NoSpace);
        }
        // Release: a `pending` of this commit also publishes the tail of the
        // one before.
        lane.pending
            .store(self.next.0.load(Ordering::Relaxed), Ordering::Release);
        let seq = self.next.0.fetch_add(1, Ordering::AcqRel);
        let bytes = record.seal(self.epoch, seq, tail, tail);
        if let Err(error) = append_ring(medium, lane, tail, bytes) {
            return Err(self.poison(error).into());
        }
        lane.tail.store(tail + need, Ordering::Release);
        lane.pending.store(IDLE, Ordering::Release);
        Ok(seq)
    }

    fn append_to_stream(&self, record: &mut Record, need: u64) -> Result<u64, Refused> {
        let lane = &self.lanes[0];
        let mut batch = self.batch.lock();
        self.check()?;
        let at = batch.start + batch.bytes.len() as u64;
        let head = lane.head.load(Ordering::Acquire);
        let head = head.min(self.floor.load(Ordering::Acquire));
        let reserve = match self.replication {
            Some(_) if !record.is_empty() => RESERVE,
            _ => 0,
        };
        if lane.len.saturating_sub(at - head) < need + reserve {
            return Err(Refused::NoSpace);
        }
        let seq = self.next.0.fetch_add(1, Ordering::AcqRel);
        let durable_upto = lane.tail.load(Ordering::Relaxed);
        batch
            .bytes
            .extend_from_slice(record.seal(self.epoch, seq, at, durable_upto));
        debug_assert!(batch.bytes.len().is_multiple_of(RECORD_ALIGN as usize));
        batch.last = seq;
        if self.replication.is_none() || !record.is_empty() {
            batch.settles = Some((seq, at + need));
        }
        batch.records += 1;
        self.joined.store(batch.records as u64, Ordering::Relaxed);
        Ok(seq)
    }

    /// Whether so much is unawaited that the next committer should write it.
    pub(crate) fn batch_is_long(&self) -> bool {
        self.style == LogStyle::Stream && self.batch.lock().bytes.len() >= BATCH_LIMIT
    }

    /// Whether records wait for a leader.
    pub(crate) fn has_unwritten(&self) -> bool {
        self.style == LogStyle::Stream && self.durable.load(Ordering::Acquire) < self.last_seq()
    }

    /// Waits until number `seq` is durable, leading a batch if nobody does.
    pub(crate) fn wait_durable(&self, medium: &dyn Medium, seq: u64) -> Result<()> {
        // On lanes nobody learns a number before its record is durable.
        if self.style == LogStyle::Lanes
            || self.durable.load(Ordering::Acquire) >= seq
            || crate::mutant::is("answer_early")
        {
            return Ok(());
        }
        loop {
            // Before all that an event can change.
            let seen = self.written.now();
            if self.durable.load(Ordering::Acquire) >= seq {
                return Ok(());
            }
            self.check()?;
            if self.leading.load(Ordering::Acquire) {
                self.written.wait(seen);
                continue;
            }
            let mut batch = self.batch.lock();
            if self.leading.load(Ordering::Relaxed) {
                continue;
            }
            if batch.records == 0 {
                if self.replication.is_some() && seq <= self.last_seq() {
                    // Durable by now, or recovered and not settled.
                    drop(batch);
                    if self.durable.load(Ordering::Acquire) < seq {
                        self.written.wait(seen);
                    }
                    continue;
                }
                // It is durable by now, or nothing of that number was ever
                // appended.
                return self.check();
            }
            self.leading.store(true, Ordering::Relaxed);
            if batch.records < batch.cohort {
                let cohort = batch.cohort as u64;
                drop(batch);
                self.await_cohort(cohort);
                batch = self.batch.lock();
            }
            let sealed = self.seal_batch(medium, batch);
            match &self.replication {
                None => {
                    let written = sealed.write_local();
                    sealed.finish(written)?;
                }
                Some(replication) => replication.lead(sealed)?,
            }
        }
    }

    /// Takes the batch that has gathered, if there is one and nobody leads: the caller leads, and has to finish it.
    pub(crate) fn try_lead<'l>(&'l self, medium: &'l dyn Medium) -> Option<Sealed<'l>> {
        let batch = self.batch.lock();
        if self.leading.load(Ordering::Acquire) || batch.records == 0 || self.check().is_err() {
            return None;
        }
        self.leading.store(true, Ordering::Relaxed);
        Some(self.seal_batch(medium, batch))
    }

    /// Takes what has gathered. The caller leads.
    fn seal_batch<'l>(
        &'l self,
        medium: &'l dyn Medium,
        mut batch: MutexGuard<'_, Batch>,
    ) -> Sealed<'l> {
        let spare = std::mem::take(&mut batch.spare);
        let bytes = std::mem::replace(&mut batch.bytes, spare);
        let (start, last, settles) = (batch.start, batch.last, batch.settles.take());
        batch.start += bytes.len() as u64;
        batch.cohort = std::mem::take(&mut batch.records);
        self.joined.store(0, Ordering::Relaxed);
        Sealed {
            log: self,
            medium,
            bytes: Arc::new(bytes),
            start,
            last,
            settles,
            finished: false,
        }
    }

    /// Gives the members of the last batch, `cohort` of them, a moment to join
    /// this one.
    fn await_cohort(&self, cohort: u64) {
        if cfg!(loom) {
            return;
        }
        let start = Instant::now();
        while self.joined.load(Ordering::Relaxed) < cohort && start.elapsed() < COHORT_WAIT {
            thread::yield_now();
        }
    }

    /// Makes the region unusable because of `error`, and returns what to say
    /// to whoever met it.
    pub(crate) fn poison(&self, error: Error) -> Error {
        let poison = match error {
            Error::Fenced { epoch, current } => Poison::Fenced { epoch, current },
            ref other => Poison::Failed(other.to_string()),
        };
        self.spoil(poison);
        error
    }

    /// The same, where it is no error of the medium.
    pub(crate) fn poison_because(&self, cause: String) {
        self.spoil(Poison::Failed(cause));
    }

    fn spoil(&self, poison: Poison) {
        let one = self.barring.lock();
        let _ = self.poison.set(poison);
        self.barred.store(true, Ordering::Release);
        drop(one);
        self.space_freed.notify_all();
        self.written.advance();
    }

    /// Nothing goes on before [`searched`](Self::searched). Before anybody else has the log.
    pub(crate) fn wait_for_search(&self) {
        self.searching.store(true, Ordering::Relaxed);
        self.barred.store(true, Ordering::Release);
    }

    /// The search is done; if it has found damage, the log is poisoned.
    pub(crate) fn searched(&self) {
        if !self.searching.load(Ordering::Relaxed) {
            return;
        }
        let one = self.barring.lock();
        self.searching.store(false, Ordering::Release);
        if self.poison.get().is_none() {
            self.barred.store(false, Ordering::Release);
        }
        drop(one);
        self.found.advance();
    }

    /// `Poisoned` (without its path) or `Fenced` if the region is. Waits while the log is
    /// searched.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        if self.barred.load(Ordering::Acquire) {
            return self.look();
        }
        Ok(())
    }

    #[cold]
    fn look(&self) -> Result<()> {
        loop {
            let seen = self.found.now();
            let searching = self.searching.load(Ordering::Acquire);
            if self.poison.get().is_some() {
                return Err(self.why_poisoned());
            }
            if !searching || crate::mutant::is("append_unsearched") {
                return Ok(());
            }
            self.found.wait(seen);
        }
    }

    #[cold]
    fn why_poisoned(&self) -> Error {
        let cause = match self.poison.get() {
            Some(&Poison::Fenced { epoch, current }) => return Error::Fenced { epoch, current },
            Some(Poison::Failed(cause)) => cause.clone(),
            None => String::new(),
        };
        Error::Poisoned {
            path: Default::default(),
            cause,
        }
    }

    /// Bytes of all lanes up to their tails, from the first that was ever appended on.
    pub(crate) fn appended(&self) -> u64 {
        let tails = self.lanes.iter().map(|l| l.tail.load(Ordering::Relaxed));
        tails.sum()
    }

    /// Bytes of the shortest lane.
    pub(crate) fn shortest(&self) -> u64 {
        self.lanes.iter().map(|l| l.len).min().unwrap_or(0)
    }

    /// How full the fullest lane is, in 256ths.
    pub(crate) fn fill(&self) -> u64 {
        let used = |l: &Lane| {
            (l.tail.load(Ordering::Relaxed) - l.head.load(Ordering::Relaxed)) * 256 / l.len
        };
        self.lanes.iter().map(used).max().unwrap_or(0)
    }

    /// Bytes used of the lane to which a record of `need` bytes went from gate slot `slot`,
    /// and a quarter of all that it has.
    #[inline]
    pub(crate) fn used(&self, slot: Option<usize>, need: u64) -> (u64, u64) {
        let lane = &self.lanes[self.own_lane(slot, need).unwrap_or(0)];
        let used = lane.tail.load(Ordering::Relaxed) - lane.head.load(Ordering::Relaxed);
        // On a stream the record is not behind the tail yet.
        let more = match self.style {
            LogStyle::Stream => need,
            LogStyle::Lanes => 0,
        };
        (used + more, lane.len / 4)
    }

    /// The lane of gate slot `slot`, if it has one that takes `need` bytes. Else it is lane 0.
    #[inline]
    fn own_lane(&self, slot: Option<usize>, need: u64) -> Option<usize> {
        slot.map(|s| s + 1)
            .filter(|&s| s < self.lanes.len() && need <= self.lanes[s].len)
    }

    /// Waits, a while, for a checkpoint to free space.
    pub(crate) fn wait_space(&self, limit: Duration) {
        let guard = self.space.lock();
        drop(self.space_freed.wait_timeout(guard, limit));
    }

    /// Says that heads moved.
    pub(crate) fn freed_space(&self) {
        drop(self.space.lock());
        self.space_freed.notify_all();
    }
}

//! A region: home, view, log and checkpoint behind one handle.
//!
//! Lifetime: [`Options::open`](crate::Options::open) recovers and starts the
//! background thread; [`Writer`]s append records; the background thread
//! checkpoints (when, `shared` says); [`Region::close`], or dropping
//! the last handle, waits for the writers, checkpoints, and marks the region
//! clean.
//!
//! Lock order: header (a whole checkpoint) → batch → nothing. The gate's lock
//! is taken with none of them held.

use crate::error::{Error, Result};
use crate::frozen::Frozen;
use crate::header;
use crate::layout::{FLAG_CLEAN, HOME_STEP, Header};
use crate::medium::mapped::Unnamed;
use crate::medium::{LogStyle, MediumKind, ViewSource};
use crate::shared::{Durability, Opened, Shared};
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Mutex};
use crate::writer::Writer;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::time::Duration;

/// Home grows in steps of this fraction of it (so much may stand there for
/// nothing), but of no more bytes than `MAX_GROWTH`.
const GROWTH: u64 = 64;
/// See [`GROWTH`].
const MAX_GROWTH: u64 = 256 << 20;

/// Closes the region when the last handle goes.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) worker: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// The new file of a region that has no name yet. Dropped behind the last write to it.
    pub(crate) unnamed: Mutex<Option<Unnamed>>,
}

impl Owner {
    fn close(&self, last: impl FnOnce(&mut Writer<'_>) -> Result<()>) -> Result<()> {
        let shared = &self.shared;
        shared.check_own()?;
        let first = shared.gate.close();
        shared.control.lock().stop = true;
        shared.wake.notify_all();
        if let Some(worker) = self.worker.lock().take() {
            // A panic of the worker would already have been printed.
            let _ = worker.join();
        }
        if !first || shared.read_only {
            return Ok(());
        }
        let settle = || {
            let log = &shared.log;
            shared.named(log.wait_durable(&*shared.medium, log.last_seq()))?;
            shared.named(shared.home.checkpoint(&*shared.medium, log, false))
        };
        // First of all, so that the last writer finds the log empty and all
        // that is free fresh.
        settle()?;
        let mut writer = Writer {
            shared,
            place: shared.gate.admit_last(),
            fresh: Vec::new(),
            not_send: PhantomData,
        };
        last(&mut writer)?;
        drop(writer);
        settle()?;
        let mut header = shared.home.header.lock();
        header.flags |= FLAG_CLEAN;
        header::write(&*shared.medium, &mut header)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Who wants to know calls `close`; what was acknowledged is safe.
        let _ = self.close(|_| Ok(()));
    }
}

/// An open region. Cheap to clone; the last clone to go closes it.
#[derive(Clone)]
pub struct Region {
    pub(crate) shared: Arc<Shared>,
    pub(crate) owner: Arc<Owner>,
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("path", &self.shared.path)
            .field("kind", &self.shared.kind)
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

impl Region {
    /// What opening found.
    pub fn opened(&self) -> &Opened {
        &self.shared.opened
    }

    /// The region's file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Gives the file of a region that [`Options::open_unnamed`](crate::Options::open_unnamed) has created its name,
    /// durably. `Ok(false)` if there is another file by that name by now: this one is gone when the last handle is
    /// dropped. A region that was there has its name.
    ///
    /// # Errors
    ///
    /// `Io`. The file is gone, unless it has its name, which may not be durable.
    pub fn give_name(&self) -> Result<bool> {
        match self.owner.unnamed.lock().take() {
            Some(unnamed) => unnamed.publish(),
            None => Ok(true),
        }
    }

    /// Whether its [path](Self::path) leads to the file that is open: it does not where that was renamed or replaced, or where the
    /// path is relative and the process has gone to another folder.
    pub fn is_at_its_path(&self) -> bool {
        let ViewSource::Map(file) = self.shared.medium.view() else {
            return true;
        };
        let place = |of: std::fs::Metadata| (of.dev(), of.ino());
        let there = std::fs::metadata(self.path()).map(place);
        there.is_ok_and(|there| file.metadata().map(place).is_ok_and(|own| own == there))
    }

    /// Whether it is open for reading only.
    pub fn is_read_only(&self) -> bool {
        self.shared.read_only
    }

    /// What it lies on.
    pub fn kind(&self) -> MediumKind {
        self.shared.kind
    }

    /// How its log is written.
    pub fn log_style(&self) -> LogStyle {
        self.shared.log.style
    }

    /// When commits are answered, as [`Options::durability`](crate::Options::durability) said.
    pub fn durability(&self) -> Durability {
        self.shared.durability
    }

    #[inline]
    fn own(&self) -> Result<&Shared> {
        self.shared.check_own()?;
        Ok(&self.shared)
    }

    /// Whether this is a child of `fork`, which has no part in its parent's region: nothing of the view can be
    /// touched here, and what writes is refused.
    #[inline]
    pub fn is_forked(&self) -> bool {
        self.shared.check_own().is_err()
    }

    /// Where home offset 0 is mapped: the home address. The view, for reading
    /// and, inside of a [`Writer`]'s life, for writing.
    #[inline]
    pub fn base(&self) -> *mut u8 {
        self.shared.view.base()
    }

    /// Bytes of home reserved: home offsets lie below.
    #[inline]
    pub fn max_size(&self) -> u64 {
        self.shared.max_size
    }

    /// Whether `address` lies in the view.
    #[inline]
    pub fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.base().addr()) < self.max_size() as usize
    }

    /// Allocates home space up to home offset `end` and makes it readable, as
    /// zeroes, in the view. Idempotent; 2 MiB are there after creation.
    ///
    /// Cost: nothing where the space is there; else `fallocate`, a synchronous
    /// write of 8 bytes (on persistent memory of all of it), and a mapping.
    ///
    /// # Errors
    ///
    /// `OutOfSpace` beyond the maximum size; `Io`, as when the disk is full.
    /// Nothing has changed then, and the region stays usable.
    pub fn extend(&self, end: u64) -> Result<()> {
        let shared = self.own()?;
        if end <= self.size() {
            return Ok(());
        }
        let _one = shared.growing.lock();
        let size = self.size();
        if end <= size {
            return Ok(());
        }
        if end > shared.max_size {
            return Err(Error::OutOfSpace {
                requested: end - size,
                available: shared.max_size - size,
                max_size: shared.max_size,
            });
        }
        let least = end.next_multiple_of(HOME_STEP).min(shared.max_size);
        let step = (size / GROWTH).min(MAX_GROWTH).next_multiple_of(HOME_STEP);
        let roomy = least.max((size + step).min(shared.max_size));
        let home = shared.home.offset;
        let grown = match shared.medium.grow(home + roomy) {
            Ok(()) => roomy,
            Err(_) if roomy > least => {
                shared.medium.grow(home + least)?;
                least
            }
            Err(error) => return Err(error),
        };
        shared.view.make_fresh(&*shared.medium, size..grown)?;
        shared.home.size.store(grown, Ordering::Release);
        Ok(())
    }

    /// Bytes of home that have their space in the file.
    pub fn size(&self) -> u64 {
        self.shared.home.size.load(Ordering::Acquire)
    }

    /// The parts of a range of the home that may hold anything but zeroes, rising, as far as that is known without reading
    /// them: in shared memory, pages that were never written are told. Where commits have not gone home it is
    /// all of the range.
    ///
    /// Cost: two system calls for each part, and little for each page.
    pub fn written(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let home = self.shared.home.offset;
        if self.applied_seq() < self.last_seq() {
            return vec![range];
        }
        let written = self
            .shared
            .medium
            .written(home + range.start..home + range.end);
        let within = |part: Range<u64>| part.start - home..part.end - home;
        written.into_iter().map(within).collect()
    }

    /// Bytes of the file: headers, log and home.
    pub fn file_size(&self) -> u64 {
        self.shared.medium.len()
    }

    /// Highest sequence number drawn so far.
    pub fn last_seq(&self) -> u64 {
        self.shared.log.last_seq()
    }

    /// Everything up to this number is in the home, durably.
    pub fn checkpoint_seq(&self) -> u64 {
        self.shared.home.checkpoint.load(Ordering::Acquire)
    }

    /// Everything up to this number is durable.
    pub fn durable_seq(&self) -> u64 {
        self.shared.log.durable_seq()
    }

    /// Largest record that [`Writer::append`] takes, in bytes.
    pub fn log_capacity(&self) -> u64 {
        self.shared.log.capacity()
    }

    /// Starts writing: passes the gate, takes a lane. A transaction holds one
    /// from before its first store into the view until after its commit, or
    /// until the old bytes are back.
    ///
    /// # Errors
    ///
    /// `Closed`, `Poisoned`, `Forked`.
    #[inline]
    pub fn writer(&self) -> Result<Writer<'_>> {
        let shared = self.own()?;
        shared.named(shared.log.check())?;
        if shared.read_only {
            return Err(Error::ReadOnly {
                path: shared.path.clone(),
            });
        }
        let place = shared.gate.enter(slot_hint()).map_err(|_| Error::Closed)?;
        Ok(Writer {
            shared,
            place,
            fresh: Vec::new(),
            not_send: PhantomData,
        })
    }

    /// Waits until everything up to `seq` is durable: at most one barrier of
    /// its own, none if somebody else's covers it.
    ///
    /// # Errors
    ///
    /// `Poisoned` if it never will be; `Io` for the waiter that met the error.
    #[inline]
    pub fn wait_durable(&self, seq: u64) -> Result<()> {
        let shared = self.own()?;
        shared.named(shared.log.wait_durable(&*shared.medium, seq))
    }

    /// Waits for everything that was committed, `Eventual` included.
    ///
    /// # Errors
    ///
    /// As [`wait_durable`](Self::wait_durable).
    pub fn sync(&self) -> Result<()> {
        self.wait_durable(self.last_seq())
    }

    /// Copies all durable records to the home and truncates the log: two barriers.
    /// On a file it takes its time, so that commits beside it do not wait long.
    ///
    /// # Errors
    ///
    /// `Poisoned`, or the I/O error that has now poisoned the region.
    pub fn checkpoint(&self) -> Result<()> {
        let shared = self.own()?;
        let done = shared.named(shared.home.checkpoint(&*shared.medium, &shared.log, true));
        if shared.view_is_over_limit() {
            shared.kick();
        }
        done
    }

    /// Gives the view's private pages back, as far as no writer stands in the
    /// way: `Ok(false)` if one did, or if the view is no mapping of the home, as
    /// on a device of persistent memory. The background thread does this by itself
    /// beyond [`Options::view_limit`](crate::Options::view_limit).
    ///
    /// # Errors
    ///
    /// As [`checkpoint`](Self::checkpoint).
    pub fn trim(&self) -> Result<bool> {
        self.own()?;
        self.shared.named(self.shared.trim())
    }

    /// Runs `f` while no writer is inside: nobody changes the view. Those that
    /// come meanwhile wait. `None`, without a call, if writers stayed inside
    /// for longer than `patience`, or the region is closed. `f` must not ask
    /// for a writer, nor wait for anybody who does.
    pub fn quiesce<R>(&self, patience: Duration, f: impl FnOnce() -> R) -> Option<R> {
        let caught = || panic::catch_unwind(AssertUnwindSafe(f));
        let outcome = self.shared.gate.shut_for(patience, caught)?;
        // The gate is open again.
        Some(outcome.unwrap_or_else(|cause| panic::resume_unwind(cause)))
    }

    /// A picture of the home as it is now, which later checkpoints do not
    /// change: everything up to some number, at least `checkpoint_seq()`.
    ///
    /// # Errors
    ///
    /// `Io` if it cannot be mapped.
    pub fn freeze(&self) -> Result<std::sync::Arc<Frozen>> {
        let shared = self.own()?;
        self.freeze_under(&shared.home.header.lock())
    }

    /// [`freeze`](Self::freeze) for who holds the header's lock.
    pub(crate) fn freeze_under(&self, _header: &Header) -> Result<std::sync::Arc<Frozen>> {
        let shared = &*self.shared;
        let (offset, size) = (shared.home.offset, self.size());
        let frozen = match shared.medium.view() {
            ViewSource::Map(file) => Frozen::map(file, &shared.path, offset, size)?,
            ViewSource::Copy | ViewSource::Memory { .. } => {
                Frozen::copy(&*shared.medium, offset, size)?
            }
        };
        let frozen = std::sync::Arc::new(frozen);
        shared.home.frozen.add(&frozen);
        Ok(frozen)
    }

    /// Whether a picture is a private mapping, which costs the same whatever the
    /// home's size; else it is a copy, as on a device of persistent memory.
    pub fn freezes_by_mapping(&self) -> bool {
        matches!(self.shared.medium.view(), ViewSource::Map(_))
    }

    /// Everything up to this number is in the home, though perhaps not durably: a
    /// picture that is taken now shows it. At least `checkpoint_seq()`.
    pub fn applied_seq(&self) -> u64 {
        self.shared.home.applied.load(Ordering::Acquire)
    }

    /// Makes the region unusable, as an I/O error does: what is stored cannot be
    /// true, as `cause` says. Commits and writers from now on get `Poisoned`.
    pub fn poison(&self, cause: String) {
        self.shared.log.poison_because(cause);
    }

    /// Waits for the writers inside, checkpoints, and marks the region clean.
    /// Later writers get `Closed`; the view stays readable until the last
    /// handle is dropped, and so does the file's lock. Dropping the last
    /// handle closes too, and ignores errors.
    ///
    /// # Errors
    ///
    /// What the last write-back met; the region then recovers at the next open.
    pub fn close(&self) -> Result<()> {
        self.close_with(|_| Ok(()))
    }

    /// [`close`](Self::close), with a last word: `last` runs after all other
    /// writers have left for good, everything committed is in the home, and
    /// the log is empty. It does not run if the region was closed already.
    ///
    /// # Errors
    ///
    /// As [`close`](Self::close), and those of `last`.
    pub fn close_with(&self, last: impl FnOnce(&mut Writer<'_>) -> Result<()>) -> Result<()> {
        self.shared.named(self.owner.close(last))
    }
}

/// The calling thread's preferred slot: threads are spread over them.
#[inline]
fn slot_hint() -> usize {
    use std::cell::Cell;
    use std::sync::atomic::AtomicUsize;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static HINT: Cell<usize> = const { Cell::new(usize::MAX) });
    let hint = HINT.get();
    if hint != usize::MAX {
        return hint;
    }
    let hint = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 1024;
    HINT.set(hint);
    hint
}

const _: fn() = || {
    fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<Region>();
};

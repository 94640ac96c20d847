//! [`Heap`]: typed data in a region. How it is opened is in `options`.

mod migrate;
mod options;
mod with_durability;

pub use options::Options;
pub use with_durability::WithDurability;

use crate::error::{Error, Result};
use crate::leased;
use crate::lock::{Lock, PMutex, PRwLock, ReadGuard};
use crate::mutref::Mut;
use crate::persist::Persist;
use crate::run::Core;
use crate::thread;
use crate::transaction::Tx;
use bartender_pm::{Durability, Region};
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

pub use bartender_heap::{
    ByUse, CheckReport, ClassStats, MarkProgress, MarkReport, Marking, Stats,
};

/// A root value of type `R`, and everything it owns, in a region.
///
/// It is shared: threads use one `Heap` by reference (in an `Arc`, or with scoped threads). What changes lies behind
/// a [`PMutex`] or a [`PRwLock`].
///
/// ```no_run
/// # use bartender::{Heap, PMutex, Error};
/// # fn main() -> Result<(), Error> {
/// let heap = Heap::<PMutex<u64>>::options().open("counter.region")?;
/// heap.update(|mut n| {
///     *n += 1;
///     Ok(())
/// })?;
/// println!("{}", *heap.read());
/// # Ok(())
/// # }
/// ```
pub struct Heap<R: Persist> {
    core: Core,
    /// The root's block.
    root: NonNull<R>,
    report: Report,
    closed: bool,
    /// How it was opened, if that was by its path.
    opened: Option<Box<Options<R>>>,
    owns: PhantomData<R>,
}

// SAFETY: the root is shared data (`R: Send + Sync`); the core synchronises itself.
unsafe impl<R: Persist> Send for Heap<R> {}
// SAFETY: as above.
unsafe impl<R: Persist> Sync for Heap<R> {}

/// What opening a heap found and did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The root was created by this opening.
    pub created: bool,
    /// The region had an earlier type of root: this opening has converted the data, or taken over new names.
    pub migrated: bool,
    /// What the region found: whether it was closed cleanly, what was replayed from its log.
    pub region: bartender_pm::Opened,
    /// What the heap found: whether it had to mark, and what is live.
    pub heap: bartender_heap::OpenReport,
}

impl<R: Persist> Heap<R> {
    /// How to open or create one: `Heap::<Root>::options().max_size(1 << 40).open(path)`.
    pub fn options() -> Options<R> {
        Options::new()
    }

    /// The root. Shared: what changes in it is behind locks.
    #[inline]
    pub fn root(&self) -> &R {
        // SAFETY: the root's block is there as long as the region is open, which this handle keeps; it is changed
        // behind locks only.
        unsafe { self.root.as_ref() }
    }

    /// Runs `f` as one transaction: what it changed becomes durable when it returns `Ok`, and is taken back when it
    /// returns `Err` or panics. When it conflicts with another transaction it is called again, for up to ten seconds.
    ///
    /// A call inside of another transaction of this thread over the same heap joins that one: its changes are durable
    /// with it, and if this one fails, the whole cannot commit.
    ///
    /// Cost: one barrier, shared with others' on a file; none if nothing was changed.
    ///
    /// # Errors
    ///
    /// What `f` returned; [`Error::Conflict`] when trying again did not help; [`Error::Doomed`] when `f` returned `Ok`
    /// after a failure inside with which it [can only abort](Mut#when-something-does-not-fit); the region's errors. Nothing was changed then, with one exception: when the medium fails
    /// during the commit itself, the region is poisoned and whether the transaction survives is known after reopening.
    pub fn transaction<A>(&self, f: impl FnMut(&mut Tx<'_>) -> Result<A>) -> Result<A> {
        self.try_transaction(f)
    }

    /// [`transaction`](Self::transaction) for closures with errors of their own.
    ///
    /// # Errors
    ///
    /// As [`transaction`](Self::transaction).
    pub fn try_transaction<A, E: From<Error>>(
        &self,
        f: impl FnMut(&mut Tx<'_>) -> Result<A, E>,
    ) -> Result<A, E> {
        self.with_durability(self.core.durability)
            .try_transaction(f)
    }

    /// Transactions whose commits are answered as `durability` says, whatever the heap was
    /// [opened](Options::durability) with.
    ///
    /// ```
    /// # use bartender::{Durability, Heap, PMutex, Error};
    /// # fn main() -> Result<(), Error> {
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let path = folder.path().join("r");
    /// let heap = Heap::<PMutex<u64>>::options().max_size(1 << 30).open(path)?;
    /// let hurried = heap.with_durability(Durability::Eventual);
    /// for _ in 0..1000 {
    ///     hurried.update(|mut hits| {
    ///         *hits += 1;
    ///         Ok(())
    ///     })?; // waits for no barrier
    /// }
    /// heap.sync()?; // from here on all thousand survive
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_durability(&self, durability: Durability) -> WithDurability<'_, R> {
        WithDurability::new(self, durability)
    }

    /// Waits until everything that was committed is durable. Only [`Durability::Eventual`] leaves anything to wait
    /// for: one barrier for all of it, none if another commit's came behind it.
    ///
    /// # Errors
    ///
    /// The region's.
    pub fn sync(&self) -> Result<()> {
        self.core.settle()
    }

    /// Copies everything committed to its home and truncates the log: reopening is faster afterwards.
    ///
    /// # Errors
    ///
    /// The region's.
    pub fn checkpoint(&self) -> Result<()> {
        Ok(self.core.region.checkpoint()?)
    }

    /// Follows every pointer from the root, checks every value on the way, and that exactly what was reached is
    /// allocated. Transactions that begin meanwhile wait. It begins when marking in the background is through.
    ///
    /// # Errors
    ///
    /// What does not fit, with its path from the root; [`Error::Busy`] if a transaction, or a reader of an old version
    /// ([`PRcu`](crate::PRcu)), goes on for longer than ten seconds, or is this thread's own.
    pub fn check(&self) -> Result<CheckReport> {
        const PATIENCE: Duration = Duration::from_secs(10);
        if thread::with(|thread| thread.active().is_some()) {
            return Err(Error::Busy);
        }
        self.core.heap.wait_marked()?;
        // Frees that are committed and not durable yet would look like leaks. Most of the waiting is done before
        // transactions have to.
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            self.core.end_shared();
            self.core.settle()?;
            let check = || match self.core.settle_within(PATIENCE)? {
                // One more shared value has ended meanwhile, or somebody reads an old version.
                true if self.core.any_ended() || self.core.any_retired() => Ok(None),
                true => Ok(Some(self.core.heap.check()?)),
                false => Err(Error::Busy),
            };
            let report = self.core.region.quiesce(PATIENCE, check);
            if let Some(report) = report.unwrap_or(Err(Error::Busy))? {
                return Ok(report);
            }
        }
        Err(Error::Busy)
    }

    /// Copies the heap to a new region at `path`, while transactions go on: everything that was committed before the
    /// call is in it, and no half of a transaction. It opens like any other, also beside this one.
    ///
    /// On a disk whose file system shares blocks between files (`reflink`: btrfs, XFS) it takes milliseconds and no
    /// space. Elsewhere it takes the time to write what is not free, and the space; changes meanwhile cost the copies of
    /// their pages in memory.
    ///
    /// # Errors
    ///
    /// There is a file at `path` already, which is left alone; those of either region's medium. There is no file at
    /// `path` before all of it is durable.
    pub fn snapshot(&self, path: impl AsRef<Path>) -> Result<()> {
        Ok(self.core.heap.snapshot(path)?)
    }

    /// Waits until what a crash had left is marked in the background (see [`Options::marking`]). Where nothing had to be,
    /// or it was done before opening returned, it says at once what was found then.
    ///
    /// # Errors
    ///
    /// What is damaged, with its path from the root: nothing can be committed any more, and what the heap shows there
    /// is not to be trusted.
    pub fn wait_marked(&self) -> Result<MarkReport> {
        Ok(self.core.heap.wait_marked()?)
    }

    /// How far marking in the background has come.
    pub fn marking(&self) -> MarkProgress {
        self.core.heap.marking()
    }

    /// For tests that hold marking back.
    #[doc(hidden)]
    pub fn release_marking(&self) {
        self.core.heap.release_marking();
    }

    /// Gives the space of what is free back to the system: the file gets holes, and the memory of the view goes. Returns
    /// how many bytes. The heap does so by itself, in small parts, where much stays free for long.
    ///
    /// Nothing goes on a device of persistent memory, nor on a file system without holes. What was given back costs a
    /// system call, and on a disk a barrier, when it is used again, 2 MiB or more at a time.
    ///
    /// # Errors
    ///
    /// The region's. Nothing stored is touched.
    pub fn purge(&self) -> Result<u64> {
        Ok(self.core.heap.purge()?)
    }

    /// Writes the heap anew, without what is free in it, and opens it again: for when much was deleted, here and there, so
    /// that [`purge`](Self::purge) finds no space in one piece. The file is as long as its data need then.
    ///
    /// It takes the heap, because everything moves: whoever shares it has to give it up first
    /// ([`Arc::into_inner`](std::sync::Arc::into_inner)). The region gets another home address; the size of its log
    /// and its maximum size stay.
    ///
    /// Cost: a check, a write of all data, and the space for a second file until the first one is replaced. A crash leaves
    /// the one or the other, whole.
    ///
    /// # Errors
    ///
    /// The disk is full, and others of the medium; the heap was not opened by its path as a file of its own, or that path leads
    /// somewhere else by now. The heap is closed then, and the region as it was.
    pub fn compact(mut self) -> Result<Self> {
        let unfit = || bartender_pm::Error::BadOption {
            option: "compact",
            what: "only heaps that were opened for writing by the path of a file are compacted"
                .into(),
        };
        let options = self.opened.take().ok_or_else(unfit)?;
        let path = self.core.region.path().to_owned();
        if !self.core.region.is_at_its_path() {
            return Err(bartender_pm::Error::BadOption {
                option: "compact",
                what: format!(
                    "the path {} leads to another file than the one that is open, or to none: was it renamed or replaced, \
                     or is the path relative, and the process in another folder?",
                    path.display()
                ),
            }
            .into());
        }
        self.close()?;
        options.compact(&path)
    }

    /// Live blocks and bytes, superblocks by class and by use, overhead.
    pub fn stats(&self) -> Stats {
        self.core.heap.stats()
    }

    /// What opening found and did.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The region under the heap.
    #[doc(hidden)]
    pub fn region(&self) -> &Region {
        &self.core.region
    }

    /// Closes the heap: the next opening has nothing to recover. Dropping does the same and ignores errors.
    ///
    /// # Errors
    ///
    /// The region's; the next opening recovers then.
    pub fn close(mut self) -> Result<()> {
        self.close_once()
    }

    fn close_once(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        let base = self.core.region.base().addr();
        let end = base + self.core.region.max_size() as usize;
        leased::remove(&self.core.region);
        self.core.end_shared();
        let settled = self.core.settle();
        self.core.end_retired();
        let closed = self.core.heap.close();
        thread::table().purge(base, end);
        settled?;
        Ok(closed?)
    }
}

impl<L: Lock> Heap<L> {
    /// Runs `f` as one transaction on what is inside of the root's lock. It is called once, so it can take captured
    /// values: see [`transaction`](Heap::transaction) for the rest.
    ///
    /// # Errors
    ///
    /// As [`transaction`](Heap::transaction); [`Error::Conflict`] can only come from locks further inside.
    #[inline]
    pub fn update<A>(&self, f: impl FnOnce(Mut<'_, L::Target>) -> Result<A>) -> Result<A> {
        self.try_update(f)
    }

    /// [`update`](Self::update) for closures with errors of their own.
    ///
    /// # Errors
    ///
    /// As [`update`](Self::update).
    #[inline]
    pub fn try_update<A, E: From<Error>>(
        &self,
        f: impl FnOnce(Mut<'_, L::Target>) -> Result<A, E>,
    ) -> Result<A, E> {
        self.with_durability(self.core.durability).try_update(f)
    }
}

impl<T: Persist> Heap<PMutex<T>> {
    /// Reads what is inside of the root's lock: see [`PMutex::read`].
    ///
    /// # Panics
    ///
    /// As [`PMutex::read`].
    #[track_caller]
    pub fn read(&self) -> ReadGuard<'_, T> {
        self.root().read()
    }

    /// [`read`](Self::read) with errors instead of panics.
    ///
    /// # Errors
    ///
    /// As [`PMutex::try_read`].
    pub fn try_read(&self) -> Result<ReadGuard<'_, T>> {
        self.root().try_read()
    }
}

impl<T: Persist> Heap<PRwLock<T>> {
    /// Reads what is inside of the root's lock: see [`PRwLock::read`].
    ///
    /// # Panics
    ///
    /// As [`PRwLock::read`].
    #[track_caller]
    pub fn read(&self) -> ReadGuard<'_, T> {
        self.root().read()
    }

    /// [`read`](Self::read) with errors instead of panics.
    ///
    /// # Errors
    ///
    /// As [`PRwLock::try_read`].
    pub fn try_read(&self) -> Result<ReadGuard<'_, T>> {
        self.root().try_read()
    }
}

impl<R: Persist> Drop for Heap<R> {
    fn drop(&mut self) {
        let _ = self.close_once();
    }
}

impl<R: Persist> fmt::Debug for Heap<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap")
            .field("region", &self.core.region)
            .finish_non_exhaustive()
    }
}

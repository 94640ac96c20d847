//! [`Heap`]: typed data in a region, and how it is opened.

use crate::error::{Error, Result};
use crate::lock::{self, Lock, PMutex, PRwLock, ReadGuard};
use crate::mutref::Mut;
use crate::persist::Persist;
use crate::run::Core;
use crate::thread;
use crate::transaction::Tx;
use bartender_heap::types::Schema;
use bartender_pm::{Durability, Region};
use std::alloc::Layout;
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::time::Duration;

pub use bartender_heap::{CheckReport, Stats};

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
    /// What the region found: whether it was closed cleanly, what was replayed from its log.
    pub region: bartender_pm::Opened,
    /// What the heap found: whether it had to mark, and what is live.
    pub heap: bartender_heap::OpenReport,
}

/// How to open a heap. See [`Heap::options`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Options<R> {
    region: bartender_pm::Options,
    durability: Durability,
    verify: bool,
    root: PhantomData<fn() -> R>,
}

impl<R: Persist> Options<R> {
    fn new() -> Self {
        Options {
            region: bartender_pm::Options::new(),
            durability: Durability::Immediate,
            verify: false,
            root: PhantomData,
        }
    }

    /// Bytes that the region may grow to: an address range is reserved when it is created. Default 64 GiB.
    pub fn max_size(mut self, bytes: u64) -> Self {
        self.region.max_size(bytes);
        self
    }

    /// Bytes of log, when the region is created. Default 64 MiB. A transaction's changes have to fit.
    pub fn log_size(mut self, bytes: u64) -> Self {
        self.region.log_size(bytes);
        self
    }

    /// When commits are answered. Default: when they are durable.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self.region.durability(durability);
        self
    }

    /// Whether a missing file is created. Default true.
    pub fn create(mut self, yes: bool) -> Self {
        self.region.create(yes);
        self
    }

    /// Whether a background thread checkpoints. Default true; without it a commit that finds the log full does.
    pub fn background(mut self, yes: bool) -> Self {
        self.region.background(yes);
        self
    }

    /// On shared memory: flush and fence as on persistent memory, for measuring. Default false.
    pub fn force_flush(mut self, yes: bool) -> Self {
        self.region.force_flush(yes);
        self
    }

    /// Whether everything is [checked](Heap::check) when it is opened. Default false: what a recovery follows is
    /// checked in any case.
    pub fn verify(mut self, yes: bool) -> Self {
        self.verify = yes;
        self
    }

    /// Opens the region at `path`, or creates it with a default root. Where its address is taken, because a copy of it
    /// is open, the region is moved: all of it is checked, and each pointer rewritten.
    ///
    /// # Errors
    ///
    /// The file is missing (with `create(false)`), not a region, damaged, open elsewhere;
    /// [`Error::TypeMismatch`] if its root has another type: nothing is changed then.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Heap<R>>
    where
        R: Default,
    {
        self.open_with(path, R::default)
    }

    /// Opens the region at `path`, or creates it with the root that `root` makes.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(self, path: impl AsRef<Path>, root: impl FnOnce() -> R) -> Result<Heap<R>> {
        let region = bartender_heap::open_region(&self.region, path)?;
        self.open_region(region, root)
    }

    /// Opens the region on a medium of the caller's, such as the simulated one, or creates it there with the root that
    /// `root` makes.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    #[doc(hidden)]
    pub fn open_on(
        self,
        medium: std::sync::Arc<dyn bartender_pm::Medium>,
        root: impl FnOnce() -> R,
    ) -> Result<Heap<R>> {
        let region = self.region.open_on(medium)?;
        self.open_region(region, root)
    }

    /// Opens the heap in a region that is open already: for tests on the simulated medium.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    #[doc(hidden)]
    pub fn open_region(self, region: Region, root: impl FnOnce() -> R) -> Result<Heap<R>> {
        let schema = Schema::of(R::describe).map_err(bartender_heap::Error::from)?;
        let opened = region.opened().clone();
        let inner = if opened.created || is_blank(&region) {
            bartender_heap::Heap::create(region, &schema)?
        } else {
            bartender_heap::Heap::open(region)?
        };
        let differences = inner.schema().diff(&schema);
        if !differences.is_empty() {
            let path = inner.region().path().to_owned();
            inner.close()?;
            return Err(Error::TypeMismatch { path, differences });
        }
        let heap_report = *inner.report();
        let created = inner.root().is_none();
        let core = Core::new(inner, self.durability);
        if created {
            plant(&core, root())?;
        }
        let root = core
            .heap
            .root()
            .expect("the root was there or has been made");
        let heap = Heap {
            root: root.cast(),
            core,
            report: Report {
                created,
                region: opened,
                heap: heap_report,
            },
            closed: false,
            owns: PhantomData,
        };
        if self.verify {
            heap.check()?;
        }
        Ok(heap)
    }
}

/// Whether the region was created, but no heap in it: a crash came between the two.
fn is_blank(region: &Region) -> bool {
    let header = region.base().cast_const();
    // SAFETY: the first bytes of the home are there in every region, and nobody writes them now.
    let header = unsafe { std::slice::from_raw_parts(header, 64) };
    header.iter().all(|byte| *byte == 0)
}

/// Stores the root: the first transaction of a heap.
fn plant<R: Persist>(core: &Core, root: R) -> Result<()> {
    let mut root = Some(root);
    core.run(false, |tx| {
        let layout = Layout::new::<R>();
        // Even a root without bytes has an address.
        let layout = Layout::from_size_align(layout.size().max(1), layout.align());
        let block = tx.alloc(layout.expect("a type's layout, or one byte"))?;
        let slot = core
            .region
            .base()
            .wrapping_add(core.heap.root_slot() as usize);
        let mut value = ManuallyDrop::new(root.take().expect("a root is planted once"));
        // SAFETY: the block is new and ours; nobody else knows of the heap yet; the slot is a word in the view.
        unsafe {
            tx.adopt::<R>(&mut *value)?;
            tx.wrote(block.as_ptr(), size_of::<R>());
            ptr::copy_nonoverlapping(&*value, block.as_ptr().cast(), 1);
            tx.change(slot, size_of::<u64>());
            slot.cast::<u64>()
                .write(block.as_ptr().expose_provenance() as u64);
        }
        Ok(())
    })
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
    /// after a failure inside; the region's errors. Nothing was changed then, with one exception: when the medium fails
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
        mut f: impl FnMut(&mut Tx<'_>) -> Result<A, E>,
    ) -> Result<A, E> {
        self.core.run(true, |tx| f(&mut Tx::new(tx)))
    }

    /// Waits until everything that was committed is durable. Only [`Durability::Eventual`] leaves anything to wait for.
    ///
    /// # Errors
    ///
    /// The region's.
    pub fn sync(&self) -> Result<()> {
        Ok(self.core.region.sync()?)
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
    /// allocated. Transactions that begin meanwhile wait.
    ///
    /// # Errors
    ///
    /// What does not fit, with its path from the root; [`Error::Busy`] if a transaction goes on for longer than ten
    /// seconds, or is this thread's own.
    pub fn check(&self) -> Result<CheckReport> {
        const PATIENCE: Duration = Duration::from_secs(10);
        if thread::with(|thread| thread.active().is_some()) {
            return Err(Error::Busy);
        }
        // Frees that are committed and not durable yet would look like leaks.
        self.core.settle()?;
        let check = || self.core.heap.check();
        match self.core.region.quiesce(PATIENCE, check) {
            Some(report) => Ok(report?),
            None => Err(Error::Busy),
        }
    }

    /// Live blocks and bytes, superblocks, overhead.
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
        let settled = self.core.settle();
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
        let mut f = Some(f);
        self.core.run(false, |tx| {
            let f = f.take().expect("without a retry it is called once");
            f(lock::lock(self.root(), tx)?)
        })
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

//! [`Options`]: how a heap is opened or created, and the first transaction of a new one.

use super::{Heap, Report, migrate};
use crate::error::{Error, Result};
use crate::leased;
use crate::persist::Persist;
use crate::run::Core;
use crate::tx::TxRef;
use bartender_heap::Marking;
use bartender_heap::types::Schema;
use bartender_pm::{Durability, Region};
use std::alloc::Layout;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr;

/// How to open a heap. See [`Heap::options`].
#[derive(Debug)]
#[must_use]
pub struct Options<R> {
    region: bartender_pm::Options,
    durability: Durability,
    verify: bool,
    marking: Marking,
    random_order: bool,
    #[cfg(feature = "cluster")]
    pub(crate) replicas: Option<Vec<String>>,
    #[cfg(feature = "cluster")]
    pub(crate) policy: bartender_dist::Policy,
    root: PhantomData<fn() -> R>,
}

// Not derived: the root need not be cloned for it.
impl<R> Clone for Options<R> {
    fn clone(&self) -> Self {
        Options {
            region: self.region.clone(),
            #[cfg(feature = "cluster")]
            replicas: self.replicas.clone(),
            ..*self
        }
    }
}

impl<R: Persist> Options<R> {
    pub(super) fn new() -> Self {
        Options {
            region: bartender_pm::Options::new(),
            durability: Durability::Immediate,
            verify: false,
            marking: Marking::Auto,
            random_order: false,
            #[cfg(feature = "cluster")]
            replicas: None,
            #[cfg(feature = "cluster")]
            policy: bartender_dist::Policy::Block,
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

    /// Logs beside each other, when the region is created on persistent memory or in shared memory: threads that commit
    /// at the same time do not wait for one another. Default 32, at most 63; more threads than that share one. Half of
    /// the log is divided among them. (A file has one log, where commits that wait share their barrier.)
    pub fn lanes(mut self, lanes: u64) -> Self {
        self.region.lanes(lanes);
        self
    }

    /// Where in the address space the region lies, when it is created: a multiple of 2 MiB, below 128 TiB with all of
    /// [`max_size`](Self::max_size). Default: a random place, at which nothing else is expected. If the place is taken,
    /// the region is moved to another one, as a copy of an open region is.
    pub fn home_address(mut self, address: u64) -> Self {
        self.region.home_address(address);
        self
    }

    /// Bytes of changed pages that this process keeps before it gives back those that stand in the home. Default
    /// 1 GiB. Less saves memory, and costs page faults where the same places are changed again and again. Only a
    /// [background](Self::background) thread gives back.
    pub fn view_limit(mut self, bytes: u64) -> Self {
        self.region.view_limit(bytes);
        self
    }

    /// When commits are answered. Default: when they are durable.
    /// [`Heap::with_durability`] chooses for single transactions.
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

    /// Whether blocks are handed out in random order within their superblocks: who can make a program write behind the
    /// end of a value cannot foresee what lies there. Default false.
    pub fn random_order(mut self, yes: bool) -> Self {
        self.random_order = yes;
        self
    }

    /// Whether everything that the root reaches is [checked](Heap::check) against the description of its type before
    /// opening returns. Then whatever the file held, nothing that safe code does with the heap is undefined behaviour: the
    /// file is refused, or it is sound. (A map whose keys were damaged may miss some of them; that is all.) Until the heap is
    /// closed only this process writes to it, and its home must not change otherwise.
    ///
    /// Default false: a region that was closed cleanly is trusted, for a look at all of it would take as long as reading it.
    /// What something else has written into it since is met unawares: a length, a tag or a pointer that is wrong there
    /// is undefined behaviour when it is read. After a crash everything that is reached is checked in any case, before
    /// opening returns or behind it, as [`marking`](Self::marking) says. Cost: a read of all data but plain bytes.
    pub fn verify(mut self, yes: bool) -> Self {
        self.verify = yes;
        self
    }

    /// When what a crash has left is marked, and with that checked: see [`Marking`]. Default [`Auto`](Marking::Auto):
    /// before opening returns where that takes a millisecond or two, else in the background, so that opening takes
    /// milliseconds whatever the heap's size. Then allocation takes space that nobody had before, and waits where
    /// there is none; [`Heap::wait_marked`] waits for the end. For a file that may hold anything, such as one
    /// from a medium or a person that is not trusted, choose [`Before`](Marking::Before), and
    /// [`verify`](Self::verify).
    pub fn marking(mut self, when: Marking) -> Self {
        self.marking = when;
        self
    }

    /// Opens it for reading only, for tools: the file, which need not be writable, is not changed, also after a crash,
    /// when what was committed is found as ever. Others may read it at the same time; nobody writes: opening for
    /// writing is refused meanwhile, and this one while somebody writes (take a [snapshot](Heap::snapshot) then).
    /// Transactions are refused. Default false.
    ///
    /// A region whose address is taken in this process, by a copy of it, cannot be moved without writing: it is refused.
    pub fn read_only(mut self, yes: bool) -> Self {
        self.region.read_only(yes);
        self
    }

    /// Opens the region at `path`, or creates it with a default root. Where its address is taken, because a copy of it
    /// is open, the region is moved: all of it is checked, and each pointer rewritten.
    ///
    /// # Migration
    ///
    /// Where the region's root has another type, and types of the program say what they were
    /// ([`#[persist(from = Old)]`](derive@crate::Persist)), all of the data are checked and then converted in one
    /// transaction, together with the description of the types: after a crash the region has either all of the earlier
    /// data or all of the converted ones. A conversion that fails ([`Error::Migration`]) or panics changes nothing.
    ///
    /// A type may be `from` an earlier one wherever it stands: in structs, enums, tuples, options, arrays, locks, a
    /// [`PBox`](crate::PBox), a [`PVec`](crate::PVec), a [`PVecDeque`](crate::PVecDeque), the keys and values of maps, sets. The types
    /// that only hold it need no `from`. Of the types in other containers, and of more than 128 blocks inside each other, the
    /// type that holds them all has to be converted. Keys that change are hashed, or put in order, anew; that two of one map
    /// would become equal is an [`Error::Migration`].
    ///
    /// All data are in ordinary memory meanwhile, and the new ones have to fit into the region beside the old, and their
    /// record into the log: if not, there is the error of a transaction that is too large, and nothing has changed.
    ///
    /// # Errors
    ///
    /// The file is missing (with `create(false)`), not a region, damaged, open elsewhere; an option makes no sense
    /// (`BadOption` names it);
    /// [`Error::TypeMismatch`] if its root has another type that is none of those migrated from, [`Error::Migration`] if
    /// a conversion fails: nothing is changed then. Of a region that was to be created nothing is left: a file gets its name
    /// when the root is in it. (On a device of persistent memory an empty region may be left.)
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
        let path = path.as_ref();
        let schema = Self::schema()?;
        let opened = (!self.region.is_read_only()).then(|| Box::new(self.clone()));
        let region = bartender_heap::open_region_unnamed(&self.region, path)?;
        let mut heap = self.open_schema(region, schema, root)?;
        // Now that there is a root in it.
        if !heap.region().give_name()? {
            return Err(bartender_pm::Error::Busy {
                path: path.into(),
                holder: "another one's hands, who has made it at the same time".into(),
            }
            .into());
        }
        heap.opened = opened;
        Ok(heap)
    }

    /// Compacts the region at `path` and opens it.
    pub(super) fn compact(mut self, path: &Path) -> Result<Heap<R>> {
        bartender_heap::compact(&self.region, path)?;
        self.region.create(false);
        self.open_with(path, || unreachable!("there was a root"))
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
        self.open_schema(region, Self::schema()?, root)
    }

    /// The description of the program's types.
    fn schema() -> Result<Schema> {
        Ok(Schema::of(R::describe).map_err(bartender_heap::Error::from)?)
    }

    fn open_schema(
        self,
        region: Region,
        schema: Schema,
        root: impl FnOnce() -> R,
    ) -> Result<Heap<R>> {
        let opened = region.opened().clone();
        // A crash may have come between the region's creation and the heap's.
        let inner = if opened.created || bartender_heap::Heap::is_blank(&region) {
            bartender_heap::Heap::create(region, &schema)?
        } else {
            bartender_heap::Heap::open_marking(region, self.marking)?
        };
        inner.set_random_order(self.random_order);
        let migrated = *inner.schema() != schema;
        let mut migration = migrate::Migration::find::<R>(inner.schema(), &schema);
        if inner.region().is_read_only() {
            migration = migration.filter(migrate::Migration::is_of_names);
        }
        if migrated && migration.is_none() {
            let path = inner.region().path().to_owned();
            let differences = inner.schema().diff(&schema);
            inner.close()?;
            return Err(Error::TypeMismatch { path, differences });
        }
        let heap_report = *inner.report();
        let created = inner.root().is_none();
        let mut core = Core::new(inner, self.durability);
        if let Some(migration) = migration {
            migration.run::<R>(&mut core, &schema)?;
        }
        if created {
            plant(&core, root())?;
        }
        leased::add(&core.region);
        let root = core
            .heap
            .root()
            .expect("the root was there or has been made");
        let heap = Heap {
            root: root.cast(),
            core,
            report: Report {
                created,
                migrated,
                region: opened,
                heap: heap_report,
            },
            closed: false,
            opened: None,
            owns: PhantomData,
        };
        if self.verify {
            heap.check()?;
        }
        Ok(heap)
    }
}

/// Stores the root: the first transaction of a heap.
fn plant<R: Persist>(core: &Core, root: R) -> Result<()> {
    let mut root = Some(root);
    // The name of a new file, which comes next, is durable at once.
    core.run(false, Durability::Immediate, |tx| {
        store_root(core, tx, root.take().expect("a root is planted once"))
    })
}

/// Moves a root into a block of its own, to which the header refers from then on.
pub(super) fn store_root<R: Persist>(core: &Core, tx: TxRef<'_>, root: R) -> Result<()> {
    let layout = Layout::new::<R>();
    // Even a root without bytes has an address.
    let layout = Layout::from_size_align(layout.size().max(1), layout.align());
    let block = tx.alloc(layout.expect("a type's layout, or one byte"))?;
    let slot = core
        .region
        .base()
        .wrapping_add(core.heap.root_slot() as usize);
    let mut value = ManuallyDrop::new(root);
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
}

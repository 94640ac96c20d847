//! Who is measured: allocators behind one trait, so that every program runs the
//! same code over each of them.

use bartender::Persist;
use bartender_heap::{Heap, Schema};
use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::ffi::CString;
use std::ptr::NonNull;
use tempfile::TempDir;

/// An allocator that threads share.
pub(crate) trait Allocator: Sync {
    /// What its rows are called.
    const NAME: &'static str;

    /// It does one in so many of a program's operations.
    const FEWER: usize = 1;

    /// A block for `layout`.
    fn alloc(&self, layout: Layout) -> NonNull<u8>;

    /// Takes a block back.
    ///
    /// # Safety
    ///
    /// It came from `alloc` with this layout, and is used no more.
    unsafe fn free(&self, block: NonNull<u8>, layout: Layout);
}

/// One that follows `std`'s trait.
#[derive(Debug)]
pub(crate) struct Global<A, const PEER: usize>(A);

/// Names of the peers, in the order of their `PEER` numbers.
const PEERS: [&str; 5] = [
    "malloc (libc)",
    "mimalloc",
    "jemalloc",
    "snmalloc",
    "tcmalloc",
];

impl<A: GlobalAlloc + Sync, const PEER: usize> Allocator for Global<A, PEER> {
    const NAME: &'static str = PEERS[PEER];

    #[inline(always)]
    fn alloc(&self, layout: Layout) -> NonNull<u8> {
        // SAFETY: the programs ask for at least a byte.
        let block = unsafe { self.0.alloc(layout) };
        NonNull::new(block).expect("memory")
    }

    #[inline(always)]
    unsafe fn free(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.dealloc(block.as_ptr(), layout) };
    }
}

pub(crate) type Libc = Global<System, 0>;
pub(crate) type Mimalloc = Global<mimalloc::MiMalloc, 1>;
#[cfg(feature = "peers")]
pub(crate) type Jemalloc = Global<tikv_jemallocator::Jemalloc, 2>;
#[cfg(feature = "peers")]
pub(crate) type Snmalloc = Global<snmalloc_rs::SnMalloc, 3>;
#[cfg(feature = "peers")]
pub(crate) type Tcmalloc = Global<tcmalloc_better::TCMalloc, 4>;

pub(crate) const LIBC: Libc = Global(System);
pub(crate) const MIMALLOC: Mimalloc = Global(mimalloc::MiMalloc);
#[cfg(feature = "peers")]
pub(crate) const JEMALLOC: Jemalloc = Global(tikv_jemallocator::Jemalloc);
#[cfg(feature = "peers")]
pub(crate) const SNMALLOC: Snmalloc = Global(snmalloc_rs::SnMalloc);
#[cfg(feature = "peers")]
pub(crate) const TCMALLOC: Tcmalloc = Global(tcmalloc_better::TCMalloc);

/// The heap of a region in shared memory, used as the transactions use it.
#[derive(Debug)]
pub(crate) struct Bartender {
    heap: Heap,
    // Behind the heap, which lies in it.
    _folder: TempDir,
}

impl Bartender {
    /// A heap in a region of its own, of at most `max_size` bytes.
    pub(crate) fn new(max_size: u64) -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::tempdir_in("/dev/shm")?;
        let mut options = bartender_pm::Options::new();
        options.max_size(max_size);
        let region = options.open(folder.path().join("a.region"))?;
        let schema = Schema::of(<u64 as Persist>::describe)?;
        Ok(Bartender {
            heap: Heap::create(region, &schema)?,
            _folder: folder,
        })
    }

    /// The heap.
    pub(crate) fn heap(&self) -> &Heap {
        &self.heap
    }

    /// The first block of a superblock names its table entry, which a
    /// transaction takes along; afterwards blocks come without.
    #[cold]
    fn alloc_slowly(&self, layout: Layout) -> NonNull<u8> {
        let block = self.heap.alloc(layout).expect("room in the region");
        if let Some(entry) = &block.entry {
            self.heap.entry_durable(entry);
        }
        block.ptr
    }
}

impl Allocator for Bartender {
    const NAME: &'static str = "bartender";

    #[inline(always)]
    fn alloc(&self, layout: Layout) -> NonNull<u8> {
        match self.heap.alloc_at_hand(layout) {
            Some(block) => block,
            None => self.alloc_slowly(layout),
        }
    }

    #[inline(always)]
    unsafe fn free(&self, block: NonNull<u8>, _: Layout) {
        // SAFETY: a block of this heap by the caller's promise; it was never
        // committed.
        unsafe { self.heap.free(block) }.expect("a live block");
    }
}

/// The same through the C interface: the default heap, `bt_malloc`, `bt_free`.
#[derive(Debug)]
pub(crate) struct BartenderC {
    heap: *mut bartender_c::bt_heap,
    _folder: TempDir,
}

// SAFETY: the C interface may be used by any thread.
unsafe impl Sync for BartenderC {}

impl BartenderC {
    /// The default heap, in a region of its own of at most `max_size` bytes.
    pub(crate) fn new(max_size: u64) -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::tempdir_in("/dev/shm")?;
        let path = folder.path().join("a.region");
        let path = CString::new(path.into_os_string().into_encoded_bytes())?;
        // SAFETY: a string with its end.
        let heap = unsafe { bartender_c::bt_open(path.as_ptr(), max_size, bartender_c::BT_NEW) };
        if heap.is_null() {
            return Err("bt_open failed".into());
        }
        Ok(BartenderC {
            heap,
            _folder: folder,
        })
    }
}

impl Drop for BartenderC {
    fn drop(&mut self) {
        // SAFETY: opened by `new`; its blocks are used no more.
        unsafe { bartender_c::bt_close(self.heap) };
    }
}

impl Allocator for BartenderC {
    const NAME: &'static str = "bartender-c";

    #[inline(always)]
    fn alloc(&self, layout: Layout) -> NonNull<u8> {
        NonNull::new(bartender_c::bt_malloc(layout.size()).cast()).expect("room in the region")
    }

    #[inline(always)]
    unsafe fn free(&self, block: NonNull<u8>, _: Layout) {
        // SAFETY: the caller's promise.
        let freed = unsafe { bartender_c::bt_free(block.as_ptr().cast()) };
        assert_eq!(freed, 0);
    }
}

/// What the rows of libpmemobj are called.
pub(crate) const PMEMOBJ: &str = "libpmemobj";

/// A pool of libpmemobj in shared memory, used without transactions. Of the
/// subjects it alone makes each allocation and each free durable by itself.
#[cfg(feature = "pmemobj")]
#[derive(Debug)]
pub(crate) struct Pmemobj {
    pool: crate::pmemobj::Pool,
    _folder: TempDir,
}

// SAFETY: only `alloc` and `free` of the pool are used, which any thread may call.
#[cfg(feature = "pmemobj")]
unsafe impl Sync for Pmemobj {}

#[cfg(feature = "pmemobj")]
impl Pmemobj {
    /// A pool of its own of `size` bytes, all of which are backed from now on.
    pub(crate) fn new(size: usize) -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::tempdir_in("/dev/shm")?;
        let pool = crate::pmemobj::Pool::create(&folder.path().join("pool"), size);
        Ok(Pmemobj {
            pool: pool.ok_or("cannot make a pool")?,
            _folder: folder,
        })
    }
}

#[cfg(feature = "pmemobj")]
impl Allocator for Pmemobj {
    const NAME: &'static str = PMEMOBJ;

    /// It takes a hundred times as long as the others.
    const FEWER: usize = 20;

    #[inline(always)]
    fn alloc(&self, layout: Layout) -> NonNull<u8> {
        self.pool.alloc(layout.size()).expect("room in the pool")
    }

    #[inline(always)]
    unsafe fn free(&self, block: NonNull<u8>, _: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.pool.free(block) };
    }
}

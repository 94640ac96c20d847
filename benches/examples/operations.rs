//! One operation many times, for counting its instructions (`cargo xtask
//! instructions`): `operations NAME TIMES`. Without arguments it lists the names.
//!
//! What the program does besides is the same for any number of times, so the
//! difference of two runs is the operation's alone.

use bartender::Persist;
use bartender_heap::{Heap, Schema};
use std::alloc::Layout;
use std::error::Error;
use std::hint::black_box;
use std::ptr::NonNull;

type Outcome = Result<(), Box<dyn Error>>;

/// An operation: its name, and how to do it so many times.
type Operation = (&'static str, fn(usize) -> Outcome);

const OPERATIONS: &[Operation] = &[
    ("allocate and free, 64 B", |n| pairs(n, 64)),
    ("allocate and free, 256 B", |n| pairs(n, 256)),
    ("allocate and free, 32 KiB", |n| pairs(n, 32 << 10)),
    ("allocate and free, 1 MiB", |n| pairs(n, 1 << 20)),
    ("allocate 1000, free 1000, 64 B", |n| batches(n, 64)),
    ("allocate 1000, free 1000, 4 KiB", |n| batches(n, 4096)),
    ("allocate and free, mixed sizes", mixed),
    ("free by another thread, 64 B", remote),
    ("bt_malloc and bt_free, 64 B", from_c),
];

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, times] = &arguments[..] else {
        OPERATIONS.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    };
    let operation = OPERATIONS.iter().find(|(known, _)| known == name);
    let (_, run) = operation.ok_or("no such operation")?;
    run(times.parse()?)
}

/// A heap in a region in memory that is gone with it.
struct Ours {
    heap: Heap,
    // Behind the heap, which lies in it.
    _folder: tempfile::TempDir,
}

impl Ours {
    fn new() -> Result<Ours, Box<dyn Error>> {
        let folder = tempfile::tempdir_in("/dev/shm")?;
        let mut options = bartender_pm::Options::new();
        options.max_size(1 << 30);
        let region = options.open(folder.path().join("a.region"))?;
        let schema = Schema::of(<u64 as Persist>::describe)?;
        let heap = Heap::create(region, &schema)?;
        Ok(Ours {
            heap,
            _folder: folder,
        })
    }

    #[inline(always)]
    fn take(&self, size: usize) -> NonNull<u8> {
        let layout = Layout::from_size_align(black_box(size), 8).expect("a layout");
        match self.heap.alloc_at_hand(layout) {
            Some(block) => block,
            None => self.take_slowly(layout),
        }
    }

    #[cold]
    #[inline(never)]
    fn take_slowly(&self, layout: Layout) -> NonNull<u8> {
        let block = self.heap.alloc(layout).expect("room");
        if let Some(entry) = &block.entry {
            self.heap.entry_durable(entry);
        }
        block.ptr
    }

    #[inline(always)]
    fn give(&self, block: NonNull<u8>) {
        // SAFETY: of `take`, given once, and never committed.
        unsafe { self.heap.free(block) }.expect("a live block");
    }
}

fn pairs(n: usize, size: usize) -> Outcome {
    let ours = Ours::new()?;
    for _ in 0..n {
        ours.give(black_box(ours.take(size)));
    }
    Ok(())
}

fn from_c(n: usize) -> Outcome {
    let folder = tempfile::tempdir_in("/dev/shm")?;
    let path = folder.path().join("a.region").into_os_string();
    let path = std::ffi::CString::new(path.into_encoded_bytes())?;
    // SAFETY: a string with its end; what is allocated is freed once.
    unsafe {
        let heap = bartender_c::bt_open(path.as_ptr(), 1 << 30, bartender_c::BT_NEW);
        for _ in 0..n {
            let block = bartender_c::bt_malloc(black_box(64));
            assert!(!block.is_null() && bartender_c::bt_free(black_box(block)) == 0);
        }
        bartender_c::bt_close(heap);
    }
    Ok(())
}

fn batches(n: usize, size: usize) -> Outcome {
    let ours = Ours::new()?;
    let mut held = Vec::with_capacity(1000);
    for _ in 0..n / 1000 {
        held.extend((0..1000).map(|_| ours.take(size)));
        held.drain(..).for_each(|block| ours.give(block));
    }
    Ok(())
}

fn mixed(n: usize) -> Outcome {
    let ours = Ours::new()?;
    let mut random = 0x1234_5678_9abc_def1_u64;
    let mut below = |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        ((u128::from(random) * u128::from(bound)) >> 64) as usize
    };
    let mut held: Vec<_> = (0..1000).map(|_| ours.take(64)).collect();
    for _ in 0..n {
        let size = 1 + below(32) * below(32);
        let old = std::mem::replace(&mut held[below(1000)], ours.take(size));
        ours.give(old);
    }
    Ok(())
}

/// Half of what is counted is allocating, half freeing from afar and taking it in.
fn remote(n: usize) -> Outcome {
    let ours = Ours::new()?;
    for _ in 0..n / 10_000 {
        let blocks: Vec<usize> = (0..10_000).map(|_| ours.take(64).addr().get()).collect();
        let ours = &ours;
        std::thread::scope(|threads| {
            threads.spawn(move || {
                for address in blocks {
                    let block = std::ptr::with_exposed_provenance_mut(address);
                    ours.give(NonNull::new(block).expect("a block"));
                }
            });
        });
    }
    Ok(())
}

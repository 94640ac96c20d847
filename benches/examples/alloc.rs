//! Allocate and free of 64 bytes: the heap of a region beside mimalloc, in one
//! run, alternating. Prints the best round of each, in nanoseconds of the
//! thread's own time a pair.

use bartender_heap::{Heap, Kind, Schema, Type};
use bartender_pm::Options;
use mimalloc::MiMalloc;
use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::ptr::NonNull;

const ROUNDS: usize = 60;
const PAIRS: usize = 200_000;

/// Nanoseconds that this thread has run.
fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a clock that Linux has, and a place for its answer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Allocates `batch` blocks and frees them again, until there were `PAIRS`.
fn pairs(
    batch: usize,
    alloc: impl Fn(Layout) -> NonNull<u8>,
    free: impl Fn(NonNull<u8>, Layout),
) -> f64 {
    let layout = Layout::from_size_align(64, 8).expect("a layout");
    let mut held = Vec::with_capacity(batch);
    let start = now();
    if batch == 1 {
        for _ in 0..PAIRS {
            let block = black_box(alloc(black_box(layout)));
            free(block, black_box(layout));
        }
    } else {
        for _ in 0..PAIRS / batch {
            for _ in 0..batch {
                held.push(alloc(black_box(layout)));
            }
            for block in held.drain(..) {
                free(block, black_box(layout));
            }
        }
    }
    (now() - start) as f64 / PAIRS as f64
}

fn main() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("shared memory");
    let region = Options::new()
        .open(folder.path().join("bench.region"))
        .expect("creates");
    let int = Kind::Int {
        signed: false,
        nonzero: false,
    };
    let schema = Schema::of(|b| b.define::<u64>(|_| Type::of::<u64>("u64", int))).expect("sound");
    let heap = Heap::create(region, &schema).expect("formats");
    for batch in [1, 100, 1000, 10_000] {
        // Each new superblock's entry is durable after the first commit.
        let alloc = |layout| {
            if let Some(block) = heap.alloc_at_hand(layout) {
                return block;
            }
            let block = heap.alloc(layout).expect("room");
            if let Some(entry) = &block.entry {
                heap.entry_durable(entry);
            }
            block.ptr
        };
        let (mut ours, mut theirs) = (f64::MAX, f64::MAX);
        for _ in 0..ROUNDS {
            ours = ours.min(pairs(
                batch,
                alloc,
                // SAFETY: just allocated.
                |block, _| unsafe { heap.free(block) }.expect("a block"),
            ));
            theirs = theirs.min(pairs(
                batch,
                // SAFETY: the layout is not empty.
                |layout| NonNull::new(unsafe { MiMalloc.alloc(layout) }).expect("memory"),
                // SAFETY: just allocated.
                |block, layout| unsafe { MiMalloc.dealloc(block.as_ptr(), layout) },
            ));
        }
        println!(
            "{batch:>6} at a time: heap {ours:>6.2} ns a pair, mimalloc {theirs:>6.2} ns, {:.2} times",
            ours / theirs
        );
    }
}

//! Programs that tempt an allocator to take more space than it needs, and count
//! what they hold.
//!
//! The producer and consumer over time and the change of sizes are those by
//! which Hoard explains blow-up (Berger et al., ASPLOS 2000); the soak follows
//! no paper: sizes and lifetimes at random, with a bound on what is live.

use crate::alloc::subject::Allocator;
use crate::machine::pin;
use std::alloc::Layout;
use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// What is live, was live at most, and which classes it is of.
#[derive(Debug)]
pub(crate) struct Tally {
    live: AtomicU64,
    peak: AtomicU64,
    usable: AtomicU64,
    usable_peak: AtomicU64,
    classes: Mutex<BTreeSet<usize>>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Tally {
            live: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            usable: AtomicU64::new(0),
            usable_peak: AtomicU64::new(0),
            classes: Mutex::new(BTreeSet::new()),
        }
    }

    /// Peaks of bytes asked for and of bytes in blocks of our classes' lengths,
    /// and how many classes there were.
    pub(crate) fn peaks(&self) -> (u64, u64, usize) {
        let classes = self.classes.lock().expect("no panic").len();
        (
            self.peak.load(Relaxed),
            self.usable_peak.load(Relaxed),
            classes,
        )
    }

    fn add(&self, size: usize) {
        let now = self.live.fetch_add(size as u64, Relaxed) + size as u64;
        self.peak.fetch_max(now, Relaxed);
        let usable = class(size) as u64;
        let now = self.usable.fetch_add(usable, Relaxed) + usable;
        self.usable_peak.fetch_max(now, Relaxed);
    }

    fn remove(&self, size: usize) {
        self.live.fetch_sub(size as u64, Relaxed);
        self.usable.fetch_sub(class(size) as u64, Relaxed);
    }

    fn uses(&self, sizes: impl Iterator<Item = usize>) {
        let mut classes = self.classes.lock().expect("no panic");
        classes.extend(sizes.map(class));
    }
}

/// Length of the block that a size gets from us: the rule of size classes.
fn class(size: usize) -> usize {
    match size {
        0..=128 => size.next_multiple_of(8),
        129..=65_536 => size.next_multiple_of(1 << (((size - 1).ilog2()) - 3)),
        _ => size.next_multiple_of(8192),
    }
}

/// A block, held by nobody or by somebody.
#[derive(Debug, Clone, Copy)]
struct Held {
    at: *mut u8,
    size: u32,
}

// SAFETY: nobody but its holder touches the memory.
unsafe impl Send for Held {}

impl Held {
    const NOTHING: Held = Held {
        at: std::ptr::null_mut(),
        size: 0,
    };

    fn new<A: Allocator>(a: &A, tally: &Tally, size: usize) -> Held {
        let at = a.alloc(layout(size));
        // SAFETY: the block has so many bytes.
        unsafe { at.as_ptr().write_bytes(1, size) };
        tally.add(size);
        Held {
            at: at.as_ptr(),
            size: size as u32,
        }
    }

    fn free<A: Allocator>(&mut self, a: &A, tally: &Tally) {
        let held = std::mem::replace(self, Held::NOTHING);
        if let Some(at) = NonNull::new(held.at) {
            let size = held.size as usize;
            tally.remove(size);
            // SAFETY: made by `new` of the same allocator, and held once.
            unsafe { a.free(at, layout(size)) };
        }
    }
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("a layout")
}

/// Splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ (z >> 31)) * n as u128) >> 64) as usize
    }
}

/// Pairs of threads: one allocates objects of 16 to 512 bytes, the other frees
/// them; after each tenth of the time they change places. At most six batches
/// of ten thousand are under way in a pair.
pub(crate) fn consumers<A: Allocator>(
    a: &A,
    tally: &Tally,
    threads: usize,
    n: usize,
    begin: impl Fn(),
) {
    const BATCH: usize = 10_000;
    const TERMS: usize = 10;
    let batches = (n / TERMS / BATCH).max(1);
    tally.uses(16..=512);
    begin();
    let produce = |random: &mut Random, to: &SyncSender<Vec<Held>>| {
        for _ in 0..batches {
            let batch = (0..BATCH).map(|_| Held::new(a, tally, 16 + random.below(497)));
            to.send(batch.collect()).expect("the other lives");
        }
    };
    let consume = |from: &Receiver<Vec<Held>>| {
        for mut batch in from.iter().take(batches) {
            batch.iter_mut().for_each(|held| held.free(a, tally));
        }
    };
    std::thread::scope(|s| {
        for pair in 0..threads / 2 {
            let (to_second, from_first) = sync_channel(4);
            let (to_first, from_second) = sync_channel(4);
            let ends = [(to_second, from_second), (to_first, from_first)];
            for (who, (to, from)) in ends.into_iter().enumerate() {
                let (produce, consume) = (&produce, &consume);
                s.spawn(move || {
                    pin(2 * pair + who);
                    let mut random = Random((2 * pair + who) as u64);
                    for term in 0..TERMS {
                        match (term + who) % 2 {
                            0 => produce(&mut random, &to),
                            _ => consume(&from),
                        }
                    }
                });
            }
        }
    });
}

/// Fills `live` bytes with blocks of one size, frees nine tenths of them at
/// random, fills up with the next size, and so on.
///
/// Who does not move blocks needs about 1.9 times what is live after the second
/// size, unless it joins neighbouring holes: a tenth of the blocks, at random,
/// keeps every superblock and every page of the first size, and nine tenths of
/// `live` come on top. Each further longer size adds to that.
pub(crate) fn phases<A: Allocator>(
    a: &A,
    tally: &Tally,
    threads: usize,
    live: usize,
    begin: impl Fn(),
) {
    const SIZES: [usize; 8] = [64, 192, 40, 1024, 96, 4096, 512, 24];
    let most = live / threads / 24 + live / threads / 64;
    let mut books: Vec<Vec<Held>> = (0..threads).map(|_| vec![Held::NOTHING; most]).collect();
    books.iter_mut().for_each(Vec::clear);
    tally.uses(SIZES.into_iter());
    begin();
    std::thread::scope(|s| {
        for (i, held) in books.iter_mut().enumerate() {
            s.spawn(move || {
                pin(i);
                let mut random = Random(i as u64);
                let mut mine = 0;
                for size in SIZES {
                    while mine + size <= live / threads {
                        held.push(Held::new(a, tally, size));
                        mine += size;
                    }
                    for _ in 0..held.len() * 9 / 10 {
                        let mut gone = held.swap_remove(random.below(held.len()));
                        mine -= gone.size as usize;
                        gone.free(a, tally);
                    }
                }
                held.iter_mut().for_each(|held| held.free(a, tally));
            });
        }
    });
}

/// A size between 8 bytes and 32 KiB, small ones far more often: as many bytes
/// are in blocks of each doubling.
fn any_size(random: &mut Random) -> usize {
    // A doubling with half the probability of the one before.
    let doubling = random.below(1 << 12).leading_zeros() - (usize::BITS - 12);
    let base = 8usize << doubling.min(11);
    base + random.below(base)
}

/// Replaces a random block by one of a random size, `n` times; a block in
/// sixteen goes through a box that all threads share. What is live stays below
/// `live` bytes, more or less.
pub(crate) fn soak<A: Allocator>(
    a: &A,
    tally: &Tally,
    threads: usize,
    live: usize,
    n: usize,
    begin: impl Fn(),
) {
    let mut random = Random(1);
    let mean = (0..10_000).map(|_| any_size(&mut random)).sum::<usize>() / 10_000;
    let slots = live / mean / threads;
    let mut books = vec![vec![Held::NOTHING; slots]; threads];
    let shared = Mutex::new(vec![Held::NOTHING; 1000]);
    tally.uses(8..=32 << 10);
    begin();
    std::thread::scope(|s| {
        for (i, held) in books.iter_mut().enumerate() {
            let shared = &shared;
            s.spawn(move || {
                pin(i);
                let mut random = Random(i as u64);
                // Once to fill, then as often as asked for.
                let fill = 0..slots;
                for at in fill.chain(std::iter::repeat_n(slots, n / threads)) {
                    let at = if at < slots { at } else { random.below(slots) };
                    let slot = &mut held[at];
                    slot.free(a, tally);
                    *slot = Held::new(a, tally, any_size(&mut random));
                    if random.below(16) == 0 {
                        let mut shared = shared.lock().expect("no panic");
                        let there = random.below(shared.len());
                        std::mem::swap(slot, &mut shared[there]);
                    }
                }
                held.iter_mut().for_each(|held| held.free(a, tally));
            });
        }
    });
    let mut shared = shared.into_inner().expect("no panic");
    shared.iter_mut().for_each(|held| held.free(a, tally));
}

/// Allocates `n` objects of 64 bytes and leaves them there.
pub(crate) fn objects<A: Allocator>(a: &A, n: usize, touch: bool, begin: impl Fn()) {
    // The thread's heap, and what a first allocation brings along.
    a.alloc(layout(64));
    begin();
    for _ in 0..n {
        let block = std::hint::black_box(a.alloc(layout(64)));
        if touch {
            // SAFETY: the block has so many bytes.
            unsafe { block.as_ptr().write_bytes(1, 64) };
        }
    }
}

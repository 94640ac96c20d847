//! Memory for bitmaps, type-stable: it is reused for bitmaps only, and freed
//! with the pool.
//!
//! It promises that late readers never see freed memory and that no two
//! superblocks' bitmaps share a cache line, and counts the bytes, which are the
//! allocator's overhead.

use crate::superblock::{BITMAPS, kind};
use bartender_pm::sync::atomic::{AtomicU64, Ordering::*};
use std::ptr::NonNull;

/// Kinds of sets of bitmaps: 1, 2, 4 … 128 words each.
const KINDS: usize = crate::class::MAX_WORDS.trailing_zeros() as usize + 1;

/// Words of a cache line.
const LINE: usize = 8;

#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "reached through pointers")] [AtomicU64; LINE]);

/// Bitmaps. Guarded by the global lock.
pub(crate) struct Pool {
    all: Vec<NonNull<[Line]>>,
    spare: [Vec<NonNull<AtomicU64>>; KINDS],
    bytes: u64,
}

// SAFETY: it owns what its pointers point to, and all of that is `Send`.
unsafe impl Send for Pool {}

impl Pool {
    /// An empty pool.
    pub(crate) fn new() -> Self {
        Pool {
            all: Vec::new(),
            spare: std::array::from_fn(|_| Vec::new()),
            bytes: 0,
        }
    }

    /// Zeroed bitmaps of `words` words each at least, one behind the other.
    pub(crate) fn take(&mut self, words: usize) -> NonNull<AtomicU64> {
        let kind = kind(words);
        if let Some(spare) = self.spare[kind].pop() {
            for at in 0..words_of(kind) {
                // SAFETY: bitmaps of this kind have so many words.
                unsafe { spare.add(at).as_ref() }.store(0, Relaxed);
            }
            return spare;
        }
        let lines = words_of(kind) / LINE;
        let zeroed = || Line(std::array::from_fn(|_| AtomicU64::new(0)));
        let bitmaps: Box<[Line]> = (0..lines).map(|_| zeroed()).collect();
        self.bytes += size_of_val(&*bitmaps) as u64;
        let bitmaps = NonNull::from(Box::leak(bitmaps));
        self.all.push(bitmaps);
        bitmaps.cast()
    }

    /// Takes bitmaps of `words` words each back.
    pub(crate) fn give(&mut self, bitmaps: NonNull<AtomicU64>, words: usize) {
        self.spare[kind(words)].push(bitmaps);
    }

    /// Bytes of DRAM that it took.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Words of a set of bitmaps of this kind.
fn words_of(kind: usize) -> usize {
    (BITMAPS << kind).next_multiple_of(LINE)
}

impl Drop for Pool {
    fn drop(&mut self) {
        for bitmaps in self.all.drain(..) {
            // SAFETY: it was leaked from a box, and superblocks do not outlive the arena.
            drop(unsafe { Box::from_raw(bitmaps.as_ptr()) });
        }
    }
}

//! Memory for descriptors and bitmaps, type-stable: it is reused for its own
//! kind only, and freed with the pool.
//!
//! It promises that late readers never see freed memory, and counts the bytes,
//! which are the allocator's overhead.

use crate::superblock::{Mailbox, Ref, Superblock};
use bartender_pm::sync::atomic::{AtomicU64, Ordering::*};
use std::ptr::NonNull;

/// Descriptors that are allocated together.
const CHUNK: usize = if cfg!(loom) { 1 } else { 32 };
/// Kinds of bitmap pairs: 1, 2, 4 … 128 words each.
const KINDS: usize = crate::class::MAX_WORDS.trailing_zeros() as usize + 1;

/// Descriptors and bitmaps. Guarded by the global lock.
pub(crate) struct Pool {
    chunks: Vec<NonNull<[Superblock]>>,
    spare: Vec<Ref>,
    bitmaps: Vec<NonNull<[AtomicU64]>>,
    spare_bitmaps: [Vec<NonNull<AtomicU64>>; KINDS],
    bytes: u64,
}

// SAFETY: it owns what its pointers point to, and all of that is `Send`.
unsafe impl Send for Pool {}

impl Pool {
    /// An empty pool.
    pub(crate) fn new() -> Self {
        Pool {
            chunks: Vec::new(),
            spare: Vec::new(),
            bitmaps: Vec::new(),
            spare_bitmaps: std::array::from_fn(|_| Vec::new()),
            bytes: 0,
        }
    }

    /// A dead descriptor; if it is new, `mail` is its owner.
    pub(crate) fn descriptor(&mut self, mail: NonNull<Mailbox>) -> Ref {
        if let Some(spare) = self.spare.pop() {
            return spare;
        }
        let chunk: Box<[Superblock]> = (0..CHUNK).map(|_| Superblock::dead(mail)).collect();
        self.bytes += size_of_val(&*chunk) as u64;
        let chunk = NonNull::from(Box::leak(chunk));
        self.chunks.push(chunk);
        for at in (0..CHUNK).rev() {
            // SAFETY: within the chunk, which lives as long as the pool.
            self.spare
                .push(unsafe { Ref::new(chunk.cast::<Superblock>().add(at)) });
        }
        self.spare.pop().expect("a chunk holds a descriptor")
    }

    /// Two zeroed bitmaps of `words` words at least, one behind the other.
    pub(crate) fn bitmaps(&mut self, words: usize) -> NonNull<AtomicU64> {
        let kind = kind(words);
        if let Some(spare) = self.spare_bitmaps[kind].pop() {
            for at in 0..2 << kind {
                // SAFETY: bitmaps of this kind have so many words.
                unsafe { spare.add(at).as_ref() }.store(0, Relaxed);
            }
            return spare;
        }
        let bitmaps: Box<[AtomicU64]> = (0..2 << kind).map(|_| AtomicU64::new(0)).collect();
        self.bytes += size_of_val(&*bitmaps) as u64;
        let bitmaps = NonNull::from(Box::leak(bitmaps));
        self.bitmaps.push(bitmaps);
        bitmaps.cast()
    }

    /// Takes a dead descriptor and its bitmaps of `words` words back.
    pub(crate) fn give(&mut self, descriptor: Ref, bitmaps: NonNull<AtomicU64>, words: usize) {
        self.spare.push(descriptor);
        self.spare_bitmaps[kind(words)].push(bitmaps);
    }

    /// All descriptors, dead ones too.
    pub(crate) fn all(&self) -> impl Iterator<Item = Ref> + '_ {
        self.chunks.iter().flat_map(|chunk| {
            // SAFETY: within the chunk, which lives as long as the pool.
            (0..chunk.len()).map(|at| unsafe { Ref::new(chunk.cast::<Superblock>().add(at)) })
        })
    }

    /// Bytes of DRAM that it took.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn kind(words: usize) -> usize {
    words.next_power_of_two().trailing_zeros() as usize
}

impl Drop for Pool {
    fn drop(&mut self) {
        for chunk in self.chunks.drain(..) {
            // SAFETY: it was leaked from a box, and `Ref`s do not outlive the arena.
            drop(unsafe { Box::from_raw(chunk.as_ptr()) });
        }
        for bitmaps in self.bitmaps.drain(..) {
            // SAFETY: as above.
            drop(unsafe { Box::from_raw(bitmaps.as_ptr()) });
        }
    }
}

//! The bitmaps of a superblock, as who is not its owner finds them: where they
//! begin and how long they are in one word, so that nobody who is late reads
//! anything but bitmaps.

use super::Superblock;
use bartender_pm::sync::atomic::{AtomicU64, Ordering::*};
use std::ptr::NonNull;

/// Bitmaps of a superblock: free, remote.
pub(crate) const BITMAPS: usize = 2;

/// Logarithm of the words that a bitmap of `words` words is given.
pub(crate) fn kind(words: usize) -> usize {
    words.next_power_of_two().trailing_zeros() as usize
}

/// Bitmaps of a superblock as anyone may see them: so many words of the free
/// bitmap, then as many of the remote bitmap. Where they begin and how long they
/// are was read as one.
#[derive(Clone, Copy)]
pub(super) struct Bitmaps {
    start: NonNull<AtomicU64>,
    /// A power of 2, not less than the superblock has.
    words: usize,
}

impl Bitmaps {
    pub(super) fn of(superblock: &Superblock) -> Option<Bitmaps> {
        let tagged = superblock.shared.bitmaps.load(Acquire);
        let kind = tagged.addr() % 64;
        let start = NonNull::new(tagged.wrapping_byte_sub(kind))?;
        let words = 1 << kind;
        Some(Bitmaps { start, words })
    }

    /// A word of the free bitmap.
    pub(super) fn free(&self, at: usize) -> &AtomicU64 {
        self.word(at % self.words)
    }

    /// A word of the remote bitmap.
    pub(super) fn remote(&self, at: usize) -> &AtomicU64 {
        self.word(self.words + at % self.words)
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at < BITMAPS * self.words);
        // SAFETY: there are so many words, and they stay bitmaps (see `Pool`).
        unsafe { self.start.add(at).as_ref() }
    }
}

//! What a block is to the code that follows references: where one starts, how
//! long it is, and whether it was seen before.
//!
//! This is the seam between marking, which knows types, and the superblock
//! table, which knows extents. It holds no state.

use crate::class;

/// A block, live as far as the superblock table can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockRef {
    /// Number of its mark in this [`Blocks`].
    pub(crate) mark: u64,
    /// Home offset of its first byte.
    pub(crate) start: u64,
    /// Usable bytes.
    pub(crate) size: u64,
}

impl BlockRef {
    /// The word of its mark, and the bit in it.
    #[inline(always)]
    pub(crate) fn place(&self) -> (usize, u64) {
        (self.mark as usize / 64, 1 << (self.mark % 64))
    }
}

/// Blocks of one size side by side: all that it takes to find one of them without a look at the
/// table. The default is none at all.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Row {
    /// Home offset of the first one.
    pub(crate) start: u64,
    /// Bytes of them together.
    pub(crate) span: u64,
    /// Of their size, for [`class::divide`].
    pub(crate) reciprocal: u64,
    /// Bytes of each.
    pub(crate) size: u64,
    /// The number of the first one's mark.
    pub(crate) mark: u64,
}

impl Row {
    /// The block that starts at home offset `offset`, if it is one of these.
    #[inline(always)]
    pub(crate) fn locate(&self, offset: u64) -> Option<BlockRef> {
        let within = offset.wrapping_sub(self.start);
        if within >= self.span {
            return None;
        }
        let index = class::divide(within, self.reciprocal)?;
        Some(BlockRef {
            mark: self.mark + index,
            start: offset,
            size: self.size,
        })
    }
}

/// Why an address or offset is no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotABlock {
    /// Beyond the region's home.
    #[error("it lies outside of the region")]
    Outside,
    /// In no superblock: free space, the header or the table.
    #[error("nothing is allocated there")]
    NoSuperblock,
    /// In the middle of a block, or behind a superblock's last one.
    #[error("it is not the start of a block")]
    NotAStart,
    /// The block is free.
    #[error("the block is free")]
    Free,
}

/// Has the processor bring the line at `at` into its caches. Any address will do.
#[doc(hidden)]
#[inline(always)]
pub fn prefetch<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch is a hint: it reads nothing that the program can see and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}

/// The superblock table as marking sees it.
pub(crate) trait Blocks: Sync {
    /// The block that starts at home offset `offset`, or why there is none.
    fn locate(&self, offset: u64) -> Result<BlockRef, NotABlock>;

    /// The row that home offset `offset` lies in, if no block of it is known to be free.
    fn row(&self, offset: u64) -> Row {
        let _ = offset;
        Row::default()
    }

    /// Marks are numbered from 0 to less than `64 · words`.
    fn words(&self) -> usize;

    /// Sets the marks of `bits`, of which the lowest is number `64 · word`; false if one of
    /// them was set already.
    fn mark(&self, word: usize, bits: u64) -> bool;

    /// Notes that the word at home offset `offset` points to a block.
    #[inline]
    fn pointer(&self, offset: u64) {
        let _ = offset;
    }
}

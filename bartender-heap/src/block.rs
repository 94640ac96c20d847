//! What a block is to the code that follows references: where one starts, how
//! long it is, and whether it was seen before.
//!
//! This is the seam between marking, which knows types, and the superblock
//! table, which knows extents. It holds no state.

/// A block, live as far as the superblock table can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockRef {
    /// Number of its superblock in this [`Blocks`].
    pub(crate) superblock: u32,
    /// Number of the block in its superblock.
    pub(crate) index: u32,
    /// Home offset of its first byte.
    pub(crate) start: u64,
    /// Usable bytes.
    pub(crate) size: u64,
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

/// The superblock table as marking sees it.
pub(crate) trait Blocks: Sync {
    /// The block that starts at home offset `offset`, or why there is none.
    fn locate(&self, offset: u64) -> Result<BlockRef, NotABlock>;

    /// Sets the block's mark; false if it was set already.
    fn mark(&self, block: &BlockRef) -> bool;

    /// Notes that the word at home offset `offset` points to a block.
    #[inline]
    fn pointer(&self, offset: u64) {
        let _ = offset;
    }

    /// Brings what `locate` and `mark` will read for `offset` into the cache; any offset will do.
    fn prefetch(&self, offset: u64) {
        let _ = offset;
    }
}

//! What marking finds wrong with a value: cheap to make and to throw away, since the fast walk
//! does just that.

use crate::block::NotABlock;

/// One thing that a type does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("a null pointer")]
    Null,
    #[error("pointer {0:#x} leads out of the region")]
    Outside(u64),
    #[error("pointer {ptr:#x} is not aligned to {align}")]
    Misaligned { ptr: u64, align: u64 },
    #[error("pointer {ptr:#x} leads to no block: {why}")]
    NotABlock { ptr: u64, why: NotABlock },
    #[error("{need} bytes are needed, the block at {ptr:#x} has {size}")]
    TooSmall { ptr: u64, need: u64, size: u64 },
    /// The slow walk says by whom.
    #[error("the block at {0:#x} has two owners")]
    Shared(u64),
    #[error("the block at {0:#x} is shared as values of two types")]
    Twofold(u64),
    #[error("the shared block at {ptr:#x} counts {said} owners and has {found}")]
    Count { ptr: u64, said: u64, found: u64 },
    #[error("length {len} is over the capacity {cap}")]
    LenOverCap { len: u64, cap: u64 },
    #[error("a ring of {cap} places begins at place {head}")]
    Head { head: u64, cap: u64 },
    #[error("a capacity of {cap} elements of {size} bytes")]
    Overflow { cap: u64, size: u64 },
    #[error("{0} is no bool")]
    Bool(u8),
    #[error("{0:#x} is no char")]
    Char(u32),
    #[error("zero in a number that is never zero")]
    Zero,
    #[error("{value} is not below {end}")]
    Below { value: u64, end: u64 },
    #[error("no variant has the tag {0}")]
    Tag(u64),
    #[error("the text is not UTF-8 from byte {0} on")]
    Utf8(u64),
    #[error("the word of a lock is {0:#x} instead of zero")]
    LockWord(u64),
    #[error("a table with mask {0:#x}")]
    Mask(u64),
    #[error("a table without a block, but with {items} items and room for {growth_left}")]
    EmptyTable { items: u64, growth_left: u64 },
    #[error("a tree without a node, but with {len} entries and height {height}")]
    EmptyTree { len: u64, height: u64 },
    #[error("a tree of height {0}")]
    Height(u64),
    #[error("a tree of no entries has a node")]
    NoEntries,
    #[error("a tree of {said} entries has {found}")]
    Entries { tree: u64, said: u64, found: u64 },
    #[error("a node of {len} entries, with room for {cap}")]
    NodeLen { len: u64, cap: u64 },
    #[error("a node of level {found} where one of level {wanted} should be")]
    Level { found: u64, wanted: u64 },
    #[error("control byte {byte:#x} of bucket {bucket}")]
    Control { byte: u8, bucket: u64 },
    #[error("the copy of control byte {0} differs")]
    Mirror(u64),
    #[error("a table of {said} items has {found}")]
    Items { said: u64, found: u64 },
    #[error(
        "a table of {buckets} buckets with {items} items and {deleted} deleted ones cannot have room for {growth_left}"
    )]
    Growth {
        buckets: u64,
        items: u64,
        deleted: u64,
        growth_left: u64,
    },
}

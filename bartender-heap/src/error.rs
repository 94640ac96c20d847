//! What can go wrong with a heap, in words that say what to do next.

use crate::block::NotABlock;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A superblock or large run, for whoever looks for a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Around {
    /// Address of its first block.
    pub start: u64,
    /// Bytes of each block.
    pub block_size: u64,
    /// Its blocks.
    pub blocks: u32,
}

fn shown(around: &Option<Around>) -> String {
    around.as_ref().map_or(String::new(), |around| {
        let Around {
            start,
            block_size,
            blocks,
        } = around;
        format!(" (in the superblock at {start:#x}: {blocks} of {block_size} bytes)")
    })
}

/// An error of a heap.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The region under the heap refused.
    #[error(transparent)]
    Region(Box<bartender_pm::Error>),

    /// The region holds something else, or nothing.
    #[error(
        "the region holds no heap ({what}); create one in it, or open the file with the program that wrote it"
    )]
    NotAHeap {
        /// What was found instead.
        what: String,
    },

    /// The region holds a heap already.
    #[error("the region holds a heap already; open it instead")]
    HeapExists,

    /// The heap was written by a newer version of the library.
    #[error(
        "the heap has format {found}, this program knows up to {known}; open it with a newer version"
    )]
    NewerFormat {
        /// Format in the heap's header.
        found: u32,
        /// Newest format this build knows.
        known: u32,
    },

    /// The heap was written by an older version of the library, whose format this one does not read.
    #[error(
        "the heap has format {found}, this program reads {known}; open it with the version that wrote it, and copy the data"
    )]
    OlderFormat {
        /// Format in the heap's header.
        found: u32,
        /// The format of this build.
        known: u32,
    },

    /// The allocator's own state, which is not in the region, finds no room.
    #[error(
        "a region of up to {max_size} bytes takes {bytes} bytes of memory to look after, and there are not as many; recreate it with a smaller maximum size"
    )]
    NoMemory {
        /// Bytes that are needed.
        bytes: u64,
        /// The region's maximum size, set when it was created.
        max_size: u64,
    },

    /// The heap's own data in the region make no sense.
    #[error(
        "the heap is damaged at home offset {offset:#x}: {what}; restore the region from a copy"
    )]
    Damaged {
        /// Home offset of what does not fit.
        offset: u64,
        /// What was expected and what was found.
        what: String,
    },

    /// The description of the data's types breaks a rule: in a program, a mistake in how a type describes itself.
    #[error(transparent)]
    BadSchema(#[from] crate::types::BadSchema),

    /// The region holds typed data, and untyped data were asked for.
    #[error(
        "the region holds typed data (its root is `{root}`); open it with the program that has these types, or create another file"
    )]
    Typed {
        /// Name of the root's type.
        root: String,
    },

    /// The region holds untyped data, of which nobody knows where the pointers are.
    #[error(
        "the region was written through the C interface, its data have no types: a pointer in it cannot be told from a number, so it cannot be moved; free its home address (is a copy of it open?) and open it there"
    )]
    Immovable,

    /// A stored value holds something that its type does not allow.
    #[error(
        "the data are damaged at {path} (home offset {offset:#x}): {what}; restore the region from a copy"
    )]
    BadData {
        /// The way there from the root (`accounts[17].owner`).
        path: String,
        /// Home offset of the damaged value.
        offset: u64,
        /// What was expected and what was found.
        what: String,
    },

    /// Blocks are allocated that nothing refers to.
    #[error(
        "{blocks} blocks ({bytes} bytes) are allocated and cannot be reached from the root, the first at home offset {first:#x}; reopening the region after a crash collects them"
    )]
    Leaked {
        /// How many blocks.
        blocks: u64,
        /// How many bytes they take.
        bytes: u64,
        /// Home offset of the first one.
        first: u64,
    },

    /// An address that is no block of this heap.
    #[error("{address:#x} is not a block of this heap: {why}{}", shown(superblock))]
    NotABlock {
        /// The address.
        address: u64,
        /// Why it is none.
        why: NotABlock,
        /// What it lies in, if in anything.
        superblock: Option<Around>,
    },

    /// The block is free already.
    #[error("the block at {address:#x} was freed twice{}", shown(superblock))]
    DoubleFree {
        /// The block's address.
        address: u64,
        /// What it lies in; if nobody uses that any more, `None`.
        superblock: Option<Around>,
    },

    /// A request that no region of this size can ever answer.
    #[error("{size} bytes aligned to {align} cannot be allocated: {what}")]
    BadLayout {
        /// Bytes asked for.
        size: usize,
        /// Alignment asked for.
        align: usize,
        /// Why not.
        what: &'static str,
    },

    /// The heap is closed.
    #[error("the heap is closed")]
    Closed,
}

impl From<bartender_pm::Error> for Error {
    fn from(error: bartender_pm::Error) -> Self {
        match error {
            bartender_pm::Error::Closed => Error::Closed,
            error => Error::Region(Box::new(error)),
        }
    }
}

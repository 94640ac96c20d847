//! Everything of the heap that the medium holds, byte for byte. What is not
//! here does not survive.
//!
//! It promises fixed sizes and offsets, checked when it is compiled, and no
//! implicit padding. It does not read, check or write anything: `table`,
//! `types` and `heap` do.
//!
//! ```text
//! home ┌───────────┬──────────────┬──────────┬─────────────────────────────
//!      │ header    │ table        │ schema   │ superblocks and runs …
//!      │ unit 0    │ piece 0      │ n units  │
//!      └───────────┴──────────────┴──────────┴─────────────────────────────
//!        …then at 64 MiB · 2^k, for each k below the maximum size:
//!      ┌──────────────┬───────────────────────────────────────────────────
//!      │ table piece  │ superblocks and runs up to 64 MiB · 2^(k+1) …
//!      └──────────────┴───────────────────────────────────────────────────
//! ```
//!
//! Pieces of the table double, so that a young region pays for a small table
//! only, and a run of units can still be about half of the region long.

use std::mem::{align_of, offset_of, size_of};
use std::num::NonZeroU64;

/// Bytes of a unit, the smallest piece of home that changes hands as a whole.
pub const UNIT: u64 = 8 << 10;
/// log2 of [`UNIT`].
pub const UNIT_SHIFT: u32 = 13;
/// Units of a chunk. A superblock of a size class begins at a multiple of it, and
/// every superblock and run is at least so long: no two begin in one chunk.
pub const CHUNK_UNITS: u64 = 8;
/// log2 of the bytes of a chunk.
pub const CHUNK_SHIFT: u32 = UNIT_SHIFT + CHUNK_UNITS.trailing_zeros();
/// Bytes of a chunk.
pub const CHUNK: u64 = 1 << CHUNK_SHIFT;
/// Bytes of home that the first piece of the table describes.
pub const FIRST_PIECE: u64 = 64 << 20;
/// First bytes of a heap.
pub const MAGIC: [u8; 8] = *b"BTHEAP\r\n";
/// Version of everything in this file.
pub const FORMAT: u32 = 3;
/// Home offset of the header.
pub const HEADER: u64 = 0;
/// Home offset of the table's first piece.
pub const TABLE: u64 = UNIT;

/// The heap's header, at home offset 0.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeapHeader {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`FORMAT`].
    pub format: u32,
    /// CRC-32C of the bytes of `schema_offset` to `root_type`, which change together.
    pub crc: u32,
    /// Home offset of the encoded schema.
    pub schema_offset: u64,
    /// Bytes of the encoded schema.
    pub schema_len: u64,
    /// CRC-32C of the encoded schema.
    pub schema_crc: u32,
    /// Index of the root's type in the schema.
    pub root_type: u32,
    /// Address of the root's block, 0 for none.
    pub root: u64,
    /// The allocator's state as the last clean close left it.
    pub snapshot: SnapshotRef,
}

/// Where a clean close left the allocator's state.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotRef {
    /// Home offset of the snapshot, 0 for none.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// The region's generation that wrote it: good for the next one only.
    pub generation: u64,
    /// CRC-32C of it.
    pub crc: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<HeapHeader>() == 80);
const _: () = assert!(offset_of!(HeapHeader, schema_offset) == 16);
const _: () = assert!(offset_of!(HeapHeader, root) == 40);
const _: () = assert!(offset_of!(HeapHeader, snapshot) == 48);
const _: () = assert!(size_of::<SnapshotRef>() == 32);

/// One entry of the superblock table. There is one for each unit of the home;
/// the one of a superblock's (or large run's) first unit describes it.
///
/// Entries are never erased. Where the extents of two overlap, the one with
/// the higher birth is meant and the other is a remainder.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableEntry {
    /// Number of this superblock among all that this heap ever made, from 1. 0: no entry.
    pub birth: u64,
    /// Length in units.
    pub units: u32,
    /// Size class, or [`LARGE`](Self::LARGE).
    pub class: u16,
    /// Zero.
    pub flags: u16,
}

impl TableEntry {
    /// `class` of a large run: one block of `units` units.
    pub const LARGE: u16 = u16::MAX;

    /// The entry as the medium holds it.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.birth.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.units.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.class.to_le_bytes());
        bytes[14..].copy_from_slice(&self.flags.to_le_bytes());
        bytes
    }

    /// The entry that the medium holds; any bytes are one.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        TableEntry {
            birth: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            units: u32::from_le_bytes([i, j, k, l]),
            class: u16::from_le_bytes([m, n]),
            flags: u16::from_le_bytes([o, p]),
        }
    }
}

const _: () = assert!(size_of::<TableEntry>() == 16);
const _: () = assert!(offset_of!(TableEntry, units) == 8);
const _: () = assert!(offset_of!(TableEntry, class) == 12);
const _: () = assert!(offset_of!(TableEntry, flags) == 14);

/// Start of a saved allocator state; `count` [`SnapshotSuperblock`]s follow,
/// each followed by the words of its free bitmap (none for a large run).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The next superblock's birth.
    pub next_birth: u64,
    /// How many superblocks follow.
    pub count: u64,
}

/// One superblock of a saved allocator state.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotSuperblock {
    /// Its table entry.
    pub entry: TableEntry,
    /// Its first unit.
    pub unit: u64,
}

const _: () = assert!(size_of::<SnapshotHeader>() == 16);
const _: () = assert!(size_of::<SnapshotSuperblock>() == 24);
const _: () = assert!(offset_of!(SnapshotSuperblock, unit) == 16);

/// A stored box: the absolute address of its block. `Option` of it is 8 bytes,
/// `None` is 0.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawBox {
    /// Address in the view.
    pub ptr: NonZeroU64,
}

const _: () = assert!(size_of::<RawBox>() == 8 && size_of::<Option<RawBox>>() == 8);

/// A stored vector: `cap == 0` means no block, and `ptr` dangles (it
/// is the alignment of an element). Else `len` elements stand at `ptr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawVec {
    /// Address in the view.
    pub ptr: u64,
    /// Elements that the block holds.
    pub cap: u64,
    /// Elements that are there.
    pub len: u64,
}

const _: () = assert!(size_of::<RawVec>() == 24 && align_of::<RawVec>() == 8);
const _: () = assert!(offset_of!(RawVec, cap) == 8 && offset_of!(RawVec, len) == 16);

/// A stored text. One of at most [`ROOM`](Self::ROOM) bytes may stand in the value itself, from its first byte on; its last
/// byte is [`SHORT`](Self::SHORT) plus the length then, and what is between is zero. Any other is a [`RawVec`] of bytes, whose
/// length is below 2⁵⁶.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawStr {
    /// The text, or a `RawVec`.
    pub bytes: [u8; RawStr::ROOM],
    /// Which of the two: see above.
    pub tag: u8,
}

impl RawStr {
    /// Bytes of the longest text that stands in the value itself.
    pub const ROOM: usize = 23;
    /// The bit of the tag that is set if the text stands there.
    pub const SHORT: u8 = 0x80;
}

const _: () = assert!(size_of::<RawStr>() == size_of::<RawVec>() && align_of::<RawStr>() == 8);
const _: () = assert!(offset_of!(RawStr, tag) == 23 && offset_of!(RawVec, len) + 7 == 23);
const _: () = assert!(cfg!(target_endian = "little"));

/// A stored ring of elements: `cap == 0` means no block, `ptr` dangles (it is the alignment of an element) and `head` is 0.
/// Else the element `i` of `len` stands at place `(head + i) mod cap` of the block, and `head < cap`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawDeque {
    /// Address in the view.
    pub ptr: u64,
    /// Elements that the block holds.
    pub cap: u64,
    /// Place of the first element.
    pub head: u64,
    /// Elements that are there.
    pub len: u64,
}

const _: () = assert!(size_of::<RawDeque>() == 32 && align_of::<RawDeque>() == 8);
const _: () = assert!(offset_of!(RawDeque, cap) == 8 && offset_of!(RawDeque, head) == 16);
const _: () = assert!(offset_of!(RawDeque, len) == 24);

/// A stored box of a slice or of text: `len == 0` means no block, and `ptr` dangles. Else the block at `ptr` holds `len`
/// elements and no more. `Option` of it is 16 bytes, `None` is told by a `ptr` of 0.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawSlice {
    /// Address in the view.
    pub ptr: NonZeroU64,
    /// Elements that are there.
    pub len: u64,
}

const _: () = assert!(size_of::<RawSlice>() == 16 && size_of::<Option<RawSlice>>() == 16);
const _: () = assert!(offset_of!(RawSlice, len) == 8);

/// A stored hash table. `mask == 0`: empty, no block, `ptr` dangles. Else the
/// block at `ptr` holds `mask + 1` buckets (a power of two, at least 16):
///
/// ```text
/// control bytes: buckets + 16, the first 16 again at the end
/// padding to the alignment of an entry
/// entries: buckets × { key, value }   (repr(C))
/// ```
///
/// A control byte is [`CTRL_EMPTY`](Self::CTRL_EMPTY),
/// [`CTRL_DELETED`](Self::CTRL_DELETED), or the top 7 bits of the key's hash.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawTable {
    /// Address in the view.
    pub ptr: u64,
    /// Buckets − 1.
    pub mask: u64,
    /// Full buckets.
    pub items: u64,
    /// Empty buckets that may be filled before the table grows.
    pub growth_left: u64,
    /// Seed of the hash function.
    pub seed: u64,
}

impl RawTable {
    /// Control byte of a bucket that was never full.
    pub const CTRL_EMPTY: u8 = 0xff;
    /// Control byte of a bucket that was full.
    pub const CTRL_DELETED: u8 = 0x80;
    /// Control bytes are looked at in groups of so many.
    pub const GROUP: u64 = 16;
}

const _: () = assert!(size_of::<RawTable>() == 40 && align_of::<RawTable>() == 8);
const _: () = assert!(offset_of!(RawTable, mask) == 8 && offset_of!(RawTable, items) == 16);
const _: () = assert!(offset_of!(RawTable, growth_left) == 24);
const _: () = assert!(offset_of!(RawTable, seed) == 32);

/// A stored ordered map: `root == 0` means no entry, and then all is zero. Else the node at `root` is at level
/// `height`, and all nodes together have `len` entries.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawTree {
    /// Address in the view of the root's node.
    pub root: u64,
    /// Level of the root; leaves are at level 0.
    pub height: u64,
    /// Entries that are there.
    pub len: u64,
}

const _: () = assert!(size_of::<RawTree>() == 24 && align_of::<RawTree>() == 8);
const _: () = assert!(offset_of!(RawTree, height) == 8 && offset_of!(RawTree, len) == 16);

/// The start of a tree's node, a block of its own. Behind it, each part aligned as its elements are:
///
/// ```text
/// keys: capacity × key, the first len are there
/// values: capacity × value, the first len are there
/// (above level 0) children: (capacity + 1) × address of a node one level below, the first len + 1 are there
/// ```
///
/// The entries below child `i` stand before entry `i`, those below child `i + 1` behind it. No node is empty.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawNode {
    /// Entries that are there.
    pub len: u32,
    /// Its level: 0 for a leaf.
    pub level: u32,
}

impl RawNode {
    /// Levels of a tree, at most.
    pub const LEVELS: usize = 24;
}

const _: () = assert!(size_of::<RawNode>() == 8 && align_of::<RawNode>() == 4);
const _: () = assert!(offset_of!(RawNode, level) == 4);

/// A stored lock's word: always zero on the medium, the lock's state is in DRAM.
/// A lock's value follows it (`repr(C)`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RawLock {
    /// Zero.
    pub word: u64,
}

const _: () = assert!(size_of::<RawLock>() == 8 && align_of::<RawLock>() == 8);

/// One root by its name, of a region without types. The header's root slot leads
/// to a block that holds nothing else, as many as fit it.
///
/// A place that is not used is all zeroes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedRoot {
    /// The name, not empty and without a zero byte, then zeroes, at least one.
    pub name: [u8; 56],
    /// An address in a block.
    pub address: u64,
}

impl NamedRoot {
    /// A place that is not used.
    pub const NONE: NamedRoot = NamedRoot {
        name: [0; 56],
        address: 0,
    };
    /// Longest name.
    pub const MAX_NAME: usize = 55;

    /// The root `name` at `address`; `None` if the name is empty, too long or has a zero byte.
    pub fn new(name: &[u8], address: u64) -> Option<NamedRoot> {
        if name.is_empty() || name.len() > Self::MAX_NAME || name.contains(&0) {
            return None;
        }
        let mut root = NamedRoot {
            address,
            ..NamedRoot::NONE
        };
        root.name[..name.len()].copy_from_slice(name);
        Some(root)
    }

    /// Its name, without the zeroes.
    pub fn name(&self) -> &[u8] {
        let len = self.name.iter().position(|byte| *byte == 0);
        &self.name[..len.unwrap_or(Self::MAX_NAME)]
    }

    /// Whether the place is used.
    pub fn is_used(&self) -> bool {
        self.name[0] != 0
    }

    /// Whether it is one that `new` makes, or not used.
    pub fn is_sound(&self) -> bool {
        let zeroes = self.name[self.name().len()..].iter().all(|byte| *byte == 0);
        zeroes && self.name[Self::MAX_NAME] == 0 && (self.is_used() == (self.address != 0))
    }

    /// The root as the medium holds it.
    pub fn to_bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..56].copy_from_slice(&self.name);
        bytes[56..].copy_from_slice(&self.address.to_le_bytes());
        bytes
    }

    /// The root that the medium holds; any bytes are one.
    pub fn from_bytes(bytes: &[u8; 64]) -> NamedRoot {
        let mut root = NamedRoot::NONE;
        let (name, address) = bytes.split_at(56);
        root.name.copy_from_slice(name);
        root.address = u64::from_le_bytes(std::array::from_fn(|i| address[i]));
        root
    }
}

const _: () = assert!(size_of::<NamedRoot>() == 64 && align_of::<NamedRoot>() == 8);
const _: () = assert!(offset_of!(NamedRoot, address) == 56);

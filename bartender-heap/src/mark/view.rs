//! The bytes that marking reads, and the checks of the raw structs in them that both walks share.
//!
//! What the program's readers take for granted of stored bytes, in safe code without a look, and which check makes it so:
//!
//! | reader | trusts | checked by |
//! |---|---|---|
//! | every pointer | not null, aligned, the start of a block that is live, has room, and that nothing else owns | `follow`, `locate`, the marks (`run`); `counted` where several own it |
//! | `PVec`, `PString` | `len ≤ cap`, a block of `cap` elements, or a short text that fits; text is UTF-8 | `vec`, `text`, `check_text` |
//! | `PHashMap`, `PHashSet` | a power of two of buckets, the block's size; control bytes that are full, empty or deleted, the first group mirrored; `items` are full; an eighth at least is empty, or a search would not end | `table`, `Table::check` |
//! | `PVecDeque` | the same, and a first place within the ring | `deque` |
//! | `PBox<[T]>` | a length that its block has room for | `slice` |
//! | trees | levels that fall by one to 0, nodes of 1 to `cap` entries, `len` of them in all | `tree`, `node`, `node_len`; `entries` sums them up |
//! | `bool`, `char`, `NonZero*`, tags of enums and options | a value that the type has; an option's niche is what the compiler said | `check_bool`, `check_char`, `check_nonzero`, `run/values` |
//! | locks | a word of zero, as their state is elsewhere | `check_lock` |
//! | all of it | nothing nests deeper, overlaps, or is longer than the description says | `types/check` when that is read |
//!
//! Not checked, since nobody's safety rests on it: that keys stand in buckets of their hash, and are different; that trees are
//! in the order of their keys; that zeros stand behind a short text. Such a collection gives wrong answers, and no others.
//!
//! Every read is bounds-checked, so no bytes can lead out of the view; what comes back are
//! numbers, never values of a program's types.

use super::fault::Fault;
use crate::block::{BlockRef, Blocks, Row};
use crate::layout::{RawDeque, RawNode, RawSlice, RawStr, RawTable, RawTree, RawVec};
use crate::types::{EntryLayout, NodeLayout};
use std::mem::offset_of;

/// Home space as it can be read here: `bytes[i]` is what the program sees at the address
/// `home_base + i`.
///
/// The bytes need not lie at `home_base`: a frozen mapping elsewhere will do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    /// The address of home offset 0 in the program's pointers.
    pub(crate) home_base: u64,
    /// A second address that pointers count from, apart from the first: while a
    /// region moves, it holds pointers of both. Else the same.
    pub(crate) other_base: u64,
    /// Home offsets 0 to the region's size.
    pub(crate) bytes: &'a [u8],
}

impl<'a> View<'a> {
    /// `bytes` as what the program sees in a home that begins at `base` for it.
    pub(crate) fn at(base: usize, bytes: &'a [u8]) -> View<'a> {
        View {
            home_base: base as u64,
            other_base: base as u64,
            bytes,
        }
    }
}

/// Where a stored text stands.
pub(super) enum Text<'a> {
    /// In the value.
    Short(&'a [u8]),
    /// In a block, or nowhere.
    Long(Option<Target>),
}

/// A block that a raw struct points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    /// Home offset.
    pub(super) offset: u64,
    /// Bytes it must have at least.
    pub(super) need: u64,
    /// Elements that are there (of a table: buckets).
    pub(super) count: u64,
}

/// Elements that go round in a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ring {
    /// Places.
    pub(super) cap: u64,
    /// Place of the first element.
    pub(super) head: u64,
    /// Elements.
    pub(super) len: u64,
}

impl Ring {
    /// The place of element `index`.
    pub(super) fn place(&self, index: u64) -> u64 {
        // No sum overflows: the places are in a block, and `index` is below `len`.
        match self.head + index {
            place if place < self.cap => place,
            place => place - self.cap,
        }
    }

    /// Elements before the end of the block, and those that stand at its start.
    pub(super) fn parts(&self) -> (u64, u64) {
        let front = self.len.min(self.cap - self.head);
        (front, self.len - front)
    }
}

/// What the control bytes of a table say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub(super) buckets: u64,
    pub(super) items: u64,
    pub(super) growth_left: u64,
}

impl<'a> View<'a> {
    /// The bytes of a range of home offsets.
    #[inline(always)]
    pub(super) fn range(&self, offset: u64, len: u64) -> Result<&'a [u8], Fault> {
        let from = usize::try_from(offset).ok();
        let from = from.and_then(|offset| self.bytes.get(offset..));
        let len = usize::try_from(len).ok();
        match (from, len) {
            (Some(from), Some(len)) if len <= from.len() => Ok(&from[..len]),
            _ => Err(self.outside(offset)),
        }
    }

    #[cold]
    fn outside(&self, offset: u64) -> Fault {
        Fault::Outside(self.address(offset))
    }

    /// The address of a home offset.
    pub(super) fn address(&self, offset: u64) -> u64 {
        self.home_base.wrapping_add(offset)
    }

    /// Where `ptr` leads.
    #[inline]
    pub(super) fn follow(&self, ptr: u64, align: u64) -> Result<u64, Fault> {
        self.follow_masked(ptr, align - 1)
    }

    /// Where `ptr` leads, whose bits of `mask` are to be 0.
    #[inline(always)]
    pub(super) fn follow_masked(&self, ptr: u64, mask: u64) -> Result<u64, Fault> {
        dangling(ptr, mask + 1)?;
        let offset = ptr.wrapping_sub(self.home_base);
        if offset < self.bytes.len() as u64 {
            return Ok(offset);
        }
        self.follow_other(ptr)
    }

    #[cold]
    fn follow_other(&self, ptr: u64) -> Result<u64, Fault> {
        let offset = ptr.wrapping_sub(self.other_base);
        if offset < self.bytes.len() as u64 {
            return Ok(offset);
        }
        Err(Fault::Outside(ptr))
    }

    /// The block at home offset `offset`, to which something points that needs `need` bytes of
    /// it.
    #[inline]
    pub(super) fn locate(
        &self,
        blocks: &impl Blocks,
        offset: u64,
        need: u64,
    ) -> Result<BlockRef, Fault> {
        let block = self.locate_one(blocks, offset, need)?;
        // From here on no sum of an offset in the block and a length can overflow.
        if block.size > (self.bytes.len() as u64).saturating_sub(offset) {
            return Err(Fault::Outside(self.address(offset)));
        }
        Ok(block)
    }

    /// The same for a block of one value, whose end is in the view if `range` says so.
    #[inline(always)]
    pub(super) fn locate_one(
        &self,
        blocks: &impl Blocks,
        offset: u64,
        need: u64,
    ) -> Result<BlockRef, Fault> {
        let ptr = self.address(offset);
        let block = match blocks.locate(offset) {
            Ok(block) => block,
            Err(why) => return Err(Fault::NotABlock { ptr, why }),
        };
        if block.size < need {
            let size = block.size;
            return Err(Fault::TooSmall { ptr, need, size });
        }
        Ok(block)
    }

    /// The same, with a look at the row of the block before; `row` is that of this one then.
    #[inline(always)]
    pub(super) fn locate_near(
        &self,
        blocks: &impl Blocks,
        row: &mut Row,
        offset: u64,
        need: u64,
    ) -> Result<BlockRef, Fault> {
        if let Some(block) = row.locate(offset)
            && block.size >= need
        {
            return Ok(block);
        }
        let block = self.locate_one(blocks, offset, need)?;
        *row = blocks.row(offset);
        Ok(block)
    }

    /// The block of the box `ptr`; none if the value has no bytes.
    #[inline]
    pub(super) fn boxed(&self, ptr: u64, size: u64, align: u64) -> Result<Option<Target>, Fault> {
        if size == 0 {
            dangling(ptr, align)?;
            return Ok(None);
        }
        let offset = self.follow(ptr, align)?;
        Ok(Some(Target {
            offset,
            need: size,
            count: 1,
        }))
    }

    /// The block of the `RawVec` in `raw`, if it has one.
    #[inline]
    pub(super) fn vec(&self, raw: &[u8], size: u64, align: u64) -> Result<Option<Target>, Fault> {
        let ptr = u64_at(raw, offset_of!(RawVec, ptr));
        let cap = u64_at(raw, offset_of!(RawVec, cap));
        let len = u64_at(raw, offset_of!(RawVec, len));
        if size == 0 {
            // Elements without bytes need no capacity.
            dangling(ptr, align)?;
            return Ok(None);
        }
        if len > cap {
            return Err(Fault::LenOverCap { len, cap });
        }
        if cap == 0 {
            dangling(ptr, align)?;
            return Ok(None);
        }
        let need = cap.checked_mul(size).ok_or(Fault::Overflow { cap, size })?;
        let offset = self.follow(ptr, align)?;
        Ok(Some(Target {
            offset,
            need,
            count: len,
        }))
    }

    /// The text of the `RawStr` in `raw`, or its block, if it has one.
    #[inline]
    pub(super) fn text<'r>(&self, raw: &'r [u8]) -> Result<Text<'r>, Fault> {
        let tag = raw[offset_of!(RawStr, tag)];
        if tag & RawStr::SHORT == 0 {
            return Ok(Text::Long(self.vec(raw, 1, 1)?));
        }
        let len = usize::from(tag & !RawStr::SHORT);
        if len > RawStr::ROOM {
            return Err(Fault::LenOverCap {
                len: len as u64,
                cap: RawStr::ROOM as u64,
            });
        }
        Ok(Text::Short(&raw[..len]))
    }

    /// The block of the `RawSlice` in `raw`, if it has one.
    #[inline]
    pub(super) fn slice(&self, raw: &[u8], size: u64, align: u64) -> Result<Option<Target>, Fault> {
        let ptr = u64_at(raw, offset_of!(RawSlice, ptr));
        let len = u64_at(raw, offset_of!(RawSlice, len));
        if size == 0 || len == 0 {
            dangling(ptr, align)?;
            return Ok(None);
        }
        let need = len.checked_mul(size);
        let need = need.ok_or(Fault::Overflow { cap: len, size })?;
        let offset = self.follow(ptr, align)?;
        Ok(Some(Target {
            offset,
            need,
            count: len,
        }))
    }

    /// The block of the `RawDeque` in `raw`, if it has one.
    pub(super) fn deque(
        &self,
        raw: &[u8],
        size: u64,
        align: u64,
    ) -> Result<Option<(Target, Ring)>, Fault> {
        let ptr = u64_at(raw, offset_of!(RawDeque, ptr));
        let cap = u64_at(raw, offset_of!(RawDeque, cap));
        let head = u64_at(raw, offset_of!(RawDeque, head));
        let len = u64_at(raw, offset_of!(RawDeque, len));
        if size == 0 {
            dangling(ptr, align)?;
            return Ok(None);
        }
        if len > cap {
            return Err(Fault::LenOverCap { len, cap });
        }
        if head >= cap.max(1) {
            return Err(Fault::Head { head, cap });
        }
        if cap == 0 {
            dangling(ptr, align)?;
            return Ok(None);
        }
        let need = cap.checked_mul(size).ok_or(Fault::Overflow { cap, size })?;
        let offset = self.follow(ptr, align)?;
        let target = Target {
            offset,
            need,
            count: len,
        };
        Ok(Some((target, Ring { cap, head, len })))
    }

    /// The block of the `RawTable` in `raw`, if it has one.
    pub(super) fn table(
        &self,
        raw: &[u8],
        entry: &EntryLayout,
    ) -> Result<Option<(Target, Table)>, Fault> {
        let ptr = u64_at(raw, offset_of!(RawTable, ptr));
        let mask = u64_at(raw, offset_of!(RawTable, mask));
        let items = u64_at(raw, offset_of!(RawTable, items));
        let growth_left = u64_at(raw, offset_of!(RawTable, growth_left));
        if mask == 0 {
            if items != 0 || growth_left != 0 {
                return Err(Fault::EmptyTable { items, growth_left });
            }
            dangling(ptr, 1)?;
            return Ok(None);
        }
        let buckets = mask.checked_add(1).ok_or(Fault::Mask(mask))?;
        if !buckets.is_power_of_two() || buckets < RawTable::GROUP {
            return Err(Fault::Mask(mask));
        }
        let need = entries_at(buckets, entry)
            .and_then(|start| start.checked_add(buckets.checked_mul(entry.size)?))
            .ok_or(Fault::Overflow {
                cap: buckets,
                size: entry.size,
            })?;
        // Control bytes are read a group at a time.
        let offset = self.follow(ptr, entry.align.max(RawTable::GROUP))?;
        let target = Target {
            offset,
            need,
            count: buckets,
        };
        let table = Table {
            buckets,
            items,
            growth_left,
        };
        Ok(Some((target, table)))
    }
}

impl View<'_> {
    /// The root's node of the `RawTree` in `raw`, if it has one; its `count` is its level.
    pub(super) fn tree(&self, raw: &[u8], node: &NodeLayout) -> Result<Option<Target>, Fault> {
        let root = u64_at(raw, offset_of!(RawTree, root));
        let height = u64_at(raw, offset_of!(RawTree, height));
        let len = u64_at(raw, offset_of!(RawTree, len));
        if root == 0 {
            return match (len, height) {
                (0, 0) => Ok(None),
                _ => Err(Fault::EmptyTree { len, height }),
            };
        }
        if height >= RawNode::LEVELS as u64 {
            return Err(Fault::Height(height));
        }
        if len == 0 {
            return Err(Fault::NoEntries);
        }
        self.node(root, height, node).map(Some)
    }

    /// The height of the tree at home offset `at`, and how many entries it says that it has.
    #[inline]
    pub(super) fn promise(&self, at: u64) -> Result<(u64, u64), Fault> {
        let raw = self.range(at, size_of::<RawTree>() as u64)?;
        let height = u64_at(raw, offset_of!(RawTree, height));
        Ok((height, u64_at(raw, offset_of!(RawTree, len))))
    }

    /// The node of a tree to which `ptr` leads, on level `level`.
    #[inline]
    pub(super) fn node(&self, ptr: u64, level: u64, node: &NodeLayout) -> Result<Target, Fault> {
        Ok(Target {
            offset: self.follow(ptr, node.align)?,
            need: node.bytes(level),
            count: level,
        })
    }

    /// The entries of the node at home offset `offset`, which is on level `level`.
    #[inline]
    pub(super) fn node_len(
        &self,
        offset: u64,
        level: u64,
        node: &NodeLayout,
    ) -> Result<u64, Fault> {
        let head = self.range(offset, size_of::<RawNode>() as u64)?;
        let len = uint_at(head, offset_of!(RawNode, len), 4);
        let found = uint_at(head, offset_of!(RawNode, level), 4);
        if found != level {
            let wanted = level;
            return Err(Fault::Level { found, wanted });
        }
        if len == 0 || len > node.cap {
            let cap = node.cap;
            return Err(Fault::NodeLen { len, cap });
        }
        Ok(len)
    }
}

/// Bytes of a `RawDeque`.
pub(super) const DEQUE_SIZE: u64 = size_of::<RawDeque>() as u64;

/// Bytes of a `RawTable`.
pub(super) const TABLE_SIZE: u64 = size_of::<RawTable>() as u64;

impl Table {
    /// Bytes of the control bytes and their copies.
    pub(super) fn ctrl_len(&self) -> u64 {
        self.buckets + RawTable::GROUP
    }

    /// Offset of the entries from the start of the block.
    pub(super) fn entries_at(&self, entry: &EntryLayout) -> u64 {
        entries_at(self.buckets, entry).expect("`View::table` has computed it")
    }

    /// Checks the control bytes of the table, `buckets` and their first group again.
    pub(super) fn check(&self, ctrl: &[u8]) -> Result<(), Fault> {
        let (ctrl, mirror) = ctrl.split_at(self.buckets as usize);
        let full = ctrl.iter().filter(|&&byte| is_full(byte)).count() as u64;
        let empty = count(ctrl, RawTable::CTRL_EMPTY);
        let deleted = count(ctrl, RawTable::CTRL_DELETED);
        if full + empty + deleted != self.buckets {
            let known = |byte| {
                is_full(byte) || byte == RawTable::CTRL_EMPTY || byte == RawTable::CTRL_DELETED
            };
            let bucket = ctrl.iter().position(|&byte| !known(byte)).unwrap_or(0);
            return Err(Fault::Control {
                byte: ctrl[bucket],
                bucket: bucket as u64,
            });
        }
        if let Some(at) = mirror.iter().zip(ctrl).position(|(a, b)| a != b) {
            return Err(Fault::Mirror(at as u64));
        }
        if full != self.items {
            return Err(Fault::Items {
                said: self.items,
                found: full,
            });
        }
        // One bucket of eight stays empty, or a search for what is not there would not end.
        let room = self.buckets / 8 * 7;
        if full
            .checked_add(deleted)
            .and_then(|used| room.checked_sub(used))
            != Some(self.growth_left)
        {
            return Err(Fault::Growth {
                buckets: self.buckets,
                items: full,
                deleted,
                growth_left: self.growth_left,
            });
        }
        Ok(())
    }
}

fn count(ctrl: &[u8], what: u8) -> u64 {
    ctrl.iter().filter(|&&byte| byte == what).count() as u64
}

/// Whether a control byte is that of a bucket with an entry.
#[inline]
pub(super) fn is_full(ctrl: u8) -> bool {
    ctrl < 0x80
}

fn entries_at(buckets: u64, entry: &EntryLayout) -> Option<u64> {
    buckets
        .checked_add(RawTable::GROUP)?
        .checked_next_multiple_of(entry.align)
}

/// The checks of every pointer, also of one that leads nowhere.
#[inline(always)]
fn dangling(ptr: u64, align: u64) -> Result<(), Fault> {
    if ptr == 0 {
        return Err(Fault::Null);
    }
    if ptr & (align - 1) != 0 {
        return Err(Fault::Misaligned { ptr, align });
    }
    Ok(())
}

/// The word at `at` of a value.
///
/// # Panics
///
/// When the value ends before: the schema's rules keep every part inside of its whole.
#[inline]
pub(super) fn u64_at(value: &[u8], at: usize) -> u64 {
    let bytes = value[at..at + 8].try_into().expect("eight bytes");
    u64::from_le_bytes(bytes)
}

/// The number of `size` bytes (1, 2, 4 or 8) at `at` of a value.
#[inline]
pub(super) fn uint_at(value: &[u8], at: usize, size: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..size].copy_from_slice(&value[at..at + size]);
    u64::from_le_bytes(bytes)
}

#[inline]
pub(super) fn check_bool(byte: u8) -> Result<(), Fault> {
    match byte {
        0 | 1 => Ok(()),
        _ => Err(Fault::Bool(byte)),
    }
}

#[inline]
pub(super) fn check_char(value: u32) -> Result<(), Fault> {
    match char::from_u32(value) {
        Some(_) => Ok(()),
        None => Err(Fault::Char(value)),
    }
}

#[inline]
pub(super) fn check_lock(word: u64) -> Result<(), Fault> {
    match word {
        0 => Ok(()),
        _ => Err(Fault::LockWord(word)),
    }
}

#[inline]
pub(super) fn check_nonzero(bytes: &[u8]) -> Result<(), Fault> {
    match bytes.iter().any(|&byte| byte != 0) {
        true => Ok(()),
        false => Err(Fault::Zero),
    }
}

#[inline]
pub(super) fn check_below(value: u64, end: u64) -> Result<(), Fault> {
    match value < end {
        true => Ok(()),
        false => Err(Fault::Below { value, end }),
    }
}

pub(super) fn check_text(bytes: &[u8]) -> Result<(), Fault> {
    match std::str::from_utf8(bytes) {
        Ok(_) => Ok(()),
        Err(error) => Err(Fault::Utf8(error.valid_up_to() as u64)),
    }
}

//! An image of a heap for tests: blocks cut one after the other from a piece of memory, and the
//! sample values in them.

use crate::block::{BlockRef, Blocks, NotABlock};
use crate::layout::{RawBox, RawDeque, RawNode, RawSlice, RawTable, RawTree, RawVec};
use crate::mark::View;
use crate::types::NodeLayout;
use crate::types::sample::{PBox, PDeque, PMap, PSlice, PString, PText, PTree, PVec, TREE_CAP};
use bartender_pm::sync::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::marker::PhantomData;
use std::mem::{align_of, size_of};

/// Where the image says that it lies.
pub(crate) const BASE: u64 = 0x2000_4000_0000;

#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    /// Start and size of every block.
    pub(crate) table: BTreeMap<u64, u64>,
    marks: Mutex<HashSet<u64>>,
}

impl Clone for Image {
    fn clone(&self) -> Self {
        Image {
            bytes: self.bytes.clone(),
            table: self.table.clone(),
            marks: Mutex::new(HashSet::new()),
        }
    }
}

impl Image {
    pub(crate) fn new() -> Self {
        Image {
            // Home offset 0 is the header's; pointers to it are wrong.
            bytes: vec![0; 64],
            table: BTreeMap::new(),
            marks: Mutex::new(HashSet::new()),
        }
    }

    pub(crate) fn view(&self) -> View<'_> {
        View {
            home_base: BASE,
            other_base: BASE,
            bytes: &self.bytes,
        }
    }

    /// Forgets the marks, and gives them.
    pub(crate) fn take_marks(&self) -> HashSet<u64> {
        std::mem::take(&mut self.marks.lock())
    }

    /// A new block; the bytes before and after it belong to nobody.
    pub(crate) fn block(&mut self, size: usize, align: usize) -> u64 {
        let start = (self.bytes.len() + 8).next_multiple_of(align.max(8));
        self.bytes.resize(start + size + 8, 0);
        self.table.insert(start as u64, size as u64);
        start as u64
    }

    /// Writes a value at a home offset.
    pub(crate) fn write<T: Copy>(&mut self, offset: u64, value: T) {
        let place = &mut self.bytes[offset as usize..offset as usize + size_of::<T>()];
        // SAFETY: `place` has the size of a `T`, and the write needs no alignment.
        unsafe { place.as_mut_ptr().cast::<T>().write_unaligned(value) };
    }

    pub(crate) fn boxed<T: Copy>(&mut self, value: T) -> PBox<T> {
        let offset = self.block(size_of::<T>(), align_of::<T>());
        self.write(offset, value);
        let ptr = (BASE + offset).try_into().expect("not null");
        PBox(RawBox { ptr }, PhantomData)
    }

    fn raw_vec<T: Copy>(&mut self, values: &[T], cap: usize) -> RawVec {
        let size = size_of::<T>();
        if cap == 0 {
            let ptr = align_of::<T>() as u64;
            return RawVec {
                ptr,
                cap: 0,
                len: 0,
            };
        }
        let offset = self.block(cap * size, align_of::<T>());
        for (i, &value) in values.iter().enumerate() {
            self.write(offset + (i * size) as u64, value);
        }
        RawVec {
            ptr: BASE + offset,
            cap: cap as u64,
            len: values.len() as u64,
        }
    }

    /// A vector with room for one more element, unless it is empty.
    pub(crate) fn vec<T: Copy>(&mut self, values: &[T]) -> PVec<T> {
        let cap = if values.is_empty() {
            0
        } else {
            values.len() + 1
        };
        PVec(self.raw_vec(values, cap), PhantomData)
    }

    /// A ring of `cap` places, of which `head` is the first element's.
    pub(crate) fn deque<T: Copy>(&mut self, values: &[T], cap: u64, head: u64) -> PDeque<T> {
        let (size, align) = (size_of::<T>() as u64, align_of::<T>());
        let len = values.len() as u64;
        let mut ptr = align as u64;
        if cap != 0 {
            let offset = self.block((cap * size) as usize, align);
            for (i, &value) in values.iter().enumerate() {
                self.write(offset + (head + i as u64) % cap * size, value);
            }
            ptr = BASE + offset;
        }
        let raw = RawDeque {
            ptr,
            cap,
            head,
            len,
        };
        PDeque(raw, PhantomData)
    }

    fn raw_slice<T: Copy>(&mut self, values: &[T]) -> RawSlice {
        let RawVec { ptr, len, .. } = self.raw_vec(values, values.len());
        let ptr = ptr.try_into().expect("not null");
        RawSlice { ptr, len }
    }

    pub(crate) fn slice<T: Copy>(&mut self, values: &[T]) -> PSlice<T> {
        PSlice(self.raw_slice(values), PhantomData)
    }

    pub(crate) fn boxed_text(&mut self, text: &str) -> PText {
        PText(self.raw_slice(text.as_bytes()))
    }

    pub(crate) fn text(&mut self, text: &str) -> PString {
        PString(self.raw_vec(text.as_bytes(), text.len()))
    }

    /// A table with the entries in every second bucket, and one deleted one.
    pub(crate) fn map<K: Copy, V: Copy>(&mut self, entries: &[(K, V)]) -> PMap<K, V> {
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct Entry<K, V>(K, V);
        if entries.is_empty() {
            let raw = RawTable {
                ptr: 16,
                mask: 0,
                items: 0,
                growth_left: 0,
                seed: 1,
            };
            return PMap(raw, PhantomData);
        }
        let buckets = (entries.len() * 2 + 2).next_power_of_two().max(16);
        let start = (buckets + 16).next_multiple_of(align_of::<Entry<K, V>>());
        let size = size_of::<Entry<K, V>>();
        let offset = self.block(start + buckets * size, align_of::<Entry<K, V>>().max(16));
        let mut ctrl = vec![RawTable::CTRL_EMPTY; buckets];
        for (i, &(key, value)) in entries.iter().enumerate() {
            ctrl[i * 2] = (i % 128) as u8;
            let at = offset + (start + i * 2 * size) as u64;
            self.write(at, Entry(key, value));
        }
        ctrl[entries.len() * 2] = RawTable::CTRL_DELETED;
        ctrl.extend_from_within(..16);
        self.bytes[offset as usize..][..ctrl.len()].copy_from_slice(&ctrl);
        let raw = RawTable {
            ptr: BASE + offset,
            mask: buckets as u64 - 1,
            items: entries.len() as u64,
            growth_left: (buckets / 8 * 7 - entries.len() - 1) as u64,
            seed: 1,
        };
        PMap(raw, PhantomData)
    }
}

impl Image {
    /// A tree whose nodes have room for one more entry, but for the last ones.
    pub(crate) fn tree<K: Copy, V: Copy>(&mut self, entries: &[(K, V)]) -> PTree<K, V> {
        let mut raw = RawTree {
            root: 0,
            height: 0,
            len: entries.len() as u64,
        };
        // Levels with room for all, of nodes of three entries.
        let mut room = TREE_CAP as usize - 1;
        while room < entries.len() {
            raw.height += 1;
            room = room * TREE_CAP as usize + TREE_CAP as usize - 1;
        }
        if !entries.is_empty() {
            raw.root = self.node(entries, raw.height as u32);
        }
        PTree(raw, PhantomData)
    }

    /// The address of a node on a level above some entries, at least as many as it takes.
    fn node<K: Copy, V: Copy>(&mut self, entries: &[(K, V)], level: u32) -> u64 {
        let layout = NodeLayout::of::<K, V>(TREE_CAP);
        let at = self.block(layout.bytes(level.into()) as usize, layout.align as usize);
        let len = match level {
            0 => entries.len(),
            // As many children as there is need for.
            _ => (entries.len() / (TREE_CAP as usize).pow(level)).clamp(1, 3),
        };
        self.write(
            at,
            RawNode {
                len: len as u32,
                level,
            },
        );
        let mut rest = entries;
        for i in 0..=len as u64 {
            if level > 0 {
                let below = (rest.len() - (len - i as usize)) / (len + 1 - i as usize);
                let (child, after) = rest.split_at(below);
                let child = self.node(child, level - 1);
                self.write(at + layout.children + 8 * i, child);
                rest = after;
            }
            if i < len as u64 {
                let ((key, value), after) = rest.split_first().expect("entries for all places");
                self.write(at + layout.keys + i * size_of::<K>() as u64, *key);
                self.write(at + layout.values + i * size_of::<V>() as u64, *value);
                rest = after;
            }
        }
        BASE + at
    }
}

/// The home offset that a raw pointer leads to.
pub(crate) fn home(ptr: u64) -> u64 {
    ptr - BASE
}

impl Blocks for Image {
    fn locate(&self, offset: u64) -> Result<BlockRef, NotABlock> {
        if offset >= self.bytes.len() as u64 {
            return Err(NotABlock::Outside);
        }
        let before = self.table.range(..=offset).next_back();
        match before {
            Some((&start, &size)) if start == offset => Ok(BlockRef {
                mark: start,
                start,
                size,
            }),
            Some((&start, &size)) if offset < start + size => Err(NotABlock::NotAStart),
            _ => Err(NotABlock::NoSuperblock),
        }
    }

    fn words(&self) -> usize {
        self.bytes.len().div_ceil(64)
    }

    fn mark(&self, word: usize, bits: u64) -> bool {
        let mut marks = self.marks.lock();
        let set = (0..64).filter(|bit| bits >> bit & 1 == 1);
        let new = set.filter(|bit| marks.insert(word as u64 * 64 + bit));
        new.count() == bits.count_ones() as usize
    }
}

//! The methods that change an owned [`PBTreeMap`].
//!
//! Each leaves the map whole when a key's `Ord` or `Drop`, or a callback, panics.

use super::extract::ExtractIf;
use super::iter::{IntoKeys, IntoValues, IterMut, RangeMut, ValuesMut};
use super::{Entry, OccupiedEntry, PBTreeMap, VacantEntry};
use crate::ending::{self, Owner};
use crate::raw::tree::{Cursor, Tree};
use crate::raw::{Ordinary, sure};
use std::borrow::Borrow;
use std::mem::{self, ManuallyDrop};
use std::ops::RangeBounds;

impl<K, V> PBTreeMap<K, V> {
    /// All entries by rising keys, the values to be changed.
    pub fn iter_mut(&mut self) -> IterMut<'_, K, V> {
        IterMut::new(self)
    }

    /// All values by rising keys, to be changed.
    pub fn values_mut(&mut self) -> ValuesMut<'_, K, V> {
        ValuesMut(self.iter_mut())
    }

    /// All keys, rising. The values are dropped.
    pub fn into_keys(self) -> IntoKeys<K, V> {
        IntoKeys(self.into_iter())
    }

    /// All values, by rising keys. The keys are dropped.
    pub fn into_values(self) -> IntoValues<K, V> {
        IntoValues(self.into_iter())
    }

    /// Drops all entries.
    pub fn clear(&mut self) {
        drop(mem::take(self));
    }

    /// The tree, which is somebody else's now.
    pub(super) fn take_tree(&mut self) -> Tree<K, V> {
        mem::replace(&mut self.tree, Tree::new())
    }

    /// Takes the entry at a place out. The cursor is behind it then.
    ///
    /// # Safety
    ///
    /// It is of this map, and there is an entry at its step of this level.
    pub(super) unsafe fn remove_at(&mut self, cursor: &mut Cursor<K, V>, level: usize) -> (K, V) {
        // SAFETY: the entry is read once, and its place given up; the map is owned.
        unsafe {
            let step = cursor.step(level);
            cursor.down(level, true);
            let entry = (
                step.node.key(step.index).read(),
                step.node.value(step.index).read(),
            );
            Tree::remove(&mut self.tree, cursor, level, Ordinary);
            entry
        }
    }

    /// Puts an entry at a place in a leaf, and returns where its value is. The cursor is before it then.
    ///
    /// # Safety
    ///
    /// The place is of this map.
    pub(super) unsafe fn insert_at(
        &mut self,
        cursor: &mut Cursor<K, V>,
        key: K,
        value: V,
    ) -> *mut V {
        // SAFETY: key and value are moved in by their bytes; the map is owned.
        unsafe {
            let spare = sure(Tree::prepare(cursor, Ordinary));
            let (key, value) = (ManuallyDrop::new(key), ManuallyDrop::new(value));
            Tree::insert(&mut self.tree, cursor, spare, &*key, &*value, Ordinary);
            let step = cursor.step(0);
            step.node.value(step.index)
        }
    }

    /// The place of the first entry, which is in a leaf.
    pub(super) fn first_place(&self) -> Option<Cursor<K, V>> {
        (!self.is_empty()).then(|| self.tree.first())
    }

    /// The place of the last entry, which is in a leaf.
    pub(super) fn last_place(&self) -> Option<Cursor<K, V>> {
        (!self.is_empty()).then(|| {
            let mut cursor = self.tree.last();
            // No leaf is empty.
            cursor.back_in_leaf();
            cursor
        })
    }

    /// Puts an entry behind all others.
    pub(super) fn push_back(&mut self, key: K, value: V) {
        let mut cursor = self.tree.last();
        // SAFETY: a place of this map.
        unsafe { self.insert_at(&mut cursor, key, value) };
    }
}

impl<K: Ord, V> PBTreeMap<K, V> {
    /// The value of `key`, to be changed.
    #[inline]
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (node, index) = self.tree.find(key)?;
        // SAFETY: the entry was found; the map is borrowed exclusively.
        Some(unsafe { &mut *node.value(index) })
    }

    /// The entries whose keys are in `range` by rising keys, the values to be changed.
    ///
    /// # Panics
    ///
    /// As [`range`](Self::range).
    #[track_caller]
    pub fn range_mut<Q: Ord + ?Sized, R: RangeBounds<Q>>(&mut self, range: R) -> RangeMut<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let between = self.between(&range, "PBTreeMap");
        RangeMut::new(self, between)
    }

    /// Puts `value` at `key` and returns the one that was there. The key that was there stays.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (mut cursor, level) = self.tree.place(&key);
        match level {
            Some(level) => {
                let step = cursor.step(level);
                // SAFETY: the entry was found; the map is borrowed exclusively.
                Some(mem::replace(
                    unsafe { &mut *step.node.value(step.index) },
                    value,
                ))
            }
            None => {
                // SAFETY: a place of this map.
                unsafe { self.insert_at(&mut cursor, key, value) };
                None
            }
        }
    }

    /// Takes the value of `key` out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        Some(self.remove_entry(key)?.1)
    }

    /// Takes `key` and its value out.
    pub fn remove_entry<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
    {
        let (mut cursor, level) = self.tree.place(key);
        // SAFETY: the entry was found.
        Some(unsafe { self.remove_at(&mut cursor, level?) })
    }

    /// Takes the entry with the lowest key out.
    pub fn pop_first(&mut self) -> Option<(K, V)> {
        let mut cursor = self.first_place()?;
        // SAFETY: there is an entry.
        Some(unsafe { self.remove_at(&mut cursor, 0) })
    }

    /// Takes the entry with the highest key out.
    pub fn pop_last(&mut self) -> Option<(K, V)> {
        let mut cursor = self.last_place()?;
        // SAFETY: there is an entry.
        Some(unsafe { self.remove_at(&mut cursor, 0) })
    }

    /// The place of the entry with the lowest key.
    pub fn first_entry(&mut self) -> Option<OccupiedEntry<'_, K, V>> {
        let cursor = self.first_place()?;
        Some(OccupiedEntry::new(self, cursor, 0))
    }

    /// The place of the entry with the highest key.
    pub fn last_entry(&mut self) -> Option<OccupiedEntry<'_, K, V>> {
        let cursor = self.last_place()?;
        Some(OccupiedEntry::new(self, cursor, 0))
    }

    /// The place of `key`, whether it is there or not.
    pub fn entry(&mut self, key: K) -> Entry<'_, K, V> {
        match self.tree.place(&key) {
            (cursor, Some(level)) => Entry::Occupied(OccupiedEntry::new(self, cursor, level)),
            (cursor, None) => Entry::Vacant(VacantEntry::new(self, cursor, key)),
        }
    }

    /// Keeps the entries of which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.extract_if(.., |key, value| !keep(key, value))
            .for_each(drop);
    }

    /// Takes the entries in `range` of which `leaves` says so out, by rising keys, as the iterator comes to them. Those
    /// that it does not come to stay. A range that ends before it starts has nothing in it.
    pub fn extract_if<R, F>(&mut self, range: R, leaves: F) -> ExtractIf<'_, K, V, R, F>
    where
        R: RangeBounds<K>,
        F: FnMut(&K, &mut V) -> bool,
    {
        let between = self.between_any(&range);
        ExtractIf::new(self, between, range, leaves)
    }

    /// Moves all entries of `other` here; where both have a key, the value of `other` is the one that stays.
    ///
    /// Where no key of this map is between two of `other`, it costs a few nodes of each; else an insertion for each entry of
    /// `other`.
    pub fn append(&mut self, other: &mut Self) {
        if self.is_empty() {
            return mem::swap(self, other);
        }
        if let Some(gap) = self.gap_for(other) {
            let (tree, others) = (self.take_tree(), other.take_tree());
            // SAFETY: the maps are owned, and the place is of this one.
            self.tree = sure(unsafe { Tree::splice(tree, &gap, others, Ordinary) });
            return;
        }
        while let Some((key, value)) = other.pop_last() {
            self.insert(key, value);
        }
    }

    /// The place where all entries of `other` belong, if there is one.
    pub(super) fn gap_for(&self, other: &Self) -> Option<Cursor<K, V>> {
        let (low, high) = (other.first_key_value()?.0, other.last_key_value()?.0);
        let cursor = self.tree.edge(low, false);
        // SAFETY: the place is of this map, which is borrowed, and so is the entry behind it, if there is one.
        unsafe {
            let Some(level) = cursor.next_level() else {
                return Some(cursor);
            };
            let step = cursor.step(level);
            (*high < *step.node.key(step.index)).then_some(cursor)
        }
    }

    /// Takes the entries from `key` on out, as a map.
    ///
    /// Costs a few nodes, and reading how many entries are in each node of one part: most likely of the smaller one.
    pub fn split_off<Q: Ord + ?Sized>(&mut self, key: &Q) -> Self
    where
        K: Borrow<Q>,
    {
        let cursor = self.tree.edge(key, false);
        let mut above = PBTreeMap::new();
        // SAFETY: the cursor is of this map, which is owned.
        (self.tree, above.tree) = sure(unsafe { Tree::cut(self.take_tree(), &cursor, Ordinary) });
        above
    }
}

/// Drops the entries and gives the blocks back. A stored map is never dropped.
impl<K, V> Drop for PBTreeMap<K, V> {
    fn drop(&mut self) {
        // SAFETY: only an owned value can be dropped, and it is not used after.
        unsafe { ending::end(self) }
    }
}

impl<K, V> Owner for PBTreeMap<K, V> {
    const DEEP: bool = mem::needs_drop::<(K, V)>();
    const PERSISTENT: bool = false;

    unsafe fn end(&mut self) {
        // SAFETY: the caller's promise.
        unsafe {
            match Self::DEEP {
                true => self.tree.end_owned(),
                false => self.tree.free_owned(),
            }
        }
    }
}

//! Changing a stored [`PBTreeMap`]: the methods of `Mut<'_, PBTreeMap<K, V>>`.
//!
//! Each keeps what it overwrites for an abort and puts what it writes into the transaction's
//! record. An entry that goes in is adopted before anything refers to it, so an error leaves
//! the map as it was.

use super::{PBTreeMap, StoredEntry, StoredOccupied, StoredVacant};
use crate::__private::{mut_at, parts};
use crate::error::Result;
use crate::mutref::Mut;
use crate::persist::{Persist, hold_all};
use crate::raw;
use crate::raw::tree::{self, Cursor, Node, Tree};
use crate::tx::TxRef;
use std::borrow::Borrow;
use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::RangeBounds;

/// Holds the locks in a node.
///
/// # Safety
///
/// It is one of a stored tree.
pub(super) unsafe fn hold_node<K: Persist, V: Persist>(
    tx: TxRef<'_>,
    node: Node<K, V>,
) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        hold_all(tx, node.keys(), node.len())?;
        hold_all(tx, node.values(), node.len())
    }
}

/// Holds the locks in everything that a change at a place may move: the nodes on the way and those beside them.
///
/// # Safety
///
/// The cursor is of a stored tree.
pub(super) unsafe fn hold_around<K: Persist, V: Persist>(
    tx: TxRef<'_>,
    cursor: &Cursor<K, V>,
) -> Result<()> {
    if !K::HAS_LOCKS && !V::HAS_LOCKS {
        return Ok(());
    }
    for level in 0..cursor.levels() {
        let step = cursor.step(level);
        // SAFETY: the caller's promise.
        unsafe {
            hold_node(tx, step.node)?;
            if level > 0 {
                let last = (step.index + 1).min(step.node.len());
                for i in step.index.saturating_sub(1)..=last {
                    hold_node(tx, step.node.child(i))?;
                }
            }
        }
    }
    Ok(())
}

/// Stored maps. Each method that changes something has effect when the transaction commits;
/// none has a barrier of its own.
impl<K: Persist + Ord, V: Persist> Mut<'_, PBTreeMap<K, V>> {
    #[inline]
    pub(super) fn tree(&mut self) -> (*mut Tree<K, V>, TxRef<'_>) {
        let (this, tx) = parts(self);
        (this.cast(), tx)
    }

    /// The value of an entry, to be changed.
    ///
    /// # Safety
    ///
    /// The entry is one of the map.
    #[inline]
    pub(super) unsafe fn value_at(&mut self, cursor: &Cursor<K, V>, level: usize) -> Mut<'_, V> {
        let step = cursor.step(level);
        let tx = Mut::tx(self);
        // SAFETY: the value is there, and borrowed as long as the map.
        unsafe { mut_at(step.node.value(step.index), tx) }
    }

    /// The value of `key`, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<Mut<'_, V>>
    where
        K: Borrow<Q>,
    {
        let (node, index) = self.tree.find(key)?;
        let tx = Mut::tx(self);
        // SAFETY: the value was found, and is borrowed as long as the map.
        Some(unsafe { mut_at(node.value(index), tx) })
    }

    /// Adopts `value`, puts it at `key`, and returns the one that was there as an owned value.
    /// The key that was there stays.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed, and `key` and `value` are lost. A lock inside is held by an older transaction: this
    /// one can only abort then.
    pub fn insert(&mut self, key: K, value: V) -> Result<Option<V>> {
        let tx = Mut::tx(self);
        let expect = |leaf: Node<K, V>| tx.expect_change(leaf.block());
        match self.tree.place_near(&key, expect) {
            (cursor, Some(level)) => {
                // SAFETY: the entry was found.
                let mut place = unsafe { self.value_at(&cursor, level) };
                Mut::replace(&mut place, value).map(Some)
            }
            (mut cursor, None) => {
                // SAFETY: a place of this map.
                unsafe { self.insert_at(&mut cursor, key, value) }.map(|()| None)
            }
        }
    }

    /// Puts an entry at a place in a leaf. The cursor is before it then.
    ///
    /// # Safety
    ///
    /// The place is of this map.
    pub(super) unsafe fn insert_at(
        &mut self,
        cursor: &mut Cursor<K, V>,
        key: K,
        value: V,
    ) -> Result<()> {
        let (tree, tx) = self.tree();
        // SAFETY: key and value are moved in by their bytes once they are adopted. The map is borrowed for changing
        // by this transaction.
        unsafe {
            let leaf = cursor.step(0);
            leaf.node.prefetch_values(leaf.index);
            // First: it may take steps that waited, which is more than making something.
            hold_around(tx, cursor)?;
            let (spare, key, value) = tx.making(|| {
                let spare = Tree::prepare(cursor, tx)?;
                let mut key = ManuallyDrop::new(key);
                tx.adopt::<K>(&raw mut *key)?;
                let mut value = ManuallyDrop::new(value);
                tx.adopt::<V>(&raw mut *value)?;
                Ok((spare, key, value))
            })?;
            tx.change(tree.cast(), size_of::<Tree<K, V>>());
            Tree::insert(tree, cursor, spare, &raw const *key, &raw const *value, tx);
            hold_around(tx, cursor)
        }
    }

    /// Takes the value of `key` out, as an owned value.
    ///
    /// # Errors
    ///
    /// A lock inside an entry that is moved is held by an older transaction; the transaction can only abort then.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Result<Option<V>>
    where
        K: Borrow<Q>,
    {
        Ok(self.remove_entry(key)?.map(|(_, value)| value))
    }

    /// Takes `key` and its value out, as owned values.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub fn remove_entry<Q: Ord + ?Sized>(&mut self, key: &Q) -> Result<Option<(K, V)>>
    where
        K: Borrow<Q>,
    {
        match self.tree.place(key) {
            // SAFETY: the entry was found.
            (mut cursor, Some(level)) => unsafe { self.remove_at(&mut cursor, level) }.map(Some),
            (_, None) => Ok(None),
        }
    }

    /// Takes the entry with the lowest key out, as owned values.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub fn pop_first(&mut self) -> Result<Option<(K, V)>> {
        match self.first_place() {
            // SAFETY: there is an entry.
            Some(mut cursor) => unsafe { self.remove_at(&mut cursor, 0) }.map(Some),
            None => Ok(None),
        }
    }

    /// Takes the entry with the highest key out, as owned values.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub fn pop_last(&mut self) -> Result<Option<(K, V)>> {
        match self.last_place() {
            // SAFETY: there is an entry.
            Some(mut cursor) => unsafe { self.remove_at(&mut cursor, 0) }.map(Some),
            None => Ok(None),
        }
    }

    /// Takes the entry at a place out. The cursor is where it was then.
    ///
    /// # Safety
    ///
    /// It is of this map, and there is an entry at its step of this level.
    pub(super) unsafe fn remove_at(
        &mut self,
        cursor: &mut Cursor<K, V>,
        level: usize,
    ) -> Result<(K, V)> {
        // SAFETY: the entry is read once, and its place given up.
        unsafe {
            self.remove_with(cursor, level, |tx, key, value| {
                Ok((raw::take(tx, key)?, raw::take(tx, value)?))
            })
        }
    }

    /// Removes the entry at a place, of which `out` makes what it will. The cursor is where it was then.
    ///
    /// # Safety
    ///
    /// As [`remove_at`](Self::remove_at); `out` makes something of the entry's bytes.
    pub(super) unsafe fn remove_with<X>(
        &mut self,
        cursor: &mut Cursor<K, V>,
        level: usize,
        out: impl FnOnce(TxRef<'_>, *mut K, *mut V) -> Result<X>,
    ) -> Result<X> {
        let (tree, tx) = self.tree();
        // SAFETY: the entry is made something of, and its place given up. The map is borrowed for changing by
        // this transaction.
        unsafe {
            let step = cursor.step(level);
            cursor.down(level, true);
            hold_around(tx, cursor)?;
            let gone = out(tx, step.node.key(step.index), step.node.value(step.index))?;
            tx.change(tree.cast(), size_of::<Tree<K, V>>());
            Tree::remove(tree, cursor, level, tx);
            hold_around(tx, cursor)?;
            Ok(gone)
        }
    }

    /// The place of the entry with the lowest key.
    pub fn first_entry(&mut self) -> Option<StoredOccupied<'_, K, V>> {
        let cursor = self.first_place()?;
        Some(StoredOccupied::new(Mut::reborrow(self), cursor, 0))
    }

    /// The place of the entry with the highest key.
    pub fn last_entry(&mut self) -> Option<StoredOccupied<'_, K, V>> {
        let cursor = self.last_place()?;
        Some(StoredOccupied::new(Mut::reborrow(self), cursor, 0))
    }

    /// The place of `key`, whether it is there or not.
    pub fn entry(&mut self, key: K) -> StoredEntry<'_, K, V> {
        let map = Mut::reborrow(self);
        match map.tree.place(&key) {
            (cursor, Some(level)) => StoredEntry::Occupied(StoredOccupied::new(map, cursor, level)),
            (cursor, None) => StoredEntry::Vacant(StoredVacant::new(map, cursor, key)),
        }
    }

    /// Drops all entries; blocks are freed when the transaction is durable.
    ///
    /// # Errors
    ///
    /// A lock inside an entry is held by an older transaction; the transaction can only abort then.
    pub fn clear(&mut self) -> Result<()> {
        let (tree, tx) = self.tree();
        let mut result = Ok(());
        // SAFETY: each entry is released once, and each node given back. The map is borrowed for changing by this
        // transaction.
        unsafe {
            (*tree).each_node(&mut |node| {
                if result.is_ok() {
                    let len = node.len();
                    result = raw::release(tx, node.keys(), len)
                        .and_then(|()| raw::release(tx, node.values(), len));
                    tx.free(node.block());
                }
            });
            result?;
            tx.change(tree.cast(), size_of::<Tree<K, V>>());
            tree.write(Tree::new());
        }
        Ok(())
    }

    /// Keeps the entries of which `keep` says so, and drops the others.
    ///
    /// # Errors
    ///
    /// A lock inside an entry that is dropped or moved is held by an older transaction; the transaction can only
    /// abort then.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, Mut<'_, V>) -> bool) -> Result<()> {
        let tx = Mut::tx(self);
        let mut cursor = self.tree.first();
        // SAFETY: the cursor is of this map, which is borrowed for changing by this transaction and changed through the
        // cursor only; `keep` gets no other way to it.
        unsafe {
            while let Some(level) = cursor.next_level() {
                let step = cursor.step(level);
                let (key, value) = (step.node.key(step.index), step.node.value(step.index));
                if keep(&*key, mut_at(value, tx)) {
                    cursor.pass(level);
                    continue;
                }
                self.remove_with(&mut cursor, level, |tx, key, value| {
                    raw::release(tx, key, 1)?;
                    raw::release(tx, value, 1)
                })?;
                cursor.settle(level);
            }
        }
        Ok(())
    }

    /// Puts all entries of an iterator in.
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert); what was put in before stays.
    pub fn extend(&mut self, entries: impl IntoIterator<Item = (K, V)>) -> Result<()> {
        entries
            .into_iter()
            .try_for_each(|(key, value)| self.insert(key, value).map(drop))
    }

    /// All entries by rising keys, the values to be changed.
    pub fn iter_mut(&mut self) -> StoredIterMut<'_, K, V> {
        let left = self.len();
        let range = self.all_mut();
        StoredIterMut { range, left }
    }

    fn all_mut(&mut self) -> StoredRangeMut<'_, K, V> {
        StoredRangeMut {
            range: self.tree.all(),
            tx: Mut::tx(self),
            borrowed: PhantomData,
        }
    }

    /// The entries whose keys are in `range` by rising keys, the values to be changed.
    ///
    /// # Panics
    ///
    /// As [`PBTreeMap::range`].
    #[track_caller]
    pub fn range_mut<Q: Ord + ?Sized, R: RangeBounds<Q>>(
        &mut self,
        range: R,
    ) -> StoredRangeMut<'_, K, V>
    where
        K: Borrow<Q>,
    {
        StoredRangeMut {
            range: self.between(&range, "PBTreeMap"),
            tx: Mut::tx(self),
            borrowed: PhantomData,
        }
    }

    /// All values by rising keys, to be changed.
    pub fn values_mut(&mut self) -> StoredValuesMut<'_, K, V> {
        StoredValuesMut(self.iter_mut())
    }
}

/// Some entries of a stored map, the values to be changed; see `Mut<'_, PBTreeMap<K, V>>::range_mut`.
pub struct StoredRangeMut<'a, K, V> {
    range: tree::Range<K, V>,
    tx: TxRef<'a>,
    borrowed: PhantomData<&'a mut (K, V)>,
}

/// Entries of a stored map, the values to be changed; see `Mut<'_, PBTreeMap<K, V>>::iter_mut`.
pub struct StoredIterMut<'a, K, V> {
    range: StoredRangeMut<'a, K, V>,
    left: usize,
}

/// Values of a stored map, to be changed; see `Mut<'_, PBTreeMap<K, V>>::values_mut`.
pub struct StoredValuesMut<'a, K, V>(StoredIterMut<'a, K, V>);

impl<'a, K: Persist, V: Persist> Iterator for StoredRangeMut<'a, K, V> {
    type Item = (&'a K, Mut<'a, V>);

    fn next(&mut self) -> Option<Self::Item> {
        // SAFETY: each entry is handed out once, and the map is borrowed.
        unsafe {
            let (key, value) = self.range.next()?;
            Some((&*key, mut_at(value, self.tx)))
        }
    }
}

impl<K: Persist, V: Persist> DoubleEndedIterator for StoredRangeMut<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        // SAFETY: as in `next`.
        unsafe {
            let (key, value) = self.range.next_back()?;
            Some((&*key, mut_at(value, self.tx)))
        }
    }
}

impl<'a, K: Persist, V: Persist> Iterator for StoredIterMut<'a, K, V> {
    type Item = (&'a K, Mut<'a, V>);

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.range.next()?;
        self.left = self.left.wrapping_sub(1);
        Some(next)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<K: Persist, V: Persist> DoubleEndedIterator for StoredIterMut<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let next = self.range.next_back()?;
        self.left = self.left.wrapping_sub(1);
        Some(next)
    }
}

impl<'a, K: Persist, V: Persist> Iterator for StoredValuesMut<'a, K, V> {
    type Item = Mut<'a, V>;

    fn next(&mut self) -> Option<Mut<'a, V>> {
        Some(self.0.next()?.1)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<K: Persist, V: Persist> DoubleEndedIterator for StoredValuesMut<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        Some(self.0.next_back()?.1)
    }
}

impl<K: Persist, V: Persist> ExactSizeIterator for StoredIterMut<'_, K, V> {}
impl<K: Persist, V: Persist> ExactSizeIterator for StoredValuesMut<'_, K, V> {}
impl<K: Persist, V: Persist> FusedIterator for StoredRangeMut<'_, K, V> {}
impl<K: Persist, V: Persist> FusedIterator for StoredIterMut<'_, K, V> {}
impl<K: Persist, V: Persist> FusedIterator for StoredValuesMut<'_, K, V> {}

impl<K, V> fmt::Debug for StoredRangeMut<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredRangeMut").finish_non_exhaustive()
    }
}

impl<K, V> fmt::Debug for StoredIterMut<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredIterMut").finish_non_exhaustive()
    }
}

impl<K, V> fmt::Debug for StoredValuesMut<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredValuesMut").finish_non_exhaustive()
    }
}

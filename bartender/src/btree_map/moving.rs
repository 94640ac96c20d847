//! Moving values of stored maps, and whole maps, inside the region: see [`Moved`].

use super::stored::hold_node;
use super::{PBTreeMap, StoredOccupied, StoredVacant};
use crate::error::{Error, Result};
use crate::moved::{self, Moved};
use crate::mutref::Mut;
use crate::persist::Persist;
use crate::raw;
use crate::raw::tree::{Cursor, Tree};
use crate::tx::TxRef;
use std::borrow::Borrow;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr;

/// Dooms a transaction when what it began is left unfinished: by an error, or by a key's `Ord` that panics.
struct Unfinished<'a>(TxRef<'a>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.doom(&Error::abort(
            "entries were on their way from one map to another",
        ));
    }
}

/// Moving inside the region. What keys and values own is not copied.
impl<K: Persist + Ord, V: Persist> Mut<'_, PBTreeMap<K, V>> {
    /// Takes the value of `key`, to be attached somewhere else. The key goes.
    ///
    /// # Errors
    ///
    /// A lock inside an entry that is moved is held by an older transaction; the transaction can only abort then.
    pub fn remove_moved<Q: Ord + ?Sized>(&mut self, key: &Q) -> Result<Option<Moved<V>>>
    where
        K: Borrow<Q>,
    {
        match self.tree.place(key) {
            (mut cursor, Some(level)) => {
                // SAFETY: the entry was found.
                unsafe { self.remove_moved_at(&mut cursor, level) }.map(Some)
            }
            (_, None) => Ok(None),
        }
    }

    /// Takes the value with the lowest key, to be attached somewhere else. The key goes.
    ///
    /// # Errors
    ///
    /// As [`remove_moved`](Self::remove_moved).
    pub fn pop_first_moved(&mut self) -> Result<Option<Moved<V>>> {
        match self.first_place() {
            // SAFETY: there is an entry.
            Some(mut cursor) => unsafe { self.remove_moved_at(&mut cursor, 0) }.map(Some),
            None => Ok(None),
        }
    }

    /// Takes the value with the highest key, to be attached somewhere else. The key goes.
    ///
    /// # Errors
    ///
    /// As [`remove_moved`](Self::remove_moved).
    pub fn pop_last_moved(&mut self) -> Result<Option<Moved<V>>> {
        match self.last_place() {
            // SAFETY: there is an entry.
            Some(mut cursor) => unsafe { self.remove_moved_at(&mut cursor, 0) }.map(Some),
            None => Ok(None),
        }
    }

    /// Removes the entry at a place and takes its value.
    ///
    /// # Safety
    ///
    /// The cursor is of this map, and there is an entry at its step of this level.
    pub(super) unsafe fn remove_moved_at(
        &mut self,
        cursor: &mut Cursor<K, V>,
        level: usize,
    ) -> Result<Moved<V>> {
        // SAFETY: key and value are there once, and their place is given up.
        unsafe {
            self.remove_with(cursor, level, |tx, key, value| {
                raw::release(tx, key, 1)?;
                moved::detach(tx, value)
            })
        }
    }

    /// Adopts `key`, attaches a value of this transaction to it, and returns the value that was there, to be attached
    /// somewhere else. A key that was there stays.
    ///
    /// # Errors
    ///
    /// The region is full, or the value is not of this transaction: the transaction that the value is of can only abort
    /// then.
    pub fn insert_moved(&mut self, key: K, moved: Moved<V>) -> Result<Option<Moved<V>>> {
        match self.tree.place(&key) {
            (cursor, Some(level)) => {
                // SAFETY: the entry was found.
                unsafe { self.replace_moved_at(&cursor, level, moved) }.map(Some)
            }
            (mut cursor, None) => {
                // SAFETY: a place of this map.
                unsafe { self.insert_moved_at(&mut cursor, key, moved) }.map(|()| None)
            }
        }
    }

    /// Attaches a value in the place of an entry's value.
    ///
    /// # Safety
    ///
    /// As [`remove_moved_at`](Self::remove_moved_at).
    pub(super) unsafe fn replace_moved_at(
        &mut self,
        cursor: &Cursor<K, V>,
        level: usize,
        moved: Moved<V>,
    ) -> Result<Moved<V>> {
        let (_, tx) = self.tree();
        moved.attach(tx, |value| {
            let step = cursor.step(level);
            // SAFETY: the value is there, and ours alone; the map is borrowed for changing by this transaction.
            unsafe {
                let place = step.node.value(step.index);
                let old = moved::detach(tx, place)?;
                moved::write(tx, place, value)?;
                Ok(old)
            }
        })
    }

    /// Puts a key and an attached value at a place in a leaf. The cursor is before it then.
    ///
    /// # Safety
    ///
    /// The place is of this map.
    pub(super) unsafe fn insert_moved_at(
        &mut self,
        cursor: &mut Cursor<K, V>,
        key: K,
        moved: Moved<V>,
    ) -> Result<()> {
        let tx = Mut::tx(self);
        moved.attach(tx, |value| {
            let mut key = ManuallyDrop::new(key);
            // SAFETY: the key is moved in by its bytes once it is adopted; the value's are those of a stored one.
            unsafe {
                tx.adopt::<K>(&raw mut *key)?;
                self.insert_stored(cursor, &raw const *key, value)
            }
        })
    }

    /// Puts an entry at a place in a leaf that is stored already, by its bytes.
    ///
    /// # Safety
    ///
    /// The place is of this map, and the bytes are of a key and a value without another owner.
    unsafe fn insert_stored(
        &mut self,
        cursor: &mut Cursor<K, V>,
        key: *const K,
        value: *const V,
    ) -> Result<()> {
        let (tree, tx) = self.tree();
        // SAFETY: the caller's promise. The map is borrowed for changing by this transaction.
        unsafe {
            let spare = Tree::prepare(cursor, tx)?;
            super::stored::hold_around(tx, cursor)?;
            tx.change(tree.cast(), size_of::<Tree<K, V>>());
            Tree::insert(tree, cursor, spare, key, value, tx);
            super::stored::hold_around(tx, cursor)
        }
    }

    /// Moves all entries of `other` here; where both have a key, the value of `other` is the one that stays. What the
    /// entries own is not touched. Costs an insertion for each entry, nothing if this map is empty.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignValue`] if the maps are of different transactions; nothing changed. The region is full, or
    /// a lock inside an entry is held by an older transaction: the transaction can only abort then, as it can when a key's
    /// `Ord` panics.
    pub fn append(&mut self, other: &mut Mut<'_, PBTreeMap<K, V>>) -> Result<()> {
        if Mut::tx(self) != Mut::tx(other) {
            return Err(Error::ForeignValue);
        }
        if self.is_empty() {
            return Mut::swap(self, other);
        }
        let tx = Mut::tx(self);
        let unfinished = Unfinished(tx);
        while let Some(mut last) = other.last_place() {
            let (mut key, mut value) = (MaybeUninit::<K>::uninit(), MaybeUninit::<V>::uninit());
            // SAFETY: the entry has one owner, which is nobody between the two maps. If that is the end of it, the
            // transaction is doomed.
            unsafe {
                other.remove_with(&mut last, 0, |_, k, v| {
                    ptr::copy_nonoverlapping(k, key.as_mut_ptr(), 1);
                    ptr::copy_nonoverlapping(v, value.as_mut_ptr(), 1);
                    Ok(())
                })?;
                let (mut cursor, level) = self.tree.place(&*key.as_ptr());
                match level {
                    None => self.insert_stored(&mut cursor, key.as_ptr(), value.as_ptr())?,
                    Some(level) => {
                        let step = cursor.step(level);
                        let place = step.node.value(step.index);
                        raw::release(tx, place, 1)?;
                        moved::write(tx, place, value.as_ptr())?;
                        tx.release(key.as_ptr())?;
                    }
                }
            }
        }
        std::mem::forget(unfinished);
        Ok(())
    }

    /// Takes the entries from `key` on out, as a map that can be attached somewhere else. What the entries own is not
    /// touched. Costs a removal for each.
    ///
    /// # Errors
    ///
    /// The region is full, or a lock inside an entry is held by an older transaction: the transaction can only abort
    /// then.
    pub fn split_off_moved<Q: Ord + ?Sized>(&mut self, key: &Q) -> Result<Moved<PBTreeMap<K, V>>>
    where
        K: Borrow<Q>,
    {
        let mut cursor = self.tree.edge(key, false);
        let mut above = ManuallyDrop::new(PBTreeMap::<K, V>::new());
        let tx = Mut::tx(self);
        let unfinished = Unfinished(tx);
        // SAFETY: the cursor is of this map. An entry that leaves it is stored in the other one at once, which is made
        // of blocks of the region and belongs to nobody until it is detached.
        unsafe {
            while let Some(level) = cursor.next_level() {
                let above = &raw mut above.tree;
                self.remove_with(&mut cursor, level, |tx, key, value| {
                    let mut last = (*above).last();
                    let spare = Tree::prepare(&last, tx)?;
                    Tree::insert(above, &mut last, spare, key, value, tx);
                    Ok(())
                })?;
                cursor.settle(level);
            }
            let mut held = Ok(());
            if K::HAS_LOCKS || V::HAS_LOCKS {
                above.tree.each_node(&mut |node| {
                    if held.is_ok() {
                        held = hold_node(tx, node);
                    }
                });
            }
            held?;
            let moved = moved::detach(tx, &raw mut *above)?;
            std::mem::forget(unfinished);
            Ok(moved)
        }
    }
}

impl<K: Persist + Ord, V: Persist> StoredOccupied<'_, K, V> {
    /// Takes the value, to be attached somewhere else. The key goes.
    ///
    /// # Errors
    ///
    /// As [`Mut::remove_moved`].
    pub fn remove_moved(mut self) -> Result<Moved<V>> {
        // SAFETY: the entry is there.
        unsafe { self.map.remove_moved_at(&mut self.cursor, self.level) }
    }

    /// Attaches a value of this transaction here, and returns the one that was, to be attached somewhere else.
    ///
    /// # Errors
    ///
    /// As [`Mut::insert_moved`].
    pub fn insert_moved(&mut self, moved: Moved<V>) -> Result<Moved<V>> {
        // SAFETY: the entry is there.
        unsafe { self.map.replace_moved_at(&self.cursor, self.level, moved) }
    }
}

impl<'a, K: Persist + Ord, V: Persist> StoredVacant<'a, K, V> {
    /// Adopts the key and attaches a value of this transaction to it.
    ///
    /// # Errors
    ///
    /// As [`Mut::insert_moved`].
    pub fn insert_moved(self, moved: Moved<V>) -> Result<Mut<'a, V>> {
        let StoredVacant {
            mut map,
            mut cursor,
            key,
        } = self;
        // SAFETY: the place is of this map.
        unsafe { map.insert_moved_at(&mut cursor, key, moved)? };
        Ok(StoredOccupied::new(map, cursor, 0).into_mut())
    }
}

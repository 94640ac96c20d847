//! Moving values of stored maps inside the region: see [`Moved`].

use super::{PBTreeMap, StoredOccupied, StoredVacant};
use crate::__private::mut_at;
use crate::error::Result;
use crate::moved::{self, Moved};
use crate::mutref::Mut;
use crate::persist::Persist;
use crate::raw;
use crate::raw::tree::{Cursor, Tree};
use std::borrow::Borrow;
use std::mem::ManuallyDrop;

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
    pub(super) unsafe fn insert_stored(
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
}

/// Keys that move: what [`PBTreeSet`](crate::PBTreeSet) needs.
impl<K: Persist + Ord> Mut<'_, PBTreeMap<K, ()>> {
    /// Adopts `key` and puts it in, and returns the equal one that was there as an owned value.
    pub(crate) fn replace_key(&mut self, key: K) -> Result<Option<K>> {
        match self.tree.place(&key) {
            (cursor, Some(level)) => {
                let (step, tx) = (cursor.step(level), Mut::tx(self));
                // SAFETY: the key was found, and is borrowed as long as the map. One that equals it stands where it stood.
                let mut place = unsafe { mut_at(step.node.key(step.index), tx) };
                Mut::replace(&mut place, key).map(Some)
            }
            // SAFETY: a place of this map.
            (mut cursor, None) => unsafe { self.insert_at(&mut cursor, key, ()) }.map(|()| None),
        }
    }

    /// Takes the key that equals `key`, to be attached somewhere else.
    pub(crate) fn remove_key_moved<Q: Ord + ?Sized>(&mut self, key: &Q) -> Result<Option<Moved<K>>>
    where
        K: Borrow<Q>,
    {
        let (mut cursor, Some(level)) = self.tree.place(key) else {
            return Ok(None);
        };
        // SAFETY: the key was found.
        unsafe { self.key_moved_at(&mut cursor, level) }.map(Some)
    }

    /// Takes the lowest key, or the highest one.
    pub(crate) fn pop_key_moved(&mut self, lowest: bool) -> Result<Option<Moved<K>>> {
        let place = match lowest {
            true => self.first_place(),
            false => self.last_place(),
        };
        match place {
            // SAFETY: there is an entry.
            Some(mut cursor) => unsafe { self.key_moved_at(&mut cursor, 0) }.map(Some),
            None => Ok(None),
        }
    }

    /// Removes the entry at a place and takes its key.
    ///
    /// # Safety
    ///
    /// As [`remove_moved_at`](Self::remove_moved_at).
    unsafe fn key_moved_at(
        &mut self,
        cursor: &mut Cursor<K, ()>,
        level: usize,
    ) -> Result<Moved<K>> {
        // SAFETY: the key is there once, and its place is given up.
        unsafe { self.remove_with(cursor, level, |tx, key, _| moved::detach(tx, key)) }
    }

    /// Attaches a key of this transaction; whether an equal one was not there. If one was, the new one ends.
    pub(crate) fn insert_key_moved(&mut self, moved: Moved<K>) -> Result<bool> {
        let tx = Mut::tx(self);
        moved.attach(tx, |key| {
            // SAFETY: a copy of the value's bytes, to be read until it has a place. It gets one, or nothing refers to the
            // value, which is held.
            unsafe {
                match self.tree.place(&*key) {
                    (mut cursor, None) => {
                        self.insert_stored(&mut cursor, key, &())?;
                        Ok(true)
                    }
                    (_, Some(_)) => {
                        tx.release(key)?;
                        Ok(false)
                    }
                }
            }
        })
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

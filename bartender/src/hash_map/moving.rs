//! Moving values of stored maps inside the region: see [`Moved`].

use super::{PHashMap, Slot, StoredOccupied, StoredVacant};
use crate::error::Result;
use crate::moved::{self, Moved};
use crate::mutref::Mut;
use crate::persist::{Persist, hold_all};
use crate::raw;
use crate::raw::table::Table;
use std::borrow::Borrow;
use std::hash::Hash;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr;

/// Moving values inside the region. What a value owns is not copied.
impl<K: Persist + Hash + Eq, V: Persist> Mut<'_, PHashMap<K, V>> {
    /// Takes the value of `key`, to be attached somewhere else. The key goes.
    ///
    /// # Errors
    ///
    /// A lock inside the entry is held by an older transaction; the transaction can only abort then.
    pub fn remove_moved<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Result<Option<Moved<V>>>
    where
        K: Borrow<Q>,
    {
        match self.find(self.hash(key), key) {
            // SAFETY: the bucket was found, so it is full.
            Some(index) => unsafe { self.remove_moved_at(index) }.map(Some),
            None => Ok(None),
        }
    }

    /// Takes a bucket's value and empties it.
    ///
    /// # Safety
    ///
    /// The bucket is full.
    pub(super) unsafe fn remove_moved_at(&mut self, index: usize) -> Result<Moved<V>> {
        let (table, tx) = self.table();
        // SAFETY: key and value are there once, and nobody sees them in the empty bucket. The map is borrowed
        // for changing by this transaction.
        unsafe {
            let slot = (*table).bucket(index).as_ptr();
            hold_all(tx, slot, 1)?;
            raw::release(tx, &raw mut (*slot).key, 1)?;
            let value = moved::detach(tx, &raw mut (*slot).value)?;
            Table::erase(table, index, tx);
            Ok(value)
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
        let hash = self.hash(&key);
        match self.find(hash, &key) {
            // SAFETY: the bucket was found, so it is full.
            Some(index) => unsafe { self.replace_moved_at(index, moved) }.map(Some),
            None => self.insert_moved_new(hash, key, moved).map(|_| None),
        }
    }

    /// Attaches a value in the place of a bucket's value.
    ///
    /// # Safety
    ///
    /// The bucket is full.
    pub(super) unsafe fn replace_moved_at(
        &mut self,
        index: usize,
        moved: Moved<V>,
    ) -> Result<Moved<V>> {
        let (table, tx) = self.table();
        moved.attach(tx, |value| {
            // SAFETY: the value is there, and ours alone; the map is borrowed for changing by this transaction.
            unsafe {
                let place = &raw mut (*(*table).bucket(index).as_ptr()).value;
                let old = moved::detach(tx, place)?;
                moved::write(tx, place, value)?;
                Ok(old)
            }
        })
    }

    /// Puts a key and an attached value into a new bucket. The key is not there, and has this hash.
    pub(super) fn insert_moved_new(&mut self, hash: u64, key: K, moved: Moved<V>) -> Result<usize> {
        let tx = Mut::tx(self);
        moved.attach(tx, |value| {
            self.reserve(1)?;
            let (table, tx) = self.table();
            let key = ManuallyDrop::new(key);
            let mut slot = MaybeUninit::<Slot<K, V>>::uninit();
            let entry = slot.as_mut_ptr();
            // SAFETY: key and value are moved into the slot, and from there to a bucket that is claimed only after.
            // There is room for one more. The map is borrowed for changing by this transaction.
            unsafe {
                ptr::copy_nonoverlapping(&raw const *key, &raw mut (*entry).key, 1);
                ptr::copy_nonoverlapping(value, &raw mut (*entry).value, 1);
                Slot::zero_padding(entry);
                tx.adopt::<K>(&raw mut (*entry).key)?;
                let index = (*table).vacant(hash);
                moved::write(tx, (*table).bucket(index).as_ptr(), entry)?;
                Table::claim(table, index, hash, tx);
                Ok(index)
            }
        })
    }
}

/// Keys that move: what [`PHashSet`](crate::PHashSet) needs.
impl<K: Persist + Hash + Eq> Mut<'_, PHashMap<K, ()>> {
    /// Takes the key that equals `key`, to be attached somewhere else.
    pub(crate) fn remove_key_moved<Q: Hash + Eq + ?Sized>(
        &mut self,
        key: &Q,
    ) -> Result<Option<Moved<K>>>
    where
        K: Borrow<Q>,
    {
        let Some(index) = self.find(self.hash(key), key) else {
            return Ok(None);
        };
        let (table, tx) = self.table();
        // SAFETY: the key is there once, and nobody sees it in the empty bucket. The map is borrowed for changing by this
        // transaction.
        unsafe {
            let key = moved::detach(tx, &raw mut (*(*table).bucket(index).as_ptr()).key)?;
            Table::erase(table, index, tx);
            Ok(Some(key))
        }
    }

    /// Attaches a key of this transaction; whether an equal one was not there. If one was, the new one ends.
    pub(crate) fn insert_key_moved(&mut self, moved: Moved<K>) -> Result<bool> {
        let tx = Mut::tx(self);
        moved.attach(tx, |key| {
            // SAFETY: a copy of the value's bytes, to be read until it has a place.
            let hash = unsafe { self.hash(&*key) };
            // SAFETY: as above.
            if unsafe { self.find(hash, &*key) }.is_some() {
                // SAFETY: nothing refers to the value, which is held, and gets no place.
                unsafe { tx.release(key)? };
                return Ok(false);
            }
            self.reserve(1)?;
            let (table, tx) = self.table();
            // SAFETY: an entry is its key. There is room for one more, and its bucket is claimed only after. The map is
            // borrowed for changing by this transaction.
            unsafe {
                let index = (*table).vacant(hash);
                moved::write(tx, &raw mut (*(*table).bucket(index).as_ptr()).key, key)?;
                Table::claim(table, index, hash, tx);
            }
            Ok(true)
        })
    }
}

impl<K: Persist + Hash + Eq, V: Persist> StoredOccupied<'_, K, V> {
    /// Takes the value, to be attached somewhere else. The key goes.
    ///
    /// # Errors
    ///
    /// A lock inside the entry is held by an older transaction; the transaction can only abort then.
    pub fn remove_moved(mut self) -> Result<Moved<V>> {
        // SAFETY: the bucket is full.
        unsafe { self.map.remove_moved_at(self.index) }
    }

    /// Attaches a value of this transaction here, and returns the one that was, to be attached somewhere else.
    ///
    /// # Errors
    ///
    /// As [`Mut::insert_moved`].
    pub fn insert_moved(&mut self, moved: Moved<V>) -> Result<Moved<V>> {
        // SAFETY: the bucket is full.
        unsafe { self.map.replace_moved_at(self.index, moved) }
    }
}

impl<'a, K: Persist + Hash + Eq, V: Persist> StoredVacant<'a, K, V> {
    /// Adopts the key and attaches a value of this transaction to it.
    ///
    /// # Errors
    ///
    /// As [`Mut::insert_moved`].
    pub fn insert_moved(self, moved: Moved<V>) -> Result<Mut<'a, V>> {
        let StoredVacant { mut map, hash, key } = self;
        let index = map.insert_moved_new(hash, key, moved)?;
        // SAFETY: the bucket was filled just now.
        Ok(unsafe { PHashMap::into_value(map, index) })
    }
}

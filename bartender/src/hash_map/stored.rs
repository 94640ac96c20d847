//! Changing a stored [`PHashMap`]: the methods of `Mut<'_, PHashMap<K, V>>`.
//!
//! Each keeps what it overwrites for an abort and puts what it writes into the transaction's
//! record. An entry that goes in is adopted before anything refers to it, so an error leaves
//! the map as it was.

use super::{IntoIter, PHashMap, Slot, StoredEntry, stored_entry};
use crate::__private::{mut_at, parts};
use crate::error::Result;
use crate::mutref::Mut;
use crate::persist::{Persist, hold_all};
use crate::raw;
use crate::raw::table::{Full, Table};
use crate::tx::TxRef;
use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;
use std::ptr::NonNull;

/// Stored maps. Each method that changes something has effect when the transaction commits;
/// none has a barrier of its own.
impl<K: Persist + Hash + Eq, V: Persist> Mut<'_, PHashMap<K, V>> {
    #[inline]
    pub(super) fn table(&mut self) -> (*mut Table<Slot<K, V>>, TxRef<'_>) {
        let (this, tx) = parts(self);
        (this.cast(), tx)
    }

    /// The value in a bucket, to be changed.
    ///
    /// # Safety
    ///
    /// The bucket is full.
    #[inline]
    pub(super) unsafe fn value_at(&mut self, index: usize) -> Mut<'_, V> {
        let (table, tx) = self.table();
        // SAFETY: the value is there, and borrowed as long as the map.
        unsafe { mut_at(&raw mut (*(*table).bucket(index).as_ptr()).value, tx) }
    }

    /// Makes room for `additional` entries.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    pub fn reserve(&mut self, additional: usize) -> Result<()> {
        let state = self.hasher();
        let (table, tx) = self.table();
        // SAFETY: the map is stored and borrowed for changing by this transaction.
        unsafe {
            let moves = additional > (*table).growth_left();
            if moves {
                hold_entries(table, tx)?;
            }
            Table::reserve(table, additional, |slot| state.hash_one(&slot.key), tx)?;
            if moves {
                hold_entries(table, tx)?;
            }
            Ok(())
        }
    }

    /// Gives room that is not used back.
    ///
    /// # Errors
    ///
    /// The region is full, or a lock inside an entry is held by an older transaction; nothing changed.
    pub fn shrink_to_fit(&mut self) -> Result<()> {
        let state = self.hasher();
        let (table, tx) = self.table();
        // SAFETY: the map is stored and borrowed for changing by this transaction.
        unsafe {
            hold_entries(table, tx)?;
            Table::shrink(table, 0, |slot| state.hash_one(&slot.key), tx)?;
            hold_entries(table, tx)
        }
    }

    /// The value of `key`, to be changed.
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<Mut<'_, V>>
    where
        K: Borrow<Q>,
    {
        let index = self.find(self.hash(key), key)?;
        // SAFETY: the bucket was found, so it is full.
        Some(unsafe { self.value_at(index) })
    }

    /// Adopts `value`, puts it at `key`, and returns the one that was there as an owned value.
    /// The key that was there stays.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed, and `key` and `value` are lost.
    pub fn insert(&mut self, key: K, value: V) -> Result<Option<V>> {
        let hash = self.hash(&key);
        match self.find(hash, &key) {
            // SAFETY: the bucket was found, so it is full.
            Some(index) => Mut::replace(&mut unsafe { self.value_at(index) }, value).map(Some),
            None => self.insert_new(hash, key, value).map(|_| None),
        }
    }

    /// Puts an entry into a new bucket. Its key is not there, and has this hash.
    pub(super) fn insert_new(&mut self, hash: u64, key: K, value: V) -> Result<usize> {
        self.reserve(1)?;
        let (table, tx) = self.table();
        // SAFETY: there is room for one more; its bucket is claimed only after the entry is
        // there. The map is borrowed for changing by this transaction.
        unsafe {
            let index = (*table).vacant(hash);
            raw::put(tx, (*table).bucket(index).as_ptr(), Slot { key, value })?;
            Table::claim(table, index, hash, tx);
            Ok(index)
        }
    }

    /// Takes the value of `key` out, as an owned value.
    ///
    /// # Errors
    ///
    /// A lock inside the value is held by an older transaction; nothing changed.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Result<Option<V>>
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
    pub fn remove_entry<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Result<Option<(K, V)>>
    where
        K: Borrow<Q>,
    {
        match self.find(self.hash(key), key) {
            // SAFETY: the bucket was found, so it is full.
            Some(index) => unsafe { self.remove_at(index) }.map(Some),
            None => Ok(None),
        }
    }

    /// Takes a bucket's entry out.
    ///
    /// # Safety
    ///
    /// The bucket is full.
    pub(super) unsafe fn remove_at(&mut self, index: usize) -> Result<(K, V)> {
        let (table, tx) = self.table();
        // SAFETY: the entry is read once, and its bucket emptied. The map is borrowed for
        // changing by this transaction.
        unsafe {
            let Slot { key, value } = raw::take(tx, (*table).bucket(index).as_ptr())?;
            Table::erase(table, index, tx);
            Ok((key, value))
        }
    }

    /// Drops `key` and its value; whether it was there.
    pub(crate) fn drop_entry<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Result<bool>
    where
        K: Borrow<Q>,
    {
        let Some(index) = self.find(self.hash(key), key) else {
            return Ok(false);
        };
        let (table, tx) = self.table();
        // SAFETY: the bucket was found, so it is full; its entry ends once. The map is borrowed for changing by this
        // transaction.
        unsafe {
            raw::release(tx, (*table).bucket(index).as_ptr(), 1)?;
            Table::erase(table, index, tx);
        }
        Ok(true)
    }

    /// Exchanges the key that equals `key`, or puts it in.
    pub(crate) fn replace_key(&mut self, key: K) -> Result<Option<K>>
    where
        V: Default,
    {
        let hash = self.hash(&key);
        let Some(index) = self.find(hash, &key) else {
            return self.insert_new(hash, key, V::default()).map(|_| None);
        };
        let (table, tx) = self.table();
        // SAFETY: the bucket was found, so it is full. An equal key has the same hash. The map is borrowed for changing by
        // this transaction.
        let mut there = unsafe { mut_at(&raw mut (*(*table).bucket(index).as_ptr()).key, tx) };
        Mut::replace(&mut there, key).map(Some)
    }

    /// The place of `key`, whether it is there or not.
    pub fn entry(&mut self, key: K) -> StoredEntry<'_, K, V> {
        stored_entry::find(Mut::reborrow(self), key)
    }

    /// Drops all entries and keeps the room; blocks are freed when the transaction is durable.
    ///
    /// # Errors
    ///
    /// A lock inside an entry is held by an older transaction.
    pub fn clear(&mut self) -> Result<()> {
        let (table, tx) = self.table();
        // SAFETY: each entry is released once, and all buckets emptied. The map is borrowed for
        // changing by this transaction.
        unsafe {
            if Slot::<K, V>::HAS_POINTERS || Slot::<K, V>::HAS_LOCKS {
                (*table)
                    .full()
                    .try_for_each(|slot| raw::release(tx, slot.as_ptr(), 1))?;
            }
            Table::clear(table, tx);
        }
        Ok(())
    }

    /// Keeps the entries of which `keep` says so, and drops the others.
    ///
    /// # Errors
    ///
    /// A lock inside an entry is held by an older transaction.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, Mut<'_, V>) -> bool) -> Result<()> {
        let (table, tx) = self.table();
        // SAFETY: each bucket is looked at once, and emptied when its entry goes. The map is
        // borrowed for changing by this transaction, and `keep` gets no other way to it.
        unsafe {
            for slot in (*table).full() {
                let entry = slot.as_ptr();
                if keep(&(*entry).key, mut_at(&raw mut (*entry).value, tx)) {
                    continue;
                }
                raw::release(tx, entry, 1)?;
                let index = (*table).index_of(slot);
                Table::erase(table, index, tx);
            }
        }
        Ok(())
    }

    /// Takes all entries out, as owned values. All of them leave at once, and the room with them: what the iterator does
    /// not give is dropped with it.
    ///
    /// # Errors
    ///
    /// A lock inside an entry is held by an older transaction.
    pub fn drain(&mut self) -> Result<IntoIter<K, V>> {
        Ok(Mut::take(self)?.into_iter())
    }

    /// Takes the entries out of which `leaves` says so, as owned values. All questions come before the first change.
    ///
    /// # Errors
    ///
    /// A lock inside an entry is held by an older transaction.
    pub fn extract_if(
        &mut self,
        mut leaves: impl FnMut(&K, Mut<'_, V>) -> bool,
    ) -> Result<std::vec::IntoIter<(K, V)>> {
        let (table, tx) = self.table();
        let mut leaving = Vec::new();
        let mut entries = Vec::new();
        // SAFETY: each bucket is looked at once, and emptied once when its entry goes. The map is borrowed for changing by
        // this transaction, and `leaves` gets no other way to it.
        unsafe {
            for slot in (*table).full() {
                let entry = slot.as_ptr();
                if leaves(&(*entry).key, mut_at(&raw mut (*entry).value, tx)) {
                    leaving.push((*table).index_of(slot));
                }
            }
            entries.reserve_exact(leaving.len());
            for index in leaving {
                entries.push(self.remove_at(index)?);
            }
        }
        Ok(entries.into_iter())
    }

    /// Puts all entries of an iterator in.
    ///
    /// # Errors
    ///
    /// The region is full; what was put in before stays.
    pub fn extend(&mut self, entries: impl IntoIterator<Item = (K, V)>) -> Result<()> {
        entries
            .into_iter()
            .try_for_each(|(key, value)| self.insert(key, value).map(drop))
    }

    /// All entries, the values to be changed.
    pub fn iter_mut(&mut self) -> StoredIterMut<'_, K, V> {
        let (table, tx) = self.table();
        // SAFETY: the map is borrowed as long as the iterator lives.
        let full = unsafe { (*table).full() };
        StoredIterMut {
            full,
            tx,
            borrowed: PhantomData,
        }
    }

    /// All values, to be changed.
    pub fn values_mut(&mut self) -> StoredValuesMut<'_, K, V> {
        StoredValuesMut(self.iter_mut())
    }
}

/// Holds the locks in all entries, before they move to another block and after: a reference to what is there may get to
/// another thread.
///
/// # Safety
///
/// A stored table, borrowed for changing by this transaction.
unsafe fn hold_entries<K: Persist, V: Persist>(
    table: *mut Table<Slot<K, V>>,
    tx: TxRef<'_>,
) -> Result<()> {
    if !Slot::<K, V>::HAS_LOCKS {
        return Ok(());
    }
    // SAFETY: the entries of full buckets are there.
    unsafe {
        let mut full = (*table).full();
        full.try_for_each(|slot| hold_all(tx, slot.as_ptr(), 1))
    }
}

impl<K: Persist + Hash + Eq, V: Persist> PHashMap<K, V> {
    /// The value in a bucket of a stored map, for as long as the map is borrowed.
    ///
    /// # Safety
    ///
    /// The bucket is full.
    pub(super) unsafe fn into_value(this: Mut<'_, Self>, index: usize) -> Mut<'_, V> {
        let (map, tx) = (Mut::as_ptr(&this), Mut::tx(&this));
        // SAFETY: the value is there, and the right to the map is given up for it.
        unsafe { mut_at(&raw mut (*(*map).table.bucket(index).as_ptr()).value, tx) }
    }
}

/// Entries of a stored map, the values to be changed; see `Mut<'_, PHashMap<K, V>>::iter_mut`.
pub struct StoredIterMut<'a, K, V> {
    full: Full<Slot<K, V>>,
    tx: TxRef<'a>,
    borrowed: PhantomData<&'a mut Slot<K, V>>,
}

impl<'a, K: Persist, V: Persist> Iterator for StoredIterMut<'a, K, V> {
    type Item = (&'a K, Mut<'a, V>);

    fn next(&mut self) -> Option<Self::Item> {
        let slot = self.full.next().map(NonNull::as_ptr)?;
        // SAFETY: the bucket is full, handed out once, and the map is borrowed.
        unsafe { Some((&(*slot).key, mut_at(&raw mut (*slot).value, self.tx))) }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.full.size_hint()
    }
}

impl<K: Persist, V: Persist> ExactSizeIterator for StoredIterMut<'_, K, V> {}

/// Values of a stored map, to be changed; see `Mut<'_, PHashMap<K, V>>::values_mut`.
pub struct StoredValuesMut<'a, K, V>(StoredIterMut<'a, K, V>);

impl<'a, K: Persist, V: Persist> Iterator for StoredValuesMut<'a, K, V> {
    type Item = Mut<'a, V>;

    fn next(&mut self) -> Option<Mut<'a, V>> {
        Some(self.0.next()?.1)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<K: Persist, V: Persist> ExactSizeIterator for StoredValuesMut<'_, K, V> {}

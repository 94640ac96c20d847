//! Entries of a stored [`PHashMap`]: the place of a key, looked up once.

use super::PHashMap;
use crate::error::Result;
use crate::mutref::Mut;
use crate::persist::Persist;
use std::hash::Hash;

/// The place of a key in a stored map; see `Mut<'_, PHashMap<K, V>>::entry`.
pub enum StoredEntry<'a, K, V> {
    /// The key is there.
    Occupied(StoredOccupied<'a, K, V>),
    /// The key is not there.
    Vacant(StoredVacant<'a, K, V>),
}

/// The place of a key that is there.
pub struct StoredOccupied<'a, K, V> {
    pub(super) map: Mut<'a, PHashMap<K, V>>,
    /// A full bucket.
    pub(super) index: usize,
}

/// The place of a key that is not there.
pub struct StoredVacant<'a, K, V> {
    pub(super) map: Mut<'a, PHashMap<K, V>>,
    pub(super) hash: u64,
    pub(super) key: K,
}

pub(super) fn find<K: Persist + Hash + Eq, V: Persist>(
    map: Mut<'_, PHashMap<K, V>>,
    key: K,
) -> StoredEntry<'_, K, V> {
    let hash = map.hash(&key);
    match map.find(hash, &key) {
        Some(index) => StoredEntry::Occupied(StoredOccupied { map, index }),
        None => StoredEntry::Vacant(StoredVacant { map, hash, key }),
    }
}

impl<'a, K: Persist + Hash + Eq, V: Persist> StoredEntry<'a, K, V> {
    /// The value; `default` is adopted and put there if there is none.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    pub fn or_insert(self, default: V) -> Result<Mut<'a, V>> {
        self.or_insert_with(|| default)
    }

    /// The value; what `default` returns is adopted and put there if there is none.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    pub fn or_insert_with(self, default: impl FnOnce() -> V) -> Result<Mut<'a, V>> {
        self.or_insert_with_key(|_| default())
    }

    /// The value; what `default` returns for the key is adopted and put there if there is none.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    pub fn or_insert_with_key(self, default: impl FnOnce(&K) -> V) -> Result<Mut<'a, V>> {
        match self {
            StoredEntry::Occupied(entry) => Ok(entry.into_mut()),
            StoredEntry::Vacant(entry) => {
                let value = default(&entry.key);
                entry.insert(value)
            }
        }
    }

    /// The value; the default is put there if there is none.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    pub fn or_default(self) -> Result<Mut<'a, V>>
    where
        V: Default,
    {
        self.or_insert_with(V::default)
    }

    /// Changes the value if there is one. For a change that can fail, match on the entry.
    pub fn and_modify(mut self, change: impl FnOnce(Mut<'_, V>)) -> Self {
        if let StoredEntry::Occupied(entry) = &mut self {
            change(entry.get_mut());
        }
        self
    }

    /// The key.
    pub fn key(&self) -> &K {
        match self {
            StoredEntry::Occupied(entry) => entry.key(),
            StoredEntry::Vacant(entry) => entry.key(),
        }
    }
}

impl<'a, K: Persist + Hash + Eq, V: Persist> StoredOccupied<'a, K, V> {
    /// The key that is there.
    pub fn key(&self) -> &K {
        // SAFETY: the bucket is full.
        unsafe { &self.map.table.bucket(self.index).as_ref().key }
    }

    /// The value.
    pub fn get(&self) -> &V {
        // SAFETY: the bucket is full.
        unsafe { &self.map.table.bucket(self.index).as_ref().value }
    }

    /// The value, to be changed.
    pub fn get_mut(&mut self) -> Mut<'_, V> {
        // SAFETY: the bucket is full.
        unsafe { self.map.value_at(self.index) }
    }

    /// The value, for as long as the map is borrowed.
    pub fn into_mut(self) -> Mut<'a, V> {
        // SAFETY: the bucket is full.
        unsafe { PHashMap::into_value(self.map, self.index) }
    }

    /// Adopts `value`, puts it there, and returns the one that was, as an owned value.
    ///
    /// # Errors
    ///
    /// The region is full, or a lock inside is held by an older transaction.
    pub fn insert(&mut self, value: V) -> Result<V> {
        Mut::replace(&mut self.get_mut(), value)
    }

    /// Takes the value out, as an owned value.
    ///
    /// # Errors
    ///
    /// A lock inside is held by an older transaction; nothing changed.
    pub fn remove(self) -> Result<V> {
        Ok(self.remove_entry()?.1)
    }

    /// Takes key and value out, as owned values.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub fn remove_entry(mut self) -> Result<(K, V)> {
        // SAFETY: the bucket is full.
        unsafe { self.map.remove_at(self.index) }
    }
}

impl<'a, K: Persist + Hash + Eq, V: Persist> StoredVacant<'a, K, V> {
    /// The key that would be inserted.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// Gives the key back.
    pub fn into_key(self) -> K {
        self.key
    }

    /// Adopts key and value and puts them there.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    pub fn insert(self, value: V) -> Result<Mut<'a, V>> {
        let StoredVacant { mut map, hash, key } = self;
        let index = map.insert_new(hash, key, value)?;
        // SAFETY: the bucket was filled just now.
        Ok(unsafe { PHashMap::into_value(map, index) })
    }
}

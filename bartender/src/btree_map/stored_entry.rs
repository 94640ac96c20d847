//! Entries of a stored [`PBTreeMap`]: the place of a key, looked up once.

use super::PBTreeMap;
use crate::__private::mut_at;
use crate::error::Result;
use crate::mutref::Mut;
use crate::persist::Persist;
use crate::raw::tree::Cursor;
use std::fmt;

/// The place of a key in a stored map; see `Mut<'_, PBTreeMap<K, V>>::entry`.
pub enum StoredEntry<'a, K, V> {
    /// The key is there.
    Occupied(StoredOccupied<'a, K, V>),
    /// The key is not there.
    Vacant(StoredVacant<'a, K, V>),
}

/// The place of a key that is there.
pub struct StoredOccupied<'a, K, V> {
    pub(super) map: Mut<'a, PBTreeMap<K, V>>,
    /// Of the map; the entry is at its step of `level`.
    pub(super) cursor: Cursor<K, V>,
    pub(super) level: usize,
}

/// The place of a key that is not there.
pub struct StoredVacant<'a, K, V> {
    pub(super) map: Mut<'a, PBTreeMap<K, V>>,
    /// Of the map.
    pub(super) cursor: Cursor<K, V>,
    pub(super) key: K,
}

impl<'a, K: Persist + Ord, V: Persist> StoredEntry<'a, K, V> {
    /// The value; `default` is adopted and put there if there is none.
    ///
    /// # Errors
    ///
    /// As `Mut<'_, PBTreeMap<K, V>>::insert`.
    pub fn or_insert(self, default: V) -> Result<Mut<'a, V>> {
        self.or_insert_with(|| default)
    }

    /// The value; what `default` returns is adopted and put there if there is none.
    ///
    /// # Errors
    ///
    /// As `Mut<'_, PBTreeMap<K, V>>::insert`.
    pub fn or_insert_with(self, default: impl FnOnce() -> V) -> Result<Mut<'a, V>> {
        self.or_insert_with_key(|_| default())
    }

    /// The value; what `default` returns for the key is adopted and put there if there is none.
    ///
    /// # Errors
    ///
    /// As `Mut<'_, PBTreeMap<K, V>>::insert`.
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
    /// As `Mut<'_, PBTreeMap<K, V>>::insert`.
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

impl<'a, K: Persist + Ord, V: Persist> StoredOccupied<'a, K, V> {
    /// The entry at the cursor's step of a level, where there is one.
    pub(super) fn new(map: Mut<'a, PBTreeMap<K, V>>, cursor: Cursor<K, V>, level: usize) -> Self {
        StoredOccupied { map, cursor, level }
    }

    /// The key that is there.
    pub fn key(&self) -> &K {
        let step = self.cursor.step(self.level);
        // SAFETY: the entry is there.
        unsafe { &*step.node.key(step.index) }
    }

    /// The value.
    pub fn get(&self) -> &V {
        let step = self.cursor.step(self.level);
        // SAFETY: the entry is there.
        unsafe { &*step.node.value(step.index) }
    }

    /// The value, to be changed.
    pub fn get_mut(&mut self) -> Mut<'_, V> {
        // SAFETY: the entry is there.
        unsafe { self.map.value_at(&self.cursor, self.level) }
    }

    /// The value, for as long as the map is borrowed.
    pub fn into_mut(self) -> Mut<'a, V> {
        let step = self.cursor.step(self.level);
        // SAFETY: the value is there, and the right to the map is given up for it.
        unsafe { mut_at(step.node.value(step.index), Mut::tx(&self.map)) }
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
    /// As `Mut<'_, PBTreeMap<K, V>>::remove`.
    pub fn remove(self) -> Result<V> {
        Ok(self.remove_entry()?.1)
    }

    /// Takes key and value out, as owned values.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub fn remove_entry(mut self) -> Result<(K, V)> {
        // SAFETY: the entry is there.
        unsafe { self.map.remove_at(&mut self.cursor, self.level) }
    }
}

impl<'a, K: Persist + Ord, V: Persist> StoredVacant<'a, K, V> {
    /// The place, in a leaf, where the key would go.
    pub(super) fn new(map: Mut<'a, PBTreeMap<K, V>>, cursor: Cursor<K, V>, key: K) -> Self {
        StoredVacant { map, cursor, key }
    }

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
    /// As `Mut<'_, PBTreeMap<K, V>>::insert`.
    pub fn insert(self, value: V) -> Result<Mut<'a, V>> {
        let StoredVacant {
            mut map,
            mut cursor,
            key,
        } = self;
        // SAFETY: the place is of this map.
        unsafe { map.insert_at(&mut cursor, key, value)? };
        Ok(StoredOccupied::new(map, cursor, 0).into_mut())
    }
}

impl<K: Persist + Ord + fmt::Debug, V: Persist + fmt::Debug> fmt::Debug for StoredEntry<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoredEntry::Occupied(entry) => {
                let mut shown = f.debug_struct("StoredOccupied");
                shown.field("key", entry.key()).field("value", entry.get());
                shown.finish()
            }
            StoredEntry::Vacant(entry) => f.debug_tuple("StoredVacant").field(&entry.key).finish(),
        }
    }
}

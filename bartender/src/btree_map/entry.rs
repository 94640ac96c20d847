//! Entries of an owned [`PBTreeMap`]: the place of a key, looked up once.

use super::PBTreeMap;
use crate::raw::tree::Cursor;
use std::fmt;
use std::mem;

/// The place of a key in an owned map; see [`PBTreeMap::entry`].
pub enum Entry<'a, K, V> {
    /// The key is there.
    Occupied(OccupiedEntry<'a, K, V>),
    /// The key is not there.
    Vacant(VacantEntry<'a, K, V>),
}

/// The place of a key that is there.
pub struct OccupiedEntry<'a, K, V> {
    map: &'a mut PBTreeMap<K, V>,
    /// Of the map; the entry is at its step of `level`.
    cursor: Cursor<K, V>,
    level: usize,
}

/// The place of a key that is not there.
pub struct VacantEntry<'a, K, V> {
    map: &'a mut PBTreeMap<K, V>,
    /// Of the map.
    cursor: Cursor<K, V>,
    key: K,
}

// SAFETY: it is an exclusive borrow of the map.
unsafe impl<K: Send, V: Send> Send for OccupiedEntry<'_, K, V> {}
// SAFETY: it is an exclusive borrow of the map.
unsafe impl<K: Sync, V: Sync> Sync for OccupiedEntry<'_, K, V> {}
// SAFETY: it is an exclusive borrow of the map, and a key.
unsafe impl<K: Send, V: Send> Send for VacantEntry<'_, K, V> {}
// SAFETY: it is an exclusive borrow of the map, and a key.
unsafe impl<K: Sync, V: Sync> Sync for VacantEntry<'_, K, V> {}

impl<'a, K: Ord, V> Entry<'a, K, V> {
    /// The value; `default` is put there if there is none.
    pub fn or_insert(self, default: V) -> &'a mut V {
        self.or_insert_with(|| default)
    }

    /// The value; what `default` returns is put there if there is none.
    pub fn or_insert_with(self, default: impl FnOnce() -> V) -> &'a mut V {
        self.or_insert_with_key(|_| default())
    }

    /// The value; what `default` returns for the key is put there if there is none.
    pub fn or_insert_with_key(self, default: impl FnOnce(&K) -> V) -> &'a mut V {
        match self {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let value = default(&entry.key);
                entry.insert(value)
            }
        }
    }

    /// The value; the default is put there if there is none.
    pub fn or_default(self) -> &'a mut V
    where
        V: Default,
    {
        self.or_insert_with(V::default)
    }

    /// Changes the value if there is one.
    pub fn and_modify(mut self, change: impl FnOnce(&mut V)) -> Self {
        if let Entry::Occupied(entry) = &mut self {
            change(entry.get_mut());
        }
        self
    }

    /// Puts `value` there, whether there is one or not.
    pub fn insert_entry(self, value: V) -> OccupiedEntry<'a, K, V> {
        match self {
            Entry::Occupied(mut entry) => {
                entry.insert(value);
                entry
            }
            Entry::Vacant(entry) => entry.insert_entry(value),
        }
    }

    /// The key.
    pub fn key(&self) -> &K {
        match self {
            Entry::Occupied(entry) => entry.key(),
            Entry::Vacant(entry) => entry.key(),
        }
    }
}

impl<'a, K: Ord, V> OccupiedEntry<'a, K, V> {
    /// The entry at the cursor's step of a level, where there is one.
    pub(super) fn new(map: &'a mut PBTreeMap<K, V>, cursor: Cursor<K, V>, level: usize) -> Self {
        OccupiedEntry { map, cursor, level }
    }

    fn value(&self) -> *mut V {
        let step = self.cursor.step(self.level);
        step.node.value(step.index)
    }

    /// The key that is there.
    pub fn key(&self) -> &K {
        let step = self.cursor.step(self.level);
        // SAFETY: the entry is there.
        unsafe { &*step.node.key(step.index) }
    }

    /// The value.
    pub fn get(&self) -> &V {
        // SAFETY: the entry is there.
        unsafe { &*self.value() }
    }

    /// The value, to be changed.
    pub fn get_mut(&mut self) -> &mut V {
        // SAFETY: the entry is there, and the map is borrowed exclusively.
        unsafe { &mut *self.value() }
    }

    /// The value, for as long as the map is borrowed.
    pub fn into_mut(self) -> &'a mut V {
        // SAFETY: the entry is there, and the map is borrowed exclusively for so long.
        unsafe { &mut *self.value() }
    }

    /// Exchanges the value.
    pub fn insert(&mut self, value: V) -> V {
        mem::replace(self.get_mut(), value)
    }

    /// Takes the value out.
    pub fn remove(self) -> V {
        self.remove_entry().1
    }

    /// Takes key and value out.
    pub fn remove_entry(mut self) -> (K, V) {
        // SAFETY: the entry is there.
        unsafe { self.map.remove_at(&mut self.cursor, self.level) }
    }
}

impl<'a, K: Ord, V> VacantEntry<'a, K, V> {
    /// The place, in a leaf, where the key would go.
    pub(super) fn new(map: &'a mut PBTreeMap<K, V>, cursor: Cursor<K, V>, key: K) -> Self {
        VacantEntry { map, cursor, key }
    }

    /// The key that would be inserted.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// Gives the key back.
    pub fn into_key(self) -> K {
        self.key
    }

    /// Puts the value there.
    pub fn insert(self, value: V) -> &'a mut V {
        self.insert_entry(value).into_mut()
    }

    /// Puts the value there.
    pub fn insert_entry(self, value: V) -> OccupiedEntry<'a, K, V> {
        let VacantEntry {
            map,
            mut cursor,
            key,
        } = self;
        // SAFETY: the place is of this map.
        unsafe { map.insert_at(&mut cursor, key, value) };
        OccupiedEntry::new(map, cursor, 0)
    }
}

impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for Entry<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Occupied(entry) => f.debug_tuple("Entry").field(entry).finish(),
            Entry::Vacant(entry) => f.debug_tuple("Entry").field(entry).finish(),
        }
    }
}

impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for OccupiedEntry<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OccupiedEntry")
            .field("key", self.key())
            .field("value", self.get())
            .finish()
    }
}

impl<K: Ord + fmt::Debug, V> fmt::Debug for VacantEntry<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VacantEntry").field(self.key()).finish()
    }
}

//! Entries of an owned [`PHashMap`]: the place of a key, looked up once.

use super::PHashMap;
use std::hash::Hash;
use std::mem;

/// The place of a key in an owned map; see [`PHashMap::entry`].
pub enum Entry<'a, K, V> {
    /// The key is there.
    Occupied(OccupiedEntry<'a, K, V>),
    /// The key is not there.
    Vacant(VacantEntry<'a, K, V>),
}

/// The place of a key that is there.
pub struct OccupiedEntry<'a, K, V> {
    map: &'a mut PHashMap<K, V>,
    /// A full bucket.
    index: usize,
}

/// The place of a key that is not there.
pub struct VacantEntry<'a, K, V> {
    map: &'a mut PHashMap<K, V>,
    hash: u64,
    key: K,
}

pub(super) fn find<K: Hash + Eq, V>(map: &mut PHashMap<K, V>, key: K) -> Entry<'_, K, V> {
    let hash = map.hash(&key);
    match map.find(hash, &key) {
        Some(index) => Entry::Occupied(OccupiedEntry { map, index }),
        None => Entry::Vacant(VacantEntry { map, hash, key }),
    }
}

impl<'a, K: Hash + Eq, V> Entry<'a, K, V> {
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

    /// Puts `value` there, whether one was or not.
    pub fn insert_entry(self, value: V) -> OccupiedEntry<'a, K, V> {
        match self {
            Entry::Occupied(mut entry) => {
                entry.insert(value);
                entry
            }
            Entry::Vacant(entry) => entry.insert_entry(value),
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

    /// The key.
    pub fn key(&self) -> &K {
        match self {
            Entry::Occupied(entry) => entry.key(),
            Entry::Vacant(entry) => entry.key(),
        }
    }
}

impl<'a, K: Hash + Eq, V> OccupiedEntry<'a, K, V> {
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
    pub fn get_mut(&mut self) -> &mut V {
        // SAFETY: the bucket is full, and the map is borrowed exclusively.
        unsafe { &mut self.map.table.bucket(self.index).as_mut().value }
    }

    /// The value, for as long as the map is borrowed.
    pub fn into_mut(self) -> &'a mut V {
        // SAFETY: the bucket is full, and the map is borrowed exclusively for so long.
        unsafe { &mut self.map.table.bucket(self.index).as_mut().value }
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
    pub fn remove_entry(self) -> (K, V) {
        self.map.remove_at(self.index)
    }
}

impl<'a, K: Hash + Eq, V> VacantEntry<'a, K, V> {
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

    /// Puts the value there, and gives the entry.
    pub fn insert_entry(self, value: V) -> OccupiedEntry<'a, K, V> {
        let VacantEntry { map, hash, key } = self;
        let index = map.insert_new(hash, key, value);
        OccupiedEntry { map, index }
    }
}

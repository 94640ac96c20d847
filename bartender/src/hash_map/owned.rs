//! The methods that change an owned [`PHashMap`], and `std`'s traits for it.
//!
//! Each leaves the map whole when a key's `Hash`, `Eq` or `Drop`, or a callback, panics.

use super::{
    Drain, Entry, Extract, ExtractIf, IntoIter, IntoKeys, IntoValues, Iter, IterMut, PHashMap,
    Slot, ValuesMut, entry,
};
use crate::ending::{self, Owner};
use crate::raw::table::Table;
use crate::raw::{Ordinary, sure};
use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::mem;
use std::ops::Index;

impl<K, V> PHashMap<K, V> {
    /// All entries, the values to be changed.
    pub fn iter_mut(&mut self) -> IterMut<'_, K, V> {
        IterMut::new(&mut self.table)
    }

    /// All values, to be changed.
    pub fn values_mut(&mut self) -> ValuesMut<'_, K, V> {
        ValuesMut(self.iter_mut())
    }

    /// Drops all entries and keeps the room.
    pub fn clear(&mut self) {
        struct Empty<'a, K, V>(&'a mut Table<Slot<K, V>>);
        impl<K, V> Drop for Empty<'_, K, V> {
            fn drop(&mut self) {
                // SAFETY: the map is owned; its entries are dropped, or leak if a drop panicked.
                unsafe { Table::clear(self.0, Ordinary) }
            }
        }
        let empty = Empty(&mut self.table);
        for slot in empty.0.full() {
            // SAFETY: the bucket is full and will be emptied.
            unsafe { slot.drop_in_place() }
        }
    }

    /// Keeps the entries of which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        for mut slot in self.table.full() {
            // SAFETY: the bucket is full and has not been handed out; it is emptied before its
            // entry is dropped.
            unsafe {
                let entry = slot.as_mut();
                if !keep(&entry.key, &mut entry.value) {
                    let index = self.table.index_of(slot);
                    Table::erase(&mut self.table, index, Ordinary);
                    drop(slot.read());
                }
            }
        }
    }
}

impl<K, V> PHashMap<K, V> {
    /// Takes all entries out and keeps the room. What the iterator has not given when it is dropped, goes with it.
    pub fn drain(&mut self) -> Drain<'_, K, V> {
        Drain::new(self)
    }

    /// Takes the entries out of which `leaves` says so, as the iterator comes to them. The others stay, and those that
    /// it has not come to.
    pub fn extract_if<F: FnMut(&K, &mut V) -> bool>(
        &mut self,
        leaves: F,
    ) -> ExtractIf<'_, K, V, F> {
        ExtractIf {
            entries: Extract::new(self),
            leaves,
        }
    }

    /// The keys; the values are dropped.
    pub fn into_keys(self) -> IntoKeys<K, V> {
        IntoKeys(self.into_iter())
    }

    /// The values; the keys are dropped.
    pub fn into_values(self) -> IntoValues<K, V> {
        IntoValues(self.into_iter())
    }
}

impl<K: Hash + Eq, V> PHashMap<K, V> {
    /// An empty map with room for `capacity` entries.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut map = PHashMap::new();
        map.reserve(capacity);
        map
    }

    /// Makes room for `additional` entries.
    ///
    /// # Panics
    ///
    /// As `HashMap::reserve`.
    #[track_caller]
    pub fn reserve(&mut self, additional: usize) {
        let state = self.hasher();
        // SAFETY: the map is owned.
        sure(unsafe {
            Table::reserve(
                &mut self.table,
                additional,
                |s| state.hash_one(&s.key),
                Ordinary,
            )
        });
    }

    /// Gives room that is not used back.
    pub fn shrink_to_fit(&mut self) {
        self.shrink_to(0);
    }

    /// Gives room back that is neither used nor below `capacity`.
    pub fn shrink_to(&mut self, capacity: usize) {
        let state = self.hasher();
        // SAFETY: the map is owned.
        sure(unsafe {
            Table::shrink(
                &mut self.table,
                capacity,
                |s| state.hash_one(&s.key),
                Ordinary,
            )
        });
    }

    /// The value of `key`, to be changed.
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let index = self.find(self.hash(key), key)?;
        // SAFETY: the bucket was found, so it is full; the map is borrowed exclusively.
        Some(unsafe { &mut self.table.bucket(index).as_mut().value })
    }

    /// Puts `value` at `key` and returns the one that was there. The key that was there stays.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let hash = self.hash(&key);
        match self.find(hash, &key) {
            // SAFETY: the bucket was found, so it is full; the map is borrowed exclusively.
            Some(index) => Some(mem::replace(
                unsafe { &mut self.table.bucket(index).as_mut().value },
                value,
            )),
            None => {
                self.insert_new(hash, key, value);
                None
            }
        }
    }

    /// Exchanges the key that equals `key`, or puts it in.
    pub(crate) fn replace_key(&mut self, key: K) -> Option<K>
    where
        V: Default,
    {
        let hash = self.hash(&key);
        match self.find(hash, &key) {
            // SAFETY: the bucket was found, so it is full; the map is borrowed exclusively. An equal key has the
            // same hash.
            Some(index) => Some(mem::replace(
                unsafe { &mut self.table.bucket(index).as_mut().key },
                key,
            )),
            None => {
                self.insert_new(hash, key, V::default());
                None
            }
        }
    }

    /// Puts an entry into a new bucket. Its key is not there, and has this hash.
    pub(super) fn insert_new(&mut self, hash: u64, key: K, value: V) -> usize {
        self.reserve(1);
        // SAFETY: the map is owned, and there is room for one more.
        unsafe {
            let index = self.table.vacant(hash);
            Table::claim(&mut self.table, index, hash, Ordinary);
            self.table.bucket(index).write(Slot { key, value });
            index
        }
    }

    /// Takes the value of `key` out.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        Some(self.remove_entry(key)?.1)
    }

    /// Takes `key` and its value out.
    pub fn remove_entry<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
    {
        let index = self.find(self.hash(key), key)?;
        Some(self.remove_at(index))
    }

    /// Takes a full bucket's entry out.
    pub(super) fn remove_at(&mut self, index: usize) -> (K, V) {
        // SAFETY: the bucket is full, and emptied; the map is owned.
        unsafe {
            let slot = self.table.bucket(index);
            Table::erase(&mut self.table, index, Ordinary);
            let Slot { key, value } = slot.read();
            (key, value)
        }
    }

    /// The place of `key`, whether it is there or not.
    pub fn entry(&mut self, key: K) -> Entry<'_, K, V> {
        entry::find(self, key)
    }
}

/// Drops the entries and gives the block back. A stored map is never dropped.
impl<K, V> Drop for PHashMap<K, V> {
    fn drop(&mut self) {
        // SAFETY: only an owned value can be dropped, and it is not used after.
        unsafe { ending::end(self) }
    }
}

impl<K, V> Owner for PHashMap<K, V> {
    const DEEP: bool = mem::needs_drop::<Slot<K, V>>();
    const PERSISTENT: bool = false;

    unsafe fn end(&mut self) {
        struct Block<'a, K, V>(&'a mut Table<Slot<K, V>>);
        impl<K, V> Drop for Block<'_, K, V> {
            fn drop(&mut self) {
                // SAFETY: the map is owned, and is not used after.
                unsafe { self.0.free_owned() }
            }
        }
        let table = Block(&mut self.table);
        if Self::DEEP
            && let Some((block, layout)) = table.0.block()
        {
            ending::inside(block.as_ptr(), layout.size(), || {
                for slot in table.0.full() {
                    // SAFETY: the bucket is full, and dropped once.
                    unsafe { slot.drop_in_place() }
                }
            });
        }
    }
}

impl<K, V> Default for PHashMap<K, V> {
    fn default() -> Self {
        PHashMap::new()
    }
}

impl<K: Clone + Hash + Eq, V: Clone> Clone for PHashMap<K, V> {
    /// An owned copy, of a stored map too, with a seed of its own.
    fn clone(&self) -> Self {
        self.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for PHashMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Hash + Eq, V: PartialEq> PartialEq for PHashMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(k, v)| other.get(k) == Some(v))
    }
}

impl<K: Hash + Eq, V: Eq> Eq for PHashMap<K, V> {}

impl<K: Hash + Eq + Borrow<Q>, Q: Hash + Eq + ?Sized, V> Index<&Q> for PHashMap<K, V> {
    type Output = V;

    /// # Panics
    ///
    /// If the key is not there.
    #[inline]
    #[track_caller]
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("no entry found for key")
    }
}

impl<K: Hash + Eq, V> Extend<(K, V)> for PHashMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, iter: I) {
        let iter = iter.into_iter();
        let (least, _) = iter.size_hint();
        self.reserve(if self.is_empty() {
            least
        } else {
            least.div_ceil(2)
        });
        iter.for_each(|(key, value)| drop(self.insert(key, value)));
    }
}

impl<'a, K: Hash + Eq + Copy, V: Copy> Extend<(&'a K, &'a V)> for PHashMap<K, V> {
    fn extend<I: IntoIterator<Item = (&'a K, &'a V)>>(&mut self, iter: I) {
        self.extend(iter.into_iter().map(|(k, v)| (*k, *v)));
    }
}

impl<K: Hash + Eq, V> FromIterator<(K, V)> for PHashMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        let mut map = PHashMap::new();
        map.extend(iter);
        map
    }
}

impl<K: Hash + Eq, V, const N: usize> From<[(K, V); N]> for PHashMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        PHashMap::from_iter(entries)
    }
}

impl<K: Hash + Eq, V, S> From<HashMap<K, V, S>> for PHashMap<K, V> {
    /// Moves each entry.
    fn from(map: HashMap<K, V, S>) -> Self {
        map.into_iter().collect()
    }
}

impl<K: Hash + Eq, V, S: BuildHasher + Default> From<PHashMap<K, V>> for HashMap<K, V, S> {
    /// Moves each entry.
    fn from(map: PHashMap<K, V>) -> Self {
        map.into_iter().collect()
    }
}

impl<K, V> IntoIterator for PHashMap<K, V> {
    type Item = (K, V);
    type IntoIter = IntoIter<K, V>;

    fn into_iter(self) -> IntoIter<K, V> {
        IntoIter::new(self)
    }
}

impl<'a, K, V> IntoIterator for &'a PHashMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

impl<'a, K, V> IntoIterator for &'a mut PHashMap<K, V> {
    type Item = (&'a K, &'a mut V);
    type IntoIter = IterMut<'a, K, V>;

    fn into_iter(self) -> IterMut<'a, K, V> {
        self.iter_mut()
    }
}

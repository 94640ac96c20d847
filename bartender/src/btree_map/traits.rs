//! `std`'s traits for [`PBTreeMap`].

use super::PBTreeMap;
use super::iter::{IntoIter, Iter, IterMut};
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::mem::ManuallyDrop;
use std::ops::Index;

impl<K, V> PBTreeMap<K, V> {
    /// A map of entries by rising keys.
    pub(crate) fn from_sorted(entries: impl Iterator<Item = (K, V)>) -> Self {
        let mut map = PBTreeMap::new();
        entries.for_each(|(key, value)| map.push_back(key, value));
        map
    }
}

impl<K, V> Default for PBTreeMap<K, V> {
    fn default() -> Self {
        PBTreeMap::new()
    }
}

impl<K: Clone, V: Clone> Clone for PBTreeMap<K, V> {
    /// An owned copy, of a stored map too.
    fn clone(&self) -> Self {
        PBTreeMap::from_sorted(self.iter().map(|(k, v)| (k.clone(), v.clone())))
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for PBTreeMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for PBTreeMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<K: Eq, V: Eq> Eq for PBTreeMap<K, V> {}

impl<K: PartialEq, V: PartialEq> PartialEq<BTreeMap<K, V>> for PBTreeMap<K, V> {
    fn eq(&self, other: &BTreeMap<K, V>) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<K: PartialOrd, V: PartialOrd> PartialOrd for PBTreeMap<K, V> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.iter().partial_cmp(other.iter())
    }
}

impl<K: Ord, V: Ord> Ord for PBTreeMap<K, V> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}

impl<K: Hash, V: Hash> Hash for PBTreeMap<K, V> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.len());
        self.iter().for_each(|entry| entry.hash(state));
    }
}

impl<K: Ord + Borrow<Q>, Q: Ord + ?Sized, V> Index<&Q> for PBTreeMap<K, V> {
    type Output = V;

    /// # Panics
    ///
    /// If the key is not there.
    #[track_caller]
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("no entry found for key")
    }
}

impl<K: Ord, V> Extend<(K, V)> for PBTreeMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, iter: I) {
        iter.into_iter()
            .for_each(|(key, value)| drop(self.insert(key, value)));
    }
}

impl<'a, K: Ord + Copy, V: Copy> Extend<(&'a K, &'a V)> for PBTreeMap<K, V> {
    fn extend<I: IntoIterator<Item = (&'a K, &'a V)>>(&mut self, iter: I) {
        self.extend(iter.into_iter().map(|(k, v)| (*k, *v)));
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for PBTreeMap<K, V> {
    /// Sorts the entries, if they are not sorted, and then fills one node after the other. Of equal keys the last value
    /// stays.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        let mut entries: Vec<(K, V)> = iter.into_iter().collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        let mut entries = entries.into_iter().peekable();
        let last_of_equals = std::iter::from_fn(|| {
            let mut entry = entries.next()?;
            while let Some(next) = entries.next_if(|next| next.0 == entry.0) {
                entry = next;
            }
            Some(entry)
        });
        PBTreeMap::from_sorted(last_of_equals)
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for PBTreeMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        PBTreeMap::from_iter(entries)
    }
}

impl<K, V> From<BTreeMap<K, V>> for PBTreeMap<K, V> {
    fn from(map: BTreeMap<K, V>) -> Self {
        PBTreeMap::from_sorted(map.into_iter())
    }
}

impl<K: Ord, V> From<PBTreeMap<K, V>> for BTreeMap<K, V> {
    fn from(map: PBTreeMap<K, V>) -> Self {
        map.into_iter().collect()
    }
}

impl<K, V> IntoIterator for PBTreeMap<K, V> {
    type Item = (K, V);
    type IntoIter = IntoIter<K, V>;

    fn into_iter(self) -> IntoIter<K, V> {
        IntoIter::new(ManuallyDrop::new(self).take_tree())
    }
}

impl<'a, K, V> IntoIterator for &'a PBTreeMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

impl<'a, K, V> IntoIterator for &'a mut PBTreeMap<K, V> {
    type Item = (&'a K, &'a mut V);
    type IntoIter = IterMut<'a, K, V>;

    fn into_iter(self) -> IterMut<'a, K, V> {
        self.iter_mut()
    }
}

//! The methods that change an owned [`PHashSet`], and `std`'s traits for it.

use super::{Drain, ExtractIf, IntoIter, Iter, PHashSet};
use crate::hash_map::{Extract, PHashMap};
use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, Hash};

impl<T> PHashSet<T> {
    /// Drops all values and keeps the room.
    pub fn clear(&mut self) {
        self.map.clear();
    }

    /// Keeps the values of which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.map.retain(|value, ()| keep(value));
    }

    /// Takes all values out and keeps the room. What the iterator has not given when it is dropped, goes with it.
    pub fn drain(&mut self) -> Drain<'_, T> {
        Drain(self.map.drain())
    }
}

impl<T: Hash + Eq> PHashSet<T> {
    /// An empty set with room for `capacity` values.
    pub fn with_capacity(capacity: usize) -> Self {
        PHashSet {
            map: PHashMap::with_capacity(capacity),
        }
    }

    /// Makes room for `additional` values.
    ///
    /// # Panics
    ///
    /// As `HashSet::reserve`.
    #[track_caller]
    pub fn reserve(&mut self, additional: usize) {
        self.map.reserve(additional);
    }

    /// Gives room that is not used back.
    pub fn shrink_to_fit(&mut self) {
        self.map.shrink_to_fit();
    }

    /// Gives room back that is neither used nor below `capacity`.
    pub fn shrink_to(&mut self, capacity: usize) {
        self.map.shrink_to(capacity);
    }

    /// Puts `value` in; whether it was not there. A value that was there stays.
    pub fn insert(&mut self, value: T) -> bool {
        self.map.insert(value, ()).is_none()
    }

    /// Puts `value` in, and returns the equal one that was there.
    pub fn replace(&mut self, value: T) -> Option<T> {
        self.map.replace_key(value)
    }

    /// Takes `value` out; whether it was there.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, value: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.map.remove(value).is_some()
    }

    /// Takes the value out that equals `value`.
    pub fn take<Q: Hash + Eq + ?Sized>(&mut self, value: &Q) -> Option<T>
    where
        T: Borrow<Q>,
    {
        Some(self.map.remove_entry(value)?.0)
    }

    /// Takes the values out of which `leaves` says so, as the iterator comes to them. The others stay, and those that
    /// it has not come to.
    pub fn extract_if<F: FnMut(&T) -> bool>(&mut self, leaves: F) -> ExtractIf<'_, T, F> {
        ExtractIf {
            entries: Extract::new(&mut self.map),
            leaves,
        }
    }
}

impl<T> Default for PHashSet<T> {
    fn default() -> Self {
        PHashSet::new()
    }
}

impl<T: Clone + Hash + Eq> Clone for PHashSet<T> {
    /// An owned copy, of a stored set too, with a seed of its own.
    fn clone(&self) -> Self {
        self.iter().cloned().collect()
    }
}

impl<T: fmt::Debug> fmt::Debug for PHashSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl<T: Hash + Eq> PartialEq for PHashSet<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|value| other.contains(value))
    }
}

impl<T: Hash + Eq> Eq for PHashSet<T> {}

impl<T: Hash + Eq> Extend<T> for PHashSet<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, iter: I) {
        self.map.extend(iter.into_iter().map(|value| (value, ())));
    }
}

impl<'a, T: Hash + Eq + Copy + 'a> Extend<&'a T> for PHashSet<T> {
    fn extend<I: IntoIterator<Item = &'a T>>(&mut self, iter: I) {
        self.extend(iter.into_iter().copied());
    }
}

impl<T: Hash + Eq> FromIterator<T> for PHashSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(iter: I) -> Self {
        let mut set = PHashSet::new();
        set.extend(iter);
        set
    }
}

impl<T: Hash + Eq, const N: usize> From<[T; N]> for PHashSet<T> {
    fn from(values: [T; N]) -> Self {
        PHashSet::from_iter(values)
    }
}

impl<T: Hash + Eq, S> From<HashSet<T, S>> for PHashSet<T> {
    /// Moves each value.
    fn from(set: HashSet<T, S>) -> Self {
        set.into_iter().collect()
    }
}

impl<T: Hash + Eq, S: BuildHasher + Default> From<PHashSet<T>> for HashSet<T, S> {
    /// Moves each value.
    fn from(set: PHashSet<T>) -> Self {
        set.into_iter().collect()
    }
}

impl<T> IntoIterator for PHashSet<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter(self.map.into_keys())
    }
}

impl<'a, T> IntoIterator for &'a PHashSet<T> {
    type Item = &'a T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

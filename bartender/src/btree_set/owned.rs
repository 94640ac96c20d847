//! The methods that change an owned [`PBTreeSet`], and `std`'s traits for it.

use super::{ExtractIf, PBTreeSet};
use crate::btree_map::PBTreeMap;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::RangeBounds;

impl<T> PBTreeSet<T> {
    /// Drops all values.
    pub fn clear(&mut self) {
        self.map.clear();
    }

    /// A set of rising values.
    pub(super) fn from_sorted(values: impl Iterator<Item = T>) -> Self {
        PBTreeSet {
            map: PBTreeMap::from_sorted(values.map(|value| (value, ()))),
        }
    }
}

impl<T: Ord> PBTreeSet<T> {
    /// Puts `value` in; whether it was not there. A value that was there stays.
    pub fn insert(&mut self, value: T) -> bool {
        self.map.insert(value, ()).is_none()
    }

    /// Puts `value` in and returns the equal one that was there.
    pub fn replace(&mut self, value: T) -> Option<T> {
        let old = self.take(&value);
        self.insert(value);
        old
    }

    /// Drops `value`; whether it was there.
    pub fn remove<Q: Ord + ?Sized>(&mut self, value: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.map.remove(value).is_some()
    }

    /// Takes the value that equals `value` out.
    pub fn take<Q: Ord + ?Sized>(&mut self, value: &Q) -> Option<T>
    where
        T: Borrow<Q>,
    {
        Some(self.map.remove_entry(value)?.0)
    }

    /// Takes the lowest value out.
    pub fn pop_first(&mut self) -> Option<T> {
        Some(self.map.pop_first()?.0)
    }

    /// Takes the highest value out.
    pub fn pop_last(&mut self) -> Option<T> {
        Some(self.map.pop_last()?.0)
    }

    /// Keeps the values of which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.map.retain(|value, ()| keep(value));
    }

    /// Takes the values in `range` of which `leaves` says so out, rising, as the iterator comes to them. Those that it
    /// does not come to stay. A range that ends before it starts has nothing in it.
    pub fn extract_if<'a, R: RangeBounds<T> + 'a>(
        &'a mut self,
        range: R,
        mut leaves: impl FnMut(&T) -> bool + 'a,
    ) -> ExtractIf<'a, T, R, impl FnMut(&T, &mut ()) -> bool + 'a> {
        let entries = self.map.extract_if(range, move |value, ()| leaves(value));
        ExtractIf { entries }
    }

    /// Moves all values of `other` here. Costs an insertion for each, none if this set is empty.
    pub fn append(&mut self, other: &mut Self) {
        self.map.append(&mut other.map);
    }

    /// Takes the values from `value` on out, as a set. Costs a removal for each.
    pub fn split_off<Q: Ord + ?Sized>(&mut self, value: &Q) -> Self
    where
        T: Borrow<Q>,
    {
        PBTreeSet {
            map: self.map.split_off(value),
        }
    }
}

impl<T> Default for PBTreeSet<T> {
    fn default() -> Self {
        PBTreeSet::new()
    }
}

impl<T: Clone> Clone for PBTreeSet<T> {
    /// An owned copy, of a stored set too.
    fn clone(&self) -> Self {
        PBTreeSet {
            map: self.map.clone(),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for PBTreeSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl<T: PartialEq> PartialEq for PBTreeSet<T> {
    fn eq(&self, other: &Self) -> bool {
        self.map == other.map
    }
}

impl<T: Eq> Eq for PBTreeSet<T> {}

impl<T: PartialEq> PartialEq<BTreeSet<T>> for PBTreeSet<T> {
    fn eq(&self, other: &BTreeSet<T>) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<T: PartialOrd> PartialOrd for PBTreeSet<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.map.partial_cmp(&other.map)
    }
}

impl<T: Ord> Ord for PBTreeSet<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.map.cmp(&other.map)
    }
}

impl<T: Hash> Hash for PBTreeSet<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.map.hash(state);
    }
}

impl<T: Ord> Extend<T> for PBTreeSet<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, iter: I) {
        for value in iter {
            self.insert(value);
        }
    }
}

impl<'a, T: Ord + Copy + 'a> Extend<&'a T> for PBTreeSet<T> {
    fn extend<I: IntoIterator<Item = &'a T>>(&mut self, iter: I) {
        self.extend(iter.into_iter().copied());
    }
}

impl<T: Ord> FromIterator<T> for PBTreeSet<T> {
    /// Sorts the values, if they are not sorted, and then fills one node after the other.
    fn from_iter<I: IntoIterator<Item = T>>(iter: I) -> Self {
        PBTreeSet {
            map: iter.into_iter().map(|value| (value, ())).collect(),
        }
    }
}

impl<T: Ord, const N: usize> From<[T; N]> for PBTreeSet<T> {
    fn from(values: [T; N]) -> Self {
        PBTreeSet::from_iter(values)
    }
}

impl<T> From<BTreeSet<T>> for PBTreeSet<T> {
    fn from(set: BTreeSet<T>) -> Self {
        PBTreeSet::from_sorted(set.into_iter())
    }
}

impl<T: Ord> From<PBTreeSet<T>> for BTreeSet<T> {
    fn from(set: PBTreeSet<T>) -> Self {
        set.into_iter().collect()
    }
}

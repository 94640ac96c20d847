//! Iterators over a [`PHashSet`](super::PHashSet): those of its map, without the values that are nothing.

use crate::hash_map;
use std::fmt;
use std::hash::Hash;
use std::iter::FusedIterator;

/// Values of a set; see [`PHashSet::iter`](super::PHashSet::iter).
pub struct Iter<'a, T>(pub(super) hash_map::Keys<'a, T, ()>);

impl<T> Clone for Iter<'_, T> {
    fn clone(&self) -> Self {
        Iter(self.0.clone())
    }
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    #[inline]
    fn next(&mut self) -> Option<&'a T> {
        self.0.next()
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<T> ExactSizeIterator for Iter<'_, T> {}
impl<T> FusedIterator for Iter<'_, T> {}

impl<T: fmt::Debug> fmt::Debug for Iter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

/// Values of a set that is used up; see `PHashSet::into_iter`.
pub struct IntoIter<T>(pub(super) hash_map::IntoKeys<T, ()>);

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.0.next()
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<T> ExactSizeIterator for IntoIter<T> {}
impl<T> FusedIterator for IntoIter<T> {}

/// Values that leave an owned set; see [`PHashSet::drain`](super::PHashSet::drain).
pub struct Drain<'a, T>(pub(super) hash_map::Drain<'a, T, ()>);

impl<T> Iterator for Drain<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        Some(self.0.next()?.0)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<T> ExactSizeIterator for Drain<'_, T> {}
impl<T> FusedIterator for Drain<'_, T> {}

/// Values of which a predicate said that they leave an owned set; see
/// [`PHashSet::extract_if`](super::PHashSet::extract_if).
pub struct ExtractIf<'a, T, F> {
    pub(super) entries: hash_map::Extract<'a, T, ()>,
    pub(super) leaves: F,
}

impl<T: Hash + Eq, F: FnMut(&T) -> bool> Iterator for ExtractIf<'_, T, F> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let leaves = &mut self.leaves;
        Some(self.entries.next(|value, ()| leaves(value))?.0)
    }
}

impl<T: Hash + Eq, F: FnMut(&T) -> bool> FusedIterator for ExtractIf<'_, T, F> {}

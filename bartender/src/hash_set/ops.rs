//! Two sets at a time: what is in both, in either, in one of them.

use super::{Iter, PHashSet};
use std::fmt;
use std::hash::Hash;
use std::iter::{Chain, FusedIterator};
use std::ops::{BitAnd, BitOr, BitXor, Sub};

impl<T: Hash + Eq> PHashSet<T> {
    /// The values that are not in `other`.
    pub fn difference<'a>(&'a self, other: &'a PHashSet<T>) -> Difference<'a, T> {
        let iter = self.iter();
        Difference { iter, other }
    }

    /// The values that are in one of the two only: first those of `self`.
    pub fn symmetric_difference<'a>(
        &'a self,
        other: &'a PHashSet<T>,
    ) -> SymmetricDifference<'a, T> {
        SymmetricDifference(self.difference(other).chain(other.difference(self)))
    }

    /// The values that are in both. Costs as many look-ups as the smaller set has values.
    pub fn intersection<'a>(&'a self, other: &'a PHashSet<T>) -> Intersection<'a, T> {
        let (small, other) = if self.len() <= other.len() {
            (self, other)
        } else {
            (other, self)
        };
        let iter = small.iter();
        Intersection { iter, other }
    }

    /// The values that are in at least one of the two, each once.
    pub fn union<'a>(&'a self, other: &'a PHashSet<T>) -> Union<'a, T> {
        let (large, small) = if self.len() >= other.len() {
            (self, other)
        } else {
            (other, self)
        };
        Union(large.iter().chain(small.difference(large)))
    }

    /// Whether no value is in both.
    pub fn is_disjoint(&self, other: &PHashSet<T>) -> bool {
        self.intersection(other).next().is_none()
    }

    /// Whether `other` has all values of this one.
    pub fn is_subset(&self, other: &PHashSet<T>) -> bool {
        self.len() <= other.len() && self.iter().all(|value| other.contains(value))
    }

    /// Whether this one has all values of `other`.
    pub fn is_superset(&self, other: &PHashSet<T>) -> bool {
        other.is_subset(self)
    }
}

/// What is in one set and not in another; see [`PHashSet::difference`].
pub struct Difference<'a, T> {
    iter: Iter<'a, T>,
    other: &'a PHashSet<T>,
}

impl<T> Clone for Difference<'_, T> {
    fn clone(&self) -> Self {
        Difference {
            iter: self.iter.clone(),
            other: self.other,
        }
    }
}

impl<'a, T: Hash + Eq> Iterator for Difference<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        let other = self.other;
        self.iter.find(|value| !other.contains(*value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, self.iter.size_hint().1)
    }
}

/// What is in both of two sets; see [`PHashSet::intersection`].
pub struct Intersection<'a, T> {
    iter: Iter<'a, T>,
    other: &'a PHashSet<T>,
}

impl<T> Clone for Intersection<'_, T> {
    fn clone(&self) -> Self {
        Intersection {
            iter: self.iter.clone(),
            other: self.other,
        }
    }
}

impl<'a, T: Hash + Eq> Iterator for Intersection<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        let other = self.other;
        self.iter.find(|value| other.contains(*value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, self.iter.size_hint().1)
    }
}

/// What is in one of two sets only; see [`PHashSet::symmetric_difference`].
pub struct SymmetricDifference<'a, T>(Chain<Difference<'a, T>, Difference<'a, T>>);

/// What is in either of two sets; see [`PHashSet::union`].
pub struct Union<'a, T>(Chain<Iter<'a, T>, Difference<'a, T>>);

macro_rules! chained {
    ($($name:ident)*) => {$(
        impl<T> Clone for $name<'_, T> {
            fn clone(&self) -> Self {
                $name(self.0.clone())
            }
        }

        impl<'a, T: Hash + Eq> Iterator for $name<'a, T> {
            type Item = &'a T;

            fn next(&mut self) -> Option<&'a T> {
                self.0.next()
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                self.0.size_hint()
            }
        }
    )*};
}

chained!(SymmetricDifference Union);

macro_rules! shown {
    ($($name:ident)*) => {$(
        impl<T: Hash + Eq> FusedIterator for $name<'_, T> {}

        impl<T: fmt::Debug + Hash + Eq> fmt::Debug for $name<'_, T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_list().entries(self.clone()).finish()
            }
        }
    )*};
}

shown!(Difference Intersection SymmetricDifference Union);

macro_rules! operator {
    ($($name:ident $operator:ident $method:ident: $what:literal;)*) => {$(
        impl<T: Hash + Eq + Clone> $name<&PHashSet<T>> for &PHashSet<T> {
            type Output = PHashSet<T>;

            #[doc = $what]
            fn $operator(self, other: &PHashSet<T>) -> PHashSet<T> {
                self.$method(other).cloned().collect()
            }
        }
    )*};
}

operator! {
    BitAnd bitand intersection: "An owned set of clones of what is in both.";
    BitOr bitor union: "An owned set of clones of what is in either.";
    BitXor bitxor symmetric_difference: "An owned set of clones of what is in one only.";
    Sub sub difference: "An owned set of clones of what is not in `other`.";
}

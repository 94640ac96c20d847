//! What two sets have in common and what not, and the operators for it: both are gone through once, side by side.

use super::{Iter, PBTreeSet};
use std::cmp::Ordering;
use std::fmt;
use std::iter::{FusedIterator, Peekable};
use std::ops::{BitAnd, BitOr, BitXor, Sub};

/// The values of two sets, side by side.
struct Both<'a, T> {
    a: Peekable<Iter<'a, T>>,
    b: Peekable<Iter<'a, T>>,
}

impl<T> Clone for Both<'_, T> {
    fn clone(&self) -> Self {
        Both {
            a: self.a.clone(),
            b: self.b.clone(),
        }
    }
}

impl<'a, T: Ord> Both<'a, T> {
    fn new(a: &'a PBTreeSet<T>, b: &'a PBTreeSet<T>) -> Self {
        Both {
            a: a.iter().peekable(),
            b: b.iter().peekable(),
        }
    }

    /// The next value: of the first set, of the second, or of both.
    fn next(&mut self) -> Option<(Option<&'a T>, Option<&'a T>)> {
        let order = match (self.a.peek(), self.b.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.cmp(b),
        };
        Some(match order {
            Ordering::Less => (self.a.next(), None),
            Ordering::Greater => (None, self.b.next()),
            Ordering::Equal => (self.a.next(), self.b.next()),
        })
    }
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident, $method:ident, $op:ident, $operator:ident, $choose:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name<'a, T>(Both<'a, T>);

        impl<'a, T: Ord> Iterator for $name<'a, T> {
            type Item = &'a T;

            fn next(&mut self) -> Option<&'a T> {
                loop {
                    let next = self.0.next()?;
                    if let Some(value) = $choose(next) {
                        return Some(value);
                    }
                }
            }
        }

        impl<T: Ord> FusedIterator for $name<'_, T> {}

        impl<T> Clone for $name<'_, T> {
            fn clone(&self) -> Self {
                $name(self.0.clone())
            }
        }

        impl<T: Ord + fmt::Debug> fmt::Debug for $name<'_, T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_list().entries(self.clone()).finish()
            }
        }

        impl<T: Ord + Clone> $op<&PBTreeSet<T>> for &PBTreeSet<T> {
            type Output = PBTreeSet<T>;

            /// An owned set of copies.
            fn $operator(self, other: &PBTreeSet<T>) -> PBTreeSet<T> {
                PBTreeSet::from_sorted(self.$method(other).cloned())
            }
        }
    )*};
}

operations! {
    /// The values of either set; see [`PBTreeSet::union`].
    Union, union, BitOr, bitor, |(a, b): (Option<&'a T>, Option<&'a T>)| a.or(b);
    /// The values of both sets; see [`PBTreeSet::intersection`].
    Intersection, intersection, BitAnd, bitand, |(a, b): (Option<&'a T>, Option<&'a T>)| b.and(a);
    /// The values of one set that are not in the other; see [`PBTreeSet::difference`].
    Difference, difference, Sub, sub, |(a, b): (Option<&'a T>, Option<&'a T>)| a.filter(|_| b.is_none());
    /// The values of either set that are not in both; see [`PBTreeSet::symmetric_difference`].
    SymmetricDifference, symmetric_difference, BitXor, bitxor, |(a, b): (Option<&'a T>, Option<&'a T>)| a.xor(b);
}

impl<T: Ord> PBTreeSet<T> {
    /// The values of either set, rising.
    pub fn union<'a>(&'a self, other: &'a Self) -> Union<'a, T> {
        Union(Both::new(self, other))
    }

    /// The values that are in both sets, rising.
    pub fn intersection<'a>(&'a self, other: &'a Self) -> Intersection<'a, T> {
        Intersection(Both::new(self, other))
    }

    /// The values that are here and not in `other`, rising.
    pub fn difference<'a>(&'a self, other: &'a Self) -> Difference<'a, T> {
        Difference(Both::new(self, other))
    }

    /// The values that are in one of the sets only, rising.
    pub fn symmetric_difference<'a>(&'a self, other: &'a Self) -> SymmetricDifference<'a, T> {
        SymmetricDifference(Both::new(self, other))
    }

    /// Whether the sets have no value in common.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.intersection(other).next().is_none()
    }

    /// Whether all values are in `other`, too.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.len() <= other.len() && self.difference(other).next().is_none()
    }

    /// Whether all values of `other` are here, too.
    pub fn is_superset(&self, other: &Self) -> bool {
        other.is_subset(self)
    }
}

//! `std`'s traits for [`PVecDeque`]. Nothing here knows of regions.

use super::{IntoIter, Iter, IterMut, PVecDeque};
use crate::places;
use crate::raw::ring::Ring;
use crate::vec::PVec;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::mem::ManuallyDrop;
use std::ops::{Index, IndexMut};
use std::ptr::NonNull;

impl<T> Default for PVecDeque<T> {
    fn default() -> Self {
        PVecDeque::new()
    }
}

impl<T: Clone> Clone for PVecDeque<T> {
    /// An owned copy, of a stored deque too.
    fn clone(&self) -> Self {
        self.iter().cloned().collect()
    }
}

impl<T: fmt::Debug> fmt::Debug for PVecDeque<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<T> Index<usize> for PVecDeque<T> {
    type Output = T;

    /// # Panics
    ///
    /// If the element is not there.
    #[inline]
    #[track_caller]
    fn index(&self, index: usize) -> &T {
        places::below("index", index, self.len());
        // SAFETY: the element is there, and borrowed as long as the deque.
        unsafe { &*self.ring.at(index) }
    }
}

impl<T> IndexMut<usize> for PVecDeque<T> {
    #[inline]
    #[track_caller]
    fn index_mut(&mut self, index: usize) -> &mut T {
        places::below("index", index, self.len());
        // SAFETY: the element is there, and borrowed as long as the deque, exclusively.
        unsafe { &mut *self.ring.at(index) }
    }
}

impl<T> From<Vec<T>> for PVecDeque<T> {
    /// Copies nothing.
    fn from(vec: Vec<T>) -> Self {
        let mut vec = ManuallyDrop::new(vec);
        // SAFETY: the block of a vector is as the ring wants it, and the vector is forgotten.
        let ring = unsafe {
            let block = NonNull::new_unchecked(vec.as_mut_ptr());
            Ring::from_raw(block, vec.len(), vec.capacity())
        };
        PVecDeque { ring }
    }
}

impl<T> From<PVecDeque<T>> for Vec<T> {
    /// Allocates nothing; the elements are moved in their block unless they stand at its start.
    fn from(mut deque: PVecDeque<T>) -> Self {
        deque.make_contiguous();
        let deque = ManuallyDrop::new(deque);
        let ring = &deque.ring;
        let (head, len, cap) = (ring.head(), ring.len(), ring.capacity());
        // SAFETY: the elements stand in one run in a block of the global allocator, and are moved to its start; the deque
        // is forgotten.
        unsafe {
            let block = ring.as_ptr();
            if head != 0 {
                block.copy_from(block.add(head), len);
            }
            Vec::from_raw_parts(block, len, cap)
        }
    }
}

macro_rules! by_vec {
    ($($other:ident)*) => {$(
        impl<T> From<$other<T>> for PVecDeque<T> {
            /// Allocates nothing; the elements may be moved in their block.
            fn from(other: $other<T>) -> Self {
                Vec::from(other).into()
            }
        }

        impl<T> From<PVecDeque<T>> for $other<T> {
            /// Allocates nothing; the elements may be moved in their block.
            fn from(deque: PVecDeque<T>) -> Self {
                Vec::from(deque).into()
            }
        }
    )*};
}

by_vec!(VecDeque PVec);

impl<T, const N: usize> From<[T; N]> for PVecDeque<T> {
    fn from(array: [T; N]) -> Self {
        Vec::from(array).into()
    }
}

impl<T> FromIterator<T> for PVecDeque<T> {
    fn from_iter<I: IntoIterator<Item = T>>(iter: I) -> Self {
        Vec::from_iter(iter).into()
    }
}

impl<T> Extend<T> for PVecDeque<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, iter: I) {
        let iter = iter.into_iter();
        self.reserve(iter.size_hint().0);
        iter.for_each(|value| self.push_back(value));
    }
}

impl<'a, T: Copy + 'a> Extend<&'a T> for PVecDeque<T> {
    fn extend<I: IntoIterator<Item = &'a T>>(&mut self, iter: I) {
        self.extend(iter.into_iter().copied());
    }
}

impl<T> IntoIterator for PVecDeque<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter(self)
    }
}

impl<'a, T> IntoIterator for &'a PVecDeque<T> {
    type Item = &'a T;
    type IntoIter = Iter<'a, T>;

    #[inline]
    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<'a, T> IntoIterator for &'a mut PVecDeque<T> {
    type Item = &'a mut T;
    type IntoIter = IterMut<'a, T>;

    fn into_iter(self) -> IterMut<'a, T> {
        self.iter_mut()
    }
}

impl<T: PartialEq> PartialEq for PVecDeque<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other)
    }
}

impl<T: Eq> Eq for PVecDeque<T> {}

/// Equality with other sequences.
macro_rules! equal_to {
    ($([$($generics:tt)*] $other:ty;)*) => {$(
        impl<T: PartialEq<U>, U, $($generics)*> PartialEq<$other> for PVecDeque<T> {
            fn eq(&self, other: &$other) -> bool {
                self.len() == other.len() && self.iter().zip(other.iter()).all(|(a, b)| a == b)
            }
        }
    )*};
}

equal_to! {
    [] [U];
    [] &[U];
    [] Vec<U>;
    [] PVec<U>;
    [] VecDeque<U>;
    [const N: usize] [U; N];
    [const N: usize] &[U; N];
}

impl<T: PartialOrd> PartialOrd for PVecDeque<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.iter().partial_cmp(other)
    }
}

impl<T: Ord> Ord for PVecDeque<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other)
    }
}

/// The same for the same elements, wherever in the block they stand.
impl<T: Hash> Hash for PVecDeque<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.len());
        self.iter().for_each(|element| element.hash(state));
    }
}

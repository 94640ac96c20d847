//! What a stored vector has of its slice: elements to be changed, and put in order.

use super::PVec;
use crate::__private::parts;
use crate::error::Result;
use crate::mutref::Mut;
use crate::persist::Persist;
use crate::slice::IterMut;
use std::cmp::Ordering;
use std::ptr::NonNull;

/// The elements in their places. Each method that changes something has effect when the transaction commits; each is the
/// one of `Mut<'_, [T]>`.
impl<T: Persist> Mut<'_, PVec<T>> {
    /// All elements as a slice, to be changed.
    pub fn as_slice_mut(&mut self) -> Mut<'_, [T]> {
        let (this, tx) = parts(self);
        // SAFETY: the elements are there, and borrowed for changing as long as the vector; a dangling pointer is not null.
        unsafe {
            let array = &(*this).array;
            let start = NonNull::new_unchecked(array.as_ptr());
            Mut::from_raw(NonNull::slice_from_raw_parts(start, array.len()), tx)
        }
    }

    /// The element at `index`, to be changed.
    pub fn get_mut(&mut self, index: usize) -> Option<Mut<'_, T>> {
        self.as_slice_mut().into_element(index)
    }

    /// The first element, to be changed.
    pub fn first_mut(&mut self) -> Option<Mut<'_, T>> {
        self.get_mut(0)
    }

    /// The last element, to be changed.
    pub fn last_mut(&mut self) -> Option<Mut<'_, T>> {
        self.get_mut(self.len().wrapping_sub(1))
    }

    /// All elements in order, to be changed.
    pub fn iter_mut(&mut self) -> IterMut<'_, T> {
        self.as_slice_mut().into_iter()
    }

    /// The elements before `middle` and those from there on, each part to be changed by itself.
    ///
    /// # Panics
    ///
    /// If `middle > len`.
    #[track_caller]
    pub fn split_at_mut(&mut self, middle: usize) -> (Mut<'_, [T]>, Mut<'_, [T]>) {
        self.as_slice_mut().into_parts(middle)
    }

    /// Two elements, each to be changed by itself.
    ///
    /// # Panics
    ///
    /// If one of them is not there, or they are one.
    #[track_caller]
    pub fn pair_mut(&mut self, a: usize, b: usize) -> (Mut<'_, T>, Mut<'_, T>) {
        self.as_slice_mut().into_pair(a, b)
    }

    /// Exchanges two elements (`[T]::swap`, whose name `Mut::swap` has).
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    ///
    /// # Panics
    ///
    /// If one of them is not there.
    #[track_caller]
    pub fn swap_elements(&mut self, a: usize, b: usize) -> Result<()> {
        self.as_slice_mut().swap_elements(a, b)
    }

    /// Turns the order round.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn reverse(&mut self) -> Result<()> {
        self.as_slice_mut().reverse()
    }

    /// Turns the elements so that the one at `middle` becomes the first one.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    ///
    /// # Panics
    ///
    /// If `middle > len`.
    #[track_caller]
    pub fn rotate_left(&mut self, middle: usize) -> Result<()> {
        self.as_slice_mut().rotate_left(middle)
    }

    /// Turns the elements so that the first one comes to `count`.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    ///
    /// # Panics
    ///
    /// If `count > len`.
    #[track_caller]
    pub fn rotate_right(&mut self, count: usize) -> Result<()> {
        self.as_slice_mut().rotate_right(count)
    }

    /// Puts the elements in order; equal ones stay in theirs. Their bytes are moved, what they own is not. A comparison that
    /// panics leaves them as they were. Of plain data, `as_mut_slice` sorts with less memory.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn sort(&mut self) -> Result<()>
    where
        T: Ord,
    {
        self.as_slice_mut().sort()
    }

    /// As [`sort`](Self::sort), by `compare`.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn sort_by(&mut self, compare: impl FnMut(&T, &T) -> Ordering) -> Result<()> {
        self.as_slice_mut().sort_by(compare)
    }

    /// As [`sort`](Self::sort), by a key of each element.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn sort_by_key<K: Ord>(&mut self, key: impl FnMut(&T) -> K) -> Result<()> {
        self.as_slice_mut().sort_by_key(key)
    }

    /// As [`sort_by_key`](Self::sort_by_key), with each key made once.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn sort_by_cached_key<K: Ord>(&mut self, key: impl FnMut(&T) -> K) -> Result<()> {
        self.as_slice_mut().sort_by_cached_key(key)
    }

    /// As [`sort`](Self::sort), with equal elements in any order.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn sort_unstable(&mut self) -> Result<()>
    where
        T: Ord,
    {
        self.as_slice_mut().sort_unstable()
    }

    /// As [`sort_unstable`](Self::sort_unstable), by `compare`.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn sort_unstable_by(&mut self, compare: impl FnMut(&T, &T) -> Ordering) -> Result<()> {
        self.as_slice_mut().sort_unstable_by(compare)
    }

    /// As [`sort_unstable`](Self::sort_unstable), by a key of each element.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn sort_unstable_by_key<K: Ord>(&mut self, key: impl FnMut(&T) -> K) -> Result<()> {
        self.as_slice_mut().sort_unstable_by_key(key)
    }
}

//! Changing stored slices: the methods of `Mut<'_, [T]>`, which vectors and boxes of slices give.
//!
//! Elements are changed, exchanged and put in order, but none comes or goes. What calls the program back (a comparison)
//! does so before the first change: a panic leaves everything in its place.

use crate::__private::mut_at;
use crate::error::Result;
use crate::mutref::Mut;
use crate::persist::{Persist, PlainData, hold_all};
use crate::places;
use crate::tx::TxRef;
use std::cmp::Ordering;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// Stored slices. Each method that changes something has effect when the transaction commits; none has a barrier of its
/// own. Where an index is out of bounds they panic like a slice's, which aborts the transaction.
impl<'tx, T: Persist> Mut<'tx, [T]> {
    #[inline]
    fn start(&self) -> *mut T {
        Mut::as_ptr(self).cast()
    }

    /// The element at `index`, to be changed.
    pub fn get_mut(&mut self, index: usize) -> Option<Mut<'_, T>> {
        Mut::reborrow(self).into_element(index)
    }

    /// The element at `index`, for as long as this would have lived.
    pub(crate) fn into_element(self, index: usize) -> Option<Mut<'tx, T>> {
        if index >= self.len() {
            return None;
        }
        // SAFETY: the element is there, and the right to the slice is given up for it.
        Some(unsafe { mut_at(self.start().add(index), Mut::tx(&self)) })
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
        Mut::reborrow(self).into_iter()
    }

    /// The elements before `middle` and those from there on, each part to be changed by itself.
    ///
    /// # Panics
    ///
    /// If `middle > len`.
    #[track_caller]
    pub fn split_at_mut(&mut self, middle: usize) -> (Mut<'_, [T]>, Mut<'_, [T]>) {
        Mut::reborrow(self).into_parts(middle)
    }

    /// The two parts, for as long as this would have lived.
    #[track_caller]
    pub(crate) fn into_parts(self, middle: usize) -> (Mut<'tx, [T]>, Mut<'tx, [T]>) {
        let len = self.len();
        places::upto("split index", middle, len);
        let (start, tx) = (self.start(), Mut::tx(&self));
        let part = |from: usize, len: usize| {
            // SAFETY: two parts that do not overlap, for which the right to the whole is given up.
            unsafe {
                let start = NonNull::new_unchecked(start.add(from));
                Mut::from_raw(NonNull::slice_from_raw_parts(start, len), tx)
            }
        };
        (part(0, middle), part(middle, len - middle))
    }

    /// Two elements, each to be changed by itself.
    ///
    /// # Panics
    ///
    /// If one of them is not there, or they are one.
    #[track_caller]
    pub fn pair_mut(&mut self, a: usize, b: usize) -> (Mut<'_, T>, Mut<'_, T>) {
        Mut::reborrow(self).into_pair(a, b)
    }

    /// The two elements, for as long as this would have lived.
    #[track_caller]
    pub(crate) fn into_pair(self, a: usize, b: usize) -> (Mut<'tx, T>, Mut<'tx, T>) {
        let len = self.len();
        places::below("index", a, len);
        places::below("index", b, len);
        assert!(a != b, "the two indices are one: {a}");
        let (start, tx) = (self.start(), Mut::tx(&self));
        // SAFETY: two elements that are there, for which the right to the whole is given up.
        unsafe { (mut_at(start.add(a), tx), mut_at(start.add(b), tx)) }
    }

    /// Exchanges two elements (`[T]::swap`, whose name `Mut::swap` has).
    ///
    /// # Errors
    ///
    /// A lock inside one of the two is held by an older transaction; nothing changed.
    ///
    /// # Panics
    ///
    /// If one of them is not there.
    #[track_caller]
    pub fn swap_elements(&mut self, a: usize, b: usize) -> Result<()> {
        let len = self.len();
        places::below("swap index", a, len);
        places::below("swap index", b, len);
        if a == b {
            return Ok(());
        }
        let (mut a, mut b) = self.pair_mut(a, b);
        Mut::swap(&mut a, &mut b)
    }

    /// Turns the order round.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn reverse(&mut self) -> Result<()> {
        self.as_bytes_of(0, self.len())?.reverse();
        Ok(())
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
        places::upto("rotation count", middle, self.len());
        self.as_bytes_of(0, self.len())?.rotate_left(middle);
        Ok(())
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
        places::upto("rotation count", count, self.len());
        self.as_bytes_of(0, self.len())?.rotate_right(count);
        Ok(())
    }

    /// Puts the elements in order; equal ones stay in theirs. Their bytes are moved, what they own is not. Of plain data,
    /// `as_mut_slice` sorts with less memory.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn sort(&mut self) -> Result<()>
    where
        T: Ord,
    {
        self.sort_by(T::cmp)
    }

    /// As [`sort`](Self::sort), by `compare`. A panic of it leaves the elements in their order.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn sort_by(&mut self, mut compare: impl FnMut(&T, &T) -> Ordering) -> Result<()> {
        self.arrange(|elements, order| order.sort_by(|&a, &b| compare(&elements[a], &elements[b])))
    }

    /// As [`sort`](Self::sort), by a key of each element.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn sort_by_key<K: Ord>(&mut self, mut key: impl FnMut(&T) -> K) -> Result<()> {
        self.arrange(|elements, order| order.sort_by_key(|&index| key(&elements[index])))
    }

    /// As [`sort_by_key`](Self::sort_by_key), with each key made once.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn sort_by_cached_key<K: Ord>(&mut self, mut key: impl FnMut(&T) -> K) -> Result<()> {
        self.arrange(|elements, order| order.sort_by_cached_key(|&index| key(&elements[index])))
    }

    /// Puts the elements in order; equal ones in any.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn sort_unstable(&mut self) -> Result<()>
    where
        T: Ord,
    {
        self.sort_unstable_by(T::cmp)
    }

    /// As [`sort_unstable`](Self::sort_unstable), by `compare`. A panic of it leaves the elements in their order.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn sort_unstable_by(&mut self, mut compare: impl FnMut(&T, &T) -> Ordering) -> Result<()> {
        self.arrange(|elements, order| {
            order.sort_unstable_by(|&a, &b| compare(&elements[a], &elements[b]));
        })
    }

    /// As [`sort_unstable`](Self::sort_unstable), by a key of each element.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn sort_unstable_by_key<K: Ord>(&mut self, mut key: impl FnMut(&T) -> K) -> Result<()> {
        self.arrange(|elements, order| order.sort_unstable_by_key(|&index| key(&elements[index])))
    }

    /// Puts the elements in the order that `arrange` makes of their numbers. It sees them all before the first one moves.
    fn arrange(&mut self, arrange: impl FnOnce(&[T], &mut [usize])) -> Result<()> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        arrange(self, &mut order);
        let moves = |&(place, from): &(usize, usize)| place != from;
        let Some((first, _)) = order.iter().copied().enumerate().find(moves) else {
            return Ok(());
        };
        let last = order.iter().copied().enumerate().rfind(moves);
        let (last, _) = last.expect("one that moves has taken another one's place");
        let count = last + 1 - first;
        let places = self.as_bytes_of(first, count)?;
        let mut old = Vec::<MaybeUninit<T>>::with_capacity(count);
        // SAFETY: `order` has each number once (only its order was changed), so that each element is copied out once, and
        // to one place; those outside of the range keep theirs.
        unsafe {
            let (from, to) = (places.as_ptr(), old.as_mut_ptr());
            to.copy_from_nonoverlapping(from, count);
            let to = places.as_mut_ptr();
            for (place, from) in order[first..=last].iter().enumerate() {
                to.add(place)
                    .copy_from_nonoverlapping(old.as_ptr().add(from - first), 1);
            }
        }
        Ok(())
    }

    /// Elements as places whose bytes may change places with each other: their locks are held, their old bytes kept.
    pub(crate) fn as_bytes_of(
        &mut self,
        from: usize,
        count: usize,
    ) -> Result<&mut [MaybeUninit<T>]> {
        assert!(from + count <= self.len(), "the range is there");
        let tx = Mut::tx(self);
        // SAFETY: the elements are there, and borrowed for changing by this transaction as long as the slice.
        unsafe {
            let at = self.start().add(from);
            hold_all(tx, at, count)?;
            if count != 0 {
                tx.change(at.cast(), count * size_of::<T>());
            }
            Ok(std::slice::from_raw_parts_mut(at.cast(), count))
        }
    }
}

/// Stored slices of [`PlainData`].
impl<T: PlainData> Mut<'_, [T]> {
    /// All elements as a slice that can be written, for sorting or filling it. All of them go into the transaction's
    /// record.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        let (start, len, tx) = (self.start(), self.len(), Mut::tx(self));
        // SAFETY: plain data can be written as it is; the elements are borrowed as long as the slice.
        unsafe {
            if len != 0 {
                tx.change(start.cast(), len * size_of::<T>());
            }
            std::slice::from_raw_parts_mut(start, len)
        }
    }

    /// Writes `value` to each place.
    pub fn fill(&mut self, value: T) {
        self.as_mut_slice().fill(value);
    }

    /// Copies all elements of `slice`.
    ///
    /// # Panics
    ///
    /// If the two have not the same length.
    #[track_caller]
    pub fn copy_from_slice(&mut self, slice: &[T]) {
        self.as_mut_slice().copy_from_slice(slice);
    }
}

impl<'tx, T: Persist> IntoIterator for Mut<'tx, [T]> {
    type Item = Mut<'tx, T>;
    type IntoIter = IterMut<'tx, T>;

    fn into_iter(self) -> IterMut<'tx, T> {
        IterMut {
            next: self.start(),
            left: self.len(),
            tx: Mut::tx(&self),
            borrowed: PhantomData,
        }
    }
}

/// The elements of a stored slice or vector, to be changed.
pub struct IterMut<'a, T> {
    next: *mut T,
    left: usize,
    tx: TxRef<'a>,
    borrowed: PhantomData<&'a mut T>,
}

impl<'a, T: Persist> Iterator for IterMut<'a, T> {
    type Item = Mut<'a, T>;

    fn next(&mut self) -> Option<Mut<'a, T>> {
        self.left = self.left.checked_sub(1)?;
        let at = self.next;
        // SAFETY: each element is handed out once, and is borrowed as long as the slice.
        unsafe {
            self.next = at.add(1);
            Some(mut_at(at, self.tx))
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T: Persist> DoubleEndedIterator for IterMut<'_, T> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        // SAFETY: as in `next`.
        Some(unsafe { mut_at(self.next.add(self.left), self.tx) })
    }
}

impl<T: Persist> ExactSizeIterator for IterMut<'_, T> {}

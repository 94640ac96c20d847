//! The methods that change an owned [`PVecDeque`].
//!
//! Each leaves the deque whole when a callback or an element's `Drop` or `Clone` panics.

use super::{IterMut, PVecDeque};
use crate::ending::{self, Owner};
use crate::places::{self, bounds};
use crate::raw::ring::Ring;
use crate::raw::{Ordinary, Store, sure};
use std::mem::needs_drop;
use std::ops::RangeBounds;
use std::ptr;

impl<T> PVecDeque<T> {
    /// An empty deque with room for `capacity` elements.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut deque = PVecDeque::new();
        deque.reserve_exact(capacity);
        deque
    }

    /// Makes room for `additional` elements.
    ///
    /// # Panics
    ///
    /// As `VecDeque::reserve`.
    #[track_caller]
    pub fn reserve(&mut self, additional: usize) {
        // SAFETY: the deque is owned.
        sure(unsafe { Ring::reserve(&mut self.ring, additional, false, Ordinary) });
    }

    /// Makes room for `additional` elements and no more.
    ///
    /// # Panics
    ///
    /// As `VecDeque::reserve_exact`.
    #[track_caller]
    pub fn reserve_exact(&mut self, additional: usize) {
        // SAFETY: the deque is owned.
        sure(unsafe { Ring::reserve(&mut self.ring, additional, true, Ordinary) });
    }

    /// Gives room that is not used back.
    pub fn shrink_to_fit(&mut self) {
        self.shrink_to(0);
    }

    /// Gives room back that is neither used nor below `capacity`.
    pub fn shrink_to(&mut self, capacity: usize) {
        let wanted = self.len().max(capacity);
        if wanted < self.capacity() {
            // SAFETY: the deque is owned.
            sure(unsafe { Ring::rebuild(&mut self.ring, wanted, Ordinary) });
        }
    }

    /// The element at `index`, to be changed.
    #[inline]
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        if index >= self.len() {
            return None;
        }
        // SAFETY: the element is there, and the deque is borrowed exclusively.
        Some(unsafe { &mut *self.ring.at(index) })
    }

    /// The first element, to be changed.
    pub fn front_mut(&mut self) -> Option<&mut T> {
        self.get_mut(0)
    }

    /// The last element, to be changed.
    pub fn back_mut(&mut self) -> Option<&mut T> {
        self.get_mut(self.len().wrapping_sub(1))
    }

    /// The elements in two slices, to be changed; see [`as_slices`](Self::as_slices).
    pub fn as_mut_slices(&mut self) -> (&mut [T], &mut [T]) {
        self.ring.as_mut_slices()
    }

    /// All elements, from front to back, to be changed.
    pub fn iter_mut(&mut self) -> IterMut<'_, T> {
        IterMut::new(self.as_mut_slices())
    }

    /// The elements in `range`, to be changed.
    ///
    /// # Panics
    ///
    /// If it goes beyond the end or backwards.
    #[track_caller]
    pub fn range_mut(&mut self, range: impl RangeBounds<usize>) -> IterMut<'_, T> {
        let (start, end) = bounds(range, self.len());
        let (front, back) = self.as_mut_slices();
        let middle = front.len();
        let (a, b) = (start.min(middle), end.min(middle));
        let (c, d) = (start.max(middle) - middle, end.max(middle) - middle);
        IterMut::new((&mut front[a..b], &mut back[c..d]))
    }

    /// Moves the elements so that they stand in one slice.
    pub fn make_contiguous(&mut self) -> &mut [T] {
        // SAFETY: the deque is owned.
        unsafe { Ring::straighten(&mut self.ring, Ordinary) };
        self.ring.as_mut_slices().0
    }

    /// Exchanges two elements.
    ///
    /// # Panics
    ///
    /// If one of them is not there.
    #[track_caller]
    pub fn swap(&mut self, a: usize, b: usize) {
        places::below("swap index", a, self.len());
        places::below("swap index", b, self.len());
        // SAFETY: they are, and the deque is owned.
        unsafe { ptr::swap(self.ring.at(a), self.ring.at(b)) }
    }

    /// Adds an element at the end.
    #[inline]
    pub fn push_back(&mut self, value: T) {
        if self.len() == self.capacity() {
            self.reserve(1);
        }
        let len = self.len();
        // SAFETY: there is room for one more, and the deque is owned.
        unsafe {
            self.ring.at(len).write(value);
            Ring::set_len(&mut self.ring, len + 1, Ordinary);
        }
    }

    /// Adds an element in front of the first one.
    #[inline]
    pub fn push_front(&mut self, value: T) {
        if self.len() == self.capacity() {
            self.reserve(1);
        }
        let (head, len) = (self.ring.before(1), self.len());
        // SAFETY: there is room for one more, and the deque is owned.
        unsafe {
            self.ring.as_ptr().add(head).write(value);
            Ring::set(&mut self.ring, head, len + 1, Ordinary);
        }
    }

    /// Takes the last element out.
    #[inline]
    pub fn pop_back(&mut self) -> Option<T> {
        let left = self.len().checked_sub(1)?;
        // SAFETY: the element was there, and is read once.
        unsafe {
            Ring::set_len(&mut self.ring, left, Ordinary);
            Some(self.ring.at(left).read())
        }
    }

    /// Takes the first element out.
    #[inline]
    pub fn pop_front(&mut self) -> Option<T> {
        let left = self.len().checked_sub(1)?;
        // SAFETY: the element was there, and is read once.
        unsafe {
            let value = self.ring.at(0).read();
            let next = self.ring.after(1);
            Ring::set(&mut self.ring, next, left, Ordinary);
            Some(value)
        }
    }

    /// Puts an element before the one at `index`, or at the end. The shorter side moves.
    ///
    /// # Panics
    ///
    /// If `index > len`.
    #[track_caller]
    pub fn insert(&mut self, index: usize, value: T) {
        places::upto("insertion index", index, self.len());
        self.reserve(1);
        // SAFETY: there is room for one more; the gap is filled. The deque is owned.
        unsafe {
            Ring::open(&mut self.ring, index, Ordinary);
            self.ring.at(index).write(value);
        }
    }

    /// Takes the element at `index` out. The shorter side moves.
    pub fn remove(&mut self, index: usize) -> Option<T> {
        if index >= self.len() {
            return None;
        }
        // SAFETY: the element is there, and is read once. The deque is owned.
        unsafe {
            let value = self.ring.at(index).read();
            Ring::close(&mut self.ring, index, 1, Ordinary);
            Some(value)
        }
    }

    /// Takes the element at `index` out; the last one takes its place.
    pub fn swap_remove_back(&mut self, index: usize) -> Option<T> {
        let last = self.len().wrapping_sub(1);
        if index > last || self.is_empty() {
            return None;
        }
        self.swap(index, last);
        self.pop_back()
    }

    /// Takes the element at `index` out; the first one takes its place.
    pub fn swap_remove_front(&mut self, index: usize) -> Option<T> {
        if index >= self.len() {
            return None;
        }
        self.swap(index, 0);
        self.pop_front()
    }

    /// Turns the deque so that element `count` becomes the first one. Costs the shorter way round.
    ///
    /// # Panics
    ///
    /// If `count > len`.
    #[track_caller]
    pub fn rotate_left(&mut self, count: usize) {
        places::upto("rotation count", count, self.len());
        // SAFETY: the deque is owned.
        unsafe { Ring::rotate(&mut self.ring, count, Ordinary) }
    }

    /// Turns the deque so that the first element becomes element `count`. Costs the shorter way round.
    ///
    /// # Panics
    ///
    /// If `count > len`.
    #[track_caller]
    pub fn rotate_right(&mut self, count: usize) {
        places::upto("rotation count", count, self.len());
        self.rotate_left(self.len() - count);
    }

    /// Drops the elements from `len` on.
    pub fn truncate(&mut self, len: usize) {
        let old = self.len();
        if len >= old {
            return;
        }
        let [front, back] = self.ring.runs(len, old - len).map(|(place, count)| {
            // SAFETY: the elements of the run are in the block.
            ptr::slice_from_raw_parts_mut(unsafe { self.ring.as_ptr().add(place) }, count)
        });
        // SAFETY: those beyond `len` are dropped below, or leak if a drop panics. The deque is owned.
        unsafe { Ring::set_len(&mut self.ring, len, Ordinary) };
        let _back = Elements(back);
        let _front = Elements(front);
    }

    /// Drops all elements and keeps the room.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Takes the elements of `range` out. All of them leave at once: what the iterator does not give is dropped with it.
    ///
    /// # Panics
    ///
    /// If it goes beyond the end or backwards.
    #[track_caller]
    pub fn drain(&mut self, range: impl RangeBounds<usize>) -> std::vec::IntoIter<T> {
        let (start, end) = bounds(range, self.len());
        self.take_out(start, end).into_iter()
    }

    /// Takes the elements from `start` to `end` out.
    fn take_out(&mut self, start: usize, end: usize) -> Vec<T> {
        let count = end - start;
        let mut taken = Vec::with_capacity(count);
        // SAFETY: the elements are there, and move. The deque is owned.
        unsafe {
            self.ring.copy_out(start, count, taken.as_mut_ptr());
            taken.set_len(count);
            Ring::close(&mut self.ring, start, count, Ordinary);
        }
        taken
    }

    /// Cuts the deque in two at `at` and returns the second part.
    ///
    /// # Panics
    ///
    /// If `at > len`.
    #[track_caller]
    pub fn split_off(&mut self, at: usize) -> Self {
        places::upto("`at` split index", at, self.len());
        self.take_out(at, self.len()).into()
    }

    /// Moves all elements of `other` to the end.
    pub fn append(&mut self, other: &mut Self) {
        self.reserve(other.len());
        let (at, (front, back)) = (self.len(), other.as_slices());
        // SAFETY: there is room; the elements move. Both deques are owned.
        unsafe {
            self.ring.copy_in(at, front.len(), front.as_ptr(), Ordinary);
            let behind = at + front.len();
            self.ring
                .copy_in(behind, back.len(), back.as_ptr(), Ordinary);
            Ring::set_len(&mut self.ring, behind + back.len(), Ordinary);
            Ring::set(&mut other.ring, 0, 0, Ordinary);
        }
    }

    /// Keeps the elements of which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.retain_mut(|element| keep(element));
    }

    /// Keeps the elements of which `keep` says so, which may change them.
    pub fn retain_mut(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        // As std does: those that go are exchanged to the end, so that a panic leaves all of them there.
        let mut kept = 0;
        for index in 0..self.len() {
            if keep(self.get_mut(index).expect("below the length")) {
                if kept != index {
                    self.swap(kept, index);
                }
                kept += 1;
            }
        }
        self.truncate(kept);
    }

    /// Makes the deque `len` long with clones of `value`, or cuts it off.
    pub fn resize(&mut self, len: usize, value: T)
    where
        T: Clone,
    {
        match len.checked_sub(self.len()) {
            Some(more) => self.extend(std::iter::repeat_n(value, more)),
            None => self.truncate(len),
        }
    }

    /// Makes the deque `len` long with what `value` returns, or cuts it off.
    pub fn resize_with(&mut self, len: usize, value: impl FnMut() -> T) {
        match len.checked_sub(self.len()) {
            Some(more) => self.extend(std::iter::repeat_with(value).take(more)),
            None => self.truncate(len),
        }
    }
}

/// Elements that nobody has any more. Those of a second slice are dropped also when one of the first panics.
struct Elements<T>(*mut [T]);

impl<T> Drop for Elements<T> {
    fn drop(&mut self) {
        // SAFETY: who makes it says that they are there, and dropped here only.
        unsafe { ptr::drop_in_place(self.0) }
    }
}

/// Drops the elements and gives the block back. A stored deque is never dropped.
impl<T> Drop for PVecDeque<T> {
    fn drop(&mut self) {
        // SAFETY: only an owned value can be dropped, and it is not used after.
        unsafe { ending::end(self) }
    }
}

impl<T> Owner for PVecDeque<T> {
    const DEEP: bool = needs_drop::<T>();
    const PERSISTENT: bool = false;

    unsafe fn end(&mut self) {
        struct Block<'a, T>(&'a mut Ring<T>);
        impl<T> Drop for Block<'_, T> {
            fn drop(&mut self) {
                if let Some((block, layout)) = self.0.block() {
                    // SAFETY: the deque is owned, and is not used after.
                    unsafe { Ordinary.free(block, layout) }
                }
            }
        }
        let block = Block(&mut self.ring);
        if Self::DEEP {
            let len = block.0.capacity() * size_of::<T>();
            let start = block.0.as_ptr().cast_const().cast();
            let (front, back) = block.0.as_mut_slices();
            let (front, back) = (ptr::from_mut(front), ptr::from_mut(back));
            ending::inside(start, len, || {
                let _back = Elements(back);
                let _front = Elements(front);
            });
        }
    }
}

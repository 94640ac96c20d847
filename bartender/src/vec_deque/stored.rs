//! Changing a stored [`PVecDeque`]: the methods of `Mut<'_, PVecDeque<T>>`.
//!
//! Each keeps what it overwrites for an abort and puts what it writes into the transaction's record. An element that
//! goes in is adopted before anything refers to it, so an error leaves the deque as it was.

use super::PVecDeque;
use crate::__private::{mut_at, parts};
use crate::error::{Error, Result};
use crate::mutref::Mut;
use crate::persist::{Persist, PlainData, hold_all};
use crate::places::{self, bounds};
use crate::raw::{self, ring::Ring};
use crate::tx::TxRef;
use std::marker::PhantomData;
use std::ops::RangeBounds;

/// How an element is taken out: as an owned value, or as one that is moved.
pub(super) type Out<T, X> = unsafe fn(TxRef<'_>, *mut T) -> Result<X>;

/// Stored deques. Each method that changes something has effect when the transaction commits;
/// none has a barrier of its own. Where an index is out of bounds they panic like `VecDeque`'s,
/// which aborts the transaction.
impl<T: Persist> Mut<'_, PVecDeque<T>> {
    #[inline]
    pub(super) fn ring(&mut self) -> (*mut Ring<T>, TxRef<'_>) {
        let (this, tx) = parts(self);
        (this.cast(), tx)
    }

    /// Makes room for `additional` elements.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    pub fn reserve(&mut self, additional: usize) -> Result<()> {
        self.grow(additional, false)
    }

    /// Makes room for `additional` elements and no more.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    pub fn reserve_exact(&mut self, additional: usize) -> Result<()> {
        self.grow(additional, true)
    }

    pub(super) fn grow(&mut self, additional: usize, exact: bool) -> Result<()> {
        let moves = additional > self.capacity() - self.len();
        if moves {
            self.hold(0, self.len())?;
        }
        let (ring, tx) = self.ring();
        // SAFETY: the deque is stored and borrowed for changing by this transaction.
        unsafe { Ring::reserve(ring, additional, exact, tx)? };
        if moves {
            // A reference to what is in the new block may get to another thread.
            self.hold(0, self.len())?;
        }
        Ok(())
    }

    /// Gives room that is not used back.
    ///
    /// # Errors
    ///
    /// The region is full, or a lock inside an element is held by an older transaction; nothing changed.
    pub fn shrink_to_fit(&mut self) -> Result<()> {
        let len = self.len();
        if len == self.capacity() {
            return Ok(());
        }
        self.hold(0, len)?;
        let (ring, tx) = self.ring();
        // SAFETY: the deque is stored and borrowed for changing by this transaction.
        unsafe { Ring::rebuild(ring, len, tx)? };
        self.hold(0, len)
    }

    /// Adopts `value` and adds it at the end.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed, and `value` is lost.
    #[inline]
    pub fn push_back(&mut self, value: T) -> Result<()> {
        self.grow(1, false)?;
        let (ring, tx) = self.ring();
        // SAFETY: there is room for one more; the place holds nothing that anybody sees. The deque is borrowed for
        // changing by this transaction.
        unsafe {
            let len = (*ring).len();
            raw::put(tx, (*ring).at(len), value)?;
            Ring::set_len(ring, len + 1, tx);
        }
        Ok(())
    }

    /// Adopts `value` and adds it in front of the first element.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed, and `value` is lost.
    #[inline]
    pub fn push_front(&mut self, value: T) -> Result<()> {
        self.grow(1, false)?;
        let (ring, tx) = self.ring();
        // SAFETY: as in `push_back`.
        unsafe {
            let (head, len) = ((*ring).before(1), (*ring).len());
            raw::put(tx, (*ring).as_ptr().add(head), value)?;
            Ring::set(ring, head, len + 1, tx);
        }
        Ok(())
    }

    /// Takes the last element out, as an owned value.
    ///
    /// # Errors
    ///
    /// A lock inside the element is held by an older transaction; nothing changed.
    pub fn pop_back(&mut self) -> Result<Option<T>> {
        self.remove_by(self.len().wrapping_sub(1), raw::take)
    }

    /// Takes the first element out, as an owned value.
    ///
    /// # Errors
    ///
    /// A lock inside the element is held by an older transaction; nothing changed.
    pub fn pop_front(&mut self) -> Result<Option<T>> {
        self.remove_by(0, raw::take)
    }

    /// Adopts `value` and puts it before the element at `index`, or at the end. The shorter side moves.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed, and `value` is lost. Or a lock inside an element that moves is held by an
    /// older transaction.
    ///
    /// # Panics
    ///
    /// If `index > len`.
    #[track_caller]
    pub fn insert(&mut self, index: usize, value: T) -> Result<()> {
        let len = self.len();
        places::upto("insertion index", index, len);
        self.hold_shorter(index, len - index)?;
        match index < len - index {
            true => {
                self.push_front(value)?;
                self.first_to(index);
            }
            false => {
                self.push_back(value)?;
                self.last_to(index);
            }
        }
        Ok(())
    }

    /// Moves the first element behind the next `index` ones, whose locks are held.
    pub(super) fn first_to(&mut self, index: usize) {
        let (ring, tx) = self.ring();
        // SAFETY: exchanging elements keeps each once. The deque is borrowed for changing by this transaction.
        unsafe {
            // The first one's place was kept when it was put there.
            (*ring).change(1, index, tx);
            (0..index).for_each(|i| (*ring).at(i).swap((*ring).at(i + 1)));
        }
    }

    /// Moves the last element before the one at `index`. The locks from there on are held.
    pub(super) fn last_to(&mut self, index: usize) {
        let last = self.len() - 1;
        let (ring, tx) = self.ring();
        // SAFETY: as in `first_to`.
        unsafe {
            (*ring).change(index, last - index, tx);
            (index..last)
                .rev()
                .for_each(|i| (*ring).at(i).swap((*ring).at(i + 1)));
        }
    }

    /// Takes the element at `index` out, as an owned value. The shorter side moves.
    ///
    /// # Errors
    ///
    /// A lock inside an element that moves is held by an older transaction; nothing changed.
    pub fn remove(&mut self, index: usize) -> Result<Option<T>> {
        self.remove_by(index, raw::take)
    }

    /// Takes the element at `index` out by `out`.
    pub(super) fn remove_by<X>(&mut self, index: usize, out: Out<T, X>) -> Result<Option<X>> {
        let len = self.len();
        if index >= len {
            return Ok(None);
        }
        self.hold_shorter(index, len - 1 - index)?;
        let (ring, tx) = self.ring();
        // SAFETY: the element is read once, and its place closed. The deque is borrowed for changing by this transaction.
        unsafe {
            let value = out(tx, (*ring).at(index))?;
            Ring::close(ring, index, 1, tx);
            Ok(Some(value))
        }
    }

    /// Takes the element at `index` out, as an owned value; the last one takes its place.
    ///
    /// # Errors
    ///
    /// A lock inside one of the two is held by an older transaction; nothing changed.
    pub fn swap_remove_back(&mut self, index: usize) -> Result<Option<T>> {
        let len = self.len();
        if index >= len {
            return Ok(None);
        }
        self.swap_elements(index, len - 1)?;
        self.pop_back()
    }

    /// Takes the element at `index` out, as an owned value; the first one takes its place.
    ///
    /// # Errors
    ///
    /// A lock inside one of the two is held by an older transaction; nothing changed.
    pub fn swap_remove_front(&mut self, index: usize) -> Result<Option<T>> {
        if index >= self.len() {
            return Ok(None);
        }
        self.swap_elements(index, 0)?;
        self.pop_front()
    }

    /// Exchanges two elements (`VecDeque::swap`, whose name `Mut::swap` has).
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
        self.hold(a, 1)?;
        self.hold(b, 1)?;
        let (ring, tx) = self.ring();
        // SAFETY: both elements are there. The deque is borrowed for changing by this transaction.
        unsafe {
            (*ring).change(a, 1, tx);
            (*ring).change(b, 1, tx);
            (*ring).at(a).swap((*ring).at(b));
        }
        Ok(())
    }

    /// Turns the deque so that element `count` becomes the first one. Moves the shorter way round, or nothing when the
    /// deque is full.
    ///
    /// # Errors
    ///
    /// A lock inside an element that moves is held by an older transaction; nothing changed.
    ///
    /// # Panics
    ///
    /// If `count > len`.
    #[track_caller]
    pub fn rotate_left(&mut self, count: usize) -> Result<()> {
        let len = self.len();
        places::upto("rotation count", count, len);
        self.hold_shorter(count, len - count)?;
        let (ring, tx) = self.ring();
        // SAFETY: the deque is borrowed for changing by this transaction.
        unsafe { Ring::rotate(ring, count, tx) };
        // Some are in places that were free.
        self.hold(0, len)
    }

    /// Turns the deque so that the first element becomes element `count`.
    ///
    /// # Errors
    ///
    /// As [`rotate_left`](Self::rotate_left).
    ///
    /// # Panics
    ///
    /// If `count > len`.
    #[track_caller]
    pub fn rotate_right(&mut self, count: usize) -> Result<()> {
        let len = self.len();
        places::upto("rotation count", count, len);
        self.rotate_left(len - count)
    }

    /// Moves the elements so that they stand in one slice: the first one of `as_slices`.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn make_contiguous(&mut self) -> Result<()> {
        if self.as_slices().1.is_empty() {
            return Ok(());
        }
        self.hold(0, self.len())?;
        let (ring, tx) = self.ring();
        // SAFETY: the deque is borrowed for changing by this transaction.
        unsafe { Ring::straighten(ring, tx) };
        self.hold(0, self.len())
    }

    /// Drops the elements from `len` on; their blocks are freed when the transaction is durable.
    ///
    /// # Errors
    ///
    /// A lock inside one of them is held by an older transaction; nothing changed.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        let old = self.len();
        if len >= old {
            return Ok(());
        }
        self.hold(len, old - len)?;
        let (ring, tx) = self.ring();
        // SAFETY: the elements beyond `len` are nobody's from now on. The deque is borrowed for changing by this
        // transaction.
        unsafe {
            Ring::set_len(ring, len, tx);
            (*ring)
                .runs(len, old - len)
                .into_iter()
                .try_for_each(|(place, count)| raw::release(tx, (*ring).as_ptr().add(place), count))
        }
    }

    /// Drops all elements and keeps the room.
    ///
    /// # Errors
    ///
    /// As [`truncate`](Self::truncate).
    pub fn clear(&mut self) -> Result<()> {
        self.truncate(0)
    }

    /// Takes the elements of `range` out, as owned values. All of them leave at once: what the iterator does not give is
    /// dropped with it.
    ///
    /// # Errors
    ///
    /// A lock inside one of them, or in one that moves, is held by an older transaction; the transaction can only abort
    /// then.
    ///
    /// # Panics
    ///
    /// If the range goes beyond the end or backwards.
    #[track_caller]
    pub fn drain(&mut self, range: impl RangeBounds<usize>) -> Result<std::vec::IntoIter<T>> {
        let (start, end) = bounds(range, self.len());
        self.hold(start, end - start)?;
        self.hold_shorter(start, self.len() - end)?;
        let (ring, tx) = self.ring();
        let mut taken = Vec::with_capacity(end - start);
        // SAFETY: each element is read once, and their places are closed. The deque is borrowed for changing by this
        // transaction.
        unsafe {
            for index in start..end {
                taken.push(raw::take(tx, (*ring).at(index))?);
            }
            Ring::close(ring, start, end - start, tx);
        }
        Ok(taken.into_iter())
    }

    /// Moves all elements of `other` to the end. What they own is not copied.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignValue`] if the two are of different transactions; the region is full; a lock inside an element
    /// is held by an older transaction. Nothing changed.
    pub fn append(&mut self, other: &mut Mut<'_, PVecDeque<T>>) -> Result<()> {
        if Mut::tx(self) != Mut::tx(other) {
            return Err(Error::ForeignValue);
        }
        other.hold(0, other.len())?;
        self.grow(other.len(), false)?;
        let (from, _) = other.ring();
        let at = self.len();
        let (ring, tx) = self.ring();
        // SAFETY: two `Mut`s never overlap. There is room, and the elements move. Both deques are borrowed for changing by
        // this transaction.
        unsafe {
            let (front, back) = (*from).as_slices();
            let (front, back) = ((front.as_ptr(), front.len()), (back.as_ptr(), back.len()));
            (*ring).copy_in(at, front.1, front.0, tx);
            (*ring).copy_in(at + front.1, back.1, back.0, tx);
            Ring::set_len(ring, at + front.1 + back.1, tx);
            Ring::set(from, 0, 0, tx);
            for index in at..(*ring).len() {
                hold_all(tx, (*ring).at(index), 1)?;
            }
        }
        Ok(())
    }

    /// Adopts the values of an iterator and adds them at the end.
    ///
    /// # Errors
    ///
    /// The region is full; what was added before stays.
    pub fn extend(&mut self, values: impl IntoIterator<Item = T>) -> Result<()> {
        let mut values = values.into_iter();
        self.reserve(values.size_hint().0)?;
        values.try_for_each(|value| self.push_back(value))
    }

    /// Makes the deque `len` long with what `value` returns, or cuts it off.
    ///
    /// # Errors
    ///
    /// The region is full; what was added before stays. As [`truncate`](Self::truncate).
    pub fn resize_with(&mut self, len: usize, value: impl FnMut() -> T) -> Result<()> {
        match len.checked_sub(self.len()) {
            Some(more) => self.extend(std::iter::repeat_with(value).take(more)),
            None => self.truncate(len),
        }
    }

    /// Makes the deque `len` long with clones of `value`, or cuts it off.
    ///
    /// # Errors
    ///
    /// As [`resize_with`](Self::resize_with).
    pub fn resize(&mut self, len: usize, value: T) -> Result<()>
    where
        T: Clone,
    {
        match len.checked_sub(self.len()) {
            Some(more) => self.extend(std::iter::repeat_n(value, more)),
            None => self.truncate(len),
        }
    }

    /// The element at `index`, to be changed.
    pub fn get_mut(&mut self, index: usize) -> Option<Mut<'_, T>> {
        if index >= self.len() {
            return None;
        }
        let (ring, tx) = self.ring();
        // SAFETY: the element is there and borrowed as long as the deque.
        Some(unsafe { mut_at((*ring).at(index), tx) })
    }

    /// The first element, to be changed.
    pub fn front_mut(&mut self) -> Option<Mut<'_, T>> {
        self.get_mut(0)
    }

    /// The last element, to be changed.
    pub fn back_mut(&mut self) -> Option<Mut<'_, T>> {
        self.get_mut(self.len().wrapping_sub(1))
    }

    /// All elements from front to back, to be changed.
    pub fn iter_mut(&mut self) -> StoredIterMut<'_, T> {
        let left = self.len();
        let (ring, tx) = self.ring();
        StoredIterMut {
            ring,
            next: 0,
            end: left,
            tx,
            borrowed: PhantomData,
        }
    }

    /// Keeps the elements of which `keep` says so, and drops the others.
    ///
    /// # Errors
    ///
    /// A lock inside an element that moves is held by an older transaction; nothing changed.
    pub fn retain(&mut self, mut keep: impl FnMut(Mut<'_, T>) -> bool) -> Result<()> {
        self.hold(0, self.len())?;
        // All questions before the first change: `keep` may panic, and the panic may be caught.
        let kept: Vec<bool> = self.iter_mut().map(&mut keep).collect();
        let (ring, tx) = self.ring();
        let mut len = 0;
        // SAFETY: each element is kept once or released once. The deque is borrowed for changing by this transaction.
        unsafe {
            for (index, keep) in kept.into_iter().enumerate() {
                let at = (*ring).at(index);
                if !keep {
                    raw::release(tx, at, 1)?;
                    continue;
                }
                if len != index {
                    (*ring).change(len, 1, tx);
                    (*ring).at(len).copy_from_nonoverlapping(at, 1);
                }
                len += 1;
            }
            Ring::set_len(ring, len, tx);
        }
        Ok(())
    }

    /// Holds the locks inside `count` elements from `index` on: they are about to move or go.
    pub(super) fn hold(&mut self, index: usize, count: usize) -> Result<()> {
        if !T::HAS_LOCKS {
            return Ok(());
        }
        let (ring, tx) = self.ring();
        // SAFETY: the elements are there.
        unsafe {
            (*ring)
                .runs(index, count)
                .into_iter()
                .try_for_each(|(place, count)| hold_all(tx, (*ring).as_ptr().add(place), count))
        }
    }

    /// Holds the locks of the shorter side: of the first `front` elements or of the last `back` ones; and of what lies
    /// between.
    fn hold_shorter(&mut self, front: usize, back: usize) -> Result<()> {
        let len = self.len();
        match front < back {
            true => self.hold(0, len - back),
            false => self.hold(front, len - front),
        }
    }
}

/// Stored deques of [`PlainData`].
impl<T: PlainData> Mut<'_, PVecDeque<T>> {
    /// The elements in two slices that can be written; see [`PVecDeque::as_slices`]. All of them go into the
    /// transaction's record.
    pub fn as_mut_slices(&mut self) -> (&mut [T], &mut [T]) {
        let (ring, tx) = self.ring();
        // SAFETY: plain data can be written as it is; the elements are borrowed as long as the deque.
        unsafe {
            (*ring).change(0, (*ring).len(), tx);
            (*ring).as_mut_slices()
        }
    }

    /// Adds copies of all elements of `slice`, in at most two pieces.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    pub fn extend_from_slice(&mut self, slice: &[T]) -> Result<()> {
        self.reserve(slice.len())?;
        let at = self.len();
        let (ring, tx) = self.ring();
        // SAFETY: there is room; the slice cannot lie in it. Plain data is its bytes. The deque is borrowed for changing by
        // this transaction.
        unsafe {
            (*ring).copy_in(at, slice.len(), slice.as_ptr(), tx);
            Ring::set_len(ring, at + slice.len(), tx);
        }
        Ok(())
    }
}

/// The elements of a stored deque, to be changed; see `Mut<'_, PVecDeque<T>>::iter_mut`.
pub struct StoredIterMut<'a, T> {
    ring: *mut Ring<T>,
    next: usize,
    end: usize,
    tx: TxRef<'a>,
    borrowed: PhantomData<&'a mut T>,
}

impl<'a, T: Persist> StoredIterMut<'a, T> {
    /// # Safety
    ///
    /// The element is there, and handed out once.
    unsafe fn at(&self, index: usize) -> Mut<'a, T> {
        // SAFETY: the element is borrowed as long as the deque, whose own fields nobody changes meanwhile.
        unsafe { mut_at((*self.ring).at(index), self.tx) }
    }
}

impl<'a, T: Persist> Iterator for StoredIterMut<'a, T> {
    type Item = Mut<'a, T>;

    fn next(&mut self) -> Option<Mut<'a, T>> {
        if self.next == self.end {
            return None;
        }
        self.next += 1;
        // SAFETY: between the two ends, each once.
        Some(unsafe { self.at(self.next - 1) })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.end - self.next, Some(self.end - self.next))
    }
}

impl<T: Persist> DoubleEndedIterator for StoredIterMut<'_, T> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.next == self.end {
            return None;
        }
        self.end -= 1;
        // SAFETY: between the two ends, each once.
        Some(unsafe { self.at(self.end) })
    }
}

impl<T: Persist> ExactSizeIterator for StoredIterMut<'_, T> {}

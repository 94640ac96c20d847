//! Several elements of a stored vector at a time: those that leave, those that come from another one.

use super::PVec;
use crate::error::{Error, Result};
use crate::moved::Moved;
use crate::mutref::Mut;
use crate::persist::{Persist, hold_all};
use crate::places::{self, bounds};
use crate::raw::{self, Store, array::Array};
use std::alloc::Layout;
use std::mem::ManuallyDrop;
use std::ops::RangeBounds;

/// Several elements at a time. What leaves, leaves at once, when the method is called: what the iterator does not give is
/// dropped with it.
impl<T: Persist> Mut<'_, PVec<T>> {
    /// Gives room that is not used back.
    ///
    /// # Errors
    ///
    /// The region is full, or a lock inside an element is held by an older transaction; nothing changed.
    pub fn shrink_to_fit(&mut self) -> Result<()> {
        if self.len() == self.capacity() {
            return Ok(());
        }
        self.hold_from(0)?;
        let (array, tx) = self.array();
        // SAFETY: the vector is stored and borrowed for changing by this transaction.
        unsafe { Array::shrink(array, tx)? };
        // A reference to what is in the new block may get to another thread.
        self.hold_from(0)
    }

    /// Takes the elements of `range` out, as owned values.
    ///
    /// # Errors
    ///
    /// A lock inside an element that leaves or moves is held by an older transaction; the transaction can only abort then.
    ///
    /// # Panics
    ///
    /// If the range goes beyond the end or backwards.
    #[track_caller]
    pub fn drain(&mut self, range: impl RangeBounds<usize>) -> Result<std::vec::IntoIter<T>> {
        let len = self.len();
        let (start, end) = bounds(range, len);
        self.hold_from(start)?;
        let (array, tx) = self.array();
        let mut taken = Vec::with_capacity(end - start);
        // SAFETY: each element is read once, and those behind them take their places. The vector is borrowed for changing by
        // this transaction.
        unsafe {
            for index in start..end {
                taken.push(raw::take(tx, (*array).as_ptr().add(index))?);
            }
            if start != end {
                Array::shift(array, end, start, tx);
                Array::set_len(array, len - taken.len(), tx);
            }
        }
        Ok(taken.into_iter())
    }

    /// Takes the elements out of which `leaves` says so, as owned values. All questions come before the first change.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; the transaction can only abort then.
    pub fn extract_if(
        &mut self,
        mut leaves: impl FnMut(Mut<'_, T>) -> bool,
    ) -> Result<std::vec::IntoIter<T>> {
        self.hold_from(0)?;
        let kept: Vec<bool> = self.iter_mut().map(|element| !leaves(element)).collect();
        let mut taken = Vec::new();
        self.keep(&kept, |tx, at| {
            // SAFETY: the element is read once, and nobody sees it from now on.
            taken.push(unsafe { raw::take(tx, at)? });
            Ok(())
        })?;
        Ok(taken.into_iter())
    }

    /// Takes the elements of `range` out, as owned values, and adopts those of `new` in their place.
    ///
    /// # Errors
    ///
    /// As [`drain`](Self::drain) and [`extend`](Self::extend); after an error some may have come or gone.
    ///
    /// # Panics
    ///
    /// If the range goes beyond the end or backwards.
    #[track_caller]
    pub fn splice(
        &mut self,
        range: impl RangeBounds<usize>,
        new: impl IntoIterator<Item = T>,
    ) -> Result<std::vec::IntoIter<T>> {
        let (start, end) = bounds(range, self.len());
        let taken = self.drain(start..end)?;
        let before = self.len();
        self.extend(new)?;
        let (_, mut behind) = self.split_at_mut(start);
        behind.rotate_left(before - start)?;
        Ok(taken)
    }

    /// Drops elements that equal the one before.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn dedup(&mut self) -> Result<()>
    where
        T: PartialEq,
    {
        self.dedup_by(|a, b| a == b)
    }

    /// Drops elements whose key equals that of the one before.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn dedup_by_key<K: PartialEq>(&mut self, mut key: impl FnMut(&T) -> K) -> Result<()> {
        self.dedup_by(|a, b| key(a) == key(b))
    }

    /// Drops elements `a` for which `same(a, b)` says that they are the same as `b`, the last one before them that stays. All
    /// questions come before the first change.
    ///
    /// # Errors
    ///
    /// A lock inside an element is held by an older transaction; nothing changed.
    pub fn dedup_by(&mut self, mut same: impl FnMut(&T, &T) -> bool) -> Result<()> {
        self.hold_from(0)?;
        let mut last: Option<&T> = None;
        let kept: Vec<bool> = self
            .iter()
            .map(|element| {
                let goes = last.is_some_and(|last| same(element, last));
                if !goes {
                    last = Some(element);
                }
                !goes
            })
            .collect();
        self.keep(&kept, |tx, at| {
            // SAFETY: the element ends, and nobody sees it from now on.
            unsafe { raw::release(tx, at, 1) }
        })
    }

    /// Makes the vector `len` long with clones of `value`, or cuts it off.
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

    /// Makes the vector `len` long with what `value` returns, or cuts it off.
    ///
    /// # Errors
    ///
    /// The region is full: what was added before stays. As [`truncate`](Self::truncate).
    pub fn resize_with(&mut self, len: usize, value: impl FnMut() -> T) -> Result<()> {
        match len.checked_sub(self.len()) {
            Some(more) => self.extend(std::iter::repeat_with(value).take(more)),
            None => self.truncate(len),
        }
    }

    /// Moves all elements of `other` to the end. What they own is not copied.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignValue`] if the two are of different transactions; the region is full; a lock inside an element
    /// is held by an older transaction. Nothing changed.
    pub fn append(&mut self, other: &mut Mut<'_, PVec<T>>) -> Result<()> {
        if Mut::tx(self) != Mut::tx(other) {
            return Err(Error::ForeignValue);
        }
        let count = other.len();
        if count == 0 {
            return Ok(());
        }
        other.hold_from(0)?;
        self.reserve(count)?;
        let (from, _) = other.array();
        let (array, tx) = self.array();
        // SAFETY: two `Mut`s never overlap. There is room, and the elements move. Both vectors are borrowed for changing by
        // this transaction.
        unsafe {
            let len = (*array).len();
            let to = (*array).as_ptr().add(len);
            tx.change(to.cast(), count * size_of::<T>());
            to.copy_from_nonoverlapping((*from).as_ptr(), count);
            Array::set_len(array, len + count, tx);
            Array::set_len(from, 0, tx);
            hold_all(tx, to, count)
        }
    }

    /// Cuts the vector in two at `at`. The second part lies in a new block of the region, to be attached somewhere; what
    /// its elements own is not copied.
    ///
    /// # Errors
    ///
    /// The region is full, or a lock inside an element of the second part is held by an older transaction; nothing changed.
    ///
    /// # Panics
    ///
    /// If `at > len`.
    #[track_caller]
    pub fn split_off(&mut self, at: usize) -> Result<Moved<PVec<T>>> {
        let part = self.cut_off(at)?;
        // SAFETY: the part is stored, and belongs to the transaction from now on.
        Ok(unsafe { Moved::keep(Mut::tx(self), &raw const *part) })
    }

    /// Cuts off what stands from `at` on: a stored value that nobody has yet.
    #[track_caller]
    pub(crate) fn cut_off(&mut self, at: usize) -> Result<ManuallyDrop<PVec<T>>> {
        let len = self.len();
        places::upto("`at` split index", at, len);
        self.hold_from(at)?;
        let (array, tx) = self.array();
        let count = len - at;
        let mut part = Array::new();
        if count != 0 {
            let layout = Layout::array::<T>(count).map_err(|_| Store::too_large(tx))?;
            let block = tx.alloc(layout)?;
            // SAFETY: the elements fit into the new block, and move there. The vector is borrowed for changing by this
            // transaction.
            unsafe {
                let from = (*array).as_ptr().add(at);
                block
                    .as_ptr()
                    .cast::<T>()
                    .copy_from_nonoverlapping(from, count);
                tx.wrote(block.as_ptr(), layout.size());
                // A reference to what is in the new block may get to another thread.
                hold_all(tx, block.as_ptr().cast::<T>(), count)?;
                part = Array::from_block(block, count, count);
                Array::set_len(array, at, tx);
            }
        }
        Ok(ManuallyDrop::new(PVec { array: part }))
    }
}

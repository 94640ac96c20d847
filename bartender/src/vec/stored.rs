//! Changing a stored [`PVec`]: the methods of `Mut<'_, PVec<T>>`.
//!
//! Each keeps what it overwrites for an abort and puts what it writes into the transaction's
//! record. An element that goes in is adopted before anything refers to it, so an error leaves
//! the vector as it was. None of them hands out `&mut T` of stored data.

use super::PVec;
use crate::__private::parts;
use crate::error::Result;
use crate::mutref::Mut;
use crate::persist::{Persist, hold_all};
use crate::places;
use crate::raw::{self, array::Array};
use crate::tx::TxRef;
use std::mem::MaybeUninit;

/// How an element is taken out: as an owned value, or as one that is moved.
pub(super) type Out<T, X> = unsafe fn(TxRef<'_>, *mut T) -> Result<X>;

/// Stored vectors. Each method that changes something has effect when the transaction commits;
/// none has a barrier of its own. Where an index is out of bounds they panic like `Vec`'s,
/// which aborts the transaction.
impl<T: Persist> Mut<'_, PVec<T>> {
    #[inline]
    pub(super) fn array(&mut self) -> (*mut Array<T>, TxRef<'_>) {
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
        let (array, tx) = self.array();
        // SAFETY: the vector is stored and borrowed for changing by this transaction.
        unsafe {
            let moves = T::HAS_LOCKS && additional > (*array).capacity() - (*array).len();
            if moves {
                hold_all(tx, (*array).as_ptr(), (*array).len())?;
            }
            Array::reserve(array, additional, exact, tx)?;
            if moves {
                // A reference to what is in the new block may get to another thread.
                hold_all(tx, (*array).as_ptr(), (*array).len())?;
            }
            Ok(())
        }
    }

    /// Adopts `value` and adds it at the end.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed, and `value` is lost.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<()> {
        self.grow(1, false)?;
        let (array, tx) = self.array();
        // SAFETY: there is room for one more; the slot holds nothing that anybody sees. The
        // vector is borrowed for changing by this transaction.
        unsafe {
            let len = (*array).len();
            raw::put(tx, (*array).as_ptr().add(len), value)?;
            Array::set_len(array, len + 1, tx);
        }
        Ok(())
    }

    /// Takes the last element out, as an owned value.
    ///
    /// # Errors
    ///
    /// A lock inside the element is held by an older transaction; nothing changed.
    pub fn pop(&mut self) -> Result<Option<T>> {
        match self.len() {
            0 => Ok(None),
            len => self.swap_remove(len - 1).map(Some),
        }
    }

    /// Adopts `value` and puts it before the element at `index`.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed, and `value` is lost.
    ///
    /// # Panics
    ///
    /// If `index > len`.
    #[track_caller]
    pub fn insert(&mut self, index: usize, value: T) -> Result<()> {
        let len = self.len();
        places::upto("insertion index", index, len);
        self.hold_from(index)?;
        self.push(value)?;
        self.last_to(index);
        Ok(())
    }

    /// Moves the last element before the one at `index`. The locks from there on are held.
    pub(super) fn last_to(&mut self, index: usize) {
        let len = self.len();
        let (array, tx) = self.array();
        // SAFETY: turning the end of the array by one place keeps every element once. The vector is borrowed
        // for changing by this transaction.
        unsafe {
            let ptr = (*array).as_ptr();
            // The last one's place was kept when it was put there.
            tx.change(ptr.add(index).cast(), (len - 1 - index) * size_of::<T>());
            std::slice::from_raw_parts_mut(ptr.add(index).cast::<MaybeUninit<T>>(), len - index)
                .rotate_right(1);
        }
    }

    /// Takes the element at `index` out, as an owned value; those behind it move up.
    ///
    /// # Errors
    ///
    /// A lock inside an element that moves is held by an older transaction; nothing changed.
    ///
    /// # Panics
    ///
    /// If `index >= len`.
    #[track_caller]
    pub fn remove(&mut self, index: usize) -> Result<T> {
        self.remove_by(index, raw::take)
    }

    /// Takes the element at `index` out by `out`.
    #[track_caller]
    pub(super) fn remove_by<X>(&mut self, index: usize, out: Out<T, X>) -> Result<X> {
        let len = self.len();
        places::below("removal index", index, len);
        self.hold_from(index)?;
        let (array, tx) = self.array();
        // SAFETY: the element is read once and its place is overwritten by those behind it. The
        // vector is borrowed for changing by this transaction.
        unsafe {
            let value = out(tx, (*array).as_ptr().add(index))?;
            Array::shift(array, index + 1, index, tx);
            Array::set_len(array, len - 1, tx);
            Ok(value)
        }
    }

    /// Takes the element at `index` out, as an owned value; the last one takes its place.
    ///
    /// # Errors
    ///
    /// A lock inside one of the two is held by an older transaction; nothing changed.
    ///
    /// # Panics
    ///
    /// If `index >= len`.
    #[track_caller]
    pub fn swap_remove(&mut self, index: usize) -> Result<T> {
        self.swap_remove_by(index, raw::take)
    }

    /// Takes the element at `index` out by `out`; the last one takes its place.
    #[track_caller]
    pub(super) fn swap_remove_by<X>(&mut self, index: usize, out: Out<T, X>) -> Result<X> {
        let len = self.len();
        places::below("swap_remove index", index, len);
        self.hold_at(index)?;
        self.hold_at(len - 1)?;
        let (array, tx) = self.array();
        // SAFETY: the element is read once and its place is overwritten by the last one, or is
        // the last. The vector is borrowed for changing by this transaction.
        unsafe {
            let ptr = (*array).as_ptr();
            let value = out(tx, ptr.add(index))?;
            if index != len - 1 {
                tx.change(ptr.add(index).cast(), size_of::<T>());
                ptr.add(index).copy_from_nonoverlapping(ptr.add(len - 1), 1);
            }
            Array::set_len(array, len - 1, tx);
            Ok(value)
        }
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
        self.hold_from(len)?;
        let (array, tx) = self.array();
        // SAFETY: the elements beyond `len` are nobody's from now on. The vector is borrowed
        // for changing by this transaction.
        unsafe {
            Array::set_len(array, len, tx);
            raw::release(tx, (*array).as_ptr().add(len), old - len)
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

    /// Adopts the values of an iterator and adds them at the end.
    ///
    /// # Errors
    ///
    /// The region is full; what was added before stays.
    pub fn extend(&mut self, values: impl IntoIterator<Item = T>) -> Result<()> {
        let values = values.into_iter();
        self.reserve(values.size_hint().0)?;
        values.into_iter().try_for_each(|value| self.push(value))
    }

    /// Keeps the elements of which `keep` says so, and drops the others.
    ///
    /// # Errors
    ///
    /// A lock inside an element that moves is held by an older transaction; nothing changed.
    pub fn retain(&mut self, mut keep: impl FnMut(Mut<'_, T>) -> bool) -> Result<()> {
        self.hold_from(0)?;
        // All questions before the first change: `keep` may panic, and the panic may be caught.
        let kept: Vec<bool> = self.iter_mut().map(&mut keep).collect();
        self.keep(&kept, |tx, at| {
            // SAFETY: the element ends, and nobody sees it from now on.
            unsafe { raw::release(tx, at, 1) }
        })
    }

    /// Keeps the elements that `kept` says, in their order; `out` gets the others. All their locks are held.
    pub(super) fn keep(
        &mut self,
        kept: &[bool],
        mut out: impl FnMut(TxRef<'_>, *mut T) -> Result<()>,
    ) -> Result<()> {
        let (array, tx) = self.array();
        let mut len = 0;
        // SAFETY: each element is kept once or given out once. The vector is borrowed for changing by this transaction.
        unsafe {
            let ptr = (*array).as_ptr();
            for (index, keep) in kept.iter().enumerate() {
                let at = ptr.add(index);
                if !keep {
                    out(tx, at)?;
                    continue;
                }
                if len != index {
                    tx.change(ptr.add(len).cast(), size_of::<T>());
                    ptr.add(len).copy_from_nonoverlapping(at, 1);
                }
                len += 1;
            }
            if len != kept.len() {
                Array::set_len(array, len, tx);
            }
        }
        Ok(())
    }

    /// Holds the locks inside the elements from `index` on: they are about to move or go.
    pub(super) fn hold_from(&mut self, index: usize) -> Result<()> {
        if !T::HAS_LOCKS {
            return Ok(());
        }
        let count = self.len() - index;
        let (array, tx) = self.array();
        // SAFETY: the elements are there.
        unsafe { hold_all(tx, (*array).as_ptr().add(index), count) }
    }

    /// Holds the locks inside the element at `index`.
    pub(super) fn hold_at(&mut self, index: usize) -> Result<()> {
        if !T::HAS_LOCKS {
            return Ok(());
        }
        let (array, tx) = self.array();
        // SAFETY: the element is there.
        unsafe { hold_all(tx, (*array).as_ptr().add(index), 1) }
    }
}

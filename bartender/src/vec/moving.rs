//! Moving elements of stored vectors inside the region: see [`Moved`].

use super::PVec;
use crate::error::Result;
use crate::moved::{self, Moved};
use crate::mutref::Mut;
use crate::persist::Persist;
use crate::places;
use crate::raw::array::Array;

/// Moving elements inside the region. What an element owns is not copied.
impl<T: Persist> Mut<'_, PVec<T>> {
    /// Takes the last element, to be attached somewhere else.
    ///
    /// # Errors
    ///
    /// A lock inside the element is held by an older transaction; nothing changed.
    pub fn pop_moved(&mut self) -> Result<Option<Moved<T>>> {
        match self.len() {
            0 => Ok(None),
            len => self.swap_remove_moved(len - 1).map(Some),
        }
    }

    /// Takes the element at `index`, to be attached somewhere else; those behind it move up.
    ///
    /// # Errors
    ///
    /// A lock inside an element that moves is held by an older transaction; nothing changed.
    ///
    /// # Panics
    ///
    /// If `index >= len`.
    #[track_caller]
    pub fn remove_moved(&mut self, index: usize) -> Result<Moved<T>> {
        self.remove_by(index, moved::detach)
    }

    /// Takes the element at `index`, to be attached somewhere else; the last one takes its place.
    ///
    /// # Errors
    ///
    /// A lock inside one of the two is held by an older transaction; nothing changed.
    ///
    /// # Panics
    ///
    /// If `index >= len`.
    #[track_caller]
    pub fn swap_remove_moved(&mut self, index: usize) -> Result<Moved<T>> {
        self.swap_remove_by(index, moved::detach)
    }

    /// Attaches a value of this transaction at the end.
    ///
    /// # Errors
    ///
    /// The region is full, or the value is not of this transaction: the transaction that the value is of can only abort
    /// then.
    pub fn push_moved(&mut self, moved: Moved<T>) -> Result<()> {
        let tx = Mut::tx(self);
        moved.attach(tx, |value| {
            self.grow(1, false)?;
            let (array, tx) = self.array();
            // SAFETY: there is room for one more; the slot holds nothing that anybody sees. The
            // vector is borrowed for changing by this transaction.
            unsafe {
                let len = (*array).len();
                moved::write(tx, (*array).as_ptr().add(len), value)?;
                Array::set_len(array, len + 1, tx);
            }
            Ok(())
        })
    }

    /// Attaches a value of this transaction before the element at `index`.
    ///
    /// # Errors
    ///
    /// As [`push_moved`](Self::push_moved).
    ///
    /// # Panics
    ///
    /// If `index > len`.
    #[track_caller]
    pub fn insert_moved(&mut self, index: usize, moved: Moved<T>) -> Result<()> {
        let len = self.len();
        places::upto("insertion index", index, len);
        if let Err(error) = self.hold_from(index) {
            Mut::tx(self).doom(&error);
            return Err(error);
        }
        self.push_moved(moved)?;
        self.last_to(index);
        Ok(())
    }
}

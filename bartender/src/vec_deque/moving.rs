//! Moving elements of stored deques inside the region: see [`Moved`].

use super::PVecDeque;
use crate::error::Result;
use crate::moved::{self, Moved};
use crate::mutref::Mut;
use crate::persist::{Persist, hold_all};
use crate::places;
use crate::raw::{Store, ring::Ring};
use std::alloc::Layout;
use std::mem::ManuallyDrop;

/// Moving elements inside the region. What an element owns is not copied.
impl<T: Persist> Mut<'_, PVecDeque<T>> {
    /// Takes the last element, to be attached somewhere else.
    ///
    /// # Errors
    ///
    /// A lock inside the element is held by an older transaction; nothing changed.
    pub fn pop_back_moved(&mut self) -> Result<Option<Moved<T>>> {
        self.remove_moved(self.len().wrapping_sub(1))
    }

    /// Takes the first element, to be attached somewhere else.
    ///
    /// # Errors
    ///
    /// A lock inside the element is held by an older transaction; nothing changed.
    pub fn pop_front_moved(&mut self) -> Result<Option<Moved<T>>> {
        self.remove_moved(0)
    }

    /// Takes the element at `index`, to be attached somewhere else. The shorter side moves.
    ///
    /// # Errors
    ///
    /// A lock inside an element that moves is held by an older transaction; nothing changed.
    pub fn remove_moved(&mut self, index: usize) -> Result<Option<Moved<T>>> {
        self.remove_by(index, moved::detach)
    }

    /// Attaches a value of this transaction at the end.
    ///
    /// # Errors
    ///
    /// The region is full, or the value is not of this transaction: the transaction that the value is of can only abort
    /// then.
    pub fn push_back_moved(&mut self, moved: Moved<T>) -> Result<()> {
        let tx = Mut::tx(self);
        moved.attach(tx, |value| {
            self.grow(1, false)?;
            let (ring, tx) = self.ring();
            // SAFETY: there is room for one more; the place holds nothing that anybody sees. The deque is borrowed for
            // changing by this transaction.
            unsafe {
                let len = (*ring).len();
                moved::write(tx, (*ring).at(len), value)?;
                Ring::set_len(ring, len + 1, tx);
            }
            Ok(())
        })
    }

    /// Attaches a value of this transaction in front of the first element.
    ///
    /// # Errors
    ///
    /// As [`push_back_moved`](Self::push_back_moved).
    pub fn push_front_moved(&mut self, moved: Moved<T>) -> Result<()> {
        let tx = Mut::tx(self);
        moved.attach(tx, |value| {
            self.grow(1, false)?;
            let (ring, tx) = self.ring();
            // SAFETY: as in `push_back_moved`.
            unsafe {
                let (head, len) = ((*ring).before(1), (*ring).len());
                moved::write(tx, (*ring).as_ptr().add(head), value)?;
                Ring::set(ring, head, len + 1, tx);
            }
            Ok(())
        })
    }

    /// Attaches a value of this transaction before the element at `index`, or at the end.
    ///
    /// # Errors
    ///
    /// As [`push_back_moved`](Self::push_back_moved).
    ///
    /// # Panics
    ///
    /// If `index > len`.
    #[track_caller]
    pub fn insert_moved(&mut self, index: usize, moved: Moved<T>) -> Result<()> {
        let len = self.len();
        places::upto("insertion index", index, len);
        if let Err(error) = self.hold(index, len - index) {
            Mut::tx(self).doom(&error);
            return Err(error);
        }
        self.push_back_moved(moved)?;
        self.last_to(index);
        Ok(())
    }

    /// Cuts the deque in two at `at`. The second part lies in a new block of the region, to be attached somewhere; what
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
    pub fn split_off(&mut self, at: usize) -> Result<Moved<PVecDeque<T>>> {
        let len = self.len();
        places::upto("`at` split index", at, len);
        self.hold(at, len - at)?;
        let (ring, tx) = self.ring();
        let count = len - at;
        let mut part = Ring::new();
        // SAFETY: the elements fit into the new block, and move there. The deque is borrowed for changing by this
        // transaction; the part is stored, belongs to the transaction, and is not dropped here.
        unsafe {
            if count != 0 {
                let layout = Layout::array::<T>(count).map_err(|_| Store::too_large(tx))?;
                let block = tx.alloc(layout)?;
                (*ring).copy_out(at, count, block.as_ptr().cast());
                tx.wrote(block.as_ptr(), layout.size());
                // A reference to what is in the new block may get to another thread.
                hold_all(tx, block.as_ptr().cast::<T>(), count)?;
                part = Ring::from_raw(block.cast(), count, count);
                Ring::set_len(ring, at, tx);
            }
            let part = ManuallyDrop::new(PVecDeque { ring: part });
            Ok(Moved::keep(tx, &raw const *part))
        }
    }
}

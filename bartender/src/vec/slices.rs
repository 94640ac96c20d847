//! Stored vectors of plain data: whole slices at a time.

use super::PVec;
use crate::error::Result;
use crate::mutref::Mut;
use crate::persist::PlainData;
use crate::raw::array::Array;

/// Stored vectors of [`PlainData`].
impl<T: PlainData> Mut<'_, PVec<T>> {
    /// Adds copies of all elements of `slice`, in one piece.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    pub fn extend_from_slice(&mut self, slice: &[T]) -> Result<()> {
        self.reserve(slice.len())?;
        let (array, tx) = self.array();
        // SAFETY: there is room; the slice cannot lie in the slack. Plain data is its bytes.
        // The vector is borrowed for changing by this transaction.
        unsafe {
            let len = (*array).len();
            let to = (*array).as_ptr().add(len);
            tx.change(to.cast(), size_of_val(slice));
            to.copy_from_nonoverlapping(slice.as_ptr(), slice.len());
            Array::set_len(array, len + slice.len(), tx);
        }
        Ok(())
    }

    /// Puts copies of all elements of `slice` before the element at `index`.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    ///
    /// # Panics
    ///
    /// If `index > len`.
    pub fn insert_slice(&mut self, index: usize, slice: &[T]) -> Result<()> {
        let len = self.len();
        assert!(
            index <= len,
            "insertion index (is {index}) should be <= len (is {len})"
        );
        self.reserve(slice.len())?;
        let (array, tx) = self.array();
        // SAFETY: there is room; the slice does not lie in the vector, which is borrowed for
        // changing by this transaction. Plain data is its bytes.
        unsafe {
            Array::shift(array, index, index + slice.len(), tx);
            let to = (*array).as_ptr().add(index);
            to.copy_from_nonoverlapping(slice.as_ptr(), slice.len());
            Array::set_len(array, len + slice.len(), tx);
        }
        Ok(())
    }

    /// Takes `count` elements from `index` on out.
    ///
    /// # Panics
    ///
    /// If they are not there.
    pub(crate) fn remove_range(&mut self, index: usize, count: usize) {
        let len = self.len();
        assert!(index + count <= len, "the range is there");
        let (array, tx) = self.array();
        // SAFETY: plain data needs no release. The vector is borrowed for changing by this
        // transaction.
        unsafe {
            Array::shift(array, index + count, index, tx);
            Array::set_len(array, len - count, tx);
        }
    }

    /// All elements as a slice that can be written, for sorting or filling it. All of them go into
    /// the transaction's record.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        let (array, tx) = self.array();
        // SAFETY: plain data can be written as it is; the elements are borrowed as long as the
        // vector.
        unsafe {
            let (ptr, len) = ((*array).as_ptr(), (*array).len());
            tx.change(ptr.cast(), len * size_of::<T>());
            std::slice::from_raw_parts_mut(ptr, len)
        }
    }
}

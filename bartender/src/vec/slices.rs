//! Stored vectors of plain data: whole slices at a time, and bytes as they come from a reader.

use super::PVec;
use crate::error::{Error, Result};
use crate::mutref::Mut;
use crate::persist::PlainData;
use crate::places::{self, bounds};
use crate::raw::array::Array;
use std::io;
use std::ops::RangeBounds;

/// Stored vectors of [`PlainData`].
impl<T: PlainData> Mut<'_, PVec<T>> {
    /// Adds copies of all elements of `slice`, in one piece.
    ///
    /// A value of any size can be put together so: with [`reserve_exact`](Self::reserve_exact) first, its bytes are in
    /// memory once, from the commit on in the home, and not in the log. (In a replicated region they are: there a
    /// value that is made in one transaction has to fit the log.)
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
    #[track_caller]
    pub fn insert_slice(&mut self, index: usize, slice: &[T]) -> Result<()> {
        let len = self.len();
        places::upto("insertion index", index, len);
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
    #[track_caller]
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
            if len != 0 {
                tx.change(ptr.cast(), len * size_of::<T>());
            }
            std::slice::from_raw_parts_mut(ptr, len)
        }
    }

    /// Writes `value` to each place.
    pub fn fill(&mut self, value: T) {
        self.as_mut_slice().fill(value);
    }

    /// Adds copies of the elements in `range` at the end.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    ///
    /// # Panics
    ///
    /// If the range goes beyond the end or backwards.
    #[track_caller]
    pub fn extend_from_within(&mut self, range: impl RangeBounds<usize>) -> Result<()> {
        let (start, end) = bounds(range, self.len());
        self.reserve(end - start)?;
        let (array, tx) = self.array();
        // SAFETY: there is room, and the elements are there. Plain data is its bytes. The vector is borrowed for changing by
        // this transaction.
        unsafe {
            let (ptr, len) = ((*array).as_ptr(), (*array).len());
            let (to, count) = (ptr.add(len), end - start);
            tx.change(to.cast(), count * size_of::<T>());
            to.copy_from_nonoverlapping(ptr.add(start), count);
            Array::set_len(array, len + count, tx);
        }
        Ok(())
    }
}

/// Bytes that are written are added at the end, as by `extend_from_slice`: they are there when the transaction has
/// committed, and there is nothing to flush.
///
/// ```
/// # use bartender::{Error, Heap, PMutex, PVec};
/// # fn main() -> Result<(), Error> {
/// # let folder = tempfile::tempdir().expect("a folder");
/// # let path = folder.path().join("r");
/// let heap = Heap::<PMutex<PVec<u8>>>::options().max_size(1 << 30).open(path)?;
/// let mut source = &b"from a file, or from the network"[..];
/// heap.update(|mut bytes| std::io::copy(&mut source, &mut bytes).map_err(Error::abort))?;
/// assert!(heap.read().starts_with(b"from a file"));
/// # Ok(())
/// # }
/// ```
impl io::Write for Mut<'_, PVec<u8>> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.extend_from_slice(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error @ Error::Region(bartender_pm::Error::OutOfSpace { .. })) => {
                Err(io::Error::new(io::ErrorKind::StorageFull, error))
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

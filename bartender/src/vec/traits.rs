//! `std`'s traits for [`PVec`]: it reads as a slice, and comes from and goes to a `Vec`.
//! Nothing here knows of regions.

use super::PVec;
use crate::raw::array::Array;
use std::borrow::{Borrow, BorrowMut};
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::io;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut, Index, IndexMut};
use std::slice::{self, SliceIndex};

impl<T> Default for PVec<T> {
    fn default() -> Self {
        PVec::new()
    }
}

impl<T> Deref for PVec<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        self.as_slice()
    }
}

impl<T> DerefMut for PVec<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        self.as_mut_slice()
    }
}

impl<T> AsRef<[T]> for PVec<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T> AsMut<[T]> for PVec<T> {
    fn as_mut(&mut self) -> &mut [T] {
        self
    }
}

impl<T> Borrow<[T]> for PVec<T> {
    fn borrow(&self) -> &[T] {
        self
    }
}

impl<T> BorrowMut<[T]> for PVec<T> {
    fn borrow_mut(&mut self) -> &mut [T] {
        self
    }
}

impl<T, I: SliceIndex<[T]>> Index<I> for PVec<T> {
    type Output = I::Output;

    #[inline]
    fn index(&self, index: I) -> &I::Output {
        &self.as_slice()[index]
    }
}

impl<T, I: SliceIndex<[T]>> IndexMut<I> for PVec<T> {
    #[inline]
    fn index_mut(&mut self, index: I) -> &mut I::Output {
        &mut self.as_mut_slice()[index]
    }
}

impl<T: Clone> Clone for PVec<T> {
    /// An owned copy, of a stored vector too.
    fn clone(&self) -> Self {
        self.as_slice().to_vec().into()
    }
}

impl<T> From<Vec<T>> for PVec<T> {
    /// Copies nothing.
    fn from(vec: Vec<T>) -> Self {
        PVec {
            array: Array::from_vec(vec),
        }
    }
}

impl<T> From<PVec<T>> for Vec<T> {
    /// Copies nothing.
    fn from(vec: PVec<T>) -> Self {
        let vec = ManuallyDrop::new(vec);
        // SAFETY: the vector is owned, and is forgotten.
        unsafe { vec.array.to_vec() }
    }
}

impl<T> From<Box<[T]>> for PVec<T> {
    /// Copies nothing.
    fn from(values: Box<[T]>) -> Self {
        Vec::from(values).into()
    }
}

impl<T> From<PVec<T>> for Box<[T]> {
    /// Copies nothing if there is no room for more elements.
    fn from(vec: PVec<T>) -> Self {
        vec.into_boxed_slice()
    }
}

impl<T, const N: usize> TryFrom<PVec<T>> for [T; N] {
    type Error = PVec<T>;

    /// # Errors
    ///
    /// The vector itself, if there are not just `N` elements.
    fn try_from(vec: PVec<T>) -> Result<Self, PVec<T>> {
        <[T; N]>::try_from(vec.into_vec()).map_err(PVec::from)
    }
}

impl From<&str> for PVec<u8> {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl io::Write for PVec<u8> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<T, const N: usize> From<[T; N]> for PVec<T> {
    fn from(array: [T; N]) -> Self {
        Vec::from(array).into()
    }
}

impl<T: Clone> From<&[T]> for PVec<T> {
    fn from(slice: &[T]) -> Self {
        slice.to_vec().into()
    }
}

impl<T> FromIterator<T> for PVec<T> {
    fn from_iter<I: IntoIterator<Item = T>>(iter: I) -> Self {
        Vec::from_iter(iter).into()
    }
}

impl<T> Extend<T> for PVec<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, iter: I) {
        self.array.standard().extend(iter);
    }
}

impl<'a, T: Copy + 'a> Extend<&'a T> for PVec<T> {
    fn extend<I: IntoIterator<Item = &'a T>>(&mut self, iter: I) {
        self.array.standard().extend(iter);
    }
}

impl<T> IntoIterator for PVec<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.into_vec().into_iter()
    }
}

impl<'a, T> IntoIterator for &'a PVec<T> {
    type Item = &'a T;
    type IntoIter = slice::Iter<'a, T>;

    #[inline]
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, T> IntoIterator for &'a mut PVec<T> {
    type Item = &'a mut T;
    type IntoIter = slice::IterMut<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl<T: PartialEq<U>, U> PartialEq<PVec<U>> for PVec<T> {
    fn eq(&self, other: &PVec<U>) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<T: Eq> Eq for PVec<T> {}

/// Equality with other sequences.
macro_rules! equal_to {
    ($([$($generics:tt)*] $other:ty;)*) => {$(
        impl<T: PartialEq<U>, U, $($generics)*> PartialEq<$other> for PVec<T> {
            fn eq(&self, other: &$other) -> bool {
                self.as_slice() == &other[..]
            }
        }
    )*};
}

equal_to! {
    [] [U];
    [] &[U];
    [] Vec<U>;
    [const N: usize] [U; N];
    [const N: usize] &[U; N];
}

/// The same from the other side.
macro_rules! equals {
    ($([$($generics:tt)*] $other:ty;)*) => {$(
        impl<T: PartialEq<U>, U, $($generics)*> PartialEq<PVec<U>> for $other {
            fn eq(&self, other: &PVec<U>) -> bool {
                self[..] == other[..]
            }
        }
    )*};
}

equals! {
    [] [T];
    [] &[T];
    [] Vec<T>;
    [const N: usize] [T; N];
    [const N: usize] &[T; N];
}

impl<T: PartialOrd> PartialOrd for PVec<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.as_slice().partial_cmp(other.as_slice())
    }
}

impl<T: Ord> Ord for PVec<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

/// As the slice hashes, so that look-ups by slice work.
impl<T: Hash> Hash for PVec<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

//! [`PVec`]: a vector that can be stored.
//!
//! Owned, it is ordinary memory and has `std`'s methods. Stored, it is read as a slice and
//! changed through the methods of `Mut<'_, PVec<T>>` in the submodule `stored`. Reading is the
//! same code for both, and the same instructions as for a `Vec`.

mod moving;
mod slices;
mod stored;
mod traits;

pub use stored::IterMut;

use crate::error::Result;
use crate::persist::{Adopt, Evict, Import, Match, Persist, Release, matches};
use crate::raw::array::Array;
use bartender_heap::layout::RawVec;
use bartender_heap::types::{Kind, SchemaBuilder, Type, TypeRef};
use std::fmt;
use std::ptr::{self, NonNull};

/// A growing array, [`Vec`]'s persistent twin.
///
/// A `PVec` that the program owns lives in ordinary memory and behaves like a `Vec`; both can
/// be turned into each other without copying an element. Stored in a region, it is only ever
/// borrowed: `&PVec<T>` is a slice, and [`Mut<'_, PVec<T>>`](crate::Mut) has the methods that
/// change it, which return `Result`.
///
/// Elements must have a size: `PVec<()>` does not compile.
///
/// ```
/// use bartender::PVec;
///
/// let mut primes = PVec::from([2, 3, 5]);
/// primes.push(7);
/// assert_eq!(primes.iter().sum::<i32>(), 17);
/// ```
#[repr(transparent)]
pub struct PVec<T> {
    pub(crate) array: Array<T>,
}

impl<T> PVec<T> {
    /// An empty vector. Allocates nothing.
    pub const fn new() -> Self {
        PVec {
            array: Array::new(),
        }
    }

    /// An empty vector with room for `capacity` elements.
    pub fn with_capacity(capacity: usize) -> Self {
        Vec::with_capacity(capacity).into()
    }

    /// Elements that fit without a new block.
    pub fn capacity(&self) -> usize {
        self.array.capacity()
    }

    /// The elements.
    #[inline]
    pub fn as_slice(&self) -> &[T] {
        self.array.as_slice()
    }

    /// The elements, to be changed.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        self.array.as_mut_slice()
    }

    /// The same elements as a `Vec`; none is copied.
    pub fn into_vec(self) -> Vec<T> {
        self.into()
    }

    /// Makes room for `additional` elements.
    ///
    /// # Panics
    ///
    /// As [`Vec::reserve`].
    pub fn reserve(&mut self, additional: usize) {
        self.array.standard().reserve(additional);
    }

    /// Gives room that is not used back.
    pub fn shrink_to_fit(&mut self) {
        self.array.standard().shrink_to_fit();
    }

    /// Adds an element at the end.
    ///
    /// # Panics
    ///
    /// As [`Vec::push`].
    #[inline]
    pub fn push(&mut self, value: T) {
        self.array.push(value);
    }

    /// Takes the last element out.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        self.array.pop()
    }

    /// Puts an element before the one at `index`.
    ///
    /// # Panics
    ///
    /// If `index > len`.
    pub fn insert(&mut self, index: usize, value: T) {
        self.array.standard().insert(index, value);
    }

    /// Takes the element at `index` out; those behind it move up.
    ///
    /// # Panics
    ///
    /// If `index >= len`.
    pub fn remove(&mut self, index: usize) -> T {
        self.array.standard().remove(index)
    }

    /// Takes the element at `index` out; the last one takes its place.
    ///
    /// # Panics
    ///
    /// If `index >= len`.
    pub fn swap_remove(&mut self, index: usize) -> T {
        self.array.standard().swap_remove(index)
    }

    /// Drops the elements from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.array.standard().truncate(len);
    }

    /// Drops all elements and keeps the room.
    pub fn clear(&mut self) {
        self.array.standard().clear();
    }

    /// Keeps the elements of which `keep` says so.
    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        self.array.standard().retain(keep);
    }

    /// Moves all elements of `other` to the end.
    pub fn append(&mut self, other: &mut Self) {
        self.array.standard().append(&mut other.array.standard());
    }

    /// Adds clones of all elements of `slice`.
    pub fn extend_from_slice(&mut self, slice: &[T])
    where
        T: Clone,
    {
        self.array.standard().extend_from_slice(slice);
    }

    /// Removes elements that equal the one before.
    pub fn dedup(&mut self)
    where
        T: PartialEq,
    {
        self.array.standard().dedup();
    }

    /// Cuts the vector in two at `at` and returns the second part.
    ///
    /// # Panics
    ///
    /// If `at > len`.
    pub fn split_off(&mut self, at: usize) -> Self {
        self.array.standard().split_off(at).into()
    }
}

/// Drops the elements and gives the block back. A stored vector is never dropped.
impl<T> Drop for PVec<T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: only an owned value can be dropped, and it is not used after.
        drop(unsafe { self.array.to_vec() });
    }
}

impl<T: fmt::Debug> fmt::Debug for PVec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

// SAFETY: the layout is that of `RawVec`; the block moves by the queues, which know its size.
unsafe impl<T: Persist> Persist for PVec<T> {
    const HAS_POINTERS: bool = true;
    const HAS_LOCKS: bool = false;

    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let elem = T::describe(b);
            Type::of::<Self>("PVec", Kind::Vec { elem })
        })
    }

    unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>) {
        // SAFETY: an owned vector, whose block is as long as it says. What is not used of it
        // would be lost in the region, so it goes before.
        unsafe {
            (*this).shrink_to_fit();
            let array = &mut (*this).array;
            if array.capacity() != 0 {
                let block = a.move_in(array.as_ptr(), array.len(), array.capacity());
                array.set_block(block.cast());
            }
        }
    }

    unsafe fn evict(this: *mut Self, e: &mut Evict<'_>) {
        // SAFETY: a copy of a stored vector, whose block is as long as it says.
        unsafe {
            let array = &mut (*this).array;
            if array.capacity() != 0 {
                let block = e.move_out(array.as_ptr(), array.len(), array.capacity());
                array.set_block(block.cast());
            }
        }
    }

    unsafe fn release(this: *const Self, r: &mut Release<'_>) {
        // SAFETY: a stored vector, whose block is as long as it says.
        unsafe {
            let array = &(*this).array;
            r.block(array.as_ptr(), array.len(), array.capacity());
        }
    }

    unsafe fn for_each_lock(_this: *const Self, _f: &mut dyn FnMut(usize)) {}

    unsafe fn zero_padding(_this: *mut Self) {}

    fn parts_match(m: &mut Match<'_>, ty: TypeRef) -> bool {
        match m.kind(ty) {
            Kind::Vec { elem } => m.is_named(ty, "PVec") && matches::<T>(m, *elem),
            _ => false,
        }
    }

    unsafe fn import_parts(i: &mut Import<'_>, ty: TypeRef, at: *const u8) -> Result<Self> {
        let Kind::Vec { elem } = i.kind(ty) else {
            return Err(i.refused::<Self>(ty));
        };
        let stride = i.size(*elem);
        // SAFETY: a stored vector, whose block is as long as it says.
        unsafe {
            let raw = at.cast::<RawVec>().read();
            let block: *mut u8 = ptr::with_exposed_provenance_mut(raw.ptr as usize);
            let values = (0..raw.len as usize)
                .map(|n| i.inside(|i| i.value(*elem, block.add(n * stride))))
                .collect::<Result<Vec<T>>>()?;
            if raw.cap != 0 && stride != 0 {
                i.tx().free(NonNull::new_unchecked(block));
            }
            Ok(values.into())
        }
    }
}

//! [`PVec`]: a vector that can be stored.
//!
//! Owned, it is ordinary memory and has `std`'s methods. Stored, it is read as a slice and
//! changed through the methods of `Mut<'_, PVec<T>>` in the submodule `stored`. Reading is the
//! same code for both, and the same instructions as for a `Vec`.

mod moving;
mod parts;
mod sliced;
mod slices;
mod stored;
mod traits;

use crate::ending::{self, Owner};
use crate::error::Result;
use crate::persist::{Adopt, Evict, Import, Match, Persist, Release, matches};
use crate::places;
use crate::raw::array::Array;
use bartender_heap::layout::RawVec;
use bartender_heap::types::{Kind, SchemaBuilder, Type, TypeRef};
use std::fmt;
use std::mem::needs_drop;
use std::ops::RangeBounds;
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
    #[track_caller]
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
    #[track_caller]
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
    #[track_caller]
    pub fn insert(&mut self, index: usize, value: T) {
        places::upto("insertion index", index, self.len());
        self.array.standard().insert(index, value);
    }

    /// Takes the element at `index` out; those behind it move up.
    ///
    /// # Panics
    ///
    /// If `index >= len`.
    #[track_caller]
    pub fn remove(&mut self, index: usize) -> T {
        places::below("removal index", index, self.len());
        self.array.standard().remove(index)
    }

    /// Takes the element at `index` out; the last one takes its place.
    ///
    /// # Panics
    ///
    /// If `index >= len`.
    #[track_caller]
    pub fn swap_remove(&mut self, index: usize) -> T {
        places::below("swap_remove index", index, self.len());
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
    #[track_caller]
    pub fn split_off(&mut self, at: usize) -> Self {
        places::upto("`at` split index", at, self.len());
        self.array.standard().split_off(at).into()
    }
}

/// What `std` has beyond that. What leaves by a range or a predicate, leaves at once, when the method is called: what the
/// iterator does not give is dropped with it.
impl<T> PVec<T> {
    /// Makes room for `additional` elements and no more.
    ///
    /// # Panics
    ///
    /// As [`Vec::reserve_exact`].
    #[track_caller]
    pub fn reserve_exact(&mut self, additional: usize) {
        self.array.standard().reserve_exact(additional);
    }

    /// Gives room back that is neither used nor below `capacity`.
    pub fn shrink_to(&mut self, capacity: usize) {
        self.array.standard().shrink_to(capacity);
    }

    /// The same elements in a box of std's; none is copied if there is no room for more.
    pub fn into_boxed_slice(self) -> Box<[T]> {
        self.into_vec().into_boxed_slice()
    }

    /// Takes the last element out if `leaves` says so.
    pub fn pop_if(&mut self, leaves: impl FnOnce(&mut T) -> bool) -> Option<T> {
        self.array.standard().pop_if(leaves)
    }

    /// Keeps the elements of which `keep` says so, which may change them.
    pub fn retain_mut(&mut self, keep: impl FnMut(&mut T) -> bool) {
        self.array.standard().retain_mut(keep);
    }

    /// Removes elements that are the same as the one before, as `same` says.
    pub fn dedup_by(&mut self, same: impl FnMut(&mut T, &mut T) -> bool) {
        self.array.standard().dedup_by(same);
    }

    /// Removes elements whose key equals that of the one before.
    pub fn dedup_by_key<K: PartialEq>(&mut self, key: impl FnMut(&mut T) -> K) {
        self.array.standard().dedup_by_key(key);
    }

    /// Makes the vector `len` long with clones of `value`, or cuts it off.
    pub fn resize(&mut self, len: usize, value: T)
    where
        T: Clone,
    {
        self.array.standard().resize(len, value);
    }

    /// Makes the vector `len` long with what `value` returns, or cuts it off.
    pub fn resize_with(&mut self, len: usize, value: impl FnMut() -> T) {
        self.array.standard().resize_with(len, value);
    }

    /// Adds clones of the elements in `range` at the end.
    ///
    /// # Panics
    ///
    /// If the range goes beyond the end or backwards.
    #[track_caller]
    pub fn extend_from_within(&mut self, range: impl RangeBounds<usize>)
    where
        T: Clone,
    {
        let (start, end) = places::bounds(range, self.len());
        self.array.standard().extend_from_within(start..end);
    }

    /// Takes the elements of `range` out.
    ///
    /// # Panics
    ///
    /// If the range goes beyond the end or backwards.
    #[track_caller]
    pub fn drain(&mut self, range: impl RangeBounds<usize>) -> std::vec::IntoIter<T> {
        let (start, end) = places::bounds(range, self.len());
        let taken: Vec<T> = self.array.standard().drain(start..end).collect();
        taken.into_iter()
    }

    /// Takes the elements of `range` out, and puts those of `new` in their place.
    ///
    /// # Panics
    ///
    /// If the range goes beyond the end or backwards.
    #[track_caller]
    pub fn splice(
        &mut self,
        range: impl RangeBounds<usize>,
        new: impl IntoIterator<Item = T>,
    ) -> std::vec::IntoIter<T> {
        let (start, end) = places::bounds(range, self.len());
        let mut elements = self.array.standard();
        let taken: Vec<T> = elements.splice(start..end, new).collect();
        taken.into_iter()
    }

    /// Takes the elements in `range` out of which `leaves` says so.
    ///
    /// # Panics
    ///
    /// If the range goes beyond the end or backwards.
    #[track_caller]
    pub fn extract_if(
        &mut self,
        range: impl RangeBounds<usize>,
        leaves: impl FnMut(&mut T) -> bool,
    ) -> std::vec::IntoIter<T> {
        let (start, end) = places::bounds(range, self.len());
        let mut elements = self.array.standard();
        let taken: Vec<T> = elements.extract_if(start..end, leaves).collect();
        taken.into_iter()
    }
}

/// Drops the elements and gives the block back. A stored vector is never dropped.
impl<T> Drop for PVec<T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: only an owned value can be dropped, and it is not used after.
        unsafe { ending::end(self) }
    }
}

impl<T> Owner for PVec<T> {
    const DEEP: bool = needs_drop::<T>();
    const PERSISTENT: bool = false;

    #[inline]
    unsafe fn end(&mut self) {
        // SAFETY: the caller's promise.
        let vec = unsafe { self.array.to_vec() };
        if Self::DEEP {
            let (start, len) = (vec.as_ptr().cast(), size_of_val(&vec[..]));
            ending::inside(start, len, || drop(vec));
        }
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

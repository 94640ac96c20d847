//! A growing array in the layout of [`RawVec`].
//!
//! Owned, it is a `std` vector in other clothes: [`Array::standard`] lends it as one. Stored,
//! it is grown and shifted through a [`Store`]. Both move elements bitwise and never drop or
//! adopt one.

use super::Store;
use bartender_heap::layout::RawVec;
use std::alloc::Layout;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

/// An array of elements `T`.
///
/// Invariant: `len <= cap`, the first `len` elements at `ptr` are initialised, and either `cap
/// == 0` and `ptr` is the alignment, or a block of `cap` elements is at `ptr`, from `std`'s
/// allocator when the array is owned and of the region when it is stored.
#[repr(transparent)]
pub(crate) struct Array<T> {
    raw: RawVec,
    elements: PhantomData<T>,
}

impl<T> Array<T> {
    /// An array without a block.
    pub(crate) const fn new() -> Self {
        const {
            assert!(
                size_of::<T>() != 0,
                "a persistent vector's elements need a size"
            )
        };
        Array {
            raw: RawVec {
                ptr: align_of::<T>() as u64,
                cap: 0,
                len: 0,
            },
            elements: PhantomData,
        }
    }

    /// The first element's place.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut T {
        ptr::with_exposed_provenance_mut(self.raw.ptr as usize)
    }

    /// Elements that are there.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.raw.len as usize
    }

    /// Elements that fit into the block.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.raw.cap as usize
    }

    /// The elements.
    #[inline]
    pub(crate) fn as_slice(&self) -> &[T] {
        // SAFETY: by the invariant; a dangling pointer is aligned and not null.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }

    /// The elements of an owned array.
    #[inline]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: by the invariant; `&mut` says that nobody else uses them.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.len()) }
    }

    /// The block that is there.
    pub(crate) fn block(&self) -> Option<(NonNull<u8>, Layout)> {
        if self.raw.cap == 0 {
            return None;
        }
        let layout =
            Layout::array::<T>(self.capacity()).expect("the layout of a block that exists");
        Some((NonNull::new(self.as_ptr().cast())?, layout))
    }

    /// Says where the block is from now on.
    ///
    /// # Safety
    ///
    /// The elements have been copied there byte by byte; it has room for as many.
    pub(crate) unsafe fn set_block(&mut self, block: NonNull<u8>) {
        self.raw.ptr = block.as_ptr().expose_provenance() as u64;
    }

    /// An array in a block.
    ///
    /// # Safety
    ///
    /// It has room for `capacity` elements, not none, of which the first `len` are there.
    pub(crate) unsafe fn from_block(block: NonNull<u8>, len: usize, capacity: usize) -> Self {
        let mut array = Array::new();
        array.raw.ptr = block.as_ptr().expose_provenance() as u64;
        (array.raw.cap, array.raw.len) = (capacity as u64, len as u64);
        array
    }

    /// A `std` vector as an owned array, without moving its elements.
    pub(crate) fn from_vec(vec: Vec<T>) -> Self {
        const {
            assert!(
                size_of::<T>() != 0,
                "a persistent vector's elements need a size"
            )
        };
        let mut vec = ManuallyDrop::new(vec);
        let ptr = vec.as_mut_ptr().expose_provenance() as u64;
        let raw = RawVec {
            ptr,
            cap: vec.capacity() as u64,
            len: vec.len() as u64,
        };
        Array {
            raw,
            elements: PhantomData,
        }
    }

    /// An owned array as a `std` vector, without moving its elements.
    ///
    /// # Safety
    ///
    /// The array is owned, and is not used after.
    #[inline]
    pub(crate) unsafe fn to_vec(&self) -> Vec<T> {
        // SAFETY: by the invariant of an owned array, whose elements have a size.
        unsafe { Vec::from_raw_parts(self.as_ptr(), self.len(), self.capacity()) }
    }

    /// Lends an owned array as a `std` vector.
    #[inline]
    pub(crate) fn standard(&mut self) -> Standard<'_, T> {
        // SAFETY: `&mut` says that it is owned; while it is lent, the array is empty.
        let vec = unsafe { self.to_vec() };
        *self = Array::new();
        Standard {
            array: self,
            vec: ManuallyDrop::new(vec),
        }
    }

    /// Adds an element to an owned array.
    #[inline]
    pub(crate) fn push(&mut self, value: T) {
        if self.raw.len == self.raw.cap {
            self.standard().reserve(1);
        }
        // SAFETY: there is room for one more, and the array is owned.
        unsafe { self.as_ptr().add(self.len()).write(value) };
        self.raw.len += 1;
    }

    /// Takes the last element out of an owned array.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.raw.len = self.raw.len.checked_sub(1)?;
        // SAFETY: the element was there, and is read once.
        Some(unsafe { self.as_ptr().add(self.len()).read() })
    }

    /// Makes room for `extra` elements.
    ///
    /// # Safety
    ///
    /// `this` may be changed, and is where `store` says.
    pub(crate) unsafe fn reserve<S: Store>(
        this: *mut Self,
        extra: usize,
        exact: bool,
        store: S,
    ) -> Result<(), S::Error> {
        // SAFETY: nobody else changes it meanwhile.
        let old = unsafe { &*this };
        if extra <= old.capacity() - old.len() {
            return Ok(());
        }
        let wanted = old
            .len()
            .checked_add(extra)
            .ok_or_else(|| store.too_large())?;
        let least = if size_of::<T>() == 1 { 8 } else { 4 };
        let capacity = if exact {
            wanted
        } else {
            wanted.max(old.capacity() * 2).max(least)
        };
        let layout = Layout::array::<T>(capacity).map_err(|_| store.too_large())?;
        let block = store.alloc(layout)?;
        let freed = old.block();
        // SAFETY: the elements fit into the new block. The old one is in no array after.
        unsafe {
            store.change(this.cast(), 16);
            let bytes = old.len() * size_of::<T>();
            block.copy_from_nonoverlapping(NonNull::new_unchecked(old.as_ptr().cast()), bytes);
            store.wrote(block.as_ptr(), bytes);
            (*this).set_block(block);
            (*this).raw.cap = capacity as u64;
            if let Some((block, layout)) = freed {
                store.free(block, layout);
            }
        }
        Ok(())
    }

    /// Moves to a block that the elements fill, or gives the block back if there is none.
    ///
    /// # Safety
    ///
    /// `this` may be changed, and is where `store` says.
    pub(crate) unsafe fn shrink<S: Store>(this: *mut Self, store: S) -> Result<(), S::Error> {
        // SAFETY: nobody else changes it meanwhile.
        let old = unsafe { &*this };
        let mut new = Array::<T>::new();
        if old.len() != 0 {
            let layout = Layout::array::<T>(old.len()).map_err(|_| store.too_large())?;
            let block = store.alloc(layout)?;
            // SAFETY: the elements fill the new block.
            unsafe {
                let from = NonNull::new_unchecked(old.as_ptr().cast());
                block.copy_from_nonoverlapping(from, layout.size());
                store.wrote(block.as_ptr(), layout.size());
                new = Array::from_block(block, old.len(), old.len());
            }
        }
        let freed = old.block();
        // SAFETY: the caller's word; the old block is in no array after.
        unsafe {
            store.change(this.cast(), size_of::<RawVec>());
            (*this).raw = new.raw;
            if let Some((block, layout)) = freed {
                store.free(block, layout);
            }
        }
        Ok(())
    }

    /// Sets the length.
    ///
    /// # Safety
    ///
    /// The array may be changed, and is where `store` says; so many elements are initialised and
    /// fit; those beyond are the caller's.
    pub(crate) unsafe fn set_len(this: *mut Self, len: usize, store: impl Store) {
        // SAFETY: the caller says so.
        unsafe {
            let at = &raw mut (*this).raw.len;
            store.change(at.cast(), size_of::<u64>());
            *at = len as u64;
        }
    }

    /// Moves the elements from `from` on to `to` and on, whose contents are lost, and
    /// says that all from the lower of the two to the higher end are changed.
    ///
    /// # Safety
    ///
    /// The array may be changed, and is where `store` says. The capacity suffices.
    pub(crate) unsafe fn shift(this: *mut Self, from: usize, to: usize, store: impl Store) {
        // SAFETY: both ranges lie in the block.
        unsafe {
            let (ptr, count) = ((*this).as_ptr(), (*this).len() - from);
            let span = count + from.abs_diff(to);
            store.change(ptr.add(from.min(to)).cast(), span * size_of::<T>());
            ptr.add(from).copy_to(ptr.add(to), count);
        }
    }
}

/// An owned array as a `std` vector. The array gets it back in the end.
pub(crate) struct Standard<'a, T> {
    array: &'a mut Array<T>,
    vec: ManuallyDrop<Vec<T>>,
}

impl<T> Deref for Standard<'_, T> {
    type Target = Vec<T>;

    #[inline]
    fn deref(&self) -> &Vec<T> {
        &self.vec
    }
}

impl<T> DerefMut for Standard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.vec
    }
}

impl<T> Drop for Standard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the vector is taken once, here.
        *self.array = Array::from_vec(unsafe { ManuallyDrop::take(&mut self.vec) });
    }
}

//! A ring of elements in the layout of [`RawDeque`]: the first one stands anywhere in the block, and behind the end it
//! goes on at the start.
//!
//! Owned or stored, it is grown and shifted through a [`Store`]. It moves elements bitwise and never drops or adopts
//! one. A stored ring's elements are moved by who holds the locks in them.

use super::Store;
use bartender_heap::layout::RawDeque;
use std::alloc::Layout;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

/// A ring of elements `T`.
///
/// Invariant: `len <= cap`, the elements `(head + i) mod cap` for `i` below `len` are initialised, and either `cap == 0`,
/// `head == 0` and `ptr` is the alignment, or `head < cap` and a block of `cap` elements is at `ptr`, from `std`'s
/// allocator when the ring is owned and of the region when it is stored.
#[repr(transparent)]
pub(crate) struct Ring<T> {
    raw: RawDeque,
    elements: PhantomData<T>,
}

impl<T> Ring<T> {
    /// A ring without a block.
    pub(crate) const fn new() -> Self {
        const {
            assert!(
                size_of::<T>() != 0,
                "a persistent deque's elements need a size"
            )
        };
        let ptr = align_of::<T>() as u64;
        Ring {
            raw: RawDeque {
                ptr,
                cap: 0,
                head: 0,
                len: 0,
            },
            elements: PhantomData,
        }
    }

    /// The block's start.
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

    /// The place of the first element.
    #[inline]
    pub(crate) fn head(&self) -> usize {
        self.raw.head as usize
    }

    /// The place that is `by` behind another one; both are at most `cap`.
    #[inline]
    fn behind(&self, place: usize, by: usize) -> usize {
        let (cap, place) = (self.capacity(), place + by);
        if place >= cap { place - cap } else { place }
    }

    /// The place of element `index`, which is there or comes next.
    #[inline]
    fn place(&self, index: usize) -> usize {
        self.behind(self.head(), index)
    }

    /// Where element `index` is, or the next one would be.
    ///
    /// # Safety
    ///
    /// `index < cap`.
    #[inline]
    pub(crate) unsafe fn at(&self, index: usize) -> *mut T {
        // SAFETY: places are in the block.
        unsafe { self.as_ptr().add(self.place(index)) }
    }

    /// The `count` places from element `index` on, as two runs of (place, length). The second one may be empty.
    #[inline]
    pub(crate) fn runs(&self, index: usize, count: usize) -> [(usize, usize); 2] {
        let start = self.place(index);
        let front = count.min(self.capacity() - start);
        [(start, front), (0, count - front)]
    }

    /// The elements, in two slices.
    #[inline]
    pub(crate) fn as_slices(&self) -> (&[T], &[T]) {
        let [(a, m), (b, n)] = self.runs(0, self.len());
        // SAFETY: by the invariant; a dangling pointer is aligned and not null.
        unsafe {
            (
                std::slice::from_raw_parts(self.as_ptr().add(a), m),
                std::slice::from_raw_parts(self.as_ptr().add(b), n),
            )
        }
    }

    /// The elements of an owned ring, in two slices.
    #[inline]
    pub(crate) fn as_mut_slices(&mut self) -> (&mut [T], &mut [T]) {
        let [(a, m), (b, n)] = self.runs(0, self.len());
        // SAFETY: by the invariant; `&mut` says that nobody else uses them, and they do not overlap.
        unsafe {
            (
                std::slice::from_raw_parts_mut(self.as_ptr().add(a), m),
                std::slice::from_raw_parts_mut(self.as_ptr().add(b), n),
            )
        }
    }

    /// The block that is there.
    pub(crate) fn block(&self) -> Option<(NonNull<u8>, Layout)> {
        if self.raw.cap == 0 {
            return None;
        }
        let layout = Layout::array::<T>(self.capacity());
        let layout = layout.expect("the layout of a block that exists");
        Some((NonNull::new(self.as_ptr().cast())?, layout))
    }

    /// Says where the block is from now on.
    ///
    /// # Safety
    ///
    /// It has been copied there byte by byte.
    pub(crate) unsafe fn set_block(&mut self, block: NonNull<u8>) {
        self.raw.ptr = block.as_ptr().expose_provenance() as u64;
    }

    /// `len` elements at the start of a block of `cap`, as a ring.
    ///
    /// # Safety
    ///
    /// As the invariant says; with `cap` 0 there is no block.
    pub(crate) unsafe fn from_raw(block: NonNull<T>, len: usize, cap: usize) -> Self {
        let mut ring = Ring::new();
        if cap != 0 {
            ring.raw.ptr = block.as_ptr().expose_provenance() as u64;
            (ring.raw.cap, ring.raw.len) = (cap as u64, len as u64);
        }
        ring
    }

    /// Says that `count` places from that of element `index` on change. They may lie behind the last one.
    ///
    /// # Safety
    ///
    /// The ring may be changed, and is where `store` says; `count <= cap`, `index <= cap`.
    pub(crate) unsafe fn change(&self, index: usize, count: usize, store: impl Store) {
        for (place, count) in self.runs(index, count) {
            if count != 0 {
                // SAFETY: both runs lie in the block.
                unsafe { store.change(self.as_ptr().add(place).cast(), count * size_of::<T>()) };
            }
        }
    }

    /// Copies the elements out, bitwise, from `index` on.
    ///
    /// # Safety
    ///
    /// They are there; `to` has room for them.
    pub(crate) unsafe fn copy_out(&self, index: usize, count: usize, to: *mut T) {
        let [(a, m), (b, n)] = self.runs(index, count);
        // SAFETY: the runs are elements; the caller's word for the rest.
        unsafe {
            to.copy_from_nonoverlapping(self.as_ptr().add(a), m);
            to.add(m).copy_from_nonoverlapping(self.as_ptr().add(b), n);
        }
    }

    /// Copies elements in, bitwise, to the `count` places from that of `index` on.
    ///
    /// # Safety
    ///
    /// The ring may be changed, and is where `store` says; the places are in the block and nobody's, `from` has so many
    /// elements.
    pub(crate) unsafe fn copy_in(
        &self,
        index: usize,
        count: usize,
        from: *const T,
        store: impl Store,
    ) {
        let [(a, m), (b, n)] = self.runs(index, count);
        // SAFETY: the runs lie in the block; the caller's word for the rest.
        unsafe {
            self.change(index, count, store);
            self.as_ptr().add(a).copy_from_nonoverlapping(from, m);
            let behind = from.add(m);
            self.as_ptr().add(b).copy_from_nonoverlapping(behind, n);
        }
    }

    /// Moves to a block of `cap` elements, where the first one stands at the start.
    ///
    /// # Safety
    ///
    /// `this` may be changed, and is where `store` says; `len <= cap`.
    pub(crate) unsafe fn rebuild<S: Store>(
        this: *mut Self,
        cap: usize,
        store: S,
    ) -> Result<(), S::Error> {
        // SAFETY: nobody else changes it meanwhile.
        let old = unsafe { &*this };
        let mut new = Ring::<T>::new();
        if cap != 0 {
            let layout = Layout::array::<T>(cap).map_err(|_| store.too_large())?;
            let block = store.alloc(layout)?;
            // SAFETY: the elements fit into the new block.
            unsafe {
                old.copy_out(0, old.len(), block.as_ptr().cast());
                store.wrote(block.as_ptr(), old.len() * size_of::<T>());
                new = Ring::from_raw(block.cast(), old.len(), cap);
            }
        }
        let freed = old.block();
        // SAFETY: the caller's word; the old block is in no ring after.
        unsafe {
            store.change(this.cast(), size_of::<RawDeque>());
            (*this).raw = new.raw;
            if let Some((block, layout)) = freed {
                store.free(block, layout);
            }
        }
        Ok(())
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
        let (len, cap) = unsafe { ((*this).len(), (*this).capacity()) };
        if extra <= cap - len {
            return Ok(());
        }
        let wanted = len.checked_add(extra).ok_or_else(|| store.too_large())?;
        let least = if size_of::<T>() == 1 { 8 } else { 4 };
        let wanted = match exact {
            true => wanted,
            false => wanted.max(cap * 2).max(least),
        };
        // SAFETY: passed on.
        unsafe { Self::rebuild(this, wanted, store) }
    }

    /// Sets the place of the first element and how many are there.
    ///
    /// # Safety
    ///
    /// The ring may be changed, and is where `store` says; so many elements are initialised from there on; others are the
    /// caller's. `head` is below the capacity, or both are 0.
    #[inline]
    pub(crate) unsafe fn set(this: *mut Self, head: usize, len: usize, store: impl Store) {
        // SAFETY: the caller says so; the two are neighbours.
        unsafe {
            let at = &raw mut (*this).raw.head;
            store.change(at.cast(), 16);
            (*this).raw.head = head as u64;
            (*this).raw.len = len as u64;
        }
    }

    /// Sets how many elements are there.
    ///
    /// # Safety
    ///
    /// As [`set`](Self::set).
    #[inline]
    pub(crate) unsafe fn set_len(this: *mut Self, len: usize, store: impl Store) {
        // SAFETY: the caller says so.
        unsafe {
            let at = &raw mut (*this).raw.len;
            store.change(at.cast(), size_of::<u64>());
            *at = len as u64;
        }
    }

    /// The place before the first element's, for one that comes in front.
    #[inline]
    pub(crate) fn before(&self, count: usize) -> usize {
        self.behind(self.head(), self.capacity() - count)
    }

    /// The place of element `count`, which becomes the first one when those before it go.
    #[inline]
    pub(crate) fn after(&self, count: usize) -> usize {
        self.place(count)
    }

    /// Moves `count` elements from `from` on to where those from `to` on stand. Both count from the first element, and may
    /// go round.
    ///
    /// # Safety
    ///
    /// As [`change`](Self::change); what stood there is nobody's any more. `from`, `to` and the sums with `count` are at
    /// most `cap`.
    unsafe fn slide(&self, from: usize, to: usize, count: usize, store: impl Store) {
        // SAFETY: the places are in the block. In this order no element is overwritten before it is moved.
        unsafe {
            self.change(to, count, store);
            let (a, b) = (self.place(from), self.place(to));
            if a.max(b) + count <= self.capacity() {
                self.as_ptr().add(b).copy_from(self.as_ptr().add(a), count);
                return;
            }
            let step = |i: usize| self.at_any(to + i).copy_from(self.at_any(from + i), 1);
            match to <= from {
                true => (0..count).for_each(step),
                false => (0..count).rev().for_each(step),
            }
        }
    }

    /// As [`at`](Self::at), for an index up to `cap`.
    unsafe fn at_any(&self, index: usize) -> *mut T {
        debug_assert!(index <= self.capacity());
        // SAFETY: the place is below `cap`: it goes round once.
        unsafe { self.as_ptr().add(self.behind(self.head(), index)) }
    }

    /// Makes a gap of one before element `index`, by moving the shorter side; the gap is counted as an element then.
    ///
    /// # Safety
    ///
    /// As [`change`](Self::change); there is room for one more, `index <= len`. The caller fills the gap.
    pub(crate) unsafe fn open(this: *mut Self, index: usize, store: impl Store) {
        // SAFETY: the caller's word. With the head one place earlier, indices are one more than before.
        unsafe {
            let len = (*this).len();
            if index < len - index {
                let head = (*this).before(1);
                Self::set(this, head, len + 1, store);
                (*this).slide(1, 0, index, store);
            } else {
                Self::set_len(this, len + 1, store);
                (*this).slide(index, index + 1, len - index, store);
            }
        }
    }

    /// Closes a gap of `count` elements from `index` on, by moving the shorter side.
    ///
    /// # Safety
    ///
    /// As [`change`](Self::change); the elements are there, and nobody's any more.
    pub(crate) unsafe fn close(this: *mut Self, index: usize, count: usize, store: impl Store) {
        // SAFETY: the caller's word.
        unsafe {
            let len = (*this).len();
            let behind = len - index - count;
            if index < behind {
                (*this).slide(0, count, index, store);
                let head = (*this).behind((*this).head(), count);
                Self::set(this, head, len - count, store);
            } else {
                (*this).slide(index + count, index, behind, store);
                Self::set_len(this, len - count, store);
            }
        }
    }

    /// Turns the ring so that element `by` becomes the first one. Costs the shorter way round.
    ///
    /// # Safety
    ///
    /// As [`change`](Self::change); `by <= len`.
    pub(crate) unsafe fn rotate(this: *mut Self, by: usize, store: impl Store) {
        // SAFETY: the caller's word. Elements of the one end go to free places at the other, one by one: in a full ring these
        // are their own.
        unsafe {
            let (len, cap) = ((*this).len(), (*this).capacity());
            if by == 0 || by == len {
                return;
            }
            let back = len - by;
            if len == cap {
                let head = (*this).behind((*this).head(), by);
                Self::set(this, head, len, store);
            } else if by < back {
                // The places behind the last one, going round: they end where the first ones stand at the earliest.
                for i in 0..by {
                    let (from, to) = ((*this).at_any(i), (*this).at_wide(len + i));
                    store.change(to.cast(), size_of::<T>());
                    to.copy_from(from, 1);
                }
                let head = (*this).behind((*this).head(), by);
                Self::set(this, head, len, store);
            } else {
                for i in 1..=back {
                    let (from, to) = ((*this).at_any(len - i), (*this).at_wide(cap - i));
                    store.change(to.cast(), size_of::<T>());
                    to.copy_from(from, 1);
                }
                let head = (*this).before(back);
                Self::set(this, head, len, store);
            }
        }
    }

    /// As [`at`](Self::at), for an index below `2 * cap`.
    unsafe fn at_wide(&self, index: usize) -> *mut T {
        let cap = self.capacity();
        let index = if index >= cap { index - cap } else { index };
        // SAFETY: the index is below `cap`.
        unsafe { self.at(index) }
    }

    /// Moves the elements so that they stand in one run.
    ///
    /// # Safety
    ///
    /// As [`change`](Self::change).
    pub(crate) unsafe fn straighten(this: *mut Self, store: impl Store) {
        // SAFETY: the caller's word; turning the whole block keeps every element once.
        unsafe {
            let (head, len, cap) = ((*this).head(), (*this).len(), (*this).capacity());
            if len <= cap - head {
                return;
            }
            let ptr = (*this).as_ptr();
            store.change(ptr.cast(), cap * size_of::<T>());
            std::slice::from_raw_parts_mut(ptr.cast::<MaybeUninit<T>>(), cap).rotate_left(head);
            Self::set(this, 0, len, store);
        }
    }
}

//! [`PVecDeque`]: a queue with two ends that can be stored.
//!
//! A ring of elements in one block. Owned, it is ordinary memory and has `std`'s methods; stored, it is read like the
//! owned one and changed through the methods of `Mut<'_, PVecDeque<T>>` in the submodule `stored`.

mod iter;
mod moving;
mod owned;
mod stored;
mod traits;

pub use iter::{IntoIter, Iter, IterMut};
pub use stored::StoredIterMut;

use crate::error::Result as Outcome;
use crate::persist::{Adopt, Evict, Import, Match, Persist, Release, matches};
use crate::places::bounds;
use crate::raw::ring::Ring;
use bartender_heap::layout::RawDeque;
use bartender_heap::types::{Kind, SchemaBuilder, Type, TypeRef};
use std::cmp::Ordering;
use std::ops::RangeBounds;
use std::ptr::{self, NonNull};

/// A queue with two ends, [`VecDeque`](std::collections::VecDeque)'s persistent twin.
///
/// A `PVecDeque` that the program owns lives in ordinary memory and behaves like a `VecDeque`. Stored in a region, it is
/// only ever borrowed: `&PVecDeque<T>` for reading, and [`Mut<'_, PVecDeque<T>>`](crate::Mut) has the methods that
/// change it, which return `Result`.
///
/// Elements must have a size: `PVecDeque<()>` does not compile.
///
/// ```
/// use bartender::PVecDeque;
///
/// let mut orders = PVecDeque::from([2, 3]);
/// orders.push_back(4);
/// orders.push_front(1);
/// assert_eq!(orders, [1, 2, 3, 4]);
/// assert_eq!(orders.pop_front(), Some(1));
/// ```
#[repr(transparent)]
pub struct PVecDeque<T> {
    ring: Ring<T>,
}

impl<T> PVecDeque<T> {
    /// An empty deque. Allocates nothing.
    pub const fn new() -> Self {
        PVecDeque { ring: Ring::new() }
    }

    /// How many elements are there.
    #[inline]
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements that fit without a new block.
    pub fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    /// The element at `index`, counted from the front.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        if index >= self.len() {
            return None;
        }
        // SAFETY: the element is there.
        Some(unsafe { &*self.ring.at(index) })
    }

    /// The first element.
    #[inline]
    pub fn front(&self) -> Option<&T> {
        self.get(0)
    }

    /// The last element.
    #[inline]
    pub fn back(&self) -> Option<&T> {
        self.get(self.len().wrapping_sub(1))
    }

    /// The elements in two slices: the second one goes on where the first one ends. Either may be empty.
    #[inline]
    pub fn as_slices(&self) -> (&[T], &[T]) {
        self.ring.as_slices()
    }

    /// All elements, from front to back.
    #[inline]
    pub fn iter(&self) -> Iter<'_, T> {
        Iter::new(self.as_slices())
    }

    /// The elements in `range`.
    ///
    /// # Panics
    ///
    /// If it goes beyond the end or backwards.
    #[track_caller]
    pub fn range(&self, range: impl RangeBounds<usize>) -> Iter<'_, T> {
        let (start, end) = bounds(range, self.len());
        let (front, back) = self.as_slices();
        let cut = |part: usize| (start.min(part), end.min(part));
        let ((a, b), middle) = (cut(front.len()), front.len());
        let (c, d) = (start.max(middle) - middle, end.max(middle) - middle);
        Iter::new((&front[a..b], &back[c..d]))
    }

    /// Whether an element equals `value`.
    pub fn contains(&self, value: &T) -> bool
    where
        T: PartialEq,
    {
        let (front, back) = self.as_slices();
        front.contains(value) || back.contains(value)
    }

    /// As [`slice::binary_search`].
    ///
    /// # Errors
    ///
    /// Where it could be inserted, if it is not there.
    pub fn binary_search(&self, value: &T) -> Result<usize, usize>
    where
        T: Ord,
    {
        self.binary_search_by(|element| element.cmp(value))
    }

    /// As [`slice::binary_search_by_key`].
    ///
    /// # Errors
    ///
    /// As [`binary_search`](Self::binary_search).
    pub fn binary_search_by_key<'a, B: Ord>(
        &'a self,
        key: &B,
        mut of: impl FnMut(&'a T) -> B,
    ) -> Result<usize, usize> {
        self.binary_search_by(|element| of(element).cmp(key))
    }

    /// As [`slice::binary_search_by`].
    ///
    /// # Errors
    ///
    /// As [`binary_search`](Self::binary_search).
    pub fn binary_search_by<'a>(
        &'a self,
        mut compare: impl FnMut(&'a T) -> Ordering,
    ) -> Result<usize, usize> {
        let (front, back) = self.as_slices();
        match back.first().map(&mut compare) {
            Some(Ordering::Equal) => Ok(front.len()),
            Some(Ordering::Less) => {
                let found = back.binary_search_by(compare);
                let behind = |index| index + front.len();
                found.map(behind).map_err(behind)
            }
            _ => front.binary_search_by(compare),
        }
    }

    /// As [`slice::partition_point`].
    pub fn partition_point(&self, mut before: impl FnMut(&T) -> bool) -> usize {
        let (front, back) = self.as_slices();
        match back.first().is_some_and(&mut before) {
            true => front.len() + back.partition_point(before),
            false => front.partition_point(before),
        }
    }
}

// SAFETY: the layout is that of `RawDeque`; the block moves whole, and each element is queued once.
unsafe impl<T: Persist> Persist for PVecDeque<T> {
    const HAS_POINTERS: bool = true;
    const HAS_LOCKS: bool = false;

    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let elem = T::describe(b);
            Type::of::<Self>("PVecDeque", Kind::Deque { elem })
        })
    }

    unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>) {
        // SAFETY: an owned deque, whose block is as long as it says. What is not used of it would be lost in the
        // region, so it goes before: then every place has an element, and their order is not changed.
        unsafe {
            (*this).shrink_to_fit();
            let ring = &mut (*this).ring;
            if ring.capacity() != 0 {
                let block = a.move_in(ring.as_ptr(), ring.len(), ring.capacity());
                ring.set_block(block.cast());
            }
        }
    }

    unsafe fn evict(this: *mut Self, e: &mut Evict<'_>) {
        // SAFETY: a copy of a stored deque, whose block is as long as it says.
        unsafe {
            let ring = &mut (*this).ring;
            let Some((stored, layout)) = ring.block() else {
                return;
            };
            if !e.hold((0..ring.len()).map(|index| ring.at(index))) {
                return;
            }
            ring.set_block(e.move_block(stored, layout, layout.size()));
            for (place, count) in ring.runs(0, ring.len()) {
                e.elements(ring.as_ptr().add(place), count);
            }
        }
    }

    unsafe fn release(this: *const Self, r: &mut Release<'_>) {
        // SAFETY: a stored deque, whose block is as long as it says.
        unsafe {
            let ring = &(*this).ring;
            let Some((stored, _)) = ring.block() else {
                return;
            };
            for (place, count) in ring.runs(0, ring.len()) {
                r.elements(ring.as_ptr().add(place), count);
            }
            r.tx().free(stored);
        }
    }

    unsafe fn for_each_lock(_this: *const Self, _f: &mut dyn FnMut(usize)) {}

    unsafe fn zero_padding(_this: *mut Self) {}

    fn parts_match(m: &mut Match<'_>, ty: TypeRef) -> bool {
        match m.kind(ty) {
            Kind::Deque { elem } => matches::<T>(m, *elem),
            _ => false,
        }
    }

    unsafe fn import_parts(i: &mut Import<'_>, ty: TypeRef, at: *const u8) -> Outcome<Self> {
        let Kind::Deque { elem } = i.kind(ty) else {
            return Err(i.refused::<Self>(ty));
        };
        let stride = i.size(*elem);
        // SAFETY: a stored deque, whose block is as long as it says.
        unsafe {
            let raw = at.cast::<RawDeque>().read();
            let block: *mut u8 = ptr::with_exposed_provenance_mut(raw.ptr as usize);
            let values = (0..raw.len)
                .map(|n| {
                    let place = (raw.head + n) % raw.cap;
                    i.inside(|i| i.value(*elem, block.add(place as usize * stride)))
                })
                .collect::<Outcome<Vec<T>>>()?;
            if raw.cap != 0 && stride != 0 {
                i.tx().free(NonNull::new_unchecked(block));
            }
            Ok(values.into())
        }
    }
}

//! [`PBTreeSet`]: an ordered set that can be stored.
//!
//! A [`PBTreeMap`] to nothing: a node of its tree holds values and no room for others. Owned, it has `std`'s
//! methods; stored, it is read like the owned one and changed through the methods of
//! `Mut<'_, PBTreeSet<T>>` in the submodule `stored`.

mod iter;
mod ops;
mod owned;
mod stored;

pub use iter::{ExtractIf, IntoIter, Iter, Range};
pub use ops::{Difference, Intersection, SymmetricDifference, Union};

use crate::btree_map::{self, PBTreeMap};
use crate::error::Result;
use crate::persist::{Adopt, Evict, Import, Match, Persist, Release};
use bartender_heap::types::{SchemaBuilder, TypeRef};
use std::borrow::Borrow;
use std::ops::RangeBounds;

/// An ordered set, [`BTreeSet`](std::collections::BTreeSet)'s persistent twin.
///
/// A `PBTreeSet` that the program owns lives in ordinary memory and behaves like a `BTreeSet`.
/// Stored in a region, it is only ever borrowed: `&PBTreeSet<T>` for looking up, and
/// [`Mut<'_, PBTreeSet<T>>`](crate::Mut) has the methods that change it, which return `Result`.
///
/// ```
/// use bartender::{PBTreeSet, PString};
///
/// let mut guests = PBTreeSet::from(["Grace", "Ada"].map(PString::from));
/// assert!(guests.contains("Ada"));
/// assert!(!guests.insert("Ada".into()));
/// assert_eq!(guests.first(), Some(&"Ada".into()));
/// let others = PBTreeSet::from(["Grace", "Edsger"].map(PString::from));
/// assert_eq!((&guests & &others).len(), 1);
/// ```
#[repr(transparent)]
pub struct PBTreeSet<T> {
    map: PBTreeMap<T, ()>,
}

impl<T> PBTreeSet<T> {
    /// An empty set. Allocates nothing.
    pub const fn new() -> Self {
        PBTreeSet {
            map: PBTreeMap::new(),
        }
    }

    /// How many values are there.
    #[inline]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// All values, rising.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter(self.map.keys())
    }

    /// The lowest value.
    pub fn first(&self) -> Option<&T> {
        Some(self.map.first_key_value()?.0)
    }

    /// The highest value.
    pub fn last(&self) -> Option<&T> {
        Some(self.map.last_key_value()?.0)
    }
}

impl<T: Ord> PBTreeSet<T> {
    /// Whether `value` is there.
    #[inline]
    pub fn contains<Q: Ord + ?Sized>(&self, value: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.map.contains_key(value)
    }

    /// The value that is there and equals `value`.
    #[inline]
    pub fn get<Q: Ord + ?Sized>(&self, value: &Q) -> Option<&T>
    where
        T: Borrow<Q>,
    {
        Some(self.map.get_key_value(value)?.0)
    }

    /// The values in `range`, rising.
    ///
    /// # Panics
    ///
    /// If there are values, and the range ends before it starts, or starts and ends at one value that both bounds exclude.
    #[track_caller]
    pub fn range<Q: Ord + ?Sized, R: RangeBounds<Q>>(&self, range: R) -> Range<'_, T>
    where
        T: Borrow<Q>,
    {
        Range(self.map.range_in(&range, "PBTreeSet"))
    }
}

// SAFETY: it is its map.
unsafe impl<T: Persist + Ord> Persist for PBTreeSet<T> {
    const HAS_POINTERS: bool = true;
    const HAS_LOCKS: bool = false;

    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        btree_map::describe::<Self, T, ()>(b, "PBTreeSet")
    }

    unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>) {
        // SAFETY: passed on.
        unsafe { PBTreeMap::adopt(&raw mut (*this).map, a) }
    }

    unsafe fn evict(this: *mut Self, e: &mut Evict<'_>) {
        // SAFETY: passed on.
        unsafe { PBTreeMap::evict(&raw mut (*this).map, e) }
    }

    unsafe fn release(this: *const Self, r: &mut Release<'_>) {
        // SAFETY: passed on.
        unsafe { PBTreeMap::release(&raw const (*this).map, r) }
    }

    unsafe fn for_each_lock(_this: *const Self, _f: &mut dyn FnMut(usize)) {}

    unsafe fn zero_padding(_this: *mut Self) {}

    fn parts_match(m: &mut Match<'_>, ty: TypeRef) -> bool {
        btree_map::parts_match::<T, ()>(m, ty, "PBTreeSet")
    }

    unsafe fn import_parts(i: &mut Import<'_>, ty: TypeRef, at: *const u8) -> Result<Self> {
        // SAFETY: passed on.
        let map = unsafe { PBTreeMap::import_parts(i, ty, at)? };
        Ok(PBTreeSet { map })
    }
}

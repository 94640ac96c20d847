//! [`PHashSet`]: a set that can be stored.
//!
//! A [`PHashMap`] to nothing: an entry of its table is as large as a value. Owned, it has `std`'s
//! methods; stored, it is read like the owned one and changed through the methods of
//! `Mut<'_, PHashSet<T>>` in the submodule `stored`.

mod iter;
mod ops;
mod owned;
mod stored;

pub use iter::{Drain, ExtractIf, IntoIter, Iter};
pub use ops::{Difference, Intersection, SymmetricDifference, Union};

use crate::error::Result;
use crate::hash_map::{self, PHashMap, StableState};
use crate::persist::{Adopt, Evict, Import, Match, Persist, Release};
use bartender_heap::types::{EntryLayout, Kind, SchemaBuilder, Type, TypeRef};
use std::borrow::Borrow;
use std::hash::Hash;

/// A hash set, [`HashSet`](std::collections::HashSet)'s persistent twin.
///
/// A `PHashSet` that the program owns lives in ordinary memory and behaves like a `HashSet`.
/// Stored in a region, it is only ever borrowed: `&PHashSet<T>` for looking up, and
/// [`Mut<'_, PHashSet<T>>`](crate::Mut) has the methods that change it, which return `Result`.
///
/// The order of iteration is unspecified, but the same for the same set from run to run. Values must have a size:
/// `PHashSet<()>` does not compile.
///
/// ```
/// use bartender::{PHashSet, PString};
///
/// let mut guests = PHashSet::from(["Ada", "Grace"].map(PString::from));
/// assert!(guests.contains("Ada"));
/// assert!(!guests.insert("Ada".into()));
/// let others = PHashSet::from(["Grace", "Edsger"].map(PString::from));
/// assert_eq!((&guests & &others).len(), 1);
/// ```
#[repr(transparent)]
pub struct PHashSet<T> {
    map: PHashMap<T, ()>,
}

impl<T> PHashSet<T> {
    /// An empty set with a random seed. Allocates nothing.
    pub fn new() -> Self {
        PHashSet {
            map: PHashMap::new(),
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

    /// Values that fit without a new block.
    pub fn capacity(&self) -> usize {
        self.map.capacity()
    }

    /// The hash function of this set.
    #[inline]
    pub fn hasher(&self) -> StableState {
        self.map.hasher()
    }

    /// All values.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter(self.map.keys())
    }
}

impl<T: Hash + Eq> PHashSet<T> {
    /// Whether `value` is there.
    #[inline]
    pub fn contains<Q: Hash + Eq + ?Sized>(&self, value: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.map.contains_key(value)
    }

    /// The value that is there and equals `value`.
    #[inline]
    pub fn get<Q: Hash + Eq + ?Sized>(&self, value: &Q) -> Option<&T>
    where
        T: Borrow<Q>,
    {
        Some(self.map.get_key_value(value)?.0)
    }
}

// SAFETY: it is its map.
unsafe impl<T: Persist + Hash + Eq> Persist for PHashSet<T> {
    const HAS_POINTERS: bool = true;
    const HAS_LOCKS: bool = false;

    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let (key, value) = (T::describe(b), <()>::describe(b));
            let entry = EntryLayout::of::<T, ()>();
            Type::of::<Self>("PHashSet", Kind::Map { key, value, entry })
        })
    }

    unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>) {
        // SAFETY: passed on.
        unsafe { PHashMap::adopt(&raw mut (*this).map, a) }
    }

    unsafe fn evict(this: *mut Self, e: &mut Evict<'_>) {
        // SAFETY: passed on.
        unsafe { PHashMap::evict(&raw mut (*this).map, e) }
    }

    unsafe fn release(this: *const Self, r: &mut Release<'_>) {
        // SAFETY: passed on.
        unsafe { PHashMap::release(&raw const (*this).map, r) }
    }

    unsafe fn for_each_lock(_this: *const Self, _f: &mut dyn FnMut(usize)) {}

    unsafe fn zero_padding(_this: *mut Self) {}

    fn parts_match(m: &mut Match<'_>, ty: TypeRef) -> bool {
        hash_map::parts_match::<T, ()>(m, ty, "PHashSet")
    }

    unsafe fn import_parts(i: &mut Import<'_>, ty: TypeRef, at: *const u8) -> Result<Self> {
        // SAFETY: passed on.
        let map = unsafe { PHashMap::import_parts(i, ty, at)? };
        Ok(PHashSet { map })
    }
}

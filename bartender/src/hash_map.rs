//! [`PHashMap`]: a hash map that can be stored.
//!
//! Owned, it is ordinary memory and has `std`'s methods. Stored, it is read like the owned one
//! and changed through the methods of `Mut<'_, PHashMap<K, V>>` in the submodule `stored`.
//! Look-ups are the same code for both.
//!
//! The hash function is part of the stored data: SipHash-1-3, keyed from a seed in the map. A
//! key's `Hash` must give the same bytes in every build of the program (derived ones and those
//! of `std`'s plain types do).

mod entry;
mod hash;
mod iter;
mod moving;
mod owned;
mod persist;
mod slot;
mod stored;
mod stored_entry;

pub use entry::{Entry, OccupiedEntry, VacantEntry};
pub use hash::StableState;
pub(crate) use iter::Extract;
pub use iter::{
    Drain, ExtractIf, IntoIter, IntoKeys, IntoValues, Iter, IterMut, Keys, Values, ValuesMut,
};
pub(crate) use persist::parts_match;
pub use stored::{StoredIterMut, StoredValuesMut};
pub use stored_entry::{StoredEntry, StoredOccupied, StoredVacant};

use crate::raw::table::Table;
use slot::Slot;
use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};

/// A hash map, [`HashMap`](std::collections::HashMap)'s persistent twin.
///
/// A `PHashMap` that the program owns lives in ordinary memory and behaves like a `HashMap`.
/// Stored in a region, it is only ever borrowed: `&PHashMap<K, V>` for looking up, and
/// [`Mut<'_, PHashMap<K, V>>`](crate::Mut) has the methods that change it, which return
/// `Result`.
///
/// The order of iteration is unspecified, but the same for the same map from run to run.
///
/// To be stored, its keys must be `Hash` and `Eq`: when a region of an earlier schema is converted, those that change are
/// hashed anew.
///
/// ```
/// use bartender::{PHashMap, PString};
///
/// let mut stock = PHashMap::new();
/// stock.insert(PString::from("gin"), 3);
/// *stock.entry("rum".into()).or_insert(0) += 2;
/// assert_eq!(stock.get("gin"), Some(&3));
/// assert_eq!(stock["rum"], 2);
/// ```
#[repr(transparent)]
pub struct PHashMap<K, V> {
    table: Table<Slot<K, V>>,
}

impl<K, V> PHashMap<K, V> {
    /// An empty map with a random seed. Allocates nothing.
    pub fn new() -> Self {
        PHashMap {
            table: Table::new(hash::new_seed()),
        }
    }

    /// How many entries are there.
    #[inline]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries that fit without a new block.
    pub fn capacity(&self) -> usize {
        self.table.capacity()
    }

    /// The hash function of this map.
    #[inline]
    pub fn hasher(&self) -> StableState {
        StableState::new(self.table.seed())
    }

    /// All entries.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter::new(&self.table)
    }

    /// All keys.
    pub fn keys(&self) -> Keys<'_, K, V> {
        Keys(self.iter())
    }

    /// All values.
    pub fn values(&self) -> Values<'_, K, V> {
        Values(self.iter())
    }
}

impl<K: Hash + Eq, V> PHashMap<K, V> {
    #[inline]
    fn hash<Q: Hash + ?Sized>(&self, key: &Q) -> u64 {
        self.hasher().hash_one(key)
    }

    /// The bucket of `key`.
    #[inline]
    fn find<Q: Hash + Eq + ?Sized>(&self, hash: u64, key: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
    {
        self.table.find(hash, |slot| slot.key.borrow() == key)
    }

    #[inline]
    fn slot<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&Slot<K, V>>
    where
        K: Borrow<Q>,
    {
        if self.is_empty() {
            return None;
        }
        let index = self.find(self.hash(key), key)?;
        // SAFETY: the bucket was found, so it is full.
        Some(unsafe { self.table.bucket(index).as_ref() })
    }

    /// The value of `key`.
    #[inline]
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        Some(&self.slot(key)?.value)
    }

    /// The key that is there, and its value.
    pub fn get_key_value<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let slot = self.slot(key)?;
        Some((&slot.key, &slot.value))
    }

    /// Whether `key` is there.
    #[inline]
    pub fn contains_key<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.slot(key).is_some()
    }
}

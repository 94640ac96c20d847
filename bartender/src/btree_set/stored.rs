//! Changing a stored [`PBTreeSet`]: the methods of `Mut<'_, PBTreeSet<T>>`.
//!
//! As for maps: what is overwritten is kept for an abort, and a value that goes in is adopted before anything refers
//! to it. A value that is there is never changed: its order says where it is.

use super::PBTreeSet;
use crate::__private::{mut_at, parts};
use crate::btree_map::PBTreeMap;
use crate::error::Result;
use crate::moved::{self, Moved};
use crate::mutref::Mut;
use crate::persist::Persist;
use std::borrow::Borrow;
use std::ops::RangeBounds;

/// Stored sets. Each method that changes something has effect when the transaction commits;
/// none has a barrier of its own.
impl<T: Persist + Ord> Mut<'_, PBTreeSet<T>> {
    #[inline]
    fn map(&mut self) -> Mut<'_, PBTreeMap<T, ()>> {
        let (this, tx) = parts(self);
        // SAFETY: the map lies in the set, which is borrowed for as long.
        unsafe { mut_at(&raw mut (*this).map, tx) }
    }

    /// Adopts `value` and puts it in; whether it was not there. A value that was there stays.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed, and `value` is lost. A lock inside a value that is moved is held by an older
    /// transaction: this one can only abort then.
    pub fn insert(&mut self, value: T) -> Result<bool> {
        Ok(self.map().insert(value, ())?.is_none())
    }

    /// Adopts `value` and puts it in, and returns the equal one that was there as an owned value
    /// (`BTreeSet::replace`, whose name `Mut::replace` has).
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert).
    pub fn replace_value(&mut self, value: T) -> Result<Option<T>> {
        self.map().replace_key(value)
    }

    /// Drops `value`; whether it was there.
    ///
    /// # Errors
    ///
    /// A lock inside a value that is dropped or moved is held by an older transaction; the transaction can only abort then.
    pub fn remove<Q: Ord + ?Sized>(&mut self, value: &Q) -> Result<bool>
    where
        T: Borrow<Q>,
    {
        Ok(self.map().remove_moved(value)?.is_some())
    }

    /// Takes the value that equals `value` out, as an owned value (`BTreeSet::take`, whose name `Mut::take` has).
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub fn take_value<Q: Ord + ?Sized>(&mut self, value: &Q) -> Result<Option<T>>
    where
        T: Borrow<Q>,
    {
        Ok(self.map().remove_entry(value)?.map(|(value, ())| value))
    }

    /// Takes the lowest value out, as an owned value.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub fn pop_first(&mut self) -> Result<Option<T>> {
        Ok(self.map().pop_first()?.map(|(value, ())| value))
    }

    /// Takes the highest value out, as an owned value.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub fn pop_last(&mut self) -> Result<Option<T>> {
        Ok(self.map().pop_last()?.map(|(value, ())| value))
    }

    /// Drops all values; blocks are freed when the transaction is durable.
    ///
    /// # Errors
    ///
    /// A lock inside a value is held by an older transaction; the transaction can only abort then.
    pub fn clear(&mut self) -> Result<()> {
        self.map().clear()
    }

    /// Keeps the values of which `keep` says so, and drops the others.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) -> Result<()> {
        self.map().retain(|value, _| keep(value))
    }

    /// Puts all values of an iterator in.
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert); what was put in before stays.
    pub fn extend(&mut self, values: impl IntoIterator<Item = T>) -> Result<()> {
        values
            .into_iter()
            .try_for_each(|value| self.insert(value).map(drop))
    }

    /// Moves all values of `other` here, without touching what they own.
    ///
    /// # Errors
    ///
    /// As `Mut<'_, PBTreeMap<K, V>>::append`.
    pub fn append(&mut self, other: &mut Mut<'_, PBTreeSet<T>>) -> Result<()> {
        self.map().append(&mut other.map())
    }

    /// Takes the values in `range` of which `leaves` says so out, rising, as owned values. All questions come before the
    /// first change. A range that ends before it starts has nothing in it.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub fn extract_if<R: RangeBounds<T>>(
        &mut self,
        range: R,
        mut leaves: impl FnMut(&T) -> bool,
    ) -> Result<std::vec::IntoIter<T>> {
        let entries = self.map().extract_if(range, |value, _| leaves(value))?;
        Ok(entries
            .map(|(value, ())| value)
            .collect::<Vec<_>>()
            .into_iter())
    }
}

/// Moving inside the region. What values own is not copied.
impl<T: Persist + Ord> Mut<'_, PBTreeSet<T>> {
    /// Takes the value that equals `value`, to be attached somewhere else.
    ///
    /// # Errors
    ///
    /// A lock inside a value that is moved is held by an older transaction; the transaction can only abort then.
    pub fn remove_moved<Q: Ord + ?Sized>(&mut self, value: &Q) -> Result<Option<Moved<T>>>
    where
        T: Borrow<Q>,
    {
        self.map().remove_key_moved(value)
    }

    /// Takes the lowest value, to be attached somewhere else.
    ///
    /// # Errors
    ///
    /// As [`remove_moved`](Self::remove_moved).
    pub fn pop_first_moved(&mut self) -> Result<Option<Moved<T>>> {
        self.map().pop_key_moved(true)
    }

    /// Takes the highest value, to be attached somewhere else.
    ///
    /// # Errors
    ///
    /// As [`remove_moved`](Self::remove_moved).
    pub fn pop_last_moved(&mut self) -> Result<Option<Moved<T>>> {
        self.map().pop_key_moved(false)
    }

    /// Attaches a value of this transaction; whether an equal one was not there. One that was there stays, and the
    /// new one is freed when the transaction is durable.
    ///
    /// # Errors
    ///
    /// The region is full, or the value is not of this transaction: the transaction that the value is of can only abort
    /// then.
    pub fn insert_moved(&mut self, moved: Moved<T>) -> Result<bool> {
        self.map().insert_key_moved(moved)
    }

    /// Takes the values from `value` on out, as a set that can be attached somewhere else.
    ///
    /// # Errors
    ///
    /// As `Mut<'_, PBTreeMap<K, V>>::split_off_moved`, which says what it costs.
    pub fn split_off_moved<Q: Ord + ?Sized>(&mut self, value: &Q) -> Result<Moved<PBTreeSet<T>>>
    where
        T: Borrow<Q>,
    {
        self.map().split_off_with(value, |tx, above| {
            // SAFETY: a set is its map, and this one is nobody's.
            unsafe { moved::detach(tx, above.cast::<PBTreeSet<T>>()) }
        })
    }
}

//! Changing a stored [`PHashSet`]: the methods of `Mut<'_, PHashSet<T>>`.
//!
//! As for maps: what is overwritten is kept for an abort, and a value that goes in is adopted before anything refers
//! to it. A value that is there is never changed: its hash says where it is.

use super::{IntoIter, PHashSet};
use crate::__private::{mut_at, parts};
use crate::error::Result;
use crate::hash_map::PHashMap;
use crate::moved::Moved;
use crate::mutref::Mut;
use crate::persist::Persist;
use std::borrow::Borrow;
use std::hash::Hash;

/// Stored sets. Each method that changes something has effect when the transaction commits;
/// none has a barrier of its own.
impl<T: Persist + Hash + Eq> Mut<'_, PHashSet<T>> {
    #[inline]
    fn map(&mut self) -> Mut<'_, PHashMap<T, ()>> {
        let (this, tx) = parts(self);
        // SAFETY: the map lies in the set, which is borrowed for as long.
        unsafe { mut_at(&raw mut (*this).map, tx) }
    }

    /// Makes room for `additional` values.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    pub fn reserve(&mut self, additional: usize) -> Result<()> {
        self.map().reserve(additional)
    }

    /// Gives room that is not used back.
    ///
    /// # Errors
    ///
    /// The region is full, or a lock inside a value is held by an older transaction; nothing changed.
    pub fn shrink_to_fit(&mut self) -> Result<()> {
        self.map().shrink_to_fit()
    }

    /// Adopts `value` and puts it in; whether it was not there. A value that was there stays.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed, and `value` is lost.
    pub fn insert(&mut self, value: T) -> Result<bool> {
        Ok(self.map().insert(value, ())?.is_none())
    }

    /// Adopts `value` and puts it in, and returns the equal one that was there as an owned value
    /// (`HashSet::replace`, whose name `Mut::replace` has).
    ///
    /// # Errors
    ///
    /// The region is full, or a lock inside is held by an older transaction.
    pub fn replace_value(&mut self, value: T) -> Result<Option<T>> {
        self.map().replace_key(value)
    }

    /// Drops `value`; whether it was there.
    ///
    /// # Errors
    ///
    /// A lock inside the value is held by an older transaction; nothing changed.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, value: &Q) -> Result<bool>
    where
        T: Borrow<Q>,
    {
        self.map().drop_entry(value)
    }

    /// Takes the value that equals `value` out, as an owned value (`HashSet::take`, whose name `Mut::take` has).
    ///
    /// # Errors
    ///
    /// A lock inside the value is held by an older transaction; nothing changed.
    pub fn take_value<Q: Hash + Eq + ?Sized>(&mut self, value: &Q) -> Result<Option<T>>
    where
        T: Borrow<Q>,
    {
        Ok(self.map().remove_entry(value)?.map(|(value, ())| value))
    }

    /// Takes the value that equals `value`, to be attached somewhere else.
    ///
    /// # Errors
    ///
    /// A lock inside the value is held by an older transaction; nothing changed.
    pub fn remove_moved<Q: Hash + Eq + ?Sized>(&mut self, value: &Q) -> Result<Option<Moved<T>>>
    where
        T: Borrow<Q>,
    {
        self.map().remove_key_moved(value)
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

    /// Drops all values and keeps the room; blocks are freed when the transaction is durable.
    ///
    /// # Errors
    ///
    /// A lock inside a value is held by an older transaction.
    pub fn clear(&mut self) -> Result<()> {
        self.map().clear()
    }

    /// Keeps the values of which `keep` says so, and drops the others.
    ///
    /// # Errors
    ///
    /// A lock inside a value is held by an older transaction.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) -> Result<()> {
        self.map().retain(|value, _| keep(value))
    }

    /// Takes all values out, as owned values. All of them leave at once, and the room with them: what the iterator does
    /// not give is dropped with it.
    ///
    /// # Errors
    ///
    /// A lock inside a value is held by an older transaction.
    pub fn drain(&mut self) -> Result<IntoIter<T>> {
        Ok(Mut::take(self)?.into_iter())
    }

    /// Takes the values out of which `leaves` says so, as owned values. All questions come before the first change.
    ///
    /// # Errors
    ///
    /// A lock inside a value is held by an older transaction.
    pub fn extract_if(
        &mut self,
        mut leaves: impl FnMut(&T) -> bool,
    ) -> Result<std::vec::IntoIter<T>> {
        let entries = self.map().extract_if(|value, _| leaves(value))?;
        Ok(entries
            .map(|(value, ())| value)
            .collect::<Vec<_>>()
            .into_iter())
    }

    /// Puts all values of an iterator in.
    ///
    /// # Errors
    ///
    /// The region is full; what was put in before stays.
    pub fn extend(&mut self, values: impl IntoIterator<Item = T>) -> Result<()> {
        values
            .into_iter()
            .try_for_each(|value| self.insert(value).map(drop))
    }
}

//! Making one stored map of two, and two of one: trees are joined and cut, and what the entries own is not touched.
//!
//! Entries that have locks in them go one by one, for those that are moved have to be held, and a cut moves a few of all
//! parts of the tree.

use super::PBTreeMap;
use super::stored::hold_node;
use crate::error::{Error, Result};
use crate::moved::{self, Moved};
use crate::mutref::Mut;
use crate::persist::Persist;
use crate::raw;
use crate::raw::tree::{Cursor, Tree};
use crate::tx::TxRef;
use std::borrow::Borrow;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr;

/// Dooms a transaction when what it began is left unfinished: by an error, or by a key's `Ord` that panics.
struct Unfinished<'a>(TxRef<'a>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.doom(&Error::abort(
            "entries were on their way from one map to another",
        ));
    }
}

impl<K: Persist + Ord, V: Persist> Mut<'_, PBTreeMap<K, V>> {
    const HAS_LOCKS: bool = K::HAS_LOCKS || V::HAS_LOCKS;

    /// Moves all entries of `other` here; where both have a key, the value of `other` is the one that stays. What the
    /// entries own is not touched.
    ///
    /// Costs nothing if this map is empty; a few nodes of each where no key of this map is between two of `other`, and there
    /// are no locks in keys or values; else an insertion for each entry of `other`.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignValue`] if the maps are of different transactions; nothing changed. The region is full, or
    /// a lock inside an entry is held by an older transaction: the transaction can only abort then, as it can when a key's
    /// `Ord` panics.
    pub fn append(&mut self, other: &mut Mut<'_, PBTreeMap<K, V>>) -> Result<()> {
        if Mut::tx(self) != Mut::tx(other) {
            return Err(Error::ForeignValue);
        }
        if self.is_empty() {
            return Mut::swap(self, other);
        }
        if other.is_empty() {
            return Ok(());
        }
        let unfinished = Unfinished(Mut::tx(self));
        match self.gap_for(other).filter(|_| !Self::HAS_LOCKS) {
            Some(gap) => self.splice(&gap, other)?,
            None => self.append_each(other)?,
        }
        std::mem::forget(unfinished);
        Ok(())
    }

    /// Puts all entries of `other` at a place of this map.
    fn splice(&mut self, gap: &Cursor<K, V>, other: &mut Mut<'_, PBTreeMap<K, V>>) -> Result<()> {
        let (tree, tx) = self.tree();
        let (others, _) = other.tree();
        // SAFETY: the maps are borrowed for changing by this transaction, and there are no locks in their entries. After an
        // error both are without a node, and the transaction is doomed.
        unsafe {
            tx.change(tree.cast(), size_of::<Tree<K, V>>());
            tx.change(others.cast(), size_of::<Tree<K, V>>());
            let (whole, part) = (tree.replace(Tree::new()), others.replace(Tree::new()));
            tree.write(Tree::splice(whole, gap, part, tx)?);
        }
        Ok(())
    }

    fn append_each(&mut self, other: &mut Mut<'_, PBTreeMap<K, V>>) -> Result<()> {
        let tx = Mut::tx(self);
        while let Some(mut last) = other.last_place() {
            let (mut key, mut value) = (MaybeUninit::<K>::uninit(), MaybeUninit::<V>::uninit());
            // SAFETY: the entry has one owner, which is nobody between the two maps. If that is the end of it, the
            // transaction is doomed.
            unsafe {
                other.remove_with(&mut last, 0, |_, k, v| {
                    ptr::copy_nonoverlapping(k, key.as_mut_ptr(), 1);
                    ptr::copy_nonoverlapping(v, value.as_mut_ptr(), 1);
                    Ok(())
                })?;
                let (mut cursor, level) = self.tree.place(&*key.as_ptr());
                match level {
                    None => self.insert_stored(&mut cursor, key.as_ptr(), value.as_ptr())?,
                    Some(level) => {
                        let step = cursor.step(level);
                        let place = step.node.value(step.index);
                        raw::release(tx, place, 1)?;
                        moved::write(tx, place, value.as_ptr())?;
                        tx.release(key.as_ptr())?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes the entries from `key` on out, as a map that can be attached somewhere else. What the entries own is not
    /// touched.
    ///
    /// Costs a few nodes, and reading how many entries are in each node of one part, most likely of the smaller one; if
    /// there are locks in keys or values, a removal for each entry.
    ///
    /// # Errors
    ///
    /// The region is full, or a lock inside an entry is held by an older transaction: the transaction can only abort
    /// then.
    pub fn split_off_moved<Q: Ord + ?Sized>(&mut self, key: &Q) -> Result<Moved<PBTreeMap<K, V>>>
    where
        K: Borrow<Q>,
    {
        // SAFETY: the map is nobody's but this one's.
        self.split_off_with(key, |tx, above| unsafe { moved::detach(tx, above) })
    }

    /// Takes the entries from `key` on out, as a map that is nobody's; `keep` sees to that.
    pub(crate) fn split_off_with<Q: Ord + ?Sized, T>(
        &mut self,
        key: &Q,
        keep: impl FnOnce(TxRef<'_>, *mut PBTreeMap<K, V>) -> Result<T>,
    ) -> Result<T>
    where
        K: Borrow<Q>,
    {
        let cursor = self.tree.edge(key, false);
        // Made of blocks of the region, and so never dropped.
        let mut above = ManuallyDrop::new(PBTreeMap::<K, V>::new());
        let tx = Mut::tx(self);
        let unfinished = Unfinished(tx);
        // SAFETY: the cursor is of this map, which is borrowed for changing by this transaction, and there are no locks in
        // what a cut moves. After an error the map is without a node, and the transaction doomed.
        unsafe {
            if Self::HAS_LOCKS {
                self.move_each(cursor, &raw mut above.tree)?;
            } else {
                let (tree, _) = self.tree();
                tx.change(tree.cast(), size_of::<Tree<K, V>>());
                let whole = tree.replace(Tree::new());
                let (below, rest) = Tree::cut(whole, &cursor, tx)?;
                tree.write(below);
                above.tree = rest;
            }
        }
        let kept = keep(tx, &raw mut *above)?;
        std::mem::forget(unfinished);
        Ok(kept)
    }

    /// Moves the entries behind a place to the end of another tree, and holds the locks in them.
    ///
    /// # Safety
    ///
    /// The cursor is of this map. The other tree is of this transaction, and nobody has it.
    unsafe fn move_each(&mut self, mut cursor: Cursor<K, V>, above: *mut Tree<K, V>) -> Result<()> {
        let tx = Mut::tx(self);
        // SAFETY: the caller's promise. An entry that leaves one tree is in the other at once.
        unsafe {
            while let Some(level) = cursor.next_level() {
                self.remove_with(&mut cursor, level, |tx, key, value| {
                    let mut last = (*above).last();
                    let spare = Tree::prepare(&last, tx)?;
                    Tree::insert(above, &mut last, spare, key, value, tx);
                    Ok(())
                })?;
                cursor.settle(level);
            }
            let mut held = Ok(());
            (*above).each_node(&mut |node| {
                if held.is_ok() {
                    held = hold_node(tx, node);
                }
            });
            held
        }
    }
}

//! Taking entries of a [`PBTreeMap`] out while going through it.

use super::PBTreeMap;
use crate::__private::mut_at;
use crate::error::Result;
use crate::mutref::Mut;
use crate::persist::Persist;
use crate::raw::tree::{self, Cursor};
use std::fmt;
use std::iter::FusedIterator;
use std::ops::{Bound, RangeBounds};

/// Entries that leave; see [`PBTreeMap::extract_if`].
pub struct ExtractIf<'a, K, V, R, F> {
    map: &'a mut PBTreeMap<K, V>,
    /// Before the entry that is looked at next.
    cursor: Cursor<K, V>,
    range: R,
    leaves: F,
}

// SAFETY: it is an exclusive borrow of the entries.
unsafe impl<K: Send, V: Send, R: Send, F: Send> Send for ExtractIf<'_, K, V, R, F> {}
// SAFETY: it is an exclusive borrow of the entries.
unsafe impl<K: Sync, V: Sync, R: Sync, F: Sync> Sync for ExtractIf<'_, K, V, R, F> {}

impl<'a, K, V, R, F> ExtractIf<'a, K, V, R, F> {
    pub(super) fn new(
        map: &'a mut PBTreeMap<K, V>,
        between: tree::Range<K, V>,
        range: R,
        leaves: F,
    ) -> Self {
        ExtractIf {
            map,
            cursor: between.into_front(),
            range,
            leaves,
        }
    }
}

/// Whether a key is not above the end of a range.
fn is_below<K: Ord>(key: &K, end: Bound<&K>) -> bool {
    match end {
        Bound::Included(end) => key <= end,
        Bound::Excluded(end) => key < end,
        Bound::Unbounded => true,
    }
}

impl<K: Ord, V, R: RangeBounds<K>, F: FnMut(&K, &mut V) -> bool> Iterator
    for ExtractIf<'_, K, V, R, F>
{
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        // SAFETY: the cursor is of this map, which is borrowed exclusively and changed through the cursor only.
        unsafe {
            loop {
                let level = self.cursor.next_level()?;
                let step = self.cursor.step(level);
                let (key, value) = (step.node.key(step.index), step.node.value(step.index));
                if !is_below(&*key, self.range.end_bound()) {
                    return None;
                }
                if (self.leaves)(&*key, &mut *value) {
                    let entry = self.map.remove_at(&mut self.cursor, level);
                    self.cursor.settle(level);
                    return Some(entry);
                }
                self.cursor.pass(level);
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.map.len()))
    }
}

impl<K: Ord, V, R: RangeBounds<K>, F: FnMut(&K, &mut V) -> bool> FusedIterator
    for ExtractIf<'_, K, V, R, F>
{
}

impl<K, V, R, F> fmt::Debug for ExtractIf<'_, K, V, R, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtractIf").finish_non_exhaustive()
    }
}

impl<K: Persist + Ord, V: Persist> Mut<'_, PBTreeMap<K, V>> {
    /// Takes the entries in `range` of which `leaves` says so out, by rising keys, as owned values. All questions come
    /// before the first change. A range that ends before it starts has nothing in it.
    ///
    /// # Errors
    ///
    /// A lock inside an entry that leaves or is moved is held by an older transaction; the transaction can only abort then.
    pub fn extract_if<R: RangeBounds<K>>(
        &mut self,
        range: R,
        mut leaves: impl FnMut(&K, Mut<'_, V>) -> bool,
    ) -> Result<std::vec::IntoIter<(K, V)>> {
        let tx = Mut::tx(self);
        let mut between = self.between_any(&range);
        let mut cursor = between.clone().into_front();
        let (mut answers, mut count) = (Vec::new(), 0);
        // SAFETY: the places are of this map, which is borrowed for changing by this transaction, and changed through the
        // cursor only; `leaves` gets no other way to it. There are as many entries behind the cursor as were asked of.
        unsafe {
            while let Some((key, value)) = between.next() {
                let leaves = leaves(&*key, mut_at(value, tx));
                answers.push(leaves);
                count += usize::from(leaves);
            }
            let mut entries = Vec::with_capacity(count);
            for leaves in answers {
                let Some(level) = cursor.next_level() else {
                    break;
                };
                if leaves {
                    entries.push(self.remove_at(&mut cursor, level)?);
                    cursor.settle(level);
                } else {
                    cursor.pass(level);
                }
            }
            Ok(entries.into_iter())
        }
    }
}

//! [`PBTreeMap`]: an ordered map that can be stored.
//!
//! Owned, it is ordinary memory and has `std`'s methods. Stored, it is read like the owned one
//! and changed through the methods of `Mut<'_, PBTreeMap<K, V>>` in the submodule `stored`.
//! Look-ups are the same code for both.
//!
//! The order is that of the keys' `Ord`, which must be the same in every build of the program: it is not stored, so
//! nothing notices if another one is used. What a map finds is unspecified then, but never undefined behaviour.

mod entry;
mod extract;
mod iter;
mod moving;
mod owned;
mod parting;
mod persist;
mod stored;
mod stored_entry;
#[cfg(all(test, not(loom)))]
mod tests;
mod traits;

pub use entry::{Entry, OccupiedEntry, VacantEntry};
pub use extract::ExtractIf;
pub use iter::{
    IntoIter, IntoKeys, IntoValues, Iter, IterMut, Keys, Range, RangeMut, Values, ValuesMut,
};
pub(crate) use persist::{describe, parts_match};
pub use stored::{StoredIterMut, StoredRangeMut, StoredValuesMut};
pub use stored_entry::{StoredEntry, StoredOccupied, StoredVacant};

use crate::raw::tree::{self, Node, Tree};
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::{Bound, RangeBounds};

/// An ordered map, [`BTreeMap`](std::collections::BTreeMap)'s persistent twin: a B-tree.
///
/// A `PBTreeMap` that the program owns lives in ordinary memory and behaves like a `BTreeMap`.
/// Stored in a region, it is only ever borrowed: `&PBTreeMap<K, V>` for looking up, and
/// [`Mut<'_, PBTreeMap<K, V>>`](crate::Mut) has the methods that change it, which return
/// `Result`.
///
/// Up to 31 entries lie together in a block of at most about 1024 bytes, of large entries 11 in a larger one; an insertion or a
/// removal moves, and logs, a part of such a block. Values of more than some hundred bytes are better put in a [`PBox`](crate::PBox).
///
/// To be stored, its keys must be `Ord`: when a region of an earlier schema is converted, those that change are put in order
/// anew.
///
/// ```
/// use bartender::{PBTreeMap, PString};
///
/// let mut born = PBTreeMap::new();
/// born.insert(1815, PString::from("Ada"));
/// born.insert(1906, "Grace".into());
/// born.entry(1912).or_insert("Alan".into());
/// assert_eq!(born.first_key_value(), Some((&1815, &"Ada".into())));
/// let names: Vec<&str> = born.range(1900..).map(|(_, name)| &**name).collect();
/// assert_eq!(names, ["Grace", "Alan"]);
/// ```
#[repr(transparent)]
pub struct PBTreeMap<K, V> {
    tree: Tree<K, V>,
}

impl<K, V> PBTreeMap<K, V> {
    /// An empty map. Allocates nothing.
    pub const fn new() -> Self {
        PBTreeMap { tree: Tree::new() }
    }

    /// How many entries are there.
    #[inline]
    pub fn len(&self) -> usize {
        self.tree.len()
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.tree.root().is_none()
    }

    /// All entries, by rising keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter::new(self)
    }

    /// All keys, rising.
    pub fn keys(&self) -> Keys<'_, K, V> {
        Keys(self.iter())
    }

    /// All values, by rising keys.
    pub fn values(&self) -> Values<'_, K, V> {
        Values(self.iter())
    }

    /// The entry with the lowest key.
    pub fn first_key_value(&self) -> Option<(&K, &V)> {
        let step = self.tree.first().step(0);
        // SAFETY: the map is borrowed.
        (!self.is_empty()).then(|| unsafe { pair(step.node, step.index) })
    }

    /// The entry with the highest key.
    pub fn last_key_value(&self) -> Option<(&K, &V)> {
        let step = self.tree.last().step(0);
        // SAFETY: the map is borrowed; no leaf is empty.
        (!self.is_empty()).then(|| unsafe { pair(step.node, step.index - 1) })
    }
}

/// An entry.
///
/// # Safety
///
/// It is there, and borrowed for as long.
#[inline]
unsafe fn pair<'a, K, V>(node: Node<K, V>, index: usize) -> (&'a K, &'a V) {
    // SAFETY: the caller's promise.
    unsafe { (&*node.key(index), &*node.value(index)) }
}

impl<K: Ord, V> PBTreeMap<K, V> {
    /// The value of `key`.
    #[inline]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (node, index) = self.tree.find(key)?;
        // SAFETY: the entry was found, and the map is borrowed.
        Some(unsafe { &*node.value(index) })
    }

    /// The key that is there, and its value.
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let (node, index) = self.tree.find(key)?;
        // SAFETY: the entry was found, and the map is borrowed.
        Some(unsafe { pair(node, index) })
    }

    /// Whether `key` is there.
    #[inline]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.tree.find(key).is_some()
    }

    /// The entries whose keys are in `range`, by rising keys.
    ///
    /// # Panics
    ///
    /// If there are entries, and the range ends before it starts, or starts and ends at one key that both bounds exclude. (Of
    /// std's map, one that removals have emptied says so as well; here it is as a new one.)
    #[track_caller]
    pub fn range<Q: Ord + ?Sized, R: RangeBounds<Q>>(&self, range: R) -> Range<'_, K, V>
    where
        K: Borrow<Q>,
    {
        self.range_in(&range, "PBTreeMap")
    }

    /// The same, of a collection that is called `of`.
    #[track_caller]
    pub(crate) fn range_in<Q: Ord + ?Sized>(
        &self,
        range: &impl RangeBounds<Q>,
        of: &str,
    ) -> Range<'_, K, V>
    where
        K: Borrow<Q>,
    {
        Range::new(self, self.between(range, of))
    }

    /// The places in the tree where a range starts and ends.
    ///
    /// # Panics
    ///
    /// As [`range`](Self::range) of a collection that is called `of`.
    #[track_caller]
    fn between<Q: Ord + ?Sized>(&self, range: &impl RangeBounds<Q>, of: &str) -> tree::Range<K, V>
    where
        K: Borrow<Q>,
    {
        let wrong = match self.is_empty() {
            true => None,
            false => turned_round(range),
        };
        if let Some(what) = wrong {
            panic!("{what} in {of}");
        }
        self.edges(range, self.is_empty())
    }

    /// The same, where a range in which no key can be is one with nothing in it.
    fn between_any<Q: Ord + ?Sized>(&self, range: &impl RangeBounds<Q>) -> tree::Range<K, V>
    where
        K: Borrow<Q>,
    {
        self.edges(range, self.is_empty() || turned_round(range).is_some())
    }

    /// The places in the tree where a range starts and ends; the second is the first if there is `nothing` in it.
    fn edges<Q: Ord + ?Sized>(
        &self,
        range: &impl RangeBounds<Q>,
        nothing: bool,
    ) -> tree::Range<K, V>
    where
        K: Borrow<Q>,
    {
        use Bound::{Excluded, Included, Unbounded};
        if nothing {
            return tree::Range::new(self.tree.last(), self.tree.last());
        }
        let front = match range.start_bound() {
            Included(key) => self.tree.edge(key, false),
            Excluded(key) => self.tree.edge(key, true),
            Unbounded => self.tree.first(),
        };
        let back = match range.end_bound() {
            Included(key) => self.tree.edge(key, true),
            Excluded(key) => self.tree.edge(key, false),
            Unbounded => self.tree.last(),
        };
        tree::Range::new(front, back)
    }
}

/// What is wrong with a range in which no key can be.
fn turned_round<Q: Ord + ?Sized>(range: &impl RangeBounds<Q>) -> Option<&'static str> {
    use Bound::{Excluded, Included};
    let (start, end) = (range.start_bound(), range.end_bound());
    let both = matches!((start, end), (Excluded(_), Excluded(_)));
    let (Included(a) | Excluded(a), Included(b) | Excluded(b)) = (start, end) else {
        return None;
    };
    match a.cmp(b) {
        Ordering::Greater => Some("range start is greater than range end"),
        Ordering::Equal if both => Some("range start and end are equal and excluded"),
        _ => None,
    }
}

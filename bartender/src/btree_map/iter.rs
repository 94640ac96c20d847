//! Iterators over a [`PBTreeMap`], by rising keys, and from both ends.

use super::PBTreeMap;
use crate::raw::tree::{self, Tree};
use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::mem::needs_drop;

/// Entries of a map; see [`PBTreeMap::iter`].
pub struct Iter<'a, K, V> {
    range: Range<'a, K, V>,
    left: usize,
}

/// Some entries of a map; see [`PBTreeMap::range`].
pub struct Range<'a, K, V> {
    range: tree::Range<K, V>,
    borrowed: PhantomData<&'a (K, V)>,
}

/// Entries of an owned map, the values to be changed; see [`PBTreeMap::iter_mut`].
pub struct IterMut<'a, K, V> {
    range: RangeMut<'a, K, V>,
    left: usize,
}

/// Some entries of an owned map, the values to be changed; see [`PBTreeMap::range_mut`].
pub struct RangeMut<'a, K, V> {
    range: tree::Range<K, V>,
    borrowed: PhantomData<&'a mut (K, V)>,
}

/// Entries of a map that is used up; see `PBTreeMap::into_iter`.
pub struct IntoIter<K, V> {
    /// Its entries are those that `range` has still to give.
    tree: Tree<K, V>,
    range: tree::Range<K, V>,
    left: usize,
}

// SAFETY: it is a shared borrow of the entries.
unsafe impl<K: Sync, V: Sync> Send for Range<'_, K, V> {}
// SAFETY: it is a shared borrow of the entries.
unsafe impl<K: Sync, V: Sync> Sync for Range<'_, K, V> {}
// SAFETY: it is an exclusive borrow of the entries.
unsafe impl<K: Send, V: Send> Send for RangeMut<'_, K, V> {}
// SAFETY: it is an exclusive borrow of the entries.
unsafe impl<K: Sync, V: Sync> Sync for RangeMut<'_, K, V> {}
// SAFETY: it owns the entries.
unsafe impl<K: Send, V: Send> Send for IntoIter<K, V> {}
// SAFETY: it owns the entries and gives none out by a shared reference.
unsafe impl<K: Sync, V: Sync> Sync for IntoIter<K, V> {}

impl<'a, K, V> Range<'a, K, V> {
    /// The entries of a range of the map.
    pub(super) fn new(_map: &'a PBTreeMap<K, V>, range: tree::Range<K, V>) -> Self {
        Range {
            range,
            borrowed: PhantomData,
        }
    }
}

impl<'a, K, V> Iter<'a, K, V> {
    pub(super) fn new(map: &'a PBTreeMap<K, V>) -> Self {
        Iter {
            range: Range::new(map, map.tree.all()),
            left: map.len(),
        }
    }
}

impl<'a, K, V> RangeMut<'a, K, V> {
    /// The entries of a range of the map.
    pub(super) fn new(_map: &'a mut PBTreeMap<K, V>, range: tree::Range<K, V>) -> Self {
        RangeMut {
            range,
            borrowed: PhantomData,
        }
    }
}

impl<'a, K, V> IterMut<'a, K, V> {
    pub(super) fn new(map: &'a mut PBTreeMap<K, V>) -> Self {
        let (all, left) = (map.tree.all(), map.len());
        IterMut {
            range: RangeMut::new(map, all),
            left,
        }
    }
}

impl<K, V> IntoIter<K, V> {
    /// The entries of a tree that is owned.
    pub(super) fn new(tree: Tree<K, V>) -> Self {
        IntoIter {
            range: tree.all(),
            left: tree.len(),
            tree,
        }
    }
}

impl<'a, K, V> Iterator for Range<'a, K, V> {
    type Item = (&'a K, &'a V);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // SAFETY: the map is borrowed.
        unsafe { self.range.next().map(|(key, value)| (&*key, &*value)) }
    }

    fn last(mut self) -> Option<Self::Item> {
        self.next_back()
    }

    fn min(mut self) -> Option<Self::Item>
    where
        Self::Item: Ord,
    {
        self.next()
    }

    fn max(mut self) -> Option<Self::Item>
    where
        Self::Item: Ord,
    {
        self.next_back()
    }
}

impl<K, V> DoubleEndedIterator for Range<'_, K, V> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        // SAFETY: the map is borrowed.
        unsafe { self.range.next_back().map(|(key, value)| (&*key, &*value)) }
    }
}

impl<'a, K, V> Iterator for RangeMut<'a, K, V> {
    type Item = (&'a K, &'a mut V);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // SAFETY: the map is borrowed exclusively, and each entry handed out once.
        unsafe { self.range.next().map(|(key, value)| (&*key, &mut *value)) }
    }
}

impl<K, V> DoubleEndedIterator for RangeMut<'_, K, V> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        // SAFETY: the map is borrowed exclusively, and each entry handed out once.
        unsafe {
            let (key, value) = self.range.next_back()?;
            Some((&*key, &mut *value))
        }
    }
}

impl<K, V> Iterator for IntoIter<K, V> {
    type Item = (K, V);

    #[inline]
    fn next(&mut self) -> Option<(K, V)> {
        // SAFETY: the tree is owned, and each entry read once.
        let (key, value) = unsafe { self.range.next().map(|(k, v)| (k.read(), v.read()))? };
        self.left = self.left.wrapping_sub(1);
        Some((key, value))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<K, V> DoubleEndedIterator for IntoIter<K, V> {
    #[inline]
    fn next_back(&mut self) -> Option<(K, V)> {
        // SAFETY: the tree is owned, and each entry read once.
        let (key, value) = unsafe { self.range.next_back().map(|(k, v)| (k.read(), v.read()))? };
        self.left = self.left.wrapping_sub(1);
        Some((key, value))
    }
}

impl<K, V> Drop for IntoIter<K, V> {
    fn drop(&mut self) {
        struct Nodes<'a, K, V>(&'a mut Tree<K, V>);
        impl<K, V> Drop for Nodes<'_, K, V> {
            fn drop(&mut self) {
                // SAFETY: the tree is owned; its entries are dropped, or leak if a drop panicked.
                unsafe { self.0.free_owned() }
            }
        }
        let _nodes = Nodes(&mut self.tree);
        if needs_drop::<K>() || needs_drop::<V>() {
            // SAFETY: each entry is there, and dropped once.
            while let Some((key, value)) = unsafe { self.range.next() } {
                // SAFETY: as above.
                unsafe { drop((key.read(), value.read())) }
            }
        }
    }
}

/// Iterators that know how many entries are left, by what they are made of.
macro_rules! counted {
    ($($name:ident -> $item:ty;)*) => {$(
        impl<'a, K, V> Iterator for $name<'a, K, V> {
            type Item = (&'a K, $item);

            #[inline]
            fn next(&mut self) -> Option<Self::Item> {
                let next = self.range.next()?;
                self.left = self.left.wrapping_sub(1);
                Some(next)
            }

            #[inline]
            fn size_hint(&self) -> (usize, Option<usize>) {
                (self.left, Some(self.left))
            }

            fn last(mut self) -> Option<Self::Item> {
                self.next_back()
            }

            fn min(mut self) -> Option<Self::Item>
            where
                Self::Item: Ord,
            {
                self.next()
            }

            fn max(mut self) -> Option<Self::Item>
            where
                Self::Item: Ord,
            {
                self.next_back()
            }
        }

        impl<'a, K, V> DoubleEndedIterator for $name<'a, K, V> {
            #[inline]
            fn next_back(&mut self) -> Option<Self::Item> {
                let next = self.range.next_back()?;
                self.left = self.left.wrapping_sub(1);
                Some(next)
            }
        }

        impl<K, V> ExactSizeIterator for $name<'_, K, V> {}
        impl<K, V> FusedIterator for $name<'_, K, V> {}
    )*};
}

counted! {
    Iter -> &'a V;
    IterMut -> &'a mut V;
}

impl<K, V> ExactSizeIterator for IntoIter<K, V> {}
impl<K, V> FusedIterator for IntoIter<K, V> {}
impl<K, V> FusedIterator for Range<'_, K, V> {}
impl<K, V> FusedIterator for RangeMut<'_, K, V> {}

/// Keys of a map; see [`PBTreeMap::keys`].
pub struct Keys<'a, K, V>(pub(super) Iter<'a, K, V>);

/// Values of a map; see [`PBTreeMap::values`].
pub struct Values<'a, K, V>(pub(super) Iter<'a, K, V>);

/// Values of an owned map, to be changed; see [`PBTreeMap::values_mut`].
pub struct ValuesMut<'a, K, V>(pub(super) IterMut<'a, K, V>);

/// Keys of a map that is used up; see [`PBTreeMap::into_keys`].
pub struct IntoKeys<K, V>(pub(super) IntoIter<K, V>);

/// Values of a map that is used up; see [`PBTreeMap::into_values`].
pub struct IntoValues<K, V>(pub(super) IntoIter<K, V>);

/// One half of an iterator's entries.
macro_rules! half {
    ($($name:ident<$($life:lifetime,)? K, V> -> $item:ty, $part:tt;)*) => {$(
        impl<$($life,)? K, V> Iterator for $name<$($life,)? K, V> {
            type Item = $item;

            #[inline]
            fn next(&mut self) -> Option<$item> {
                Some(self.0.next()?.$part)
            }

            #[inline]
            fn size_hint(&self) -> (usize, Option<usize>) {
                self.0.size_hint()
            }

            fn last(mut self) -> Option<$item> {
                self.next_back()
            }
        }

        impl<$($life,)? K, V> DoubleEndedIterator for $name<$($life,)? K, V> {
            #[inline]
            fn next_back(&mut self) -> Option<$item> {
                Some(self.0.next_back()?.$part)
            }
        }

        impl<$($life,)? K, V> ExactSizeIterator for $name<$($life,)? K, V> {}
        impl<$($life,)? K, V> FusedIterator for $name<$($life,)? K, V> {}
    )*};
}

half! {
    Keys<'a, K, V> -> &'a K, 0;
    Values<'a, K, V> -> &'a V, 1;
    ValuesMut<'a, K, V> -> &'a mut V, 1;
    IntoKeys<K, V> -> K, 0;
    IntoValues<K, V> -> V, 1;
}

impl<K, V> Clone for Range<'_, K, V> {
    fn clone(&self) -> Self {
        Range {
            range: self.range.clone(),
            borrowed: PhantomData,
        }
    }
}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Iter {
            range: self.range.clone(),
            left: self.left,
        }
    }
}

impl<K, V> Clone for Keys<'_, K, V> {
    fn clone(&self) -> Self {
        Keys(self.0.clone())
    }
}

impl<K, V> Clone for Values<'_, K, V> {
    fn clone(&self) -> Self {
        Values(self.0.clone())
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Range<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Iter<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

impl<K: fmt::Debug, V> fmt::Debug for Keys<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

impl<K, V: fmt::Debug> fmt::Debug for Values<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

macro_rules! opaque {
    ($($name:ident<$($life:lifetime,)? K, V>;)*) => {$(
        impl<$($life,)? K, V> fmt::Debug for $name<$($life,)? K, V> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

opaque! {
    IterMut<'a, K, V>;
    RangeMut<'a, K, V>;
    ValuesMut<'a, K, V>;
    IntoIter<K, V>;
    IntoKeys<K, V>;
    IntoValues<K, V>;
}

//! Iterators over a [`PHashMap`], in the order of its buckets.

use super::{PHashMap, Slot};
use crate::raw::table::{Full, Table};
use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;

/// Entries of a map; see [`PHashMap::iter`].
pub struct Iter<'a, K, V> {
    full: Full<Slot<K, V>>,
    borrowed: PhantomData<&'a Slot<K, V>>,
}

// SAFETY: it is a shared borrow of the entries.
unsafe impl<K: Sync, V: Sync> Send for Iter<'_, K, V> {}
// SAFETY: it is a shared borrow of the entries.
unsafe impl<K: Sync, V: Sync> Sync for Iter<'_, K, V> {}

impl<'a, K, V> Iter<'a, K, V> {
    pub(super) fn new(table: &'a Table<Slot<K, V>>) -> Self {
        Iter {
            full: table.full(),
            borrowed: PhantomData,
        }
    }
}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Iter {
            full: self.full.again(),
            borrowed: PhantomData,
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // SAFETY: the bucket is full, and the map is borrowed.
        let slot = unsafe { self.full.next()?.as_ref() };
        Some((&slot.key, &slot.value))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.full.size_hint()
    }
}

/// Entries of an owned map, the values to be changed; see [`PHashMap::iter_mut`].
pub struct IterMut<'a, K, V> {
    full: Full<Slot<K, V>>,
    borrowed: PhantomData<&'a mut Slot<K, V>>,
}

// SAFETY: it is an exclusive borrow of the entries.
unsafe impl<K: Send, V: Send> Send for IterMut<'_, K, V> {}
// SAFETY: it is an exclusive borrow of the entries.
unsafe impl<K: Sync, V: Sync> Sync for IterMut<'_, K, V> {}

impl<'a, K, V> IterMut<'a, K, V> {
    pub(super) fn new(table: &'a mut Table<Slot<K, V>>) -> Self {
        IterMut {
            full: table.full(),
            borrowed: PhantomData,
        }
    }
}

impl<'a, K, V> Iterator for IterMut<'a, K, V> {
    type Item = (&'a K, &'a mut V);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // SAFETY: the bucket is full, handed out once, and the map is borrowed exclusively.
        let slot = unsafe { self.full.next()?.as_mut() };
        Some((&slot.key, &mut slot.value))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.full.size_hint()
    }
}

/// Entries of a map that is used up; see `PHashMap::into_iter`.
pub struct IntoIter<K, V> {
    /// Its entries are those that `full` has still to give.
    table: ManuallyDrop<PHashMap<K, V>>,
    full: Full<Slot<K, V>>,
}

// SAFETY: it owns the entries.
unsafe impl<K: Send, V: Send> Send for IntoIter<K, V> {}
// SAFETY: it owns the entries and gives none out by a shared reference.
unsafe impl<K: Sync, V: Sync> Sync for IntoIter<K, V> {}

impl<K, V> IntoIter<K, V> {
    pub(super) fn new(map: PHashMap<K, V>) -> Self {
        let full = map.table.full();
        IntoIter {
            table: ManuallyDrop::new(map),
            full,
        }
    }
}

impl<K, V> Iterator for IntoIter<K, V> {
    type Item = (K, V);

    #[inline]
    fn next(&mut self) -> Option<(K, V)> {
        // SAFETY: the bucket is full, and read once.
        let slot = unsafe { self.full.next()?.read() };
        Some((slot.key, slot.value))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.full.size_hint()
    }
}

impl<K, V> Drop for IntoIter<K, V> {
    fn drop(&mut self) {
        struct Block<'a, K, V>(&'a mut Table<Slot<K, V>>);
        impl<K, V> Drop for Block<'_, K, V> {
            fn drop(&mut self) {
                // SAFETY: the map was owned, and is forgotten.
                unsafe { self.0.free_owned() }
            }
        }
        let _block = Block(&mut self.table.table);
        for slot in self.full.by_ref() {
            // SAFETY: the bucket is full, and dropped once.
            unsafe { slot.drop_in_place() }
        }
    }
}

/// Keys of a map; see [`PHashMap::keys`].
pub struct Keys<'a, K, V>(pub(super) Iter<'a, K, V>);

/// Values of a map; see [`PHashMap::values`].
pub struct Values<'a, K, V>(pub(super) Iter<'a, K, V>);

/// Values of an owned map, to be changed; see [`PHashMap::values_mut`].
pub struct ValuesMut<'a, K, V>(pub(super) IterMut<'a, K, V>);

/// One half of an iterator's entries.
macro_rules! half {
    ($($name:ident -> $item:ty, $part:tt;)*) => {$(
        impl<'a, K, V> Iterator for $name<'a, K, V> {
            type Item = $item;

            #[inline]
            fn next(&mut self) -> Option<$item> {
                Some(self.0.next()?.$part)
            }

            #[inline]
            fn size_hint(&self) -> (usize, Option<usize>) {
                self.0.size_hint()
            }
        }

        impl<K, V> ExactSizeIterator for $name<'_, K, V> {}
        impl<K, V> FusedIterator for $name<'_, K, V> {}
    )*};
}

half! {
    Keys -> &'a K, 0;
    Values -> &'a V, 1;
    ValuesMut -> &'a mut V, 1;
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

impl<K, V> ExactSizeIterator for Iter<'_, K, V> {}
impl<K, V> ExactSizeIterator for IterMut<'_, K, V> {}
impl<K, V> ExactSizeIterator for IntoIter<K, V> {}
impl<K, V> FusedIterator for Iter<'_, K, V> {}
impl<K, V> FusedIterator for IterMut<'_, K, V> {}
impl<K, V> FusedIterator for IntoIter<K, V> {}

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

//! Iterators over a [`PHashMap`], in the order of its buckets.

use super::{PHashMap, Slot};
use crate::raw::Ordinary;
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

/// Entries that leave an owned map; see [`PHashMap::drain`].
pub struct Drain<'a, K, V> {
    map: &'a mut PHashMap<K, V>,
    /// The map's table, as long as this lives: a drain that is forgotten leaves an empty map.
    rest: ManuallyDrop<IntoIter<K, V>>,
}

impl<'a, K, V> Drain<'a, K, V> {
    pub(super) fn new(map: &'a mut PHashMap<K, V>) -> Self {
        let seed = map.table.seed();
        let empty = PHashMap {
            table: Table::new(seed),
        };
        let rest = ManuallyDrop::new(IntoIter::new(std::mem::replace(map, empty)));
        Drain { map, rest }
    }
}

impl<K, V> Iterator for Drain<'_, K, V> {
    type Item = (K, V);

    #[inline]
    fn next(&mut self) -> Option<(K, V)> {
        self.rest.next()
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rest.size_hint()
    }
}

impl<K, V> Drop for Drain<'_, K, V> {
    fn drop(&mut self) {
        struct Back<'a, 'b, K, V>(&'b mut Drain<'a, K, V>);
        impl<K, V> Drop for Back<'_, '_, K, V> {
            fn drop(&mut self) {
                let table = &mut self.0.rest.table.table;
                // SAFETY: the table is owned, and its entries are given out, dropped, or leak if a drop panicked.
                unsafe { Table::clear(table, Ordinary) };
                std::mem::swap(table, &mut self.0.map.table);
            }
        }
        let back = Back(self);
        for slot in back.0.rest.full.by_ref() {
            // SAFETY: the bucket is full, and dropped once.
            unsafe { slot.drop_in_place() }
        }
    }
}

/// Entries of an owned map that are looked at one by one, and may leave.
pub(crate) struct Extract<'a, K, V> {
    map: &'a mut PHashMap<K, V>,
    full: Full<Slot<K, V>>,
}

// SAFETY: it is an exclusive borrow of the map.
unsafe impl<K: Send, V: Send> Send for Extract<'_, K, V> {}
// SAFETY: it is an exclusive borrow of the map, and gives nothing out by a shared reference.
unsafe impl<K: Sync, V: Sync> Sync for Extract<'_, K, V> {}

impl<'a, K, V> Extract<'a, K, V> {
    pub(crate) fn new(map: &'a mut PHashMap<K, V>) -> Self {
        let full = map.table.full();
        Extract { map, full }
    }

    /// The next entry of which `leaves` says so, which is not in the map any more.
    pub(crate) fn next(&mut self, mut leaves: impl FnMut(&K, &mut V) -> bool) -> Option<(K, V)> {
        loop {
            let mut slot = self.full.next()?;
            // SAFETY: the bucket is full, looked at once, and emptied before its entry is handed out; the map is borrowed
            // exclusively.
            unsafe {
                let entry = slot.as_mut();
                if leaves(&entry.key, &mut entry.value) {
                    let table = &mut self.map.table;
                    let index = table.index_of(slot);
                    Table::erase(table, index, Ordinary);
                    let Slot { key, value } = slot.read();
                    return Some((key, value));
                }
            }
        }
    }
}

/// Entries of which a predicate said that they leave an owned map; see [`PHashMap::extract_if`].
pub struct ExtractIf<'a, K, V, F> {
    pub(super) entries: Extract<'a, K, V>,
    pub(super) leaves: F,
}

impl<K, V, F: FnMut(&K, &mut V) -> bool> Iterator for ExtractIf<'_, K, V, F> {
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        self.entries.next(&mut self.leaves)
    }
}

/// Keys of a map that is used up; see [`PHashMap::into_keys`].
pub struct IntoKeys<K, V>(pub(super) IntoIter<K, V>);

/// Values of a map that is used up; see [`PHashMap::into_values`].
pub struct IntoValues<K, V>(pub(super) IntoIter<K, V>);

/// Keys of a map; see [`PHashMap::keys`].
pub struct Keys<'a, K, V>(pub(super) Iter<'a, K, V>);

/// Values of a map; see [`PHashMap::values`].
pub struct Values<'a, K, V>(pub(super) Iter<'a, K, V>);

/// Values of an owned map, to be changed; see [`PHashMap::values_mut`].
pub struct ValuesMut<'a, K, V>(pub(super) IterMut<'a, K, V>);

/// One half of an iterator's entries.
macro_rules! half {
    ($([$($life:lifetime)?] $name:ident -> $item:ty, $part:tt;)*) => {$(
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
        }

        impl<$($life,)? K, V> ExactSizeIterator for $name<$($life,)? K, V> {}
        impl<$($life,)? K, V> FusedIterator for $name<$($life,)? K, V> {}
    )*};
}

half! {
    ['a] Keys -> &'a K, 0;
    ['a] Values -> &'a V, 1;
    ['a] ValuesMut -> &'a mut V, 1;
    [] IntoKeys -> K, 0;
    [] IntoValues -> V, 1;
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
impl<K, V> ExactSizeIterator for Drain<'_, K, V> {}
impl<K, V> FusedIterator for Iter<'_, K, V> {}
impl<K, V> FusedIterator for IterMut<'_, K, V> {}
impl<K, V> FusedIterator for IntoIter<K, V> {}
impl<K, V> FusedIterator for Drain<'_, K, V> {}
impl<K, V, F: FnMut(&K, &mut V) -> bool> FusedIterator for ExtractIf<'_, K, V, F> {}

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

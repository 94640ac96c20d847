//! Named roots: a block of [`NamedRoot`]s, to which the heap's root slot leads.
//!
//! It promises that a root is changed in one record, durable on return, and
//! that the block which grows is the old one or the new one at any instant. It
//! does not make durable what a root leads to.

#![allow(unsafe_code)]

use crate::core::{Core, Range};
use crate::error::{Failure, Result};
use bartender_heap::layout::NamedRoot;
use std::ptr::NonNull;

/// Roots that the first block holds.
const FIRST: usize = 16;

/// The block of named roots. While `Core::roots` is held.
#[derive(Clone, Copy)]
struct Table {
    start: NonNull<NamedRoot>,
    count: usize,
}

impl Table {
    fn get(&self, i: usize) -> NamedRoot {
        debug_assert!(i < self.count);
        // SAFETY: a block of `count`, of which any bytes are one; the lock is held.
        unsafe { self.start.add(i).read() }
    }

    fn put(&self, i: usize, root: NamedRoot) {
        debug_assert!(i < self.count);
        // SAFETY: as above.
        unsafe { self.start.add(i).write(root) };
    }

    fn find(&self, want: impl Fn(&NamedRoot) -> bool) -> Option<usize> {
        (0..self.count).find(|i| want(&self.get(*i)))
    }

    fn range(&self, i: usize) -> Range {
        // SAFETY: inside of the block.
        let start = unsafe { self.start.add(i) }.cast();
        let len = size_of::<NamedRoot>();
        Range { start, len }
    }
}

impl Core {
    fn table(&self) -> Result<Option<Table>> {
        let found = self.heap.root_table()?;
        Ok(found.map(|(start, count)| Table { start, count }))
    }

    /// The root `name`; null if there is none.
    pub(crate) fn root_get(&self, name: &[u8]) -> Result<*mut u8> {
        let _one = self.roots.lock();
        let Some(table) = self.table()? else {
            return Ok(std::ptr::null_mut());
        };
        let found = table.find(|root| root.is_used() && root.name() == name);
        let address = found.map_or(0, |i| table.get(i).address);
        Ok(std::ptr::with_exposed_provenance_mut(address as usize))
    }

    /// Sets the root `name`, or removes it if `to` is none.
    pub(crate) fn root_set(&self, name: &[u8], to: Option<NonNull<u8>>) -> Result<()> {
        let address = match to {
            None => 0,
            Some(to) => {
                self.heap.block_of(to)?;
                to.as_ptr().expose_provenance() as u64
            }
        };
        let wrong = || match name.len() {
            0 => Failure::invalid("a root without a name"),
            len => Failure::new(
                libc::ENAMETOOLONG,
                format!("a name of {len} bytes; at most {} fit", NamedRoot::MAX_NAME),
            ),
        };
        let root = NamedRoot::new(name, address).ok_or_else(wrong)?;
        let _one = self.roots.lock();
        let table = self.table()?;
        let at = |table: Table| table.find(|old| old.is_used() && old.name() == name);
        if to.is_none() {
            return match table.and_then(|table| Some((table, at(table)?))) {
                Some((table, i)) => self.replace(table, i, NamedRoot::NONE),
                None => Ok(()),
            };
        }
        let free = |table: Table| table.find(|old| !old.is_used());
        let place = table.and_then(|table| Some((table, at(table).or_else(|| free(table))?)));
        match place {
            Some((table, i)) => self.replace(table, i, root),
            None => self.grow(table, root),
        }
    }

    fn replace(&self, table: Table, i: usize, root: NamedRoot) -> Result<()> {
        let old = table.get(i);
        table.put(i, root);
        // SAFETY: the lock is held, and C does not know where this is.
        let done = unsafe { self.persist(&[table.range(i)]) };
        if done.is_err() {
            table.put(i, old);
        }
        done
    }

    /// A larger block with the old one's roots and `root`.
    fn grow(&self, old: Option<Table>, root: NamedRoot) -> Result<()> {
        let held = old.map_or(0, |old| old.count);
        let count = (2 * held).max(FIRST);
        let start = self.alloc(count * size_of::<NamedRoot>(), 64)?;
        let size = self.heap.usable_size(start)?;
        let table = Table {
            start: start.cast(),
            count: size / size_of::<NamedRoot>(),
        };
        for i in 0..table.count {
            let from = old.filter(|_| i < held).map(|old| old.get(i));
            table.put(i, from.unwrap_or(NamedRoot::NONE));
        }
        table.put(held, root);
        let slot = self
            .heap
            .region()
            .base()
            .wrapping_add(self.heap.root_slot() as usize);
        let slot = NonNull::new(slot)
            .expect("the view is not at address 0")
            .cast::<u64>();
        let to = start.as_ptr().expose_provenance() as u64;
        // SAFETY: a word of the heap's header, which nobody else changes.
        let before = unsafe { slot.replace(to) };
        let whole = Range { start, len: size };
        let link = Range {
            start: slot.cast(),
            len: 8,
        };
        // SAFETY: the lock is held, and C does not know where these are.
        let done = unsafe { self.persist(&[whole, link]) };
        let leave = match (&done, old) {
            (Ok(()), old) => old.map(|old| old.start.cast()),
            (Err(_), _) => {
                // SAFETY: as above.
                unsafe { slot.write(before) };
                Some(start)
            }
        };
        if let Some(leave) = leave {
            // SAFETY: nothing durable leads to it: the other one is linked, or
            // the region takes no more records.
            unsafe { self.free(leave) }?;
        }
        done
    }
}

//! How a [`PHashMap`] is described, and moves into the region and out of it: its block as it
//! is, byte by byte, for the hash function goes with it.

use super::{PHashMap, Slot};
use crate::persist::{Adopt, Evict, Persist, Release};
use crate::raw::table::Table;
use bartender_heap::types::{EntryLayout, Kind, SchemaBuilder, Type, TypeRef};
use std::ptr::NonNull;

// SAFETY: the layout is that of `RawTable`; the block moves whole, and each entry is queued once.
unsafe impl<K: Persist, V: Persist> Persist for PHashMap<K, V> {
    const HAS_POINTERS: bool = true;
    const HAS_LOCKS: bool = false;

    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let (key, value) = (K::describe(b), V::describe(b));
            let entry = EntryLayout::of::<K, V>();
            Type::of::<Self>("PHashMap", Kind::Map { key, value, entry })
        })
    }

    unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>) {
        // SAFETY: an owned map, whose block is ordinary memory of the layout it says.
        unsafe {
            let table = &mut (*this).table;
            let Some((owned, layout)) = table.block() else {
                return;
            };
            if table.len() == 0 {
                // Room that is not used would be lost in the region.
                table.free_owned();
                *table = Table::new(table.seed());
                return;
            }
            // The block goes as it is, and ordinary memory may hold what is nobody's business in the region.
            table.zero_vacant();
            table.set_block(a.move_block(owned, layout, layout.size()));
            for slot in table.full() {
                a.elements(slot.as_ptr(), 1);
            }
        }
    }

    unsafe fn evict(this: *mut Self, e: &mut Evict<'_>) {
        // SAFETY: a copy of a stored map, whose block has the layout it says.
        unsafe {
            let table = &mut (*this).table;
            let Some((stored, layout)) = table.block() else {
                return;
            };
            if !e.hold(table.full().map(NonNull::as_ptr)) {
                return;
            }
            table.set_block(e.move_block(stored, layout, layout.size()));
            for slot in table.full() {
                e.elements(slot.as_ptr(), 1);
            }
        }
    }

    unsafe fn release(this: *const Self, r: &mut Release<'_>) {
        // SAFETY: a stored map, whose block has the layout it says.
        unsafe {
            let table = &(*this).table;
            let Some((stored, _)) = table.block() else {
                return;
            };
            if Slot::<K, V>::HAS_POINTERS || Slot::<K, V>::HAS_LOCKS {
                for slot in table.full() {
                    r.elements(slot.as_ptr(), 1);
                }
            }
            r.tx().free(stored);
        }
    }

    unsafe fn for_each_lock(_this: *const Self, _f: &mut dyn FnMut(usize)) {}

    unsafe fn zero_padding(_this: *mut Self) {}
}

//! How a [`PHashMap`] is described, and moves into the region and out of it: its block as it
//! is, byte by byte, for the hash function goes with it. When values of a stored map change their type, each entry
//! keeps its bucket; when keys do, they are hashed anew, and no two may have become equal. (So a map asks of its keys
//! that they can be hashed, to be `Persist`.)

use super::{PHashMap, Slot};
use crate::error::Result;
use crate::persist::{Adopt, Evict, Import, Match, Persist, Release, matches};
use crate::raw::table::Table;
use bartender_heap::layout::RawTable;
use bartender_heap::types::{EntryLayout, Kind, SchemaBuilder, Type, TypeRef};
use std::hash::Hash;
use std::ptr::{self, NonNull};

// SAFETY: the layout is that of `RawTable`; the block moves whole, and each entry is queued once.
unsafe impl<K: Persist + Hash + Eq, V: Persist> Persist for PHashMap<K, V> {
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

    fn parts_match(m: &mut Match<'_>, ty: TypeRef) -> bool {
        parts_match::<K, V>(m, ty, "PHashMap")
    }

    unsafe fn import_parts(i: &mut Import<'_>, ty: TypeRef, at: *const u8) -> Result<Self> {
        let Kind::Map { key, value, entry } = i.kind(ty) else {
            return Err(i.refused::<Self>(ty));
        };
        let stays = i.stays::<K>(*key);
        // SAFETY: a stored map with entries of the stored layout.
        unsafe {
            let raw = at.cast::<RawTable>().read();
            if raw.mask == 0 {
                let table = Table::new(raw.seed);
                return Ok(PHashMap { table });
            }
            let mut map = match stays {
                true => PHashMap {
                    table: Table::like(&raw),
                },
                false => {
                    let table = Table::new(raw.seed);
                    let mut map = PHashMap { table };
                    map.reserve(raw.items as usize);
                    map
                }
            };
            let block: *mut u8 = ptr::with_exposed_provenance_mut(raw.ptr as usize);
            let buckets = raw.mask as usize + 1;
            let first = buckets + RawTable::GROUP as usize;
            let first = first.next_multiple_of(entry.align as usize);
            for bucket in (0..buckets).filter(|bucket| block.add(*bucket).read() < 0x80) {
                let at = block.add(first + bucket * entry.size as usize);
                let slot: Slot<K, V> = i.inside(|i| {
                    Ok(Slot {
                        key: i.value(*key, at)?,
                        value: i.value(*value, at.add(entry.value_offset as usize))?,
                    })
                })?;
                if stays {
                    map.table.fill(bucket, block.add(bucket).read(), slot);
                } else if map.insert(slot.key, slot.value).is_some() {
                    return Err(i.became_equal::<K>(*key));
                }
            }
            if stays {
                map.table.finish_like(&raw, block);
            }
            i.tx().free(NonNull::new_unchecked(block));
            Ok(map)
        }
    }
}

/// Whether the stored type `ty` is a table of this name, whose keys and values become those of the program.
pub(crate) fn parts_match<K: Persist, V: Persist>(
    m: &mut Match<'_>,
    ty: TypeRef,
    name: &str,
) -> bool {
    match m.kind(ty) {
        Kind::Map { key, value, .. } => {
            m.is_named(ty, name) && matches::<K>(m, *key) && matches::<V>(m, *value)
        }
        _ => false,
    }
}

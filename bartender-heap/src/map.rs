//! The unit map: which superblock a home offset lies in. DRAM only.
//!
//! It promises one load per look-up. Its pages come from the kernel when they
//! are first written, so a large maximum size costs address space only.

use crate::layout::{UNIT, UNIT_SHIFT};
use crate::superblock::{Ref, Superblock};
use bartender_pm::sync::atomic::{AtomicPtr, Ordering::*};
use std::ptr::{NonNull, null_mut};

/// One pointer for each unit of the home.
///
/// Slots are written under the global lock, when a superblock is born and when
/// it dies. Anyone reads them: whoever holds a block of a superblock got it
/// after its birth, and it does not die before the block is back; for any other
/// address the answer may be out of date, but names a descriptor (they are
/// type-stable).
pub(crate) struct UnitMap {
    slots: Box<[AtomicPtr<Superblock>]>,
}

impl UnitMap {
    /// A map of `units` units, all free.
    pub(crate) fn new(units: u64) -> Self {
        UnitMap {
            slots: zeroed(units as usize),
        }
    }

    /// The superblock at home offset `offset`; `None` if there is none, or it is outside.
    #[inline(always)]
    pub(crate) fn at(&self, offset: u64) -> Option<Ref> {
        let slot = self.slots.get((offset >> UNIT_SHIFT) as usize)?;
        // SAFETY: slots hold descriptors of the arena that the map belongs to.
        NonNull::new(slot.load(Acquire)).map(|superblock| unsafe { Ref::new(superblock) })
    }

    /// Whether `offset` lies in the home at all.
    pub(crate) fn covers(&self, offset: u64) -> bool {
        offset < self.slots.len() as u64 * UNIT
    }

    /// All units of `superblock` lead to it. Under the global lock.
    pub(crate) fn set(&self, superblock: Ref) {
        self.fill(superblock, superblock.as_ptr());
    }

    /// No unit of `superblock` leads to it. Under the global lock.
    pub(crate) fn clear(&self, superblock: Ref) {
        self.fill(superblock, null_mut());
    }

    fn fill(&self, superblock: Ref, value: *mut Superblock) {
        let first = superblock.unit() as usize;
        for slot in &self.slots[first..first + superblock.entry().units as usize] {
            slot.store(value, Release);
        }
    }
}

#[cfg(not(loom))]
fn zeroed(len: usize) -> Box<[AtomicPtr<Superblock>]> {
    use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
    let layout = Layout::array::<AtomicPtr<Superblock>>(len).expect("a map fits the address space");
    if len == 0 {
        return Box::default();
    }
    // SAFETY: not of size 0; a zeroed atomic pointer is a null one; and the box
    // frees with the same layout.
    unsafe {
        let start = alloc_zeroed(layout).cast::<AtomicPtr<Superblock>>();
        if start.is_null() {
            handle_alloc_error(layout);
        }
        Box::from_raw(std::ptr::slice_from_raw_parts_mut(start, len))
    }
}

#[cfg(loom)]
fn zeroed(len: usize) -> Box<[AtomicPtr<Superblock>]> {
    (0..len).map(|_| AtomicPtr::new(null_mut())).collect()
}

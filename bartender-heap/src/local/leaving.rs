//! Empty superblocks on their way from a thread to the global heap, and back.
//!
//! A thread that works in bursts empties many superblocks of a class and wants
//! them again at once. One by one each would cost the global lock twice, for
//! which such threads would wait. So what is wholly free leaves in groups: it
//! waits here, out of its class, until there are a few, or until the thread gets
//! something from the global heap anyway. Whoever takes superblocks in a row gets
//! a few at once too. Both are bounded by a constant for each thread.

use super::{Bin, Local};
use crate::layout::UNIT;
use crate::superblock::{Place, Ref};

/// Superblocks that wait at most. (loom: none, so that models see each go.)
const MOST: usize = if cfg!(loom) { 1 } else { 8 };
/// Units of them.
const MOST_UNITS: u64 = MOST as u64 * (64 << 10) / UNIT;
/// How many more superblocks a thread gets that asks again and again.
const MORE: usize = 3;

/// What waits.
pub(super) struct Leaving {
    superblocks: Vec<Ref>,
    units: u64,
}

impl Leaving {
    pub(super) const fn new() -> Self {
        Leaving {
            superblocks: Vec::new(),
            units: 0,
        }
    }

    /// For tests: what waits, no more than may.
    #[cfg(all(test, not(loom)))]
    pub(super) fn audit(&self) -> &[Ref] {
        assert!(self.superblocks.len() < MOST && self.units <= MOST_UNITS);
        let units = self.superblocks.iter().map(|one| one.units());
        assert_eq!(self.units, units.sum());
        &self.superblocks
    }

    fn take_all(&mut self, away: &mut Vec<Ref>) {
        for superblock in &self.superblocks {
            superblock.set_place(Place::Nowhere);
        }
        away.append(&mut self.superblocks);
        self.units = 0;
    }
}

impl Local {
    /// What `settle` returned is to go: what really goes now is added to `away`.
    ///
    /// # Safety
    /// Only by the thread that holds this heap, which owns `superblock`.
    pub(crate) unsafe fn leave(&self, superblock: Ref, away: &mut Vec<Ref>) {
        // SAFETY: as the caller says; it is in no list, so it is not handed out from.
        if unsafe { superblock.used() } != 0 {
            away.push(superblock);
            return;
        }
        superblock.set_place(Place::Leaving);
        self.leaving.with_mut(|leaving| {
            // SAFETY: the heap's thread.
            let leaving = unsafe { &mut *leaving };
            leaving.superblocks.push(superblock);
            leaving.units += superblock.units();
            if leaving.superblocks.len() >= MOST || leaving.units > MOST_UNITS {
                leaving.take_all(away);
            }
        });
    }

    /// A superblock of `class` that was to go, for `adopt`.
    ///
    /// # Safety
    /// Only by the thread that holds this heap.
    pub(crate) unsafe fn stay(&self, class: usize) -> Option<Ref> {
        self.leaving.with_mut(|leaving| {
            // SAFETY: the heap's thread.
            let leaving = unsafe { &mut *leaving };
            let of_class = |superblock: &Ref| superblock.class() == class;
            let at = leaving.superblocks.iter().rposition(of_class)?;
            let superblock = leaving.superblocks.swap_remove(at);
            leaving.units -= superblock.units();
            superblock.set_place(Place::Nowhere);
            Some(superblock)
        })
    }

    /// All that was to go goes to `away`.
    ///
    /// # Safety
    /// Only by the thread that holds this heap.
    pub(crate) unsafe fn leave_all(&self, away: &mut Vec<Ref>) {
        // SAFETY: the heap's thread.
        self.leaving
            .with_mut(|leaving| unsafe { (*leaving).take_all(away) });
    }

    /// How many superblocks of `class` more than one the thread gets, having asked
    /// so often since one had to go.
    ///
    /// # Safety
    /// Only by the thread that holds this heap.
    pub(crate) unsafe fn more(&self, class: usize) -> usize {
        // SAFETY: the heap's thread.
        self.bins
            .with(|bins| unsafe { (&(*bins))[class].got }.min(MORE))
    }

    /// Takes empty superblocks that are new in this heap, for later.
    ///
    /// # Safety
    /// Only by the thread that holds this heap and owns them; they are in no list.
    pub(crate) unsafe fn stock(&self, superblocks: &[Ref]) {
        self.bins.with_mut(|bins| {
            for superblock in superblocks {
                // SAFETY: the heap's thread, which owns it.
                unsafe {
                    let bin: &mut Bin = &mut (*bins)[superblock.class()];
                    bin.enter(*superblock);
                    bin.partial.push(*superblock);
                }
            }
        });
    }
}

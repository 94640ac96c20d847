//! Giving up what a thread has of classes that it does not use any more.
//!
//! The emptiness rule looks at a class when blocks of it are freed, and leaves a
//! class some slack and the superblock that it hands out from. For each class
//! that is little; a thread that has used many once would keep a superblock of
//! each, with nothing in it, for as long as it lives. So whenever a thread needs
//! one more superblock, it looks at a few of its other classes, in turn, and
//! gives up those that are wholly free: what it keeps of them is bounded by what
//! it has asked for lately, not by what it ever asked for.

use super::{Bin, Local};
use crate::class::CLASSES;
use crate::superblock::{Place, Ref};

/// Classes looked at for each superblock that the thread gets.
const LOOK: usize = 4;

impl Local {
    /// Takes wholly free superblocks of a few classes, but not of `class`, out to `away`.
    ///
    /// # Safety
    /// Only by the thread that holds this heap.
    #[cold]
    pub(crate) unsafe fn spare(&self, class: usize, away: &mut Vec<Ref>) {
        // SAFETY: as the caller says.
        unsafe { self.spare_some(class, LOOK, away) };
    }

    /// The same with all classes; `CLASSES` is none.
    ///
    /// # Safety
    /// As [`Self::spare`].
    #[cold]
    pub(crate) unsafe fn spare_all(&self, class: usize, away: &mut Vec<Ref>) {
        // SAFETY: as the caller says.
        unsafe { self.spare_some(class, CLASSES, away) };
    }

    unsafe fn spare_some(&self, class: usize, look: usize, away: &mut Vec<Ref>) {
        // SAFETY: the heap's thread, as for all that follows.
        let (mut at, mut held) = unsafe {
            let held = self.held.with(|held| *held);
            (self.spare_next.with(|next| *next), held & !(1 << class))
        };
        for _ in 0..look {
            let above = held >> at << at;
            let next = if above == 0 { held } else { above };
            if next == 0 {
                break;
            }
            let found = next.trailing_zeros() as usize;
            held &= !(1 << found);
            at = (found + 1) % CLASSES;
            self.bins.with_mut(|bins| {
                // SAFETY: as above, and what is in its lists is its own.
                unsafe {
                    let bin = &mut (*bins)[found];
                    bin.spare(away);
                    if bin.current.is_none() {
                        self.set_ready(found, self.nothing);
                    }
                    if bin.capacity == 0 {
                        self.held.with_mut(|held| *held &= !(1 << found));
                    }
                }
            });
        }
        // SAFETY: as above.
        self.spare_next.with_mut(|next| unsafe { *next = at });
    }
}

impl Bin {
    /// # Safety
    /// The caller owns what is in the class.
    unsafe fn spare(&mut self, away: &mut Vec<Ref>) {
        let first = away.len();
        // SAFETY: as the caller says.
        unsafe {
            if let Some(current) = self.current.take_if(|current| current.live() == 0) {
                current.rest();
                away.push(current);
            }
            let free: Vec<Ref> = self.partial.iter().filter(|one| one.used() == 0).collect();
            for superblock in free {
                self.partial.remove(superblock);
                away.push(superblock);
            }
            for superblock in &away[first..] {
                superblock.disarm();
                superblock.set_place(Place::Nowhere);
                // What it counted for, though mail about it may be on its way.
                self.used += superblock.count() - i64::from(superblock.used());
                self.capacity -= i64::from(superblock.blocks());
            }
        }
    }
}

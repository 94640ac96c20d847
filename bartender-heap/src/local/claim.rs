//! Superblocks that a thread takes over because it frees their blocks.
//!
//! A thread that ends leaves its superblocks to nobody, and its blocks mostly to
//! one other thread. Freed from afar each of them would cost what a message
//! costs. Instead the first free brings the superblock with it, as long as the
//! emptiness rule lets it stay there.

use super::{Bin, Local, SLACK};
use crate::class::{MAX_SMALL, TABLE};
use crate::superblock::Ref;

impl Local {
    /// Whether the emptiness rule leaves the heap what it has of `class`.
    ///
    /// # Safety
    /// Only by the thread that holds this heap.
    pub(crate) unsafe fn has_room(&self, class: usize) -> bool {
        // SAFETY: the heap's thread.
        self.bins
            .with(|bins| unsafe { (*bins).get(class).is_some_and(|bin| bin.keeps(class, 0, 0)) })
    }

    /// Whether it would leave it `superblock` too.
    ///
    /// # Safety
    /// Only by the thread that holds this heap, and for who owns `superblock`.
    pub(crate) unsafe fn fits(&self, superblock: Ref) -> bool {
        let class = superblock.class();
        let blocks = superblock.blocks().into();
        // SAFETY: the heap's thread, and the owner.
        self.bins.with(|bins| unsafe {
            (&(*bins))[class].keeps(class, superblock.used().into(), blocks)
        })
    }

    /// Takes a superblock that is new in this heap, and in use.
    ///
    /// # Safety
    /// Only by the thread that holds this heap and owns it; it is in no list.
    pub(crate) unsafe fn claim(&self, superblock: Ref) {
        let class = superblock.class();
        // SAFETY: the heap's thread, which owns it.
        unsafe {
            self.bins.with_mut(|bins| {
                let bin = &mut (*bins)[class];
                bin.enter(superblock);
                if superblock.used() < superblock.blocks() {
                    bin.partial.push(superblock);
                } else {
                    bin.full.push(superblock);
                }
                superblock.arm();
            });
            self.held.with_mut(|held| *held |= 1 << class);
        }
    }
}

impl Bin {
    /// The emptiness rule, by the slack of what is wholly free, with `blocks` more of
    /// which `used` are in use.
    fn keeps(&self, class: usize, used: i64, blocks: i64) -> bool {
        let class = &TABLE[class];
        let slack = SLACK[usize::from(class.size as usize > MAX_SMALL)];
        let (used, capacity) = (self.used + used, self.capacity + blocks);
        used + slack * i64::from(class.blocks) >= capacity || used * 4 >= capacity * 3
    }
}

//! What a thread still gets when the region has no room for another superblock.
//!
//! It promises a block wherever the thread's own heap or the global one has one
//! that is up to four times as long as asked for, and that what is wholly free in
//! both is room for any. It takes nothing from other threads: what those keep,
//! they have to themselves, without locks.

use super::{Arena, Got};
use crate::class::{CLASSES, TABLE};
use crate::error::Result;
use crate::home::Home;
use crate::local::Local;
use crate::superblock::Ref;

/// How many times longer than asked for a block may be.
const LONGER: u32 = 4;

impl Arena {
    /// A block for who asked for one of `class`, with its home offset, though there
    /// is no room for another superblock.
    ///
    /// # Safety
    /// By the thread that holds `local`, a heap of this arena.
    #[cold]
    pub(super) unsafe fn scarce(
        &self,
        local: &Local,
        class: usize,
        home: &dyn Home,
    ) -> Option<(Ref, u64)> {
        // SAFETY: as the caller says, also below; each superblock that is adopted
        // is new in `local`, whose `refill` has said that there was no other.
        unsafe {
            let new = |class| {
                let mut global = self.global.lock();
                global.superblock(class, local.mail(), &self.map, home).ok()
            };
            if self.give_up(local, class, home)
                && let Some(superblock) = new(class)
            {
                local.adopt(superblock, self.order());
                return local.alloc(class);
            }
            (class + 1..CLASSES)
                .take_while(|longer| TABLE[*longer].size <= LONGER * TABLE[class].size)
                // Whatever alignment made it `class`, this one has it too.
                .filter(|longer| {
                    TABLE[*longer].size.trailing_zeros() >= TABLE[class].size.trailing_zeros()
                })
                .find_map(|longer| {
                    if let Some(got) = local.alloc(longer) {
                        return Some(got);
                    }
                    if !local.refill(longer, self.order()) {
                        // There may be room for a shorter superblock of longer blocks.
                        let superblock = match TABLE[longer].units < TABLE[class].units {
                            true => new(longer),
                            false => self.global.lock().partial(longer, local.mail()),
                        };
                        local.adopt(superblock?, self.order());
                    }
                    local.alloc(longer)
                })
        }
    }

    /// As [`Self::alloc_large`]; and where there is no space, the thread gives up
    /// what it keeps of its own without need.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// By the thread that holds `local`, a heap of this arena.
    pub(crate) unsafe fn alloc_large_by(
        &self,
        local: &Local,
        size: usize,
        align: usize,
        home: &dyn Home,
    ) -> Result<Got> {
        self.alloc_large(size, align, home).or_else(|error| {
            let mail = local.has_mail();
            // SAFETY: as the caller says; there is no class of that number.
            let gave_up = unsafe {
                self.take_in(local, home);
                self.give_up(local, CLASSES, home)
            };
            match mail || gave_up {
                true => self.alloc_large(size, align, home),
                false => Err(error),
            }
        })
    }

    /// What is wholly free in `local`, but of `class`, goes to the global heap.
    /// Whether there was any.
    ///
    /// # Safety
    /// By the thread that holds `local`, a heap of this arena.
    unsafe fn give_up(&self, local: &Local, class: usize, home: &dyn Home) -> bool {
        let mut idle = Vec::new();
        // SAFETY: as the caller says.
        unsafe {
            local.spare_all(class, &mut idle);
            local.leave_all(&mut idle);
        }
        self.hand_over(&idle, home);
        !idle.is_empty()
    }
}

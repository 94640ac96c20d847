//! What a thread still gets when the region has no room for another superblock.
//!
//! It promises a block wherever the thread's own heap or the global one has one
//! that is up to four times as long as asked for. It takes nothing from other
//! threads: what those keep, they have to themselves, without locks.

use super::Arena;
use crate::class::{CLASSES, TABLE};
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
            let mut idle = Vec::new();
            local.spare_all(class, &mut idle);
            local.leave_all(&mut idle);
            if !idle.is_empty() {
                self.hand_over(&idle, home);
                let got = self
                    .global
                    .lock()
                    .superblock(class, local.mail(), &self.map, home);
                if let Ok(superblock) = got {
                    local.adopt(superblock, self.order());
                    return local.alloc(class);
                }
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
                        let partial = self.global.lock().partial(longer, local.mail());
                        local.adopt(partial?, self.order());
                    }
                    local.alloc(longer)
                })
        }
    }
}

//! Shared values that have lost their last owner: each is ended by a transaction that comes behind.
//!
//! What such a value owns may be shared in turn: then the next transaction ends that, and so on, in a loop.

use super::Core;
use crate::error::Error;
use crate::tx::Ended;
use bartender_pm::Durability;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

impl Core {
    /// These have no owner any more.
    #[cold]
    pub(super) fn note_ended(&self, ended: &mut Vec<Ended>) {
        self.ended().append(ended);
        self.any_ended.store(true, Ordering::Relaxed);
    }

    /// Whether any are left to be ended.
    #[inline]
    pub(crate) fn any_ended(&self) -> bool {
        self.any_ended.load(Ordering::Relaxed)
    }

    /// Ends all of them, unless somebody is at it. Where that fails they wait for the next time.
    #[cold]
    pub(crate) fn end_shared(&self) {
        // The transactions in here come back here, and find it locked.
        let Ok(_one) = self.ending.try_lock() else {
            return;
        };
        loop {
            let ended = {
                let mut all = self.ended();
                if all.is_empty() {
                    // Not before: what is taken here has still to be ended, and is neither reached nor free meanwhile.
                    self.any_ended.store(false, Ordering::Relaxed);
                    return;
                }
                std::mem::take(&mut *all)
            };
            // Nobody waits for it.
            let freed = self.run(true, Durability::Eventual, |tx| -> Result<(), Error> {
                ended.iter().try_for_each(|&Ended { block, end }| {
                    // SAFETY: a committed transaction took the count of its owners to 0, so nothing refers to it; `end` is for
                    // what it holds.
                    unsafe { end(tx, block.as_ptr()) }
                })
            });
            if freed.is_err() {
                self.note_ended(&mut { ended });
                return;
            }
        }
    }

    fn ended(&self) -> MutexGuard<'_, Vec<Ended>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

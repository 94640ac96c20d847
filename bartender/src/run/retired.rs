//! Versions that were replaced: their blocks are freed when no reader can look at them any more.
//!
//! Readers pin crossbeam-epoch's epoch before they look for a version. Blocks are handed over after the word has its new value; what
//! was deferred then runs when all that were pinned before are gone. It only says so: the blocks stay here, since
//! the heap may be closed by then, and are freed by the next transaction that comes by.

use super::Core;
use crate::tx::Context;
use crossbeam_epoch as epoch;
use std::mem;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Old versions of one transaction.
#[derive(Debug)]
struct Old {
    blocks: Vec<NonNull<u8>>,
    unseen: Arc<AtomicBool>,
}

/// All blocks that wait for readers.
#[derive(Debug, Default)]
pub(super) struct Retired {
    old: Mutex<Vec<Old>>,
    any: AtomicBool,
}

impl Retired {
    fn old(&self) -> MutexGuard<'_, Vec<Old>> {
        self.old.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Readers see what the transaction, whose record is durable, has put into place of old versions; those wait for readers that
    /// still look at them.
    ///
    /// The word's page may have been given back meanwhile (its record may be in the home already): then it is the home that is
    /// copied, and holds the same value.
    #[inline]
    pub(super) fn publish(&self, state: &mut Context) {
        if !state.published.is_empty() {
            self.publish_all(state);
        }
    }

    #[cold]
    fn publish_all(&self, state: &mut Context) {
        for published in &state.published {
            // SAFETY: a word in the view that this transaction has locked; others only read it, atomically.
            let word = unsafe { &*ptr::with_exposed_provenance::<AtomicU64>(published.addr) };
            // Release: the version's bytes come before.
            word.store(published.word, Ordering::Release);
        }
        let blocks = mem::take(&mut state.retired);
        if blocks.is_empty() {
            return;
        }
        let unseen = Arc::new(AtomicBool::new(false));
        let pin = epoch::pin();
        let told = unseen.clone();
        // Release: what readers did comes before the blocks are freed.
        pin.defer(move || told.store(true, Ordering::Release));
        pin.flush();
        let mut old = self.retired.old();
        old.push(Old { blocks, unseen });
        self.retired.any.store(true, Ordering::Relaxed);
    }

    /// Frees the blocks that no reader looks at any more.
    #[inline]
    pub(super) fn free_retired(&self) {
        if self.retired.any.load(Ordering::Relaxed) {
            self.free_unseen();
        }
    }

    #[cold]
    fn free_unseen(&self) {
        // Lets the epoch move on.
        epoch::pin().flush();
        let mut old = self.retired.old();
        old.retain(|old| {
            let unseen = old.unseen.load(Ordering::Acquire);
            if unseen {
                old.blocks.iter().for_each(|block| self.free(*block));
            }
            !unseen
        });
        self.retired.any.store(!old.is_empty(), Ordering::Relaxed);
    }

    /// Whether any blocks wait for readers.
    pub(crate) fn any_retired(&self) -> bool {
        self.retired.any.load(Ordering::Relaxed)
    }

    /// Frees all blocks of old versions, for who closes the heap: readers borrow it.
    pub(crate) fn end_retired(&self) {
        let mut old = self.retired.old();
        for old in old.drain(..) {
            old.blocks.iter().for_each(|block| self.free(*block));
        }
        self.retired.any.store(false, Ordering::Relaxed);
    }
}

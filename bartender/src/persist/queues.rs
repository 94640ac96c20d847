//! The work queues by which values move into the region ([`Adopt`]), out of it ([`Evict`]) and end
//! ([`Release`]).
//!
//! They never recurse, so a list of a million boxes moves in constant stack. On a failure the queue is worked
//! off all the same, without moving anything any more, so that it knows of every ordinary block that is left: those
//! are given back. What was on its way is forgotten by then. Of what was to move in, the region's blocks are given back as
//! well, and the transaction goes on; of what was to move out or end, half is unlinked already: it is doomed.

mod adopt;
mod evict;
mod release;

pub use adopt::Adopt;
pub use evict::Evict;
pub use release::Release;

use super::Persist;
use crate::error::{Error, Result};
use crate::tx::TxRef;
use std::alloc::{self, Layout};
use std::ptr::NonNull;

/// Values still to be worked on: `count` of them at `at`.
struct Task<Run> {
    at: *mut u8,
    count: usize,
    run: Run,
    /// What they own stays where it is, and is copied.
    copied: bool,
}

/// What the three queues have in common. `Run` works on the values of a task.
struct Queue<'a, Run> {
    tx: TxRef<'a>,
    tasks: Vec<Task<Run>>,
    error: Option<Error>,
    /// Ordinary blocks whose values are forgotten if there is an error.
    ordinary: Vec<(NonNull<u8>, Layout)>,
}

impl<'a, Run> Queue<'a, Run> {
    #[inline]
    fn new(tx: TxRef<'a>) -> Self {
        Queue {
            tx,
            tasks: Vec::new(),
            error: None,
            ordinary: Vec::new(),
        }
    }

    /// Queues what `count` values own, if their type can own anything.
    #[inline]
    fn push<T: Persist>(&mut self, at: *mut T, count: usize, run: Run, copied: bool) {
        if T::HAS_POINTERS && count != 0 {
            let at = at.cast();
            self.tasks.push(Task {
                at,
                count,
                run,
                copied,
            });
        }
    }

    /// Holds the locks in `count` values.
    ///
    /// # Safety
    ///
    /// They are valid and stored.
    unsafe fn hold<T: Persist>(&mut self, at: *const T, count: usize) {
        // SAFETY: the caller's promise.
        if let Err(error) = unsafe { hold_all(self.tx, at, count) } {
            self.error.get_or_insert(error);
        }
    }

    /// The end, when no task is left.
    #[inline]
    fn finish(self) -> Result<()> {
        debug_assert!(self.tasks.is_empty());
        match self.error {
            None => Ok(()),
            Some(error) => {
                for (block, layout) in self.ordinary {
                    // SAFETY: a block of the global allocator with this layout, whose values are forgotten.
                    unsafe { alloc::dealloc(block.as_ptr(), layout) };
                }
                Err(error)
            }
        }
    }

    /// [`finish`](Self::finish) where after an error the transaction cannot go on.
    #[inline]
    fn finish_or_doom(self) -> Result<()> {
        let tx = self.tx;
        self.finish().inspect_err(|error| tx.doom(error))
    }
}

impl<Run> std::fmt::Debug for Queue<'_, Run> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("tasks", &self.tasks.len())
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

/// Holds the locks in `count` values (rule 3 of the typed interface).
///
/// # Safety
///
/// They are valid and stored.
pub(crate) unsafe fn hold_all<T: Persist>(tx: TxRef<'_>, at: *const T, count: usize) -> Result<()> {
    let mut result = Ok(());
    if T::HAS_LOCKS {
        for i in 0..count {
            let mut hold = |addr| {
                if result.is_ok() {
                    result = tx.hold(addr);
                }
            };
            // SAFETY: the caller's promise.
            unsafe { T::for_each_lock(at.add(i), &mut hold) };
        }
    }
    result
}

impl TxRef<'_> {
    /// Holds the locks in the bytes of the stored value at `this` to the end of the transaction. To be called before
    /// the value is overwritten or copied out.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`]; the transaction is doomed then.
    ///
    /// # Safety
    ///
    /// `this` is a valid stored value.
    #[doc(hidden)]
    #[inline]
    pub unsafe fn hold_locks<T: Persist>(self, this: *const T) -> Result<()> {
        // SAFETY: passed on.
        unsafe { hold_all(self, this, 1) }
    }
}

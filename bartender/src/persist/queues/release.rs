//! [`Release`]: stored values end.

use super::{Persist, Queue};
use crate::error::Result;
use crate::tx::TxRef;
use std::ptr::NonNull;

type Run = unsafe fn(*mut u8, usize, &mut Release<'_>);

/// Blocks of the region that end with the transaction.
#[derive(Debug)]
pub struct Release<'a> {
    queue: Queue<'a, Run>,
}

impl<'a> Release<'a> {
    /// The transaction.
    pub fn tx(&self) -> TxRef<'a> {
        self.queue.tx
    }

    /// Frees, with the transaction, a block that holds `len` values and has room for `cap`, and queues what they
    /// own. Without bytes there is no block.
    ///
    /// # Safety
    ///
    /// `stored` is such a block, and `len <= cap`.
    pub unsafe fn block<T: Persist>(&mut self, stored: *const T, len: usize, cap: usize) {
        if size_of::<T>() == 0 || cap == 0 {
            return;
        }
        // SAFETY: the caller's promise; a stored pointer is not null.
        unsafe {
            self.elements(stored, len);
            let block = NonNull::new_unchecked(stored.cast_mut().cast());
            self.queue.tx.free(block);
        }
    }

    /// Queues what `count` stored values own.
    ///
    /// # Safety
    ///
    /// They are valid, and end with the transaction.
    pub unsafe fn elements<T: Persist>(&mut self, at: *const T, count: usize) {
        unsafe fn run<T: Persist>(at: *mut u8, count: usize, r: &mut Release<'_>) {
            for i in 0..count {
                // SAFETY: the queue's promise: `count` stored values lie at `at`.
                unsafe { T::release(at.cast::<T>().add(i), r) };
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.queue.hold(at, count) };
        self.queue.push(at.cast_mut(), count, run::<T>, false);
    }
}

impl TxRef<'_> {
    /// Frees, with the transaction, everything a stored value owns.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`](crate::Error::Conflict) when a lock inside cannot be held; the transaction is doomed then.
    ///
    /// # Safety
    ///
    /// `this` is a stored value (or a bitwise copy of one) that ends with the transaction.
    #[doc(hidden)]
    #[inline]
    pub unsafe fn release<T: Persist>(self, this: *const T) -> Result<()> {
        if !T::HAS_POINTERS {
            return Ok(());
        }
        let queue = Queue::new(self);
        let mut release = Release { queue };
        // SAFETY: passed on.
        unsafe { T::release(this, &mut release) };
        while let Some(task) = release.queue.tasks.pop() {
            // SAFETY: the values were queued by `elements` and are still there: frees are deferred.
            unsafe { (task.run)(task.at, task.count, &mut release) };
        }
        release.queue.finish_or_doom()
    }
}

//! [`Adopt`]: values move into the region.

use super::{Persist, Queue};
use crate::error::Result;
use crate::tx::TxRef;
use std::alloc::{self, Layout};
use std::ptr::{self, NonNull};

type Run = unsafe fn(*mut u8, usize, &mut Adopt<'_>);

/// Blocks on their way into the region.
///
/// When the region is full, blocks stay where they are: the values in them are still queued, so that everything is
/// found, and it all is given back in the end, in the region too.
#[derive(Debug)]
pub struct Adopt<'a> {
    queue: Queue<'a, Run>,
}

impl<'a> Adopt<'a> {
    /// The transaction.
    pub fn tx(&self) -> TxRef<'a> {
        self.queue.tx
    }

    /// Moves an ordinary block (of the global allocator, layout `Layout::array::<T>(cap)`) that holds `len` owned
    /// values into a new block of the region, gives the ordinary one back, and queues what the values own.
    /// Returns where the values are now. Without bytes (`cap` 0 or a zero-sized `T`) there is no block: the result
    /// dangles.
    ///
    /// # Safety
    ///
    /// `owned` is such a block, and `len <= cap`.
    pub unsafe fn move_in<T: Persist>(
        &mut self,
        owned: *mut T,
        len: usize,
        cap: usize,
    ) -> NonNull<T> {
        let layout = Layout::array::<T>(cap).expect("the ordinary block has this layout");
        if layout.size() == 0 {
            return NonNull::dangling();
        }
        // SAFETY: passed on; the values have moved to the block that is returned.
        unsafe {
            let owned = NonNull::new_unchecked(owned.cast());
            let block = self.move_block(owned, layout, len * size_of::<T>());
            let values = block.cast::<T>();
            self.elements(values.as_ptr(), len);
            values
        }
    }

    /// Moves the first `used` bytes of an ordinary block (of the global allocator, with this layout) into a new block of
    /// the region and gives the ordinary one back. Returns where the bytes are now.
    ///
    /// # Safety
    ///
    /// `owned` is such a block; `layout` has a size, `used` is not above it; the bytes' values are moved.
    pub(crate) unsafe fn move_block(
        &mut self,
        owned: NonNull<u8>,
        layout: Layout,
        used: usize,
    ) -> NonNull<u8> {
        let queue = &mut self.queue;
        if queue.error.is_none() {
            match queue.tx.alloc(layout) {
                Ok(stored) => {
                    // SAFETY: both blocks have room; the ordinary one ends here; the new one is this transaction's own.
                    unsafe {
                        ptr::copy_nonoverlapping(owned.as_ptr(), stored.as_ptr(), used);
                        alloc::dealloc(owned.as_ptr(), layout);
                        queue.tx.wrote(stored.as_ptr(), used);
                    }
                    return stored;
                }
                Err(error) => queue.error = Some(error),
            }
        }
        queue.ordinary.push((owned, layout));
        owned
    }

    /// Zeroes the padding of `count` owned values that lie at their place in the region, holds the locks in them (a reference
    /// to what is not committed yet may get to another thread), and queues what they own.
    ///
    /// # Safety
    ///
    /// They are valid, and lie where `move_in` or `move_block` has put them.
    pub unsafe fn elements<T: Persist>(&mut self, at: *mut T, count: usize) {
        unsafe fn run<T: Persist>(at: *mut u8, count: usize, a: &mut Adopt<'_>) {
            for i in 0..count {
                // SAFETY: the queue's promise: `count` owned values lie at `at`.
                unsafe { T::adopt(at.cast::<T>().add(i), a) };
            }
        }
        for i in 0..count {
            // SAFETY: the caller's promise.
            unsafe { T::zero_padding(at.add(i)) };
        }
        // Else they have not moved.
        if self.queue.error.is_none() {
            // SAFETY: they lie there, stored.
            unsafe { self.queue.hold(at, count) };
        }
        self.queue.push(at, count, run::<T>, false);
    }
}

impl TxRef<'_> {
    /// Makes an owned value ready to be moved (bitwise) into the region: everything it owns is there afterwards, its
    /// padding is zero. If this fails, what the value owned is gone: forget it. In the region nothing has changed.
    ///
    /// # Errors
    ///
    /// The region is full, or the disk is. [`Error::Conflict`](crate::Error::Conflict): the transaction is doomed then.
    ///
    /// # Safety
    ///
    /// `this` is a valid owned value. It may lie at its final place already or not.
    #[doc(hidden)]
    #[inline]
    pub unsafe fn adopt<T: Persist>(self, this: *mut T) -> Result<()> {
        // SAFETY: passed on.
        unsafe { T::zero_padding(this) };
        if !T::HAS_POINTERS {
            return Ok(());
        }
        let adopt = || {
            let queue = Queue::new(self);
            let mut adopt = Adopt { queue };
            // SAFETY: passed on.
            unsafe { T::adopt(this, &mut adopt) };
            while let Some(task) = adopt.queue.tasks.pop() {
                // SAFETY: the values were queued by `elements` and not moved since.
                unsafe { (task.run)(task.at, task.count, &mut adopt) };
            }
            adopt.queue.finish()
        };
        // SAFETY: blocks are made and filled; the value that refers to them is forgotten if that fails.
        unsafe { self.making(adopt) }
    }
}

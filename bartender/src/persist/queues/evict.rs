//! [`Evict`]: values move out of the region. What has owners that stay is copied.

use super::{Persist, Queue};
use crate::error::{Error, Result};
use crate::tx::TxRef;
use std::alloc::{self, Layout};
use std::ptr::{self, NonNull};

type Run = unsafe fn(*mut u8, usize, &mut Evict<'_>);

/// Blocks on their way out of the region.
#[derive(Debug)]
pub struct Evict<'a> {
    queue: Queue<'a, Run>,
    /// Blocks are copied, and stay.
    copying: bool,
}

impl<'a> Evict<'a> {
    /// The transaction.
    pub fn tx(&self) -> TxRef<'a> {
        self.queue.tx
    }

    /// Copies a block of the region that holds `len` values into an ordinary one (of the global allocator, layout
    /// `Layout::array::<T>(cap)`), frees the stored one with the transaction, and queues what the values own.
    /// Returns where the copies are. Without bytes there is no block: the result dangles.
    ///
    /// # Safety
    ///
    /// `stored` is such a block, and `len <= cap`.
    pub unsafe fn move_out<T: Persist>(
        &mut self,
        stored: *mut T,
        len: usize,
        cap: usize,
    ) -> NonNull<T> {
        let layout = Layout::array::<T>(cap).expect("the stored block has this layout");
        if layout.size() == 0 {
            return NonNull::dangling();
        }
        // SAFETY: the caller's promise; a stored pointer is not null.
        unsafe {
            let block = NonNull::new_unchecked(stored);
            if !self.hold((0..len).map(|i| stored.add(i))) {
                return block;
            }
            let block = self.move_block(block.cast(), layout, len * size_of::<T>());
            self.elements(block.cast::<T>().as_ptr(), len);
            block.cast()
        }
    }

    /// Whether the stored values stay where they are, since others own them, too.
    pub(crate) fn is_copying(&self) -> bool {
        self.copying
    }

    /// Copies a block of the region that holds one value into an ordinary one, with everything that the value owns; all of
    /// it stays as it is. Fails ([`Error::SharedCells`]) if there are locks in it, or other things that change by themselves.
    ///
    /// # Safety
    ///
    /// `stored` is such a block; its value has a size, and nobody changes it before the queue is done.
    pub(crate) unsafe fn copy_out<T: Persist>(&mut self, stored: *mut T) -> NonNull<T> {
        let before = std::mem::replace(&mut self.copying, true);
        // SAFETY: passed on.
        let copy = unsafe { self.move_out(stored, 1, 1) };
        self.copying = before;
        copy
    }

    /// Copies the first `used` bytes of a block of the region into an ordinary one with this layout, and frees the
    /// stored one with the transaction.
    ///
    /// # Safety
    ///
    /// `stored` is such a block; `layout` has a size, `used` is not above it; the locks in the values are
    /// [held](Self::hold).
    pub(crate) unsafe fn move_block(
        &mut self,
        stored: NonNull<u8>,
        layout: Layout,
        used: usize,
    ) -> NonNull<u8> {
        // SAFETY: the layout has a size.
        let Some(block) = NonNull::new(unsafe { alloc::alloc(layout) }) else {
            alloc::handle_alloc_error(layout)
        };
        // SAFETY: both blocks have room; the stored one is freed once.
        unsafe {
            ptr::copy_nonoverlapping(stored.as_ptr(), block.as_ptr(), used);
            if !self.copying {
                self.queue.tx.free(stored);
            }
        }
        self.queue.ordinary.push((block, layout));
        block
    }

    /// Holds the locks inside stored values before they are copied out; `false` if that failed, now or before: then
    /// everything stays where it is, and the copy will be forgotten.
    ///
    /// # Safety
    ///
    /// They are valid and stored.
    pub(crate) unsafe fn hold<T: Persist>(&mut self, values: impl Iterator<Item = *mut T>) -> bool {
        if T::HAS_LOCKS {
            for value in values {
                let mut cells = false;
                // SAFETY: the caller's promise.
                unsafe {
                    match self.copying {
                        false => self.queue.hold(value, 1),
                        true => T::for_each_lock(value, &mut |_| cells = true),
                    }
                }
                if cells {
                    self.queue.error.get_or_insert(Error::SharedCells);
                }
            }
        }
        self.queue.error.is_none()
    }

    /// Queues what `count` values own.
    ///
    /// # Safety
    ///
    /// They are copies of stored values whose locks are held, and stay at their place until the queue is done.
    pub(crate) unsafe fn elements<T: Persist>(&mut self, at: *mut T, count: usize) {
        unsafe fn run<T: Persist>(at: *mut u8, count: usize, e: &mut Evict<'_>) {
            for i in 0..count {
                // SAFETY: the queue's promise: copies of `count` stored values lie at `at`.
                unsafe { T::evict(at.cast::<T>().add(i), e) };
            }
        }
        self.queue.push(at, count, run::<T>, self.copying);
    }
}

impl TxRef<'_> {
    /// Makes a bitwise copy of a stored value an owned one. If this fails the transaction is doomed and the copy must
    /// be forgotten.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when a lock inside cannot be held; [`Error::SharedCells`].
    ///
    /// # Safety
    ///
    /// `this` is such a copy, in ordinary memory, and the transaction overwrites the original.
    #[doc(hidden)]
    #[inline]
    pub unsafe fn evict<T: Persist>(self, this: *mut T) -> Result<()> {
        if !T::HAS_POINTERS {
            return Ok(());
        }
        let queue = Queue::new(self);
        let mut evict = Evict {
            queue,
            copying: false,
        };
        // SAFETY: passed on.
        unsafe { T::evict(this, &mut evict) };
        while let Some(task) = evict.queue.tasks.pop() {
            evict.copying = task.copied;
            // SAFETY: the values were queued by `elements` and not moved since.
            unsafe { (task.run)(task.at, task.count, &mut evict) };
        }
        evict.queue.finish_or_doom()
    }
}

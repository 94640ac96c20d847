//! The work queues by which values move into the region ([`Adopt`]), out of it ([`Evict`]) and end
//! ([`Release`]).
//!
//! They never recurse, so a list of a million boxes moves in constant stack. On a failure the transaction is
//! doomed, and what was on its way is forgotten: ordinary memory may leak then, the region's never does.

use super::Persist;
use crate::error::{Error, Result};
use crate::tx::TxRef;
use std::alloc::{self, Layout};
use std::mem;
use std::ptr::{self, NonNull};

/// Values still to be worked on: `count` of them at `at`.
struct Task<Run> {
    at: *mut u8,
    count: usize,
    run: Run,
}

type AdoptRun = unsafe fn(*mut u8, usize, &mut Adopt<'_>) -> Result<()>;
type EvictRun = unsafe fn(*mut u8, usize, &mut Evict<'_>);
type ReleaseRun = unsafe fn(*mut u8, usize, &mut Release<'_>);

/// Blocks on their way into the region.
pub struct Adopt<'a> {
    tx: TxRef<'a>,
    tasks: Vec<Task<AdoptRun>>,
}

/// Blocks on their way out of the region.
pub struct Evict<'a> {
    tx: TxRef<'a>,
    tasks: Vec<Task<EvictRun>>,
    error: Option<Error>,
}

/// Blocks of the region that end with the transaction.
pub struct Release<'a> {
    tx: TxRef<'a>,
    tasks: Vec<Task<ReleaseRun>>,
    error: Option<Error>,
}

impl<'a> Adopt<'a> {
    /// The transaction.
    pub fn tx(&self) -> TxRef<'a> {
        self.tx
    }

    /// Moves an ordinary block (of the global allocator, layout `Layout::array::<T>(cap)`) that holds `len` owned
    /// values into a new block of the region, gives the ordinary one back, and queues what the values own.
    /// Without bytes (`cap` 0 or a zero-sized `T`) there is no block: the result dangles.
    ///
    /// # Errors
    ///
    /// The region is full: the ordinary block is as it was.
    ///
    /// # Safety
    ///
    /// `owned` is such a block, and `len <= cap`.
    pub unsafe fn move_in<T: Persist>(
        &mut self,
        owned: *mut T,
        len: usize,
        cap: usize,
    ) -> Result<NonNull<T>> {
        let layout = Layout::array::<T>(cap).expect("the ordinary block has this layout");
        if layout.size() == 0 {
            return Ok(NonNull::dangling());
        }
        let stored = self.tx.alloc(layout)?.cast::<T>();
        // SAFETY: both blocks have room for `len` values; the ordinary one ends here, its values are
        // moved; the new block is this transaction's own.
        unsafe {
            ptr::copy_nonoverlapping(owned, stored.as_ptr(), len);
            alloc::dealloc(owned.cast(), layout);
            self.tx.wrote(stored.as_ptr().cast(), len * size_of::<T>());
            self.elements(stored.as_ptr(), len);
        }
        Ok(stored)
    }

    /// Zeroes the padding of `count` owned values that lie at their place in the region, and queues what they own.
    ///
    /// # Safety
    ///
    /// They are valid, and lie in a new block of this transaction.
    pub unsafe fn elements<T: Persist>(&mut self, at: *mut T, count: usize) {
        unsafe fn run<T: Persist>(at: *mut u8, count: usize, a: &mut Adopt<'_>) -> Result<()> {
            for i in 0..count {
                // SAFETY: the queue's promise: `count` owned values lie at `at`.
                unsafe { T::adopt(at.cast::<T>().add(i), a)? };
            }
            Ok(())
        }
        for i in 0..count {
            // SAFETY: the caller's promise.
            unsafe { T::zero_padding(at.add(i)) };
        }
        if T::HAS_POINTERS && count != 0 {
            self.tasks.push(Task {
                at: at.cast(),
                count,
                run: run::<T>,
            });
        }
    }
}

impl<'a> Evict<'a> {
    /// The transaction.
    pub fn tx(&self) -> TxRef<'a> {
        self.tx
    }

    /// Copies a block of the region that holds `len` values into an ordinary one (of the global allocator, layout
    /// `Layout::array::<T>(cap)`), frees the stored one with the transaction, and queues what the values own.
    /// Without bytes there is no block: the result dangles.
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
        // SAFETY: the caller's promise.
        if !unsafe { self.hold((0..len).map(|i| stored.add(i))) } {
            return NonNull::dangling();
        }
        // SAFETY: the layout has a size.
        let block = unsafe { alloc::alloc(layout) }.cast::<T>();
        let Some(block) = NonNull::new(block) else {
            alloc::handle_alloc_error(layout)
        };
        // SAFETY: both blocks have room for `len` values; the stored one is freed once.
        unsafe {
            ptr::copy_nonoverlapping(stored, block.as_ptr(), len);
            self.tx.free(NonNull::new_unchecked(stored.cast()));
            self.elements(block.as_ptr(), len);
        }
        block
    }
}

impl Evict<'_> {
    /// Holds the locks inside stored values before they are copied out; `false` if that failed, now or before: then
    /// everything stays where it is, and the copy will be forgotten.
    ///
    /// # Safety
    ///
    /// They are valid and stored.
    pub(crate) unsafe fn hold<T: Persist>(&mut self, values: impl Iterator<Item = *mut T>) -> bool {
        if T::HAS_LOCKS {
            for value in values {
                // SAFETY: the caller's promise.
                if let Err(error) = unsafe { hold_all(self.tx, value, 1) } {
                    self.error.get_or_insert(error);
                }
            }
        }
        self.error.is_none()
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
        if T::HAS_POINTERS && count != 0 {
            self.tasks.push(Task {
                at: at.cast(),
                count,
                run: run::<T>,
            });
        }
    }
}

impl<'a> Release<'a> {
    /// The transaction.
    pub fn tx(&self) -> TxRef<'a> {
        self.tx
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
            self.tx
                .free(NonNull::new_unchecked(stored.cast_mut().cast()));
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
        if let Err(error) = unsafe { hold_all(self.tx, at, count) } {
            self.error.get_or_insert(error);
        }
        if T::HAS_POINTERS && count != 0 {
            self.tasks.push(Task {
                at: at.cast_mut().cast(),
                count,
                run: run::<T>,
            });
        }
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
    /// Makes an owned value ready to be moved (bitwise) into the region: everything it owns is there afterwards, its
    /// padding is zero. If this fails the transaction is doomed and the value is in between: forget it.
    ///
    /// # Errors
    ///
    /// The region is full.
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
        let mut queue = Adopt {
            tx: self,
            tasks: Vec::new(),
        };
        // SAFETY: passed on.
        let mut result = unsafe { T::adopt(this, &mut queue) };
        while let (Ok(()), Some(task)) = (&result, queue.tasks.pop()) {
            // SAFETY: the values were queued by `elements` and not moved since.
            result = unsafe { (task.run)(task.at, task.count, &mut queue) };
        }
        if let Err(error) = &result {
            self.doom(error);
        }
        result
    }

    /// Makes a bitwise copy of a stored value an owned one. If this fails the transaction is doomed and the copy must
    /// be forgotten.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when a lock inside cannot be held.
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
        let mut queue = Evict {
            tx: self,
            tasks: Vec::new(),
            error: None,
        };
        // SAFETY: passed on.
        unsafe { T::evict(this, &mut queue) };
        while let Some(task) = queue.tasks.pop() {
            // SAFETY: the values were queued by `move_out` and not moved since.
            unsafe { (task.run)(task.at, task.count, &mut queue) };
        }
        match mem::take(&mut queue.error) {
            Some(error) => {
                self.doom(&error);
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// Frees, with the transaction, everything a stored value owns.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when a lock inside cannot be held; the transaction is doomed then.
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
        let mut queue = Release {
            tx: self,
            tasks: Vec::new(),
            error: None,
        };
        // SAFETY: passed on.
        unsafe { T::release(this, &mut queue) };
        while let Some(task) = queue.tasks.pop() {
            // SAFETY: the values were queued by `elements` and are still there: frees are deferred.
            unsafe { (task.run)(task.at, task.count, &mut queue) };
        }
        match mem::take(&mut queue.error) {
            Some(error) => {
                self.doom(&error);
                Err(error)
            }
            None => Ok(()),
        }
    }

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

impl std::fmt::Debug for Adopt<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adopt")
            .field("tasks", &self.tasks.len())
            .finish()
    }
}

impl std::fmt::Debug for Evict<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evict")
            .field("tasks", &self.tasks.len())
            .finish()
    }
}

impl std::fmt::Debug for Release<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Release")
            .field("tasks", &self.tasks.len())
            .finish()
    }
}

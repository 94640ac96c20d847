//! The transaction as stored values see it: [`TxRef`], a handle on the running transaction's context.
//!
//! Whoever changes a stored byte calls [`TxRef::change`] (or [`TxRef::wrote`]) *before* the store;
//! blocks come from [`TxRef::alloc`] and go by [`TxRef::free`]. The context is one per thread and
//! depth of nesting over different heaps, and is reused, so a small transaction allocates no memory.
//! What begins, commits and takes back is in [`crate::run`].

use crate::changes::Changes;
use crate::error::{Error, Result};
use std::alloc::Layout;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// Why a transaction can no longer commit.
#[derive(Debug)]
pub(crate) enum Doom {
    /// A lock could not be waited for.
    Conflict,
    /// An inner call or an adoption failed.
    Failed(String),
}

/// Everything a running transaction needs to know of itself. Only its own thread touches it.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) changes: Changes,
    pub(crate) doom: Option<Doom>,
}

impl Context {
    /// Dooms the transaction; the first reason stays.
    pub(crate) fn doom(&mut self, doom: Doom) {
        self.doom.get_or_insert(doom);
    }
}

/// The running transaction. Copies are all the same one; none outlives the closure it runs.
///
/// Programs use [`Tx`](crate::Tx) and [`Mut`](crate::Mut); this is what persistent types are built on.
#[derive(Debug)]
pub struct TxRef<'tx> {
    /// Valid during `'tx`, and used by this thread only (`NonNull` is `!Send`). Fields are borrowed
    /// for the length of one method, and no method calls foreign code while it holds one.
    pub(crate) context: NonNull<Context>,
    pub(crate) life: PhantomData<&'tx ()>,
}

impl Clone for TxRef<'_> {
    fn clone(&self) -> Self {
        *self
    }
}

impl Copy for TxRef<'_> {}

impl PartialEq for TxRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.context == other.context
    }
}

impl TxRef<'_> {
    /// The context, for as long as one method takes.
    #[inline]
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn context(&self) -> &mut Context {
        // SAFETY: valid and of this thread only (see the field); callers keep the borrow within one
        // method of this crate and call nothing that takes another.
        unsafe { &mut *self.context.as_ptr() }
    }

    /// Keeps the `len` bytes at `ptr` for an abort and logs, at the commit, what stands there then.
    /// Called before the store. Costs a copy; places changed again and again are kept once.
    ///
    /// # Safety
    ///
    /// The bytes lie in the region of this transaction, which alone may write them until it ends.
    #[doc(hidden)]
    #[inline]
    pub unsafe fn change(self, ptr: *mut u8, len: usize) {
        // SAFETY: passed on.
        unsafe { self.context().changes.change(ptr, len) };
    }

    /// Logs, at the commit, what stands at `ptr` then, without keeping the old bytes: for places that nobody
    /// can see if the transaction aborts (its new blocks, the slack of a vector).
    ///
    /// # Safety
    ///
    /// As for [`change`](Self::change).
    #[doc(hidden)]
    #[inline]
    pub unsafe fn wrote(self, ptr: *mut u8, len: usize) {
        self.context().changes.wrote(ptr.addr(), len);
    }

    /// A block of the region, taken back if the transaction aborts. Its bytes are arbitrary.
    ///
    /// # Errors
    ///
    /// The region is full, or the disk is.
    #[doc(hidden)]
    pub fn alloc(self, layout: Layout) -> Result<NonNull<u8>> {
        let _ = layout;
        todo!()
    }

    /// Gives a block back once the transaction is durable; nothing happens if it aborts.
    ///
    /// # Safety
    ///
    /// A block of the region that nothing stored will refer to when the transaction has committed.
    #[doc(hidden)]
    pub unsafe fn free(self, ptr: NonNull<u8>) {
        let _ = ptr;
        todo!()
    }

    /// Holds the lock at `addr` to the end of the transaction (it may hold it already).
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`]; the transaction is doomed then.
    #[doc(hidden)]
    pub fn hold(self, addr: usize) -> Result<()> {
        let _ = addr;
        Err(Error::Conflict)
    }

    /// Makes the transaction unable to commit.
    #[doc(hidden)]
    pub fn doom(self, cause: &Error) {
        self.context().doom(match cause {
            Error::Conflict => Doom::Conflict,
            other => Doom::Failed(other.to_string()),
        });
    }
}

//! [`Tx`]: a running transaction, as a closure gets it.

use crate::error::Result;
use crate::lock::{self, Lock, PRwLock};
use crate::mutref::Mut;
use crate::tx::TxRef;

/// A running transaction. Everything that is changed through it becomes durable when its closure has returned `Ok`, or
/// never happened.
#[derive(Debug)]
pub struct Tx<'tx> {
    inner: TxRef<'tx>,
}

impl<'tx> Tx<'tx> {
    pub(crate) fn new(inner: TxRef<'tx>) -> Self {
        Tx { inner }
    }

    /// Locks a [`PMutex`](crate::PMutex) or [`PRwLock`] of this heap to change what is inside; it stays locked until
    /// the transaction has ended.
    ///
    /// # Errors
    ///
    /// - [`Error::Conflict`](crate::Error::Conflict) when waiting could be a deadlock. Return it:
    ///   [`transaction`](crate::Heap::transaction) tries again.
    /// - [`Error::ForeignLock`](crate::Error::ForeignLock): the lock is not in this heap.
    /// - [`Error::AlreadyLocked`](crate::Error::AlreadyLocked): by this transaction, or by a guard of this thread.
    #[inline]
    pub fn lock<'t, L: Lock>(&'t self, lock: &'t L) -> Result<Mut<'t, L::Target>> {
        lock::lock(lock, self.inner)
    }

    /// Shares a lock of this heap with other readers until the transaction has ended.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    pub fn read<'t, T: crate::Persist>(&'t self, lock: &'t PRwLock<T>) -> Result<&'t T> {
        lock::share(lock, self.inner)
    }
}

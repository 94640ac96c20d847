//! [`Tx`]: a running transaction, as a closure gets it.

use crate::error::{Error, Result};
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

    #[inline]
    pub(crate) fn inner(&self) -> TxRef<'tx> {
        self.inner
    }

    /// Locks a [`PMutex`](crate::PMutex) or [`PRwLock`] of this heap to change what is inside; it stays locked until
    /// the transaction has ended.
    ///
    /// # Errors
    ///
    /// - [`Error::Conflict`](crate::Error::Conflict) when waiting could be a deadlock. Return it:
    ///   [`transaction`](crate::Heap::transaction) tries again.
    /// - [`Error::ForeignLock`](crate::Error::ForeignLock): the lock is not in this heap.
    /// - [`Error::AlreadyLocked`](crate::Error::AlreadyLocked): by this transaction, also if the [`Mut`] is gone, or by a guard
    ///   of this thread.
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

    /// Runs `f` as a part of the transaction that is taken back by itself when it returns `Err` or panics: what it
    /// changed, allocated, freed and moved is as before, and the transaction goes on. Savepoints nest.
    ///
    /// Locks that were taken inside stay held. Before and after a savepoint there is no [`Mut`] left, so a lock that
    /// the transaction holds can be [locked](Self::lock) again inside, and again behind it.
    ///
    /// A [`Moved`](crate::Moved) that was taken inside is worthless when the savepoint has failed. One that came in
    /// and was attached is the transaction's again, without a ticket: it is freed at the commit.
    ///
    /// Cost: none of its own, but a place that was changed before and is changed again inside is kept twice.
    ///
    /// # Errors
    ///
    /// What `f` returned. [`Error::Doomed`] when `f` returned `Ok` after something inside that can only
    /// abort (an inner call that failed, a [`Moved`](crate::Moved) that found no place): that is taken back with the rest,
    /// and the transaction is doomed no more. After [`Error::Conflict`] it is: return the error. [`Error::NotInnermost`] when another heap's transaction runs inside
    /// of this one, and in a call that joined an outer transaction.
    ///
    /// ```
    /// # use bartender::{Error, Heap, PMutex, PVec};
    /// # fn main() -> Result<(), Error> {
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let path = folder.path().join("r");
    /// let heap = Heap::<PMutex<PVec<u64>>>::options().max_size(1 << 30).open(path)?;
    /// heap.transaction(|tx| {
    ///     for line in ["1 2 3", "4 five", "6"] {
    ///         let added = tx.savepoint(|tx| {
    ///             let mut numbers = tx.lock(heap.root())?;
    ///             line.split(' ').try_for_each(|word| {
    ///                 numbers.push(word.parse().map_err(Error::abort)?)
    ///             })
    ///         });
    ///         if let Err(Error::Aborted(reason)) = added {
    ///             eprintln!("{line}: {reason}"); // the line's 4 is not there either
    ///         } else {
    ///             added?;
    ///         }
    ///     }
    ///     Ok(())
    /// })?;
    /// assert_eq!(heap.read()[..], [1, 2, 3, 6]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn savepoint<A>(&mut self, f: impl FnOnce(&mut Tx<'_>) -> Result<A>) -> Result<A> {
        self.try_savepoint(f)
    }

    /// [`savepoint`](Self::savepoint) for closures with errors of their own.
    ///
    /// # Errors
    ///
    /// As [`savepoint`](Self::savepoint).
    pub fn try_savepoint<A, E: From<Error>>(
        &mut self,
        f: impl FnOnce(&mut Tx<'_>) -> Result<A, E>,
    ) -> Result<A, E> {
        // SAFETY: every `Mut` and reference of this transaction borrows the `Tx` it was got from. This one is borrowed
        // mutably, and there is no other one outside of inner calls; the one inside lives as long as the closure.
        unsafe { self.inner.savepoint(|tx| f(&mut Tx::new(tx))) }
    }
}

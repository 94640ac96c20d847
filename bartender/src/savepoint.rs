//! Savepoints: a part of a transaction that can be taken back by itself.
//!
//! Rule 1 of the typed interface: memory is never put back under a live `Mut`, which would have it look at bytes of
//! another shape, or at blocks that are gone. Hence the conditions of [`TxRef::savepoint`], which see to it that
//! before the mark, and again after the end, the transaction has no `Mut` left. For the same reason locks
//! that it holds can be granted again there: they stay held to its end, since what was read under them may have been
//! carried out.

use crate::changes;
use crate::detached;
use crate::error::{Error, Result};
use crate::late;
use crate::thread;
use crate::tx::{Context, Doom, Made, TxRef};
use std::panic::{self, AssertUnwindSafe};

/// A point in the course of a transaction that can be gone back to.
#[derive(Debug)]
struct Mark {
    changes: changes::Mark,
    detached: detached::Mark,
    late: late::Mark,
    ended: usize,
    large_floor: usize,
    made: Made,
}

impl Context {
    fn mark(&mut self) -> Mark {
        self.next_round();
        let large_floor = std::mem::replace(&mut self.large_floor, self.large.len());
        Mark {
            large_floor,
            changes: self.changes.mark(),
            detached: self.detached.mark(),
            late: self.late.mark(),
            ended: self.ended.len(),
            made: self.made(),
        }
    }

    /// What happened since the mark is a part of the transaction.
    fn release(&mut self, mark: &Mark) {
        self.next_round();
        self.large_floor = mark.large_floor;
        self.changes.release(&mark.changes);
        self.detached.release(&mark.detached);
        self.late.release(&mark.late);
    }

    /// Everything is as it was at the mark, but that locks are held.
    ///
    /// # Safety
    ///
    /// Nobody has a reference to anything that was changed since, nor to a block that was made since.
    unsafe fn rollback(&mut self, mark: &Mark) {
        self.next_round();
        // SAFETY: the ranges are this transaction's own; there are no references, by the caller's promise.
        unsafe { self.changes.rollback(&mark.changes) };
        self.detached.rollback(&mark.detached);
        self.late.rollback(&mark.late);
        self.ended.truncate(mark.ended);
        self.large_floor = mark.large_floor;
        // SAFETY: nobody has a reference, by the caller's promise, and what was recorded is forgotten.
        unsafe { self.give_back(&mark.made) };
    }
}

impl TxRef<'_> {
    /// Runs `body` as a part of the transaction that is taken back by itself if it fails.
    ///
    /// # Errors
    ///
    /// That of `body`; [`Error::NotInnermost`]; that by which the transaction is doomed.
    ///
    /// # Safety
    ///
    /// Whoever began the transaction has no `Mut` of it, nor a reference that it got from one. Nor has anybody when
    /// `body` has returned.
    pub(crate) unsafe fn savepoint<A, E: From<Error>>(
        self,
        body: impl FnOnce(Self) -> Result<A, E>,
    ) -> Result<A, E> {
        let innermost = thread::with(|thread| thread.active());
        let context = self.context();
        // In an inner call, the outer one may have `Mut`s.
        if context.joined != 0 || innermost.is_none_or(|active| !self.is_of(active)) {
            return Err(Error::NotInnermost.into());
        }
        if let Some(doom) = &context.doom {
            return Err(doom.error().into());
        }
        let mark = context.mark();
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| body(self)));
        let context = self.context();
        if matches!(outcome, Ok(Ok(_))) && context.doom.is_none() {
            context.release(&mark);
        } else {
            // SAFETY: by the caller's promise; what `body` itself had is gone with it.
            unsafe { context.rollback(&mark) };
        }
        // What failed since the mark never happened. A conflict did: others wait.
        let doom = match context.doom {
            Some(Doom::Conflict) => Some(Error::Conflict),
            _ => context.doom.take().map(|doom| doom.error()),
        };
        match (outcome, doom) {
            (Err(panic), _) => panic::resume_unwind(panic),
            (Ok(Ok(_)), Some(error)) => Err(error.into()),
            (Ok(result), _) => result,
        }
    }
}

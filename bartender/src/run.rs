//! Running a transaction: begin, commit, take back, try again.
//!
//! The order of things, which everything else relies on:
//!
//! 1. a writer of the region, from before the first store to after the commit or the restoration;
//! 2. the closure, under `catch_unwind`;
//! 3. the steps that were kept for the end, under their locks ([`crate::late`]);
//! 4. either one record with the new bytes, appended; or the old bytes put back, in reverse order, and the new
//!    blocks freed. Only ever after the outermost closure has returned (rule 1 of the typed interface);
//! 5. the locks released: on lanes the record is durable by then, on a stream it has its position, and the locks
//!    remember the number (rule 3 of the log);
//! 6. waiting until everything that the transaction wrote or saw is durable; then readers without a lock see its versions
//!    ([`crate::rcu`]), whose locks are kept until then;
//! 7. frees take effect. The answer.

mod again;
mod durable;
mod ended;
mod retired;

pub(crate) use again::unwind_conflict;

use crate::error::{Error, Result};
use crate::fresh::{self, Left};
use crate::thread::{self, Thread};
use crate::tx::{Context, Doom, Ended, Published, TxRef};
use again::{back_off, failure, may_retry};
use bartender_pm::{Durability, Region, Ticket, Writer, mutant};
use durable::Deferred;
use retired::Retired;
use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize};

/// The heap under a typed one, and what transactions over it share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) heap: bartender_heap::Heap,
    pub(crate) region: Region,
    /// Of transactions that ask for no other.
    pub(crate) durability: Durability,
    /// What is committed but not durable (`Durability::Eventual` on a stream), by rising number.
    deferred: Mutex<VecDeque<Deferred>>,
    any_deferred: AtomicBool,
    /// Blocks whose last owner has gone with a transaction that was committed.
    ended: Mutex<Vec<Ended>>,
    any_ended: AtomicBool,
    /// Somebody ends them.
    ending: Mutex<()>,
    /// Blocks of old versions that readers may look at.
    retired: Retired,
    /// Commits that have left the gate, and whose frees have not taken effect. Raised inside of the gate.
    awaited: AtomicUsize,
}

// SAFETY: the raw pointers are blocks that nobody uses any more.
unsafe impl Send for Core {}
// SAFETY: as above; everything else synchronises itself.
unsafe impl Sync for Core {}

impl Core {
    pub(crate) fn new(heap: bartender_heap::Heap, durability: Durability) -> Self {
        Core {
            region: heap.region().clone(),
            heap,
            durability,
            deferred: Mutex::new(VecDeque::new()),
            any_deferred: AtomicBool::new(false),
            ended: Mutex::new(Vec::new()),
            any_ended: AtomicBool::new(false),
            ending: Mutex::new(()),
            retired: Retired::default(),
            awaited: AtomicUsize::new(0),
        }
    }

    /// Runs `body` as a transaction, or as a part of the one that runs on this thread over the same heap.
    /// `again`: a conflict is tried again. `durability` is that of the whole; joining strengthens it.
    #[inline]
    pub(crate) fn run<A, E: From<Error>>(
        &self,
        again: bool,
        durability: Durability,
        mut body: impl FnMut(TxRef<'_>) -> Result<A, E>,
    ) -> Result<A, E> {
        thread::with(|thread| {
            if thread.active().is_some()
                && let Some(context) = self.running(thread)
            {
                return join(context, durability, body);
            }
            self.run_outermost(thread, again, durability, &mut body)
        })
    }

    /// The transaction over this heap that runs on this thread.
    #[cold]
    fn running(&self, thread: &Thread) -> Option<NonNull<Context>> {
        // SAFETY: running contexts are alive, and nobody has them borrowed.
        thread
            .running()
            .find(|c| unsafe { c.as_ref().is_over(&self.heap) })
    }

    #[inline]
    fn run_outermost<A, E: From<Error>>(
        &self,
        thread: &Thread,
        again: bool,
        durability: Durability,
        body: &mut impl FnMut(TxRef<'_>) -> Result<A, E>,
    ) -> Result<A, E> {
        let outer = thread.active();
        let mut started = None;
        loop {
            // Stays where it is: moving it would cost as much as taking a lock.
            let mut entered = self.region.writer();
            if let Err(error) = entered {
                return Err(Error::from(error).into());
            }
            let Ok(writer) = &mut entered else {
                unreachable!("an error was returned above")
            };
            let context = thread.take_context();
            // SAFETY: ours alone from `take_context` to `give_context`, but for `TxRef`s, which exist only
            // while `body` runs and `state` is not used.
            let state = unsafe { &mut *context.as_ptr() };
            let base = self.region.base().addr();
            state.begin(&self.heap, base..base + self.region.max_size() as usize);
            state.durability = durability;
            state.outer = outer;
            if outer.is_none() {
                state.owner.begin();
            }
            thread.set_active(Some(context));
            // SAFETY: the transaction runs until the active one is set back below.
            let tx = unsafe { TxRef::new(context) };
            let mut outcome = panic::catch_unwind(AssertUnwindSafe(|| body(tx)));
            if matches!(outcome, Ok(Ok(_)))
                && !tx.context().detached.is_empty()
                && tx.context().doom.is_none()
                && let Err(error) = tx.release_detached()
            {
                outcome = Ok(Err(error.into()));
            }
            if matches!(outcome, Ok(Ok(_)))
                && !tx.context().late.is_empty()
                && tx.context().doom.is_none()
                && let Err(error) = tx.take_all_steps()
            {
                outcome = Ok(Err(error.into()));
            }
            thread.set_active(outer);
            // SAFETY: as above; `body` has returned, and with it all its `TxRef`s ended.
            let state = unsafe { &mut *context.as_ptr() };

            let owner = state.owner;
            if matches!(outcome, Ok(Ok(_))) && state.doom.is_none() {
                let ended = match self.commit(state, writer) {
                    Ok(Some(ticket)) if !ticket.durable => {
                        let waits = self.leave_stream(state, ticket.seq);
                        drop(entered);
                        waits.map_or(Ok(()), |frees| self.await_stream(state, ticket.seq, frees))
                    }
                    done => {
                        let ended = self.complete(state, done);
                        drop(entered);
                        ended.and(self.wait_seen(state))
                    }
                };
                thread.give_context(context);
                if outer.is_none() {
                    owner.end();
                    if self.any_ended() {
                        self.end_shared();
                    }
                }
                // In place: the result is not moved as a whole.
                return match (outcome, ended) {
                    (Ok(Ok(value)), Ok(())) => Ok(value),
                    (_, Err(error)) => Err(error.into()),
                    _ => unreachable!("the closure returned a value"),
                };
            }
            self.take_back(state);
            drop(entered);
            let ended = self.wait_seen(state);
            let doom = state.doom.take();
            thread.give_context(context);

            // A conflict inside another heap's transaction is that one's: its locks are part of it.
            if matches!(doom, Some(Doom::Conflict))
                && let Some(mut outer) = outer
            {
                // SAFETY: it runs, further out on this thread, and nobody has it borrowed.
                unsafe { outer.as_mut() }.doom(Doom::Conflict);
            }
            if matches!(doom, Some(Doom::Conflict))
                && again
                && outer.is_none()
                && ended.is_ok()
                && may_retry(&outcome)
                && back_off(&mut started)
            {
                continue;
            }
            if outer.is_none() {
                owner.end();
            }
            return Err(failure(outcome, doom));
        }
    }

    /// Logs what was changed, if that is anything; on an error everything is taken back.
    #[inline]
    fn commit(&self, state: &mut Context, writer: &mut Writer<'_>) -> Result<Option<Ticket>> {
        if state.changes.is_empty() && state.blocks.is_empty() && state.published.is_empty() {
            // What it read has to be the latest.
            self.region.check_current()?;
            if !state.frees.is_empty() {
                self.free_unlinked(state);
            }
            return Ok(None);
        }
        match self.append(state, writer) {
            Ok(ticket) => Ok(Some(ticket)),
            Err(error) => {
                self.take_back(state);
                Err(error)
            }
        }
    }

    /// The end of a transaction that was to commit, but for what is not durable yet.
    #[inline]
    fn complete(&self, state: &mut Context, appended: Result<Option<Ticket>>) -> Result<()> {
        if let Some(_durable) = appended? {
            self.entries_durable(&mut state.entries);
            self.publish(state);
            release(state);
            self.finish(state);
        } else {
            release(state);
        }
        Ok(())
    }

    /// Builds the record and appends it.
    #[inline]
    fn append(&self, state: &mut Context, writer: &mut Writer<'_>) -> Result<Ticket> {
        // What was changed cannot even be read in a child of `fork`.
        if self.region.is_forked() {
            return Err(bartender_pm::Error::Forked.into());
        }
        let base = self.region.base().addr();
        let left = if state.blocks.is_empty() {
            Left::default()
        } else {
            fresh::ship(state, writer, &self.region)?
        };
        let Context {
            changes,
            record,
            entries,
            published,
            durability,
            ..
        } = state;
        record.clear();
        for &(offset, len, crc) in &left.extents {
            record.extent(offset, len, crc);
        }
        changes.emit(|addr, len| {
            left.rest_of(addr, len, |addr, len| {
                let at = ptr::with_exposed_provenance::<u8>(addr);
                // SAFETY: changed ranges lie in the view, are ours until the locks are released, and are
                // initialised: padding is zeroed before values are stored.
                record.change((addr - base) as u64, unsafe {
                    slice::from_raw_parts(at, len)
                });
            });
        });
        if entries.len() > 1 {
            entries.sort_unstable_by_key(|entry| entry.offset);
            entries.dedup();
        }
        if !mutant::is("no_entries") {
            for entry in entries {
                record.change(entry.offset, &entry.bytes);
            }
        }
        for &Published { addr, word } in published.iter() {
            record.change((addr - base) as u64, &word.to_le_bytes());
        }
        Ok(writer.append(record, *durability)?)
    }

    /// Puts everything back as it was, and releases the locks.
    #[cold]
    fn take_back(&self, state: &mut Context) {
        if !self.region.is_forked() {
            // SAFETY: the ranges are the transaction's own until its locks are released; all references into
            // them ended with the closure.
            unsafe { state.changes.restore() };
        }
        for block in state.blocks.drain(..) {
            self.free(block.ptr);
        }
        release(state);
        state.clear();
    }
}

/// Releases all locks.
#[inline]
fn release(state: &mut Context) {
    for held in &state.locks {
        thread::table().release(held.addr, held.mode, state.owner);
    }
    state.locks.clear();
}

/// Runs `body` as a part of the transaction of `context`. If it fails the whole is doomed.
fn join<A, E>(
    mut context: NonNull<Context>,
    durability: Durability,
    mut body: impl FnMut(TxRef<'_>) -> Result<A, E>,
) -> Result<A, E> {
    // SAFETY: it runs, further out on this thread, until this call has returned.
    let tx = unsafe { TxRef::new(context) };
    tx.context().joined += 1;
    if durability == Durability::Immediate {
        tx.context().durability = durability;
    }
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| body(tx)));
    // SAFETY: nobody has it borrowed: `body` has returned.
    let state = unsafe { context.as_mut() };
    state.joined -= 1;
    if !matches!(outcome, Ok(Ok(_))) {
        state.doom(Doom::Failed("an inner transaction failed".to_owned()));
    }
    outcome.unwrap_or_else(|panic| panic::resume_unwind(panic))
}

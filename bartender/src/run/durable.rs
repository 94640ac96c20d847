//! What comes behind the record of a commit: waiting until it is durable, and what takes effect then.

use super::{Core, release};
use crate::error::Result;
use crate::lock_table::Mode;
use crate::thread::{self, Commit};
use crate::tx::Context;
use bartender_heap::Entry;
use bartender_pm::{Durability, mutant};
use std::collections::VecDeque;
use std::mem;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What takes effect in the allocator once number `seq` is durable.
#[derive(Debug)]
pub(super) struct Deferred {
    seq: u64,
    frees: Vec<NonNull<u8>>,
    entries: Vec<Entry>,
}

impl Core {
    /// What a commit on a stream, whose number `seq` has its position and is not durable yet, does inside of the gate: who
    /// shuts it finds every free that is to come noted down. If the commit has to be awaited, returns whether it frees
    /// anything.
    pub(super) fn leave_stream(&self, state: &mut Context, seq: u64) -> Option<bool> {
        // What it saw has lower numbers, and becomes durable no later.
        state.seen = 0;
        // Readers are shown versions that are durable.
        if state.durability != Durability::Eventual || !state.published.is_empty() {
            let frees =
                !state.frees.is_empty() || !state.ended.is_empty() || !state.published.is_empty();
            if frees {
                self.awaited.fetch_add(1, Ordering::Relaxed);
            }
            return Some(frees);
        }
        let frees = mem::take(&mut state.frees);
        let entries = mem::take(&mut state.entries);
        if !frees.is_empty() || !entries.is_empty() {
            self.deferred().push_back(Deferred {
                seq,
                frees,
                entries,
            });
            self.any_deferred.store(true, Ordering::Relaxed);
        }
        // Only now: who frees what this one made comes behind it.
        release(state);
        self.finish(state);
        None
    }

    /// The rest of a commit on a stream that has to be awaited; `frees` is what [`leave_stream`](Self::leave_stream) said.
    pub(super) fn await_stream(&self, state: &mut Context, seq: u64, frees: bool) -> Result<()> {
        let region = self.region.clone();
        let held = release_after(state, &Commit { seq, region });
        let durable = self.region.wait_durable(seq);
        if durable.is_ok() {
            self.publish(state);
            for addr in held {
                thread::table().settle(addr);
            }
        } else {
            // The region is poisoned: nobody will be shown the effects, and nothing is freed.
            state.frees.clear();
            state.entries.clear();
            state.ended.clear();
        }
        release(state);
        self.finish(state);
        if frees {
            // Release: who sees this sees the blocks free.
            self.awaited.fetch_sub(1, Ordering::Release);
        }
        Ok(durable?)
    }

    /// What a durable transaction allocated and freed takes effect; the context is empty afterwards.
    #[inline]
    pub(super) fn finish(&self, state: &mut Context) {
        self.entries_durable(&mut state.entries);
        if !state.ended.is_empty() {
            self.note_ended(&mut state.ended);
        }
        self.free_retired();
        // First: this one may free blocks whose entries wait there.
        if self.any_deferred.load(Ordering::Relaxed) {
            self.free_deferred();
        }
        if !state.frees.is_empty() {
            state.frees.drain(..).for_each(|block| self.free(block));
        }
        state.clear();
    }

    /// Frees of a transaction that changed nothing: what it frees had been unlinked by others, whose numbers are drawn.
    #[cold]
    pub(super) fn free_unlinked(&self, state: &mut Context) {
        let frees = mem::take(&mut state.frees);
        let seq = self.region.last_seq();
        self.deferred().push_back(Deferred {
            seq,
            frees,
            entries: Vec::new(),
        });
        self.any_deferred.store(true, Ordering::Relaxed);
        self.free_deferred();
    }

    /// Entries that stand in a durable record need not travel any more. Before any block of their superblocks is freed:
    /// one that is free and has no durable entry counts as fresh.
    #[inline]
    pub(super) fn entries_durable(&self, entries: &mut Vec<Entry>) {
        if !entries.is_empty() {
            let drained = entries.drain(..);
            drained.for_each(|entry| self.heap.entry_durable(&entry));
        }
    }

    #[cold]
    pub(super) fn free_deferred(&self) {
        let durable = self.region.durable_seq();
        let mut deferred = self.deferred();
        while deferred.front().is_some_and(|first| first.seq <= durable) {
            let mut first = deferred.pop_front().expect("there is a front");
            self.entries_durable(&mut first.entries);
            first.frees.into_iter().for_each(|block| self.free(block));
        }
        self.any_deferred
            .store(!deferred.is_empty(), Ordering::Relaxed);
    }

    /// All frees of a heap that is about to close take effect.
    pub(crate) fn settle(&self) -> Result<()> {
        self.region.sync()?;
        self.free_deferred();
        self.free_retired();
        Ok(())
    }

    /// All frees of what was committed take effect: `false` if that takes longer than `patience`. For who has shut the gate;
    /// those that wait for the log out there need nothing of it.
    pub(crate) fn settle_within(&self, patience: Duration) -> Result<bool> {
        let start = Instant::now();
        loop {
            self.settle()?;
            if self.awaited.load(Ordering::Acquire) == 0 {
                return Ok(true);
            }
            if start.elapsed() > patience {
                return Ok(false);
            }
            std::thread::yield_now();
        }
    }

    pub(super) fn free(&self, block: NonNull<u8>) {
        // SAFETY: its free is durable, or it was never committed; nothing refers to it.
        let freed = unsafe { self.heap.free(block) };
        debug_assert!(freed.is_ok(), "freed a block: {freed:?}");
    }

    /// Waits until everything that the transaction saw is durable.
    #[inline]
    pub(super) fn wait_seen(&self, state: &mut Context) -> Result<()> {
        match mem::take(&mut state.seen) {
            0 => Ok(()),
            _ if mutant::is("no_wait_for_seen") => Ok(()),
            seen => Ok(self.region.wait_durable(seen)?),
        }
    }

    pub(super) fn deferred(&self) -> MutexGuard<'_, VecDeque<Deferred>> {
        self.deferred.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Releases all locks but those of words that are to be published; those that were held exclusively remember `last`, and are
/// returned.
fn release_after(state: &mut Context, last: &Commit) -> Vec<usize> {
    let mut exclusive = Vec::new();
    let published = &state.published;
    let mut kept = Vec::new();
    for held in state.locks.drain(..) {
        if published.iter().any(|word| word.addr == held.addr) {
            kept.push(held);
        } else if held.mode == Mode::Exclusive {
            thread::table().release_after(held.addr, state.owner, last.clone());
            exclusive.push(held.addr);
        } else {
            thread::table().release(held.addr, held.mode, state.owner);
        }
    }
    state.locks = kept;
    exclusive
}

//! Taking the steps that wait for a transaction's end ([`crate::late`]): on counters, on counts of owners, and on the words of
//! versions, which readers see when the record is durable.

use super::{Doom, Ended, Held, Published, TxRef};
use crate::error::{Error, Result};
use crate::late::{CLAIMED, Next, Step, claimed_by};
use crate::lock_table::{Mode, Refused};
use crate::thread;
use bartender_pm::mutant;
use std::ptr::{self, NonNull};
// Not those of `sync`: these words are in the region.
use std::sync::atomic::{AtomicU64, Ordering};

impl TxRef<'_> {
    /// Notes a step on the word at `addr`, to be taken at the end.
    ///
    /// # Errors
    ///
    /// [`Error::NotStored`].
    ///
    /// # Safety
    ///
    /// A word of 8 bytes, aligned, that is changed by steps only, or by who [holds](Self::hold) it; it stays where it is until
    /// the transaction has ended or holds it.
    pub(crate) unsafe fn step(self, addr: usize, step: Step) -> Result<()> {
        let context = self.context();
        if !context.covers(addr) {
            return Err(Error::NotStored);
        }
        context.late.note(addr, step);
        Ok(())
    }

    /// As [`step`](Self::step) for the count with which a shared block begins, and which nobody ever holds.
    ///
    /// # Errors
    ///
    /// [`Error::NotStored`]; [`Error::Conflict`] if another transaction has [made](Self::claim_count) the block and not
    /// committed: this one is doomed then.
    ///
    /// # Safety
    ///
    /// It is that, and the block has an owner until the transaction has ended, if that which made it commits.
    pub(crate) unsafe fn step_count(self, addr: usize, step: Step) -> Result<()> {
        let context = self.context();
        if !context.covers(addr) {
            return Err(Error::NotStored);
        }
        // SAFETY: a word in the view, which others change atomically.
        let word = unsafe { &*ptr::with_exposed_provenance::<AtomicU64>(addr) };
        // A reference to what is not committed ends before the transaction does: whoever still has one sees the claim.
        let word = word.load(Ordering::Relaxed);
        let mine = claimed_by(ptr::from_ref(context));
        if word & CLAIMED != 0 && word != mine {
            context.doom(Doom::Conflict);
            return Err(Error::Conflict);
        }
        context.late.note_count(addr, step);
        Ok(())
    }

    /// Claims the count of a block that this transaction has made, until it commits: another one can come to it by a
    /// reference that a thread has got, and may not become its owner.
    ///
    /// # Safety
    ///
    /// It lies in a new block of this transaction, with one owner, and is logged.
    pub(crate) unsafe fn claim_count(self, addr: usize) {
        let context = self.context();
        let claim = claimed_by(ptr::from_ref(context));
        // SAFETY: a word in the view, as the caller says.
        let word = unsafe { &*ptr::with_exposed_provenance::<AtomicU64>(addr) };
        word.store(claim, Ordering::Relaxed);
        context.late.note_claim(addr);
    }

    /// Takes all steps. The transaction does nothing after that but commit, or be taken back.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`].
    pub(crate) fn take_all_steps(self) -> Result<()> {
        for addr in self.context().late.take_claims() {
            // SAFETY: a word in a block of this transaction, by the promise of `claim_count`: blocks are given back after the
            // end, or with the savepoint that made them, which forgets their claims.
            let word = unsafe { &*ptr::with_exposed_provenance::<AtomicU64>(addr) };
            word.store(1, Ordering::Relaxed);
        }
        let mut held = 0;
        let mut versions = Vec::new();
        for Next { lock, addr, step } in self.context().late.waiting() {
            if held != lock {
                self.hold_late(lock)?;
                held = lock;
            }
            if let Step::Version(..) = step {
                versions.push((addr, step));
                continue;
            }
            // SAFETY: its lock is ours; it is where it was, by the promise of `step`.
            unsafe { self.take_steps(addr, &[step])? };
        }
        match versions.is_empty() {
            true => Ok(()),
            false => self.publish(versions),
        }
    }

    /// Takes the steps that replace versions, those on one word in order: the last one counts. What nobody else can see gets its
    /// value now, the other words when the record is durable.
    #[cold]
    fn publish(self, mut versions: Vec<(usize, Step)>) -> Result<()> {
        versions.dedup_by(|next, before| {
            let same = next.0 == before.0;
            if same {
                *before = *next;
            }
            same
        });
        let context = self.context();
        // A word that was changed, or made, is in something that the transaction has for itself.
        let blocks = context.blocks.iter().map(|block| {
            let start = block.ptr.addr().get();
            (start, start + block.size)
        });
        let mut own: Vec<(usize, usize)> = context.changes.ranges().chain(blocks).collect();
        own.sort_unstable();
        own.dedup_by(|next, before| {
            let joins = next.0 <= before.1;
            if joins {
                before.1 = before.1.max(next.1);
            }
            joins
        });
        for (addr, step) in versions {
            let after = own.partition_point(|range| range.0 <= addr);
            if after.checked_sub(1).is_some_and(|at| addr < own[at].1) {
                // SAFETY: its lock is ours; it is where it was.
                unsafe { self.take_steps(addr, &[step])? };
                continue;
            }
            let Step::Version(new, end) = step else {
                continue;
            };
            // SAFETY: as above.
            let word = unsafe { &*ptr::with_exposed_provenance::<AtomicU64>(addr) };
            let old = ptr::with_exposed_provenance_mut(word.load(Ordering::Relaxed) as usize);
            let first = self.context().frees.len();
            // SAFETY: the version that is replaced.
            unsafe { end(self, old)? };
            if mutant::is("version_at_once") {
                word.store(new, Ordering::Release);
            }
            let context = self.context();
            context.retired.extend(context.frees.drain(first..));
            context.published.push(Published { addr, word: new });
        }
        Ok(())
    }

    /// The version that waits for the word at `addr`.
    pub(crate) fn version(self, addr: usize) -> Option<u64> {
        let steps = self.context().late.at(addr);
        let versions = steps.filter_map(|step| match step {
            Step::Version(word, _) => Some(word),
            _ => None,
        });
        versions.last()
    }

    /// Holds the lock of a step at the end of the transaction.
    fn hold_late(self, addr: usize) -> Result<()> {
        let context = self.context();
        match thread::table().acquire_late(addr, context.owner) {
            Ok(last) => {
                let (mode, round) = (Mode::Exclusive, context.round);
                context.locks.push(Held { addr, mode, round });
                let seen = last.map_or(0, |commit| commit.seq);
                context.seen = context.seen.max(seen);
                Ok(())
            }
            // Held since something was moved, which was taken back.
            Err(Refused::Own) => Ok(()),
            Err(Refused::Conflict) => {
                context.doom(Doom::Conflict);
                Err(Error::Conflict)
            }
        }
    }

    /// Takes steps on the word at `addr`.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] from what a version held.
    ///
    /// # Safety
    ///
    /// It is there, in this region, and its lock is held. If it is a version's, nobody else reads it.
    pub(super) unsafe fn take_steps(self, addr: usize, steps: &[Step]) -> Result<()> {
        // SAFETY: a word in the view; others only read it, atomically.
        let word = unsafe { &*ptr::with_exposed_provenance::<AtomicU64>(addr) };
        let old = word.load(Ordering::Relaxed);
        let new = steps.iter().fold(old, |word, step| step.of(word));
        // SAFETY: in the region, and ours to change.
        unsafe { self.change(word.as_ptr().cast(), size_of::<u64>()) };
        word.store(new, Ordering::Relaxed);
        match steps.last() {
            Some(&Step::Leave(end)) if new == 0 => {
                let block = ptr::with_exposed_provenance_mut(addr);
                let block = NonNull::new(block).expect("a block is not at address 0");
                self.context().ended.push(Ended { block, end });
            }
            // SAFETY: those in between have ended when they were replaced; this one was there before.
            Some(&Step::Version(_, end)) => unsafe {
                end(self, ptr::with_exposed_provenance_mut(old as usize))?;
            },
            _ => {}
        }
        Ok(())
    }
}

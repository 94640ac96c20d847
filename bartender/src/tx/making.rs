//! Giving back what a part of a transaction has made when the rest of that part fails, so that nothing has changed and the
//! transaction can go on: a value of which half had found room, nodes for an entry that did not come.

use super::{Context, TxRef};
use crate::error::Result;
use crate::thread;

/// How much a transaction had made at some instant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made {
    blocks: usize,
    large: usize,
    frees: usize,
    entries: usize,
    locks: usize,
    claims: usize,
}

impl Context {
    #[inline]
    pub(crate) fn made(&self) -> Made {
        Made {
            blocks: self.blocks.len(),
            large: self.large.len(),
            frees: self.frees.len(),
            entries: self.entries.len(),
            locks: self.locks.len(),
            claims: self.late.claims(),
        }
    }

    /// Gives back what was made since. Nothing is recorded of it any more.
    ///
    /// # Safety
    ///
    /// Nobody has a reference to a block that was made since.
    pub(crate) unsafe fn give_back(&mut self, made: &Made) {
        // Entries travel with blocks: those of the blocks before stand before.
        self.entries.truncate(made.entries);
        self.frees.truncate(made.frees);
        self.large.truncate(made.large);
        self.late.forget_claims(made.claims);
        self.release_locks_in_new_blocks(made);
        for block in self.blocks.split_off(made.blocks) {
            if block.fresh {
                self.fresh_bytes -= block.size;
            }
            // SAFETY: made since then, and nothing refers to it any more.
            let freed = unsafe { self.heap().free(block.ptr) };
            debug_assert!(freed.is_ok(), "freed a block: {freed:?}");
        }
    }

    /// The blocks that were made since, as `(start, end)`, by rising addresses.
    fn new_blocks(&self, made: &Made) -> Vec<(usize, usize)> {
        let new = self.blocks[made.blocks..].iter();
        let mut new: Vec<(usize, usize)> = new
            .map(|block| {
                let start = block.ptr.addr().get();
                (start, start + block.size)
            })
            .collect();
        new.sort_unstable();
        new
    }

    /// A lock that goes with its block is nobody's: the next owner of the place must not find it taken.
    fn release_locks_in_new_blocks(&mut self, made: &Made) {
        if self.locks.len() == made.locks || self.blocks.len() == made.blocks {
            return;
        }
        let new = self.new_blocks(made);
        for held in self.locks.split_off(made.locks) {
            let before = new.partition_point(|&(start, _)| start <= held.addr);
            let block = before.checked_sub(1).map(|i| new[i]);
            if block.is_some_and(|(_, end)| held.addr < end) {
                thread::table().release(held.addr, held.mode, self.owner);
            } else {
                self.locks.push(held);
            }
        }
    }
}

impl TxRef<'_> {
    /// Runs `make`. If it fails, the blocks that it has made are given back: nothing has changed then.
    ///
    /// # Errors
    ///
    /// That of `make`.
    ///
    /// # Safety
    ///
    /// If `make` fails, it has changed nothing but what it made, given nothing back but that, and nobody has a reference
    /// to it.
    #[inline]
    pub(crate) unsafe fn making<A>(self, make: impl FnOnce() -> Result<A>) -> Result<A> {
        let made = self.context().made();
        let done = make();
        if done.is_err() {
            // SAFETY: passed on.
            unsafe { self.give_back(&made) };
        }
        done
    }

    /// # Safety
    ///
    /// As [`making`](Self::making).
    #[cold]
    unsafe fn give_back(self, made: &Made) {
        let context = self.context();
        let new = context.new_blocks(made);
        context.changes.forget(&new);
        // SAFETY: passed on.
        unsafe { context.give_back(made) };
    }
}

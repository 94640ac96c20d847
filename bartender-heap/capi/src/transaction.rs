//! A transaction of C: ranges whose old bytes are kept and whose new bytes become
//! durable together, blocks that are taken back by an abort, and frees that wait
//! for the commit.
//!
//! It promises all or nothing for what it was told of. It locks nothing, and
//! does not see stores to ranges that were not added.

#![allow(unsafe_code)]

use crate::core::{Core, Range};
use crate::error::{Failure, Result};
use bartender_pm::mutant;
use bartender_pm::sync::atomic::Ordering::Relaxed;
use std::collections::HashSet;
use std::ptr::NonNull;

/// A transaction; used by one thread at a time.
#[allow(non_camel_case_types, reason = "its name in C")]
#[derive(Debug)]
pub struct bt_tx {
    /// Lives until `bt_close`, which refuses while transactions are open.
    core: *const Core,
    /// Ranges that were added, and where their old bytes are in `old`.
    added: Vec<(Range, usize)>,
    old: Vec<u8>,
    /// Blocks that were allocated, with the bytes asked for.
    made: Vec<Range>,
    /// Blocks to be freed.
    leaving: Vec<NonNull<u8>>,
    known: HashSet<NonNull<u8>>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("heap", &self.heap)
            .finish_non_exhaustive()
    }
}

impl bt_tx {
    pub(crate) fn begin(core: &Core) -> bt_tx {
        core.transactions.fetch_add(1, Relaxed);
        bt_tx {
            core,
            added: Vec::new(),
            old: Vec::new(),
            made: Vec::new(),
            leaving: Vec::new(),
            known: HashSet::new(),
        }
    }

    fn core<'a>(&self) -> &'a Core {
        // SAFETY: it outlives the transaction, as the field says; the reference
        // is not kept beyond a call.
        unsafe { &*self.core }
    }

    /// `start` and `len` as a range inside of one block.
    pub(crate) fn range(&self, start: *mut u8, len: usize) -> Result<Range> {
        self.core().range(start, len)
    }

    /// Keeps the bytes of a range, which the commit will make durable.
    ///
    /// # Safety
    /// Nobody else stores to the range until the end of the transaction.
    pub(crate) unsafe fn add(&mut self, range: Range) {
        // SAFETY: inside of a block.
        let bytes = unsafe { std::slice::from_raw_parts(range.start.as_ptr(), range.len) };
        self.added.push((range, self.old.len()));
        self.old.extend_from_slice(bytes);
    }

    /// A block whose bytes the commit will make durable.
    pub(crate) fn alloc(&mut self, size: usize) -> Result<NonNull<u8>> {
        let core = self.core();
        let start = core.alloc(size, 1)?;
        self.made.push(Range { start, len: size });
        Ok(start)
    }

    /// Frees `block` when the commit is durable.
    pub(crate) fn free(&mut self, block: NonNull<u8>) -> Result<()> {
        let (start, _) = self.core().heap.block_of(block)?;
        if start != block {
            return Err(Failure::invalid(format!(
                "{block:p} is not the start of a block: that is at {start:p}"
            )));
        }
        if !self.known.insert(block) {
            return Err(Failure::invalid(format!(
                "the block at {block:p} was freed in this transaction already"
            )));
        }
        if mutant::is("tx_frees_at_once") {
            // SAFETY: wrong, which is the point.
            return unsafe { self.core().free(block) };
        }
        self.leaving.push(block);
        Ok(())
    }

    /// `block` with room for `size` bytes: itself, or one of this transaction
    /// with its bytes, and it is freed by the commit.
    ///
    /// # Safety
    /// Nobody else uses the block.
    pub(crate) unsafe fn realloc(
        &mut self,
        block: NonNull<u8>,
        size: usize,
    ) -> Result<NonNull<u8>> {
        let usable = self.core().heap.usable_size(block)?;
        // SAFETY: as the caller says.
        if unsafe { self.core().stays(block, usable, size) } {
            // One of ours becomes durable as long as it is now; those realloc'd are
            // mostly the last.
            if let Some(made) = self.made.iter_mut().rfind(|made| made.start == block) {
                made.len = size;
            }
            return Ok(block);
        }
        let to = self.alloc(size)?;
        // SAFETY: both are blocks of that many bytes, and the new one is ours alone.
        unsafe { to.copy_from_nonoverlapping(block, usable.min(size)) };
        self.free(block)?;
        Ok(to)
    }

    /// Makes it durable; where that fails, takes it back.
    ///
    /// # Safety
    /// Nobody stores to its ranges meanwhile.
    pub(crate) unsafe fn commit(mut self) -> Result<()> {
        let core = self.core();
        let made = self.made.iter().filter(|range| range.len != 0);
        let ranges = self.added.iter().map(|(range, _)| range).chain(made);
        let ranges: Vec<Range> = ranges.copied().collect();
        // SAFETY: as the caller says.
        if let Err(failure) = unsafe { core.persist(&ranges) } {
            // SAFETY: as the caller says.
            unsafe { self.abort() };
            return Err(failure);
        }
        self.made.clear();
        self.added.clear();
        for block in self.leaving.drain(..) {
            // SAFETY: unlinked, durably, as who called `free` promised. Freed by
            // somebody else meanwhile: that is told there, and the commit stands.
            let _ = unsafe { core.free(block) };
        }
        Ok(())
    }

    /// Takes it back.
    ///
    /// # Safety
    /// Nobody else uses its ranges and blocks.
    pub(crate) unsafe fn abort(mut self) {
        if !mutant::is("tx_abort_keeps") {
            // The oldest bytes last, where ranges overlap.
            for (range, at) in self.added.drain(..).rev() {
                let old = &self.old[at..at + range.len];
                // SAFETY: inside of a block that stays, as frees are not done yet.
                unsafe {
                    range
                        .start
                        .as_ptr()
                        .copy_from_nonoverlapping(old.as_ptr(), range.len)
                };
            }
        }
        let core = self.core();
        for range in self.made.drain(..) {
            // SAFETY: nothing durable leads to it. Freed already by a mistake of
            // the program: then it is reported there.
            let _ = unsafe { core.free(range.start) };
        }
    }
}

impl Drop for bt_tx {
    fn drop(&mut self) {
        self.core().transactions.fetch_sub(1, Relaxed);
    }
}

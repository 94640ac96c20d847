//! What need not be logged byte for byte: large new blocks, and blocks that a transaction both makes and frees.
//!
//! New blocks whose memory no record in the log can touch any more are written straight to the home, before
//! the record that links them; the record holds their place and checksum only (rule 6 of the log). Neighbours
//! are joined, so that a transaction that fills whole superblocks with small values ships them as extents.
//! It decides nothing about when a block is fresh: the heap says so.

use crate::error::Result;
use crate::tx::{Context, LARGE};
use bartender_pm::{Region, Writer};
use std::ptr::NonNull;
use std::{ptr, slice};

/// Extents shorter than this, in bytes, cost less in the log: they save the second barrier.
const MIN_EXTENT: usize = LARGE;

/// Where large blocks that are not fresh are more than this part of the longest record, a checkpoint makes them so.
const MUCH_STALE: u64 = 4;

/// Address ranges, rising and disjoint, that the log leaves out: `(start, end)`.
#[derive(Debug, Default)]
pub(crate) struct Left {
    ranges: Vec<(usize, usize)>,
    /// Home offset, length and checksum of what was shipped.
    pub(crate) extents: Vec<(u64, u64, u32)>,
}

impl Left {
    /// Calls `f` with each part `(address, length)` of a range that is not left out. Ranges are given in rising order.
    #[inline]
    pub(crate) fn rest_of(&self, addr: usize, len: usize, mut f: impl FnMut(usize, usize)) {
        if self.ranges.is_empty() {
            return f(addr, len);
        }
        let (mut at, end) = (addr, addr + len);
        let first = self.ranges.partition_point(|&(_, to)| to <= at);
        for &(from, to) in &self.ranges[first..] {
            if from >= end {
                break;
            }
            if at < from {
                f(at, from - at);
            }
            at = to;
        }
        if at < end {
            f(at, end - at);
        }
    }
}

/// Ships the transaction's large fresh extents, and tells what the log can leave out. The replicas of a region get what is
/// logged: nothing is shipped there.
pub(crate) fn ship(state: &mut Context, writer: &mut Writer<'_>, region: &Region) -> Result<Left> {
    let base = region.base().addr();
    let replicated = region.is_replicated();
    let mut left = Left::default();
    let any_dead = !state.frees.is_empty() && !state.blocks.is_empty();
    if !state.large.is_empty() && !replicated {
        freshen(state, region)?;
    }
    let any_large = state.fresh_bytes >= MIN_EXTENT && !replicated;
    if !any_dead && !any_large {
        return Ok(left);
    }
    let mut freed: Vec<NonNull<u8>> = state.frees.clone();
    freed.sort_unstable();
    state.blocks.sort_unstable_by_key(|block| block.ptr);
    // The run of neighbouring fresh blocks that ends where the last one did.
    let (mut start, mut end) = (0, 0);
    for block in &state.blocks {
        let from = block.ptr.addr().get();
        if any_dead && freed.binary_search(&block.ptr).is_ok() {
            ship_run(writer, base, (start, end), &mut left)?;
            (start, end) = (0, 0);
            left.ranges.push((from, from + block.size));
        } else if any_large && block.fresh {
            // With the slack behind the value: then the next block is a neighbour.
            let usable = state.heap().usable_size(block.ptr).unwrap_or(block.size);
            if from != end {
                ship_run(writer, base, (start, end), &mut left)?;
                start = from;
            }
            end = from + usable;
        }
    }
    ship_run(writer, base, (start, end), &mut left)?;
    Ok(left)
}

/// Large blocks that were not fresh when they were made may be by now: whatever the log had of their memory stands in
/// the home. Where they are much, a checkpoint sees to that; it waits for nobody who waits for this transaction.
fn freshen(state: &mut Context, region: &Region) -> Result<()> {
    state.large.sort_unstable_by_key(|block| block.start);
    let stale = |state: &Context, upto: u64| {
        let large = |start: usize| {
            let at = state
                .large
                .binary_search_by_key(&start, |block| block.start);
            at.is_ok_and(|at| state.large[at].used_upto > upto)
        };
        let blocks = state.blocks.iter().filter(|block| !block.fresh);
        let sizes = blocks.filter(|block| large(block.ptr.addr().get()));
        sizes.map(|block| block.size as u64).sum::<u64>()
    };
    let mut upto = region.checkpoint_seq();
    if stale(state, upto) > region.log_capacity() / MUCH_STALE {
        region.sync()?;
        region.checkpoint()?;
        upto = region.checkpoint_seq();
    }
    for block in &mut state.blocks {
        let start = block.ptr.addr().get();
        let large = state
            .large
            .binary_search_by_key(&start, |block| block.start);
        let Some(large) = large.ok().map(|at| &state.large[at]) else {
            continue;
        };
        if !block.fresh && large.used_upto <= upto {
            block.fresh = true;
            state.fresh_bytes += block.size;
        }
    }
    Ok(())
}

fn ship_run(
    writer: &mut Writer<'_>,
    base: usize,
    (start, end): (usize, usize),
    left: &mut Left,
) -> Result<()> {
    if end - start < MIN_EXTENT {
        return Ok(());
    }
    let at = ptr::with_exposed_provenance::<u8>(start);
    // SAFETY: blocks of this transaction, in the view; nobody else knows of them. Memory of a mapping is always
    // initialised.
    let bytes = unsafe { slice::from_raw_parts(at, end - start) };
    writer.write_fresh((start - base) as u64, bytes)?;
    let crc = crc32c::crc32c(bytes);
    left.extents
        .push(((start - base) as u64, bytes.len() as u64, crc));
    left.ranges.push((start, end));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_cut_from_every_side() {
        let left = Left {
            ranges: vec![(10, 20), (30, 40), (40, 50)],
            extents: Vec::new(),
        };
        let rest = |addr, len| {
            let mut parts = Vec::new();
            left.rest_of(addr, len, |addr, len| parts.push((addr, len)));
            parts
        };
        assert_eq!(rest(0, 10), [(0, 10)]);
        assert_eq!(rest(0, 60), [(0, 10), (20, 10), (50, 10)]);
        assert_eq!(rest(12, 5), []);
        assert_eq!(rest(15, 20), [(20, 10)]);
        assert_eq!(rest(45, 10), [(50, 5)]);
        assert_eq!(rest(50, 1), [(50, 1)]);
    }
}

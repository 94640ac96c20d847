//! What a transaction changed: the old bytes, to take it back, and the ranges, to log the new ones.
//!
//! [`Changes`] is filled before each store and read once, at the end: either [`Changes::restore`]
//! puts the old bytes back in reverse order, or [`Changes::emit`] hands the merged ranges out with
//! the bytes that stand in the view by then. It keeps its buffers, so a warm one allocates nothing.
//! It knows nothing of regions, locks or blocks.

mod blocks;

use blocks::{Blocks, Touched};
use std::ptr;

/// Marks a range without old bytes: nobody can see it if the transaction aborts.
const FRESH: usize = usize::MAX;

/// Slots of the filter that drops repeated changes of the same place.
const RECENT: usize = 16;

/// How many rising sequences of new bytes are followed at a time.
const TAILS: usize = 4;

#[derive(Debug, Clone, Copy)]
struct Range {
    addr: usize,
    len: usize,
    /// Where the old bytes start in `old`, or [`FRESH`].
    old: usize,
}

/// A range that is recorded already.
#[derive(Debug, Clone, Copy)]
struct Recent {
    addr: usize,
    end: usize,
    round: u64,
}

/// A point in the course of a transaction that can be gone back to.
#[derive(Debug)]
pub(crate) struct Mark {
    ranges: usize,
    old: usize,
    floor: usize,
    ordered: bool,
}

/// Changed ranges of one transaction.
#[derive(Debug)]
pub(crate) struct Changes {
    ranges: Vec<Range>,
    /// Old bytes of the ranges, one after the other.
    old: Vec<u8>,
    recent: [Recent; RECENT],
    /// Ranges without old bytes that the next ones may continue, by index: a bulk load writes blocks and the vector
    /// that refers to them in turns.
    tails: [usize; TAILS],
    next_tail: usize,
    /// Ranges below this index are as they were at the last mark: they are not continued.
    floor: usize,
    /// Counts the transactions and marks, so that `recent` never needs to be cleared.
    round: u64,
    /// Ranges start in rising order and do not overlap: no sorting at the end.
    ordered: bool,
    sorted: Vec<(usize, usize)>,
    /// Blocks that are changed part by part.
    blocks: Blocks,
}

impl Changes {
    pub(crate) fn new() -> Self {
        let nothing = Recent {
            addr: 0,
            end: 0,
            round: 0,
        };
        Changes {
            ranges: Vec::new(),
            old: Vec::new(),
            recent: [nothing; RECENT],
            tails: [usize::MAX; TAILS],
            next_tail: 0,
            floor: 0,
            round: 1,
            ordered: true,
            sorted: Vec::new(),
            blocks: Blocks::new(),
        }
    }

    /// Forgets everything, keeps the buffers (those of a huge transaction are given back).
    #[inline]
    pub(crate) fn clear(&mut self) {
        const KEEP: usize = 1 << 20;
        if self.ranges.len() > KEEP / size_of::<Range>() || self.old.len() > KEEP {
            self.ranges.clear();
            self.ranges.shrink_to(KEEP / size_of::<Range>());
            self.sorted.clear();
            self.sorted.shrink_to(KEEP / size_of::<Range>());
            self.old.clear();
            self.old.shrink_to(KEEP);
        }
        self.ranges.clear();
        self.old.clear();
        self.tails = [usize::MAX; TAILS];
        self.floor = 0;
        self.next_round();
        self.ordered = true;
    }

    /// From here on everything that is changed is kept anew, until [`release`](Self::release) or
    /// [`rollback`](Self::rollback). Marks nest.
    pub(crate) fn mark(&mut self) -> Mark {
        let mark = Mark {
            ranges: self.ranges.len(),
            old: self.old.len(),
            floor: self.floor,
            ordered: self.ordered,
        };
        self.floor = mark.ranges;
        self.tails = [usize::MAX; TAILS];
        self.next_round();
        mark
    }

    /// Nothing counts as recorded any more.
    fn next_round(&mut self) {
        self.round += 1;
        self.blocks.forget();
    }

    /// What was changed since the mark stays, as a part of what was before.
    pub(crate) fn release(&mut self, mark: &Mark) {
        self.floor = mark.floor;
    }

    /// Puts back what was changed since the mark, and forgets it.
    ///
    /// # Safety
    ///
    /// As [`restore`](Self::restore), for the ranges since the mark.
    pub(crate) unsafe fn rollback(&mut self, mark: &Mark) {
        // SAFETY: passed on.
        unsafe { self.restore_from(mark.ranges) };
        self.ranges.truncate(mark.ranges);
        self.old.truncate(mark.old);
        self.ordered = mark.ordered;
        self.floor = mark.floor;
        self.tails = [usize::MAX; TAILS];
        self.next_round();
    }

    /// Forgets what was recorded, since the last mark, of places `(start, end)` that nobody has any more. They rise.
    pub(crate) fn forget(&mut self, gone: &[(usize, usize)]) {
        let since = self.ranges.split_off(self.floor);
        for range in since {
            let end = range.addr + range.len;
            let mut keep = |from: usize, to: usize| {
                if from < to {
                    let old = match range.old {
                        FRESH => FRESH,
                        old => old + (from - range.addr),
                    };
                    let (addr, len) = (from, to - from);
                    self.ranges.push(Range { addr, len, old });
                }
            };
            let mut at = range.addr;
            let first = gone.partition_point(|&(_, to)| to <= at);
            for &(from, to) in gone[first..].iter().take_while(|(from, _)| *from < end) {
                keep(at, from);
                at = to;
            }
            keep(at, end);
        }
        // So that the last old bytes are those of the last range that has any.
        let mut kept = self.ranges.iter().rev().filter(|range| range.old != FRESH);
        let kept = kept.next().map_or(0, |range| range.old + range.len);
        self.old.truncate(kept);
        self.ordered |= self.ranges.is_empty();
        self.tails = [usize::MAX; TAILS];
        self.next_round();
    }

    /// The ranges, as `(start, end)`, in no order.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (usize, usize)> {
        let ranges = self.ranges.iter();
        ranges.map(|range| (range.addr, range.addr + range.len))
    }

    /// Nothing was changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Keeps the bytes at `ptr` before they are changed.
    ///
    /// # Safety
    ///
    /// `ptr` is readable for `len` bytes and nobody else writes there until the transaction has ended.
    #[inline]
    pub(crate) unsafe fn change(&mut self, ptr: *const u8, len: usize) {
        let addr = ptr.addr();
        if len == 0 || self.is_recent(addr, len) {
            return;
        }
        let old = self.old.len();
        self.old.reserve(len);
        // SAFETY: `ptr` is readable by the caller's promise, the buffer has room. The bytes are
        // copied untyped, so padding in them does no harm.
        unsafe {
            ptr::copy_nonoverlapping(ptr, self.old.as_mut_ptr().add(old), len);
            self.old.set_len(old + len);
        }
        match self.ranges[self.floor..].last_mut() {
            // The old bytes of the last range end where these begin.
            Some(last) if last.addr + last.len == addr && last.old != FRESH => last.len += len,
            _ => {
                let last = self.ranges.last();
                self.ordered &= last.is_none_or(|last| last.addr + last.len <= addr);
                self.ranges.push(Range { addr, len, old });
            }
        }
    }

    /// Records a range whose old bytes nobody will miss.
    #[inline]
    pub(crate) fn wrote(&mut self, addr: usize, len: usize) {
        let end = addr + len;
        for tail in self.tails {
            let Some(range) = self.ranges.get_mut(tail) else {
                continue;
            };
            if addr < range.addr || addr > range.addr + range.len {
                continue;
            }
            if end > range.addr + range.len {
                range.len = end - range.addr;
                let next = self.ranges.get(tail + 1);
                self.ordered &= next.is_none_or(|next| end <= next.addr);
            }
            return;
        }
        if len == 0 {
            return;
        }
        let last = self.ranges.last();
        self.ordered &= last.is_none_or(|last| last.addr + last.len <= addr);
        self.tails[self.next_tail] = self.ranges.len();
        self.next_tail = (self.next_tail + 1) % TAILS;
        let old = FRESH;
        self.ranges.push(Range { addr, len, old });
    }

    /// As [`wrote`](Self::wrote), for a block that may be asked for.
    pub(crate) fn wrote_block(&mut self, addr: usize, size: usize) {
        self.wrote(addr, size);
        self.blocks.cover(addr);
    }

    /// Whether all of a block is recorded: since it is new, or now that it is asked for often enough.
    ///
    /// # Safety
    ///
    /// As [`change`](Self::change), for all of the block.
    #[inline]
    pub(crate) unsafe fn change_block(&mut self, block: *const u8, size: usize) -> bool {
        match self.blocks.touch(block.addr()) {
            Touched::Covered => true,
            Touched::Seldom => false,
            Touched::Often => {
                // SAFETY: passed on.
                unsafe { self.change(block, size) };
                true
            }
        }
    }

    /// A block is about to be asked for by [`change_block`](Self::change_block).
    #[inline]
    pub(crate) fn expect_block(&self, block: *const u8) {
        self.blocks.expect(block.addr());
    }

    /// Whether the range lies in one that is recorded; if not, the filter takes it for recorded.
    #[inline]
    fn is_recent(&mut self, addr: usize, len: usize) -> bool {
        let recent = &mut self.recent[(addr >> 3) % RECENT];
        let end = addr + len;
        if recent.round == self.round && recent.addr <= addr && end <= recent.end {
            return true;
        }
        *recent = Recent {
            addr,
            end,
            round: self.round,
        };
        false
    }

    /// Puts the old bytes back, the last change first.
    ///
    /// # Safety
    ///
    /// The ranges are still writable, and nobody else reads or writes them.
    pub(crate) unsafe fn restore(&mut self) {
        // SAFETY: passed on.
        unsafe { self.restore_from(0) };
    }

    unsafe fn restore_from(&self, first: usize) {
        let ranges = self.ranges[first..].iter().rev();
        for range in ranges.filter(|range| range.old != FRESH) {
            let old = &self.old[range.old..range.old + range.len];
            let to = ptr::with_exposed_provenance_mut::<u8>(range.addr);
            // SAFETY: the range is writable by the caller's promise; the arena is elsewhere.
            unsafe { ptr::copy_nonoverlapping(old.as_ptr(), to, range.len) };
        }
    }

    /// Hands out the changed ranges as `(address, length)`, in rising order and without overlap.
    #[inline]
    pub(crate) fn emit(&mut self, mut to: impl FnMut(usize, usize)) {
        if self.ordered {
            for range in &self.ranges {
                to(range.addr, range.len);
            }
            return;
        }
        self.sorted.clear();
        let pairs = self.ranges.iter().map(|range| (range.addr, range.len));
        self.sorted.extend(pairs);
        self.sorted.sort_unstable();
        let (mut addr, mut len) = self.sorted[0];
        for &(next, next_len) in &self.sorted[1..] {
            if next <= addr + len {
                len = len.max(next + next_len - addr);
            } else {
                to(addr, len);
                (addr, len) = (next, next_len);
            }
        }
        to(addr, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emitted(changes: &mut Changes) -> Vec<(usize, usize)> {
        let mut ranges = Vec::new();
        changes.emit(|addr, len| ranges.push((addr, len)));
        ranges
    }

    #[test]
    fn new_bytes_written_in_turns_are_few_ranges() {
        let mut changes = Changes::new();
        for i in 0..1000 {
            changes.wrote(100_000 + 64 * i, 64);
            changes.wrote(8 * i, 8);
        }
        assert_eq!(changes.ranges.len(), 2);
        assert_eq!(emitted(&mut changes), [(0, 8000), (100_000, 64_000)]);
        changes.clear();
        changes.wrote(8, 8);
        changes.wrote(16, 8);
        changes.wrote(8, 4);
        assert_eq!(emitted(&mut changes), [(8, 16)]);
    }

    #[test]
    fn ranges_that_grow_into_others_are_merged() {
        let mut changes = Changes::new();
        changes.wrote(0, 10);
        changes.wrote(20, 10);
        changes.wrote(10, 15);
        assert_eq!(emitted(&mut changes), [(0, 30)]);
    }

    #[test]
    fn old_bytes_come_back_whatever_the_order() {
        let mut place = [7u64; 8];
        let at = (&raw mut place).cast::<u8>();
        at.expose_provenance();
        let mut changes = Changes::new();
        // SAFETY: within `place`, which this test has for itself.
        unsafe {
            for (offset, len, byte) in [(8, 8, 1), (16, 8, 2), (0, 64, 3), (8, 16, 4), (60, 4, 5)] {
                changes.change(at.add(offset), len);
                at.add(offset).write_bytes(byte, len);
            }
            assert_eq!(emitted(&mut changes), [(at.addr(), 64)]);
            changes.restore();
        }
        assert_eq!(place, [7; 8]);
    }

    #[test]
    fn places_that_are_gone_are_cut_out_and_the_rest_is_taken_back() {
        let mut place = [7u64; 8];
        let at = (&raw mut place).cast::<u8>();
        at.expose_provenance();
        let word = |i: usize| at.addr() + 8 * i;
        let mut changes = Changes::new();
        let change = |changes: &mut Changes, i: usize, words: usize| {
            // SAFETY: within `place`, which this test has for itself.
            unsafe {
                changes.change(at.add(8 * i), 8 * words);
                at.add(8 * i).write_bytes(1, 8 * words);
            }
        };
        changes.wrote(0x1000, 0x100);
        changes.forget(&[(0x1000, 0x1100)]);
        assert!(changes.is_empty());
        change(&mut changes, 0, 1);
        let mark = changes.mark();
        changes.wrote(0x1000, 0x100);
        change(&mut changes, 2, 4);
        changes.wrote(0x2000, 0x10);
        // Its old bytes go with it, and nobody else's.
        change(&mut changes, 7, 1);
        let gone = [
            (0x1000, 0x1010),
            (0x1020, 0x1030),
            (0x10f0, 0x1200),
            (0x1ff0, 0x2020),
            (word(3), word(4)),
            (word(7), word(8)),
        ];
        changes.forget(&gone);
        // In a row with what is there, and recorded again although it was a moment ago.
        change(&mut changes, 6, 1);
        change(&mut changes, 7, 1);
        assert_eq!(changes.old.len(), 8 + 32 + 16);
        let left = [
            (0x1010, 0x10),
            (0x1030, 0xc0),
            (word(0), 8),
            (word(2), 8),
            (word(4), 32),
        ];
        assert_eq!(emitted(&mut changes), left);
        // SAFETY: as above.
        unsafe { changes.rollback(&mark) };
        let ones = 0x0101_0101_0101_0101;
        assert_eq!(place, [ones, 7, 7, ones, 7, 7, 7, ones]);
        // SAFETY: as above.
        unsafe { changes.restore() };
        assert_eq!(place[0], 7);
    }

    #[test]
    fn a_rollback_goes_back_to_its_mark_and_the_rest_is_still_taken_back() {
        let mut place = [7u64; 8];
        let at = (&raw mut place).cast::<u8>();
        at.expose_provenance();
        let mut changes = Changes::new();
        let change = |changes: &mut Changes, offset: usize, byte: u8| {
            // SAFETY: within `place`, which this test has for itself.
            unsafe {
                changes.change(at.add(offset), 8);
                at.add(offset).write_bytes(byte, 8);
            }
        };
        let read = |word: usize| {
            // SAFETY: as above.
            unsafe { at.cast::<u64>().add(word).read() & 0xff }
        };
        change(&mut changes, 0, 1);
        changes.wrote(0x1000, 8);
        let before = emitted(&mut changes);
        let outer = changes.mark();
        // The same place, its neighbour, and the neighbour of what was fresh.
        change(&mut changes, 0, 2);
        change(&mut changes, 8, 2);
        changes.wrote(0x1008, 8);
        let inner = changes.mark();
        change(&mut changes, 0, 3);
        change(&mut changes, 16, 3);
        // SAFETY: as above.
        unsafe { changes.rollback(&inner) };
        assert_eq!([read(0), read(1), read(2)], [2, 2, 7]);
        let inner = changes.mark();
        change(&mut changes, 0, 4);
        change(&mut changes, 8, 4);
        changes.release(&inner);
        change(&mut changes, 8, 5);
        assert_eq!([read(0), read(1)], [4, 5]);
        // SAFETY: as above.
        unsafe { changes.rollback(&outer) };
        assert_eq!([read(0), read(1), read(2)], [1, 7, 7]);
        assert_eq!(emitted(&mut changes), before);
        change(&mut changes, 0, 6);
        // SAFETY: as above.
        unsafe { changes.restore() };
        assert_eq!(place, [7; 8]);
    }
}

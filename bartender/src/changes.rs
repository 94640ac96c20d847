//! What a transaction changed: the old bytes, to take it back, and the ranges, to log the new ones.
//!
//! [`Changes`] is filled before each store and read once, at the end: either [`Changes::restore`]
//! puts the old bytes back in reverse order, or [`Changes::emit`] hands the merged ranges out with
//! the bytes that stand in the view by then. It keeps its buffers, so a warm one allocates nothing.
//! It knows nothing of regions, locks or blocks.

use std::ptr;

/// Marks a range without old bytes: nobody can see it if the transaction aborts.
const FRESH: usize = usize::MAX;

/// Slots of the filter that drops repeated changes of the same place.
const RECENT: usize = 16;

#[derive(Debug, Clone, Copy)]
struct Range {
    addr: usize,
    len: usize,
    /// Where the old bytes start in `old`, or [`FRESH`].
    old: usize,
}

/// Ranges that may still grow: a bulk load fills several places in turns (new blocks, the slots that
/// point to them), each from its start on.
const OPEN: usize = 4;

/// A range that is recorded already.
#[derive(Debug, Clone, Copy)]
struct Recent {
    addr: usize,
    end: usize,
    round: u64,
}

/// Changed ranges of one transaction.
#[derive(Debug)]
pub(crate) struct Changes {
    ranges: Vec<Range>,
    /// Old bytes of the ranges, one after the other.
    old: Vec<u8>,
    recent: [Recent; RECENT],
    /// The last ranges without old bytes, by index.
    open: [usize; OPEN],
    next_open: usize,
    /// Counts the transactions, so that `recent` never needs to be cleared.
    round: u64,
    /// Ranges start in rising order and do not overlap: no sorting at the end.
    ordered: bool,
    sorted: Vec<(usize, usize)>,
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
            open: [usize::MAX; OPEN],
            next_open: 0,
            round: 1,
            ordered: true,
            sorted: Vec::new(),
        }
    }

    /// Forgets everything, keeps the buffers (those of a huge transaction are given back).
    #[inline]
    pub(crate) fn clear(&mut self) {
        const KEEP: usize = 1 << 20;
        self.ranges.clear();
        self.old.clear();
        self.sorted.clear();
        if self.ranges.capacity() > KEEP / size_of::<Range>() {
            self.ranges.shrink_to(KEEP / size_of::<Range>());
            self.sorted.shrink_to(KEEP / size_of::<Range>());
        }
        if self.old.capacity() > KEEP {
            self.old.shrink_to(KEEP);
        }
        self.open = [usize::MAX; OPEN];
        self.round += 1;
        self.ordered = true;
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
        match self.ranges.last_mut() {
            // The old bytes of the last range end where these begin.
            Some(last) if last.addr + last.len == addr && last.old != FRESH => last.len += len,
            last => {
                self.ordered &= last.is_none_or(|last| last.addr + last.len <= addr);
                self.ranges.push(Range { addr, len, old });
            }
        }
    }

    /// Records a range whose old bytes nobody will miss.
    #[inline]
    pub(crate) fn wrote(&mut self, addr: usize, len: usize) {
        if len == 0 || self.is_recent(addr, len) {
            return;
        }
        for &i in &self.open {
            if let Some(open) = self.ranges.get_mut(i)
                && open.addr + open.len == addr
            {
                open.len += len;
                return;
            }
        }
        self.open[self.next_open] = self.ranges.len();
        self.next_open = (self.next_open + 1) % OPEN;
        let last = self.ranges.last();
        self.ordered &= last.is_none_or(|last| last.addr + last.len <= addr);
        let old = FRESH;
        self.ranges.push(Range { addr, len, old });
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
        for range in self.ranges.iter().rev().filter(|range| range.old != FRESH) {
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

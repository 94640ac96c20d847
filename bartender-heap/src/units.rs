//! Free runs of units, in DRAM: which are there, which one to take, how far the
//! home has grown.
//!
//! It promises that runs it hands out never overlap and never touch the table.
//! It does no I/O: who asks grows the region first and then says so.

use crate::layout::UNIT;
use crate::table::{Piece, pieces};
use std::collections::{BTreeMap, BTreeSet};

/// The region grows to multiples of so many units (2 MiB).
const GRAIN: u64 = (2 << 20) / UNIT;
/// The region grows ahead of demand by this fraction of what is there …
const STEP: u64 = 64;
/// … but by no more than this (64 MiB).
const MAX_STEP: u64 = (64 << 20) / UNIT;

/// A run of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// First unit.
    pub(crate) start: u64,
    /// Units.
    pub(crate) len: u64,
    /// Highest sequence number that was drawn when any part of it was freed, 0
    /// if it never was in use: it is fresh once the checkpoint has reached that.
    pub(crate) stamp: u64,
}

/// The free runs: those that have their space in the file, and the *holes*,
/// which gave it back and have to be filled before they are used.
///
/// Neighbours of one kind are merged; the newer stamp wins.
#[derive(Debug)]
pub(crate) struct Units {
    /// Units of the region at its maximum size.
    max: u64,
    /// Units allocated in the file.
    end: u64,
    filled: Runs,
    holes: Runs,
    /// Units that were ever free, that is all but the table's and the header's.
    total: u64,
    /// Most units that were taken at one time.
    peak: u64,
}

impl Units {
    /// Nothing is free and nothing has grown, in a home of up to `max` units.
    pub(crate) fn new(max: u64) -> Self {
        Units {
            max,
            end: 0,
            filled: Runs::default(),
            holes: Runs::default(),
            total: 0,
            peak: 0,
        }
    }

    /// Free units, holes among them.
    pub(crate) fn free(&self) -> u64 {
        self.filled.count + self.holes.count
    }

    /// Free units without space in the file.
    pub(crate) fn holes(&self) -> u64 {
        self.holes.count
    }

    /// Units that are in use.
    pub(crate) fn taken(&self) -> u64 {
        self.total - self.free()
    }

    /// Most units that were taken at one time.
    pub(crate) fn peak(&self) -> u64 {
        self.peak
    }

    /// Home bytes of each hole, in rising order.
    pub(crate) fn each_hole(&self) -> Vec<std::ops::Range<u64>> {
        let holes = self.holes.free.iter();
        holes
            .map(|(start, (len, _))| start * UNIT..(start + len) * UNIT)
            .collect()
    }

    /// Units that the file has, holes among them.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Units of the home at its maximum size.
    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// The region has grown to `end` units: what is new and not the table's is free.
    pub(crate) fn grown(&mut self, end: u64, stamp: u64) {
        let end = end.min(self.max);
        let from = self.end;
        self.end = self.end.max(end);
        for piece in pieces(self.max) {
            let start = piece.behind().max(from);
            let end = piece.end.min(self.end);
            if start < end {
                self.total += end - start;
                let len = end - start;
                self.filled.give(Run { start, len, stamp });
            }
        }
    }

    /// Nobody knows which of what is free has its space: all of it counts as holes.
    pub(crate) fn forget_filled(&mut self) {
        let filled = std::mem::take(&mut self.filled);
        for (start, (len, stamp)) in filled.free {
            self.holes.give(Run { start, len, stamp });
        }
    }

    /// How far the region has to grow for a run of `len` units at a multiple of
    /// `align`: (at least, better). `None`: it never can.
    pub(crate) fn growth(&self, len: u64, align: u64) -> Option<(u64, u64)> {
        let mut start = match self.filled.free.last_key_value() {
            Some((&start, &(len, _))) if start + len == self.end => start,
            _ => self.end,
        };
        let need = loop {
            if start >= self.max {
                return None;
            }
            let piece = Piece::of(start, self.max);
            start = start.max(piece.behind()).checked_next_multiple_of(align)?;
            let end = start.checked_add(len)?;
            if end <= piece.end {
                break end;
            }
            start = piece.end;
        };
        Some(self.ends(need))
    }

    /// The same for the units `start..start + len`: where only free ones lie between
    /// `start` and the region's end.
    pub(crate) fn growth_at(&self, start: u64, len: u64) -> Option<(u64, u64)> {
        let last = self.filled.free.range(..=start).next_back();
        let free = start == self.end
            || start < self.end && last.is_some_and(|(at, (have, _))| at + have == self.end);
        let end = start.checked_add(len)?;
        (free && end <= Piece::of(start, self.max).end && start < self.max).then(|| self.ends(end))
    }

    /// Where the region may end that has to reach to `need`: at least, and better.
    fn ends(&self, need: u64) -> (u64, u64) {
        let step = (self.end / STEP).clamp(GRAIN, MAX_STEP);
        let round = |end: u64| end.next_multiple_of(GRAIN).min(self.max);
        (round(need), round(need.max(self.end + step)))
    }

    /// Takes the smallest run of at least `len` units that has its space, cut to
    /// `len` at a multiple of `align`.
    pub(crate) fn take(&mut self, len: u64, align: u64) -> Option<Run> {
        let run = self.filled.take(len, align)?;
        self.peak = self.peak.max(self.taken());
        Some(run)
    }

    /// Takes exactly the units `start..start + len`, which have their space; false if
    /// they are not all free, or have not.
    pub(crate) fn take_filled_at(&mut self, start: u64, len: u64) -> bool {
        let taken = self.filled.take_at(start, len);
        self.peak = self.peak.max(self.taken());
        taken
    }

    /// Takes exactly the units `start..start + len`; false if they are not all free.
    pub(crate) fn take_at(&mut self, start: u64, len: u64) -> bool {
        if !self.filled.take_at(start, len) && !self.holes.take_at(start, len) {
            return false;
        }
        self.peak = self.peak.max(self.taken());
        true
    }

    /// Takes a run back, which has its space.
    pub(crate) fn give(&mut self, run: Run) {
        self.filled.give(run);
    }

    /// A hole to be filled for a run of `len` units at a multiple of `align`: it is
    /// somewhat longer, so that the next ones need no system call. To be given
    /// back by [`Self::give`], or [`Self::give_hole`] where that failed.
    pub(crate) fn take_hole(&mut self, len: u64, align: u64) -> Option<Run> {
        let step = (self.end / STEP).clamp(GRAIN, MAX_STEP).max(len);
        let run = self.holes.take(step, align);
        run.or_else(|| self.holes.take(len, align))
    }

    /// The same, whatever its length: where nothing else is left.
    pub(crate) fn take_longest_hole(&mut self) -> Option<Run> {
        let len = self.holes.by_len.last()?.0;
        self.holes.take(len, 1)
    }

    /// Takes a run back whose space is gone.
    pub(crate) fn give_hole(&mut self, run: Run) {
        self.holes.give(run);
    }

    /// Takes the longest run that has its space, if it has `len` units at least
    /// and was last in use at `stamp` or before; for the space to be given back.
    pub(crate) fn take_idle(&mut self, len: u64, stamp: u64) -> Option<Run> {
        let long = self.filled.by_len.range((len, 0)..).rev();
        let (len, start) = long
            .copied()
            .find(|(_, start)| self.filled.free[start].1 <= stamp)?;
        let stamp = self.filled.remove(start);
        Some(Run { start, len, stamp })
    }
}

/// Runs of one kind.
#[derive(Debug, Default)]
struct Runs {
    /// Start → (length, stamp).
    free: BTreeMap<u64, (u64, u64)>,
    /// (Length, start), for best fit at the lowest place.
    by_len: BTreeSet<(u64, u64)>,
    /// Sum of the lengths.
    count: u64,
}

impl Runs {
    fn take(&mut self, len: u64, align: u64) -> Option<Run> {
        let (run, start) = self.by_len.range((len, 0)..).find_map(|&(have, at)| {
            let start = at.next_multiple_of(align);
            (start + len <= at + have).then_some(((have, at), start))
        })?;
        let (have, at) = run;
        let stamp = self.remove(at);
        if at < start {
            self.insert(at, start - at, stamp);
        }
        if start + len < at + have {
            self.insert(start + len, at + have - start - len, stamp);
        }
        Some(Run { start, len, stamp })
    }

    fn take_at(&mut self, start: u64, len: u64) -> bool {
        let Some((&at, &(have, stamp))) = self.free.range(..=start).next_back() else {
            return false;
        };
        if start + len > at + have {
            return false;
        }
        self.remove(at);
        if at < start {
            self.insert(at, start - at, stamp);
        }
        if start + len < at + have {
            self.insert(start + len, at + have - start - len, stamp);
        }
        true
    }

    fn give(&mut self, run: Run) {
        let Run {
            mut start,
            mut len,
            mut stamp,
        } = run;
        if let Some((&before, &(have, _))) = self.free.range(..start).next_back() {
            debug_assert!(before + have <= start, "a run was given back twice");
            if before + have == start {
                stamp = stamp.max(self.remove(before));
                start = before;
                len += have;
            }
        }
        if let Some(&(have, _)) = self.free.get(&(start + len)) {
            stamp = stamp.max(self.remove(start + len));
            len += have;
        }
        self.insert(start, len, stamp);
    }

    fn insert(&mut self, start: u64, len: u64, stamp: u64) {
        self.free.insert(start, (len, stamp));
        self.by_len.insert((len, start));
        self.count += len;
    }

    fn remove(&mut self, start: u64) -> u64 {
        let (len, stamp) = self.free.remove(&start).expect("a free run starts there");
        self.by_len.remove(&(len, start));
        self.count -= len;
        stamp
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn growth_steps_over_the_table() {
        let mut units = Units::new(20_000);
        units.grown(256, 0);
        assert_eq!(units.free(), 256 - 17);
        assert_eq!(units.growth(8100, 1).map(|g| g.0), Some(8192));
        assert_eq!(units.growth(8176, 1), Some((16384, 16384)));
        assert_eq!(units.growth(8177, 1), None);
        units.grown(16384, 0);
        let run = units.take(8000, 16).expect("room for it");
        assert!(
            run.start.is_multiple_of(16) && (run.start >= 8192 + 16 || run.start + 8000 <= 8192)
        );
    }

    #[test]
    fn merged_runs_keep_the_newer_stamp() {
        let mut units = Units::new(256);
        units.grown(256, 0);
        let a = units.take(8, 1).expect("free");
        let b = units.take(8, 1).expect("free");
        units.give(Run { stamp: 7, ..a });
        assert_eq!(units.take(8, 1).map(|run| run.stamp), Some(7));
        units.give(Run { stamp: 3, ..a });
        units.give(Run { stamp: 5, ..b });
        assert_eq!(units.take(200, 1).map(|run| run.stamp), Some(5));
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "safe code, many steps")]
        fn runs_never_overlap_and_all_come_back(
            ops in prop::collection::vec((1u64..300, 0u32..4, any::<prop::sample::Index>()), 1..200)
        ) {
            let max = 20_000;
            let mut units = Units::new(max);
            units.grown(256, 0);
            let mut owned = vec![false; max as usize];
            for piece in pieces(max) {
                owned[piece.at as usize..piece.behind() as usize].fill(true);
            }
            owned[0] = true;
            let mut held: Vec<Run> = Vec::new();
            for (len, shift, pick) in ops {
                if len % 3 == 0 && !held.is_empty() {
                    let run = held.swap_remove(pick.index(held.len()));
                    owned[run.start as usize..(run.start + run.len) as usize].fill(false);
                    units.give(run);
                    continue;
                }
                if len % 5 == 0 && let Some(run) = units.take_idle(len, u64::MAX) {
                    units.give_hole(run);
                }
                let align = 1 << shift;
                let run = units.take(len, align).or_else(|| {
                    if let Some(hole) = units.take_hole(len, align) {
                        units.give(hole);
                        return Some(units.take(len, align).expect("the hole is long enough"));
                    }
                    let (need, _) = units.growth(len, align)?;
                    units.grown(need, 0);
                    Some(units.take(len, align).expect("growth makes room"))
                });
                if let Some(run) = run {
                    prop_assert!(run.start.is_multiple_of(align) && run.start + run.len <= units.end());
                    let range = run.start as usize..(run.start + run.len) as usize;
                    prop_assert!(!owned[range.clone()].contains(&true));
                    owned[range].fill(true);
                    held.push(run);
                }
            }
            for run in held {
                units.give(run);
            }
            let holes = units.holes();
            let mut filled = 0;
            while let Some(hole) = units.take_longest_hole() {
                filled += hole.len;
                units.give(hole);
            }
            prop_assert_eq!((holes, units.taken()), (filled, 0));
            let table: u64 = pieces(max)
                .filter(|piece| piece.at < units.end())
                .map(|piece| piece.behind().min(units.end()) - piece.at)
                .sum();
            prop_assert_eq!(units.free(), units.end() - table - 1);
        }
    }
}

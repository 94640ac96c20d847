//! Counting and checking what a heap holds, without changing it.
//!
//! It promises that a check which succeeds has seen every block, and that one
//! which fails names a place. It does not repair anything.

use super::{Heap, home};
use crate::class::{self, CLASSES};
use crate::error::{Error, Result};
use crate::layout::UNIT;
use crate::mark::{MarkReport, View, mark};
use crate::marks::Marks;
use crate::stats::{CheckReport, ClassStats, Stats};
use crate::table::{self, Extent};
use std::time::Instant;

impl Heap {
    /// The heap in numbers. Cost: the global lock, and a look at each bitmap.
    pub fn stats(&self) -> Stats {
        let (mut global, map) = self.arena.lock();
        global.collect();
        global.flush(map, &self.region);
        let (end, max) = (global.units.end(), global.units.max());
        let pieces = table::pieces(max).filter(|piece| piece.at < end);
        let table: u64 = pieces.map(|piece| piece.behind().min(end) - piece.at).sum();
        let mut stats = Stats {
            reserved_peak: (global.units.peak() - self.schema_at.1) * UNIT,
            free_bytes: global.units.free() * UNIT,
            returned_bytes: global.units.holes() * UNIT,
            table_bytes: (1 + table + self.schema_at.1) * UNIT,
            home_bytes: self.region.size(),
            max_bytes: self.region.max_size(),
            marking: self.marking(),
            dram_bytes: global.pool.bytes() + global.local_bytes() + map.bytes(),
            ..Stats::default()
        };
        let mut classes = [ClassStats::default(); CLASSES];
        for superblock in map.all() {
            let live = u64::from(superblock.live());
            stats.live_blocks += live;
            stats.live_bytes += live * superblock.size();
            let reserved = u64::from(superblock.entry().units) * UNIT;
            stats.reserved_bytes += reserved;
            if superblock.is_large() {
                stats.large_runs += 1;
                continue;
            }
            let blocks = u64::from(superblock.blocks());
            stats.remote_frees += superblock.waiting();
            stats.by_use.add(live, blocks);
            let class = &mut classes[superblock.class()];
            class.size = superblock.size();
            class.superblocks += 1;
            class.reserved_bytes += reserved;
            class.blocks += blocks;
            class.live_blocks += live;
            if global.owns(superblock) {
                stats.global_superblocks += 1;
            } else {
                stats.thread_superblocks += 1;
            }
        }
        stats.classes = classes
            .into_iter()
            .filter(|class| class.superblocks > 0)
            .collect();
        stats
    }

    /// Marks what the root leads to and compares it with what is allocated,
    /// changing nothing. No transaction may run meanwhile. Waits for marking in the
    /// background first.
    ///
    /// # Errors
    /// As [`Heap::wait_marked`]; `BadData` with the path to what cannot be, which may be a free block;
    /// `Leaked` if something allocated cannot be reached.
    pub fn check(&self) -> Result<CheckReport> {
        self.wait_marked()?;
        let start = Instant::now();
        if self.schema.is_untyped() {
            return self.check_untyped();
        }
        let marks = self.allocated();
        let view = View::at(self.base, home(&self.region));
        let root = self.root().map_or(0, |root| root.addr().get() as u64);
        let MarkReport { blocks, bytes, .. } = mark(&self.schema, root, view, &marks)?;
        let mut leaked = (0, 0, None);
        each_lost(&marks, |offset, size| {
            leaked.0 += 1;
            leaked.1 += size;
            leaked.2.get_or_insert(offset);
        });
        if let (blocks, bytes, Some(first)) = leaked {
            return Err(Error::Leaked {
                blocks,
                bytes,
                first,
            });
        }
        Ok(CheckReport {
            blocks,
            bytes,
            took: start.elapsed(),
        })
    }

    /// No marks yet, on what is allocated now.
    pub(super) fn allocated(&self) -> Marks {
        let (global, map) = self.arena.lock();
        let alive = map.all();
        let extents = alive.map(|superblock| {
            let extent = Extent {
                unit: superblock.unit(),
                entry: superblock.entry(),
            };
            (extent, superblock.free_words().collect())
        });
        Marks::with_free(extents, global.units.end())
    }
}

/// Calls `f` with home offset and size of each block that is neither marked nor free.
pub(super) fn each_lost(marks: &Marks, mut f: impl FnMut(u64, u64)) {
    for (extent, size, words) in marks.each() {
        let in_all = class::TABLE
            .get(extent.entry.class as usize)
            .map_or(1, |c| c.blocks);
        for (at, (mark, free)) in words.enumerate() {
            let rest = in_all as usize - at * 64;
            let all = if rest < 64 { (1 << rest) - 1 } else { !0 };
            let mut lost: u64 = !(mark | free) & all;
            while lost != 0 {
                let index = at as u64 * 64 + u64::from(lost.trailing_zeros());
                lost &= lost - 1;
                f(extent.unit * UNIT + index * size, size);
            }
        }
    }
}

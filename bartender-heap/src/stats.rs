//! What a heap tells about itself. Numbers only; `heap` counts them.

use std::fmt;
use std::time::Duration;

/// How a heap was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct OpenReport {
    /// The heap was created.
    pub created: bool,
    /// The live blocks are found by marking; else the last clean close had saved them.
    pub marked: bool,
    /// They are being found in the background: none of them is counted here.
    pub background: bool,
    /// Live blocks.
    pub blocks: u64,
    /// Their usable bytes.
    pub bytes: u64,
    /// How long opening the heap took, without opening the region.
    pub took: Duration,
}

/// How far marking in the background has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MarkProgress {
    /// It goes on. Else it is through, was stopped, or never began.
    pub under_way: bool,
    /// Live blocks found so far.
    pub blocks: u64,
    /// Their usable bytes.
    pub bytes: u64,
    /// Bytes of the superblocks in which it looks: there are no more.
    pub of_bytes: u64,
    /// How long it has been going on, or took.
    pub took: Duration,
}

/// What a check found: everything that is allocated can be reached, and the
/// other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CheckReport {
    /// Live blocks.
    pub blocks: u64,
    /// Their usable bytes.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// What collecting took back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Collected {
    /// Blocks that nothing led to.
    pub blocks: u64,
    /// Their usable bytes.
    pub bytes: u64,
    /// Blocks that stay.
    pub live_blocks: u64,
    /// Their usable bytes.
    pub live_bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// A heap in numbers. Bytes, unless it says otherwise. Numbers of threads that
/// are at work are a moment old. `{}` prints the sums, `{:#}` the classes too.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Blocks handed out; while marking is under way, all blocks of superblocks that it
    /// has not come to.
    pub live_blocks: u64,
    /// Their usable bytes.
    pub live_bytes: u64,
    /// Marking in the background.
    pub marking: MarkProgress,
    /// Superblocks that threads own.
    pub thread_superblocks: u64,
    /// Superblocks of the global heap.
    pub global_superblocks: u64,
    /// Large runs.
    pub large_runs: u64,
    /// Home space in superblocks and runs.
    pub reserved_bytes: u64,
    /// The most that `reserved_bytes` ever was since the heap was opened.
    pub reserved_peak: u64,
    /// Home space that is free for any use.
    pub free_bytes: u64,
    /// Free home space that was given back to the file system, or of which nobody
    /// knows that it was not.
    pub returned_bytes: u64,
    /// Home space of the header, the schema and the table.
    pub table_bytes: u64,
    /// Home space allocated in the file.
    pub home_bytes: u64,
    /// Home space at most.
    pub max_bytes: u64,
    /// DRAM that the allocator takes.
    pub dram_bytes: u64,
    /// Blocks that were given back by other threads than their superblock's, which
    /// has not heard of it yet. They do not count as handed out.
    pub remote_frees: u64,
    /// Superblocks by how many of their blocks are handed out.
    pub by_use: ByUse,
    /// The size classes of which there are superblocks, the smallest first.
    pub classes: Vec<ClassStats>,
}

/// Superblocks by how many of their blocks are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ByUse {
    /// None.
    pub empty: u64,
    /// Up to a quarter.
    pub quarter: u64,
    /// Up to a half.
    pub half: u64,
    /// Up to three quarters.
    pub three_quarters: u64,
    /// More, but not all.
    pub nearly: u64,
    /// All.
    pub full: u64,
}

impl ByUse {
    /// Counts a superblock of `blocks` blocks, `live` of which are handed out.
    pub(crate) fn add(&mut self, live: u64, blocks: u64) {
        let count = match live * 4 {
            0 => &mut self.empty,
            _ if live == blocks => &mut self.full,
            quarters if quarters <= blocks => &mut self.quarter,
            quarters if quarters <= blocks * 2 => &mut self.half,
            quarters if quarters <= blocks * 3 => &mut self.three_quarters,
            _ => &mut self.nearly,
        };
        *count += 1;
    }
}

/// The superblocks of one size class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ClassStats {
    /// Bytes of a block.
    pub size: u64,
    /// Superblocks.
    pub superblocks: u64,
    /// Home space in them.
    pub reserved_bytes: u64,
    /// Their blocks, handed out or not.
    pub blocks: u64,
    /// Blocks handed out.
    pub live_blocks: u64,
}

impl ClassStats {
    /// Usable bytes of the blocks that are handed out.
    pub fn live_bytes(&self) -> u64 {
        self.live_blocks * self.size
    }

    /// The part of their space that is in no block handed out, from 0 to 1.
    pub fn fragmentation(&self) -> f64 {
        match self.reserved_bytes {
            0 => 0.0,
            reserved => 1.0 - self.live_bytes() as f64 / reserved as f64,
        }
    }
}

impl Stats {
    /// Home space beyond the live blocks' for each byte of them, free space not counted.
    pub fn overhead(&self) -> f64 {
        if self.live_bytes == 0 {
            return 0.0;
        }
        (self.reserved_bytes + self.table_bytes) as f64 / self.live_bytes as f64 - 1.0
    }
}

/// A number of bytes for people.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["KiB", "MiB", "GiB", "TiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let power = (self.0.ilog2() / 10).min(4);
        let value = self.0 as f64 / (1u64 << (10 * power)) as f64;
        write!(f, "{value:.1} {}", units[power as usize - 1])
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "live        {:>12} in {} blocks",
            Bytes(self.live_bytes).to_string(),
            self.live_blocks
        )?;
        writeln!(
            f,
            "reserved    {:>12} in {} superblocks of threads, {} shared, {} large runs; at most {}",
            Bytes(self.reserved_bytes).to_string(),
            self.thread_superblocks,
            self.global_superblocks,
            self.large_runs,
            Bytes(self.reserved_peak)
        )?;
        writeln!(
            f,
            "free        {:>12}, {} of them given back to the system",
            Bytes(self.free_bytes).to_string(),
            Bytes(self.returned_bytes)
        )?;
        writeln!(f, "table       {:>12}", Bytes(self.table_bytes).to_string())?;
        writeln!(
            f,
            "home        {:>12} of {}",
            Bytes(self.home_bytes).to_string(),
            Bytes(self.max_bytes)
        )?;
        writeln!(f, "overhead    {:>11.1}%", self.overhead() * 100.0)?;
        writeln!(f, "memory      {:>12}", Bytes(self.dram_bytes).to_string())?;
        let by = &self.by_use;
        write!(
            f,
            "superblocks in use: {} not at all, {} up to ¼, {} to ½, {} to ¾, {} above, {} wholly; \
             {} blocks on their way back",
            by.empty, by.quarter, by.half, by.three_quarters, by.nearly, by.full, self.remote_frees
        )?;
        if self.marking.under_way {
            let of = self.marking.of_bytes;
            write!(
                f,
                "\nmarking     {:>12} found live so far in {} that were there at opening",
                Bytes(self.marking.bytes).to_string(),
                Bytes(of)
            )?;
        }
        if !f.alternate() {
            return Ok(());
        }
        for class in &self.classes {
            write!(
                f,
                "\nblocks of {:>9}: {:>9} of {:>9} in {:>6} superblocks, {:>4.1}% of {} unused",
                Bytes(class.size).to_string(),
                class.live_blocks,
                class.blocks,
                class.superblocks,
                class.fragmentation() * 100.0,
                Bytes(class.reserved_bytes)
            )?;
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_superblock_counts_where_its_use_lies() {
        let mut by = ByUse::default();
        for live in 0..=8 {
            by.add(live, 8);
        }
        let counts = [by.empty, by.quarter, by.half, by.three_quarters, by.nearly];
        assert_eq!((counts, by.full), ([1, 2, 2, 2, 1], 1));
        // The only block of a superblock.
        by.add(1, 1);
        assert_eq!(by.full, 2);
    }
}

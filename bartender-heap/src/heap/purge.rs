//! Giving free space back to the system, by call; and copies of the region that leave it out.

use super::Heap;
use crate::error::Result;
use crate::layout::UNIT;
use std::path::Path;

impl Heap {
    /// Writes everything that was committed before the call to a new region at `path`, while transactions go on: see
    /// [`Region::snapshot`](bartender_pm::Region::snapshot).
    ///
    /// # Errors
    /// As there.
    pub fn snapshot(&self, path: impl AsRef<Path>) -> Result<()> {
        let holes = || self.arena.lock().0.units.each_hole();
        Ok(self.region.snapshot(path, holes)?)
    }
}

/// Shortest run that is worth two system calls: 64 KiB.
const LEAST: u64 = (64 << 10) / UNIT;

impl Heap {
    /// Gives the space of all free runs of 64 KiB and more back: to the file
    /// system by punching holes into the home, and to the system the memory of
    /// their view. Returns how many bytes. By itself the heap does the same, in
    /// small parts, after a background checkpoint, with runs of 2 MiB and more
    /// that nobody needed since the checkpoint before, while much is free.
    ///
    /// Nothing goes on a device of persistent memory, on a file system without
    /// holes, or while a frozen picture of the home is alive; and none of what
    /// threads keep for themselves. Marking in the background is waited for.
    ///
    /// Cost: a checkpoint, and two system calls a run, during which the other
    /// threads go on. What was given back costs a system call, and on a disk a
    /// barrier, when it is used again, 2 MiB or more at a time.
    ///
    /// # Errors
    /// Those of the region, and of [`Heap::wait_marked`]. No block is touched; space that was to be given back
    /// is free as before.
    pub fn purge(&self) -> Result<u64> {
        self.wait_marked()?;
        // Free space is safe from the log once the checkpoint has passed its last use.
        let early = bartender_pm::mutant::is("punch_too_early");
        if !early {
            self.region.sync()?;
            self.region.checkpoint()?;
        }
        let (mut global, map) = self.arena.lock();
        global.collect();
        global.flush(map, &self.region);
        drop(global);
        let space = self.region.space();
        let stamp = if early {
            u64::MAX
        } else {
            space.checkpoint_seq()
        };
        Ok(self.arena.punch(space, LEAST, stamp, 0, u64::MAX)? * UNIT)
    }
}

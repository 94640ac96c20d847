//! Giving the space of free runs back to the system.
//!
//! It promises to take a run out of what is free while its space goes, so that
//! nobody gets a block in it meanwhile. Why a hole may be punched there, the
//! region says (`bartender_pm::Space`); which runs are idle, is decided here.

use super::Arena;
use crate::error::Result;
use crate::layout::UNIT;
use crate::units::Run;
use bartender_pm::Space;

/// Shortest run that goes by itself: 2 MiB, a huge page.
const LEAST: u64 = (2 << 20) / UNIT;
/// Units that stay in any case: 16 MiB.
const KEEP: u64 = (16 << 20) / UNIT;
/// Free units for each unit in use that stay: a program that frees an eighth of
/// what it has is likely to want it back.
const KEEP_PART: u64 = 8;
/// Units that go at once: 64 MiB.
const MOST: u64 = (64 << 20) / UNIT;

impl Arena {
    /// Gives back what has been free since the last call and is more than is
    /// likely to be needed soon, a bounded part of it. By one thread at a time.
    pub(crate) fn tidy(&self, space: Space<'_>) -> Result<()> {
        let (mut global, _) = self.lock();
        let idle_since = std::mem::replace(&mut global.tidied, space.checkpoint_seq());
        let keep = KEEP.max(global.units.taken() / KEEP_PART);
        drop(global);
        self.punch(space, LEAST, idle_since, keep, MOST)?;
        Ok(())
    }

    /// Gives the space of free runs of at least `least` units back that were last
    /// in use at `stamp` or before, the longest first, while more than `keep` free
    /// units have theirs, and no more than `most`. Returns how many units went.
    pub(crate) fn punch(
        &self,
        space: Space<'_>,
        least: u64,
        stamp: u64,
        keep: u64,
        most: u64,
    ) -> Result<u64> {
        let mut gone = 0;
        while gone < most {
            let (mut global, _) = self.lock();
            let units = &mut global.units;
            let spare = (units.free() - units.holes()).saturating_sub(keep);
            if spare < least {
                break;
            }
            let Some(run) = units.take_idle(least, stamp) else {
                break;
            };
            let (goes, stays) = run.split_at(spare.min(most - gone).max(least));
            if let Some(stays) = stays {
                units.give(stays);
            }
            drop(global);
            let range = goes.start * UNIT..(goes.start + goes.len) * UNIT;
            // SAFETY: what was free is ours alone as long as it is out of the
            // lists; no block of it is live, so nobody has a pointer to one.
            let punched = unsafe { space.punch(range, goes.stamp) };
            let (mut global, _) = self.lock();
            match punched {
                Ok(false) => {
                    global.units.give(goes);
                    break;
                }
                Ok(true) | Err(_) => global.units.give_hole(goes),
            }
            drop(global);
            punched?;
            gone += goes.len;
        }
        Ok(gone)
    }
}

impl Run {
    /// Its first `len` units, and the rest if there is one.
    fn split_at(self, len: u64) -> (Run, Option<Run>) {
        let len = len.min(self.len);
        let rest = Run {
            start: self.start + len,
            len: self.len - len,
            ..self
        };
        (Run { len, ..self }, (rest.len > 0).then_some(rest))
    }
}

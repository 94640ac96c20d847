//! Giving blocks back from afar, and taking in what was given. Why this is
//! right, [`Superblock`] says.

use super::{AlreadyFree, Bitmaps, Ref, Superblock};
use bartender_pm::mutant;
use bartender_pm::sync::atomic::Ordering::*;

impl Superblock {
    /// Gives block `index` back from another thread than the owner's.
    pub(crate) fn give_remote(this: Ref, index: u32) -> Result<(), AlreadyFree> {
        let at = (index / 64) as usize;
        let bit = 1 << (index % 64);
        // If the block is free already, the superblock may be dead, or another.
        let bitmaps = Bitmaps::of(&this).ok_or(AlreadyFree)?;
        let remote = bitmaps.remote(at);
        if mutant::is("free_in_two_steps") {
            let bits = remote.load(Acquire);
            if bits & bit != 0 {
                return Err(AlreadyFree);
            }
            remote.store(bits | bit, Release);
        } else if this.free_from_afar(&bitmaps, at) & bit != 0
            || remote.fetch_or(bit, AcqRel) & bit != 0
        {
            return Err(AlreadyFree);
        }
        // From here on the superblock may be dead (see the type).
        if this.shared.summary.fetch_or(1 << (at / 2), AcqRel) == 0 {
            this.post();
        }
        Ok(())
    }

    /// Whether other threads gave blocks back that nobody has taken in.
    #[inline(always)]
    pub(crate) fn has_remote(&self) -> bool {
        self.shared.summary.load(Relaxed) != 0
    }

    /// Takes in what other threads gave back.
    ///
    /// # Safety
    /// Owner only, who has taken the superblock out of a mailbox.
    pub(crate) unsafe fn collect(&self) {
        let mut summary = if mutant::is("summary_last") {
            self.shared.summary.load(Acquire)
        } else {
            self.shared.summary.swap(0, AcqRel)
        };
        while summary != 0 {
            let pair = summary.trailing_zeros() as usize * 2;
            summary &= summary - 1;
            // The summary may speak of a longer superblock, now dead.
            for at in pair..(pair + 2).min(self.words()) {
                if self.remote_word(at).load(Relaxed) == 0 {
                    continue;
                }
                let remote = self.remote_word(at).swap(0, AcqRel);
                let word = self.free_word(at);
                let new = remote & !self.free(at);
                word.store(word.load(Relaxed) | new, Relaxed);
                // SAFETY: as the caller says, who looks at the count himself.
                unsafe { self.gave(new.count_ones()) };
            }
        }
        if mutant::is("summary_last") {
            self.shared.summary.store(0, Release);
        }
    }

    /// Forgets mail about a dead superblock. By who has taken it out of a mailbox.
    pub(crate) fn discard_mail(&self) {
        self.shared.summary.swap(0, AcqRel);
    }

    /// Puts the superblock into its owner's mailbox. By who raised `summary`
    /// from 0, or has taken it out of a mailbox.
    pub(crate) fn post(&self) {
        let owner = self.shared.owner.load(Acquire);
        // SAFETY: mailboxes are freed with the arena, and who calls this holds
        // the arena.
        unsafe { &*owner }.push(self);
    }
}

//! Giving space of the home back to the file system, and taking it again.
//!
//! A hole may be punched under a range of the home that the caller says is
//! free, and that nothing can bring back to life. Why that is safe:
//!
//! - *The log.* Records above the checkpoint may be replayed, by a checkpoint, a
//!   trim or a recovery. The caller names the highest number that any record
//!   about the range has; it has to be at or below the checkpoint that the
//!   header holds durably, so no replay reaches the range, and no extent that
//!   recovery would verify lies there. Else nothing is done.
//! - *Frozen pictures* follow the file, and may have been taken when the range
//!   was live. While one is alive nothing is punched; the header's lock, which
//!   taking one needs, is held meanwhile.
//! - *The view.* A private page over a hole would show other bytes than the home
//!   for ever after. The view's pages go first, and what it shows from then on
//!   are zeroes, like the hole. The range is nobody's, so nobody reads it.
//! - *A crash in between* leaves any part of the range as it was and the rest as
//!   zeroes: free space has no content. But whoever opens the region next cannot
//!   see where holes are (preallocated space looks like one), so the header says
//!   that there may be some, durably, before the first is made. Then all free
//!   space counts as holes, and is taken again, at no great cost where it is
//!   there, before anybody gets a block in it.
//! - *Space.* A hole has none: storing there may fail when nobody can be told.
//!   [`Space::refill`] allocates it first, durably, as growing does, so that
//!   whatever was acknowledged can go home.
//!
//! It does not know which ranges are free; the heap does.

use crate::error::Result;
use crate::header;
use crate::layout::FLAG_HOLES;
use crate::mutant;
use crate::region::Region;
use crate::shared::Shared;
use crate::sync::atomic::Ordering;
use std::fmt;
use std::ops::Range;

/// The space of a region's home, for who rules it: what is free, and what is not.
#[derive(Clone, Copy)]
pub struct Space<'r> {
    pub(crate) shared: &'r Shared,
}

impl fmt::Debug for Space<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space").finish_non_exhaustive()
    }
}

impl Region {
    /// The space of the home.
    pub fn space(&self) -> Space<'_> {
        Space {
            shared: &self.shared,
        }
    }

    /// Lets the background thread call `tidy` after each of its checkpoints, which
    /// happen when the log has filled a good deal: a time to give back space that
    /// has been free since the last one. Only the first call counts. `tidy` holds
    /// no [`Region`], which could not be closed otherwise.
    pub fn after_checkpoints(&self, tidy: impl Fn(Space<'_>) + Send + Sync + 'static) {
        let call = move |shared: &Shared| tidy(Space { shared });
        self.shared.tidy.set(call);
    }
}

impl Space<'_> {
    /// Everything up to this number is in the home, durably.
    pub fn checkpoint_seq(&self) -> u64 {
        self.shared.home.checkpoint.load(Ordering::Acquire)
    }

    /// Whether [`punch`](Self::punch) can ever give space back: not on a device, nor
    /// on a file system without holes.
    pub fn can_have_holes(&self) -> bool {
        // A replica's home would keep what a hole makes zeroes of, and homes are compared.
        self.shared.medium.has_holes() && self.shared.log.replication().is_none()
    }

    /// Gives the space under a range of the home back to the file system, and
    /// the memory of its view. `last` is the highest number that was drawn when
    /// anything in the range was last in use. What the range holds afterwards is
    /// not defined; [`refill`](Self::refill) comes before anything is stored there.
    ///
    /// `Ok(false)`: not now (`last` is above the checkpoint, or a frozen picture
    /// is alive) or never (the medium has no holes), and nothing has changed.
    ///
    /// Cost: two system calls, and a barrier for the first hole of a region.
    ///
    /// # Errors
    ///
    /// `Io`, `Poisoned`. The range may have lost its space.
    ///
    /// # Panics
    ///
    /// If the range lies beyond [`Region::size`], or is not whole pages.
    ///
    /// # Safety
    ///
    /// The range is the caller's alone, and free: nobody has a pointer into it.
    #[allow(unsafe_code)]
    pub unsafe fn punch(&self, range: Range<u64>, last: u64) -> Result<bool> {
        let shared = self.shared;
        let (medium, home) = (&*shared.medium, &shared.home);
        assert!(
            range.start < range.end && range.end <= home.size.load(Ordering::Acquire),
            "a hole beyond the home"
        );
        assert!(
            range.start.is_multiple_of(4096) && range.end.is_multiple_of(4096),
            "holes consist of pages"
        );
        let mut header = home.header.lock();
        shared.named(shared.log.check())?;
        let stale = last > header.checkpoint && !mutant::is("punch_too_early");
        let pictured = home.frozen.any() && !mutant::is("punch_under_pictures");
        if !self.can_have_holes() || stale || pictured {
            return Ok(false);
        }
        if header.flags & FLAG_HOLES == 0 && !mutant::is("forget_holes") {
            let mut new = *header;
            new.flags |= FLAG_HOLES;
            let written = header::write(medium, &mut new);
            shared.named(written.map_err(|error| shared.log.poison(error)))?;
            *header = new;
        }
        if !mutant::is("punch_below_view") {
            // SAFETY: free and the caller's alone, as it says.
            unsafe { shared.view.release(medium, range.clone()) }?;
            home.private.remove(range.clone());
        }
        medium.punch(home.offset + range.start, range.end - range.start)?;
        Ok(true)
    }

    /// Allocates space under a range of the home again, durably; it costs little
    /// where there is some. The range holds zeroes or what it held before.
    ///
    /// # Errors
    ///
    /// `Io`, as when the disk is full.
    ///
    /// # Panics
    ///
    /// If the range lies beyond [`Region::size`].
    pub fn refill(&self, range: Range<u64>) -> Result<()> {
        let home = &self.shared.home;
        assert!(
            range.start < range.end && range.end <= home.size.load(Ordering::Acquire),
            "space beyond the home"
        );
        if mutant::is("no_refill") {
            return Ok(());
        }
        let medium = &*self.shared.medium;
        medium.refill(home.offset + range.start, range.end - range.start)
    }

    /// Whether free space of the home may be without space on the medium, so
    /// that [`refill`](Self::refill) has to come before its use: some was given
    /// back in this life or one before.
    pub fn may_have_holes(&self) -> bool {
        self.shared.home.header.lock().flags & FLAG_HOLES != 0
    }
}

//! What the allocator needs of a region: space, and the two numbers that tell
//! whether freed space is fresh.
//!
//! A trait, so that the allocator's tests and models need no region.

use crate::error::Result;
use bartender_pm::Region;

/// Where units come from.
pub(crate) trait Home {
    /// Makes home `[0, end)` usable.
    fn extend(&self, end: u64) -> Result<()>;
    /// Sees to it that home `[start, end)`, a hole, has its space again.
    fn refill(&self, start: u64, end: u64) -> Result<()>;
    /// Usable bytes of home.
    fn size(&self) -> u64;
    /// Highest sequence number drawn so far.
    fn last_seq(&self) -> u64;
    /// Everything up to this number is in the home, durably.
    fn checkpoint_seq(&self) -> u64;
}

impl Home for Region {
    fn extend(&self, end: u64) -> Result<()> {
        Ok(Region::extend(self, end)?)
    }

    fn refill(&self, start: u64, end: u64) -> Result<()> {
        Ok(self.space().refill(start..end)?)
    }

    fn size(&self) -> u64 {
        Region::size(self)
    }

    fn last_seq(&self) -> u64 {
        Region::last_seq(self)
    }

    fn checkpoint_seq(&self) -> u64 {
        Region::checkpoint_seq(self)
    }
}

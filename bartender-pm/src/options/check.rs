//! Which values of the options make sense for a new region.

use super::{MIN_LANE, Options};
use crate::error::{Error, Result};
use crate::layout::{HOME_STEP, MAX_LANES};

/// End of the addresses that a process has.
const ADDRESSES: u64 = 1 << 47;

impl Options {
    /// Before a region is made.
    pub(super) fn check(&self) -> Result<()> {
        let bad = |option, what: String| Err(Error::BadOption { option, what });
        if self.max_size == 0 || self.max_size > 1 << 46 {
            return bad(
                "max_size",
                format!("{} is not between 1 byte and 64 TiB", self.max_size),
            );
        }
        if self.lanes == 0 || self.lanes as usize >= MAX_LANES {
            return bad(
                "lanes",
                format!("{} is not between 1 and {}", self.lanes, MAX_LANES - 1),
            );
        }
        if self.log_size < 2 * MIN_LANE || self.log_size > 1 << 40 {
            return bad(
                "log_size",
                format!("{} is not between 8 KiB and 1 TiB", self.log_size),
            );
        }
        if self
            .home_address
            .is_some_and(|a| !a.is_multiple_of(HOME_STEP))
        {
            return bad("home_address", "it is not a multiple of 2 MiB".into());
        }
        if let Some(address) = self.home_address
            && (address == 0 || address > ADDRESSES - self.max_size.next_multiple_of(HOME_STEP))
        {
            return bad(
                "home_address",
                format!(
                    "{address:#x} and {} bytes more do not lie between 2 MiB and 128 TiB",
                    self.max_size
                ),
            );
        }
        Ok(())
    }
}

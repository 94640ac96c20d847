//! Comparing the homes of replicas, and putting right what is damaged in one: what a primary and its backups need of
//! their own regions for that. Who is asked, and who is believed, is decided elsewhere.
//!
//! # When two homes are the same
//!
//! A home is *exact* at a number when all records up to it have changed the home, durably, and none above it has. Homes
//! that are exact at one number are the same in every byte: each is what the same records made of zeroes (a copy that was
//! installed began with a home that some of them had made; what they make is made once more, and they are all below any number that its
//! primary names later). Nothing else ever writes there: a replicated region has no extents that bypass the log and no
//! holes, and what a crash tore is written again by recovery. Headers, logs and what lies behind the shorter home
//! are not compared; the longer one has zeroes there.
//!
//! So the primary takes its home to some number and names it, and each backup takes its own to that number and no further.
//! Nobody stops for it: commits and checkpoints go on, and who is asked about a number at which its home no longer is
//! says so (`Ok(false)` everywhere here), and is asked about a later one.
//!
//! # Repairing
//!
//! *Bytes of a home that is exact at n may be written over another that is exact at n, whenever one likes.* Where that one is
//! sound, they are what it has. A crash on the way leaves each of its units as it was or as it should be; the log above n
//! is untouched, and its records go on top as before. The header's lock, which every checkpoint holds, is held
//! while it is looked whether the home is still at n and until the bytes are durable, so that newer ones are never undone.
//! It is no matter of epochs: what is at or below n is committed, and the same for all primaries to come.
//!
//! A primary's view shows the repaired bytes where the program has not stored to the page. Where it has, the page is a
//! copy of the damaged one: [`Region::heal_view`] lets it follow the home again. What the program read before, it has read.

use crate::checkpoint::Home;
use crate::error::Result;
use crate::layout::Header;
use crate::medium::Medium;
use crate::region::Region;
use crate::standby::Standby;
use crate::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What is compared and repaired: pages, whole ones, of so many bytes.
pub const SCRUB_PAGE: u64 = 4096;

/// How long writers may stay inside when a page of the view is healed, and after that what they appended may take to be durable.
const HEAL_PATIENCE: Duration = Duration::from_millis(10);

impl Home {
    /// Whether it is exact at `number`; the lock on its header is held.
    fn is_exact(&self, header: &Header, number: u64) -> bool {
        let applied = self.applied.load(Ordering::Relaxed);
        header.checkpoint == number && applied == number
            || crate::mutant::is("repair_whenever") && header.checkpoint >= number
    }

    /// Reads pages of a home that is exact at `number`, from where they are kept; zeroes behind its end.
    fn read_exact(
        &self,
        medium: &dyn Medium,
        number: u64,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<bool> {
        let header = self.header.lock();
        if !self.is_exact(&header, number) {
            return Ok(false);
        }
        let size = self.size.load(Ordering::Acquire);
        let there = size.saturating_sub(offset).min(buf.len() as u64) as usize;
        let (buf, behind) = buf.split_at_mut(there);
        behind.fill(0);
        if !buf.is_empty() {
            medium.read_back(self.offset + offset, buf)?;
        }
        Ok(true)
    }

    /// Writes pages of another home that is exact at `number` over this one, if it is too: one barrier.
    fn repair(&self, medium: &dyn Medium, number: u64, offset: u64, bytes: &[u8]) -> Result<bool> {
        let header = self.header.lock();
        if !self.is_exact(&header, number) {
            return Ok(false);
        }
        let size = self.size.load(Ordering::Acquire);
        let there = size.saturating_sub(offset).min(bytes.len() as u64);
        if there > 0 {
            // Pictures keep following the home: what it was when they were taken is what is written.
            medium.write(self.offset + offset, &bytes[..there as usize])?;
            let first = offset / SCRUB_PAGE * SCRUB_PAGE;
            let pages = (first..offset + there).step_by(SCRUB_PAGE as usize);
            self.frozen.repaired(pages);
            medium.persist(&[(self.offset + offset, there)])?;
        }
        Ok(true)
    }
}

impl Region {
    /// Takes everything that is durable home. Returns the number at which the home is exact, until the next checkpoint, and where its
    /// record ends in the stream. Two barriers; none where nothing was to be taken.
    ///
    /// # Errors
    ///
    /// As [`checkpoint`](Self::checkpoint).
    pub fn settle_home(&self) -> Result<(u64, u64)> {
        self.checkpoint()?;
        let header = self.shared.home.header.lock();
        Ok((header.checkpoint, header.heads[0]))
    }

    /// Reads pages of the home, if that is exact at `number`, from the medium and past its caches where that can be done. Zeroes
    /// behind the home's end.
    ///
    /// # Errors
    ///
    /// `Io` if the medium cannot read them.
    pub fn read_home(&self, number: u64, offset: u64, buf: &mut [u8]) -> Result<bool> {
        let shared = &*self.shared;
        let read = shared
            .home
            .read_exact(&*shared.medium, number, offset, buf)?;
        Ok(read)
    }

    /// Writes pages of another replica's home, exact at `number`, over this one's, if it is too, durably.
    /// [`heal_view`](Self::heal_view) comes next.
    ///
    /// # Errors
    ///
    /// Those of the medium: the pages may still be damaged, and others are not.
    pub fn repair_home(&self, number: u64, offset: u64, bytes: &[u8]) -> Result<bool> {
        let shared = &*self.shared;
        shared.named(shared.log.check())?;
        shared.home.repair(&*shared.medium, number, offset, bytes)
    }

    /// Makes the view show what the home has, in these pages. `Ok(false)` if that cannot be now: writers are inside, or not
    /// everything that was appended is durable.
    ///
    /// # Errors
    ///
    /// `Poisoned`, or those of the medium.
    pub fn heal_view(&self, offset: u64, len: u64) -> Result<bool> {
        let shared = &*self.shared;
        let size = self.size();
        let range = offset.min(size)..(offset + len).min(size);
        if range.is_empty() {
            return Ok(true);
        }
        let heal = || {
            // Nothing more is appended, and who appended waits for it: as a rule it is durable soon.
            let start = Instant::now();
            while shared.log.has_unwritten() {
                if start.elapsed() > HEAL_PATIENCE {
                    return Ok(false);
                }
                std::thread::sleep(HEAL_PATIENCE / 100);
            }
            // The gate is shut: home and view are the same then, but for the damage.
            shared.home.apply_only(&*shared.medium, &shared.log)?;
            if shared.view.heal(&*shared.medium, range.clone())? {
                shared.home.private.remove(range);
            }
            Ok(true)
        };
        shared.named(
            shared
                .gate
                .shut_for(HEAL_PATIENCE, heal)
                .unwrap_or(Ok(false)),
        )
    }
}

impl Standby {
    /// Takes its home to `number` and no further, and says whether it is exact there. Two barriers; none if it was there.
    ///
    /// # Errors
    ///
    /// As [`checkpoint`](Self::checkpoint).
    pub fn settle_home(&self, number: u64) -> Result<bool> {
        self.home
            .checkpoint_upto(&*self.medium, &self.log, false, number)?;
        let header = self.home.header.lock();
        Ok(self.home.is_exact(&header, number))
    }

    /// As [`Region::read_home`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn read_home(&self, number: u64, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.home.read_exact(&*self.medium, number, offset, buf)
    }

    /// As [`Region::repair_home`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn repair_home(&self, number: u64, offset: u64, bytes: &[u8]) -> Result<bool> {
        self.log.check()?;
        self.home.repair(&*self.medium, number, offset, bytes)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

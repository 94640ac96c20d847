//! What a new region is like, and writing it to a blank medium.
//!
//! What may be refused is asked for first, from the options to the addresses: then nothing was written.

use super::{MIN_LANE, Options};
use crate::error::{Error, Result};
use crate::header;
use crate::layout::{self, FLAG_CLEAN, HOME_STEP, Header, LOG_OFFSET, MAX_LANES};
use crate::medium::{LogStyle, Medium, ViewSource};
use crate::region::Region;
use crate::view::{self, View};
use std::sync::Arc;

/// Where the parts of a new region lie.
struct Plan {
    max_size: u64,
    home_offset: u64,
    log_size: u64,
    lane0_size: u64,
    lane_size: u64,
    lanes: u64,
    /// Where the view may lie, the best place first.
    places: Vec<u64>,
}

impl Options {
    /// Makes a region on a blank medium and opens it.
    ///
    /// # Errors
    ///
    /// `BadOption`, the medium's, and those of [`start`](Self::start).
    pub(super) fn create_on(&self, medium: Arc<dyn Medium>) -> Result<Region> {
        let plan = self.plan(&*medium, self.style(&*medium))?;
        let places = plan.places.iter().copied();
        let view = medium
            .reserve(plan.home_offset + plan.max_size)
            .and_then(|()| View::map_at_one_of(&*medium, places, plan.home_offset, plan.max_size));
        let view = match view {
            Ok(Some(view)) => view,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::OutOfMemory => {
                return Err(plan.too_long());
            }
            Ok(None) => return Err(plan.too_long()),
            Err(error) => return Err(error),
        };
        let header = plan.write(&*medium, view.base().expose_provenance() as u64, 0)?;
        self.start(medium, header, true, Some(view))
    }

    /// Makes a region that others are going to open, of which this process needs no view.
    pub(super) fn create_unopened(
        &self,
        medium: &dyn Medium,
        style: LogStyle,
        flags: u64,
    ) -> Result<Header> {
        let plan = self.plan(medium, style)?;
        medium.reserve(plan.home_offset + plan.max_size)?;
        plan.write(medium, plan.places[0], flags)
    }

    fn plan(&self, medium: &dyn Medium, style: LogStyle) -> Result<Plan> {
        let bad = |option, what| Err(Error::BadOption { option, what });
        let max_size = self.max_size.next_multiple_of(HOME_STEP);
        let log_size = self.log_size.next_multiple_of(2 * MIN_LANE);
        let (lane0_size, lane_size, lanes) = match style {
            LogStyle::Stream => (log_size, 0, 1),
            LogStyle::Lanes => {
                let lanes = self.lanes.min(log_size / 2 / MIN_LANE);
                // A power of two: see `ring_pieces`.
                let lane_size = 1 << (log_size / 2 / lanes).ilog2();
                (log_size - lane_size * lanes, lane_size, lanes + 1)
            }
        };
        let lent = matches!(medium.view(), ViewSource::Memory { .. });
        // A home that is mapped is better off with huge pages.
        let align = if lent { 4096 } else { HOME_STEP };
        let home_offset = (LOG_OFFSET + log_size).next_multiple_of(align);
        let room = medium.capacity().saturating_sub(home_offset) / HOME_STEP * HOME_STEP;
        if room == 0 {
            let what = format!("the log leaves no room on {} bytes", medium.capacity());
            return bad("log_size", what);
        }
        let max_size = max_size.min(room);
        let places = match medium.view() {
            ViewSource::Memory { len, .. } if len < max_size => {
                return bad("max_size", format!("the medium's view has {len} bytes"));
            }
            ViewSource::Memory { base, .. } => vec![base.expose_provenance() as u64],
            ViewSource::Map(_) | ViewSource::Copy => {
                let wanted = self.home_address.into_iter();
                wanted.chain(view::slots_from_random(max_size)).collect()
            }
        };
        Ok(Plan {
            max_size,
            home_offset,
            log_size,
            lane0_size,
            lane_size,
            lanes,
            places,
        })
    }
}

impl Plan {
    /// Writes an empty region to a blank medium; the header comes last.
    fn write(&self, medium: &dyn Medium, home_address: u64, flags: u64) -> Result<Header> {
        let mut uuid = [0; 16];
        // The uuid only names the region in messages; zero without entropy.
        let _ = getrandom::fill(&mut uuid);
        medium.grow(self.home_offset + HOME_STEP)?;
        header::announce(medium)?;
        medium.fill_log(LOG_OFFSET, self.log_size)?;
        let mut header = Header {
            magic: layout::MAGIC,
            format: layout::FORMAT,
            crc: 0,
            revision: 0,
            uuid,
            home_address,
            home_offset: self.home_offset,
            max_size: self.max_size,
            lane0_size: self.lane0_size,
            lane_size: self.lane_size,
            lanes: self.lanes,
            epoch: 0,
            generation: 0,
            checkpoint: 0,
            flags: FLAG_CLEAN | flags,
            relocate_from: 0,
            relocate_to: 0,
            heads: [0; MAX_LANES],
            before_epoch: 0,
            before_crc: 0,
        };
        header::write(medium, &mut header)?;
        Ok(header)
    }

    /// The process has no place for the view beside the mapping of the medium.
    fn too_long(&self) -> Error {
        Error::BadOption {
            option: "max_size",
            what: format!(
                "this process does not have twice {} bytes of addresses free",
                self.max_size
            ),
        }
    }
}

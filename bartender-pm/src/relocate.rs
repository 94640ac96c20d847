//! Moving a region to another home address, because its own is taken.
//!
//! This crate does not know where the home's pointers are; its caller does,
//! and hands their offsets in. Order is everything here. (1) Recovery, and a
//! checkpoint that leaves the log empty: no record may bring an old pointer
//! back later. (2) The caller reads the home and finds the pointers; up to
//! here nothing has moved, and an error leaves the region where it was.
//! (3) `{from, to}` durable in the header, and with them the new home address.
//! (4) Each pointer into the old range is stored again as one into the new
//! range. The ranges are disjoint, so a pointer tells by itself whether it was
//! rewritten, and the pass is idempotent. (5) The home's barrier. (6)
//! `{from, to}` cleared, durably. After a crash between (3) and (6) the next
//! [`Options::relocate`] goes on at (1); until it is through there is no
//! [`Region`], hence no transaction.

use crate::checkpoint::Home;
use crate::error::{Error, Result};
use crate::frozen::Frozen;
use crate::header::{self, Found};
use crate::layout::{FLAG_CLEAN, Header};
use crate::log::Log;
use crate::medium::{self, Medium, ViewSource, mapped};
use crate::mutant;
use crate::options::{Options, check_header, home_size};
use crate::os;
use crate::recover;
use crate::region::Region;
use crate::sync::Mutex;
use crate::view::{self, View};
use std::path::Path;
use std::sync::Arc;

/// Bytes of home that are read at once to look at their pointers.
const CHUNK: u64 = 64 << 10;
/// Ranges written before a barrier makes them durable, so that their list
/// stays short.
const BATCH: usize = if cfg!(test) { 4 } else { 1 << 16 };

/// A region that is about to get another home address: locked, recovered, its
/// log empty, not open.
#[derive(Debug)]
pub struct Relocation {
    options: Options,
    medium: Arc<dyn Medium>,
    header: Header,
    from: u64,
    to: u64,
    picture: Frozen,
    /// `None`: an interrupted relocation's place is taken, too.
    view: Option<View>,
}

impl Options {
    /// Prepares to move the region at `path` to a free home address, or to
    /// finish a move that was interrupted. For whoever knows where the
    /// region's pointers are, when [`open`](Self::open) said `AddressTaken` or
    /// `Relocating`.
    ///
    /// Cost: a recovery and a checkpoint, unless the region was closed.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); `AddressTaken` if no place was found.
    pub fn relocate(&self, path: impl AsRef<Path>) -> Result<Relocation> {
        let path = path.as_ref();
        os::watch_forks();
        let file = mapped::open_locked(path)?;
        self.relocate_on(medium::of(file, path, self.forces_flush())?)
    }

    /// [`relocate`](Self::relocate) for a region on a medium of the caller's.
    ///
    /// # Errors
    ///
    /// As [`relocate`](Self::relocate).
    pub fn relocate_on(&self, medium: Arc<dyn Medium>) -> Result<Relocation> {
        let mut header = match header::read(&*medium)? {
            Found::Header(header) => *header,
            Found::Blank | Found::Unfinished => {
                return Err(Error::NotARegion {
                    path: medium.path().into(),
                    what: "it is blank".into(),
                });
            }
        };
        check_header(&*medium, &header)?;
        medium.reserve(header.home_offset + header.max_size)?;
        let (from, to, view) = match (header.relocate_from, header.relocate_to) {
            (0, 0) => {
                let view = free_place(&*medium, &header)?;
                let to = view.base().expose_provenance() as u64;
                (header.home_address, to, Some(view))
            }
            (from, to) => match map(&*medium, &header, to) {
                Ok(view) => (from, to, Some(view)),
                Err(Error::AddressTaken { .. }) => (from, to, None),
                Err(error) => return Err(error),
            },
        };
        let size = home_size(&*medium, &header);
        empty_log(&*medium, &mut header, size)?;
        let picture = match medium.view() {
            ViewSource::Map(file) => Frozen::map(file, medium.path(), header.home_offset, size)?,
            ViewSource::Copy | ViewSource::Memory { .. } => {
                Frozen::copy(&*medium, header.home_offset, size)?
            }
        };
        Ok(Relocation {
            options: self.clone(),
            medium,
            header,
            from,
            to,
            picture,
            view,
        })
    }
}

impl Relocation {
    /// The home address that the region leaves.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// The home address that it gets. While a relocation is under way, home
    /// holds pointers of both.
    pub fn to(&self) -> u64 {
        self.to
    }

    /// The home, where nothing moves yet.
    pub fn home(&self) -> &Frozen {
        &self.picture
    }

    /// Bytes of home reserved, as [`Region::max_size`].
    pub fn max_size(&self) -> u64 {
        self.header.max_size
    }

    /// Moves the region and opens it. `words` are the home offsets of all
    /// pointers, best in ascending order; one that leads out of the region is
    /// left as it is.
    ///
    /// Cost: three barriers, one more for each 65,536 places, and a write of
    /// each pointer.
    ///
    /// # Errors
    ///
    /// The medium's: the next [`Options::relocate`] goes on. `AddressTaken` if
    /// an interrupted relocation is finished now, but the place it chose is
    /// taken: another one has to follow.
    ///
    /// # Panics
    ///
    /// If an offset is not a multiple of 8, or lies beyond the home.
    pub fn run(self, words: impl IntoIterator<Item = u64>) -> Result<Region> {
        let Relocation {
            options,
            medium,
            mut header,
            from,
            to,
            picture,
            view,
        } = self;
        let size = picture.size();
        // Its pages would follow the file, or hold memory.
        drop(picture);
        if !mutant::is("relocate_unannounced") {
            announce(&*medium, &mut header, from, to)?;
        }
        let mut moved = Rewrite {
            medium: &*medium,
            header: &header,
            from,
            to,
            size,
            chunk: Vec::new(),
            at: u64::MAX,
            ranges: Vec::new(),
        };
        for word in words {
            moved.word(word)?;
        }
        moved.barrier()?;
        header.home_address = to;
        header.relocate_from = 0;
        header.relocate_to = 0;
        header::write(&*medium, &mut header)?;
        let view = match view {
            Some(view) => view,
            None => map(&*medium, &header, to)?,
        };
        options.start(medium, header, false, Some(view))
    }
}

/// Says in the header that from now on pointers may be of either range.
fn announce(medium: &dyn Medium, header: &mut Header, from: u64, to: u64) -> Result<()> {
    if header.relocate_to != 0 {
        return Ok(());
    }
    header.relocate_from = from;
    header.relocate_to = to;
    header.home_address = to;
    header::write(medium, header)
}

/// The pass over the pointers.
struct Rewrite<'m> {
    medium: &'m dyn Medium,
    header: &'m Header,
    from: u64,
    to: u64,
    /// Bytes of home.
    size: u64,
    /// Home bytes from `at` on, as they were read.
    chunk: Vec<u8>,
    at: u64,
    /// File ranges that were written since the last barrier.
    ranges: Vec<(u64, u64)>,
}

impl Rewrite<'_> {
    fn word(&mut self, offset: u64) -> Result<()> {
        assert!(
            offset.is_multiple_of(8) && offset < self.size,
            "a pointer at home offset {offset}"
        );
        let home = self.header.home_offset;
        let start = offset / CHUNK * CHUNK;
        if start != self.at {
            self.chunk.resize(CHUNK.min(self.size - start) as usize, 0);
            self.medium.read(home + start, &mut self.chunk)?;
            self.at = start;
        }
        let here = (offset - start) as usize;
        let bytes = self.chunk[here..here + 8].try_into();
        let old = u64::from_le_bytes(bytes.expect("eight bytes"));
        let within = old.wrapping_sub(self.from);
        if within >= self.header.max_size {
            return Ok(()); // rewritten already
        }
        let new = self.to + within;
        self.medium.write(home + offset, &new.to_le_bytes())?;
        // Barriers are by line or coarser; one range a line will do.
        let line = (home + offset) / 64 * 64;
        match self.ranges.last_mut() {
            Some((at, len)) if line >= *at && line < *at + *len => {}
            Some((at, len)) if line == *at + *len => *len += 64,
            _ => self.ranges.push((line, 64)),
        }
        if self.ranges.len() == BATCH {
            self.barrier()?;
        }
        Ok(())
    }

    /// Makes what was rewritten durable.
    fn barrier(&mut self) -> Result<()> {
        if !mutant::is("relocate_no_barrier") {
            self.medium.persist(&self.ranges)?;
        }
        self.ranges.clear();
        Ok(())
    }
}

/// Recovers a region that was not closed, and makes its log empty.
fn empty_log(medium: &dyn Medium, header: &mut Header, size: u64) -> Result<()> {
    if header.flags & FLAG_CLEAN != 0 {
        return Ok(());
    }
    let style = medium.log_style();
    let recovered = recover::recover(medium, header, size, style, false, recover::AtOnce::ALL)?;
    header.epoch += 1;
    header::write(medium, header)?;
    let log = Log::new(style, header.epoch, recovered.lanes, recovered.next);
    let home = Home {
        offset: header.home_offset,
        size: size.into(),
        header: Mutex::new(*header),
        checkpoint: header.checkpoint.into(),
        applied: header.checkpoint.into(),
        private: Default::default(),
        bulk: 0.into(),
        frozen: Default::default(),
    };
    if !mutant::is("relocate_full_log") {
        home.checkpoint(medium, &log, false)?;
    }
    *header = *home.header.lock();
    Ok(())
}

fn map(medium: &dyn Medium, header: &Header, address: u64) -> Result<View> {
    View::map(medium, address, header.home_offset, header.max_size)
}

/// Maps the view where nothing else is, and apart from its old range.
fn free_place(medium: &dyn Medium, header: &Header) -> Result<View> {
    if let ViewSource::Memory { base, .. } = medium.view() {
        return map(medium, header, base.expose_provenance() as u64);
    }
    let (old, len) = (header.home_address, header.max_size);
    let places = view::slots_from_random(len).filter(|place| place.abs_diff(old) >= len);
    let view = View::map_at_one_of(medium, places, header.home_offset, len)?;
    view.ok_or_else(|| Error::AddressTaken {
        path: medium.path().into(),
        address: old,
        len,
    })
}

#[cfg(all(test, not(loom)))]
mod tests;

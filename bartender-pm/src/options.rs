//! How a region is opened: its options, the creation of a new one (in `plan`), the checks
//! of an old one's header, and what happens up to the first handle.
//!
//! A file that is created gets its name last, so that nothing stands in the way of the next try: not of one that
//! failed, nor of one that a crash has ended.

mod check;
mod plan;

use crate::checkpoint::Home;
use crate::error::{Error, Result};
use crate::gate::Gate;
use crate::header::{self, Found};
use crate::layout::{
    self, FLAG_CATCHING_UP, FLAG_CLEAN, FLAG_INSTALLING, FLAG_REPLICA, HOME_STEP, Header,
    LOG_OFFSET, MAX_LANES,
};
use crate::log::{Log, Replication};
use crate::medium::{self, LogStyle, Medium, ViewSource, mapped, private};
use crate::os;
use crate::recover;
use crate::region::{Owner, Region};
use crate::shared::{Control, Durability, Opened, Shared};
use crate::sync::atomic::AtomicBool;
use crate::sync::{Arc, Condvar, Mutex};
use crate::view::View;
use std::path::Path;
use std::sync::Arc as StdArc;

/// A lane is at least this long, in bytes.
const MIN_LANE: u64 = 4096;
/// A log that is searched in a millisecond.
const SHORT_LOG: u64 = 4 << 20;
/// Bytes that are searched of each lane of a longer one before it is open: what has been read of it by then.
const SEARCHED_AT_ONCE: u64 = 4 << 10;
/// Bytes of extents that are read before a region is open: in a fraction of a millisecond.
const CHECKED_AT_ONCE: u64 = 1 << 20;

/// How to open a region.
#[derive(Debug, Clone)]
pub struct Options {
    max_size: u64,
    log_size: u64,
    lanes: u64,
    durability: Durability,
    create: bool,
    background: bool,
    force_flush: bool,
    home_address: Option<u64>,
    view_limit: u64,
    replicated: Option<Replicated>,
    detach: bool,
    read_only: bool,
}

/// How the primary of a replicated region opens it.
#[derive(Debug, Clone)]
struct Replicated {
    epoch: u64,
    replication: StdArc<dyn Replication>,
}

impl Default for Options {
    fn default() -> Self {
        Options::new()
    }
}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        Options {
            max_size: 64 << 30,
            log_size: 64 << 20,
            lanes: 32,
            durability: Durability::Immediate,
            create: true,
            background: true,
            force_flush: false,
            home_address: None,
            view_limit: 1 << 30,
            replicated: None,
            detach: false,
            read_only: false,
        }
    }

    /// The defaults, but for what makes an empty region like `region`: the size of its log, its lanes, its maximum size.
    pub fn like(region: &Region) -> Self {
        let lanes = &region.shared.log.lanes;
        let mut options = Options::new();
        options
            .max_size(region.max_size())
            .log_size(lanes.iter().map(|lane| lane.len).sum());
        if lanes.len() > 1 {
            options.lanes(lanes.len() as u64 - 1);
        }
        options
    }

    /// Bytes of home, that is of address space, reserved at creation. Rounded
    /// up to 2 MiB, and at most what a device has. Default 64 GiB; the file
    /// grows as it is used.
    pub fn max_size(&mut self, bytes: u64) -> &mut Self {
        self.max_size = bytes;
        self
    }

    /// Bytes of log at creation. Default 64 MiB. Half of it, on lanes, or all
    /// of it, on a stream, bounds the largest transaction.
    pub fn log_size(&mut self, bytes: u64) -> &mut Self {
        self.log_size = bytes;
        self
    }

    /// Lanes at creation, on media that have lanes. Default 32; more threads
    /// than that share one.
    pub fn lanes(&mut self, lanes: u64) -> &mut Self {
        self.lanes = lanes;
        self
    }

    /// When [`Region::durability`] lets commits be answered.
    pub fn durability(&mut self, durability: Durability) -> &mut Self {
        self.durability = durability;
        self
    }

    /// Whether a missing file is created, or a region on a device that holds
    /// nothing. Default true.
    pub fn create(&mut self, yes: bool) -> &mut Self {
        self.create = yes;
        self
    }

    /// Whether a background thread checkpoints. Default true. Without it a
    /// commit that finds the log full checkpoints by itself, and `Eventual`
    /// commits become durable only with [`Region::sync`].
    pub fn background(&mut self, yes: bool) -> &mut Self {
        self.background = yes;
        self
    }

    /// Shared memory only: flush and fence as on DAX, to measure its cost.
    pub fn force_flush(&mut self, yes: bool) -> &mut Self {
        self.force_flush = yes;
        self
    }

    /// The home address of a new region; a multiple of 2 MiB. Default: random, which is also where it lies if something else
    /// is at this one.
    pub fn home_address(&mut self, address: u64) -> &mut Self {
        self.home_address = Some(address);
        self
    }

    /// Bytes of view that may stay private before pages at or below the
    /// checkpoint are given back. Default 1 GiB.
    pub fn view_limit(&mut self, bytes: u64) -> &mut Self {
        self.view_limit = bytes;
        self
    }

    /// Opens it as the primary of a replicated region, in `epoch`, which must be above every one that its log has seen.
    /// The log is one stream on every medium, and `replication` ships it.
    ///
    /// What the log holds and not every replica is known to have is visible, and not durable. The first batch
    /// ([`Region::try_lead`]) opens the epoch: when it and all that stands before it is on the replicas and it was finished, so is
    /// that. Until then nobody may be shown anything.
    ///
    /// A region that was not replicated before has to have been closed: its log must be empty.
    pub fn replicated(&mut self, epoch: u64, replication: StdArc<dyn Replication>) -> &mut Self {
        self.replicated = Some(Replicated { epoch, replication });
        self
    }

    /// Opens what was a replica on its own, for good: whatever its log holds counts. For an operator whose cluster is
    /// gone. Transactions that other replicas acknowledged and this one never got are lost.
    pub fn detach(&mut self, yes: bool) -> &mut Self {
        self.detach = yes;
        self
    }

    /// Opens it for reading only, beside others that do: the file, which need not be writable, stays as it is, and nobody
    /// can open it for writing meanwhile. What the log holds is visible. There are no [`Writer`](crate::Writer)s.
    pub fn read_only(&mut self, yes: bool) -> &mut Self {
        self.read_only = yes;
        self
    }

    /// Whether it is opened for reading only.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The log's style on this medium.
    fn style(&self, medium: &dyn Medium) -> LogStyle {
        match self.replicated {
            Some(_) => LogStyle::Stream,
            None => medium.log_style(),
        }
    }

    /// The header's epoch and flags for this opening.
    fn check_replica(&self, medium: &dyn Medium, header: &mut Header) -> Result<()> {
        if header.flags & FLAG_INSTALLING != 0 {
            return Err(Error::Unfinished {
                path: medium.path().into(),
            });
        }
        match &self.replicated {
            Some(as_primary) => {
                if as_primary.epoch <= header.epoch {
                    return Err(Error::Fenced {
                        epoch: as_primary.epoch,
                        current: header.epoch,
                    });
                }
                if header.flags & (FLAG_REPLICA | FLAG_CLEAN) == 0 {
                    return Err(Error::BadOption {
                        option: "replicated",
                        what: "the region was not closed; open and close it once without replicas"
                            .into(),
                    });
                }
                if as_primary.epoch > layout::MAX_EPOCH {
                    return Err(Error::BadOption {
                        option: "replicated",
                        what: format!("epoch {} is too large", as_primary.epoch),
                    });
                }
            }
            None if self.detach => header.flags &= !FLAG_REPLICA,
            None if header.flags & FLAG_REPLICA != 0 => {
                return Err(Error::Replica {
                    path: medium.path().into(),
                    epoch: header.epoch,
                });
            }
            None => {}
        }
        Ok(())
    }

    /// Opens the region at `path`, or creates it. The medium is found by
    /// looking at the file. One that is created gets its name when it is open: nothing is left of what could not be.
    ///
    /// On a device of persistent memory (`/dev/daxN.M`) a region is created if
    /// its first MiB is zeroes; else [`erase_device`](crate::erase_device)
    /// comes first. Such a device cannot be mapped privately, so opening
    /// copies what the home holds into ordinary memory.
    ///
    /// # Errors
    ///
    /// `Busy`, `NotARegion`, `NewerFormat`, `OlderFormat`, `Truncated`, `Damaged`,
    /// `AddressTaken`, `Relocating`, `Io`, `BadOption`; the file is then as it
    /// was.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Region> {
        let path = path.as_ref();
        for _ in 0..3 {
            let region = self.open_unnamed(path)?;
            if region.give_name()? {
                return Ok(region);
            }
        }
        Err(Error::Busy {
            path: path.into(),
            holder: "processes that create and remove it".into(),
        })
    }

    /// As [`open`](Self::open), but a file that is created has no name before [`Region::give_name`]. For who has more to put
    /// into a new region: where that fails, nothing is left when the last handle is dropped, and after a crash nothing
    /// is at `path`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_unnamed(&self, path: impl AsRef<Path>) -> Result<Region> {
        let path = path.as_ref();
        os::watch_forks();
        if self.read_only {
            return self.open_on(StdArc::new(private::ReadOnly::open(path)?));
        }
        match mapped::open_locked(path) {
            Err(Error::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound && self.create => {}
            other => return self.open_on(medium::of(other?, path, self.force_flush)?),
        }
        self.check()?;
        let (file, unnamed) = mapped::create_locked(path)?;
        let region = self.create_on(medium::of(file, path, self.force_flush)?)?;
        *region.owner.unnamed.lock() = Some(unnamed);
        Ok(region)
    }

    /// Makes an empty replica at `path`, of epoch 0, and returns its uuid: what a cluster needs to know before it has the
    /// region. Its first primary opens it.
    ///
    /// # Errors
    ///
    /// `Busy` if there is a file already; the medium's.
    pub fn create_replica(&self, path: impl AsRef<Path>) -> Result<[u8; 16]> {
        let path = path.as_ref();
        self.check()?;
        let (file, unnamed) = mapped::create_locked(path)?;
        let uuid = self.create_replica_on(&*medium::of(file, path, self.force_flush)?)?;
        unnamed.publish_own()?;
        Ok(uuid)
    }

    /// [`create_replica`](Self::create_replica) on a blank medium of the caller's.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn create_replica_on(&self, medium: &dyn Medium) -> Result<[u8; 16]> {
        self.check()?;
        // With the flag from the first: a crash must not leave a region of its own.
        let header = self.create_unopened(medium, LogStyle::Stream, FLAG_REPLICA)?;
        Ok(header.uuid)
    }

    /// Opens the region on a medium of the caller's, or creates it there if
    /// the medium is blank.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_on(&self, medium: std::sync::Arc<dyn Medium>) -> Result<Region> {
        match header::read(&*medium)? {
            // A file of zeroes is somebody's. Elsewhere regions are made in place.
            Found::Blank if !medium.is_empty() && matches!(medium.view(), ViewSource::Map(_)) => {
                Err(Error::NotARegion {
                    path: medium.path().into(),
                    what: "its first 8 KiB are zeroes".into(),
                })
            }
            Found::Blank | Found::Unfinished if !self.create => Err(Error::NotARegion {
                path: medium.path().into(),
                what: "there is nothing in it, and the options say not to create".into(),
            }),
            Found::Blank | Found::Unfinished => {
                self.check()?;
                self.create_on(medium)
            }
            Found::Header(header) => {
                let header = *header;
                check_header(&*medium, &header)?;
                if header.relocate_to != 0 {
                    return Err(Error::Relocating {
                        path: medium.path().into(),
                        from: header.relocate_from,
                        to: header.relocate_to,
                    });
                }
                medium.reserve(header.home_offset + header.max_size)?;
                self.start(medium, header, false, None)
            }
        }
    }

    /// Whether shared memory is to be treated as DAX.
    pub(crate) fn forces_flush(&self) -> bool {
        self.force_flush
    }

    /// The way from a header to a region. `view` is given where it is mapped already.
    pub(crate) fn start(
        &self,
        medium: std::sync::Arc<dyn Medium>,
        mut header: Header,
        created: bool,
        view: Option<View>,
    ) -> Result<Region> {
        os::watch_forks();
        let home_size = home_size(&*medium, &header);
        self.check_replica(&*medium, &mut header)?;
        // The view first: if its place is taken, nothing has been changed.
        let view = match view {
            Some(view) => view,
            None => View::map(
                &*medium,
                header.home_address,
                header.home_offset,
                header.max_size,
            )?,
        };
        let clean = header.flags & FLAG_CLEAN != 0;
        let style = self.style(&*medium);
        let replica = header.flags & FLAG_REPLICA != 0;
        let mut recovered = if clean {
            recover::Recovered::of_empty_log(&header)
        } else {
            // The epoch of a replicated stream begins with an append.
            let waits = !self.background || self.read_only || replica || self.replicated.is_some();
            let log_size = header.lane0_size + header.lane_size * (header.lanes - 1);
            let mut at_once = recover::AtOnce::ALL;
            if !waits {
                at_once.extents = CHECKED_AT_ONCE;
                if log_size > SHORT_LOG {
                    at_once.log = SEARCHED_AT_ONCE;
                }
            }
            recover::recover(&*medium, &header, home_size, style, replica, at_once)?
        };
        if style == LogStyle::Lanes && !self.read_only {
            recovered.take_home(&*medium, &mut header)?;
        }
        header.generation += 1;
        if self.replicated.is_some() && replica && !crate::mutant::is("keep_links") {
            recovered.drop_links();
        }
        if let Some(as_primary) = &self.replicated {
            header.epoch = as_primary.epoch;
            header.flags |= FLAG_REPLICA;
        } else if !crate::mutant::is("same_epoch") {
            header.epoch += 1;
        }
        header.flags &= !FLAG_CLEAN;
        header::write(&*medium, &mut header)?;
        if header.flags & FLAG_CATCHING_UP != 0 {
            recover::erase_free(&*medium, &recovered.lanes[0])?;
            header.flags &= !FLAG_CATCHING_UP;
            header::write(&*medium, &mut header)?;
        }
        view.fill(&*medium, home_size)?;
        view.store_records(&*medium, &recovered.behind, home_size)?;

        let mut log = Log::new(style, header.epoch, recovered.lanes, recovered.next);
        if let Some(as_primary) = &self.replicated {
            let (seq, end) = recovered.committed;
            log = log.replicated(Some(as_primary.replication.clone()), seq, end);
            log.open_epoch(recovered.before.1)?;
        }
        let rest = std::mem::take(&mut recovered.rest);
        if !rest.is_empty() {
            log.wait_for_search();
        }
        let opened = Opened {
            created,
            clean: clean && !created,
            generation: header.generation,
            records: recovered.records,
            bytes: recovered.bytes,
        };
        let shared = Arc::new(Shared {
            gate: Gate::new(log.own_lanes().max(64)),
            home: Home {
                offset: header.home_offset,
                size: home_size.into(),
                header: Mutex::new(header),
                checkpoint: header.checkpoint.into(),
                applied: recovered.committed.0.max(header.checkpoint).into(),
                private: Default::default(),
                bulk: 0.into(),
                frozen: Default::default(),
            },
            path: medium.path().into(),
            kind: medium.kind(),
            max_size: header.max_size,
            durability: self.durability,
            background: self.background && !self.read_only && !cfg!(loom),
            read_only: self.read_only,
            view_pages: self.view_limit / 4096,
            trim_from: 0.into(),
            forks: os::forks(),
            growing: Mutex::new(()),
            control: Mutex::new(Control::default()),
            wake: Condvar::new(),
            kicked: AtomicBool::new(false),
            backlog: AtomicBool::new(false),
            opened,
            tidy: Default::default(),
            view,
            log,
            medium,
        });
        let worker = if shared.background {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name("bartender".into());
            let worker = thread.spawn(move || {
                shared.search(rest);
                shared.work();
            });
            Some(os::io(
                Path::new("(thread)"),
                "start the background thread",
                worker,
            )?)
        } else {
            None
        };
        let owner = Arc::new(Owner {
            shared: shared.clone(),
            worker: Mutex::new(worker),
            unnamed: Mutex::new(None),
        });
        if shared.opened.records > 0 {
            shared.kick();
        }
        Ok(Region { shared, owner })
    }
}

/// Bytes of home that have their space on the medium.
pub(crate) fn home_size(medium: &dyn Medium, header: &Header) -> u64 {
    (medium.len() - header.home_offset).min(header.max_size) / HOME_STEP * HOME_STEP
}

/// Whether a header's numbers can be: its checksum fits, yet it may have been
/// written by somebody who meant harm.
pub(crate) fn check_header(medium: &dyn Medium, header: &Header) -> Result<()> {
    check_fields(medium.path(), header)?;
    let expected = header.home_offset + HOME_STEP;
    if medium.len() < expected {
        return Err(Error::Truncated {
            path: medium.path().into(),
            expected,
            found: medium.len(),
        });
    }
    Ok(())
}

/// The same of the header alone, which may be of a region that is yet to be.
pub(crate) fn check_fields(path: &Path, header: &Header) -> Result<()> {
    let damaged = |what: &str| {
        Err(Error::Damaged {
            path: path.into(),
            offset: 0,
            what: format!("header: {what}"),
        })
    };
    if header.lanes == 0 || header.lanes as usize > MAX_LANES {
        return damaged("number of lanes");
    }
    let log_end = header
        .lane_size
        .checked_mul(header.lanes - 1)
        .and_then(|n| n.checked_add(header.lane0_size))
        .and_then(|n| n.checked_add(LOG_OFFSET));
    let lane_ok = |size: u64| size >= MIN_LANE && size.is_multiple_of(MIN_LANE);
    if log_end.is_none_or(|end| end > header.home_offset)
        || !lane_ok(header.lane0_size)
        || (header.lanes > 1 && !lane_ok(header.lane_size))
    {
        return damaged("size of the log");
    }
    if header.max_size == 0
        || header.max_size > 1 << 46
        || !header.max_size.is_multiple_of(HOME_STEP)
        || !header.home_offset.is_multiple_of(4096)
        || header.home_offset > 1 << 46
    {
        return damaged("size of the home");
    }
    if !header.home_address.is_multiple_of(4096)
        || header.home_address.checked_add(header.max_size).is_none()
    {
        return damaged("home address");
    }
    let (from, to) = (header.relocate_from, header.relocate_to);
    if (from, to) != (0, 0)
        && (to != header.home_address
            || !from.is_multiple_of(4096)
            || from.checked_add(header.max_size).is_none()
            || from.abs_diff(to) < header.max_size)
    {
        return damaged("addresses of a relocation");
    }
    let aligned = |&head: &u64| head.is_multiple_of(layout::RECORD_ALIGN) && head < 1 << 60;
    if !header.heads.iter().all(aligned)
        || header.checkpoint >= 1 << 60
        || header.epoch > layout::MAX_EPOCH
    {
        return damaged("log positions");
    }
    Ok(())
}

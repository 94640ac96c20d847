//! A region: home, view, log and checkpoint behind one handle.
//!
//! Lifetime: [`Options::open`] recovers and starts the background thread;
//! [`Writer`]s append records; the background thread checkpoints when a lane
//! is a quarter full; [`Region::close`], or dropping the last handle, waits
//! for the writers, checkpoints, and marks the region clean.
//!
//! Lock order: header (a whole checkpoint) → batch → nothing. The gate's lock
//! is taken with none of them held.

use crate::checkpoint::Home;
use crate::error::{Error, Result};
use crate::frozen::Frozen;
use crate::gate::{Gate, Place};
use crate::header::{self, Found};
use crate::layout::{self, FLAG_CLEAN, HOME_STEP, Header, LOG_OFFSET, MAX_LANES};
use crate::log::{Log, Refused};
use crate::medium::mapped::{self, MappedFile};
use crate::medium::{LogStyle, Medium, MediumKind, ViewSource};
use crate::os;
use crate::record::Record;
use crate::recover::{self, lane_place};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Condvar, Mutex};
use crate::view::{self, View};
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// When a commit is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// After the persist barrier: an acknowledged transaction survives.
    #[default]
    Immediate,
    /// At once. The last moments may be lost in a crash; what survives is a
    /// prefix of what was committed. On lanes (DAX, shared memory) it equals
    /// `Immediate`.
    Eventual,
}

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
}

impl Default for Options {
    fn default() -> Self {
        Options::new()
    }
}

/// A lane is at least this long, in bytes.
const MIN_LANE: u64 = 4096;

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
        }
    }

    /// Bytes of home, that is of address space, reserved at creation. Rounded
    /// up to 2 MiB. Default 64 GiB; the file grows as it is used.
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

    /// Whether a missing file is created. Default true.
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

    /// The home address of a new region; a multiple of 2 MiB. Default: random.
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

    /// Opens the region at `path`, or creates it. The medium is found by
    /// looking at the file.
    ///
    /// # Errors
    ///
    /// `Busy`, `NotARegion`, `NewerFormat`, `Truncated`, `Damaged`,
    /// `AddressTaken`, `Io`, `BadOption`; the file is then as it was.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Region> {
        let path = path.as_ref();
        os::watch_forks();
        for _ in 0..3 {
            match mapped::open_locked(path) {
                Err(Error::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound && self.create => {}
                other => {
                    let medium = MappedFile::new(other?, path, self.force_flush)?;
                    return self.open_on(std::sync::Arc::new(medium));
                }
            }
            self.check()?;
            let (file, temporary) = mapped::create_locked(path)?;
            let made = MappedFile::new(file, path, self.force_flush)
                .and_then(|medium| {
                    let medium = std::sync::Arc::new(medium);
                    let header = self.format(&*medium)?;
                    Ok((medium, header))
                })
                .and_then(|made| Ok((made, mapped::publish(&temporary, path)?)));
            match made {
                Ok(((medium, header), true)) => return self.start(medium, header, true),
                Ok((_, false)) => {} // somebody else created it meanwhile
                Err(error) => {
                    let _ = std::fs::remove_file(&temporary);
                    return Err(error);
                }
            }
        }
        Err(Error::Busy {
            path: path.into(),
            holder: "processes that create and remove it".into(),
        })
    }

    /// Opens the region on a medium of the caller's, or creates it there if
    /// the medium is blank.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_on(&self, medium: std::sync::Arc<dyn Medium>) -> Result<Region> {
        match header::read(&*medium)? {
            Found::Blank if medium.is_empty() || medium.kind() != MediumKind::File => {
                self.check()?;
                let header = self.format(&*medium)?;
                self.start(medium, header, true)
            }
            Found::Blank => Err(Error::NotARegion {
                path: medium.path().into(),
                what: "its first 8 KiB are zeroes".into(),
            }),
            Found::Header(header) => {
                let header = *header;
                check_header(&*medium, &header)?;
                medium.reserve(header.home_offset + header.max_size)?;
                self.start(medium, header, false)
            }
        }
    }

    fn check(&self) -> Result<()> {
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
        Ok(())
    }

    /// Writes an empty region to a blank medium; the header comes last.
    fn format(&self, medium: &dyn Medium) -> Result<Header> {
        let max_size = self.max_size.next_multiple_of(HOME_STEP);
        let log_size = self.log_size.next_multiple_of(2 * MIN_LANE);
        let (lane0_size, lane_size, lanes) = match medium.log_style() {
            LogStyle::Stream => (log_size, 0, 1),
            LogStyle::Lanes => {
                let lanes = self.lanes.min(log_size / 2 / MIN_LANE);
                // A power of two: see `ring_pieces`.
                let lane_size = 1 << (log_size / 2 / lanes).ilog2();
                (log_size - lane_size * lanes, lane_size, lanes + 1)
            }
        };
        let huge_pages = matches!(medium.view(), ViewSource::Map(_));
        let align = if huge_pages { HOME_STEP } else { 4096 };
        let home_offset = (LOG_OFFSET + log_size).next_multiple_of(align);
        let home_address = match medium.view() {
            ViewSource::Memory { base, len } => {
                if len < max_size {
                    let what = format!("the medium's view has {len} bytes");
                    return Err(Error::BadOption {
                        option: "max_size",
                        what,
                    });
                }
                base.expose_provenance() as u64
            }
            ViewSource::Map(_) => self
                .home_address
                .unwrap_or_else(|| view::random_slot(max_size)),
        };
        let mut uuid = [0; 16];
        // The uuid only names the region in messages; zero without entropy.
        let _ = getrandom::fill(&mut uuid);
        medium.reserve(home_offset + max_size)?;
        medium.grow(home_offset + HOME_STEP)?;
        header::announce(medium)?;
        medium.fill_log(LOG_OFFSET, log_size)?;
        let mut header = Header {
            magic: layout::MAGIC,
            format: layout::FORMAT,
            crc: 0,
            revision: 0,
            uuid,
            home_address,
            home_offset,
            max_size,
            lane0_size,
            lane_size,
            lanes,
            epoch: 0,
            generation: 0,
            checkpoint: 0,
            flags: FLAG_CLEAN,
            relocate_from: 0,
            relocate_to: 0,
            heads: [0; MAX_LANES],
        };
        header::write(medium, &mut header)?;
        Ok(header)
    }

    fn start(
        &self,
        medium: std::sync::Arc<dyn Medium>,
        mut header: Header,
        created: bool,
    ) -> Result<Region> {
        os::watch_forks();
        let home_size = (medium.len() - header.home_offset).min(header.max_size);
        let home_size = home_size / HOME_STEP * HOME_STEP;
        // The view first: if its place is taken, nothing has been changed.
        let view = View::map(
            &*medium,
            header.home_address,
            header.home_offset,
            header.max_size,
        )?;
        let clean = header.flags & FLAG_CLEAN != 0;
        let style = medium.log_style();
        let recovered = if clean {
            let lane = |i| {
                let (start, len) = lane_place(&header, i);
                let at = header.heads[i as usize];
                crate::log::Lane::new(start, len, at, at)
            };
            recover::Recovered {
                lanes: (0..header.lanes).map(lane).collect(),
                next: header.checkpoint + 1,
                records: 0,
                bytes: 0,
            }
        } else {
            recover::recover(&*medium, &header, home_size, style)?
        };
        header.generation += 1;
        if !crate::mutant::is("same_epoch") {
            header.epoch += 1;
        }
        header.flags &= !FLAG_CLEAN;
        header::write(&*medium, &mut header)?;
        view.fill(&*medium, home_size)?;

        let log = Log::new(style, header.epoch, recovered.lanes, recovered.next);
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
                changed_pages: 0.into(),
                frozen: Default::default(),
            },
            path: medium.path().into(),
            kind: medium.kind(),
            max_size: header.max_size,
            durability: self.durability,
            background: self.background && !cfg!(loom),
            view_pages: self.view_limit / 4096,
            forks: os::forks(),
            growing: Mutex::new(()),
            control: Mutex::new(Control::default()),
            wake: Condvar::new(),
            kicked: AtomicBool::new(false),
            opened,
            view,
            log,
            medium,
        });
        let worker = if shared.background {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name("bartender".into());
            let worker = thread.spawn(move || shared.work());
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
        });
        if shared.opened.records > 0 {
            shared.kick();
        }
        Ok(Region { shared, owner })
    }
}

/// Whether a header's numbers can be: its checksum fits, yet it may have been
/// written by somebody who meant harm.
fn check_header(medium: &dyn Medium, header: &Header) -> Result<()> {
    let damaged = |what: &str| {
        Err(Error::Damaged {
            path: medium.path().into(),
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
    let aligned = |&head: &u64| head.is_multiple_of(layout::RECORD_ALIGN) && head < 1 << 60;
    if !header.heads.iter().all(aligned) || header.checkpoint >= 1 << 60 || header.epoch >= 1 << 31
    {
        return damaged("log positions");
    }
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

/// What opening found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Opened {
    /// The region was created by this open.
    pub created: bool,
    /// The last user closed it: nothing had to be recovered.
    pub clean: bool,
    /// Counts the opens of this region, this one included.
    pub generation: u64,
    /// Records replayed from the log.
    pub records: u64,
    /// Bytes they changed.
    pub bytes: u64,
}

/// Everything about an open region. Fields are immutable or rule themselves.
#[derive(Debug)]
struct Shared {
    gate: Gate,
    home: Home,
    path: PathBuf,
    kind: MediumKind,
    max_size: u64,
    durability: Durability,
    background: bool,
    view_pages: u64,
    forks: u32,
    growing: Mutex<()>,
    control: Mutex<Control>,
    wake: Condvar,
    /// The background thread was told to look, and has not looked yet.
    kicked: AtomicBool,
    opened: Opened,
    // Before `medium`, which it was mapped from.
    view: View,
    log: Log,
    medium: std::sync::Arc<dyn Medium>,
}

#[derive(Debug, Default)]
struct Control {
    stop: bool,
}

/// Closes the region when the last handle goes.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    worker: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Owner {
    fn close(&self, last: impl FnOnce(&mut Writer<'_>) -> Result<()>) -> Result<()> {
        let shared = &self.shared;
        if os::forks() != shared.forks {
            return Err(Error::Forked);
        }
        let first = shared.gate.close();
        shared.control.lock().stop = true;
        shared.wake.notify_all();
        if let Some(worker) = self.worker.lock().take() {
            // A panic of the worker would already have been printed.
            let _ = worker.join();
        }
        if !first {
            return Ok(());
        }
        let settle = || {
            let log = &shared.log;
            shared.named(log.wait_durable(&*shared.medium, log.last_seq()))?;
            shared.named(shared.home.checkpoint(&*shared.medium, log, false))
        };
        // First of all, so that the last writer finds the log empty and all
        // that is free fresh.
        settle()?;
        let mut writer = Writer {
            shared,
            place: shared.gate.admit_last(),
            fresh: Vec::new(),
            not_send: PhantomData,
        };
        last(&mut writer)?;
        drop(writer);
        settle()?;
        let mut header = shared.home.header.lock();
        header.flags |= FLAG_CLEAN;
        header::write(&*shared.medium, &mut header)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Who wants to know calls `close`; what was acknowledged is safe.
        let _ = self.close(|_| Ok(()));
    }
}

impl Shared {
    /// The region's file goes into errors that do not know it.
    fn named<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| match error {
            Error::Poisoned { cause, .. } => Error::Poisoned {
                path: self.path.clone(),
                cause,
            },
            other => other,
        })
    }

    #[cold]
    fn kick(&self) {
        if !self.kicked.swap(true, Ordering::AcqRel) {
            drop(self.control.lock());
            self.wake.notify_all();
        }
    }

    /// The background thread: writes what nobody waits for, checkpoints, and
    /// gives pages of the view back.
    fn work(&self) {
        loop {
            {
                let mut control = self.control.lock();
                while !control.stop && !self.kicked.load(Ordering::Acquire) {
                    control = self.wake.wait(control);
                }
                if control.stop {
                    return;
                }
            }
            if self.log.has_unwritten() {
                // A moment for more to join; then it is no longer "at once".
                std::thread::sleep(Duration::from_millis(1));
            }
            self.kicked.store(false, Ordering::Release);
            // Errors poison the region; commits then say so.
            let _ = self.log.wait_durable(&*self.medium, self.log.last_seq());
            if self.log.fill() >= CHECKPOINT_FILL || self.opened.records > 0 {
                let _ = self.home.checkpoint(&*self.medium, &self.log, true);
            }
            if self.home.changed_pages.load(Ordering::Relaxed) > self.view_pages {
                let _ = self.trim();
            }
        }
    }

    fn trim(&self) -> Result<bool> {
        let ViewSource::Map(file) = self.medium.view() else {
            return Ok(false);
        };
        // Most of the work outside of the gate, the rest inside.
        self.log.wait_durable(&*self.medium, self.log.last_seq())?;
        self.home.apply_only(&*self.medium, &self.log)?;
        let size = self.home.size.load(Ordering::Acquire);
        let mut at = 0;
        while at < size {
            let end = (at + TRIM_CHUNK).min(size);
            let done = self.gate.shut_for(TRIM_PATIENCE, || {
                if !crate::mutant::is("trim_unapplied") {
                    self.log.wait_durable(&*self.medium, self.log.last_seq())?;
                    self.home.apply_only(&*self.medium, &self.log)?;
                }
                self.view.give_back(&*self.medium, file, at..end)
            });
            match done {
                None => return Ok(false),
                Some(result) => result?,
            }
            at = end;
        }
        self.home.changed_pages.store(0, Ordering::Relaxed);
        Ok(true)
    }
}

/// A lane this full, in 256ths, wakes the background thread.
const CHECKPOINT_FILL: u64 = 64;
/// View given back per closing of the gate, in bytes.
const TRIM_CHUNK: u64 = 64 << 20;
/// How long the gate may stay shut for writers inside to leave.
const TRIM_PATIENCE: Duration = Duration::from_millis(5);
/// Home grows in steps of an eighth, but of no more bytes than this.
const MAX_GROWTH: u64 = 256 << 20;

/// An open region. Cheap to clone; the last clone to go closes it.
#[derive(Clone)]
pub struct Region {
    shared: Arc<Shared>,
    owner: Arc<Owner>,
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("path", &self.shared.path)
            .field("kind", &self.shared.kind)
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

impl Region {
    /// What opening found.
    pub fn opened(&self) -> &Opened {
        &self.shared.opened
    }

    /// The region's file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// What it lies on.
    pub fn kind(&self) -> MediumKind {
        self.shared.kind
    }

    /// How its log is written.
    pub fn log_style(&self) -> LogStyle {
        self.shared.log.style
    }

    /// When commits are answered, as [`Options::durability`] said.
    pub fn durability(&self) -> Durability {
        self.shared.durability
    }

    /// Where home offset 0 is mapped: the home address. The view, for reading
    /// and, inside of a [`Writer`]'s life, for writing.
    #[inline]
    pub fn base(&self) -> *mut u8 {
        self.shared.view.base()
    }

    /// Bytes of home reserved: home offsets lie below.
    #[inline]
    pub fn max_size(&self) -> u64 {
        self.shared.max_size
    }

    /// Whether `address` lies in the view.
    #[inline]
    pub fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.base().addr()) < self.max_size() as usize
    }

    /// Allocates home space up to home offset `end` and makes it readable, as
    /// zeroes, in the view. Idempotent; 2 MiB are there after creation.
    ///
    /// Cost: nothing where the space is there; else `fallocate`, a synchronous
    /// write of 8 bytes, and a mapping.
    ///
    /// # Errors
    ///
    /// `OutOfSpace` beyond the maximum size; `Io`, as when the disk is full.
    /// Nothing has changed then, and the region stays usable.
    pub fn extend(&self, end: u64) -> Result<()> {
        let shared = &*self.shared;
        if end <= self.size() {
            return Ok(());
        }
        let _one = shared.growing.lock();
        let size = self.size();
        if end <= size {
            return Ok(());
        }
        if end > shared.max_size {
            return Err(Error::OutOfSpace {
                requested: end - size,
                available: shared.max_size - size,
                max_size: shared.max_size,
            });
        }
        let least = end.next_multiple_of(HOME_STEP).min(shared.max_size);
        let step = (size / 8).min(MAX_GROWTH).next_multiple_of(HOME_STEP);
        let roomy = least.max((size + step).min(shared.max_size));
        let home = shared.home.offset;
        let grown = match shared.medium.grow(home + roomy) {
            Ok(()) => roomy,
            Err(_) if roomy > least => {
                shared.medium.grow(home + least)?;
                least
            }
            Err(error) => return Err(error),
        };
        shared.view.make_fresh(&*shared.medium, size..grown)?;
        shared.home.size.store(grown, Ordering::Release);
        Ok(())
    }

    /// Bytes of home that have their space in the file.
    pub fn size(&self) -> u64 {
        self.shared.home.size.load(Ordering::Acquire)
    }

    /// Bytes of the file: headers, log and home.
    pub fn file_size(&self) -> u64 {
        self.shared.medium.len()
    }

    /// Highest sequence number drawn so far.
    pub fn last_seq(&self) -> u64 {
        self.shared.log.last_seq()
    }

    /// Everything up to this number is in the home, durably.
    pub fn checkpoint_seq(&self) -> u64 {
        self.shared.home.checkpoint.load(Ordering::Acquire)
    }

    /// Everything up to this number is durable.
    pub fn durable_seq(&self) -> u64 {
        self.shared.log.horizon()
    }

    /// Largest record that [`Writer::append`] takes, in bytes.
    pub fn log_capacity(&self) -> u64 {
        self.shared.log.capacity()
    }

    /// Starts writing: passes the gate, takes a lane. A transaction holds one
    /// from before its first store into the view until after its commit, or
    /// until the old bytes are back.
    ///
    /// # Errors
    ///
    /// `Closed`, `Poisoned`, `Forked`.
    #[inline]
    pub fn writer(&self) -> Result<Writer<'_>> {
        let shared = &*self.shared;
        if os::forks() != shared.forks {
            return Err(Error::Forked);
        }
        shared.named(shared.log.check())?;
        let place = shared.gate.enter(slot_hint()).map_err(|_| Error::Closed)?;
        Ok(Writer {
            shared,
            place,
            fresh: Vec::new(),
            not_send: PhantomData,
        })
    }

    /// Waits until everything up to `seq` is durable: at most one barrier of
    /// its own, none if somebody else's covers it.
    ///
    /// # Errors
    ///
    /// `Poisoned` if it never will be; `Io` for the waiter that met the error.
    #[inline]
    pub fn wait_durable(&self, seq: u64) -> Result<()> {
        let shared = &*self.shared;
        shared.named(shared.log.wait_durable(&*shared.medium, seq))
    }

    /// Waits for everything that was committed, `Eventual` included.
    ///
    /// # Errors
    ///
    /// As [`wait_durable`](Self::wait_durable).
    pub fn sync(&self) -> Result<()> {
        self.wait_durable(self.last_seq())
    }

    /// Copies all durable records to the home and truncates the log: two barriers.
    ///
    /// # Errors
    ///
    /// `Poisoned`, or the I/O error that has now poisoned the region.
    pub fn checkpoint(&self) -> Result<()> {
        let shared = &*self.shared;
        shared.named(shared.home.checkpoint(&*shared.medium, &shared.log, false))
    }

    /// Gives the view's private pages back, as far as no writer stands in the
    /// way: `Ok(false)` if one did. The background thread does this by itself
    /// beyond [`Options::view_limit`].
    ///
    /// # Errors
    ///
    /// As [`checkpoint`](Self::checkpoint).
    pub fn trim(&self) -> Result<bool> {
        self.shared.named(self.shared.trim())
    }

    /// A picture of the home as it is now, which later checkpoints do not
    /// change: everything up to some number, at least `checkpoint_seq()`.
    ///
    /// # Errors
    ///
    /// `Io` if it cannot be mapped.
    pub fn freeze(&self) -> Result<std::sync::Arc<Frozen>> {
        let shared = &*self.shared;
        let header = shared.home.header.lock();
        let (offset, size) = (shared.home.offset, self.size());
        let frozen = match shared.medium.view() {
            ViewSource::Map(file) => Frozen::map(file, &shared.path, offset, size)?,
            ViewSource::Memory { .. } => {
                let mut bytes = vec![0; size as usize];
                shared.medium.read(offset, &mut bytes)?;
                Frozen::copy(bytes)
            }
        };
        let frozen = std::sync::Arc::new(frozen);
        shared.home.frozen.add(&frozen);
        drop(header);
        Ok(frozen)
    }

    /// Waits for the writers inside, checkpoints, and marks the region clean.
    /// Later writers get `Closed`; the view stays readable until the last
    /// handle is dropped, and so does the file's lock. Dropping the last
    /// handle closes too, and ignores errors.
    ///
    /// # Errors
    ///
    /// What the last write-back met; the region then recovers at the next open.
    pub fn close(&self) -> Result<()> {
        self.close_with(|_| Ok(()))
    }

    /// [`close`](Self::close), with a last word: `last` runs after all other
    /// writers have left for good, everything committed is in the home, and
    /// the log is empty. It does not run if the region was closed already.
    ///
    /// # Errors
    ///
    /// As [`close`](Self::close), and those of `last`.
    pub fn close_with(&self, last: impl FnOnce(&mut Writer<'_>) -> Result<()>) -> Result<()> {
        self.shared.named(self.owner.close(last))
    }
}

/// The calling thread's preferred slot: threads are spread over them.
#[inline]
fn slot_hint() -> usize {
    use std::cell::Cell;
    use std::sync::atomic::AtomicUsize;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static HINT: Cell<usize> = const { Cell::new(usize::MAX) });
    let hint = HINT.get();
    if hint != usize::MAX {
        return hint;
    }
    let hint = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 1024;
    HINT.set(hint);
    hint
}

/// The right of one transaction to write.
#[derive(Debug)]
pub struct Writer<'r> {
    shared: &'r Shared,
    place: Place,
    /// File ranges written fresh, to be made durable before the record.
    fresh: Vec<(u64, u64)>,
    not_send: PhantomData<*const ()>,
}

/// What [`Writer::append`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The transaction's sequence number.
    pub seq: u64,
    /// Whether it is durable already.
    pub durable: bool,
}

impl Writer<'_> {
    /// Writes wholly fresh bytes straight to the home, and nothing to the
    /// view. The `append` that follows makes them durable, before its record,
    /// by one more barrier.
    ///
    /// The range must not have been reachable by any transaction whose number
    /// is above [`Region::checkpoint_seq`]: recovery would store that
    /// transaction's bytes over these.
    ///
    /// # Errors
    ///
    /// The medium's.
    ///
    /// # Panics
    ///
    /// If the range lies beyond [`Region::size`].
    pub fn write_fresh(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let home = &self.shared.home;
        let size = home.size.load(Ordering::Acquire);
        assert!(
            offset + bytes.len() as u64 <= size,
            "fresh bytes beyond the home"
        );
        self.shared.medium.write(home.offset + offset, bytes)?;
        self.fresh.push((home.offset + offset, bytes.len() as u64));
        Ok(())
    }

    /// Commits: draws a number and appends the record.
    ///
    /// On lanes it is durable on return (one barrier). On a stream it has its
    /// position, and locks may be released; but nobody may be answered before
    /// [`Region::wait_durable`] of its number returns, unless `durability` is
    /// `Eventual`.
    ///
    /// # Errors
    ///
    /// `LogFull` (too large for any log of this size), `Poisoned`, or the I/O
    /// error that poisons: nothing was acknowledged; restore the view.
    #[inline]
    pub fn append(&mut self, record: &mut Record, durability: Durability) -> Result<Ticket> {
        let shared = self.shared;
        if record.size() > shared.log.capacity() {
            let capacity = shared.log.capacity();
            return Err(Error::LogFull {
                needed: record.size(),
                capacity,
            });
        }
        if !self.fresh.is_empty() {
            if !crate::mutant::is("no_fresh_barrier") {
                let result = shared.medium.persist(&self.fresh);
                shared.named(result.map_err(|error| shared.log.poison(error)))?;
            }
            self.fresh.clear();
        }
        let slot = match self.place {
            Place::Slot(i) => Some(i),
            Place::Overflow => None,
        };
        let seq = loop {
            match shared.log.append(&*shared.medium, slot, record) {
                Ok(seq) => break seq,
                Err(Refused::NoSpace) => self.make_space()?,
                Err(Refused::Error(error)) => return shared.named(Err(error)),
            }
        };
        if shared.background && shared.log.is_quarter_full(slot) {
            shared.kick();
        }
        match shared.log.style {
            LogStyle::Lanes => Ok(Ticket { seq, durable: true }),
            LogStyle::Stream => {
                if durability == Durability::Eventual {
                    if shared.log.batch_is_long() {
                        shared.named(shared.log.wait_durable(&*shared.medium, seq))?;
                    } else if shared.background {
                        shared.kick();
                    }
                }
                Ok(Ticket {
                    seq,
                    durable: false,
                })
            }
        }
    }

    /// The log is full: lets the checkpoint give some of it back.
    #[cold]
    fn make_space(&self) -> Result<()> {
        let shared = self.shared;
        shared.named(
            shared
                .log
                .wait_durable(&*shared.medium, shared.log.last_seq()),
        )?;
        if shared.background {
            shared.kick();
            shared.log.wait_space(Duration::from_millis(2));
            if shared.log.fill() < 255 {
                return shared.named(shared.log.check());
            }
        }
        shared.named(shared.home.checkpoint(&*shared.medium, &shared.log, false))
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.shared.gate.leave(self.place);
    }
}

const _: fn() = || {
    fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<Region>();
};

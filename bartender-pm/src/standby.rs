//! A standby: a region whose log somebody else writes.
//!
//! It has the header, the log and the home of a region, and no view. The
//! primary sends it the stream, at the offsets at which it stands in the
//! primary's own log; a checkpoint takes it home; to fail over it is opened as
//! a region, by the code that opens one after a crash. The replication protocol
//! is of the primary-backup kind of PacificA (Lin et al., 2008), with the log
//! as the truth.
//!
//! # What it has, and what it may forget
//!
//! - `committed`: below it every replica that counts has the stream, and all of them the same. Only that goes
//!   to the home. It is known from the records themselves (`durable_upto`), so it survives with them.
//! - `tail`: below it the log is durable here. What lies between was acknowledged to the primary that
//!   sent it, and must not be lost until another primary, which has everything that was ever answered, has sent its own.
//! - `expected`: where the bytes of the present primary go on. A new primary starts at `committed`.
//!
//! *Invariant.* A record that was answered to anybody is below `tail` of every standby that counts, and in the log of every
//! primary to come. So where a primary's bytes differ from those that are here, everything from there on was never answered,
//! and gives way; where they are the same nothing is written. Bytes that were durable are never overwritten by others before
//! the first that differs, so a crash at any instant leaves the old stream, or a part of the new one. What is left of the
//! old one behind that is not taken for its continuation: within an epoch one primary wrote the stream, epochs never step back, and
//! each opens with a *link*, a record that names the checksum of the one before it.
//!
//! *Links.* A link carries nothing, and `committed` does not move to the end of one before a record with ranges behind it is on every
//! replica that counts. So whoever becomes primary and has links at the end of its log puts its own in their place: no replica
//! has them below `committed`, and a reign that failed leaves nothing behind (`log.rs`).
//!
//! *Fencing.* The epoch that was promised is in the header, durably, before the promise is answered. Bytes of a
//! lower epoch are refused from then on, after restarts too.

use crate::checkpoint::Home;
use crate::error::{Error, Result};
use crate::frozen::Frozen;
use crate::header::{self, Found};
use crate::layout::{
    FLAG_CATCHING_UP, FLAG_CLEAN, FLAG_INSTALLING, FLAG_REPLICA, FORMAT, HEADER_BLOCK, HOME_STEP,
    Header, LOG_OFFSET, MAGIC, MAX_EPOCH, read_from,
};
use crate::log::{Log, ring_pieces};
use crate::medium::{self, LogStyle, Medium, ViewSource, mapped};
use crate::options::{check_fields, check_header, home_size};
use crate::record::{Change, Parsed};
use crate::recover::{self, Recovered};
use crate::sync::Mutex;
use crate::sync::atomic::Ordering;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

/// How far a standby is. Offsets are absolute, in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Which region it is a replica of.
    pub uuid: [u8; 16],
    /// The epoch that it has promised.
    pub epoch: u64,
    /// Where its ring starts: below it everything is in the home, and the space is free.
    pub head: u64,
    /// Below it every replica has the same.
    pub committed: u64,
    /// Below it the log is durable here.
    pub tail: u64,
    /// Every record up to this number is in the home, durably.
    pub checkpoint: u64,
}

impl Position {
    /// Whether it was made, and never had a primary.
    pub fn is_blank(&self) -> bool {
        self.epoch == 0 && self.tail == 0 && self.checkpoint == 0
    }
}

/// A replica that follows.
#[derive(Debug)]
pub struct Standby {
    pub(crate) home: Home,
    /// Its lane's tail is `committed`, and its `durable` the number of the last record below.
    pub(crate) log: Log,
    uuid: [u8; 16],
    max_size: u64,
    receiving: Mutex<Receiving>,
    pub(crate) medium: Arc<dyn Medium>,
}

#[derive(Debug)]
struct Receiving {
    /// The epoch that was promised; the header's.
    epoch: u64,
    /// Where the present primary goes on.
    expected: u64,
    /// The record that ends there.
    before: Before,
    /// Where the log ends that is durable here.
    tail: u64,
    /// The last record below the lane's tail.
    committed: Before,
    /// The records between `committed` and `tail`, oldest first, and where they end.
    recent: VecDeque<(u64, Before)>,
    /// The header's flag.
    catching_up: bool,
}

/// What the record after another has to know of it.
#[derive(Debug, Clone, Copy)]
struct Before {
    epoch: u64,
    number: u64,
    crc: u32,
    /// Whether it has ranges: a link alone settles nothing.
    carries: bool,
}

impl Before {
    fn of(record: &Parsed<'_>) -> Before {
        Before {
            epoch: u64::from(record.header.epoch),
            number: record.header.seq,
            crc: record.header.crc,
            carries: record.carries(),
        }
    }
}

impl Standby {
    /// Opens a replica, as one that follows.
    ///
    /// # Errors
    ///
    /// Those of [`Options::open`](crate::Options::open); `NotARegion` where there is none, `Unfinished` for one whose
    /// copying was interrupted.
    pub fn open(path: impl AsRef<Path>) -> Result<Standby> {
        let path = path.as_ref();
        let medium = medium::of(mapped::open_locked(path)?, path, false)?;
        Standby::open_on(medium)
    }

    /// Gives the file of a copy that is damaged another name, `NAME.damaged-N`, so that another can be made in its place. Returns that name.
    /// Nothing is deleted.
    ///
    /// # Errors
    ///
    /// `Busy` if somebody has it open, `NotARegion` for what is no file, `Io`.
    pub fn set_aside(path: impl AsRef<Path>) -> Result<std::path::PathBuf> {
        mapped::set_aside(path.as_ref())
    }

    /// Opens it on a medium of the caller's.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_on(medium: Arc<dyn Medium>) -> Result<Standby> {
        let not = |what: &str| Error::NotARegion {
            path: medium.path().into(),
            what: what.into(),
        };
        let header = match header::read(&*medium)? {
            Found::Blank | Found::Unfinished => {
                return Err(Error::Unfinished {
                    path: medium.path().into(),
                });
            }
            Found::Header(header) => *header,
        };
        check_header(&*medium, &header)?;
        if header.flags & FLAG_INSTALLING != 0 {
            return Err(Error::Unfinished {
                path: medium.path().into(),
            });
        }
        if header.flags & FLAG_REPLICA == 0 {
            return Err(not("it is a region of its own, and no replica"));
        }
        medium.reserve(header.home_offset + header.max_size)?;
        Standby::start(medium, header)
    }

    fn start(medium: Arc<dyn Medium>, mut header: Header) -> Result<Standby> {
        let size = home_size(&*medium, &header);
        let recovered = if header.flags & FLAG_CLEAN != 0 {
            Recovered::of_empty_log(&header)
        } else {
            recover::recover(
                &*medium,
                &header,
                size,
                LogStyle::Stream,
                true,
                recover::AtOnce::ALL,
            )?
        };
        if header.flags & FLAG_CATCHING_UP != 0 {
            recover::erase_free(&*medium, &recovered.lanes[0])?;
        }
        if header.flags & (FLAG_CLEAN | FLAG_CATCHING_UP) != 0 {
            header.flags &= !(FLAG_CLEAN | FLAG_CATCHING_UP);
            header::write(&*medium, &mut header)?;
        }
        let (number, end) = recovered.committed;
        let tail = end + recovered.behind.len() as u64;
        let (epoch, crc) = recovered.committed_before;
        let committed = Before {
            epoch,
            number,
            crc,
            carries: true,
        };
        // Of every epoch to come: which ones are taken is decided where bytes are received.
        let log = Log::new(
            LogStyle::Stream,
            u64::from(u32::MAX),
            recovered.lanes,
            recovered.next,
        )
        .replicated(None, number, end);
        Ok(Standby {
            home: Home {
                offset: header.home_offset,
                size: size.into(),
                header: Mutex::new(header),
                checkpoint: header.checkpoint.into(),
                applied: number.max(header.checkpoint).into(),
                private: Default::default(),
                bulk: 0.into(),
                frozen: Default::default(),
            },
            log,
            uuid: header.uuid,
            max_size: header.max_size,
            receiving: Mutex::new(Receiving {
                epoch: header.epoch,
                expected: end,
                before: committed,
                tail,
                committed,
                recent: records(&recovered.behind, end),
                catching_up: false,
            }),
            medium,
        })
    }

    /// How far it is.
    pub fn position(&self) -> Position {
        let receiving = self.receiving.lock();
        self.position_of(&receiving)
    }

    fn position_of(&self, receiving: &Receiving) -> Position {
        let lane = &self.log.lanes[0];
        Position {
            uuid: self.uuid,
            epoch: receiving.epoch,
            head: lane.head.load(Ordering::Acquire),
            committed: lane.tail.load(Ordering::Acquire),
            tail: receiving.tail,
            checkpoint: self.home.checkpoint.load(Ordering::Acquire),
        }
    }

    /// Where the bytes of the present primary go on.
    pub fn expected(&self) -> u64 {
        self.receiving.lock().expected
    }

    /// What a link has to name.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn receiving_crc(&self) -> u32 {
        self.receiving.lock().before.crc
    }

    /// Bytes that its ring holds.
    pub fn ring(&self) -> u64 {
        self.log.lanes[0].len
    }

    /// Promises to take nothing of an epoch below `epoch`, durably. The primary of that epoch goes on at
    /// [`Position::committed`].
    ///
    /// # Errors
    ///
    /// `Fenced` if a higher one was promised; `BadOption` for one that no header can hold; the medium's.
    pub fn promise(&self, epoch: u64) -> Result<Position> {
        if epoch > MAX_EPOCH {
            return Err(Error::BadOption {
                option: "epoch",
                what: format!("{epoch} is too large"),
            });
        }
        let mut receiving = self.receiving.lock();
        let promised = receiving.epoch;
        if epoch < promised && !crate::mutant::is("no_fencing") {
            return Err(Error::Fenced {
                epoch,
                current: promised,
            });
        }
        if epoch > promised {
            let mut header = self.home.header.lock();
            let mut new = *header;
            new.epoch = epoch;
            header::write(&*self.medium, &mut new)?;
            *header = new;
            receiving.epoch = epoch;
        }
        receiving.expected = self.log.lanes[0].tail.load(Ordering::Acquire);
        receiving.before = receiving.committed;
        Ok(self.position_of(&receiving))
    }

    /// Takes a piece of the stream, whole records, that starts at `at`: durable on return. Returns where it ends. One barrier; none
    /// for what was here already.
    ///
    /// # Errors
    ///
    /// `Fenced` if a higher epoch was promised, `Unfitting` for bytes that do not follow or make no sense, those of the medium when
    /// there is no space for the home: nothing has changed then. Those of the medium when the log cannot be written: it has to be opened
    /// again.
    pub fn receive(&self, epoch: u64, at: u64, bytes: &[u8]) -> Result<u64> {
        let mut receiving = self.receiving.lock();
        self.log.check()?;
        if epoch != receiving.epoch && !crate::mutant::is("no_fencing") {
            return Err(Error::Fenced {
                epoch,
                current: receiving.epoch,
            });
        }
        let unfitting = |what: String| Error::Unfitting {
            path: self.medium.path().into(),
            at,
            len: bytes.len() as u64,
            what,
        };
        if at != receiving.expected {
            return Err(unfitting(format!(
                "the next offset is {}",
                receiving.expected
            )));
        }
        let taken = self.parse(&receiving, at, bytes).map_err(unfitting)?;
        let end = at + bytes.len() as u64;
        self.make_room(end).map_err(|error| match error {
            None => unfitting("they are more than the ring holds".into()),
            Some(error) => error,
        })?;
        self.extend(taken.home_end)?;
        let same = self.same(at, bytes, receiving.tail)?;
        if same < bytes.len() as u64 {
            self.catching_up(&mut receiving, taken.durable_upto > at + same)?;
            // From here on what was there gives way.
            receiving.tail = at + same;
            let kept = receiving.recent.partition_point(|r| r.0 <= at);
            receiving.recent.truncate(kept);
            // Afterwards nobody knows what is there: opening it again looks.
            self.write(at + same, &bytes[same as usize..])
                .map_err(|error| self.log.poison(error))?;
            receiving.recent.extend(taken.records);
            receiving.tail = end;
        }
        receiving.expected = end;
        receiving.before = taken.last;
        self.commit_locked(&mut receiving, taken.durable_upto);
        Ok(end)
    }

    /// The primary says that everything below `upto` is on every replica, this one included. It goes on there, if that is
    /// further than it was: what it no longer has in its own log, it need not send to who has it.
    pub fn commit(&self, epoch: u64, upto: u64) {
        let mut receiving = self.receiving.lock();
        if epoch == receiving.epoch {
            self.commit_locked(&mut receiving, upto);
        }
    }

    fn commit_locked(&self, receiving: &mut Receiving, upto: u64) {
        let known = receiving.recent.partition_point(|r| r.0 <= upto);
        let settled = receiving.recent.range(..known).rposition(|r| r.1.carries);
        if let Some(i) = settled {
            let (end, record) = receiving.recent[i];
            receiving.committed = record;
            receiving.recent.drain(..=i);
            self.log.settle(receiving.committed.number, end);
            if receiving.expected < end {
                receiving.expected = end;
                receiving.before = receiving.committed;
            }
        }
    }

    /// Whether what is written next says of more than is here that it is durable: a crash in the middle must not look like
    /// damage then. One barrier where it changes, which is at the beginning and at the end of catching up.
    fn catching_up(&self, receiving: &mut Receiving, yes: bool) -> Result<()> {
        // The header's lock is a checkpoint's for long: only where it changes.
        if yes != receiving.catching_up {
            let mut header = self.home.header.lock();
            let mut new = *header;
            new.flags ^= FLAG_CATCHING_UP;
            header::write(&*self.medium, &mut new)?;
            *header = new;
            receiving.catching_up = yes;
        }
        Ok(())
    }

    /// What pieces of the stream are made of, checked.
    fn parse(&self, receiving: &Receiving, at: u64, bytes: &[u8]) -> Result<Taken, String> {
        let mut taken = Taken {
            last: receiving.before,
            durable_upto: 0,
            home_end: 0,
            records: Vec::new(),
        };
        let mut from = 0;
        while from < bytes.len() {
            let offset = at + from as u64;
            let Before {
                epoch, number, crc, ..
            } = taken.last;
            let Some(record) = Parsed::parse(&bytes[from..], offset, epoch..=receiving.epoch)
            else {
                return Err(format!("there is no whole record at {offset}"));
            };
            if !record.follows(epoch, crc) {
                return Err(format!(
                    "the record at {offset} was written behind another one"
                ));
            }
            if record.header.durable_upto > offset {
                return Err(format!("the record at {offset} is ahead of itself"));
            }
            if record.header.seq != number + 1 {
                let found = record.header.seq;
                return Err(format!("record {found} follows record {number}"));
            }
            for change in record.changes() {
                let Change::Bytes { offset, bytes } = change else {
                    return Err(format!(
                        "record {} names bytes that are not in it",
                        number + 1
                    ));
                };
                let end = offset + bytes.len() as u64;
                if end > self.max_size {
                    return Err(format!("record {} changes offset {offset}", number + 1));
                }
                taken.home_end = taken.home_end.max(end);
            }
            taken.last = Before::of(&record);
            taken.durable_upto = taken.durable_upto.max(record.header.durable_upto);
            from += record.size() as usize;
            let end = at + from as u64;
            taken.records.push((end, taken.last));
        }
        if from != bytes.len() {
            return Err("they end in the middle of a record".into());
        }
        Ok(taken)
    }

    /// Sees to it that the ring has room up to `end`: `Err(None)` if it never will.
    fn make_room(&self, end: u64) -> Result<(), Option<Error>> {
        let lane = &self.log.lanes[0];
        let full = || end - lane.head.load(Ordering::Acquire) > lane.len;
        if full() {
            self.checkpoint().map_err(Some)?;
        }
        if full() { Err(None) } else { Ok(()) }
    }

    /// Allocates the home up to `end`: what is acknowledged can be taken home.
    fn extend(&self, end: u64) -> Result<()> {
        let size = self.home.size.load(Ordering::Acquire);
        if end > size {
            let grown = end.next_multiple_of(HOME_STEP).min(self.max_size);
            self.medium.grow(self.home.offset + grown)?;
            self.home.size.store(grown, Ordering::Release);
        }
        Ok(())
    }

    /// How many of `bytes`, for offset `at`, stand there already, in a log that is durable up to `tail`: whole lines.
    fn same(&self, at: u64, bytes: &[u8], tail: u64) -> Result<u64> {
        const PIECE: u64 = 64 << 10;
        let have = tail.saturating_sub(at).min(bytes.len() as u64);
        let mut same = 0;
        while same < have {
            let len = PIECE.min(have - same);
            let there = self.log.lanes[0].read(&*self.medium, at + same, len)?;
            let ours = &bytes[same as usize..(same + len) as usize];
            if there != ours {
                let differs = there.iter().zip(ours).take_while(|(a, b)| a == b).count() as u64;
                return Ok(same + differs / 64 * 64);
            }
            same += len;
        }
        Ok(same)
    }

    /// Writes to the ring: one barrier.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let lane = &self.log.lanes[0];
        let [first, second] = ring_pieces(lane.start, lane.len, at, bytes.len() as u64);
        let (a, b) = bytes.split_at(first.1 as usize);
        if b.is_empty() {
            self.medium.append(&[(first.0, a)])
        } else {
            self.medium.append(&[(first.0, a), (second.0, b)])
        }
    }

    /// Whether the log is so full that a [`checkpoint`](Self::checkpoint) is due.
    pub fn needs_checkpoint(&self) -> bool {
        self.log.fill() >= crate::shared::CHECKPOINT_FILL
    }

    /// Whether it can go on.
    ///
    /// # Errors
    ///
    /// `Poisoned`: it has to be opened again.
    pub fn check_usable(&self) -> Result<()> {
        self.log.check()
    }

    /// Takes what is committed home and frees its space in the ring: two barriers.
    ///
    /// # Errors
    ///
    /// The medium's; the standby is unusable then, and has to be opened again.
    pub fn checkpoint(&self) -> Result<()> {
        self.home.checkpoint(&*self.medium, &self.log, false)
    }

    /// A picture of the home, as [`Region::freeze`](crate::Region::freeze) gives one.
    ///
    /// # Errors
    ///
    /// `Io` if it cannot be mapped.
    pub fn freeze(&self) -> Result<Arc<Frozen>> {
        let header = self.home.header.lock();
        let size = self.home.size.load(Ordering::Acquire);
        let frozen = match self.medium.view() {
            ViewSource::Map(file) => Frozen::map(file, self.medium.path(), self.home.offset, size)?,
            ViewSource::Copy | ViewSource::Memory { .. } => {
                Frozen::copy(&*self.medium, self.home.offset, size)?
            }
        };
        let frozen = Arc::new(frozen);
        self.home.frozen.add(&frozen);
        drop(header);
        Ok(frozen)
    }
}

/// The records that a stream from offset `at` on consists of, which were checked before.
fn records(stream: &[u8], at: u64) -> VecDeque<(u64, Before)> {
    let mut records = VecDeque::new();
    let mut from = 0;
    while let Some(record) = stream.get(from..).and_then(Parsed::again) {
        from += record.size() as usize;
        records.push_back((at + from as u64, Before::of(&record)));
    }
    records
}

/// What [`Standby::receive`] found in a piece.
struct Taken {
    last: Before,
    durable_upto: u64,
    /// Where the home ends at least.
    home_end: u64,
    records: Vec<(u64, Before)>,
}

/// A standby in the making: its home is being copied from a [`Picture`](crate::Picture). Before
/// [`finish`](Self::finish) there is none, whatever happens.
#[derive(Debug)]
pub struct Installing {
    medium: Arc<dyn Medium>,
    header: Header,
    /// Not durable yet, and so many bytes.
    written: Vec<(u64, u64)>,
    pending: u64,
}

/// So many bytes of home are made durable at once while it is copied: the end has less to wait for, and nothing is held for all of them.
const PERSIST_EVERY: u64 = 64 << 20;

impl Standby {
    /// Starts a replica at `path`, in a new file or over what an older replica left there, which is lost.
    ///
    /// # Errors
    ///
    /// `NotARegion` if the header makes no sense, `Busy`, the medium's.
    pub fn install(path: impl AsRef<Path>, header: &[u8]) -> Result<Installing> {
        let path = path.as_ref();
        let medium = match mapped::open_locked(path) {
            Ok(file) => medium::of(file, path, false)?,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                let (file, unnamed) = mapped::create_locked(path)?;
                let medium = medium::of(file, path, false)?;
                unnamed.publish_own()?;
                medium
            }
            Err(error) => return Err(error),
        };
        Standby::install_on(medium, header)
    }

    /// Starts a replica on a medium of the caller's. What was there is lost.
    ///
    /// # Errors
    ///
    /// As [`install`](Self::install).
    pub fn install_on(medium: Arc<dyn Medium>, header: &[u8]) -> Result<Installing> {
        let mut header = header_from(&*medium, header)?;
        let len = header.home_offset + HOME_STEP;
        medium.reserve(header.home_offset + header.max_size)?;
        if medium.len() < len {
            medium.grow(len)?;
        }
        // Neither copy of an older header may count any more; and while one is left, it says that this is no replica: the last
        // but one would be of a log that is gone.
        if let Ok(Found::Header(mut older)) = header::read(&*medium) {
            if older.flags & FLAG_INSTALLING != 0 {
                // Perhaps of an attempt that failed, and not durable: the same block again, so that the other one stays whole.
                older.revision -= 1;
            }
            older.flags |= FLAG_INSTALLING;
            header::write(&*medium, &mut older)?;
            header::write(&*medium, &mut older)?;
        }
        // Says that it is unfinished until the new one, which goes to the second block, is whole.
        header::announce(&*medium)?;
        medium.append(&[(HEADER_BLOCK, &[0; HEADER_BLOCK as usize])])?;
        header.revision = 0;
        header::write(&*medium, &mut header)?;
        medium.fill_log(LOG_OFFSET, header.home_offset - LOG_OFFSET)?;
        // A medium that was used before.
        let end = medium.len().min(header.home_offset + header.max_size);
        zero(&*medium, header.home_offset, end)?;
        Ok(Installing {
            medium,
            header,
            written: Vec::new(),
            pending: 0,
        })
    }
}

/// The header of a replica in the making, from the one that its primary sent; checked before anything is allocated for it.
fn header_from(medium: &dyn Medium, sent: &[u8]) -> Result<Header> {
    let not = |what: &str| Error::NotARegion {
        path: medium.path().into(),
        what: what.into(),
    };
    let mut header: Header = read_from(sent).ok_or_else(|| not("the primary sent no header"))?;
    if header.magic != MAGIC || header.format != FORMAT {
        return Err(not("the primary's format is another one"));
    }
    header.flags = FLAG_REPLICA | FLAG_INSTALLING;
    if let ViewSource::Memory { base, len } = medium.view() {
        if len < header.max_size {
            return Err(not("the medium's view is too small"));
        }
        // Under simulation every machine lends memory of its own.
        header.home_address = base.expose_provenance() as u64;
    }
    check_fields(medium.path(), &header)?;
    let between = header.home_offset - (LOG_OFFSET + header.lane0_size);
    if header.lanes != 1 || between >= HOME_STEP || header.relocate_to != 0 {
        return Err(not(
            "the primary's header is not that of a replicated region",
        ));
    }
    Ok(header)
}

/// Makes the home zeroes.
fn zero(medium: &dyn Medium, from: u64, end: u64) -> Result<()> {
    let zeroes = vec![0; 1 << 20];
    let mut there = vec![0; 1 << 20];
    let mut at = from;
    while at < end {
        let len = zeroes.len().min((end - at) as usize);
        medium.read(at, &mut there[..len])?;
        if there[..len] != zeroes[..len] {
            medium.write(at, &zeroes[..len])?;
        }
        at += len as u64;
    }
    medium.persist(&[(from, end - from)])
}

impl Installing {
    /// Stores bytes of the picture at a home offset. What is not stored is zeroes. One barrier for every 64 MiB.
    ///
    /// # Errors
    ///
    /// `OutOfSpace` beyond the maximum size; the medium's.
    pub fn home(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let (home, max) = (self.header.home_offset, self.header.max_size);
        let len = bytes.len() as u64;
        let end = offset.checked_add(len).filter(|&end| end <= max);
        let Some(end) = end else {
            return Err(Error::OutOfSpace {
                requested: len,
                available: max.saturating_sub(offset),
                max_size: max,
            });
        };
        let grown = home + end.next_multiple_of(HOME_STEP).min(max);
        if self.medium.len() < grown {
            self.medium.grow(grown)?;
        }
        self.medium.write(home + offset, bytes)?;
        self.written.push((home + offset, len));
        // Pieces without bytes count as well.
        self.pending += len.max(4096);
        if self.pending >= PERSIST_EVERY {
            self.persist()?;
        }
        Ok(())
    }

    fn persist(&mut self) -> Result<()> {
        self.pending = 0;
        self.medium.persist(&std::mem::take(&mut self.written))
    }

    /// What was stored since the beginning, or the last call of this, is of a later picture of the same region, of which `header` is.
    ///
    /// # Errors
    ///
    /// `NotARegion` if it is not.
    pub fn advance(&mut self, header: &[u8]) -> Result<()> {
        let now = self.header;
        let later = header_from(&*self.medium, header)?;
        let same = (
            later.uuid,
            later.home_offset,
            later.lane0_size,
            later.max_size,
        ) == (now.uuid, now.home_offset, now.lane0_size, now.max_size);
        if !same || later.heads[0] < now.heads[0] || later.checkpoint < now.checkpoint {
            return Err(Error::NotARegion {
                path: self.medium.path().into(),
                what: "the primary's header is not a later one of what was begun".into(),
            });
        }
        self.header = Header {
            revision: now.revision,
            ..later
        };
        Ok(())
    }

    /// Everything of the picture was stored: there is a standby. Two barriers.
    ///
    /// # Errors
    ///
    /// The medium's.
    pub fn finish(mut self) -> Result<Standby> {
        self.persist()?;
        self.header.flags = FLAG_REPLICA;
        header::write(&*self.medium, &mut self.header)?;
        Standby::start(self.medium, self.header)
    }
}

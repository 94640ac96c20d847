//! From the log to the home: applying records in the order of their numbers,
//! making the home durable, and only then truncating the log.
//!
//! Order is everything here. (1) Records up to the horizon are read back, their
//! checksums verified. (2) Frozen mappings get their copies of the pages that
//! will change. (3) The newest bytes of each place, and no others, are stored
//! into the home. (4) The home's barrier. (5) The header, durable, with the
//! new checkpoint number and heads. (6) Only now may the log space be used
//! again. A crash before (5) leaves the log whole: recovery applies it again.
//!
//! Older bytes must not even pass through the home: pages of the view that the
//! program has not changed since they were mapped or given back follow the
//! file, and readers would see them.

use crate::error::{Error, Result};
use crate::frozen::FrozenSet;
use crate::header;
use crate::layout::{Header, RECORD_ALIGN};
use crate::log::Log;
use crate::medium::{Medium, MediumKind};
use crate::newest::{Lines, Newest};
use crate::private_pages::PrivatePages;
use crate::record::{Change, Parsed};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes handed to the device at once while a checkpoint is paced: a commit
/// that comes in between waits for so much at most.
const PACE_CHUNK: u64 = 64 << 10;
/// Longest pause after such a chunk, in which commits have the device to
/// themselves.
const PACE_PAUSE: Duration = Duration::from_millis(2);
/// A log as full as this, in 256ths, is paced no more: commits would soon wait
/// for space, which is worse.
const PACE_UPTO: u64 = 192;

/// The home of a region and what the checkpoint needs to know of it.
#[derive(Debug)]
pub(crate) struct Home {
    /// Where it starts in the file.
    pub(crate) offset: u64,
    /// Its length; grows only.
    pub(crate) size: AtomicU64,
    /// The header as last written. The lock is held for a whole checkpoint:
    /// there is one at a time.
    pub(crate) header: Mutex<Header>,
    /// `header.checkpoint`, for readers without the lock.
    pub(crate) checkpoint: AtomicU64,
    /// Records up to this number have changed it, though not all of them may be durable in it: at least `checkpoint`.
    /// Stored under the header's lock.
    pub(crate) applied: AtomicU64,
    /// Pages changed, or written fresh and kept in the view, since they were last
    /// given back.
    pub(crate) private: PrivatePages,
    /// Bytes of long records, and of extents, that were appended since the last checkpoint began, or before.
    pub(crate) bulk: AtomicU64,
    pub(crate) frozen: FrozenSet,
}

/// What records of one lane a checkpoint takes.
struct Taken {
    /// The lane's bytes from its head on.
    bytes: Vec<u8>,
    head: u64,
    /// Absolute offset of the first record that is not taken.
    end: u64,
    /// Epoch and checksum of the last that is.
    last: Option<(u32, u32)>,
}

/// What a checkpoint applied.
struct Applied {
    lines: Lines,
    /// The lanes' new heads.
    heads: Vec<u64>,
    /// Of lane 0, epoch and checksum of the last record, if there was one.
    last: Option<(u32, u32)>,
}

impl Home {
    /// Applies everything up to the log's horizon and truncates the log.
    ///
    /// Cost: one barrier for the home, one for the header.
    pub(crate) fn checkpoint(&self, medium: &dyn Medium, log: &Log, paced: bool) -> Result<()> {
        self.checkpoint_upto(medium, log, paced, u64::MAX)
    }

    /// The same, and nothing above number `upto`.
    pub(crate) fn checkpoint_upto(
        &self,
        medium: &dyn Medium,
        log: &Log,
        paced: bool,
        upto: u64,
    ) -> Result<()> {
        let mut header = self.header.lock();
        log.check()?;
        // Before the horizon: what is counted after it was appended counts for the next one.
        let bulk = self.bulk.swap(0, Ordering::Relaxed);
        let horizon = log.horizon().min(upto);
        if horizon <= header.checkpoint {
            self.bulk.fetch_add(bulk, Ordering::Relaxed);
            return Ok(());
        }
        let result = self.apply(medium, log, horizon).and_then(|applied| {
            let Applied { lines, heads, last } = applied;
            let mut new = *header;
            if let Some(last) = last {
                (new.before_epoch, new.before_crc) = last;
            }
            new.checkpoint = horizon;
            new.heads[..heads.len()].copy_from_slice(&heads);
            if !crate::mutant::is("truncate_first") {
                self.persist(medium, log, &lines, paced)?;
            }
            header::write(medium, &mut new)?;
            if crate::mutant::is("truncate_first") {
                self.persist(medium, log, &lines, paced)?;
            }
            *header = new;
            Ok(heads)
        });
        let heads = result.map_err(|error| log.poison(error))?;
        for (lane, head) in log.lanes.iter().zip(&heads) {
            lane.head.store(*head, Ordering::Release);
        }
        self.checkpoint.store(horizon, Ordering::Release);
        drop(header);
        log.freed_space();
        Ok(())
    }

    /// Applies everything up to the log's horizon to the home, without making
    /// it durable and without truncating the log.
    pub(crate) fn apply_only(&self, medium: &dyn Medium, log: &Log) -> Result<()> {
        let header = self.header.lock();
        log.check()?;
        let horizon = log.horizon();
        if horizon > header.checkpoint {
            self.apply(medium, log, horizon)
                .map_err(|error| log.poison(error))?;
        }
        Ok(())
    }

    fn persist(&self, medium: &dyn Medium, log: &Log, lines: &Lines, paced: bool) -> Result<()> {
        if crate::mutant::is("no_home_barrier") {
            return Ok(());
        }
        if medium.kind() != MediumKind::File {
            return medium.persist(&lines.ranges(self.offset));
        }
        let ranges = lines.page_ranges(self.offset, PACE_CHUNK);
        // A little is written as fast as it is announced.
        let much = ranges.iter().map(|&(_, len)| len).sum::<u64>() > PACE_CHUNK;
        if paced && much {
            let mut rest = &ranges[..];
            while !rest.is_empty() && log.fill() < PACE_UPTO {
                let mut bytes = 0;
                let fits = |&&(_, len): &&(u64, u64)| {
                    bytes += len;
                    bytes <= PACE_CHUNK
                };
                let (chunk, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
                let start = Instant::now();
                medium.write_back(chunk)?;
                if !later.is_empty() {
                    // As long again is the commits'.
                    std::thread::sleep(start.elapsed().min(PACE_PAUSE));
                }
                rest = later;
            }
        }
        medium.persist(&ranges)
    }

    /// Reads the records up to `horizon`, stores their bytes into the home,
    /// and returns what it touched.
    fn apply(&self, medium: &dyn Medium, log: &Log, horizon: u64) -> Result<Applied> {
        let mut taken = Vec::with_capacity(log.lanes.len());
        for lane in &log.lanes {
            let head = lane.head.load(Ordering::Relaxed);
            // Acquire: the records below are written.
            let tail = lane.tail.load(Ordering::Acquire);
            let bytes = lane.read(medium, head, tail - head)?;
            for (offset, len) in lane.pieces(head, tail - head) {
                medium.let_go(offset, len);
            }
            taken.push(Taken {
                bytes,
                head,
                end: head,
                last: None,
            });
        }
        let mut records = Vec::new();
        for (i, lane) in taken.iter_mut().enumerate() {
            let mut at = 0;
            while at < lane.bytes.len() {
                let absolute = lane.head + at as u64;
                let Some(record) = Parsed::parse(&lane.bytes[at..], absolute, 0..=log.epoch) else {
                    return Err(Error::Damaged {
                        path: medium.path().into(),
                        offset: log.lanes[i].pieces(absolute, RECORD_ALIGN)[0].0,
                        what: "a log record does not read back as it was written".into(),
                    });
                };
                if record.header.seq > horizon {
                    break;
                }
                records.push((record.header.seq, i, at));
                at += record.size() as usize;
                lane.last = Some((record.header.epoch, record.header.crc));
                lane.end = lane.head + at as u64;
            }
        }
        if !records.is_sorted() {
            records.sort_unstable();
        }
        let parse = |&(_, i, at): &(u64, usize, usize)| {
            let lane: &Taken = &taken[i];
            Parsed::again(&lane.bytes[at..]).expect("parsed above")
        };
        let size = self.size.load(Ordering::Acquire);
        let newest = newest(medium, self.offset, size, records.iter().rev().map(parse))?;
        self.frozen.before_change(newest.pages());
        self.applied.fetch_max(horizon, Ordering::Relaxed);
        if crate::mutant::is("oldest_first") {
            for change in records.iter().flat_map(|r| parse(r).changes()) {
                if let Change::Bytes { offset, bytes } = change {
                    medium.write(self.offset + offset, bytes)?;
                }
            }
        } else {
            store(medium, self.offset, &newest)?;
        }
        self.private.add(newest.pages());
        Ok(Applied {
            lines: newest.lines(),
            heads: taken.iter().map(|lane| lane.end).collect(),
            last: taken[0].last,
        })
    }
}

/// The newest bytes of each place that `records`, the newest first, change in
/// a home of `size` bytes at file offset `home`.
pub(crate) fn newest<'r>(
    medium: &dyn Medium,
    home: u64,
    size: u64,
    records: impl Iterator<Item = Parsed<'r>>,
) -> Result<Newest<'r>> {
    let damaged = |what| Error::Damaged {
        path: medium.path().into(),
        offset: home,
        what,
    };
    let mut newest = Newest::default();
    let mut several = Vec::new();
    for record in records {
        let mut changes = record.changes();
        let (first, second) = (changes.next(), changes.next());
        // Within a record the last one wins.
        if second.is_some() {
            several.extend(first.into_iter().chain(second).chain(changes));
            while let Some(change) = several.pop() {
                newest_of(change, size, &mut newest).map_err(damaged)?;
            }
        } else if let Some(change) = first {
            newest_of(change, size, &mut newest).map_err(damaged)?;
        }
    }
    Ok(newest)
}

/// Adds one range; `Err` says why it cannot be right.
#[inline]
fn newest_of<'r>(change: Change<'r>, size: u64, newest: &mut Newest<'r>) -> Result<(), String> {
    Err(match change {
        Change::Bytes { offset, bytes } => {
            if offset + bytes.len() as u64 <= size {
                newest.add(offset, bytes);
                return Ok(());
            }
            format!("a record changes home offset {offset}, beyond its end {size}")
        }
        Change::Extent { offset, len, .. } => {
            if offset.checked_add(len).is_some_and(|end| end <= size) {
                return Ok(());
            }
            format!("a record names an extent at home offset {offset}, beyond its end {size}")
        }
        Change::Malformed => "a record's ranges make no sense".into(),
    })
}

/// Stores them into the home at file offset `home`.
pub(crate) fn store(medium: &dyn Medium, home: u64, newest: &Newest<'_>) -> Result<()> {
    for &(offset, bytes) in newest.pieces() {
        medium.write(home + offset, bytes)?;
    }
    Ok(())
}

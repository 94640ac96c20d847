//! Recovery: from a header and a log to the committed state.
//!
//! Each lane is parsed from its head while records are whole, in epochs that
//! never step back. Where parsing stops, the lane ends, unless a later record
//! says that this place was durable once: then it is damage, and an error.
//! The newest bytes of each place, by the records' numbers, are stored into the
//! home (on lanes a number may be missing: its transaction was never
//! acknowledged, and no other depended on it, because locks are released when a
//! record is durable; on a stream nothing may be missing). Older bytes are not:
//! the home may be further than the header that counts, whose newer copy was
//! torn, and must not be taken back. The log stays as it is until the
//! home was made durable, so a crash during or after recovery
//! is recovered the same way: the pass is idempotent.
//!
//! On lanes that is at once ([`Recovered::take_home`]): the lines that were replayed are made durable, and the header,
//! which has to be written anyhow, says that the log is empty. Whoever dies soon after leaves nothing to be replayed once
//! more. On a stream it would cost a barrier of the whole file: there the first checkpoint does it.
//!
//! Before anybody is answered, two things are made durable: the last records
//! (found in a cache that a dead process left, they might otherwise be lost
//! after others came to depend on them), and the next epoch in the header, so
//! that what stands behind a torn record can never be parsed again.
//!
//! *Searching the rest.* Where a lane ends, the whole rest of its ring has to be
//! searched for a record that says otherwise, and a large log takes longer to read than
//! opening may. The same is true of extents, whose bytes have to read back as they were
//! written: what was loaded in bulk takes as long to read as it is large. What is left of both ([`Rest`]) is
//! looked at beside the program, which may read meanwhile; but nothing is appended and nothing
//! more taken home before that is done (`log`), so nothing of an extent changes before, and what is found wrong is
//! found once more by whoever recovers next: behind the end of a lane it stays where it is, also when
//! the log was truncated up to there, and a log that names extents which were not read is not
//! truncated. No order depends on the looking: an extent was durable before the
//! record that names it, or there is no record. It finds what a medium has done to its bytes since.
//!
//! *How much there is to do.* The home is not far behind the log (`shared`), so that what opening has to apply
//! does not depend on the size of the home or of the log.

use crate::checkpoint::{newest, store};
use crate::error::{Error, Result};
use crate::layout::{FLAG_CATCHING_UP, Header, LOG_OFFSET, RECORD_ALIGN, RecordHeader, read_from};
use crate::log::{Lane, ring_pieces};
use crate::medium::{LogStyle, Medium};
use crate::newest::Lines;
use crate::record::{Change, Parsed};
use crate::sync::atomic::Ordering;
use std::mem::size_of;
use std::ops::{Range, RangeInclusive};

/// What recovery found, and the lanes as they go on.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) lanes: Vec<Lane>,
    /// The next number to draw.
    pub(crate) next: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// A stream of which not all was kept from the home: the number up to which it was taken, where that record ends, and what follows,
    /// oldest first: records of the log, whole.
    pub(crate) committed: (u64, u64),
    pub(crate) behind: Vec<u8>,
    /// What is left to be looked at before anything is appended.
    pub(crate) rest: Rest,
    /// On lanes, the lines of the home that were replayed.
    lines: Lines,
    /// Epoch and checksum of the last record of lane 0, in the log or before it.
    pub(crate) before: (u64, u32),
    /// The same of what `committed` names.
    pub(crate) committed_before: (u64, u32),
}

impl Recovered {
    /// Takes links off the end of a replicated stream: nobody holds on to them, and another takes their place.
    pub(crate) fn drop_links(&mut self) {
        let (mut number, mut end) = self.committed;
        let mut before = self.committed_before;
        let (mut at, mut kept) = (0, 0);
        while let Some(record) = self.behind.get(at..).and_then(Parsed::again) {
            at += record.size() as usize;
            if record.carries() {
                kept = at;
                number = record.header.seq;
                before = (u64::from(record.header.epoch), record.header.crc);
            }
        }
        self.behind.truncate(kept);
        end += kept as u64;
        self.lanes[0].tail.store(end, Ordering::Relaxed);
        self.next = number + 1;
        self.before = before;
    }

    /// Makes durable what was replayed, and truncates the log in a header that the caller writes then. Does nothing
    /// where the log names an extent that has still to be read.
    ///
    /// The rest of the lanes may still have to be searched. If a record turns out to be torn there that was durable, later ones
    /// of other lanes are home without it: the search says so, as long as it is torn, and [`recover`] does if its
    /// bytes come back.
    pub(crate) fn take_home(&mut self, medium: &dyn Medium, header: &mut Header) -> Result<()> {
        if self.records == 0 || !self.rest.extents.is_empty() {
            return Ok(());
        }
        if !crate::mutant::is("no_replay_barrier") {
            medium.persist(&self.lines.ranges(header.home_offset))?;
        }
        header.checkpoint = self.next - 1;
        for (lane, head) in self.lanes.iter().zip(&mut header.heads) {
            *head = lane.tail.load(Ordering::Relaxed);
            lane.head.store(*head, Ordering::Relaxed);
        }
        (header.before_epoch, header.before_crc) = (self.before.0 as u32, self.before.1);
        Ok(())
    }

    /// Of a region that was closed.
    pub(crate) fn of_empty_log(header: &Header) -> Recovered {
        let lane = |i| {
            let (start, len) = lane_place(header, i);
            let at = header.heads[i as usize];
            Lane::new(start, len, at, at)
        };
        Recovered {
            lanes: (0..header.lanes).map(lane).collect(),
            next: header.checkpoint + 1,
            records: 0,
            bytes: 0,
            committed: (header.checkpoint, header.heads[0]),
            behind: Vec::new(),
            rest: Rest::default(),
            lines: Lines::default(),
            before: before(header),
            committed_before: before(header),
        }
    }
}

/// Epoch and checksum of the record before the head of lane 0.
fn before(header: &Header) -> (u64, u32) {
    (u64::from(header.before_epoch), header.before_crc)
}

/// Makes the free part of a lane zeroes, durably.
///
/// A piece that was sent to a replica and torn by its death may have left records behind the log's end that tell of
/// more than there is.
pub(crate) fn erase_free(medium: &dyn Medium, lane: &Lane) -> Result<()> {
    let (head, tail) = (
        lane.head.load(Ordering::Relaxed),
        lane.tail.load(Ordering::Relaxed),
    );
    let zeroes = vec![0; CHUNK as usize];
    let mut at = tail;
    while at < head + lane.len {
        let len = CHUNK.min(head + lane.len - at);
        for (offset, len) in lane.pieces(at, len) {
            if len > 0 {
                medium.append(&[(offset, &zeroes[..len as usize])])?;
            }
        }
        at += len;
    }
    Ok(())
}

/// Geometry of lane `i`: start in the file and length in bytes.
pub(crate) fn lane_place(header: &Header, i: u64) -> (u64, u64) {
    match i {
        0 => (LOG_OFFSET, header.lane0_size),
        _ => (
            LOG_OFFSET + header.lane0_size + (i - 1) * header.lane_size,
            header.lane_size,
        ),
    }
}

/// A lane being parsed: reads its ring piece by piece.
struct Reader<'m> {
    medium: &'m dyn Medium,
    start: u64,
    len: u64,
    head: u64,
    /// The ring's bytes from `head` on, as far as they were needed.
    bytes: Vec<u8>,
}

/// Bytes read in one go.
const CHUNK: u64 = 256 << 10;
/// Bytes read of a lane before it is known to hold anything.
const FIRST: u64 = 8 << 10;
/// Where records begin.
const SLOT: usize = RECORD_ALIGN as usize;

const _: () = assert!(CHUNK.is_multiple_of(RECORD_ALIGN) && size_of::<RecordHeader>() <= SLOT);

impl Reader<'_> {
    /// Makes `[head, head + upto)` readable, or as much of it as the ring has.
    fn fill(&mut self, upto: u64) -> Result<()> {
        let upto = upto.min(self.len);
        while (self.bytes.len() as u64) < upto {
            let have = self.bytes.len() as u64;
            // Most lanes hold little.
            let n = have
                .clamp(FIRST, CHUNK)
                .max(upto - have)
                .min(self.len - have);
            let mut bytes = std::mem::take(&mut self.bytes);
            bytes.resize((have + n) as usize, 0);
            let read = self.read(have, &mut bytes[have as usize..]);
            self.bytes = bytes;
            read?;
        }
        Ok(())
    }

    /// Reads from `at` (from the head) on, no further than the ring goes.
    fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
        let mut done = 0;
        for (offset, len) in ring_pieces(self.start, self.len, self.head + at, to.len() as u64) {
            let end = done + len as usize;
            self.medium.read(offset, &mut to[done..end])?;
            done = end;
        }
        Ok(())
    }

    /// The record at `at` (from the head), in one of `epochs`.
    fn record(&mut self, at: u64, epochs: RangeInclusive<u64>) -> Result<Option<Parsed<'_>>> {
        let header_end = at + size_of::<RecordHeader>() as u64;
        self.fill(header_end)?;
        let Some(header) = self
            .bytes
            .get(at as usize..)
            .and_then(read_from::<RecordHeader>)
        else {
            return Ok(None);
        };
        let end = at + u64::from(header.len);
        if end > self.len || !epochs.contains(&u64::from(header.epoch)) {
            return Ok(None);
        }
        self.fill(end)?;
        Ok(Parsed::parse(
            &self.bytes[at as usize..],
            self.head + at,
            epochs,
        ))
    }

    /// Whether some record of `range` says that `stop`, before it, was durable once.
    ///
    /// The rest of the ring is looked through in pieces that are not kept: it is most of the
    /// log, and new memory costs more than reading. What was never written, of a log that has not been
    /// full, is not read.
    fn outlived(
        &mut self,
        stop: u64,
        range: Range<u64>,
        epochs: RangeInclusive<u64>,
        written: &Written,
    ) -> Result<bool> {
        let absolute = self.head + stop;
        let mut piece = vec![0; CHUNK.min(range.end.saturating_sub(range.start)) as usize];
        let mut from = range.start;
        while from < range.end {
            let [(offset, len), _] =
                ring_pieces(self.start, self.len, self.head + from, range.end - from);
            let unwritten = written.next(offset).saturating_sub(offset).min(len) / RECORD_ALIGN;
            if unwritten != 0 {
                from += unwritten * RECORD_ALIGN;
                continue;
            }
            let piece = &mut piece[..CHUNK.min(range.end - from) as usize];
            self.read(from, piece)?;
            for (at, slot) in (from..).step_by(SLOT).zip(piece.chunks_exact(SLOT)) {
                let header: RecordHeader = read_from(slot).expect("a header fits a slot");
                // The cheap questions first: most of what is scanned is zeroes or
                // records of an earlier lap.
                if header.len != 0
                    && header.durable_upto > absolute
                    && header.durable_upto <= self.head + at
                    && self.record(at, epochs.clone())?.is_some()
                {
                    return Ok(true);
                }
            }
            from += CHUNK;
        }
        Ok(false)
    }
}

/// What of a log recovery looks at before it returns, in bytes; the rest is left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AtOnce {
    /// Behind the end of each lane.
    pub(crate) log: u64,
    /// Of all extents together.
    pub(crate) extents: u64,
}

impl AtOnce {
    /// Everything.
    pub(crate) const ALL: AtOnce = AtOnce {
        log: u64::MAX,
        extents: u64::MAX,
    };
}

/// The ranges of a file that may have been written, rising.
struct Written(Vec<Range<u64>>);

impl Written {
    /// The first offset from `offset` on that may have been.
    fn next(&self, offset: u64) -> u64 {
        let after = self.0.partition_point(|range| range.end <= offset);
        self.0
            .get(after)
            .map_or(u64::MAX, |range| range.start.max(offset))
    }
}

/// What is left to be looked at.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    lanes: Vec<Unsearched>,
    /// File offset, length and checksum of extents that nothing else of the log touches.
    extents: Vec<(u64, u64, u32)>,
}

impl Rest {
    /// Whether it is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.extents.is_empty()
    }

    /// Looks at all of it.
    ///
    /// # Errors
    ///
    /// `Damaged` if a lane ended further on once, or an extent fails its checksum; the medium's.
    pub(crate) fn search(self, medium: &dyn Medium) -> Result<()> {
        let start = self.lanes.iter().map(|lane| lane.start).min();
        let end = self.lanes.iter().map(|lane| lane.start + lane.len).max();
        let written = Written(medium.written(start.unwrap_or(0)..end.unwrap_or(0)));
        for lane in self.lanes {
            lane.search(medium, &written)?;
        }
        check_extents(medium, &self.extents)
    }
}

/// What is left to be searched of a lane.
#[derive(Debug)]
pub(crate) struct Unsearched {
    /// The lane's number, where it lies, and how long it is.
    lane: u64,
    start: u64,
    len: u64,
    head: u64,
    /// Where its records end, counted from the head.
    stop: u64,
    /// Where the search goes on.
    from: u64,
    epochs: RangeInclusive<u64>,
}

impl Unsearched {
    /// Searches up to `upto`, counted from the lane's head.
    fn search_upto(&mut self, upto: u64, reader: &mut Reader<'_>, written: &Written) -> Result<()> {
        // A lane that is full ends where it begins.
        let range = self.from..upto.min(self.len).max(self.from);
        self.from = range.end;
        if crate::mutant::is("no_outlived")
            || !reader.outlived(self.stop, range, self.epochs.clone(), written)?
        {
            return Ok(());
        }
        let stop = self.head + self.stop;
        Err(Error::Damaged {
            path: reader.medium.path().into(),
            offset: ring_pieces(self.start, self.len, stop, RECORD_ALIGN)[0].0,
            what: format!(
                "log record of lane {} at {stop} was durable and is torn",
                self.lane
            ),
        })
    }

    /// Searches the rest.
    fn search(mut self, medium: &dyn Medium, written: &Written) -> Result<()> {
        let mut reader = Reader {
            medium,
            start: self.start,
            len: self.len,
            head: self.head,
            bytes: Vec::new(),
        };
        self.search_upto(u64::MAX, &mut reader, written)
    }
}

/// Parses the log and stores what is above the checkpoint into the home. Of what only finds damage, it does so much
/// as `at_once` says, and leaves the rest.
///
/// Of a `replicated` stream only what its records say to be on every replica goes there: what follows may have to give
/// way to what another machine, the primary of a later epoch, has at the same offsets.
pub(crate) fn recover(
    medium: &dyn Medium,
    header: &Header,
    home_size: u64,
    style: LogStyle,
    replicated: bool,
    at_once: AtOnce,
) -> Result<Recovered> {
    let mut left = Rest::default();
    let all = Written(std::iter::once(0..u64::MAX).collect());
    let mut readers = Vec::new();
    let mut lanes = Vec::new();
    let mut last_record = before(header);
    let mut committed_before = (0, 0);
    // (number, lane, offset from the lane's head, epoch)
    let mut found: Vec<(u64, usize, u64, u64)> = Vec::new();
    let mut tails = Vec::new();
    for i in 0..header.lanes {
        let (start, len) = lane_place(header, i);
        let head = header.heads[i as usize];
        let mut reader = Reader {
            medium,
            start,
            len,
            head,
            bytes: Vec::new(),
        };
        let mut at = 0;
        let mut durable_upto = head;
        // Epochs never step back, across the head either: behind what was taken home, records of an epoch before it may be
        // left, which nobody was told of. (On lanes there are none: a lane has one record under way.)
        let mut epoch = match i {
            0 if !crate::mutant::is("any_epoch") => u64::from(header.before_epoch),
            _ => 0,
        };
        while let Some(record) = reader.record(at, epoch..=header.epoch)? {
            if i == 0 {
                if replicated && !record.follows(last_record.0, last_record.1) {
                    break;
                }
                last_record = (u64::from(record.header.epoch), record.header.crc);
            }
            epoch = u64::from(record.header.epoch);
            durable_upto = durable_upto.max(record.header.durable_upto);
            found.push((record.header.seq, i as usize, at, epoch));
            at += record.size();
        }
        let told_by_others = header.flags & FLAG_CATCHING_UP != 0;
        if !told_by_others {
            let mut rest = Unsearched {
                lane: i,
                start,
                len,
                head,
                stop: at,
                from: at + RECORD_ALIGN,
                epochs: epoch..=header.epoch,
            };
            rest.search_upto(at.saturating_add(at_once.log), &mut reader, &all)?;
            if rest.from < len {
                left.lanes.push(rest);
            }
        }
        lanes.push(Lane::new(start, len, head, head + at));
        tails.push((durable_upto.max(head) - head, at));
        readers.push(reader);
    }
    found.sort_unstable();
    if style == LogStyle::Lanes
        && let Some(&(seq, lane, ..)) = found.first()
        && seq <= header.checkpoint
    {
        // A lane's head is behind all that is home.
        return Err(Error::Damaged {
            path: medium.path().into(),
            offset: lane_place(header, lane as u64).0,
            what: format!(
                "log record {seq} was torn when later ones, up to {}, were taken home",
                header.checkpoint
            ),
        });
    }
    found.retain(|&(seq, ..)| seq > header.checkpoint);
    check_numbers(medium, header, style, &found)?;
    let last = found.last().map_or(header.checkpoint, |&(seq, ..)| seq);
    let mut committed = (last, lanes[0].tail.load(Ordering::Relaxed));
    let mut behind = Vec::new();
    if replicated {
        let (durable, end) = tails[0];
        if durable > end {
            return Err(Error::Damaged {
                path: medium.path().into(),
                offset: lane_place(header, 0).0,
                what: "a log record says of more than there is that it is durable".into(),
            });
        }
        let kept = found.partition_point(|&(_, _, at, _)| at < durable);
        committed_before = match found[..kept].last() {
            None => before(header),
            Some(&(_, _, at, epoch)) => {
                let header: RecordHeader =
                    read_from(&readers[0].bytes[at as usize..]).expect("parsed above");
                (epoch, header.crc)
            }
        };
        found.truncate(kept);
        let seq = found.last().map_or(header.checkpoint, |&(seq, ..)| seq);
        committed = (seq, header.heads[0] + durable);
        behind = readers[0].bytes[durable as usize..end as usize].to_vec();
    }

    let record = |&(_, i, at, epoch): &(u64, usize, u64, u64)| {
        let reader: &Reader<'_> = &readers[i];
        Parsed::parse(
            &reader.bytes[at as usize..],
            reader.head + at,
            epoch..=epoch,
        )
        .expect("parsed above")
    };
    // The records' own durability first, then the home: see the module's text.
    for (reader, &(durable, end)) in readers.iter().zip(&tails) {
        if durable < end && !crate::mutant::is("no_repersist") {
            let mut at = durable as usize;
            let pieces = ring_pieces(
                reader.start,
                reader.len,
                reader.head + durable,
                end - durable,
            );
            let mut appended: Vec<(u64, &[u8])> = Vec::new();
            for (offset, len) in pieces.into_iter().filter(|&(_, len)| len > 0) {
                appended.push((offset, &reader.bytes[at..at + len as usize]));
                at += len as usize;
            }
            medium.append(&appended)?;
        }
    }
    let changes: Vec<Change<'_>> = found.iter().flat_map(|f| record(f).changes()).collect();
    let extents = extents(header.home_offset, home_size, &changes);
    if extents.iter().map(|&(_, len, _)| len).sum::<u64>() <= at_once.extents {
        check_extents(medium, &extents)?;
    } else {
        left.extents = extents;
    }
    let mut bytes = 0;
    for change in &changes {
        if let Change::Bytes { bytes: b, .. } = change {
            bytes += b.len() as u64;
        }
    }
    let newest = newest(
        medium,
        header.home_offset,
        home_size,
        found.iter().rev().map(record),
    )?;
    store(medium, header.home_offset, &newest)?;
    Ok(Recovered {
        lanes,
        next: last.max(header.checkpoint) + 1,
        records: found.len() as u64,
        bytes,
        committed,
        behind,
        rest: left,
        lines: match style {
            LogStyle::Lanes => newest.lines(),
            LogStyle::Stream => Lines::default(),
        },
        before: last_record,
        committed_before,
    })
}

/// A number drawn twice is damage; on a stream, so is one that is missing.
fn check_numbers(
    medium: &dyn Medium,
    header: &Header,
    style: LogStyle,
    found: &[(u64, usize, u64, u64)],
) -> Result<()> {
    let mut previous = header.checkpoint;
    for &(seq, lane, ..) in found {
        let expected = style == LogStyle::Lanes || header.lanes > 1 || seq == previous + 1;
        if seq == previous || !expected {
            let (offset, _) = lane_place(header, lane as u64);
            let what = format!("record {seq} follows record {previous}");
            return Err(Error::Damaged {
                path: medium.path().into(),
                offset,
                what,
            });
        }
        previous = seq;
    }
    Ok(())
}

/// The extents that no other record of the log touches, as file offset, length and checksum: they must read back as they
/// were written. (Of one that another touches, a checkpoint may have changed bytes.)
fn extents(home: u64, size: u64, changes: &[Change<'_>]) -> Vec<(u64, u64, u32)> {
    let mut starts = Vec::new();
    let mut ends = Vec::new();
    if changes.iter().any(|c| matches!(c, Change::Extent { .. })) {
        for change in changes {
            let (at, n) = match *change {
                Change::Bytes { offset, bytes } => (offset, bytes.len() as u64),
                Change::Extent { offset, len, .. } => (offset, len),
                Change::Malformed => (0, 0),
            };
            starts.push(at);
            ends.push(at.saturating_add(n));
        }
        starts.sort_unstable();
        ends.sort_unstable();
    }
    let alone = |change: &Change<'_>| {
        let Change::Extent { offset, len, crc } = *change else {
            return None;
        };
        // `newest` says what is wrong with one beyond the end.
        let end = offset.checked_add(len).filter(|&end| end <= size)?;
        // Ranges that start before its end, less those that end before its
        // start: those that touch it, itself among them.
        let begun = starts.partition_point(|&start| start < end);
        let over = ends.partition_point(|&end| end <= offset);
        (begun - over <= 1).then_some((home + offset, len, crc))
    };
    changes.iter().filter_map(alone).collect()
}

/// Extents, as [`extents`] returns them, read back as they were written.
fn check_extents(medium: &dyn Medium, extents: &[(u64, u64, u32)]) -> Result<()> {
    let mut buf = Vec::new();
    for &(offset, len, crc) in extents {
        buf.resize(len.min(CHUNK) as usize, 0);
        let mut sum = 0;
        let mut at = 0;
        while at < len {
            let n = buf.len().min((len - at) as usize);
            medium.read(offset + at, &mut buf[..n])?;
            sum = crc32c::crc32c_append(sum, &buf[..n]);
            at += n as u64;
        }
        if sum != crc {
            return Err(Error::Damaged {
                path: medium.path().into(),
                offset,
                what: format!("an extent of {len} bytes fails its checksum"),
            });
        }
    }
    Ok(())
}

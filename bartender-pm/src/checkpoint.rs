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
use crate::record::{Change, Parsed};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

const PAGE: u64 = 4096;

/// Bytes handed to the device at once while a checkpoint is paced.
const PACE_CHUNK: u64 = 1 << 20;
/// Pause between such chunks, in which commits have the device to themselves.
const PACE_PAUSE: Duration = Duration::from_micros(500);

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
    /// Pages changed since the view was last given back.
    pub(crate) changed_pages: AtomicU64,
    pub(crate) frozen: FrozenSet,
}

/// Lines of the home that records touched, to be made durable: per page a bit
/// per line.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    pages: BTreeMap<u64, u64>,
    /// The page touched last, not yet in `pages`: hot words repeat.
    last: (u64, u64),
}

impl Dirty {
    fn settle(&mut self) {
        let (page, mask) = std::mem::take(&mut self.last);
        if mask != 0 {
            *self.pages.entry(page).or_default() |= mask;
        }
    }

    fn add(&mut self, offset: u64, len: u64) {
        let mut line = offset / 64;
        let last = (offset + len - 1) / 64;
        while line <= last {
            let page = line / 64;
            let end = last.min(page * 64 + 63);
            let (from, to) = (line % 64, end % 64);
            let mask = (u64::MAX << from) & (u64::MAX >> (63 - to));
            if self.last.0 != page {
                self.settle();
                self.last.0 = page;
            }
            self.last.1 |= mask;
            line = end + 1;
        }
    }

    fn pages(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.keys().map(|page| page * PAGE)
    }

    /// Runs of touched lines as file ranges (offset, length), coalesced.
    fn ranges(&self, home: u64) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (page, mask) in &self.pages {
            for line in (0..64).filter(|line| mask >> line & 1 == 1) {
                let start = home + page * PAGE + line * 64;
                match ranges.last_mut() {
                    Some((at, len)) if *at + *len == start => *len += 64,
                    _ => ranges.push((start, 64)),
                }
            }
        }
        ranges
    }

    /// The same by page, for a medium whose barrier takes all anyway.
    fn page_ranges(&self, home: u64) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for page in self.pages() {
            match ranges.last_mut() {
                Some((at, len)) if *at + *len == home + page && *len < PACE_CHUNK => *len += PAGE,
                _ => ranges.push((home + page, PAGE)),
            }
        }
        ranges
    }
}

/// Parts of pages that a newer record has stored already, as sorted runs that
/// neither overlap nor touch.
#[derive(Debug, Default)]
struct Told {
    pages: HashMap<u64, Vec<(u16, u16)>>,
}

impl Told {
    /// Calls `f` with each part (offset, length) of the range that is new here.
    fn rest_of(
        &mut self,
        offset: u64,
        len: u64,
        mut f: impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let mut at = offset;
        while at < offset + len {
            let page = at / PAGE;
            let next = (page + 1) * PAGE;
            let (start, end) = (at - page * PAGE, next.min(offset + len) - page * PAGE);
            at = next;
            let (start, end) = (start as u16, end as u16);
            let runs = self.pages.entry(page).or_default();
            let first = runs.partition_point(|run| run.1 < start);
            let mut part =
                |from: u16, to: u16| f(page * PAGE + u64::from(from), u64::from(to - from));
            let (mut from, mut last) = (start, first);
            while let Some(&run) = runs.get(last).filter(|run| run.0 <= end) {
                if from < run.0 {
                    part(from, run.0)?;
                }
                from = from.max(run.1);
                last += 1;
            }
            if from < end {
                part(from, end)?;
            }
            if first == last {
                runs.insert(first, (start, end));
            } else {
                runs[first] = (start.min(runs[first].0), end.max(runs[last - 1].1));
                runs.drain(first + 1..last);
            }
        }
        Ok(())
    }
}

/// What records of one lane a checkpoint takes.
struct Taken {
    /// The lane's bytes from its head on.
    bytes: Vec<u8>,
    head: u64,
    /// Absolute offset of the first record that is not taken.
    end: u64,
}

impl Home {
    /// Applies everything up to the log's horizon and truncates the log.
    ///
    /// Cost: one barrier for the home, one for the header.
    pub(crate) fn checkpoint(&self, medium: &dyn Medium, log: &Log, paced: bool) -> Result<()> {
        let mut header = self.header.lock();
        log.check()?;
        let horizon = log.horizon();
        if horizon <= header.checkpoint {
            return Ok(());
        }
        let result = self.apply(medium, log, horizon).and_then(|(dirty, heads)| {
            let mut new = *header;
            new.checkpoint = horizon;
            new.heads[..heads.len()].copy_from_slice(&heads);
            if !crate::mutant::is("truncate_first") {
                self.persist(medium, &dirty, paced)?;
            }
            header::write(medium, &mut new)?;
            if crate::mutant::is("truncate_first") {
                self.persist(medium, &dirty, paced)?;
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

    fn persist(&self, medium: &dyn Medium, dirty: &Dirty, paced: bool) -> Result<()> {
        if crate::mutant::is("no_home_barrier") {
            return Ok(());
        }
        if medium.kind() != MediumKind::File {
            return medium.persist(&dirty.ranges(self.offset));
        }
        let ranges = dirty.page_ranges(self.offset);
        // A little is written as fast as it is announced.
        let much = ranges.iter().map(|&(_, len)| len).sum::<u64>() >= PACE_CHUNK;
        if paced && much {
            let mut since_pause = 0;
            for &(offset, len) in &ranges {
                medium.write_back(offset, len);
                since_pause += len;
                if since_pause >= PACE_CHUNK {
                    since_pause = 0;
                    std::thread::sleep(PACE_PAUSE);
                }
            }
        }
        medium.persist(&ranges)
    }

    /// Reads the records up to `horizon`, stores their bytes into the home,
    /// and returns the lines touched and the lanes' new heads.
    fn apply(&self, medium: &dyn Medium, log: &Log, horizon: u64) -> Result<(Dirty, Vec<u64>)> {
        let mut taken = Vec::with_capacity(log.lanes.len());
        for lane in &log.lanes {
            let head = lane.head.load(Ordering::Relaxed);
            // Acquire: the records below are written.
            let tail = lane.tail.load(Ordering::Acquire);
            let bytes = lane.read(medium, head, tail - head)?;
            taken.push(Taken {
                bytes,
                head,
                end: head,
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
                lane.end = lane.head + at as u64;
            }
        }
        records.sort_unstable();
        let parse = |&(_, i, at): &(u64, usize, usize)| {
            let lane: &Taken = &taken[i];
            Parsed::again(&lane.bytes[at..]).expect("parsed above")
        };
        let mut dirty = Dirty::default();
        for change in records.iter().flat_map(|r| parse(r).changes()) {
            if let Change::Bytes { offset, bytes } = change {
                dirty.add(offset, bytes.len() as u64);
            }
        }
        dirty.settle();
        self.frozen.before_change(dirty.pages());
        let size = self.size.load(Ordering::Acquire);
        if crate::mutant::is("oldest_first") {
            for change in records.iter().flat_map(|r| parse(r).changes()) {
                store(medium, self.offset, size, change)?;
            }
        } else {
            store_newest(medium, self.offset, size, records.iter().rev().map(parse))?;
        }
        self.changed_pages
            .fetch_add(dirty.pages.len() as u64, Ordering::Relaxed);
        Ok((dirty, taken.iter().map(|lane| lane.end).collect()))
    }
}

/// Stores the newest bytes of each place that `records`, the newest first,
/// change, and no older ones.
pub(crate) fn store_newest<'r>(
    medium: &dyn Medium,
    home: u64,
    size: u64,
    records: impl Iterator<Item = Parsed<'r>>,
) -> Result<()> {
    let mut told = Told::default();
    let mut changes = Vec::new();
    for record in records {
        changes.extend(record.changes());
        while let Some(change) = changes.pop() {
            let Change::Bytes { offset, bytes } = change else {
                store(medium, home, size, change)?;
                continue;
            };
            told.rest_of(offset, bytes.len() as u64, |at, len| {
                let from = (at - offset) as usize;
                let bytes = &bytes[from..from + len as usize];
                store(medium, home, size, Change::Bytes { offset: at, bytes })
            })?;
        }
    }
    Ok(())
}

/// Stores one range of a record into the home.
pub(crate) fn store(medium: &dyn Medium, home: u64, size: u64, change: Change<'_>) -> Result<()> {
    let damaged = |what: String| Error::Damaged {
        path: medium.path().into(),
        offset: home,
        what,
    };
    match change {
        Change::Bytes { offset, bytes } => {
            if offset + bytes.len() as u64 > size {
                return Err(damaged(format!(
                    "a record changes home offset {offset}, beyond its end {size}"
                )));
            }
            medium.write(home + offset, bytes)
        }
        Change::Extent { offset, len, .. } => {
            if offset.checked_add(len).is_none_or(|end| end > size) {
                return Err(damaged(format!(
                    "a record names an extent at home offset {offset}, beyond its end {size}"
                )));
            }
            Ok(())
        }
        Change::Malformed => Err(damaged("a record's ranges make no sense".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn what_is_told_once_is_not_told_again(
            ranges in prop::collection::vec((0u64..9_000, 1u64..9_000), 1..60)
        ) {
            let mut told = Told::default();
            let mut naive = BTreeSet::new();
            for &(offset, len) in &ranges {
                // Short ones too, which are what there is most of.
                let len = if offset % 3 == 0 { len } else { len % 40 + 1 };
                let mut new = Vec::new();
                told.rest_of(offset, len, |at, n| {
                    new.extend(at..at + n);
                    Ok(())
                }).expect("no error");
                let expected: Vec<u64> =
                    (offset..offset + len).filter(|b| naive.insert(*b)).collect();
                prop_assert_eq!(new, expected);
            }
        }

        #[test]
        fn dirty_lines_are_those_of_the_ranges(
            ranges in prop::collection::vec((0u64..20_000, 1u64..9_000), 1..20)
        ) {
            let mut dirty = Dirty::default();
            let mut naive = BTreeSet::new();
            for &(offset, len) in &ranges {
                dirty.add(offset, len);
                naive.extend((offset..offset + len).map(|b| b / 64));
            }
            dirty.settle();
            let ours: BTreeSet<u64> = dirty
                .ranges(0)
                .iter()
                .flat_map(|&(at, len)| (at..at + len).step_by(64).map(|b| b / 64))
                .collect();
            prop_assert_eq!(ours, naive);
        }
    }
}

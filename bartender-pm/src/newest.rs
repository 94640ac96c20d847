//! Which bytes of which records go home: the newest of each place, and no
//! older ones.
//!
//! Records are given the newest first, so the first that names a byte wins.
//! What comes out are disjoint pieces, in no order, and the lines they touch.
//! A hot word that a thousand records change costs a thousand glances at the
//! page touched last, and one store.
//!
//! Nothing is stored here.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

pub(crate) const PAGE: u64 = 4096;
const LINE: u64 = 64;

/// Hash of a page number: one multiplication, folded so that both ends count.
#[derive(Debug, Default)]
struct PageHash(u64);

impl Hasher for PageHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0 ^ u64::from(byte));
        }
    }

    fn write_u64(&mut self, n: u64) {
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// What is known of one page: sorted runs (start, end) that neither overlap
/// nor touch.
#[derive(Debug)]
struct Page {
    number: u64,
    /// The only run while `runs` is empty.
    run: (u16, u16),
    runs: Vec<(u16, u16)>,
}

impl Page {
    /// Adds `[start, end)`, and calls `part` with each part of it that is new.
    #[inline]
    fn add(&mut self, start: u16, end: u16, part: impl FnMut(u16, u16)) {
        if self.runs.is_empty() && self.run.0 <= start && end <= self.run.1 {
            return;
        }
        self.add_new(start, end, part);
    }

    fn add_new(&mut self, start: u16, end: u16, mut part: impl FnMut(u16, u16)) {
        if self.runs.is_empty() {
            let (from, to) = self.run;
            if to == 0 {
                self.run = (start, end);
                return part(start, end);
            }
            if start <= to && from <= end {
                if start < from {
                    part(start, from);
                }
                if to < end {
                    part(to, end);
                }
                self.run = (start.min(from), end.max(to));
                return;
            }
            self.runs.push(self.run);
        }
        let runs = &mut self.runs;
        let first = runs.partition_point(|run| run.1 < start);
        let (mut from, mut last) = (start, first);
        while let Some(&run) = runs.get(last).filter(|run| run.0 <= end) {
            if from < run.0 {
                part(from, run.0);
            }
            from = from.max(run.1);
            last += 1;
        }
        if from < end {
            part(from, end);
        }
        if first == last {
            runs.insert(first, (start, end));
        } else {
            runs[first] = (start.min(runs[first].0), end.max(runs[last - 1].1));
            runs.drain(first + 1..last);
        }
    }

    fn runs(&self) -> &[(u16, u16)] {
        if self.runs.is_empty() {
            std::slice::from_ref(&self.run)
        } else {
            &self.runs
        }
    }
}

/// The newest bytes of the records seen so far.
#[derive(Debug, Default)]
pub(crate) struct Newest<'r> {
    pages: Vec<Page>,
    /// From a page's number to its place in `pages`.
    index: HashMap<u64, usize, BuildHasherDefault<PageHash>>,
    /// Place of the page touched last: hot words repeat.
    last: usize,
    /// Home offset and bytes.
    pieces: Vec<(u64, &'r [u8])>,
}

impl<'r> Newest<'r> {
    /// Adds the bytes at home offset `offset` of a record older than those
    /// before.
    #[inline]
    pub(crate) fn add(&mut self, offset: u64, bytes: &'r [u8]) {
        let (mut at, end) = (offset, offset + bytes.len() as u64);
        while at < end {
            let number = at / PAGE;
            let to = end.min((number + 1) * PAGE);
            let place = match self.pages.get(self.last) {
                Some(page) if page.number == number => self.last,
                _ => self.find(number),
            };
            self.last = place;
            let first = number * PAGE;
            let (start, until) = ((at - first) as u16, (to - first) as u16);
            let pieces = &mut self.pieces;
            self.pages[place].add(start, until, |start, until| {
                let (from, to) = (first + u64::from(start), first + u64::from(until));
                let piece = &bytes[(from - offset) as usize..(to - offset) as usize];
                pieces.push((from, piece));
            });
            at = to;
        }
    }

    fn find(&mut self, number: u64) -> usize {
        let pages = &mut self.pages;
        *self.index.entry(number).or_insert_with(|| {
            pages.push(Page {
                number,
                run: (0, 0),
                runs: Vec::new(),
            });
            pages.len() - 1
        })
    }

    /// The pieces to store: home offset and bytes, disjoint.
    pub(crate) fn pieces(&self) -> &[(u64, &'r [u8])] {
        &self.pieces
    }

    /// The lines that the pieces touch.
    pub(crate) fn lines(mut self) -> Lines {
        self.pages.sort_unstable_by_key(|page| page.number);
        let mut lines = Lines::default();
        for page in &self.pages {
            for &(start, end) in page.runs() {
                let first = page.number * PAGE + u64::from(start);
                let last = page.number * PAGE + u64::from(end) - 1;
                lines.add(first / LINE * LINE, (last / LINE + 1) * LINE);
            }
        }
        lines
    }

    /// Home offsets of the pages that the pieces touch, in no order.
    pub(crate) fn pages(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.pages.iter().map(|page| page.number * PAGE)
    }
}

/// Lines of the home that were stored and have to become durable.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// (start, end) in bytes from the home's start, rising, apart from each
    /// other.
    runs: Vec<(u64, u64)>,
}

impl Lines {
    fn add(&mut self, start: u64, end: u64) {
        match self.runs.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => self.runs.push((start, end)),
        }
    }

    /// The lines as file ranges (offset, length), for a home at `home`.
    pub(crate) fn ranges(&self, home: u64) -> Vec<(u64, u64)> {
        let range = |&(start, end): &(u64, u64)| (home + start, end - start);
        self.runs.iter().map(range).collect()
    }

    /// The pages that hold them, likewise, in ranges of `limit` bytes or a
    /// page more.
    pub(crate) fn page_ranges(&self, home: u64, limit: u64) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for &(start, end) in &self.runs {
            let (mut at, end) = (start / PAGE * PAGE, end.next_multiple_of(PAGE));
            if let Some(&(last, len)) = ranges.last() {
                at = at.max(last + len - home);
            }
            while at < end {
                match ranges.last_mut() {
                    Some((from, len)) if *from + *len == home + at && *len < limit => *len += PAGE,
                    _ => ranges.push((home + at, PAGE)),
                }
                at += PAGE;
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    proptest! {
        /// The naive twin: a map from byte to value, the first entry stays.
        #[test]
        #[cfg_attr(miri, ignore = "many steps")]
        fn the_first_to_name_a_byte_wins(
            ranges in prop::collection::vec((0u64..9_000, 1u64..9_000), 1..60)
        ) {
            let records: Vec<(u64, Vec<u8>)> = ranges
                .iter()
                .enumerate()
                // Short ones too, which are what there is most of.
                .map(|(i, &(at, len))| (at, if at % 3 == 0 { len } else { len % 40 + 1 }, i as u8))
                .map(|(at, len, value)| (at, vec![value; len as usize]))
                .collect();
            let mut newest = Newest::default();
            let mut naive = BTreeMap::new();
            for (at, bytes) in &records {
                newest.add(*at, bytes);
                for (i, &byte) in bytes.iter().enumerate() {
                    naive.entry(at + i as u64).or_insert(byte);
                }
            }
            let mut ours = BTreeMap::new();
            for &(at, bytes) in newest.pieces() {
                for (i, &byte) in bytes.iter().enumerate() {
                    prop_assert_eq!(ours.insert(at + i as u64, byte), None);
                }
            }
            prop_assert_eq!(&ours, &naive);
            let pages: BTreeSet<u64> = newest.pages().collect();
            prop_assert_eq!(pages, naive.keys().map(|at| at / PAGE * PAGE).collect());
            let lines = newest.lines();
            let touched: BTreeSet<u64> = naive.keys().map(|at| at / 64).collect();
            let named: Vec<u64> = lines
                .ranges(128)
                .iter()
                .flat_map(|&(at, len)| (at - 128) / 64..(at - 128 + len) / 64)
                .collect();
            prop_assert!(named.is_sorted_by(|a, b| a < b));
            prop_assert_eq!(named.into_iter().collect::<BTreeSet<_>>(), touched);
            let pages: Vec<u64> = lines
                .page_ranges(128, 2 * PAGE)
                .iter()
                .flat_map(|&(at, len)| (at - 128) / PAGE..(at - 128 + len) / PAGE)
                .collect();
            prop_assert!(pages.is_sorted_by(|a, b| a < b));
            let touched: BTreeSet<u64> = naive.keys().map(|at| at / PAGE).collect();
            prop_assert_eq!(pages.into_iter().collect::<BTreeSet<_>>(), touched);
        }
    }
}

//! `stats`: how much is in the index, and what the region makes of it.

use crate::builder::FastHasher;
use crate::model::{Index, Segment, State, Totals};
use crate::output;
use crate::postings::places;
use crate::store::Stored;
use std::collections::HashSet;
use std::fs;
use std::hash::BuildHasherDefault;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Everything that `stats` prints.
pub(crate) struct Stats {
    region: String,
    totals: Totals,
    words: u64,
    segments: u64,
    /// Length of the region's file, and what it takes on the medium.
    file_bytes: u64,
    disk_bytes: u64,
    heap: bartender::Stats,
    opened: bartender::Report,
    took: Duration,
}

impl Stats {
    /// Looks at an index that took so long to open.
    pub(crate) fn new(path: &Path, store: &Stored, took: Duration) -> Self {
        let file = fs::metadata(path).ok();
        let index = store.read();
        Stats {
            region: output::for_json(path.as_os_str().as_encoded_bytes()),
            totals: totals(&index),
            words: distinct_words(&index),
            segments: index.segments.len() as u64,
            file_bytes: file.as_ref().map_or(0, |file| file.len()),
            disk_bytes: file.as_ref().map_or(0, |file| file.blocks() * 512),
            heap: store.stats(),
            opened: store.report().clone(),
            took,
        }
    }

    /// Bytes that the allocator holds beyond the live ones, in percent of them.
    fn overhead(&self) -> f64 {
        self.heap.overhead() * 100.0
    }

    /// Whether the last process that used the region died in it.
    fn recovered(&self) -> bool {
        !self.opened.created && !self.opened.region.clean
    }

    /// Prints it.
    pub(crate) fn write(&self, out: &mut dyn Write, json: bool) -> io::Result<()> {
        let (totals, heap, region) = (&self.totals, &self.heap, &self.opened.region);
        let marked = &self.opened.heap;
        if json {
            let value = serde_json::json!({
                "region": self.region,
                "files": totals.files,
                "binary": totals.binary,
                "bytes": totals.bytes,
                "lines": totals.lines,
                "words": self.words,
                "postings": totals.postings,
                "segments": self.segments,
                "region_bytes": self.file_bytes,
                "disk_bytes": self.disk_bytes,
                "live_bytes": heap.live_bytes,
                "live_blocks": heap.live_blocks,
                "overhead_percent": self.overhead(),
                "open_ms": self.took.as_secs_f64() * 1e3,
                "recovery": {
                    "ran": self.recovered(),
                    "records": region.records,
                    "bytes": region.bytes,
                    "marked": marked.marked,
                    "marked_blocks": marked.blocks,
                    "marked_bytes": marked.bytes,
                    "mark_ms": marked.took.as_secs_f64() * 1e3,
                },
            });
            return writeln!(out, "{value}");
        }
        writeln!(out, "region      {}", output::shown(self.region.as_bytes()))?;
        writeln!(
            out,
            "files       {} ({} binary, not indexed)",
            totals.files, totals.binary
        )?;
        writeln!(
            out,
            "sources     {} in {} lines",
            output::bytes(totals.bytes),
            totals.lines
        )?;
        writeln!(out, "words       {}", self.words)?;
        writeln!(out, "postings    {} (word, file, line)", totals.postings)?;
        writeln!(out, "segments    {}", self.segments)?;
        writeln!(
            out,
            "region size {} ({} on the medium)",
            output::bytes(self.file_bytes),
            output::bytes(self.disk_bytes)
        )?;
        writeln!(
            out,
            "live        {} in {} blocks",
            output::bytes(heap.live_bytes),
            heap.live_blocks
        )?;
        writeln!(out, "overhead    {:.1} % of live bytes", self.overhead())?;
        writeln!(out, "opened in   {:.1} ms", self.took.as_secs_f64() * 1e3)?;
        if !self.recovered() {
            return writeln!(out, "recovery    not needed: the last run ended well");
        }
        writeln!(
            out,
            "recovery    ran: {} records ({}) replayed, {} blocks ({}) marked in {:.1} ms",
            region.records,
            output::bytes(region.bytes),
            marked.blocks,
            output::bytes(marked.bytes),
            marked.took.as_secs_f64() * 1e3
        )
    }
}

/// Sums over all segments.
pub(crate) fn totals(index: &Index) -> Totals {
    let mut totals = Totals::default();
    for segment in index.segments.iter() {
        totals.add(segment.live);
    }
    totals
}

/// How many different words stand in living files. Looks at every word of
/// every segment.
pub(crate) fn distinct_words(index: &Index) -> u64 {
    let mut seen: HashSet<&str, BuildHasherDefault<FastHasher>> = HashSet::default();
    for segment in index.segments.iter() {
        if segment.has_dead() {
            let words = segment.words.iter();
            seen.extend(words.filter_map(|(word, span)| {
                let word: &str = word;
                lives(segment, segment.bytes(*span)).then_some(word)
            }));
        } else {
            seen.extend(segment.words.iter().map(|(word, _)| -> &str { word }));
        }
    }
    seen.len() as u64
}

/// Whether one of these places is in a living file.
fn lives(segment: &Segment, bytes: &[u8]) -> bool {
    places(bytes).any(|place| {
        let file = segment.files.get(place.file as usize);
        file.is_some_and(|file| file.state == State::Text)
    })
}

/// The most memory this process has had, in bytes, page cache mapped by it
/// included; nothing where the system does not tell.
pub(crate) fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::{Builder, Source};
    use crate::model::Stamp;

    #[test]
    fn a_word_of_two_segments_counts_once_and_one_of_dead_files_not_at_all() {
        let mut index = Index::default();
        for texts in [["a b", "c"], ["b", "d"]] {
            let mut builder = Builder::new();
            for text in texts {
                let source = Source {
                    path: b"/f",
                    stamp: Stamp::default(),
                    root: 0,
                };
                builder.add(&source, text.as_bytes()).unwrap();
            }
            index.segments.push(builder.finish());
        }
        assert_eq!(distinct_words(&index), 4);
        let segment = &mut index.segments[0];
        segment.live.take(Totals::of(&segment.files[1]));
        segment.files[1].state = State::Dead;
        assert_eq!(distinct_words(&index), 3);
        assert_eq!(totals(&index).postings, 4);
    }

    #[test]
    fn peak_memory_is_told_by_linux() {
        assert!(peak_memory().is_none_or(|bytes| bytes > 100_000));
    }
}

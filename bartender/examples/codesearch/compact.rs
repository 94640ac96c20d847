//! Replaces segments that are mostly dead or small by new ones.
//!
//! Runs after a folder was indexed, one transaction a replacement; a death in
//! between loses nothing. A segment is due when
//!
//! - none of its files is alive (it is dropped), or
//! - more than half of its places are dead, or
//! - it is small, and there are many small ones: then some become one.

use crate::builder::segment;
use crate::model::{File, Index, Segment, Span, State};
use crate::postings::{Encoder, places};
use bartender::{PHashMap, PString};
use std::collections::HashMap;

/// A segment that indexes less than this many bytes is small.
const SMALL: u64 = 2 << 20;
/// So many small ones are put up with.
const SMALL_ONES: usize = 8;
/// At most so many bytes indexed by a segment made of small ones.
const FULL: u64 = 8 << 20;

/// The next segments to be replaced by one, or none: places in
/// `Index::segments`, ascending.
pub(crate) fn due(index: &Index) -> Vec<usize> {
    let mut small = Vec::new();
    for (at, segment) in index.segments.iter().enumerate() {
        let (live, stored) = (&segment.live, &segment.stored);
        let mostly_dead = live.postings * 2 < stored.postings
            || live.binary * 2 < stored.binary
            || (live.files == 0 && live.binary == 0);
        if mostly_dead {
            return vec![at];
        }
        if live.bytes < SMALL {
            small.push(at);
        }
    }
    if small.len() <= SMALL_ONES {
        return Vec::new();
    }
    let mut bytes = 0;
    small.retain(|&at| {
        let more = index.segments[at].live.bytes;
        let fits = bytes + more <= FULL;
        bytes += if fits { more } else { 0 };
        fits
    });
    small
}

/// One new segment with what is alive in these; nothing if nothing is.
pub(crate) fn merged(index: &Index, which: &[usize]) -> Option<Segment> {
    let old: Vec<&Segment> = which.iter().map(|&at| &index.segments[at]).collect();
    // New numbers of the files that are alive, in the same order.
    let mut files = Vec::new();
    let mut numbers: Vec<Vec<Option<u32>>> = Vec::new();
    for segment in &old {
        let of_segment = segment.files.iter().map(|file| {
            (file.state != State::Dead).then(|| {
                files.push(copy(file));
                files.len() as u32 - 1
            })
        });
        numbers.push(of_segment.collect());
    }
    if files.is_empty() {
        return None;
    }

    let mut spans: HashMap<&str, Vec<(usize, Span)>> = HashMap::new();
    for (at, segment) in old.iter().enumerate() {
        for (word, span) in segment.words.iter() {
            spans.entry(word).or_default().push((at, *span));
        }
    }
    let mut postings = Vec::new();
    let mut words = PHashMap::with_capacity(spans.len());
    for (word, spans) in spans {
        let start = postings.len();
        let mut encoder = Encoder::new(&mut postings);
        for (at, span) in spans {
            for place in places(old[at].bytes(span)) {
                if let Some(Some(file)) = numbers[at].get(place.file as usize) {
                    encoder.place(*file, &place);
                }
            }
        }
        if postings.len() > start {
            let span = Span {
                start: start as u64,
                len: (postings.len() - start) as u64,
            };
            words.insert(PString::from(word), span);
        }
    }
    Some(segment(files, words, &postings))
}

fn copy(file: &File) -> File {
    File {
        path: file.path.iter().copied().collect(),
        ..*file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::{Builder, Source};
    use crate::model::{Stamp, Totals};
    use crate::query::search;

    fn small(path: &str, text: &str) -> Segment {
        let mut builder = Builder::new();
        let source = Source {
            path: path.as_bytes(),
            stamp: Stamp {
                size: text.len() as u64,
                ..Stamp::default()
            },
            root: 0,
        };
        builder.add(&source, text.as_bytes()).unwrap();
        builder.finish()
    }

    fn kill(segment: &mut Segment, file: usize) {
        segment.live.take(Totals::of(&segment.files[file]));
        segment.files[file].state = State::Dead;
    }

    fn paths(index: &Index, word: &str) -> Vec<String> {
        search(index, &[word.to_owned()], 99)
            .hits
            .iter()
            .map(|hit| String::from_utf8(hit.path.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn many_small_segments_become_one_and_say_the_same() {
        let mut index = Index::default();
        for n in 0..12 {
            let text = format!("all w{n}\nw{}", n / 2);
            index.segments.push(small(&format!("/{n:02}"), &text));
        }
        let before = (paths(&index, "all"), paths(&index, "w3"));
        let which = due(&index);
        assert_eq!(which.len(), 12);
        let one = merged(&index, &which).unwrap();
        index.segments.clear();
        index.segments.push(one);
        assert_eq!((paths(&index, "all"), paths(&index, "w3")), before);
        assert!(due(&index).is_empty());
    }

    #[test]
    fn the_dead_are_dropped() {
        let mut index = Index::default();
        for n in 0..12 {
            index.segments.push(small(&format!("/{n:02}"), "all"));
        }
        let which = due(&index);
        let mut one = merged(&index, &which).unwrap();
        for file in 0..7 {
            kill(&mut one, file);
        }
        index.segments.clear();
        index.segments.push(one);
        assert_eq!(due(&index), [0]);
        let rest = merged(&index, &[0]).unwrap();
        assert_eq!(rest.files.len(), 5);
        assert_eq!(rest.live, rest.stored);
        assert_eq!(rest.live.postings, 5);
    }

    #[test]
    fn a_segment_without_living_files_goes() {
        let mut index = Index::default();
        index.segments.push(small("/a", "x"));
        assert!(due(&index).is_empty());
        kill(&mut index.segments[0], 0);
        assert_eq!(due(&index), [0]);
        assert!(merged(&index, &[0]).is_none());
    }
}

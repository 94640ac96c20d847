//! Builds one segment in ordinary memory.
//!
//! While files are read, every place goes to one flat list of (word, line);
//! at the end a counting sort puts them in the order of the words. A file that
//! turns out to be binary is taken back as if it had never been read.

use crate::model::{File, Segment, Span, Stamp, State, Totals};
use crate::postings::Encoder;
use crate::tokens::Tokens;
use bartender::{PHashMap, PString, PVec};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{self, Read};

/// Bytes read at once.
const PIECE: usize = 256 << 10;

/// A segment under construction.
#[derive(Default)]
pub(crate) struct Builder {
    ids: HashMap<Box<[u8]>, u32, Fast>,
    /// For each word the last line that it was seen on, counted over all files,
    /// so that a word counts once a line.
    last_line: Vec<u64>,
    /// Lines of the files before the current one.
    lines_before: u64,
    hits: Vec<Hit>,
    files: Vec<File>,
    /// For each file where its hits end.
    ends: Vec<usize>,
    /// Bytes of all words.
    text: usize,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Hit {
    word: u32,
    line: u32,
}

/// A file to be read.
pub(crate) struct Source<'a> {
    /// Absolute path.
    pub(crate) path: &'a [u8],
    /// How it looks from outside.
    pub(crate) stamp: Stamp,
    /// Place of its folder in the index.
    pub(crate) root: u32,
}

impl Builder {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Builder {
            buffer: vec![0; PIECE],
            ..Builder::default()
        }
    }

    /// Reads a file to its end. A NUL byte makes it binary: then only its name
    /// is kept.
    ///
    /// # Errors
    ///
    /// What the reader says; the builder is as it was before.
    pub(crate) fn add(&mut self, source: &Source<'_>, reader: impl Read) -> io::Result<()> {
        let before = self.hits.len();
        let read = self.read(reader);
        let (state, lines) = match read {
            Ok(Some(lines)) => (State::Text, lines),
            Ok(None) => (State::Binary, 0),
            Err(_) => (State::Dead, 0),
        };
        if state != State::Text {
            self.hits.truncate(before);
        }
        read?;
        self.files.push(File {
            path: source.path.iter().copied().collect(),
            stamp: source.stamp,
            lines,
            postings: (self.hits.len() - before) as u32,
            root: source.root,
            state,
        });
        self.ends.push(self.hits.len());
        Ok(())
    }

    /// Returns the number of lines, or nothing for a binary file.
    fn read(&mut self, mut reader: impl Read) -> io::Result<Option<u32>> {
        let mut tokens = Tokens::new();
        let mut held = 0;
        let mut ends_with_newline = true;
        let outcome = loop {
            if held == self.buffer.len() {
                self.buffer.resize(held * 2, 0);
            }
            let got = match reader.read(&mut self.buffer[held..]) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Err(error),
            };
            if self.buffer[held..held + got].contains(&0) {
                break Ok(None);
            }
            if got > 0 {
                ends_with_newline = self.buffer[held + got - 1] == b'\n';
            }
            let filled = held + got;
            let (ids, last_line, hits) = (&mut self.ids, &mut self.last_line, &mut self.hits);
            let (text, lines_before) = (&mut self.text, self.lines_before);
            let done = tokens.feed(&self.buffer[..filled], got == 0, |word, line| {
                let id = match ids.get(word) {
                    Some(&id) => id,
                    None => {
                        let id = last_line.len() as u32;
                        ids.insert(word.into(), id);
                        last_line.push(0);
                        *text += word.len();
                        id
                    }
                };
                let seen = &mut last_line[id as usize];
                let here = lines_before + u64::from(line);
                if *seen != here {
                    *seen = here;
                    hits.push(Hit { word: id, line });
                }
            });
            if got == 0 {
                break Ok(Some(tokens.line() - u32::from(ends_with_newline)));
            }
            self.buffer.copy_within(done..filled, 0);
            held = filled - done;
        };
        // Also after a failure: the next file must not meet our line numbers.
        self.lines_before += u64::from(tokens.line());
        outcome
    }

    /// About how many bytes of log it will take to store the segment.
    pub(crate) fn weight(&self) -> usize {
        2 * self.hits.len() + 160 * self.last_line.len() + 2 * self.text
    }

    /// The segment; the builder is empty afterwards.
    pub(crate) fn finish(&mut self) -> Segment {
        let mut texts: Vec<Box<[u8]>> = vec![Box::default(); self.last_line.len()];
        for (text, id) in self.ids.drain() {
            texts[id as usize] = text;
        }
        // Counting sort by word; the order of files and lines is kept.
        let mut starts = vec![0usize; texts.len() + 1];
        for hit in &self.hits {
            starts[hit.word as usize + 1] += 1;
        }
        for word in 0..texts.len() {
            starts[word + 1] += starts[word];
        }
        let mut next = starts.clone();
        let mut sorted = vec![(0u32, 0u32); self.hits.len()];
        let mut from = 0;
        for (file, &end) in self.ends.iter().enumerate() {
            for hit in &self.hits[from..end] {
                let slot = &mut next[hit.word as usize];
                sorted[*slot] = (file as u32, hit.line);
                *slot += 1;
            }
            from = end;
        }

        let mut postings = Vec::with_capacity(2 * self.hits.len());
        let mut words = PHashMap::with_capacity(texts.len());
        for (word, text) in texts.iter().enumerate() {
            let hits = &sorted[starts[word]..starts[word + 1]];
            if hits.is_empty() {
                continue; // it stood in a file that was taken back only
            }
            let start = postings.len();
            let mut encoder = Encoder::new(&mut postings);
            for of_file in hits.chunk_by(|a, b| a.0 == b.0) {
                let lines = of_file.iter().map(|hit| hit.1);
                encoder.file(of_file[0].0, of_file.len() as u32, lines);
            }
            let span = Span {
                start: start as u64,
                len: (postings.len() - start) as u64,
            };
            let text = std::str::from_utf8(text).expect("words are ASCII");
            words.insert(PString::from(text), span);
        }

        self.last_line.clear();
        self.hits.clear();
        self.ends.clear();
        self.lines_before = 0;
        self.text = 0;
        segment(std::mem::take(&mut self.files), words, &postings)
    }
}

/// Puts a segment together and sums up its files.
pub(crate) fn segment(
    files: Vec<File>,
    words: PHashMap<PString, Span>,
    postings: &[u8],
) -> Segment {
    let mut totals = Totals::default();
    for file in &files {
        totals.add(Totals::of(file));
    }
    let mut bytes = PVec::with_capacity(postings.len());
    bytes.extend_from_slice(postings);
    Segment {
        files: files.into_iter().collect(),
        words,
        postings: bytes,
        live: totals,
        stored: totals,
    }
}

/// Hash function of the builder's own map: fast, not stable, not stored.
type Fast = BuildHasherDefault<FastHasher>;

/// Multiplies and folds eight bytes at a time.
#[derive(Default)]
pub(crate) struct FastHasher(u64);

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let wide = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (wide as u64) ^ (wide >> 64) as u64;
    }

    fn write_usize(&mut self, number: usize) {
        self.0 ^= (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postings::places;

    fn add(builder: &mut Builder, path: &str, text: &[u8]) {
        let source = Source {
            path: path.as_bytes(),
            stamp: Stamp::default(),
            root: 0,
        };
        builder.add(&source, text).unwrap();
    }

    fn found(segment: &Segment, word: &str) -> Vec<(u32, Vec<u32>)> {
        places(segment.places(word))
            .map(|place| (place.file, place.lines().collect()))
            .collect()
    }

    #[test]
    fn a_word_counts_once_a_line() {
        let mut builder = Builder::new();
        add(&mut builder, "/a", b"x x y\n\nx\n");
        add(&mut builder, "/b", b"y x");
        let segment = builder.finish();
        assert_eq!(found(&segment, "x"), [(0, vec![1, 3]), (1, vec![1])]);
        assert_eq!(found(&segment, "y"), [(0, vec![1]), (1, vec![1])]);
        assert_eq!(found(&segment, "z"), []);
        assert_eq!(
            segment.live,
            Totals {
                files: 2,
                binary: 0,
                bytes: 0,
                lines: 4,
                postings: 5
            }
        );
    }

    #[test]
    fn a_binary_file_leaves_its_name_only() {
        let mut builder = Builder::new();
        add(&mut builder, "/bin", b"x only\nhere\0");
        add(&mut builder, "/text", b"x");
        let segment = builder.finish();
        assert_eq!(found(&segment, "x"), [(1, vec![1])]);
        assert_eq!(segment.words.len(), 1);
        assert_eq!((segment.live.files, segment.live.binary), (1, 1));
    }

    #[test]
    fn a_file_that_fails_leaves_nothing() {
        struct Fails(bool);
        impl Read for Fails {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(io::Error::other("gone"));
                }
                into[..2].copy_from_slice(b"x ");
                Ok(2)
            }
        }
        let mut builder = Builder::new();
        let source = Source {
            path: b"/a",
            stamp: Stamp::default(),
            root: 0,
        };
        assert!(builder.add(&source, Fails(false)).is_err());
        assert!(builder.files.is_empty());
        add(&mut builder, "/b", b"x");
        assert_eq!(found(&builder.finish(), "x"), [(0, vec![1])]);
    }

    #[test]
    fn a_text_longer_than_the_buffer_is_whole() {
        let mut text = Vec::new();
        for line in 0..60_000 {
            text.extend_from_slice(format!("word{} common\n", line % 1000).as_bytes());
        }
        let long = "a".repeat(3 * PIECE);
        text.extend_from_slice(long.as_bytes());
        let mut builder = Builder::new();
        add(&mut builder, "/a", &text);
        let segment = builder.finish();
        assert_eq!(found(&segment, "common")[0].1.len(), 60_000);
        assert_eq!(found(&segment, &long), [(0, vec![60_001])]);
        assert_eq!(segment.words.len(), 1002);
    }

    #[test]
    fn a_builder_can_be_used_again() {
        let mut builder = Builder::new();
        add(&mut builder, "/a", b"x y");
        builder.finish();
        add(&mut builder, "/b", b"x");
        let segment = builder.finish();
        assert_eq!(found(&segment, "x"), [(0, vec![1])]);
        assert_eq!(segment.words.len(), 1);
    }
}

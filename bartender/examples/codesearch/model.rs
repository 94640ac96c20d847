//! What the region holds: the index, as typed persistent data.
//!
//! The index is a list of *segments*. A segment holds some files and all
//! places of all words in them; it is built in ordinary memory by one thread
//! and stored whole, in one transaction. So a file and its places are always
//! either both there or both not, and a word may occur in many segments.
//! Afterwards a segment changes in one way only: its files die. A segment
//! with many dead files is replaced by a new one (see `compact`).

use bartender::{PHashMap, PString, PVec, Persist, PlainData};

/// The root of the region, inside of a lock.
#[derive(Persist, Default)]
#[repr(C)]
pub(crate) struct Index {
    /// The folders that were indexed, absolute; a [`File`] refers to one by its
    /// place in this list.
    pub(crate) roots: PVec<PVec<u8>>,
    /// In no particular order.
    pub(crate) segments: PVec<Segment>,
}

/// Some files, and where each of their words stands.
#[derive(Persist, Default)]
#[repr(C)]
pub(crate) struct Segment {
    /// The files; postings refer to one by its place in this list.
    pub(crate) files: PVec<File>,
    /// For each word, where in `postings` its places are.
    pub(crate) words: PHashMap<PString, Span>,
    /// The places of all words, coded as `postings.rs` says.
    pub(crate) postings: PVec<u8>,
    /// Sums over the files that are alive.
    pub(crate) live: Totals,
    /// What `live` was when the segment was stored.
    pub(crate) stored: Totals,
}

/// A file that was indexed.
#[derive(Persist)]
#[repr(C)]
pub(crate) struct File {
    /// Absolute path, as the bytes the system uses.
    pub(crate) path: PVec<u8>,
    /// How it looked when it was read.
    pub(crate) stamp: Stamp,
    /// Number of lines.
    pub(crate) lines: u32,
    /// Number of pairs (word, line).
    pub(crate) postings: u32,
    /// Place of its folder in `Index::roots`.
    pub(crate) root: u32,
    /// What became of it.
    pub(crate) state: State,
}

/// What became of a file.
#[derive(Persist, Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// Its words are indexed.
    Text,
    /// It holds a NUL byte: nothing is indexed, but it need not be read again.
    Binary,
    /// It was deleted, or another segment holds a newer version of it.
    Dead,
}

/// How a file looks from outside: when two stamps are equal, it need not be
/// read again.
#[derive(Persist, PlainData, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub(crate) struct Stamp {
    /// Size in bytes.
    pub(crate) size: u64,
    /// Time of the last change of its contents, in ns since 1970.
    pub(crate) modified: i64,
    /// Time of the last change of anything about it, in ns since 1970, which
    /// no program can set; 0 if the stamp is not to be trusted.
    pub(crate) changed: i64,
}

/// Where in a segment's postings the places of a word are.
#[derive(Persist, PlainData, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub(crate) struct Span {
    /// First byte.
    pub(crate) start: u64,
    /// Number of bytes.
    pub(crate) len: u64,
}

/// Sums over files.
#[derive(Persist, PlainData, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub(crate) struct Totals {
    /// Files with words.
    pub(crate) files: u64,
    /// Binary files.
    pub(crate) binary: u64,
    /// Bytes of files with words.
    pub(crate) bytes: u64,
    /// Lines of files with words.
    pub(crate) lines: u64,
    /// Pairs (word, line).
    pub(crate) postings: u64,
}

impl Totals {
    /// What one file adds.
    pub(crate) fn of(file: &File) -> Totals {
        match file.state {
            State::Text => Totals {
                files: 1,
                binary: 0,
                bytes: file.stamp.size,
                lines: u64::from(file.lines),
                postings: u64::from(file.postings),
            },
            State::Binary => Totals {
                binary: 1,
                ..Totals::default()
            },
            State::Dead => Totals::default(),
        }
    }

    /// Adds `other`.
    pub(crate) fn add(&mut self, other: Totals) {
        self.files += other.files;
        self.binary += other.binary;
        self.bytes += other.bytes;
        self.lines += other.lines;
        self.postings += other.postings;
    }

    /// Takes `other` away, which was added before.
    pub(crate) fn take(&mut self, other: Totals) {
        self.files -= other.files;
        self.binary -= other.binary;
        self.bytes -= other.bytes;
        self.lines -= other.lines;
        self.postings -= other.postings;
    }
}

/// Names a file of the index, as long as no segment is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileRef {
    /// Place in `Index::segments`.
    pub(crate) segment: usize,
    /// Place in `Segment::files`.
    pub(crate) file: usize,
}

impl Segment {
    /// Whether a file has died since the segment was stored.
    pub(crate) fn has_dead(&self) -> bool {
        self.live != self.stored
    }

    /// The coded places of `word`.
    pub(crate) fn places(&self, word: &str) -> &[u8] {
        self.words.get(word).map_or(&[], |span| self.bytes(*span))
    }

    /// The bytes of a span; none if it is out of range.
    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        let start = span.start as usize;
        start
            .checked_add(span.len as usize)
            .and_then(|end| self.postings.get(start..end))
            .unwrap_or(&[])
    }
}

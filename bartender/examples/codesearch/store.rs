//! Where the index lives: in a region, or (to measure what the region costs)
//! owned in ordinary memory. The collections are the same in both cases, and so
//! is every change. In the region each change is one transaction.
//!
//! One kind of change may not fit the log: a segment made of a single huge
//! file. It is stored piece by piece with all its files dead, and brought to
//! life by the last transaction. A process killed in between leaves a segment
//! without living files, which nobody sees and the next run drops.

use crate::error::Result;
use crate::model::{FileRef, Index, IndexProj, Segment, SegmentProj, State, Totals};
use bartender::{Heap, Mut, PRwLock, PString, PVec};
use std::path::Path;

/// A segment that takes more bytes of log than this is stored in pieces of
/// about this size. The log takes some times as much.
pub(crate) const HEAVY: usize = 8 << 20;

/// A change of the index that happens whole or not at all.
pub(crate) enum Change {
    /// A folder is indexed for the first time.
    Root(Vec<u8>),
    /// Files are indexed; older versions of them, and others, are dead.
    Files {
        /// The new files.
        new: Option<Segment>,
        /// The files that die.
        dead: Vec<FileRef>,
    },
    /// Segments (their places, ascending) are replaced by one.
    Replace {
        /// What goes.
        old: Vec<usize>,
        /// What comes instead.
        new: Option<Segment>,
    },
}

/// Something that keeps an index.
pub(crate) trait Store {
    /// Lends the index for reading.
    fn read<A>(&self, look: impl FnOnce(&Index) -> A) -> A;

    /// Makes a change.
    ///
    /// # Errors
    ///
    /// Those of the region: then nothing was changed.
    fn apply(&mut self, change: Change) -> Result<()>;
}

/// The index in ordinary memory.
#[derive(Default)]
pub(crate) struct Owned(Index);

impl Store for Owned {
    fn read<A>(&self, look: impl FnOnce(&Index) -> A) -> A {
        look(&self.0)
    }

    fn apply(&mut self, change: Change) -> Result<()> {
        let index = &mut self.0;
        match change {
            Change::Root(path) => index.roots.push(path.iter().copied().collect()),
            Change::Files { new, dead } => {
                for FileRef { segment, file } in dead {
                    let segment = &mut index.segments[segment];
                    let file = &mut segment.files[file];
                    segment.live.take(Totals::of(file));
                    file.state = State::Dead;
                }
                index.segments.extend(new);
            }
            Change::Replace { old, new } => {
                for at in old.into_iter().rev() {
                    index.segments.swap_remove(at);
                }
                index.segments.extend(new);
            }
        }
        Ok(())
    }
}

/// The index in a region.
pub(crate) type Stored = Heap<PRwLock<Index>>;

/// Opens the index at `path`; a missing one is created if that is wished.
///
/// # Errors
///
/// The file is not a region, is one of another program, or cannot be used.
pub(crate) fn open(path: &Path, create: bool) -> Result<Stored> {
    Ok(Stored::options().create(create).open(path)?)
}

impl Store for Stored {
    fn read<A>(&self, look: impl FnOnce(&Index) -> A) -> A {
        look(&Stored::read(self))
    }

    fn apply(&mut self, change: Change) -> Result<()> {
        match change {
            Change::Files {
                new: Some(segment),
                dead,
            } if weight(&segment) > HEAVY => return store_in_pieces(self, segment, &dead),
            _ => {}
        }
        self.update(|mut index| {
            let IndexProj {
                mut roots,
                mut segments,
            } = index.project();
            match change {
                Change::Root(path) => roots.push(path.iter().copied().collect()),
                Change::Files { new, dead } => {
                    bury(&mut segments, &dead)?;
                    new.map_or(Ok(()), |new| segments.push(new))
                }
                Change::Replace { old, new } => {
                    for at in old.into_iter().rev() {
                        let last = segments.len() - 1;
                        segments.swap_elements(at, last)?;
                        segments.truncate(last)?;
                    }
                    new.map_or(Ok(()), |new| segments.push(new))
                }
            }
        })?;
        Ok(())
    }
}

/// Why a file or segment that was met before is still at its place.
const KNOWN: &str = "segments and files go only when they are replaced";

/// Marks files as dead.
fn bury(segments: &mut Mut<'_, PVec<Segment>>, dead: &[FileRef]) -> bartender::Result<()> {
    for at in dead {
        let mut segment = segments.get_mut(at.segment).expect(KNOWN);
        let SegmentProj {
            mut files,
            mut live,
            ..
        } = segment.project();
        let mut file = files.get_mut(at.file).expect(KNOWN);
        live.take(Totals::of(&file));
        file.project().state.set(State::Dead)?;
    }
    Ok(())
}

/// About how many bytes of log it takes to store a segment.
fn weight(segment: &Segment) -> usize {
    let text: usize = segment.words.keys().map(|word| word.len()).sum();
    segment.postings.len() + 160 * segment.words.len() + 2 * text
}

/// Stores a segment whose parts do not fit the log together.
fn store_in_pieces(heap: &Stored, mut segment: Segment, dead: &[FileRef]) -> Result<()> {
    let words = std::mem::take(&mut segment.words);
    let postings = std::mem::take(&mut segment.postings);
    let states: Vec<State> = segment.files.iter().map(|file| file.state).collect();
    for file in segment.files.iter_mut() {
        file.state = State::Dead;
    }
    segment.live = Totals::default();

    let count = words.len();
    let at = heap.update(|mut index| {
        let mut segments = index.project().segments;
        segments.push(segment)?;
        let at = segments.len() - 1;
        let mut parts = segments.get_mut(at).expect(KNOWN);
        let mut parts = parts.project();
        parts.postings.reserve(postings.len())?;
        parts.words.reserve(count)?;
        Ok(at)
    })?;
    for piece in postings.chunks(HEAVY) {
        heap.update(|mut index| {
            let mut segments = index.project().segments;
            let mut segment = segments.get_mut(at).expect(KNOWN);
            segment.project().postings.extend_from_slice(piece)
        })?;
    }
    let mut words = words.into_iter();
    let mut left = true;
    while left {
        left = heap.update(|mut index| {
            let mut segments = index.project().segments;
            let mut segment = segments.get_mut(at).expect(KNOWN);
            let mut stored = segment.project().words;
            let mut bytes = 0;
            for (word, span) in words.by_ref() {
                let word: PString = word;
                bytes += 160 + 2 * word.len();
                stored.insert(word, span)?;
                if bytes > HEAVY {
                    return Ok(true);
                }
            }
            Ok(false)
        })?;
    }
    heap.update(|mut index| {
        let mut segments = index.project().segments;
        bury(&mut segments, dead)?;
        let mut segment = segments.get_mut(at).expect(KNOWN);
        let SegmentProj {
            mut files,
            mut live,
            stored,
            ..
        } = segment.project();
        for (file, state) in states.into_iter().enumerate() {
            let mut file = files.get_mut(file).expect(KNOWN);
            file.project().state.set(state)?;
        }
        live.set(*stored)
    })?;
    Ok(())
}

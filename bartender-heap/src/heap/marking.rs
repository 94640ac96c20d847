//! Marking beside the program: a heap that a crash left is opened at once, and
//! which of its blocks are live is found out while it is used.
//!
//! *What is marked* is the heap as it was at opening: a frozen picture of the
//! home ([`bartender_pm::Frozen`]), and a copy of the superblock table. Before
//! any transaction begins the picture shows all that was committed, or the heap
//! is marked before it is opened. Later checkpoints do not change it where an entry of the
//! table claims the units; what lies elsewhere nobody reads in it.
//!
//! *The invariant.* A superblock of the table is *unmarked* from opening until
//! the whole walk has succeeded: it is the global heap's, in no list, so nobody
//! gets a block of it, and its units are nobody else's. New superblocks come from units
//! that no entry of the table claims, and from the growth of the region. So a
//! block of an unmarked superblock is live only if it was so at opening, the
//! picture knows it, and what the walk does not find was free all the time.
//!
//! *Frees meanwhile* need no queue of their own. In an unmarked superblock all
//! blocks count as used at first. One that is given back goes the way of every
//! free from afar: its bit in the remote bitmap, and mail to the global heap, which
//! moves the bit to the free bitmap. A second free of the same block finds it
//! there. When the marks are known, the blocks without one become free as well
//! (`Superblock::learn`). A block that was given back and has no mark was
//! never live: it was freed twice, once before the crash.
//!
//! *Who may touch what.* The thread of the marker reads the picture, which is its own, and
//! sets marks, which are its own; of the heap it touches nothing until the walk
//! has ended. Then it takes the global lock, for a few superblocks at a time,
//! and is one of those whom the lock admits. It never waits for the gate, for a lock
//! of a transaction, or for the log: so who waits for it may hold any of these.
//! It stops when it is told to, and closing the heap waits for that.
//!
//! *Space.* Where the region has no room left, or cannot grow, an allocation
//! waits for the marker, which may find some, before it fails.
//!
//! *Damage.* What the walk finds wrong poisons the region: nothing more is
//! committed, and [`Heap::wait_marked`] says where it is. What was read until
//! then was read unchecked, as after a clean close: that the home and the
//! log are what committed transactions wrote, their barriers and checksums say; for
//! files of which one does not know that, there is [`Marking::Before`].

use super::Heap;
use crate::arena::Arena;
use crate::error::{Error, Result};
use crate::layout::UNIT;
use crate::mark::{MarkReport, Progress, View, aside, mark_beside};
use crate::marks::Marks;
use crate::stats::{MarkProgress, OpenReport};
use crate::table::{Extent, entry_offset};
use crate::types::Schema;
use bartender_pm::sync::{Condvar, Mutex};
use bartender_pm::{Frozen, Region};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::thread::JoinHandle;
use std::time::Instant;

/// Superblocks that learn their marks under one locking of the global heap.
const BATCH: usize = 16;

/// When what a crash has left is marked, and with that checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Marking {
    /// Before opening returns: what it finds wrong is opening's error.
    Before,
    /// The same where all superblocks together have up to 2 MiB, or the home cannot be
    /// mapped a second time; else in the background.
    #[default]
    Auto,
    /// In the background. What it finds wrong poisons the region.
    Background,
    /// In the background, once [`Heap::release_marking`] is called. For tests.
    #[doc(hidden)]
    Held,
}

/// The marker of a heap, as others see it; of one that needs none, nothing.
pub(super) struct Marker(Option<Running>);

struct Running {
    state: Arc<State>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the marker's thread and the others share.
struct State {
    progress: Progress,
    of_bytes: u64,
    start: Instant,
    /// Changed by the thread, and by who releases it.
    phase: Mutex<Phase>,
    changed: Condvar,
    /// `phase` is the end: for who allocates.
    over: AtomicBool,
}

/// In this order; one of the last three is the end.
#[derive(Debug)]
enum Phase {
    Held,
    UnderWay,
    Marked(MarkReport),
    Stopped,
    Failed(Error),
}

/// What the marker's thread needs.
pub(super) struct Walk {
    pub(super) region: Region,
    pub(super) arena: Arc<Arena>,
    pub(super) schema: Schema,
    pub(super) root: u64,
    pub(super) frozen: Arc<Frozen>,
    /// What the table holds.
    pub(super) extents: Vec<Extent>,
    /// First units of those whose units have another use by now: nothing in them is live.
    pub(super) over: BTreeSet<u64>,
}

impl Marker {
    /// Nothing has to be marked.
    pub(super) fn none() -> Marker {
        Marker(None)
    }

    /// Starts marking.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(super) fn start(walk: Walk, held: bool) -> Result<Marker> {
        let bytes = |extent: &Extent| u64::from(extent.entry.units) * UNIT;
        let phase = if held { Phase::Held } else { Phase::UnderWay };
        let state = Arc::new(State {
            progress: Progress::default(),
            of_bytes: walk.extents.iter().map(bytes).sum(),
            start: Instant::now(),
            phase: Mutex::new(phase),
            changed: Condvar::new(),
            over: AtomicBool::new(false),
        });
        let path = walk.region.path().to_owned();
        let shared = state.clone();
        let thread = std::thread::Builder::new().name("bartender-mark".into());
        let thread = thread.spawn(move || shared.run(walk)).map_err(|source| {
            let action = "start a thread for marking";
            Error::from(bartender_pm::Error::Io {
                path,
                action,
                source,
            })
        })?;
        Ok(Marker(Some(Running {
            state,
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// Whether every block is known to be live or free.
    pub(super) fn is_complete(&self) -> bool {
        let Some(running) = &self.0 else {
            return true;
        };
        matches!(*running.state.phase.lock(), Phase::Marked(_))
    }

    /// Runs `attempt`, and once more if there was no space, as soon as marking that
    /// went on meanwhile may have found some.
    #[cold]
    pub(super) fn make_room<T>(&self, attempt: impl Fn() -> Result<T>) -> Result<T> {
        let Some(Running { state, .. }) = &self.0 else {
            return attempt();
        };
        let over = state.over.load(Acquire);
        match attempt() {
            Err(Error::Region(_)) if !over && !bartender_pm::mutant::is("fail_unmarked") => {
                drop(state.wait());
                attempt()
            }
            done => done,
        }
    }

    /// Ends it where it is, and returns when the thread is gone.
    pub(super) fn stop(&self) {
        if let Some(Running { state, thread }) = &self.0 {
            state.progress.stop.store(true, Relaxed);
            drop(state.phase.lock());
            state.changed.notify_all();
            if let Some(thread) = thread.lock().take() {
                // A panic of it would already have been printed.
                let _ = thread.join();
            }
        }
    }
}

impl Phase {
    fn is_over(&self) -> bool {
        !matches!(self, Phase::Held | Phase::UnderWay)
    }
}

impl State {
    /// The marker's thread.
    fn run(&self, walk: Walk) {
        /// Whatever happens, nobody waits for ever.
        struct End<'s>(&'s State);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                let mut phase = self.0.phase.lock();
                if !phase.is_over() {
                    *phase = Phase::Stopped;
                }
                self.0.over.store(true, Release);
                self.0.changed.notify_all();
            }
        }
        let _end = End(self);
        let mut phase = self.phase.lock();
        while matches!(*phase, Phase::Held) && !self.progress.stop.load(Relaxed) {
            phase = self.changed.wait(phase);
        }
        drop(phase);
        let region = walk.region.clone();
        let verdict = match walk.mark(&self.progress) {
            Ok(Some(report)) => Phase::Marked(MarkReport {
                took: self.start.elapsed(),
                ..report
            }),
            Ok(None) => Phase::Stopped,
            Err(error) => {
                region.poison(error.to_string());
                Phase::Failed(error)
            }
        };
        *self.phase.lock() = verdict;
    }

    /// Waits for the end.
    fn wait(&self) -> bartender_pm::sync::MutexGuard<'_, Phase> {
        let mut phase = self.phase.lock();
        while !phase.is_over() {
            phase = self.changed.wait(phase);
        }
        phase
    }
}

impl Walk {
    /// Marks, and then tells the superblocks. `None`: it was stopped on the way.
    fn mark(self, progress: &Progress) -> Result<Option<MarkReport>> {
        let end = self.frozen.size() / UNIT;
        let marks = Marks::new(self.extents, end);
        // SAFETY: that many bytes, as long as `frozen` is there; a checkpoint lets
        // the kernel copy pages and changes no byte of the picture.
        let picture =
            unsafe { std::slice::from_raw_parts(self.frozen.base(), self.frozen.size() as usize) };
        let view = View::at(self.region.base().expose_provenance(), picture);
        let walk = || mark_beside(&self.schema, self.root, view, &marks, progress);
        let Some(report) = aside(walk)? else {
            return Ok(None);
        };
        // Checkpoints need not copy for it any more.
        drop(self.frozen);
        let found = || {
            marks.each().map(|(extent, _, words)| {
                let words: Vec<u64> = words.map(|(mark, _)| mark).collect();
                (extent, words)
            })
        };
        let live = |words: &[u64]| words.iter().any(|word| *word != 0);
        let is_over = |extent: &Extent| self.over.contains(&extent.unit);
        if let Some((extent, _)) = found().find(|(at, words)| is_over(at) && live(words)) {
            return Err(Error::Damaged {
                offset: entry_offset(extent.unit, self.region.max_size() / UNIT),
                what: super::open::OVER_SCHEMA.into(),
            });
        }
        let holes = self.region.space().may_have_holes();
        let mut twice = None;
        let mut rest = found().filter(|(extent, _)| !is_over(extent)).peekable();
        while rest.peek().is_some() {
            if progress.stop.load(Relaxed) {
                return Ok(None);
            }
            let batch: Vec<_> = rest.by_ref().take(BATCH).collect();
            let (mut global, map) = self.arena.lock();
            for (extent, words) in batch {
                let superblock = map.begin(extent.unit);
                let wrong = global.learn(superblock, &words, holes, map, &self.region);
                twice = twice.or(wrong);
            }
        }
        match twice {
            None => Ok(Some(report)),
            Some(offset) => Err(Error::DoubleFree {
                address: (self.region.base().addr() as u64).wrapping_add(offset),
                superblock: None,
            }),
        }
    }
}

impl Heap {
    /// Waits until marking in the background is through. What opening marked, or a
    /// clean close saved, is there at once.
    ///
    /// # Errors
    /// `BadData` and `Damaged`: what marking found wrong, which has poisoned the
    /// region. `DoubleFree` if a block was given back meanwhile that had been free
    /// before; it has as well. `Closed` if the heap was closed before the end.
    pub fn wait_marked(&self) -> Result<MarkReport> {
        let Some(Running { state, .. }) = &self.marker.0 else {
            let OpenReport {
                blocks,
                bytes,
                took,
                ..
            } = self.report;
            return Ok(MarkReport {
                blocks,
                bytes,
                took,
            });
        };
        match &*state.wait() {
            Phase::Marked(report) => Ok(*report),
            Phase::Failed(error) => Err(again(error)),
            _ => Err(Error::Closed),
        }
    }

    /// How far marking in the background has come. Cost: a lock that is hardly ever held.
    pub fn marking(&self) -> MarkProgress {
        let Some(Running { state, .. }) = &self.marker.0 else {
            return MarkProgress::default();
        };
        let phase = state.phase.lock();
        MarkProgress {
            under_way: !phase.is_over(),
            blocks: state.progress.blocks.load(Relaxed),
            bytes: state.progress.bytes.load(Relaxed),
            of_bytes: state.of_bytes,
            took: match *phase {
                Phase::Marked(report) => report.took,
                _ => state.start.elapsed(),
            },
        }
    }

    /// Lets marking begin that was [held](Marking::Held).
    #[doc(hidden)]
    pub fn release_marking(&self) {
        if let Some(Running { state, .. }) = &self.marker.0 {
            let mut phase = state.phase.lock();
            if matches!(*phase, Phase::Held) {
                *phase = Phase::UnderWay;
            }
            drop(phase);
            state.changed.notify_all();
        }
    }
}

/// An error of the marker once more.
fn again(error: &Error) -> Error {
    match error {
        Error::BadData { path, offset, what } => Error::BadData {
            path: path.clone(),
            offset: *offset,
            what: what.clone(),
        },
        Error::Damaged { offset, what } => Error::Damaged {
            offset: *offset,
            what: what.clone(),
        },
        Error::DoubleFree {
            address,
            superblock,
        } => Error::DoubleFree {
            address: *address,
            superblock: *superblock,
        },
        other => Error::Damaged {
            offset: 0,
            what: other.to_string(),
        },
    }
}

//! The fast walk: parallel, over the compiled schema, without paths.
//!
//! Each worker has a stack of blocks that were found and not yet visited. What comes off the
//! stack goes through a short queue, and its memory and its mark are prefetched when it enters:
//! by the time it leaves, its cache lines have arrived, and the latencies of many blocks
//! overlap. Blocks that hold boxes and nothing else to look at, of which most large structures
//! are made, have a stack and a queue of their own (`links`). Long arrays are split in
//! halves on the stack. A worker that sees that no task waits in rayon's queue gives away the
//! older half of its stacks, where the large pieces are; so no worker idles while another has
//! much to do.

mod links;
mod values;

use super::Progress;
use super::counted::Counted;
use super::entries::Entries;
use super::fault::Fault;
use super::own::{Own, Pool};
use super::program::{Elem, NOT_LINKED, PLAIN, Program};
use super::tasks::{self, Scope};
use super::view::{Target, View, check_text};
use crate::block::{BlockRef, Blocks, prefetch};
use bartender_pm::sync::Mutex;
use bartender_pm::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Elements visited in one go.
const CHUNK: u64 = 256;
/// Pieces between a prefetch and the visit.
const QUEUE: usize = 16;
/// Pieces between two looks at the other workers.
const PERIOD: u32 = 64;
/// Linked blocks that are enough to begin with them.
const MANY: usize = 64;

/// Something to visit.
#[derive(Debug, Clone, Copy)]
struct Piece {
    offset: u64,
    a: u64,
    b: u64,
    task: Task,
}

#[derive(Debug, Clone, Copy)]
enum Task {
    /// A new block of at least `a` bytes, with `b` elements.
    Block { elem: u32 },
    /// A new block of at least `a` bytes, with `b` bytes of text.
    Text,
    /// A new block of at least `a` bytes, which the ring at home offset `b` owns.
    Ring { elem: u32 },
    /// A new block of at least `a` bytes, which the table at home offset `b` owns.
    Table { map: u32 },
    /// A new block, a node on level `b` of the tree at home offset `a`.
    Node { tree: u32 },
    /// `a` elements in a block that is marked.
    Elems { elem: u32 },
    /// The buckets `a..b` of the table at home offset `offset`.
    Buckets { map: u32 },
}

/// A new block of one linked value.
#[derive(Debug, Clone, Copy)]
struct Found {
    /// Home offset; 0, where no block is, for nothing.
    offset: u64,
    /// Number of its type in `Program::linked`.
    linked: u32,
}

/// What the workers share.
struct Shared<'a, B> {
    program: &'a Program,
    view: View<'a>,
    blocks: &'a B,
    /// Tasks that were spawned and have not begun. Only a hint for when to give work away.
    waiting: AtomicUsize,
    workers: usize,
    marks: Pool,
    counted: Counted,
    /// Of the workers that have ended.
    entries: Mutex<Entries>,
    /// Set once a fault was found: the others may stop where they are.
    stop: AtomicBool,
    /// One of the faults found; which one depends on timing.
    fault: Mutex<Option<Fault>>,
    progress: &'a Progress,
}

/// Marks from `root`, until that is done or `progress` says stop, and counts there.
pub(super) fn run<B: Blocks>(
    program: &Program,
    root: u64,
    view: View<'_>,
    blocks: &B,
    progress: &Progress,
) -> Result<(), Fault> {
    if root == 0 {
        return Ok(());
    }
    let shared = Shared {
        program,
        view,
        blocks,
        waiting: AtomicUsize::new(1),
        workers: tasks::current_num_threads(),
        marks: Pool::new(blocks, view.bytes.len()),
        counted: Counted::new(),
        entries: Mutex::default(),
        stop: AtomicBool::new(false),
        fault: Mutex::new(None),
        progress,
    };
    let elem = program.elems[program.root as usize];
    // A root without bytes has a block all the same.
    let first = view.boxed(root, elem.size.max(1), elem.align)?;
    let first = first.map(|target| Piece::block(program.root, target));
    let first = first.into_iter().collect();
    tasks::scope(|scope| work(&shared, scope, first, Vec::new()));
    if let Some(fault) = shared.fault.lock().take() {
        return Err(fault);
    }
    if !shared.marks.finish(blocks) {
        // Which block it is, the slow walk finds.
        return Err(Fault::Shared(root));
    }
    shared.counted.finish(view)?;
    shared.entries.lock().finish(view)
}

fn work<'s, B: Blocks>(
    shared: &'s Shared<'s, B>,
    scope: &Scope<'s>,
    stack: Vec<Piece>,
    found: Vec<Found>,
) {
    shared.waiting.fetch_sub(1, Ordering::Relaxed);
    let mut worker = Worker {
        shared,
        program: shared.program,
        view: shared.view,
        stack,
        found,
        own: shared.marks.take(shared.blocks),
        entries: Entries::default(),
        marked: 0,
        bytes: 0,
    };
    if let Err(fault) = worker.run(scope) {
        shared.fault.lock().get_or_insert(*fault);
        shared.stop.store(true, Ordering::Relaxed);
    }
    worker.count();
    shared.entries.lock().join(worker.entries);
    shared.marks.give(worker.own);
}

/// A fault, in one word: results are handed up through every function of the walk.
type Bad = Box<Fault>;

struct Worker<'s, B> {
    shared: &'s Shared<'s, B>,
    program: &'s Program,
    view: View<'s>,
    stack: Vec<Piece>,
    found: Vec<Found>,
    own: Own<'s, B>,
    entries: Entries,
    marked: u64,
    bytes: u64,
}

impl Piece {
    #[inline(always)]
    fn block(elem: u32, target: Target) -> Piece {
        Piece {
            offset: target.offset,
            a: target.need,
            b: target.count,
            task: Task::Block { elem },
        }
    }
}

/// No block.
const NO_BLOCK: BlockRef = BlockRef {
    mark: 0,
    start: 0,
    size: 0,
};

impl<'s, B: Blocks> Worker<'s, B> {
    fn run(&mut self, scope: &Scope<'s>) -> Result<(), Bad> {
        let nothing = Piece {
            offset: 0,
            a: 0,
            b: 0,
            task: Task::Text,
        };
        let mut queue = [(nothing, NO_BLOCK); QUEUE];
        let (mut head, mut len) = (0, 0);
        loop {
            if self.pause(scope) {
                return Ok(());
            }
            for _ in 0..PERIOD {
                while len < QUEUE
                    && let Some(piece) = self.stack.pop()
                {
                    let block = self.block(&piece)?;
                    prefetch(self.view.bytes.as_ptr().wrapping_add(piece.offset as usize));
                    self.own.prefetch(&block);
                    queue[(head + len) % QUEUE] = (piece, block);
                    len += 1;
                }
                if len > 0 {
                    let (piece, block) = queue[head];
                    (head, len) = ((head + 1) % QUEUE, len - 1);
                    self.visit(piece, block)?;
                } else if self.found.is_empty() {
                    return Ok(());
                }
                // Few of them at a time would not overlap.
                if self.found.len() >= MANY || len == 0 && self.stack.is_empty() {
                    self.follow(scope)?;
                }
            }
        }
    }

    /// Looks at the others; true if there is no need to go on.
    fn pause(&mut self, scope: &Scope<'s>) -> bool {
        let shared = self.shared;
        if shared.stop.load(Ordering::Relaxed) || shared.progress.stop.load(Ordering::Relaxed) {
            return true;
        }
        self.count();
        self.give(scope);
        false
    }

    /// Says how many blocks have been found.
    fn count(&mut self) {
        let progress = self.shared.progress;
        let (blocks, bytes) = (&mut self.marked, &mut self.bytes);
        progress
            .blocks
            .fetch_add(std::mem::take(blocks), Ordering::Relaxed);
        progress
            .bytes
            .fetch_add(std::mem::take(bytes), Ordering::Relaxed);
    }

    /// Gives work away if somebody may want it.
    fn give(&mut self, scope: &Scope<'s>) {
        let shared = self.shared;
        let there = self.stack.len() + self.found.len();
        if there < 2 || shared.waiting.load(Ordering::Relaxed) >= shared.workers {
            return;
        }
        let (stack, found) = split(&mut self.stack, &mut self.found);
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        scope.spawn(move |scope| work(shared, scope, stack, found));
    }

    /// The block of a piece that has one to be marked.
    #[inline(always)]
    fn block(&self, piece: &Piece) -> Result<BlockRef, Bad> {
        match piece.task {
            Task::Block { .. } | Task::Text | Task::Ring { .. } | Task::Table { .. } => {
                let blocks = self.shared.blocks;
                Ok(self.view.locate(blocks, piece.offset, piece.a)?)
            }
            Task::Node { tree } => {
                let need = self.program.trees[tree as usize].node.bytes(piece.b);
                let blocks = self.shared.blocks;
                Ok(self.view.locate(blocks, piece.offset, need)?)
            }
            Task::Elems { .. } | Task::Buckets { .. } => Ok(NO_BLOCK),
        }
    }

    #[inline(always)]
    fn claim(&mut self, block: &BlockRef) -> Result<(), Bad> {
        if !self.own.mark(block) {
            return Err(Fault::Shared(self.view.address(block.start)).into());
        }
        self.marked += 1;
        self.bytes += block.size;
        Ok(())
    }

    #[inline(always)]
    fn visit(&mut self, piece: Piece, block: BlockRef) -> Result<(), Bad> {
        let Piece { offset, a, b, task } = piece;
        match task {
            Task::Block { elem } => {
                self.claim(&block)?;
                self.elems(elem, offset, b)
            }
            Task::Text => {
                self.claim(&block)?;
                Ok(check_text(self.view.range(offset, b)?)?)
            }
            Task::Ring { elem } => {
                self.claim(&block)?;
                self.ring(elem, b)
            }
            Task::Table { map } => {
                self.claim(&block)?;
                self.table(map, b)
            }
            Task::Node { tree } => {
                self.claim(&block)?;
                self.node(tree, offset, b, a)
            }
            Task::Elems { elem } => self.elems(elem, offset, a),
            Task::Buckets { map } => self.buckets(map, offset, a, b),
        }
    }

    /// Visits `count` elements at `offset`, at most a chunk of them now.
    pub(super) fn elems(&mut self, elem: u32, offset: u64, count: u64) -> Result<(), Bad> {
        let Elem {
            size, body, linked, ..
        } = self.program.elems[elem as usize];
        if body == PLAIN {
            return Ok(());
        }
        let now = self.split(0, count, |from, to| Piece {
            offset: offset + from * size,
            a: to - from,
            b: 0,
            task: Task::Elems { elem },
        });
        let values = self.view.range(offset, now * size)?;
        if linked != NOT_LINKED {
            return self.linked(linked, values, offset);
        }
        self.values(body, values, size as usize, offset)
    }

    /// Puts halves of `from..to` on the stack until the first one is short; returns where that
    /// ends.
    fn split(&mut self, from: u64, to: u64, piece: impl Fn(u64, u64) -> Piece) -> u64 {
        let mut to = to;
        while to - from > CHUNK {
            let half = (to - from) / 2;
            // Whole chunks, but for the last piece.
            let middle = from + half.next_multiple_of(CHUNK);
            self.stack.push(piece(middle, to));
            to = middle;
        }
        to
    }
}

/// The older half of two stacks that hold two pieces at least: some is given and
/// some stays. (Who gave all away would give it to itself, for ever.)
fn split<T, U>(one: &mut Vec<T>, other: &mut Vec<U>) -> (Vec<T>, Vec<U>) {
    fn older<T>(stack: &mut Vec<T>) -> Vec<T> {
        let rest = stack.split_off(stack.len() / 2);
        std::mem::replace(stack, rest)
    }
    if one.len() < 2 && other.len() < 2 {
        return (Vec::new(), std::mem::take(other));
    }
    (older(one), older(other))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_gives_work_away_keeps_some_and_gives_some() {
        for (a, b) in (0..6).flat_map(|a| (0..6).map(move |b| (a, b))) {
            if a + b < 2 {
                continue;
            }
            let (mut one, mut other) = (vec![0; a], vec![0; b]);
            let given = split(&mut one, &mut other);
            assert!(one.len() + other.len() > 0, "{a} and {b}");
            assert!(given.0.len() + given.1.len() > 0, "{a} and {b}");
            assert_eq!(one.len() + given.0.len(), a);
            assert_eq!(other.len() + given.1.len(), b);
        }
    }
}

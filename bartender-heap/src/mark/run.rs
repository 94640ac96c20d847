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

use super::fault::Fault;
use super::own::{Own, Pool};
use super::program::{Body, Elem, Form, NOT_LINKED, Op, PLAIN, Program};
use super::tasks::{self, Scope};
use super::view::{
    self, Target, View, check_bool, check_char, check_lock, check_nonzero, check_text, is_full,
    u64_at, uint_at,
};
use crate::block::{BlockRef, Blocks, prefetch};
use crate::types::NoneForm;
use bartender_pm::sync::Mutex;
use bartender_pm::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

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
    /// A new block of at least `a` bytes, which the table at home offset `b` owns.
    Table { map: u32 },
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
    /// Set once a fault was found: the others may stop where they are.
    stop: AtomicBool,
    /// One of the faults found; which one depends on timing.
    fault: Mutex<Option<Fault>>,
    marked: AtomicU64,
    bytes: AtomicU64,
}

/// Marks from `root`; returns the number of live blocks and their bytes.
pub(super) fn run<B: Blocks>(
    program: &Program,
    root: u64,
    view: View<'_>,
    blocks: &B,
) -> Result<(u64, u64), Fault> {
    if root == 0 {
        return Ok((0, 0));
    }
    let shared = Shared {
        program,
        view,
        blocks,
        waiting: AtomicUsize::new(1),
        workers: tasks::current_num_threads(),
        marks: Pool::new(blocks, view.bytes.len()),
        stop: AtomicBool::new(false),
        fault: Mutex::new(None),
        marked: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    };
    let elem = program.elems[program.root as usize];
    let first = view.boxed(root, elem.size, elem.align)?;
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
    // The scope's end orders the workers' additions before these loads.
    Ok((
        shared.marked.load(Ordering::Relaxed),
        shared.bytes.load(Ordering::Relaxed),
    ))
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
        marked: 0,
        bytes: 0,
    };
    if let Err(fault) = worker.run(scope) {
        shared.fault.lock().get_or_insert(*fault);
        shared.stop.store(true, Ordering::Relaxed);
    }
    shared.marked.fetch_add(worker.marked, Ordering::Relaxed);
    shared.bytes.fetch_add(worker.bytes, Ordering::Relaxed);
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
        if self.shared.stop.load(Ordering::Relaxed) {
            return true;
        }
        self.give(scope);
        false
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
            Task::Block { .. } | Task::Text | Task::Table { .. } => {
                let blocks = self.shared.blocks;
                Ok(self.view.locate(blocks, piece.offset, piece.a)?)
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
            Task::Table { map } => {
                self.claim(&block)?;
                self.table(map, b)
            }
            Task::Elems { elem } => self.elems(elem, offset, a),
            Task::Buckets { map } => self.buckets(map, offset, a, b),
        }
    }

    /// Visits `count` elements at `offset`, at most a chunk of them now.
    fn elems(&mut self, elem: u32, offset: u64, count: u64) -> Result<(), Bad> {
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

    /// Visits the values of `size` bytes that fill `values`, which lie at home offset `base`.
    fn values(&mut self, body: Body, values: &'s [u8], size: usize, base: u64) -> Result<(), Bad> {
        let program = self.program;
        let ops = &program.bodies[body as usize];
        if let [Op::Bool { .. }] = **ops
            && size == 1
        {
            return Ok(values.iter().try_for_each(|&byte| check_bool(byte))?);
        }
        for (i, value) in values.chunks_exact(size).enumerate() {
            self.value(ops, value, base + (i * size) as u64)?;
        }
        Ok(())
    }

    /// Checks and follows what one value holds, which lies at home offset `base`.
    fn value(&mut self, ops: &'s [Op], value: &'s [u8], base: u64) -> Result<(), Bad> {
        let program = self.program;
        for op in ops {
            match *op {
                Op::Bool { at } => check_bool(value[at as usize])?,
                Op::Char { at } => check_char(uint_at(value, at as usize, 4) as u32)?,
                Op::Nonzero { at, size } => {
                    check_nonzero(&value[at as usize..(at + size) as usize])?;
                }
                Op::Lock { at } => check_lock(u64_at(value, at as usize))?,
                Op::Box { at, elem, or_null } => {
                    let ptr = u64_at(value, at as usize);
                    if !(or_null && ptr == 0) {
                        let Elem {
                            size, align, body, ..
                        } = program.elems[elem as usize];
                        if let Some(target) = self.view.boxed(ptr, size, align)? {
                            self.shared.blocks.pointer(base + at);
                            match self.program.elems[elem as usize].linked {
                                NOT_LINKED => self.block_of(elem, body, target)?,
                                linked => self.found.push(Found {
                                    offset: target.offset,
                                    linked,
                                }),
                            }
                        }
                    }
                }
                Op::Vec { at, elem } => {
                    let Elem {
                        size, align, body, ..
                    } = program.elems[elem as usize];
                    let raw = &value[at as usize..];
                    if let Some(target) = self.view.vec(raw, size, align)? {
                        self.shared.blocks.pointer(base + at);
                        self.block_of(elem, body, target)?;
                    }
                }
                Op::Text { at } => {
                    if let Some(target) = self.view.vec(&value[at as usize..], 1, 1)? {
                        self.shared.blocks.pointer(base + at);
                        self.stack.push(Piece {
                            offset: target.offset,
                            a: target.need,
                            b: target.count,
                            task: Task::Text,
                        });
                    }
                }
                Op::Map { at, map } => {
                    let entry = &program.maps[map as usize].entry;
                    if let Some((target, _)) = self.view.table(&value[at as usize..], entry)? {
                        self.shared.blocks.pointer(base + at);
                        self.stack.push(Piece {
                            offset: target.offset,
                            a: target.need,
                            b: base + at,
                            task: Task::Table { map },
                        });
                    }
                }
                Op::Option { at, form, body } => {
                    let form = &program.forms[form as usize];
                    let inner = &value[at as usize..(at + form.size) as usize];
                    if is_some(form, inner)? && body != PLAIN {
                        self.value(&program.bodies[body as usize], inner, base + at)?;
                    }
                }
                Op::Switch { at, cases } => {
                    let cases = &program.cases[cases as usize];
                    let inner = &value[at as usize..(at + cases.size) as usize];
                    let tag = uint_at(inner, cases.tag_offset, cases.tag_size);
                    let body = variant(&cases.by_tag, tag)?;
                    if body != PLAIN {
                        self.value(&program.bodies[body as usize], inner, base + at)?;
                    }
                }
                Op::Array { at, elem, len } => {
                    let Elem { size, body, .. } = program.elems[elem as usize];
                    let values = &value[at as usize..(at + size * len) as usize];
                    self.values(body, values, size as usize, base + at)?;
                }
                Op::Call { at, size, body } => {
                    let inner = &value[at as usize..(at + size) as usize];
                    self.value(&program.bodies[body as usize], inner, base + at)?;
                }
            }
        }
        Ok(())
    }

    /// A block of `elem`s was found: one that needs no visit is marked at once.
    #[inline]
    fn block_of(&mut self, elem: u32, body: Body, target: Target) -> Result<(), Bad> {
        if body == PLAIN {
            let blocks = self.shared.blocks;
            let block = self.view.locate(blocks, target.offset, target.need)?;
            return self.claim(&block);
        }
        self.stack.push(Piece::block(elem, target));
        Ok(())
    }

    /// Checks the table at home offset `at`, whose block is marked.
    fn table(&mut self, map: u32, at: u64) -> Result<(), Bad> {
        let entry = &self.program.maps[map as usize].entry;
        let raw = self.view.range(at, view::TABLE_SIZE)?;
        let Some((target, table)) = self.view.table(raw, entry)? else {
            return Ok(());
        };
        table.check(self.view.range(target.offset, table.ctrl_len())?)?;
        self.buckets(map, at, 0, table.buckets)
    }

    /// Visits the entries of the buckets `from..to` of the table at home offset `at`, at most a
    /// chunk of them now.
    fn buckets(&mut self, map: u32, at: u64, from: u64, to: u64) -> Result<(), Bad> {
        let program = self.program;
        let kind = &program.maps[map as usize];
        if kind.body == PLAIN {
            return Ok(());
        }
        let raw = self.view.range(at, view::TABLE_SIZE)?;
        let Some((target, table)) = self.view.table(raw, &kind.entry)? else {
            return Ok(());
        };
        let to = self.split(from, to, |from, to| Piece {
            offset: at,
            a: from,
            b: to,
            task: Task::Buckets { map },
        });
        let ctrl = self.view.range(target.offset + from, to - from)?;
        let start = target.offset + table.entries_at(&kind.entry) + from * kind.entry.size;
        let entries = self.view.range(start, (to - from) * kind.entry.size)?;
        let ops = &program.bodies[kind.body as usize];
        let size = kind.entry.size as usize;
        for (i, entry) in entries.chunks_exact(size).enumerate() {
            if is_full(ctrl[i]) {
                self.value(ops, entry, start + (i * size) as u64)?;
            }
        }
        Ok(())
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

/// Whether the option in `value` holds something.
fn is_some(form: &Form, value: &[u8]) -> Result<bool, Fault> {
    match &form.none {
        NoneForm::Niche { offset, bytes } => {
            let offset = *offset as usize;
            Ok(value[offset..offset + bytes.len()] != **bytes)
        }
        NoneForm::Tag {
            offset,
            size,
            none,
            some,
        } => match uint_at(value, *offset as usize, *size as usize) {
            tag if tag == *none => Ok(false),
            tag if tag == *some => Ok(true),
            tag => Err(Fault::Tag(tag)),
        },
    }
}

/// The list of the variant with this tag. Most enums count their variants from 0.
#[inline]
fn variant(by_tag: &[(u64, Body)], tag: u64) -> Result<Body, Fault> {
    if let Some(&(found, body)) = by_tag.get(tag as usize)
        && found == tag
    {
        return Ok(body);
    }
    match by_tag.binary_search_by_key(&tag, |&(tag, _)| tag) {
        Ok(at) => Ok(by_tag[at].1),
        Err(_) => Err(Fault::Tag(tag)),
    }
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

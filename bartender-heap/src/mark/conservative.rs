//! Marking data without types: any word at a multiple of 8 that is an address
//! inside of a block keeps that block.
//!
//! It promises that every block to which a chain of such words leads from the
//! roots is marked, whatever the bytes are, and that its own memory is bounded
//! however the blocks hang together. An address just behind a block's last byte
//! is not inside of it. What it cannot promise is that a block marked is in
//! use: a number may look like an address.
//!
//! It works as the precise walk does (`run`): each worker has a stack of what it
//! found, a short queue in which memory is on its way from DRAM, and gives the
//! older half of the stack away when others have nothing to do. A stack that is
//! full drops what it finds, and notes that it did: then all marked blocks are
//! looked at again, until nothing was dropped. Each such round marks blocks, as
//! a stack fills by those only; so there are few.
//!
//! Several *pictures* of the same home may be given, such as the view and what
//! is durable: a block lives if any mixture of them leads to it.

use super::tasks::{self, Scope};
use super::{MarkReport, View};
use crate::block::{Blocks, prefetch};
use crate::marks::Marks;
use bartender_pm::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::time::Instant;

/// Bytes looked at in one go.
const CHUNK: u64 = 1024;
/// Pieces between a prefetch and the visit.
const QUEUE: usize = 16;
/// Pieces between two looks at the other workers.
const PERIOD: u32 = 64;
/// Pieces on a stack, at most. (At least what one look at a block finds: a chunk of words in each
/// picture, and the halves of the longest block; else a round might drop the same again.)
const STACK: usize = 1 << 18;

/// Something to visit: the bytes `offset..end` of a marked block, or, where
/// `end` is 0, the block around `offset`, if there is one.
#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    offset: u64,
    end: u64,
}

/// What the workers share.
struct Shared<'a> {
    home_base: u64,
    pictures: &'a [&'a [u8]],
    /// Bytes of the longest picture: no address lies further.
    limit: u64,
    marks: &'a Marks,
    stack: usize,
    /// Tasks that were spawned and have not begun. Only a hint for when to give work away.
    waiting: AtomicUsize,
    workers: usize,
    /// Something was dropped. Read when all workers are through.
    dropped: AtomicBool,
    marked: AtomicU64,
    bytes: AtomicU64,
}

/// Marks the blocks in or at the start of which `roots` lie (0: none), and all
/// that they lead to in any of `pictures`. Runs on rayon's current thread pool.
///
/// Pictures show home offset 0 first; pointers in them count from the first
/// one's home address.
pub(crate) fn mark(roots: &[u64], pictures: &[View<'_>], marks: &Marks) -> MarkReport {
    mark_within(STACK, roots, pictures, marks)
}

fn mark_within(stack: usize, roots: &[u64], pictures: &[View<'_>], marks: &Marks) -> MarkReport {
    let start = Instant::now();
    let bytes: Vec<&[u8]> = pictures.iter().map(|view| view.bytes).collect();
    let home_base = pictures.first().map_or(0, |view| view.home_base);
    let shared = Shared {
        home_base,
        pictures: &bytes,
        limit: bytes
            .iter()
            .map(|bytes| bytes.len() as u64)
            .max()
            .unwrap_or(0),
        marks,
        stack,
        waiting: AtomicUsize::new(1),
        workers: tasks::current_num_threads(),
        dropped: AtomicBool::new(false),
        marked: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    };
    let offsets = roots.iter().map(|root| root.wrapping_sub(home_base));
    let first = offsets.map(|offset| Piece { offset, end: 0 }).collect();
    tasks::scope(|scope| work(&shared, scope, first));
    while shared.dropped.swap(false, Relaxed) {
        shared.waiting.fetch_add(1, Relaxed);
        tasks::scope(|scope| again(&shared, scope));
    }
    MarkReport {
        // The scopes' ends order the workers' additions before these loads.
        blocks: shared.marked.load(Relaxed),
        bytes: shared.bytes.load(Relaxed),
        took: start.elapsed(),
    }
}

/// Visits `stack` and what it leads to.
fn work<'s>(shared: &'s Shared<'s>, scope: &Scope<'s>, stack: Vec<Piece>) {
    let mut worker = Worker::start(shared, stack);
    worker.run(scope);
    worker.end();
}

/// Visits all blocks marked so far once more, and what they lead to.
fn again<'s>(shared: &'s Shared<'s>, scope: &Scope<'s>) {
    let mut worker = Worker::start(shared, Vec::new());
    for (extent, size, words) in shared.marks.each() {
        let first = extent.unit * crate::layout::UNIT;
        for (at, (mut word, _)) in words.enumerate() {
            while word != 0 {
                let index = at as u64 * 64 + u64::from(word.trailing_zeros());
                word &= word - 1;
                worker.scan(first + index * size, first + (index + 1) * size);
                worker.run(scope);
            }
        }
    }
    worker.end();
}

struct Worker<'s> {
    shared: &'s Shared<'s>,
    stack: Vec<Piece>,
    marked: u64,
    bytes: u64,
}

impl<'s> Worker<'s> {
    fn start(shared: &'s Shared<'s>, stack: Vec<Piece>) -> Self {
        shared.waiting.fetch_sub(1, Relaxed);
        Worker {
            shared,
            stack,
            marked: 0,
            bytes: 0,
        }
    }

    fn end(self) {
        self.shared.marked.fetch_add(self.marked, Relaxed);
        self.shared.bytes.fetch_add(self.bytes, Relaxed);
    }

    fn run(&mut self, scope: &Scope<'s>) {
        let mut queue = [Piece::default(); QUEUE];
        let (mut head, mut len) = (0, 0);
        let mut period = 0;
        loop {
            while len < QUEUE
                && let Some(piece) = self.stack.pop()
            {
                self.prefetch(piece.offset);
                queue[(head + len) % QUEUE] = piece;
                len += 1;
            }
            if len == 0 {
                return;
            }
            let piece = queue[head];
            (head, len) = ((head + 1) % QUEUE, len - 1);
            self.visit(piece);
            period += 1;
            if period >= PERIOD {
                period = 0;
                self.give(scope);
            }
        }
    }

    /// Gives work away if somebody may want it.
    fn give(&mut self, scope: &Scope<'s>) {
        let shared = self.shared;
        if self.stack.len() < 2 || shared.waiting.load(Relaxed) >= shared.workers {
            return;
        }
        let rest = self.stack.split_off(self.stack.len() / 2);
        let older = std::mem::replace(&mut self.stack, rest);
        shared.waiting.fetch_add(1, Relaxed);
        scope.spawn(move |scope| work(shared, scope, older));
    }

    #[inline]
    fn prefetch(&self, offset: u64) {
        for picture in self.shared.pictures {
            prefetch(picture.as_ptr().wrapping_add(offset as usize));
        }
    }

    #[inline]
    fn visit(&mut self, Piece { offset, end }: Piece) {
        if end != 0 {
            return self.scan(offset, end);
        }
        let marks = self.shared.marks;
        if let Some(block) = marks.around(offset)
            && let (word, bit) = block.place()
            && marks.mark(word, bit)
        {
            self.marked += 1;
            self.bytes += block.size;
            self.scan(block.start, block.start + block.size);
        }
    }

    /// Looks for addresses in the bytes `from..to` of a marked block, in at most
    /// a chunk of them now.
    fn scan(&mut self, from: u64, mut to: u64) {
        while to - from > CHUNK {
            // Whole chunks, but for the last piece.
            let middle = from + ((to - from) / 2).next_multiple_of(CHUNK);
            self.push(Piece {
                offset: middle,
                end: to,
            });
            to = middle;
        }
        let shared = self.shared;
        for picture in shared.pictures {
            // Blocks lie in the home; a picture may be older and shorter.
            let to = to.min(picture.len() as u64);
            let Some(bytes) = picture.get(from as usize..to as usize) else {
                continue;
            };
            for word in bytes.as_chunks::<8>().0 {
                let offset = u64::from_le_bytes(*word).wrapping_sub(shared.home_base);
                if offset < shared.limit {
                    self.push(Piece { offset, end: 0 });
                }
            }
        }
    }

    #[inline]
    fn push(&mut self, piece: Piece) {
        if self.stack.len() < self.shared.stack {
            self.stack.push(piece);
        } else {
            self.shared.dropped.store(true, Relaxed);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::class;
    use crate::layout::{TableEntry, UNIT};
    use crate::table::Extent;
    use bartender_pm::medium::sim::Rng;
    use std::collections::{BTreeMap, BTreeSet};

    const BASE: u64 = 0x2000_0000_0000;
    const END: u64 = 96;

    /// Superblocks of a few classes and a large run, with gaps between them.
    fn extents() -> Vec<Extent> {
        let classed = |unit, birth, size| {
            let class = class::of(size, 8).expect("a class");
            let entry = TableEntry {
                birth,
                units: class::TABLE[class].units,
                class: class as u16,
                flags: 0,
            };
            Extent { unit, entry }
        };
        let large = TableEntry {
            birth: 4,
            units: 5,
            class: TableEntry::LARGE,
            flags: 0,
        };
        vec![
            classed(2, 1, 48),
            classed(10, 2, 8 << 10),
            classed(20, 3, 160),
            Extent {
                unit: 30,
                entry: large,
            },
        ]
    }

    /// Start → size of every block.
    fn blocks() -> BTreeMap<u64, u64> {
        let marks = Marks::new(extents(), END);
        let mut blocks = BTreeMap::new();
        for offset in (0..END * UNIT).step_by(8) {
            if let Ok(block) = marks.locate(offset) {
                blocks.insert(offset, block.size);
            }
        }
        blocks
    }

    /// A home in which blocks hold addresses of anything and numbers.
    fn home(seed: u64, links: u64) -> Vec<u8> {
        let blocks: Vec<(u64, u64)> = blocks().into_iter().collect();
        let mut home = vec![0u8; (END * UNIT) as usize];
        let mut rng = Rng(seed);
        for _ in 0..links {
            let (at, size) = blocks[rng.below(blocks.len() as u64) as usize];
            let to = match rng.below(8) {
                0 => BASE + rng.below(END * UNIT + 4096),
                1 => rng.draw(),
                _ => {
                    let (to, size) = blocks[rng.below(blocks.len() as u64) as usize];
                    // Its end among them, which is the next one's start.
                    BASE + to + rng.below(size + 1)
                }
            };
            let at = (at + rng.below(size / 8) * 8) as usize;
            home[at..at + 8].copy_from_slice(&to.to_le_bytes());
        }
        home
    }

    /// The same by a plain search: starts of the live blocks.
    fn naive(root: u64, pictures: &[&[u8]]) -> BTreeSet<u64> {
        let blocks = blocks();
        let mut live = BTreeSet::new();
        let mut queue = vec![root];
        while let Some(offset) = queue.pop().map(|address| address.wrapping_sub(BASE)) {
            let before = blocks.range(..=offset).next_back();
            let Some((&start, &size)) = before.filter(|(start, size)| offset < *start + *size)
            else {
                continue;
            };
            if live.insert(start) {
                for picture in pictures {
                    for word in picture[start as usize..(start + size) as usize].chunks(8) {
                        queue.push(u64::from_le_bytes(word.try_into().expect("8 bytes")));
                    }
                }
            }
        }
        live
    }

    fn marked(marks: &Marks) -> BTreeSet<u64> {
        let mut live = BTreeSet::new();
        for (extent, size, words) in marks.each() {
            for (at, (word, _)) in words.enumerate() {
                let bits = (0..64u64).filter(|bit| word >> bit & 1 == 1);
                live.extend(bits.map(|bit| extent.unit * UNIT + (at as u64 * 64 + bit) * size));
            }
        }
        live
    }

    fn compare(stack: usize, root: u64, pictures: &[&[u8]]) {
        let views: Vec<View<'_>> = pictures
            .iter()
            .map(|bytes| View {
                home_base: BASE,
                other_base: BASE,
                bytes,
            })
            .collect();
        let marks = Marks::new(extents(), END);
        let report = mark_within(stack, &[root], &views, &marks);
        let expected = naive(root, pictures);
        assert_eq!(marked(&marks), expected);
        assert_eq!(report.blocks, expected.len() as u64);
        let blocks = blocks();
        let bytes: u64 = expected.iter().map(|start| blocks[start]).sum();
        assert_eq!(report.bytes, bytes);
    }

    #[test]
    #[cfg_attr(miri, ignore = "safe code, many steps")]
    fn what_a_plain_search_finds_is_marked_and_nothing_else() {
        let all: Vec<u64> = blocks().into_keys().collect();
        for seed in 0..40 {
            let home = home(seed, 200 << (seed % 8));
            let root = BASE + all[Rng(seed).below(all.len() as u64) as usize] + seed % 8;
            compare(STACK, root, &[&home]);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "safe code, many steps")]
    fn a_stack_that_is_too_short_costs_rounds_and_no_block() {
        let all: Vec<u64> = blocks().into_keys().collect();
        for seed in 0..20 {
            let home = home(seed, 12_000);
            let root = BASE + all[seed as usize];
            for stack in [200, 300, 1000] {
                compare(stack, root, &[&home]);
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "safe code, many steps")]
    fn a_block_lives_if_any_mixture_of_two_pictures_leads_to_it() {
        for seed in 0..20 {
            let (one, other) = (home(seed, 900), home(seed + 1000, 900));
            // Older, and the home was shorter.
            let other = &other[..other.len() - (seed % 3) as usize * UNIT as usize];
            let mut padded = other.to_vec();
            padded.resize(one.len(), 0);
            let views = [&one[..], &padded];
            compare(STACK, BASE + 2 * UNIT, &views);
        }
    }

    #[test]
    fn the_end_of_a_block_is_not_inside_of_it_and_no_root_is_nothing() {
        let home = vec![0; (END * UNIT) as usize];
        let view = View {
            home_base: BASE,
            other_base: BASE,
            bytes: &home,
        };
        let run_end = BASE + 35 * UNIT;
        for (root, blocks) in [(run_end - 1, 1), (run_end, 0), (0, 0), (u64::MAX, 0)] {
            let marks = Marks::new(extents(), END);
            assert_eq!(mark(&[root], &[view], &marks).blocks, blocks, "{root:#x}");
        }
    }
}

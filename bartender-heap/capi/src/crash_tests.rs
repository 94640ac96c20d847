//! Crash exploration of what C does: a list that is pushed, popped and changed
//! by single ranges, by several at once, and by transactions that commit or
//! abort. Whatever image a crash leaves, the list is as after the last call
//! that was answered, or the one that was not; its blocks are allocated; and
//! what is allocated then lies elsewhere.

#![allow(unsafe_code)]

use crate::core::{Core, Range};
use crate::transaction::bt_tx;
use bartender_pm::medium::sim::{Bound, Image, Rng, SimKind, SimMedium, SimMemory};
use bartender_pm::{Options, mutant};
use std::ptr::NonNull;
use std::sync::Arc;

const MAX_SIZE: u64 = 8 << 20;

fn options() -> Options {
    let mut options = crate::core::options(MAX_SIZE);
    options.log_size(512 << 10).lanes(2).background(false);
    options
}

/// What the root leads to.
#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    first: u64,
    count: u64,
}

/// A link; the rest of its block is filled with the low byte of `value`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Node {
    next: u64,
    value: u64,
    size: u64,
}

const NODE: usize = size_of::<Node>();

fn at<T>(address: u64) -> NonNull<T> {
    NonNull::new(std::ptr::with_exposed_provenance_mut(address as usize)).expect("not null")
}

fn get<T: Copy>(address: u64) -> T {
    // SAFETY: tests read where they stored.
    unsafe { at::<T>(address).read() }
}

fn put<T>(address: u64, value: T) {
    // SAFETY: tests store inside of their blocks.
    unsafe { at::<T>(address).write(value) }
}

fn range(address: u64, len: usize) -> Range {
    let start = at(address);
    Range { start, len }
}

/// The program.
struct Program<'c> {
    core: &'c Core,
    head: u64,
}

impl<'c> Program<'c> {
    fn start(core: &'c Core) -> Program<'c> {
        let found = core.root_get(b"list").expect("a sound table");
        let head = match found.is_null() {
            false => found.addr() as u64,
            true => {
                let head = block(core, size_of::<Head>());
                put(head, Head { first: 0, count: 0 });
                persist(core, &[range(head, size_of::<Head>())]);
                core.root_set(b"list", Some(at(head))).expect("room");
                head
            }
        };
        Program { core, head }
    }

    fn head(&self) -> Head {
        get(self.head)
    }

    fn node(&self, size: usize, value: u64) -> u64 {
        let node = block(self.core, size);
        self.fill(node, size, value);
        node
    }

    fn fill(&self, node: u64, size: usize, value: u64) {
        // SAFETY: a block of that many bytes.
        unsafe { at::<u8>(node).write_bytes(value as u8, size) };
        let next = self.head().first;
        let size = size as u64;
        put(node, Node { next, value, size });
    }

    /// The node first, then the link.
    fn push_twice(&self, size: usize, value: u64) {
        let node = self.node(size, value);
        persist(self.core, &[range(node, size)]);
        self.link(node);
        persist(self.core, &[self.head_range()]);
    }

    /// Both at once.
    fn push_at_once(&self, size: usize, value: u64) {
        let node = self.node(size, value);
        self.link(node);
        // The link first, where they are torn apart.
        persist(self.core, &[self.head_range(), range(node, size)]);
    }

    fn link(&self, first: u64) {
        let count = self.head().count + 1;
        put(self.head, Head { first, count });
    }

    fn head_range(&self) -> Range {
        range(self.head, size_of::<Head>())
    }

    fn pop(&self) {
        let Head { first, count } = self.head();
        let next = get::<Node>(first).next;
        let count = count - 1;
        put(self.head, Head { first: next, count });
        persist(self.core, &[self.head_range()]);
        free(self.core, first);
    }

    /// Takes the first node off and puts another on, in a transaction; blocks
    /// come and go beside it.
    fn replace(&self, size: usize, value: u64) {
        let mut tx = bt_tx::begin(self.core);
        let old = self.head().first;
        // SAFETY: one thread.
        unsafe { tx.add(self.head_range()) };
        put(self.head + 8, self.head().count);
        let length = get::<Node>(old).size as usize;
        tx.free(at(old)).expect("a block");
        let node = tx.alloc(size - size / 8).expect("room");
        // SAFETY: one thread.
        let node = unsafe { tx.realloc(node, size) }.expect("room");
        let node = node.addr().get() as u64;
        self.fill(node, size, value);
        put(node, get::<Node>(old).next);
        put(self.head, node);
        let beside = block(self.core, length);
        // SAFETY: a block of that many bytes.
        unsafe { at::<u8>(beside).write_bytes(0xee, length) };
        persist(self.core, &[range(beside, length)]);
        // SAFETY: one thread.
        unsafe { tx.commit() }.expect("room in the log");
        free(self.core, beside);
    }

    /// The first node gets longer and another value, in a transaction.
    fn lengthen(&self, value: u64) {
        let mut tx = bt_tx::begin(self.core);
        let old = self.head().first;
        let Node { next, size, .. } = get(old);
        let size = size as usize * 3 / 2;
        // SAFETY: one thread.
        let node = unsafe {
            tx.add(self.head_range());
            tx.realloc(at(old), size).expect("room")
        };
        let node = node.addr().get() as u64;
        if node == old {
            // SAFETY: one thread.
            unsafe { tx.add(range(node, size)) };
        }
        self.fill(node, size, value);
        put(node, next);
        put(self.head, node);
        // SAFETY: one thread.
        unsafe { tx.commit() }.expect("room in the log");
    }

    /// A replacement, given up; what it had changed becomes durable as it is then.
    fn give_up(&self, size: usize) {
        let mut tx = bt_tx::begin(self.core);
        // SAFETY: one thread.
        unsafe { tx.add(self.head_range()) };
        let node = tx.alloc(size).expect("room").addr().get() as u64;
        self.fill(node, size, 13);
        self.link(node);
        // SAFETY: one thread.
        unsafe { tx.add(range(self.head, 8)) };
        put(self.head, 99u64);
        // SAFETY: one thread.
        unsafe { tx.abort() };
        persist(self.core, &[self.head_range()]);
    }

    /// The values in order, after looking at every byte.
    fn values(&self) -> Result<Vec<u64>, String> {
        let head = self.head();
        let mut values = Vec::new();
        let mut next = head.first;
        while next != 0 {
            let size = self
                .core
                .heap
                .block_of(at(next))
                .map_err(|e| e.to_string())?;
            let node: Node = get(next);
            if size.0.addr().get() as u64 != next || (size.1 as u64) < node.size {
                return Err(format!(
                    "node {next:#x} of {} bytes lies in {size:?}",
                    node.size
                ));
            }
            if node.size < NODE as u64 {
                return Err(format!("node {next:#x} has {} bytes", node.size));
            }
            // SAFETY: inside of the block, which nobody changes now.
            let rest = unsafe {
                let start = at::<u8>(next + NODE as u64);
                std::slice::from_raw_parts(start.as_ptr(), node.size as usize - NODE)
            };
            if rest.iter().any(|byte| *byte != node.value as u8) {
                return Err(format!("node {next:#x} of value {} is torn", node.value));
            }
            values.push(node.value);
            next = node.next;
            if values.len() as u64 > head.count {
                break;
            }
        }
        match values.len() as u64 == head.count {
            true => Ok(values),
            false => Err(format!("{} of {} nodes", values.len(), head.count)),
        }
    }
}

fn block(core: &Core, size: usize) -> u64 {
    let block = core.alloc(size, 1).expect("room");
    block.as_ptr().expose_provenance() as u64
}

fn persist(core: &Core, ranges: &[Range]) {
    // SAFETY: one thread.
    unsafe { core.persist(ranges) }.expect("room in the log");
}

fn free(core: &Core, block: u64) {
    // SAFETY: nothing leads to it.
    unsafe { core.free(at(block)) }.expect("a block");
}

const SIZES: [usize; 6] = [32, 40, 100, 700, 9000, 70_000];

/// Runs the program and explores its crashes; how many images there were.
fn explore(kind: SimKind, steps: u64, seed: u64) -> Result<u64, String> {
    let memory = SimMemory::new(MAX_SIZE);
    let sim = SimMedium::new(kind, Image::default(), &memory);
    let core = Core::open(options().open_on(sim.clone()).expect("creates")).expect("formats");
    let program = Program::start(&core);
    let mut states = vec![Vec::new()];
    sim.note(0);
    let mut rng = Rng(seed);
    for step in 1..=steps {
        let mut state = states[states.len() - 1].clone();
        let size = SIZES[rng.below(SIZES.len() as u64) as usize];
        match rng.below(7) {
            _ if state.is_empty() => {
                program.push_at_once(size, step);
                state.insert(0, step);
            }
            0 => {
                program.push_twice(size, step);
                state.insert(0, step);
            }
            1 | 2 => {
                program.push_at_once(size, step);
                state.insert(0, step);
            }
            3 => {
                program.pop();
                state.remove(0);
            }
            4 => {
                program.replace(size, step);
                state[0] = step;
            }
            5 if get::<Node>(program.head().first).size < 120_000 => {
                program.lengthen(step);
                state[0] = step;
            }
            _ => program.give_up(size),
        }
        if program.values()? != state {
            return Err(format!("after step {step}: not {state:?}"));
        }
        states.push(state);
        sim.note(step);
        if step % 7 == 0 {
            core.heap.region().checkpoint().expect("no I/O error");
        }
    }
    let name = format!("root {}", "x".repeat(20));
    for i in 0..20 {
        let name = format!("{name}{i}");
        core.root_set(name.as_bytes(), Some(at(program.head)))
            .expect("room");
    }
    let trace = sim.trace();
    drop(core);
    drop(sim);
    let bound = Bound {
        images_per_point: 12,
        points: 250,
        seed,
    };
    trace.explore(bound, |crash| {
        let Some(answered) = crash.notes.last() else {
            return Ok(());
        };
        let allowed = &states[*answered as usize..states.len().min(*answered as usize + 2)];
        go_on(kind, &memory, crash.image, allowed)
    })
}

/// Recovers twice: the list is one of `allowed`, and stays so when more is
/// allocated, stored and made durable.
fn go_on(
    kind: SimKind,
    memory: &Arc<SimMemory>,
    image: Image,
    allowed: &[Vec<u64>],
) -> Result<(), String> {
    let sim = SimMedium::new(kind, image, memory);
    sim.stop_recording();
    let open = || {
        let region = options().open_on(sim.clone()).map_err(|e| e.to_string())?;
        Core::open(region).map_err(|e| e.message)
    };
    let core = open()?;
    let program = Program::start(&core);
    let found = program.values()?;
    if !allowed.contains(&found) {
        return Err(format!("{found:?} instead of one of {allowed:?}"));
    }
    core.heap.check().map_err(|e| e.to_string())?;
    for size in SIZES {
        for _ in 0..3 {
            let block = block(&core, size);
            // SAFETY: a block of that many bytes.
            unsafe { at::<u8>(block).write_bytes(0xdd, size) };
            persist(&core, &[range(block, size)]);
        }
    }
    program.push_at_once(64, 77);
    let mut state = found;
    state.insert(0, 77);
    if program.values()? != state {
        return Err("what was allocated after the crash lies over the list".into());
    }
    let image = sim.image();
    drop(core);
    drop(sim);
    let sim = SimMedium::new(kind, image, memory);
    sim.stop_recording();
    let core =
        Core::open(options().open_on(sim).map_err(|e| e.to_string())?).map_err(|e| e.message)?;
    match Program::start(&core).values()? == state {
        true => Ok(()),
        false => Err("the second recovery found another list".into()),
    }
}

#[test]
fn a_crash_leaves_the_list_as_after_one_call_or_the_other() {
    for kind in [SimKind::Dax, SimKind::Disk] {
        for seed in 1..=3 {
            let images = explore(kind, 40, seed).expect("crash-safe");
            assert!(images > 300, "{images}");
        }
    }
}

/// A rule that is switched off while the program runs has to be noticed.
fn noticed(rule: &'static str, kind: SimKind) {
    if mutant::ON {
        let found = mutant::with(rule, || {
            (1..4).find_map(|seed| explore(kind, 40, seed).err())
        });
        let found = found.unwrap_or_else(|| panic!("nobody noticed `{rule}`"));
        println!("{rule}: {found}");
    }
}

#[test]
fn mutant_records_without_entries_are_noticed() {
    noticed("no_entries", SimKind::Disk);
}

#[test]
fn mutant_a_persistv_in_pieces_is_noticed() {
    noticed("persistv_by_ranges", SimKind::Dax);
}

#[test]
fn mutant_blocks_that_grow_without_an_entry_are_noticed() {
    noticed("grow_without_entry", SimKind::Dax);
}

#[test]
fn mutant_frees_before_the_commit_are_noticed() {
    noticed("tx_frees_at_once", SimKind::Disk);
}

#[test]
fn mutant_an_abort_that_restores_nothing_is_noticed() {
    noticed("tx_abort_keeps", SimKind::Dax);
}

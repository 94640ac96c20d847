//! A heap without types from outside: what is live is found by looking at each
//! word, and neither a typed program nor a move gets hold of it.

use bartender_heap::layout::NamedRoot;
use bartender_heap::{Error, Heap, Kind, Pending, Schema, Type, open_region};
use bartender_pm::{Durability, Options, Record, Region, mutant};
use std::alloc::Layout;
use std::path::Path;
use std::ptr::NonNull;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;

fn options() -> Options {
    let mut options = Options::new();
    options.max_size(256 << 20).log_size(1 << 20);
    options
}

fn open(path: &Path) -> Heap {
    Heap::open_untyped(options().open(path).expect("opens")).expect("opens")
}

fn typed() -> Schema {
    Schema::of(|b| {
        let signed = false;
        let nonzero = false;
        b.define::<u64>(|_| Type::of::<u64>("u64", Kind::Int { signed, nonzero }))
    })
    .expect("a sound description")
}

/// Stores and commits words; entries travel along.
struct Program {
    heap: Heap,
    pending: Pending,
}

impl Program {
    fn open(path: &Path) -> Program {
        Program {
            heap: open(path),
            pending: Pending::new(),
        }
    }

    fn alloc(&self, size: usize, align: usize) -> NonNull<u8> {
        let layout = Layout::from_size_align(size, align).expect("a layout");
        let block = self.heap.alloc(layout).expect("room");
        if let Some(entry) = block.entry {
            self.pending.push(entry);
            self.heap.entry_durable(&entry);
        }
        block.ptr
    }

    fn store(&self, at: NonNull<u8>, words: &[u64]) {
        // SAFETY: tests store inside of blocks that they allocated, or of the root slot.
        unsafe {
            words
                .as_ptr()
                .copy_to_nonoverlapping(at.cast().as_ptr(), words.len())
        };
    }

    fn persist(&self, at: NonNull<u8>, len: usize) {
        let region = self.heap.region();
        let mut record = Record::new();
        // SAFETY: as in `store`; one thread.
        let bytes = unsafe { std::slice::from_raw_parts(at.as_ptr(), len) };
        record.change((at.addr().get() - region.base().addr()) as u64, bytes);
        let mut writer = region.writer().expect("open");
        let (ticket, carried) = self.pending.append(|entries| {
            for entry in entries {
                record.change(entry.offset, &entry.bytes);
            }
            writer.append(&mut record, Durability::Immediate)
        });
        let ticket = ticket.expect("room in the log");
        drop(writer);
        region.wait_durable(ticket.seq).expect("no I/O error");
        self.pending.durable(carried);
    }

    /// A root table with one name, `cell` bytes into `block`.
    fn root(&self, block: NonNull<u8>, into: usize) {
        let table = self.alloc(64, 8);
        let address = (block.addr().get() + into) as u64;
        let root = NamedRoot::new(b"a", address).expect("a name");
        // SAFETY: a block of 64 bytes.
        unsafe { table.cast::<[u8; 64]>().write(root.to_bytes()) };
        self.persist(table, 64);
        let base = NonNull::new(self.heap.region().base()).expect("mapped");
        // SAFETY: the slot lies in the home.
        let slot = unsafe { base.add(self.heap.root_slot() as usize) };
        self.store(slot, &[table.addr().get() as u64]);
        self.persist(slot, 8);
    }
}

fn address(block: NonNull<u8>) -> u64 {
    block.addr().get() as u64
}

/// A root → 3 blocks by a start, an interior address and the last byte → one
/// more behind one of them; to the fifth leads a number that is no address.
fn graph(program: &Program) -> NonNull<u8> {
    let root = program.alloc(64, 8);
    let [one, two, three, four, five] = [100, 5000, 300_000, 24, 48].map(|n| program.alloc(n, 8));
    for (block, size) in [
        (one, 100),
        (two, 5000),
        (three, 300_000),
        (four, 24),
        (five, 48),
    ] {
        // SAFETY: blocks of these sizes.
        unsafe { block.write_bytes(0, size) };
        program.persist(block, size);
    }
    program.store(three, &[1, 2, 3, address(four) + 8]);
    program.persist(three, 32);
    let last = program.heap.usable_size(two).expect("a block") as u64 - 1;
    let words = [
        7,
        address(one),
        address(two) + last,
        address(three) + 123_457,
        !address(five),
    ];
    program.store(root, &words);
    program.persist(root, 40);
    program.root(root, 17);
    root
}

#[test]
fn after_a_crash_exactly_what_words_lead_to_is_live() {
    let place = places::place();
    let path = place.region();
    let program = Program::open(path);
    graph(&program);
    for _ in 0..1000 {
        program.alloc(40, 8);
    }
    drop(program);
    // An open in between makes what the clean close saved stale.
    drop(options().open(path).expect("opens"));
    let heap = open(path);
    assert!(heap.report().marked);
    // Table, root, four of five.
    assert_eq!((heap.report().blocks, heap.stats().live_blocks), (6, 6));
    assert_eq!(heap.check().expect("sound").blocks, 6);
    // SAFETY: one thread.
    let roots = unsafe { heap.named_roots() }.expect("a table");
    assert_eq!((roots.len(), roots[0].name()), (1, &b"a"[..]));
}

#[test]
fn a_collection_takes_what_nothing_leads_to() {
    let place = places::place();
    let program = Program::open(place.region());
    graph(&program);
    for size in [40, 9000, 200_000] {
        program.alloc(size, 8);
    }
    assert_eq!(program.heap.stats().live_blocks, 10);
    // SAFETY: one thread, and no block is used any more.
    let report = unsafe { program.heap.collect() }.expect("no I/O error");
    assert_eq!((report.blocks, report.live_blocks), (4, 6));
    assert_eq!(program.heap.stats().live_blocks, 6);
    // SAFETY: as above.
    let again = unsafe { program.heap.collect() }.expect("no I/O error");
    assert_eq!((again.blocks, again.live_blocks), (0, 6));
}

/// Blocks that are left when a link was taken out and that is not durable.
fn left_without_persisting() -> u64 {
    let place = places::folder();
    let program = Program::open(&place.path().join("region"));
    let root = graph(&program);
    program.store(root, &[0; 5]);
    // SAFETY: one thread.
    unsafe { program.heap.collect() }.expect("no I/O error");
    program.heap.stats().live_blocks
}

#[test]
fn a_link_taken_out_and_not_made_durable_still_keeps_its_block() {
    assert_eq!(left_without_persisting(), 6);
}

#[test]
fn a_collection_that_looks_at_the_view_only_is_noticed() {
    if mutant::ON {
        let left = mutant::with("collect_by_view", left_without_persisting);
        assert_eq!(left, 2);
    }
}

#[test]
fn typed_data_are_refused_and_say_which() {
    let place = places::place();
    let path = place.region();
    drop(Heap::create(options().open(path).expect("creates"), &typed()).expect("formats"));
    let error = Heap::open_untyped(options().open(path).expect("opens")).expect_err("typed");
    assert!(error.to_string().contains("its root is `u64`"), "{error}");
}

#[test]
fn a_typed_program_sees_that_the_data_are_untyped() {
    let differences = Schema::untyped().diff(&typed());
    assert_eq!(
        differences,
        ["root: the untyped data of a C program → u64; only the C interface opens it"]
    );
    assert!(Schema::untyped().diff(&Schema::untyped()).is_empty());
    let bytes = Schema::untyped().encode();
    let decoded = Schema::decode(&bytes).expect("its own bytes");
    assert!(decoded.is_untyped() && !typed().is_untyped());
}

#[test]
fn untyped_data_are_not_moved() {
    let folder = places::folder();
    let (path, copy) = (folder.path().join("region"), folder.path().join("copy"));
    drop(Program::open(&path));
    std::fs::copy(&path, &copy).expect("room on the disk");
    let _open: Region = options().open(&path).expect("opens");
    let error = open_region(&options(), &copy).expect_err("the address is taken");
    assert!(matches!(error, Error::Immovable), "{error}");
}

#[test]
fn alignments_up_to_two_mebibytes_hold() {
    let place = places::place();
    let program = Program::open(place.region());
    for shift in 0..=21 {
        for size in [1, 100, 5000, 70_000, 3 << 20] {
            let block = program.alloc(size, 1 << shift);
            assert_eq!(block.addr().get() % (1 << shift), 0, "{size} at 2^{shift}");
            assert!(program.heap.usable_size(block).expect("a block") >= size);
            // SAFETY: nobody uses it.
            unsafe { program.heap.free(block) }.expect("a block");
        }
    }
    assert_eq!(program.heap.stats().live_blocks, 0);
}

#[test]
fn a_block_is_found_around_any_of_its_addresses() {
    let place = places::place();
    let program = Program::open(place.region());
    for size in [1, 24, 1000, 60_000, 300_000] {
        let block = program.alloc(size, 8);
        let usable = program.heap.usable_size(block).expect("a block");
        for at in [0, 1, usable / 2, usable - 1] {
            // SAFETY: inside of the block.
            let found = program.heap.block_of(unsafe { block.add(at) });
            assert_eq!(found.expect("a block"), (block, usable));
        }
        // SAFETY: nobody uses it.
        unsafe { program.heap.free(block) }.expect("a block");
        assert!(matches!(
            program.heap.block_of(block),
            Err(Error::NotABlock { .. })
        ));
    }
}

/// Looking at words, opening takes a block that died for a live one; where the
/// space under it was given back, it comes again.
#[test]
fn what_comes_to_life_again_has_its_space() {
    use std::os::unix::fs::MetadataExt;
    const SIZE: usize = 8 << 20;
    let folder = places::folder();
    let path = folder.path().join("a.region");
    let program = Program::open(&path);
    let block = program.alloc(SIZE, 8);
    program.root(block, 0);
    // SAFETY: nobody uses it; the root still leads there, which is the point.
    unsafe { program.heap.free(block) }.expect("a block");
    let gone = program.heap.purge().expect("no I/O error");
    if gone < SIZE as u64 {
        return; // a file system without holes
    }
    let on_disk = || path.metadata().expect("a file").blocks() * 512;
    let low = on_disk();
    drop(program);
    // What was saved is stale: the next open marks.
    drop(options().open(&path).expect("opens"));
    let heap = open(&path);
    assert!(heap.report().marked && heap.report().bytes > SIZE as u64);
    assert!(on_disk() >= low + SIZE as u64);
}

//! Golden counts: what each operation costs in barriers, written-back lines, bytes of log and system calls, exactly, on
//! each medium. They are the performance test that does not flicker: if one of them changes, a cost has.
//!
//! Each operation is measured warm: the thread has its superblocks, their table entries are durable, and collections
//! have room, unless the row says otherwise.

#![cfg(not(loom))]
// A closure that does one thing is one line.
#![allow(clippy::unit_arg)]

use bartender::{
    Error, Heap, Mut, PAtomicU64, PBox, PHashMap, PMutex, PRcu, PRwLock, PShared, PString, PVec,
    PVecDeque, Persist, Result,
};
use bartender_heap::types::Schema;
use bartender_pm::Counts;
use std::alloc::Layout;
use std::path::Path;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;
use places::Place;

#[derive(Persist, Default)]
#[repr(C)]
struct Root {
    word: PRwLock<u64>,
    words: PMutex<[u64; 32]>,
    boxed: PMutex<Option<PBox<u64>>>,
    list: PMutex<PVec<u64>>,
    grown: PMutex<PVec<u64>>,
    text: PMutex<PString>,
    map: PMutex<PHashMap<u64, u64>>,
    roomy: PMutex<PHashMap<u64, u64>>,
    large: PMutex<PVec<u64>>,
    elsewhere: PMutex<PVec<u64>>,
    deque: PMutex<PVecDeque<u64>>,
    hits: PAtomicU64,
    version: PRcu<[u64; 4]>,
    owners: PMutex<PVec<PShared<u64>>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Medium {
    Shared,
    Flushed,
    File,
    /// A file on a file system with DAX.
    Dax,
    Device,
}

impl Medium {
    fn flushes(self) -> bool {
        !matches!(self, Medium::Shared | Medium::File)
    }
}

/// What an operation cost.
type Rows = Vec<(&'static str, Counts)>;

fn row<A>(rows: &mut Rows, name: &'static str, f: impl FnOnce() -> Result<A>) {
    let (result, counts) = Counts::of(f);
    result.unwrap_or_else(|error| panic!("{name}: {error}"));
    rows.push((name, counts));
}

/// Measures on places that `next` makes.
fn measure(mut next: impl FnMut() -> Place, medium: Medium) -> Rows {
    let mut rows = Rows::new();
    blocks(&mut rows, next().region(), medium);
    typed(&mut rows, next().region(), medium);
    life(&mut rows, next().region(), medium);
    rows
}

/// The heap below the transactions.
fn blocks(rows: &mut Rows, path: &Path, medium: Medium) {
    let mut options = bartender_pm::Options::new();
    options.max_size(64 << 20).background(false);
    options.force_flush(medium == Medium::Flushed);
    let schema = Schema::of(u64::describe).unwrap();
    let heap = bartender_heap::Heap::create(options.open(path).unwrap(), &schema).unwrap();
    let small = Layout::new::<[u64; 8]>();
    let large = Layout::new::<[u64; 100_000]>();
    let warm = [large, small].map(|layout| heap.alloc(layout).unwrap().ptr);
    let mut made = Vec::with_capacity(2);
    row(rows, "allocate 64 bytes", || {
        made.push(heap.alloc(small)?.ptr);
        Ok(())
    });
    row(rows, "allocate 800 kB", || {
        made.push(heap.alloc(large)?.ptr);
        Ok(())
    });
    let mut blocks = made.into_iter().chain(warm);
    for name in ["free 64 bytes", "free 800 kB"] {
        let block = blocks.next().unwrap();
        // SAFETY: nobody uses it, and it was never committed.
        row(rows, name, || Ok(unsafe { heap.free(block) }?));
    }
    for block in blocks {
        // SAFETY: as above.
        unsafe { heap.free(block) }.unwrap();
    }
}

fn typed(rows: &mut Rows, path: &Path, medium: Medium) {
    let heap: Heap<Root> = options(medium).open(path).unwrap();
    let root = heap.root();
    let update = |f: &mut dyn FnMut(&Root, &mut bartender::Tx<'_>) -> Result<()>| {
        heap.transaction(|tx| f(root, tx))
    };
    update(&mut |root, tx| {
        tx.lock(&root.boxed)?.set(Some(PBox::new(1)))?;
        tx.lock(&root.list)?.reserve(100)?;
        tx.lock(&root.grown)?.extend(0..4)?;
        let mut text = tx.lock(&root.text)?;
        text.push_str(&"x".repeat(100))?;
        text.truncate(3)?;
        let mut map = tx.lock(&root.map)?;
        map.extend((0..14).map(|n| (n, n)))?;
        tx.lock(&root.roomy)?.reserve(40)?;
        *tx.lock(&root.word)? = 1;
        tx.lock(&root.deque)?.reserve(100)?;
        let mut owners = tx.lock(&root.owners)?;
        owners.reserve(10)?;
        owners.push(PShared::new(7))
    })
    .unwrap();
    row(rows, "read", || Ok(*root.word.read()));
    row(rows, "look up in a map", || {
        Ok(root.map.read().get(&3).copied())
    });
    row(rows, "empty transaction", || update(&mut |_, _| Ok(())));
    row(rows, "transaction that reads", || {
        update(&mut |root, tx| Ok(assert_eq!(*tx.read(&root.word)?, 1)))
    });
    row(rows, "aborted transaction", || {
        let result = update(&mut |root, tx| {
            *tx.lock(&root.word)? = 7;
            tx.lock(&root.boxed)?.set(Some(PBox::new(7)))?;
            Err(Error::abort("on purpose"))
        });
        assert!(result.is_err());
        Ok(())
    });
    row(rows, "change one u64", || {
        update(&mut |root, tx| Ok(*tx.lock(&root.word)? = 2))
    });
    row(rows, "change one u64 twice", || {
        update(&mut |root, tx| {
            let mut word = tx.lock(&root.word)?;
            *word = 2;
            *word = 3;
            Ok(())
        })
    });
    row(rows, "change 32 u64 in a row", || {
        update(&mut |root, tx| Ok(tx.lock(&root.words)?.fill(1)))
    });
    row(rows, "store a PBox", || {
        update(&mut |root, tx| tx.lock(&root.boxed)?.set(Some(PBox::new(2))))
    });
    row(rows, "take a PBox", || {
        update(&mut |root, tx| Ok(drop(Mut::take(&mut tx.lock(&root.boxed)?)?)))
    });
    row(rows, "PVec push", || {
        update(&mut |root, tx| tx.lock(&root.list)?.push(1))
    });
    row(rows, "PVec push of 100, growing", || {
        update(&mut |root, tx| {
            let mut list = tx.lock(&root.grown)?;
            (0..100).try_for_each(|n| list.push(n))
        })
    });
    row(rows, "PVec pop", || {
        update(&mut |root, tx| Ok(assert_eq!(tx.lock(&root.list)?.pop()?, Some(1))))
    });
    row(rows, "PString push_str of 5", || {
        update(&mut |root, tx| tx.lock(&root.text)?.push_str("abcde"))
    });
    row(rows, "PHashMap insert", || {
        update(&mut |root, tx| Ok(assert_eq!(tx.lock(&root.roomy)?.insert(5, 1)?, None)))
    });
    row(rows, "PHashMap change", || {
        update(&mut |root, tx| Ok(*tx.lock(&root.roomy)?.get_mut(&5).unwrap() = 2))
    });
    row(rows, "PHashMap remove", || {
        update(&mut |root, tx| Ok(assert_eq!(tx.lock(&root.roomy)?.remove(&5)?, Some(2))))
    });
    row(rows, "PVecDeque push_front", || {
        update(&mut |root, tx| tx.lock(&root.deque)?.push_front(1))
    });
    row(rows, "PVecDeque pop_back", || {
        update(&mut |root, tx| Ok(assert_eq!(tx.lock(&root.deque)?.pop_back()?, Some(1))))
    });
    row(rows, "PAtomicU64 add", || {
        update(&mut |root, tx| root.hits.add(tx, 1))
    });
    row(rows, "PAtomicU64 load", || {
        Ok(assert_eq!(root.hits.load(), 1))
    });
    row(rows, "PRcu replace", || {
        update(&mut |root, tx| root.version.replace(tx, [1; 4]))
    });
    row(rows, "PRcu read", || {
        Ok(assert_eq!(*root.version.read(), [1; 4]))
    });
    row(rows, "PShared share and attach", || {
        update(&mut |root, tx| {
            let mut owners = tx.lock(&root.owners)?;
            let again = owners[0].share(tx)?;
            owners.push_moved(again)
        })
    });
    // The transaction that ends the value has nothing to log.
    row(rows, "PShared, the last owners go", || {
        update(&mut |root, tx| tx.lock(&root.owners)?.clear())
    });
    row(rows, "store 800 kB", || {
        let large = PVec::from(vec![7; 100_000]);
        let mut large = Some(large);
        update(&mut |root, tx| tx.lock(&root.large)?.set(large.take().unwrap()))
    });
    row(rows, "move 800 kB inside", || {
        update(&mut |root, tx| {
            let moved = Mut::take_moved(&mut tx.lock(&root.large)?)?;
            tx.lock(&root.elsewhere)?.set_moved(moved)
        })
    });
}

/// From the first change to the last close.
fn life(rows: &mut Rows, path: &Path, medium: Medium) {
    let open = || options(medium).open(path);
    let heap: Heap<PRwLock<u64>> = open().unwrap();
    heap.update(|mut word| Ok(*word = 1)).unwrap();
    row(rows, "checkpoint", || heap.checkpoint());
    row(rows, "checkpoint with nothing to do", || heap.checkpoint());
    row(rows, "close", || heap.close());
    let (heap, counts) = Counts::of(|| open().unwrap());
    rows.push(("open after a clean close", counts));
    assert!(heap.report().region.clean && !heap.report().heap.marked);
    row(rows, "close unchanged", || heap.close());
}

fn options<R: Persist>(medium: Medium) -> bartender::Options<R> {
    Heap::options()
        .max_size(64 << 20)
        .log_size(8 << 20)
        // Its costs are its own, but it would take work off this thread now and then.
        .background(false)
        .force_flush(medium == Medium::Flushed)
}

/// Name; barriers, on each medium; lines, where they are flushed; bytes of log; system calls on each medium.
type Golden = (&'static str, u64, u64, u64, [u64; 5]);

#[rustfmt::skip]
const GOLDEN: &[Golden] = &[
    ("allocate 64 bytes",                 0,     0,    0, [0, 0, 0, 0, 0]),
    ("allocate 800 kB",                   0,     0,    0, [0, 0, 0, 0, 0]),
    ("free 64 bytes",                     0,     0,    0, [0, 0, 0, 0, 0]),
    ("free 800 kB",                       0,     0,    0, [0, 0, 0, 0, 0]),
    ("read",                              0,     0,    0, [0, 0, 0, 0, 0]),
    ("look up in a map",                  0,     0,    0, [0, 0, 0, 0, 0]),
    ("empty transaction",                 0,     0,    0, [0, 0, 0, 0, 0]),
    ("transaction that reads",            0,     0,    0, [0, 0, 0, 0, 0]),
    ("aborted transaction",               0,     0,    0, [0, 0, 0, 0, 0]),
    ("change one u64",                    1,     1,   64, [0, 0, 1, 0, 0]),
    ("change one u64 twice",              1,     1,   64, [0, 0, 1, 0, 0]),
    ("change 32 u64 in a row",            1,     5,  320, [0, 0, 1, 0, 0]),
    ("store a PBox",                      1,     1,   64, [0, 0, 1, 0, 0]),
    ("take a PBox",                       1,     1,   64, [0, 0, 1, 0, 0]),
    ("PVec push",                         1,     1,   64, [0, 0, 1, 0, 0]),
    ("PVec push of 100, growing",         1,    16, 1024, [0, 0, 1, 0, 0]),
    ("PVec pop",                          1,     1,   64, [0, 0, 1, 0, 0]),
    ("PString push_str of 5",             1,     1,   64, [0, 0, 1, 0, 0]),
    ("PHashMap insert",                   1,     2,  128, [0, 0, 1, 0, 0]),
    ("PHashMap change",                   1,     1,   64, [0, 0, 1, 0, 0]),
    ("PHashMap remove",                   1,     2,  128, [0, 0, 1, 0, 0]),
    ("PVecDeque push_front",              1,     2,  128, [0, 0, 1, 0, 0]),
    ("PVecDeque pop_back",                1,     1,   64, [0, 0, 1, 0, 0]),
    ("PAtomicU64 add",                    1,     1,   64, [0, 0, 1, 0, 0]),
    ("PAtomicU64 load",                   0,     0,    0, [0, 0, 0, 0, 0]),
    ("PRcu replace",                      1,     2,  128, [0, 0, 1, 0, 0]),
    ("PRcu read",                         0,     0,    0, [0, 0, 0, 0, 0]),
    ("PShared share and attach",          1,     2,  128, [0, 0, 1, 0, 0]),
    ("PShared, the last owners go",       1,     1,   64, [0, 0, 1, 0, 0]),
    ("store 800 kB",                      2, 12546,  128, [1, 0, 3, 0, 0]),
    ("move 800 kB inside",                1,     2,  128, [0, 0, 1, 0, 0]),
    ("checkpoint",                        2,    19,    0, [0, 0, 3, 0, 0]),
    ("checkpoint with nothing to do",     0,     0,    0, [0, 0, 0, 0, 0]),
    ("close",                             5,    35,  128, [1, 1, 7, 1, 1]),
    ("open after a clean close",          1,    11,    0, [9, 9, 11, 10, 6]),
    ("close unchanged",                   5,    35,  128, [1, 1, 7, 1, 1]),
];

fn compare(next: impl FnMut() -> Place, medium: Medium) {
    let rows = measure(next, medium);
    let mut wrong = Vec::new();
    for (i, (name, counts)) in rows.iter().enumerate() {
        let &(golden, barriers, lines, log_bytes, syscalls) =
            GOLDEN.get(i).unwrap_or(&("nothing", 0, 0, 0, [0; 5]));
        let expected = Counts {
            barriers,
            lines: if medium.flushes() { lines } else { 0 },
            log_bytes,
            syscalls: syscalls[medium as usize],
        };
        println!("{name:32} {counts:?}");
        if (golden, expected) != (*name, *counts) {
            wrong.push(format!(
                "{name}: {counts:?} instead of {golden}: {expected:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert_eq!(rows.len(), GOLDEN.len());
}

#[test]
fn costs_in_shared_memory() {
    compare(places::shared_memory, Medium::Shared);
}

#[test]
fn costs_with_the_barrier_of_persistent_memory() {
    compare(places::shared_memory, Medium::Flushed);
}

#[test]
fn costs_on_a_file() {
    compare(places::disk, Medium::File);
}

#[test]
fn costs_on_persistent_memory() {
    if places::dax_file().is_some() {
        compare(|| places::dax_file().expect("as just now"), Medium::Dax);
    }
}

#[test]
fn costs_on_a_device_of_persistent_memory() {
    if places::device().is_some() {
        compare(|| places::device().expect("as just now"), Medium::Device);
    }
}

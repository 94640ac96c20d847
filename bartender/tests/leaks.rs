//! What cannot be moved into the region, or out of it, leaves no ordinary memory behind either.
#![cfg(not(loom))]

use bartender::{
    Error, Heap, Mut, PBox, PHashMap, PMutex, PString, PVec, Persist, ReadGuard, Result,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::mpsc;
use tempfile::TempDir;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;
use places::folder;

/// Counts the bytes that each thread has.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // At a thread's end nobody looks.
    let _ = LIVE.try_with(|live| live.set(live.get() + change));
}

// SAFETY: everything is passed on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn open<R: Persist + Default>(folder: &TempDir) -> Heap<R> {
    let options = Heap::options().max_size(8 << 20).log_size(1 << 20);
    let options = options.background(false);
    options.open(folder.path().join("r")).expect("a region")
}

#[derive(Persist)]
#[repr(C, u8)]
#[allow(dead_code)] // It is only moved.
enum Part {
    Text(PString),
    Parts(PVec<Part>),
    Boxed(PMutex<PBox<Part>>),
    Table(PHashMap<PString, (PVec<u8>, Option<PBox<Part>>)>),
}

/// Something of everything, of which each level is about `bytes` long.
fn parts(depth: u32, bytes: usize) -> Part {
    let text = || PString::from("x".repeat(bytes));
    if depth == 0 {
        return Part::Text(text());
    }
    let below = || parts(depth - 1, bytes);
    let entries = (0..5).map(|i: usize| {
        let key = PString::from(i.to_string());
        (key, (PVec::from(vec![1; bytes]), Some(PBox::new(below()))))
    });
    Part::Parts(
        [
            Part::Text(text()),
            below(),
            Part::Boxed(PMutex::new(PBox::new(below()))),
            Part::Table(entries.collect()),
            Part::Table(PHashMap::new()),
            Part::Text(PString::new()),
            below(),
        ]
        .into_iter()
        .collect(),
    )
}

#[derive(Persist, Default)]
#[repr(C)]
struct Root {
    parts: PMutex<PVec<Part>>,
    map: PMutex<PHashMap<u32, Part>>,
    boxed: PMutex<Option<PBox<Part>>>,
    /// Takes the room away.
    room: PMutex<PVec<u8>>,
}

/// Ordinary bytes that are there after `f` and were not before.
fn left_by(f: impl FnOnce()) -> isize {
    let before = LIVE.get();
    f();
    LIVE.get() - before
}

#[test]
fn an_adoption_that_finds_no_room_gives_everything_back() {
    let folder = folder();
    let heap = open::<Root>(&folder);
    let root = heap.root();
    let fits = |len: usize| {
        let taken: Result<()> = heap.transaction(|tx| {
            tx.lock(&root.room)?.reserve_exact(len)?;
            Err(Error::abort("it fits"))
        });
        matches!(taken, Err(Error::Aborted(_)))
    };
    let lens: Vec<usize> = (0..8 << 20).step_by(4096).collect();
    let largest = lens[lens.partition_point(|&len| fits(len)) - 1];
    let mut failed = 0;
    // More and more room, so that it ends at every depth.
    for room in [0, 100, 1_000, 20_000, 200_000, 500_000, 900_000, 2_000_000] {
        for bytes in [30, 3_000, 300_000] {
            let mut attempt = |place: u32| {
                let result: Result<()> = heap.transaction(|tx| {
                    // To the last block, but for `room` bytes.
                    tx.lock(&root.room)?.reserve_exact(largest - room)?;
                    let value = parts(2, bytes);
                    match place {
                        0 => tx.lock(&root.parts)?.push(value),
                        1 => tx.lock(&root.map)?.insert(1, value).map(drop),
                        2 => tx.lock(&root.boxed)?.set(Some(PBox::new(value))),
                        _ => {
                            let mut boxed = tx.lock(&root.boxed)?;
                            Mut::replace(&mut boxed, Some(PBox::new(value))).map(drop)
                        }
                    }?;
                    // Where it fits it is taken back.
                    Err(Error::abort("it fits"))
                });
                match result {
                    Err(Error::Aborted(_)) => {}
                    Err(_) => failed += 1,
                    Ok(()) => unreachable!("it returns an error"),
                }
            };
            // The allocator's own lists grow for some rounds. What leaks leaks in every one.
            let mut rounds = (0..20).map(|_| left_by(|| (0..4).for_each(&mut attempt)));
            let least = rounds.find(|left| *left == 0);
            assert_eq!(least, Some(0), "room {room}, bytes {bytes}");
        }
    }
    assert!(failed > 50, "only {failed} failed");
    heap.check().unwrap();
    assert_eq!(heap.stats().live_blocks, 1);
}

#[test]
fn an_eviction_that_meets_a_lock_gives_everything_back() {
    type Locks = PVec<(PString, PBox<PMutex<u64>>)>;
    let folder = folder();
    let heap = open::<PMutex<Locks>>(&folder);
    heap.update(|mut locks| {
        let lock = |n| ("x".repeat(5000).into(), PBox::new(PMutex::new(n)));
        locks.extend((0..100).map(lock))
    })
    .unwrap();
    let meet = || {
        let (reading, is_reading) = mpsc::channel();
        let (locked, is_locked) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let heap = &heap;
            scope.spawn(move || {
                let outer = heap.read();
                // SAFETY: the lock stays where it is as long as the guard lives: the others only try to take it out.
                let inner: ReadGuard<'static, u64> =
                    unsafe { std::mem::transmute(outer[1].1.read()) };
                drop(outer);
                reading.send(()).expect("somebody listens");
                is_locked.recv().expect("somebody locks the outer");
                // Wounds who has the outer lock and waits for the inner one.
                drop(heap.read());
                drop(inner);
            });
            is_reading.recv().expect("the guard is taken");
            let refused = heap.update(|mut all| {
                locked.send(()).expect("somebody listens");
                Mut::take(&mut all)
            });
            assert!(
                matches!(refused, Err(Error::Conflict)),
                "{:?}",
                refused.is_ok()
            );
        });
    };
    meet();
    // What a thread and a channel take is given back by the other thread; a text or the vector would be more.
    let left = left_by(meet);
    assert!(left < 2000, "{left} bytes are left");
    heap.check().unwrap();
    assert_eq!(heap.read().len(), 100);
}

//! Heaps that are used while what a crash left is marked in the background.

#![cfg(not(loom))]

use bartender::{
    Error, Heap, Marking, Mut, Options, PHashMap, PMutex, PRwLock, PString, PVec, Persist,
};
use std::path::Path;

#[derive(Persist, Default)]
#[repr(C)]
struct World {
    names: PHashMap<PString, PVec<u64>>,
    bulk: PVec<PString>,
}

type Root = PRwLock<World>;

fn options() -> Options<Root> {
    Heap::<Root>::options().max_size(64 << 20).log_size(4 << 20)
}

fn name(i: u64) -> PString {
    // With a block of its own.
    PString::from(format!("the name of number {i:05}").as_str())
}

fn insert(mut world: Mut<'_, World>, from: u64, to: u64) -> Result<(), Error> {
    for i in from..to {
        let mut world = world.project();
        world.names.insert(name(i), (0..i % 50).collect())?;
        world.bulk.push(name(i))?;
    }
    Ok(())
}

/// A heap of `entries` entries as the death of its process leaves it.
fn leave(path: &Path, entries: u64) {
    let heap = options().open(path).expect("creates");
    for (from, to) in [(0, entries / 2), (entries / 2, entries)] {
        heap.update(|world| insert(world, from, to))
            .expect("commits");
    }
    drop(heap);
    // What the close saved is out of date for the next but one.
    let folder = bartender_pm::Options::new().open(path).expect("opens");
    drop(folder);
}

#[test]
fn a_large_heap_is_opened_before_it_is_marked_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.region");
    leave(&path, 20_000);
    let heap = options().open(&path).expect("opens");
    let report = &heap.report().heap;
    assert!(report.marked && report.background, "{report:?}");
    heap.update(|mut world| {
        let mut world = world.project();
        for i in 0..5000 {
            world.names.remove(&name(i))?;
        }
        world.bulk.truncate(10_000)
    })
    .expect("commits");
    heap.update(|world| insert(world, 20_000, 22_000))
        .expect("commits");
    let marked = heap.wait_marked().expect("sound");
    assert!(marked.blocks > 59_000, "{marked:?}");
    assert!(!heap.marking().under_way && heap.marking().blocks == marked.blocks);
    let checked = heap.check().expect("sound");
    assert_eq!(heap.stats().live_blocks, checked.blocks);
    assert_eq!(heap.read().names.len(), 17_000);
    heap.close().expect("closes");
    let heap = options().open(&path).expect("opens");
    assert!(!heap.report().heap.marked);
    assert_eq!(heap.check().expect("sound").blocks, checked.blocks);
}

#[test]
fn a_small_heap_is_marked_before_anybody_sees_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.region");
    leave(&path, 10);
    let heap = options().open(&path).expect("opens");
    let report = &heap.report().heap;
    assert!(report.marked && !report.background, "{report:?}");
    assert_eq!(heap.wait_marked().expect("sound").blocks, report.blocks);
}

/// Overwrites a text of the heap, in the file, with what is none.
fn damage(path: &Path) {
    let bytes = std::fs::read(path).expect("reads");
    // The log comes first.
    let at = bytes
        .windows(12)
        .rposition(|bytes| bytes == b"number 19999");
    let at = at.expect("it is there") as u64;
    let file = std::fs::File::options()
        .write(true)
        .open(path)
        .expect("opens");
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff], at).expect("writes");
}

#[test]
fn damage_is_an_error_of_opening_or_ends_commits() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.region");
    leave(&path, 20_000);
    damage(&path);
    let heap = options().marking(Marking::Held).open(&path).expect("opens");
    heap.update(|world| insert(world, 30_000, 30_010))
        .expect("nobody knows");
    heap.release_marking();
    let found = heap.wait_marked().expect_err("damage").to_string();
    assert!(found.contains("UTF-8"), "{found}");
    let refused = heap.update(|world| insert(world, 40_000, 40_010));
    let refused = refused.expect_err("poisoned").to_string();
    assert!(
        refused.contains("poisoned") && refused.contains("UTF-8"),
        "{refused}"
    );
    assert!(heap.check().is_err());
    assert!(heap.read().names.contains_key(&name(30_000)));
    assert!(heap.close().is_err());
    for before in [options().marking(Marking::Before), options().verify(true)] {
        let error = before.open(&path).expect_err("damage").to_string();
        assert!(error.contains("UTF-8"), "{error}");
    }
}

#[test]
fn locks_are_held_over_a_wait_for_space() {
    type Full = PMutex<PVec<PVec<u8>>>;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.region");
    let options = || Heap::<Full>::options().max_size(16 << 20).log_size(4 << 20);
    let heap = options().open(&path).expect("creates");
    let chunk = || (0..100_000).map(|i| i as u8).collect::<PVec<u8>>();
    let fill = |heap: &Heap<Full>| while heap.update(|mut all| all.push(chunk())).is_ok() {};
    fill(&heap);
    let full = heap.read().len();
    assert!(full > 50);
    // Half of it is free, of which the table knows nothing.
    heap.update(|mut all| all.truncate(full / 2))
        .expect("commits");
    drop(heap);
    drop(bartender_pm::Options::new().open(&path).expect("opens"));
    let heap = options().marking(Marking::Held).open(&path).expect("opens");
    std::thread::scope(|scope| {
        let asks = scope.spawn(|| fill(&heap));
        heap.release_marking();
        asks.join().expect("no panic");
    });
    assert!(
        heap.read().len() >= full - 2,
        "{} of {full}",
        heap.read().len()
    );
    heap.check().expect("sound");
}

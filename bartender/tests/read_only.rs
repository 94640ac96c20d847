//! Heaps that are only read: the file stays as it is, and all that was committed is there.
#![cfg(not(loom))]

use bartender::{Error, Heap, Options, PHashMap, PRwLock, PString, Result};
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tempfile::TempDir;

type Root = PRwLock<PHashMap<u64, PString>>;

fn folders() -> Vec<TempDir> {
    let on_disk = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let places = [PathBuf::from("/dev/shm"), on_disk];
    let places = places.iter().filter(|place| place.is_dir());
    places
        .map(|place| tempfile::tempdir_in(place).unwrap())
        .collect()
}

fn options() -> Options<Root> {
    Heap::options().max_size(64 << 20).log_size(1 << 20)
}

fn fill(heap: &Heap<Root>, from: u64) {
    for n in from..from + 100 {
        heap.update(|mut map| map.insert(n, format!("number {n}").into()))
            .unwrap();
    }
}

fn assert_reads(heap: &Heap<Root>, count: u64) {
    let map = heap.read();
    assert_eq!(map.len() as u64, count);
    assert!((0..count).all(|n| *map[&n] == *format!("number {n}")));
    drop(map);
    heap.check().unwrap();
    let live = heap.stats().live_blocks;
    let refused = heap.update(|mut map| map.insert(1, "never".into()).map(drop));
    assert!(is_refused(&refused), "{refused:?}");
    let refused = heap.transaction(|tx| tx.lock(heap.root())?.clear());
    assert!(is_refused(&refused), "{refused:?}");
    assert_eq!(heap.stats().live_blocks, live);
}

fn is_refused(result: &Result<()>) -> bool {
    let Err(Error::Region(error)) = result else {
        return false;
    };
    matches!(error, bartender_pm::Error::ReadOnly { .. })
}

fn contents(path: &Path) -> (Vec<u8>, SystemTime) {
    let time = std::fs::metadata(path).unwrap().modified().unwrap();
    (std::fs::read(path).unwrap(), time)
}

#[test]
fn a_region_that_is_read_stays_as_it_is_after_a_close_and_after_a_crash() {
    for folder in folders() {
        let [path, crashed] = ["r", "crashed"].map(|name| folder.path().join(name));
        let heap = options().background(false).open(&path).unwrap();
        fill(&heap, 0);
        heap.checkpoint().unwrap();
        fill(&heap, 100);
        // What a crash leaves: half of it is in the log only.
        std::fs::copy(&path, &crashed).unwrap();
        heap.close().unwrap();
        for path in [&path, &crashed] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o444)).unwrap();
            let before = contents(path);
            // Again and again: nothing is recovered for the next one.
            for _ in 0..2 {
                let heap = options().read_only(true).open(path).unwrap();
                assert_eq!(heap.report().region.clean, !path.ends_with("crashed"));
                assert_reads(&heap, 200);
                heap.sync().unwrap();
                heap.checkpoint().unwrap();
                assert_eq!(heap.purge().unwrap(), 0);
                heap.close().unwrap();
            }
            assert!(contents(path) == before, "the file was changed");
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
            let heap = options().open(path).unwrap();
            fill(&heap, 200);
            assert_eq!(heap.read().len(), 300);
            heap.check().unwrap();
        }
    }
}

#[test]
fn there_may_be_many_readers_and_no_writer() {
    for folder in folders() {
        let path = folder.path().join("r");
        let busy = |opened: Result<Heap<Root>>| {
            let busy = matches!(
                &opened,
                Err(Error::Region(bartender_pm::Error::Busy { .. }))
            );
            assert!(busy, "{opened:?}");
        };
        let heap = options().open(&path).unwrap();
        fill(&heap, 0);
        busy(options().read_only(true).open(&path));
        heap.close().unwrap();

        let heap = options().read_only(true).open(&path).unwrap();
        busy(options().open(&path));
        // Another process would lock it so.
        let file = File::open(&path).unwrap();
        file.try_lock_shared().unwrap();
        assert_reads(&heap, 100);
        // A copy of what is only read is a region like any other.
        let copy = folder.path().join("copy");
        heap.snapshot(&copy).unwrap();
        drop(heap);
        busy(options().open(&path));
        file.unlock().unwrap();
        for path in [&path, &copy] {
            let heap = options().open(path).unwrap();
            fill(&heap, 100);
            heap.check().unwrap();
        }
    }
}

#[test]
fn what_is_no_region_or_of_another_type_is_refused_and_stays_as_it_is() {
    for folder in folders() {
        let path = folder.path().join("r");
        options().read_only(true).open(&path).unwrap_err();
        assert!(!path.exists());
        std::fs::write(&path, "something else").unwrap();
        options().read_only(true).open(&path).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"something else");
        std::fs::remove_file(&path).unwrap();
        fill(&options().open(&path).unwrap(), 0);
        let before = contents(&path);
        let other = Heap::<PRwLock<PHashMap<u64, u64>>>::options().read_only(true);
        let opened = other.open(&path);
        assert!(
            matches!(opened, Err(Error::TypeMismatch { .. })),
            "{opened:?}"
        );
        // The region itself is open here: its address is taken.
        let copy = folder.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        let heap = options().open(&path).unwrap();
        let opened = options().read_only(true).open(&copy);
        let Err(Error::Region(bartender_pm::Error::AddressTaken { .. })) = opened else {
            panic!("{opened:?}");
        };
        drop(heap);
        assert!(std::fs::read(&copy).unwrap() == before.0);
    }
}

#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let refused = options().read_only(true).open(&path).unwrap_err();
    assert!(refused.to_string().contains("pipe"), "{refused}");
}

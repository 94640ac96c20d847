//! Copies of a heap that is being written: consistent, complete, and regions of their own.
#![cfg(not(loom))]

use bartender::{Error, Heap, PHashMap, PMutex, PVec, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tempfile::TempDir;

type Bank = (
    PHashMap<u64, PMutex<i64>>,
    PMutex<PVec<u64>>,
    PMutex<PVec<u8>>,
);

const ACCOUNTS: u64 = 64;
const EACH: i64 = 1000;

fn folders() -> Vec<TempDir> {
    let on_disk = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    // A folder on btrfs or XFS, where blocks are shared and nothing is copied.
    let sharing = std::env::var_os("SNAPSHOTS_IN").map(PathBuf::from);
    let places = [PathBuf::from("/dev/shm"), on_disk];
    let places: Vec<_> = places.into_iter().chain(sharing).collect();
    let places = places.iter().filter(|place| place.is_dir());
    places
        .map(|place| tempfile::tempdir_in(place).unwrap())
        .collect()
}

fn open(path: &Path) -> Heap<Bank> {
    let accounts = || (0..ACCOUNTS).map(|n| (n, PMutex::new(EACH))).collect();
    let options = Heap::options().max_size(256 << 20).log_size(1 << 20);
    let made = options.open_with(path, || (accounts(), PMutex::default(), PMutex::default()));
    made.unwrap()
}

/// Moves money, and notes it.
fn transfer(heap: &Heap<Bank>, n: u64) -> Result<()> {
    heap.transaction(|tx| {
        let accounts = &heap.root().0;
        let (from, to) = (n * 7 % ACCOUNTS, (n * 13 + 5) % ACCOUNTS);
        if from != to {
            *tx.lock(&accounts[&from])? -= 3;
            *tx.lock(&accounts[&to])? += 3;
        }
        Ok(())
    })
}

fn assert_consistent(heap: &Heap<Bank>, at_least: u64) {
    let sum: i64 = heap.root().0.values().map(|account| *account.read()).sum();
    assert_eq!(sum, ACCOUNTS as i64 * EACH);
    let notes = heap.root().1.read();
    assert!(notes.iter().copied().eq(0..notes.len() as u64));
    assert!(notes.len() as u64 >= at_least, "{} notes", notes.len());
    let bytes = heap.root().2.read();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    drop((notes, bytes));
    heap.check().unwrap();
}

#[test]
fn a_snapshot_beside_writers_is_consistent_and_has_what_was_committed_before() {
    for folder in folders() {
        let heap = open(&folder.path().join("r"));
        let (done, noted) = (AtomicBool::new(false), AtomicU64::new(0));
        let path = |n: u64| folder.path().join(format!("copy-{n}"));
        let mut committed = Vec::new();
        std::thread::scope(|scope| {
            let (heap, done, noted) = (&heap, &done, &noted);
            for thread in 0..2 {
                scope.spawn(move || {
                    let mut n = thread;
                    while !done.load(Ordering::Relaxed) {
                        transfer(heap, n).unwrap();
                        n += 2;
                    }
                });
            }
            scope.spawn(move || {
                let mut n = 0;
                while !done.load(Ordering::Relaxed) {
                    let note = |tx: &mut bartender::Tx<'_>| {
                        tx.lock(&heap.root().1)?.push(n)?;
                        // What goes straight home, and is freed by the next one.
                        let bytes = vec![n as u8; 100_000 + n as usize % 1000];
                        tx.lock(&heap.root().2)?.set(bytes.into())
                    };
                    heap.transaction(note).unwrap();
                    n += 1;
                    noted.store(n, Ordering::Release);
                }
            });
            for n in 0..4 {
                let enough = 5 * (n + 1);
                while noted.load(Ordering::Acquire) < enough {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                let before = noted.load(Ordering::Acquire);
                heap.snapshot(path(n)).unwrap();
                committed.push(before);
            }
            done.store(true, Ordering::Relaxed);
        });
        for (n, &before) in committed.iter().enumerate() {
            // Beside the one that it is a copy of: elsewhere in memory.
            let copy = open(&path(n as u64));
            assert_consistent(&copy, before);
            // And it goes on by itself.
            let notes = copy.root().1.read().len() as u64;
            copy.transaction(|tx| tx.lock(&copy.root().1)?.push(notes))
                .unwrap();
            transfer(&copy, 1).unwrap();
            assert_consistent(&copy, before + 1);
            drop(copy);
            assert_consistent(&open(&path(n as u64)), before + 1);
        }
        assert_consistent(&heap, *committed.last().unwrap());
        assert!(committed[0] > 0);
    }
}

#[test]
fn a_snapshot_overwrites_nothing_and_leaves_nothing_half_made() {
    for folder in folders() {
        let heap = open(&folder.path().join("r"));
        let there = folder.path().join("there");
        std::fs::write(&there, "a file of somebody").unwrap();
        for path in [&there, &folder.path().join("r")] {
            let Err(Error::Region(bartender_pm::Error::Io { source, .. })) = heap.snapshot(path)
            else {
                panic!("it was overwritten");
            };
            assert_eq!(source.kind(), std::io::ErrorKind::AlreadyExists);
        }
        assert_eq!(std::fs::read(&there).unwrap(), b"a file of somebody");
        heap.snapshot(folder.path().join("no such folder/copy"))
            .unwrap_err();
        let names = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 2);
        assert_consistent(&heap, 0);
    }
}

#[test]
fn a_snapshot_takes_no_more_space_than_what_it_is_of() {
    use std::os::unix::fs::MetadataExt;
    for folder in folders() {
        let heap = open(&folder.path().join("r"));
        // Much that is free, with its space and without.
        for size in [32 << 20, 0, 1 << 20] {
            let bytes: PVec<u8> = vec![7; size].into();
            heap.transaction(|tx| tx.lock(&heap.root().2)?.set(bytes.clone()))
                .unwrap();
        }
        heap.purge().unwrap();
        let copy = folder.path().join("copy");
        heap.snapshot(&copy).unwrap();
        let space = |path: &Path| std::fs::metadata(path).unwrap().blocks() * 512;
        let (had, has) = (space(&folder.path().join("r")), space(&copy));
        assert!(has <= had + (1 << 20), "{has} bytes, of {had}");
        let copy = open(&copy);
        assert_eq!(copy.root().2.read().len(), 1 << 20);
        // What had no space gets it before it is used.
        copy.transaction(|tx| tx.lock(&copy.root().2)?.set(vec![8; 32 << 20].into()))
            .unwrap();
        assert_consistent(&copy, 0);
    }
}

#[test]
fn who_may_not_read_the_region_may_not_read_its_snapshot() {
    use std::os::unix::fs::PermissionsExt;
    for folder in folders() {
        let path = folder.path().join("r");
        let heap = open(&path);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let copy = folder.path().join("copy");
        heap.snapshot(&copy).unwrap();
        let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_consistent(&open(&copy), 0);
    }
}

//! Transactions that last, or are huge, beside others that are neither.
#![cfg(not(loom))]

use bartender::{Error, Heap, PMutex, PVec, Result};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use tempfile::TempDir;

type Root = (PMutex<PVec<u64>>, PMutex<PVec<u64>>);

const LOG: u64 = 1 << 20;

/// In shared memory there are lanes, on a disk there is a stream.
fn folders() -> Vec<TempDir> {
    let on_disk = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let places = [PathBuf::from("/dev/shm"), on_disk];
    let places = places.iter().filter(|place| place.is_dir());
    places
        .map(|place| tempfile::tempdir_in(place).unwrap())
        .collect()
}

fn open(folder: &TempDir, background: bool) -> Heap<Root> {
    let options = Heap::options().max_size(256 << 20).log_size(LOG);
    // So little that pages are given back again and again.
    let options = options.background(background).view_limit(1 << 20);
    let heap: Heap<Root> = options.open(folder.path().join("r")).unwrap();
    heap.transaction(|tx| {
        tx.lock(&heap.root().0)?.extend(0..100_000)?;
        tx.lock(&heap.root().1)?.extend(0..100_000)
    })
    .unwrap();
    heap
}

/// Changes `count` numbers.
fn add(heap: &Heap<Root>, second: bool, count: usize) -> Result<()> {
    heap.transaction(|tx| {
        let (first, other) = heap.root();
        let mut list = tx.lock(if second { other } else { first })?;
        for mut n in list.iter_mut().take(count) {
            *n += 1;
        }
        Ok(())
    })
}

#[test]
fn a_long_transaction_does_not_stop_others_from_committing() {
    for (folder, background) in folders().iter().flat_map(|f| [(f, true), (f, false)]) {
        let heap = open(folder, background);
        let (go_on, wait) = mpsc::channel();
        let (begun, has_begun) = mpsc::channel();
        std::thread::scope(|scope| {
            let heap = &heap;
            scope.spawn(move || {
                heap.transaction(|tx| {
                    tx.lock(&heap.root().0)?.as_mut_slice().fill(7);
                    begun.send(()).unwrap();
                    wait.recv().map_err(Error::abort)?;
                    Err::<(), _>(Error::abort("on purpose"))
                })
                .unwrap_err();
            });
            has_begun.recv().unwrap();
            // The log twenty times over, while the other one is open.
            let logs = |heap: &Heap<Root>| (0..40).try_for_each(|_| add(heap, true, 60_000));
            logs(heap).unwrap();
            heap.checkpoint().unwrap();
            go_on.send(()).unwrap();
        });
        assert!(heap.root().0.read().iter().copied().eq(0..100_000));
        assert_eq!(heap.root().1.read()[1], 41);
        heap.check().unwrap();
        drop(heap);
        std::fs::remove_file(folder.path().join("r")).unwrap();
    }
}

#[test]
fn a_huge_transaction_commits_beside_many_small_ones() {
    for folder in folders() {
        let heap = open(&folder, true);
        let done = AtomicBool::new(false);
        // Half of the log on lanes, nearly all of it on a stream.
        let huge = match heap.region().log_style() {
            bartender_pm::LogStyle::Lanes => 60_000,
            bartender_pm::LogStyle::Stream => 100_000,
        };
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        add(&heap, true, 5000).unwrap();
                    }
                });
            }
            for _ in 0..20 {
                add(&heap, false, huge).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(heap.root().0.read()[7], 27);
        heap.check().unwrap();
    }
}

#[test]
fn what_is_too_huge_says_what_it_needs_and_leaves_no_trace() {
    for folder in folders() {
        let heap = open(&folder, true);
        let before = heap.stats();
        let huge = heap.transaction(|tx| {
            // Allocates a block, gives one back, and writes more to what is there than the log takes.
            tx.lock(&heap.root().0)?.as_mut_slice().fill(7);
            let mut other = tx.lock(&heap.root().1)?;
            other.as_mut_slice().fill(9);
            other.extend(0..100_000)?;
            other.remove(0)
        });
        let Err(Error::Region(bartender_pm::Error::LogFull {
            needed,
            capacity,
            log_size,
        })) = huge
        else {
            panic!("{huge:?}");
        };
        assert!(needed > capacity && log_size.unwrap() >= needed);
        assert!(heap.root().0.read().iter().copied().eq(0..100_000));
        assert!(heap.root().1.read().iter().copied().eq(0..100_000));
        let after = heap.stats();
        assert_eq!(
            (before.live_blocks, before.live_bytes),
            (after.live_blocks, after.live_bytes)
        );
        add(&heap, false, 10).unwrap();
        heap.check().unwrap();
    }
}

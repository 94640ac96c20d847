//! Values as large as many logs: what they cost in log and in memory, and that they are whole after crashes.
#![cfg(not(loom))]

use bartender::{Error, Heap, PMutex, PVec, Result};
use bartender_pm::counts::Counts;
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts ordinary memory.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller says.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time: the memory is everybody's.
static ALONE: Mutex<()> = Mutex::new(());

const MIB: usize = 1 << 20;
/// Of the normal test; `BIG_VALUES_MIB` asks for others.
const SIZE: usize = 64;

/// Ordinary memory that `f` took at most, beyond what was there.
fn peak_of<A>(f: impl FnOnce() -> A) -> (A, usize) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = f();
    (result, PEAK.load(Relaxed) - before)
}

type Root = PMutex<(PVec<u8>, PVec<u8>)>;

fn places() -> Vec<PathBuf> {
    let on_disk = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let places = [PathBuf::from("/dev/shm"), on_disk];
    places.into_iter().filter(|place| place.is_dir()).collect()
}

fn open(path: &Path) -> Heap<Root> {
    let options = Heap::options().max_size(8 << 30).log_size(2 << 20);
    options.open(path).unwrap()
}

fn chunk(n: usize) -> Vec<u8> {
    let mut bytes = vec![(n * 131) as u8; MIB];
    bytes[MIB / 2..][..8].copy_from_slice(&(n as u64).to_le_bytes());
    bytes
}

fn assert_whole(bytes: &[u8], mib: usize) {
    assert_eq!(bytes.len(), mib * MIB);
    for (n, found) in bytes.chunks(MIB).enumerate() {
        assert!(found == chunk(n), "chunk {n}");
    }
}

fn size() -> usize {
    let asked = std::env::var("BIG_VALUES_MIB").ok();
    asked.and_then(|mib| mib.parse().ok()).unwrap_or(SIZE)
}

/// Peak of the process's memory, in MiB.
fn peak_resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    kib.unwrap_or(0) / 1024
}

#[test]
fn a_value_that_grows_by_chunks_is_in_memory_once_and_not_in_the_log() {
    let _alone = ALONE.lock().unwrap();
    let size = size();
    for place in places() {
        let folder = tempfile::tempdir_in(place).unwrap();
        let path = folder.path().join("r");
        let heap = open(&path);
        // Twice: the second time the memory of the first one's value is used again.
        for _ in 0..2 {
            let start = std::time::Instant::now();
            let (((), cost), peak) = peak_of(|| {
                Counts::of(|| {
                    let done = heap.update(|mut root| {
                        let mut bytes = root.project().0;
                        bytes.set(PVec::new())?;
                        bytes.reserve_exact(size * MIB)?;
                        (0..size).try_for_each(|n| bytes.extend_from_slice(&chunk(n)))?;
                        // What stands there already can be changed.
                        *bytes.get_mut(7).unwrap() = 8;
                        *bytes.get_mut(7).unwrap() = 0;
                        Ok(())
                    });
                    done.unwrap();
                })
            });
            println!(
                "{size} MiB: {} bytes of log, {peak} bytes of ordinary memory, {:?}, {} MiB resident at most",
                cost.log_bytes,
                start.elapsed(),
                peak_resident()
            );
            assert!(cost.log_bytes < 1000, "{cost:?}");
            assert!(peak < 3 * MIB, "{peak}");
            heap.update(|mut root| root.project().0.set(PVec::new()))
                .unwrap();
        }
        let done = heap.update(|mut root| {
            let mut bytes = root.project().0;
            bytes.reserve_exact(size * MIB)?;
            for n in 0..size {
                bytes.write_all(&chunk(n)).map_err(Error::abort)?;
            }
            bytes.flush().map_err(Error::abort)
        });
        done.unwrap();
        assert_whole(&heap.read().0, size);
        heap.check().unwrap();
        // A crash: what the process held is lost.
        std::fs::copy(&path, folder.path().join("crashed")).unwrap();
        drop(heap);
        for name in ["r", "crashed"] {
            let heap = open(&folder.path().join(name));
            assert_whole(&heap.read().0, size);
            heap.check().unwrap();
        }
    }
}

#[test]
fn a_large_value_that_is_adopted_frees_the_ordinary_one() {
    let _alone = ALONE.lock().unwrap();
    for place in places() {
        let folder = tempfile::tempdir_in(place).unwrap();
        let heap = open(&folder.path().join("r"));
        let owned: Vec<u8> = (0..SIZE).flat_map(chunk).collect();
        let before = LIVE.load(Relaxed);
        let (((), cost), peak) = peak_of(|| {
            Counts::of(|| {
                let owned = owned.into();
                heap.update(|mut root| root.project().1.set(owned)).unwrap();
            })
        });
        assert!(peak < MIB, "{peak}");
        assert!(LIVE.load(Relaxed) < before - (SIZE - 1) * MIB);
        assert!(cost.log_bytes < 1000, "{cost:?}");
        assert_whole(&heap.read().1, SIZE);
    }
}

#[test]
fn a_value_that_grows_by_a_chunk_a_transaction_logs_no_more_than_chunks() {
    let _alone = ALONE.lock().unwrap();
    for place in places() {
        let folder = tempfile::tempdir_in(place).unwrap();
        let path = folder.path().join("r");
        let heap = open(&path);
        let small = |n: usize| chunk(n)[MIB / 2..][..MIB / 4].to_vec();
        for n in 0..SIZE / 2 {
            let ((), cost) = Counts::of(|| {
                let added = heap.update(|mut root| root.project().0.extend_from_slice(&small(n)));
                added.unwrap();
            });
            assert!(cost.log_bytes < MIB as u64 / 2, "{n}: {cost:?}");
        }
        drop(heap);
        let heap = open(&path);
        let expected: Vec<u8> = (0..SIZE / 2).flat_map(small).collect();
        assert!(*heap.read().0 == expected);
        heap.check().unwrap();
    }
}

#[test]
fn what_is_taken_back_of_a_large_value_is_as_it_was() {
    let _alone = ALONE.lock().unwrap();
    for place in places() {
        let folder = tempfile::tempdir_in(place).unwrap();
        let path = folder.path().join("r");
        let heap = open(&path);
        let stop = || Err::<(), _>(Error::abort("on purpose"));
        let done: Result<()> = heap.transaction(|tx| {
            {
                let mut root = tx.lock(heap.root())?;
                let mut bytes = root.project().0;
                bytes.reserve_exact(4 * MIB)?;
                bytes.extend_from_slice(&chunk(0))?;
            }
            // Changes a large block that was made before the savepoint, and one that was made in it.
            let failed = tx.savepoint(|tx| {
                let mut root = tx.lock(heap.root())?;
                let mut parts = root.project();
                parts.0.as_mut_slice().fill(1);
                parts.0.extend_from_slice(&chunk(7))?;
                parts.1.extend_from_slice(&chunk(7))?;
                parts.1.as_mut_slice().fill(2);
                stop()
            });
            assert!(failed.is_err());
            tx.savepoint(|tx| {
                let mut root = tx.lock(heap.root())?;
                let mut parts = root.project();
                parts.1.extend_from_slice(&chunk(0))?;
                parts.0.extend_from_slice(&chunk(1))
            })?;
            let mut root = tx.lock(heap.root())?;
            root.project().1.extend_from_slice(&chunk(1))
        });
        done.unwrap();
        let aborted = heap.update(|mut root| {
            let mut parts = root.project();
            parts.0.as_mut_slice().fill(3);
            parts.1.set(chunk(9).into())?;
            parts.1.extend_from_slice(&chunk(9))?;
            stop()
        });
        assert!(aborted.is_err());
        assert_whole(&heap.read().0, 2);
        assert_whole(&heap.read().1, 2);
        heap.check().unwrap();
        drop(heap);
        let heap = open(&path);
        assert_whole(&heap.read().0, 2);
        assert_whole(&heap.read().1, 2);
    }
}

//! Stored collections beside their `std` twins, in one run, alternating: look-ups in a
//! `PHashMap` and in a `HashMap` with the same hash function, iteration over a `PVec` and a
//! `Vec`. Prints the best and the middle round of each, in nanoseconds of the thread's own time
//! an entry.

use bartender::{Heap, PHashMap, PMutex, PString, PVec, Persist};
use std::collections::HashMap;
use std::hint::black_box;

const ROUNDS: usize = 15;
/// Look-ups or elements a round.
const WORK: usize = 2_000_000;

#[derive(Persist, Default)]
#[repr(C)]
struct Root {
    map: PHashMap<u64, u64>,
    words: PHashMap<PString, u64>,
    vec: PVec<u64>,
}

/// Nanoseconds that this thread has run.
fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a clock that Linux has, and a place for its answer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Runs both alternately over `size` entries until each did `WORK`, and prints what they took.
fn compare(name: &str, size: usize, ours: impl Fn() -> u64, twin: impl Fn() -> u64) {
    let repeat = (WORK / size).max(1);
    let time = |f: &dyn Fn() -> u64| {
        let start = now();
        for _ in 0..repeat {
            black_box(f());
        }
        (now() - start) as f64 / (repeat * size) as f64
    };
    let mut rounds: Vec<(f64, f64)> = (0..ROUNDS).map(|_| (time(&ours), time(&twin))).collect();
    let best = rounds
        .iter()
        .fold((f64::MAX, f64::MAX), |a, b| (a.0.min(b.0), a.1.min(b.1)));
    rounds.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
    let middle = rounds[ROUNDS / 2];
    println!(
        "{name:<28} {size:>8}  ours {:7.2}  std {:7.2}  ratio {:.2} (middle {:.2})",
        best.0,
        best.1,
        best.0 / best.1,
        middle.0 / middle.1
    );
}

fn main() -> Result<(), bartender::Error> {
    let folder = tempfile::tempdir_in("/dev/shm").expect("shared memory");
    for size in [1_000, 30_000, 1_000_000] {
        let path = folder.path().join(size.to_string());
        let heap = Heap::<PMutex<Root>>::options()
            .log_size(512 << 20)
            .open(&path)?;
        let key = |i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let words: Vec<String> = (0..size as u64)
            .map(|i| format!("word_{:x}", key(i)))
            .collect();
        heap.update(|mut root| {
            root.map_mut()
                .set((0..size as u64).map(|i| (key(i), i)).collect())?;
            root.words_mut()
                .set(words.iter().map(|w| (w.as_str().into(), 1)).collect())?;
            root.vec_mut().set((0..size as u64).collect())
        })?;
        let root = heap.read();
        let mut map = HashMap::with_hasher(root.map.hasher());
        map.extend(root.map.iter().map(|(k, v)| (*k, *v)));
        let mut twins: HashMap<String, u64, _> = HashMap::with_hasher(root.words.hasher());
        twins.extend(root.words.iter().map(|(k, v)| (k.to_string(), *v)));
        let vec = root.vec.to_vec();
        // In an order that neither table has.
        let keys: Vec<u64> = (0..size as u64)
            .map(|i| key(i * 7919 % size as u64))
            .collect();
        let missing: Vec<u64> = keys.iter().map(|k| k ^ 1).collect();

        let all = |get: &dyn Fn(&u64) -> u64, keys: &[u64]| {
            keys.iter().map(get).fold(0, u64::wrapping_add)
        };
        compare(
            "map, key is there",
            size,
            || all(&|k| root.map[k], &keys),
            || all(&|k| map[k], &keys),
        );
        compare(
            "map, key is not there",
            size,
            || all(&|k| u64::from(root.map.contains_key(k)), &missing),
            || all(&|k| u64::from(map.contains_key(k)), &missing),
        );
        compare(
            "map of words",
            size,
            || words.iter().map(|w| root.words[w.as_str()]).sum(),
            || words.iter().map(|w| twins[w.as_str()]).sum(),
        );
        let sum = |values: &[u64]| values.iter().fold(0, |a, b| a ^ b.wrapping_mul(3));
        compare("vector, iteration", size, || sum(&root.vec), || sum(&vec));
    }
    Ok(())
}

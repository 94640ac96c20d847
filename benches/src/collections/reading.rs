//! Reading what is stored beside reading `std`'s collections: the same entries, in the same order, on one thread and
//! on two that read the same collection.

use super::{Extent, Medium, SameHasher, on_threads, order, stores, words};
use crate::harness::{Report, Subject};
use bartender::{PBTreeMap, PHashMap, PMutex, PVec, PVecDeque, Persist};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hint::black_box;

#[derive(Persist, Default)]
#[repr(C)]
struct Data {
    hash: PHashMap<u64, u64>,
    btree: PBTreeMap<u64, u64>,
    list: PVec<u64>,
    deque: PVecDeque<u64>,
}

/// A list has more entries than a map: it is read so much faster.
const LIST: usize = 10;

/// Entries of a range, which begins at a random key.
const RANGE: usize = 100;

/// One pass of a thread.
type Pass<'a> = &'a (dyn Fn() -> u64 + Sync);

pub(super) fn run(report: &mut Report, extent: Extent<'_>) {
    let n = extent.n;
    let names = [
        HASH_GET,
        HASH_ITER,
        BTREE_GET,
        BTREE_ITER,
        BTREE_RANGE,
        LIST_GET,
        LIST_ITER,
        DEQUE_GET,
        DEQUE_ITER,
    ];
    if !names.iter().any(|name| extent.args.wants(name)) {
        return;
    }
    let folder = Medium::Shared.folder();
    let heap = stores::options::<PMutex<Data>>(LIST * n).open(folder.path().join("a.region"));
    let heap = heap.expect("a region");
    let pairs = words(n);
    let filled = heap.update(|mut data| {
        data.hash_mut().extend(pairs.iter().copied())?;
        data.btree_mut().extend(pairs.iter().copied())?;
        data.list_mut().extend(0..(LIST * n) as u64)?;
        data.deque_mut().extend(0..(LIST * n) as u64)
    });
    filled.expect("commits");
    let mut hash = HashMap::with_hasher(SameHasher::new());
    hash.extend(pairs.iter().copied());
    // One by one, as ours: `collect` would sort them first, and lay neighbours side by side.
    let mut btree = BTreeMap::new();
    for &(key, value) in &pairs {
        btree.insert(key, value);
    }
    let list: Vec<u64> = (0..(LIST * n) as u64).collect();
    let deque: VecDeque<u64> = (0..(LIST * n) as u64).collect();

    let keys = order(n);
    let places: Vec<usize> = keys.iter().map(|k| *k as usize % (LIST * n)).collect();
    let guard = heap.read();
    let data: &Data = &guard;
    let mut pair = |name: &str, n: usize, ours: (&str, Pass<'_>), std: (&str, Pass<'_>)| {
        if extent.args.wants(name) {
            compare(report, extent, name, n, ours, std);
        }
    };
    pair(
        HASH_GET,
        n,
        ("PHashMap", &|| sum(keys.iter().map(|k| data.hash[k]))),
        ("std HashMap", &|| sum(keys.iter().map(|k| hash[k]))),
    );
    pair(
        HASH_ITER,
        n,
        ("PHashMap", &|| sum(data.hash.iter().map(|(k, v)| k ^ v))),
        ("std HashMap", &|| sum(hash.iter().map(|(k, v)| k ^ v))),
    );
    pair(
        BTREE_GET,
        n,
        ("PBTreeMap", &|| sum(keys.iter().map(|k| data.btree[k]))),
        ("std BTreeMap", &|| sum(keys.iter().map(|k| btree[k]))),
    );
    pair(
        BTREE_ITER,
        n,
        ("PBTreeMap", &|| sum(data.btree.iter().map(|(k, v)| k ^ v))),
        ("std BTreeMap", &|| sum(btree.iter().map(|(k, v)| k ^ v))),
    );
    let starts = &keys[..n / RANGE];
    pair(
        BTREE_RANGE,
        starts.len() * RANGE,
        ("PBTreeMap", &|| {
            let ranges = starts.iter().map(|k| data.btree.range(*k..).take(RANGE));
            sum(ranges.flatten().map(|(k, v)| k ^ v))
        }),
        ("std BTreeMap", &|| {
            let ranges = starts.iter().map(|k| btree.range(*k..).take(RANGE));
            sum(ranges.flatten().map(|(k, v)| k ^ v))
        }),
    );
    pair(
        LIST_GET,
        n,
        ("PVec", &|| sum(places.iter().map(|i| data.list[*i]))),
        ("std Vec", &|| sum(places.iter().map(|i| list[*i]))),
    );
    pair(
        LIST_ITER,
        LIST * n,
        ("PVec", &|| fold(data.list.iter())),
        ("std Vec", &|| fold(list.iter())),
    );
    pair(
        DEQUE_GET,
        n,
        ("PVecDeque", &|| sum(places.iter().map(|i| data.deque[*i]))),
        ("std VecDeque", &|| sum(places.iter().map(|i| deque[*i]))),
    );
    pair(
        DEQUE_ITER,
        LIST * n,
        ("PVecDeque", &|| fold(data.deque.iter())),
        ("std VecDeque", &|| fold(deque.iter())),
    );
}

const HASH_GET: &str = "reading: look up in a hash map";
const HASH_ITER: &str = "reading: iterate over a hash map";
const BTREE_GET: &str = "reading: look up in an ordered map";
const BTREE_ITER: &str = "reading: iterate over an ordered map";
const BTREE_RANGE: &str = "reading: ranges of 100 in an ordered map";
const LIST_GET: &str = "reading: index a vector at random";
const LIST_ITER: &str = "reading: iterate over a vector";
const DEQUE_GET: &str = "reading: index a deque at random";
const DEQUE_ITER: &str = "reading: iterate over a deque";

fn sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::wrapping_add)
}

/// So that each word takes the one before it.
fn fold<'a>(values: impl Iterator<Item = &'a u64>) -> u64 {
    values.fold(0, |a, x| a.rotate_left(1) ^ x)
}

fn compare(
    report: &mut Report,
    extent: Extent<'_>,
    name: &str,
    n: usize,
    (ours, our_pass): (&str, Pass<'_>),
    (std, std_pass): (&str, Pass<'_>),
) {
    for threads in [1, 2] {
        let time = |pass: Pass<'_>| {
            on_threads(threads, n, |_| {
                black_box(pass());
            })
        };
        let subjects: Vec<Subject<'_>> = vec![
            (ours, Box::new(|| time(our_pass))),
            (std, Box::new(|| time(std_pass))),
        ];
        report.measure(name, threads, "ns", extent.rounds.max(7), subjects);
        let ratio = report.median(name, threads, ours) / report.median(name, threads, std);
        let goal = format!("{name}, {threads} threads: time of {ours} against {std}");
        report.at_most(goal, ratio, 1.1);
    }
}

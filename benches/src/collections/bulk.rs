//! Many entries in one transaction, and reading them.

use super::stores::Kind;
use super::{
    Extent, KINDS, Medium, SameHasher, Setting, Store, TOUCHED, best_peer, on_threads, order,
    texts, words,
};
use crate::harness::{Report, Subject, nanos};
use crate::machine::touch_free_memory;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::hint::black_box;
use tempfile::TempDir;

const HASH: &str = "std HashMap";
const BTREE: &str = "std BTreeMap";

pub(super) fn run(report: &mut Report, extent: Extent<'_>) {
    for medium in [Medium::Shared, Medium::Disk] {
        one_transaction(report, extent, medium);
        point_reads(report, extent, medium);
    }
}

/// A new store of a kind, which goes with its folder.
fn new(kind: &Kind, medium: Medium, entries: usize) -> (Box<dyn Store>, TempDir) {
    let folder = medium.folder();
    let store = (kind.open)(Setting {
        folder: folder.path(),
        survives: medium.survives(),
        entries,
    });
    (store, folder)
}

/// Names a workload of inserts of either type, into a new store or into one that has had as much before.
fn name_of(types: &str, medium: Medium, again: bool) -> String {
    let again = if again { "again, " } else { "" };
    format!("one transaction: {types}, {again}{}", medium.name())
}

fn one_transaction(report: &mut Report, extent: Extent<'_>, medium: Medium) {
    for again in [false, true] {
        let workload = name_of("words", medium, again);
        if extent.args.wants(&workload) {
            let pairs = words(extent.n);
            let insert = |store: &dyn Store| store.insert_words(&pairs);
            inserts(report, extent, medium, again, &workload, &pairs, &insert);
        }
        let workload = name_of("texts", medium, again);
        if extent.args.wants(&workload) {
            let pairs = texts(extent.n);
            let insert = |store: &dyn Store| store.insert_texts(&pairs);
            inserts(report, extent, medium, again, &workload, &pairs, &insert);
        }
    }
}

/// Measures the inserting of `pairs` into `std`'s maps, and into stores as `insert` does it. The allocator of `std`'s maps
/// has its memory from the round before; so have stores that get the same `again` and are emptied in between.
fn inserts<K: Clone + Hash + Ord, V: Clone>(
    report: &mut Report,
    extent: Extent<'_>,
    medium: Medium,
    again: bool,
    workload: &str,
    pairs: &[(K, V)],
    insert: &dyn Fn(&dyn Store),
) {
    let n = extent.n as u64;
    let mut subjects: Vec<Subject<'_>> = vec![
        (
            HASH,
            Box::new(|| {
                let mut map = HashMap::with_hasher(SameHasher::new());
                touch_free_memory(extent.n * TOUCHED);
                let time = nanos(n, || {
                    for (key, value) in pairs {
                        map.insert(key.clone(), value.clone());
                    }
                });
                black_box(map);
                time
            }),
        ),
        (
            BTREE,
            Box::new(|| {
                let mut map = BTreeMap::new();
                touch_free_memory(extent.n * TOUCHED);
                let time = nanos(n, || {
                    for (key, value) in pairs {
                        map.insert(key.clone(), value.clone());
                    }
                });
                black_box(map);
                time
            }),
        ),
    ];
    for kind in KINDS.iter().filter(|kind| kind.promises(medium.survives())) {
        let mut kept = again.then(|| new(kind, medium, extent.n));
        let round = move || {
            let made = kept.take().unwrap_or_else(|| new(kind, medium, extent.n));
            touch_free_memory(extent.n * TOUCHED);
            let time = nanos(n, || insert(&*made.0));
            if again {
                made.0.clear();
                kept = Some(made);
            }
            time
        };
        subjects.push((kind.name, Box::new(round)));
    }
    // A round of all takes tens of seconds on a disk.
    let rounds = match medium {
        Medium::Shared => extent.rounds,
        Medium::Disk => extent.rounds.min(3),
    };
    report.measure(workload, 1, "ns", rounds, subjects);
    verdicts(report, workload);
}

/// What a map of ours has to reach in a workload of inserts, or of reads: the twin in memory, the bound against it, and
/// that against the best store.
const GOALS: [(&str, &str, f64, f64); 2] =
    [("PHashMap", HASH, 3.0, 5.0), ("PBTreeMap", BTREE, 1.5, 1.5)];

fn verdicts(report: &mut Report, workload: &str) {
    for (ours, twin, times, _) in GOALS {
        let time = report.median(workload, 1, ours);
        if time.is_nan() {
            continue;
        }
        if let Some((peer, best)) = best_peer(report, workload, 1, true) {
            let goal = format!("{workload}: times faster than the best ({peer}), {ours}");
            report.at_least(goal, best / time, times);
        }
        let ratio = time / report.median(workload, 1, twin);
        let goal = format!("{workload}: time of {ours} against {twin}");
        report.at_most(goal, ratio, 1.5);
    }
}

fn point_reads(report: &mut Report, extent: Extent<'_>, medium: Medium) {
    let workload = format!("point reads, {}", medium.name());
    if !extent.args.wants(&workload) {
        return;
    }
    let pairs = words(extent.n);
    let keys = order(extent.n);
    let stores: Vec<_> = KINDS
        .iter()
        .map(|kind| {
            let made = new(kind, medium, extent.n);
            made.0.insert_words(&pairs);
            made
        })
        .collect();
    for threads in [1, 2] {
        let mut subjects: Vec<Subject<'_>> = Vec::new();
        for (kind, (store, _)) in KINDS.iter().zip(&stores) {
            let (store, keys): (&dyn Store, _) = (&**store, &keys);
            let round = move || {
                on_threads(threads, extent.n, |_| {
                    black_box(store.read(keys));
                })
            };
            subjects.push((kind.name, Box::new(round)));
        }
        report.measure(&workload, threads, "ns", extent.rounds, subjects);
        for (ours, _, _, times) in GOALS {
            let time = report.median(&workload, threads, ours);
            if let Some((peer, best)) = best_peer(report, &workload, threads, true)
                && !time.is_nan()
            {
                let goal = format!(
                    "{workload}, {threads} threads: times faster than the best ({peer}), {ours}"
                );
                report.at_least(goal, best / time, times);
            }
        }
    }
}

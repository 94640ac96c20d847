//! Each entry in a durable transaction of its own.
//!
//! The stores have a hundred thousand entries before, and get more in each round. On a disk a round takes a while and
//! not a number of entries; the bare write beside has the length of what we log for one.

use super::stores::{HashStore, Kind, Parts, options};
use super::{Extent, KINDS, Medium, Setting, Store, TOUCHED, best_peer, key, on_threads, words};
use crate::commit::Lines;
use crate::disk::{Bare, rate};
use crate::harness::{Report, Subject, nanos};
use crate::machine::touch_free_memory;
use bartender::{Heap, PHashMap, PMutex};
use bartender_pm::Counts;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Entries that no store has yet.
struct Fresh(AtomicUsize);

impl Fresh {
    fn after(n: usize) -> Fresh {
        Fresh(AtomicUsize::new(n))
    }

    fn take(&self, n: usize) -> std::ops::Range<usize> {
        let first = self.0.fetch_add(n, Ordering::Relaxed);
        first..first + n
    }
}

pub(super) fn run(report: &mut Report, extent: Extent<'_>) -> Result<(), Box<dyn Error>> {
    if extent.args.wants(SHARED) {
        shared(report, extent);
    }
    if extent.args.wants(FORCED) {
        forced(report, extent)?;
    }
    if extent.args.wants(BARE) || extent.args.wants(DISK) {
        disk(report, extent)?;
    }
    Ok(())
}

const SHARED: &str = "single commits, shared memory";
const FORCED: &str = "single commits, shared memory, barrier forced";
const DISK: &str = "single commits, disk";
const BARE: &str = "single commit, disk";

fn before(extent: Extent<'_>) -> usize {
    extent.n / 10
}

/// Stores of all kinds with some entries.
fn filled(extent: Extent<'_>, medium: Medium) -> Vec<(&'static Kind, Box<dyn Store>, TempDir)> {
    let pairs = words(before(extent));
    let kinds = KINDS.iter();
    let all = kinds
        .filter(|kind| kind.promises(medium.survives()))
        .map(|kind| {
            let folder = medium.folder();
            let store = (kind.open)(Setting {
                folder: folder.path(),
                survives: medium.survives(),
                entries: extent.n,
            });
            store.insert_words(&pairs);
            (kind, store, folder)
        });
    all.collect()
}

fn shared(report: &mut Report, extent: Extent<'_>) {
    let stores = filled(extent, Medium::Shared);
    let fresh = Fresh::after(before(extent));
    for threads in [1, 2] {
        let mut subjects: Vec<Subject<'_>> = Vec::new();
        for (kind, store, _) in &stores {
            let n = (extent.n / 10 * kind.percent / 100).max(1);
            let (store, fresh): (&dyn Store, _) = (&**store, &fresh);
            let round = move || {
                touch_free_memory(extent.n * TOUCHED);
                let nanos = on_threads(threads, n, |_| {
                    fresh.take(n).for_each(|i| store.insert(key(i), i as u64));
                });
                threads as f64 * 1e9 / nanos
            };
            subjects.push((kind.name, Box::new(round)));
        }
        report.measure(SHARED, threads, "commits/s", extent.rounds, subjects);
        for ours in ["PHashMap", "PBTreeMap"] {
            let rate = report.median(SHARED, threads, ours);
            if let Some((peer, best)) = best_peer(report, SHARED, threads, false)
                && !rate.is_nan()
            {
                let goal = format!(
                    "{SHARED}, {threads} threads: rate of {ours} against the best ({peer})"
                );
                report.at_least(goal, rate / best, 5.0);
            }
        }
    }
}

/// A store of ours, and the bytes that it logs for an entry.
fn logged(store: &HashStore, fresh: &Fresh) -> u64 {
    const SAMPLE: usize = 100;
    let (result, counts) = Counts::of(|| -> bartender::Result<()> {
        fresh
            .take(SAMPLE)
            .for_each(|i| store.insert(key(i), i as u64));
        Ok(())
    });
    result.expect("commits");
    counts.log_bytes / SAMPLE as u64
}

fn forced(report: &mut Report, extent: Extent<'_>) -> Result<(), Box<dyn Error>> {
    let folder = Medium::Shared.folder();
    let heap = options(extent.n).force_flush(true);
    let store = HashStore(heap.open(folder.path().join("a.region"))?);
    store.insert_words(&words(before(extent)));
    let fresh = Fresh::after(before(extent));
    let bytes = logged(&store, &fresh);
    println!("\nbytes of log for an entry: {bytes}");
    let lines = Lines::new(1 << 20);
    let n = extent.n / 10;
    let subjects: Vec<Subject<'_>> = vec![
        (
            "bare barrier of 128 bytes",
            Box::new(|| {
                touch_free_memory(extent.n * TOUCHED);
                nanos(n as u64, || {
                    (0..n as u64).for_each(|i| lines.bare::<LOGGED>(i));
                })
            }),
        ),
        (
            "PHashMap",
            Box::new(|| {
                touch_free_memory(extent.n * TOUCHED);
                nanos(n as u64, || {
                    fresh.take(n).for_each(|i| store.insert(key(i), i as u64));
                })
            }),
        ),
    ];
    report.measure(FORCED, 1, "ns", extent.rounds, subjects);
    let bare = report.median(FORCED, 1, "bare barrier of 128 bytes");
    report.at_most(
        format!("{FORCED}: time of PHashMap against the bare barrier"),
        report.median(FORCED, 1, "PHashMap") / bare,
        3.0,
    );
    Ok(())
}

/// The bytes that an entry takes in the log: see the golden counts (`PHashMap insert`).
const LOGGED: usize = 128;

const PARTS: &str = "PHashMap, one for each thread";

fn disk(report: &mut Report, extent: Extent<'_>) -> Result<(), Box<dyn Error>> {
    let round = Duration::from_millis(if extent.args.quick { 20 } else { 400 });
    let stores = filled(extent, Medium::Disk);
    let fresh = Fresh::after(before(extent));
    let insert = |store: &dyn Store| {
        let i = fresh.take(1).start;
        store.insert(key(i), i as u64);
    };

    // As many, divided among maps under locks of their own.
    let folder = Medium::Disk.folder();
    let parts = options::<Parts>(extent.n).open_with(folder.path().join("parts"), || {
        (0..8).map(|_| PMutex::new(PHashMap::new())).collect()
    })?;
    let insert_part = |parts: &Heap<Parts>, part: usize| {
        let i = fresh.take(1).start;
        let inserted = parts.transaction(|tx| {
            let mut map = tx.lock(&parts.root()[part])?;
            map.insert(key(i), i as u64)
        });
        inserted.expect("commits");
    };
    for part in 0..8 {
        let pairs = words(before(extent) / 8);
        let filled = parts.transaction(|tx| {
            let mut map = tx.lock(&parts.root()[part])?;
            map.extend(pairs.iter().copied())
        });
        filled?;
    }
    parts.checkpoint()?;

    if extent.args.wants(BARE) {
        let mut bare = Bare::new(&folder.path().join("bare"))?;
        let store = &*stores[0].1;
        let mut bare_round = || {
            let (start, mut n) = (Instant::now(), 0);
            while start.elapsed() < round {
                bare.write::<LOGGED>();
                n += 1;
            }
            start.elapsed().as_nanos() as f64 / 1e3 / f64::from(n)
        };
        let subjects: Vec<Subject<'_>> = vec![
            (
                "bare RWF_DSYNC write of 128 bytes",
                Box::new(&mut bare_round),
            ),
            (
                "PHashMap",
                Box::new(|| 1e6 / rate(1, round, |_| insert(store))),
            ),
        ];
        report.measure(BARE, 1, "µs", extent.rounds.max(7), subjects);
        let bare = report.median(BARE, 1, "bare RWF_DSYNC write of 128 bytes");
        report.at_most(
            format!("{BARE}: time of PHashMap against the bare write"),
            report.median(BARE, 1, "PHashMap") / bare,
            1.15,
        );
    }
    if !extent.args.wants(DISK) {
        return Ok(());
    }
    for threads in [1, 2, 8] {
        let mut subjects: Vec<Subject<'_>> = vec![(
            PARTS,
            Box::new(|| rate(threads, round, |i| insert_part(&parts, i))),
        )];
        for (kind, store, _) in &stores {
            let (store, insert) = (&**store, &insert);
            let run = move || rate(threads, round, |_| insert(store));
            subjects.push((kind.name, Box::new(run)));
        }
        report.measure(DISK, threads, "commits/s", extent.rounds, subjects);
    }
    for ours in [PARTS, "PHashMap"] {
        let (one, eight) = (report.median(DISK, 1, ours), report.median(DISK, 8, ours));
        let goal = format!("{DISK}: 8 threads against one, {ours}");
        report.at_least(goal, eight / one, 5.0);
    }
    Ok(())
}

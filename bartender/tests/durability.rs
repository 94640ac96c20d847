//! Durability chosen for each transaction: what is waited for, what survives a crash, and what joined calls ask for.
#![cfg(not(loom))]

use bartender::testing::{Acks, CrashTest, SimKind};
use bartender::{Durability, Heap, PMutex, PVec, Result};
use bartender_pm::LogStyle;
use bartender_pm::counts::Counts;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

type List = PMutex<PVec<u64>>;

fn push(heap: &Heap<List>, durability: Durability, n: u64) -> Result<()> {
    heap.with_durability(durability)
        .update(|mut list| list.push(n))
}

/// Numbers in order, of which most are not waited for. What is acknowledged: how many have to survive.
fn workload(heap: &Heap<List>, acks: &Acks<'_>) {
    for n in 1..=12 {
        match n % 4 {
            0 => {
                push(heap, Durability::Immediate, n).unwrap();
                acks.acknowledge(n);
            }
            2 => {
                push(heap, Durability::Eventual, n).unwrap();
                heap.sync().unwrap();
                acks.acknowledge(n);
            }
            _ => push(heap, Durability::Eventual, n).unwrap(),
        }
    }
}

#[test]
fn a_prefix_survives_and_with_it_all_that_was_waited_for() {
    for kind in [SimKind::Disk, SimKind::Dax] {
        for whole in [Durability::Immediate, Durability::Eventual] {
            let test = CrashTest::new(kind).durability(whole);
            let explored = test.run(workload).check(|heap, acked| {
                let list = heap.read();
                assert!(list.iter().copied().eq(1..=list.len() as u64));
                assert!(list.len() as u64 >= acked.last().copied().unwrap_or(0));
                drop(list);
                push(heap, Durability::Immediate, 0).unwrap();
            });
            assert!(explored.images > 50, "{explored}");
        }
    }
}

fn on_disk() -> Option<(tempfile::TempDir, Heap<List>)> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let options = Heap::options().max_size(64 << 20).log_size(4 << 20);
    let heap: Heap<List> = options
        .background(false)
        .open(folder.path().join("r"))
        .unwrap();
    let room = heap.update(|mut list| list.reserve(1000));
    room.unwrap();
    (heap.region().log_style() == LogStyle::Stream).then_some((folder, heap))
}

#[test]
fn what_is_not_waited_for_has_no_barrier_of_its_own() {
    let Some((_folder, heap)) = on_disk() else {
        return;
    };
    let barriers = |f: &dyn Fn()| Counts::of(f).1.barriers;
    let eventual = || (0..100).for_each(|n| push(&heap, Durability::Eventual, n).unwrap());
    assert_eq!(barriers(&eventual), 0);
    assert!(heap.region().durable_seq() < heap.region().last_seq());
    // One for all of them.
    assert_eq!(barriers(&|| heap.sync().unwrap()), 1);
    assert_eq!(barriers(&|| heap.sync().unwrap()), 0);
    assert_eq!(barriers(&eventual), 0);
    assert_eq!(
        barriers(&|| push(&heap, Durability::Immediate, 1).unwrap()),
        1
    );
    assert_eq!(heap.region().durable_seq(), heap.region().last_seq());
    // Who reads behind one that is not durable does not wait for it either.
    eventual();
    assert_eq!(barriers(&|| assert_eq!(heap.read().len(), 301)), 0);
}

#[test]
fn joined_calls_get_the_stronger_of_the_two() {
    use Durability::{Eventual, Immediate};
    let Some((_folder, heap)) = on_disk() else {
        return;
    };
    let cases = [
        (Eventual, Eventual, 0),
        (Eventual, Immediate, 1),
        (Immediate, Eventual, 1),
        (Immediate, Immediate, 1),
    ];
    for (outer, inner, expected) in cases {
        let ((), cost) = Counts::of(|| {
            heap.with_durability(outer)
                .transaction(|_| push(&heap, inner, 1))
                .unwrap();
        });
        assert_eq!(cost.barriers, expected, "{outer:?}, {inner:?}");
        heap.sync().unwrap();
    }
}

/// What an awaited transaction frees may have been made by one that is not durable yet when it is freed.
#[test]
fn both_kinds_make_and_free_beside_each_other() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("r");
    let options = || Heap::<PMutex<PVec<PVec<u64>>>>::options().max_size(64 << 20);
    let heap = options().log_size(1 << 20).open(&path).unwrap();
    let heap = Arc::new(heap);
    let turn = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for durability in [
            Durability::Immediate,
            Durability::Eventual,
            Durability::Eventual,
        ] {
            let (heap, turn) = (heap.clone(), &turn);
            scope.spawn(move || {
                for _ in 0..300 {
                    let n = turn.fetch_add(1, Ordering::Relaxed);
                    let done = heap.with_durability(durability).update(|mut lists| {
                        if lists.len() > 20 {
                            lists.remove(0)?;
                        }
                        lists.push((0..n % 500).collect())
                    });
                    done.unwrap();
                }
            });
        }
    });
    heap.check().unwrap();
    heap.sync().unwrap();
    assert_eq!(heap.stats().live_blocks, 23);
    let found: Vec<usize> = heap.read().iter().map(|list| list.len()).collect();
    drop(heap);
    let heap = options().open(&path).unwrap();
    assert!(heap.read().iter().map(|list| list.len()).eq(found));
    heap.check().unwrap();
}

//! Numbers that transactions change beside each other.
#![cfg(not(loom))]

use bartender::testing::{CrashTest, SimKind};
use bartender::{
    Error, Heap, Mut, PAtomicI64, PAtomicU64, PBox, PHashMap, PMutex, PRwLock, PVec, PVecDeque,
    Persist, Result,
};
use bartender_pm::mutant;
use std::sync::Barrier;
use std::thread;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;

fn options<R: Persist>() -> bartender::Options<R> {
    Heap::<R>::options().max_size(64 << 20).log_size(4 << 20)
}

#[derive(Persist, Default)]
#[repr(C)]
struct Root {
    hits: PAtomicU64,
    balance: PAtomicI64,
    plain: PMutex<u64>,
    list: PRwLock<PVec<PAtomicU64>>,
    boxed: PMutex<Option<PBox<PAtomicU64>>>,
}

#[test]
fn what_was_committed_is_counted_and_nothing_else() {
    let place = places::place();
    let heap = options::<Root>().open(place.region()).unwrap();
    let root = heap.root();
    heap.transaction(|tx| {
        root.hits.add(tx, 3)?;
        root.hits.add(tx, 4)?;
        assert_eq!((root.hits.load(), root.hits.load_in(tx)?), (0, 7));
        root.hits.sub(tx, 2)?;
        root.balance.min(tx, -5)?;
        root.balance.max(tx, -9)
    })
    .unwrap();
    assert_eq!((root.hits.load(), root.balance.load()), (5, -5));
    let failed: Result<()> = heap.transaction(|tx| {
        root.hits.add(tx, 100)?;
        Err(Error::abort("no"))
    });
    assert!(failed.is_err());
    heap.transaction(|tx| {
        root.hits.add(tx, 1)?;
        let failed: Result<()> = tx.savepoint(|tx| {
            root.hits.add(tx, 100)?;
            root.balance.store(tx, 100)?;
            Err(Error::abort("no"))
        });
        assert!(failed.is_err());
        tx.savepoint(|tx| root.hits.add(tx, 10))
    })
    .unwrap();
    assert_eq!((root.hits.load(), root.balance.load()), (16, -5));
    heap.transaction(|tx| {
        root.hits.and(tx, 0b1_1000)?;
        root.hits.or(tx, 0b10)?;
        root.hits.xor(tx, 0b11)
    })
    .unwrap();
    assert_eq!(root.hits.load(), 0b1_0001);
    heap.check().unwrap();
    heap.close().unwrap();
    let heap = options::<Root>().open(place.region()).unwrap();
    assert_eq!(
        (heap.root().hits.load(), heap.root().balance.load()),
        (17, -5)
    );
}

#[test]
fn transactions_that_count_the_same_run_beside_each_other() {
    let place = places::place();
    let heap = options::<Root>().open(place.region()).unwrap();
    let root = heap.root();
    let inside = Barrier::new(2);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                heap.transaction(|tx| {
                    root.hits.add(tx, 1)?;
                    // Both are here at once, so neither has locked it.
                    inside.wait();
                    root.hits.add(tx, 1)
                })
                .unwrap();
            });
        }
    });
    assert_eq!(root.hits.load(), 4);
}

#[test]
fn no_step_of_many_threads_is_lost() {
    const THREADS: u64 = 4;
    const STEPS: u64 = if cfg!(miri) { 20 } else { 2000 };
    let place = places::place();
    let heap = options::<Root>().open(place.region()).unwrap();
    let root = heap.root();
    heap.transaction(|tx| {
        let mut list = tx.lock(&root.list)?;
        (0..8).try_for_each(|_| list.push(PAtomicU64::new(0)))
    })
    .unwrap();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let heap = &heap;
            scope.spawn(move || {
                for step in 0..STEPS {
                    heap.transaction(|tx| {
                        let list = tx.read(&root.list)?;
                        let (a, b) = ((thread + step) % 8, (thread * 3 + step * 5) % 8);
                        list[a as usize].add(tx, 1)?;
                        root.hits.add(tx, 2)?;
                        list[b as usize].add(tx, 1)
                    })
                    .unwrap();
                    assert!(root.hits.load() >= 2 * (step + 1));
                }
            });
        }
    });
    let sum: u64 = heap.root().list.read().iter().map(PAtomicU64::load).sum();
    assert_eq!(
        (sum, root.hits.load()),
        (2 * THREADS * STEPS, 2 * THREADS * STEPS)
    );
    heap.check().unwrap();
    let path = place.region();
    heap.close().unwrap();
    let heap = options::<Root>().open(path).unwrap();
    assert_eq!(heap.root().hits.load(), 2 * THREADS * STEPS);
}

#[test]
fn steps_go_with_what_the_transaction_moves() {
    let place = places::place();
    let heap = options::<Root>().open(place.region()).unwrap();
    let root = heap.root();
    let add = |list: &Mut<'_, PVec<PAtomicU64>>, tx: &bartender::Tx<'_>, at: usize, n| {
        list[at].add(tx, n)
    };
    heap.transaction(|tx| {
        let mut list = tx.lock(&root.list)?;
        for i in 0..4 {
            list.push(PAtomicU64::new(i))?;
        }
        for i in 0..4 {
            add(&list, tx, i, 100)?;
        }
        // Everything moves: out, up, to another block.
        assert_eq!(list.remove(0)?.into_inner(), 100);
        list.insert(1, PAtomicU64::new(50))?;
        list.reserve(1000)?;
        add(&list, tx, 3, 1000)?;
        assert_eq!(list[3].load_in(tx)?, 1103);
        list.swap_remove(2)?;
        // And again, behind what is lost with a savepoint.
        add(&list, tx, 0, 7)?;
        Ok(())
    })
    .unwrap();
    let values = |heap: &Heap<Root>| -> Vec<u64> {
        heap.root()
            .list
            .read()
            .iter()
            .map(PAtomicU64::load)
            .collect()
    };
    assert_eq!(values(&heap), [108, 50, 1103]);
    heap.transaction(|tx| {
        {
            let list = tx.lock(&root.list)?;
            add(&list, tx, 0, 1)?;
            add(&list, tx, 2, 1)?;
        }
        let failed: Result<()> = tx.savepoint(|tx| {
            let mut list = tx.lock(&root.list)?;
            list.remove(0)?;
            add(&list, tx, 0, 1)?;
            list.reserve(5000)?;
            Err(Error::abort("no"))
        });
        assert!(failed.is_err());
        let list = tx.lock(&root.list)?;
        add(&list, tx, 0, 1)
    })
    .unwrap();
    assert_eq!(values(&heap), [110, 50, 1104]);
    // What is freed takes its steps along.
    heap.transaction(|tx| {
        let mut boxed = tx.lock(&root.boxed)?;
        boxed.set(Some(PBox::new(PAtomicU64::new(1))))?;
        boxed.as_ref().expect("just set").add(tx, 5)?;
        boxed.set(None)?;
        boxed.set(Some(PBox::new(PAtomicU64::new(2))))?;
        boxed.as_ref().expect("just set").add(tx, 5)
    })
    .unwrap();
    let boxed = heap.root().boxed.read();
    assert_eq!(boxed.as_ref().map(|boxed| boxed.load()), Some(7));
    drop(boxed);
    heap.check().unwrap();
}

/// Adds to the first of two numbers and takes it out, in one transaction: that number, and the one that is left.
fn taken_out_after_a_step() -> (u64, u64) {
    let place = places::place();
    let heap = options::<Root>().open(place.region()).unwrap();
    let list = &heap.root().list;
    heap.transaction(|tx| tx.lock(list)?.extend([1, 2].map(PAtomicU64::new)))
        .unwrap();
    let out = heap.transaction(|tx| {
        let mut list = tx.lock(list)?;
        list[0].add(tx, 100)?;
        Ok(list.remove(0)?.into_inner())
    });
    let left = list.read()[0].load();
    (out.unwrap(), left)
}

#[test]
fn a_step_is_taken_before_its_word_moves() {
    assert_eq!(taken_out_after_a_step(), (101, 2));
    if mutant::ON {
        // It reaches what stands there then.
        let found = mutant::with("steps_stay_behind", taken_out_after_a_step);
        assert_eq!(found, (1, 102));
    }
}

#[test]
fn a_number_of_another_heap_or_of_none_is_refused() {
    let (one, other) = (places::place(), places::place());
    let one = options::<Root>().open(one.region()).unwrap();
    let other = options::<Root>().open(other.region()).unwrap();
    let owned = PAtomicU64::new(1);
    one.transaction(|tx| {
        assert!(matches!(owned.add(tx, 1), Err(Error::NotStored)));
        assert!(matches!(owned.load_in(tx), Err(Error::NotStored)));
        let foreign = other.root().hits.add(tx, 1);
        assert!(matches!(foreign, Err(Error::NotStored)));
        Ok(())
    })
    .unwrap();
    assert_eq!((owned.load(), owned.into_inner()), (1, 1));
    assert_eq!(other.root().hits.load(), 0);
}

/// A second transaction gets at a number that the first has put there and not committed yet, by a reference in another thread:
/// its step could be durable before the first one is, and then land in memory of somebody else.
#[test]
fn what_is_not_committed_yet_is_nobody_elses_whichever_way_he_came() {
    type Deep = PMutex<PVec<PBox<PAtomicU64>>>;
    let place = places::place();
    let heap = options::<Deep>().open(place.region()).unwrap();
    heap.update(|mut list| {
        list.push(PBox::new(PAtomicU64::new(1)))?;
        stays_ours(&heap, &list[0])
    })
    .unwrap();
    assert_eq!(heap.read()[0].load(), 1);

    // The same where it moves to another block.
    let place = places::place();
    let heap = options::<PMutex<Numbers>>().open(place.region()).unwrap();
    heap.update(|mut root| {
        root.list_mut().push(PAtomicU64::new(1))?;
        root.map_mut().insert(1, PAtomicU64::new(1))?;
        root.deque_mut().push_back(PAtomicU64::new(1))
    })
    .unwrap();
    heap.update(|mut root| {
        root.list_mut().reserve(100)?;
        root.map_mut().reserve(100)?;
        root.deque_mut().reserve(100)?;
        stays_ours(&heap, &root.list[0])?;
        stays_ours(&heap, &root.map[&1])?;
        stays_ours(&heap, &root.deque[0])
    })
    .unwrap();
}

#[derive(Persist, Default)]
#[repr(C)]
struct Numbers {
    list: PVec<PAtomicU64>,
    map: PHashMap<u64, PAtomicU64>,
    deque: PVecDeque<PAtomicU64>,
}

fn stays_ours<R: Persist>(heap: &Heap<R>, number: &PAtomicU64) -> Result<()> {
    {
        let mut tries = 0;
        let step = || {
            heap.transaction(|tx| {
                tries += 1;
                match tries {
                    1 | 2 => number.add(tx, 1),
                    _ => Err(Error::abort("enough")),
                }
            })
        };
        let added = thread::scope(|scope| scope.spawn(step).join().unwrap());
        assert!(matches!(added, Err(Error::Aborted(_))), "{added:?}");
        assert_eq!(tries, 3);
    }
    Ok(())
}

#[test]
fn a_crash_keeps_numbers_and_the_rest_together() {
    for kind in [SimKind::Dax, SimKind::Disk] {
        let explored = CrashTest::new(kind)
            .images_per_point(8)
            .run(|heap: &Heap<Root>, acks| {
                let root = heap.root();
                for n in 1..=6 {
                    heap.transaction(|tx| {
                        root.hits.add(tx, 1)?;
                        root.balance.sub(tx, 1)?;
                        *tx.lock(&root.plain)? += 1;
                        Ok(())
                    })
                    .unwrap();
                    acks.acknowledge(n);
                }
            })
            .check(|heap, acked| {
                let root = heap.root();
                let n = *root.plain.read();
                assert_eq!((root.hits.load(), root.balance.load()), (n, -(n as i64)));
                assert!(n as usize - acked.len() <= 1);
            });
        assert!(explored.images > 20, "{explored}");
    }
}

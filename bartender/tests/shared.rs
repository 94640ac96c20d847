//! Values with several owners.
#![cfg(not(loom))]

use bartender::testing::{CrashTest, SimKind};
use bartender::{
    Error, Heap, Mut, PAtomicU64, PBox, PHashMap, PMutex, PRwLock, PShared, PString, PVec, Persist,
    Result,
};
use proptest::prelude::*;
use std::thread;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;

fn options<R: Persist>() -> bartender::Options<R> {
    Heap::<R>::options().max_size(64 << 20).log_size(4 << 20)
}

type Texts = PMutex<PVec<PShared<PString>>>;

fn blocks<R: Persist>(heap: &Heap<R>) -> u64 {
    // Ends what has no owner any more.
    heap.check().expect("whole");
    heap.stats().live_blocks
}

#[test]
fn a_value_lives_as_long_as_one_owner_does() {
    let place = places::place();
    let heap = options::<Texts>().open(place.region()).unwrap();
    let empty = blocks(&heap);
    heap.update(|mut list| {
        list.reserve(10)?;
        list.push(PShared::new("gin, which needs a block".into()))
    })
    .unwrap();
    let one = blocks(&heap);
    assert_eq!(one, empty + 3);
    heap.transaction(|tx| {
        let mut list = tx.lock(heap.root())?;
        for _ in 0..4 {
            let again = list[0].share(tx)?;
            list.push_moved(again)?;
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(blocks(&heap), one, "five owners have one value");
    let list = heap.read();
    assert!(list.iter().all(|text| PShared::ptr_eq(text, &list[0])));
    assert_eq!(PShared::owners(&list[0]), 5);
    drop(list);
    heap.update(|mut list| list.truncate(1)).unwrap();
    assert_eq!(
        (heap.read()[0].as_str(), blocks(&heap)),
        ("gin, which needs a block", one)
    );
    heap.update(|mut list| list.clear()).unwrap();
    assert_eq!(blocks(&heap), empty + 1);
    heap.close().unwrap();
    let heap = options::<Texts>().open(place.region()).unwrap();
    assert_eq!(blocks(&heap), empty + 1);
}

#[test]
fn owners_that_were_not_committed_never_were() {
    let place = places::place();
    let heap = options::<Texts>().open(place.region()).unwrap();
    heap.update(|mut list| list.push(PShared::new("gin, which needs a block".into())))
        .unwrap();
    let before = blocks(&heap);
    let failed: Result<()> = heap.transaction(|tx| {
        let mut list = tx.lock(heap.root())?;
        let again = list[0].share(tx)?;
        list.push_moved(again)?;
        list.remove(0)?;
        Err(Error::abort("no"))
    });
    assert!(failed.is_err());
    assert_eq!(
        (PShared::owners(&heap.read()[0]), blocks(&heap)),
        (1, before)
    );
    heap.transaction(|tx| {
        // Not attached, forgotten, and taken back with a savepoint.
        let _ = tx.lock(heap.root())?[0].share(tx)?;
        let failed: Result<()> = tx.savepoint(|tx| {
            let mut list = tx.lock(heap.root())?;
            let again = list[0].share(tx)?;
            list.push_moved(again)?;
            drop(list[0].share(tx)?);
            list.swap_remove(0)?;
            Err(Error::abort("no"))
        });
        assert!(failed.is_err());
        let _ = tx.lock(heap.root())?[0].share(tx)?;
        Ok(())
    })
    .unwrap();
    assert_eq!(
        (PShared::owners(&heap.read()[0]), blocks(&heap)),
        (1, before)
    );
}

#[test]
fn what_is_taken_out_is_a_copy_that_has_one_owner() {
    #[derive(Persist, Clone, PartialEq, Debug)]
    #[repr(C)]
    struct Deep {
        texts: PVec<PString>,
        inner: PShared<PHashMap<u64, PBox<PString>>>,
        again: Option<PShared<PHashMap<u64, PBox<PString>>>>,
    }
    let place = places::place();
    let heap = options::<PMutex<PVec<PShared<Deep>>>>()
        .open(place.region())
        .unwrap();
    heap.update(|mut list| list.reserve(8)).unwrap();
    let empty = blocks(&heap);
    let map: PHashMap<u64, PBox<PString>> = (0..10)
        .map(|n| (n, PBox::new(n.to_string().into())))
        .collect();
    let deep = Deep {
        texts: ["a", "b"].map(PString::from).into(),
        inner: PShared::new(map),
        again: None,
    };
    let stored = deep.clone();
    heap.update(|mut list| list.push(PShared::new(stored)))
        .unwrap();
    let one = blocks(&heap);
    let out = heap
        .transaction(|tx| {
            let mut list = tx.lock(heap.root())?;
            let again = list[0].share(tx)?;
            list.push_moved(again)?;
            list.remove(0)
        })
        .unwrap();
    assert_eq!((&*out, blocks(&heap)), (&deep, one));
    let out = heap
        .update(|mut list| list.pop())
        .unwrap()
        .expect("one is left");
    assert_eq!((&*out, blocks(&heap)), (&deep, empty));
    assert_eq!(PShared::into_inner(out), deep);
}

#[test]
fn what_changes_by_itself_is_not_copied() {
    type Cells = PMutex<PVec<PShared<(PMutex<u64>, PAtomicU64)>>>;
    let place = places::place();
    let heap = options::<Cells>().open(place.region()).unwrap();
    heap.update(|mut list| list.push(PShared::new((PMutex::new(1), PAtomicU64::new(1)))))
        .unwrap();
    let before = blocks(&heap);
    let taken = heap.update(|mut list| list.pop());
    assert!(matches!(taken, Err(Error::SharedCells)), "{taken:?}");
    assert_eq!(blocks(&heap), before);
    // But it is changed through any owner, and moved, and dropped.
    heap.transaction(|tx| {
        let mut list = tx.lock(heap.root())?;
        let again = list[0].share(tx)?;
        list.push_moved(again)?;
        let moved = list.swap_remove_moved(0)?;
        list.push_moved(moved)
    })
    .unwrap();
    let list = heap.read();
    thread::scope(|scope| {
        for shared in &list[..] {
            scope.spawn(|| {
                for _ in 0..50 {
                    heap.transaction(|tx| {
                        *tx.lock(&shared.0)? += 1;
                        shared.1.add(tx, 1)
                    })
                    .unwrap();
                }
            });
        }
    });
    assert_eq!((*list[0].0.read(), list[1].1.load()), (101, 101));
    drop(list);
    heap.update(|mut list| list.clear()).unwrap();
    assert_eq!(blocks(&heap), before - 1);
}

/// A list of shared nodes, each of which owns the next one.
#[derive(Persist)]
#[repr(C)]
struct Node {
    next: Option<PShared<Node>>,
    value: u64,
}

#[test]
fn a_long_chain_of_shared_values_ends_without_deep_recursion() {
    const LENGTH: u64 = if cfg!(miri) { 50 } else { 100_000 };
    type Chain = PMutex<Option<PShared<Node>>>;
    let place = places::place();
    // Taking all of them out changes as many counts in one transaction.
    let large = options::<Chain>().log_size(16 << 20);
    let heap = large.open(place.region()).unwrap();
    let empty = blocks(&heap);
    let mut chain = None;
    for value in 0..LENGTH {
        chain = Some(PShared::new(Node { next: chain, value }));
    }
    heap.update(|mut head| head.set(chain)).unwrap();
    assert_eq!(blocks(&heap), empty + LENGTH);
    let sum: u64 = {
        let head = heap.read();
        std::iter::successors(head.as_ref(), |node| node.next.as_ref())
            .map(|node| node.value)
            .sum()
    };
    assert_eq!(sum, LENGTH * (LENGTH - 1) / 2);
    let copy = heap.update(|mut head| Mut::take(&mut head)).unwrap();
    assert_eq!(copy.as_ref().map(|node| node.value), Some(LENGTH - 1));
    assert_eq!(blocks(&heap), empty);
    heap.update(|mut head| head.set(copy)).unwrap();
    assert_eq!(blocks(&heap), empty + LENGTH);
    // Each by a transaction of its own.
    heap.update(|mut head| head.set(None)).unwrap();
    assert_eq!(blocks(&heap), empty);
}

#[test]
fn threads_share_and_let_go_beside_each_other() {
    const THREADS: usize = 4;
    const STEPS: u64 = if cfg!(miri) { 10 } else { 500 };
    #[derive(Persist, Default)]
    #[repr(C)]
    struct Root {
        all: PRwLock<PVec<PShared<PString>>>,
        own: [PMutex<PVec<PShared<PString>>>; THREADS],
    }
    let place = places::place();
    let heap = options::<Root>().open(place.region()).unwrap();
    let root = heap.root();
    heap.transaction(|tx| {
        let mut all = tx.lock(&root.all)?;
        (0..4).try_for_each(|n| all.push(PShared::new(n.to_string().into())))
    })
    .unwrap();
    let before = blocks(&heap);
    thread::scope(|scope| {
        for own in &root.own {
            let heap = &heap;
            scope.spawn(move || {
                for step in 0..STEPS {
                    heap.transaction(|tx| {
                        let all = tx.read(&heap.root().all)?;
                        let mut own = tx.lock(own)?;
                        let shared = all[(step % 4) as usize].share(tx)?;
                        own.push_moved(shared)?;
                        if own.len() > 5 {
                            own.remove(0)?;
                        }
                        Ok(())
                    })
                    .unwrap();
                }
                heap.transaction(|tx| {
                    let mut own = tx.lock(own)?;
                    own.set(PVec::new())
                })
                .unwrap();
            });
        }
    });
    assert_eq!(blocks(&heap), before);
    let all = root.all.read();
    assert!(all.iter().all(|shared| PShared::owners(shared) == 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 60 }))]

    /// Sharing, moving, dropping, taking back, reopening: the contents are a model's, and counts are those of the owners
    /// (`check` compares them).
    #[test]
    fn owners_are_counted_whatever_happens(
        steps in prop::collection::vec((0..7u8, 0..8usize, 0..8usize, any::<bool>()), 1..40)
    ) {
        let place = places::place();
        let mut heap = options::<Texts>().open(place.region()).unwrap();
        let mut model: Vec<String> = Vec::new();
        for (n, (what, a, b, commit)) in steps.into_iter().enumerate() {
            let mut next = model.clone();
            let len = model.len();
            let done = heap.transaction(|tx| {
                next = model.clone();
                let mut list = tx.lock(heap.root())?;
                match what {
                    _ if len == 0 => {
                        list.push(PShared::new(n.to_string().into()))?;
                        next.push(n.to_string());
                    }
                    0 => {
                        list.insert(a % len, PShared::new(n.to_string().into()))?;
                        next.insert(a % len, n.to_string());
                    }
                    1..=3 => {
                        let shared = list[a % len].share(tx)?;
                        list.insert_moved(b % len, shared)?;
                        next.insert(b % len, model[a % len].clone());
                    }
                    4 => {
                        let out = list.remove(a % len)?;
                        assert_eq!(out.as_str(), next.remove(a % len));
                    }
                    5 => {
                        let shared = list[a % len].share(tx)?;
                        let mut place: Mut<'_, _> = list.get_mut(b % len).expect("in range");
                        place.set_moved(shared)?;
                        next[b % len] = model[a % len].clone();
                    }
                    _ => {
                        list.truncate(a)?;
                        next.truncate(a);
                    }
                }
                match commit {
                    true => Ok(()),
                    false => Err(Error::abort("no")),
                }
            });
            assert_eq!(done.is_ok(), commit);
            if commit {
                model = next;
            }
            if a == b {
                heap.close().unwrap();
                heap = options::<Texts>().open(place.region()).unwrap();
            }
            heap.check().unwrap();
            let found: Vec<String> = heap.read().iter().map(|text| text.to_string()).collect();
            assert_eq!(&found, &model);
        }
    }
}

#[test]
fn a_crash_loses_no_owner_and_leaks_no_value() {
    for kind in [SimKind::Dax, SimKind::Disk] {
        let explored = CrashTest::new(kind)
            .images_per_point(8)
            .run(|heap: &Heap<Texts>, acks| {
                for n in 1..=6u64 {
                    heap.transaction(|tx| {
                        let mut list = tx.lock(heap.root())?;
                        if n % 2 == 1 {
                            list.clear()?;
                            return list.push(PShared::new(n.to_string().into()));
                        }
                        let again = list[0].share(tx)?;
                        list.push_moved(again)
                    })
                    .unwrap();
                    acks.acknowledge(n);
                }
            })
            // That the counts are those of the owners, and that nothing is leaked, the heap's own check says.
            .check(|heap, acked| {
                let list = heap.read();
                let texts: Vec<u64> = list.iter().map(|text| text.parse().unwrap()).collect();
                let n = texts
                    .first()
                    .map_or(0, |first| first + texts.len() as u64 - 1);
                assert!(texts.iter().all(|text| *text == texts[0]));
                assert!(n as usize - acked.len() <= 1);
            });
        assert!(explored.images > 20, "{explored}");
    }
}

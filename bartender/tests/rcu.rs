//! Values that are replaced while others read them.
#![cfg(not(loom))]

use bartender::testing::{CrashTest, SimKind};
use bartender::{
    Durability, Error, Heap, Mut, PBox, PMutex, PRcu, PRwLock, PShared, PString, PVec, Persist,
    Result,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;

fn options<R: Persist>() -> bartender::Options<R> {
    Heap::<R>::options().max_size(64 << 20).log_size(4 << 20)
}

fn blocks<R: Persist>(heap: &Heap<R>) -> u64 {
    // Waits until nobody reads an old version.
    heap.check().expect("whole");
    heap.stats().live_blocks
}

type Versions = PRcu<PVec<PString>>;

fn texts<'a>(list: impl IntoIterator<Item = &'a PString>) -> Vec<String> {
    list.into_iter().map(|text| text.to_string()).collect()
}

/// A text with a block of its own.
fn number(n: usize) -> String {
    format!("number {n}, which needs a block")
}

#[test]
fn a_reader_keeps_its_version_and_the_next_one_sees_what_was_committed() {
    let place = places::place();
    let heap = options::<Versions>().open(place.region()).unwrap();
    let root = heap.root();
    let empty = blocks(&heap);
    let mut guards = Vec::new();
    for n in 0..5usize {
        guards.push(root.read());
        heap.transaction(|tx| {
            root.update(tx, |old| {
                let mut new = old.clone();
                new.push(number(n).into());
                new
            })?;
            assert_eq!((root.read().len(), root.get(tx)?.len()), (n, n + 1));
            Ok(())
        })
        .unwrap();
        assert_eq!(texts(root.read().iter()).last(), Some(&number(n)));
    }
    for (n, guard) in guards.iter().enumerate() {
        assert_eq!(texts(guard.iter()), (0..n).map(number).collect::<Vec<_>>());
    }
    drop(guards);
    // The block of the vector, and one for each text.
    assert_eq!(blocks(&heap), empty + 6);
    heap.transaction(|tx| root.replace(tx, PVec::new()))
        .unwrap();
    assert_eq!(blocks(&heap), empty);
    heap.close().unwrap();
    let heap = options::<Versions>().open(place.region()).unwrap();
    assert!(heap.root().read().is_empty());
}

#[test]
fn what_was_not_committed_nobody_sees() {
    let place = places::place();
    let heap = options::<Versions>().open(place.region()).unwrap();
    let root = heap.root();
    let one = |text: &str| -> PVec<PString> { [PString::from(text)].into() };
    heap.transaction(|tx| root.replace(tx, one("first")))
        .unwrap();
    let before = blocks(&heap);
    let failed: Result<()> = heap.transaction(|tx| {
        root.replace(tx, one("second"))?;
        root.replace(tx, one("third"))?;
        Err(Error::abort("no"))
    });
    assert!(failed.is_err());
    assert_eq!(
        (texts(root.read().iter()), blocks(&heap)),
        (vec!["first".into()], before)
    );
    heap.transaction(|tx| {
        root.replace(tx, one("second"))?;
        let failed: Result<()> = tx.savepoint(|tx| {
            root.replace(tx, one("third"))?;
            assert_eq!(root.get(tx)?[0], "third");
            Err(Error::abort("no"))
        });
        assert!(failed.is_err());
        assert_eq!(root.get(tx)?[0], "second");
        Ok(())
    })
    .unwrap();
    assert_eq!(
        (texts(root.read().iter()), blocks(&heap)),
        (vec!["second".into()], before)
    );
    // Several in one transaction: the last one counts.
    heap.transaction(|tx| {
        for text in ["a", "b", "c"] {
            root.replace(tx, one(text))?;
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(
        (texts(root.read().iter()), blocks(&heap)),
        (vec!["c".into()], before)
    );
}

#[test]
fn readers_never_see_a_half_or_freed_version() {
    const WRITES: u64 = if cfg!(miri) { 20 } else { 3000 };
    let place = places::place();
    let heap = options::<PRcu<PVec<u64>>>().open(place.region()).unwrap();
    let root = heap.root();
    let empty = blocks(&heap);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let version = root.read();
                    let first = version.first().copied().unwrap_or(0);
                    assert!(version.iter().all(|n| *n == first), "{:?}", &version[..]);
                    assert!(first >= last);
                    last = first;
                }
            });
        }
        let writers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..WRITES {
                        let made = heap.transaction(|tx| {
                            root.update(tx, |old| {
                                let next = old.first().copied().unwrap_or(0) + 1;
                                vec![next; 1 + next as usize % 40].into()
                            })
                        });
                        made.unwrap();
                    }
                })
            })
            .collect();
        writers
            .into_iter()
            .for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(root.read().first(), Some(&(2 * WRITES)));
    assert_eq!(blocks(&heap), empty + 1);
}

#[derive(Persist, Default)]
#[repr(C)]
struct Root {
    list: PRwLock<PVec<PRcu<PString>>>,
    boxed: PMutex<Option<PBox<PRcu<PString>>>>,
    shared: PMutex<Option<PShared<PRcu<u64>>>>,
}

#[test]
fn versions_go_with_what_the_transaction_moves() {
    let place = places::place();
    let heap = options::<Root>().open(place.region()).unwrap();
    let root = heap.root();
    let new = |text: &str| PRcu::new(PString::from(text));
    heap.transaction(|tx| {
        {
            let mut list = tx.lock(&root.list)?;
            for text in ["a", "b", "c", "d"] {
                list.push(new(text))?;
            }
        }
        Ok(())
    })
    .unwrap();
    let before = blocks(&heap);
    let values = |heap: &Heap<Root>| -> Vec<String> {
        let list = heap.root().list.read();
        list.iter().map(|text| text.read().to_string()).collect()
    };
    heap.transaction(|tx| {
        // Under a shared lock, then by who has all of it.
        {
            let list = root.list.read();
            for (n, text) in list.iter().enumerate() {
                text.replace(tx, n.to_string().into())?;
            }
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(values(&heap), ["0", "1", "2", "3"]);
    assert_eq!(blocks(&heap), before);
    heap.transaction(|tx| {
        let mut list = tx.lock(&root.list)?;
        assert_eq!(PRcu::into_inner(list.remove(0)?), "0");
        list.insert(0, new("new"))?;
        list.reserve(100)?;
        // In place, where nobody else reads.
        let mut third = list.get_mut(3).expect("it is there");
        third.project().push_str("!")?;
        Ok(())
    })
    .unwrap();
    assert_eq!(values(&heap), ["new", "1", "2", "3!"]);
    assert_eq!(blocks(&heap), before);
    heap.transaction(|tx| tx.lock(&root.list)?.clear()).unwrap();
    heap.check().unwrap();
}

#[test]
fn a_version_of_something_shared_is_everybodys() {
    let place = places::place();
    let heap = options::<Root>().open(place.region()).unwrap();
    let shared = &heap.root().shared;
    heap.transaction(|tx| tx.lock(shared)?.set(Some(PShared::new(PRcu::new(1)))))
        .unwrap();
    let guard = shared.read();
    let value = guard.as_ref().expect("just set");
    heap.transaction(|tx| value.replace(tx, 2)).unwrap();
    assert_eq!(*value.read(), 2);
    drop(guard);
    let taken = heap.transaction(|tx| Mut::take(&mut tx.lock(shared)?));
    assert!(matches!(taken, Err(Error::SharedCells)));
    heap.transaction(|tx| tx.lock(shared)?.set(None)).unwrap();
    heap.check().unwrap();
}

#[test]
fn versions_hold_nothing_that_changes_by_itself() {
    let place = places::place();
    let opened = options::<PRcu<PVec<PMutex<u64>>>>().open(place.region());
    let error = opened.expect_err("a lock in a version").to_string();
    assert!(error.contains("readers of an old version"), "{error}");
}

#[test]
fn an_eventual_commit_waits_where_readers_would_see_it() {
    let folder = tempfile::tempdir().unwrap();
    let heap = options::<PRcu<u64>>()
        .durability(Durability::Eventual)
        .open(folder.path().join("r"))
        .unwrap();
    heap.transaction(|tx| heap.root().replace(tx, 7)).unwrap();
    assert_eq!(*heap.root().read(), 7);
    heap.check().unwrap();
}

#[test]
fn a_crash_leaves_the_version_of_a_transaction_with_all_the_rest_of_it() {
    #[derive(Persist, Default)]
    #[repr(C)]
    struct Pair {
        version: PRcu<PVec<u64>>,
        number: PMutex<u64>,
    }
    for kind in [SimKind::Dax, SimKind::Disk] {
        let explored = CrashTest::new(kind)
            .images_per_point(8)
            .run(|heap: &Heap<Pair>, acks| {
                let root = heap.root();
                for n in 1..=6u64 {
                    heap.transaction(|tx| {
                        *tx.lock(&root.number)? = n;
                        root.version.replace(tx, vec![n; n as usize].into())
                    })
                    .unwrap();
                    assert_eq!(root.version.read()[..], vec![n; n as usize]);
                    acks.acknowledge(n);
                }
            })
            .check(|heap, acked| {
                let root = heap.root();
                let n = *root.number.read();
                assert_eq!(root.version.read()[..], vec![n; n as usize]);
                assert!(n as usize - acked.len() <= 1);
            });
        assert!(explored.images > 20, "{explored}");
    }
}

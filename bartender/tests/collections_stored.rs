//! Stored collections against their `std` twins: transactions of random operations, of which some
//! abort or panic, with the region closed and opened again among them. After each transaction the
//! stored data equal the twin's and the region's check finds every block reachable.
#![cfg(not(loom))]

use bartender::{Error, Heap, Mut, PHashMap, PMutex, PString, PVec};
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;
mod twins;
use twins::{KINDS, Op, Root, RootFieldsMut, Twin, apply, copy};

fn open(path: &Path) -> Heap<PMutex<Root>> {
    Heap::options()
        .max_size(64 << 20)
        .log_size(32 << 20)
        .open(path)
        .expect("the region opens")
}

fn op() -> impl Strategy<Value = Op> {
    (
        0..KINDS[KINDS.len() - 1].1.end,
        0..40usize,
        any::<u32>(),
        // Short ones, those that just are or are not, and some that are not.
        "[a-zäß]{0,12}|[a-z]{22,25}|[a-z]{40}",
    )
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Commit,
    Abort,
    Panic,
    Reopen,
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        6 => Just(End::Commit),
        2 => Just(End::Abort),
        1 => Just(End::Panic),
        1 => Just(End::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stored_collections_are_like_their_twins(
        transactions in prop::collection::vec((prop::collection::vec(op(), 1..12), end()), 1..24),
    ) {
        let place = places::place();
        let path = place.region();
        let mut heap = open(path);
        let mut twin = Twin::default();
        for (ops, end) in transactions {
            let mut next = twin.clone();
            let run = || {
                heap.update(|mut root| {
                    for op in &ops {
                        apply(op, &mut root, &mut next)?;
                    }
                    // A transaction sees its own writes.
                    assert_eq!(copy(&root), next);
                    match end {
                        End::Abort => Err(Error::abort("as planned")),
                        End::Panic => std::panic::resume_unwind(Box::new("as planned")),
                        _ => Ok(()),
                    }
                })
            };
            match (catch_unwind(AssertUnwindSafe(run)), end) {
                (Ok(Ok(())), End::Commit | End::Reopen) => twin = next,
                (Ok(Err(Error::Aborted(_))), End::Abort) => {}
                (Err(panic), End::Panic) => prop_assert_eq!(panic.downcast_ref(), Some(&"as planned")),
                (Err(panic), _) => std::panic::resume_unwind(panic),
                (Ok(other), _) => prop_assert!(false, "{other:?} at {end:?}"),
            }
            prop_assert_eq!(&copy(&heap.read()), &twin);
            heap.check().expect("every block is reachable and whole");
            if end == End::Reopen {
                heap.close().expect("the region closes");
                heap = open(path);
                prop_assert_eq!(&copy(&heap.read()), &twin);
                heap.check().expect("every block is reachable and whole");
            }
        }
    }
}

#[test]
fn large_collections_move_in_and_out_whole() {
    let place = places::place();
    let path = place.region();
    let heap = open(path);
    let words = || (0..20_000).map(|i| PString::from(format!("word {i}")));
    heap.update(|mut root| {
        root.words_mut().set(words().collect())?;
        root.map_mut()
            .set(words().zip((0..).map(|i| PVec::from([i; 3]))).collect())?;
        root.nested_mut().set(
            (0..100)
                .map(|i| (i, (0..50).zip(words()).collect()))
                .collect(),
        )
    })
    .unwrap();
    heap.check().unwrap();
    heap.close().unwrap();

    let heap = open(path);
    heap.check().unwrap();
    assert!(heap.read().words.iter().eq(&words().collect::<Vec<_>>()));
    assert_eq!(heap.read().map["word 17"], [17; 3]);
    let (taken, map, nested) = heap
        .update(|mut root| {
            let taken = Mut::take(&mut root.words_mut())?;
            let map = Mut::take(&mut root.map_mut())?;
            Ok((taken, map, Mut::take(&mut root.nested_mut())?))
        })
        .unwrap();
    heap.check().unwrap();
    assert_eq!(heap.stats().live_blocks, 1, "the root's block");
    drop(heap);
    assert!(taken.into_iter().eq(words()));
    assert_eq!((map.len(), map["word 19999"][0]), (20_000, 19_999));
    assert_eq!(nested[&99][&49], "word 49");
}

#[test]
fn a_caught_panic_of_a_callback_leaves_the_collections_whole() {
    let place = places::place();
    let heap = open(place.region());
    heap.update(|mut root| {
        root.words_mut()
            .extend((0..10).map(|i| PString::from(format!("word {i}"))))?;
        let mut seen = 0;
        let caught = catch_unwind(AssertUnwindSafe(|| {
            root.words_mut().retain(|_| {
                seen += 1;
                assert!(seen < 5, "in the middle");
                false
            })
        }));
        assert!(caught.is_err());
        Ok(())
    })
    .unwrap();
    assert_eq!(heap.read().words.len(), 10);
    heap.check().unwrap();
}

#[test]
fn a_full_region_is_an_error_and_changes_nothing() {
    let place = places::place();
    let heap = Heap::<PMutex<PVec<PString>>>::options()
        .max_size(8 << 20)
        .log_size(8 << 20)
        .open(place.region())
        .unwrap();
    let long = "x".repeat(100_000);
    let mut pushed = 0;
    let error = loop {
        match heap.update(|mut words| words.push(long.as_str().into())) {
            Ok(()) => pushed += 1,
            Err(error) => break error,
        }
        assert!(pushed < 1000, "the region is smaller");
    };
    assert!(
        matches!(error, Error::Region(_)) || error.to_string().contains("space"),
        "{error}"
    );
    assert_eq!(heap.read().len(), pushed);
    heap.check().unwrap();
    heap.update(|mut words| words.clear()).unwrap();
    heap.check().unwrap();
}

#[test]
fn locks_inside_elements_move_with_them() {
    let place = places::place();
    let path = place.region();
    type Counters = (PVec<PMutex<u64>>, PHashMap<u32, PMutex<u64>>);
    let open = || {
        Heap::<PMutex<Counters>>::options()
            .max_size(64 << 20)
            .open(path)
            .unwrap()
    };
    let heap = open();
    heap.update(|mut root| {
        let (mut vec, mut map) = root.project();
        for i in 0..100 {
            vec.push(PMutex::from(i))?;
            map.insert(i as u32, PMutex::from(i))?;
        }
        Ok(())
    })
    .unwrap();
    heap.update(|mut root| {
        let (mut vec, mut map) = root.project();
        *vec.get_mut(50).unwrap().project() += 1000;
        vec.insert(0, PMutex::from(7))?;
        assert_eq!(vec.remove(1)?.into_inner(), 0);
        assert_eq!(vec.swap_remove(2)?.into_inner(), 2);
        assert_eq!(vec.pop()?.map(PMutex::into_inner), Some(98));
        vec.swap_elements(0, 1)?;
        vec.retain(|mut n| *n.project() % 2 == 0)?;
        vec.truncate(40)?;
        *map.get_mut(&3).unwrap().project() = 3333;
        assert_eq!(map.remove(&4)?.map(PMutex::into_inner), Some(4));
        assert_eq!(
            map.insert(5, PMutex::from(55))?.map(PMutex::into_inner),
            Some(5)
        );
        map.retain(|k, _| *k < 80)
    })
    .unwrap();
    heap.check().unwrap();
    heap.close().unwrap();

    let heap = open();
    heap.check().unwrap();
    heap.update(|mut root| {
        let (mut vec, map) = root.project();
        assert_eq!((vec.len(), map.len()), (40, 79));
        let sum: u64 = vec.iter_mut().map(|mut n| *n.project()).sum();
        assert!(sum > 1000 && map.contains_key(&3));
        Ok(())
    })
    .unwrap();
}

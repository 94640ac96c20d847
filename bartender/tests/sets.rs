//! Sets against `std`'s, owned and stored, and what the map under them has got with them: entries that leave.
#![cfg(not(loom))]

use bartender::{Error, Heap, Mut, PHashMap, PHashSet, PMutex, PString, PVec, Persist, Result};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;

type Op = (u8, u8, u8);

fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec((0..12u8, 0..60u8, any::<u8>()), 0..60)
}

fn key(n: u8) -> String {
    format!("value number {n}")
}

fn sorted(set: impl IntoIterator<Item = impl ToString>) -> BTreeSet<String> {
    set.into_iter().map(|value| value.to_string()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_owned_set_is_like_its_twin(ops in ops()) {
        let mut ours: PHashSet<PString> = PHashSet::new();
        let mut twin: HashSet<String> = HashSet::new();
        for (op, n, m) in ops {
            let text = key(n);
            match op {
                0..=3 => prop_assert_eq!(ours.insert(text.as_str().into()), twin.insert(text)),
                4 => prop_assert_eq!(ours.remove(text.as_str()), twin.remove(&text)),
                5 => prop_assert_eq!(ours.take(text.as_str()).map(String::from), twin.take(&text)),
                6 => prop_assert_eq!(ours.replace(text.as_str().into()).map(String::from), twin.replace(text)),
                7 if m < 40 => {
                    ours.retain(|value| value.len() % 2 == 0);
                    twin.retain(|value| value.len() % 2 == 0);
                }
                8 if m < 30 => prop_assert_eq!(sorted(ours.drain()), sorted(twin.drain())),
                9 => {
                    let odd = |text: &str| !text.ends_with(['0', '2', '4', '6', '8']);
                    let gone = ours.extract_if(|value| odd(value));
                    prop_assert_eq!(sorted(gone), sorted(twin.extract_if(|value| odd(value))));
                }
                10 if m < 60 => ours.shrink_to_fit(),
                11 => ours.shrink_to(usize::from(m)),
                _ => prop_assert_eq!(ours.get(text.as_str()).map(|v| v.as_str()), twin.get(&text).map(|v| v.as_str())),
            }
            prop_assert_eq!(ours.len(), twin.len());
            prop_assert!(ours.capacity() >= ours.len());
        }
        prop_assert_eq!(sorted(&ours), sorted(&twin));
        prop_assert_eq!(&ours.clone(), &ours);
        let std: HashSet<PString> = ours.clone().into();
        prop_assert_eq!(PHashSet::from(std), ours);
    }

    #[test]
    fn two_sets_make_the_sets_that_std_makes(
        a in prop::collection::hash_set(0..40u8, 0..30), b in prop::collection::hash_set(0..40u8, 0..30),
    ) {
        let (p, q) = (PHashSet::from(a.clone()), PHashSet::from(b.clone()));
        prop_assert_eq!(sorted(p.union(&q)), sorted(a.union(&b)));
        prop_assert_eq!(sorted(p.intersection(&q)), sorted(a.intersection(&b)));
        prop_assert_eq!(sorted(p.difference(&q)), sorted(a.difference(&b)));
        prop_assert_eq!(sorted(p.symmetric_difference(&q)), sorted(a.symmetric_difference(&b)));
        prop_assert_eq!(p.union(&q).count(), a.union(&b).count());
        prop_assert_eq!(HashSet::from(&p | &q), &a | &b);
        prop_assert_eq!(HashSet::from(&p & &q), &a & &b);
        prop_assert_eq!(HashSet::from(&p ^ &q), &a ^ &b);
        prop_assert_eq!(HashSet::from(&p - &q), &a - &b);
        prop_assert_eq!(p.is_subset(&q), a.is_subset(&b));
        prop_assert_eq!(p.is_superset(&(&p & &q)), true);
        prop_assert_eq!(p.is_disjoint(&q), a.is_disjoint(&b));
        prop_assert_eq!(p == q, a == b);
    }

    #[test]
    fn a_stored_set_is_like_its_twin(transactions in prop::collection::vec((ops(), 0..5u8), 1..10)) {
        let place = places::place();
        let mut heap = open(place.region());
        let mut twin: HashSet<String> = HashSet::new();
        for (ops, end) in transactions {
            let mut next = twin.clone();
            let done = catch_unwind(AssertUnwindSafe(|| heap.update(|mut root| {
                ops.iter().try_for_each(|op| apply(op, &mut root, &mut next))?;
                assert_eq!(sorted(&root.set), sorted(&next));
                match end {
                    0 => Err(Error::abort("as planned")),
                    1 => std::panic::resume_unwind(Box::new("as planned")),
                    _ => Ok(()),
                }
            })));
            match (done, end) {
                (Ok(Err(Error::Aborted(_))), 0) => {}
                (Err(panic), 1) if panic.is::<&str>() => {}
                (Err(panic), _) => std::panic::resume_unwind(panic),
                (Ok(done), _) => {
                    done.unwrap();
                    twin = next;
                }
            }
            heap.check().unwrap();
            if end == 2 {
                heap.close().unwrap();
                heap = open(place.region());
            }
            prop_assert_eq!(sorted(&heap.read().set), sorted(&twin));
        }
    }
}

#[derive(Persist, Default)]
#[repr(C)]
struct Root {
    set: PHashSet<PString>,
    other: PHashSet<PString>,
    list: PVec<PString>,
    map: PHashMap<u32, PString>,
}

fn open(path: &std::path::Path) -> Heap<PMutex<Root>> {
    let options = Heap::options().max_size(16 << 20).log_size(4 << 20);
    options.open(path).expect("the region opens")
}

fn apply(op: &Op, root: &mut Mut<'_, Root>, twin: &mut HashSet<String>) -> Result<()> {
    let (op, n, m) = *op;
    let text = key(n);
    let fields = root.project();
    let (mut set, mut other) = (fields.set, fields.other);
    match op {
        0..=3 => assert_eq!(set.insert(text.as_str().into())?, twin.insert(text)),
        4 => assert_eq!(set.remove(text.as_str())?, twin.remove(&text)),
        5 => assert_eq!(
            set.take_value(text.as_str())?.map(String::from),
            twin.take(&text)
        ),
        6 => {
            let old = set.replace_value(text.as_str().into())?;
            assert_eq!(old.map(String::from), twin.replace(text));
        }
        7 if m < 40 => {
            set.retain(|value| value.len() % 2 == 0)?;
            twin.retain(|value| value.len() % 2 == 0);
            let gone = set.extract_if(|value| value.ends_with('1'))?;
            let twins: Vec<_> = twin.extract_if(|value| value.ends_with('1')).collect();
            assert_eq!(sorted(gone), sorted(twins));
        }
        8 if m < 30 => assert_eq!(sorted(set.drain()?), sorted(twin.drain())),
        9 => {
            // To the other set and back, where it meets itself or not.
            if let Some(moved) = set.remove_moved(text.as_str())? {
                assert!(other.insert_moved(moved)?);
                if m % 2 == 0 {
                    set.insert(text.as_str().into())?;
                }
                let back = other
                    .remove_moved(text.as_str())?
                    .expect("just moved there");
                assert_eq!(set.insert_moved(back)?, m % 2 != 0);
            }
            assert!(other.is_empty() && other.remove_moved("nothing")?.is_none());
        }
        10 => set.shrink_to_fit()?,
        11 if m < 20 => {
            set.clear()?;
            twin.clear();
        }
        _ => {
            set.extend((n..n + 3).map(|n| PString::from(key(n))))?;
            twin.extend((n..n + 3).map(key));
        }
    }
    Ok(())
}

#[test]
fn entries_leave_a_stored_map_as_owned_values() {
    let place = places::place();
    let heap = open(place.region());
    heap.update(|mut root| {
        root.map_mut()
            .extend((0..50).map(|i| (i, key(i as u8).into())))?;
        Ok(())
    })
    .unwrap();
    let (odd, rest) = heap
        .update(|mut root| {
            let mut map = root.map_mut();
            let odd: HashMap<_, _> = map.extract_if(|key, _| key % 2 == 1)?.collect();
            assert_eq!((odd.len(), map.len()), (25, 25));
            map.shrink_to_fit()?;
            assert!(map.get(&24).is_some_and(|value| *value == key(24)));
            let rest: HashMap<_, _> = map.drain()?.collect();
            map.shrink_to_fit()?;
            Ok((odd, rest))
        })
        .unwrap();
    assert!(odd.iter().chain(&rest).all(|(k, v)| *v == key(*k as u8)));
    assert_eq!((odd.len(), rest.len()), (25, 25));
    heap.check().unwrap();
    assert_eq!(heap.stats().live_blocks, 1, "the root's block");
}

#[test]
fn a_panicking_predicate_leaves_sets_whole() {
    let in_the_middle = |seen: &mut u32| {
        *seen += 1;
        assert!(*seen < 10, "in the middle");
        seen.is_multiple_of(2)
    };
    let mut set: PHashSet<PString> = (0..30).map(|n| key(n).into()).collect();
    let mut seen = 0;
    let caught = catch_unwind(AssertUnwindSafe(|| {
        set.extract_if(|_| in_the_middle(&mut seen)).count()
    }));
    assert!(caught.is_err());
    assert_eq!((set.len(), set.iter().count()), (26, 26));

    let place = places::place();
    let heap = open(place.region());
    heap.update(|mut root| {
        root.set_mut().set(set.clone())?;
        root.map_mut()
            .extend((0..30).map(|i| (i, key(i as u8).into())))?;
        let mut seen = 0;
        let caught = catch_unwind(AssertUnwindSafe(|| {
            root.map_mut()
                .extract_if(|_, _| in_the_middle(&mut seen))
                .map(drop)
        }));
        assert!(caught.is_err());
        assert_eq!(root.map.len(), 30);
        let mut seen = 0;
        let caught = catch_unwind(AssertUnwindSafe(|| {
            root.set_mut().retain(|_| in_the_middle(&mut seen))
        }));
        assert!(caught.is_err());
        Ok(())
    })
    .unwrap();
    let root = heap.read();
    assert!(root.set.iter().all(|value| set.contains(value.as_str())));
    assert_eq!(root.set.len(), root.set.iter().count());
    drop(root);
    heap.check().unwrap();
}

#[test]
fn what_leaves_an_owned_map_is_dropped_once() {
    let token = Rc::new(());
    let count = || Rc::strong_count(&token) - 1;
    let full = || -> PHashMap<u32, Rc<()>> { (0..100).map(|i| (i, token.clone())).collect() };
    let mut map = full();
    let capacity = map.capacity();
    let mut drain = map.drain();
    assert!(drain.next().is_some() && drain.len() == 99);
    drop(drain);
    assert_eq!((count(), map.len(), map.capacity()), (0, 0, capacity));
    drop(map);
    let mut map = full();
    assert_eq!(map.extract_if(|key, _| key % 4 == 0).take(10).count(), 10);
    assert_eq!((count(), map.len()), (90, 90));
    assert_eq!(map.into_values().take(5).count(), 5);
    assert_eq!(full().into_keys().sum::<u32>(), 4950);
    assert_eq!(count(), 0);
    let std: HashMap<u32, Rc<()>> = full().into();
    assert_eq!((std.len(), PHashMap::from(std).len()), (100, 100));
    assert_eq!(count(), 0);
}

#[test]
fn moved_values_go_from_a_list_to_a_set_and_back() {
    const A: &str = "a, which needs a block of its own";
    let place = places::place();
    let heap = open(place.region());
    heap.update(|mut root| {
        root.list_mut()
            .extend([A, "b, which needs a block of its own", A].map(PString::from))
    })
    .unwrap();
    let blocks = heap.stats().live_blocks;
    heap.update(|mut root| {
        let fields = root.project();
        let (mut set, mut list) = (fields.set, fields.list);
        let new: Vec<bool> = std::iter::from_fn(|| list.pop_moved().transpose())
            .map(|moved| set.insert_moved(moved?))
            .collect::<Result<_>>()?;
        assert_eq!(new, [true, true, false]);
        let a = set.remove_moved(A)?.expect("there");
        list.push_moved(a)
    })
    .unwrap();
    assert_eq!((&heap.read().list[0][..], heap.read().set.len()), (A, 1));
    heap.check().unwrap();
    // One of the two "a" is gone, and the set has a table.
    assert_eq!(heap.stats().live_blocks, blocks);
}

#[test]
#[cfg_attr(miri, ignore = "leaks on purpose")]
fn a_drain_that_is_forgotten_leaves_an_empty_map() {
    let mut map = PHashMap::from([(1, 'a')]);
    std::mem::forget(map.drain());
    assert_eq!((map.len(), map.capacity()), (0, 0));
    assert_eq!(map.insert(1, 'b'), None);
}

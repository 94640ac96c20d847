//! Ordered maps and sets against `std`'s, owned ones; and what is special about stored ones: locks in values that are
//! moved, keys whose comparisons panic, what is logged.
#![cfg(not(loom))]

use bartender::btree_map::Entry;
use bartender::{Error, Heap, Mut, PBTreeMap, PBTreeSet, PBox, PMutex, PString, Persist};
use proptest::prelude::*;
use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::ops::{Bound, RangeBounds};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use tempfile::TempDir;

fn name(n: u16) -> PString {
    PString::from(format!("{:03}", n % 300))
}

fn bound(kind: u8, key: PString) -> Bound<PString> {
    match kind % 3 {
        0 => Bound::Included(key),
        1 => Bound::Excluded(key),
        _ => Bound::Unbounded,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_owned_tree_is_like_its_twin(
        first in prop::collection::vec(0..300u16, 0..400),
        ops in prop::collection::vec((0..16u8, any::<u16>(), any::<u16>(), any::<u8>()), 0..80),
    ) {
        let mut ours: PBTreeMap<PString, u16> = first.iter().map(|&n| (name(n), n)).collect();
        let mut twin: BTreeMap<PString, u16> = first.iter().map(|&n| (name(n), n)).collect();
        prop_assert_eq!(&ours, &twin);
        for (op, a, b, c) in ops {
            let (key, other) = (name(a), name(b));
            match op {
                0 | 1 => prop_assert_eq!(ours.insert(key.clone(), b), twin.insert(key, b)),
                2 | 3 => prop_assert_eq!(ours.remove_entry(&*key), twin.remove_entry(&key)),
                4 => {
                    prop_assert_eq!(ours.pop_first(), twin.pop_first());
                    prop_assert_eq!(ours.pop_last(), twin.pop_last());
                }
                5 => {
                    *ours.entry(key.clone()).and_modify(|n| *n ^= 1).or_insert_with_key(|k| k.len() as u16) += 1;
                    *twin.entry(key).and_modify(|n| *n ^= 1).or_insert_with_key(|k| k.len() as u16) += 1;
                }
                6 => {
                    if let Entry::Occupied(entry) = ours.entry(key.clone()) {
                        entry.remove();
                    }
                    if let btree_map::Entry::Occupied(entry) = twin.entry(key) {
                        entry.remove();
                    }
                }
                7 => {
                    let range = (bound(c, key), bound(c / 3, other));
                    let found = catch_unwind(|| twin.range(range.clone()).map(|(k, v)| (k.clone(), *v)).collect::<Vec<_>>());
                    let ours_found = catch_unwind(|| ours.range(range.clone()).map(|(k, v)| (k.clone(), *v)).collect::<Vec<_>>());
                    match (found, ours_found) {
                        (Ok(a), Ok(b)) => {
                            prop_assert_eq!(&a, &b);
                            prop_assert!(ours.range(range).rev().eq(a.iter().rev().map(|(k, v)| (k, v))));
                        }
                        (Err(a), Err(b)) => {
                            let said = b.downcast_ref::<String>().map(|s| s.replace("PBTree", "BTree"));
                            prop_assert_eq!(a.downcast_ref::<&str>().map(|s| s.to_string()), said);
                        }
                        // Removals have emptied it: std's knows that it was not always so.
                        (Err(_), Ok(b)) if twin.is_empty() => prop_assert!(b.is_empty()),
                        (a, b) => prop_assert!(false, "{a:?} and {b:?}"),
                    }
                }
                8 => {
                    ours.range_mut(key.clone()..).for_each(|(_, v)| *v = v.wrapping_add(1));
                    twin.range_mut(key..).for_each(|(_, v)| *v = v.wrapping_add(1));
                }
                9 => {
                    ours.retain(|_, v| *v % 7 != a % 7);
                    twin.retain(|_, v| *v % 7 != a % 7);
                }
                10 => {
                    let mut above = ours.split_off(&*key);
                    let mut twin_above = twin.split_off(&key);
                    prop_assert_eq!(&above, &twin_above);
                    above.insert(other.clone(), b);
                    twin_above.insert(other, b);
                    ours.append(&mut above);
                    twin.append(&mut twin_above);
                    prop_assert!(above.is_empty());
                }
                11 => {
                    let mut gone: Vec<_> = ours.extract_if(key.clone().., |_, v| *v % 2 == 0).take(9).collect();
                    for (key, value) in &gone {
                        prop_assert_eq!(twin.remove(key), Some(*value));
                    }
                    gone.dedup();
                    prop_assert!(gone.is_sorted());
                }
                12 => {
                    // From both ends at once.
                    let (mut a, mut b) = (ours.iter(), twin.iter());
                    for step in 0..usize::from(c) {
                        prop_assert_eq!(a.len(), b.len());
                        match step % 3 {
                            0 => prop_assert_eq!(a.next_back(), b.next_back()),
                            _ => prop_assert_eq!(a.next(), b.next()),
                        }
                    }
                }
                13 => {
                    ours.values_mut().for_each(|v| *v /= 2);
                    twin.values_mut().for_each(|v| *v /= 2);
                    prop_assert!(ours.keys().eq(twin.keys()));
                }
                14 => {
                    prop_assert_eq!(ours.first_entry().map(|e| e.remove_entry()), twin.first_entry().map(|e| e.remove_entry()));
                    prop_assert_eq!(ours.last_entry().map(|e| *e.get()), twin.last_entry().map(|e| *e.get()));
                }
                _ => {
                    prop_assert_eq!(ours.get(&*key), twin.get(&key));
                    prop_assert_eq!(ours.get_key_value(&*key), twin.get_key_value(&key));
                    prop_assert_eq!(ours.first_key_value(), twin.first_key_value());
                    prop_assert_eq!(ours.last_key_value(), twin.last_key_value());
                    prop_assert_eq!(ours.cmp(&ours.clone()), Ordering::Equal);
                }
            }
            prop_assert_eq!(&ours, &twin);
        }
        prop_assert_eq!(format!("{ours:?}"), format!("{twin:?}"));
        prop_assert_eq!(BTreeMap::from(ours.clone()), twin.clone());
        prop_assert_eq!(&PBTreeMap::from(twin.clone()), &ours);
        let (mut a, mut b) = (ours.into_iter(), twin.into_iter());
        prop_assert_eq!((a.next(), a.next_back(), a.len()), (b.next(), b.next_back(), b.len()));
        prop_assert!(a.rev().skip(3).eq(b.rev().skip(3)));
    }

    #[test]
    fn an_owned_set_is_like_its_twin(
        a in prop::collection::vec(0..100u8, 0..150),
        b in prop::collection::vec(0..100u8, 0..150),
        key in 0..100u8,
    ) {
        let (ours, others): (PBTreeSet<u8>, PBTreeSet<u8>) = (a.iter().copied().collect(), b.iter().copied().collect());
        let (twin, twins): (BTreeSet<u8>, BTreeSet<u8>) = (a.iter().copied().collect(), b.iter().copied().collect());
        prop_assert_eq!(&ours, &twin);
        prop_assert_eq!(&(&ours | &others), &(&twin | &twins));
        prop_assert_eq!(&(&ours & &others), &(&twin & &twins));
        prop_assert_eq!(&(&ours - &others), &(&twin - &twins));
        prop_assert_eq!(&(&ours ^ &others), &(&twin ^ &twins));
        prop_assert_eq!(ours.is_subset(&others), twin.is_subset(&twins));
        prop_assert!((&ours & &others).is_subset(&ours) && ours.is_superset(&(&ours - &others)));
        prop_assert_eq!(ours.is_disjoint(&others), twin.is_disjoint(&twins));
        prop_assert!(ours.range(key..).rev().eq(twin.range(key..).rev()));
        prop_assert_eq!((ours.first(), ours.last()), (twin.first(), twin.last()));
        prop_assert_eq!(ours.cmp(&others), twin.cmp(&twins));
        let (mut ours, mut twin) = (ours, twin);
        prop_assert_eq!(ours.replace(key), twin.replace(key));
        prop_assert_eq!(ours.take(&key), twin.take(&key));
        prop_assert_eq!(ours.pop_first(), twin.pop_first());
        ours.retain(|v| v % 3 != 0);
        twin.retain(|v| v % 3 != 0);
        prop_assert_eq!(ours.extract_if(.., |v| v % 2 == 0).count(), twin.iter().filter(|v| *v % 2 == 0).count());
        prop_assert!(ours.into_iter().eq(twin.into_iter().filter(|v| v % 2 == 1)));
    }
}

fn open<R: Persist + Default>(folder: &TempDir) -> Heap<R> {
    let options = Heap::options().max_size(64 << 20).log_size(16 << 20);
    options.open(folder.path().join("r")).expect("a region")
}

#[derive(Persist, Default)]
#[repr(C)]
struct Locked {
    tree: PMutex<PBTreeMap<u64, PMutex<u64>>>,
}

#[test]
fn locks_in_values_move_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let heap = open::<Locked>(&folder);
    heap.transaction(|tx| {
        tx.lock(&heap.root().tree)?
            .extend((0..200).map(|n| (2 * n, PMutex::new(n))))
    })
    .unwrap();
    let first = &heap.root().tree;
    heap.transaction(|tx| {
        let mut tree = tx.lock(first)?;
        // What it moves it holds to its end; it may lock it, once.
        tree.insert(101, PMutex::new(7))?;
        let moved = &tree[&100];
        assert!(matches!(moved.try_read(), Err(Error::AlreadyLocked)));
        let _value = tx.lock(moved)?;
        assert!(matches!(tx.lock(moved), Err(Error::AlreadyLocked)));
        for key in 0..40 {
            assert_eq!(tree.remove(&(2 * key))?.map(PMutex::into_inner), Some(key));
        }
        Ok(())
    })
    .unwrap();
    heap.check().unwrap();
    let sum = heap
        .transaction(|tx| {
            let tree = tx.lock(first)?;
            assert_eq!(tree.len(), 161);
            let mut sum = 0;
            for (_, lock) in &*tree {
                sum += *tx.lock(lock)?;
            }
            Ok(sum)
        })
        .unwrap();
    assert_eq!(sum, (40..200).sum::<u64>() + 7);
}

thread_local! {
    static COMPARISONS: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// A number whose comparisons can be made to panic.
#[derive(Persist, PartialEq, Eq, Clone)]
#[repr(C)]
struct Fuse(u64);

impl PartialOrd for Fuse {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Fuse {
    fn cmp(&self, other: &Self) -> Ordering {
        COMPARISONS.set(COMPARISONS.get() - 1);
        if COMPARISONS.get() == 0 {
            resume_unwind(Box::new("on purpose"));
        }
        self.0.cmp(&other.0)
    }
}

#[derive(Persist, Default)]
#[repr(C)]
struct Fuses {
    a: PBTreeMap<Fuse, PString>,
    b: PBTreeMap<Fuse, PString>,
}

#[test]
fn comparisons_that_panic_leave_nothing_half_done() {
    let folder = tempfile::tempdir().unwrap();
    let heap = open::<PMutex<Fuses>>(&folder);
    let text = |n: u64| PString::from(format!("number {n}"));
    heap.update(|mut root| {
        root.a_mut()
            .extend((0..50).map(|n| (Fuse(2 * n), text(n))))?;
        root.b_mut().extend((0..50).map(|n| (Fuse(3 * n), text(n))))
    })
    .unwrap();
    let state = || {
        let root = heap.read();
        let all = |map: &PBTreeMap<Fuse, PString>| -> Vec<(u64, String)> {
            map.iter().map(|(k, v)| (k.0, v.to_string())).collect()
        };
        (all(&root.a), all(&root.b))
    };
    let before = state();
    for fuse in [1, 5, 40, 200] {
        // It goes through everything, and the transaction ends.
        let done = catch_unwind(AssertUnwindSafe(|| {
            heap.update(|mut root| {
                COMPARISONS.set(fuse);
                let mut parts = root.project();
                parts.a.append(&mut parts.b)
            })
        }));
        COMPARISONS.set(u64::MAX);
        assert!(done.is_err());
        assert_eq!(state(), before);
        heap.check().unwrap();
        // It is caught, and still nothing is committed.
        let done = heap.update(|mut root| {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                COMPARISONS.set(fuse);
                let mut parts = root.project();
                parts.a.append(&mut parts.b)
            }));
            COMPARISONS.set(u64::MAX);
            assert!(caught.is_err());
            Ok(())
        });
        assert!(matches!(done, Err(Error::Doomed { .. })), "{done:?}");
        assert_eq!(state(), before);
        heap.check().unwrap();
    }
    heap.update(|mut root| {
        let mut parts = root.project();
        parts.a.append(&mut parts.b)
    })
    .unwrap();
    heap.check().unwrap();
    let (all, none) = state();
    assert_eq!((all.len(), none.len()), (83, 0));
    assert!(all.is_sorted());
}

#[derive(Persist)]
#[repr(C)]
struct Link {
    next: Option<PBox<Link>>,
}

#[test]
fn long_lists_in_a_tree_are_adopted_and_released_without_deep_recursion() {
    let folder = tempfile::tempdir().unwrap();
    let heap = open::<PMutex<PBTreeMap<u32, PBox<Link>>>>(&folder);
    let list = || {
        let end = PBox::new(Link { next: None });
        (0..100_000).fold(end, |next, _| PBox::new(Link { next: Some(next) }))
    };
    heap.update(|mut tree| tree.set((0..3).map(|n| (n, list())).collect()))
        .unwrap();
    heap.check().unwrap();
    assert_eq!(heap.stats().live_blocks, 2 + 3 * 100_001);
    heap.update(|mut tree| {
        tree.retain(|key, _| *key != 1)?;
        let moved = tree.split_off_moved(&2)?;
        tree.clear()?;
        drop(moved);
        Ok(())
    })
    .unwrap();
    heap.check().unwrap();
    assert_eq!(heap.stats().live_blocks, 1);
}

#[test]
fn a_single_insertion_logs_a_part_of_a_node() {
    let folder = tempfile::tempdir().unwrap();
    let heap = open::<PMutex<PBTreeMap<u64, u64>>>(&folder);
    let key = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    heap.update(|mut tree| tree.extend((0..10_000).map(|n| (key(n), n))))
        .unwrap();
    let before = bartender_pm::counts::Counts::now();
    for n in 10_000..11_000 {
        heap.update(|mut tree| tree.insert(key(n), n).map(drop))
            .unwrap();
    }
    let spent = bartender_pm::counts::Counts::now().since(before);
    let each = spent.log_bytes / 1000;
    assert!((200..450).contains(&each), "{each} bytes");
}

#[derive(Persist, Default)]
#[repr(C)]
struct Two {
    a: PBTreeMap<u64, u64>,
    b: PBTreeMap<u64, u64>,
}

#[test]
fn joining_and_cutting_logs_a_few_nodes() {
    const COUNT: u64 = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let heap = open::<PMutex<Two>>(&folder);
    let mixed = (0..COUNT).map(|n| (n * 7919 % COUNT, n));
    heap.update(|mut two| two.a_mut().extend(mixed)).unwrap();
    let is_all = |map: &PBTreeMap<u64, u64>, keys: std::ops::Range<u64>| {
        assert!(
            map.iter()
                .map(|(key, n)| (*key, n * 7919 % COUNT))
                .eq(keys.map(|k| (k, k)))
        );
    };
    let logged = |change: &dyn Fn(Mut<'_, Two>) -> bartender::Result<()>| {
        let before = bartender_pm::counts::Counts::now();
        heap.update(change).unwrap();
        heap.check().unwrap();
        let logged = bartender_pm::counts::Counts::now().since(before).log_bytes;
        // New nodes on both sides of the cut, and what was changed beside them, on each of three levels.
        assert!((200..12_000).contains(&logged), "{logged} bytes");
    };
    for key in [1, 31, 5000, 9999, 19_990] {
        for below in [false, true] {
            logged(&|two| {
                let mut two = two.into_project();
                let above = two.a.split_off_moved(&key)?;
                two.b.set_moved(above)
            });
            is_all(&heap.read().a, 0..key);
            is_all(&heap.read().b, key..COUNT);
            logged(&|two| {
                let mut two = two.into_project();
                if below {
                    two.b.append(&mut two.a)?;
                    return Mut::swap(&mut two.a, &mut two.b);
                }
                two.a.append(&mut two.b)
            });
            is_all(&heap.read().a, 0..COUNT);
            assert!(heap.read().b.is_empty());
        }
    }
    // Out of the middle, and back to its place.
    heap.update(|two| {
        let mut two = two.into_project();
        let above = two.a.split_off_moved(&7000)?;
        two.b.set_moved(above)?;
        let rest = two.b.split_off_moved(&13_000)?;
        let middle = Mut::take_moved(&mut two.b)?;
        two.b.set_moved(rest)?;
        two.a.append(&mut two.b)?;
        two.b.set_moved(middle)
    })
    .unwrap();
    heap.check().unwrap();
    is_all(&heap.read().b, 7000..13_000);
    logged(&|two| {
        let mut two = two.into_project();
        two.a.append(&mut two.b)
    });
    is_all(&heap.read().a, 0..COUNT);
    // Nothing was cut off, and everything.
    heap.update(|two| {
        let mut two = two.into_project();
        assert!(two.a.split_off_moved(&COUNT)?.into_owned()?.is_empty());
        let all = two.a.split_off_moved(&0)?;
        assert!(two.a.is_empty());
        two.b.set_moved(all)
    })
    .unwrap();
    is_all(&heap.read().b, 0..COUNT);
    heap.check().unwrap();
}

#[test]
fn entries_with_locks_part_and_meet_again() {
    #[derive(Persist, Default)]
    #[repr(C)]
    struct Both {
        a: PBTreeMap<u64, PMutex<u64>>,
        b: PBTreeMap<u64, PMutex<u64>>,
    }
    let folder = tempfile::tempdir().unwrap();
    let heap = open::<PMutex<Both>>(&folder);
    let all = || (0..500).map(|n| (n, PMutex::new(n)));
    heap.update(|mut both| both.a_mut().extend(all())).unwrap();
    heap.transaction(|tx| {
        let mut both = tx.lock(heap.root())?.into_project();
        let above = both.a.split_off_moved(&100)?;
        both.b.set_moved(above)?;
        // What was moved is held to the end.
        let moved = &both.b[&300];
        assert!(matches!(moved.try_read(), Err(Error::AlreadyLocked)));
        Ok(())
    })
    .unwrap();
    heap.check().unwrap();
    heap.update(|both| {
        let mut both = both.into_project();
        assert_eq!((both.a.len(), both.b.len()), (100, 400));
        both.b.append(&mut both.a)
    })
    .unwrap();
    heap.check().unwrap();
    heap.transaction(|tx| {
        let both = tx.lock(heap.root())?;
        for (key, lock) in &both.b {
            assert_eq!(*tx.lock(lock)?, *key);
        }
        assert_eq!((both.a.len(), both.b.len()), (0, 500));
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_savepoint_takes_back_what_was_done_to_new_and_old_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let heap = open::<PMutex<PBTreeMap<u64, u64>>>(&folder);
    let fill = |tree: &mut Mut<'_, PBTreeMap<u64, u64>>, from: u64| {
        tree.extend((from..from + 300).map(|n| (n * 7 % 1009, n)))
    };
    heap.update(|mut tree| fill(&mut tree, 0)).unwrap();
    let stored: Vec<_> = heap.read().iter().map(|(k, v)| (*k, *v)).collect();
    let done = heap.transaction(|tx| {
        let before: Vec<_> = {
            let mut tree = tx.lock(heap.root())?;
            fill(&mut tree, 300)?;
            tree.iter().map(|(k, v)| (*k, *v)).collect()
        };
        for round in 0..3 {
            let failed = tx.savepoint(|tx| {
                let mut tree = tx.lock(heap.root())?;
                fill(&mut tree, 500)?;
                tree.retain(|key, _| key % 3 == round)?;
                fill(&mut tree, 900)?;
                Err::<(), _>(Error::abort("on purpose"))
            });
            assert!(failed.is_err());
            let now: Vec<_> = tx
                .lock(heap.root())?
                .iter()
                .map(|(k, v)| (*k, *v))
                .collect();
            assert_eq!(now, before);
        }
        tx.savepoint(|tx| tx.lock(heap.root())?.retain(|key, _| key % 2 == 0))?;
        Err::<(), _>(Error::abort("all of it"))
    });
    assert!(done.is_err());
    assert!(heap.read().iter().map(|(k, v)| (*k, *v)).eq(stored));
    heap.check().unwrap();
}

/// What a call gives, or says when it panics. Of std's collections the names are made ours.
fn outcome<T>(f: impl FnOnce() -> Vec<T>) -> std::result::Result<Vec<T>, String> {
    let ended = catch_unwind(AssertUnwindSafe(f));
    ended.map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(|text| &**text);
        let said = said.or(panic.downcast_ref::<&str>().copied());
        said.unwrap_or_default().replace(" BTree", " PBTree")
    })
}

#[test]
fn ranges_in_which_nothing_can_be_are_what_they_are_to_std() {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    type Both = PMutex<(PBTreeMap<u32, u32>, PBTreeSet<u32>)>;
    let folder = tempfile::tempdir().expect("a folder");
    let options = Heap::<Both>::options().max_size(64 << 20);
    let heap = options.open(folder.path().join("ranges")).unwrap();
    let bounds = [0, 5, 9]
        .into_iter()
        .flat_map(|n| [Included(n), Excluded(n)]);
    let bounds: Vec<_> = bounds.chain([Unbounded]).collect();
    let mut refused = 0;
    for len in [0, 1, 7, 300] {
        let map: BTreeMap<u32, u32> = (0..len).map(|n| (n, n)).collect();
        let set: BTreeSet<u32> = (0..len).collect();
        heap.update(|mut both| {
            let stored = (
                map.clone().into_iter().collect(),
                set.iter().copied().collect(),
            );
            both.set(stored)
        })
        .unwrap();
        let pairs = bounds.iter().flat_map(|a| bounds.iter().map(|b| (*a, *b)));
        for range in pairs {
            // Owned ones, and those that are read.
            let mut owned: PBTreeMap<u32, u32> = map.clone().into_iter().collect();
            let mut owned_set: PBTreeSet<u32> = set.iter().copied().collect();
            let stored = heap.read();
            let copied = |(a, b): (&u32, &u32)| (*a, *b);
            let expected = outcome(|| map.range(range).map(copied).collect());
            refused += u32::from(expected.is_err());
            for ours in [&owned, &stored.0] {
                let found = outcome(|| ours.range(range).map(copied).collect());
                assert_eq!(found, expected, "{len}: {range:?}");
            }
            let found = outcome(|| owned.range_mut(range).map(|(a, b)| (*a, *b)).collect());
            assert_eq!(found, expected, "{len}: {range:?}");
            let expected_set = outcome(|| set.range(range).copied().collect());
            for ours in [&owned_set, &stored.1] {
                let found = outcome(|| ours.range(range).copied().collect());
                assert_eq!(found, expected_set, "{len}: {range:?}");
            }
            drop(stored);
            // What leaves: std (of Rust 1.91) never refuses that.
            let leaves = |n: &u32| n.is_multiple_of(2);
            let in_range = (0..len).filter(|n| range.contains(n));
            let left_set: Vec<_> = in_range.filter(leaves).collect();
            let left: Vec<_> = left_set.iter().map(|n| (*n, *n)).collect();
            let found: Vec<_> = owned.extract_if(range, |n, _| leaves(n)).collect();
            assert_eq!(found, left, "{len}: {range:?}");
            let found: Vec<_> = owned_set.extract_if(range, leaves).collect();
            assert_eq!(found, left_set, "{len}: {range:?}");
            let taken_back = heap.update(|mut both| {
                let mut both = both.project();
                let found = outcome(|| {
                    let range = both.0.range_mut(range);
                    range.map(|(a, b)| (*a, *b)).collect()
                });
                assert_eq!(found, expected, "{len}: {range:?}");
                let found: Vec<_> = both.0.extract_if(range, |n, _| leaves(n))?.collect();
                assert_eq!(found, left, "{len}: {range:?}");
                let found: Vec<_> = both.1.extract_if(range, leaves)?.collect();
                assert_eq!(found, left_set, "{len}: {range:?}");
                Err::<(), _>(Error::abort("taken back"))
            });
            assert!(matches!(taken_back, Err(Error::Aborted(_))));
        }
    }
    // Three pairs of keys, by four kinds of bounds, and three keys that both exclude.
    assert_eq!(refused, 3 * (3 * 4 + 3));
    // One that was emptied is as a new one.
    let mut emptied = PBTreeMap::from([(1, 1)]);
    emptied.remove(&1);
    assert_eq!(emptied.range((Included(5), Excluded(1))).count(), 0);
}

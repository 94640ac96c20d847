//! Code of the program's own in the middle of changes: `Hash`, `Eq`, closures and iterators that panic, lie, and come back
//! to the same heap.

use crate::{folder, open};
use bartender::{
    Error, Heap, Mut, PBTreeMap, PBox, PHashMap, PHashSet, PMutex, PString, PVec, Persist, Result,
};
use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// What is to happen at the next calls of `Hash` and `Eq`.
type Trap = Box<dyn FnMut()>;

thread_local! {
    static TRAP: RefCell<Option<Trap>> = const { RefCell::new(None) };
    static LIES: Cell<u64> = const { Cell::new(0) };
}

/// Sets `trap` for as long as `body` runs.
fn trapped<A>(trap: impl FnMut() + 'static, body: impl FnOnce() -> A) -> A {
    TRAP.set(Some(Box::new(trap)));
    let outcome = catch_unwind(AssertUnwindSafe(body));
    TRAP.set(None);
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

fn spring() {
    // It is out while it runs, and comes back only if it has not been exchanged.
    if let Some(mut trap) = TRAP.take() {
        trap();
        TRAP.with_borrow_mut(|place| {
            place.get_or_insert(trap);
        });
    }
}

#[derive(Persist, Default, Clone, Debug)]
#[repr(C)]
struct Key {
    name: PString,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        spring();
        match LIES.get() {
            0 => self.name.hash(state),
            lies => LIES
                .replace(lies.wrapping_mul(6_364_136_223_846_793_005) + 1)
                .hash(state),
        }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        spring();
        match LIES.get() {
            0 => self.name == other.name,
            lies => LIES.replace(lies.wrapping_mul(6_364_136_223_846_793_005) + 1) & 0x8000 != 0,
        }
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        spring();
        match LIES.get() {
            0 => self.name.cmp(&other.name),
            lies => {
                LIES.set(lies.wrapping_mul(6_364_136_223_846_793_005) + 1);
                (lies >> 40 & 3).cmp(&1)
            }
        }
    }
}

fn key(n: u64) -> Key {
    Key {
        name: format!("a key that is number {n}").into(),
    }
}

type Map = PHashMap<Key, PVec<u64>>;

fn filled(heap: &Heap<PMutex<Map>>, count: u64) {
    heap.update(|mut map| map.extend((0..count).map(|n| (key(n), PVec::from(vec![n])))))
        .unwrap();
}

/// A trap that panics at its `n`th call.
fn panics_at(mut n: usize) -> impl FnMut() {
    move || {
        if n == 0 {
            resume_unwind(Box::new("the trap"));
        }
        n -= 1;
    }
}

fn works(map: &Map, count: u64) {
    assert_eq!(map.len() as u64, count);
    for n in 0..count {
        assert_eq!(map[&key(n)][..], [n]);
    }
}

#[test]
fn a_panic_in_hash_or_eq_leaves_a_map_as_it_was_wherever_it_comes() {
    let folder = folder();
    let heap = open::<PHashMapRoot>(&folder);
    filled(&heap, 28);
    type Change = fn(&mut Mut<'_, Map>) -> Result<()>;
    let changes: [Change; 6] = [
        |map| map.insert(key(3), PVec::new()).map(drop),
        |map| map.insert(key(99), PVec::new()).map(drop),
        |map| map.reserve(1000),
        |map| map.remove(&key(3)).map(drop),
        |map| map.shrink_to_fit(),
        |map| map.entry(key(98)).or_default()?.push(1),
    ];
    for change in changes {
        for at in 0..40 {
            // Caught inside, and committed: what is left has to be whole.
            let outcome = heap.update(|mut map| {
                let run = || trapped(panics_at(at), || change(&mut map));
                let caught = catch_unwind(AssertUnwindSafe(run));
                if caught.is_err() {
                    works(&map, 28);
                    return Ok(true);
                }
                Err(Error::abort("not reached"))
            });
            if outcome.is_err() {
                break;
            }
        }
        works(&heap.read(), 28);
        heap.check().unwrap();
    }
}

type PHashMapRoot = PMutex<Map>;

#[test]
fn a_panic_in_hash_or_eq_leaves_an_owned_map_whole() {
    for at in 0..80 {
        let mut map: Map = (0..28).map(|n| (key(n), PVec::from(vec![n]))).collect();
        let caught = catch_unwind(AssertUnwindSafe(|| {
            trapped(panics_at(at), || {
                map.insert(key(3), PVec::from(vec![3]));
                map.insert(key(28), PVec::from(vec![28]));
                map.reserve(100);
            })
        }));
        let count = map.len() as u64;
        assert!(caught.is_err() || count == 29);
        works(&map, count);
    }
}

#[test]
fn keys_that_lie_damage_nothing() {
    let folder = folder();
    let heap = open::<PMutex<Map>>(&folder);
    filled(&heap, 20);
    for seed in 1..30u64 {
        LIES.set(seed);
        let _ = heap.update(|mut map| {
            for n in 0..40 {
                map.insert(key(n), PVec::from(vec![n]))?;
                map.remove(&key(n / 2))?;
                map.entry(key(n * 3)).or_default()?.push(n)?;
            }
            map.retain(|_, value| value.len() < 2)?;
            if seed % 3 == 0 {
                return Err(Error::abort("taken back"));
            }
            map.shrink_to_fit()
        });
        let copy = heap.read().clone();
        LIES.set(seed);
        drop(copy);
        LIES.set(0);
        heap.check().unwrap();
    }
}

type Tree = PBTreeMap<Key, PVec<u64>>;

#[test]
fn a_panic_in_ord_leaves_a_tree_as_it_was_wherever_it_comes() {
    const COUNT: u64 = 60;
    let whole = |tree: &Tree| {
        assert_eq!(tree.len() as u64, COUNT);
        assert!((0..COUNT).all(|n| tree[&key(n)][..] == [n]));
        assert!(tree.keys().is_sorted());
    };
    let folder = folder();
    let heap = open::<PMutex<Tree>>(&folder);
    let entries = (0..COUNT).map(|n| (key(n), PVec::from(vec![n])));
    heap.update(|mut tree| tree.extend(entries)).unwrap();
    type Change = fn(&mut Mut<'_, Tree>) -> Result<()>;
    let changes: [Change; 4] = [
        |tree| tree.insert(key(3), PVec::new()).map(drop),
        |tree| tree.insert(key(99), PVec::new()).map(drop),
        |tree| tree.remove(&key(3)).map(drop),
        |tree| tree.entry(key(98)).or_default()?.push(1),
    ];
    for change in changes {
        for at in 0..30 {
            let outcome = heap.update(|mut tree| {
                let run = || trapped(panics_at(at), || change(&mut tree));
                match catch_unwind(AssertUnwindSafe(run)) {
                    Err(_) => whole(&tree),
                    Ok(_) => return Err(Error::abort("not reached")),
                }
                Ok(())
            });
            if outcome.is_err() {
                break;
            }
        }
        whole(&heap.read());
        heap.check().unwrap();
    }
}

#[test]
fn keys_that_lie_of_their_order_damage_nothing() {
    let folder = folder();
    let heap = open::<PMutex<Tree>>(&folder);
    for seed in 1..20u64 {
        LIES.set(seed);
        let _ = heap.update(|mut tree| {
            for n in 0..80 {
                tree.insert(key(n), PVec::from(vec![n]))?;
                tree.remove(&key(n / 2))?;
                tree.entry(key(n * 3)).or_default()?.push(n)?;
            }
            match seed % 3 {
                0 => Err(Error::abort("taken back")),
                _ => Ok(()),
            }
        });
        LIES.set(0);
        heap.check().unwrap();
    }
}

#[test]
fn a_hash_that_comes_back_to_its_heap_gets_an_error_and_no_second_way_in() {
    let folder = folder();
    // For the traps, which are `'static`.
    let heap: &'static Heap<PMutex<Map>> = Box::leak(Box::new(open(&folder)));
    filled(heap, 20);
    let traps: [fn(&'static Heap<PMutex<Map>>); 6] = [
        |heap| assert!(matches!(heap.try_read(), Err(Error::AlreadyLocked))),
        |heap| {
            let inner = heap.update(|mut map| map.clear());
            assert!(matches!(inner, Err(Error::AlreadyLocked)), "{inner:?}");
        },
        |heap| {
            let inner = heap.transaction(|tx| tx.savepoint(|_| Ok(())));
            assert!(matches!(inner, Err(Error::NotInnermost)), "{inner:?}");
        },
        |heap| assert!(matches!(heap.check(), Err(Error::Busy))),
        |heap| heap.checkpoint().unwrap(),
        |heap| {
            heap.purge().unwrap();
            heap.sync().unwrap();
            heap.stats();
        },
    ];
    for (i, trap) in traps.into_iter().enumerate() {
        let outcome = heap.update(|mut map| {
            trapped(
                move || trap(heap),
                || {
                    map.insert(key(3), PVec::from(vec![3]))?;
                    map.insert(key(100 + i as u64), PVec::new())?;
                    map.reserve(1000)?;
                    map.remove(&key(100 + i as u64)).map(drop)
                },
            )
        });
        let doomed = matches!(outcome, Err(Error::Doomed { .. }));
        // A failed inner call dooms the whole; asking does not.
        assert_eq!(doomed, i == 1 || i == 2, "{i}: {outcome:?}");
        works(&heap.read(), 20);
        heap.check().unwrap();
    }
}

#[test]
fn closures_that_panic_in_the_middle_leave_whole_collections() {
    let folder = folder();
    let heap = open::<PMutex<PVec<PString>>>(&folder);
    let text = |n: u64| PString::from(format!("the string that is number {n}"));
    heap.update(|mut list| list.extend((0..10).map(text)))
        .unwrap();
    for at in 0..10 {
        heap.update(|mut list| {
            let mut calls = 0;
            let mut count = |_: Mut<'_, PString>| {
                calls += 1;
                if calls > at {
                    resume_unwind(Box::new(()));
                }
                calls % 2 == 0
            };
            let caught = catch_unwind(AssertUnwindSafe(|| list.retain(&mut count)));
            assert!(caught.is_err());
            assert_eq!(list.len(), 10);
            Ok(())
        })
        .unwrap();
        heap.update(|mut list| {
            let before = list.len();
            let values = (0..10).map(|n| {
                if n == at {
                    resume_unwind(Box::new(()));
                }
                text(n)
            });
            let caught = catch_unwind(AssertUnwindSafe(|| list.extend(values)));
            assert!(caught.is_err());
            assert_eq!(list.len(), before + at as usize);
            list.truncate(before)
        })
        .unwrap();
    }
    heap.check().unwrap();
    assert!(heap.read().iter().cloned().eq((0..10).map(text)));
}

#[test]
fn an_iterator_that_uses_the_heap_of_the_collection_it_fills() {
    let folder = folder();
    let heap = open::<[PMutex<PVec<u64>>; 2]>(&folder);
    let root = heap.root();
    heap.transaction(|tx| {
        let mut list = tx.lock(&root[0])?;
        list.extend((0..100).inspect(|_| {
            // A savepoint of a call that joined.
            heap.transaction(|tx| tx.savepoint(|_| Ok(()))).unwrap_err();
        }))
    })
    .unwrap_err();
    heap.transaction(|tx| {
        let mut list = tx.lock(&root[0])?;
        list.extend((0..100).inspect(|&n| {
            if n == 0 {
                heap.transaction(|tx| tx.lock(&root[1])?.push(n)).unwrap();
            }
            let again = heap.transaction(|_| Ok(root[1].try_read().is_err()));
            assert!(again.unwrap());
        }))
    })
    .unwrap();
    assert_eq!(root[0].read().len(), 100);
    assert_eq!(root[1].read()[..], [0]);
    // What it says of its length is not believed.
    struct Liar(u64);
    impl Iterator for Liar {
        type Item = u64;
        fn next(&mut self) -> Option<u64> {
            self.0 = self.0.checked_sub(1)?;
            Some(self.0)
        }
        fn size_hint(&self) -> (usize, Option<usize>) {
            (usize::MAX, Some(0))
        }
    }
    let refused = heap.transaction(|tx| tx.lock(&root[0])?.extend(Liar(3)));
    assert!(matches!(refused, Err(Error::Region(_))), "{refused:?}");
    assert_eq!(root[0].read().len(), 100);
    heap.check().unwrap();
}

#[test]
fn callbacks_of_entries_come_back_to_other_locks_of_the_transaction() {
    let folder = folder();
    let heap = open::<[PMutex<PHashMap<u64, PString>>; 2]>(&folder);
    let root = heap.root();
    let outcome = heap.transaction(|tx| {
        let mut first = tx.lock(&root[0])?;
        let value = first.entry(1).or_insert_with(|| {
            let mut second = tx.lock(&root[1]).unwrap();
            second.insert(2, "from inside".into()).unwrap();
            // The same again would be a second `Mut`.
            assert!(matches!(tx.lock(&root[1]), Err(Error::AlreadyLocked)));
            second.remove(&2).unwrap().unwrap()
        })?;
        assert_eq!(&**value, "from inside");
        Ok(())
    });
    outcome.unwrap();
    assert_eq!(&*root[0].read()[&1], "from inside");
    assert!(root[1].read().is_empty());
    heap.check().unwrap();
}

#[test]
fn sets_whose_keys_panic_on_the_way_in_by_a_ticket_lose_nothing() {
    let folder = folder();
    let heap = open::<PMutex<[PHashSet<Key>; 2]>>(&folder);
    heap.update(|mut sets| {
        let mut sets = sets.project();
        (0..20).try_for_each(|n| sets[0].insert(key(n)).map(drop))
    })
    .unwrap();
    for at in 0..4 {
        heap.update(|mut sets| {
            let mut sets = sets.project();
            let moved = sets[0].remove_moved(&key(7))?.expect("it is there");
            let caught = catch_unwind(AssertUnwindSafe(|| {
                trapped(panics_at(at), || sets[1].insert_moved(moved))
            }));
            if caught.is_err() {
                assert_eq!(sets[0].len() + sets[1].len(), 19);
                return Err(Error::abort("taken back"));
            }
            let back = sets[1].remove_moved(&key(7))?.expect("it is there");
            sets[0].insert_moved(back).map(drop)
        })
        .map_or_else(|e| assert!(matches!(e, Error::Aborted(_))), drop);
        assert_eq!(heap.read()[0].len(), 20);
        assert!(heap.read()[0].contains(&key(7)));
        heap.check().unwrap();
    }
}

#[test]
fn a_default_root_that_panics_or_makes_its_own_file() {
    let folder = folder();
    let path = crate::region(&folder);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let root = || -> PMutex<u64> { resume_unwind(Box::new(())) };
        crate::options().open_with(&path, root).map(drop)
    }));
    assert!(caught.is_err());
    // The file has no name before its root is in it, so the one that is made meanwhile gets it.
    let mut inner = None;
    let outer = crate::options().open_with(&path, || {
        let again = crate::options().open_with(&path, || PMutex::new(5u64));
        inner = Some(again.unwrap());
        PMutex::new(6u64)
    });
    let refused = outer.map(drop).unwrap_err();
    let busy = matches!(refused, Error::Region(bartender_pm::Error::Busy { .. }));
    assert!(busy, "{refused}");
    let heap = inner.unwrap();
    assert_eq!(*heap.read(), 5);
    heap.check().unwrap();
    heap.close().unwrap();
    let heap = crate::options::<PMutex<u64>>().open(&path).unwrap();
    assert_eq!(*heap.read(), 5);
}

#[test]
fn clones_and_copies_of_stored_values_are_owned_even_if_a_clone_panics() {
    #[derive(Persist)]
    #[repr(C)]
    struct Touchy(PBox<u64>);
    impl Clone for Touchy {
        fn clone(&self) -> Self {
            spring();
            Touchy(self.0.clone())
        }
    }
    let folder = folder();
    let heap = open::<PMutex<PVec<Touchy>>>(&folder);
    heap.update(|mut list| list.extend((0..10).map(|n| Touchy(PBox::new(n)))))
        .unwrap();
    for at in 0..10 {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            trapped(panics_at(at), || heap.read().clone())
        }));
        assert!(caught.is_err());
    }
    let owned = heap.read().clone();
    heap.update(|mut list| list.clear()).unwrap();
    heap.close().unwrap();
    assert!(owned.iter().map(|touchy| *touchy.0).eq(0..10));
}

/// A key that locks and changes what is in itself when it is hashed or compared.
#[derive(Persist, Default)]
#[repr(C)]
struct Restless {
    number: u64,
    seen: PMutex<PVec<u64>>,
}

thread_local! {
    static RESTLESS: Cell<Option<&'static Heap<PMutex<RestlessMaps>>>> = const { Cell::new(None) };
}

#[derive(Persist, Default)]
#[repr(C)]
struct RestlessMaps {
    hash: PHashMap<Restless, u64>,
    tree: PBTreeMap<Restless, u64>,
    list: PVec<Restless>,
}

impl Restless {
    /// Goes on whatever comes of it: it is not in the region, or somebody has it.
    fn stir(&self) {
        let Some(heap) = RESTLESS.get() else { return };
        heap.transaction(|tx| {
            if let Ok(mut seen) = tx.lock(&self.seen) {
                seen.push(self.number)?;
            }
            Ok(())
        })
        .unwrap();
    }
}

impl Hash for Restless {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.stir();
        self.number.hash(state);
    }
}

impl PartialEq for Restless {
    fn eq(&self, other: &Self) -> bool {
        self.stir();
        other.stir();
        self.number == other.number
    }
}

impl Eq for Restless {}

impl PartialOrd for Restless {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Restless {
    fn cmp(&self, other: &Self) -> Ordering {
        self.stir();
        other.stir();
        self.number.cmp(&other.number)
    }
}

#[test]
fn keys_that_change_what_is_behind_their_own_locks_move_with_it() {
    const KEYS: u64 = if cfg!(miri) { 20 } else { 120 };
    let folder = folder();
    let heap: &'static Heap<PMutex<RestlessMaps>> = Box::leak(Box::new(open(&folder)));
    let restless = |number| Restless {
        number,
        seen: PMutex::default(),
    };
    RESTLESS.set(Some(heap));
    for n in 0..KEYS {
        let change = |abort: bool| {
            heap.transaction(|tx| {
                let mut maps = tx.lock(heap.root())?;
                let number = n * 7 % KEYS;
                maps.hash_mut().insert(restless(number), n)?;
                maps.tree_mut().insert(restless(number), n)?;
                maps.list_mut().insert(0, restless(number))?;
                maps.list_mut().sort()?;
                if n % 5 == 0 {
                    maps.hash_mut().shrink_to_fit()?;
                    maps.hash_mut().remove(&restless(n / 2))?;
                    maps.tree_mut().remove(&restless(n / 2))?;
                }
                match abort {
                    true => Err(Error::abort("taken back")),
                    false => Ok(()),
                }
            })
        };
        change(true).unwrap_err();
        change(false).unwrap();
        heap.check().unwrap();
    }
    RESTLESS.set(None);
    let maps = heap.read();
    let keys = maps.hash.keys().chain(maps.tree.keys()).chain(&maps.list);
    for key in keys {
        assert!(key.seen.read().iter().all(|&seen| seen == key.number));
    }
    assert!(maps.list.iter().map(|key| key.number).eq(0..KEYS));
}

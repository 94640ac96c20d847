//! Owned trees keep their shape and lose nothing, whatever keys and values do. All of it runs under Miri.

use super::PBTreeMap;
use crate::raw::tree::Tree;
use std::cell::Cell;
use std::cmp::Ordering;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

/// That the nodes of a map are as its type promises, and hold as many entries as it says.
fn check<K, V>(map: &PBTreeMap<K, V>) {
    let (mut entries, mut levels) = (0, Vec::new());
    // SAFETY: the map is borrowed.
    unsafe {
        map.tree.each_node(&mut |node| {
            let (len, level) = (node.len(), node.level());
            assert!((1..=Tree::<K, V>::CAP).contains(&len), "{len} entries");
            if level > 0 {
                for i in 0..=len {
                    assert_eq!(node.child(i).level(), level - 1);
                }
            }
            entries += len;
            levels.resize(levels.len().max(level + 1), 0);
            levels[level] += 1;
        });
    }
    assert_eq!(entries, map.len());
    assert_eq!(entries == 0, map.is_empty());
    assert!(levels.is_empty() || levels.last() == Some(&1));
    assert_eq!(map.iter().count(), entries);
    assert_eq!(map.iter().rev().count(), entries);
}

fn random(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6364136223846793005)
        .wrapping_add(1442695040888963407);
    *state >> 33
}

const MANY: u64 = if cfg!(miri) { 300 } else { 20_000 };

#[test]
fn a_tree_that_grows_and_shrinks_keeps_its_shape() {
    // Entries so large that a node holds eleven, and so small that it holds 31.
    fn run<V: PartialEq + std::fmt::Debug>(value: impl Fn(u64) -> V) {
        let (mut map, mut twin) = (PBTreeMap::new(), std::collections::BTreeMap::new());
        let mut state = 1;
        for (inserts, rounds) in [(9, MANY), (1, MANY), (5, MANY / 2), (0, MANY)] {
            for round in 0..rounds {
                let key = random(&mut state) % MANY;
                if random(&mut state) % 10 < inserts {
                    assert_eq!(
                        map.insert(key, value(round)),
                        twin.insert(key, value(round))
                    );
                } else {
                    assert_eq!(map.remove(&key), twin.remove(&key));
                }
            }
            check(&map);
            assert!(map.iter().eq(twin.iter()));
        }
        for key in 0..MANY {
            assert_eq!(map.remove(&key), twin.remove(&key));
        }
        check(&map);
        assert!(map.is_empty());
    }
    run(|n| n);
    run(|n| [n; 8]);
    run(|_| ());
}

#[test]
fn rising_keys_fill_their_nodes() {
    let mut map = PBTreeMap::new();
    map.extend((0..31 * 20).map(|key| (key, key)));
    check(&map);
    let mut leaves = 0;
    // SAFETY: the map is borrowed.
    unsafe {
        map.tree
            .each_node(&mut |node| leaves += usize::from(node.level() == 0))
    };
    assert!(leaves <= 21, "{leaves} leaves");
    for key in (0..31 * 20).rev() {
        assert_eq!(map.pop_last(), Some((key, key)));
    }
    check(&map);
}

/// A key that counts those that are there, and whose comparisons may go wrong.
struct Key<'a> {
    number: u64,
    world: &'a World,
}

struct World {
    there: Cell<i64>,
    /// Comparisons until one panics.
    panics: Cell<u64>,
    /// Every so many comparisons one lies.
    lies: u64,
    done: Cell<u64>,
}

impl<'a> Key<'a> {
    fn new(number: u64, world: &'a World) -> Self {
        world.there.set(world.there.get() + 1);
        Key { number, world }
    }
}

impl Drop for Key<'_> {
    fn drop(&mut self) {
        self.world.there.set(self.world.there.get() - 1);
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key<'_> {}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let world = self.world;
        world.panics.set(world.panics.get() - 1);
        if world.panics.get() == 0 {
            resume_unwind(Box::new("on purpose"));
        }
        world.done.set(world.done.get() + 1);
        match self.number.cmp(&other.number) {
            order if world.lies == 0 || !world.done.get().is_multiple_of(world.lies) => order,
            order => order.reverse(),
        }
    }
}

/// Many operations with keys whose comparisons lie or panic now and then.
fn disorder(lies: u64, panics: u64) {
    let world = World {
        there: Cell::new(0),
        panics: Cell::new(u64::MAX),
        lies,
        done: Cell::new(0),
    };
    let mut map = PBTreeMap::new();
    let mut state = 7;
    for _ in 0..MANY {
        let number = random(&mut state) % (MANY / 4);
        let what = random(&mut state) % 40;
        if panics > 0 {
            world.panics.set(1 + random(&mut state) % panics);
        }
        let key = || Key::new(number, &world);
        let done = catch_unwind(AssertUnwindSafe(|| match what {
            0..=19 => drop(map.insert(key(), Rc::new(number))),
            20..=28 => drop(map.remove(&key())),
            29 | 30 => *map.entry(key()).or_default() = Rc::new(1),
            31 | 32 => drop(map.pop_first()),
            33 => drop(map.pop_last()),
            34 => assert!(map.range(key()..).count() <= map.len()),
            35 => assert!(map.range_mut(..key()).rev().count() <= map.len() || lies > 0),
            36 => map.retain(|key, _| key.number % 16 != number % 16),
            37 => {
                let mut above = map.split_off(&key());
                map.append(&mut above);
            }
            38 => drop(
                map.extract_if(key().., |key, _| key.number % 8 == 0)
                    .count(),
            ),
            _ => drop(map.get(&key())),
        }));
        assert!(done.is_ok() || panics > 0);
        world.panics.set(u64::MAX);
        assert_eq!(world.there.get(), map.len() as i64);
    }
    check(&map);
    let mut map = map.into_iter();
    drop((map.next(), map.next_back()));
    drop(map);
    assert_eq!(world.there.get(), 0);
}

#[test]
fn comparisons_that_panic_lose_nothing() {
    disorder(0, 30);
}

#[test]
fn comparisons_that_lie_lose_nothing() {
    for lies in [2, 3, 7, 50] {
        disorder(lies, 0);
    }
}

#[test]
fn drops_that_panic_drop_nothing_twice() {
    struct Bomb<'a>(u64, &'a Cell<u64>);
    impl Drop for Bomb<'_> {
        fn drop(&mut self) {
            self.1.set(self.1.get() + 1);
            if self.0 == 50 {
                resume_unwind(Box::new("on purpose"));
            }
        }
    }
    let drops = Cell::new(0);
    for what in 0..3 {
        drops.set(0);
        let mut map: PBTreeMap<u64, Bomb<'_>> = (0..100).map(|n| (n, Bomb(n, &drops))).collect();
        let done = catch_unwind(AssertUnwindSafe(|| match what {
            0 => map.clear(),
            1 => map.retain(|key, _| key % 2 == 1),
            _ => drop(map.range_mut(50..).map(|(_, bomb)| bomb.0).sum::<u64>()),
        }));
        assert_eq!(done.is_err(), what < 2);
        check(&map);
        // The one that panicked is gone; what leaks was not dropped.
        map.retain(|key, _| *key == 50);
        assert!(drops.get() <= 100);
        std::mem::forget(map.remove(&50));
    }
}

#[test]
fn a_deep_value_in_a_tree_is_the_values_own_affair() {
    type Deep = PBTreeMap<u8, crate::PBox<u64>>;
    let map: PBTreeMap<u32, Deep> = (0..40)
        .map(|n| {
            (
                n,
                (0..40)
                    .map(|m| (m, crate::PBox::new(u64::from(m))))
                    .collect(),
            )
        })
        .collect();
    let copy = map.clone();
    assert_eq!(map, copy);
    drop(map);
    assert_eq!(*copy[&39][&39], 39);
}

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

/// A map of the keys of a range, in nodes that are more or less full.
fn ragged<V>(
    keys: std::ops::Range<u64>,
    value: &impl Fn(u64) -> V,
    state: &mut u64,
) -> PBTreeMap<u64, V> {
    let mut map = PBTreeMap::new();
    let (len, keep) = (keys.end - keys.start, random(state) % 4);
    for n in 0..len {
        // All of them, in an order of its own.
        let key = keys.start + n.wrapping_mul(2_654_435_761) % len;
        map.insert(key, value(key));
    }
    map.retain(|_, _| random(state) % 4 >= keep);
    map
}

#[test]
fn trees_that_are_joined_and_cut_keep_their_shape() {
    fn run<V: PartialEq + std::fmt::Debug + Clone>(value: impl Fn(u64) -> V) {
        let mut state = 3;
        let lens: &[u64] = match cfg!(miri) {
            true => &[0, 1, 12, 60],
            false => &[0, 1, 2, 5, 12, 32, 100, 400, 5000],
        };
        let sizes = || lens.iter().flat_map(|a| lens.iter().map(move |b| (*a, *b)));
        for (round, (a, b)) in sizes().enumerate() {
            let mut lower = ragged(1..1 + a.next_power_of_two(), &value, &mut state);
            let mut upper = ragged(
                1 << 40..(1 << 40) + b.next_power_of_two(),
                &value,
                &mut state,
            );
            let twin: Vec<_> = lower
                .iter()
                .chain(&upper)
                .map(|(k, v)| (*k, v.clone()))
                .collect();
            let mut map = if round % 2 == 0 {
                lower.append(&mut upper);
                assert!(upper.is_empty());
                lower
            } else {
                upper.append(&mut lower);
                assert!(lower.is_empty());
                upper
            };
            check(&map);
            assert!(
                map.iter()
                    .map(|(k, v)| (*k, v.clone()))
                    .eq(twin.iter().cloned())
            );
            // At each end, between, and at a few others, one after the other.
            for key in [
                0,
                1,
                1 << 39,
                1 << 41,
                random(&mut state) % (a + 1),
                (1 << 40) + random(&mut state) % (b + 1),
            ] {
                let above = map.split_off(&key);
                check(&map);
                check(&above);
                assert!(map.keys().all(|k| *k < key) && above.keys().all(|k| *k >= key));
                let both = map.iter().chain(&above).map(|(k, v)| (*k, v.clone()));
                assert!(both.eq(twin.iter().cloned()));
                let mut above = above;
                if random(&mut state).is_multiple_of(2) {
                    map.append(&mut above);
                    check(&map);
                    continue;
                }
                // What is between goes back to its place.
                let mut rest = above.split_off(&(key + random(&mut state) % (a + b + 1)));
                map.append(&mut rest);
                map.append(&mut above);
                check(&map);
                assert!(above.is_empty() && rest.is_empty());
            }
            // It goes on as a tree does.
            for (key, _) in twin.iter().step_by(3) {
                assert!(map.remove(key).is_some());
            }
            check(&map);
        }
    }
    run(|n| n);
    run(|n| [n; 8]);
    run(|_| ());
}

#[test]
fn a_tree_that_is_cut_again_and_again_stays_low() {
    let mut map: PBTreeMap<u64, u64> = (0..MANY).map(|n| (n, n)).collect();
    let mut state = 5;
    for _ in 0..MANY / 20 {
        let mut above = map.split_off(&(random(&mut state) % MANY));
        map.append(&mut above);
    }
    check(&map);
    assert_eq!(map.len() as u64, MANY);
    let (mut nodes, mut levels) = (0, 0);
    // SAFETY: the map is borrowed.
    unsafe {
        map.tree.each_node(&mut |node| {
            nodes += 1;
            levels = levels.max(node.level() + 1);
        });
    }
    // Nodes a third full, and a few less so.
    assert!(nodes <= 10 + MANY / 9, "{nodes} nodes");
    assert!(levels <= 5, "{levels} levels");
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
                if number.is_multiple_of(2) {
                    std::mem::swap(&mut map, &mut above);
                }
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

//! Crash exploration of the collections: every image that a crash can leave within the bound is recovered and compared
//! with a model in `std`'s types. What was acknowledged is there, nothing is torn, nothing is leaked, and it goes on.
//!
//! A story is a sequence of transactions, each drawn from its number, so that it can be told again from any point.

#![cfg(not(loom))]

use bartender::testing::{CrashTest, Explored, SimKind};
use bartender::{
    Error, Heap, Mut, PBox, PHashMap, PMutex, PString, PVec, Persist, PlainData, Result,
};
use bartender_pm::mutant;
use std::collections::HashMap;
use std::fmt::Debug;

/// Seeded pseudo-random numbers.
struct Rng(u64);

impl Rng {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^ (z >> 29)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.draw() >> 8) % n
    }
}

trait Story {
    type Root: Persist + Default;
    type Model: Clone + Default + PartialEq + Debug;

    /// Transactions.
    const STEPS: u64;
    /// A checkpoint comes after every so many of them.
    const CHECKPOINT_EVERY: u64 = 5;

    /// What a transaction does, to the region and to the model.
    fn step(
        k: u64,
        rng: &mut Rng,
        root: Mut<'_, Self::Root>,
        model: &mut Self::Model,
    ) -> Result<()>;

    fn read(root: &Self::Root) -> Self::Model;
}

type Root<S> = PMutex<<S as Story>::Root>;

/// Runs transaction `k`; every third time it is tried and taken back before.
fn tell<S: Story>(heap: &Heap<Root<S>>, k: u64, model: &S::Model) -> S::Model {
    if k.is_multiple_of(3) {
        let mut scratch = model.clone();
        let aborted = heap.update(|root| {
            S::step(k + 7, &mut Rng(k + 7), root, &mut scratch)?;
            Err::<(), _>(Error::abort("on purpose"))
        });
        assert!(matches!(aborted, Err(Error::Aborted(_))), "{aborted:?}");
        assert_eq!(S::read(&heap.read()), *model, "after taking back");
    }
    let mut after = model.clone();
    heap.update(|root| S::step(k, &mut Rng(k), root, &mut after))
        .expect("commits");
    assert_eq!(S::read(&heap.read()), after, "after transaction {k}");
    after
}

fn explore<S: Story>(test: CrashTest) -> std::result::Result<Explored, String> {
    // The model and the live blocks after each transaction of a run without a crash.
    let mut states: Vec<(S::Model, u64)> = Vec::new();
    test.run(|heap: &Heap<Root<S>>, acks| {
        let mut model = S::Model::default();
        states.push((model.clone(), heap.stats().live_blocks));
        acks.acknowledge(0);
        for k in 1..=S::STEPS {
            model = tell::<S>(heap, k, &model);
            acks.acknowledge(k);
            heap.check().expect("passes");
            states.push((model.clone(), heap.stats().live_blocks));
            if k % S::CHECKPOINT_EVERY == 0 {
                heap.checkpoint().expect("no I/O error");
            }
        }
    })
    .try_check(|heap, acked| {
        let least = acked.last().copied().unwrap_or(0) as usize;
        let now = (S::read(&heap.read()), heap.stats().live_blocks);
        let possible = &states[least..states.len().min(least + 2)];
        assert!(
            possible.contains(&now),
            "{} after {least} transactions; possible {}",
            short(&now),
            short(&possible)
        );
        let k = acked.len() as u64 + 1000;
        tell::<S>(heap, k, &now.0);
    })
}

/// The beginning of what may be long.
fn short(value: &impl Debug) -> String {
    format!("{value:?}").chars().take(300).collect()
}

fn explore_both<S: Story>(name: &str, bound: impl Fn(CrashTest) -> CrashTest) {
    for kind in [SimKind::Dax, SimKind::Disk] {
        let explored = explore::<S>(bound(CrashTest::new(kind)));
        let explored = explored.unwrap_or_else(|what| panic!("{name}, {kind:?}: {what}"));
        println!("{name}, {kind:?}: {explored}");
        assert!(explored.images > 50, "{name}: only {}", explored.images);
    }
}

/// Boxes: set, replaced, taken, swapped, changed inside, and a list of them.
struct Boxes;

#[derive(Persist)]
#[repr(C)]
struct Node {
    next: Option<PBox<Node>>,
    value: u64,
}

#[derive(Persist, Default)]
#[repr(C)]
struct BoxRoot {
    a: Option<PBox<[u64; 4]>>,
    b: Option<PBox<[u64; 4]>>,
    list: Option<PBox<Node>>,
}

#[derive(Clone, Default, PartialEq, Debug)]
struct BoxModel {
    a: Option<[u64; 4]>,
    b: Option<[u64; 4]>,
    list: Vec<u64>,
}

impl Story for Boxes {
    type Root = BoxRoot;
    type Model = BoxModel;
    const STEPS: u64 = 24;

    fn step(k: u64, rng: &mut Rng, root: Mut<'_, BoxRoot>, model: &mut BoxModel) -> Result<()> {
        let mut root = root.into_project();
        for _ in 0..=rng.below(3) {
            match rng.below(7) {
                0 | 1 => {
                    root.a.set(Some(PBox::new([k; 4])))?;
                    model.a = Some([k; 4]);
                }
                2 => {
                    let old = Mut::replace(&mut root.b, Some(PBox::new([k, 1, 2, 3])))?;
                    assert_eq!(old.map(PBox::into_inner), model.b);
                    model.b = Some([k, 1, 2, 3]);
                }
                3 => {
                    let taken = Mut::take(&mut root.a)?;
                    assert_eq!(taken.map(PBox::into_inner), model.a.take());
                }
                4 => {
                    Mut::swap(&mut root.a, &mut root.b)?;
                    std::mem::swap(&mut model.a, &mut model.b);
                }
                5 => {
                    let rest = Mut::take(&mut root.list)?;
                    let node = Node {
                        next: rest,
                        value: k,
                    };
                    root.list.set(Some(PBox::new(node)))?;
                    model.list.insert(0, k);
                }
                _ => {
                    if let Some(mut boxed) = root.b.project() {
                        boxed.project()[2] += k;
                    }
                    if let Some(array) = &mut model.b {
                        array[2] += k;
                    }
                }
            }
        }
        Ok(())
    }

    fn read(root: &BoxRoot) -> BoxModel {
        let list = std::iter::successors(root.list.as_ref(), |node| node.next.as_ref());
        BoxModel {
            a: root.a.as_ref().map(|a| **a),
            b: root.b.as_ref().map(|b| **b),
            list: list.map(|node| node.value).collect(),
        }
    }
}

#[test]
fn every_crash_of_boxes_is_recovered() {
    explore_both::<Boxes>("boxes", |test| test);
}

/// Vectors of plain data and of boxes: ends, middle, growth, truncation.
struct Vectors;

#[derive(Persist, Default)]
#[repr(C)]
struct VecRoot {
    numbers: PVec<u64>,
    boxes: PVec<PBox<u64>>,
}

impl Story for Vectors {
    type Root = VecRoot;
    type Model = (Vec<u64>, Vec<u64>);
    const STEPS: u64 = 30;

    fn step(
        k: u64,
        rng: &mut Rng,
        root: Mut<'_, VecRoot>,
        (numbers, boxes): &mut Self::Model,
    ) -> Result<()> {
        let mut root = root.into_project();
        for _ in 0..=rng.below(3) {
            let at = rng.below(numbers.len() as u64 + 1) as usize;
            match rng.below(12) {
                0..=2 => {
                    root.numbers.push(k)?;
                    numbers.push(k);
                }
                3 => {
                    root.numbers.extend_from_slice(&[k; 9])?;
                    numbers.extend([k; 9]);
                }
                4 => {
                    root.numbers.insert(at, k)?;
                    numbers.insert(at, k);
                }
                5 => assert_eq!(root.numbers.pop()?, numbers.pop()),
                6 => {
                    root.numbers.truncate(at)?;
                    numbers.truncate(at);
                }
                7 => {
                    if let Some(mut last) = root.numbers.last_mut() {
                        *last += 1;
                        *numbers.last_mut().expect("as long") += 1;
                    }
                }
                8 | 9 => {
                    root.boxes.insert(0, PBox::new(k))?;
                    root.boxes.push(PBox::new(k + 1))?;
                    boxes.insert(0, k);
                    boxes.push(k + 1);
                }
                10 if !boxes.is_empty() => {
                    let at = at % boxes.len();
                    assert_eq!(PBox::into_inner(root.boxes.remove(at)?), boxes.remove(at));
                }
                _ => {
                    root.boxes.retain(|boxed| !boxed.is_multiple_of(2))?;
                    boxes.retain(|boxed| !boxed.is_multiple_of(2));
                }
            }
        }
        Ok(())
    }

    fn read(root: &VecRoot) -> Self::Model {
        let boxes = root.boxes.iter().map(|boxed| **boxed).collect();
        (root.numbers.to_vec(), boxes)
    }
}

#[test]
fn every_crash_of_vectors_is_recovered() {
    explore_both::<Vectors>("vectors", |test| test);
}

/// Strings.
struct Strings;

impl Story for Strings {
    type Root = (PString, PVec<PString>);
    type Model = (String, Vec<String>);
    const STEPS: u64 = 24;

    fn step(
        k: u64,
        rng: &mut Rng,
        root: Mut<'_, Self::Root>,
        (text, list): &mut Self::Model,
    ) -> Result<()> {
        let (mut stored, mut stored_list) = root.into_project();
        // Every other one has a block.
        let rest = ["", " of many more than fit"][k as usize % 2];
        let word = format!("wörd{k}{rest}");
        match rng.below(7) {
            0 | 1 => {
                stored.push_str(&word)?;
                text.push_str(&word);
            }
            2 => {
                stored.insert(0, 'é')?;
                text.insert(0, 'é');
            }
            3 => assert_eq!(stored.pop()?, text.pop()),
            4 => {
                stored.set(PString::from("new"))?;
                *text = "new".to_owned();
            }
            5 => {
                stored_list.push(PString::from(text.as_str()))?;
                stored.clear()?;
                list.push(std::mem::take(text));
            }
            _ => {
                stored_list.insert(0, PString::from(word.as_str()))?;
                stored_list.truncate(4)?;
                list.insert(0, word);
                list.truncate(4);
            }
        }
        Ok(())
    }

    fn read((text, list): &Self::Root) -> Self::Model {
        let list = list.iter().map(|text| text.to_string()).collect();
        (text.to_string(), list)
    }
}

#[test]
fn every_crash_of_strings_is_recovered() {
    explore_both::<Strings>("strings", |test| test);
}

/// A map: growth, removal, and the rehash in place that removals lead to.
struct Map;

impl Story for Map {
    type Root = PHashMap<u64, u64>;
    type Model = HashMap<u64, u64>;
    const STEPS: u64 = 40;

    fn step(
        k: u64,
        rng: &mut Rng,
        mut root: Mut<'_, Self::Root>,
        model: &mut Self::Model,
    ) -> Result<()> {
        let key = rng.below(48);
        match rng.below(6) {
            0..=2 => {
                for key in key..key + 6 {
                    assert_eq!(root.insert(key, k)?, model.insert(key, k));
                }
            }
            3 | 4 => {
                for key in key..key + 5 {
                    assert_eq!(root.remove(&key)?, model.remove(&key));
                }
            }
            _ => {
                *root.entry(key).or_default()? += k;
                *model.entry(key).or_default() += k;
            }
        }
        Ok(())
    }

    fn read(root: &Self::Root) -> Self::Model {
        root.iter().map(|(key, value)| (*key, *value)).collect()
    }
}

#[test]
fn every_crash_of_maps_is_recovered() {
    explore_both::<Map>("maps", |test| test);
}

/// A map of strings to vectors of boxes.
struct Nested;

impl Story for Nested {
    type Root = PHashMap<PString, PVec<PBox<u64>>>;
    type Model = HashMap<String, Vec<u64>>;
    const STEPS: u64 = 30;

    fn step(
        k: u64,
        rng: &mut Rng,
        mut root: Mut<'_, Self::Root>,
        model: &mut Self::Model,
    ) -> Result<()> {
        for _ in 0..=rng.below(3) {
            let n = rng.below(20);
            // Every other one has a block.
            let rest = ["", " of many more than fit"][n as usize % 2];
            let key = format!("key {n}{rest}");
            match rng.below(8) {
                0..=3 => {
                    let mut entry = root.entry(PString::from(key.as_str())).or_default()?;
                    entry.push(PBox::new(k))?;
                    entry.push(PBox::new(k * 2))?;
                    model.entry(key).or_default().extend([k, k * 2]);
                }
                4 => {
                    let list: Vec<_> = (0..k % 9).collect();
                    let stored = list.iter().copied().map(PBox::new).collect();
                    root.insert(PString::from(key.as_str()), stored)?;
                    model.insert(key, list);
                }
                5 => {
                    let removed = root.remove(key.as_str())?;
                    let removed = removed.map(|list| list.iter().map(|n| **n).collect());
                    assert_eq!(removed, model.remove(&key));
                }
                6 => {
                    if let Some(mut list) = root.get_mut(key.as_str()) {
                        list.retain(|n| **n > 20)?;
                        model.get_mut(&key).expect("there").retain(|n| *n > 20);
                    }
                }
                _ => {
                    root.retain(|_, list| list.len() < 5)?;
                    model.retain(|_, list| list.len() < 5);
                }
            }
        }
        Ok(())
    }

    fn read(root: &Self::Root) -> Self::Model {
        let list = |list: &PVec<PBox<u64>>| list.iter().map(|n| **n).collect();
        root.iter()
            .map(|(key, value)| (key.to_string(), list(value)))
            .collect()
    }
}

#[test]
fn every_crash_of_nested_collections_is_recovered() {
    explore_both::<Nested>("nested", |test| test);
}

/// Enums whose variants own different things.
struct Shapes;

#[derive(Persist, PlainData, Clone, Copy, PartialEq, Debug)]
#[repr(C)]
struct Point {
    x: i32,
    y: i32,
}

#[derive(Persist, Default)]
#[repr(C, u8)]
enum Shape {
    #[default]
    Nothing,
    At(Point),
    Named {
        name: PString,
        parts: PVec<Shape>,
    },
    Boxed(PBox<Shape>),
}

#[derive(Clone, PartialEq, Debug, Default)]
enum Plain {
    #[default]
    Nothing,
    At(Point),
    Named(String, Vec<Plain>),
    Boxed(Box<Plain>),
}

fn plain(shape: &Shape) -> Plain {
    match shape {
        Shape::Nothing => Plain::Nothing,
        Shape::At(point) => Plain::At(*point),
        Shape::Named { name, parts } => {
            Plain::Named(name.to_string(), parts.iter().map(plain).collect())
        }
        Shape::Boxed(shape) => Plain::Boxed(Box::new(plain(shape))),
    }
}

fn owned(shape: &Plain) -> Shape {
    match shape {
        Plain::Nothing => Shape::Nothing,
        Plain::At(point) => Shape::At(*point),
        Plain::Named(name, parts) => Shape::Named {
            name: PString::from(name.as_str()),
            parts: parts.iter().map(owned).collect(),
        },
        Plain::Boxed(shape) => Shape::Boxed(PBox::new(owned(shape))),
    }
}

fn draw(rng: &mut Rng, depth: u64) -> Plain {
    let below = if depth == 0 { 2 } else { 4 };
    match rng.below(below) {
        0 => Plain::Nothing,
        1 => Plain::At(Point {
            x: rng.below(100) as i32,
            y: -1,
        }),
        2 => Plain::Boxed(Box::new(draw(rng, depth - 1))),
        _ => {
            let parts = (0..rng.below(4)).map(|_| draw(rng, depth - 1)).collect();
            Plain::Named(format!("name {}", rng.below(1000)), parts)
        }
    }
}

impl Story for Shapes {
    type Root = [Shape; 2];
    type Model = [Plain; 2];
    const STEPS: u64 = 24;

    fn step(
        k: u64,
        rng: &mut Rng,
        root: Mut<'_, Self::Root>,
        model: &mut Self::Model,
    ) -> Result<()> {
        let [mut a, mut b] = root.into_project();
        match rng.below(5) {
            0 | 1 => {
                model[0] = draw(rng, 3);
                a.set(owned(&model[0]))?;
            }
            2 => {
                model[1] = std::mem::replace(&mut model[0], draw(rng, 2));
                let old = Mut::replace(&mut a, owned(&model[0]))?;
                b.set(old)?;
            }
            3 => {
                Mut::swap(&mut a, &mut b)?;
                model.swap(0, 1);
            }
            _ => match (b.project(), &mut model[1]) {
                (ShapeProj::At(mut point), Plain::At(plain)) => {
                    point.x += k as i32;
                    plain.x += k as i32;
                }
                (
                    ShapeProj::Named {
                        mut name,
                        mut parts,
                    },
                    Plain::Named(plain, plain_parts),
                ) => {
                    name.push_str("!")?;
                    parts.push(Shape::Nothing)?;
                    plain.push('!');
                    plain_parts.push(Plain::Nothing);
                }
                _ => {}
            },
        }
        Ok(())
    }

    fn read(root: &Self::Root) -> Self::Model {
        [plain(&root[0]), plain(&root[1])]
    }
}

#[test]
fn every_crash_of_enums_is_recovered() {
    explore_both::<Shapes>("enums", |test| test);
}

/// Large vectors: whole superblocks and runs, written straight to the home, changed afterwards, freed, and their space
/// used again; the region grows meanwhile.
struct Large;

impl Story for Large {
    type Root = PVec<PVec<u64>>;
    type Model = Vec<Vec<u64>>;
    const STEPS: u64 = 14;

    fn step(
        k: u64,
        rng: &mut Rng,
        mut root: Mut<'_, Self::Root>,
        model: &mut Self::Model,
    ) -> Result<()> {
        let some = rng.below(model.len().max(1) as u64) as usize;
        match rng.below(5) {
            0..=1 => {
                let len = [9_000, 20_000, 40_000][rng.below(3) as usize];
                let list: Vec<u64> = (0..len).map(|i| i * k).collect();
                root.push(PVec::from(&list[..]))?;
                model.push(list);
            }
            2 if !model.is_empty() => {
                root.swap_remove(some)?;
                model.swap_remove(some);
            }
            3 => {
                let mut list = root.get_mut(some);
                for _ in 0..5 {
                    if let (Some(list), Some(plain)) = (&mut list, model.get_mut(some)) {
                        let at = rng.below(plain.len() as u64) as usize;
                        *list.get_mut(at).expect("as long") = k;
                        plain[at] = k;
                    }
                }
            }
            _ => {
                if model.len() > 3 {
                    root.truncate(1)?;
                    model.truncate(1);
                }
            }
        }
        Ok(())
    }

    fn read(root: &Self::Root) -> Self::Model {
        root.iter().map(|list| list.to_vec()).collect()
    }
}

#[test]
fn every_crash_of_large_values_is_recovered() {
    explore_both::<Large>("large", large);
}

/// Large vectors that are made, changed and removed in turn, without a checkpoint: their space is used again while the
/// log still changes it.
struct Reused;

impl Story for Reused {
    type Root = Option<PVec<u64>>;
    type Model = Option<Vec<u64>>;
    const STEPS: u64 = 12;
    const CHECKPOINT_EVERY: u64 = 8;

    fn step(
        k: u64,
        rng: &mut Rng,
        mut root: Mut<'_, Self::Root>,
        model: &mut Self::Model,
    ) -> Result<()> {
        match (root.project(), model.as_mut()) {
            (Some(mut list), Some(plain)) if !k.is_multiple_of(3) => {
                for _ in 0..20 {
                    let at = rng.below(plain.len() as u64) as usize;
                    *list.get_mut(at).expect("as long") = k;
                    plain[at] = k;
                }
            }
            (Some(_), _) => {
                root.set(None)?;
                *model = None;
            }
            _ => {
                let list: Vec<u64> = (0..20_000).map(|i| i * k).collect();
                root.set(Some(PVec::from(&list[..])))?;
                *model = Some(list);
            }
        }
        Ok(())
    }

    fn read(root: &Self::Root) -> Self::Model {
        root.as_ref().map(|list| list.to_vec())
    }
}

fn large(test: CrashTest) -> CrashTest {
    test.log_size(2 << 20)
        .max_size(16 << 20)
        .images_per_point(5)
}

#[test]
fn every_crash_of_space_used_again_is_recovered() {
    explore_both::<Reused>("used again", large);
}

/// Runs a story with one rule switched off: whether anything was noticed, in the run or in an image.
fn is_caught<S: Story>(name: &'static str, test: CrashTest) -> bool {
    let told = std::panic::catch_unwind(|| mutant::with(name, || explore::<S>(test)));
    match told {
        Ok(Ok(explored)) => {
            println!("{name} survived: {explored}");
            false
        }
        Ok(Err(what)) => {
            println!("{name}: {what}");
            true
        }
        Err(_) => {
            println!("{name}: noticed in the run");
            true
        }
    }
}

fn assert_caught<S: Story>(
    name: &'static str,
    kinds: &[SimKind],
    bound: fn(CrashTest) -> CrashTest,
) {
    for &kind in kinds {
        let caught = is_caught::<S>(name, bound(CrashTest::new(kind)));
        assert!(
            caught || !mutant::ON,
            "the mutant {name} was not noticed, {kind:?}"
        );
    }
}

/// The exploration is as good as what it notices: each of these builds breaks one rule.
#[test]
fn mutants_are_caught() {
    const BOTH: &[SimKind] = &[SimKind::Dax, SimKind::Disk];
    const DAX: &[SimKind] = &[SimKind::Dax];
    // Rule 4: a superblock's entry is not in the record that first allocates from it.
    assert_caught::<Boxes>("no_entries", BOTH, |test| test);
    assert_caught::<Nested>("no_entries", BOTH, |test| test);
    // Frees take effect when they are made instead of when they are durable.
    assert_caught::<Boxes>("free_at_once", BOTH, |test| test);
    // Rule 6: space is written past the log although records in the log still touch it.
    assert_caught::<Reused>("stale_fresh", BOTH, large);
    assert_caught::<Large>("no_fresh_barrier", BOTH, large);
    // The rules below, from up here.
    assert_caught::<Vectors>("truncate_first", DAX, |test| test.images_per_point(40));
    assert_caught::<Vectors>("no_home_barrier", DAX, |test| test.images_per_point(40));
    assert_caught::<Vectors>("no_checksum", DAX, |test| test.images_per_point(40));
}

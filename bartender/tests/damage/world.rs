//! A region with a value of every kind in it: written, read as a whole, and changed in all ways.

use bartender::{
    Error, Heap, Mut, Options, PAtomicI64, PAtomicU64, PBTreeMap, PBTreeSet, PBox, PHashMap,
    PHashSet, PMutex, PRcu, PRwLock, PShared, PString, PVec, PVecDeque, Persist, PlainData,
};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

pub(crate) type Root = PRwLock<World>;

#[derive(Persist)]
#[repr(u8)]
pub(crate) enum Shape {
    Nothing,
    Line(f64),
    Text { text: PString, letter: char } = 7,
    Many(PVec<Shape>),
}

#[derive(Persist, Default)]
#[repr(C, u8)]
pub(crate) enum Prefixed {
    #[default]
    None,
    Some(PBox<u64>, bool),
}

#[derive(Persist, Default)]
#[repr(C)]
pub(crate) struct Node {
    value: Option<u32>,
    flag: bool,
    next: Option<PBox<Node>>,
    maybe: Option<(bool, Option<char>)>,
}

#[derive(Persist, PlainData, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Point {
    x: i32,
    y: i32,
}

#[derive(Persist, Default)]
#[repr(C)]
pub(crate) struct World {
    names: PHashMap<PString, PVec<u64>>,
    shapes: PVec<Shape>,
    list: Option<PBox<Node>>,
    locks: PVec<PMutex<Option<PBox<u64>>>>,
    pairs: PVec<(u8, u64)>,
    bulk: PVec<u8>,
    text: PString,
    points: PHashMap<u32, Point>,
    tables: PHashMap<u8, PHashMap<u16, PBox<PString>>>,
    set: PHashSet<PString>,
    numbers: PVec<Option<NonZeroU32>>,
    prefixed: [Prefixed; 3],
    inner: PMutex<PHashMap<u64, PRwLock<PVec<char>>>>,
    flags: PVec<bool>,
    empty: PHashMap<u64, ()>,
    ring: PVecDeque<PString>,
    bytes: PVecDeque<u8>,
    visits: PAtomicU64,
    balances: PHashMap<u16, PAtomicI64>,
    version: PRcu<PVec<PString>>,
    shared: PVec<PShared<Common>>,
    tree: PBTreeMap<PString, PVec<u32>>,
    numbered: PBTreeMap<u64, u8>,
    ordered: PBTreeSet<u16>,
    slice: PBox<[PString]>,
    title: PBox<str>,
    spans: PVec<Duration>,
    doubts: PVec<Option<Option<bool>>>,
    rest: Option<PBox<[u32]>>,
    nested: PBTreeMap<u8, PBTreeMap<u16, PBox<u64>>>,
}

/// What several own.
#[derive(Persist, Default)]
#[repr(C)]
pub(crate) struct Common {
    text: PString,
    inner: Option<PShared<PString>>,
}

pub(crate) fn options() -> Options<Root> {
    Heap::options().max_size(16 << 20).log_size(256 << 10)
}

/// A text: every third one is too long to stand in the value itself.
fn text(mut text: String, i: u64) -> PString {
    if i.is_multiple_of(3) {
        text.push_str(", and more than fits");
    }
    text.into()
}

/// Adds `from..to` to everything, a transaction each.
pub(crate) fn fill(heap: &Heap<Root>, from: u64, to: u64) -> Result<(), Error> {
    for i in from..to {
        heap.update(|world| {
            let mut world = world.into_project();
            world
                .names
                .insert(PString::from(format!("name {i}")), (0..i % 50).collect())?;
            world.shapes.push(shape(i))?;
            let next = Mut::take_moved(&mut world.list)?;
            world.list.set(Some(PBox::new(Node {
                value: (i % 2 == 0).then_some(7),
                flag: true,
                next: None,
                maybe: (i % 3 != 0).then_some((i % 2 == 1, (i % 5 == 0).then_some('ß'))),
            })))?;
            let node = world.list.project().expect("just set");
            node.into_project().into_project().next.set_moved(next)?;
            world.locks.push(PMutex::new(Some(PBox::new(i))))?;
            world.pairs.push((1, i))?;
            world.text.push_str("ü!")?;
            world.points.insert(i as u32, Point { x: 1, y: i as i32 })?;
            let mut inside = PHashMap::new();
            for n in 0..i % 20 {
                inside.insert(n as u16, PBox::new(PString::from(format!("{n}"))));
            }
            world.tables.insert(i as u8, inside)?;
            world.set.insert(text(format!("in {i}"), i))?;
            world.numbers.push(NonZeroU32::new(i as u32 % 3))?;
            world.prefixed.project()[i as usize % 3]
                .set(Prefixed::Some(PBox::new(i), i % 2 == 0))?;
            let list: PVec<char> = "häuser".chars().take(i as usize % 7).collect();
            let mut inner = world.inner.project();
            inner.insert(i, PRwLock::new(list))?;
            world.flags.push(i % 2 == 0)?;
            world.ring.push_back(text(format!("ring {i}"), i))?;
            world.ring.push_front(PString::from("front"))?;
            if i.is_multiple_of(3) {
                world.ring.pop_front()?;
                world.ring.pop_front()?;
            }
            world.bytes.push_front(i as u8)?;
            world.balances.insert(i as u16, PAtomicI64::new(-3))?;
            world.shared.push(PShared::new(Common {
                text: text(format!("common {i}"), i),
                inner: (i % 2 == 0).then(|| PShared::new("inside".into())),
            }))?;
            world
                .tree
                .insert(text(format!("leaf {i}"), i), (0..i as u32 % 9).collect())?;
            for n in 0..20 {
                world.numbered.insert(i * 37 % 64 * 20 + n, n as u8)?;
            }
            world.ordered.insert(i as u16 * 7 % 97)?;
            world
                .slice
                .set((0..i % 5).map(|n| PString::from(format!("{n}"))).collect())?;
            world
                .title
                .set(format!("the tïtle of {i}").as_str().into())?;
            world.spans.push(Duration::new(i, i as u32))?;
            let doubts = [None, Some(None), Some(Some(i % 2 == 0))];
            world.doubts.push(doubts[i as usize % 3])?;
            let rest = (0..i as u32 % 9).collect();
            world.rest.set((i % 4 != 3).then_some(rest))?;
            let inside = (0..i as u16 % 30).map(|n| (n, PBox::new(i))).collect();
            world.nested.insert(i as u8 % 40, inside)?;
            world.bulk.extend_from_slice(&[i as u8; 300])
        })?;
        heap.transaction(|tx| {
            let mut world = tx.lock(heap.root())?.into_project();
            world.visits.add(tx, i)?;
            if let Some(balance) = world.balances.get(&(i as u16)) {
                balance.sub(tx, 2)?;
            }
            if let Some(first) = world.shared.first() {
                let again = first.share(tx)?;
                world.shared.push_moved(again)?;
            }
            Ok(())
        })?;
        let world = heap.read();
        heap.transaction(|tx| {
            world.version.update(tx, |old| {
                let mut new: PVec<PString> = old.iter().skip(old.len() / 9).cloned().collect();
                new.push(text(format!("version {i}"), i));
                new
            })
        })?;
    }
    Ok(())
}

fn shape(i: u64) -> Shape {
    match i % 4 {
        0 => Shape::Nothing,
        1 => Shape::Line(i as f64),
        2 => Shape::Many(PVec::from([Shape::Nothing, shape(i / 4)])),
        _ => Shape::Text {
            text: "some text, öäü".into(),
            letter: 'x',
        },
    }
}

/// Reads everything, so that whoever watches for undefined behaviour sees it; returns a number that depends on all of it.
pub(crate) fn walk(world: &World) -> u64 {
    let mut sum = DefaultHasher::new();
    let h = &mut sum;
    for (name, list) in world.names.iter() {
        (name.chars().count(), &list[..]).hash(h);
        world
            .names
            .get(name.as_str())
            .map(|list| list.len())
            .hash(h);
    }
    world.names.get("nobody").is_some().hash(h);
    fn each(shapes: &[Shape], h: &mut DefaultHasher) {
        for shape in shapes {
            match shape {
                Shape::Nothing => 0.hash(h),
                Shape::Line(length) => length.to_bits().hash(h),
                Shape::Text { text, letter } => (text.to_uppercase(), letter).hash(h),
                Shape::Many(inside) => each(inside, h),
            }
        }
    }
    each(&world.shapes, h);
    let mut next = world.list.as_ref();
    while let Some(node) = next {
        (node.value, node.flag, node.maybe).hash(h);
        next = node.next.as_ref();
    }
    for lock in world.locks.iter() {
        lock.read().as_ref().map(|inside| **inside).hash(h);
    }
    world.pairs[..].hash(h);
    (&world.bulk[..], world.text.to_lowercase()).hash(h);
    for (at, point) in world.points.iter() {
        (at, point.x, point.y, world.points.contains_key(at)).hash(h);
    }
    for (n, table) in world.tables.iter() {
        for (m, text) in table.iter() {
            (n, m, text.chars().rev().collect::<String>()).hash(h);
            table.get(m).is_some().hash(h);
        }
        table.get(&999).is_some().hash(h);
    }
    for text in world.set.iter() {
        (text.as_str(), world.set.contains(text.as_str())).hash(h);
    }
    world.numbers[..].hash(h);
    for prefixed in &world.prefixed {
        match prefixed {
            Prefixed::None => 1.hash(h),
            Prefixed::Some(number, flag) => (**number, flag).hash(h),
        }
    }
    for (n, list) in world.inner.read().iter() {
        (n, list.read().iter().collect::<String>()).hash(h);
    }
    world.flags[..].hash(h);
    world.empty.len().hash(h);
    for text in world.ring.iter() {
        text.to_uppercase().hash(h);
    }
    for byte in world.bytes.iter() {
        byte.hash(h);
    }
    for text in world.version.read().iter() {
        text.to_uppercase().hash(h);
    }
    for shared in world.shared.iter() {
        (
            shared.text.to_uppercase(),
            shared.inner.as_ref().map(|inner| inner.to_uppercase()),
        )
            .hash(h);
    }
    for (name, list) in world.tree.iter() {
        (
            name.to_uppercase(),
            &list[..],
            world.tree.contains_key(name.as_str()),
        )
            .hash(h);
    }
    for (n, byte) in world.numbered.range(100..500).rev() {
        (n, byte, world.numbered.get(n)).hash(h);
    }
    for (n, byte) in &world.numbered {
        (n, byte).hash(h);
    }
    (
        world.ordered.iter().count(),
        world.ordered.first(),
        world.ordered.last(),
    )
        .hash(h);
    for text in world.slice.iter() {
        text.to_uppercase().hash(h);
    }
    (world.title.to_uppercase(), &world.doubts[..]).hash(h);
    (&world.spans[..], world.rest.as_deref()).hash(h);
    for (n, inside) in world.nested.iter().rev() {
        // Into as much room as they say.
        let all: Vec<(&u16, u64)> = inside.iter().map(|(m, value)| (m, **value)).collect();
        (n, all, inside.range(3..9).count()).hash(h);
    }
    for (n, balance) in world.balances.iter() {
        (n, balance.load()).hash(h);
    }
    world.visits.load().hash(h);
    h.finish()
}

/// Changes everything: grows, shrinks, moves, takes out of the region, and takes back.
pub(crate) fn change(heap: &Heap<Root>) -> Result<(), Error> {
    fill(heap, 1000, 1003)?;
    let taken_back = heap.update(|world| {
        let mut world = world.into_project();
        world.names.clear()?;
        world.shapes.clear()?;
        world.list.set(None)?;
        world.tables.remove(&3)?;
        world.text.clear()?;
        Err::<(), _>(Error::abort("on purpose"))
    });
    if !matches!(taken_back, Err(Error::Aborted(_))) {
        taken_back?;
    }
    heap.update(|world| {
        let mut world = world.into_project();
        world.names.retain(|_, list| list.len() % 2 == 0)?;
        world.names.remove("name 4")?;
        world.names.remove("nobody")?;
        for n in 0..40 {
            world.points.remove(&n)?;
            world.points.insert(n + 5000, Point::default())?;
        }
        if let Some(mut list) = world.names.get_mut("name 8") {
            list.insert(0, 9)?;
            list.retain(|n| *n % 3 != 0)?;
        }
        let half = world.shapes.len() / 2;
        if half > 0 {
            drop(world.shapes.remove(half - 1)?);
        }
        drop(world.shapes.pop()?);
        world.shapes.truncate(half)?;
        world.text.push_str("end")?;
        world.text.pop()?;
        world.set.remove("in 7")?;
        world.set.retain(|text| text.len() != 5)?;
        world.numbers.insert(0, None)?;
        world.flags.push(true)
    })?;
    // Out of the region, as ordinary values, and in again.
    heap.update(|world| {
        let mut world = world.into_project();
        let tables = Mut::take(&mut world.tables)?;
        let shapes = Mut::take(&mut world.shapes)?;
        let moved = Mut::take_moved(&mut world.names)?;
        world.names.set_moved(moved)?;
        world.shapes.set(shapes.into_iter().rev().collect())?;
        world.tables.set(tables)?;
        let locks = Mut::take(&mut world.locks)?;
        world.locks.set(locks)?;
        let inner = Mut::replace(&mut world.inner, PMutex::default())?;
        world.inner.set(inner)?;
        world.list.set(None)
    })?;
    heap.update(|world| {
        let mut world = world.into_project();
        world.bulk.clear()?;
        world.bulk.set(PVec::new())?;
        world.names.clear()?;
        for n in 0..300 {
            world.numbered.remove(&(n * 3))?;
        }
        world.tree.retain(|_, list| list.len() % 2 == 0)?;
        world.tree.remove("leaf 4")?;
        world.tree.pop_first()?;
        world.numbered.pop_last()?;
        world.ordered.remove(&7)?;
        let tree = Mut::take(&mut world.tree)?;
        world.tree.set(tree)?;
        world.numbered.clear()?;
        let ring = Mut::take(&mut world.ring)?;
        world.ring.set(ring)?;
        world.ring.pop_back()?;
        world.ring.truncate(3)?;
        world.bytes.clear()?;
        let shared = Mut::take(&mut world.shared)?;
        world.shared.set(shared)?;
        world.shared.truncate(2)?;
        world.balances.retain(|n, _| n % 2 == 0)?;
        world.prefixed.set(Default::default())?;
        let nested = Mut::take(&mut world.nested)?;
        world.nested.set(nested.into_iter().skip(3).collect())?;
        world.nested.retain(|_, inside| !inside.is_empty())?;
        if let Some((_, mut inside)) = world.nested.iter_mut().next() {
            inside.pop_first()?;
        }
        world.doubts.retain(|doubt| doubt.is_some())?;
        let rest = Mut::take(&mut world.rest)?;
        world.rest.set(rest)?;
        world.title.set("".into())?;
        world.tables.set(PHashMap::new())
    })
}

/// Opens the region with all of it checked, and does all of the above. What was checked stays sound: everything behind
/// the opening may fail for want of room, and for nothing else.
///
/// # Panics
///
/// If the heap is not sound after that.
pub(crate) fn use_it(path: &Path) -> Result<u64, Error> {
    let open = || {
        let options = options().create(false).verify(true);
        options.open_with(path, || unreachable!("there is one"))
    };
    let heap = open()?;
    let sum = walk(&heap.read());
    let changed = change(&heap);
    let sum = sum.wrapping_add(walk(&heap.read()));
    heap.check().expect("what was sound stays sound");
    let close = heap.close();
    changed?;
    close?;
    let heap = open()?;
    let sum = sum.wrapping_add(walk(&heap.read()));
    fill(&heap, 2000, 2001)?;
    heap.check().expect("what was sound stays sound");
    heap.close()?;
    Ok(sum)
}

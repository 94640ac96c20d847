//! Boxes of slices and of texts, owned and stored; and lists and trees of boxes so deep that recursion would not do.
#![cfg(not(loom))]

use bartender::{
    Error, Heap, Mut, PBTreeMap, PBox, PHashMap, PMutex, PShared, PString, PVec, PVecDeque, Persist,
};
use std::cell::Cell;
use std::collections::HashMap;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;

#[derive(Persist, Default)]
#[repr(C)]
struct Root {
    words: PBox<[PString]>,
    numbers: Option<PBox<[u32]>>,
    name: PBox<str>,
    list: Option<PBox<Node>>,
    tree: Tree,
    places: PHashMap<PBox<str>, PBox<[u8]>>,
}

#[derive(Persist, Default)]
#[repr(C)]
struct Node {
    value: u64,
    next: Option<PBox<Node>>,
}

/// Boxes behind vectors, deques and maps.
#[derive(Persist, Default)]
#[repr(C)]
struct Tree {
    list: PVec<PBox<Tree>>,
    queue: PVecDeque<PBox<Tree>>,
    map: PHashMap<u32, PBox<Tree>>,
}

fn open(path: &std::path::Path) -> Heap<PMutex<Root>> {
    open_for(path, 0)
}

/// With a log that takes so many nodes in one transaction: not all of them are put into fresh pages.
fn open_for(path: &std::path::Path, nodes: u64) -> Heap<PMutex<Root>> {
    let log = (nodes * 40).max(16 << 20);
    let options = Heap::options().max_size(2 << 30).log_size(log);
    options.open(path).expect("the region opens")
}

#[test]
fn boxes_have_the_sizes_that_are_promised() {
    assert_eq!(size_of::<Option<PBox<Node>>>(), 8);
    assert_eq!(size_of::<Option<PBox<[u64]>>>(), 16);
    assert_eq!(size_of::<Option<PBox<str>>>(), 16);
    assert_eq!(size_of::<PBox<[u64]>>(), 16);
}

#[test]
fn boxed_slices_come_from_and_go_to_what_std_has() {
    let numbers: PBox<[u32]> = (0..5).collect();
    assert_eq!(*numbers, [0, 1, 2, 3, 4]);
    assert_eq!(
        numbers
            .iter()
            .rev()
            .copied()
            .collect::<PBox<[u32]>>()
            .into_vec(),
        [4, 3, 2, 1, 0]
    );
    let mut copy = numbers.clone();
    copy[0] = 9;
    copy.sort_unstable();
    assert_eq!((&*copy, copy > numbers), (&[1, 2, 3, 4, 9][..], true));
    assert_eq!(Box::<[u32]>::from(PBox::from(vec![7])).len(), 1);
    assert_eq!(
        PVec::from(PBox::from([1u8, 2])),
        PBox::<[u8]>::from(PVec::from([1, 2])).into_vec()
    );
    assert!(PBox::<[u64]>::default().is_empty() && PBox::<str>::default().is_empty());
    let texts: PBox<[PString]> = ["a", "b"].map(PString::from).into();
    assert_eq!(
        texts.into_iter().map(String::from).collect::<String>(),
        "ab"
    );
    let name: PBox<str> = "Ada".into();
    assert_eq!(
        (format!("{name} {name:?}"), name.clone().into_string()),
        ("Ada \"Ada\"".into(), "Ada".into())
    );
    assert_eq!(PString::from(PBox::<str>::from(PString::from("x"))), "x");
    let map = HashMap::from([(PBox::<str>::from("k"), 1)]);
    assert_eq!(map.get("k"), Some(&1));
    assert_eq!(
        *PBox::into_box(PBox::new(5)),
        PBox::into_inner(PBox::new(5))
    );
}

#[test]
fn stored_slices_are_read_changed_moved_and_freed() {
    let place = places::place();
    let heap = open(place.region());
    heap.update(|mut root| {
        let fields = root.project();
        let (mut words, mut numbers, mut places) = (fields.words, fields.numbers, fields.places);
        words.set(["c", "a", "b"].map(PString::from).into())?;
        numbers.set(Some((0..1000).collect()))?;
        let mut name = fields.name;
        name.set("Ada".into())?;
        places.insert("here".into(), [1, 2, 3].into())?;
        let mut words = words.project();
        words.get_mut(1).expect("there").push('!')?;
        words.sort()?;
        words.reverse()?;
        for mut word in words.iter_mut().rev() {
            word.push('.')?;
        }
        let (mut front, mut back) = words.split_at_mut(1);
        Mut::swap(
            &mut front.first_mut().expect("one"),
            &mut back.last_mut().expect("two"),
        )?;
        let mut numbers = numbers.project().expect("there").into_project();
        numbers.as_mut_slice()[999] = 7;
        numbers.rotate_right(1)
    })
    .unwrap();
    let look = |heap: &Heap<PMutex<Root>>| {
        let root = heap.read();
        assert_eq!(*root.words, ["a!.", "b.", "c."]);
        let numbers = root.numbers.as_ref().expect("there");
        assert_eq!(
            (numbers[0], numbers[1], numbers[999], numbers.len()),
            (7, 0, 998, 1000)
        );
        assert_eq!(
            (&*root.name, &root.places["here"][..]),
            ("Ada", &[1, 2, 3][..])
        );
    };
    look(&heap);
    let aborted = heap.update(|mut root| {
        root.words_mut().set(PBox::default())?;
        root.words_mut().into_project().reverse()?;
        Err::<(), _>(Error::abort("as planned"))
    });
    assert!(matches!(aborted, Err(Error::Aborted(_))));
    look(&heap);
    heap.check().unwrap();
    heap.close().unwrap();
    let heap = open(place.region());
    look(&heap);
    let (words, numbers, name) = heap
        .update(|mut root| {
            let fields = root.project();
            let (mut words, mut numbers, mut name, mut places) =
                (fields.words, fields.numbers, fields.name, fields.places);
            places.remove("here")?;
            places.shrink_to_fit()?;
            Ok((
                Mut::take(&mut words)?,
                Mut::take(&mut numbers)?,
                Mut::take(&mut name)?,
            ))
        })
        .unwrap();
    assert_eq!(
        (words.len(), numbers.map(|n| n.len()), name.len()),
        (3, Some(1000), 3)
    );
    heap.check().unwrap();
    assert_eq!(heap.stats().live_blocks, 1, "the root's block");
}

fn list(len: u64) -> Option<PBox<Node>> {
    let mut list = None;
    for value in 0..len {
        list = Some(PBox::new(Node { value, next: list }));
    }
    list
}

/// Runs on a stack that recursion would soon overflow.
fn with_little_stack(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(256 << 10);
    thread
        .spawn(body)
        .expect("a thread")
        .join()
        .expect("enough stack");
}

/// Values that lie in each other by every collection in turns, and by each alone.
#[derive(Persist, Default)]
#[repr(C)]
struct Nest {
    list: PVec<Nest>,
    ring: PVecDeque<Nest>,
    map: PHashMap<u8, Nest>,
    tree: PBTreeMap<u8, Nest>,
    boxed: Option<PBox<Nest>>,
    slice: PBox<[Nest]>,
    shared: Option<PShared<PMutex<Nest>>>,
    pair: (u8, Option<(PString, PVec<Nest>)>),
}

const WAYS: u64 = 8;

#[derive(Persist, Default)]
#[repr(C)]
struct Twig {
    twigs: PVec<Twig>,
}

/// A value around another one.
fn around(way: u64, inner: Nest) -> Nest {
    let mut nest = Nest::default();
    match way {
        0 => nest.list.push(inner),
        1 => nest.ring.push_front(inner),
        2 => drop(nest.map.insert(1, inner)),
        3 => drop(nest.tree.insert(1, inner)),
        4 => nest.boxed = Some(PBox::new(inner)),
        5 => nest.slice = [inner].into_iter().collect(),
        6 => nest.shared = Some(PShared::new(PMutex::new(inner))),
        _ => nest.pair.1 = Some(("text".into(), [inner].into())),
    }
    nest
}

#[test]
fn deep_values_of_all_collections_are_dropped_in_little_stack() {
    let depth = if cfg!(miri) { 200 } else { 100_000 };
    with_little_stack(move || {
        let twig = (0..10 * depth).fold(Twig::default(), |inner, _| Twig {
            twigs: [inner].into(),
        });
        drop(PBox::new(twig));
        for way in 0..WAYS {
            let nest = (0..depth).fold(Nest::default(), |inner, _| around(way, inner));
            drop(PBox::new(nest));
        }
        // In turns, and with something beside it.
        let mixed = (0..2 * depth).fold(Nest::default(), |inner, n| {
            let mut nest = around(n * 7 % WAYS, inner);
            if n % 5 == 0 {
                nest.list.push(around(n % WAYS, Nest::default()));
            }
            nest
        });
        drop(PBox::new(mixed));
        // Among many that are not deep.
        let deep = (0..depth).fold(Nest::default(), |inner, _| around(0, inner));
        let mut wide: PVec<Nest> = (0..2000)
            .map(|n| around(n % WAYS, Nest::default()))
            .collect();
        wide.insert(1000, deep);
        drop(PBox::new(wide));
    });
}

/// Counts its drops in what it borrows.
struct Counted<'a>(&'a Cell<u64>);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

/// Ordinary values, too, have a drop of their own, which makes others.
struct Busy<'a> {
    _inner: PVec<Busy<'a>>,
    count: Counted<'a>,
    spare: PVecDeque<Counted<'a>>,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        // What it takes out of itself, and what it makes and borrows, is dropped when it says so.
        let before = self.count.0.get();
        drop(std::mem::take(&mut self.spare));
        assert_eq!(self.count.0.get(), before + 1);
        let here = Cell::new(0);
        let list: PVec<PBTreeMap<u8, PVec<Counted<'_>>>> =
            [[(1, [Counted(&here)].into())].into()].into();
        drop(list);
        assert_eq!(here.get(), 1);
    }
}

#[test]
fn what_a_drop_makes_does_not_wait_for_what_is_around_it() {
    let count = Cell::new(0);
    let depth = 100;
    let mut busy: PVec<Busy<'_>> = PVec::new();
    for _ in 0..depth {
        let inner = std::mem::take(&mut busy);
        let spare = [Counted(&count)].into();
        let count = Counted(&count);
        busy.push(Busy {
            _inner: inner,
            count,
            spare,
        });
    }
    drop(busy);
    assert_eq!(count.get(), 2 * depth);
}

/// Says, when it is dropped, whether what stands behind it is still there.
struct First<'a>(&'a Cell<bool>, &'a Cell<u64>);

impl Drop for First<'_> {
    fn drop(&mut self) {
        assert!(self.0.get(), "dropped behind what stands behind it");
        self.1.set(self.1.get() + 1);
    }
}

struct Second<'a>(&'a Cell<bool>);

impl Drop for Second<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// A value whose parts are dropped one after the other: what refers to itself counts on it.
#[expect(dead_code, reason = "the parts are dropped")]
enum Ordered<'a> {
    Leaf(PVec<First<'a>>, Second<'a>),
    Around(PVec<Ordered<'a>>),
}

#[test]
fn ordinary_values_are_dropped_in_order_however_deep_they_lie() {
    for depth in 0..60 {
        let (there, count) = (Cell::new(true), Cell::new(0));
        let first: PVec<First<'_>> = [First(&there, &count), First(&there, &count)].into();
        let leaf = Ordered::Leaf(first, Second(&there));
        drop((0..depth).fold(leaf, |inner, _| Ordered::Around([inner].into())));
        assert_eq!((count.get(), there.get()), (2, false));
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn deep_values_of_all_collections_live_long_in_little_stack() {
    let depth = 60_000;
    with_little_stack(move || {
        let place = places::place();
        let options = Heap::<PMutex<Nest>>::options();
        let options = options.max_size(256 << 20).log_size(128 << 20);
        let heap = options.open(place.region()).unwrap();
        let empty = heap.stats().live_blocks;
        for _ in 0..2 {
            // What is shared and changes cannot be taken out.
            let ways = [0, 1, 2, 3, 4, 5, 7];
            let way = |n: u64| ways[(n % 7) as usize];
            let deep = (0..depth).fold(Nest::default(), |inner, n| around(way(n), inner));
            heap.update(|mut root| root.set(deep)).unwrap();
            assert!(heap.check().unwrap().blocks > depth);
            let out = heap.update(|mut root| Mut::take(&mut root)).unwrap();
            drop(PBox::new(out));
            let deep = (0..depth).fold(Nest::default(), |inner, n| around(n % WAYS, inner));
            heap.update(|mut root| root.set(deep)).unwrap();
            heap.update(|mut root| root.set(Nest::default())).unwrap();
            heap.check().unwrap();
            assert_eq!(heap.stats().live_blocks, empty);
        }
    });
}

/// A list goes in, is looked at, marked, taken out and dropped; another one is freed where it is.
fn long_life(len: u64) {
    let place = places::place();
    let heap = open_for(place.region(), len);
    heap.update(|mut root| root.list_mut().set(list(len)))
        .unwrap();
    assert!(heap.check().unwrap().blocks > len);
    heap.close().unwrap();
    let heap = open_for(place.region(), len);
    let (mut count, mut at) = (0, heap.read().list.is_some());
    {
        let root = heap.read();
        let mut next = root.list.as_deref();
        while let Some(node) = next {
            count += 1;
            assert_eq!(node.value, len - count);
            next = node.next.as_deref();
        }
        at &= count == len;
    }
    assert!(at);
    let taken = heap
        .update(|mut root| Mut::take(&mut root.list_mut()))
        .unwrap();
    drop(taken);
    heap.update(|mut root| root.list_mut().set(list(len)))
        .unwrap();
    heap.update(|mut root| root.list_mut().set(None)).unwrap();
    heap.check().unwrap();
    assert_eq!(heap.stats().live_blocks, 1, "the root's block");
}

#[test]
fn lists_of_any_length_end_without_recursion() {
    with_little_stack(|| {
        drop(list(if cfg!(miri) { 2_000 } else { 1_000_000 }));
        let mut tree = Tree::default();
        for depth in 0..if cfg!(miri) { 300 } else { 100_000 } {
            let mut above = Tree::default();
            match depth % 3 {
                0 => above.list.push(PBox::new(tree)),
                1 => above.queue.push_front(PBox::new(tree)),
                _ => drop(above.map.insert(depth, PBox::new(tree))),
            }
            tree = above;
        }
        drop(tree);
    });
}

#[test]
fn a_long_list_lives_in_a_region_without_recursion() {
    with_little_stack(|| long_life(100_000));
}

#[test]
#[ignore = "takes a minute and gigabytes"]
fn a_list_of_ten_million_nodes_overflows_no_stack() {
    with_little_stack(|| {
        drop(list(10_000_000));
        long_life(10_000_000);
    });
}

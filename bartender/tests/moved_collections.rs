//! Values move inside the region between vectors, maps, boxes and owners, with their locks and without their contents.
#![cfg(not(loom))]

use bartender::{Error, Heap, Moved, Mut, PBox, PHashMap, PMutex, PString, PVec, Persist, Result};
use std::cell::Cell;
use tempfile::TempDir;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;
use places::folder;

type Boxed = Option<PBox<PString>>;

#[derive(Persist, Default)]
#[repr(C)]
struct Root {
    a: PMutex<Boxed>,
    b: PMutex<Boxed>,
    list: PMutex<PVec<PBox<PString>>>,
    map: PMutex<PHashMap<u32, PVec<u64>>>,
    locks: PMutex<PVec<(PMutex<u64>, PString)>>,
    nodes: PMutex<Option<PBox<Node>>>,
}

#[derive(Persist, Default)]
#[repr(C)]
struct Node {
    value: u64,
    next: Option<PBox<Node>>,
}

fn open(folder: &TempDir) -> Heap<Root> {
    let options = Heap::options().max_size(16 << 20).log_size(4 << 20);
    options.open(folder.path().join("r")).expect("a region")
}

fn boxed(text: &str) -> Boxed {
    Some(PBox::new(text.into()))
}

/// A heap with "one" in `a` and "two" in `b`.
fn filled(folder: &TempDir) -> Heap<Root> {
    let heap = open(folder);
    heap.transaction(|tx| {
        tx.lock(&heap.root().a)?.set(boxed("one"))?;
        tx.lock(&heap.root().b)?.set(boxed("two"))
    })
    .unwrap();
    heap
}

/// What is in `a` and in `b`, after a check that nothing leaks.
fn state(heap: &Heap<Root>) -> [Option<String>; 2] {
    heap.check().expect("a sound region");
    [&heap.root().a, &heap.root().b].map(|lock| lock.read().as_deref().map(ToString::to_string))
}

fn texts(a: Option<&str>, b: Option<&str>) -> [Option<String>; 2] {
    [a, b].map(|text| text.map(str::to_owned))
}

#[test]
fn values_move_between_vectors_maps_boxes_and_owners() {
    let folder = folder();
    let heap = filled(&folder);
    heap.transaction(|tx| {
        let root = heap.root();
        let mut list = tx.lock(&root.list)?;
        for text in ["x", "y", "z"] {
            list.push(PBox::new(text.into()))?;
        }
        let (mut a, mut b) = (tx.lock(&root.a)?, tx.lock(&root.b)?);
        // b: two -> list[0]; list: two x y z.
        let two = Mut::take_moved(&mut b)?.transpose()?.expect("two");
        list.insert_moved(0, two)?;
        // list[1] = x -> b; list: two y z.
        let x = list.remove_moved(1)?.some()?;
        b.set_moved(x)?;
        // list: z y; "two" -> owned.
        let two = list.swap_remove_moved(0)?.into_owned()?;
        assert_eq!(two.as_str(), "two");
        let y = list.pop_moved()?.expect("y is the last");
        a.set_moved(y.some()?)?;

        let mut map = tx.lock(&root.map)?;
        map.insert(1, PVec::from([1, 1]))?;
        map.insert(2, PVec::from([2, 2]))?;
        assert!(map.remove_moved(&9)?.is_none());
        let one = map.remove_moved(&1)?.expect("there");
        let two = map.insert_moved(2, one)?.expect("there");
        assert!(map.insert_moved(3, two)?.is_none());
        Ok(())
    })
    .unwrap();
    assert_eq!(state(&heap), texts(Some("y"), Some("x")));
    let list = heap.root().list.read();
    assert_eq!(list.iter().map(|t| t.as_str()).collect::<Vec<_>>(), ["z"]);
    let map = heap.root().map.read();
    assert_eq!(
        (map.len(), &map[&2][..], &map[&3][..]),
        (2, &[1, 1][..], &[2, 2][..])
    );
}

#[test]
fn entries_of_maps_move_by_their_places() {
    use bartender::hash_map::StoredEntry;
    let folder = folder();
    let heap = open(&folder);
    heap.transaction(|tx| {
        let mut map = tx.lock(&heap.root().map)?;
        map.insert(1, PVec::from([1]))?;
        let StoredEntry::Occupied(entry) = map.entry(1) else {
            unreachable!("inserted above")
        };
        let moved = entry.remove_moved()?;
        let StoredEntry::Vacant(entry) = map.entry(2) else {
            unreachable!("not there")
        };
        let mut value = entry.insert_moved(moved)?;
        value.push(2)?;
        map.insert(3, PVec::from([3]))?;
        let three = map.remove_moved(&3)?.expect("inserted above");
        let StoredEntry::Occupied(mut entry) = map.entry(2) else {
            unreachable!("inserted above")
        };
        let two = entry.insert_moved(three)?;
        assert_eq!(&two.into_owned()?[..], [1, 2]);
        Ok(())
    })
    .unwrap();
    heap.check().unwrap();
    let map = heap.root().map.read();
    assert_eq!((map.len(), &map[&2][..]), (1, &[3][..]));
}

#[test]
fn a_list_is_turned_round_without_a_copy() {
    let folder = folder();
    let heap = open(&folder);
    let chain = (0..100).fold(None, |next, value| Some(PBox::new(Node { value, next })));
    let chain = Cell::new(chain);
    heap.transaction(|tx| tx.lock(&heap.root().nodes)?.set(chain.take()))
        .unwrap();
    let blocks = heap.stats().live_blocks;
    heap.transaction(|tx| {
        let mut head = tx.lock(&heap.root().nodes)?;
        let mut done: Option<Moved<Option<PBox<Node>>>> = None;
        while let Some(mut node) = head.project() {
            let mut node = node.project();
            let rest = Mut::take_moved(&mut node.next_mut())?;
            if let Some(done) = done.take() {
                node.next_mut().set_moved(done)?;
            }
            done = Some(Mut::take_moved(&mut head)?);
            head.set_moved(rest)?;
        }
        head.set_moved(done.expect("a hundred nodes"))
    })
    .unwrap();
    heap.check().unwrap();
    assert_eq!(heap.stats().live_blocks, blocks);
    let head = heap.root().nodes.read();
    let nodes = std::iter::successors(head.as_deref(), |node| node.next.as_deref());
    assert!(nodes.map(|node| node.value).eq(0..100));
}

#[test]
fn the_locks_in_a_moved_value_are_held_at_both_places() {
    let folder = folder();
    let heap = open(&folder);
    heap.update_locks(|mut locks| {
        locks.push((PMutex::new(1), "one".into()))?;
        locks.push((PMutex::new(2), "two".into()))
    });
    heap.transaction(|tx| {
        let mut locks = tx.lock(&heap.root().locks)?;
        let one = locks.swap_remove_moved(0)?;
        locks.push_moved(one)?;
        for (lock, _) in locks.iter() {
            assert!(matches!(lock.try_read(), Err(Error::AlreadyLocked)));
        }
        Ok(())
    })
    .unwrap();
    let guard = heap.root().locks.read();
    assert_eq!(
        guard.iter().map(|(l, _)| *l.read()).collect::<Vec<_>>(),
        [2, 1]
    );
    drop(guard);
    // And free again.
    heap.transaction(|tx| {
        let locks = Mut::into_ref(tx.lock(&heap.root().locks)?);
        *tx.lock(&locks[0].0)? += 10;
        Ok(())
    })
    .unwrap();
    // One that nobody attaches.
    heap.update_locks(|mut locks| locks.pop_moved().map(drop));
    heap.check().unwrap();
    assert_eq!(*heap.root().locks.read()[0].0.read(), 12);
}

impl Ext for Heap<Root> {}

/// Short forms.
trait Ext: std::borrow::Borrow<Heap<Root>> {
    fn update_locks(&self, f: impl Fn(Mut<'_, PVec<(PMutex<u64>, PString)>>) -> Result<()>) {
        let heap: &Heap<Root> = self.borrow();
        heap.transaction(|tx| f(tx.lock(&heap.root().locks)?))
            .unwrap();
    }
}

//! What does not fit into the region changes nothing, and the transaction that tried it goes on.
#![cfg(not(loom))]

use bartender::{
    Error, Heap, Mut, PBTreeMap, PBTreeSet, PBox, PHashMap, PHashSet, PMutex, PRcu, PShared,
    PString, PVec, PVecDeque, Persist, Result,
};
use tempfile::TempDir;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;
use places::folder;

const SIZE: u64 = 16 << 20;
const LOG: u64 = 1 << 20;

#[derive(Persist, Default)]
#[repr(C)]
struct Root {
    list: PVec<PVec<PString>>,
    ring: PVecDeque<PVec<PString>>,
    map: PHashMap<PString, PVec<PString>>,
    set: PHashSet<PVec<PString>>,
    tree: PBTreeMap<PString, PVec<PString>>,
    order: PBTreeSet<PVec<PString>>,
    text: PString,
    short: PString,
    bytes: PVec<u8>,
    choice: Option<PBox<PVec<PString>>>,
    shared: PVec<PShared<PVec<PString>>>,
    locked: PVec<PMutex<PVec<PString>>>,
    large: PVec<u8>,
}

fn open(folder: &TempDir) -> Heap<PMutex<Root>> {
    let options = Heap::options().max_size(SIZE).log_size(LOG);
    options.open(folder.path().join("r")).expect("opens")
}

fn texts(n: usize) -> PVec<PString> {
    (0..n).map(|n| format!("{n:0900}").into()).collect()
}

/// More than the region has, of which most finds a place before that is known, and more than the log has.
fn too_much() -> PVec<PString> {
    texts(20_000)
}

fn key() -> PString {
    format!("{:0900}", 7).into()
}

fn fill(mut root: Mut<'_, Root>) -> Result<()> {
    let mut root = root.project();
    root.list.extend((0..4).map(texts))?;
    root.ring.extend((0..4).map(texts))?;
    root.map.extend((0..4).map(|n| (key(), texts(n))))?;
    root.set.extend((0..4).map(texts))?;
    // The leaf is full: another entry takes nodes.
    root.tree
        .extend((0..31).map(|n| (format!("{n:0900}").into(), texts(0))))?;
    root.order.extend((0..31).map(texts))?;
    root.text.push_str(&"text".repeat(100))?;
    root.short.push_str("short")?;
    root.bytes.extend_from_slice(&[7; 1000])?;
    root.choice.set(Some(PBox::new(texts(2))))?;
    root.shared.push(PShared::new(texts(2)))?;
    root.locked.push(PMutex::new(texts(2)))
}

/// All that there is, but for what a hash table is in no order.
fn state(root: &Root) -> String {
    let mut map: Vec<_> = root.map.iter().collect();
    map.sort();
    let mut set: Vec<_> = root.set.iter().collect();
    set.sort();
    format!(
        "{:?}",
        (
            (&root.list, &root.ring, map, set, &root.tree, &root.order),
            (&root.text, &root.short, &root.bytes, &root.choice),
            (&root.shared, root.locked.len(), &root.large),
        )
    )
}

type Try = fn(Mut<'_, Root>) -> Result<()>;

#[test]
fn what_does_not_fit_changes_nothing_and_the_transaction_goes_on() {
    let tries: [(&str, Try); 32] = [
        ("PVec::push", |mut r| r.list_mut().push(too_much())),
        ("PVec::insert", |mut r| r.list_mut().insert(1, too_much())),
        ("PVec::reserve", |mut r| r.list_mut().reserve(1 << 20)),
        ("PVec::set", |mut r| {
            let mut list = r.list_mut();
            list.get_mut(3).unwrap().set(too_much())
        }),
        ("Mut::replace", |mut r| {
            let mut list = r.list_mut();
            Mut::replace(&mut list.get_mut(3).unwrap(), too_much()).map(drop)
        }),
        ("Mut::replace_moved", |mut r| {
            let mut list = r.list_mut();
            Mut::replace_moved(&mut list.get_mut(3).unwrap(), too_much()).map(drop)
        }),
        ("PVec::resize", |mut r| r.bytes_mut().resize(64 << 20, 1)),
        ("PVec::extend_from_slice", |mut r| {
            r.bytes_mut().extend_from_slice(&vec![1; 64 << 20])
        }),
        ("PVec::insert_slice", |mut r| {
            r.bytes_mut().insert_slice(5, &vec![1; 64 << 20])
        }),
        ("push_back", |mut r| r.ring_mut().push_back(too_much())),
        ("push_front", |mut r| r.ring_mut().push_front(too_much())),
        ("PVecDeque::insert", |mut r| {
            r.ring_mut().insert(2, too_much())
        }),
        ("PVecDeque::reserve", |mut r| r.ring_mut().reserve(1 << 20)),
        ("PHashMap::insert", |mut r| {
            r.map_mut().insert("new".into(), too_much()).map(drop)
        }),
        ("PHashMap::insert, there", |mut r| {
            r.map_mut().insert(key(), too_much()).map(drop)
        }),
        ("PHashMap::entry", |mut r| {
            let mut map = r.map_mut();
            map.entry("new".into()).or_insert(too_much()).map(drop)
        }),
        ("PHashMap::reserve", |mut r| r.map_mut().reserve(1 << 20)),
        ("PHashSet::insert", |mut r| {
            r.set_mut().insert(too_much()).map(drop)
        }),
        ("PHashSet::replace_value", |mut r| {
            r.set_mut().replace_value(too_much()).map(drop)
        }),
        ("PBTreeMap::insert", |mut r| {
            let key = "a key that is long enough to have a block";
            r.tree_mut().insert(key.into(), too_much()).map(drop)
        }),
        ("PBTreeMap::insert, a key", |mut r| {
            let key = "x".repeat(64 << 20);
            r.tree_mut().insert(key.into(), texts(1)).map(drop)
        }),
        ("PBTreeMap::insert, there", |mut r| {
            r.tree_mut().insert(key(), too_much()).map(drop)
        }),
        ("PBTreeMap::entry", |mut r| {
            let mut tree = r.tree_mut();
            tree.entry("new".into()).or_insert(too_much()).map(drop)
        }),
        ("PBTreeSet::insert", |mut r| {
            r.order_mut().insert(too_much()).map(drop)
        }),
        ("PBTreeSet::replace_value", |mut r| {
            r.order_mut().replace_value(too_much()).map(drop)
        }),
        ("PString::push_str", |mut r| {
            r.text_mut().push_str(&"x".repeat(64 << 20))
        }),
        ("PString::push_str, short", |mut r| {
            r.short_mut().push_str(&"x".repeat(64 << 20))
        }),
        ("PString::insert_str", |mut r| {
            r.text_mut().insert_str(4, &"x".repeat(64 << 20))
        }),
        ("PString::replace_range", |mut r| {
            r.text_mut().replace_range(4..8, &"x".repeat(64 << 20))
        }),
        ("Option, Mut::set", |mut r| {
            r.choice_mut().set(Some(PBox::new(too_much())))
        }),
        ("PShared::new", |mut r| {
            let shared = [texts(1), too_much()].map(PShared::new);
            let [fits, does_not] = shared;
            r.shared_mut().push(does_not)?;
            r.shared_mut().push(fits)
        }),
        ("PMutex::new", |mut r| {
            r.locked_mut().push(PMutex::new(too_much()))
        }),
    ];
    let folder = folder();
    let mut heap = open(&folder);
    heap.update(fill).unwrap();
    for (name, attempt) in tries {
        let before = state(&heap.read());
        let live = heap.stats().live_bytes;
        heap.update(|mut root| {
            for _ in 0..2 {
                let full = attempt(Mut::reborrow(&mut root));
                let Err(Error::Region(bartender_pm::Error::OutOfSpace { .. })) = full else {
                    panic!("{name}: {full:?}");
                };
                assert_eq!(state(&root), before, "{name}");
            }
            // The room is there at once, and the log is not full of what is gone.
            let mut large = root.large_mut();
            large.extend_from_slice(&vec![3; 9 << 20])?;
            large.set(PVec::new())?;
            root.bytes_mut().push(1)
        })
        .unwrap_or_else(|error| panic!("{name}: {error}"));
        heap.check()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        heap.update(|mut root| root.bytes_mut().pop().map(drop))
            .unwrap();
        assert_eq!(state(&heap.read()), before, "{name}");
        // At most what a collection has made room for meanwhile.
        let more = heap.stats().live_bytes.abs_diff(live);
        assert!(more < 64 << 10, "{name}: {more} bytes");
        heap.close().unwrap();
        heap = open(&folder);
        assert_eq!(state(&heap.read()), before, "{name}, opened again");
    }
}

/// Half a KiB behind a lock.
type Cell = PMutex<[u64; 63]>;

fn cells(bytes: usize, value: u64) -> PVec<Cell> {
    let count = bytes / size_of::<Cell>();
    (0..count).map(|_| PMutex::new([value; 63])).collect()
}

/// Blocks that were given back are others' at once: nothing of them is written when the transaction commits, and no lock in
/// them is held.
#[test]
fn what_was_given_back_is_not_touched_when_others_have_it() {
    #[derive(Persist, Default)]
    #[repr(C)]
    struct Two {
        mine: PMutex<PVec<PVec<Cell>>>,
        theirs: PMutex<PVec<Cell>>,
    }
    let folder = folder();
    let (path, copy) = (folder.path().join("r"), folder.path().join("copy"));
    let open = || {
        let options = Heap::<Two>::options().max_size(SIZE).log_size(4 << 20);
        options.background(false).open(&path).expect("opens")
    };
    let heap = open();
    heap.transaction(|tx| {
        let mut mine = tx.lock(&heap.root().mine)?;
        let full = mine.set([cells(5 << 20, 2), cells(12 << 20, 2)].into());
        assert!(full.is_err(), "{full:?}");
        // The same place, since it comes from what no thread owns.
        let theirs = || {
            let new = || cells(5 << 20, 3);
            heap.transaction(|tx| tx.lock(&heap.root().theirs)?.set(new()))
        };
        std::thread::scope(|scope| scope.spawn(theirs).join().unwrap())?;
        mine.push(cells(1000, 4))
    })
    .unwrap();
    // What a crash leaves now.
    std::fs::copy(&path, &copy).unwrap();
    drop(heap);
    std::fs::rename(&copy, &path).unwrap();
    let heap = open();
    heap.check().unwrap();
    let theirs = heap.root().theirs.read();
    assert_eq!(theirs.len(), (5 << 20) / size_of::<Cell>());
    assert!(theirs.iter().all(|cell| *cell.read() == [3; 63]));
    assert_eq!(heap.root().mine.read().len(), 1);
}

/// While a transaction lasts, the count of a shared value that it made says whose it is.
#[test]
fn counts_in_what_was_given_back_are_not_set_when_the_transaction_commits() {
    #[derive(Persist, Default)]
    #[repr(C)]
    struct Both {
        shared: PVec<PShared<PVec<PString>>>,
        others: PVec<PBox<[u64; 4]>>,
    }
    let folder = folder();
    let options = Heap::<PMutex<Both>>::options().max_size(SIZE).log_size(LOG);
    let heap = options.open(folder.path().join("r")).unwrap();
    heap.update(|mut both| {
        let values = (0..500).map(|_| texts(1)).chain([too_much()]);
        let full = both.shared_mut().set(values.map(PShared::new).collect());
        assert!(full.is_err(), "{full:?}");
        // As long as such a count and its value.
        let others = (0..600).map(|n| PBox::new([n; 4]));
        both.others_mut().extend(others)
    })
    .unwrap();
    for (n, other) in heap.read().others.iter().enumerate() {
        assert_eq!(**other, [n as u64; 4]);
    }
    heap.check().unwrap();
}

/// A version of which half found room is as if it had never been.
#[test]
fn a_version_that_does_not_fit_is_not_there() {
    let folder = folder();
    let heap = Heap::<PRcu<PVec<PString>>>::options()
        .max_size(SIZE)
        .log_size(LOG)
        .open_with(folder.path().join("r"), || PRcu::new(texts(3)))
        .unwrap();
    heap.transaction(|tx| {
        let full = heap.root().replace(tx, too_much());
        assert!(full.is_err(), "{full:?}");
        assert_eq!(*heap.root().get(tx)?, texts(3));
        heap.root().replace(tx, texts(5))?;
        let full = heap.root().update(tx, |_| too_much());
        assert!(full.is_err(), "{full:?}");
        Ok(())
    })
    .unwrap();
    assert_eq!(*heap.root().read(), texts(5));
    heap.check().unwrap();
}

#[test]
fn a_version_that_was_replaced_before_an_insertion_that_does_not_fit_is_freed() {
    type Map = PMutex<PBTreeMap<u64, (PRcu<PVec<u64>>, PVec<PString>)>>;
    let folder = folder();
    let heap = Heap::<Map>::options()
        .max_size(SIZE)
        .log_size(LOG)
        .open(folder.path().join("r"))
        .unwrap();
    let first = (PRcu::new(PVec::from(vec![1; 4000])), PVec::new());
    heap.update(|mut map| map.insert(0, first.clone()).map(drop))
        .unwrap();
    for _ in 0..3 {
        heap.transaction(|tx| {
            let mut map = tx.lock(heap.root())?;
            heap.transaction(|tx| map[&0].0.replace(tx, PVec::from(vec![2; 4000])))?;
            let full = map.insert(1, (PRcu::new(PVec::new()), too_much()));
            assert!(full.is_err(), "{full:?}");
            Ok(())
        })
        .unwrap();
        // Finds leaks.
        heap.check().unwrap();
    }
}

//! What is said to an index, a range or a capacity that makes no sense: std's words or better, with the numbers, at the line
//! of the caller; and nothing has changed.
#![cfg(not(loom))]

use bartender::{
    Error, Heap, Mut, PBTreeMap, PBox, PHashMap, PHashSet, PMutex, PString, PVec, PVecDeque,
    Persist, Result,
};
use std::cell::Cell;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use tempfile::TempDir;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;
use places::folder;

#[derive(Persist, Default)]
#[repr(C)]
struct Root {
    list: PVec<u64>,
    ring: PVecDeque<u64>,
    text: PString,
    short: PString,
    slice: PBox<[u64]>,
    map: PHashMap<u64, [u64; 3]>,
    set: PHashSet<u8>,
    bytes: PVec<u8>,
    byte_ring: PVecDeque<u8>,
    tree: PBTreeMap<u64, u64>,
}

const LONG: &str = "héllo, and more than stands in the value";

fn filled(folder: &TempDir) -> Heap<PMutex<Root>> {
    let options = Heap::<PMutex<Root>>::options().max_size(64 << 20);
    let heap = options.open(folder.path().join("r")).expect("opens");
    heap.update(|mut root| {
        let mut root = root.project();
        root.list.extend([0, 1, 2])?;
        root.ring.extend([0, 1, 2])?;
        root.slice.set([0, 1, 2].into())?;
        root.text.push_str(LONG)?;
        root.short.push_str("héllo")?;
        root.tree.insert(1, 1).map(drop)
    })
    .expect("commits");
    heap
}

thread_local! {
    /// Whoever panics on purpose hears what it said.
    static LISTENS: Cell<bool> = const { Cell::new(false) };
    static SAID: Cell<String> = const { Cell::new(String::new()) };
}

/// What `f` says when it panics, and in which file.
fn said<A: Debug>(f: impl FnOnce() -> A) -> String {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !LISTENS.get() {
                return before(panic);
            }
            let payload = panic.payload();
            let text = payload.downcast_ref::<String>().map(|text| &**text);
            let text = text.or(payload.downcast_ref::<&str>().copied());
            let file = panic.location().map_or("", |at| at.file());
            let name = file.rsplit('/').next().unwrap_or_default();
            SAID.set(format!("{name}: {}", text.unwrap_or_default()));
        }));
    });
    LISTENS.set(true);
    let ended = catch_unwind(AssertUnwindSafe(f));
    LISTENS.set(false);
    assert!(ended.is_err(), "{ended:?}");
    SAID.take()
}

type Stored = fn(Mut<'_, Root>) -> Result<()>;

#[test]
fn indices_of_stored_collections_that_are_not_there_are_told_with_the_length() {
    let cases: [(&str, Stored); 33] = [
        ("rotation count (is 4) should be <= len (is 3)", |mut r| {
            r.list_mut().rotate_left(4)
        }),
        ("rotation count (is 5) should be <= len (is 3)", |mut r| {
            r.list_mut().rotate_right(5)
        }),
        ("rotation count (is 4) should be <= len (is 3)", |mut r| {
            r.ring_mut().rotate_left(4)
        }),
        ("rotation count (is 5) should be <= len (is 3)", |mut r| {
            r.ring_mut().rotate_right(5)
        }),
        ("rotation count (is 4) should be <= len (is 3)", |mut r| {
            r.slice_mut().project().rotate_left(4)
        }),
        ("insertion index (is 9) should be <= len (is 3)", |mut r| {
            r.list_mut().insert(9, 1)
        }),
        ("removal index (is 9) should be < len (is 3)", |mut r| {
            r.list_mut().remove(9).map(drop)
        }),
        ("removal index (is 3) should be < len (is 3)", |mut r| {
            r.list_mut().remove_moved(3).map(drop)
        }),
        (
            "swap_remove index (is 9) should be < len (is 3)",
            |mut r| r.list_mut().swap_remove(9).map(drop),
        ),
        ("swap index (is 9) should be < len (is 3)", |mut r| {
            r.list_mut().swap_elements(1, 9)
        }),
        ("swap index (is 9) should be < len (is 3)", |mut r| {
            r.ring_mut().swap_elements(9, 1)
        }),
        (
            "`at` split index (is 9) should be <= len (is 3)",
            |mut r| r.list_mut().split_off(9).map(drop),
        ),
        (
            "`at` split index (is 9) should be <= len (is 3)",
            |mut r| r.ring_mut().split_off(9).map(drop),
        ),
        ("split index (is 4) should be <= len (is 3)", |mut r| {
            r.list_mut().split_at_mut(4);
            Ok(())
        }),
        ("index (is 7) should be < len (is 3)", |mut r| {
            r.list_mut().pair_mut(0, 7);
            Ok(())
        }),
        ("the two indices are one: 1", |mut r| {
            r.list_mut().pair_mut(1, 1);
            Ok(())
        }),
        ("insertion index (is 9) should be <= len (is 3)", |mut r| {
            r.ring_mut().insert(9, 1)
        }),
        ("range end index 9 out of range for length 3", |mut r| {
            r.list_mut().drain(1..9).map(drop)
        }),
        ("range starts at 2 but ends at 1", |mut r| {
            #[allow(clippy::reversed_empty_ranges)]
            r.list_mut().drain(2..1).map(drop)
        }),
        ("range end index 9 out of range for length 3", |mut r| {
            r.ring_mut().drain(1..9).map(drop)
        }),
        ("range end index 9 out of range for length 3", |mut r| {
            r.list_mut().splice(..9, []).map(drop)
        }),
        ("range end index 9 out of range for length 3", |mut r| {
            r.list_mut().extend_from_within(..=8)
        }),
        (
            "byte index 99 is out of bounds of a text of 41 bytes",
            |mut r| r.text_mut().remove(99).map(drop),
        ),
        (
            "byte index 2 is not a char boundary; it is inside 'é' (bytes 1..3) of a text of 41 bytes",
            |mut r| r.text_mut().remove(2).map(drop),
        ),
        ("removal index (is 41) should be < len (is 41)", |mut r| {
            r.text_mut().remove(41).map(drop)
        }),
        (
            "byte index 42 is out of bounds of a text of 41 bytes",
            |mut r| r.text_mut().insert(42, 'c'),
        ),
        (
            "byte index 2 is not a char boundary; it is inside 'é' (bytes 1..3) of a text of 6 bytes",
            |mut r| r.short_mut().insert_str(2, "c"),
        ),
        (
            "byte index 2 is not a char boundary; it is inside 'é' (bytes 1..3) of a text of 6 bytes",
            |mut r| r.short_mut().split_off(2).map(drop),
        ),
        (
            "byte index 7 is out of bounds of a text of 6 bytes",
            |mut r| r.short_mut().split_off(7).map(drop),
        ),
        (
            "byte index 2 is not a char boundary; it is inside 'é' (bytes 1..3) of a text of 41 bytes",
            |mut r| r.text_mut().truncate(2),
        ),
        (
            "byte index 2 is not a char boundary; it is inside 'é' (bytes 1..3) of a text of 41 bytes",
            |mut r| r.text_mut().drain(..2).map(drop),
        ),
        (
            "byte index 2 is not a char boundary; it is inside 'é' (bytes 1..3) of a text of 41 bytes",
            |mut r| r.text_mut().replace_range(2.., ""),
        ),
        ("range end index 99 out of range for length 41", |mut r| {
            r.text_mut().replace_range(..99, "")
        }),
    ];
    let folder = folder();
    let heap = filled(&folder);
    for (expected, case) in cases {
        let text = said(|| heap.update(case));
        assert_eq!(text, format!("places.rs: {expected}"));
    }
    let root = heap.read();
    assert_eq!(
        (&root.list[..], &root.slice[..]),
        (&[0, 1, 2][..], &[0, 1, 2][..])
    );
    assert_eq!((&*root.text, &*root.short), (LONG, "héllo"));
    assert!(root.ring.iter().eq(&[0, 1, 2]));
    heap.check().unwrap();
}

#[test]
fn indices_of_owned_collections_that_are_not_there_are_told_with_the_length() {
    let mut list: PVec<u64> = (0..3).collect();
    let mut ring: PVecDeque<u64> = (0..3).collect();
    let mut text = PString::from("héllo");
    let inside =
        "byte index 2 is not a char boundary; it is inside 'é' (bytes 1..3) of a text of 6 bytes";
    let is = |text: String, expected: &str| assert_eq!(text, format!("places.rs: {expected}"));
    is(
        said(|| list.insert(9, 1)),
        "insertion index (is 9) should be <= len (is 3)",
    );
    is(
        said(|| list.remove(9)),
        "removal index (is 9) should be < len (is 3)",
    );
    is(
        said(|| list.swap_remove(9)),
        "swap_remove index (is 9) should be < len (is 3)",
    );
    is(
        said(|| list.split_off(9)),
        "`at` split index (is 9) should be <= len (is 3)",
    );
    is(
        said(|| list.drain(..9)),
        "range end index 9 out of range for length 3",
    );
    is(
        said(|| list.extend_from_within(..9)),
        "range end index 9 out of range for length 3",
    );
    is(
        said(|| ring.rotate_left(4)),
        "rotation count (is 4) should be <= len (is 3)",
    );
    is(
        said(|| ring.rotate_right(4)),
        "rotation count (is 4) should be <= len (is 3)",
    );
    is(
        said(|| ring.insert(9, 1)),
        "insertion index (is 9) should be <= len (is 3)",
    );
    is(
        said(|| ring.swap(0, 9)),
        "swap index (is 9) should be < len (is 3)",
    );
    is(
        said(|| ring.split_off(9)),
        "`at` split index (is 9) should be <= len (is 3)",
    );
    is(
        said(|| ring.drain(..9)),
        "range end index 9 out of range for length 3",
    );
    is(
        said(|| ring.range(..9).count()),
        "range end index 9 out of range for length 3",
    );
    is(said(|| ring[9]), "index (is 9) should be < len (is 3)");
    is(said(|| ring[9] = 1), "index (is 9) should be < len (is 3)");
    is(said(|| text.insert(2, 'c')), inside);
    is(said(|| text.insert_str(2, "c")), inside);
    is(said(|| text.remove(2)), inside);
    is(
        said(|| text.remove(6)),
        "removal index (is 6) should be < len (is 6)",
    );
    is(
        said(|| text.remove(7)),
        "byte index 7 is out of bounds of a text of 6 bytes",
    );
    is(said(|| text.truncate(2)), inside);
    is(said(|| text.split_off(2)), inside);
    is(said(|| text.drain(2..)), inside);
    is(said(|| text.replace_range(..2, "")), inside);
    is(said(|| text.extend_from_within(..2)), inside);
    is(
        said(|| text.drain(..9)),
        "range end index 9 out of range for length 6",
    );
    assert_eq!(&*text, "héllo");
    assert!(list.iter().eq(&[0, 1, 2]) && ring.iter().eq(&[0, 1, 2]));
}

type Sized = fn(Mut<'_, Root>, usize) -> Result<()>;

/// Sizes beyond all address space, in many ways.
const ABSURD: [usize; 5] = [
    usize::MAX,
    usize::MAX - 1,
    usize::MAX / 2 + 1,
    usize::MAX / 2 - 6,
    1 << 62,
];

#[test]
fn capacities_beyond_all_addresses_are_a_full_region_and_nothing_else() {
    let cases: [(&str, Sized); 14] = [
        ("list", |mut r, n| r.list_mut().reserve(n)),
        ("list, exact", |mut r, n| r.list_mut().reserve_exact(n)),
        ("list, resized", |mut r, n| r.list_mut().resize(n, 1)),
        ("list, made", |mut r, n| r.list_mut().resize_with(n, || 1)),
        ("ring", |mut r, n| r.ring_mut().reserve(n)),
        ("ring, exact", |mut r, n| r.ring_mut().reserve_exact(n)),
        ("ring, resized", |mut r, n| r.ring_mut().resize(n, 1)),
        ("text", |mut r, n| r.text_mut().reserve(n)),
        ("short text", |mut r, n| r.short_mut().reserve(n)),
        ("map", |mut r, n| r.map_mut().reserve(n)),
        ("set", |mut r, n| r.set_mut().reserve(n)),
        ("bytes", |mut r, n| r.bytes_mut().reserve(n)),
        ("bytes, exact", |mut r, n| r.bytes_mut().reserve_exact(n)),
        ("ring of bytes", |mut r, n| r.byte_ring_mut().reserve(n)),
    ];
    let folder = folder();
    let heap = filled(&folder);
    for (name, case) in cases {
        for n in ABSURD {
            let done = heap.update(|mut root| {
                let error = case(Mut::reborrow(&mut root), n).unwrap_err();
                match &error {
                    Error::Region(bartender_pm::Error::OutOfSpace {
                        requested,
                        max_size,
                        ..
                    }) => {
                        assert_eq!((*requested, *max_size), (u64::MAX, 64 << 20));
                    }
                    Error::Heap(bartender_heap::Error::BadLayout { .. }) => {}
                    other => panic!("{name}, {n}: {other}"),
                }
                // Nothing has changed, and the transaction goes on.
                root.tree_mut().insert(1, 1).map(drop)
            });
            done.unwrap_or_else(|error| panic!("{name}, {n}: {error}"));
        }
    }
    heap.check().unwrap();
}

#[test]
fn capacities_beyond_all_addresses_are_told_to_overflow() {
    let overflows = |text: String| assert!(text.ends_with(": capacity overflow"), "{text}");
    // (Of bytes, half of all addresses is a size that is merely not there: then the program aborts, as std's does.)
    for n in [usize::MAX, usize::MAX - 1, usize::MAX / 2 + 1, 1 << 62] {
        let mut list: PVec<u64> = (0..3).collect();
        let mut ring: PVecDeque<u64> = (0..3).collect();
        let mut map = PHashMap::<u64, u64>::new();
        let mut set = PHashSet::<u64>::new();
        overflows(said(|| list.reserve(n)));
        overflows(said(|| list.reserve_exact(n)));
        overflows(said(|| list.resize(n, 0)));
        overflows(said(|| PVec::<u64>::with_capacity(n)));
        overflows(said(|| ring.reserve(n)));
        overflows(said(|| ring.reserve_exact(n)));
        overflows(said(|| ring.resize(n, 0)));
        overflows(said(|| PVecDeque::<u64>::with_capacity(n)));
        overflows(said(|| map.reserve(n)));
        overflows(said(|| PHashMap::<u64, u64>::with_capacity(n)));
        overflows(said(|| set.reserve(n)));
        overflows(said(|| PHashSet::<u64>::with_capacity(n)));
        if n > usize::MAX / 2 {
            let mut text = PString::from("text");
            overflows(said(|| text.reserve(n)));
            overflows(said(|| text.reserve_exact(n)));
            overflows(said(|| PString::with_capacity(n)));
        }
        assert!(list.iter().eq(&[0, 1, 2]) && ring.iter().eq(&[0, 1, 2]));
        assert!(map.is_empty() && set.is_empty());
    }
}

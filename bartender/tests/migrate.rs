//! Regions that were written with earlier types: they are converted when they are opened, at once and as a whole, or
//! stay as they were.

#![cfg(not(loom))]

#[path = "migrate/keys.rs"]
mod keys;

use bartender::{
    Error, Heap, Options, PBTreeMap, PBTreeSet, PBox, PHashMap, PMutex, PRwLock, PShared, PString,
    PVec, Persist, PlainData,
};
use bartender_pm::medium::sim::{Bound, Image, SimKind, SimMedium, SimMemory};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

/// The first version.
#[allow(dead_code, reason = "written, and read as a later version")]
mod v1 {
    use super::*;

    #[derive(Persist, Default)]
    #[repr(C)]
    pub(crate) struct Account {
        pub(crate) owner: PString,
        pub(crate) cents: u32,
    }

    #[derive(Persist)]
    #[repr(u8)]
    pub(crate) enum Event {
        Opened,
        Paid { from: u64, to: u64, cents: u32 },
        Noted(Account),
    }

    /// Holds accounts in all ways, and never changes itself.
    #[derive(Persist, Default)]
    #[repr(C)]
    pub(crate) struct Bank {
        pub(crate) accounts: PHashMap<u64, Account>,
        pub(crate) best: Option<PBox<Account>>,
        pub(crate) first: (Account, u8),
        pub(crate) pair: [Account; 2],
        pub(crate) events: PVec<PMutex<Event>>,
        pub(crate) blob: PVec<u64>,
        pub(crate) by_name: PHashMap<PString, PVec<Account>>,
    }
}

/// Accounts have signed cents; the rest only holds them.
#[allow(dead_code, reason = "written, and read as a later version")]
mod v2 {
    use super::*;

    #[derive(Persist, Default)]
    #[repr(C)]
    #[persist(from = v1::Account)]
    pub(crate) struct Account {
        pub(crate) owner: PString,
        pub(crate) cents: i64,
        pub(crate) open: bool,
    }

    impl From<v1::Account> for Account {
        fn from(old: v1::Account) -> Self {
            Account {
                owner: old.owner,
                cents: old.cents.into(),
                open: true,
            }
        }
    }

    #[derive(Persist)]
    #[repr(u8)]
    pub(crate) enum Event {
        Opened,
        Paid { from: u64, to: u64, cents: u32 },
        Noted(Account),
    }

    #[derive(Persist, Default)]
    #[repr(C)]
    pub(crate) struct Bank {
        pub(crate) accounts: PHashMap<u64, Account>,
        pub(crate) best: Option<PBox<Account>>,
        pub(crate) first: (Account, u8),
        pub(crate) pair: [Account; 2],
        pub(crate) events: PVec<PMutex<Event>>,
        pub(crate) blob: PVec<u64>,
        pub(crate) by_name: PHashMap<PString, PVec<Account>>,
    }
}

/// Accounts have a history and another name for the owner, in a type that can refuse; the bank has lost a field.
mod v3 {
    use super::*;

    #[derive(Persist, Default)]
    #[repr(C)]
    #[persist(from = v2::Account, name = "Account")]
    pub(crate) struct Client {
        pub(crate) history: PVec<i64>,
        pub(crate) name: PString,
        pub(crate) open: bool,
    }

    impl TryFrom<v2::Account> for Client {
        type Error = String;

        fn try_from(old: v2::Account) -> Result<Self, String> {
            match &*old.owner {
                "refused" => return Err("this one is not taken over".to_owned()),
                "panics" => panic!("a mistake in the conversion"),
                _ => {}
            }
            Ok(Client {
                history: [old.cents].into(),
                name: old.owner,
                open: old.open,
            })
        }
    }

    #[derive(Persist)]
    #[repr(u8)]
    pub(crate) enum Event {
        Opened,
        Paid {
            from: u64,
            to: u64,
            cents: u32,
        },
        #[persist(name = "Noted")]
        Remembered(Client),
    }

    #[derive(Persist, Default)]
    #[repr(C)]
    pub(crate) struct Bank {
        #[persist(renamed_from = "accounts")]
        pub(crate) clients: PHashMap<u64, Client>,
        pub(crate) best: Option<PBox<Client>>,
        pub(crate) first: (Client, u8),
        pub(crate) pair: [Client; 2],
        pub(crate) events: PVec<PMutex<Event>>,
        pub(crate) blob: PVec<u64>,
        pub(crate) by_name: PHashMap<PString, PVec<Client>>,
    }
}

type One = PRwLock<v1::Bank>;
type Two = PRwLock<v2::Bank>;
type Three = PRwLock<v3::Bank>;

const COUNT: u64 = 40;

fn account(n: u64) -> v1::Account {
    v1::Account {
        owner: PString::from(format!("owner {n}")),
        cents: n as u32 * 3,
    }
}

fn first_bank() -> v1::Bank {
    let mut accounts: PHashMap<u64, v1::Account> = PHashMap::new();
    for n in 0..COUNT + 10 {
        accounts.insert(n, account(n));
    }
    // Buckets that were full and are not.
    for n in COUNT..COUNT + 10 {
        accounts.remove(&n);
    }
    let mut by_name = PHashMap::new();
    by_name.insert("a".into(), PVec::from([account(1), account(2)]));
    by_name.insert("none".into(), PVec::new());
    v1::Bank {
        accounts,
        best: Some(PBox::new(account(7))),
        first: (account(8), 9),
        pair: [account(10), account(11)],
        events: PVec::from([
            PMutex::new(v1::Event::Opened),
            PMutex::new(v1::Event::Paid {
                from: 1,
                to: 2,
                cents: 3,
            }),
            PMutex::new(v1::Event::Noted(account(12))),
        ]),
        blob: (0..1000).collect(),
        by_name,
    }
}

fn is_first(bank: &v1::Bank) {
    assert_eq!(bank.accounts.len() as u64, COUNT);
    for (n, found) in bank.accounts.iter() {
        assert_eq!(
            (&*found.owner, found.cents),
            (&*account(*n).owner, account(*n).cents)
        );
    }
    assert_eq!(bank.blob.len(), 1000);
}

fn is_second(bank: &v2::Bank) {
    let good = |found: &v2::Account, n: u64| {
        assert_eq!(found.owner, account(n).owner);
        assert_eq!(found.cents, i64::from(account(n).cents));
        assert!(found.open);
    };
    assert_eq!(bank.accounts.len() as u64, COUNT);
    for n in 0..COUNT {
        good(&bank.accounts[&n], n);
    }
    good(bank.best.as_ref().expect("some"), 7);
    good(&bank.pair[1], 11);
    assert!(matches!(&*bank.events[2].read(), v2::Event::Noted(found) if found.cents == 36));
}

fn is_third(bank: &v3::Bank) {
    let good = |found: &v3::Client, n: u64| {
        assert_eq!(found.name, account(n).owner);
        assert_eq!(found.history[..], [i64::from(account(n).cents)]);
        assert!(found.open);
    };
    assert_eq!(bank.clients.len() as u64, COUNT);
    for n in 0..COUNT {
        good(&bank.clients[&n], n);
    }
    good(bank.best.as_ref().expect("some"), 7);
    good(&bank.first.0, 8);
    assert_eq!(bank.first.1, 9);
    good(&bank.pair[0], 10);
    good(&bank.pair[1], 11);
    assert!(matches!(&*bank.events[0].read(), v3::Event::Opened));
    assert!(matches!(
        &*bank.events[1].read(),
        v3::Event::Paid {
            from: 1,
            to: 2,
            cents: 3
        }
    ));
    match &*bank.events[2].read() {
        v3::Event::Remembered(found) => good(found, 12),
        _ => panic!("another variant"),
    }
    assert!(bank.blob.iter().copied().eq(0..1000));
    good(&bank.by_name["a"][1], 2);
    assert!(bank.by_name["none"].is_empty());
}

fn options<R: Persist>() -> Options<R> {
    Heap::options().max_size(8 << 20).log_size(256 << 10)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Writes a region of the first version.
fn write_first(path: &Path, change: impl FnOnce(&mut v1::Bank)) {
    let heap = options::<One>()
        .open_with(path, || {
            let mut bank = first_bank();
            change(&mut bank);
            PRwLock::new(bank)
        })
        .expect("created");
    heap.close().expect("closed");
}

/// Nothing is leaked, and it is an ordinary heap of its type.
fn lives<R: Persist>(heap: Heap<R>, path: &Path) -> Heap<R> {
    heap.check().expect("passes");
    let live = heap.stats().live_blocks;
    heap.close().expect("closed");
    let again = options::<R>()
        .create(false)
        .verify(true)
        .open_with(path, || unreachable!("it exists"))
        .expect("opened");
    assert!(!again.report().migrated);
    assert_eq!(again.stats().live_blocks, live);
    again
}

#[test]
fn three_versions_are_converted_one_after_the_other() {
    let folder = folder();
    let path = folder.path().join("bank");
    write_first(&path, |_| {});
    let heap = options::<Two>().open(&path).expect("converted");
    assert!(heap.report().migrated && !heap.report().created);
    is_second(&heap.read());
    let heap = lives(heap, &path);
    is_second(&heap.read());
    heap.close().expect("closed");
    let heap = options::<Three>().open(&path).expect("converted");
    is_third(&heap.read());
    is_third(&lives(heap, &path).read());
    // There is no way back.
    let error = options::<One>().open(&path).expect_err("another type");
    assert!(matches!(error, Error::TypeMismatch { .. }), "{error}");
}

#[test]
fn a_version_is_skipped_where_its_types_are_there() {
    let folder = folder();
    let path = folder.path().join("bank");
    write_first(&path, |_| {});
    let heap = options::<Three>().open(&path).expect("converted");
    is_third(&heap.read());
    let heap = lives(heap, &path);
    heap.update(|bank| {
        let mut bank = bank.into_project();
        bank.clients.insert(COUNT, v3::Client::default())?;
        bank.by_name.remove("a")?;
        bank.best.set(None)
    })
    .expect("goes on");
    lives(heap, &path);
}

#[test]
fn a_region_that_was_not_closed_is_converted_too() {
    let folder = folder();
    let (path, copy) = (folder.path().join("bank"), folder.path().join("copy"));
    let heap = options::<One>()
        .background(false)
        .open_with(&path, || PRwLock::new(first_bank()))
        .expect("created");
    std::fs::copy(&path, &copy).expect("copied");
    drop(heap);
    let heap = options::<Three>().open(&copy).expect("converted");
    is_third(&heap.read());
    is_third(&lives(heap, &copy).read());
}

#[test]
fn a_conversion_that_fails_or_panics_changes_nothing() {
    for name in ["refused", "panics"] {
        let folder = folder();
        let path = folder.path().join("bank");
        // The last that is converted: all the others have been by then.
        write_first(&path, |bank| {
            bank.by_name.get_mut("a").expect("there")[1].owner = name.into();
        });
        for _ in 0..2 {
            let opened = catch_unwind(AssertUnwindSafe(|| options::<Three>().open(&path)));
            match opened {
                Ok(Err(error @ Error::Migration { .. })) => {
                    assert_eq!(
                        error.to_string(),
                        "the data stay as they are: a stored Account could not be converted to Client: \
                         this one is not taken over"
                    );
                    assert_eq!(name, "refused");
                }
                Ok(other) => panic!("{other:?}"),
                Err(_) => assert_eq!(name, "panics"),
            }
        }
        let heap = options::<One>().open(&path).expect("as it was");
        assert!(!heap.report().migrated);
        is_first(&heap.read());
        assert_eq!(&*heap.read().by_name["a"][1].owner, name);
        is_first(&lives(heap, &path).read());
    }
}

#[test]
fn a_conversion_that_does_not_fit_the_log_changes_nothing() {
    let folder = folder();
    let path = folder.path().join("bank");
    let small = || Heap::<One>::options().max_size(8 << 20).log_size(64 << 10);
    let heap = small()
        .open_with(&path, || PRwLock::new(first_bank()))
        .expect("created");
    // In pieces that the log holds; all of them, anew, it does not.
    for n in 0..40 {
        heap.update(|bank| {
            bank.into_project()
                .by_name
                .insert(format!("list {n}").into(), (0..60).map(account).collect())
                .map(drop)
        })
        .expect("fits");
    }
    heap.close().expect("closed");
    let error = options::<Three>().open(&path).expect_err("too large");
    assert!(matches!(error, Error::Region(_)), "{error}");
    let heap = options::<One>().open(&path).expect("as it was");
    is_first(&heap.read());
    assert_eq!(heap.read().by_name.len(), 42);
    lives(heap, &path);
}

/// Whatever a crash while `A` is converted to `B` leaves is all of one of them, and goes on from there.
fn crashes<A: Persist, B: Persist>(root: fn() -> A, is_old: fn(&A), is_new: fn(&B)) {
    for kind in [SimKind::Dax, SimKind::Disk] {
        let max_size = 8 << 20;
        let memory = SimMemory::new(max_size);
        let medium = |image: Image| SimMedium::new(kind, image, &memory);
        fn open<R: Persist>(
            medium: Arc<SimMedium>,
            root: impl FnOnce() -> R,
        ) -> bartender::Result<Heap<R>> {
            options::<R>().background(false).open_on(medium, root)
        }
        let written = medium(Image::default());
        open::<A>(written.clone(), root)
            .expect("created")
            .close()
            .expect("closed");
        let image = written.image();
        drop(written);

        let run = medium(image);
        let heap = open::<B>(run.clone(), || unreachable!()).expect("converted");
        run.note(1);
        is_new(heap.root());
        let live = heap.stats().live_blocks;
        heap.close().expect("closed");
        let trace = run.trace();
        drop(run);

        let (mut old, mut new) = (0, 0);
        let bound = Bound {
            images_per_point: 12,
            ..Bound::default()
        };
        let images = trace.explore(bound, |crash| {
            let of_image = medium(crash.image.clone());
            match open::<A>(of_image.clone(), || unreachable!()) {
                Ok(heap) => {
                    if !crash.notes.is_empty() {
                        return Err("it was converted".to_owned());
                    }
                    old += 1;
                    is_old(heap.root());
                    heap.check().map_err(|e| e.to_string())?;
                    // And from there on, after one more crash, it goes.
                    let image = of_image.image();
                    drop((heap, of_image));
                    let again = medium(image);
                    let heap = open::<B>(again, || unreachable!()).map_err(|e| e.to_string())?;
                    is_new(heap.root());
                    heap.check().map_err(|e| e.to_string())?;
                }
                Err(Error::TypeMismatch { .. }) => {
                    new += 1;
                    drop(of_image);
                    let heap = open::<B>(medium(crash.image), || unreachable!())
                        .map_err(|e| e.to_string())?;
                    if heap.report().migrated {
                        return Err("the data are of neither version".to_owned());
                    }
                    is_new(heap.root());
                    heap.check().map_err(|e| e.to_string())?;
                    if heap.stats().live_blocks != live {
                        return Err("blocks are lost".to_owned());
                    }
                }
                Err(error) => return Err(format!("does not open: {error}")),
            }
            Ok(())
        });
        let images = images.unwrap_or_else(|what| panic!("{kind:?}: {what}"));
        println!("{kind:?}: {images} images, {old} of the old version, {new} of the new one");
        assert!(old > 5 && new > 5);
    }
}

#[test]
fn whatever_crash_leaves_is_all_of_one_version() {
    crashes::<One, Three>(
        || PRwLock::new(first_bank()),
        |bank| is_first(&bank.read()),
        |bank| is_third(&bank.read()),
    );
}

/// A list of something that changes.
mod list {
    use super::*;

    pub(crate) mod old {
        use super::*;

        #[derive(Persist)]
        #[repr(C)]
        pub(crate) struct Item(pub(crate) u16);

        #[derive(Persist)]
        #[repr(C)]
        pub(crate) struct Node {
            pub(crate) item: Item,
            pub(crate) next: Option<PBox<Node>>,
        }
    }

    #[derive(Persist)]
    #[repr(C)]
    #[persist(from = old::Item)]
    pub(crate) struct Item(pub(crate) u64);

    impl From<old::Item> for Item {
        fn from(old: old::Item) -> Self {
            Item(old.0.into())
        }
    }

    #[derive(Persist)]
    #[repr(C)]
    pub(crate) struct Node {
        pub(crate) item: Item,
        pub(crate) next: Option<PBox<Node>>,
    }
}

#[test]
fn a_type_that_holds_itself_is_converted_as_deep_as_the_stack_is_sure_to_reach() {
    for len in [100, 200] {
        let folder = folder();
        let path = folder.path().join("list");
        let node = |next: Option<PBox<list::old::Node>>, n: u16| {
            let item = list::old::Item(n);
            Some(PBox::new(list::old::Node { item, next }))
        };
        let heap = options::<Option<PBox<list::old::Node>>>()
            .open_with(&path, || (0..len).fold(None, node))
            .expect("created");
        heap.close().expect("closed");
        let opened = options::<Option<PBox<list::Node>>>().open(&path);
        if len == 100 {
            let heap = opened.expect("converted");
            let nodes = std::iter::successors(heap.root().as_ref(), |node| node.next.as_ref());
            assert!(nodes.map(|node| node.item.0).eq((0..100).rev()));
            heap.check().expect("passes");
        } else {
            let error = opened.expect_err("too deep");
            assert!(matches!(error, Error::Migration { .. }), "{error}");
            let heap = options::<Option<PBox<list::old::Node>>>().open(&path);
            let heap = heap.expect("as it was");
            let nodes = std::iter::successors(heap.root().as_ref(), |node| node.next.as_ref());
            assert_eq!(nodes.count(), 200);
        }
    }
}

#[test]
fn trees_of_what_changes_are_converted_in_their_order() {
    type Of<T> = PMutex<PBTreeMap<PString, T>>;
    for len in [0, 1, 500u16] {
        let folder = folder();
        let path = folder.path().join("tree");
        let key = |n: u16| PString::from(format!("{:04}", n.wrapping_mul(0x9e37)));
        let heap = options::<Of<list::old::Item>>()
            .open(&path)
            .expect("created");
        let items = || (0..len).map(|n| (key(n), list::old::Item(n)));
        heap.update(|mut tree| tree.extend(items()))
            .expect("filled");
        heap.close().expect("closed");
        let heap = options::<Of<list::Item>>().open(&path).expect("converted");
        heap.check().expect("passes");
        let mut wanted: Vec<_> = (0..len).map(|n| (key(n), u64::from(n))).collect();
        wanted.sort();
        let tree = heap.read();
        assert!(
            tree.iter()
                .map(|(k, v)| (k, &v.0))
                .eq(wanted.iter().map(|(k, v)| (k, v)))
        );
        assert!(wanted.iter().all(|(k, v)| tree[k].0 == *v));
        drop(tree);
        heap.update(|mut tree| tree.retain(|_, item| item.0 % 2 == 0))
            .expect("goes on");
        heap.check().expect("passes");
    }
}

/// Names that change without the data.
#[allow(dead_code, reason = "written, and read by other names")]
mod names {
    use super::*;

    #[derive(Persist, PlainData, Clone, Copy, Default, PartialEq, Debug)]
    #[repr(C)]
    pub(crate) struct Point {
        pub(crate) x: u32,
        pub(crate) y: u32,
    }

    #[derive(Persist)]
    #[repr(u8)]
    pub(crate) enum Shape {
        Dot { at: Point },
    }

    #[derive(Persist)]
    #[repr(C)]
    pub(crate) struct Drawing {
        pub(crate) shapes: PVec<Shape>,
        pub(crate) title: PString,
    }

    #[derive(Persist, PlainData, Clone, Copy, Default, PartialEq, Debug)]
    #[repr(C)]
    #[persist(renamed_from = "Point")]
    pub(crate) struct Place {
        #[persist(renamed_from = "x")]
        pub(crate) east: u32,
        #[persist(name = "y")]
        pub(crate) north: u32,
    }

    #[derive(Persist)]
    #[repr(u8)]
    #[persist(name = "Shape")]
    pub(crate) enum Figure {
        #[persist(renamed_from = "Dot")]
        Spot {
            #[persist(renamed_from = "at")]
            place: Place,
        },
    }

    #[derive(Persist)]
    #[repr(C)]
    #[persist(name = "Drawing")]
    pub(crate) struct Picture {
        pub(crate) shapes: PVec<Figure>,
        pub(crate) title: PString,
    }

    /// A rename beside a change that nothing converts.
    #[derive(Persist)]
    #[repr(C)]
    #[persist(name = "Drawing")]
    pub(crate) struct Other {
        #[persist(renamed_from = "title")]
        pub(crate) name: PString,
        pub(crate) shapes: PVec<Figure>,
        pub(crate) size: u64,
    }
}

#[test]
fn names_that_attributes_tell_of_are_taken_over_and_the_data_stay() {
    let folder = folder();
    let path = folder.path().join("drawing");
    let heap = options::<names::Drawing>()
        .open_with(&path, || names::Drawing {
            shapes: PVec::from([names::Shape::Dot {
                at: names::Point { x: 3, y: 4 },
            }]),
            title: "title".into(),
        })
        .expect("created");
    let root: *const _ = heap.root();
    let offset = root.addr() - heap.region().base().addr();
    heap.close().expect("closed");

    let error = options::<names::Other>()
        .open_with(&path, || unreachable!())
        .expect_err("another type");
    let Error::TypeMismatch { differences, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(
        differences,
        [
            "Drawing.shapes: moved from offset 0 to 24",
            "Drawing.name: renamed from `title`",
            "Drawing.name: moved from offset 24 to 0",
            "Drawing.size: u64 added",
            "Drawing: fields in another order",
            "Drawing: size of Drawing 48 → 56 bytes",
            "Drawing.shapes[]::Spot: renamed from `Dot`",
            "Drawing.shapes[]::Spot.place: renamed from `at`",
            "Drawing.shapes[]::Spot.place: type Point renamed to Place",
            "Drawing.shapes[]::Spot.place.east: renamed from `x`",
        ]
    );

    let open = || options::<names::Picture>().open_with(&path, || unreachable!());
    let heap = open().expect("the same but for names");
    assert!(heap.report().migrated);
    let root: *const _ = heap.root();
    assert_eq!(root.addr() - heap.region().base().addr(), offset);
    assert_eq!(&*heap.root().title, "title");
    let names::Figure::Spot { place } = &heap.root().shapes[0];
    assert_eq!((place.east, place.north), (3, 4));
    heap.check().expect("passes");
    heap.close().expect("closed");
    assert!(!open().expect("opened").report().migrated);
}

/// A type in the places that values have, before and after.
mod places {
    use super::*;

    macro_rules! bank {
        ($version:ident, $number:ty) => {
            pub(crate) mod $version {
                use super::*;

                #[derive(Persist, PartialEq, Eq, Hash, PartialOrd, Ord)]
                #[repr(C)]
                pub(crate) struct Id(pub(crate) $number);

                #[derive(Persist)]
                #[repr(C)]
                pub(crate) struct Node {
                    pub(crate) next: Option<PBox<Node>>,
                    pub(crate) sum: $number,
                }

                #[derive(Persist, PartialEq, Eq, PartialOrd, Ord)]
                #[repr(C)]
                pub(crate) struct In<const N: u8>(pub(crate) $number);

                #[derive(Persist, Default)]
                #[repr(C)]
                pub(crate) struct Bank {
                    pub(crate) keys: PBTreeMap<Id, bool>,
                    pub(crate) values: PHashMap<u64, (u8, In<1>)>,
                    pub(crate) set: PBTreeSet<In<2>>,
                    pub(crate) boxed: Option<PMutex<PBox<In<3>>>>,
                    pub(crate) shared: Option<PShared<In<4>>>,
                    pub(crate) plain: PVec<PVec<$number>>,
                    pub(crate) list: Option<PBox<Node>>,
                }
            }
        };
    }
    bank!(old, u64);
    bank!(new, i64);
}

#[test]
fn a_difference_is_told_with_the_way_from_the_root_to_it() {
    let folder = folder();
    let path = folder.path().join("bank");
    let heap = options::<PRwLock<places::old::Bank>>().open(&path);
    heap.expect("created").close().expect("closed");
    let error = options::<PRwLock<places::new::Bank>>().open(&path);
    let Err(Error::TypeMismatch { differences, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(
        differences,
        [
            "Bank.plain: PVec<PVec<u64>> → PVec<PVec<i64>>",
            "Bank.keys[key].0: u64 → i64",
            "Bank.values[value].1.0: u64 → i64",
            "Bank.set[].0: u64 → i64",
            "Bank.boxed.0: u64 → i64",
            "Bank.shared.0: u64 → i64",
            "Bank.list.sum: u64 → i64",
        ]
    );
}

#[test]
fn damaged_data_are_not_converted() {
    let folder = folder();
    let path = folder.path().join("bank");
    write_first(&path, |_| {});
    // A byte that is no text, in a region that was closed cleanly: nobody looks at it when it is opened.
    let mut bytes = std::fs::read(&path).expect("read");
    let text = bytes.windows(8).rposition(|at| at == b"owner 12");
    let text = text.expect("a name");
    bytes[text] = 0xff;
    std::fs::write(&path, bytes).expect("written");
    let error = options::<Three>().open(&path).expect_err("damaged");
    assert!(error.to_string().contains("UTF-8"), "{error}");
}

//! Keys that change their type: maps and sets of them are hashed, or put in order, anew.

use super::{crashes, folder, lives, options};
use bartender::{
    Error, PBTreeMap, PBTreeSet, PHashMap, PHashSet, PRwLock, PString, Persist, PlainData,
};
use std::cell::Cell;
use std::cmp::{Ordering, Reverse};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// What has the keys, of whichever version.
macro_rules! world {
    ($($attribute:tt)*) => {
        #[derive(Persist, Default)]
        #[repr(C)]
        pub(crate) struct World {
            pub(crate) table: PHashMap<Id, PString>,
            pub(crate) tree: PBTreeMap<(Id, u8), PString>,
            pub(crate) set: PHashSet<Id>,
            pub(crate) order: PBTreeSet<Id>,
            /// Nothing in it but what holds such keys.
            pub(crate) inner: PBTreeMap<PString, PHashSet<Id>>,
        }
    };
}

mod v1 {
    use super::*;

    #[derive(Persist, PlainData, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
    #[repr(C)]
    pub(crate) struct Id(pub(crate) u32);

    world!();
}

/// Names instead of numbers: another hash, another order, blocks of their own.
mod v2 {
    use super::*;

    #[derive(Persist, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
    #[repr(C)]
    #[persist(from = v1::Id)]
    pub(crate) struct Id {
        pub(crate) name: PString,
    }

    impl From<v1::Id> for Id {
        fn from(old: v1::Id) -> Self {
            id(old.0)
        }
    }

    pub(crate) fn id(n: u32) -> Id {
        Id {
            name: name(n).into(),
        }
    }

    world!();
}

/// Of many ids one is made.
mod narrow {
    use super::*;

    #[derive(Persist, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
    #[repr(C)]
    #[persist(from = v1::Id)]
    pub(crate) struct Id(u16);

    impl From<v1::Id> for Id {
        fn from(old: v1::Id) -> Self {
            Id(old.0 as u16)
        }
    }

    world!();
}

type One = PRwLock<v1::World>;
type Two = PRwLock<v2::World>;

const COUNT: u32 = 300;

/// In another order than the numbers.
fn name(n: u32) -> String {
    format!("{:x}", n.wrapping_mul(0x9e37_79b9))
}

fn world() -> v1::World {
    let ids = || (0..COUNT).map(v1::Id);
    let text = |n: v1::Id| PString::from(format!("value {}", n.0));
    v1::World {
        table: ids().map(|n| (n, text(n))).collect(),
        tree: ids().map(|n| ((n, n.0 as u8), text(n))).collect(),
        set: ids().collect(),
        order: ids().collect(),
        inner: [
            ("none".into(), PHashSet::new()),
            ("some".into(), PHashSet::from([v1::Id(7), v1::Id(8)])),
        ]
        .into(),
    }
}

fn is_old(world: &v1::World) {
    let text = |n: u32| format!("value {n}");
    assert_eq!((world.table.len(), world.set.len()), (300, 300));
    for n in 0..COUNT {
        let id = v1::Id(n);
        assert_eq!(*world.table[&id], *text(n));
        assert_eq!(*world.tree[&(id, n as u8)], *text(n));
        assert!(world.set.contains(&id));
    }
    assert!(world.order.iter().copied().eq((0..COUNT).map(v1::Id)));
    assert!(
        world
            .tree
            .keys()
            .map(|key| key.0)
            .eq((0..COUNT).map(v1::Id))
    );
    assert_eq!(world.inner["some"].len(), 2);
}

fn is_new(world: &v2::World) {
    let text = |n: u32| format!("value {n}");
    assert_eq!((world.table.len(), world.set.len()), (300, 300));
    for n in 0..COUNT {
        let id = v2::id(n);
        assert_eq!(*world.table[&id], *text(n));
        assert!(world.set.contains(&id));
        assert!(world.order.contains(&id));
        assert_eq!(*world.tree[&(id, n as u8)], *text(n));
    }
    let mut names: Vec<String> = (0..COUNT).map(name).collect();
    names.sort();
    let is_in_order = |ids: &mut dyn Iterator<Item = &v2::Id>| {
        let found = ids.map(|id| &*id.name);
        assert!(found.eq(names.iter().map(String::as_str)));
    };
    is_in_order(&mut world.order.iter());
    is_in_order(&mut world.tree.keys().map(|key| &key.0));
    assert!(world.inner["none"].is_empty() && world.inner["some"].contains(&v2::id(8)));
}

fn write<R: Persist>(path: &Path, root: R) {
    let heap = options::<R>().open_with(path, || root).expect("created");
    heap.close().expect("closed");
}

#[test]
fn keys_are_hashed_and_put_in_order_anew() {
    let folder = folder();
    let path = folder.path().join("world");
    write(&path, One::new(world()));
    let heap = options::<Two>().open(&path).expect("converted");
    assert!(heap.report().migrated);
    is_new(&heap.read());
    let heap = lives(heap, &path);
    is_new(&heap.read());
    heap.update(|world| {
        let mut world = world.into_project();
        for n in 0..2 * COUNT {
            let there = n < COUNT;
            assert_eq!(world.table.remove(&v2::id(n))?.is_some(), there);
            assert_eq!(world.tree.remove(&(v2::id(n), n as u8))?.is_some(), there);
            assert_eq!(world.set.insert(v2::id(n))?, !there);
            assert_eq!(world.order.insert(v2::id(n))?, !there);
        }
        world.inner.clear()
    })
    .expect("goes on");
    lives(heap, &path);
}

#[test]
fn two_keys_that_would_become_equal_leave_the_data_as_they_were() {
    type Old = v1::World;
    let both = || [v1::Id(1), v1::Id(0x1_0001), v1::Id(2)];
    let worlds: [fn(&mut Old, [v1::Id; 3]); 5] = [
        |world, ids| world.table = ids.map(|id| (id, PString::new())).into(),
        |world, ids| world.tree = ids.map(|id| ((id, 5), PString::new())).into(),
        |world, ids| world.set = ids.into(),
        |world, ids| world.order = ids.into(),
        |world, ids| world.inner = [("x".into(), ids.into())].into(),
    ];
    for fill in worlds {
        let folder = folder();
        let path = folder.path().join("world");
        let mut world = Old::default();
        fill(&mut world, both());
        write(&path, PRwLock::new(world));
        for _ in 0..2 {
            let error = options::<PRwLock<narrow::World>>().open(&path);
            let error = error.expect_err("two are equal");
            assert!(matches!(error, Error::Migration { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("a stored ") && text.contains("Id"), "{text}");
            assert!(
                text.contains("two keys of one map would become equal"),
                "{text}"
            );
        }
        let heap = options::<PRwLock<Old>>().open(&path).expect("as it was");
        let mut expected = Old::default();
        fill(&mut expected, both());
        let world = heap.read();
        assert!(world.table == expected.table && world.tree == expected.tree);
        assert!(world.set == expected.set && world.order == expected.order);
        assert!(world.inner == expected.inner);
        drop(world);
        lives(heap, &path);

        // Without the second it goes.
        let path = folder.path().join("other");
        let mut world = Old::default();
        fill(&mut world, [v1::Id(1), v1::Id(1), v1::Id(2)]);
        write(&path, PRwLock::new(world));
        let heap = options::<PRwLock<narrow::World>>().open(&path);
        lives(heap.expect("converted"), &path);
    }
}

#[test]
fn comparisons_that_panic_leave_the_data_as_they_were() {
    thread_local!(static COMPARED: Cell<u32> = const { Cell::new(0) });

    #[derive(Persist, PartialEq, Eq)]
    #[repr(C)]
    #[persist(from = v1::Id)]
    struct Id(u64);

    impl From<v1::Id> for Id {
        fn from(old: v1::Id) -> Self {
            Id(old.0.into())
        }
    }

    impl PartialOrd for Id {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Id {
        fn cmp(&self, other: &Self) -> Ordering {
            COMPARED.set(COMPARED.get() + 1);
            if COMPARED.get() == 500 {
                resume_unwind(Box::new("on purpose"));
            }
            self.0.cmp(&other.0)
        }
    }

    let folder = folder();
    let path = folder.path().join("set");
    let ids = || (0..COUNT).map(v1::Id);
    write(&path, ids().collect::<PBTreeSet<_>>());
    let open = || options::<PBTreeSet<Id>>().open(&path);
    assert!(catch_unwind(AssertUnwindSafe(open)).is_err());
    let heap = options::<PBTreeSet<v1::Id>>().open(&path);
    let heap = lives(heap.expect("as it was"), &path);
    assert!(heap.root().iter().copied().eq(ids()));
    heap.close().expect("closed");
    let heap = lives(open().expect("converted"), &path);
    assert!(heap.root().iter().map(|id| id.0).eq(0..u64::from(COUNT)));
}

#[test]
fn whatever_crash_leaves_has_keys_of_one_version() {
    crashes::<One, Two>(
        || PRwLock::new(world()),
        |world| is_old(&world.read()),
        |world| is_new(&world.read()),
    );
}

/// An order that is not that of the numbers, by a type that only holds them: the key is what changes in it.
#[test]
fn a_key_that_only_holds_what_changes_changes_too() {
    mod old {
        use super::*;

        #[derive(Persist, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(C)]
        pub(crate) struct Key {
            pub(crate) id: v1::Id,
            pub(crate) part: u32,
        }
    }

    #[derive(Persist, PartialEq, Eq, Hash)]
    #[repr(C)]
    struct Key {
        id: v2::Id,
        part: u32,
    }

    impl PartialOrd for Key {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Key {
        fn cmp(&self, other: &Self) -> Ordering {
            (Reverse(self.part), &self.id).cmp(&(Reverse(other.part), &other.id))
        }
    }

    let folder = folder();
    let path = folder.path().join("tree");
    let key = |part| old::Key {
        id: v1::Id(part / 2),
        part,
    };
    write(
        &path,
        (0..COUNT).map(|n| (key(n), n)).collect::<PBTreeMap<_, _>>(),
    );
    let heap = options::<PBTreeMap<Key, u32>>().open(&path);
    let heap = lives(heap.expect("converted"), &path);
    assert!(heap.root().values().copied().eq((0..COUNT).rev()));
    assert!(heap.root().keys().all(|key| key.id == v2::id(key.part / 2)));
}

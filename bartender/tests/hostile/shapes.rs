//! Types at the edges: without bytes, with much alignment, huge, with niches, generic, with names that the generated code
//! could stumble over.

use crate::{folder, open, open_at, region};
use bartender::{
    Heap, Mut, PBox, PHashMap, PHashSet, PMutex, PRwLock, PString, PVec, Persist, PlainData,
};
use std::marker::PhantomData;
use std::num::NonZeroU8;

#[derive(Persist, Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
struct Nothing;

#[derive(Persist, Default)]
#[repr(C)]
struct Empties {
    unit: (),
    nothing: Nothing,
    none: [PBox<u64>; 0],
    boxed: Option<PBox<()>>,
    map: PHashMap<[u8; 0], u8>,
    set: PHashSet<(u8, Nothing)>,
    locks: [PMutex<()>; 3],
    phantom: PhantomData<Nothing>,
}

#[test]
fn values_without_bytes_are_stored_changed_and_taken_out() {
    let folder = folder();
    let heap = open::<PMutex<Empties>>(&folder);
    for _ in 0..3 {
        heap.update(|mut all| {
            all.boxed_mut().set(Some(PBox::new(())))?;
            all.map_mut().insert([], 1)?;
            assert!(all.map_mut().insert([], 2)?.is_some());
            all.set_mut().insert((1, Nothing))?;
            all.map_mut().retain(|[], _| true)?;
            assert_eq!(all.map.len(), 1);
            assert_eq!(all.map_mut().extract_if(|[], _| false)?.count(), 0);
            all.map_mut().reserve(100)?;
            all.map_mut().shrink_to_fit()?;
            all.set_mut().retain(|_| false)?;
            assert_eq!(all.map_mut().drain()?.count(), 1);
            let mut locks = all.project().locks.into_project();
            let (first, rest) = locks.split_at_mut(1);
            Mut::swap(&mut first[0], &mut rest[1])?;
            drop(Mut::take(&mut all)?);
            all.boxed_mut().set(Some(PBox::new(())))
        })
        .unwrap();
        heap.check().unwrap();
    }
    heap.close().unwrap();
    let heap = open::<PMutex<Empties>>(&folder);
    assert!(heap.read().boxed.is_some());
}

#[test]
fn a_root_without_bytes() {
    let folder = folder();
    let heap = open::<()>(&folder);
    heap.transaction(|_| Ok(())).unwrap();
    heap.check().unwrap();
    heap.close().unwrap();
    drop(open::<()>(&folder));
}

#[derive(Persist, Clone, Copy, PartialEq, Debug)]
#[repr(C, align(4096))]
struct Page(u64);

#[derive(Persist, Default)]
#[repr(C)]
struct Aligned {
    boxed: Option<PBox<Page>>,
    list: PVec<Page>,
    map: PHashMap<u8, Page>,
}

#[test]
fn pages_lie_at_pages() {
    fn aligned<T>(value: &T) -> bool {
        (&raw const *value).addr().is_multiple_of(align_of::<T>())
    }
    let folder = folder();
    let path = region(&folder);
    let heap = open_at::<PMutex<Aligned>>(&path);
    heap.update(|mut all| {
        all.boxed_mut().set(Some(PBox::new(Page(1))))?;
        all.list_mut().extend((0..5).map(Page))?;
        all.map_mut().extend((0..20).map(|n| (n, Page(n.into()))))
    })
    .unwrap();
    let verify = |heap: &Heap<PMutex<Aligned>>| {
        let all = heap.read();
        assert!(all.boxed.iter().all(|page| aligned(&**page)));
        assert!(all.list.iter().all(aligned));
        assert!(all.map.values().all(aligned));
        assert!(all.list.iter().copied().eq((0..5).map(Page)));
        assert!((0..20).all(|n| all.map[&n] == Page(n.into())));
    };
    verify(&heap);
    heap.check().unwrap();
    heap.close().unwrap();
    let heap = open_at::<PMutex<Aligned>>(&path);
    verify(&heap);
    // Out again: in ordinary memory they lie at pages too.
    let taken = heap.update(|mut all| Mut::take(&mut all)).unwrap();
    assert!(taken.boxed.iter().all(|page| aligned(&**page)));
    assert!(taken.list.iter().all(aligned));
    assert!(taken.map.values().all(aligned));
    heap.check().unwrap();
}

#[test]
fn a_root_that_is_aligned_like_a_page() {
    #[derive(Persist, Default)]
    #[repr(C, align(4096))]
    struct Root(PMutex<u64>);
    let folder = folder();
    let heap = open::<Root>(&folder);
    assert_eq!((&raw const *heap.root()).addr() % 4096, 0);
    heap.transaction(|tx| {
        *tx.lock(&heap.root().0)? = 1;
        Ok(())
    })
    .unwrap();
    heap.check().unwrap();
}

#[test]
fn a_value_of_megabytes_inline() {
    type Big = PVec<[u64; 1 << 16]>;
    let folder = folder();
    let heap = open::<PMutex<Big>>(&folder);
    heap.update(|mut list| list.push([7; 1 << 16])).unwrap();
    let failed: bartender::Result<()> = heap.update(|mut list| {
        list.get_mut(0).unwrap()[65_535] = 8;
        list.push([1; 1 << 16])?;
        list.swap_elements(0, 1)?;
        Err(bartender::Error::abort("taken back"))
    });
    failed.unwrap_err();
    assert!(heap.read()[0].iter().all(|n| *n == 7));
    heap.check().unwrap();
}

#[test]
fn niches_within_niches() {
    type Deep = Option<Option<Option<PBox<Option<Option<bool>>>>>>;
    #[derive(Persist, Default)]
    #[repr(C)]
    struct Root {
        deep: Deep,
        byte: Option<Option<NonZeroU8>>,
        flag: Option<Option<Option<bool>>>,
        list: Option<PVec<u8>>,
        text: Option<Option<PString>>,
    }
    let all = || {
        [
            None,
            Some(None),
            Some(Some(None)),
            Some(Some(Some(PBox::new(None)))),
            Some(Some(Some(PBox::new(Some(None))))),
            Some(Some(Some(PBox::new(Some(Some(true)))))),
        ]
    };
    let folder = folder();
    let path = region(&folder);
    for (i, deep) in all().into_iter().enumerate() {
        let heap = open_at::<PMutex<Root>>(&path);
        heap.update(|mut root| {
            root.deep_mut().set(deep)?;
            root.byte_mut().set(Some(NonZeroU8::new(i as u8)))?;
            root.flag_mut().set(Some(Some(Some(i % 2 == 0))))?;
            root.list_mut().set((i % 2 == 0).then(PVec::new))?;
            root.text_mut().set(Some((i % 2 == 1).then(|| "x".into())))
        })
        .unwrap();
        heap.check().unwrap();
        drop(heap);
        let heap = open_at::<PMutex<Root>>(&path);
        let root = heap.read();
        assert_eq!(root.deep, all()[i]);
        assert_eq!(root.byte, Some(NonZeroU8::new(i as u8)));
        assert_eq!(root.flag, Some(Some(Some(i % 2 == 0))));
        assert_eq!(root.list.is_some(), i % 2 == 0);
        assert_eq!(root.text.as_ref().unwrap().is_some(), i % 2 == 1);
    }
}

/// Names of the prelude, of the generated code, and of the language.
mod names {
    #![allow(non_camel_case_types, dead_code, clippy::enum_variant_names)]

    use bartender::{PBox, PMutex, PString, PVec, Persist, PlainData};

    #[derive(Persist, Default)]
    #[repr(C)]
    pub(super) struct Result {
        pub(super) r#type: PString,
        pub(super) r#match: core::option::Option<PBox<Result>>,
        pub(super) tx: u64,
        pub(super) this: u64,
        pub(super) ptr: Option,
        pub(super) __p: u8,
    }

    #[derive(Persist, Default)]
    #[repr(u8)]
    pub(super) enum Option {
        #[default]
        None,
        Some(PString),
        Ok {
            r#fn: u8,
            tx: u64,
        },
        r#Err,
    }

    #[derive(Persist, PlainData, Clone, Copy, Default)]
    #[repr(C)]
    pub(super) struct u64_(pub(super) u64);

    #[derive(Persist, Default)]
    #[repr(C)]
    pub(super) struct Vec<Box, const __P: usize>
    where
        Box: Send + core::fmt::Debug,
        [Box; __P]: Default,
    {
        pub(super) some: PVec<Box>,
        pub(super) array: [Box; __P],
        pub(super) mutex: PMutex<u64_>,
    }

    pub(super) fn some() -> Option {
        Option::Some("inside".into())
    }
}

#[test]
fn names_that_stand_in_the_way_of_generated_code() {
    use names::*;
    type Root = (Result, Vec<u32, 3>);
    let folder = folder();
    let heap = open::<PMutex<Root>>(&folder);
    heap.update(|mut root| {
        let (mut result, mut list) = root.project();
        result.type_mut().push_str("a")?;
        result.ptr_mut().set(some())?;
        result
            .match_mut()
            .set(core::option::Option::Some(PBox::default()))?;
        *result.tx_mut() = 1;
        list.some_mut().push(1)?;
        list.array_mut()[2] = 3;
        list.project().mutex.project().0 = 4;
        Ok(())
    })
    .unwrap();
    let guard = heap.read();
    assert!(matches!(&guard.0.ptr, names::Option::Some(text) if **text == *"inside"));
    assert_eq!(guard.1.array, [0, 0, 3]);
    drop(guard);
    heap.check().unwrap();
}

#[derive(Persist, Default)]
#[repr(C)]
struct Tree<K: Persist, V: Persist, M = PhantomData<fn() -> K>> {
    root: Option<PBox<Branch<K, V>>>,
    marker: M,
}

#[derive(Persist)]
#[repr(C)]
struct Branch<K: Persist, V: Persist> {
    key: K,
    values: PVec<V>,
    lock: PRwLock<Option<PBox<Branch<K, V>>>>,
    children: [Option<PBox<Branch<K, V>>>; 2],
}

#[test]
fn types_that_contain_themselves_by_every_way() {
    let folder = folder();
    let heap = open::<PMutex<Tree<PString, u8>>>(&folder);
    let branch = |key: &str| Branch {
        key: key.into(),
        values: PVec::from(vec![1, 2]),
        lock: PRwLock::new(None),
        children: [None, None],
    };
    heap.update(|mut tree| {
        let mut root = branch("a");
        root.children[1] = Some(PBox::new(branch("b")));
        *root.lock.get_mut() = Some(PBox::new(branch("c")));
        tree.root_mut().set(Some(PBox::new(root)))?;
        let mut root = tree.project().root.into_project().unwrap().into_project();
        // Out of the node, and the node into it.
        let lower = Mut::take(&mut root.children_mut().project()[1])?;
        let mut lock = root.lock_mut();
        let mut inside = lock.project();
        let mut inside = inside.project().unwrap();
        inside.project().children_mut().project()[0].set(lower)
    })
    .unwrap();
    heap.check().unwrap();
    let guard = heap.read();
    let inside = guard.root.as_ref().unwrap().lock.read();
    let key = &inside.as_ref().unwrap().children[0].as_ref().unwrap().key;
    assert_eq!(&**key, "b");
}

#[test]
fn an_enum_with_as_many_variants_as_a_byte_has_values() {
    macro_rules! many {
        ($($name:ident)*) => {
            #[derive(Persist, PlainData, Clone, Copy, PartialEq, Debug)]
            #[repr(u8)]
            #[allow(dead_code)]
            enum Many { $($name),* }
            const ALL: &[Many] = &[$(Many::$name),*];
        };
    }
    many! {
        A0 A1 A2 A3 A4 A5 A6 A7 A8 A9 AA AB AC AD AE AF B0 B1 B2 B3 B4 B5 B6 B7 B8 B9 BA BB BC BD BE BF
        C0 C1 C2 C3 C4 C5 C6 C7 C8 C9 CA CB CC CD CE CF D0 D1 D2 D3 D4 D5 D6 D7 D8 D9 DA DB DC DD DE DF
        E0 E1 E2 E3 E4 E5 E6 E7 E8 E9 EA EB EC ED EE EF F0 F1 F2 F3 F4 F5 F6 F7 F8 F9 FA FB FC FD FE FF
        G0 G1 G2 G3 G4 G5 G6 G7 G8 G9 GA GB GC GD GE GF H0 H1 H2 H3 H4 H5 H6 H7 H8 H9 HA HB HC HD HE HF
        I0 I1 I2 I3 I4 I5 I6 I7 I8 I9 IA IB IC ID IE IF J0 J1 J2 J3 J4 J5 J6 J7 J8 J9 JA JB JC JD JE JF
        K0 K1 K2 K3 K4 K5 K6 K7 K8 K9 KA KB KC KD KE KF L0 L1 L2 L3 L4 L5 L6 L7 L8 L9 LA LB LC LD LE LF
        M0 M1 M2 M3 M4 M5 M6 M7 M8 M9 MA MB MC MD ME MF N0 N1 N2 N3 N4 N5 N6 N7 N8 N9 NA NB NC ND NE NF
        O0 O1 O2 O3 O4 O5 O6 O7 O8 O9 OA OB OC OD OE OF P0 P1 P2 P3 P4 P5 P6 P7 P8 P9 PA PB PC PD PE PF
    }
    assert_eq!(ALL.len(), 256);
    let folder = folder();
    let heap = open::<PMutex<PVec<Option<Many>>>>(&folder);
    heap.update(|mut list| {
        list.push(None)?;
        list.extend(ALL.iter().copied().map(Some))
    })
    .unwrap();
    heap.check().unwrap();
    drop(heap);
    let heap = open::<PMutex<PVec<Option<Many>>>>(&folder);
    assert!(heap.read()[1..].iter().flatten().eq(ALL));
    assert_eq!(heap.read()[0], None);
}

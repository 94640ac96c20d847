//! Whole heaps on the simulated medium, in small: every kind of stored value is stored, changed, taken back, taken out
//! and recovered, and each operation of the collections runs once. Other tests go deeper; these are short enough for
//! Miri, which sees how it is done.
#![cfg(not(loom))]

use bartender::{
    Error, Heap, Mut, PAtomicU64, PBox, PHashMap, PMutex, PRcu, PRwLock, PShared, PString, PVec,
    Persist, PlainData, Result,
};
use bartender_pm::medium::sim::{Image, SimKind, SimMedium, SimMemory};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

mod twins;
use twins::{KINDS, Op, Twin, apply, copy};

#[derive(Persist, PlainData, Clone, Copy, Default, PartialEq, Debug)]
#[repr(C)]
struct Point {
    x: u32,
    y: u32,
}

/// Full of bytes that belong to no value.
#[derive(Persist, Default, PartialEq, Debug)]
#[repr(C)]
struct Gaps {
    small: u8,
    large: u64,
    pair: (u8, u32),
    number: Option<u32>,
    letter: Option<char>,
    flag: Option<(u32, bool)>,
    next: Option<PBox<u64>>,
}

#[derive(Persist, Default, PartialEq, Debug)]
#[repr(C, u8)]
enum Shape {
    #[default]
    Nothing,
    Circle(u64),
    Named {
        name: PString,
        sides: u8,
    },
}

#[derive(Persist, Default)]
#[repr(C)]
struct Root {
    point: Point,
    gaps: Gaps,
    shape: Shape,
    boxed: Option<PBox<Gaps>>,
    shapes: PVec<Shape>,
    inner: PRwLock<PVec<u64>>,
}

fn gaps(n: u64) -> Gaps {
    Gaps {
        small: n as u8,
        large: n,
        pair: (1, n as u32),
        number: (n % 2 == 1).then_some(n as u32),
        letter: (n % 2 == 1).then_some('ß'),
        flag: (n % 2 == 1).then_some((7, true)),
        next: (n % 3 == 1).then(|| PBox::new(n)),
    }
}

fn named(sides: u8) -> Shape {
    Shape::Named {
        name: "polygon, which has a block".into(),
        sides,
    }
}

/// Runs `story` on a new heap and lets `verify` see it, as it is and after a crash and after a clean close.
fn told<R: Persist + Default>(
    kind: SimKind,
    story: impl FnOnce(&Heap<R>),
    verify: impl Fn(&Heap<R>),
) {
    const SIZE: u64 = 2 << 20;
    let memory = SimMemory::new(SIZE);
    let open = |image: Image| {
        let medium = SimMedium::new(kind, image, &memory);
        let options = Heap::options().max_size(SIZE).log_size(32 << 10);
        let heap = options
            .background(false)
            .open_on(medium.clone(), R::default);
        (heap.expect("opens"), medium)
    };
    let (heap, medium) = open(Image::default());
    story(&heap);
    verify(&heap);
    let image = medium.image();
    drop((heap, medium));
    let (heap, medium) = open(image);
    assert!(heap.report().heap.marked);
    verify(&heap);
    heap.close().expect("no I/O error");
    let image = medium.image();
    drop(medium);
    let (heap, _medium) = open(image);
    assert!(!heap.report().heap.marked);
    verify(&heap);
}

fn change(heap: &Heap<PMutex<Root>>, n: u64) {
    let change = |mut root: Mut<'_, Root>| {
        root.gaps_mut().set(gaps(n))?;
        root.point_mut().y += 1;
        let old = Mut::replace(&mut root.shape_mut(), named(3))?;
        root.shapes_mut().push(old)?;
        root.shapes_mut().push(Shape::Circle(n))?;
        let taken = Mut::take(&mut root.boxed_mut())?;
        assert_eq!(taken.map(PBox::into_inner), (n > 1).then(|| gaps(n - 1)));
        root.boxed_mut().set(Some(PBox::new(gaps(n))))?;
        if let ShapeProj::Named { mut name, .. } = root.shape_mut().project() {
            name.push_str("!")?;
        }
        Ok(())
    };
    let aborted = heap.update(|root| {
        change(root)?;
        Err::<(), _>(Error::abort("on purpose"))
    });
    assert!(matches!(aborted, Err(Error::Aborted(_))), "{aborted:?}");
    heap.update(change).expect("commits");
}

fn verify(root: &Root, n: u64) {
    assert_eq!(root.point.y as u64, n);
    if n == 0 {
        return;
    }
    assert_eq!(root.gaps, gaps(n));
    assert_eq!(root.boxed.as_deref(), Some(&gaps(n)));
    assert_eq!(root.shapes.len() as u64, 2 * n);
    assert!(
        matches!(&root.shape, Shape::Named { name, sides: 3 } if *name == *"polygon, which has a block!")
    );
}

#[test]
fn values_with_gaps_are_stored_taken_back_taken_out_and_recovered() {
    let story = |heap: &Heap<PMutex<Root>>| {
        change(heap, 1);
        heap.checkpoint().expect("no I/O error");
        change(heap, 2);
    };
    told(SimKind::Dax, story, |heap| verify(&heap.read(), 2));
}

#[test]
fn each_operation_of_the_collections_runs_and_is_taken_back() {
    let op = |which: u8| -> Op {
        (
            which,
            usize::from(which) % 3,
            u32::from(which) * 7,
            ["ab", "ab, and more than fits in"][usize::from(which) % 2].into(),
        )
    };
    let twin = RefCell::new(Twin::default());
    let story = |heap: &Heap<PMutex<twins::Root>>| {
        for (round, kind) in KINDS.iter().chain(&KINDS).enumerate() {
            let tell = |mut root: Mut<'_, twins::Root>, next: &mut Twin| {
                kind.1
                    .clone()
                    .try_for_each(|which| apply(&op(which), &mut root, next))
            };
            if round >= KINDS.len() {
                let mut lost = twin.borrow().clone();
                let aborted = heap.update(|root| {
                    tell(root, &mut lost)?;
                    Err::<(), _>(Error::abort("on purpose"))
                });
                assert!(matches!(aborted, Err(Error::Aborted(_))), "{aborted:?}");
                assert_eq!(copy(&heap.read()), *twin.borrow());
            }
            let next = &mut *twin.borrow_mut();
            heap.update(|root| tell(root, next)).expect("commits");
        }
        heap.check().expect("passes");
    };
    told(SimKind::Disk, story, |heap| {
        assert_eq!(copy(&heap.read()), *twin.borrow())
    });
}

#[test]
fn threads_change_one_heap_and_read_it() {
    let story = |heap: &Heap<Root>| {
        std::thread::scope(|scope| {
            for n in 0..2 {
                scope.spawn(move || {
                    for i in 0..3 {
                        let push =
                            heap.transaction(|tx| tx.lock(&heap.root().inner)?.push(n * 10 + i));
                        push.expect("commits");
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..3 {
                    assert!(heap.root().inner.read().len() <= 6);
                }
            });
        });
    };
    told(SimKind::Dax, story, |heap| {
        assert_eq!(heap.root().inner.read().len(), 6)
    });
}

/// Bytes of ordinary memory that belong to no value stay out of the region.
#[test]
#[cfg_attr(miri, ignore = "looks at two million bytes")]
fn what_was_taken_out_of_an_owned_map_does_not_get_into_the_region() {
    const GONE: u64 = 0x5ec2_e75e_c2e7_5ec2;
    let memory = SimMemory::new(2 << 20);
    let medium = SimMedium::new(SimKind::Disk, Image::default(), &memory);
    let options = Heap::options().max_size(2 << 20).log_size(32 << 10);
    let heap: Heap<PMutex<PHashMap<u64, u64>>> = options
        .background(false)
        .open_on(medium.clone(), Default::default)
        .expect("a new heap");
    let mut owned = PHashMap::new();
    for key in 0..5 {
        owned.insert(key, if key == 3 { GONE } else { key });
    }
    assert_eq!(owned.remove(&3), Some(GONE));
    heap.update(|mut map| map.set(owned)).expect("commits");
    let bytes = medium.image().to_vec();
    assert!(!bytes.windows(8).any(|word| word == GONE.to_ne_bytes()));
}

#[derive(Persist, Default)]
#[repr(C)]
struct Places {
    a: PMutex<Option<PBox<PString>>>,
    b: PMutex<Option<PBox<PString>>>,
    shape: PRwLock<Shape>,
}

#[test]
fn values_are_moved_inside_the_region_and_parts_of_transactions_taken_back() {
    let boxed = |text: &str| Some(PBox::new(PString::from(text)));
    let story = |heap: &Heap<Places>| {
        let Places { a, b, shape } = heap.root();
        heap.transaction(|tx| {
            tx.lock(a)?.set(boxed("one, which needs a block"))?;
            tx.lock(shape)?.set(named(4))
        })
        .expect("commits");
        heap.transaction(|tx| {
            let (mut a, mut b) = (tx.lock(a)?, tx.lock(b)?);
            b.set_moved(Mut::take_moved(&mut a)?)
        })
        .expect("commits");
        heap.transaction(|tx| {
            let failed: Result<()> = tx.savepoint(|tx| {
                tx.lock(b)?.set(None)?;
                tx.lock(a)?.set(boxed("two, which needs a block"))?;
                tx.lock(shape)?.set(Shape::Circle(3))?;
                Err(Error::abort("on purpose"))
            });
            assert!(matches!(failed, Err(Error::Aborted(_))), "{failed:?}");
            assert!(matches!(*tx.read(shape)?, Shape::Named { .. }));
            tx.savepoint(|tx| tx.lock(a)?.set(boxed("three, short")))
        })
        .expect("commits");
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            heap.transaction(|tx| -> Result<()> {
                tx.lock(a)?.set(None)?;
                tx.lock(shape)?.set(Shape::Nothing)?;
                resume_unwind(Box::new("on purpose"))
            })
        }));
        assert!(panicked.is_err());
    };
    told(SimKind::Disk, story, |heap| {
        let Places { a, b, shape } = heap.root();
        assert_eq!(
            a.read().as_deref().map(PString::as_str),
            Some("three, short")
        );
        assert_eq!(
            b.read().as_deref().map(PString::as_str),
            Some("one, which needs a block")
        );
        assert_eq!(*shape.read(), named(4));
    });
}

#[derive(Persist, Default)]
#[repr(C)]
struct Cells {
    hits: PAtomicU64,
    owners: PRwLock<PVec<PShared<PString>>>,
}

#[test]
fn threads_count_and_share_beside_each_other() {
    let story = |heap: &Heap<Cells>| {
        let root = heap.root();
        let first = heap.transaction(|tx| {
            tx.lock(&root.owners)?
                .push(PShared::new("rye, which needs a block".into()))
        });
        first.expect("commits");
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(move || {
                    for _ in 0..2 {
                        let done = heap.transaction(|tx| {
                            root.hits.add(tx, 1)?;
                            let mut owners = tx.lock(&root.owners)?;
                            let again = owners[0].share(tx)?;
                            owners.push_moved(again)
                        });
                        done.expect("commits");
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..4 {
                    assert!(root.hits.load() <= 4);
                    assert!(
                        root.owners
                            .read()
                            .iter()
                            .all(|text| ***text == *"rye, which needs a block")
                    );
                }
            });
        });
        let failed = heap.transaction(|tx| -> Result<()> {
            tx.lock(&root.owners)?.clear()?;
            root.hits.add(tx, 1)?;
            Err(Error::abort("on purpose"))
        });
        assert!(failed.is_err());
        let taken = heap.transaction(|tx| {
            let mut owners = tx.lock(&root.owners)?;
            owners.truncate(2)?;
            owners.pop()
        });
        assert_eq!(
            **taken.expect("commits").expect("one of two"),
            *"rye, which needs a block"
        );
    };
    told(SimKind::Disk, story, |heap| {
        let root = heap.root();
        assert_eq!((root.hits.load(), root.owners.read().len()), (4, 1));
        assert_eq!(PShared::owners(&root.owners.read()[0]), 1);
        heap.check().expect("whole");
    });
}

#[derive(Persist, Default)]
#[repr(C)]
struct Versions {
    one: PRcu<PVec<PString>>,
    many: PMutex<PVec<PRcu<u64>>>,
}

#[test]
#[cfg_attr(
    miri,
    ignore = "crossbeam-epoch 0.9 breaks stacked borrows; it passes with -Zmiri-tree-borrows"
)]
fn threads_replace_what_others_read() {
    let story = |heap: &Heap<Versions>| {
        let root = heap.root();
        let first = heap.transaction(|tx| tx.lock(&root.many)?.push(PRcu::new(1)));
        first.expect("commits");
        std::thread::scope(|scope| {
            for n in 0..2u64 {
                scope.spawn(move || {
                    for _ in 0..2 {
                        let done = heap.transaction(|tx| {
                            root.one.update(tx, |old| {
                                let mut new = old.clone();
                                new.push(n.to_string().into());
                                new
                            })
                        });
                        done.expect("commits");
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..4 {
                    assert!(root.one.read().iter().all(|text| text.len() == 1));
                }
            });
        });
        heap.transaction(|tx| {
            let mut many = tx.lock(&root.many)?;
            *many.get_mut(0).expect("one").project() = 4;
            many.push(PRcu::new(5))?;
            many.swap_remove(0).map(drop)
        })
        .expect("commits");
        let failed = heap.transaction(|tx| -> Result<()> {
            root.one.replace(tx, PVec::new())?;
            Err(Error::abort("on purpose"))
        });
        assert!(failed.is_err());
    };
    told(SimKind::Disk, story, |heap| {
        let root = heap.root();
        assert_eq!(root.one.read().len(), 4);
        assert_eq!(*root.many.read()[0].read(), 5);
        heap.check().expect("whole");
    });
}

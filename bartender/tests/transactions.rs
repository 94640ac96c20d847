//! Transactions over plain data and boxes: what commits stays, what does not commit was never there.
#![cfg(not(loom))]

use bartender::{Error, Heap, Mut, PBox, PMutex, PRwLock, PVec, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;

fn options<R: bartender::Persist>() -> bartender::Options<R> {
    Heap::<R>::options().max_size(64 << 20).log_size(4 << 20)
}

type Boxes = PMutex<(u64, Option<PBox<[u64; 4]>>)>;

#[test]
fn what_was_committed_is_there_after_reopening() {
    let place = places::place();
    let path = place.region();
    let heap = options::<Boxes>().open(path).unwrap();
    assert!(heap.report().created);
    for i in 0..10 {
        heap.update(|mut root| {
            let (mut n, mut boxed) = root.project();
            *n += i;
            boxed.set(Some(PBox::new([i; 4])))
        })
        .unwrap();
    }
    assert_eq!(heap.read().0, 45);
    heap.check().unwrap();
    heap.close().unwrap();

    let heap = options::<Boxes>().open(path).unwrap();
    assert!(!heap.report().created);
    assert_eq!(heap.read().0, 45);
    assert_eq!(heap.read().1.as_deref(), Some(&[9; 4]));
    heap.check().unwrap();
    assert_eq!(heap.stats().live_blocks, 2);
}

#[test]
fn an_error_takes_everything_back() {
    let place = places::place();
    let heap = options::<Boxes>().open(place.region()).unwrap();
    heap.update(|mut root| {
        let (mut n, mut boxed) = root.project();
        *n = 1;
        boxed.set(Some(PBox::new([1; 4])))
    })
    .unwrap();
    let failed: Result<()> = heap.update(|mut root| {
        let (mut n, mut boxed) = root.project();
        *n = 2;
        boxed.set(Some(PBox::new([2; 4])))?;
        boxed.set(None)?;
        boxed.set(Some(PBox::new([3; 4])))?;
        *n = 3;
        Err(Error::abort("changed my mind"))
    });
    assert_eq!(failed.unwrap_err().to_string(), "changed my mind");
    assert_eq!(*heap.read(), (1, Some(PBox::new([1; 4]))));
    heap.check().unwrap();
    assert_eq!(heap.stats().live_blocks, 2);
}

#[test]
fn a_panic_takes_everything_back_and_goes_on() {
    let place = places::place();
    let heap = options::<Boxes>().open(place.region()).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        heap.update(|mut root| -> Result<()> {
            let (mut n, mut boxed) = root.project();
            *n = 7;
            boxed.set(Some(PBox::new([7; 4])))?;
            panic!("on purpose");
        })
    }));
    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"on purpose"));
    assert_eq!(*heap.read(), (0, None));
    heap.check().unwrap();
    heap.update(|mut root| {
        *root.project().0 = 8;
        Ok(())
    })
    .unwrap();
    assert_eq!(heap.read().0, 8);
}

#[test]
fn values_move_out_whole() {
    let place = places::place();
    let heap = options::<Boxes>().open(place.region()).unwrap();
    heap.update(|mut root| root.project().1.set(Some(PBox::new([5; 4]))))
        .unwrap();
    let taken = heap
        .update(|mut root| Mut::take(&mut root.project().1))
        .unwrap();
    drop(heap);
    assert_eq!(taken.map(PBox::into_inner), Some([5; 4]));
}

#[test]
fn a_long_list_moves_in_and_out_without_recursion() {
    #[repr(C)]
    struct Node {
        next: Option<PBox<Node>>,
        n: u64,
    }
    // SAFETY: two fields without padding; each method does for `next` what it should.
    unsafe impl bartender::Persist for Node {
        const HAS_POINTERS: bool = true;
        const HAS_LOCKS: bool = false;
        fn describe(b: &mut bartender::__private::SchemaBuilder) -> bartender::__private::TypeRef {
            bartender::__private::describe_struct::<Self>(b, None, &[], |b| {
                vec![
                    ("next", 0, <Option<PBox<Node>>>::describe(b)),
                    ("n", 8, u64::describe(b)),
                ]
            })
        }
        unsafe fn adopt(this: *mut Self, a: &mut bartender::Adopt<'_>) {
            // SAFETY: passed on.
            unsafe { <Option<PBox<Node>>>::adopt(&raw mut (*this).next, a) }
        }
        unsafe fn evict(this: *mut Self, e: &mut bartender::Evict<'_>) {
            // SAFETY: passed on.
            unsafe { <Option<PBox<Node>>>::evict(&raw mut (*this).next, e) }
        }
        unsafe fn release(this: *const Self, r: &mut bartender::Release<'_>) {
            // SAFETY: passed on.
            unsafe { <Option<PBox<Node>>>::release(&raw const (*this).next, r) }
        }
        unsafe fn for_each_lock(_: *const Self, _: &mut dyn FnMut(usize)) {}
        unsafe fn zero_padding(_: *mut Self) {}
    }
    const LEN: u64 = 200_000;
    let mut list = None;
    for n in 0..LEN {
        list = Some(PBox::new(Node { next: list, n }));
    }
    let place = places::place();
    let heap = Heap::<PMutex<Option<PBox<Node>>>>::options()
        .max_size(256 << 20)
        .log_size(64 << 20)
        .open(place.region())
        .unwrap();
    heap.update(|mut root| root.set(list)).unwrap();
    heap.check().unwrap();
    assert_eq!(heap.stats().live_blocks, LEN + 1);
    let mut list = heap.update(|mut root| Mut::take(&mut root)).unwrap();
    assert_eq!(heap.stats().live_blocks, 1);
    let mut count = 0;
    while let Some(node) = list {
        let node = PBox::into_inner(node);
        count += 1;
        assert_eq!(node.n, LEN - count);
        list = node.next;
    }
    assert_eq!(count, LEN);
}

#[test]
fn swapping_keeps_both() {
    let place = places::place();
    type Two = PMutex<[Option<PBox<u64>>; 2]>;
    let heap = options::<Two>().open(place.region()).unwrap();
    heap.update(|mut root| root.set([Some(PBox::new(1)), None]))
        .unwrap();
    heap.update(|mut root| {
        let [mut a, mut b] = root.project();
        Mut::swap(&mut a, &mut b)
    })
    .unwrap();
    assert_eq!(*heap.read(), [None, Some(PBox::new(1))]);
    heap.check().unwrap();
}

#[test]
fn another_type_is_told_and_nothing_changes() {
    let place = places::place();
    let path = place.region();
    options::<PMutex<u64>>()
        .open(path)
        .unwrap()
        .close()
        .unwrap();
    let error = options::<PMutex<(u64, i32)>>().open(path).unwrap_err();
    let Error::TypeMismatch { differences, .. } = &error else {
        panic!("{error}")
    };
    assert!(!differences.is_empty());
    assert!(error.to_string().contains("u64"), "{error}");
    let heap = options::<PMutex<u64>>().create(false).open(path).unwrap();
    assert_eq!(*heap.read(), 0);
}

#[test]
fn the_region_of_a_c_program_is_told_and_nothing_changes() {
    let place = places::place();
    let path = place.region();
    let region = || {
        bartender_pm::Options::new()
            .max_size(64 << 20)
            .open(path)
            .unwrap()
    };
    drop(bartender_heap::Heap::open_untyped(region()).unwrap());
    let error = options::<PMutex<u64>>().open(path).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the untyped data of a C program"),
        "{error}"
    );
    drop(bartender_heap::Heap::open_untyped(region()).unwrap());
}

#[test]
fn transfers_of_many_threads_keep_the_sum() {
    let place = places::place();
    type Accounts = [PMutex<u64>; 8];
    let heap = options::<Accounts>()
        .open_with(place.region(), || {
            std::array::from_fn(|_| PMutex::new(1000))
        })
        .unwrap();
    std::thread::scope(|scope| {
        for t in 0..4u64 {
            let heap = &heap;
            scope.spawn(move || {
                let mut random = t + 1;
                for i in 0..2000 {
                    random = random
                        .wrapping_mul(6364136223846793005)
                        .wrapping_add(1442695040888963407);
                    let (a, b) = ((random >> 33) as usize % 8, (random >> 45) as usize % 8);
                    if a == b {
                        continue;
                    }
                    let moved: Result<()> = heap.transaction(|tx| {
                        let accounts = heap.root();
                        let mut from = tx.lock(&accounts[a])?;
                        let mut to = tx.lock(&accounts[b])?;
                        if *from == 0 {
                            return Err(Error::abort("empty"));
                        }
                        *from -= 1;
                        *to += 1;
                        if i % 7 == 0 {
                            return Err(Error::abort("on purpose"));
                        }
                        Ok(())
                    });
                    if let Err(error) = moved {
                        assert!(matches!(error, Error::Aborted(_)), "{error}");
                    }
                }
            });
        }
    });
    let sum: u64 = heap.root().iter().map(|account| *account.read()).sum();
    assert_eq!(sum, 8000);
    heap.check().unwrap();
}

#[test]
fn one_hot_lock_never_conflicts() {
    let place = places::place();
    let heap = options::<PRwLock<u64>>().open(place.region()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    heap.update(|mut n| {
                        *n += 1;
                        Ok(())
                    })
                    .unwrap();
                    let _ = *heap.read();
                }
            });
        }
    });
    assert_eq!(*heap.read(), 8000);
}

/// Its pages were written to the home and given back: from then on they change like any others.
#[test]
fn what_was_loaded_in_bulk_is_changed_and_taken_back_like_anything_else() {
    const N: u64 = 100_000;
    let place = places::place();
    let path = place.region();
    let heap = options::<PMutex<PVec<PBox<[u64; 8]>>>>()
        .open(path)
        .unwrap();
    heap.update(|mut list| {
        for i in 0..N {
            list.push(PBox::new([i; 8]))?;
        }
        Ok(())
    })
    .unwrap();
    let change = |by: u64, fail: bool| {
        heap.update(|mut list| {
            for i in (0..N as usize).step_by(777) {
                let mut boxed = list.get_mut(i).unwrap();
                boxed.project()[3] += by;
            }
            if fail { Err(Error::Conflict) } else { Ok(()) }
        })
    };
    let expected = |i: u64, list: &PVec<PBox<[u64; 8]>>| {
        let mut value = [i; 8];
        value[3] += if i.is_multiple_of(777) { 5 } else { 0 };
        assert_eq!(*list[i as usize], value);
    };
    change(5, false).unwrap();
    change(9, true).unwrap_err();
    (0..N).for_each(|i| expected(i, &heap.read()));
    heap.check().unwrap();
    heap.checkpoint().unwrap();
    (0..N).for_each(|i| expected(i, &heap.read()));
    heap.close().unwrap();
    let heap = options::<PMutex<PVec<PBox<[u64; 8]>>>>()
        .open(path)
        .unwrap();
    (0..N).for_each(|i| expected(i, &heap.read()));
}

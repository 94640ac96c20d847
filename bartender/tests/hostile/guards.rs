//! Guards that are forgotten, kept in circles and thread-locals, and heaps that go before them.

use crate::{folder, open, open_at, region};
use bartender::{Error, Heap, PBox, PMutex, PRwLock, ReadGuard, Result};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

/// For what must not happen: long enough to catch it, on a machine that does something else, now and then.
const A_WHILE: Duration = Duration::from_millis(100);

#[test]
fn a_forgotten_guard_keeps_writers_out_and_a_reopened_heap_knows_nothing_of_it() {
    let folder = folder();
    let heap = open::<PMutex<u64>>(&folder);
    std::mem::forget(heap.read());
    let refused = heap.update(|mut n| {
        *n += 1;
        Ok(())
    });
    assert!(matches!(refused, Err(Error::AlreadyLocked)), "{refused:?}");
    heap.close().unwrap();
    let heap = open::<PMutex<u64>>(&folder);
    heap.update(|mut n| {
        *n += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(*heap.read(), 1);
}

#[test]
fn a_circle_of_references_that_holds_a_guard_keeps_it() {
    struct Circle<'a> {
        _guard: ReadGuard<'a, u64>,
        itself: RefCell<Option<Rc<Circle<'a>>>>,
    }
    let folder = folder();
    let heap = open::<PMutex<u64>>(&folder);
    let circle = Rc::new(Circle {
        _guard: heap.read(),
        itself: RefCell::new(None),
    });
    *circle.itself.borrow_mut() = Some(circle.clone());
    drop(circle);
    let refused = heap.update(|_| Ok(()));
    assert!(matches!(refused, Err(Error::AlreadyLocked)), "{refused:?}");
    // Other readers are not in its way, nor is closing.
    assert_eq!(*heap.read(), 0);
    heap.close().unwrap();
    open::<PMutex<u64>>(&folder).update(|_| Ok(())).unwrap();
}

#[test]
fn a_guard_forgotten_inside_of_a_transaction_is_nobodys_way_to_a_second_one() {
    type Nested = PMutex<Option<PBox<PMutex<u64>>>>;
    let folder = folder();
    let heap = open::<Nested>(&folder);
    heap.update(|mut root| root.set(Some(PBox::new(PMutex::new(1)))))
        .unwrap();
    // The reference from the guard and the `Mut` would be of the same value.
    let refused = heap.transaction(|tx| {
        let guard = heap.root().read();
        let inside = guard.as_deref().expect("set above");
        std::mem::forget(inside.read());
        tx.lock(inside).map(|_| ())
    });
    assert!(matches!(refused, Err(Error::AlreadyLocked)), "{refused:?}");
}

/// The transaction's end must not let go of what a guard outside of it holds by then, at the same address.
#[test]
fn a_guard_of_a_reopened_heap_outlives_the_transaction_that_saw_the_heap_close() {
    let (outer, other) = (folder(), folder());
    let outer = open::<PMutex<u64>>(&outer);
    let path = region(&other);
    drop(open_at::<PMutex<u64>>(&path));
    let mut kept: Option<(ReadGuard<'static, u64>, &'static Heap<PMutex<u64>>)> = None;
    outer
        .update(|_| {
            let first = open_at::<PMutex<u64>>(&path);
            drop(first.read());
            first.close()?;
            let second: &'static Heap<PMutex<u64>> = Box::leak(Box::new(open_at(&path)));
            kept = Some((second.read(), second));
            Ok(())
        })
        .unwrap();
    let (guard, heap) = kept.unwrap();
    let (done, wait) = mpsc::channel();
    let writer = std::thread::spawn(move || {
        let outcome = heap.update(|mut n| {
            *n = 7;
            Ok(())
        });
        done.send(()).unwrap();
        outcome
    });
    assert!(wait.recv_timeout(A_WHILE).is_err(), "written under a guard");
    assert_eq!(*guard, 0);
    drop(guard);
    writer.join().unwrap().unwrap();
    assert_eq!(*heap.read(), 7);
}

#[test]
fn guards_of_two_threads_that_want_what_the_other_one_shows_end() {
    let folder = folder();
    let heap = open::<[PMutex<u64>; 2]>(&folder);
    let both = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for t in 0..2usize {
            let (heap, both) = (&heap, &both);
            scope.spawn(move || {
                for round in 0..20 {
                    let mine = heap.root()[t].read();
                    both.wait();
                    let mut tries = 0;
                    let outcome = heap.transaction(|tx| {
                        tries += 1;
                        if tries > 1 {
                            // The guard out there does not go by trying again.
                            return Err(Error::abort("gave way"));
                        }
                        *tx.lock(&heap.root()[1 - t])? += 1;
                        Ok(())
                    });
                    if let Err(error) = outcome {
                        assert!(matches!(error, Error::Aborted(_)), "{round}: {error:?}");
                    }
                    drop(mine);
                    both.wait();
                }
            });
        }
    });
    heap.check().unwrap();
}

#[test]
fn a_guard_of_before_the_transaction_shows_the_same_during_and_after_it() {
    let folder = folder();
    let heap = open::<[PRwLock<u64>; 2]>(&folder);
    let guard = heap.root()[0].read();
    let failed: Result<()> = heap.transaction(|tx| {
        *tx.lock(&heap.root()[1])? = 1;
        let refused = tx.lock(&heap.root()[0]).map(|_| ());
        assert!(matches!(refused, Err(Error::AlreadyLocked)), "{refused:?}");
        // Shared with itself it may be; then it is the transaction's, and is not had in another way later.
        assert_eq!(*tx.read(&heap.root()[0])?, 0);
        tx.savepoint(|tx| {
            let refused = tx.lock(&heap.root()[0]).map(|_| ());
            assert!(matches!(refused, Err(Error::AlreadyLocked)), "{refused:?}");
            Ok(())
        })?;
        Err(Error::abort("taken back"))
    });
    failed.unwrap_err();
    assert_eq!(*guard, 0);
    drop(guard);
    heap.transaction(|tx| tx.lock(&heap.root()[0]).map(|_| ()))
        .unwrap();
}

#[test]
fn a_guard_that_leaves_a_failed_transaction_shows_what_is_committed() {
    let folder = folder();
    let heap = open::<[PMutex<u64>; 2]>(&folder);
    let mut kept = None;
    let failed: Result<()> = heap.transaction(|tx| {
        *tx.lock(&heap.root()[1])? = 1;
        kept = Some(heap.root()[0].read());
        Err(Error::abort("taken back"))
    });
    failed.unwrap_err();
    let (done, wait) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let change = |tx: &mut bartender::Tx<'_>| {
                *tx.lock(&heap.root()[0])? = 5;
                Ok(())
            };
            heap.transaction(change).unwrap();
            done.send(()).unwrap();
        });
        assert!(wait.recv_timeout(A_WHILE).is_err());
        assert_eq!(kept.as_deref(), Some(&0));
        kept = None;
        wait.recv().unwrap();
    });
    assert_eq!(*heap.root()[0].read(), 5);
}

#[test]
fn a_caught_unwinding_of_a_guard_cannot_be_committed() {
    let folder = folder();
    let heap = open::<[PMutex<u64>; 2]>(&folder);
    let caught = heap.transaction(|tx| {
        let mut mine = tx.lock(&heap.root()[0])?;
        *mine = 1;
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let inner: Result<()> = heap.transaction(|_| {
                let _ = heap.root()[0].read();
                Ok(())
            });
            inner
        }));
        assert!(panicked.is_err(), "a deadlock with itself");
        Ok(())
    });
    assert!(matches!(caught, Err(Error::Doomed { .. })), "{caught:?}");
    assert_eq!(*heap.root()[0].read(), 0);
}

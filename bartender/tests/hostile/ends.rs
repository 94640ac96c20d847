//! Ends that nobody planned: threads and processes that end with guards and transactions, destructors that run
//! transactions, children of `fork`, transactions over two heaps that meet.

use crate::{folder, open, open_at, options, region};
use bartender::{Error, Heap, Moved, PBox, PMutex, PVec, ReadGuard, Result};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

type Numbers = PMutex<PVec<u64>>;

fn push(heap: &Heap<Numbers>, n: u64) -> Result<()> {
    heap.update(|mut numbers| numbers.push(n))
}

#[test]
fn transactions_in_destructors_of_threads_and_while_unwinding_commit() {
    struct Last(&'static Heap<Numbers>, u64);
    impl Drop for Last {
        fn drop(&mut self) {
            push(self.0, self.1).unwrap();
            assert!(self.0.read().contains(&self.1));
        }
    }
    thread_local! {
        // Dropped after what the library keeps for the thread, and before it.
        static EARLY: RefCell<Option<Last>> = const { RefCell::new(None) };
        static LATE: RefCell<Option<Last>> = const { RefCell::new(None) };
    }
    let folder = folder();
    let heap: &'static Heap<Numbers> = Box::leak(Box::new(open(&folder)));
    std::thread::spawn(move || {
        EARLY.with(|place| *place.borrow_mut() = Some(Last(heap, 1)));
        push(heap, 0).unwrap();
        LATE.with(|place| *place.borrow_mut() = Some(Last(heap, 2)));
    })
    .join()
    .unwrap();
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _last = Last(heap, 3);
        resume_unwind(Box::new(()))
    }));
    assert!(caught.is_err());
    let mut numbers = heap.read().to_vec();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 3]);
    heap.check().unwrap();
}

#[test]
fn a_transaction_in_a_destructor_belongs_to_the_one_that_is_being_unwound() {
    struct Last<'a>(&'a Heap<[Numbers; 2]>);
    impl Drop for Last<'_> {
        fn drop(&mut self) {
            let joined = self.0.transaction(|tx| tx.lock(&self.0.root()[1])?.push(1));
            joined.unwrap();
        }
    }
    let folder = folder();
    let heap = open::<[Numbers; 2]>(&folder);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        heap.transaction(|tx| -> Result<()> {
            let _last = Last(&heap);
            tx.lock(&heap.root()[0])?.push(0)?;
            resume_unwind(Box::new(()))
        })
    }));
    assert!(caught.is_err());
    assert!(heap.root().iter().all(|numbers| numbers.read().is_empty()));
    heap.check().unwrap();
}

#[test]
fn tickets_that_outlive_their_transaction_and_their_threads_things_are_worthless() {
    type Pair = (Option<PBox<u64>>, Option<PBox<PVec<u8>>>);
    thread_local! {
        static TICKET: RefCell<Option<Moved<Option<PBox<u64>>>>> = const { RefCell::new(None) };
        static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
    }
    /// Attaches the ticket in a transaction of its own, when the thread has nothing left.
    struct Last(&'static Heap<PMutex<Pair>>);
    impl Drop for Last {
        fn drop(&mut self) {
            let outcome = self.0.update(|mut pair| {
                let (mut number, mut bytes) = pair.project();
                let _other = bartender::Mut::take_moved(&mut bytes)?;
                match TICKET.with(|ticket| ticket.borrow_mut().take()) {
                    Some(ticket) => number.set_moved(ticket),
                    None => Ok(()),
                }
            });
            assert!(matches!(outcome, Err(Error::ForeignValue)), "{outcome:?}");
        }
    }
    let folder = folder();
    let heap: &'static Heap<PMutex<Pair>> = Box::leak(Box::new(open(&folder)));
    let both = || {
        let bytes = PVec::from(vec![7u8; 100]);
        (Some(PBox::new(7)), Some(PBox::new(bytes)))
    };
    std::thread::spawn(move || {
        LAST.with(|last| *last.borrow_mut() = Some(Last(heap)));
        heap.update(|mut pair| pair.set(both())).unwrap();
        TICKET.with(|ticket| {
            let failed: Result<()> = heap.update(|mut pair| {
                let taken = bartender::Mut::take_moved(&mut pair.project().0)?;
                *ticket.borrow_mut() = Some(taken);
                Err(Error::abort("taken back"))
            });
            failed.unwrap_err();
        });
    })
    .join()
    .unwrap();
    assert_eq!(*heap.read(), both());
    heap.check().unwrap();
}

#[test]
fn threads_that_end_with_guards_let_others_go_on_or_keep_them_out() {
    let folder = folder();
    let heap = open::<Numbers>(&folder);
    std::thread::scope(|scope| {
        scope.spawn(|| drop(heap.read()));
        scope.spawn(|| {
            let guard = heap.read();
            let _ = catch_unwind(AssertUnwindSafe(move || {
                let _guard = guard;
                resume_unwind(Box::new(()))
            }));
        });
    });
    push(&heap, 1).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| std::mem::forget(heap.read()));
    });
    // Its owner is gone with the lock: another thread has neither.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(heap.read()[..], [1]));
        }
    });
    heap.close().unwrap();
    push(&open(&folder), 2).unwrap();
}

#[test]
fn a_guard_that_travels_through_a_destructor_shows_what_is_there() {
    struct Shows(Option<ReadGuard<'static, PVec<u64>>>);
    impl Drop for Shows {
        fn drop(&mut self) {
            assert_eq!(self.0.take().expect("it is there")[..], [1]);
        }
    }
    thread_local! {
        static KEPT: RefCell<Option<Shows>> = const { RefCell::new(None) };
    }
    let folder = folder();
    let heap: &'static Heap<Numbers> = Box::leak(Box::new(open(&folder)));
    push(heap, 1).unwrap();
    let (kept, wait) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        KEPT.with(|place| *place.borrow_mut() = Some(Shows(Some(heap.read()))));
        kept.send(()).unwrap();
    });
    wait.recv().unwrap();
    push(heap, 2).unwrap();
    thread.join().unwrap();
    assert_eq!(heap.read()[..], [1, 2]);
}

#[test]
fn heaps_that_open_close_and_go_inside_of_each_others_transactions() {
    let (one, two) = (folder(), folder());
    let outer = open::<Numbers>(&one);
    let failed: Result<()> = outer.update(|mut numbers| {
        numbers.push(1)?;
        let inner = open::<Numbers>(&two);
        push(&inner, 2)?;
        let caught = catch_unwind(AssertUnwindSafe(|| {
            inner.update(|mut numbers| -> Result<()> {
                numbers.push(3)?;
                resume_unwind(Box::new(()))
            })
        }));
        assert!(caught.is_err());
        inner.close()?;
        let inner = open::<Numbers>(&two);
        let inside: Result<()> = inner.update(|mut numbers| {
            numbers.push(4)?;
            // The outer one, from further inside.
            push(&outer, 5).unwrap_err();
            Ok(())
        });
        inside?;
        drop(inner);
        Ok(())
    });
    assert!(matches!(failed, Err(Error::Doomed { .. })), "{failed:?}");
    assert!(outer.read().is_empty());
    assert_eq!(open::<Numbers>(&two).read()[..], [2, 4]);
    outer.check().unwrap();
}

#[test]
fn two_heaps_nested_in_both_orders_end() {
    let (one, two) = (folder(), folder());
    let heaps = [open::<PMutex<u64>>(&one), open::<PMutex<u64>>(&two)];
    const ROUNDS: u64 = 200;
    std::thread::scope(|scope| {
        for t in 0..2 {
            let heaps = &heaps;
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    let outcome = heaps[t].transaction(|tx| {
                        *tx.lock(heaps[t].root())? += 1;
                        std::thread::yield_now();
                        heaps[1 - t].transaction(|tx| tx.lock(heaps[1 - t].root()).map(drop))
                    });
                    outcome.unwrap();
                }
            });
        }
    });
    for heap in &heaps {
        assert_eq!(*heap.read(), ROUNDS);
        heap.check().unwrap();
    }
}

#[test]
fn a_process_that_exits_inside_of_a_transaction_leaves_nothing_of_it() {
    const FOLDER: &str = "BARTENDER_HOSTILE_EXIT";
    if let Some(path) = std::env::var_os(FOLDER) {
        let heap: &'static Heap<Numbers> = Box::leak(Box::new(open_at(path.as_ref())));
        push(heap, 1).unwrap();
        extern "C" fn at_exit() {
            // The exiting thread's transaction still runs; there is nothing to reach it by.
        }
        // SAFETY: a function that does nothing.
        unsafe { libc::atexit(at_exit) };
        let _ = heap.update(|mut numbers| -> Result<()> {
            numbers.push(2)?;
            std::process::exit(7)
        });
    }
    let folder = folder();
    let path = region(&folder);
    let name = "ends::a_process_that_exits_inside_of_a_transaction_leaves_nothing_of_it";
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", name, "--nocapture"])
        .env(FOLDER, &path);
    let status = child.output().unwrap().status;
    assert_eq!(status.code(), Some(7));
    let heap = open_at::<Numbers>(&path);
    assert_eq!(heap.read()[..], [1]);
    heap.check().unwrap();
}

/// Runs `child` in a child of `fork`, and returns the status that `waitpid` tells.
fn forked(child: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child makes no use of other threads' state but the allocator's, which glibc sees to; it ends by
    // `_exit`.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            let good = catch_unwind(AssertUnwindSafe(child)).unwrap_or(false);
            // SAFETY: ends the child without running what belongs to the parent.
            unsafe { libc::_exit(if good { 0 } else { 1 }) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: waits for the child just made.
            assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
            status
        }
    }
}

#[test]
fn a_child_of_fork_can_do_no_harm_to_its_parents_heap() {
    let folder = folder();
    let path = region(&folder);
    let heap = open_at::<Numbers>(&path);
    push(&heap, 1).unwrap();
    // Commits, checks, checkpoints, opening once more: all refused.
    let status = forked(|| push(&heap, 2).is_err() && heap.checkpoint().is_err());
    assert_eq!(status, 0, "a child's commit");
    let status = forked(|| options::<Numbers>().open(&path).is_err());
    assert_eq!(status, 0, "a child's opening");
    // Its copy of the heap goes, with all that belongs to the parent.
    let status = forked(|| {
        // SAFETY: in the child, which does not use its copy once more; the parent's is not touched.
        let copy = unsafe { std::ptr::read(&heap) };
        drop(copy);
        true
    });
    assert_eq!(status, 0, "a child's closing");
    // The region is whole and still the parent's: open here, closed to others.
    push(&heap, 3).unwrap();
    assert!(options::<Numbers>().open(&path).is_err());
    assert_eq!(heap.read()[..], [1, 3]);
    heap.check().unwrap();
    heap.close().unwrap();
    let heap = open_at::<Numbers>(&path);
    assert!(!heap.report().heap.marked, "it was closed cleanly");
    assert_eq!(heap.read()[..], [1, 3]);
}

#[test]
fn a_child_of_fork_inside_of_a_transaction_and_with_guards_changes_nothing() {
    let folder = folder();
    let path = region(&folder);
    let heap = open_at::<[Numbers; 2]>(&path);
    heap.transaction(|tx| {
        let mut numbers = tx.lock(&heap.root()[0])?;
        numbers.push(1)?;
        let guard = heap.root()[1].read();
        let status = forked(|| {
            drop(guard);
            true
        });
        assert_eq!(status, 0);
        numbers.push(2)
    })
    .unwrap();
    assert_eq!(heap.root()[0].read()[..], [1, 2]);
    heap.check().unwrap();
}

/// What a child may do that is born inside of a transaction and goes on in it.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Commits,
    TakesBack,
    Changes,
}

#[test]
fn a_child_of_fork_cannot_go_on_in_its_parents_transaction() {
    for folder in crate::places::folders() {
        let path = region(&folder);
        let heap = open_at::<Numbers>(&path);
        push(&heap, 1).unwrap();
        for (n, then) in (2..).zip([Then::Commits, Then::TakesBack, Then::Changes]) {
            let file = || std::fs::read(&path).unwrap();
            let mut child = false;
            let mut status = 0;
            let done = heap.transaction(|tx| {
                let mut numbers = tx.lock(heap.root())?;
                numbers.push(n)?;
                let before = file();
                // SAFETY: as in `forked`.
                match unsafe { libc::fork() } {
                    0 => child = true,
                    pid => {
                        // SAFETY: waits for the child just made.
                        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
                        assert!(file() == before, "the child has written");
                    }
                }
                match then {
                    Then::Changes if child => numbers.push(7),
                    Then::TakesBack if child => Err(Error::abort("on purpose")),
                    _ => Ok(()),
                }
            });
            if child {
                let told = done.map_err(|error| error.to_string());
                let good = match then {
                    Then::Commits => told.is_err_and(|error| error.contains("fork()")),
                    Then::TakesBack => told.is_err_and(|error| error.contains("on purpose")),
                    Then::Changes => false,
                };
                // SAFETY: ends the child without running what belongs to the parent.
                unsafe { libc::_exit(if good { 0 } else { 1 }) }
            }
            done.unwrap();
            match then {
                // There is nothing where the parent has its view.
                Then::Changes => assert!(libc::WIFSIGNALED(status), "{status}"),
                _ => assert_eq!(status, 0),
            }
        }
        assert_eq!(heap.read()[..], [1, 2, 3, 4]);
        heap.check().unwrap();
        heap.close().unwrap();
        assert_eq!(open_at::<Numbers>(&path).read()[..], [1, 2, 3, 4]);
    }
}

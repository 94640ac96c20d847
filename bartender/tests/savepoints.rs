//! Savepoints, which rule 1 of the typed interface is about: what is taken back, what stays, and each way to have
//! memory put back under a live `Mut` that does not fail to compile already (`ui/savepoints.rs`).
#![cfg(not(loom))]

use bartender::{Error, Heap, Moved, Mut, PBox, PMutex, PRwLock, PVec, Persist, Result, Tx};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;
use places::folder;

type Boxed = Option<PBox<u64>>;

#[derive(Persist, Default)]
#[repr(C)]
struct Root {
    a: PMutex<Boxed>,
    b: PMutex<Boxed>,
    numbers: PMutex<PVec<u64>>,
    shared: PRwLock<u64>,
    /// One may be an integer where the other has a pointer.
    shape: PMutex<Shape>,
}

#[derive(Persist, Default)]
#[repr(C, u8)]
enum Shape {
    #[default]
    Nothing,
    Number(u64),
    Boxed(PBox<u64>),
}

fn open<R: Persist + Default>(folder: &TempDir) -> Heap<R> {
    let options = Heap::options().max_size(16 << 20).log_size(4 << 20);
    options.open(folder.path().join("r")).expect("a region")
}

fn boxed(n: u64) -> Boxed {
    Some(PBox::new(n))
}

fn stop<A>() -> Result<A> {
    Err(Error::abort("on purpose"))
}

/// A heap with 1 in `a` and 2 in `b`.
fn filled(folder: &TempDir) -> Heap<Root> {
    let heap = open::<Root>(folder);
    heap.transaction(|tx| {
        tx.lock(&heap.root().a)?.set(boxed(1))?;
        tx.lock(&heap.root().b)?.set(boxed(2))
    })
    .unwrap();
    heap
}

/// What is in `a` and in `b`, after a check that nothing leaks.
fn state(heap: &Heap<Root>) -> [Option<u64>; 2] {
    heap.check().expect("a sound region");
    [&heap.root().a, &heap.root().b].map(|lock| lock.read().as_deref().copied())
}

#[test]
fn what_fails_inside_is_taken_back_alone() {
    let folder = folder();
    let heap = filled(&folder);
    let root = heap.root();
    let blocks = heap.stats().live_blocks;
    heap.transaction(|tx| {
        let mut b = tx.lock(&root.b)?;
        *b.project().expect("2").project() += 10;
        tx.lock(&root.numbers)?.extend(0..4)?;
        let failed: Result<()> = tx.savepoint(|tx| {
            // Changed before and changed again, freed, allocated, grown, locked for the first time.
            *tx.lock(&root.b)?.project().expect("12").project() += 100;
            tx.lock(&root.a)?.set(None)?;
            tx.lock(&root.numbers)?.extend(0..1000)?;
            *tx.lock(&root.shared)? = 7;
            tx.lock(&root.shape)?.set(Shape::Boxed(PBox::new(3)))?;
            stop()
        });
        assert!(matches!(failed, Err(Error::Aborted(_))), "{failed:?}");
        assert_eq!(tx.lock(&root.a)?.as_deref(), Some(&1));
        assert_eq!(tx.lock(&root.b)?.as_deref(), Some(&12));
        assert_eq!(tx.lock(&root.numbers)?[..], [0, 1, 2, 3]);
        assert_eq!(*tx.read(&root.shared)?, 0);
        assert!(matches!(*tx.lock(&root.shape)?, Shape::Nothing));
        tx.savepoint(|tx| tx.lock(&root.shape)?.set(Shape::Number(4)))
    })
    .unwrap();
    assert_eq!(state(&heap), [Some(1), Some(12)]);
    assert_eq!(heap.stats().live_blocks, blocks + 1);
    heap.close().unwrap();
    let heap = open::<Root>(&folder);
    assert_eq!(state(&heap), [Some(1), Some(12)]);
    assert!(matches!(*heap.root().shape.read(), Shape::Number(4)));
    heap.transaction(|tx| {
        tx.savepoint(|tx| tx.lock(&heap.root().shape)?.set(Shape::Boxed(PBox::new(5))))
    })
    .unwrap();
    let shape = heap.root().shape.read();
    assert!(matches!(&*shape, Shape::Boxed(n) if **n == 5));
}

#[test]
fn a_failed_transaction_takes_its_savepoints_back_too() {
    let folder = folder();
    let heap = filled(&folder);
    let blocks = heap.stats().live_blocks;
    let failed: Result<()> = heap.transaction(|tx| {
        tx.savepoint(|tx| tx.lock(&heap.root().a)?.set(boxed(3)))?;
        let _ = tx.savepoint(|tx| {
            tx.lock(&heap.root().a)?.set(boxed(4))?;
            stop::<()>()
        });
        tx.savepoint(|tx| tx.lock(&heap.root().b)?.set(None))?;
        stop()
    });
    failed.unwrap_err();
    assert_eq!(state(&heap), [Some(1), Some(2)]);
    assert_eq!(heap.stats().live_blocks, blocks);
}

#[test]
fn a_panic_inside_takes_back_and_goes_on_up() {
    let folder = folder();
    let heap = filled(&folder);
    let root = heap.root();
    let panicking = |tx: &mut Tx<'_>| {
        tx.savepoint(|tx| -> Result<()> {
            tx.lock(&root.a)?.set(boxed(9))?;
            std::panic::resume_unwind(Box::new(()))
        })
    };
    catch_unwind(AssertUnwindSafe(|| heap.transaction(panicking))).unwrap_err();
    assert_eq!(state(&heap), [Some(1), Some(2)]);
    heap.transaction(|tx| {
        tx.lock(&root.b)?.set(boxed(5))?;
        catch_unwind(AssertUnwindSafe(|| panicking(tx))).unwrap_err();
        assert_eq!(tx.lock(&root.a)?.as_deref(), Some(&1));
        Ok(())
    })
    .unwrap();
    assert_eq!(state(&heap), [Some(1), Some(5)]);
}

#[test]
fn a_lock_is_granted_once_between_two_savepoints() {
    let folder = folder();
    let heap = filled(&folder);
    let root = heap.root();
    heap.transaction(|tx| {
        let refused = |tx: &Tx<'_>| {
            let _first = tx.lock(&root.a)?;
            let second = tx.lock(&root.a).map(drop);
            assert!(matches!(second, Err(Error::AlreadyLocked)), "{second:?}");
            Ok(())
        };
        refused(tx)?;
        tx.savepoint(|tx| {
            refused(tx)?;
            tx.savepoint(|tx| refused(tx))?;
            refused(tx)
        })?;
        refused(tx)?;
        // By an inner call, too; and what was shared is not granted to be changed.
        tx.savepoint(|tx| {
            heap.transaction(|tx| refused(tx))?;
            let again = tx.lock(&root.a).map(drop);
            assert!(matches!(again, Err(Error::AlreadyLocked)), "{again:?}");
            tx.read(&root.shared).map(drop)
        })?;
        tx.read(&root.shared)?;
        let changed = tx.lock(&root.shared).map(drop);
        assert!(matches!(changed, Err(Error::AlreadyLocked)), "{changed:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn locks_taken_inside_stay_held() {
    let folder = folder();
    let heap = filled(&folder);
    let (changed, is_changed) = mpsc::channel();
    std::thread::scope(|scope| {
        let heap = &heap;
        heap.transaction(|tx| {
            let read = tx.savepoint(|tx| {
                let seen = tx.lock(&heap.root().a)?.as_deref().copied();
                assert_eq!(seen, Some(1));
                stop::<()>()
            });
            read.unwrap_err();
            let changed = changed.clone();
            scope.spawn(move || {
                heap.transaction(|tx| tx.lock(&heap.root().a)?.set(None))
                    .unwrap();
                changed.send(()).unwrap();
            });
            assert!(is_changed.recv_timeout(Duration::from_millis(50)).is_err());
            Ok(())
        })
        .unwrap();
    });
    assert_eq!(state(&heap), [None, Some(2)]);
}

#[test]
fn an_inner_call_takes_no_savepoint_for_the_outer_one_has_muts() {
    let folder = folder();
    let heap = filled(&folder);
    let root = heap.root();
    let doomed = heap.transaction(|tx| {
        let mut shape = tx.lock(&root.shape)?;
        heap.transaction(|tx| {
            let refused = tx.savepoint(|_| {
                // This `Mut` would look at a number where a pointer was, or at a block that is gone.
                shape.set(Shape::Boxed(PBox::new(1)))?;
                stop::<()>()
            });
            assert!(matches!(refused, Err(Error::NotInnermost)), "{refused:?}");
            Ok(())
        })?;
        assert!(matches!(*shape, Shape::Nothing));
        Ok(())
    });
    doomed.unwrap();
    // The other way round: the outer `Tx` is used while the inner call has a `Mut`.
    heap.transaction(|outer| {
        heap.transaction(|tx| {
            let mut shape = tx.lock(&root.shape)?;
            let refused = outer.savepoint(|_| {
                shape.set(Shape::Boxed(PBox::new(1)))?;
                stop::<()>()
            });
            assert!(matches!(refused, Err(Error::NotInnermost)), "{refused:?}");
            Ok(())
        })
    })
    .unwrap();
}

#[test]
fn only_the_innermost_transaction_takes_a_savepoint() {
    let (one, two) = (folder(), folder());
    let (one, two) = (filled(&one), filled(&two));
    one.transaction(|outer| {
        two.transaction(|tx| {
            let refused = outer.savepoint(|_| Ok(()));
            assert!(matches!(refused, Err(Error::NotInnermost)), "{refused:?}");
            let failed = tx.savepoint(|tx| {
                tx.lock(&two.root().a)?.set(None)?;
                stop::<()>()
            });
            assert!(matches!(failed, Err(Error::Aborted(_))), "{failed:?}");
            tx.lock(&two.root().b)?.set(None)
        })?;
        // Transactions over another heap inside of a savepoint are their own.
        let failed: Result<()> = outer.savepoint(|tx| {
            tx.lock(&one.root().a)?.set(None)?;
            two.transaction(|tx| tx.lock(&two.root().b)?.set(boxed(7)))?;
            stop()
        });
        failed.unwrap_err();
        Ok(())
    })
    .unwrap();
    assert_eq!(state(&one), [Some(1), Some(2)]);
    assert_eq!(state(&two), [Some(1), Some(7)]);
}

#[test]
fn a_failure_inside_that_is_swallowed_fails_the_savepoint_alone() {
    let folder = folder();
    let heap = filled(&folder);
    heap.transaction(|tx| {
        let doomed = tx.savepoint(|tx| {
            tx.lock(&heap.root().a)?.set(None)?;
            let _ = heap.transaction(|tx| {
                tx.lock(&heap.root().b)?.set(None)?;
                stop::<()>()
            });
            Ok(())
        });
        assert!(matches!(doomed, Err(Error::Doomed { .. })), "{doomed:?}");
        // What does not fit dooms nothing, there being nothing to take back.
        tx.savepoint(|tx| {
            let large = PVec::from(vec![1; 4 << 20]);
            let full = tx.lock(&heap.root().numbers)?.set(large);
            assert!(matches!(full, Err(Error::Region(_))), "{full:?}");
            Ok(())
        })?;
        tx.lock(&heap.root().numbers)?.push(1)
    })
    .unwrap();
    assert_eq!(state(&heap), [Some(1), Some(2)]);
    assert_eq!(heap.root().numbers.read()[..], [1]);
}

#[test]
fn a_conflict_inside_has_the_whole_start_again() {
    let folder = folder();
    let heap = filled(&folder);
    let (reading, is_reading) = mpsc::channel();
    let (locked, is_locked) = mpsc::channel::<()>();
    let mut runs = 0;
    std::thread::scope(|scope| {
        let heap = &heap;
        // A reader with a guard, who is not made to wait in a circle.
        scope.spawn(move || {
            let _b = heap.root().b.read();
            reading.send(()).expect("somebody listens");
            is_locked.recv().expect("somebody locks the first");
            let _a = heap.root().a.read();
        });
        is_reading.recv().expect("the guard is taken");
        heap.transaction(|tx| {
            runs += 1;
            tx.lock(&heap.root().a)?.set(boxed(10 + runs))?;
            let _ = locked.send(());
            let swallowed = tx.savepoint(|tx| tx.lock(&heap.root().b)?.set(boxed(20 + runs)));
            if runs == 1 {
                assert!(matches!(swallowed, Err(Error::Conflict)), "{swallowed:?}");
                let refused = tx.savepoint(|_| Ok(()));
                assert!(matches!(refused, Err(Error::Conflict)), "{refused:?}");
            }
            Ok(())
        })
        .unwrap();
    });
    // How often, depends on when the reader gets on.
    assert!(runs > 1);
    assert_eq!(state(&heap), [Some(10 + runs), Some(20 + runs)]);
}

#[test]
fn moved_values_go_back_with_their_savepoint() {
    let folder = folder();
    let heap = filled(&folder);
    let root = heap.root();
    let blocks = heap.stats().live_blocks;
    // Taken inside: worthless when that has failed, good when it has not.
    heap.transaction(|tx| {
        let mut escaped: Option<Moved<Boxed>> = None;
        let failed = tx.savepoint(|tx| {
            escaped = Some(Mut::take_moved(&mut tx.lock(&root.a)?)?);
            stop::<()>()
        });
        failed.unwrap_err();
        let stale = escaped.take().expect("set inside");
        // Another value in its place in the keeping, of another type.
        let numbers = Mut::take_moved(&mut tx.lock(&root.numbers)?)?;
        let refused = tx.lock(&root.b)?.set_moved(stale);
        assert!(matches!(refused, Err(Error::ForeignValue)), "{refused:?}");
        let moved = tx.savepoint(|tx| Mut::take_moved(&mut tx.lock(&root.a)?))?;
        tx.savepoint(|tx| tx.lock(&root.b)?.set_moved(moved))?;
        tx.savepoint(|tx| tx.lock(&root.numbers)?.set_moved(numbers))
    })
    .unwrap();
    assert_eq!(state(&heap), [None, Some(1)]);
    assert_eq!(heap.stats().live_blocks, blocks - 1);
    // Taken before: still good behind a savepoint that failed, if it stayed outside …
    heap.transaction(|tx| {
        let moved = Mut::take_moved(&mut tx.lock(&root.b)?)?;
        tx.savepoint(|tx| {
            tx.lock(&root.b)?.set(boxed(9))?;
            stop::<()>()
        })
        .unwrap_err();
        tx.lock(&root.a)?.set_moved(moved)
    })
    .unwrap();
    assert_eq!(state(&heap), [Some(1), None]);
    // … and freed if it went in.
    heap.transaction(|tx| {
        let moved = Mut::take_moved(&mut tx.lock(&root.a)?)?;
        tx.savepoint(|tx| {
            tx.lock(&root.b)?.set_moved(moved)?;
            stop::<()>()
        })
        .unwrap_err();
        Ok(())
    })
    .unwrap();
    assert_eq!(state(&heap), [None, None]);
    assert_eq!(heap.stats().live_blocks, blocks - 2);
}

#[test]
fn room_that_a_savepoint_gave_back_is_used_again() {
    let folder = folder();
    let heap = filled(&folder);
    heap.transaction(|tx| {
        // Together far more than the region.
        for _ in 0..100 {
            tx.savepoint(|tx| {
                tx.lock(&heap.root().numbers)?
                    .set(PVec::from(vec![1; 100_000]))?;
                stop::<()>()
            })
            .unwrap_err();
        }
        tx.lock(&heap.root().numbers)?.push(1)
    })
    .unwrap();
    assert_eq!(state(&heap), [Some(1), Some(2)]);
}

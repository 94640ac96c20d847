//! The soundness rules of the typed interface that show at run time, each with the program that breaks it.
#![cfg(not(loom))]

use bartender::{
    Durability, Error, Heap, Mut, PBTreeMap, PBox, PHashMap, PMutex, PRwLock, Persist, Result,
};
use bartender_pm::mutant;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;
use places::folder;

fn open<R: Persist + Default>(folder: &TempDir) -> Heap<R> {
    let options = Heap::<R>::options().max_size(64 << 20).log_size(4 << 20);
    options.open(folder.path().join("r")).expect("a new region")
}

#[derive(Persist, Default)]
#[repr(C)]
struct Pair {
    a: PMutex<Option<PBox<u64>>>,
    b: PMutex<Option<PBox<u64>>>,
    shared: PRwLock<u64>,
    inner: PMutex<Option<PBox<PMutex<u64>>>>,
}

// Rule 1: an inner call that fails dooms the whole, and nothing is restored under a live `Mut`.

#[test]
fn a_failed_inner_transaction_dooms_the_outer_one_and_restores_only_at_its_end() {
    let folder = folder();
    let heap = open::<Pair>(&folder);
    let outer = heap.transaction(|tx| {
        let mut a = tx.lock(&heap.root().a)?;
        a.set(Some(PBox::new(1)))?;
        let inner: Result<()> = heap.transaction(|tx| {
            tx.lock(&heap.root().b)?.set(Some(PBox::new(2)))?;
            Err(Error::abort("inner"))
        });
        assert!(matches!(inner, Err(Error::Aborted(_))));
        // Still there: the memory is the transaction's until the outermost closure has returned.
        assert_eq!(a.as_deref(), Some(&1));
        Ok(())
    });
    assert!(matches!(outer, Err(Error::Doomed { .. })), "{outer:?}");
    assert_eq!(*heap.root().a.read(), None);
    assert_eq!(*heap.root().b.read(), None);
    heap.check().unwrap();
}

#[test]
fn a_panic_of_an_inner_transaction_that_is_caught_dooms_the_outer_one() {
    let folder = folder();
    let heap = open::<Pair>(&folder);
    let outer = heap.transaction(|tx| {
        let mut a = tx.lock(&heap.root().a)?;
        let _ = catch_unwind(AssertUnwindSafe(|| {
            heap.transaction(|_| -> Result<()> { std::panic::resume_unwind(Box::new(())) })
        }));
        a.set(Some(PBox::new(1)))
    });
    assert!(matches!(outer, Err(Error::Doomed { .. })), "{outer:?}");
    assert_eq!(*heap.root().a.read(), None);
}

#[test]
fn an_inner_transaction_is_a_part_of_the_outer_one() {
    let folder = folder();
    let heap = open::<Pair>(&folder);
    heap.transaction(|tx| {
        tx.lock(&heap.root().a)?.set(Some(PBox::new(1)))?;
        heap.transaction(|tx| tx.lock(&heap.root().b)?.set(Some(PBox::new(2))))
    })
    .unwrap();
    assert_eq!(*heap.root().b.read(), Some(PBox::new(2)));
    let failed: Result<()> = heap.transaction(|tx| {
        tx.lock(&heap.root().a)?.set(None)?;
        heap.transaction(|tx| tx.lock(&heap.root().b)?.set(None))?;
        Err(Error::abort("outer"))
    });
    failed.unwrap_err();
    assert_eq!(*heap.root().b.read(), Some(PBox::new(2)));
    heap.check().unwrap();
}

// Rule 2: a guard dropped inside of a transaction leaves its lock to the transaction.

#[test]
fn a_guard_dropped_in_a_transaction_keeps_others_out_until_its_end() {
    let folder = folder();
    let heap = open::<Pair>(&folder);
    heap.transaction(|tx| {
        tx.lock(&heap.root().inner)?
            .set(Some(PBox::new(PMutex::new(1))))
    })
    .unwrap();
    let (started, others) = mpsc::channel();
    let (removed, is_removed) = mpsc::channel();
    std::thread::scope(|scope| {
        let heap = &heap;
        let failed: Result<()> = heap.transaction(|tx| {
            let guard = heap.root().inner.read();
            let inside = guard.as_deref().expect("set above");
            *tx.lock(inside)? = 5;
            drop(guard);
            // Another thread would now free what this transaction will put its old bytes into.
            let (started, removed) = (started.clone(), removed.clone());
            scope.spawn(move || {
                started.send(()).unwrap();
                heap.transaction(|tx| tx.lock(&heap.root().inner)?.set(None))
                    .unwrap();
                removed.send(()).unwrap();
            });
            others.recv().unwrap();
            assert!(is_removed.recv_timeout(Duration::from_millis(50)).is_err());
            Err(Error::abort("taken back"))
        });
        failed.unwrap_err();
        is_removed.recv().unwrap();
    });
    assert!(heap.root().inner.read().is_none());
    heap.check().unwrap();
}

// Rule 3: who writes or moves something that contains a lock holds that lock to its end.

#[test]
fn the_locks_inside_of_what_is_written_are_held() {
    type Nested = PMutex<Option<PBox<PMutex<u64>>>>;
    let folder = folder();
    let heap = open::<Nested>(&folder);
    heap.update(|mut root| root.set(Some(PBox::new(PMutex::new(1)))))
        .unwrap();
    heap.update(|mut root| {
        *root.project().expect("set above").project().project() = 2;
        // Others wait, those of this thread too.
        let inside = root.as_deref().expect("set above");
        let refused = inside.try_read().map(drop);
        assert!(matches!(refused, Err(Error::AlreadyLocked)), "{refused:?}");
        Ok(())
    })
    .unwrap();
    heap.transaction(|tx| {
        let mut root = tx.lock(heap.root())?;
        *root.project().expect("set above").project().project() = 3;
        // The way of the projection has ended, so there may be another one, but not two.
        let inside = root.as_deref().expect("set above");
        let mut value = tx.lock(inside)?;
        let refused = tx.lock(inside).map(drop);
        assert!(matches!(refused, Err(Error::AlreadyLocked)), "{refused:?}");
        *value += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(*heap.read().as_deref().unwrap().read(), 4);
}

#[test]
fn what_moves_by_chance_is_locked_like_what_does_not() {
    // Which entries a map moves when it grows, or a tree when it splits a node, is not the program's business.
    #[derive(bartender::Persist, Default)]
    #[repr(C)]
    struct Maps {
        hash: PMutex<PHashMap<u64, PMutex<u64>>>,
        tree: PMutex<PBTreeMap<u64, PMutex<u64>>>,
    }
    let folder = folder();
    let heap = open::<Maps>(&folder);
    for n in 0..300 {
        heap.transaction(|tx| {
            let mut hash = tx.lock(&heap.root().hash)?;
            let mut tree = tx.lock(&heap.root().tree)?;
            hash.insert(n, PMutex::new(0))?;
            tree.insert(n, PMutex::new(0))?;
            for (lock, other) in hash.values().zip(tree.values()) {
                *tx.lock(lock)? += 1;
                *tx.lock(other)? += 1;
            }
            Ok(())
        })
        .unwrap();
    }
    let (hash, tree) = (heap.root().hash.read(), heap.root().tree.read());
    for n in 0..300 {
        assert_eq!((*hash[&n].read(), *tree[&n].read()), (300 - n, 300 - n));
    }
}

// Rule 4: a lock's word in the region is zero, whoever holds it; moving it unlocks it.

#[test]
fn a_lock_that_moves_out_and_in_is_free() {
    let folder = folder();
    let heap = open::<Pair>(&folder);
    heap.transaction(|tx| {
        tx.lock(&heap.root().inner)?
            .set(Some(PBox::new(PMutex::new(7))))
    })
    .unwrap();
    let mut taken = heap
        .transaction(|tx| Mut::take(&mut tx.lock(&heap.root().inner)?))
        .unwrap()
        .unwrap();
    *taken.get_mut() += 1;
    let guard = taken.read();
    assert_eq!(*guard, 8);
    drop(guard);
    let taken = std::cell::Cell::new(Some(taken));
    heap.transaction(|tx| tx.lock(&heap.root().inner)?.set(taken.take()))
        .unwrap();
    let outer = heap.root().inner.read();
    assert_eq!(*outer.as_deref().unwrap().read(), 8);
    let place: *const PMutex<u64> = outer.as_deref().unwrap();
    // SAFETY: the lock's first word, which nobody writes.
    assert_eq!(unsafe { place.cast::<u64>().read() }, 0);
}

// Rule 5: foreign locks, locks taken already, deadlocks with oneself, values of two transactions.

#[test]
fn a_lock_of_another_heap_is_refused() {
    let (one, two) = (folder(), folder());
    let (one, two) = (open::<Pair>(&one), open::<Pair>(&two));
    let refused = one.transaction(|tx| tx.lock(&two.root().a).map(|_| ()));
    assert!(matches!(refused, Err(Error::ForeignLock)), "{refused:?}");
    let owned = PMutex::new(1u64);
    let refused = one.transaction(|tx| tx.lock(&owned).map(|_| ()));
    assert!(matches!(refused, Err(Error::ForeignLock)), "{refused:?}");
}

/// Whoever is told so may have no `Mut` and no guard in hand.
#[test]
fn what_holds_a_lock_already_is_told_as_it_is() {
    let folder = folder();
    let heap = open::<Pair>(&folder);
    let (a, shared) = (&heap.root().a, &heap.root().shared);
    let guard = a.read();
    let by_a_guard = heap.transaction(|tx| tx.lock(a).map(drop));
    drop(guard);
    let by_a_mut_that_is_gone = heap.transaction(|tx| {
        tx.lock(a)?.set(None)?;
        tx.lock(a).map(drop)
    });
    let by_a_guard_that_is_gone = heap.transaction(|tx| {
        drop(a.read());
        tx.lock(a).map(drop)
    });
    let by_sharing_it = heap.transaction(|tx| {
        tx.read(shared)?;
        tx.lock(shared).map(drop)
    });
    let by_an_outer_call = heap.transaction(|tx| {
        tx.lock(a)?;
        heap.transaction(|tx| tx.lock(a).map(drop))
    });
    let for_a_guard = heap.transaction(|tx| {
        let _mine = tx.lock(a)?;
        a.try_read().map(drop)
    });
    let mut told: Vec<String> = [
        by_a_guard,
        by_a_mut_that_is_gone,
        by_a_guard_that_is_gone,
        by_sharing_it,
        by_an_outer_call,
        for_a_guard,
    ]
    .map(|refused| match refused {
        Err(error @ Error::AlreadyLocked) => error.to_string(),
        other => panic!("{other:?}"),
    })
    .into();
    told.dedup();
    let expected = "this thread holds the lock already: by its transaction, which keeps what it has locked to its end, also \
        when the `Mut` or a read guard is gone, or by a read guard from before. Go on with that `Mut`, drop read guards before \
        the transaction begins, or take a savepoint, where a transaction's locks are granted again";
    assert_eq!(told, [expected]);
}

#[test]
fn a_lock_is_granted_once_to_a_transaction() {
    let folder = folder();
    let heap = open::<Pair>(&folder);
    let refused = heap.transaction(|tx| {
        let _first = tx.lock(&heap.root().a)?;
        tx.lock(&heap.root().a).map(|_| ())
    });
    assert!(matches!(refused, Err(Error::AlreadyLocked)), "{refused:?}");
    let refused = heap.transaction(|tx| {
        let _shared = tx.read(&heap.root().shared)?;
        tx.lock(&heap.root().shared).map(|_| ())
    });
    assert!(matches!(refused, Err(Error::AlreadyLocked)), "{refused:?}");
    let guard = heap.root().a.read();
    let refused = heap.transaction(|tx| tx.lock(&heap.root().a).map(|_| ()));
    assert!(matches!(refused, Err(Error::AlreadyLocked)), "{refused:?}");
    drop(guard);
    heap.transaction(|tx| tx.lock(&heap.root().a).map(|_| ()))
        .unwrap();
}

#[test]
fn reading_what_ones_own_transaction_changes_panics() {
    let folder = folder();
    let heap = open::<Pair>(&folder);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        heap.transaction(|tx| {
            let _mine = tx.lock(&heap.root().a)?;
            let _ = heap.root().a.read();
            Ok(())
        })
    }))
    .unwrap_err();
    let message = panicked.downcast_ref::<&str>().expect("a message");
    assert!(message.starts_with("deadlock"), "{message}");
    assert_eq!(*heap.root().a.read(), None);
}

#[test]
fn values_of_two_transactions_are_not_swapped() {
    let (one, two) = (folder(), folder());
    let (one, two) = (open::<Pair>(&one), open::<Pair>(&two));
    one.transaction(|tx| {
        let mut a = tx.lock(&one.root().a)?;
        two.transaction(|tx| {
            let mut b = tx.lock(&two.root().a)?;
            b.set(Some(PBox::new(1)))?;
            let refused = Mut::swap(&mut a, &mut b);
            assert!(matches!(refused, Err(Error::ForeignValue)), "{refused:?}");
            Ok(())
        })
    })
    .unwrap();
    assert_eq!(*one.root().a.read(), None);
    assert_eq!(*two.root().a.read(), Some(PBox::new(1)));
}

#[test]
fn transactions_over_two_heaps_nest_and_end_by_themselves() {
    let (one, two) = (folder(), folder());
    let (one, two) = (open::<Pair>(&one), open::<Pair>(&two));
    let outer: Result<()> = one.transaction(|tx| {
        tx.lock(&one.root().a)?.set(Some(PBox::new(1)))?;
        two.transaction(|tx| tx.lock(&two.root().a)?.set(Some(PBox::new(2))))?;
        // Joins the outermost, across the other heap's.
        let swallowed: Result<()> = two.transaction(|tx| {
            tx.lock(&two.root().b)?.set(Some(PBox::new(3)))?;
            one.transaction(|tx| tx.lock(&one.root().b)?.set(Some(PBox::new(4))))?;
            Err(Error::abort("inner"))
        });
        swallowed.unwrap_err();
        assert_eq!(*two.root().b.read(), None);
        Ok(())
    });
    outer.unwrap();
    assert_eq!(*one.root().a.read(), Some(PBox::new(1)));
    assert_eq!(*one.root().b.read(), Some(PBox::new(4)));
    assert_eq!(*two.root().a.read(), Some(PBox::new(2)));
    one.check().unwrap();
    two.check().unwrap();
}

// Locks and waiting.

#[test]
fn opposite_orders_end_and_readers_with_guards_get_through() {
    let folder = folder();
    let heap = open::<[PMutex<u64>; 3]>(&folder);
    std::thread::scope(|scope| {
        for t in 0..3usize {
            let heap = &heap;
            scope.spawn(move || {
                for i in 0..400usize {
                    let (a, b) = ((i + t) % 3, (i * 5 + 2 * t + 1) % 3);
                    if t == 0 {
                        let locks = heap.root();
                        let first = locks[a].read();
                        let second = locks[b].read();
                        let _ = *first + *second;
                    } else if a != b {
                        heap.transaction(|tx| {
                            let mut first = tx.lock(&heap.root()[a])?;
                            std::thread::yield_now();
                            let mut second = tx.lock(&heap.root()[b])?;
                            *first += 1;
                            *second += 1;
                            Ok(())
                        })
                        .unwrap();
                    }
                }
            });
        }
    });
    heap.check().unwrap();
}

#[test]
fn a_guard_inside_of_a_transaction_that_would_be_a_deadlock_makes_it_start_again() {
    let folder = folder();
    let heap = open::<[PMutex<u64>; 2]>(&folder);
    std::thread::scope(|scope| {
        for t in 0..2usize {
            let heap = &heap;
            scope.spawn(move || {
                for _ in 0..300 {
                    heap.transaction(|tx| {
                        let mut mine = tx.lock(&heap.root()[t])?;
                        std::thread::yield_now();
                        let other = *heap.root()[1 - t].read();
                        *mine = other + 1;
                        Ok(())
                    })
                    .unwrap();
                }
            });
        }
    });
    heap.check().unwrap();
}

#[test]
fn a_doomed_transaction_cannot_commit() {
    let folder = folder();
    let heap = open::<PMutex<u64>>(&folder);
    let committed = heap.update(|mut n| {
        *n = 1;
        let _: Result<()> = heap.update(|_| Ok(()));
        Ok(())
    });
    // The inner one failed with `AlreadyLocked`.
    assert!(
        matches!(committed, Err(Error::Doomed { .. })),
        "{committed:?}"
    );
    assert_eq!(*heap.read(), 0);
}

/// On a disk most of a commit is waiting, outside of the gate, with blocks that nothing refers to any more.
#[test]
fn a_check_beside_commits_that_wait_for_a_disk_finds_no_leaks() {
    for durability in [Durability::Immediate, Durability::Eventual] {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let options = Heap::<Pair>::options().max_size(16 << 20).log_size(4 << 20);
        let heap = options
            .durability(durability)
            .open(folder.path().join("r"))
            .expect("a region");
        std::thread::scope(|scope| {
            let root = heap.root();
            let works = [&root.a, &root.b].map(|lock| {
                scope.spawn(|| {
                    for i in 0..80 {
                        heap.transaction(|tx| tx.lock(lock)?.set(Some(PBox::new(i))))
                            .unwrap();
                    }
                })
            });
            while !works.iter().all(|work| work.is_finished()) {
                heap.check().unwrap();
            }
        });
        heap.check().unwrap();
    }
}

#[test]
fn a_check_and_transactions_keep_out_of_each_others_way() {
    let folder = folder();
    let heap = open::<Pair>(&folder);
    std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            for i in 0..3000 {
                heap.transaction(|tx| tx.lock(&heap.root().a)?.set(Some(PBox::new(i))))
                    .unwrap();
            }
        });
        while !work.is_finished() {
            heap.check().unwrap();
        }
    });
    let inside = heap.transaction(|_| Ok(heap.check().map(|_| ())));
    assert!(matches!(inside, Ok(Err(Error::Busy))), "{inside:?}");
}

// Rule 6: padding never reaches the log.

#[test]
fn equal_values_have_equal_bytes() {
    type Padded = PMutex<[(u8, u64, Option<u32>); 2]>;
    let folder = folder();
    let heap = open::<Padded>(&folder);
    heap.update(|mut root| root.set([(1, 2, None), (1, 2, Some(3))]))
        .unwrap();
    heap.update(|mut root| root.set([(1, 2, Some(3)), (1, 2, None)]))
        .unwrap();
    let guard = heap.read();
    let size = size_of::<(u8, u64, Option<u32>)>();
    // SAFETY: bytes of the view, all written.
    let bytes = unsafe { std::slice::from_raw_parts((&raw const *guard).cast::<u8>(), 2 * size) };
    let ones = |bytes: &[u8]| bytes.iter().map(|byte| byte.count_ones()).sum::<u32>();
    // 1, 2, and (tag 1, 3) in the one that has it: everything else is zero.
    assert_eq!(ones(&bytes[..size]), 1 + 1 + 1 + 2);
    assert_eq!(ones(&bytes[size..]), 1 + 1);
}

#[test]
fn a_guard_that_is_dropped_at_the_very_end_of_its_thread_lets_go() {
    use std::cell::RefCell;
    thread_local! {
        // Made before the thread's first lock, so dropped after the thread gave its things back.
        static KEPT: RefCell<Option<bartender::ReadGuard<'static, u64>>> = const { RefCell::new(None) };
    }
    let folder = folder();
    // Never closed: the guard wants it for ever.
    let heap: &'static Heap<PMutex<u64>> = Box::leak(Box::new(open(&folder)));
    std::thread::spawn(move || KEPT.with(|kept| *kept.borrow_mut() = Some(heap.read())))
        .join()
        .unwrap();
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let result = heap.update(|mut n| {
            *n += 1;
            Ok(())
        });
        done.send(result.is_ok()).unwrap();
    });
    let minute = std::time::Duration::from_secs(60);
    assert_eq!(wait.recv_timeout(minute), Ok(true));
}

/// One older transaction holds the first lock and goes on; a younger one that holds another lock wants it. `None` where the
/// older one did not get to wait, by which it would have become the older one.
fn who_makes_way(heap: &Heap<[PMutex<u64>; 3]>, pause: Duration) -> Option<u32> {
    let [first, second, third] = heap.root();
    let (held, is_held) = mpsc::channel();
    let (begun, has_begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let (told, answer) = mpsc::channel();
    let attempts = AtomicU32::new(0);
    std::thread::scope(|scope| {
        // So that the older one has to wait for somebody.
        scope.spawn(move || {
            heap.transaction(|tx| {
                *tx.lock(second)? += 1;
                held.send(()).map_err(Error::abort)?;
                std::thread::sleep(pause);
                Ok(())
            })
            .unwrap();
        });
        is_held.recv().unwrap();
        scope.spawn(move || {
            heap.transaction(|tx| {
                *tx.lock(first)? += 1;
                *tx.lock(second)? += 1;
                begun.send(()).map_err(Error::abort)?;
                // However it ends.
                let _ = may_go_on.recv();
                Ok(())
            })
            .unwrap();
        });
        has_begun.recv().unwrap();
        let attempts = &attempts;
        scope.spawn(move || {
            let younger = || {
                heap.transaction(|tx| {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    *tx.lock(third)? += 1;
                    *tx.lock(first)? += 1;
                    Ok(())
                })
            };
            let bounded = mutant::with("no_patience", younger);
            told.send(bounded).unwrap();
            younger().unwrap();
        });
        let bounded = answer.recv_timeout(Duration::from_secs(2));
        if let Ok(Err(error)) = &bounded {
            assert!(matches!(error, Error::Conflict), "{error}");
            assert_eq!(*third.read(), 0, "it has left no trace");
            while attempts.load(Ordering::Relaxed) < 5 {
                std::thread::yield_now();
            }
        }
        drop(go_on);
        matches!(bounded, Ok(Err(_))).then(|| attempts.load(Ordering::Relaxed))
    })
}

#[test]
fn who_has_to_make_way_tries_again_and_gives_up_after_a_bound() {
    if !mutant::ON {
        return;
    }
    let conflicts = (0..8).any(|n| {
        let folder = folder();
        let heap: Heap<[PMutex<u64>; 3]> = open(&folder);
        let attempts = who_makes_way(&heap, Duration::from_millis(20 << n));
        // In the end it got through.
        if attempts.is_some() {
            assert_eq!(*heap.root()[2].read(), 1);
            assert_eq!(*heap.root()[0].read(), 2);
        }
        heap.check().unwrap();
        attempts.is_some()
    });
    assert!(conflicts);
}

//! Rule 8 of the typed interface: moving inside the region without evicting. Each way to lose, double or smuggle a
//! moved value, and what becomes of it.
#![cfg(not(loom))]

use bartender::{Error, Heap, Moved, Mut, PBox, PMutex, PRwLock, PString, PVec, Persist, Result};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use tempfile::TempDir;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;
use places::folder;

type Boxed = Option<PBox<PString>>;

#[derive(Persist, Default)]
#[repr(C)]
struct Root {
    a: PMutex<Boxed>,
    b: PMutex<Boxed>,
    list: PMutex<PVec<PBox<PString>>>,
    nodes: PMutex<Option<PBox<Node>>>,
    numbers: PMutex<PVec<u64>>,
}

#[derive(Persist, Default)]
#[repr(C)]
struct Node {
    /// A way in that is locked by itself.
    inner: PMutex<Option<PBox<Node>>>,
}

fn open(folder: &TempDir) -> Heap<Root> {
    let options = Heap::options().max_size(16 << 20).log_size(4 << 20);
    options.open(folder.path().join("r")).expect("a region")
}

fn boxed(text: &str) -> Boxed {
    Some(PBox::new(text.into()))
}

/// Texts with a block each.
const ONE: &str = "one, which needs a block";
const TWO: &str = "two, which needs a block";

/// A heap with "one" in `a` and "two" in `b`.
fn filled(folder: &TempDir) -> Heap<Root> {
    let heap = open(folder);
    heap.transaction(|tx| {
        tx.lock(&heap.root().a)?.set(boxed(ONE))?;
        tx.lock(&heap.root().b)?.set(boxed(TWO))
    })
    .unwrap();
    heap
}

/// What is in `a` and in `b`, after a check that nothing leaks.
fn state(heap: &Heap<Root>) -> [Option<String>; 2] {
    heap.check().expect("a sound region");
    [&heap.root().a, &heap.root().b].map(|lock| lock.read().as_deref().map(ToString::to_string))
}

fn texts(a: Option<&str>, b: Option<&str>) -> [Option<String>; 2] {
    [a, b].map(|text| text.map(str::to_owned))
}

#[test]
fn a_moved_value_keeps_its_blocks() {
    let folder = folder();
    let heap = filled(&folder);
    let place = |lock: &PMutex<Boxed>| -> *const PString {
        lock.read().as_deref().expect("a box is there")
    };
    let before = place(&heap.root().a);
    let blocks = heap.stats().live_blocks;
    heap.transaction(|tx| {
        let (mut a, mut b) = (tx.lock(&heap.root().a)?, tx.lock(&heap.root().b)?);
        b.set_moved(Mut::take_moved(&mut a)?)
    })
    .unwrap();
    assert_eq!(state(&heap), texts(None, Some(ONE)));
    assert_eq!(place(&heap.root().b), before);
    // "two" was freed: a box and a text.
    assert_eq!(heap.stats().live_blocks, blocks - 2);
    heap.close().unwrap();
    let heap = open(&folder);
    assert_eq!(state(&heap), texts(None, Some(ONE)));
}

#[test]
#[allow(clippy::forget_non_drop)] // The program may, and it is as harmless as dropping.
fn what_is_never_attached_is_freed_at_the_commit() {
    let folder = folder();
    let heap = filled(&folder);
    let blocks = heap.stats().live_blocks;
    heap.transaction(|tx| {
        let moved = Mut::take_moved(&mut tx.lock(&heap.root().a)?)?;
        drop(moved);
        Ok(())
    })
    .unwrap();
    assert_eq!(state(&heap), texts(None, Some(TWO)));
    heap.transaction(|tx| {
        std::mem::forget(Mut::take_moved(&mut tx.lock(&heap.root().b)?)?);
        Ok(())
    })
    .unwrap();
    assert_eq!(state(&heap), texts(None, None));
    assert_eq!(heap.stats().live_blocks, blocks - 4);
}

#[test]
fn an_abort_puts_moved_values_back() {
    let folder = folder();
    let heap = filled(&folder);
    let blocks = heap.stats().live_blocks;
    for attach in [false, true] {
        let failed: Result<()> = heap.transaction(|tx| {
            let (mut a, mut b) = (tx.lock(&heap.root().a)?, tx.lock(&heap.root().b)?);
            let moved = Mut::take_moved(&mut a)?;
            if attach {
                b.set_moved(moved)?;
            }
            Err(Error::abort("on purpose"))
        });
        failed.unwrap_err();
        assert_eq!(state(&heap), texts(Some(ONE), Some(TWO)));
        assert_eq!(heap.stats().live_blocks, blocks);
    }
}

#[test]
fn swapped_tickets_are_swapped_values() {
    let folder = folder();
    let heap = filled(&folder);
    heap.transaction(|tx| {
        let (mut a, mut b) = (tx.lock(&heap.root().a)?, tx.lock(&heap.root().b)?);
        let (mut one, mut two) = (Mut::take_moved(&mut a)?, Mut::take_moved(&mut b)?);
        std::mem::swap(&mut one, &mut two);
        a.set_moved(one)?;
        b.set_moved(two)
    })
    .unwrap();
    assert_eq!(state(&heap), texts(Some(TWO), Some(ONE)));
}

#[test]
fn a_ticket_that_a_panic_drops_frees_at_the_commit_or_puts_back_at_the_abort() {
    let folder = folder();
    let heap = filled(&folder);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        heap.transaction(|tx| -> Result<()> {
            let _moved = Mut::take_moved(&mut tx.lock(&heap.root().a)?)?;
            std::panic::resume_unwind(Box::new(()))
        })
    }));
    panicked.unwrap_err();
    assert_eq!(state(&heap), texts(Some(ONE), Some(TWO)));
    heap.transaction(|tx| {
        let moved = Mut::take_moved(&mut tx.lock(&heap.root().a)?)?;
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let _moved = moved;
            std::panic::resume_unwind(Box::new(()))
        }));
        // An index out of bounds takes the ticket with it, too.
        let moved = Mut::replace_moved(&mut tx.lock(&heap.root().b)?, None)?;
        let Some(moved) = moved.transpose()? else {
            unreachable!("\"two\" was there")
        };
        let mut list = tx.lock(&heap.root().list)?;
        catch_unwind(AssertUnwindSafe(|| list.insert_moved(9, moved))).unwrap_err();
        Ok(())
    })
    .unwrap();
    assert_eq!(state(&heap), texts(None, None));
    assert!(heap.root().list.read().is_empty());
}

#[test]
fn a_ticket_is_worthless_after_its_transaction() {
    let folder = folder();
    let heap = filled(&folder);
    let mut kept: Vec<Moved<Boxed>> = Vec::new();
    for abort in [true, false] {
        for _ in 0..2 {
            let _ = heap.transaction(|tx| {
                let mut a = tx.lock(&heap.root().a)?;
                kept.push(Mut::replace_moved(&mut a, boxed("new"))?);
                kept.push(Mut::take_moved(&mut a)?);
                a.set(boxed(ONE))?;
                if abort {
                    return Err(Error::abort("on purpose"));
                }
                Ok(())
            });
        }
    }
    heap.transaction(|tx| {
        let mut b = tx.lock(&heap.root().b)?;
        // Something is in this transaction's keeping, too.
        let mine = Mut::take_moved(&mut tx.lock(&heap.root().a)?)?;
        while let Some(stale) = kept.pop() {
            match kept.len() % 4 {
                0 => drop(stale),
                1 => assert!(matches!(b.set_moved(stale), Err(Error::ForeignValue))),
                2 => assert!(matches!(stale.into_owned(), Err(Error::ForeignValue))),
                _ => assert!(matches!(stale.transpose(), Err(Error::ForeignValue))),
            }
        }
        tx.lock(&heap.root().a).unwrap_err();
        drop(mine);
        Ok(())
    })
    .unwrap();
    assert_eq!(state(&heap), texts(None, Some(TWO)));
}

#[test]
fn a_ticket_may_be_dropped_when_its_heap_is_gone() {
    let folder = folder();
    let heap = filled(&folder);
    let stale = heap
        .transaction(|tx| Mut::take_moved(&mut tx.lock(&heap.root().a)?))
        .unwrap();
    heap.close().unwrap();
    assert!(matches!(stale.transpose(), Err(Error::ForeignValue)));
}

thread_local! {
    static SMUGGLED: RefCell<Option<Moved<Boxed>>> = const { RefCell::new(None) };
}

#[test]
fn a_ticket_is_refused_by_another_heap_and_its_value_is_not_lost() {
    let (one_folder, two_folder) = (folder(), folder());
    let (one, two) = (filled(&one_folder), filled(&two_folder));
    let doomed = one.transaction(|tx| {
        let moved = Mut::take_moved(&mut tx.lock(&one.root().a)?)?;
        SMUGGLED.set(Some(moved));
        two.transaction(|tx| {
            let mut a = tx.lock(&two.root().a)?;
            // One of its own with the same chance of being taken for it.
            let own = Mut::take_moved(&mut tx.lock(&two.root().b)?)?;
            let refused = a.set_moved(SMUGGLED.take().expect("set above"));
            assert!(matches!(refused, Err(Error::ForeignValue)), "{refused:?}");
            a.set_moved(own)
        })?;
        // Swallowed: without the doom "one" would be freed now.
        Ok(())
    });
    assert!(matches!(doomed, Err(Error::Doomed { .. })), "{doomed:?}");
    assert_eq!(state(&one), texts(Some(ONE), Some(TWO)));
    assert_eq!(state(&two), texts(Some(TWO), None));
    // The other way round: from the inner one out.
    one.transaction(|tx| {
        let mut a = tx.lock(&one.root().a)?;
        let moved = two.transaction(|tx| Mut::take_moved(&mut tx.lock(&two.root().a)?))?;
        let refused = a.set_moved(moved);
        assert!(matches!(refused, Err(Error::ForeignValue)), "{refused:?}");
        Ok(())
    })
    .unwrap();
    assert_eq!(state(&one), texts(Some(ONE), Some(TWO)));
    assert_eq!(state(&two), texts(None, None));
}

#[test]
fn an_inner_call_is_of_the_same_transaction() {
    let folder = folder();
    let heap = filled(&folder);
    heap.transaction(|tx| {
        let moved = Cell::new(Some(Mut::take_moved(&mut tx.lock(&heap.root().a)?)?));
        heap.transaction(|tx| {
            let mut b = tx.lock(&heap.root().b)?;
            b.set_moved(moved.take().expect("it runs once"))
        })
    })
    .unwrap();
    assert_eq!(state(&heap), texts(None, Some(ONE)));
}

#[test]
fn a_failed_attachment_that_is_swallowed_loses_nothing() {
    let folder = folder();
    let heap = open(&folder);
    heap.transaction(|tx| {
        let mut list = tx.lock(&heap.root().list)?;
        list.push(PBox::new("kept".into()))?;
        tx.lock(&heap.root().a)?.set(boxed(ONE))
    })
    .unwrap();
    let full = heap.transaction(|tx| {
        let mut a = tx.lock(&heap.root().a)?;
        let moved = Mut::take_moved(&mut a)?.transpose()?.expect("\"one\"");
        // Leaves no room for the list to grow.
        let mut numbers = tx.lock(&heap.root().numbers)?;
        let mut step = 1 << 20;
        while step > 0 {
            let more = numbers.capacity() + step;
            if numbers.reserve_exact(more).is_err() {
                step /= 2;
            }
        }
        let mut list = tx.lock(&heap.root().list)?;
        while list.len() < list.capacity() {
            list.push_moved(list_filler(&heap)?)?;
        }
        assert!(list.push_moved(moved).is_err());
        Ok(())
    });
    assert!(full.is_err(), "{full:?}");
    assert_eq!(state(&heap), texts(Some(ONE), None));
    assert_eq!(heap.root().list.read().len(), 1);
}

/// A value for the list that takes no room: from the list's own first element's text, again and again.
fn list_filler(heap: &Heap<Root>) -> Result<Moved<PBox<PString>>> {
    heap.transaction(|tx| {
        let mut b = tx.lock(&heap.root().b)?;
        b.set(boxed(""))?;
        Ok(Mut::take_moved(&mut b)?.transpose()?.expect("set above"))
    })
}

/// That a value cannot be put into itself by a `Mut` does not compile (`ui/moved.rs`); this is the way round by locks.
#[test]
fn there_is_no_lock_by_which_a_value_gets_into_itself() {
    let folder = folder();
    let heap = open(&folder);
    heap.transaction(|tx| {
        tx.lock(&heap.root().nodes)?
            .set(Some(PBox::new(Node::default())))
    })
    .unwrap();
    let refused = heap.transaction(|tx| {
        let node = Mut::into_ref(tx.lock(&heap.root().nodes)?);
        let mut inner = tx.lock(&node.as_deref().expect("set above").inner)?;
        // The only other way to the outer value.
        let mut outer = tx.lock(&heap.root().nodes)?;
        inner.set_moved(Mut::take_moved(&mut outer)?)
    });
    assert!(matches!(refused, Err(Error::AlreadyLocked)), "{refused:?}");
    heap.check().unwrap();
    assert!(heap.root().nodes.read().is_some());
}

#[test]
fn a_transaction_that_is_tried_again_starts_with_new_tickets() {
    let folder = folder();
    let heap: Heap<[PMutex<Boxed>; 2]> = Heap::options()
        .max_size(16 << 20)
        .open(folder.path().join("r"))
        .unwrap();
    heap.transaction(|tx| tx.lock(&heap.root()[0])?.set(boxed("0")))
        .unwrap();
    let (reading, is_reading) = mpsc::channel();
    let (locked, is_locked) = mpsc::channel::<()>();
    let mut stale = Vec::new();
    std::thread::scope(|scope| {
        let heap = &heap;
        // A reader with a guard, who is not made to wait in a circle.
        scope.spawn(move || {
            let _second = heap.root()[1].read();
            reading.send(()).expect("somebody listens");
            is_locked.recv().expect("somebody locks the first");
            let _first = heap.root()[0].read();
        });
        is_reading.recv().expect("the guard is taken");
        heap.transaction(|tx| {
            let mut first = tx.lock(&heap.root()[0])?;
            let moved = Mut::take_moved(&mut first)?;
            let _ = locked.send(());
            let mut second = match tx.lock(&heap.root()[1]) {
                Ok(second) => second,
                Err(error) => {
                    stale.push(moved);
                    return Err(error);
                }
            };
            assert!(!stale.is_empty());
            for stale in stale.drain(..) {
                let refused = second.set_moved(stale);
                assert!(matches!(refused, Err(Error::ForeignValue)), "{refused:?}");
            }
            second.set_moved(moved)
        })
        .unwrap();
    });
    assert!(heap.root()[0].read().is_none());
    let second = heap.root()[1].read();
    assert_eq!(second.as_ref().map(|text| text.as_str()), Some("0"));
    heap.check().unwrap();
}

#[test]
fn a_shared_lock_does_not_let_anything_be_moved() {
    // What is read under a shared lock is `&T`: there is no `Mut` to take from, and the lock is not granted again.
    let folder = folder();
    let heap: Heap<PRwLock<Boxed>> = Heap::options()
        .max_size(16 << 20)
        .open(folder.path().join("r"))
        .unwrap();
    let refused = heap.transaction(|tx| {
        let _shared = tx.read(heap.root())?;
        Mut::take_moved(&mut tx.lock(heap.root())?).map(drop)
    });
    assert!(matches!(refused, Err(Error::AlreadyLocked)), "{refused:?}");
}

//! Scoped threads inside of transactions: they can be given references into what is not committed yet. Whatever
//! locks lie there, nobody else may get through one of them.

use crate::{folder, open};
use bartender::{
    Error, Heap, Mut, PBTreeMap, PBox, PHashMap, PMutex, PShared, PString, PVec, PVecDeque,
    Persist, Result, Tx,
};
use std::sync::mpsc;
use std::time::Duration;

#[derive(Persist, Default)]
#[repr(C)]
struct Root<V: Persist> {
    victim: PMutex<V>,
    busy: PMutex<u64>,
    attackers: PMutex<u64>,
}

/// Waits for a lock, so that from here on the transaction is older than those that have not waited yet: they give up
/// where they would have to wait for it.
fn grow_old<V: Persist>(heap: &Heap<Root<V>>, tx: &Tx<'_>) -> Result<()> {
    let (reads, wait) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _guard = heap.root().busy.read();
            reads.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        });
        wait.recv().unwrap();
        tx.lock(&heap.root().busy).map(drop)
    })
}

/// What another thread gets of what is behind `lock`, if it may not wait: `Some` if it reads or changes it.
fn attack<V: Persist>(heap: &Heap<Root<V>>, lock: &PMutex<u64>) -> Option<u64> {
    let once = |body: &(dyn Fn(&Tx<'_>) -> Result<u64> + Sync)| {
        let mut tries = 0;
        let mut seen = None;
        let outcome = heap.transaction(|tx| {
            tries += 1;
            if tries == 1 {
                // Who holds something does not wait for older ones.
                let _mine = tx.lock(&heap.root().attackers)?;
                seen = Some(body(tx)?);
            }
            Ok(())
        });
        outcome.ok().and(seen)
    };
    std::thread::scope(|scope| {
        let read = scope.spawn(|| once(&|_| Ok(*lock.read())));
        let read = read.join().unwrap();
        let changed = scope.spawn(|| {
            once(&|tx| {
                let mut value = tx.lock(lock)?;
                *value += 100;
                Ok(*value)
            })
        });
        read.or(changed.join().unwrap())
    })
}

/// Fills a new heap, and has a transaction `change` what is there, attacked behind a lock in what it changed, and taken
/// back. The attacker must not have got through.
fn attacked<V: Persist + Default>(
    fill: impl Fn(&mut Mut<'_, V>) -> Result<()>,
    change: impl Fn(&mut Mut<'_, V>) -> Result<()>,
    inside: impl Fn(&V) -> &PMutex<u64>,
) {
    let folder = folder();
    let heap = open::<Root<V>>(&folder);
    heap.transaction(|tx| fill(&mut tx.lock(&heap.root().victim)?))
        .unwrap();
    let failed: Result<()> = heap.transaction(|tx| {
        let mut victim = tx.lock(&heap.root().victim)?;
        grow_old(&heap, tx)?;
        change(&mut victim)?;
        assert_eq!(attack(&heap, inside(&victim)), None, "got through");
        Err(Error::abort("taken back"))
    });
    assert!(matches!(failed, Err(Error::Aborted(_))), "{failed:?}");
    heap.check().unwrap();
}

#[test]
fn the_locks_in_a_new_block_are_held() {
    attacked::<Option<PBox<PMutex<u64>>>>(
        |_| Ok(()),
        |place| place.set(Some(PBox::new(PMutex::new(1)))),
        |place| place.as_deref().unwrap(),
    );
}

#[test]
fn the_locks_in_new_blocks_of_collections_are_held() {
    type Deep = PVec<PVec<PMutex<u64>>>;
    attacked::<Deep>(
        |_| Ok(()),
        |list| list.push(PVec::from(vec![PMutex::new(1)])),
        |list| &list[0][0],
    );
    attacked::<PHashMap<PString, PBox<PMutex<u64>>>>(
        |_| Ok(()),
        |map| map.insert("k".into(), PBox::new(PMutex::new(1))).map(drop),
        |map| &map["k"],
    );
}

#[test]
fn locks_that_move_to_a_larger_block_are_held_there() {
    attacked::<PVec<PMutex<u64>>>(
        |list| list.extend((0..4).map(PMutex::new)),
        |list| list.reserve_exact(100),
        |list| &list[0],
    );
    attacked::<PHashMap<u64, PMutex<u64>>>(
        |map| map.extend((0..4).map(|n| (n, PMutex::new(n)))),
        |map| map.reserve(100),
        |map| &map[&0],
    );
    attacked::<PVecDeque<PMutex<u64>>>(
        |ring| ring.extend((0..4).map(PMutex::new)),
        |ring| ring.reserve_exact(100),
        |ring| &ring[0],
    );
}

#[test]
fn a_lock_that_was_shared_before_it_was_changed_is_held_for_oneself() {
    attacked::<Option<PBox<PMutex<u64>>>>(
        |place| place.set(Some(PBox::new(PMutex::new(1)))),
        |place| {
            // The guard leaves its lock to the transaction, shared.
            drop(place.as_deref().unwrap().read());
            *place.project().unwrap().project().project() = 2;
            Ok(())
        },
        |place| place.as_deref().unwrap(),
    );
}

#[test]
fn locks_that_change_places_are_held_at_both() {
    attacked::<[PMutex<u64>; 2]>(
        |_| Ok(()),
        |pair| {
            let mut pair = pair.project();
            let (first, second) = pair.split_at_mut(1);
            Mut::swap(&mut first[0], &mut second[0])
        },
        |pair| &pair[1],
    );
    attacked::<PVec<PMutex<u64>>>(
        |list| list.extend((0..4).map(PMutex::new)),
        |list| list.remove(0).map(drop),
        |list| &list[2],
    );
    attacked::<PVec<PMutex<u64>>>(
        |list| list.extend((0..4).map(PMutex::new)),
        |list| list.retain(|mut n| *n.project() != 1),
        |list| &list[1],
    );
}

#[test]
fn locks_that_go_round_in_a_deque_are_held_where_they_stop() {
    let fill = |ring: &mut Mut<'_, PVecDeque<PMutex<u64>>>| {
        ring.reserve_exact(8)?;
        ring.extend((0..5).map(PMutex::new))
    };
    attacked::<PVecDeque<PMutex<u64>>>(fill, |ring| ring.rotate_left(1), |ring| &ring[4]);
    attacked::<PVecDeque<PMutex<u64>>>(fill, |ring| ring.shrink_to_fit(), |ring| &ring[3]);
    attacked::<PVecDeque<PMutex<u64>>>(
        |ring| {
            fill(ring)?;
            ring.push_front(PMutex::new(9))
        },
        |ring| ring.make_contiguous(),
        |ring| &ring[5],
    );
    attacked::<PVecDeque<PMutex<u64>>>(
        |ring| {
            fill(ring)?;
            ring.push_back(PMutex::new(9))
        },
        |ring| {
            let part = ring.split_off(2)?;
            ring.set_moved(part)
        },
        |ring| &ring[1],
    );
}

#[test]
fn locks_in_what_is_cut_off_are_held_where_it_lies_then() {
    attacked::<PVec<PMutex<u64>>>(
        |list| {
            list.reserve_exact(8)?;
            list.extend((0..5).map(PMutex::new))
        },
        |list| list.shrink_to_fit(),
        |list| &list[0],
    );
    attacked::<PVec<PMutex<u64>>>(
        |list| list.extend((0..5).map(PMutex::new)),
        |list| {
            let part = list.split_off(2)?;
            list.set_moved(part)
        },
        |list| &list[1],
    );
}

#[test]
fn locks_in_nodes_that_are_cut_in_two_are_held() {
    attacked::<PBTreeMap<u64, PMutex<u64>>>(
        |map| map.extend((0..31).map(|n| (n, PMutex::new(n)))),
        |map| map.extend((100..140).map(|n| (n, PMutex::new(n)))),
        |map| &map[&30],
    );
}

#[test]
fn what_is_untouched_is_still_everybodys() {
    let folder = folder();
    let heap = open::<Root<Option<PBox<PMutex<u64>>>>>(&folder);
    heap.transaction(|tx| {
        tx.lock(&heap.root().victim)?
            .set(Some(PBox::new(PMutex::new(1))))
    })
    .unwrap();
    let failed: Result<()> = heap.transaction(|tx| {
        let victim = tx.lock(&heap.root().victim)?;
        let inside = victim.as_deref().unwrap();
        std::thread::scope(|scope| {
            let change = |tx: &mut Tx<'_>| {
                *tx.lock(inside)? += 1;
                Ok(())
            };
            let heap = &heap;
            scope.spawn(move || heap.transaction(change).unwrap());
        });
        Err(Error::abort("taken back"))
    });
    failed.unwrap_err();
    let guard = heap.root().victim.read();
    assert_eq!(*guard.as_deref().unwrap().read(), 2);
}

#[derive(Persist, Default)]
#[repr(C)]
struct Owners {
    mine: PMutex<PVec<PShared<PString>>>,
    theirs: PMutex<PVec<PShared<PString>>>,
}

/// What another transaction's commit says that shares a value which this one has stored, and not committed; and what the
/// sharing says.
fn shares_uncommitted(heap: &Heap<Owners>, undo: bool) -> (Result<()>, Result<(), String>) {
    let mut theirs = (Ok(()), Ok(()));
    let outcome = heap.transaction(|tx| {
        let mut mine = tx.lock(&heap.root().mine)?;
        mine.push(PShared::new("a text that needs a block".into()))?;
        let value = &mine[0];
        theirs = std::thread::scope(|scope| {
            let share = scope.spawn(|| {
                let mut said = None;
                let outcome = heap.transaction(|tx| {
                    if said.is_some() {
                        return Err(Error::abort("once is enough"));
                    }
                    let again = value.share(tx);
                    said = Some(again.as_ref().map(drop).map_err(Error::to_string));
                    tx.lock(&heap.root().theirs)?.push_moved(again?)
                });
                (outcome, said.expect("it ran"))
            });
            share.join().unwrap()
        });
        // Its own transaction may.
        let again = mine[0].share(tx)?;
        mine.push_moved(again)?;
        assert_eq!(PShared::owners(&mine[0]), 1, "steps come at the end");
        if undo {
            Err(Error::abort("undone"))
        } else {
            Ok(())
        }
    });
    assert_eq!(outcome.is_err(), undo);
    theirs
}

#[test]
fn nobody_becomes_an_owner_of_what_is_not_committed() {
    for undo in [true, false] {
        let folder = folder();
        let heap: Heap<Owners> = open(&folder);
        let (theirs, said) = shares_uncommitted(&heap, undo);
        assert!(theirs.is_err());
        assert_eq!(said, Err(Error::Conflict.to_string()));
        let mine = heap.root().mine.read();
        match undo {
            true => assert!(mine.is_empty()),
            false => assert_eq!(PShared::owners(&mine[0]), 2),
        }
        drop(mine);
        heap.check().expect("nothing is lost or leaked");
        // What is committed is shared by anybody.
        if !undo {
            heap.transaction(|tx| {
                let again = heap.root().mine.read()[0].share(tx)?;
                tx.lock(&heap.root().theirs)?.push_moved(again)
            })
            .unwrap();
        }
    }
}

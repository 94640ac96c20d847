//! What a guard shows does not outlive the guard, a guard does not outlive its heap, and neither it nor a transaction gets to
//! another thread, or to another heap's transaction.

use bartender::{Heap, PMutex, PRcu, PRwLock, PString, PVec, ReadGuard, Tx};
use std::cell::RefCell;
use std::rc::Rc;

type Names = PVec<PString>;

fn a_guard_outlives_its_heap(heap: Heap<PMutex<Names>>) {
    let guard = heap.read();
    heap.close().unwrap();
    println!("{}", guard.len());
}

fn a_guard_in_a_circle_outlives_its_heap(heap: Heap<PMutex<Names>>) -> Rc<ReadGuard<'static, Names>> {
    Rc::new(heap.read())
}

fn a_reference_outlives_its_guard(heap: &Heap<PMutex<Names>>) {
    let first: &PString = heap.read().first().unwrap();
    println!("{first}");
}

fn a_version_outlives_its_guard(rcu: &PRcu<Names>) {
    let first: &PString = rcu.read().first().unwrap();
    println!("{first}");
}

fn a_guard_to_another_thread(heap: &'static Heap<PMutex<Names>>) {
    let guard = heap.read();
    std::thread::spawn(move || drop(guard));
}

fn a_transaction_to_another_thread(heap: &Heap<PMutex<Names>>) {
    heap.transaction(|tx| {
        std::thread::scope(|scope| {
            scope.spawn(|| tx.lock(heap.root()).map(drop));
        });
        Ok(())
    })
    .unwrap();
}

thread_local! {
    static KEPT: RefCell<Option<&'static Tx<'static>>> = const { RefCell::new(None) };
}

fn a_transaction_in_a_thread_local(heap: &'static Heap<PMutex<Names>>) {
    heap.transaction(|tx| {
        KEPT.set(Some(tx));
        Ok(())
    })
    .unwrap();
}

fn transactions_of_two_heaps_exchanged(one: &Heap<PMutex<Names>>, two: &Heap<PMutex<Names>>) {
    one.transaction(|tx| {
        two.transaction(|other| {
            std::mem::swap(tx, other);
            Ok(())
        })
    })
    .unwrap();
}

fn a_shared_lock_across_its_transaction(heap: &Heap<PRwLock<Names>>) {
    let mut kept = None;
    heap.transaction(|tx| {
        kept = Some(tx.read(heap.root())?);
        Ok(())
    })
    .unwrap();
}

fn a_root_across_closing(heap: Heap<PRwLock<Names>>) {
    let root = heap.root();
    drop(heap);
    drop(root.read());
}

fn main() {}

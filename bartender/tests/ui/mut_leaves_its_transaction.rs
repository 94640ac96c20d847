//! Neither the right to change a value nor a reference into it outlives the transaction.

use bartender::{Heap, Mut, PMutex, PString, PVec};

type Names = PVec<PString>;

fn by_return(heap: &Heap<PMutex<Names>>) {
    let _names: Mut<'_, Names> = heap.update(|names| Ok(names)).unwrap();
}

fn by_capture(heap: &Heap<PMutex<Names>>) {
    let mut kept = None;
    heap.update(|names| {
        kept = Some(names);
        Ok(())
    })
    .unwrap();
}

fn a_reference(heap: &Heap<PMutex<Names>>) {
    let mut first = None;
    heap.update(|names| {
        first = Some(&Mut::into_ref(names)[0]);
        Ok(())
    })
    .unwrap();
}

fn an_element(heap: &Heap<PMutex<Names>>) {
    let mut kept = None;
    heap.update(|mut names| {
        kept = names.get_mut(0);
        Ok(())
    })
    .unwrap();
}

fn by_lock(heap: &Heap<PMutex<Names>>) {
    let mut kept = None;
    heap.transaction(|tx| {
        kept = Some(tx.lock(heap.root())?);
        Ok(())
    })
    .unwrap();
}

fn to_another_thread(heap: &Heap<PMutex<Names>>) {
    heap.update(|mut names| {
        std::thread::scope(|s| {
            s.spawn(|| names.clear());
        });
        Ok(())
    })
    .unwrap();
}

fn two_at_once(mut names: Mut<'_, Names>) {
    let first = names.get_mut(0);
    let second = names.get_mut(0);
    drop((first, second));
}

fn a_slice_across_a_change(mut names: Mut<'_, Names>) {
    let first = &names[0];
    names.clear().unwrap();
    println!("{first}");
}

fn main() {}

//! No `Mut` and no reference of a transaction lives across the beginning or the end of a savepoint: what it looks at could
//! become something else, or be gone.

use bartender::{Heap, PBox, PMutex, PRwLock, Persist, Tx};

#[derive(Persist)]
#[repr(C, u8)]
enum Shape {
    Number(u64),
    Boxed(PBox<u64>),
}

#[derive(Persist)]
#[repr(C)]
struct Root {
    shape: PMutex<Shape>,
    shared: PRwLock<Shape>,
}

fn across_the_beginning(heap: &Heap<Root>, tx: &mut Tx<'_>) {
    let mut shape = tx.lock(&heap.root().shape).unwrap();
    let _ = tx.savepoint(|_| shape.set(Shape::Boxed(PBox::new(1))));
}

fn across_the_whole(heap: &Heap<Root>, tx: &mut Tx<'_>) {
    let shape = tx.lock(&heap.root().shape).unwrap();
    tx.savepoint(|_| Ok(())).unwrap();
    drop(shape);
}

fn a_reference(heap: &Heap<Root>, tx: &mut Tx<'_>) {
    let shape = tx.read(&heap.root().shared).unwrap();
    tx.savepoint(|_| Ok(())).unwrap();
    drop(matches!(shape, Shape::Number(_)));
}

fn across_the_end(heap: &Heap<Root>, tx: &mut Tx<'_>) {
    let mut kept = None;
    let _ = tx.savepoint(|tx| {
        kept = Some(tx.lock(&heap.root().shape)?);
        Ok(())
    });
}

fn by_return(heap: &Heap<Root>, tx: &mut Tx<'_>) {
    let _ = tx.savepoint(|tx| tx.lock(&heap.root().shape));
}

fn the_outer_one_inside(heap: &Heap<Root>, tx: &mut Tx<'_>) {
    let _ = tx.savepoint(|_| {
        tx.lock(&heap.root().shape)?;
        Ok(())
    });
}

fn exchanged(tx: &mut Tx<'_>, other: &mut Tx<'_>) {
    let _ = tx.savepoint(|tx| {
        std::mem::swap(tx, other);
        Ok(())
    });
}

fn main() {}

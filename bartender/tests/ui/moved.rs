//! A moved value does not leave its thread, is attached once and as what it is, and cannot get into itself: whoever
//! takes it has it for himself.

use bartender::{Moved, Mut, PBox, PMutex, Persist};

#[derive(Persist)]
#[repr(C)]
struct Node {
    next: Option<PBox<Node>>,
    inner: PMutex<Option<PBox<Node>>>,
}

type Link = Option<PBox<Node>>;

fn to_another_thread(moved: Moved<Link>) {
    std::thread::spawn(move || drop(moved));
}

fn twice(mut a: Mut<'_, Link>, mut b: Mut<'_, Link>, moved: Moved<Link>) {
    a.set_moved(moved).unwrap();
    b.set_moved(moved).unwrap();
}

fn as_another_type(mut a: Mut<'_, Option<PBox<u64>>>, moved: Moved<Link>) {
    a.set_moved(moved).unwrap();
}

fn into_itself(mut head: Mut<'_, Link>) {
    let mut node = head.project().unwrap();
    let mut inside = node.project();
    let moved = Mut::take_moved(&mut head).unwrap();
    inside.next_mut().set_moved(moved).unwrap();
}

fn into_itself_by_a_lock(tx: &bartender::Tx<'_>, mut head: Mut<'_, Link>) {
    let mut inside = tx.lock(&head.as_deref().unwrap().inner).unwrap();
    let moved = Mut::take_moved(&mut head).unwrap();
    inside.set_moved(moved).unwrap();
}

fn read_while_moved(mut head: Mut<'_, Link>) {
    let node = head.as_deref();
    let moved = Mut::take_moved(&mut head).unwrap();
    drop((node.is_some(), moved));
}

fn main() {}

//! Which thread heap the calling thread has in which heap.
//!
//! It promises that a look-up which hits is one comparison, that a thread's
//! heaps go back when it ends, and that neither order of a thread's end and a
//! heap's end harms. It does not promise a heap to a thread whose thread-local
//! data are being destroyed.

use crate::arena::Arena;
use crate::local::Local;
use std::cell::{Cell, RefCell};
use std::ptr::{NonNull, null};
use std::sync::{Arc, Weak};

thread_local! {
    /// The heap that was used last, and the thread's heap in it. It has nothing
    /// to destroy, so it is there until the thread's very end.
    static LAST: Cell<(u64, *const Local)> = const { Cell::new((0, null())) };
    /// All of them.
    static JOINED: RefCell<Joined> = const { RefCell::new(Joined(Vec::new())) };
}

struct Joined(Vec<One>);

/// One thread heap. `local` lives as long as the arena, and is this thread's
/// until `retire`.
struct One {
    heap: u64,
    arena: Weak<Arena>,
    local: NonNull<Local>,
}

impl Drop for Joined {
    fn drop(&mut self) {
        LAST.set((0, null()));
        for one in self.0.drain(..) {
            // A heap that is gone has taken its thread heaps along; one that is
            // not stays until we are done.
            if let Some(arena) = one.arena.upgrade() {
                // SAFETY: of `join` of this arena, and the thread ends.
                unsafe { arena.retire(one.local) };
            }
        }
    }
}

/// The calling thread's heap in the heap numbered `heap` (numbers are never
/// used again), if that is where it was last.
///
/// # Safety
/// The heap's arena lives as long as the result is used.
#[inline(always)]
pub(crate) unsafe fn last<'a>(heap: u64) -> Option<&'a Local> {
    let (last, local) = LAST.get();
    // SAFETY: the arena, as the caller says, and with it its thread heaps, lives.
    (last == heap).then(|| unsafe { &*local })
}

/// The calling thread's heap in the heap numbered `heap`, if it has one.
///
/// # Safety
/// As [`last`].
pub(crate) unsafe fn search<'a>(heap: u64) -> Option<&'a Local> {
    JOINED
        .try_with(|joined| {
            let joined = joined.borrow();
            let one = joined.0.iter().find(|one| one.heap == heap)?;
            LAST.set((heap, one.local.as_ptr()));
            // SAFETY: as in `last`.
            Some(unsafe { one.local.as_ref() })
        })
        .ok()
        .flatten()
}

/// Gives the calling thread a heap in `arena`, which is the heap numbered
/// `heap`. `None`: the thread is ending.
#[cold]
pub(crate) fn join(heap: u64, arena: &Arc<Arena>) -> Option<&Local> {
    JOINED
        .try_with(|joined| {
            let local = arena.join();
            let mut joined = joined.borrow_mut();
            joined.0.retain(|one| one.arena.strong_count() > 0);
            joined.0.push(One {
                heap,
                arena: Arc::downgrade(arena),
                local,
            });
            LAST.set((heap, local.as_ptr()));
            // SAFETY: it lives as long as the arena.
            unsafe { local.as_ref() }
        })
        .ok()
}

//! Which thread heap the calling thread has in which heap.
//!
//! It promises that a look-up which hits is one comparison, that a thread's
//! heaps go back when it ends, and that neither order of a thread's end and a
//! heap's end harms. It does not promise a heap to a thread whose thread-local
//! data are being destroyed.

mod last;

use crate::arena::Arena;
use crate::local::{Local, NUMBER};
use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

thread_local! {
    /// The thread's heaps.
    static JOINED: RefCell<Joined> = const { RefCell::new(Joined(Vec::new())) };
}

/// As much of a thread heap as is looked at without knowing whose it is: its
/// number, which is that of no heap.
#[repr(align(64))]
struct Nobody(
    #[expect(dead_code, reason = "read as a thread heap's number")] [u64; NUMBER / 8 + 1],
);

static NOBODY: Nobody = Nobody([0; NUMBER / 8 + 1]);

const fn nobody() -> *const Local {
    (&raw const NOBODY).cast()
}

/// *Who may trust `last`*, a word of each thread: it is `NOBODY`, or a thread heap
/// that the thread joined and holds until it ends, when it becomes `NOBODY`.
/// `Joined` shares the thread heap, so while `last` points to it, its memory is
/// not another's, even where the arena is gone: who finds its address in a
/// superblock of a heap that lives has found this thread heap, and who reads its
/// number reads that of the heap that it belongs, or belonged, to.
struct Joined(Vec<One>);

/// One thread heap, this thread's until `retire`.
struct One {
    arena: Weak<Arena>,
    local: Arc<Local>,
}

impl Drop for Joined {
    fn drop(&mut self) {
        last::set(nobody());
        for one in self.0.drain(..) {
            // A heap that is gone has no use for it; one that is not stays until
            // we are done.
            if let Some(arena) = one.arena.upgrade() {
                // Of the shared whole, as `join` gave it: who gets it next shares it
                // again, which a pointer made from a reference to the heap in it may not.
                // SAFETY: not null; of `join` of this arena, and the thread ends.
                unsafe {
                    let local = NonNull::new_unchecked(Arc::as_ptr(&one.local).cast_mut());
                    arena.retire(local);
                }
            }
        }
    }
}

/// The calling thread, as heaps know it.
#[derive(Debug, Clone, Copy)]
pub struct Thread(*const Local);

impl Thread {
    /// The calling thread.
    #[inline(always)]
    pub fn current() -> Thread {
        Thread(last::get())
    }

    /// As [`last`].
    ///
    /// # Safety
    /// As there; and the thread has called nothing of any heap since `current`.
    #[inline(always)]
    pub(crate) unsafe fn last<'a>(self, heap: u64) -> Option<&'a Local> {
        // SAFETY: it points to a number at least, as `Joined` says; if that is the
        // heap's, to a thread heap of it, which lives as long as the arena.
        unsafe { (Local::number_of(self.0) == heap).then(|| &*self.0) }
    }

    /// Whether the thread heap that it used last is the one at `owner`, in a heap
    /// that lives: then that is this thread's, as `Joined` says.
    #[inline(always)]
    pub(crate) fn is_at(self, owner: *const ()) -> bool {
        std::ptr::eq(self.0.cast(), owner)
    }
}

/// The calling thread's heap in the heap numbered `heap` (numbers are never
/// used again), if that is where it was last.
///
/// # Safety
/// The heap's arena lives as long as the result is used.
#[inline(always)]
pub(crate) unsafe fn last<'a>(heap: u64) -> Option<&'a Local> {
    // SAFETY: as the caller says.
    unsafe { Thread::current().last(heap) }
}

/// The calling thread's heap, if it is the one at `owner`.
///
/// # Safety
/// `owner` is a thread heap, or something else, of an arena that lives as long
/// as the result is used.
#[inline(always)]
pub(crate) unsafe fn last_at<'a>(owner: *const ()) -> Option<&'a Local> {
    let thread = Thread::current();
    // SAFETY: of the arena, as the caller says, and this thread's.
    thread.is_at(owner).then(|| unsafe { &*thread.0 })
}

/// The calling thread's heap in the heap numbered `heap`, if it has one.
///
/// # Safety
/// As [`last`].
pub(crate) unsafe fn search<'a>(heap: u64) -> Option<&'a Local> {
    JOINED
        .try_with(|joined| {
            let joined = joined.borrow();
            let one = joined.0.iter().find(|one| one.local.number() == heap)?;
            let local = Arc::as_ptr(&one.local);
            last::set(local);
            // SAFETY: as in `last`.
            Some(unsafe { &*local })
        })
        .ok()
        .flatten()
}

/// Gives the calling thread a heap in `arena`. `None`: the thread is ending.
#[cold]
pub(crate) fn join(arena: &Arc<Arena>) -> Option<&Local> {
    JOINED
        .try_with(|joined| {
            let local = arena.join().as_ptr().cast_const();
            // SAFETY: the arena shares what it returns from `join`.
            let shared = unsafe {
                Arc::increment_strong_count(local);
                Arc::from_raw(local)
            };
            last::set(local);
            let mut joined = joined.borrow_mut();
            // `last` is none of those that go.
            joined.0.retain(|one| one.arena.strong_count() > 0);
            joined.0.push(One {
                arena: Arc::downgrade(arena),
                local: shared,
            });
            // SAFETY: it lives as long as the arena.
            unsafe { &*local }
        })
        .ok()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Miri knows what the pointer that comes back may do.
    #[test]
    fn a_thread_heap_goes_from_thread_to_thread() {
        let arena = Arc::new(Arena::new(8));
        let joined = || {
            std::thread::scope(|scope| {
                let local =
                    scope.spawn(|| join(&arena).map(|local| std::ptr::from_ref(local).addr()));
                local
                    .join()
                    .expect("no panic")
                    .expect("a thread that lives")
            })
        };
        let first = joined();
        assert_eq!(joined(), first);
        assert_eq!(joined(), first);
    }
}

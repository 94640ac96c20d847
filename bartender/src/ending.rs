//! How owned values end that hold others: without deep recursion, however deep they lie in each other.
//!
//! The drop of a box or a collection comes here. Some levels of them are dropped by the calls that drop has anyway; what
//! lies deeper waits in a list of the outermost one, which works it off at its end.
//!
//! What waits is only what holds persistent data, which have no `drop` of their own and borrow nothing: nobody can tell when
//! they end. A box says so of its contents by its type, and so it is of all that lies within them. An owned collection that is in no
//! box takes other values, too, whose `drop` may count on what stands beside it: it ends when Rust says so, and by
//! recursion, as std's does. So does what lies, with its own bytes, in no block that is being ended.
//!
//! If a drop panics, what waits is leaked.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr;

/// An owned box or collection.
pub(crate) trait Owner {
    /// Whether what it holds has anything to be dropped.
    const DEEP: bool;

    /// Whether all of that is known to be persistent.
    const PERSISTENT: bool;

    /// Drops what it holds, [`inside`] of the blocks where that is, and gives the blocks back.
    ///
    /// # Safety
    ///
    /// It is owned, and not used after.
    unsafe fn end(&mut self);
}

/// Levels that end by recursion: for them nothing is to be noted, and few values are deeper.
const LEVELS: usize = 16;

/// Words of the largest owner.
const WORDS: usize = 5;

/// An owner of persistent data that waits: its bytes, and what ends it.
struct Task {
    owner: [MaybeUninit<u64>; WORDS],
    end: unsafe fn(*mut u64),
}

/// What is being ended on this thread.
#[derive(Clone, Copy)]
struct Around {
    /// The innermost block.
    start: usize,
    len: usize,
    /// Levels around it.
    level: usize,
    /// What is being ended holds persistent data.
    persistent: bool,
    /// The list of the outermost one.
    waiting: *mut Vec<Task>,
}

thread_local! {
    static AROUND: Cell<Around> = const {
        Cell::new(Around {
            start: 0,
            len: 0,
            level: 0,
            persistent: false,
            waiting: ptr::null_mut(),
        })
    };
}

/// Puts back what was around.
struct Back(Around);

impl Drop for Back {
    fn drop(&mut self) {
        AROUND.set(self.0);
    }
}

/// Ends an owner, now or when the outermost one of this thread comes to it.
///
/// # Safety
///
/// It is owned, and not used after.
#[inline]
pub(crate) unsafe fn end<T: Owner>(this: &mut T) {
    if T::DEEP {
        // SAFETY: passed on.
        unsafe { end_deep(this) }
    } else {
        // SAFETY: passed on.
        unsafe { this.end() }
    }
}

unsafe fn end_deep<T: Owner>(this: &mut T) {
    unsafe fn end_at<T: Owner>(at: *mut u64) {
        // SAFETY: the bytes of an owned one, which nobody else has.
        unsafe { (*at.cast::<T>()).end() }
    }
    const {
        assert!(size_of::<T>() <= WORDS * size_of::<u64>());
        assert!(align_of::<T>() <= align_of::<u64>());
    }
    let around = AROUND.get();
    if ptr::from_mut(this).addr().wrapping_sub(around.start) >= around.len {
        let mut tasks = Vec::new();
        let waiting = &raw mut tasks;
        let _back = Back(around);
        let outermost = Around {
            start: 0,
            len: 0,
            level: 0,
            persistent: T::PERSISTENT,
            waiting,
        };
        AROUND.set(outermost);
        // SAFETY: the caller's promise, and that of those who wait. Nobody else uses the list while it is looked at.
        unsafe {
            this.end();
            while let Some(mut task) = (*waiting).pop() {
                AROUND.set(Around {
                    persistent: true,
                    ..outermost
                });
                (task.end)(task.owner.as_mut_ptr().cast());
            }
        }
        return;
    }
    let persistent = around.persistent || T::PERSISTENT;
    if around.level < LEVELS || !persistent {
        let _back = Back(around);
        let level = around.level + 1;
        AROUND.set(Around {
            level,
            persistent,
            ..around
        });
        // SAFETY: passed on.
        unsafe { this.end() }
    } else {
        let mut owner = [const { MaybeUninit::uninit() }; WORDS];
        // SAFETY: there is room for all its bytes, and it is not used after. The list is that of a call further out, which
        // does not look at it meanwhile.
        unsafe {
            let bytes = ptr::from_mut(this).cast::<u8>();
            bytes.copy_to_nonoverlapping(owner.as_mut_ptr().cast(), size_of::<T>());
            let end = end_at::<T>;
            (*around.waiting).push(Task { owner, end });
        }
    }
}

/// Runs `drop`, which drops the elements in a block of the owner that is being ended.
#[inline]
pub(crate) fn inside(start: *const u8, len: usize, drop: impl FnOnce()) {
    let around = AROUND.get();
    let _back = Back(around);
    let start = start.addr();
    AROUND.set(Around {
        start,
        len,
        ..around
    });
    drop();
}

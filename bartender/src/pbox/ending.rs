//! How owned boxes end: one after the other, however deep they lie in each other.
//!
//! The drop of a value that holds boxes comes back here for each of them. Only the first one, the outermost, is worked on;
//! those that are met meanwhile wait in its list. That is sound because what is in a box is persistent data, which have no
//! `Drop` of their own: between the first box's drop and the last one's no foreign code runs that could miss what waits.
//! What is ended late was owned by nobody else, and borrows nothing.

use std::cell::Cell;
use std::ptr;

/// A block that waits.
struct Task {
    block: *mut u8,
    len: usize,
    end: End,
}

/// Drops the `len` values in an owned block, and gives it back.
pub(crate) type End = unsafe fn(*mut u8, usize);

thread_local! {
    /// The list of the outermost box whose drop runs on this thread.
    static WAITING: Cell<*mut Vec<Task>> = const { Cell::new(ptr::null_mut()) };
}

/// Runs `end` for a block, now or when the outermost drop of this thread comes to it.
///
/// # Safety
///
/// The block is owned, `end` is for it, and nobody uses it after. Its values have no code of their own to be dropped.
pub(crate) unsafe fn end(block: *mut u8, len: usize, end: End) {
    let waiting = WAITING.get();
    if !waiting.is_null() {
        // SAFETY: the list of a call further out, which does not touch it while it runs a task.
        unsafe { (*waiting).push(Task { block, len, end }) };
        return;
    }
    struct Done;
    impl Drop for Done {
        fn drop(&mut self) {
            WAITING.set(ptr::null_mut());
        }
    }
    let mut tasks = vec![];
    let waiting = &raw mut tasks;
    WAITING.set(waiting);
    let _done = Done;
    // SAFETY: the caller's promise, and that of those who waited.
    unsafe {
        end(block, len);
        while let Some(task) = (*waiting).pop() {
            (task.end)(task.block, task.len);
        }
    }
}

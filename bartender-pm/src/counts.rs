//! What an operation cost: barriers, flushed lines, bytes and system calls of
//! the calling thread. They repeat exactly, so tests assert them.
//!
//! The counters are thread-local cells, always on; an increment is one
//! instruction on a line nobody else touches.

use std::cell::Cell;

/// Costs of the calling thread so far, or the difference of two readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Waits until bytes are durable: a fence after flushes or non-temporal
    /// stores on DAX, a release fence in shared memory, a synchronous write or
    /// a data sync on a file.
    pub barriers: u64,
    /// 64-byte lines written back, or written past the cache.
    pub lines: u64,
    /// Bytes appended to the log, padding included.
    pub log_bytes: u64,
    /// System calls made by this crate.
    pub syscalls: u64,
}

struct Cells {
    barriers: Cell<u64>,
    lines: Cell<u64>,
    log_bytes: Cell<u64>,
    syscalls: Cell<u64>,
}

thread_local! {
    static CELLS: Cells = const {
        Cells {
            barriers: Cell::new(0),
            lines: Cell::new(0),
            log_bytes: Cell::new(0),
            syscalls: Cell::new(0),
        }
    };
}

impl Counts {
    /// The calling thread's counters now.
    pub fn now() -> Counts {
        CELLS.with(|c| Counts {
            barriers: c.barriers.get(),
            lines: c.lines.get(),
            log_bytes: c.log_bytes.get(),
            syscalls: c.syscalls.get(),
        })
    }

    /// What was spent since `earlier`.
    pub fn since(self, earlier: Counts) -> Counts {
        Counts {
            barriers: self.barriers - earlier.barriers,
            lines: self.lines - earlier.lines,
            log_bytes: self.log_bytes - earlier.log_bytes,
            syscalls: self.syscalls - earlier.syscalls,
        }
    }

    /// What the calling thread spends in `f`.
    pub fn of<R>(f: impl FnOnce() -> R) -> (R, Counts) {
        let before = Counts::now();
        let value = f();
        (value, Counts::now().since(before))
    }
}

#[inline]
pub(crate) fn barrier() {
    CELLS.with(|c| c.barriers.set(c.barriers.get() + 1));
}

#[inline]
pub(crate) fn lines(n: u64) {
    CELLS.with(|c| c.lines.set(c.lines.get() + n));
}

#[inline]
pub(crate) fn log_bytes(n: u64) {
    CELLS.with(|c| c.log_bytes.set(c.log_bytes.get() + n));
}

#[inline]
pub(crate) fn syscall() {
    CELLS.with(|c| c.syscalls.set(c.syscalls.get() + 1));
}

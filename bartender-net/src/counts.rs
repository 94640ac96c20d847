//! What an operation over TCP cost the calling thread: system calls on sockets, and kicks of a connection's task. They
//! repeat exactly, so tests assert them. The same idea as `bartender_pm::counts`.

use std::cell::Cell;

/// Costs of the calling thread so far, or the difference of two readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Writes to sockets, those included that found no room.
    pub writes: u64,
    /// Reads from sockets that brought bytes or an end.
    pub reads: u64,
    /// Times a connection's task had to be asked to go on with what the socket did not take.
    pub kicks: u64,
}

thread_local! {
    static COUNTS: Cell<Counts> = const { Cell::new(Counts { writes: 0, reads: 0, kicks: 0 }) };
}

impl Counts {
    /// The calling thread's counters now.
    pub fn now() -> Counts {
        COUNTS.get()
    }

    /// What was spent since `earlier`.
    pub fn since(self, earlier: Counts) -> Counts {
        Counts {
            writes: self.writes - earlier.writes,
            reads: self.reads - earlier.reads,
            kicks: self.kicks - earlier.kicks,
        }
    }

    /// What the calling thread spends in `f`.
    pub fn of<R>(f: impl FnOnce() -> R) -> (R, Counts) {
        let before = Counts::now();
        let value = f();
        (value, Counts::now().since(before))
    }

    fn add(change: impl FnOnce(&mut Counts)) {
        let mut counts = COUNTS.get();
        change(&mut counts);
        COUNTS.set(counts);
    }
}

#[inline]
pub(crate) fn write() {
    Counts::add(|c| c.writes += 1);
}

#[inline]
pub(crate) fn read() {
    Counts::add(|c| c.reads += 1);
}

#[inline]
pub(crate) fn kick() {
    Counts::add(|c| c.kicks += 1);
}

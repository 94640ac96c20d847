//! A counter of events that threads sleep on.
//!
//! Unlike a condition variable it has no lock that all who are woken must take
//! one after the other: eight threads that wait for one write would otherwise
//! be put to sleep twice.
//!
//! Why no wake-up is lost. A sleeper counts itself in `sleepers`, and then the
//! kernel compares `turn` with what it saw; an event changes `turn`, and then
//! reads `sleepers`. All four are sequentially consistent (the kernel's
//! comparison is, with its own lock), so one of the two sees the other.

#[cfg(not(any(loom, miri)))]
mod imp {
    use crate::sync::atomic::{AtomicU32, Ordering};
    use rustix::thread::futex;

    /// Counts events; threads sleep until the next one.
    #[derive(Debug, Default)]
    pub struct Turn {
        turn: AtomicU32,
        sleepers: AtomicU32,
    }

    impl Turn {
        /// The number of events so far, modulo 2^32.
        pub fn now(&self) -> u32 {
            self.turn.load(Ordering::Acquire)
        }

        /// Sleeps until there was an event after [`now`](Self::now) said `seen`.
        pub fn wait(&self, seen: u32) {
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            while self.turn.load(Ordering::SeqCst) == seen {
                // Any error means that it has to be looked at again.
                let _ = futex::wait(&self.turn, futex::Flags::PRIVATE, seen, None);
            }
            self.sleepers.fetch_sub(1, Ordering::Relaxed);
        }

        /// An event: wakes all who wait. A system call if there are any.
        pub fn advance(&self) {
            self.turn.fetch_add(1, Ordering::SeqCst);
            if self.sleepers.load(Ordering::SeqCst) != 0 {
                let _ = futex::wake(&self.turn, futex::Flags::PRIVATE, i32::MAX as u32);
            }
        }
    }
}

/// For loom and Miri, which know no futex.
#[cfg(any(loom, miri))]
mod imp {
    use crate::sync::{Condvar, Mutex};

    /// Counts events; threads sleep until the next one.
    #[derive(Debug, Default)]
    pub struct Turn {
        turn: Mutex<u32>,
        changed: Condvar,
    }

    impl Turn {
        /// The number of events so far, modulo 2^32.
        pub fn now(&self) -> u32 {
            *self.turn.lock()
        }

        /// Sleeps until there was an event after [`now`](Self::now) said `seen`.
        pub fn wait(&self, seen: u32) {
            let mut turn = self.turn.lock();
            while *turn == seen {
                turn = self.changed.wait(turn);
            }
        }

        /// An event: wakes all who wait.
        pub fn advance(&self) {
            *self.turn.lock() += 1;
            self.changed.notify_all();
        }
    }
}

pub use imp::Turn;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Turn;
    use crate::sync::Arc;
    use crate::sync::atomic::{AtomicU32, Ordering};
    use crate::sync::thread;

    #[test]
    fn nobody_sleeps_through_an_event() {
        const ROUNDS: u32 = if cfg!(miri) { 20 } else { 2000 };
        let shared = Arc::new((Turn::default(), AtomicU32::new(0)));
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (turn, value) = &*shared;
                    loop {
                        let seen = turn.now();
                        if value.load(Ordering::Acquire) == ROUNDS {
                            return;
                        }
                        turn.wait(seen);
                    }
                })
            })
            .collect();
        let (turn, value) = &*shared;
        for _ in 0..ROUNDS {
            value.fetch_add(1, Ordering::Release);
            turn.advance();
        }
        for waiter in waiters {
            waiter.join().expect("no waiter panics");
        }
    }
}

//! The gate that writers pass: it can be closed for a moment (to give pages of
//! the view back) or for good (to close the region).
//!
//! Who may touch what. `slots[i]` is 1 while a writer holds slot `i`: whoever
//! swaps 0 for 1 owns it, and only the owner stores 0. `overflow` counts the
//! writers that found no free slot. `closed` is stored by who holds `closer`.
//!
//! Why no writer slips through. A writer takes its slot, then a full fence,
//! then reads `closed`; the closer stores `closed`, then a full fence, then
//! reads the slots. One of the two sees the other: either the writer sees the
//! gate closed and steps back, or the closer sees the slot taken and waits
//! (Dekker). The slot's release store on leaving and the closer's acquire load
//! make everything the writer did visible to the closer.

use crate::sync::atomic::{AtomicU32, Ordering, fence};
use crate::sync::{Condvar, Mutex, MutexGuard, thread};
use std::time::{Duration, Instant};

/// A cache-line pair of its own: adjacent lines are fetched together.
#[repr(align(128))]
#[derive(Debug)]
struct Slot(AtomicU32);

const OPEN: u32 = 0;
const SHUT: u32 = 1;
const GONE: u32 = 2;

#[derive(Debug)]
pub(crate) struct Gate {
    slots: Box<[Slot]>,
    overflow: AtomicU32,
    closed: AtomicU32,
    closer: Mutex<()>,
    reopened: Condvar,
}

/// A writer's place inside the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Slot `i` alone.
    Slot(usize),
    /// One of those that found no slot.
    Overflow,
}

/// The gate was closed for good.
#[derive(Debug)]
pub(crate) struct Gone;

impl Gate {
    pub(crate) fn new(slots: usize) -> Gate {
        Gate {
            slots: (0..slots).map(|_| Slot(AtomicU32::new(0))).collect(),
            overflow: AtomicU32::new(0),
            closed: AtomicU32::new(OPEN),
            closer: Mutex::new(()),
            reopened: Condvar::new(),
        }
    }

    /// Enters, if possible by the slot `hint` points at; waits while shut.
    #[inline]
    pub(crate) fn enter(&self, hint: usize) -> Result<Place, Gone> {
        loop {
            let place = self.take(hint);
            full_fence_after_rmw();
            // Relaxed: the fence above orders it after the taking.
            if self.closed.load(Ordering::Relaxed) == OPEN {
                return Ok(place);
            }
            self.leave(place);
            self.wait_open()?;
        }
    }

    #[inline]
    fn take(&self, hint: usize) -> Place {
        let n = self.slots.len();
        for i in 0..n {
            let i = (hint + i) % n;
            let slot = &self.slots[i].0;
            // Acquire: sees the previous owner's lane state.
            if slot.load(Ordering::Relaxed) == 0 && slot.swap(1, Ordering::AcqRel) == 0 {
                return Place::Slot(i);
            }
        }
        self.overflow.fetch_add(1, Ordering::AcqRel);
        Place::Overflow
    }

    #[cold]
    fn wait_open(&self) -> Result<(), Gone> {
        let mut guard = self.closer.lock();
        loop {
            match self.closed.load(Ordering::Relaxed) {
                OPEN => return Ok(()),
                GONE => return Err(Gone),
                _ => guard = self.reopened.wait(guard),
            }
        }
    }

    /// A place for whoever has closed the gate for good.
    pub(crate) fn admit_last(&self) -> Place {
        self.overflow.fetch_add(1, Ordering::AcqRel);
        Place::Overflow
    }

    /// Leaves.
    #[inline]
    pub(crate) fn leave(&self, place: Place) {
        match place {
            Place::Slot(i) => self.slots[i].0.store(0, Ordering::Release),
            Place::Overflow => {
                self.overflow.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    /// Shuts the gate, waits at most `patience` for the writers inside to
    /// leave, runs `f`, opens again. `None`: somebody stayed inside, or the
    /// gate is closed for good; `f` did not run.
    pub(crate) fn shut_for<R>(&self, patience: Duration, f: impl FnOnce() -> R) -> Option<R> {
        let guard = self.closer_within(patience)?;
        if self.closed.load(Ordering::Relaxed) != OPEN {
            return None;
        }
        self.closed.store(SHUT, Ordering::Relaxed);
        let result = self.wait_empty(Some(patience)).then(f);
        self.closed.store(OPEN, Ordering::Relaxed);
        drop(guard);
        self.reopened.notify_all();
        result
    }

    /// The closer's lock, if it can be had within `patience`. Another closer
    /// may wait for a writer who waits for this thread: the background thread
    /// makes space in the log.
    fn closer_within(&self, patience: Duration) -> Option<MutexGuard<'_, ()>> {
        let start = Instant::now();
        loop {
            let guard = self.closer.try_lock();
            if guard.is_some() || start.elapsed() > patience {
                return guard;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Shuts the gate for good and waits for the writers inside. `false`: it
    /// was closed before.
    pub(crate) fn close(&self) -> bool {
        let guard = self.closer.lock();
        if self.closed.load(Ordering::Relaxed) == GONE {
            return false;
        }
        self.closed.store(GONE, Ordering::Relaxed);
        self.wait_empty(None);
        drop(guard);
        self.reopened.notify_all();
        true
    }

    fn wait_empty(&self, patience: Option<Duration>) -> bool {
        if crate::mutant::is("impatient_gate") {
            return true;
        }
        fence(Ordering::SeqCst);
        let start = Instant::now();
        let mut spins = 0u32;
        loop {
            let inside = self.overflow.load(Ordering::Acquire) != 0
                || self.slots.iter().any(|s| s.0.load(Ordering::Acquire) != 0);
            if !inside {
                return true;
            }
            if patience.is_some_and(|p| start.elapsed() > p) {
                return false;
            }
            spins += 1;
            if cfg!(loom) || spins < 100 {
                thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }
}

/// A sequentially consistent fence behind a locked read-modify-write. On
/// x86-64 the locked instruction is one already, so only the compiler has to
/// be told; elsewhere, and under loom, it is a real fence.
#[inline(always)]
fn full_fence_after_rmw() {
    if cfg!(all(target_arch = "x86_64", not(loom), not(miri))) {
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::sync::{Arc, UnsafeCell};

    /// The closer of the gate never runs beside a writer, and a writer that
    /// entered before is seen whole.
    #[test]
    fn loom_gate_excludes_writers() {
        writers_against_the_closer();
    }

    /// The same with a closer that does not wait.
    #[test]
    #[should_panic]
    fn loom_a_closer_that_does_not_wait_is_noticed() {
        crate::mutant::with("impatient_gate", writers_against_the_closer);
    }

    fn writers_against_the_closer() {
        loom::model(|| {
            let gate = Arc::new(Gate::new(1));
            let data = Arc::new(UnsafeCell::new(0u32));
            let write = || {
                let (gate, data) = (gate.clone(), data.clone());
                move || {
                    let Ok(place) = gate.enter(0) else { return };
                    // SAFETY: the model checks this very claim.
                    data.with_mut(|d| unsafe { *d += 1 });
                    gate.leave(place);
                }
            };
            let closer = {
                let (gate, data) = (gate.clone(), data.clone());
                thread::spawn(move || {
                    assert!(gate.close());
                    // SAFETY: as above.
                    data.with(|d| unsafe { assert!(*d <= 1) });
                })
            };
            let writer = thread::spawn(write());
            writer.join().expect("the model's thread");
            closer.join().expect("the model's thread");
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn more_writers_than_slots_all_count() {
        let gate = Gate::new(1);
        let a = gate.enter(0).expect("open");
        let b = gate.enter(0).expect("open");
        assert_eq!((a, b), (Place::Slot(0), Place::Overflow));
        assert!(gate.shut_for(Duration::from_millis(1), || ()).is_none());
        gate.leave(a);
        assert!(gate.shut_for(Duration::from_millis(1), || ()).is_none());
        gate.leave(b);
        assert!(gate.shut_for(Duration::from_millis(1), || ()).is_some());
        assert!(gate.close());
        assert!(gate.enter(0).is_err());
        assert!(!gate.close());
    }

    /// The background thread is the one with little patience: who is inside may
    /// wait for it, because the log is full.
    #[test]
    fn who_has_little_patience_does_not_wait_for_another_closer() {
        let gate = Gate::new(1);
        let inside = gate.enter(0).expect("open");
        std::thread::scope(|scope| {
            let patient = scope.spawn(|| gate.shut_for(Duration::from_secs(3), || ()));
            while gate.closed.load(Ordering::Relaxed) != SHUT {
                thread::yield_now();
            }
            assert!(gate.shut_for(Duration::from_millis(1), || ()).is_none());
            let waits = gate.closed.load(Ordering::Relaxed) == SHUT;
            gate.leave(inside);
            assert!(patient.join().expect("no panic").is_some() && waits);
        });
    }
}

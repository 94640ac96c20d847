//! A part of the table: its spin lock, and where its waiters sleep.

use super::entry::Entries;
use super::{Position, SPINS};
#[cfg(not(loom))]
use bartender_pm::sync::atomic::AtomicBool;
use bartender_pm::sync::atomic::{AtomicU64, Ordering};
use bartender_pm::sync::hint;
#[cfg(not(loom))]
use bartender_pm::sync::thread;
use bartender_pm::sync::{Condvar, Mutex, UnsafeCell};

/// A spin lock: taken for a few loads and stores, given back by a plain store.
#[cfg(not(loom))]
#[derive(Debug, Default)]
struct Busy(AtomicBool);

#[cfg(not(loom))]
struct Taken<'a>(&'a AtomicBool);

#[cfg(not(loom))]
impl Busy {
    #[inline]
    fn take(&self) -> Taken<'_> {
        if self.0.swap(true, Ordering::Acquire) {
            self.spin();
        }
        Taken(&self.0)
    }

    #[cold]
    fn spin(&self) {
        let mut tries = 0u32;
        while self.0.swap(true, Ordering::Acquire) {
            while self.0.load(Ordering::Relaxed) {
                tries += 1;
                if tries.is_multiple_of(64) {
                    thread::yield_now();
                }
                hint::spin_loop();
            }
        }
    }
}

#[cfg(not(loom))]
impl Drop for Taken<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Under loom a lock that blocks: a model cannot follow a spinning thread.
#[cfg(loom)]
#[derive(Debug, Default)]
struct Busy(Mutex<()>);

#[cfg(loom)]
impl Busy {
    fn take(&self) -> bartender_pm::sync::MutexGuard<'_, ()> {
        self.0.lock()
    }
}

/// A part of the table.
///
/// `entries` is touched under `busy` only, for a few loads and stores; nobody sleeps with it. Waiters sleep on
/// `changed` until `generation` is another one than they saw under `busy`; it changes under `sleepers`, after
/// the entry has changed, so no change is missed. Order: `busy`, then `Table::numbers` or `sleepers`.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Shard<P> {
    busy: Busy,
    entries: UnsafeCell<Entries<P>>,
    pub(super) generation: AtomicU64,
    sleepers: Mutex<usize>,
    changed: Condvar,
}

// SAFETY: the entries are reached under `busy` only; owners are never freed and are atomics.
unsafe impl<P: Send> Sync for Shard<P> {}
// SAFETY: as above.
unsafe impl<P: Send> Send for Shard<P> {}

impl<P: Position> Shard<P> {
    pub(super) fn new() -> Self {
        Shard {
            busy: Busy::default(),
            entries: UnsafeCell::new(Entries::new()),
            generation: AtomicU64::new(0),
            sleepers: Mutex::new(0),
            changed: Condvar::new(),
        }
    }

    #[inline]
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Entries<P>) -> R) -> R {
        let busy = self.busy.take();
        // SAFETY: `busy` is ours until it is dropped below.
        let result = self.entries.with_mut(|entries| f(unsafe { &mut *entries }));
        drop(busy);
        result
    }

    /// Wakes all waiters of the shard.
    #[cold]
    pub(super) fn wake(&self) {
        let sleepers = self.sleepers.lock();
        self.generation.fetch_add(1, Ordering::AcqRel);
        if *sleepers != 0 {
            self.changed.notify_all();
        }
    }

    /// Sleeps until [`wake`](Self::wake) is called after `seen` was read.
    pub(super) fn sleep(&self, seen: u64) {
        for _ in 0..SPINS {
            if self.generation.load(Ordering::Relaxed) != seen {
                return;
            }
            hint::spin_loop();
        }
        let mut sleepers = self.sleepers.lock();
        *sleepers += 1;
        while self.generation.load(Ordering::Relaxed) == seen {
            sleepers = self.changed.wait(sleepers);
        }
        *sleepers -= 1;
    }
}

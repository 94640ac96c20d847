//! Crash tests of your own structures: the crash simulator over a typed heap.
//!
//! A [`CrashTest`] runs a workload once on a simulated medium, which remembers every write and every barrier. Then it
//! opens, one after the other, the images that a crash of that run could have left, and hands each recovered heap to a
//! check, with what had been acknowledged before that crash. Recovery itself is crashed too.
//!
//! On persistent memory ([`SimKind::Dax`]) any subset of the 8-byte words that no barrier had covered may have survived,
//! on a disk ([`SimKind::Disk`]) any subset of the 512-byte sectors. All subsets are tried where they are few, and else
//! a sample drawn from a seed.
//!
//! For every image it is shown, besides what your check says, that the heap opens, that its check passes (nothing is
//! leaked, everything is well-formed), and that the same is there after a second crash and after a clean close.
//! It does not show that threads keep out of each other's way: that is what locks are for.
//!
//! ```
//! use bartender::testing::{CrashTest, SimKind};
//! use bartender::{Heap, PMutex, PVec};
//!
//! let explored = CrashTest::new(SimKind::Disk)
//!     .run(|heap: &Heap<PMutex<PVec<u64>>>, acks| {
//!         for n in 1..=3 {
//!             heap.update(|mut list| list.push(n)).unwrap();
//!             acks.acknowledge(n);
//!         }
//!     })
//!     .check(|heap, acked| {
//!         let list = heap.read();
//!         // Everything acknowledged is there, and at most the one that was on its way.
//!         assert!(list.len() - acked.len() <= 1);
//!         assert!(list.iter().copied().eq(1..=list.len() as u64));
//!     });
//! println!("{explored}");
//! assert!(explored.images > 20);
//! ```

use crate::heap::{Heap, Options};
use crate::persist::Persist;
use bartender_pm::Durability;
use bartender_pm::medium::sim::{Bound, Crash, Event, Image, SimMedium, SimMemory};
use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

pub use bartender_pm::medium::sim::{SimKind, Trace};

/// Every so many images of a crash point, the crashes of its recovery are explored.
const RECOVERY_EVERY: usize = 5;
/// Every so many images of a crash point, the heap is crashed again, closed and reopened after the check.
const REOPEN_EVERY: usize = 3;

/// A crash test: where it runs and how far it goes. See the [module](self).
#[derive(Debug, Clone)]
#[must_use]
pub struct CrashTest {
    kind: SimKind,
    max_size: u64,
    log_size: u64,
    durability: Durability,
    bound: Bound,
}

impl CrashTest {
    /// A test on a simulated medium of this kind.
    pub fn new(kind: SimKind) -> Self {
        CrashTest {
            kind,
            max_size: 8 << 20,
            log_size: 64 << 10,
            durability: Durability::Immediate,
            bound: Bound {
                images_per_point: 16,
                ..Bound::default()
            },
        }
    }

    /// Bytes that the region may grow to. Default 8 MiB. Each image costs the time to copy what is in use.
    pub fn max_size(mut self, bytes: u64) -> Self {
        self.max_size = bytes;
        self
    }

    /// Bytes of log. Default 64 KiB.
    pub fn log_size(mut self, bytes: u64) -> Self {
        self.log_size = bytes;
        self
    }

    /// When commits are answered. Default: when they are durable.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Images of each crash point, at most. Default 16. Crash points are before each barrier and each acknowledgement.
    pub fn images_per_point(mut self, images: usize) -> Self {
        self.bound.images_per_point = images;
        self
    }

    /// Crash points at most, spread evenly over the run. Default: all.
    pub fn points(mut self, points: usize) -> Self {
        self.bound.points = points;
        self
    }

    /// Seed of the sample where there are more images than are visited. It is printed when a check fails.
    pub fn seed(mut self, seed: u64) -> Self {
        self.bound.seed = seed;
        self
    }

    fn open<R: Persist + Default>(&self, medium: Arc<SimMedium>) -> crate::Result<Heap<R>> {
        let options: Options<R> = Heap::options();
        options
            .max_size(self.max_size)
            .log_size(self.log_size)
            .durability(self.durability)
            .background(false)
            .open_on(medium, R::default)
    }

    /// Runs `workload` on a new heap with a default root, without a crash, then closes it, and remembers what happened
    /// to the medium. The workload acknowledges what must survive from then on.
    ///
    /// # Panics
    ///
    /// If the workload does, or the heap cannot be created.
    pub fn run<R: Persist + Default>(
        self,
        workload: impl FnOnce(&Heap<R>, &Acks<'_>),
    ) -> Crashes<R> {
        let memory = SimMemory::new(self.max_size);
        let medium = SimMedium::new(self.kind, Image::default(), &memory);
        let heap = self.open(medium.clone()).expect("a new heap");
        workload(&heap, &Acks { medium: &medium });
        heap.close().expect("closes");
        let trace = medium.trace();
        Crashes {
            test: self,
            memory,
            trace,
            root: PhantomData,
        }
    }
}

/// Where a workload tells what it was promised.
#[derive(Debug)]
pub struct Acks<'a> {
    medium: &'a SimMedium,
}

impl Acks<'_> {
    /// From here on `n` is told to the check of every crash. Call it when a transaction has returned `Ok`, or when
    /// something was read: both must survive.
    pub fn acknowledge(&self, n: u64) {
        self.medium.note(n);
    }
}

/// A run that is to be crashed.
#[derive(Debug)]
#[must_use]
pub struct Crashes<R> {
    test: CrashTest,
    /// Where the view is, the same before and after each crash: pointers are addresses.
    memory: Arc<SimMemory>,
    trace: Trace,
    root: PhantomData<fn() -> R>,
}

/// How far an exploration went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Explored {
    /// Images of the run that were recovered and checked.
    pub images: u64,
    /// Images of crashes during recovery that were recovered and checked.
    pub in_recovery: u64,
    /// Images that were crashed again, closed, and reopened after the check.
    pub reopened: u64,
    /// Barriers of the run.
    pub barriers: u64,
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} crash images of {} barriers, {} of recoveries, {} crashed again and reopened",
            self.images, self.barriers, self.in_recovery, self.reopened
        )
    }
}

impl<R: Persist + Default> Crashes<R> {
    /// Recovers every image and calls `check` with the heap and what was acknowledged before the crash, in order.
    /// `check` may change the heap, too: it is alive.
    ///
    /// # Panics
    ///
    /// If `check` panics, or an image does not open or does not pass the heap's own check. The message names the crash
    /// and the seed.
    pub fn check(self, check: impl FnMut(&Heap<R>, &[u64])) -> Explored {
        match self.try_check(check) {
            Ok(explored) => explored,
            Err(what) => panic!("{what}"),
        }
    }

    /// [`check`](Self::check) with an error instead of a panic: for tests that something broken is noticed.
    ///
    /// # Errors
    ///
    /// What is wrong with which image.
    pub fn try_check(self, mut check: impl FnMut(&Heap<R>, &[u64])) -> Result<Explored, String> {
        let mut explored = Explored {
            barriers: self.barriers(),
            ..Explored::default()
        };
        let images = self.trace.explore(self.test.bound, |crash| {
            self.check_one(&crash, &mut check, &mut explored)
        })?;
        explored.images = images;
        Ok(explored)
    }

    /// What happened to the medium.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    fn barriers(&self) -> u64 {
        let barrier = |event: &&Event| matches!(event, Event::Persist(_));
        self.trace.events().iter().filter(barrier).count() as u64
    }

    fn check_one(
        &self,
        crash: &Crash<'_>,
        check: &mut impl FnMut(&Heap<R>, &[u64]),
        explored: &mut Explored,
    ) -> Result<(), String> {
        let medium = self.medium(crash.image.clone());
        let heap = self.recover(&medium)?;
        let recovery = crash
            .nth
            .is_multiple_of(RECOVERY_EVERY)
            .then(|| medium.trace());
        guarded(|| check(&heap, crash.notes))?;
        if crash.nth % REOPEN_EVERY == 1 {
            heap.check().map_err(|e| format!("after the check: {e}"))?;
            let live = heap.stats().live_blocks;
            let image = medium.image();
            drop((heap, medium));
            self.reopen(image, live)?;
            explored.reopened += 1;
        } else {
            drop((heap, medium));
        }
        if let Some(recovery) = recovery {
            let bound = Bound {
                images_per_point: 4,
                points: 6,
                seed: crash.event as u64,
            };
            explored.in_recovery += recovery.explore(bound, |again| {
                let medium = self.medium(again.image);
                medium.stop_recording();
                let heap = self.recover(&medium)?;
                guarded(|| check(&heap, crash.notes)).map_err(|e| format!("in recovery: {e}"))
            })?;
        }
        Ok(())
    }

    /// Crashes once more, then closes, and finds the same each time.
    fn reopen(&self, image: Image, live: u64) -> Result<(), String> {
        let medium = self.medium(image);
        medium.stop_recording();
        let heap = self.recover(&medium)?;
        let found = heap.stats().live_blocks;
        if found != live {
            return Err(format!("{live} live blocks, {found} after one more crash"));
        }
        heap.close().map_err(|e| format!("does not close: {e}"))?;
        let image = medium.image();
        drop(medium);
        let medium = self.medium(image);
        medium.stop_recording();
        let heap = self.recover(&medium)?;
        let found = heap.stats().live_blocks;
        if found != live {
            return Err(format!("{live} live blocks, {found} after a clean close"));
        }
        if heap.report().heap.marked {
            return Err("marked after a clean close".to_owned());
        }
        Ok(())
    }

    fn medium(&self, image: Image) -> Arc<SimMedium> {
        SimMedium::new(self.test.kind, image, &self.memory)
    }

    fn recover(&self, medium: &Arc<SimMedium>) -> Result<Heap<R>, String> {
        let heap: Heap<R> = self
            .test
            .open(medium.clone())
            .map_err(|e| format!("does not open: {e}"))?;
        heap.check().map_err(|e| format!("does not pass: {e}"))?;
        Ok(heap)
    }
}

/// A panic's message becomes an error.
fn guarded(f: impl FnOnce()) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "the check panicked".to_owned())
}

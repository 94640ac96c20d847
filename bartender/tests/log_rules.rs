//! Rules of the log and the view that show only with several threads, at the level of the typed heap: each with the
//! test that fails without it, and the mutant that proves that.

#![cfg(not(loom))]

use bartender::{Error, Heap, PMutex, PRcu, PRwLock, PVec, Result};
use bartender_pm::medium::sim::{Bound, Image, SimKind, SimMedium, SimMemory};
use bartender_pm::{LogStyle, Medium, MediumKind, ViewSource, mutant};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;

/// The simulated medium with a bar across its log: appends wait until it is raised.
#[derive(Debug)]
struct Barred {
    inner: Arc<SimMedium>,
    bar: Mutex<Bar>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Bar {
    down: bool,
    waiting: usize,
    shown: bool,
}

impl Barred {
    fn lower(&self) {
        self.bar.lock().unwrap().down = true;
    }

    /// Until an append waits.
    fn await_append(&self) {
        let bar = self.bar.lock().unwrap();
        drop(
            self.changed
                .wait_while(bar, |bar| bar.waiting == 0)
                .unwrap(),
        );
    }

    /// A reader was shown `n`.
    fn show(&self, n: u64) {
        self.inner.note(n);
        self.bar.lock().unwrap().shown = true;
        self.changed.notify_all();
    }

    /// Raises the bar when a reader was shown something, or after a moment: readers that wait as they should cannot be
    /// waited for. (How long it is does not decide whether the test passes, only what it notices.)
    fn raise(&self, moment: Duration) {
        let bar = self.bar.lock().unwrap();
        let (mut bar, _) = self
            .changed
            .wait_timeout_while(bar, moment, |bar| !bar.shown)
            .unwrap();
        bar.down = false;
        self.changed.notify_all();
    }
}

impl Medium for Barred {
    fn kind(&self) -> MediumKind {
        self.inner.kind()
    }
    fn log_style(&self) -> LogStyle {
        self.inner.log_style()
    }
    fn path(&self) -> &Path {
        self.inner.path()
    }
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> bartender_pm::Result<()> {
        self.inner.read(offset, buf)
    }
    fn write(&self, offset: u64, bytes: &[u8]) -> bartender_pm::Result<()> {
        self.inner.write(offset, bytes)
    }
    fn persist(&self, ranges: &[(u64, u64)]) -> bartender_pm::Result<()> {
        self.inner.persist(ranges)
    }
    fn append(&self, pieces: &[(u64, &[u8])]) -> bartender_pm::Result<()> {
        let mut bar = self.bar.lock().unwrap();
        bar.waiting += 1;
        self.changed.notify_all();
        let mut bar = self.changed.wait_while(bar, |bar| bar.down).unwrap();
        bar.waiting -= 1;
        drop(bar);
        self.inner.append(pieces)
    }
    fn grow(&self, len: u64) -> bartender_pm::Result<()> {
        self.inner.grow(len)
    }
    fn view(&self) -> ViewSource<'_> {
        self.inner.view()
    }
}

type Root = (PRwLock<u64>, PMutex<u64>);

/// Answers with what is behind the first lock.
type Show = fn(&Heap<Root>) -> Result<u64>;

fn open(medium: Arc<dyn Medium>) -> Result<Heap<Root>> {
    Heap::<Root>::options()
        .max_size(4 << 20)
        .log_size(64 << 10)
        .background(false)
        .open_on(medium, Root::default)
}

/// A new medium, and what holds its barriers back.
fn barred(memory: &Arc<SimMemory>) -> (Arc<SimMedium>, Arc<Barred>) {
    let inner = SimMedium::new(SimKind::Disk, Image::default(), memory);
    let medium = Barred {
        inner: inner.clone(),
        bar: Mutex::default(),
        changed: Condvar::new(),
    };
    (inner, Arc::new(medium))
}

/// While the commit of 2 is on its way to the log, and its lock is released already, `show` answers somebody with what
/// is behind the lock. Whether what was answered survives every crash.
fn what_is_shown_survives(
    rule: &'static str,
    moment: Duration,
    show: Show,
) -> std::result::Result<u64, String> {
    let memory = SimMemory::new(4 << 20);
    let (inner, medium) = barred(&memory);
    let heap = open(medium.clone()).unwrap();
    let set = |n| {
        heap.transaction(|tx| {
            *tx.lock(&heap.root().0)? = n;
            Ok(())
        })
    };
    set(1).unwrap();
    inner.note(1);
    medium.lower();
    std::thread::scope(|scope| {
        scope.spawn(|| set(2).unwrap());
        medium.await_append();
        scope.spawn(|| {
            let shown = mutant::with(rule, || show(&heap)).unwrap();
            assert_eq!(
                shown, 2,
                "the lock is released when the record has its position"
            );
            medium.show(shown);
        });
        medium.raise(moment);
    });
    let trace = inner.trace();
    drop((heap, medium, inner));
    trace.explore(Bound::default(), |crash| {
        let medium = SimMedium::new(SimKind::Disk, crash.image, &memory);
        let heap = open(medium).map_err(|e| e.to_string())?;
        let shown = crash.notes.last().copied().unwrap_or(0);
        let found = *heap.root().0.read();
        if found < shown {
            return Err(format!("somebody was shown {shown}, and there is {found}"));
        }
        Ok(())
    })
}

/// Rule 3: on a stream a lock is free as soon as the record has its position, but nobody is shown its effects before
/// they are durable: neither a reader outside of transactions, nor the caller of a transaction that only read, nor
/// that of one that was taken back.
#[test]
fn nobody_is_shown_what_a_crash_could_take_back() {
    let ways: [(&str, Show); 4] = [
        ("no_wait_for_shown", |heap| Ok(*heap.root().0.read())),
        ("no_wait_for_seen", |heap| {
            heap.transaction(|tx| Ok(*tx.read(&heap.root().0)?))
        }),
        ("no_wait_for_seen", |heap| {
            heap.transaction(|tx| Ok(*tx.lock(&heap.root().0)?))
        }),
        ("no_wait_for_seen", |heap| {
            let mut seen = 0;
            let result: Result<()> = heap.transaction(|tx| {
                seen = *tx.read(&heap.root().0)?;
                *tx.lock(&heap.root().1)? += 1;
                Err(Error::abort("on purpose"))
            });
            assert!(result.is_err());
            Ok(seen)
        }),
    ];
    let mut images = 0;
    for (rule, show) in ways {
        images += what_is_shown_survives("", Duration::from_millis(30), show).unwrap();
        if mutant::ON {
            let lost = what_is_shown_survives(rule, Duration::from_secs(20), show);
            assert!(lost.is_err(), "the mutant {rule} was not noticed");
        }
    }
    println!("{images} crash images: what was shown is there");
}

/// While the commit of the version 2 is on its way to the log: what a reader is shown, and whether that survives every
/// crash.
fn the_version_that_is_shown(rule: &'static str) -> (u64, std::result::Result<u64, String>) {
    type Version = PRcu<u64>;
    let open = |medium: Arc<dyn Medium>| {
        let options = Heap::<Version>::options()
            .max_size(4 << 20)
            .log_size(64 << 10);
        options.background(false).open_on(medium, || PRcu::new(1))
    };
    let memory = SimMemory::new(4 << 20);
    let (inner, medium) = barred(&memory);
    let heap = open(medium.clone()).unwrap();
    inner.note(1);
    medium.lower();
    let shown = std::thread::scope(|scope| {
        scope.spawn(|| {
            let replace = || heap.transaction(|tx| heap.root().replace(tx, 2));
            mutant::with(rule, replace).unwrap();
        });
        medium.await_append();
        let shown = *heap.root().read();
        medium.show(shown);
        medium.raise(Duration::ZERO);
        shown
    });
    assert_eq!(*heap.root().read(), 2);
    let trace = inner.trace();
    drop((heap, medium, inner));
    let survives = trace.explore(Bound::default(), |crash| {
        let heap = open(SimMedium::new(SimKind::Disk, crash.image, &memory));
        let heap = heap.map_err(|e| e.to_string())?;
        let shown = crash.notes.last().copied().unwrap_or(0);
        match *heap.root().read() {
            found if found < shown => Err(format!("{shown} was shown, and there is {found}")),
            _ => Ok(()),
        }
    });
    (shown, survives)
}

/// Who reads without a lock waits for nobody, and sees the version before until the new one is durable.
#[test]
fn a_version_is_not_shown_before_it_is_durable() {
    let (shown, survives) = the_version_that_is_shown("");
    assert_eq!(shown, 1);
    println!("{} crash images: the version is there", survives.unwrap());
    if mutant::ON {
        let (shown, survives) = the_version_that_is_shown("version_at_once");
        assert_eq!(shown, 2);
        let lost = survives.is_err();
        assert!(lost, "the mutant version_at_once was not noticed");
    }
}

/// A long transaction changes a vector, and the view is to be given back meanwhile. Whether its changes survive that.
fn a_long_transaction_survives_trimming() -> bool {
    let folder = places::folder();
    let heap = Heap::<PMutex<PVec<u64>>>::options()
        .max_size(64 << 20)
        .background(false)
        .open(folder.path().join("a.region"))
        .unwrap();
    heap.update(|mut list| list.extend(0..10_000)).unwrap();
    heap.checkpoint().unwrap();
    // Nothing is open: what is at or below the checkpoint is given back, and is still there.
    assert!(heap.region().trim().unwrap());
    assert!(heap.read().iter().copied().eq(0..10_000));
    let kept = heap
        .update(|mut list| {
            for i in 0..10_000 {
                *list.get_mut(i).unwrap() += 1;
            }
            let given_back = heap.region().trim().unwrap();
            let kept = list.iter().copied().eq(1..=10_000);
            assert!(given_back || kept, "nothing was given back");
            Ok(kept)
        })
        .unwrap();
    if kept {
        assert!(heap.region().trim().unwrap(), "the transaction has ended");
        assert!(heap.read().iter().copied().eq(1..=10_000));
        heap.check().unwrap();
    }
    kept
}

/// Rule 9: pages of the view are given back only when no transaction is open, however long it takes.
#[test]
fn the_view_is_not_taken_from_under_a_long_transaction() {
    assert!(a_long_transaction_survives_trimming());
    if mutant::ON {
        let kept = mutant::with("trim_over_writers", a_long_transaction_survives_trimming);
        assert!(!kept, "the mutant trim_over_writers was not noticed");
    }
}

/// Rule 9: while pages are given back, again and again, readers and transactions go on and see what is theirs.
#[test]
fn readers_and_writers_go_on_while_the_view_shrinks() {
    let folder = places::folder();
    let heap = Heap::<PRwLock<PVec<u64>>>::options()
        .max_size(64 << 20)
        .log_size(1 << 20)
        .open(folder.path().join("a.region"))
        .unwrap();
    heap.update(|mut list| list.extend((0..4096).map(|_| 0)))
        .unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (heap, done) = (&heap, &done);
        for _ in 0..2 {
            scope.spawn(move || {
                let mut last = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let list = heap.read();
                    let now = list[0];
                    assert!(now >= last, "{now} after {last}");
                    assert!(list.iter().all(|n| *n == now), "a transaction is whole");
                    last = now;
                }
            });
        }
        scope.spawn(move || {
            for n in 1..=300 {
                heap.update(|mut list| {
                    for i in 0..list.len() {
                        *list.get_mut(i).unwrap() = n;
                    }
                    Ok(())
                })
                .unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let mut trimmed = 0;
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            trimmed += u64::from(heap.region().trim().unwrap());
            heap.checkpoint().unwrap();
        }
        println!("the view was given back {trimmed} times");
    });
    assert!(heap.read().iter().all(|n| *n == 300));
    heap.check().unwrap();
}

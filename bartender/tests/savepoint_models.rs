//! Savepoints against a model: random operations in nested parts, of which some fail or panic, do what a stack of copies
//! does, through aborts, reopens and crashes.
#![cfg(not(loom))]

mod twins;

use bartender::{Error, Heap, PMutex, Result, Tx};
use bartender_pm::Region;
use bartender_pm::medium::sim::{Bound, Image, SimKind, SimMedium, SimMemory};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tempfile::TempDir;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;
use places::folder;

type Twins = PMutex<twins::Root>;

fn open(folder: &TempDir) -> Heap<Twins> {
    let options = Heap::options().max_size(16 << 20).log_size(4 << 20);
    options.open(folder.path().join("r")).expect("a region")
}

fn stop<A>() -> Result<A> {
    Err(Error::abort("on purpose"))
}

/// What a transaction does: operations, and parts that may fail.
#[derive(Debug, Clone)]
enum Step {
    Do(Vec<twins::Op>),
    Savepoint(Vec<Step>, End),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Ok,
    Err,
    Panic,
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![Just(End::Ok), Just(End::Err), Just(End::Panic)]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let op = (
        0..twins::KINDS[twins::KINDS.len() - 1].1.end,
        0..20usize,
        any::<u32>(),
        "[a-c]{0,4}",
    );
    let some = prop::collection::vec(op, 1..6).prop_map(Step::Do);
    let step = some.prop_recursive(3, 24, 4, |inner| {
        (prop::collection::vec(inner, 1..5), end())
            .prop_map(|(steps, end)| Step::Savepoint(steps, end))
    });
    prop::collection::vec(step, 1..6)
}

fn run(tx: &mut Tx<'_>, root: &Twins, steps: &[Step], twin: &mut twins::Twin) -> Result<()> {
    let is_do = |step: &Step| matches!(step, Step::Do(_));
    for part in steps.chunk_by(|a, b| is_do(a) && is_do(b)) {
        if let [Step::Savepoint(steps, end)] = part {
            let before = twin.clone();
            let done = catch_unwind(AssertUnwindSafe(|| {
                tx.savepoint(|tx| {
                    run(tx, root, steps, twin)?;
                    match end {
                        End::Ok => Ok(()),
                        End::Err => stop(),
                        End::Panic => std::panic::resume_unwind(Box::new(())),
                    }
                })
            }));
            match done {
                Ok(Ok(())) => {}
                Ok(Err(Error::Aborted(_))) | Err(_) => *twin = before,
                Ok(Err(error)) => return Err(error),
            }
            continue;
        }
        let mut stored = tx.lock(root)?;
        assert_eq!(twins::copy(&stored), *twin);
        for step in part {
            if let Step::Do(ops) = step {
                ops.iter()
                    .try_for_each(|op| twins::apply(op, &mut stored, twin))?;
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nested_savepoints_do_what_a_stack_of_copies_does(
        transactions in prop::collection::vec((steps(), end(), 0..4u8), 1..8),
    ) {
        let folder = folder();
        let mut heap = open(&folder);
        let mut twin = twins::Twin::default();
        for (steps, end, reopen) in transactions {
            let mut next = twin.clone();
            let done = catch_unwind(AssertUnwindSafe(|| {
                heap.transaction(|tx| {
                    run(tx, heap.root(), &steps, &mut next)?;
                    if end == End::Err { stop() } else { Ok(()) }
                })
            }));
            match done {
                Ok(Ok(())) => twin = next,
                Ok(Err(Error::Aborted(_))) => {}
                Ok(Err(error)) => prop_assert!(false, "{error}"),
                Err(panic) => std::panic::resume_unwind(panic),
            }
            prop_assert_eq!(twins::copy(&heap.read()), twin.clone());
            heap.check().unwrap();
            if reopen == 0 {
                heap.close().unwrap();
                heap = open(&folder);
                prop_assert_eq!(twins::copy(&heap.read()), twin.clone());
            }
        }
    }
}

fn region(medium: Arc<SimMedium>) -> bartender_pm::Result<Region> {
    let mut options = bartender_pm::Options::new();
    options
        .max_size(8 << 20)
        .log_size(256 << 10)
        .lanes(1)
        .background(false)
        .open_on(medium)
}

fn explore(kind: SimKind) -> u64 {
    let memory = SimMemory::new(8 << 20);
    let medium = SimMedium::new(kind, Image::default(), &memory);
    let heap = |region| Heap::<Twins>::options().open_region(region, Default::default);
    let first = heap(region(medium.clone()).expect("creates")).expect("creates");
    medium.note(0);
    let mut runner = TestRunner::deterministic();
    let mut twin = twins::Twin::default();
    let mut states = vec![twin.clone()];
    for k in 1..=24 {
        let drawn = steps().new_tree(&mut runner).expect("steps").current();
        first
            .transaction(|tx| run(tx, first.root(), &drawn, &mut twin))
            .expect("it commits");
        states.push(twin.clone());
        medium.note(k);
        if k % 7 == 0 {
            first.checkpoint().expect("no I/O error");
        }
    }
    first.close().expect("closes");
    let trace = medium.trace();
    drop(medium);
    let bound = Bound {
        images_per_point: 32,
        ..Bound::default()
    };
    let images = trace.explore(bound, |crash| -> Result<(), String> {
        // Before the first note the region was being made.
        let Some(&told) = crash.notes.last() else {
            return Ok(());
        };
        let medium = SimMedium::new(kind, crash.image, &memory);
        medium.stop_recording();
        let opened = region(medium).map_err(Error::from).and_then(heap);
        let heap = opened.map_err(|error| error.to_string())?;
        heap.check().map_err(|error| error.to_string())?;
        let found = twins::copy(&heap.read());
        let mut candidates = states[told as usize..].iter().take(2);
        match candidates.any(|state| *state == found) {
            true => Ok(()),
            false => Err(format!("after {told} transactions: {found:?}")),
        }
    });
    images.unwrap_or_else(|error| panic!("{kind:?}: {error}"))
}

#[test]
fn no_crash_shows_what_a_savepoint_took_back() {
    let images = explore(SimKind::Dax) + explore(SimKind::Disk);
    println!("{images} images explored");
    assert!(images > 500);
}

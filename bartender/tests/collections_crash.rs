//! Crashes among the operations of each stored collection, on the simulated medium: every image
//! that a crash may leave within a bound recovers to what the transactions up to the last
//! acknowledged one made, perhaps with the one after it, with every block reachable and none lost.
#![cfg(not(loom))]

mod twins;

use bartender::{Heap, PMutex};
use bartender_pm::Region;
use bartender_pm::medium::sim::{Bound, Image, Rng, SimKind, SimMedium, SimMemory};
use twins::{KINDS, Op, Root, Twin, apply, copy};

const TRANSACTIONS: u64 = 24;
const SEED: u64 = 0xba27;

fn region(medium: std::sync::Arc<SimMedium>) -> bartender_pm::Result<Region> {
    let mut options = bartender_pm::Options::new();
    options
        .max_size(8 << 20)
        .log_size(256 << 10)
        .lanes(1)
        .background(false)
        .open_on(medium)
}

fn heap(region: Region) -> bartender::Result<Heap<PMutex<Root>>> {
    Heap::options().open_region(region, Default::default)
}

/// The operations of transaction `k`: the same whenever it runs.
fn operations(kinds: &std::ops::Range<u8>, k: u64) -> Vec<Op> {
    let mut rng = Rng(SEED ^ k << 20);
    let mut op = || {
        let which = kinds.start + rng.below(kinds.len() as u64) as u8;
        let text = ["", "a", "gin", "vermouth", "angostura"][rng.below(5) as usize];
        (
            which,
            rng.below(20) as usize,
            rng.draw() as u32,
            text.to_owned(),
        )
    };
    (0..1 + k % 3).map(|_| op()).collect()
}

fn step(heap: &Heap<PMutex<Root>>, kinds: &std::ops::Range<u8>, k: u64, twin: &mut Twin) {
    let operations = operations(kinds, k);
    heap.update(|mut root| {
        operations
            .iter()
            .try_for_each(|op| apply(op, &mut root, twin))
    })
    .expect("it commits");
}

fn explore(name: &str, kinds: std::ops::Range<u8>, kind: SimKind) {
    let memory = SimMemory::new(8 << 20);
    let medium = SimMedium::new(kind, Image::default(), &memory);
    let first = heap(region(medium.clone()).expect("creates")).expect("creates");
    medium.note(0);
    let mut twin = Twin::default();
    let mut states = vec![twin.clone()];
    for k in 1..=TRANSACTIONS {
        step(&first, &kinds, k, &mut twin);
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
        seed: SEED,
        ..Bound::default()
    };
    let images = trace.explore(bound, |crash| -> Result<(), String> {
        let medium = SimMedium::new(kind, crash.image, &memory);
        medium.stop_recording();
        let opened = region(medium)
            .map_err(bartender::Error::from)
            .and_then(heap);
        let Some(&told) = crash.notes.last() else {
            // The region was being made: either it is not there yet or it is empty.
            return match opened {
                Ok(heap) if copy(&heap.read()) != Twin::default() => Err("not empty".into()),
                _ => Ok(()),
            };
        };
        let heap = opened.map_err(|error| error.to_string())?;
        heap.check().map_err(|error| error.to_string())?;
        let found = copy(&heap.read());
        let next = (told + 1).min(TRANSACTIONS);
        let Some(at) = (told..=next).find(|&k| states[k as usize] == found) else {
            return Err(format!("after {told} transactions: {found:?}"));
        };
        // And it goes on.
        let mut twin = found;
        step(&heap, &kinds, at + 1, &mut twin);
        heap.check().map_err(|error| error.to_string())?;
        match copy(&heap.read()) == twin {
            true => Ok(()),
            false => Err("the next transaction went wrong".into()),
        }
    });
    match images {
        Ok(images) => println!("{name}, {kind:?}: {images} images"),
        Err(error) => panic!("{name}, {kind:?}: {error}"),
    }
}

#[test]
fn no_crash_tears_a_collection() {
    for (name, kinds) in KINDS {
        for kind in [SimKind::Dax, SimKind::Disk] {
            explore(name, kinds.clone(), kind);
        }
    }
}

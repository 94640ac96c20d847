//! Crashes while a region moves, and the mutants, which they must catch.
//!
//! The data are words that point into the home, among words that do not.
//! Whatever image a crash leaves, wherever it is opened then, all pointers are
//! into the range where it is open, and lead where they led.

use super::*;
use crate::medium::sim::{Bound, Image, SimKind, SimMedium, SimMemory};
use crate::{Durability, Record};

const MAX_SIZE: u64 = 2 << 20;
const POINTERS: u64 = if cfg!(miri) { 8 } else { 40 };

fn options() -> Options {
    let mut options = Options::new();
    options
        .max_size(MAX_SIZE)
        .log_size(16 << 10)
        .lanes(2)
        .background(false);
    options
}

/// Home offset of pointer `i`: some share a line, some a page, most nothing.
fn place(i: u64) -> u64 {
    4096 + i / 4 * 9000 / 8 * 8 + i % 4 * 16
}

/// Home offset that pointer `i` leads to, in the `round`th transaction.
fn target(i: u64, round: u64) -> u64 {
    8192 + i * 24 + round
}

fn words() -> impl Iterator<Item = u64> {
    (0..POINTERS).map(place)
}

/// Points every pointer somewhere else.
fn turn(region: &Region, round: u64) {
    for some in [0..POINTERS / 2, POINTERS / 2..POINTERS] {
        let mut writer = region.writer().expect("open");
        let mut record = Record::new();
        for i in some {
            let pointer = region.base().addr() as u64 + target(i, round);
            for (offset, word) in [(place(i), pointer), (place(i) + 8, round)] {
                // SAFETY: inside of the home; these tests have one thread.
                unsafe {
                    let at = region.base().add(offset as usize);
                    at.cast::<u64>().write(word);
                }
                record.change(offset, &word.to_le_bytes());
            }
        }
        let ticket = writer.append(&mut record, Durability::Immediate);
        drop(writer);
        let ticket = ticket.expect("room in the log");
        region.wait_durable(ticket.seq).expect("no I/O error");
    }
}

fn verify(region: &Region, round: u64) -> std::result::Result<(), String> {
    for i in 0..POINTERS {
        // SAFETY: inside of the home; these tests have one thread.
        let [pointer, beside] = unsafe {
            let at = region.base().add(place(i) as usize);
            at.cast::<[u64; 2]>().read()
        };
        let led = pointer.wrapping_sub(region.base().addr() as u64);
        if (led, beside) != (target(i, round), round) {
            return Err(format!("pointer {i} leads to {led:#x} in round {beside}"));
        }
    }
    Ok(())
}

/// Opens the region, wherever it was, in the memory of `medium`.
fn open(medium: &Arc<SimMedium>) -> Result<Region> {
    let mut result = options().open_on(medium.clone());
    for _ in 0..3 {
        if !matches!(
            result,
            Err(Error::AddressTaken { .. } | Error::Relocating { .. })
        ) {
            break;
        }
        result = options().relocate_on(medium.clone())?.run(words());
    }
    result
}

/// A region in `memory` with two transactions, the second one only in the log
/// unless it was closed.
fn image(kind: SimKind, memory: &Arc<SimMemory>, close: bool) -> Image {
    let medium = SimMedium::new(kind, Image::default(), memory);
    let region = options().open_on(medium.clone()).expect("creates");
    turn(&region, 1);
    region.checkpoint().expect("no I/O error");
    turn(&region, 2);
    if close {
        region.close().expect("no I/O error");
    }
    medium.image()
}

fn explore(kind: SimKind, close: bool) -> std::result::Result<u64, String> {
    let memories: Vec<_> = (0..3).map(|_| SimMemory::new(MAX_SIZE)).collect();
    let image = image(kind, &memories[0], close);
    let medium = SimMedium::new(kind, image, &memories[1]);
    let region = open(&medium).map_err(|error| error.to_string())?;
    verify(&region, 2)?;
    drop(region);
    let trace = medium.trace();
    drop(medium);
    let bound = Bound {
        images_per_point: 24,
        ..Bound::default()
    };
    let mut next = 0;
    trace.explore(bound, |crash| {
        next += 1;
        let medium = SimMedium::new(kind, crash.image, &memories[next % 3]);
        medium.stop_recording();
        let region = open(&medium).map_err(|error| error.to_string())?;
        verify(&region, 2)?;
        turn(&region, 3);
        drop(region);
        let image = medium.image();
        drop(medium);
        // And again somewhere else.
        let medium = SimMedium::new(kind, image, &memories[(next + 1) % 3]);
        medium.stop_recording();
        let region = open(&medium).map_err(|error| error.to_string())?;
        verify(&region, 3)
    })
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of images")]
fn every_crash_while_a_region_moves_leaves_it_whole() {
    for kind in [SimKind::Dax, SimKind::Disk] {
        for close in [false, true] {
            let images = explore(kind, close).expect("every image recovers");
            println!("{kind:?}, closed {close}: {images} images");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "thousands of images")]
fn mutants_are_caught() {
    for name in [
        "relocate_unannounced",
        "relocate_no_barrier",
        "relocate_full_log",
    ] {
        let caught = [SimKind::Dax, SimKind::Disk].iter().any(|kind| {
            let run = || mutant::with(name, || explore(*kind, false));
            !matches!(std::panic::catch_unwind(run), Ok(Ok(_)))
        });
        assert!(caught, "the mutant {name} was not noticed");
    }
}

#[test]
fn a_region_that_is_being_moved_opens_for_nobody_else() {
    let memories: Vec<_> = (0..2).map(|_| SimMemory::new(MAX_SIZE)).collect();
    let image = image(SimKind::Disk, &memories[0], true);
    let medium = SimMedium::new(SimKind::Disk, image, &memories[1]);
    let taken = options().open_on(medium.clone()).expect_err("elsewhere");
    assert!(matches!(taken, Error::AddressTaken { .. }), "{taken}");
    // The header's barrier succeeds, the home's does not.
    medium.fail_in(1);
    let relocation = options().relocate_on(medium.clone()).expect("a place");
    assert_eq!(relocation.from(), memories[0].address());
    assert_eq!(relocation.to(), memories[1].address());
    relocation.run(words()).expect_err("an I/O error");
    let image = medium.image();
    drop(medium);
    for memory in &memories {
        let medium = SimMedium::new(SimKind::Disk, image.clone(), memory);
        let error = options().open_on(medium.clone()).expect_err("half moved");
        assert!(matches!(error, Error::Relocating { .. }), "{error}");
        let region = open(&medium).expect("moves on");
        assert_eq!(verify(&region, 2), Ok(()));
        assert!(region.opened().clean);
    }
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn a_copy_of_an_open_file_moves_beside_it() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("shared memory");
    let [path, copy] = ["a", "b"].map(|name| folder.path().join(name));
    let region = options().open(&path).expect("creates");
    turn(&region, 1);
    region.sync().expect("no I/O error");
    std::fs::copy(&path, &copy).expect("room");
    turn(&region, 2);
    let taken = options().open(&copy).expect_err("its place is taken");
    assert!(matches!(taken, Error::AddressTaken { .. }), "{taken}");
    let relocation = options().relocate(&copy).expect("a place");
    let busy = options().open(&copy).expect_err("it is locked");
    assert!(matches!(busy, Error::Busy { .. }), "{busy}");
    let moved = relocation.run(words()).expect("no I/O error");
    assert_eq!(verify(&moved, 1), Ok(()));
    turn(&moved, 3);
    drop(moved);
    let moved = options().open(&copy).expect("it has its own place now");
    assert_eq!(verify(&moved, 3), Ok(()));
    assert_eq!(verify(&region, 2), Ok(()));
}

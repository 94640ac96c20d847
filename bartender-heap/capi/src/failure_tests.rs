//! What is left when a record cannot be made durable, and when nothing is made
//! durable for long.

#![allow(unsafe_code)]

use crate::core::{Core, Range};
use crate::transaction::bt_tx;
use bartender_pm::medium::sim::{Image, SimKind, SimMedium, SimMemory};
use std::ptr::NonNull;
use std::sync::Arc;

fn core(max_size: u64) -> (Arc<SimMedium>, Core) {
    let memory = SimMemory::new(max_size);
    let sim = SimMedium::new(SimKind::Disk, Image::default(), &memory);
    sim.stop_recording();
    let mut options = crate::core::options(max_size);
    options.log_size(64 << 10).background(false);
    let core = Core::open(options.open_on(sim.clone()).expect("creates")).expect("formats");
    (sim, core)
}

fn word(block: NonNull<u8>) -> u64 {
    // SAFETY: tests read where they stored.
    unsafe { block.cast().read() }
}

fn store(block: NonNull<u8>, value: u64) {
    // SAFETY: tests store inside of their blocks.
    unsafe { block.cast().write(value) }
}

#[test]
fn after_an_error_of_the_medium_nothing_has_changed_and_nothing_more_will() {
    let (sim, core) = core(8 << 20);
    let [one, two] = [64, 64].map(|size| core.alloc(size, 1).expect("room"));
    core.root_set(b"a", Some(one)).expect("room");
    store(one, 1);
    let live = core.heap.stats().live_blocks;

    let mut tx = bt_tx::begin(&core);
    // SAFETY: one thread.
    unsafe { tx.add(core.range(one.as_ptr(), 8).expect("a range")) };
    tx.alloc(100).expect("room");
    tx.free(two).expect("a block");
    store(one, 2);
    sim.fail_in(0);
    // SAFETY: one thread.
    let failure = unsafe { tx.commit() }.expect_err("the medium fails");
    assert_eq!(failure.errno, libc::EIO, "{failure:?}");
    assert_eq!((word(one), core.heap.stats().live_blocks), (1, live));

    sim.fail_never();
    let failure = core.root_set(b"a", Some(two)).expect_err("poisoned");
    assert!(failure.message.contains("poisoned"), "{failure:?}");
    assert_eq!(core.root_get(b"a"), Ok(one.as_ptr()));
    let failure = core.root_set(b"b", Some(two)).expect_err("poisoned");
    assert_eq!(failure.errno, libc::EIO);
    assert_eq!(core.root_get(b"b"), Ok(std::ptr::null_mut()));
    // SAFETY: one thread.
    let failure = unsafe { core.persist(&[core.range(one.as_ptr(), 8).expect("a range")]) };
    assert_eq!(failure.expect_err("poisoned").errno, libc::EIO);
}

#[test]
fn the_first_root_that_fails_leaves_none() {
    let (sim, core) = core(8 << 20);
    let block = core.alloc(64, 1).expect("room");
    sim.fail_in(0);
    assert!(core.root_set(b"a", Some(block)).is_err());
    assert_eq!((core.heap.root(), core.heap.stats().live_blocks), (None, 1));
}

#[test]
fn entries_never_fill_a_record_however_long_nothing_is_persisted() {
    let (_sim, core) = core(128 << 20);
    let mut most = 0;
    for _ in 0..1500 {
        // A superblock each.
        core.alloc(65 << 10, 1).expect("room");
        most = most.max(core.pending.len());
    }
    assert!(most <= 1024, "{most}");
    let block = core.alloc(40_000, 1).expect("room");
    let len = 40_000;
    // SAFETY: one thread.
    unsafe { core.persist_long(Range { start: block, len }) }.expect("room in the log");
    assert!(core.pending.is_empty());
}

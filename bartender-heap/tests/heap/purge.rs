//! Space that is given back to the system: it goes, it comes again, and no
//! crash in between does harm.

use super::*;
use bartender_pm::mutant;
use std::os::unix::fs::MetadataExt;

fn purge_options() -> Options {
    let mut options = Options::new();
    options
        .max_size(16 << 20)
        .log_size(64 << 10)
        .lanes(2)
        .background(false);
    options
}

/// Visits the images of a run that purges before and after space is used again.
fn explore(kind: SimKind) -> Result<u64, String> {
    let memory = SimMemory::new(16 << 20);
    let options = purge_options();
    let medium = SimMedium::new(kind, Image::default(), &memory);
    let text = |error: Error| error.to_string();
    let region = options.open_on(medium.clone()).expect("creates");
    let heap = Heap::create(region, &schema()).expect("formats");
    root_of(&heap);
    medium.note(0);
    for (length, size) in (1..).zip([64, 3 << 20, 200_000]) {
        push(&heap, size);
        medium.note(length);
    }
    for length in [2, 1] {
        pop(&heap);
        medium.note(length);
    }
    heap.purge().map_err(text)?;
    medium.note(1);
    for (length, size) in (2..).zip([100_000, 9000, 2 << 20]) {
        push(&heap, size);
        medium.note(length);
    }
    heap.region().checkpoint().map_err(|e| text(e.into()))?;
    pop(&heap);
    medium.note(3);
    heap.purge().map_err(text)?;
    heap.close().map_err(text)?;
    let trace = medium.trace();
    drop((heap, medium));
    let bound = Bound {
        images_per_point: 12,
        ..Bound::default()
    };
    trace.explore(bound, |crash| {
        let Some(told) = crash.notes.last().copied() else {
            return Ok(());
        };
        let medium = SimMedium::new(kind, crash.image, &memory);
        medium.stop_recording();
        let region = options.open_on(medium).map_err(|e| e.to_string())?;
        // It pushes some more, and that goes home.
        verify(region.clone(), Some(told))?;
        region.checkpoint().map_err(|e| e.to_string())
    })
}

#[test]
fn no_crash_around_a_purge_loses_a_block() {
    for kind in [SimKind::Dax, SimKind::Disk] {
        let images = explore(kind).expect("every image recovers");
        println!("{kind:?}: {images} images");
    }
}

#[test]
fn a_hole_under_what_the_log_may_replay_is_noticed() {
    for kind in [SimKind::Dax, SimKind::Disk] {
        let outcome = mutant::with("punch_too_early", || explore(kind));
        assert!(outcome.is_err(), "{kind:?}: {outcome:?}");
    }
}

#[test]
fn a_block_in_a_hole_is_noticed() {
    let outcome = mutant::with("no_refill", || explore(SimKind::Disk));
    assert!(outcome.is_err(), "{outcome:?}");
}

#[test]
fn a_hole_that_the_next_life_knows_nothing_of_is_noticed() {
    let outcome = mutant::with("forget_holes", || explore(SimKind::Disk));
    assert!(outcome.is_err(), "{outcome:?}");
}

/// Blocks of the file, in bytes.
fn on_disk(heap: &Heap) -> u64 {
    let file = std::fs::metadata(heap.region().path()).expect("a file");
    file.blocks() * 512
}

#[test]
fn what_is_purged_leaves_the_file_and_comes_again() {
    const LARGE: usize = 40 << 20;
    for folder in places::folders() {
        let path = folder.path().join("a.region");
        let heap = Heap::create(options().open(&path).expect("creates"), &schema());
        let heap = heap.expect("formats");
        push(&heap, 100);
        for _ in 0..2 {
            push(&heap, LARGE);
        }
        let size = heap.region().size();
        let full = on_disk(&heap);
        pop(&heap);
        let gone = heap.purge().expect("no I/O error");
        if gone == 0 {
            assert!(!heap.region().space().may_have_holes());
            continue; // a file system without holes
        }
        assert!(gone >= LARGE as u64);
        let stats = heap.stats();
        assert_eq!(stats.returned_bytes, gone);
        let low = on_disk(&heap);
        assert!(low + LARGE as u64 <= full);
        assert_eq!((chain(&heap), heap.region().size()), (2, size));
        assert_eq!(heap.purge().expect("no I/O error"), 0, "there is no more");
        // What no region has room for brings nothing of it back.
        let hopeless = Layout::from_size_align(1 << 40, 8).expect("a layout");
        assert!(heap.alloc(hopeless).is_err());
        assert_eq!(heap.stats().returned_bytes, gone);
        // A block there has its space again, before anything is committed.
        let layout = Layout::from_size_align(LARGE, 8).expect("a layout");
        let block = heap.alloc(layout).expect("room");
        assert!(on_disk(&heap) >= low + LARGE as u64);
        assert_eq!(heap.region().size(), size, "nothing has grown");
        // SAFETY: nobody else knows it.
        unsafe { heap.free(block.ptr) }.expect("a block");
        heap.purge().expect("no I/O error");
        push(&heap, LARGE);
        heap.check().expect("sound");
        heap.close().expect("closes");
        drop(heap);
        // And in the next life, in which nobody knows where the holes are.
        let heap = Heap::open(options().open(&path).expect("opens")).expect("opens");
        assert_eq!(chain(&heap), 3);
        assert_eq!(heap.stats().returned_bytes, heap.stats().free_bytes);
        pop(&heap);
        push(&heap, LARGE);
        heap.check().expect("sound");
        assert_eq!(chain(&heap), 3);
    }
}

/// What is free for two checkpoints goes without being asked for.
#[test]
fn idle_space_goes_by_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.region");
    let heap = Heap::create(options().open(path).expect("creates"), &schema()).expect("formats");
    push(&heap, 100 << 20);
    pop(&heap);
    let root = root_of(&heap);
    for _ in 0..100_000 {
        // The log fills, and the background thread checkpoints.
        commit(&heap, |tx| tx.put(root, 1, 0));
        if heap.stats().returned_bytes > 0 || !heap.region().space().can_have_holes() {
            return;
        }
    }
    panic!("nothing was given back: {}", heap.stats());
}

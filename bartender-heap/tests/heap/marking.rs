//! A heap that is used while what a crash left is marked in the background. Marking
//! is held back until the test says go, so nothing here depends on time.

use super::*;
use bartender_heap::{MarkProgress, Marking};
use bartender_pm::mutant;
use std::path::Path;

/// Like what a crash leaves: the last close is not the next open's.
fn make_stale(options: &Options, path: &Path) {
    drop(options.open(path).expect("opens"));
}

fn open_held(options: &Options, path: &Path) -> Heap {
    let region = options.open(path).expect("opens");
    let heap = Heap::open_marking(region, Marking::Held).expect("opens");
    let report = heap.report();
    assert!(report.marked && report.background && report.blocks == 0);
    assert!(heap.marking().under_way);
    heap
}

/// The addresses of the chain's nodes.
fn nodes(heap: &Heap) -> Vec<NonNull<u8>> {
    let mut at = heap.root();
    std::iter::from_fn(|| {
        let [next, _] = node_at(at?);
        at = NonNull::new(std::ptr::with_exposed_provenance_mut(next as usize));
        at
    })
    .collect()
}

/// A heap with a chain, and blocks of which no transaction knew.
fn left_behind(options: &Options, path: &Path, sizes: &[usize]) -> Vec<NonNull<u8>> {
    let region = options.open(path).expect("creates");
    let heap = Heap::create(region, &schema()).expect("formats");
    for size in sizes {
        push(&heap, *size);
    }
    let lost = commit(&heap, |tx| {
        let lost = (0..500).map(|_| tx.alloc(Layout::new::<[u64; 4]>()).expect("room"));
        let lost: Vec<_> = lost.collect();
        let run = Layout::from_size_align(200_000, 8).expect("a layout");
        tx.alloc(run).expect("room");
        lost
    });
    drop(heap);
    make_stale(options, path);
    lost
}

const SIZES: [usize; 8] = [16, 100, 16, 5000, 300_000, 16, 60_000, 200_000];

#[test]
fn a_heap_is_used_before_its_marks_are_known() {
    for place in places::places() {
        let (path, options) = (place.region(), options());
        left_behind(&options, path, &SIZES);
        let heap = open_held(&options, path);
        assert_eq!(chain(&heap), 8);
        let before = heap.stats();
        assert!(before.marking.under_way && before.marking.of_bytes == before.reserved_bytes);
        assert!(before.to_string().contains("marking"), "{before}");
        let old = nodes(&heap);
        for (node, size) in old.iter().zip(SIZES.iter().rev()) {
            assert!(heap.usable_size(*node).expect("a block") >= *size);
        }
        // Three of them are given back, a run and one of each other kind.
        for _ in 0..3 {
            pop(&heap);
        }
        for node in &old[..3] {
            // SAFETY: it is free already, which is the point.
            let twice = unsafe { heap.free(*node) };
            assert!(matches!(twice, Err(Error::DoubleFree { .. })), "{twice:?}");
        }
        // SAFETY: not a block, which is the point.
        let inside = unsafe { heap.free(old[4].add(8)) };
        assert!(matches!(inside, Err(Error::NotABlock { .. })));
        // What is new lies apart from what was there.
        for size in SIZES {
            push(&heap, size);
        }
        let of_old = |at: &NonNull<u8>| {
            let chunk = |at: &NonNull<u8>| at.addr().get() >> 16;
            old.iter().any(|old| chunk(old) == chunk(at))
        };
        assert!(!nodes(&heap)[..8].iter().any(of_old));
        assert_eq!(chain(&heap), 13);
        heap.region().checkpoint().expect("no I/O error");
        assert_eq!(heap.marking().blocks, 0);

        heap.release_marking();
        let marked = heap.wait_marked().expect("sound");
        assert_eq!(marked.blocks, 9, "as it was at opening");
        let MarkProgress {
            under_way, blocks, ..
        } = heap.marking();
        assert_eq!((under_way, blocks), (false, 9));
        assert_eq!(heap.check().expect("sound").blocks, 14);
        assert_eq!(heap.stats().live_blocks, 14);
        // What was found free is handed out again.
        let free = heap.stats().free_bytes;
        assert!(free > before.free_bytes || before.home_bytes < heap.stats().home_bytes);
        for node in &old[..3] {
            // SAFETY: it is free, which is the point.
            assert!(unsafe { heap.free(*node) }.is_err());
        }
        pop(&heap);
        drop(heap);
        let heap = Heap::open(options.open(path).expect("opens")).expect("opens");
        assert!(!heap.report().marked);
        assert_eq!((chain(&heap), heap.report().blocks), (12, 13));
        assert_eq!(heap.check().expect("sound").blocks, 13);
    }
}

#[test]
fn other_threads_free_allocate_and_end_while_marking_goes_on() {
    for hold in [true, false] {
        let place = places::place();
        let (path, options) = (place.region(), options());
        left_behind(&options, path, &[48; 3000]);
        let heap = open_held(&options, path);
        let old = nodes(&heap);
        commit(&heap, |tx| {
            let root = heap.root().expect("there");
            tx.put(root, 0, 0);
            tx.put(root, 1, 0);
        });
        if !hold {
            heap.release_marking();
        }
        let parts: Vec<Vec<usize>> = (0..4)
            .map(|part| {
                let some = old.iter().skip(part).step_by(4);
                some.map(|at| at.addr().get()).collect()
            })
            .collect();
        std::thread::scope(|scope| {
            for part in parts {
                let heap = &heap;
                scope.spawn(move || {
                    for at in part {
                        let own = heap.alloc(Layout::new::<[u64; 6]>()).expect("room");
                        let ptr = NonNull::new(std::ptr::with_exposed_provenance_mut(at));
                        // SAFETY: nobody uses either; the first one's free is durable.
                        unsafe {
                            heap.free(ptr.expect("not null")).expect("live");
                            heap.free(own.ptr).expect("live");
                        }
                    }
                });
            }
        });
        heap.release_marking();
        assert_eq!(heap.wait_marked().expect("sound").blocks, 3001);
        assert_eq!(heap.check().expect("sound").blocks, 1);
    }
}

/// Marks a heap of which everything was popped, freed and taken home before marking began.
fn mark_what_is_gone() -> Result<u64, Error> {
    let place = places::place();
    let (path, options) = (place.region(), options());
    left_behind(&options, path, &SIZES);
    let heap = open_held(&options, path);
    for _ in 0..8 {
        pop(&heap);
    }
    heap.region().checkpoint().expect("no I/O error");
    heap.release_marking();
    let marked = heap.wait_marked()?;
    assert_eq!(heap.check().expect("sound").blocks, 1);
    Ok(marked.blocks)
}

#[test]
fn marking_sees_the_home_as_it_was_at_opening() {
    assert_eq!(mark_what_is_gone().expect("sound"), 9);
    if mutant::ON {
        for rule in ["no_freeze", "forget_claimed"] {
            let error = mutant::with(rule, mark_what_is_gone).expect_err("a picture that moves");
            assert!(matches!(error, Error::DoubleFree { .. }), "{error}");
        }
    }
}

/// Hangs something that is no block into the chain, as the third node.
fn damage(options: &Options, path: &Path) {
    let heap = Heap::open(options.open(path).expect("opens")).expect("opens");
    let second = nodes(&heap)[1];
    commit(&heap, |tx| {
        let [next, _] = node_at(second);
        tx.put(second, 0, next + 8);
    });
    drop(heap);
    make_stale(options, path);
}

#[test]
fn damage_that_marking_finds_in_the_background_ends_all_commits() {
    let place = places::place();
    let (path, options) = (place.region(), options());
    left_behind(&options, path, &SIZES);
    damage(&options, path);
    let heap = open_held(&options, path);
    let root = heap.root().expect("there");
    let len = node_at(root)[1];
    heap.region().writer().expect("nothing is known yet");
    heap.release_marking();
    for _ in 0..2 {
        let error = heap.wait_marked().expect_err("damage");
        assert!(
            matches!(&error, Error::BadData { path, .. } if path == "next.next.next"),
            "{error}"
        );
    }
    let refused = heap.region().writer().expect_err("poisoned").to_string();
    assert!(refused.contains("next.next.next"), "{refused}");
    assert!(heap.check().is_err() && heap.purge().is_err());
    assert_eq!(node_at(root)[1], len);
    assert!(heap.close().is_err());
    drop(heap);
    let region = options.open(path).expect("opens");
    let error = Heap::open(region).expect_err("the same damage");
    assert!(matches!(error, Error::BadData { .. }), "{error}");
}

#[test]
fn a_free_of_what_was_free_before_the_crash_is_told_in_the_end() {
    let place = places::place();
    let (path, options) = (place.region(), options());
    let lost = left_behind(&options, path, &SIZES);
    let heap = open_held(&options, path);
    // SAFETY: nobody uses it, and it is free, which nobody knows yet.
    unsafe { heap.free(lost[7]) }.expect("not known to be free");
    heap.release_marking();
    let told = lost[7].addr().get() as u64;
    let error = heap.wait_marked().expect_err("freed twice");
    assert!(
        matches!(error, Error::DoubleFree { address, .. } if address == told),
        "{error}"
    );
    assert!(heap.region().writer().is_err());
}

#[test]
fn closing_ends_marking_and_the_next_open_marks() {
    let place = places::place();
    let (path, options) = (place.region(), options());
    left_behind(&options, path, &SIZES);
    let heap = open_held(&options, path);
    pop(&heap);
    push(&heap, 500);
    heap.close().expect("closes");
    assert!(matches!(heap.wait_marked(), Err(Error::Closed)));
    assert!(!heap.marking().under_way);
    drop(heap);
    let heap = Heap::open(options.open(path).expect("opens")).expect("opens");
    assert!(heap.report().marked && !heap.report().background);
    assert_eq!(heap.check().expect("sound").blocks, 9);
}

/// A region that is full of what no root leads to, opened; a block is asked for.
fn ask_for_space(size: usize) -> Result<(), Error> {
    let place = places::place();
    let path = place.region();
    let mut options = options();
    options.max_size(4 << 20);
    let heap = Heap::create(options.open(path).expect("creates"), &schema()).expect("formats");
    push(&heap, 100);
    let layout = Layout::from_size_align(size, 8).expect("a layout");
    commit(&heap, |tx| while tx.alloc(layout).is_ok() {});
    drop(heap);
    make_stale(&options, path);
    let heap = open_held(&options, path);
    std::thread::scope(|scope| {
        // Without a wait for marking it fails for certain: nobody else lets that begin.
        if mutant::is("fail_unmarked") {
            return heap.alloc(layout).map(|_| ());
        }
        let asks = scope.spawn(|| heap.alloc(layout).map(|_| ()));
        heap.release_marking();
        asks.join().expect("no panic")
    })
}

#[test]
fn allocation_waits_for_marking_where_fresh_space_has_ended() {
    for size in [48, 5000, 300_000] {
        ask_for_space(size).expect("there is space after marking");
        if mutant::ON {
            let refused = mutant::with("fail_unmarked", || ask_for_space(size));
            assert!(matches!(refused, Err(Error::Region(_))), "{refused:?}");
        }
    }
}

#[test]
fn small_heaps_are_marked_before_opening_returns_and_large_ones_beside() {
    let place = places::place();
    let (path, options) = (place.region(), options());
    left_behind(&options, path, &[5000; 3]);
    let open = |when| {
        let region = options.open(path).expect("opens");
        Heap::open_marking(region, when).expect("opens")
    };
    for (when, background) in [
        (Marking::Auto, false),
        (Marking::Background, true),
        (Marking::Before, false),
    ] {
        let heap = open(when);
        assert_eq!(heap.report().background, background, "{when:?}");
        assert_eq!(heap.wait_marked().expect("sound").blocks, 4);
        drop(heap);
        make_stale(&options, path);
    }
    let heap = open(Marking::Auto);
    (0..20).for_each(|_| push(&heap, 200_000));
    drop(heap);
    make_stale(&options, path);
    let heap = open(Marking::Auto);
    assert_eq!(heap.report().background, !place.is_device());
    assert_eq!(heap.check().expect("sound").blocks, 24);
}

/// What is committed before anybody has marked would not be in the picture.
#[test]
fn a_region_that_was_written_to_since_it_was_opened_is_marked_before() {
    let place = places::place();
    let (path, mut options) = (place.region(), options());
    options.background(false);
    left_behind(&options, path, &SIZES);
    let region = options.open(path).expect("opens");
    let mut record = Record::new();
    record.change(region.size() - 8, &[0; 8]);
    let ticket = region
        .writer()
        .expect("open")
        .append(&mut record, Durability::Immediate);
    region
        .wait_durable(ticket.expect("room").seq)
        .expect("no I/O error");
    let heap = Heap::open_marking(region, Marking::Held).expect("opens");
    assert!(!heap.report().background);
    assert_eq!(heap.check().expect("sound").blocks, 9);
}

/// Images of a run that opens what a crash left, and changes it before, while and after it is
/// marked. Each is opened in the same way.
#[test]
fn no_crash_beside_marking_loses_or_leaks_a_block() {
    for kind in [SimKind::Dax, SimKind::Disk] {
        let memory = SimMemory::new(16 << 20);
        let mut options = Options::new();
        options
            .max_size(16 << 20)
            .log_size(64 << 10)
            .lanes(2)
            .background(false);
        let medium = SimMedium::new(kind, Image::default(), &memory);
        let heap = Heap::create(options.open_on(medium.clone()).expect("creates"), &schema())
            .expect("formats");
        for size in [64, 8192, 8192, 70_000, 16] {
            push(&heap, size);
        }
        commit(&heap, |tx| {
            tx.alloc(Layout::new::<[u64; 100]>()).expect("room");
        });
        let image = medium.image();
        drop((heap, medium));

        let medium = SimMedium::new(kind, image, &memory);
        let region = options.open_on(medium.clone()).expect("opens");
        let heap = Heap::open_marking(region, Marking::Held).expect("opens");
        let mut length = chain(&heap);
        medium.note(length);
        let mut step = |size: Option<usize>| {
            match size {
                Some(size) => push(&heap, size),
                None => pop(&heap),
            }
            length = length + 1 - 2 * u64::from(size.is_none());
            medium.note(length);
        };
        for size in [None, Some(3000), None, Some(200_000)] {
            step(size);
        }
        heap.region().checkpoint().expect("no I/O error");
        for size in [None, None, Some(8192)] {
            step(size);
        }
        heap.release_marking();
        heap.wait_marked().expect("sound");
        for size in [Some(8192), Some(16), None, Some(64)] {
            step(size);
        }
        heap.close().expect("closes");
        let trace = medium.trace();
        drop((heap, medium));
        let bound = Bound {
            images_per_point: 12,
            ..Bound::default()
        };
        let images = trace.explore(bound, |crash| {
            let medium = SimMedium::new(kind, crash.image, &memory);
            medium.stop_recording();
            let region = options.open_on(medium).map_err(|error| error.to_string())?;
            verify_beside(region, crash.notes.last().copied())
        });
        println!("{kind:?}: {} images", images.expect("every image recovers"));
    }
}

fn verify_beside(region: Region, told: Option<u64>) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    let heap = Heap::open_marking(region, Marking::Held).map_err(text)?;
    let found = chain(&heap);
    if told.is_some_and(|told| found.abs_diff(told) > 1) {
        return Err(format!("{found} nodes, {told:?} were told"));
    }
    pop(&heap);
    push(&heap, 64);
    push(&heap, 100_000);
    heap.release_marking();
    let marked = heap.wait_marked().map_err(text)?;
    // What a clean close saved need not be marked.
    if heap.report().background && marked.blocks != found + 1 {
        return Err(format!(
            "{} blocks marked of a chain of {found}",
            marked.blocks
        ));
    }
    pop(&heap);
    let report = heap.check().map_err(text)?;
    if report.blocks != found + 1 || heap.stats().live_blocks != found + 1 {
        return Err(format!(
            "{} blocks after as many came as went",
            report.blocks
        ));
    }
    Ok(())
}

//! Opening a copy of a region beside the region: it is moved, with all its data, whatever the instant of a crash.
#![cfg(not(loom))]

use bartender::{Heap, PBox, PHashMap, PMutex, PString, PVec, Persist};
use bartender_heap::{Error, open_region_on};
use bartender_pm::medium::sim::{Bound, Image, SimKind, SimMedium, SimMemory};
use std::path::Path;
use std::sync::Arc;

/// Something of every kind that holds a pointer, and of the kinds that look like one.
#[derive(Persist, Default, Debug)]
#[repr(C)]
struct World {
    names: PVec<PString>,
    by_name: PHashMap<PString, PBox<Shape>>,
    lists: PHashMap<u64, PVec<Option<PBox<u32>>>>,
    chain: Option<PBox<Link>>,
    shape: Shape,
    empty: PVec<u64>,
    nobody: PString,
    array: [PVec<u16>; 3],
    pair: (Option<PString>, u64),
    locked: PMutex<PVec<PBox<[u64; 2]>>>,
    nothing: Option<PBox<()>>,
}

#[derive(Persist, Debug)]
#[repr(C)]
struct Link {
    next: Option<PBox<Link>>,
    number: u64,
}

#[derive(Persist, Default, Debug)]
#[repr(C, u8)]
#[allow(dead_code, reason = "the fields are read by `Debug`")]
enum Shape {
    #[default]
    Point,
    Circle(f64),
    Group {
        name: PString,
        parts: PVec<Shape>,
    },
}

type Root = PMutex<World>;

fn group(i: u64) -> Shape {
    let mut parts = PVec::new();
    parts.push(Shape::Circle(i as f64));
    parts.push(Shape::Point);
    parts.push(Shape::Group {
        name: PString::from("inner"),
        parts: PVec::new(),
    });
    Shape::Group {
        name: PString::from(format!("group {i}").as_str()),
        parts,
    }
}

/// Adds to every part, in one transaction.
fn grow(heap: &Heap<Root>, from: u64, to: u64) {
    let grown = heap.update(|mut world| {
        let mut world = world.project();
        for i in from..to {
            // Whose block moves, too.
            let name = format!("name of {i}, in a block of its own");
            world.names.push(PString::from(name.as_str()))?;
            world
                .by_name
                .insert(PString::from(name.as_str()), PBox::new(group(i)))?;
            let mut list = PVec::new();
            list.push(Some(PBox::new(i as u32)));
            list.push(None);
            world.lists.insert(i, list)?;
            let next = bartender::Mut::take(&mut world.chain)?;
            world.chain.set(Some(PBox::new(Link { next, number: i })))?;
            world.shape.set(group(i))?;
            let mut pair = world.pair.project();
            pair.0.set(Some(PString::from("of a pair")))?;
            // As large as a pointer may be: not one.
            pair.1.set(i.wrapping_mul(0x2000_0001_0000))?;
            world.nothing.set(Some(PBox::new(())))?;
        }
        world.array.project()[1].extend(from as u16..to as u16)?;
        let mut boxes = PVec::new();
        boxes.push(PBox::new([from, to]));
        world.locked.project().set(boxes)
    });
    grown.expect("commits");
}

/// All that can be seen of the data.
fn seen(heap: &Heap<Root>) -> String {
    heap.check().expect("sound");
    format!("{:?}", &*heap.read())
}

fn options() -> bartender::Options<Root> {
    Heap::options().max_size(64 << 20).log_size(1 << 20)
}

fn copies(folder: &Path) {
    let [path, copy, closed] = ["a", "b", "c"].map(|name| folder.join(name));
    let heap = options().open(&path).expect("creates");
    grow(&heap, 0, 500);
    heap.checkpoint().expect("no I/O error");
    grow(&heap, 500, 520);
    let before = seen(&heap);
    std::fs::copy(&path, &copy).expect("room");
    grow(&heap, 520, 530);
    let after = seen(&heap);
    heap.close().expect("no I/O error");
    std::fs::copy(&path, &closed).expect("room");

    let heap = options().open(&path).expect("opens");
    assert_eq!(seen(&heap), after);
    let [second, third] = [&copy, &closed].map(|path| options().open(path).expect("moves"));
    assert!(second.report().heap.marked);
    assert!(
        !third.report().heap.marked,
        "a move keeps what a close saved"
    );
    assert_eq!(seen(&second), before);
    assert_eq!(seen(&third), after);
    for heap in [&heap, &second, &third] {
        grow(heap, 600, 700);
    }
    assert_eq!(seen(&third), seen(&heap));
    let last = seen(&second);
    second.close().expect("no I/O error");
    let second = options().open(&copy).expect("where it moved to");
    assert!(!second.report().heap.marked);
    assert_eq!(seen(&second), last);
    assert_eq!(seen(&third), seen(&heap));
}

#[test]
fn a_copy_opens_beside_its_region_in_shared_memory() {
    copies(
        tempfile::tempdir_in("/dev/shm")
            .expect("shared memory")
            .path(),
    );
}

#[test]
fn a_copy_opens_beside_its_region_on_disk() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    copies(folder.expect("a folder for the test").path());
}

const MAX_SIZE: u64 = 2 << 20;

fn region_options() -> bartender_pm::Options {
    let mut options = bartender_pm::Options::new();
    options
        .max_size(MAX_SIZE)
        .log_size(128 << 10)
        .lanes(2)
        .background(false);
    options
}

/// Opens an image in a memory, wherever it was before.
fn open(medium: &Arc<SimMedium>) -> Result<Heap<Root>, String> {
    let region = open_region_on(&region_options(), medium.clone()).map_err(|e| e.to_string())?;
    let heap = options().open_region(region, Root::default);
    heap.map_err(|error| error.to_string())
}

/// A world in `memory`, and what is seen of it.
fn image(kind: SimKind, memory: &Arc<SimMemory>, close: bool) -> (Image, String) {
    let medium = SimMedium::new(kind, Image::default(), memory);
    let heap = open(&medium).expect("creates");
    grow(&heap, 0, 10);
    grow(&heap, 10, 12);
    let seen = seen(&heap);
    if close {
        heap.close().expect("no I/O error");
        return (medium.image(), seen);
    }
    (medium.image(), seen)
}

#[test]
fn every_crash_while_a_heap_moves_leaves_it_whole() {
    for (kind, close) in [(SimKind::Dax, false), (SimKind::Disk, true)] {
        let memories: Vec<_> = (0..3).map(|_| SimMemory::new(MAX_SIZE)).collect();
        let (image, told) = image(kind, &memories[0], close);
        let medium = SimMedium::new(kind, image, &memories[1]);
        let heap = open(&medium).expect("moves");
        assert_eq!(heap.report().heap.marked, !close);
        assert_eq!(seen(&heap), told);
        drop(heap);
        let trace = medium.trace();
        drop(medium);
        let bound = Bound {
            images_per_point: 24,
            ..Bound::default()
        };
        let mut next = 0;
        let images = trace.explore(bound, |crash| {
            next += 1;
            let medium = SimMedium::new(kind, crash.image, &memories[next % 3]);
            medium.stop_recording();
            let heap = open(&medium)?;
            if seen(&heap) != told {
                return Err("the data are not what they were".to_owned());
            }
            // And it goes on.
            grow(&heap, 20, 22);
            heap.check().map_err(|error| error.to_string())?;
            Ok(())
        });
        println!("{kind:?}: {} images", images.expect("every image is whole"));
    }
}

#[test]
fn damaged_data_are_not_moved() {
    let memories: Vec<_> = (0..2).map(|_| SimMemory::new(MAX_SIZE)).collect();
    let (image, _) = image(SimKind::Disk, &memories[0], true);
    let mut bytes = image.to_vec();
    let name = b"name of 7";
    // In the home, wherever it is, and in what the log has left.
    while let Some(at) = bytes.windows(name.len()).position(|window| window == name) {
        bytes[at] = 0xff;
    }
    let image = Image::from(&bytes[..]);

    let medium = SimMedium::new(SimKind::Disk, image, &memories[1]);
    let error = open_region_on(&region_options(), medium.clone()).expect_err("damaged");
    assert!(matches!(error, Error::BadData { .. }), "{error}");
    assert!(error.to_string().contains("name"), "{error}");
    let image = medium.image();
    assert_eq!(image.to_vec(), bytes, "nothing was changed");
    drop(medium);
    // Where it was it opens: of a region that was closed, not all is looked at.
    let medium = SimMedium::new(SimKind::Disk, image, &memories[0]);
    let heap = open(&medium).expect("opens");
    assert_eq!(heap.read().names.len(), 12);
}

//! A heap from outside: what is committed is there again, what is not is free
//! again, whether it was closed, killed or cut off at any instant.

use bartender_heap::types::{Field, Kind, NoneForm, Schema, SchemaBuilder, Type, TypeRef};
use bartender_heap::{Block, Error, Heap};
use bartender_pm::medium::sim::{Bound, Image, SimKind, SimMedium, SimMemory};
use bartender_pm::{Counts, Durability, Options, Record, Region};
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;

#[path = "heap/marking.rs"]
mod marking;

#[path = "heap/purge.rs"]
mod purge;

/// The root, and each link of the chain that hangs from it.
#[repr(C)]
struct Node {
    next: u64,
    len: u64,
}

fn schema() -> Schema {
    fn node(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Node>(|b| {
            let elem = node(b);
            let boxed = b.define::<Box<Node>>(|_| Type::of::<u64>("PBox", Kind::Box { elem }));
            let none = NoneForm::Niche {
                offset: 0,
                bytes: vec![0; 8],
            };
            let next = b.define::<Option<Box<Node>>>(|_| {
                Type::of::<u64>(
                    "Option",
                    Kind::Option {
                        payload: boxed,
                        offset: 0,
                        none,
                    },
                )
            });
            let len = b.define::<u64>(|_| {
                Type::of::<u64>(
                    "u64",
                    Kind::Int {
                        signed: false,
                        nonzero: false,
                    },
                )
            });
            let field = |name: &str, offset, ty| Field {
                name: name.into(),
                offset,
                ty,
            };
            let fields = vec![field("next", 0, next), field("len", 8, len)];
            Type::of::<Node>("Node", Kind::Struct { fields })
        })
    }
    Schema::of(node).expect("a sound description")
}

/// A transaction: what it stores goes into the view and the record.
struct Tx<'h> {
    heap: &'h Heap,
    record: Record,
    blocks: Vec<Block>,
}

impl<'h> Tx<'h> {
    fn alloc(&mut self, layout: Layout) -> Result<NonNull<u8>, Error> {
        let block = self.heap.alloc(layout)?;
        self.blocks.push(block);
        Ok(block.ptr)
    }

    fn put(&mut self, at: NonNull<u8>, word: usize, value: u64) {
        // SAFETY: tests write inside of blocks that they allocated.
        let at = unsafe { at.cast::<u64>().add(word) };
        // SAFETY: as above.
        unsafe { at.write(value) };
        let offset = at.addr().get() - self.heap.region().base().addr();
        self.record.change(offset as u64, &value.to_le_bytes());
    }
}

fn commit<R>(heap: &Heap, body: impl FnOnce(&mut Tx<'_>) -> R) -> R {
    let mut writer = heap.region().writer().expect("open");
    let mut tx = Tx {
        heap,
        record: Record::new(),
        blocks: Vec::new(),
    };
    let result = body(&mut tx);
    let mut entries: Vec<_> = tx.blocks.iter().filter_map(|block| block.entry).collect();
    entries.sort_by_key(|entry| entry.offset);
    entries.dedup();
    for entry in &entries {
        tx.record.change(entry.offset, &entry.bytes);
    }
    let ticket = writer
        .append(&mut tx.record, Durability::Immediate)
        .expect("room in the log");
    drop(writer);
    heap.region()
        .wait_durable(ticket.seq)
        .expect("no I/O error");
    for entry in &entries {
        heap.entry_durable(entry);
    }
    result
}

fn root_of(heap: &Heap) -> NonNull<u8> {
    heap.root().unwrap_or_else(|| {
        commit(heap, |tx| {
            let root = tx.alloc(Layout::new::<Node>()).expect("room");
            tx.put(root, 0, 0);
            tx.put(root, 1, 0);
            let base = NonNull::new(heap.region().base()).expect("mapped");
            // SAFETY: the slot lies in the home.
            let slot = unsafe { base.add(heap.root_slot() as usize) };
            tx.put(slot, 0, root.addr().get() as u64);
            root
        })
    })
}

/// Hangs a node of `size` bytes between the root and its chain.
fn push(heap: &Heap, size: usize) {
    let root = root_of(heap);
    commit(heap, |tx| {
        let layout = Layout::from_size_align(size.max(16), 8).expect("a layout");
        let node = tx.alloc(layout).expect("room");
        let [next, len] = node_at(root);
        tx.put(node, 0, next);
        tx.put(node, 1, 0);
        tx.put(root, 0, node.addr().get() as u64);
        tx.put(root, 1, len + 1);
    });
}

/// Takes the first node off.
fn pop(heap: &Heap) {
    let root = root_of(heap);
    let [first, len] = node_at(root);
    let Some(node) = NonNull::new(std::ptr::with_exposed_provenance_mut(first as usize)) else {
        return;
    };
    let [next, _] = node_at(node);
    commit(heap, |tx| {
        tx.put(root, 0, next);
        tx.put(root, 1, len - 1);
    });
    // SAFETY: the node is out of the chain, durably.
    unsafe { heap.free(node) }.expect("a live block");
}

fn node_at(at: NonNull<u8>) -> [u64; 2] {
    // SAFETY: tests pass nodes.
    unsafe { at.cast::<[u64; 2]>().read() }
}

/// Nodes of the chain, as counted, not as noted.
fn chain(heap: &Heap) -> u64 {
    let Some(root) = heap.root() else { return 0 };
    let (mut at, mut count) = (node_at(root)[0], 0);
    while let Some(node) = NonNull::new(std::ptr::with_exposed_provenance_mut(at as usize)) {
        at = node_at(node)[0];
        count += 1;
    }
    assert_eq!(count, node_at(root)[1]);
    count
}

fn options() -> Options {
    let mut options = Options::new();
    options.max_size(256 << 20).log_size(1 << 20);
    options
}

#[test]
fn a_clean_close_is_followed_by_an_open_that_does_not_mark() {
    let place = places::place();
    let path = place.region();
    let region = options().open(path).expect("creates");
    assert!(!Heap::exists(&region));
    let heap = Heap::create(region, &schema()).expect("formats");
    for size in [16, 100, 5000, 60_000, 300_000, 2 << 20] {
        push(&heap, size);
    }
    pop(&heap);
    let stats = heap.stats();
    assert_eq!(stats.live_blocks, 6);
    heap.close().expect("closes");
    heap.close().expect("is closed");
    assert!(matches!(
        heap.alloc(Layout::new::<u64>()),
        Err(Error::Closed)
    ));
    drop(heap);

    for _ in 0..3 {
        let heap = Heap::open(options().open(path).expect("opens")).expect("opens");
        assert!(!heap.report().marked);
        assert_eq!((heap.report().blocks, chain(&heap)), (6, 5));
        assert_eq!(heap.stats().live_bytes, stats.live_bytes);
        assert_eq!(heap.check().expect("sound").blocks, 6);
        assert_eq!(heap.schema(), &schema());
    }
    let region = options().open(path).expect("opens");
    assert!(matches!(
        Heap::create(region, &schema()),
        Err(Error::HeapExists)
    ));
}

/// What the allocator keeps for later is room for what a close saves.
#[test]
fn a_region_without_free_space_but_empty_superblocks_closes_cleanly() {
    const BLOCKS: usize = (64 << 10) / 8;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.region");
    let mut options = options();
    options.max_size(4 << 20);
    let heap = Heap::create(options.open(&path).expect("creates"), &schema()).expect("formats");
    let layout = Layout::new::<u64>();
    let fill = || {
        let next = || {
            let at_hand = heap.alloc_at_hand(layout);
            at_hand.or_else(|| {
                let block = heap.alloc(layout).ok()?;
                if let Some(entry) = &block.entry {
                    heap.entry_durable(entry);
                }
                Some(block.ptr)
            })
        };
        let blocks: Vec<_> = std::iter::from_fn(next).collect();
        for (at, block) in blocks.iter().enumerate() {
            // A block stays in most superblocks, to be saved; none in the last ones.
            if !at.is_multiple_of(BLOCKS) || at + 8 * BLOCKS > blocks.len() {
                // SAFETY: nobody uses it, nor did ever.
                unsafe { heap.free(*block) }.expect("live");
            }
        }
    };
    // A thread that ends gives all that it has away.
    std::thread::scope(|scope| scope.spawn(fill).join().expect("no panic"));
    heap.close().expect("closes");
    drop(heap);
    let heap = Heap::open(options.open(&path).expect("opens")).expect("opens");
    assert!(!heap.report().marked);
}

#[test]
fn the_numbers_of_the_classes_add_up() {
    let place = places::place();
    let region = options().open(place.region()).expect("creates");
    let heap = Heap::create(region, &schema()).expect("formats");
    let sizes = [16, 16, 64, 100, 5000, 20_000, 300_000];
    let blocks = sizes.map(|size| {
        let layout = Layout::from_size_align(size, 8).expect("a layout");
        heap.alloc(layout).expect("room").ptr.addr()
    });
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let ptr = NonNull::new(std::ptr::with_exposed_provenance_mut(blocks[0].get()));
            // SAFETY: nobody uses it.
            unsafe { heap.free(ptr.expect("not null")) }.expect("a block");
        });
        other.join().expect("no panic");
    });
    let stats = heap.stats();
    let sizes: Vec<u64> = stats.classes.iter().map(|class| class.size).collect();
    assert_eq!(sizes, [16, 64, 104, 5120, 20_480]);
    assert_eq!((stats.large_runs, stats.remote_frees), (1, 1));
    let live: u64 = stats.classes.iter().map(|class| class.live_blocks).sum();
    assert_eq!((live, stats.live_blocks), (5, 6));
    assert_eq!(stats.by_use.quarter, 5);
    let reserved: u64 = stats.classes.iter().map(|class| class.reserved_bytes).sum();
    assert!(reserved < stats.reserved_bytes && stats.reserved_bytes <= stats.reserved_peak);
    assert!(
        stats
            .classes
            .iter()
            .all(|class| class.fragmentation() > 0.9 || class.size > 5000)
    );
    assert_eq!(format!("{stats:#}").lines().count(), 8 + 5, "{stats:#}");
}

#[test]
fn an_open_in_between_makes_the_saved_state_stale() {
    let place = places::place();
    let path = place.region();
    let heap = Heap::create(options().open(path).expect("creates"), &schema()).expect("formats");
    push(&heap, 100);
    drop(heap);
    drop(options().open(path).expect("opens"));
    let heap = Heap::open(options().open(path).expect("opens")).expect("opens");
    assert!(heap.report().marked);
    assert_eq!(heap.check().expect("sound").blocks, 2);
}

#[test]
fn what_no_transaction_committed_is_free_after_marking() {
    let place = places::place();
    let path = place.region();
    let heap = Heap::create(options().open(path).expect("creates"), &schema()).expect("formats");
    push(&heap, 100);
    for _ in 0..1000 {
        heap.alloc(Layout::new::<[u64; 4]>()).expect("room");
    }
    assert!(matches!(
        heap.check(),
        Err(Error::Leaked {
            blocks: 1000,
            bytes: 32_000,
            ..
        })
    ));
    drop(heap);
    drop(options().open(path).expect("opens"));
    let heap = Heap::open(options().open(path).expect("opens")).expect("opens");
    assert_eq!((heap.report().blocks, heap.stats().live_blocks), (2, 2));
    heap.check().expect("sound");
}

#[test]
fn a_region_without_a_heap_says_so() {
    let place = places::place();
    let region = options().open(place.region()).expect("creates");
    let error = Heap::open(region).expect_err("there is none");
    assert!(error.to_string().contains("it is empty"), "{error}");
}

#[test]
fn mistakes_of_the_caller_are_told() {
    let place = places::place();
    let region = options().open(place.region()).expect("creates");
    let heap = Heap::create(region, &schema()).expect("formats");
    let block = heap
        .alloc(Layout::from_size_align(100, 64).expect("a layout"))
        .expect("room");
    assert_eq!(block.ptr.addr().get() % 64, 0);
    assert_eq!(heap.usable_size(block.ptr).expect("a block"), 128);
    // SAFETY: not a block, which is the point.
    let inside = unsafe { heap.free(block.ptr.add(8)) };
    assert!(matches!(inside, Err(Error::NotABlock { .. })));
    let mut local = 0u64;
    // SAFETY: not a block, which is the point.
    let foreign = unsafe { heap.free(NonNull::from(&mut local).cast()) };
    assert!(matches!(foreign, Err(Error::NotABlock { .. })));
    // SAFETY: nobody uses it.
    unsafe { heap.free(block.ptr) }.expect("a block");
    // SAFETY: it is free already, which is the point.
    let twice = unsafe { heap.free(block.ptr) };
    assert!(matches!(twice, Err(Error::DoubleFree { .. })));
    let text = twice.expect_err("refused").to_string();
    let (first, size) = (block.ptr.addr().get() as u64 & !0xffff, 128);
    let around = format!(
        "superblock at {first:#x}: {} of {size} bytes",
        (64 << 10) / size
    );
    assert!(text.contains(&around), "{text} without {around}");
    let nothing = Layout::from_size_align(0, 1).expect("a layout");
    assert!(matches!(
        heap.alloc(nothing),
        Err(Error::BadLayout { size: 0, .. })
    ));
    // Also where the thread has blocks of that class at hand.
    let byte = heap.alloc(Layout::new::<u8>()).expect("room");
    heap.entry_durable(&byte.entry.expect("a new superblock"));
    heap.alloc(Layout::new::<u8>()).expect("room");
    assert!(heap.alloc_at_hand(Layout::new::<u8>()).is_some());
    assert_eq!(heap.alloc_at_hand(nothing), None);
    let huge = Layout::from_size_align(1 << 30, 8).expect("a layout");
    assert!(matches!(heap.alloc(huge), Err(Error::Region(_))));
}

#[test]
fn an_entry_is_reported_until_it_is_durable() {
    let place = places::place();
    let region = options().open(place.region()).expect("creates");
    let heap = Heap::create(region, &schema()).expect("formats");
    for layout in [Layout::new::<u64>(), Layout::new::<[u64; 1000]>()] {
        let first = heap
            .alloc(layout)
            .expect("room")
            .entry
            .expect("a new superblock");
        let second = heap
            .alloc(layout)
            .expect("room")
            .entry
            .expect("still not durable");
        assert_eq!(first, second);
        heap.entry_durable(&first);
        assert_eq!(heap.alloc(layout).expect("room").entry, None);
    }
}

#[test]
fn threads_come_and_go_in_any_order_with_the_heap() {
    let place = places::place();
    let region = options().open(place.region()).expect("creates");
    let heap = Arc::new(Heap::create(region, &schema()).expect("formats"));
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let heap = heap.clone();
            std::thread::spawn(move || {
                for _ in 0..1000 {
                    let block = heap.alloc(Layout::new::<[u64; 6]>()).expect("room");
                    // SAFETY: nobody else knows it.
                    unsafe { heap.free(block.ptr) }.expect("a block");
                }
                drop(heap);
                thread
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    let outlives = {
        let heap = heap.clone();
        std::thread::spawn(move || {
            heap.alloc(Layout::new::<[u64; 6]>()).expect("room");
            drop(heap);
            wait.recv().expect("told to end");
        })
    };
    while Arc::strong_count(&heap) > 1 {
        std::thread::yield_now();
    }
    assert_eq!(heap.stats().live_blocks, 1);
    drop(heap);
    done.send(()).expect("it waits");
    outlives.join().expect("no panic");
}

#[test]
fn allocating_and_freeing_touch_no_medium() {
    let place = places::place();
    let region = options().open(place.region()).expect("creates");
    let heap = Heap::create(region, &schema()).expect("formats");
    let layouts = [16, 64, 5000, 60_000, 300_000]
        .map(|size| Layout::from_size_align(size, 8).expect("a layout"));
    let (_, counts) = Counts::of(|| {
        for layout in layouts {
            let block = heap.alloc(layout).expect("room");
            // SAFETY: nobody else knows it.
            unsafe { heap.free(block.ptr) }.expect("a block");
        }
        heap.alloc(layouts[0]).expect("room");
    });
    assert_eq!(counts, Counts::default());
}

#[test]
fn a_thread_may_use_two_heaps_by_turns() {
    let folder = places::folder();
    let heaps = ["a", "b"].map(|name| {
        let region = options().open(folder.path().join(name)).expect("creates");
        Heap::create(region, &schema()).expect("formats")
    });
    let mut blocks = Vec::new();
    for at in 0..3000 {
        let heap = &heaps[at % 2];
        let ptr = heap.alloc(Layout::new::<[u64; 8]>()).expect("room").ptr;
        assert!(heap.region().contains(ptr.addr().get()));
        blocks.push((at % 2, ptr));
    }
    for (at, ptr) in blocks {
        // SAFETY: not of this heap, which is the point.
        let foreign = unsafe { heaps[1 - at].free(ptr) };
        assert!(matches!(foreign, Err(Error::NotABlock { .. })));
        // SAFETY: nobody uses it.
        unsafe { heaps[at].free(ptr) }.expect("a block");
    }
    assert!(heaps.iter().all(|heap| heap.stats().live_blocks == 0));
}

/// Every image that a crash may leave within the bound holds exactly the
/// transactions that were acknowledged, perhaps one more, and nothing leaks.
#[test]
fn no_crash_loses_or_leaks_a_block() {
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
        root_of(&heap);
        let mut length = 0;
        let note = |length: u64| medium.note(length);
        note(0);
        let mut step = |heap: &Heap, size: Option<usize>| {
            match size {
                Some(size) => {
                    push(heap, size);
                    length += 1;
                }
                None => {
                    pop(heap);
                    length -= 1;
                }
            }
            note(length);
        };
        // Superblocks live, die and are reused for another class and for runs.
        for size in [64, 8192, 8192, 70_000] {
            step(&heap, Some(size));
        }
        for _ in 0..3 {
            step(&heap, None);
        }
        heap.region().checkpoint().expect("no I/O error");
        for size in [3 << 20, 200_000, 16, 5000, 64] {
            step(&heap, Some(size));
        }
        step(&heap, None);
        heap.close().expect("closes");
        let trace = medium.trace();
        drop(heap);
        drop(medium);
        let bound = Bound {
            images_per_point: 24,
            ..Bound::default()
        };
        let images = trace.explore(bound, |crash| {
            let medium = SimMedium::new(kind, crash.image, &memory);
            medium.stop_recording();
            let region = match options.open_on(medium) {
                Ok(region) => region,
                Err(_) if crash.notes.is_empty() => return Ok(()),
                Err(error) => return Err(error.to_string()),
            };
            let told = crash.notes.last().copied();
            if told.is_none() && !Heap::exists(&region) {
                return Ok(());
            }
            verify(region, told)
        });
        println!("{kind:?}: {} images", images.expect("every image recovers"));
    }
}

fn verify(region: Region, told: Option<u64>) -> Result<(), String> {
    let heap = Heap::open(region).map_err(|error| error.to_string())?;
    let report = heap.check().map_err(|error| error.to_string())?;
    let found = chain(&heap);
    if report.blocks != found + u64::from(heap.root().is_some()) {
        return Err(format!("{} blocks for a chain of {found}", report.blocks));
    }
    match told {
        Some(told) if found.abs_diff(told) > 1 => Err(format!("{found} nodes, {told} were told")),
        None if found > 0 => Err(format!("{found} nodes before there was one")),
        _ => Ok(()),
    }?;
    // And it goes on.
    push(&heap, 1000);
    push(&heap, 100_000);
    let report = heap.check().map_err(|error| error.to_string())?;
    if report.blocks != found + 3 {
        return Err(format!("{} blocks after two more", report.blocks));
    }
    Ok(())
}

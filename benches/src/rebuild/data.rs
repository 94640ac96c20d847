//! The data that is rebuilt: objects of 64 bytes, one shape a region, written block by block
//! through the log, so that where each object lies is exactly as asked for.

use bartender::{PBox, PVec, Persist};
use bartender_heap::layout::RawVec;
use bartender_heap::{Heap, Schema};
use bartender_pm::{Durability, Options, Record};
use std::alloc::Layout;
use std::collections::HashSet;
use std::error::Error;
use std::path::Path;
use std::ptr::NonNull;

/// Bytes of an object.
const OBJECT: usize = 64;
/// Objects in one record.
const BATCH: usize = 16 << 10;

/// An object without pointers.
type Plain = [u64; 8];

#[derive(Persist)]
#[repr(C)]
pub(super) struct Node {
    left: Option<PBox<Node>>,
    right: Option<PBox<Node>>,
    rest: [u64; 6],
}

#[derive(Persist)]
#[repr(C)]
pub(super) struct Link {
    next: Option<PBox<Link>>,
    rest: [u64; 7],
}

/// What the root leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A vector of boxes.
    Vector,
    /// A binary tree, as level as can be; its order is the one of a walk, the left half first.
    Tree,
    List,
}

impl Shape {
    fn schema(self) -> Result<Schema, Box<dyn Error>> {
        Ok(match self {
            Shape::Vector => Schema::of(<PVec<PBox<Plain>> as Persist>::describe)?,
            Shape::Tree => Schema::of(<Option<PBox<Node>> as Persist>::describe)?,
            Shape::List => Schema::of(<Option<PBox<Link>> as Persist>::describe)?,
        })
    }

    /// The two objects (by their order) that each object points to; 0: none.
    fn links(self, n: usize) -> Vec<[u32; 2]> {
        let mut links = vec![[0; 2]; n];
        match self {
            Shape::Vector => {}
            Shape::List => {
                for (i, link) in links[..n - 1].iter_mut().enumerate() {
                    link[0] = i as u32 + 1;
                }
            }
            Shape::Tree => {
                let mut sizes = vec![0; n];
                sizes[0] = n;
                for at in 0..n {
                    let left = (sizes[at] - 1) / 2;
                    let right = sizes[at] - 1 - left;
                    for (side, (size, child)) in [(left, at + 1), (right, at + 1 + left)]
                        .into_iter()
                        .enumerate()
                    {
                        if size > 0 {
                            sizes[child] = size;
                            links[at][side] = child as u32;
                        }
                    }
                }
            }
        }
        links
    }
}

/// Makes the region; returns when it is all in the home. The caller dies without closing it.
pub(super) fn build(
    path: &Path,
    shape: Shape,
    n: usize,
    shuffled: bool,
) -> Result<(), Box<dyn Error>> {
    let mut options = Options::new();
    options.max_size(4 << 30).log_size(64 << 20);
    let region = options.open(path)?;
    let heap = Heap::create(region, &shape.schema()?)?;
    let region = heap.region();
    let base = region.base().expose_provenance() as u64;
    let mut out = Out {
        heap: &heap,
        record: Record::new(),
        entries: Vec::new(),
    };
    let mut known = HashSet::new();
    let mut alloc = |out: &mut Out<'_>, size: usize| -> Result<u64, Box<dyn Error>> {
        let block = heap.alloc(Layout::from_size_align(size, 8)?)?;
        if let Some(entry) = block.entry
            && known.insert(entry.offset)
        {
            out.record.change(entry.offset, &entry.bytes);
            out.entries.push(entry);
        }
        Ok(block.ptr.addr().get() as u64)
    };
    let mut blocks = Vec::with_capacity(n);
    for _ in 0..n {
        blocks.push(alloc(&mut out, OBJECT)?);
    }
    blocks.sort_unstable();
    // Which place each object takes, and which object has each place.
    let mut places: Vec<u32> = (0..n as u32).collect();
    if shuffled {
        let mut seed = 7u64;
        for i in (1..n).rev() {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            places.swap(i, ((seed >> 33) % (i as u64 + 1)) as usize);
        }
    }
    let mut objects = vec![0; n];
    for (object, &place) in places.iter().enumerate() {
        objects[place as usize] = object;
    }
    let address = |object: u32| blocks[places[object as usize] as usize];
    let links = shape.links(n);
    for (place, &object) in objects.iter().enumerate() {
        let mut words: Plain = [object as u64; 8];
        if shape != Shape::Vector {
            words[0] = 0;
        }
        if shape == Shape::Tree {
            words[1] = 0;
        }
        for (side, &link) in links[object].iter().enumerate() {
            if link != 0 {
                words[side] = address(link);
            }
        }
        out.change(blocks[place] - base, &words);
        if place % BATCH == BATCH - 1 {
            out.commit()?;
        }
    }
    let root = match shape {
        Shape::Vector => {
            let ptr = alloc(&mut out, n * 8)?;
            for from in (0..n).step_by(BATCH) {
                let to = (from + BATCH).min(n);
                let boxes: Vec<u64> = (from..to).map(|i| address(i as u32)).collect();
                out.change(ptr - base + from as u64 * 8, &boxes);
                out.commit()?;
            }
            let root = alloc(&mut out, size_of::<RawVec>())?;
            out.change(root - base, &[ptr, n as u64, n as u64]);
            root
        }
        Shape::Tree | Shape::List => {
            let root = alloc(&mut out, 8)?;
            out.change(root - base, &[address(0)]);
            root
        }
    };
    out.change(heap.root_slot(), &[root]);
    out.commit()?;
    region.checkpoint()?;
    // The process is to end as by a crash.
    std::mem::forget(heap);
    Ok(())
}

/// Changes on their way to the region.
struct Out<'a> {
    heap: &'a Heap,
    record: Record,
    entries: Vec<bartender_heap::Entry>,
}

impl Out<'_> {
    fn change(&mut self, offset: u64, words: &[u64]) {
        for (at, piece) in (offset..).step_by(OBJECT).zip(words.chunks(OBJECT / 8)) {
            let mut bytes = [0; OBJECT];
            for (to, word) in bytes.chunks_exact_mut(8).zip(piece) {
                to.copy_from_slice(&word.to_le_bytes());
            }
            self.record.change(at, &bytes[..piece.len() * 8]);
        }
    }

    fn commit(&mut self) -> Result<(), Box<dyn Error>> {
        let region = self.heap.region();
        let ticket = region
            .writer()?
            .append(&mut self.record, Durability::Immediate)?;
        region.wait_durable(ticket.seq)?;
        self.record.clear();
        for entry in self.entries.drain(..) {
            self.heap.entry_durable(&entry);
        }
        Ok(())
    }
}

/// Follows the list in an open heap by plain loads; returns how long it is.
pub(super) fn chase(heap: &Heap) -> u64 {
    let Some(root) = heap.root() else { return 0 };
    // SAFETY: opening has checked it: the root is a pointer to a link or null, and so is the
    // first word of each link; nobody writes.
    unsafe {
        let mut count = 0;
        let mut next = root.cast::<u64>().read();
        while let Some(link) =
            NonNull::new(std::ptr::with_exposed_provenance_mut::<u64>(next as usize))
        {
            next = link.read();
            count += 1;
        }
        count
    }
}

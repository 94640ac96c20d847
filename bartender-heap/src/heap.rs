//! The heap of a region.
//!
//! It promises what its methods say; the allocator below knows offsets only,
//! here they become addresses, errors and durable records. What is committed,
//! and when a block may be given back, the transactions above know.

mod describe;
mod inspect;
mod marking;
mod open;
mod purge;
mod untyped;

pub use describe::NewSchema;
pub use marking::Marking;

use crate::arena::{Arena, Refused};
use crate::class;
use crate::error::{Around, Error, Result};
use crate::header;
use crate::layout::{TableEntry, UNIT};
use crate::local::DIRECT;
use crate::map::Chunks;
use crate::stats::OpenReport;
use crate::superblock::Ref;
use crate::table::{entry_offset, entry_unit};
use crate::tls::{self, Thread};
use crate::types::Schema;
use bartender_pm::Region;
use bartender_pm::sync::Mutex;
use marking::Marker;
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::*};

/// Number of a heap that is closed: no thread ever has a heap in it.
const CLOSED: u64 = u64::MAX;

/// The heap of a region: blocks of its home, handed out and taken back.
///
/// Allocating and freeing cost no lock, no locked instruction, no flush and no
/// fence on the common path, and write nothing to the medium. Blocks come with
/// whatever bytes they held before.
///
/// * `number` is what threads know this heap by; it changes once, to `CLOSED`,
///   so that the common path finds a closed heap without looking for it.
/// * `arena` is shared with the threads that have a heap in it, which give it
///   back when they end; everything in it rules itself.
/// * the rest does not change.
pub struct Heap {
    number: AtomicU64,
    base: usize,
    /// Of `arena`'s map.
    chunks: Chunks,
    arena: Arc<Arena>,
    marker: Marker,
    region: Region,
    schema: Schema,
    /// Where the schema lies, first unit and units. Home bytes of header, schema and table pieces are not the arena's.
    schema_at: (u64, u64),
    report: OpenReport,
    closing: Mutex<()>,
}

/// A block that was handed out.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    /// Its first byte, in the view.
    pub ptr: NonNull<u8>,
    /// The table entry of its superblock, while that is not durable: it has to
    /// be in the record of the transaction that commits the block.
    pub entry: Option<Entry>,
    /// Nothing that a recovery could replay touches it, so it may be written
    /// straight to the home.
    pub fresh: bool,
}

/// How far a [short free](Heap::free_near) has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freed {
    /// The block is free.
    Done,
    /// The block is free, and [`Heap::settle`] has to be called.
    Settle,
    /// Nothing was done: [`Heap::free`] does it, or says what is wrong.
    NotNear,
}

/// An entry of the superblock table on its way to the medium: change `bytes`
/// at home offset `offset` in the record, without storing them in the view;
/// when the record is durable, say so by [`Heap::entry_durable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Home offset.
    pub offset: u64,
    /// What goes there.
    pub bytes: [u8; 16],
}

impl Heap {
    /// How the heap was opened.
    pub fn report(&self) -> &OpenReport {
        &self.report
    }

    /// The region.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The description of the types in it, as stored.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The root's block, as the view has it.
    pub fn root(&self) -> Option<NonNull<u8>> {
        // SAFETY: the header is in allocated home space and aligned; the word
        // changes in the first transaction only.
        let address = unsafe {
            self.region
                .base()
                .add(header::ROOT as usize)
                .cast::<u64>()
                .read()
        };
        NonNull::new(std::ptr::with_exposed_provenance_mut(address as usize))
    }

    /// Whether blocks are handed out in random order within their superblocks,
    /// which makes what lies beside a block hard to foresee. Counts for
    /// superblocks that a thread begins to allocate from later. Default: in the
    /// order of addresses. Cost: where that takes 64 blocks from the bitmap at a
    /// time, this takes about eight.
    pub fn set_random_order(&self, random: bool) {
        self.arena.set_random_order(random);
    }

    /// Home offset of the 8 bytes that hold the root's address.
    pub fn root_slot(&self) -> u64 {
        header::ROOT
    }

    /// A block for `layout`. Cost: no barrier; the lock of the global heap when
    /// the thread's superblock is used up, and growth of the region when all are. Where
    /// there is no space, and marking in the background may still find some, it waits
    /// for that.
    ///
    /// # Errors
    /// `OutOfSpace` and `Io` of the region, `BadLayout`, `Closed`.
    #[inline]
    pub fn alloc(&self, layout: Layout) -> Result<Block> {
        match self.alloc_at_hand(layout) {
            Some(ptr) => Ok(Block {
                ptr,
                entry: None,
                fresh: false,
            }),
            None => self.alloc_slowly(layout),
        }
    }

    /// A block for `layout` without an entry and not fresh, if the thread has
    /// one at hand. `None` says nothing: ask [`alloc`](Self::alloc). For who
    /// allocates much: an address comes back in a register, a [`Block`] in
    /// memory, which takes as long as the rest.
    #[inline(always)]
    pub fn alloc_at_hand(&self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.align() <= 8
            // SAFETY: asked for just now.
            && let Some(block) = unsafe { self.alloc_near(Thread::current(), layout.size()) }
        {
            return Some(block);
        }
        self.alloc_ready(layout)
    }

    /// The shortest way to a block of up to 1 KiB, aligned to 8 bytes, as
    /// [`alloc_at_hand`](Self::alloc_at_hand). It calls nothing.
    ///
    /// # Safety
    /// `thread` is the calling one, which has called nothing of any heap since it
    /// asked for that.
    #[inline(always)]
    pub unsafe fn alloc_near(&self, thread: Thread, size: usize) -> Option<NonNull<u8>> {
        let words = size.div_ceil(8);
        if words > DIRECT {
            return None;
        }
        // SAFETY: `self` keeps the arena alive; the heap is the calling thread's
        // own, and so many words there are.
        let address = unsafe {
            let local = thread.last(self.number.load(Relaxed))?;
            local.direct(words).take_near()?
        };
        Some(Self::at_address(address))
    }

    /// The same for blocks as C wants them: from 9 bytes on aligned to 16, and of
    /// one byte where none is asked for.
    ///
    /// # Safety
    /// As [`alloc_near`](Self::alloc_near).
    #[inline(always)]
    pub unsafe fn alloc_near_c(&self, thread: Thread, size: usize) -> Option<NonNull<u8>> {
        if size > DIRECT * 8 {
            return None;
        }
        // SAFETY: as in `alloc_near`.
        let address = unsafe {
            let local = thread.last(self.number.load(Relaxed))?;
            local.direct_c(size.div_ceil(8)).take_near()?
        };
        Some(Self::at_address(address))
    }

    /// A block of a superblock that is ready, whose hand may be empty.
    #[cold]
    #[inline(never)]
    fn alloc_ready(&self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.size() == 0 {
            return None;
        }
        let class = class::of(layout.size(), layout.align())?;
        // SAFETY: `self` keeps the arena alive; the heap is the calling thread's
        // own, and `of` returns classes.
        let address = unsafe {
            let local = tls::last(self.number.load(Relaxed))?;
            local.draw(local.ready(class))?
        };
        Some(Self::at_address(address))
    }

    #[inline(always)]
    fn at_address(address: u64) -> NonNull<u8> {
        let address = std::ptr::with_exposed_provenance_mut(address as usize);
        // SAFETY: the view is not at address 0.
        unsafe { NonNull::new_unchecked(address) }
    }

    fn address(&self, offset: u64) -> NonNull<u8> {
        Self::at_address(self.base as u64 + offset)
    }

    fn entry(&self, superblock: Ref) -> Entry {
        Entry {
            offset: entry_offset(superblock.unit(), self.region.max_size() / UNIT),
            bytes: superblock.entry().to_bytes(),
        }
    }

    /// The block with its entry, if that has to travel along.
    #[cold]
    fn block(&self, superblock: Ref, offset: u64, fresh: bool) -> Result<Block> {
        let entry = (!superblock.is_durable()).then(|| self.entry(superblock));
        let ptr = self.address(offset);
        Ok(Block { ptr, entry, fresh })
    }

    #[cold]
    fn alloc_slowly(&self, layout: Layout) -> Result<Block> {
        let number = self.number.load(Relaxed);
        if number == CLOSED {
            return Err(Error::Closed);
        }
        if layout.size() == 0 {
            return Err(Error::BadLayout {
                size: 0,
                align: layout.align(),
                what: "a block has a byte at least",
            });
        }
        let Some(class) = class::of(layout.size(), layout.align()) else {
            return self.alloc_large(layout);
        };
        // SAFETY: `self` keeps the arena alive, and the heap is the calling thread's own.
        let got = self.marker.make_room(|| unsafe {
            let local = tls::last(number).or_else(|| tls::search(number));
            match local.or_else(|| tls::join(&self.arena)) {
                Some(local) => self.arena.alloc(local, class, &self.region),
                None => {
                    // The thread is ending: a heap for this one block.
                    let local = self.arena.join();
                    let got = self.arena.alloc(local.as_ref(), class, &self.region);
                    self.arena.retire(local);
                    got
                }
            }
        })?;
        self.block(got.superblock, got.offset, got.fresh)
    }

    fn alloc_large(&self, layout: Layout) -> Result<Block> {
        let (size, align) = (layout.size(), layout.align());
        if !self.base.is_multiple_of(align) {
            let what = "the region itself is not aligned so far";
            return Err(Error::BadLayout { size, align, what });
        }
        let number = self.number.load(Relaxed);
        // SAFETY: `self` keeps the arena alive, and the heap is the calling thread's own.
        let got = self.marker.make_room(|| unsafe {
            match tls::last(number).or_else(|| tls::search(number)) {
                Some(local) => self.arena.alloc_large_by(local, size, align, &self.region),
                None => self.arena.alloc_large(size, align, &self.region),
            }
        })?;
        self.block(got.superblock, got.offset, got.fresh)
    }

    /// A record with `entry` in it is durable: blocks of its superblock come without it from now on.
    pub fn entry_durable(&self, entry: &Entry) {
        let max = self.region.max_size() / UNIT;
        let unit = entry_unit(entry.offset, max);
        if let Some(superblock) = unit.and_then(|unit| self.arena.map().at(unit * UNIT)) {
            superblock.set_durable(TableEntry::from_bytes(entry.bytes).birth);
        }
    }

    /// Takes a block back. Cost: as [`Self::alloc`]; two locked instructions if
    /// another thread owns its superblock.
    ///
    /// # Errors
    /// `NotABlock` and `DoubleFree`, as far as can be seen: nothing was changed.
    ///
    /// # Safety
    /// `ptr` is a block of this heap, nobody uses it any more, and its free is
    /// durable or it was never committed.
    #[inline(always)]
    pub unsafe fn free(&self, ptr: NonNull<u8>) -> Result<()> {
        // SAFETY: as the caller says; where it was not done, nothing was.
        unsafe {
            match self.free_near(Thread::current(), ptr) {
                Freed::Done => Ok(()),
                Freed::Settle => {
                    self.settle(ptr);
                    Ok(())
                }
                Freed::NotNear => self.free_slowly(ptr),
            }
        }
    }

    /// The shortest way to take a block back: it calls nothing.
    ///
    /// # Safety
    /// As [`Self::free`] and [`Self::alloc_near`].
    #[inline(always)]
    pub unsafe fn free_near(&self, thread: Thread, ptr: NonNull<u8>) -> Freed {
        let offset = ptr.addr().get().wrapping_sub(self.base) as u64;
        if let Some(superblock) = self.chunks.at(offset)
            // The thread's own heap in this arena, which owners are of.
            && thread.is_at(superblock.owner().cast())
            && let Some(index) = superblock.index_near(offset)
            // SAFETY: of the calling thread's own heap in this arena.
            && let Ok(told) = unsafe { superblock.give_near(index) }
        {
            return if told { Freed::Settle } else { Freed::Done };
        }
        Freed::NotNear
    }

    /// What is left to do after `Freed::Settle`: a step in the superblock's use
    /// is looked at.
    ///
    /// # Safety
    /// The thread has just had that answer for `ptr`.
    #[cold]
    #[inline(never)]
    pub unsafe fn settle(&self, ptr: NonNull<u8>) {
        let offset = ptr.addr().get().wrapping_sub(self.base) as u64;
        if let Some(superblock) = self.chunks.at(offset)
            // SAFETY: `self` keeps the arena alive, and owners are of the arena.
            && let Some(local) = unsafe { tls::last_at(superblock.owner().cast()) }
        {
            // SAFETY: the calling thread's own heap in this arena.
            unsafe { self.arena.settle(local, superblock, &self.region) };
        }
    }

    /// # Safety
    /// As [`Self::free`].
    #[cold]
    #[inline(never)]
    unsafe fn free_slowly(&self, ptr: NonNull<u8>) -> Result<()> {
        let offset = ptr.addr().get().wrapping_sub(self.base) as u64;
        // SAFETY: `self` keeps the arena alive, the heap is the calling
        // thread's own, and the block unused, as the caller says.
        unsafe {
            let local = tls::search(self.number.load(Relaxed));
            self.arena
                .free(local, offset, &self.region)
                .map_err(|refused| self.refused(ptr, refused))
        }
    }

    #[cold]
    fn refused(&self, ptr: NonNull<u8>, refused: Refused) -> Error {
        let address = ptr.addr().get() as u64;
        let offset = address.wrapping_sub(self.base as u64);
        let superblock = self.arena.around(offset).ok().map(|around| Around {
            start: self.base as u64 + around.offset_of(0),
            block_size: around.size(),
            blocks: around.blocks(),
        });
        match refused {
            Refused::NotABlock(why) => Error::NotABlock {
                address,
                why,
                superblock,
            },
            Refused::AlreadyFree => Error::DoubleFree {
                address,
                superblock,
            },
        }
    }

    /// Bytes that the block at `ptr` has, at least what was asked for.
    ///
    /// # Errors
    /// `NotABlock`. (A block that is free is not told from one that is not.)
    pub fn usable_size(&self, ptr: NonNull<u8>) -> Result<usize> {
        let offset = ptr.addr().get().wrapping_sub(self.base) as u64;
        match self.arena.find(offset) {
            Ok((superblock, _)) => Ok(superblock.size() as usize),
            Err(why) => Err(self.refused(ptr, Refused::NotABlock(why))),
        }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // Who wants to know calls `close`; what was acknowledged is safe.
        let _ = self.close();
    }
}

impl std::fmt::Debug for Heap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heap")
            .field("region", &self.region)
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

/// The home as it is in the view. For callers who know that nobody writes meanwhile.
fn home(region: &Region) -> &[u8] {
    // SAFETY: `size` bytes are mapped and readable as long as the region is open.
    unsafe { std::slice::from_raw_parts(region.base(), region.size() as usize) }
}

const _: fn() = || {
    fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<Heap>();
};

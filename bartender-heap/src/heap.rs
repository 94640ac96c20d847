//! The heap of a region.
//!
//! It promises what its methods say; the allocator below knows offsets only,
//! here they become addresses, errors and durable records. What is committed,
//! and when a block may be given back, the transactions above know.

use crate::arena::{Arena, Refused};
use crate::class;
use crate::error::{Error, Result};
use crate::header;
use crate::layout::{HeapHeader, SnapshotRef, TableEntry, UNIT};
use crate::local::Local;
use crate::mark::{MarkReport, View, mark};
use crate::marks::Marks;
use crate::snapshot;
use crate::stats::{CheckReport, OpenReport, Stats};
use crate::superblock::Ref;
use crate::table::{self, Extent, entry_offset, entry_unit};
use crate::tls;
use crate::types::Schema;
use bartender_pm::sync::Mutex;
use bartender_pm::{Durability, Record, Region, Writer};
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::time::Instant;

/// Number of a heap that is closed: no thread ever has a heap in it.
const CLOSED: u64 = u64::MAX;

/// The next heap's number. `std`'s own atomic: it is a name, not a protocol.
static NEXT: AtomicU64 = AtomicU64::new(1);

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
    arena: Arc<Arena>,
    region: Region,
    schema: Schema,
    /// Home bytes of header, schema and table pieces are not the arena's.
    schema_units: u64,
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
    /// Formats the home of a region that holds no heap yet, in one durable record.
    ///
    /// # Errors
    /// `HeapExists`; what the region says.
    pub fn create(region: Region, schema: &Schema) -> Result<Heap> {
        let start = Instant::now();
        if Heap::exists(&region) {
            return Err(Error::HeapExists);
        }
        let arena = Self::arena(&region)?;
        let encoded = schema.encode();
        let units = (encoded.len() as u64).div_ceil(UNIT);
        let at = arena.lock().0.run(units, 1, &region)?.start * UNIT;
        let bytes = header::to_bytes(&header::new(schema, &encoded, at));
        let mut writer = region.writer()?;
        let mut record = Record::new();
        for (offset, bytes) in [(at, &encoded[..]), (0, &bytes[..])] {
            // SAFETY: allocated home space that nobody else knows of yet, and
            // a writer keeps the view in place.
            unsafe {
                let to = region.base().add(offset as usize);
                to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            }
            record.change(offset, bytes);
        }
        let ticket = writer.append(&mut record, Durability::Immediate)?;
        drop(writer);
        region.wait_durable(ticket.seq)?;
        let report = OpenReport {
            created: true,
            took: start.elapsed(),
            ..OpenReport::default()
        };
        Ok(Self::new(region, arena, schema.clone(), units, report))
    }

    /// Whether the region's home holds a heap.
    pub fn exists(region: &Region) -> bool {
        header::is_there(home(region))
    }

    /// Opens the heap in a region: restores what a clean close saved, or else
    /// marks what the root leads to.
    ///
    /// # Errors
    /// `NotAHeap`, `NewerFormat`, `Damaged`, `BadSchema`, `BadData`: nothing was changed.
    pub fn open(region: Region) -> Result<Heap> {
        let start = Instant::now();
        let (header, schema) = header::read(home(&region))?;
        let schema_units = header.schema_len.div_ceil(UNIT);
        let restored = match Self::restore(&region, &header)? {
            Some(restored) => restored,
            None => Self::rebuild(&region, &header, &schema)?,
        };
        let (arena, mut report) = restored;
        report.took = start.elapsed();
        Ok(Self::new(region, arena, schema, schema_units, report))
    }

    fn new(
        region: Region,
        arena: Arena,
        schema: Schema,
        schema_units: u64,
        report: OpenReport,
    ) -> Heap {
        Heap {
            number: AtomicU64::new(NEXT.fetch_add(1, Relaxed)),
            base: region.base().expose_provenance(),
            arena: Arc::new(arena),
            region,
            schema,
            schema_units,
            report,
            closing: Mutex::new(()),
        }
    }

    /// The allocator of a region, with all of the home that is there free but the table.
    fn arena(region: &Region) -> Result<Arena> {
        let max = region.max_size() / UNIT;
        let arena = Arena::new(max);
        // What was freed before is stamped as if it were freed now.
        arena
            .lock()
            .0
            .units
            .grown(region.size() / UNIT, region.last_seq());
        Ok(arena)
    }

    /// An allocator in which the schema has its place.
    fn arena_around(region: &Region, header: &HeapHeader) -> Result<Arena> {
        let arena = Self::arena(region)?;
        let units = header.schema_len.div_ceil(UNIT);
        let at = header.schema_offset;
        if !at.is_multiple_of(UNIT) || !arena.lock().0.units.take_at(at / UNIT, units) {
            let what = "the description of the types lies where it cannot lie".into();
            return Err(Error::Damaged { offset: at, what });
        }
        Ok(arena)
    }

    /// What the last clean close saved, if this open is the next one.
    fn restore(region: &Region, header: &HeapHeader) -> Result<Option<(Arena, OpenReport)>> {
        let SnapshotRef {
            offset,
            len,
            generation,
            crc,
            ..
        } = header.snapshot;
        let opened = region.opened();
        if !opened.clean || offset == 0 || generation.checked_add(1) != Some(opened.generation) {
            return Ok(None);
        }
        let home = home(region);
        let Some(bytes) = header::slice(home, offset, len).filter(|b| crc32c::crc32c(b) == crc)
        else {
            return Ok(None);
        };
        let arena = Self::arena_around(region, header)?;
        let max = region.max_size() / UNIT;
        let durable = |extent: &Extent| {
            let at = entry_offset(extent.unit, max);
            header::slice(home, at, 16) == Some(&extent.entry.to_bytes())
        };
        let (mut global, map) = arena.lock();
        let Ok((blocks, bytes)) = snapshot::restore(bytes, &mut global, map, durable) else {
            return Ok(None);
        };
        drop(global);
        Ok(Some((
            arena,
            OpenReport {
                blocks,
                bytes,
                ..OpenReport::default()
            },
        )))
    }

    /// The allocator's state from the table and the marks.
    fn rebuild(
        region: &Region,
        header: &HeapHeader,
        schema: &Schema,
    ) -> Result<(Arena, OpenReport)> {
        let home = home(region);
        let (end, max) = (region.size() / UNIT, region.max_size() / UNIT);
        let (extents, newest) = table::resolve(table::read(home, max), end, max)?;
        let marks = Marks::new(extents.into_values(), end);
        let home_base = region.base().expose_provenance() as u64;
        let view = View {
            home_base,
            other_base: home_base,
            bytes: home,
        };
        let MarkReport { blocks, bytes, .. } = mark(schema, header.root, view, &marks)?;
        let arena = Self::arena_around(region, header)?;
        let (mut global, map) = arena.lock();
        global.next_birth = newest.checked_add(1).ok_or_else(|| Error::Damaged {
            offset: 0,
            what: "a superblock has the highest number there is".into(),
        })?;
        for (extent, _, words) in marks.each() {
            let words: Vec<u64> = words.map(|(mark, _)| mark).collect();
            if words.iter().all(|word| *word == 0) {
                continue;
            }
            if !global.units.take_at(extent.unit, extent.entry.units.into()) {
                let offset = entry_offset(extent.unit, max);
                let what = "a superblock lies over the description of the types".into();
                return Err(Error::Damaged { offset, what });
            }
            global.restore(extent, true, words.into_iter().map(|word| !word), map);
        }
        drop(global);
        Ok((
            arena,
            OpenReport {
                marked: true,
                blocks,
                bytes,
                ..OpenReport::default()
            },
        ))
    }

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

    /// Home offset of the 8 bytes that hold the root's address.
    pub fn root_slot(&self) -> u64 {
        header::ROOT
    }

    /// A block for `layout`. Cost: no barrier; the lock of the global heap when
    /// the thread's superblock is used up, and growth of the region when all are.
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
    #[inline]
    pub fn alloc_at_hand(&self, layout: Layout) -> Option<NonNull<u8>> {
        let class = class::of(layout.size(), layout.align())?;
        // SAFETY: `self` keeps the arena alive; the heap is the calling
        // thread's own, and `of` returns classes.
        let (superblock, index) =
            unsafe { tls::last(self.number.load(Relaxed))?.alloc_near(class)? };
        Some(self.address(superblock.offset_of(index)))
    }

    #[inline(always)]
    fn address(&self, offset: u64) -> NonNull<u8> {
        let address = std::ptr::with_exposed_provenance_mut(self.base + offset as usize);
        // SAFETY: the view is not at address 0.
        unsafe { NonNull::new_unchecked(address) }
    }

    /// The block with its entry, if that has to travel along.
    #[cold]
    fn block(&self, superblock: Ref, offset: u64, fresh: bool) -> Result<Block> {
        let entry = (!superblock.is_durable()).then(|| Entry {
            offset: entry_offset(superblock.unit(), self.region.max_size() / UNIT),
            bytes: superblock.entry().to_bytes(),
        });
        let ptr = self.address(offset);
        Ok(Block { ptr, entry, fresh })
    }

    #[cold]
    fn alloc_slowly(&self, layout: Layout) -> Result<Block> {
        let number = self.number.load(Relaxed);
        if number == CLOSED {
            return Err(Error::Closed);
        }
        let Some(class) = class::of(layout.size(), layout.align()) else {
            return self.alloc_large(layout);
        };
        // SAFETY: `self` keeps the arena alive, and the heap is the calling thread's own.
        let got = unsafe {
            let local = tls::last(number).or_else(|| tls::search(number));
            match local.or_else(|| tls::join(number, &self.arena)) {
                Some(local) => self.arena.alloc(local, class, &self.region),
                None => {
                    // The thread is ending: a heap for this one block.
                    let local = self.arena.join();
                    let got = self.arena.alloc(local.as_ref(), class, &self.region);
                    self.arena.retire(local);
                    got
                }
            }
        };
        let got = got?;
        self.block(got.superblock, got.offset, got.fresh)
    }

    fn alloc_large(&self, layout: Layout) -> Result<Block> {
        let (size, align) = (layout.size(), layout.align());
        if !self.base.is_multiple_of(align) {
            let what = "the region itself is not aligned so far";
            return Err(Error::BadLayout { size, align, what });
        }
        {
            let got = self.arena.alloc_large(size, align, &self.region)?;
            self.block(got.superblock, got.offset, got.fresh)
        }
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
    #[inline]
    pub unsafe fn free(&self, ptr: NonNull<u8>) -> Result<()> {
        let offset = ptr.addr().get().wrapping_sub(self.base) as u64;
        // SAFETY: `self` keeps the arena alive.
        if let Some(local) = unsafe { tls::last(self.number.load(Relaxed)) }
            // SAFETY: the calling thread's own heap in this arena.
            && let Some((superblock, index)) = unsafe { local.find(offset, self.arena.map()) }
            && let Ok(told) = superblock.give_near(index)
        {
            if told {
                return self.settle(local, superblock);
            }
            return Ok(());
        }
        // SAFETY: as the caller says; nothing has happened yet.
        unsafe { self.free_slowly(ptr) }
    }

    /// For the heap of the calling thread and a superblock of it.
    #[cold]
    fn settle(&self, local: &Local, superblock: Ref) -> Result<()> {
        // SAFETY: the calling thread's own heap in this arena.
        unsafe { self.arena.settle(local, superblock, &self.region) };
        Ok(())
    }

    /// # Safety
    /// As [`Self::free`].
    #[cold]
    unsafe fn free_slowly(&self, ptr: NonNull<u8>) -> Result<()> {
        let offset = ptr.addr().get().wrapping_sub(self.base) as u64;
        // SAFETY: `self` keeps the arena alive, the heap is the calling
        // thread's own, and the block unused, as the caller says.
        unsafe {
            let local = tls::search(self.number.load(Relaxed));
            self.arena
                .free(local, offset, &self.region)
                .map_err(|refused| Self::refused(ptr, refused))
        }
    }

    #[cold]
    fn refused(ptr: NonNull<u8>, refused: Refused) -> Error {
        let address = ptr.addr().get() as u64;
        match refused {
            Refused::NotABlock(why) => Error::NotABlock { address, why },
            Refused::AlreadyFree => Error::DoubleFree { address },
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
            Err(why) => Err(Self::refused(ptr, Refused::NotABlock(why))),
        }
    }

    /// The heap in numbers. Cost: the global lock, and a look at each bitmap.
    pub fn stats(&self) -> Stats {
        let (mut global, map) = self.arena.lock();
        global.collect();
        global.flush(map, &self.region);
        let (end, max) = (global.units.end(), global.units.max());
        let pieces = table::pieces(max).filter(|piece| piece.at < end);
        let table: u64 = pieces.map(|piece| piece.behind().min(end) - piece.at).sum();
        let mut stats = Stats {
            free_bytes: global.units.free() * UNIT,
            table_bytes: (1 + table + self.schema_units) * UNIT,
            home_bytes: self.region.size(),
            max_bytes: self.region.max_size(),
            dram_bytes: global.pool.bytes() + global.local_bytes() + end * 8,
            ..Stats::default()
        };
        for superblock in global.pool.all().filter(|superblock| superblock.is_alive()) {
            let live = u64::from(superblock.live());
            stats.live_blocks += live;
            stats.live_bytes += live * superblock.size();
            stats.reserved_bytes += u64::from(superblock.entry().units) * UNIT;
            if superblock.is_large() {
                stats.large_runs += 1;
            } else if global.owns(superblock) {
                stats.global_superblocks += 1;
            } else {
                stats.thread_superblocks += 1;
            }
        }
        stats
    }

    /// Marks what the root leads to and compares it with what is allocated,
    /// changing nothing. No transaction may run meanwhile.
    ///
    /// # Errors
    /// `BadData` with the path to what cannot be, which may be a free block;
    /// `Leaked` if something allocated cannot be reached.
    pub fn check(&self) -> Result<CheckReport> {
        let start = Instant::now();
        let (global, _) = self.arena.lock();
        let alive = global.pool.all().filter(|superblock| superblock.is_alive());
        let extents = alive.map(|superblock| {
            let extent = Extent {
                unit: superblock.unit(),
                entry: superblock.entry(),
            };
            (extent, superblock.free_words().collect())
        });
        let marks = Marks::with_free(extents, global.units.end());
        // Marking runs on a pool of threads, whose other work may allocate.
        drop(global);
        let home_base = self.region.base().expose_provenance() as u64;
        let view = View {
            home_base,
            other_base: home_base,
            bytes: home(&self.region),
        };
        let root = self.root().map_or(0, |root| root.addr().get() as u64);
        let MarkReport { blocks, bytes, .. } = mark(&self.schema, root, view, &marks)?;
        let mut leaked = (0, 0, None);
        for (extent, size, words) in marks.each() {
            let in_all = class::TABLE
                .get(extent.entry.class as usize)
                .map_or(1, |c| c.blocks);
            for (at, (mark, free)) in words.enumerate() {
                let rest = in_all as usize - at * 64;
                let all = if rest < 64 { (1 << rest) - 1 } else { !0 };
                let lost: u64 = !(mark | free) & all;
                if lost != 0 {
                    let index = at as u64 * 64 + u64::from(lost.trailing_zeros());
                    leaked.0 += u64::from(lost.count_ones());
                    leaked.1 += u64::from(lost.count_ones()) * size;
                    leaked.2.get_or_insert(extent.unit * UNIT + index * size);
                }
            }
        }
        if let (blocks, bytes, Some(first)) = leaked {
            return Err(Error::Leaked {
                blocks,
                bytes,
                first,
            });
        }
        Ok(CheckReport {
            blocks,
            bytes,
            took: start.elapsed(),
        })
    }

    /// Waits for running transactions, saves the allocator's state for the next
    /// open, and closes the region. Later calls do nothing; dropping the heap
    /// does the same and ignores errors.
    ///
    /// # Errors
    /// What the region says: the next open then marks.
    pub fn close(&self) -> Result<()> {
        let _one = self.closing.lock();
        if self.number.load(Relaxed) == CLOSED {
            return Ok(());
        }
        Ok(self.region.close_with(|writer| {
            self.number.store(CLOSED, Relaxed);
            self.save(writer)
        })?)
    }

    /// Saves the allocator's state. No transaction runs, everything is in the
    /// home, so all free space is fresh.
    fn save(&self, writer: &mut Writer<'_>) -> bartender_pm::Result<()> {
        let (mut global, _) = self.arena.lock();
        let bytes = snapshot::save(&global);
        // Without room for it, the next open marks.
        let Ok(run) = global.run(snapshot::units(bytes.len()), 1, &self.region) else {
            return Ok(());
        };
        let snapshot = SnapshotRef {
            offset: run.start * UNIT,
            len: bytes.len() as u64,
            generation: self.region.opened().generation,
            crc: crc32c::crc32c(&bytes),
            reserved: 0,
        };
        writer.write_fresh(snapshot.offset, &bytes)?;
        let mut record = Record::new();
        record.change(header::SNAPSHOT, &header::snapshot_to_bytes(&snapshot));
        writer.append(&mut record, Durability::Immediate)?;
        Ok(())
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

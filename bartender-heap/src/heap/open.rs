//! Creating, opening and closing a heap.
//!
//! It promises that a heap is created in one durable record, that opening
//! changes nothing on the medium, and that what a close saves is used by the
//! very next open or not at all. What the bytes mean, `header`, `table`,
//! `snapshot` and `mark` know.

use super::marking::{Marker, Marking, Walk};
use super::{CLOSED, Heap, home, untyped};
use crate::arena::Arena;
use crate::error::{Error, Result};
use crate::header;
use crate::layout::{HeapHeader, SnapshotRef, UNIT};
use crate::mark::{MarkReport, View, mark};
use crate::marks::Marks;
use crate::snapshot;
use crate::stats::OpenReport;
use crate::table::{self, Extent, entry_offset};
use crate::types::Schema;
use bartender_pm::sync::Mutex;
use bartender_pm::{Durability, Frozen, Record, Region, Writer};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::time::Instant;

/// What is wrong with live blocks where the schema is.
pub(super) const OVER_SCHEMA: &str = "a superblock lies over the description of the types";

/// So much in superblocks is marked before opening returns, if it may be chosen: in a
/// millisecond or two.
const AT_ONCE: u64 = 2 << 20;

/// The superblock table as a crash left it.
struct Table {
    extents: Vec<Extent>,
    next_birth: u64,
}

impl Heap {
    /// Formats the home of a region that holds no heap yet, in one durable record.
    ///
    /// # Errors
    /// `HeapExists`; `NotAHeap` if the home holds something else; what the region says.
    pub fn create(region: Region, schema: &Schema) -> Result<Heap> {
        let start = Instant::now();
        if Heap::exists(&region) {
            return Err(Error::HeapExists);
        }
        if !region.opened().created && !Heap::is_blank(&region) {
            let what = header::GONE.to_owned();
            return Err(Error::NotAHeap { what });
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
        let schema_at = (at / UNIT, units);
        let arena = Arc::new(arena);
        let none = Marker::none();
        Ok(Self::new(
            region,
            arena,
            none,
            schema.clone(),
            schema_at,
            report,
        ))
    }

    /// Whether the region's home holds a heap.
    pub fn exists(region: &Region) -> bool {
        header::is_there(home(region))
    }

    /// Whether nothing was ever stored in the region's home: it was created, and a crash came before a heap was. Where
    /// it begins with zeroes and goes on with something else, a heap has lost its header. Cost: a look at all of a home
    /// that begins so.
    pub fn is_blank(region: &Region) -> bool {
        header::is_blank(home(region))
    }

    /// Opens the heap in a region: restores what a clean close saved, or else
    /// marks what the root leads to, before it returns.
    ///
    /// # Errors
    /// `NotAHeap`, `NewerFormat`, `Damaged`, `BadSchema`, `BadData`: nothing was changed.
    pub fn open(region: Region) -> Result<Heap> {
        Self::open_marking(region, Marking::Before)
    }

    /// [`open`](Self::open), where `when` says when marking happens, if it has to. In the background it is beside
    /// the program; see [`Heap::wait_marked`]. A heap without types and a
    /// replicated region are always marked before, and so are one that is only read and one in which something was
    /// committed since the region was opened.
    ///
    /// Cost, where it does not mark: reading the superblock table, 16 bytes for each
    /// 8 KiB (in shared memory only what was ever written of it), and a descriptor for each superblock.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_marking(region: Region, when: Marking) -> Result<Heap> {
        let start = Instant::now();
        let (header, schema) = header::read(home(&region))?;
        let schema_at = (
            header.schema_offset / UNIT,
            header.schema_len.div_ceil(UNIT),
        );
        let (arena, marker, mut report) = match Self::restore(&region, &header)? {
            Some((arena, report)) => (Arc::new(arena), Marker::none(), report),
            None => {
                let table = Self::table(&region)?;
                if table.is_marked_beside(&region, &schema, when) {
                    let (arena, over) = Self::unmarked(&region, &header, &table)?;
                    let arena = Arc::new(arena);
                    let frozen = region.freeze()?;
                    table.forget_rest(&frozen);
                    let walk = Walk {
                        frozen,
                        region: region.clone(),
                        arena: arena.clone(),
                        schema: schema.clone(),
                        root: header.root,
                        extents: table.extents,
                        over,
                    };
                    let report = OpenReport {
                        marked: true,
                        background: true,
                        ..OpenReport::default()
                    };
                    let held = when == Marking::Held;
                    (arena, Marker::start(walk, held)?, report)
                } else {
                    let (arena, report) = Self::rebuild(&region, &header, &schema, table)?;
                    (Arc::new(arena), Marker::none(), report)
                }
            }
        };
        report.took = start.elapsed();
        Ok(Self::new(region, arena, marker, schema, schema_at, report))
    }

    fn new(
        region: Region,
        arena: Arc<Arena>,
        marker: Marker,
        schema: Schema,
        schema_at: (u64, u64),
        report: OpenReport,
    ) -> Heap {
        let weak = Arc::downgrade(&arena);
        region.after_checkpoints(move |space| {
            if let Some(arena) = weak.upgrade() {
                // Where it fails, the space stays, or is taken again before its use.
                let _ = arena.tidy(space);
            }
        });
        Heap {
            number: AtomicU64::new(arena.number()),
            base: region.base().expose_provenance(),
            chunks: arena.map().chunks(),
            arena,
            marker,
            region,
            schema,
            schema_at,
            report,
            closing: Mutex::new(()),
        }
    }

    /// The allocator of a region, with all of the home that is there free but the table.
    fn arena(region: &Region) -> Result<Arena> {
        let max = region.max_size() / UNIT;
        let base = region.base().expose_provenance() as u64;
        let arena = Arena::try_new(max)?.at(base);
        // What was freed before is stamped as if it were freed now.
        let (mut global, _) = arena.lock();
        global.units.grown(region.size() / UNIT, region.last_seq());
        if region.space().may_have_holes() {
            global.units.forget_filled();
        }
        drop(global);
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

    /// The table as the home has it.
    fn table(region: &Region) -> Result<Table> {
        let (end, max) = (region.size() / UNIT, region.max_size() / UNIT);
        let (extents, newest) = table::resolve(
            table::read(home(region), max, |range| region.written(range)),
            end,
            max,
        )?;
        let next_birth = newest.checked_add(1).ok_or_else(|| Error::Damaged {
            offset: 0,
            what: "a superblock has the highest number there is".into(),
        })?;
        Ok(Table {
            extents: extents.into_values().collect(),
            next_birth,
        })
    }

    /// The allocator's state from the table alone, and the first units of
    /// superblocks that lie where something else is.
    fn unmarked(
        region: &Region,
        header: &HeapHeader,
        table: &Table,
    ) -> Result<(Arena, BTreeSet<u64>)> {
        let arena = Self::arena_around(region, header)?;
        let (mut global, map) = arena.lock();
        global.next_birth = table.next_birth;
        let mut over = BTreeSet::new();
        for extent in &table.extents {
            if global.units.take_at(extent.unit, extent.entry.units.into()) {
                global.restore_unmarked(*extent, map);
            } else {
                over.insert(extent.unit);
            }
        }
        drop(global);
        Ok((arena, over))
    }

    /// The allocator's state from the table and the marks.
    fn rebuild(
        region: &Region,
        header: &HeapHeader,
        schema: &Schema,
        table: Table,
    ) -> Result<(Arena, OpenReport)> {
        let home = home(region);
        let (end, max) = (region.size() / UNIT, region.max_size() / UNIT);
        let marks = Marks::new(table.extents, end);
        let view = View::at(region.base().expose_provenance(), home);
        let MarkReport { blocks, bytes, .. } = if schema.is_untyped() {
            untyped::mark(header.root, view, &marks)?
        } else {
            mark(schema, header.root, view, &marks)?
        };
        let arena = Self::arena_around(region, header)?;
        let (mut global, map) = arena.lock();
        global.next_birth = table.next_birth;
        // Without types a block that died long ago may be taken for a live one.
        let revives = schema.is_untyped() && region.space().may_have_holes();
        let mut revived: Vec<Range<u64>> = Vec::new();
        for (extent, _, words) in marks.each() {
            let words: Vec<u64> = words.map(|(mark, _)| mark).collect();
            if words.iter().all(|word| *word == 0) {
                continue;
            }
            if !global.units.take_at(extent.unit, extent.entry.units.into()) {
                let offset = entry_offset(extent.unit, max);
                let what = OVER_SCHEMA.into();
                return Err(Error::Damaged { offset, what });
            }
            global.restore(extent, true, words.into_iter().map(|word| !word), map);
            match revived.last_mut() {
                Some(last) if last.end == extent.unit => last.end = extent.end(),
                _ if revives => revived.push(extent.unit..extent.end()),
                _ => {}
            }
        }
        drop(global);
        for range in revived {
            region
                .space()
                .refill(range.start * UNIT..range.end * UNIT)?;
        }
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

    /// Waits for running transactions, saves the allocator's state for the next
    /// open, and closes the region. Marking in the background ends where it is: then the
    /// next open marks. Later calls do nothing; dropping the heap
    /// does the same and ignores errors.
    ///
    /// # Errors
    /// What the region says: the next open then marks.
    pub fn close(&self) -> Result<()> {
        let _one = self.closing.lock();
        if self.number.load(Relaxed) == CLOSED {
            return Ok(());
        }
        if self.region.is_read_only() {
            self.number.store(CLOSED, Relaxed);
            return Ok(self.region.close()?);
        }
        let closed = self.region.close_with(|writer| {
            self.number.store(CLOSED, Relaxed);
            // Nobody waits for space any more.
            self.marker.stop();
            self.save(writer)
        });
        // A child of `fork` has no such thread.
        if !matches!(closed, Err(bartender_pm::Error::Forked)) {
            self.marker.stop();
        }
        Ok(closed?)
    }

    /// Saves the allocator's state. No transaction runs, everything is in the
    /// home, so all free space is fresh.
    fn save(&self, writer: &mut Writer<'_>) -> bartender_pm::Result<()> {
        // The replicas would not have it, and whoever opens the region next may be one of them: it marks.
        if self.region.is_replicated() {
            return Ok(());
        }
        if !self.marker.is_complete() {
            return Ok(());
        }
        let (mut global, map) = self.arena.lock();
        // What is kept for the next burst is room for it.
        global.collect();
        global.flush(map, &self.region);
        let bytes = snapshot::save(&global, map);
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

impl Table {
    /// The marker reads blocks, and these lie in what an entry claims. New blocks do not, so storing them
    /// needs no copy of what the picture has there.
    fn forget_rest(&self, picture: &Frozen) {
        let mut at = 0;
        for extent in &self.extents {
            picture.forget(at * UNIT..extent.unit * UNIT);
            at = extent.end();
        }
        picture.forget(at * UNIT..picture.size());
        if bartender_pm::mutant::is("forget_claimed") {
            picture.forget(0..picture.size());
        }
    }

    /// Whether the heap is used before it is marked.
    fn is_marked_beside(&self, region: &Region, schema: &Schema, when: Marking) -> bool {
        let bytes = |extent: &Extent| u64::from(extent.entry.units) * UNIT;
        let wanted = match when {
            Marking::Before => false,
            Marking::Background | Marking::Held => true,
            Marking::Auto => {
                let all: u64 = self.extents.iter().map(bytes).sum();
                all > AT_ONCE && region.freezes_by_mapping()
            }
        };
        wanted
            && !schema.is_untyped()
            && !region.is_replicated()
            && !region.is_read_only()
            && region.applied_seq() == region.last_seq()
    }
}

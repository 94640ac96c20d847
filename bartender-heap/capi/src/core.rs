//! One open heap as C uses it: blocks, and records of ranges of the view.
//!
//! It promises that each record is durable when a call returns, all of it or
//! nothing, and that table entries travel as [`Pending`] demands. Which bytes
//! are worth a record, the program says: nobody sees its stores.

#![allow(unsafe_code)]

use crate::error::{Failure, Result};
use bartender_heap::{Entry, Heap, Pending};
use bartender_pm::sync::Mutex;
use bartender_pm::sync::atomic::AtomicUsize;
use bartender_pm::{Durability, Options, Record, Region, mutant};
use std::alloc::Layout;
use std::cell::RefCell;
use std::ptr::NonNull;

/// Pending entries are made durable on their own from so many on, so that a
/// record which takes them along stays small: one for 64 KiB of small blocks.
const MANY_ENTRIES: usize = 1024;
/// Bytes of a record that others than the caller's ranges may take.
const RESERVE: u64 = 64 << 10;
/// A record's buffer longer than this is not kept by its thread.
const KEPT: u64 = 1 << 20;

/// One open heap.
///
/// * `heap` and `pending` rule themselves.
/// * `roots` is held while the block of named roots is read or changed.
/// * `transactions` counts those that are open.
///
/// Lock order: `roots`, then what a record takes (the gate, [`Pending`]'s).
pub struct Core {
    pub(crate) heap: Heap,
    pub(crate) pending: Pending,
    pub(crate) roots: Mutex<()>,
    pub(crate) transactions: AtomicUsize,
}

/// A range of the view.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) start: NonNull<u8>,
    pub(crate) len: usize,
}

thread_local! {
    /// Keeps its buffer between commits.
    static RECORD: RefCell<Record> = RefCell::new(Record::new());
}

/// The options of a region for C, of up to `max_size` bytes (0: 64 GiB).
pub(crate) fn options(max_size: u64) -> Options {
    let max_size = if max_size == 0 { 64 << 30 } else { max_size };
    let mut options = Options::new();
    options
        .max_size(max_size)
        .log_size((max_size / 8).clamp(4 << 20, 64 << 20))
        // Stores that nobody sees would be given back.
        .view_limit(u64::MAX);
    options
}

/// What `size` bytes (0 counts as 1) at a multiple of `align`, a power of two, are to C.
pub(crate) fn layout(size: usize, align: usize) -> Result<Layout> {
    let align = align.max(if size > 8 { 16 } else { 8 });
    Layout::from_size_align(size.max(1), align)
        .map_err(|_| Failure::new(libc::ENOMEM, format!("{size} bytes are more than there is")))
}

impl Core {
    /// The heap in a region, which is created if there is none yet.
    pub(crate) fn open(region: Region) -> Result<Core> {
        Ok(Core {
            heap: Heap::open_untyped(region)?,
            pending: Pending::new(),
            roots: Mutex::new(()),
            transactions: AtomicUsize::new(0),
        })
    }

    /// A block of `size` bytes at a multiple of `align`, which is a power of two.
    pub(crate) fn alloc(&self, size: usize, align: usize) -> Result<NonNull<u8>> {
        let layout = layout(size, align)?;
        let block = self.heap.alloc(layout)?;
        if let Some(entry) = block.entry {
            self.care_for(entry);
        }
        Ok(block.ptr)
    }

    fn care_for(&self, entry: Entry) {
        self.pending.push(entry);
        // From now on somebody takes care of it.
        self.heap.entry_durable(&entry);
        if self.pending.len() >= MANY_ENTRIES {
            // An error comes back with the next commit: the entries stay.
            let _ = self.with_record(|record| self.commit(record));
        }
    }

    /// Whether `block` of `usable` bytes has room for `size` without being far too
    /// long; a long one is made longer for that, if it can be.
    ///
    /// # Safety
    /// A block, which nobody else frees or asks for its length meanwhile.
    pub(crate) unsafe fn stays(&self, block: NonNull<u8>, usable: usize, size: usize) -> bool {
        if size <= usable {
            return size >= usable / 2 || usable <= 32;
        }
        // SAFETY: as the caller says.
        let grown = unsafe { self.heap.grow(block, size) };
        if let Some(entry) = grown
            && !mutant::is("grow_without_entry")
        {
            self.care_for(entry);
        }
        grown.is_some()
    }

    /// Gives a block back. See [`Heap::free`].
    ///
    /// # Safety
    /// Nobody uses the block any more, and no durable data lead to it.
    #[inline]
    pub(crate) unsafe fn free(&self, block: NonNull<u8>) -> Result<()> {
        // SAFETY: as the caller says.
        Ok(unsafe { self.heap.free(block) }?)
    }

    /// `start` and `len` as a range inside of one block.
    pub(crate) fn range(&self, start: *mut u8, len: usize) -> Result<Range> {
        let null = || Failure::invalid("a range at NULL");
        let start = NonNull::new(start).ok_or_else(null)?;
        let (block, size) = self.heap.block_of(start)?;
        let behind = start.addr().get() - block.addr().get();
        if len > size - behind {
            return Err(Failure::invalid(format!(
                "{len} bytes at {start:p} go beyond the end of their block, which has {size} bytes at {block:p}"
            )));
        }
        Ok(Range { start, len })
    }

    /// Home offset of an address in the view.
    pub(crate) fn offset(&self, address: NonNull<u8>) -> u64 {
        (address.addr().get() - self.heap.region().base().addr()) as u64
    }

    /// Adds the bytes of a range as they are now.
    ///
    /// # Safety
    /// Nobody stores to the range meanwhile.
    pub(crate) unsafe fn record(&self, record: &mut Record, range: Range) {
        // SAFETY: inside of a block, which lies in the view.
        let bytes = unsafe { std::slice::from_raw_parts(range.start.as_ptr(), range.len) };
        record.change(self.offset(range.start), bytes);
    }

    /// Makes ranges durable, all or none.
    ///
    /// # Safety
    /// Nobody stores to them meanwhile.
    pub(crate) unsafe fn persist(&self, ranges: &[Range]) -> Result<()> {
        self.with_record(|record| {
            for range in ranges {
                // SAFETY: as the caller says.
                unsafe { self.record(record, *range) };
                if mutant::is("persistv_by_ranges") {
                    self.commit(record)?;
                    record.clear();
                }
            }
            match record.is_empty() {
                true => Ok(()),
                false => self.commit(record),
            }
        })
    }

    /// Bytes of one range that always fit a record.
    pub(crate) fn atomic_bytes(&self) -> u64 {
        let capacity = self.heap.region().log_capacity();
        let room = capacity.saturating_sub(RESERVE).max(capacity / 2);
        // A range costs 8 bytes for each 64 KiB or less of it.
        room - room / 4096
    }

    /// Makes one range durable; what is too long for one record goes in pieces,
    /// in the order of addresses.
    ///
    /// # Safety
    /// As [`Core::persist`].
    pub(crate) unsafe fn persist_long(&self, range: Range) -> Result<()> {
        let atomic = self.atomic_bytes();
        let piece = match range.len as u64 <= atomic {
            true => range.len,
            false => (atomic / 2) as usize,
        };
        let mut done = 0;
        while done < range.len {
            let len = piece.min(range.len - done);
            // SAFETY: inside of the range.
            let start = unsafe { range.start.add(done) };
            // SAFETY: as the caller says.
            unsafe { self.persist(&[Range { start, len }]) }?;
            done += len;
        }
        Ok(())
    }

    /// Appends `record`, with the entries that wait, and waits until it is durable.
    pub(crate) fn commit(&self, record: &mut Record) -> Result<()> {
        let region = self.heap.region();
        let mut writer = region.writer()?;
        let (ticket, carried) = self.pending.append(|entries| {
            for entry in entries {
                record.change(entry.offset, &entry.bytes);
            }
            writer.append(record, Durability::Immediate)
        });
        let ticket = ticket?;
        drop(writer);
        if !ticket.durable {
            region.wait_durable(ticket.seq)?;
        }
        self.pending.durable(carried);
        Ok(())
    }

    /// Runs `f` with an empty record.
    pub(crate) fn with_record<R>(&self, f: impl FnOnce(&mut Record) -> R) -> R {
        // A commit inside of a commit (a root's block that allocates), or a
        // thread that is ending, gets one of its own.
        let mut record = RECORD
            .try_with(|kept| {
                kept.try_borrow_mut()
                    .ok()
                    .map(|mut kept| std::mem::take(&mut *kept))
            })
            .ok()
            .flatten()
            .unwrap_or_default();
        record.clear();
        let result = f(&mut record);
        if record.size() <= KEPT {
            let _ = RECORD.try_with(|kept| kept.replace(record));
        }
        result
    }
}

//! The view: the program's private picture of the home, at the home address.
//!
//! Stores into it never reach the medium by themselves. Pages nobody has
//! stored to follow the home, which holds the same bytes.

#![allow(unsafe_code)]

use crate::error::{Error, Result};
use crate::medium::{self, Medium, ViewSource};
use crate::os;
use crate::record::{Change, Parsed};
use crate::sync::Mutex;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// First address of the slots in which regions are put. (ThreadSanitizer leaves
/// the program few addresses; `cargo xtask tsan` says so by this `cfg`.)
const SLOTS_START: u64 = if cfg!(tsan) {
    0x5700_0000_0000
} else {
    0x2000_0000_0000
};
/// End of the slots.
const SLOTS_END: u64 = if cfg!(tsan) {
    0x59ff_ffff_ffff
} else {
    0x3fff_ffff_ffff
};
/// Slots start on this boundary.
const SLOT_ALIGN: u64 = 1 << 30;
/// So many pieces of anonymous memory may be in the view when one more is made
/// of released space: each is a mapping of the process.
const MAX_RELEASED: usize = 500;
/// So many places are tried for a region before it is said that there is none.
const PLACES: u64 = 256;

/// Slots for a region of `len` bytes that are apart from each other, from
/// a random one on, round and round.
pub(crate) fn slots_from_random(len: u64) -> impl Iterator<Item = u64> {
    let first = random_number(len);
    let step = len.div_ceil(SLOT_ALIGN);
    let next = move |i: u64| (first + i * step) % slots(len);
    (0..PLACES).map(move |i| SLOTS_START + next(i) * SLOT_ALIGN)
}

/// How many slots there are.
fn slots(len: u64) -> u64 {
    let slots = (SLOTS_END - SLOTS_START).saturating_sub(len) / SLOT_ALIGN;
    slots.max(1)
}

/// The number of a random slot.
fn random_number(len: u64) -> u64 {
    let mut bytes = [0u8; 8];
    // Without entropy every region gets the first slot; a clash is noticed
    // when the view is mapped.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes) % slots(len)
}

/// What a view is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A private mapping of the home: pages that nobody stored to follow it.
    Home,
    /// Anonymous memory of our own.
    Copy,
    /// Memory that the medium lends.
    Lent,
}

/// The mapping at the home address.
#[derive(Debug)]
pub(crate) struct View {
    base: *mut u8,
    len: usize,
    /// Home's start in the file.
    home_offset: u64,
    kind: Kind,
    /// Home ranges that are anonymous memory: fresh space, whose pages would
    /// otherwise be faulted in from a hole of the file and then copied.
    fresh: Mutex<Vec<Range<u64>>>,
}

// SAFETY: plain memory; who may touch which bytes when is ruled by the
// transactions' locks above and the gate, not by the mapping thread.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// Maps the view of `medium`'s home at `address`.
    ///
    /// # Errors
    ///
    /// `AddressTaken` where something else is mapped there.
    pub(crate) fn map(
        medium: &dyn Medium,
        address: u64,
        home_offset: u64,
        len: u64,
    ) -> Result<View> {
        let view = |base, kind| View {
            base,
            len: len as usize,
            home_offset,
            kind,
            fresh: Mutex::new(Vec::new()),
        };
        let taken = || Error::AddressTaken {
            path: medium.path().into(),
            address,
            len,
        };
        let wanted = std::ptr::with_exposed_provenance_mut(address as usize);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE | MapFlags::NORESERVE;
        let (got, kind) = match medium.view() {
            ViewSource::Memory { base, len: has } => {
                if base.expose_provenance() as u64 != address || has < len {
                    return Err(taken());
                }
                return Ok(view(base, Kind::Lent));
            }
            ViewSource::Map(file) => {
                // SAFETY: FIXED_NOREPLACE never replaces a mapping of ours.
                let got = unsafe {
                    rustix::mm::mmap(wanted, len as usize, access, flags, file, home_offset)
                };
                (got, Kind::Home)
            }
            ViewSource::Copy => {
                // SAFETY: as above.
                let got =
                    unsafe { rustix::mm::mmap_anonymous(wanted, len as usize, access, flags) };
                (got, Kind::Copy)
            }
        };
        let base: *mut u8 = match got {
            Ok(base) => base.cast(),
            Err(rustix::io::Errno::EXIST) => return Err(taken()),
            Err(other) => return os::io(medium.path(), "map the view of", Err(other)),
        };
        let view = view(base, kind);
        // Kernels before 4.17 take FIXED_NOREPLACE for a hint.
        if base.expose_provenance() as u64 != address {
            return Err(taken());
        }
        // SAFETY: the whole of our own mapping.
        let advice = unsafe {
            if kind == Kind::Copy {
                // A hint: without huge pages there are only more faults.
                let _ = rustix::mm::madvise(base.cast(), len as usize, Advice::LinuxHugepage);
            }
            rustix::mm::madvise(base.cast(), len as usize, Advice::LinuxDontFork)
        };
        os::io(medium.path(), "keep from child processes", advice)?;
        Ok(view)
    }

    /// Maps it at the first of these addresses where nothing else is; none if there is none.
    pub(crate) fn map_at_one_of(
        medium: &dyn Medium,
        places: impl IntoIterator<Item = u64>,
        home_offset: u64,
        len: u64,
    ) -> Result<Option<View>> {
        for address in places {
            match View::map(medium, address, home_offset, len) {
                Err(Error::AddressTaken { .. }) => {}
                other => return other.map(Some),
            }
        }
        Ok(None)
    }

    /// Where home offset 0 is.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }

    /// Copies the home into a view that does not show it by itself.
    pub(crate) fn fill(&self, medium: &dyn Medium, len: u64) -> Result<()> {
        // SAFETY: the view's own memory, and opening has lent it to nobody yet.
        let bytes = || unsafe { std::slice::from_raw_parts_mut(self.base, len as usize) };
        match self.kind {
            Kind::Home => Ok(()),
            Kind::Copy => medium::fill(medium, self.home_offset, bytes()),
            Kind::Lent => medium.read(self.home_offset, bytes()),
        }
    }

    /// Stores what `records`, whole and one behind the other, change into the view alone: they are not for the home yet.
    pub(crate) fn store_records(
        &self,
        medium: &dyn Medium,
        mut records: &[u8],
        home_size: u64,
    ) -> Result<()> {
        while let Some(record) = Parsed::again(records).filter(|r| r.size() != 0) {
            for change in record.changes() {
                let damaged = |what: &str| Error::Damaged {
                    path: medium.path().into(),
                    offset: self.home_offset,
                    what: what.into(),
                };
                let Change::Bytes { offset, bytes } = change else {
                    return Err(damaged("a replica's log names bytes that are not in it"));
                };
                if offset + bytes.len() as u64 > home_size {
                    return Err(damaged("a record changes bytes beyond the home's end"));
                }
                // SAFETY: inside the view's own memory, which opening has lent to nobody yet.
                unsafe {
                    let to = self.base.add(offset as usize);
                    std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
                }
            }
            let size = record.size() as usize;
            records = records.get(size..).unwrap_or_default();
        }
        Ok(())
    }

    /// Puts anonymous memory where the home has just grown.
    pub(crate) fn make_fresh(&self, medium: &dyn Medium, range: Range<u64>) -> Result<()> {
        let len = (range.end - range.start) as usize;
        match self.kind {
            Kind::Home => {}
            Kind::Copy => return Ok(()), // Nobody has touched it.
            Kind::Lent => {
                // SAFETY: the view's own memory; the home has only now grown to
                // it, so nobody has a pointer there.
                unsafe { self.base.add(range.start as usize).write_bytes(0, len) };
                return Ok(());
            }
        }
        // SAFETY: inside our mapping, and nobody has a pointer to space that
        // the home only now has, so replacing the pages is seen by nobody.
        let result = unsafe {
            let start = self.base.add(range.start as usize).cast();
            rustix::mm::mmap_anonymous(
                start,
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
            )
            .and_then(|_| rustix::mm::madvise(start, len, Advice::LinuxDontFork))
            .map(|()| {
                // A hint: without huge pages there are only more faults.
                let _ = rustix::mm::madvise(start, len, Advice::LinuxHugepage);
            })
        };
        if result == Err(rustix::io::Errno::NOMEM) {
            // As many mappings as the kernel allows: what is there already
            // serves as well, only slower.
            return Ok(());
        }
        os::io(medium.path(), "map fresh space of", result)?;
        let mut fresh = self.fresh.lock();
        match fresh.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => fresh.push(range),
        }
        Ok(())
    }

    /// How many pieces of anonymous memory there are: each is a mapping of the
    /// process, and so is what lies between two of them.
    pub(crate) fn pieces(&self) -> usize {
        self.fresh.lock().len()
    }

    /// Gives the private pages of `range` back: it shows the home again.
    ///
    /// The caller has closed the gate and made the home equal to the view
    /// there. Readers go on: what they see does not change.
    pub(crate) fn give_back(
        &self,
        medium: &dyn Medium,
        file: &File,
        range: Range<u64>,
    ) -> Result<()> {
        if self.kind != Kind::Home {
            return Ok(());
        }
        let mut fresh = self.fresh.lock();
        let mut done = Ok(());
        for piece in std::mem::take(&mut *fresh) {
            let start = piece.start.max(range.start);
            let end = piece.end.min(range.end);
            if start >= end || done.is_err() {
                fresh.push(piece);
                continue;
            }
            // SAFETY: inside our mapping; the file's page holds the same
            // bytes; the kernel replaces a mapping atomically for other
            // threads' accesses.
            let result = unsafe {
                let at = self.base.add(start as usize).cast();
                rustix::mm::mmap(
                    at,
                    (end - start) as usize,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
                    file,
                    self.home_offset + start,
                )
                .and_then(|_| {
                    rustix::mm::madvise(at, (end - start) as usize, Advice::LinuxDontFork)
                })
            };
            done = os::io(medium.path(), "map the view of", result);
            if done.is_err() {
                // As far as anybody knows it is anonymous memory still, and
                // would be zeroes if it were given back as a file's.
                fresh.push(piece);
                continue;
            }
            if piece.start < start {
                fresh.push(piece.start..start);
            }
            if end < piece.end {
                fresh.push(end..piece.end);
            }
        }
        drop(fresh);
        done?;
        // SAFETY: inside our private file mapping: the next access faults in
        // the file's page, which holds the same bytes.
        let result = unsafe {
            rustix::mm::madvise(
                self.base.add(range.start as usize).cast(),
                (range.end - range.start) as usize,
                Advice::LinuxDontNeed,
            )
        };
        os::io(medium.path(), "give back pages of", result)
    }
}

impl View {
    /// Makes whole pages show what the home holds, which was damaged when they were copied from it. Whether they
    /// follow the home from now on, and the view has no memory of its own for them.
    ///
    /// The caller has closed the gate and made the home what the view should be. Readers go on.
    pub(crate) fn heal(&self, medium: &dyn Medium, range: Range<u64>) -> Result<bool> {
        if let (Kind::Home, ViewSource::Map(file)) = (self.kind, medium.view()) {
            self.give_back(medium, file, range)?;
            return Ok(true);
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        medium.read(self.home_offset + range.start, &mut bytes)?;
        for (at, word) in (range.start..).step_by(8).zip(bytes.chunks_exact(8)) {
            // SAFETY: whole words inside the view's own memory. No writer is inside the gate; readers may be, and a word
            // changes at once, only where it was damaged.
            let there = unsafe { AtomicU64::from_ptr(self.base.add(at as usize).cast()) };
            let word = u64::from_ne_bytes(word.try_into().expect("a chunk is a word"));
            if there.load(Ordering::Relaxed) != word {
                there.store(word, Ordering::Relaxed);
            }
        }
        Ok(false)
    }

    /// Forgets what `range` holds: the memory goes back to the system, and the
    /// range shows zeroes or the home, which the caller is about to make zeroes.
    ///
    /// # Safety
    ///
    /// Nobody has a pointer into the range.
    pub(crate) unsafe fn release(&self, medium: &dyn Medium, range: Range<u64>) -> Result<()> {
        // SAFETY: inside our mapping or the medium's memory, as the caller says.
        let at = unsafe { self.base.add(range.start as usize) };
        let len = (range.end - range.start) as usize;
        if self.kind == Kind::Lent {
            // SAFETY: as above; nobody reads or writes there.
            unsafe { at.write_bytes(0, len) };
            return Ok(());
        }
        let mut fresh = self.fresh.lock();
        let within = |piece: &Range<u64>| piece.start <= range.start && range.end <= piece.end;
        let many = fresh.len() >= MAX_RELEASED;
        if self.kind == Kind::Copy || many || fresh.iter().any(within) {
            // SAFETY: our own private mapping.
            let result = unsafe { rustix::mm::madvise(at.cast(), len, Advice::LinuxDontNeed) };
            return os::io(medium.path(), "give back pages of", result);
        }
        // A private page of a file's mapping would come back as the file's, to be
        // copied by the next store: anonymous memory is cheaper.
        // SAFETY: inside our mapping, and nobody has a pointer there.
        let result = unsafe {
            rustix::mm::mmap_anonymous(
                at.cast(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
            )
            .and_then(|_| rustix::mm::madvise(at.cast(), len, Advice::LinuxDontFork))
            .map(|()| {
                // A hint: without huge pages there are only more faults.
                let _ = rustix::mm::madvise(at.cast(), len, Advice::LinuxHugepage);
            })
        };
        os::io(medium.path(), "map released space of", result)?;
        // One piece for all that overlap it or touch it.
        let mut whole = range;
        fresh.retain(|piece| {
            let apart = piece.end < whole.start || whole.end < piece.start;
            if !apart {
                whole = piece.start.min(whole.start)..piece.end.max(whole.end);
            }
            apart
        });
        fresh.push(whole);
        Ok(())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if self.kind != Kind::Lent {
            // SAFETY: our mapping; the region is being dropped, and everything
            // that borrows from the view borrows from the region.
            let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.len) };
        }
    }
}

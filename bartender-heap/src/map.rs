//! Which superblock a home offset lies in: a descriptor for each 64 KiB of the
//! home, found without a load. DRAM only.
//!
//! It promises that descriptors stay where they are, as descriptors, until the
//! arena is dropped. Their pages come from the kernel when they are first
//! written, so a large maximum size costs address space only.

use crate::layout::{CHUNK_SHIFT, CHUNK_UNITS};
use crate::superblock::{Ref, Superblock};
use bartender_pm::sync::atomic::{AtomicU64, Ordering::*};
use std::ptr::NonNull;

/// The descriptors.
///
/// The one of a chunk describes the superblock or run that begins in it, while
/// there is one. In the others that a superblock of a class covers stands how
/// far back it begins. Both are written under the global lock, and read by
/// anyone: whoever holds a block of a superblock got it after its birth, and it
/// does not die before the block is back; for any other address the answer may
/// be out of date, but names a descriptor.
pub(crate) struct Map {
    chunks: Chunks,
    #[cfg(not(loom))]
    memory: (*mut u8, std::alloc::Layout),
    /// Descriptors that were ever written, as far as pages are concerned.
    touched: AtomicU64,
}

// SAFETY: descriptors are `Send` and `Sync`, and the map owns them.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// The descriptors of a home of up to `units` units, in which nothing is; none if there is no memory for them.
    pub(crate) fn new(units: u64) -> Option<Self> {
        Self::zeroed(units.div_ceil(CHUNK_UNITS) as usize)
    }

    /// Bytes of the descriptors of so many units.
    pub(crate) fn bytes_for(units: u64) -> u64 {
        let chunks = units.div_ceil(CHUNK_UNITS);
        chunks.saturating_mul(size_of::<Superblock>() as u64)
    }

    /// Where the descriptors are, for the way that has to be short.
    pub(crate) fn chunks(&self) -> Chunks {
        self.chunks
    }

    /// The descriptor of the chunk that home offset `offset` lies in, if that is
    /// in the home.
    pub(crate) fn chunk(&self, offset: u64) -> Option<Ref> {
        self.chunks.at(offset)
    }

    fn get(&self, chunk: usize) -> Option<Ref> {
        self.chunks.get(chunk)
    }

    /// The superblock of a class that `offset` lies in; else the run, if one does,
    /// that begins in its chunk, before or behind it.
    pub(crate) fn at(&self, offset: u64) -> Option<Ref> {
        let chunk = (offset >> CHUNK_SHIFT) as usize;
        let here = self.get(chunk)?;
        if here.is_alive() {
            return Some(here);
        }
        let back = here.back() as usize;
        let head = self.get(chunk.checked_sub(back)?)?;
        (back != 0 && head.is_alive()).then_some(head)
    }

    /// The descriptor of what begins at `unit`, which nothing does yet. Under the global lock.
    pub(crate) fn begin(&self, unit: u64) -> Ref {
        self.get((unit / CHUNK_UNITS) as usize)
            .expect("a unit of the home")
    }

    /// All chunks of `superblock`, which was just born, lead to it. Under the global lock.
    pub(crate) fn set(&self, superblock: Ref) {
        self.fill(superblock, |at| at);
        let last = superblock.unit() + u64::from(superblock.entry().units);
        let end = last.div_ceil(CHUNK_UNITS).min(self.chunks.len as u64);
        self.touched.fetch_max(end, Relaxed);
    }

    /// No chunk of `superblock`, which is about to die, leads to it. Under the global lock.
    pub(crate) fn clear(&self, superblock: Ref) {
        self.fill(superblock, |_| 0);
    }

    fn fill(&self, superblock: Ref, back: impl Fn(u32) -> u32) {
        if superblock.is_large() {
            return;
        }
        let first = (superblock.unit() / CHUNK_UNITS) as usize;
        let chunks = superblock.entry().units / CHUNK_UNITS as u32;
        for at in 1..chunks {
            if let Some(follower) = self.get(first + at as usize) {
                follower.set_back(back(at));
            }
        }
    }

    /// All that is alive. Under the global lock.
    pub(crate) fn all(&self) -> impl Iterator<Item = Ref> + '_ {
        let touched = self.touched.load(Relaxed) as usize;
        (0..touched)
            .filter_map(|chunk| self.get(chunk))
            .filter(|one| one.is_alive())
    }

    /// Bytes of DRAM that the descriptors take, at most.
    pub(crate) fn bytes(&self) -> u64 {
        self.touched.load(Relaxed) * size_of::<Superblock>() as u64
    }
}

/// Where the descriptors of a map are. To be used as long as that lives.
#[derive(Clone, Copy)]
pub(crate) struct Chunks {
    start: NonNull<Superblock>,
    len: usize,
}

// SAFETY: shared references to a `Sync` type, in effect.
unsafe impl Send for Chunks {}
// SAFETY: as above.
unsafe impl Sync for Chunks {}

impl Chunks {
    /// As [`Map::chunk`].
    #[inline(always)]
    pub(crate) fn at(&self, offset: u64) -> Option<Ref> {
        self.get((offset >> CHUNK_SHIFT) as usize)
    }

    #[inline(always)]
    fn get(&self, chunk: usize) -> Option<Ref> {
        if chunk >= self.len {
            return None;
        }
        // SAFETY: within the descriptors, which live as long as the arena.
        Some(unsafe { Ref::new(self.start.add(chunk)) })
    }
}

#[cfg(not(loom))]
impl Map {
    fn zeroed(len: usize) -> Option<Self> {
        use std::alloc::{Layout, alloc_zeroed};
        const PAGE: usize = 4096;
        // Asked for at a larger alignment than `malloc`'s, all of it would be
        // written to; so there is room for aligning it here.
        let layout = len
            .checked_mul(size_of::<Superblock>())
            .and_then(|bytes| Layout::from_size_align(bytes.checked_add(PAGE)?, 16).ok())?;
        // SAFETY: not of size 0; there is room for aligning; not null; and
        // zeroed memory is dead descriptors.
        unsafe {
            let memory = alloc_zeroed(layout);
            if memory.is_null() {
                return None;
            }
            let start = memory.add(memory.align_offset(PAGE)).cast();
            Some(Map {
                chunks: Chunks {
                    start: NonNull::new_unchecked(start),
                    len,
                },
                memory: (memory, layout),
                touched: AtomicU64::new(0),
            })
        }
    }
}

#[cfg(loom)]
impl Map {
    fn zeroed(len: usize) -> Option<Self> {
        let dead: Box<[Superblock]> = (0..len).map(|_| Superblock::dead()).collect();
        Some(Map {
            chunks: Chunks {
                start: NonNull::from(Box::leak(dead)).cast(),
                len,
            },
            touched: AtomicU64::new(0),
        })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        #[cfg(not(loom))]
        // SAFETY: allocated with this layout, and descriptors have nothing to drop.
        unsafe {
            std::alloc::dealloc(self.memory.0, self.memory.1);
        }
        #[cfg(loom)]
        // SAFETY: leaked from a box in `zeroed`.
        drop(unsafe {
            let all =
                std::ptr::slice_from_raw_parts_mut(self.chunks.start.as_ptr(), self.chunks.len);
            Box::from_raw(all)
        });
    }
}

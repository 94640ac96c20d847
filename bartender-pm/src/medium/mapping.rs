//! A shared mapping of what a region lies on, and the stores by which bytes
//! become durable there.
//!
//! Counts lines and barriers; knows nothing of files growing or of devices.

#![allow(unsafe_code)]

use crate::error::Result;
use crate::sync::atomic::{Ordering, fence};
use crate::{counts, instr, os};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::fs::File;
use std::path::Path;

/// A shared mapping of a file or a device from its start. Pages beyond a
/// file's end are reserved and must not be touched.
#[derive(Debug)]
pub(super) struct Mapping {
    base: *mut u8,
    len: usize,
    /// Bytes become durable by flush and fence.
    flush: bool,
}

// SAFETY: the mapping is plain memory; who may touch which bytes when is ruled
// by `Medium`'s contract, not by the thread that mapped it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; the medium is being
        // dropped, so nobody reaches it any more.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.len) };
    }
}

impl Mapping {
    /// Maps `len` bytes; `sync` asks for the kernel's promise that what is
    /// written back is durable.
    pub(super) fn new(
        file: &File,
        path: &Path,
        len: u64,
        sync: bool,
        flush: bool,
    ) -> Result<Mapping> {
        let len = len as usize;
        let share = if sync {
            MapFlags::SHARED_VALIDATE | MapFlags::SYNC
        } else {
            MapFlags::SHARED
        };
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe {
            let flags = share | MapFlags::NORESERVE;
            rustix::mm::mmap(std::ptr::null_mut(), len, access, flags, file, 0)
        };
        let base = os::io(path, "map", base)?.cast();
        let mapping = Mapping { base, len, flush };
        // SAFETY: the whole mapping; a child of fork must not write to it.
        let advice = unsafe { rustix::mm::madvise(base.cast(), len, Advice::LinuxDontFork) };
        os::io(path, "keep from child processes", advice)?;
        Ok(mapping)
    }

    pub(super) fn len(&self) -> u64 {
        self.len as u64
    }

    /// Where `[offset, offset + len)` is.
    #[inline]
    fn at(&self, offset: u64, len: usize) -> *mut u8 {
        let end = offset.checked_add(len as u64);
        assert!(
            end.is_some_and(|end| end <= self.len as u64),
            "{len} bytes at {offset} are beyond the mapping's end"
        );
        // SAFETY: inside the mapping, by the assertion.
        unsafe { self.base.add(offset as usize) }
    }

    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) {
        let src = self.at(offset, buf.len());
        // SAFETY: `at` checked the range; `Medium`'s contract keeps writers of
        // the same bytes away meanwhile; `buf` is the caller's own memory.
        unsafe { std::ptr::copy_nonoverlapping(src, buf.as_mut_ptr(), buf.len()) };
    }

    /// Stores; durable only after [`persist`](Self::persist).
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) {
        let dst = self.at(offset, bytes.len());
        // SAFETY: `at` checked the range; `Medium`'s contract gives these
        // bytes to this call alone; the mapping is not Rust memory of anybody
        // else's, so `bytes` cannot overlap it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), dst, bytes.len()) };
    }

    /// One barrier over these ranges (offset, length).
    pub(super) fn persist(&self, ranges: &[(u64, u64)]) {
        if self.flush {
            for &(offset, len) in ranges {
                let start = self.at(offset, len as usize);
                // SAFETY: `at` checked that the range is mapped.
                unsafe { instr::flush(start, len as usize) };
            }
        }
        self.drain();
    }

    /// Stores, and waits until it is durable: one barrier. Whole lines go past
    /// the cache.
    #[inline]
    pub(super) fn append(&self, pieces: &[(u64, &[u8])]) {
        for &(offset, bytes) in pieces {
            self.store(offset, bytes);
        }
        self.drain();
    }

    /// Changes a word at once, durably: one barrier.
    pub(super) fn append_word(&self, offset: u64, word: u64) {
        assert!(offset.is_multiple_of(8));
        let at = self.at(offset, 8).cast::<u64>();
        // SAFETY: `at` checked the range; aligned, because the mapping starts
        // on a page; `Medium`'s contract as in `write`.
        let atomic = unsafe { std::sync::atomic::AtomicU64::from_ptr(at) };
        atomic.store(word.to_le(), Ordering::Release);
        self.persist(&[(offset, 8)]);
    }

    /// Stores on the way to the medium; durable after the next barrier.
    #[inline]
    pub(super) fn store(&self, offset: u64, bytes: &[u8]) {
        let dst = self.at(offset, bytes.len());
        // SAFETY: `at` checked the range; the rest is as in `write`.
        unsafe {
            if self.flush {
                instr::store_flushed(dst, bytes);
            } else {
                instr::store(dst, bytes);
            }
        }
    }

    /// Stores that go past the cache will come: they take twice as long where
    /// some cache has the line.
    pub(super) fn let_go(&self, offset: u64, len: u64) {
        if self.flush && len != 0 {
            let start = self.at(offset, len as usize);
            // SAFETY: `at` checked that the range is mapped.
            unsafe { instr::evict(start, len as usize) };
        }
    }

    /// The barrier that ends stores.
    #[inline]
    pub(super) fn drain(&self) {
        if self.flush {
            instr::fence();
        } else {
            fence(Ordering::Release);
        }
        counts::barrier();
    }
}

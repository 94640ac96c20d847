//! Frozen pictures of the home, for a marker or a snapshot that runs while the
//! program works.
//!
//! A private mapping freezes nothing by itself: pages it has not copied follow
//! the file. So the checkpoint, before it changes a home page, forces a copy
//! of it in every frozen mapping, and notes there that it changes.

#![allow(unsafe_code)]

use crate::error::Result;
use crate::medium::{self, Medium};
use crate::os;
use crate::sync::Mutex;
use crate::sync::atomic::AtomicU64;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};

const PAGE: u64 = 4096;

/// A picture of the home as it was when it was taken.
#[derive(Debug)]
pub struct Frozen {
    base: *mut u8,
    len: usize,
    mapped: bool,
    /// A bit for each page that has changed in the home since.
    changed: Vec<AtomicU64>,
}

// SAFETY: private memory that is only read, but for the rewriting of single
// bytes with themselves by atomic operations.
unsafe impl Send for Frozen {}
// SAFETY: as above.
unsafe impl Sync for Frozen {}

impl Frozen {
    pub(crate) fn map(file: &File, path: &Path, offset: u64, len: u64) -> Result<Frozen> {
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
                file,
                offset,
            )
        };
        let base = os::io(path, "map a frozen picture of", base)?.cast();
        Ok(Frozen {
            base,
            len: len as usize,
            mapped: true,
            changed: no_page(len),
        })
    }

    /// A picture by copying, for media that cannot be mapped privately.
    pub(crate) fn copy(medium: &dyn Medium, offset: u64, len: u64) -> Result<Frozen> {
        let mut bytes = vec![0; len as usize];
        medium::fill(medium, offset, &mut bytes)?;
        let bytes = Box::leak(bytes.into_boxed_slice());
        Ok(Frozen {
            base: bytes.as_mut_ptr(),
            len: bytes.len(),
            mapped: false,
            changed: no_page(len),
        })
    }

    /// Where home offset 0 of the picture is. Read through the pointer: the
    /// checkpoint may rewrite bytes beside the reader, with what they hold.
    pub fn base(&self) -> *const u8 {
        self.base
    }

    /// Bytes of home the picture shows.
    pub fn size(&self) -> u64 {
        self.len as u64
    }

    /// Copies `buf.len()` bytes from home offset `offset`.
    ///
    /// # Panics
    ///
    /// Beyond [`size`](Self::size).
    pub fn read(&self, offset: u64, buf: &mut [u8]) {
        assert!(
            offset as usize + buf.len() <= self.len,
            "read beyond the frozen picture"
        );
        // SAFETY: in range, by the assertion; `buf` is the caller's own memory.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.base.add(offset as usize),
                buf.as_mut_ptr(),
                buf.len(),
            );
        }
    }

    /// Home offsets of the pages of this picture that have changed in the home since, as far as that is known when it is asked.
    pub fn changed(&self) -> impl Iterator<Item = u64> {
        let words = self.changed.iter().enumerate();
        words.flat_map(|(i, word)| {
            let mut left = word.load(Ordering::Acquire);
            std::iter::from_fn(move || {
                let bit = u64::from(left.trailing_zeros());
                left &= left.wrapping_sub(1);
                (bit < 64).then_some((i as u64 * 64 + bit) * PAGE)
            })
        })
    }

    /// Notes that the page at home offset `page` changes.
    fn note(&self, page: u64) {
        let page = page / PAGE;
        if let Some(word) = self.changed.get((page / 64) as usize) {
            word.fetch_or(1 << (page % 64), Ordering::Release);
        }
    }

    /// Makes the page at home offset `page` independent of the file.
    fn protect(&self, page: u64) {
        if self.mapped && (page as usize) < self.len {
            // SAFETY: inside the mapping, whose bytes stay what they are: the kernel
            // copies the page, and the program stores nothing.
            let copied = unsafe {
                let page = self.base.add(page as usize).cast();
                rustix::mm::madvise(page, PAGE as usize, Advice::LinuxPopulateWrite)
            };
            if copied.is_ok() {
                return;
            }
            // A kernel before 5.14.
            // SAFETY: inside the mapping; atomic, so that a reader beside it
            // sees the same value.
            let byte = unsafe { AtomicU8::from_ptr(self.base.add(page as usize)) };
            // A write of the byte by itself makes the kernel copy the page. (A
            // `fetch_or(0)` would not do: compilers turn it into a load.)
            let value = byte.load(Ordering::Relaxed);
            let _ = byte.compare_exchange(value, value, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if self.mapped {
            // SAFETY: our mapping, and nobody borrows from it any more.
            let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.len) };
        } else {
            // SAFETY: leaked from a boxed slice of this length in `copy`.
            drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.base, self.len)) });
        }
    }
}

/// A bit, not set, for each page of so many bytes of home.
fn no_page(len: u64) -> Vec<AtomicU64> {
    let words = len.div_ceil(64 * PAGE);
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

/// The frozen pictures that are alive.
#[derive(Debug, Default)]
pub(crate) struct FrozenSet(Mutex<Vec<Weak<Frozen>>>);

impl FrozenSet {
    pub(crate) fn add(&self, frozen: &Arc<Frozen>) {
        self.0.lock().push(Arc::downgrade(frozen));
    }

    /// Whether any is alive.
    pub(crate) fn any(&self) -> bool {
        let set = self.0.lock();
        set.iter().any(|frozen| frozen.strong_count() > 0)
    }

    /// The home's `pages` (offsets) are made what they were to be all along: pictures follow, and whoever copied them before has to know.
    pub(crate) fn repaired(&self, pages: impl Iterator<Item = u64>) {
        let alive: Vec<_> = {
            let set = self.0.lock();
            set.iter().filter_map(Weak::upgrade).collect()
        };
        pages.for_each(|page| alive.iter().for_each(|frozen| frozen.note(page)));
    }

    /// The home's `pages` (offsets) are about to change.
    pub(crate) fn before_change(&self, pages: impl Iterator<Item = u64>) {
        let mut set = self.0.lock();
        set.retain(|frozen| frozen.strong_count() > 0);
        if set.is_empty() || crate::mutant::is("no_freeze") {
            return;
        }
        let alive: Vec<_> = set.iter().filter_map(Weak::upgrade).collect();
        for page in pages {
            for frozen in &alive {
                frozen.note(page);
                frozen.protect(page);
            }
        }
    }
}

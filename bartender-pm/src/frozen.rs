//! Frozen pictures of the home, for a marker or a snapshot that runs while the
//! program works.
//!
//! A private mapping freezes nothing by itself: pages it has not copied follow
//! the file. So the checkpoint, before it changes a home page, forces a copy
//! of it in every frozen mapping, and notes there that it changes.
//!
//! *What that costs* commits notice, for the log is taken home no faster: so a page is copied once for each picture, all pages
//! of a checkpoint in one system call, and none that nobody will look at ([`Frozen::forget`]). Two who change pages at the same
//! time (a checkpoint, and a commit that ships fresh bytes) need no lock for it: that a page needs no copy is
//! said after it was made, and making it once more changes nothing.

#![allow(unsafe_code)]

use crate::error::Result;
use crate::medium::{self, Medium};
use crate::os::{self, Populate};
use crate::sync::Mutex;
use crate::sync::atomic::AtomicU64;
use rustix::mm::{MapFlags, ProtFlags};
use std::fs::File;
use std::ops::Range;
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
    /// A bit for each page that may change in the home without another copy: it has one, or nobody looks at it.
    settled: Vec<AtomicU64>,
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
            settled: no_page(len),
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
            settled: no_page(len),
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

    /// Nobody will read `range` of this picture, of which whole pages then may change with the home: they need no copies.
    pub fn forget(&self, range: Range<u64>) {
        self.settle(range);
    }

    /// The whole pages of `range` need no copy from now on.
    fn settle(&self, range: Range<u64>) {
        let end = range.end.min(self.len as u64) / PAGE;
        let mut page = range.start.div_ceil(PAGE);
        while page < end {
            // As much of a word as the range has.
            let (bit, upto) = (page % 64, (page / 64 * 64 + 64).min(end));
            let bits = (u64::MAX >> (64 - (upto - page))) << bit;
            self.settled[(page / 64) as usize].fetch_or(bits, Ordering::Release);
            page = upto;
        }
    }

    /// Whether the page at home offset `page` needs no copy.
    fn is_settled(&self, page: u64) -> bool {
        let page = page / PAGE;
        let word = self.settled.get((page / 64) as usize);
        word.is_none_or(|word| word.load(Ordering::Acquire) >> (page % 64) & 1 != 0)
    }

    /// Makes pages, by rising home offset, independent of the file.
    fn protect(&self, pages: &[u64], populate: &Populate) {
        if !self.mapped {
            return;
        }
        let mut runs: Vec<Range<u64>> = Vec::new();
        for &page in pages.iter().filter(|&&page| !self.is_settled(page)) {
            match runs.last_mut() {
                Some(last) if last.end == page => last.end += PAGE,
                _ => runs.push(page..page + PAGE),
            }
        }
        // SAFETY: inside the mapping, beyond whose last page none is asked for, and whose bytes stay what they are: the
        // kernel copies pages, and the program stores nothing.
        if !unsafe { populate.for_writing(self.base, &runs) } {
            // A kernel before 5.14.
            for page in runs.iter().cloned().flatten().step_by(PAGE as usize) {
                // SAFETY: inside the mapping; atomic, so that a reader beside it
                // sees the same value.
                let byte = unsafe { AtomicU8::from_ptr(self.base.add(page as usize)) };
                // A write of the byte by itself makes the kernel copy the page. (A
                // `fetch_or(0)` would not do: compilers turn it into a load.)
                let value = byte.load(Ordering::Relaxed);
                let _ = byte.compare_exchange(value, value, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        runs.into_iter().for_each(|run| self.settle(run));
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
pub(crate) struct FrozenSet {
    pictures: Mutex<Vec<Weak<Frozen>>>,
    populate: Populate,
}

impl FrozenSet {
    pub(crate) fn add(&self, frozen: &Arc<Frozen>) {
        self.pictures.lock().push(Arc::downgrade(frozen));
    }

    /// Whether any is alive.
    pub(crate) fn any(&self) -> bool {
        let set = self.pictures.lock();
        set.iter().any(|frozen| frozen.strong_count() > 0)
    }

    fn alive(&self) -> Vec<Arc<Frozen>> {
        let mut set = self.pictures.lock();
        set.retain(|frozen| frozen.strong_count() > 0);
        set.iter().filter_map(Weak::upgrade).collect()
    }

    /// The home's `pages` (offsets) are made what they were to be all along: pictures follow, and whoever copied them before has to know.
    pub(crate) fn repaired(&self, pages: impl Iterator<Item = u64>) {
        let alive = self.alive();
        pages.for_each(|page| alive.iter().for_each(|frozen| frozen.note(page)));
    }

    /// The home's `pages` (offsets) are about to change.
    pub(crate) fn before_change(&self, pages: impl Iterator<Item = u64>) {
        let alive = self.alive();
        if alive.is_empty() || crate::mutant::is("no_freeze") {
            return;
        }
        let mut pages: Vec<u64> = pages.collect();
        pages.sort_unstable();
        for frozen in &alive {
            pages.iter().for_each(|&page| frozen.note(page));
            frozen.protect(&pages, &self.populate);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::{Counts, Durability, Options, Record, Region};

    fn change(region: &Region, pages: impl Iterator<Item = u64>) {
        let mut record = Record::new();
        pages.for_each(|page| record.change(page * 4096, &[9]));
        let mut writer = region.writer().expect("open");
        writer
            .append(&mut record, Durability::Immediate)
            .expect("room");
        drop(writer);
        region.sync().expect("durable");
    }

    /// Golden counts: system calls of a checkpoint beside a picture, on a file that needs none otherwise.
    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn a_checkpoint_asks_the_kernel_once_for_pages_that_have_no_copy() {
        let shm = std::path::Path::new("/dev/shm");
        let folder = match shm.is_dir() {
            true => tempfile::tempdir_in(shm),
            false => return,
        };
        let folder = folder.expect("a folder");
        let mut options = Options::new();
        options
            .max_size(16 << 20)
            .log_size(1 << 20)
            .background(false);
        let region = options
            .open(folder.path().join("a.region"))
            .expect("creates");
        region.extend(16 << 20).expect("room");
        let checkpoint = |pages: &mut dyn Iterator<Item = u64>| {
            change(&region, pages);
            let (done, counts) = Counts::of(|| region.checkpoint());
            done.expect("no I/O error");
            counts.syscalls
        };
        assert_eq!(checkpoint(&mut (16..32)), 0, "without a picture");
        let picture = region.freeze().expect("maps");
        picture.forget(4 << 20..8 << 20);
        assert_eq!(checkpoint(&mut (16..32)), 1, "in a row");
        assert_eq!(checkpoint(&mut (16..32)), 0, "copied before");
        let scattered = checkpoint(&mut (32..1024).step_by(2));
        // The first time, what names the process is opened as well.
        match region.shared.home.frozen.populate.takes_many() {
            true => assert_eq!(scattered, 2),
            false => assert!(scattered >= 496),
        }
        assert_eq!(checkpoint(&mut (1024..2048)), 0, "nobody looks at them");
        assert_eq!(checkpoint(&mut (2047..2049)), 1, "at the edge");
        let fresh = |at: u64| {
            let mut writer = region.writer().expect("open");
            let (done, counts) = Counts::of(|| writer.write_fresh(at, &[7; 64 << 10]));
            done.expect("inside");
            counts.syscalls
        };
        assert_eq!((fresh(4 << 20), fresh(12 << 20)), (1, 2));
        let mut shown = vec![1; 16 << 20];
        picture.read(0, &mut shown);
        for page in (16..1024).chain(2048..4096) {
            let expected = if page < 32 { 9 } else { 0 };
            assert_eq!(shown[page * 4096], expected, "page {page}");
        }
    }

    #[test]
    fn what_is_forgotten_is_whole_pages_of_the_range() {
        let bytes = Box::leak(vec![0; 200 * 4096].into_boxed_slice());
        let frozen = super::Frozen {
            base: bytes.as_mut_ptr(),
            len: bytes.len(),
            mapped: false,
            changed: Vec::new(),
            settled: super::no_page(200 * 4096),
        };
        frozen.forget(4095..4097 + 4096);
        frozen.forget(60 * 4096..130 * 4096);
        frozen.forget(195 * 4096 - 1..1 << 40);
        for page in 0..200 {
            let expected = page == 1 || (60..130).contains(&page) || page >= 195;
            assert_eq!(frozen.is_settled(page * 4096), expected, "page {page}");
        }
    }
}

//! A durable transaction on one `u64`, beside the bare cost of its barrier.

use crate::harness::{Report, Subject, nanos};
use bartender::{Heap, PMutex};
use bartender_pm::{Durability, Options, Record, Region, instr};
use std::error::Error;
use tempfile::TempDir;

const N: u64 = 200_000;

/// Memory that is touched, shared, and line-aligned.
pub(crate) struct Lines {
    base: *mut u8,
    len: usize,
}

impl Lines {
    pub(crate) fn new(len: usize) -> Lines {
        // SAFETY: a fresh anonymous mapping.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        assert_ne!(base, libc::MAP_FAILED, "cannot map {len} bytes");
        Lines {
            base: base.cast(),
            len,
        }
    }

    /// `N` bytes, whole lines, past the cache, fenced: the least that a durable store of them costs.
    pub(crate) fn bare<const N: usize>(&self, i: u64) {
        let lines = [i as u8; N];
        let at = i as usize * N % self.len;
        // SAFETY: inside the mapping, whose length is a multiple of `N`, and line-aligned.
        unsafe { instr::store_lines(self.base.add(at), &lines) };
        instr::fence();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

fn region(folder: &TempDir, name: &str, force: bool) -> Result<Region, Box<dyn Error>> {
    let mut options = Options::new();
    options.max_size(64 << 20).force_flush(force);
    Ok(options.open(folder.path().join(name))?)
}

fn append(region: &Region, record: &mut Record, i: u64) {
    let mut writer = region.writer().expect("open");
    record.clear();
    record.change(4096, &i.to_le_bytes());
    writer.append(record, Durability::Immediate).expect("room");
}

fn heap(folder: &TempDir, name: &str, force: bool) -> Result<Heap<PMutex<u64>>, Box<dyn Error>> {
    let options = Heap::<PMutex<u64>>::options()
        .max_size(64 << 20)
        .force_flush(force);
    Ok(options.open(folder.path().join(name))?)
}

fn update(heap: &Heap<PMutex<u64>>) {
    heap.update(|mut n| {
        *n += 1;
        Ok(())
    })
    .expect("room");
}

pub(crate) fn run(report: &mut Report) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir_in("/dev/shm")?;
    let lines = Lines::new(1 << 20);
    let (pm, pm_forced) = (region(&folder, "a", false)?, region(&folder, "b", true)?);
    let (typed, typed_forced) = (heap(&folder, "c", false)?, heap(&folder, "d", true)?);
    #[cfg(feature = "pmemobj")]
    let pool = crate::pmemobj::Pool::create(&folder.path().join("pool"), 64 << 20)
        .ok_or("cannot make a pool")?;
    let mut records = (Record::new(), Record::new());
    #[allow(unused_mut)]
    let mut subjects: Vec<Subject<'_>> = vec![
        (
            "bare line, non-temporal, fenced",
            Box::new(|| nanos(N, || (0..N).for_each(|i| lines.bare::<64>(i)))),
        ),
        (
            "record, DAX barrier",
            Box::new(|| {
                nanos(N, || {
                    (0..N).for_each(|i| append(&pm_forced, &mut records.0, i))
                })
            }),
        ),
        (
            "update, DAX barrier",
            Box::new(|| nanos(N, || (0..N).for_each(|_| update(&typed_forced)))),
        ),
        (
            "record, shared memory",
            Box::new(|| nanos(N, || (0..N).for_each(|i| append(&pm, &mut records.1, i)))),
        ),
        (
            "update, shared memory",
            Box::new(|| nanos(N, || (0..N).for_each(|_| update(&typed)))),
        ),
    ];
    #[cfg(feature = "pmemobj")]
    subjects.push((
        "libpmemobj, DAX barrier",
        Box::new(|| nanos(N / 10, || (0..N / 10).for_each(|_| pool.add_one()))),
    ));
    let w = "durable one-word transaction";
    report.measure(w, 1, "ns", 7, subjects);
    let bare = report.median(w, 1, "bare line, non-temporal, fenced");
    let forced = report.median(w, 1, "update, DAX barrier");
    report.at_most(
        "one-word transaction, DAX barrier, against the bare line",
        forced / bare,
        2.5,
    );
    report.at_most(
        "one-word transaction, shared memory, ns",
        report.median(w, 1, "update, shared memory"),
        100.0,
    );
    if cfg!(feature = "pmemobj") {
        let peer = report.median(w, 1, "libpmemobj, DAX barrier");
        report.at_least(
            "one-word transaction, libpmemobj against us",
            peer / forced,
            5.0,
        );
    }
    Ok(())
}

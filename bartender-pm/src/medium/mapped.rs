//! Real media: a file that is mapped shared, on DAX, on a disk, or on tmpfs.
//!
//! The three differ in how bytes become durable, nothing else:
//!
//! | | append | persist |
//! |---|---|---|
//! | DAX | non-temporal stores, `sfence` | `clwb` of the lines, `sfence` |
//! | file | `pwritev2(RWF_DSYNC)` | `fdatasync` |
//! | shared memory | plain stores, release fence | release fence |
//!
//! Not handled: a read error of a mapped page arrives as SIGBUS, as with every
//! mapped file.

#![allow(unsafe_code)]

use super::{LogStyle, Medium, MediumKind, ViewSource};
use crate::error::{Error, Result};
use crate::sync::atomic::{AtomicU64, Ordering, fence};
use crate::{counts, instr, os};
use rustix::fs::OFlags;
use rustix::mm::{MapFlags, ProtFlags};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const TMPFS: u64 = 0x0102_1994;
const HUGETLBFS: u64 = 0x9584_58f6;
const RAMFS: u64 = 0x8584_58f6;

/// Writes of so many bytes go through `pwrite`: shorter ones cost less as
/// stores into the mapping, longer ones would fault in page after page.
const LONG_WRITE: usize = 64 << 10;

/// A region's file and its shared mapping.
#[derive(Debug)]
pub(crate) struct MappedFile {
    file: File,
    path: PathBuf,
    kind: MediumKind,
    /// Bytes become durable by flush and fence (DAX, or shared memory that
    /// pretends to be, for measuring).
    flush: bool,
    len: AtomicU64,
    map: OnceLock<Mapping>,
}

/// A shared mapping of a file from its start; pages beyond the file's end are
/// reserved and not touched.
#[derive(Debug)]
struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: the mapping is plain memory; who may touch which bytes when is ruled
// by `Medium`'s contract, not by the thread that mapped it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `reserve` with this length; the medium is being
        // dropped, so nobody reaches it any more.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.len) };
    }
}

impl MappedFile {
    /// Opens and locks `path`, or creates it under a temporary name that
    /// [`publish`](Self::publish) replaces, and finds out what it lies on.
    pub(crate) fn new(file: File, path: &Path, force_flush: bool) -> Result<MappedFile> {
        let stat = os::io(path, "examine", rustix::fs::fstat(&file))?;
        let len = stat.st_size as u64;
        let kind = kind_of(&file, path)?;
        let flush = kind == MediumKind::Dax || (kind == MediumKind::Shared && force_flush);
        if flush && !instr::supported() {
            return Err(Error::BadOption {
                option: "medium",
                what: "this processor has no instruction to write a cache line back".into(),
            });
        }
        Ok(MappedFile {
            file,
            path: path.into(),
            kind,
            flush,
            len: AtomicU64::new(len),
            map: OnceLock::new(),
        })
    }

    /// Where `[offset, offset + len)` is mapped.
    #[inline]
    fn at(&self, offset: u64, len: usize) -> *mut u8 {
        let map = self.map.get().expect("`reserve` comes before any write");
        let end = offset as usize + len;
        assert!(
            end <= map.len && end as u64 <= self.len.load(Ordering::Acquire),
            "write of {len} bytes at {offset} beyond the medium's end"
        );
        // SAFETY: inside the mapping, by the assertion.
        unsafe { map.base.add(offset as usize) }
    }

    /// The barrier that ends an `append` or a `persist` by stores.
    #[inline]
    fn drain(&self) {
        if self.flush {
            instr::fence();
        } else {
            fence(Ordering::Release);
        }
        counts::barrier();
    }
}

/// What a file lies on.
fn kind_of(file: &File, path: &Path) -> Result<MediumKind> {
    let fs = os::io(
        path,
        "examine the file system of",
        rustix::fs::fstatfs(file),
    )?;
    if [TMPFS, HUGETLBFS, RAMFS].contains(&(fs.f_type as u64)) {
        return Ok(MediumKind::Shared);
    }
    // MAP_SYNC is the kernel's promise that a store, written back, is durable
    // without a system call; it is refused everywhere but on DAX.
    // SAFETY: a fresh mapping at an address of the kernel's choice, never
    // touched, unmapped at once.
    let probe = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            4096,
            ProtFlags::READ,
            MapFlags::SHARED_VALIDATE | MapFlags::SYNC,
            file,
            0,
        )
    };
    counts::syscall();
    if let Ok(base) = probe {
        // SAFETY: mapped just now.
        let _ = unsafe { rustix::mm::munmap(base, 4096) };
        return Ok(MediumKind::Dax);
    }
    Ok(MediumKind::File)
}

impl Medium for MappedFile {
    fn kind(&self) -> MediumKind {
        self.kind
    }

    fn log_style(&self) -> LogStyle {
        match self.kind {
            MediumKind::File => LogStyle::Stream,
            _ => LogStyle::Lanes,
        }
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn reserve(&self, max_len: u64) -> Result<()> {
        let len = max_len as usize;
        let sync = if self.kind == MediumKind::Dax {
            MapFlags::SHARED_VALIDATE | MapFlags::SYNC
        } else {
            MapFlags::SHARED
        };
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                sync | MapFlags::NORESERVE,
                &self.file,
                0,
            )
        };
        let base = os::io(&self.path, "map", base)?.cast();
        let mapping = Mapping { base, len };
        // SAFETY: the whole mapping; a child of fork must not write to it.
        let advice =
            unsafe { rustix::mm::madvise(base.cast(), len, rustix::mm::Advice::LinuxDontFork) };
        os::io(&self.path, "keep from child processes", advice)?;
        self.map.set(mapping).expect("reserve is called once");
        Ok(())
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if self.kind == MediumKind::File || self.map.get().is_none() {
            return os::io(&self.path, "read", self.file.read_exact_at(buf, offset));
        }
        let src = self.at(offset, buf.len());
        // SAFETY: `at` checked the range; `Medium`'s contract keeps writers of
        // the same bytes away meanwhile; `buf` is the caller's own memory.
        unsafe { std::ptr::copy_nonoverlapping(src, buf.as_mut_ptr(), buf.len()) };
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let dst = self.at(offset, bytes.len());
        if bytes.len() >= LONG_WRITE && self.kind != MediumKind::Dax && !self.flush {
            // The page cache is the same memory; it is reached without a fault
            // per page that nobody has touched.
            let written = self.file.write_all_at(bytes, offset);
            return os::io(&self.path, "write to", written);
        }
        // SAFETY: `at` checked the range; `Medium`'s contract gives these
        // bytes to this call alone; the mapping is not Rust memory of anybody
        // else's, so `bytes` cannot overlap it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), dst, bytes.len()) };
        Ok(())
    }

    fn persist(&self, ranges: &[(u64, u64)]) -> Result<()> {
        if self.kind == MediumKind::File {
            counts::barrier();
            return os::io(&self.path, "sync", rustix::fs::fdatasync(&self.file));
        }
        if self.flush {
            for &(offset, len) in ranges {
                let start = self.at(offset, len as usize);
                // SAFETY: `at` checked that the range is mapped.
                unsafe { instr::flush(start, len as usize) };
            }
        }
        self.drain();
        Ok(())
    }

    fn append(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        if self.kind == MediumKind::File {
            for &(offset, bytes) in pieces {
                os::write_sync(&self.file, &self.path, offset, bytes)?;
                counts::barrier();
            }
            return Ok(());
        }
        for &(offset, bytes) in pieces {
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
        self.drain();
        Ok(())
    }

    fn let_go(&self, offset: u64, len: u64) {
        // A store past the cache takes twice as long where some cache has the
        // line.
        if self.flush && len != 0 {
            let start = self.at(offset, len as usize);
            // SAFETY: `at` checked that the range is mapped.
            unsafe { instr::evict(start, len as usize) };
        }
    }

    fn grow(&self, len: u64) -> Result<()> {
        let old = self.len();
        if len <= old {
            return Ok(());
        }
        os::allocate(&self.file, &self.path, old, len - old)?;
        if self.kind != MediumKind::Shared {
            // A synchronous write of one zero makes length and space durable
            // without waiting for the home's dirty pages, as fdatasync would.
            os::write_sync(&self.file, &self.path, len - 8, &[0; 8])?;
        }
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    fn view(&self) -> ViewSource<'_> {
        ViewSource::Map(&self.file)
    }

    fn fill_log(&self, offset: u64, len: u64) -> Result<()> {
        if self.kind != MediumKind::File {
            return Ok(());
        }
        let zeroes = vec![0u8; 1 << 20];
        let mut at = offset;
        while at < offset + len {
            let n = zeroes.len().min((offset + len - at) as usize);
            os::io(
                &self.path,
                "fill the log of",
                self.file.write_all_at(&zeroes[..n], at),
            )?;
            at += n as u64;
        }
        os::io(&self.path, "sync", rustix::fs::fdatasync(&self.file))
    }

    fn write_back(&self, ranges: &[(u64, u64)]) -> Result<()> {
        if self.kind != MediumKind::File {
            return Ok(());
        }
        os::write_back(&self.file, &self.path, ranges)
    }
}

/// Opens an existing file for reading and writing, locked.
///
/// # Errors
///
/// `Busy`, or `Io`.
pub(crate) fn open_locked(path: &Path) -> Result<File> {
    let file = os::io(
        path,
        "open",
        File::options().read(true).write(true).open(path),
    )?;
    os::lock(&file, path)?;
    Ok(file)
}

/// Creates a file beside `path`, locked, under a name that only [`publish`]
/// turns into `path`: a crash on the way leaves no half-made region there.
pub(crate) fn create_locked(path: &Path) -> Result<(File, PathBuf)> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let options = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    let fd = os::io(path, "create", rustix::fs::open(&temporary, options, mode))?;
    let file = File::from(fd);
    os::lock(&file, path)?;
    Ok((file, temporary))
}

/// Gives a file made by [`create_locked`] its name, durably. `Ok(false)`: the
/// name was taken meanwhile and the temporary file is gone.
pub(crate) fn publish(temporary: &Path, path: &Path) -> Result<bool> {
    use rustix::fs::{CWD, RenameFlags};
    match rustix::fs::renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::EXIST) => {
            let _ = std::fs::remove_file(temporary);
            return Ok(false);
        }
        other => os::io(path, "name", other)?,
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder_file = os::io(folder, "open", File::open(folder))?;
    os::io(folder, "sync", folder_file.sync_all())?;
    Ok(true)
}

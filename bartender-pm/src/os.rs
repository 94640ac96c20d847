//! The system calls of this crate, each counted and with its file and intent
//! in the error.

#![allow(unsafe_code)]

use crate::counts;
use crate::error::{Error, Result};
use rustix::fd::AsRawFd;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// `result` with the facts a person needs, and counted.
pub(crate) fn io<T, E: Into<io::Error>>(
    path: &Path,
    action: &'static str,
    result: std::result::Result<T, E>,
) -> Result<T> {
    counts::syscall();
    result.map_err(|source| Error::Io {
        path: path.into(),
        action,
        source: source.into(),
    })
}

/// The same file, open once more for reading past the page cache; none where it cannot be.
pub(crate) fn reopen_direct(file: &File) -> Option<File> {
    use rustix::fs::{Mode, OFlags};
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    counts::syscall();
    let fd = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    Some(fd.into())
}

/// The parts of a range that the file has data for: pages in memory that were never written are none. Where that
/// cannot be said, or they are many, the rest as a whole.
pub(crate) fn written(file: &File, range: Range<u64>) -> Vec<Range<u64>> {
    use rustix::fs::{SeekFrom, seek};
    const MANY: usize = 1000;
    let mut parts = Vec::new();
    let mut at = range.start;
    while at < range.end {
        counts::syscall();
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(_) => at,
        };
        if start >= range.end {
            break;
        }
        counts::syscall();
        let end = match seek(file, SeekFrom::Hole(start)) {
            Ok(end) if end > start && parts.len() < MANY => end.min(range.end),
            _ => range.end,
        };
        parts.push(start..end);
        at = end;
    }
    parts
}

/// Writes `bytes` at `offset` and waits until they, and the metadata needed to
/// find them, are on the device.
pub(crate) fn write_sync(file: &File, path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &bytes[done..];
        let iov = libc::iovec {
            iov_base: rest.as_ptr().cast_mut().cast(),
            iov_len: rest.len(),
        };
        let at = offset + done as u64;
        counts::syscall();
        // SAFETY: one iovec that describes `rest`, which outlives the call;
        // pwritev2 only reads it.
        let n = unsafe {
            libc::pwritev2(
                file.as_raw_fd(),
                &iov,
                1,
                at as libc::off_t,
                libc::RWF_DSYNC,
            )
        };
        match usize::try_from(n) {
            Ok(0) => {
                let source = io::Error::from(io::ErrorKind::WriteZero);
                return Err(Error::Io {
                    path: path.into(),
                    action: "write to the log",
                    source,
                });
            }
            Ok(n) => done += n,
            Err(_) => {
                let source = io::Error::last_os_error();
                match source.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // Before Linux 4.7, and on file systems of their own mind.
                    Some(libc::EOPNOTSUPP | libc::ENOSYS) => {
                        io(path, "write to the log", file.write_all_at(rest, at))?;
                        return io(path, "sync the log", rustix::fs::fdatasync(file));
                    }
                    _ => {
                        return Err(Error::Io {
                            path: path.into(),
                            action: "write to the log",
                            source,
                        });
                    }
                }
            }
        }
    }
    Ok(())
}

/// Allocates space for `[offset, offset + len)` and lengthens the file to hold it.
pub(crate) fn allocate(file: &File, path: &Path, offset: u64, len: u64) -> Result<()> {
    let result = rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), offset, len);
    if let Err(Errno::OPNOTSUPP) = result {
        // A file system without fallocate: write the zeroes.
        let zeroes = vec![0u8; 1 << 20];
        let mut at = offset;
        while at < offset + len {
            let n = zeroes.len().min((offset + len - at) as usize);
            io(path, "allocate space", file.write_all_at(&zeroes[..n], at))?;
            at += n as u64;
        }
        return Ok(());
    }
    io(path, "allocate space", result)
}

/// Takes the space under `[offset, offset + len)` away, the file's length not.
pub(crate) fn punch(file: &File, path: &Path, offset: u64, len: u64) -> Result<()> {
    use rustix::fs::FallocateFlags as Flags;
    let flags = Flags::PUNCH_HOLE | Flags::KEEP_SIZE;
    let result = rustix::fs::fallocate(file, flags, offset, len);
    io(path, "give space of", result)
}

/// Whether the file's system makes holes: asked with one beyond the file's end,
/// where nothing is.
pub(crate) fn has_holes(file: &File, len: u64) -> bool {
    use rustix::fs::FallocateFlags as Flags;
    counts::syscall();
    let flags = Flags::PUNCH_HOLE | Flags::KEEP_SIZE;
    let beyond = len.next_multiple_of(4096);
    rustix::fs::fallocate(file, flags, beyond, 4096).is_ok()
}

/// Writes the dirty pages of the ranges to the device and waits until it has
/// taken them, without telling it to keep them.
///
/// # Errors
///
/// The device's: the sync that follows would not report them again.
pub(crate) fn write_back(file: &File, path: &Path, ranges: &[(u64, u64)]) -> Result<()> {
    let wait = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    for flags in [libc::SYNC_FILE_RANGE_WRITE, wait] {
        for &(at, len) in ranges {
            let (at, len) = (at as libc::off64_t, len as libc::off64_t);
            // SAFETY: a system call on an open file descriptor, no memory.
            let result = match unsafe { libc::sync_file_range(file.as_raw_fd(), at, len, flags) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            };
            match result.as_ref().err().and_then(io::Error::raw_os_error) {
                // Not there: the sync that follows does all the work.
                Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE) => return Ok(()),
                _ => io(path, "write back pages of", result)?,
            }
        }
    }
    Ok(())
}

/// Making the kernel copy pages of private mappings, many in one call where it takes that (Linux 6.13, for the
/// process's own memory).
#[derive(Debug, Default)]
pub(crate) struct Populate {
    /// What names this process to the kernel, once it was asked for; none where it does not take many.
    process: std::sync::OnceLock<Option<rustix::fd::OwnedFd>>,
    /// The kernel does not take many. A hint, by which nothing is ordered: so it needs no model, and is not of `sync`.
    refused: std::sync::atomic::AtomicBool,
}

impl Populate {
    /// Ranges that one call takes.
    const MANY: usize = 1024;

    /// Whether the kernel takes many ranges, as far as it was asked.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn takes_many(&self) -> bool {
        !self.refused.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Gives the process pages of its own at the ranges of a private mapping that starts at `base`: what they hold
    /// stays. `false` if that failed somewhere.
    ///
    /// # Safety
    ///
    /// The ranges lie inside the mapping.
    pub(crate) unsafe fn for_writing(&self, base: *mut u8, ranges: &[Range<u64>]) -> bool {
        let done = |ranges: &[Range<u64>]| {
            // SAFETY: inside the mapping, as the caller says.
            if ranges.len() > 1 && unsafe { self.all_at_once(base, ranges) } {
                return true;
            }
            ranges.iter().all(|range| {
                counts::syscall();
                let len = (range.end - range.start) as usize;
                // SAFETY: inside the mapping, as the caller says.
                let result = unsafe {
                    let start = base.add(range.start as usize).cast();
                    rustix::mm::madvise(start, len, rustix::mm::Advice::LinuxPopulateWrite)
                };
                result.is_ok()
            })
        };
        ranges.chunks(Self::MANY).all(done)
    }

    /// In one call. `false` if it did not do all: where a page could not be had, or they are more than one call takes (2
    /// GiB). The next ones are asked for at once again, unless the kernel does not know such a call.
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn all_at_once(&self, base: *mut u8, ranges: &[Range<u64>]) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        if self.refused.load(Relaxed) {
            return false;
        }
        let process = self.process.get_or_init(|| {
            counts::syscall();
            let flags = rustix::process::PidfdFlags::empty();
            rustix::process::pidfd_open(rustix::process::getpid(), flags).ok()
        });
        let vectors: Vec<libc::iovec> = ranges
            .iter()
            .map(|range| libc::iovec {
                iov_base: base.wrapping_add(range.start as usize).cast(),
                iov_len: (range.end - range.start) as usize,
            })
            .collect();
        let all: usize = vectors.iter().map(|vector| vector.iov_len).sum();
        let Some(process) = process else {
            self.refused.store(true, Relaxed);
            return false;
        };
        counts::syscall();
        // SAFETY: as many vectors as it says, which outlive the call, of memory that is mapped, as the caller says, and
        // whose bytes it does not change.
        let done = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                process.as_raw_fd(),
                vectors.as_ptr(),
                vectors.len(),
                libc::MADV_POPULATE_WRITE,
                0,
            )
        };
        if let Ok(done) = usize::try_from(done) {
            return done == all;
        }
        let error = io::Error::last_os_error().raw_os_error();
        // These pages cannot be had, or not now, which says nothing of others. Everything else is about the call.
        let about_pages = [
            libc::EAGAIN,
            libc::EFAULT,
            libc::EHWPOISON,
            libc::EINTR,
            libc::EIO,
            libc::ENOMEM,
        ];
        if !error.is_some_and(|error| about_pages.contains(&error)) {
            self.refused.store(true, Relaxed);
        }
        false
    }
}

/// An open file, locked for this process until it is dropped.
#[derive(Debug)]
pub(crate) struct Locked {
    file: File,
    forks: u32,
}

impl Locked {
    /// # Errors
    ///
    /// `Busy`, or `Io`.
    pub(crate) fn new(file: File, path: &Path) -> Result<Locked> {
        Self::with(file, path, FlockOperation::NonBlockingLockExclusive)
    }

    /// Beside others that read.
    ///
    /// # Errors
    ///
    /// `Busy`, or `Io`.
    pub(crate) fn to_read(file: File, path: &Path) -> Result<Locked> {
        Self::with(file, path, FlockOperation::NonBlockingLockShared)
    }

    fn with(file: File, path: &Path, operation: FlockOperation) -> Result<Locked> {
        match rustix::fs::flock(&file, operation) {
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::Busy {
                    path: path.into(),
                    holder: holder(&file),
                });
            }
            other => io(path, "lock", other)?,
        }
        watch_forks();
        let forks = forks();
        Ok(Locked { file, forks })
    }
}

impl std::ops::Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing is not enough: a child that another thread is starting has
        // the file open, too, until it executes. A child of fork that drops it
        // does not take the lock from its parent.
        if forks() == self.forks {
            counts::syscall();
            let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        }
    }
}

/// Who holds the lock, from `/proc/locks` (flock shows there by inode).
fn holder(file: &File) -> String {
    let find = || -> Option<String> {
        let stat = rustix::fs::fstat(file).ok()?;
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        let inode = format!(":{}", stat.st_ino);
        let line = locks
            .lines()
            .find(|line| line.contains("FLOCK") && line.split(' ').any(|f| f.ends_with(&inode)))?;
        let pid: u32 = line.split_whitespace().nth(4)?.parse().ok()?;
        if pid == std::process::id() {
            return Some("this process".into());
        }
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(match name.trim() {
            "" => format!("process {pid}"),
            name => format!("process {pid} ({name})"),
        })
    };
    find().unwrap_or_else(|| "another process".into())
}

/// How often this process is a child of `fork` made after [`watch_forks`].
pub(crate) fn forks() -> u32 {
    FORKS.load(std::sync::atomic::Ordering::Relaxed)
}

static FORKS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// Makes [`forks`] count, from now on.
pub(crate) fn watch_forks() {
    extern "C" fn child() {
        FORKS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // SAFETY: `child` is async-signal-safe: one atomic increment.
        unsafe { libc::pthread_atfork(None, None, Some(child)) };
    });
}

/// From now on the calling thread leaves the processors to others: one that wants the
/// same processor gets ten times as much of it. (The least priority there is would stop the thread
/// where many want it, and somebody may wait for what it does.) Where the system refuses, it
/// takes its share.
pub fn give_way() {
    const LOW: i32 = 10;
    // On Linux a priority is a thread's own.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), LOW);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Populate;
    use crate::Counts;
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

    const PAGE: usize = 4096;

    /// Golden counts: system calls.
    #[test]
    #[cfg_attr(miri, ignore = "maps memory")]
    fn what_cannot_be_had_once_is_no_reason_to_ask_one_by_one_ever_after() {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe {
            let at = std::ptr::null_mut();
            rustix::mm::mmap_anonymous(at, 8 * PAGE, access, MapFlags::PRIVATE)
        };
        let base: *mut u8 = base.expect("maps").cast();
        let populate = Populate::default();
        let scattered = [0, 2, 4].map(|page: u64| page * PAGE as u64..(page + 1) * PAGE as u64);
        // SAFETY: inside the mapping.
        let ask = || unsafe { populate.for_writing(base, &scattered) };
        assert!(ask());
        if populate.takes_many() {
            let protect = |access| {
                // SAFETY: a page of the mapping, to which nobody has a reference.
                let done = unsafe { rustix::mm::mprotect(base.add(2 * PAGE).cast(), PAGE, access) };
                done.expect("protects");
            };
            assert_eq!(Counts::of(ask).1.syscalls, 1);
            protect(MprotectFlags::READ);
            // All at once, of which it does a part; then one by one, as far as it gets.
            let (done, counts) = Counts::of(ask);
            assert_eq!((done, counts.syscalls), (false, 3));
            protect(MprotectFlags::READ | MprotectFlags::WRITE);
            let (done, counts) = Counts::of(ask);
            assert_eq!((done, counts.syscalls), (true, 1));
        }
        // SAFETY: the mapping from above.
        unsafe { rustix::mm::munmap(base.cast(), 8 * PAGE) }.expect("is there");
    }
}

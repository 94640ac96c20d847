//! The one door to what survives: every byte that this crate puts on a medium
//! goes through [`Medium`].
//!
//! Three kinds of write exist: [`append`](Medium::append) (log and header:
//! durable on return), [`write`](Medium::write) followed by
//! [`persist`](Medium::persist) (home), and allocation of space. What lies
//! between a `write` and its `persist` may survive a crash in any subset of
//! the medium's units: 8 bytes on DAX, 512-byte sectors on a disk.

mod mapping;

mod device;
pub(crate) mod mapped;
pub(crate) mod private;
pub mod sim;

use crate::error::{Error, Result};
use crate::instr;
use crate::os::{self, Locked};
use rustix::fs::FileType;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// What a region lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediumKind {
    /// Persistent memory: survives power loss after `clwb` + `sfence`.
    Dax,
    /// A file on a disk: survives power loss after a synchronous write.
    File,
    /// Shared memory (tmpfs): survives the death of the process.
    Shared,
    /// Memory under the crash simulator.
    Simulated,
}

impl fmt::Display for MediumKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MediumKind::Dax => "persistent memory (DAX)",
            MediumKind::File => "file",
            MediumKind::Shared => "shared memory",
            MediumKind::Simulated => "simulated",
        })
    }
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStyle {
    /// A lane per thread, each commit its own barrier.
    Lanes,
    /// One stream, the barrier shared by all commits that wait.
    Stream,
}

/// Where the view's bytes come from.
#[derive(Debug)]
pub enum ViewSource<'a> {
    /// A private copy-on-write mapping of this file.
    Map(&'a File),
    /// Private memory of the region's own, filled from the home at open: what
    /// is on the medium cannot be mapped privately.
    Copy,
    /// Memory of the medium's own, filled from the home at open.
    Memory {
        /// Its start: the home address.
        base: *mut u8,
        /// Its length in bytes.
        len: u64,
    },
}

/// A medium. Offsets are bytes from the start of the region's file.
///
/// Concurrency: `append`, `write` and `read` of disjoint ranges may run on
/// several threads at once; of overlapping ranges they may not, and the log
/// and checkpoint protocols see to it that they never do.
pub trait Medium: Send + Sync + fmt::Debug {
    /// What it is.
    fn kind(&self) -> MediumKind;
    /// How its log is best written.
    fn log_style(&self) -> LogStyle;
    /// Its file, or a name for messages.
    fn path(&self) -> &Path;
    /// Bytes there are.
    fn len(&self) -> u64;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bytes there may ever be, as far as the medium knows.
    fn capacity(&self) -> u64 {
        u64::MAX
    }
    /// Announces how long the medium will ever be, before the first `write`,
    /// `append` or `grow`, so that it can reserve addresses.
    fn reserve(&self, max_len: u64) -> Result<()> {
        let _ = max_len;
        Ok(())
    }
    /// Reads what was last written, durable or not.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
    /// The parts of a range that may have been written since the medium [grew](Self::grow) to have them, as far as it
    /// knows, rising. The rest is zeroes.
    fn written(&self, range: Range<u64>) -> Vec<Range<u64>> {
        vec![range]
    }
    /// Reads whole pages from where they are kept, past caches where there is a way: for finding damage. An error is the
    /// medium's, about these bytes.
    fn read_back(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.read(offset, buf)
    }
    /// Stores bytes; durable only after [`persist`](Self::persist).
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Waits until all bytes of the given ranges (offset, length) are durable:
    /// one barrier.
    fn persist(&self, ranges: &[(u64, u64)]) -> Result<()>;
    /// Stores pieces (offset, bytes) and waits until they are durable: one
    /// barrier, on a file one synchronous write a piece. Pieces that start on
    /// a line and consist of whole lines go past the cache.
    fn append(&self, pieces: &[(u64, &[u8])]) -> Result<()>;
    /// Bytes that were read and will next be overwritten by
    /// [`append`](Self::append): a cache need not keep them. They are durable,
    /// and stay as they are.
    fn let_go(&self, _offset: u64, _len: u64) {}
    /// Lengthens the medium to `len` bytes. The new bytes are zero and have
    /// their space; length and space are durable on return.
    fn grow(&self, len: u64) -> Result<()>;
    /// Whether [`punch`](Self::punch) takes space away.
    fn has_holes(&self) -> bool {
        false
    }
    /// Takes the space under a range of whole pages away, which then reads as
    /// zeroes; after a crash any part of it may be as before. Nothing may be
    /// stored there before [`refill`](Self::refill).
    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let _ = (offset, len);
        Ok(())
    }
    /// Sees to it that a range has its space, durably; where it had none, it is zero.
    fn refill(&self, offset: u64, len: u64) -> Result<()> {
        let _ = (offset, len);
        Ok(())
    }
    /// Where the view comes from.
    fn view(&self) -> ViewSource<'_>;
    /// Overwrites a range that `grow` just added with zeroes where that makes
    /// later appends there cheaper (on a file system, 143 instead of 331 µs).
    fn fill_log(&self, offset: u64, len: u64) -> Result<()> {
        let _ = (offset, len);
        Ok(())
    }
    /// Writes ranges back, so that a later `persist` has less to wait for.
    fn write_back(&self, ranges: &[(u64, u64)]) -> Result<()> {
        let _ = ranges;
        Ok(())
    }
}

/// What an open and locked file is as a medium.
///
/// # Errors
///
/// `NotARegion` for what is no file, `BadOption`, `Io`; those of a device.
pub(crate) fn of(file: Locked, path: &Path, force_flush: bool) -> Result<Arc<dyn Medium>> {
    Ok(match what_is(&file, path)? {
        What::Device(size) => Arc::new(device::DaxDevice::new(file, path, size)?),
        What::File(len) => Arc::new(mapped::MappedFile::new(file, path, len, force_flush)?),
    })
}

/// Makes room for a region on a device of persistent memory (`/dev/daxN.M`) by
/// destroying what is on it: a region, or something else. What an operator
/// does who would remove a file. [`Options::open`](crate::Options::open) never
/// does it by itself.
///
/// # Errors
///
/// `Busy` if a region is open there, `NotARegion` if it is no such device, `Io`.
pub fn erase_device(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let file = mapped::open_locked(path)?;
    match what_is(&file, path)? {
        What::Device(size) => device::DaxDevice::erase(file, path, size),
        What::File(_) => Err(Error::NotARegion {
            path: path.into(),
            what: "it is a file, which is removed and not erased".into(),
        }),
    }
}

/// Lets a region's file, which lies beside another one and is closed, take that one's place: its name and permissions, in
/// one durable step.
///
/// # Errors
///
/// `Io`. Either file has the name then.
pub fn replace_file(by: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<()> {
    mapped::replace(by.as_ref(), path.as_ref())
}

/// What can hold a region.
enum What {
    /// A file of so many bytes.
    File(u64),
    /// A device of persistent memory of so many bytes.
    Device(u64),
}

fn what_is(file: &File, path: &Path) -> Result<What> {
    let stat = os::io(path, "examine", rustix::fs::fstat(file))?;
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(What::File(stat.st_size as u64)),
        FileType::CharacterDevice => match device::size(stat.st_rdev) {
            Some(size) => return Ok(What::Device(size)),
            None => "it is a device, but none of persistent memory",
        },
        FileType::BlockDevice => {
            "it is a block device; make a file system there, with DAX where it can, and give a file"
        }
        _ => "it is neither a file nor a device of persistent memory",
    };
    Err(Error::NotARegion {
        path: path.into(),
        what: what.into(),
    })
}

/// Media that need flushes need a processor that has them.
fn check_flush() -> Result<()> {
    if instr::supported() {
        return Ok(());
    }
    Err(Error::BadOption {
        option: "medium",
        what: "this processor has no instruction to write a cache line back".into(),
    })
}

/// Copies a home into memory that is zero, leaving pages of zeroes untouched.
pub(crate) fn fill(medium: &dyn Medium, offset: u64, zeroes: &mut [u8]) -> Result<()> {
    const PAGE: usize = 4096;
    static ZEROES: [u8; PAGE] = [0; PAGE];
    let mut bytes = vec![0; 64 << 10];
    let mut at = offset;
    for chunk in zeroes.chunks_mut(bytes.len()) {
        let bytes = &mut bytes[..chunk.len()];
        medium.read(at, bytes)?;
        at += chunk.len() as u64;
        for (to, from) in chunk.chunks_mut(PAGE).zip(bytes.chunks(PAGE)) {
            if *from != ZEROES[..from.len()] {
                to.copy_from_slice(from);
            }
        }
    }
    Ok(())
}

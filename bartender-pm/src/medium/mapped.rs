//! A file that is mapped shared, on DAX, on a disk, or on tmpfs.
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

use super::mapping::Mapping;
use super::{LogStyle, Medium, MediumKind, ViewSource};
use crate::counts;
use crate::error::{Error, Result};
use crate::os::{self, Locked};
use crate::sync::atomic::{AtomicU64, Ordering};
use rustix::fs::{AtFlags, OFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
// Not the one of `sync`: it orders nothing, and a model has no files.
use std::sync::atomic::AtomicU32;

const TMPFS: u64 = 0x0102_1994;
const HUGETLBFS: u64 = 0x9584_58f6;
const RAMFS: u64 = 0x8584_58f6;

/// So many bytes are written and read by system calls: fewer cost less by way
/// of the mapping, more would fault in page after page.
const LONG: usize = 64 << 10;

/// What reading past the page cache is aligned to.
const PAGE: usize = 4096;

/// A region's file and its shared mapping.
#[derive(Debug)]
pub(crate) struct MappedFile {
    file: Locked,
    path: PathBuf,
    kind: MediumKind,
    /// Bytes become durable by flush and fence (DAX, or shared memory that
    /// pretends to be, for measuring).
    flush: bool,
    len: AtomicU64,
    map: OnceLock<Mapping>,
    /// Whether the file system makes holes, once somebody has asked.
    holes: OnceLock<bool>,
    /// The file once more, to be read past the page cache, where the file system does that.
    direct: OnceLock<Option<File>>,
}

impl MappedFile {
    /// An open file, with what it is found to lie on.
    pub(crate) fn new(
        file: Locked,
        path: &Path,
        len: u64,
        force_flush: bool,
    ) -> Result<MappedFile> {
        let kind = kind_of(&file, path)?;
        let flush = kind == MediumKind::Dax || (kind == MediumKind::Shared && force_flush);
        if flush {
            super::check_flush()?;
        }
        Ok(MappedFile {
            file,
            path: path.into(),
            kind,
            flush,
            len: AtomicU64::new(len),
            map: OnceLock::new(),
            holes: OnceLock::new(),
            direct: OnceLock::new(),
        })
    }

    /// The mapping, for bytes that the file has.
    #[inline]
    fn map(&self, offset: u64, len: usize) -> &Mapping {
        let map = self.map.get().expect("`reserve` comes before any write");
        assert!(
            offset + len as u64 <= self.len(),
            "{len} bytes at {offset} are beyond the file's end"
        );
        map
    }

    /// Allocates space for a range whose last bytes are zeroes or of no use, durably.
    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        os::allocate(&self.file, &self.path, offset, len)?;
        match self.kind {
            // The first store to a block that was never written waits for the
            // file system's journal, and there is nobody to say so to when it
            // finds no room there.
            MediumKind::Dax => self.zero(offset, len),
            // A synchronous write of one zero makes length and space durable
            // without waiting for the home's dirty pages, as fdatasync would.
            MediumKind::File => os::write_sync(&self.file, &self.path, offset + len - 8, &[0; 8]),
            _ => Ok(()),
        }
    }

    /// Writes zeroes to blocks that are allocated, durably.
    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        let zeroes = vec![0u8; 1 << 20];
        let mut at = offset;
        while at < offset + len {
            let n = zeroes.len().min((offset + len - at) as usize);
            let written = self.file.write_all_at(&zeroes[..n], at);
            os::io(&self.path, "write zeroes to", written)?;
            at += n as u64;
        }
        os::io(&self.path, "sync", rustix::fs::fdatasync(&*self.file))
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
        let sync = self.kind == MediumKind::Dax;
        let map = Mapping::new(&self.file, &self.path, max_len, sync, self.flush)?;
        self.map.set(map).expect("reserve is called once");
        Ok(())
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let long = buf.len() >= LONG && !self.flush;
        if self.kind == MediumKind::File || long || self.map.get().is_none() {
            return os::io(&self.path, "read", self.file.read_exact_at(buf, offset));
        }
        self.map(offset, buf.len()).read(offset, buf);
        Ok(())
    }

    fn written(&self, range: Range<u64>) -> Vec<Range<u64>> {
        match self.kind {
            MediumKind::Shared => os::written(&self.file, range),
            _ => vec![range],
        }
    }

    fn read_back(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        // Never through the mapping, where an error would be a signal.
        let direct = match self.kind {
            MediumKind::File => self.direct.get_or_init(|| os::reopen_direct(&self.file)),
            _ => &None,
        };
        if let Some(file) = direct {
            let mut roomy = vec![0; buf.len() + PAGE];
            let start = roomy.as_ptr().align_offset(PAGE).min(PAGE);
            let aligned = &mut roomy[start..start + buf.len()];
            match file.read_exact_at(aligned, offset) {
                // What is dirty in the cache was written back before.
                Ok(()) => {
                    buf.copy_from_slice(aligned);
                    return Ok(());
                }
                // Some file systems say so only now.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                Err(error) => return os::io(&self.path, "read", Err(error)),
            }
        }
        os::io(&self.path, "read", self.file.read_exact_at(buf, offset))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let map = self.map(offset, bytes.len());
        if bytes.len() >= LONG && !self.flush {
            // The page cache is the same memory; it is reached without a fault
            // per page that nobody has touched.
            let written = self.file.write_all_at(bytes, offset);
            return os::io(&self.path, "write to", written);
        }
        map.write(offset, bytes);
        Ok(())
    }

    fn persist(&self, ranges: &[(u64, u64)]) -> Result<()> {
        if self.kind == MediumKind::File {
            counts::barrier();
            return os::io(&self.path, "sync", rustix::fs::fdatasync(&*self.file));
        }
        let end = ranges.iter().map(|&(offset, len)| offset + len).max();
        self.map(end.unwrap_or(0), 0).persist(ranges);
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
            self.map(offset, bytes.len()).store(offset, bytes);
        }
        self.map(0, 0).drain();
        Ok(())
    }

    fn let_go(&self, offset: u64, len: u64) {
        self.map(offset, len as usize).let_go(offset, len);
    }

    fn grow(&self, len: u64) -> Result<()> {
        let old = self.len();
        if len <= old {
            return Ok(());
        }
        self.allocate(old, len - old)?;
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    fn has_holes(&self) -> bool {
        *self
            .holes
            .get_or_init(|| os::has_holes(&self.file, self.len()))
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        os::punch(&self.file, &self.path, offset, len)
    }

    fn refill(&self, offset: u64, len: u64) -> Result<()> {
        self.allocate(offset, len)
    }

    fn view(&self) -> ViewSource<'_> {
        ViewSource::Map(&self.file)
    }

    fn fill_log(&self, offset: u64, len: u64) -> Result<()> {
        if self.kind != MediumKind::File {
            return Ok(());
        }
        self.zero(offset, len)
    }

    fn write_back(&self, ranges: &[(u64, u64)]) -> Result<()> {
        if self.kind != MediumKind::File {
            return Ok(());
        }
        os::write_back(&self.file, &self.path, ranges)
    }
}

/// Gives a file that nobody has open another name beside its own, durably, which it returns: `NAME.damaged-N`, never one that is taken.
pub(crate) fn set_aside(path: &Path) -> Result<PathBuf> {
    use rustix::fs::{CWD, RenameFlags};
    let file = open_locked(path)?;
    let stat = os::io(path, "examine", rustix::fs::fstat(&*file))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(Error::NotARegion {
            path: path.into(),
            what: "it is no file, and cannot be set aside".into(),
        });
    }
    let mut n = 1;
    loop {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".damaged-{n}"));
        let aside = path.with_file_name(name);
        match rustix::fs::renameat_with(CWD, path, CWD, &aside, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::EXIST) => n += 1,
            other => {
                os::io(path, "set aside", other)?;
                sync_folder(path)?;
                return Ok(aside);
            }
        }
    }
}

/// Opens an existing file for reading and writing, locked.
///
/// # Errors
///
/// `Busy`, or what [`there`] says.
pub(crate) fn open_locked(path: &Path) -> Result<Locked> {
    let file = File::options().read(true).write(true).open(path);
    Locked::new(there(path, file)?, path)
}

/// Opens an existing file for reading, locked beside other readers.
///
/// # Errors
///
/// `Busy`, or what [`there`] says.
pub(crate) fn open_to_read(path: &Path) -> Result<Locked> {
    // A pipe would wait for its other end.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path);
    Locked::to_read(there(path, file)?, path)
}

/// A file that was to be opened.
///
/// # Errors
///
/// `Io`: "not found" where there is room for one. `BadOption` for no path at all, `NotARegion` for a link that leads nowhere.
fn there(path: &Path, opened: io::Result<File>) -> Result<File> {
    let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    if opened.as_ref().is_err_and(missing) {
        if path.as_os_str().is_empty() {
            return Err(Error::BadOption {
                option: "path",
                what: "it is empty".into(),
            });
        }
        if let Ok(target) = path.read_link() {
            let target = target.display();
            return Err(Error::NotARegion {
                path: path.into(),
                what: format!("it is a symbolic link to {target}, where there is no file"),
            });
        }
    }
    os::io(path, "open", opened)
}

/// A new file, under a name of its own beside the one that it is to have: a crash leaves no half-made region there.
/// Dropped before it has [its name](Self::publish), it is removed.
#[derive(Debug)]
pub(crate) struct Unnamed {
    /// Where both names are, wherever the process goes meanwhile.
    folder: File,
    temporary: OsString,
    path: PathBuf,
    named: bool,
    forks: u32,
}

/// Creates a file beside `path`, locked.
pub(crate) fn create_locked(path: &Path) -> Result<(Locked, Unnamed)> {
    // Numbers, since threads may be making the same region; and none is opened that is there: it is somebody's.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let options = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    let folder = Folder::of(path)?.file;
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut temporary = OsString::from(".");
        temporary.push(path.file_name().unwrap_or_default());
        temporary.push(format!(".{}.{number}.new", std::process::id()));
        match rustix::fs::openat(&folder, &temporary, options, mode) {
            Err(rustix::io::Errno::EXIST) => {}
            made => {
                let file = os::io(path, "create", made)?;
                let unnamed = Unnamed {
                    folder,
                    temporary,
                    path: path.into(),
                    named: false,
                    forks: os::forks(),
                };
                return Ok((Locked::new(File::from(file), path)?, unnamed));
            }
        }
    }
}

impl Unnamed {
    /// Gives the file its name, durably. `Ok(false)`: the name was taken meanwhile, and the file is gone.
    ///
    /// # Errors
    ///
    /// `Io`. The file is gone, unless it has its name, which may not be durable.
    pub(crate) fn publish(mut self) -> Result<bool> {
        use rustix::fs::RenameFlags;
        let (folder, name) = (&self.folder, self.path.file_name().unwrap_or_default());
        let from = &self.temporary;
        match rustix::fs::renameat_with(folder, from, folder, name, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::EXIST) => return Ok(false),
            other => os::io(&self.path, "name", other)?,
        }
        self.named = true;
        os::io(&self.path, "sync the folder of", self.folder.sync_all())?;
        Ok(true)
    }

    /// As [`publish`](Self::publish) for who cannot do with another one's file.
    ///
    /// # Errors
    ///
    /// `Busy` if the name was taken meanwhile; `Io`.
    pub(crate) fn publish_own(self) -> Result<()> {
        let path = self.path.clone();
        match self.publish()? {
            true => Ok(()),
            false => Err(Error::Busy {
                path,
                holder: "whoever made the file that is there".into(),
            }),
        }
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        // It is its parent's in a child of fork.
        if !self.named && self.forks == os::forks() {
            let _ = rustix::fs::unlinkat(&self.folder, &self.temporary, AtFlags::empty());
        }
    }
}

/// What to say where a file was to be made and there is one.
pub(crate) fn taken(path: &Path) -> Error {
    Error::Io {
        path: path.into(),
        action: "create",
        source: io::ErrorKind::AlreadyExists.into(),
    }
}

/// A file takes the name, and the permissions, of another one in the same folder, durably.
pub(crate) fn replace(by: &Path, path: &Path) -> Result<()> {
    let old = os::io(path, "examine", std::fs::metadata(path))?;
    let permitted = std::fs::set_permissions(by, old.permissions());
    os::io(by, "set the permissions of", permitted)?;
    os::io(path, "replace", std::fs::rename(by, path))?;
    sync_folder(path)
}

/// The names in the folder of `path` are durable.
fn sync_folder(path: &Path) -> Result<()> {
    Folder::of(path)?.sync()
}

/// An open folder.
struct Folder<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> Folder<'a> {
    /// The one in which `path` lies.
    fn of(path: &'a Path) -> Result<Folder<'a>> {
        let path = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let file = os::io(path, "open", File::open(path))?;
        Ok(Folder { path, file })
    }

    /// The names in it are durable.
    fn sync(&self) -> Result<()> {
        os::io(self.path, "sync", self.file.sync_all())
    }
}

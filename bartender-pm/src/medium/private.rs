//! A region's file that is only read: what recovery would write stays in this process.
//!
//! The file is opened for reading and locked as a reader, beside other readers and no writer, so it does not change. The
//! view is a private mapping of it, made here and lent to the region: recovery, which knows nothing of this, "writes"
//! the log's records into it. What it writes elsewhere, headers above all, is dropped: nothing of it is read again.

#![allow(unsafe_code)]

use super::mapped::{self, MappedFile};
use super::{LogStyle, Medium, MediumKind, ViewSource, What, what_is};
use crate::error::{Error, Result};
use crate::header::{self, Found};
use crate::layout::Header;
use crate::options;
use crate::os;
use rustix::mm::{MapFlags, ProtFlags};
use std::path::Path;

/// A file for reading, and its view.
#[derive(Debug)]
pub(crate) struct ReadOnly {
    file: MappedFile,
    base: *mut u8,
    max_size: u64,
    home_offset: u64,
}

// SAFETY: private memory that is written while the region is opened, by one thread, and only read afterwards.
unsafe impl Send for ReadOnly {}
// SAFETY: as above.
unsafe impl Sync for ReadOnly {}

impl ReadOnly {
    /// Opens the region at `path` and maps its view.
    ///
    /// # Errors
    ///
    /// `Busy` where somebody writes to it; `NotARegion`, `Damaged`, `Truncated` and so on, by its header; `AddressTaken`,
    /// `Io`.
    pub(crate) fn open(path: &Path) -> Result<ReadOnly> {
        let locked = mapped::open_to_read(path)?;
        let What::File(len) = what_is(&locked, path)? else {
            return Err(Error::BadOption {
                option: "read_only",
                what: "devices of persistent memory cannot be mapped privately".into(),
            });
        };
        let file = MappedFile::new(locked, path, len, false)?;
        let Found::Header(header) = header::read(&file)? else {
            return Err(Error::NotARegion {
                path: path.into(),
                what: "there is nothing in it".into(),
            });
        };
        options::check_header(&file, &header)?;
        Self::map(file, &header)
    }

    fn map(file: MappedFile, header: &Header) -> Result<ReadOnly> {
        let ViewSource::Map(source) = file.view() else {
            unreachable!("a file is mapped")
        };
        let (address, len) = (header.home_address, header.max_size);
        let taken = || Error::AddressTaken {
            path: file.path().into(),
            address,
            len,
        };
        let wanted = std::ptr::with_exposed_provenance_mut(address as usize);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE | MapFlags::NORESERVE;
        // SAFETY: FIXED_NOREPLACE never replaces a mapping of ours.
        let mapped = unsafe {
            rustix::mm::mmap(
                wanted,
                len as usize,
                access,
                flags,
                source,
                header.home_offset,
            )
        };
        let base: *mut u8 = match mapped {
            Err(rustix::io::Errno::EXIST) => return Err(taken()),
            other => os::io(file.path(), "map the view of", other)?.cast(),
        };
        let home_offset = header.home_offset;
        let medium = ReadOnly {
            file,
            base,
            max_size: len,
            home_offset,
        };
        // Kernels before 4.17 take FIXED_NOREPLACE for a hint.
        if base.expose_provenance() as u64 != address {
            return Err(Error::AddressTaken {
                path: medium.path().into(),
                address,
                len,
            });
        }
        Ok(medium)
    }

    /// Where in the view a range of the file is, if it lies in the home.
    fn in_view(&self, offset: u64, len: usize) -> Option<*mut u8> {
        let at = offset.checked_sub(self.home_offset)?;
        // The home that the file has; behind it there is nothing to be touched.
        (offset + len as u64 <= self.file.len()).then(|| self.base.wrapping_add(at as usize))
    }
}

impl Medium for ReadOnly {
    fn kind(&self) -> MediumKind {
        self.file.kind()
    }

    fn log_style(&self) -> LogStyle {
        self.file.log_style()
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match self.in_view(offset, buf.len()) {
            // The view is filled by mapping it.
            Some(at) if at == buf.as_mut_ptr() => Ok(()),
            Some(at) => {
                // SAFETY: inside the mapping and the file; `buf` is elsewhere, since no other part of the view is lent
                // while a region is opened.
                unsafe { std::ptr::copy_nonoverlapping(at, buf.as_mut_ptr(), buf.len()) };
                Ok(())
            }
            None => self.file.read(offset, buf),
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        if let Some(at) = self.in_view(offset, bytes.len()) {
            // SAFETY: inside the mapping and the file; only opening writes, one thread, before anybody reads.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
        }
        Ok(())
    }

    fn persist(&self, _: &[(u64, u64)]) -> Result<()> {
        Ok(())
    }

    fn append(&self, _: &[(u64, &[u8])]) -> Result<()> {
        Ok(())
    }

    fn grow(&self, _: u64) -> Result<()> {
        Err(Error::ReadOnly {
            path: self.path().into(),
        })
    }

    fn view(&self) -> ViewSource<'_> {
        ViewSource::Memory {
            base: self.base,
            len: self.max_size,
        }
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        // SAFETY: our mapping; the region that it was lent to is gone.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.max_size as usize) };
    }
}

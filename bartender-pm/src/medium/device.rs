//! A device of persistent memory, `/dev/daxN.M`: no file system, no system
//! call that reads or writes, a mapping and nothing else.
//!
//! It differs from a file on DAX in four things. It cannot be mapped
//! privately, so the view is anonymous memory filled from the home. It is not
//! created or named: what is on it when it holds no region decides whether one
//! may be made there ([`blank`]). Its space is there from the start, with
//! whatever was in it, so growing writes zeroes. And it has no length of its
//! own: the region's stands in a word of the first header block
//! ([`layout::device_length`]), changed by one 8-byte store after the new
//! bytes are durable.

use super::mapping::Mapping;
use super::{LogStyle, Medium, MediumKind, ViewSource};
use crate::error::{Error, Result};
use crate::layout::{self, DEVICE_LENGTH_OFFSET, MAGIC, MAGIC_CREATING};
use crate::os::{self, Locked};
use crate::sync::atomic::{AtomicU64, Ordering};
use std::path::{Path, PathBuf};

/// A device holds nothing if it starts with so many zeroes: longer than any
/// file system's or partition table's first mark.
const BLANK: u64 = 1 << 20;
/// Bytes that are stored at once where zeroes are.
const CHUNK: usize = 256 << 10;

/// The size of the device with this number, if it is one of persistent memory.
///
/// From sysfs: such a device's own size, by `stat` or `lseek`, is zero. There
/// are devices of the same kind whose memory is ordinary; those of persistent
/// memory hang below an NVDIMM bus.
pub(super) fn size(number: u64) -> Option<u64> {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let device = std::fs::canonicalize(format!("/sys/dev/char/{major}:{minor}")).ok()?;
    let kind = std::fs::canonicalize(device.join("subsystem")).ok()?;
    if !is_persistent(&device) || kind.file_name()? != "dax" {
        return None;
    }
    let read = |name: &str| {
        std::fs::read_to_string(device.join(name))
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    // Mappings must be of whole pages of the device's.
    let align = read("align").unwrap_or(layout::HOME_STEP).max(1);
    Some(read("size")? / align * align)
}

fn is_persistent(device: &Path) -> bool {
    let mut names = device
        .components()
        .map(|part| part.as_os_str().to_string_lossy());
    names.any(|name| {
        name.strip_prefix("ndbus")
            .is_some_and(|n| n.parse::<u32>().is_ok())
    })
}

/// A region's device and its shared mapping.
#[derive(Debug)]
pub(crate) struct DaxDevice {
    /// Keeps the lock.
    _file: Locked,
    path: PathBuf,
    map: Mapping,
    /// The region's length.
    len: AtomicU64,
}

impl DaxDevice {
    /// The region on an open and locked device, or the room for one.
    ///
    /// # Errors
    ///
    /// `NotARegion` if it holds something else, `Damaged`, `Truncated`.
    pub(super) fn new(file: Locked, path: &Path, size: u64) -> Result<DaxDevice> {
        let device = DaxDevice::map(file, path, size)?;
        let len = device.find_len()?;
        device.len.store(len, Ordering::Release);
        Ok(device)
    }

    fn map(file: Locked, path: &Path, size: u64) -> Result<DaxDevice> {
        super::check_flush()?;
        Ok(DaxDevice {
            map: Mapping::new(&file, path, size, true, true)?,
            _file: file,
            path: path.into(),
            len: AtomicU64::new(0),
        })
    }

    fn find_len(&self) -> Result<u64> {
        let mut word = [0; 8];
        self.map.read(DEVICE_LENGTH_OFFSET, &mut word);
        let mut start = [0; 8];
        self.map.read(0, &mut start);
        let ours = [MAGIC, MAGIC_CREATING].contains(&start);
        match layout::device_length(u64::from_le_bytes(word)) {
            Some(len) if len > self.map.len() => Err(Error::Truncated {
                path: self.path.clone(),
                expected: len,
                found: self.map.len(),
            }),
            Some(len) => Ok(len),
            None if ours => Err(Error::Damaged {
                path: self.path.clone(),
                offset: DEVICE_LENGTH_OFFSET,
                what: "the region's length fails its checksum".into(),
            }),
            _ if self.is_blank() => Ok(0),
            _ => Err(Error::NotARegion {
                path: self.path.clone(),
                what: format!(
                    "the device holds something else, starting with {:?}; if nobody needs it, \
                     erase_device makes room",
                    String::from_utf8_lossy(&start)
                ),
            }),
        }
    }

    fn is_blank(&self) -> bool {
        let mut bytes = vec![0; BLANK.min(self.map.len()) as usize];
        self.map.read(0, &mut bytes);
        bytes.iter().all(|&byte| byte == 0)
    }

    /// Zeroes `[from, to)`, durably.
    fn zero(&self, from: u64, to: u64) {
        let zeroes = vec![0; CHUNK];
        let mut at = from;
        while at < to {
            let n = zeroes.len().min((to - at) as usize);
            self.map.store(at, &zeroes[..n]);
            at += n as u64;
        }
        self.map.drain();
    }

    /// Takes away what is on a device, so that a region can be made there.
    pub(super) fn erase(file: Locked, path: &Path, size: u64) -> Result<()> {
        let device = DaxDevice::map(file, path, size)?;
        // The length first: without it, what is left of a header counts as damaged
        // and not as a creation that was interrupted.
        device.map.append_word(DEVICE_LENGTH_OFFSET, 0);
        device.zero(0, BLANK.min(size));
        Ok(())
    }
}

impl Medium for DaxDevice {
    fn kind(&self) -> MediumKind {
        MediumKind::Dax
    }

    fn log_style(&self) -> LogStyle {
        LogStyle::Lanes
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn capacity(&self) -> u64 {
        self.map.len()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.map.read(offset, buf);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.map.write(offset, bytes);
        Ok(())
    }

    fn persist(&self, ranges: &[(u64, u64)]) -> Result<()> {
        self.map.persist(ranges);
        Ok(())
    }

    fn append(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        self.map.append(pieces);
        Ok(())
    }

    fn let_go(&self, offset: u64, len: u64) {
        self.map.let_go(offset, len);
    }

    fn grow(&self, len: u64) -> Result<()> {
        let old = self.len();
        if len <= old {
            return Ok(());
        }
        if len > self.map.len() {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return os::io(&self.path, "allocate space", Err(full));
        }
        self.zero(old, len);
        let word = layout::device_length_word(len);
        self.map.append_word(DEVICE_LENGTH_OFFSET, word);
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    fn view(&self) -> ViewSource<'_> {
        ViewSource::Copy
    }
}

#[cfg(test)]
mod tests {
    use super::is_persistent;
    use std::path::Path;

    #[test]
    fn only_devices_below_an_nvdimm_bus_are_persistent() {
        let nvdimm =
            "/sys/devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0012:00/ndbus0/region1/dax1.1/dax1.0";
        assert!(is_persistent(Path::new(nvdimm)));
        assert!(!is_persistent(Path::new(
            "/sys/devices/platform/hmem.0/dax0.0"
        )));
    }
}

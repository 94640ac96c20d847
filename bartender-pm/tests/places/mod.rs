//! Where the tests' regions lie: shared memory, the disk of the build folder,
//! and what the environment adds, as `cargo xtask vm test` does:
//!
//! - `BARTENDER_TEST_DIR`: a folder on a file system with DAX;
//! - `BARTENDER_TEST_DEVDAX`: a device of persistent memory, whose contents the
//!   tests destroy. One test at a time uses it.

// Not every test uses all.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tempfile::TempDir;

/// Room for a region.
pub(crate) struct Place {
    region: PathBuf,
    keep: Keep,
}

enum Keep {
    Folder(TempDir),
    Device(#[expect(dead_code, reason = "held, not read")] MutexGuard<'static, ()>),
}

impl Place {
    fn folder(folder: TempDir) -> Place {
        Place {
            region: folder.path().join("a.region"),
            keep: Keep::Folder(folder),
        }
    }

    /// The region's file, which is not there yet, or its device, which holds nothing.
    pub(crate) fn region(&self) -> &Path {
        &self.region
    }

    /// Whether it is a device.
    pub(crate) fn is_device(&self) -> bool {
        matches!(self.keep, Keep::Device(_))
    }

    /// Whether it is what the environment calls persistent memory.
    pub(crate) fn is_dax(&self) -> bool {
        self.is_device() || dax_folder().is_some_and(|folder| self.region.starts_with(folder))
    }
}

/// All there are, one after the other.
pub(crate) fn places() -> impl Iterator<Item = Place> {
    [shared_memory(), disk()].into_iter().chain(dax())
}

/// Those where regions are files.
pub(crate) fn folders() -> Vec<TempDir> {
    let parents = [shared_folder(), disk_folder()]
        .into_iter()
        .chain(dax_folder());
    parents.map(temporary).collect()
}

/// Those that the environment calls persistent memory.
pub(crate) fn dax() -> impl Iterator<Item = Place> {
    let device = || device().into_iter();
    dax_file()
        .into_iter()
        .chain(std::iter::once_with(device).flatten())
}

pub(crate) fn shared_memory() -> Place {
    Place::folder(temporary(shared_folder()))
}

pub(crate) fn disk() -> Place {
    Place::folder(temporary(disk_folder()))
}

pub(crate) fn dax_file() -> Option<Place> {
    dax_folder().map(|folder| Place::folder(temporary(folder)))
}

/// The device, erased, when nobody else uses it.
pub(crate) fn device() -> Option<Place> {
    static DEVICE: Mutex<()> = Mutex::new(());
    let device = std::env::var_os("BARTENDER_TEST_DEVDAX")?;
    let guard = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    bartender_pm::erase_device(&device).expect("BARTENDER_TEST_DEVDAX");
    Some(Place {
        region: device.into(),
        keep: Keep::Device(guard),
    })
}

/// One of them: persistent memory if there is any, a folder of it before a
/// device; else memory.
pub(crate) fn place() -> Place {
    dax_file().or_else(device).unwrap_or_else(shared_memory)
}

/// One folder: of persistent memory if there is any, else of memory.
pub(crate) fn folder() -> TempDir {
    temporary(dax_folder().unwrap_or_else(shared_folder))
}

fn shared_folder() -> PathBuf {
    PathBuf::from("/dev/shm")
}

fn disk_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

fn dax_folder() -> Option<PathBuf> {
    std::env::var_os("BARTENDER_TEST_DIR").map(PathBuf::from)
}

fn temporary(parent: PathBuf) -> TempDir {
    let folder = tempfile::tempdir_in(&parent);
    folder.unwrap_or_else(|error| panic!("{}: {error}", parent.display()))
}

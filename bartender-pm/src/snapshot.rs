//! A copy of a region that others write meanwhile: a whole region in a file of its own.
//!
//! On a file system that shares blocks between files (`FICLONE`: btrfs, XFS and others) it is such a copy of the file,
//! made while no checkpoint runs: log and home as they are at that instant, which is what a crash would leave, and opens
//! as after one. Elsewhere the home's [frozen picture](crate::Frozen) is written, behind a header of its own and an empty
//! log: what the file has no data for stays without, and what is free and without space stays so, too.
//!
//! The file gets its name last, when all of it is durable. Nobody waits: commits go on, and a checkpoint waits for a
//! clone (some milliseconds) but not for a copy.

use crate::error::Result;
use crate::frozen::Frozen;
use crate::header;
use crate::layout::{FLAG_CLEAN, FLAG_HOLES, Header, LOG_OFFSET};
use crate::medium::{self, MediumKind, ViewSource, mapped};
use crate::os::{self, Locked};
use crate::region::Region;
use crate::sync::atomic::Ordering;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Bytes that are copied at a time.
const PIECE: u64 = 1 << 20;

impl Region {
    /// Writes everything that was committed before the call, and perhaps more, to a new region at `path`. `holes` is
    /// asked, when no more are made, where the home may be without space, in rising order.
    ///
    /// # Errors
    ///
    /// `Io` (already exists) where there is a file already; those of both media. There is no file then.
    pub fn snapshot(
        &self,
        path: impl AsRef<Path>,
        holes: impl FnOnce() -> Vec<Range<u64>>,
    ) -> Result<()> {
        let path = path.as_ref();
        if path.symlink_metadata().is_ok() {
            return Err(mapped::taken(path));
        }
        self.sync()?;
        let (file, unnamed) = mapped::create_locked(path)?;
        self.snapshot_to(file, path, holes)?;
        match unnamed.publish()? {
            true => Ok(()),
            false => Err(mapped::taken(path)),
        }
    }

    fn snapshot_to(
        &self,
        file: Locked,
        path: &Path,
        holes: impl FnOnce() -> Vec<Range<u64>>,
    ) -> Result<()> {
        // Whoever may not read the region may not read its copy.
        if let ViewSource::Map(own) = self.shared.medium.view() {
            let mode = own.metadata().map(|of| of.permissions());
            let given = mode.and_then(|mode| file.set_permissions(mode));
            os::io(path, "set the permissions of", given)?;
        }
        if self.clone_to(&file)? {
            return os::io(path, "sync", file.sync_all());
        }
        // So that the picture has everything that is committed by now.
        self.checkpoint()?;
        let (frozen, header) = self.freeze_with_header()?;
        self.copy_to(file, path, &frozen, header, &holes())
    }

    /// Lets the new file share the blocks of the region's, if the file system does that.
    fn clone_to(&self, new: &File) -> Result<bool> {
        let shared = &self.shared;
        let ViewSource::Map(file) = shared.medium.view() else {
            return Ok(false);
        };
        // A replica's log is not its own, and stores into persistent memory are no writes to a file.
        if shared.kind != MediumKind::File || self.is_replicated() {
            return Ok(false);
        }
        // There is no checkpoint while it is held: home and log fit.
        let header = shared.home.header.lock();
        let cloned = rustix::fs::ioctl_ficlone(new, file).is_ok();
        drop(header);
        Ok(cloned)
    }

    /// A picture, and the header of a region that has the same home and an empty log.
    fn freeze_with_header(&self) -> Result<(Arc<Frozen>, Header)> {
        let shared = &*self.shared;
        let header = shared.home.header.lock();
        let frozen = self.freeze_under(&header)?;
        let mut uuid = [0; 16];
        // It only names the region in messages; zero without entropy.
        let _ = getrandom::fill(&mut uuid);
        let header = Header {
            uuid,
            revision: 0,
            checkpoint: shared.home.applied.load(Ordering::Relaxed),
            flags: header.flags & FLAG_HOLES | FLAG_CLEAN,
            before_epoch: 0,
            before_crc: 0,
            ..*header
        };
        Ok((frozen, header))
    }

    fn copy_to(
        &self,
        file: Locked,
        path: &Path,
        frozen: &Frozen,
        mut header: Header,
        holes: &[Range<u64>],
    ) -> Result<()> {
        let (home, size) = (header.home_offset, frozen.size());
        let data = match self.shared.medium.view() {
            ViewSource::Map(source) => data_of(source, home..home + size),
            _ => std::iter::once(home..home + size).collect(),
        };
        // Whatever a clone that failed may have left goes first.
        os::io(path, "shorten", file.set_len(0))?;
        os::io(path, "lengthen", file.set_len(home + size))?;
        let medium = medium::of(file, path, false)?;
        medium.reserve(home + header.max_size)?;
        // Whatever is in use has its space, wherever it goes.
        medium.refill(0, home)?;
        let mut at = 0;
        for hole in holes.iter().chain([&(size..size)]) {
            if at < hole.start.min(size) {
                medium.refill(home + at, hole.start.min(size) - at)?;
            }
            at = hole.end;
        }
        medium.fill_log(LOG_OFFSET, home - LOG_OFFSET)?;
        let mut buffer = vec![0; PIECE as usize];
        for range in data {
            let mut at = range.start;
            while at < range.end {
                let len = (range.end - at).min(PIECE);
                let bytes = &mut buffer[..len as usize];
                frozen.read(at - home, bytes);
                medium.write(at, bytes)?;
                at += len;
            }
        }
        medium.persist(&[(home, size)])?;
        // Last: a region is there when its header is.
        header::write(&*medium, &mut header)
    }
}

/// The parts of a range of `file` that may hold anything but zeroes.
fn data_of(file: &File, range: Range<u64>) -> Vec<Range<u64>> {
    use rustix::fs::{SeekFrom, seek};
    let mut parts = Vec::new();
    let mut at = range.start;
    while at < range.end {
        // Where the file system cannot say, all of it is data; there is none behind the last.
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => at,
        };
        let end = seek(file, SeekFrom::Hole(start)).unwrap_or(range.end);
        let (start, end) = (start.min(range.end), end.min(range.end));
        if start < end {
            parts.push(start..end);
        }
        at = end.max(at + 1);
    }
    parts
}

//! What can go wrong with a region, in words that say what to do next.

use std::io;
use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a region or of its medium.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on the region's file.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The region's file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },

    /// The region is open already, here or in another process.
    #[error(
        "{}: the region is open in {holder}; close it there first",
        path.display()
    )]
    Busy {
        /// The region's file.
        path: PathBuf,
        /// Who holds it ("process 4711 (codesearch)", "this process").
        holder: String,
    },

    /// The file does not start with a region's header.
    #[error("{}: not a bartender region ({what})", path.display())]
    NotARegion {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        what: String,
    },

    /// The region was written by a newer version of the library.
    #[error(
        "{}: the region has format {found}, this program knows up to {known}; open it with a newer version",
        path.display()
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Format version in the header.
        found: u32,
        /// Newest format this build knows.
        known: u32,
    },

    /// The region was written by an older version of the library, whose format this one does not read.
    #[error(
        "{}: the region has format {found}, this program knows {known} only; open it with an older version, or make it anew",
        path.display()
    )]
    OlderFormat {
        /// The file.
        path: PathBuf,
        /// Format version in the header.
        found: u32,
        /// The format that this build knows.
        known: u32,
    },

    /// The file is shorter than its header says.
    #[error(
        "{}: the region is truncated: {found} bytes, its header needs {expected}; restore it from a copy",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes the header needs.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },

    /// Bytes that were durable once do not read back as they were written.
    #[error(
        "{}: the region is damaged at offset {offset}: {what}; restore it from a copy",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset in the file.
        offset: u64,
        /// What was expected and what was found.
        what: String,
    },

    /// Something else is mapped where the region has to be.
    #[error(
        "{}: the region's home address {address:#x} (+{len:#x}) is taken in this process; is a copy of it open?",
        path.display()
    )]
    AddressTaken {
        /// The file.
        path: PathBuf,
        /// The home address in the header.
        address: u64,
        /// How many bytes are needed there.
        len: u64,
    },

    /// The region was being moved to another home address when the program
    /// ended; its pointers are of two ranges.
    #[error(
        "{}: moving the region from {from:#x} to {to:#x} was interrupted; open it as a heap, which finishes the move",
        path.display()
    )]
    Relocating {
        /// The file.
        path: PathBuf,
        /// The home address that it leaves.
        from: u64,
        /// The home address that it gets.
        to: u64,
    },

    /// The region has no room for what was asked.
    #[error(
        "the region is full: {requested} bytes asked, {available} of {max_size} left; free something or recreate it with a larger maximum size"
    )]
    OutOfSpace {
        /// Bytes that were asked for.
        requested: u64,
        /// Bytes that are left.
        available: u64,
        /// The region's maximum size, set when it was created.
        max_size: u64,
    },

    /// The transaction's record does not fit the log.
    #[error(
        "the transaction needs {needed} bytes of log, at most {capacity} fit, and nothing was changed; split it{}",
        with_more_log(*log_size)
    )]
    LogFull {
        /// Bytes the record takes.
        needed: u64,
        /// Largest record this log takes.
        capacity: u64,
        /// The [`log_size`](crate::Options::log_size) with which it would fit. `None`: no record is that long.
        log_size: Option<u64>,
    },

    /// An earlier I/O error made the region unusable until it is reopened.
    #[error(
        "{}: the region is poisoned by an earlier error ({cause}); what was acknowledged is safe: reopen the region",
        path.display()
    )]
    Poisoned {
        /// The region's file.
        path: PathBuf,
        /// The first error.
        cause: String,
    },

    /// Another machine is, or may be, the primary of this replicated region by now.
    #[error(
        "fenced: this machine was the region's primary in epoch {epoch}, the epoch is {current} now; what was acknowledged is safe: open the region through the cluster"
    )]
    Fenced {
        /// The epoch of this machine.
        epoch: u64,
        /// The newest epoch it has heard of; the same if its lease ended and it has heard nothing.
        current: u64,
    },

    /// The region is a copy that a cluster keeps, and was to be opened without it.
    #[error(
        "{}: the region is a replica in epoch {epoch}; open it through its cluster, or detach it if the cluster is gone for good",
        path.display()
    )]
    Replica {
        /// The file.
        path: PathBuf,
        /// The epoch in its header.
        epoch: u64,
    },

    /// A copy of a region that was never finished: there is nothing to lose.
    #[error("{}: copying the region was interrupted; it starts again when the primary is reached", path.display())]
    Unfinished {
        /// The file.
        path: PathBuf,
    },

    /// Bytes for a replica's log that do not follow what it has, or that make no sense.
    #[error("{}: refused {len} bytes for the log at {at}: {what}", path.display())]
    Unfitting {
        /// The replica's file.
        path: PathBuf,
        /// Absolute offset in the stream.
        at: u64,
        /// How many bytes.
        len: u64,
        /// Why not.
        what: String,
    },

    /// The region is open for reading only.
    #[error(
        "{}: the region is open for reading only; open it without `read_only` to change it",
        path.display()
    )]
    ReadOnly {
        /// The region's file.
        path: PathBuf,
    },

    /// A child of `fork` used its parent's region.
    #[error(
        "the region was opened before fork(); open it in the child itself after the parent has closed it"
    )]
    Forked,

    /// An option has a value that makes no sense.
    #[error("{option}: {what}")]
    BadOption {
        /// Name of the option.
        option: &'static str,
        /// Why not.
        what: String,
    },

    /// The region is being closed.
    #[error("the region is closed")]
    Closed,
}

fn with_more_log(log_size: Option<u64>) -> String {
    log_size.map_or_else(String::new, |bytes| {
        format!(", or make the region anew with a `log_size` of {bytes} bytes")
    })
}

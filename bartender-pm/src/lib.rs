//! Persistent regions: media, redo log, checkpoint, recovery, crash simulator.
//!
//! A [`Region`] is a file whose *home* always is, together with the log, the
//! committed state. The program works in the *view*, a private mapping of the
//! home at the region's home address, and commits by appending a [`Record`] of
//! the bytes it changed. This crate knows nothing of blocks, types or locks.
//!
//! Modules, lowest first; each uses only those above it.

pub mod counts;
mod crc;
mod error;
pub mod sync;

#[doc(hidden)]
pub mod fault;
pub mod instr;
pub mod layout;
#[doc(hidden)]
pub mod mutant;
mod os;

pub mod medium;

mod frozen;
mod gate;
mod header;
mod record;
mod view;

mod log;

mod newest;
mod private_pages;

mod checkpoint;
mod recover;

mod shared;
mod writer;

mod region;

mod holes;
mod primary;
mod snapshot;

mod options;
mod relocate;
mod standby;

mod scrub;

#[cfg(all(test, not(loom)))]
mod crash_tests;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod replica_tests;
#[cfg(all(test, not(loom)))]
mod rule_tests;

pub use counts::Counts;
pub use error::{Error, Result};
pub use frozen::Frozen;
pub use holes::Space;
pub use layout::MAX_EPOCH;
pub use log::{Replication, Sealed};
pub use medium::{LogStyle, Medium, MediumKind, ViewSource, erase_device, replace_file};
pub use options::Options;
pub use os::give_way;
pub use primary::Picture;
pub use record::Record;
pub use region::Region;
pub use relocate::Relocation;
pub use scrub::SCRUB_PAGE;
pub use shared::{Durability, Opened};
pub use standby::{Installing, Position, Standby};
pub use writer::{Ticket, Writer};

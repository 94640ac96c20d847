//! The heap of a region: it hands out blocks of home space in size classes and
//! takes them back, without a lock, a flush or a fence on the common path, and
//! keeps all of its own state in DRAM.
//!
//! What survives a crash is the header, the superblock table and the schema
//! (`layout`); which blocks are live is found again by marking from the root.

// Modules in dependency order, which rustfmt would sort: hence the paragraphs.

pub mod layout;

// The words: what goes wrong, which sizes there are, what a block is.
mod block;
mod class;
mod error;

// What the medium describes, and following it.
mod table;

mod marks;

mod mark;
pub mod types;

// Allocation in DRAM, lowest first.
mod units;

mod superblock;

mod list;
mod map;
mod pool;

mod local;

mod home;

mod global;

mod arena;

mod tls;

// The heap in its region.
mod header;
mod snapshot;
mod stats;

mod heap;
mod pending;
mod relocate;

mod compact;

pub use block::{NotABlock, prefetch};
pub use compact::{Compacted, compact};
pub use error::{Around, Error, Result};
pub use heap::{Block, Entry, Freed, Heap, Marking, NewSchema};
pub use mark::MarkReport;
pub use pending::{Carried, Pending};
pub use relocate::{open_region, open_region_on, open_region_unnamed};
pub use stats::{ByUse, CheckReport, ClassStats, Collected, MarkProgress, OpenReport, Stats};
pub use tls::Thread;
pub use types::{BadSchema, Kind, Schema, SchemaBuilder, Type, TypeRef};

//! The heap of a region: it hands out blocks of home space in size classes and
//! takes them back, without a lock, a flush or a fence on the common path, and
//! keeps all of its own state in DRAM.
//!
//! What survives a crash is the header, the superblock table and the schema
//! (`layout`); which blocks are live is found again by marking from the root.

// Modules in dependency order: each uses only those above it.
#[allow(dead_code)] // used by the allocator, which follows
mod block;
#[allow(dead_code)]
mod class;
mod error;
pub mod layout;
#[allow(dead_code)] // used by `open` and `check`, which follow
mod mark;
pub mod types;

pub use block::NotABlock;
pub use error::{Error, Result};
pub use mark::MarkReport;
pub use types::{BadSchema, Kind, Schema, SchemaBuilder, Type, TypeRef};

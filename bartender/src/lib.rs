//! Typed persistent memory: ordinary Rust data that survives any crash with exactly the transactions
//! that were committed.

// So that the derive macros' paths hold within this crate, too.
extern crate self as bartender;

// Modules in dependency order: each uses only those above it.
#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
#[allow(dead_code)] // used by the commit, which follows
mod changes;
mod error;
#[allow(dead_code)]
mod lock_table;
mod mutref;
mod pbox;
mod persist;
mod plain;
#[allow(dead_code)]
mod raw;
mod string;
mod tx;
mod vec;

pub mod hash_map;

pub use bartender_derive::{Persist, PlainData};
pub use error::{Error, Result};
pub use hash_map::PHashMap;
pub use mutref::Mut;
pub use pbox::PBox;
pub use persist::{Adopt, Evict, Persist, PlainData, Project, Release};
pub use string::PString;
pub use tx::TxRef;
pub use vec::{IterMut, PVec};

//! Typed persistent memory: ordinary Rust data that survives any crash with exactly the transactions
//! that were committed.

// So that the derive macros' paths hold within this crate, too.
extern crate self as bartender;

// Modules in dependency order: each uses only those above it.
mod error;

mod changes;

mod lock_table;

mod tx;

mod thread;

mod persist;

mod mutref;

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;

mod compound;
mod plain;

mod pbox;

mod raw;

mod vec;

mod string;

pub mod hash_map;

mod fresh;

mod run;

mod lock;

mod transaction;

mod heap;

#[cfg(not(loom))]
pub mod testing;

pub use bartender_derive::{Persist, PlainData};
pub use bartender_pm::Durability;
pub use error::{Error, Result};
pub use hash_map::PHashMap;
pub use heap::{CheckReport, Heap, Options, Report, Stats};
pub use lock::{Lock, PMutex, PRwLock, ReadGuard};
pub use mutref::Mut;
pub use pbox::PBox;
pub use persist::{Adopt, Evict, Persist, PlainData, Project, Release};
pub use string::PString;
pub use transaction::Tx;
pub use tx::TxRef;
pub use vec::{IterMut, PVec};

// The README's program is compiled with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

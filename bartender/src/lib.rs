//! Typed persistent memory: ordinary Rust data that survives any crash with exactly the transactions
//! that were committed.
//!
//! A [`Heap`] keeps a root value, and everything it owns, in a *region*: a file on persistent memory, on a disk or
//! in shared memory. What changes lies behind a [`PMutex`] or a [`PRwLock`]; a transaction changes it through
//! [`Mut`], and what it changed is durable when it returns, or was never there.
//!
//! ```
//! use bartender::{Heap, PHashMap, PRwLock, PString, Persist};
//!
//! #[derive(Persist)]
//! #[repr(C)]
//! struct Account {
//!     owner: PString,
//!     cents: u64,
//! }
//!
//! # fn main() -> Result<(), bartender::Error> {
//! # let folder = tempfile::tempdir().expect("a folder");
//! # let path = folder.path().join("bank.region");
//! let heap = Heap::<PRwLock<PHashMap<u64, Account>>>::options().max_size(1 << 30).open(&path)?;
//! heap.update(|mut accounts| {
//!     accounts.insert(7, Account { owner: "Ada".into(), cents: 100 })?;
//!     *accounts.get_mut(&7).expect("just inserted").cents_mut() += 50;
//!     Ok(())
//! })?;
//! assert_eq!(heap.read()[&7].cents, 150);
//! heap.close()?;
//!
//! // Another run, after a crash or not.
//! let heap = Heap::<PRwLock<PHashMap<u64, Account>>>::options().open(&path)?;
//! assert_eq!(&*heap.read()[&7].owner, "Ada");
//! # Ok(())
//! # }
//! ```
//!
//! # Owned and stored
//!
//! A [`PBox`], [`PVec`], [`PString`], [`PHashMap`] or [`PBTreeMap`] that the program owns is ordinary memory and behaves like its
//! `std` twin. Storing it moves it into the region, taking it out ([`Mut::take`], [`Mut::replace`]) moves it back.
//! From one place in the region to another it moves as a [`Moved`], without a copy of what it owns.
//! What is stored is only borrowed: `&T` for reading, [`Mut`] for changing. [`Mut`] hands out `&mut T` for
//! [`PlainData`] alone, because whoever has `&mut` of a value with persistent pointers can carry them away.
//!
//! # What is promised
//!
//! - A transaction that returned `Ok` survives whatever the medium survives, unless [`Durability::Eventual`] was asked
//!   for. One that returned `Err`, panicked or was interrupted has left no trace.
//! - Readers outside of transactions see durable data only, and what [`Durability::Eventual`] transactions committed.
//! - Transactions are serialised by the locks they take. Nobody waits in a circle: `transaction` starts again when it has
//!   to make way, `update` takes one lock first and has nothing to give up.
//! - Opening checks the root's type against the one that is stored, and says what differs.

// What `compound` does in assembly it says to Miri in MIR.
#![cfg_attr(miri, feature(core_intrinsics, custom_mir), allow(internal_features))]

// So that the derive macros' paths hold within this crate, too.
extern crate self as bartender;

// Modules in dependency order: each uses only those above it.
mod error;

mod ending;

mod changes;

mod detached;

mod late;

mod lock_table;

mod tx;

mod thread;

mod persist;

mod mutref;

mod moved;

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;

mod compound;
mod plain;

mod places;

mod slice;

mod raw;

mod vec;

pub mod vec_deque;

mod string;

mod pbox;

pub mod btree_map;

pub mod btree_set;

pub mod hash_map;

pub mod hash_set;

mod fresh;

mod run;

mod leased;

mod savepoint;

mod lock;

mod transaction;

mod atomic;

mod shared;

mod rcu;

mod heap;

#[cfg(feature = "serde")]
mod serde_impls;

#[cfg(feature = "cluster")]
mod cluster;

#[cfg(not(loom))]
pub mod testing;

pub use atomic::{PAtomicI64, PAtomicIsize, PAtomicU64, PAtomicUsize};
pub use bartender_derive::{Persist, PlainData};
#[cfg(feature = "cluster")]
pub use bartender_dist::{Coordinator, Embedded, Lag, Policy, Scrubbed, Scrubs};
#[cfg(all(feature = "rdma", target_os = "linux", target_pointer_width = "64"))]
pub use bartender_net::VerbsOptions;
pub use bartender_pm::Durability;
pub use btree_map::PBTreeMap;
pub use btree_set::PBTreeSet;
#[cfg(feature = "cluster")]
pub use cluster::{Cluster, ClusterOptions, Replicated};
pub use error::{Error, Result};
pub use hash_map::PHashMap;
pub use hash_set::PHashSet;
pub use heap::{
    ByUse, CheckReport, ClassStats, Heap, MarkProgress, MarkReport, Marking, Options, Report,
    Stats, WithDurability,
};
pub use lock::{Lock, PMutex, PRwLock, ReadGuard};
pub use moved::Moved;
pub use mutref::Mut;
pub use pbox::{Boxed, PBox};
pub use persist::{Adopt, Evict, Persist, PlainData, Project, Release};
pub use rcu::{PRcu, RcuGuard};
pub use shared::PShared;
pub use slice::IterMut;
pub use string::PString;
pub use transaction::Tx;
pub use tx::TxRef;
pub use vec::PVec;
pub use vec_deque::PVecDeque;

// The README's program and those of the book are compiled with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
#[cfg(doctest)]
mod book;

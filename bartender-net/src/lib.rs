//! The fabric of bartender: how machines reach each other's memory.
//!
//! One asynchronous interface, the [`Fabric`], over backends that are chosen at
//! run time:
//!
//! - **Registered memory.** A *memory region* (MR) is a range of bytes that the
//!   network may read or write without its owner's processor. It is not a
//!   *region*, which is a bartender file. Remote writes are registered only over
//!   anonymous memory, shared memory or device DAX: the page cache of a file
//!   cannot be pinned, so a region on a file receives log records in a
//!   registered ring, and its owner's processor writes them to the log before it
//!   acknowledges.
//! - **One-sided operations**: `read`, `write`, `compare_swap`, `fetch_add` on
//!   an address of a remote memory region. The last two are for 8 aligned bytes.
//! - **Messages**: `send` and `recv`, for everything that is not worth a
//!   one-sided protocol.
//! - **[`persist`](Connection::persist)**, which is the only operation after which remote bytes
//!   survive a power failure. A completed write is *not* a durable write: it may
//!   sit in the target's network card or in its caches. The method is negotiated
//!   for each connection; by default the target acknowledges after its own
//!   barrier, and a read that follows the write counts only where the target
//!   declares that inbound writes reach its persistence domain.
//!
//! The backends:
//!
//! | backend | what it is for |
//! |---|---|
//! | TCP | the default: every machine has it, and it is the reference for behaviour |
//! | verbs | RDMA over InfiniBand or RoCE; behind the feature `rdma`; Linux only, and it loads libibverbs at run time |
//! | simulated | tests: delay, loss, reordering, torn writes and failing queue pairs, all drawn from one printed seed |
//!
//! # What holds for every backend
//!
//! - A write may become visible in any order of its bytes down to 8 aligned
//!   ones (if it starts at such, over RDMA). Whoever reads a remote object verifies it (version and checksum).
//! - A write that is complete is seen by what follows on its connection. Others may see it a moment later: the
//!   simulated network does that to them on purpose, RDMA cards may, TCP does not.
//! - Operations on one connection complete in the order they were posted;
//!   between connections there is no order.
//! - A read sees what was posted before it on its connection. It may also see what was posted *behind* it: who wants the
//!   bytes of before waits for the read, and posts then.
//! - An operation that fails has an unknown effect: it, or a part of it, may or may not have
//!   happened. [`Error::effect_unknown`] says for which errors that is so.
//! - After a failed operation the connection is closed and says so; there is no
//!   silent retry, because a repeated write could overtake a fence.

mod error;

pub mod counts;
pub mod layout;

mod memory;
mod operation;
mod roles;

mod fabric;

mod words;

mod registry;

pub mod tls;

mod handshakes;

mod tcp;

#[cfg(all(feature = "rdma", target_os = "linux", target_pointer_width = "64"))]
mod verbs;

pub mod sim;

pub use error::{Error, Result};
pub use fabric::{Accept, Batch, Boxed, Connection, Fabric, Link, Listener, Peer};
pub use memory::{Access, Memory, MemoryRegion, PersistMethod, RemoteMemory};
pub use operation::{Completer, Operation, Outcome, Pending, Posted, Received};
pub use roles::Roles;
pub use tcp::{TcpFabric, TcpOptions};
#[cfg(all(feature = "rdma", target_os = "linux", target_pointer_width = "64"))]
pub use verbs::{VerbsFabric, VerbsOptions};

//! The cluster side of bartender: who owns which region, and what happens when
//! a machine dies.
//!
//! A [`Node`] is a machine's membership: it keeps copies of regions, ships the
//! log of those whose primary it is, and takes over those whose primary is gone.
//! There are no remote objects and no placement yet, and no type pretends
//! otherwise; their contracts stand here because the layers below are shaped by
//! them.
//!
//! # Vocabulary
//!
//! - A *memory node* is a process that serves regions.
//! - A region has one *primary*, which commits to it, and *f* *backups*, which
//!   hold its log and follow with their home.
//! - The *coordinator* keeps the members with their incarnations, the epochs,
//!   the leases, the region map and the names of roots. It is asked when
//!   something of that changes, and never on allocate, read, write or commit.
//!   One small trait: [`Coordinator`].
//! - An *epoch* numbers a state of the membership. It only grows.
//! - A *lease* is the time for which a member may act on what it knows.
//!
//! # Contracts
//!
//! - **Commit.** The record of a transaction goes to the primary's log and to
//!   all backups' logs in parallel, and is acknowledged when all are durable. So
//!   an acknowledged write survives the loss of any f machines.
//! - **Fencing.** A log refuses records of an older epoch; a client drops
//!   completions of an older lease; a promoted backup waits until the lease of
//!   the primary before it has run out. So at most one primary is believed.
//! - **Failover is recovery.** A backup is simply a region whose log somebody
//!   else writes, mapped at the same home address. To take over it drains its
//!   log and opens the region, by the code that opens it after a crash.
//! - **Partitions.** The minority blocks; it never diverges.
//! - **Space.** The log is truncated to the lowest of the local checkpoint and
//!   the backups' durable positions. A backup that lags beyond a bound is
//!   dropped from the region and rebuilt in the background.
//! - **Placement.** Weighted rendezvous hashing over failure domains proposes;
//!   the region map records what is.
//! - **Remote objects.** Each is linearizable. Reading one takes one one-sided
//!   read, verified by version and checksum; changing one is a
//!   compare-and-commit at its primary. A client that dies leaks nothing: its
//!   lease ends, its spans are resolved from the log, and what no root reaches
//!   is collected.

#![deny(unsafe_code)]

// Modules in dependency order, lowest first.

mod error;

mod clock;
mod signal;

mod wish;

mod status;

pub mod metrics;

// What a cluster agrees on.
pub mod coordinator;
mod records;

mod cluster;

mod tasks;

mod member;

mod store;

mod replica;

mod node;

mod report;

pub use cluster::{ClusterMap, Identity, NewRegion, Picture, Refusal, Verdict};
pub use coordinator::Coordinator;
pub use coordinator::client::RemoteCoordinator;
pub use coordinator::embedded::Embedded;
#[cfg(feature = "etcd")]
pub use coordinator::etcd::{Etcd, EtcdOptions};
pub use coordinator::server::serve_coordinator;
pub use error::{Error, Result};
pub use node::{Hosting, Node, NodeOptions, Serving, Wanted};
pub use records::{Member, Policy, Primary, RegionId, RegionRecord, Seen};
pub use replica::{Lag, Repaired, Scrubbed, Scrubs, Undecided, Unrepaired};
pub use report::{ClusterStatus, MemberStatus, RegionReport, cluster_status, node_status};
pub use status::{BackupStatus, NodeStatus, RegionCounts, RegionStatus, Role};
pub use store::{Folder, Store};

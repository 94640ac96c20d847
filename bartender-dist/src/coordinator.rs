//! The coordinator: the few facts on which the machines of a cluster have to agree, and the leases by which they notice
//! each other's death.
//!
//! One small trait, object-safe, over implementations that are chosen at run time: [`Embedded`](crate::Embedded) in
//! this process, one in another process of the cluster reached over the fabric, and etcd. It is asked when something
//! changes (a member comes, a primary goes), and never on allocate, read, write or commit; [`Counted`] lets a test
//! assert that.
//!
//! # What every implementation promises
//!
//! - **Linearizable.** Each call takes effect at one instant between its beginning and its end. A
//!   [`transact`](Coordinator::transact) is atomic: all of its changes with one revision, or none.
//! - **Durable**, where it says so: what was answered survives the coordinator's restart. The volatile one is for
//!   tests and says so.
//! - **Revisions.** Every transaction that changes something, and every end of a lease that had keys, makes one new
//!   revision of the whole; it only grows. A transaction that changes nothing makes none.
//! - **Watches** give every revision that touched the prefix, once, whole and in order, whatever connections break on
//!   the way; or the error [`Compacted`](Error::Compacted) when the history was dropped, and then the watcher reads
//!   anew.
//! - **Unknown effects.** A `transact` that gives an error other than those it names may or may not have happened, or
//!   may happen a little later. Whoever got one reads before doing anything else. Nothing is repeated silently.
//!
//! # Leases and clocks
//!
//! A lease ends at the coordinator not before its ttl has passed since the last [`grant`](Coordinator::grant) or
//! [`keep_alive`](Coordinator::keep_alive) *was sent*, and soon after if there was no other; its keys vanish at that
//! instant, in one revision. A coordinator that starts again starts every lease again with its full ttl: nobody loses one early.
//! So a holder counts from before it sent the beat, on its own clock, and stops acting a margin earlier, which has to
//! cover what the two clocks may drift apart within one ttl. Clocks are never compared with each other.
//!
//! All time is tokio's: under its paused clock a run is repeatable.

use crate::error::{Error, Result};
use bartender_net::Boxed;
use bartender_pm::sync::atomic::{AtomicU64, Ordering};
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Names a lease. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A lease as it was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// How long it lasts after each beat: what was asked for, or longer (etcd: whole seconds, and not below its bound).
    pub ttl: Duration,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// The revision that wrote it.
    pub revision: u64,
    /// The lease with which it vanishes.
    pub lease: Option<LeaseId>,
}

/// What a prefix held at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// In the order of their keys.
    pub entries: Vec<Entry>,
    /// The coordinator's revision then: a watch after it misses nothing.
    pub revision: u64,
}

/// What has to hold for a transaction to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key was last written by this revision.
    Revision(String, u64),
    /// There is no such key.
    Absent(String),
    /// The key has this value.
    Value(String, Bytes),
}

/// What a transaction does to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Writes it, and binds it to that lease or to none: what it was bound to before does not matter any more.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Bytes,
        /// The lease with which it is to vanish.
        lease: Option<LeaseId>,
    },
    /// Removes it, if it is there.
    Delete {
        /// The key.
        key: String,
    },
}

impl Change {
    /// Writes a key that no lease ends.
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>) -> Change {
        let (key, value, lease) = (key.into(), value.into(), None);
        Change::Put { key, value, lease }
    }

    /// Writes a key that vanishes with `lease`.
    pub fn put_bound(key: impl Into<String>, value: impl Into<Bytes>, lease: LeaseId) -> Change {
        let (key, value, lease) = (key.into(), value.into(), Some(lease));
        Change::Put { key, value, lease }
    }

    /// Removes a key.
    pub fn delete(key: impl Into<String>) -> Change {
        Change::Delete { key: key.into() }
    }

    /// The key it is about.
    pub fn key(&self) -> &str {
        match self {
            Change::Put { key, .. } | Change::Delete { key } => key,
        }
    }
}

/// How a transaction went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transacted {
    /// It happened, and this is the coordinator's revision after it.
    Committed {
        /// All keys that it wrote have this one.
        revision: u64,
    },
    /// A comparison did not hold: nothing happened.
    Refused,
}

/// What one revision did to the keys of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The revision.
    pub revision: u64,
    /// Keys with their new values; `None`: it is gone. In the order of their keys.
    pub keys: Vec<(String, Option<Bytes>)>,
}

/// The facts on which a cluster agrees. See the module's page for what holds for every implementation.
///
/// Keys are UTF-8 without NUL, of 1 to [`MAX_KEY`] bytes; values have up to [`MAX_VALUE`] bytes. A cost is given in
/// round trips to the coordinator.
pub trait Coordinator: Send + Sync + fmt::Debug + 'static {
    /// All keys that start with `prefix`, at one instant. One round trip.
    fn read<'a>(&'a self, prefix: &'a str) -> Boxed<'a, Result<Snapshot>>;

    /// If all of `compares` hold: does all of `changes`, durably. Each key is changed once at most. One round trip.
    ///
    /// # Errors
    ///
    /// [`Error::LeaseEnded`] if a key is to be bound to a lease that is over, and [`Error::BadRequest`]: then nothing
    /// happened. After any other the effect is unknown.
    fn transact(
        &self,
        compares: Vec<Compare>,
        changes: Vec<Change>,
    ) -> Boxed<'_, Result<Transacted>>;

    /// Every revision above `after` that touches a key with this prefix.
    fn watch<'a>(&'a self, prefix: &'a str, after: u64) -> Boxed<'a, Result<Watch>>;

    /// A new lease that lasts at least `ttl` from when this was sent.
    fn grant(&self, ttl: Duration) -> Boxed<'_, Result<Lease>>;

    /// One beat: the lease lasts its ttl, which is given back, from when this was sent. Idempotent.
    ///
    /// # Errors
    ///
    /// [`Error::LeaseEnded`].
    fn keep_alive(&self, lease: LeaseId) -> Boxed<'_, Result<Duration>>;

    /// Ends a lease now. One that is over already is no error.
    fn revoke(&self, lease: LeaseId) -> Boxed<'_, Result<()>>;
}

/// Longest key, in bytes.
pub const MAX_KEY: usize = 1024;

/// Longest value, in bytes.
pub const MAX_VALUE: usize = 256 << 10;

/// Most bytes of values that a transaction compares and writes. (Below what etcd takes in a request.)
pub const MAX_VALUES: usize = 1 << 20;

/// Most comparisons and changes of a transaction, together. (etcd's default.)
pub const MAX_PARTS: usize = 128;

/// Longest lease.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// For implementations: a lease's ttl in milliseconds, rounded up, if it makes sense.
pub(crate) fn check_ttl(ttl: Duration) -> Result<u64> {
    if ttl.is_zero() || ttl > MAX_TTL {
        let what = format!("a lease of {ttl:?}; up to {MAX_TTL:?} is possible");
        return Err(Error::BadRequest { what });
    }
    Ok(ttl.as_nanos().div_ceil(1_000_000) as u64)
}

/// For implementations: whether a transaction may be asked at all.
pub(crate) fn check_request(compares: &[Compare], changes: &[Change]) -> Result<()> {
    let refuse = |what: String| Err(Error::BadRequest { what });
    let parts = compares.len() + changes.len();
    if parts > MAX_PARTS {
        return refuse(format!("{parts} parts; a transaction has {MAX_PARTS}"));
    }
    let compared = compares.iter().map(|compare| match compare {
        Compare::Revision(key, _) | Compare::Absent(key) | Compare::Value(key, _) => key.as_str(),
    });
    for key in compared.chain(changes.iter().map(Change::key)) {
        if key.is_empty() || key.len() > MAX_KEY || key.contains('\0') {
            return refuse(format!("a key of {} bytes, or one with NUL", key.len()));
        }
    }
    for change in changes {
        if let Change::Put { key, value, .. } = change
            && value.len() > MAX_VALUE
        {
            return refuse(format!("{} bytes for key {key}", value.len()));
        }
    }
    let written = changes.iter().map(|change| match change {
        Change::Put { value, .. } => value.len(),
        Change::Delete { .. } => 0,
    });
    let compared = compares.iter().map(|compare| match compare {
        Compare::Value(_, value) => value.len(),
        Compare::Revision(..) | Compare::Absent(_) => 0,
    });
    let bytes: usize = written.chain(compared).sum();
    if bytes > MAX_VALUES {
        return refuse(format!(
            "values of {bytes} bytes; a transaction has {MAX_VALUES}"
        ));
    }
    let mut keys: Vec<_> = changes.iter().map(Change::key).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => refuse(format!("key {} is changed twice", pair[0])),
        None => Ok(()),
    }
}

/// What an implementation's watch does.
pub(crate) trait Watching: Send {
    /// See [`Watch::next`]; safe to cancel.
    fn next(&mut self) -> Boxed<'_, Result<Changes>>;
}

/// A watch over the keys of a prefix. Dropping it ends it.
pub struct Watch(Box<dyn Watching>);

impl Watch {
    pub(crate) fn new(watching: impl Watching + 'static) -> Watch {
        Watch(Box::new(watching))
    }

    /// The next revision that touched the prefix. Waits for one, also while the coordinator is away. Dropping the
    /// future loses nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Compacted`]: revisions were missed; read anew, and watch after what was read. Others are final.
    pub async fn next(&mut self) -> Result<Changes> {
        self.0.next().await
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

impl<C: Coordinator + ?Sized> Coordinator for Arc<C> {
    fn read<'a>(&'a self, prefix: &'a str) -> Boxed<'a, Result<Snapshot>> {
        (**self).read(prefix)
    }

    fn transact(
        &self,
        compares: Vec<Compare>,
        changes: Vec<Change>,
    ) -> Boxed<'_, Result<Transacted>> {
        (**self).transact(compares, changes)
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: u64) -> Boxed<'a, Result<Watch>> {
        (**self).watch(prefix, after)
    }

    fn grant(&self, ttl: Duration) -> Boxed<'_, Result<Lease>> {
        (**self).grant(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> Boxed<'_, Result<Duration>> {
        (**self).keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId) -> Boxed<'_, Result<()>> {
        (**self).revoke(lease)
    }
}

/// A coordinator that counts what it is asked: beats apart from all else, since those come with time and not with work.
#[derive(Debug)]
pub struct Counted<C> {
    inner: C,
    calls: AtomicU64,
    beats: AtomicU64,
}

impl<C: Coordinator> Counted<C> {
    /// Nothing was asked yet.
    pub fn new(inner: C) -> Self {
        Counted {
            inner,
            calls: AtomicU64::new(0),
            beats: AtomicU64::new(0),
        }
    }

    /// Calls so far, beats excepted.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Beats so far.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    fn counted(&self) -> &C {
        self.calls.fetch_add(1, Ordering::Relaxed);
        &self.inner
    }
}

impl<C: Coordinator> Coordinator for Counted<C> {
    fn read<'a>(&'a self, prefix: &'a str) -> Boxed<'a, Result<Snapshot>> {
        self.counted().read(prefix)
    }

    fn transact(
        &self,
        compares: Vec<Compare>,
        changes: Vec<Change>,
    ) -> Boxed<'_, Result<Transacted>> {
        self.counted().transact(compares, changes)
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: u64) -> Boxed<'a, Result<Watch>> {
        self.counted().watch(prefix, after)
    }

    fn grant(&self, ttl: Duration) -> Boxed<'_, Result<Lease>> {
        self.counted().grant(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> Boxed<'_, Result<Duration>> {
        self.beats.fetch_add(1, Ordering::Relaxed);
        self.inner.keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId) -> Boxed<'_, Result<()>> {
        self.counted().revoke(lease)
    }
}

mod layout;

mod state;

mod durable;

mod message;

mod pieces;

pub(crate) mod embedded;

pub(crate) mod server;

pub(crate) mod client;

#[cfg(feature = "etcd")]
pub(crate) mod etcd;

#[cfg(test)]
pub(crate) mod contract;

//! The state of the embedded coordinator, as pure code: it is told what time it is, waits for nothing and writes
//! nothing.
//!
//! A change is *planned* as a [`Delta`], made durable by whoever keeps it, and then *applied*: so nothing is visible
//! before it is durable, and the same deltas rebuild the state after a restart. In DRAM only: the instants at which
//! leases end, and the history for watches.

use super::{Change, Changes, Compare, Entry, LeaseId, Snapshot};
use crate::error::{Error, Result};
use bartender_pm::mutant;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;
use tokio::time::Instant;

/// Revisions that a watch may be behind.
const HISTORY: usize = 4096;

/// Bytes of keys and values in these revisions.
const HISTORY_BYTES: usize = 16 << 20;

/// A key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) value: Bytes,
    pub(crate) revision: u64,
    pub(crate) lease: Option<LeaseId>,
}

/// A lease that runs.
#[derive(Debug, Clone)]
struct Term {
    ttl: Duration,
    end: Instant,
    keys: BTreeSet<String>,
}

/// A step from one state to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    /// The coordinator's revision after it.
    pub(crate) revision: u64,
    /// Keys, in order, with what they hold after it.
    pub(crate) keys: BTreeMap<String, Option<Kept>>,
    /// A lease that begins.
    pub(crate) granted: Option<(LeaseId, Duration)>,
    /// A lease that ends.
    pub(crate) ended: Option<LeaseId>,
}

/// The whole state.
///
/// Invariant: a lease's `keys` are exactly those whose `lease` it is.
#[derive(Debug)]
pub(crate) struct State {
    revision: u64,
    last_lease: u64,
    keys: BTreeMap<String, Kept>,
    leases: BTreeMap<LeaseId, Term>,
    /// What the revisions above `forgotten` did, in order.
    history: VecDeque<Changes>,
    history_bytes: usize,
    forgotten: u64,
}

fn bytes_of(changes: &Changes) -> usize {
    let bytes = |(key, value): &(String, Option<Bytes>)| {
        key.len() + value.as_ref().map_or(0, |value| value.len())
    };
    changes.keys.iter().map(bytes).sum()
}

/// All keys from `prefix` on that start with it.
fn range<'a, V>(
    map: &'a BTreeMap<String, V>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a String, &'a V)> {
    map.range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(prefix))
}

impl State {
    /// Nothing, or what was kept; every lease with its full ttl from `now` on.
    pub(crate) fn new(
        revision: u64,
        last_lease: u64,
        keys: BTreeMap<String, Kept>,
        leases: BTreeMap<LeaseId, Duration>,
        now: Instant,
    ) -> State {
        let term = |(id, ttl)| {
            let bound =
                |(key, kept): (&String, &Kept)| (kept.lease == Some(id)).then(|| key.clone());
            let keys = keys.iter().filter_map(bound).collect();
            let end = now + ttl;
            (id, Term { ttl, end, keys })
        };
        let leases = leases.into_iter().map(term).collect();
        State {
            revision,
            last_lease,
            keys,
            leases,
            history: VecDeque::new(),
            history_bytes: 0,
            forgotten: revision,
        }
    }

    pub(crate) fn read(&self, prefix: &str) -> Snapshot {
        let entry = |(key, kept): (&String, &Kept)| Entry {
            key: key.clone(),
            value: kept.value.clone(),
            revision: kept.revision,
            lease: kept.lease,
        };
        Snapshot {
            entries: range(&self.keys, prefix).map(entry).collect(),
            revision: self.revision,
        }
    }

    /// The first revision above `after` that touched the prefix, if there is one already; and how far it looked.
    pub(crate) fn changes(&self, prefix: &str, after: u64) -> Result<(Option<Changes>, u64)> {
        // Of a later revision than there is knows who saw another past: this state is an older one, or a new one.
        if after < self.forgotten || after > self.revision {
            return Err(Error::Compacted {
                asked: after,
                oldest: self.forgotten,
            });
        }
        let first = self.history.partition_point(|c| c.revision <= after);
        for changes in self.history.range(first..) {
            let mut keys = changes.keys.clone();
            keys.retain(|(key, _)| key.starts_with(prefix));
            if !keys.is_empty() {
                let revision = changes.revision;
                return Ok((Some(Changes { revision, keys }), revision));
            }
        }
        Ok((None, self.revision))
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Revision(key, revision) => {
                self.keys.get(key).is_some_and(|k| k.revision == *revision)
            }
            Compare::Absent(key) => !self.keys.contains_key(key),
            Compare::Value(key, value) => self.keys.get(key).is_some_and(|k| k.value == *value),
        }
    }

    /// A transaction that was checked; `None`: refused.
    pub(crate) fn plan(&self, compares: &[Compare], changes: Vec<Change>) -> Result<Option<Delta>> {
        if !compares.iter().all(|compare| self.holds(compare))
            && !mutant::is("transaction_without_compares")
        {
            return Ok(None);
        }
        let revision = self.revision + 1;
        let mut delta = Delta {
            revision,
            ..Delta::default()
        };
        for change in changes {
            match change {
                Change::Put { key, value, lease } => {
                    if let Some(LeaseId(id)) = lease
                        && !self.leases.contains_key(&LeaseId(id))
                    {
                        return Err(Error::LeaseEnded { lease: id });
                    }
                    let kept = Kept {
                        value,
                        revision,
                        lease,
                    };
                    delta.keys.insert(key, Some(kept));
                }
                Change::Delete { key } => {
                    if self.keys.contains_key(&key) {
                        delta.keys.insert(key, None);
                    }
                }
            }
        }
        if delta.keys.is_empty() {
            delta.revision = self.revision;
        }
        Ok(Some(delta))
    }

    pub(crate) fn plan_grant(&self, ttl: Duration) -> (LeaseId, Delta) {
        let id = LeaseId(self.last_lease + 1);
        let delta = Delta {
            revision: self.revision,
            granted: Some((id, ttl)),
            ..Delta::default()
        };
        (id, delta)
    }

    /// The end of a lease, with its keys; `None`: there is none.
    pub(crate) fn plan_end(&self, id: LeaseId) -> Option<Delta> {
        let term = self.leases.get(&id)?;
        let gone = |key: &String| (key.clone(), None);
        Some(Delta {
            revision: self.revision + u64::from(!term.keys.is_empty()),
            keys: term.keys.iter().map(gone).collect(),
            granted: None,
            ended: Some(id),
        })
    }

    /// When the next lease ends, and which.
    pub(crate) fn next_end(&self) -> Option<(Instant, LeaseId)> {
        self.leases.iter().map(|(id, term)| (term.end, *id)).min()
    }

    /// One beat.
    pub(crate) fn beat(&mut self, id: LeaseId, now: Instant) -> Result<Duration> {
        let Some(term) = self.leases.get_mut(&id) else {
            return Err(Error::LeaseEnded { lease: id.0 });
        };
        if !mutant::is("beat_that_does_not_count") {
            term.end = now + term.ttl;
        }
        Ok(term.ttl)
    }

    /// Makes a planned step. The state is the one that it was planned on.
    pub(crate) fn apply(&mut self, delta: Delta, now: Instant) {
        debug_assert!(delta.revision == self.revision + u64::from(!delta.keys.is_empty()));
        self.revision = delta.revision;
        if let Some((id, ttl)) = delta.granted {
            self.last_lease = id.0;
            let (end, keys) = (now + ttl, BTreeSet::new());
            self.leases.insert(id, Term { ttl, end, keys });
        }
        let mut seen = Vec::with_capacity(delta.keys.len());
        for (key, kept) in delta.keys {
            seen.push((key.clone(), kept.as_ref().map(|kept| kept.value.clone())));
            let bound = kept.as_ref().and_then(|kept| kept.lease);
            let before = match kept {
                Some(kept) => self.keys.insert(key.clone(), kept),
                None => self.keys.remove(&key),
            };
            let unbound = before.and_then(|kept| kept.lease);
            if let Some(term) = unbound.and_then(|id| self.leases.get_mut(&id))
                && !mutant::is("old_lease_keeps_key")
            {
                term.keys.remove(&key);
            }
            if let Some(term) = bound.and_then(|id| self.leases.get_mut(&id)) {
                term.keys.insert(key);
            }
        }
        if let Some(id) = delta.ended {
            self.leases.remove(&id);
        }
        if !seen.is_empty() {
            let changes = Changes {
                revision: delta.revision,
                keys: seen,
            };
            self.history_bytes += bytes_of(&changes);
            self.history.push_back(changes);
        }
        while (self.history.len() > HISTORY || self.history_bytes > HISTORY_BYTES)
            && let Some(oldest) = self.history.pop_front()
        {
            self.history_bytes -= bytes_of(&oldest);
            self.forgotten = oldest.revision;
        }
    }
}

#[cfg(test)]
mod tests;

//! The coordinator that lives in this process: for one machine, for tests, and behind a server for a small cluster.
//!
//! What it answered survives a crash of the machine if it was [opened](Embedded::open) on a region, and nothing if it is
//! [volatile](Embedded::volatile). It is one machine: while it is away nothing changes in the cluster, though what runs
//! goes on until leases end. Who needs more takes etcd.
//!
//! There is no task of its own: whoever asks first ends the leases that are due, and a watch sleeps until the next of
//! them is. Nobody can tell that from a lease that ended on time.

use super::durable::{self, Durable};
use super::state::{Delta, State};
use super::{
    Change, Changes, Compare, Coordinator, Lease, LeaseId, Snapshot, Transacted, Watch, Watching,
    check_request, check_ttl,
};
use crate::error::{Error, Result};
use crate::signal::Signal;
use bartender_net::Boxed;
use bartender_pm::mutant;
use bartender_pm::sync::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A coordinator in this process. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Embedded(Arc<Shared>);

/// * `inner` is held for one operation, never across a wait of the executor's. Where the state is durable that takes a
///   barrier, so that threads for blocking work do it.
/// * `turns` is raised with each delta; watches wait for it.
struct Shared {
    inner: Mutex<Inner>,
    durable: bool,
    turns: Signal,
}

/// The state, and where it is kept.
struct Inner {
    state: State,
    durable: Option<Durable>,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded")
            .field("durable", &self.0.durable)
            .finish_non_exhaustive()
    }
}

/// What is held under the lock.
struct Turn<'a> {
    inner: &'a mut Inner,
    now: Instant,
    turns: &'a Signal,
}

impl Turn<'_> {
    /// First durable, then visible.
    fn step(&mut self, delta: Delta) -> Result<()> {
        if let Some(durable) = &mut self.inner.durable {
            durable.commit(&delta)?;
        }
        self.inner.state.apply(delta, self.now);
        self.turns.raise();
        Ok(())
    }

    /// Ends what is due.
    fn end_leases(&mut self) -> Result<()> {
        let early = match mutant::is("lease_ends_early") {
            true => Duration::from_millis(500),
            false => Duration::ZERO,
        };
        while let Some((end, id)) = self.inner.state.next_end()
            && end <= self.now + early
            && let Some(delta) = self.inner.state.plan_end(id)
        {
            self.step(delta)?;
        }
        Ok(())
    }
}

impl Embedded {
    /// Empty, and gone with the process.
    pub fn volatile() -> Embedded {
        let (keys, leases) = (BTreeMap::new(), BTreeMap::new());
        Embedded::with(State::new(1, 0, keys, leases, Instant::now()), None)
    }

    /// With its state in the region at `path`, which is created if it is missing. All leases begin anew. Blocks while
    /// it recovers; every change takes one barrier.
    ///
    /// # Errors
    ///
    /// [`Error::Region`] where the region does not open, as when another process has it; [`Error::Coordinator`] where
    /// it holds something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Embedded> {
        let region = durable::options().open(path)?;
        let (durable, state) = Durable::open(region, Instant::now())?;
        Ok(Embedded::with(state, Some(durable)))
    }

    fn with(state: State, durable: Option<Durable>) -> Embedded {
        Embedded(Arc::new(Shared {
            durable: durable.is_some(),
            inner: Mutex::new(Inner { state, durable }),
            turns: Signal::default(),
        }))
    }

    /// Runs one operation, alone. It goes on if the future is dropped.
    async fn turn<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Turn<'_>) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        if !self.0.durable {
            return self.0.turn(f);
        }
        let shared = self.0.clone();
        match tokio::task::spawn_blocking(move || shared.turn(f)).await {
            Ok(result) => result,
            Err(stopped) => Err(Error::Coordinator {
                endpoints: "in this process".to_owned(),
                what: stopped.to_string(),
            }),
        }
    }
}

impl Shared {
    fn turn<R>(&self, f: impl FnOnce(&mut Turn<'_>) -> Result<R>) -> Result<R> {
        let mut inner = self.inner.lock();
        if let Some(durable) = &inner.durable {
            durable.check()?;
        }
        let mut turn = Turn {
            inner: &mut inner,
            now: Instant::now(),
            turns: &self.turns,
        };
        turn.end_leases()?;
        f(&mut turn)
    }
}

impl Coordinator for Embedded {
    fn read<'a>(&'a self, prefix: &'a str) -> Boxed<'a, Result<Snapshot>> {
        let prefix = prefix.to_owned();
        Box::pin(self.turn(move |turn| Ok(turn.inner.state.read(&prefix))))
    }

    fn transact(
        &self,
        compares: Vec<Compare>,
        changes: Vec<Change>,
    ) -> Boxed<'_, Result<Transacted>> {
        Box::pin(async move {
            check_request(&compares, &changes)?;
            self.turn(move |turn| {
                let Some(delta) = turn.inner.state.plan(&compares, changes)? else {
                    return Ok(Transacted::Refused);
                };
                let revision = delta.revision;
                if !delta.keys.is_empty() {
                    turn.step(delta)?;
                }
                Ok(Transacted::Committed { revision })
            })
            .await
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: u64) -> Boxed<'a, Result<Watch>> {
        let watcher = Watcher {
            coordinator: self.clone(),
            prefix: prefix.to_owned(),
            after,
        };
        Box::pin(async { Ok(Watch::new(watcher)) })
    }

    fn grant(&self, ttl: Duration) -> Boxed<'_, Result<Lease>> {
        Box::pin(async move {
            // Whole milliseconds, as they are kept.
            let ttl = Duration::from_millis(check_ttl(ttl)?);
            self.turn(move |turn| {
                let (id, delta) = turn.inner.state.plan_grant(ttl);
                turn.step(delta)?;
                Ok(Lease { id, ttl })
            })
            .await
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Boxed<'_, Result<Duration>> {
        Box::pin(self.turn(move |turn| turn.inner.state.beat(lease, turn.now)))
    }

    fn revoke(&self, lease: LeaseId) -> Boxed<'_, Result<()>> {
        Box::pin(
            self.turn(move |turn| match turn.inner.state.plan_end(lease) {
                Some(delta) => turn.step(delta),
                None => Ok(()),
            }),
        )
    }
}

/// A watch: everything up to `after` was given.
struct Watcher {
    coordinator: Embedded,
    prefix: String,
    after: u64,
}

impl Watching for Watcher {
    fn next(&mut self) -> Boxed<'_, Result<Changes>> {
        Box::pin(async move {
            loop {
                // What comes from here on wakes the wait below.
                let mut turns = self.coordinator.0.turns.listen();
                let (prefix, after) = (self.prefix.clone(), self.after);
                let (found, looked, end) = self
                    .coordinator
                    .turn(move |turn| {
                        let (found, looked) = turn.inner.state.changes(&prefix, after)?;
                        Ok((found, looked, turn.inner.state.next_end()))
                    })
                    .await?;
                self.after = looked;
                if let Some(changes) = found {
                    return Ok(changes);
                }
                let changed = turns.changed();
                // Either way it looks again.
                match end {
                    Some((end, _)) => drop(tokio::time::timeout_at(end, changed).await),
                    None => changed.await,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;

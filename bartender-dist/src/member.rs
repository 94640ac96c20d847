//! This node as a member of its cluster: its lease, and the records as it last saw them.

use crate::clock::Moment;
use crate::cluster::{ClusterMap, Identity, Picture};
use crate::error::Error;
use crate::signal::Signal;
use crate::tasks::Tasks;
use bartender_pm::sync::Mutex;
use bartender_pm::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument;

/// One node's membership.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) map: ClusterMap,
    pub(crate) name: String,
    pub(crate) ttl: Duration,
    /// The life that goes on, since when its lease runs, and for how long this machine may act for it, by its own clock.
    life: Mutex<Option<(Identity, Moment, Duration)>>,
    changed: Signal,
    picture: Mutex<Arc<Picture>>,
    /// Beats that were not answered.
    lost: AtomicU64,
    /// The life of which there is no record any more.
    missing: AtomicU64,
}

impl Membership {
    /// Joins, and stays a member until the tasks end.
    pub(crate) fn start(
        map: ClusterMap,
        name: &str,
        address: String,
        ttl: Duration,
        tasks: &Tasks,
    ) -> Arc<Membership> {
        let membership = Arc::new(Membership {
            map,
            name: name.to_owned(),
            ttl,
            life: Mutex::new(None),
            changed: Signal::default(),
            picture: Mutex::default(),
            lost: AtomicU64::new(0),
            missing: AtomicU64::new(0),
        });
        let keeper = membership.clone();
        tasks.spawn(async move { keeper.keep(address).await });
        let watcher = membership.clone();
        tasks.spawn(async move { watcher.watch().await });
        membership
    }

    /// What has to be left of a lease for acting on it: what two clocks may drift apart, generously.
    fn margin(&self) -> Duration {
        self.ttl / 10
    }

    /// The present life, if its lease has not ended.
    pub(crate) fn alive(&self) -> Option<Identity> {
        let life = self.life.lock();
        let (identity, since, lasts) = life.as_ref()?;
        (since.elapsed() < *lasts || bartender_pm::mutant::is("no_lease_wait"))
            .then(|| identity.clone())
    }

    /// Whether the life `incarnation` may act.
    pub(crate) fn is_alive(&self, incarnation: u64) -> bool {
        self.alive().is_some_and(|me| me.incarnation == incarnation)
    }

    /// Whether the life `incarnation` is over for good. One whose lease has run out by this machine's clock may yet be
    /// heard of again: the coordinator decides.
    pub(crate) fn is_over(&self, incarnation: u64) -> bool {
        let life = self.life.lock();
        life.as_ref()
            .is_none_or(|(me, ..)| me.incarnation != incarnation)
    }

    /// Beats that were not answered.
    pub(crate) fn beats_lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The records, as they were seen last.
    pub(crate) fn picture(&self) -> Arc<Picture> {
        self.picture.lock().clone()
    }

    /// Ready when records change, or this member's life begins or ends; at the latest after `limit`.
    pub(crate) async fn changes(&self, limit: Duration) {
        let mut listener = self.changed.listen();
        let _ = tokio::time::timeout(limit, listener.changed()).await;
    }

    async fn keep(&self, address: String) {
        loop {
            let span = tracing::info_span!("member", name = self.name);
            if let Err(error) = self.live(&address).instrument(span).await {
                tracing::warn!(member = self.name, %error, "not a member");
            }
            *self.life.lock() = None;
            self.changed.raise();
            tokio::time::sleep(self.ttl / 10).await;
        }
    }

    /// One life, from joining to the end of its lease.
    async fn live(&self, address: &str) -> Result<(), Error> {
        let coordinator = self.map.coordinator().clone();
        let asked = Moment::now();
        let lease = coordinator.grant(self.ttl).await?;
        let identity = self.map.join(&self.name, address, lease.id).await?;
        let lasts = lease.ttl.saturating_sub(self.margin());
        *self.life.lock() = Some((identity.clone(), asked, lasts));
        self.changed.raise();
        loop {
            tokio::time::sleep(self.ttl / 4).await;
            if self.missing.load(Ordering::Acquire) == identity.incarnation {
                // Joining again makes one.
                return Err(Error::LeaseEnded { lease: lease.id.0 });
            }
            let asked = Moment::now();
            let beat = coordinator.keep_alive(lease.id);
            match tokio::time::timeout(self.ttl / 4, beat).await {
                Ok(Ok(ttl)) => {
                    let lasts = ttl.saturating_sub(self.margin());
                    *self.life.lock() = Some((identity.clone(), asked, lasts));
                }
                Ok(Err(error @ Error::LeaseEnded { .. })) => return Err(error),
                // It may be heard again.
                Ok(Err(error)) => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(member = self.name, %error, "a beat was lost");
                }
                Err(_) => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(member = self.name, "no answer to a beat");
                }
            }
            if self.alive().is_none() {
                // Others may act on its end; whoever acted for this life has to know.
                self.changed.raise();
            }
        }
    }

    async fn watch(&self) {
        loop {
            if let Err(error) = self.follow_records().await {
                tracing::warn!(member = self.name, %error, "the cluster's records are not seen");
            }
            tokio::time::sleep(self.ttl / 10).await;
        }
    }

    async fn follow_records(&self) -> Result<(), Error> {
        loop {
            let me = self.life.lock().as_ref().map(|(me, ..)| me.incarnation);
            let picture = self.map.picture().await?;
            let member = &self.name;
            match (me, picture.members.get(member)) {
                (Some(me), Some(seen)) if seen.record.incarnation > me => {
                    let other = &seen.record.address;
                    tracing::error!(
                        member,
                        other,
                        "another process has joined by this name: end one of the two"
                    );
                }
                (Some(me), None) => {
                    // It went with that process, or with what the coordinator lost.
                    tracing::error!(member, "the cluster has no record of this member");
                    self.missing.store(me, Ordering::Release);
                }
                _ => {}
            }
            let mut watch = self.map.watch(picture.revision).await?;
            *self.picture.lock() = Arc::new(picture);
            self.changed.raise();
            watch.next().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::SUSPENDED;
    use crate::{Coordinator, Embedded};

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_was_suspended_does_not_believe_in_its_lease() {
        let coordinator: Arc<dyn Coordinator> = Arc::new(Embedded::volatile());
        let map = ClusterMap::new(coordinator, "test").expect("a name");
        let (tasks, ttl) = (Tasks::default(), Duration::from_secs(1));
        let member = Membership::start(map, "a", "a".into(), ttl, &tasks);
        tokio::time::sleep(ttl * 3).await;
        let me = member.alive().expect("it has joined");
        SUSPENDED.set(ttl);
        let believed = member.alive().is_some();
        // The coordinator was not, and has the last word.
        tokio::time::sleep(ttl / 3).await;
        let again = member.alive();
        SUSPENDED.set(Duration::ZERO);
        tasks.end();
        assert!(!believed, "its lease may have ended");
        assert_eq!(again.map(|me| me.incarnation), Some(me.incarnation));
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_whose_record_went_with_another_process_joins_again() {
        let coordinator: Arc<dyn Coordinator> = Arc::new(Embedded::volatile());
        let map = ClusterMap::new(coordinator.clone(), "test").expect("a name");
        let (tasks, ttl) = (Tasks::default(), Duration::from_secs(1));
        let member = Membership::start(map.clone(), "a", "a".into(), ttl, &tasks);
        tokio::time::sleep(ttl * 3).await;
        let first = member.alive().expect("it has joined").incarnation;
        // One by its name comes, and goes.
        let lease = coordinator.grant(ttl).await.expect("sound").id;
        map.join("a", "elsewhere", lease).await.expect("sound");
        tokio::time::sleep(ttl / 2).await;
        coordinator.revoke(lease).await.expect("sound");
        tokio::time::sleep(ttl * 3).await;
        let again = member.alive().expect("it is one again").incarnation;
        let seen = map.member("a").await.expect("sound").expect("it is there");
        tasks.end();
        assert!(again > first && seen.record.incarnation == again);
    }
}

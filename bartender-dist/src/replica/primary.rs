//! The primary of a region: ships each batch of its log to all backups at once, and brings those up to date that are not.
//!
//! # Who does what
//!
//! - *The leader* of a batch (a thread that commits, through [`Replication::lead`]; or [`Primary::flush`]) posts it to
//!   every backup that is *live*, writes it to the local log meanwhile, and finishes it when all that are *required*
//!   have acknowledged it. One round trip, and nobody else is asked.
//! - *A follower task* (`follow`) for each backup connects, sends what is missing, makes the backup live, has it put in sync by the
//!   coordinator, and then tells it now and then what is committed and learns how far its home is.
//! - *The governor* fences the region when its lease ends, a higher epoch is seen, or its medium has failed. Another task
//!   (`agree`) removes backups that are gone, and follows what operators change.
//!
//! # State
//!
//! For each backup: `acked`, below which it has this epoch's stream; `live`, which says that the leader posts to it,
//! from `sent` on; `required`, from before the coordinator is asked to put it in sync until it has
//! said that it is not; `floor`, from which on the log is kept for it: for one that is not required, while there is room for
//! that (`shed` says that there was not). `written`: below it the stream is in
//! the local log, and not above; `leading`: the batch that is being led, which starts there. A backup becomes live
//! only at `written` with nobody leading, or with the batch that is being led, so the leader never leaves one out that is required and up to date.

mod agree;
mod ask;
mod follow;
mod install;
mod seen;
mod ship;

pub use seen::Lag;

use super::findings::Scrubs;
use super::layout::Ring;
use crate::cluster::Identity;
use crate::member::Membership;
use crate::records::{RegionRecord, Seen};
use crate::signal::Signal;
use crate::status::RegionCounts;
use crate::tasks::Tasks;
use bartender_net::{Connection, Fabric};
use bartender_pm::sync::Mutex;
use bartender_pm::{Region, mutant};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::Instrument;

/// How a primary deals with its backups.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How often a backup is told what is committed.
    pub(crate) beat: Duration,
    /// How long an answer may take.
    pub(crate) patience: Duration,
    /// Under [`Policy::Degrade`](crate::records::Policy::Degrade), for how long a backup may be behind.
    pub(crate) lag: Duration,
}

/// See the module's page.
pub(crate) struct Primary {
    name: String,
    pub(crate) epoch: u64,
    me: Identity,
    members: Arc<Membership>,
    fabric: Arc<dyn Fabric>,
    tasks: Tasks,
    bounds: Bounds,
    state: Mutex<State>,
    /// `state` changed in a way that the leader, or who waits for commits, may wait for.
    changed: Signal,
    room: Notify,
    record: tokio::sync::Mutex<Seen<RegionRecord>>,
    /// Held by the one that compares copies.
    pub(super) scrubbing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    backups: BTreeMap<String, Backup>,
    /// Whether it knows its backups: before that nothing is shipped.
    started: bool,
    written: u64,
    leading: Option<Leading>,
    /// The newest epoch, when this one is over.
    fenced: Option<u64>,
    stopped: bool,
    scrubs: Scrubs,
    /// Somebody waits for space in the log.
    short: bool,
    /// Follower tasks begun.
    followers: u64,
    /// The last number that was shipped.
    shipped: u64,
    counts: RegionCounts,
}

#[derive(Debug, Clone)]
struct Leading {
    bytes: Bytes,
    end: u64,
}

#[derive(Debug)]
struct Backup {
    required: bool,
    live: Option<Live>,
    acked: u64,
    floor: u64,
    /// Since when it has not had everything.
    behind_since: Option<Instant>,
    /// Whether somebody waits there for the region, as it said last.
    taker: bool,
    /// Which follower task it has: one that was removed and comes back has another.
    number: u64,
    /// The record may lack it, though commits wait for it.
    doubtful: bool,
    /// It is to make room in its log.
    room: bool,
    /// Its floor was given up.
    shed: bool,
}

#[derive(Debug, Clone)]
struct Live {
    connection: Connection,
    ring: Ring,
    sent: u64,
}

impl fmt::Debug for Primary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Primary")
            .field("region", &self.name)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl Primary {
    /// The primary of `record`'s epoch, which is `me`. It ships nothing before [`start`](Self::start).
    pub(crate) fn new(
        name: &str,
        record: Seen<RegionRecord>,
        me: Identity,
        members: Arc<Membership>,
        fabric: Arc<dyn Fabric>,
        tasks: Tasks,
        bounds: Bounds,
    ) -> Arc<Primary> {
        Arc::new(Primary {
            name: name.to_owned(),
            epoch: record.record.epoch,
            me,
            members,
            fabric,
            tasks,
            bounds,
            state: Mutex::new(State::default()),
            changed: Signal::default(),
            room: Notify::new(),
            record: tokio::sync::Mutex::new(record),
            scrubbing: tokio::sync::Mutex::new(()),
        })
    }

    /// Begins with the region that was opened with this as its replication. It may be shown to nobody before the
    /// first [`flush`](Self::flush).
    pub(crate) async fn start(self: &Arc<Self>, region: &Region) {
        let record = self.record.lock().await.record.clone();
        let stream = region.stream();
        let mut state = self.state.lock();
        // Not the stream's end: the region's own thread may lead already.
        state.written = region.opened_at();
        state.started = true;
        state.shipped = region.durable_seq();
        for backup in record.replicas.iter().filter(|name| **name != self.me.name) {
            let required = record.in_sync.contains(backup);
            let floor = if required { stream.start } else { u64::MAX };
            self.begin(&mut state, region, backup, required, floor);
        }
        drop(state);
        self.set_floor(region);
        self.changed.raise();
        let (me, governed) = (self.clone(), region.clone());
        self.tasks.spawn(async move { me.govern(governed).await });
        let (me, thinned) = (self.clone(), region.clone());
        self.tasks.spawn(async move { me.thin(thinned).await });
        let (me, region) = (self.clone(), region.clone());
        self.tasks.spawn(async move { me.relieve(region).await });
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn me(&self) -> &str {
        &self.me.name
    }

    pub(super) fn beat(&self) -> Duration {
        self.bounds.beat
    }

    /// Backups that have to have everything.
    pub(super) fn required(&self) -> Vec<String> {
        let state = self.state.lock();
        let required = state.backups.iter().filter(|(_, backup)| backup.required);
        required.map(|(name, _)| name.clone()).collect()
    }

    /// Backups are told now what is committed.
    pub(super) fn hasten(&self) {
        self.room.notify_waiters();
    }

    /// From now on there is that backup, and a task that follows it.
    fn begin(
        self: &Arc<Self>,
        state: &mut State,
        region: &Region,
        backup: &str,
        required: bool,
        floor: u64,
    ) {
        state.followers += 1;
        let number = state.followers;
        let new = Backup {
            required,
            live: None,
            acked: 0,
            floor,
            behind_since: Some(Instant::now()),
            taker: false,
            number,
            doubtful: false,
            room: false,
            shed: false,
        };
        state.backups.insert(backup.to_owned(), new);
        let span = tracing::info_span!("follow", region = self.name, epoch = self.epoch, backup);
        let (me, region, backup) = (self.clone(), region.clone(), backup.to_owned());
        self.tasks
            .spawn(me.follow(region, backup, number).instrument(span));
    }

    /// No task of it goes on with the region.
    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.raise();
    }

    /// The newest epoch, once this one is over.
    pub(crate) fn is_over(&self) -> Option<u64> {
        self.ended(&self.state.lock())
    }

    fn ended(&self, state: &State) -> Option<u64> {
        match state.fenced {
            None if state.stopped || self.tasks.ended() => Some(self.epoch),
            fenced => fenced,
        }
    }

    /// Ready when it is over.
    pub(crate) async fn over(&self) -> u64 {
        let mut changed = self.changed.listen();
        loop {
            if let Some(current) = self.is_over() {
                return current;
            }
            changed.changed().await;
        }
    }

    fn fenced(&self, current: u64) -> bartender_pm::Error {
        let epoch = self.epoch;
        bartender_pm::Error::Fenced { epoch, current }
    }

    fn fence(&self, region: &Region, current: u64) {
        let first = {
            let mut state = self.state.lock();
            let first = state.fenced.is_none();
            state.fenced = Some(current.max(state.fenced.unwrap_or(0)));
            first
        };
        if first {
            tracing::warn!(region = self.name, epoch = self.epoch, current, "fenced");
            region.fence(current);
        }
        self.changed.raise();
    }

    /// Ready when it has started, or is over.
    async fn started(&self) {
        let mut changed = self.changed.listen();
        while !self.state.lock().started && self.is_over().is_none() {
            changed.changed().await;
        }
    }

    fn acked(&self, name: &str, end: u64) {
        let mut state = self.state.lock();
        let written = state.written;
        if let Some(backup) = state.backups.get_mut(name) {
            backup.acked = backup.acked.max(end);
            if backup.acked >= written {
                backup.behind_since = None;
            }
        }
        drop(state);
        self.changed.raise();
    }

    /// Lets the region use the log again below what anybody needs.
    fn set_floor(&self, region: &Region) {
        let state = self.state.lock();
        let floor = state.backups.values().map(|backup| backup.floor).min();
        region.set_floor(floor.unwrap_or(u64::MAX));
    }

    fn backup<T>(&self, name: &str, change: impl FnOnce(&mut Backup) -> T) -> Option<T> {
        self.state.lock().backups.get_mut(name).map(change)
    }

    fn is_shed(&self, backup: &str) -> bool {
        self.backup(backup, |b| b.shed) != Some(false)
    }

    /// Sees to it that commits wait for no backup that does not count: where the log gets short, it is kept for those no longer. They
    /// get what has changed in the home instead.
    async fn relieve(self: Arc<Self>, region: Region) {
        let mut beats = 0;
        loop {
            tokio::select! {
                biased;
                _ = self.over() => return,
                _ = tokio::time::sleep(self.bounds.beat) => {}
            }
            let (free, head) = (region.free(), region.stream().start);
            let mut state = self.state.lock();
            let short = std::mem::take(&mut state.short) || free < region.ring() / 8;
            beats = if short { beats + 1 } else { 0 };
            for (name, backup) in &mut state.backups {
                backup.room |= short;
                // At first it is only asked to make room.
                if beats > 1 && !backup.required && backup.floor < head {
                    tracing::info!(region = self.name, backup = name, "no log is kept for it");
                    backup.floor = u64::MAX;
                    backup.shed = true;
                }
            }
            drop(state);
            if short {
                self.room.notify_waiters();
                self.set_floor(&region);
            }
        }
    }

    /// Watches over lease, epoch and medium. It waits for nobody else, the coordinator least of all.
    async fn govern(self: Arc<Self>, region: Region) {
        while self.is_over().is_none() && !mutant::is("no_fencing") {
            let picture = self.members.picture();
            if let Some(seen) = picture.regions.get(&self.name)
                && seen.record.epoch > self.epoch
            {
                return self.fence(&region, seen.record.epoch);
            }
            let usable = region.check_usable();
            if let Err(error) = &usable {
                tracing::warn!(region = self.name, %error, "given up");
            }
            if usable.is_err() || !self.members.is_alive(self.me.incarnation) {
                return self.fence(&region, self.epoch);
            }
            tokio::select! {
                biased;
                _ = self.over() => return,
                _ = self.members.changes(self.bounds.beat) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;

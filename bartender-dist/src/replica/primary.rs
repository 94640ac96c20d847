//! The primary of a region: ships each batch of its log to all backups at once, and brings those up to date that are not.
//!
//! # Who does what
//!
//! - *The leader* of a batch (a thread that commits, through [`Replication::lead`]; or [`Primary::flush`]) posts it to
//!   every backup that is *live*, writes it to the local log meanwhile, and finishes it when all that are *required*
//!   have acknowledged it. One round trip, and nobody else is asked.
//! - *A follower task* for each backup connects, sends what is missing, makes the backup live, has it put in sync by the
//!   coordinator, and then tells it now and then what is committed and learns how far its home is.
//! - *The governor* fences the region when its lease ends, a higher epoch is seen, or its medium has failed. Another task
//!   removes backups that are gone.
//!
//! # State
//!
//! For each backup: `acked`, below which it has this epoch's stream; `live`, which says that the leader posts to it,
//! from `sent` on; `required`, from before the coordinator is asked to put it in sync until it has
//! said that it is not; `floor`, from which on the log is kept for it. `written`: below it the stream is in
//! the local log, and not above; `leading`: the batch that is being led, which starts there. A backup becomes live
//! only at `written` with nobody leading, or with the batch that is being led, so the leader never leaves one out that is required and up to date.

use super::findings::Scrubs;
use super::layout::{Answer, Ask, HOME_PIECE, Ring};
use super::ring::pieces;
use crate::cluster::{Identity, Refusal, Verdict};
use crate::error::{Error, Result};
use crate::member::Membership;
use crate::records::{Policy, RegionRecord, Seen};
use crate::signal::Signal;
use crate::status::{BackupStatus, RegionCounts};
use crate::tasks::{Tasks, block_on, blocking};
use bartender_net::{Connection, Fabric, Pending, Received};
use bartender_pm::sync::Mutex;
use bartender_pm::{Position, Region, Replication, Sealed, mutant};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};
use tracing::Instrument;

/// Bytes of log sent at once to a backup that is behind.
const PIECE: u64 = 1 << 20;

/// How a primary deals with its backups.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How often a backup is told what is committed.
    pub(crate) beat: Duration,
    /// How long an answer may take.
    pub(crate) patience: Duration,
    /// Under [`Policy::Degrade`], for how long a backup may be behind.
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
}

#[derive(Debug, Clone)]
struct Live {
    connection: Connection,
    ring: Ring,
    sent: u64,
}

/// How far a backup is.
#[derive(Debug, Clone, PartialEq)]
pub struct Lag {
    /// Its name.
    pub backup: String,
    /// Whether commits wait for it.
    pub required: bool,
    /// Whether it follows now.
    pub live: bool,
    /// Bytes of log that it has not acknowledged.
    pub bytes: u64,
    /// Since when.
    pub behind: Duration,
}

struct Owned(Arc<Vec<u8>>);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Primary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Primary")
            .field("region", &self.name)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl Replication for Primary {
    fn lead(&self, batch: Sealed<'_>) -> bartender_pm::Result<()> {
        let shipped = block_on(self.ship(&batch));
        batch.finish(shipped)
    }

    fn make_room(&self) {
        self.room.notify_waiters();
    }

    fn check_current(&self) -> bartender_pm::Result<()> {
        let ended = self.ended(&self.state.lock());
        if ended.is_none() && self.members.is_alive(self.me.incarnation) {
            return Ok(());
        }
        Err(self.fenced(ended.unwrap_or(self.epoch)))
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
        let (me, region) = (self.clone(), region.clone());
        self.tasks.spawn(async move { me.thin(region).await });
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

    pub(super) fn count_scrub(&self, more: Scrubs) {
        self.state.lock().scrubs.add(more);
    }

    /// What all comparisons of copies found.
    pub(crate) fn scrubs(&self) -> Scrubs {
        self.state.lock().scrubs
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

    /// As [`flush`](Self::flush), by a task of its own: who waits may go away, and whoever leads a batch has to finish it.
    pub(crate) async fn flush_apart(self: &Arc<Self>, region: &Region) -> bartender_pm::Result<()> {
        if region.durable_seq() >= region.last_seq() {
            return Ok(());
        }
        let (done, flushed) = oneshot::channel();
        let (me, region) = (self.clone(), region.clone());
        self.tasks.spawn(async move {
            let _ = done.send(me.flush(&region).await);
        });
        flushed
            .await
            .unwrap_or_else(|_| Err(self.fenced(self.epoch)))
    }

    /// Makes everything that was appended durable everywhere, without blocking a thread. Not to be cancelled: if it led a batch, whether
    /// that is durable is unknown then, and the region is poisoned.
    pub(crate) async fn flush(&self, region: &Region) -> bartender_pm::Result<()> {
        let last = region.last_seq();
        let mut changed = self.changed.listen();
        while region.durable_seq() < last {
            if let Some(batch) = region.try_lead() {
                let shipped = self.ship(&batch).await;
                batch.finish(shipped)?;
                self.changed.raise();
                continue;
            }
            if let Some(current) = self.is_over() {
                return Err(self.fenced(current));
            }
            region.check_usable()?;
            let _ = timeout(self.bounds.beat, changed.changed()).await;
        }
        Ok(())
    }

    /// How far its backups are.
    pub(crate) fn lags(&self) -> Vec<Lag> {
        let state = self.state.lock();
        let lag = |(name, backup): (&String, &Backup)| Lag {
            backup: name.clone(),
            required: backup.required,
            live: backup.live.is_some(),
            bytes: state.written.saturating_sub(backup.acked),
            behind: backup.behind_since.map_or(Duration::ZERO, |s| s.elapsed()),
        };
        state.backups.iter().map(lag).collect()
    }

    /// What it has counted.
    pub(crate) fn counts(&self) -> RegionCounts {
        let state = self.state.lock();
        RegionCounts {
            repaired: state.scrubs.repaired,
            ..state.counts
        }
    }

    /// Up to where the log is written here, and is on all that are required.
    pub(crate) fn written(&self) -> (u64, u64) {
        let state = self.state.lock();
        let required = state.backups.values().filter(|backup| backup.required);
        let acked = required.map(|backup| backup.acked).min();
        let committed = acked.map_or(state.written, |acked| acked.min(state.written));
        (state.written, committed)
    }

    /// How far its backups are, for people.
    pub(crate) fn backups(&self) -> Vec<BackupStatus> {
        let state = self.state.lock();
        let backups = state.backups.iter().map(|(name, backup)| BackupStatus {
            node: name.clone(),
            required: backup.required,
            live: backup.live.is_some(),
            taker: backup.taker,
            lag_bytes: state.written.saturating_sub(backup.acked),
            lag_seconds: backup
                .behind_since
                .map_or(0.0, |since| since.elapsed().as_secs_f64()),
        });
        backups.collect()
    }

    /// Ready when it has started, or is over.
    async fn started(&self) {
        let mut changed = self.changed.listen();
        while !self.state.lock().started && self.is_over().is_none() {
            changed.changed().await;
        }
    }

    /// A batch goes to everybody; done when all that are required have it, and this machine.
    async fn ship(&self, batch: &Sealed<'_>) -> bartender_pm::Result<()> {
        let bytes = Bytes::from_owner(Owned(batch.bytes()));
        let (start, end) = (batch.start(), batch.end());
        let mut posted: Vec<(String, Pending<()>)> = Vec::new();
        self.started().await;
        {
            let mut state = self.state.lock();
            if let Some(current) = self.ended(&state) {
                return Err(self.fenced(current));
            }
            debug_assert_eq!(state.written, start);
            for (name, backup) in &mut state.backups {
                if let Some(live) = backup.live.as_mut().filter(|live| live.sent == start) {
                    posted.push((name.clone(), post(live, start, bytes.clone())));
                    live.sent = end;
                }
                backup.behind_since.get_or_insert_with(Instant::now);
            }
            state.counts.commits += batch.last().saturating_sub(state.shipped);
            state.counts.batches += 1;
            state.counts.bytes += end - start;
            state.shipped = batch.last();
            state.leading = Some(Leading { bytes, end });
        }
        let written = batch.write_local();
        {
            let mut state = self.state.lock();
            if written.is_ok() {
                state.written = end;
            }
            state.leading = None;
        }
        written?;
        self.await_required(end, posted).await
    }

    async fn await_required(
        &self,
        end: u64,
        mut posted: Vec<(String, Pending<()>)>,
    ) -> bartender_pm::Result<()> {
        let mut changed = self.changed.listen();
        loop {
            {
                let state = self.state.lock();
                if let Some(current) = self.ended(&state) {
                    return Err(self.fenced(current));
                }
                let missing = state
                    .backups
                    .values()
                    .any(|backup| backup.required && backup.acked < end);
                if !missing || mutant::is("ack_early") {
                    return Ok(());
                }
            }
            let mut news = pin!(changed.changed());
            let (done, broken) = std::future::poll_fn(|context| {
                let (mut done, mut broken) = (Vec::new(), Vec::new());
                posted.retain_mut(|(name, pending)| match Pin::new(pending).poll(context) {
                    Poll::Pending => true,
                    Poll::Ready(Ok(())) => {
                        done.push(name.clone());
                        false
                    }
                    Poll::Ready(Err(error)) => {
                        broken.push((name.clone(), error));
                        false
                    }
                });
                if !done.is_empty() || !broken.is_empty() {
                    return Poll::Ready((done, broken));
                }
                news.as_mut().poll(context).map(|()| (done, broken))
            })
            .await;
            for name in done {
                self.acked(&name, end);
            }
            for (name, error) in broken {
                // Its follower connects anew and sends it again.
                tracing::warn!(region = self.name, backup = name, %error, "a backup is lost");
                if let Some(backup) = self.state.lock().backups.get_mut(&name)
                    && let Some(live) = backup.live.take()
                {
                    live.connection.close();
                }
            }
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

    /// Keeps one backup up to date for as long as this is the primary.
    async fn follow(self: Arc<Self>, region: Region, backup: String, number: u64) {
        while !self.is_dismissed(&backup, number) {
            let followed = tokio::select! {
                biased;
                _ = self.dismissed(&backup, number) => return,
                followed = self.follow_once(&region, &backup, number) => followed,
            };
            if let Err(error) = &followed {
                tracing::debug!(region = self.name, backup, %error, "not followed");
            }
            if self.is_dismissed(&backup, number) {
                return;
            }
            self.backup(&backup, |b| {
                b.live = None;
                if !b.required {
                    b.floor = u64::MAX;
                }
            });
            self.set_floor(&region);
            self.changed.raise();
            let removed = followed.is_ok_and(|removed| removed);
            // One that was too slow is given a while, or commits would wait for it again at once.
            let pause = if removed {
                self.bounds.lag.max(self.bounds.beat)
            } else {
                self.bounds.beat
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether the follower task `number` is to end.
    fn is_dismissed(&self, backup: &str, number: u64) -> bool {
        let state = self.state.lock();
        let now = state.backups.get(backup).map(|backup| backup.number);
        now != Some(number) || self.ended(&state).is_some()
    }

    /// Ready when it is.
    async fn dismissed(&self, backup: &str, number: u64) {
        let mut changed = self.changed.listen();
        while !self.is_dismissed(backup, number) {
            changed.changed().await;
        }
    }

    /// Whether it ended because the backup was removed.
    async fn follow_once(&self, region: &Region, backup: &str, number: u64) -> Result<bool> {
        let picture = self.members.picture();
        let Some(member) = picture.members.get(backup) else {
            self.members.changes(self.bounds.patience).await;
            return Ok(false);
        };
        let connection = self.connect(backup, &member.record.address).await?;
        let (mut position, ring) = match self.attach(region, &connection, backup).await? {
            Some(attached) => attached,
            None => {
                let span = tracing::info_span!("install");
                let installed = self.install(region, &connection, backup);
                installed.instrument(span).await?
            }
        };
        let mut at = position.committed;
        loop {
            let next = {
                let mut state = self.state.lock();
                let (written, leading) = (state.written, state.leading.clone());
                let Some(required) = state.backups.get_mut(backup).filter(|b| b.number == number)
                else {
                    return Ok(true);
                };
                match leading {
                    _ if at < written => None,
                    Some(leading) if at < leading.end => Some(leading.bytes),
                    _ => {
                        let (connection, ring) = (connection.clone(), ring);
                        let sent = at;
                        required.live = Some(Live {
                            connection,
                            ring,
                            sent,
                        });
                        required.required = true;
                        break;
                    }
                }
            };
            let bytes = match next {
                Some(bytes) => bytes,
                None => {
                    let written = self.state.lock().written;
                    blocking(|| region.read_records(at, written, PIECE))?.into()
                }
            };
            let end = at + bytes.len() as u64;
            let mut live = Live {
                connection: connection.clone(),
                ring,
                sent: at,
            };
            post(&mut live, at, bytes)
                .within(self.bounds.patience.max(Duration::from_secs(5)))
                .await?;
            at = end;
            self.acked(backup, end);
        }
        // Also what it had before this connection.
        self.acked(backup, at);
        self.admit(region, backup).await?;
        loop {
            let upto = region.committed();
            let answer = self.ask(&connection, Ask::Commit { upto }, backup).await?;
            (position, _) = self.attached(region, answer, backup)?;
            let required = self.backup(backup, |b| {
                b.floor = position.head;
                (b.required, std::mem::take(&mut b.doubtful))
            });
            self.set_floor(region);
            match required {
                Some((true, false)) => {}
                Some((true, true)) => self.admit(region, backup).await?,
                _ => return Ok(true),
            }
            tokio::select! {
                biased;
                _ = connection.closed() => return Err(self.no_answer(backup, "commit")),
                _ = self.room.notified() => {}
                _ = tokio::time::sleep(self.bounds.beat) => {}
            }
        }
    }

    pub(super) async fn connect(&self, backup: &str, address: &str) -> Result<Connection> {
        let connection = timeout(self.bounds.patience, self.fabric.connect(address)).await;
        Ok(connection.map_err(|_| self.no_answer(backup, "connect"))??)
    }

    /// A connection of its own to a backup that is a member now.
    pub(super) async fn connect_to(&self, backup: &str) -> Result<Connection> {
        match self.members.picture().members.get(backup) {
            Some(member) => self.connect(backup, &member.record.address).await,
            None => Err(self.no_answer(backup, "connect")),
        }
    }

    fn no_answer(&self, backup: &str, operation: &'static str) -> Error {
        Error::Net(bartender_net::Error::TimedOut {
            peer: backup.to_owned(),
            operation,
            millis: self.bounds.patience.as_millis() as u64,
        })
    }

    pub(super) async fn ask(
        &self,
        connection: &Connection,
        ask: Ask,
        backup: &str,
    ) -> Result<Answer> {
        let answered = timeout(self.bounds.patience, async {
            connection.send(ask.encode()).await?;
            loop {
                if let Received::Message(message) = connection.recv().await? {
                    return Ok::<_, Error>(message);
                }
            }
        });
        let message = answered
            .await
            .map_err(|_| self.no_answer(backup, "question"))??;
        Answer::decode(message).ok_or_else(|| {
            Error::Net(bartender_net::Error::BadMessage {
                peer: backup.to_owned(),
                what: "an answer that makes no sense".into(),
            })
        })
    }

    fn attached(
        &self,
        region: &Region,
        answer: Answer,
        backup: &str,
    ) -> Result<(Position, Option<Ring>)> {
        let refused = |reason: String| {
            Error::Net(bartender_net::Error::Refused {
                peer: backup.to_owned(),
                operation: "attach",
                reason,
            })
        };
        match answer {
            Answer::Attached {
                ring: Some(ring), ..
            } if ring.len != region.ring() => Err(refused(format!(
                "its ring has {} bytes, and the log {}",
                ring.len,
                region.ring()
            ))),
            Answer::Attached {
                position,
                ring,
                taker,
            } => {
                self.backup(backup, |b| b.taker = taker);
                Ok((position, ring))
            }
            Answer::Fenced { current } => {
                self.fence(region, current);
                Err(Error::Region(self.fenced(current)))
            }
            Answer::Failed { why } | Answer::Damaged { why } => {
                tracing::warn!(region = self.name, backup, why, "a backup refuses");
                Err(refused(why))
            }
            other => Err(refused(format!("{other:?} is no answer to that"))),
        }
    }

    /// Attaches to a copy that can go on; `None` if it has to be made anew.
    async fn attach(
        &self,
        region: &Region,
        connection: &Connection,
        backup: &str,
    ) -> Result<Option<(Position, Ring)>> {
        let ask = Ask::Attach {
            epoch: self.epoch,
            region: self.name.clone(),
        };
        let answer = self.ask(connection, ask, backup).await?;
        if answer == Answer::Nothing {
            return Ok(None);
        }
        if let Answer::Damaged { why } = &answer {
            tracing::error!(region = self.name, backup, why, "a copy is damaged");
            // It sets it aside when it knows that it does not count.
            self.remove(region, backup).await?;
        }
        let (mut position, mut ring) = self.attached(region, answer, backup)?;
        if position.uuid != region.uuid() && position.tail == 0 {
            // Another one wanted to create the region, and did not.
            return Ok(None);
        }
        if position.uuid != region.uuid() {
            return Err(Error::Diverged {
                region: self.name.clone(),
                member: backup.to_owned(),
                offset: 0,
            });
        }
        let required = self.backup(backup, |b| {
            // Before it is looked how far the log goes back.
            b.floor = b.floor.min(position.committed);
            b.required
        });
        self.set_floor(region);
        let first = region.stream().start;
        if position.committed < first && required == Some(true) {
            // It has what is no longer in the log here: it acknowledged that, or it was in what it was made from.
            let ask = Ask::Commit { upto: first };
            let answer = self.ask(connection, ask, backup).await?;
            (position, ring) = self.attached(region, answer, backup)?;
        }
        let written = self.state.lock().written;
        match ring {
            Some(ring) if (first..=written).contains(&position.committed) => {
                Ok(Some((position, ring)))
            }
            _ => Ok(None),
        }
    }

    /// Makes a new copy on a backup: the home as it is now, and the log from there on.
    async fn install(
        &self,
        region: &Region,
        connection: &Connection,
        backup: &str,
    ) -> Result<(Position, Ring)> {
        if self.backup(backup, |b| b.required) == Some(true) {
            // It lost what it had. Before it is given anything else it must not count.
            self.remove(region, backup).await?;
        }
        self.backup(backup, |b| {
            b.floor = region.stream().start;
            b.acked = 0;
        });
        self.set_floor(region);
        let picture = blocking(|| region.picture())?;
        self.backup(backup, |b| b.floor = picture.head);
        tracing::info!(region = self.name, backup, "a new copy is made");
        self.state.lock().counts.installed += 1;
        let header = Bytes::from(picture.header);
        self.done(connection, Ask::Install { header }, backup)
            .await?;
        let size = picture.home.size();
        let mut offset = 0;
        while offset < size {
            let len = (HOME_PIECE as u64).min(size - offset);
            let mut bytes = vec![0; len as usize];
            blocking(|| picture.home.read(offset, &mut bytes));
            if bytes.iter().any(|&byte| byte != 0) {
                let bytes = Bytes::from(bytes);
                self.done(connection, Ask::Home { offset, bytes }, backup)
                    .await?;
            }
            offset += len;
        }
        let answer = self.ask(connection, Ask::Finish, backup).await?;
        let (position, ring) = self.attached(region, answer, backup)?;
        let ring = ring.ok_or_else(|| self.no_answer(backup, "finish"))?;
        Ok((position, ring))
    }

    async fn done(&self, connection: &Connection, ask: Ask, backup: &str) -> Result<()> {
        match self.ask(connection, ask, backup).await? {
            Answer::Done => Ok(()),
            other => Err(Error::Net(bartender_net::Error::Refused {
                peer: backup.to_owned(),
                operation: "install",
                reason: format!("{other:?}"),
            })),
        }
    }

    /// Has a backup put in sync that has everything, and is required already.
    async fn admit(&self, region: &Region, backup: &str) -> Result<()> {
        loop {
            let mut record = self.record.lock().await;
            if record.record.in_sync.iter().any(|name| name == backup) {
                return Ok(());
            }
            if !record.record.replicas.iter().any(|name| name == backup) {
                // An operator's word; it is dropped in a moment.
                return Err(self.no_answer(backup, "admission"));
            }
            let map = &self.members.map;
            let verdict = map
                .add_to_in_sync(&self.name, &record, &self.me, backup)
                .await;
            if self.learn(region, &mut record, verdict).await? {
                tracing::info!(region = self.name, backup, "in sync");
                return Ok(());
            }
        }
    }

    /// Goes on without a backup, once the coordinator has agreed.
    async fn remove(&self, region: &Region, backup: &str) -> Result<()> {
        loop {
            let mut record = self.record.lock().await;
            let is_in_sync = record.record.in_sync.iter().any(|name| name == backup);
            if is_in_sync && !mutant::is("no_fencing") {
                let map = &self.members.map;
                let verdict = map
                    .remove_from_in_sync(&self.name, &record, &self.me, backup)
                    .await;
                if !self.learn(region, &mut record, verdict).await? {
                    continue;
                }
                tracing::warn!(region = self.name, backup, "removed: not in sync any more");
                self.state.lock().counts.removed += 1;
            }
            self.backup(backup, |b| {
                b.required = false;
                b.floor = u64::MAX;
            });
            self.set_floor(region);
            self.changed.raise();
            return Ok(());
        }
    }

    /// What the coordinator said to a change of the record; whether it was made.
    async fn learn(
        &self,
        region: &Region,
        record: &mut Seen<RegionRecord>,
        verdict: Result<Verdict>,
    ) -> Result<bool> {
        match verdict {
            Ok(Verdict::Done(seen)) => {
                *record = seen;
                Ok(true)
            }
            Ok(Verdict::Refused(Refusal::Changed(seen))) => {
                *record = seen;
                Ok(false)
            }
            Ok(Verdict::Refused(Refusal::Passing)) => Ok(false),
            Ok(Verdict::Refused(other)) => {
                tracing::warn!(region = self.name, ?other, "no primary any more");
                self.fence(region, self.epoch);
                Err(Error::Region(self.fenced(self.epoch)))
            }
            Err(error) => {
                // Whether it was made is unknown, and it may yet be: nothing else before that is settled.
                tracing::warn!(region = self.name, %error, "the coordinator is not heard");
                loop {
                    tokio::time::sleep(self.bounds.beat).await;
                    if let Some(current) = self.is_over() {
                        return Err(Error::Region(self.fenced(current)));
                    }
                    match self.members.map.confirm(&self.name, record, &self.me).await {
                        Ok(Verdict::Done(seen) | Verdict::Refused(Refusal::Changed(seen))) => {
                            *record = seen;
                            return Ok(false);
                        }
                        Ok(Verdict::Refused(Refusal::Passing)) | Err(_) => {}
                        Ok(Verdict::Refused(_)) => {
                            self.fence(region, self.epoch);
                            return Err(Error::Region(self.fenced(self.epoch)));
                        }
                    }
                }
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

    /// What the record says of its replicas, which operators change, holds here from now on.
    fn adapt(self: &Arc<Self>, region: &Region, record: &RegionRecord) {
        let mut state = self.state.lock();
        let dropped: Vec<String> = {
            let names = state.backups.keys();
            names
                .filter(|name| !record.replicas.contains(name))
                .cloned()
                .collect()
        };
        for name in &dropped {
            // Not in sync by the record, so commits need not wait for it.
            tracing::warn!(region = self.name, backup = name, "no replica any more");
            if let Some(live) = state.backups.remove(name).and_then(|backup| backup.live) {
                live.connection.close();
            }
        }
        for name in record.replicas.iter().filter(|name| **name != self.me.name) {
            match state.backups.get_mut(name) {
                // Whether the record is to have it is its follower's to find out.
                Some(backup) => backup.doubtful = backup.required && !record.in_sync.contains(name),
                None => {
                    tracing::info!(region = self.name, backup = name, "a replica from now on");
                    self.begin(&mut state, region, name, false, u64::MAX);
                }
            }
        }
        drop(state);
        self.set_floor(region);
        self.changed.raise();
    }

    /// A backup that could take over at once, and where somebody waits for that.
    pub(crate) async fn successor(&self) -> Option<String> {
        let record = self.record.lock().await.record.clone();
        let picture = self.members.picture();
        let state = self.state.lock();
        let fits = |(name, backup): &(&String, &Backup)| {
            backup.taker
                && backup.required
                && backup.live.is_some()
                && backup.acked >= state.written
                && record.in_sync.contains(name)
                && picture.members.contains_key(*name)
        };
        let found = state.backups.iter().find(fits);
        found.map(|(name, _)| name.clone())
    }

    /// Removes backups that are gone, and follows what others change in the record.
    async fn thin(self: Arc<Self>, region: Region) {
        let mut adapted = 0;
        while self.is_over().is_none() {
            let picture = self.members.picture();
            let policy = {
                let mut record = self.record.lock().await;
                if let Some(seen) = picture.regions.get(&self.name)
                    && seen.record.epoch == self.epoch
                    && seen.revision > record.revision
                {
                    *record = seen.clone();
                }
                if adapted != record.revision && self.is_over().is_none() {
                    adapted = record.revision;
                    self.adapt(&region, &record.record);
                }
                record.record.policy
            };
            let gone: Vec<String> = {
                let state = self.state.lock();
                let is_gone = |(name, backup): &(&String, &Backup)| {
                    let dead = !picture.members.contains_key(*name) && backup.live.is_none();
                    let slow = policy == Policy::Degrade
                        && backup
                            .behind_since
                            .is_some_and(|since| since.elapsed() > self.bounds.lag);
                    backup.required && picture.revision != 0 && (dead || slow)
                };
                let gone = state.backups.iter().filter(is_gone);
                gone.map(|(name, _)| name.clone()).collect()
            };
            for backup in gone {
                tokio::select! {
                    biased;
                    _ = self.over() => return,
                    removed = self.remove(&region, &backup) => if let Err(error) = removed {
                        tracing::warn!(region = self.name, backup, %error, "not removed");
                    },
                }
            }
            tokio::select! {
                biased;
                _ = self.over() => return,
                _ = self.members.changes(self.bounds.beat) => {}
            }
        }
    }
}

/// Writes a piece of the stream to a backup's ring and persists it: one round trip.
fn post(live: &mut Live, at: u64, bytes: Bytes) -> Pending<()> {
    let mut batch = live.connection.batch();
    let mut from = 0;
    let mut ranges = Vec::with_capacity(2);
    for (offset, len) in pieces(live.ring.len, at, bytes.len() as u64) {
        let piece = bytes.slice(from..from + len as usize);
        from += len as usize;
        // Its failure fails the persist as well.
        drop(batch.write(live.ring, offset, piece));
        ranges.push((offset, len));
    }
    let pending = batch.persist(live.ring, ranges);
    batch.post();
    pending
}

#[cfg(test)]
mod tests;

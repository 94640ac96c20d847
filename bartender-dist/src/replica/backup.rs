//! A node's copy of a region, and how it answers the primary.

use super::digest;
use super::layout::{Answer, Ask, MAX_MESSAGE};
use super::ring::Ring;
use crate::error::Result;
use crate::status::NodeStatus;
use crate::store::Store;
use crate::tasks::{Tasks, blocking};
use crate::wish::Wish;
use bartender_net::{Access, Connection, Fabric, MemoryRegion, Received, Roles};
use bartender_pm::sync::{Mutex, MutexGuard};
use bartender_pm::{Error, Installing, MAX_EPOCH, Position, Standby, mutant};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the cluster's record, of this epoch, has this node's copy in sync; or may have, for all that the node knows.
pub(crate) type Counts = Box<dyn Fn(u64) -> bool + Send + Sync>;

/// The place of one copy: while it follows, the standby is in it.
pub(crate) struct Slot {
    region: String,
    store: Arc<dyn Store>,
    counts: Counts,
    copy: Mutex<Copy>,
    checkpointing: AtomicBool,
    tasks: Tasks,
    wish: Arc<Wish>,
}

#[derive(Debug, Default)]
struct Copy {
    standby: Option<Arc<Standby>>,
    installing: Option<Installing>,
    /// Counts attachments. Only the last one may change the copy: what an earlier connection still delivers is of another picture.
    attached: u64,
    /// The epoch of the last one.
    epoch: u64,
    /// This node opens it as the primary.
    reserved: bool,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("region", &self.region)
            .field("copy", &self.copy)
            .finish_non_exhaustive()
    }
}

impl Slot {
    pub(crate) fn new(
        region: &str,
        store: Arc<dyn Store>,
        counts: Counts,
        tasks: Tasks,
        wish: Arc<Wish>,
    ) -> Arc<Slot> {
        Arc::new(Slot {
            region: region.to_owned(),
            store,
            counts,
            copy: Mutex::new(Copy::default()),
            checkpointing: AtomicBool::new(false),
            tasks,
            wish,
        })
    }

    /// Opens the copy, if there is one and it is not open, as one that follows.
    pub(crate) fn open(&self) -> Result<()> {
        let mut copy = self.copy.lock();
        self.open_locked(&mut copy)?;
        copy.reserved = false;
        Ok(())
    }

    fn open_locked(&self, copy: &mut Copy) -> Result<()> {
        if copy.standby.is_none() && copy.installing.is_none() {
            copy.standby = self.store.standby(&self.region)?.map(Arc::new);
        }
        Ok(())
    }

    /// A primary of `epoch` comes: the number of its attachment.
    fn attach(&self, epoch: u64) -> Result<u64, Answer> {
        let failed = |why: String| Answer::Failed { why };
        if epoch > MAX_EPOCH {
            return Err(failed(format!("epoch {epoch} is too large")));
        }
        let mut copy = self.copy.lock();
        if epoch < copy.epoch && !mutant::is("no_fencing") {
            let current = copy.epoch;
            return Err(Answer::Fenced { current });
        }
        if copy.reserved {
            return Err(failed("it is opened here, as the primary's".into()));
        }
        if let Err(error) = self.open_locked(&mut copy) {
            if !is_damage(&error) {
                return Err(failed(error.to_string()));
            }
            // A copy that counts may be the last one that is left, and only damaged. One that does not count is of no use to anybody but
            // who looks into it: whoever is in sync, the primary at least, has everything. That it does not count
            // is the coordinator's word of this very epoch: a primary that is over cannot have it made anew.
            if (self.counts)(epoch) {
                let why = error.to_string();
                return Err(Answer::Damaged { why });
            }
            tracing::error!(region = self.region, %error, "a damaged copy is set aside, and made anew");
            let aside = self.store.set_aside(&self.region);
            aside.map_err(|error| failed(error.to_string()))?;
        }
        copy.attached += 1;
        copy.epoch = epoch;
        Ok(copy.attached)
    }

    /// Nobody follows here any more. What is under way with the copy is its last.
    pub(crate) fn let_go(&self) {
        let mut copy = self.copy.lock();
        (copy.standby, copy.installing) = (None, None);
        copy.attached += 1;
        copy.reserved = true;
    }

    /// Closes the copy, which is to be opened as a primary's. Nobody uses it after this.
    pub(crate) async fn close(&self) {
        let taken = {
            let mut copy = self.copy.lock();
            copy.installing = None;
            copy.attached += 1;
            copy.reserved = true;
            copy.standby.take()
        };
        let Some(mut standby) = taken else { return };
        // A checkpoint, or a piece that is being received.
        loop {
            match Arc::try_unwrap(standby) {
                Ok(_closed) => return,
                Err(used) => standby = used,
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    fn standby(&self) -> Option<Arc<Standby>> {
        self.copy.lock().standby.clone()
    }

    /// How far it is, if there is a copy that follows. That may wait for the disk.
    pub(crate) fn position(&self) -> Option<Position> {
        blocking(|| self.standby().map(|standby| standby.position()))
    }

    /// Everything committed goes home, and a picture of that is taken.
    pub(crate) fn home(&self) -> Option<Arc<bartender_pm::Frozen>> {
        let standby = self.standby()?;
        standby.checkpoint().ok()?;
        standby.freeze().ok()
    }

    /// Takes a piece of the log: returns where it ends.
    pub(super) fn receive(
        self: &Arc<Self>,
        epoch: u64,
        at: u64,
        bytes: &[u8],
    ) -> Result<u64, String> {
        let standby = self.standby().ok_or("there is no copy any more")?;
        let end = standby.receive(epoch, at, bytes).map_err(|error| {
            self.drop_unusable(&standby);
            error.to_string()
        })?;
        if standby.needs_checkpoint() {
            self.checkpoint();
        }
        Ok(end)
    }

    /// A copy whose medium failed: the next primary to attach opens it again.
    fn drop_unusable(&self, standby: &Arc<Standby>) {
        if standby.check_usable().is_err() {
            let mut copy = self.copy.lock();
            copy.standby.take_if(|now| Arc::ptr_eq(now, standby));
        }
    }

    /// Starts a checkpoint beside what goes on.
    fn checkpoint(self: &Arc<Self>) {
        if self.checkpointing.swap(true, Ordering::AcqRel) {
            return;
        }
        let slot = self.clone();
        self.tasks.spawn(async move {
            if let Some(standby) = slot.standby()
                && let Err(error) = blocking(|| standby.checkpoint())
            {
                tracing::error!(region = slot.region, %error, "the copy cannot be written");
                slot.drop_unusable(&standby);
            }
            slot.checkpointing.store(false, Ordering::Release);
        });
    }
}

/// Whether a copy that does not open is damaged: not one that is used, nor something else in its place.
fn is_damage(error: &crate::Error) -> bool {
    use bartender_pm::Error::{Damaged, Truncated};
    matches!(
        error,
        crate::Error::Region(Damaged { .. } | Truncated { .. })
    )
}

/// What one connection is about.
struct Session {
    slot: Arc<Slot>,
    /// Of its attachment.
    number: u64,
    epoch: u64,
    ring: Option<(Arc<Ring>, MemoryRegion)>,
}

/// What a node's connections are answered from.
pub(crate) trait Answers: Send + Sync {
    /// The node's copy of a region.
    fn find(&self, region: &str) -> Option<Arc<Slot>>;
    /// What it says of itself.
    fn status(&self) -> NodeStatus;
    /// A peer was refused.
    fn refused(&self);
}

/// Answers a primary, another backup, or whoever wants to know how the node is, until it goes.
pub(crate) async fn serve(connection: Connection, fabric: Arc<dyn Fabric>, node: Arc<dyn Answers>) {
    let mut session: Option<Session> = None;
    let find = |name: &str| node.find(name);
    while let Ok(received) = connection.recv().await {
        let Received::Message(message) = received else {
            continue;
        };
        let roles = connection.peer().roles;
        let answer = match Ask::decode(message) {
            Ok(Ask::Status) if roles != Roles::NONE => status(&*node),
            // Whoever is in sync asks how far others are; only a primary writes.
            Ok(ask) if !roles.contains(Roles::WRITER) => {
                let peer = &connection.peer().name;
                node.refused();
                tracing::warn!(
                    peer,
                    ?ask,
                    "refused: its certificate does not let it write replicas"
                );
                Answer::Failed {
                    why: "your certificate has no role `writer`".into(),
                }
            }
            Ok(ask @ Ask::Attach { .. }) => {
                let peer = &connection.peer().name;
                let span = tracing::info_span!("attach", peer, ?ask);
                let _inside = span.enter();
                blocking(|| answer(&mut session, ask, &*fabric, &find))
            }
            Ok(ask) => blocking(|| answer(&mut session, ask, &*fabric, &find)),
            Err(why) => {
                tracing::warn!(peer = %connection.peer().name, why, "a bad message");
                Answer::Failed { why }
            }
        };
        if connection.send(answer.encode()).await.is_err() {
            return;
        }
    }
}

fn status(node: &dyn Answers) -> Answer {
    match serde_json::to_vec(&node.status()) {
        Ok(json) if json.len() < MAX_MESSAGE - 16 => Answer::Status { json: json.into() },
        Ok(json) => Answer::Failed {
            why: format!(
                "{} bytes of status are more than one message holds",
                json.len()
            ),
        },
        Err(error) => Answer::Failed {
            why: error.to_string(),
        },
    }
}

fn answer(
    session: &mut Option<Session>,
    ask: Ask,
    fabric: &dyn Fabric,
    find: &impl Fn(&str) -> Option<Arc<Slot>>,
) -> Answer {
    let unknown = |region| Answer::Failed {
        why: format!("no region {region} here"),
    };
    match ask {
        Ask::Digests { ref of, .. } | Ask::Read { ref of, .. } | Ask::Repair { ref of, .. } => {
            match find(&of.region) {
                None => unknown(of.region.clone()),
                Some(slot) => match slot.standby() {
                    None => Answer::Nothing,
                    Some(standby) => {
                        let answer = digest::answer(&standby, ask);
                        slot.drop_unusable(&standby);
                        answer
                    }
                },
            }
        }
        Ask::Query { region } => match find(&region) {
            None => unknown(region),
            Some(slot) => match slot.position() {
                None => Answer::Nothing,
                Some(position) => Answer::Attached {
                    position,
                    ring: None,
                    taker: slot.wish.is_there(),
                },
            },
        },
        Ask::Attach { epoch, region } => {
            let Some(slot) = find(&region) else {
                return unknown(region);
            };
            *session = None;
            let number = match slot.attach(epoch) {
                Ok(number) => number,
                Err(refused) => return refused,
            };
            let session = session.insert(Session {
                slot,
                number,
                epoch,
                ring: None,
            });
            session.attach(fabric)
        }
        other => match session {
            None => Answer::Failed {
                why: "nothing is attached".into(),
            },
            Some(session) => session.answer(other, fabric),
        },
    }
}

impl Session {
    /// The copy, which this session may change.
    fn copy(&self) -> Result<MutexGuard<'_, Copy>, Answer> {
        let copy = self.slot.copy.lock();
        if copy.attached != self.number {
            let why = "another connection has attached since".into();
            return Err(Answer::Failed { why });
        }
        Ok(copy)
    }

    /// Promises the epoch and registers the ring.
    fn attach(&mut self, fabric: &dyn Fabric) -> Answer {
        let Some(standby) = self.slot.standby() else {
            return Answer::Nothing;
        };
        let position = match standby.promise(self.epoch) {
            Ok(position) => position,
            Err(error) => return refused(error),
        };
        let (len, slot) = (standby.ring(), self.slot.clone());
        let Some(ring) = Ring::new(len, slot, self.epoch, position.committed) else {
            let why = format!("there is no memory for {len} bytes of log");
            return Answer::Failed { why };
        };
        let ring = Arc::new(ring);
        match fabric.register(ring.clone(), Access::WRITE) {
            Ok(registered) => {
                let remote = registered.remote();
                self.ring = Some((ring, registered));
                Answer::Attached {
                    position,
                    ring: Some(remote),
                    taker: self.slot.wish.is_there(),
                }
            }
            Err(error) => Answer::Failed {
                why: error.to_string(),
            },
        }
    }

    fn answer(&mut self, ask: Ask, fabric: &dyn Fabric) -> Answer {
        let failed = |why: String| Answer::Failed { why };
        match ask {
            Ask::Commit { upto, room } => {
                let (Some(standby), Some((ring, registered))) = (self.slot.standby(), &self.ring)
                else {
                    return Answer::Nothing;
                };
                let before = standby.position();
                if before.epoch != self.epoch && !mutant::is("no_fencing") {
                    return Answer::Fenced {
                        current: before.epoch,
                    };
                }
                if before.committed < upto && upto > before.tail {
                    return failed(format!("{upto} is committed, and here is {}", before.tail));
                }
                standby.commit(self.epoch, upto);
                let position = standby.position();
                if position.epoch != self.epoch && !mutant::is("no_fencing") {
                    return Answer::Fenced {
                        current: position.epoch,
                    };
                }
                if standby.needs_checkpoint() || room && position.head < position.committed {
                    self.slot.checkpoint();
                }
                ring.go_on_at(position.committed, || standby.expected());
                Answer::Attached {
                    position,
                    ring: Some(registered.remote()),
                    taker: self.slot.wish.is_there(),
                }
            }
            Ask::Install { header } => {
                self.ring = None;
                match self.copy() {
                    Err(refused) => return refused,
                    Ok(mut copy) => {
                        if let Some(standby) = &copy.standby
                            && standby.position().epoch > self.epoch
                        {
                            let current = standby.position().epoch;
                            return Answer::Fenced { current };
                        }
                        (copy.standby, copy.installing) = (None, None);
                    }
                }
                // Others want to know meanwhile how the copy is: it takes as long as a disk takes.
                let begun = self.slot.store.install(&self.slot.region, &header);
                match (self.copy(), begun) {
                    (Ok(mut copy), Ok(installing)) => {
                        copy.installing = Some(installing);
                        Answer::Done
                    }
                    (Err(refused), _) => refused,
                    (_, Err(error)) => failed(error.to_string()),
                }
            }
            Ask::Home { offset, bytes } => match self.copy() {
                Err(refused) => refused,
                Ok(mut copy) => match &mut copy.installing {
                    None => failed("no copy was begun".into()),
                    Some(installing) => match installing.home(offset, &bytes) {
                        Ok(()) => Answer::Done,
                        Err(error) => refused(error),
                    },
                },
            },
            Ask::Finish { header } => {
                let installing = match self.copy() {
                    Ok(mut copy) => copy.installing.take(),
                    Err(refused) => return refused,
                };
                let Some(mut installing) = installing else {
                    return failed("no copy was begun".into());
                };
                let advanced = installing.advance(&header);
                let standby = match advanced.and_then(|()| installing.finish()) {
                    Ok(standby) => standby,
                    Err(error) => return refused(error),
                };
                match self.copy() {
                    Ok(mut copy) => copy.standby = Some(Arc::new(standby)),
                    Err(refused) => return refused,
                }
                self.attach(fabric)
            }
            _ => failed("asked elsewhere".into()),
        }
    }
}

fn refused(error: Error) -> Answer {
    match error {
        Error::Fenced { current, .. } => Answer::Fenced { current },
        other => Answer::Failed {
            why: other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests;

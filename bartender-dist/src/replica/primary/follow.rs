//! The task that follows one backup: connects, brings it up to date, has its copy made anew where that cannot be, makes it
//! live, and then tells it now and then what is committed.

use super::install::Tail;
use super::ship::post;
use super::{Live, Primary};
use crate::error::{Error, Result};
use crate::replica::layout::{Answer, Ask, Ring};
use bartender_net::Connection;
use bartender_pm::{Position, Region};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument;

/// How following a backup ended that was reached.
enum End {
    /// Commits wait for it no more.
    Removed,
    Failed(Error),
}

impl Primary {
    /// Keeps one backup up to date for as long as this is the primary.
    pub(super) async fn follow(self: Arc<Self>, region: Region, backup: String, number: u64) {
        let mut pause = self.bounds.beat;
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
            let required = self.backup(&backup, |b| {
                b.live = None;
                b.required
            });
            self.changed.raise();
            // One that was too slow is given a while, or commits would wait for it again at once; one for which nobody
            // waits, and which fails again and again, gets its log or its copy less often.
            let longest = self.bounds.lag.max(self.bounds.beat);
            pause = match (followed, required) {
                (Ok(End::Removed), _) => longest,
                (Ok(End::Failed(error)), Some(false)) => {
                    tracing::info!(region = self.name, backup, %error, "not brought up to date");
                    (pause * 2).min(longest)
                }
                _ => self.bounds.beat,
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

    /// From connecting to a backup on until that ends; an error if it was not reached.
    async fn follow_once(&self, region: &Region, backup: &str, number: u64) -> Result<End> {
        let picture = self.members.picture();
        let Some(member) = picture.members.get(backup) else {
            self.members.changes(self.bounds.patience).await;
            return Err(self.no_answer(backup, "connect"));
        };
        let connection = self.connect(backup, &member.record.address).await?;
        let followed = self.follow_on(region, connection, backup, number).await;
        Ok(followed.unwrap_or_else(End::Failed))
    }

    async fn follow_on(
        &self,
        region: &Region,
        connection: Connection,
        backup: &str,
        number: u64,
    ) -> Result<End> {
        let (mut position, ring, mut tail) = match self.attach(region, &connection, backup).await? {
            Some((position, ring)) => (position, ring, Tail::from(position.committed)),
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
                    return Ok(End::Removed);
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
                        if !required.required {
                            // Not before it counts.
                            required.behind_since = None;
                        }
                        required.required = true;
                        required.floor = position.head;
                        required.shed = false;
                        break;
                    }
                }
            };
            let bytes: Bytes = match next {
                Some(bytes) => {
                    tail.skip_to(at + bytes.len() as u64);
                    bytes
                }
                None => {
                    self.top_up(region, backup, &mut tail)?;
                    let kept = tail.pop().filter(|_| !tail.is_lost());
                    kept.ok_or_else(|| self.no_answer(backup, "catching up"))?
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
            // What it has taken home need not be kept for it.
            let upto = region.committed().min(at);
            position = self.tell(region, &connection, backup, upto).await?.0;
        }
        self.set_floor(region);
        // Also what it had before this connection.
        self.acked(backup, at);
        if !self.admit(region, backup, number).await? {
            return Ok(End::Removed);
        }
        loop {
            let upto = region.committed();
            let (_, required) = self.tell(region, &connection, backup, upto).await?;
            let goes_on = match required {
                Some((true, false)) => true,
                Some((true, true)) => self.admit(region, backup, number).await?,
                _ => false,
            };
            if !goes_on {
                return Ok(End::Removed);
            }
            tokio::select! {
                biased;
                _ = connection.closed() => return Err(self.no_answer(backup, "commit")),
                _ = self.room.notified() => {}
                _ = tokio::time::sleep(self.bounds.beat) => {}
            }
        }
    }

    /// Tells a backup what is committed: where it is now; and whether commits wait for it, and the record may lack it.
    async fn tell(
        &self,
        region: &Region,
        connection: &Connection,
        backup: &str,
        upto: u64,
    ) -> Result<(Position, Option<(bool, bool)>)> {
        let room = self.backup(backup, |b| std::mem::take(&mut b.room));
        let room = room.unwrap_or(false);
        let ask = Ask::Commit { upto, room };
        let answer = self.ask(connection, ask, backup).await?;
        let (position, _) = self.attached(region, answer, backup)?;
        let required = self.backup(backup, |b| {
            // For others it is kept aside.
            if b.required {
                b.floor = position.head;
            }
            (b.required, std::mem::take(&mut b.doubtful))
        });
        self.set_floor(region);
        Ok((position, required))
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
            b.shed = false;
            b.required
        });
        self.set_floor(region);
        let first = region.stream().start;
        if position.committed < first && required == Some(true) {
            // It has what is no longer in the log here: it acknowledged that, or it was in what it was made from.
            let ask = Ask::Commit {
                upto: first,
                room: false,
            };
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
}

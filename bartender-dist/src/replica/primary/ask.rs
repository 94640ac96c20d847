//! Asking a backup, and what its answers mean.

use super::Primary;
use crate::error::{Error, Result};
use crate::replica::layout::{Answer, Ask, Ring};
use bartender_net::{Connection, Received};
use bartender_pm::{Position, Region};
use tokio::time::timeout;

impl Primary {
    pub(in crate::replica) async fn connect(
        &self,
        backup: &str,
        address: &str,
    ) -> Result<Connection> {
        let connection = timeout(self.bounds.patience, self.fabric.connect(address)).await;
        let connection = connection.map_err(|_| self.no_answer(backup, "connect"))??;
        // What another node acknowledged would be on no copy that counts.
        Ok(connection.expect(backup)?)
    }

    /// A connection of its own to a backup that is a member now.
    pub(in crate::replica) async fn connect_to(&self, backup: &str) -> Result<Connection> {
        match self.members.picture().members.get(backup) {
            Some(member) => self.connect(backup, &member.record.address).await,
            None => Err(self.no_answer(backup, "connect")),
        }
    }

    pub(super) fn no_answer(&self, backup: &str, operation: &'static str) -> Error {
        Error::Net(bartender_net::Error::TimedOut {
            peer: backup.to_owned(),
            operation,
            millis: self.bounds.patience.as_millis() as u64,
        })
    }

    pub(in crate::replica) async fn ask(
        &self,
        connection: &Connection,
        ask: Ask,
        backup: &str,
    ) -> Result<Answer> {
        let answered = timeout(self.bounds.patience, self.exchange(connection, ask, backup));
        let answered = answered.await;
        answered.map_err(|_| self.no_answer(backup, "question"))?
    }

    /// The same without a limit but the connection's, for what takes as long as a disk takes for a whole region.
    pub(super) async fn exchange(
        &self,
        connection: &Connection,
        ask: Ask,
        backup: &str,
    ) -> Result<Answer> {
        connection.send(ask.encode()).await?;
        let message = loop {
            if let Received::Message(message) = connection.recv().await? {
                break message;
            }
        };
        Answer::decode(message).ok_or_else(|| {
            Error::Net(bartender_net::Error::BadMessage {
                peer: backup.to_owned(),
                what: "an answer that makes no sense".into(),
            })
        })
    }

    pub(super) fn attached(
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

    /// That is no refusal.
    pub(super) fn done(&self, answer: Answer, backup: &str) -> Result<()> {
        match answer {
            Answer::Done => Ok(()),
            other => Err(Error::Net(bartender_net::Error::Refused {
                peer: backup.to_owned(),
                operation: "install",
                reason: format!("{other:?}"),
            })),
        }
    }
}

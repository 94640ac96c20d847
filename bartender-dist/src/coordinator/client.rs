//! A coordinator in another process, reached over the fabric.
//!
//! It promises what the trait does, as far as the one that is served does, and that every call ends within a limit of
//! time. It connects when it is asked something, and anew when the connection broke. What was sent and not answered is
//! never repeated, except by a watch, which goes on after the last revision that it gave.

use super::message::{Answer, Request};
use super::pieces::{Assembler, split};
use super::server::POLL;
use super::{
    Change, Changes, Compare, Coordinator, Lease, LeaseId, Snapshot, Transacted, Watch, Watching,
    check_request, check_ttl,
};
use crate::error::{Error, Result};
use bartender_net::{Boxed, Connection, Fabric, Received};
use bartender_pm::sync::Mutex;
use bartender_pm::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Bytes of answers that are not whole yet.
const LONGEST: usize = 256 << 20;

/// A watch that cannot reach the coordinator tries again after this.
const PAUSE: Duration = Duration::from_millis(200);

/// A coordinator that [`serve_coordinator`](crate::serve_coordinator) serves somewhere. Cheap to clone.
#[derive(Clone)]
pub struct RemoteCoordinator(Arc<Remote>);

struct Remote {
    fabric: Arc<dyn Fabric>,
    address: String,
    limit: Duration,
    numbers: AtomicU64,
    /// Held while it connects, so that all who wait get one connection.
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
}

/// One connection. Its task holds it too, until the connection is closed.
struct Session {
    connection: Connection,
    /// Who waits for answers, by the request's number; `None` once it is closed.
    waiting: Mutex<Option<BTreeMap<u64, oneshot::Sender<Answer>>>>,
}

impl fmt::Debug for RemoteCoordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RemoteCoordinator")
            .field(&self.0.address)
            .finish()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Some(session) = self.session.get_mut() {
            session.connection.close();
        }
    }
}

impl Session {
    /// Hands answers out until the connection breaks, or something comes that is no answer.
    async fn run(self: Arc<Session>) {
        let mut pieces = Assembler::new(LONGEST);
        while let Ok(Received::Message(piece)) = self.connection.recv().await {
            let (number, answer) = match pieces.push(piece) {
                Ok(None) => continue,
                Ok(Some((number, bytes))) => match Answer::decode(bytes) {
                    Ok(answer) => (number, answer),
                    Err(_) => break,
                },
                Err(_) => break,
            };
            let waiter = self.waiting.lock().as_mut().and_then(|w| w.remove(&number));
            if let Some(waiter) = waiter {
                // It may just have gone.
                let _ = waiter.send(answer);
            }
        }
        // All who wait hear of it.
        drop(self.waiting.lock().take());
        self.connection.close();
    }

    fn send(&self, number: u64, request: &Request) {
        let mut batch = self.connection.batch();
        for piece in split(number, &request.encode()) {
            // If it fails the connection closes, and that ends the wait for the answer.
            drop(batch.send(piece));
        }
        batch.post();
    }
}

/// A request under way. Dropping it tells the other side that nobody waits any more.
struct Call {
    session: Arc<Session>,
    number: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut waiting = self.session.waiting.lock();
        let unanswered = waiting.as_mut().and_then(|w| w.remove(&self.number));
        drop(waiting);
        if unanswered.is_some() {
            self.session.send(self.number, &Request::Cancel);
        }
    }
}

impl Remote {
    fn failed(&self, what: impl fmt::Display) -> Error {
        Error::Coordinator {
            endpoints: self.address.clone(),
            what: what.to_string(),
        }
    }

    fn unexpected(&self, answer: Answer) -> Error {
        match answer {
            Answer::LeaseEnded(lease) => Error::LeaseEnded { lease },
            Answer::BadRequest(what) => Error::BadRequest { what },
            Answer::Compacted { asked, oldest } => Error::Compacted { asked, oldest },
            Answer::Failed(what) => self.failed(what),
            other => self.failed(format!("an answer to another question: {other:?}")),
        }
    }

    async fn session(&self) -> Result<Arc<Session>> {
        let mut kept = self.session.lock().await;
        if let Some(session) = &*kept
            && session.waiting.lock().is_some()
        {
            return Ok(session.clone());
        }
        // The last one: a name may have it, an address has not.
        let connection = match self.address.rsplit_once('@') {
            Some((name, address)) => self.fabric.connect(address).await?.expect(name)?,
            None => self.fabric.connect(&self.address).await?,
        };
        let session = Arc::new(Session {
            connection,
            waiting: Mutex::new(Some(BTreeMap::new())),
        });
        tokio::spawn(session.clone().run());
        *kept = Some(session.clone());
        Ok(session)
    }

    /// Sends a request, over a new connection if need be.
    async fn post(&self, request: &Request) -> Result<Call> {
        let session = self.session().await?;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        match session.waiting.lock().as_mut() {
            Some(waiting) => drop(waiting.insert(number, sender)),
            None => return Err(self.failed("the connection broke")),
        }
        let call = Call {
            session,
            number,
            answer,
        };
        call.session.send(number, request);
        Ok(call)
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.limit, work).await {
            Ok(result) => result,
            Err(_) => Err(self.failed(format!("no answer within {:?}", self.limit))),
        }
    }

    async fn ask(&self, request: Request) -> Result<Answer> {
        self.within(async {
            let mut call = self.post(&request).await?;
            let answer = (&mut call.answer).await;
            answer.map_err(|_| self.failed("the connection broke"))
        })
        .await
    }
}

impl RemoteCoordinator {
    /// The coordinator at `address`, or at `NAME@ADDRESS`: then it has to be the node of that name that answers, and not just any
    /// of the cluster. Nothing is asked yet. Its tasks run in the runtime of whoever asks first.
    pub fn new(fabric: Arc<dyn Fabric>, address: impl Into<String>) -> RemoteCoordinator {
        RemoteCoordinator::with_limit(fabric, address, Duration::from_secs(5))
    }

    /// The same, with calls that end within `limit`, connecting included, instead of five seconds.
    pub fn with_limit(
        fabric: Arc<dyn Fabric>,
        address: impl Into<String>,
        limit: Duration,
    ) -> RemoteCoordinator {
        RemoteCoordinator(Arc::new(Remote {
            fabric,
            address: address.into(),
            limit,
            numbers: AtomicU64::new(1),
            session: tokio::sync::Mutex::new(None),
        }))
    }
}

impl Coordinator for RemoteCoordinator {
    fn read<'a>(&'a self, prefix: &'a str) -> Boxed<'a, Result<Snapshot>> {
        let prefix = prefix.to_owned();
        Box::pin(async {
            match self.0.ask(Request::Read { prefix }).await? {
                Answer::Snapshot(snapshot) => Ok(snapshot),
                other => Err(self.0.unexpected(other)),
            }
        })
    }

    fn transact(
        &self,
        compares: Vec<Compare>,
        changes: Vec<Change>,
    ) -> Boxed<'_, Result<Transacted>> {
        Box::pin(async move {
            check_request(&compares, &changes)?;
            match self.0.ask(Request::Transact { compares, changes }).await? {
                Answer::Transacted(transacted) => Ok(transacted),
                other => Err(self.0.unexpected(other)),
            }
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: u64) -> Boxed<'a, Result<Watch>> {
        let watcher = Watcher {
            remote: self.0.clone(),
            prefix: prefix.to_owned(),
            after,
            call: None,
        };
        Box::pin(async { Ok(Watch::new(watcher)) })
    }

    fn grant(&self, ttl: Duration) -> Boxed<'_, Result<Lease>> {
        Box::pin(async move {
            let millis = check_ttl(ttl)?;
            match self.0.ask(Request::Grant { millis }).await? {
                Answer::Lease { id, millis } => {
                    let ttl = Duration::from_millis(millis);
                    Ok(Lease { id, ttl })
                }
                other => Err(self.0.unexpected(other)),
            }
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Boxed<'_, Result<Duration>> {
        Box::pin(async move {
            match self.0.ask(Request::KeepAlive(lease)).await? {
                Answer::Beat { millis } => Ok(Duration::from_millis(millis)),
                other => Err(self.0.unexpected(other)),
            }
        })
    }

    fn revoke(&self, lease: LeaseId) -> Boxed<'_, Result<()>> {
        Box::pin(async move {
            match self.0.ask(Request::Revoke(lease)).await? {
                Answer::Done => Ok(()),
                other => Err(self.0.unexpected(other)),
            }
        })
    }
}

/// A watch: all up to `after` was given. What is asked stays asked when a wait is given up.
struct Watcher {
    remote: Arc<Remote>,
    prefix: String,
    after: u64,
    /// With the instant at which the other side is given up.
    call: Option<(Call, Instant)>,
}

impl Watching for Watcher {
    fn next(&mut self) -> Boxed<'_, Result<Changes>> {
        Box::pin(async move {
            loop {
                let Some((call, end)) = &mut self.call else {
                    let request = Request::Next {
                        prefix: self.prefix.clone(),
                        after: self.after,
                    };
                    match self.remote.within(self.remote.post(&request)).await {
                        Ok(call) => {
                            let end = Instant::now() + POLL + self.remote.limit;
                            self.call = Some((call, end));
                        }
                        Err(_) => tokio::time::sleep(PAUSE).await,
                    }
                    continue;
                };
                let answer = match tokio::time::timeout_at(*end, &mut call.answer).await {
                    Ok(answer) => answer.ok(),
                    Err(_) => {
                        // It should have said at least that nothing happened.
                        call.session.connection.close();
                        None
                    }
                };
                self.call = None;
                match answer {
                    Some(Answer::Changes(changes)) => {
                        self.after = changes.revision;
                        return Ok(changes);
                    }
                    Some(Answer::Quiet) => {}
                    Some(other) => return Err(self.remote.unexpected(other)),
                    None => tokio::time::sleep(PAUSE).await,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;

//! A coordinator, served to other processes over the fabric: what `coordinator=HOST:PORT` of a small cluster leads to.
//!
//! It promises that each request is carried out at most once and answered at most once, and that what a peer leaves
//! behind (requests, watches) ends with its connection. It keeps nothing of its own. Who may ask is the fabric's
//! certificates' word: any role may read and watch; a memory node or a writer of logs may also change things.

use super::message::{Answer, Request, millis};
use super::pieces::{Assembler, split};
use super::{Coordinator, MAX_KEY, MAX_PARTS, MAX_VALUES};
use crate::error::Result;
use bartender_net::{Connection, Listener, Received, Roles};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{AbortHandle, JoinSet};

/// A watch without a change is answered so often, so that its asker knows that we are there.
pub(super) const POLL: Duration = Duration::from_secs(5);

/// Requests of one peer that may be under way.
const MOST: usize = 1024;

/// Bytes of requests of one peer that are not whole yet: one of the largest, and some.
const LONGEST: usize = 2 * (MAX_VALUES + MAX_PARTS * (MAX_KEY + 64));

/// Serves `coordinator` to all that connect to `listener`, until the future is dropped.
///
/// # Errors
///
/// When the listener is gone.
pub async fn serve_coordinator(
    coordinator: Arc<dyn Coordinator>,
    listener: Listener,
) -> Result<()> {
    let mut peers = JoinSet::new();
    loop {
        let connection = listener.accept().await?;
        while peers.try_join_next().is_some() {}
        peers.spawn(serve_peer(coordinator.clone(), connection));
    }
}

async fn serve_peer(coordinator: Arc<dyn Coordinator>, connection: Connection) {
    let mut pieces = Assembler::new(LONGEST);
    let mut tasks = JoinSet::new();
    let mut running: BTreeMap<u64, AbortHandle> = BTreeMap::new();
    // Whatever does not make sense ends the connection.
    while let Ok(Received::Message(piece)) = connection.recv().await {
        while let Some(ended) = tasks.try_join_next() {
            if let Ok(number) = ended {
                running.remove(&number);
            }
        }
        let (number, request) = match pieces.push(piece) {
            Ok(None) => continue,
            Ok(Some((number, bytes))) => match Request::decode(bytes) {
                Ok(request) => (number, request),
                Err(_) => break,
            },
            Err(_) => break,
        };
        if request == Request::Cancel {
            if let Some(task) = running.remove(&number) {
                task.abort();
            }
            continue;
        }
        if running.len() >= MOST || running.contains_key(&number) {
            let what = format!("more than {MOST} requests at once, or two of one number");
            answer(&connection, number, &Answer::Failed(what)).await;
            continue;
        }
        let (coordinator, connection) = (coordinator.clone(), connection.clone());
        let task = tasks.spawn(async move {
            let answered = carry_out(&*coordinator, &connection, request).await;
            answer(&connection, number, &answered).await;
            number
        });
        running.insert(number, task);
    }
    connection.close();
}

async fn answer(connection: &Connection, number: u64, answer: &Answer) {
    let mut batch = connection.batch();
    let pieces = split(number, &answer.encode());
    let sent: Vec<_> = pieces
        .into_iter()
        .map(|piece: Bytes| batch.send(piece))
        .collect();
    batch.post();
    // Waits, so that a peer that does not take its answers is not given more. If it is gone, nobody wants to know.
    for sent in sent {
        if sent.await.is_err() {
            return;
        }
    }
}

/// Whether a peer with these roles may ask for it.
fn allowed(roles: Roles, request: &Request) -> bool {
    match request {
        Request::Read { .. } | Request::Next { .. } | Request::Cancel => roles != Roles::NONE,
        Request::Transact { .. }
        | Request::Grant { .. }
        | Request::KeepAlive(_)
        | Request::Revoke(_) => roles.contains(Roles::NODE) || roles.contains(Roles::WRITER),
    }
}

async fn carry_out(
    coordinator: &dyn Coordinator,
    connection: &Connection,
    request: Request,
) -> Answer {
    let peer = connection.peer();
    if !allowed(peer.roles, &request) {
        let what = format!(
            "{} may not do that, its roles are {}",
            peer.name, peer.roles
        );
        return Answer::Failed(what);
    }
    let outcome = match request {
        Request::Read { prefix } => coordinator.read(&prefix).await.map(Answer::Snapshot),
        Request::Transact { compares, changes } => coordinator
            .transact(compares, changes)
            .await
            .map(Answer::Transacted),
        Request::Next { prefix, after } => next(coordinator, &prefix, after).await,
        Request::Grant { millis: ttl } => {
            let granted = coordinator.grant(Duration::from_millis(ttl)).await;
            granted.map(|lease| Answer::Lease {
                id: lease.id,
                millis: millis(lease.ttl),
            })
        }
        Request::KeepAlive(lease) => coordinator.keep_alive(lease).await.map(|ttl| Answer::Beat {
            millis: millis(ttl),
        }),
        Request::Revoke(lease) => coordinator.revoke(lease).await.map(|()| Answer::Done),
        // Was dealt with.
        Request::Cancel => Ok(Answer::Done),
    };
    outcome.unwrap_or_else(Answer::from)
}

async fn next(coordinator: &dyn Coordinator, prefix: &str, after: u64) -> Result<Answer> {
    let mut watch = coordinator.watch(prefix, after).await?;
    match tokio::time::timeout(POLL, watch.next()).await {
        Ok(changes) => changes.map(Answer::Changes),
        Err(_) => Ok(Answer::Quiet),
    }
}

//! Those who are proving who they are at a listening end.
//!
//! Whoever reaches the port may begin, so only so many are under way at once, and each for a limited time. One more
//! makes room by ending the oldest: peers that say nothing are the oldest soon, and cannot keep out who does what it
//! should; to do so they would have to be that many anew in the time that a handshake takes. What is said about those
//! that were turned away is no more than a line a second.

use crate::error::{Error, Result};
use crate::fabric::Connection;
use bartender_pm::sync::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Handshakes of one listening end. They end with it.
pub(crate) struct Handshakes {
    handle: Handle,
    limit: Duration,
    most: usize,
    /// The oldest first.
    under_way: VecDeque<AbortHandle>,
    accepted: mpsc::Sender<Connection>,
    refusals: Arc<Refusals>,
}

impl Handshakes {
    /// At most `most` at once, each for no longer than `limit`. Connections that were authenticated wait in the channel until
    /// the program accepts them; the handshakes of those for which there is no room there are not over.
    pub(crate) fn new(
        handle: Handle,
        most: usize,
        limit: Duration,
    ) -> (Handshakes, mpsc::Receiver<Connection>) {
        let most = most.max(1);
        let (accepted, receiver) = mpsc::channel(most);
        let handshakes = Handshakes {
            handle,
            limit,
            most,
            under_way: VecDeque::new(),
            accepted,
            refusals: Arc::default(),
        };
        (handshakes, receiver)
    }

    /// Starts one.
    pub(crate) fn start(
        &mut self,
        peer: String,
        handshake: impl Future<Output = Result<Connection>> + Send + 'static,
    ) {
        self.under_way.retain(|task| !task.is_finished());
        while self.under_way.len() >= self.most
            && let Some(oldest) = self.under_way.pop_front()
        {
            oldest.abort();
            self.refusals.tell("made room for others");
        }
        let (limit, accepted) = (self.limit, self.accepted.clone());
        let refusals = self.refusals.clone();
        let shaking = async move {
            let connected = async {
                let connection = handshake.await?;
                // Nobody listens any more where that fails; dropping the connection closes it.
                let _ = accepted.send(connection).await;
                Ok::<(), Error>(())
            };
            match tokio::time::timeout(limit, connected).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => refusals.tell_of(&peer, &error),
                Err(_) => refusals.tell_of(&peer, &"no proof in time, or nobody accepts"),
            }
        };
        let task = self.handle.spawn(shaking);
        self.under_way.push_back(task.abort_handle());
    }
}

impl Drop for Handshakes {
    fn drop(&mut self) {
        for task in &self.under_way {
            task.abort();
        }
    }
}

/// How often it is said that somebody was turned away.
const EVERY: Duration = Duration::from_secs(1);

/// Says it, at most once in a while.
#[derive(Default)]
struct Refusals(Mutex<Said>);

#[derive(Default)]
struct Said {
    last: Option<Instant>,
    unsaid: u64,
}

impl Refusals {
    fn tell_of(&self, peer: &str, why: &dyn std::fmt::Display) {
        if let Some(others) = self.now() {
            tracing::warn!(peer, others, %why, "turned away");
        }
    }

    fn tell(&self, why: &str) {
        if let Some(others) = self.now() {
            tracing::warn!(others, why, "turned away");
        }
    }

    /// Whether it is time, and how many were not spoken of meanwhile.
    fn now(&self) -> Option<u64> {
        let mut said = self.0.lock();
        if said.last.is_some_and(|last| last.elapsed() < EVERY) {
            said.unsaid += 1;
            return None;
        }
        said.last = Some(Instant::now());
        Some(std::mem::take(&mut said.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::sync::oneshot;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_makes_room_and_the_others_stay() {
        let limit = Duration::from_secs(60);
        let (mut handshakes, _accepted) = Handshakes::new(Handle::current(), 3, limit);
        let mut ends = Vec::new();
        for i in 0..5 {
            let (alive, end) = oneshot::channel::<()>();
            ends.push(end);
            handshakes.start(i.to_string(), async move {
                let _alive = alive;
                pending().await
            });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let over: Vec<bool> = ends
            .iter_mut()
            .map(|end| end.try_recv() != Err(oneshot::error::TryRecvError::Empty))
            .collect();
        assert_eq!(over, [true, true, false, false, false]);
        tokio::time::sleep(limit).await;
        assert!(
            ends.iter_mut()
                .all(|end| end.try_recv() == Err(oneshot::error::TryRecvError::Closed))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_a_second_says_how_many_there_were() {
        let refusals = Refusals::default();
        assert_eq!(refusals.now(), Some(0));
        for _ in 0..1000 {
            assert_eq!(refusals.now(), None);
        }
        tokio::time::advance(EVERY).await;
        assert_eq!(refusals.now(), Some(1000));
        assert_eq!(refusals.now(), None);
        tokio::time::advance(EVERY).await;
        assert_eq!(refusals.now(), Some(1));
    }
}

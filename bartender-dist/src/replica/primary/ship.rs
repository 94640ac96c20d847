//! Shipping: who leads a batch posts it to every live backup, writes it here meanwhile, and finishes it when all that
//! are required have it.

use super::{Leading, Live, Primary};
use crate::replica::ring::pieces;
use crate::tasks::block_on;
use bartender_net::Pending;
use bartender_pm::{Region, Replication, Sealed, mutant};
use bytes::Bytes;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

struct Owned(Arc<Vec<u8>>);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Replication for Primary {
    fn lead(&self, batch: Sealed<'_>) -> bartender_pm::Result<()> {
        let shipped = block_on(self.ship(&batch));
        batch.finish(shipped)
    }

    fn make_room(&self) {
        let mut state = self.state.lock();
        state.short = true;
        state.backups.values_mut().for_each(|b| b.room = true);
        drop(state);
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
    /// As [`flush`](Self::flush), by a task of its own: who waits may go away, and whoever leads a batch has to finish it.
    pub(crate) async fn flush_apart(self: &Arc<Self>, region: &Region) -> bartender_pm::Result<()> {
        if region.durable_seq() >= region.last_seq() {
            return Ok(());
        }
        let region = region.clone();
        let flushed = self.apart(|me| async move { me.flush(&region).await });
        flushed.await.unwrap_or_else(Err)
    }

    /// Runs what must not be cancelled by a task of its own; an error if that ended with the node.
    pub(in crate::replica) async fn apart<T, F>(
        self: &Arc<Self>,
        run: impl FnOnce(Arc<Self>) -> F,
    ) -> bartender_pm::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (sender, done) = oneshot::channel();
        let running = run(self.clone());
        self.tasks.spawn(async move {
            let _ = sender.send(running.await);
        });
        done.await.map_err(|_| self.fenced(self.epoch))
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
}

/// Longest write: no fabric takes any length at once, and a record may be as long as the log.
const WRITE: u64 = 16 << 20;

/// Writes a piece of the stream to a backup's ring and persists it: one round trip.
pub(super) fn post(live: &mut Live, at: u64, bytes: Bytes) -> Pending<()> {
    let mut batch = live.connection.batch();
    let mut from = 0;
    let mut ranges = Vec::with_capacity(2);
    for (offset, len) in pieces(live.ring.len, at, bytes.len() as u64) {
        let mut piece = bytes.slice(from..from + len as usize);
        from += len as usize;
        let mut at = offset;
        while !piece.is_empty() {
            let part = piece.split_to(piece.len().min(WRITE as usize));
            let next = at + part.len() as u64;
            // Its failure fails the persist as well.
            drop(batch.write(live.ring, at, part));
            at = next;
        }
        ranges.push((offset, len));
    }
    let pending = batch.persist(live.ring, ranges);
    batch.post();
    pending
}

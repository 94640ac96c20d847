//! A batch that somebody leads, and the seam to whoever ships it to other machines.
//!
//! A replicated region has one stream. Its leader gives each batch to
//! [`Replication::lead`], which writes it to the local log and to every
//! replica's, at the same offset, in parallel, and finishes it when all of them
//! have it: then, and not before, its commits are answered and its numbers are
//! durable. This crate knows no network.

use super::{Log, append_ring};
use crate::error::{Error, Result};
use crate::medium::Medium;
use crate::sync::atomic::Ordering;
use std::fmt;
use std::sync::Arc;

/// Ships the log of a region.
pub trait Replication: Send + Sync + fmt::Debug + 'static {
    /// Makes a batch durable here and on every replica that has to have it, and finishes it. Blocks the calling
    /// thread, which is one that commits; one batch at a time.
    ///
    /// # Errors
    ///
    /// `Fenced` when another machine has taken over, or what [`Sealed::write_local`] met: the region is poisoned.
    fn lead(&self, batch: Sealed<'_>) -> Result<()>;

    /// The log is full, and replicas keep the space: ask them how far they are.
    fn make_room(&self) {}

    /// Whether what is read here is the latest: the lease of this machine has not ended.
    ///
    /// # Errors
    ///
    /// `Fenced`.
    fn check_current(&self) -> Result<()> {
        Ok(())
    }
}

/// A batch of the stream whose leader the holder is: nobody else writes before it is finished. Dropping it
/// unfinished poisons the region: whether its records are durable is unknown.
#[derive(Debug)]
pub struct Sealed<'l> {
    pub(super) log: &'l Log,
    pub(super) medium: &'l dyn Medium,
    pub(super) bytes: Arc<Vec<u8>>,
    pub(super) start: u64,
    pub(super) last: u64,
    pub(super) settles: Option<(u64, u64)>,
    pub(super) finished: bool,
}

impl Sealed<'_> {
    /// Where it starts in the stream: an absolute offset, the same on every replica.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Where it ends.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Number of its last record.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Its records, one behind the other.
    pub fn bytes(&self) -> Arc<Vec<u8>> {
        self.bytes.clone()
    }

    /// Writes it to the log of this machine, durably: one barrier.
    ///
    /// # Errors
    ///
    /// The medium's. Give it to [`finish`](Self::finish).
    pub fn write_local(&self) -> Result<()> {
        append_ring(self.medium, &self.log.lanes[0], self.start, &self.bytes)
    }

    /// Answers everybody who waits for it: it is durable wherever it has to be, or never will be, and the region is
    /// poisoned.
    ///
    /// # Errors
    ///
    /// The one that was given.
    pub fn finish(mut self, written: Result<()>) -> Result<()> {
        self.end_with(written)
    }

    fn end_with(&mut self, written: Result<()>) -> Result<()> {
        self.finished = true;
        let log = self.log;
        let written = match written {
            Ok(()) => {
                if let Some((seq, end)) = self.settles {
                    log.lanes[0].tail.store(end, Ordering::Release);
                    log.settled.store(seq, Ordering::Release);
                }
                log.durable.store(self.last, Ordering::Release);
                Ok(())
            }
            Err(error) => Err(log.poison(error)),
        };
        // The buffer is used again, unless it is still on its way to somebody.
        let bytes = std::mem::take(&mut self.bytes);
        if let Ok(mut bytes) = Arc::try_unwrap(bytes) {
            bytes.clear();
            log.batch.lock().spare = bytes;
        }
        log.leading.store(false, Ordering::Release);
        log.written.advance();
        written
    }
}

impl Drop for Sealed<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let gave_up = Error::Poisoned {
                path: self.medium.path().into(),
                cause: "whoever wrote the log gave up".into(),
            };
            // Who ships knows whether it gave up because somebody else may go on.
            let over = self.log.replication().map(|by| by.check_current());
            let _ = self.end_with(over.unwrap_or(Ok(())).and(Err(gave_up)));
        }
    }
}

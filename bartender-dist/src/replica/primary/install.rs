//! Making the copy of a backup anew: commits go on meanwhile, and wait for nothing of it.
//!
//! While the home is copied, what is logged is read and kept aside ([`Tail`]), so that the log can be used again. Where that is too
//! much, or comes too fast, it is given up, and there is one more round: what has changed in the home until a later [`Picture`].

use super::Primary;
use crate::error::Result;
use crate::replica::layout::{Ask, HOME_PIECE, Ring};
use crate::tasks::blocking;
use bartender_net::Connection;
use bartender_pm::{Frozen, Picture, Position, Region};
use bytes::Bytes;
use std::collections::VecDeque;
use std::iter::once;
use std::ops::Range;
use std::pin::pin;

/// Bytes of log that are kept aside for one backup at most.
const KEPT: u64 = 256 << 20;

/// Bytes of log that are read at once.
const PIECE: u64 = 1 << 20;

/// The log from some offset on, kept aside for a backup that is being brought up to date.
#[derive(Debug)]
pub(super) struct Tail {
    /// Up to where it was read.
    at: u64,
    pieces: VecDeque<Bytes>,
    bytes: u64,
    /// The log was used again before it was read.
    lost: bool,
}

impl Tail {
    pub(super) fn from(at: u64) -> Tail {
        Tail {
            at,
            pieces: VecDeque::new(),
            bytes: 0,
            lost: false,
        }
    }

    /// The oldest piece: whole records.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front()?;
        self.bytes -= piece.len() as u64;
        Some(piece)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Everything was popped, and what came behind it up to `at` is not wanted from here.
    pub(super) fn skip_to(&mut self, at: u64) {
        debug_assert!(self.pieces.is_empty() && self.at <= at);
        self.at = at;
    }
}

impl Primary {
    /// Reads what was logged since, and lets the log be used again up to there. For one that counts the log itself is kept, and only the
    /// next piece is read.
    pub(super) fn top_up(&self, region: &Region, backup: &str, tail: &mut Tail) -> Result<()> {
        let most = match self.backup(backup, |b| b.required) {
            Some(true) => 1,
            _ => KEPT,
        };
        // Not what is written while this reads: commits may be as fast, and what the caller waits for has its turn.
        let written = self.state.lock().written;
        while !tail.lost && tail.bytes < most && tail.at < written {
            let read = blocking(|| region.read_records(tail.at, written, PIECE));
            // Looked at afterwards: it may have been used again while it was read.
            tail.lost = self.is_shed(backup);
            if tail.lost {
                break;
            }
            let piece = Bytes::from(read?);
            tail.at += piece.len() as u64;
            tail.bytes += piece.len() as u64;
            tail.pieces.push_back(piece);
            self.backup(backup, |b| {
                if !b.required && !b.shed {
                    b.floor = tail.at;
                }
            });
            self.set_floor(region);
        }
        tail.lost |= self.is_shed(backup);
        Ok(())
    }

    /// Does something, and keeps what is logged meanwhile.
    async fn keeping<T>(
        &self,
        region: &Region,
        backup: &str,
        tail: &mut Tail,
        doing: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut doing = pin!(doing);
        loop {
            tokio::select! {
                biased;
                done = &mut doing => return done,
                _ = tokio::time::sleep(self.bounds.beat / 4) => self.top_up(region, backup, tail)?,
            }
        }
    }

    /// Makes a new copy on a backup: the home, and the log from there on.
    pub(super) async fn install(
        &self,
        region: &Region,
        connection: &Connection,
        backup: &str,
    ) -> Result<(Position, Ring, Tail)> {
        if self.backup(backup, |b| b.required) == Some(true) {
            // It lost what it had. Before it is given anything else it must not count.
            self.remove(region, backup).await?;
        }
        tracing::info!(region = self.name, backup, "a new copy is made");
        self.state.lock().counts.installed += 1;
        let mut before: Option<Picture> = None;
        loop {
            let picture = self.take_picture(region, backup)?;
            let mut tail = Tail::from(picture.head);
            let copied = self.copy_picture(connection, &picture, before.take(), backup);
            self.keeping(region, backup, &mut tail, copied).await?;
            if tail.lost {
                tracing::info!(region = self.name, backup, "one more round");
                before = Some(picture);
                continue;
            }
            let header = picture.header.clone().into();
            drop(picture);
            let finished = self.exchange(connection, Ask::Finish { header }, backup);
            let answer = self.keeping(region, backup, &mut tail, finished).await?;
            let (position, ring) = self.attached(region, answer, backup)?;
            let ring = ring.ok_or_else(|| self.no_answer(backup, "finish"))?;
            return Ok((position, ring, tail));
        }
    }

    /// Sends all of a picture, or what has changed since the one before.
    async fn copy_picture(
        &self,
        connection: &Connection,
        picture: &Picture,
        before: Option<Picture>,
        backup: &str,
    ) -> Result<()> {
        let Some(before) = before else {
            let header = picture.header.clone().into();
            let begun = self.exchange(connection, Ask::Install { header }, backup);
            self.done(begun.await?, backup)?;
            let all = once(0..picture.home.size());
            return self
                .copy(connection, &picture.home, all, false, backup)
                .await;
        };
        let changed = joined(before.home.changed().map(|page| page..page + 4096));
        let grown = once(before.home.size()..picture.home.size());
        drop(before);
        self.copy(connection, &picture.home, changed, true, backup)
            .await?;
        self.copy(connection, &picture.home, grown, false, backup)
            .await
    }

    /// A picture, from which on the log is kept for the backup while there is room for that.
    fn take_picture(&self, region: &Region, backup: &str) -> Result<Picture> {
        self.backup(backup, |b| {
            b.floor = region.stream().start;
            b.acked = 0;
            b.shed = false;
        });
        self.set_floor(region);
        let picture = blocking(|| region.picture())?;
        self.backup(backup, |b| {
            if !b.shed {
                b.floor = picture.head;
            }
        });
        Ok(picture)
    }

    /// Sends ranges of a picture; zeroes only if `all`.
    async fn copy(
        &self,
        connection: &Connection,
        home: &Frozen,
        ranges: impl IntoIterator<Item = Range<u64>>,
        all: bool,
        backup: &str,
    ) -> Result<()> {
        for range in ranges {
            let mut offset = range.start;
            while offset < range.end {
                let len = (HOME_PIECE as u64).min(range.end - offset);
                let mut bytes = vec![0; len as usize];
                blocking(|| home.read(offset, &mut bytes));
                if all || bytes.iter().any(|&byte| byte != 0) {
                    let bytes = Bytes::from(bytes);
                    let piece = Ask::Home { offset, bytes };
                    // One of them waits for a barrier now and then.
                    let answer = self.exchange(connection, piece, backup).await?;
                    self.done(answer, backup)?;
                }
                offset += len;
            }
        }
        Ok(())
    }
}

/// Rising ranges, neighbours joined.
fn joined(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}

//! Making the copy of a backup anew, in rounds (see [`Picture`]): commits go on meanwhile, and wait for nothing of it.

use super::Primary;
use crate::error::Result;
use crate::replica::layout::{Ask, HOME_PIECE, Ring};
use crate::tasks::blocking;
use bartender_net::Connection;
use bartender_pm::{Frozen, Picture, Position, Region};
use bytes::Bytes;
use std::ops::Range;

/// After so many rounds the log will have to do, however much has changed during the last one.
const ROUNDS: u32 = 16;

impl Primary {
    /// Makes a new copy on a backup: the home, and where the log goes on from there.
    pub(super) async fn install(
        &self,
        region: &Region,
        connection: &Connection,
        backup: &str,
    ) -> Result<(Position, Ring)> {
        if self.backup(backup, |b| b.required) == Some(true) {
            // It lost what it had. Before it is given anything else it must not count.
            self.remove(region, backup).await?;
        }
        tracing::info!(region = self.name, backup, "a new copy is made");
        self.state.lock().counts.installed += 1;
        let mut before: Option<Picture> = None;
        let mut round = 0;
        let last = loop {
            let picture = self.take_picture(region, backup)?;
            let copied = match before {
                None => {
                    let header = picture.header.clone().into();
                    let begun = self
                        .exchange(connection, Ask::Install { header }, backup)
                        .await?;
                    self.done(begun, backup)?;
                    let all = std::iter::once(0..picture.home.size());
                    self.copy(connection, &picture.home, all, false, backup)
                        .await?
                }
                Some(before) => {
                    let changed = before.home.changed().map(|page| page..page + 4096);
                    let grown = before.home.size()..picture.home.size();
                    let ranges = joined(changed);
                    drop(before);
                    let changed = self.copy(connection, &picture.home, ranges, true, backup);
                    let changed = changed.await?;
                    let grown = std::iter::once(grown);
                    changed
                        + self
                            .copy(connection, &picture.home, grown, false, backup)
                            .await?
                }
            };
            round += 1;
            let few = copied <= region.ring() / 4 || round >= ROUNDS;
            if few && !self.is_shed(backup) {
                break picture;
            }
            tracing::debug!(region = self.name, backup, round, copied, "copied");
            before = Some(picture);
        };
        let header = last.header.clone().into();
        let answer = self
            .exchange(connection, Ask::Finish { header }, backup)
            .await?;
        let (position, ring) = self.attached(region, answer, backup)?;
        let ring = ring.ok_or_else(|| self.no_answer(backup, "finish"))?;
        Ok((position, ring))
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

    /// Sends ranges of a picture; zeroes only if `all`. Returns the bytes that were sent.
    async fn copy(
        &self,
        connection: &Connection,
        home: &Frozen,
        ranges: impl IntoIterator<Item = Range<u64>>,
        all: bool,
        backup: &str,
    ) -> Result<u64> {
        let mut sent = 0;
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
                    sent += len;
                }
                offset += len;
            }
        }
        Ok(sent)
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

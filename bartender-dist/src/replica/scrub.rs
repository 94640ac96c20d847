//! The primary compares the homes of all replicas in sync with its own, and has damaged pages written again.
//!
//! When two homes are the same, and why repairing one from another is safe at any time, is said in `bartender_pm`'s
//! `scrub`. A *pass* goes through the home in segments: the primary takes its home to some number, asks every backup that is in sync for
//! the digests of its own as of that number, and where they differ for those of the pages. Somebody's home may have gone on meanwhile: then
//! the segment is compared again, as of a later number.
//!
//! Who is believed is said in `findings`. Where nobody is, nothing is overwritten: it is reported, and
//! [`repair_from`](crate::Serving::repair_from) is for whoever knows better.

use super::digest::{self, Digest, SEGMENT};
use super::findings::{LISTED, Repaired, Scrubbed, Trust, Undecided, Unrepaired, Verdict, judge};
use super::layout::{Answer, AsOf, Ask};
use super::primary::Primary;
use crate::error::{Error, Result};
use crate::tasks::blocking;
use bartender_net::Connection;
use bartender_pm::{Region, SCRUB_PAGE};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// How often a segment is tried, each time as of another number, before it is left for the next pass.
const TRIES: u32 = 50;

/// How often who does not answer is asked again.
const SILENCES: u32 = 5;

/// How often it is tried to make the view show a page that was repaired.
const HEALS: u32 = 100;

/// Why a segment was not compared as of some number.
enum Not {
    /// Somebody's home is further by now.
    Passed,
    /// Somebody's is not there yet.
    Behind,
    Error(Error),
}

impl From<Error> for Not {
    fn from(error: Error) -> Not {
        Not::Error(error)
    }
}

impl From<bartender_pm::Error> for Not {
    fn from(error: bartender_pm::Error) -> Not {
        Not::Error(error.into())
    }
}

/// A pass under way.
struct Pass<'a> {
    primary: &'a Primary,
    region: &'a Region,
    trust: Trust<'a>,
    /// As of when is compared: number, and where its record ends. Kept for as long as all homes stay there.
    as_of: Option<(u64, u64)>,
    connections: BTreeMap<String, Connection>,
    /// Of the segment, as of the number with which it is tried: copies that are in sync and have not answered, and what cannot be repaired.
    silent: BTreeSet<String>,
    /// Those that were silent to the end for the last one.
    given_up: BTreeSet<String>,
    undecided: Vec<Undecided>,
    unrepaired: Vec<Unrepaired>,
    report: Scrubbed,
}

impl Primary {
    /// As [`scrub`](Self::scrub), by a task of its own: who waits may go away, and what is being repaired is repaired to the end. With
    /// `member`, that one is right.
    pub(crate) async fn scrub_apart(
        self: &Arc<Self>,
        region: &Region,
        range: Range<u64>,
        member: Option<String>,
    ) -> Result<Scrubbed> {
        let region = region.clone();
        let scrubbed = self.apart(|me| async move {
            let trust = member.as_deref().map_or(Trust::Majority, Trust::Member);
            me.scrub(&region, range, None, trust).await
        });
        scrubbed.await.unwrap_or_else(|over| Err(over.into()))
    }

    /// Compares `range` of the home, or all of it, at `pace` bytes a second. Not to be cancelled, as [`flush`](Self::flush).
    async fn scrub(
        &self,
        region: &Region,
        range: Range<u64>,
        pace: Option<u64>,
        trust: Trust<'_>,
    ) -> Result<Scrubbed> {
        let _one = self.scrubbing.lock().await;
        let mut pass = Pass {
            primary: self,
            region,
            trust,
            as_of: None,
            connections: BTreeMap::new(),
            silent: BTreeSet::new(),
            given_up: BTreeSet::new(),
            undecided: Vec::new(),
            unrepaired: Vec::new(),
            report: Scrubbed::default(),
        };
        tokio::select! {
            biased;
            current = self.over() => {
                let epoch = self.epoch;
                return Err(bartender_pm::Error::Fenced { epoch, current }.into());
            }
            passed = pass.go_through(range.clone(), pace) => passed?,
        }
        for connection in pass.connections.values() {
            connection.close();
        }
        let mut report = pass.report;
        report.totals.passes = u64::from(range.start == 0 && range.end == u64::MAX);
        self.count_scrub(report.totals);
        Ok(report)
    }

    /// Pass after pass, for as long as this is the primary.
    pub(crate) async fn scrub_on(&self, region: &Region, every: Duration, pace: u64) {
        // A reign may be short.
        let mut pause = every / 10;
        loop {
            tokio::select! {
                biased;
                _ = self.over() => return,
                _ = sleep(pause) => {}
            }
            pause = every;
            match self
                .scrub(region, 0..u64::MAX, Some(pace), Trust::Majority)
                .await
            {
                Ok(report) => {
                    let (region, totals, skipped) = (self.name(), report.totals, report.skipped);
                    tracing::info!(region, ?totals, skipped, "all copies were compared");
                }
                Err(error) => {
                    tracing::warn!(region = self.name(), %error, "copies were not compared");
                }
            }
        }
    }
}

impl Pass<'_> {
    async fn go_through(&mut self, range: Range<u64>, pace: Option<u64>) -> Result<()> {
        let mut offset = range.start / SCRUB_PAGE * SCRUB_PAGE;
        loop {
            let last = range.end.min(self.region.size());
            if offset >= last {
                return Ok(());
            }
            let end = (offset + SEGMENT).min(last).next_multiple_of(SCRUB_PAGE);
            self.segment(offset..end).await?;
            match pace {
                None => tokio::task::yield_now().await,
                Some(pace) => {
                    let micros = (end - offset).saturating_mul(1_000_000) / pace.max(1);
                    sleep(Duration::from_micros(micros)).await;
                }
            }
            offset = end;
        }
    }

    async fn segment(&mut self, range: Range<u64>) -> Result<()> {
        let len = range.end - range.start;
        let (mut compared, mut silences) = (false, 0);
        for _ in 0..TRIES {
            self.silent.clear();
            self.undecided.clear();
            self.unrepaired.clear();
            match self.compare(range.clone()).await {
                // Perhaps its connection was lost, and it can be reached again.
                Ok(()) if self.silent.len() > self.given_up.len() && silences < SILENCES => {
                    silences += 1;
                    sleep(self.primary.beat() * silences).await;
                }
                Ok(()) => {
                    compared = self.silent.is_empty();
                    self.given_up.clone_from(&self.silent);
                    break;
                }
                Err(Not::Error(error)) => return Err(error),
                Err(Not::Passed) => self.as_of = None,
                Err(Not::Behind) => {}
            }
            self.primary.hasten();
            sleep(self.primary.beat() / 4).await;
        }
        let report = &mut self.report;
        if compared {
            report.compared += len;
            report.totals.compared += len;
        } else {
            report.skipped += len;
        }
        let region = self.primary.name();
        for found in self.undecided.drain(..) {
            tracing::error!(region, ?found, "copies differ, and none has a majority");
            report.totals.undecided += 1;
            if report.undecided.len() < LISTED {
                report.undecided.push(found);
            }
        }
        for found in self.unrepaired.drain(..) {
            tracing::error!(region, ?found, "a page is damaged");
            report.totals.unrepaired += 1;
            if report.unrepaired.len() < LISTED {
                report.unrepaired.push(found);
            }
        }
        Ok(())
    }

    fn of(&self, (number, upto): (u64, u64)) -> AsOf {
        AsOf {
            region: self.primary.name().to_owned(),
            epoch: self.primary.epoch,
            number,
            upto,
        }
    }

    async fn compare(&mut self, range: Range<u64>) -> Result<(), Not> {
        let as_of = match self.as_of {
            Some(as_of) => as_of,
            None => {
                let as_of = blocking(|| self.region.settle_home())?;
                // Backups hear at once what is committed.
                self.primary.hasten();
                *self.as_of.insert(as_of)
            }
        };
        let backups = self.primary.required();
        let in_sync = backups.len() + 1;
        let len = range.end - range.start;
        let whole = self
            .digests(&backups, as_of, range.start, len, 1, &BTreeSet::new())
            .await?;
        self.report.members.extend(whole.keys().cloned());
        let first = whole.values().next().and_then(|digests| digests[0]);
        if first.is_some() && whole.values().all(|digests| digests[0] == first) {
            return Ok(());
        }
        if let Trust::Member(name) = self.trust
            && !whole.contains_key(name)
        {
            self.silent.insert(name.to_owned());
            return Ok(());
        }
        let silent = self.silent.clone();
        let (start, count) = (range.start, len / SCRUB_PAGE);
        let pages = self
            .digests(&backups, as_of, start, SCRUB_PAGE, count, &silent)
            .await?;
        for i in 0..count as usize {
            let copies: BTreeMap<String, Digest> = pages
                .iter()
                .map(|(name, digests)| (name.clone(), digests[i]))
                .collect();
            let offset = start + i as u64 * SCRUB_PAGE;
            let first = copies.values().next().copied().flatten();
            let same = first.is_some() && copies.values().all(|&digest| digest == first);
            if same {
                continue;
            }
            match judge(&copies, in_sync, self.trust) {
                Verdict::Same => {}
                Verdict::Undecided => {
                    let copies = copies.into_iter().collect();
                    self.undecided.push(Undecided { offset, copies });
                }
                Verdict::Right(right, wrong) => {
                    self.repair(as_of, offset, right, &copies, wrong).await?;
                }
            }
        }
        Ok(())
    }

    /// Everybody's digests, this machine's too; of whoever does not answer none.
    async fn digests(
        &mut self,
        backups: &[String],
        as_of: (u64, u64),
        offset: u64,
        step: u64,
        count: u64,
        but: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, Vec<Digest>>, Not> {
        let mut all = BTreeMap::new();
        let (number, region) = (as_of.0, self.region);
        let read = |at, buf: &mut [u8]| region.read_home(number, at, buf);
        let own = blocking(|| digest::of_home(read, number, offset, step, count))?;
        all.insert(self.primary.me().to_owned(), own.ok_or(Not::Passed)?);
        for backup in backups.iter().filter(|name| !but.contains(*name)) {
            let of = self.of(as_of);
            let ask = Ask::Digests {
                of,
                offset,
                step,
                count,
            };
            match self.ask(backup, ask).await {
                Some(Answer::Digests { digests }) if digests.len() as u64 == count => {
                    all.insert(backup.clone(), digests);
                }
                Some(Answer::Elsewhere { checkpoint }) if checkpoint <= number => {
                    return Err(if checkpoint < number {
                        Not::Behind
                    } else {
                        Not::Passed
                    });
                }
                Some(Answer::Elsewhere { .. }) => return Err(Not::Passed),
                _ => {
                    self.silent.insert(backup.clone());
                }
            }
        }
        Ok(all)
    }

    /// What a backup answers; `None`: nothing, or that it cannot.
    async fn ask(&mut self, backup: &str, ask: Ask) -> Option<Answer> {
        let asked = async {
            if !self.connections.contains_key(backup) {
                let connection = self.primary.connect_to(backup).await?;
                self.connections.insert(backup.to_owned(), connection);
            }
            let connection = &self.connections[backup];
            self.primary.ask(connection, ask, backup).await
        };
        match asked.await {
            Ok(Answer::Failed { why }) => {
                let region = self.primary.name();
                tracing::debug!(region, backup, why, "a copy is not compared");
                None
            }
            Ok(answer) => Some(answer),
            Err(error) => {
                tracing::debug!(region = self.primary.name(), backup, %error, "a copy is not compared");
                if let Some(connection) = self.connections.remove(backup) {
                    connection.close();
                }
                None
            }
        }
    }

    /// Writes a page over the `wrong` copies as one of the others has it.
    async fn repair(
        &mut self,
        as_of: (u64, u64),
        offset: u64,
        right: u128,
        copies: &BTreeMap<String, Digest>,
        wrong: Vec<String>,
    ) -> Result<(), Not> {
        let has = |name: &&String| copies[*name] == Some(right);
        let sound: Vec<String> = copies.keys().filter(has).cloned().collect();
        let mut bytes = None;
        for name in sound {
            let page = self.read(as_of, offset, &name).await?;
            if page.as_ref().map(|p| digest::of_page(as_of.0, offset, p)) == Some(right) {
                bytes = page;
                break;
            }
        }
        for member in wrong {
            let repaired = match &bytes {
                None => Err("those who have it did not send it".into()),
                Some(bytes) => self.write(as_of, offset, bytes, &member).await?,
            };
            let (region, was) = (self.primary.name(), copies[&member]);
            match repaired {
                Ok(()) => {
                    tracing::error!(
                        region,
                        member,
                        offset,
                        was,
                        right,
                        "a page was damaged: repaired"
                    );
                    self.report.totals.repaired += 1;
                    if self.report.repaired.len() < LISTED {
                        self.report.repaired.push(Repaired {
                            member,
                            offset,
                            was,
                            is: right,
                        });
                    }
                }
                Err(why) => self.unrepaired.push(Unrepaired {
                    member,
                    offset,
                    why,
                }),
            }
        }
        Ok(())
    }

    async fn read(
        &mut self,
        as_of: (u64, u64),
        offset: u64,
        member: &str,
    ) -> Result<Option<Bytes>, Not> {
        let len = SCRUB_PAGE;
        if member == self.primary.me() {
            let mut page = vec![0; len as usize];
            let read = blocking(|| self.region.read_home(as_of.0, offset, &mut page));
            return match read {
                Ok(true) => Ok(Some(page.into())),
                Ok(false) => Err(Not::Passed),
                Err(_) => Ok(None),
            };
        }
        let of = self.of(as_of);
        match self.ask(member, Ask::Read { of, offset, len }).await {
            Some(Answer::Home { bytes }) if bytes.len() as u64 == len => Ok(Some(bytes)),
            Some(Answer::Elsewhere { .. }) => Err(Not::Passed),
            _ => Ok(None),
        }
    }

    async fn write(
        &mut self,
        as_of: (u64, u64),
        offset: u64,
        bytes: &Bytes,
        member: &str,
    ) -> Result<Result<(), String>, Not> {
        if member != self.primary.me() {
            let (of, bytes) = (self.of(as_of), bytes.clone());
            return match self.ask(member, Ask::Repair { of, offset, bytes }).await {
                Some(Answer::Done) => Ok(Ok(())),
                Some(Answer::Elsewhere { .. }) => Err(Not::Passed),
                other => Ok(Err(format!("it answered {other:?}"))),
            };
        }
        match blocking(|| self.region.repair_home(as_of.0, offset, bytes)) {
            Ok(true) => {}
            Ok(false) => return Err(Not::Passed),
            Err(error) => return Ok(Err(error.to_string())),
        }
        for _ in 0..HEALS {
            self.primary.flush(self.region).await?;
            if blocking(|| self.region.heal_view(offset, SCRUB_PAGE))? {
                return Ok(Ok(()));
            }
            sleep(self.primary.beat() / 4).await;
        }
        let region = self.primary.name();
        tracing::error!(region, offset, "a repaired page may still be seen damaged");
        if self.report.unhealed.len() < LISTED {
            self.report.unhealed.push(offset);
        }
        Ok(Ok(()))
    }
}

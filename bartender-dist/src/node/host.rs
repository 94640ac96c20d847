//! What a node is for one region, turn by turn.
//!
//! # Keepers and takers
//!
//! A node where somebody waits for a region is a *taker* of it, all others are *keepers*. Safety does not depend on who is
//! which: whoever is in sync has everything that was acknowledged and may take over, and who does is decided by the lease and by
//! one conditional transaction. That a region gets to whoever wants it depends on two rules:
//!
//! 1. *Takers first.* Of those in sync that answer a bidder, takers go before keepers, the more advanced before the less, and then
//!    names decide. All see the same order, and each waits for as many beats as there are others before it. So a keeper takes
//!    over when no taker in sync answers, or none of them did it in its time.
//! 2. *A keeper hands over.* A keeper reigns so that takers which are not in sync, or empty, are brought up to date: only a
//!    primary can do that. As soon as one of them is in sync, has all of the log, waits and is a member, the keeper ends its reign:
//!    it flushes, stops, closes the region and abdicates. By the first rule the taker bids next.
//!
//! If the taker is lost in between, the keeper gets its turn again, and no harm is done. If it answers and cannot bid (it does
//! not hear the coordinator) the two rules would go on in a circle, with nobody served; but its lease ends, and then it is no member.
//! A region that a program has given back is a keeper's, too: its node hands it over if somebody waits elsewhere, and
//! offers the same reign again if somebody waits here.

use super::{Hosted, Shared, Wanted};
use crate::cluster::{Identity, NewRegion, Refusal, Verdict};
use crate::error::{Error, Result};
use crate::records::{RegionId, RegionRecord, Seen, check_name};
use crate::replica::{Answer, Ask, Primary};
use crate::tasks::blocking;
use bartender_net::Received;
use bartender_pm::sync::atomic::Ordering;
use bartender_pm::{Region, mutant};
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::timeout;
use tracing::Instrument;

impl Shared {
    /// Decides what this node is for one region, for ever.
    pub(super) async fn host(self: Arc<Self>, hosted: Arc<Hosted>) {
        loop {
            match self.turn(&hosted).await {
                Ok(()) => {}
                Err(error) => {
                    let region = &hosted.name;
                    tracing::warn!(node = self.options.name, region, %error, "hosting");
                    tokio::time::sleep(self.options.beat).await;
                }
            }
        }
    }

    /// Looks once, and acts or waits for a change.
    async fn turn(&self, hosted: &Arc<Hosted>) -> Result<()> {
        let name = &hosted.name;
        let mut wish = hosted.wish.changed.listen();
        let picture = self.members.picture();
        let (Some(me), true) = (self.members.alive(), picture.revision != 0) else {
            self.members.changes(self.options.ttl).await;
            return Ok(());
        };
        let Some(seen) = picture.regions.get(name) else {
            let wanted = hosted.wanted.lock().clone();
            return match wanted.filter(|_| hosted.wish.is_there()) {
                Some(wanted) => self.create(hosted, &wanted, me).await,
                None => {
                    tokio::select! {
                        biased;
                        _ = wish.changed() => {}
                        _ = self.members.changes(self.options.ttl) => {}
                    }
                    Ok(())
                }
            };
        };
        if !seen.record.replicas.contains(&me.name) {
            // Its file stays; nobody has it open.
            hosted.slot.close().await;
            self.members.changes(self.options.ttl).await;
            return Ok(());
        }
        let reigns = picture.primaries.get(name);
        if let Some(reign) = reigns
            && (&reign.record.member, reign.record.incarnation) == (&me.name, me.incarnation)
        {
            // A bid whose answer was lost: nobody acts on it.
            let map = &self.members.map;
            map.abdicate(name, &me, reign.record.epoch).await?;
            tokio::time::sleep(self.options.beat).await;
            return Ok(());
        }
        if let Err(error) = blocking(|| hosted.slot.open()) {
            hosted.not_open(&self.options.name, &error);
            tokio::time::sleep(self.options.beat).await;
            return Ok(());
        }
        let mine_of_before = reigns.is_some_and(|reign| {
            reign.record.member == me.name && reign.record.incarnation < me.incarnation
        });
        let in_sync = seen.record.in_sync.contains(&me.name);
        if hosted.in_sync.swap(in_sync, Ordering::AcqRel) && !in_sync {
            let (region, primary) = (name, &seen.record.primary);
            tracing::warn!(
                node = self.options.name,
                region,
                primary,
                "dropped: this copy was too far behind, or away, and does not count now"
            );
        }
        if !in_sync || hosted.slot.position().is_none() || reigns.is_some() && !mine_of_before {
            self.members.changes(self.options.ttl).await;
            return Ok(());
        }
        let span = tracing::info_span!("bid", region = name, epoch = seen.record.epoch);
        self.bid(hosted, seen, me).instrument(span).await
    }

    /// A region that the cluster does not have: made here, then recorded.
    async fn create(&self, hosted: &Arc<Hosted>, wanted: &Wanted, me: Identity) -> Result<()> {
        let name = &hosted.name;
        // Before it is a file's.
        check_name(name)?;
        if let Err(error) = blocking(|| hosted.slot.open()) {
            tracing::debug!(node = self.options.name, region = name, %error, "not open");
            tokio::time::sleep(self.options.beat).await;
            return Ok(());
        }
        // The copy first: a record without one would be of a region that is lost.
        let uuid = match hosted.slot.position() {
            None => blocking(|| self.store.create(name))?,
            Some(position) if position.is_blank() => position.uuid,
            Some(_) => {
                return Err(Error::Unavailable {
                    region: format!(
                        "{name} (a copy is here, and the cluster knows no such region)"
                    ),
                    alive: 1,
                    wanted: wanted.replicas.len(),
                });
            }
        };
        let new = NewRegion {
            uuid: RegionId(uuid),
            replicas: wanted.replicas.clone(),
            in_sync: vec![me.name.clone()],
            policy: wanted.policy,
        };
        match self.members.map.create_region(name, new, &me).await? {
            Verdict::Done(seen) => self.reign(hosted, seen, me).await,
            Verdict::Refused(_) => {
                self.members.changes(self.options.beat).await;
                Ok(())
            }
        }
    }

    /// Nobody's lease runs, and this node has everything: it bids, the most advanced first.
    async fn bid(
        &self,
        hosted: &Arc<Hosted>,
        seen: &Seen<RegionRecord>,
        me: Identity,
    ) -> Result<()> {
        let name = &hosted.name;
        let own = hosted.slot.position().map_or(0, |position| position.tail);
        let rank = self.rank(hosted, &seen.record, own).await;
        if rank > 0 {
            // Those before it first.
            tokio::time::sleep(self.options.beat * 2 * rank).await;
            let now = self.members.picture();
            if now.primaries.contains_key(name) || now.regions.get(name) != Some(seen) {
                return Ok(());
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_millis() as u64);
        let from_another = seen.record.primary != me.name;
        match self.members.map.take_over(name, seen, &me, now).await? {
            Verdict::Done(seen) => {
                hosted.counts.lock().failovers += u64::from(from_another);
                tracing::warn!(
                    node = self.options.name,
                    region = name,
                    epoch = seen.record.epoch,
                    "primary now"
                );
                self.reign(hosted, seen, me).await
            }
            Verdict::Refused(refusal) => {
                if !matches!(refusal, Refusal::Passing) {
                    self.members.changes(self.options.ttl).await;
                }
                Ok(())
            }
        }
    }

    /// How many of those in sync that answer come before this node, which is at `own`.
    async fn rank(&self, hosted: &Hosted, record: &RegionRecord, own: u64) -> u32 {
        let picture = self.members.picture();
        let me = &self.options.name;
        let order = |taker: bool, tail: u64, name| {
            let taker = taker && !mutant::is("keepers_first");
            (taker, tail, Reverse(name))
        };
        let mine = order(hosted.wish.is_there(), own, me);
        let mut rank = 0;
        for other in record.in_sync.iter().filter(|other| *other != me) {
            let Some(member) = picture.members.get(other) else {
                continue;
            };
            let asked = timeout(self.options.beat * 2, async {
                let connection = self.fabric.connect(&member.record.address).await?;
                let connection = connection.expect(other)?;
                let region = hosted.name.clone();
                connection.send(Ask::Query { region }.encode()).await?;
                Ok::<_, Error>(connection.recv().await?)
            });
            if let Ok(Ok(Received::Message(message))) = asked.await
                && let Some(Answer::Attached {
                    position, taker, ..
                }) = Answer::decode(message)
                && order(taker, position.tail, other) > mine
            {
                rank += 1;
            }
        }
        rank
    }

    /// This node is the primary: opens the region, brings the replicas in sync to the same log, and lets it be used until
    /// that is over.
    async fn reign(
        &self,
        hosted: &Arc<Hosted>,
        seen: Seen<RegionRecord>,
        me: Identity,
    ) -> Result<()> {
        let epoch = seen.record.epoch;
        let span = tracing::info_span!("reign", region = hosted.name, epoch);
        let reigned = self.reign_until_over(hosted, seen, me.clone());
        let reigned = reigned.instrument(span).await;
        // Its lease may well go on: others need not wait for that.
        while !self.members.is_over(me.incarnation) {
            match self.members.map.abdicate(&hosted.name, &me, epoch).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(region = hosted.name, epoch, %error, "not abdicated");
                    tokio::time::sleep(self.options.beat).await;
                }
            }
        }
        if reigned.is_err() {
            // It cannot be opened here: others first, who may.
            tokio::time::sleep(self.options.ttl).await;
        }
        reigned
    }

    async fn reign_until_over(
        &self,
        hosted: &Arc<Hosted>,
        seen: Seen<RegionRecord>,
        me: Identity,
    ) -> Result<()> {
        let name = &hosted.name;
        let epoch = seen.record.epoch;
        hosted.slot.close().await;
        let primary = Primary::new(
            name,
            seen,
            me,
            self.members.clone(),
            self.fabric.clone(),
            self.tasks.clone(),
            self.bounds(),
        );
        *hosted.primary.lock() = Some(primary.clone());
        let opened = blocking(|| self.store.primary(name, epoch, primary.clone()));
        let region = match opened {
            Ok(region) => region,
            Err(error) => {
                primary.stop();
                hosted.ended(&primary);
                return Err(error);
            }
        };
        primary.start(&region).await;
        let settled = primary.flush(&region).await;
        match settled {
            Ok(()) => {
                if let (Some(every), pace) = self.options.scrub {
                    let (primary, region) = (primary.clone(), region.clone());
                    self.tasks
                        .spawn(async move { primary.scrub_on(&region, every, pace).await });
                }
                self.attend(hosted, region, &primary).await;
            }
            Err(error) => {
                tracing::warn!(region = name, epoch, %error, "not served");
                region.fence(epoch);
            }
        }
        primary.stop();
        hosted.no_offer();
        hosted.ended(&primary);
        Ok(())
    }

    /// Offers the reign to whoever waits for it here, until it is over. While nobody does, it ends in favour of somebody who
    /// waits elsewhere and has everything.
    async fn attend(&self, hosted: &Hosted, region: Region, primary: &Arc<Primary>) {
        let mut wish = hosted.wish.changed.listen();
        hosted.offer(&region, primary);
        while primary.is_over().is_none() {
            if hosted.is_taken() {
                drop(region);
                primary.over().await;
                return;
            }
            let successor = match hosted.wish.is_there() || mutant::is("keeper_stays") {
                true => None,
                false => primary.successor().await,
            };
            if let Some(successor) = successor
                && hosted.retract()
            {
                tracing::info!(
                    node = self.options.name,
                    region = hosted.name,
                    epoch = primary.epoch,
                    successor,
                    "handed over"
                );
                // What cannot be flushed is not acknowledged to anybody.
                let _ = primary.flush(&region).await;
                return;
            }
            tokio::select! {
                biased;
                _ = primary.over() => {}
                _ = wish.changed() => {}
                _ = tokio::time::sleep(self.options.beat) => {}
            }
        }
    }
}

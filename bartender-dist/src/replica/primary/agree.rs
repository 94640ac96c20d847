//! What is agreed with the coordinator: who is in sync, and what operators change.

use super::{Backup, Primary};
use crate::cluster::{Refusal, Verdict};
use crate::error::{Error, Result};
use crate::records::{Policy, RegionRecord, Seen};
use bartender_pm::{Region, mutant};
use std::sync::Arc;

impl Primary {
    /// Has a backup put in sync that has everything, and for which commits wait. False: they do not any more, since it was removed
    /// meanwhile; then it must not be put there, or it could take over without what is committed from here on.
    pub(super) async fn admit(&self, region: &Region, backup: &str, number: u64) -> Result<bool> {
        loop {
            let mut record = self.record.lock().await;
            // Only who has the record's lock makes one not required.
            let required = self.backup(backup, |b| b.required && b.number == number);
            if required != Some(true) && !mutant::is("admit_removed") {
                return Ok(false);
            }
            if record.record.in_sync.iter().any(|name| name == backup) {
                return Ok(true);
            }
            if !record.record.replicas.iter().any(|name| name == backup) {
                // An operator's word; it is dropped in a moment.
                return Err(self.no_answer(backup, "admission"));
            }
            let map = &self.members.map;
            let verdict = map
                .add_to_in_sync(&self.name, &record, &self.me, backup)
                .await;
            if self.learn(region, &mut record, verdict).await? {
                tracing::info!(region = self.name, backup, "in sync");
                return Ok(true);
            }
        }
    }

    /// Goes on without a backup, once the coordinator has agreed.
    pub(super) async fn remove(&self, region: &Region, backup: &str) -> Result<()> {
        loop {
            let mut record = self.record.lock().await;
            let is_in_sync = record.record.in_sync.iter().any(|name| name == backup);
            if is_in_sync && !mutant::is("no_fencing") {
                let map = &self.members.map;
                let verdict = map
                    .remove_from_in_sync(&self.name, &record, &self.me, backup)
                    .await;
                if !self.learn(region, &mut record, verdict).await? {
                    continue;
                }
                tracing::warn!(region = self.name, backup, "removed: not in sync any more");
                self.state.lock().counts.removed += 1;
            }
            let live = self.backup(backup, |b| {
                b.required = false;
                b.live.take()
            });
            // Nobody waits for what it is sent, so nothing would bound that.
            if let Some(live) = live.flatten() {
                live.connection.close();
            }
            self.set_floor(region);
            self.changed.raise();
            return Ok(());
        }
    }

    /// What the coordinator said to a change of the record; whether it was made.
    async fn learn(
        &self,
        region: &Region,
        record: &mut Seen<RegionRecord>,
        verdict: Result<Verdict>,
    ) -> Result<bool> {
        match verdict {
            Ok(Verdict::Done(seen)) => {
                *record = seen;
                Ok(true)
            }
            Ok(Verdict::Refused(Refusal::Changed(seen))) if seen.record.epoch == self.epoch => {
                *record = seen;
                Ok(false)
            }
            Ok(Verdict::Refused(Refusal::Passing)) => Ok(false),
            Ok(Verdict::Refused(other)) => {
                tracing::warn!(region = self.name, ?other, "no primary any more");
                self.fence(region, self.epoch);
                Err(Error::Region(self.fenced(self.epoch)))
            }
            Err(error) => {
                // Whether it was made is unknown, and it may yet be: nothing else before that is settled.
                tracing::warn!(region = self.name, %error, "the coordinator is not heard");
                loop {
                    tokio::time::sleep(self.bounds.beat).await;
                    if let Some(current) = self.is_over() {
                        return Err(Error::Region(self.fenced(current)));
                    }
                    match self.members.map.confirm(&self.name, record, &self.me).await {
                        Ok(Verdict::Done(seen) | Verdict::Refused(Refusal::Changed(seen)))
                            if seen.record.epoch == self.epoch =>
                        {
                            *record = seen;
                            return Ok(false);
                        }
                        Ok(Verdict::Refused(Refusal::Passing)) | Err(_) => {}
                        Ok(_) => {
                            self.fence(region, self.epoch);
                            return Err(Error::Region(self.fenced(self.epoch)));
                        }
                    }
                }
            }
        }
    }

    /// What the record says of its replicas, which operators change, holds here from now on.
    fn adapt(self: &Arc<Self>, region: &Region, record: &RegionRecord) {
        let mut state = self.state.lock();
        let dropped: Vec<String> = {
            let names = state.backups.keys();
            names
                .filter(|name| !record.replicas.contains(name))
                .cloned()
                .collect()
        };
        for name in &dropped {
            // Not in sync by the record, so commits need not wait for it.
            tracing::warn!(region = self.name, backup = name, "no replica any more");
            if let Some(live) = state.backups.remove(name).and_then(|backup| backup.live) {
                live.connection.close();
            }
        }
        for name in record.replicas.iter().filter(|name| **name != self.me.name) {
            match state.backups.get_mut(name) {
                // Whether the record is to have it is its follower's to find out.
                Some(backup) => backup.doubtful = backup.required && !record.in_sync.contains(name),
                None => {
                    tracing::info!(region = self.name, backup = name, "a replica from now on");
                    self.begin(&mut state, region, name, false, u64::MAX);
                }
            }
        }
        drop(state);
        self.set_floor(region);
        self.changed.raise();
    }

    /// A backup that could take over at once, and where somebody waits for that.
    pub(crate) async fn successor(&self) -> Option<String> {
        let record = self.record.lock().await.record.clone();
        let picture = self.members.picture();
        let state = self.state.lock();
        let fits = |(name, backup): &(&String, &Backup)| {
            backup.taker
                && backup.required
                && backup.live.is_some()
                && backup.acked >= state.written
                && record.in_sync.contains(name)
                && picture.members.contains_key(*name)
        };
        let found = state.backups.iter().find(fits);
        found.map(|(name, _)| name.clone())
    }

    /// Removes backups that are gone, and follows what others change in the record.
    pub(super) async fn thin(self: Arc<Self>, region: Region) {
        let mut adapted = 0;
        while self.is_over().is_none() {
            let picture = self.members.picture();
            let policy = {
                let mut record = self.record.lock().await;
                if let Some(seen) = picture.regions.get(&self.name)
                    && seen.record.epoch == self.epoch
                    && seen.revision > record.revision
                {
                    *record = seen.clone();
                }
                if adapted != record.revision && self.is_over().is_none() {
                    adapted = record.revision;
                    self.adapt(&region, &record.record);
                }
                record.record.policy
            };
            let gone: Vec<String> = {
                let state = self.state.lock();
                let is_gone = |(name, backup): &(&String, &Backup)| {
                    let dead = !picture.members.contains_key(*name) && backup.live.is_none();
                    let slow = policy == Policy::Degrade
                        && backup
                            .behind_since
                            .is_some_and(|since| since.elapsed() > self.bounds.lag);
                    backup.required && picture.revision != 0 && (dead || slow)
                };
                let gone = state.backups.iter().filter(is_gone);
                gone.map(|(name, _)| name.clone()).collect()
            };
            for backup in gone {
                tokio::select! {
                    biased;
                    _ = self.over() => return,
                    removed = self.remove(&region, &backup) => if let Err(error) = removed {
                        tracing::warn!(region = self.name, backup, %error, "not removed");
                    },
                }
            }
            tokio::select! {
                biased;
                _ = self.over() => return,
                _ = self.members.changes(self.bounds.beat) => {}
            }
        }
    }
}

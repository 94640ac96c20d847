//! What members do to a cluster's records: each step one conditional transaction, and its outcome in the words of the
//! cluster.
//!
//! It promises that of two who try to change the same thing exactly one does, and that only the primary whose lease
//! runs changes who is in sync. It decides nothing by itself: when to bid, how long to wait for a lease, whom to remove
//! is up to its callers. It keeps no state and no time.
//!
//! **The fence.** While `primaries/REGION` exists, its holder may believe itself primary; it is bound to the holder's
//! lease and so vanishes not before the holder's own clock told it to stop. [`ClusterMap::take_over`] demands that it is
//! gone. Whoever takes over has a greater epoch, which the logs of all replicas in sync learn before it serves.

use crate::coordinator::{Change, Compare, Coordinator, Entry, LeaseId, Transacted, Watch};
use crate::error::{Error, Result};
use crate::records::{
    FORMAT, Keys, Member, Policy, Primary, RegionId, RegionRecord, Seen, Stored, check_name,
};
use std::collections::BTreeMap;
use std::sync::Arc;

mod attempt;
mod operate;

use attempt::Attempt;

/// The records of one cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ClusterMap {
    coordinator: Arc<dyn Coordinator>,
    keys: Keys,
}

/// A member in one of its lives: who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Which life.
    pub incarnation: u64,
    /// The lease that stands for this life.
    pub lease: LeaseId,
}

/// A region that is to be.
#[derive(Debug, Clone)]
pub struct NewRegion {
    /// Its identity.
    pub uuid: RegionId,
    /// All members that are to have a copy.
    pub replicas: Vec<String>,
    /// Those that have an empty copy already, the creator included.
    pub in_sync: Vec<String>,
    /// What to do about slow backups.
    pub policy: Policy,
}

/// How a step went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Done: the record as it is now.
    Done(Seen<RegionRecord>),
    /// Nothing was changed.
    Refused(Refusal),
}

/// Why a step was not taken. What it names was read after the attempt, and may have changed since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The region's record is not the one that was seen; this is it.
    Changed(Seen<RegionRecord>),
    /// There is no such region.
    NoSuchRegion,
    /// There is one already.
    Exists(Seen<RegionRecord>),
    /// Somebody's lease as the primary runs.
    PrimaryAlive(Primary),
    /// Whoever wants to take over may lack acknowledged commits.
    NotInSync,
    /// Whoever acts is not the primary of that record (any more): its lease ended, or another took over.
    NotPrimary,
    /// The member is no replica of the region, or is the primary, who is always in sync.
    NotABackup,
    /// Something was in the way and is gone already. Try again.
    Passing,
}

/// All records, at one instant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// By name.
    pub members: BTreeMap<String, Seen<Member>>,
    /// By name.
    pub regions: BTreeMap<String, Seen<RegionRecord>>,
    /// By region.
    pub primaries: BTreeMap<String, Seen<Primary>>,
    /// The coordinator's revision: a watch after it misses nothing.
    pub revision: u64,
}

fn seen<T: Stored>(entry: &Entry) -> Result<Seen<T>> {
    Ok(Seen {
        record: T::decode(&entry.key, &entry.value)?,
        revision: entry.revision,
    })
}

impl Identity {
    fn primary(&self, epoch: u64) -> Primary {
        Primary {
            format: FORMAT,
            member: self.name.clone(),
            incarnation: self.incarnation,
            epoch,
        }
    }
}

impl ClusterMap {
    /// The cluster of that name.
    ///
    /// # Errors
    ///
    /// [`Error::BadName`].
    pub fn new(coordinator: Arc<dyn Coordinator>, cluster: &str) -> Result<ClusterMap> {
        let keys = Keys::new(cluster)?;
        Ok(ClusterMap { coordinator, keys })
    }

    /// Whom it asks.
    pub fn coordinator(&self) -> &Arc<dyn Coordinator> {
        &self.coordinator
    }

    /// All records. One round trip.
    ///
    /// # Errors
    ///
    /// The coordinator's; [`Error::BadRecord`].
    pub async fn picture(&self) -> Result<Picture> {
        let read = self.coordinator.read(&self.keys.prefix).await?;
        let mut picture = Picture {
            revision: read.revision,
            ..Picture::default()
        };
        for entry in &read.entries {
            let name = &entry.key[self.keys.prefix.len()..];
            if let Some(name) = name.strip_prefix(Keys::MEMBERS) {
                picture.members.insert(name.to_owned(), seen(entry)?);
            } else if let Some(name) = name.strip_prefix(Keys::REGIONS) {
                picture.regions.insert(name.to_owned(), seen(entry)?);
            } else if let Some(name) = name.strip_prefix(Keys::PRIMARIES) {
                picture.primaries.insert(name.to_owned(), seen(entry)?);
            }
        }
        Ok(picture)
    }

    /// Every change of a record above `after`; a hint to look at the [`picture`](Self::picture) again.
    ///
    /// # Errors
    ///
    /// The coordinator's.
    pub async fn watch(&self, after: u64) -> Result<Watch> {
        self.coordinator.watch(&self.keys.prefix, after).await
    }

    async fn one<T: Stored>(&self, key: &str) -> Result<Option<Seen<T>>> {
        let read = self.coordinator.read(key).await?;
        read.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(seen)
            .transpose()
    }

    /// The record of a region. One round trip.
    ///
    /// # Errors
    ///
    /// The coordinator's; [`Error::BadRecord`].
    pub async fn region(&self, region: &str) -> Result<Option<Seen<RegionRecord>>> {
        check_name(region)?;
        self.one(&self.keys.region(region)).await
    }

    /// Whose lease as the primary runs. One round trip.
    ///
    /// # Errors
    ///
    /// The coordinator's; [`Error::BadRecord`].
    pub async fn primary(&self, region: &str) -> Result<Option<Seen<Primary>>> {
        check_name(region)?;
        self.one(&self.keys.primary(region)).await
    }

    /// A member's record, if it is alive. One round trip.
    ///
    /// # Errors
    ///
    /// The coordinator's; [`Error::BadRecord`].
    pub async fn member(&self, name: &str) -> Result<Option<Seen<Member>>> {
        check_name(name)?;
        self.one(&self.keys.member(name)).await
    }

    /// A new life of the member `name`, for as long as `lease` lasts. An earlier life's record is replaced: the name is
    /// what the machine's certificate says, so nobody else has it. Two round trips.
    ///
    /// # Errors
    ///
    /// The coordinator's; [`Error::LeaseEnded`].
    pub async fn join(&self, name: &str, address: &str, lease: LeaseId) -> Result<Identity> {
        check_name(name)?;
        let counter = self.keys.incarnation(name);
        loop {
            let read = self.coordinator.read(&counter).await?;
            let before = read.entries.iter().find(|entry| entry.key == counter);
            let (compare, last) = match before {
                None => (Compare::Absent(counter.clone()), 0),
                Some(entry) => {
                    let last = std::str::from_utf8(&entry.value)
                        .ok()
                        .and_then(|text| text.parse::<u64>().ok())
                        .filter(|last| *last < u64::MAX)
                        .ok_or_else(|| Error::BadRecord {
                            key: counter.clone(),
                            what: "no number".to_owned(),
                        })?;
                    (Compare::Revision(counter.clone(), entry.revision), last)
                }
            };
            let incarnation = last + 1;
            let member = Member {
                format: FORMAT,
                incarnation,
                address: address.to_owned(),
            };
            let changes = vec![
                Change::put(counter.clone(), incarnation.to_string()),
                Change::put_bound(self.keys.member(name), member.encode(), lease),
            ];
            match self.coordinator.transact(vec![compare], changes).await? {
                Transacted::Refused => continue,
                Transacted::Committed { .. } => {
                    return Ok(Identity {
                        name: name.to_owned(),
                        incarnation,
                        lease,
                    });
                }
            }
        }
    }

    /// The first epoch of a region, with `me` as the primary. One round trip if it is done.
    ///
    /// # Errors
    ///
    /// The coordinator's; [`Error::BadRequest`] for a record that would make no sense.
    pub async fn create_region(
        &self,
        region: &str,
        new: NewRegion,
        me: &Identity,
    ) -> Result<Verdict> {
        check_name(region)?;
        new.replicas.iter().try_for_each(|name| check_name(name))?;
        let record = RegionRecord {
            format: FORMAT,
            uuid: new.uuid,
            epoch: 1,
            primary: me.name.clone(),
            in_sync: new.in_sync,
            replicas: new.replicas,
            last_failover: None,
            policy: new.policy,
        };
        record.check().map_err(|what| Error::BadRequest { what })?;
        let absent = vec![
            Compare::Absent(self.keys.region(region)),
            Compare::Absent(self.keys.primary(region)),
        ];
        self.reign(region, absent, record, me, Attempt::Create)
            .await
    }

    /// Makes `me` the primary in the place of the one that `before` names, which is in sync no more. For a member
    /// that is in sync, once the old primary's lease is over. One round trip if it is done.
    ///
    /// `now` is for people: milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// The coordinator's. After one the step may have been taken: the same call with the same `before` finds out, and
    /// says `Done` if it was.
    pub async fn take_over(
        &self,
        region: &str,
        before: &Seen<RegionRecord>,
        me: &Identity,
        now: u64,
    ) -> Result<Verdict> {
        check_name(region)?;
        let old = &before.record;
        if !old.in_sync.contains(&me.name) {
            return Ok(Verdict::Refused(Refusal::NotInSync));
        }
        if old.primary == me.name {
            // Not lost to itself: it opens anew.
            return self.next_epoch(region, before, me).await;
        }
        let mut record = old.clone();
        record.epoch += 1;
        record.in_sync.retain(|name| *name != old.primary);
        record.primary = me.name.clone();
        record.last_failover = Some(now);
        let compares = vec![
            Compare::Revision(self.keys.region(region), before.revision),
            Compare::Absent(self.keys.primary(region)),
        ];
        self.reign(region, compares, record, me, Attempt::Bid(before))
            .await
    }

    /// The primary opens its region again. It has the region's file open, so its earlier life is dead, and it need
    /// not wait for that one's lease. Two round trips.
    ///
    /// # Errors
    ///
    /// As [`take_over`](Self::take_over).
    pub async fn next_epoch(
        &self,
        region: &str,
        before: &Seen<RegionRecord>,
        me: &Identity,
    ) -> Result<Verdict> {
        if before.record.primary != me.name {
            return Ok(Verdict::Refused(Refusal::NotPrimary));
        }
        let key = self.keys.primary(region);
        let reigning = match self.primary(region).await? {
            None => Compare::Absent(key),
            Some(earlier)
                if earlier.record.member == me.name
                    && earlier.record.incarnation < me.incarnation =>
            {
                Compare::Revision(key, earlier.revision)
            }
            Some(other) => {
                return self
                    .explain(region, me, Attempt::Bid(before), Some(other))
                    .await;
            }
        };
        let mut record = before.record.clone();
        record.epoch += 1;
        let unchanged = Compare::Revision(self.keys.region(region), before.revision);
        let compares = vec![unchanged, reigning];
        self.reign(region, compares, record, me, Attempt::Bid(before))
            .await
    }

    /// The primary at `before`'s epoch goes on without a backup, which may lack commits from now on. One round trip if it is done.
    ///
    /// # Errors
    ///
    /// The coordinator's. After one the step may have been taken.
    pub async fn remove_from_in_sync(
        &self,
        region: &str,
        before: &Seen<RegionRecord>,
        me: &Identity,
        backup: &str,
    ) -> Result<Verdict> {
        let mut record = before.record.clone();
        record.in_sync.retain(|name| name != backup);
        if backup == record.primary || !record.replicas.iter().any(|name| name == backup) {
            return Ok(Verdict::Refused(Refusal::NotABackup));
        }
        self.amend(region, before, record, me).await
    }

    /// The primary at `before`'s epoch says that a backup has every acknowledged commit, and will have those to come.
    /// One round trip if it is done.
    ///
    /// # Errors
    ///
    /// The coordinator's. After one the step may have been taken.
    pub async fn add_to_in_sync(
        &self,
        region: &str,
        before: &Seen<RegionRecord>,
        me: &Identity,
        backup: &str,
    ) -> Result<Verdict> {
        let mut record = before.record.clone();
        if backup == record.primary || !record.replicas.iter().any(|name| name == backup) {
            return Ok(Verdict::Refused(Refusal::NotABackup));
        }
        if !record.in_sync.iter().any(|name| name == backup) {
            record.in_sync.push(backup.to_owned());
        }
        self.amend(region, before, record, me).await
    }

    /// The record of `before` is written once more by its primary: whatever was asked before, with an unknown outcome, has happened then
    /// or never will. One round trip if it is done.
    ///
    /// # Errors
    ///
    /// The coordinator's. After one the step may have been taken; it can be repeated.
    pub async fn confirm(
        &self,
        region: &str,
        before: &Seen<RegionRecord>,
        me: &Identity,
    ) -> Result<Verdict> {
        self.amend(region, before, before.record.clone(), me).await
    }

    /// `me` is the primary of `epoch` no more, by its own will: it has stopped to act as one, for good. Whoever is in sync may take
    /// over at once. One round trip.
    ///
    /// # Errors
    ///
    /// The coordinator's. After one the step may have been taken; it can be repeated.
    pub async fn abdicate(&self, region: &str, me: &Identity, epoch: u64) -> Result<()> {
        check_name(region)?;
        let key = self.keys.primary(region);
        let reign = Compare::Value(key.clone(), me.primary(epoch).encode());
        // Refused: it was not any more.
        let _ = self
            .coordinator
            .transact(vec![reign], vec![Change::delete(key)])
            .await?;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;

//! The conditional transactions behind a cluster's steps, and why one was refused.
//!
//! A refusal is explained by what is read after it. An attempt whose answer was lost is found again: the records then
//! are as it would have left them, with this very life of the member in them.

use super::{ClusterMap, Identity, Refusal, Verdict};
use crate::coordinator::{Change, Compare, Transacted};
use crate::error::Result;
use crate::records::{Primary, RegionRecord, Seen, Stored, check_name};

/// What is tried.
#[derive(Clone, Copy)]
pub(super) enum Attempt<'a> {
    Create,
    Bid(&'a Seen<RegionRecord>),
    Amend(&'a Seen<RegionRecord>),
}

impl ClusterMap {
    /// A transaction that makes `me` the primary of `record`.
    pub(super) async fn reign(
        &self,
        region: &str,
        compares: Vec<Compare>,
        record: RegionRecord,
        me: &Identity,
        attempt: Attempt<'_>,
    ) -> Result<Verdict> {
        let primary = me.primary(record.epoch);
        let changes = vec![
            Change::put(self.keys.region(region), record.encode()),
            Change::put_bound(self.keys.primary(region), primary.encode(), me.lease),
        ];
        match self.coordinator.transact(compares, changes).await? {
            Transacted::Committed { revision } => Ok(Verdict::Done(Seen { record, revision })),
            Transacted::Refused => {
                let reigning = self.primary(region).await?;
                self.explain(region, me, attempt, reigning).await
            }
        }
    }

    /// A transaction of the reigning primary that changes its region's record.
    pub(super) async fn amend(
        &self,
        region: &str,
        before: &Seen<RegionRecord>,
        record: RegionRecord,
        me: &Identity,
    ) -> Result<Verdict> {
        check_name(region)?;
        if before.record.primary != me.name {
            return Ok(Verdict::Refused(Refusal::NotPrimary));
        }
        let reign = me.primary(record.epoch).encode();
        let compares = vec![
            Compare::Revision(self.keys.region(region), before.revision),
            Compare::Value(self.keys.primary(region), reign),
        ];
        let changes = vec![Change::put(self.keys.region(region), record.encode())];
        match self.coordinator.transact(compares, changes).await? {
            Transacted::Committed { revision } => Ok(Verdict::Done(Seen { record, revision })),
            Transacted::Refused => {
                let reigning = self.primary(region).await?;
                self.explain(region, me, Attempt::Amend(before), reigning)
                    .await
            }
        }
    }

    /// Why an attempt of `me`'s was refused.
    pub(super) async fn explain(
        &self,
        region: &str,
        me: &Identity,
        attempt: Attempt<'_>,
        reigning: Option<Seen<Primary>>,
    ) -> Result<Verdict> {
        let refused = |refusal| Ok(Verdict::Refused(refusal));
        let Some(now) = self.region(region).await? else {
            return match (attempt, reigning) {
                (Attempt::Create, Some(other)) => refused(Refusal::PrimaryAlive(other.record)),
                (Attempt::Create, None) => refused(Refusal::Passing),
                _ => refused(Refusal::NoSuchRegion),
            };
        };
        let mine = |epoch| {
            let reigning = reigning.as_ref().map(|primary| &primary.record);
            reigning == Some(&me.primary(epoch))
        };
        match attempt {
            // An earlier attempt, whose answer was lost.
            Attempt::Create if now.record.epoch == 1 && mine(1) => Ok(Verdict::Done(now)),
            Attempt::Create => refused(Refusal::Exists(now)),
            Attempt::Bid(before) => {
                let epoch = before.record.epoch + 1;
                if now.record.epoch == epoch && mine(epoch) {
                    return Ok(Verdict::Done(now));
                }
                match reigning {
                    _ if now.revision != before.revision => refused(Refusal::Changed(now)),
                    Some(other) => refused(Refusal::PrimaryAlive(other.record)),
                    None => refused(Refusal::Passing),
                }
            }
            // Read one after the other: the record may be of a later reign than the primary.
            Attempt::Amend(before) if now.record.epoch != before.record.epoch => {
                refused(Refusal::NotPrimary)
            }
            Attempt::Amend(before) => match mine(before.record.epoch) {
                true if now.revision != before.revision => refused(Refusal::Changed(now)),
                true => refused(Refusal::Passing),
                false => refused(Refusal::NotPrimary),
            },
        }
    }
}

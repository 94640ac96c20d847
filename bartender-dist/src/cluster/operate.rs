//! What operators change in a region's record: who is to have a copy, and what is done about slow backups.
//!
//! Whoever reigns follows the changed record. A replica that is added is not in sync before its primary has brought it up to
//! date; one that is removed is in sync no more with the same transaction, so that nobody can take over who need not have
//! everything. Until the primary has seen the record it waits for those that were removed, which is safe.

use super::{ClusterMap, Refusal, Verdict};
use crate::coordinator::{Change, Compare, Transacted};
use crate::error::{Error, Result};
use crate::records::{Policy, RegionRecord, Seen, Stored, check_name};

impl ClusterMap {
    /// Changes who is to have a copy of a region, in the order of preference. The primary stays a replica. One round trip if it
    /// is done.
    ///
    /// # Errors
    ///
    /// `BadRequest` for a record that would make no sense, as one without its primary. The coordinator's; after one the step may have
    /// been taken.
    pub async fn set_replicas(
        &self,
        region: &str,
        before: &Seen<RegionRecord>,
        replicas: Vec<String>,
    ) -> Result<Verdict> {
        replicas.iter().try_for_each(|name| check_name(name))?;
        let mut record = before.record.clone();
        record.in_sync.retain(|name| replicas.contains(name));
        record.replicas = replicas;
        self.operate(region, before, record).await
    }

    /// Changes what a region's primary does about slow backups. One round trip if it is done.
    ///
    /// # Errors
    ///
    /// The coordinator's; after one the step may have been taken.
    pub async fn set_policy(
        &self,
        region: &str,
        before: &Seen<RegionRecord>,
        policy: Policy,
    ) -> Result<Verdict> {
        let mut record = before.record.clone();
        record.policy = policy;
        self.operate(region, before, record).await
    }

    async fn operate(
        &self,
        region: &str,
        before: &Seen<RegionRecord>,
        record: RegionRecord,
    ) -> Result<Verdict> {
        check_name(region)?;
        record.check().map_err(|what| Error::BadRequest { what })?;
        let key = self.keys.region(region);
        let unchanged = Compare::Revision(key.clone(), before.revision);
        let change = Change::put(key, record.encode());
        match self
            .coordinator
            .transact(vec![unchanged], vec![change])
            .await?
        {
            Transacted::Committed { revision } => Ok(Verdict::Done(Seen { record, revision })),
            Transacted::Refused => Ok(Verdict::Refused(match self.region(region).await? {
                None => Refusal::NoSuchRegion,
                Some(now) if now.revision == before.revision => Refusal::Passing,
                Some(now) => Refusal::Changed(now),
            })),
        }
    }
}

//! The status of a whole cluster: what the coordinator's records say, and what each member says of itself.

use crate::cluster::ClusterMap;
use crate::error::Result;
use crate::records::RegionRecord;
use crate::replica::{Answer, Ask};
use crate::status::{BackupStatus, NodeStatus, RegionStatus};
use bartender_net::{Fabric, Received};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A cluster at about one instant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Members whose lease runs, by name.
    pub members: Vec<MemberStatus>,
    /// Regions, by name.
    pub regions: Vec<RegionReport>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Which of its lives.
    pub incarnation: u64,
    /// What it says of itself.
    pub status: Option<NodeStatus>,
    /// Why it says nothing.
    pub silent: Option<String>,
}

/// A region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionReport {
    /// Its name.
    pub region: String,
    /// The coordinator's record.
    pub record: RegionRecord,
    /// Whose lease as the primary runs: it may be committed to.
    pub reigning: Option<String>,
}

impl ClusterStatus {
    /// What a member says of a region.
    pub fn of(&self, member: &str, region: &str) -> Option<&RegionStatus> {
        let member = self.members.iter().find(|m| m.name == member)?;
        let status = member.status.as_ref()?;
        status.regions.iter().find(|r| r.region == region)
    }

    /// What the primary of a region says of one of its backups.
    pub fn backup(&self, region: &RegionReport, backup: &str) -> Option<&BackupStatus> {
        let primary = self.of(region.reigning.as_ref()?, &region.region)?;
        primary.backups.iter().find(|b| b.node == backup)
    }
}

/// Asks the node `name`, which listens at `address`, for its status. One round trip, and a connection.
///
/// # Errors
///
/// Why there was no answer, in words.
pub async fn node_status(
    fabric: &dyn Fabric,
    name: &str,
    address: &str,
    limit: Duration,
) -> Result<NodeStatus, String> {
    let asked = timeout(limit, async {
        let connection = fabric.connect(address).await?.expect(name)?;
        connection.send(Ask::Status.encode()).await?;
        loop {
            if let Received::Message(message) = connection.recv().await? {
                return Ok::<_, bartender_net::Error>(message);
            }
        }
    });
    let message = match asked.await {
        Ok(Ok(message)) => message,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("no answer in {} ms", limit.as_millis())),
    };
    match Answer::decode(message) {
        Some(Answer::Status { json }) => {
            serde_json::from_slice(&json).map_err(|error| error.to_string())
        }
        Some(Answer::Failed { why }) => Err(why),
        _ => Err("an answer that makes no sense".into()),
    }
}

/// The status of a cluster. Members are asked at the same time, each for `limit` at most; one that does not answer is in the report
/// with the reason.
///
/// # Errors
///
/// The coordinator's.
pub async fn cluster_status(
    map: &ClusterMap,
    fabric: &Arc<dyn Fabric>,
    limit: Duration,
) -> Result<ClusterStatus> {
    let picture = map.picture().await?;
    let asked: Vec<_> = picture
        .members
        .iter()
        .map(|(name, seen)| {
            let (fabric, name) = (fabric.clone(), name.clone());
            let address = seen.record.address.clone();
            tokio::spawn(async move { node_status(&*fabric, &name, &address, limit).await })
        })
        .collect();
    let mut members = Vec::with_capacity(asked.len());
    for ((name, seen), asked) in picture.members.iter().zip(asked) {
        let answer = asked.await.unwrap_or_else(|error| Err(error.to_string()));
        let (status, silent) = match answer {
            Ok(status) => (Some(status), None),
            Err(why) => (None, Some(why)),
        };
        members.push(MemberStatus {
            name: name.clone(),
            address: seen.record.address.clone(),
            incarnation: seen.record.incarnation,
            status,
            silent,
        });
    }
    let regions = picture.regions.iter().map(|(name, seen)| RegionReport {
        region: name.clone(),
        record: seen.record.clone(),
        reigning: picture.primaries.get(name).map(|p| p.record.member.clone()),
    });
    Ok(ClusterStatus {
        members,
        regions: regions.collect(),
    })
}

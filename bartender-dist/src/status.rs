//! What a node says of itself when it is asked, and to whoever gathers metrics.
//!
//! Everything is as of one instant on one node, which may be wrong about the cluster: what the cluster agrees on stands in the
//! coordinator's records. Travels as JSON; fields that a newer version added are ignored, and fields that are missing are empty.

use serde::{Deserialize, Serialize};

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// Which of its lives, while its lease runs.
    pub incarnation: Option<u64>,
    /// Beats of its lease that the coordinator did not answer.
    pub beats_lost: u64,
    /// Questions of peers that were refused for want of a role.
    pub refused: u64,
    /// The regions that it hosts, by name.
    pub regions: Vec<RegionStatus>,
}

/// What a node is for a region.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It has no copy.
    #[default]
    None,
    /// It has a copy, which follows or waits for a primary.
    Backup,
    /// It is the primary, and nobody on it uses the region.
    Keeper,
    /// It is the primary.
    Primary,
}

/// A region on a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegionStatus {
    /// Its name.
    pub region: String,
    /// What the node is for it.
    pub role: Role,
    /// Whether somebody waits for it there.
    pub taker: bool,
    /// The epoch of the reign, or the last one that the copy has heard of.
    pub epoch: u64,
    /// Below this offset of the stream everything is on all replicas in sync, as far as the node knows.
    pub committed: u64,
    /// Below this offset everything is durable on the node.
    pub durable: u64,
    /// What was counted since the node started.
    pub counts: RegionCounts,
    /// As primary: how far the others are.
    pub backups: Vec<BackupStatus>,
}

/// What a node has counted of a region.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegionCounts {
    /// Records shipped: commits, and what the region writes by itself.
    pub commits: u64,
    /// Batches of them.
    pub batches: u64,
    /// Their bytes, once, however many backups got them.
    pub bytes: u64,
    /// How often the node took over from another.
    pub failovers: u64,
    /// Backups that it had removed from those in sync.
    pub removed: u64,
    /// New copies that it made on backups.
    pub installed: u64,
    /// Damaged pages of copies that it repaired.
    pub repaired: u64,
}

/// A backup, as its primary sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackupStatus {
    /// Its name.
    pub node: String,
    /// Whether commits wait for it.
    pub required: bool,
    /// Whether it follows now.
    pub live: bool,
    /// Whether somebody waits for the region there.
    pub taker: bool,
    /// Bytes of log that it has not acknowledged.
    pub lag_bytes: u64,
    /// Since how many seconds it has not had everything.
    pub lag_seconds: f64,
}

impl RegionCounts {
    /// Counts of two reigns.
    pub(crate) fn add(&mut self, more: RegionCounts) {
        self.commits += more.commits;
        self.batches += more.batches;
        self.bytes += more.bytes;
        self.failovers += more.failovers;
        self.removed += more.removed;
        self.installed += more.installed;
        self.repaired += more.repaired;
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Role::None => "none",
            Role::Backup => "backup",
            Role::Keeper => "keeper",
            Role::Primary => "primary",
        })
    }
}

//! Metrics, by the facade of the crate `metrics`: whoever installs a recorder gets them, and nobody else pays.
//!
//! They are set from a node's [status](crate::NodeStatus) once a second, so that a commit does no more than it does for that: a few relaxed
//! additions a batch.
//!
//! | name | kind | labels | meaning |
//! |---|---|---|---|
//! | `bartender_region_role` | gauge | region | 0 no copy, 1 backup, 2 keeper (primary that nobody uses), 3 primary |
//! | `bartender_region_epoch` | gauge | region | epoch of the reign, or the last one heard of |
//! | `bartender_region_committed_bytes` | gauge | region | offset of the log below which all replicas in sync have everything |
//! | `bartender_region_durable_bytes` | gauge | region | offset of the log below which this node has everything |
//! | `bartender_backup_live` | gauge | region, backup | 1 while it follows |
//! | `bartender_backup_required` | gauge | region, backup | 1 while commits wait for it |
//! | `bartender_backup_lag_bytes` | gauge | region, backup | log that it has not acknowledged |
//! | `bartender_backup_lag_seconds` | gauge | region, backup | since when it has not had everything |
//! | `bartender_commits_total` | counter | region | records shipped as primary |
//! | `bartender_batches_total` | counter | region | batches of them |
//! | `bartender_shipped_bytes_total` | counter | region | their bytes, once |
//! | `bartender_failovers_total` | counter | region | takeovers from another node |
//! | `bartender_removed_backups_total` | counter | region | backups removed from those in sync |
//! | `bartender_installed_copies_total` | counter | region | new copies made on backups |
//! | `bartender_repaired_pages_total` | counter | region | damaged pages of copies repaired |
//! | `bartender_lease_beats_lost_total` | counter | | beats that the coordinator did not answer |
//! | `bartender_refused_peers_total` | counter | | questions refused for want of a role |

use crate::status::{NodeStatus, Role};
use metrics::{counter, gauge};
use std::collections::BTreeSet;

/// Sets all of them. `before`: the backups, with their regions, that were told of the last time.
pub(crate) fn publish(status: &NodeStatus, before: &mut BTreeSet<(String, String)>) {
    counter!("bartender_lease_beats_lost_total").absolute(status.beats_lost);
    counter!("bartender_refused_peers_total").absolute(status.refused);
    let mut now = BTreeSet::new();
    for region in &status.regions {
        let name = || region.region.clone();
        let role = match region.role {
            Role::None => 0.0,
            Role::Backup => 1.0,
            Role::Keeper => 2.0,
            Role::Primary => 3.0,
        };
        gauge!("bartender_region_role", "region" => name()).set(role);
        gauge!("bartender_region_epoch", "region" => name()).set(region.epoch as f64);
        gauge!("bartender_region_committed_bytes", "region" => name()).set(region.committed as f64);
        gauge!("bartender_region_durable_bytes", "region" => name()).set(region.durable as f64);
        let counts = &region.counts;
        counter!("bartender_commits_total", "region" => name()).absolute(counts.commits);
        counter!("bartender_batches_total", "region" => name()).absolute(counts.batches);
        counter!("bartender_shipped_bytes_total", "region" => name()).absolute(counts.bytes);
        counter!("bartender_failovers_total", "region" => name()).absolute(counts.failovers);
        counter!("bartender_removed_backups_total", "region" => name()).absolute(counts.removed);
        counter!("bartender_installed_copies_total", "region" => name()).absolute(counts.installed);
        counter!("bartender_repaired_pages_total", "region" => name()).absolute(counts.repaired);
        for backup in &region.backups {
            let set = [
                f64::from(u8::from(backup.live)),
                f64::from(u8::from(backup.required)),
                backup.lag_bytes as f64,
                backup.lag_seconds,
            ];
            of_backup(&region.region, &backup.node, set);
            now.insert((region.region.clone(), backup.node.clone()));
        }
    }
    // This node is not their primary any more, and knows nothing of them.
    for (region, backup) in before.difference(&now) {
        of_backup(region, backup, [0.0; 4]);
    }
    *before = now;
}

fn of_backup(region: &str, backup: &str, [live, required, bytes, seconds]: [f64; 4]) {
    let labels = [("region", region.to_owned()), ("backup", backup.to_owned())];
    gauge!("bartender_backup_live", &labels).set(live);
    gauge!("bartender_backup_required", &labels).set(required);
    gauge!("bartender_backup_lag_bytes", &labels).set(bytes);
    gauge!("bartender_backup_lag_seconds", &labels).set(seconds);
}

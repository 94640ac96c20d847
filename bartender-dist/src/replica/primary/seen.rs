//! What a primary says of itself and its backups.

use super::{Backup, Primary};
use crate::replica::findings::Scrubs;
use crate::status::{BackupStatus, RegionCounts};
use std::time::Duration;

/// How far a backup is.
#[derive(Debug, Clone, PartialEq)]
pub struct Lag {
    /// Its name.
    pub backup: String,
    /// Whether commits wait for it. They do a moment before the cluster's record has it in sync, and it may take over.
    pub required: bool,
    /// Whether it follows now.
    pub live: bool,
    /// Bytes of log that it has not acknowledged.
    pub bytes: u64,
    /// Since when.
    pub behind: Duration,
}

impl Primary {
    pub(in crate::replica) fn count_scrub(&self, more: Scrubs) {
        self.state.lock().scrubs.add(more);
    }

    /// What all comparisons of copies found.
    pub(crate) fn scrubs(&self) -> Scrubs {
        self.state.lock().scrubs
    }

    /// How far its backups are.
    pub(crate) fn lags(&self) -> Vec<Lag> {
        let state = self.state.lock();
        let lag = |(name, backup): (&String, &Backup)| Lag {
            backup: name.clone(),
            required: backup.required,
            live: backup.live.is_some(),
            bytes: state.written.saturating_sub(backup.acked),
            behind: backup.behind_since.map_or(Duration::ZERO, |s| s.elapsed()),
        };
        state.backups.iter().map(lag).collect()
    }

    /// What it has counted.
    pub(crate) fn counts(&self) -> RegionCounts {
        let state = self.state.lock();
        RegionCounts {
            repaired: state.scrubs.repaired,
            ..state.counts
        }
    }

    /// Up to where the log is written here, and is on all that are required.
    pub(crate) fn written(&self) -> (u64, u64) {
        let state = self.state.lock();
        let required = state.backups.values().filter(|backup| backup.required);
        let acked = required.map(|backup| backup.acked).min();
        let committed = acked.map_or(state.written, |acked| acked.min(state.written));
        (state.written, committed)
    }

    /// How far its backups are, for people.
    pub(crate) fn backups(&self) -> Vec<BackupStatus> {
        let state = self.state.lock();
        let backups = state.backups.iter().map(|(name, backup)| BackupStatus {
            node: name.clone(),
            required: backup.required,
            live: backup.live.is_some(),
            taker: backup.taker,
            lag_bytes: state.written.saturating_sub(backup.acked),
            lag_seconds: backup
                .behind_since
                .map_or(0.0, |since| since.elapsed().as_secs_f64()),
        });
        backups.collect()
    }
}

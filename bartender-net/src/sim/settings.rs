//! How a simulated network behaves.

use std::ops::RangeInclusive;

/// What is drawn from the seed, and within which bounds. Times are milliseconds of the virtual clock, chances parts
/// of a million.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What a message takes one way.
    pub delay: RangeInclusive<u64>,
    /// Chance of a message that takes `slow` instead.
    pub slow_chance: u32,
    /// What a slow message takes.
    pub slow: RangeInclusive<u64>,
    /// Chance of a posted operation that its connection is lost, at an instant of its own for each end.
    pub loss: u32,
    /// Chance of a write or read of more than one line of 64 bytes that its lines are touched at different instants.
    pub tear: u32,
    /// Within which time they are.
    pub tear_within: RangeInclusive<u64>,
    /// Chance of a torn write that it completes before all its lines are in place. Later operations of its connection
    /// never see that; everybody else may.
    pub early: u32,
    /// Chance of a read that it is late, by what `tear_within` allows: it may see what was posted behind it, except to other reads.
    pub late: u32,
    /// What a barrier takes at the target.
    pub persist: RangeInclusive<u64>,
    /// How long an end waits for answers over a cut line before it gives its connection up.
    pub patience: RangeInclusive<u64>,
    /// After which time the ends whose peer died are told.
    pub detect: RangeInclusive<u64>,
    /// How long `connect` tries.
    pub connect_limit: u64,
    /// Virtual time after which [`run`](crate::sim::run) says that a test does not end.
    pub limit: u64,
    /// How many lines of the trace are kept, the newest.
    pub trace: usize,
}

impl Default for Settings {
    /// A calm network: a millisecond each way, nothing is torn, nothing is lost unless a test does it.
    fn default() -> Self {
        Settings {
            delay: 1..=1,
            slow_chance: 0,
            slow: 1..=1,
            loss: 0,
            tear: 0,
            tear_within: 0..=0,
            early: 0,
            late: 0,
            persist: 1..=1,
            patience: 200..=200,
            detect: 20..=20,
            connect_limit: 500,
            limit: 24 * 3_600_000,
            trace: 4096,
        }
    }
}

impl Settings {
    /// Everything that a network does at its worst, except that no connection is lost by itself.
    pub fn rough() -> Self {
        Settings {
            delay: 0..=5,
            slow_chance: 30_000,
            slow: 5..=80,
            tear: 500_000,
            tear_within: 0..=8,
            early: 500_000,
            late: 200_000,
            persist: 0..=20,
            patience: 50..=400,
            detect: 0..=200,
            ..Settings::default()
        }
    }

    /// [`rough`](Self::rough), and connections are lost.
    pub fn lossy() -> Self {
        Settings {
            loss: 2_000,
            ..Settings::rough()
        }
    }
}

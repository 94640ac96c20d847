//! The time by which a member's lease runs out.
//!
//! tokio's clock stands still while the machine is suspended (it is `CLOCK_MONOTONIC`), and a lease does not. So what was
//! slept through is counted beside: by how much more `CLOCK_BOOTTIME` has gone on. Where tokio's time is virtual, that is nothing, and time a
//! function of the seed.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;
use tokio::time::Instant;

/// Less than this was not slept through: the two clocks are not read at once. Far below what a lease has to spare.
const NOTHING: Duration = Duration::from_millis(20);

/// A moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    at: Instant,
    /// What the machine had been suspended for, at least.
    suspended: Duration,
}

impl Moment {
    pub(crate) fn now() -> Moment {
        Moment {
            at: Instant::now(),
            suspended: suspended(),
        }
    }

    /// How long ago that was.
    pub(crate) fn elapsed(&self) -> Duration {
        let slept = suspended().saturating_sub(self.suspended);
        let slept = if slept < NOTHING {
            Duration::ZERO
        } else {
            slept
        };
        self.at.elapsed() + slept
    }
}

/// For how long the machine has been suspended since it started.
fn suspended() -> Duration {
    #[cfg(test)]
    let more = tests::SUSPENDED.get();
    #[cfg(not(test))]
    let more = Duration::ZERO;
    if cfg!(miri) {
        return more;
    }
    let read = |clock| {
        let time = clock_gettime(clock);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    // In this order it is too little, if the thread is held up between the two: the most of some.
    let sample = |_| {
        let boot = read(ClockId::Boottime);
        boot.saturating_sub(read(ClockId::Monotonic))
    };
    (0..2).map(sample).max().unwrap_or_default() + more
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        /// Slept through on top, for this thread.
        pub(crate) static SUSPENDED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_slept_through_has_passed_and_nothing_else_beside_tokios_time() {
        let moment = Moment::now();
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(moment.elapsed(), Duration::ZERO);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(moment.elapsed(), Duration::from_millis(300));
        SUSPENDED.set(Duration::from_secs(60));
        let elapsed = moment.elapsed().as_millis();
        SUSPENDED.set(Duration::ZERO);
        assert!((60_280..60_330).contains(&elapsed), "{elapsed} ms");
    }
}

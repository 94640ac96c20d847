//! Something changed: tells all that listen, in the order in which they began to. (tokio's `watch` wakes its listeners in
//! a random order, and a simulation has to repeat.)

use bartender_pm::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// What may change.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    version: AtomicU64,
    notify: Notify,
}

/// Somebody who has seen what there was when it was made.
#[derive(Debug)]
pub(crate) struct Listener<'s> {
    signal: &'s Signal,
    seen: u64,
}

impl Signal {
    /// It changed.
    pub(crate) fn raise(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.notify.notify_waiters();
    }

    /// Listens from now on.
    pub(crate) fn listen(&self) -> Listener<'_> {
        Listener {
            seen: self.version.load(Ordering::Acquire),
            signal: self,
        }
    }
}

impl Listener<'_> {
    /// Ready once it has changed since this was last ready, or since the listener was made. May be cancelled.
    pub(crate) async fn changed(&mut self) {
        loop {
            // It counts as waiting from here on, before the version is looked at.
            let notified = self.signal.notify.notified();
            let now = self.signal.version.load(Ordering::Acquire);
            if now != self.seen {
                self.seen = now;
                return;
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_change_is_missed() {
        let signal = Signal::default();
        let mut listener = signal.listen();
        signal.raise();
        signal.raise();
        listener.changed().await;
        let mut other = signal.listen();
        tokio::join!(listener.changed(), other.changed(), async {
            tokio::task::yield_now().await;
            signal.raise();
        });
    }
}

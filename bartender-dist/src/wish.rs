//! Who on this node wants to use a region: the tasks that wait for their turn.

use crate::signal::Signal;
use bartender_pm::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// How many wait, and that this changed. A node with a wish for a region is a *taker* of it, one without a *keeper*.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    waiting: AtomicU64,
    pub(crate) changed: Signal,
}

/// Somebody who waits, for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Wish>);

impl Wish {
    /// Somebody waits from now on.
    pub(crate) fn wait(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        self.changed.raise();
        Waiting(self.clone())
    }

    /// Whether anybody does.
    pub(crate) fn is_there(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.raise();
    }
}

//! The barriers that a peer wants: run one after the other, in the order in which they came, and answered. So many may
//! wait for their turn or for their answer to be sent; who wants more is cut off, as over TCP.

use super::table::Barrier;
use crate::layout::MAX_IN_FLIGHT;
use std::collections::VecDeque;

/// A barrier that the peer wants.
pub(super) struct Wish {
    pub(super) id: u64,
    pub(super) granted: Result<Barrier, String>,
}

impl Wish {
    /// Runs it; it may block.
    pub(super) fn run(self) -> (u64, Result<(), String>) {
        let done = self
            .granted
            .and_then(|(memory, ranges)| memory.persist(&ranges));
        (self.id, done)
    }
}

/// See the top of this file.
#[derive(Default)]
pub(super) struct Wishes {
    /// In the order in which they came.
    waiting: VecDeque<Wish>,
    /// Whether somebody runs them.
    running: bool,
    /// Taken, and their answer is not on its way.
    owed: usize,
}

impl Wishes {
    /// Takes one in; `None` if it is more than may be unanswered.
    pub(super) fn take(&mut self, wish: Wish) -> Option<()> {
        if self.owed >= MAX_IN_FLIGHT as usize {
            return None;
        }
        self.owed += 1;
        self.waiting.push_back(wish);
        Some(())
    }

    /// The first, if nobody runs any. Who takes it runs those behind it, too.
    pub(super) fn first(&mut self) -> Option<Wish> {
        if self.running { None } else { self.next() }
    }

    /// The next, for who runs them; without one nobody does any more.
    pub(super) fn next(&mut self) -> Option<Wish> {
        let wish = self.waiting.pop_front();
        self.running = wish.is_some();
        wish
    }

    /// The answer to one was given to the card.
    pub(super) fn answered(&mut self) {
        self.owed = self.owed.saturating_sub(1);
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Nobody wants them any more. One that is being run goes on.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(id: u64) -> Wish {
        let granted = Err("no".into());
        Wish { id, granted }
    }

    #[test]
    fn a_flood_of_wishes_is_bounded_whatever_they_wait_for() {
        let mut wishes = Wishes::default();
        let most = u64::from(MAX_IN_FLIGHT);
        for id in 0..most {
            wishes.take(wish(id)).unwrap();
        }
        assert!(wishes.take(wish(most)).is_none());
        // Those that were run count until their answers leave: a peer may take none.
        for id in 0..most {
            let next = if id == 0 {
                wishes.first()
            } else {
                wishes.next()
            };
            assert_eq!(next.unwrap().id, id);
            assert!(wishes.take(wish(most)).is_none());
        }
        wishes.answered();
        wishes.take(wish(most)).unwrap();
        assert!(wishes.take(wish(most)).is_none());
    }

    #[test]
    fn one_runs_them_at_a_time() {
        let mut wishes = Wishes::default();
        wishes.take(wish(1)).unwrap();
        wishes.take(wish(2)).unwrap();
        assert_eq!(wishes.first().unwrap().id, 1);
        assert!(wishes.first().is_none());
        assert_eq!(wishes.next().unwrap().id, 2);
        assert!(wishes.next().is_none());
        assert!(wishes.first().is_none());
        wishes.take(wish(3)).unwrap();
        assert_eq!(wishes.first().unwrap().id, 3);
    }
}

//! What was posted to the card and is not complete: numbers, buffers, and how completions of signalled work requests
//! speak for those before them.

use super::device::Registered;
use crate::operation::{Completer, Outcome};
use bytes::Bytes;
use std::collections::VecDeque;

/// What a work request keeps until it has landed.
pub(super) enum Keep {
    /// Nothing: its bytes travelled with it.
    Nothing,
    /// A buffer of the slab.
    Slot(u16),
    /// The program's own bytes.
    Bytes(Registered, #[expect(dead_code, reason = "held")] Bytes),
    /// Where a large read goes.
    Into(Registered, Vec<u8>),
}

/// What an operation gives once it has landed.
pub(super) enum Gives {
    /// Nothing.
    Done,
    /// So many bytes of its buffer.
    Bytes(usize),
    /// The word in its buffer.
    Word,
    /// What the target answers to this number.
    Answer(u64),
}

/// The last work request of an operation carries its end.
pub(super) struct End {
    pub(super) name: &'static str,
    pub(super) completer: Completer,
    pub(super) gives: Gives,
    /// Ready to be told.
    pub(super) outcome: Option<Result<Outcome, String>>,
}

/// One work request.
pub(super) struct Flying {
    pub(super) number: u64,
    pub(super) keep: Keep,
    pub(super) end: Option<End>,
}

/// All of one connection's, in order.
#[derive(Default)]
pub(super) struct Flight {
    flying: VecDeque<Flying>,
    /// How many of the first have landed.
    landed: usize,
    /// Numbers given.
    posted: u64,
    /// Numbers that have landed.
    arrived: u64,
    /// Since the last signalled one.
    silent: u64,
}

/// Work requests that may be under way.
pub(super) const DEPTH: u64 = 128;
/// One in so many is signalled, at least.
const EVERY: u64 = DEPTH / 4;

impl Flight {
    /// Whether another one may be posted: the send queue never overflows, and one for an answer is left.
    pub(super) fn has_room(&self, answer: bool) -> bool {
        let keep = if answer { 0 } else { EVERY };
        self.posted - self.arrived + keep < DEPTH
    }

    /// Takes one in, and says its number and whether it is to be signalled. The last of a batch always is.
    pub(super) fn push(&mut self, keep: Keep, end: Option<End>, last: bool) -> (u64, bool) {
        self.posted += 1;
        let number = self.posted;
        self.silent += 1;
        let signal = last || self.silent >= EVERY;
        if signal {
            self.silent = 0;
        }
        self.flying.push_back(Flying { number, keep, end });
        (number, signal)
    }

    /// Whether nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.flying.is_empty()
    }

    /// All up to `number` have landed: hands each to `land` once.
    pub(super) fn land(&mut self, number: u64, mut land: impl FnMut(&mut Flying)) {
        self.arrived = self.arrived.max(number);
        while let Some(next) = self.flying.get_mut(self.landed) {
            if next.number > self.arrived {
                break;
            }
            land(next);
            self.landed += 1;
        }
    }

    /// The target answered; whether something waited for that.
    pub(super) fn answer(&mut self, id: u64, answer: Result<(), String>) -> bool {
        let ends = self
            .flying
            .iter_mut()
            .filter_map(|flying| flying.end.as_mut());
        for end in ends {
            if matches!(end.gives, Gives::Answer(of) if of == id) && end.outcome.is_none() {
                end.outcome = Some(answer.map(|()| Outcome::Done));
                return true;
            }
        }
        false
    }

    /// The next that is to be told, in order.
    pub(super) fn next(&mut self) -> Option<Flying> {
        if self.landed == 0 {
            return None;
        }
        let first = self.flying.front()?;
        if first.end.as_ref().is_some_and(|end| end.outcome.is_none()) {
            return None;
        }
        self.landed -= 1;
        self.flying.pop_front()
    }

    /// Everything, for when the card does not have it any more.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Flying> + '_ {
        self.landed = 0;
        self.flying.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_so_many_is_signalled_and_the_queue_never_overflows() {
        let mut flight = Flight::default();
        let mut signalled = Vec::new();
        while flight.has_room(true) {
            let (number, signal) = flight.push(Keep::Nothing, None, false);
            if signal {
                signalled.push(number);
            }
        }
        assert_eq!(signalled, [32, 64, 96, 128]);
        let mut landed = Vec::new();
        flight.land(32, |flying| landed.push(flying.number));
        assert_eq!(landed, (1..=32).collect::<Vec<_>>());
        assert!(flight.has_room(true));
        assert!(!flight.has_room(false), "room for answers is kept");
    }

    #[test]
    fn nothing_is_told_before_what_was_posted_before() {
        let mut flight = Flight::default();
        let end = |gives| {
            let (posted, _pending) = crate::operation::Pending::<()>::new(
                crate::operation::Operation::Send {
                    bytes: Bytes::new(),
                },
                |_| None,
            );
            End {
                name: "send",
                completer: posted.completer,
                gives,
                outcome: None,
            }
        };
        flight.push(Keep::Nothing, Some(end(Gives::Answer(7))), true);
        flight.push(Keep::Nothing, Some(end(Gives::Done)), true);
        flight.land(2, |flying| {
            let end = flying.end.as_mut().unwrap();
            if matches!(end.gives, Gives::Done) {
                end.outcome = Some(Ok(Outcome::Done));
            }
        });
        assert!(flight.next().is_none());
        assert!(!flight.answer(8, Ok(())));
        assert!(flight.answer(7, Err("no".into())));
        assert!(!flight.answer(7, Ok(())), "one answer counts");
        assert!(matches!(
            flight.next().unwrap().end.unwrap().outcome,
            Some(Err(_))
        ));
        assert!(flight.next().is_some());
        assert!(flight.next().is_none());
    }
}

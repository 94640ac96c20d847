//! What one frame does: an operation of the peer's to our memory, or the answer to one of ours.

use super::{Body, Driver, State, Stop};
use crate::error::Error;
use crate::layout::{self, Frame, MAX_IN_FLIGHT, MESSAGE_COST};
use crate::memory::Access;
use crate::operation::Outcome;
use crate::registry::Registration;
use crate::tcp::link::{Expected, InFlight};
use crate::tcp::outbox::SMALL_READ;
use bartender_pm::sync::atomic::Ordering;
use bytes::Bytes;
use std::sync::Arc;

/// Answers that are gathered before reads wait for the socket.
const GATHERED: usize = 256 << 10;

impl Driver {
    /// Does the next frame; whether there was a whole one.
    pub(super) fn frame(&mut self) -> Result<bool, Stop> {
        // The frame borrows the input, and what it asks for changes everything else.
        let buffer = std::mem::take(&mut self.input.buffer);
        let parsed = layout::parse(&buffer[self.input.start..self.input.end]);
        let done = match parsed {
            Ok(None) => Ok(false),
            Ok(Some((frame, taken))) => {
                self.input.start += taken;
                self.act(frame).map(|()| true)
            }
            Err(what) => Err(Stop::Damaged(what)),
        };
        self.input.buffer = buffer;
        done
    }

    fn act(&mut self, frame: Frame<'_>) -> Result<(), Stop> {
        match frame {
            Frame::Read { key, offset, len } => {
                let from = self.find(key, Access::READ, offset, u64::from(len))?;
                self.read(from, offset, len)
            }
            Frame::Write {
                key,
                offset,
                len,
                immediate,
            } => {
                let to = self.find(key, Access::WRITE, offset, u64::from(len))?;
                if immediate.is_some() {
                    self.count(0)?;
                }
                let (offset, left) = (offset as usize, len as usize);
                self.body = Body::Write {
                    to: Arc::downgrade(&to),
                    offset,
                    left,
                    immediate,
                };
                Ok(())
            }
            Frame::CompareSwap {
                key,
                offset,
                expected,
                new,
            } => {
                let at = self.find_word(key, offset)?;
                let inside = at.enter().ok_or_else(|| self.unknown_key())?;
                let word = inside.word(offset as usize);
                let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
                let before = word.compare_exchange(expected, new, success, failure);
                self.put(&Frame::Word {
                    word: before.unwrap_or_else(|found| found),
                });
                Ok(())
            }
            Frame::FetchAdd {
                key,
                offset,
                addend,
            } => {
                let at = self.find_word(key, offset)?;
                let inside = at.enter().ok_or_else(|| self.unknown_key())?;
                let before = inside
                    .word(offset as usize)
                    .fetch_add(addend, Ordering::AcqRel);
                self.put(&Frame::Word { word: before });
                Ok(())
            }
            Frame::Persist { key, ranges } => {
                let at = self.find(key, Access::WRITE, 0, 0)?;
                let ranges = ranges
                    .iter()
                    .map(|range| (range.offset.get(), range.len.get()));
                let ranges: Vec<(u64, u64)> = ranges.collect();
                let outside = ranges
                    .iter()
                    .find(|(offset, len)| !at.allows(Access::WRITE, *offset, *len));
                if let Some(&(offset, len)) = outside {
                    return Err(self.deny(&Frame::OutOfBounds {
                        offset,
                        len,
                        size: at.len(),
                    }));
                }
                let persisted = if self.may_block_in_place {
                    tokio::task::block_in_place(|| at.memory().persist(&ranges))
                } else {
                    at.memory().persist(&ranges)
                };
                match persisted {
                    Ok(()) => self.done += 1,
                    Err(reason) => return Err(self.deny(&Frame::Refused { reason: &reason })),
                }
                Ok(())
            }
            Frame::Send { len } => {
                self.count(len)?;
                let left = len as usize;
                self.body = Body::Message {
                    bytes: Vec::with_capacity(left),
                    left,
                };
                Ok(())
            }
            answer => self.answered(answer),
        }
    }

    /// An answer of the peer's to an operation of ours.
    fn answered(&mut self, answer: Frame<'_>) -> Result<(), Stop> {
        self.answered = true;
        if let Frame::Done { count } = answer {
            for _ in 0..count {
                self.next(Expected::Done)?
                    .completer
                    .complete(Ok(Outcome::Done));
            }
            return Ok(());
        }
        match answer {
            Frame::Bytes { len: 0 } => {
                let to = self.next(Expected::Bytes(0))?;
                to.completer.complete(Ok(Outcome::Bytes(Bytes::new())));
            }
            Frame::Bytes { len } => {
                self.is_next(&self.shared.state(), Expected::Bytes(len))?;
                let left = len as usize;
                self.body = Body::Answer {
                    bytes: self.buffers.take(left),
                    left,
                };
            }
            Frame::Word { word } => {
                let to = self.next(Expected::Word)?;
                to.completer.complete(Ok(Outcome::Word(word)));
            }
            Frame::Grant { bytes } => {
                let granted = self.shared.state().grant(bytes, self.shared.limits());
                granted.map_err(Stop::Damaged)?;
            }
            _ => {
                let front = self.shared.state().in_flight.pop_front();
                let failed = front.ok_or_else(|| Stop::Damaged("an answer to nothing".into()))?;
                let (peer, operation) = (self.shared.peer.address.clone(), failed.name);
                failed.completer.complete(Err(match answer {
                    Frame::OutOfBounds { offset, len, size } => Error::OutOfBounds {
                        peer,
                        operation,
                        offset,
                        len,
                        size,
                    },
                    Frame::Refused { reason } => Error::Refused {
                        peer,
                        operation,
                        reason: reason.into(),
                    },
                    _ => return Err(Stop::Damaged("an answer of an unknown kind".into())),
                }));
                return Err(Stop::Failed);
            }
        }
        Ok(())
    }

    /// Whether an answer is of the kind that the first operation waits for.
    fn is_next(&self, state: &State, answer: Expected) -> Result<(), Stop> {
        match state.in_flight.front() {
            Some(operation) if operation.expected == answer => Ok(()),
            Some(operation) => {
                let what = format!("{answer:?} as the answer to {}", operation.name);
                Err(Stop::Damaged(what))
            }
            None if state.end.is_some() => Err(Stop::Ended),
            None => Err(Stop::Damaged("an answer to nothing".into())),
        }
    }

    /// The operation that an answer is for, which is here; if it is of its kind.
    pub(super) fn next(&self, answer: Expected) -> Result<InFlight, Stop> {
        let mut state = self.shared.state();
        self.is_next(&state, answer)?;
        state.in_flight.pop_front().ok_or(Stop::Ended)
    }

    /// Counts a message against what the peer was told there is room for.
    fn count(&mut self, len: u32) -> Result<(), Stop> {
        self.received += u64::from(len) + u64::from(MESSAGE_COST);
        if self.received > self.shared.granted() {
            return Err(Stop::Damaged("more messages than there is room for".into()));
        }
        Ok(())
    }

    fn read(&mut self, from: Arc<Registration>, offset: u64, len: u32) -> Result<(), Stop> {
        if len <= SMALL_READ && !self.congested && self.answers.len() < GATHERED {
            let inside = from.enter().ok_or_else(|| self.unknown_key())?;
            self.put(&Frame::Bytes { len });
            let start = self.answers.len();
            self.answers.resize(start + len as usize, 0);
            inside.load(offset as usize, &mut self.answers[start..]);
            return Ok(());
        }
        self.put(&Frame::Bytes { len });
        let mut state = self.shared.state();
        let Some(outbox) = &mut state.outbox else {
            return Err(Stop::Ended);
        };
        outbox.answer(&self.answers);
        self.answers.clear();
        if len > 0 {
            outbox.region(&from, offset, u64::from(len));
        }
        drop(state);
        // There is something to be sent, and reads behind it wait too.
        self.answered = true;
        self.congested = true;
        Ok(())
    }

    /// The memory that `key` leads to, if it may be touched so.
    fn find(
        &mut self,
        key: u64,
        needed: Access,
        offset: u64,
        len: u64,
    ) -> Result<Arc<Registration>, Stop> {
        let Some(found) = self.registry.find(key) else {
            return Err(self.unknown_key());
        };
        if !found.allows(needed, offset, len) {
            return Err(self.deny(&Frame::OutOfBounds {
                offset,
                len,
                size: found.len(),
            }));
        }
        Ok(found)
    }

    /// The same for an aligned word.
    fn find_word(&mut self, key: u64, offset: u64) -> Result<Arc<Registration>, Stop> {
        let found = self.find(key, Access::ATOMIC, offset, 8)?;
        if !offset.is_multiple_of(8) {
            let reason = "the offset is not a multiple of 8";
            return Err(self.deny(&Frame::Refused { reason }));
        }
        Ok(found)
    }

    pub(super) fn unknown_key(&mut self) -> Stop {
        let reason = "no memory region has this key; it was revoked, or never given";
        self.deny(&Frame::Refused { reason })
    }

    /// Answers that an operation failed; it is the last answer.
    fn deny(&mut self, failed: &Frame<'_>) -> Stop {
        self.put(failed);
        Stop::Denied
    }

    /// Puts an answer behind those before it.
    fn put(&mut self, answer: &Frame<'_>) {
        self.put_done();
        answer.put(&mut self.answers);
    }

    pub(super) fn put_done(&mut self) {
        while self.done > 0 {
            let count = self.done.min(MAX_IN_FLIGHT);
            Frame::Done { count }.put(&mut self.answers);
            self.done -= count;
        }
    }
}

//! What comes: completions of what was posted, and messages, which are understood or end the connection.

use super::{COST, Inner, Shared, WINDOW};
use crate::error::{Error, ONE_SIDED};
use crate::layout::{self, verbs as wire};
use crate::operation::{Outcome, Received};
use crate::verbs::ffi;
use crate::verbs::flight::{End, Gives, Keep};
use crate::verbs::slab::{RECV_IDS, RECVS, SENDS, SLOT};
use crate::verbs::wishes::Wish;
use bytes::Bytes;
use std::io::ErrorKind;
use zerocopy::FromBytes;

impl Shared {
    /// Takes a completion; whether something arrived.
    pub(super) fn completed(&self, inner: &mut Inner, completion: &ffi::Wc) -> bool {
        if inner.pair.is_none() {
            return false;
        }
        if completion.wr_id >= RECV_IDS {
            if completion.status != 0 {
                self.fall_inner(inner, ErrorKind::ConnectionReset, None);
                return true;
            }
            return self.arrived(inner, completion);
        }
        let number = completion.wr_id;
        // What was posted before one that failed has landed.
        let upto = number - u64::from(completion.status != 0);
        let slab = &mut inner.slab;
        inner.flight.land(upto, |flying| {
            let keep = std::mem::replace(&mut flying.keep, Keep::Nothing);
            let slot = match &keep {
                Keep::Slot(slot) => Some(usize::from(*slot)),
                _ => None,
            };
            if let Some(end) = &mut flying.end {
                let outcome = match (&end.gives, slot) {
                    (Gives::Answer(_), _) => None,
                    (Gives::Bytes(len), Some(slot)) => {
                        let bytes = Bytes::copy_from_slice(slab.bytes(slot, *len));
                        Some(Outcome::Bytes(bytes))
                    }
                    (Gives::Word, Some(slot)) => {
                        let word = slab.bytes(slot, 8).try_into().unwrap_or_default();
                        Some(Outcome::Word(u64::from_ne_bytes(word)))
                    }
                    _ => Some(Outcome::Done),
                };
                if let Some(outcome) = outcome {
                    end.outcome = Some(Ok(outcome));
                }
            }
            match keep {
                Keep::Slot(slot) => slab.give(slot),
                Keep::Into(region, buffer) => {
                    drop(region);
                    if let Some(end) = &mut flying.end {
                        end.outcome = Some(Ok(Outcome::Bytes(buffer.into())));
                    }
                }
                Keep::Nothing | Keep::Bytes(..) => {}
            }
        });
        if completion.status != 0 {
            self.tell(inner);
            let (why, error) = self.failure(completion.status);
            self.fall_inner(inner, why, error.map(|error| (number, error)));
        }
        completion.status != 0
    }

    /// What a failed work request means.
    fn failure(&self, status: u32) -> (ErrorKind, Option<Error>) {
        match status {
            ffi::STATUS_ACCESS | ffi::STATUS_INVALID_REQUEST | ffi::STATUS_OPERATION => {
                let refused = Error::Refused {
                    peer: self.peer.name.clone(),
                    operation: ONE_SIDED,
                    reason: format!(
                        "its card denies it (status {status}): no such key, not its right, or out of bounds"
                    ),
                };
                (ErrorKind::ConnectionAborted, Some(refused))
            }
            ffi::STATUS_RETRY => (ErrorKind::TimedOut, None),
            _ => (ErrorKind::ConnectionReset, None),
        }
    }

    /// Tells what is complete, in order.
    pub(super) fn tell(&self, inner: &mut Inner) {
        while let Some(flying) = inner.flight.next() {
            let Some(End {
                name,
                completer,
                outcome: Some(outcome),
                ..
            }) = flying.end
            else {
                continue;
            };
            match outcome {
                Ok(outcome) => inner.told.push((completer, Ok(outcome))),
                Err(reason) => {
                    let error = Error::Refused {
                        peer: self.peer.name.clone(),
                        operation: name,
                        reason,
                    };
                    inner.told.push((completer, Err(error)));
                    return self.fall_inner(inner, ErrorKind::ConnectionAborted, None);
                }
            }
        }
        if inner.flight.is_empty() && inner.waiting.is_empty() && inner.fault.is_some() {
            self.fall_inner(inner, ErrorKind::ConnectionAborted, None);
        }
    }

    /// Takes what came, and gives its buffer back to the card.
    fn arrived(&self, inner: &mut Inner, completion: &ffi::Wc) -> bool {
        let recv = (completion.wr_id - RECV_IDS) as usize;
        let mut fine = recv < RECVS;
        if fine && completion.opcode == ffi::WC_RECV_IMM {
            let immediate = u32::from_be(completion.imm_data);
            inner.inbox.push_back(Received::Immediate(immediate));
            inner.held += COST;
        } else if fine && completion.opcode == ffi::WC_RECV {
            let len = (completion.byte_len as usize).min(SLOT);
            let bytes = inner.slab.bytes(SENDS + recv, len).to_vec();
            fine = self.understood(inner, &bytes).is_some();
        }
        fine &= inner.held <= WINDOW;
        if fine && let Some(pair) = &inner.pair {
            fine = inner.slab.post(pair, recv);
        }
        if !fine {
            tracing::warn!(
                peer = self.peer.address,
                "cut off: damaged messages, or too many"
            );
            self.fall_inner(inner, ErrorKind::InvalidData, None);
        }
        true
    }

    /// Takes a message between queue pairs; `None` if it makes no sense.
    fn understood(&self, inner: &mut Inner, bytes: &[u8]) -> Option<()> {
        let (head, body) = wire::Head::read_from_prefix(bytes).ok()?;
        match head.kind {
            wire::MESSAGE => {
                inner.message.extend_from_slice(body);
                if inner.message.len() > layout::MAX_MESSAGE as usize {
                    return None;
                }
                if head.more == 0 {
                    let message = std::mem::take(&mut inner.message);
                    inner.held += message.len() as u64 + COST;
                    inner.inbox.push_back(Received::Message(message.into()));
                }
            }
            wire::PERSIST => {
                inner.wish.extend_from_slice(body);
                if inner.wish.len() > 16 * (1 + layout::MAX_RANGES as usize) {
                    return None;
                }
                if head.more == 0 {
                    let wish = std::mem::take(&mut inner.wish);
                    let (head, rest) = wire::Persist::read_from_prefix(&wish).ok()?;
                    let ranges = <[wire::Range]>::ref_from_bytes(rest).ok()?;
                    let ranges = ranges
                        .iter()
                        .map(|r| (r.offset.get(), r.len.get()))
                        .collect();
                    let granted = self.table.grant(head.key.get(), ranges);
                    let id = head.id.get();
                    inner.wishes.take(Wish { id, granted })?;
                }
            }
            wire::NOTHING => {}
            wire::GRANT => {
                let more = u64::from_le_bytes(body.try_into().ok()?);
                inner.credit = inner
                    .credit
                    .checked_add(more)
                    .filter(|sum| *sum <= WINDOW)?;
            }
            wire::ANSWER => {
                let (answer, reason) = wire::Answer::read_from_prefix(body).ok()?;
                let outcome = match answer.failed {
                    0 => Ok(()),
                    _ => Err(String::from_utf8_lossy(reason).into_owned()),
                };
                if inner.flight.answer(answer.id.get(), outcome) {
                    inner.asked -= 1;
                }
                self.tell(inner);
            }
            _ => return None,
        }
        Some(())
    }
}

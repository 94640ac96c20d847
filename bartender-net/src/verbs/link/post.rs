//! How operations become work requests, as far as there is room on the card and at the peer.

use super::{BODY, Inner, Shared, Waiting};
use crate::error::{Error, Result};
use crate::layout::{self, verbs as wire};
use crate::memory::{Access, PersistMethod, RemoteMemory};
use crate::operation::Operation;
use crate::verbs::device::Registered;
use crate::verbs::ffi;
use crate::verbs::flight::{End, Gives, Keep};
use crate::verbs::slab::SLOT;
use bytes::Bytes;
use std::io::ErrorKind;
use zerocopy::IntoBytes;

impl Shared {
    /// Posts what there is room for.
    pub(super) fn pump(&self, inner: &mut Inner) {
        while inner.pair.is_some() && inner.flight.has_room(true) {
            let Some(slot) = (!inner.answers.is_empty())
                .then(|| inner.slab.take())
                .flatten()
            else {
                break;
            };
            let (kind, answer) = inner.answers.pop_front().unwrap_or_default();
            if kind == wire::ANSWER {
                inner.wishes.answered();
            }
            let head = head(kind, false);
            let len = inner.slab.fill(slot, &[head.as_bytes(), &answer]);
            let (keep, piece) = (Keep::Slot(slot), inner.slab.piece(slot.into(), len));
            self.request(inner, ffi::WR_SEND, [0; 4], piece, 0, keep, None, true);
        }
        while inner.pair.is_some() && inner.flight.has_room(false) && inner.slab.has_room() {
            if inner.is_blocked() {
                return;
            }
            let Some(waiting) = inner.waiting.pop_front() else {
                return;
            };
            if waiting.sent == 0 {
                inner.credit -= waiting.cost();
                inner.asked += usize::from(waiting.asks());
            }
            self.step(inner, waiting);
        }
    }

    /// Posts the next work request of an operation; what is left of it waits in front.
    fn step(&self, inner: &mut Inner, mut waiting: Waiting) {
        // Nothing else follows: it has to say when it has landed.
        let last = inner.waiting.is_empty() || inner.is_blocked();
        match &waiting.operation {
            Operation::Read { from, offset, len } => {
                let (from, offset, len) = (*from, *offset, *len as usize);
                if len == 0 {
                    let (nothing, gives) = (Bytes::new(), Gives::Bytes(0));
                    return self.message(inner, waiting, wire::NOTHING, nothing, gives, last);
                }
                let address = from.base.wrapping_add(offset);
                if len <= SLOT {
                    let Some(slot) = inner.slab.take() else {
                        return;
                    };
                    let piece = inner.slab.piece(slot.into(), len);
                    let end = end(waiting, Gives::Bytes(len));
                    let words = [address, from.key & 0xffff_ffff, 0, 0];
                    let keep = Keep::Slot(slot);
                    return self.request(
                        inner,
                        ffi::WR_READ,
                        words,
                        piece,
                        0,
                        keep,
                        Some(end),
                        last,
                    );
                }
                let keep = match waiting.keep.take() {
                    Some(keep) => Ok(keep),
                    None => self.room(len),
                };
                let (region, mut buffer) = match keep {
                    Ok(Keep::Into(region, buffer)) => (region, buffer),
                    Ok(_) => return,
                    Err(error) => return self.local(inner, waiting, error),
                };
                let sent = waiting.sent;
                let part = (len - sent).min(self.device.message_limit() as usize);
                let piece = ffi::Sge {
                    addr: buffer.as_mut_ptr() as u64 + sent as u64,
                    length: part as u32,
                    lkey: region.local_key(),
                };
                let words = [address + sent as u64, from.key & 0xffff_ffff, 0, 0];
                let keep = Keep::Into(region, buffer);
                if sent + part < len {
                    waiting.sent += part;
                    waiting.keep = Some(keep);
                    let nothing = Keep::Nothing;
                    self.request(inner, ffi::WR_READ, words, piece, 0, nothing, None, false);
                    return self.back(inner, waiting);
                }
                let end = end(waiting, Gives::Done);
                self.request(inner, ffi::WR_READ, words, piece, 0, keep, Some(end), last);
            }
            Operation::Write {
                to,
                offset,
                bytes,
                immediate,
            } => {
                let (to, offset, bytes, immediate) = (*to, *offset, bytes.clone(), *immediate);
                let address = to.base.wrapping_add(offset);
                if bytes.is_empty() && immediate.is_none() {
                    return self.message(inner, waiting, wire::NOTHING, bytes, Gives::Done, last);
                }
                let sent = waiting.sent;
                let part = (bytes.len() - sent).min(self.device.message_limit() as usize);
                let inline = inner.pair.as_ref().map_or(0, |pair| pair.inline) as usize;
                let whole = bytes.len() <= SLOT;
                let (piece, keep, flags) = if bytes.len() <= inline {
                    let piece = ffi::Sge {
                        addr: bytes.as_ptr() as u64,
                        length: bytes.len() as u32,
                        lkey: 0,
                    };
                    (piece, Keep::Nothing, ffi::SEND_INLINE)
                } else if whole {
                    let Some(slot) = inner.slab.take() else {
                        return;
                    };
                    inner.slab.fill(slot, &[&bytes]);
                    let piece = inner.slab.piece(slot.into(), bytes.len());
                    (piece, Keep::Slot(slot), 0)
                } else {
                    let keep = match waiting.keep.take() {
                        Some(keep) => Ok(keep),
                        None => self.pinned(&bytes),
                    };
                    let region = match keep {
                        Ok(Keep::Bytes(region, _)) => region,
                        Ok(_) => return,
                        Err(error) => return self.local(inner, waiting, error),
                    };
                    let piece = ffi::Sge {
                        addr: bytes.as_ptr() as u64 + sent as u64,
                        length: part as u32,
                        lkey: region.local_key(),
                    };
                    (piece, Keep::Bytes(region, bytes.clone()), 0)
                };
                let words = [address + sent as u64, to.key & 0xffff_ffff, 0, 0];
                if sent + part < bytes.len() {
                    waiting.sent += part;
                    waiting.keep = Some(keep);
                    let nothing = Keep::Nothing;
                    self.request(inner, ffi::WR_WRITE, words, piece, 0, nothing, None, false);
                    return self.back(inner, waiting);
                }
                let end = end(waiting, Gives::Done);
                let (opcode, immediate) = match immediate {
                    Some(immediate) => (ffi::WR_WRITE_IMM, immediate),
                    None => (ffi::WR_WRITE, 0),
                };
                // Inline bytes are `bytes`, alive until the request was posted.
                let immediate = (immediate, flags);
                self.request_with(
                    inner,
                    opcode,
                    words,
                    piece,
                    immediate,
                    keep,
                    Some(end),
                    last,
                );
            }
            Operation::CompareSwap {
                at,
                offset,
                expected,
                new,
            } => {
                let (at, offset, operands) = (*at, *offset, [*expected, *new]);
                self.atomic(
                    inner,
                    waiting,
                    ffi::WR_COMPARE_SWAP,
                    at,
                    offset,
                    operands,
                    last,
                );
            }
            Operation::FetchAdd { at, offset, add } => {
                let (at, offset, operands) = (*at, *offset, [*add, 0]);
                self.atomic(
                    inner,
                    waiting,
                    ffi::WR_FETCH_ADD,
                    at,
                    offset,
                    operands,
                    last,
                );
            }
            Operation::Persist { at, ranges } => {
                let at = *at;
                if let Some(offset) = by_reading(&at, ranges) {
                    let Some(slot) = inner.slab.take() else {
                        return;
                    };
                    let piece = inner.slab.piece(slot.into(), 1);
                    let words = [at.base.wrapping_add(offset), at.key & 0xffff_ffff, 0, 0];
                    let (end, keep) = (end(waiting, Gives::Done), Keep::Slot(slot));
                    return self.request(
                        inner,
                        ffi::WR_READ,
                        words,
                        piece,
                        0,
                        keep,
                        Some(end),
                        last,
                    );
                }
                let (id, wish) = match waiting.wish.take() {
                    Some(wish) => wish,
                    None => {
                        inner.next_wish += 1;
                        (inner.next_wish, wish(inner.next_wish, at.key, ranges))
                    }
                };
                waiting.wish = Some((id, wish.clone()));
                self.message(inner, waiting, wire::PERSIST, wish, Gives::Answer(id), last);
            }
            Operation::Send { bytes } => {
                let bytes = bytes.clone();
                self.message(inner, waiting, wire::MESSAGE, bytes, Gives::Done, last);
            }
        }
    }

    /// Posts the next part of a message between queue pairs.
    fn message(
        &self,
        inner: &mut Inner,
        mut waiting: Waiting,
        kind: u8,
        body: Bytes,
        gives: Gives,
        last: bool,
    ) {
        let Some(slot) = inner.slab.take() else {
            return;
        };
        let part = body.slice(waiting.sent..body.len().min(waiting.sent + BODY));
        let more = waiting.sent + part.len() < body.len();
        let len = inner.slab.fill(slot, &[head(kind, more).as_bytes(), &part]);
        let (keep, piece) = (Keep::Slot(slot), inner.slab.piece(slot.into(), len));
        if more {
            waiting.sent += part.len();
            self.request(inner, ffi::WR_SEND, [0; 4], piece, 0, keep, None, false);
            return self.back(inner, waiting);
        }
        let end = end(waiting, gives);
        self.request(inner, ffi::WR_SEND, [0; 4], piece, 0, keep, Some(end), last);
    }

    #[expect(clippy::too_many_arguments)]
    fn atomic(
        &self,
        inner: &mut Inner,
        waiting: Waiting,
        opcode: u32,
        at: RemoteMemory,
        offset: u64,
        operands: [u64; 2],
        last: bool,
    ) {
        let address = at.base.wrapping_add(offset);
        let Some(slot) = inner.slab.take() else {
            return;
        };
        let piece = inner.slab.piece(slot.into(), 8);
        let words = [address, operands[0], operands[1], at.key & 0xffff_ffff];
        let (end, keep) = (end(waiting, Gives::Word), Keep::Slot(slot));
        self.request(inner, opcode, words, piece, 0, keep, Some(end), last);
    }

    /// What is left of an operation goes on first.
    fn back(&self, inner: &mut Inner, waiting: Waiting) {
        if inner.closed.is_some() {
            let error = self.broken(waiting.operation.name(), ErrorKind::ConnectionReset);
            return inner.told.push((waiting.completer, Err(error)));
        }
        inner.waiting.push_front(waiting);
    }

    /// An operation that cannot be posted: it fails in its turn, and the connection with it.
    fn local(&self, inner: &mut Inner, waiting: Waiting, error: Error) {
        let name = waiting.operation.name();
        tracing::debug!(peer = self.peer.address, name, "{error}");
        // Those before it may still land; their outcome is as unknown as after any end.
        inner.waiting.push_front(waiting);
        self.fall_inner(inner, ErrorKind::ConnectionAborted, Some((u64::MAX, error)));
    }

    /// What can be told without asking: the card checks the rest.
    pub(super) fn check(&self, operation: &Operation) -> Option<Error> {
        let moved = match operation {
            Operation::Read { len, .. } => u64::from(*len),
            Operation::Write { bytes, .. } => bytes.len() as u64,
            _ => 0,
        };
        if moved > u64::from(layout::MAX_TRANSFER) {
            let bound = layout::MAX_TRANSFER;
            return Some(Error::Refused {
                peer: self.peer.name.clone(),
                operation: operation.name(),
                reason: format!("{moved} bytes, and one operation takes {bound}"),
            });
        }
        let (at, ranges): (_, &[(u64, u64)]) = match operation {
            Operation::Read { from, offset, len } => (from, &[(*offset, u64::from(*len))]),
            Operation::Write {
                to, offset, bytes, ..
            } => (to, &[(*offset, bytes.len() as u64)]),
            Operation::CompareSwap { at, offset, .. } | Operation::FetchAdd { at, offset, .. } => {
                (at, &[(*offset, 8)])
            }
            Operation::Persist { at, ranges } if ranges.len() > layout::MAX_RANGES as usize => {
                (at, &[(0, u64::MAX)])
            }
            Operation::Persist { at, ranges } => (at, ranges.as_slice()),
            Operation::Send { bytes } => {
                let (len, size) = (bytes.len() as u64, u64::from(layout::MAX_MESSAGE));
                return (len > size).then(|| self.denied("send", 0, len, size));
            }
        };
        let atomic = matches!(
            operation,
            Operation::CompareSwap { .. } | Operation::FetchAdd { .. }
        );
        let bad = ranges.iter().find(|(offset, len)| {
            let end = offset.checked_add(*len).filter(|end| *end <= at.len);
            end.and_then(|end| at.base.checked_add(end)).is_none() || atomic && offset % 8 != 0
        });
        bad.map(|&(offset, len)| self.denied(operation.name(), offset, len, at.len))
    }

    fn denied(&self, operation: &'static str, offset: u64, len: u64, size: u64) -> Error {
        Error::OutOfBounds {
            peer: self.peer.name.clone(),
            operation,
            offset,
            len,
            size,
        }
    }

    /// A registered buffer for a large read.
    fn room(&self, len: usize) -> Result<Keep> {
        let mut buffer = vec![0; len];
        // SAFETY: the buffer goes with its registration, in `Keep::Into`, and is not borrowed before that has ended.
        let region = unsafe {
            Registered::new(
                &self.device,
                buffer.as_mut_ptr(),
                len,
                ffi::ACCESS_LOCAL_WRITE,
            )?
        };
        Ok(Keep::Into(region, buffer))
    }

    /// The program's own bytes, registered.
    fn pinned(&self, bytes: &Bytes) -> Result<Keep> {
        let base = bytes.as_ptr().cast_mut();
        // SAFETY: the bytes go with their registration, in `Keep::Bytes`; the card may only read them.
        let region = unsafe { Registered::new(&self.device, base, bytes.len(), 0)? };
        Ok(Keep::Bytes(region, bytes.clone()))
    }

    #[expect(clippy::too_many_arguments)]
    fn request(
        &self,
        inner: &mut Inner,
        opcode: u32,
        words: [u64; 4],
        piece: ffi::Sge,
        flags: u32,
        keep: Keep,
        end: Option<End>,
        last: bool,
    ) {
        self.request_with(inner, opcode, words, piece, (0, flags), keep, end, last);
    }

    /// Posts one work request. `keep` holds what `piece` names, unless an earlier or a later request of the same
    /// operation does.
    #[expect(clippy::too_many_arguments)]
    fn request_with(
        &self,
        inner: &mut Inner,
        opcode: u32,
        words: [u64; 4],
        piece: ffi::Sge,
        (immediate, flags): (u32, u32),
        keep: Keep,
        end: Option<End>,
        last: bool,
    ) {
        let (number, signal) = inner.flight.push(keep, end, last);
        let request = ffi::SendWr {
            wr_id: number,
            next: std::ptr::null_mut(),
            sg_list: std::ptr::null_mut(),
            num_sge: 0,
            opcode,
            send_flags: flags | if signal { ffi::SEND_SIGNALED } else { 0 },
            imm_data: immediate.to_be(),
            words,
            other: [0; 7],
        };
        let Some(pair) = &inner.pair else { return };
        // SAFETY: slots, bytes and buffers are held by the flight, or by the operation that waits in front, until
        // they have landed; `fall_inner` destroys the queue pair before it lets them go. Inline bytes are the
        // operation's, which its caller holds.
        if !unsafe { pair.send(request, piece) } {
            self.fall_inner(inner, ErrorKind::OutOfMemory, None);
        }
    }
}

/// Where to read for a barrier, if that is enough of one.
pub(super) fn by_reading(at: &RemoteMemory, ranges: &[(u64, u64)]) -> Option<u64> {
    let enough = at.method == PersistMethod::ReadAfterWrite
        && at.access.allows(Access::READ | Access::WRITE);
    let range = ranges.iter().find(|range| range.1 > 0);
    range.filter(|_| enough).map(|range| range.0)
}

fn head(kind: u8, more: bool) -> wire::Head {
    wire::Head {
        kind,
        more: more.into(),
        zero: [0; 6],
    }
}

fn wish(id: u64, key: u64, ranges: &[(u64, u64)]) -> Bytes {
    let head = wire::Persist {
        id: id.into(),
        key: key.into(),
    };
    let mut wish = head.as_bytes().to_vec();
    for &(offset, len) in ranges {
        let range = wire::Range {
            offset: offset.into(),
            len: len.into(),
        };
        wish.extend_from_slice(range.as_bytes());
    }
    wish.into()
}

fn end(waiting: Waiting, gives: Gives) -> End {
    End {
        name: waiting.operation.name(),
        completer: waiting.completer,
        gives,
        outcome: None,
    }
}

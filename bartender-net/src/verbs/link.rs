//! A connection: what is posted becomes work requests, completions become outcomes.
//!
//! One lock guards it. Posting happens on the poster's thread; completions are polled by the connection's task. What
//! has no room on the card waits in order. A queue pair is destroyed before any buffer that the card may still have
//! is let go: that is the field order of [`Inner`], and what [`Inner::fall`] does.

use super::device::{Device, Pair, Queue, Registered};
use super::ffi;
use super::flight::{DEPTH, End, Flight, Gives, Keep};
use super::slab::{RECV_IDS, RECVS, SLOT, Slab};
use super::table::{Barrier, Table};
use crate::error::{Error, Result};
use crate::fabric::{Boxed, Link, Peer};
use crate::layout::{self, verbs as wire};
use crate::memory::{Access, PersistMethod, RemoteMemory};
use crate::operation::{Completer, Operation, Outcome, Posted, Received};
use bartender_pm::sync::{Arc, Mutex, hint};
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::pin::pin;
use tokio::sync::Notify;
use zerocopy::{FromBytes, IntoBytes};

/// Completions in the queue at most.
pub(super) const COMPLETIONS: u32 = DEPTH as u32 + RECVS as u32 + 16;
/// Bytes of messages that nobody received; who sends more is cut off.
const WINDOW: u64 = layout::WINDOW as u64;
/// What a message costs of it besides its bytes.
const COST: u64 = layout::MESSAGE_COST as u64;
/// How often whoever posted looks for completions itself, which takes a few microseconds.
const LOOKS: u32 = 32;
/// What a message brings besides its head.
const BODY: usize = SLOT - size_of::<wire::Head>();

/// An operation that has no room yet, and how far it is.
struct Waiting {
    operation: Operation,
    completer: Completer,
    /// Bytes that are on their way.
    sent: usize,
    /// What is left of a wish for a barrier.
    wish: Option<(u64, Bytes)>,
    /// Registered bytes, or the buffer of a large read.
    keep: Option<Keep>,
}

/// A barrier that the peer wants.
pub(super) struct Wish {
    id: u64,
    granted: Result<Barrier, String>,
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

/// See the module's text.
struct Inner {
    /// First: see the module's text.
    pair: Option<Pair>,
    flight: Flight,
    slab: Slab,
    waiting: VecDeque<Waiting>,
    /// Answers and grants: what kind, and the rest.
    answers: VecDeque<(u8, Vec<u8>)>,
    inbox: VecDeque<Received>,
    /// What the inbox holds of the window.
    held: u64,
    /// What was received and not granted again.
    received: u64,
    /// What the peer has room for.
    credit: u64,
    /// Parts of a message, and of a wish.
    message: Vec<u8>,
    wish: Vec<u8>,
    wishes: Vec<Wish>,
    next_wish: u64,
    /// An operation that will fail once all before it are told, and what was posted behind it.
    fault: Option<(Completer, Error, Vec<Posted>)>,
    closed: Option<ErrorKind>,
    /// What is told once the lock was given back.
    told: Vec<(Completer, Result<Outcome>)>,
}

impl Inner {
    /// Whether the peer has no room for the next operation.
    fn is_blocked(&self) -> bool {
        let next = self.waiting.front();
        next.is_some_and(|next| next.sent == 0 && next.cost() > self.credit)
    }
}

impl Waiting {
    /// What it takes of the peer's window.
    fn cost(&self) -> u64 {
        match &self.operation {
            Operation::Send { bytes } => bytes.len() as u64 + COST,
            Operation::Write {
                immediate: Some(_), ..
            } => COST,
            _ => 0,
        }
    }
}

/// What the handles and the task of a connection share.
pub(super) struct Shared {
    inner: Mutex<Inner>,
    pub(super) queue: Arc<Queue>,
    device: Arc<Device>,
    table: Arc<Table>,
    peer: Peer,
    /// Something arrived, or it was closed.
    news: Notify,
    /// Something was posted, or it was closed: the task has to look.
    pub(super) kick: Notify,
}

impl Shared {
    pub(super) fn new(
        pair: Pair,
        queue: Arc<Queue>,
        slab: Slab,
        device: Arc<Device>,
        table: Arc<Table>,
        peer: Peer,
    ) -> Arc<Shared> {
        Arc::new(Shared {
            inner: Mutex::new(Inner {
                pair: Some(pair),
                flight: Flight::default(),
                slab,
                waiting: VecDeque::new(),
                answers: VecDeque::new(),
                inbox: VecDeque::new(),
                held: 0,
                received: 0,
                credit: WINDOW,
                message: Vec::new(),
                wish: Vec::new(),
                wishes: Vec::new(),
                next_wish: 0,
                fault: None,
                closed: None,
                told: Vec::new(),
            }),
            queue,
            device,
            table,
            peer,
            news: Notify::new(),
            kick: Notify::new(),
        })
    }

    fn with<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        let (result, told, over) = {
            let mut inner = self.inner.lock();
            let open = inner.closed.is_none();
            let result = change(&mut inner);
            let over = open && inner.closed.is_some();
            (result, std::mem::take(&mut inner.told), over)
        };
        for (completer, outcome) in told {
            completer.complete(outcome);
        }
        if over {
            self.news.notify_waiters();
            self.kick.notify_one();
        }
        result
    }

    /// Polls: how many completions there were.
    pub(super) fn poll(&self) -> usize {
        let mut completions = [ffi::Wc::default(); 16];
        let (count, news) = self.with(|inner| {
            if inner.pair.is_none() {
                return (0, false);
            }
            let count = self.queue.poll(&mut completions);
            let mut news = false;
            for completion in &completions[..count] {
                news |= self.completed(inner, completion);
            }
            self.tell(inner);
            self.pump(inner);
            (count, news)
        });
        if news {
            self.news.notify_waiters();
        }
        count
    }

    /// Barriers that the peer wants.
    pub(super) fn wishes(&self) -> Vec<Wish> {
        self.with(|inner| std::mem::take(&mut inner.wishes))
    }

    /// One was run.
    pub(super) fn answer(&self, id: u64, outcome: Result<(), String>) {
        let (failed, reason) = match &outcome {
            Ok(()) => (0, ""),
            Err(reason) => (1, reason.as_str()),
        };
        let head = wire::Answer {
            id: id.into(),
            failed,
        };
        let reason = &reason.as_bytes()[..reason.len().min(layout::MAX_REASON as usize)];
        let answer = [head.as_bytes(), reason].concat();
        self.with(|inner| {
            inner.answers.push_back((wire::ANSWER, answer));
            self.pump(inner);
        });
        self.kick.notify_one();
    }

    /// Whether the task has something to look for.
    fn is_busy(&self) -> bool {
        let inner = self.inner.lock();
        !inner.flight.is_empty() || !inner.waiting.is_empty() || !inner.wishes.is_empty()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.inner.lock().closed.is_some()
    }

    /// Closes it; what had arrived stays to be received.
    pub(super) fn fall(&self, why: ErrorKind) {
        self.with(|inner| self.fall_inner(inner, why, None));
    }

    fn broken(&self, operation: &'static str, why: ErrorKind) -> Error {
        Error::Broken {
            peer: self.peer.name.clone(),
            operation,
            source: why.into(),
        }
    }

    /// Closes it. `first` is the outcome of the operation at fault, which is told before those behind it fail.
    fn fall_inner(&self, inner: &mut Inner, why: ErrorKind, mut first: Option<(u64, Error)>) {
        if inner.closed.is_some() {
            return;
        }
        inner.closed = Some(why);
        // The card lets go of all buffers.
        inner.pair = None;
        for flying in inner.flight.drain() {
            let Some(end) = flying.end else { continue };
            let error = match first.take_if(|(at, _)| *at <= flying.number) {
                Some((_, error)) => error,
                None => self.broken(end.name, why),
            };
            inner.told.push((end.completer, Err(error)));
        }
        for waiting in inner.waiting.drain(..) {
            let error = match first.take() {
                Some((_, error)) => error,
                None => self.broken(waiting.operation.name(), why),
            };
            inner.told.push((waiting.completer, Err(error)));
        }
        if let Some((completer, error, behind)) = inner.fault.take() {
            inner.told.push((completer, Err(error)));
            for posted in behind {
                let error = self.broken(posted.operation.name(), why);
                inner.told.push((posted.completer, Err(error)));
            }
        }
        inner.answers.clear();
    }

    /// Takes a completion; whether something arrived.
    fn completed(&self, inner: &mut Inner, completion: &ffi::Wc) -> bool {
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
                    operation: "one-sided operation",
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
    fn tell(&self, inner: &mut Inner) {
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
            let bytes = inner.slab.bytes(super::slab::SENDS + recv, len).to_vec();
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
                    inner.wishes.push(Wish { id, granted });
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
                inner.flight.answer(answer.id.get(), outcome);
                self.tell(inner);
            }
            _ => return None,
        }
        Some(())
    }

    /// Posts what there is room for.
    fn pump(&self, inner: &mut Inner) {
        while inner.pair.is_some() && inner.flight.has_room(true) {
            let Some(slot) = (!inner.answers.is_empty())
                .then(|| inner.slab.take())
                .flatten()
            else {
                break;
            };
            let (kind, answer) = inner.answers.pop_front().unwrap_or_default();
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
                let by_reading = at.method == PersistMethod::ReadAfterWrite
                    && at.access.allows(Access::READ | Access::WRITE);
                if by_reading && let Some(&(offset, _)) = ranges.iter().find(|range| range.1 > 0) {
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
    fn check(&self, operation: &Operation) -> Option<Error> {
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

/// What programs hold of a connection.
pub(super) struct VerbsLink(pub(super) Arc<Shared>);

impl Link for VerbsLink {
    fn post(&self, operations: Vec<Posted>) {
        let shared = &self.0;
        shared.with(|inner| {
            if let Some(why) = inner.closed {
                for posted in operations {
                    let error = shared.broken(posted.operation.name(), why);
                    inner.told.push((posted.completer, Err(error)));
                }
                return;
            }
            for posted in operations {
                if let Some((_, _, behind)) = &mut inner.fault {
                    behind.push(posted);
                    continue;
                }
                if let Some(error) = shared.check(&posted.operation) {
                    inner.fault = Some((posted.completer, error, Vec::new()));
                    continue;
                }
                inner.waiting.push_back(Waiting {
                    operation: posted.operation,
                    completer: posted.completer,
                    sent: 0,
                    wish: None,
                    keep: None,
                });
            }
            shared.pump(inner);
            shared.tell(inner);
        });
        // A small operation is often complete before the task could be woken.
        for _ in 0..LOOKS {
            if shared.poll() > 0 {
                break;
            }
            hint::spin_loop();
        }
        if shared.is_busy() {
            shared.kick.notify_one();
        }
    }

    fn recv(&self) -> Boxed<'_, Result<Received>> {
        Box::pin(async move {
            let shared = &self.0;
            loop {
                let mut news = pin!(shared.news.notified());
                news.as_mut().enable();
                let next = shared.with(|inner| {
                    let received = inner.inbox.pop_front().ok_or(inner.closed)?;
                    let cost = COST
                        + match &received {
                            Received::Message(bytes) => bytes.len() as u64,
                            Received::Immediate(_) => 0,
                        };
                    inner.held -= cost;
                    inner.received += cost;
                    if inner.received >= WINDOW / 4 && inner.closed.is_none() {
                        let room = std::mem::take(&mut inner.received).to_le_bytes();
                        inner.answers.push_back((wire::GRANT, room.to_vec()));
                        shared.pump(inner);
                        shared.kick.notify_one();
                    }
                    Ok(received)
                });
                match next {
                    Ok(received) => return Ok(received),
                    Err(Some(why)) => return Err(shared.broken("recv", why)),
                    Err(None) => news.await,
                }
            }
        })
    }

    fn close(&self) {
        self.0.fall(ErrorKind::ConnectionAborted);
    }

    fn closed(&self) -> Boxed<'_, ()> {
        Box::pin(async move {
            loop {
                let mut news = pin!(self.0.news.notified());
                news.as_mut().enable();
                if self.0.is_closed() {
                    return;
                }
                news.await;
            }
        })
    }

    fn peer(&self) -> &Peer {
        &self.0.peer
    }
}

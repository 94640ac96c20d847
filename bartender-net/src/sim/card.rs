//! What the simulated network card does: posts, carries, touches memory line by line, answers in order.

use super::state::{
    After, Barrier, Event, Inbound, NodeId, Outbound, PairId, Piece, Side, State, Touch,
};
use crate::error::{Error, Result};
use crate::memory::{Access, PersistMethod, RemoteMemory};
use crate::operation::{Completer, Operation, Outcome, Posted, Received};
use crate::words::Words;
use bartender_pm::sync::Arc;
use bartender_pm::sync::atomic::Ordering;
use bytes::Bytes;
use std::io::ErrorKind;

/// What is touched as one.
const LINE: u64 = 64;
/// In how many pieces an operation is cut at most; those of a large one have several lines.
const PIECES: u64 = 64;

/// What comes, behind operations that have yet to touch something.
enum Before {
    Read,
    Write((u64, u64)),
    Other,
}

impl State {
    /// Lets it happen.
    pub(super) fn happen(&mut self, event: Event) -> Option<Barrier> {
        match event {
            Event::Arrive(pair, side) => self.arrive(pair, side),
            Event::Piece(pair, side, id) => self.piece(pair, side, id),
            Event::Persisted(pair, side, of) => return self.barrier(pair, side, of),
            Event::Answer(pair, side) => self.answer(pair, side),
            Event::GiveUp(pair, side, stamp) => self.give_up(pair, side, stamp),
            Event::Notice(pair, side) => self.notice(pair, side),
            Event::Break(pair, side, why) => self.break_end(pair, side, why, true),
            Event::Knock(number) => self.knock(number),
            Event::Welcome(number) => self.welcome(number),
        }
        None
    }

    /// Takes a batch of operations.
    pub(super) fn post(&mut self, pair: PairId, side: Side, operations: Vec<Posted>) {
        let peer = self.peer(pair, side);
        let now = self.now();
        let delay = self.delay();
        let Some(p) = self.pairs.get_mut(&pair) else {
            return;
        };
        let node = p.ends[side].node;
        if let Some(why) = p.ends[side].closed {
            for posted in operations {
                let error = broken(&peer, posted.operation.name(), why);
                self.after
                    .push(After::Complete(posted.completer, Err(error)));
            }
            return;
        }
        if operations.is_empty() {
            return;
        }
        let flight = &mut p.flights[side];
        flight.last_arrival = flight.last_arrival.max(now + delay);
        let when = flight.last_arrival;
        self.nodes[node].counts.round_trips += 1;
        for posted in operations {
            self.nodes[node].counts.add(&posted.operation);
            self.note(format_args!(
                "{pair}.{side} posts {} to {peer}",
                posted.operation.name()
            ));
            if let Some(p) = self.pairs.get_mut(&pair) {
                p.flights[side].posted.push_back(Outbound {
                    operation: posted.operation,
                    completer: Some(posted.completer),
                });
            }
            self.at(when, Event::Arrive(pair, side));
            if self.random.chance(self.settings.loss) {
                self.lose(pair);
            }
        }
    }

    /// The oldest operation reaches the target's card.
    fn arrive(&mut self, pair: PairId, side: Side) {
        let Some(p) = self.pairs.get(&pair) else {
            return;
        };
        let (from, to) = (p.ends[side].node, p.ends[1 - side].node);
        if p.flights[side].posted.is_empty() || !self.nodes[to].alive {
            return;
        }
        if !self.connected(from, to) {
            return self.hold(pair, side, |flight| flight.held_arrivals += 1);
        }
        let Some(p) = self.pairs.get_mut(&pair) else {
            return;
        };
        let deaf = p.ends[1 - side].closed.is_some() || p.flights[side].failed;
        let Some(outbound) = p.flights[side].posted.pop_front() else {
            return;
        };
        let Outbound {
            operation,
            completer,
        } = outbound;
        let id = self.number();
        let name = operation.name();
        let Some(p) = self.pairs.get_mut(&pair) else {
            return;
        };
        p.flights[side].arrived.push_back(Inbound {
            id,
            name,
            completer,
            missing: 0,
            buffer: Vec::new(),
            done: None,
        });
        if deaf {
            // Never done and never answered; its poster hears that the other end is closed.
            return;
        }
        self.note(format_args!("{pair}.{side} {name} #{id} arrives"));
        let done = self.perform(pair, side, to, id, operation);
        if let Err(error) = &done {
            self.note(format_args!("{pair}.{side} #{id} fails: {error}"));
            if let Some(p) = self.pairs.get_mut(&pair) {
                p.flights[side].failed = true;
            }
        }
        if let Some(done) = done.transpose() {
            self.done(pair, side, id, done);
        }
    }

    /// Does an operation, or starts to; `None` if it is done later.
    fn perform(
        &mut self,
        pair: PairId,
        side: Side,
        to: NodeId,
        id: u64,
        operation: Operation,
    ) -> Result<Option<Outcome>> {
        match operation {
            Operation::Read { from, offset, len } => {
                let range = (offset, u64::from(len));
                let memory = self.grant(to, "read", from, range, Access::READ)?;
                self.settle(pair, side, &Before::Read);
                let whole = Touch::Read(0, len as usize);
                if let Some(inbound) = self.inbound(pair, side, id) {
                    inbound.buffer = vec![0; len as usize];
                }
                self.touch(pair, side, id, from.key, memory, offset, whole);
                Ok(self.finish(pair, side, id))
            }
            Operation::Write {
                to: at,
                offset,
                bytes,
                immediate,
            } => {
                let range = (offset, bytes.len() as u64);
                let memory = self.grant(to, "write", at, range, Access::WRITE)?;
                self.settle(pair, side, &Before::Write(range));
                self.touch(pair, side, id, at.key, memory, offset, Touch::Write(bytes));
                if let Some(immediate) = immediate {
                    self.settle(pair, side, &Before::Other);
                    self.deliver(pair, side, Received::Immediate(immediate));
                }
                if self.random.chance(self.settings.early) {
                    return Ok(Some(Outcome::Done));
                }
                Ok(self.finish(pair, side, id))
            }
            Operation::CompareSwap {
                at,
                offset,
                expected,
                new,
            } => {
                let memory = self.word(to, "compare_swap", at, offset)?;
                self.settle(pair, side, &Before::Other);
                let word = memory.word(offset as usize);
                let swapped =
                    word.compare_exchange(expected, new, Ordering::AcqRel, Ordering::Acquire);
                let (Ok(old) | Err(old)) = swapped;
                Ok(Some(Outcome::Word(old)))
            }
            Operation::FetchAdd { at, offset, add } => {
                let memory = self.word(to, "fetch_add", at, offset)?;
                self.settle(pair, side, &Before::Other);
                let word = memory.word(offset as usize);
                let old = word.fetch_add(add, Ordering::AcqRel);
                Ok(Some(Outcome::Word(old)))
            }
            Operation::Persist { at, ranges } => {
                for &range in &ranges {
                    self.grant(to, "persist", at, range, Access::WRITE)?;
                }
                let memory = self.grant(to, "persist", at, (0, 0), Access::WRITE)?;
                self.settle(pair, side, &Before::Other);
                let takes = self.random.within(&self.settings.persist);
                let when = self.now() + takes;
                self.barriers.insert(
                    id,
                    Barrier {
                        pair,
                        side,
                        of: id,
                        memory: Arc::clone(memory.memory()),
                        ranges,
                    },
                );
                self.at(when, Event::Persisted(pair, side, id));
                Ok(None)
            }
            Operation::Send { bytes } => {
                self.settle(pair, side, &Before::Other);
                self.deliver(pair, side, Received::Message(bytes));
                Ok(Some(Outcome::Done))
            }
        }
    }

    /// The memory behind a key, if what is asked for is allowed.
    fn grant(
        &self,
        node: NodeId,
        operation: &'static str,
        at: RemoteMemory,
        (offset, len): (u64, u64),
        right: Access,
    ) -> Result<Arc<Words>> {
        let peer = || self.nodes[node].name.clone();
        let Some(registered) = self.nodes[node].registered.get(&at.key) else {
            return Err(Error::Refused {
                peer: peer(),
                operation,
                reason: "no memory region has that key (any more)".into(),
            });
        };
        let size = registered.memory.len();
        if !registered.memory.holds(offset, len) || !registered.access.allows(right) {
            return Err(Error::OutOfBounds {
                peer: peer(),
                operation,
                offset,
                len,
                size,
            });
        }
        Ok(Arc::clone(&registered.memory))
    }

    /// As [`grant`](Self::grant), of an aligned word for an atomic operation.
    fn word(
        &self,
        node: NodeId,
        operation: &'static str,
        at: RemoteMemory,
        offset: u64,
    ) -> Result<Arc<Words>> {
        let memory = self.grant(node, operation, at, (offset, 8), Access::ATOMIC)?;
        if offset.is_multiple_of(8) {
            return Ok(memory);
        }
        Err(Error::OutOfBounds {
            peer: self.nodes[node].name.clone(),
            operation,
            offset,
            len: 8,
            size: memory.len(),
        })
    }

    /// Touches memory: at once, or at a drawn instant, or line by line at several.
    #[expect(clippy::too_many_arguments)]
    fn touch(
        &mut self,
        pair: PairId,
        side: Side,
        of: u64,
        key: u64,
        memory: Arc<Words>,
        offset: u64,
        whole: Touch,
    ) {
        let now = self.now();
        let piece = Piece {
            id: self.number(),
            of,
            key,
            memory,
            offset,
            late: false,
            what: whole,
        };
        let end = offset + piece.len();
        let lines = end.div_ceil(LINE) - offset / LINE;
        let reads = matches!(piece.what, Touch::Read(..)) && piece.len() > 0;
        let late = reads && self.random.chance(self.settings.late);
        let torn = lines > 1 && self.random.chance(self.settings.tear);
        if !torn && !late {
            return self.apply(pair, side, piece);
        }
        let size = if torn {
            LINE * lines.div_ceil(PIECES)
        } else {
            end
        };
        if let Some(inbound) = self.inbound(pair, side, of) {
            inbound.missing = (end.div_ceil(size) - offset / size) as usize;
        }
        let mut at = offset;
        while at < end {
            let len = (size - at % size).min(end - at) as usize;
            let skip = (at - offset) as usize;
            let what = match &piece.what {
                Touch::Write(bytes) => Touch::Write(bytes.slice(skip..skip + len)),
                Touch::Read(..) => Touch::Read(skip, len),
            };
            let id = self.number();
            let part = Piece {
                id,
                of,
                key,
                memory: Arc::clone(&piece.memory),
                offset: at,
                late,
                what,
            };
            if let Some(p) = self.pairs.get_mut(&pair) {
                p.flights[side].pieces.push(part);
            }
            let when = now + self.random.within(&self.settings.tear_within);
            self.at(when, Event::Piece(pair, side, id));
            at += len as u64;
        }
    }

    fn inbound(&mut self, pair: PairId, side: Side, id: u64) -> Option<&mut Inbound> {
        let arrived = &mut self.pairs.get_mut(&pair)?.flights[side].arrived;
        arrived.iter_mut().find(|inbound| inbound.id == id)
    }

    /// Touches memory now.
    fn apply(&mut self, pair: PairId, side: Side, piece: Piece) {
        match piece.what {
            Touch::Write(bytes) => piece.memory.store(piece.offset as usize, &bytes),
            Touch::Read(skip, len) => {
                if let Some(inbound) = self.inbound(pair, side, piece.of) {
                    let into = &mut inbound.buffer[skip..skip + len];
                    piece.memory.load(piece.offset as usize, into);
                }
            }
        }
        if let Some(inbound) = self.inbound(pair, side, piece.of) {
            inbound.missing = inbound.missing.saturating_sub(1);
        }
    }

    /// A line's time has come.
    fn piece(&mut self, pair: PairId, side: Side, id: u64) {
        let Some(p) = self.pairs.get_mut(&pair) else {
            return;
        };
        let pieces = &mut p.flights[side].pieces;
        if let Some(at) = pieces.iter().position(|piece| piece.id == id) {
            let piece = pieces.remove(at);
            self.land(pair, side, piece);
        }
        self.tidy(pair);
    }

    /// Touches memory now, and completes the operation with its last line.
    pub(super) fn land(&mut self, pair: PairId, side: Side, piece: Piece) {
        let of = piece.of;
        let (offset, len) = (piece.offset, piece.len());
        self.note(format_args!("{pair}.{side} #{of} touches {offset}+{len}"));
        self.apply(pair, side, piece);
        if let Some(outcome) = self.finish(pair, side, of) {
            self.done(pair, side, of, Ok(outcome));
        }
    }

    /// What an operation gives once no line is missing.
    fn finish(&mut self, pair: PairId, side: Side, id: u64) -> Option<Outcome> {
        let inbound = self.inbound(pair, side, id)?;
        if inbound.missing > 0 || inbound.done.is_some() {
            return None;
        }
        Some(match inbound.name {
            "read" => Outcome::Bytes(Bytes::from(std::mem::take(&mut inbound.buffer))),
            _ => Outcome::Done,
        })
    }

    /// Touches what earlier operations of a connection have yet to touch, as far as what comes now does not go before.
    fn settle(&mut self, pair: PairId, side: Side, before: &Before) {
        let Some(p) = self.pairs.get_mut(&pair) else {
            return;
        };
        let touched = |piece: &Piece| match before {
            Before::Read => true,
            Before::Other => !piece.late,
            Before::Write((offset, len)) => {
                // The lines that earlier reads have yet to copy must not show what comes later, if they are not late.
                let overlap = piece.offset < offset + len && *offset < piece.offset + piece.len();
                !piece.late && (overlap || matches!(piece.what, Touch::Read(..)))
            }
        };
        let (now, later) = std::mem::take(&mut p.flights[side].pieces)
            .into_iter()
            .partition::<Vec<_>, _>(touched);
        p.flights[side].pieces = later;
        for piece in now {
            self.land(pair, side, piece);
        }
    }

    /// Puts something into the inbox of the other end.
    fn deliver(&mut self, pair: PairId, side: Side, received: Received) {
        let Some(p) = self.pairs.get_mut(&pair) else {
            return;
        };
        let end = &mut p.ends[1 - side];
        if self.nodes[end.node].paused {
            end.held.push_back(received);
            return;
        }
        end.inbox.push_back(received);
        let wake = Arc::clone(&end.wake);
        self.wake(&wake);
    }

    /// The time of a barrier has come: runs without the lock, unless it has to wait for the target's processor.
    fn barrier(&mut self, pair: PairId, side: Side, of: u64) -> Option<Barrier> {
        let to = self.pairs.get(&pair)?.ends[1 - side].node;
        let by_processor = self.barriers.get(&of)?.memory.method() == PersistMethod::Acknowledged;
        if !self.nodes[to].alive {
            self.barriers.remove(&of);
            self.tidy(pair);
            return None;
        }
        if by_processor && self.nodes[to].paused {
            self.nodes[to]
                .waiting
                .push(Event::Persisted(pair, side, of));
            return None;
        }
        self.barriers.remove(&of)
    }

    /// A barrier was run.
    pub(super) fn persisted(
        &mut self,
        pair: PairId,
        side: Side,
        of: u64,
        outcome: Result<(), String>,
    ) {
        let peer = self.peer(pair, side);
        self.note(format_args!("{pair}.{side} #{of} persisted at {peer}"));
        if outcome.is_err()
            && let Some(p) = self.pairs.get_mut(&pair)
        {
            p.flights[side].failed = true;
        }
        let done = outcome.map(|()| Outcome::Done);
        let done = done.map_err(|reason| Error::Refused {
            peer,
            operation: "persist",
            reason,
        });
        self.done(pair, side, of, done);
        self.tidy(pair);
    }

    /// An operation is done at the target; answers leave in order.
    fn done(&mut self, pair: PairId, side: Side, id: u64, outcome: Result<Outcome>) {
        if let Some(inbound) = self.inbound(pair, side, id) {
            inbound.done = Some(outcome);
        }
        loop {
            let now = self.now();
            let Some(p) = self.pairs.get_mut(&pair) else {
                return;
            };
            let flight = &mut p.flights[side];
            let next = flight.arrived.get(flight.answered);
            if next.is_none_or(|inbound| inbound.done.is_none()) {
                return;
            }
            flight.answered += 1;
            let delay = self.delay();
            let Some(p) = self.pairs.get_mut(&pair) else {
                return;
            };
            let flight = &mut p.flights[side];
            flight.last_answer = flight.last_answer.max(now + delay);
            let when = flight.last_answer;
            self.at(when, Event::Answer(pair, side));
        }
    }

    /// The oldest answer is back.
    fn answer(&mut self, pair: PairId, side: Side) {
        let Some(p) = self.pairs.get(&pair) else {
            return;
        };
        let (from, to) = (p.ends[1 - side].node, p.ends[side].node);
        if p.flights[side].answered == 0 || !self.nodes[to].alive {
            return;
        }
        if !self.connected(from, to) {
            return self.hold(pair, side, |flight| flight.held_answers += 1);
        }
        let Some(p) = self.pairs.get_mut(&pair) else {
            return;
        };
        let flight = &mut p.flights[side];
        flight.answered -= 1;
        let Some(inbound) = flight.arrived.pop_front() else {
            return;
        };
        let (id, failed) = (inbound.id, matches!(inbound.done, Some(Err(_))));
        if let (Some(completer), Some(outcome)) = (inbound.completer, inbound.done) {
            self.after.push(After::Complete(completer, outcome));
        }
        self.note(format_args!("{pair}.{side} #{id} is complete"));
        if failed {
            self.break_end(pair, side, ErrorKind::ConnectionAborted, true);
        }
    }

    /// Fails what an end waits for.
    pub(super) fn fail(
        &mut self,
        peer: &str,
        name: &'static str,
        completer: Option<Completer>,
        why: ErrorKind,
    ) {
        if let Some(completer) = completer {
            let error = broken(peer, name, why);
            self.after.push(After::Complete(completer, Err(error)));
        }
    }
}

/// The error of whoever lost a connection.
pub(super) fn broken(peer: &str, operation: &'static str, why: ErrorKind) -> Error {
    Error::Broken {
        peer: peer.into(),
        operation,
        source: why.into(),
    }
}

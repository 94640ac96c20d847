//! What goes wrong: lines that are cut, connections that break, nodes that die or stand still.

use super::state::{After, Event, Flight, NodeId, PairId, Side, State, Touch};
use bartender_pm::sync::Arc;
use std::io::ErrorKind;

impl State {
    /// A cut line holds something of what `side` posted.
    pub(super) fn hold(&mut self, pair: PairId, side: Side, count: impl FnOnce(&mut Flight)) {
        let Some(p) = self.pairs.get_mut(&pair) else {
            return;
        };
        let flight = &mut p.flights[side];
        let first = flight.held_arrivals + flight.held_answers == 0;
        count(flight);
        let stamp = flight.stamp;
        if first {
            self.expect(pair, side, stamp);
        }
    }

    /// `side` will give up unless the line is healed.
    fn expect(&mut self, pair: PairId, side: Side, stamp: u64) {
        let when = self.now() + self.random.within(&self.settings.patience);
        self.at(when, Event::GiveUp(pair, side, stamp));
    }

    pub(super) fn give_up(&mut self, pair: PairId, side: Side, stamp: u64) {
        let Some(p) = self.pairs.get(&pair) else {
            return;
        };
        let flight = &p.flights[side];
        if flight.stamp == stamp && flight.held_arrivals + flight.held_answers > 0 {
            self.break_end(pair, side, ErrorKind::TimedOut, true);
        }
    }

    /// `side` hears that the other end is closed.
    pub(super) fn notice(&mut self, pair: PairId, side: Side) {
        let Some(p) = self.pairs.get_mut(&pair) else {
            return;
        };
        let (from, to) = (p.ends[1 - side].node, p.ends[side].node);
        if self.cuts.contains(&(from, to)) {
            p.ends[side].notice_held = true;
            return;
        }
        self.break_end(pair, side, ErrorKind::ConnectionReset, false);
    }

    /// Closes an end. What it waits for fails; of what is on its way a drawn part may yet happen.
    pub(super) fn break_end(&mut self, pair: PairId, side: Side, why: ErrorKind, tell: bool) {
        let peer = self.peer(pair, side);
        let now = self.now();
        let delay = self.delay();
        let Some(p) = self.pairs.get_mut(&pair) else {
            return;
        };
        if p.ends[side].closed.is_some() {
            return;
        }
        p.ends[side].closed = Some(why);
        let wake = Arc::clone(&p.ends[side].wake);
        let flight = &mut p.flights[side];
        let arrived = std::mem::take(&mut flight.arrived);
        flight.answered = 0;
        // Operations arrive in order, so it is a prefix.
        let still = self.random.within(&(0..=flight.posted.len() as u64)) as usize;
        let mut waiting = Vec::new();
        for outbound in &mut flight.posted {
            waiting.push((outbound.operation.name(), outbound.completer.take()));
        }
        flight.posted.truncate(still);
        // A write that was answered happens; of one that was not, some lines.
        let random = &mut self.random;
        flight.pieces.retain(|piece| {
            let unanswered = arrived.iter().any(|inbound| inbound.id == piece.of);
            let read = matches!(piece.what, Touch::Read(..));
            !read && (!unanswered || random.chance(500_000))
        });
        let told = flight.last_arrival.max(now + delay);
        for inbound in arrived {
            self.fail(&peer, inbound.name, inbound.completer, why);
        }
        for (name, completer) in waiting {
            self.fail(&peer, name, completer, why);
        }
        self.note(format_args!("{pair}.{side} closed: {why:?}"));
        self.wake(&wake);
        if tell {
            self.at(told, Event::Notice(pair, 1 - side));
        }
        self.tidy(pair);
    }

    /// Both ends lose a connection, each in its own time.
    pub(super) fn lose(&mut self, pair: PairId) {
        self.note(format_args!("{pair} is lost"));
        for side in 0..2 {
            let when = self.now() + self.delay();
            self.at(when, Event::Break(pair, side, ErrorKind::ConnectionReset));
        }
    }

    /// Loses all connections between two nodes.
    pub(super) fn lose_between(&mut self, a: NodeId, b: NodeId) {
        let between = |ends: [NodeId; 2]| ends == [a, b] || ends == [b, a];
        let pairs: Vec<PairId> = self.pairs_where(between);
        for pair in pairs {
            self.lose(pair);
        }
    }

    fn pairs_where(&self, which: impl Fn([NodeId; 2]) -> bool) -> Vec<PairId> {
        let ids = self.pairs.iter();
        ids.filter(|(_, p)| which([p.ends[0].node, p.ends[1].node]))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Forgets a connection that is nobody's any more.
    pub(super) fn tidy(&mut self, pair: PairId) {
        let Some(p) = self.pairs.get(&pair) else {
            return;
        };
        let over = p.ends.iter().all(|end| end.closed.is_some() && !end.handle);
        let touched = p.flights.iter().all(|flight| flight.pieces.is_empty());
        // Barriers that have begun run to their end, whoever is there to hear of it.
        if over && touched && !self.barriers.values().any(|barrier| barrier.pair == pair) {
            self.pairs.remove(&pair);
        }
    }

    /// The program drops an end.
    pub(super) fn drop_end(&mut self, pair: PairId, side: Side) {
        if let Some(p) = self.pairs.get_mut(&pair) {
            p.ends[side].handle = false;
        }
        self.break_end(pair, side, ErrorKind::ConnectionAborted, true);
        self.tidy(pair);
    }

    /// Nothing gets from `from` to `to` any more.
    pub(super) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.note_line("cut", from, to);
        self.cuts.insert((from, to));
    }

    /// It does again, and so does what was held.
    pub(super) fn heal(&mut self, from: NodeId, to: NodeId) {
        if !self.cuts.remove(&(from, to)) {
            return;
        }
        self.note_line("heal", from, to);
        for pair in self.pairs_where(|ends| ends == [from, to] || ends == [to, from]) {
            for side in 0..2 {
                self.release(pair, side, from, to);
            }
        }
    }

    fn note_line(&mut self, what: &str, from: NodeId, to: NodeId) {
        let from = self.nodes[from].name.clone();
        let to = self.nodes[to].name.clone();
        self.note(format_args!("{what} {from} > {to}"));
    }

    fn release(&mut self, pair: PairId, side: Side, from: NodeId, to: NodeId) {
        let now = self.now();
        let delay = self.delay();
        let Some(p) = self.pairs.get_mut(&pair) else {
            return;
        };
        let ahead = p.ends[side].node == from && p.ends[1 - side].node == to;
        let back = p.ends[1 - side].node == from && p.ends[side].node == to;
        let notice = back && std::mem::take(&mut p.ends[side].notice_held);
        let flight = &mut p.flights[side];
        flight.stamp += 1;
        let stamp = flight.stamp;
        let mut arrivals = 0;
        let mut answers = 0;
        if ahead {
            arrivals = std::mem::take(&mut flight.held_arrivals);
            flight.last_arrival = flight.last_arrival.max(now + delay);
        }
        if back {
            answers = std::mem::take(&mut flight.held_answers);
            flight.last_answer = flight.last_answer.max(now + delay);
        }
        let (arrival, answer) = (flight.last_arrival, flight.last_answer);
        let held = flight.held_arrivals + flight.held_answers > 0;
        for _ in 0..arrivals {
            self.at(arrival, Event::Arrive(pair, side));
        }
        for _ in 0..answers {
            self.at(answer, Event::Answer(pair, side));
        }
        if notice {
            self.at(now + delay, Event::Notice(pair, side));
        }
        if held {
            self.expect(pair, side, stamp);
        }
    }

    /// A node dies, with everything that its memory had not made durable, as drawn.
    pub(super) fn kill(&mut self, node: NodeId) {
        let name = self.nodes[node].name.clone();
        self.note(format_args!("{name} dies"));
        let n = &mut self.nodes[node];
        if !n.alive {
            return;
        }
        n.alive = false;
        n.paused = false;
        n.waiting.clear();
        let registered = std::mem::take(&mut n.registered);
        self.after
            .extend(registered.into_values().map(After::Forget));
        let n = &mut self.nodes[node];
        let memories = std::mem::take(&mut n.memories);
        let after = &mut self.after;
        self.listeners.retain(|_, listening| {
            if listening.node == node {
                after.push(After::Wake(Arc::clone(&listening.wake)));
            }
            listening.node != node
        });
        self.connecting
            .retain(|_, connecting| connecting.from != node);
        for pair in self.pairs_where(|ends| ends.contains(&node)) {
            self.orphan(pair, node);
        }
        let mut without = Vec::new();
        self.barriers.retain(|_, barrier| {
            let pair = self.pairs.get(&barrier.pair);
            let stays = pair.is_some_and(|pair| pair.ends[1 - barrier.side].node != node);
            if !stays {
                without.push(barrier.pair);
            }
            stays
        });
        for pair in without {
            self.tidy(pair);
        }
        for memory in &memories {
            if let Some(memory) = memory.upgrade() {
                memory.crash(&mut self.random);
            }
        }
        self.nodes[node].memories = memories;
    }

    /// A node of a connection dies.
    fn orphan(&mut self, pair: PairId, node: NodeId) {
        for side in 0..2 {
            let detected = self.now() + self.random.within(&self.settings.detect);
            let Some(p) = self.pairs.get_mut(&pair) else {
                return;
            };
            if p.ends[side].node == node {
                // Nobody is left to touch its memory.
                p.flights[1 - side].pieces.clear();
                self.break_end(pair, side, ErrorKind::ConnectionAborted, false);
            } else {
                let why = ErrorKind::ConnectionReset;
                self.at(detected, Event::Break(pair, side, why));
            }
        }
    }

    /// The processor of a node stands still; its card does not.
    pub(super) fn pause(&mut self, node: NodeId) {
        let name = self.nodes[node].name.clone();
        self.note(format_args!("{name} stands still"));
        self.nodes[node].paused = self.nodes[node].alive;
    }

    /// It goes on, with what arrived meanwhile.
    pub(super) fn resume(&mut self, node: NodeId) {
        let name = self.nodes[node].name.clone();
        self.note(format_args!("{name} goes on"));
        self.nodes[node].paused = false;
        let now = self.now();
        for event in std::mem::take(&mut self.nodes[node].waiting) {
            self.at(now, event);
        }
        for p in self.pairs.values_mut() {
            for end in p.ends.iter_mut().filter(|end| end.node == node) {
                end.inbox.append(&mut end.held);
                self.after.push(After::Wake(Arc::clone(&end.wake)));
            }
        }
    }

    /// Takes a memory region back. What of it is under way happens now or never.
    pub(super) fn revoke(&mut self, node: NodeId, key: u64) {
        let Some(registered) = self.nodes[node].registered.remove(&key) else {
            return;
        };
        self.after.push(After::Forget(registered));
        for pair in self.pairs_where(|ends| ends.contains(&node)) {
            for side in 0..2 {
                self.revoke_in(pair, side, node, key);
            }
        }
    }

    fn revoke_in(&mut self, pair: PairId, side: Side, node: NodeId, key: u64) {
        let Some(p) = self.pairs.get_mut(&pair) else {
            return;
        };
        if p.ends[1 - side].node != node {
            return;
        }
        let (mine, others) = std::mem::take(&mut p.flights[side].pieces)
            .into_iter()
            .partition::<Vec<_>, _>(|piece| piece.key == key);
        p.flights[side].pieces = others;
        for piece in mine {
            self.land(pair, side, piece);
        }
    }
}

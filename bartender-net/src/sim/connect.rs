//! How connections come about: a request travels, a listener takes it, the answer travels back. Over a cut line
//! both are tried again until the time allowed is over.

use super::state::Listening;
use super::state::{After, Connecting, End, Event, Flight, NodeId, Pair, PairId, State};
use crate::error::{Error, Result};
use crate::fabric::Connection;
use bartender_pm::sync::Arc;
use std::collections::VecDeque;
use std::io::ErrorKind;
use tokio::sync::{Notify, oneshot};

/// How long after a request that was lost the next one leaves.
const AGAIN: u64 = 50;

impl State {
    /// Starts to listen at `name`, `name:port` or `name:0` (a port that is free); gives the address.
    pub(super) fn listen(&mut self, node: NodeId, address: &str) -> Result<String> {
        let n = &mut self.nodes[node];
        let refuse = |kind: ErrorKind| Error::Connect {
            peer: address.into(),
            source: kind.into(),
        };
        let port = match address.strip_prefix(n.name.as_str()) {
            Some("") => None,
            Some(rest) => rest.strip_prefix(':'),
            None => return Err(refuse(ErrorKind::AddrNotAvailable)),
        };
        let address = match port {
            Some("0") => {
                n.next_port += 1;
                format!("{}:{}", n.name, n.next_port)
            }
            _ => address.to_owned(),
        };
        if self.listeners.contains_key(&address) {
            return Err(refuse(ErrorKind::AddrInUse));
        }
        let listening = Listening {
            node,
            waiting: VecDeque::new(),
            wake: Arc::new(Notify::new()),
        };
        self.listeners.insert(address.clone(), listening);
        Ok(address)
    }

    /// Stops listening; who was not accepted is turned away.
    pub(super) fn unlisten(&mut self, address: &str, wake: &Arc<Notify>) {
        // After a restart there may be another one of that name.
        let ours = |listening: &Listening| Arc::ptr_eq(&listening.wake, wake);
        if self.listeners.get(address).is_some_and(ours)
            && let Some(listening) = self.listeners.remove(address)
        {
            for pair in listening.waiting {
                self.drop_end(pair, 1);
            }
        }
    }

    /// Sends a request to connect.
    pub(super) fn request(
        &mut self,
        from: NodeId,
        address: &str,
    ) -> oneshot::Receiver<Result<Connection>> {
        let (answer, result) = oneshot::channel();
        let number = self.number();
        let now = self.now();
        let until = now + self.settings.connect_limit;
        let connecting = Connecting {
            from,
            address: address.to_owned(),
            until,
            answer,
            outcome: None,
        };
        self.connecting.insert(number, connecting);
        self.nodes[from].counts.round_trips += 1;
        let when = now + self.delay();
        self.at(when, Event::Knock(number));
        result
    }

    /// The request arrives, or does not.
    pub(super) fn knock(&mut self, number: u64) {
        let Some(connecting) = self.connecting.get(&number) else {
            return;
        };
        let (from, address) = (connecting.from, connecting.address.clone());
        let name = address.split(':').next().unwrap_or_default();
        let to = self.names.get(name).copied();
        let reachable = to.filter(|&to| self.nodes[to].alive && self.connected(from, to));
        let Some(to) = reachable else {
            return self.again(number, Event::Knock(number));
        };
        let outcome = if self.listeners.contains_key(&address) {
            Ok(self.pair(from, to, &address))
        } else {
            Err(ErrorKind::ConnectionRefused)
        };
        if let Some(connecting) = self.connecting.get_mut(&number) {
            connecting.outcome = Some(outcome);
        }
        let when = self.now() + self.delay();
        self.at(when, Event::Welcome(number));
    }

    /// Tries again, or gives up.
    fn again(&mut self, number: u64, event: Event) {
        let when = self.now() + AGAIN + self.delay();
        let in_time = |connecting: &Connecting| when <= connecting.until;
        if self.connecting.get(&number).is_some_and(in_time) {
            return self.at(when, event);
        }
        if let Some(connecting) = self.connecting.remove(&number) {
            self.refuse(connecting, ErrorKind::TimedOut);
        }
    }

    fn refuse(&mut self, connecting: Connecting, why: ErrorKind) {
        if let Some(Ok(pair)) = connecting.outcome {
            self.drop_end(pair, 0);
        }
        let error = Error::Connect {
            peer: connecting.address,
            source: why.into(),
        };
        self.after
            .push(After::Connected(connecting.answer, Err(error)));
    }

    /// A connection, waiting to be accepted.
    fn pair(&mut self, from: NodeId, to: NodeId, address: &str) -> PairId {
        let pair = self.number();
        let end = |node| End {
            node,
            closed: None,
            inbox: VecDeque::new(),
            held: VecDeque::new(),
            wake: Arc::new(Notify::new()),
            handle: true,
            notice_held: false,
        };
        let p = Pair {
            ends: [end(from), end(to)],
            flights: [Flight::default(), Flight::default()],
        };
        self.pairs.insert(pair, p);
        let from = self.nodes[from].name.clone();
        self.note(format_args!("{pair} is {from} > {address}"));
        if let Some(listening) = self.listeners.get_mut(address) {
            listening.waiting.push_back(pair);
            let wake = Arc::clone(&listening.wake);
            self.wake(&wake);
        }
        pair
    }

    /// The answer to a request arrives, or does not.
    pub(super) fn welcome(&mut self, number: u64) {
        let Some(connecting) = self.connecting.get(&number) else {
            return;
        };
        let name = connecting.address.split(':').next().unwrap_or_default();
        let from = connecting.from;
        let heard = self
            .names
            .get(name)
            .is_some_and(|&to| self.nodes[to].alive && self.connected(to, from));
        if !heard {
            return self.again(number, Event::Welcome(number));
        }
        let Some(connecting) = self.connecting.remove(&number) else {
            return;
        };
        match connecting.outcome {
            Some(Ok(pair)) => self
                .after
                .push(After::Connected(connecting.answer, Ok(pair))),
            Some(Err(why)) => self.refuse(connecting, why),
            None => {}
        }
    }
}

//! All that a simulated network is at an instant: nodes, connections, what is on its way, and what happens when.
//!
//! One lock guards it. What leads out of the module (completions, wake-ups, barriers of registered memory) is noted
//! in it and done when the lock was given back, so that nobody is called with the lock held.

use super::memory::DurableMemory;
use super::random::Random;
use super::settings::Settings;
use super::trace::Trace;
use crate::error::Result;
use crate::fabric::Connection;
use crate::memory::{Access, Memory};
use crate::operation::{Completer, Operation, Outcome, Received};
use crate::roles::Roles;
use crate::words::Words;
use bartender_pm::sync::{Arc, Mutex};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::sync::Weak;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// Number of a node, in the order in which they were made.
pub(super) type NodeId = usize;
/// Number of a connection.
pub(super) type PairId = u64;
/// An end of a connection: 0 connected, 1 accepted.
pub(super) type Side = usize;

/// What will happen.
#[derive(Debug)]
pub(super) enum Event {
    /// The oldest operation that `side` posted reaches the other's card.
    Arrive(PairId, Side),
    /// A piece of an operation that `side` posted touches memory.
    Piece(PairId, Side, u64),
    /// A barrier at the target is over.
    Persisted(PairId, Side, u64),
    /// The oldest answer reaches `side`.
    Answer(PairId, Side),
    /// `side` has waited long enough, unless its stamp has moved on.
    GiveUp(PairId, Side, u64),
    /// `side` hears that the other is closed.
    Notice(PairId, Side),
    /// The connection breaks at `side`.
    Break(PairId, Side, ErrorKind),
    /// A request to connect arrives.
    Knock(u64),
    /// Its answer.
    Welcome(u64),
}

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    /// What its peers are told it may be.
    pub(super) roles: Roles,
    pub(super) alive: bool,
    pub(super) paused: bool,
    /// How often it started; handles of earlier lives are dead.
    pub(super) life: u32,
    pub(super) registered: BTreeMap<u64, Registered>,
    pub(super) memories: Vec<Weak<DurableMemory>>,
    /// Barriers that wait for its processor.
    pub(super) waiting: Vec<Event>,
    pub(super) next_port: u32,
    pub(super) counts: super::Counts,
}

/// A memory region.
pub(super) struct Registered {
    pub(super) memory: Arc<Words>,
    pub(super) access: Access,
}

impl std::fmt::Debug for Registered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registered({} bytes)", self.memory.len())
    }
}

/// A listening end.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) node: NodeId,
    pub(super) waiting: VecDeque<PairId>,
    pub(super) wake: Arc<Notify>,
}

/// A `connect` under way.
#[derive(Debug)]
pub(super) struct Connecting {
    pub(super) from: NodeId,
    pub(super) address: String,
    pub(super) until: u64,
    pub(super) answer: oneshot::Sender<Result<Connection>>,
    /// What the listener's node answered.
    pub(super) outcome: Option<Result<PairId, ErrorKind>>,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) ends: [End; 2],
    /// What each end posted.
    pub(super) flights: [Flight; 2],
}

/// An end of a connection.
#[derive(Debug)]
pub(super) struct End {
    pub(super) node: NodeId,
    /// Why it is closed, once it is.
    pub(super) closed: Option<ErrorKind>,
    pub(super) inbox: VecDeque<Received>,
    /// Arrived while the node was paused.
    pub(super) held: VecDeque<Received>,
    pub(super) wake: Arc<Notify>,
    /// Whether the program still has it.
    pub(super) handle: bool,
    /// A notice for it waits for the line.
    pub(super) notice_held: bool,
}

/// The operations that one end posted.
#[derive(Debug, Default)]
pub(super) struct Flight {
    /// On their way.
    pub(super) posted: VecDeque<Outbound>,
    /// At the target's card.
    pub(super) arrived: VecDeque<Inbound>,
    /// How many of those have an answer on its way.
    pub(super) answered: usize,
    /// What they have yet to touch.
    pub(super) pieces: Vec<Piece>,
    pub(super) last_arrival: u64,
    pub(super) last_answer: u64,
    /// Events that a cut line holds.
    pub(super) held_arrivals: u32,
    pub(super) held_answers: u32,
    /// Moves on when a line is healed.
    pub(super) stamp: u64,
    /// An operation failed: nothing after it is done.
    pub(super) failed: bool,
}

/// On its way; without a completer once nobody waits for it.
#[derive(Debug)]
pub(super) struct Outbound {
    pub(super) operation: Operation,
    pub(super) completer: Option<Completer>,
}

/// At the target's card.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) id: u64,
    pub(super) name: &'static str,
    pub(super) completer: Option<Completer>,
    /// Pieces that are missing.
    pub(super) missing: usize,
    /// What a read has so far.
    pub(super) buffer: Vec<u8>,
    pub(super) done: Option<Result<Outcome>>,
}

/// A line of memory that is yet to be touched.
pub(super) struct Piece {
    pub(super) id: u64,
    pub(super) of: u64,
    pub(super) key: u64,
    pub(super) memory: Arc<Words>,
    pub(super) offset: u64,
    /// Of a read that may see what comes behind it.
    pub(super) late: bool,
    pub(super) what: Touch,
}

/// How.
#[derive(Debug)]
pub(super) enum Touch {
    Write(Bytes),
    /// Into the operation's buffer, from here on, so many bytes.
    Read(usize, usize),
}

impl Piece {
    pub(super) fn len(&self) -> u64 {
        match &self.what {
            Touch::Write(bytes) => bytes.len() as u64,
            Touch::Read(_, len) => *len as u64,
        }
    }
}

impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Piece({}+{})", self.offset, self.len())
    }
}

/// What is done once the lock was given back.
#[derive(Debug)]
pub(super) enum After {
    Complete(Completer, Result<Outcome>),
    Wake(Arc<Notify>),
    Connected(oneshot::Sender<Result<Connection>>, Result<PairId>),
    /// Its owner may want to do something when it is dropped.
    Forget(Registered),
}

/// A barrier to be run without the lock.
pub(super) struct Barrier {
    pub(super) pair: PairId,
    pub(super) side: Side,
    pub(super) of: u64,
    pub(super) memory: Arc<dyn Memory>,
    pub(super) ranges: Vec<(u64, u64)>,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct State {
    pub(super) random: Random,
    pub(super) settings: Settings,
    pub(super) trace: Trace,
    pub(super) nodes: Vec<Node>,
    pub(super) names: BTreeMap<String, NodeId>,
    pub(super) listeners: BTreeMap<String, Listening>,
    pub(super) connecting: BTreeMap<u64, Connecting>,
    pub(super) pairs: BTreeMap<PairId, Pair>,
    /// Lines that are cut, one way each.
    pub(super) cuts: BTreeSet<(NodeId, NodeId)>,
    /// Barriers under way, by operation.
    pub(super) barriers: BTreeMap<u64, Barrier>,
    pub(super) after: Vec<After>,
    start: Instant,
    /// By instant; those of one instant in drawn order, whatever connection they are of.
    queue: BTreeMap<(u64, u32, u64), Event>,
    serial: u64,
}

impl std::fmt::Debug for Barrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Barrier({:?})", self.ranges)
    }
}

impl State {
    pub(super) fn new(seed: u64, settings: Settings) -> Self {
        State {
            random: Random::new(seed),
            trace: Trace::new(settings.trace),
            settings,
            nodes: Vec::new(),
            names: BTreeMap::new(),
            listeners: BTreeMap::new(),
            connecting: BTreeMap::new(),
            pairs: BTreeMap::new(),
            cuts: BTreeSet::new(),
            barriers: BTreeMap::new(),
            after: Vec::new(),
            start: Instant::now(),
            queue: BTreeMap::new(),
            serial: 0,
        }
    }

    /// Milliseconds since the network was made.
    pub(super) fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// A number that was not given out before.
    pub(super) fn number(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Lets `event` happen at an instant.
    pub(super) fn at(&mut self, when: u64, event: Event) {
        let order = self.random.draw() as u32;
        let serial = self.number();
        self.queue.insert((when, order, serial), event);
    }

    /// What a message takes one way.
    pub(super) fn delay(&mut self) -> u64 {
        let slow = self.random.chance(self.settings.slow_chance);
        let range = if slow {
            &self.settings.slow
        } else {
            &self.settings.delay
        };
        self.random.within(range)
    }

    /// A line for who debugs.
    pub(super) fn note(&mut self, what: std::fmt::Arguments<'_>) {
        let now = self.now();
        self.trace.add(now, what);
    }

    /// Whether a message from `from` gets to `to` now.
    pub(super) fn connected(&self, from: NodeId, to: NodeId) -> bool {
        !self.cuts.contains(&(from, to))
    }

    pub(super) fn wake(&mut self, who: &Arc<Notify>) {
        self.after.push(After::Wake(Arc::clone(who)));
    }

    /// The name of the node at the other side.
    pub(super) fn peer(&self, pair: PairId, side: Side) -> String {
        let node = self.pairs.get(&pair).map(|pair| pair.ends[1 - side].node);
        node.map_or_else(String::new, |node| self.nodes[node].name.clone())
    }
}

/// The network that its handles share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Wakes the driver.
    wake: Arc<Notify>,
}

/// What the driver does next.
enum Step {
    Again,
    SleepUntil(Instant),
    Sleep,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

impl Shared {
    /// Makes a network and spawns its driver on the runtime that is current.
    pub(super) fn start(seed: u64, settings: Settings) -> Arc<Shared> {
        let wake = Arc::new(Notify::new());
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(seed, settings)),
            wake: Arc::clone(&wake),
        });
        tokio::spawn(drive(Arc::downgrade(&shared), wake));
        shared
    }

    /// Does something to the state, and then what that left to be done.
    pub(super) fn with<R>(self: &Arc<Self>, change: impl FnOnce(&mut State) -> R) -> R {
        let (result, after, sooner) = {
            let mut state = self.state.lock();
            let next = state.queue.first_key_value().map(|(key, _)| *key);
            let result = change(&mut state);
            let sooner = state.queue.first_key_value().map(|(key, _)| *key) != next;
            (result, std::mem::take(&mut state.after), sooner)
        };
        for after in after {
            match after {
                After::Complete(completer, outcome) => completer.complete(outcome),
                After::Wake(notify) => notify.notify_waiters(),
                After::Forget(registered) => drop(registered),
                After::Connected(answer, pair) => {
                    // If nobody waits any more the connection is dropped, which closes it.
                    let _ = answer.send(pair.map(|pair| super::link::open(self, pair, 0)));
                }
            }
        }
        if sooner {
            self.wake.notify_one();
        }
        result
    }

    /// Lets the next thing happen if its time has come.
    fn step(self: &Arc<Self>) -> Step {
        let due = self.with(|state| {
            let entry = state.queue.first_entry()?;
            let due = state.start + Duration::from_millis(entry.key().0);
            if due > Instant::now() {
                return Some(Err(due));
            }
            let event = entry.remove();
            Some(Ok(state.happen(event)))
        });
        match due {
            None => Step::Sleep,
            Some(Err(due)) => Step::SleepUntil(due),
            Some(Ok(None)) => Step::Again,
            Some(Ok(Some(barrier))) => {
                let outcome = barrier.memory.persist(&barrier.ranges);
                self.with(|state| state.persisted(barrier.pair, barrier.side, barrier.of, outcome));
                Step::Again
            }
        }
    }
}

/// Lets things happen, one at a time; between two of them everybody who became ready runs.
async fn drive(shared: Weak<Shared>, wake: Arc<Notify>) {
    loop {
        let step = match shared.upgrade() {
            Some(shared) => shared.step(),
            None => return,
        };
        match step {
            Step::Again => tokio::task::yield_now().await,
            Step::SleepUntil(due) => {
                let _ = tokio::time::timeout_at(due, wake.notified()).await;
            }
            Step::Sleep => wake.notified().await,
        }
    }
}

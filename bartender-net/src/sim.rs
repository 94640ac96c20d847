//! The simulated backend: many nodes in one process, on a virtual clock, everything drawn from one seed.
//!
//! For tests of what runs over a [`Fabric`](crate::Fabric). A run is a function of its seed: the same seed gives the
//! same run, to the last line of [`Network::trace`], and [`run`] prints the seed of a test that fails. That holds for
//! programs on tokio's current-thread runtime that draw from [`Network::draw`] and from nothing else: no wall clock,
//! no threads, no iteration over `HashMap`, `biased` in `tokio::select!`.
//!
//! # The fault model
//!
//! - A message takes as long as is drawn. On one connection order holds; between connections there is none.
//! - A write or read of more than one line of 64 bytes touches its lines at different instants. Later operations of
//!   the same connection see all of it; everybody else may see a part, even after it completed (`early`).
//! - A read may be `late`: it shows what was posted behind it on its connection, unless its poster waited for it.
//! - A line between two nodes can be cut one way. What is on its way waits; who waits for an answer longer than its
//!   patience loses the connection, and the other end hears of it once the line is healed.
//! - A connection that breaks leaves a drawn prefix of what was on its way to happen later, and a drawn part of the
//!   lines of an operation that was not complete.
//! - A node that dies ([`Network::kill`]) answers nothing; its peers are told after a drawn time. A [`DurableMemory`]
//!   of its keeps of each line that was not persisted the old or the new bytes, as drawn.
//! - A node that stands still ([`Network::pause`]) answers one-sided operations. Messages, and barriers that need its
//!   processor, wait. That its own tasks stand still is the test's work.
//! - A memory region that was taken back is not touched any more.
//!
//! Not simulated: bytes that change on their way, sizes that are refused, networks that lose their order within a
//! connection; limits of what is under way, be it operations or messages that nobody receives (a backend holds back what is posted
//! behind those, here it all arrives); certificates.

mod random;
mod settings;
mod trace;

mod memory;

mod state;

mod card;
mod connect;
mod faults;

mod link;

pub use link::SimFabric;
pub use memory::DurableMemory;
pub use random::Random;
pub use settings::Settings;

use crate::operation::Operation;
use crate::roles::Roles;
use bartender_pm::sync::Arc;
use state::{Node, NodeId, Shared};
use std::fmt;
use std::future::Future;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What a node asked of others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Batches posted, and requests to connect: each is a round trip.
    pub round_trips: u64,
    /// Reads posted.
    pub reads: u64,
    /// Writes posted.
    pub writes: u64,
    /// Atomic operations posted.
    pub atomics: u64,
    /// Barriers posted.
    pub persists: u64,
    /// Messages posted.
    pub messages: u64,
    /// Bytes of all writes and messages posted.
    pub bytes: u64,
}

impl Counts {
    fn add(&mut self, operation: &Operation) {
        match operation {
            Operation::Read { .. } => self.reads += 1,
            Operation::Write { bytes, .. } => {
                self.writes += 1;
                self.bytes += bytes.len() as u64;
            }
            Operation::CompareSwap { .. } | Operation::FetchAdd { .. } => self.atomics += 1,
            Operation::Persist { .. } => self.persists += 1,
            Operation::Send { bytes } => {
                self.messages += 1;
                self.bytes += bytes.len() as u64;
            }
        }
    }
}

/// A simulated network. Cheap to clone.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

impl Network {
    /// A network without nodes.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime. Its clock is best a paused one; [`run`] sees to that.
    pub fn new(seed: u64, settings: Settings) -> Network {
        Network::of(Shared::start(seed, settings))
    }

    fn of(shared: Arc<Shared>) -> Network {
        Network { shared }
    }

    /// A new node, which listens at `name` or `name:port` and is connected to there.
    ///
    /// # Panics
    ///
    /// If there is one of that name.
    pub fn node(&self, name: &str) -> Arc<SimFabric> {
        self.node_with_roles(name, Roles::ALL)
    }

    /// As [`node`](Self::node), one that proves to be no more than this.
    ///
    /// # Panics
    ///
    /// If there is one of that name.
    pub fn node_with_roles(&self, name: &str, roles: Roles) -> Arc<SimFabric> {
        let (node, life) = self.shared.with(|state| {
            let id = state.nodes.len();
            let before = state.names.insert(name.to_owned(), id);
            assert!(before.is_none(), "there is a node {name} already");
            state.nodes.push(Node {
                name: name.to_owned(),
                roles,
                alive: true,
                paused: false,
                life: 0,
                registered: Default::default(),
                memories: Vec::new(),
                waiting: Vec::new(),
                next_port: 0,
                counts: Counts::default(),
            });
            (id, 0)
        });
        self.fabric(node, life, name)
    }

    fn fabric(&self, node: NodeId, life: u32, name: &str) -> Arc<SimFabric> {
        let shared = Arc::clone(&self.shared);
        Arc::new(SimFabric::new(shared, node, life, name.to_owned()))
    }

    fn id(&self, name: &str) -> NodeId {
        let id = self.shared.with(|state| state.names.get(name).copied());
        id.unwrap_or_else(|| panic!("there is no node {name}"))
    }

    /// A node dies. Its tasks are the test's to end.
    ///
    /// # Panics
    ///
    /// This and what follows: if there is no such node.
    pub fn kill(&self, name: &str) {
        let node = self.id(name);
        self.shared.with(|state| state.kill(node));
    }

    /// A node that was killed starts again, with nothing but its [`DurableMemory`].
    ///
    /// # Panics
    ///
    /// If it is alive.
    pub fn restart(&self, name: &str) -> Arc<SimFabric> {
        let node = self.id(name);
        let life = self.shared.with(|state| {
            let n = &mut state.nodes[node];
            assert!(!n.alive, "{name} is alive");
            n.alive = true;
            n.life += 1;
            let life = n.life;
            state.note(format_args!("{name} starts again"));
            life
        });
        self.fabric(node, life, name)
    }

    /// A node's processor stands still: messages to it wait, its card goes on.
    pub fn pause(&self, name: &str) {
        let node = self.id(name);
        self.shared.with(|state| state.pause(node));
    }

    /// It goes on.
    pub fn resume(&self, name: &str) {
        let node = self.id(name);
        self.shared.with(|state| state.resume(node));
    }

    /// Nothing gets from one node to another any more; the other way is as it was.
    pub fn cut(&self, from: &str, to: &str) {
        let (from, to) = (self.id(from), self.id(to));
        self.shared.with(|state| state.cut(from, to));
    }

    /// It does again.
    pub fn heal(&self, from: &str, to: &str) {
        let (from, to) = (self.id(from), self.id(to));
        self.shared.with(|state| state.heal(from, to));
    }

    /// Cuts all lines between two groups, both ways.
    pub fn partition(&self, some: &[&str], others: &[&str]) {
        for a in some {
            for b in others {
                self.cut(a, b);
                self.cut(b, a);
            }
        }
    }

    /// Heals all lines.
    pub fn heal_all(&self) {
        self.shared.with(|state| {
            for (from, to) in state.cuts.clone() {
                state.heal(from, to);
            }
        });
    }

    /// All connections between two nodes are lost.
    pub fn lose_connections(&self, a: &str, b: &str) {
        let (a, b) = (self.id(a), self.id(b));
        self.shared.with(|state| state.lose_between(a, b));
    }

    /// Changes how the network behaves from now on.
    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        self.shared.with(|state| change(&mut state.settings));
    }

    /// A number from the run's seed: what a test wants to be random.
    pub fn draw(&self, range: RangeInclusive<u64>) -> u64 {
        self.shared.with(|state| state.random.within(&range))
    }

    /// Milliseconds since the network was made.
    pub fn now(&self) -> u64 {
        self.shared.with(|state| state.now())
    }

    /// What a node asked of others so far, in all its lives.
    pub fn counts(&self, name: &str) -> Counts {
        let node = self.id(name);
        self.shared.with(|state| state.nodes[node].counts)
    }

    /// Puts a line of the test's own into the trace.
    pub fn note(&self, what: &str) {
        self.shared.with(|state| state.note(format_args!("{what}")));
    }

    /// The newest lines of what happened.
    pub fn trace(&self) -> Vec<String> {
        self.shared.with(|state| state.trace.lines())
    }

    /// A number that two runs share only if all of their traces is the same.
    pub fn digest(&self) -> u64 {
        self.shared.with(|state| state.trace.digest())
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

/// Runs a test on a network of `seed`, on a runtime of its own with a virtual clock: time passes when everybody waits.
///
/// # Panics
///
/// Where the test does, and when nothing moves any more; the seed is printed then.
pub fn run<F: Future>(seed: u64, settings: Settings, test: impl FnOnce(Network) -> F) -> F::Output {
    let said = Say(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing of the system");
    let limit = Duration::from_millis(settings.limit);
    let output = runtime.block_on(async {
        let network = Network::new(seed, settings);
        tokio::time::timeout(limit, test(network)).await
    });
    let output = output.unwrap_or_else(|_| panic!("not over after {limit:?} of virtual time"));
    drop(said);
    output
}

/// Says the seed when a test fails.
struct Say(u64);

impl Drop for Say {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed of this run is {}", self.0);
        }
    }
}

#[cfg(test)]
mod tests;

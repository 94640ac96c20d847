//! The simulated network as a [`Fabric`]: what programs hold of it.

use super::Network;
use super::card::broken;
use super::memory::DurableMemory;
use super::state::{NodeId, PairId, Registered, Shared, Side};
use crate::error::{Error, Result};
use crate::fabric::{Accept, Boxed, Connection, Fabric, Link, Listener, Peer};
use crate::memory::{Access, Memory, MemoryRegion, PersistMethod, RemoteMemory};
use crate::operation::{Posted, Received};
use crate::roles::Roles;
use crate::words::Words;
use bartender_pm::sync::Arc;
use std::fmt;
use std::io::ErrorKind;
use std::pin::pin;
use tokio::sync::Notify;

/// One life of a node: after [`Network::kill`] everything asked of it fails, and [`Network::restart`] gives the next.
pub struct SimFabric {
    shared: Arc<Shared>,
    node: NodeId,
    life: u32,
    name: String,
}

impl SimFabric {
    pub(super) fn new(shared: Arc<Shared>, node: NodeId, life: u32, name: String) -> Self {
        SimFabric {
            shared,
            node,
            life,
            name,
        }
    }

    /// The node's name, at which others connect to it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The network it is attached to.
    pub fn network(&self) -> Network {
        Network::of(Arc::clone(&self.shared))
    }

    /// Memory of this node's: its death takes from it what was not durable. It outlives the node's lives.
    pub fn memory(&self, len: u64) -> Arc<DurableMemory> {
        self.memory_with(len, PersistMethod::Acknowledged)
    }

    /// As [`memory`](Self::memory), and declares another method.
    pub fn memory_with(&self, len: u64, method: PersistMethod) -> Arc<DurableMemory> {
        let memory = Arc::new(DurableMemory::with_method(len, method));
        let known = Arc::downgrade(&memory);
        self.shared.with(|state| {
            state.nodes[self.node].memories.push(known);
        });
        memory
    }
}

impl fmt::Debug for SimFabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFabric({}, life {})", self.name, self.life)
    }
}

/// Takes a memory region back.
struct Revoke {
    shared: Arc<Shared>,
    node: NodeId,
    key: u64,
}

impl Drop for Revoke {
    fn drop(&mut self) {
        self.shared.with(|state| state.revoke(self.node, self.key));
    }
}

impl Fabric for SimFabric {
    fn register(&self, memory: Arc<dyn Memory>, access: Access) -> Result<MemoryRegion> {
        let len = memory.len();
        let words = Words::new(Arc::clone(&memory)).ok_or_else(|| Error::Register {
            len,
            what: "it is not aligned to 8".into(),
        })?;
        let registered = Registered {
            memory: Arc::new(words),
            access,
        };
        let key = self.shared.with(|state| {
            let node = &state.nodes[self.node];
            if !node.alive || node.life != self.life {
                return None;
            }
            let key = state.random.draw();
            let node = &mut state.nodes[self.node];
            node.registered.insert(key, registered);
            Some(key)
        });
        let Some(key) = key else {
            return Err(Error::Register {
                len,
                what: "its node is dead".into(),
            });
        };
        let remote = RemoteMemory {
            key,
            base: 0,
            len,
            access,
            method: memory.method(),
        };
        let revoke = Revoke {
            shared: Arc::clone(&self.shared),
            node: self.node,
            key,
        };
        Ok(MemoryRegion::new(remote, memory, revoke))
    }

    fn listen<'a>(&'a self, address: &'a str) -> Boxed<'a, Result<Listener>> {
        Box::pin(async move {
            let listening = self.shared.with(|state| {
                let node = &state.nodes[self.node];
                if !node.alive || node.life != self.life {
                    return Err(dead(address));
                }
                let address = state.listen(self.node, address)?;
                let wake = Arc::clone(&state.listeners[&address].wake);
                Ok((address, wake))
            });
            let (address, wake) = listening?;
            Ok(Listener::new(SimListener {
                shared: Arc::clone(&self.shared),
                address,
                wake,
            }))
        })
    }

    fn connect<'a>(&'a self, address: &'a str) -> Boxed<'a, Result<Connection>> {
        Box::pin(async move {
            let answer = self.shared.with(|state| {
                let node = &state.nodes[self.node];
                (node.alive && node.life == self.life).then(|| state.request(self.node, address))
            });
            match answer {
                Some(answer) => answer.await.unwrap_or_else(|_| Err(dead(address))),
                None => Err(dead(address)),
            }
        })
    }
}

/// The error of a node that is none any more.
fn dead(address: &str) -> Error {
    Error::Connect {
        peer: address.into(),
        source: ErrorKind::NetworkDown.into(),
    }
}

struct SimListener {
    shared: Arc<Shared>,
    address: String,
    wake: Arc<Notify>,
}

impl Accept for SimListener {
    fn accept(&self) -> Boxed<'_, Result<Connection>> {
        Box::pin(async move {
            loop {
                let mut news = pin!(self.wake.notified());
                news.as_mut().enable();
                let next = self.shared.with(|state| {
                    let ours = state.listeners.get_mut(&self.address);
                    let ours = ours.filter(|ours| Arc::ptr_eq(&ours.wake, &self.wake));
                    ours.map(|ours| ours.waiting.pop_front())
                });
                match next {
                    Some(Some(pair)) => return Ok(open(&self.shared, pair, 1)),
                    Some(None) => news.await,
                    None => return Err(broken(&self.address, "accept", ErrorKind::NetworkDown)),
                }
            }
        })
    }

    fn address(&self) -> String {
        self.address.clone()
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.shared
            .with(|state| state.unlisten(&self.address, &self.wake));
    }
}

/// An end of a connection, for the program that it belongs to.
pub(super) fn open(shared: &Arc<Shared>, pair: PairId, side: Side) -> Connection {
    let (wake, name, roles) = shared.with(|state| {
        let peer = state.pairs.get(&pair).map(|p| p.ends[1 - side].node);
        let roles = peer.map_or(Roles::NONE, |peer| state.nodes[peer].roles);
        let wake = state
            .pairs
            .get(&pair)
            .map(|p| Arc::clone(&p.ends[side].wake));
        (wake.unwrap_or_default(), state.peer(pair, side), roles)
    });
    Connection::new(SimLink {
        shared: Arc::clone(shared),
        pair,
        side,
        wake,
        peer: Peer {
            proven: true,
            address: name.clone(),
            name,
            roles,
            until: None,
        },
    })
}

struct SimLink {
    shared: Arc<Shared>,
    pair: PairId,
    side: Side,
    wake: Arc<Notify>,
    peer: Peer,
}

impl SimLink {
    /// Why it is closed, if it is.
    fn is_closed(&self) -> Option<ErrorKind> {
        self.shared.with(|state| match state.pairs.get(&self.pair) {
            Some(p) => p.ends[self.side].closed,
            None => Some(ErrorKind::ConnectionAborted),
        })
    }
}

impl Link for SimLink {
    fn post(&self, operations: Vec<Posted>) {
        self.shared
            .with(|state| state.post(self.pair, self.side, operations));
    }

    fn recv(&self) -> Boxed<'_, Result<Received>> {
        Box::pin(async move {
            loop {
                let mut news = pin!(self.wake.notified());
                news.as_mut().enable();
                let next = self.shared.with(|state| {
                    let p = state.pairs.get_mut(&self.pair)?;
                    p.ends[self.side].inbox.pop_front()
                });
                if let Some(received) = next {
                    return Ok(received);
                }
                if let Some(why) = self.is_closed() {
                    return Err(broken(&self.peer.name, "recv", why));
                }
                news.await;
            }
        })
    }

    fn close(&self) {
        self.shared.with(|state| {
            state.break_end(self.pair, self.side, ErrorKind::ConnectionAborted, true);
        });
    }

    fn closed(&self) -> Boxed<'_, ()> {
        Box::pin(async move {
            loop {
                let mut news = pin!(self.wake.notified());
                news.as_mut().enable();
                if self.is_closed().is_some() {
                    return;
                }
                news.await;
            }
        })
    }

    fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl Drop for SimLink {
    fn drop(&mut self) {
        self.shared
            .with(|state| state.drop_end(self.pair, self.side));
    }
}

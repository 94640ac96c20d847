//! The fabric: what every backend offers, and the connection that its users hold.
//!
//! [`Fabric`], [`Accept`] and [`Link`] are what a backend implements; [`Connection`] and [`Batch`] are what is used.
//! A backend is chosen at run time.

use crate::error::{Error, Result};
use crate::memory::{Access, Memory, MemoryRegion, RemoteMemory};
use crate::operation::{Operation, Outcome, Pending, Posted, Received};
use crate::roles::Roles;
use bytes::Bytes;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

/// A future of a trait object.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A node's attachment to a network.
pub trait Fabric: Send + Sync + fmt::Debug + 'static {
    /// Registers memory: peers that are told the key may do to it what `access` says, without waking code of this
    /// process's, until the [`MemoryRegion`] is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Register`](crate::Error::Register).
    fn register(&self, memory: Arc<dyn Memory>, access: Access) -> Result<MemoryRegion>;

    /// Starts listening at an address of this node.
    fn listen<'a>(&'a self, address: &'a str) -> Boxed<'a, Result<Listener>>;

    /// Connects to a peer that listens at `address`. The connection is authenticated when this returns; which node it is that answered
    /// [`Connection::expect`] asks.
    fn connect<'a>(&'a self, address: &'a str) -> Boxed<'a, Result<Connection>>;
}

/// A listening end, of a backend.
pub trait Accept: Send + Sync + 'static {
    /// The next peer that proved who it is. Those that did not are logged and dropped.
    fn accept(&self) -> Boxed<'_, Result<Connection>>;

    /// The address it listens at, to be given to [`Fabric::connect`].
    fn address(&self) -> String;
}

/// A listening end.
pub struct Listener(Box<dyn Accept>);

impl Listener {
    /// For backends.
    pub fn new(accept: impl Accept) -> Self {
        Listener(Box::new(accept))
    }

    /// The next peer that proved who it is.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`](crate::Error::Broken) when the end itself is gone.
    pub async fn accept(&self) -> Result<Connection> {
        self.0.accept().await
    }

    /// The address it listens at, to be given to [`Fabric::connect`].
    pub fn address(&self) -> String {
        self.0.address()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listener").field(&self.address()).finish()
    }
}

/// A connection, of a backend. Both ends may post.
pub trait Link: Send + Sync + 'static {
    /// Takes operations, in order, without waiting: one doorbell. It owns them until they complete, and completes
    /// every one, in the order in which they were posted. After the first that fails the link is closed and all that
    /// follow fail. Posting to a closed link completes them with its error.
    fn post(&self, operations: Vec<Posted>);

    /// The next message or immediate, in the order in which the peer posted them. An error once the link is closed
    /// and all that had arrived was delivered.
    fn recv(&self) -> Boxed<'_, Result<Received>>;

    /// Closes it: operations under way fail with an unknown effect, the peer is told. Idempotent.
    fn close(&self);

    /// Ready once it is closed, by whomever.
    fn closed(&self) -> Boxed<'_, ()>;

    /// Who the peer proved to be.
    fn peer(&self) -> &Peer;
}

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The name in its certificate; its address where nobody is authenticated (tests).
    pub name: String,
    /// Whether it proved its name.
    pub proven: bool,
    /// Where it is.
    pub address: String,
    /// The roles in its certificate; all of them where nobody is authenticated.
    pub roles: Roles,
    /// When its certificate expires, which ends the connection; never, where nobody is authenticated.
    pub until: Option<SystemTime>,
}

/// A connection to a peer: operations on its memory, messages. Cheap to clone; it is closed when the last clone goes.
///
/// The methods post one operation and give the handle to wait for it; a [`Batch`] posts many at once. An operation
/// that fails closes the connection, and whether it happened is unknown where
/// [`Error::effect_unknown`](crate::Error::effect_unknown) says so. There is no silent retry: a repeated write could
/// overtake a fence.
#[derive(Clone)]
pub struct Connection(Arc<Closing>);

/// Closes the link when the last handle goes.
struct Closing(Box<dyn Link>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(self.peer()).finish()
    }
}

fn done(outcome: Outcome) -> Option<()> {
    matches!(outcome, Outcome::Done).then_some(())
}

fn bytes(outcome: Outcome) -> Option<Bytes> {
    match outcome {
        Outcome::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

fn word(outcome: Outcome) -> Option<u64> {
    match outcome {
        Outcome::Word(word) => Some(word),
        _ => None,
    }
}

impl Connection {
    /// For backends.
    pub fn new(link: impl Link) -> Self {
        Connection(Arc::new(Closing(Box::new(link))))
    }

    fn link(&self) -> &dyn Link {
        &*self.0.0
    }

    /// Who the peer proved to be.
    pub fn peer(&self) -> &Peer {
        self.link().peer()
    }

    /// This connection, if it is `name` that answered. An authority vouches for many nodes, and an address does not say which of
    /// them is there now: whoever connects to a node and not to just any looks. Where nobody is authenticated nobody proves a name,
    /// and it passes.
    ///
    /// # Errors
    ///
    /// [`Error::AnotherNode`](crate::Error::AnotherNode); the connection is closed.
    pub fn expect(self, name: &str) -> Result<Connection> {
        let peer = self.peer();
        if !peer.proven || peer.name == name {
            return Ok(self);
        }
        let error = Error::AnotherNode {
            peer: peer.address.clone(),
            found: peer.name.clone(),
            expected: name.into(),
        };
        self.close();
        Err(error)
    }

    /// Starts a batch.
    pub fn batch(&self) -> Batch<'_> {
        Batch {
            connection: self,
            operations: Vec::new(),
        }
    }

    fn one<T>(&self, add: impl FnOnce(&mut Batch<'_>) -> Pending<T>) -> Pending<T> {
        let mut batch = self.batch();
        let pending = add(&mut batch);
        batch.post();
        pending
    }

    /// See [`Operation::Read`]. One round trip.
    pub fn read(&self, from: RemoteMemory, offset: u64, len: u32) -> Pending<Bytes> {
        self.one(|b| b.read(from, offset, len))
    }

    /// See [`Operation::Write`]. Complete means that it will be in place, and is for all that follows on this connection;
    /// others may see it a moment later, because a card answers before memory has all of it. It does not mean durable.
    /// One round trip.
    pub fn write(&self, to: RemoteMemory, offset: u64, bytes: impl Into<Bytes>) -> Pending<()> {
        self.one(|b| b.write(to, offset, bytes))
    }

    /// [`write`](Self::write), and `immediate` for the peer's [`recv`](Self::recv).
    pub fn write_with_immediate(
        &self,
        to: RemoteMemory,
        offset: u64,
        bytes: impl Into<Bytes>,
        immediate: u32,
    ) -> Pending<()> {
        self.one(|b| b.write_with_immediate(to, offset, bytes, immediate))
    }

    /// See [`Operation::CompareSwap`]. One round trip.
    pub fn compare_swap(
        &self,
        at: RemoteMemory,
        offset: u64,
        expected: u64,
        new: u64,
    ) -> Pending<u64> {
        self.one(|b| b.compare_swap(at, offset, expected, new))
    }

    /// See [`Operation::FetchAdd`]. One round trip.
    pub fn fetch_add(&self, at: RemoteMemory, offset: u64, add: u64) -> Pending<u64> {
        self.one(|b| b.fetch_add(at, offset, add))
    }

    /// The only operation after which remote bytes survive a power failure of the target: `persist_remote` of the
    /// design. By the method that the target declared. One round trip, shared with the writes of the same batch.
    pub fn persist(&self, at: RemoteMemory, ranges: Vec<(u64, u64)>) -> Pending<()> {
        self.one(|b| b.persist(at, ranges))
    }

    /// See [`Operation::Send`]. Complete when the peer's end has it; not when it was looked at.
    pub fn send(&self, bytes: impl Into<Bytes>) -> Pending<()> {
        self.one(|b| b.send(bytes))
    }

    /// The next message or immediate of the peer's.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`](crate::Error::Broken) once the connection is closed.
    pub async fn recv(&self) -> Result<Received> {
        self.link().recv().await
    }

    /// Closes it. Dropping the last clone does the same.
    pub fn close(&self) {
        self.link().close();
    }

    /// Ready once it is closed, by whomever.
    pub async fn closed(&self) {
        self.link().closed().await;
    }
}

/// Operations that are posted together. Dropped before that it posts none; who waits for one of them hears what those hear
/// whose connection broke.
#[must_use = "nothing happens before `post`"]
#[derive(Debug)]
pub struct Batch<'c> {
    connection: &'c Connection,
    operations: Vec<Posted>,
}

impl Batch<'_> {
    fn add<T>(&mut self, operation: Operation, convert: fn(Outcome) -> Option<T>) -> Pending<T> {
        let (posted, pending) = Pending::new(operation, convert);
        self.operations.push(posted);
        pending
    }

    /// See [`Connection::read`].
    pub fn read(&mut self, from: RemoteMemory, offset: u64, len: u32) -> Pending<Bytes> {
        self.add(Operation::Read { from, offset, len }, bytes)
    }

    /// See [`Connection::write`].
    pub fn write(&mut self, to: RemoteMemory, offset: u64, bytes: impl Into<Bytes>) -> Pending<()> {
        let (bytes, immediate) = (bytes.into(), None);
        self.add(
            Operation::Write {
                to,
                offset,
                bytes,
                immediate,
            },
            done,
        )
    }

    /// See [`Connection::write_with_immediate`].
    pub fn write_with_immediate(
        &mut self,
        to: RemoteMemory,
        offset: u64,
        bytes: impl Into<Bytes>,
        immediate: u32,
    ) -> Pending<()> {
        let (bytes, immediate) = (bytes.into(), Some(immediate));
        self.add(
            Operation::Write {
                to,
                offset,
                bytes,
                immediate,
            },
            done,
        )
    }

    /// See [`Connection::compare_swap`].
    pub fn compare_swap(
        &mut self,
        at: RemoteMemory,
        offset: u64,
        expected: u64,
        new: u64,
    ) -> Pending<u64> {
        self.add(
            Operation::CompareSwap {
                at,
                offset,
                expected,
                new,
            },
            word,
        )
    }

    /// See [`Connection::fetch_add`].
    pub fn fetch_add(&mut self, at: RemoteMemory, offset: u64, add: u64) -> Pending<u64> {
        self.add(Operation::FetchAdd { at, offset, add }, word)
    }

    /// See [`Connection::persist`].
    pub fn persist(&mut self, at: RemoteMemory, ranges: Vec<(u64, u64)>) -> Pending<()> {
        self.add(Operation::Persist { at, ranges }, done)
    }

    /// See [`Connection::send`].
    pub fn send(&mut self, bytes: impl Into<Bytes>) -> Pending<()> {
        let bytes = bytes.into();
        self.add(Operation::Send { bytes }, done)
    }

    /// Rings the doorbell: all of it is on its way.
    pub fn post(self) {
        self.connection.link().post(self.operations);
    }
}

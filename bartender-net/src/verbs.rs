//! The verbs backend: RDMA over InfiniBand or RoCE, by libibverbs, which is loaded at run time.
//!
//! One-sided operations are the card's own, on the registered memory itself; the target's processor sees nothing of
//! them. Messages go into buffers that wait for them, as many as the receiver has granted room for. Queue pairs find each other over a TCP connection with the TLS
//! of the crate, which also says when the peer is gone; keys are handed out by the program over the connection that
//! results.
//!
//! Beyond what holds for all backends:
//!
//! - [`persist`](crate::Connection::persist) is a message to the target's task, which runs the barrier and answers;
//!   or a read behind the writes, where the target declares that this is enough and grants reading.
//! - A peer whose machine is gone without a word is noticed in little more than a second on Soft-RoCE, and within three on cards that wait four times as
//!   long as they were told to, whether or not anything was posted: the connection closes.
//! - What is posted behind a `persist` that is refused may have happened.
//! - What protects memory, and from whom. A queue pair is given to authenticated peers only, and by their roles: who is
//!   no *writer* may read at most, who has no role may do nothing but send messages, whatever key it names. Among peers
//!   of one role a key tells memory regions apart, and no more: it has 32 bits, of which cards draw few at random, and a
//!   key that was taken back may come again. So a fence is a connection that was closed; a key alone is none. And cards
//!   prove nothing to each other: who can put packets into the network between them can forge those of a queue pair
//!   whose numbers it knows or guesses. That network has to be the cluster's own.
//! - `compare_swap` and `fetch_add` are atomic among the operations of one card. With most cards they are not atomic
//!   with this machine's processor, or with another card's operations on the same memory; some cards have none, and the
//!   first of them ends the connection there.
//! - Words are promised to be whole only where an operation starts at a multiple of 8: packets are cut where they are
//!   full, wherever that is in a word.
//!
//! It does not reconnect, and has one path for each connection. The page cache of a file, and files on fsdax, cannot
//! be registered.

#![allow(unsafe_code)]

mod ffi;

mod hello;

mod device;

mod flight;
mod slab;

mod table;
mod wishes;

mod link;

mod serve;

use crate::error::{Error, Result};
use crate::fabric::{Boxed, Connection, Fabric, Listener, Peer};
use crate::memory::{Access, Memory, MemoryRegion};
use crate::roles::Roles;
use crate::tls::{Identity, Secured};
use device::{Device, Pair, Queue};
use link::{COMPLETIONS, Shared, VerbsLink};
use serve::{Accepting, Control};
use slab::{RECVS, Slab};
use socket2::{SockRef, TcpKeepalive};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use table::Table;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

/// After how much silence the peer's machine is asked whether it is there, on the control connection; queue pairs ask sooner (`serve`).
const KEEPALIVE: Duration = Duration::from_secs(1);

/// Which card, and limits.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VerbsOptions {
    /// Name of the device, as `rdma link` shows it; the first, if none is given.
    pub device: Option<String>,
    /// Its port (1).
    pub port: u8,
    /// How long connecting and authenticating may take (5 s).
    pub connect_limit: Duration,
}

impl Default for VerbsOptions {
    fn default() -> Self {
        VerbsOptions {
            device: None,
            port: 1,
            connect_limit: Duration::from_secs(5),
        }
    }
}

/// A node's attachment to an RDMA network.
#[derive(Clone)]
pub struct VerbsFabric(Arc<Node>);

struct Node {
    handle: Handle,
    options: VerbsOptions,
    secured: Option<Secured>,
    device: Arc<Device>,
    table: Arc<Table>,
}

impl fmt::Debug for VerbsFabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerbsFabric")
            .field("device", &self.0.device.name)
            .field("secure", &self.0.secured.is_some())
            .finish_non_exhaustive()
    }
}

impl VerbsFabric {
    /// With mutual TLS on the control connections: peers have to hold a certificate of the same authority. Addresses
    /// are those of the control connections. (What travels between the cards is neither encrypted nor authenticated.)
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`], [`Error::Certificate`].
    pub fn secure(handle: Handle, identity: &Identity, options: VerbsOptions) -> Result<Self> {
        Self::open(handle, Some(Secured::new(identity)?), options)
    }

    /// Without: for tests and networks that are protected otherwise.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`].
    pub fn insecure(handle: Handle, options: VerbsOptions) -> Result<Self> {
        Self::open(handle, None, options)
    }

    fn open(handle: Handle, secured: Option<Secured>, options: VerbsOptions) -> Result<Self> {
        let device = Arc::new(Device::open(options.device.as_deref(), options.port)?);
        Ok(VerbsFabric(Arc::new(Node {
            handle,
            options,
            secured,
            device,
            table: Arc::default(),
        })))
    }
}

impl Fabric for VerbsFabric {
    fn register(&self, memory: Arc<dyn Memory>, access: Access) -> Result<MemoryRegion> {
        self.0.table.register(&self.0.device, memory, access)
    }

    fn listen<'a>(&'a self, address: &'a str) -> Boxed<'a, Result<Listener>> {
        Box::pin(async move {
            let socket = TcpListener::bind(address).await;
            let socket = socket.map_err(|source| Error::Connect {
                peer: address.into(),
                source,
            })?;
            let accepting = Accepting::start(self.0.clone(), socket)?;
            Ok(Listener::new(accepting))
        })
    }

    fn connect<'a>(&'a self, address: &'a str) -> Boxed<'a, Result<Connection>> {
        let node = self.0.clone();
        Box::pin(async move {
            let failed = |source: io::Error| Error::Connect {
                peer: address.into(),
                source,
            };
            let limit = node.options.connect_limit;
            let connected = async {
                let stream = TcpStream::connect(address).await.map_err(failed)?;
                node.handshake(stream, address, true).await
            };
            let connected = tokio::time::timeout(limit, connected).await;
            connected.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
        })
    }
}

/// What a peer's queue pair may do to memory of ours, by its roles.
fn rights(roles: Roles) -> u32 {
    if roles.contains(Roles::WRITER) {
        ffi::ACCESS_REMOTE_READ | ffi::ACCESS_REMOTE_WRITE | ffi::ACCESS_REMOTE_ATOMIC
    } else if roles != Roles::NONE {
        ffi::ACCESS_REMOTE_READ
    } else {
        0
    }
}

impl Node {
    /// Authenticates, and connects queue pairs.
    async fn handshake(
        &self,
        stream: TcpStream,
        address: &str,
        client: bool,
    ) -> Result<Connection> {
        let _ = stream.set_nodelay(true);
        // A machine that is gone says nothing: ask whether it is there.
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE)
            .with_retries(2);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        match &self.secured {
            None => {
                let (name, address) = (address.to_owned(), address.to_owned());
                let roles = Roles::ALL;
                self.pair_up(
                    stream,
                    Peer {
                        name,
                        proven: false,
                        address,
                        roles,
                        until: None,
                    },
                )
                .await
            }
            Some(secured) => {
                let (peer, stream) = if client {
                    secured.connect(stream, address).await?
                } else {
                    secured.accept(stream, address).await?
                };
                self.pair_up(stream, peer).await
            }
        }
    }

    async fn pair_up(&self, mut stream: impl Control, peer: Peer) -> Result<Connection> {
        let queue = Arc::new(Queue::new(&self.device, COMPLETIONS)?);
        // Before the queue pair, which therefore goes first where any of this fails: the card has its buffers.
        let slab = Slab::new(&self.device)?;
        let (sends, recvs) = (flight::DEPTH as u32, RECVS as u32);
        let pair = Pair::new(&self.device, &queue, sends, recvs, rights(peer.roles))?;
        // Numbers of packets start anywhere, so that those of an earlier connection are not taken for ours.
        let psn = getrandom::u32().unwrap_or(1) & 0xff_ffff;
        let ours = self.device.way(&pair, psn);
        let theirs = hello::exchange(&mut stream, &ours, &peer.address).await?;
        if !(0..RECVS).all(|recv| slab.post(&pair, recv)) {
            return Err(Error::NoDevice {
                what: "the queue pair takes no buffers".into(),
            });
        }
        pair.connect(&ours, &theirs)?;
        hello::ready(&mut stream, &peer.address).await?;
        tracing::debug!(peer = peer.address, name = peer.name, "connected by RDMA");
        let (device, table) = (self.device.clone(), self.table.clone());
        let shared = Shared::new(pair, queue, slab, device, table, peer);
        self.handle.spawn(serve::serve(shared.clone(), stream));
        Ok(Connection::new(VerbsLink(shared)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writers_may_write_and_who_has_no_role_may_nothing() {
        let write = ffi::ACCESS_REMOTE_WRITE | ffi::ACCESS_REMOTE_ATOMIC;
        assert_eq!(rights(Roles::NONE), 0);
        for roles in [Roles::READER, Roles::NODE, Roles::READER | Roles::NODE] {
            assert_eq!(rights(roles), ffi::ACCESS_REMOTE_READ, "{roles}");
        }
        for roles in [Roles::WRITER, Roles::WRITER | Roles::NODE, Roles::ALL] {
            assert_eq!(rights(roles), ffi::ACCESS_REMOTE_READ | write, "{roles}");
        }
    }
}

//! The TCP backend: connections over which one-sided operations are emulated at the target, by the connection's task.
//!
//! A connection is one socket, with TLS on both sides unless it was asked to be insecure. What holds for all backends
//! holds here too; beyond it:
//!
//! - a target denies an operation, answers, and cuts the connection off; what was posted behind it has no effect;
//! - a word of 8 aligned bytes is torn only by reads of more than 16 KiB, and not with TLS;
//! - a read may see what was written after it, unless its poster waited for it;
//! - once a [`MemoryRegion`] has been dropped no byte changes by its key any more.
//!
//! It does not reconnect, and knows nothing of names: an address is a host and a port.

mod buffers;
mod hello;
mod link;
mod outbox;
mod serve;

mod accept;

pub use accept::TcpOptions;

#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::fabric::{Boxed, Connection, Fabric, Listener, Peer};
use crate::memory::{Access, Memory, MemoryRegion};
use crate::registry::Registry;
use crate::roles::Roles;
use crate::tls::{Identity, Secured};
use accept::{Abort, Accepting};
use hello::Limits;
use link::{Shared, TcpLink};
use outbox::Writer;
use serve::Driver;
use std::fmt;
use std::io;
use std::sync::Arc;
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// A node's attachment to TCP networks.
#[derive(Clone)]
pub struct TcpFabric(Arc<Node>);

/// What the fabric, its listeners and its handshakes share.
struct Node {
    handle: Handle,
    options: TcpOptions,
    secured: Option<Secured>,
    registry: Arc<Registry>,
}

impl fmt::Debug for TcpFabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpFabric")
            .field("secure", &self.0.secured.is_some())
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

impl TcpFabric {
    /// With mutual TLS: peers have to hold a certificate of the same authority. Its tasks run in `handle`'s runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Certificate`].
    pub fn secure(handle: Handle, identity: &Identity, options: TcpOptions) -> Result<TcpFabric> {
        let secured = Some(Secured::new(identity)?);
        let registry = Arc::default();
        Ok(TcpFabric(Arc::new(Node {
            handle,
            options,
            secured,
            registry,
        })))
    }

    /// Without: whoever reaches the port is let in with all roles, and everything can be read on the way. For tests,
    /// benchmarks and networks that are protected otherwise.
    pub fn insecure(handle: Handle, options: TcpOptions) -> TcpFabric {
        let registry = Arc::default();
        TcpFabric(Arc::new(Node {
            handle,
            options,
            secured: None,
            registry,
        }))
    }
}

impl Fabric for TcpFabric {
    fn register(&self, memory: Arc<dyn Memory>, access: Access) -> Result<MemoryRegion> {
        self.0.registry.register(memory, access)
    }

    fn listen<'a>(&'a self, address: &'a str) -> Boxed<'a, Result<Listener>> {
        let (node, to) = (self.0.clone(), address.to_owned());
        let bound = Abort::new(&self.0.handle, Accepting::start(node, to));
        Box::pin(async move { Ok(Listener::new(bound.wait(address).await?)) })
    }

    fn connect<'a>(&'a self, address: &'a str) -> Boxed<'a, Result<Connection>> {
        let (node, to) = (self.0.clone(), address.to_owned());
        let connected = Abort::new(&self.0.handle, async move { node.connect(&to).await });
        Box::pin(connected.wait(address))
    }
}

impl Node {
    async fn connect(&self, address: &str) -> Result<Connection> {
        let limit = self.options.connect_limit;
        let broken = |source: io::Error| Error::Connect {
            peer: address.into(),
            source,
        };
        let late = |_| broken(io::ErrorKind::TimedOut.into());
        let connected = tokio::time::timeout(limit, TcpStream::connect(address)).await;
        let stream = connected.map_err(late)?.map_err(broken)?;
        self.options.apply(&stream).map_err(broken)?;
        let limit = self.options.handshake_limit;
        let shaken = tokio::time::timeout(limit, self.handshake(stream, address, true)).await;
        shaken.map_err(late)?
    }

    /// Authenticates, says hello, and starts the connection's task.
    async fn handshake(
        &self,
        mut stream: TcpStream,
        address: &str,
        client: bool,
    ) -> Result<Connection> {
        let Some(secured) = &self.secured else {
            let limits = hello::exchange(&mut stream, address).await?;
            // So that the first post finds the socket writable.
            let broken = |source: io::Error| Error::Connect {
                peer: address.into(),
                source,
            };
            stream.writable().await.map_err(broken)?;
            let (reader, writer) = stream.into_split();
            let writer = Writer {
                stream: Box::new(writer),
                socket: true,
            };
            let (name, address) = (address.to_owned(), address.to_owned());
            let peer = Peer {
                name,
                proven: false,
                address,
                roles: Roles::ALL,
                until: None,
            };
            return Ok(self.start(peer, limits, reader, writer));
        };
        let (peer, mut stream) = if client {
            secured.connect(stream, address).await?
        } else {
            secured.accept(stream, address).await?
        };
        let limits = hello::exchange(&mut stream, address).await?;
        let (reader, writer) = tokio::io::split(stream);
        let writer = Writer {
            stream: Box::new(writer),
            socket: false,
        };
        Ok(self.start(peer, limits, reader, writer))
    }

    fn start(
        &self,
        peer: Peer,
        limits: Limits,
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: Writer,
    ) -> Connection {
        tracing::debug!(
            peer = peer.address,
            name = peer.name,
            features = limits.features,
            "connected"
        );
        let (sender, inbox) = mpsc::unbounded_channel();
        let shared = Shared::new(peer, limits, writer, inbox);
        let driver = Driver::new(
            shared.clone(),
            self.registry.clone(),
            Box::new(reader),
            sender,
        );
        self.handle.spawn(driver.run());
        Connection::new(TcpLink(shared))
    }
}

//! Options of the backend, and its listening end.
//!
//! Whoever connects is given a bounded time to prove who it is, and only so many may be trying at once (`handshakes`);
//! until then it costs a socket and what the TLS library needs.

use super::Node;
use crate::error::{Error, Result};
use crate::fabric::{Accept, Boxed, Connection};
use crate::handshakes::Handshakes;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

/// Limits of the TCP backend.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TcpOptions {
    /// How long a connection attempt may take (5 s).
    pub connect_limit: Duration,
    /// How long authentication and hello may take, at both ends (5 s).
    pub handshake_limit: Duration,
    /// How many peers may be authenticating at once with one listener; one more ends the oldest attempt (64). As many that
    /// were authenticated may wait to be accepted.
    pub handshakes: usize,
    /// After how much silence the peer's machine is asked whether it is there; what is sent and not acknowledged for
    /// three times as long breaks the connection (5 s). Rounded up to whole seconds.
    pub keepalive: Duration,
}

impl Default for TcpOptions {
    fn default() -> Self {
        TcpOptions {
            connect_limit: Duration::from_secs(5),
            handshake_limit: Duration::from_secs(5),
            handshakes: 64,
            keepalive: Duration::from_secs(5),
        }
    }
}

impl TcpOptions {
    /// Sets a socket up.
    pub(super) fn apply(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let seconds = Duration::from_secs(self.keepalive.as_millis().div_ceil(1000).max(1) as u64);
        let keepalive = TcpKeepalive::new()
            .with_time(seconds)
            .with_interval(seconds)
            .with_retries(2);
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(seconds * 3))?;
        Ok(())
    }
}

/// A task whose end is waited for, from any executor, and which ends when nobody waits.
pub(super) struct Abort<T>(JoinHandle<T>);

impl<T: Send + 'static> Abort<Result<T>> {
    pub(super) fn new(
        handle: &Handle,
        task: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Self {
        Abort(handle.spawn(task))
    }

    pub(super) async fn wait(mut self, peer: &str) -> Result<T> {
        match (&mut self.0).await {
            Ok(result) => result,
            Err(gone) => Err(Error::Connect {
                peer: peer.into(),
                source: io::Error::other(format!("the runtime ended: {gone}")),
            }),
        }
    }
}

impl<T> Drop for Abort<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A listening socket with its task.
pub(super) struct Accepting {
    socket: Arc<TcpListener>,
    address: SocketAddr,
    accepted: Mutex<mpsc::Receiver<Connection>>,
    task: JoinHandle<()>,
}

impl Accepting {
    /// Binds, and starts to accept.
    pub(super) async fn start(node: Arc<Node>, address: String) -> Result<Accepting> {
        let broken = |source: io::Error| Error::Connect {
            peer: address.clone(),
            source,
        };
        let socket = TcpListener::bind(&address).await.map_err(broken)?;
        let bound = socket.local_addr().map_err(broken)?;
        let socket = Arc::new(socket);
        let handle = node.handle.clone();
        let (most, limit) = (node.options.handshakes, node.options.handshake_limit);
        let (handshakes, accepted) = Handshakes::new(handle.clone(), most, limit);
        let task = handle.spawn(accept_all(node, socket.clone(), handshakes));
        let accepted = Mutex::new(accepted);
        Ok(Accepting {
            socket,
            address: bound,
            accepted,
            task,
        })
    }
}

impl Accept for Accepting {
    fn accept(&self) -> Boxed<'_, Result<Connection>> {
        Box::pin(async move {
            let accepted = self.accepted.lock().await.recv().await;
            accepted.ok_or_else(|| Error::Broken {
                peer: self.address.to_string(),
                operation: "accept",
                source: io::ErrorKind::NotConnected.into(),
            })
        })
    }

    fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        // Closes the port at once, where the system can; dropping the socket, when its task has gone, does so too.
        let _ = SockRef::from(&*self.socket).shutdown(std::net::Shutdown::Both);
        self.task.abort();
    }
}

async fn accept_all(node: Arc<Node>, socket: Arc<TcpListener>, mut handshakes: Handshakes) {
    loop {
        let (stream, from) = match socket.accept().await {
            Ok(pair) => pair,
            Err(error) => {
                // The peer that gave up, or a limit of the system's: the next may fare better.
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (node, peer) = (node.clone(), from.to_string());
        handshakes.start(peer.clone(), async move {
            let broken = |source: io::Error| Error::Connect {
                peer: peer.clone(),
                source,
            };
            node.options.apply(&stream).map_err(broken)?;
            node.handshake(stream, &peer, false).await
        });
    }
}

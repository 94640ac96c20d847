//! The tasks: of a connection, which polls and runs barriers; of a listening end, which shakes hands.

use super::Node;
use super::link::Shared;
use crate::error::{Error, Result};
use crate::fabric::{Accept, Boxed, Connection};
use bartender_pm::sync::Arc;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::task::Poll;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinHandle;

/// A control connection.
pub(super) trait Control: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Control for S {}

/// How often an empty queue is looked at, letting others run in between, before its file is waited for.
const LOOKS: u32 = 64;

/// What the task waits for.
enum News {
    Completions,
    Kick,
    End,
}

/// Serves a connection to its end.
pub(super) async fn serve(shared: Arc<Shared>, mut control: impl Control) {
    let why = work(&shared, &mut control).await;
    shared.fall(why);
    // Dropping the control connection tells the peer.
}

async fn work(shared: &Arc<Shared>, control: &mut impl Control) -> ErrorKind {
    let Ok(file) = shared.queue.file() else {
        return ErrorKind::Other;
    };
    // SAFETY: an `OwnedFd` gives one descriptor, and keeps it open until it is dropped, which the registration does.
    let Ok(file) = (unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }) else {
        return ErrorKind::Other;
    };
    let mut empty = 0;
    loop {
        let mut count = shared.poll();
        barriers(shared);
        if shared.is_closed() {
            return ErrorKind::ConnectionAborted;
        }
        if count == 0 && empty >= LOOKS {
            // Armed first, looked at again after: nothing falls between.
            shared.queue.arm();
            count = shared.poll();
            barriers(shared);
        }
        if count > 0 || empty < LOOKS {
            empty = if count > 0 { 0 } else { empty + 1 };
            tokio::task::yield_now().await;
            continue;
        }
        match news(shared, &file, control).await {
            News::Completions | News::Kick => empty = 0,
            News::End => {
                // What had arrived before the peer closed is there.
                while shared.poll() > 0 {}
                return ErrorKind::ConnectionReset;
            }
        }
    }
}

/// Waits for the queue's file, for a kick, or for the end of the control connection.
async fn news(shared: &Shared, file: &AsyncFd<OwnedFd>, control: &mut impl Control) -> News {
    let mut byte = [0];
    let mut ready = pin!(file.readable());
    let mut kick = pin!(shared.kick.notified());
    let mut end = pin!(control.read(&mut byte));
    std::future::poll_fn(|context| {
        if let Poll::Ready(guard) = ready.as_mut().poll(context) {
            while shared.queue.take_event() {}
            if let Ok(mut guard) = guard {
                guard.clear_ready();
            }
            return Poll::Ready(News::Completions);
        }
        if kick.as_mut().poll(context).is_ready() {
            return Poll::Ready(News::Kick);
        }
        end.as_mut().poll(context).map(|_| News::End)
    })
    .await
}

/// Runs the barriers that the peer wants, where they may block.
fn barriers(shared: &Arc<Shared>) {
    for wish in shared.wishes() {
        let shared = shared.clone();
        tokio::task::spawn_blocking(move || {
            let (id, outcome) = wish.run();
            shared.answer(id, outcome);
        });
    }
}

/// A listening socket with its task.
pub(super) struct Accepting {
    address: String,
    accepted: Mutex<mpsc::Receiver<Connection>>,
    task: JoinHandle<()>,
}

/// How many may be shaking hands at once; others wait.
const HANDSHAKES: usize = 64;

impl Accepting {
    pub(super) fn start(node: Arc<Node>, socket: TcpListener) -> Result<Accepting> {
        let address = socket.local_addr().map_err(|source| Error::Connect {
            peer: String::new(),
            source,
        })?;
        let (sender, accepted) = mpsc::channel(1);
        let handle = node.handle.clone();
        let task = handle.spawn(accept_all(node, socket, sender));
        Ok(Accepting {
            address: address.to_string(),
            accepted: Mutex::new(accepted),
            task,
        })
    }
}

async fn accept_all(node: Arc<Node>, socket: TcpListener, sender: mpsc::Sender<Connection>) {
    let room = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        let (stream, from) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of files, for instance; others may close theirs.
                tracing::warn!("cannot accept: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let (node, sender) = (node.clone(), sender.clone());
        tokio::spawn(async move {
            let address = from.to_string();
            let limit = node.options.connect_limit;
            let shaken = node.handshake(stream, &address, false);
            match tokio::time::timeout(limit, shaken).await {
                Ok(Ok(connection)) => drop(sender.send(connection).await),
                Ok(Err(error)) => tracing::warn!(peer = address, "turned away: {error}"),
                Err(_) => tracing::warn!(peer = address, "turned away: took too long"),
            }
            drop(permit);
        });
    }
}

impl Accept for Accepting {
    fn accept(&self) -> Boxed<'_, Result<Connection>> {
        Box::pin(async move {
            let next = self.accepted.lock().await.recv().await;
            next.ok_or_else(|| Error::Broken {
                peer: self.address.clone(),
                operation: "accept",
                source: io::ErrorKind::NetworkDown.into(),
            })
        })
    }

    fn address(&self) -> String {
        self.address.clone()
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

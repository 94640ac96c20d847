//! The tasks: of a connection, which polls and runs barriers; of a listening end, which shakes hands.

use super::Node;
use super::link::Shared;
use super::wishes::Wish;
use crate::error::{Error, Result};
use crate::fabric::{Accept, Boxed, Connection};
use crate::handshakes::Handshakes;
use crate::tls::expired;
use bartender_pm::sync::Arc;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

/// A control connection.
pub(super) trait Control: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Control for S {}

/// How often an empty queue is looked at, letting others run in between, before its file is waited for.
const LOOKS: u32 = 64;

/// After so much silence the peer's card is asked for a sign of life. A card that hears nothing gives up half a second later (some take
/// two): together less than a lease.
const SILENCE: Duration = Duration::from_millis(500);

/// What the task waits for.
enum News {
    Completions,
    Kick,
    Silence,
    End,
}

/// Serves a connection to its end.
pub(super) async fn serve(shared: Arc<Shared>, mut control: impl Control) {
    let why = tokio::select! {
        biased;
        why = work(&shared, &mut control) => why,
        () = expired(shared.peer.until) => ErrorKind::PermissionDenied,
    };
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
            // A machine that lost its power says nothing, and what it had received and not answered waits for ever.
            News::Silence => shared.probe(),
            News::End => {
                // What had arrived before the peer closed is there.
                while shared.poll() > 0 {}
                return ErrorKind::ConnectionReset;
            }
        }
    }
}

/// Waits for the queue's file, for a kick, for a while, or for the end of the control connection.
async fn news(shared: &Shared, file: &AsyncFd<OwnedFd>, control: &mut impl Control) -> News {
    let mut byte = [0];
    let mut ready = pin!(file.readable());
    let mut kick = pin!(shared.kick.notified());
    let mut end = pin!(control.read(&mut byte));
    let mut silence = pin!(tokio::time::sleep(SILENCE));
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
        if silence.as_mut().poll(context).is_ready() {
            return Poll::Ready(News::Silence);
        }
        end.as_mut().poll(context).map(|_| News::End)
    })
    .await
}

/// Has the barriers run that the peer wants, where they may block, one after the other in the order in which they came.
fn barriers(shared: &Arc<Shared>) {
    let Some(first) = shared.first_wish() else {
        return;
    };
    let running = Running(Some(shared.clone()));
    tokio::task::spawn_blocking(move || running.run(first));
}

/// Barriers that are being run. Where that does not come to its end, because one panics or the runtime goes away, the peer is not
/// left waiting.
struct Running(Option<Arc<Shared>>);

impl Running {
    fn run(mut self, first: Wish) {
        let mut next = Some(first);
        while let (Some(wish), Some(shared)) = (next, &self.0) {
            let (id, outcome) = wish.run();
            next = shared.answer(id, outcome);
        }
        self.0 = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.fall(ErrorKind::Other);
        }
    }
}

/// A listening socket with its task.
pub(super) struct Accepting {
    address: String,
    accepted: Mutex<mpsc::Receiver<Connection>>,
    task: JoinHandle<()>,
}

/// How many may be shaking hands at once; one more ends the oldest attempt.
const HANDSHAKES: usize = 64;

impl Accepting {
    pub(super) fn start(node: Arc<Node>, socket: TcpListener) -> Result<Accepting> {
        let address = socket.local_addr().map_err(|source| Error::Connect {
            peer: String::new(),
            source,
        })?;
        let handle = node.handle.clone();
        let limit = node.options.connect_limit;
        let (handshakes, accepted) = Handshakes::new(handle.clone(), HANDSHAKES, limit);
        let task = handle.spawn(accept_all(node, socket, handshakes));
        Ok(Accepting {
            address: address.to_string(),
            accepted: Mutex::new(accepted),
            task,
        })
    }
}

async fn accept_all(node: Arc<Node>, socket: TcpListener, mut handshakes: Handshakes) {
    loop {
        let (stream, from) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of files, for instance; others may close theirs.
                tracing::warn!("cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (node, peer) = (node.clone(), from.to_string());
        handshakes.start(peer.clone(), async move {
            node.handshake(stream, &peer, false).await
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

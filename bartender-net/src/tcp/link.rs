//! One end of a connection, as its users hold it: posting, receiving, closing.
//!
//! [`Shared`] is between the users and the connection's task (`serve`). One lock covers what was posted and what is on
//! its way out, so operations leave in the order in which they were posted, and whoever posts writes to the socket
//! himself: the task is kicked only where the socket is full, and goes on. Of all others only this task is ever woken
//! under the lock; completers are told without it.
//!
//! What waits is bounded: a peer gets no more unanswered operations and no more bytes of messages than it said it has
//! room for; the rest waits here, with who posted it.

use super::hello::Limits;
use super::outbox::{Outbox, Writer};
use super::serve::STRAIGHT;
use crate::counts;
use crate::error::{Error, Result};
use crate::fabric::{Boxed, Link, Peer};
use crate::layout::{self, Frame, MESSAGE_COST, Range};
use crate::operation::{Completer, Operation, Posted, Received};
use bartender_pm::sync::atomic::{AtomicU64, Ordering};
use bartender_pm::sync::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::sync::{mpsc, watch};

/// Why a connection ended.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) kind: io::ErrorKind,
    pub(super) why: String,
}

impl End {
    pub(super) fn new(kind: io::ErrorKind, why: impl Into<String>) -> End {
        End {
            kind,
            why: why.into(),
        }
    }

    /// This as an operation's error.
    pub(super) fn error(&self, peer: &Peer, operation: &'static str) -> Error {
        Error::Broken {
            peer: peer.address.clone(),
            operation,
            source: io::Error::new(self.kind, self.why.clone()),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::new(error.kind(), error.to_string())
    }
}

/// The answer that an operation waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Done,
    Bytes(u32),
    Word,
}

/// An operation that was sent, until all of its answer is here: the peer counts it until the last byte is gone.
pub(super) struct InFlight {
    pub(super) name: &'static str,
    pub(super) expected: Expected,
    pub(super) completer: Completer,
}

/// What is under the lock.
pub(super) struct State {
    /// Nothing once the connection has ended.
    pub(super) outbox: Option<Outbox>,
    pub(super) in_flight: VecDeque<InFlight>,
    /// Posted, and over the peer's limits so far.
    backlog: VecDeque<Posted>,
    /// Bytes of messages that the peer has room for.
    credit: u64,
    pub(super) end: Option<End>,
    /// The connection's task, which waits for the socket.
    pub(super) task: Option<Waker>,
}

/// See the top of this file.
pub(super) struct Shared {
    pub(super) peer: Peer,
    limits: Limits,
    state: Mutex<State>,
    inbox: tokio::sync::Mutex<mpsc::UnboundedReceiver<Received>>,
    /// Bytes of messages that were received and not yet granted anew.
    taken: Mutex<u64>,
    /// Bytes of messages that the peer was granted in all.
    granted: AtomicU64,
    closed: watch::Sender<bool>,
}

/// Operations that have ended, with what is to be said to whom.
#[derive(Default)]
pub(super) struct Ended {
    sent: VecDeque<InFlight>,
    unsent: VecDeque<Posted>,
    end: Option<End>,
}

impl Ended {
    /// Tells all of them. Not under the lock.
    pub(super) fn tell(self, shared: &Shared) {
        let Some(end) = self.end else { return };
        for operation in self.sent {
            let error = end.error(&shared.peer, operation.name);
            operation.completer.complete(Err(error));
        }
        for posted in self.unsent {
            let error = end.error(&shared.peer, posted.operation.name());
            posted.completer.complete(Err(error));
        }
        shared.closed.send_replace(true);
    }
}

impl State {
    /// Ends the connection; the first reason counts. The outbox is dropped, unless the caller took it.
    #[must_use]
    pub(super) fn finish(&mut self, end: &End) -> Ended {
        if self.end.is_some() {
            return Ended::default();
        }
        self.end = Some(end.clone());
        self.outbox = None;
        if let Some(task) = self.task.take() {
            task.wake();
        }
        Ended {
            sent: std::mem::take(&mut self.in_flight),
            unsent: std::mem::take(&mut self.backlog),
            end: Some(end.clone()),
        }
    }

    /// The peer has room again.
    pub(super) fn grant(&mut self, bytes: u32, limits: &Limits) -> Result<(), String> {
        self.credit += u64::from(bytes);
        if self.credit > limits.window {
            return Err("room for more messages than there can be".into());
        }
        Ok(())
    }

    /// Moves into the outbox what the peer's limits allow.
    pub(super) fn admit(&mut self, limits: &Limits) {
        while let Some(posted) = self.backlog.front()
            && self.room(&posted.operation, limits)
        {
            if let Some(posted) = self.backlog.pop_front() {
                self.start(posted);
            }
        }
    }

    fn room(&self, operation: &Operation, limits: &Limits) -> bool {
        self.in_flight.len() < limits.in_flight && cost(operation) <= self.credit
    }

    /// Puts an operation into the outbox.
    fn start(&mut self, posted: Posted) {
        self.credit -= cost(&posted.operation);
        let name = posted.operation.name();
        let Some(outbox) = &mut self.outbox else {
            return;
        };
        let expected = match posted.operation {
            Operation::Read { from, offset, len } => {
                Frame::Read {
                    key: from.key,
                    offset,
                    len,
                }
                .put(outbox.frames());
                Expected::Bytes(len)
            }
            Operation::Write {
                to,
                offset,
                bytes,
                immediate,
            } => {
                let len = bytes.len() as u32;
                Frame::Write {
                    key: to.key,
                    offset,
                    len,
                    immediate,
                }
                .put(outbox.frames());
                outbox.payload(bytes);
                Expected::Done
            }
            Operation::CompareSwap {
                at,
                offset,
                expected,
                new,
            } => {
                Frame::CompareSwap {
                    key: at.key,
                    offset,
                    expected,
                    new,
                }
                .put(outbox.frames());
                Expected::Word
            }
            Operation::FetchAdd { at, offset, add } => {
                Frame::FetchAdd {
                    key: at.key,
                    offset,
                    addend: add,
                }
                .put(outbox.frames());
                Expected::Word
            }
            Operation::Persist { at, ranges } => {
                let range = |&(offset, len): &(u64, u64)| Range {
                    offset: offset.into(),
                    len: len.into(),
                };
                let ranges: Vec<Range> = ranges.iter().map(range).collect();
                Frame::Persist {
                    key: at.key,
                    ranges: &ranges,
                }
                .put(outbox.frames());
                Expected::Done
            }
            Operation::Send { bytes } => {
                Frame::Send {
                    len: bytes.len() as u32,
                }
                .put(outbox.frames());
                outbox.payload(bytes);
                Expected::Done
            }
        };
        self.in_flight.push_back(InFlight {
            name,
            expected,
            completer: posted.completer,
        });
    }
}

/// What an operation takes of the peer's room for messages.
fn cost(operation: &Operation) -> u64 {
    match operation {
        Operation::Send { bytes } => bytes.len() as u64 + u64::from(MESSAGE_COST),
        Operation::Write {
            immediate: Some(_), ..
        } => u64::from(MESSAGE_COST),
        _ => 0,
    }
}

/// Why an operation can never be sent.
fn too_large(operation: &Operation, limits: &Limits) -> Option<String> {
    let (what, len, bound) = match operation {
        Operation::Read { len, .. } => ("bytes", u64::from(*len), limits.transfer),
        Operation::Write { bytes, .. } => ("bytes", bytes.len() as u64, limits.transfer),
        Operation::Send { bytes } => ("bytes", bytes.len() as u64, limits.message),
        Operation::Persist { ranges, .. } => ("ranges", ranges.len() as u64, layout::MAX_RANGES),
        _ => return None,
    };
    (len > u64::from(bound)).then(|| format!("{len} {what}, and one operation takes {bound}"))
}

impl Shared {
    pub(super) fn new(
        peer: Peer,
        limits: Limits,
        writer: Writer,
        inbox: mpsc::UnboundedReceiver<Received>,
    ) -> Arc<Shared> {
        Arc::new(Shared {
            peer,
            limits,
            state: Mutex::new(State {
                outbox: Some(Outbox::new(writer)),
                in_flight: VecDeque::new(),
                backlog: VecDeque::new(),
                credit: limits.window,
                end: None,
                task: None,
            }),
            inbox: tokio::sync::Mutex::new(inbox),
            taken: Mutex::new(0),
            granted: AtomicU64::new(u64::from(layout::WINDOW)),
            closed: watch::Sender::new(false),
        })
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether the answer that comes after `ahead` others is the result of a large read.
    pub(super) fn is_large(&self, ahead: usize) -> bool {
        let large = |next: &InFlight| matches!(next.expected, Expected::Bytes(len) if len as usize >= STRAIGHT);
        self.state.lock().in_flight.get(ahead).is_some_and(large)
    }

    /// Bytes of messages that the peer may have sent in all.
    pub(super) fn granted(&self) -> u64 {
        self.granted.load(Ordering::Relaxed)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Sends what is in the outbox, from any thread; what the socket does not take is the task's.
    pub(super) fn flush(&self, state: &mut State) -> Ended {
        let Some(outbox) = &mut state.outbox else {
            return Ended::default();
        };
        match outbox.poll_flush(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Ended::default(),
            Poll::Ready(Err(error)) => state.finish(&error.into()),
            Poll::Pending => {
                // The socket knows a waker that does nothing: the task has to ask again.
                if let Some(task) = state.task.take() {
                    counts::kick();
                    task.wake();
                }
                Ended::default()
            }
        }
    }

    /// Ends the connection.
    pub(super) fn end(&self, end: &End) {
        let ended = self.state.lock().finish(end);
        ended.tell(self);
    }

    /// Notes that a message was received, and grants the peer room when it is worth a frame.
    fn took(&self, received: &Received) {
        let len = match received {
            Received::Message(bytes) => bytes.len() as u64,
            Received::Immediate(_) => 0,
        };
        let mut taken = self.taken.lock();
        *taken += len + u64::from(MESSAGE_COST);
        if *taken < u64::from(layout::WINDOW) / 4 {
            return;
        }
        let bytes = std::mem::take(&mut *taken) as u32;
        drop(taken);
        self.granted.fetch_add(u64::from(bytes), Ordering::Relaxed);
        let mut state = self.state.lock();
        let Some(outbox) = &mut state.outbox else {
            return;
        };
        let idle = outbox.is_empty();
        Frame::Grant { bytes }.put(outbox.frames());
        let ended = if idle {
            self.flush(&mut state)
        } else {
            Ended::default()
        };
        drop(state);
        ended.tell(self);
    }
}

/// The link of a [`Connection`](crate::Connection).
pub(super) struct TcpLink(pub(super) Arc<Shared>);

impl Link for TcpLink {
    fn post(&self, operations: Vec<Posted>) {
        let shared = &*self.0;
        let mut refused = None;
        let mut late = Vec::new();
        let mut state = shared.state.lock();
        let idle = state.outbox.as_ref().is_some_and(Outbox::is_empty);
        for posted in operations {
            if state.end.is_some() || refused.is_some() {
                late.push(posted);
            } else if let Some(reason) = too_large(&posted.operation, &shared.limits) {
                refused = Some((posted, reason));
            } else if state.backlog.is_empty() && state.room(&posted.operation, &shared.limits) {
                state.start(posted);
            } else {
                state.backlog.push_back(posted);
            }
        }
        let mut ended = if idle {
            shared.flush(&mut state)
        } else {
            Ended::default()
        };
        if refused.is_some() && state.end.is_none() {
            let end = End::new(io::ErrorKind::InvalidInput, "an operation was too large");
            ended = state.finish(&end);
        }
        let end = state.end.clone();
        drop(state);
        ended.tell(shared);
        if let Some((posted, reason)) = refused {
            let (peer, operation) = (shared.peer.address.clone(), posted.operation.name());
            posted.completer.complete(Err(Error::Refused {
                peer,
                operation,
                reason,
            }));
        }
        if let Some(end) = end {
            for posted in late {
                let error = end.error(&shared.peer, posted.operation.name());
                posted.completer.complete(Err(error));
            }
        }
    }

    fn recv(&self) -> Boxed<'_, Result<Received>> {
        let shared = &*self.0;
        Box::pin(async move {
            let received = shared.inbox.lock().await.recv().await;
            match received {
                Some(received) => {
                    shared.took(&received);
                    Ok(received)
                }
                None => {
                    let end = shared.state.lock().end.clone();
                    let end =
                        end.unwrap_or_else(|| End::new(io::ErrorKind::NotConnected, "closed"));
                    Err(end.error(&shared.peer, "recv"))
                }
            }
        })
    }

    fn close(&self) {
        self.0
            .end(&End::new(io::ErrorKind::NotConnected, "this end closed it"));
    }

    fn closed(&self) -> Boxed<'_, ()> {
        let mut closed = self.0.closed.subscribe();
        Box::pin(async move {
            // The sender lives as long as `self`.
            let _ = closed.wait_for(|closed| *closed).await;
        })
    }

    fn peer(&self) -> &Peer {
        &self.0.peer
    }
}

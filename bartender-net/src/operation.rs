//! Operations, and the handles by which their posters wait for them.
//!
//! An operation owns its buffers until it completes: the backend has them, and neither a deadline that passes nor a
//! [`Pending`] that is dropped takes them away. What is dropped is only the interest in the result.

use crate::error::{Error, Result};
use crate::memory::RemoteMemory;
use bytes::Bytes;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;

/// What is to be done. Offsets are into the memory region, in bytes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Operation {
    /// Copies `len` bytes from the target. Atomic in aligned words of 8 bytes up to 16 KiB, over RDMA only from an offset
    /// that is a multiple of 8; any other read may tear a word that changes meanwhile. It may see what was posted
    /// behind it.
    Read {
        /// Whose bytes.
        from: RemoteMemory,
        /// Where they start.
        offset: u64,
        /// How many.
        len: u32,
    },
    /// Copies bytes to the target, in any order of their aligned words of 8; over RDMA, where the offset is no multiple
    /// of 8, in any order of their bytes.
    Write {
        /// Where to.
        to: RemoteMemory,
        /// Where they start.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
        /// Delivered to the target's `recv` once the bytes are in place.
        immediate: Option<u32>,
    },
    /// Replaces the word at an aligned offset if it is `expected`. Gives the word that was there. Atomic with the atomic
    /// operations of all peers; with the target's own processor only where that does it (TCP), and not with most cards.
    CompareSwap {
        /// Whose word.
        at: RemoteMemory,
        /// Where; a multiple of 8.
        offset: u64,
        /// What it must be.
        expected: u64,
        /// What it becomes.
        new: u64,
    },
    /// Adds to the word at an aligned offset, wrapping. Gives the word that was there. Atomic as
    /// [`CompareSwap`](Self::CompareSwap) is.
    FetchAdd {
        /// Whose word.
        at: RemoteMemory,
        /// Where; a multiple of 8.
        offset: u64,
        /// What is added.
        add: u64,
    },
    /// Makes ranges (offset, length) durable at the target, with all that was written to them on this connection
    /// before.
    Persist {
        /// Whose bytes.
        at: RemoteMemory,
        /// Which.
        ranges: Vec<(u64, u64)>,
    },
    /// A message to the target's `recv`.
    Send {
        /// The message.
        bytes: Bytes,
    },
}

impl Operation {
    /// Its name in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Operation::Read { .. } => "read",
            Operation::Write { .. } => "write",
            Operation::CompareSwap { .. } => "compare_swap",
            Operation::FetchAdd { .. } => "fetch_add",
            Operation::Persist { .. } => "persist",
            Operation::Send { .. } => "send",
        }
    }
}

/// What an operation gave.
#[derive(Debug)]
pub enum Outcome {
    /// Write, persist, send.
    Done,
    /// Read.
    Bytes(Bytes),
    /// The word before, of an atomic operation.
    Word(u64),
}

/// An operation on its way to a backend, and where its outcome goes.
#[derive(Debug)]
pub struct Posted {
    /// What is to be done.
    pub operation: Operation,
    /// Who is told.
    pub completer: Completer,
}

/// Tells the poster the outcome. Dropped without a word it says that the connection broke.
#[derive(Debug)]
pub struct Completer(oneshot::Sender<Result<Outcome>>);

impl Completer {
    /// The outcome. Nobody may be waiting any more; that is no error.
    pub fn complete(self, outcome: Result<Outcome>) {
        let _ = self.0.send(outcome);
    }
}

/// An operation that was posted, or will be with its batch. Wait for it, or drop it: it goes on.
#[must_use = "the outcome is unknown until this was waited for"]
pub struct Pending<T> {
    outcome: oneshot::Receiver<Result<Outcome>>,
    operation: &'static str,
    convert: fn(Outcome) -> Option<T>,
}

impl<T> Pending<T> {
    pub(crate) fn new(operation: Operation, convert: fn(Outcome) -> Option<T>) -> (Posted, Self) {
        let (sender, outcome) = oneshot::channel();
        let name = operation.name();
        let posted = Posted {
            operation,
            completer: Completer(sender),
        };
        let pending = Pending {
            outcome,
            operation: name,
            convert,
        };
        (posted, pending)
    }

    /// Waits for no longer than `limit`. The operation goes on after that, and owns its buffers; its effect is unknown.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], and those of the operation.
    pub async fn within(self, limit: Duration) -> Result<T> {
        let operation = self.operation;
        match tokio::time::timeout(limit, self).await {
            Ok(result) => result,
            Err(_) => Err(Error::TimedOut {
                peer: String::new(),
                operation,
                millis: limit.as_millis() as u64,
            }),
        }
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        let operation = self.operation;
        Pin::new(&mut self.outcome)
            .poll(context)
            .map(|outcome| match outcome {
                Ok(Ok(outcome)) => (self.convert)(outcome).ok_or_else(|| Error::BadMessage {
                    peer: String::new(),
                    what: format!("an answer of another kind to {operation}"),
                }),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(Error::Broken {
                    peer: String::new(),
                    operation,
                    source: std::io::ErrorKind::ConnectionAborted.into(),
                }),
            })
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}

/// What `recv` delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A message.
    Message(Bytes),
    /// The immediate of a write whose bytes are in place.
    Immediate(u32),
}

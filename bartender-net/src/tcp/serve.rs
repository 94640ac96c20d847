//! The task of a connection: reads the stream, does at once what the peer asks of our memory, and tells posters what
//! became of their operations. No code of the application's runs in it but [`Memory::persist`](crate::Memory::persist).
//!
//! What was read together is answered together, in one write. Bytes that go far (results of large reads, messages)
//! are read from the socket to where they stay; bytes for a memory region go through the input buffer and from there
//! word by word.
//!
//! It never stops reading because the peer does not: reads that cannot be answered yet wait as an offset and a length,
//! and a peer that asks for more than it may is cut off. So two ends that both send a lot cannot lock each other up.
//! (A read may therefore see what was written after it on the same connection, unless the poster waited for it.)

mod act;

use super::buffers::Buffers;
use super::link::{End, Expected, Shared, State};
use super::outbox::Outbox;
use crate::counts;
use crate::layout::{self, MAX_IN_FLIGHT};
use crate::operation::{Outcome, Received};
use crate::registry::{Registration, Registry};
use crate::tls::expired;
use bytes::BufMut;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

/// Bytes of the input buffer.
const INPUT: usize = 128 << 10;
/// Most bytes of answers that may wait for a peer which keeps to its limit of operations.
const MOST_ANSWERS: usize = 1 << 20;
/// Bytes that are worth a read of their own, past the input buffer.
pub(super) const STRAIGHT: usize = 4096;
/// Bytes that are read at once where the result of a large read comes next.
const FEW: usize = 512;
/// How long a peer may take to read why it was cut off.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The half of a stream that is read.
pub(super) type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// Why the task ends.
enum Stop {
    /// The connection has ended already.
    Ended,
    /// The stream broke or came to its end.
    Lost(End),
    /// The peer sent what makes no sense.
    Damaged(String),
    /// An operation of the peer's was denied. The answer is in the outbox.
    Denied,
    /// An operation of ours was denied.
    Failed,
}

/// What the next bytes of the stream are.
enum Body {
    Frame,
    /// Bytes for a memory region, which its owner may take back before they are here.
    Write {
        to: Weak<Registration>,
        offset: usize,
        left: usize,
        immediate: Option<u32>,
    },
    Message {
        bytes: Vec<u8>,
        left: usize,
    },
    /// What an operation of ours reads; it stays in flight until all of it is here.
    Answer {
        bytes: Vec<u8>,
        left: usize,
    },
}

/// What was read and not yet understood.
struct Input {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Input {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Makes room behind what is there: for a frame that must be parsed as a whole, at least.
    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.start < layout::MAX_PARSED.max(STRAIGHT)
            || self.end == self.buffer.len()
        {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }
}

/// See the top of this file.
pub(super) struct Driver {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    reader: Reader,
    inbox: Option<mpsc::UnboundedSender<Received>>,
    /// Bytes of messages that the peer has sent in all.
    received: u64,
    input: Input,
    body: Body,
    buffers: Buffers,
    /// Answers that are not yet in the outbox; `done` operations are not yet in an answer.
    answers: Vec<u8>,
    done: u32,
    /// Operations of ours were answered: more may be sent.
    answered: bool,
    /// The socket did not take all that is to be sent.
    congested: bool,
    may_block_in_place: bool,
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Where the runtime goes away, or `persist` panics.
        let end = End::new(
            io::ErrorKind::ConnectionAborted,
            "the connection's task is gone",
        );
        self.shared.end(&end);
    }
}

impl Driver {
    /// To be called in the runtime that it will run in.
    pub(super) fn new(
        shared: Arc<Shared>,
        registry: Arc<Registry>,
        reader: Reader,
        inbox: mpsc::UnboundedSender<Received>,
    ) -> Driver {
        use tokio::runtime::{Handle, RuntimeFlavor};
        let flavor = Handle::try_current().map(|handle| handle.runtime_flavor());
        Driver {
            shared,
            registry,
            reader,
            inbox: Some(inbox),
            received: 0,
            input: Input {
                buffer: vec![0; INPUT].into(),
                start: 0,
                end: 0,
            },
            body: Body::Frame,
            buffers: Buffers::default(),
            answers: Vec::new(),
            done: 0,
            answered: false,
            congested: false,
            may_block_in_place: flavor.is_ok_and(|flavor| flavor == RuntimeFlavor::MultiThread),
        }
    }

    /// Runs until the connection ends.
    pub(super) async fn run(mut self) {
        let until = self.shared.peer.until;
        let stop = tokio::select! {
            biased;
            stop = poll_fn(|context| self.poll(context)) => stop,
            () = expired(until) => {
                let what = "the peer's certificate has expired";
                Stop::Lost(End::new(io::ErrorKind::PermissionDenied, what))
            }
        };
        let peer = &self.shared.peer;
        match stop {
            Stop::Ended => {}
            Stop::Lost(end) => self.shared.end(&end),
            Stop::Failed => {
                let end = End::new(
                    io::ErrorKind::ConnectionAborted,
                    "an operation before it failed",
                );
                self.shared.end(&end);
            }
            Stop::Damaged(what) => {
                tracing::warn!(
                    peer = peer.address,
                    name = peer.name,
                    what,
                    "damaged message; cut off"
                );
                self.shared.end(&End::new(io::ErrorKind::InvalidData, what));
            }
            Stop::Denied => {
                tracing::warn!(
                    peer = peer.address,
                    name = peer.name,
                    "denied an operation; cut off"
                );
                let end = End::new(
                    io::ErrorKind::PermissionDenied,
                    "an operation of the peer's was denied",
                );
                let (outbox, ended) = {
                    let mut state = self.shared.state();
                    (state.outbox.take(), state.finish(&end))
                };
                ended.tell(&self.shared);
                self.inbox = None;
                if let Some(outbox) = outbox {
                    let _ = tokio::time::timeout(LAST_WORDS, self.last_words(outbox)).await;
                }
            }
        }
    }

    /// Sends what is left, and reads until the peer has seen it: an end with bytes unread would take it away.
    async fn last_words(&mut self, mut outbox: Outbox) -> io::Result<()> {
        poll_fn(|context| outbox.poll_flush(context)).await?;
        outbox.shutdown().await?;
        while self.reader.read(&mut self.input.buffer).await? > 0 {}
        Ok(())
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Stop> {
        match self.poll_all(context) {
            Poll::Ready(Err(stop)) => Poll::Ready(stop),
            Poll::Ready(Ok(never)) => match never {},
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_all(&mut self, context: &mut Context<'_>) -> Poll<Result<Infallible, Stop>> {
        loop {
            match self.poll_read(context) {
                Poll::Ready(Ok(0)) => {
                    let end = End::new(io::ErrorKind::UnexpectedEof, "the peer closed it");
                    return Poll::Ready(Err(Stop::Lost(end)));
                }
                Poll::Ready(Ok(_)) => {
                    counts::read();
                    let understood = self.understand();
                    self.send(context, understood.is_err())?;
                    understood?;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Stop::Lost(error.into()))),
                Poll::Pending => break,
            }
        }
        // From here on whoever posts may have to wake this task.
        let shared = self.shared.clone();
        let mut state = shared.state();
        if state.end.is_some() {
            return Poll::Ready(Err(Stop::Ended));
        }
        match &mut state.task {
            Some(task) => task.clone_from(context.waker()),
            task => *task = Some(context.waker().clone()),
        }
        self.flush(&mut state, context)?;
        Poll::Pending
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let straight = match &mut self.body {
            Body::Message { bytes, left } | Body::Answer { bytes, left }
                if self.input.start == self.input.end && *left >= STRAIGHT =>
            {
                Some((bytes, left))
            }
            _ => None,
        };
        if let Some((bytes, left)) = straight {
            let mut space = bytes.limit(*left);
            let n = ready!(pin!(self.reader.read_buf(&mut space)).poll(context))?;
            *left -= n;
            return Poll::Ready(Ok(n));
        }
        self.input.make_room();
        let mut space = &mut self.input.buffer[self.input.end..];
        // The answer that is being received is the first.
        let answer = usize::from(matches!(self.body, Body::Answer { .. }));
        if self.shared.is_large(answer) {
            // Most of what comes goes straight to where it stays.
            let few = FEW.min(space.len());
            space = &mut space[..few];
        }
        let n = ready!(pin!(self.reader.read(space)).poll(context))?;
        self.input.end += n;
        Poll::Ready(Ok(n))
    }

    /// Puts the answers into the outbox and sends it; `finally`: what was denied is the last of it.
    fn send(&mut self, context: &mut Context<'_>, finally: bool) -> Result<(), Stop> {
        self.put_done();
        if self.answers.is_empty() && !self.answered {
            return Ok(());
        }
        let shared = self.shared.clone();
        let mut state = shared.state();
        let Some(outbox) = &mut state.outbox else {
            return if finally { Ok(()) } else { Err(Stop::Ended) };
        };
        if !self.answers.is_empty() {
            outbox.answer(&self.answers);
            self.answers.clear();
        }
        let (bytes, reads) = outbox.answers();
        if bytes > MOST_ANSWERS || reads > MAX_IN_FLIGHT as usize {
            return Err(Stop::Damaged(
                "more operations than may be in flight".into(),
            ));
        }
        if std::mem::take(&mut self.answered) {
            state.admit(shared.limits());
        }
        if finally {
            Ok(())
        } else {
            self.flush(&mut state, context)
        }
    }

    fn flush(&mut self, state: &mut State, context: &mut Context<'_>) -> Result<(), Stop> {
        let Some(outbox) = &mut state.outbox else {
            return Err(Stop::Ended);
        };
        if outbox.is_empty() {
            self.congested = false;
            return Ok(());
        }
        match outbox.poll_flush(context) {
            Poll::Ready(Ok(())) => self.congested = false,
            Poll::Ready(Err(error)) => return Err(Stop::Lost(error.into())),
            Poll::Pending => self.congested = true,
        }
        Ok(())
    }

    /// Does what the input says, as far as it goes.
    fn understand(&mut self) -> Result<(), Stop> {
        loop {
            let have = self.input.end - self.input.start;
            match &mut self.body {
                Body::Frame => {
                    if !self.frame()? {
                        return Ok(());
                    }
                }
                Body::Write {
                    to,
                    offset,
                    left,
                    immediate,
                } => {
                    let mut n = have.min(*left);
                    if n < *left {
                        // No word is stored in two parts.
                        n = n.saturating_sub((*offset + n) % 8);
                    }
                    let to = to.upgrade();
                    let Some(inside) = to.as_ref().and_then(|to| to.enter()) else {
                        return Err(self.unknown_key());
                    };
                    inside.store(*offset, &self.input.bytes()[..n]);
                    drop(inside);
                    drop(to);
                    self.input.start += n;
                    *offset += n;
                    *left -= n;
                    if *left > 0 {
                        return Ok(());
                    }
                    let immediate = *immediate;
                    self.body = Body::Frame;
                    self.done += 1;
                    if let Some(immediate) = immediate {
                        self.deliver(Received::Immediate(immediate));
                    }
                }
                Body::Message { bytes, left } | Body::Answer { bytes, left } => {
                    let n = have.min(*left);
                    bytes.extend_from_slice(&self.input.bytes()[..n]);
                    self.input.start += n;
                    *left -= n;
                    if *left > 0 {
                        return Ok(());
                    }
                    match std::mem::replace(&mut self.body, Body::Frame) {
                        Body::Message { bytes, .. } => {
                            self.done += 1;
                            self.deliver(Received::Message(bytes.into()));
                        }
                        Body::Answer { bytes, .. } => {
                            let to = self.next(Expected::Bytes(bytes.len() as u32))?;
                            let bytes = self.buffers.share(bytes);
                            to.completer.complete(Ok(Outcome::Bytes(bytes)));
                            self.answered = true;
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    fn deliver(&self, received: Received) {
        if let Some(inbox) = &self.inbox {
            // Nobody receives any more: the connection is being closed.
            let _ = inbox.send(received);
        }
    }
}

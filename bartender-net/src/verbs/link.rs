//! A connection: what is posted becomes work requests, completions become outcomes.
//!
//! One lock guards it. Posting happens on the poster's thread; completions are polled by the connection's task. What
//! has no room on the card waits in order. A queue pair is destroyed before any buffer that the card may still have
//! is let go: that is the field order of [`Inner`], and what [`Inner::fall`] does.

mod post;
mod take;

use super::device::{Device, Pair, Queue};
use super::ffi;
use super::flight::{DEPTH, Flight, Keep};
use super::slab::{RECVS, SLOT, Slab};
use super::table::Table;
use super::wishes::{Wish, Wishes};
use crate::error::{Error, Result};
use crate::fabric::{Boxed, Link, Peer};
use crate::layout::{self, verbs as wire};
use crate::operation::{Completer, Operation, Outcome, Posted, Received};
use bartender_pm::sync::{Arc, Mutex, hint};
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::pin::pin;
use tokio::sync::Notify;
use zerocopy::IntoBytes;

/// Completions in the queue at most.
pub(super) const COMPLETIONS: u32 = DEPTH as u32 + RECVS as u32 + 16;
/// Bytes of messages that nobody received; who sends more is cut off.
const WINDOW: u64 = layout::WINDOW as u64;
/// What a message costs of it besides its bytes.
const COST: u64 = layout::MESSAGE_COST as u64;
/// How often whoever posted looks for completions itself, which takes a few microseconds.
const LOOKS: u32 = 32;
/// What a message brings besides its head.
const BODY: usize = SLOT - size_of::<wire::Head>();

/// An operation that has no room yet, and how far it is.
struct Waiting {
    operation: Operation,
    completer: Completer,
    /// Bytes that are on their way.
    sent: usize,
    /// What is left of a wish for a barrier.
    wish: Option<(u64, Bytes)>,
    /// Registered bytes, or the buffer of a large read.
    keep: Option<Keep>,
}

/// See the module's text.
struct Inner {
    /// First: see the module's text.
    pair: Option<Pair>,
    flight: Flight,
    slab: Slab,
    waiting: VecDeque<Waiting>,
    /// Answers and grants: what kind, and the rest.
    answers: VecDeque<(u8, Vec<u8>)>,
    inbox: VecDeque<Received>,
    /// What the inbox holds of the window.
    held: u64,
    /// What was received and not granted again.
    received: u64,
    /// What the peer has room for.
    credit: u64,
    /// Parts of a message, and of a wish.
    message: Vec<u8>,
    wish: Vec<u8>,
    /// The barriers that the peer wants.
    wishes: Wishes,
    /// Those that we want and that are not answered.
    asked: usize,
    next_wish: u64,
    /// An operation that will fail once all before it are told, and what was posted behind it.
    fault: Option<(Completer, Error, Vec<Posted>)>,
    closed: Option<ErrorKind>,
    /// What is told once the lock was given back.
    told: Vec<(Completer, Result<Outcome>)>,
}

impl Inner {
    /// Whether the peer has no room for the next operation.
    fn is_blocked(&self) -> bool {
        let full = self.asked >= layout::MAX_IN_FLIGHT as usize;
        let next = self.waiting.front();
        next.is_some_and(|next| {
            next.sent == 0 && (next.cost() > self.credit || next.asks() && full)
        })
    }
}

impl Waiting {
    /// Whether the target's task has to answer it.
    fn asks(&self) -> bool {
        match &self.operation {
            Operation::Persist { at, ranges } => post::by_reading(at, ranges).is_none(),
            _ => false,
        }
    }

    /// What it takes of the peer's window.
    fn cost(&self) -> u64 {
        match &self.operation {
            Operation::Send { bytes } => bytes.len() as u64 + COST,
            Operation::Write {
                immediate: Some(_), ..
            } => COST,
            _ => 0,
        }
    }
}

/// What the handles and the task of a connection share.
pub(super) struct Shared {
    inner: Mutex<Inner>,
    pub(super) queue: Arc<Queue>,
    device: Arc<Device>,
    table: Arc<Table>,
    pub(super) peer: Peer,
    /// Something arrived, or it was closed.
    news: Notify,
    /// Something was posted, or it was closed: the task has to look.
    pub(super) kick: Notify,
}

impl Shared {
    pub(super) fn new(
        pair: Pair,
        queue: Arc<Queue>,
        slab: Slab,
        device: Arc<Device>,
        table: Arc<Table>,
        peer: Peer,
    ) -> Arc<Shared> {
        Arc::new(Shared {
            inner: Mutex::new(Inner {
                pair: Some(pair),
                flight: Flight::default(),
                slab,
                waiting: VecDeque::new(),
                answers: VecDeque::new(),
                inbox: VecDeque::new(),
                held: 0,
                received: 0,
                credit: WINDOW,
                message: Vec::new(),
                wish: Vec::new(),
                wishes: Wishes::default(),
                asked: 0,
                next_wish: 0,
                fault: None,
                closed: None,
                told: Vec::new(),
            }),
            queue,
            device,
            table,
            peer,
            news: Notify::new(),
            kick: Notify::new(),
        })
    }

    fn with<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        let (result, told, over) = {
            let mut inner = self.inner.lock();
            let open = inner.closed.is_none();
            let result = change(&mut inner);
            let over = open && inner.closed.is_some();
            (result, std::mem::take(&mut inner.told), over)
        };
        for (completer, outcome) in told {
            completer.complete(outcome);
        }
        if over {
            self.news.notify_waiters();
            self.kick.notify_one();
        }
        result
    }

    /// Polls: how many completions there were.
    pub(super) fn poll(&self) -> usize {
        let mut completions = [ffi::Wc::default(); 16];
        let (count, news) = self.with(|inner| {
            if inner.pair.is_none() {
                return (0, false);
            }
            let count = self.queue.poll(&mut completions);
            let mut news = false;
            for completion in &completions[..count] {
                news |= self.completed(inner, completion);
            }
            self.tell(inner);
            self.pump(inner);
            (count, news)
        });
        if news {
            self.news.notify_waiters();
        }
        count
    }

    /// The first barrier that the peer wants, if nobody runs any. Who takes it runs those behind it, too.
    pub(super) fn first_wish(&self) -> Option<Wish> {
        self.with(|inner| inner.wishes.first())
    }

    /// Asks the peer's card for a sign of life. If there is none, the card gives up, and the connection falls.
    pub(super) fn probe(&self) {
        self.with(|inner| {
            if inner.closed.is_none() && inner.answers.is_empty() {
                inner.answers.push_back((wire::NOTHING, Vec::new()));
                self.pump(inner);
            }
        });
    }

    /// One was run: the next.
    pub(super) fn answer(&self, id: u64, outcome: Result<(), String>) -> Option<Wish> {
        let (failed, reason) = match &outcome {
            Ok(()) => (0, ""),
            Err(reason) => (1, reason.as_str()),
        };
        let head = wire::Answer {
            id: id.into(),
            failed,
        };
        let reason = &reason.as_bytes()[..reason.len().min(layout::MAX_REASON as usize)];
        let answer = [head.as_bytes(), reason].concat();
        let next = self.with(|inner| {
            if inner.closed.is_none() {
                inner.answers.push_back((wire::ANSWER, answer));
                self.pump(inner);
            }
            inner.wishes.next()
        });
        self.kick.notify_one();
        next
    }

    /// Whether the task has something to look for.
    fn is_busy(&self) -> bool {
        let inner = self.inner.lock();
        !inner.flight.is_empty() || !inner.waiting.is_empty() || !inner.wishes.is_empty()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.inner.lock().closed.is_some()
    }

    /// Closes it; what had arrived stays to be received.
    pub(super) fn fall(&self, why: ErrorKind) {
        self.with(|inner| self.fall_inner(inner, why, None));
    }

    fn broken(&self, operation: &'static str, why: ErrorKind) -> Error {
        Error::Broken {
            peer: self.peer.name.clone(),
            operation,
            source: why.into(),
        }
    }

    /// Closes it. `first` is the outcome of the operation at fault, which is told before those behind it fail.
    fn fall_inner(&self, inner: &mut Inner, why: ErrorKind, mut first: Option<(u64, Error)>) {
        if inner.closed.is_some() {
            return;
        }
        inner.closed = Some(why);
        // The card lets go of all buffers.
        inner.pair = None;
        for flying in inner.flight.drain() {
            let Some(end) = flying.end else { continue };
            let error = match first.take_if(|(at, _)| *at <= flying.number) {
                Some((_, error)) => error,
                None => self.broken(end.name, why),
            };
            inner.told.push((end.completer, Err(error)));
        }
        for waiting in inner.waiting.drain(..) {
            let error = match first.take() {
                Some((_, error)) => error,
                None => self.broken(waiting.operation.name(), why),
            };
            inner.told.push((waiting.completer, Err(error)));
        }
        if let Some((completer, error, behind)) = inner.fault.take() {
            inner.told.push((completer, Err(error)));
            for posted in behind {
                let error = self.broken(posted.operation.name(), why);
                inner.told.push((posted.completer, Err(error)));
            }
        }
        inner.answers.clear();
        inner.wishes.clear();
    }
}

/// What programs hold of a connection.
pub(super) struct VerbsLink(pub(super) Arc<Shared>);

impl Link for VerbsLink {
    fn post(&self, operations: Vec<Posted>) {
        let shared = &self.0;
        shared.with(|inner| {
            if let Some(why) = inner.closed {
                for posted in operations {
                    let error = shared.broken(posted.operation.name(), why);
                    inner.told.push((posted.completer, Err(error)));
                }
                return;
            }
            for posted in operations {
                if let Some((_, _, behind)) = &mut inner.fault {
                    behind.push(posted);
                    continue;
                }
                if let Some(error) = shared.check(&posted.operation) {
                    inner.fault = Some((posted.completer, error, Vec::new()));
                    continue;
                }
                inner.waiting.push_back(Waiting {
                    operation: posted.operation,
                    completer: posted.completer,
                    sent: 0,
                    wish: None,
                    keep: None,
                });
            }
            shared.pump(inner);
            shared.tell(inner);
        });
        // A small operation is often complete before the task could be woken.
        for _ in 0..LOOKS {
            if shared.poll() > 0 {
                break;
            }
            hint::spin_loop();
        }
        if shared.is_busy() {
            shared.kick.notify_one();
        }
    }

    fn recv(&self) -> Boxed<'_, Result<Received>> {
        Box::pin(async move {
            let shared = &self.0;
            loop {
                let mut news = pin!(shared.news.notified());
                news.as_mut().enable();
                let next = shared.with(|inner| {
                    let received = inner.inbox.pop_front().ok_or(inner.closed)?;
                    let cost = COST
                        + match &received {
                            Received::Message(bytes) => bytes.len() as u64,
                            Received::Immediate(_) => 0,
                        };
                    inner.held -= cost;
                    inner.received += cost;
                    if inner.received >= WINDOW / 4 && inner.closed.is_none() {
                        let room = std::mem::take(&mut inner.received).to_le_bytes();
                        inner.answers.push_back((wire::GRANT, room.to_vec()));
                        shared.pump(inner);
                        shared.kick.notify_one();
                    }
                    Ok(received)
                });
                match next {
                    Ok(received) => return Ok(received),
                    Err(Some(why)) => return Err(shared.broken("recv", why)),
                    Err(None) => news.await,
                }
            }
        })
    }

    fn close(&self) {
        self.0.fall(ErrorKind::ConnectionAborted);
    }

    fn closed(&self) -> Boxed<'_, ()> {
        Box::pin(async move {
            loop {
                let mut news = pin!(self.0.news.notified());
                news.as_mut().enable();
                if self.0.is_closed() {
                    return;
                }
                news.await;
            }
        })
    }

    fn peer(&self) -> &Peer {
        &self.0.peer
    }
}

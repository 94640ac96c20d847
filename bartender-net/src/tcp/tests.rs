//! A live connection whose peer says anything at all: it must not panic, not reach past registered memory, and answer
//! in frames.

#![allow(unsafe_code)]

use super::outbox::{Outbox, SMALL_READ};
use super::*;
use crate::layout::{self, Frame, Hello, Range};
use proptest::prelude::*;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

/// Registered are the words in the middle third.
struct Fenced(Box<[AtomicU64]>);

const THIRD: usize = 512;

// SAFETY: the words live as long as the value and are atomics; the range is inside.
unsafe impl Memory for Fenced {
    fn base(&self) -> NonNull<u8> {
        // Of all the words, so that the pointer may go to each of them.
        let all: NonNull<u8> = NonNull::from(&*self.0).cast();
        // SAFETY: inside.
        unsafe { all.add(size_of_val(&*self.0) / 3) }
    }

    fn len(&self) -> u64 {
        size_of_val(&*self.0) as u64 / 3
    }

    fn persist(&self, ranges: &[(u64, u64)]) -> Result<(), String> {
        assert!(
            ranges
                .iter()
                .all(|(offset, len)| offset + len <= self.len())
        );
        Ok(())
    }
}

impl Fenced {
    /// Three times `third` bytes.
    fn new(third: usize, word: u64) -> Arc<Fenced> {
        Arc::new(Fenced(
            (0..3 * third / 8).map(|_| AtomicU64::new(word)).collect(),
        ))
    }

    /// All registered words become this.
    fn set(&self, word: u64) {
        let third = self.0.len() / 3;
        for each in &self.0[third..2 * third] {
            each.store(word, Ordering::Relaxed);
        }
    }
}

/// A connection over a pipe, with its task; the other end of the pipe.
fn live(
    registry: Arc<Registry>,
    until: Option<SystemTime>,
) -> (Connection, JoinHandle<()>, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (reader, writer) = tokio::io::split(ours);
    let limits = Limits {
        transfer: layout::MAX_TRANSFER,
        message: layout::MAX_MESSAGE,
        in_flight: 8,
        window: u64::from(layout::WINDOW),
        features: 0,
    };
    let peer = Peer {
        name: "p".into(),
        proven: true,
        address: "pipe".into(),
        roles: Roles::NONE,
        until,
    };
    let (sender, inbox) = mpsc::unbounded_channel();
    let shared = Shared::new(
        peer,
        limits,
        Writer {
            stream: Box::new(writer),
            socket: false,
        },
        inbox,
    );
    let driver = Driver::new(shared.clone(), registry, Box::new(reader), sender);
    (
        Connection::new(TcpLink(shared)),
        tokio::spawn(driver.run()),
        theirs,
    )
}

/// Something a peer may say: mostly sensible.
fn utterance() -> impl Strategy<Value = (u8, bool, u16, u16, Vec<u8>)> {
    let payload = proptest::collection::vec(any::<u8>(), 0..600);
    (
        0_u8..14,
        proptest::bool::weighted(0.9),
        0_u16..600,
        0_u16..600,
        payload,
    )
}

/// The bytes of it.
fn put(out: &mut Vec<u8>, key: u64, said: (u8, bool, u16, u16, Vec<u8>)) {
    let (which, honest, a, b, payload) = said;
    let key = if honest { key } else { key ^ 1 };
    let offset = if a == 599 { u64::MAX - 3 } else { u64::from(a) };
    let len = payload.len() as u32;
    let word = u64::from(b);
    match which {
        0 | 1 => Frame::Read {
            key,
            offset,
            len: b.into(),
        }
        .put(out),
        2..=4 => {
            let immediate = (which == 2).then_some(7);
            Frame::Write {
                key,
                offset,
                len,
                immediate,
            }
            .put(out);
            out.extend(payload);
        }
        5 => Frame::CompareSwap {
            key,
            offset: offset & !7,
            expected: 0,
            new: word,
        }
        .put(out),
        6 => Frame::FetchAdd {
            key,
            offset,
            addend: word,
        }
        .put(out),
        7 => {
            let ranges = [Range {
                offset: offset.into(),
                len: word.into(),
            }];
            Frame::Persist {
                key,
                ranges: &ranges,
            }
            .put(out);
        }
        8 => {
            Frame::Send { len }.put(out);
            out.extend(payload);
        }
        9 => Frame::Done {
            count: u32::from(b % 3),
        }
        .put(out),
        10 => {
            Frame::Bytes { len }.put(out);
            out.extend(payload);
        }
        11 => Frame::Word { word }.put(out),
        12 => Frame::Grant { bytes: b.into() }.put(out),
        _ => out.extend(payload),
    }
}

/// Whether all of `bytes` are frames, with their payloads; the last may be cut.
fn are_frames(mut bytes: &[u8]) -> bool {
    loop {
        match layout::parse(bytes) {
            Ok(None) => return true,
            Err(_) => return false,
            Ok(Some((frame, taken))) => {
                let payload = match frame {
                    Frame::Write { len, .. } | Frame::Send { len } | Frame::Bytes { len } => {
                        len as usize
                    }
                    _ => 0,
                };
                bytes = bytes.get(taken + payload..).unwrap_or(&[]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 1000 }, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_peer_says_it_is_answered_in_frames_or_cut_off(
        said in proptest::collection::vec(utterance(), 0..25),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        pieces in proptest::collection::vec(1_usize..700, 1..8),
        posted in 0_u32..12,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let memory = Fenced::new(THIRD, !0);
            let registry = Arc::<Registry>::default();
            let region = registry.register(memory.clone(), Access::ALL).unwrap();
            let (connection, task, pipe) = live(registry, None);
            let remote = region.remote();
            let pending: Vec<_> = (0..posted).map(|i| connection.read(remote, 0, i)).collect();
            let mut bytes = Vec::new();
            for said in said {
                put(&mut bytes, remote.key, said);
            }
            for (at, value) in damage {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = value;
                }
            }
            let (mut ears, mut mouth) = tokio::io::split(pipe);
            let listening = tokio::spawn(async move {
                let mut heard = Vec::new();
                let _ = ears.read_to_end(&mut heard).await;
                heard
            });
            let mut rest = &bytes[..];
            let mut sizes = pieces.iter().cycle();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                rest = after;
                if mouth.write_all(piece).await.is_err() {
                    break;
                }
            }
            let _ = mouth.shutdown().await;
            let heard = listening.await.unwrap();
            task.await.expect("the task does not panic");
            prop_assert!(are_frames(&heard));
            for pending in pending {
                // Answered or told that it is over; not forgotten.
                let _ = pending.await;
            }
            connection.closed().await;
            let outside = memory.0[..THIRD / 8].iter().chain(&memory.0[2 * THIRD / 8..]);
            for word in outside {
                prop_assert_eq!(word.load(Ordering::Relaxed), !0);
            }
            Ok(())
        })?;
    }
}

#[test]
fn hellos_of_damaged_bytes_are_turned_away_or_understood() {
    use zerocopy::IntoBytes;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let whole = Hello::ours();
        for at in 0..size_of::<Hello>() {
            for value in [0, 1, 0xFF] {
                let mut bytes = whole.as_bytes().to_vec();
                bytes[at] = value;
                let (mut ours, mut theirs) = tokio::io::duplex(64);
                theirs.write_all(&bytes).await.unwrap();
                let heard = hello::exchange(&mut ours, "p").await;
                assert!(
                    at >= 12 || heard.is_err() || bytes == whole.as_bytes(),
                    "{at}: {heard:?}"
                );
            }
        }
    });
}

/// A stream that takes `some` bytes of what it is given, and is full every other time.
struct Trickle {
    some: usize,
    full: bool,
    took: Arc<std::sync::Mutex<Vec<u8>>>,
}

impl AsyncWrite for Trickle {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.full = !self.full;
        if !self.full {
            return Poll::Pending;
        }
        let taken = bytes.len().min(self.some);
        self.took.lock().unwrap().extend(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a peer gets that reads the given ranges while all words flip whenever the stream is full.
fn read_while_it_flips(socket: bool, some: usize, size: usize, ranges: &[(u64, u64)]) -> Vec<u8> {
    let memory = Fenced::new(size, 0);
    let registry = Arc::<Registry>::default();
    let region = registry.register(memory.clone(), Access::READ).unwrap();
    let from = registry.find(region.remote().key).unwrap();
    let took = Arc::default();
    let stream = Box::new(Trickle {
        some,
        full: false,
        took: Arc::clone(&took),
    });
    let mut outbox = Outbox::new(Writer { stream, socket });
    for &(offset, len) in ranges {
        outbox.region(&from, offset, len);
    }
    let mut word = 0_u64;
    while outbox
        .poll_flush(&mut Context::from_waker(Waker::noop()))
        .is_pending()
    {
        word = !word;
        memory.set(word);
    }
    assert_eq!(outbox.answers(), (0, 0));
    std::mem::take(&mut took.lock().unwrap())
}

/// Whether each aligned word of what was read at `offset` is of one instant.
fn is_whole(offset: u64, read: &[u8]) -> bool {
    let (head, rest) = read.split_at(
        read.len()
            .min(offset.next_multiple_of(8) as usize - offset as usize),
    );
    let words = std::iter::once(head).chain(rest.chunks(8));
    words
        .into_iter()
        .all(|word| word.iter().all(|byte| byte == &word[0]))
}

#[test]
fn no_word_of_a_small_read_is_torn_by_a_socket_that_takes_little() {
    for some in [3, 8, 13, 1000] {
        let ranges = [(0, 8), (8, 8), (3, 100), (0, 0), (1, 6), (5, 11)];
        let ranges = ranges.into_iter().filter(|range| range.1 > 0);
        let ranges: Vec<(u64, u64)> = ranges
            .cycle()
            .take(if cfg!(miri) { 10 } else { 100 })
            .collect();
        let read = read_while_it_flips(true, some, THIRD, &ranges);
        let mut rest = &read[..];
        for (offset, len) in ranges {
            let (this, after) = rest.split_at(len as usize);
            assert!(is_whole(offset, this), "{some}: {len} at {offset}");
            rest = after;
        }
        assert!(rest.is_empty());
    }
    if cfg!(miri) {
        // Which is slow.
        return;
    }
    let largest = u64::from(SMALL_READ);
    let read = read_while_it_flips(true, 1021, 1 << 15, &[(5, largest), (0, largest)]);
    let (first, second) = read.split_at(largest as usize);
    assert!(is_whole(5, first) && is_whole(0, second));
}

#[test]
fn no_word_of_any_read_is_torn_where_bytes_are_copied_first() {
    if cfg!(miri) {
        return;
    }
    let len = 300_001;
    let read = read_while_it_flips(false, 60_001, 1 << 19, &[(3, len), (0, 8)]);
    assert_eq!(read.len() as u64, len + 8);
    assert!(is_whole(3, &read[..len as usize]));
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_with_the_certificate_of_its_peer() {
    let day = Duration::from_secs(86_400);
    let (connection, task, _pipe) = live(Arc::default(), Some(SystemTime::now() + day));
    let start = tokio::time::Instant::now();
    let waiting = connection.send("hello");
    connection.closed().await;
    // The clock of the test stands still while the task is at work.
    assert!(start.elapsed() > day / 2);
    let error = waiting.await.unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
    task.await.unwrap();
}

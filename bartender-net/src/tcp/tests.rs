//! A live connection whose peer says anything at all: it must not panic, not reach past registered memory, and answer
//! in frames.

#![allow(unsafe_code)]

use super::*;
use crate::layout::{self, Frame, Hello, Range};
use proptest::prelude::*;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

/// Registered are the words in the middle third.
struct Fenced(Box<[AtomicU64]>);

const THIRD: usize = 512;

// SAFETY: the words live as long as the value and are atomics; the range is inside.
unsafe impl Memory for Fenced {
    fn base(&self) -> NonNull<u8> {
        NonNull::from(&self.0[THIRD / 8]).cast()
    }

    fn len(&self) -> u64 {
        THIRD as u64
    }

    fn persist(&self, ranges: &[(u64, u64)]) -> Result<(), String> {
        assert!(
            ranges
                .iter()
                .all(|(offset, len)| offset + len <= THIRD as u64)
        );
        Ok(())
    }
}

/// A connection over a pipe, with its task; the other end of the pipe.
fn live(registry: Arc<Registry>) -> (Connection, JoinHandle<()>, DuplexStream) {
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
            let words: Box<[AtomicU64]> = (0..3 * THIRD / 8).map(|_| AtomicU64::new(!0)).collect();
            let memory = Arc::new(Fenced(words));
            let registry = Arc::<Registry>::default();
            let region = registry.register(memory.clone(), Access::ALL).unwrap();
            let (connection, task, pipe) = live(registry);
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

//! What is on its way out of one end of a connection, and the half of the stream that takes it.
//!
//! Frames and small payloads are gathered in buffers; large payloads stay where they are until the socket takes them.
//! So does what the peer reads of a memory region, where the writer is a socket: the system copies it, and may tear a
//! word where two packets meet. Where the writer looks at the bytes itself (TLS), they are copied first, word by word.
//!
//! [`poll_flush`](Outbox::poll_flush) is one system call where the socket has room. It is called by posters, from any
//! thread, and by the connection's task; the lock around the outbox keeps them apart.

use crate::counts;
use crate::registry::Registration;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Payloads up to this are copied behind their frame.
const SMALL: usize = 4096;
/// A buffer of frames is closed when it has this many bytes.
const GATHERED: usize = 64 << 10;
/// Bytes of a memory region that are copied at a time.
const PIECE: usize = 128 << 10;
/// Most pieces that one system call gets.
const SLICES: usize = 32;

/// The half of a stream that is written.
pub(super) struct Writer {
    pub(super) stream: Box<dyn AsyncWrite + Send + Unpin>,
    /// It is a socket, which hands bytes to the system without a look at them.
    pub(super) socket: bool,
}

fn taken_back() -> io::Error {
    io::Error::other("memory was taken back while it was read")
}

enum Segment {
    /// Frames and small payloads; sent up to `at`. `answers` bytes of them answer the peer.
    Frames {
        bytes: Vec<u8>,
        at: usize,
        answers: usize,
    },
    /// A large payload of ours.
    Payload(Bytes),
    /// What the peer reads.
    Region {
        from: Arc<Registration>,
        offset: u64,
        left: u64,
    },
}

/// See the top of this file.
pub(super) struct Outbox {
    writer: Writer,
    segments: VecDeque<Segment>,
    /// A buffer to gather the next frames in.
    spare: Vec<u8>,
    /// Copied from the first region among the segments; sent up to `piece_at`.
    piece: Vec<u8>,
    piece_at: usize,
    /// The writer itself may hold bytes (TLS).
    unflushed: bool,
    /// Bytes of frames, and regions, that answer the peer.
    answers: usize,
    regions: usize,
}

impl Outbox {
    pub(super) fn new(writer: Writer) -> Outbox {
        Outbox {
            writer,
            segments: VecDeque::new(),
            spare: Vec::new(),
            piece: Vec::new(),
            piece_at: 0,
            unflushed: false,
            answers: 0,
            regions: 0,
        }
    }

    /// Whether nothing waits for the socket.
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty() && !self.unflushed
    }

    /// Answers that wait: bytes of frames, reads.
    pub(super) fn answers(&self) -> (usize, usize) {
        (self.answers, self.regions)
    }

    /// The buffer that the next frame is put into.
    pub(super) fn frames(&mut self) -> &mut Vec<u8> {
        let full = !matches!(self.segments.back(), Some(Segment::Frames { bytes, .. }) if bytes.len() < GATHERED);
        if full {
            let bytes = std::mem::take(&mut self.spare);
            self.segments.push_back(Segment::Frames {
                bytes,
                at: 0,
                answers: 0,
            });
        }
        match self.segments.back_mut() {
            Some(Segment::Frames { bytes, .. }) => bytes,
            _ => unreachable!("a segment of frames was just put there"),
        }
    }

    /// The payload of the frame that was put last.
    pub(super) fn payload(&mut self, bytes: Bytes) {
        if bytes.len() <= SMALL {
            self.frames().extend_from_slice(&bytes);
        } else {
            self.segments.push_back(Segment::Payload(bytes));
        }
    }

    /// Whole frames that answer the peer, small ones.
    pub(super) fn answer(&mut self, frames: &[u8]) {
        self.frames().extend_from_slice(frames);
        if let Some(Segment::Frames { answers, .. }) = self.segments.back_mut() {
            *answers += frames.len();
        }
        self.answers += frames.len();
    }

    /// What the peer reads, behind its frame.
    pub(super) fn region(&mut self, from: Arc<Registration>, offset: u64, len: u64) {
        self.regions += 1;
        self.segments.push_back(Segment::Region {
            from,
            offset,
            left: len,
        });
    }

    /// Writes until nothing is left, or the socket takes no more.
    ///
    /// # Errors
    ///
    /// Those of the stream; and where a memory region was taken back whose bytes were announced.
    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.segments.is_empty() {
            match ready!(self.poll_write(context))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.advance(n),
            }
            self.unflushed = true;
        }
        if self.unflushed {
            match Pin::new(&mut self.writer.stream).poll_flush(context) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                other => return other,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// One system call.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let socket = self.writer.socket;
        if !socket {
            self.fill_piece()?;
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        let mut inside = [const { None }; SLICES];
        let mut regions = false;
        let room = slices.iter_mut().zip(&mut inside);
        for ((slice, inside), segment) in room.zip(&self.segments) {
            count += 1;
            match segment {
                Segment::Frames { bytes, at, .. } => *slice = IoSlice::new(&bytes[*at..]),
                Segment::Payload(bytes) => *slice = IoSlice::new(bytes),
                Segment::Region { from, offset, left } if socket => {
                    let entered = from.enter().ok_or_else(taken_back)?;
                    *slice = from.for_system(&entered, *offset as usize, *left as usize);
                    *inside = Some(entered);
                    regions = true;
                }
                Segment::Region { .. } => {
                    // There is one piece, of the first region.
                    *slice = IoSlice::new(&self.piece[self.piece_at..]);
                    break;
                }
            }
        }
        counts::write();
        let stream = Pin::new(&mut self.writer.stream);
        match &slices[..count] {
            // What others change is for the system only: no reference to it.
            [one] if !regions => stream.poll_write(context, one),
            many => stream.poll_write_vectored(context, many),
        }
    }

    /// Ends the stream, behind all that was sent.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        tokio::io::AsyncWriteExt::shutdown(&mut self.writer.stream).await
    }

    /// Copies the next bytes of the first region that is about to be sent.
    fn fill_piece(&mut self) -> io::Result<()> {
        if self.piece_at < self.piece.len() {
            return Ok(());
        }
        let soon = self.segments.iter().take(SLICES);
        for segment in soon {
            if let Segment::Region { from, offset, left } = segment {
                let len = PIECE.min(*left as usize);
                if self.piece.capacity() < len {
                    self.piece = Vec::with_capacity(PIECE.min(len.next_power_of_two()));
                }
                self.piece.resize(len, 0);
                self.piece_at = 0;
                let inside = from.enter().ok_or_else(taken_back)?;
                inside.load(*offset as usize, &mut self.piece);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes `n` bytes that were sent off the front.
    fn advance(&mut self, mut n: usize) {
        while let Some(segment) = self.segments.front_mut() {
            let (left, taken) = match segment {
                Segment::Frames { bytes, at, .. } => {
                    let taken = n.min(bytes.len() - *at);
                    *at += taken;
                    (bytes.len() - *at, taken)
                }
                Segment::Payload(bytes) => {
                    let taken = n.min(bytes.len());
                    bytes::Buf::advance(bytes, taken);
                    (bytes.len(), taken)
                }
                Segment::Region { offset, left, .. } => {
                    let taken = if self.writer.socket {
                        n.min(*left as usize)
                    } else {
                        n.min(self.piece.len() - self.piece_at)
                    };
                    self.piece_at += if self.writer.socket { 0 } else { taken };
                    *offset += taken as u64;
                    *left -= taken as u64;
                    (*left as usize, taken)
                }
            };
            n -= taken;
            if left > 0 {
                debug_assert!(n == 0);
                return;
            }
            match self.segments.pop_front() {
                Some(Segment::Frames {
                    mut bytes, answers, ..
                }) => {
                    self.answers -= answers;
                    if bytes.capacity() <= 2 * GATHERED {
                        bytes.clear();
                        self.spare = bytes;
                    }
                }
                Some(Segment::Region { .. }) => self.regions -= 1,
                _ => {}
            }
        }
    }
}

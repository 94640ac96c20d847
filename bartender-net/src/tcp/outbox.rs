//! What is on its way out of one end of a connection, and the half of the stream that takes it.
//!
//! Frames and small payloads are gathered in buffers; large payloads stay where they are until the socket takes them.
//! So does what the peer reads of a memory region, if it is more than [`SMALL_READ`] and the writer is a socket: the
//! system copies it, and may tear a word where two packets meet. What is smaller, and whatever a writer looks at itself
//! (TLS), is copied word by word when its turn comes, and what the stream does not take is sent from that copy.
//!
//! What is read is held weakly: memory that was taken back is its owner's, however long a peer lets us wait.
//!
//! [`poll_flush`](Outbox::poll_flush) is one system call where the socket has room. It is called by posters, from any
//! thread, and by the connection's task; the lock around the outbox keeps them apart.

use crate::counts;
use crate::registry::Registration;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Payloads up to this are copied behind their frame.
const SMALL: usize = 4096;
/// A buffer of frames is closed when it has this many bytes.
const GATHERED: usize = 64 << 10;
/// Reads up to this are atomic in aligned words.
pub(super) const SMALL_READ: u32 = 16 << 10;
/// Bytes of memory regions that are copied at a time.
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
        from: Weak<Registration>,
        offset: u64,
        left: u64,
        /// It is sent from the piece.
        copied: bool,
    },
}

/// See the top of this file.
pub(super) struct Outbox {
    writer: Writer,
    segments: VecDeque<Segment>,
    /// A buffer to gather the next frames in.
    spare: Vec<u8>,
    /// Copied from the first regions that are to be copied, one after the other; sent up to `piece_at`.
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
    pub(super) fn region(&mut self, from: &Arc<Registration>, offset: u64, len: u64) {
        self.regions += 1;
        self.segments.push_back(Segment::Region {
            from: Arc::downgrade(from),
            offset,
            left: len,
            copied: !self.writer.socket || len <= u64::from(SMALL_READ),
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
        let mut held = [const { None }; SLICES];
        if self.regions > 0 {
            self.fill_piece()?;
            for (held, segment) in held.iter_mut().zip(&self.segments) {
                if let Segment::Region { from, copied, .. } = segment
                    && !copied
                {
                    *held = Some(from.upgrade().ok_or_else(taken_back)?);
                }
            }
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        let mut inside = [const { None }; SLICES];
        let mut regions = false;
        let mut piece = &self.piece[self.piece_at..];
        let room = slices.iter_mut().zip(&mut inside).zip(&held);
        for (((slice, inside), held), segment) in room.zip(&self.segments) {
            match segment {
                Segment::Frames { bytes, at, .. } => *slice = IoSlice::new(&bytes[*at..]),
                Segment::Payload(bytes) => *slice = IoSlice::new(bytes),
                Segment::Region { offset, left, .. } => match held {
                    Some(from) => {
                        let entered = from.enter().ok_or_else(taken_back)?;
                        *slice = from.for_system(&entered, *offset as usize, *left as usize);
                        *inside = Some(entered);
                        regions = true;
                    }
                    None => {
                        let (these, rest) = piece.split_at(piece.len().min(*left as usize));
                        if these.is_empty() {
                            break;
                        }
                        *slice = IoSlice::new(these);
                        piece = rest;
                        if (these.len() as u64) < *left {
                            count += 1;
                            break;
                        }
                    }
                },
            }
            count += 1;
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

    /// Copies the next bytes of the regions that are about to be sent and are copied, once the last copy is gone.
    fn fill_piece(&mut self) -> io::Result<()> {
        if self.piece_at < self.piece.len() {
            return Ok(());
        }
        self.piece.clear();
        self.piece_at = 0;
        for segment in self.segments.iter().take(SLICES) {
            let Segment::Region {
                from,
                offset,
                left,
                copied: true,
            } = segment
            else {
                continue;
            };
            let start = self.piece.len();
            let room = PIECE - start;
            let mut len = *left as usize;
            if len > room {
                // No word is copied in two parts.
                len = room.saturating_sub((*offset as usize + room) % 8);
            }
            if start == 0 && self.piece.capacity() < len {
                self.piece = Vec::with_capacity(PIECE.min(len.next_power_of_two()));
            }
            self.piece.resize(start + len, 0);
            let from = from.upgrade().ok_or_else(taken_back)?;
            let inside = from.enter().ok_or_else(taken_back)?;
            inside.load(*offset as usize, &mut self.piece[start..]);
            if (len as u64) < *left {
                break;
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
                Segment::Region {
                    offset,
                    left,
                    copied,
                    ..
                } => {
                    let taken = n.min(*left as usize);
                    self.piece_at += if *copied { taken } else { 0 };
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

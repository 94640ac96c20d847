//! From bytes to frames and back.

use super::*;

/// A frame, as it was parsed. Payloads of write, send and bytes follow it in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The table above says what each is.
pub enum Frame<'a> {
    Read {
        key: u64,
        offset: u64,
        len: u32,
    },
    Write {
        key: u64,
        offset: u64,
        len: u32,
        immediate: Option<u32>,
    },
    CompareSwap {
        key: u64,
        offset: u64,
        expected: u64,
        new: u64,
    },
    FetchAdd {
        key: u64,
        offset: u64,
        addend: u64,
    },
    Persist {
        key: u64,
        ranges: &'a [Range],
    },
    Send {
        len: u32,
    },
    Done {
        count: u32,
    },
    Bytes {
        len: u32,
    },
    Word {
        word: u64,
    },
    OutOfBounds {
        offset: u64,
        len: u64,
        size: u64,
    },
    Refused {
        reason: &'a str,
    },
    Grant {
        bytes: u32,
    },
}

/// The first frame in `bytes`, and how many of them it takes; nothing where more are needed.
///
/// # Errors
///
/// What is wrong with them, in words.
pub fn parse(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, String> {
    let Ok((head, _)) = Head::ref_from_prefix(bytes) else {
        return Ok(None);
    };
    let length = head.length.get();
    let flags = match head.kind {
        kind::WRITE | kind::FAILED => 1,
        _ => 0,
    };
    if head.flags & !flags != 0 || head.zero.get() != 0 {
        return Err(format!(
            "kind {} with unknown flags {:#x}",
            head.kind, head.flags
        ));
    }
    let bound = match head.kind {
        kind::READ | kind::WRITE | kind::BYTES => MAX_TRANSFER,
        kind::SEND => MAX_MESSAGE,
        kind::PERSIST => MAX_RANGES,
        kind::DONE => MAX_IN_FLIGHT,
        kind::FAILED => MAX_REASON,
        kind::GRANT => WINDOW,
        kind::SWAP | kind::ADD | kind::WORD => 0,
        other => return Err(format!("unknown kind {other}")),
    };
    if length > bound {
        return Err(format!(
            "kind {} of length {length}, at most {bound}",
            head.kind
        ));
    }
    let parsed = match head.kind {
        kind::READ => first::<ReadFrame>(bytes).map(|(frame, taken)| {
            let (key, offset) = (frame.key.get(), frame.offset.get());
            (
                Frame::Read {
                    key,
                    offset,
                    len: length,
                },
                taken,
            )
        }),
        kind::WRITE => match first::<WriteFrame>(bytes) {
            None => None,
            Some((frame, taken)) => {
                let immediate = (head.flags == 1).then_some(frame.immediate.get());
                if frame.zero.get() != 0 || (immediate.is_none() && frame.immediate.get() != 0) {
                    return Err("a write with an immediate that it does not announce".into());
                }
                let (key, offset) = (frame.key.get(), frame.offset.get());
                Some((
                    Frame::Write {
                        key,
                        offset,
                        len: length,
                        immediate,
                    },
                    taken,
                ))
            }
        },
        kind::SWAP => first::<SwapFrame>(bytes).map(|(frame, taken)| {
            let (key, offset) = (frame.key.get(), frame.offset.get());
            let (expected, new) = (frame.expected.get(), frame.new.get());
            (
                Frame::CompareSwap {
                    key,
                    offset,
                    expected,
                    new,
                },
                taken,
            )
        }),
        kind::ADD => first::<AddFrame>(bytes).map(|(frame, taken)| {
            let (key, offset) = (frame.key.get(), frame.offset.get());
            (
                Frame::FetchAdd {
                    key,
                    offset,
                    addend: frame.addend.get(),
                },
                taken,
            )
        }),
        kind::PERSIST => first::<PersistFrame>(bytes).and_then(|(frame, taken)| {
            let (ranges, _) =
                <[Range]>::ref_from_prefix_with_elems(&bytes[taken..], length as usize).ok()?;
            let taken = taken + size_of_val(ranges);
            Some((
                Frame::Persist {
                    key: frame.key.get(),
                    ranges,
                },
                taken,
            ))
        }),
        kind::SEND => Some((Frame::Send { len: length }, size_of::<Head>())),
        kind::DONE => Some((Frame::Done { count: length }, size_of::<Head>())),
        kind::BYTES => Some((Frame::Bytes { len: length }, size_of::<Head>())),
        kind::WORD => first::<WordFrame>(bytes).map(|(frame, taken)| {
            (
                Frame::Word {
                    word: frame.word.get(),
                },
                taken,
            )
        }),
        kind::FAILED => match first::<FailedFrame>(bytes) {
            None => None,
            Some((frame, taken)) => match bytes.get(taken..taken + length as usize) {
                None => None,
                Some(reason) if head.flags == 1 => {
                    let reason = std::str::from_utf8(reason);
                    let reason = reason.map_err(|_| "a reason that is not text".to_owned())?;
                    Some((Frame::Refused { reason }, taken + length as usize))
                }
                Some(_) => {
                    let (offset, len, size) =
                        (frame.offset.get(), frame.len.get(), frame.size.get());
                    Some((
                        Frame::OutOfBounds { offset, len, size },
                        taken + length as usize,
                    ))
                }
            },
        },
        _ => Some((Frame::Grant { bytes: length }, size_of::<Head>())),
    };
    Ok(parsed)
}

/// The struct at the start of `bytes`, and its size.
fn first<T: FromBytes + Immutable + KnownLayout + Unaligned>(bytes: &[u8]) -> Option<(&T, usize)> {
    let (value, _) = T::ref_from_prefix(bytes).ok()?;
    Some((value, size_of::<T>()))
}

impl Frame<'_> {
    /// Appends what travels of it; payloads that stream are appended by the caller.
    pub fn put(&self, out: &mut Vec<u8>) {
        let head = |kind, flags, length| Head {
            kind,
            flags,
            zero: U16::ZERO,
            length: U32::new(length),
        };
        match *self {
            Frame::Read { key, offset, len } => out.extend_from_slice(
                ReadFrame {
                    head: head(kind::READ, 0, len),
                    key: key.into(),
                    offset: offset.into(),
                }
                .as_bytes(),
            ),
            Frame::Write {
                key,
                offset,
                len,
                immediate,
            } => out.extend_from_slice(
                WriteFrame {
                    head: head(kind::WRITE, u8::from(immediate.is_some()), len),
                    key: key.into(),
                    offset: offset.into(),
                    immediate: immediate.unwrap_or(0).into(),
                    zero: U32::ZERO,
                }
                .as_bytes(),
            ),
            Frame::CompareSwap {
                key,
                offset,
                expected,
                new,
            } => out.extend_from_slice(
                SwapFrame {
                    head: head(kind::SWAP, 0, 0),
                    key: key.into(),
                    offset: offset.into(),
                    expected: expected.into(),
                    new: new.into(),
                }
                .as_bytes(),
            ),
            Frame::FetchAdd {
                key,
                offset,
                addend,
            } => out.extend_from_slice(
                AddFrame {
                    head: head(kind::ADD, 0, 0),
                    key: key.into(),
                    offset: offset.into(),
                    addend: addend.into(),
                }
                .as_bytes(),
            ),
            Frame::Persist { key, ranges } => {
                let head = head(kind::PERSIST, 0, ranges.len() as u32);
                out.extend_from_slice(
                    PersistFrame {
                        head,
                        key: key.into(),
                    }
                    .as_bytes(),
                );
                out.extend_from_slice(ranges.as_bytes());
            }
            Frame::Send { len } => out.extend_from_slice(head(kind::SEND, 0, len).as_bytes()),
            Frame::Done { count } => out.extend_from_slice(head(kind::DONE, 0, count).as_bytes()),
            Frame::Bytes { len } => out.extend_from_slice(head(kind::BYTES, 0, len).as_bytes()),
            Frame::Word { word } => out.extend_from_slice(
                WordFrame {
                    head: head(kind::WORD, 0, 0),
                    word: word.into(),
                }
                .as_bytes(),
            ),
            Frame::OutOfBounds { offset, len, size } => out.extend_from_slice(
                FailedFrame {
                    head: head(kind::FAILED, 0, 0),
                    offset: offset.into(),
                    len: len.into(),
                    size: size.into(),
                }
                .as_bytes(),
            ),
            Frame::Refused { reason } => {
                let mut end = reason.len().min(MAX_REASON as usize);
                while !reason.is_char_boundary(end) {
                    end -= 1;
                }
                let reason = &reason[..end];
                let head = head(kind::FAILED, 1, reason.len() as u32);
                let (offset, len, size) = (U64::ZERO, U64::ZERO, U64::ZERO);
                out.extend_from_slice(
                    FailedFrame {
                        head,
                        offset,
                        len,
                        size,
                    }
                    .as_bytes(),
                );
                out.extend_from_slice(reason.as_bytes());
            }
            Frame::Grant { bytes } => out.extend_from_slice(head(kind::GRANT, 0, bytes).as_bytes()),
        }
    }
}

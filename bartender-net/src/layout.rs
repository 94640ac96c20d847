//! Every byte that travels between two machines, over TCP.
//!
//! ```text
//! hello   both ways, first                              32 bytes
//! frame   a head of 8 bytes: kind, flags, two zeroes, length; what its kind adds; its payload
//!
//! kind           adds                         payload            head.length
//! read           key, offset                  –                  bytes asked for
//! write          key, offset, immediate       the bytes          their number
//! compare_swap   key, offset, expected, new   –                  0
//! fetch_add      key, offset, addend          –                  0
//! persist        key                          ranges             their number
//! send           –                            the message        its bytes
//! done           –                            –                  operations that are done
//! bytes          –                            what was read      its bytes
//! word           the word before              –                  0
//! failed         offset, length, size         reason, in UTF-8   its bytes
//! grant          –                            –                  bytes of messages there is room for
//! ```
//!
//! Little-endian, fixed width, no padding. Operations are answered in the order in which they were asked for, so they
//! carry no number. Parsing is total: any bytes are a frame, the beginning of one, or damage; it allocates nothing.
//! What a frame announces is checked against the limits here before anybody makes room for it.

use std::mem::size_of;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of a hello.
pub const MAGIC: [u8; 8] = *b"bartend\x1a";
/// Version of the layout in this file.
pub const PROTOCOL: u32 = 1;
/// Optional features that this build knows: none so far. Both ends use what both know.
pub const FEATURES: u32 = 0;

/// Most bytes that one read or write may move.
pub const MAX_TRANSFER: u32 = 64 << 20;
/// Most bytes of a message.
pub const MAX_MESSAGE: u32 = 1 << 20;
/// Most ranges of one `persist`.
pub const MAX_RANGES: u32 = 1024;
/// Most bytes of the reason why something failed.
pub const MAX_REASON: u32 = 1024;
/// Most operations that are asked for and not answered: from when they were sent until the last byte of the answer is here, to who
/// asked; until it was sent, to who answers. The former is longer, so who keeps to it is never over the limit of the latter.
pub const MAX_IN_FLIGHT: u32 = 4096;
/// Most bytes of messages that were sent and not received by the application, each counted with [`MESSAGE_COST`].
pub const WINDOW: u32 = 4 << 20;
/// What a message or an immediate costs of the window besides its bytes.
pub const MESSAGE_COST: u32 = 64;
/// Most bytes that have to be together for a frame to be parsed; payloads that stream are not part of it.
pub const MAX_PARSED: usize = size_of::<PersistFrame>() + MAX_RANGES as usize * size_of::<Range>();

/// What both ends say first.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`PROTOCOL`].
    pub protocol: U32,
    /// [`FEATURES`]. Unknown ones are ignored.
    pub features: U32,
    /// Largest read or write it serves.
    pub transfer: U32,
    /// Largest message it takes.
    pub message: U32,
    /// Operations it queues.
    pub in_flight: U32,
    /// Bytes of messages it has room for.
    pub window: U32,
}

/// Start of every frame.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Head {
    /// Which frame.
    pub kind: u8,
    /// By kind; unknown ones are damage.
    pub flags: u8,
    /// 0.
    pub zero: U16,
    /// By kind, see the table.
    pub length: U32,
}

/// `read`.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct ReadFrame {
    /// The head.
    pub head: Head,
    /// Key of the memory region.
    pub key: U64,
    /// Where to start.
    pub offset: U64,
}

/// `write`.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct WriteFrame {
    /// The head. Flag 1: it has an immediate.
    pub head: Head,
    /// Key of the memory region.
    pub key: U64,
    /// Where to start.
    pub offset: U64,
    /// The immediate, or 0.
    pub immediate: U32,
    /// 0.
    pub zero: U32,
}

/// `compare_swap`.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct SwapFrame {
    /// The head.
    pub head: Head,
    /// Key of the memory region.
    pub key: U64,
    /// Which word.
    pub offset: U64,
    /// What it must be.
    pub expected: U64,
    /// What it becomes.
    pub new: U64,
}

/// `fetch_add`.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct AddFrame {
    /// The head.
    pub head: Head,
    /// Key of the memory region.
    pub key: U64,
    /// Which word.
    pub offset: U64,
    /// What is added.
    pub addend: U64,
}

/// `persist`.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct PersistFrame {
    /// The head.
    pub head: Head,
    /// Key of the memory region.
    pub key: U64,
}

/// A range of a `persist`.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Range {
    /// Where it starts.
    pub offset: U64,
    /// How long it is.
    pub len: U64,
}

/// `word`.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct WordFrame {
    /// The head.
    pub head: Head,
    /// The word before.
    pub word: U64,
}

/// `failed`.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct FailedFrame {
    /// The head. Flag 1: refused, with a reason; else out of bounds.
    pub head: Head,
    /// Where the operation was to start.
    pub offset: U64,
    /// How long it was to be.
    pub len: U64,
    /// How long the memory region is.
    pub size: U64,
}

const _: () = assert!(size_of::<Hello>() == 32);
const _: () = assert!(size_of::<Head>() == 8);
const _: () =
    assert!(size_of::<ReadFrame>() == 24 && std::mem::offset_of!(ReadFrame, offset) == 16);
const _: () =
    assert!(size_of::<WriteFrame>() == 32 && std::mem::offset_of!(WriteFrame, immediate) == 24);
const _: () = assert!(size_of::<SwapFrame>() == 40 && std::mem::offset_of!(SwapFrame, new) == 32);
const _: () = assert!(size_of::<AddFrame>() == 32 && std::mem::offset_of!(AddFrame, addend) == 24);
const _: () = assert!(size_of::<PersistFrame>() == 16);
const _: () = assert!(size_of::<Range>() == 16);
const _: () = assert!(size_of::<WordFrame>() == 16);
const _: () = assert!(size_of::<FailedFrame>() == 32);
const _: () = assert!(WINDOW >= MAX_MESSAGE + MESSAGE_COST);

mod kind {
    pub(super) const READ: u8 = 1;
    pub(super) const WRITE: u8 = 2;
    pub(super) const SWAP: u8 = 3;
    pub(super) const ADD: u8 = 4;
    pub(super) const PERSIST: u8 = 5;
    pub(super) const SEND: u8 = 6;
    pub(super) const DONE: u8 = 16;
    pub(super) const BYTES: u8 = 17;
    pub(super) const WORD: u8 = 18;
    pub(super) const FAILED: u8 = 19;
    pub(super) const GRANT: u8 = 20;
}

impl Hello {
    /// This build's.
    pub const fn ours() -> Hello {
        Hello {
            magic: MAGIC,
            protocol: U32::new(PROTOCOL),
            features: U32::new(FEATURES),
            transfer: U32::new(MAX_TRANSFER),
            message: U32::new(MAX_MESSAGE),
            in_flight: U32::new(MAX_IN_FLIGHT),
            window: U32::new(WINDOW),
        }
    }
}

mod frame;
#[cfg(feature = "rdma")]
pub mod verbs;

pub use frame::{Frame, parse};

#[cfg(test)]
mod tests;

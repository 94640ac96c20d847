//! Every byte that the verbs backend sends besides the card's own: the hello over the control connection, and the
//! heads of messages between queue pairs.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of a hello.
pub const MAGIC: [u8; 8] = *b"bt-rdma\x1a";
/// Version of the layout in this file.
pub const PROTOCOL: u32 = 1;

/// What both ends say first, on the control connection.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`PROTOCOL`].
    pub protocol: U32,
    /// The queue pair's number.
    pub number: U32,
    /// Its first packet's.
    pub psn: U32,
    /// The port's address in an InfiniBand subnet.
    pub lid: U16,
    /// The port's MTU, as InfiniBand counts them (1: 256, 5: 4096).
    pub mtu: u8,
    /// 0.
    pub zero: u8,
    /// The port's global address.
    pub gid: [u8; 16],
}

/// Start of every message between queue pairs.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Head {
    /// [`NOTHING`], [`MESSAGE`], [`PERSIST`], [`ANSWER`] or [`GRANT`].
    pub kind: u8,
    /// Not 0: the rest follows, in messages of the same kind.
    pub more: u8,
    /// 0.
    pub zero: [u8; 6],
}

/// Nothing: an operation of no bytes, in its turn.
pub const NOTHING: u8 = 0;
/// A message of the program's.
pub const MESSAGE: u8 = 1;
/// Please make ranges durable: [`Persist`], then [`Range`]s.
pub const PERSIST: u8 = 2;
/// How that went: [`Answer`], then the reason in UTF-8 if it failed.
pub const ANSWER: u8 = 3;

/// Room for so many more bytes of messages, as eight bytes; each message and immediate costs
/// [`MESSAGE_COST`](super::MESSAGE_COST) besides its own. There is room for [`WINDOW`](super::WINDOW) at first.
pub const GRANT: u8 = 4;

/// A wish for a barrier.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Persist {
    /// Comes back in the answer.
    pub id: U64,
    /// Whose bytes.
    pub key: U64,
}

/// Which.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Range {
    /// First byte.
    pub offset: U64,
    /// How many.
    pub len: U64,
}

/// The answer.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Answer {
    /// Of the wish.
    pub id: U64,
    /// 0: durable; 1: not, for the reason that follows.
    pub failed: u8,
}

const _: () = {
    assert!(size_of::<Hello>() == 40 && size_of::<Head>() == 8);
    assert!(size_of::<Persist>() == 16 && size_of::<Range>() == 16 && size_of::<Answer>() == 9);
};

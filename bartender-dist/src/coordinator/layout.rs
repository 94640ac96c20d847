//! What the embedded coordinator keeps in its region, byte by byte, and what travels between it and other processes.
//! Nothing else of it survives.
//!
//! # In the region
//!
//! The heap is one without types. Its named root [`ROOT`] is a block with a [`Header`], from which a list of chunks
//! hangs; each slot of a chunk holds the address of an item, or 0. An item is a block with an [`Item`], then the bytes
//! of the key, then those of the value. Items are never changed: a new one takes the slot. Slots have no order.
//!
//! # In messages
//!
//! A request or an answer travels as one or more pieces, each a message of the fabric's: a [`Piece`], then bytes. The
//! bytes of all pieces with one number are a tag ([`request`], [`answer`]), then fields without padding: numbers of 8
//! bytes, and strings of bytes with their length in 4 before them. Lists have their length in 4 bytes before them.
//!
//! All numbers are little-endian; addresses are of the view, which has the same ones in every run.

use std::mem::offset_of;

/// The named root.
pub(crate) const ROOT: &[u8] = b"coordinator";

/// Start of the root's block.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// [`Header::MAGIC`].
    pub(crate) magic: [u8; 8],
    /// [`Header::FORMAT`].
    pub(crate) format: u64,
    /// The coordinator's revision.
    pub(crate) revision: u64,
    /// The last lease that was granted.
    pub(crate) last_lease: u64,
    /// Address of the first chunk, or 0.
    pub(crate) chunks: u64,
}

/// A piece of the list of slots: the address of the next one, or 0, and the slots.
pub(crate) const CHUNK: usize = 8 + 8 * SLOTS;
/// Slots of a chunk.
pub(crate) const SLOTS: usize = 511;

/// Start of an item.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Item {
    /// [`Item::KEY`] or [`Item::LEASE`].
    pub(crate) kind: u32,
    /// Bytes of the key; of a lease 0.
    pub(crate) key: u32,
    /// Bytes of the value; of a lease 0.
    pub(crate) value: u32,
    /// Zero.
    pub(crate) reserved: u32,
    /// Of a key: the revision that wrote it. Of a lease: its ttl in milliseconds.
    pub(crate) number: u64,
    /// Of a key: the lease with which it vanishes, or 0. Of a lease: its name.
    pub(crate) lease: u64,
}

/// Start of a piece of a request or an answer.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// [`Piece::VERSION`].
    pub(crate) version: u32,
    /// 1 if more pieces follow, else 0.
    pub(crate) more: u32,
    /// The request's number, of the asker's choice; an answer has its request's.
    pub(crate) number: u64,
}

/// Tags of requests.
pub(crate) mod request {
    /// prefix
    pub(crate) const READ: u8 = 1;
    /// list of comparisons, list of changes
    pub(crate) const TRANSACT: u8 = 2;
    /// prefix, after
    pub(crate) const NEXT: u8 = 3;
    /// ttl in milliseconds
    pub(crate) const GRANT: u8 = 4;
    /// lease
    pub(crate) const KEEP_ALIVE: u8 = 5;
    /// lease
    pub(crate) const REVOKE: u8 = 6;
    /// nothing: the answer to the request of this number is not wanted any more
    pub(crate) const CANCEL: u8 = 7;

    /// Comparison: key, revision
    pub(crate) const REVISION: u8 = 1;
    /// Comparison: key
    pub(crate) const ABSENT: u8 = 2;
    /// Comparison: key, value
    pub(crate) const VALUE: u8 = 3;

    /// Change: key, value, lease or 0
    pub(crate) const PUT: u8 = 1;
    /// Change: key
    pub(crate) const DELETE: u8 = 2;
}

/// Tags of answers.
pub(crate) mod answer {
    /// revision, list of (key, value, revision, lease or 0)
    pub(crate) const SNAPSHOT: u8 = 1;
    /// revision
    pub(crate) const COMMITTED: u8 = 2;
    /// nothing
    pub(crate) const REFUSED: u8 = 3;
    /// revision, list of (key, 0) or (key, 1, value), the middle one byte
    pub(crate) const CHANGES: u8 = 4;
    /// nothing: no change yet, ask again
    pub(crate) const QUIET: u8 = 5;
    /// lease, ttl in milliseconds
    pub(crate) const LEASE: u8 = 6;
    /// ttl in milliseconds
    pub(crate) const BEAT: u8 = 7;
    /// nothing
    pub(crate) const DONE: u8 = 8;
    /// lease
    pub(crate) const LEASE_ENDED: u8 = 9;
    /// words
    pub(crate) const BAD_REQUEST: u8 = 10;
    /// asked, oldest
    pub(crate) const COMPACTED: u8 = 11;
    /// words
    pub(crate) const FAILED: u8 = 12;
}

const _: () = assert!(size_of::<Piece>() == Piece::LEN && offset_of!(Piece, number) == 8);
const _: () = assert!(size_of::<Header>() == Header::LEN && Header::LEN == 40);
const _: () = assert!(offset_of!(Header, revision) == 16 && offset_of!(Header, chunks) == 32);
const _: () = assert!(size_of::<Item>() == Item::LEN && Item::LEN == 32);
const _: () = assert!(offset_of!(Item, number) == 16 && offset_of!(Item, lease) == 24);
const _: () = assert!(CHUNK == 4096);

/// The word number `i`.
pub(crate) fn word(bytes: &[u8], i: usize) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    u64::from_le_bytes(words[i])
}

fn half(bytes: &[u8], i: usize) -> u32 {
    let (halves, _) = bytes.as_chunks::<4>();
    u32::from_le_bytes(halves[i])
}

impl Header {
    pub(crate) const LEN: usize = 40;
    pub(crate) const MAGIC: [u8; 8] = *b"bt-coord";
    pub(crate) const FORMAT: u64 = 1;

    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.magic);
        let numbers = [self.format, self.revision, self.last_lease, self.chunks];
        for (place, number) in bytes[8..].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Any bytes are one; whether it makes sense is the reader's to see.
    pub(crate) fn from_bytes(bytes: &[u8; Self::LEN]) -> Header {
        Header {
            magic: word(bytes, 0).to_le_bytes(),
            format: word(bytes, 1),
            revision: word(bytes, 2),
            last_lease: word(bytes, 3),
            chunks: word(bytes, 4),
        }
    }
}

impl Piece {
    pub(crate) const LEN: usize = 16;
    pub(crate) const VERSION: u32 = 1;

    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.version.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.more.to_le_bytes());
        bytes[8..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    /// Any bytes are one.
    pub(crate) fn from_bytes(bytes: &[u8; Self::LEN]) -> Piece {
        Piece {
            version: half(bytes, 0),
            more: half(bytes, 1),
            number: word(bytes, 1),
        }
    }
}

impl Item {
    pub(crate) const LEN: usize = 32;
    pub(crate) const KEY: u32 = 1;
    pub(crate) const LEASE: u32 = 2;

    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let halves = [self.kind, self.key, self.value, self.reserved];
        for (place, half) in bytes[..16].chunks_exact_mut(4).zip(halves) {
            place.copy_from_slice(&half.to_le_bytes());
        }
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..].copy_from_slice(&self.lease.to_le_bytes());
        bytes
    }

    /// Any bytes are one.
    pub(crate) fn from_bytes(bytes: &[u8; Self::LEN]) -> Item {
        Item {
            kind: half(bytes, 0),
            key: half(bytes, 1),
            value: half(bytes, 2),
            reserved: half(bytes, 3),
            number: word(bytes, 2),
            lease: word(bytes, 3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_items_and_pieces_have_exactly_these_bytes() {
        let piece = Piece {
            version: 1,
            more: 2,
            number: 3,
        };
        let bytes = piece.to_bytes();
        assert_eq!(bytes, [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Piece::from_bytes(&bytes), piece);
        let header = Header {
            magic: Header::MAGIC,
            format: 1,
            revision: 2,
            last_lease: 3,
            chunks: 0x0102_0304_0506_0708,
        };
        let bytes = header.to_bytes();
        assert_eq!(&bytes[..9], b"bt-coord\x01");
        assert_eq!(&bytes[32..], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(Header::from_bytes(&bytes), header);
        let item = Item {
            kind: Item::KEY,
            key: 2,
            value: 3,
            reserved: 0,
            number: 4,
            lease: 5,
        };
        let bytes = item.to_bytes();
        assert_eq!(
            [
                bytes[0], bytes[4], bytes[8], bytes[12], bytes[16], bytes[24]
            ],
            [1, 2, 3, 0, 4, 5]
        );
        assert_eq!(Item::from_bytes(&bytes), item);
    }
}

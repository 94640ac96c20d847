//! What the durable coordinator keeps in its region, byte by byte. Nothing else of it survives.
//!
//! The heap is one without types. Its named root [`ROOT`] is a block with a [`Header`], from which a list of chunks
//! hangs; each slot of a chunk holds the address of an item, or 0. An item is a block with an [`Item`], then the bytes
//! of the key, then those of the value. Items are never changed: a new one takes the slot. Slots have no order.
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
    /// The store's revision.
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
    fn headers_and_items_have_exactly_these_bytes() {
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

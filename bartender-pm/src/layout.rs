//! Every byte of a region file that this crate writes: header and log records.
//!
//! ```text
//! offset 0        header, copy 0        (4 KiB block; `Header` and zeroes)
//!        4032     on a device: the region's length
//! offset 4096     header, copy 1
//! offset 8192     log: `lanes` lanes, lane 0 first
//! `home_offset`   home: grows up to `max_size` (the heap crate lays it out)
//! ```
//!
//! Little-endian, fixed width, no implicit padding. What is not here does not
//! survive.

#![allow(unsafe_code)]

use std::mem::{offset_of, size_of};

/// First bytes of a region.
pub const MAGIC: [u8; 8] = *b"bartendr";
/// First bytes of header copy 0 while a region is being created in place: if
/// they are there and copy 1 is not whole, creation was interrupted and starts
/// again.
pub const MAGIC_CREATING: [u8; 8] = *b"bartendN";
/// Version of the layout in this file.
pub const FORMAT: u32 = 2;
/// Highest epoch that a header may have.
pub const MAX_EPOCH: u64 = (1 << 31) - 1;
/// Bytes of a header block; the two copies never share a page or a sector.
pub const HEADER_BLOCK: u64 = 4096;
/// Where the log starts.
pub const LOG_OFFSET: u64 = 2 * HEADER_BLOCK;
/// Most lanes a log may have.
pub const MAX_LANES: usize = 64;
/// The home starts, and grows, in steps of this.
pub const HOME_STEP: u64 = 2 << 20;
/// A device has no length as a file has, so the region's stands here, in a
/// line of its own ([`device_length_word`]). In files there are zeroes.
pub const DEVICE_LENGTH_OFFSET: u64 = HEADER_BLOCK - 64;
/// Records start on this boundary, in bytes.
pub const RECORD_ALIGN: u64 = 64;

/// The region was closed: home and allocator snapshot are complete.
pub const FLAG_CLEAN: u64 = 1;
/// Holes were punched under free parts of the home: before it is used again,
/// free space has to be allocated.
pub const FLAG_HOLES: u64 = 2;
/// One of several replicas: what its log holds above the last `durable_upto` may have to give way to the log of a
/// later epoch's primary, and only the cluster says which epoch that is.
pub const FLAG_REPLICA: u64 = 4;
/// A replica whose home is being copied from another: it is none yet.
pub const FLAG_INSTALLING: u64 = 8;
/// A replica that is being sent what it missed: records say of other replicas, and not yet of this one, what was durable
/// when they were written.
pub const FLAG_CATCHING_UP: u64 = 16;

/// Header of a region. Two copies, written alternately; the one with the
/// higher `revision` whose checksum fits counts.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`FORMAT`].
    pub format: u32,
    /// CRC-32C of this struct with this field zero.
    pub crc: u32,
    /// Counts header writes.
    pub revision: u64,
    /// Random, chosen at creation.
    pub uuid: [u8; 16],
    /// Where home offset 0 is mapped.
    pub home_address: u64,
    /// Where the home starts in the file.
    pub home_offset: u64,
    /// Most bytes the home may have.
    pub max_size: u64,
    /// Bytes of lane 0.
    pub lane0_size: u64,
    /// Bytes of each further lane.
    pub lane_size: u64,
    /// Lanes, lane 0 included.
    pub lanes: u64,
    /// +1 at each recovery; part of every record.
    pub epoch: u64,
    /// +1 at each open.
    pub generation: u64,
    /// Every record with this number or a lower one is in the home.
    pub checkpoint: u64,
    /// `FLAG_*`.
    pub flags: u64,
    /// Relocation under way: pointers are being rewritten from this base…
    pub relocate_from: u64,
    /// …to this one. Both zero: none.
    pub relocate_to: u64,
    /// Per lane, absolute offset of the first record above `checkpoint`.
    pub heads: [u64; MAX_LANES],
    /// The epoch of the record before lane 0's head…
    pub before_epoch: u32,
    /// …and its `crc`; both zero if there was none. A replicated stream has to go on behind it.
    pub before_crc: u32,
}

const _: () = {
    assert!(size_of::<Header>() == 656);
    assert!(offset_of!(Header, crc) == 12);
    assert!(offset_of!(Header, revision) == 16);
    assert!(offset_of!(Header, uuid) == 24);
    assert!(offset_of!(Header, home_address) == 40);
    assert!(offset_of!(Header, lanes) == 80);
    assert!(offset_of!(Header, epoch) == 88);
    assert!(offset_of!(Header, checkpoint) == 104);
    assert!(offset_of!(Header, relocate_from) == 120);
    assert!(offset_of!(Header, heads) == 136);
    assert!(offset_of!(Header, before_epoch) == 648);
    assert!(size_of::<Header>() as u64 <= HEADER_BLOCK);
};

/// Start of a log record; ranges follow, then zeroes up to [`RECORD_ALIGN`].
///
/// The checksum covers the ranges, this struct with `crc` zero, and the record's
/// absolute offset in its lane, which is never reset: a stale record of an
/// earlier lap, or one behind a torn record of an earlier epoch, cannot be
/// taken for a current one.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// CRC-32C, see above.
    pub crc: u32,
    /// Bytes of the record without the final padding.
    pub len: u32,
    /// The header's epoch when it was written.
    pub epoch: u32,
    /// Of a record without ranges that opens an epoch of a replicated stream: the
    /// `crc` of the record before it. Else participants of a transaction over
    /// several regions; always 0 so far.
    pub participants: u32,
    /// The transaction's number.
    pub seq: u64,
    /// Absolute offset in this lane below which everything was durable when
    /// this record was written: damage below it is an error, not the end.
    pub durable_upto: u64,
}

impl RecordHeader {
    /// Its bytes as little-endian words.
    #[inline]
    pub(crate) fn words(&self) -> [u64; 4] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        [
            pair(self.crc, self.len),
            pair(self.epoch, self.participants),
            self.seq,
            self.durable_upto,
        ]
    }
}

const _: () = {
    assert!(size_of::<RecordHeader>() == 32);
    assert!(offset_of!(RecordHeader, len) == 4);
    assert!(offset_of!(RecordHeader, epoch) == 8);
    assert!(offset_of!(RecordHeader, seq) == 16);
    assert!(offset_of!(RecordHeader, durable_upto) == 24);
};

/// Start of a range in a record: home offset in the upper 48 bits, length in
/// bytes in the lower 16; the bytes follow, padded to 8. A length of 0 is an
/// extent: an [`Extent`] follows and no bytes.
pub type RangeWord = u64;

/// Longest range a [`RangeWord`] can say; a multiple of 8.
pub const MAX_RANGE: usize = 65528;

/// Bytes that were written straight to the home before the record.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes.
    pub len: u64,
    /// CRC-32C of the bytes.
    pub crc: u32,
    /// Zero.
    pub zero: u32,
}

const _: () = assert!(size_of::<Extent>() == 16);

/// What says on a device that the region has `len` bytes, a multiple of
/// [`HOME_STEP`]: the number of steps in the lower half, its CRC-32C in the
/// upper one. One word, so that it changes at once; never zero.
pub fn device_length_word(len: u64) -> u64 {
    debug_assert!(len.is_multiple_of(HOME_STEP));
    let steps = (len / HOME_STEP) as u32;
    u64::from(steps) | u64::from(crc32c::crc32c(&steps.to_le_bytes())) << 32
}

/// The length that a word says, if it says one.
pub fn device_length(word: u64) -> Option<u64> {
    let len = (word & u64::from(u32::MAX)) * HOME_STEP;
    (device_length_word(len) == word).then_some(len)
}

/// The bytes of a layout struct.
pub(crate) fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` types have no padding, so every byte is initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// Reads a layout struct from the start of `bytes`, if there are enough.
pub(crate) fn read_from<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: long enough, unaligned read, and every bit pattern is a `Plain`.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// Layout structs: `repr(C)`, no padding, every bit pattern valid.
///
/// # Safety
///
/// The type is what the sentence above says.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: fixed-width integers and arrays of them; the sizes asserted above
// leave no room for padding.
unsafe impl Plain for Header {}
// SAFETY: as above.
unsafe impl Plain for RecordHeader {}
// SAFETY: as above.
unsafe impl Plain for Extent {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_length_is_read_back_and_zeroes_are_none() {
        for len in [HOME_STEP, 3 * HOME_STEP, 1 << 46] {
            let word = device_length_word(len);
            assert_eq!(device_length(word), Some(len));
            for bit in 0..64 {
                assert_eq!(device_length(word ^ 1 << bit), None);
            }
        }
        assert_eq!(device_length(0), None);
    }
}

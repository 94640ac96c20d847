//! Log records: built by a transaction, sealed by its lane, parsed by
//! checkpoint and recovery.
//!
//! A record is contiguous in absolute offsets; the ring that holds it may wrap.
//! Parsing never trusts a byte before its checksum fits, and bounds-checks all
//! that it reads afterwards.

use crate::crc;
use crate::layout::{Extent, MAX_RANGE, RECORD_ALIGN, RecordHeader, bytes_of, read_from};
use std::mem::size_of;

const HEAD: usize = size_of::<RecordHeader>();

/// Bytes that stay free behind the ranges, for the final padding.
const SPARE: usize = RECORD_ALIGN as usize;

/// A redo record under construction. Reuse it: it keeps its buffer.
#[derive(Debug)]
pub struct Record {
    /// Header and ranges up to `end`; behind it at least [`SPARE`] bytes of no
    /// meaning. It never gets shorter, so adding a range moves a cursor.
    buf: Vec<u8>,
    /// Where the ranges end; a multiple of 8.
    end: usize,
    /// Of a link, the checksum of the record before it.
    link: u32,
}

impl Default for Record {
    fn default() -> Self {
        Record::new()
    }
}

impl Record {
    /// An empty record.
    pub fn new() -> Self {
        Record {
            buf: vec![0; HEAD + SPARE],
            end: HEAD,
            link: 0,
        }
    }

    /// The record that opens an epoch of a replicated stream, behind a record with checksum `before`.
    pub(crate) fn link(before: u32) -> Self {
        Record {
            link: before,
            ..Record::new()
        }
    }

    /// Empties it.
    #[inline]
    pub fn clear(&mut self) {
        self.end = HEAD;
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.end == HEAD
    }

    /// Adds the new bytes at home offset `offset`. Where ranges of one record
    /// overlap, the later one wins.
    #[inline]
    pub fn change(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = offset;
        for piece in bytes.chunks(MAX_RANGE) {
            let len = piece.len();
            let to = self.take(8 + len.next_multiple_of(8));
            let (word, to) = to.split_at_mut(8);
            word.copy_from_slice(&(at << 16 | len as u64).to_le_bytes());
            if let Ok(one) = <&[u8; 8]>::try_from(piece) {
                to.copy_from_slice(one);
            } else {
                let (to, padding) = to.split_at_mut(len);
                to.copy_from_slice(piece);
                padding.fill(0);
            }
            at += len as u64;
        }
    }

    /// Adds an extent written by [`Writer::write_fresh`](crate::Writer::write_fresh),
    /// with the CRC-32C of its bytes.
    pub fn extent(&mut self, offset: u64, len: u64, crc: u32) {
        let extent = Extent { len, crc, zero: 0 };
        let (word, to) = self.take(8 + size_of::<Extent>()).split_at_mut(8);
        word.copy_from_slice(&(offset << 16).to_le_bytes());
        to.copy_from_slice(bytes_of(&extent));
    }

    /// Bytes the record takes in the log.
    #[inline]
    pub fn size(&self) -> u64 {
        (self.end as u64).next_multiple_of(RECORD_ALIGN)
    }

    /// The next `len` bytes, a multiple of 8, which are now part of it.
    #[inline]
    fn take(&mut self, len: usize) -> &mut [u8] {
        let (from, to) = (self.end, self.end + len);
        if self.buf.len() < to + SPARE {
            self.lengthen(to + SPARE);
        }
        self.end = to;
        &mut self.buf[from..to]
    }

    #[cold]
    fn lengthen(&mut self, len: usize) {
        self.buf.resize(len.max(2 * self.buf.len()), 0);
    }

    /// Fills in the header for the place `at` (absolute offset in the lane)
    /// and returns the whole record, padded.
    #[inline]
    pub(crate) fn seal(&mut self, epoch: u64, seq: u64, at: u64, durable_upto: u64) -> &[u8] {
        let mut header = RecordHeader {
            crc: 0,
            len: self.end as u32,
            epoch: epoch as u32,
            participants: self.link,
            seq,
            durable_upto,
        };
        header.crc = checksum(&header, &self.buf[HEAD..self.end], at);
        // Whole words: they are read again at once, as words.
        let (words, _) = self.buf[..HEAD].as_chunks_mut::<8>();
        for (to, word) in words.iter_mut().zip(header.words()) {
            *to = word.to_le_bytes();
        }
        // More than is needed, but of a fixed length.
        self.buf[self.end..][..SPARE].fill(0);
        let size = self.size() as usize;
        &self.buf[..size]
    }
}

/// The checksum of a record at absolute offset `at`: of the body, of the
/// header with `crc` zero, and of `at`.
#[inline]
fn checksum(header: &RecordHeader, body: &[u8], at: u64) -> u32 {
    let [first, rest @ ..] = header.words();
    crc::of(
        body,
        [first & !u64::from(u32::MAX), rest[0], rest[1], rest[2], at],
    )
}

/// Bytes that the record takes which starts `bytes`, if its header is there and makes sense.
pub(crate) fn size_of_first(bytes: &[u8]) -> Option<u64> {
    let header: RecordHeader = read_from(bytes)?;
    (header.len as usize >= HEAD).then(|| u64::from(header.len).next_multiple_of(RECORD_ALIGN))
}

/// A record whose checksum fits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parsed<'a> {
    pub(crate) header: RecordHeader,
    body: &'a [u8],
}

impl<'a> Parsed<'a> {
    /// The record that starts `bytes` and stands at absolute offset `at`, if
    /// there is a whole one written in one of `epochs`.
    pub(crate) fn parse(
        bytes: &'a [u8],
        at: u64,
        epochs: std::ops::RangeInclusive<u64>,
    ) -> Option<Parsed<'a>> {
        let header: RecordHeader = read_from(bytes)?;
        let len = header.len as usize;
        if len < HEAD || len > bytes.len() || !epochs.contains(&u64::from(header.epoch)) {
            return None;
        }
        let body = &bytes[HEAD..len];
        // Mutant "no_checksum" of the simulator's tests: see `mutant`.
        let fits = checksum(&header, body, at) == header.crc;
        (fits || crate::mutant::is("no_checksum")).then_some(Parsed { header, body })
    }

    /// The record that starts `bytes`, whose checksum was found to fit before.
    pub(crate) fn again(bytes: &'a [u8]) -> Option<Parsed<'a>> {
        let header: RecordHeader = read_from(bytes)?;
        let body = bytes.get(HEAD..header.len as usize)?;
        Some(Parsed { header, body })
    }

    /// Whether it may stand behind a record of epoch `epoch` with checksum `crc` in a replicated stream.
    ///
    /// Within an epoch one primary wrote the stream, so what stands at adjacent offsets belongs together. Between
    /// epochs a link says what it was written behind: a record that another primary left, behind one that took the place of
    /// its own predecessor, is not taken for the next.
    pub(crate) fn follows(&self, epoch: u64, crc: u32) -> bool {
        let own = u64::from(self.header.epoch);
        own == epoch
            || own > epoch && self.body.is_empty() && self.header.participants == crc
            || crate::mutant::is("no_link")
    }

    /// Whether it has ranges: it is more than a link.
    pub(crate) fn carries(&self) -> bool {
        !self.body.is_empty()
    }

    /// Bytes it takes in the log.
    pub(crate) fn size(&self) -> u64 {
        u64::from(self.header.len).next_multiple_of(RECORD_ALIGN)
    }

    /// Its ranges, in order.
    pub(crate) fn changes(&self) -> Changes<'a> {
        Changes { rest: self.body }
    }
}

/// One range of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    /// New bytes at a home offset.
    Bytes { offset: u64, bytes: &'a [u8] },
    /// Bytes that stand in the home already.
    Extent { offset: u64, len: u64, crc: u32 },
    /// The checksum fitted and yet the bytes make no sense.
    Malformed,
}

/// Iterator over a record's ranges.
pub(crate) struct Changes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Changes<'a> {
    type Item = Change<'a>;

    fn next(&mut self) -> Option<Change<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let change = self.split();
        if change.is_none() {
            self.rest = &[];
        }
        Some(change.unwrap_or(Change::Malformed))
    }
}

impl<'a> Changes<'a> {
    fn split(&mut self) -> Option<Change<'a>> {
        let (word, rest) = self.rest.split_first_chunk::<8>()?;
        let word = u64::from_le_bytes(*word);
        let (offset, len) = (word >> 16, (word & 0xffff) as usize);
        if len == 0 {
            let extent: Extent = read_from(rest)?;
            self.rest = &rest[size_of::<Extent>()..];
            return Some(Change::Extent {
                offset,
                len: extent.len,
                crc: extent.crc,
            });
        }
        let bytes = rest.get(..len)?;
        self.rest = rest.get(len.next_multiple_of(8)..)?;
        Some(Change::Bytes { offset, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_one_word_record_is_one_line() {
        let mut record = Record::new();
        record.change(4096, &7u64.to_le_bytes());
        assert_eq!(record.size(), 64);
    }

    #[test]
    fn what_was_added_is_read_back() {
        let mut record = Record::new();
        let long = Vec::from_iter(0..=255).repeat(if cfg!(miri) { 260 } else { 800 });
        record.change(5, b"abc");
        record.change(1 << 40, &long);
        record.extent(8192, 4096, 77);
        let sealed = record.seal(3, 9, 640, 64).to_vec();
        assert_eq!(sealed.len() as u64, record.size());
        let parsed = Parsed::parse(&sealed, 640, 3..=3).expect("sealed here");
        assert_eq!(parsed.header.seq, 9);
        let mut home = Vec::new();
        let mut changes = parsed.changes();
        assert_eq!(
            changes.next(),
            Some(Change::Bytes {
                offset: 5,
                bytes: b"abc"
            })
        );
        for change in changes.by_ref() {
            match change {
                Change::Bytes { offset, bytes } => {
                    assert_eq!(offset, (1 << 40) + home.len() as u64);
                    home.extend_from_slice(bytes);
                }
                other => {
                    assert_eq!(
                        other,
                        Change::Extent {
                            offset: 8192,
                            len: 4096,
                            crc: 77
                        }
                    );
                }
            }
        }
        assert_eq!(home, long);
    }

    #[test]
    fn a_record_elsewhere_in_another_epoch_or_with_a_flipped_bit_is_none() {
        let mut record = Record::new();
        record.change(0, &[1; 40]);
        let sealed = record.seal(2, 1, 128, 0).to_vec();
        assert!(Parsed::parse(&sealed, 128, 1..=2).is_some());
        assert!(Parsed::parse(&sealed, 192, 1..=2).is_none());
        assert!(Parsed::parse(&sealed, 128, 3..=3).is_none());
        let end = u32::from_le_bytes(sealed[4..8].try_into().expect("four bytes")) as usize;
        for bit in (0..end * 8).step_by(if cfg!(miri) { 41 } else { 1 }) {
            let mut torn = sealed.clone();
            torn[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Parsed::parse(&torn, 128, 0..=u64::MAX).is_none(),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn sealing_again_elsewhere_gives_the_same_ranges() {
        let mut record = Record::new();
        record.change(8, &[9; 8]);
        record.seal(1, 1, 0, 0);
        record.change(16, &[8; 8]);
        let sealed = record.seal(1, 2, 64, 0).to_vec();
        let parsed = Parsed::parse(&sealed, 64, 1..=1).expect("sealed here");
        assert_eq!(parsed.changes().count(), 2);
    }
}

//! Where a text stands: in the value itself if it is short, else in a block.
//!
//! Most texts of most programs are short: keys, names, words. A short one costs no block, no pointer to follow, and nothing
//! when it is marked. The layout is [`RawStr`]; who changes a text keeps it UTF-8, which is not looked at here.

use crate::vec::PVec;
use bartender_heap::layout::RawStr;
use std::cmp::Ordering;
use std::mem::ManuallyDrop;
use std::{ptr, slice};

/// A short text.
///
/// Invariant: the tag says `SHORT` and a length of at most `ROOM`; what is behind the text is zero.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Short(RawStr);

impl Short {
    pub(super) const ROOM: usize = RawStr::ROOM;
    pub(super) const EMPTY: Short = Short(RawStr {
        bytes: [0; RawStr::ROOM],
        tag: RawStr::SHORT,
    });

    /// These bytes, one part after the other: `None` if they are too many.
    #[inline]
    pub(super) fn of(parts: &[&[u8]]) -> Option<Short> {
        let mut short = Short::EMPTY;
        let mut len = 0;
        for part in parts {
            let room = short.0.bytes.get_mut(len..)?.get_mut(..part.len())?;
            room.copy_from_slice(part);
            len += part.len();
        }
        short.0.tag |= len as u8;
        Some(short)
    }

    #[inline]
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.len();
        &mut self.0.bytes[..len]
    }

    #[inline]
    fn len(&self) -> usize {
        usize::from(self.0.tag & !RawStr::SHORT)
    }
}

/// The bytes of a text.
///
/// Invariant: `tag` says which of the two is there, a short text or a vector. All bytes are initialised in both, and a vector's highest byte of the
/// length, which is the tag, is below `SHORT`: no block is so long.
#[repr(C)]
pub(super) union Text {
    raw: RawStr,
    short: Short,
    long: ManuallyDrop<PVec<u8>>,
    words: [u64; 3],
}

impl Text {
    #[inline]
    pub(super) const fn short(short: Short) -> Text {
        Text { short }
    }

    #[inline]
    pub(super) const fn long(long: PVec<u8>) -> Text {
        Text {
            long: ManuallyDrop::new(long),
        }
    }

    #[inline]
    pub(super) fn is_short(&self) -> bool {
        // SAFETY: all bytes are initialised, by the invariant.
        unsafe { self.raw.tag & RawStr::SHORT != 0 }
    }

    /// The vector if the text is not short.
    #[inline]
    pub(super) fn as_long(&self) -> Option<&PVec<u8>> {
        if self.is_short() {
            return None;
        }
        // SAFETY: the tag says that it is there.
        Some(unsafe { &*self.long })
    }

    /// As [`as_long`](Self::as_long).
    #[inline]
    pub(super) fn as_long_mut(&mut self) -> Option<&mut PVec<u8>> {
        if self.is_short() {
            return None;
        }
        // SAFETY: the tag says that it is there.
        Some(unsafe { &mut *self.long })
    }

    /// The bytes, to be changed.
    #[inline]
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the tag says which of the two is there.
        unsafe {
            match self.is_short() {
                true => self.short.bytes_mut(),
                false => self.long.as_mut_slice(),
            }
        }
    }

    /// How two short texts compare: as three numbers, of which the last ends with the lengths. Where one text goes on behind
    /// the end of the other, that has zeros.
    #[inline]
    pub(super) fn cmp_short(&self, other: &Text) -> Option<Ordering> {
        // SAFETY: all bytes are initialised, by the invariant.
        let (a, b) = unsafe { (self.words, other.words) };
        (self.is_short() && other.is_short()).then(|| a.map(u64::to_be).cmp(&b.map(u64::to_be)))
    }

    /// As [`cmp_short`](Self::cmp_short), whether they are equal.
    #[inline]
    pub(super) fn eq_short(&self, other: &Text) -> Option<bool> {
        // SAFETY: all bytes are initialised, by the invariant.
        let (a, b) = unsafe { (self.words, other.words) };
        (self.is_short() && other.is_short()).then(|| a == b)
    }

    /// The bytes. Both places are looked at without a branch, which would be hard to foretell among keys of a map.
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: by the invariant of whichever is there. The other's words are read, which any bytes are, and not followed.
        unsafe {
            let inside = ptr::from_ref(self).cast::<u8>();
            let block = self.long.array.as_ptr().cast_const();
            let (few, many) = (self.short.len(), self.long.array.len());
            let (at, len) = if self.is_short() {
                (inside, few)
            } else {
                (block, many)
            };
            slice::from_raw_parts(at, len)
        }
    }
}

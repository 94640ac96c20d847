//! Copying between private bytes and memory that others read and write at the same time.
//!
//! Aligned words of 8 bytes are loaded and stored as one, relaxed; what is left at the ends goes by bytes. Nothing else
//! is promised about order. All accesses are atomic, so that a race is a stale word and never undefined.
//!
//! The atomics are `std`'s and not `bartender_pm::sync`'s: they lie in memory that is not ours, and loom's do not.

#![allow(unsafe_code)]

use crate::memory::Memory;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Registered memory whose accesses are within bounds.
pub(crate) struct Words {
    memory: Arc<dyn Memory>,
    base: *mut u8,
    len: usize,
}

// SAFETY: `base` is the address of `memory`, which may be sent and shared, and everybody goes to it by atomics.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Nothing if the memory's first byte is not aligned to 8.
    pub(crate) fn new(memory: Arc<dyn Memory>) -> Option<Words> {
        let base = memory.base().as_ptr();
        let len = usize::try_from(memory.len()).ok()?;
        base.cast::<u64>()
            .is_aligned()
            .then_some(Words { memory, base, len })
    }

    pub(crate) fn memory(&self) -> &Arc<dyn Memory> {
        &self.memory
    }

    pub(crate) fn len(&self) -> u64 {
        self.len as u64
    }

    /// Whether `len` bytes at `offset` are inside.
    pub(crate) fn holds(&self, offset: u64, len: u64) -> bool {
        offset
            .checked_add(len)
            .is_some_and(|end| end <= self.len as u64)
    }

    /// The word at an aligned offset inside.
    #[inline]
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && self.len - offset.min(self.len) >= 8);
        // SAFETY: inside, by the assertion; aligned, because `base` and `offset` are. Mapped for as long as `memory`
        // lives, and touched by pointers and atomics only: the contract of `Memory`.
        unsafe { AtomicU64::from_ptr(self.base.add(offset).cast()) }
    }

    #[inline]
    fn byte(&self, offset: usize) -> &AtomicU8 {
        assert!(offset < self.len);
        // SAFETY: as for words.
        unsafe { AtomicU8::from_ptr(self.base.add(offset)) }
    }

    /// Whole words from an aligned offset; they are inside.
    #[inline]
    fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        assert!(offset.is_multiple_of(8) && (self.len - offset.min(self.len)) / 8 >= count);
        // SAFETY: as for one word; atomics may be shared.
        unsafe { std::slice::from_raw_parts(self.base.add(offset).cast(), count) }
    }

    /// Bytes that are inside, for the system to read. Who gets it must hand it to a system call and not look at it:
    /// others change the bytes meanwhile. The system's copy may tear words.
    pub(crate) fn for_system(&self, offset: usize, len: usize) -> IoSlice<'_> {
        assert!(self.holds(offset as u64, len as u64));
        // SAFETY: inside, by the assertion.
        let start = unsafe { self.base.add(offset) };
        let vector = libc::iovec {
            iov_base: start.cast(),
            iov_len: len,
        };
        // SAFETY: `IoSlice` is documented to be what `iovec` is. The bytes stay mapped while `memory` lives, which
        // `self` holds. No reference to them is made, here or where it is used.
        unsafe { std::mem::transmute::<libc::iovec, IoSlice<'_>>(vector) }
    }

    /// Copies `bytes` to `offset`; they have to fit.
    pub(crate) fn store(&self, offset: usize, bytes: &[u8]) {
        let before = offset.next_multiple_of(8) - offset;
        let (edge, rest) = bytes.split_at(before.min(bytes.len()));
        for (i, byte) in edge.iter().enumerate() {
            self.byte(offset + i).store(*byte, Ordering::Relaxed);
        }
        let offset = offset + edge.len();
        let (words, edge) = rest.as_chunks::<8>();
        if !words.is_empty() {
            for (word, bytes) in self.words(offset, words.len()).iter().zip(words) {
                word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
            }
        }
        let offset = offset + size_of_val(words);
        for (i, byte) in edge.iter().enumerate() {
            self.byte(offset + i).store(*byte, Ordering::Relaxed);
        }
    }

    /// Fills `bytes` with what is at `offset`; it has to be inside.
    pub(crate) fn load(&self, offset: usize, bytes: &mut [u8]) {
        let before = offset.next_multiple_of(8) - offset;
        let (edge, rest) = bytes.split_at_mut(before.min(bytes.len()));
        for (i, byte) in edge.iter_mut().enumerate() {
            *byte = self.byte(offset + i).load(Ordering::Relaxed);
        }
        let offset = offset + edge.len();
        let (words, edge) = rest.as_chunks_mut::<8>();
        if !words.is_empty() {
            for (word, bytes) in self.words(offset, words.len()).iter().zip(words.iter_mut()) {
                *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            }
        }
        let offset = offset + size_of_val(&*words);
        for (i, byte) in edge.iter_mut().enumerate() {
            *byte = self.byte(offset + i).load(Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ptr::NonNull;

    struct Owned(Box<[AtomicU64]>);

    // SAFETY: the words live as long as the value and are atomics.
    unsafe impl Memory for Owned {
        fn base(&self) -> NonNull<u8> {
            NonNull::from(&*self.0).cast()
        }

        fn len(&self) -> u64 {
            self.0.len() as u64 * 8
        }

        fn persist(&self, _: &[(u64, u64)]) -> Result<(), String> {
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn copies_are_those_of_plain_bytes(
            writes in proptest::collection::vec((0..100_usize, proptest::collection::vec(any::<u8>(), 0..28)), 1..10),
            at in 0..128_usize,
            len in 0..128_usize,
        ) {
            let owned = Owned((0..16).map(|_| AtomicU64::new(0)).collect());
            let words = Words::new(Arc::new(owned)).unwrap();
            let mut twin = [0; 128];
            for (offset, bytes) in writes {
                words.store(offset, &bytes);
                twin[offset..][..bytes.len()].copy_from_slice(&bytes);
            }
            let len = len.min(128 - at);
            let mut found = vec![0; len];
            words.load(at, &mut found);
            prop_assert_eq!(&found, &twin[at..][..len]);
        }
    }

    #[test]
    fn bounds_do_not_wrap() {
        let owned = Owned((0..16).map(|_| AtomicU64::new(0)).collect());
        let words = Words::new(Arc::new(owned)).unwrap();
        assert!(words.holds(128, 0) && words.holds(0, 128));
        assert!(!words.holds(128, 1) && !words.holds(u64::MAX, 2) && !words.holds(1, u64::MAX));
    }
}

//! Copying between private bytes and memory that others read and write at the same time.
//!
//! Everything goes by aligned words of 8 bytes, loaded and stored as one, relaxed; of a word at an end of the range the
//! bytes that are meant are replaced by compare-and-swap, so that who writes beside them loses nothing. Only the last
//! bytes of memory that is no multiple of 8 long, which are no word, go one by one, always. Nothing else is promised
//! about order. So all accesses to a byte are atomic and of one size, which the language asks of those that race: a race
//! is a stale word and never undefined.
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

    /// Where the bytes begin that are no whole word.
    fn odd(&self) -> usize {
        self.len - self.len % 8
    }

    /// Copies bytes to `offset` that are all of one word, but not the whole of it.
    fn store_edge(&self, offset: usize, bytes: &[u8]) {
        if offset >= self.odd() {
            for (i, byte) in bytes.iter().enumerate() {
                self.byte(offset + i).store(*byte, Ordering::Relaxed);
            }
        } else if !bytes.is_empty() {
            let at = offset % 8;
            let replaced = |word: u64| {
                let mut word = word.to_ne_bytes();
                word[at..at + bytes.len()].copy_from_slice(bytes);
                Some(u64::from_ne_bytes(word))
            };
            let relaxed = Ordering::Relaxed;
            // It never gives up.
            let _ = self
                .word(offset - at)
                .fetch_update(relaxed, relaxed, replaced);
        }
    }

    /// Fills `bytes` from `offset`, which are all of one word, but not the whole of it.
    fn load_edge(&self, offset: usize, bytes: &mut [u8]) {
        if offset >= self.odd() {
            for (i, byte) in bytes.iter_mut().enumerate() {
                *byte = self.byte(offset + i).load(Ordering::Relaxed);
            }
        } else if !bytes.is_empty() {
            let at = offset % 8;
            let word = self.word(offset - at).load(Ordering::Relaxed);
            bytes.copy_from_slice(&word.to_ne_bytes()[at..at + bytes.len()]);
        }
    }

    /// Copies `bytes` to `offset`; they have to fit.
    pub(crate) fn store(&self, offset: usize, bytes: &[u8]) {
        let before = offset.next_multiple_of(8) - offset;
        let (edge, rest) = bytes.split_at(before.min(bytes.len()));
        self.store_edge(offset, edge);
        let offset = offset + edge.len();
        let (words, edge) = rest.as_chunks::<8>();
        if !words.is_empty() {
            for (word, bytes) in self.words(offset, words.len()).iter().zip(words) {
                word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
            }
        }
        self.store_edge(offset + size_of_val(words), edge);
    }

    /// Fills `bytes` with what is at `offset`; it has to be inside.
    pub(crate) fn load(&self, offset: usize, bytes: &mut [u8]) {
        let before = offset.next_multiple_of(8) - offset;
        let (edge, rest) = bytes.split_at_mut(before.min(bytes.len()));
        self.load_edge(offset, edge);
        let offset = offset + edge.len();
        let (words, edge) = rest.as_chunks_mut::<8>();
        if !words.is_empty() {
            for (word, bytes) in self.words(offset, words.len()).iter().zip(words.iter_mut()) {
                *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            }
        }
        self.load_edge(offset + size_of_val(&*words), edge);
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

    fn of(len: u64) -> Arc<Words> {
        struct Short(Owned, u64);
        // SAFETY: as of all the words; a part of them.
        unsafe impl Memory for Short {
            fn base(&self) -> NonNull<u8> {
                self.0.base()
            }

            fn len(&self) -> u64 {
                self.1
            }

            fn persist(&self, _: &[(u64, u64)]) -> Result<(), String> {
                Ok(())
            }
        }
        let words = (0..len.div_ceil(8)).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Words::new(Arc::new(Short(Owned(words), len))).unwrap())
    }

    #[test]
    fn what_is_beyond_the_memory_is_not_touched() {
        for len in 0..24_usize {
            let words = of(len as u64);
            words.store(0, &vec![7; len]);
            let mut found = vec![0; len];
            words.load(0, &mut found);
            assert_eq!(found, vec![7; len]);
            for at in 0..len {
                words.store(at, &[8]);
                let mut found = [0];
                words.load(at, &mut found);
                assert_eq!(found, [8]);
            }
            let all = words.memory().base().as_ptr();
            for at in len..len.next_multiple_of(8) {
                // SAFETY: inside of the words, of which there are more than the memory says.
                let beyond = unsafe { AtomicU8::from_ptr(all.add(at)) };
                assert_eq!(beyond.load(Ordering::Relaxed), 0, "{at} of {len}");
            }
        }
    }

    /// Miri says so where accesses of different sizes race.
    #[test]
    fn accesses_of_any_place_may_race_and_lose_no_neighbour() {
        let words = of(20);
        let rounds = if cfg!(miri) { 10 } else { 10_000_u64 };
        std::thread::scope(|scope| {
            // Each place is one thread's; the words are everybody's.
            for (at, len) in [(0, 1), (1, 5), (6, 4), (10, 6), (16, 1), (17, 3)] {
                let words = &words;
                scope.spawn(move || {
                    for round in 0..rounds {
                        let bytes = vec![round as u8; len];
                        words.store(at, &bytes);
                        let mut found = vec![0; len];
                        words.load(at, &mut found);
                        assert_eq!(found, bytes, "at {at}");
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..rounds {
                    let before = words.word(8).load(Ordering::Relaxed);
                    let _ = words.word(8).compare_exchange(
                        before,
                        before,
                        Ordering::AcqRel,
                        Ordering::Acquire,
                    );
                    words.load(0, &mut [0; 20]);
                }
            });
        });
    }
}

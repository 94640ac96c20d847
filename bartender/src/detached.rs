//! Stored values that a transaction has taken from their places and not put anywhere yet.
//!
//! [`Detached`] keeps their bytes (what they own stays where it is, in the region), so that a value is not lost, nor
//! leaked, when the program forgets the ticket for it ([`crate::Moved`]). A ticket's number is never used again by its
//! thread: one of another transaction is not found here. It knows nothing of types: who takes the bytes out
//! again knows what they are.

use std::ptr;

/// One value.
#[derive(Debug)]
struct Value<R> {
    id: u64,
    /// Where its bytes start.
    at: usize,
    len: usize,
    /// Somebody has it: its bytes are stale.
    taken: bool,
    release: R,
}

/// Detached values of one transaction; `R` is how one ends that nobody wanted.
#[derive(Debug)]
pub(crate) struct Detached<R> {
    /// By rising `id`.
    values: Vec<Value<R>>,
    bytes: Vec<u8>,
}

impl<R: Copy> Detached<R> {
    pub(crate) const fn new() -> Self {
        Detached {
            values: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Nothing waits for a place.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Keeps the `len` bytes at `value` under a number above all that were given before.
    ///
    /// # Safety
    ///
    /// They can be read.
    pub(crate) unsafe fn keep(&mut self, id: u64, value: *const u8, len: usize, release: R) {
        debug_assert!(self.values.last().is_none_or(|last| last.id < id));
        let at = self.bytes.len();
        self.bytes.reserve(len);
        // SAFETY: readable by the caller's promise, and there is room. The bytes are copied untyped.
        unsafe {
            ptr::copy_nonoverlapping(value, self.bytes.as_mut_ptr().add(at), len);
            self.bytes.set_len(at + len);
        }
        self.values.push(Value {
            id,
            at,
            len,
            taken: false,
            release,
        });
    }

    fn index(&self, id: u64) -> Option<usize> {
        let index = self.values.binary_search_by_key(&id, |value| value.id).ok();
        index.filter(|&index| !self.values[index].taken)
    }

    /// The bytes of a value that is there.
    pub(crate) fn bytes(&self, id: u64) -> Option<*const u8> {
        let value = &self.values[self.index(id)?];
        Some(self.bytes[value.at..value.at + value.len].as_ptr())
    }

    /// The value has got a place.
    pub(crate) fn take(&mut self, id: u64) {
        if let Some(index) = self.index(id) {
            self.values[index].taken = true;
        }
        while self.values.last().is_some_and(|last| last.taken) {
            self.drop_last();
        }
    }

    /// Takes the last value that nobody has: its bytes, valid until the next call, and how it ends.
    pub(crate) fn pop(&mut self) -> Option<(*const u8, R)> {
        let value = self.values.last()?;
        let (at, release) = (value.at, value.release);
        self.drop_last();
        while self.values.last().is_some_and(|last| last.taken) {
            self.drop_last();
        }
        // Not beyond the buffer: its capacity is kept.
        Some((self.bytes.as_ptr().wrapping_add(at), release))
    }

    fn drop_last(&mut self) {
        if let Some(value) = self.values.pop() {
            self.bytes.truncate(value.at);
        }
    }

    /// Forgets all values, keeps the buffers (large ones are given back).
    #[inline]
    pub(crate) fn clear(&mut self) {
        const KEEP: usize = 1 << 16;
        if self.values.capacity() == 0 {
            return;
        }
        self.values.clear();
        self.values.shrink_to(KEEP / size_of::<Value<R>>());
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(detached: &mut Detached<u8>, id: u64, value: u32) {
        // SAFETY: the value's own bytes.
        unsafe { detached.keep(id, (&raw const value).cast(), 4, id as u8) };
    }

    fn read(bytes: *const u8) -> u32 {
        // SAFETY: where `keep` has put four bytes.
        unsafe { bytes.cast::<u32>().read_unaligned() }
    }

    #[test]
    fn a_value_is_there_until_it_is_taken_and_then_never_again() {
        let mut detached = Detached::new();
        keep(&mut detached, 3, 30);
        keep(&mut detached, 5, 50);
        keep(&mut detached, 6, 60);
        assert_eq!(detached.bytes(5).map(read), Some(50));
        assert_eq!(detached.bytes(4), None);
        detached.take(5);
        assert_eq!(detached.bytes(5), None);
        detached.take(5);
        assert_eq!(detached.bytes(6).map(read), Some(60));
        let (bytes, release) = detached.pop().expect("6 is there");
        assert_eq!((read(bytes), release), (60, 6));
        let (bytes, release) = detached.pop().expect("3 is there");
        assert_eq!((read(bytes), release), (30, 3));
        assert!(detached.pop().is_none() && detached.is_empty());
    }

    #[test]
    fn moving_one_after_the_other_keeps_one() {
        let mut detached = Detached::new();
        for id in 0..100 {
            keep(&mut detached, 2 * id, 7);
            keep(&mut detached, 2 * id + 1, 8);
            detached.take(2 * id);
            detached.take(2 * id + 1);
            assert!(detached.is_empty() && detached.bytes.is_empty());
        }
    }
}

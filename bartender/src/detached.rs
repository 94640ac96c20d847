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
    /// Values below this index were there at the last mark: they are kept.
    floor: usize,
    /// Those of them that were taken since.
    taken: Vec<usize>,
}

/// A point in the course of a transaction that can be gone back to.
#[derive(Debug)]
pub(crate) struct Mark {
    values: usize,
    bytes: usize,
    taken: usize,
    floor: usize,
}

impl<R: Copy> Detached<R> {
    pub(crate) const fn new() -> Self {
        Detached {
            values: Vec::new(),
            bytes: Vec::new(),
            floor: 0,
            taken: Vec::new(),
        }
    }

    /// The values that are there now can be had back by [`rollback`](Self::rollback), until
    /// [`release`](Self::release). Marks nest.
    pub(crate) fn mark(&mut self) -> Mark {
        let mark = Mark {
            values: self.values.len(),
            bytes: self.bytes.len(),
            taken: self.taken.len(),
            floor: self.floor,
        };
        self.floor = mark.values;
        mark
    }

    /// What happened since the mark stays, as a part of what was before.
    pub(crate) fn release(&mut self, mark: &Mark) {
        self.floor = mark.floor;
    }

    /// Goes back to the values that were there: no other ticket is honoured.
    pub(crate) fn rollback(&mut self, mark: &Mark) {
        self.values.truncate(mark.values);
        self.bytes.truncate(mark.bytes);
        for index in self.taken.drain(mark.taken..) {
            if let Some(value) = self.values.get_mut(index) {
                value.taken = false;
            }
        }
        self.floor = mark.floor;
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
            if index < self.floor {
                self.taken.push(index);
            }
        }
        self.drop_taken();
    }

    /// Takes the last value that nobody has: its bytes, valid until the next call, and how it ends.
    pub(crate) fn pop(&mut self) -> Option<(*const u8, R)> {
        self.drop_taken();
        let value = self.values.last()?;
        let (at, release) = (value.at, value.release);
        self.drop_last();
        self.drop_taken();
        // Not beyond the buffer: its capacity is kept.
        Some((self.bytes.as_ptr().wrapping_add(at), release))
    }

    fn drop_taken(&mut self) {
        while self.values.len() > self.floor && self.values.last().is_some_and(|last| last.taken) {
            self.drop_last();
        }
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
        self.taken.clear();
        self.floor = 0;
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
    fn a_rollback_gives_back_what_was_there_and_nothing_else() {
        let mut detached = Detached::new();
        keep(&mut detached, 1, 10);
        keep(&mut detached, 2, 20);
        let outer = detached.mark();
        detached.take(2);
        keep(&mut detached, 3, 30);
        let inner = detached.mark();
        detached.take(1);
        detached.take(3);
        detached.rollback(&inner);
        assert_eq!(detached.bytes(1).map(read), Some(10));
        assert_eq!(detached.bytes(2), None);
        assert_eq!(detached.bytes(3).map(read), Some(30));
        let inner = detached.mark();
        detached.take(3);
        detached.release(&inner);
        // In the place of 3, which may be gone.
        keep(&mut detached, 4, 40);
        detached.rollback(&outer);
        assert_eq!(detached.bytes(1).map(read), Some(10));
        assert_eq!(detached.bytes(2).map(read), Some(20));
        assert_eq!((detached.bytes(3), detached.bytes(4)), (None, None));
        detached.take(2);
        detached.take(1);
        assert!(detached.is_empty());
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

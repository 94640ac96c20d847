//! A backup's ring: the registered memory to which the primary writes its log, one-sided.
//!
//! Byte `at % len` of the ring is for byte `at` of the stream. The primary writes whole records where its last piece
//! ended, and persists them: then they are read here, checked, and appended to the log on the medium, and only then is that
//! answered. So the medium may be one that no network can reach. What lies in the ring otherwise means nothing.

#![allow(unsafe_code)]

use super::backup::Slot;
use bartender_net::Memory;
use bartender_pm::sync::Mutex;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The ring of one primary's connection.
#[derive(Debug)]
pub(crate) struct Ring {
    base: NonNull<u8>,
    len: usize,
    slot: Arc<Slot>,
    epoch: u64,
    /// Where the next piece starts, in the stream.
    next: Mutex<u64>,
}

// SAFETY: plain memory of our own, which lives as long as this value, and is touched by atomic words only.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

fn layout(len: usize) -> Layout {
    Layout::from_size_align(len, 4096).expect("a log's length fits memory")
}

impl Ring {
    /// A ring of `len` bytes for the primary of `epoch`, which goes on at `next`, if there is memory for it. That costs nothing before it
    /// is used.
    pub(crate) fn new(len: u64, slot: Arc<Slot>, epoch: u64, next: u64) -> Option<Ring> {
        let len = len as usize;
        // SAFETY: not empty: a log has at least a page.
        let base = unsafe { alloc_zeroed(layout(len)) };
        Some(Ring {
            base: NonNull::new(base)?,
            len,
            slot,
            epoch,
            next: Mutex::new(next),
        })
    }

    /// What the primary has not sent to this ring is settled up to `committed`, if the copy that it writes to expects no more: it goes
    /// on there. Asked for under the lock: a piece that is being received moves both.
    pub(crate) fn go_on_at(&self, committed: u64, expected: impl FnOnce() -> u64) {
        let mut next = self.next.lock();
        if expected() == committed {
            *next = committed;
        }
    }

    /// Copies `[from, from + len)`, both multiples of 8.
    fn copy(&self, from: u64, len: u64, to: &mut Vec<u8>) {
        for at in (from..from + len).step_by(8) {
            // SAFETY: inside the ring, by `check`, and aligned, as its start and `at` are. Peers may write at any
            // time; words are read by atomic loads, and what was read is checked before it is used.
            let word = unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at as usize).cast()) };
            to.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
    }

    /// The ranges of one piece: one, or two at the ring's end; where it starts and how long it is.
    fn check(&self, ranges: &[(u64, u64)], next: u64) -> Result<u64, String> {
        let ring = self.len as u64;
        let mut at = next % ring;
        let mut len = 0;
        for &(offset, n) in ranges {
            if offset != at || n == 0 || n > ring - at || !n.is_multiple_of(64) {
                return Err(format!("{n} bytes at {offset} of the ring, not at {at}"));
            }
            len += n;
            at = (at + n) % ring;
        }
        match len {
            0 => Err("nothing to persist".into()),
            _ if len > ring => Err(format!("{len} bytes are more than the ring has")),
            _ => Ok(len),
        }
    }
}

// SAFETY: `[base, base + len)` is memory of this value's own; nobody holds a reference into it.
unsafe impl Memory for Ring {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> u64 {
        self.len as u64
    }

    fn persist(&self, ranges: &[(u64, u64)]) -> Result<(), String> {
        let mut next = self.next.lock();
        let len = self.check(ranges, *next)?;
        let mut bytes = Vec::with_capacity(len as usize);
        for &(offset, len) in ranges {
            self.copy(offset, len, &mut bytes);
        }
        *next = self.slot.receive(self.epoch, *next, &bytes)?;
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout; whoever registered it holds it, so nobody reaches it any more.
        unsafe { dealloc(self.base.as_ptr(), layout(self.len)) };
    }
}

/// Where `len` bytes of the stream from `at` on lie in a ring of `ring` bytes: offset and length, once or twice.
pub(crate) fn pieces(ring: u64, at: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    let from = at % ring;
    let first = len.min(ring - from);
    [(from, first), (0, len - first)]
        .into_iter()
        .filter(|&(_, len)| len != 0)
}

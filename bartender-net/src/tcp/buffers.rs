//! Buffers for the results of large reads, used again: the system takes back what a large allocation leaves, and gives
//! it anew page by page, which takes about as long as it takes to receive the bytes.
//!
//! A buffer comes back when the last [`Bytes`] on it goes; a connection keeps a few of them, up to [`KEPT`] bytes.

use bartender_pm::sync::Mutex;
use bytes::Bytes;
use std::sync::{Arc, Weak};

/// Most bytes that a connection keeps for later.
const KEPT: usize = 16 << 20;
/// What is smaller the allocator is good at.
const LARGE: usize = 32 << 10;

#[derive(Default)]
struct Idle {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

/// The buffers that a connection keeps.
#[derive(Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Idle>>);

impl Buffers {
    /// An empty buffer with room for `len` bytes.
    pub(super) fn take(&self, len: usize) -> Vec<u8> {
        if len >= LARGE {
            let mut idle = self.0.lock();
            let fitting = |buffer: &Vec<u8>| (len..=2 * len).contains(&buffer.capacity());
            if let Some(at) = idle.buffers.iter().rposition(fitting) {
                let buffer = idle.buffers.swap_remove(at);
                idle.bytes -= buffer.capacity();
                return buffer;
            }
        }
        Vec::with_capacity(len)
    }

    /// The bytes of a buffer that is full.
    pub(super) fn share(&self, buffer: Vec<u8>) -> Bytes {
        if buffer.capacity() < LARGE {
            return buffer.into();
        }
        let home = Arc::downgrade(&self.0);
        Bytes::from_owner(Shared { buffer, home })
    }
}

/// A buffer that somebody reads.
struct Shared {
    buffer: Vec<u8>,
    home: Weak<Mutex<Idle>>,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let Some(home) = self.home.upgrade() else {
            return;
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut idle = home.lock();
        idle.bytes += buffer.capacity();
        idle.buffers.push(buffer);
        // The oldest go.
        while idle.bytes > KEPT && !idle.buffers.is_empty() {
            let oldest = idle.buffers.remove(0);
            idle.bytes -= oldest.capacity();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_was_let_go_is_used_again() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(100_000);
        buffer.resize(100_000, 7);
        let address = buffer.as_ptr();
        let bytes = buffers.share(buffer);
        let part = bytes.slice(5..);
        drop(bytes);
        let other = buffers.take(100_000);
        assert_ne!(other.as_ptr(), address, "somebody still reads it");
        drop(part);
        let again = buffers.take(90_000);
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
    }

    #[test]
    fn no_more_is_kept_than_is_said() {
        let buffers = Buffers::default();
        let all: Vec<Bytes> = (0..40).map(|_| buffers.share(vec![0; 1 << 20])).collect();
        drop(all);
        assert!(buffers.0.lock().bytes <= KEPT);
    }
}

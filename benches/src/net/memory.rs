//! Registered memory of the benchmarks: zeroes in this process, whose barrier does nothing.

use bartender_net::Memory;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// See the top of this file.
pub(super) struct Zeroes(Box<[AtomicU64]>);

impl Zeroes {
    pub(super) fn new(len: usize) -> Arc<Zeroes> {
        Arc::new(Zeroes((0..len / 8).map(|_| AtomicU64::new(0)).collect()))
    }
}

// SAFETY: the words live as long as the value, at one address, and are atomics: nobody refers to them otherwise.
unsafe impl Memory for Zeroes {
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

//! Memory with two images: what processors and the network see, and what survives the death of its node.

#![allow(unsafe_code)]

use super::random::Random;
use crate::memory::{Memory, PersistMethod};
use bartender_pm::sync::Mutex;
use std::fmt;
use std::ptr::NonNull;
// Not loom's: a network goes to them by their address.
use std::sync::atomic::{AtomicU64, Ordering};

/// What is lost or kept as one.
const LINE: usize = 64;

/// Memory of a node of the simulation. [`Memory::persist`] copies ranges from the volatile to the durable image, by
/// whole lines of 64 bytes; its node's death leaves of every line that differs the old or the new one, as drawn.
/// After that both images are what survived.
pub struct DurableMemory {
    volatile: Box<[AtomicU64]>,
    len: u64,
    durable: Mutex<Durable>,
    method: PersistMethod,
}

struct Durable {
    image: Vec<u8>,
    refuses: Option<String>,
}

impl DurableMemory {
    /// `len` bytes of zero, made durable by the target's own barrier.
    pub fn new(len: u64) -> Self {
        Self::with_method(len, PersistMethod::Acknowledged)
    }

    /// As [`new`](Self::new), and declares another method.
    pub fn with_method(len: u64, method: PersistMethod) -> Self {
        let words = len.div_ceil(8) as usize;
        DurableMemory {
            volatile: (0..words).map(|_| AtomicU64::new(0)).collect(),
            len,
            durable: Mutex::new(Durable {
                image: vec![0; len as usize],
                refuses: None,
            }),
            method,
        }
    }

    /// What its processor sees.
    ///
    /// # Panics
    ///
    /// Out of bounds, as all of these.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.load(offset as usize, &mut bytes);
        bytes
    }

    /// What its processor writes: visible at once, not durable.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let offset = offset as usize;
        assert!(offset + bytes.len() <= self.len as usize);
        let mut at = 0;
        while at < bytes.len() {
            let (word, skip) = ((offset + at) / 8, (offset + at) % 8);
            let part = &bytes[at..bytes.len().min(at + 8 - skip)];
            let mut new = self.volatile[word].load(Ordering::Acquire).to_ne_bytes();
            new[skip..skip + part.len()].copy_from_slice(part);
            self.volatile[word].store(u64::from_ne_bytes(new), Ordering::Release);
            at += part.len();
        }
    }

    /// The durable image.
    pub fn durable(&self) -> Vec<u8> {
        self.durable.lock().image.clone()
    }

    /// From now on `persist` fails, with these words (a full disk); `None`: it works again.
    pub fn refuse(&self, why: Option<&str>) {
        self.durable.lock().refuses = why.map(str::to_owned);
    }

    fn load(&self, offset: usize, into: &mut [u8]) {
        assert!(offset + into.len() <= self.len as usize);
        let mut at = 0;
        while at < into.len() {
            let (word, skip) = ((offset + at) / 8, (offset + at) % 8);
            let end = into.len().min(at + 8 - skip);
            let now = self.volatile[word].load(Ordering::Acquire).to_ne_bytes();
            into[at..end].copy_from_slice(&now[skip..skip + end - at]);
            at = end;
        }
    }

    /// Its node dies.
    pub(super) fn crash(&self, random: &mut Random) {
        let mut durable = self.durable.lock();
        let now = self.read(0, self.len as usize);
        for (old, new) in durable.image.chunks_mut(LINE).zip(now.chunks(LINE)) {
            if old != new && random.chance(500_000) {
                old.copy_from_slice(new);
            }
        }
        self.write(0, &durable.image);
    }
}

// SAFETY: the words live as long as the value, at one address that is a multiple of 8; `len` is at most their number
// times 8; they are atomics, and no other reference leads to their bytes.
unsafe impl Memory for DurableMemory {
    fn base(&self) -> NonNull<u8> {
        NonNull::from(&*self.volatile).cast()
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn method(&self) -> PersistMethod {
        self.method
    }

    fn persist(&self, ranges: &[(u64, u64)]) -> Result<(), String> {
        let mut durable = self.durable.lock();
        if let Some(why) = &durable.refuses {
            return Err(why.clone());
        }
        for &(offset, len) in ranges.iter().filter(|range| range.1 > 0) {
            let from = offset as usize / LINE * LINE;
            let to = ((offset + len) as usize)
                .next_multiple_of(LINE)
                .min(self.len as usize);
            self.load(from, &mut durable.image[from..to]);
        }
        Ok(())
    }
}

impl fmt::Debug for DurableMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DurableMemory({} bytes)", self.len)
    }
}

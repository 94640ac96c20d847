//! Memory for tests: words in this process, looked at by atomic loads, with a diary of what was made durable.

use bartender_net::Memory;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A call of `persist`: its ranges, and what the first of them held then.
pub type Persisted = (Vec<(u64, u64)>, Vec<u8>);

/// Anonymous memory.
pub struct Plain {
    words: Box<[AtomicU64]>,
    /// Each call of `persist`.
    pub persisted: Mutex<Vec<Persisted>>,
    /// Whether `persist` fails.
    pub broken: AtomicBool,
}

impl Plain {
    /// Zeroes; `len` is a multiple of 8.
    pub fn new(len: usize) -> Arc<Plain> {
        assert_eq!(len % 8, 0);
        Arc::new(Plain {
            words: (0..len / 8).map(|_| AtomicU64::new(0)).collect(),
            persisted: Mutex::default(),
            broken: AtomicBool::new(false),
        })
    }

    /// What it holds now.
    pub fn bytes(&self, offset: usize, len: usize) -> Vec<u8> {
        let first = offset / 8;
        let last = (offset + len).div_ceil(8);
        let words = self.words[first..last].iter();
        let bytes: Vec<u8> = words
            .flat_map(|word| word.load(Ordering::Acquire).to_le_bytes())
            .collect();
        bytes[offset - first * 8..][..len].to_vec()
    }

    /// Puts bytes there, as the owner; `offset` and their number are multiples of 8.
    pub fn fill(&self, offset: usize, bytes: &[u8]) {
        for (word, bytes) in self.words[offset / 8..].iter().zip(bytes.chunks_exact(8)) {
            word.store(
                u64::from_le_bytes(bytes.try_into().unwrap()),
                Ordering::Release,
            );
        }
    }

    /// One word.
    pub fn word(&self, offset: usize) -> u64 {
        self.words[offset / 8].load(Ordering::Acquire)
    }
}

// SAFETY: the words live as long as the value, at one address, and are only touched through atomics, which may be
// written behind a shared reference.
unsafe impl Memory for Plain {
    fn base(&self) -> NonNull<u8> {
        NonNull::from(&*self.words).cast()
    }

    fn len(&self) -> u64 {
        self.words.len() as u64 * 8
    }

    fn persist(&self, ranges: &[(u64, u64)]) -> Result<(), String> {
        if self.broken.load(Ordering::Relaxed) {
            return Err("the disk is gone".into());
        }
        let found = ranges.first().map_or(Vec::new(), |&(offset, len)| {
            self.bytes(offset as usize, len as usize)
        });
        self.persisted.lock().unwrap().push((ranges.into(), found));
        Ok(())
    }
}

/// Bytes that count when they are let go.
pub struct Counted {
    bytes: Vec<u8>,
    gone: Arc<AtomicU64>,
}

impl Counted {
    /// `bytes`, which add one to `gone` when nobody holds them any more.
    pub fn watched(bytes: Vec<u8>, gone: &Arc<AtomicU64>) -> bytes::Bytes {
        let gone = gone.clone();
        bytes::Bytes::from_owner(Counted { bytes, gone })
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gone.fetch_add(1, Ordering::Release);
    }
}

//! What a node has registered: from the key to the memory, and how a key is taken back.
//!
//! Lookup is a lock of a sixteenth of the table. An access *enters* its registration for as long as it touches the
//! memory; taking a key back waits until nobody is inside. So when a [`MemoryRegion`](crate::MemoryRegion) has been
//! dropped no byte changes by its key any more, not even by a write that was being copied: a fence holds at once.
//! (What is waited for is a copy of some KiB, or a call of the system's that copies for a socket as much as that takes,
//! which may be some MiB. A barrier is not waited for, and one whose registration was found before may even begin after.)

use crate::error::{Error, Result};
use crate::memory::{Access, Memory, MemoryRegion, PersistMethod, RemoteMemory};
use crate::words::Words;
use bartender_pm::sync::atomic::{AtomicU64, Ordering};
use bartender_pm::sync::{Mutex, thread};
use std::collections::HashMap;
use std::fmt;
use std::io::IoSlice;
use std::sync::Arc;

/// In [`Registration::inside`]: the key was taken back.
const REVOKED: u64 = 1 << 63;

/// Memory that peers may reach by one key.
pub(crate) struct Registration {
    words: Words,
    access: Access,
    /// How many are inside, and [`REVOKED`].
    inside: AtomicU64,
}

/// Somebody inside a registration.
pub(crate) struct Inside<'r>(&'r Registration);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::Release);
    }
}

impl std::ops::Deref for Inside<'_> {
    type Target = Words;

    fn deref(&self) -> &Words {
        &self.0.words
    }
}

impl Registration {
    /// Its words, unless the key was taken back. Hold it for a copy, not for longer.
    pub(crate) fn enter(&self) -> Option<Inside<'_>> {
        let before = self.inside.fetch_add(1, Ordering::Acquire);
        let inside = Inside(self);
        (before & REVOKED == 0).then_some(inside)
    }

    /// [`Words::for_system`]; use it while `inside` lives.
    pub(crate) fn for_system(&self, inside: &Inside<'_>, offset: usize, len: usize) -> IoSlice<'_> {
        debug_assert!(std::ptr::eq(inside.0, self));
        self.words.for_system(offset, len)
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.words.len()
    }

    pub(crate) fn memory(&self) -> &Arc<dyn Memory> {
        self.words.memory()
    }

    /// Whether `needed` is allowed for `len` bytes at `offset`.
    pub(crate) fn allows(&self, needed: Access, offset: u64, len: u64) -> bool {
        self.access.allows(needed) && self.words.holds(offset, len)
    }

    fn revoke(&self) {
        self.inside.fetch_or(REVOKED, Ordering::AcqRel);
        while self.inside.load(Ordering::Acquire) != REVOKED {
            thread::yield_now();
        }
    }
}

/// All registrations of a node.
#[derive(Default)]
pub(crate) struct Registry {
    shards: [Mutex<HashMap<u64, Arc<Registration>>>; 16],
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Registry {
    fn shard(&self, key: u64) -> &Mutex<HashMap<u64, Arc<Registration>>> {
        &self.shards[key as usize % self.shards.len()]
    }

    /// What `key` leads to.
    pub(crate) fn find(&self, key: u64) -> Option<Arc<Registration>> {
        self.shard(key).lock().get(&key).cloned()
    }

    /// Registers memory under a new key.
    pub(crate) fn register(
        self: &Arc<Self>,
        memory: Arc<dyn Memory>,
        access: Access,
    ) -> Result<MemoryRegion> {
        let len = memory.len();
        let refused = |what: String| Error::Register { len, what };
        let words = Words::new(memory.clone())
            .ok_or_else(|| refused("its first byte is not aligned to 8".into()))?;
        let registration = Arc::new(Registration {
            words,
            access,
            inside: AtomicU64::new(0),
        });
        let key = loop {
            let key = getrandom::u64().map_err(|e| refused(format!("no random key: {e}")))?;
            let mut shard = self.shard(key).lock();
            if key != 0 && !shard.contains_key(&key) {
                shard.insert(key, registration.clone());
                break key;
            }
        };
        let remote = RemoteMemory {
            key,
            base: 0,
            len,
            access,
            // The target's processor does the writing, whatever its card could promise.
            method: PersistMethod::Acknowledged,
        };
        let registry = self.clone();
        Ok(MemoryRegion::new(
            remote,
            memory,
            Revoke {
                registry,
                registration,
                key,
            },
        ))
    }
}

/// Takes a key back when it is dropped.
struct Revoke {
    registry: Arc<Registry>,
    registration: Arc<Registration>,
    key: u64,
}

impl Drop for Revoke {
    fn drop(&mut self) {
        self.registry.shard(self.key).lock().remove(&self.key);
        self.registration.revoke();
    }
}

//! Memory that the network may touch: what can be registered, with which rights, and what a peer
//! has to know to reach it.
//!
//! A *memory region* (MR) is not a *region* (a bartender file), though it may lie over one's log.

use crate::error::Result;
use std::fmt;
use std::ops::BitOr;
use std::ptr::NonNull;
use std::sync::Arc;

/// Memory that can be registered: anonymous memory, shared memory or device DAX. (The page cache of a
/// file cannot be pinned.)
///
/// # Safety
///
/// For as long as the value lives `[base, base + len)` stays mapped, readable and writable at the same
/// address, and nobody holds a reference into it while it is registered: peers read and write it at
/// any time. The owner goes through raw pointers, best by atomics of its aligned words of 8, as backends do that copy
/// with the processor, and verifies what it reads. Volatile accesses, and atomics of another size, are a race by the
/// letter of the language where a peer writes the same bytes; they are sound only as far as one relies on what the
/// processors do, which is to let a stale or mixed word be seen.
pub unsafe trait Memory: Send + Sync + 'static {
    /// Its first byte; aligned to 8.
    fn base(&self) -> NonNull<u8>;

    /// Its length in bytes.
    fn len(&self) -> u64;

    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How bytes that a peer wrote here become durable. Declared to peers when they are given the memory region;
    /// nobody guesses.
    fn method(&self) -> PersistMethod {
        PersistMethod::Acknowledged
    }

    /// Makes the given ranges (offset, length) durable, with one barrier. Runs at the target, by
    /// [`PersistMethod::Acknowledged`], after every write that was posted before it on the same connection is in
    /// place. It may block. Ranges are within bounds.
    ///
    /// # Errors
    ///
    /// Why not, in words for the peer: it gets [`Error::Refused`](crate::Error::Refused).
    fn persist(&self, ranges: &[(u64, u64)]) -> Result<(), String>;
}

/// How [`persist`](crate::Connection::persist) makes remote bytes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PersistMethod {
    /// The target answers after its own barrier ([`Memory::persist`]). Works everywhere.
    Acknowledged = 0,
    /// A read that follows the writes on the same connection pushes them out of the target's card, and what has left
    /// the card is durable. Only where the platform promises that (ADR without DDIO, or eADR).
    ReadAfterWrite = 1,
    /// The RDMA FLUSH operation with placement to persistence.
    Flush = 2,
}

/// What peers may do to a memory region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Access(u8);

impl Access {
    /// `read`.
    pub const READ: Access = Access(1);
    /// `write`, `write_with_immediate`, `persist`.
    pub const WRITE: Access = Access(2);
    /// `compare_swap`, `fetch_add`.
    pub const ATOMIC: Access = Access(4);
    /// All of them.
    pub const ALL: Access = Access(7);

    /// Whether all rights of `other` are among these.
    #[inline]
    pub const fn allows(self, other: Access) -> bool {
        self.0 & other.0 == other.0
    }

    /// As the byte that travels.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// From the byte that travelled; unknown bits are no rights.
    pub const fn from_bits(bits: u8) -> Access {
        Access(bits & Access::ALL.0)
    }
}

impl BitOr for Access {
    type Output = Access;

    fn bitor(self, other: Access) -> Access {
        Access(self.0 | other.0)
    }
}

/// A registration: while it lives, whoever knows [`remote`](Self::remote) may do what its [`Access`] says. Dropping
/// it revokes that: later operations with its key fail. The same memory may be registered several times, with
/// different rights for different peers; each has a key of its own, which cannot be guessed over TCP. (A card's can: see
/// the text of the verbs backend.)
pub struct MemoryRegion {
    remote: RemoteMemory,
    memory: Arc<dyn Memory>,
    /// What the backend has to undo.
    _revoke: Box<dyn Send + Sync>,
}

impl MemoryRegion {
    /// For backends: `revoke` is dropped with the registration, and undoes it.
    pub fn new(
        remote: RemoteMemory,
        memory: Arc<dyn Memory>,
        revoke: impl Send + Sync + 'static,
    ) -> Self {
        MemoryRegion {
            remote,
            memory,
            _revoke: Box::new(revoke),
        }
    }

    /// What a peer has to know. Give it away only over an authenticated connection.
    pub fn remote(&self) -> RemoteMemory {
        self.remote
    }

    /// The memory itself.
    pub fn memory(&self) -> &Arc<dyn Memory> {
        &self.memory
    }
}

impl fmt::Debug for MemoryRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRegion")
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// A memory region as a peer sees it. Its key is a secret; `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RemoteMemory {
    /// Proves the right to touch it.
    pub key: u64,
    /// Where it starts in the target's address space, for backends that need it; else 0. Operations give offsets.
    pub base: u64,
    /// Its length in bytes.
    pub len: u64,
    /// What may be done.
    pub access: Access,
    /// How bytes there become durable.
    pub method: PersistMethod,
}

impl fmt::Debug for RemoteMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteMemory")
            .field("len", &self.len)
            .field("access", &self.access)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

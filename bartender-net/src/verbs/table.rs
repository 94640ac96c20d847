//! What a node has registered, by the card's keys: where barriers that peers wish for are granted.

use super::device::{Device, Registered};
use super::ffi;
use crate::error::Result;
use crate::memory::{Access, Memory, MemoryRegion, RemoteMemory};
use bartender_pm::sync::{Arc, Mutex};
use std::collections::HashMap;

/// Memory, and ranges in it that are to become durable.
pub(super) type Barrier = (Arc<dyn Memory>, Vec<(u64, u64)>);

/// Memory, and what peers may do to it.
type Known = (Arc<dyn Memory>, Access);

/// From key to memory.
#[derive(Default)]
pub(super) struct Table(Mutex<HashMap<u64, Known>>);

impl Table {
    /// Registers memory with the card, under a key of its own.
    pub(super) fn register(
        self: &Arc<Self>,
        device: &Arc<Device>,
        memory: Arc<dyn Memory>,
        access: Access,
    ) -> Result<MemoryRegion> {
        let mut flags = 0;
        for (right, flag) in [
            (Access::READ, ffi::ACCESS_REMOTE_READ),
            (
                Access::WRITE,
                ffi::ACCESS_REMOTE_WRITE | ffi::ACCESS_LOCAL_WRITE,
            ),
            (
                Access::ATOMIC,
                ffi::ACCESS_REMOTE_ATOMIC | ffi::ACCESS_LOCAL_WRITE,
            ),
        ] {
            if access.allows(right) {
                flags |= flag;
            }
        }
        let (base, len) = (memory.base().as_ptr(), memory.len());
        // SAFETY: `Memory` keeps its bytes mapped while it lives, nobody borrows them, and the revocation, which
        // holds both, ends the registration first.
        let registered = unsafe { Registered::new(device, base, len as usize, flags)? };
        let key = u64::from(registered.remote_key());
        self.0.lock().insert(key, (memory.clone(), access));
        let remote = RemoteMemory {
            key,
            base: base as u64,
            len,
            access,
            method: memory.method(),
        };
        let revoke = Revoke {
            _registered: registered,
            _memory: memory.clone(),
            table: self.clone(),
            key,
        };
        Ok(MemoryRegion::new(remote, memory, revoke))
    }

    /// The memory of a barrier that a peer wishes for, if it may.
    pub(super) fn grant(&self, key: u64, ranges: Vec<(u64, u64)>) -> Result<Barrier, String> {
        let known = self.0.lock().get(&key).cloned();
        let Some((memory, access)) = known else {
            return Err("no memory region has that key (any more)".into());
        };
        let within = |&(offset, len): &(u64, u64)| {
            offset
                .checked_add(len)
                .is_some_and(|end| end <= memory.len())
        };
        if !access.allows(Access::WRITE) || !ranges.iter().all(within) {
            return Err("outside of the memory region or not allowed there".into());
        }
        Ok((memory, ranges))
    }
}

/// Takes a key back when it is dropped: first from the table, then from the card, before the memory may go.
struct Revoke {
    _registered: Registered,
    _memory: Arc<dyn Memory>,
    table: Arc<Table>,
    key: u64,
}

impl Drop for Revoke {
    fn drop(&mut self) {
        self.table.0.lock().remove(&self.key);
    }
}

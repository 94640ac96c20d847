//! Registered buffers of one connection: some for what is sent and read, the others for what comes.

use super::device::{Device, Pair, Registered};
use super::ffi;
use crate::error::Result;
use bartender_pm::sync::Arc;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Bytes of a buffer.
pub(super) const SLOT: usize = 8192;
/// Buffers for what is sent and read.
pub(super) const SENDS: usize = 64;
/// Buffers for what comes.
pub(super) const RECVS: usize = 64;

/// The buffers. A slot belongs to whoever took it, or to the card from posting to completion.
pub(super) struct Slab {
    /// Before the memory: it goes first.
    region: Registered,
    memory: Block,
    free: Vec<u16>,
}

/// Memory that goes when this does.
struct Block(NonNull<u8>);

// SAFETY: it owns its memory.
unsafe impl Send for Block {}

fn layout() -> Layout {
    Layout::from_size_align((SENDS + RECVS) * SLOT, 4096).expect("a size and an alignment that fit")
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.0.as_ptr(), layout()) };
    }
}

impl Slab {
    pub(super) fn new(device: &Arc<Device>) -> Result<Slab> {
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout()) };
        let Some(memory) = NonNull::new(memory) else {
            handle_alloc_error(layout());
        };
        let memory = Block(memory);
        // SAFETY: `Slab` drops the registration before the memory; nobody borrows what the card has.
        let region = unsafe {
            let base = memory.0.as_ptr();
            Registered::new(device, base, layout().size(), ffi::ACCESS_LOCAL_WRITE)?
        };
        Ok(Slab {
            region,
            memory,
            free: (0..SENDS as u16).rev().collect(),
        })
    }

    /// A buffer to send from or read into, if one is free.
    pub(super) fn take(&mut self) -> Option<u16> {
        self.free.pop()
    }

    /// Whether one is free besides those that answers need.
    pub(super) fn has_room(&self) -> bool {
        self.free.len() > SENDS / 8
    }

    /// Its completion was polled.
    pub(super) fn give(&mut self, slot: u16) {
        self.free.push(slot);
    }

    fn at(&self, slot: usize) -> *mut u8 {
        assert!(slot < SENDS + RECVS);
        // SAFETY: within the memory.
        unsafe { self.memory.0.as_ptr().add(slot * SLOT) }
    }

    /// Names a part of a buffer to the card.
    pub(super) fn piece(&self, slot: usize, len: usize) -> ffi::Sge {
        ffi::Sge {
            addr: self.at(slot) as u64,
            length: len as u32,
            lkey: self.region.local_key(),
        }
    }

    /// Fills the start of a buffer that was taken and not posted yet.
    pub(super) fn fill(&mut self, slot: u16, parts: &[&[u8]]) -> usize {
        let mut at = 0;
        for part in parts {
            assert!(at + part.len() <= SLOT);
            // SAFETY: within the slot, which is the caller's; the memory is not borrowed by anybody.
            unsafe {
                let to = self.at(slot.into()).add(at);
                to.copy_from_nonoverlapping(part.as_ptr(), part.len());
            }
            at += part.len();
        }
        at
    }

    /// What the card left in a buffer whose completion was polled.
    pub(super) fn bytes(&self, slot: usize, len: usize) -> &[u8] {
        assert!(len <= SLOT);
        // SAFETY: initialised, within the slot, and not the card's until it is posted again, for which the caller
        // needs `self` or the pair after this borrow.
        unsafe { std::slice::from_raw_parts(self.at(slot), len) }
    }

    /// Gives a buffer to the card, for what comes.
    pub(super) fn post(&self, pair: &Pair, recv: usize) -> bool {
        let piece = self.piece(SENDS + recv, SLOT);
        // SAFETY: the slab outlives the pair (`Inner` drops the pair first, and so does who makes both), and a slot for what comes is read only
        // between its completion and this call.
        unsafe { pair.receive(RECV_IDS + recv as u64, piece) }
    }
}

/// Numbers of work requests for what comes start here.
pub(super) const RECV_IDS: u64 = 1 << 63;

//! References to descriptors, and the mailboxes through which superblocks reach
//! their owners. How they are used, [`Superblock`] says.

use super::Superblock;
use bartender_pm::sync::atomic::{AtomicPtr, Ordering::*};
use std::ops::Deref;
use std::ptr::NonNull;

/// A descriptor that lives as long as its arena, out of which it never leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Ref(NonNull<Superblock>);

// SAFETY: a shared reference to a `Sync` type, in effect.
unsafe impl Send for Ref {}
// SAFETY: as above.
unsafe impl Sync for Ref {}

impl Ref {
    /// # Safety
    /// The descriptor is freed with the arena, and the result is used only while the arena lives.
    pub(crate) unsafe fn new(descriptor: NonNull<Superblock>) -> Self {
        Ref(descriptor)
    }
}

impl Deref for Ref {
    type Target = Superblock;

    #[inline(always)]
    fn deref(&self) -> &Superblock {
        // SAFETY: `new`'s caller has promised that it lives.
        unsafe { self.0.as_ref() }
    }
}

/// Superblocks with blocks that other threads gave back: a stack to which
/// anyone pushes and from which the owner takes all at once, so that no element
/// is ever popped while somebody compares against it (no ABA).
#[repr(align(64))]
pub(crate) struct Mailbox {
    head: AtomicPtr<Superblock>,
}

impl Mailbox {
    /// An empty mailbox.
    pub(crate) fn new() -> Self {
        Mailbox {
            head: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    pub(super) fn push(&self, superblock: &Superblock) {
        let new = std::ptr::from_ref(superblock).cast_mut();
        let mut head = self.head.load(Relaxed);
        loop {
            superblock.shared.next.store(head, Relaxed);
            match self.head.compare_exchange_weak(head, new, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Whether there is mail, as far as can be seen without looking inside.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.head.load(Relaxed).is_null()
    }

    /// Takes everything out. What it yields is the caller's to collect, discard or post again.
    pub(crate) fn take(&self) -> Mail {
        if self.is_empty() {
            return Mail(std::ptr::null_mut());
        }
        Mail(self.head.swap(std::ptr::null_mut(), Acquire))
    }
}

/// Superblocks out of a mailbox.
pub(crate) struct Mail(*mut Superblock);

impl Iterator for Mail {
    type Item = Ref;

    fn next(&mut self) -> Option<Ref> {
        // SAFETY: what is in a mailbox is a descriptor of the arena.
        let superblock = unsafe { Ref::new(NonNull::new(self.0)?) };
        // Before `summary` is lowered, after which somebody else may write it.
        self.0 = superblock.shared.next.load(Relaxed);
        Some(superblock)
    }
}

//! A doubly linked list through the superblocks themselves, for whoever owns
//! them.
//!
//! It promises removal from the middle in constant time and to keep `place`
//! right. It does no locking: an owner has a superblock to itself.

use crate::superblock::{Owned, Place, Ref};

/// Superblocks of one owner, class and place.
pub(crate) struct List {
    place: Place,
    head: Option<Ref>,
}

impl List {
    /// An empty list of what is at `place`.
    pub(crate) const fn new(place: Place) -> Self {
        List { place, head: None }
    }

    /// From the front. For the owner of what is in the list.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Ref> {
        // SAFETY: the caller owns what is in the list, and changes nothing meanwhile.
        std::iter::successors(self.head, |at| unsafe {
            Owned::change(at, |owned| owned.next)
        })
    }

    /// Puts one in front.
    ///
    /// # Safety
    /// The caller owns it, and it is in no list.
    pub(crate) unsafe fn push(&mut self, superblock: Ref) {
        let next = self.head.replace(superblock);
        // SAFETY: ours, as the caller says.
        unsafe {
            Owned::change(&superblock, |owned| {
                debug_assert!(owned.prev.is_none() && owned.next.is_none());
                owned.place = self.place;
                owned.next = next;
            });
        }
        if let Some(next) = next {
            // SAFETY: what is in the list is its owner's.
            unsafe { Owned::change(&next, |owned| owned.prev = Some(superblock)) };
        }
    }

    /// Takes one out.
    ///
    /// # Safety
    /// The caller owns it, and it is in this list.
    pub(crate) unsafe fn remove(&mut self, superblock: Ref) {
        // SAFETY: ours, as the caller says.
        let (prev, next) = unsafe {
            Owned::change(&superblock, |owned| {
                debug_assert!(owned.place == self.place);
                owned.place = Place::Nowhere;
                (owned.prev.take(), owned.next.take())
            })
        };
        match prev {
            // SAFETY: what is in the list is its owner's.
            Some(prev) => unsafe { Owned::change(&prev, |owned| owned.next = next) },
            None => self.head = next,
        }
        if let Some(next) = next {
            // SAFETY: as above.
            unsafe { Owned::change(&next, |owned| owned.prev = prev) };
        }
    }

    /// Takes the first one out.
    ///
    /// # Safety
    /// The caller owns what is in the list.
    pub(crate) unsafe fn pop(&mut self) -> Option<Ref> {
        let first = self.head?;
        // SAFETY: as the caller says.
        unsafe { self.remove(first) };
        Some(first)
    }
}

//! Superblocks of the global heap without a used block, by class and age.
//!
//! It promises that neither the last one of a class nor the oldest one of all is
//! searched for among all of them: there may be thousands, and who asks holds
//! the global lock. It does not say how many are kept.

use crate::class::CLASSES;
use crate::superblock::Ref;
use std::collections::VecDeque;

/// Empty superblocks.
pub(super) struct Empty {
    /// Of each class the oldest one first, with when it came. (Elsewhere: too long
    /// for the stacks of models.)
    of_class: Box<[VecDeque<(u64, Ref)>]>,
    /// A bit for each class of which there are any.
    there: u128,
    len: usize,
    /// How many have come so far.
    came: u64,
}

impl Empty {
    pub(super) fn new() -> Self {
        Empty {
            of_class: (0..CLASSES).map(|_| VecDeque::new()).collect(),
            there: 0,
            len: 0,
            came: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds one.
    pub(super) fn push(&mut self, superblock: Ref) {
        let class = superblock.class();
        self.of_class[class].push_back((self.came, superblock));
        self.there |= 1 << class;
        self.len += 1;
        self.came += 1;
    }

    /// Takes out the one of `class` that came last.
    pub(super) fn last(&mut self, class: usize) -> Option<Ref> {
        let last = self.of_class[class].pop_back();
        self.taken(class, last)
    }

    /// Takes out the one that came first.
    pub(super) fn oldest(&mut self) -> Option<Ref> {
        let mut there = self.there;
        let classes = std::iter::from_fn(|| {
            let class = (there != 0).then(|| there.trailing_zeros() as usize);
            there &= there.wrapping_sub(1);
            class
        });
        let came = |class: &usize| self.of_class[*class].front().map(|(came, _)| *came);
        let class = classes.min_by_key(came)?;
        let first = self.of_class[class].pop_front();
        self.taken(class, first)
    }

    fn taken(&mut self, class: usize, taken: Option<(u64, Ref)>) -> Option<Ref> {
        let (_, superblock) = taken?;
        self.len -= 1;
        if self.of_class[class].is_empty() {
            self.there &= !(1 << class);
        }
        Some(superblock)
    }
}

//! Which blocks a transaction has recorded as a whole, and how often it came back to the others.
//!
//! [`Blocks`] is a hash table of addresses with open addressing. Nothing is ever taken out: what was put in before the
//! last [`Blocks::forget`] counts as an empty slot.

/// The low bits of a slot, which an address, moved up, leaves free: how often, and when.
const ROUND_BITS: u32 = 17;
const COUNT_BITS: u32 = 2;
const ROUND: u64 = (1 << ROUND_BITS) - 1;
const COUNT: u64 = ((1 << COUNT_BITS) - 1) << ROUND_BITS;
const ONCE: u64 = 1 << ROUND_BITS;
/// The count of a block that is recorded as a whole: it is when it is come to for the third time.
const COVERED: u64 = COUNT;
/// Slots of a table that is kept from one transaction to the next, at most.
const KEEP: usize = 1 << 14;

/// What is known of a block that is about to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touched {
    /// All of it is recorded.
    Covered,
    /// A part is to be recorded.
    Seldom,
    /// All of it is to be recorded now: it counts as covered from here on.
    Often,
}

/// See the module. A slot is the address of a block (8-byte aligned, of 48 bits) with a count and a round.
#[derive(Debug)]
pub(super) struct Blocks {
    slots: Vec<u64>,
    /// Slots of this round.
    used: usize,
    /// From 1 to [`ROUND`].
    round: u64,
}

impl Blocks {
    pub(super) const fn new() -> Self {
        Blocks {
            slots: Vec::new(),
            used: 0,
            round: 1,
        }
    }

    /// Nothing is known any more.
    #[inline]
    pub(super) fn forget(&mut self) {
        if self.used == 0 {
            return;
        }
        self.used = 0;
        self.round += 1;
        if self.round > ROUND || self.slots.len() > KEEP {
            self.slots.truncate(KEEP);
            self.slots.shrink_to_fit();
            self.slots.fill(0);
            self.round = 1;
        }
    }

    /// A block is recorded as a whole.
    pub(super) fn cover(&mut self, addr: usize) {
        let slot = self.slot(addr);
        *slot |= COVERED;
    }

    /// A block is about to be changed.
    #[inline]
    pub(super) fn touch(&mut self, addr: usize) -> Touched {
        let slot = self.slot(addr);
        if *slot & COUNT == COVERED {
            return Touched::Covered;
        }
        *slot += ONCE;
        match *slot & COUNT {
            COVERED => Touched::Often,
            _ => Touched::Seldom,
        }
    }

    /// Asks for the memory of a block's slot: with many blocks it is seldom in the caches.
    #[inline]
    pub(super) fn expect(&self, addr: usize) {
        bartender_heap::prefetch(self.slots.as_ptr().wrapping_add(self.first(addr)));
    }

    /// Where the search for a block begins, if there are slots.
    #[inline]
    fn first(&self, addr: usize) -> usize {
        let hash = (addr as u64 >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        hash as usize & self.slots.len().wrapping_sub(1)
    }

    /// The slot of a block, which is new with a count of 0 if there was none.
    #[inline]
    fn slot(&mut self, addr: usize) -> &mut u64 {
        if self.used * 2 >= self.slots.len() {
            self.grow();
        }
        let block = (addr as u64) << (ROUND_BITS + COUNT_BITS - 3);
        let mask = self.slots.len() - 1;
        let mut at = self.first(addr);
        loop {
            let slot = self.slots[at];
            if slot & ROUND != self.round {
                self.slots[at] = block | self.round;
                self.used += 1;
                return &mut self.slots[at];
            }
            if slot & !(ROUND | COUNT) == block {
                return &mut self.slots[at];
            }
            at = (at + 1) & mask;
        }
    }

    #[cold]
    fn grow(&mut self) {
        let len = (self.slots.len() * 2).max(64);
        let old = std::mem::replace(&mut self.slots, vec![0; len]);
        self.used = 0;
        let round = self.round;
        for slot in old.into_iter().filter(|slot| slot & ROUND == round) {
            let addr = (slot & !(ROUND | COUNT)) >> (ROUND_BITS + COUNT_BITS - 3);
            *self.slot(addr as usize) |= slot & COUNT;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_covered_when_it_is_new_or_the_third_time() {
        let mut blocks = Blocks::new();
        let address = |i: usize| 0x7fff_0000_0000 + i * 8;
        (0..1000).step_by(2).for_each(|i| blocks.cover(address(i)));
        for i in (1..1000).step_by(2) {
            assert_eq!(blocks.touch(address(i)), Touched::Seldom);
        }
        for i in 0..1000 {
            let known = [Touched::Covered, Touched::Seldom][i % 2];
            assert_eq!(blocks.touch(address(i)), known);
        }
        for i in 0..1000 {
            let known = [Touched::Covered, Touched::Often][i % 2];
            assert_eq!(blocks.touch(address(i)), known);
            assert_eq!(blocks.touch(address(i)), Touched::Covered);
        }
        blocks.forget();
        assert_eq!(blocks.touch(address(0)), Touched::Seldom);
    }

    #[test]
    fn rounds_come_again_without_being_taken_for_earlier_ones() {
        let mut blocks = Blocks::new();
        for round in 0..ROUND as usize * 2 + 5 {
            assert_eq!(blocks.touch(8 * (round % 3)), Touched::Seldom);
            blocks.forget();
        }
    }
}

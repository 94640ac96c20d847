//! Pseudo-random numbers from a seed (splitmix64, Steele, Lea and Flood 2014): the same everywhere and for ever, so
//! that a printed seed replays a run. Nothing for secrets.

use std::ops::RangeInclusive;

/// A stream of numbers.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of `range`; its start, where it is empty.
    pub fn within(&mut self, range: &RangeInclusive<u64>) -> u64 {
        let (low, high) = (*range.start(), *range.end());
        match high.checked_sub(low) {
            None => low,
            Some(u64::MAX) => self.draw(),
            Some(span) => low + self.draw() % (span + 1),
        }
    }

    /// True in `parts` of a million.
    pub fn chance(&mut self, parts: u32) -> bool {
        self.draw() % 1_000_000 < u64::from(parts)
    }
}

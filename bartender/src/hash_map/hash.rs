//! The hash function of maps: SipHash-1-3 with a key from the map's seed, the same in every build.
//!
//! A seed is random, so that nobody who chooses keys can make them collide.

use siphasher::sip::SipHasher13;
use std::cell::Cell;
use std::hash::{BuildHasher, Hash, Hasher};

/// The second half of the key; the seed is the first.
const KEY: u64 = 0x6261_7274_656e_6465;

/// The hash function of one map, given by its seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StableState {
    seed: u64,
}

impl StableState {
    /// The hash function of maps with this seed.
    #[inline]
    pub fn new(seed: u64) -> Self {
        StableState { seed }
    }
}

impl BuildHasher for StableState {
    type Hasher = SipHasher13;

    #[inline]
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.seed, KEY)
    }

    /// Inlined where a key is looked up: with a fixed seed's constants folded, and so short for a number that the processor
    /// works on several look-ups at a time.
    #[inline(always)]
    #[expect(clippy::manual_hash_one, reason = "this is the method itself")]
    fn hash_one<T: Hash>(&self, x: T) -> u64 {
        let mut hasher = self.build_hasher();
        x.hash(&mut hasher);
        hasher.finish()
    }
}

/// A seed for a new map: random for the first one of each thread, and different for each.
pub(crate) fn new_seed() -> u64 {
    thread_local! {
        static NEXT: Cell<Option<u64>> = const { Cell::new(None) };
    }
    NEXT.with(|next| {
        let seed = next.get().unwrap_or_else(|| {
            // Without the system's random numbers maps still work, only guessably.
            getrandom::u64().unwrap_or(0x9e37_79b9_7f4a_7c15)
        });
        next.set(Some(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)));
        seed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stored maps hold these: a change here makes them unreadable.
    #[test]
    fn hashes_never_change() {
        let state = StableState::new(7);
        let hashes = [
            state.hash_one(42u64),
            state.hash_one("word"),
            state.hash_one((1u8, -1i32)),
            state.hash_one([1u16, 2]),
        ];
        assert_eq!(hashes, GOLDEN);
    }

    const GOLDEN: [u64; 4] = [
        13328328744311581815,
        3808356377860681074,
        11798255485406158398,
        5762734047795332024,
    ];

    #[test]
    fn seeds_differ() {
        assert_ne!(new_seed(), new_seed());
    }
}

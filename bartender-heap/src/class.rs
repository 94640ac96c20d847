//! Size classes: which sizes blocks come in, and how many of them a superblock
//! holds.
//!
//! Multiples of 8 up to 128, then eight steps a doubling up to 64 KiB: a block
//! is at most 12.5 % longer than what was asked for (below 64 bytes the 8-byte
//! grid rules). Larger requests are runs of whole units. Class numbers are on
//! the medium: they never change their meaning within a format.

use crate::layout::{CHUNK, UNIT};

/// Number of size classes.
pub(crate) const CLASSES: usize = 16 + 9 * 8;
/// Largest block that a class has; above are large runs.
pub(crate) const MAX_CLASS_SIZE: usize = 64 << 10;
/// Largest alignment that classes answer: their superblocks start on a chunk.
pub(crate) const MAX_CLASS_ALIGN: usize = SMALL_UNITS as usize * UNIT as usize;
/// Units of a superblock of blocks up to [`MAX_SMALL`].
pub(crate) const SMALL_UNITS: u32 = 8;
/// Fewest blocks of a superblock.
const FEWEST: u64 = 4;
/// Of a superblock of blocks above [`MAX_SMALL`], at most this part lies behind
/// the last block.
const WASTE: u64 = 16;
/// Largest block in a superblock of [`SMALL_UNITS`].
pub(crate) const MAX_SMALL: usize = 8 << 10;
/// Words of the largest bitmap: 8-byte blocks in a small superblock.
pub(crate) const MAX_WORDS: usize = SMALL_UNITS as usize * UNIT as usize / 8 / 64;
/// What all superblocks of one class have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Class {
    /// Bytes of a block.
    pub(crate) size: u32,
    /// Units of a superblock.
    pub(crate) units: u32,
    /// Blocks of a superblock.
    pub(crate) blocks: u32,
    /// `ceil(2^64 / size)`, for [`divide`].
    pub(crate) reciprocal: u64,
    /// `ceil(2^32 / size)`, for [`divide_near`].
    pub(crate) near: u32,
}

impl Class {
    /// Words of 64 bits that a bitmap of this class has: a bit for each block, and
    /// for what would be the next one if it begins in the first chunk.
    pub(crate) const fn words(&self) -> usize {
        let in_chunk = CHUNK.div_ceil(self.size as u64) as u32;
        let indices = if in_chunk > self.blocks {
            in_chunk
        } else {
            self.blocks
        };
        indices.div_ceil(64) as usize
    }
}

/// The classes.
pub(crate) static TABLE: [Class; CLASSES] = {
    let none = Class {
        size: 0,
        units: 0,
        blocks: 0,
        reciprocal: 0,
        near: 0,
    };
    let mut table = [none; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        let size = size_of_class(class);
        let units = units_of_class(size as u64);
        table[class] = Class {
            size: size as u32,
            units,
            blocks: (units as u64 * UNIT / size as u64) as u32,
            reciprocal: (1u128 << 64).div_ceil(size as u128) as u64,
            near: (1u64 << 32).div_ceil(size as u64) as u32,
        };
        class += 1;
    }
    table
};

/// Units of a superblock of blocks of `size` bytes: the fewest times
/// [`SMALL_UNITS`] that hold a few blocks and waste little. Many threads have
/// superblocks of many classes with little in them, and the longer the blocks,
/// the less it matters how often a thread needs another superblock.
const fn units_of_class(size: u64) -> u32 {
    let mut units = SMALL_UNITS;
    if size <= MAX_SMALL as u64 {
        return units;
    }
    loop {
        let bytes = units as u64 * UNIT;
        if bytes / size >= FEWEST && bytes % size * WASTE <= bytes {
            return units;
        }
        units += SMALL_UNITS;
    }
}

const fn size_of_class(class: usize) -> usize {
    if class < 16 {
        (class + 1) * 8
    } else {
        let doubling = (class - 16) / 8;
        let step = (class - 16) % 8 + 1;
        (128 << doubling) + step * (16 << doubling)
    }
}

/// `offset` by a class's size through its reciprocal, if that leaves no rest.
///
/// With `r = ceil(2^64 / size)`, `offset · r` is the quotient in units of 2^64
/// and, below them, less than `r` exactly when there is no rest: each rest adds
/// `r`, and the error of the reciprocal less than `offset`, which is below 2^48
/// as `r` is not (sizes end at 2^16). For larger offsets the answer is any.
#[inline(always)]
pub(crate) fn divide(offset: u64, reciprocal: u64) -> Option<u64> {
    let product = u128::from(offset) * u128::from(reciprocal);
    ((product as u64) < reciprocal).then_some((product >> 64) as u64)
}

/// The same of an offset within a chunk, which is below 2^16 as `r` is not. Costs
/// one short multiplication; what divides by nothing has a reciprocal of 0.
#[inline(always)]
pub(crate) fn divide_near(offset: u16, near: u32) -> Option<u32> {
    let product = u64::from(offset) * u64::from(near);
    ((product as u32) < near).then_some((product >> 32) as u32)
}

/// Sizes up to this one are looked up, longer ones computed.
const LOOKED_UP: usize = 1024;

/// Class of `(size + 7) / 8`.
static LOOKUP: [u8; LOOKED_UP / 8 + 1] = {
    let mut lookup = [0; LOOKED_UP / 8 + 1];
    let mut words = 1;
    while words < lookup.len() {
        lookup[words] = compute(words * 8) as u8;
        words += 1;
    }
    lookup
};

/// The smallest class of at least `size` bytes; 0 < `size` ≤ 64 KiB.
const fn compute(size: usize) -> usize {
    if size <= 128 {
        size.div_ceil(8) - 1
    } else {
        let doubling = (usize::BITS - 1 - (size - 1).leading_zeros()) as usize - 7;
        let above = size - (128 << doubling);
        16 + doubling * 8 + above.div_ceil(16 << doubling) - 1
    }
}

/// The class for blocks of `size` bytes (not 0) aligned to `align` (a power of
/// two), or `None` for a large run.
#[inline(always)]
pub(crate) fn of(size: usize, align: usize) -> Option<usize> {
    // Rounded up to its alignment a size falls into a class whose size is a
    // multiple of it: either the class is exact, or its step is a multiple.
    let size = if align <= 8 {
        size
    } else {
        size.checked_add(align - 1)? & !(align - 1)
    };
    if size <= LOOKED_UP {
        Some(LOOKUP[size.div_ceil(8)] as usize)
    } else if size <= MAX_CLASS_SIZE && align <= MAX_CLASS_ALIGN {
        Some(compute(size))
    } else {
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "safe code, many steps")]
    fn every_size_gets_the_smallest_class_that_holds_it() {
        for size in 1..=MAX_CLASS_SIZE {
            let class = of(size, 1).expect("a class up to 64 KiB");
            assert!(TABLE[class].size as usize >= size);
            assert!(
                class == 0 || (TABLE[class - 1].size as usize) < size,
                "{size}"
            );
        }
        assert_eq!(of(MAX_CLASS_SIZE + 1, 1), None);
        assert_eq!(of(MAX_CLASS_SIZE, 1), Some(CLASSES - 1));
    }

    #[test]
    #[cfg_attr(miri, ignore = "safe code, many steps")]
    fn internal_waste_is_at_most_an_eighth_or_the_grid() {
        for size in 1..=MAX_CLASS_SIZE {
            let block = TABLE[of(size, 1).expect("a class")].size as usize;
            let waste = block - size;
            assert!(waste < 8 || waste * 8 <= block, "{size} → {block}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "safe code, many steps")]
    fn every_alignment_divides_the_class_it_gets() {
        for shift in 0..=MAX_CLASS_ALIGN.trailing_zeros() {
            let align = 1usize << shift;
            for size in 1..=MAX_CLASS_SIZE {
                if let Some(class) = of(size, align) {
                    assert_eq!(TABLE[class].size as usize % align.min(8), 0);
                    assert!(
                        (TABLE[class].size as usize).is_multiple_of(align),
                        "{size} at {align}"
                    );
                    assert!(TABLE[class].size as usize >= size);
                }
            }
        }
        assert_eq!(of(8, 2 * MAX_CLASS_ALIGN), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "safe code, many steps")]
    fn reciprocals_divide_exactly() {
        for class in &TABLE {
            let size = u64::from(class.size);
            for offset in 0..u64::from(class.units) * UNIT {
                let quotient = (offset % size == 0).then_some(offset / size);
                assert_eq!(divide(offset, class.reciprocal), quotient);
                if let Ok(offset) = u16::try_from(offset) {
                    let near = divide_near(offset, class.near).map(u64::from);
                    assert_eq!(near, quotient);
                }
            }
        }
    }

    #[test]
    fn superblocks_waste_little_at_their_end() {
        for class in &TABLE {
            let bytes = u64::from(class.units) * UNIT;
            let used = u64::from(class.blocks) * u64::from(class.size);
            assert!(
                (bytes - used) * 10 <= bytes,
                "class of {} bytes",
                class.size
            );
            assert!(u64::from(class.blocks) >= FEWEST && class.words() <= MAX_WORDS);
            assert!(bytes <= 512 << 10);
        }
    }
}

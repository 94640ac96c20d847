//! Sixteen control bytes of a hash table looked at together: with SSE2 on x86-64, one
//! after the other elsewhere.
//!
//! Both forms are always compiled where they can be, and paired by a property test.
//! They say nothing about the bytes' meaning, which is `table`'s.

/// A bit for each of the 16 bytes, the first at bit 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bits(pub(crate) u16);

impl Bits {
    /// Whether no bit is set.
    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The first set bit.
    #[inline]
    pub(crate) fn first(self) -> Option<usize> {
        (self.0 != 0).then(|| self.0.trailing_zeros() as usize)
    }
}

impl Iterator for Bits {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        let first = self.first()?;
        self.0 &= self.0 - 1;
        Some(first)
    }
}

/// Sixteen control bytes in a register.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Group(std::arch::x86_64::__m128i);

#[cfg(target_arch = "x86_64")]
impl Group {
    /// Loads them.
    ///
    /// # Safety
    ///
    /// Sixteen bytes can be read at `at`.
    #[inline]
    pub(crate) unsafe fn load(at: *const u8) -> Self {
        // SAFETY: the caller says so, and the load needs no alignment; SSE2 is part of x86-64.
        Group(unsafe { std::arch::x86_64::_mm_loadu_si128(at.cast()) })
    }

    /// Where `byte` stands.
    #[inline]
    pub(crate) fn matches(self, byte: u8) -> Bits {
        use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set1_epi8};
        // SAFETY: SSE2 is part of x86-64.
        let mask =
            unsafe { _mm_movemask_epi8(_mm_cmpeq_epi8(self.0, _mm_set1_epi8(byte.cast_signed()))) };
        Bits(mask as u16)
    }

    /// Where the highest bit is set: empty or deleted.
    #[inline]
    pub(crate) fn high(self) -> Bits {
        // SAFETY: SSE2 is part of x86-64.
        Bits(unsafe { std::arch::x86_64::_mm_movemask_epi8(self.0) } as u16)
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use Portable as Group;

/// [`Group`] without special instructions, and its twin in the test.
#[cfg(any(test, not(target_arch = "x86_64")))]
#[derive(Clone, Copy)]
pub(crate) struct Portable([u8; 16]);

#[cfg(any(test, not(target_arch = "x86_64")))]
impl Portable {
    /// Loads them.
    ///
    /// # Safety
    ///
    /// Sixteen bytes can be read at `at`.
    #[inline]
    pub(crate) unsafe fn load(at: *const u8) -> Self {
        // SAFETY: the caller says so; an array of bytes needs no alignment.
        Portable(unsafe { at.cast::<[u8; 16]>().read() })
    }

    /// Where `byte` stands.
    #[inline]
    pub(crate) fn matches(self, byte: u8) -> Bits {
        self.bits(|b| b == byte)
    }

    /// Where the highest bit is set: empty or deleted.
    #[inline]
    pub(crate) fn high(self) -> Bits {
        self.bits(|b| b & 0x80 != 0)
    }

    #[inline]
    fn bits(self, test: impl Fn(u8) -> bool) -> Bits {
        let bit = |(i, &b): (usize, &u8)| u16::from(test(b)) << i;
        Bits(
            self.0
                .iter()
                .enumerate()
                .map(bit)
                .fold(0, |all, bit| all | bit),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn both_forms_of_a_group_agree(mut bytes: [u8; 16], byte: u8, copies: u16) {
            for (i, b) in bytes.iter_mut().enumerate() {
                if copies >> i & 1 == 1 {
                    *b = byte;
                }
            }
            // SAFETY: both read the array.
            let (a, b) = unsafe { (Group::load(bytes.as_ptr()), Portable::load(bytes.as_ptr())) };
            prop_assert_eq!(a.matches(byte), b.matches(byte));
            prop_assert_eq!(a.high(), b.high());
            let naive: Vec<usize> = (0..16).filter(|&i| bytes[i] == byte).collect();
            prop_assert_eq!(a.matches(byte).collect::<Vec<_>>(), naive);
        }
    }
}

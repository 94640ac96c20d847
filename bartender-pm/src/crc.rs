//! CRC-32C. Long runs go to the `crc32c` crate, which interleaves three
//! streams; a commit's few words go straight to the processor's instruction,
//! because setting those streams up costs more than all the rest of a commit.

#![allow(unsafe_code)]

/// Bytes up to which the plain loop wins.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const SHORT: usize = 256;

/// The checksum of what `crc` is the checksum of, followed by `bytes`.
#[inline]
pub(crate) fn append(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if bytes.len() <= SHORT && std::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the instruction was just found on this processor.
        return unsafe { short(crc, bytes) };
    }
    crc32c::crc32c_append(crc, bytes)
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "sse4.2")]
fn short(crc: u32, bytes: &[u8]) -> u32 {
    use core::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u64};
    let (words, rest) = bytes.as_chunks::<8>();
    let mut sum = u64::from(!crc);
    for word in words {
        sum = _mm_crc32_u64(sum, u64::from_le_bytes(*word));
    }
    let mut sum = sum as u32;
    for &byte in rest {
        sum = _mm_crc32_u8(sum, byte);
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::append;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_the_library(a in prop::collection::vec(any::<u8>(), 0..300),
                              b in prop::collection::vec(any::<u8>(), 0..300)) {
            let whole: Vec<u8> = a.iter().chain(&b).copied().collect();
            prop_assert_eq!(append(append(0, &a), &b), crc32c::crc32c(&whole));
        }
    }
}

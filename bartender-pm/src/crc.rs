//! CRC-32C. Long runs go to the `crc32c` crate, which interleaves three
//! streams; a commit's few words go straight to the processor's instruction,
//! because setting those streams up costs more than all the rest of a commit.

#![allow(unsafe_code)]

/// Bytes up to which the plain loop wins.
#[cfg(target_arch = "x86_64")]
const SHORT: usize = 256;

/// The checksum of `body` followed by the bytes of `tail`.
#[inline]
pub(crate) fn of<const N: usize>(body: &[u8], tail: [u64; N]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if body.len() <= SHORT && std::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the instruction was just found on this processor.
        return unsafe { short(body, tail) };
    }
    let sum = crc32c::crc32c(body);
    tail.iter().fold(sum, |sum, word| {
        crc32c::crc32c_append(sum, &word.to_le_bytes())
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn short<const N: usize>(body: &[u8], tail: [u64; N]) -> u32 {
    use core::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u64};
    let (words, rest) = body.as_chunks::<8>();
    let mut sum = u64::from(!0u32);
    for word in words {
        sum = _mm_crc32_u64(sum, u64::from_le_bytes(*word));
    }
    for &byte in rest {
        sum = u64::from(_mm_crc32_u8(sum as u32, byte));
    }
    for word in tail {
        sum = _mm_crc32_u64(sum, word);
    }
    !(sum as u32)
}

#[cfg(test)]
mod tests {
    use super::of;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_the_library(body in prop::collection::vec(any::<u8>(), 0..300), tail: [u64; 3]) {
            let tail_bytes = tail.iter().flat_map(|word| word.to_le_bytes());
            let whole: Vec<u8> = body.iter().copied().chain(tail_bytes).collect();
            prop_assert_eq!(of(&body, tail), crc32c::crc32c(&whole));
        }
    }
}

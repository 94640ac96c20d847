//! The instructions that move bytes from the caches to persistent memory:
//! `clwb` (or `clflushopt`, `clflush`), non-temporal stores, `sfence`.
//!
//! A *flush* starts the write-back of lines, a *fence* waits for the flushes
//! and non-temporal stores before it. Nothing here knows about regions. On
//! processors other than x86-64 there is no flush: [`supported`] says so, and
//! the DAX medium refuses to open.

#![allow(unsafe_code)]

use crate::counts;

/// Bytes of a cache line: what a flush moves.
pub const LINE: usize = 64;

/// Up to so many bytes are copied word by word: they were written so a moment
/// ago, and a wider load would have to wait until those stores have left the
/// processor.
const FEW: usize = 4 * LINE;

/// How this processor writes a line back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// `clwb`: writes the line back and keeps it.
    Clwb,
    /// `clflushopt`: writes it back and evicts it, in any order.
    Clflushopt,
    /// `clflush`: the same, one after the other.
    Clflush,
    /// None.
    Unsupported,
}

/// The first line that holds a byte of `[address, address + len)` and the
/// number of lines that do.
#[inline]
pub fn lines_of(address: usize, len: usize) -> (usize, usize) {
    if len == 0 {
        return (address & !(LINE - 1), 0);
    }
    let first = address & !(LINE - 1);
    let last = (address + len - 1) & !(LINE - 1);
    (first, (last - first) / LINE + 1)
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod imp {
    use super::{Flush, LINE};
    use core::arch::asm;
    use core::arch::x86_64::{__cpuid, __cpuid_count, __m128i};
    use core::arch::x86_64::{_mm_loadu_si128, _mm_sfence, _mm_stream_si64, _mm_stream_si128};
    use std::sync::OnceLock;

    pub(super) fn detect() -> Flush {
        static FOUND: OnceLock<Flush> = OnceLock::new();
        *FOUND.get_or_init(|| {
            if __cpuid(0).eax < 7 {
                return Flush::Clflush;
            }
            let leaf = __cpuid_count(7, 0);
            if leaf.ebx & (1 << 24) != 0 {
                Flush::Clwb
            } else if leaf.ebx & (1 << 23) != 0 {
                Flush::Clflushopt
            } else {
                Flush::Clflush
            }
        })
    }

    /// # Safety
    ///
    /// `count` lines from `first` on are mapped.
    pub(super) unsafe fn flush(kind: Flush, first: usize, count: usize) {
        for line in (0..count).map(|i| first + i * LINE) {
            // SAFETY: the caller says that the lines are mapped; the
            // instructions change no byte and no flag, and `detect` found them
            // on this processor (`clflush` is part of x86-64).
            unsafe {
                match kind {
                    Flush::Clwb => {
                        asm!("clwb [{}]", in(reg) line, options(nostack, preserves_flags))
                    }
                    Flush::Clflushopt => {
                        asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags));
                    }
                    _ => asm!("clflush [{}]", in(reg) line, options(nostack, preserves_flags)),
                }
            }
        }
    }

    pub(super) fn fence() {
        // SAFETY: `sfence` is part of x86-64 and touches no memory of Rust's.
        unsafe { _mm_sfence() };
    }

    /// # Safety
    ///
    /// `dst` is 64-byte aligned and valid for writes of `len` bytes, `src` for
    /// reads; `len` is a multiple of 64; they do not overlap.
    pub(super) unsafe fn store_lines(dst: *mut u8, src: *const u8, len: usize) {
        if len <= super::FEW {
            for line in (0..len).step_by(LINE) {
                for word in 0..LINE / 8 {
                    let at = line + word * 8;
                    // SAFETY: as below; a word is aligned wherever it starts.
                    unsafe {
                        let word = src.add(at).cast::<i64>().read_unaligned();
                        _mm_stream_si64(dst.add(at).cast::<i64>(), word);
                    }
                }
            }
            return;
        }
        for at in (0..len).step_by(16) {
            // SAFETY: within the ranges the caller vouches for; `dst + at` is
            // 16-byte aligned because `dst` is a line's start.
            unsafe {
                let word = _mm_loadu_si128(src.add(at).cast::<__m128i>());
                _mm_stream_si128(dst.add(at).cast::<__m128i>(), word);
            }
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
mod imp {
    use super::Flush;
    use std::sync::atomic::{Ordering, fence as atomic_fence};

    pub(super) fn detect() -> Flush {
        Flush::Unsupported
    }

    /// # Safety
    ///
    /// None needed: nothing is done.
    pub(super) unsafe fn flush(_: Flush, _: usize, _: usize) {}

    pub(super) fn fence() {
        atomic_fence(Ordering::Release);
    }

    /// # Safety
    ///
    /// As `copy_nonoverlapping`.
    pub(super) unsafe fn store_lines(dst: *mut u8, src: *const u8, len: usize) {
        // SAFETY: the caller's promise.
        unsafe { core::ptr::copy_nonoverlapping(src, dst, len) };
    }
}

/// What this processor has.
pub fn detect() -> Flush {
    imp::detect()
}

/// Whether this processor can write lines back.
pub fn supported() -> bool {
    detect() != Flush::Unsupported
}

/// Starts writing back every line that holds a byte of the range. Durable
/// after the next [`fence`] of this thread.
///
/// # Safety
///
/// The range is mapped.
#[inline]
pub unsafe fn flush(address: *const u8, len: usize) {
    let (first, count) = lines_of(address.addr(), len);
    counts::lines(count as u64);
    // SAFETY: a line is never larger than a page, so the lines are mapped
    // where the range is.
    unsafe { imp::flush(detect(), first, count) };
}

/// Writes every line that holds a byte of the range back and out of all
/// caches. Not counted: it makes nothing durable that was not.
///
/// # Safety
///
/// The range is mapped.
pub(crate) unsafe fn evict(address: *const u8, len: usize) {
    let kind = match detect() {
        Flush::Clwb => Flush::Clflushopt,
        other => other,
    };
    let (first, count) = lines_of(address.addr(), len);
    // SAFETY: as in `flush`; what has `clwb` has `clflushopt`.
    unsafe { imp::flush(kind, first, count) };
}

/// Waits for this thread's flushes and non-temporal stores.
#[inline]
pub fn fence() {
    imp::fence();
}

/// Copies whole lines past the cache. Durable after the next [`fence`].
///
/// # Safety
///
/// `dst` is 64-byte aligned and valid for writes of `src.len()` bytes, a
/// multiple of 64, and does not overlap `src`.
#[inline]
pub unsafe fn store_lines(dst: *mut u8, src: &[u8]) {
    debug_assert!(dst.addr().is_multiple_of(LINE) && src.len().is_multiple_of(LINE));
    counts::lines((src.len() / LINE) as u64);
    // SAFETY: the caller's promise is imp's.
    unsafe { imp::store_lines(dst, src.as_ptr(), src.len()) };
}

/// Copies bytes so that they are durable after the next [`fence`]: whole lines
/// past the cache, anything else through it and written back.
///
/// # Safety
///
/// `dst` is valid for writes of `src.len()` bytes, and does not overlap `src`.
#[inline]
pub(crate) unsafe fn store_flushed(dst: *mut u8, src: &[u8]) {
    let lines = if dst.addr().is_multiple_of(LINE) {
        src.len() / LINE * LINE
    } else {
        0
    };
    let (whole, rest) = src.split_at(lines);
    // SAFETY: the caller's promise; `dst` is line-aligned where `whole` is not
    // empty.
    unsafe {
        store_lines(dst, whole);
        if !rest.is_empty() {
            let dst = dst.add(lines);
            std::ptr::copy_nonoverlapping(rest.as_ptr(), dst, rest.len());
            flush(dst, rest.len());
        }
    }
}

/// Copies bytes.
///
/// # Safety
///
/// As for [`store_flushed`].
#[inline]
pub(crate) unsafe fn store(dst: *mut u8, src: &[u8]) {
    if src.len() > FEW || !dst.addr().is_multiple_of(8) {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), dst, src.len()) };
        return;
    }
    let (lines, rest) = src.as_chunks::<LINE>();
    // SAFETY: as above, word by word, each aligned as `dst` is.
    unsafe {
        for (i, line) in lines.iter().enumerate() {
            let dst = dst.add(i * LINE).cast::<u64>();
            for (j, word) in line.as_chunks::<8>().0.iter().enumerate() {
                dst.add(j).write_volatile(u64::from_ne_bytes(*word));
            }
        }
        let dst = dst.add(lines.len() * LINE);
        std::ptr::copy_nonoverlapping(rest.as_ptr(), dst, rest.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The naive twin: asks each byte for its line.
    fn naive(address: usize, len: usize) -> Vec<usize> {
        let mut lines: Vec<usize> = (address..address + len).map(|b| b / LINE * LINE).collect();
        lines.dedup();
        lines
    }

    proptest! {
        #[test]
        fn every_line_of_a_range_and_no_other(address in 0usize..4096, len in 0usize..700) {
            let (first, count) = lines_of(address, len);
            let ours: Vec<usize> = (0..count).map(|i| first + i * LINE).collect();
            prop_assert_eq!(ours, naive(address, len));
        }
    }

    #[test]
    fn streamed_lines_arrive() {
        #[repr(align(64))]
        struct Lines([u8; 256]);
        let src: Vec<u8> = (0..192).map(|i| i as u8).collect();
        let mut dst = Lines([0; 256]);
        // SAFETY: `dst` is aligned by its type and longer than `src`.
        unsafe {
            store_lines(dst.0.as_mut_ptr().add(64), &src);
            flush(dst.0.as_ptr(), 256);
        }
        fence();
        assert_eq!(&dst.0[64..], &src[..]);
        assert_eq!(&dst.0[..64], &[0; 64]);
    }
}

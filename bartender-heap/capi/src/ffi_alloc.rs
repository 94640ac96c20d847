//! The first chapter of the header: allocating and freeing.
//!
//! What a common call costs beyond [`bartender_heap::Heap`] is the load of the
//! default heap. Anything else is behind a call that is not inlined, to a C
//! function too, which never unwinds: the common call has nothing to clean up.

#![allow(unsafe_code)]
#![allow(clippy::missing_safety_doc, reason = "the header is the reference")]

use crate::core::{self, Core};
use crate::error::{Failure, guard};
use crate::handle::{self, bt_heap};
use bartender_heap::{Freed, Thread};
use std::ffi::{c_int, c_void};
use std::ptr::{NonNull, null_mut};

/// Largest alignment that is promised.
const MAX_ALIGN: usize = 2 << 20;

type Result<T> = crate::error::Result<T>;

/// `bt_malloc`, to be inlined.
#[inline(always)]
pub fn malloc(size: usize) -> *mut c_void {
    let Some(core) = handle::default() else {
        return malloc_slowly(null_mut(), size);
    };
    // SAFETY: asked for just now.
    match unsafe { core.heap.alloc_near_c(Thread::current(), size) } {
        Some(block) => block.as_ptr().cast(),
        None => malloc_slowly(null_mut(), size),
    }
}

#[cold]
#[inline(never)]
extern "C" fn malloc_slowly(heap: *mut bt_heap, size: usize) -> *mut c_void {
    // What is at hand of a larger size, or needs a look at a bitmap only, cannot fail.
    // SAFETY: a handle of C's.
    if let Ok(core) = unsafe { handle::heap(heap) }
        && let Ok(layout) = core::layout(size, 1)
        && let Some(block) = core.heap.alloc_at_hand(layout)
    {
        return block.as_ptr().cast();
    }
    guard(null_mut(), || {
        // SAFETY: a handle of C's.
        let core = unsafe { handle::heap(heap) }?;
        Ok(core.alloc(size, 1)?.as_ptr().cast())
    })
}

/// `bt_free`, to be inlined.
///
/// # Safety
/// As the header says of `bt_free`.
#[inline(always)]
pub unsafe fn free(block: *mut c_void) -> c_int {
    let thread = Thread::current();
    if let Some(core) = handle::default()
        && let Some(block) = NonNull::new(block)
    {
        // SAFETY: as the caller says, and the thread was asked for just now.
        match unsafe { core.heap.free_near(thread, block.cast()) } {
            Freed::Done => return 0,
            Freed::Settle => return settle(core, block.cast()),
            Freed::NotNear => {}
        }
    }
    // SAFETY: as the caller says.
    unsafe { free_slowly(null_mut(), block) }
}

#[cold]
#[inline(never)]
extern "C" fn settle(core: &Core, block: NonNull<u8>) -> c_int {
    guard(-1, || {
        // SAFETY: the caller was just told to.
        unsafe { core.heap.settle(block) };
        Ok(0)
    })
}

#[cold]
#[inline(never)]
unsafe extern "C" fn free_slowly(heap: *mut bt_heap, block: *mut c_void) -> c_int {
    guard(-1, || {
        let Some(block) = NonNull::new(block) else {
            return Ok(0);
        };
        // SAFETY: as the caller says.
        unsafe { handle::heap(heap)?.free(block.cast()) }?;
        Ok(0)
    })
}

fn calloc(core: &Core, count: usize, size: usize) -> Result<NonNull<u8>> {
    let too_much = || Failure::new(libc::ENOMEM, format!("{count} times {size} bytes overflow"));
    let size = count.checked_mul(size).ok_or_else(too_much)?;
    let block = core.alloc(size, 1)?;
    // SAFETY: a new block of that many bytes.
    unsafe { block.write_bytes(0, size) };
    Ok(block)
}

fn aligned(core: &Core, align: usize, size: usize) -> Result<NonNull<u8>> {
    if !align.is_power_of_two() || align > MAX_ALIGN {
        return Err(Failure::invalid(format!(
            "alignment {align} is no power of two up to 2 MiB"
        )));
    }
    core.alloc(size, align)
}

unsafe fn realloc(core: &Core, block: *mut c_void, size: usize) -> Result<NonNull<u8>> {
    let Some(block) = NonNull::new(block.cast::<u8>()) else {
        return core.alloc(size, 1);
    };
    let (start, usable) = core.heap.block_of(block)?;
    if start != block {
        return Err(Failure::invalid(format!(
            "{block:p} is not the start of a block: that is at {start:p}"
        )));
    }
    // SAFETY: as the caller says.
    if unsafe { core.stays(block, usable, size) } {
        return Ok(block);
    }
    let to = core.alloc(size, 1)?;
    // SAFETY: both are blocks of that many bytes, and the new one is ours alone.
    unsafe { to.copy_from_nonoverlapping(block, usable.min(size)) };
    // SAFETY: nobody uses it any more, as the caller says.
    unsafe { core.free(block) }?;
    Ok(to)
}

unsafe fn usable(heap: *mut bt_heap, block: *mut c_void) -> usize {
    guard(0, || {
        let Some(block) = NonNull::new(block) else {
            return Ok(0);
        };
        // SAFETY: a handle of C's.
        let core = unsafe { handle::heap(heap) }?;
        Ok(core.heap.usable_size(block.cast())?)
    })
}

/// For a function that returns a block.
fn block(heap: *mut bt_heap, f: impl FnOnce(&Core) -> Result<NonNull<u8>>) -> *mut c_void {
    guard(null_mut(), || {
        // SAFETY: a handle of C's.
        let core = unsafe { handle::heap(heap) }?;
        Ok(f(core)?.as_ptr().cast())
    })
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub extern "C" fn bt_malloc(size: usize) -> *mut c_void {
    malloc(size)
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_free(ptr: *mut c_void) -> c_int {
    // SAFETY: as the header says.
    unsafe { free(ptr) }
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub extern "C" fn bt_calloc(count: usize, size: usize) -> *mut c_void {
    block(null_mut(), |core| calloc(core, count, size))
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_realloc(ptr: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: as the header says.
    block(null_mut(), |core| unsafe { realloc(core, ptr, size) })
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub extern "C" fn bt_aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    block(null_mut(), |core| aligned(core, alignment, size))
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_usable_size(ptr: *mut c_void) -> usize {
    // SAFETY: as the header says.
    unsafe { usable(null_mut(), ptr) }
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_heap_malloc(heap: *mut bt_heap, size: usize) -> *mut c_void {
    // SAFETY: a handle of C's.
    if let Ok(core) = unsafe { handle::heap(heap) }
        // SAFETY: asked for just now.
        && let Some(block) = unsafe { core.heap.alloc_near_c(Thread::current(), size) }
    {
        return block.as_ptr().cast();
    }
    malloc_slowly(heap, size)
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_heap_free(heap: *mut bt_heap, ptr: *mut c_void) -> c_int {
    // SAFETY: a handle of C's.
    if let Ok(core) = unsafe { handle::heap(heap) }
        && let Some(block) = NonNull::new(ptr)
    {
        // SAFETY: as the header says, and the thread was asked for just now.
        match unsafe { core.heap.free_near(Thread::current(), block.cast()) } {
            Freed::Done => return 0,
            Freed::Settle => return settle(core, block.cast()),
            Freed::NotNear => {}
        }
    }
    // SAFETY: as the header says.
    unsafe { free_slowly(heap, ptr) }
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_heap_calloc(
    heap: *mut bt_heap,
    count: usize,
    size: usize,
) -> *mut c_void {
    block(heap, |core| calloc(core, count, size))
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_heap_realloc(
    heap: *mut bt_heap,
    ptr: *mut c_void,
    size: usize,
) -> *mut c_void {
    // SAFETY: as the header says.
    block(heap, |core| unsafe { realloc(core, ptr, size) })
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_heap_aligned_alloc(
    heap: *mut bt_heap,
    alignment: usize,
    size: usize,
) -> *mut c_void {
    block(heap, |core| aligned(core, alignment, size))
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_heap_usable_size(heap: *mut bt_heap, ptr: *mut c_void) -> usize {
    // SAFETY: as the header says.
    unsafe { usable(heap, ptr) }
}

//! The handle that C holds, and the default heap.
//!
//! It promises that a handle of a heap that was closed is told from an open one
//! for as long as the process lives: a handle is a few bytes and never freed.
//! It does not promise it to a thread that is inside of the heap while another
//! closes it.

#![allow(unsafe_code)]

use crate::core::Core;
use crate::error::{Failure, Result};
use bartender_pm::sync::atomic::AtomicPtr;
use bartender_pm::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::ptr::null_mut;

/// An open heap, or one that was. `core` is null once it is closed. `next` is
/// written before anybody else knows of it.
#[allow(non_camel_case_types, reason = "its name in C")]
#[derive(Debug)]
#[repr(C)]
pub struct bt_heap {
    core: AtomicPtr<Core>,
    next: AtomicPtr<bt_heap>,
}

/// All handles there ever were, so that who looks for leaks finds them.
static HANDLES: AtomicPtr<bt_heap> = AtomicPtr::new(null_mut());

/// The default heap, null if there is none.
static DEFAULT: AtomicPtr<Core> = AtomicPtr::new(null_mut());
/// Its handle.
static DEFAULT_HANDLE: AtomicPtr<bt_heap> = AtomicPtr::new(null_mut());

/// The default heap, if there is one.
#[inline(always)]
pub(crate) fn default<'a>() -> Option<&'a Core> {
    // SAFETY: what is open stays until `bt_close`, beside which the program has
    // no other call in the heap.
    unsafe { DEFAULT.load(Acquire).as_ref() }
}

/// The default heap's handle, or null.
pub(crate) fn default_handle() -> *mut bt_heap {
    DEFAULT_HANDLE.load(Acquire)
}

/// The heap of a handle; null means the default heap.
///
/// # Safety
/// `heap` is null or was returned by [`open`].
pub(crate) unsafe fn heap<'a>(heap: *mut bt_heap) -> Result<&'a Core> {
    let none = |message: &str| Err(Failure::new(libc::EBADF, message));
    if heap.is_null() {
        let open = "no heap is open: call bt_open first";
        return default().map_or_else(|| none(open), Ok);
    }
    // SAFETY: handles are never freed.
    let core = unsafe { &*heap }.core.load(Acquire);
    // SAFETY: as in `default`.
    unsafe { core.as_ref() }.map_or_else(|| none("the heap was closed"), Ok)
}

/// A handle for `core`, which becomes the default heap if there is none.
pub(crate) fn open(core: Core) -> *mut bt_heap {
    let core = Box::into_raw(Box::new(core));
    let handle = Box::leak(Box::new(bt_heap {
        core: AtomicPtr::new(core),
        next: AtomicPtr::new(null_mut()),
    }));
    let next = &handle.next;
    let handle = std::ptr::from_ref(handle).cast_mut();
    let put = |first| {
        next.store(first, Relaxed);
        Some(handle)
    };
    let _ = HANDLES.fetch_update(Release, Relaxed, put);
    let first = DEFAULT_HANDLE.compare_exchange(null_mut(), handle, AcqRel, Relaxed);
    if first.is_ok() {
        DEFAULT.store(core, Release);
    }
    handle
}

/// Makes `heap` the default one.
///
/// # Safety
/// `heap` is null or was returned by [`open`].
pub(crate) unsafe fn set_default(heap: *mut bt_heap) -> Result<()> {
    let core = match heap.is_null() {
        true => null_mut(),
        // SAFETY: as the caller says.
        false => std::ptr::from_ref(unsafe { self::heap(heap) }?).cast_mut(),
    };
    DEFAULT_HANDLE.store(heap, Release);
    DEFAULT.store(core, Release);
    Ok(())
}

/// Takes the heap out of a handle, and of the default one.
///
/// # Safety
/// As [`heap`]; no other thread is in the heap.
pub(crate) unsafe fn take(heap: *mut bt_heap) -> Result<Box<Core>> {
    let handle = match heap.is_null() {
        true => default_handle(),
        false => heap,
    };
    // SAFETY: as the caller says.
    let core = unsafe { self::heap(handle) }?;
    let open = core.transactions.load(Relaxed);
    if open != 0 {
        let message = format!("{open} transactions are open: commit or abort them first");
        return Err(Failure::new(libc::EBUSY, message));
    }
    if default_handle() == handle {
        DEFAULT.store(null_mut(), Release);
        DEFAULT_HANDLE.store(null_mut(), Release);
    }
    // SAFETY: `heap` has found it open, so it is a handle.
    let core = unsafe { &*handle }.core.swap(null_mut(), AcqRel);
    // SAFETY: made by `open`, and just now taken out.
    Ok(unsafe { Box::from_raw(core) })
}

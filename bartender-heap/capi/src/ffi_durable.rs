//! The second chapter of the header: named roots, and making stores durable.

#![allow(unsafe_code)]
#![allow(clippy::missing_safety_doc, reason = "the header is the reference")]

use crate::core::Core;
use crate::error::{Failure, Result, guard};
use crate::handle::{self, bt_heap};
use crate::transaction::bt_tx;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{NonNull, null_mut};

/// A range of bytes in one block.
#[allow(non_camel_case_types, reason = "its name in C")]
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct bt_range {
    /// First byte.
    pub ptr: *mut c_void,
    /// Bytes.
    pub len: usize,
}

/// For a function that returns 0 or −1.
///
/// # Safety
/// A handle of C's.
unsafe fn status(heap: *mut bt_heap, f: impl FnOnce(&Core) -> Result<()>) -> c_int {
    guard(-1, || {
        // SAFETY: as the caller says.
        f(unsafe { handle::heap(heap) }?)?;
        Ok(0)
    })
}

/// # Safety
/// `name` is null or a string.
unsafe fn name<'a>(name: *const c_char) -> Result<&'a [u8]> {
    if name.is_null() {
        return Err(Failure::invalid("the name of a root is NULL"));
    }
    // SAFETY: as the caller says.
    Ok(unsafe { CStr::from_ptr(name) }.to_bytes())
}

/// # Safety
/// `tx` is null or open.
unsafe fn tx<'a>(tx: *mut bt_tx) -> Result<&'a mut bt_tx> {
    // SAFETY: as the caller says; one thread at a time uses it.
    unsafe { tx.as_mut() }.ok_or_else(|| Failure::invalid("the transaction is NULL"))
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_root_set(
    heap: *mut bt_heap,
    name: *const c_char,
    ptr: *mut c_void,
) -> c_int {
    // SAFETY: as the header says.
    let name = || unsafe { self::name(name) };
    // SAFETY: as the header says.
    unsafe {
        status(heap, |core| {
            core.root_set(name()?, NonNull::new(ptr.cast()))
        })
    }
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_root_get(heap: *mut bt_heap, name: *const c_char) -> *mut c_void {
    guard(null_mut(), || {
        // SAFETY: as the header says.
        let name = unsafe { self::name(name) }?;
        // SAFETY: as the header says.
        let root = unsafe { handle::heap(heap) }?.root_get(name)?;
        match root.is_null() {
            true => Err(Failure::new(
                libc::ENOENT,
                format!("there is no root `{}`", String::from_utf8_lossy(name)),
            )),
            false => Ok(root.cast()),
        }
    })
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_persist(heap: *mut bt_heap, ptr: *const c_void, len: usize) -> c_int {
    let persist = |core: &Core| match len {
        0 => Ok(()),
        // SAFETY: as the header says.
        _ => unsafe { core.persist_long(core.range(ptr.cast_mut().cast(), len)?) },
    };
    // SAFETY: as the header says.
    unsafe { status(heap, persist) }
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_persistv(
    heap: *mut bt_heap,
    ranges: *const bt_range,
    count: usize,
) -> c_int {
    let persist = |core: &Core| {
        if count == 0 {
            return Ok(());
        }
        if ranges.is_null() {
            return Err(Failure::invalid("the ranges are NULL"));
        }
        // SAFETY: as the header says.
        let ranges = unsafe { std::slice::from_raw_parts(ranges, count) };
        let ranges = ranges.iter().filter(|range| range.len != 0);
        let ranges = ranges.map(|range| core.range(range.ptr.cast(), range.len));
        let ranges = ranges.collect::<Result<Vec<_>>>()?;
        // SAFETY: as the header says.
        unsafe { core.persist(&ranges) }
    };
    // SAFETY: as the header says.
    unsafe { status(heap, persist) }
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_tx_begin(heap: *mut bt_heap) -> *mut bt_tx {
    guard(null_mut(), || {
        // SAFETY: as the header says.
        let core = unsafe { handle::heap(heap) }?;
        Ok(Box::into_raw(Box::new(bt_tx::begin(core))))
    })
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_tx_add(tx: *mut bt_tx, ptr: *mut c_void, len: usize) -> c_int {
    guard(-1, || {
        // SAFETY: as the header says.
        let tx = unsafe { self::tx(tx) }?;
        if len != 0 {
            let range = tx.range(ptr.cast(), len)?;
            // SAFETY: as the header says.
            unsafe { tx.add(range) };
        }
        Ok(0)
    })
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_tx_malloc(tx: *mut bt_tx, size: usize) -> *mut c_void {
    guard(null_mut(), || {
        // SAFETY: as the header says.
        let tx = unsafe { self::tx(tx) }?;
        Ok(tx.alloc(size)?.as_ptr().cast())
    })
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_tx_realloc(
    tx: *mut bt_tx,
    ptr: *mut c_void,
    size: usize,
) -> *mut c_void {
    guard(null_mut(), || {
        // SAFETY: as the header says.
        let tx = unsafe { self::tx(tx) }?;
        let block = match NonNull::new(ptr.cast()) {
            None => tx.alloc(size)?,
            // SAFETY: as the header says.
            Some(block) => unsafe { tx.realloc(block, size) }?,
        };
        Ok(block.as_ptr().cast())
    })
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_tx_free(tx: *mut bt_tx, ptr: *mut c_void) -> c_int {
    guard(-1, || {
        // SAFETY: as the header says.
        let tx = unsafe { self::tx(tx) }?;
        if let Some(block) = NonNull::new(ptr.cast()) {
            tx.free(block)?;
        }
        Ok(0)
    })
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_tx_commit(tx: *mut bt_tx) -> c_int {
    guard(-1, || {
        // SAFETY: as the header says.
        unsafe { self::tx(tx) }?;
        // SAFETY: made by `bt_tx_begin`, and used no more.
        unsafe { Box::from_raw(tx).commit() }?;
        Ok(0)
    })
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_tx_abort(tx: *mut bt_tx) -> c_int {
    guard(-1, || {
        // SAFETY: as the header says.
        unsafe { self::tx(tx) }?;
        // SAFETY: made by `bt_tx_begin`, and used no more.
        unsafe { Box::from_raw(tx).abort() };
        Ok(0)
    })
}

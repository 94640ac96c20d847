//! The third chapter of the header: opening and closing, looking after a heap,
//! and what went wrong.

#![allow(unsafe_code)]
#![allow(clippy::missing_safety_doc, reason = "the header is the reference")]

use crate::core::{Core, options};
use crate::error::{self, Failure, Result, guard};
use crate::handle::{self, bt_heap};
use bartender_pm::sync::atomic::Ordering::Relaxed;
use std::ffi::{CStr, OsStr, c_char, c_int, c_uint};
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::ptr::null_mut;

/// Fail if there is no region.
pub const BT_EXISTING: c_uint = 1;
/// Fail if there is one already.
pub const BT_NEW: c_uint = 2;
/// See `bartender.h`.
pub const BT_RANDOM_ORDER: c_uint = 4;

/// What a collection took back.
#[allow(non_camel_case_types, reason = "its name in C")]
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct bt_gc_report {
    /// Blocks freed.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks that stay.
    pub live_blocks: u64,
    /// Their bytes.
    pub live_bytes: u64,
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_open(
    path: *const c_char,
    max_size: u64,
    flags: c_uint,
) -> *mut bt_heap {
    guard(null_mut(), || {
        if path.is_null() {
            return Err(Failure::invalid("the path is NULL"));
        }
        let both = BT_EXISTING | BT_NEW;
        if flags & !(both | BT_RANDOM_ORDER) != 0 || flags & both == both {
            return Err(Failure::invalid(format!("flags {flags:#x}")));
        }
        // SAFETY: as the header says.
        let path = OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes());
        let there = || {
            let message = format!("{}: there is a file already", path.display());
            Failure::new(libc::EEXIST, message)
        };
        if flags & BT_NEW != 0 && std::path::Path::new(path).exists() {
            return Err(there());
        }
        let core = loop {
            let region = options(max_size)
                .create(flags & BT_EXISTING == 0)
                .open_unnamed(path)?;
            if flags & BT_NEW != 0 && !region.opened().created {
                return Err(there());
            }
            // The file gets its name when the heap is in it.
            let core = Core::open(region.clone())?;
            if region.give_name()? {
                break core;
            }
            if flags & BT_NEW != 0 {
                return Err(there());
            }
            // Somebody has made one meanwhile.
        };
        core.heap.set_random_order(flags & BT_RANDOM_ORDER != 0);
        Ok(handle::open(core))
    })
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_close(heap: *mut bt_heap) -> c_int {
    guard(-1, || {
        // SAFETY: as the header says.
        let core = unsafe { handle::take(heap) }?;
        core.heap.close()?;
        Ok(0)
    })
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_default_set(heap: *mut bt_heap) -> c_int {
    guard(-1, || {
        // SAFETY: as the header says.
        unsafe { handle::set_default(heap) }?;
        Ok(0)
    })
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub extern "C" fn bt_default_get() -> *mut bt_heap {
    handle::default_handle()
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_gc(heap: *mut bt_heap, report: *mut bt_gc_report) -> c_int {
    guard(-1, || {
        // SAFETY: as the header says.
        let core = unsafe { handle::heap(heap) }?;
        let open = core.transactions.load(Relaxed);
        if open != 0 {
            let message = format!("{open} transactions are open, and may hold blocks");
            return Err(Failure::new(libc::EBUSY, message));
        }
        // SAFETY: the program stands still and holds no other block, as the header says.
        let collected = unsafe { core.heap.collect() }?;
        // SAFETY: as the header says.
        if let Some(report) = unsafe { report.as_mut() } {
            *report = bt_gc_report {
                blocks: collected.blocks,
                bytes: collected.bytes,
                live_blocks: collected.live_blocks,
                live_bytes: collected.live_bytes,
            };
        }
        Ok(0)
    })
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_purge(heap: *mut bt_heap, bytes: *mut u64) -> c_int {
    guard(-1, || {
        // SAFETY: as the header says.
        let purged = unsafe { handle::heap(heap) }?.heap.purge()?;
        // SAFETY: as the header says.
        if let Some(bytes) = unsafe { bytes.as_mut() } {
            *bytes = purged;
        }
        Ok(0)
    })
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_check(heap: *mut bt_heap) -> c_int {
    guard(-1, || {
        // SAFETY: as the header says.
        let core = unsafe { handle::heap(heap) }?;
        core.heap.check()?;
        Ok(0)
    })
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bt_stats_json(heap: *mut bt_heap, buf: *mut c_char, len: usize) -> c_int {
    guard(-1, || {
        // SAFETY: as the header says.
        let text = stats(unsafe { handle::heap(heap) }?)?;
        if len != 0 {
            if buf.is_null() {
                return Err(Failure::invalid("the buffer is NULL"));
            }
            let fits = text.len().min(len - 1);
            // SAFETY: as the header says, `len` bytes are there.
            unsafe {
                buf.copy_from_nonoverlapping(text.as_ptr().cast(), fits);
                buf.add(fits).write(0);
            }
        }
        c_int::try_from(text.len()).map_err(|_| Failure::new(libc::EOVERFLOW, "too long"))
    })
}

/// Numbers only, so that no string needs escaping.
fn stats(core: &Core) -> Result<String> {
    let stats = core.heap.stats();
    let report = core.heap.report();
    let region = core.heap.region();
    let roots = {
        let _one = core.roots.lock();
        // SAFETY: the lock is held.
        unsafe { core.heap.named_roots() }?.len() as u64
    };
    let mut text = String::from("{");
    for (name, number) in [
        ("live_blocks", stats.live_blocks),
        ("live_bytes", stats.live_bytes),
        ("reserved_bytes", stats.reserved_bytes),
        ("reserved_peak", stats.reserved_peak),
        ("free_bytes", stats.free_bytes),
        ("returned_bytes", stats.returned_bytes),
        ("table_bytes", stats.table_bytes),
        ("home_bytes", stats.home_bytes),
        ("max_bytes", stats.max_bytes),
        ("file_bytes", region.file_size()),
        ("dram_bytes", stats.dram_bytes),
        ("thread_superblocks", stats.thread_superblocks),
        ("global_superblocks", stats.global_superblocks),
        ("large_runs", stats.large_runs),
        ("remote_frees", stats.remote_frees),
        ("roots", roots),
        ("open_transactions", core.transactions.load(Relaxed) as u64),
        ("atomic_bytes", core.atomic_bytes()),
        ("opened_blocks", report.blocks),
        ("opened_by_marking", u64::from(report.marked)),
        ("opened_microseconds", report.took.as_micros() as u64),
    ] {
        let comma = if text.len() > 1 { "," } else { "" };
        // A string takes everything.
        let _ = write!(text, "{comma}\"{name}\":{number}");
    }
    text.push('}');
    Ok(text)
}

/// See `bartender.h`.
#[unsafe(no_mangle)]
pub extern "C" fn bt_errmsg() -> *const c_char {
    error::message()
}

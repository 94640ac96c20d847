//! libpmemobj as a peer: the few functions that a one-word transaction needs.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;

#[repr(C)]
#[derive(Clone, Copy)]
struct Oid {
    pool: u64,
    offset: u64,
}

#[link(name = "pmemobj")]
unsafe extern "C" {
    fn pmemobj_create(
        path: *const c_char,
        layout: *const c_char,
        size: usize,
        mode: u32,
    ) -> *mut c_void;
    fn pmemobj_close(pool: *mut c_void);
    fn pmemobj_root(pool: *mut c_void, size: usize) -> Oid;
    fn pmemobj_tx_begin(pool: *mut c_void, env: *mut c_void, ...) -> c_int;
    fn pmemobj_tx_add_range_direct(ptr: *const c_void, size: usize) -> c_int;
    fn pmemobj_tx_commit();
    fn pmemobj_tx_end() -> c_int;
}

/// A pool with one word.
pub(crate) struct Pool {
    pool: *mut c_void,
    word: *mut u64,
}

impl Pool {
    pub(crate) fn create(path: &Path) -> Option<Pool> {
        let path = CString::new(path.to_str()?).ok()?;
        // SAFETY: C strings that outlive the calls; a pool that was just made.
        unsafe {
            let pool = pmemobj_create(path.as_ptr(), c"bench".as_ptr(), 64 << 20, 0o600);
            if pool.is_null() {
                return None;
            }
            let root = pmemobj_root(pool, 64);
            let word = pool.byte_add(root.offset as usize).cast();
            Some(Pool { pool, word })
        }
    }

    /// One durable transaction that changes the word.
    pub(crate) fn add_one(&self) {
        // SAFETY: the word is in the pool; no error path jumps, because no
        // environment is given: a failing call returns its error.
        unsafe {
            assert_eq!(
                pmemobj_tx_begin(self.pool, std::ptr::null_mut(), 0 as c_int),
                0
            );
            assert_eq!(pmemobj_tx_add_range_direct(self.word.cast(), 8), 0);
            *self.word += 1;
            pmemobj_tx_commit();
            pmemobj_tx_end();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: opened by `create`, closed once.
        unsafe { pmemobj_close(self.pool) };
    }
}

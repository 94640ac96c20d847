//! libpmemobj as a peer: the few functions that a one-word transaction needs,
//! and those that allocate and free without a transaction.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::NonNull;

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
    fn pmemobj_alloc(
        pool: *mut c_void,
        oid: *mut Oid,
        size: usize,
        kind: u64,
        constructor: *const c_void,
        argument: *mut c_void,
    ) -> c_int;
    fn pmemobj_free(oid: *mut Oid);
    fn pmemobj_tx_begin(pool: *mut c_void, env: *mut c_void, ...) -> c_int;
    fn pmemobj_tx_add_range_direct(ptr: *const c_void, size: usize) -> c_int;
    fn pmemobj_tx_commit();
    fn pmemobj_tx_end() -> c_int;
}

/// What a pool's file is taken for. The library reads `PMEM_NO_FLUSH` when it is
/// loaded, so that this is up to who starts the program.
pub(crate) fn medium() -> &'static str {
    match std::env::var("PMEM_NO_FLUSH").as_deref() {
        Ok("1") => "a pool in shared memory; every call is durable, lines are not written back",
        _ => {
            "a pool in shared memory; every call is durable, lines are written back and fenced as on DAX (PMEM_NO_FLUSH=1: they are not)"
        }
    }
}

/// A pool with one word, and room for blocks.
#[derive(Debug)]
pub(crate) struct Pool {
    pool: *mut c_void,
    id: u64,
    word: *mut u64,
}

impl Pool {
    /// A pool of `size` bytes in a new file, taken for DAX: any other file it has
    /// the kernel sync at every step.
    pub(crate) fn create(path: &Path, size: usize) -> Option<Pool> {
        let path = CString::new(path.to_str()?).ok()?;
        // SAFETY: pools are made between the programs, when no thread of theirs
        // runs; those of a region do not read the environment.
        unsafe { std::env::set_var("PMEM_IS_PMEM_FORCE", "1") };
        // SAFETY: C strings that outlive the calls; a pool that was just made.
        unsafe {
            let pool = pmemobj_create(path.as_ptr(), c"bench".as_ptr(), size, 0o600);
            if pool.is_null() {
                return None;
            }
            let root = pmemobj_root(pool, 64);
            let word = pool.byte_add(root.offset as usize).cast();
            let id = root.pool;
            Some(Pool { pool, id, word })
        }
    }

    /// A block, atomically and durably taken. That its name lies in volatile
    /// memory is allowed, and what `malloc` in a pool would do.
    #[inline(always)]
    pub(crate) fn alloc(&self, size: usize) -> Option<NonNull<u8>> {
        let (mut oid, null) = (Oid { pool: 0, offset: 0 }, std::ptr::null_mut());
        // SAFETY: an open pool, and a name that is written to during the call; a
        // block lies in its pool.
        unsafe {
            match pmemobj_alloc(self.pool, &mut oid, size, 0, null, null) {
                0 => NonNull::new(self.pool.byte_add(oid.offset as usize).cast()),
                _ => None,
            }
        }
    }

    /// Takes a block back, atomically and durably.
    ///
    /// # Safety
    ///
    /// It came from `alloc` of this pool, and is used no more.
    #[inline(always)]
    pub(crate) unsafe fn free(&self, block: NonNull<u8>) {
        let mut oid = Oid {
            pool: self.id,
            offset: (block.addr().get() - self.pool.addr()) as u64,
        };
        // SAFETY: the name that `alloc` got, by the caller's promise.
        unsafe { pmemobj_free(&mut oid) };
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

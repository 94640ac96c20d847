//! Whose regions are whose, what calls cost, and that closing tells what it
//! cannot do: through the functions that C calls.

use bartender_c::*;
use bartender_heap::{Heap, Kind, Schema, Type};
use bartender_pm::{Counts, Options};
use std::ffi::{CStr, CString, c_int};
use std::path::Path;
use std::ptr::{null, null_mut};

#[path = "../../../bartender-pm/tests/places/mod.rs"]
mod places;

fn c(path: &Path) -> CString {
    CString::new(path.to_str().expect("text")).expect("no zero")
}

fn open(path: &Path, flags: u32) -> *mut bt_heap {
    // SAFETY: a string.
    unsafe { bt_open(c(path).as_ptr(), 64 << 20, flags) }
}

fn close(heap: *mut bt_heap) {
    // SAFETY: a handle, and nobody else is in the heap.
    assert_eq!(unsafe { bt_close(heap) }, 0, "{}", message());
}

fn errno() -> c_int {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn message() -> String {
    // SAFETY: a message of this thread, which does not fail meanwhile.
    unsafe { CStr::from_ptr(bt_errmsg()) }
        .to_string_lossy()
        .into()
}

fn typed() -> Schema {
    Schema::of(|b| {
        let signed = false;
        let nonzero = false;
        b.define::<u64>(|_| Type::of::<u64>("u64", Kind::Int { signed, nonzero }))
    })
    .expect("a sound description")
}

#[test]
fn a_region_that_could_not_be_created_leaves_no_file() {
    let folder = places::folder();
    let path = folder.path().join("a.region");
    // What looks after so much takes 32 GiB. (More would be in the way of the other tests: the process's addresses end.)
    // SAFETY: a string.
    let heap = unsafe { bt_open(c(&path).as_ptr(), 1 << 43, 0) };
    if !heap.is_null() {
        // A machine that has them.
        return close(heap);
    }
    assert_eq!(errno(), libc::ENOMEM, "{}", message());
    let left = std::fs::read_dir(folder.path()).expect("lists").count();
    assert_eq!(left, 0);
    close(open(&path, BT_NEW));
    assert!(path.exists());
}

#[test]
fn the_data_of_a_rust_program_are_refused_and_untouched() {
    let folder = places::folder();
    let path = folder.path().join("a.region");
    let region = Options::new().open(&path).expect("creates");
    drop(Heap::create(region, &typed()).expect("formats"));
    assert!(open(&path, 0).is_null());
    assert_eq!(errno(), libc::EINVAL);
    assert!(message().contains("its root is `u64`"), "{}", message());
    let heap = Heap::open(Options::new().open(&path).expect("opens")).expect("opens");
    assert_eq!(heap.schema(), &typed());
}

#[test]
fn a_copy_does_not_open_beside_its_original() {
    let folder = places::folder();
    let (path, copy) = (folder.path().join("a"), folder.path().join("b"));
    let heap = open(&path, BT_NEW);
    assert!(!heap.is_null(), "{}", message());
    close(heap);
    std::fs::copy(&path, &copy).expect("room");
    let heap = open(&path, BT_EXISTING);
    assert!(!heap.is_null() && open(&copy, 0).is_null());
    assert_eq!(errno(), libc::EADDRINUSE);
    assert!(message().contains("is a copy of it open?"), "{}", message());
    close(heap);
    let heap = open(&copy, BT_EXISTING);
    assert!(!heap.is_null(), "{}", message());
    close(heap);
}

/// Exactly: allocating and freeing touch no medium, and whatever makes stores
/// durable waits for one barrier.
#[test]
fn golden_counts_of_barriers() {
    let folder = places::folder();
    let heap = open(&folder.path().join("a.region"), BT_NEW);
    assert!(!heap.is_null(), "{}", message());
    let barriers = |what: &str, expected: u64, f: &dyn Fn()| {
        let ((), counts) = Counts::of(f);
        assert_eq!(counts.barriers, expected, "{what}: {counts:?}");
        assert!(
            expected != 0 || counts == Counts::default(),
            "{what}: {counts:?}"
        );
    };
    // SAFETY: here and below: handles and blocks of this heap, one thread.
    let block = unsafe { bt_heap_calloc(heap, 10, 100) };
    // SAFETY: as above.
    let other = unsafe { bt_heap_malloc(heap, 64) };
    assert!(!block.is_null() && !other.is_null());
    // SAFETY: as above.
    barriers("persist", 1, &|| unsafe {
        assert_eq!(bt_persist(heap, block, 1000), 0);
    });
    barriers("allocate and free", 0, &|| {
        for size in [1, 64, 1000, 5000, 60_000] {
            // SAFETY: as above.
            unsafe { assert_eq!(bt_heap_free(heap, bt_heap_malloc(heap, size)), 0) };
        }
    });
    // SAFETY: as above.
    barriers("persist nothing", 0, &|| unsafe {
        assert_eq!(bt_persist(heap, null(), 0), 0);
    });
    let ranges = [(block, 8), (other, 64), (block, 100)].map(|(ptr, len)| bt_range { ptr, len });
    // SAFETY: as above.
    barriers("persistv", 1, &|| unsafe {
        assert_eq!(bt_persistv(heap, ranges.as_ptr(), ranges.len()), 0);
    });
    // SAFETY: as above.
    barriers("the first root", 1, &|| unsafe {
        assert_eq!(bt_root_set(heap, c"a".as_ptr(), block), 0);
    });
    // SAFETY: as above.
    barriers("a root", 1, &|| unsafe {
        assert_eq!(bt_root_set(heap, c"a".as_ptr(), other), 0);
    });
    // SAFETY: as above.
    barriers("look a root up", 0, &|| unsafe {
        assert_eq!(bt_root_get(heap, c"a".as_ptr()), other);
    });
    let transaction = |commit: bool| {
        // SAFETY: as above.
        unsafe {
            let tx = bt_tx_begin(heap);
            assert_eq!(bt_tx_add(tx, block, 1000), 0);
            let made = bt_tx_malloc(tx, 64);
            assert!(!made.is_null() && !bt_tx_realloc(tx, null_mut(), 64).is_null());
            assert_eq!(bt_tx_free(tx, made), 0);
            let end = if commit { bt_tx_commit } else { bt_tx_abort };
            assert_eq!(end(tx), 0);
        }
    };
    barriers("commit", 1, &|| transaction(true));
    barriers("abort", 0, &|| transaction(false));
    close(heap);
}

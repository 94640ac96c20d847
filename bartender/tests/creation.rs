//! Regions that cannot be created. In a process of its own: some take all addresses for a moment.
#![cfg(not(loom))]

use bartender::{Error, Heap, Options, PMutex, PRcu, PShared, PVec};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;
use places::folder;

type Root = PMutex<PVec<u64>>;

fn options() -> Options<Root> {
    Heap::options().max_size(128 << 20).log_size(32 << 20)
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let all = std::fs::read_dir(folder).expect("lists");
    let names = all.map(|entry| entry.expect("reads").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// One test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn nothing_is_left_of_a_region_that_could_not_be_created() {
    let _alone = alone();
    let folder = folder();
    let path = folder.path().join("r");
    let refused = |what: &str, error: Error| {
        assert_eq!(names(folder.path()), [""; 0], "{what}: {error}");
        println!("{what}: {error}");
        // What was wrong with that one is nothing to the next one.
        let heap = options().open(&path).unwrap();
        heap.update(|mut numbers| numbers.push(1)).unwrap();
        heap.close().unwrap();
        std::fs::remove_file(&path).unwrap();
    };
    // More than this machine has addresses, or memory for what looks after it.
    for bytes in [1 << 43, 1 << 44, 1 << 45, 1 << 46] {
        match options().max_size(bytes).open(&path) {
            Ok(heap) => {
                heap.close().unwrap();
                std::fs::remove_file(&path).unwrap();
            }
            Err(error) => refused(&format!("max_size {bytes}"), error),
        }
    }
    type Bad = PRcu<PShared<PMutex<u64>>>;
    let bad = Heap::<Bad>::options().max_size(32 << 20);
    let error = bad.open_with(&path, || unreachable!("it is refused"));
    refused("a type that is refused", error.map(drop).unwrap_err());

    let small = || options().max_size(4 << 20).log_size(1 << 20);
    let long = || PMutex::new((0..1 << 20).collect());
    let error = small().open_with(&path, long);
    refused("a root that does not fit", error.map(drop).unwrap_err());

    let panics = || small().open_with(&path, || panic!("on purpose"));
    catch_unwind(AssertUnwindSafe(panics))
        .map(drop)
        .unwrap_err();
    refused("a root that panics", Error::Busy);
}

#[test]
fn a_region_gets_its_name_where_it_was_made_wherever_the_process_goes() {
    let _alone = alone();
    let (made, gone_to) = (folder(), folder());
    // No other test here has a relative path.
    std::env::set_current_dir(&made).unwrap();
    let heap = options().open_with("r", || {
        std::env::set_current_dir(&gone_to).unwrap();
        PMutex::new([7].into())
    });
    assert_eq!(*heap.unwrap().read(), [7]);
    assert_eq!(names(made.path()), ["r"]);
    assert!(names(gone_to.path()).is_empty());
    std::env::set_current_dir("/").unwrap();
}

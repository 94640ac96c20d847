//! What an operator can say when a region is made or opened, and what is said to a value that makes no sense.
#![cfg(not(loom))]

use bartender::{Error, Heap, Options, PMutex, PVec};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;
use places::folder;

type Root = PMutex<PVec<u64>>;

fn options() -> Options<Root> {
    Heap::options().max_size(128 << 20).log_size(32 << 20)
}

#[test]
fn a_value_that_makes_no_sense_is_named_and_nothing_is_made() {
    let folder = folder();
    let path = folder.path().join("r");
    let bad: [(&str, Options<Root>); 11] = [
        ("lanes", options().lanes(0)),
        ("lanes", options().lanes(64)),
        ("lanes", options().lanes(u64::MAX)),
        ("home_address", options().home_address(0)),
        ("home_address", options().home_address(0x2000_0000_1000)),
        (
            "home_address",
            options().home_address((1 << 47) - (2 << 20)),
        ),
        ("home_address", options().home_address(u64::MAX << 21)),
        ("max_size", options().max_size(0)),
        ("max_size", options().max_size(u64::MAX)),
        ("log_size", options().log_size(100)),
        ("log_size", options().log_size(u64::MAX)),
    ];
    for (name, options) in bad {
        let error = options.open(&path).map(drop).unwrap_err();
        match &error {
            Error::Region(bartender_pm::Error::BadOption { option, .. }) => {
                assert_eq!(*option, name)
            }
            other => panic!("{name}: {other}"),
        }
        assert!(error.to_string().starts_with(name), "{error}");
        let made = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(made, 0, "{name}: {error}");
    }
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let all = std::fs::read_dir(folder).expect("lists");
    let names = all.map(|entry| entry.expect("reads").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

#[test]
fn no_file_that_was_there_is_touched_by_a_creation() {
    let folder = folder();
    let path = folder.path().join("r");
    // Names that a new file may have for a while: those are somebody's.
    let taken = |n: u32| {
        let name = format!(".r.{}.{n}.new", std::process::id());
        folder.path().join(name)
    };
    (0..200).for_each(|n| std::fs::write(taken(n), "mine").unwrap());
    // It comes while the region is made.
    let root = || {
        std::fs::write(&path, "yours").unwrap();
        Root::default()
    };
    let error = options().open_with(&path, root).map(drop).unwrap_err();
    let busy = matches!(error, Error::Region(bartender_pm::Error::Busy { .. }));
    assert!(busy, "{error}");
    // And it is no region.
    let error = options().open(&path).map(drop).unwrap_err();
    assert!(error.to_string().contains("not a bartender region"));
    assert_eq!(std::fs::read(&path).unwrap(), b"yours");
    assert_eq!(names(folder.path()).len(), 201);
    std::fs::remove_file(&path).unwrap();
    options().open(&path).unwrap().close().unwrap();
    (0..200).for_each(|n| assert_eq!(std::fs::read(taken(n)).unwrap(), b"mine"));
    assert_eq!(names(folder.path()).len(), 201);
}

#[test]
fn of_threads_that_create_one_region_each_has_it_or_is_told_that_it_is_busy() {
    let folder = folder();
    let path = folder.path().join("r");
    let made = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| match options().open(&path) {
                Ok(heap) => {
                    heap.update(|mut numbers| numbers.push(1)).unwrap();
                    heap.close().unwrap();
                    made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                Err(Error::Region(bartender_pm::Error::Busy { .. })) => {}
                Err(error) => panic!("{error}"),
            });
        }
    });
    assert_eq!(names(folder.path()), ["r"]);
    let heap = options().open(&path).unwrap();
    assert_eq!(heap.read().len() as u64, made.into_inner());
}

#[test]
fn a_path_that_leads_nowhere_is_said_to() {
    let folder = folder();
    let link = folder.path().join("link");
    symlink(folder.path().join("gone").join("r"), &link).unwrap();
    let said = |options: Options<Root>, path: &Path| {
        let error = options.open(path).map(drop).unwrap_err();
        error.to_string()
    };
    for options in [
        options(),
        options().create(false),
        options().read_only(true),
    ] {
        let error = said(options.clone(), &link);
        let expected = format!(
            "{}: not a bartender region (it is a symbolic link to {}, where there is no file)",
            link.display(),
            folder.path().join("gone/r").display()
        );
        assert_eq!(error, expected);
        assert_eq!(said(options, Path::new("")), "path: it is empty");
    }
    assert_eq!(names(folder.path()), ["link"]);
    // A link to a region is followed.
    std::fs::create_dir(folder.path().join("gone")).unwrap();
    let there = folder.path().join("gone").join("r");
    options().open(&there).unwrap().close().unwrap();
    options().open(&link).unwrap().close().unwrap();
}

#[test]
fn a_region_lies_where_it_was_told_to_for_good() {
    let folder = folder();
    let path = folder.path().join("r");
    // Not where the random places are.
    let address = 0x1234_0020_0000;
    let base = |heap: &Heap<Root>| heap.region().base().addr() as u64;
    let heap = options().home_address(address).open(&path).unwrap();
    assert_eq!(base(&heap), address);
    heap.update(|mut numbers| numbers.extend(0..100)).unwrap();
    // Another one at the same place is moved.
    let other = folder.path().join("other");
    let beside = options().home_address(address).open(other).unwrap();
    assert_ne!(base(&beside), address);
    beside.update(|mut numbers| numbers.push(1)).unwrap();
    beside.check().unwrap();
    beside.close().unwrap();
    heap.close().unwrap();
    // It is said at the creation; a region that is there has its own.
    let heap = options().home_address(2 << 40).open(&path).unwrap();
    assert_eq!(base(&heap), address);
    assert!(heap.read().iter().copied().eq(0..100));
}

#[test]
fn few_lanes_and_many_hold_what_all_threads_commit() {
    for lanes in [1, 2, 63] {
        let folder = folder();
        let path = folder.path().join("r");
        let open = || {
            let options = Heap::<[PMutex<u64>; 4]>::options().lanes(lanes);
            options.max_size(32 << 20).log_size(1 << 20).open(&path)
        };
        let heap = open().unwrap();
        std::thread::scope(|scope| {
            for lock in heap.root() {
                let heap = &heap;
                scope.spawn(move || {
                    for _ in 0..200 {
                        heap.transaction(|tx| {
                            *tx.lock(lock)? += 1;
                            Ok(())
                        })
                        .unwrap();
                    }
                });
            }
        });
        heap.close().unwrap();
        let heap = open().unwrap();
        assert!(heap.root().iter().all(|lock| *lock.read() == 200));
    }
}

/// Bytes of the mapping at `base` that are this process's own.
#[cfg(target_os = "linux")]
fn private_bytes(base: usize, len: usize) -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
    let mut inside = false;
    let mut bytes = 0;
    for line in maps.lines() {
        let range = line.split_once(' ').and_then(|(range, _)| {
            let (start, end) = range.split_once('-')?;
            let start = usize::from_str_radix(start, 16).ok()?;
            Some((start, usize::from_str_radix(end, 16).ok()?))
        });
        if let Some((start, _)) = range {
            inside = (base..base + len).contains(&start);
        } else if let (true, Some(size)) = (inside, line.strip_prefix("Private_Dirty:")) {
            let size = size.trim().trim_end_matches(" kB");
            bytes += size.parse::<usize>().expect("a number") * 1024;
        }
    }
    bytes
}

#[cfg(target_os = "linux")]
#[test]
fn no_more_of_the_view_than_the_limit_stays_private() {
    let folder = folder();
    let path = folder.path().join("r");
    let private = |limit: u64, patience: Duration| {
        let heap = options().view_limit(limit).open(&path).unwrap();
        let numbers: PVec<u64> = (0..1 << 20).collect();
        heap.update(|mut all| all.set(numbers)).unwrap();
        heap.checkpoint().unwrap();
        // Changed again: pages of the home, copied into the view.
        heap.update(|mut all| {
            all.as_mut_slice().fill(7);
            Ok(())
        })
        .unwrap();
        heap.checkpoint().unwrap();
        let (base, len) = (heap.region().base().addr(), 128 << 20);
        let started = Instant::now();
        let mut bytes = private_bytes(base, len);
        while bytes > 1 << 20 && started.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(20));
            bytes = private_bytes(base, len);
        }
        assert!(heap.read().iter().all(|n| *n == 7));
        heap.close().unwrap();
        bytes
    };
    assert!(private(1 << 30, Duration::ZERO) > 7 << 20);
    let bytes = private(1 << 20, Duration::from_secs(60));
    assert!(bytes <= 1 << 20, "{bytes} bytes stay");
    // None at all makes sense, too.
    let bytes = private(0, Duration::from_secs(60));
    assert!(bytes <= 1 << 20, "{bytes} bytes stay");
}

//! Persistent memory: that it is what a region says it lies on, that a commit
//! there is stores and nothing else, and what a device does that no file does.
//!
//! Where the environment names none (see `places`) most of this tests nothing.

use bartender_pm::{Durability, Error, MediumKind, Options, Record, Region};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

mod places;
use places::{Place, dax, places};

/// Names a region to this program as its own child.
const CHILD: &str = "BARTENDER_TEST_CHILD";

fn options() -> Options {
    let mut options = Options::new();
    options
        .max_size(64 << 20)
        .log_size(1 << 20)
        .background(false);
    options
}

fn put(region: &Region, offset: u64, value: u64) {
    let mut writer = region.writer().expect("open");
    // SAFETY: the tests use offsets inside the home, one thread each.
    unsafe {
        let at = region.base().add(offset as usize);
        at.cast::<u64>().write(value);
    }
    let mut record = Record::new();
    record.change(offset, &value.to_le_bytes());
    let ticket = writer.append(&mut record, Durability::Immediate);
    let ticket = ticket.expect("room in the log");
    region.wait_durable(ticket.seq).expect("no I/O error");
}

fn get(region: &Region, offset: u64) -> u64 {
    // SAFETY: as in `put`.
    unsafe { region.base().add(offset as usize).cast::<u64>().read() }
}

/// Runs `test` of this program in a process of its own, which is told `region`
/// and may do what only its end makes good.
fn in_child(test: &str, region: &Path) -> std::process::ExitStatus {
    let exe = std::env::current_exe().expect("this program");
    let mut child = std::process::Command::new(exe);
    child
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, region);
    child.status().expect("starts")
}

/// The flags of this process's shared mappings of `path`.
fn flags_of_mappings(path: &Path) -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("there is /proc");
    let mut flags = Vec::new();
    let mut here = false;
    for line in maps.lines() {
        let first = line.split(' ').next().unwrap_or_default();
        if first.contains('-') {
            let shared = line
                .split_whitespace()
                .nth(1)
                .is_some_and(|mode| mode.ends_with('s'));
            here = shared && line.ends_with(&*path.to_string_lossy());
        } else if here && first == "VmFlags:" {
            flags.push(line.to_owned());
        }
    }
    flags
}

#[test]
fn a_region_on_persistent_memory_is_mapped_with_map_sync() {
    for place in dax() {
        let region = options().open(place.region()).expect("creates");
        assert_eq!(region.kind(), MediumKind::Dax);
        let flags = flags_of_mappings(place.region());
        // "sf": synchronous page faults, which is what MAP_SYNC asks for.
        let all = flags
            .iter()
            .all(|flags| flags.split(' ').any(|flag| flag == "sf"));
        assert!(all && flags.len() == 1, "{flags:?}");
    }
}

/// The counters say so; here the kernel says it, too: a thread that may make no
/// system call at all, on pain of death, commits.
#[test]
fn commits_by_stores_make_no_system_call() {
    const COMMITS: u64 = 500;
    let name = "commits_by_stores_make_no_system_call";
    let Some(path) = std::env::var_os(CHILD) else {
        for place in places() {
            let status = in_child(name, place.region());
            assert!(status.success(), "{}: {status}", place.region().display());
        }
        return;
    };
    // One long lane, so that it does not fill up: whoever wakes the checkpoint calls the system.
    let region = options().lanes(1).open(path).expect("creates");
    if region.kind() == MediumKind::File {
        return;
    }
    static DONE: AtomicU64 = AtomicU64::new(0);
    std::thread::spawn(move || {
        for i in 0..COMMITS {
            // The page faults of the log's first lap are no system calls.
            if i == 1 {
                // SAFETY: restricts this thread to read, write and exit.
                let strict =
                    unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) };
                assert_eq!(strict, 0);
            }
            put(&region, 4096 + i * 8, i);
        }
        DONE.store(COMMITS, Ordering::Release);
        // Even an end of the thread would be a system call.
        loop {
            std::hint::spin_loop();
        }
    });
    // The kernel kills the thread alone, which then never gets there.
    for _ in 0..60_000 {
        if DONE.load(Ordering::Acquire) == COMMITS {
            std::process::exit(0);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    std::process::exit(1);
}

/// Opens, does what `work` says, and dies without closing.
fn die_after(path: &Path, work: impl FnOnce(&Region)) -> ! {
    let region = options().open(path).expect("opens");
    work(&region);
    // SAFETY: ends this process as a kill would.
    unsafe { libc::_exit(7) }
}

#[test]
fn a_region_that_grew_before_its_process_died_is_whole() {
    let name = "a_region_that_grew_before_its_process_died_is_whole";
    if let Some(path) = std::env::var_os(CHILD) {
        die_after(Path::new(&path), |region| {
            for step in 1..10 {
                region.extend(step * (4 << 20)).expect("room");
                put(region, step * (4 << 20) - 8, step);
                if step == 5 {
                    region.checkpoint().expect("no I/O error");
                }
            }
        });
    }
    for place in places() {
        assert_eq!(in_child(name, place.region()).code(), Some(7));
        let region = options().open(place.region()).expect("recovers");
        assert_eq!(region.opened().records, 4);
        assert!(region.size() >= 36 << 20);
        for step in 1..10 {
            assert_eq!(get(&region, step * (4 << 20) - 8), step);
            assert_eq!(get(&region, step * (4 << 20) - 16), 0);
        }
    }
}

/// Something else lies where the view was: it moves, wherever the region lies.
#[test]
fn a_region_whose_address_is_taken_moves() {
    for place in places() {
        let region = options().open(place.region()).expect("creates");
        let base = region.base();
        put(&region, 4096, base.addr() as u64 + 8192);
        put(&region, 8192, 7);
        drop(region);
        // SAFETY: replaces nothing: the view was there, and is gone.
        let taken = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            libc::mmap(base.cast(), 4096, libc::PROT_NONE, flags, -1, 0)
        };
        assert_eq!(taken, base.cast());
        let error = options()
            .open(place.region())
            .expect_err("its place is taken");
        assert!(matches!(error, Error::AddressTaken { .. }), "{error}");
        let relocation = options().relocate(place.region()).expect("a place");
        let mut pointer = [0; 8];
        relocation.home().read(4096, &mut pointer);
        assert_eq!(u64::from_le_bytes(pointer), base.addr() as u64 + 8192);
        let moved = relocation.run([4096]).expect("no I/O error");
        for region in [moved].into_iter().chain(std::iter::once_with(|| {
            options().open(place.region()).expect("where it moved to")
        })) {
            assert_eq!(get(&region, 4096), region.base().addr() as u64 + 8192);
            assert_eq!(get(&region, 8192), 7);
        }
        // SAFETY: mapped above.
        unsafe { libc::munmap(taken, 4096) };
    }
}

fn devices() -> impl Iterator<Item = Place> {
    dax().filter(Place::is_device)
}

/// Stores bytes on a device behind the library's back.
fn scribble(device: &Path, offset: usize, bytes: &[u8]) {
    use std::os::fd::AsRawFd;
    let mut file = std::fs::File::options();
    let file = file.read(true).write(true).open(device);
    let file = file.expect("the device");
    let len = 4 << 20;
    // SAFETY: a mapping of its own, of two of the device's pages, that ends here.
    unsafe {
        let at = libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        );
        assert_ne!(at, libc::MAP_FAILED);
        let to = at.cast::<u8>().add(offset);
        to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        libc::munmap(at, len);
    }
}

#[test]
fn a_device_that_holds_something_else_is_refused_until_it_is_erased() {
    for place in devices() {
        let device = place.region();
        for (offset, bytes) in [(0, "#!/bin/sh"), (4096, "LABELONE"), (512 << 10, "far off")] {
            scribble(device, offset, bytes.as_bytes());
            for _ in 0..2 {
                let error = options().open(device).expect_err("not a region");
                let said = error.to_string();
                assert!(matches!(error, Error::NotARegion { .. }), "{said}");
                assert!(said.contains("erase_device"), "{said}");
            }
            bartender_pm::erase_device(device).expect("nobody needs it");
            let region = options().open(device).expect("creates");
            assert!(region.opened().created);
            let busy = bartender_pm::erase_device(device).expect_err("it is open");
            assert!(matches!(busy, Error::Busy { .. }), "{busy}");
            drop(region);
            assert!(!options().open(device).expect("opens").opened().created);
            bartender_pm::erase_device(device).expect("nobody needs it");
        }
        let error = options()
            .create(false)
            .open(device)
            .expect_err("not a region");
        assert!(matches!(error, Error::NotARegion { .. }), "{error}");
    }
}

#[test]
fn a_device_with_a_damaged_header_is_not_taken_for_a_blank_one() {
    for place in devices() {
        let device = place.region();
        drop(options().open(device).expect("creates"));
        // The word of its length; see `layout`.
        scribble(device, 4096 - 64, &[1]);
        let error = options().open(device).expect_err("damaged");
        assert!(
            matches!(error, Error::Damaged { offset: 4032, .. }),
            "{error}"
        );
        bartender_pm::erase_device(device).expect("nobody needs it");
        drop(options().open(device).expect("creates"));
        // One copy of the header counts as well as two.
        scribble(device, 0, &[0; 64]);
        drop(options().open(device).expect("the other copy is whole"));
        scribble(device, 0, &[0; 64]);
        scribble(device, 4096, &[1; 64]);
        let error = options().open(device).expect_err("both are gone");
        assert!(matches!(error, Error::NotARegion { .. }), "{error}");
    }
}

#[test]
fn nothing_of_an_earlier_region_shows_in_one_made_on_its_device() {
    let name = "nothing_of_an_earlier_region_shows_in_one_made_on_its_device";
    if let Some(path) = std::env::var_os(CHILD) {
        die_after(Path::new(&path), |region| {
            if region.opened().created {
                put(region, 4096, 1);
            }
        });
    }
    for place in devices() {
        let region = options().open(place.region()).expect("creates");
        region.extend(16 << 20).expect("room");
        for i in 0..100 {
            put(&region, 4096 + i * (64 << 10), 99);
        }
        region.close().expect("closes");
        drop(region);
        bartender_pm::erase_device(place.region()).expect("nobody needs it");
        assert_eq!(in_child(name, place.region()).code(), Some(7));
        let region = options().open(place.region()).expect("recovers");
        assert_eq!(
            (region.opened().generation, region.opened().records),
            (2, 1)
        );
        region.extend(16 << 20).expect("room");
        for i in 0..100 {
            assert_eq!(get(&region, 4096 + i * (64 << 10)), u64::from(i == 0));
        }
    }
}

#[test]
fn a_region_is_never_larger_than_its_device() {
    for place in devices() {
        let mut options = options();
        options.max_size(1 << 40);
        let region = options.open(place.region()).expect("creates");
        assert!(region.max_size() < 1 << 40);
        let end = region.max_size();
        let error = region.extend(end + 1).expect_err("beyond the device");
        assert!(matches!(error, Error::OutOfSpace { .. }), "{error}");
        region.extend(end).expect("all of it");
        put(&region, end - 8, 5);
        drop(region);
        let region = options.open(place.region()).expect("opens");
        assert_eq!((region.size(), get(&region, end - 8)), (end, 5));
        bartender_pm::erase_device(place.region()).expect_err("it is open");
        drop(region);
        bartender_pm::erase_device(place.region()).expect("nobody needs it");
        options.log_size(1 << 40);
        let error = options.open(place.region()).expect_err("no room");
        assert!(matches!(error, Error::BadOption { .. }), "{error}");
    }
}

/// How many transactions the journals of ext4 have committed.
fn journal_commits() -> u64 {
    let journals = std::fs::read_dir("/proc/fs/jbd2")
        .into_iter()
        .flatten()
        .flatten();
    let commits = |journal: std::fs::DirEntry| {
        let info = std::fs::read_to_string(journal.path().join("info")).ok()?;
        info.split(' ').next()?.parse::<u64>().ok()
    };
    journals.filter_map(commits).sum()
}

/// The first store to a block that is allocated and was never written waits for
/// the file system to say durably that it was, and fails by a signal where there
/// is no room to say it.
#[test]
fn blocks_of_a_file_on_persistent_memory_are_written_before_they_are_used() {
    const PAGES: u64 = 2000;
    for place in dax().filter(|place| !place.is_device()) {
        let region = options().open(place.region()).expect("creates");
        region.extend(32 << 20).expect("room");
        let before = journal_commits();
        for i in 0..PAGES {
            put(&region, 4096 + i * 8192, i);
        }
        region.checkpoint().expect("no I/O error");
        // Tests beside this one may make the journal commit now and then.
        let commits = journal_commits() - before;
        assert!(commits < PAGES / 20, "{commits} commits of the journal");
    }
}

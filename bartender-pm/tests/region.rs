//! A region from outside: what is committed is there again.

use bartender_pm::{Counts, Durability, Error, LogStyle, Options, Record, Region};
use std::path::Path;

mod places;
use places::{folders, places};

fn options() -> Options {
    let mut options = Options::new();
    options.max_size(64 << 20).log_size(1 << 20);
    options
}

fn put(region: &Region, offset: u64, value: u64) -> u64 {
    let mut writer = region.writer().expect("open");
    // SAFETY: the tests use offsets inside the first 2 MiB, one thread each.
    unsafe {
        region
            .base()
            .add(offset as usize)
            .cast::<u64>()
            .write(value)
    };
    let mut record = Record::new();
    record.change(offset, &value.to_le_bytes());
    let ticket = writer
        .append(&mut record, Durability::Immediate)
        .expect("room in the log");
    region.wait_durable(ticket.seq).expect("no I/O error");
    ticket.seq
}

fn get(region: &Region, offset: u64) -> u64 {
    // SAFETY: as in `put`.
    unsafe { region.base().add(offset as usize).cast::<u64>().read() }
}

#[test]
fn committed_words_survive_close_and_reopen() {
    for place in places() {
        let path = place.region();
        let region = options().open(path).expect("creates");
        assert!(region.opened().created && !region.opened().clean);
        put(&region, 4096, 7);
        region.close().expect("closes");
        assert!(matches!(region.writer(), Err(Error::Closed)));
        drop(region);
        let region = options().open(path).expect("opens");
        assert!(region.opened().clean && !region.opened().created);
        assert_eq!(region.opened().generation, 2);
        assert_eq!(get(&region, 4096), 7);
    }
}

#[test]
fn a_new_region_has_no_file_before_it_has_its_name() {
    for folder in folders() {
        let path = folder.path().join("a.region");
        let files = || std::fs::read_dir(folder.path()).expect("lists").count();
        let region = options().open_unnamed(&path).expect("creates");
        put(&region, 4096, 7);
        assert!(!path.exists());
        // A child of fork that drops it takes nothing away.
        // SAFETY: the child calls only what this test is about, and `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop(region);
            // SAFETY: ends the child without running the parent's handlers.
            unsafe { libc::_exit(0) };
        }
        // SAFETY: waits for the child made above.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
        assert_eq!(files(), 1);
        drop(region);
        assert_eq!(files(), 0);

        let region = options().open_unnamed(&path).expect("creates");
        put(&region, 4096, 8);
        assert!(region.give_name().expect("no I/O error"));
        assert!(region.is_at_its_path());
        drop(region);
        let region = options().open_unnamed(&path).expect("opens");
        assert!(!region.opened().created && region.opened().clean);
        assert!(region.give_name().expect("it has it"));
        assert_eq!(get(&region, 4096), 8);
        drop(region);

        // Of two that are made beside each other one gets the name.
        std::fs::remove_file(&path).expect("is there");
        let regions = [7, 8].map(|value| {
            let region = options().open_unnamed(&path).expect("creates");
            put(&region, 4096, value);
            region
        });
        let named = regions.each_ref().map(|region| region.give_name());
        assert!(matches!(named, [Ok(true), Ok(false)]), "{named:?}");
        drop(regions);
        assert_eq!(files(), 1);
        let region = options().open(&path).expect("opens");
        assert_eq!(get(&region, 4096), 7);
    }
}

#[test]
fn a_new_region_whose_place_is_taken_gets_another_one() {
    for folder in folders() {
        let mut options = options();
        options.home_address(0x1357_0020_0000);
        let [one, other] = ["a", "b"].map(|name| {
            let region = options.open(folder.path().join(name)).expect("creates");
            put(&region, 4096, 7);
            region
        });
        assert_eq!(one.base().addr(), 0x1357_0020_0000);
        assert_ne!(other.base().addr(), 0x1357_0020_0000);
        drop(one);
        let base = other.base();
        drop(other);
        let region = options.open(folder.path().join("b")).expect("opens");
        assert_eq!((region.base(), get(&region, 4096)), (base, 7));
    }
}

#[test]
fn a_second_open_names_the_holder() {
    for place in places() {
        let path = place.region();
        let _region = options().open(path).expect("creates");
        let error = options().open(path).expect_err("it is open");
        assert!(
            error.to_string().contains("open in this process"),
            "{error}"
        );
    }
}

#[test]
fn a_log_that_wraps_many_times_loses_nothing() {
    for place in places() {
        let path = place.region();
        let mut options = options();
        options.log_size(64 << 10);
        let region = options.open(path).expect("creates");
        let n = if region.log_style() == LogStyle::Lanes {
            20_000
        } else {
            3_000
        };
        for i in 0..n {
            put(&region, 4096 + i % 100 * 8, i);
        }
        drop(region);
        let region = options.open(path).expect("opens");
        for i in n - 100..n {
            assert_eq!(get(&region, 4096 + i % 100 * 8), i);
        }
    }
}

/// Shared memory, to be treated as persistent memory.
fn forced_flush() -> impl Iterator<Item = (places::Place, bool)> {
    places().take(1).map(|place| (place, true))
}

#[test]
fn a_one_word_commit_costs_one_barrier_on_each_medium() {
    for (place, forced) in places().map(|place| (place, false)).chain(forced_flush()) {
        let mut options = options();
        options.force_flush(forced).background(false);
        let region = options.open(place.region()).expect("creates");
        put(&region, 4096, 1);
        let (_, counts) = Counts::of(|| put(&region, 4096, 2));
        let lines = u64::from(forced || place.is_dax());
        let syscalls = u64::from(region.log_style() == LogStyle::Stream);
        assert_eq!(
            counts,
            Counts {
                barriers: 1,
                lines,
                log_bytes: 64,
                syscalls
            }
        );
        let (_, counts) = Counts::of(|| get(&region, 4096));
        assert_eq!(counts, Counts::default());
    }
}

#[test]
fn the_home_grows_and_keeps_what_it_had() {
    for place in places() {
        let path = place.region();
        let region = options().open(path).expect("creates");
        region.extend(20 << 20).expect("there is room");
        put(&region, (20 << 20) - 8, 99);
        let error = region.extend(65 << 20).expect_err("beyond the maximum");
        assert!(matches!(error, Error::OutOfSpace { .. }), "{error}");
        drop(region);
        let region = options().open(path).expect("opens");
        assert!(region.size() >= 20 << 20);
        assert_eq!(get(&region, (20 << 20) - 8), 99);
    }
}

#[test]
fn giving_the_view_back_changes_nothing_that_is_seen() {
    for place in places() {
        if place.is_device() {
            continue; // Its view is no mapping of the home.
        }
        let region = options().open(place.region()).expect("creates");
        region.extend(8 << 20).expect("there is room");
        for i in 0..1000 {
            put(&region, i * 8192 + 8, i);
        }
        assert!(region.trim().expect("no I/O error"));
        for i in 0..1000 {
            assert_eq!(get(&region, i * 8192 + 8), i);
            put(&region, i * 8192 + 8, i + 1);
        }
        let writer = region.writer().expect("open");
        assert!(!region.trim().expect("no I/O error"), "a writer is inside");
        drop(writer);
        assert!(region.trim().expect("no I/O error"));
        for i in 0..1000 {
            assert_eq!(get(&region, i * 8192 + 8), i + 1);
        }
    }
}

#[test]
fn a_frozen_picture_stays_while_checkpoints_change_the_home() {
    for place in places() {
        let region = options().open(place.region()).expect("creates");
        put(&region, 4096, 1);
        region.checkpoint().expect("no I/O error");
        let frozen = region.freeze().expect("maps");
        put(&region, 4096, 2);
        region.checkpoint().expect("no I/O error");
        let mut word = [0; 8];
        frozen.read(4096, &mut word);
        assert_eq!(u64::from_le_bytes(word), 1);
        region.freeze().expect("maps").read(4096, &mut word);
        assert_eq!(u64::from_le_bytes(word), 2);
    }
}

#[test]
fn foreign_truncated_newer_and_damaged_files_are_told_apart() {
    let folder = &folders()[0];
    let path = folder.path().join("a.region");
    let open = || options().open(&path).expect_err("not a good region");

    std::fs::write(&path, b"#!/bin/sh\necho no region\n").expect("writes");
    assert!(matches!(open(), Error::NotARegion { .. }));
    assert_eq!(
        std::fs::read(&path).expect("reads"),
        b"#!/bin/sh\necho no region\n"
    );

    std::fs::remove_file(&path).expect("removes");
    drop(options().open(&path).expect("creates"));
    let good = std::fs::read(&path).expect("reads");

    std::fs::write(&path, &good[..good.len() - 4096]).expect("writes");
    assert!(matches!(open(), Error::Truncated { .. }));

    let mut newer = good.clone();
    newer[8] = 200;
    newer[4096 + 8] = 200;
    std::fs::write(&path, &newer).expect("writes");
    assert!(matches!(open(), Error::NewerFormat { found: 200, .. }));

    // As one was whose header was shorter, and its checksum another.
    let mut older = good.clone();
    for copy in [0, 4096] {
        older[copy + 8] = 1;
        older[copy + 12] ^= 1;
    }
    std::fs::write(&path, &older).expect("writes");
    assert!(matches!(open(), Error::OlderFormat { found: 1, .. }));

    let mut damaged = good.clone();
    damaged[100] ^= 1;
    damaged[4096 + 100] ^= 1;
    std::fs::write(&path, &damaged).expect("writes");
    assert!(matches!(open(), Error::Damaged { .. }));

    let mut one_copy = good;
    one_copy[100] ^= 1;
    std::fs::write(&path, &one_copy).expect("writes");
    options()
        .open(&path)
        .expect("the other header copy is whole");
}

#[test]
fn what_is_neither_file_nor_persistent_memory_is_refused() {
    let folder = &folders()[0];
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.is_ok_and(|status| status.success()));
    for path in [Path::new("/dev/null"), &pipe] {
        for result in [
            options().open(path).map(drop),
            options().relocate(path).map(drop),
            bartender_pm::erase_device(path),
        ] {
            let error = result.expect_err("no place for a region");
            assert!(matches!(error, Error::NotARegion { .. }), "{error}");
        }
    }
}

#[test]
fn a_file_of_zeroes_is_somebodys() {
    for folder in folders() {
        let path = folder.path().join("a.region");
        std::fs::write(&path, vec![0; 64 << 10]).expect("writes");
        let error = options().open(&path).expect_err("not a region");
        assert!(matches!(error, Error::NotARegion { .. }), "{error}");
        let error = bartender_pm::erase_device(&path).expect_err("no device");
        assert!(matches!(error, Error::NotARegion { .. }), "{error}");
        std::fs::write(&path, b"").expect("writes");
        let error = options().create(false).open(&path).expect_err("empty");
        assert!(matches!(error, Error::NotARegion { .. }), "{error}");
        let region = options().open(&path).expect("an empty file is nobody's");
        assert!(region.opened().created);
    }
}

#[test]
fn a_transaction_too_large_for_the_log_leaves_no_trace() {
    for place in places() {
        let mut options = options();
        options.log_size(64 << 10);
        let region = options.open(place.region()).expect("creates");
        put(&region, 4096, 5);
        let mut writer = region.writer().expect("open");
        let mut record = Record::new();
        record.change(4096, &vec![1; 100 << 10]);
        let error = writer
            .append(&mut record, Durability::Immediate)
            .expect_err("too large");
        let Error::LogFull { log_size, .. } = error else {
            panic!("{error}");
        };
        drop(writer);
        put(&region, 4096, 6);
        assert_eq!(region.last_seq(), 2);
        // What it says is enough.
        drop(region);
        std::fs::remove_file(place.region()).expect("was there");
        options.log_size(log_size.expect("some log is long enough"));
        let region = options.open(place.region()).expect("creates");
        let mut writer = region.writer().expect("open");
        let appended = writer.append(&mut record, Durability::Immediate);
        appended.expect("fits");
    }
}

#[test]
fn eventual_commits_are_durable_after_sync() {
    for place in places() {
        let region = options().open(place.region()).expect("creates");
        let mut last = 0;
        for i in 0..1000u64 {
            let mut writer = region.writer().expect("open");
            let mut record = Record::new();
            record.change(4096, &i.to_le_bytes());
            last = writer
                .append(&mut record, Durability::Eventual)
                .expect("room")
                .seq;
        }
        region.sync().expect("no I/O error");
        assert!(region.durable_seq() >= last);
    }
}

#[test]
fn a_long_record_behind_a_few_short_ones_gets_through() {
    for place in places() {
        let path = place.region();
        let region = options().open(path).expect("creates");
        // Too little for the background thread to do anything about, too much for what comes.
        let bytes = vec![7; region.log_capacity() as usize * 15 / 16];
        for len in [bytes.len() / 6, bytes.len(), bytes.len() / 6, bytes.len()] {
            let mut writer = region.writer().expect("open");
            let mut record = Record::new();
            // SAFETY: inside the first 2 MiB, which only this thread uses.
            unsafe {
                let to = region.base().add(4096);
                to.copy_from_nonoverlapping(bytes.as_ptr(), len);
            }
            record.change(4096, &bytes[..len]);
            let ticket = writer
                .append(&mut record, Durability::Immediate)
                .expect("fits the log");
            drop(writer);
            region.wait_durable(ticket.seq).expect("no I/O error");
        }
        region.close().expect("closes");
    }
}

/// Bytes that lie in the home already need no second copy in the view.
#[test]
fn much_fresh_memory_is_given_back_and_shows_the_home() {
    for folder in folders() {
        let path = folder.path().join("a.region");
        let region = options().open(&path).expect("creates");
        let (at, len) = (4 << 20, (4 << 20) + 4096);
        region.extend(at + len).expect("room");
        let mut writer = region.writer().expect("open");
        // The view holds other bytes than the home, which is against the
        // rules: so the test can tell where it looks.
        let view = region.base().wrapping_add(at as usize);
        // SAFETY: inside the home, of this test alone.
        unsafe { view.write_bytes(1, len as usize) };
        let bytes = vec![2u8; len as usize - 200];
        writer.write_fresh(at + 100, &bytes).expect("inside");
        let mut record = Record::new();
        record.extent(at + 100, bytes.len() as u64, 0);
        let ticket = writer
            .append(&mut record, Durability::Immediate)
            .expect("room in the log");
        drop(writer);
        region.wait_durable(ticket.seq).expect("no I/O error");
        let byte = |offset: u64| {
            // SAFETY: inside the home.
            unsafe { view.add(offset as usize).read() }
        };
        assert_eq!(byte(100), 1, "a page in part stays");
        assert_eq!(byte(4095), 1, "a page in part stays");
        assert_eq!(byte(4096), 2, "a whole page is given back");
        assert_eq!(byte(4 << 20), 1, "a page in part stays");
        assert_eq!(byte((4 << 20) - 1), 2, "a whole page is given back");
        // What is given back is private all the same.
        // SAFETY: as above.
        unsafe { view.add(8192).write(3) };
        assert_eq!(byte(8192), 3);
    }
}

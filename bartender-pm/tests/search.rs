//! A large log is searched beside the program for records that recovery may have missed, and what was loaded in
//! bulk is read there. Whatever comes of it, nothing is committed before it is known. And there is little to
//! replay: the home follows the log.

#![cfg(not(loom))]

use bartender_pm::{Counts, Durability, Error, LogStyle, Options, Record, Region};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Barrier;

#[path = "places/mod.rs"]
mod places;

fn options() -> Options {
    let mut options = Options::new();
    options.max_size(4 << 20).log_size(16 << 20).lanes(1);
    options
}

fn commit(region: &Region, offset: u64, bytes: &[u8]) {
    let mut record = Record::new();
    record.change(offset, bytes);
    let mut writer = region.writer().expect("open");
    let ticket = writer.append(&mut record, Durability::Immediate);
    drop(writer);
    region
        .wait_durable(ticket.expect("room").seq)
        .expect("durable");
}

/// A file as the death of a process leaves it: a short record, a long one and a short one in its log.
fn killed(folder: &Path) -> PathBuf {
    let (alive, dead) = (folder.join("alive"), folder.join("dead"));
    let mut options = options();
    options.background(false);
    let region = options.open(&alive).expect("creates");
    commit(&region, 4096, &[5; 8]);
    commit(&region, 8192, &[7; 300 << 10]);
    commit(&region, 4096, &[9; 8]);
    std::fs::copy(&alive, &dead).expect("copies");
    dead
}

#[test]
fn what_the_search_finds_comes_before_any_commit() {
    for folder in places::folders() {
        let dead = killed(folder.path());
        // A byte in the midst of the long record, of which the short one says that it was durable.
        let bytes = std::fs::read(&dead).expect("reads");
        let long = bytes.windows(4096).position(|bytes| bytes == [7; 4096]);
        let file = std::fs::File::options()
            .write(true)
            .open(&dead)
            .expect("opens");
        file.write_all_at(&[8], long.expect("in the log") as u64 + 5000)
            .expect("writes");
        drop(file);
        for again in [false, true] {
            let region = options().open(&dead).expect("opens, and can be read");
            // Also where what stands before the damage is not in the log any more.
            let gone = again && region.log_style() == LogStyle::Lanes;
            assert_eq!(region.opened().records, if gone { 0 } else { 1 });
            let refused = region.writer().expect_err("nothing may be committed");
            assert!(
                matches!(&refused, Error::Poisoned { cause, .. } if cause.contains("durable and is torn")),
                "{refused}"
            );
            assert!(region.checkpoint().is_err());
        }
        let mut at_once = options();
        at_once.background(false);
        let error = at_once.open(&dead).expect_err("searched before it is open");
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
}

/// In one lane a record is torn that was durable, as another one there says; what other lanes have is newer.
#[test]
fn what_was_torn_is_not_left_out_when_its_bytes_come_back() {
    let folder = places::shared_memory();
    let (alive, dead) = (folder.region().with_extension("alive"), folder.region());
    let mut options = options();
    options.lanes(63).background(false);
    let region = options.open(&alive).expect("creates");
    let commit = |offset, byte: u8, len| commit(&region, offset, &vec![byte; len]);
    commit(8192, 7, 100 << 10);
    // Threads that live at the same time have lanes of their own.
    let all = Barrier::new(16);
    std::thread::scope(|s| {
        for n in 0..16 {
            let (all, commit) = (&all, &commit);
            s.spawn(move || {
                all.wait();
                commit(4096 + 8 * n, 5, 8);
                all.wait();
            });
        }
    });
    commit(2048, 9, 8);
    std::fs::copy(&alive, dead).expect("copies");
    drop(region);
    let bytes = std::fs::read(dead).expect("reads");
    let long = bytes.windows(4096).position(|bytes| bytes == [7; 4096]);
    let at = long.expect("in the log") as u64 + 5000;
    let file = std::fs::File::options().write(true).open(dead);
    let file = file.expect("opens");
    file.write_all_at(&[8], at).expect("writes");
    options.background(true);
    for again in [false, true] {
        let region = options.open(dead).expect("opens, and can be read");
        assert_eq!(region.opened().records == 0, again);
        region.writer().expect_err("nothing may be committed");
    }
    file.write_all_at(&[7], at).expect("writes");
    let error = options
        .open(dead)
        .expect_err("the second is home without it");
    assert!(error.to_string().contains("was torn when later"), "{error}");
}

#[test]
fn a_log_that_ends_where_it_seems_to_goes_on_there() {
    for folder in places::folders() {
        let dead = killed(folder.path());
        for round in 0..3u8 {
            let region = options().open(&dead).expect("opens");
            let word = |at: usize| {
                // SAFETY: within the home, which nobody changes now.
                unsafe { region.base().add(at).read() }
            };
            assert_eq!((word(8192), word(4096)), (7, 9));
            assert_eq!(word(4097), if round == 0 { 9 } else { round - 1 });
            commit(&region, 4097, &[round]);
        }
    }
}

/// What is logged goes home by itself once nobody commits, also what has no lane of its own.
#[test]
fn nothing_is_left_to_be_replayed_when_nobody_commits() {
    for folder in places::folders() {
        let path = folder.path().join("a.region");
        let mut options = options();
        options.lanes(16);
        let region = options.open(&path).expect("creates");
        for len in [100 << 10, 800 << 10] {
            commit(&region, 8192, &vec![7; len]);
            while region.checkpoint_seq() < region.last_seq() {
                std::thread::yield_now();
            }
        }
    }
}

/// Writes `len` bytes straight to the home, and commits them.
fn load(region: &Region, len: usize) {
    let bytes = vec![7; len];
    region.extend(LOADED + len as u64).expect("room");
    let mut record = Record::new();
    record.extent(LOADED, len as u64, crc32c::crc32c(&bytes));
    let mut writer = region.writer().expect("open");
    // SAFETY: inside the home, which this test has for itself.
    unsafe {
        let to = region.base().add(LOADED as usize);
        to.copy_from_nonoverlapping(bytes.as_ptr(), len);
    }
    writer.write_fresh(LOADED, &bytes).expect("inside");
    let ticket = writer.append(&mut record, Durability::Immediate);
    drop(writer);
    region
        .wait_durable(ticket.expect("room").seq)
        .expect("durable");
}

/// Where that goes.
const LOADED: u64 = 64 << 10;

/// A file as the death of a process leaves it that has loaded so much.
fn killed_after_load(folder: &Path, len: usize) -> PathBuf {
    let (alive, dead) = (folder.join("alive"), folder.join("dead"));
    let mut options = options();
    options.max_size(16 << 20).background(false);
    let region = options.open(&alive).expect("creates");
    load(&region, len);
    std::fs::copy(&alive, &dead).expect("copies");
    dead
}

#[test]
fn what_was_loaded_in_bulk_is_read_before_any_commit_and_not_by_opening() {
    for folder in places::folders() {
        let dead = killed_after_load(folder.path(), 3 << 20);
        let bytes = std::fs::read(&dead).expect("reads");
        let at = bytes.windows(4096).position(|bytes| bytes == [7; 4096]);
        let damage = |byte: u8| {
            let file = std::fs::File::options()
                .write(true)
                .open(&dead)
                .expect("opens");
            file.write_all_at(&[byte], at.expect("in the home") as u64 + (2 << 20))
                .expect("writes");
        };
        damage(8);
        for _ in 0..2 {
            let region = options().open(&dead).expect("opens, and can be read");
            assert_eq!(region.opened().records, 1);
            let refused = region.writer().expect_err("nothing may be committed");
            assert!(
                matches!(&refused, Error::Poisoned { cause, .. } if cause.contains("fails its checksum")),
                "{refused}"
            );
            assert!(region.checkpoint().is_err());
        }
        let mut at_once = options();
        at_once.background(false);
        let error = at_once.open(&dead).expect_err("read before it is open");
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        damage(7);
        let region = options().open(&dead).expect("opens");
        commit(&region, LOADED, &[1; 8]);
    }
}

/// A golden count of another kind: what opening does is the same, whatever was loaded.
#[test]
fn opening_costs_the_same_whatever_was_loaded() {
    for parent in [places::shared_memory(), places::disk()] {
        let folder = parent.region().parent().expect("in a folder");
        let opening = |len: usize| {
            let dead = killed_after_load(folder, len);
            let (region, counts) = Counts::of(|| options().open(&dead).expect("opens"));
            // Not before the background thread has begun, which closing waits for.
            region.writer().expect("sound");
            drop(region);
            std::fs::remove_file(dead).expect("there");
            std::fs::remove_file(folder.join("alive")).expect("there");
            counts
        };
        assert_eq!(opening(2 << 20), opening(12 << 20));
    }
}

/// On lanes, where a checkpoint costs next to nothing, also while others commit: a thousand records, too few bytes
/// to be looked at when nobody does.
#[test]
fn many_records_go_home_by_themselves() {
    let place = places::shared_memory();
    let region = options().open(place.region()).expect("creates");
    for n in 0..1001u64 {
        commit(&region, 4096 + n % 512 * 8, &n.to_le_bytes());
    }
    while region.checkpoint_seq() == 0 {
        std::thread::yield_now();
    }
}

/// Its record is short, but what it names would be read by whoever opens the region next.
#[test]
fn what_was_loaded_in_bulk_goes_home_by_itself() {
    for folder in places::folders() {
        let mut options = options();
        options.max_size(16 << 20);
        let region = options
            .open(folder.path().join("a.region"))
            .expect("creates");
        load(&region, 100 << 10);
        while region.checkpoint_seq() < region.last_seq() {
            std::thread::yield_now();
        }
    }
}

/// What was replayed on lanes is home before anybody is answered; on a stream it is replayed once more.
#[test]
fn a_death_after_a_death_leaves_nothing_to_be_replayed_on_lanes() {
    for folder in places::folders() {
        let dead = killed(folder.path());
        let mut options = options();
        options.background(false);
        let region = options.open(&dead).expect("opens");
        assert_eq!(region.opened().records, 3);
        let again = folder.path().join("again");
        std::fs::copy(&dead, &again).expect("copies");
        let lanes = region.log_style() == LogStyle::Lanes;
        drop(region);
        let region = options.open(&again).expect("opens");
        assert_eq!(region.opened().records, if lanes { 0 } else { 3 });
        // SAFETY: within the home, which nobody changes now.
        let word = |at: usize| unsafe { region.base().add(at).read() };
        assert_eq!((word(8192), word(4096)), (7, 9));
    }
}

/// Whoever skips what was never written misses nothing: what is logged and not home counts as written anywhere.
#[test]
fn in_shared_memory_it_is_known_what_was_never_written() {
    let place = places::shared_memory();
    let mut options = options();
    options.background(false);
    let region = options.open(place.region()).expect("creates");
    region.extend(4 << 20).expect("room");
    let all = 0..4 << 20;
    assert_eq!(region.written(all.clone()), []);
    commit(&region, (1 << 20) + 5000, &[7; 8]);
    commit(&region, 3 << 20, &[7; 100 << 10]);
    assert_eq!(region.written(all.clone()), vec![all.clone()]);
    region.checkpoint().expect("no I/O error");
    let written = region.written(all.clone());
    // The file system may take more than a page at a time.
    for at in [(1 << 20) + 4096, 3 << 20, (3 << 20) + (96 << 10)] {
        let page = at..at + 4096;
        let holds = |part: &std::ops::Range<u64>| part.start <= page.start && page.end <= part.end;
        assert!(written.iter().any(holds), "{page:?} in {written:?}");
    }
    assert!(!written.contains(&all), "{written:?}");
    // On a disk nobody knows.
    let place = places::disk();
    let region = options.open(place.region()).expect("creates");
    let all = 0..1 << 20;
    assert_eq!(region.written(all.clone()), vec![all]);
}

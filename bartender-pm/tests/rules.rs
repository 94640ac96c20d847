//! Rules of DESIGN that are about the system around a region: addresses,
//! space, child processes.

use bartender_pm::{Durability, Error, LogStyle, Options, Record, Region};
use std::os::unix::fs::MetadataExt;

mod places;
use places::{folders, places};

fn options() -> Options {
    let mut options = Options::new();
    options.max_size(64 << 20).log_size(1 << 20);
    options
}

fn commit(region: &Region, offset: u64, word: u64) -> Result<(), Error> {
    let mut writer = region.writer()?;
    // SAFETY: inside the first 2 MiB; one thread.
    unsafe { region.base().add(offset as usize).cast::<u64>().write(word) };
    let mut record = Record::new();
    record.change(offset, &word.to_le_bytes());
    let ticket = writer.append(&mut record, Durability::Immediate)?;
    region.wait_durable(ticket.seq)
}

/// Rule 5: what is acknowledged can always be checkpointed, and the log of a
/// file consists of written blocks, not of holes or preallocated ones.
#[test]
fn the_space_of_log_and_home_is_there_before_it_is_used() {
    for folder in folders() {
        let path = folder.path().join("a.region");
        let region = options().open(&path).expect("creates");
        region.extend(10 << 20).expect("room");
        let meta = std::fs::metadata(&path).expect("there");
        let home = 10 << 20;
        let log = if region.log_style() == bartender_pm::LogStyle::Stream {
            1 << 20
        } else {
            0
        };
        assert!(
            meta.blocks() * 512 >= home + log,
            "{} blocks",
            meta.blocks()
        );
    }
}

/// Rule 5: a disk that is full is found out when the home grows, and harms nothing.
#[test]
fn a_full_disk_refuses_growth_and_nothing_else() {
    // A file size limit stands in for a full disk; it is the process's, so
    // this test is a process of its own.
    if std::env::var_os("BARTENDER_TEST_CHILD").is_none() {
        let status = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args([
                "--exact",
                "a_full_disk_refuses_growth_and_nothing_else",
                "--nocapture",
            ])
            .env("BARTENDER_TEST_CHILD", "1")
            .status()
            .expect("starts");
        assert!(status.success());
        return;
    }
    for folder in folders() {
        let region = options()
            .open(folder.path().join("a.region"))
            .expect("creates");
        let limit = libc::rlimit {
            rlim_cur: 16 << 20,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: plain system calls on values that outlive them.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
        }
        let error = region.extend(40 << 20).expect_err("beyond the limit");
        assert!(matches!(error, Error::Io { .. }), "{error}");
        region.extend(8 << 20).expect("within the limit");
        commit(&region, 4096, 7).expect("commits go on");
        region.close().expect("closes");
    }
}

/// Rule 10: a child of fork neither sees the view nor may write.
#[test]
fn a_child_of_fork_is_refused() {
    for place in places() {
        let region = options().open(place.region()).expect("creates");
        commit(&region, 4096, 7).expect("room");
        let mut writer = region.writer().expect("open");
        let mut record = Record::new();
        record.change(4096, &[1]);
        let file = || (!place.is_device()).then(|| std::fs::read(place.region()).expect("reads"));
        let before = file();
        // SAFETY: the child calls only what this test is about, and `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // Also where its parent was inside.
            let append = writer.append(&mut record, Durability::Immediate);
            let refused = matches!(append, Err(Error::Forked))
                && matches!(
                    writer.write_fresh(1 << 20, &[1; 128 << 10]),
                    Err(Error::Forked)
                )
                && matches!(region.writer(), Err(Error::Forked))
                && matches!(region.close(), Err(Error::Forked));
            // SAFETY: ends the child without running the parent's handlers.
            unsafe { libc::_exit(if refused { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: waits for the child made above.
        let waited = unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!((waited, status), (child, 0));
        assert!(file() == before, "the child has written");
        drop(writer);
        commit(&region, 4096, 8).expect("the parent goes on");
    }
}

/// A child that another thread is starting holds what its parent has open, for
/// a moment; here, as long as it takes.
#[test]
fn a_closed_region_is_free_whatever_children_there_are() {
    for place in places() {
        let path = place.region();
        let region = options().open(path).expect("creates");
        // SAFETY: the child calls only what this test is about, and waits.
        let child = unsafe { libc::fork() };
        if child == 0 {
            loop {
                // SAFETY: waits for the signal that ends the child.
                unsafe { libc::pause() };
            }
        }
        drop(region);
        let opened = options().open(path);
        // SAFETY: ends the child made above and waits for it.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
        opened.expect("the lock is free");
    }
}

/// But a child of fork that drops what it was born with takes nothing away.
#[test]
fn a_region_stays_locked_when_a_child_of_fork_drops_it() {
    for place in places() {
        let region = options().open(place.region()).expect("creates");
        // SAFETY: the child calls only what this test is about, and `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop(region);
            // SAFETY: ends the child without running the parent's handlers.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: waits for the child made above.
        unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!(status, 0);
        let error = options().open(place.region()).expect_err("it is open");
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        commit(&region, 4096, 8).expect("the parent goes on");
    }
}

/// Rule 10: the view is not inherited at all.
#[test]
fn a_child_that_touches_the_view_dies_without_harm() {
    for place in places() {
        let region = options().open(place.region()).expect("creates");
        commit(&region, 4096, 7).expect("room");
        // SAFETY: the child stores one byte and, if it lives, exits.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: this is the fault the test expects.
            unsafe {
                region.base().add(4096).write_volatile(1);
                libc::_exit(0);
            }
        }
        let mut status = 0;
        // SAFETY: waits for the child made above.
        unsafe { libc::waitpid(child, &mut status, 0) };
        assert!(
            libc::WIFSIGNALED(status),
            "the child could write to the view"
        );
    }
}

/// Rule 11: the view is at the home address, on this run and the next; a copy
/// of an open region is refused its place, and says so.
#[test]
fn the_view_is_at_the_home_address_or_nowhere() {
    for folder in folders() {
        let path = folder.path().join("a.region");
        let region = options().open(&path).expect("creates");
        let base = region.base().addr();
        assert!(
            (0x2000_0000_0000..0x3fff_ffff_ffff).contains(&base) && base.is_multiple_of(1 << 30)
        );
        commit(&region, 4096, 7).expect("room");
        let copy = folder.path().join("copy.region");
        std::fs::copy(&path, &copy).expect("copies");
        let error = options().open(&copy).expect_err("its place is taken");
        assert!(
            matches!(error, Error::AddressTaken { address, .. } if address == base as u64),
            "{error}"
        );
        drop(region);
        let region = options().open(&copy).expect("the place is free");
        assert_eq!(region.base().addr(), base);
        assert!(!region.opened().clean, "it was copied while open");
        // SAFETY: inside the first 2 MiB; one thread.
        assert_eq!(unsafe { region.base().add(4096).cast::<u64>().read() }, 7);
    }
}

/// Rule 13: recovery leaves the log as it is until a checkpoint has made the
/// home durable: a death right after it is recovered again.
#[test]
fn a_death_right_after_recovery_is_recovered_again() {
    for folder in folders() {
        let path = folder.path().join("a.region");
        let mut options = options();
        options.background(false);
        let region = options.open(&path).expect("creates");
        for i in 0..100 {
            commit(&region, 4096 + i * 64, i).expect("room");
        }
        let crashed = folder.path().join("b.region");
        std::fs::copy(&path, &crashed).expect("copies");
        drop(region);
        for generation in 2..6 {
            let region = options.open(&crashed).expect("recovers");
            // On lanes the recovery before has taken home what it replayed.
            let replayed = match region.log_style() {
                LogStyle::Lanes if generation > 2 => 1,
                _ => 100 + generation - 2,
            };
            assert_eq!(region.opened().records, replayed);
            for i in 0..100 {
                // SAFETY: inside the first 2 MiB; one thread.
                let word = unsafe { region.base().add(4096 + i * 64).cast::<u64>().read() };
                assert_eq!(word, i as u64);
            }
            commit(&region, 200_000 + generation * 8, generation).expect("room");
            // A copy is what a death would leave; the original is closed.
            let next = folder.path().join("next.region");
            std::fs::copy(&crashed, &next).expect("copies");
            drop(region);
            std::fs::rename(&next, &crashed).expect("renames");
        }
    }
}

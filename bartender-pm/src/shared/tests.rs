//! When a stream is taken home although nobody stops committing and its log is far from full: after so many records that a
//! recovery would take long for them.

use crate::medium::sim::{Image, SimKind, SimMedium, SimMemory};
use crate::{Durability, LogStyle, Options, Record, Region};
use std::time::Duration;

/// See `MANY_RECORDS_ON_STREAM`.
const MANY: u64 = 8192;

/// A region with one stream, which is much longer than what is appended here.
fn stream(background: bool) -> Region {
    const SIZE: u64 = 4 << 20;
    let memory = SimMemory::new(SIZE);
    let medium = SimMedium::new(SimKind::Disk, Image::default(), &memory);
    medium.stop_recording();
    let mut options = Options::new();
    options.max_size(SIZE).log_size(32 << 20);
    let region = options.background(background).open_on(medium);
    let region = region.expect("creates");
    assert_eq!(region.log_style(), LogStyle::Stream);
    region
}

/// A commit that waits for nothing.
fn commit(region: &Region) {
    let mut record = Record::new();
    record.change(4096, &[1]);
    let mut writer = region.writer().expect("open");
    let ticket = writer.append(&mut record, Durability::Eventual);
    ticket.expect("room");
}

#[test]
#[cfg_attr(miri, ignore = "many steps")]
fn a_stream_is_behind_with_so_many_records_and_not_before() {
    let region = stream(false);
    let shared = &region.shared;
    for _ in 0..2 {
        region.checkpoint().expect("no I/O error");
        assert_eq!(region.checkpoint_seq(), region.last_seq());
        (0..MANY).for_each(|_| commit(&region));
        assert!(!shared.is_behind(region.last_seq()));
        commit(&region);
        assert!(shared.is_behind(region.last_seq()));
        // Nothing else would have it taken home.
        assert!(shared.log.fill() < super::CHECKPOINT_FILL);
        region.sync().expect("no I/O error");
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn commits_that_never_pause_have_a_stream_taken_home() {
    let region = stream(true);
    let mut commits = 0;
    while region.checkpoint_seq() == 0 {
        commit(&region);
        commits += 1;
        // Slower, for the background thread to get its turn, and yet without a pause that it would take for the end.
        if commits > 2 * MANY {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(commits < 2 * MANY + 5000, "nothing is taken home");
    }
    assert!(region.shared.log.fill() < super::CHECKPOINT_FILL);
}

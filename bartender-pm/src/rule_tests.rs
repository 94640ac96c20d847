//! Rules about the mappings, each with what goes wrong without it: freezing
//! (rule 8) and giving the view back (rule 9). Real files, because the
//! simulated medium has no mappings.

use crate::{Durability, Options, Record, Region, mutant};

fn region(folder: &tempfile::TempDir) -> Region {
    let mut options = Options::new();
    options
        .max_size(64 << 20)
        .log_size(1 << 20)
        .background(false);
    options
        .open(folder.path().join("a.region"))
        .expect("creates")
}

fn put(region: &Region, offset: u64, word: u64) {
    let mut writer = region.writer().expect("open");
    // SAFETY: inside the first 2 MiB; one thread.
    unsafe { region.base().add(offset as usize).cast::<u64>().write(word) };
    let mut record = Record::new();
    record.change(offset, &word.to_le_bytes());
    let ticket = writer
        .append(&mut record, Durability::Immediate)
        .expect("room");
    region.wait_durable(ticket.seq).expect("no I/O error");
}

fn get(region: &Region, offset: u64) -> u64 {
    // SAFETY: as in `put`.
    unsafe { region.base().add(offset as usize).cast::<u64>().read() }
}

/// What a picture shows of a word that a checkpoint changed after it was taken.
fn frozen_word() -> u64 {
    let folder = tempfile::tempdir().expect("a folder");
    let region = region(&folder);
    put(&region, 4096, 1);
    region.checkpoint().expect("no I/O error");
    let frozen = region.freeze().expect("maps");
    put(&region, 4096, 2);
    region.checkpoint().expect("no I/O error");
    let mut word = [0; 8];
    frozen.read(4096, &mut word);
    u64::from_le_bytes(word)
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn a_checkpoint_copies_pages_for_frozen_pictures_first() {
    assert_eq!(frozen_word(), 1);
    assert_eq!(
        mutant::with("no_freeze", frozen_word),
        2,
        "the rule is what keeps it"
    );
}

/// What goes straight home lies where nothing is any more: but a picture that was taken before may show what was there.
#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn fresh_bytes_do_not_get_into_frozen_pictures() {
    let folder = tempfile::tempdir().expect("a folder");
    let region = region(&folder);
    put(&region, 128 << 10, 1);
    region.checkpoint().expect("no I/O error");
    let frozen = region.freeze().expect("maps");
    let mut writer = region.writer().expect("open");
    let fresh = vec![7; 128 << 10];
    writer.write_fresh(64 << 10, &fresh).expect("writes");
    drop(writer);
    let mut word = [0; 8];
    frozen.read(128 << 10, &mut word);
    assert_eq!(u64::from_le_bytes(word), 1);
}

/// What the view shows of a committed word after its pages were given back.
fn word_after_trim() -> u64 {
    let folder = tempfile::tempdir().expect("a folder");
    let region = region(&folder);
    put(&region, 4096, 1);
    region.checkpoint().expect("no I/O error");
    put(&region, 4096, 2);
    assert!(region.trim().expect("no I/O error"));
    get(&region, 4096)
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn the_view_is_given_back_only_where_the_home_has_caught_up() {
    assert_eq!(word_after_trim(), 2);
    assert_eq!(
        mutant::with("trim_unapplied", word_after_trim),
        1,
        "the rule is what keeps it"
    );
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn an_open_writer_keeps_the_view() {
    let folder = tempfile::tempdir().expect("a folder");
    let region = region(&folder);
    put(&region, 4096, 1);
    let writer = region.writer().expect("open");
    // SAFETY: as in `put`. A store that no record holds yet.
    unsafe { region.base().add(8192).cast::<u64>().write(7) };
    assert!(
        !region.trim().expect("no I/O error"),
        "the gate did not wait"
    );
    assert_eq!(get(&region, 8192), 7);
    drop(writer);
}

/// A region without a background thread whose view may have so many bytes of its own.
fn with_view_limit(folder: &tempfile::TempDir, bytes: u64) -> Region {
    let mut options = Options::new();
    options.max_size(64 << 20).log_size(1 << 20);
    options.background(false).view_limit(bytes);
    let path = folder.path().join("a.region");
    options.open(path).expect("creates")
}

/// A page that is changed again and again takes memory once: a program whose pages fit keeps them.
#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn a_page_counts_once_against_the_limit_of_the_view() {
    let folder = tempfile::tempdir().expect("a folder");
    let region = with_view_limit(&folder, 8 * 4096);
    for i in 0..40 {
        put(&region, 4096 * (1 + i % 8), i);
        region.checkpoint().expect("no I/O error");
    }
    assert_eq!(region.shared.home.private.len(), 8);
    assert!(!region.shared.view_is_over_limit());
    put(&region, 4096 * 9, 1);
    region.checkpoint().expect("no I/O error");
    assert!(region.shared.view_is_over_limit());
    assert!(region.trim().expect("no I/O error"));
    assert_eq!(region.shared.home.private.len(), 0);
}

/// A transaction that lasts does not have the others wait at the gate each time that something is checkpointed.
#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn giving_back_in_vain_is_not_tried_again_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let region = with_view_limit(&folder, 32 * 4096);
    let change_pages = |from: u64, n: u64| {
        (from..from + n).for_each(|page| put(&region, page * 4096, page));
        region.checkpoint().expect("no I/O error");
    };
    let shared = &region.shared;
    let long = region.writer().expect("open");
    change_pages(1, 40);
    assert!(shared.view_is_over_limit());
    shared.trim_to_limit();
    change_pages(1, 2);
    assert!(!shared.view_is_over_limit(), "it would be in vain again");
    change_pages(50, 4);
    assert!(shared.view_is_over_limit());
    drop(long);
    shared.trim_to_limit();
    change_pages(1, 33);
    assert!(shared.view_is_over_limit(), "as it was in the beginning");
}

/// What the view shows of fresh memory that was given back, after one attempt
/// to do so that failed.
#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn fresh_memory_that_could_not_be_given_back_is_not_lost() {
    const AT: u64 = 4 << 20;
    let folder = tempfile::tempdir().expect("a folder");
    let region = region(&folder);
    region.extend(AT + (4 << 20)).expect("room");
    let word = |at: u64| {
        // SAFETY: inside the home, of this test alone.
        unsafe { region.base().add(at as usize).cast::<u64>() }
    };
    let mut writer = region.writer().expect("open");
    for at in [AT, AT + (2 << 20)] {
        // SAFETY: as above.
        unsafe { word(at).write(7) };
        let bytes = 7u64.to_le_bytes();
        writer.write_fresh(at, &bytes).expect("inside");
    }
    drop(writer);
    let shared = &*region.shared;
    // The kernel refuses to map what cannot be read.
    let unmappable = std::fs::File::options()
        .write(true)
        .open(&shared.path)
        .expect("is there");
    let range = AT..AT + (1 << 20);
    let view = &shared.view;
    view.give_back(&*shared.medium, &unmappable, range)
        .expect_err("it cannot be mapped");
    assert!(region.trim().expect("no I/O error"));
    for at in [AT, AT + (2 << 20)] {
        // SAFETY: as above.
        assert_eq!(unsafe { word(at).read() }, 7);
    }
}

/// Each piece is a mapping, of which a process has so many.
#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn bulk_loads_do_not_cut_the_view_into_ever_more_pieces() {
    const LOAD: u64 = 2 << 20;
    const GAP: u64 = 128 << 10;
    let folder = tempfile::tempdir().expect("a folder");
    let region = region(&folder);
    let view = &region.shared.view;
    region.extend(24 * (LOAD + GAP)).expect("room");
    for i in 1..24 {
        let at = i * (LOAD + GAP);
        let bytes = vec![i as u8; LOAD as usize];
        let mut writer = region.writer().expect("open");
        // SAFETY: inside the home, of this test alone.
        unsafe {
            let to = region.base().add(at as usize);
            to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        writer.write_fresh(at, &bytes).expect("inside");
        let mut record = Record::new();
        record.extent(at, LOAD, crc32c::crc32c(&bytes));
        writer
            .append(&mut record, Durability::Immediate)
            .expect("room in the log");
    }
    assert!(view.pieces() <= 9, "{} pieces", view.pieces());
    assert!(region.trim().expect("no I/O error"));
    assert_eq!(view.pieces(), 0);
    for i in 1..24 {
        // SAFETY: as above.
        let last = unsafe { region.base().add((i * (LOAD + GAP) + LOAD - 1) as usize) };
        // SAFETY: as above.
        assert_eq!(unsafe { last.read() }, i as u8);
    }
}

/// Memory that a bulk load leaves in the view in small pieces counts like any
/// other, although the log never held it.
#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn fresh_memory_that_stays_private_counts_against_the_limit_of_the_view() {
    const PIECE: u64 = 128 << 10;
    let folder = tempfile::tempdir().expect("a folder");
    let region = with_view_limit(&folder, 8 * PIECE);
    let load = |pieces: std::ops::Range<u64>, len: u64| {
        for piece in pieces {
            let (at, bytes) = ((4 << 20) + piece * len, vec![1; len as usize]);
            region.extend(at + len).expect("room");
            let mut writer = region.writer().expect("open");
            writer.write_fresh(at, &bytes).expect("inside");
            let mut record = Record::new();
            record.extent(at, len, 0);
            let appended = writer.append(&mut record, Durability::Immediate);
            drop(writer);
            let seq = appended.expect("room").seq;
            region.wait_durable(seq).expect("no I/O error");
        }
    };
    load(0..8, PIECE);
    assert!(!region.shared.view_is_over_limit());
    load(8..9, PIECE);
    assert!(region.shared.view_is_over_limit());
    assert!(region.trim().expect("no I/O error"));
    // What was given back at once does not count.
    load(1..8, 4 << 20);
    assert!(!region.shared.view_is_over_limit());
}

/// A page of the first 2 MiB that nobody needs any more, which held a word.
const FREE: u64 = 1 << 20;

fn punch(region: &Region) -> bool {
    // SAFETY: tests keep no pointer there.
    unsafe { region.space().punch(FREE..FREE + 4096, region.last_seq()) }.expect("no I/O error")
}

/// What a picture shows of a word whose page was free when a hole was asked for.
fn pictured_word() -> u64 {
    let folder = tempfile::tempdir().expect("a folder");
    let region = region(&folder);
    put(&region, FREE, 7);
    region.checkpoint().expect("no I/O error");
    let frozen = region.freeze().expect("maps");
    punch(&region);
    let mut word = [0; 8];
    frozen.read(FREE, &mut word);
    drop(frozen);
    assert!(punch(&region), "no picture, no reason to wait");
    u64::from_le_bytes(word)
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn no_hole_is_punched_under_a_frozen_picture() {
    assert_eq!(pictured_word(), 7);
    assert_eq!(mutant::with("punch_under_pictures", pictured_word), 0);
}

/// What the view shows where a hole was punched, and the home.
fn view_and_home_of_a_hole() -> (u64, u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let region = region(&folder);
    put(&region, FREE, 7);
    assert!(!punch(&region), "the log may be replayed into it");
    region.checkpoint().expect("no I/O error");
    assert!(!region.space().may_have_holes());
    assert!(punch(&region));
    assert!(region.space().may_have_holes());
    region.space().refill(FREE..FREE + 4096).expect("room");
    let mut home = [0; 8];
    region.freeze().expect("maps").read(FREE, &mut home);
    (get(&region, FREE), u64::from_le_bytes(home))
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn the_view_shows_a_hole_as_the_home_does() {
    assert_eq!(view_and_home_of_a_hole(), (0, 0));
    assert_eq!(
        mutant::with("punch_below_view", view_and_home_of_a_hole),
        (7, 0)
    );
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn that_there_may_be_holes_outlives_the_region() {
    let folder = tempfile::tempdir().expect("a folder");
    let holes = |region: Region| region.space().may_have_holes();
    assert!(!holes(region(&folder)));
    let first = region(&folder);
    assert!(punch(&first));
    drop(first);
    assert!(holes(region(&folder)));
}

//! Two copies of one region, one of them damaged: what is compared, and that repairing undoes nothing, whenever it crashes.

#![allow(unsafe_code)]

use super::SCRUB_PAGE;
use crate::medium::sim::{Bound, Image, SimKind, SimMedium, SimMemory};
use crate::{
    Durability, Error, Options, Record, Region, Replication, Result, Sealed, Standby, mutant,
};
use std::sync::Arc;

const MAX_SIZE: u64 = 4 << 20;
const WORDS: u64 = 12;
const PAGE: usize = SCRUB_PAGE as usize;

/// Everybody has it at once.
#[derive(Debug)]
struct Alone;

impl Replication for Alone {
    fn lead(&self, batch: Sealed<'_>) -> Result<()> {
        let written = batch.write_local();
        batch.finish(written)
    }
}

fn options() -> Options {
    let mut options = Options::new();
    options
        .max_size(MAX_SIZE)
        .log_size(16 << 10)
        .background(false)
        .replicated(1, Arc::new(Alone));
    options
}

/// Words lie two to a page.
fn place(i: u64) -> u64 {
    SCRUB_PAGE + i / 2 * SCRUB_PAGE + i % 2 * 2048
}

struct Pair {
    region: Region,
    standby: Standby,
    ours: Arc<SimMedium>,
    theirs: Arc<SimMedium>,
    /// Where the standby is in the stream.
    sent: u64,
    memory: Arc<SimMemory>,
    home: u64,
}

impl Pair {
    fn new(kind: SimKind) -> Pair {
        let memories = [SimMemory::new(MAX_SIZE), SimMemory::new(MAX_SIZE)];
        let ours = SimMedium::new(kind, Image::default(), &memories[0]);
        let region = options().open_on(ours.clone()).expect("creates");
        region.sync().expect("the link");
        let picture = region.picture().expect("a picture");
        let theirs = SimMedium::new(kind, Image::default(), &memories[1]);
        let installing = Standby::install_on(theirs.clone(), &picture.header).expect("installs");
        let standby = installing.finish().expect("a copy");
        standby.promise(1).expect("the first");
        let home = region.shared.home.offset;
        let memory = memories[1].clone();
        let mut pair = Pair {
            region,
            standby,
            ours,
            theirs,
            sent: picture.head,
            memory,
            home,
        };
        pair.ship();
        pair
    }

    fn ship(&mut self) {
        let end = self.region.stream().end;
        let bytes = self.region.read_stream(self.sent, end - self.sent);
        let bytes = bytes.expect("it is there");
        self.sent = self.standby.receive(1, self.sent, &bytes).expect("fits");
        self.standby.commit(1, end);
    }

    /// Sets some words to `value` on both.
    fn commit(&mut self, words: impl Iterator<Item = u64>, value: u64) {
        let mut writer = self.region.writer().expect("open");
        let mut record = Record::new();
        for i in words {
            // SAFETY: inside the home; one thread.
            unsafe {
                let at = self.region.base().add(place(i) as usize);
                at.cast::<u64>().write(value);
            }
            record.change(place(i), &value.to_le_bytes());
        }
        writer
            .append(&mut record, Durability::Immediate)
            .expect("room");
        drop(writer);
        self.region.sync().expect("durable");
        self.ship();
    }

    /// The number at which both are exact.
    fn settle(&self) -> u64 {
        let (number, _) = self.region.settle_home().expect("sound");
        assert!(self.standby.settle_home(number).expect("sound"));
        number
    }

    fn word(&self, i: u64) -> u64 {
        // SAFETY: inside the home; one thread.
        unsafe {
            self.region
                .base()
                .add(place(i) as usize)
                .cast::<u64>()
                .read()
        }
    }
}

fn kinds() -> [SimKind; 2] {
    [SimKind::Dax, SimKind::Disk]
}

#[test]
fn homes_that_are_exact_at_one_number_are_the_same_and_others_are_not_compared() {
    for kind in kinds() {
        let mut pair = Pair::new(kind);
        pair.commit(0..WORDS, 1);
        let number = pair.settle();
        let (mut a, mut b) = (vec![1; PAGE], vec![2; PAGE]);
        for offset in (0..MAX_SIZE).step_by(PAGE) {
            assert!(pair.region.read_home(number, offset, &mut a).expect("ok"));
            assert!(pair.standby.read_home(number, offset, &mut b).expect("ok"));
            assert_eq!(a, b, "at {offset}");
        }
        pair.commit(0..2, 2);
        // Committed, and not at home yet.
        assert!(pair.standby.read_home(number, 0, &mut b).expect("ok"));
        let later = pair.region.settle_home().expect("sound").0;
        assert!(later > number);
        assert!(!pair.region.read_home(number, 0, &mut a).expect("ok"));
        assert!(!pair.standby.read_home(later, 0, &mut b).expect("ok"));
        // A backup goes to the number that is named, and not to what it has.
        pair.commit(0..2, 3);
        assert!(pair.standby.settle_home(later).expect("sound"));
        assert!(pair.standby.read_home(later, place(0), &mut b).expect("ok"));
        assert_eq!(b[0], 2);
        pair.standby.checkpoint().expect("sound");
        assert!(!pair.standby.settle_home(later).expect("sound"));
        assert!(!pair.standby.repair_home(later, 0, &a).expect("ok"));
    }
}

#[test]
fn what_recovery_took_home_is_not_taken_for_less() {
    for kind in kinds() {
        let mut pair = Pair::new(kind);
        pair.commit(0..WORDS, 1);
        let number = pair.settle();
        pair.commit(0..WORDS, 2);
        let later = pair.region.settle_home().expect("sound").0;
        // The next record says that the one before is everywhere.
        pair.commit(0..1, 3);
        let image = pair.theirs.image();
        drop((pair.standby, pair.theirs));
        let medium = SimMedium::new(kind, image, &pair.memory);
        let standby = Standby::open_on(medium).expect("opens");
        assert!(standby.position().checkpoint <= number);
        let mut page = vec![0; PAGE];
        assert!(!standby.read_home(number, place(0), &mut page).expect("ok"));
        assert!(!standby.settle_home(number).expect("sound"));
        assert!(standby.settle_home(later).expect("sound"));
        assert!(standby.read_home(later, place(0), &mut page).expect("ok"));
        assert_eq!(page[0], 2);
    }
}

/// A page is damaged, repaired while records go on, and the machine crashes at any point.
fn explore(kind: SimKind) -> Result<u64, String> {
    const REPAIRED: u64 = 7;
    let mut pair = Pair::new(kind);
    pair.commit(0..WORDS, 1);
    pair.commit(0..4, 2);
    let number = pair.settle();
    let offset = place(0);
    let mut right = vec![0; PAGE];
    assert!(
        pair.region
            .read_home(number, offset, &mut right)
            .expect("ok")
    );
    pair.theirs.damage(pair.home + offset, &[0xee; PAGE]);
    let before = pair.theirs.trace().events().len();
    let mut repaired = pair.standby.repair_home(number, offset, &right);
    pair.theirs.note(REPAIRED);
    pair.commit(0..1, 3);
    pair.commit(1..8, 4);
    pair.standby.checkpoint().expect("sound");
    // Late: what it brings is older than what is there.
    if repaired.is_ok() {
        repaired = pair.standby.repair_home(number, offset, &right);
        assert!(mutant::ON && mutant::is("repair_whenever") || matches!(repaired, Ok(false)));
    }
    pair.commit(8..WORDS, 5);
    pair.region.checkpoint().expect("sound");
    let ours = pair.ours.image();
    let (home, memory, epoch_end) = (pair.home, pair.memory.clone(), pair.region.committed());
    let stream = |from: u64| pair.region.read_stream(from, epoch_end - from);
    let trace = pair.theirs.trace();
    drop((pair.standby, pair.theirs));
    let wide = Bound {
        images_per_point: if cfg!(miri) { 2 } else { 48 },
        points: if cfg!(miri) { 4 } else { usize::MAX },
        ..Bound::default()
    };
    let explored = trace.explore(wide, |crash| {
        if crash.event <= before {
            return Ok(());
        }
        let medium = SimMedium::new(kind, crash.image.clone(), &memory);
        let standby = Standby::open_on(medium.clone()).map_err(|e| e.to_string())?;
        let at = standby.promise(1).map_err(|e| e.to_string())?.committed;
        // The log is longer than all of it.
        let missing = stream(at).map_err(|e| e.to_string())?;
        standby
            .receive(1, at, &missing)
            .map_err(|e| format!("{e}, at {at}"))?;
        standby.commit(1, epoch_end);
        standby.checkpoint().map_err(|e| e.to_string())?;
        let image = medium.image();
        let (mut a, mut b) = (vec![0; PAGE], vec![0; PAGE]);
        for page in (0..MAX_SIZE / 2).step_by(PAGE) {
            ours.read(home + page, &mut a);
            image.read(home + page, &mut b);
            if a == b {
                continue;
            }
            // Of the damaged page each byte may still be damaged, until the repair is done.
            let partly = a.iter().zip(&b).all(|(a, b)| a == b || *b == 0xee);
            if page != offset || !partly || crash.notes.contains(&REPAIRED) {
                return Err(format!("the home differs at {page} after a crash"));
            }
        }
        Ok(())
    });
    explored.map_err(|error| error.to_string())
}

#[test]
fn a_repair_that_crashes_anywhere_makes_nothing_worse_and_undoes_nothing() {
    for kind in kinds() {
        let images = explore(kind).expect("all images recover");
        assert!(images > 20 || cfg!(miri), "{images}");
    }
}

#[test]
fn a_repair_with_bytes_of_another_number_is_noticed() {
    let caught = mutant::with("repair_whenever", || explore(SimKind::Disk));
    assert!(caught.is_err(), "nothing noticed it");
}

#[test]
fn a_page_that_cannot_be_read_can_be_written_again() {
    let mut pair = Pair::new(SimKind::Disk);
    pair.commit(0..WORDS, 1);
    let number = pair.settle();
    let (offset, mut right, mut page) = (place(2), vec![0; PAGE], vec![0; PAGE]);
    pair.theirs.spoil(pair.home + offset + 512, 512);
    let read = pair.standby.read_home(number, offset, &mut page);
    assert!(matches!(read, Err(Error::Io { .. })), "{read:?}");
    assert!(pair.standby.check_usable().is_ok());
    assert!(
        pair.region
            .read_home(number, offset, &mut right)
            .expect("ok")
    );
    assert!(
        pair.standby
            .repair_home(number, offset, &right)
            .expect("ok")
    );
    assert!(
        pair.standby
            .read_home(number, offset, &mut page)
            .expect("ok")
    );
    assert_eq!(page, right);
}

#[test]
fn a_healed_view_shows_what_was_repaired_and_what_came_since() {
    for kind in kinds() {
        let mut pair = Pair::new(kind);
        pair.commit(0..WORDS, 1);
        let number = pair.settle();
        let (offset, mut right) = (place(0), vec![0; PAGE]);
        assert!(
            pair.standby
                .read_home(number, offset, &mut right)
                .expect("ok")
        );
        pair.ours.damage(pair.home + offset, &[0xee; PAGE]);
        // SAFETY: inside the home; one thread. As a page that was copied from the damaged home.
        unsafe {
            pair.region
                .base()
                .add(offset as usize)
                .write_bytes(0xee, PAGE)
        };
        assert!(pair.region.repair_home(number, offset, &right).expect("ok"));
        assert_ne!(pair.word(0), 1);
        let inside = pair.region.writer().expect("open");
        assert!(!pair.region.heal_view(offset, SCRUB_PAGE).expect("ok"));
        drop(inside);
        pair.commit(1..3, 2);
        assert!(pair.region.heal_view(offset, SCRUB_PAGE).expect("ok"));
        let words: Vec<_> = (0..4).map(|i| pair.word(i)).collect();
        assert_eq!(words, [1, 2, 2, 1]);
    }
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn a_file_is_read_back_and_its_view_healed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("region");
    let region = options().open(&path).expect("creates");
    let commit = |i: u64, value: u64| {
        let mut writer = region.writer().expect("open");
        let mut record = Record::new();
        // SAFETY: inside the home; one thread.
        unsafe {
            let at = region.base().add(place(i) as usize);
            at.cast::<u64>().write(value);
        }
        record.change(place(i), &value.to_le_bytes());
        writer
            .append(&mut record, Durability::Immediate)
            .expect("room");
        drop(writer);
        region.sync().expect("durable");
    };
    commit(0, 1);
    let (number, _) = region.settle_home().expect("sound");
    let mut right = vec![0; 4 * PAGE];
    assert!(region.read_home(number, 0, &mut right).expect("ok"));
    assert_eq!(right[place(0) as usize], 1);
    // Behind its end there are zeroes.
    let mut behind = vec![1; 2 * PAGE];
    let end = region.size();
    let read = region.read_home(number, end - SCRUB_PAGE, &mut behind);
    assert!(read.expect("ok") && behind.iter().all(|&b| b == 0));

    let medium = &region.shared.medium;
    let home = region.shared.home.offset;
    medium.write(home + place(0), &[0xee; 8]).expect("a file");
    commit(1, 2);
    // The program's page has the damage now.
    let (number, _) = region.settle_home().expect("sound");
    right[place(1) as usize] = 2;
    let page = &right[PAGE..2 * PAGE];
    assert!(region.repair_home(number, SCRUB_PAGE, page).expect("ok"));
    assert!(region.heal_view(SCRUB_PAGE, SCRUB_PAGE).expect("ok"));
    // SAFETY: inside the view; one thread.
    let view = unsafe { std::slice::from_raw_parts(region.base().add(PAGE), PAGE) };
    assert_eq!(view, page);
    let mut again = vec![0; PAGE];
    assert!(
        region
            .read_home(number, SCRUB_PAGE, &mut again)
            .expect("ok")
    );
    assert_eq!(again, page);
}

/// The view has no memory of its own for a page that shows the home again; a page that lies beside it keeps its own.
#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn a_page_that_was_healed_counts_no_more_against_the_limit_of_the_view() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("region");
    let region = options().open(path).expect("creates");
    let mut record = Record::new();
    // Three pages.
    (0..6).for_each(|i| record.change(place(i), &1u64.to_le_bytes()));
    let mut writer = region.writer().expect("open");
    for i in 0..6 {
        // SAFETY: inside the home; one thread.
        unsafe {
            let at = region.base().add(place(i) as usize);
            at.cast::<u64>().write(1);
        }
    }
    writer
        .append(&mut record, Durability::Immediate)
        .expect("room");
    drop(writer);
    region.sync().expect("durable");
    region.settle_home().expect("sound");
    let private = || region.shared.home.private.len();
    assert_eq!(private(), 3);
    assert!(region.heal_view(place(2), SCRUB_PAGE).expect("ok"));
    assert_eq!(private(), 2);
    let inside = region.writer().expect("open");
    assert!(!region.heal_view(place(0), SCRUB_PAGE).expect("ok"));
    drop(inside);
    assert_eq!(private(), 2, "it was not healed");
    assert!(region.heal_view(0, 8 * SCRUB_PAGE).expect("ok"));
    assert_eq!(private(), 0);
}

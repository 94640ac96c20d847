//! Crash exploration of the log, the checkpoint, recovery, growth and the
//! header; and the mutants, which it must catch.
//!
//! The workload is an array of words. Transaction k sets some of them to k; the
//! model keeps the array after each. Whatever image a crash leaves, recovery
//! must give the array after a transactions, a at least the last acknowledged
//! one and at most the last one begun. Then it goes on: one more transaction,
//! of the size of the one that may have been torn, a second recovery, and the
//! array must be the model's again.

use crate::medium::sim::{Bound, Crash, Event, Image, Rng, SimKind, SimMedium, SimMemory, Trace};
use crate::{Durability, Error, Options, Record, Region, mutant};
use std::sync::Arc;

const MAX_SIZE: u64 = 8 << 20;
const WORDS: usize = 96;

/// Words that a wide transaction changes.
const WIDE: usize = if cfg!(miri) { 4 } else { 40 };

fn options() -> Options {
    let mut options = Options::new();
    options
        .max_size(MAX_SIZE)
        .log_size(16 << 10)
        .lanes(2)
        .background(false);
    options
}

/// Home offset of word `i`: three to a page, the pages over the whole home.
fn place(i: usize, grown: bool) -> u64 {
    let pages = if grown && i % 4 == 3 { 900 } else { 250 };
    4096 + (i as u64 / 3 * 37 % pages) * 4096 + (i as u64 % 3) * 520
}

type Words = Vec<u64>;

#[derive(Clone, Copy)]
struct Workload {
    kind: SimKind,
    transactions: u64,
    /// Words a transaction changes.
    width: usize,
    /// Checkpoint after every so many transactions.
    checkpoint_every: u64,
    grow: bool,
    fresh: bool,
    /// Transactions appended before one wait (a stream's batch).
    batch: u64,
    seed: u64,
}

struct Run {
    /// The view's memory, the same before and after each crash.
    memory: Arc<SimMemory>,
    trace: Trace,
    /// The array after each transaction.
    states: Vec<Words>,
    workload: Workload,
}

fn write_word(region: &Region, record: &mut Record, offset: u64, value: u64) {
    // SAFETY: inside the home; these tests have one thread.
    unsafe {
        region
            .base()
            .add(offset as usize)
            .cast::<u64>()
            .write(value)
    };
    record.change(offset, &value.to_le_bytes());
}

impl Workload {
    fn grown(&self, k: u64) -> bool {
        self.grow && k * 2 > self.transactions
    }

    /// Appends transaction `k`; returns its number.
    fn commit(&self, region: &Region, words: &mut Words, k: u64, rng: &mut Rng) -> u64 {
        if self.grown(k) {
            region.extend(4 << 20).expect("room");
        }
        let mut record = Record::new();
        let mut writer = region.writer().expect("open");
        // A second writer inside takes the other lane.
        let mut other = region.writer().expect("open");
        for _ in 0..self.width {
            let i = rng.below(WORDS as u64) as usize;
            if i % 4 == 3 && self.grow && !self.grown(k) {
                continue;
            }
            words[i] = k;
            write_word(region, &mut record, place(i, self.grow), k);
        }
        let writer = if k.is_multiple_of(2) {
            &mut writer
        } else {
            &mut other
        };
        if self.fresh && k.is_multiple_of(3) {
            let bytes = vec![k as u8; 4096];
            // Pages of their own, each used once.
            let offset = (1 << 20) + (1 << 19) + k * 8192;
            writer.write_fresh(offset, &bytes).expect("inside");
            record.extent(offset, 4096, crc32c::crc32c(&bytes));
        }
        writer
            .append(&mut record, Durability::Immediate)
            .expect("room")
            .seq
    }

    fn run(self) -> Run {
        let memory = SimMemory::new(MAX_SIZE);
        let sim = SimMedium::new(self.kind, Image::default(), &memory);
        let region = options().open_on(sim.clone()).expect("creates");
        let mut rng = Rng(self.seed);
        let mut words = vec![0; WORDS];
        let mut states = vec![words.clone()];
        for k in 1..=self.transactions {
            let seq = self.commit(&region, &mut words, k, &mut rng);
            states.push(words.clone());
            if k % self.batch == 0 || k == self.transactions {
                region.wait_durable(seq).expect("no I/O error");
                sim.note(k);
            }
            if k % self.checkpoint_every == 0 {
                region.checkpoint().expect("no I/O error");
            }
        }
        region.close().expect("no I/O error");
        let trace = sim.trace();
        drop(region);
        drop(sim);
        Run {
            memory,
            trace,
            states,
            workload: self,
        }
    }
}

fn read_words(region: &Region, grow: bool) -> Words {
    (0..WORDS)
        .map(|i| {
            let offset = place(i, grow);
            if offset + 8 > region.size() {
                return 0;
            }
            // SAFETY: inside the home; these tests have one thread.
            unsafe { region.base().add(offset as usize).cast::<u64>().read() }
        })
        .collect()
}

impl Run {
    /// Opens `sim` and returns the region with the number of transactions in
    /// it, which must be between `least` and `most`.
    fn recover(
        &self,
        sim: &Arc<SimMedium>,
        least: usize,
        most: usize,
    ) -> Result<(Region, usize), String> {
        let region = options()
            .open_on(sim.clone())
            .map_err(|e| format!("does not open: {e}"))?;
        let words = read_words(&region, self.workload.grow);
        for k in (least..=most.min(self.states.len() - 1)).rev() {
            if self.states[k] == words {
                return Ok((region, k));
            }
        }
        Err(format!(
            "recovered to no state between {least} and {most}: {words:?}"
        ))
    }

    /// The check of one crash; `nested` explores crashes of the recovery too.
    fn check(
        &self,
        memory: &Arc<SimMemory>,
        crash: &Crash<'_>,
        nested: &mut u64,
    ) -> Result<(), String> {
        let least = crash.notes.last().copied().unwrap_or(0) as usize;
        let most = least + self.workload.batch as usize;
        let sim = SimMedium::new(self.workload.kind, crash.image.clone(), memory);
        let (region, k) = self.recover(&sim, least, most)?;
        // Leave as a crash would: without closing.
        let recovery = sim.trace();
        let mut words = self.states[k].clone();
        let mut rng = Rng(crash.event as u64);
        let seq = self.workload.commit(&region, &mut words, 1000, &mut rng);
        region.wait_durable(seq).map_err(|e| e.to_string())?;
        if crash.nth.is_multiple_of(2) {
            // The log begins behind it then, where an older epoch may have left records that nobody was told of.
            region.checkpoint().map_err(|e| e.to_string())?;
        }
        let after = sim.image();
        drop(region);
        drop(sim);
        let sim = SimMedium::new(self.workload.kind, after, memory);
        let region = options()
            .open_on(sim.clone())
            .map_err(|e| format!("second open: {e}"))?;
        let found = read_words(&region, self.workload.grow);
        drop(region);
        drop(sim);
        if found != words {
            return Err(format!(
                "after recovery to {k} and one more: {found:?} instead of {words:?}"
            ));
        }
        if crash.nth.is_multiple_of(7) {
            let bound = Bound {
                images_per_point: if cfg!(miri) { 1 } else { 6 },
                points: if cfg!(miri) { 1 } else { 4 },
                seed: crash.event as u64,
            };
            *nested += recovery.explore(bound, |crash| {
                let sim = SimMedium::new(self.workload.kind, crash.image, memory);
                let (_, again) = self.recover(&sim, least, most)?;
                if again == k {
                    Ok(())
                } else {
                    Err(format!("recovered to {k}, then to {again}"))
                }
            })?;
        }
        Ok(())
    }

    fn explore(&self, bound: Bound) -> Result<u64, String> {
        let mut nested = 0;
        let images = self
            .trace
            .explore(bound, |crash| self.check(&self.memory, &crash, &mut nested))?;
        Ok(images + nested)
    }
}

fn workload(kind: SimKind) -> Workload {
    Workload {
        kind,
        transactions: if cfg!(miri) { 3 } else { 24 },
        width: 3,
        checkpoint_every: if cfg!(miri) { 2 } else { 5 },
        grow: false,
        fresh: false,
        batch: 1,
        seed: 1,
    }
}

fn bound() -> Bound {
    Bound {
        images_per_point: if cfg!(miri) { 1 } else { 24 },
        points: if cfg!(miri) { 1 } else { usize::MAX },
        ..Bound::default()
    }
}

fn explore_and_print(name: &str, workload: Workload) {
    let run = workload.run();
    let images = run
        .explore(bound())
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    let barriers = run
        .trace
        .events()
        .iter()
        .filter(|e| matches!(e, Event::Persist(_)))
        .count();
    println!("{name}: {images} crash images of {barriers} barriers recovered");
    let least = if cfg!(miri) { 1 } else { 500 };
    assert!(images > least, "{name}: only {images} images");
}

#[test]
fn every_crash_on_lanes_is_recovered() {
    explore_and_print("lanes", workload(SimKind::Dax));
}

#[test]
#[cfg_attr(miri, ignore = "as on lanes, only longer")]
fn every_crash_on_a_stream_is_recovered() {
    explore_and_print(
        "stream",
        Workload {
            width: WIDE,
            ..workload(SimKind::Disk)
        },
    );
}

#[test]
#[cfg_attr(miri, ignore = "as on lanes, only longer")]
fn every_crash_of_a_batch_leaves_a_prefix() {
    explore_and_print(
        "batches",
        Workload {
            width: WIDE,
            batch: 3,
            ..workload(SimKind::Disk)
        },
    );
}

#[test]
#[cfg_attr(miri, ignore = "as on lanes, only longer")]
fn every_crash_of_growth_is_recovered() {
    for kind in [SimKind::Dax, SimKind::Disk] {
        explore_and_print(
            "growth",
            Workload {
                grow: true,
                ..workload(kind)
            },
        );
    }
}

#[test]
#[cfg_attr(miri, ignore = "as on lanes, only longer")]
fn every_crash_of_fresh_extents_is_recovered() {
    for kind in [SimKind::Dax, SimKind::Disk] {
        explore_and_print(
            "fresh extents",
            Workload {
                fresh: true,
                ..workload(kind)
            },
        );
    }
}

#[test]
#[cfg_attr(miri, ignore = "as on lanes, only longer")]
fn every_crash_of_a_small_wrapping_log_is_recovered() {
    let many = Workload {
        transactions: 60,
        width: WIDE,
        checkpoint_every: 1000,
        ..workload(SimKind::Dax)
    };
    explore_and_print("wrapping", many);
}

/// Runs `workload` and its exploration with one rule switched off; returns
/// whether anything was noticed.
fn caught(name: &'static str, workload: Workload) -> bool {
    let result = std::panic::catch_unwind(|| {
        mutant::with(name, || {
            workload.run().explore(Bound {
                images_per_point: 64,
                ..bound()
            })
        })
    });
    match result {
        Ok(Ok(images)) => {
            println!("{name}: survived {images} images");
            false
        }
        Ok(Err(_)) | Err(_) => true,
    }
}

#[test]
#[cfg_attr(miri, ignore = "thousands of images")]
fn mutants_are_caught() {
    let dax = workload(SimKind::Dax);
    let disk = Workload {
        width: WIDE,
        ..workload(SimKind::Disk)
    };
    let fresh = Workload { fresh: true, ..dax };
    let batches = Workload { batch: 3, ..disk };
    for (name, workload) in [
        ("no_checksum", Workload { width: 12, ..dax }),
        ("truncate_first", dax),
        ("no_home_barrier", dax),
        ("no_replay_barrier", dax),
        ("no_log_barrier", dax),
        ("no_fresh_barrier", fresh),
        ("one_header", dax),
        ("same_epoch", batches),
        ("any_epoch", batches),
    ] {
        assert!(caught(name, workload), "the mutant {name} was not noticed");
    }
}

/// A process dies between a store to the log and its barrier; the machine goes
/// on. The next process finds the record whole in the cache, and builds on it.
fn dead_process_then_power_loss(kind: SimKind) -> Result<(), String> {
    let memory = SimMemory::new(MAX_SIZE);
    let sim = SimMedium::new(kind, Image::default(), &memory);
    let region = options().open_on(sim.clone()).expect("creates");
    let commit = |region: &Region, k: u64| {
        let mut record = Record::new();
        let mut writer = region.writer()?;
        write_word(region, &mut record, 4096, k);
        let second = if k > 1 { k } else { 0 };
        write_word(region, &mut record, 8192, second);
        let ticket = writer.append(&mut record, Durability::Immediate)?;
        drop(writer);
        region.wait_durable(ticket.seq)
    };
    sim.fail_in(0);
    assert!(commit(&region, 1).is_err());
    assert!(matches!(region.writer(), Err(Error::Poisoned { .. })));
    drop(region);
    sim.fail_never();
    let region = options().open_on(sim.clone()).expect("recovers");
    // SAFETY: inside the home; one thread.
    let seen = unsafe { region.base().add(4096).cast::<u64>().read() };
    assert_eq!(seen, 1, "the record was whole in the cache");
    sim.note(seen);
    drop(region);
    let trace = sim.trace();
    drop(sim);
    trace.explore(Bound::default(), |crash| {
        let sim = SimMedium::new(kind, crash.image, &memory);
        let region = options().open_on(sim.clone()).map_err(|e| e.to_string())?;
        // SAFETY: as above.
        let now = unsafe { region.base().add(4096).cast::<u64>().read() };
        if !crash.notes.is_empty() && now != 1 {
            return Err("what was shown after the first recovery is gone".to_string());
        }
        Ok(())
    })?;
    Ok(())
}

#[test]
#[cfg_attr(miri, ignore = "many images")]
fn what_recovery_found_in_a_cache_is_made_durable_before_it_is_shown() {
    // On lanes what was replayed is home, durably, by then; the log is no less so.
    for (kind, rule) in [
        (SimKind::Dax, "no_replay_barrier"),
        (SimKind::Disk, "no_repersist"),
    ] {
        dead_process_then_power_loss(kind).expect("nothing shown is lost");
        let mutant = mutant::with(rule, || dead_process_then_power_loss(kind));
        assert!(mutant.is_err(), "the mutant {rule} was not noticed");
    }
}

#[test]
fn damage_below_what_was_durable_is_an_error_and_not_the_end_of_the_log() {
    let damaged = || {
        let memory = SimMemory::new(MAX_SIZE);
        let run = Workload {
            checkpoint_every: 1000,
            ..workload(SimKind::Disk)
        };
        let sim = SimMedium::new(SimKind::Disk, Image::default(), &memory);
        let region = options().open_on(sim.clone()).expect("creates");
        let mut words = vec![0; WORDS];
        let mut rng = Rng(1);
        for k in 1..=10 {
            let seq = run.commit(&region, &mut words, k, &mut rng);
            region.wait_durable(seq).expect("no I/O error");
        }
        let mut image = sim.image();
        drop(region);
        drop(sim);
        let at = crate::layout::LOG_OFFSET + 3 * 128 + 40;
        let mut byte = [0];
        image.read(at, &mut byte);
        image.write(at, &[byte[0] ^ 1]);
        let sim = SimMedium::new(SimKind::Disk, image, &memory);
        options().open_on(sim).map(drop)
    };
    assert!(matches!(damaged(), Err(Error::Damaged { .. })));
    assert!(
        mutant::with("no_outlived", damaged).is_ok(),
        "the rule is what finds it"
    );
}

#[test]
fn an_io_error_poisons_and_what_was_acknowledged_survives() {
    for kind in [SimKind::Dax, SimKind::Disk] {
        for fail_in in (0..12).step_by(if cfg!(miri) { 8 } else { 1 }) {
            let memory = SimMemory::new(MAX_SIZE);
            let sim = SimMedium::new(kind, Image::default(), &memory);
            let region = options().open_on(sim.clone()).expect("creates");
            sim.fail_in(fail_in);
            let mut acknowledged = 0;
            let mut k = 0;
            let error = loop {
                k += 1;
                let mut record = Record::new();
                let result = region.writer().and_then(|mut writer| {
                    write_word(&region, &mut record, 4096, k);
                    let ticket = writer.append(&mut record, Durability::Immediate)?;
                    region.wait_durable(ticket.seq)
                });
                match result {
                    Ok(()) => acknowledged = k,
                    Err(error) => break error,
                }
                if k % 3 == 0
                    && let Err(error) = region.checkpoint()
                {
                    break error;
                }
            };
            assert!(matches!(error, Error::Io { .. }), "{error}");
            assert!(matches!(region.writer(), Err(Error::Poisoned { .. })));
            assert!(region.close().is_err());
            drop(region);
            let image = sim.image();
            drop(sim);
            let sim = SimMedium::new(kind, image, &memory);
            let region = options().open_on(sim).expect("recovers");
            // SAFETY: inside the home; one thread.
            let found = unsafe { region.base().add(4096).cast::<u64>().read() };
            assert!(
                found == acknowledged || found == acknowledged + 1,
                "{found} {acknowledged}"
            );
        }
    }
}

/// Commits ten transactions over the same words and checkpoints: whether everything that is stored into the home
/// then is what stays there.
fn checkpoint_stores_what_stays(kind: SimKind) -> bool {
    let memory = SimMemory::new(MAX_SIZE);
    let sim = SimMedium::new(kind, Image::default(), &memory);
    let region = options().open_on(sim.clone()).expect("creates");
    let home = sim.image().len() - region.size();
    let mut words = vec![0; WORDS];
    let mut rng = Rng(1);
    let run = Workload {
        width: WIDE,
        ..workload(kind)
    };
    for k in 1..=10 {
        let seq = run.commit(&region, &mut words, k, &mut rng);
        region.wait_durable(seq).expect("no I/O error");
    }
    let before = sim.trace().events().len();
    region.checkpoint().expect("no I/O error");
    let (trace, now) = (sim.trace(), sim.image());
    let mut stored = 0;
    let stays = trace.events()[before..].iter().all(|event| match event {
        Event::Write(offset, bytes) if *offset >= home => {
            stored += 1;
            let mut last = vec![0; bytes.len()];
            now.read(*offset, &mut last);
            last == *bytes
        }
        _ => true,
    });
    assert!(stored > 0, "the checkpoint stored something");
    stays
}

#[test]
#[cfg_attr(miri, ignore = "as on lanes, only longer")]
fn a_checkpoint_shows_no_older_bytes_to_readers_of_the_view() {
    for kind in [SimKind::Dax, SimKind::Disk] {
        assert!(checkpoint_stores_what_stays(kind));
        let mutant = mutant::with("oldest_first", || checkpoint_stores_what_stays(kind));
        assert!(!mutant, "the mutant oldest_first was not noticed");
    }
}

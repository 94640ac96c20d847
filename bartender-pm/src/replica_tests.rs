//! Replicas that die, come back and take over, in random schedules: the rules of the log and of the
//! standby, without a network.
//!
//! *Fault model.* A machine may die between any two events of its medium, with any subset of what was not drained, and come back
//! with that. A primary may go on although another has taken over. The membership is one agreed record, as a coordinator keeps it:
//! epoch, primary, and who has to have everything (`in_sync`); a machine that is down may be taken off it by the primary.
//!
//! *Checked.* Each transaction writes its number, its predecessor's, and a word. Whoever becomes primary must hold the state after some
//! transaction whose ancestors are all that was ever answered. When quiet, the homes are the same. Mutants: `no_fencing`, `no_link`, `answer_one` (answered before all have it).

#![allow(unsafe_code)]

use crate::medium::sim::{Bound, Image, Rng, SimKind, SimMedium, SimMemory};
use crate::{
    Durability, Error, Options, Position, Record, Region, Replication, Result, Sealed, Standby,
    mutant,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const MAX_SIZE: u64 = 4 << 20;
const WORDS: usize = 24;
const NODES: usize = 3;

/// Nobody: the schedule leads by itself.
#[derive(Debug)]
struct Nobody;

impl Replication for Nobody {
    fn lead(&self, batch: Sealed<'_>) -> Result<()> {
        batch.finish(Err(Error::Fenced {
            epoch: 0,
            current: 0,
        }))
    }
}

fn options(epoch: u64) -> Options {
    let mut options = Options::new();
    options
        .max_size(MAX_SIZE)
        .log_size(8 << 10)
        .background(false)
        .replicated(epoch, Arc::new(Nobody));
    options
}

/// Words lie three to a page.
fn place(i: usize) -> u64 {
    4096 + (i as u64 / 3) * 4096 + (i as u64 % 3) * 520
}

type Words = Vec<u64>;

fn words_at(read: impl Fn(u64) -> u64) -> Words {
    (0..WORDS).map(|i| read(place(i))).collect()
}

fn words_of(region: &Region) -> Words {
    // SAFETY: inside the home; one thread.
    words_at(|at| unsafe { region.base().add(at as usize).cast::<u64>().read() })
}

/// What a machine is.
enum Role {
    Down(Image),
    Standby(Box<Standby>, Arc<SimMedium>),
    Primary(Region, Arc<SimMedium>),
}

struct World {
    rng: Rng,
    kind: SimKind,
    memories: Vec<Arc<SimMemory>>,
    nodes: Vec<Option<Role>>,
    /// The agreed record.
    epoch: u64,
    primary: usize,
    in_sync: BTreeSet<usize>,
    /// What each transaction left, and its predecessor.
    states: BTreeMap<u64, (Words, u64)>,
    answered: BTreeSet<u64>,
    next: u64,
    takeovers: u64,
}

type Check<T = ()> = Result<T, String>;

fn text(error: Error) -> String {
    error.to_string()
}

impl World {
    fn new(seed: u64, kind: SimKind) -> World {
        let memories: Vec<_> = (0..NODES).map(|_| SimMemory::new(MAX_SIZE)).collect();
        let sim = SimMedium::new(kind, Image::default(), &memories[0]);
        let region = options(1).open_on(sim.clone()).expect("creates");
        region
            .try_lead()
            .map(|link| link.write_local().and_then(|()| link.finish(Ok(()))))
            .expect("an epoch opens with a link")
            .expect("no error");
        let words = words_of(&region);
        let mut world = World {
            rng: Rng(seed),
            kind,
            memories,
            nodes: vec![Some(Role::Primary(region, sim)), None, None],
            epoch: 1,
            primary: 0,
            in_sync: BTreeSet::from([0]),
            states: BTreeMap::from([(0, (words, 0))]),
            answered: BTreeSet::from([0]),
            next: 1,
            takeovers: 0,
        };
        for node in 1..NODES {
            world.nodes[node] = Some(Role::Down(Image::default()));
        }
        world
    }

    fn medium(&self, node: usize, image: Image) -> Arc<SimMedium> {
        SimMedium::new(self.kind, image, &self.memories[node])
    }

    /// The machine dies, at the earliest before event `since` of its medium.
    fn kill(&mut self, node: usize, since: usize) {
        let sim = match self.nodes[node].take().expect("a role") {
            Role::Down(image) => {
                self.nodes[node] = Some(Role::Down(image));
                return;
            }
            Role::Standby(standby, sim) => {
                drop(standby);
                sim
            }
            Role::Primary(region, sim) => {
                sim.stop_recording();
                region.fence(u64::MAX);
                drop(region);
                sim
            }
        };
        let trace = sim.trace();
        let events = trace.events().len();
        let at =
            since.min(events) + self.rng.below((events - since.min(events)) as u64 + 1) as usize;
        let image = trace.image_before(at, &mut self.rng);
        drop(sim);
        self.nodes[node] = Some(Role::Down(image));
    }

    fn events(&self, node: usize) -> usize {
        match self.nodes[node].as_ref().expect("a role") {
            Role::Down(_) => 0,
            Role::Standby(_, sim) | Role::Primary(_, sim) => sim.trace().events().len(),
        }
    }

    fn standby(&self, node: usize) -> Option<&Standby> {
        match self.nodes[node].as_ref() {
            Some(Role::Standby(standby, _)) => Some(standby),
            _ => None,
        }
    }

    fn region(&self, node: usize) -> Option<&Region> {
        match self.nodes[node].as_ref() {
            Some(Role::Primary(region, _)) => Some(region),
            _ => None,
        }
    }

    /// A machine that was down comes back, as a standby if it has anything.
    fn restart(&mut self, node: usize) -> Check {
        let Some(Role::Down(image)) = self.nodes[node].take() else {
            return Err("only what is down is restarted".into());
        };
        if image.is_empty() {
            self.nodes[node] = Some(Role::Down(image));
            return Ok(());
        }
        let sim = self.medium(node, image.clone());
        self.nodes[node] = Some(match Standby::open_on(sim.clone()) {
            Ok(standby) => Role::Standby(standby.into(), sim),
            // Its copying was interrupted.
            Err(Error::Unfinished { .. }) if !self.in_sync.contains(&node) => {
                drop(sim);
                Role::Down(image)
            }
            Err(error) => return Err(format!("node {node} does not open: {error}")),
        });
        Ok(())
    }

    /// Sends `node` the stream from where it is up to `end`; `at` says what it has of this epoch.
    fn ship(&mut self, from: usize, node: usize, last: &[u8], start: u64) -> Check<bool> {
        let since = self.events(node);
        let (region, standby) = match (self.region(from), self.standby(node)) {
            (Some(region), Some(standby)) => (region, standby),
            _ => return Ok(false),
        };
        let epoch = region.epoch();
        let mut at = match standby.promise(epoch) {
            Ok(Position { committed, .. }) => committed,
            Err(Error::Fenced { .. }) => return Ok(false),
            Err(error) => return Err(text(error)),
        };
        let first = region.stream().start;
        if at < first && self.in_sync.contains(&node) {
            standby.commit(epoch, first);
            at = standby.position().committed;
        }
        if !(first..=start).contains(&at) {
            return Err(format!(
                "node {node} is at {at}, the primary at {first} to {start}"
            ));
        }
        let mut bytes = region.read_stream(at, start - at).map_err(text)?;
        bytes.extend_from_slice(last);
        match standby.receive(epoch, at, &bytes) {
            Ok(_) => {}
            Err(Error::Fenced { .. }) => return Ok(false),
            Err(error) => return Err(format!("node {node}: {error}")),
        }
        if self.rng.below(12) == 0 {
            self.kill(node, since);
            return Ok(false);
        }
        Ok(true)
    }

    /// The primary `node` ships what has gathered: answers it if everybody has it.
    fn lead(&mut self, node: usize) -> Check<bool> {
        let since = self.events(node);
        let Some(region) = self.region(node).cloned() else {
            return Ok(false);
        };
        let Some(batch) = region.try_lead() else {
            return Ok(true);
        };
        // Its own idea of who has to have it: the agreed record of its epoch.
        let others: Vec<usize> = (0..NODES)
            .filter(|other| *other != node && self.in_sync.contains(other))
            .collect();
        let own = self.primary == node && self.epoch == region.epoch();
        let (bytes, start) = (batch.bytes(), batch.start());
        let local_first = self.rng.below(2) == 0;
        let mut written = Ok(());
        if local_first {
            written = batch.write_local();
        }
        let mut everywhere = true;
        for other in others {
            let got = self.ship(node, other, &bytes, start)?;
            if !got && own && self.standby(other).is_none() && self.rng.below(2) == 0 {
                // It is down: the coordinator takes it off.
                self.in_sync.remove(&other);
            } else if !mutant::is("answer_one") {
                everywhere &= got;
            }
        }
        // A primary that was superseded has to have been told by somebody: whoever took over was in sync.
        if !own && !mutant::is("no_fencing") {
            everywhere = false;
        }
        if !local_first {
            written = batch.write_local();
        }
        let dies = self.rng.below(10) == 0;
        if !everywhere || dies {
            drop(batch);
            drop(region);
            self.kill(node, since);
            return Ok(false);
        }
        batch.finish(written).map_err(text)?;
        Ok(true)
    }

    fn commit(&mut self, node: usize) -> Check {
        let Some(region) = self.region(node).cloned() else {
            return Ok(());
        };
        let stream = region.stream();
        if stream.end - stream.start > 3 << 10 {
            // Room for what comes, which would wait for it.
            drop(region);
            if !self.lead(node)? {
                return Ok(());
            }
            return self
                .region(node)
                .expect("it leads")
                .checkpoint()
                .map_err(text);
        }
        let mut words = words_of(&region);
        let before = words[0];
        let number = self.next;
        self.next += 1;
        words[0] = number;
        words[1] = before;
        let mut changed = vec![0, 1];
        // Lengths repeat and differ, so that records of different primaries meet at the same offsets.
        for _ in 0..self.rng.below(3) * 4 {
            let i = 2 + self.rng.below(WORDS as u64 - 2) as usize;
            words[i] = number;
            changed.push(i);
        }
        let mut record = Record::new();
        let mut writer = match region.writer() {
            Ok(writer) => writer,
            Err(_) => return Ok(()),
        };
        for &i in &changed {
            // SAFETY: inside the home; one thread.
            unsafe {
                let at = region.base().add(place(i) as usize);
                at.cast::<u64>().write(words[i]);
            }
            record.change(place(i), &words[i].to_le_bytes());
        }
        writer
            .append(&mut record, Durability::Eventual)
            .map_err(text)?;
        drop(writer);
        drop(region);
        self.states.insert(number, (words, before));
        // Sometimes a batch has several records.
        if self.rng.below(3) != 0 && self.lead(node)? {
            let mut up = number;
            while self.answered.insert(up) {
                up = self.states[&up].1;
            }
        }
        Ok(())
    }

    /// Somebody who has everything takes over, or the primary that died comes back.
    fn take_over(&mut self) -> Check {
        let able: Vec<usize> = self
            .in_sync
            .iter()
            .copied()
            .filter(|&node| self.standby(node).is_some())
            .collect();
        if able.is_empty() {
            return Ok(());
        }
        let node = able[self.rng.below(able.len() as u64) as usize];
        let old = self.primary;
        self.epoch += 1;
        self.primary = node;
        if old != node && self.in_sync.len() > 1 {
            self.in_sync.remove(&old);
        }
        self.takeovers += 1;
        let Some(Role::Standby(standby, sim)) = self.nodes[node].take() else {
            return Err("it was one".into());
        };
        drop(standby);
        let region = options(self.epoch)
            .open_on(sim.clone())
            .map_err(|e| format!("node {node} does not open as primary: {e}"))?;
        self.nodes[node] = Some(Role::Primary(region, sim));
        self.check_primary(node)?;
        self.lead(node)?;
        Ok(())
    }

    fn check_primary(&self, node: usize) -> Check {
        let words = words_of(self.region(node).expect("just opened"));
        let Some((expected, _)) = self.states.get(&words[0]) else {
            return Err(format!(
                "node {node} holds unknown transaction {}",
                words[0]
            ));
        };
        if *expected != words {
            return Err(format!(
                "node {node} holds a mixture: {words:?}, not {expected:?}"
            ));
        }
        let mut ancestors = BTreeSet::new();
        let mut up = words[0];
        while ancestors.insert(up) {
            up = self.states[&up].1;
        }
        match self.answered.difference(&ancestors).next() {
            Some(lost) => Err(format!(
                "transaction {lost} was answered and is lost, node {node}"
            )),
            None => Ok(()),
        }
    }

    /// A machine that is not in sync gets what it misses, and is in sync.
    fn join(&mut self, node: usize) -> Check {
        let Some(region) = self.region(self.primary).cloned() else {
            return Ok(());
        };
        if region.try_lead().is_some() {
            // Nobody joins in the middle; the batch that was taken is lost with its primary.
            let primary = self.primary;
            drop(region);
            let since = self.events(primary);
            self.kill(primary, since);
            return Ok(());
        }
        let since = self.events(node);
        let fits = self.standby(node).is_some_and(|standby| {
            let position = standby.position();
            position.committed >= region.stream().start && position.committed <= region.committed()
        });
        if !fits {
            let picture = region.picture().map_err(text)?;
            self.kill(node, 0);
            self.nodes[node] = None;
            let sim = self.medium(node, Image::default());
            let mut installing = Standby::install_on(sim.clone(), &picture.header).map_err(text)?;
            let mut page = vec![0; 4096];
            for offset in (0..picture.home.size()).step_by(4096) {
                picture.home.read(offset, &mut page);
                if page.iter().any(|&b| b != 0) {
                    installing.home(offset, &page).map_err(text)?;
                }
            }
            let standby = installing.finish().map_err(text)?;
            self.nodes[node] = Some(Role::Standby(standby.into(), sim));
        }
        let end = region.stream().end;
        drop(region);
        if self.ship(self.primary, node, &[], end)? {
            self.in_sync.insert(node);
        } else if self.standby(node).is_some() && self.rng.below(4) == 0 {
            self.kill(node, since);
        }
        Ok(())
    }

    fn step(&mut self) -> Check {
        let node = self.rng.below(NODES as u64) as usize;
        let primary = self.primary;
        match self.rng.below(20) {
            0..8 => self.commit(primary)?,
            8 => {
                // One that was superseded goes on.
                let zombie = (0..NODES).find(|&n| n != primary && self.region(n).is_some());
                if let Some(zombie) = zombie {
                    self.commit(zombie)?;
                }
            }
            9 => {
                let since = self.events(node);
                self.kill(node, since);
            }
            10..13 => {
                if matches!(self.nodes[node], Some(Role::Down(_))) {
                    self.restart(node)?;
                }
            }
            13 | 14 => {
                let gone = self.region(primary).is_none();
                if gone || self.rng.below(4) == 0 {
                    self.take_over()?;
                }
            }
            15 | 16 => {
                let superseded = node != primary && self.region(node).is_some();
                if superseded && self.rng.below(2) == 0 {
                    let since = self.events(node);
                    self.kill(node, since);
                } else if node != primary && !superseded && !self.in_sync.contains(&node) {
                    self.join(node)?;
                }
            }
            17 => {
                if let Some(standby) = self.standby(node) {
                    standby.checkpoint().map_err(text)?;
                }
            }
            18 => {
                if let Some(region) = self.region(node) {
                    region.checkpoint().map_err(text)?;
                }
            }
            _ => {
                let committed = self.region(primary).map(|r| (r.epoch(), r.committed()));
                if let (Some((epoch, upto)), Some(standby)) = (committed, self.standby(node)) {
                    standby.commit(epoch, upto);
                }
            }
        }
        Ok(())
    }

    /// Everybody comes back; the homes are the same.
    fn settle(&mut self) -> Check {
        for _ in 0..40 {
            for node in 0..NODES {
                if matches!(self.nodes[node], Some(Role::Down(_))) {
                    self.restart(node)?;
                } else if node != self.primary && self.region(node).is_some() {
                    let since = self.events(node);
                    self.kill(node, since);
                }
            }
            if self.region(self.primary).is_none() {
                self.take_over()?;
                continue;
            }
            self.lead(self.primary)?;
            for node in 0..NODES {
                if self.region(self.primary).is_some() && !self.in_sync.contains(&node) {
                    self.join(node)?;
                }
            }
            self.commit(self.primary)?;
            if self.in_sync.len() == NODES && self.compare_homes()? {
                return Ok(());
            }
        }
        Err("does not get quiet".into())
    }

    fn compare_homes(&mut self) -> Check<bool> {
        if !self.lead(self.primary)? {
            return Ok(false);
        }
        let Some(region) = self.region(self.primary) else {
            return Ok(false);
        };
        let (epoch, end) = (region.epoch(), region.committed());
        region.checkpoint().map_err(text)?;
        let home = region.freeze().map_err(text)?;
        for node in (0..NODES).filter(|&n| n != self.primary) {
            let Some(standby) = self.standby(node) else {
                return Ok(false);
            };
            standby.commit(epoch, end);
            if standby.position().committed != end {
                return Ok(false);
            }
            standby.checkpoint().map_err(text)?;
            let copy = standby.freeze().map_err(text)?;
            let (mut a, mut b) = (vec![0; 4096], vec![0; 4096]);
            for offset in (0..home.size().max(copy.size())).step_by(4096) {
                for (picture, page) in [(&home, &mut a), (&copy, &mut b)] {
                    page.fill(0);
                    if offset < picture.size() {
                        picture.read(offset, page);
                    }
                }
                if a != b {
                    return Err(format!("home of node {node} differs at {offset}"));
                }
            }
        }
        Ok(true)
    }
}

fn run(seed: u64, steps: u64) -> Check<(u64, usize)> {
    let kind = if seed.is_multiple_of(2) {
        SimKind::Disk
    } else {
        SimKind::Dax
    };
    let mut world = World::new(seed, kind);
    let outcome = (|| {
        for _ in 0..steps {
            world.step()?;
        }
        world.settle()
    })();
    for node in 0..NODES {
        if world.nodes[node].is_some() {
            world.kill(node, usize::MAX);
        }
    }
    outcome
        .map(|()| (world.takeovers, world.answered.len()))
        .map_err(|e| format!("seed {seed}: {e}"))
}

const SCHEDULES: u64 = 600;

#[test]
#[cfg_attr(miri, ignore = "copies megabytes")]
fn nothing_answered_is_lost_by_replicas_that_die_and_take_over() {
    let (mut takeovers, mut answered) = (0, 0);
    for seed in 0..SCHEDULES {
        match run(seed, 60) {
            Ok((t, a)) => {
                takeovers += t;
                answered += a as u64;
            }
            Err(error) => panic!("{error}"),
        }
    }
    println!("{SCHEDULES} schedules: {takeovers} takeovers, {answered} transactions answered");
    assert!(takeovers > SCHEDULES && answered > SCHEDULES * 5);
}

fn is_caught(rule: &'static str) {
    let caught = (0..20_000).find_map(|seed| mutant::with(rule, || run(seed, 60)).err());
    println!("{rule}: {}", caught.as_deref().unwrap_or("not caught"));
    assert!(caught.is_some(), "nothing noticed that {rule}");
}

#[test]
#[cfg_attr(miri, ignore = "copies megabytes")]
fn without_fencing_it_is_noticed() {
    is_caught("no_fencing");
}

#[test]
#[cfg_attr(miri, ignore = "copies megabytes")]
fn answering_before_all_have_it_is_noticed() {
    is_caught("answer_one");
}

/// A standby has `[link 2, c, b]` of epoch 2 that nobody else got; the primary of epoch 3 has `[a, c, link 3]` there, with `a` and `c` of
/// epoch 1. A crash while the standby takes that may leave `[a, c]`, which end with a sector, before `b`, which was not written behind them.
fn an_old_record_behind_a_new_one() -> Check<u64> {
    let kind = SimKind::Disk;
    let memories: Vec<_> = (0..2).map(|_| SimMemory::new(MAX_SIZE)).collect();
    let medium = |node: usize, image: Image| SimMedium::new(kind, image, &memories[node]);
    let write = |region: &Region, i: usize, value: u64, len: usize| {
        let mut record = Record::new();
        record.change(place(i), &value.to_le_bytes().repeat(len / 8));
        let mut writer = region.writer().expect("open");
        let appended = writer.append(&mut record, Durability::Eventual);
        appended.expect("room");
    };
    // What a primary has locally, as a standby: everything that was given to it is written, and its region dies.
    let dies = |region: Region, sim: Arc<SimMedium>| {
        let batch = region.try_lead().expect("something gathered");
        batch.write_local().expect("no error");
        let image = sim.image();
        batch.finish(Ok(())).expect("no error");
        region.fence(9);
        image
    };

    let sim = medium(0, Image::default());
    let region = options(1).open_on(sim.clone()).map_err(text)?;
    // The link of epoch 1 gives way to none.
    write(&region, 6, 1, 8);
    let first = region.try_lead().expect("an epoch opens with a link");
    first.write_local().map_err(text)?;
    first.finish(Ok(())).map_err(text)?;
    let base = sim.image();
    write(&region, 2, 1, 8);
    write(&region, 4, 1, 280);
    let with_a = dies(region, sim);

    // Its home address is that of the first memory, like everybody's.
    let sim = medium(0, base);
    let region = options(2).open_on(sim.clone()).map_err(text)?;
    write(&region, 5, 2, 280);
    write(&region, 3, 2, 8);
    let with_b = dies(region, sim);

    let region = options(3).open_on(medium(0, with_a)).map_err(text)?;
    let sim = medium(1, with_b);
    let standby = Standby::open_on(sim.clone()).map_err(text)?;
    let at = standby.promise(3).map_err(text)?.committed;
    let batch = region.try_lead().expect("an epoch opens with a link");
    let mut bytes = region.read_stream(at, batch.start() - at).map_err(text)?;
    bytes.extend_from_slice(&batch.bytes());
    standby.receive(3, at, &bytes).map_err(text)?;
    batch.finish(Ok(())).map_err(text)?;
    region.fence(9);
    drop(region);
    let trace = sim.trace();
    drop((standby, sim));
    trace.explore(Bound::default(), |crash| {
        let sim = medium(0, crash.image);
        let region = match options(4).open_on(sim) {
            Ok(region) => region,
            Err(error) => return Err(text(error)),
        };
        let words = words_of(&region);
        region.fence(9);
        match (words[2], words[3]) {
            (1, 2) => Err(String::from("b stands behind a")),
            _ => Ok(()),
        }
    })
}

#[test]
#[cfg_attr(miri, ignore = "many images")]
fn what_another_primary_left_is_not_the_next_record() {
    let images = an_old_record_behind_a_new_one().expect("no image has both");
    assert!(images > 4, "{images} images");
    mutant::with("no_link", an_old_record_behind_a_new_one).expect_err("nothing noticed no_link");
}

/// A primary and a standby that has all of it, whose ring was used several times and is nearly full.
fn two_with_a_past(memories: &[Arc<SimMemory>]) -> Check<(Region, Standby, Arc<SimMedium>)> {
    let kind = SimKind::Disk;
    let region = options(1)
        .open_on(SimMedium::new(kind, Image::default(), &memories[0]))
        .map_err(text)?;
    let sim = SimMedium::new(kind, Image::default(), &memories[1]);
    let lead = || {
        let batch = region.try_lead().expect("something gathered");
        batch.write_local().map_err(text)?;
        batch.finish(Ok(())).map_err(text)
    };
    lead()?;
    let picture = region.picture().map_err(text)?;
    let installing = Standby::install_on(sim.clone(), &picture.header).map_err(text)?;
    let standby = installing.finish().map_err(text)?;
    for round in 0..6 {
        for value in 0..14 {
            let mut record = Record::new();
            record.change(place(0), &[value; 200]);
            let mut writer = region.writer().map_err(text)?;
            let appended = writer.append(&mut record, Durability::Eventual);
            appended.map_err(text)?;
        }
        lead()?;
        let (at, end) = (
            standby.promise(1).map_err(text)?.committed,
            region.committed(),
        );
        let bytes = region.read_stream(at, end - at).map_err(text)?;
        standby.receive(1, at, &bytes).map_err(text)?;
        standby.commit(1, end);
        if round < 4 {
            standby.checkpoint().map_err(text)?;
        }
        region.checkpoint().map_err(text)?;
    }
    Ok((region, standby, sim))
}

/// A home is copied while it changes: all of one picture, then what has changed until the next one, and so on.
fn a_copy_in_rounds(rounds: u64, forgets: bool) -> Check {
    let memories: Vec<_> = (0..2).map(|_| SimMemory::new(MAX_SIZE)).collect();
    let (region, standby, sim) = two_with_a_past(&memories)?;
    drop((standby, sim));
    let sim = SimMedium::new(SimKind::Disk, Image::default(), &memories[1]);
    let change = |round: u64| {
        let mut record = Record::new();
        for i in 0..3 {
            record.change(
                place(((round * 5 + i * 7) % 40) as usize),
                &[round as u8 + 1; 200],
            );
        }
        let mut writer = region.writer().map_err(text)?;
        let appended = writer.append(&mut record, Durability::Eventual);
        appended.map_err(text)?;
        drop(writer);
        let batch = region.try_lead().expect("something gathered");
        batch.write_local().map_err(text)?;
        batch.finish(Ok(())).map_err(text)
    };
    let mut picture = region.picture().map_err(text)?;
    let mut installing = Standby::install_on(sim, &picture.header).map_err(text)?;
    let copy = |installing: &mut crate::Installing, home: &crate::Frozen, offset| {
        let mut page = vec![0; 4096];
        home.read(offset, &mut page);
        installing.home(offset, &page).map_err(text)
    };
    for offset in (0..picture.home.size()).step_by(4096) {
        copy(&mut installing, &picture.home, offset)?;
    }
    for round in 0..rounds {
        change(round)?;
        region.checkpoint().map_err(text)?;
        change(round + 100)?;
        let later = region.picture().map_err(text)?;
        let changed: Vec<u64> = picture.home.changed().collect();
        assert!((1..10).contains(&changed.len()), "{changed:?}");
        for offset in changed.into_iter().skip(usize::from(forgets)) {
            copy(&mut installing, &later.home, offset)?;
        }
        installing.advance(&later.header).map_err(text)?;
        picture = later;
    }
    let standby = installing.finish().map_err(text)?;
    let (at, end) = (
        standby.promise(1).map_err(text)?.committed,
        region.committed(),
    );
    assert_eq!(at, picture.head);
    let bytes = region.read_stream(at, end - at).map_err(text)?;
    standby.receive(1, at, &bytes).map_err(text)?;
    standby.commit(1, end);
    standby.checkpoint().map_err(text)?;
    region.checkpoint().map_err(text)?;
    let (ours, theirs) = (
        region.freeze().map_err(text)?,
        standby.freeze().map_err(text)?,
    );
    let mut pages = [vec![0; 4096], vec![0; 4096]];
    for offset in (0..ours.size()).step_by(4096) {
        ours.read(offset, &mut pages[0]);
        theirs.read(offset, &mut pages[1]);
        if pages[0] != pages[1] {
            return Err(format!("the copy differs at {offset}"));
        }
    }
    region.fence(9);
    Ok(())
}

#[test]
#[cfg_attr(miri, ignore = "copies megabytes")]
fn a_home_that_changes_while_it_is_copied_is_copied_whole() {
    for rounds in [0, 1, 2, 7] {
        a_copy_in_rounds(rounds, false).expect("the same");
    }
    a_copy_in_rounds(2, true).expect_err("nothing noticed what was forgotten");
}

#[test]
#[cfg_attr(miri, ignore = "many images")]
fn an_older_replica_over_which_a_copy_was_begun_is_none() {
    let memories: Vec<_> = (0..2).map(|_| SimMemory::new(MAX_SIZE)).collect();
    let (region, standby, sim) = two_with_a_past(&memories).expect("they follow");
    let picture = region.picture().expect("no error");
    let image = sim.image();
    drop((standby, sim));
    let sim = SimMedium::new(SimKind::Disk, image, &memories[1]);
    let installing = Standby::install_on(sim.clone(), &picture.header);
    drop(installing.expect("no error"));
    let trace = sim.trace();
    drop(sim);
    let opened = trace.explore(Bound::default(), |crash| {
        match Standby::open_on(SimMedium::new(SimKind::Disk, crash.image, &memories[1])) {
            Ok(_) | Err(Error::Unfinished { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    });
    region.fence(9);
    assert!(opened.expect("never damaged") > 4);
}

#[test]
#[cfg_attr(miri, ignore = "copies megabytes")]
fn a_standby_promises_no_epoch_that_it_could_not_be_opened_with() {
    let memories: Vec<_> = (0..2).map(|_| SimMemory::new(MAX_SIZE)).collect();
    let (region, standby, sim) = two_with_a_past(&memories).expect("they follow");
    for epoch in [1 << 31, u64::MAX] {
        standby.promise(epoch).expect_err("too large");
    }
    standby
        .promise(crate::MAX_EPOCH)
        .expect("as high as can be");
    let image = sim.image();
    drop((standby, sim));
    let again = Standby::open_on(SimMedium::new(SimKind::Disk, image, &memories[1]));
    assert_eq!(again.expect("opens").position().epoch, crate::MAX_EPOCH);
    region.fence(u64::MAX);
}

#[test]
#[cfg_attr(miri, ignore = "copies megabytes")]
fn a_record_that_is_ahead_of_itself_is_refused() {
    let memories: Vec<_> = (0..2).map(|_| SimMemory::new(MAX_SIZE)).collect();
    let (region, standby, sim) = two_with_a_past(&memories).expect("they follow");
    let at = standby.promise(2).expect("higher").committed;
    let mut link = Record::link(standby.receiving_crc());
    let last = region.last_seq();
    let ahead = link.seal(2, last + 1, at, at + 64).to_vec();
    standby
        .receive(2, at, &ahead)
        .expect_err("it says that it is durable");
    let sound = link.seal(2, last + 1, at, at).to_vec();
    standby.receive(2, at, &sound).expect("it does not");
    drop((standby, sim));
    region.fence(9);
}

/// The header of a region with a home of `max_size` bytes, as its primary sends it.
fn header_of(max_size: u64) -> crate::layout::Header {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(1);
    options.max_size(max_size);
    let region = options.open(folder.path().join("primary")).unwrap();
    crate::layout::read_from(&region.picture().unwrap().header).unwrap()
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn a_copy_is_made_over_a_larger_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy");
    let large = header_of(8 << 20);
    let mut installing = Standby::install(&path, crate::layout::bytes_of(&large)).unwrap();
    installing.home((8 << 20) - 10, &[7; 10]).unwrap();
    drop(installing.finish().unwrap());
    let small = header_of(2 << 20);
    let mut installing = Standby::install(&path, crate::layout::bytes_of(&small)).unwrap();
    installing.home(100, &[8; 10]).unwrap();
    let standby = installing.finish().unwrap();
    let mut home = vec![0; 2 << 20];
    let frozen = standby.freeze().unwrap();
    assert_eq!(frozen.size(), 2 << 20);
    frozen.read(0, &mut home);
    assert_eq!(home[100..110], [8; 10]);
    assert!(home[110..].iter().all(|&byte| byte == 0));
    drop((frozen, standby));
    Standby::open(&path).unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn nothing_is_allocated_for_a_header_that_cannot_be() {
    type Change = fn(&mut crate::layout::Header);
    let changes: [Change; 5] = [
        // A hole in front of the home, which would be filled.
        |h| h.home_offset += 1 << 40,
        |h| h.lanes = 2,
        |h| h.max_size = 1 << 50,
        |h| h.relocate_to = h.home_address,
        |h| h.checkpoint = u64::MAX,
    ];
    let honest = header_of(2 << 20);
    for (i, change) in changes.into_iter().enumerate() {
        let memory = SimMemory::new(MAX_SIZE);
        let sim = SimMedium::new(SimKind::Disk, Image::default(), &memory);
        let mut header = honest;
        change(&mut header);
        let refused = Standby::install_on(sim.clone(), crate::layout::bytes_of(&header));
        assert!(refused.is_err(), "change {i}");
        assert!(sim.image().is_empty(), "change {i}");
    }
}

/// A primary that dies before anybody else has its log.
#[derive(Debug)]
struct Dies;

impl Replication for Dies {
    fn lead(&self, batch: Sealed<'_>) -> Result<()> {
        batch.write_local()?;
        let (epoch, current) = (0, 0);
        batch.finish(Err(Error::Fenced { epoch, current }))
    }
}

fn reigns_that_fail(reigns: u64) -> Check {
    let memory = SimMemory::new(MAX_SIZE);
    let mut image = Image::default();
    for epoch in 1..=reigns {
        let sim = SimMedium::new(SimKind::Disk, image, &memory);
        let mut options = options(epoch);
        options.replicated(epoch, Arc::new(Dies));
        let region = options.open_on(sim.clone());
        let region = region.map_err(|error| format!("epoch {epoch}: {error}"))?;
        assert_eq!(
            words_of(&region)[0],
            u64::from(epoch > 1),
            "nothing is lost"
        );
        if epoch == 1 {
            // As much as goes in, and nobody has it.
            while region.free() >= 128 {
                let mut record = Record::new();
                record.change(place(0), &1u64.to_le_bytes());
                let mut writer = region.writer().unwrap();
                writer.append(&mut record, Durability::Eventual).unwrap();
            }
        }
        assert!(region.sync().is_err());
        drop(region);
        image = sim.image();
    }
    Ok(())
}

#[test]
#[cfg_attr(miri, ignore = "copies megabytes")]
fn reigns_that_fail_on_a_full_log_are_tried_again_for_ever() {
    reigns_that_fail(300).expect("each opens");
    let kept = mutant::with("keep_links", || reigns_that_fail(300));
    assert!(kept.expect_err("it is noticed").contains("log"));
}

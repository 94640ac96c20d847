//! The global heap: superblocks that no thread owns, free units, births and
//! deaths.
//!
//! Everything here happens under the one global lock. It promises that units of
//! a dead superblock are free for any class, stamped with the last sequence
//! number, and that mail of threads that ended is read. It does not touch
//! superblocks that a thread owns.

mod empty;

use crate::class::{self, CLASSES};
use crate::error::{Error, Result};
use crate::home::Home;
use crate::layout::{CHUNK_UNITS, TableEntry, UNIT};
use crate::list::List;
use crate::local::Local;
use crate::map::Map;
use crate::pool::Pool;
use crate::superblock::{Birth, Mailbox, Nothing, Place, Ref, words};
use crate::table::Extent;
use crate::units::{Run, Units};
use bartender_pm::mutant;
use empty::Empty;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Arc;

/// Empty superblocks that keep their class at most, for each thread: about 4 MiB.
const KEPT: usize = if cfg!(loom) { 0 } else { 64 };

/// What the global lock guards.
pub(crate) struct Global {
    pub(crate) units: Units,
    /// Where the home begins in the address space.
    pub(crate) base: u64,
    pub(crate) next_birth: u64,
    pub(crate) pool: Pool,
    /// The mailbox that superblocks of the global heap, and dead ones, call their owner.
    mail: NonNull<Mailbox>,
    /// What a thread heap has of a class of which it has nothing.
    nothing: Nothing,
    partial: [List; CLASSES],
    /// Superblocks without a used block, whose units wait for somebody with a region at hand.
    empty: Empty,
    /// Large runs, by their first unit, with the first one behind.
    large: BTreeMap<u64, u64>,
    /// The number that threads know the heap by.
    number: u64,
    /// All thread heaps. Threads share them: they outlive this where a thread has not heard of its end.
    locals: Vec<Arc<Local>>,
    /// Those that no thread holds.
    idle: Vec<NonNull<Local>>,
    /// The checkpoint when free space was given back last.
    pub(crate) tidied: u64,
}

// SAFETY: it owns what its pointers point to, and all of that is `Send`.
unsafe impl Send for Global {}

impl Global {
    /// A global heap of a home of `max` units, of which none is usable yet.
    pub(crate) fn new(max: u64, number: u64) -> Self {
        let mail = NonNull::from(Box::leak(Box::new(Mailbox::new())));
        Global {
            units: Units::new(max),
            base: 0,
            next_birth: 1,
            pool: Pool::new(),
            mail,
            nothing: Nothing::new(),
            partial: std::array::from_fn(|_| List::new(Place::Partial)),
            empty: Empty::new(),
            large: BTreeMap::new(),
            number,
            locals: Vec::new(),
            idle: Vec::new(),
            tidied: 0,
        }
    }

    /// A thread heap for one more thread.
    pub(crate) fn join(&mut self) -> NonNull<Local> {
        self.idle.pop().unwrap_or_else(|| {
            let local = Arc::new(Local::new(
                self.number,
                self.units.max(),
                self.nothing.ask(),
            ));
            self.locals.push(local);
            let local = self.locals.last().expect("just pushed");
            // SAFETY: not null.
            unsafe { NonNull::new_unchecked(Arc::as_ptr(local).cast_mut()) }
        })
    }

    /// A thread heap has no thread any more; its superblocks have been accepted.
    pub(crate) fn retire(&mut self, local: NonNull<Local>) {
        self.idle.push(local);
    }

    /// The mailbox that superblocks of the global heap call their owner.
    pub(crate) fn mail(&self) -> NonNull<Mailbox> {
        self.mail
    }

    /// Makes one of ours that is in use over to the heap of `owner`; false: it is not in use.
    pub(crate) fn release(&mut self, superblock: Ref, owner: NonNull<Mailbox>) -> bool {
        match superblock.place() {
            // SAFETY: ours, under the lock.
            Place::Partial => unsafe { self.partial[superblock.class()].remove(superblock) },
            Place::Nowhere => {}
            _ => return false,
        }
        superblock.set_owner(owner);
        true
    }

    /// Whether the superblock is the global heap's.
    pub(crate) fn owns(&self, superblock: Ref) -> bool {
        superblock.owner() == self.mail.as_ptr()
    }

    /// Bytes of DRAM of thread heaps.
    pub(crate) fn local_bytes(&self) -> u64 {
        (self.locals.len() * size_of::<Local>()) as u64
    }

    /// Takes over a superblock from the thread that owns it, out of all lists.
    pub(crate) fn accept(&mut self, superblock: Ref) {
        superblock.set_owner(self.mail);
        self.file(superblock);
    }

    /// Takes over superblocks of threads, out of all lists, and what was given back elsewhere.
    pub(crate) fn take_over(&mut self, away: &[Ref], map: &Map, home: &dyn Home) {
        for superblock in away {
            self.accept(*superblock);
        }
        self.collect();
        self.flush_old(map, home);
    }

    /// Puts a superblock of ours where it belongs.
    fn file(&mut self, superblock: Ref) {
        let place = superblock.place();
        if place == Place::Unmarked {
            return;
        }
        let list = &mut self.partial[superblock.class()];
        // SAFETY: ours, under the lock.
        let used = unsafe { superblock.used() };
        if used == 0 {
            if place == Place::Partial {
                // SAFETY: ours, under the lock.
                unsafe { list.remove(superblock) };
            }
            if place != Place::Empty {
                superblock.set_place(Place::Empty);
                self.empty.push(superblock);
            }
        } else if place == Place::Nowhere && used < superblock.blocks() {
            // SAFETY: ours, under the lock.
            unsafe { list.push(superblock) };
        }
    }

    /// Takes in what was given back to our superblocks, and to those of threads that ended.
    pub(crate) fn collect(&mut self) {
        // SAFETY: freed with `self`.
        let mail = unsafe { self.mail.as_ref() }.take();
        self.read(mail);
        for at in 0..self.idle.len() {
            // SAFETY: freed with `self`.
            let local = unsafe { self.idle[at].as_ref() };
            if local.has_mail() && !mutant::is("leave_idle_mail") {
                // SAFETY: no thread holds an idle heap, so its mail is ours to read.
                let mail = unsafe { local.mail().as_ref() }.take();
                self.read(mail);
            }
        }
    }

    fn read(&mut self, mail: impl Iterator<Item = Ref>) {
        for superblock in mail {
            if !superblock.is_alive() && !mutant::is("heed_the_dead") {
                superblock.discard_mail();
            } else if !self.owns(superblock) {
                if !mutant::is("keep_foreign_mail") {
                    superblock.post();
                }
            } else {
                // SAFETY: ours, under the lock.
                unsafe { superblock.collect() };
                self.file(superblock);
            }
        }
    }

    /// Gives the units of all empty superblocks back but those of a few that came
    /// last: a thread that works in bursts wants them again.
    pub(crate) fn flush_old(&mut self, map: &Map, home: &dyn Home) {
        let kept = KEPT * (self.locals.len() - self.idle.len()).max(1);
        if self.empty.len() > kept {
            // A few at a time, however many threads: others wait for the lock.
            let stay = kept - KEPT / 2;
            while self.empty.len() > stay
                && let Some(oldest) = self.empty.oldest()
            {
                self.bury(oldest, map, home);
            }
        }
    }

    /// Gives the units of empty superblocks back.
    pub(crate) fn flush(&mut self, map: &Map, home: &dyn Home) {
        while let Some(superblock) = self.empty.oldest() {
            self.bury(superblock, map, home);
        }
    }

    /// An empty superblock, or a run whose block was given back, dies.
    pub(crate) fn bury(&mut self, superblock: Ref, map: &Map, home: &dyn Home) {
        let run = self.dig(superblock, map, home);
        self.units.give(run);
    }

    /// The units of what dies.
    fn dig(&mut self, superblock: Ref, map: &Map, home: &dyn Home) -> Run {
        let entry = superblock.entry();
        map.clear(superblock);
        let start = superblock.unit();
        self.large.remove(&start);
        let bitmaps = superblock.die();
        superblock.set_owner(self.mail);
        self.pool.give(bitmaps, words(&entry));
        Run {
            start,
            len: entry.units.into(),
            stamp: home.last_seq(),
        }
    }

    /// A superblock of `class` of ours with free blocks for the heap of `owner`.
    pub(crate) fn partial(&mut self, class: usize, owner: NonNull<Mailbox>) -> Option<Ref> {
        // SAFETY: ours, under the lock.
        let superblock = unsafe { self.partial[class].pop() }?;
        superblock.set_owner(owner);
        Some(superblock)
    }

    /// An empty superblock of `class` of ours for the heap of `owner`.
    pub(crate) fn empty(&mut self, class: usize, owner: NonNull<Mailbox>) -> Option<Ref> {
        let superblock = self.empty.last(class)?;
        superblock.set_place(Place::Nowhere);
        superblock.set_owner(owner);
        Some(superblock)
    }

    /// A superblock of `class` with free blocks for the heap of `owner`: one of ours or a new one.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) fn superblock(
        &mut self,
        class: usize,
        owner: NonNull<Mailbox>,
        map: &Map,
        home: &dyn Home,
    ) -> Result<Ref> {
        if let Some(superblock) = self.partial(class, owner) {
            return Ok(superblock);
        }
        if let Some(superblock) = self.empty(class, owner) {
            return Ok(superblock);
        }
        // An empty one of another class before space that nobody has used.
        if let Some(oldest) = self.empty.oldest() {
            self.bury(oldest, map, home);
        }
        let units = class::TABLE[class].units;
        let run = match self.run(units.into(), CHUNK_UNITS, home) {
            Err(_) if self.empty.len() > 0 => {
                self.flush(map, home);
                self.run(units.into(), CHUNK_UNITS, home)?
            }
            run => run?,
        };
        let entry = TableEntry {
            birth: self.birth(),
            units,
            class: class as u16,
            flags: 0,
        };
        let extent = Extent {
            unit: run.start,
            entry,
        };
        let superblock = self.bear(extent, owner, map);
        if is_fresh(run.stamp, home) {
            superblock.set_fresh();
        }
        Ok(superblock)
    }

    /// A large run of `units` units at a multiple of `align` units, and whether
    /// it is fresh.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) fn large(
        &mut self,
        units: u32,
        align: u64,
        map: &Map,
        home: &dyn Home,
    ) -> Result<(Ref, bool)> {
        let run = self.run(units.into(), align, home)?;
        let entry = TableEntry {
            birth: self.birth(),
            units,
            class: TableEntry::LARGE,
            flags: 0,
        };
        let superblock = self.bear(
            Extent {
                unit: run.start,
                entry,
            },
            self.mail,
            map,
        );
        // SAFETY: ours, under the lock.
        unsafe {
            superblock.take();
            superblock.rest();
        }
        Ok((superblock, is_fresh(run.stamp, home)))
    }

    /// A superblock comes back, with the blocks of `free` free; `durable`: the table has its entry.
    pub(crate) fn restore(
        &mut self,
        extent: Extent,
        durable: bool,
        free: impl Iterator<Item = u64>,
        map: &Map,
    ) -> Ref {
        let superblock = self.bear(extent, self.mail, map);
        if durable {
            superblock.set_durable(extent.entry.birth);
        }
        // SAFETY: ours, under the lock.
        unsafe { superblock.restore(free) };
        if !superblock.is_large() {
            self.file(superblock);
        }
        superblock
    }

    /// A superblock that the table has comes back, of which nobody knows yet what is
    /// live in it: [`Self::learn`] says so.
    pub(crate) fn restore_unmarked(&mut self, extent: Extent, map: &Map) {
        let superblock = self.bear(extent, self.mail, map);
        superblock.set_durable(extent.entry.birth);
        // SAFETY: ours, under the lock.
        unsafe { superblock.restore(std::iter::repeat(0)) };
        superblock.set_place(Place::Unmarked);
    }

    /// Of an unmarked superblock the blocks of `live` were live at opening. Where none
    /// was, its space may have been given back to the file system: then it is a hole,
    /// if there are any at all. Returns the home offset of a block that
    /// was given back since, though it was not live.
    pub(crate) fn learn(
        &mut self,
        superblock: Ref,
        live: &[u64],
        holes: bool,
        map: &Map,
        home: &dyn Home,
    ) -> Option<u64> {
        debug_assert_eq!(superblock.place(), Place::Unmarked);
        superblock.set_place(Place::Nowhere);
        // SAFETY: ours, under the lock.
        let (wrong, used) = unsafe {
            let wrong = superblock.learn(live.iter().copied());
            (wrong, superblock.used())
        };
        let wrong = wrong.map(|index| superblock.offset_of(index));
        if live.iter().all(|word| *word == 0) {
            let run = self.dig(superblock, map, home);
            match holes {
                true => self.units.give_hole(run),
                false => self.units.give(run),
            }
        } else if !superblock.is_large() {
            self.file(superblock);
        } else if used == 0 {
            self.bury(superblock, map, home);
        }
        wrong
    }

    fn birth(&mut self) -> u64 {
        let birth = self.next_birth;
        self.next_birth += 1;
        birth
    }

    fn bear(&mut self, extent: Extent, owner: NonNull<Mailbox>, map: &Map) -> Ref {
        let superblock = map.begin(extent.unit);
        let bits = self.pool.take(words(&extent.entry));
        superblock.be(&Birth {
            unit: extent.unit,
            home: self.base,
            entry: extent.entry,
            bits,
            owner,
        });
        map.set(superblock);
        if superblock.is_large() {
            self.large.insert(extent.unit, extent.end());
        }
        superblock
    }

    /// The large run that `unit` lies in.
    pub(crate) fn run_around(&self, unit: u64, map: &Map) -> Option<Ref> {
        let (&start, &end) = self.large.range(..=unit).next_back()?;
        (unit < end).then(|| map.begin(start))
    }

    /// Free units, of which the region gets more when needed.
    ///
    /// # Errors
    /// `OutOfSpace`, or what the file system says when the file cannot grow.
    pub(crate) fn run(&mut self, len: u64, align: u64, home: &dyn Home) -> Result<Run> {
        if let Some(run) = self.units.take(len, align) {
            return Ok(run);
        }
        if let Some(hole) = self.units.take_hole(len, align) {
            self.fill(hole, home)?;
            let run = self.units.take(len, align);
            return Ok(run.expect("the hole was long enough"));
        }
        let Some(ends) = self.units.growth(len, align) else {
            // A hole and its neighbour may be long enough together.
            while len <= self.units.free()
                && let Some(hole) = self.units.take_longest_hole()
            {
                self.fill(hole, home)?;
                if let Some(run) = self.units.take(len, align) {
                    return Ok(run);
                }
            }
            let max = self.units.max();
            return Err(Error::Region(Box::new(bartender_pm::Error::OutOfSpace {
                requested: len * UNIT,
                available: (self.units.free() + max - self.units.end()) * UNIT,
                max_size: max * UNIT,
            })));
        };
        self.extend(ends, home)?;
        Ok(self
            .units
            .take(len, align)
            .expect("the region has grown to hold the run"))
    }

    /// Makes a large run `units` units long where it is, if what follows is free or
    /// the region can grow there. It is born again: its new table entry wins over
    /// those of whatever was behind it before. False: nothing was done.
    pub(crate) fn grow(&mut self, run: Ref, units: u32, map: &Map, home: &dyn Home) -> bool {
        if run.place() == Place::Unmarked {
            return false;
        }
        let start = run.unit();
        let behind = start + run.units();
        let more = u64::from(units).saturating_sub(run.units());
        if more == 0 {
            return false;
        }
        if !self.units.take_filled_at(behind, more) {
            let Some(ends) = self.units.growth_at(behind, more) else {
                return false;
            };
            if self.extend(ends, home).is_err() || !self.units.take_filled_at(behind, more) {
                return false;
            }
        }
        let birth = self.birth();
        run.grow(units, birth);
        map.set(run);
        self.large.insert(start, start + u64::from(units));
        true
    }

    /// The region grows, to the second of `ends` or else to the first.
    fn extend(&mut self, (need, better): (u64, u64), home: &dyn Home) -> Result<()> {
        if home.size() < need * UNIT && home.extend(better * UNIT).is_err() {
            home.extend(need * UNIT)?;
        }
        self.units.grown(home.size() / UNIT, 0);
        Ok(())
    }

    /// A hole becomes a free run.
    fn fill(&mut self, hole: Run, home: &dyn Home) -> Result<()> {
        let end = hole.start + hole.len;
        let filled = home.refill(hole.start * UNIT, end * UNIT);
        match filled {
            Ok(()) => self.units.give(hole),
            Err(_) => self.units.give_hole(hole),
        }
        filled
    }
}

/// Whether no record that a recovery could replay touches space with this stamp.
fn is_fresh(stamp: u64, home: &dyn Home) -> bool {
    stamp <= home.checkpoint_seq() || bartender_pm::mutant::is("stale_fresh")
}

#[cfg(all(test, not(loom)))]
mod audit;

impl Drop for Global {
    fn drop(&mut self) {
        // SAFETY: leaked from a box in `new`; nobody posts to a heap that is gone.
        drop(unsafe { Box::from_raw(self.mail.as_ptr()) });
    }
}

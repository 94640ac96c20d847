//! The allocator of one home, in DRAM: thread heaps, the global heap and the
//! map as one.
//!
//! It promises blocks that never overlap, and to tell a pointer that is no
//! block, or was given back already, from one that is. It reads and writes
//! nothing in the home, and knows neither the header nor the schema.

use crate::block::NotABlock;
use crate::class::CLASSES;
use crate::error::{Error, Result};
use crate::global::Global;
use crate::home::Home;
use crate::layout::{CHUNK_UNITS, UNIT};
use crate::local::Local;
use crate::map::Map;
use crate::superblock::{AlreadyFree, Place, Ref, Superblock};
use bartender_pm::mutant;
use bartender_pm::sync::{Mutex, MutexGuard};
use std::hash::{BuildHasher, RandomState};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// The next arena's number. `std`'s own atomic: it is a name, not a protocol.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Of the owner's frees that had to go the long way, because others' wait in the
/// same superblock, one in so many takes those in.
const HEAR_OWN: u32 = if cfg!(loom) { 1 } else { 8 };

/// Blocks whose number in their superblock is a multiple of this let a thread look
/// into its mailbox when it gives them back to others: often enough, and not so
/// often that two threads that free each other's blocks send each by itself.
const HEAR: u32 = 64;

/// The allocator of one home.
///
/// * `map` is read by anyone, written under the lock of `global`.
/// * `global` is the one lock. Nothing is locked under it (the region's own
///   locks inside `extend` excepted), and the common path does not take it.
/// * Thread heaps are `global`'s; a thread holds one from `join` to `retire`.
pub(crate) struct Arena {
    number: u64,
    base: u64,
    /// Where the global heap's mailbox is: whose owner that is, no thread owns.
    nobody: usize,
    map: Map,
    global: Mutex<Global>,
    /// Seed of the next superblock's order; 0: that of addresses. Also only a number.
    order: AtomicU32,
}

/// A block that was handed out.
#[derive(Clone, Copy)]
pub(crate) struct Got {
    /// Its superblock.
    pub(crate) superblock: Ref,
    /// Its home offset.
    pub(crate) offset: u64,
    /// Whether no committed record that is not in the home yet touches it.
    pub(crate) fresh: bool,
}

/// Why a block could not be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is none.
    NotABlock(NotABlock),
    /// It is free already.
    AlreadyFree,
}

impl From<AlreadyFree> for Refused {
    fn from(_: AlreadyFree) -> Self {
        Refused::AlreadyFree
    }
}

impl Arena {
    /// The allocator of a home of up to `max` units, of which none is usable yet.
    #[cfg(test)]
    pub(crate) fn new(max: u64) -> Self {
        Self::try_new(max).expect("memory")
    }

    /// The allocator of a home of up to `max` units, of which none is usable yet.
    ///
    /// # Errors
    ///
    /// There is no memory for its descriptors.
    pub(crate) fn try_new(max: u64) -> Result<Self> {
        let no_memory = || Error::NoMemory {
            bytes: Map::bytes_for(max),
            max_size: max.saturating_mul(UNIT),
        };
        let map = Map::new(max).ok_or_else(no_memory)?;
        let number = NEXT.fetch_add(1, Relaxed);
        let global = Global::new(max, number);
        Ok(Arena {
            number,
            base: 0,
            nobody: global.mail().addr().get(),
            map,
            global: Mutex::new(global),
            order: AtomicU32::new(0),
        })
    }

    /// The same, of a home that begins at address `base`.
    pub(crate) fn at(self, base: u64) -> Self {
        self.global.lock().base = base;
        Arena { base, ..self }
    }

    /// What threads know it by: no other ever has this number, and it is not 0.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Superblocks hand their blocks out in random order from now on, or again in
    /// that of addresses.
    pub(crate) fn set_random_order(&self, random: bool) {
        let seed = random.then(|| RandomState::new().hash_one(self.number) as u32 | 1);
        self.order.store(seed.unwrap_or(0), Relaxed);
    }

    /// The order of a superblock that begins to hand out.
    fn order(&self) -> u32 {
        // Odd, and an even number is added: never 0 again unless it is set.
        let next = |seed: u32| (seed != 0).then(|| seed.wrapping_add(0x9e37_79ba));
        self.order.fetch_update(Relaxed, Relaxed, next).unwrap_or(0)
    }

    /// The global heap, locked, and the map that goes with it.
    pub(crate) fn lock(&self) -> (MutexGuard<'_, Global>, &Map) {
        (self.global.lock(), &self.map)
    }

    /// The map.
    pub(crate) fn map(&self) -> &Map {
        &self.map
    }

    /// A heap for the calling thread: what `Arc::as_ptr` says of one that the arena shares.
    pub(crate) fn join(&self) -> NonNull<Local> {
        self.global.lock().join()
    }

    /// Takes a thread's heap back.
    ///
    /// # Safety
    /// `local` is of `join` of this arena, and its thread uses it no more.
    pub(crate) unsafe fn retire(&self, local: NonNull<Local>) {
        let mut away = Vec::new();
        // Before anything moves: who saves or counts a heap at rest, under the
        // lock, does not wait for threads that are through with it to end.
        let mut global = self.global.lock();
        // SAFETY: it lives as long as the arena, and is ours, as the caller says.
        unsafe { local.as_ref().surrender(&mut away) };
        for superblock in away {
            global.accept(superblock);
        }
        global.retire(local);
        global.collect();
    }

    /// A block of size class `class`.
    ///
    /// # Errors
    /// No space.
    ///
    /// # Safety
    /// By the thread that holds `local`, a heap of this arena; `class < CLASSES`.
    pub(crate) unsafe fn alloc(&self, local: &Local, class: usize, home: &dyn Home) -> Result<Got> {
        // SAFETY: as the caller says.
        unsafe {
            let (superblock, address) = match local.alloc(class) {
                Some(got) => got,
                None => self.refill(local, class, home)?,
            };
            Ok(Got {
                superblock,
                offset: address - self.base,
                fresh: superblock.is_fresh(),
            })
        }
    }

    /// # Safety
    /// As [`Self::alloc`].
    unsafe fn refill(&self, local: &Local, class: usize, home: &dyn Home) -> Result<(Ref, u64)> {
        debug_assert!(class < CLASSES);
        // SAFETY: as the caller says, and what it adopts has a free block.
        unsafe {
            if local.has_mail() {
                self.take_in(local, home);
                // Some of it may have been the current superblock's.
                if let Some(got) = local.alloc(class) {
                    return Ok(got);
                }
            }
            if !local.refill(class, self.order()) {
                let superblock = match local.stay(class) {
                    Some(superblock) => Ok(superblock),
                    None => self.fetch(local, class, home),
                };
                match superblock {
                    Ok(superblock) => local.adopt(superblock, self.order()),
                    Err(error) => return self.scarce(local, class, home).ok_or(error),
                }
            }
            Ok(local
                .alloc(class)
                .expect("the current superblock has a free block"))
        }
    }

    /// A superblock of `class` from the global heap, which gets what `local` does
    /// not need any more.
    ///
    /// # Safety
    /// As [`Self::alloc`].
    unsafe fn fetch(&self, local: &Local, class: usize, home: &dyn Home) -> Result<Ref> {
        let (mut idle, mut more) = (Vec::new(), Vec::new());
        // SAFETY: as the caller says; what comes is the thread's.
        unsafe {
            local.spare(class, &mut idle);
            local.leave_all(&mut idle);
            let mut global = self.global.lock();
            global.take_over(&idle, &self.map, home);
            let superblock = global.superblock(class, local.mail(), &self.map, home);
            if superblock.is_ok() {
                more.extend(
                    (0..local.more(class)).map_while(|_| global.empty(class, local.mail())),
                );
            }
            drop(global);
            local.stock(&more);
            superblock
        }
    }

    /// A run for `size` bytes at a multiple of `align`.
    ///
    /// # Errors
    /// No space, or no region has so much.
    pub(crate) fn alloc_large(&self, size: usize, align: usize, home: &dyn Home) -> Result<Got> {
        let units = (size as u64).div_ceil(UNIT).max(CHUNK_UNITS);
        let units = u32::try_from(units).map_err(|_| Error::BadLayout {
            size,
            align,
            what: "a block has at most 32 TiB",
        })?;
        let mut global = self.global.lock();
        global.collect();
        global.flush(&self.map, home);
        let align = (align as u64 / UNIT).max(1);
        let (superblock, fresh) = global.large(units, align, &self.map, home)?;
        Ok(Got {
            superblock,
            offset: superblock.unit() * UNIT,
            fresh,
        })
    }

    /// Makes the large run that begins at home offset `offset` long enough for `size`
    /// bytes, where it is. `None`: it is none, or there is no room behind it.
    pub(crate) fn grow(&self, offset: u64, size: usize, home: &dyn Home) -> Option<Ref> {
        let units = u32::try_from((size as u64).div_ceil(UNIT)).ok()?;
        let mut global = self.global.lock();
        let run = global.run_around(offset / UNIT, &self.map)?;
        let grown = run.unit() * UNIT == offset && global.grow(run, units, &self.map, home);
        grown.then_some(run)
    }

    /// The superblock and index of the block that starts at home offset `offset`.
    pub(crate) fn find(&self, offset: u64) -> Result<(Ref, u32), NotABlock> {
        if let Some(superblock) = self.map.at(offset)
            && let Some(index) = superblock.index_of(offset)
        {
            return Ok((superblock, index));
        }
        self.around(offset)?;
        Err(NotABlock::NotAStart)
    }

    /// The superblock or large run that home offset `offset` lies in. Takes the
    /// global lock for what is in none of a class.
    #[cold]
    pub(crate) fn around(&self, offset: u64) -> Result<Ref, NotABlock> {
        if self.map.chunk(offset).is_none() {
            return Err(NotABlock::Outside);
        }
        let found = self.map.at(offset).filter(|one| !one.is_large());
        let found = found.or_else(|| self.global.lock().run_around(offset / UNIT, &self.map));
        found.ok_or(NotABlock::NoSuperblock)
    }

    /// Gives the block at home offset `offset` back. `local` is the thread's heap, if it has one.
    ///
    /// # Errors
    /// It is no block, or free already.
    ///
    /// # Safety
    /// The block, if it is one, is used by nobody any more; the thread holds
    /// `local`, a heap of this arena.
    pub(crate) unsafe fn free(
        &self,
        local: Option<&Local>,
        offset: u64,
        home: &dyn Home,
    ) -> Result<(), Refused> {
        let (superblock, index) = self.find(offset).map_err(Refused::NotABlock)?;
        match local {
            Some(local)
                if local.owns(superblock)
                    // SAFETY: as the caller says.
                    || unsafe { self.claim(local, superblock, index, offset) } =>
            {
                // SAFETY: as the caller says, and the superblock is `local`'s.
                unsafe {
                    if superblock.give(index)? {
                        self.settle(local, superblock, home);
                    }
                    // While others' frees wait there, the short way is closed.
                    if index.is_multiple_of(HEAR_OWN) {
                        self.hear_of(local, superblock, home);
                    }
                }
                Ok(())
            }
            _ => {
                self.free_elsewhere(superblock, index, offset, home)?;
                // Who only frees would never hear of what others freed of its own.
                if let Some(local) = local.filter(|_| index.is_multiple_of(HEAR)) {
                    // SAFETY: as the caller says.
                    unsafe { self.take_in(local, home) };
                }
                Ok(())
            }
        }
    }

    /// Makes a superblock that no thread owns `local`'s, whose thread frees block
    /// `index` of it, at home offset `offset`, and so probably has more of them: what
    /// a thread that ended has left comes to its heirs, who free it the short way
    /// from then on. False: somebody owns it, `local` has enough of the class by the
    /// emptiness rule, or the lock is taken, for which this is not worth waiting.
    ///
    /// # Safety
    /// By the thread that holds `local`, a heap of this arena.
    #[cold]
    unsafe fn claim(&self, local: &Local, superblock: Ref, index: u32, offset: u64) -> bool {
        let nobodys = || superblock.owner().addr() == self.nobody;
        // SAFETY: as the caller says.
        if !nobodys() || !unsafe { local.has_room(superblock.class()) } {
            return false;
        }
        let Some(mut global) = self.global.try_lock() else {
            return false;
        };
        // Where the block was free already, another superblock may be there by now.
        let same = superblock.index_of(offset) == Some(index);
        let sure = superblock.is_alive() && !superblock.is_large() && nobodys() && same;
        if !sure && !mutant::is("claim_unseen") {
            return false;
        }
        // SAFETY: as the caller says; under the lock what is nobody's is ours.
        unsafe {
            let claimed = local.fits(superblock) && global.release(superblock, local.mail());
            drop(global);
            if claimed {
                local.claim(superblock);
            }
            claimed
        }
    }

    /// Takes in what other threads gave back to `superblock`, if it is `local`'s.
    /// Mail may lie where it went before the superblock came here: with the
    /// global heap, or a thread that has ended.
    ///
    /// # Safety
    /// As [`Self::take_in`].
    unsafe fn hear_of(&self, local: &Local, superblock: Ref, home: &dyn Home) {
        let waits = || local.owns(superblock) && superblock.has_remote();
        // SAFETY: as the caller says.
        unsafe {
            if waits() {
                self.take_in(local, home);
            }
            if waits() {
                self.global.lock().collect();
                self.take_in(local, home);
            }
        }
    }

    /// Takes in what other threads gave back to `local`.
    ///
    /// # Safety
    /// By the thread that holds `local`, a heap of this arena.
    unsafe fn take_in(&self, local: &Local, home: &dyn Home) {
        if local.has_mail() {
            let mut away = Vec::new();
            // SAFETY: as the caller says.
            unsafe { local.collect(&mut away) };
            self.hand_over(&away, home);
        }
    }

    /// A superblock's use fell through a step.
    ///
    /// # Safety
    /// By the thread that holds `local`, a heap of this arena, which owns `superblock`.
    #[cold]
    pub(crate) unsafe fn settle(&self, local: &Local, superblock: Ref, home: &dyn Home) {
        // SAFETY: as the caller says.
        unsafe {
            if let Some(goes) = local.settle(superblock) {
                let mut away = Vec::new();
                local.leave(goes, &mut away);
                self.hand_over(&away, home);
            }
        }
    }

    fn free_elsewhere(
        &self,
        superblock: Ref,
        index: u32,
        offset: u64,
        home: &dyn Home,
    ) -> Result<(), Refused> {
        if !superblock.is_large() {
            return Ok(Superblock::give_remote(superblock, index)?);
        }
        let mut global = self.global.lock();
        // Another thread may have been faster with the same block, and another run
        // may begin in the same chunk by now.
        if !superblock.is_large() || superblock.index_of(offset) != Some(index) {
            return Err(Refused::AlreadyFree);
        }
        // SAFETY: large runs are the global heap's.
        unsafe { superblock.give(index) }?;
        if superblock.place() != Place::Unmarked {
            global.bury(superblock, &self.map, home);
        }
        Ok(())
    }

    /// Superblocks that a thread may not keep go to the global heap.
    #[cold]
    fn hand_over(&self, away: &[Ref], home: &dyn Home) {
        if away.is_empty() {
            return;
        }
        self.global.lock().take_over(away, &self.map, home);
    }
}

mod purge;
mod scarce;

#[cfg(all(test, loom))]
mod models;
#[cfg(test)]
pub(crate) mod tests;

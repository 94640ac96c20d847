//! A thread's heap: its superblocks by class, and the one of each class that it
//! allocates from.
//!
//! It promises that everything here is done by one thread at a time without
//! locks. It never gets or gives superblocks by itself: it says which ones
//! should go, and `arena` passes them on.

#[cfg(all(test, not(loom)))]
mod audit;
mod claim;
mod leaving;
mod spare;

use crate::class::{self, CLASSES, MAX_SMALL};
use crate::layout::UNIT;
use crate::list::List;
use crate::superblock::{Mailbox, Place, Ref};
use bartender_pm::sync::UnsafeCell;
use leaving::Leaving;
use std::ptr::NonNull;

/// Superblocks' worth of free blocks of a class that a thread may keep before it
/// gives up what is wholly free, of small and of longer superblocks: so that a
/// thread at the edge does not send superblocks back and forth.
const SLACK: [i64; 2] = [4, 2];
/// The same in units before it gives up what is partly free, 1 MiB, or 4 MiB where a
/// superblock has no more than `FEW` blocks: what is still in use there it would
/// give back from afar, and a burst of frees soon empties a superblock of few.
const PARTLY: [i64; 2] = [(1 << 20) / UNIT as i64, (4 << 20) / UNIT as i64];
/// See [`PARTLY`].
const FEW: u32 = 32;
/// But beyond `SLACK` no more than this part of what the region may grow to: a small
/// one has to do for all threads and classes.
const PARTLY_OF: u64 = 64;
/// How many superblocks are looked at for one to give up.
const LOOK: usize = 4;

/// Words of 8 bytes of the largest block that is found without its class.
pub(crate) const DIRECT: usize = 128;
/// Where in a heap its number is.
pub(crate) const NUMBER: usize = std::mem::offset_of!(Local, number);

/// The heap of one thread.
///
/// * `mail` is anyone's: see [`Mailbox`].
/// * `number` does not change.
/// * the cells, and the superblocks whose owner is `mail`, belong to the thread
///   that holds the heap: from `Arena::join` to `Arena::retire`, both of which
///   take the global lock, so that a heap which changes threads carries
///   everything along. Methods that reach them are unsafe and say so.
///
/// *Hoard's invariant.* For each class, with `u` blocks in use out of `a`, the
/// superblock that is handed out from left out: `u ≥ a − SLACK superblocks`, else
/// a superblock that has become empty goes to the global heap; and `u ≥ a − PARTLY`
/// (less where the region may not grow to 256 MiB) or `u ≥ ¾ a`, else one that is
/// at least a quarter free does. It is looked at, and the superblock counted, when
/// its use falls through a quarter (`Superblock::arm`): at most another quarter of
/// each superblock may be free unnoticed, and the blow-up stays bounded by a
/// constant factor plus a constant for each thread and class.
/// What is wholly free in a class that the thread does not use any more goes when
/// it needs something else (`spare`). A few that are empty go together (`leaving`).
#[repr(C)]
pub(crate) struct Local {
    mail: Mailbox,
    /// That of the heap of the region.
    number: u64,
    /// Describes nothing, and so never has a block in its hand.
    nothing: Ref,
    /// For each number of 8-byte words up to `DIRECT`, what is ready of its class.
    direct: UnsafeCell<[Ref; DIRECT + 1]>,
    /// The same for blocks as C wants them: see [`Self::direct_c`].
    direct_c: UnsafeCell<[Ref; DIRECT + 1]>,
    /// Of each class the superblock that is handed out from, once its entry is
    /// durable and somebody has noticed; else `nothing`.
    ready: UnsafeCell<[Ref; CLASSES]>,
    bins: UnsafeCell<[Bin; CLASSES]>,
    leaving: UnsafeCell<Leaving>,
    /// Units of superblocks' worth of free blocks at most, where `PARTLY` would be more.
    partly: i64,
    /// The class at which to look next for something to give up.
    spare_next: UnsafeCell<usize>,
    /// A bit for each class of which it has, or had, superblocks.
    held: UnsafeCell<u128>,
}

/// One class of a thread heap.
struct Bin {
    /// The superblock that is handed out from, which is not counted.
    current: Option<Ref>,
    /// Blocks in use when each superblock was counted last.
    used: i64,
    /// Blocks.
    capacity: i64,
    /// Superblocks that came since one had to go.
    got: usize,
    partial: List,
    full: List,
}

// SAFETY: what is in cells is touched by one thread at a time, as the type's prose says.
unsafe impl Sync for Local {}
// SAFETY: nothing in it belongs to a thread by its nature.
unsafe impl Send for Local {}

impl Local {
    /// A heap without superblocks, in the heap numbered `number` of up to `max`
    /// units. `nothing` describes nothing, for ever.
    pub(crate) fn new(number: u64, max: u64, nothing: Ref) -> Self {
        Local {
            mail: Mailbox::new(),
            number,
            nothing,
            direct: UnsafeCell::new([nothing; DIRECT + 1]),
            direct_c: UnsafeCell::new([nothing; DIRECT + 1]),
            ready: UnsafeCell::new([nothing; CLASSES]),
            bins: UnsafeCell::new(std::array::from_fn(|_| Bin {
                current: None,
                used: 0,
                capacity: 0,
                got: 0,
                partial: List::new(Place::Partial),
                full: List::new(Place::Full),
            })),
            leaving: UnsafeCell::new(Leaving::new()),
            partly: (max / PARTLY_OF) as i64,
            spare_next: UnsafeCell::new(0),
            held: UnsafeCell::new(0),
        }
    }

    /// The number of the heap that it belongs to.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The number at `local`.
    ///
    /// # Safety
    /// `local` points to a thread heap, or to a number where a thread heap has one.
    #[inline(always)]
    pub(crate) unsafe fn number_of(local: *const Local) -> u64 {
        // SAFETY: as the caller says.
        unsafe { (&raw const (*local).number).read() }
    }

    /// Its mailbox, which is what superblocks call their owner.
    #[inline(always)]
    pub(crate) fn mail(&self) -> NonNull<Mailbox> {
        NonNull::from(&self.mail)
    }

    /// Whether `superblock` is this heap's. Right for the heap's thread only.
    #[inline(always)]
    pub(crate) fn owns(&self, superblock: Ref) -> bool {
        std::ptr::eq(superblock.owner(), &self.mail)
    }

    /// Whether other threads gave blocks back.
    pub(crate) fn has_mail(&self) -> bool {
        !self.mail.is_empty()
    }

    /// The superblock that blocks of `words` words, 8 bytes each, are handed out
    /// from, if its entry is durable; else one that has none.
    ///
    /// # Safety
    /// Only by the thread that holds this heap; `words <= DIRECT`.
    #[inline(always)]
    pub(crate) unsafe fn direct(&self, words: usize) -> Ref {
        debug_assert!(words <= DIRECT);
        // SAFETY: the heap's thread, and there are so many.
        self.direct
            .with(|direct| unsafe { *(*direct).get_unchecked(words) })
    }

    /// The same for blocks as C wants them: from 9 bytes on aligned to 16, and of
    /// one byte where none is asked for.
    ///
    /// # Safety
    /// Only by the thread that holds this heap; `words <= DIRECT`.
    #[inline(always)]
    pub(crate) unsafe fn direct_c(&self, words: usize) -> Ref {
        debug_assert!(words <= DIRECT);
        // SAFETY: the heap's thread, and there are so many.
        self.direct_c
            .with(|direct| unsafe { *(*direct).get_unchecked(words) })
    }

    /// The same, of a class.
    ///
    /// # Safety
    /// Only by the thread that holds this heap; `class < CLASSES`.
    #[inline(always)]
    pub(crate) unsafe fn ready(&self, class: usize) -> Ref {
        debug_assert!(class < CLASSES);
        // SAFETY: the heap's thread, and `class` is one.
        self.ready
            .with(|ready| unsafe { *(*ready).get_unchecked(class) })
    }

    /// The address of a block of what is `ready`, where the hand is empty.
    ///
    /// # Safety
    /// Only by the thread that holds this heap.
    pub(crate) unsafe fn draw(&self, ready: Ref) -> Option<u64> {
        if ready == self.nothing {
            return None;
        }
        // SAFETY: what is ready is the heap's.
        unsafe { ready.take() }
    }

    unsafe fn set_ready(&self, class: usize, superblock: Ref) {
        let words = |class: usize| class::TABLE[class].size as usize / 8;
        // There is no block of no words.
        let first = class.checked_sub(1).map_or(1, |below| words(below) + 1);
        let last = words(class).min(DIRECT);
        // For C an even number of words, which is aligned to 16 bytes, serves the odd one below.
        let (first_c, last_c) = match first {
            1 => (0, 1),
            2 => (2, 2),
            _ => ((first - 1) | 1, last & !1),
        };
        let fill = |all: *mut [Ref; DIRECT + 1], first, last| {
            // SAFETY: the heap's thread, in `with_mut`.
            if let Some(all) = unsafe { &mut *all }.get_mut(first..=last) {
                all.fill(superblock);
            }
        };
        // SAFETY: the heap's thread.
        self.ready
            .with_mut(|ready| unsafe { (*ready)[class] = superblock });
        self.direct.with_mut(|all| fill(all, first, last));
        self.direct_c.with_mut(|all| fill(all, first_c, last_c));
    }

    /// A block of `class` from the current superblock: that, and the block's address.
    ///
    /// # Safety
    /// Only by the thread that holds this heap.
    pub(crate) unsafe fn alloc(&self, class: usize) -> Option<(Ref, u64)> {
        self.bins.with(|bins| {
            // SAFETY: the heap's thread, and the current superblock is the heap's.
            unsafe {
                let current = (&(*bins))[class].current?;
                let offset = current.take()?;
                if current.is_durable() && self.ready(class) != current {
                    self.set_ready(class, current);
                }
                Some((current, offset))
            }
        })
    }

    /// Puts a superblock that fell through a step where it belongs now. Returns
    /// one that is not this heap's any more and has to go to the global heap.
    ///
    /// # Safety
    /// Only by the thread that holds this heap, which owns `superblock`.
    #[cold]
    pub(crate) unsafe fn settle(&self, superblock: Ref) -> Option<Ref> {
        self.bins.with_mut(|bins| {
            // SAFETY: the heap's thread, which owns `superblock` and what is in its lists.
            unsafe { (*bins)[superblock.class()].settle(superblock, self.partly) }
        })
    }

    /// Takes in what other threads gave back. What `settle` returns goes to `away`.
    ///
    /// # Safety
    /// Only by the thread that holds this heap.
    pub(crate) unsafe fn collect(&self, away: &mut Vec<Ref>) {
        for superblock in self.mail.take() {
            if !self.owns(superblock) {
                superblock.post();
                continue;
            }
            self.bins.with_mut(|bins| {
                // SAFETY: the heap's thread, and the superblock is its own.
                unsafe {
                    let bin = &mut (*bins)[superblock.class()];
                    superblock.collect();
                    // What leaves, or has just been added to `away`, is in no class.
                    if !matches!(superblock.place(), Place::Leaving | Place::Nowhere)
                        && let Some(goes) = bin.settle(superblock, self.partly)
                    {
                        self.leave(goes, away);
                    }
                }
            });
        }
    }

    /// Goes on to another superblock of this heap, the current one being used
    /// up; false if there is none with free blocks. `random` as for `Superblock::start`.
    ///
    /// # Safety
    /// Only by the thread that holds this heap.
    pub(crate) unsafe fn refill(&self, class: usize, random: u32) -> bool {
        self.bins.with_mut(|bins| {
            // SAFETY: the heap's thread, and what is in its lists is its own.
            unsafe {
                let bin = &mut (*bins)[class];
                if let Some(current) = bin.current.take() {
                    if self.ready(class) != self.nothing {
                        self.set_ready(class, self.nothing);
                    }
                    current.rest();
                    bin.used += current.count();
                    current.arm();
                    if current.used() < current.blocks() {
                        bin.partial.push(current);
                    } else {
                        bin.full.push(current);
                    }
                }
                let next = bin.partial.pop();
                if let Some(next) = next {
                    bin.make_current(next, random);
                }
                next.is_some()
            }
        })
    }

    /// Allocates from `superblock`, which is new in this heap.
    ///
    /// # Safety
    /// Only by the thread that holds this heap and owns `superblock`, which is in
    /// no list, after `refill` returned false.
    pub(crate) unsafe fn adopt(&self, superblock: Ref, random: u32) {
        self.bins.with_mut(|bins| {
            // SAFETY: the heap's thread.
            unsafe {
                let bin = &mut (*bins)[superblock.class()];
                bin.enter(superblock);
                bin.make_current(superblock, random);
                self.held.with_mut(|held| *held |= 1 << superblock.class());
            }
        });
    }

    /// Takes all superblocks out.
    ///
    /// # Safety
    /// Only by the thread that holds this heap.
    pub(crate) unsafe fn surrender(&self, away: &mut Vec<Ref>) {
        // SAFETY: the heap's thread.
        unsafe {
            self.ready.with_mut(|ready| (*ready).fill(self.nothing));
            self.direct.with_mut(|direct| (*direct).fill(self.nothing));
            self.direct_c
                .with_mut(|direct| (*direct).fill(self.nothing));
        }
        // SAFETY: the heap's thread.
        unsafe { self.leave_all(away) };
        self.bins.with_mut(|bins| {
            // SAFETY: the heap's thread, and what is in its lists is its own.
            unsafe {
                for bin in &mut *bins {
                    if let Some(current) = bin.current.take() {
                        current.rest();
                        away.push(current);
                    }
                    while let Some(superblock) = bin.partial.pop() {
                        away.push(superblock);
                    }
                    while let Some(superblock) = bin.full.pop() {
                        away.push(superblock);
                    }
                    bin.used = 0;
                    bin.capacity = 0;
                }
                for superblock in away.iter() {
                    superblock.disarm();
                    superblock.set_place(Place::Nowhere);
                }
            }
        });
    }
}

impl Bin {
    /// Counts `superblock` in.
    ///
    /// # Safety
    /// The caller owns it.
    unsafe fn enter(&mut self, superblock: Ref) {
        // SAFETY: as the caller says.
        unsafe { superblock.uncount() };
        // SAFETY: as the caller says.
        self.used += unsafe { superblock.count() };
        self.capacity += i64::from(superblock.blocks());
        self.got += 1;
    }

    /// # Safety
    /// The caller owns `superblock`, which is in no list.
    unsafe fn make_current(&mut self, superblock: Ref, random: u32) {
        // SAFETY: as the caller says.
        unsafe { superblock.start(random) };
        superblock.set_place(Place::Current);
        self.current = Some(superblock);
    }

    /// # Safety
    /// The caller owns `superblock` and all that is in the lists.
    unsafe fn settle(&mut self, superblock: Ref, partly: i64) -> Option<Ref> {
        // SAFETY: as the caller says; candidates are partial.
        unsafe {
            if superblock.place() == Place::Current {
                superblock.go_on();
                return None;
            }
            self.used += superblock.count();
            if superblock.place() == Place::Full && superblock.used() < superblock.blocks() {
                self.full.remove(superblock);
                self.partial.push(superblock);
            }
            let goes = self.candidate(superblock, partly);
            if superblock.place() == Place::Partial {
                superblock.arm();
            }
            if let Some(goes) = goes {
                self.partial.remove(goes);
                goes.disarm();
                self.used += goes.count() - i64::from(goes.used());
                self.capacity -= i64::from(goes.blocks());
                self.got = 0;
            }
            goes
        }
    }

    /// The superblock that has to go, if one has.
    ///
    /// # Safety
    /// As [`Self::settle`].
    unsafe fn candidate(&self, superblock: Ref, partly: i64) -> Option<Ref> {
        let blocks = i64::from(superblock.blocks());
        let kind = usize::from(superblock.size() > MAX_SMALL as u64);
        let slack = SLACK[kind];
        if self.used + slack * blocks >= self.capacity {
            return None;
        }
        let partial = superblock.place() == Place::Partial;
        // SAFETY: partial ones are ours, as the caller says, and not handed out from.
        let used = |candidate: Ref| unsafe { candidate.used() };
        if partial && used(superblock) == 0 {
            return Some(superblock);
        }
        let partly = partly.min(PARTLY[usize::from(superblock.blocks() <= FEW)]);
        let slack = slack.max(partly / superblock.units() as i64);
        if self.used + slack * blocks >= self.capacity || self.used * 4 >= self.capacity * 3 {
            return None;
        }
        let quarter_free =
            |candidate: &Ref| u64::from(used(*candidate)) * 4 <= u64::from(candidate.blocks()) * 3;
        if partial && quarter_free(&superblock) {
            return Some(superblock);
        }
        self.partial.iter().take(LOOK).find(quarter_free)
    }
}

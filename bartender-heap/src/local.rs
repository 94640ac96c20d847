//! A thread's heap: its superblocks by class, and the one of each class that it
//! allocates from.
//!
//! It promises that everything here is done by one thread at a time without
//! locks. It never gets or gives superblocks by itself: it says which ones
//! should go, and `arena` passes them on.

mod spare;

use crate::class::{CLASSES, MAX_SMALL};
use crate::list::List;
use crate::map::UnitMap;
use crate::superblock::{Mailbox, Place, Ref};
use bartender_pm::sync::UnsafeCell;
use std::ptr::NonNull;

/// Superblocks' worth of free blocks of a class that a thread may keep, of small
/// and of longer superblocks: so that a thread at the edge, or one that works in
/// bursts, does not send superblocks back and forth.
const SLACK: [i64; 2] = [4, 2];
/// How many superblocks are looked at for one to give up.
const LOOK: usize = 4;

/// The heap of one thread.
///
/// * `mail` is anyone's: see [`Mailbox`].
/// * `recent`, `bins`, and the superblocks whose owner is `mail`, belong to the thread
///   that holds the heap: from `Arena::join` to `Arena::retire`, both of which
///   take the global lock, so that a heap which changes threads carries
///   everything along. Methods that reach them are unsafe and say so.
///
/// *Hoard's invariant.* For each class, with `u` blocks in use out of `a`:
/// `u ≥ a − SLACK superblocks` or `u ≥ ¾ a`, else a superblock that is at least a
/// quarter free goes to the global heap. It is looked at, and the superblock
/// counted, when its use falls through a quarter (`Superblock::arm`): at most
/// another quarter of each superblock may be free unnoticed, and the blow-up
/// stays bounded by a constant factor plus a constant for each thread and class.
/// What is wholly free in a class that the thread does not use any more goes when
/// it needs something else (`spare`).
#[repr(C)]
pub(crate) struct Local {
    mail: Mailbox,
    /// The superblock that a block was given back to last, while it is ours.
    recent: UnsafeCell<Option<Ref>>,
    bins: UnsafeCell<[Bin; CLASSES]>,
    /// The class at which to look next for something to give up.
    spare_hand: UnsafeCell<usize>,
}

/// One class of a thread heap.
#[repr(align(64))]
struct Bin {
    /// `current`, if its entry is durable and somebody has noticed.
    ready: Option<Ref>,
    current: Option<Ref>,
    /// Blocks in use when each superblock was counted last.
    used: i64,
    /// Blocks.
    capacity: i64,
    partial: List,
    full: List,
}

// SAFETY: `bins` is touched by one thread at a time, as the type's prose says.
unsafe impl Sync for Local {}
// SAFETY: nothing in it belongs to a thread by its nature.
unsafe impl Send for Local {}

impl Local {
    /// A heap without superblocks.
    pub(crate) fn new() -> Self {
        Local {
            mail: Mailbox::new(),
            recent: UnsafeCell::new(None),
            bins: UnsafeCell::new(std::array::from_fn(|_| Bin {
                ready: None,
                current: None,
                used: 0,
                capacity: 0,
                partial: List::new(Place::Partial),
                full: List::new(Place::Full),
            })),
            spare_hand: UnsafeCell::new(0),
        }
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

    /// The superblock of this heap, and the index in it, of the block that starts
    /// at home offset `offset`, if it is this heap's. Blocks that are given back
    /// one after the other are often neighbours, and then nothing that has to be
    /// loaded depends on `offset`.
    ///
    /// # Safety
    /// Only by the thread that holds this heap.
    #[inline(always)]
    pub(crate) unsafe fn find(&self, offset: u64, map: &UnitMap) -> Option<(Ref, u32)> {
        // SAFETY: the heap's thread.
        if let Some(recent) = self.recent.with(|recent| unsafe { *recent })
            && let Some(index) = recent.index_of(offset)
        {
            return Some((recent, index));
        }
        let superblock = map.at(offset).filter(|superblock| self.owns(*superblock))?;
        // SAFETY: the heap's thread.
        self.recent
            .with_mut(|recent| unsafe { *recent = Some(superblock) });
        Some((superblock, superblock.index_of(offset)?))
    }

    /// A superblock is not ours any more.
    ///
    /// # Safety
    /// Only by the thread that holds this heap.
    unsafe fn forget(&self) {
        // SAFETY: the heap's thread.
        self.recent.with_mut(|recent| unsafe { *recent = None });
    }

    /// Whether other threads gave blocks back.
    pub(crate) fn has_mail(&self) -> bool {
        !self.mail.is_empty()
    }

    /// A block of `class` from the current superblock, if one is near and the
    /// superblock's entry durable.
    ///
    /// # Safety
    /// Only by the thread that holds this heap; `class < CLASSES`.
    #[inline(always)]
    pub(crate) unsafe fn alloc_near(&self, class: usize) -> Option<(Ref, u32)> {
        self.bins.with(|bins| {
            // SAFETY: the heap's thread, and `class` is one.
            let ready = unsafe { (*bins).get_unchecked(class) }.ready?;
            Some((ready, ready.take_near()?))
        })
    }

    /// A block of `class` from the current superblock.
    ///
    /// # Safety
    /// Only by the thread that holds this heap.
    pub(crate) unsafe fn alloc(&self, class: usize) -> Option<(Ref, u32)> {
        self.bins.with_mut(|bins| {
            // SAFETY: the heap's thread.
            let bin = unsafe { &mut (*bins)[class] };
            let current = bin.current?;
            bin.ready = current.is_durable().then_some(current);
            Some((current, current.take()?))
        })
    }

    /// Puts a superblock that fell through a step where it belongs now. Returns
    /// one that is not this heap's any more and has to go to the global heap.
    ///
    /// # Safety
    /// Only by the thread that holds this heap, which owns `superblock`.
    #[cold]
    pub(crate) unsafe fn settle(&self, superblock: Ref) -> Option<Ref> {
        // SAFETY: the heap's thread.
        unsafe { self.forget() };
        self.bins.with_mut(|bins| {
            // SAFETY: the heap's thread, which owns `superblock` and what is in its lists.
            unsafe { (*bins)[superblock.class()].settle(superblock) }
        })
    }

    /// Takes in what other threads gave back. What `settle` returns goes to `away`.
    ///
    /// # Safety
    /// Only by the thread that holds this heap.
    pub(crate) unsafe fn collect(&self, away: &mut Vec<Ref>) {
        // SAFETY: the heap's thread.
        unsafe { self.forget() };
        for superblock in self.mail.take() {
            if !self.owns(superblock) {
                superblock.post();
                continue;
            }
            self.bins.with_mut(|bins| {
                // SAFETY: the heap's thread, and the superblock is its own.
                let bin = unsafe { &mut (*bins)[superblock.class()] };
                superblock.collect();
                // SAFETY: as above.
                away.extend(unsafe { bin.settle(superblock) });
            });
        }
    }

    /// Goes on to another superblock of this heap; false if it has none with free blocks.
    ///
    /// # Safety
    /// Only by the thread that holds this heap.
    pub(crate) unsafe fn refill(&self, class: usize) -> bool {
        self.bins.with_mut(|bins| {
            // SAFETY: the heap's thread, and what is in its lists is its own.
            unsafe {
                let bin = &mut (*bins)[class];
                if let Some(current) = bin.current {
                    if current.used() < current.blocks() {
                        return true;
                    }
                    current.arm();
                    bin.used += current.count();
                    bin.current = None;
                    bin.ready = None;
                    bin.full.push(current);
                }
                let Some(next) = bin.partial.pop() else {
                    return false;
                };
                bin.make_current(next);
                true
            }
        })
    }

    /// Allocates from `superblock`, which is new in this heap.
    ///
    /// # Safety
    /// Only by the thread that holds this heap and owns `superblock`, which is in
    /// no list, after `refill` returned false.
    pub(crate) unsafe fn adopt(&self, superblock: Ref) {
        self.bins.with_mut(|bins| {
            // SAFETY: the heap's thread.
            let bin = unsafe { &mut (*bins)[superblock.class()] };
            superblock.uncount();
            bin.used += superblock.count();
            bin.capacity += i64::from(superblock.blocks());
            bin.make_current(superblock);
        });
    }

    /// Takes all superblocks out.
    ///
    /// # Safety
    /// Only by the thread that holds this heap.
    pub(crate) unsafe fn surrender(&self, away: &mut Vec<Ref>) {
        // SAFETY: the heap's thread.
        unsafe { self.forget() };
        self.bins.with_mut(|bins| {
            // SAFETY: the heap's thread, and what is in its lists is its own.
            for bin in unsafe { &mut *bins } {
                away.extend(bin.current.take());
                bin.ready = None;
                // SAFETY: as above.
                while let Some(superblock) = unsafe { bin.partial.pop() } {
                    away.push(superblock);
                }
                // SAFETY: as above.
                while let Some(superblock) = unsafe { bin.full.pop() } {
                    away.push(superblock);
                }
                bin.used = 0;
                bin.capacity = 0;
            }
        });
        for superblock in away.iter() {
            superblock.disarm();
            superblock.set_place(Place::Nowhere);
        }
    }
}

impl Bin {
    fn make_current(&mut self, superblock: Ref) {
        superblock.disarm();
        superblock.set_place(Place::Current);
        self.current = Some(superblock);
        self.ready = superblock.is_durable().then_some(superblock);
    }

    /// # Safety
    /// The caller owns `superblock` and all that is in the lists.
    unsafe fn settle(&mut self, superblock: Ref) -> Option<Ref> {
        let place = superblock.place();
        self.used += superblock.count();
        if place == Place::Full && superblock.used() < superblock.blocks() {
            // SAFETY: as the caller says.
            unsafe {
                self.full.remove(superblock);
                self.partial.push(superblock);
            }
        }
        let goes = self.candidate(superblock);
        if superblock.place() == Place::Partial {
            superblock.arm();
        }
        if let Some(goes) = goes {
            // SAFETY: as the caller says; candidates are partial.
            unsafe { self.partial.remove(goes) };
            goes.disarm();
            self.used += goes.count() - i64::from(goes.used());
            self.capacity -= i64::from(goes.blocks());
        }
        goes
    }

    /// The superblock that has to go, if one has.
    fn candidate(&self, superblock: Ref) -> Option<Ref> {
        let blocks = i64::from(superblock.blocks());
        let slack = SLACK[usize::from(superblock.size() > MAX_SMALL as u64)];
        if self.used + slack * blocks >= self.capacity {
            return None;
        }
        let partial = superblock.place() == Place::Partial;
        if partial && superblock.used() == 0 {
            return Some(superblock);
        }
        if self.used * 4 >= self.capacity * 3 {
            return None;
        }
        let quarter_free =
            |candidate: &Ref| u64::from(candidate.used()) * 4 <= u64::from(candidate.blocks()) * 3;
        if partial && quarter_free(&superblock) {
            return Some(superblock);
        }
        self.partial.iter().take(LOOK).find(quarter_free)
    }
}

//! A superblock's state in DRAM: which of its blocks are free, whose it is, and
//! the mailbox through which other threads give blocks back.
//!
//! It promises that taking and giving by the owner are plain loads and stores,
//! and that a block given back by anyone is handed out again exactly once. It
//! does not decide who owns a superblock: `local` and `global` do.

mod mailbox;

use crate::class;
use crate::layout::{TableEntry, UNIT};
use bartender_pm::mutant;
use bartender_pm::sync::UnsafeCell;
use bartender_pm::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::*};
use std::ptr::NonNull;

pub(crate) use mailbox::{Mailbox, Ref};

/// Trigger that no count of used blocks reaches.
const NEVER: u32 = u32::MAX;
/// Class of a descriptor that describes nothing.
const DEAD: u32 = u32::MAX;

/// Describes one superblock or large run.
///
/// Descriptors and bitmaps are type-stable: memory of the one is never used for
/// anything else until the arena is dropped, only for another superblock. So a
/// thread that is late, or was given a wild address, reads atomics, never
/// freed memory.
///
/// A superblock has one *owner* at any time: a thread's `Local`, or the global
/// heap, whose lock must be held. Ownership changes hands only under the global
/// lock, and `owner` names the owner's mailbox. A thread that reads its own
/// mailbox there is right, since only itself would have changed that; any other
/// value may be out of date.
///
/// | fields | written by | read by |
/// |---|---|---|
/// | `start` … `words`, `birth` | the global heap, when the superblock is born and dies | anyone: whoever holds a block got it after the birth, and the superblock does not die before that block is back |
/// | `durable` | whoever made the table entry durable | anyone |
/// | `fresh` | the global heap at birth; whoever gives a block back | who allocates, while the entry is not durable |
/// | `used`, `counted`, `cursor`, `trigger`, the free bitmap | the owner, plainly | the owner; others for statistics, and one bit by who gives back that bit's block: it is 0, and was when the block was handed out |
/// | `links` | the owner | the owner |
/// | `owner` | the global heap's lock holder | anyone |
/// | the remote bitmap, `summary` | anyone who gives a block back (`fetch_or`); the owner empties them (`swap`) | |
/// | `next` | whoever raised `summary` from 0, until a mailbox's reader lowers it | the reader of the mailbox |
///
/// *Giving back from afar.* Set the block's bit in the remote bitmap, then the
/// bit of its words in `summary`. Who finds `summary` at 0 puts the superblock
/// into its owner's mailbox; so it is in one mailbox at most. The owner, having
/// taken it out, empties first `summary` and then the words that it named. Both
/// are read-modify-writes, so who raised a bit that the owner lowered has had
/// its block seen, and who comes later finds 0 and sends the superblock again.
///
/// *Change of owner meanwhile.* The sender may have read the previous owner. A
/// mailbox's reader who finds a superblock of somebody else passes it on,
/// without lowering `summary`. Mailboxes of threads that ended are read by the
/// global heap. After its bit is in the remote bitmap, a sender touches only
/// `summary`, `owner` and `next`: if the owner was fast, found the superblock
/// empty and gave it up, the mail is about a dead or another superblock, and
/// its reader finds nothing to do.
#[repr(C, align(64))]
pub(crate) struct Superblock {
    start: AtomicU64,
    /// Bytes of its blocks together (of a large run: 1, only its start is one).
    span: AtomicU64,
    reciprocal: AtomicU64,
    /// Free bitmap, then remote bitmap, `words` each.
    bits: AtomicPtr<AtomicU64>,
    owner: AtomicPtr<Mailbox>,
    words: AtomicU32,
    blocks: AtomicU32,
    class: AtomicU32,
    used: AtomicU32,
    /// No free block lies in a word before this one, which there is.
    cursor: AtomicU32,
    /// The owner wants to know when `used` falls to this.
    trigger: AtomicU32,
    size: AtomicU64,
    birth: AtomicU64,
    /// Birth of the superblock whose entry is durable.
    durable: AtomicU64,
    /// `used` when the owner last counted it.
    counted: AtomicU32,
    /// Not 0: nothing that a recovery could replay touched its memory before
    /// its birth, and no block was given back since; so no block that it hands
    /// out was ever part of a record.
    fresh: AtomicU32,
    links: UnsafeCell<Links>,
    shared: Shared,
}

/// What other threads write to, on a cache line of its own.
#[repr(align(64))]
struct Shared {
    summary: AtomicU64,
    next: AtomicPtr<Superblock>,
}

/// Where a superblock is in its owner's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In no list.
    Nowhere,
    /// The one its class is allocated from.
    Current,
    /// Has free blocks.
    Partial,
    /// Has none.
    Full,
    /// Waits for its units to be given back (global heap only).
    Empty,
}

/// A superblock's place in its owner's lists.
pub(crate) struct Links {
    pub(crate) place: Place,
    pub(crate) prev: Option<Ref>,
    pub(crate) next: Option<Ref>,
}

/// The block is free already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AlreadyFree;

/// What a descriptor is to describe.
pub(crate) struct Birth {
    /// First unit.
    pub(crate) unit: u64,
    /// The table entry.
    pub(crate) entry: TableEntry,
    /// Zeroed bitmaps of at least `2 · words(entry)` words.
    pub(crate) bits: NonNull<AtomicU64>,
    /// The owner's mailbox.
    pub(crate) owner: NonNull<Mailbox>,
}

/// Words of one bitmap of a superblock with this entry.
pub(crate) fn words(entry: &TableEntry) -> usize {
    class::TABLE
        .get(entry.class as usize)
        .map_or(1, class::Class::words)
}

// SAFETY: all fields are atomics but `links`, which only the owner touches;
// ownership is handed over under a lock (see the type).
unsafe impl Sync for Superblock {}
// SAFETY: nothing in it belongs to a thread by its nature.
unsafe impl Send for Superblock {}

impl Superblock {
    /// Describes nothing yet.
    pub(crate) fn dead(owner: NonNull<Mailbox>) -> Self {
        Superblock {
            start: AtomicU64::new(0),
            span: AtomicU64::new(0),
            size: AtomicU64::new(0),
            reciprocal: AtomicU64::new(0),
            bits: AtomicPtr::new(std::ptr::null_mut()),
            owner: AtomicPtr::new(owner.as_ptr()),
            words: AtomicU32::new(0),
            blocks: AtomicU32::new(0),
            class: AtomicU32::new(DEAD),
            used: AtomicU32::new(0),
            cursor: AtomicU32::new(0),
            trigger: AtomicU32::new(NEVER),
            birth: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            counted: AtomicU32::new(0),
            fresh: AtomicU32::new(0),
            links: UnsafeCell::new(Links {
                place: Place::Nowhere,
                prev: None,
                next: None,
            }),
            shared: Shared {
                summary: AtomicU64::new(0),
                next: AtomicPtr::new(std::ptr::null_mut()),
            },
        }
    }

    /// A superblock is born, with all blocks free. Under the global lock, on a dead descriptor.
    pub(crate) fn be(&self, birth: &Birth) {
        let entry = birth.entry;
        let (size, blocks, span, reciprocal) = match class::TABLE.get(entry.class as usize) {
            Some(class) => {
                let size = u64::from(class.size);
                (
                    size,
                    class.blocks,
                    size * u64::from(class.blocks),
                    class.reciprocal,
                )
            }
            None => (u64::from(entry.units) * UNIT, 1, 1, 1),
        };
        let words = words(&entry);
        self.start.store(birth.unit * UNIT, Relaxed);
        self.span.store(span, Relaxed);
        self.size.store(size, Relaxed);
        self.reciprocal.store(reciprocal, Relaxed);
        self.bits.store(birth.bits.as_ptr(), Relaxed);
        self.words.store(words as u32, Relaxed);
        self.blocks.store(blocks, Relaxed);
        self.class.store(u32::from(entry.class), Relaxed);
        self.used.store(0, Relaxed);
        self.counted.store(0, Relaxed);
        self.fresh.store(0, Relaxed);
        self.cursor.store(0, Relaxed);
        self.trigger.store(NEVER, Relaxed);
        self.birth.store(entry.birth, Relaxed);
        for word in 0..words {
            let rest = blocks as usize - word * 64;
            self.free_word(word)
                .store(if rest < 64 { (1 << rest) - 1 } else { !0 }, Relaxed);
        }
        self.owner.store(birth.owner.as_ptr(), Release);
    }

    /// The superblock dies; returns its bitmaps. Under the global lock, owned by the global heap, empty.
    pub(crate) fn die(&self) -> NonNull<AtomicU64> {
        debug_assert_eq!(self.used(), 0);
        self.class.store(DEAD, Relaxed);
        self.blocks.store(0, Relaxed);
        self.span.store(0, Relaxed);
        self.set_place(Place::Nowhere);
        NonNull::new(self.bits.load(Relaxed)).expect("a living superblock has bitmaps")
    }

    /// Whether it describes a superblock or run.
    pub(crate) fn is_alive(&self) -> bool {
        self.class.load(Relaxed) != DEAD
    }

    /// Whether it is a large run.
    pub(crate) fn is_large(&self) -> bool {
        self.class.load(Relaxed) == u32::from(TableEntry::LARGE)
    }

    /// Its size class; not for large runs.
    #[inline(always)]
    pub(crate) fn class(&self) -> usize {
        self.class.load(Relaxed) as usize
    }

    /// Bytes of a block.
    #[inline(always)]
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Relaxed)
    }

    /// Blocks, free or not.
    #[inline(always)]
    pub(crate) fn blocks(&self) -> u32 {
        self.blocks.load(Relaxed)
    }

    /// Blocks that are not free, those in the remote bitmap included.
    #[inline(always)]
    pub(crate) fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    /// Blocks that nobody has given back: exact for a superblock at rest. Under
    /// the global lock, so that it does not die meanwhile.
    pub(crate) fn live(&self) -> u32 {
        let free: u32 = self.free_words().map(u64::count_ones).sum();
        self.blocks() - free
    }

    /// Words of one bitmap.
    pub(crate) fn words(&self) -> usize {
        self.words.load(Relaxed) as usize
    }

    /// First unit.
    pub(crate) fn unit(&self) -> u64 {
        self.start.load(Relaxed) / UNIT
    }

    /// Its table entry.
    pub(crate) fn entry(&self) -> TableEntry {
        let class = self.class.load(Relaxed) as u16;
        let units = match class::TABLE.get(class as usize) {
            Some(class) => class.units,
            None => (self.size() / UNIT) as u32,
        };
        TableEntry {
            birth: self.birth.load(Relaxed),
            units,
            class,
            flags: 0,
        }
    }

    /// Whether its table entry is durable.
    #[inline(always)]
    pub(crate) fn is_durable(&self) -> bool {
        self.durable.load(Relaxed) == self.birth.load(Relaxed)
    }

    /// The entry of the superblock born as `birth` is durable. Naming the birth
    /// makes a late call about a dead superblock harmless.
    pub(crate) fn set_durable(&self, birth: u64) {
        self.durable.store(birth, Relaxed);
    }

    /// Its memory is fresh at birth. Under the global lock.
    pub(crate) fn set_fresh(&self) {
        self.fresh.store(1, Relaxed);
    }

    /// Whether the blocks it hands out now are fresh.
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh.load(Relaxed) != 0
    }

    /// Home offset of block `index`.
    #[inline(always)]
    pub(crate) fn offset_of(&self, index: u32) -> u64 {
        self.start.load(Relaxed) + u64::from(index) * self.size()
    }

    /// The block that starts at home offset `offset`.
    #[inline(always)]
    pub(crate) fn index_of(&self, offset: u64) -> Option<u32> {
        let within = offset.wrapping_sub(self.start.load(Relaxed));
        if within >= self.span.load(Relaxed) {
            return None;
        }
        class::divide(within, self.reciprocal.load(Relaxed))
    }

    /// The owner's mailbox; out of date unless it is the caller's.
    #[inline(always)]
    pub(crate) fn owner(&self) -> *mut Mailbox {
        self.owner.load(Relaxed)
    }

    /// Changes the owner. Under the global lock.
    pub(crate) fn set_owner(&self, owner: NonNull<Mailbox>) {
        self.owner.store(owner.as_ptr(), Release);
    }

    /// Takes the first free block, if one is in the word that the last came
    /// from. Owner only.
    #[inline(always)]
    pub(crate) fn take_near(&self) -> Option<u32> {
        let at = self.cursor.load(Relaxed);
        let word = self.free_word(at as usize);
        let bits = word.load(Relaxed);
        if bits == 0 {
            return None;
        }
        word.store(bits & (bits - 1), Relaxed);
        self.used.store(self.used() + 1, Relaxed);
        Some(at * 64 + bits.trailing_zeros())
    }

    /// Takes the first free block. Owner only.
    pub(crate) fn take(&self) -> Option<u32> {
        self.take_near().or_else(|| {
            let mut words = self.cursor.load(Relaxed)..self.words() as u32;
            let next = words.find(|at| self.free_word(*at as usize).load(Relaxed) != 0)?;
            self.cursor.store(next, Relaxed);
            self.take_near()
        })
    }

    /// Gives block `index` back, unless it is free or other threads have given
    /// some back. `Ok(true)`: the owner wanted to know. Owner only.
    #[inline(always)]
    pub(crate) fn give_near(&self, index: u32) -> Result<bool, AlreadyFree> {
        let at = index / 64;
        let bit = 1 << (index % 64);
        let word = self.free_word(at as usize);
        let bits = word.load(Relaxed);
        if bits & bit != 0 || self.shared.summary.load(Relaxed) != 0 {
            return Err(AlreadyFree);
        }
        Ok(self.set_free(word, bits | bit, at))
    }

    /// Gives block `index` back; returns whether the owner wanted to know. Owner only.
    pub(crate) fn give(&self, index: u32) -> Result<bool, AlreadyFree> {
        let at = index / 64;
        let bit = 1 << (index % 64);
        let word = self.free_word(at as usize);
        let bits = word.load(Relaxed);
        if (bits | self.remote_word(at as usize).load(Relaxed)) & bit != 0 {
            return Err(AlreadyFree);
        }
        Ok(self.set_free(word, bits | bit, at))
    }

    #[inline(always)]
    fn set_free(&self, word: &AtomicU64, bits: u64, at: u32) -> bool {
        word.store(bits, Relaxed);
        self.fresh.store(0, Relaxed);
        if at < self.cursor.load(Relaxed) {
            self.cursor.store(at, Relaxed);
        }
        let used = self.used() - 1;
        self.used.store(used, Relaxed);
        used == self.trigger.load(Relaxed)
    }

    /// Gives block `index` back from another thread than the owner's.
    pub(crate) fn give_remote(this: Ref, index: u32) -> Result<(), AlreadyFree> {
        let at = (index / 64) as usize;
        let bit = 1 << (index % 64);
        if mutant::is("free_in_two_steps") {
            let bits = this.remote_word(at).load(Acquire);
            if bits & bit != 0 {
                return Err(AlreadyFree);
            }
            this.remote_word(at).store(bits | bit, Release);
        } else if this.free_word(at).load(Relaxed) & bit != 0
            || this.remote_word(at).fetch_or(bit, AcqRel) & bit != 0
        {
            return Err(AlreadyFree);
        }
        // From here on the superblock may be dead (see the type).
        if this.shared.summary.fetch_or(1 << (at / 2), AcqRel) == 0 {
            this.post();
        }
        Ok(())
    }

    /// Takes in what other threads gave back; returns how many blocks. Owner
    /// only, who has taken the superblock out of a mailbox.
    pub(crate) fn collect(&self) -> u32 {
        let mut summary = if mutant::is("summary_last") {
            self.shared.summary.load(Acquire)
        } else {
            self.shared.summary.swap(0, AcqRel)
        };
        let mut count = 0;
        while summary != 0 {
            let pair = summary.trailing_zeros() as usize * 2;
            summary &= summary - 1;
            // The summary may speak of a longer superblock, now dead.
            for at in pair..(pair + 2).min(self.words()) {
                let remote = self.remote_word(at).swap(0, AcqRel);
                let word = self.free_word(at);
                let bits = word.load(Relaxed);
                count += (remote & !bits).count_ones();
                word.store(bits | remote, Relaxed);
                if remote != 0 && (at as u32) < self.cursor.load(Relaxed) {
                    self.cursor.store(at as u32, Relaxed);
                }
            }
        }
        if mutant::is("summary_last") {
            self.shared.summary.store(0, Release);
        }
        if count != 0 {
            self.fresh.store(0, Relaxed);
        }
        self.used.store(self.used() - count, Relaxed);
        count
    }

    /// Forgets mail about a dead superblock. By who has taken it out of a mailbox.
    pub(crate) fn discard_mail(&self) {
        self.shared.summary.swap(0, AcqRel);
    }

    /// The words of blocks that are in use by nobody. As [`Self::live`].
    pub(crate) fn free_words(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.words()).map(|at| {
            let remote = self.remote_word(at).load(Relaxed);
            let heeded = if mutant::is("save_without_mail") {
                0
            } else {
                remote
            };
            self.free_word(at).load(Relaxed) | heeded
        })
    }

    /// Blocks that were given back from afar and not taken in yet. As [`Self::live`].
    pub(crate) fn waiting(&self) -> u64 {
        let words = (0..self.words()).map(|at| self.remote_word(at).load(Relaxed).count_ones());
        words.map(u64::from).sum()
    }

    /// Sets which blocks are free. Owner only, when the heap is rebuilt.
    pub(crate) fn restore(&self, free: impl Iterator<Item = u64>) {
        let mut count = 0;
        for (at, bits) in free.enumerate().take(self.words()) {
            let rest = self.blocks() as usize - at * 64;
            let bits = bits & if rest < 64 { (1 << rest) - 1 } else { !0 };
            self.free_word(at).store(bits, Relaxed);
            count += bits.count_ones();
        }
        self.used.store(self.blocks() - count, Relaxed);
    }

    /// By how much `used` has changed since this was asked last. Owner only.
    pub(crate) fn count(&self) -> i64 {
        let used = self.used();
        let before = self.counted.load(Relaxed);
        self.counted.store(used, Relaxed);
        i64::from(used) - i64::from(before)
    }

    /// Starts counting anew, for an owner who knows nothing yet. Owner only.
    pub(crate) fn uncount(&self) {
        self.counted.store(0, Relaxed);
    }

    /// Asks to be told when `used` has fallen by a step worth looking at: from
    /// full, then at each quarter.
    pub(crate) fn arm(&self) {
        let (used, blocks) = (self.used(), self.blocks());
        let trigger = if used == blocks {
            blocks - 1
        } else {
            let levels = [blocks - blocks / 4, blocks / 2, blocks / 4, 0];
            levels
                .into_iter()
                .find(|level| *level < used)
                .unwrap_or(NEVER)
        };
        self.trigger.store(trigger, Relaxed);
    }

    /// Asks not to be told.
    pub(crate) fn disarm(&self) {
        self.trigger.store(NEVER, Relaxed);
    }

    /// Where it is in its owner's lists. Owner only.
    pub(crate) fn place(&self) -> Place {
        // SAFETY: owner only, so nobody writes meanwhile.
        self.links.with(|links| unsafe { (*links).place })
    }

    /// Notes where it is in its owner's lists. Owner only.
    pub(crate) fn set_place(&self, place: Place) {
        // SAFETY: owner only, so nobody else reads or writes meanwhile.
        self.links
            .with_mut(|links| unsafe { (*links).place = place });
    }

    /// Puts the superblock into its owner's mailbox. By who raised `summary`
    /// from 0, or has taken it out of a mailbox.
    pub(crate) fn post(&self) {
        let owner = self.owner.load(Acquire);
        // SAFETY: mailboxes are freed with the arena, and who calls this holds
        // the arena.
        unsafe { &*owner }.push(self);
    }

    #[inline(always)]
    fn free_word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at < self.words());
        // SAFETY: `bits` points to `2 · words` words, type-stable.
        unsafe { &*self.bits.load(Relaxed).add(at) }
    }

    #[inline]
    fn remote_word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at < self.words());
        // SAFETY: as in `free_word`.
        unsafe { &*self.bits.load(Relaxed).add(self.words() + at) }
    }
}

impl Links {
    /// Changes the links of `superblock`.
    ///
    /// # Safety
    /// The caller is the superblock's owner.
    pub(crate) unsafe fn change<R>(superblock: Ref, change: impl FnOnce(&mut Links) -> R) -> R {
        // SAFETY: only the owner reaches `links`, and `change` gets no second way to them.
        superblock
            .links
            .with_mut(|links| change(unsafe { &mut *links }))
    }
}

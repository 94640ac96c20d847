//! A superblock's state in DRAM: which of its blocks are free, whose it is, and
//! the mailbox through which other threads give blocks back.
//!
//! It promises that taking and giving by the owner are plain loads and stores,
//! and that a block given back by anyone is handed out again exactly once. It
//! does not decide who owns a superblock: `local` and `global` do.

mod mailbox;
mod owner;
mod remote;

use crate::class;
use crate::layout::{CHUNK, TableEntry, UNIT};
use bartender_pm::mutant;
use bartender_pm::sync::UnsafeCell;
use bartender_pm::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::*};
use std::ptr::{NonNull, null, null_mut};

pub(crate) use mailbox::{Mailbox, Ref};
pub(crate) use owner::Nothing;

/// `class` of a descriptor that describes nothing. Of others it is one more than the class.
const DEAD: u32 = 0;
/// Trigger that no count of used blocks reaches.
const NEVER: u32 = u32::MAX;
/// Bitmaps of a superblock.
pub(crate) const BITMAPS: usize = 3;

/// Describes one superblock or large run.
///
/// Descriptors belong to a chunk of home space, and are dead while nothing begins
/// there; zeroed memory is a dead descriptor. Bitmaps are used for bitmaps only
/// until the arena is dropped, and who is not the owner finds them through
/// [`Bitmaps`], which know their own length. So a thread that is late, or was given
/// a wild address, reads bitmaps, perhaps another superblock's, and nothing else.
///
/// A superblock has one *owner* at any time: a thread's `Local`, or the global
/// heap, whose lock must be held. Ownership changes hands only under the global
/// lock, and `owner` names the owner's mailbox. A thread that reads its own
/// mailbox there is right, since only itself would have changed that; any other
/// value may be out of date.
///
/// | fields | written by | read by |
/// |---|---|---|
/// | `start` … `birth`, `home`, `bitmaps` | the global heap, when the superblock is born and dies | anyone: whoever holds a block got it after the birth, and the superblock does not die before that block is back |
/// | `durable` | whoever made the table entry durable | anyone |
/// | `hot`, `owned` | the owner | the owner |
/// | the free bitmap and the hand | the owner, plainly | the owner; others for statistics, and one bit by who gives back that bit's block: it is 0, and was when the block was handed out |
/// | `owner` | the global heap's lock holder | anyone |
/// | the remote bitmap, `summary` | anyone who gives a block back (`fetch_or`); the owner empties them (`swap`) | |
/// | `next` | whoever raised `summary` from 0, until a mailbox's reader lowers it | the reader of the mailbox |
///
/// *The hand.* A block is free if its bit is set in the free bitmap, in the hand
/// or in the remote bitmap, each of them a word for 64 blocks. The owner hands
/// out from one word of the hand. When that is empty it *draws*: the bits of a
/// word of the free bitmap move to the same word of the hand. Blocks that are
/// given back go into the free bitmap. So neither of allocate and free waits for
/// what the other has just stored, and a block is not needed again at once.
/// Drawing stores the hand first; who looks whether a block is free loads the
/// free bitmap first, and misses nothing.
///
/// Behind the last block the free bitmap goes on with set bits that are never
/// drawn: so a free of what would be the next block is refused like that of a
/// block that is free.
///
/// *Counting.* While a superblock is not handed out from, its used blocks are
/// `owned.trigger + hot.until`, so that a free counts one number down and the
/// owner is told when that gets to 0. While it is, nobody counts.
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
#[repr(C, align(256))]
pub(crate) struct Superblock {
    // A line of the owner's, that of allocate.
    hot: UnsafeCell<Hot>,
    owned: UnsafeCell<Owned>,
    // A line that hardly changes, that of free.
    start: AtomicU64,
    reciprocal: AtomicU64,
    /// Where `shared.bitmaps` are.
    bits: AtomicPtr<AtomicU64>,
    blocks: AtomicU32,
    words: AtomicU32,
    class: AtomicU32,
    /// How many chunks before this one the superblock begins that covers it.
    back: AtomicU32,
    /// Bytes of a block.
    size: AtomicU64,
    birth: AtomicU64,
    /// Birth of the superblock whose entry is durable.
    durable: AtomicU64,
    shared: Shared,
}

/// What the owner changes with each block.
#[repr(C)]
struct Hot {
    /// The word of the hand to hand out from.
    word: *const AtomicU64,
    /// Address of the block of that word's lowest bit.
    base: u64,
    /// Bytes from one block to the next.
    step: u32,
    /// Frees until the owner wants to know.
    until: u32,
    /// State of the generator of the order in which blocks are handed out; 0: in that of their addresses.
    random: u32,
}

/// What other threads write to, on a cache line of its own, and what is read with it.
#[repr(align(64))]
struct Shared {
    summary: AtomicU64,
    /// Not written to by them: where the home begins in the address space.
    home: AtomicU64,
    owner: AtomicPtr<Mailbox>,
    next: AtomicPtr<Superblock>,
    /// Also not written to by them: the bitmaps, with the logarithm of their words
    /// in the bits that the alignment leaves.
    bitmaps: AtomicPtr<AtomicU64>,
}

/// Bitmaps of a superblock as anyone may see them: so many pairs of a word of the
/// free bitmap and one of the hand, then so many words of the remote bitmap.
/// Where they begin and how long they are was read as one.
#[derive(Clone, Copy)]
struct Bitmaps {
    start: NonNull<AtomicU64>,
    /// A power of 2, not less than the superblock has.
    words: usize,
}

impl Bitmaps {
    fn of(superblock: &Superblock) -> Option<Bitmaps> {
        let tagged = superblock.shared.bitmaps.load(Acquire);
        let kind = tagged.addr() % 64;
        let start = NonNull::new(tagged.wrapping_byte_sub(kind))?;
        let words = 1 << kind;
        Some(Bitmaps { start, words })
    }

    /// Which bits of word `at` are free blocks, those in the remote bitmap left out.
    fn free(&self, at: usize) -> u64 {
        self.word(2 * (at % self.words)).load(Acquire)
            | self.word(2 * (at % self.words) + 1).load(Relaxed)
    }

    /// A word of the remote bitmap.
    fn remote(&self, at: usize) -> &AtomicU64 {
        self.word(2 * self.words + at % self.words)
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at < BITMAPS * self.words);
        // SAFETY: there are so many words, and they stay bitmaps (see `Pool`).
        unsafe { self.start.add(at).as_ref() }
    }
}

/// Where a superblock is in its owner's lists. (Zeroed memory is the first.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Place {
    /// In no list.
    Nowhere = 0,
    /// The one its class is allocated from.
    Current,
    /// Has free blocks.
    Partial,
    /// Has none.
    Full,
    /// Waits for its units to be given back (global heap only).
    Empty,
}

/// What the owner knows of a superblock.
pub(crate) struct Owned {
    pub(crate) place: Place,
    pub(crate) prev: Option<Ref>,
    pub(crate) next: Option<Ref>,
    /// The owner wants to know when the used blocks fall to this.
    trigger: u32,
    /// The used blocks when the owner last counted them.
    counted: u32,
    /// At birth nothing that a recovery could replay touched the memory, and
    /// since then it was handed out from without an end.
    fresh: bool,
}

/// The block is free already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AlreadyFree;

/// What a descriptor is to describe.
pub(crate) struct Birth {
    /// First unit.
    pub(crate) unit: u64,
    /// Where the home begins in the address space.
    pub(crate) home: u64,
    /// The table entry.
    pub(crate) entry: TableEntry,
    /// Zeroed bitmaps of at least `BITMAPS · words(entry)` words.
    pub(crate) bits: NonNull<AtomicU64>,
    /// The owner's mailbox.
    pub(crate) owner: NonNull<Mailbox>,
}

/// Logarithm of the words that a bitmap of `words` words is given.
pub(crate) fn kind(words: usize) -> usize {
    words.next_power_of_two().trailing_zeros() as usize
}

/// Words of one bitmap of a superblock with this entry.
pub(crate) fn words(entry: &TableEntry) -> usize {
    class::TABLE
        .get(entry.class as usize)
        .map_or(1, class::Class::words)
}

// SAFETY: all fields are atomics but `hot` and `owned`, which only the owner
// touches; ownership is handed over under a lock (see the type).
unsafe impl Sync for Superblock {}
// SAFETY: nothing in it belongs to a thread by its nature.
unsafe impl Send for Superblock {}

impl Superblock {
    /// Describes nothing.
    pub(crate) fn dead() -> Self {
        Superblock {
            hot: UnsafeCell::new(Hot {
                word: null(),
                base: 0,
                step: 0,
                until: 0,
                random: 0,
            }),
            owned: UnsafeCell::new(Owned {
                place: Place::Nowhere,
                prev: None,
                next: None,
                trigger: 0,
                counted: 0,
                fresh: false,
            }),
            start: AtomicU64::new(0),
            reciprocal: AtomicU64::new(0),
            bits: AtomicPtr::new(null_mut()),
            blocks: AtomicU32::new(0),
            words: AtomicU32::new(0),
            class: AtomicU32::new(DEAD),
            back: AtomicU32::new(0),
            size: AtomicU64::new(0),
            birth: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            shared: Shared {
                summary: AtomicU64::new(0),
                home: AtomicU64::new(0),
                owner: AtomicPtr::new(null_mut()),
                next: AtomicPtr::new(null_mut()),
                bitmaps: AtomicPtr::new(null_mut()),
            },
        }
    }

    /// A superblock is born, with all blocks free. Under the global lock, on a dead descriptor.
    pub(crate) fn be(&self, birth: &Birth) {
        let entry = birth.entry;
        let (size, blocks, reciprocal) = match class::TABLE.get(entry.class as usize) {
            Some(class) => (u64::from(class.size), class.blocks, class.reciprocal),
            // Divides 0 only.
            None => (u64::from(entry.units) * UNIT, 1, u64::MAX),
        };
        let words = words(&entry);
        self.start.store(birth.unit * UNIT, Relaxed);
        self.shared.home.store(birth.home, Relaxed);
        self.size.store(size, Relaxed);
        self.reciprocal.store(reciprocal, Relaxed);
        self.bits.store(birth.bits.as_ptr(), Relaxed);
        let tagged = birth.bits.as_ptr().wrapping_byte_add(kind(words));
        self.shared.bitmaps.store(tagged, Release);
        self.words.store(words as u32, Relaxed);
        self.blocks.store(blocks, Relaxed);
        self.birth.store(entry.birth, Relaxed);
        // Who finds it alive finds its size and bitmaps too.
        self.class.store(u32::from(entry.class) + 1, Release);
        (0..words).for_each(|at| self.free_word(at).store(!0, Relaxed));
        // SAFETY: nobody owns a dead superblock, and the lock is ours.
        unsafe {
            self.hot.with_mut(|hot| {
                *hot = Hot {
                    word: self.hand_word(0),
                    base: birth.home + birth.unit * UNIT,
                    // Of a large run only the first block is asked for.
                    step: size as u32,
                    until: 0,
                    random: 0,
                }
            });
            self.set_used(0);
            Owned::change(self, |owned| {
                owned.counted = 0;
                owned.fresh = false;
            });
        }
        self.set_owner(birth.owner);
    }

    /// The superblock dies; returns its bitmaps. Under the global lock, owned by the global heap, empty.
    pub(crate) fn die(&self) -> NonNull<AtomicU64> {
        debug_assert_eq!(self.live(), 0);
        self.class.store(DEAD, Relaxed);
        self.blocks.store(0, Relaxed);
        self.reciprocal.store(0, Relaxed);
        self.set_place(Place::Nowhere);
        NonNull::new(self.bits.load(Relaxed)).expect("a living superblock has bitmaps")
    }

    /// Whether it describes a superblock or run.
    pub(crate) fn is_alive(&self) -> bool {
        self.class.load(Acquire) != DEAD
    }

    /// Whether it is a large run.
    pub(crate) fn is_large(&self) -> bool {
        self.class.load(Relaxed) == u32::from(TableEntry::LARGE) + 1
    }

    /// Its size class; not for large runs or the dead.
    #[inline(always)]
    pub(crate) fn class(&self) -> usize {
        (self.class.load(Relaxed) - 1) as usize
    }

    /// How many chunks before this one the superblock begins that covers it; 0 for none.
    pub(crate) fn back(&self) -> u32 {
        self.back.load(Relaxed)
    }

    /// Sets that. Under the global lock.
    pub(crate) fn set_back(&self, chunks: u32) {
        self.back.store(chunks, Relaxed);
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

    /// Blocks that nobody has given back: exact for a superblock at rest. Under
    /// the global lock, so that it does not die meanwhile.
    pub(crate) fn live(&self) -> u32 {
        let free: u32 = self.free_words().map(u64::count_ones).sum();
        self.blocks() - free
    }

    /// The bits of word `at` that stand for blocks.
    fn real(&self, at: usize) -> u64 {
        match (self.blocks() as usize).saturating_sub(at * 64) {
            rest @ ..64 => (1 << rest) - 1,
            _ => !0,
        }
    }

    /// Whether block `index` is free, as far as can be seen. Anyone may ask.
    pub(crate) fn is_free(&self, index: u32) -> bool {
        let at = index as usize / 64;
        Bitmaps::of(self).is_none_or(|bitmaps| {
            let bits = bitmaps.free(at) | bitmaps.remote(at).load(Relaxed);
            bits >> (index % 64) & 1 == 1
        })
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
            (self.free(at) | heeded) & self.real(at)
        })
    }

    /// Blocks that were given back from afar and not taken in yet. As [`Self::live`].
    pub(crate) fn waiting(&self) -> u64 {
        let words = (0..self.words()).map(|at| self.remote_word(at).load(Relaxed).count_ones());
        words.map(u64::from).sum()
    }

    /// Words of one bitmap.
    pub(crate) fn words(&self) -> usize {
        self.words.load(Relaxed) as usize
    }

    /// First unit.
    pub(crate) fn unit(&self) -> u64 {
        self.start.load(Relaxed) / UNIT
    }

    /// Home offset of block `index`.
    pub(crate) fn offset_of(&self, index: u32) -> u64 {
        self.start.load(Relaxed) + u64::from(index) * self.size()
    }

    /// Its table entry.
    pub(crate) fn entry(&self) -> TableEntry {
        // Of a dead one, asked for its own sake, anything.
        let class = self.class.load(Relaxed).wrapping_sub(1) as u16;
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

    /// The block that starts at home offset `offset`, which lies in the chunk in
    /// which this superblock of a class begins.
    ///
    /// What would be the block behind the last one has an index too, and
    /// bits in the bitmaps.
    #[inline(always)]
    pub(crate) fn index_near(&self, offset: u64) -> Option<u32> {
        class::divide(offset % CHUNK, self.reciprocal.load(Relaxed)).map(|index| index as u32)
    }

    /// The block that starts at home offset `offset`.
    pub(crate) fn index_of(&self, offset: u64) -> Option<u32> {
        // An offset before the start gives an index that no superblock has.
        let within = offset.wrapping_sub(self.start.load(Relaxed));
        let index = class::divide(within, self.reciprocal.load(Relaxed))?;
        (index < u64::from(self.blocks())).then_some(index as u32)
    }

    /// The owner's mailbox; out of date unless it is the caller's.
    #[inline(always)]
    pub(crate) fn owner(&self) -> *mut Mailbox {
        self.shared.owner.load(Relaxed)
    }

    /// Changes the owner. Under the global lock.
    pub(crate) fn set_owner(&self, owner: NonNull<Mailbox>) {
        self.shared.owner.store(owner.as_ptr(), Release);
    }

    /// Which bits of word `at` are free blocks, those in the remote bitmap left out.
    /// Exact for the owner.
    #[inline(always)]
    fn free(&self, at: usize) -> u64 {
        self.free_word(at).load(Acquire) | self.hand_word(at).load(Relaxed)
    }

    #[inline(always)]
    fn free_word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at < self.words());
        // SAFETY: `bits` points to `BITMAPS · words` words at least, of which pairs
        // come first. Only who keeps the superblock from dying asks: its owner, or
        // who holds the global lock.
        unsafe { &*self.bits.load(Relaxed).add(2 * at) }
    }

    #[inline(always)]
    fn hand_word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at < self.words());
        // SAFETY: as in `free_word`.
        unsafe { &*self.bits.load(Relaxed).add(2 * at + 1) }
    }

    #[inline]
    fn remote_word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at < self.words());
        let words = 1 << kind(self.words());
        // SAFETY: as in `free_word`; the remote bitmap follows so many pairs.
        unsafe { &*self.bits.load(Relaxed).add(2 * words + at) }
    }
}

const _: () = assert!(cfg!(loom) || size_of::<Superblock>() == 256);

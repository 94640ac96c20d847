//! A superblock's state in DRAM: which of its blocks are free, whose it is, and
//! the mailbox through which other threads give blocks back.
//!
//! It promises that taking and giving by the owner are plain loads and stores,
//! and that a block given back by anyone is handed out again exactly once. It
//! does not decide who owns a superblock: `local` and `global` do.

mod bitmaps;
mod mailbox;
#[cfg(all(loom, test))]
mod models;
mod owner;
mod remote;

use crate::class;
use crate::layout::{CHUNK, TableEntry, UNIT};
use bartender_pm::mutant;
use bartender_pm::sync::UnsafeCell;
use bartender_pm::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::*};
use std::mem::offset_of;
use std::ptr::{NonNull, null_mut};

use bitmaps::Bitmaps;
pub(crate) use bitmaps::{BITMAPS, kind};
pub(crate) use mailbox::{Mailbox, Ref};
pub(crate) use owner::Nothing;

/// `class` of a descriptor that describes nothing. Of others it is one more than the class.
const DEAD: u32 = 0;
/// Trigger that no count of used blocks reaches.
const NEVER: u32 = u32::MAX;
/// Bits of `drawn` for the word that was drawn; the rest count.
const DRAWN_WORD: u32 = 0xff;
const _: () = assert!(class::MAX_WORDS <= DRAWN_WORD as usize + 1);

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
/// | the free bitmap, `hand`, `drawn` | the owner, plainly | the owner; others for statistics, and one bit by who gives back that bit's block: it is 0, and was when the block was handed out |
/// | `owner` | the global heap's lock holder | anyone |
/// | the remote bitmap, `summary` | anyone who gives a block back (`fetch_or`); the owner empties them (`swap`) | |
/// | `next` | whoever raised `summary` from 0, until a mailbox's reader lowers it | the reader of the mailbox |
///
/// *The hand.* A block is free if its bit is set in the free bitmap, in the hand
/// or in the remote bitmap; the bitmaps have a word for 64 blocks each, the hand
/// is one such word, from which the owner hands out. When it is empty it is *drawn*:
/// the bits of a word of the free bitmap move to the hand. Blocks that are given
/// back go into the free bitmap. So neither of allocate and free waits for what
/// the other has just stored, and a block is not needed again at once.
///
/// *Who looks from afar whether a block is free* loads its word of the free
/// bitmap, then `drawn` (which word is in the hand, and a count), the hand,
/// `drawn` again, and the free bitmap again. To draw is to store `drawn`, then the
/// hand, empty until then, then the free bitmap; all these stores release, and
/// the loads acquire. To put the hand back is to store the free bitmap, then the
/// empty hand, which releases.
/// - A hand loaded between two equal `drawn` is of that draw: who has seen a
///   later one's would have seen its `drawn`, and a hand from before it, none but
///   the empty one. So a block in use is never taken for free: the store that
///   took it out of the hand came before its holder's free, and no later draw
///   with it in the hand came until then.
/// - A block that is drawn just now is seen: where the free bitmap has lost it,
///   `drawn` and the hand have it, unless it was handed out since.
/// - A block that goes back just now is seen: where the hand has lost it, the free
///   bitmap has it by the second look.
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
    // Blocks are at multiples of 256 bytes and 4 KiB often, where the first line of
    // a descriptor is too: what fast paths need is elsewhere, or a cache with
    // few ways drops it, and a processor that compares the low bits of
    // addresses takes the program's stores for ours.
    cold: Cold,
    // A line of the owner's, that of allocate.
    /// Free blocks of one word of the bitmaps.
    hand: AtomicU64,
    hot: UnsafeCell<Hot>,
    owned: UnsafeCell<Owned>,
    // A line that hardly changes, that of free.
    start: AtomicU64,
    /// Where `shared.bitmaps` are.
    bits: AtomicPtr<AtomicU64>,
    blocks: AtomicU32,
    words: AtomicU32,
    class: AtomicU32,
    /// How many chunks before this one the superblock begins that covers it.
    back: AtomicU32,
    /// Bytes of a block.
    size: AtomicU64,
    /// The reciprocal of that within a chunk; 0 for what is not of a class.
    near: AtomicU32,
    /// Which word is in the hand, and a count of draws.
    drawn: AtomicU32,
    shared: Shared,
}

/// What is looked at where a superblock is born, becomes durable or dies.
#[repr(align(64))]
struct Cold {
    birth: AtomicU64,
    /// Birth of the superblock whose entry is durable.
    durable: AtomicU64,
}

/// What the owner looks at with each block.
#[repr(C)]
struct Hot {
    /// Address of the block of the hand's lowest bit.
    base: u64,
    /// Bytes from one block to the next.
    step: u32,
    /// Frees until the owner wants to know.
    until: u32,
    /// Which word is in the hand: as `drawn` says, on a line at hand and without the count.
    at: u32,
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
    /// Waits for others to go to the global heap with (threads only).
    Leaving,
    /// Was there at opening, and which of its blocks were live, marking has yet to find
    /// out: until then the free ones are those that were given back since, and it
    /// is handed out from to nobody (global heap only).
    Unmarked,
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
            cold: Cold {
                birth: AtomicU64::new(0),
                durable: AtomicU64::new(0),
            },
            hand: AtomicU64::new(0),
            hot: UnsafeCell::new(Hot {
                base: 0,
                step: 0,
                until: 0,
                at: 0,
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
            bits: AtomicPtr::new(null_mut()),
            blocks: AtomicU32::new(0),
            words: AtomicU32::new(0),
            class: AtomicU32::new(DEAD),
            back: AtomicU32::new(0),
            size: AtomicU64::new(0),
            near: AtomicU32::new(0),
            drawn: AtomicU32::new(0),
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
        let (size, blocks, near) = match class::TABLE.get(entry.class as usize) {
            Some(class) => (u64::from(class.size), class.blocks, class.near),
            None => (u64::from(entry.units) * UNIT, 1, 0),
        };
        let words = words(&entry);
        self.start.store(birth.unit * UNIT, Relaxed);
        self.shared.home.store(birth.home, Relaxed);
        self.size.store(size, Relaxed);
        self.near.store(near, Relaxed);
        self.bits.store(birth.bits.as_ptr(), Relaxed);
        let tagged = birth.bits.as_ptr().wrapping_byte_add(kind(words));
        self.shared.bitmaps.store(tagged, Release);
        self.words.store(words as u32, Relaxed);
        self.blocks.store(blocks, Relaxed);
        self.cold.birth.store(entry.birth, Relaxed);
        // Who finds it alive finds its size and bitmaps too.
        self.class.store(u32::from(entry.class) + 1, Release);
        (0..words).for_each(|at| self.free_word(at).store(!0, Relaxed));
        // SAFETY: nobody owns a dead superblock, and the lock is ours.
        unsafe {
            self.hot.with_mut(|hot| {
                *hot = Hot {
                    base: birth.home + birth.unit * UNIT,
                    // Of a large run only the first block is asked for.
                    step: size as u32,
                    until: 0,
                    at: 0,
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
        self.near.store(0, Relaxed);
        self.set_place(Place::Nowhere);
        NonNull::new(self.bits.load(Relaxed)).expect("a living superblock has bitmaps")
    }

    /// A large run was made longer, and is born again with that. Under the global
    /// lock; only who has the block asks for its length.
    pub(crate) fn grow(&self, units: u32, birth: u64) {
        debug_assert!(self.is_large());
        self.size.store(u64::from(units) * UNIT, Relaxed);
        self.cold.birth.store(birth, Relaxed);
    }

    /// Whether it describes a superblock or run.
    pub(crate) fn is_alive(&self) -> bool {
        self.class.load(Acquire) != DEAD
    }

    /// Whether it is a large run.
    pub(crate) fn is_large(&self) -> bool {
        self.class.load(Relaxed) == u32::from(TableEntry::LARGE) + 1
    }

    /// Its size class; for large runs and the dead none that there is.
    #[inline(always)]
    pub(crate) fn class(&self) -> usize {
        self.class.load(Relaxed).wrapping_sub(1) as usize
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
            let bits = self.free_from_afar(&bitmaps, at) | bitmaps.remote(at).load(Relaxed);
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

    /// So many units of 8 KiB.
    pub(crate) fn units(&self) -> u64 {
        match class::TABLE.get(self.class()) {
            Some(class) => class.units.into(),
            None => self.size() / UNIT,
        }
    }

    /// Home offset of block `index`.
    pub(crate) fn offset_of(&self, index: u32) -> u64 {
        self.start.load(Relaxed) + u64::from(index) * self.size()
    }

    /// Its table entry.
    pub(crate) fn entry(&self) -> TableEntry {
        // Of a dead one, asked for its own sake, anything.
        TableEntry {
            birth: self.cold.birth.load(Relaxed),
            units: self.units() as u32,
            class: self.class() as u16,
            flags: 0,
        }
    }

    /// Whether its table entry is durable.
    #[inline(always)]
    pub(crate) fn is_durable(&self) -> bool {
        self.cold.durable.load(Relaxed) == self.cold.birth.load(Relaxed)
    }

    /// The entry of the superblock born as `birth` is durable. Naming the birth
    /// makes a late call about a dead superblock harmless.
    pub(crate) fn set_durable(&self, birth: u64) {
        self.cold.durable.store(birth, Relaxed);
    }

    /// The block that starts at home offset `offset`, which lies in the chunk in
    /// which this superblock of a class begins.
    ///
    /// What would be the block behind the last one has an index too, and
    /// bits in the bitmaps.
    #[inline(always)]
    pub(crate) fn index_near(&self, offset: u64) -> Option<u32> {
        class::divide_near(offset as u16, self.near.load(Relaxed))
    }

    /// The block that starts at home offset `offset`.
    pub(crate) fn index_of(&self, offset: u64) -> Option<u32> {
        // An offset before the start gives an index that no superblock has.
        let within = offset.wrapping_sub(self.start.load(Relaxed));
        let index = match class::TABLE.get(self.class()) {
            Some(class) => class::divide(within, class.reciprocal)?,
            None => (within == 0).then_some(0)?,
        };
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
    fn free(&self, at: usize) -> u64 {
        let free = self.free_word(at).load(Acquire);
        match self.is_drawn(self.drawn.load(Acquire), at) {
            true => free | self.hand.load(Relaxed),
            false => free,
        }
    }

    fn is_drawn(&self, drawn: u32, at: usize) -> bool {
        (drawn & DRAWN_WORD) as usize == at
    }

    /// As [`Self::free`], by anyone (see the type).
    fn free_from_afar(&self, bitmaps: &Bitmaps, at: usize) -> u64 {
        loop {
            let free = bitmaps.free(at).load(Acquire);
            let drawn = self.drawn.load(Acquire);
            let hand = match self.is_drawn(drawn, at) {
                true => self.hand.load(Acquire),
                false => 0,
            };
            let same = self.drawn.load(Relaxed) == drawn || mutant::is("trust_any_hand");
            if mutant::is("look_once") && same {
                return free | hand;
            }
            // What went back to it from the hand meanwhile.
            let back = bitmaps.free(at).load(Relaxed);
            if same {
                return free | hand | back;
            }
        }
    }

    #[inline(always)]
    fn free_word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at < self.words());
        // SAFETY: `bits` points to `BITMAPS · words` words at least, of which those
        // of the free bitmap come first. Only who keeps the superblock from dying
        // asks: its owner, or who holds the global lock.
        unsafe { &*self.bits.load(Relaxed).add(at) }
    }

    #[inline]
    fn remote_word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at < self.words());
        let words = 1 << kind(self.words());
        // SAFETY: as in `free_word`; the remote bitmap follows so many words.
        unsafe { &*self.bits.load(Relaxed).add(words + at) }
    }
}

const _: () = assert!(CHUNK == 1 << u16::BITS);

// What is written to together lies together.
const _: () = assert!(
    cfg!(loom)
        || size_of::<Superblock>() == 256
            && offset_of!(Superblock, hand) == 64
            && offset_of!(Superblock, start) == 128
            && offset_of!(Superblock, shared) == 192
);

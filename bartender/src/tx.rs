//! The transaction as stored values see it: [`TxRef`], a handle on the running transaction's context.
//!
//! Whoever changes a stored byte calls [`TxRef::change`] (or [`TxRef::wrote`]) *before* the store;
//! blocks come from [`TxRef::alloc`] and go by [`TxRef::free`]. The context is one per thread and
//! depth of nesting over different heaps, and is reused, so a small transaction allocates no memory.
//! What begins, commits and takes back is in [`crate::run`].

mod making;
mod steps;

pub(crate) use making::Made;

use crate::changes::Changes;
use crate::detached::Detached;
use crate::error::{Error, Result};
use crate::late::{EndShared, Late};
use crate::lock_table::{Mode, Owner, Refused, Upgrade};
use crate::thread;
use bartender_heap::{Block, Entry};
use bartender_pm::{Durability, Record, fault};
use std::alloc::Layout;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// Why a transaction can no longer commit.
#[derive(Debug)]
pub(crate) enum Doom {
    /// A lock could not be waited for.
    Conflict,
    /// An inner call or an adoption failed.
    Failed(String),
}

/// Ends a detached value that nobody wanted, given where its bytes lie.
pub(crate) type ReleaseDetached = unsafe fn(TxRef<'_>, *const u8) -> Result<()>;

impl Doom {
    /// What the caller is told.
    pub(crate) fn error(&self) -> Error {
        match self {
            Doom::Conflict => Error::Conflict,
            Doom::Failed(cause) => Error::Doomed {
                cause: cause.clone(),
            },
        }
    }
}

/// A block that the transaction made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewBlock {
    pub(crate) ptr: NonNull<u8>,
    /// It may be written to the home before the commit.
    pub(crate) fresh: bool,
    /// Bytes that were asked for.
    pub(crate) size: usize,
}

/// A new block from this size on, in bytes, is shipped to the home rather than logged, if that is possible, and what is
/// changed in it is not kept for an abort.
pub(crate) const LARGE: usize = 64 << 10;

/// Large blocks in which a change is looked for, the newest first: more are rarely written in turns.
const LOOKED_AT: usize = 4;

/// A large new block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LargeBlock {
    pub(crate) start: usize,
    end: usize,
    /// All of it is among the changes already.
    whole: bool,
    /// No record above this number touches its memory: once the checkpoint is there it may be written to the home.
    pub(crate) used_upto: u64,
}

/// A word that others read without a lock, and what it will be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Published {
    pub(crate) addr: usize,
    pub(crate) word: u64,
}

/// A block that has lost its last owner, and how it ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) block: NonNull<u8>,
    pub(crate) end: EndShared,
}

// SAFETY: nobody else uses the block any more; `end` is for a transaction of any thread.
unsafe impl Send for Ended {}

/// A lock that a transaction holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) addr: usize,
    pub(crate) mode: Mode,
    /// When it was granted last; [`NEVER`] for what is held only because something was moved.
    pub(crate) round: u32,
}

/// No round.
const NEVER: u32 = u32::MAX;

/// Everything a running transaction needs to know of itself. Only its own thread touches it.
#[derive(Debug)]
pub(crate) struct Context {
    /// The heap that it changes; valid while it runs.
    heap: Option<NonNull<bartender_heap::Heap>>,
    /// Addresses of the region's view.
    view: std::ops::Range<usize>,
    /// The transaction (over another heap) that this one runs inside of, or the next idle context.
    pub(crate) outer: Option<NonNull<Context>>,
    pub(crate) owner: &'static Owner,
    pub(crate) changes: Changes,
    pub(crate) blocks: Vec<NewBlock>,
    /// Those of `blocks` that are large, in the order in which they were made.
    pub(crate) large: Vec<LargeBlock>,
    /// Those below this index were made before the innermost savepoint, whose rollback needs their old bytes.
    pub(crate) large_floor: usize,
    /// Bytes of those of `blocks` that are fresh.
    pub(crate) fresh_bytes: usize,
    /// Blocks to give back once the transaction is durable.
    pub(crate) frees: Vec<NonNull<u8>>,
    /// Stored values on their way from one place to another.
    pub(crate) detached: Detached<ReleaseDetached>,
    /// Steps to be taken when it commits.
    pub(crate) late: Late,
    /// Words that get their values when the record is durable.
    pub(crate) published: Vec<Published>,
    /// Blocks of the versions before, which readers may look at.
    pub(crate) retired: Vec<NonNull<u8>>,
    /// Blocks that have lost their last owner.
    pub(crate) ended: Vec<Ended>,
    /// Entries of the superblock table that must be durable with it (rule 4 of the log).
    pub(crate) entries: Vec<Entry>,
    /// Locks held to the end.
    pub(crate) locks: Vec<Held>,
    /// Counts the times at which no `Mut` of the transaction was left: a lock is granted once in each.
    pub(crate) round: u32,
    /// Inner calls that joined it and have not returned.
    pub(crate) joined: usize,
    /// Highest number of a commit that it saw and that was not durable.
    pub(crate) seen: u64,
    /// When its commit is answered: the strongest of what it and those that joined it asked for.
    pub(crate) durability: Durability,
    pub(crate) doom: Option<Doom>,
    pub(crate) record: Record,
}

impl Context {
    pub(crate) fn new(owner: &'static Owner) -> Self {
        Context {
            heap: None,
            view: 0..0,
            outer: None,
            owner,
            changes: Changes::new(),
            blocks: Vec::new(),
            large: Vec::new(),
            large_floor: 0,
            fresh_bytes: 0,
            frees: Vec::new(),
            detached: Detached::new(),
            late: Late::default(),
            published: Vec::new(),
            retired: Vec::new(),
            ended: Vec::new(),
            entries: Vec::new(),
            locks: Vec::new(),
            round: 0,
            joined: 0,
            seen: 0,
            durability: Durability::Immediate,
            doom: None,
            record: Record::new(),
        }
    }

    /// Ready for a transaction over `heap`.
    #[inline]
    pub(crate) fn begin(&mut self, heap: &bartender_heap::Heap, view: std::ops::Range<usize>) {
        self.heap = Some(NonNull::from(heap));
        self.view = view;
    }

    /// Whether it runs over `heap`.
    #[inline]
    pub(crate) fn is_over(&self, heap: &bartender_heap::Heap) -> bool {
        self.heap == Some(NonNull::from(heap))
    }

    /// Whether `addr` lies in its region.
    #[inline]
    pub(crate) fn covers(&self, addr: usize) -> bool {
        self.view.contains(&addr)
    }

    #[inline]
    pub(crate) fn heap(&self) -> &bartender_heap::Heap {
        let heap = self.heap.expect("a running transaction has a heap");
        // SAFETY: `run` borrows the heap for as long as the transaction runs.
        unsafe { heap.as_ref() }
    }

    /// Forgets what the transaction did; `locks` and `seen` are dealt with apart.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.changes.clear();
        self.fresh_bytes = 0;
        // Most transactions only change what is there.
        if !(self.blocks.is_empty() && self.frees.is_empty() && self.entries.is_empty()) {
            self.clear_blocks();
        }
        self.detached.clear();
        if !self.late.is_empty() {
            self.late.clear();
            self.ended.clear();
            self.published.clear();
            self.retired.clear();
        }
    }

    fn clear_blocks(&mut self) {
        const KEEP: usize = 1 << 16;
        self.blocks.clear();
        self.blocks.shrink_to(KEEP);
        self.large.clear();
        self.large_floor = 0;
        self.frees.clear();
        self.frees.shrink_to(KEEP);
        self.entries.clear();
    }

    /// The large block in which a range lies, if the block goes as a whole when what runs now is taken back.
    #[inline]
    fn large_around(&mut self, addr: usize, len: usize) -> Option<&mut LargeBlock> {
        if self.large.len() <= self.large_floor {
            return None;
        }
        self.large[self.large_floor..]
            .iter_mut()
            .rev()
            .take(LOOKED_AT)
            .find(|block| block.start <= addr && addr + len <= block.end)
    }

    /// No `Mut` of the transaction is left: what it holds can be granted again.
    pub(crate) fn next_round(&mut self) {
        self.round = (self.round + 1) % NEVER;
    }

    /// Dooms the transaction; the first reason stays.
    pub(crate) fn doom(&mut self, doom: Doom) {
        self.doom.get_or_insert(doom);
    }

    /// Grants a lock that is held since an earlier round, whose `Mut`s are gone, or that was never granted: who moved what
    /// contains it had it for himself.
    fn grant_again(&mut self, addr: usize, mode: Mode) -> bool {
        let round = self.round;
        let enough = |held: &&mut Held| {
            held.addr == addr && (held.mode == Mode::Exclusive || mode == Mode::Shared)
        };
        match self.locks.iter_mut().rev().find(enough) {
            Some(held) if held.round != round => {
                held.round = round;
                true
            }
            _ => false,
        }
    }
}

/// The running transaction. Copies are all the same one; none outlives the closure it runs.
///
/// Programs use [`Tx`](crate::Tx) and [`Mut`](crate::Mut); this is what persistent types are built on.
#[derive(Debug)]
pub struct TxRef<'tx> {
    /// Valid during `'tx`, and used by this thread only (`NonNull` is `!Send`). Fields are borrowed
    /// for the length of one method, and no method calls foreign code while it holds one.
    context: NonNull<Context>,
    life: PhantomData<&'tx ()>,
}

impl Clone for TxRef<'_> {
    fn clone(&self) -> Self {
        *self
    }
}

impl Copy for TxRef<'_> {}

impl PartialEq for TxRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.context == other.context
    }
}

impl Eq for TxRef<'_> {}

impl TxRef<'_> {
    /// A handle on the transaction of `context`.
    ///
    /// # Safety
    ///
    /// It is this thread's, runs, and goes on running during the handle's lifetime.
    #[inline]
    pub(crate) unsafe fn new(context: NonNull<Context>) -> Self {
        TxRef {
            context,
            life: PhantomData,
        }
    }

    /// Whether it is the transaction of `context`.
    pub(crate) fn is_of(&self, context: NonNull<Context>) -> bool {
        self.context == context
    }

    /// The context, for as long as one method takes.
    #[inline]
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn context(&self) -> &mut Context {
        // SAFETY: valid and of this thread only (see the field); callers keep the borrow within one
        // method of this crate and call nothing that takes another.
        unsafe { &mut *self.context.as_ptr() }
    }

    /// Whether `addr` lies in the region of this transaction.
    #[inline]
    pub(crate) fn is_in_view(self, addr: usize) -> bool {
        self.context().covers(addr)
    }

    /// Keeps the `len` bytes at `ptr` for an abort and logs, at the commit, what stands there then.
    /// Called before the store. Costs a copy; places changed again and again are kept once.
    ///
    /// # Safety
    ///
    /// The bytes lie in the region of this transaction, which alone may write them until it ends.
    #[doc(hidden)]
    #[inline]
    pub unsafe fn change(self, ptr: *mut u8, len: usize) {
        let context = self.context();
        if let Some(block) = context.large_around(ptr.addr(), len) {
            if !block.whole {
                context.changes.wrote(ptr.addr(), len);
            }
            return;
        }
        // SAFETY: passed on.
        unsafe { context.changes.change(ptr, len) };
    }

    /// Logs, at the commit, what stands at `ptr` then, without keeping the old bytes: for places that nobody
    /// can see if the transaction aborts (its new blocks, the slack of a vector).
    ///
    /// # Safety
    ///
    /// As for [`change`](Self::change).
    #[doc(hidden)]
    #[inline]
    pub unsafe fn wrote(self, ptr: *mut u8, len: usize) {
        let context = self.context();
        context.changes.wrote(ptr.addr(), len);
        if len >= LARGE
            && let Some(block) = context.large_around(ptr.addr(), len)
        {
            // If this is taken back, the block is, too.
            block.whole |= len == block.end - block.start;
        }
    }

    /// As [`wrote`](Self::wrote) for a whole block that was made just now: [`change_block`](Self::change_block) knows it.
    ///
    /// # Safety
    ///
    /// As for [`change`](Self::change).
    #[inline]
    pub(crate) unsafe fn wrote_block(self, block: *mut u8, size: usize) {
        self.context().changes.wrote_block(block.addr(), size);
    }

    /// To be asked before a part of a block is changed: whether all of it is kept and logged, so that its parts
    /// need no [`change`](Self::change). A block that is changed again and again is kept as a whole.
    ///
    /// # Safety
    ///
    /// As for [`change`](Self::change), for all of the block. A block that is asked for is not given back before the
    /// transaction ends but by the end of a savepoint.
    #[inline]
    pub(crate) unsafe fn change_block(self, block: *mut u8, size: usize) -> bool {
        // SAFETY: passed on.
        unsafe { self.context().changes.change_block(block, size) }
    }

    /// A block is about to be asked for by [`change_block`](Self::change_block).
    #[inline]
    pub(crate) fn expect_change(self, block: NonNull<u8>) {
        self.context().changes.expect_block(block.as_ptr());
    }

    /// A block of the region, taken back if the transaction aborts. Its bytes are arbitrary.
    ///
    /// # Errors
    ///
    /// The region is full, or the disk is.
    #[doc(hidden)]
    pub fn alloc(self, layout: Layout) -> Result<NonNull<u8>> {
        if fault::strikes("alloc") {
            return Err(self.full(layout.size() as u64));
        }
        let context = self.context();
        let size = layout.size();
        if let Some(ptr) = context.heap().alloc_at_hand(layout) {
            let fresh = false;
            context.blocks.push(NewBlock { ptr, fresh, size });
            return Ok(ptr);
        }
        let Block { ptr, entry, fresh } = context.heap().alloc(layout)?;
        if let Some(entry) = entry
            // Those of other classes stand a few places back; what is still twice in the end is sorted out then.
            && !context.entries.iter().rev().take(8).any(|known| *known == entry)
        {
            context.entries.push(entry);
        }
        context.blocks.push(NewBlock { ptr, fresh, size });
        if fresh {
            context.fresh_bytes += size;
        }
        if size >= LARGE {
            let start = ptr.addr().get();
            let used_upto = if fresh {
                0
            } else {
                context.heap().region().last_seq()
            };
            context.large.push(LargeBlock {
                start,
                end: start + size,
                whole: false,
                used_upto,
            });
        }
        Ok(ptr)
    }

    /// There is no room for so many bytes.
    #[cold]
    pub(crate) fn full(self, requested: u64) -> Error {
        let region = self.context().heap().region();
        Error::Region(bartender_pm::Error::OutOfSpace {
            requested,
            available: region.max_size() - region.size(),
            max_size: region.max_size(),
        })
    }

    /// Gives a block back once the transaction is durable; nothing happens if it aborts.
    ///
    /// # Safety
    ///
    /// A block of the region that nothing stored will refer to when the transaction has committed.
    #[doc(hidden)]
    #[inline]
    pub unsafe fn free(self, ptr: NonNull<u8>) {
        let context = self.context();
        if bartender_pm::mutant::is("free_at_once") {
            // SAFETY: not what `Heap::free` asks for: the transaction may abort.
            let _ = unsafe { context.heap().free(ptr) };
            return;
        }
        context.frees.push(ptr);
    }

    /// Takes the lock at `addr`, to the end of the transaction.
    #[inline]
    pub(crate) fn lock(self, addr: usize, mode: Mode) -> Result<()> {
        let round = self.context().round;
        if self.acquire(addr, mode, round)? || self.context().grant_again(addr, mode) {
            return Ok(());
        }
        Err(Error::AlreadyLocked)
    }

    /// Takes the lock at `addr`, granted in a round, unless the transaction, or a guard of its thread, holds it: `false` then.
    #[inline]
    fn acquire(self, addr: usize, mode: Mode, round: u32) -> Result<bool> {
        let context = self.context();
        if !context.covers(addr) {
            return Err(Error::ForeignLock);
        }
        let unused = thread::table().acquire_unused(addr, mode, context.owner);
        if !unused && !self.acquire_contended(addr, mode)? {
            return Ok(false);
        }
        self.context().locks.push(Held { addr, mode, round });
        Ok(true)
    }

    /// As [`acquire`](Self::acquire), for who notes the lock.
    #[cold]
    fn acquire_contended(self, addr: usize, mode: Mode) -> Result<bool> {
        // Looks at the locks of all running transactions, of this one too: it must not be borrowed.
        let outcome = thread::with(|thread| thread.acquire(addr, mode));
        let context = self.context();
        match outcome {
            Ok(last) => {
                let seen = last.map_or(0, |commit| commit.seq);
                context.seen = context.seen.max(seen);
                Ok(true)
            }
            Err(Refused::Own) => Ok(false),
            Err(Refused::Conflict) => {
                context.doom(Doom::Conflict);
                Err(Error::Conflict)
            }
        }
    }

    /// Holds the lock at `addr` to the end of the transaction (it may hold it already), so that nobody else even reads
    /// behind it.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`]; the transaction is doomed then.
    #[doc(hidden)]
    pub fn hold(self, addr: usize) -> Result<()> {
        self.hold_word(addr)?;
        if !self.context().late.is_empty() && !bartender_pm::mutant::is("steps_stay_behind") {
            let steps = self.context().late.take(addr);
            if !steps.is_empty() {
                // SAFETY: what is held is ours alone, and is still where it was when the steps were noted.
                return unsafe { self.take_steps(addr, &steps) };
            }
        }
        Ok(())
    }

    /// As [`hold`](Self::hold), of a word that does not move and is not looked at: steps on it wait.
    pub(crate) fn hold_word(self, addr: usize) -> Result<()> {
        match self.acquire(addr, Mode::Exclusive, NEVER)? {
            true => Ok(()),
            false => self.hold_alone(addr),
        }
    }

    /// Makes a lock that it holds its own alone: it may have shared it, as a dropped guard's. Whoever holds a lock has
    /// the only way to it, so no reference behind it is left; but another thread's guard may have been forgotten.
    #[cold]
    fn hold_alone(self, addr: usize) -> Result<()> {
        let context = self.context();
        match thread::table().upgrade(addr, context.owner) {
            Upgrade::Had => {}
            Upgrade::Done => {
                let (mode, round) = (Mode::Exclusive, NEVER);
                context.locks.push(Held { addr, mode, round });
            }
            Upgrade::Shared => {
                context.doom(Doom::Conflict);
                return Err(Error::Conflict);
            }
        }
        Ok(())
    }

    /// Makes the transaction unable to commit.
    #[doc(hidden)]
    pub fn doom(self, cause: &Error) {
        self.context().doom(match cause {
            Error::Conflict => Doom::Conflict,
            other => Doom::Failed(other.to_string()),
        });
    }
}

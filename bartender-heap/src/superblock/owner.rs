//! What a superblock's owner does: hand out, take back, count. Nothing here
//! waits, and nobody else may call it.

use super::{AlreadyFree, DRAWN_WORD, Hot, NEVER, Owned, Place, Ref, Superblock};
use bartender_pm::mutant;
use bartender_pm::sync::atomic::Ordering::*;
use std::hint::select_unpredictable;
use std::ptr::NonNull;

impl Superblock {
    /// Hands out a block, if one is in the hand: its address.
    ///
    /// # Safety
    /// Owner only.
    #[inline(always)]
    pub(crate) unsafe fn take_near(&self) -> Option<u64> {
        let hand = self.hand.load(Relaxed);
        if hand == 0 {
            return None;
        }
        self.hand.store(hand & (hand - 1), Release);
        self.hot.with(|hot| {
            // SAFETY: the owner's.
            let hot = unsafe { &*hot };
            Some(hot.base + u64::from(hand.trailing_zeros()) * u64::from(hot.step))
        })
    }

    /// Hands out a block, if one is free.
    ///
    /// # Safety
    /// Owner only.
    pub(crate) unsafe fn take(&self) -> Option<u64> {
        // SAFETY: as the caller says.
        unsafe {
            self.take_near()
                .or_else(|| self.draw().then(|| self.take_near()).flatten())
        }
    }

    /// Which word is in the hand.
    unsafe fn at(&self) -> usize {
        // SAFETY: only the owner calls this.
        self.hot.with(|hot| unsafe { (*hot).at }) as usize
    }

    /// Fills the empty hand again from the same word, whose blocks the cache may
    /// still have, or from the next one that has any. False: no block is free.
    ///
    /// In random order it begins at any word, and takes about an eighth of its
    /// free blocks: so which block comes next cannot be told from the last one.
    unsafe fn draw(&self) -> bool {
        // SAFETY: owner only.
        let at = unsafe { self.at() };
        // SAFETY: owner only.
        let random = self.hot.with_mut(|hot| unsafe { (&mut *hot).random() });
        let at = random.map_or(at, |random| random as usize % self.words());
        let mut words = (at..self.words()).chain(0..at);
        let bits = |at| self.free_word(at).load(Relaxed) & self.real(at);
        let Some(at) = words.find(|&at| bits(at) != 0) else {
            return false;
        };
        debug_assert_eq!(self.hand.load(Relaxed), 0);
        let all = bits(at);
        let hand = match random
            .map(|random| all & random & random.rotate_left(23) & random.rotate_left(41))
        {
            None => all,
            Some(0) => all & all.wrapping_neg(),
            Some(some) => some,
        };
        let rest = self.free_word(at).load(Relaxed) & !hand;
        if mutant::is("draw_out_of_sight") {
            self.free_word(at).store(rest, Release);
        }
        let count = (self.drawn.load(Relaxed) | DRAWN_WORD).wrapping_add(1);
        if mutant::is("draw_before_drawn") {
            self.hand.store(hand, Release);
        }
        self.drawn.store(count | at as u32, Release);
        self.hand.store(hand, Release);
        self.free_word(at).store(rest, Release);
        self.hot.with_mut(|hot| {
            // SAFETY: the owner's.
            let hot = unsafe { &mut *hot };
            hot.at = at as u32;
            let start = self.shared.home.load(Relaxed) + self.start.load(Relaxed);
            hot.base = start + at as u64 * 64 * u64::from(hot.step);
        });
        true
    }

    /// Gives block `index` back, unless it is free or other threads have given
    /// some back. `Ok(true)`: the owner wanted to know.
    ///
    /// # Safety
    /// Owner only.
    #[inline(always)]
    pub(crate) unsafe fn give_near(&self, index: u32) -> Result<bool, AlreadyFree> {
        // By a rotation: a shift becomes a bit test below, which takes longer than
        // test and branch in one.
        let (at, bit) = (index / 64, 1u64.rotate_left(index));
        // SAFETY: within the bitmaps, which have a word for each 64 indices.
        let free = unsafe { &*self.bits.load(Relaxed).add(at as usize) };
        let bits = free.load(Relaxed);
        // SAFETY: the owner's.
        let drawn = self.hot.with(|hot| unsafe { (*hot).at });
        // One or the other, as blocks come: not to be guessed by a branch.
        let hand = select_unpredictable(drawn == at, self.hand.load(Relaxed), 0);
        if (bits | hand) & bit != 0 || self.has_remote() {
            return Err(AlreadyFree);
        }
        free.store(bits | bit, Relaxed);
        // SAFETY: as the caller says.
        Ok(unsafe { self.gave(1) })
    }

    /// Gives block `index` back; returns whether the owner wanted to know.
    ///
    /// # Safety
    /// Owner only.
    pub(crate) unsafe fn give(&self, index: u32) -> Result<bool, AlreadyFree> {
        let (at, bit) = (index / 64, 1 << (index % 64));
        let word = self.free_word(at as usize);
        let bits = word.load(Relaxed);
        if (self.free(at as usize) | self.remote_word(at as usize).load(Relaxed)) & bit != 0 {
            return Err(AlreadyFree);
        }
        word.store(bits | bit, Relaxed);
        // SAFETY: as the caller says.
        Ok(unsafe { self.gave(1) })
    }

    /// So many blocks are free again; returns whether the owner wanted to know. Owner only.
    #[inline(always)]
    pub(super) unsafe fn gave(&self, blocks: u32) -> bool {
        self.hot.with_mut(|hot| {
            // SAFETY: the owner's.
            let hot = unsafe { &mut *hot };
            hot.until = hot.until.wrapping_sub(blocks);
            hot.until == 0
        })
    }

    /// Its memory is fresh at birth. Under the global lock.
    pub(crate) fn set_fresh(&self) {
        // SAFETY: who holds the lock is the owner, or is making it over to one.
        unsafe { Owned::change(self, |owned| owned.fresh = true) };
    }

    /// Whether the blocks it hands out now were never part of a record: it was
    /// fresh at birth, and no block was given back since.
    ///
    /// # Safety
    /// Owner only.
    pub(crate) unsafe fn is_fresh(&self) -> bool {
        // SAFETY: as the caller says.
        unsafe {
            Owned::change(self, |owned| owned.fresh)
                && self.hot.with(|hot| (*hot).until == u32::MAX)
        }
    }

    /// Blocks that are not free, those in the remote bitmap included. Not while
    /// it is handed out from.
    ///
    /// # Safety
    /// Owner only.
    pub(crate) unsafe fn used(&self) -> u32 {
        // SAFETY: as the caller says.
        unsafe {
            let until = self.hot.with(|hot| (*hot).until);
            Owned::change(self, |owned| owned.trigger).wrapping_add(until)
        }
    }

    /// The used blocks are `used`, and nobody wants to know.
    ///
    /// # Safety
    /// Owner only.
    pub(super) unsafe fn set_used(&self, used: u32) {
        // SAFETY: as the caller says.
        unsafe { self.set_trigger(used, NEVER) };
    }

    unsafe fn set_trigger(&self, used: u32, trigger: u32) {
        // SAFETY: as the caller says.
        unsafe {
            Owned::change(self, |owned| owned.trigger = trigger);
            self.hot
                .with_mut(|hot| (*hot).until = used.wrapping_sub(trigger));
        }
    }

    /// It is handed out from: counting stops. `random` is the seed of the order, 0
    /// for that of addresses.
    ///
    /// # Safety
    /// Owner only.
    pub(crate) unsafe fn start(&self, random: u32) {
        self.hot.with_mut(|hot| {
            // SAFETY: as the caller says.
            let hot = unsafe { &mut *hot };
            hot.until = u32::MAX;
            hot.random = random;
        });
    }

    /// It is still handed out from, after so many frees that counting came to an end.
    ///
    /// # Safety
    /// Owner only.
    pub(crate) unsafe fn go_on(&self) {
        // SAFETY: as the caller says.
        unsafe {
            Owned::change(self, |owned| owned.fresh = false);
            self.hot.with_mut(|hot| (*hot).until = u32::MAX);
        }
    }

    /// It is handed out from no more: what is in the hand goes back, and its
    /// blocks are counted again.
    ///
    /// # Safety
    /// Owner only.
    pub(crate) unsafe fn rest(&self) {
        // SAFETY: as the caller says.
        unsafe {
            let at = self.at();
            self.free_word(at).store(self.free(at), Relaxed);
            self.hand.store(0, Release);
            Owned::change(self, |owned| owned.fresh = false);
            let free = |at| (self.free_word(at).load(Relaxed) & self.real(at)).count_ones();
            let free: u32 = (0..self.words()).map(free).sum();
            self.set_used(self.blocks() - free);
        }
    }

    /// Sets which blocks are free, when the heap is rebuilt.
    ///
    /// # Safety
    /// Owner only.
    pub(crate) unsafe fn restore(&self, free: impl Iterator<Item = u64>) {
        for (at, bits) in free.enumerate().take(self.words()) {
            self.free_word(at).store(bits | !self.real(at), Relaxed);
        }
        // SAFETY: as the caller says.
        unsafe { self.rest() };
    }

    /// Marking has found out which blocks were live at opening: the others are free,
    /// like those that were given back since. Of the latter, returns one that was not
    /// live, if there is such a one.
    ///
    /// # Safety
    /// Owner only.
    pub(crate) unsafe fn learn(&self, live: impl Iterator<Item = u64>) -> Option<u32> {
        let mut wrong = None;
        for (at, live) in live.enumerate().take(self.words()) {
            let given = self.free_word(at).load(Relaxed) | self.remote_word(at).load(Relaxed);
            let never = given & !live & self.real(at);
            if never != 0 {
                wrong.get_or_insert(at as u32 * 64 + never.trailing_zeros());
            }
            let since = match mutant::is("forget_frees_since") {
                true => 0,
                false => self.free_word(at).load(Relaxed),
            };
            self.free_word(at).store(since | !live, Release);
        }
        // SAFETY: as the caller says.
        unsafe { self.rest() };
        wrong
    }

    /// By how much the used blocks have changed since this was asked last.
    ///
    /// # Safety
    /// Owner only; not while it is handed out from.
    pub(crate) unsafe fn count(&self) -> i64 {
        // SAFETY: as the caller says.
        unsafe {
            let used = self.used();
            let before = Owned::change(self, |owned| std::mem::replace(&mut owned.counted, used));
            i64::from(used) - i64::from(before)
        }
    }

    /// For tests: the used blocks when this was asked last. Owner only.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn counted(&self) -> i64 {
        // SAFETY: owner only, so nobody writes meanwhile.
        let counted = self.owned.with(|owned| unsafe { (*owned).counted });
        counted.into()
    }

    /// Starts counting anew, for an owner who knows nothing yet.
    ///
    /// # Safety
    /// Owner only.
    pub(crate) unsafe fn uncount(&self) {
        // SAFETY: as the caller says.
        unsafe { Owned::change(self, |owned| owned.counted = 0) };
    }

    /// Asks to be told when the used blocks have fallen by a step worth looking
    /// at: from full, then at each quarter.
    ///
    /// # Safety
    /// Owner only; not while it is handed out from.
    pub(crate) unsafe fn arm(&self) {
        // SAFETY: as the caller says.
        unsafe {
            let (used, blocks) = (self.used(), self.blocks());
            let trigger = if used == blocks {
                blocks - 1
            } else {
                let levels = [blocks - blocks / 4, blocks / 2, blocks / 4, 0];
                let below = levels.into_iter().find(|level| *level < used);
                below.unwrap_or(NEVER)
            };
            self.set_trigger(used, trigger);
        }
    }

    /// Asks not to be told.
    ///
    /// # Safety
    /// Owner only.
    pub(crate) unsafe fn disarm(&self) {
        // SAFETY: as the caller says.
        unsafe { self.set_used(self.used()) };
    }

    /// Where it is in its owner's lists. Owner only.
    pub(crate) fn place(&self) -> Place {
        // SAFETY: owner only, so nobody writes meanwhile.
        self.owned.with(|owned| unsafe { (*owned).place })
    }

    /// Notes where it is in its owner's lists. Owner only.
    pub(crate) fn set_place(&self, place: Place) {
        // SAFETY: owner only, so nobody else reads or writes meanwhile.
        self.owned
            .with_mut(|owned| unsafe { (*owned).place = place });
    }
}

impl Hot {
    /// Random bits, if the order is random (xorshift, twice).
    fn random(&mut self) -> Option<u64> {
        if self.random == 0 {
            return None;
        }
        let mut next = || {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 17;
            self.random ^= self.random << 5;
            u64::from(self.random)
        };
        Some(next() << 32 | next())
    }
}

/// A superblock of no block, for whoever wants to ask one in vain.
///
/// Reached by address only until it is dropped: what moves is the pointer, and
/// nobody has a `&mut` or a `Box` to it meanwhile.
pub(crate) struct Nothing(NonNull<Superblock>);

impl Nothing {
    pub(crate) fn new() -> Nothing {
        Nothing(NonNull::from(Box::leak(Box::new(Superblock::dead()))))
    }

    /// Something to ask. Not to be used after `self` is gone.
    pub(crate) fn ask(&self) -> Ref {
        // SAFETY: there until `self` is gone, and not used after, as the caller promises.
        unsafe { Ref::new(self.0) }
    }
}

impl Drop for Nothing {
    fn drop(&mut self) {
        // SAFETY: from a box in `new`, and nobody asks any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl Owned {
    /// Changes what the owner knows of `superblock`.
    ///
    /// # Safety
    /// The caller is the superblock's owner.
    pub(crate) unsafe fn change<R>(
        superblock: &Superblock,
        change: impl FnOnce(&mut Owned) -> R,
    ) -> R {
        // SAFETY: only the owner reaches `owned`, and `change` gets no second way to it.
        superblock
            .owned
            .with_mut(|owned| change(unsafe { &mut *owned }))
    }
}

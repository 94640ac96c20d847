//! Where the state of all persistent locks is: a table in ordinary memory, keyed by the lock's address.
//!
//! The word in the region stays zero, so a crash unlocks everything and a lock can be moved. An entry is
//! there while somebody holds or awaits the lock, or while its last holder's commit is not durable.
//!
//! It promises that nobody waits in a circle. Transactions draw a number when they first have to wait, and
//! wait for younger holders only (*wait-die*); who holds nothing may wait for anybody; a reader outside of
//! transactions cannot be refused, so, if it holds guards, it *wounds* the transaction it waits for: that one
//! gives up as soon as it waits for anything itself.
//!
//! Locks for steps at a transaction's end ([`crate::late`]) are taken last, by rising address: waiting for who holds one is
//! always allowed to who wants one.
//!
//! It does not know what the locks protect, nor when a holder lets go: see [`crate::lock`] and [`crate::run`].

mod entry;
mod shard;

use bartender_pm::mutant;
use bartender_pm::sync::Mutex;
use bartender_pm::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use entry::Entry;
use shard::Shard;

/// Parts of the table, each behind a spin lock of its own.
#[cfg(not(loom))]
const SHARDS: usize = 256;
#[cfg(loom)]
const SHARDS: usize = 2;

/// How often a waiter looks before it sleeps.
#[cfg(not(loom))]
const SPINS: usize = 200;
#[cfg(loom)]
const SPINS: usize = 0;

/// A commit's position in the log, which becomes durable at some time.
pub(crate) trait Position: Clone {
    /// Whether it is durable.
    fn is_durable(&self) -> bool;
}

/// Who holds locks: a thread, with the transaction it runs. There is one for each thread, and it is never freed.
#[derive(Debug, Default)]
pub(crate) struct Owner {
    /// The transaction's age for *wait-die*; 0 until it has to wait for the first time, kept over retries.
    /// Written by the owner's thread under `Table::numbers`, read by all.
    number: AtomicU64,
    /// Set by a reader that waits for this one; cleared by the owner's thread when an attempt begins.
    wounded: AtomicBool,
    /// Shard in which the transaction sleeps, plus one. Written by the owner's thread.
    waits_in: AtomicUsize,
}

impl Owner {
    /// A new attempt begins, with no lock held.
    #[inline]
    pub(crate) fn begin(&self) {
        if self.wounded.load(Ordering::Relaxed) {
            self.wounded.store(false, Ordering::Relaxed);
        }
    }

    /// The transaction has ended: the next one is a younger one.
    #[inline]
    pub(crate) fn end(&self) {
        if self.number.load(Ordering::Relaxed) != 0 {
            self.number.store(0, Ordering::Relaxed);
        }
    }
}

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
}

/// What the requester may do if it has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It holds nothing, so it may wait for anybody.
    Free,
    /// A transaction that holds something: it waits for younger ones only.
    Die,
    /// A reader outside of transactions that holds guards: it wounds who is in its way.
    Wound,
    /// A transaction at its end, which has no locks of this kind at higher addresses, or a look at a word: it waits for who
    /// took the lock at its own end, or looks.
    Late,
}

/// Why a lock was not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The requester holds it already, in a way that excludes this one.
    Own,
    /// Waiting could have been a deadlock.
    Conflict,
}

/// What came of asking for a lock alone that one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// It was held so.
    Had,
    /// It was shared by nobody else; it is held exclusively beside.
    Done,
    /// Others share it.
    Shared,
}

/// The state of all locks.
#[derive(Debug)]
pub(crate) struct Table<P> {
    shards: Box<[Shard<P>]>,
    /// The last number drawn. Drawing and publishing it is one step: who sees another's number unset,
    /// after having drawn its own, knows that the other will be younger.
    numbers: Mutex<u64>,
}

impl<P: Position> Table<P> {
    pub(crate) fn new() -> Self {
        Table {
            shards: (0..SHARDS).map(|_| Shard::new()).collect(),
            numbers: Mutex::new(0),
        }
    }

    #[inline]
    fn shard(&self, addr: usize) -> usize {
        let mixed = (addr as u64 >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize % SHARDS
    }

    /// Takes the lock at `addr` if nobody holds or awaits it and its last change is durable: the common case.
    #[inline]
    pub(crate) fn acquire_unused(&self, addr: usize, mode: Mode, me: &'static Owner) -> bool {
        self.shards[self.shard(addr)].with(|entries| {
            if entries.find(addr).is_some() {
                return false;
            }
            let at = entries.insert(addr);
            entries.at(at).grant(mode, me);
            true
        })
    }

    /// Takes the lock at `addr`. Answers with the last commit under it, if that is not durable yet: what it
    /// protects must not be shown to anybody before.
    #[cfg(test)]
    pub(crate) fn acquire(
        &self,
        addr: usize,
        mode: Mode,
        me: &'static Owner,
        patience: Patience,
    ) -> Result<Option<P>, Refused> {
        if self.acquire_unused(addr, mode, me) {
            return Ok(None);
        }
        self.acquire_contended(addr, mode, me, patience)
    }

    /// Takes the lock at `addr` after all, waiting if that is needed and allowed. Answers with the last commit under
    /// it, if that is not durable yet: what it protects must not be shown to anybody before.
    #[cold]
    pub(crate) fn acquire_contended(
        &self,
        addr: usize,
        mode: Mode,
        me: &'static Owner,
        patience: Patience,
    ) -> Result<Option<P>, Refused> {
        let index = self.shard(addr);
        let shard = &self.shards[index];
        let mut registered = false;
        loop {
            let step = shard.with(|entries| {
                let at = entries.find(addr).unwrap_or_else(|| entries.insert(addr));
                // Before the wound is looked for: a wounder wakes us after it has wounded.
                let seen = shard.generation.load(Ordering::Acquire);
                let entry = entries.at(at);
                let outcome = match entry.is_free_for(mode, me, patience) {
                    Ok(true) => {
                        entry.grant(mode, me);
                        entry.late = patience == Patience::Late && mode == Mode::Exclusive;
                        Step::Done(Ok(entry.unsettled()))
                    }
                    Ok(false) if self.may_wait(entry, index, me, patience) => Step::Sleep(seen),
                    Ok(false) => Step::Done(Err(Refused::Conflict)),
                    Err(refused) => Step::Done(Err(refused)),
                };
                let waits = matches!(outcome, Step::Sleep(_));
                if waits != registered {
                    let by = if waits { 1 } else { u32::MAX };
                    entry.waiting = entry.waiting.wrapping_add(by);
                    if mode == Mode::Exclusive {
                        entry.waiting_exclusive = entry.waiting_exclusive.wrapping_add(by);
                    }
                }
                let left = registered && !waits && entry.waiting != 0;
                registered = waits;
                if entry.is_unused() {
                    entries.remove(at);
                }
                (outcome, left)
            });
            match step {
                (Step::Done(result), left) => {
                    me.waits_in.store(0, Ordering::Relaxed);
                    // Readers that let this one pass can go on if it gave up.
                    if left && result.is_err() {
                        shard.wake();
                    }
                    return result;
                }
                (Step::Sleep(seen), _) => shard.sleep(seen),
            }
        }
    }

    /// Takes the lock at `addr` for a step at the end of a transaction that has no such lock at a higher address.
    pub(crate) fn acquire_late(
        &self,
        addr: usize,
        me: &'static Owner,
    ) -> Result<Option<P>, Refused> {
        let taken = self.shards[self.shard(addr)].with(|entries| {
            if entries.find(addr).is_some() {
                return false;
            }
            let at = entries.insert(addr);
            let entry = entries.at(at);
            entry.grant(Mode::Exclusive, me);
            entry.late = true;
            true
        });
        match taken {
            true => Ok(None),
            false => self.acquire_contended(addr, Mode::Exclusive, me, Patience::Late),
        }
    }

    /// Runs `look` while nobody can take the lock at `addr`, if nobody has it exclusively and its last change is durable.
    /// It has to be short, and to take no lock.
    pub(crate) fn look<R>(&self, addr: usize, look: impl FnOnce() -> R) -> Option<R> {
        self.shards[self.shard(addr)].with(|entries| {
            let free = match entries.find(addr) {
                None => true,
                Some(at) => {
                    let entry = entries.at(at);
                    entry.exclusive.is_none() && entry.unsettled().is_none()
                }
            };
            free.then(look)
        })
    }

    /// Takes the lock at `addr`, which `me` holds, exclusively, if nobody else shares it. It is given back for each mode.
    pub(crate) fn upgrade(&self, addr: usize, me: &'static Owner) -> Upgrade {
        self.shards[self.shard(addr)].with(|entries| {
            let Some(at) = entries.find(addr) else {
                return Upgrade::Shared;
            };
            let entry = entries.at(at);
            if entry.exclusive.is_some() {
                Upgrade::Had
            } else if entry.holders().all(|holder| std::ptr::eq(holder, me)) {
                entry.grant(Mode::Exclusive, me);
                Upgrade::Done
            } else {
                Upgrade::Shared
            }
        })
    }

    /// Whether waiting for the holders of `entry` can never close a circle.
    fn may_wait(
        &self,
        entry: &Entry<P>,
        index: usize,
        me: &'static Owner,
        patience: Patience,
    ) -> bool {
        match patience {
            Patience::Free => true,
            Patience::Late => entry.exclusive.is_none() || entry.late,
            Patience::Die => {
                let mine = self.number(me);
                let younger = |other: &Owner| {
                    let other = other.number.load(Ordering::Acquire);
                    other == 0 || mine < other
                };
                if !entry.holders().all(younger) && !mutant::is("wait_for_anybody") {
                    return false;
                }
                // Either the wounder sees where we sleep, or we see the wound.
                me.waits_in.store(index + 1, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                !me.wounded.load(Ordering::Relaxed)
            }
            Patience::Wound => {
                for holder in entry.holders().filter(|_| !mutant::is("no_wound")) {
                    holder.wounded.store(true, Ordering::Relaxed);
                    fence(Ordering::SeqCst);
                    let shard = holder.waits_in.load(Ordering::Relaxed);
                    if shard != 0 {
                        self.shards[shard - 1].wake();
                    }
                }
                true
            }
        }
    }

    /// The requester's number, drawn if it has none.
    fn number(&self, me: &Owner) -> u64 {
        let mut last = self.numbers.lock();
        let mine = me.number.load(Ordering::Relaxed);
        if mine != 0 {
            return mine;
        }
        *last += 1;
        me.number.store(*last, Ordering::Release);
        *last
    }

    /// Gives the lock back.
    #[inline]
    pub(crate) fn release(&self, addr: usize, mode: Mode, me: &'static Owner) {
        let shard = &self.shards[self.shard(addr)];
        let awaited = shard.with(|entries| {
            let Some(at) = entries.find(addr) else {
                return false;
            };
            let entry = entries.at(at);
            entry.give_up(mode, me);
            let awaited = entry.waiting != 0;
            if entry.is_unused() {
                entries.remove(at);
            }
            awaited
        });
        if awaited {
            shard.wake();
        }
    }

    /// Gives a lock back that was held exclusively. Others have to wait until `last` is durable.
    pub(crate) fn release_after(&self, addr: usize, me: &'static Owner, last: P) {
        let shard = &self.shards[self.shard(addr)];
        let awaited = shard.with(|entries| {
            let Some(at) = entries.find(addr) else {
                return false;
            };
            let entry = entries.at(at);
            entry.give_up(Mode::Exclusive, me);
            if !mutant::is("forget_the_last") {
                entry.last = Some(last);
            }
            entry.waiting != 0
        });
        if awaited {
            shard.wake();
        }
    }

    /// Forgets the last commit under the lock at `addr` if it is durable by now.
    pub(crate) fn settle(&self, addr: usize) {
        self.shards[self.shard(addr)].with(|entries| {
            if let Some(at) = entries.find(addr) {
                entries.at(at).unsettled();
                if entries.at(at).is_unused() {
                    entries.remove(at);
                }
            }
        });
    }

    /// Forgets all locks in a region that is closed: those of leaked guards, and what was not durable.
    pub(crate) fn purge(&self, from: usize, to: usize) {
        for shard in &self.shards {
            shard.with(|entries| {
                for at in (0..=entries.used).rev() {
                    let entry = entries.at(at);
                    if (from..to).contains(&entry.addr) && entry.waiting == 0 {
                        entry.exclusive = None;
                        entry.shared.clear();
                        entry.last = None;
                        entries.remove(at);
                    }
                }
            });
        }
    }

    /// How many locks the table knows.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.with(|entries| entries.used + usize::from(entries.first.addr != 0)))
            .sum()
    }
}

enum Step<P> {
    Done(Result<Option<P>, Refused>),
    Sleep(u64),
}

#[cfg(test)]
#[path = "lock_table/tests.rs"]
mod tests;

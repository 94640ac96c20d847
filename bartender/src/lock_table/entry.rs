//! One lock's state, and the states that a part of the table holds.

use super::{Mode, Owner, Patience, Position, Refused};
use std::collections::HashMap;

/// Entries of a shard that are found by looking at each; more have an index.
const FEW: usize = 16;

/// One lock that is held, awaited, or whose last change is not durable yet.
#[derive(Debug)]
pub(super) struct Entry<P> {
    pub(super) addr: usize,
    pub(super) exclusive: Option<&'static Owner>,
    /// Whether `exclusive` took it for a step at its end: then it waits for nothing but such locks, at higher addresses.
    pub(super) late: bool,
    /// One for each time it is held.
    pub(super) shared: Vec<&'static Owner>,
    pub(super) waiting: u32,
    /// Those of `waiting` that want it exclusively: new readers that hold nothing let them pass.
    pub(super) waiting_exclusive: u32,
    /// The last exclusive holder's commit, unless it was durable when the lock was released.
    pub(super) last: Option<P>,
}

impl<P: Position> Entry<P> {
    pub(super) fn new() -> Self {
        Entry {
            addr: 0,
            exclusive: None,
            late: false,
            shared: Vec::new(),
            waiting: 0,
            waiting_exclusive: 0,
            last: None,
        }
    }

    pub(super) fn is_unused(&self) -> bool {
        self.exclusive.is_none()
            && self.shared.is_empty()
            && self.waiting == 0
            && self.last.is_none()
    }

    pub(super) fn holders(&self) -> impl Iterator<Item = &'static Owner> {
        self.exclusive.iter().chain(&self.shared).copied()
    }

    /// Whether `me` can have it now; `Err` if it never will be able to.
    pub(super) fn is_free_for(
        &self,
        mode: Mode,
        me: &'static Owner,
        patience: Patience,
    ) -> Result<bool, Refused> {
        if self.exclusive.is_some_and(|owner| std::ptr::eq(owner, me)) {
            return Err(Refused::Own);
        }
        match mode {
            Mode::Exclusive if self.shared.iter().any(|owner| std::ptr::eq(*owner, me)) => {
                Err(Refused::Own)
            }
            Mode::Exclusive => Ok(self.exclusive.is_none() && self.shared.is_empty()),
            // Letting writers pass would be waiting for them: only who holds nothing can, or where they wait for nobody.
            Mode::Shared
                if matches!(patience, Patience::Free | Patience::Late)
                    && self.waiting_exclusive != 0 =>
            {
                Ok(false)
            }
            Mode::Shared => Ok(self.exclusive.is_none()),
        }
    }

    #[inline]
    pub(super) fn grant(&mut self, mode: Mode, me: &'static Owner) {
        match mode {
            Mode::Exclusive => (self.exclusive, self.late) = (Some(me), false),
            Mode::Shared => self.shared.push(me),
        }
    }

    #[inline]
    pub(super) fn give_up(&mut self, mode: Mode, me: &'static Owner) {
        match mode {
            Mode::Exclusive => self.exclusive = None,
            Mode::Shared => {
                let mine = self
                    .shared
                    .iter()
                    .position(|owner| std::ptr::eq(*owner, me));
                if let Some(mine) = mine {
                    self.shared.swap_remove(mine);
                }
            }
        }
    }

    /// The last commit under this lock, if it is still not durable.
    pub(super) fn unsettled(&mut self) -> Option<P> {
        if self.last.as_ref().is_some_and(P::is_durable) {
            self.last = None;
        }
        self.last.clone()
    }
}

/// The entries of a shard: most have none or one, which lies in the shard itself.
#[derive(Debug)]
pub(super) struct Entries<P> {
    /// Unused while its address is 0.
    pub(super) first: Entry<P>,
    /// Removed ones stay behind `used`, so that their buffers are used again.
    rest: Vec<Entry<P>>,
    pub(super) used: usize,
    /// Where each of the rest is, by address, once there have been more than [`FEW`]; empty while there are few.
    index: HashMap<usize, usize>,
}

/// Which of the [`Entries`]: 0 is the first, 1 and up are the rest.
pub(super) type At = usize;

impl<P: Position> Entries<P> {
    pub(super) fn new() -> Self {
        Entries {
            first: Entry::new(),
            rest: Vec::new(),
            used: 0,
            index: HashMap::new(),
        }
    }

    #[inline]
    pub(super) fn find(&self, addr: usize) -> Option<At> {
        if self.first.addr == addr {
            return Some(0);
        }
        if self.used == 0 {
            return None;
        }
        if !self.index.is_empty() {
            return self.index.get(&addr).map(|at| at + 1);
        }
        let rest = &self.rest[..self.used];
        rest.iter()
            .position(|entry| entry.addr == addr)
            .map(|at| at + 1)
    }

    #[inline]
    pub(super) fn at(&mut self, at: At) -> &mut Entry<P> {
        match at {
            0 => &mut self.first,
            at => &mut self.rest[at - 1],
        }
    }

    #[inline]
    pub(super) fn insert(&mut self, addr: usize) -> At {
        let at = if self.first.addr == 0 {
            0
        } else {
            if self.used == self.rest.len() {
                self.rest.push(Entry::new());
            }
            self.used += 1;
            if self.used > FEW {
                self.note(addr);
            }
            self.used
        };
        self.at(at).addr = addr;
        at
    }

    /// Puts the last one, which is at `addr`, into the index, which begins with it if there was none.
    #[cold]
    fn note(&mut self, addr: usize) {
        let last = self.used - 1;
        if self.index.is_empty() {
            let before = self.rest[..last].iter().enumerate();
            self.index
                .extend(before.map(|(at, entry)| (entry.addr, at)));
        }
        self.index.insert(addr, last);
    }

    #[inline]
    pub(super) fn remove(&mut self, at: At) {
        if at == 0 {
            self.first.addr = 0;
            return;
        }
        self.used -= 1;
        if !self.index.is_empty() {
            self.forget(at - 1);
        }
        if at - 1 != self.used {
            self.rest.swap(at - 1, self.used);
        }
    }

    /// Takes the one at `at` out of the index; the last one comes to its place.
    #[cold]
    fn forget(&mut self, at: usize) {
        let last = self.rest[self.used].addr;
        self.index.remove(&self.rest[at].addr);
        if at != self.used {
            self.index.insert(last, at);
        }
        if self.used <= FEW / 2 {
            // Those of a transaction that held very many are given back.
            self.index = HashMap::new();
            self.rest.truncate(2 * FEW);
        }
    }
}

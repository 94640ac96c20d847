//! What a thread knows of its own locks and transactions, and the process-wide table of locks.
//!
//! Nothing here is shared but the table and the pool of owners.

use crate::lock_table::{Mode, Owner, Patience, Position, Refused, Table};
use crate::tx::{Context, Held};
use bartender_pm::Region;
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::{LazyLock, Mutex, PoisonError};

/// A commit that others must not see before it is durable.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub(crate) seq: u64,
    pub(crate) region: Region,
}

impl Position for Commit {
    fn is_durable(&self) -> bool {
        self.region.durable_seq() >= self.seq
    }
}

static TABLE: LazyLock<Table<Commit>> = LazyLock::new(Table::new);

/// Owners of threads that have ended. They are never freed: others may still look at them.
static OWNERS: Mutex<Vec<&'static Owner>> = Mutex::new(Vec::new());

/// The state of one thread. It has no destructor, so reaching it costs no check; [`Cleanup`] has.
#[derive(Debug)]
pub(crate) struct Thread {
    owner: Cell<Option<&'static Owner>>,
    /// Read guards alive outside of the transactions' own locks.
    guards: Cell<usize>,
    /// The innermost running transaction; the others by [`Context::outer`].
    active: Cell<Option<NonNull<Context>>>,
    /// Detached values so far: their numbers.
    tickets: Cell<u64>,
    /// Contexts to be used again, in a list by [`Context::outer`].
    idle: Cell<Option<NonNull<Context>>>,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            owner: Cell::new(None),
            guards: Cell::new(0),
            active: Cell::new(None),
            tickets: Cell::new(0),
            idle: Cell::new(None),
        }
    };
    static CLEANUP: Cleanup = const { Cleanup };
}

/// Gives a thread's things back when it ends.
struct Cleanup;

impl Drop for Cleanup {
    fn drop(&mut self) {
        THREAD.with(|thread| {
            // A guard that outlives the thread's end keeps its owner.
            if thread.guards.get() == 0
                && let Some(owner) = thread.owner.take()
            {
                OWNERS
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(owner);
            }
            while let Some(context) = thread.idle.take() {
                // SAFETY: idle contexts were made by `Box` and are in no other list.
                let context = unsafe { Box::from_raw(context.as_ptr()) };
                thread.idle.set(context.outer);
            }
        });
    }
}

/// Runs `f` with the calling thread's state.
#[inline]
pub(crate) fn with<R>(f: impl FnOnce(&Thread) -> R) -> R {
    THREAD.with(f)
}

/// The table of all locks.
#[inline]
pub(crate) fn table() -> &'static Table<Commit> {
    &TABLE
}

impl Thread {
    #[inline]
    pub(crate) fn owner(&self) -> &'static Owner {
        match self.owner.get() {
            Some(owner) => owner,
            None => self.new_owner(),
        }
    }

    #[cold]
    fn new_owner(&self) -> &'static Owner {
        // In the last moments of a thread there is no cleanup any more; then these are leaked.
        let _ = CLEANUP.try_with(|_| ());
        let pooled = OWNERS.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let owner = pooled.unwrap_or_else(|| Box::leak(Box::default()));
        self.owner.set(Some(owner));
        owner
    }

    /// The innermost running transaction.
    #[inline]
    pub(crate) fn active(&self) -> Option<NonNull<Context>> {
        self.active.get()
    }

    #[inline]
    pub(crate) fn set_active(&self, context: Option<NonNull<Context>>) {
        self.active.set(context);
    }

    /// The running transactions, the innermost first.
    pub(crate) fn running(&self) -> impl Iterator<Item = NonNull<Context>> {
        // SAFETY: contexts in the list of running ones are alive, and of this thread.
        std::iter::successors(self.active.get(), |c| unsafe { c.as_ref().outer })
    }

    /// A number that no detached value of this thread ever had.
    #[inline]
    pub(crate) fn next_ticket(&self) -> u64 {
        self.tickets.set(self.tickets.get() + 1);
        self.tickets.get()
    }

    /// A context to run a transaction in.
    #[inline]
    pub(crate) fn take_context(&self) -> NonNull<Context> {
        match self.idle.get() {
            Some(context) => {
                // SAFETY: idle contexts are alive, and nobody else's.
                self.idle.set(unsafe { context.as_ref().outer });
                context
            }
            None => NonNull::from(Box::leak(Box::new(Context::new(self.owner())))),
        }
    }

    #[inline]
    pub(crate) fn give_context(&self, mut context: NonNull<Context>) {
        // SAFETY: from `take_context`, and its transaction has ended.
        unsafe { context.as_mut().outer = self.idle.get() };
        self.idle.set(Some(context));
    }

    /// Whether the thread has any lock that somebody might wait for.
    fn holds_something(&self) -> bool {
        // SAFETY: as in `running`; nobody has the contexts borrowed.
        let locked = |context: NonNull<Context>| unsafe { !context.as_ref().locks.is_empty() };
        self.guards.get() != 0 || self.running().any(locked)
    }

    /// Takes a lock for the running transaction that was not to be had at once.
    #[cold]
    pub(crate) fn acquire(&self, addr: usize, mode: Mode) -> Result<Option<Commit>, Refused> {
        let patience = if self.holds_something() {
            Patience::Die
        } else {
            Patience::Free
        };
        table().acquire_contended(addr, mode, self.owner(), patience)
    }

    /// Takes a lock for a read guard.
    #[inline]
    pub(crate) fn acquire_guard(&self, addr: usize) -> Result<Option<Commit>, Refused> {
        let last = if table().acquire_unused(addr, Mode::Shared, self.owner()) {
            None
        } else {
            self.acquire_guard_contended(addr)?
        };
        self.guards.set(self.guards.get() + 1);
        Ok(last)
    }

    #[cold]
    fn acquire_guard_contended(&self, addr: usize) -> Result<Option<Commit>, Refused> {
        let patience = match (self.holds_something(), self.active.get()) {
            (false, _) => Patience::Free,
            (true, None) => Patience::Wound,
            (true, Some(_)) => Patience::Die,
        };
        table().acquire_contended(addr, Mode::Shared, self.owner(), patience)
    }

    /// Ends a read guard. Inside of a transaction over the lock's heap the lock becomes the transaction's (rule 2 of
    /// the typed interface): what it has changed behind the lock must stay in its reach until it has ended. One over
    /// another heap has changed nothing there, and may go on when that heap has been closed and its addresses are
    /// another's.
    pub(crate) fn release_guard(&self, addr: usize) {
        self.guards.set(self.guards.get() - 1);
        // SAFETY: running contexts are alive; no method holds a borrow while a guard is dropped.
        let over_it = |context: &NonNull<Context>| unsafe { context.as_ref().covers(addr) };
        match self.running().find(over_it) {
            Some(mut context) => {
                // SAFETY: as above.
                let context = unsafe { context.as_mut() };
                let (mode, round) = (Mode::Shared, context.round);
                context.locks.push(Held { addr, mode, round });
            }
            None => table().release(addr, Mode::Shared, self.owner()),
        }
    }
}

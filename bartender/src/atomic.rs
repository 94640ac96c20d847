//! Numbers that many transactions change beside each other: [`PAtomicU64`] and its kin.
//!
//! A transaction does not lock them. What it does to one is noted, and done when it commits: see [`crate::late`]. Hence there
//! is no `fetch_add` that answers with the number before: nobody knows it yet.

use crate::error::{Error, Result};
use crate::late::Step;
use crate::leased;
use crate::lock_table::{Mode, Patience, Refused};
use crate::persist::{Adopt, Evict, Persist, Release};
use crate::run::unwind_conflict;
use crate::thread;
use crate::transaction::Tx;
use crate::tx::{Doom, TxRef};
use bartender_heap::types::{Kind, SchemaBuilder, Type, TypeRef};
use std::fmt;
// Not the one of `sync`: this word is in the region.
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! atomic {
    ($(#[$doc:meta])* $name:ident, $type:ident, $label:literal, $signed:literal, $max:ident, $min:ident) => {
        $(#[$doc])*
        #[repr(transparent)]
        pub struct $name {
            word: AtomicU64,
        }

        impl $name {
            /// A number.
            pub const fn new(value: $type) -> Self {
                $name {
                    word: AtomicU64::new(value as u64),
                }
            }

            /// The number, as the last durable commit left it. What this thread's transaction has added is not in it:
            /// see [`load_in`](Self::load_in).
            ///
            /// # Panics
            ///
            /// If the region is poisoned and the last change is not known to be durable
            /// ([`try_load`](Self::try_load) returns that).
            #[track_caller]
            pub fn load(&self) -> $type {
                self.try_load().unwrap_or_else(|error| panic!("cannot read: {error}"))
            }

            /// As [`load`](Self::load), with errors instead of panics.
            ///
            /// # Errors
            ///
            /// `Poisoned` if the last change is not known to be durable.
            pub fn try_load(&self) -> Result<$type> {
                Ok(load(&self.word)? as $type)
            }

            /// The number as it would be if the transaction committed now: with what it has done to it so far. Others may
            /// come first.
            ///
            /// # Errors
            ///
            /// As [`try_load`](Self::try_load); [`Error::NotStored`].
            pub fn load_in(&self, tx: &Tx<'_>) -> Result<$type> {
                let tx = tx.inner();
                if !tx.is_in_view(self.addr()) {
                    return Err(Error::NotStored);
                }
                let word = load(&self.word)?;
                Ok(tx.after_steps(self.addr(), word) as $type)
            }

            /// Adds `n`, modulo 2^64, when the transaction commits.
            ///
            /// # Errors
            ///
            /// [`Error::NotStored`].
            pub fn add(&self, tx: &Tx<'_>, n: $type) -> Result<()> {
                self.step(tx, Step::Add(n as u64))
            }

            /// Subtracts `n`, modulo 2^64, when the transaction commits.
            ///
            /// # Errors
            ///
            /// [`Error::NotStored`].
            pub fn sub(&self, tx: &Tx<'_>, n: $type) -> Result<()> {
                self.step(tx, Step::Add((n as u64).wrapping_neg()))
            }

            /// Raises it to `n`, if it is lower when the transaction commits.
            ///
            /// # Errors
            ///
            /// [`Error::NotStored`].
            pub fn max(&self, tx: &Tx<'_>, n: $type) -> Result<()> {
                self.step(tx, Step::$max(n as _))
            }

            /// Lowers it to `n`, if it is higher when the transaction commits.
            ///
            /// # Errors
            ///
            /// [`Error::NotStored`].
            pub fn min(&self, tx: &Tx<'_>, n: $type) -> Result<()> {
                self.step(tx, Step::$min(n as _))
            }

            /// Keeps the bits that `n` has, when the transaction commits.
            ///
            /// # Errors
            ///
            /// [`Error::NotStored`].
            pub fn and(&self, tx: &Tx<'_>, n: $type) -> Result<()> {
                self.step(tx, Step::And(n as u64))
            }

            /// Sets the bits that `n` has, when the transaction commits.
            ///
            /// # Errors
            ///
            /// [`Error::NotStored`].
            pub fn or(&self, tx: &Tx<'_>, n: $type) -> Result<()> {
                self.step(tx, Step::Or(n as u64))
            }

            /// Flips the bits that `n` has, when the transaction commits.
            ///
            /// # Errors
            ///
            /// [`Error::NotStored`].
            pub fn xor(&self, tx: &Tx<'_>, n: $type) -> Result<()> {
                self.step(tx, Step::Xor(n as u64))
            }

            /// Makes it `n`, when the transaction commits.
            ///
            /// # Errors
            ///
            /// [`Error::NotStored`].
            pub fn store(&self, tx: &Tx<'_>, n: $type) -> Result<()> {
                self.step(tx, Step::Store(n as u64))
            }

            /// The number, when nobody else can reach it.
            pub fn get_mut(&mut self) -> &mut $type {
                // SAFETY: eight bytes of any pattern are one, aligned like an `AtomicU64`.
                unsafe { &mut *self.word.as_ptr().cast() }
            }

            /// The number.
            pub fn into_inner(self) -> $type {
                self.word.into_inner() as $type
            }

            fn addr(&self) -> usize {
                self.word.as_ptr().addr()
            }

            fn step(&self, tx: &Tx<'_>, step: Step) -> Result<()> {
                // SAFETY: only steps, and who holds what contains the word, change it. It cannot move while it is borrowed, and
                // what it is borrowed from stays locked, or still, until the transaction has ended (rule 2).
                unsafe { tx.inner().step(self.addr(), step) }
            }
        }

        // SAFETY: eight bytes of which every pattern is a number. What moves or overwrites them holds them before, as if
        // they were a lock: then no step waits for them.
        unsafe impl Persist for $name {
            const HAS_POINTERS: bool = false;
            const HAS_LOCKS: bool = true;

            fn describe(b: &mut SchemaBuilder) -> TypeRef {
                b.define::<Self>(|_| Type::of::<Self>($label, Kind::Atomic { signed: $signed }))
            }

            unsafe fn adopt(_this: *mut Self, _a: &mut Adopt<'_>) {}

            unsafe fn evict(_this: *mut Self, _e: &mut Evict<'_>) {}

            unsafe fn release(_this: *const Self, _r: &mut Release<'_>) {}

            unsafe fn for_each_lock(this: *const Self, f: &mut dyn FnMut(usize)) {
                f(this.addr());
            }

            unsafe fn zero_padding(_this: *mut Self) {}
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new(0)
            }
        }

        impl From<$type> for $name {
            fn from(value: $type) -> Self {
                Self::new(value)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.try_load() {
                    Ok(value) => value.fmt(f),
                    Err(_) => f.write_str("<not known to be durable>"),
                }
            }
        }
    };
}

atomic! {
    /// An unsigned number that transactions change beside each other, without waiting: a counter of everything is no
    /// bottleneck.
    ///
    /// Stored, it is changed through a transaction, by reference: the change is made when that commits, and is durable with
    /// it, or never was. Owned, it is a number in a box: [`get_mut`](Self::get_mut), [`into_inner`](Self::into_inner).
    /// In a value that is changed through a `Mut` anyway a plain `u64` does.
    ///
    /// Cost: 8 bytes of log for each number in a transaction; commits that change one number wait for each other's place in
    /// the log, and no longer. A `load` takes a few loads and stores, and waits where a commit that changed the number is on its
    /// way to the medium.
    ///
    /// ```
    /// # use bartender::{Error, Heap, PAtomicU64, PHashMap, PMutex, Persist, PString};
    /// #[derive(Persist, Default)]
    /// #[repr(C)]
    /// struct Site {
    ///     hits: PAtomicU64,
    ///     longest: PAtomicU64,
    ///     pages: PMutex<PHashMap<u64, PString>>,
    /// }
    /// # fn main() -> Result<(), Error> {
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let path = folder.path().join("r");
    /// let heap = Heap::<Site>::options().max_size(1 << 30).open(path)?;
    /// let site = heap.root();
    /// heap.transaction(|tx| {
    ///     site.hits.add(tx, 1)?;
    ///     site.longest.max(tx, 120)
    /// })?;
    /// assert_eq!((site.hits.load(), site.longest.load()), (1, 120));
    /// # Ok(())
    /// # }
    /// ```
    PAtomicU64, u64, "PAtomicU64", false, Max, Min
}

atomic! {
    /// As [`PAtomicU64`], signed.
    PAtomicI64, i64, "PAtomicI64", true, MaxSigned, MinSigned
}

#[cfg(target_pointer_width = "64")]
atomic! {
    /// As [`PAtomicU64`], of the size of a pointer.
    PAtomicUsize, usize, "PAtomicUsize", false, Max, Min
}

#[cfg(target_pointer_width = "64")]
atomic! {
    /// As [`PAtomicI64`], of the size of a pointer.
    PAtomicIsize, isize, "PAtomicIsize", true, MaxSigned, MinSigned
}

/// The word as the last durable commit left it.
fn load(word: &AtomicU64) -> Result<u64> {
    let addr = word.as_ptr().addr();
    let look = || word.load(Ordering::Relaxed);
    let value = match thread::table().look(addr, look) {
        Some(value) => value,
        None => load_contended(word, addr)?,
    };
    leased::check(addr)?;
    Ok(value)
}

#[cold]
fn load_contended(word: &AtomicU64, addr: usize) -> Result<u64> {
    let owner = thread::with(|thread| thread.owner());
    match thread::table().acquire_contended(addr, Mode::Shared, owner, Patience::Late) {
        Ok(last) => {
            let value = word.load(Ordering::Relaxed);
            thread::table().release(addr, Mode::Shared, owner);
            if let Some(commit) = last {
                commit.region.wait_durable(commit.seq)?;
            }
            Ok(value)
        }
        // This thread's transaction has moved it here, or will put something else into its place.
        Err(Refused::Own) => Ok(word.load(Ordering::Relaxed)),
        Err(Refused::Conflict) => {
            let Some(mut active) = thread::with(|thread| thread.active()) else {
                return Err(Error::Conflict);
            };
            // SAFETY: it runs on this thread, and nobody has it borrowed.
            unsafe { active.as_mut() }.doom(Doom::Conflict);
            unwind_conflict()
        }
    }
}

impl TxRef<'_> {
    /// What a word is after the steps that wait for it.
    fn after_steps(self, addr: usize, word: u64) -> u64 {
        let steps = self.context().late.at(addr);
        steps.fold(word, |word, step| step.of(word))
    }
}

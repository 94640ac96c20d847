//! The locks that guard what changes: [`PMutex`] and [`PRwLock`].
//!
//! A transaction locks one to change what is inside and holds it to its end; [`ReadGuard`]s outside of
//! transactions see durable data only. The lock's word in the region is always zero; its state is in
//! [`crate::lock_table`], so a crash unlocks it. An owned lock (not stored yet) is reached by `get_mut`.

use crate::error::{Error, Result};
use crate::leased;
use crate::lock_table::{Mode, Refused};
use crate::mutref::Mut;
use crate::persist::{Adopt, Evict, Import, Match, Persist, Project, Release, matches};
use crate::run::unwind_conflict;
use crate::thread;
use crate::tx::{Doom, TxRef};
use bartender_heap::layout::RawLock;
use bartender_heap::types::{Kind, SchemaBuilder, Type, TypeRef};
// Not the one of `sync`: this cell is in the region, and its layout is on the medium.
use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::ops::Deref;
use std::ptr::NonNull;

mod sealed {
    use std::ptr::NonNull;

    pub trait Sealed {
        type Inside;
        /// Where the value inside lies, with the right to write there.
        fn inside(&self) -> NonNull<Self::Inside>;
    }
}

/// A persistent lock: [`PMutex`] or [`PRwLock`].
pub trait Lock: Persist + sealed::Sealed<Inside = Self::Target> {
    /// What it guards.
    type Target: Persist;
}

macro_rules! lock {
    ($(#[$doc:meta])* $name:ident, $label:literal, $rw:literal) => {
        $(#[$doc])*
        #[repr(C)]
        pub struct $name<T: Persist> {
            raw: RawLock,
            value: UnsafeCell<T>,
        }

        // SAFETY: the value is reached under the lock, by `&mut`, or by value.
        unsafe impl<T: Persist> Sync for $name<T> {}

        impl<T: Persist> $name<T> {
            /// A lock around `value`.
            pub const fn new(value: T) -> Self {
                $name {
                    raw: RawLock { word: 0 },
                    value: UnsafeCell::new(value),
                }
            }

            /// Reads what is inside. Outside of transactions, what the guard shows is durable. The lock stays
            /// taken until the guard is dropped, or, if that happens inside of a transaction of this thread, until the
            /// transaction has ended.
            ///
            /// # Panics
            ///
            /// If this thread's transaction has locked it to change it: that would wait for ever. If the region is
            /// poisoned and the last change is not known to be durable ([`try_read`](Self::try_read) returns that).
            #[track_caller]
            pub fn read(&self) -> ReadGuard<'_, T> {
                match self.try_read() {
                    Ok(guard) => guard,
                    Err(Error::AlreadyLocked) => panic!(
                        "deadlock: this thread's transaction has locked this {} to change it; read through its `Mut`",
                        $label,
                    ),
                    Err(error) => panic!("cannot read: {error}"),
                }
            }

            /// As [`read`](Self::read), with errors instead of panics.
            ///
            /// # Errors
            ///
            /// [`Error::AlreadyLocked`] if this thread's transaction has locked it to change it; `Poisoned` if the last
            /// change is not known to be durable.
            pub fn try_read(&self) -> Result<ReadGuard<'_, T>> {
                // SAFETY: the value inside lives as long as the lock.
                unsafe { ReadGuard::take(addr(self), NonNull::new_unchecked(self.value.get())) }
            }

            /// The value, when nobody else can reach it.
            pub fn get_mut(&mut self) -> &mut T {
                self.value.get_mut()
            }

            /// The value.
            pub fn into_inner(self) -> T {
                self.value.into_inner()
            }
        }

        // SAFETY: the layout is described as it is; everything else is the value's.
        unsafe impl<T: Persist> Persist for $name<T> {
            const HAS_POINTERS: bool = T::HAS_POINTERS;
            const HAS_LOCKS: bool = true;

            fn describe(b: &mut SchemaBuilder) -> TypeRef {
                b.define::<Self>(|b| {
                    let inner = T::describe(b);
                    let offset = offset_of!(Self, value) as u64;
                    Type::of::<Self>($label, Kind::Lock { inner, offset, rw: $rw })
                })
            }

            unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>) {
                // SAFETY: passed on.
                unsafe { T::adopt((*this).value.get(), a) }
            }

            unsafe fn evict(this: *mut Self, e: &mut Evict<'_>) {
                // SAFETY: passed on.
                unsafe { T::evict((*this).value.get(), e) }
            }

            unsafe fn release(this: *const Self, r: &mut Release<'_>) {
                // SAFETY: passed on.
                unsafe { T::release((*this).value.get(), r) }
            }

            unsafe fn for_each_lock(this: *const Self, f: &mut dyn FnMut(usize)) {
                f(addr(this));
                // SAFETY: passed on.
                unsafe { T::for_each_lock((*this).value.get(), f) }
            }

            unsafe fn zero_padding(this: *mut Self) {
                let value = offset_of!(Self, value);
                // SAFETY: the bytes between and behind the fields; the value's own are passed on.
                unsafe {
                    crate::__private::zero_gap(this, 0, value);
                    crate::__private::zero_gap(this, value + size_of::<T>(), size_of::<Self>());
                    T::zero_padding((*this).value.get());
                }
            }

            fn parts_match(m: &mut Match<'_>, ty: TypeRef) -> bool {
                match m.kind(ty) {
                    Kind::Lock { inner, rw, .. } => *rw == $rw && matches::<T>(m, *inner),
                    _ => false,
                }
            }

            unsafe fn import_parts(i: &mut Import<'_>, ty: TypeRef, at: *const u8) -> Result<Self> {
                let Kind::Lock { inner, offset, .. } = i.kind(ty) else {
                    return Err(i.refused::<Self>(ty));
                };
                // SAFETY: the value lies behind the lock's word. Nobody else has the region yet.
                let value = unsafe { i.value(*inner, at.add(*offset as usize))? };
                Ok(Self::new(value))
            }
        }

        // SAFETY: the one part is the value inside.
        unsafe impl<T: Persist> Project for $name<T> {
            type Projection<'a> = Mut<'a, T>;

            /// The right to change the value inside. The transaction holds the lock from here on.
            unsafe fn project_raw<'a>(ptr: NonNull<Self>, tx: TxRef<'a>) -> Mut<'a, T> {
                // Who has a `Mut` of the lock has what contains it for itself, so nobody else can have it;
                // if somebody has (a leaked guard), there is no way on.
                if tx.hold(addr(ptr.as_ptr())).is_err() {
                    unwind_conflict();
                }
                // SAFETY: the value inside is the caller's, like the lock.
                unsafe { Mut::from_raw(NonNull::new_unchecked(ptr.as_ref().value.get()), tx) }
            }
        }

        impl<T: Persist> sealed::Sealed for $name<T> {
            type Inside = T;

            #[inline]
            fn inside(&self) -> NonNull<T> {
                // SAFETY: not null.
                unsafe { NonNull::new_unchecked(self.value.get()) }
            }
        }

        impl<T: Persist> Lock for $name<T> {
            type Target = T;
        }

        impl<T: Persist + Default> Default for $name<T> {
            fn default() -> Self {
                Self::new(T::default())
            }
        }

        impl<T: Persist> From<T> for $name<T> {
            fn from(value: T) -> Self {
                Self::new(value)
            }
        }

        impl<T: Persist> fmt::Debug for $name<T> {
            /// Without what is inside: that would need the lock.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct($label).finish_non_exhaustive()
            }
        }
    };
}

lock! {
    /// Mutual exclusion: one transaction at a time is inside. Read guards outside of transactions share it.
    PMutex, "PMutex", false
}

lock! {
    /// As [`PMutex`], and transactions that only read share it ([`Tx::read`](crate::Tx::read)).
    PRwLock, "PRwLock", true
}

#[inline]
fn addr<T>(lock: *const T) -> usize {
    lock.addr()
}

/// Takes `lock` for the transaction, to change what is inside.
#[inline]
pub(crate) fn lock<'tx, L: Lock>(lock: &'tx L, tx: TxRef<'tx>) -> Result<Mut<'tx, L::Target>> {
    tx.lock(addr(lock), Mode::Exclusive)?;
    // SAFETY: the lock is in the region and held exclusively from here to the end of the transaction; it is
    // granted once, so there is no other way in.
    Ok(unsafe { Mut::from_raw(lock.inside(), tx) })
}

/// Takes `lock` for the transaction, to read what is inside.
pub(crate) fn share<'tx, T: Persist>(lock: &'tx PRwLock<T>, tx: TxRef<'tx>) -> Result<&'tx T> {
    tx.lock(addr(lock), Mode::Shared)?;
    // SAFETY: shared from here to the end of the transaction.
    Ok(unsafe { &*lock.value.get() })
}

/// Shows what is inside of a lock. Belongs to its thread.
pub struct ReadGuard<'a, T> {
    /// Valid and unchanging while the lock at `addr` is shared.
    value: NonNull<T>,
    addr: usize,
    life: PhantomData<&'a T>,
}

impl<T> ReadGuard<'_, T> {
    /// Shares the lock at `addr`, and waits until its last change is durable.
    ///
    /// # Safety
    ///
    /// `value` is what that lock guards, and lives as long as the guard.
    unsafe fn take(addr: usize, value: NonNull<T>) -> Result<Self> {
        match thread::with(|thread| thread.acquire_guard(addr)) {
            Ok(last) => {
                // Lets go again if the wait fails.
                let guard = ReadGuard {
                    value,
                    addr,
                    life: PhantomData,
                };
                if let Some(commit) = last
                    && !bartender_pm::mutant::is("no_wait_for_shown")
                {
                    commit.region.wait_durable(commit.seq)?;
                }
                leased::check(addr)?;
                Ok(guard)
            }
            Err(Refused::Own) => Err(Error::AlreadyLocked),
            Err(Refused::Conflict) => {
                let active = thread::with(|thread| thread.active());
                let mut active = active.expect("only transactions are refused");
                // SAFETY: it runs on this thread, and nobody has it borrowed.
                unsafe { active.as_mut() }.doom(Doom::Conflict);
                unwind_conflict()
            }
        }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        thread::with(|thread| thread.release_guard(self.addr));
    }
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: see the field.
        unsafe { self.value.as_ref() }
    }
}

impl<T: fmt::Debug> fmt::Debug for ReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: fmt::Display> fmt::Display for ReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

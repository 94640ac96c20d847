//! [`PRcu`]: a value that is replaced while others read it, without a lock on their side.
//!
//! *Versions.* The word in the region points to the block of the current version, which never changes. A transaction that replaces it
//! makes a new block and notes the word's new value ([`crate::late`]). The record has the new value; the word in the view
//! gets it when the record is durable, so what readers see is durable without any waiting of theirs. The old
//! version's blocks are freed when no reader that could have seen it is left: readers pin crossbeam-epoch's global
//! epoch, and blocks wait for two steps of it.
//!
//! *Writers* take the word's lock to the end of their transaction, and on a stream until the word has its new value, so each
//! sees the version of the one before.
//!
//! *What a version holds* does not change by itself: a lock, an atomic or a count of owners in a version that was replaced could be
//! changed by a transaction that commits when its block is somebody else's. The rules of a schema forbid it
//! (`bartender_heap::types`), so opening a heap with such a type is an error.
//!
//! *The place* that a transaction has for itself (it moves it, has just made it, or projects it) has no readers: there the word
//! gets its value at once.

use crate::ending::{self, Owner};
use crate::error::{Error, Result};
use crate::late::Step;
use crate::leased;
use crate::mutref::Mut;
use crate::persist::{Adopt, Evict, Persist, Project, Release};
use crate::run::unwind_conflict;
use crate::transaction::Tx;
use crate::tx::TxRef;
use bartender_heap::types::{Kind, SchemaBuilder, Type, TypeRef};
use crossbeam_epoch::{self as epoch, Guard};
use std::alloc::Layout;
use std::fmt;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, needs_drop};
use std::ops::Deref;
use std::ptr::{self, NonNull};
// Not the one of `sync`: this word is in the region.
use std::sync::atomic::{AtomicU64, Ordering};

/// A value that transactions replace while others read it: readers take no lock and wait for nobody.
///
/// [`read`](Self::read) shows the version that was committed last, and goes on showing it for as long as the guard lives, whatever is
/// committed meanwhile. [`replace`](Self::replace) and [`update`](Self::update) make another version. For what is read all
/// the time and rarely changed: configuration, routes, an index that is made anew.
///
/// A version holds no locks, no atomics, nothing shared and no `PRcu`: a heap with such a type does not open.
/// A version that nobody reads any more is freed some transactions later.
///
/// Cost: reading, an entry into crossbeam-epoch's current epoch (some ten nanoseconds); replacing, a block and 8 bytes of log besides
/// the version itself. On a file, transactions that replace one and the same value do not share a barrier.
///
/// ```
/// # use bartender::{Error, Heap, PRcu, PVec};
/// # fn main() -> Result<(), Error> {
/// # let folder = tempfile::tempdir().expect("a folder");
/// # let path = folder.path().join("r");
/// let heap = Heap::<PRcu<PVec<u64>>>::options().max_size(1 << 30).open(path)?;
/// let routes = heap.root();
/// let before = routes.read();
/// heap.transaction(|tx| {
///     routes.update(tx, |old| {
///         let mut new = old.clone();
///         new.push(7);
///         new
///     })
/// })?;
/// assert!(before.is_empty());
/// assert_eq!(routes.read()[..], [7]);
/// # Ok(())
/// # }
/// ```
#[repr(transparent)]
pub struct PRcu<T: Persist> {
    /// Address of the block: ordinary memory while it is owned, the region while it is stored.
    word: AtomicU64,
    owns: PhantomData<T>,
}

/// Shows a version of a [`PRcu`]. Belongs to its thread. While it lives, no block of an old version in any heap is freed.
pub struct RcuGuard<'a, T> {
    value: &'a T,
    /// Keeps the version's blocks from being freed.
    _pin: Guard,
}

impl<T: Persist> PRcu<T> {
    /// A first version, in ordinary memory.
    pub fn new(value: T) -> Self {
        Self::at(NonNull::from(Box::leak(Box::new(value))))
    }

    /// The value of an owned one.
    pub fn into_inner(this: Self) -> T {
        let this = ManuallyDrop::new(this);
        // SAFETY: who owns one owns an ordinary block, made by `Box` or by `Evict::move_out` with the same allocator and layout.
        *unsafe { Box::from_raw(this.block()) }
    }

    /// The version that was committed last. Durable; what this thread's transaction has put there is not in it: see
    /// [`get`](Self::get). Takes no lock.
    ///
    /// # Panics
    ///
    /// On the primary of a replicated region whose lease has ended ([`try_read`](Self::try_read) returns that).
    #[track_caller]
    pub fn read(&self) -> RcuGuard<'_, T> {
        self.try_read()
            .unwrap_or_else(|error| panic!("cannot read: {error}"))
    }

    /// As [`read`](Self::read), with errors instead of panics.
    ///
    /// # Errors
    ///
    /// That this machine may no longer be the primary of a replicated region.
    pub fn try_read(&self) -> Result<RcuGuard<'_, T>> {
        let pin = epoch::pin();
        // Acquire: the version's bytes were written before the word was.
        let block: *const T =
            ptr::with_exposed_provenance(self.word.load(Ordering::Acquire) as usize);
        leased::check(self.addr())?;
        // SAFETY: a version that was current while the epoch was pinned: its block stays as long as the pin, and does not change.
        let value = unsafe { &*block };
        Ok(RcuGuard { value, _pin: pin })
    }

    /// The version that the transaction would leave if it committed now: its own, or the one that was committed last, which
    /// nobody else replaces from now on.
    ///
    /// # Errors
    ///
    /// [`Error::NotStored`]; [`Error::Conflict`] when waiting for who replaces it could be a deadlock.
    pub fn get<'t>(&'t self, tx: &'t Tx<'_>) -> Result<&'t T> {
        self.hold(tx.inner())?;
        // SAFETY: what the transaction has put there, or what nobody else replaces before it ends. Blocks of both are freed
        // after its end, and it cannot replace it while this is borrowed, as that takes it mutably.
        Ok(unsafe { &*self.latest(tx.inner()) })
    }

    /// Replaces the value when the transaction commits.
    ///
    /// # Errors
    ///
    /// [`Error::NotStored`]; [`Error::Conflict`] when waiting for who replaces it could be a deadlock; the region is full.
    pub fn replace(&self, tx: &mut Tx<'_>, value: T) -> Result<()> {
        let tx = tx.inner();
        self.hold(tx)?;
        self.put(tx, value)
    }

    /// Replaces the value, when the transaction commits, by one that is made of it.
    ///
    /// # Errors
    ///
    /// As [`replace`](Self::replace).
    pub fn update(&self, tx: &mut Tx<'_>, make: impl FnOnce(&T) -> T) -> Result<()> {
        let tx = tx.inner();
        self.hold(tx)?;
        // SAFETY: as in `get`; nothing is replaced while `make` runs: it has no `Tx` of this transaction but in an inner call, whose
        // versions are blocks of this transaction, freed after its end.
        let value = make(unsafe { &*self.latest(tx) });
        self.put(tx, value)
    }

    /// The value, when nobody else can reach it.
    pub fn get_mut(&mut self) -> &mut T {
        // SAFETY: ours alone: stored ones are not borrowed mutably.
        unsafe { &mut *self.block() }
    }

    /// Takes the word's lock for the transaction.
    fn hold(&self, tx: TxRef<'_>) -> Result<()> {
        if !tx.is_in_view(self.addr()) {
            return Err(Error::NotStored);
        }
        tx.hold_word(self.addr())
    }

    /// The version that the transaction has put there, or the one that is there.
    fn latest(&self, tx: TxRef<'_>) -> *const T {
        let word = tx.version(self.addr());
        let word = word.unwrap_or_else(|| self.word.load(Ordering::Acquire));
        ptr::with_exposed_provenance(word as usize)
    }

    /// Notes a new version. The word's lock is held.
    fn put(&self, tx: TxRef<'_>, value: T) -> Result<()> {
        let mut value = ManuallyDrop::new(value);
        // SAFETY: the value is owned and moved by its bytes, into a block of the transaction; the version before it, if that
        // is the transaction's own, was never seen by anybody else.
        unsafe {
            let block = tx.making(|| {
                tx.adopt::<T>(&raw mut *value)?;
                let len = size_of::<T>();
                if len == 0 {
                    return Ok(NonNull::dangling());
                }
                let block = tx.alloc(Layout::new::<T>())?;
                tx.wrote(block.as_ptr(), len);
                block
                    .cast::<T>()
                    .write(ManuallyDrop::into_inner(ptr::read(&value)));
                Ok(block.cast::<T>())
            })?;
            if let Some(own) = tx.version(self.addr()) {
                end::<T>(tx, ptr::with_exposed_provenance_mut(own as usize))?;
            }
            let to = block.as_ptr().expose_provenance() as u64;
            tx.step(self.addr(), Step::Version(to, end::<T>))
        }
    }

    fn at(block: NonNull<T>) -> Self {
        PRcu {
            word: AtomicU64::new(block.as_ptr().expose_provenance() as u64),
            owns: PhantomData,
        }
    }

    #[inline]
    fn addr(&self) -> usize {
        self.word.as_ptr().addr()
    }

    /// The block, where nobody replaces it.
    #[inline]
    fn block(&self) -> *mut T {
        ptr::with_exposed_provenance_mut(self.word.load(Ordering::Relaxed) as usize)
    }
}

/// Ends a version.
///
/// # Safety
///
/// `block` is a stored version that the transaction has replaced.
unsafe fn end<T: Persist>(tx: TxRef<'_>, block: *mut u8) -> Result<()> {
    // SAFETY: the caller's promise. It holds no locks.
    unsafe {
        tx.release(block.cast::<T>())?;
        if size_of::<T>() != 0 {
            tx.free(NonNull::new_unchecked(block));
        }
    }
    Ok(())
}

// SAFETY: the layout is that of `RawBox`; the block moves by the queues, which know its size. What moves or overwrites the
// word holds it before, as if it were a lock: then no version waits for it.
unsafe impl<T: Persist> Persist for PRcu<T> {
    const HAS_POINTERS: bool = true;
    const HAS_LOCKS: bool = true;

    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let elem = T::describe(b);
            Type::of::<Self>("PRcu", Kind::Rcu { elem })
        })
    }

    unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>) {
        // SAFETY: an owned one: an ordinary block with one value.
        unsafe {
            let stored = a.move_in((*this).block(), 1, 1);
            ptr::write(this, PRcu::at(stored));
        }
    }

    unsafe fn evict(this: *mut Self, e: &mut Evict<'_>) {
        // SAFETY: a copy of a stored one: a block of the region with one value.
        unsafe {
            let owned = e.move_out((*this).block(), 1, 1);
            ptr::write(this, PRcu::at(owned));
        }
    }

    unsafe fn release(this: *const Self, r: &mut Release<'_>) {
        // SAFETY: a stored one: a block of the region with one value.
        unsafe { r.block((*this).block(), 1, 1) };
    }

    unsafe fn for_each_lock(this: *const Self, f: &mut dyn FnMut(usize)) {
        f(this.addr());
    }

    unsafe fn zero_padding(_this: *mut Self) {}
}

// SAFETY: the one part is the value in the block. Nobody reads it: who could has borrowed what the `Mut` is of.
unsafe impl<T: Persist> Project for PRcu<T> {
    type Projection<'a> = Mut<'a, T>;

    /// The right to change the current version where it is.
    unsafe fn project_raw<'a>(ptr: NonNull<Self>, tx: TxRef<'a>) -> Mut<'a, T> {
        // As for a lock: nobody else can have it.
        if tx.hold(ptr.addr().get()).is_err() {
            unwind_conflict();
        }
        // SAFETY: the block is that of a value, and ours alone.
        unsafe { Mut::from_raw(NonNull::new_unchecked(ptr.as_ref().block()), tx) }
    }
}

impl<T: Persist> Drop for PRcu<T> {
    fn drop(&mut self) {
        // SAFETY: only owned ones are dropped (stored ones are released), see `into_inner`.
        unsafe { ending::end(self) }
    }
}

impl<T: Persist> Owner for PRcu<T> {
    const DEEP: bool = needs_drop::<T>();
    const PERSISTENT: bool = true;

    unsafe fn end(&mut self) {
        // SAFETY: an owned block, made by `Box`, or with the same allocator and layout.
        let block = unsafe { Box::from_raw(self.block()) };
        let (start, len) = (ptr::from_ref(&*block).cast(), size_of::<T>());
        ending::inside(start, len, || drop(block));
    }
}

impl<T: Persist + Default> Default for PRcu<T> {
    fn default() -> Self {
        PRcu::new(T::default())
    }
}

impl<T: Persist> From<T> for PRcu<T> {
    fn from(value: T) -> Self {
        PRcu::new(value)
    }
}

impl<T: Persist + Clone> Clone for PRcu<T> {
    /// An owned one, with a clone of the current version.
    fn clone(&self) -> Self {
        PRcu::new(self.read().clone())
    }
}

impl<T: Persist + fmt::Debug> fmt::Debug for PRcu<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_read() {
            Ok(value) => value.fmt(f),
            Err(_) => f.write_str("<not known to be the latest>"),
        }
    }
}

impl<T> Deref for RcuGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for RcuGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: fmt::Display> fmt::Display for RcuGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

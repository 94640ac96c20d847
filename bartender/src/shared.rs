//! [`PShared`]: one value with several owners.
//!
//! *Counted, not collected.* The block begins with the number of its owners. A collector would have to look at the whole heap to
//! free one value, and would free it at some time; a count costs a word of log for each owner that comes or goes, and the value
//! goes when its last owner does. What a count cannot do is free circles: see [`PShared`].
//!
//! *The count.* It is changed by steps that are taken when the transaction commits ([`crate::late`]), so transactions that share one
//! value do not wait for each other. It is 1 when the value is stored, and is never seen from outside otherwise than as an
//! estimate. Before the transaction that stored it has committed the word says whose it is instead: a scoped thread may have got a
//! reference to the value, and its transaction, which may commit first, is refused. An owned `PShared` is its value's one owner.
//!
//! *The end.* Who takes the count to 0 commits, and the value is ended by a transaction of its own after that: what it owns may be
//! shared in turn, and their locks could not be taken any more in order. Between the two the block is nobody's: after a crash it
//! is not reached, and is free.

use crate::ending::{self, Owner};
use crate::error::Result;
use crate::late::{CLAIMED, Step};
use crate::moved::Moved;
use crate::persist::{Adopt, Evict, Persist, Release};
use crate::transaction::Tx;
use crate::tx::TxRef;
use bartender_heap::types::{Field, Kind, SchemaBuilder, Type, TypeRef};
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, needs_drop, offset_of};
use std::num::NonZeroU64;
use std::ops::Deref;
use std::ptr::{self, NonNull};
// Not the one of `sync`: this word is in the region.
use std::sync::atomic::{AtomicU64, Ordering as Memory};

/// The block of a shared value.
#[repr(C)]
struct Counted<T> {
    owners: AtomicU64,
    value: T,
}

/// A value with several owners, like [`Arc`](std::sync::Arc): it is there as long as one of them is.
///
/// A `PShared` that the program owns is the only owner of its value. Once it is stored, [`share`](Self::share) makes another owner,
/// which is attached somewhere else in the same heap. The value can only be read; what is to change in it lies in a
/// [`PMutex`](crate::PMutex), a [`PRwLock`](crate::PRwLock), an atomic or a [`PRcu`](crate::PRcu).
///
/// Owners come and go when their transactions commit, and transactions that share one value do not wait for each other. When the
/// last owner has gone the value is freed, by a transaction of its own that comes behind.
///
/// Taking a stored `PShared` out ([`Mut::take`](crate::Mut::take), `remove`, …) gives a copy of the value, which has one owner,
/// since the stored value may have others; [`Error::SharedCells`](crate::Error::SharedCells) if it holds locks or other things that
/// change by themselves, of which there would be two then. `…_moved` methods move the owner itself.
///
/// Owners that lead to each other in a circle keep each other alive. Break the circle before you let go of it. What such a circle
/// holds is free again after the next crash, when the allocator's state is rebuilt from what the root reaches;
/// [`Heap::check`](crate::Heap::check) tells of it before.
///
/// ```
/// # use bartender::{Error, Heap, PMutex, PShared, PString, PVec};
/// # fn main() -> Result<(), Error> {
/// # let folder = tempfile::tempdir().expect("a folder");
/// # let path = folder.path().join("r");
/// let heap = Heap::<PMutex<PVec<PShared<PString>>>>::options().max_size(1 << 30).open(path)?;
/// heap.update(|mut list| list.push(PShared::new("a long text".into())))?;
/// heap.transaction(|tx| {
///     let mut list = tx.lock(heap.root())?;
///     let again = list[0].share(tx)?;
///     list.push_moved(again)
/// })?;
/// let list = heap.read();
/// assert!(PShared::ptr_eq(&list[0], &list[1]));
/// assert_eq!(list[1].as_str(), "a long text");
/// # Ok(())
/// # }
/// ```
#[repr(transparent)]
pub struct PShared<T: Persist> {
    /// Address of the block: ordinary memory while it is owned, the region while it is stored.
    raw: NonZeroU64,
    owns: PhantomData<T>,
}

impl<T: Persist> PShared<T> {
    /// A value in ordinary memory, with one owner.
    pub fn new(value: T) -> Self {
        let owners = AtomicU64::new(1);
        let block = Box::new(Counted { owners, value });
        Self::at(NonNull::from(Box::leak(block)))
    }

    /// The value of an owned one, which is its only owner.
    pub fn into_inner(this: Self) -> T {
        let this = ManuallyDrop::new(this);
        // SAFETY: who owns one owns an ordinary block, made by `Box` or by `Evict::move_out` with the same allocator and layout.
        let block = *unsafe { Box::from_raw(this.block()) };
        block.value
    }

    /// Another owner of this stored value, to be attached somewhere else in its heap: by [`Mut::set_moved`](crate::Mut::set_moved)
    /// or a `…_moved` method of a collection. If it is not attached it is gone when the transaction commits.
    ///
    /// Cost: a word of log, with the one that is attached.
    ///
    /// # Errors
    ///
    /// [`Error::NotStored`](crate::Error::NotStored); [`Error::Conflict`](crate::Error::Conflict) for a value that another
    /// transaction has stored and not committed.
    pub fn share(&self, tx: &Tx<'_>) -> Result<Moved<Self>> {
        let tx = tx.inner();
        // SAFETY: a stored block begins with its count, and keeps this owner until the transaction has ended: it is borrowed from
        // something that stays locked, or still, until then (rule 2), or is not committed, which `step_count` refuses. An ordinary
        // block is in no region.
        unsafe { tx.step_count(self.raw.get() as usize, Step::Add(1))? };
        // SAFETY: a copy of an owner that is counted for it.
        Ok(unsafe { Moved::keep(tx, self) })
    }

    /// Whether two are owners of one value.
    pub fn ptr_eq(one: &Self, other: &Self) -> bool {
        one.raw == other.raw
    }

    /// How many owners the value has, give or take those that come and go.
    pub fn owners(this: &Self) -> u64 {
        // SAFETY: the block is there while it has this owner; its first word is an atomic.
        let owners = unsafe { (*this.block()).owners.load(Memory::Relaxed) };
        if owners & CLAIMED == 0 { owners } else { 1 }
    }

    fn at(block: NonNull<Counted<T>>) -> Self {
        let addr = block.as_ptr().expose_provenance() as u64;
        PShared {
            raw: NonZeroU64::new(addr).expect("a block is not at address 0"),
            owns: PhantomData,
        }
    }

    #[inline]
    fn block(&self) -> *mut Counted<T> {
        ptr::with_exposed_provenance_mut(self.raw.get() as usize)
    }
}

/// Ends the value of a block that has no owner.
///
/// # Safety
///
/// `block` is a stored [`Counted<T>`] to which nothing refers any more.
unsafe fn end<T: Persist>(tx: TxRef<'_>, block: *mut u8) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        let block = block.cast::<Counted<T>>();
        tx.hold_locks(&raw const (*block).value)?;
        tx.release(&raw const (*block).value)?;
        tx.free(NonNull::new_unchecked(block.cast()));
    }
    Ok(())
}

// SAFETY: as it is described. The count is nobody's lock: it does not move, and is never taken out.
unsafe impl<T: Persist> Persist for Counted<T> {
    const HAS_POINTERS: bool = T::HAS_POINTERS;
    const HAS_LOCKS: bool = T::HAS_LOCKS;

    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let field = |name: &str, offset: usize, ty| Field {
                name: name.to_owned(),
                offset: offset as u64,
                ty,
            };
            let fields = vec![
                field("owners", offset_of!(Self, owners), u64::describe(b)),
                field("value", offset_of!(Self, value), T::describe(b)),
            ];
            let name = crate::__private::name_of::<Self>();
            Type::of::<Self>(name, Kind::Struct { fields })
        })
    }

    unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>) {
        // SAFETY: passed on.
        unsafe { T::adopt(&raw mut (*this).value, a) }
    }

    unsafe fn evict(this: *mut Self, e: &mut Evict<'_>) {
        // SAFETY: passed on; the copy has one owner.
        unsafe {
            (*this).owners = AtomicU64::new(1);
            T::evict(&raw mut (*this).value, e);
        }
    }

    unsafe fn release(this: *const Self, r: &mut Release<'_>) {
        // SAFETY: passed on.
        unsafe { T::release(&raw const (*this).value, r) }
    }

    unsafe fn for_each_lock(this: *const Self, f: &mut dyn FnMut(usize)) {
        // SAFETY: passed on.
        unsafe { T::for_each_lock(&raw const (*this).value, f) }
    }

    unsafe fn zero_padding(this: *mut Self) {
        let value = offset_of!(Self, value);
        // SAFETY: the bytes between and behind the fields; the value's own are passed on.
        unsafe {
            crate::__private::zero_gap(this, size_of::<AtomicU64>(), value);
            crate::__private::zero_gap(this, value + size_of::<T>(), size_of::<Self>());
            T::zero_padding(&raw mut (*this).value);
        }
    }
}

// SAFETY: the layout is that of `RawBox`; the block moves by the queues, which know its size.
unsafe impl<T: Persist> Persist for PShared<T> {
    const HAS_POINTERS: bool = true;
    const HAS_LOCKS: bool = false;

    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let elem = Counted::<T>::describe(b);
            let name = crate::__private::name_of::<Self>();
            Type::of::<Self>(name, Kind::Shared { elem })
        })
    }

    unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>) {
        // SAFETY: an owned one: an ordinary block with one value, whose count is 1.
        unsafe {
            let stored = a.move_in((*this).block(), 1, 1);
            // Else it has not moved.
            if a.tx().is_in_view(stored.addr().get()) {
                a.tx().claim_count(stored.addr().get());
            }
            ptr::write(this, PShared::at(stored));
        }
    }

    unsafe fn evict(this: *mut Self, e: &mut Evict<'_>) {
        // SAFETY: a stored one, whose block has this owner until the transaction has ended.
        unsafe {
            let stored = (*this).block();
            if !e.is_copying() {
                leave::<T>(e.tx(), stored);
            }
            let copy = e.copy_out(stored);
            ptr::write(this, PShared::at(copy));
        }
    }

    unsafe fn release(this: *const Self, r: &mut Release<'_>) {
        // SAFETY: a stored one, which ends with the transaction.
        unsafe { leave::<T>(r.tx(), (*this).block()) }
    }

    unsafe fn for_each_lock(_this: *const Self, _f: &mut dyn FnMut(usize)) {}

    unsafe fn zero_padding(_this: *mut Self) {}
}

/// One owner less, when the transaction commits.
///
/// # Safety
///
/// A stored block that has this owner until then.
unsafe fn leave<T: Persist>(tx: TxRef<'_>, block: *mut Counted<T>) {
    // SAFETY: a stored block begins with its count.
    let noted = unsafe { tx.step_count(block.addr(), Step::Leave(end::<T>)) };
    // It is in the region of the transaction, as its owner is.
    debug_assert!(noted.is_ok());
}

impl<T: Persist> Drop for PShared<T> {
    fn drop(&mut self) {
        // SAFETY: only owned ones are dropped (stored ones are released), see `into_inner`.
        unsafe { ending::end(self) }
    }
}

impl<T: Persist> Owner for PShared<T> {
    const DEEP: bool = needs_drop::<T>();
    const PERSISTENT: bool = true;

    unsafe fn end(&mut self) {
        let block: *mut Counted<T> = self.block();
        // SAFETY: an owned block, made by `Box`, or with the same allocator and layout.
        let block = unsafe { Box::from_raw(block) };
        let (start, len) = (ptr::from_ref(&*block).cast(), size_of::<Counted<T>>());
        ending::inside(start, len, || drop(block));
    }
}

impl<T: Persist> Deref for PShared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the block holds a value as long as it has this owner.
        unsafe { &(*self.block()).value }
    }
}

impl<T: Persist> AsRef<T> for PShared<T> {
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T: Persist> Borrow<T> for PShared<T> {
    fn borrow(&self) -> &T {
        self
    }
}

impl<T: Persist> From<T> for PShared<T> {
    fn from(value: T) -> Self {
        PShared::new(value)
    }
}

impl<T: Persist + Clone> Clone for PShared<T> {
    /// An owned one, with a clone of the value.
    fn clone(&self) -> Self {
        PShared::new((**self).clone())
    }
}

impl<T: Persist + Default> Default for PShared<T> {
    fn default() -> Self {
        PShared::new(T::default())
    }
}

impl<T: Persist + fmt::Debug> fmt::Debug for PShared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Persist + fmt::Display> fmt::Display for PShared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Persist + PartialEq> PartialEq for PShared<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Persist + Eq> Eq for PShared<T> {}

impl<T: Persist + PartialOrd> PartialOrd for PShared<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (**self).partial_cmp(&**other)
    }
}

impl<T: Persist + Ord> Ord for PShared<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl<T: Persist + Hash> Hash for PShared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

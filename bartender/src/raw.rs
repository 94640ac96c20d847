//! Raw storage under the collections: a growing array, a ring, a hash table and an ordered tree over the raw
//! layouts of the heap crate, in ordinary memory or in a region. Nearly all `unsafe`
//! of the collections is here.
//!
//! It promises that a value's bytes are the same in both places: what reads them (a
//! slice, a look-up) does not know and does not ask where they are. It does not adopt,
//! evict or drop elements: it moves bytes, and `vec` and `hash_map` see to the rest.
//!
//! Who changes says through a [`Store`] where memory comes from and who is told. An
//! owned value uses [`Ordinary`] (nobody is told); a stored one the transaction, which
//! keeps the old bytes for an abort and the range for the record.

pub(crate) mod array;
pub(crate) mod group;
pub(crate) mod ring;
pub(crate) mod table;
pub(crate) mod tree;

use crate::error::{Error, Result};
use crate::persist::{Persist, hold_all};
use crate::tx::TxRef;
use std::alloc::{Layout, handle_alloc_error};
use std::convert::Infallible;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::{self, NonNull};

/// Where blocks come from and who hears of changes.
pub(crate) trait Store: Copy {
    /// Why a block could not be had.
    type Error;

    /// A block of `layout`, whose size is not 0, with unspecified contents.
    fn alloc(self, layout: Layout) -> Result<NonNull<u8>, Self::Error>;

    /// Gives a block back.
    ///
    /// # Safety
    ///
    /// The block came from the same kind of store with this layout, and nobody uses it.
    unsafe fn free(self, block: NonNull<u8>, layout: Layout);

    /// Called before bytes are changed that somebody can see, or could after an abort.
    ///
    /// # Safety
    ///
    /// They lie in a collection that this store may change.
    unsafe fn change(self, at: *mut u8, len: usize);

    /// Called for bytes of a block that this store gave out just now.
    ///
    /// # Safety
    ///
    /// They do.
    unsafe fn wrote(self, at: *mut u8, len: usize);

    /// Called for a block that this store gave out just now, before anything is written to it: there is nothing to be told of
    /// it any more.
    ///
    /// # Safety
    ///
    /// It is such a block, of so many bytes.
    unsafe fn fresh(self, block: *mut u8, size: usize);

    /// Called before a block is changed, of a collection that this store may change: whether nobody needs to be
    /// told, since all of the block is known already.
    ///
    /// # Safety
    ///
    /// It is one, of so many bytes.
    unsafe fn covers(self, block: *mut u8, size: usize) -> bool;

    /// The error for a size beyond all address space.
    fn too_large(self) -> Self::Error;
}

/// Ordinary process memory: `std`'s allocator, with `std`'s answers to exhaustion.
#[derive(Clone, Copy)]
pub(crate) struct Ordinary;

impl Store for Ordinary {
    type Error = Infallible;

    #[inline]
    fn alloc(self, layout: Layout) -> Result<NonNull<u8>, Infallible> {
        debug_assert_ne!(layout.size(), 0);
        // SAFETY: the size is not 0, by the contract of `Store::alloc`.
        let block = unsafe { std::alloc::alloc(layout) };
        Ok(NonNull::new(block).unwrap_or_else(|| handle_alloc_error(layout)))
    }

    #[inline]
    unsafe fn free(self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller says that it came from `alloc` with this layout.
        unsafe { std::alloc::dealloc(block.as_ptr(), layout) }
    }

    #[inline]
    unsafe fn change(self, _at: *mut u8, _len: usize) {}

    #[inline]
    unsafe fn wrote(self, _at: *mut u8, _len: usize) {}

    #[inline]
    unsafe fn fresh(self, _block: *mut u8, _size: usize) {}

    #[inline]
    unsafe fn covers(self, _block: *mut u8, _size: usize) -> bool {
        true
    }

    fn too_large(self) -> Infallible {
        panic!("capacity overflow")
    }
}

impl Store for TxRef<'_> {
    type Error = Error;

    #[inline]
    fn alloc(self, layout: Layout) -> Result<NonNull<u8>> {
        TxRef::alloc(self, layout)
    }

    #[inline]
    unsafe fn free(self, block: NonNull<u8>, _layout: Layout) {
        // SAFETY: the caller says that nobody uses the block.
        unsafe { TxRef::free(self, block) }
    }

    #[inline]
    unsafe fn change(self, at: *mut u8, len: usize) {
        // SAFETY: the bytes are stored and this transaction may change them, by the caller's word.
        unsafe { TxRef::change(self, at, len) }
    }

    #[inline]
    unsafe fn wrote(self, at: *mut u8, len: usize) {
        // SAFETY: the block is this transaction's own, by the caller's word.
        unsafe { TxRef::wrote(self, at, len) }
    }

    #[inline]
    unsafe fn fresh(self, block: *mut u8, size: usize) {
        // SAFETY: the block is this transaction's own, by the caller's word. All of it is logged.
        unsafe {
            block.write_bytes(0, size);
            self.wrote_block(block, size);
        }
    }

    #[inline]
    unsafe fn covers(self, block: *mut u8, size: usize) -> bool {
        // SAFETY: the block is stored and this transaction may change it, by the caller's word.
        unsafe { self.change_block(block, size) }
    }

    fn too_large(self) -> Error {
        self.full(u64::MAX)
    }
}

/// The value of a result that cannot be an error.
#[inline]
pub(crate) fn sure<T>(result: Result<T, Infallible>) -> T {
    let Ok(value) = result;
    value
}

/// Adopts `value` and moves it to `slot`, where no value is. On an error it is lost and nothing
/// changed.
///
/// # Safety
///
/// The slot is stored and this transaction may change it.
#[inline]
pub(crate) unsafe fn put<T: Persist>(tx: TxRef<'_>, slot: *mut T, value: T) -> Result<()> {
    let mut value = ManuallyDrop::new(value);
    // SAFETY: the value is owned, and moved by its bytes (padding too) when it has been adopted.
    unsafe {
        tx.adopt::<T>(&raw mut *value)?;
        tx.change(slot.cast(), size_of::<T>());
        slot.copy_from_nonoverlapping(&raw const *value, 1);
        hold_all(tx, slot, 1)
    }
}

/// Takes the stored value at `slot` out into ordinary memory. The slot's bytes stay; nobody may
/// see a value there from now on.
///
/// # Safety
///
/// As [`put`], but there is a value, to which nothing refers once the caller is done.
#[inline]
pub(crate) unsafe fn take<T: Persist>(tx: TxRef<'_>, slot: *mut T) -> Result<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: a bitwise copy of a stored value becomes an owned one, or is forgotten with an error.
    unsafe {
        hold_all(tx, slot, 1)?;
        ptr::copy_nonoverlapping(slot, value.as_mut_ptr(), 1);
        tx.evict(value.as_mut_ptr())?;
        Ok(value.assume_init())
    }
}

/// Gives what `count` stored values own back with the transaction. Nobody may see them from now on.
///
/// # Safety
///
/// As [`take`].
pub(crate) unsafe fn release<T: Persist>(tx: TxRef<'_>, at: *mut T, count: usize) -> Result<()> {
    if !T::HAS_POINTERS && !T::HAS_LOCKS {
        return Ok(());
    }
    // SAFETY: the caller's word for each.
    unsafe {
        hold_all(tx, at, count)?;
        (0..count).try_for_each(|i| tx.release(at.add(i)))
    }
}

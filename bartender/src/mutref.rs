//! [`Mut`]: the right to change one stored value during a transaction.
//!
//! It borrow-checks like `&mut T` but never hands one out for a type that holds persistent pointers:
//! `mem::swap` would smuggle them out of the region. Every store goes through the transaction, which
//! keeps the old bytes. Methods that could shadow one of `T` are associated functions.

use crate::error::{Error, Result};
use crate::persist::{Persist, PlainData, Project};
use crate::tx::TxRef;
use std::fmt;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

/// A stored value that the transaction may change. Reading goes through `Deref`.
///
/// # When something does not fit
///
/// A method that stores something returns an error when the region, or the disk, is full. Nothing has changed then, but that
/// a collection may have more room than before; a value that was to be stored is lost, also if half of what it owns
/// had found a place: those blocks are given back at once. The transaction can go on, and commit what else it does. What
/// stores many values one after the other, such as `extend`, says so; those before the error stay.
///
/// What cannot be undone by itself dooms the transaction: it can only abort, whatever its closure returns. That is so where a
/// [`Moved`](crate::Moved) finds no place, or two trees are being joined or one is cut: their methods say so. And
/// it is always so after [`Error::Conflict`], for others wait, and after [`Error::SharedCells`].
pub struct Mut<'tx, T: ?Sized> {
    /// Lies in the region of `tx`; nobody else reads or writes the value while this lives.
    ptr: NonNull<T>,
    tx: TxRef<'tx>,
    life: PhantomData<&'tx mut T>,
}

impl<'tx, T: ?Sized> Mut<'tx, T> {
    /// The right to change the value at `ptr`.
    ///
    /// # Safety
    ///
    /// `ptr` is a valid value stored in the region of `tx`, and during `'tx` it is reached through this only.
    #[doc(hidden)]
    #[inline]
    pub unsafe fn from_raw(ptr: NonNull<T>, tx: TxRef<'tx>) -> Self {
        Mut {
            ptr,
            tx,
            life: PhantomData,
        }
    }

    /// Where the value lies. For the makers of persistent types: what is stored there must go through
    /// [`Mut::tx`].
    #[doc(hidden)]
    #[inline]
    pub fn as_ptr(this: &Self) -> *mut T {
        this.ptr.as_ptr()
    }

    /// The transaction.
    #[doc(hidden)]
    #[inline]
    pub fn tx(this: &Self) -> TxRef<'tx> {
        this.tx
    }

    /// A `Mut` for a shorter time, as `&mut *reference` makes one.
    #[inline]
    pub fn reborrow(this: &mut Self) -> Mut<'_, T> {
        // SAFETY: `this` is borrowed for as long.
        unsafe { Mut::from_raw(this.ptr, this.tx) }
    }

    /// A reference for the rest of the transaction, given up the right to change.
    #[inline]
    pub fn into_ref(this: Self) -> &'tx T {
        // SAFETY: valid, and this was the only way to the value.
        unsafe { this.ptr.as_ref() }
    }
}

impl<'tx, T: Persist> Mut<'tx, T> {
    /// Stores `value` here and gives back what the old one owned.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed, and `value` is lost. A lock inside cannot be held: the transaction can only abort
    /// then.
    #[inline]
    pub fn set(&mut self, value: T) -> Result<()> {
        let at = self.ptr.as_ptr();
        // SAFETY: the value is owned and moved in below; the old one is stored, ours alone, and
        // its bytes are kept before they are overwritten.
        unsafe {
            self.tx.hold_locks(at)?;
            let mut value = ManuallyDrop::new(value);
            self.tx.adopt::<T>(&mut *value)?;
            self.tx.release(at)?;
            self.tx.change(at.cast(), size_of::<T>());
            ptr::copy_nonoverlapping(&*value, at, 1);
            self.tx.hold_locks(at)
        }
    }

    /// Stores `value` here and takes the old one out into ordinary memory.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn replace(this: &mut Self, value: T) -> Result<T> {
        let at = this.ptr.as_ptr();
        let mut old = MaybeUninit::<T>::uninit();
        // SAFETY: as in `set`; the copy is made an owned value, or forgotten if that fails.
        unsafe {
            this.tx.hold_locks(at)?;
            let mut value = ManuallyDrop::new(value);
            this.tx.adopt::<T>(&mut *value)?;
            ptr::copy_nonoverlapping(at, old.as_mut_ptr(), 1);
            this.tx.evict(old.as_mut_ptr())?;
            this.tx.change(at.cast(), size_of::<T>());
            ptr::copy_nonoverlapping(&*value, at, 1);
            this.tx.hold_locks(at)?;
            Ok(old.assume_init())
        }
    }

    /// Takes the value out into ordinary memory and leaves the default.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn take(this: &mut Self) -> Result<T>
    where
        T: Default,
    {
        Mut::replace(this, T::default())
    }

    /// Exchanges two stored values, without touching what they own.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignValue`] if they are of different transactions.
    pub fn swap(this: &mut Self, other: &mut Mut<'_, T>) -> Result<()> {
        if this.tx != other.tx {
            return Err(Error::ForeignValue);
        }
        let (a, b) = (this.ptr.as_ptr(), other.ptr.as_ptr());
        // SAFETY: two `Mut`s never overlap; both are ours, and their bytes are kept.
        unsafe {
            this.tx.hold_locks(a)?;
            this.tx.hold_locks(b)?;
            this.tx.change(a.cast(), size_of::<T>());
            this.tx.change(b.cast(), size_of::<T>());
            ptr::swap_nonoverlapping(a, b, 1);
        }
        Ok(())
    }
}

impl<'tx, T: Project> Mut<'tx, T> {
    /// The parts of the value, each to be changed by itself.
    #[inline]
    pub fn project(&mut self) -> T::Projection<'_> {
        // SAFETY: `self` is borrowed for as long.
        unsafe { T::project_raw(self.ptr, self.tx) }
    }

    /// The parts of the value, for as long as this would have lived.
    #[inline]
    pub fn into_project(self) -> T::Projection<'tx> {
        // SAFETY: this was the only way to the value.
        unsafe { T::project_raw(self.ptr, self.tx) }
    }
}

impl<T: ?Sized> Deref for Mut<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: valid, and nobody writes it while `self` is borrowed.
        unsafe { self.ptr.as_ref() }
    }
}

impl<T: PlainData> DerefMut for Mut<'_, T> {
    /// Keeps the old bytes (once) and hands out the place.
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: ours alone while `self` is borrowed; any bytes written through the reference are a
        // valid value without padding or pointers.
        unsafe {
            self.tx.change(self.ptr.as_ptr().cast(), size_of::<T>());
            self.ptr.as_mut()
        }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for Mut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

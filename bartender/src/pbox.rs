//! [`PBox`]: one value, a slice or a text in a block of its own.
//!
//! Owned, it is std's `Box`. Stored, its block lies in the region. The pointer is an integer: what the
//! log restores has lost its provenance, so it is exposed on the way in and taken up on the way out.
//! What such a box holds besides the pointer, and how its contents move, says the sealed trait [`Boxed`]: `value` is the
//! one of sized types, `slice` those of slices and texts.

mod slice;
mod value;

use crate::ending::{self, Owner};
use crate::error::Result;
use crate::persist::{Adopt, Evict, Import, Match, Persist, Release};
use bartender_heap::types::{SchemaBuilder, Type, TypeRef};
use std::borrow::{Borrow, BorrowMut};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// A box that can be stored. `Option<PBox<T>>` takes 8 bytes; one of a slice, `Option<PBox<[T]>>`, or of a text,
/// `Option<PBox<str>>`, 16.
///
/// A list or a tree of owned boxes of any depth is dropped in constant stack, with collections between them, too. Deriving `Clone`, `PartialEq` or `Debug` for its
/// nodes gives code that recurses, as with std's boxes.
///
/// ```
/// use bartender::PBox;
///
/// let answer = PBox::new(42);
/// assert_eq!(*answer, 42);
/// let primes: PBox<[u32]> = [2, 3, 5].into_iter().collect();
/// assert_eq!(primes.len(), 3);
/// let name: PBox<str> = "Ada".into();
/// assert_eq!(&*name, "Ada");
/// ```
#[repr(transparent)]
pub struct PBox<T: ?Sized + Boxed> {
    /// Where the contents are: ordinary memory while the box is owned, the region while it is stored.
    raw: T::Raw,
    owns: PhantomData<T>,
}

mod sealed {
    use crate::persist::Persist;

    pub trait Sealed {}
    impl<T: Persist> Sealed for T {}
    impl<T: Persist> Sealed for [T] {}
    impl Sealed for str {}
}

/// What a [`PBox`] can hold: a type that can be stored, a slice of one, or `str`. It cannot be implemented for others.
///
/// # Safety
///
/// `Raw` is the layout that `describe_box` tells; each method does for the contents what the one of [`Persist`] promises.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored in a region",
    label = "not a persistent type",
    note = "derive `Persist` for your own types; use the persistent twins of std's types: `PString` for `String`, `PVec` for `Vec`"
)]
pub unsafe trait Boxed: Send + Sync + 'static + sealed::Sealed {
    /// The bytes of the box.
    #[doc(hidden)]
    type Raw: Copy + Send + Sync + 'static;

    /// Where the contents are.
    #[doc(hidden)]
    fn place(raw: Self::Raw) -> *mut Self;

    /// Describes the box.
    #[doc(hidden)]
    fn describe_box(b: &mut SchemaBuilder) -> Type;

    /// Moves an owned block into the region.
    ///
    /// # Safety
    ///
    /// As [`Persist::adopt`].
    #[doc(hidden)]
    unsafe fn adopt_box(raw: *mut Self::Raw, a: &mut Adopt<'_>);

    /// Moves a stored block out of the region.
    ///
    /// # Safety
    ///
    /// As [`Persist::evict`].
    #[doc(hidden)]
    unsafe fn evict_box(raw: *mut Self::Raw, e: &mut Evict<'_>);

    /// Gives a stored block back.
    ///
    /// # Safety
    ///
    /// As [`Persist::release`].
    #[doc(hidden)]
    unsafe fn release_box(raw: Self::Raw, r: &mut Release<'_>);

    /// Whether the contents have anything to be dropped.
    #[doc(hidden)]
    const DEEP: bool;

    /// Drops the contents of an owned block, and gives it back.
    ///
    /// # Safety
    ///
    /// It is owned, and not used after.
    #[doc(hidden)]
    unsafe fn end(raw: Self::Raw);

    /// As [`Persist::parts_match`].
    #[doc(hidden)]
    fn box_matches(m: &mut Match<'_>, ty: TypeRef) -> bool;

    /// As [`Persist::import_parts`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Safety
    ///
    /// As there.
    #[doc(hidden)]
    unsafe fn import_box(i: &mut Import<'_>, ty: TypeRef, at: *const u8) -> Result<PBox<Self>>;
}

impl<T: ?Sized + Boxed> PBox<T> {
    /// A box of what `raw` says.
    ///
    /// # Safety
    ///
    /// An owned block, which is the box's from now on.
    #[inline]
    unsafe fn of(raw: T::Raw) -> Self {
        PBox {
            raw,
            owns: PhantomData,
        }
    }

    #[inline]
    fn ptr(&self) -> *mut T {
        T::place(self.raw)
    }

    /// Gives the block up.
    #[inline]
    fn into_raw(this: Self) -> T::Raw {
        let raw = this.raw;
        std::mem::forget(this);
        raw
    }
}

// SAFETY: the layout is that of the raw form; the block moves by the queues, which know its size.
unsafe impl<T: ?Sized + Boxed> Persist for PBox<T> {
    const HAS_POINTERS: bool = true;
    const HAS_LOCKS: bool = false;

    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(T::describe_box)
    }

    #[inline]
    unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>) {
        // SAFETY: passed on.
        unsafe { T::adopt_box(&raw mut (*this).raw, a) }
    }

    #[inline]
    unsafe fn evict(this: *mut Self, e: &mut Evict<'_>) {
        // SAFETY: passed on.
        unsafe { T::evict_box(&raw mut (*this).raw, e) }
    }

    #[inline]
    unsafe fn release(this: *const Self, r: &mut Release<'_>) {
        // SAFETY: passed on.
        unsafe { T::release_box((*this).raw, r) }
    }

    #[inline]
    unsafe fn for_each_lock(_this: *const Self, _f: &mut dyn FnMut(usize)) {}

    #[inline]
    unsafe fn zero_padding(_this: *mut Self) {}

    fn parts_match(m: &mut Match<'_>, ty: TypeRef) -> bool {
        T::box_matches(m, ty)
    }

    unsafe fn import_parts(i: &mut Import<'_>, ty: TypeRef, at: *const u8) -> Result<Self> {
        // SAFETY: passed on.
        unsafe { T::import_box(i, ty, at) }
    }
}

impl<T: ?Sized + Boxed> Drop for PBox<T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: only owned boxes are dropped (stored ones are released), see `into_raw`.
        unsafe { ending::end(self) }
    }
}

impl<T: ?Sized + Boxed> Owner for PBox<T> {
    const DEEP: bool = T::DEEP;
    const PERSISTENT: bool = true;

    unsafe fn end(&mut self) {
        let this: *mut T = self.ptr();
        // SAFETY: the block holds a value.
        let len = unsafe { size_of_val(&*this) };
        // SAFETY: the caller's promise.
        let end = || unsafe { T::end(self.raw) };
        match T::DEEP {
            true => ending::inside(this.cast(), len, end),
            false => end(),
        }
    }
}

impl<T: ?Sized + Boxed> Deref for PBox<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the block holds a value, and is borrowed with the box.
        unsafe { &*self.ptr() }
    }
}

impl<T: ?Sized + Boxed> DerefMut for PBox<T> {
    /// Only owned boxes can be borrowed mutably; stored ones are changed through [`Mut`](crate::Mut).
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, exclusively.
        unsafe { &mut *self.ptr() }
    }
}

impl<T: ?Sized + Boxed> AsRef<T> for PBox<T> {
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T: ?Sized + Boxed> AsMut<T> for PBox<T> {
    fn as_mut(&mut self) -> &mut T {
        self
    }
}

impl<T: ?Sized + Boxed> Borrow<T> for PBox<T> {
    fn borrow(&self) -> &T {
        self
    }
}

impl<T: ?Sized + Boxed> BorrowMut<T> for PBox<T> {
    fn borrow_mut(&mut self) -> &mut T {
        self
    }
}

impl<T: ?Sized + Boxed + fmt::Debug> fmt::Debug for PBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + Boxed + fmt::Display> fmt::Display for PBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + Boxed + PartialEq> PartialEq for PBox<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: ?Sized + Boxed + Eq> Eq for PBox<T> {}

impl<T: ?Sized + Boxed + PartialOrd> PartialOrd for PBox<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        (**self).partial_cmp(&**other)
    }
}

impl<T: ?Sized + Boxed + Ord> Ord for PBox<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (**self).cmp(&**other)
    }
}

impl<T: ?Sized + Boxed + std::hash::Hash> std::hash::Hash for PBox<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

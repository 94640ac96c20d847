//! [`PBox`]: one value in a block of its own.
//!
//! Owned, it is std's `Box`. Stored, its block lies in the region. The pointer is an integer: what the
//! log restores has lost its provenance, so it is exposed on the way in and taken up on the way out.

use crate::error::Result;
use crate::mutref::Mut;
use crate::persist::{Adopt, Evict, Import, Match, Persist, Project, Release, matches};
use crate::tx::TxRef;
use bartender_heap::types::{Kind, SchemaBuilder, Type, TypeRef};
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU64;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

/// A box that can be stored. `Option<PBox<T>>` takes 8 bytes.
#[repr(transparent)]
pub struct PBox<T: Persist> {
    /// Address of the block: ordinary memory while the box is owned, the region while it is stored.
    raw: NonZeroU64,
    owns: PhantomData<T>,
}

impl<T: Persist> PBox<T> {
    /// A box in ordinary memory.
    pub fn new(value: T) -> Self {
        PBox::at(NonNull::from(Box::leak(Box::new(value))))
    }

    /// The value, its block given back.
    pub fn into_inner(this: Self) -> T {
        let block = this.ptr();
        std::mem::forget(this);
        // SAFETY: who owns a box owns an ordinary block, made by `Box` or by `Evict::move_out` with
        // the same allocator and layout.
        *unsafe { Box::from_raw(block) }
    }

    #[inline]
    fn at(block: NonNull<T>) -> Self {
        let addr = block.as_ptr().expose_provenance() as u64;
        PBox {
            raw: NonZeroU64::new(addr).expect("a block is not at address 0"),
            owns: PhantomData,
        }
    }

    #[inline]
    fn ptr(&self) -> *mut T {
        ptr::with_exposed_provenance_mut(self.raw.get() as usize)
    }
}

// SAFETY: the layout is that of `RawBox`; the block moves by the queues, which know its size.
unsafe impl<T: Persist> Persist for PBox<T> {
    const HAS_POINTERS: bool = true;
    const HAS_LOCKS: bool = false;

    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let elem = T::describe(b);
            Type::of::<Self>("PBox", Kind::Box { elem })
        })
    }

    #[inline]
    unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>) {
        // SAFETY: an owned box: an ordinary block with one value.
        unsafe {
            let stored = a.move_in((*this).ptr(), 1, 1);
            ptr::write(this, PBox::at(stored));
        }
    }

    #[inline]
    unsafe fn evict(this: *mut Self, e: &mut Evict<'_>) {
        // SAFETY: a stored box: a block of the region with one value.
        unsafe {
            let owned = e.move_out((*this).ptr(), 1, 1);
            ptr::write(this, PBox::at(owned));
        }
    }

    #[inline]
    unsafe fn release(this: *const Self, r: &mut Release<'_>) {
        // SAFETY: a stored box: a block of the region with one value.
        unsafe { r.block((*this).ptr(), 1, 1) };
    }

    #[inline]
    unsafe fn for_each_lock(_this: *const Self, _f: &mut dyn FnMut(usize)) {}

    #[inline]
    unsafe fn zero_padding(_this: *mut Self) {}

    fn parts_match(m: &mut Match<'_>, ty: TypeRef) -> bool {
        match m.kind(ty) {
            Kind::Box { elem } => matches::<T>(m, *elem),
            _ => false,
        }
    }

    unsafe fn import_parts(i: &mut Import<'_>, ty: TypeRef, at: *const u8) -> Result<Self> {
        let Kind::Box { elem } = i.kind(ty) else {
            return Err(i.refused::<Self>(ty));
        };
        // SAFETY: a stored box: a block of the region with one value, or, without bytes, none.
        unsafe {
            let addr = at.cast::<NonZeroU64>().read();
            let block: *mut u8 = ptr::with_exposed_provenance_mut(addr.get() as usize);
            let value = i.inside(|i| i.value(*elem, block))?;
            if i.size(*elem) != 0 {
                i.tx().free(NonNull::new_unchecked(block));
            }
            Ok(PBox::new(value))
        }
    }
}

// SAFETY: the one part is the value in the block, which the box owns.
unsafe impl<T: Persist> Project for PBox<T> {
    type Projection<'a> = Mut<'a, T>;

    #[inline]
    unsafe fn project_raw<'a>(ptr: NonNull<Self>, tx: TxRef<'a>) -> Mut<'a, T> {
        // SAFETY: a stored box is never null, and its block belongs to who has the box.
        unsafe { Mut::from_raw(NonNull::new_unchecked(ptr.as_ref().ptr()), tx) }
    }
}

impl<T: Persist> Drop for PBox<T> {
    fn drop(&mut self) {
        // SAFETY: only owned boxes are dropped (stored ones are released), see `into_inner`.
        drop(unsafe { Box::from_raw(self.ptr()) });
    }
}

impl<T: Persist> Deref for PBox<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the block holds a value, and is borrowed with the box.
        unsafe { &*self.ptr() }
    }
}

impl<T: Persist> DerefMut for PBox<T> {
    /// Only owned boxes can be borrowed mutably; stored ones are changed through [`Mut`].
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, exclusively.
        unsafe { &mut *self.ptr() }
    }
}

impl<T: Persist> From<T> for PBox<T> {
    fn from(value: T) -> Self {
        PBox::new(value)
    }
}

impl<T: Persist> From<Box<T>> for PBox<T> {
    fn from(value: Box<T>) -> Self {
        PBox::at(NonNull::from(Box::leak(value)))
    }
}

impl<T: Persist + Clone> Clone for PBox<T> {
    /// An owned box with a clone of the value.
    fn clone(&self) -> Self {
        PBox::new((**self).clone())
    }
}

impl<T: Persist + Default> Default for PBox<T> {
    fn default() -> Self {
        PBox::new(T::default())
    }
}

impl<T: Persist + fmt::Debug> fmt::Debug for PBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Persist + fmt::Display> fmt::Display for PBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Persist + PartialEq> PartialEq for PBox<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Persist + Eq> Eq for PBox<T> {}

impl<T: Persist + PartialOrd> PartialOrd for PBox<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        (**self).partial_cmp(&**other)
    }
}

impl<T: Persist + Ord> Ord for PBox<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (**self).cmp(&**other)
    }
}

impl<T: Persist + std::hash::Hash> std::hash::Hash for PBox<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

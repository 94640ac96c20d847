//! Boxes of one value.

use super::{Boxed, PBox};
use crate::error::Result;
use crate::mutref::Mut;
use crate::persist::{Adopt, Evict, Import, Match, Persist, Project, Release, matches};
use crate::tx::TxRef;
use bartender_heap::types::{Kind, SchemaBuilder, Type, TypeRef};
use std::mem;
use std::num::NonZeroU64;
use std::ptr::{self, NonNull};

fn raw<T>(block: NonNull<T>) -> NonZeroU64 {
    let addr = block.as_ptr().expose_provenance() as u64;
    NonZeroU64::new(addr).expect("a block is not at address 0")
}

// SAFETY: the layout is that of `RawBox`; a block of one value.
unsafe impl<T: Persist> Boxed for T {
    type Raw = NonZeroU64;

    #[inline]
    fn place(raw: NonZeroU64) -> *mut T {
        ptr::with_exposed_provenance_mut(raw.get() as usize)
    }

    fn describe_box(b: &mut SchemaBuilder) -> Type {
        let elem = T::describe(b);
        Type::of::<PBox<T>>("PBox", Kind::Box { elem })
    }

    #[inline]
    unsafe fn adopt_box(this: *mut NonZeroU64, a: &mut Adopt<'_>) {
        // SAFETY: an owned box: an ordinary block with one value.
        unsafe { *this = raw(a.move_in(T::place(*this), 1, 1)) }
    }

    #[inline]
    unsafe fn evict_box(this: *mut NonZeroU64, e: &mut Evict<'_>) {
        // SAFETY: a stored box: a block of the region with one value.
        unsafe { *this = raw(e.move_out(T::place(*this), 1, 1)) }
    }

    #[inline]
    unsafe fn release_box(this: NonZeroU64, r: &mut Release<'_>) {
        // SAFETY: a stored box: a block of the region with one value.
        unsafe { r.block(T::place(this), 1, 1) };
    }

    const DEEP: bool = mem::needs_drop::<T>();

    #[inline]
    unsafe fn end(this: NonZeroU64) {
        // SAFETY: who owns a box owns an ordinary block, made by `Box` or by `Evict::move_out` with the same allocator
        // and layout.
        drop(unsafe { Box::from_raw(T::place(this)) });
    }

    fn box_matches(m: &mut Match<'_>, ty: TypeRef) -> bool {
        match m.kind(ty) {
            Kind::Box { elem } => matches::<T>(m, *elem),
            _ => false,
        }
    }

    unsafe fn import_box(i: &mut Import<'_>, ty: TypeRef, at: *const u8) -> Result<PBox<T>> {
        let Kind::Box { elem } = i.kind(ty) else {
            return Err(i.refused::<PBox<T>>(ty));
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

impl<T: Persist> PBox<T> {
    /// A box in ordinary memory.
    pub fn new(value: T) -> Self {
        Box::new(value).into()
    }

    /// The value, its block given back.
    pub fn into_inner(this: Self) -> T {
        *PBox::into_box(this)
    }

    /// The same as a box of std's; nothing is copied. (`From` for `Box<T>` cannot be implemented outside of std.)
    pub fn into_box(this: Self) -> Box<T> {
        // SAFETY: who owns a box owns an ordinary block, as in `end`; it is given up.
        unsafe { Box::from_raw(T::place(PBox::into_raw(this))) }
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

impl<T: Persist> From<T> for PBox<T> {
    fn from(value: T) -> Self {
        PBox::new(value)
    }
}

impl<T: Persist> From<Box<T>> for PBox<T> {
    /// Copies nothing.
    fn from(value: Box<T>) -> Self {
        // SAFETY: the block is given up.
        unsafe { PBox::of(raw(NonNull::from(Box::leak(value)))) }
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

//! Boxes of slices and of texts: a block that the elements fill, without room for more.

use super::{Boxed, PBox};
use crate::error::Result;
use crate::mutref::Mut;
use crate::persist::{Adopt, Evict, Import, Match, Persist, Project, Release, matches};
use crate::string::PString;
use crate::tx::TxRef;
use crate::vec::PVec;
use bartender_heap::layout::RawSlice;
use bartender_heap::types::{Kind, SchemaBuilder, Type, TypeRef};
use std::borrow::Cow;
use std::mem;
use std::num::NonZeroU64;
use std::ptr::{self, NonNull};

fn raw<T>(block: NonNull<T>, len: usize) -> RawSlice {
    const {
        assert!(
            size_of::<T>() != 0,
            "a persistent slice's elements need a size"
        )
    };
    let addr = block.as_ptr().expose_provenance() as u64;
    RawSlice {
        ptr: NonZeroU64::new(addr).expect("a block is not at address 0"),
        len: len as u64,
    }
}

fn start<T>(raw: RawSlice) -> *mut T {
    ptr::with_exposed_provenance_mut(raw.ptr.get() as usize)
}

// SAFETY: the layout is that of `RawSlice`; a block of `len` values, or none.
unsafe impl<T: Persist> Boxed for [T] {
    type Raw = RawSlice;

    #[inline]
    fn place(raw: RawSlice) -> *mut [T] {
        ptr::slice_from_raw_parts_mut(start(raw), raw.len as usize)
    }

    fn describe_box(b: &mut SchemaBuilder) -> Type {
        let elem = T::describe(b);
        Type::of::<PBox<[T]>>("PBox", Kind::Slice { elem })
    }

    unsafe fn adopt_box(this: *mut RawSlice, a: &mut Adopt<'_>) {
        // SAFETY: an owned box: an ordinary block with `len` values, or none.
        unsafe {
            let len = (*this).len as usize;
            *this = raw(a.move_in(start::<T>(*this), len, len), len);
        }
    }

    unsafe fn evict_box(this: *mut RawSlice, e: &mut Evict<'_>) {
        // SAFETY: a stored box: a block of the region with `len` values, or none.
        unsafe {
            let len = (*this).len as usize;
            *this = raw(e.move_out(start::<T>(*this), len, len), len);
        }
    }

    unsafe fn release_box(this: RawSlice, r: &mut Release<'_>) {
        let len = this.len as usize;
        // SAFETY: a stored box: a block of the region with `len` values, or none.
        unsafe { r.block(start::<T>(this), len, len) };
    }

    const DEEP: bool = mem::needs_drop::<T>();

    unsafe fn end(this: RawSlice) {
        // SAFETY: who owns a box owns an ordinary block, made by `Box` or by `Evict::move_out` with the same allocator
        // and layout; or there is none, and the pointer dangles.
        drop(unsafe { Box::from_raw(<[T]>::place(this)) });
    }

    fn box_matches(m: &mut Match<'_>, ty: TypeRef) -> bool {
        match m.kind(ty) {
            Kind::Slice { elem } => matches::<T>(m, *elem),
            _ => false,
        }
    }

    unsafe fn import_box(i: &mut Import<'_>, ty: TypeRef, at: *const u8) -> Result<PBox<[T]>> {
        let Kind::Slice { elem } = i.kind(ty) else {
            return Err(i.refused::<PBox<[T]>>(ty));
        };
        let stride = i.size(*elem);
        // SAFETY: a stored box, whose block is as long as it says.
        unsafe {
            let raw = at.cast::<RawSlice>().read();
            let block: *mut u8 = start(raw);
            let values = (0..raw.len as usize)
                .map(|n| i.inside(|i| i.value(*elem, block.add(n * stride))))
                .collect::<Result<PBox<[T]>>>()?;
            if raw.len != 0 && stride != 0 {
                i.tx().free(NonNull::new_unchecked(block));
            }
            Ok(values)
        }
    }
}

// SAFETY: a box of bytes, which are UTF-8.
unsafe impl Boxed for str {
    type Raw = RawSlice;

    #[inline]
    fn place(raw: RawSlice) -> *mut str {
        <[u8]>::place(raw) as *mut str
    }

    fn describe_box(_b: &mut SchemaBuilder) -> Type {
        Type::of::<PBox<str>>("PBox<str>", Kind::StrSlice)
    }

    unsafe fn adopt_box(this: *mut RawSlice, a: &mut Adopt<'_>) {
        // SAFETY: passed on.
        unsafe { <[u8]>::adopt_box(this, a) }
    }

    unsafe fn evict_box(this: *mut RawSlice, e: &mut Evict<'_>) {
        // SAFETY: passed on.
        unsafe { <[u8]>::evict_box(this, e) }
    }

    unsafe fn release_box(this: RawSlice, r: &mut Release<'_>) {
        // SAFETY: passed on.
        unsafe { <[u8]>::release_box(this, r) }
    }

    const DEEP: bool = false;

    unsafe fn end(this: RawSlice) {
        // SAFETY: passed on.
        unsafe { <[u8]>::end(this) }
    }

    fn box_matches(_m: &mut Match<'_>, _ty: TypeRef) -> bool {
        false
    }

    unsafe fn import_box(i: &mut Import<'_>, ty: TypeRef, _at: *const u8) -> Result<PBox<str>> {
        Err(i.refused::<PBox<str>>(ty))
    }
}

impl<T: Persist> PBox<[T]> {
    /// The same elements as a `Vec`; none is copied.
    pub fn into_vec(self) -> Vec<T> {
        Box::<[T]>::from(self).into_vec()
    }
}

impl PBox<str> {
    /// The same text as a `String`; nothing is copied.
    pub fn into_string(self) -> String {
        Box::<str>::from(self).into_string()
    }
}

// SAFETY: the one part is the slice in the block, which the box owns.
unsafe impl<T: Persist> Project for PBox<[T]> {
    type Projection<'a> = Mut<'a, [T]>;

    #[inline]
    unsafe fn project_raw<'a>(ptr: NonNull<Self>, tx: TxRef<'a>) -> Mut<'a, [T]> {
        // SAFETY: a stored box is never null, and its block belongs to who has the box.
        unsafe { Mut::from_raw(NonNull::new_unchecked(ptr.as_ref().ptr()), tx) }
    }
}

impl<T: Persist> From<Box<[T]>> for PBox<[T]> {
    /// Copies nothing.
    fn from(values: Box<[T]>) -> Self {
        let values = Box::leak(values);
        // SAFETY: the block is given up.
        unsafe { PBox::of(raw(NonNull::from(&mut *values).cast::<T>(), values.len())) }
    }
}

impl<T: Persist> From<PBox<[T]>> for Box<[T]> {
    /// Copies nothing.
    fn from(this: PBox<[T]>) -> Self {
        // SAFETY: who owns a box owns an ordinary block, as in `end`; it is given up.
        unsafe { Box::from_raw(<[T]>::place(PBox::into_raw(this))) }
    }
}

impl From<Box<str>> for PBox<str> {
    /// Copies nothing.
    fn from(text: Box<str>) -> Self {
        let raw = PBox::into_raw(PBox::<[u8]>::from(text.into_boxed_bytes()));
        // SAFETY: the bytes are UTF-8.
        unsafe { PBox::of(raw) }
    }
}

impl From<PBox<str>> for Box<str> {
    /// Copies nothing.
    fn from(this: PBox<str>) -> Self {
        // SAFETY: as for slices.
        unsafe { Box::from_raw(str::place(PBox::into_raw(this))) }
    }
}

/// By way of a box of std's, without a copy where that has none.
macro_rules! from {
    ($([$($generics:tt)*] $from:ty => $to:ty;)*) => {$(
        impl<$($generics)*> From<$from> for PBox<$to> {
            fn from(other: $from) -> Self {
                Box::<$to>::from(other).into()
            }
        }
    )*};
}

from! {
    [T: Persist] Vec<T> => [T];
    [T: Persist, const N: usize] [T; N] => [T];
    [T: Persist + Clone] &[T] => [T];
    [] String => str;
    [] &str => str;
    [] Cow<'_, str> => str;
}

impl<T: Persist> From<PVec<T>> for PBox<[T]> {
    /// Copies nothing if there is no room for more elements.
    fn from(values: PVec<T>) -> Self {
        values.into_vec().into()
    }
}

impl<T: Persist> From<PBox<[T]>> for PVec<T> {
    /// Copies nothing.
    fn from(values: PBox<[T]>) -> Self {
        values.into_vec().into()
    }
}

impl From<PString> for PBox<str> {
    /// Copies nothing if there is no room for more text.
    fn from(text: PString) -> Self {
        text.into_string().into()
    }
}

impl From<PBox<str>> for PString {
    /// Copies nothing.
    fn from(text: PBox<str>) -> Self {
        text.into_string().into()
    }
}

impl<T: Persist> FromIterator<T> for PBox<[T]> {
    fn from_iter<I: IntoIterator<Item = T>>(iter: I) -> Self {
        Vec::from_iter(iter).into()
    }
}

impl<T: Persist> IntoIterator for PBox<[T]> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.into_vec().into_iter()
    }
}

impl<'a, T: Persist> IntoIterator for &'a PBox<[T]> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, T: Persist> IntoIterator for &'a mut PBox<[T]> {
    type Item = &'a mut T;
    type IntoIter = std::slice::IterMut<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl<T: Persist + Clone> Clone for PBox<[T]> {
    /// An owned box with clones of the elements.
    fn clone(&self) -> Self {
        (**self).into()
    }
}

impl Clone for PBox<str> {
    /// An owned box with the same text.
    fn clone(&self) -> Self {
        (**self).into()
    }
}

impl<T: Persist> Default for PBox<[T]> {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl Default for PBox<str> {
    fn default() -> Self {
        "".into()
    }
}

//! `Persist` for std's structs of one public field: `Wrapping`, `Saturating`, `Reverse`.
//!
//! That the field is all there is, is looked at when it is compiled.

use crate::mutref::Mut;
use crate::persist::{Adopt, Evict, Persist, PlainData, Project, Release};
use crate::tx::TxRef;
use bartender_heap::types::{Field, Kind, SchemaBuilder, Type, TypeRef};
use std::cmp::Reverse;
use std::mem::offset_of;
use std::num::{Saturating, Wrapping};
use std::ptr::NonNull;

macro_rules! wrapper {
    ($($name:ident)*) => {$(
        // SAFETY: it is its one field, which is treated as it wants.
        unsafe impl<T: Persist> Persist for $name<T> {
            const HAS_POINTERS: bool = T::HAS_POINTERS;
            const HAS_LOCKS: bool = T::HAS_LOCKS;

            fn describe(b: &mut SchemaBuilder) -> TypeRef {
                const {
                    assert!(size_of::<Self>() == size_of::<T>() && offset_of!(Self, 0) == 0);
                    assert!(align_of::<Self>() == align_of::<T>());
                }
                b.define::<Self>(|b| {
                    let fields = vec![Field {
                        name: "0".to_owned(),
                        offset: 0,
                        ty: T::describe(b),
                    }];
                    Type::of::<Self>(crate::__private::name_of::<Self>(), Kind::Struct { fields })
                })
            }

            #[inline]
            unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>) {
                // SAFETY: passed on.
                unsafe { T::adopt(&raw mut (*this).0, a) }
            }

            #[inline]
            unsafe fn evict(this: *mut Self, e: &mut Evict<'_>) {
                // SAFETY: passed on.
                unsafe { T::evict(&raw mut (*this).0, e) }
            }

            #[inline]
            unsafe fn release(this: *const Self, r: &mut Release<'_>) {
                // SAFETY: passed on.
                unsafe { T::release(&raw const (*this).0, r) }
            }

            #[inline]
            unsafe fn for_each_lock(this: *const Self, f: &mut dyn FnMut(usize)) {
                // SAFETY: passed on.
                unsafe { T::for_each_lock(&raw const (*this).0, f) }
            }

            #[inline]
            unsafe fn zero_padding(this: *mut Self) {
                // SAFETY: passed on.
                unsafe { T::zero_padding(&raw mut (*this).0) }
            }
        }

        // SAFETY: nothing but the field.
        unsafe impl<T: PlainData> PlainData for $name<T> {}

        // SAFETY: the one part is the field.
        unsafe impl<T: Persist> Project for $name<T> {
            type Projection<'a> = Mut<'a, T>;

            #[inline]
            unsafe fn project_raw<'a>(ptr: NonNull<Self>, tx: TxRef<'a>) -> Mut<'a, T> {
                // SAFETY: the field is the caller's, like the whole.
                unsafe { Mut::from_raw(NonNull::new_unchecked(&raw mut (*ptr.as_ptr()).0), tx) }
            }
        }
    )*};
}

wrapper!(Wrapping Saturating Reverse);

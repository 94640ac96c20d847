//! `Persist` and `Project` for the compound types of the language: arrays, tuples and (in `option`) `Option`, and (in
//! `wrapper`, `duration`) small structs of std.
//!
//! The compiler lays out tuples and options as it likes; what it did is measured and described to the
//! region, so a program built by another compiler that does it differently is told apart by its schema.

mod duration;
mod option;
mod wrapper;

use crate::__private::zero_gap;
use crate::error::Result;
use crate::mutref::Mut;
use crate::persist::{Adopt, Evict, Import, Match, Persist, PlainData, Project, Release, matches};
use crate::tx::TxRef;
use bartender_heap::types::{Field, Kind, SchemaBuilder, Type, TypeRef};
use std::mem::offset_of;
use std::ptr::NonNull;

// SAFETY: elements one after the other, each treated as it wants.
unsafe impl<T: Persist, const N: usize> Persist for [T; N] {
    const HAS_POINTERS: bool = T::HAS_POINTERS;
    const HAS_LOCKS: bool = T::HAS_LOCKS;

    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let elem = T::describe(b);
            let len = N as u64;
            Type::of::<Self>("array", Kind::Array { elem, len })
        })
    }

    #[inline]
    unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>) {
        if T::HAS_POINTERS {
            for i in 0..N {
                // SAFETY: passed on for each element.
                unsafe { T::adopt(this.cast::<T>().add(i), a) };
            }
        }
    }

    #[inline]
    unsafe fn evict(this: *mut Self, e: &mut Evict<'_>) {
        if T::HAS_POINTERS {
            for i in 0..N {
                // SAFETY: passed on for each element.
                unsafe { T::evict(this.cast::<T>().add(i), e) };
            }
        }
    }

    #[inline]
    unsafe fn release(this: *const Self, r: &mut Release<'_>) {
        if T::HAS_POINTERS {
            for i in 0..N {
                // SAFETY: passed on for each element.
                unsafe { T::release(this.cast::<T>().add(i), r) };
            }
        }
    }

    #[inline]
    unsafe fn for_each_lock(this: *const Self, f: &mut dyn FnMut(usize)) {
        if T::HAS_LOCKS {
            for i in 0..N {
                // SAFETY: passed on for each element.
                unsafe { T::for_each_lock(this.cast::<T>().add(i), f) };
            }
        }
    }

    #[inline]
    unsafe fn zero_padding(this: *mut Self) {
        for i in 0..N {
            // SAFETY: passed on for each element.
            unsafe { T::zero_padding(this.cast::<T>().add(i)) };
        }
    }

    fn parts_match(m: &mut Match<'_>, ty: TypeRef) -> bool {
        match m.kind(ty) {
            Kind::Array { elem, len } => *len == N as u64 && matches::<T>(m, *elem),
            _ => false,
        }
    }

    unsafe fn import_parts(i: &mut Import<'_>, ty: TypeRef, at: *const u8) -> Result<Self> {
        let Kind::Array { elem, .. } = i.kind(ty) else {
            return Err(i.refused::<Self>(ty));
        };
        let stride = i.size(*elem);
        // SAFETY: passed on for each element.
        let values = (0..N).map(|n| unsafe { i.value(*elem, at.add(n * stride)) });
        let values = values.collect::<Result<Vec<T>>>()?;
        values.try_into().map_err(|_| i.refused::<Self>(ty))
    }
}

// SAFETY: nothing between the elements.
unsafe impl<T: PlainData, const N: usize> PlainData for [T; N] {}

// SAFETY: elements do not overlap.
unsafe impl<T: Persist, const N: usize> Project for [T; N] {
    type Projection<'a> = [Mut<'a, T>; N];

    #[inline]
    unsafe fn project_raw<'a>(ptr: NonNull<Self>, tx: TxRef<'a>) -> [Mut<'a, T>; N] {
        // SAFETY: each element is the caller's, and handed out once.
        std::array::from_fn(|i| unsafe { Mut::from_raw(ptr.cast::<T>().add(i), tx) })
    }
}

macro_rules! tuple {
    ($($T:ident $i:tt),*) => {
        // SAFETY: the fields are treated as they want, at the offsets that the compiler tells.
        unsafe impl<$($T: Persist),*> Persist for ($($T,)*) {
            const HAS_POINTERS: bool = false $(|| $T::HAS_POINTERS)*;
            const HAS_LOCKS: bool = false $(|| $T::HAS_LOCKS)*;

            fn describe(b: &mut SchemaBuilder) -> TypeRef {
                b.define::<Self>(|b| {
                    let fields = vec![$(Field {
                        name: stringify!($i).to_owned(),
                        offset: offset_of!(Self, $i) as u64,
                        ty: $T::describe(b),
                    }),*];
                    Type::of::<Self>("tuple", Kind::Tuple { fields })
                })
            }

            #[inline]
            unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>) {
                // SAFETY: passed on for each field.
                unsafe { $($T::adopt(&raw mut (*this).$i, a);)* }
            }

            #[inline]
            unsafe fn evict(this: *mut Self, e: &mut Evict<'_>) {
                // SAFETY: passed on for each field.
                unsafe { $($T::evict(&raw mut (*this).$i, e);)* }
            }

            #[inline]
            unsafe fn release(this: *const Self, r: &mut Release<'_>) {
                // SAFETY: passed on for each field.
                unsafe { $($T::release(&raw const (*this).$i, r);)* }
            }

            #[inline]
            unsafe fn for_each_lock(this: *const Self, f: &mut dyn FnMut(usize)) {
                // SAFETY: passed on for each field.
                unsafe { $($T::for_each_lock(&raw const (*this).$i, f);)* }
            }

            #[inline]
            unsafe fn zero_padding(this: *mut Self) {
                const FIELDS: usize = [$($i),*].len();
                let mut fields: [(usize, usize); FIELDS] =
                    [$((offset_of!(Self, $i), size_of::<$T>())),*];
                fields.sort_unstable();
                let mut end = 0;
                for (offset, size) in fields {
                    // SAFETY: between two fields.
                    unsafe { zero_gap(this, end, offset) };
                    end = offset + size;
                }
                // SAFETY: behind the last field; the fields' own padding is passed on.
                unsafe {
                    zero_gap(this, end, size_of::<Self>());
                    $($T::zero_padding(&raw mut (*this).$i);)*
                }
            }

            fn parts_match(m: &mut Match<'_>, ty: TypeRef) -> bool {
                m.is_tuple(ty, &[$(matches::<$T>),*])
            }

            unsafe fn import_parts(i: &mut Import<'_>, ty: TypeRef, at: *const u8) -> Result<Self> {
                // SAFETY: passed on for each field.
                unsafe { Ok(($(i.field::<$T>(ty, 0, $i, at)?,)*)) }
            }
        }

        // SAFETY: fields do not overlap.
        unsafe impl<$($T: Persist),*> Project for ($($T,)*) {
            type Projection<'a> = ($(Mut<'a, $T>,)*);

            #[inline]
            unsafe fn project_raw<'a>(ptr: NonNull<Self>, tx: TxRef<'a>) -> Self::Projection<'a> {
                let this = ptr.as_ptr();
                // SAFETY: each field is the caller's, and handed out once.
                ($(unsafe { Mut::from_raw(NonNull::new_unchecked(&raw mut (*this).$i), tx) },)*)
            }
        }
    };
}

tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11);

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::MaybeUninit;

    #[test]
    fn the_gaps_of_a_tuple_are_zeroed() {
        let mut place = MaybeUninit::<(u8, u32, u8)>::uninit();
        // SAFETY: the place's own bytes, all written.
        unsafe {
            place.as_mut_ptr().write_bytes(0xff, 1);
            <(u8, u32, u8)>::zero_padding(place.as_mut_ptr());
            let bytes = place.as_ptr().cast::<[u8; 8]>().read();
            assert_eq!(bytes.iter().filter(|byte| **byte == 0).count(), 2);
            assert_eq!(place.assume_init(), (0xff, u32::MAX, 0xff));
        }
    }
}

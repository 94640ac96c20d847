//! `Persist` for the types of the language that hold nothing but bytes.

use crate::persist::{Adopt, Evict, Persist, PlainData, Release};
use bartender_heap::types::{Kind, SchemaBuilder, Type, TypeRef};
use std::marker::PhantomData;
use std::num::{
    NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize, NonZeroU8,
    NonZeroU16, NonZeroU32, NonZeroU64, NonZeroU128, NonZeroUsize,
};

macro_rules! plain {
    ([$($generics:tt)*] $type:ty, $name:expr, $kind:expr) => {
        // SAFETY: every byte of the value belongs to it, none is a pointer.
        unsafe impl $($generics)* Persist for $type {
            const HAS_POINTERS: bool = false;
            const HAS_LOCKS: bool = false;

            fn describe(b: &mut SchemaBuilder) -> TypeRef {
                b.define::<Self>(|_| Type::of::<Self>($name, $kind))
            }

            #[inline]
            unsafe fn adopt(_this: *mut Self, _a: &mut Adopt<'_>) {}

            #[inline]
            unsafe fn evict(_this: *mut Self, _e: &mut Evict<'_>) {}

            #[inline]
            unsafe fn release(_this: *const Self, _r: &mut Release<'_>) {}

            #[inline]
            unsafe fn for_each_lock(_this: *const Self, _f: &mut dyn FnMut(usize)) {}

            #[inline]
            unsafe fn zero_padding(_this: *mut Self) {}
        }

        // SAFETY: as above; without padding and interior mutability.
        unsafe impl $($generics)* PlainData for $type {}
    };
}

macro_rules! integers {
    ($signed:literal, $nonzero:literal: $($type:ident)*) => {
        $(plain!([] $type, stringify!($type), Kind::Int { signed: $signed, nonzero: $nonzero });)*
    };
}

integers!(false, false: u8 u16 u32 u64 u128 usize);
integers!(true, false: i8 i16 i32 i64 i128 isize);
integers!(false, true: NonZeroU8 NonZeroU16 NonZeroU32 NonZeroU64 NonZeroU128 NonZeroUsize);
integers!(true, true: NonZeroI8 NonZeroI16 NonZeroI32 NonZeroI64 NonZeroI128 NonZeroIsize);
plain!([] f32, "f32", Kind::Float);
plain!([] f64, "f64", Kind::Float);
plain!([] bool, "bool", Kind::Bool);
plain!([] char, "char", Kind::Char);
plain!([](), "()", Kind::Tuple { fields: Vec::new() });
plain!([<T: Send + Sync + 'static>] PhantomData<T>, "PhantomData", Kind::Opaque);

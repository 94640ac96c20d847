//! `Persist` for the types of the language that hold nothing but bytes.

use crate::persist::{Adopt, Evict, Persist, PlainData, Release};
use bartender_heap::types::{Kind, SchemaBuilder, Type, TypeRef, Variant};
use std::cmp::Ordering;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, Ipv6Addr};
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
plain!([] Ordering, "Ordering", ordering());
plain!([] Ipv4Addr, "Ipv4Addr", {
    // As many values as patterns, so every pattern is one; that the bytes are the octets is not promised, but seen.
    const { assert!(size_of::<Ipv4Addr>() == 4) };
    let address = Ipv4Addr::new(1, 2, 3, 4);
    // SAFETY: four bytes, none of them padding.
    let bytes: [u8; 4] = unsafe { std::mem::transmute(address) };
    assert_eq!(bytes, address.octets(), "an address is its octets");
    Kind::Opaque
});
plain!([] Ipv6Addr, "Ipv6Addr", {
    const { assert!(size_of::<Ipv6Addr>() == 16) };
    let address = Ipv6Addr::from(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
    // SAFETY: sixteen bytes, none of them padding.
    let bytes: [u8; 16] = unsafe { std::mem::transmute(address) };
    assert_eq!(bytes, address.octets(), "an address is its octets");
    Kind::Opaque
});
plain!([] f32, "f32", Kind::Float);
plain!([] f64, "f64", Kind::Float);
plain!([] bool, "bool", Kind::Bool);
plain!([] char, "char", Kind::Char);
plain!([](), "()", Kind::Tuple { fields: Vec::new() });
plain!([<T: Send + Sync + 'static>] PhantomData<T>, "PhantomData", Kind::Opaque);

/// `Ordering` has the layout of `i8`, with the values −1, 0 and 1: std promises so.
fn ordering() -> Kind {
    let variant = |name: &str, tag| Variant {
        name: name.to_owned(),
        tag,
        fields: Vec::new(),
    };
    let less = u64::from(Ordering::Less as i8 as u8);
    Kind::Enum {
        tag_offset: 0,
        tag_size: 1,
        variants: vec![
            variant("Less", less),
            variant("Equal", 0),
            variant("Greater", 1),
        ],
    }
}

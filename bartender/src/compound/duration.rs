//! `Persist` for `Duration`: seconds, then nanoseconds below a billion, then padding.
//!
//! std promises no layout. What the compiler made of it is looked at when this is compiled: with another one it does not
//! compile.

use crate::persist::{Adopt, Evict, Persist, Release};
use bartender_heap::types::{Field, Kind, SchemaBuilder, Type, TypeRef};
use std::time::Duration;

/// Offset of the nanoseconds, and of the padding.
const NANOS: usize = 8;
const PADDING: usize = 12;

const _: () = {
    assert!(size_of::<Duration>() == 16 && align_of::<Duration>() == 8);
    let seen = Duration::new(0x0102_0304_0506_0708, 0x0a0b_0c0d);
    let at = &raw const seen;
    // SAFETY: within the value. To read padding would be an error of the compiler here.
    unsafe {
        assert!(at.cast::<u64>().read() == seen.as_secs());
        assert!(at.byte_add(NANOS).cast::<u32>().read() == seen.subsec_nanos());
    }
};

/// What the nanoseconds are described as.
struct Nanos;

// SAFETY: every byte but the padding belongs to it, none is a pointer.
unsafe impl Persist for Duration {
    const HAS_POINTERS: bool = false;
    const HAS_LOCKS: bool = false;

    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let end = 1_000_000_000;
            let nanos = b.define::<Nanos>(|_| Type::of::<u32>("Nanoseconds", Kind::Below { end }));
            let field = |name: &str, offset: usize, ty| Field {
                name: name.to_owned(),
                offset: offset as u64,
                ty,
            };
            let fields = vec![
                field("secs", 0, u64::describe(b)),
                field("nanos", NANOS, nanos),
            ];
            Type::of::<Self>("Duration", Kind::Struct { fields })
        })
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
    unsafe fn zero_padding(this: *mut Self) {
        // SAFETY: behind the nanoseconds, within the value.
        unsafe {
            let padding = this.cast::<u8>().add(PADDING);
            padding.write_bytes(0, size_of::<Self>() - PADDING);
        }
    }
}

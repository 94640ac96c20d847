//! `Persist` and `Project` for `Option`, whose layout is the compiler's: where the payload is and what tells a `None`
//! is measured.

use crate::error::Result;
use crate::mutref::Mut;
use crate::persist::{Adopt, Evict, Import, Match, Persist, Project, Release, matches};
use crate::tx::TxRef;
use bartender_heap::types::{Kind, NoneForm, SchemaBuilder, Type, TypeRef};
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

// SAFETY: the layout is measured; the payload, if there is one, is treated as it wants.
unsafe impl<T: Persist> Persist for Option<T> {
    const HAS_POINTERS: bool = T::HAS_POINTERS;
    const HAS_LOCKS: bool = T::HAS_LOCKS;

    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let payload = T::describe(b);
            let (offset, none) = measure::<T>();
            let kind = Kind::Option {
                payload,
                offset,
                none,
            };
            Type::of::<Self>("Option", kind)
        })
    }

    #[inline]
    unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>) {
        // SAFETY: passed on.
        if let Some(payload) = unsafe { payload(this) } {
            // SAFETY: passed on.
            unsafe { T::adopt(payload, a) };
        }
    }

    #[inline]
    unsafe fn evict(this: *mut Self, e: &mut Evict<'_>) {
        // SAFETY: passed on.
        if let Some(payload) = unsafe { payload(this) } {
            // SAFETY: passed on.
            unsafe { T::evict(payload, e) };
        }
    }

    #[inline]
    unsafe fn release(this: *const Self, r: &mut Release<'_>) {
        // SAFETY: passed on.
        if let Some(payload) = unsafe { payload(this.cast_mut()) } {
            // SAFETY: passed on.
            unsafe { T::release(payload, r) };
        }
    }

    #[inline]
    unsafe fn for_each_lock(this: *const Self, f: &mut dyn FnMut(usize)) {
        // SAFETY: passed on.
        if let Some(payload) = unsafe { payload(this.cast_mut()) } {
            // SAFETY: passed on.
            unsafe { T::for_each_lock(payload, f) };
        }
    }

    #[inline]
    unsafe fn zero_padding(this: *mut Self) {
        let front = size_of::<Self>() - size_of::<T>();
        // SAFETY: the payload's own padding is passed on. In front of it lies a tag, 0 or 1, as `measure` has
        // asserted, and padding. Without a tag, all of a `None` but what tells it is padding.
        unsafe {
            match payload(this) {
                Some(payload) => {
                    if front != 0 {
                        this.cast::<u8>().write_bytes(0, front);
                        this.cast::<u8>().write(1);
                    }
                    T::zero_padding(payload);
                }
                None => {
                    this.write_bytes(0, 1);
                    if front == 0 {
                        write_none(this);
                    }
                }
            }
        }
    }

    fn parts_match(m: &mut Match<'_>, ty: TypeRef) -> bool {
        match m.kind(ty) {
            Kind::Option { payload, .. } => matches::<T>(m, *payload),
            _ => false,
        }
    }

    unsafe fn import_parts(i: &mut Import<'_>, ty: TypeRef, at: *const u8) -> Result<Self> {
        // SAFETY: passed on.
        unsafe {
            match i.payload(ty, at) {
                Some((payload, at)) => Ok(Some(i.value(payload, at)?)),
                None => Ok(None),
            }
        }
    }
}

// SAFETY: the one part is the payload.
unsafe impl<T: Persist> Project for Option<T> {
    type Projection<'a> = Option<Mut<'a, T>>;

    #[inline]
    unsafe fn project_raw<'a>(ptr: NonNull<Self>, tx: TxRef<'a>) -> Option<Mut<'a, T>> {
        // SAFETY: the payload is the caller's, like the option.
        unsafe { payload(ptr.as_ptr()).map(|at| Mut::from_raw(NonNull::new_unchecked(at), tx)) }
    }
}

/// Where the payload lies, if there is one.
///
/// # Safety
///
/// `this` is a valid option.
#[inline]
unsafe fn payload<T>(this: *mut Option<T>) -> Option<*mut T> {
    // SAFETY: valid; the address is taken without a claim on the bytes' future.
    let at = unsafe { (*this).as_ref().map(|inside| ptr::from_ref(inside).addr()) }?;
    Some(this.with_addr(at).cast())
}

/// Writes what tells a `None`, and leaves the other bytes as they are.
///
/// # Safety
///
/// `to` can be written.
#[cfg(not(miri))]
#[inline(never)]
unsafe fn write_none<T>(to: *mut Option<T>) {
    // An assignment in place, not `write`: that takes the option as an argument, and small ones travel in a register,
    // with bytes that a `None` does not have. `ManuallyDrop` changes no layout, and what was there is not dropped.
    // SAFETY: passed on.
    unsafe { *to.cast::<Option<std::mem::ManuallyDrop<T>>>() = None };
    // To the language the bytes that a `None` does not have are uninitialised now, and whoever reads them is wrong;
    // to the machine they are as they were. Code that the compiler cannot look into may have written all of them.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: there is no instruction.
    unsafe {
        std::arch::asm!("/* {} */", in(reg) to, options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::hint::black_box(to);
}

/// The same for Miri, which runs no assembly but has a word for it that stable Rust has not.
///
/// # Safety
///
/// `to` can be written.
#[cfg(miri)]
#[custom_mir(dialect = "runtime", phase = "optimized")]
unsafe fn write_none<T>(to: *mut Option<T>) {
    use core::intrinsics::mir::*;
    mir! {{
        SetDiscriminant(*to, 0);
        Return()
    }}
}

/// How the compiler lays out `Option<T>`: where the payload is, and how a `None` is told.
///
/// The sizes say which of two forms it is. Without room for a tag, `None` is a pattern that no payload has: the
/// bytes that writing a `None` leaves the same whatever was there before. With a tag, the tag is in front, 0 for
/// `None` and 1 for `Some`, and what is left of the space to the payload is zeroed with the padding; so all of it
/// (up to 8 bytes: the low bytes tell as much) can be read as the tag.
fn measure<T>() -> (u64, NoneForm) {
    let size = size_of::<Option<T>>();
    let offset = size - size_of::<T>();
    let none: Option<T> = None;
    let by_slice = none.as_slice().as_ptr().addr() - ptr::from_ref(&none).addr();
    assert_eq!(offset, by_slice, "an Option is laid out as described");
    if offset != 0 {
        let zeroes = MaybeUninit::<Option<T>>::zeroed();
        // SAFETY: with a tag of 0 that is a `None`.
        let zeroes_are_none = unsafe { (*zeroes.as_ptr()).is_none() };
        let tag = offset.min(8);
        assert!(
            zeroes_are_none && tag.is_power_of_two(),
            "a tag is in front of the payload"
        );
        let form = NoneForm::Tag {
            offset: 0,
            size: tag as u64,
            none: 0,
            some: 1,
        };
        return (offset as u64, form);
    }
    let written = written_by_none::<T>();
    let first = written.iter().position(Option::is_some);
    let first = first.expect("a None is told by some byte");
    let bytes: Vec<u8> = written[first..].iter().map_while(|byte| *byte).collect();
    let form = NoneForm::Niche {
        offset: first as u64,
        bytes,
    };
    (0, form)
}

/// The bytes of an `Option<T>` that writing a `None` sets, and to what.
fn written_by_none<T>() -> Vec<Option<u8>> {
    let over = |filling: u8| -> Vec<u8> {
        let mut place = MaybeUninit::<Option<T>>::uninit();
        let at = place.as_mut_ptr();
        // SAFETY: the place's own bytes; all are written first, and `write_none` makes none uninitialised.
        unsafe {
            at.write_bytes(filling, 1);
            write_none(at);
            std::slice::from_raw_parts(at.cast::<u8>(), size_of::<Option<T>>()).to_vec()
        }
    };
    let pairs = over(0x00).into_iter().zip(over(0xa5));
    pairs.map(|(a, b)| (a == b).then_some(a)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PBox;
    use bartender_heap::types::Schema;
    use std::mem::offset_of;
    use std::num::NonZeroU32;

    fn none_of<T: Persist>() -> (u64, NoneForm) {
        let schema = Schema::of(<Option<T>>::describe).expect("well formed");
        let Kind::Option { offset, none, .. } = schema.get(schema.root()).kind.clone() else {
            panic!("an option")
        };
        (offset, none)
    }

    fn niche(bytes: &[u8]) -> (u64, NoneForm) {
        let bytes = bytes.to_vec();
        (0, NoneForm::Niche { offset: 0, bytes })
    }

    #[test]
    fn options_are_described_as_they_are() {
        assert_eq!(none_of::<PBox<u64>>(), niche(&[0; 8]));
        assert_eq!(none_of::<NonZeroU32>(), niche(&[0; 4]));
        assert_eq!(none_of::<bool>(), niche(&[2]));
        // Which of the numbers that are no characters it is, compilers see differently.
        let (0, NoneForm::Niche { offset: 0, bytes }) = none_of::<char>() else {
            panic!("a character has room for a None")
        };
        let number = u32::from_le_bytes(bytes.try_into().expect("all of it"));
        assert_eq!(char::from_u32(number), None);
        for (offset, size) in [(8, 8), (1, 1), (4, 4)] {
            let form = NoneForm::Tag {
                offset: 0,
                size,
                none: 0,
                some: 1,
            };
            let found = match size {
                8 => none_of::<u64>(),
                1 => none_of::<u8>(),
                _ => none_of::<f32>(),
            };
            assert_eq!(found, (offset, form));
        }
    }

    #[test]
    fn small_options_are_described_by_what_makes_them_none() {
        type Pair = (u32, bool);
        let (offset, bytes) = (offset_of!(Pair, 1) as u64, vec![2]);
        let found = none_of::<Pair>();
        assert_eq!(found, (0, NoneForm::Niche { offset, bytes }));
        let form = NoneForm::Tag {
            offset: 0,
            size: 2,
            none: 0,
            some: 1,
        };
        assert_eq!(none_of::<(u8, (u16, ()), [u8; 3])>(), (2, form.clone()));
        assert_eq!(none_of::<(u16, u8)>(), (2, form));
        let form = NoneForm::Tag {
            offset: 0,
            size: 8,
            none: 0,
            some: 1,
        };
        assert_eq!(none_of::<u128>(), (16, form));
    }

    #[test]
    fn the_padding_of_a_none_is_zeroed() {
        let mut place = MaybeUninit::<Option<u64>>::uninit();
        // SAFETY: the place's own bytes, all written.
        unsafe {
            place.as_mut_ptr().write_bytes(0xff, 1);
            place.as_mut_ptr().write(None);
            <Option<u64>>::zero_padding(place.as_mut_ptr());
            assert_eq!(place.as_ptr().cast::<[u64; 2]>().read(), [0, 0]);
        }
    }

    #[test]
    fn the_padding_of_a_none_without_a_tag_is_zeroed() {
        type Pair = (u32, bool);
        let mut place = MaybeUninit::<Option<Pair>>::uninit();
        // SAFETY: the place's own bytes, all written.
        let bytes = unsafe {
            place.as_mut_ptr().write_bytes(0xff, 1);
            place.as_mut_ptr().write(None);
            <Option<Pair>>::zero_padding(place.as_mut_ptr());
            place.as_ptr().cast::<[u8; 8]>().read()
        };
        let mut expected = [0; 8];
        expected[offset_of!(Pair, 1)] = 2;
        assert_eq!(bytes, expected);
    }

    #[test]
    fn what_lies_between_a_tag_and_the_payload_is_zeroed() {
        // The tag has one byte here.
        #[derive(bartender::Persist, Clone, Copy)]
        #[repr(C, align(32))]
        struct Far([u64; 4]);
        let mut place = MaybeUninit::<Option<Far>>::uninit();
        // SAFETY: the place's own bytes, all written.
        let (words, value) = unsafe {
            place.as_mut_ptr().write_bytes(0xff, 1);
            place.as_mut_ptr().write(Some(Far([7; 4])));
            <Option<Far>>::zero_padding(place.as_mut_ptr());
            (
                place.as_ptr().cast::<[u64; 8]>().read(),
                place.assume_init(),
            )
        };
        assert_eq!(words, [1, 0, 0, 0, 7, 7, 7, 7]);
        assert_eq!(value.map(|far| far.0), Some([7; 4]));
    }
}

//! What a type must tell to be stored: the traits [`Persist`], [`PlainData`] and [`Project`], and (in
//! `queues`) how values move into the region, out of it, and end.
//!
//! An *owned* value lies in ordinary memory, with everything it points to; a *stored* one lies in the
//! region, with everything it points to. The queues are the only bridges. They do not decide when: `Mut`
//! and the collections do.

mod import;
mod queues;

pub use import::{Import, Match, Wanted, WantedVariant};
pub(crate) use import::{Plan, matches};
pub(crate) use queues::hold_all;
pub use queues::{Adopt, Evict, Release};

use crate::error::Result;
use crate::tx::TxRef;
use bartender_heap::types::{SchemaBuilder, TypeRef};
use std::ptr::NonNull;

/// A type whose values can be stored in a region.
///
/// Derive it: `#[derive(Persist)]` on a struct or an enum with a fixed layout (`#[repr(C)]`, enums
/// `#[repr(u8)]` or `#[repr(C, u8)]`).
///
/// # Safety
///
/// - The layout is the one that [`describe`](Self::describe) tells, in every build of the program.
/// - A value is given by its bytes and those of the blocks it owns through `PBox`, `PVec`, `PString`
///   and `PHashMap`: no references, no ordinary heap memory, no process-local state, no `Drop`.
/// - Each method does for every field what it promises for the whole, and nothing else.
/// - [`HAS_POINTERS`](Self::HAS_POINTERS) and [`HAS_LOCKS`](Self::HAS_LOCKS) are true if they are of any field.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored in a region",
    label = "not a persistent type",
    note = "derive it for your own types: `#[derive(Persist)]` with `#[repr(C)]`",
    note = "use the persistent twins of std's types: `PBox` for `Box`, `PVec` for `Vec`, `PString` for `String`, `PHashMap` for `HashMap`, `PMutex` for `Mutex`, `PRwLock` for `RwLock`"
)]
pub unsafe trait Persist: Sized + Send + Sync + 'static {
    /// Whether a value owns blocks. If not, its bytes are all there is to it.
    const HAS_POINTERS: bool;

    /// Whether a value holds locks in its own bytes (those in its blocks do not count).
    const HAS_LOCKS: bool;

    /// Describes the layout to the region.
    fn describe(b: &mut SchemaBuilder) -> TypeRef;

    /// Moves what the value owns from ordinary memory into the region. The queue keeps its failures to itself.
    ///
    /// # Safety
    ///
    /// `this` is a valid owned value that will only be moved into the region from here on.
    unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>);

    /// Moves what the value owns from the region into ordinary memory.
    ///
    /// # Safety
    ///
    /// `this` is a bitwise copy, in ordinary memory, of a stored value that the transaction takes out.
    unsafe fn evict(this: *mut Self, e: &mut Evict<'_>);

    /// Gives back what the value owns in the region.
    ///
    /// # Safety
    ///
    /// `this` is (or is a copy of) a stored value that nothing refers to when the transaction has committed.
    unsafe fn release(this: *const Self, r: &mut Release<'_>);

    /// Calls `f` with the address of each lock in the value's own bytes.
    ///
    /// # Safety
    ///
    /// `this` is a valid value.
    unsafe fn for_each_lock(this: *const Self, f: &mut dyn FnMut(usize));

    /// Zeroes the padding of the value, so that equal values have equal bytes in the log.
    ///
    /// # Safety
    ///
    /// `this` is a valid value that nobody else reads or writes.
    unsafe fn zero_padding(this: *mut Self);

    /// Whether the stored type `ty` of an older schema becomes this one: as [`matches`] says.
    #[doc(hidden)]
    fn accepts(m: &mut Match<'_>, ty: TypeRef) -> bool {
        matches::<Self>(m, ty)
    }

    /// Takes a field of a stored value: as [`Import::field`] does.
    ///
    /// # Errors
    ///
    /// As [`Import::field`].
    ///
    /// # Safety
    ///
    /// As [`Import::field`].
    #[doc(hidden)]
    unsafe fn import_field(
        i: &mut Import<'_>,
        ty: TypeRef,
        variant: usize,
        field: usize,
        at: *const u8,
    ) -> Result<Self> {
        // SAFETY: passed on.
        unsafe { i.field(ty, variant, field, at) }
    }

    /// Whether the stored type `ty` of an older schema becomes this one part by part. Without parts it does not.
    #[doc(hidden)]
    fn parts_match(_m: &mut Match<'_>, _ty: TypeRef) -> bool {
        false
    }

    /// Takes a stored value of the type `ty`, part by part.
    ///
    /// # Errors
    ///
    /// As [`Import::value`].
    ///
    /// # Safety
    ///
    /// As [`Import::value`]; [`parts_match`](Self::parts_match) has said that it can be done.
    #[doc(hidden)]
    unsafe fn import_parts(i: &mut Import<'_>, ty: TypeRef, _at: *const u8) -> Result<Self> {
        Err(i.refused::<Self>(ty))
    }

    /// Whether the stored type `ty` of an older schema becomes an earlier type that this one converts from.
    #[doc(hidden)]
    fn earlier_matches(_m: &mut Match<'_>, _ty: TypeRef) -> bool {
        false
    }

    /// Takes a stored value of the type `ty` as one of the earlier type, and converts it.
    ///
    /// # Errors
    ///
    /// As [`Import::converted`].
    ///
    /// # Safety
    ///
    /// As [`Import::value`]; [`earlier_matches`](Self::earlier_matches) has said that it can be done.
    #[doc(hidden)]
    unsafe fn import_earlier(i: &mut Import<'_>, ty: TypeRef, _at: *const u8) -> Result<Self> {
        Err(i.refused::<Self>(ty))
    }
}

/// Persistent data that is nothing but its bytes: `Mut` of it can be written through like a `&mut`.
///
/// # Safety
///
/// No padding, no pointers, no interior mutability.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be changed through `&mut` in a region",
    note = "use `set`, `project()` or the `…_mut()` method of the field; `&mut` is for plain data (`#[derive(PlainData)]`)"
)]
pub unsafe trait PlainData: Persist + Copy {}

/// Splits a stored value into its parts, each to be changed by itself.
///
/// # Safety
///
/// The parts of the projection do not overlap and lie in the value.
pub unsafe trait Project: Persist {
    /// A struct, an enum or a tuple of `Mut`s.
    type Projection<'a>;

    /// The parts of the value at `ptr`.
    ///
    /// # Safety
    ///
    /// `ptr` is a stored value that the caller has for itself during `'a`.
    unsafe fn project_raw<'a>(ptr: NonNull<Self>, tx: TxRef<'a>) -> Self::Projection<'a>;
}

//! The derive macros of `bartender`: `Persist` and `PlainData`.
//!
//! They turn a declaration into the implementations by which the library stores,
//! marks, changes and describes a type, and refuse the declarations that could not
//! live in a region, with an error at the field that is to blame.
//!
//! They decide by tokens only: that a field's type is persistent is left to the
//! trait bound in the generated code. Use them through `bartender`, whose
//! documentation of the traits says what each method must do.

mod attributes;
mod input;
mod migrate;
mod names;
mod persist;
mod plain;
mod project;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Implements `Persist` and `Project`, and the traits that give `Mut` one method a field.
///
/// For `struct Account { pub owner: PString, cents: u64 }` it generates, beside the
/// implementations:
///
/// - `AccountProj<'a> { pub owner: Mut<'a, PString>, cents: Mut<'a, u64> }`, the
///   projection, with the fields' own visibility. An enum's projection is an enum with
///   the same variants (without the lifetime when no variant has a field).
/// - `AccountFieldsMut` with `owner_mut()` and `AccountFieldsMutPrivate` with
///   `cents_mut()`: one trait for each visibility among the fields, the widest without a
///   suffix, the others with `Crate`, `Restricted` (`pub(super)`, `pub(in …)`) or `Private`.
///   Another module imports them to call the methods. Tuple structs and enums have none.
///
/// Structs need `#[repr(C)]` (or `transparent`), enums `#[repr(u8)]` or `#[repr(C, u8)]`:
/// the layout of anything else may change with the compiler. Only type parameters are
/// bounded (`T: Persist`), so that recursive types compile. `Drop` is refused: a stored
/// value is not dropped by the program.
///
/// # Attributes
///
/// A region opens only as the type that it was written with. What may differ all the same is said by attributes:
///
/// - `#[persist(name = "…")]` on the type, a field or a variant: its name in the region. The name in the program can
///   change then, and the region's does not. (A generic type keeps its parameters, by their names in the program.)
/// - `#[persist(renamed_from = "…")]` on the same: what it was called in earlier regions. One that has that name and
///   differs by nothing else gets the new one when it is opened.
/// - `#[persist(from = Old)]` on the type: a region that was written with `Old` in its place is migrated when it is
///   opened, by `impl From<Old> for` this type, or by `TryFrom<Old>` where the conversion can fail (its error has to be
///   `Into<Box<dyn Error + Send + Sync>>`). `Old` is persistent itself, has the stored type's name (by `name`, or
///   in a module of its own), and may be `from` a still older type. `Options::open` says what is promised.
#[proc_macro_derive(Persist, attributes(persist))]
pub fn derive_persist(tokens: TokenStream) -> TokenStream {
    let input = parse_macro_input!(tokens as DeriveInput);
    expand(input, |input| {
        let types = project::types(input);
        let checks = persist::no_drop(input);
        let shadows = persist::shadows(input);
        let persist = persist::implementation(input);
        let project = project::implementation(input);
        Ok(quote::quote! {
            #types
            const _: () = {
                use ::bartender::__private as __p;
                #checks
                #shadows
                #persist
                #project
            };
        })
    })
}

/// Implements `PlainData`: `Mut` of such a type dereferences mutably.
///
/// The type must be `Copy` and `Persist`, all its fields `PlainData`, and it must have no
/// padding (checked at compile time). Types with type parameters are refused: their
/// padding is not known where they are declared.
#[proc_macro_derive(PlainData)]
pub fn derive_plain_data(tokens: TokenStream) -> TokenStream {
    let input = parse_macro_input!(tokens as DeriveInput);
    expand(input, plain::expand)
}

fn expand(
    input: DeriveInput,
    generate: impl FnOnce(&input::Input) -> syn::Result<proc_macro2::TokenStream>,
) -> TokenStream {
    input::Input::parse(input)
        .and_then(|input| generate(&input))
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

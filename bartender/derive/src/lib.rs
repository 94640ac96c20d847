//! The derive macros of `bartender`: `Persist` and `PlainData`.
//!
//! They turn a declaration into the implementations by which the library stores,
//! marks, changes and describes a type, and refuse the declarations that could not
//! live in a region, with an error at the field that is to blame.
//!
//! They decide by tokens only: that a field's type is persistent is left to the
//! trait bound in the generated code. Use them through `bartender`, whose
//! documentation of the traits says what each method must do.

mod input;
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
#[proc_macro_derive(Persist)]
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

//! Generates `impl PlainData`, with the checks that make it true: fields that are plain
//! data themselves, and no byte of the value that belongs to no field.

use crate::input::{Body, Field, Input};
use proc_macro2::TokenStream;
use quote::quote;

/// The implementation and its checks.
pub(crate) fn expand(input: &Input) -> syn::Result<TokenStream> {
    let ident = &input.ident;
    if let Some(parameter) = input.declared.params.first() {
        return Err(syn::Error::new_spanned(
            parameter,
            "whether a type with parameters has padding is not known where it is declared; \
             derive `PlainData` for types without parameters",
        ));
    }
    let (variants, tag): (Vec<&[Field]>, usize) = match &input.body {
        Body::Struct { fields, .. } => (vec![fields], 0),
        Body::Enum { variants, .. } => (variants.iter().map(|v| &v.fields[..]).collect(), 1),
    };
    let types = variants
        .iter()
        .flat_map(|fields| fields.iter().map(|f| &f.ty));
    let sums = variants.iter().map(|fields| {
        let types = fields.iter().map(|f| &f.ty);
        quote!(#tag #(+ ::core::mem::size_of::<#types>())*)
    });
    let message = format!(
        "`{ident}` has padding, so it is not plain data: reorder its fields or fill the gap with an array of `u8`"
    );
    Ok(quote! {
        const _: () = {
            use ::bartender::__private as __p;

            #(::core::assert!(::core::mem::size_of::<#ident>() == #sums, #message);)*
            const fn plain<T: __p::PlainData>() {}
            #(plain::<#types>();)*

            // SAFETY: it is checked above that all fields are plain data and that
            // nothing lies between them; the layout is fixed by the `repr`.
            #[automatically_derived]
            unsafe impl __p::PlainData for #ident {}
        };
    })
}

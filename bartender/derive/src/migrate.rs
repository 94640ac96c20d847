//! Generates what a type says of its earlier forms: names, and the methods by which a value of an older schema
//! becomes one of the type, part by part or from an earlier type.

use crate::input::{Body, Field, Input};
use proc_macro2::TokenStream;
use quote::quote;

/// The type's own name in the region as an `Option<&str>`.
pub(crate) fn name(input: &Input) -> TokenStream {
    option(input.attributes.name.as_deref())
}

fn option(name: Option<&str>) -> TokenStream {
    match name {
        Some(name) => quote!(::core::option::Option::Some(#name)),
        None => quote!(::core::option::Option::None),
    }
}

/// Pairs of what was renamed and its earlier name.
pub(crate) fn renames(input: &Input) -> TokenStream {
    let mut out = TokenStream::new();
    if let Some(from) = &input.attributes.renamed_from {
        out.extend(quote!((__p::Part::Type, #from),));
    }
    match &input.body {
        Body::Struct { fields, .. } => {
            for field in fields {
                if let Some(from) = &field.attributes.renamed_from {
                    let name = field.stored_name();
                    out.extend(quote!((__p::Part::Field(#name), #from),));
                }
            }
        }
        Body::Enum { variants, .. } => {
            for variant in variants {
                let owner = variant.stored_name();
                if let Some(from) = &variant.attributes.renamed_from {
                    out.extend(quote!((__p::Part::Variant(#owner), #from),));
                }
                for field in &variant.fields {
                    if let Some(from) = &field.attributes.renamed_from {
                        let name = field.stored_name();
                        out.extend(quote!((__p::Part::VariantField(#owner, #name), #from),));
                    }
                }
            }
        }
    }
    out
}

/// The methods of `Persist` that have to do with older schemas.
pub(crate) fn methods(input: &Input) -> TokenStream {
    let parts = match &input.body {
        Body::Struct { fields, .. } => of_struct(input, fields),
        Body::Enum { .. } => of_enum(input),
    };
    let earlier = input.attributes.from.as_ref().map(|old| {
        quote! {
            fn earlier_matches(__m: &mut __p::Match<'_>, __ty: __p::TypeRef) -> bool {
                <#old as __p::Persist>::accepts(__m, __ty)
            }

            unsafe fn import_earlier(
                __i: &mut __p::Import<'_>,
                __ty: __p::TypeRef,
                __at: *const u8,
            ) -> ::bartender::Result<Self> {
                // SAFETY: passed on.
                unsafe { __i.converted::<#old, Self>(__ty, __at) }
            }
        }
    });
    quote!(#parts #earlier)
}

/// What is looked for in a stored struct or variant: for each field its name, its earlier name, and who compares types.
fn wanted(fields: &[Field]) -> TokenStream {
    let fields = fields.iter().map(|field| {
        let (name, ty) = (field.stored_name(), &field.ty);
        let was = option(field.attributes.renamed_from.as_deref());
        quote!(__p::Wanted { name: #name, was: #was, matches: <#ty as __p::Persist>::accepts })
    });
    quote!(&[#(#fields),*])
}

fn of_struct(input: &Input, fields: &[Field]) -> TokenStream {
    let (name, was) = (
        name(input),
        option(input.attributes.renamed_from.as_deref()),
    );
    let wanted = wanted(fields);
    let members = fields.iter().map(|f| &f.member);
    let types = fields.iter().map(|f| &f.ty);
    let indices = 0..fields.len();
    quote! {
        fn parts_match(__m: &mut __p::Match<'_>, __ty: __p::TypeRef) -> bool {
            __m.is_struct::<Self>(__ty, #name, #was, #wanted)
        }

        unsafe fn import_parts(
            __i: &mut __p::Import<'_>,
            __ty: __p::TypeRef,
            __at: *const u8,
        ) -> ::bartender::Result<Self> {
            // SAFETY: passed on for each field.
            ::core::result::Result::Ok(Self {
                #(#members: unsafe { <#types as __p::Persist>::import_field(__i, __ty, 0, #indices, __at)? },)*
            })
        }
    }
}

fn of_enum(input: &Input) -> TokenStream {
    let Body::Enum { variants, .. } = &input.body else {
        return TokenStream::new();
    };
    let (name, was) = (
        name(input),
        option(input.attributes.renamed_from.as_deref()),
    );
    let all = variants.iter().map(|variant| {
        let (name, wanted) = (variant.stored_name(), wanted(&variant.fields));
        let was = option(variant.attributes.renamed_from.as_deref());
        quote!((#name, #was, #wanted))
    });
    let arms = variants.iter().enumerate().map(|(number, variant)| {
        let ident = &variant.ident;
        let members = variant.fields.iter().map(|f| &f.member);
        let types = variant.fields.iter().map(|f| &f.ty);
        let indices = 0..variant.fields.len();
        quote! {
            // SAFETY: passed on for each field of the variant that is there.
            #number => Self::#ident {
                #(#members: unsafe { <#types as __p::Persist>::import_field(__i, __ty, #number, #indices, __at)? },)*
            },
        }
    });
    quote! {
        fn parts_match(__m: &mut __p::Match<'_>, __ty: __p::TypeRef) -> bool {
            __m.is_enum::<Self>(__ty, #name, #was, &[#(#all),*])
        }

        unsafe fn import_parts(
            __i: &mut __p::Import<'_>,
            __ty: __p::TypeRef,
            __at: *const u8,
        ) -> ::bartender::Result<Self> {
            // SAFETY: passed on.
            ::core::result::Result::Ok(match unsafe { __i.variant(__ty, __at) } {
                #(#arms)*
                _ => return ::core::result::Result::Err(__i.refused::<Self>(__ty)),
            })
        }
    }
}

//! Generates `impl Project` with the projection type, and the traits that give
//! `Mut<'_, S>` a method for each named field.
//!
//! The projection's fields keep their visibility, so privacy of the declaration is
//! privacy of its stored values too.

use crate::input::{Body, Field, Input, Shape, Variant, generated};
use crate::persist;
use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::{Generics, Member, Visibility};

/// The projection type and the field traits: the declaration's neighbours.
pub(crate) fn types(input: &Input) -> TokenStream {
    let proj = generated(&input.ident, "Proj");
    match &input.body {
        Body::Struct { shape, fields, .. } => {
            let mut out = struct_type(input, &proj, *shape, fields);
            if *shape == Shape::Named {
                out.extend(field_traits(input, fields));
            }
            out
        }
        Body::Enum { variants, .. } => enum_type(input, &proj, variants),
    }
}

/// `impl Project`.
pub(crate) fn implementation(input: &Input) -> TokenStream {
    let ident = &input.ident;
    let proj = generated(ident, "Proj");
    let (params, args, bounds) = input.generics.split_for_impl();
    let generics = projection_generics(input);
    let (_, projection_args, _) = generics.split_for_impl();
    let build = match &input.body {
        Body::Struct { fields, .. } if fields.is_empty() => {
            quote!(let _ = (__this, __tx); #proj(::core::marker::PhantomData))
        }
        Body::Struct { fields, .. } => {
            let members: Vec<_> = fields.iter().map(|f| &f.member).collect();
            quote!(#proj { #(#members: unsafe { __p::mut_at(&raw mut (*__this).#members, __tx) },)* })
        }
        Body::Enum { variants, prefixed } => {
            let arms = variants.iter().enumerate().map(|(index, variant)| {
                let name = &variant.ident;
                let members = variant.fields.iter().map(|f| &f.member);
                let types = variant.fields.iter().map(|f| &f.ty);
                let offsets = persist::offsets(input, variants, index, *prefixed);
                quote! {
                    #ident::#name { .. } => #proj::#name {
                        #(#members: unsafe { __p::mut_at(__this.byte_add(#offsets).cast::<#types>(), __tx) },)*
                    },
                }
            });
            // SAFETY of the generated read: the caller says that a value lies at `__this`.
            quote!(let _ = __tx; match unsafe { &*__this } { #(#arms)* })
        }
    };
    quote! {
        // SAFETY: each field is handed out once, at its own place.
        #[automatically_derived]
        unsafe impl #params __p::Project for #ident #args #bounds {
            type Projection<'__a> = #proj #projection_args;

            #[inline]
            unsafe fn project_raw<'__a>(
                __this: ::core::ptr::NonNull<Self>,
                __tx: __p::TxRef<'__a>,
            ) -> Self::Projection<'__a> {
                let __this = __this.as_ptr();
                #build
            }
        }
    }
}

/// The projection's parameters: the lifetime `'__a` before the type's own, unless no
/// variant has a field, when there is nothing to borrow.
fn projection_generics(input: &Input) -> Generics {
    let mut generics = input.generics.clone();
    let plain = match &input.body {
        Body::Struct { .. } => false,
        Body::Enum { variants, .. } => variants.iter().all(|v| v.fields.is_empty()),
    };
    if !plain {
        generics.params.insert(0, syn::parse_quote!('__a));
    }
    generics
}

fn struct_type(input: &Input, proj: &Ident, shape: Shape, fields: &[Field]) -> TokenStream {
    let (ident, vis) = (&input.ident, &input.vis);
    let generics = projection_generics(input);
    let (params, _, bounds) = generics.split_for_impl();
    let (_, args, _) = input.generics.split_for_impl();
    let doc = format!("Stored [`{ident}`], field by field.");
    let members: Vec<_> = fields.iter().map(|f| &f.member).collect();
    let types: Vec<_> = fields.iter().map(|f| &f.ty).collect();
    let vises: Vec<_> = fields.iter().map(|f| &f.vis).collect();
    let docs: Vec<_> = fields
        .iter()
        .map(|f| format!("Field `{}`.", f.name()))
        .collect();
    let declaration = if fields.is_empty() {
        // No field carries the lifetime.
        quote!(#vis struct #proj #params (::core::marker::PhantomData<&'__a mut #ident #args>) #bounds;)
    } else if shape == Shape::Named {
        quote! {
            #vis struct #proj #params #bounds {
                #(#[doc = #docs] #vises #members: ::bartender::Mut<'__a, #types>,)*
            }
        }
    } else {
        quote! {
            #vis struct #proj #params
                (#(#[doc = #docs] #vises ::bartender::Mut<'__a, #types>,)*) #bounds;
        }
    };
    quote! {
        #[doc = #doc]
        #[allow(dead_code)]
        #declaration
    }
}

fn enum_type(input: &Input, proj: &Ident, variants: &[Variant]) -> TokenStream {
    let (ident, vis) = (&input.ident, &input.vis);
    let generics = projection_generics(input);
    let (params, _, bounds) = generics.split_for_impl();
    let plain = variants.iter().all(|v| v.fields.is_empty());
    let derives = plain.then(|| {
        quote! {
            #[derive(::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug)]
            #[derive(::core::cmp::PartialEq, ::core::cmp::Eq)]
        }
    });
    let doc = format!("Stored [`{ident}`]: the fields of the variant that is there.");
    let variants = variants.iter().map(|variant| {
        let name = &variant.ident;
        let members = variant.fields.iter().map(|f| &f.member);
        let types = variant.fields.iter().map(|f| &f.ty);
        let docs = variant
            .fields
            .iter()
            .map(|f| format!("Field `{}`.", f.name()));
        let doc = format!("Variant `{name}`.");
        let fields = match variant.shape {
            Shape::Unit => TokenStream::new(),
            Shape::Named => {
                quote!({ #(#[doc = #docs] #members: ::bartender::Mut<'__a, #types>,)* })
            }
            Shape::Tuple => quote!((#(#[doc = #docs] ::bartender::Mut<'__a, #types>,)*)),
        };
        quote!(#[doc = #doc] #name #fields,)
    });
    quote! {
        #[doc = #doc]
        #[allow(dead_code)]
        #derives
        #vis enum #proj #params #bounds { #(#variants)* }
    }
}

/// Visibilities in the order of their reach.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Private,
    Restricted,
    Crate,
    Public,
}

fn reach(vis: &Visibility) -> Reach {
    match vis {
        Visibility::Public(_) => Reach::Public,
        Visibility::Inherited => Reach::Private,
        Visibility::Restricted(path) if path.path.is_ident("crate") => Reach::Crate,
        Visibility::Restricted(path) if path.path.is_ident("self") => Reach::Private,
        Visibility::Restricted(_) => Reach::Restricted,
    }
}

/// One trait for each visibility among the fields, none wider than the struct's.
fn field_traits(input: &Input, fields: &[Field]) -> TokenStream {
    let whole = reach(&input.vis);
    let mut groups: Vec<(Reach, &Visibility, Vec<&Field>)> = Vec::new();
    for field in fields {
        let own = reach(&field.vis);
        let (reach, vis) = if own <= whole {
            (own, &field.vis)
        } else {
            (whole, &input.vis)
        };
        match groups.iter_mut().find(|(r, v, _)| *r == reach && *v == vis) {
            Some((_, _, members)) => members.push(field),
            None => groups.push((reach, vis, vec![field])),
        }
    }
    groups.sort_by_key(|(reach, ..)| std::cmp::Reverse(*reach));

    let ident = &input.ident;
    let (params, args, bounds) = input.generics.split_for_impl();
    let with_mut = {
        let mut generics = input.generics.clone();
        generics.params.insert(0, syn::parse_quote!('__m));
        generics
    };
    let (impl_params, _, _) = with_mut.split_for_impl();
    let mut out = TokenStream::new();
    let mut restricted = 0;
    for (index, (reach, vis, members)) in groups.iter().enumerate() {
        let suffix = match (index, reach) {
            (0, _) => String::new(),
            (_, Reach::Public) => "Public".to_owned(),
            (_, Reach::Crate) => "Crate".to_owned(),
            (_, Reach::Private) => "Private".to_owned(),
            (_, Reach::Restricted) => {
                restricted += 1;
                if restricted == 1 {
                    "Restricted".to_owned()
                } else {
                    format!("Restricted{restricted}")
                }
            }
        };
        let name = generated(ident, &format!("FieldsMut{suffix}"));
        let doc = format!("Changing the fields of a stored [`{ident}`] one by one.");
        let methods: Vec<_> = members
            .iter()
            .map(|field| match &field.member {
                Member::Named(ident) => generated(ident, "_mut"),
                Member::Unnamed(index) => format_ident!("_{}_mut", index.index),
            })
            .collect();
        let types: Vec<_> = members.iter().map(|f| &f.ty).collect();
        let places: Vec<_> = members.iter().map(|f| &f.member).collect();
        let docs: Vec<_> = members
            .iter()
            .map(|f| format!("Field `{}`, to be changed.", f.name()))
            .collect();
        out.extend(quote! {
            #[doc = #doc]
            #[allow(dead_code)]
            #vis trait #name #params #bounds {
                #(#[doc = #docs] fn #methods(&mut self) -> ::bartender::Mut<'_, #types>;)*
            }

            #[automatically_derived]
            impl #impl_params #name #args for ::bartender::Mut<'__m, #ident #args> #bounds {
                #(#[inline] fn #methods(&mut self) -> ::bartender::Mut<'_, #types> {
                    let (__this, __tx) = ::bartender::__private::parts(self);
                    // SAFETY: the field lies in the value, which is borrowed for as long.
                    unsafe { ::bartender::__private::mut_at(&raw mut (*__this).#places, __tx) }
                })*
            }
        });
    }
    out
}

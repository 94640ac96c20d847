//! Generates `impl Persist`: each method goes through the fields in order.
//!
//! The fields of a variant are found by the layout that `repr(u8)` and `repr(C, u8)`
//! promise (RFC 2195): a shadow struct `repr(C)` for each variant has them at the same
//! offsets, after the tag or, for `repr(C, u8)`, from the start of the union.

use crate::input::{Body, Field, Input, Variant};
use crate::migrate;
use proc_macro2::TokenStream;
use quote::{format_ident, quote};

/// A check that fails to compile when the type implements `Drop`.
pub(crate) fn no_drop(input: &Input) -> TokenStream {
    let ident = &input.ident;
    let (_, args, _) = input.declared.split_for_impl();
    let (params, _, bounds) = input.declared.split_for_impl();
    quote! {
        // A type that implements `Drop` gets a conflict of these two.
        trait PersistentTypesMustNotImplementDrop {}
        #[allow(drop_bounds, clippy::drop_bounds)]
        impl<__T: ?::core::marker::Sized + ::core::ops::Drop> PersistentTypesMustNotImplementDrop for __T {}
        impl #params PersistentTypesMustNotImplementDrop for #ident #args #bounds {}
    }
}

/// `impl Persist`.
pub(crate) fn implementation(input: &Input) -> TokenStream {
    let parts = match &input.body {
        Body::Struct {
            fields,
            transparent,
            ..
        } => of_struct(input, fields, *transparent),
        Body::Enum { variants, prefixed } => of_enum(input, variants, *prefixed),
    };
    let Parts {
        types,
        describe,
        adopt,
        evict,
        release,
        locks,
        padding,
    } = parts;
    let ident = &input.ident;
    let (params, args, bounds) = input.generics.split_for_impl();
    let migration = migrate::methods(input);
    quote! {
        // SAFETY: the layout is fixed by its `repr`, and each method does for every
        // field what the trait asks for the whole, in declaration order.
        #[automatically_derived]
        unsafe impl #params __p::Persist for #ident #args #bounds {
            const HAS_POINTERS: bool = false #(|| <#types as __p::Persist>::HAS_POINTERS)*;
            const HAS_LOCKS: bool = false #(|| <#types as __p::Persist>::HAS_LOCKS)*;

            fn describe(__b: &mut __p::SchemaBuilder) -> __p::TypeRef {
                #describe
            }

            #[inline]
            unsafe fn adopt(__this: *mut Self, __x: &mut __p::Adopt<'_>) {
                if <Self as __p::Persist>::HAS_POINTERS {
                    #adopt
                }
            }

            #[inline]
            unsafe fn evict(__this: *mut Self, __x: &mut __p::Evict<'_>) {
                if <Self as __p::Persist>::HAS_POINTERS {
                    #evict
                }
            }

            #[inline]
            unsafe fn release(__this: *const Self, __x: &mut __p::Release<'_>) {
                if <Self as __p::Persist>::HAS_POINTERS {
                    #release
                }
            }

            #[inline]
            unsafe fn for_each_lock(__this: *const Self, __x: &mut dyn ::core::ops::FnMut(usize)) {
                if <Self as __p::Persist>::HAS_LOCKS {
                    #locks
                }
            }

            #[inline]
            unsafe fn zero_padding(__this: *mut Self) {
                #padding
            }

            #migration
        }
    }
}

/// What differs between structs and enums.
struct Parts<'a> {
    types: Vec<&'a syn::Type>,
    describe: TokenStream,
    adopt: TokenStream,
    evict: TokenStream,
    release: TokenStream,
    locks: TokenStream,
    padding: TokenStream,
}

/// The calls of one trait method for each field; `place` gives a field's address.
fn each(fields: &[Field], method: &str, place: &dyn Fn(usize) -> TokenStream) -> TokenStream {
    let method = format_ident!("{method}");
    let calls = fields.iter().enumerate().map(|(i, field)| {
        let (ty, place) = (&field.ty, place(i));
        // SAFETY of the generated call: the caller's promise for the whole holds for its fields.
        quote!(unsafe { <#ty as __p::Persist>::#method(#place, __x); })
    });
    quote!(#(#calls)*)
}

fn of_struct<'a>(input: &Input, fields: &'a [Field], transparent: bool) -> Parts<'a> {
    let types: Vec<_> = fields.iter().map(|f| &f.ty).collect();
    let members: Vec<_> = fields.iter().map(|f| &f.member).collect();
    let names = fields.iter().map(Field::stored_name);
    let (name, renames) = (migrate::name(input), migrate::renames(input));
    let place = |i: usize| {
        let member = &fields[i].member;
        quote!(&raw mut (*__this).#member)
    };
    let shared = |i: usize| {
        let member = &fields[i].member;
        quote!(&raw const (*__this).#member)
    };
    let offsets: Vec<_> = members
        .iter()
        .map(|m| quote!(::core::mem::offset_of!(Self, #m)))
        .collect();
    let gaps = if transparent {
        TokenStream::new()
    } else {
        gaps(&offsets, &types, quote!(0))
    };
    let inner = padding_of_fields(fields, &place);
    Parts {
        describe: quote! {
            __p::describe_struct::<Self>(__b, #name, &[#renames], |__b| ::std::vec![
                #((#names, #offsets, <#types as __p::Persist>::describe(__b)),)*
            ])
        },
        adopt: each(fields, "adopt", &place),
        evict: each(fields, "evict", &place),
        release: each(fields, "release", &shared),
        locks: each(fields, "for_each_lock", &shared),
        padding: quote!(#gaps #inner),
        types,
    }
}

/// One `repr(C)` struct a variant, with the variant's fields where the variant has them.
pub(crate) fn shadows(input: &Input) -> TokenStream {
    let Body::Enum { variants, prefixed } = &input.body else {
        return TokenStream::new();
    };
    let ident = &input.ident;
    let (params, args, bounds) = input.generics.split_for_impl();
    let tag = (!prefixed).then(|| quote!(u8,));
    let shadows = variants.iter().enumerate().map(|(index, variant)| {
        let name = format_ident!("__Variant{index}");
        let types = variant.fields.iter().map(|f| &f.ty);
        quote! {
            #[repr(C)]
            #[allow(dead_code)]
            struct #name #params (#tag #(#types,)* ::core::marker::PhantomData<#ident #args>) #bounds;
        }
    });
    quote!(#(#shadows)*)
}

/// The offset of each field of variant `index`.
pub(crate) fn offsets(
    input: &Input,
    variants: &[Variant],
    index: usize,
    prefixed: bool,
) -> Vec<TokenStream> {
    let shadow = format_ident!("__Variant{index}");
    let (_, args, _) = input.generics.split_for_impl();
    let turbofish = args.as_turbofish();
    // Where the union of `repr(C, u8)` begins: the tag's byte rounded up to the union's alignment.
    let types = variants.iter().flat_map(|v| v.fields.iter().map(|f| &f.ty));
    let start =
        prefixed.then(|| quote!(__p::highest(&[1 #(, ::core::mem::align_of::<#types>())*]) +));
    (0..variants[index].fields.len())
        .map(|i| {
            let place = syn::Index::from(i + usize::from(!prefixed));
            quote!((#start ::core::mem::offset_of!(#shadow #turbofish, #place)))
        })
        .collect()
}

fn of_enum<'a>(input: &Input, variants: &'a [Variant], prefixed: bool) -> Parts<'a> {
    let types: Vec<_> = variants
        .iter()
        .flat_map(|v| v.fields.iter().map(|f| &f.ty))
        .collect();
    let mut described = TokenStream::new();
    let mut arms: [TokenStream; 5] = Default::default();
    for (index, (variant, tag)) in variants.iter().zip(Input::tags(variants)).enumerate() {
        let types: Vec<_> = variant.fields.iter().map(|f| &f.ty).collect();
        let offsets = offsets(input, variants, index, prefixed);
        let place = |i: usize| {
            let (offset, ty) = (&offsets[i], types[i]);
            quote!(__this.byte_add(#offset).cast::<#ty>())
        };
        let name = variant.stored_name();
        let names = variant.fields.iter().map(Field::stored_name);
        described.extend(quote! {
            (#name, ::core::convert::From::from(#tag), ::std::vec![
                #((#names, #offsets, <#types as __p::Persist>::describe(__b)),)*
            ]),
        });
        let gaps = gaps(&offsets, &types, quote!(1));
        let inner = padding_of_fields(&variant.fields, &place);
        let bodies = [
            each(&variant.fields, "adopt", &place),
            each(&variant.fields, "evict", &place),
            each(&variant.fields, "release", &place),
            each(&variant.fields, "for_each_lock", &place),
            quote!(#gaps #inner),
        ];
        let pattern = &variant.ident;
        for (arm, body) in arms.iter_mut().zip(bodies) {
            arm.extend(quote!(Self::#pattern { .. } => { #body }));
        }
    }
    // SAFETY of the generated read: the caller says that a value lies at `__this`.
    let [adopt, evict, release, locks, padding] =
        arms.map(|arms| quote!(match unsafe { &*__this } { #arms }));
    let (name, renames) = (migrate::name(input), migrate::renames(input));
    Parts {
        types,
        describe: quote! {
            __p::describe_enum::<Self>(__b, #name, &[#renames], |__b| ::std::vec![#described])
        },
        adopt,
        evict,
        release,
        locks,
        padding,
    }
}

/// Zeroes what lies between the fields, and after them up to the type's size.
fn gaps(offsets: &[TokenStream], types: &[&syn::Type], start: TokenStream) -> TokenStream {
    let mut end = start;
    let mut out = TokenStream::new();
    for (offset, ty) in offsets.iter().zip(types) {
        out.extend(quote!(unsafe { __p::zero_gap(__this, #end, #offset); }));
        end = quote!(#offset + ::core::mem::size_of::<#ty>());
    }
    quote!(#out unsafe { __p::zero_gap(__this, #end, ::core::mem::size_of::<Self>()); })
}

fn padding_of_fields(fields: &[Field], place: &dyn Fn(usize) -> TokenStream) -> TokenStream {
    let calls = fields.iter().enumerate().map(|(i, field)| {
        let (ty, place) = (&field.ty, place(i));
        quote!(unsafe { <#ty as __p::Persist>::zero_padding(#place); })
    });
    quote!(#(#calls)*)
}

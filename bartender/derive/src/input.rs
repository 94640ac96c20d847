//! What a declaration says, as the generators want it, and the checks that need only
//! its tokens: the representation, the parameters, names of types that cannot be stored.
//!
//! All errors of a declaration are reported together.

use crate::attributes::{self, Attributes};
use crate::names;
use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::quote;
use syn::{
    Attribute, Data, DeriveInput, Expr, Generics, Member, Type, Visibility, spanned::Spanned,
};

/// A field of a struct or of a variant.
pub(crate) struct Field {
    pub(crate) member: Member,
    pub(crate) vis: Visibility,
    pub(crate) ty: Type,
    pub(crate) attributes: Attributes,
}

impl Field {
    /// Its name in the schema.
    pub(crate) fn stored_name(&self) -> String {
        self.attributes.name.clone().unwrap_or_else(|| self.name())
    }

    /// Its name in the program.
    pub(crate) fn name(&self) -> String {
        match &self.member {
            Member::Named(ident) => syn::ext::IdentExt::unraw(ident).to_string(),
            Member::Unnamed(index) => index.index.to_string(),
        }
    }
}

/// How the fields of a struct or variant are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Named,
    Tuple,
    Unit,
}

/// A variant of an enum.
pub(crate) struct Variant {
    pub(crate) ident: Ident,
    pub(crate) shape: Shape,
    pub(crate) fields: Vec<Field>,
    pub(crate) discriminant: Option<Expr>,
    pub(crate) attributes: Attributes,
}

impl Variant {
    /// Its name in the schema.
    pub(crate) fn stored_name(&self) -> String {
        let name = self.attributes.name.clone();
        name.unwrap_or_else(|| syn::ext::IdentExt::unraw(&self.ident).to_string())
    }
}

/// The declaration's body.
pub(crate) enum Body {
    Struct {
        shape: Shape,
        fields: Vec<Field>,
        transparent: bool,
    },
    /// `prefixed`: `repr(C, u8)`, the tag stands before a union of the variants.
    Enum {
        variants: Vec<Variant>,
        prefixed: bool,
    },
}

impl Body {
    /// The same with the type's name for `Self`, which means another type in generated ones.
    fn naming(mut self, ident: &Ident, generics: &Generics) -> Self {
        let (_, args, _) = generics.split_for_impl();
        let name = quote!(#ident #args);
        let fields: Box<dyn Iterator<Item = &mut Field>> = match &mut self {
            Body::Struct { fields, .. } => Box::new(fields.iter_mut()),
            Body::Enum { variants, .. } => {
                Box::new(variants.iter_mut().flat_map(|v| &mut v.fields))
            }
        };
        for field in fields {
            let ty = &field.ty;
            let tokens = without_self(quote!(#ty), &name);
            field.ty = syn::parse2(tokens.clone()).unwrap_or(Type::Verbatim(tokens));
        }
        self
    }
}

/// `tokens` with `name` for `Self`.
fn without_self(tokens: TokenStream, name: &TokenStream) -> TokenStream {
    let replace = |token: TokenTree| -> TokenStream {
        match token {
            TokenTree::Ident(ident) if ident == "Self" => name.clone(),
            TokenTree::Group(group) => {
                let inner = without_self(group.stream(), name);
                let mut replaced = Group::new(group.delimiter(), inner);
                replaced.set_span(group.span());
                TokenTree::from(replaced).into()
            }
            other => other.into(),
        }
    };
    tokens.into_iter().map(replace).collect()
}

/// A checked declaration.
pub(crate) struct Input {
    pub(crate) ident: Ident,
    pub(crate) vis: Visibility,
    /// With `T: Persist` for each type parameter.
    pub(crate) generics: Generics,
    /// As declared.
    pub(crate) declared: Generics,
    pub(crate) body: Body,
    pub(crate) attributes: Attributes,
}

impl Input {
    /// Checks the declaration.
    pub(crate) fn parse(input: DeriveInput) -> syn::Result<Self> {
        let mut errors = Vec::new();
        for lifetime in input.generics.lifetimes() {
            errors.push(syn::Error::new(
                lifetime.span(),
                "a persistent type has no lifetime parameters: what is stored borrows nothing",
            ));
        }
        let repr = Repr::read(&input.attrs, &mut errors);
        let attributes = Attributes::read(&input.attrs, true, &mut errors);
        let body = match input.data {
            Data::Struct(data) => {
                if !repr.c && !repr.transparent {
                    errors.push(syn::Error::new(
                        input.ident.span(),
                        "a persistent struct needs a layout that no compiler changes: add `#[repr(C)]`",
                    ));
                }
                Body::Struct {
                    shape: shape(&data.fields),
                    fields: fields(data.fields, &mut errors),
                    transparent: repr.transparent,
                }
            }
            Data::Enum(data) => {
                if !repr.u8 {
                    errors.push(syn::Error::new(
                        input.ident.span(),
                        "a persistent enum needs a layout that no compiler changes: add `#[repr(u8)]` \
                         or `#[repr(C, u8)]`",
                    ));
                }
                if data.variants.is_empty() {
                    errors.push(syn::Error::new(
                        input.ident.span(),
                        "an enum without variants has no values to store",
                    ));
                }
                let variants = data.variants.into_iter().map(|variant| Variant {
                    shape: shape(&variant.fields),
                    fields: fields(variant.fields, &mut errors),
                    attributes: Attributes::read(&variant.attrs, false, &mut errors),
                    ident: variant.ident,
                    discriminant: variant.discriminant.map(|(_, value)| value),
                });
                Body::Enum {
                    variants: variants.collect(),
                    prefixed: repr.c,
                }
            }
            Data::Union(data) => {
                errors.push(syn::Error::new(
                    data.union_token.span(),
                    "a union cannot be stored in a region: nobody could tell which field is \
                     alive; use an enum",
                ));
                Body::Struct {
                    shape: Shape::Unit,
                    fields: Vec::new(),
                    transparent: false,
                }
            }
        };
        let all: Box<dyn Iterator<Item = &Field>> = match &body {
            Body::Struct { fields, .. } => Box::new(fields.iter()),
            Body::Enum { variants, .. } => Box::new(variants.iter().flat_map(|v| &v.fields)),
        };
        all.for_each(|field| names::check(&field.ty, &mut errors));
        attributes::check_names(&body, &mut errors);

        if let Some(error) = errors.into_iter().reduce(|mut all, error| {
            all.combine(error);
            all
        }) {
            return Err(error);
        }
        let declared = input.generics;
        let body = body.naming(&input.ident, &declared);
        let mut generics = declared.clone();
        for parameter in declared.type_params() {
            let name = &parameter.ident;
            let bound = syn::parse_quote!(#name: ::bartender::Persist);
            generics.make_where_clause().predicates.push(bound);
        }
        Ok(Input {
            ident: input.ident,
            vis: input.vis,
            generics,
            declared,
            body,
            attributes,
        })
    }

    /// The tag of each variant as an expression of type `u8`, by Rust's rule: what is
    /// written, else one more than the variant before.
    pub(crate) fn tags(variants: &[Variant]) -> Vec<TokenStream> {
        let mut written: Option<&Expr> = None;
        let mut since = 0u8;
        let mut tags = Vec::new();
        for variant in variants {
            if let Some(value) = &variant.discriminant {
                (written, since) = (Some(value), 0);
            }
            tags.push(match written {
                Some(value) => quote!({ const TAG: u8 = (#value) + #since; TAG }),
                None => quote!(#since),
            });
            since = since.wrapping_add(1);
        }
        tags
    }
}

/// What the `repr` attributes say.
#[derive(Default)]
struct Repr {
    c: bool,
    u8: bool,
    transparent: bool,
}

impl Repr {
    fn read(attributes: &[Attribute], errors: &mut Vec<syn::Error>) -> Self {
        let mut repr = Repr::default();
        for attribute in attributes.iter().filter(|a| a.path().is_ident("repr")) {
            let read = attribute.parse_nested_meta(|meta| {
                let name = meta
                    .path
                    .get_ident()
                    .map(Ident::to_string)
                    .unwrap_or_default();
                match name.as_str() {
                    "C" => repr.c = true,
                    "u8" => repr.u8 = true,
                    "transparent" => repr.transparent = true,
                    "packed" => {
                        return Err(meta.error(
                            "a packed type cannot be persistent: its fields cannot be borrowed",
                        ));
                    }
                    "align" => {}
                    _ => {
                        // One error is enough.
                        repr.u8 = true;
                        return Err(meta.error(
                            "a persistent enum has a tag of one byte: use `u8` or `C, u8`",
                        ));
                    }
                }
                // `align(8)`: skip the argument.
                if meta.input.peek(syn::token::Paren) {
                    let argument;
                    syn::parenthesized!(argument in meta.input);
                    argument.parse::<TokenStream>()?;
                }
                Ok(())
            });
            errors.extend(read.err());
        }
        repr
    }
}

fn shape(fields: &syn::Fields) -> Shape {
    match fields {
        syn::Fields::Named(_) => Shape::Named,
        syn::Fields::Unnamed(_) => Shape::Tuple,
        syn::Fields::Unit => Shape::Unit,
    }
}

fn fields(fields: syn::Fields, errors: &mut Vec<syn::Error>) -> Vec<Field> {
    let fields = fields.into_iter().enumerate();
    fields
        .map(|(index, field)| Field {
            member: match field.ident {
                Some(ident) => Member::Named(ident),
                None => Member::Unnamed(index.into()),
            },
            vis: field.vis,
            ty: field.ty,
            attributes: Attributes::read(&field.attrs, false, errors),
        })
        .collect()
}

/// A name of the generated code, spanned so that lints of the program do not apply to it.
pub(crate) fn generated(ident: &Ident, suffix: &str) -> Ident {
    let name = syn::ext::IdentExt::unraw(ident);
    Ident::new(
        &format!("{name}{suffix}"),
        ident.span().resolved_at(Span::call_site()),
    )
}

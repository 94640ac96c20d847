//! What `#[persist(…)]` says: names in the region, and the type that a value migrates from.

use crate::input::{Body, Field};
use std::collections::HashSet;
use syn::spanned::Spanned;
use syn::{Attribute, LitStr, Type};

/// The attributes of a type, a field or a variant.
#[derive(Default)]
pub(crate) struct Attributes {
    /// The name in the region, where it is not that of the program.
    pub(crate) name: Option<String>,
    /// The name in earlier regions.
    pub(crate) renamed_from: Option<String>,
    /// The type of earlier regions; on types only.
    pub(crate) from: Option<Type>,
}

impl Attributes {
    pub(crate) fn read(
        attributes: &[Attribute],
        of_type: bool,
        errors: &mut Vec<syn::Error>,
    ) -> Self {
        let mut read = Attributes::default();
        let known = match of_type {
            true => "`name = \"…\"`, `renamed_from = \"…\"` and `from = OldType`",
            false => "`name = \"…\"` and `renamed_from = \"…\"`",
        };
        for attribute in attributes.iter().filter(|a| a.path().is_ident("persist")) {
            let parsed = attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("from") && of_type {
                    if read.from.is_some() {
                        return Err(
                            meta.error("one earlier type: its own `from` names the one before")
                        );
                    }
                    read.from = Some(meta.value()?.parse()?);
                    return Ok(());
                }
                let place = match () {
                    () if meta.path.is_ident("name") => &mut read.name,
                    () if meta.path.is_ident("renamed_from") => &mut read.renamed_from,
                    () if meta.path.is_ident("from") => {
                        return Err(meta.error(
                            "`from` stands on the type that migrates, not on a part of it",
                        ));
                    }
                    () => return Err(meta.error(format!("not known here: there are {known}"))),
                };
                if place.is_some() {
                    return Err(meta.error("it is said twice"));
                }
                let name: LitStr = meta.value()?.parse()?;
                if name.value().is_empty() || name.value().len() > 1024 {
                    return Err(syn::Error::new(name.span(), "a name has 1 to 1024 bytes"));
                }
                *place = Some(name.value());
                Ok(())
            });
            errors.extend(parsed.err());
        }
        if read.name.is_some() && read.name == read.renamed_from {
            let span = attributes.first().map(Spanned::span);
            let error = "renamed from the name that it has";
            errors.extend(span.map(|span| syn::Error::new(span, error)));
        }
        read
    }
}

/// That no two parts of the type have one name in the region.
pub(crate) fn check_names(body: &Body, errors: &mut Vec<syn::Error>) {
    let fields = |fields: &[Field], errors: &mut Vec<syn::Error>| {
        let mut seen = HashSet::new();
        for field in fields {
            if !seen.insert(field.stored_name()) {
                errors.push(twice(field.member.span(), &field.stored_name()));
            }
        }
    };
    match body {
        Body::Struct { fields: all, .. } => fields(all, errors),
        Body::Enum { variants, .. } => {
            let mut seen = HashSet::new();
            for variant in variants {
                if !seen.insert(variant.stored_name()) {
                    errors.push(twice(variant.ident.span(), &variant.stored_name()));
                }
                fields(&variant.fields, errors);
            }
        }
    }
}

fn twice(span: proc_macro2::Span, name: &str) -> syn::Error {
    syn::Error::new(
        span,
        format!("`{name}` is the name of two parts in the region"),
    )
}

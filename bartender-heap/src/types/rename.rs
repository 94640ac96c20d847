//! What a program says of earlier names of its types, fields and variants.
//!
//! It is about a program, not about data: it is never stored, and two schemas are equal without it. What reads it are
//! the difference of two schemas, and who opens a region that has an earlier name.

use super::{Field, Kind, Schema, TypeRef};
use std::collections::BTreeMap;

/// What has another name than before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Renamed {
    /// The type itself.
    Type,
    /// A field of a struct, by its name now.
    Field(String),
    /// A variant of an enum, by its name now.
    Variant(String),
    /// A field of a variant: the names now of the variant and of the field.
    VariantField(String, String),
}

/// Earlier names, by what has them.
#[derive(Debug, Clone, Default)]
pub(super) struct Renames {
    names: BTreeMap<(TypeRef, Renamed), String>,
}

impl Renames {
    pub(super) fn add(&mut self, ty: TypeRef, part: Renamed, from: &str) {
        self.names.insert((ty, part), from.to_owned());
    }

    pub(super) fn get(&self, ty: TypeRef, part: &Renamed) -> Option<&str> {
        self.names.get(&(ty, part.clone())).map(String::as_str)
    }

    /// The same for types with other numbers; what has none is dropped.
    pub(super) fn renumbered(self, number: impl Fn(TypeRef) -> Option<TypeRef>) -> Renames {
        let names = self.names.into_iter();
        let names = names.filter_map(|((ty, part), from)| Some(((number(ty)?, part), from)));
        Renames {
            names: names.collect(),
        }
    }
}

/// See [`Schema::renamed_as`]. Where only names differ, types have the same numbers in both.
pub(super) fn renamed_as(old: &Schema, new: &Schema) -> Schema {
    let mut renamed = old.clone();
    for ((ty, part), from) in &new.renames.names {
        let (Some(this), Some(that)) =
            (renamed.types.get_mut(ty.index()), new.types.get(ty.index()))
        else {
            continue;
        };
        let field = |fields: &mut [Field], name: &String| {
            if let Some(field) = fields.iter_mut().find(|field| field.name == *from) {
                field.name.clone_from(name);
            }
        };
        match (part, &mut this.kind) {
            (Renamed::Type, _) if this.name == *from => this.name.clone_from(&that.name),
            (Renamed::Field(name), Kind::Struct { fields }) => field(fields, name),
            (Renamed::Variant(name), Kind::Enum { variants, .. }) => {
                if let Some(variant) = variants.iter_mut().find(|v| v.name == *from) {
                    variant.name.clone_from(name);
                }
            }
            (Renamed::VariantField(owner, name), Kind::Enum { variants, .. }) => {
                // Whether the variant has its name of now or its earlier one: the order of renames puts variants first.
                if let Some(variant) = variants.iter_mut().find(|v| v.name == *owner) {
                    field(&mut variant.fields, name);
                }
            }
            _ => {}
        }
    }
    renamed
}

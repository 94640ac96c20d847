//! Building a schema from a program's types.
//!
//! Types may refer to each other in circles: a type gets its number before it is described. The
//! numbers given out while building depend on the order of calls; the finished schema is
//! numbered anew, depth-first from the root.

use super::rename::{Renamed, Renames};
use super::{BadSchema, Kind, Schema, Type, TypeRef, check};
use std::any::TypeId;
use std::collections::HashMap;

/// Collects the descriptions of types, each once.
#[derive(Debug, Default)]
pub struct SchemaBuilder {
    /// `None`: being described right now.
    types: Vec<Option<Type>>,
    known: HashMap<TypeId, TypeRef>,
    renames: Renames,
}

impl SchemaBuilder {
    /// A builder that knows no type.
    pub fn new() -> Self {
        SchemaBuilder::default()
    }

    /// The number of `T`, which `build` describes when it is asked for the first time. `build`
    /// may come back for `T` itself, directly or through other types.
    pub fn define<T: 'static>(
        &mut self,
        build: impl FnOnce(&mut SchemaBuilder) -> Type,
    ) -> TypeRef {
        if let Some(&known) = self.known.get(&TypeId::of::<T>()) {
            return known;
        }
        let number = TypeRef(u32::try_from(self.types.len()).expect("fewer than 2^32 types"));
        self.types.push(None);
        self.known.insert(TypeId::of::<T>(), number);
        let described = build(self);
        self.types[number.index()] = Some(described);
        number
    }

    /// Says that a part of the type `ty` was called `from` in earlier versions of the program.
    pub fn renamed(&mut self, ty: TypeRef, part: Renamed, from: &str) {
        self.renames.add(ty, part, from);
    }

    /// The schema of the types that `root` reaches.
    ///
    /// # Errors
    ///
    /// [`BadSchema`] when a description breaks a rule (a field outside of its struct,
    /// overlapping fields, a type that holds itself without a pointer in between, …): a mistake
    /// in an implementation of the description.
    pub fn finish(self, root: TypeRef) -> Result<Schema, BadSchema> {
        let types = self
            .types
            .into_iter()
            .map(|ty| ty.ok_or_else(|| BadSchema::new("a type is still being described")))
            .collect::<Result<Vec<_>, _>>()?;
        let schema = renumber(types, root, self.renames)?;
        check::check(&schema)?;
        Ok(schema)
    }
}

/// Numbers the types depth-first from `root` (which becomes 0) and drops those it does not reach.
pub(super) fn renumber(
    mut types: Vec<Type>,
    root: TypeRef,
    renames: Renames,
) -> Result<Schema, BadSchema> {
    let mut numbers: Vec<Option<TypeRef>> = vec![None; types.len()];
    let mut order = Vec::new();
    let mut stack = vec![root];
    while let Some(ty) = stack.pop() {
        let Some(number) = numbers.get_mut(ty.index()) else {
            return Err(BadSchema::new("a type refers to one that is not there"));
        };
        if number.is_some() {
            continue;
        }
        *number = Some(TypeRef(order.len() as u32));
        order.push(ty);
        // Pushed backwards, so that the first child is taken next.
        let from = stack.len();
        types[ty.index()].kind.each_ref(|child| stack.push(child));
        stack[from..].reverse();
    }
    let numbered = order
        .iter()
        .map(|ty| {
            let empty = Type {
                name: String::new(),
                size: 0,
                align: 1,
                kind: Kind::Opaque,
            };
            let mut ty = std::mem::replace(&mut types[ty.index()], empty);
            ty.kind.each_ref_mut(|child| {
                *child = numbers[child.index()].expect("every type reached has a number");
            });
            ty
        })
        .collect();
    Ok(Schema {
        types: numbered,
        root: TypeRef(0),
        renames: renames.renumbered(|ty| numbers.get(ty.index()).copied().flatten()),
    })
}

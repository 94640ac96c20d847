//! The rules of a well-formed schema, for descriptions from a program and from a file alike.
//!
//! After [`check`] a reader may rely on: every reference is a type of the schema; every part
//! lies inside its parent, aligned, and no two parts overlap; no type holds itself without a
//! pointer in between; parts nest at most [`MAX_DEPTH`] deep, so that a reader may recurse over
//! them.

use super::{BadSchema, EntryLayout, Field, Kind, NodeLayout, NoneForm, Schema, Type};

/// Types in a schema, at most.
pub(crate) const MAX_TYPES: usize = 1 << 20;
/// How deep parts may nest inside one value.
pub(crate) const MAX_DEPTH: u32 = 128;
/// Bytes of a value, at most: the address space of a process.
const MAX_SIZE: u64 = 1 << 47;
const MAX_ALIGN: u64 = 1 << 29;
/// Bytes of a name, at most.
pub(crate) const MAX_NAME: usize = 4096;

/// A part of a value: (offset, size), and what it is for the message.
type Part = (u64, u64);

pub(super) fn check(schema: &Schema) -> Result<(), BadSchema> {
    let count = schema.types().len();
    if count == 0 || count > MAX_TYPES || schema.root().index() >= count {
        return Err(BadSchema::new(format!("{count} types, or no root")));
    }
    // References first: everything after this may look them up.
    for ty in schema.types() {
        let mut good = true;
        ty.kind.each_ref(|child| good &= child.index() < count);
        if !good {
            let name = &ty.name;
            return Err(BadSchema::new(format!(
                "`{name}` refers to a type that is not there"
            )));
        }
    }
    for ty in schema.types() {
        check_type(schema, ty).map_err(|what| BadSchema::new(format!("`{}`: {what}", ty.name)))?;
    }
    check_nesting(schema)?;
    check_versions(schema)
}

fn check_type(schema: &Schema, ty: &Type) -> Result<(), String> {
    if ty.name.len() > MAX_NAME {
        return Err(format!("a name of {} bytes", ty.name.len()));
    }
    if !ty.align.is_power_of_two() || ty.align > MAX_ALIGN {
        return Err(format!("alignment {}", ty.align));
    }
    if ty.size > MAX_SIZE || !ty.size.is_multiple_of(ty.align) {
        return Err(format!("size {} with alignment {}", ty.size, ty.align));
    }
    let size_is = |allowed: &[u64]| match allowed.contains(&ty.size) {
        true => Ok(()),
        false => Err(format!("size {}", ty.size)),
    };
    let raw = |size: u64| match ty.size == size && ty.align == 8 {
        true => Ok(()),
        false => Err(format!("size {} with alignment {}", ty.size, ty.align)),
    };
    match &ty.kind {
        Kind::Int { .. } => size_is(&[1, 2, 4, 8, 16]),
        Kind::Below { end } => {
            size_is(&[1, 2, 4, 8])?;
            match *end {
                0 => Err("no number is below 0".into()),
                _ => Ok(()),
            }
        }
        Kind::Float => size_is(&[4, 8]),
        Kind::Bool => size_is(&[1]),
        Kind::Char => size_is(&[4]),
        Kind::Struct { fields } | Kind::Tuple { fields } => {
            check_fields(schema, ty, fields, Vec::new())
        }
        Kind::Enum {
            tag_offset,
            tag_size,
            variants,
        } => {
            if variants.is_empty() {
                return Err("an enum without variants".into());
            }
            let tag = check_tag(ty, *tag_offset, *tag_size)?;
            let mut tags = Vec::new();
            for variant in variants {
                if variant.name.len() > MAX_NAME {
                    return Err(format!("a name of {} bytes", variant.name.len()));
                }
                check_tag_value(*tag_size, variant.tag)?;
                check_fields(schema, ty, &variant.fields, vec![tag])
                    .map_err(|what| format!("variant `{}`: {what}", variant.name))?;
                tags.push(variant.tag);
            }
            tags.sort_unstable();
            match tags.windows(2).find(|pair| pair[0] == pair[1]) {
                Some(pair) => Err(format!("two variants have tag {}", pair[0])),
                None => Ok(()),
            }
        }
        Kind::Option {
            payload,
            offset,
            none,
        } => {
            let payload = check_part(ty, *offset, schema.get(*payload))?;
            match none {
                NoneForm::Niche { offset, bytes } => {
                    let len = bytes.len() as u64;
                    if len == 0 || len > 16 || !fits(*offset, len, ty.size) {
                        return Err(format!("the pattern of None: {len} bytes at {offset}"));
                    }
                    Ok(())
                }
                NoneForm::Tag {
                    offset,
                    size,
                    none,
                    some,
                } => {
                    let tag = check_tag(ty, *offset, *size)?;
                    check_tag_value(*size, *none)?;
                    check_tag_value(*size, *some)?;
                    if none == some {
                        return Err("None and Some have one tag".into());
                    }
                    check_overlap(vec![tag, payload])
                }
            }
        }
        Kind::Array { elem, len } => {
            let elem = schema.get(*elem);
            if elem.size.checked_mul(*len) != Some(ty.size) || elem.align != ty.align {
                return Err(format!(
                    "{len} elements of {} bytes (alignment {}) in {} bytes (alignment {})",
                    elem.size, elem.align, ty.size, ty.align
                ));
            }
            Ok(())
        }
        Kind::Box { .. } | Kind::Atomic { .. } | Kind::Rcu { .. } => raw(8),
        Kind::Shared { elem } => {
            raw(8)?;
            let block = schema.get(*elem);
            let first = match &block.kind {
                Kind::Struct { fields } => fields.first(),
                _ => None,
            };
            let counts = first.is_some_and(|first| {
                let ty = schema.get(first.ty);
                first.offset == 0 && ty.size == 8 && matches!(ty.kind, Kind::Int { .. })
            });
            match counts && block.align >= 8 {
                true => Ok(()),
                false => Err(format!("`{}` does not begin with a count", block.name)),
            }
        }
        Kind::Vec { .. } | Kind::Str => raw(24),
        Kind::Deque { .. } => raw(32),
        Kind::Slice { .. } | Kind::StrSlice => raw(16),
        Kind::Map { key, value, entry } => {
            raw(40)?;
            check_entry(schema.get(*key), schema.get(*value), entry)
        }
        Kind::Tree { cap, .. } => {
            raw(24)?;
            match (2..=NodeLayout::MAX_CAP).contains(cap) {
                true => Ok(()),
                false => Err(format!("nodes with room for {cap} entries")),
            }
        }
        Kind::Lock { inner, offset, .. } => {
            if ty.align < 8 || ty.size < 8 {
                return Err("no room for the word of a lock".into());
            }
            let inner = check_part(ty, *offset, schema.get(*inner))?;
            check_overlap(vec![(0, 8), inner])
        }
        Kind::Opaque => Ok(()),
        Kind::Untyped => match (ty.size, ty.align, schema.types().len()) {
            (0, 1, 1) => Ok(()),
            _ => Err("untyped data are all of a region, never a part of it".into()),
        },
    }
}

fn fits(offset: u64, size: u64, parent: u64) -> bool {
    offset.checked_add(size).is_some_and(|end| end <= parent)
}

/// That a value of type `part` can lie at `offset` in one of type `parent`.
fn check_part(parent: &Type, offset: u64, part: &Type) -> Result<Part, String> {
    if !fits(offset, part.size, parent.size) {
        return Err(format!(
            "a part of {} bytes at {offset} in {} bytes",
            part.size, parent.size
        ));
    }
    if part.align > parent.align || !offset.is_multiple_of(part.align) {
        return Err(format!(
            "a part with alignment {} at {offset}, in alignment {}",
            part.align, parent.align
        ));
    }
    Ok((offset, part.size))
}

fn check_fields(
    schema: &Schema,
    parent: &Type,
    fields: &[Field],
    mut parts: Vec<Part>,
) -> Result<(), String> {
    for field in fields {
        if field.name.len() > MAX_NAME {
            return Err(format!("a name of {} bytes", field.name.len()));
        }
        let part = check_part(parent, field.offset, schema.get(field.ty))
            .map_err(|what| format!("field `{}`: {what}", field.name))?;
        parts.push(part);
    }
    check_overlap(parts)
}

fn check_overlap(mut parts: Vec<Part>) -> Result<(), String> {
    parts.retain(|&(_, size)| size > 0);
    parts.sort_unstable();
    match parts.windows(2).find(|two| two[0].0 + two[0].1 > two[1].0) {
        Some(two) => Err(format!("two parts overlap at {}", two[1].0)),
        None => Ok(()),
    }
}

fn check_tag(ty: &Type, offset: u64, size: u64) -> Result<Part, String> {
    let good =
        matches!(size, 1 | 2 | 4 | 8) && fits(offset, size, ty.size) && offset.is_multiple_of(size);
    match good {
        true => Ok((offset, size)),
        false => Err(format!("a tag of {size} bytes at {offset}")),
    }
}

fn check_tag_value(size: u64, tag: u64) -> Result<(), String> {
    match size == 8 || tag >> (8 * size) == 0 {
        true => Ok(()),
        false => Err(format!("tag {tag} in {size} bytes")),
    }
}

fn check_entry(key: &Type, value: &Type, entry: &EntryLayout) -> Result<(), String> {
    let whole = Type {
        name: String::new(),
        size: entry.size,
        align: entry.align,
        kind: Kind::Opaque,
    };
    let power = entry.align.is_power_of_two() && entry.align <= MAX_ALIGN;
    if !power || entry.size > MAX_SIZE || !entry.size.is_multiple_of(entry.align) {
        return Err(format!(
            "entries of {} bytes with alignment {}",
            entry.size, entry.align
        ));
    }
    let key = check_part(&whole, 0, key)?;
    let value = check_part(&whole, entry.value_offset, value)?;
    check_overlap(vec![key, value])
}

/// That a [`Kind::Rcu`] leads to nothing that changes by itself: who reads a version that was replaced would change what
/// nobody has any more.
fn check_versions(schema: &Schema) -> Result<(), BadSchema> {
    let types = schema.types();
    let changes = |kind: &Kind| {
        matches!(
            kind,
            Kind::Lock { .. } | Kind::Atomic { .. } | Kind::Shared { .. } | Kind::Rcu { .. }
        )
    };
    if !types.iter().any(|ty| matches!(ty.kind, Kind::Rcu { .. })) {
        return Ok(());
    }
    // From what changes, back to whatever leads there.
    let mut before = vec![Vec::new(); types.len()];
    for (i, ty) in types.iter().enumerate() {
        ty.kind.each_ref(|child| before[child.index()].push(i));
    }
    let mut leads = vec![false; types.len()];
    let mut stack: Vec<usize> = (0..types.len())
        .filter(|&i| changes(&types[i].kind))
        .collect();
    while let Some(i) = stack.pop() {
        if !std::mem::replace(&mut leads[i], true) {
            stack.extend(&before[i]);
        }
    }
    for ty in types {
        if let Kind::Rcu { elem } = ty.kind
            && leads[elem.index()]
        {
            let what = &schema.get(elem).name;
            return Err(BadSchema::new(format!(
                "`{}`: its value `{what}` leads to a lock, an atomic, or something shared, which readers of an old version could change",
                ty.name
            )));
        }
    }
    Ok(())
}

/// That no type holds itself inline, nor nests deeper than [`MAX_DEPTH`]. Computes depths
/// without recursion.
fn check_nesting(schema: &Schema) -> Result<(), BadSchema> {
    const NEW: u32 = u32::MAX;
    const OPEN: u32 = u32::MAX - 1;
    let mut depths = vec![NEW; schema.types().len()];
    for start in 0..depths.len() {
        let mut stack = vec![(start, false)];
        while let Some((ty, children_done)) = stack.pop() {
            let this = &schema.types()[ty];
            if children_done {
                let mut depth = 0;
                if this.kind.is_inline() {
                    this.kind
                        .each_ref(|child| depth = depth.max(depths[child.index()] + 1));
                }
                if depth > MAX_DEPTH {
                    let name = &this.name;
                    return Err(BadSchema::new(format!(
                        "`{name}`: parts nest more than {MAX_DEPTH} deep"
                    )));
                }
                depths[ty] = depth;
                continue;
            }
            match depths[ty] {
                NEW => {}
                OPEN => {
                    let name = &this.name;
                    return Err(BadSchema::new(format!("`{name}` holds itself")));
                }
                _ => continue,
            }
            depths[ty] = OPEN;
            stack.push((ty, true));
            if this.kind.is_inline() {
                this.kind
                    .each_ref(|child| stack.push((child.index(), false)));
            }
        }
    }
    Ok(())
}

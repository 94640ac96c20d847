//! A schema to bytes and back.
//!
//! Encoding is a function of the schema alone. Decoding first reads the records, checking each
//! index and range, then checks the schema's own rules, and at last encodes the result again:
//! only the very bytes that encoding would give are accepted, which settles unused operands,
//! order and sharing at once.
//!
//! | kind | flags | first, count | x, y | a, b, c, d |
//! |---|---|---|---|---|
//! | 0 int | 1 signed, 2 nonzero | | | |
//! | 1 float, 2 bool, 3 char, 10 str, 13 opaque, 19 boxed str | | | | |
//! | 4 struct, 5 tuple | | fields | | |
//! | 6 enum | | variants | | tag offset, tag size |
//! | 7 option, niche | 0 | pattern in the strings | payload | payload offset, pattern offset |
//! | 7 option, tag | 1 | 0, tag size | payload | payload offset, tag offset, tag of None, tag of Some |
//! | 8 array | | | element | length |
//! | 9 box, 11 vec, 17 deque, 18 boxed slice | | | element | |
//! | 12 map | | | key, value | entry size, entry align, value offset |
//! | 16 tree | | | key, value | entries of a node |
//! | 14 lock | 1 readers may share | | inner | inner offset |
//! | 23 below | | | | end |
//! | 15 untyped | | | | |
//! | 20 atomic | 1 signed | | | |
//! | 21 shared, 22 rcu | | | block, element | |

use super::layout::{FieldRecord, Header, MAGIC, Pod, Text, TypeRecord, VERSION, VariantRecord};
use super::rename::Renames;
use super::{
    BadSchema, EntryLayout, Field, Kind, NoneForm, Schema, Type, TypeRef, Variant, builder, check,
};
use std::cell::Cell;
use std::collections::HashMap;

const INT: u32 = 0;
const FLOAT: u32 = 1;
const BOOL: u32 = 2;
const CHAR: u32 = 3;
const STRUCT: u32 = 4;
const TUPLE: u32 = 5;
const ENUM: u32 = 6;
const OPTION: u32 = 7;
const ARRAY: u32 = 8;
const BOX: u32 = 9;
const STR: u32 = 10;
const VEC: u32 = 11;
const MAP: u32 = 12;
const OPAQUE: u32 = 13;
const LOCK: u32 = 14;
const UNTYPED: u32 = 15;
const TREE: u32 = 16;
const DEQUE: u32 = 17;
const SLICE: u32 = 18;
const STR_SLICE: u32 = 19;
const ATOMIC: u32 = 20;
const SHARED: u32 = 21;
const RCU: u32 = 22;
const BELOW: u32 = 23;

/// What encoding gathers.
#[derive(Default)]
struct Encoder {
    types: Vec<TypeRecord>,
    variants: Vec<VariantRecord>,
    fields: Vec<FieldRecord>,
    strings: Vec<u8>,
    known: HashMap<Vec<u8>, Text>,
}

pub(super) fn encode(schema: &Schema) -> Vec<u8> {
    let mut encoder = Encoder::default();
    for ty in schema.types() {
        let record = encoder.record(ty);
        encoder.types.push(record);
    }
    let header = Header {
        magic: MAGIC,
        version: VERSION,
        types: encoder.types.len() as u32,
        variants: encoder.variants.len() as u32,
        fields: encoder.fields.len() as u32,
        strings: encoder.strings.len() as u32,
        root: schema.root().0,
    };
    let mut out = header.bytes().to_vec();
    encoder
        .types
        .iter()
        .for_each(|r| out.extend_from_slice(r.bytes()));
    encoder
        .variants
        .iter()
        .for_each(|r| out.extend_from_slice(r.bytes()));
    encoder
        .fields
        .iter()
        .for_each(|r| out.extend_from_slice(r.bytes()));
    out.extend_from_slice(&encoder.strings);
    out
}

impl Encoder {
    /// The place of `bytes` among the strings; equal ones are stored once.
    fn text(&mut self, bytes: &[u8]) -> Text {
        if let Some(&known) = self.known.get(bytes) {
            return known;
        }
        let text = Text {
            start: self.strings.len() as u32,
            len: bytes.len() as u32,
        };
        self.strings.extend_from_slice(bytes);
        self.known.insert(bytes.to_vec(), text);
        text
    }

    /// (first, count) of `fields`, which are added.
    fn fields(&mut self, fields: &[Field]) -> (u32, u32) {
        let first = self.fields.len() as u32;
        for field in fields {
            let name = self.text(field.name.as_bytes());
            self.fields.push(FieldRecord {
                name,
                offset: field.offset,
                ty: field.ty.0,
                zero: 0,
            });
        }
        (first, fields.len() as u32)
    }

    fn record(&mut self, ty: &Type) -> TypeRecord {
        let mut r = TypeRecord {
            name: self.text(ty.name.as_bytes()),
            size: ty.size,
            align: ty.align,
            ..TypeRecord::default()
        };
        match &ty.kind {
            Kind::Int { signed, nonzero } => {
                r.kind = INT;
                r.flags = u32::from(*signed) | u32::from(*nonzero) << 1;
            }
            Kind::Below { end } => (r.kind, r.a) = (BELOW, *end),
            Kind::Float => r.kind = FLOAT,
            Kind::Bool => r.kind = BOOL,
            Kind::Char => r.kind = CHAR,
            Kind::Struct { fields } => {
                r.kind = STRUCT;
                (r.first, r.count) = self.fields(fields);
            }
            Kind::Tuple { fields } => {
                r.kind = TUPLE;
                (r.first, r.count) = self.fields(fields);
            }
            Kind::Enum {
                tag_offset,
                tag_size,
                variants,
            } => {
                r.kind = ENUM;
                (r.a, r.b) = (*tag_offset, *tag_size);
                (r.first, r.count) = (self.variants.len() as u32, variants.len() as u32);
                for variant in variants {
                    let name = self.text(variant.name.as_bytes());
                    let (first, count) = self.fields(&variant.fields);
                    self.variants.push(VariantRecord {
                        name,
                        tag: variant.tag,
                        first,
                        count,
                    });
                }
            }
            Kind::Option {
                payload,
                offset,
                none,
            } => {
                r.kind = OPTION;
                (r.x, r.a) = (payload.0, *offset);
                match none {
                    NoneForm::Niche { offset, bytes } => {
                        let pattern = self.text(bytes);
                        (r.first, r.count, r.b) = (pattern.start, pattern.len, *offset);
                    }
                    NoneForm::Tag {
                        offset,
                        size,
                        none,
                        some,
                    } => {
                        (r.flags, r.count) = (1, *size as u32);
                        (r.b, r.c, r.d) = (*offset, *none, *some);
                    }
                }
            }
            Kind::Array { elem, len } => (r.kind, r.x, r.a) = (ARRAY, elem.0, *len),
            Kind::Box { elem } => (r.kind, r.x) = (BOX, elem.0),
            Kind::Vec { elem } => (r.kind, r.x) = (VEC, elem.0),
            Kind::Deque { elem } => (r.kind, r.x) = (DEQUE, elem.0),
            Kind::Slice { elem } => (r.kind, r.x) = (SLICE, elem.0),
            Kind::StrSlice => r.kind = STR_SLICE,
            Kind::Str => r.kind = STR,
            Kind::Map { key, value, entry } => {
                (r.kind, r.x, r.y) = (MAP, key.0, value.0);
                (r.a, r.b, r.c) = (entry.size, entry.align, entry.value_offset);
            }
            Kind::Tree { key, value, cap } => {
                (r.kind, r.x, r.y, r.a) = (TREE, key.0, value.0, *cap);
            }
            Kind::Lock { inner, offset, rw } => {
                (r.kind, r.flags) = (LOCK, u32::from(*rw));
                (r.x, r.a) = (inner.0, *offset);
            }
            Kind::Atomic { signed } => (r.kind, r.flags) = (ATOMIC, u32::from(*signed)),
            Kind::Shared { elem } => (r.kind, r.x) = (SHARED, elem.0),
            Kind::Rcu { elem } => (r.kind, r.x) = (RCU, elem.0),
            Kind::Opaque => r.kind = OPAQUE,
            Kind::Untyped => r.kind = UNTYPED,
        }
        r
    }
}

/// What decoding reads from; the sections have been measured. Each record is used once, in
/// order, and names may take [`MAX_NAMES`] bytes: a forged description cannot make a small file
/// large.
struct Decoder<'a> {
    types: &'a [u8],
    variants: Section<'a>,
    fields: Section<'a>,
    strings: &'a [u8],
    names: Cell<usize>,
}

/// Bytes of all names of a schema, at most.
const MAX_NAMES: usize = 64 << 20;

struct Section<'a> {
    bytes: &'a [u8],
    used: Cell<u32>,
}

pub(super) fn decode(bytes: &[u8]) -> Result<Schema, BadSchema> {
    let header = Header::read(bytes).ok_or_else(|| BadSchema::new("cut off"))?;
    if header.magic != MAGIC {
        return Err(BadSchema::new("not a type description"));
    }
    if header.version != VERSION {
        return Err(BadSchema::new(format!(
            "version {}, this program knows {VERSION}",
            header.version
        )));
    }
    if header.types as usize > check::MAX_TYPES {
        return Err(BadSchema::new(format!("{} types", header.types)));
    }
    let mut rest = &bytes[size_of::<Header>()..];
    let mut section = |count: u32, size: usize| {
        let len = (count as usize).checked_mul(size)?;
        let (section, tail) = rest.split_at_checked(len)?;
        rest = tail;
        Some(section)
    };
    let decoder = (|| {
        Some(Decoder {
            types: section(header.types, size_of::<TypeRecord>())?,
            variants: Section::new(section(header.variants, size_of::<VariantRecord>())?),
            fields: Section::new(section(header.fields, size_of::<FieldRecord>())?),
            strings: section(header.strings, 1)?,
            names: Cell::new(0),
        })
    })()
    .ok_or_else(|| BadSchema::new("cut off"))?;
    let types = decoder
        .types
        .chunks_exact(size_of::<TypeRecord>())
        .map(|record| decoder.ty(TypeRecord::read(record)?))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| BadSchema::new("a record of unknown kind, or out of place"))?;
    let count = types.len();
    if header.root as usize >= count
        || types.iter().any(|ty| {
            let mut good = true;
            ty.kind.each_ref(|child| good &= child.index() < count);
            !good
        })
    {
        return Err(BadSchema::new("a type refers to one that is not there"));
    }
    let schema = builder::renumber(types, TypeRef(header.root), Renames::default())?;
    check::check(&schema)?;
    if encode(&schema) != bytes {
        return Err(BadSchema::new("not in canonical form"));
    }
    Ok(schema)
}

impl<'a> Section<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Section {
            bytes,
            used: Cell::new(0),
        }
    }

    /// The records `first..first + count`, which must be the next ones.
    fn records<T: Pod>(
        &self,
        first: u32,
        count: u32,
    ) -> Option<impl Iterator<Item = Option<T>> + use<'a, T>> {
        if first != self.used.get() {
            return None;
        }
        self.used.set(first.checked_add(count)?);
        let start = (first as usize).checked_mul(size_of::<T>())?;
        let len = (count as usize).checked_mul(size_of::<T>())?;
        let range = self.bytes.get(start..start.checked_add(len)?)?;
        Some(range.chunks_exact(size_of::<T>()).map(T::read))
    }
}

impl Decoder<'_> {
    fn bytes(&self, start: u32, len: u32) -> Option<&[u8]> {
        let start = start as usize;
        self.strings.get(start..start.checked_add(len as usize)?)
    }

    fn text(&self, text: Text) -> Option<String> {
        let names = self.names.get() + text.len as usize;
        self.names.set(names);
        if text.len as usize > check::MAX_NAME || names > MAX_NAMES {
            return None;
        }
        let bytes = self.bytes(text.start, text.len)?;
        std::str::from_utf8(bytes).ok().map(str::to_owned)
    }

    fn fields(&self, first: u32, count: u32) -> Option<Vec<Field>> {
        self.fields
            .records(first, count)?
            .map(|record: Option<FieldRecord>| {
                let record = record?;
                Some(Field {
                    name: self.text(record.name)?,
                    offset: record.offset,
                    ty: TypeRef(record.ty),
                })
            })
            .collect()
    }

    fn ty(&self, r: TypeRecord) -> Option<Type> {
        let kind = match r.kind {
            INT => Kind::Int {
                signed: r.flags & 1 != 0,
                nonzero: r.flags & 2 != 0,
            },
            BELOW => Kind::Below { end: r.a },
            FLOAT => Kind::Float,
            BOOL => Kind::Bool,
            CHAR => Kind::Char,
            STRUCT => Kind::Struct {
                fields: self.fields(r.first, r.count)?,
            },
            TUPLE => Kind::Tuple {
                fields: self.fields(r.first, r.count)?,
            },
            ENUM => Kind::Enum {
                tag_offset: r.a,
                tag_size: r.b,
                variants: self
                    .variants
                    .records(r.first, r.count)?
                    .map(|record: Option<VariantRecord>| {
                        let record = record?;
                        Some(Variant {
                            name: self.text(record.name)?,
                            tag: record.tag,
                            fields: self.fields(record.first, record.count)?,
                        })
                    })
                    .collect::<Option<_>>()?,
            },
            OPTION => Kind::Option {
                payload: TypeRef(r.x),
                offset: r.a,
                none: match r.flags {
                    0 => NoneForm::Niche {
                        offset: r.b,
                        bytes: self.bytes(r.first, r.count)?.to_vec(),
                    },
                    _ => NoneForm::Tag {
                        offset: r.b,
                        size: u64::from(r.count),
                        none: r.c,
                        some: r.d,
                    },
                },
            },
            ARRAY => Kind::Array {
                elem: TypeRef(r.x),
                len: r.a,
            },
            BOX => Kind::Box { elem: TypeRef(r.x) },
            STR => Kind::Str,
            VEC => Kind::Vec { elem: TypeRef(r.x) },
            DEQUE => Kind::Deque { elem: TypeRef(r.x) },
            SLICE => Kind::Slice { elem: TypeRef(r.x) },
            STR_SLICE => Kind::StrSlice,
            MAP => Kind::Map {
                key: TypeRef(r.x),
                value: TypeRef(r.y),
                entry: EntryLayout {
                    size: r.a,
                    align: r.b,
                    value_offset: r.c,
                },
            },
            TREE => Kind::Tree {
                key: TypeRef(r.x),
                value: TypeRef(r.y),
                cap: r.a,
            },
            ATOMIC => Kind::Atomic {
                signed: r.flags != 0,
            },
            SHARED => Kind::Shared { elem: TypeRef(r.x) },
            RCU => Kind::Rcu { elem: TypeRef(r.x) },
            OPAQUE => Kind::Opaque,
            UNTYPED => Kind::Untyped,
            LOCK => Kind::Lock {
                inner: TypeRef(r.x),
                offset: r.a,
                rw: r.flags != 0,
            },
            _ => return None,
        };
        Some(Type {
            name: self.text(r.name)?,
            size: r.size,
            align: r.align,
            kind,
        })
    }
}

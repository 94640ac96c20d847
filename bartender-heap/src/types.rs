//! Type descriptions: what a region knows about the shape of its data.
//!
//! A [`Schema`] lists the types that can be reached from a root type, with names, sizes,
//! offsets and the places of pointers, so that marking, checking, relocating and comparing need
//! no help from the program. A schema that exists is well formed: [`SchemaBuilder::finish`] and
//! [`Schema::decode`] check the same rules, and the second never trusts a byte. Types are
//! numbered depth-first from the root, so equal programs give equal bytes.
//!
//! What it does not do: look at data (that is the marker), or describe how values hash and compare.

mod builder;
mod check;
mod diff;
mod encode;
mod layout;
mod rename;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

pub use builder::SchemaBuilder;
pub use rename::Renamed;

use crate::layout::RawNode;
use std::fmt;

/// Why a schema is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad type description: {what}")]
pub struct BadSchema {
    /// The rule that is broken, and by which type.
    pub what: String,
}

impl BadSchema {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        BadSchema { what: what.into() }
    }
}

/// A type within its schema (or within the builder that gave it out).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeRef(pub(crate) u32);

impl TypeRef {
    /// Position in [`Schema::types`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One type: its name, its layout, and what it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    /// Name for people. Of a container only the head ("PVec"): [`Schema::name`] adds the elements.
    pub name: String,
    /// Bytes of a value.
    pub size: u64,
    /// Alignment of a value, a power of two.
    pub align: u64,
    /// What it is made of.
    pub kind: Kind,
}

impl Type {
    /// A description of the Rust type `T`, with its size and alignment.
    pub fn of<T>(name: impl Into<String>, kind: Kind) -> Self {
        Type {
            name: name.into(),
            size: size_of::<T>() as u64,
            align: align_of::<T>() as u64,
            kind,
        }
    }

    /// A description of `T` as bytes of which every pattern is valid and none is a pointer.
    pub fn opaque<T>(name: impl Into<String>) -> Self {
        Type::of::<T>(name, Kind::Opaque)
    }
}

/// What a type is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// An integer of 1, 2, 4, 8 or 16 bytes.
    Int {
        /// Whether it is two's complement.
        signed: bool,
        /// Whether zero is invalid (`NonZero<T>`).
        nonzero: bool,
    },
    /// An integer of 1, 2, 4 or 8 bytes, not negative and below a bound.
    Below {
        /// The lowest number that is invalid.
        end: u64,
    },
    /// An IEEE number of 4 or 8 bytes.
    Float,
    /// One byte, 0 or 1.
    Bool,
    /// A Unicode scalar value.
    Char,
    /// Named fields (or fields "0", "1", … of a tuple struct).
    Struct {
        /// In order of declaration.
        fields: Vec<Field>,
    },
    /// Fields "0", "1", … where the compiler put them.
    Tuple {
        /// In order of declaration.
        fields: Vec<Field>,
    },
    /// One of several variants, told apart by a tag.
    Enum {
        /// Offset of the tag.
        tag_offset: u64,
        /// Bytes of the tag: 1, 2, 4 or 8.
        tag_size: u64,
        /// In order of declaration; at least one.
        variants: Vec<Variant>,
    },
    /// `Option<payload>`, as the compiler laid it out.
    Option {
        /// The type inside.
        payload: TypeRef,
        /// Offset of the payload when there is one.
        offset: u64,
        /// How `None` is told.
        none: NoneForm,
    },
    /// `len` values one after the other.
    Array {
        /// The type of each.
        elem: TypeRef,
        /// How many.
        len: u64,
    },
    /// [`RawBox`](crate::layout::RawBox): a pointer to a block of its own that holds one value.
    Box {
        /// The type of the value.
        elem: TypeRef,
    },
    /// [`RawVec`](crate::layout::RawVec): a block of its own that holds a number of values.
    Vec {
        /// The type of the values.
        elem: TypeRef,
    },
    /// [`RawDeque`](crate::layout::RawDeque): a ring of values in a block of its own.
    Deque {
        /// The type of the values.
        elem: TypeRef,
    },
    /// [`RawSlice`](crate::layout::RawSlice): a block of its own that holds a number of values, all that fit.
    Slice {
        /// The type of the values.
        elem: TypeRef,
    },
    /// [`RawSlice`](crate::layout::RawSlice) of UTF-8 bytes.
    StrSlice,
    /// [`RawVec`](crate::layout::RawVec) of UTF-8 bytes.
    Str,
    /// [`RawTable`](crate::layout::RawTable): a hash table in a block of its own.
    Map {
        /// The type of the keys.
        key: TypeRef,
        /// The type of the values; a set has a type of size 0 here.
        value: TypeRef,
        /// How key and value lie in an entry.
        entry: EntryLayout,
    },
    /// [`RawTree`](crate::layout::RawTree): an ordered map in nodes of their own. How keys compare is not told: that they
    /// stand in order, nobody can check who does not know their type.
    Tree {
        /// The type of the keys.
        key: TypeRef,
        /// The type of the values; a set has a type of size 0 here.
        value: TypeRef,
        /// Entries that a node has room for; see [`NodeLayout`].
        cap: u64,
    },
    /// [`RawLock`](crate::layout::RawLock) (8 zero bytes at offset 0) in front of a value.
    Lock {
        /// The type of the value.
        inner: TypeRef,
        /// Where the value lies.
        offset: u64,
        /// Whether readers may share it (`PRwLock`); else it is a mutex.
        rw: bool,
    },
    /// An integer of 8 bytes that transactions change beside each other, each when it commits.
    Atomic {
        /// Whether it is two's complement.
        signed: bool,
    },
    /// [`RawBox`](crate::layout::RawBox) with other owners of the same block, which counts them.
    Shared {
        /// The type of the block: a struct that begins with the count, an integer of 8 bytes.
        elem: TypeRef,
    },
    /// [`RawBox`](crate::layout::RawBox) whose readers take no lock: another box takes its place while they look at the
    /// value. So nothing that it leads to may change by itself: no lock, no atomic, nothing shared.
    Rcu {
        /// The type of the value.
        elem: TypeRef,
    },
    /// Bytes of which every pattern is valid and none is a pointer.
    Opaque,
    /// What a program without types stored: any word may be a pointer. Only ever the whole of a
    /// schema, see [`Schema::untyped`].
    Untyped,
}

/// A field of a struct, a tuple or a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name ("0", "1", … where it has none).
    pub name: String,
    /// Offset from the start of the struct, tuple or (for a variant) of the whole enum.
    pub offset: u64,
    /// Its type.
    pub ty: TypeRef,
}

/// A variant of an enum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// The tag's value, zero-extended from the tag's size.
    pub tag: u64,
    /// Its fields, in order of declaration.
    pub fields: Vec<Field>,
}

/// How a `None` is told from a `Some`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoneForm {
    /// The value is `None` exactly when these bytes stand at this offset: a pattern that the
    /// payload never has.
    Niche {
        /// Where, from the start of the option.
        offset: u64,
        /// Up to 16 bytes.
        bytes: Vec<u8>,
    },
    /// A tag beside the payload.
    Tag {
        /// Offset of the tag.
        offset: u64,
        /// Bytes of the tag: 1, 2, 4 or 8.
        size: u64,
        /// The tag of `None`.
        none: u64,
        /// The tag of `Some`.
        some: u64,
    },
}

/// Layout of `#[repr(C)] struct Entry<K, V> { key: K, value: V }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryLayout {
    /// Bytes from one entry to the next.
    pub size: u64,
    /// Alignment of an entry.
    pub align: u64,
    /// Offset of the value; the key is at 0.
    pub value_offset: u64,
}

impl EntryLayout {
    /// The layout of an entry of `K` and `V`.
    pub fn of<K, V>() -> Self {
        #[repr(C)]
        struct Entry<K, V> {
            key: K,
            value: V,
        }
        EntryLayout {
            size: size_of::<Entry<K, V>>() as u64,
            align: align_of::<Entry<K, V>>() as u64,
            value_offset: std::mem::offset_of!(Entry<K, V>, value) as u64,
        }
    }
}

/// Where the parts of a [`RawNode`] lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeLayout {
    /// Entries that it has room for.
    pub cap: u64,
    /// Offset of the keys.
    pub keys: u64,
    /// Offset of the values.
    pub values: u64,
    /// Offset of the children, where a leaf ends.
    pub children: u64,
    /// Bytes of a node that has children.
    pub size: u64,
    /// Alignment of a node.
    pub align: u64,
}

impl NodeLayout {
    /// Most entries of a node.
    pub const MAX_CAP: u64 = 1024;

    /// The layout of a node for `cap` entries, whose keys and values have these sizes and alignments.
    pub const fn new(cap: u64, key: (u64, u64), value: (u64, u64)) -> Self {
        let keys = (size_of::<RawNode>() as u64).next_multiple_of(key.1);
        let values = (keys + cap * key.0).next_multiple_of(value.1);
        let children = (values + cap * value.0).next_multiple_of(8);
        let mut align = 8;
        if key.1 > align {
            align = key.1;
        }
        if value.1 > align {
            align = value.1;
        }
        NodeLayout {
            cap,
            keys,
            values,
            children,
            size: children + 8 * (cap + 1),
            align,
        }
    }

    /// The layout of a node for `cap` entries of `K` and `V`.
    pub const fn of<K, V>(cap: u64) -> Self {
        let key = (size_of::<K>() as u64, align_of::<K>() as u64);
        NodeLayout::new(cap, key, (size_of::<V>() as u64, align_of::<V>() as u64))
    }

    /// Bytes of a node of a level.
    pub const fn bytes(&self, level: u64) -> u64 {
        if level == 0 { self.children } else { self.size }
    }
}

/// The types that can be reached from a root type. Always well formed (see the module).
#[derive(Debug, Clone)]
pub struct Schema {
    types: Vec<Type>,
    root: TypeRef,
    /// What a program says of earlier names; never stored, and of no weight when schemas are compared.
    renames: rename::Renames,
}

impl PartialEq for Schema {
    fn eq(&self, other: &Schema) -> bool {
        self.root == other.root && self.types == other.types
    }
}

impl Eq for Schema {}

/// Bytes of a full name after which the rest is left out: types in pairs of pairs make names that are longer than
/// any memory.
const MAX_FULL_NAME: usize = 256;

impl Schema {
    /// The description of a type, given the function that describes it.
    ///
    /// # Errors
    ///
    /// As [`SchemaBuilder::finish`].
    pub fn of(describe: impl FnOnce(&mut SchemaBuilder) -> TypeRef) -> Result<Self, BadSchema> {
        let mut builder = SchemaBuilder::new();
        let root = describe(&mut builder);
        builder.finish(root)
    }

    /// The description of data without one: blocks are found by looking at each word of those
    /// that are known (conservatively), and nothing of it can be checked or moved.
    pub fn untyped() -> Self {
        let whole = Type {
            name: "untyped".into(),
            size: 0,
            align: 1,
            kind: Kind::Untyped,
        };
        Schema {
            types: vec![whole],
            root: TypeRef(0),
            renames: rename::Renames::default(),
        }
    }

    /// Whether it is [`Schema::untyped`].
    pub fn is_untyped(&self) -> bool {
        matches!(self.get(self.root).kind, Kind::Untyped)
    }

    /// All types, depth-first from the root.
    pub fn types(&self) -> &[Type] {
        &self.types
    }

    /// The type of the root value.
    pub fn root(&self) -> TypeRef {
        self.root
    }

    /// The type `ty`.
    ///
    /// # Panics
    ///
    /// When `ty` comes from another schema and there is no type of that number here.
    pub fn get(&self, ty: TypeRef) -> &Type {
        &self.types[ty.index()]
    }

    /// Where the parts of a tree's nodes lie.
    pub(crate) fn node(&self, key: TypeRef, value: TypeRef, cap: u64) -> NodeLayout {
        let (key, value) = (self.get(key), self.get(value));
        NodeLayout::new(cap, (key.size, key.align), (value.size, value.align))
    }

    /// The full name of `ty`, as a programmer writes it: `PVec<Option<Account>>`. Of a very long one, the beginning.
    pub fn name(&self, ty: TypeRef) -> String {
        let mut out = String::new();
        self.write_name(ty, &mut out, 0);
        out
    }

    /// The type `ty` and what it reaches, as a schema of its own.
    ///
    /// # Panics
    ///
    /// As [`get`](Self::get).
    pub fn part(&self, ty: TypeRef) -> Schema {
        self.get(ty);
        builder::renumber(self.types.clone(), ty, rename::Renames::default())
            .expect("a part of a well-formed schema is one")
    }

    /// The name that a part of the type `ty` had before, if the program says so.
    pub fn renamed_from(&self, ty: TypeRef, part: &Renamed) -> Option<&str> {
        self.renames.get(ty, part)
    }

    /// This (older) schema with the names that `new` has for the same parts by its renames. Equal to `new` where only
    /// names differ of which `new` says what they were: then the data are the same in both.
    pub fn renamed_as(&self, new: &Schema) -> Schema {
        rename::renamed_as(self, new)
    }

    /// The differences between `self` (old) and `other` (new), one line each, nearest to the root first; empty exactly
    /// when the two are equal. Each line begins with the place, as a path from the root type: `Bank.accounts[].cents:
    /// u32 → u64`. A type that is used in many places is told of once. The text is stable, and bounded: of more than a
    /// hundred differences, the last line tells how many.
    pub fn diff(&self, other: &Schema) -> Vec<String> {
        diff::diff(self, other)
    }

    /// The bytes that [`decode`](Self::decode) reads; the same for equal schemas.
    pub fn encode(&self) -> Vec<u8> {
        encode::encode(self)
    }

    /// Reads what [`encode`](Self::encode) wrote. Accepts nothing else: any other bytes are an
    /// error, never a panic.
    ///
    /// # Errors
    ///
    /// [`BadSchema`] says what is wrong: not a description, a newer version, or which rule
    /// which type breaks.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadSchema> {
        encode::decode(bytes)
    }

    fn write_name(&self, ty: TypeRef, out: &mut String, depth: u32) {
        // Rust cannot write a type that contains itself without a struct or an enum in between,
        // but a damaged file can.
        if depth > 32 {
            out.push('…');
            return;
        }
        let this = self.get(ty);
        let inner = |out: &mut String, list: &[TypeRef]| {
            for (i, &ty) in list.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                if out.len() > MAX_FULL_NAME {
                    out.push('…');
                    return;
                }
                self.write_name(ty, out, depth + 1);
            }
        };
        match &this.kind {
            Kind::Tuple { fields } => {
                out.push('(');
                inner(out, &fields.iter().map(|f| f.ty).collect::<Vec<_>>());
                out.push_str(if fields.len() == 1 { ",)" } else { ")" });
            }
            Kind::Array { elem, len } => {
                out.push('[');
                inner(out, &[*elem]);
                out.push_str(&format!("; {len}]"));
            }
            Kind::Option { payload: elem, .. }
            | Kind::Box { elem }
            | Kind::Rcu { elem }
            | Kind::Vec { elem }
            | Kind::Deque { elem }
            | Kind::Lock { inner: elem, .. } => {
                out.push_str(&this.name);
                out.push('<');
                inner(out, &[*elem]);
                out.push('>');
            }
            Kind::Slice { elem } => {
                out.push_str(&this.name);
                out.push_str("<[");
                inner(out, &[*elem]);
                out.push_str("]>");
            }
            Kind::Map { key, value, .. } | Kind::Tree { key, value, .. } => {
                out.push_str(&this.name);
                out.push('<');
                // A set is a map to nothing.
                if self.get(*value).size == 0 {
                    inner(out, &[*key]);
                } else {
                    inner(out, &[*key, *value]);
                }
                out.push('>');
            }
            _ => out.push_str(&this.name),
        }
    }
}

/// One line per type: number, full name, size, alignment.
impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, ty) in self.types.iter().enumerate() {
            let name = self.name(TypeRef(i as u32));
            writeln!(f, "{i}: {name}, {} bytes, align {}", ty.size, ty.align)?;
        }
        Ok(())
    }
}

impl Kind {
    /// Calls `f` with every type this one refers to, in order of declaration. This order
    /// numbers the schema.
    pub(crate) fn each_ref(&self, mut f: impl FnMut(TypeRef)) {
        match self {
            Kind::Int { .. } | Kind::Float | Kind::Bool | Kind::Char | Kind::Str => {}
            Kind::StrSlice | Kind::Below { .. } => {}
            Kind::Opaque | Kind::Untyped | Kind::Atomic { .. } => {}
            Kind::Struct { fields } | Kind::Tuple { fields } => {
                fields.iter().for_each(|field| f(field.ty));
            }
            Kind::Enum { variants, .. } => {
                let fields = variants.iter().flat_map(|variant| &variant.fields);
                fields.for_each(|field| f(field.ty));
            }
            Kind::Option { payload: elem, .. }
            | Kind::Array { elem, .. }
            | Kind::Box { elem }
            | Kind::Shared { elem }
            | Kind::Rcu { elem }
            | Kind::Vec { elem }
            | Kind::Deque { elem }
            | Kind::Slice { elem }
            | Kind::Lock { inner: elem, .. } => f(*elem),
            Kind::Map { key, value, .. } | Kind::Tree { key, value, .. } => {
                f(*key);
                f(*value);
            }
        }
    }

    /// As [`each_ref`](Self::each_ref), to change them.
    pub(crate) fn each_ref_mut(&mut self, mut f: impl FnMut(&mut TypeRef)) {
        match self {
            Kind::Int { .. } | Kind::Float | Kind::Bool | Kind::Char | Kind::Str => {}
            Kind::StrSlice | Kind::Below { .. } => {}
            Kind::Opaque | Kind::Untyped | Kind::Atomic { .. } => {}
            Kind::Struct { fields } | Kind::Tuple { fields } => {
                fields.iter_mut().for_each(|field| f(&mut field.ty));
            }
            Kind::Enum { variants, .. } => {
                let fields = variants.iter_mut().flat_map(|variant| &mut variant.fields);
                fields.for_each(|field| f(&mut field.ty));
            }
            Kind::Option { payload: elem, .. }
            | Kind::Array { elem, .. }
            | Kind::Box { elem }
            | Kind::Shared { elem }
            | Kind::Rcu { elem }
            | Kind::Vec { elem }
            | Kind::Deque { elem }
            | Kind::Slice { elem }
            | Kind::Lock { inner: elem, .. } => f(elem),
            Kind::Map { key, value, .. } | Kind::Tree { key, value, .. } => {
                f(key);
                f(value);
            }
        }
    }

    /// Whether the types it refers to lie inside its values (and not behind a pointer).
    pub(crate) fn is_inline(&self) -> bool {
        !matches!(
            self,
            Kind::Box { .. }
                | Kind::Shared { .. }
                | Kind::Rcu { .. }
                | Kind::Vec { .. }
                | Kind::Deque { .. }
                | Kind::Slice { .. }
                | Kind::Map { .. }
                | Kind::Tree { .. }
        )
    }
}

//! Sample types for tests: stand-ins for a program's persistent types, with the layouts of
//! [`crate::layout`] and the descriptions that the typed facade would give. They own nothing:
//! they are what lies in a region, as plain values.

use super::{EntryLayout, Field, Kind, NoneForm, Schema, SchemaBuilder, Type, TypeRef};
use crate::layout::{RawBox, RawDeque, RawLock, RawSlice, RawTable, RawTree, RawVec};
use std::any::type_name;
use std::marker::PhantomData;
use std::num::NonZeroU32;

/// A type that describes itself.
pub(crate) trait Sample: Copy + 'static {
    fn describe(b: &mut SchemaBuilder) -> TypeRef;
}

/// The schema with `T` as its root.
pub(crate) fn schema_of<T: Sample>() -> Schema {
    Schema::of(T::describe).expect("the samples are well formed")
}

macro_rules! sample_of {
    ($($type:ty => $kind:expr;)*) => {$(
        impl Sample for $type {
            fn describe(b: &mut SchemaBuilder) -> TypeRef {
                b.define::<$type>(|_| Type::of::<$type>(stringify!($type), $kind))
            }
        }
    )*};
}

sample_of! {
    u8 => Kind::Int { signed: false, nonzero: false };
    u16 => Kind::Int { signed: false, nonzero: false };
    u32 => Kind::Int { signed: false, nonzero: false };
    u64 => Kind::Int { signed: false, nonzero: false };
    i16 => Kind::Int { signed: true, nonzero: false };
    NonZeroU32 => Kind::Int { signed: false, nonzero: true };
    f64 => Kind::Float;
    bool => Kind::Bool;
    char => Kind::Char;
    [u64; 8] => Kind::Opaque;
    PString => Kind::Str;
    PText => Kind::StrSlice;
}

/// Gives a struct of samples its description, field by field.
macro_rules! sample_struct {
    ($type:ident { $($field:ident: $of:ty),* $(,)? }) => {
        impl $crate::types::sample::Sample for $type {
            fn describe(b: &mut $crate::types::SchemaBuilder) -> $crate::types::TypeRef {
                b.define::<$type>(|b| {
                    let fields = vec![$($crate::types::Field {
                        name: stringify!($field).into(),
                        offset: std::mem::offset_of!($type, $field) as u64,
                        ty: <$of as $crate::types::sample::Sample>::describe(b),
                    }),*];
                    $crate::types::Type::of::<$type>(
                        stringify!($type),
                        $crate::types::Kind::Struct { fields },
                    )
                })
            }
        }
    };
}
pub(crate) use sample_struct;

/// A stored box.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct PBox<T>(pub(crate) RawBox, pub(crate) PhantomData<fn() -> T>);

/// A stored vector.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct PVec<T>(pub(crate) RawVec, pub(crate) PhantomData<fn() -> T>);

/// A stored ring.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct PDeque<T>(pub(crate) RawDeque, pub(crate) PhantomData<fn() -> T>);

/// A stored box of a slice.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct PSlice<T>(pub(crate) RawSlice, pub(crate) PhantomData<fn() -> T>);

/// A stored box of text.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct PText(pub(crate) RawSlice);

/// A stored string.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct PString(pub(crate) RawVec);

/// A stored map.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct PMap<K, V>(pub(crate) RawTable, pub(crate) PhantomData<fn() -> (K, V)>);

/// A stored ordered map.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct PTree<K, V>(pub(crate) RawTree, pub(crate) PhantomData<fn() -> (K, V)>);

/// Entries of a node of a sample tree.
pub(crate) const TREE_CAP: u64 = 4;

/// A stored lock.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct PLock<T> {
    pub(crate) lock: RawLock,
    pub(crate) value: T,
}

macro_rules! copy {
    ($($type:ident<$($of:ident),*>)*) => {$(
        impl<$($of),*> Clone for $type<$($of),*> {
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<$($of),*> Copy for $type<$($of),*> {}
    )*};
}
copy!(PBox<T> PVec<T> PDeque<T> PSlice<T> PMap<K, V> PTree<K, V>);

impl<T: Sample> Sample for PBox<T> {
    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let elem = T::describe(b);
            Type::of::<Self>("PBox", Kind::Box { elem })
        })
    }
}

impl<T: Sample> Sample for Option<PBox<T>> {
    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let none = NoneForm::Niche {
                offset: 0,
                bytes: vec![0; 8],
            };
            let kind = Kind::Option {
                payload: PBox::<T>::describe(b),
                offset: 0,
                none,
            };
            Type::of::<Self>("Option", kind)
        })
    }
}

/// `Option<bool>`, whose `None` is the byte 2.
impl Sample for Option<bool> {
    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let none = NoneForm::Niche {
                offset: 0,
                bytes: vec![2],
            };
            let kind = Kind::Option {
                payload: bool::describe(b),
                offset: 0,
                none,
            };
            Type::of::<Self>("Option", kind)
        })
    }
}

/// An option with a tag, written out so that its layout is known.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Tagged<T> {
    pub(crate) tag: u32,
    pub(crate) value: T,
}

impl<T: Sample> Sample for Tagged<T> {
    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let none = NoneForm::Tag {
                offset: 0,
                size: 4,
                none: 0,
                some: 1,
            };
            let kind = Kind::Option {
                payload: T::describe(b),
                offset: std::mem::offset_of!(Self, value) as u64,
                none,
            };
            Type::of::<Self>("Option", kind)
        })
    }
}

impl<T: Sample> Sample for PVec<T> {
    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let elem = T::describe(b);
            Type::of::<Self>("PVec", Kind::Vec { elem })
        })
    }
}

impl<T: Sample> Sample for PDeque<T> {
    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let elem = T::describe(b);
            Type::of::<Self>("PVecDeque", Kind::Deque { elem })
        })
    }
}

impl<T: Sample> Sample for PSlice<T> {
    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let elem = T::describe(b);
            Type::of::<Self>("PBox", Kind::Slice { elem })
        })
    }
}

impl<K: Sample, V: Sample> Sample for PMap<K, V> {
    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let kind = Kind::Map {
                key: K::describe(b),
                value: V::describe(b),
                entry: EntryLayout::of::<K, V>(),
            };
            Type::of::<Self>("PHashMap", kind)
        })
    }
}

impl<K: Sample, V: Sample> Sample for PTree<K, V> {
    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let kind = Kind::Tree {
                key: K::describe(b),
                value: V::describe(b),
                cap: TREE_CAP,
            };
            Type::of::<Self>("PBTreeMap", kind)
        })
    }
}

impl<T: Sample> Sample for PLock<T> {
    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let kind = Kind::Lock {
                inner: T::describe(b),
                offset: std::mem::offset_of!(Self, value) as u64,
                rw: true,
            };
            Type::of::<Self>("PRwLock", kind)
        })
    }
}

impl<T: Sample> Sample for [T; 3] {
    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let elem = T::describe(b);
            Type::of::<Self>(type_name::<Self>(), Kind::Array { elem, len: 3 })
        })
    }
}

/// A pair, as the compiler lays out a tuple.
impl<A: Sample, B: Sample> Sample for (A, B) {
    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let field = |name: &str, offset: usize, ty| Field {
                name: name.into(),
                offset: offset as u64,
                ty,
            };
            let fields = vec![
                field("0", std::mem::offset_of!(Self, 0), A::describe(b)),
                field("1", std::mem::offset_of!(Self, 1), B::describe(b)),
            ];
            Type::of::<Self>("tuple", Kind::Tuple { fields })
        })
    }
}

//! Values of an older schema become values of the program's types: [`Match`] finds out whether and how, before anything
//! is touched; [`Import`] does it in a transaction.
//!
//! A stored type becomes a type of the program in one of three ways, tried in this order:
//!
//! - *same*: their descriptions are equal. The value is evicted as it is.
//! - *by parts*: both are of one kind and name, their parts have the same names in the same order, and each part
//!   becomes the other's. So a type that changed is reached through all that only holds it.
//! - *from an earlier type*: `#[persist(from = Old)]`, and the stored type becomes `Old` in one of these ways.
//!
//! Nothing is converted unless some type on the way says that it may: by `from`, or by the earlier name of a part.
//! The data have been checked against the older schema when an `Import` reads them. Blocks are freed by the transaction
//! as they are read, once each.

use super::{Persist, hold_all};
use crate::__private::name_of;
use crate::error::{Error, Result};
use crate::tx::TxRef;
use bartender_heap::types::{Field, Kind, NoneForm, Schema, TypeRef};
use std::any::TypeId;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

/// Blocks inside each other that can be read by parts, at most: each takes room on the stack.
const MAX_DEPTH: u32 = 128;

/// How a stored type becomes a type of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// Not known yet: it holds itself behind a pointer. It is taken to match where it comes back to itself.
    Open,
    Same,
    Parts,
    Earlier,
    Not,
}

type Pair = (TypeId, TypeRef);

/// Whether the types of an older schema become those of the program.
#[derive(Debug)]
pub struct Match<'a> {
    schema: &'a Schema,
    known: HashMap<Pair, How>,
    /// Pairs in the order in which they became known.
    order: Vec<Pair>,
    /// Pairs that wait for an earlier type of theirs at this very place: that one may not lead back to them.
    chain: Vec<Pair>,
    /// Some type says that data may be converted.
    asked: bool,
}

/// A field that is looked for in a stored struct.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// Its name.
    pub name: &'static str,
    /// Its earlier name.
    pub was: Option<&'static str>,
    /// Whether a stored type becomes its type.
    pub matches: fn(&mut Match<'_>, TypeRef) -> bool,
}

/// A variant that is looked for: name, earlier name, fields.
pub type WantedVariant<'a> = (&'static str, Option<&'static str>, &'a [Wanted]);

/// Whether the stored type `ty` becomes a `T`.
pub(crate) fn matches<T: Persist>(m: &mut Match<'_>, ty: TypeRef) -> bool {
    let pair = (TypeId::of::<T>(), ty);
    if m.chain.contains(&pair) {
        return false;
    }
    if let Some(known) = m.known.get(&pair) {
        return *known != How::Not;
    }
    let before = m.order.len();
    m.note(pair, How::Open);
    let how = if m.is_same::<T>(ty) {
        How::Same
    } else {
        let chain = std::mem::take(&mut m.chain);
        let by_parts = T::parts_match(m, ty);
        m.chain = chain;
        if by_parts {
            How::Parts
        } else {
            // What was found in vain may rest on what this was taken for.
            m.forget(before);
            m.chain.push(pair);
            let earlier = T::earlier_matches(m, ty);
            m.chain.pop();
            m.asked |= earlier;
            if earlier { How::Earlier } else { How::Not }
        }
    };
    if how == How::Not {
        m.forget(before);
    }
    m.note(pair, how);
    how != How::Not
}

impl<'a> Match<'a> {
    fn new(schema: &'a Schema) -> Self {
        Match {
            schema,
            known: HashMap::new(),
            order: Vec::new(),
            chain: Vec::new(),
            asked: false,
        }
    }

    fn note(&mut self, pair: Pair, how: How) {
        self.known.insert(pair, how);
        self.order.push(pair);
    }

    fn forget(&mut self, from: usize) {
        for pair in self.order.drain(from..) {
            self.known.remove(&pair);
        }
    }

    fn is_same<T: Persist>(&self, ty: TypeRef) -> bool {
        Schema::of(T::describe).is_ok_and(|schema| schema == self.schema.part(ty))
    }

    /// What the stored type is made of.
    pub fn kind(&self, ty: TypeRef) -> &'a Kind {
        &self.schema.get(ty).kind
    }

    /// Whether the stored type has this name.
    pub(crate) fn is_named(&self, ty: TypeRef, name: &str) -> bool {
        self.schema.get(ty).name == name
    }

    /// Whether the stored type has the name of `T`, which the program may have given it, now or before. Parameters
    /// do not count: they are compared where they are used.
    fn is_called<T>(&mut self, ty: TypeRef, name: Option<&str>, was: Option<&str>) -> bool {
        let head = |name: &str| name.split('<').next().unwrap_or_default().to_owned();
        let stored = head(&self.schema.get(ty).name);
        if stored == name.map_or_else(|| head(&name_of::<T>()), str::to_owned) {
            return true;
        }
        let renamed = was == Some(stored.as_str());
        self.asked |= renamed;
        renamed
    }

    /// Whether the stored type is a struct of the name of `T` with these fields.
    pub fn is_struct<T>(
        &mut self,
        ty: TypeRef,
        name: Option<&str>,
        was: Option<&str>,
        wanted: &[Wanted],
    ) -> bool {
        match self.kind(ty) {
            Kind::Struct { fields } => {
                self.is_called::<T>(ty, name, was) && self.are_fields(fields, wanted)
            }
            _ => false,
        }
    }

    /// Whether the stored type is an enum of the name of `T` with these variants.
    pub fn is_enum<T>(
        &mut self,
        ty: TypeRef,
        name: Option<&str>,
        was: Option<&str>,
        wanted: &[WantedVariant<'_>],
    ) -> bool {
        let Kind::Enum { variants, .. } = self.kind(ty) else {
            return false;
        };
        self.is_called::<T>(ty, name, was)
            && variants.len() == wanted.len()
            && variants.iter().zip(wanted).all(|(variant, wanted)| {
                self.is_name(&variant.name, wanted.0, wanted.1)
                    && self.are_fields(&variant.fields, wanted.2)
            })
    }

    /// Whether the stored type is a tuple of such fields.
    pub(crate) fn is_tuple(
        &mut self,
        ty: TypeRef,
        wanted: &[fn(&mut Match<'_>, TypeRef) -> bool],
    ) -> bool {
        match self.kind(ty) {
            Kind::Tuple { fields } => {
                fields.len() == wanted.len()
                    && fields
                        .iter()
                        .zip(wanted)
                        .all(|(field, matches)| matches(self, field.ty))
            }
            _ => false,
        }
    }

    fn is_name(&mut self, stored: &str, name: &str, was: Option<&str>) -> bool {
        self.asked |= was == Some(stored);
        stored == name || was == Some(stored)
    }

    fn are_fields(&mut self, stored: &[Field], wanted: &[Wanted]) -> bool {
        stored.len() == wanted.len()
            && stored.iter().zip(wanted).all(|(field, wanted)| {
                self.is_name(&field.name, wanted.name, wanted.was)
                    && (wanted.matches)(self, field.ty)
            })
    }
}

/// How all of a stored root becomes one of the program.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    schema: &'a Schema,
    known: HashMap<Pair, How>,
}

impl<'a> Plan<'a> {
    /// A way from the root of `schema` to an `R`, if there is one and the program asks for it.
    pub(crate) fn find<R: Persist>(schema: &'a Schema) -> Option<Self> {
        let mut m = Match::new(schema);
        let found = matches::<R>(&mut m, schema.root()) && m.asked;
        found.then_some(Plan {
            schema,
            known: m.known,
        })
    }

    /// Takes the root at `at` out of the region, as an owned `R`, and frees its block.
    ///
    /// # Errors
    ///
    /// A conversion failed; [`Error::Migration`] says which. The transaction cannot commit then.
    ///
    /// # Safety
    ///
    /// There is a stored root of the plan's schema, it was checked, and nobody else has it.
    pub(crate) unsafe fn root<R: Persist>(self, tx: TxRef<'_>, at: NonNull<u8>) -> Result<R> {
        let (root, schema) = (self.schema.root(), self.schema);
        let mut import = Import {
            tx,
            plan: self,
            depth: 0,
        };
        // SAFETY: the caller's promise.
        unsafe {
            let value = import.value::<R>(root, at.as_ptr())?;
            if schema.get(root).size != 0 {
                tx.free(at);
            }
            Ok(value)
        }
    }
}

/// Reads stored values of an older schema as owned values of the program's types.
#[derive(Debug)]
pub struct Import<'a> {
    tx: TxRef<'a>,
    plan: Plan<'a>,
    depth: u32,
}

impl<'a> Import<'a> {
    /// The transaction.
    pub fn tx(&self) -> TxRef<'a> {
        self.tx
    }

    /// The kind of a stored type.
    pub fn kind(&self, ty: TypeRef) -> &'a Kind {
        &self.plan.schema.get(ty).kind
    }

    /// Bytes of a value of a stored type.
    pub fn size(&self, ty: TypeRef) -> usize {
        self.plan.schema.get(ty).size as usize
    }

    /// Alignment of a value of a stored type.
    pub(crate) fn align(&self, ty: TypeRef) -> usize {
        self.plan.schema.get(ty).align as usize
    }

    /// Whether values of the stored type `ty` are values of `T` as they are: what they mean does not change then, nor
    /// their hash, nor their order.
    pub(crate) fn stays<T: Persist>(&self, ty: TypeRef) -> bool {
        self.plan.known.get(&(TypeId::of::<T>(), ty)) == Some(&How::Same)
    }

    /// The error for two keys of the stored type `ty` in one map, which became equal keys `K`.
    pub(crate) fn became_equal<K>(&self, ty: TypeRef) -> Error {
        Error::Migration {
            from: self.plan.schema.name(ty),
            to: name_of::<K>(),
            source: "two keys of one map would become equal".into(),
        }
    }

    /// The error for a stored type that does not become a `T`: the plan knows better.
    pub fn refused<T>(&self, ty: TypeRef) -> Error {
        Error::Migration {
            from: self.plan.schema.name(ty),
            to: name_of::<T>(),
            source: "there is no way from one to the other".into(),
        }
    }

    /// The value of the stored type `ty` at `at`, taken out.
    ///
    /// # Errors
    ///
    /// [`Error::Migration`], or that of evicting.
    ///
    /// # Safety
    ///
    /// There is one, it was checked, and it is taken once.
    pub unsafe fn value<T: Persist>(&mut self, ty: TypeRef, at: *const u8) -> Result<T> {
        match self.plan.known.get(&(TypeId::of::<T>(), ty)) {
            // SAFETY: the types are described alike, so a `T` it is.
            Some(How::Same) => unsafe {
                hold_all(self.tx, at.cast::<T>(), 1)?;
                let mut value = MaybeUninit::<T>::uninit();
                ptr::copy_nonoverlapping(at.cast(), value.as_mut_ptr(), 1);
                self.tx.evict(value.as_mut_ptr())?;
                Ok(value.assume_init())
            },
            // SAFETY: passed on.
            Some(How::Parts) => unsafe { T::import_parts(self, ty, at) },
            // SAFETY: passed on.
            Some(How::Earlier) => unsafe { T::import_earlier(self, ty, at) },
            _ => Err(self.refused::<T>(ty)),
        }
    }

    /// The value as an `Old`, converted.
    ///
    /// # Errors
    ///
    /// [`Error::Migration`] with the reason of the conversion; that of evicting.
    ///
    /// # Safety
    ///
    /// As [`value`](Self::value).
    pub unsafe fn converted<Old, New>(&mut self, ty: TypeRef, at: *const u8) -> Result<New>
    where
        Old: Persist,
        New: TryFrom<Old>,
        New::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        // SAFETY: passed on.
        let old = unsafe { self.value::<Old>(ty, at)? };
        New::try_from(old).map_err(|error| Error::Migration {
            from: name_of::<Old>(),
            to: name_of::<New>(),
            source: error.into(),
        })
    }

    /// Field `field` of the stored struct, tuple or (of its variant `variant`) enum at `at`.
    ///
    /// # Errors
    ///
    /// As [`value`](Self::value).
    ///
    /// # Safety
    ///
    /// As [`value`](Self::value), for the whole; the variant is the one that is there.
    pub unsafe fn field<T: Persist>(
        &mut self,
        ty: TypeRef,
        variant: usize,
        field: usize,
        at: *const u8,
    ) -> Result<T> {
        let fields = match self.kind(ty) {
            Kind::Struct { fields } | Kind::Tuple { fields } => fields,
            Kind::Enum { variants, .. } if variant < variants.len() => &variants[variant].fields,
            _ => return Err(self.refused::<T>(ty)),
        };
        let Some(field) = fields.get(field) else {
            return Err(self.refused::<T>(ty));
        };
        // SAFETY: a field lies in its whole.
        unsafe { self.value(field.ty, at.add(field.offset as usize)) }
    }

    /// The number of the variant of the stored enum at `at`; one that no enum has if `ty` is none.
    ///
    /// # Safety
    ///
    /// There is a checked value.
    pub unsafe fn variant(&self, ty: TypeRef, at: *const u8) -> usize {
        let Kind::Enum {
            tag_offset,
            tag_size,
            variants,
        } = self.kind(ty)
        else {
            return usize::MAX;
        };
        // SAFETY: the tag lies in the value.
        let tag = unsafe { number(at.add(*tag_offset as usize), *tag_size as usize) };
        let found = variants.iter().position(|variant| variant.tag == tag);
        found.unwrap_or(usize::MAX)
    }

    /// Where the payload of the stored option at `at` lies, and its type, if there is one.
    ///
    /// # Safety
    ///
    /// There is a checked value, of an option.
    pub(crate) unsafe fn payload(
        &self,
        ty: TypeRef,
        at: *const u8,
    ) -> Option<(TypeRef, *const u8)> {
        let Kind::Option {
            payload,
            offset,
            none,
        } = self.kind(ty)
        else {
            return None;
        };
        // SAFETY: what tells a `None` lies in the value, and so does the payload.
        unsafe {
            let is_none = match none {
                NoneForm::Niche { offset, bytes } => {
                    let at = at.add(*offset as usize);
                    (0..bytes.len()).all(|i| at.add(i).read() == bytes[i])
                }
                NoneForm::Tag {
                    offset, size, none, ..
                } => number(at.add(*offset as usize), *size as usize) == *none,
            };
            (!is_none).then(|| (*payload, at.add(*offset as usize)))
        }
    }

    /// Runs `read` for what is in a block of its own.
    ///
    /// # Errors
    ///
    /// Too many blocks inside each other, or that of `read`.
    pub(crate) fn inside<A>(&mut self, read: impl FnOnce(&mut Self) -> Result<A>) -> Result<A> {
        if self.depth == MAX_DEPTH {
            let root = self.plan.schema.root();
            return Err(Error::Migration {
                from: self.plan.schema.name(root),
                to: "the program's types".into(),
                source: format!(
                    "more than {MAX_DEPTH} blocks inside each other change their type: give the type of what holds them a `from`"
                )
                .into(),
            });
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }
}

/// The number of `size` bytes at `at`.
///
/// # Safety
///
/// They can be read; at most 8.
unsafe fn number(at: *const u8, size: usize) -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: the caller's promise.
    unsafe { ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), size) };
    u64::from_le_bytes(bytes)
}

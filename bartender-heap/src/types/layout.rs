//! The bytes of a type description on the medium.
//!
//! ```text
//! Header | TypeRecord × types | VariantRecord × variants | FieldRecord × fields | strings
//! ```
//!
//! Little-endian, fixed width, no padding. A name is a range of the strings. What a record's
//! operands mean depends on its kind and is written down in `encode.rs`; unused ones are zero.
//! Nothing here survives a change of format without a new [`VERSION`].

use std::mem::{offset_of, size_of};

/// "BTSCHEMA".
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"BTSCHEMA");
/// Version of this encoding.
pub(super) const VERSION: u32 = 1;

/// Opens the description.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Header {
    pub(super) magic: u64,
    pub(super) version: u32,
    /// Number of [`TypeRecord`]s.
    pub(super) types: u32,
    /// Number of [`VariantRecord`]s.
    pub(super) variants: u32,
    /// Number of [`FieldRecord`]s.
    pub(super) fields: u32,
    /// Bytes of strings.
    pub(super) strings: u32,
    /// The root type.
    pub(super) root: u32,
}

/// A range of the strings.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Text {
    pub(super) start: u32,
    pub(super) len: u32,
}

/// One type.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct TypeRecord {
    pub(super) name: Text,
    pub(super) size: u64,
    pub(super) align: u64,
    pub(super) kind: u32,
    pub(super) flags: u32,
    /// A range: fields, variants, or bytes of the strings.
    pub(super) first: u32,
    pub(super) count: u32,
    /// Other types.
    pub(super) x: u32,
    pub(super) y: u32,
    /// Operands.
    pub(super) a: u64,
    pub(super) b: u64,
    pub(super) c: u64,
    pub(super) d: u64,
}

/// One variant of an enum.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct VariantRecord {
    pub(super) name: Text,
    pub(super) tag: u64,
    pub(super) first: u32,
    pub(super) count: u32,
}

/// One field.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct FieldRecord {
    pub(super) name: Text,
    pub(super) offset: u64,
    pub(super) ty: u32,
    pub(super) zero: u32,
}

const _: () = {
    assert!(size_of::<Header>() == 32);
    assert!(offset_of!(Header, version) == 8);
    assert!(offset_of!(Header, root) == 28);
    assert!(size_of::<Text>() == 8);
    assert!(size_of::<TypeRecord>() == 80);
    assert!(offset_of!(TypeRecord, size) == 8);
    assert!(offset_of!(TypeRecord, kind) == 24);
    assert!(offset_of!(TypeRecord, x) == 40);
    assert!(offset_of!(TypeRecord, a) == 48);
    assert!(offset_of!(TypeRecord, d) == 72);
    assert!(size_of::<VariantRecord>() == 24);
    assert!(offset_of!(VariantRecord, tag) == 8);
    assert!(offset_of!(VariantRecord, first) == 16);
    assert!(size_of::<FieldRecord>() == 24);
    assert!(offset_of!(FieldRecord, offset) == 8);
    assert!(offset_of!(FieldRecord, ty) == 16);
    // The bytes are the memory of the structs.
    assert!(cfg!(target_endian = "little"));
};

/// # Safety
///
/// The type is `#[repr(C)]`, of integers only, without padding: each pattern of bytes is a
/// value and each value is nothing but initialised bytes.
pub(super) unsafe trait Pod: Copy {
    fn bytes(&self) -> &[u8] {
        // SAFETY: by the contract of the trait all `size_of` bytes are initialised, and the
        // borrow keeps them alive.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..size_of::<Self>())?;
        // SAFETY: there are `size_of` bytes to read (unaligned), and each pattern is a value
        // (contract of the trait).
        Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
    }
}

// SAFETY: `repr(C)`, integers only; the assertions above account for every byte.
unsafe impl Pod for Header {}
// SAFETY: as above.
unsafe impl Pod for TypeRecord {}
// SAFETY: as above.
unsafe impl Pod for VariantRecord {}
// SAFETY: as above.
unsafe impl Pod for FieldRecord {}

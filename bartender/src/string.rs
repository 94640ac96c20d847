//! [`PString`]: a string that can be stored.
//!
//! A [`PVec`] of bytes that are UTF-8. Owned, it has `String`'s methods; stored, it is read as
//! `&str` and changed through the methods of `Mut<'_, PString>`.

mod stored;
mod traits;

use crate::persist::{Adopt, Evict, Persist, Release};
use crate::vec::PVec;
use bartender_heap::types::{Kind, SchemaBuilder, Type, TypeRef};
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut, RangeBounds};
use std::string::FromUtf8Error;

/// A growing string, [`String`]'s persistent twin.
///
/// A `PString` that the program owns lives in ordinary memory and behaves like a `String`; both
/// can be turned into each other without copying a byte. Stored in a region, it is only ever
/// borrowed: `&PString` is a `&str`, and [`Mut<'_, PString>`](crate::Mut) has the methods that
/// change it, which return `Result`.
///
/// ```
/// use bartender::PString;
///
/// let mut name = PString::from("Ada");
/// name.push_str(" Lovelace");
/// assert_eq!(name, "Ada Lovelace");
/// ```
#[derive(Clone, Default)]
#[repr(transparent)]
pub struct PString {
    /// Invariant: UTF-8.
    bytes: PVec<u8>,
}

impl PString {
    /// An empty string. Allocates nothing.
    pub const fn new() -> Self {
        PString { bytes: PVec::new() }
    }

    /// An empty string with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        PString {
            bytes: PVec::with_capacity(capacity),
        }
    }

    /// Bytes that fit without a new block.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// The text.
    #[inline]
    pub fn as_str(&self) -> &str {
        // SAFETY: the bytes are UTF-8, by the invariant.
        unsafe { std::str::from_utf8_unchecked(&self.bytes) }
    }

    /// The text, to be changed within its length.
    pub fn as_mut_str(&mut self) -> &mut str {
        // SAFETY: the bytes are UTF-8, and `str` keeps them so.
        unsafe { std::str::from_utf8_unchecked_mut(&mut self.bytes) }
    }

    /// The same text as a `String`; nothing is copied.
    pub fn into_string(self) -> String {
        // SAFETY: the bytes are UTF-8, by the invariant.
        unsafe { String::from_utf8_unchecked(self.bytes.into_vec()) }
    }

    /// Lends it as a `String`.
    fn standard(&mut self) -> Standard<'_> {
        let string = std::mem::take(self).into_string();
        Standard {
            owner: self,
            string: ManuallyDrop::new(string),
        }
    }

    /// Makes room for `additional` bytes.
    pub fn reserve(&mut self, additional: usize) {
        self.bytes.reserve(additional);
    }

    /// Gives room that is not used back.
    pub fn shrink_to_fit(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// Adds a character at the end.
    pub fn push(&mut self, c: char) {
        self.push_str(c.encode_utf8(&mut [0; 4]));
    }

    /// Adds a text at the end.
    pub fn push_str(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// Takes the last character off.
    pub fn pop(&mut self) -> Option<char> {
        self.standard().pop()
    }

    /// Puts a character before byte `index`.
    ///
    /// # Panics
    ///
    /// If no character begins or the text does not end at `index`.
    pub fn insert(&mut self, index: usize, c: char) {
        self.standard().insert(index, c);
    }

    /// Puts a text before byte `index`.
    ///
    /// # Panics
    ///
    /// As [`insert`](Self::insert).
    pub fn insert_str(&mut self, index: usize, text: &str) {
        self.standard().insert_str(index, text);
    }

    /// Takes the character at byte `index` out.
    ///
    /// # Panics
    ///
    /// If no character begins at `index`.
    pub fn remove(&mut self, index: usize) -> char {
        self.standard().remove(index)
    }

    /// Cuts off what stands from byte `len` on.
    ///
    /// # Panics
    ///
    /// If `len` lies within a character.
    pub fn truncate(&mut self, len: usize) {
        self.standard().truncate(len);
    }

    /// Makes the text empty and keeps the room.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Keeps the characters of which `keep` says so.
    pub fn retain(&mut self, keep: impl FnMut(char) -> bool) {
        self.standard().retain(keep);
    }

    /// The text of these bytes; nothing is copied.
    ///
    /// # Errors
    ///
    /// They are not UTF-8; the error gives them back.
    pub fn from_utf8(bytes: Vec<u8>) -> Result<Self, FromUtf8Error> {
        String::from_utf8(bytes).map(PString::from)
    }

    /// The text of these bytes, with a replacement character for what is not UTF-8.
    pub fn from_utf8_lossy(bytes: &[u8]) -> Self {
        String::from_utf8_lossy(bytes).into_owned().into()
    }

    /// The bytes of the text; nothing is copied.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes.into_vec()
    }

    /// The same text in a box of std's; nothing is copied if there is no room for more.
    pub fn into_boxed_str(self) -> Box<str> {
        self.into_string().into_boxed_str()
    }

    /// Makes room for `additional` bytes and no more.
    pub fn reserve_exact(&mut self, additional: usize) {
        self.bytes.reserve_exact(additional);
    }

    /// Gives room back that is neither used nor below `capacity`.
    pub fn shrink_to(&mut self, capacity: usize) {
        self.bytes.shrink_to(capacity);
    }

    /// Takes the text of `range` out, and returns it.
    ///
    /// # Panics
    ///
    /// If the range goes beyond the end or backwards, or begins or ends within a character.
    pub fn drain(&mut self, range: impl RangeBounds<usize>) -> PString {
        self.standard().drain(range).collect::<String>().into()
    }

    /// Puts `text` in the place of that in `range`.
    ///
    /// # Panics
    ///
    /// As [`drain`](Self::drain).
    pub fn replace_range(&mut self, range: impl RangeBounds<usize>, text: &str) {
        self.standard().replace_range(range, text);
    }

    /// Cuts the text in two before byte `at` and returns the second part.
    ///
    /// # Panics
    ///
    /// If `at` lies within a character or beyond the end.
    pub fn split_off(&mut self, at: usize) -> PString {
        self.standard().split_off(at).into()
    }

    /// Adds the text of `range` again at the end.
    ///
    /// # Panics
    ///
    /// As [`drain`](Self::drain).
    pub fn extend_from_within(&mut self, range: impl RangeBounds<usize>) {
        self.standard().extend_from_within(range);
    }
}

/// An owned string as a `String`. The owner gets it back in the end.
struct Standard<'a> {
    owner: &'a mut PString,
    string: ManuallyDrop<String>,
}

impl Deref for Standard<'_> {
    type Target = String;

    fn deref(&self) -> &String {
        &self.string
    }
}

impl DerefMut for Standard<'_> {
    fn deref_mut(&mut self) -> &mut String {
        &mut self.string
    }
}

impl Drop for Standard<'_> {
    fn drop(&mut self) {
        let string = std::mem::take(&mut *self.string);
        *self.owner = string.into();
    }
}

// SAFETY: it is its bytes.
unsafe impl Persist for PString {
    const HAS_POINTERS: bool = true;
    const HAS_LOCKS: bool = false;

    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|_| Type::of::<Self>("PString", Kind::Str))
    }

    unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>) {
        // SAFETY: passed on.
        unsafe { PVec::adopt(&raw mut (*this).bytes, a) }
    }

    unsafe fn evict(this: *mut Self, e: &mut Evict<'_>) {
        // SAFETY: passed on.
        unsafe { PVec::evict(&raw mut (*this).bytes, e) }
    }

    unsafe fn release(this: *const Self, r: &mut Release<'_>) {
        // SAFETY: passed on.
        unsafe { PVec::release(&raw const (*this).bytes, r) }
    }

    unsafe fn for_each_lock(_this: *const Self, _f: &mut dyn FnMut(usize)) {}

    unsafe fn zero_padding(_this: *mut Self) {}
}

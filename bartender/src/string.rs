//! [`PString`]: a string that can be stored.
//!
//! Bytes that are UTF-8: up to 23 of them stand in the value itself, more in a [`PVec`] (`text` knows which). Owned, it has `String`'s methods; stored, it is read as
//! `&str` and changed through the methods of `Mut<'_, PString>`.

mod stored;
mod text;
mod traits;

use crate::persist::{Adopt, Evict, Persist, Release};
use crate::places;
use crate::vec::PVec;
use bartender_heap::types::{Kind, SchemaBuilder, Type, TypeRef};
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut, RangeBounds};
use std::string::FromUtf8Error;
use text::{Short, Text};

/// A growing string, [`String`]'s persistent twin.
///
/// A text of up to 23 bytes stands in the value itself, which has the 24 bytes of a `String`, and needs no block. A longer
/// one has a block, and is turned into a `String` and back without copying a byte.
///
/// A `PString` that the program owns lives in ordinary memory and behaves like a `String`. Stored in a region, it is only ever
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
#[repr(transparent)]
pub struct PString {
    /// Invariant: UTF-8.
    text: Text,
}

impl PString {
    /// An empty string. Allocates nothing.
    pub const fn new() -> Self {
        PString {
            text: Text::short(Short::EMPTY),
        }
    }

    /// An empty string with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        if capacity <= Short::ROOM {
            return PString::new();
        }
        PString {
            text: Text::long(PVec::with_capacity(capacity)),
        }
    }

    /// A copy of a text, in the value itself if it is short.
    #[inline]
    fn copied(text: &str) -> Self {
        match Short::of(&[text.as_bytes()]) {
            Some(short) => PString {
                text: Text::short(short),
            },
            None => String::from(text).into(),
        }
    }

    /// Bytes that fit without a new block.
    pub fn capacity(&self) -> usize {
        self.text.as_long().map_or(Short::ROOM, PVec::capacity)
    }

    /// The text.
    #[inline]
    pub fn as_str(&self) -> &str {
        // SAFETY: the bytes are UTF-8, by the invariant.
        unsafe { std::str::from_utf8_unchecked(self.text.bytes()) }
    }

    /// The text, to be changed within its length.
    pub fn as_mut_str(&mut self) -> &mut str {
        // SAFETY: the bytes are UTF-8, and `str` keeps them so.
        unsafe { std::str::from_utf8_unchecked_mut(self.text.bytes_mut()) }
    }

    /// The same text as a `String`; nothing is copied but a short one.
    pub fn into_string(self) -> String {
        // SAFETY: the bytes are UTF-8, by the invariant.
        unsafe { String::from_utf8_unchecked(self.into_bytes()) }
    }

    /// Lends it as a `String`.
    fn standard(&mut self) -> Standard<'_> {
        let short = self.text.is_short();
        let string = std::mem::take(self).into_string();
        Standard {
            owner: self,
            string: ManuallyDrop::new(string),
            short,
        }
    }

    /// Makes room for `additional` bytes.
    pub fn reserve(&mut self, additional: usize) {
        if self.capacity() - self.len() < additional {
            self.standard().reserve(additional);
        }
    }

    /// Gives room that is not used back.
    pub fn shrink_to_fit(&mut self) {
        self.shrink_to(0);
    }

    /// Adds a character at the end.
    pub fn push(&mut self, c: char) {
        self.push_str(c.encode_utf8(&mut [0; 4]));
    }

    /// Adds a text at the end.
    pub fn push_str(&mut self, text: &str) {
        if let Some(long) = self.text.as_long_mut() {
            long.extend_from_slice(text.as_bytes());
        } else if let Some(short) = Short::of(&[self.as_bytes(), text.as_bytes()]) {
            self.text = Text::short(short);
        } else {
            self.standard().push_str(text);
        }
    }

    /// Takes the last character off.
    pub fn pop(&mut self) -> Option<char> {
        let last = self.chars().next_back()?;
        self.truncate(self.len() - last.len_utf8());
        Some(last)
    }

    /// Puts a character before byte `index`.
    ///
    /// # Panics
    ///
    /// If no character begins or the text does not end at `index`.
    #[track_caller]
    pub fn insert(&mut self, index: usize, c: char) {
        self.insert_str(index, c.encode_utf8(&mut [0; 4]));
    }

    /// Puts a text before byte `index`.
    ///
    /// # Panics
    ///
    /// As [`insert`](Self::insert).
    #[track_caller]
    pub fn insert_str(&mut self, index: usize, text: &str) {
        places::boundary(self, index);
        self.standard().insert_str(index, text);
    }

    /// Takes the character at byte `index` out.
    ///
    /// # Panics
    ///
    /// If no character begins at `index`.
    #[track_caller]
    pub fn remove(&mut self, index: usize) -> char {
        places::char_at(self, index);
        self.standard().remove(index)
    }

    /// Cuts off what stands from byte `len` on.
    ///
    /// # Panics
    ///
    /// If `len` lies within a character.
    #[track_caller]
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len() {
            return;
        }
        places::boundary(self, len);
        if let Some(long) = self.text.as_long_mut() {
            long.truncate(len);
        } else if let Some(short) = Short::of(&[&self.as_bytes()[..len]]) {
            self.text = Text::short(short);
        }
    }

    /// Makes the text empty and keeps the room.
    pub fn clear(&mut self) {
        match self.text.as_long_mut() {
            Some(long) => long.clear(),
            None => self.text = Text::short(Short::EMPTY),
        }
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

    /// The bytes of the text; nothing is copied but a short one.
    pub fn into_bytes(self) -> Vec<u8> {
        self.into_vector().into_vec()
    }

    /// The bytes, in a vector.
    fn into_vector(mut self) -> PVec<u8> {
        match self.text.as_long_mut() {
            Some(long) => std::mem::take(long),
            None => self.as_bytes().into(),
        }
    }

    /// The same text in a box of std's; nothing is copied if there is no room for more.
    pub fn into_boxed_str(self) -> Box<str> {
        self.into_string().into_boxed_str()
    }

    /// Makes room for `additional` bytes and no more.
    pub fn reserve_exact(&mut self, additional: usize) {
        if self.capacity() - self.len() < additional {
            self.standard().reserve_exact(additional);
        }
    }

    /// Gives room back that is neither used nor below `capacity`.
    pub fn shrink_to(&mut self, capacity: usize) {
        let Some(long) = self.text.as_long_mut() else {
            return;
        };
        match Short::of(&[long]) {
            Some(short) if capacity <= Short::ROOM => {
                drop(std::mem::take(long));
                self.text = Text::short(short);
            }
            _ => long.shrink_to(capacity),
        }
    }

    /// Takes the text of `range` out, and returns it.
    ///
    /// # Panics
    ///
    /// If the range goes beyond the end or backwards, or begins or ends within a character.
    #[track_caller]
    pub fn drain(&mut self, range: impl RangeBounds<usize>) -> PString {
        let (start, end) = places::text_bounds(range, self);
        let gone = self.standard().drain(start..end).collect::<String>();
        gone.into()
    }

    /// Puts `text` in the place of that in `range`.
    ///
    /// # Panics
    ///
    /// As [`drain`](Self::drain).
    #[track_caller]
    pub fn replace_range(&mut self, range: impl RangeBounds<usize>, text: &str) {
        let (start, end) = places::text_bounds(range, self);
        self.standard().replace_range(start..end, text);
    }

    /// Cuts the text in two before byte `at` and returns the second part.
    ///
    /// # Panics
    ///
    /// If `at` lies within a character or beyond the end.
    #[track_caller]
    pub fn split_off(&mut self, at: usize) -> PString {
        places::boundary(self, at);
        self.standard().split_off(at).into()
    }

    /// Adds the text of `range` again at the end.
    ///
    /// # Panics
    ///
    /// As [`drain`](Self::drain).
    #[track_caller]
    pub fn extend_from_within(&mut self, range: impl RangeBounds<usize>) {
        let (start, end) = places::text_bounds(range, self);
        self.standard().extend_from_within(start..end);
    }
}

/// Gives the block back. A stored string is never dropped.
impl Drop for PString {
    #[inline]
    fn drop(&mut self) {
        if let Some(long) = self.text.as_long_mut() {
            drop(std::mem::take(long));
        }
    }
}

impl Clone for PString {
    fn clone(&self) -> Self {
        PString::copied(self)
    }
}

impl Default for PString {
    fn default() -> Self {
        PString::new()
    }
}

/// An owned string as a `String`. The owner gets it back in the end; what was short and still is gets no block.
struct Standard<'a> {
    owner: &'a mut PString,
    string: ManuallyDrop<String>,
    short: bool,
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
        *self.owner = if self.short && string.capacity() <= Short::ROOM {
            PString::copied(&string)
        } else {
            string.into()
        };
    }
}

// SAFETY: the layout is that of `RawStr`; a block is that of the vector that has it.
unsafe impl Persist for PString {
    const HAS_POINTERS: bool = true;
    const HAS_LOCKS: bool = false;

    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|_| Type::of::<Self>("PString", Kind::Str))
    }

    unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>) {
        // SAFETY: an owned string. A short one needs no block in the region.
        unsafe {
            (*this).shrink_to_fit();
            if let Some(long) = (*this).text.as_long_mut() {
                PVec::adopt(long, a);
            }
        }
    }

    unsafe fn evict(this: *mut Self, e: &mut Evict<'_>) {
        // SAFETY: passed on.
        unsafe {
            if let Some(long) = (*this).text.as_long_mut() {
                PVec::evict(long, e);
            }
        }
    }

    unsafe fn release(this: *const Self, r: &mut Release<'_>) {
        // SAFETY: passed on.
        unsafe {
            if let Some(long) = (*this).text.as_long() {
                PVec::release(long, r);
            }
        }
    }

    unsafe fn for_each_lock(_this: *const Self, _f: &mut dyn FnMut(usize)) {}

    unsafe fn zero_padding(_this: *mut Self) {}
}

//! Changing a stored [`PString`]: the methods of `Mut<'_, PString>`. They keep the bytes UTF-8.

use super::PString;
use crate::__private::{mut_at, parts};
use crate::error::Result;
use crate::mutref::Mut;
use crate::vec::PVec;

/// Stored strings. Each method that changes something has effect when the transaction commits.
impl Mut<'_, PString> {
    /// The bytes; whoever changes them keeps them UTF-8.
    #[inline]
    fn bytes(&mut self) -> Mut<'_, PVec<u8>> {
        let (this, tx) = parts(self);
        // SAFETY: the bytes lie in the string, which is borrowed for as long.
        unsafe { mut_at(&raw mut (*this).bytes, tx) }
    }

    /// Makes room for `additional` bytes.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    pub fn reserve(&mut self, additional: usize) -> Result<()> {
        self.bytes().reserve(additional)
    }

    /// Adds a character at the end.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    pub fn push(&mut self, c: char) -> Result<()> {
        self.push_str(c.encode_utf8(&mut [0; 4]))
    }

    /// Adds a text at the end.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    pub fn push_str(&mut self, text: &str) -> Result<()> {
        self.bytes().extend_from_slice(text.as_bytes())
    }

    /// Takes the last character off.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn pop(&mut self) -> Result<Option<char>> {
        let Some(last) = self.chars().next_back() else {
            return Ok(None);
        };
        self.truncate(self.len() - last.len_utf8())?;
        Ok(Some(last))
    }

    /// Puts a character before byte `index`.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    ///
    /// # Panics
    ///
    /// If no character begins or the text does not end at `index`.
    pub fn insert(&mut self, index: usize, c: char) -> Result<()> {
        self.insert_str(index, c.encode_utf8(&mut [0; 4]))
    }

    /// Puts a text before byte `index`.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    ///
    /// # Panics
    ///
    /// If no character begins or the text does not end at `index`.
    pub fn insert_str(&mut self, index: usize, text: &str) -> Result<()> {
        assert!(
            self.is_char_boundary(index),
            "byte {index} is within a character or beyond the end"
        );
        self.bytes().insert_slice(index, text.as_bytes())
    }

    /// Takes the character at byte `index` out.
    ///
    /// # Errors
    ///
    /// None today.
    ///
    /// # Panics
    ///
    /// If no character begins at `index`.
    pub fn remove(&mut self, index: usize) -> Result<char> {
        let c = self[index..]
            .chars()
            .next()
            .expect("a character begins there");
        self.bytes().remove_range(index, c.len_utf8());
        Ok(c)
    }

    /// Cuts off what stands from byte `len` on.
    ///
    /// # Errors
    ///
    /// None today.
    ///
    /// # Panics
    ///
    /// If `len` lies within a character.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        if len >= self.len() {
            return Ok(());
        }
        assert!(
            self.is_char_boundary(len),
            "byte {len} is within a character"
        );
        self.bytes().truncate(len)
    }

    /// Makes the text empty and keeps the room.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn clear(&mut self) -> Result<()> {
        self.truncate(0)
    }
}

//! Changing a stored [`PString`]: the methods of `Mut<'_, PString>`. They keep the bytes UTF-8.

use super::PString;
use crate::__private::{mut_at, parts};
use crate::error::Result;
use crate::moved::Moved;
use crate::mutref::Mut;
use crate::raw::bounds;
use crate::vec::PVec;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::RangeBounds;

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

    /// Gives room that is not used back.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    pub fn shrink_to_fit(&mut self) -> Result<()> {
        self.bytes().shrink_to_fit()
    }

    /// Adds texts at the end.
    ///
    /// # Errors
    ///
    /// The region is full; what was added before stays.
    pub fn extend<S: AsRef<str>>(&mut self, texts: impl IntoIterator<Item = S>) -> Result<()> {
        texts
            .into_iter()
            .try_for_each(|text| self.push_str(text.as_ref()))
    }

    /// Start and end of a range of bytes, between characters.
    fn range_of(&self, range: impl RangeBounds<usize>) -> (usize, usize) {
        let (start, end) = bounds(range, self.len());
        assert!(
            self.is_char_boundary(start) && self.is_char_boundary(end),
            "byte {start} or {end} is within a character"
        );
        (start, end)
    }

    /// Takes the text of `range` out, and returns it as an owned one.
    ///
    /// # Errors
    ///
    /// None today.
    ///
    /// # Panics
    ///
    /// If the range goes beyond the end or backwards, or begins or ends within a character.
    pub fn drain(&mut self, range: impl RangeBounds<usize>) -> Result<PString> {
        let (start, end) = self.range_of(range);
        let gone = PString::from(&self[start..end]);
        self.bytes().remove_range(start, end - start);
        Ok(gone)
    }

    /// Puts `text` in the place of that in `range`.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    ///
    /// # Panics
    ///
    /// As [`drain`](Self::drain).
    pub fn replace_range(&mut self, range: impl RangeBounds<usize>, text: &str) -> Result<()> {
        let (start, end) = self.range_of(range);
        let mut bytes = self.bytes();
        // The new one first: it may not find room.
        bytes.insert_slice(end, text.as_bytes())?;
        bytes.remove_range(start, end - start);
        Ok(())
    }

    /// Keeps the characters of which `keep` says so. All questions come before the first change.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn retain(&mut self, mut keep: impl FnMut(char) -> bool) -> Result<()> {
        let kept: String = self.chars().filter(|c| keep(*c)).collect();
        let same = self.as_bytes().iter().copied().zip(kept.bytes());
        let same = same.take_while(|(old, new)| old == new).count();
        if same == self.len() {
            return Ok(());
        }
        let mut bytes = self.bytes();
        bytes.truncate(kept.len())?;
        let (_, mut behind) = bytes.split_at_mut(same);
        behind.copy_from_slice(&kept.as_bytes()[same..]);
        Ok(())
    }

    /// Turns the letters `a` to `z` into capital ones. All bytes go into the transaction's record.
    pub fn make_ascii_uppercase(&mut self) {
        self.bytes().as_mut_slice().make_ascii_uppercase();
    }

    /// Turns the letters `A` to `Z` into small ones. All bytes go into the transaction's record.
    pub fn make_ascii_lowercase(&mut self) {
        self.bytes().as_mut_slice().make_ascii_lowercase();
    }

    /// Cuts the text in two before byte `at`. The second part lies in a new block of the region, to be attached somewhere.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    ///
    /// # Panics
    ///
    /// If `at` lies within a character or beyond the end.
    pub fn split_off(&mut self, at: usize) -> Result<Moved<PString>> {
        assert!(
            self.is_char_boundary(at),
            "byte {at} is within a character or beyond the end"
        );
        let bytes = ManuallyDrop::into_inner(self.bytes().cut_off(at)?);
        let part = ManuallyDrop::new(PString { bytes });
        // SAFETY: the part is stored, UTF-8, and belongs to the transaction from now on.
        Ok(unsafe { Moved::keep(Mut::tx(self), &raw const *part) })
    }
}

/// `write!` adds at the end. When the region is full it says no more than that it failed, and what was added before stays.
impl fmt::Write for Mut<'_, PString> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push_str(text).map_err(|_| fmt::Error)
    }
}

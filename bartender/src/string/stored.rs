//! Changing a stored [`PString`]: the methods of `Mut<'_, PString>`. They keep the bytes UTF-8.

use super::PString;
use super::text::{Short, Text};
use crate::__private::{mut_at, parts};
use crate::error::Result;
use crate::moved::Moved;
use crate::mutref::Mut;
use crate::places;
use crate::raw::Store;
use crate::raw::array::Array;
use crate::vec::PVec;
use std::alloc::Layout;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::RangeBounds;

/// Bytes of the first block of a text that grows beyond a short one.
const FIRST_BLOCK: usize = 2 * Short::ROOM;

/// Stored strings. Each method that changes something has effect when the transaction commits.
impl Mut<'_, PString> {
    /// The vector of a text that is not short; whoever changes the bytes keeps them UTF-8.
    #[inline]
    fn long(&mut self) -> Option<Mut<'_, PVec<u8>>> {
        let (this, tx) = parts(self);
        // SAFETY: the vector lies in the string, which is borrowed for as long.
        unsafe {
            let long: *mut PVec<u8> = (*this).text.as_long_mut()?;
            Some(mut_at(long, tx))
        }
    }

    /// Makes it another text. A block that it has is the caller's.
    fn put(&mut self, text: Text) {
        let (this, tx) = parts(self);
        // SAFETY: the string is borrowed for changing by this transaction; what stood there is not dropped.
        unsafe {
            tx.change(this.cast(), size_of::<PString>());
            (&raw mut (*this).text).write(text);
        }
    }

    /// Makes a short text one with a block of `capacity` bytes, in which these parts stand.
    fn spill(&mut self, capacity: usize, texts: &[&[u8]]) -> Result<()> {
        let tx = Mut::tx(self);
        let capacity = capacity.max(FIRST_BLOCK);
        let layout = Layout::array::<u8>(capacity).map_err(|_| Store::too_large(tx))?;
        let block = tx.alloc(layout)?;
        let mut len = 0;
        for text in texts {
            // SAFETY: the block is new and has room for them.
            unsafe {
                let to = block.as_ptr().add(len);
                to.copy_from_nonoverlapping(text.as_ptr(), text.len());
            }
            len += text.len();
        }
        // SAFETY: so many bytes of the block were written.
        let array = unsafe {
            tx.wrote(block.as_ptr(), len);
            Array::from_block(block, len, capacity)
        };
        self.put(Text::long(PVec { array }));
        Ok(())
    }

    /// Puts `text` in the place of the bytes `start..end`, which begin and end between characters.
    fn splice(&mut self, start: usize, end: usize, text: &str) -> Result<()> {
        let text = text.as_bytes();
        if let Some(mut bytes) = self.long() {
            let len = bytes.len();
            // The new one first: it may not find room.
            match text.len() {
                0 => {}
                _ if end == len => bytes.extend_from_slice(text)?,
                _ => bytes.insert_slice(end, text)?,
            }
            return match end - start {
                0 => Ok(()),
                _ if end == len && text.is_empty() => bytes.truncate(start),
                gone => {
                    bytes.remove_range(start, gone);
                    Ok(())
                }
            };
        }
        let old = PString::copied(self);
        let parts = [&old.as_bytes()[..start], text, &old.as_bytes()[end..]];
        match Short::of(&parts) {
            Some(short) => self.put(Text::short(short)),
            None => self.spill(old.len() - (end - start) + text.len(), &parts)?,
        }
        Ok(())
    }

    /// Changes the bytes from `start` on in place; they stay UTF-8.
    fn edit(&mut self, start: usize, edit: impl FnOnce(&mut [u8])) {
        if let Some(mut bytes) = self.long() {
            return edit(bytes.split_at_mut(start).1.as_mut_slice());
        }
        if let Some(mut short) = Short::of(&[self.as_bytes()]) {
            edit(&mut short.bytes_mut()[start..]);
            self.put(Text::short(short));
        }
    }

    /// Makes room for `additional` bytes.
    ///
    /// # Errors
    ///
    /// The region is full; nothing changed.
    pub fn reserve(&mut self, additional: usize) -> Result<()> {
        if let Some(mut bytes) = self.long() {
            return bytes.reserve(additional);
        }
        match self.len().checked_add(additional) {
            Some(..=Short::ROOM) => Ok(()),
            Some(capacity) => {
                let old = PString::copied(self);
                self.spill(capacity, &[old.as_bytes()])
            }
            None => Err(Store::too_large(Mut::tx(self))),
        }
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
        let len = self.len();
        self.splice(len, len, text)
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
    #[track_caller]
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
    #[track_caller]
    pub fn insert_str(&mut self, index: usize, text: &str) -> Result<()> {
        places::boundary(self, index);
        self.splice(index, index, text)
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
    #[track_caller]
    pub fn remove(&mut self, index: usize) -> Result<char> {
        let c = places::char_at(self, index);
        self.splice(index, index + c.len_utf8(), "")?;
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
    #[track_caller]
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        if len >= self.len() {
            return Ok(());
        }
        places::boundary(self, len);
        self.splice(len, self.len(), "")
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
        let Some(mut bytes) = self.long() else {
            return Ok(());
        };
        let Some(short) = Short::of(&[&bytes]) else {
            return bytes.shrink_to_fit();
        };
        let block = bytes.array.block();
        self.put(Text::short(short));
        if let Some((block, _)) = block {
            // SAFETY: no text has the block any more.
            unsafe { Mut::tx(self).free(block) };
        }
        Ok(())
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

    /// Takes the text of `range` out, and returns it as an owned one.
    ///
    /// # Errors
    ///
    /// None today.
    ///
    /// # Panics
    ///
    /// If the range goes beyond the end or backwards, or begins or ends within a character.
    #[track_caller]
    pub fn drain(&mut self, range: impl RangeBounds<usize>) -> Result<PString> {
        let (start, end) = places::text_bounds(range, self);
        let gone = PString::from(&self[start..end]);
        self.splice(start, end, "")?;
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
    #[track_caller]
    pub fn replace_range(&mut self, range: impl RangeBounds<usize>, text: &str) -> Result<()> {
        let (start, end) = places::text_bounds(range, self);
        self.splice(start, end, text)
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
        if self.long().is_none()
            && let Some(short) = Short::of(&[kept.as_bytes()])
        {
            self.put(Text::short(short));
            return Ok(());
        }
        self.splice(kept.len(), self.len(), "")?;
        self.edit(same, |bytes| {
            bytes.copy_from_slice(&kept.as_bytes()[same..]);
        });
        Ok(())
    }

    /// Turns the letters `a` to `z` into capital ones. All bytes go into the transaction's record.
    pub fn make_ascii_uppercase(&mut self) {
        self.edit(0, <[u8]>::make_ascii_uppercase);
    }

    /// Turns the letters `A` to `Z` into small ones. All bytes go into the transaction's record.
    pub fn make_ascii_lowercase(&mut self) {
        self.edit(0, <[u8]>::make_ascii_lowercase);
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
    #[track_caller]
    pub fn split_off(&mut self, at: usize) -> Result<Moved<PString>> {
        places::boundary(self, at);
        let part = if let Some(mut bytes) = self.long() {
            let text = Text::long(ManuallyDrop::into_inner(bytes.cut_off(at)?));
            PString { text }
        } else {
            let part = PString::copied(&self[at..]);
            self.splice(at, self.len(), "")?;
            part
        };
        let part = ManuallyDrop::new(part);
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

//! `std`'s traits for [`PString`]: it reads as a `str`, and comes from and goes to a `String`.
//! Nothing here knows of regions.

use super::PString;
use super::text::Text;
use crate::vec::PVec;
use std::borrow::{Borrow, BorrowMut, Cow};
use std::cmp::Ordering;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Add, AddAssign, Deref, DerefMut};
use std::path::Path;
use std::str::FromStr;

impl Deref for PString {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl DerefMut for PString {
    fn deref_mut(&mut self) -> &mut str {
        self.as_mut_str()
    }
}

impl Borrow<str> for PString {
    #[inline]
    fn borrow(&self) -> &str {
        self
    }
}

/// A view of the text as something else.
macro_rules! as_ref {
    ($($other:ty)*) => {$(
        impl AsRef<$other> for PString {
            fn as_ref(&self) -> &$other {
                self.as_str().as_ref()
            }
        }
    )*};
}

as_ref!(str [u8] OsStr Path);

impl fmt::Debug for PString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for PString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl fmt::Write for PString {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push_str(text);
        Ok(())
    }
}

impl From<String> for PString {
    /// Copies nothing.
    fn from(string: String) -> Self {
        PString {
            text: Text::long(PVec::from(string.into_bytes())),
        }
    }
}

impl From<PString> for String {
    /// Copies nothing but a short text.
    fn from(string: PString) -> Self {
        string.into_string()
    }
}

impl From<PString> for PVec<u8> {
    /// Copies nothing but a short text.
    fn from(string: PString) -> Self {
        string.into_vector()
    }
}

/// A text that is copied.
macro_rules! from {
    ($($other:ty)*) => {$(
        impl From<$other> for PString {
            fn from(text: $other) -> Self {
                PString::copied(text)
            }
        }
    )*};
}

from!(&str &mut str &String);

impl From<char> for PString {
    fn from(c: char) -> Self {
        PString::copied(c.encode_utf8(&mut [0; 4]))
    }
}

impl From<Box<str>> for PString {
    /// Copies nothing.
    fn from(text: Box<str>) -> Self {
        String::from(text).into()
    }
}

impl From<Cow<'_, str>> for PString {
    /// Copies what is borrowed.
    fn from(text: Cow<'_, str>) -> Self {
        match text {
            Cow::Borrowed(text) => PString::copied(text),
            Cow::Owned(text) => text.into(),
        }
    }
}

impl FromStr for PString {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.into())
    }
}

/// Building from, and extending by, an iterator.
macro_rules! collect {
    ($([$($life:lifetime)?] $item:ty;)*) => {$(
        impl<$($life)?> FromIterator<$item> for PString {
            fn from_iter<I: IntoIterator<Item = $item>>(iter: I) -> Self {
                String::from_iter(iter).into()
            }
        }

        impl<$($life)?> Extend<$item> for PString {
            fn extend<I: IntoIterator<Item = $item>>(&mut self, iter: I) {
                self.standard().extend(iter);
            }
        }
    )*};
}

collect! {
    [] char;
    ['a] &'a char;
    ['a] &'a str;
    [] String;
    ['a] Cow<'a, str>;
    [] Box<str>;
}

impl FromIterator<PString> for PString {
    fn from_iter<I: IntoIterator<Item = PString>>(iter: I) -> Self {
        iter.into_iter().map(PString::into_string).collect()
    }
}

impl Extend<PString> for PString {
    fn extend<I: IntoIterator<Item = PString>>(&mut self, iter: I) {
        iter.into_iter().for_each(|text| self.push_str(&text));
    }
}

impl BorrowMut<str> for PString {
    fn borrow_mut(&mut self) -> &mut str {
        self
    }
}

impl AsMut<str> for PString {
    fn as_mut(&mut self) -> &mut str {
        self
    }
}

impl Add<&str> for PString {
    type Output = PString;

    fn add(mut self, text: &str) -> PString {
        self.push_str(text);
        self
    }
}

impl AddAssign<&str> for PString {
    fn add_assign(&mut self, text: &str) {
        self.push_str(text);
    }
}

impl PartialEq for PString {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        let short = self.text.eq_short(&other.text);
        short.unwrap_or_else(|| self.as_str() == other.as_str())
    }
}

impl Eq for PString {}

/// Equality with other texts, both ways.
macro_rules! equal_to {
    ($($other:ty)*) => {$(
        impl PartialEq<$other> for PString {
            fn eq(&self, other: &$other) -> bool {
                self.as_str() == &other[..]
            }
        }

        impl PartialEq<PString> for $other {
            fn eq(&self, other: &PString) -> bool {
                &self[..] == other.as_str()
            }
        }
    )*};
}

equal_to!(str &str String Cow<'_, str>);

impl PartialOrd for PString {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PString {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        let short = self.text.cmp_short(&other.text);
        short.unwrap_or_else(|| self.as_str().cmp(other.as_str()))
    }
}

/// As `str` hashes, so that look-ups by `&str` work.
impl Hash for PString {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

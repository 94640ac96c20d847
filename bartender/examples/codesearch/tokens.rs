//! What a word is, and finding words in bytes.
//!
//! A word is what `grep -w` takes for one in the C locale, when it starts with
//! a letter or `_`: a maximal run of ASCII letters, digits and `_`. Case
//! matters. A run that starts with a digit (`0x1f`, `2fast`) is no word, nor
//! is any part of it. Every other byte, also one outside of ASCII, separates.
//! Lines end at `\n` and count from 1.

/// Class of each byte.
const CLASSES: [Class; 256] = {
    let mut classes = [Class::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        if b == b'_' || b.is_ascii_alphabetic() {
            classes[byte] = Class::Start;
        } else if b.is_ascii_digit() {
            classes[byte] = Class::Digit;
        } else if b == b'\n' {
            classes[byte] = Class::Newline;
        }
        byte += 1;
    }
    classes
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Other,
    Newline,
    Digit,
    Start,
}

impl Class {
    fn in_run(self) -> bool {
        matches!(self, Class::Digit | Class::Start)
    }
}

/// Whether `text` is a word, and so can be searched for.
pub(crate) fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes
        .first()
        .is_some_and(|&b| CLASSES[b as usize] == Class::Start)
        && bytes.iter().all(|&b| CLASSES[b as usize].in_run())
}

/// Finds the words of a text that comes in pieces.
#[derive(Debug)]
pub(crate) struct Tokens {
    line: u32,
}

impl Tokens {
    /// At the start of a text.
    pub(crate) fn new() -> Self {
        Tokens { line: 1 }
    }

    /// Number of the line that the next byte belongs to.
    pub(crate) fn line(&self) -> u32 {
        self.line
    }

    /// Calls `each(word, line)` for every word of `piece` and returns how many
    /// bytes are done with. Unless this is the last piece, a run that touches
    /// its end may go on: it is left over and belongs in front of the next one.
    pub(crate) fn feed(
        &mut self,
        piece: &[u8],
        last: bool,
        mut each: impl FnMut(&[u8], u32),
    ) -> usize {
        let mut at = 0;
        while at < piece.len() {
            match CLASSES[piece[at] as usize] {
                Class::Other => at += 1,
                Class::Newline => {
                    self.line = self.line.saturating_add(1);
                    at += 1;
                }
                first => {
                    let rest = &piece[at..];
                    let len = rest
                        .iter()
                        .position(|&b| !CLASSES[b as usize].in_run())
                        .unwrap_or(rest.len());
                    if at + len == piece.len() && !last {
                        return at;
                    }
                    if first == Class::Start {
                        each(&rest[..len], self.line);
                    }
                    at += len;
                }
            }
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &[u8]) -> Vec<(String, u32)> {
        let mut found = Vec::new();
        let done = Tokens::new().feed(text, true, |word, line| {
            found.push((String::from_utf8(word.to_vec()).unwrap(), line));
        });
        assert_eq!(done, text.len());
        found
    }

    fn pair(word: &str, line: u32) -> (String, u32) {
        (word.to_owned(), line)
    }

    #[test]
    fn runs_that_start_with_a_digit_are_no_words() {
        assert_eq!(
            words(b"a1 1a 0x1f _x-y\nZ"),
            [pair("a1", 1), pair("_x", 1), pair("y", 1), pair("Z", 2)]
        );
    }

    #[test]
    fn bytes_outside_of_ascii_separate() {
        assert_eq!(
            words("na\u{ef}ve\r\n".as_bytes()),
            [pair("na", 1), pair("ve", 1)]
        );
        assert_eq!(words(b"a\xffb"), [pair("a", 1), pair("b", 1)]);
    }

    #[test]
    fn a_text_in_pieces_has_the_same_words() {
        let text = b"let alpha_1 = beta;\n  9lives gamma\n\ndelta";
        let whole = words(text);
        for size in 1..text.len() {
            let mut found = Vec::new();
            let mut tokens = Tokens::new();
            let mut pending: Vec<u8> = Vec::new();
            let mut pieces = text.chunks(size).peekable();
            while let Some(piece) = pieces.next() {
                pending.extend_from_slice(piece);
                let done = tokens.feed(&pending, pieces.peek().is_none(), |word, line| {
                    found.push((String::from_utf8(word.to_vec()).unwrap(), line));
                });
                pending.drain(..done);
            }
            assert_eq!(found, whole, "pieces of {size} bytes");
            assert_eq!(tokens.line(), 4);
        }
    }

    #[test]
    fn what_can_be_searched_for() {
        for good in ["a", "_", "HashMap", "x86_64"] {
            assert!(is_word(good), "{good}");
        }
        for bad in ["", "1a", "a-b", "a b", "\u{e9}t\u{e9}", "a\n"] {
            assert!(!is_word(bad), "{bad:?}");
        }
    }
}

//! What is said about an index or a range that is not there: std's words, with the numbers, at the line of who asked.

use std::ops::{Bound, RangeBounds};

/// # Panics
///
/// If `index > len`.
#[track_caller]
#[inline]
pub(crate) fn upto(what: &str, index: usize, len: usize) {
    if index > len {
        refuse(what, index, "<=", len);
    }
}

/// # Panics
///
/// If `index >= len`.
#[track_caller]
#[inline]
pub(crate) fn below(what: &str, index: usize, len: usize) {
    if index >= len {
        refuse(what, index, "<", len);
    }
}

#[cold]
#[inline(never)]
#[track_caller]
fn refuse(what: &str, index: usize, relation: &str, len: usize) -> ! {
    panic!("{what} (is {index}) should be {relation} len (is {len})")
}

/// Start and end of a range of `len` elements.
///
/// # Panics
///
/// If it goes beyond the end or backwards.
#[track_caller]
pub(crate) fn bounds(range: impl RangeBounds<usize>, len: usize) -> (usize, usize) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => len,
    };
    assert!(start <= end, "range starts at {start} but ends at {end}");
    assert!(
        end <= len,
        "range end index {end} out of range for length {len}"
    );
    (start, end)
}

/// # Panics
///
/// If no character of `text` begins, and it does not end, at byte `index`.
#[track_caller]
#[inline]
pub(crate) fn boundary(text: &str, index: usize) {
    if !text.is_char_boundary(index) {
        refuse_byte(text, index);
    }
}

#[cold]
#[inline(never)]
#[track_caller]
fn refuse_byte(text: &str, index: usize) -> ! {
    let len = text.len();
    let before = text.char_indices().take_while(|(at, _)| *at <= index);
    match before.last().filter(|_| index < len) {
        Some((at, c)) => panic!(
            "byte index {index} is not a char boundary; it is inside {c:?} (bytes {at}..{}) of a text of {len} bytes",
            at + c.len_utf8()
        ),
        None => panic!("byte index {index} is out of bounds of a text of {len} bytes"),
    }
}

/// Start and end of a range of bytes, between characters of `text`.
///
/// # Panics
///
/// If it goes beyond the end or backwards, or begins or ends within a character.
#[track_caller]
pub(crate) fn text_bounds(range: impl RangeBounds<usize>, text: &str) -> (usize, usize) {
    let (start, end) = bounds(range, text.len());
    boundary(text, start);
    boundary(text, end);
    (start, end)
}

/// The character that begins at byte `index` of `text`.
///
/// # Panics
///
/// If none does.
#[track_caller]
pub(crate) fn char_at(text: &str, index: usize) -> char {
    boundary(text, index);
    below("removal index", index, text.len());
    text[index..]
        .chars()
        .next()
        .expect("a character begins below the end")
}

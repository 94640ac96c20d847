//! How the places of one word in one segment are coded, in bytes.
//!
//! For each file, in ascending order: how many files were skipped since the
//! last one, how many lines follow (at least one), and for each line how many
//! lines were skipped since the last one. All numbers are LEB128: seven bits a
//! byte, lowest first, the eighth bit says that more follow. Most places of a
//! source tree take one byte.
//!
//! Reading never panics: bytes that make no sense end the list.

/// Writes the places of one word.
pub(crate) struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    next_file: u32,
}

impl<'a> Encoder<'a> {
    /// A list that goes to the end of `out`.
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Encoder { out, next_file: 0 }
    }

    /// Adds a file, and its lines in ascending order, at least one.
    pub(crate) fn file(&mut self, file: u32, count: u32, lines: impl Iterator<Item = u32>) {
        put(self.out, file - self.next_file);
        self.next_file = file + 1;
        put(self.out, count);
        let mut next = 1;
        for line in lines {
            put(self.out, line - next);
            next = line + 1;
        }
    }

    /// Adds a file with lines that are coded already.
    pub(crate) fn place(&mut self, file: u32, place: &Place<'_>) {
        put(self.out, file - self.next_file);
        self.next_file = file + 1;
        put(self.out, place.count);
        self.out.extend_from_slice(place.lines);
    }
}

/// One word in one file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The file's number in its segment.
    pub(crate) file: u32,
    /// On how many lines the word stands.
    pub(crate) count: u32,
    lines: &'a [u8],
}

impl Place<'_> {
    /// The lines, ascending.
    pub(crate) fn lines(&self) -> impl Iterator<Item = u32> {
        let mut rest = self.lines;
        let mut next = 1u32;
        std::iter::from_fn(move || {
            let line = next.checked_add(take(&mut rest)?)?;
            next = line.saturating_add(1);
            Some(line)
        })
    }
}

/// The places of a word, in the order of the files.
pub(crate) fn places(bytes: &[u8]) -> impl Iterator<Item = Place<'_>> {
    let mut rest = bytes;
    let mut next = 0u32;
    std::iter::from_fn(move || {
        let file = next.checked_add(take(&mut rest)?)?;
        next = file.saturating_add(1);
        let count = take(&mut rest)?;
        let len = length(rest, count)?;
        let (lines, behind) = rest.split_at(len);
        rest = behind;
        Some(Place { file, count, lines })
    })
}

fn put(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0u32;
    for shift in (0..32).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// How many bytes the next `count` numbers take.
fn length(bytes: &[u8], count: u32) -> Option<usize> {
    let mut left = count;
    if left == 0 {
        return Some(0);
    }
    for (at, byte) in bytes.iter().enumerate() {
        if byte & 0x80 == 0 {
            left -= 1;
            if left == 0 {
                return Some(at + 1);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let lists: Vec<(u32, Vec<u32>)> = vec![
            (0, vec![1]),
            (1, vec![2, 3, 200, 70_000]),
            (900, vec![u32::MAX - 1]),
        ];
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes);
        for (file, lines) in &lists {
            encoder.file(*file, lines.len() as u32, lines.iter().copied());
        }
        let read: Vec<(u32, Vec<u32>)> = places(&bytes)
            .map(|place| {
                assert_eq!(place.count as usize, place.lines().count());
                (place.file, place.lines().collect())
            })
            .collect();
        assert_eq!(read, lists);
    }

    #[test]
    fn a_place_can_be_copied_to_another_list() {
        let mut first = Vec::new();
        Encoder::new(&mut first).file(7, 2, [10, 20].into_iter());
        let mut second = Vec::new();
        let mut encoder = Encoder::new(&mut second);
        for place in places(&first) {
            encoder.place(3, &place);
        }
        let place = places(&second).next().unwrap();
        assert_eq!((place.file, place.count), (3, 2));
        assert_eq!(place.lines().collect::<Vec<_>>(), [10, 20]);
    }

    #[test]
    fn damaged_bytes_end_the_list() {
        for bytes in [
            &[0x80][..],
            &[0, 3, 1],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(places(bytes).count(), 0);
        }
    }
}

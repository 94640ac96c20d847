//! Digests of homes: what primary and backups compare instead of bytes, and how a backup answers for its own.
//!
//! The digest of a page is SipHash-1-3 with 128 bits, keyed by where it is and as of when, or 0 where all is zeroes; that of
//! more pages is the hash of theirs. Two pages that differ have the same digest once in 2¹²⁸, and if they have, not at the next
//! number. It is for decay and bugs, not against a replica that lies: those that compare trust each other with the data.

use super::layout::{Answer, Ask, HOME_PIECE, MAX_DIGESTS};
use bartender_pm::{Error, SCRUB_PAGE, Standby};
use bytes::Bytes;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;

/// Pages that are read at once: so long a checkpoint may have to wait.
const READ_PAGES: u64 = 32;

const PAGE: usize = SCRUB_PAGE as usize;

/// Most bytes whose digests are asked for at once.
pub(super) const SEGMENT: u64 = 1 << 20;

const _: () = assert!(SEGMENT / SCRUB_PAGE <= MAX_DIGESTS && SEGMENT.is_multiple_of(SCRUB_PAGE));

/// `None`: the bytes cannot be read.
pub(super) type Digest = Option<u128>;

/// The digest of a page at home offset `offset`.
pub(super) fn of_page(number: u64, offset: u64, page: &[u8]) -> u128 {
    static ZEROES: [u8; PAGE] = [0; PAGE];
    if *page == ZEROES[..page.len()] {
        return 0;
    }
    let mut hasher = SipHasher13::new_with_keys(number, offset);
    hasher.write(page);
    hasher.finish128().as_u128()
}

/// `count` digests from `offset` on, each of `step` bytes of a home that `read` reads as of `number`. `None`: it is no
/// longer exact there. What `read` fails to read has no digest.
pub(super) fn of_home(
    read: impl Fn(u64, &mut [u8]) -> Result<bool, Error>,
    number: u64,
    offset: u64,
    step: u64,
    count: u64,
) -> Result<Option<Vec<Digest>>, Error> {
    let mut digests = Vec::with_capacity(count as usize);
    for start in (0..count).map(|i| offset + i * step) {
        let Some(pages) = of_pages(&read, number, start, step)? else {
            return Ok(None);
        };
        digests.push(if let [page] = pages[..] {
            page
        } else {
            let mut hasher = SipHasher13::new_with_keys(number, start);
            let pages: Option<Vec<u128>> = pages.into_iter().collect();
            pages.map(|pages| {
                if pages.iter().all(|&page| page == 0) {
                    return 0;
                }
                pages
                    .iter()
                    .for_each(|page| hasher.write_u128(page.to_le()));
                hasher.finish128().as_u128()
            })
        });
    }
    Ok(Some(digests))
}

fn of_pages(
    read: &impl Fn(u64, &mut [u8]) -> Result<bool, Error>,
    number: u64,
    start: u64,
    len: u64,
) -> Result<Option<Vec<Digest>>, Error> {
    let mut digests = Vec::with_capacity((len / SCRUB_PAGE) as usize);
    let mut buf = vec![0; PAGE * READ_PAGES.min(len / SCRUB_PAGE) as usize];
    let mut at = start;
    while at < start + len {
        let n = (buf.len() as u64).min(start + len - at);
        let pages = &mut buf[..n as usize];
        match read(at, pages) {
            Ok(true) => {
                for (offset, page) in (at..).step_by(PAGE).zip(pages.chunks(PAGE)) {
                    digests.push(Some(of_page(number, offset, page)));
                }
            }
            Ok(false) => return Ok(None),
            // Page by page, which ones it is.
            Err(Error::Io { .. }) => {
                for offset in (at..at + n).step_by(PAGE) {
                    let page = &mut pages[..PAGE];
                    digests.push(match read(offset, page) {
                        Ok(true) => Some(of_page(number, offset, page)),
                        Ok(false) => return Ok(None),
                        Err(Error::Io { .. }) => None,
                        Err(error) => return Err(error),
                    });
                }
            }
            Err(error) => return Err(error),
        }
        at += n;
    }
    Ok(Some(digests))
}

/// What a backup answers that is asked for its home.
pub(super) fn answer(standby: &Standby, ask: Ask) -> Answer {
    let failed = |why: String| Answer::Failed { why };
    let of = match &ask {
        Ask::Digests { of, .. } | Ask::Read { of, .. } | Ask::Repair { of, .. } => of.clone(),
        _ => return failed("asked elsewhere".into()),
    };
    let position = standby.position();
    if position.epoch > of.epoch {
        let current = position.epoch;
        return Answer::Fenced { current };
    }
    if position.epoch < of.epoch {
        return failed(format!("epoch {} has not attached", of.epoch));
    }
    let elsewhere = || {
        let checkpoint = standby.position().checkpoint;
        Ok(Answer::Elsewhere { checkpoint })
    };
    let is_page = |n: u64| n.is_multiple_of(SCRUB_PAGE) && n < 1 << 47;
    let answered = (|| match ask {
        _ if position.committed < of.upto => elsewhere(),
        Ask::Digests {
            offset,
            step,
            count,
            ..
        } => {
            let whole = is_page(offset) && is_page(step) && step != 0 && count <= MAX_DIGESTS;
            if !whole || step.saturating_mul(count) > SEGMENT {
                return Ok(failed(format!("{count} digests of {step} at {offset}")));
            }
            if !standby.settle_home(of.number)? {
                return elsewhere();
            }
            let read = |at, buf: &mut [u8]| standby.read_home(of.number, at, buf);
            match of_home(read, of.number, offset, step, count)? {
                Some(digests) => Ok(Answer::Digests { digests }),
                None => elsewhere(),
            }
        }
        Ask::Read { offset, len, .. } => {
            if !is_page(offset) || !is_page(len) || len > HOME_PIECE as u64 {
                return Ok(failed(format!("{len} bytes at {offset}")));
            }
            let mut bytes = vec![0; len as usize];
            if !standby.read_home(of.number, offset, &mut bytes)? {
                return elsewhere();
            }
            let bytes = Bytes::from(bytes);
            Ok(Answer::Home { bytes })
        }
        Ask::Repair { offset, bytes, .. } => {
            if !is_page(offset) || !is_page(bytes.len() as u64) {
                return Ok(failed(format!("{} bytes for {offset}", bytes.len())));
            }
            if !standby.repair_home(of.number, offset, &bytes)? {
                return elsewhere();
            }
            tracing::error!(region = of.region, offset, "a damaged page is repaired");
            Ok(Answer::Done)
        }
        _ => Ok(failed("asked elsewhere".into())),
    })();
    answered.unwrap_or_else(|error: Error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn unreadable() -> Error {
        Error::Io {
            path: "home".into(),
            action: "read",
            source: std::io::Error::other("a bad sector"),
        }
    }

    #[test]
    fn a_byte_that_differs_changes_the_digests_over_it_and_no_other() {
        let home = vec![7u8; 64 * PAGE];
        let digests = |home: &[u8], step: usize| {
            let read = |at: u64, buf: &mut [u8]| {
                buf.copy_from_slice(&home[at as usize..][..buf.len()]);
                Ok(true)
            };
            let count = home.len() / step;
            let digests = of_home(read, 5, 0, step as u64, count as u64);
            digests.expect("it can be read").expect("it is exact")
        };
        let mut other = home.clone();
        other[33 * PAGE + 5] ^= 1;
        for (step, differs) in [(PAGE, 33), (8 * PAGE, 4), (64 * PAGE, 0)] {
            let (a, b) = (digests(&home, step), digests(&other, step));
            let different: Vec<_> = (0..a.len()).filter(|&i| a[i] != b[i]).collect();
            assert_eq!(different, [differs]);
        }
        assert_eq!(digests(&vec![0; 8 * PAGE], 4 * PAGE), [Some(0), Some(0)]);
    }

    #[test]
    fn what_cannot_be_read_has_no_digest_and_what_is_read_beside_it_has() {
        let bad = 40 * SCRUB_PAGE;
        let read = |at: u64, buf: &mut [u8]| {
            if (at..at + buf.len() as u64).contains(&bad) {
                return Err(unreadable());
            }
            buf.fill(1);
            Ok(true)
        };
        let pages = of_home(read, 5, 0, SCRUB_PAGE, 64).expect("answers");
        let pages = pages.expect("it is exact");
        assert!((0..64).all(|i| pages[i].is_none() == (i == 40)));
        let halves = of_home(read, 5, 0, 32 * SCRUB_PAGE, 2).expect("answers");
        let halves = halves.expect("it is exact");
        assert!(halves[0].is_some() && halves[1].is_none());
    }

    #[test]
    fn a_home_that_moves_on_has_none() {
        let reads = Cell::new(0);
        let read = |_: u64, _: &mut [u8]| {
            reads.set(reads.get() + 1);
            Ok(reads.get() < 3)
        };
        let digests = of_home(read, 5, 0, SEGMENT, 1).expect("answers");
        assert_eq!(digests, None);
    }
}

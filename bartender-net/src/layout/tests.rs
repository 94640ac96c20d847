//! The parser: what was put is parsed again, and any other bytes do no harm.

use super::*;
use proptest::prelude::*;

/// Any frame, with ranges and reasons from `ranges` and `text`.
fn frames<'a>(
    which: u8,
    (a, b, c, d): (u64, u64, u64, u64),
    ranges: &'a [Range],
    reason: &'a str,
) -> Frame<'a> {
    let len = (d % u64::from(MAX_TRANSFER + 1)) as u32;
    match which % 12 {
        0 => Frame::Read {
            key: a,
            offset: b,
            len,
        },
        1 => Frame::Write {
            key: a,
            offset: b,
            len,
            immediate: (c % 2 == 0).then_some(c as u32),
        },
        2 => Frame::CompareSwap {
            key: a,
            offset: b,
            expected: c,
            new: d,
        },
        3 => Frame::FetchAdd {
            key: a,
            offset: b,
            addend: c,
        },
        4 => Frame::Persist { key: a, ranges },
        5 => Frame::Send {
            len: len % (MAX_MESSAGE + 1),
        },
        6 => Frame::Done {
            count: len % (MAX_IN_FLIGHT + 1),
        },
        7 => Frame::Bytes { len },
        8 => Frame::Word { word: a },
        9 => Frame::OutOfBounds {
            offset: a,
            len: b,
            size: c,
        },
        10 => Frame::Refused { reason },
        _ => Frame::Grant {
            bytes: len % (WINDOW + 1),
        },
    }
}

fn some_ranges() -> impl Strategy<Value = Vec<Range>> {
    let range = any::<(u64, u64)>().prop_map(|(offset, len)| Range {
        offset: offset.into(),
        len: len.into(),
    });
    proptest::collection::vec(range, 0..40)
}

proptest! {
    #[test]
    fn a_frame_is_parsed_as_it_was_put(
        which: u8,
        words: (u64, u64, u64, u64),
        ranges in some_ranges(),
        reason in ".{0,60}",
        more in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let frame = frames(which, words, &ranges, &reason);
        let mut bytes = Vec::new();
        frame.put(&mut bytes);
        let whole = bytes.len();
        for short in 0..whole {
            prop_assert_eq!(parse(&bytes[..short]), Ok(None));
        }
        bytes.extend(more);
        prop_assert_eq!(parse(&bytes), Ok(Some((frame, whole))));
    }

    #[test]
    fn any_bytes_are_a_frame_or_damage(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        kind in 0_u8..24,
    ) {
        // Mostly something that looks like a frame.
        if let Some(first) = bytes.first_mut() { *first = kind; }
        if bytes.len() > 8 { bytes[1] &= 1; bytes[2..4].fill(0); bytes[5..8].fill(0); }
        if let Ok(Some((_, taken))) = parse(&bytes) {
            prop_assert!(taken <= bytes.len() && taken >= size_of::<Head>());
        }
    }

    #[test]
    fn what_cannot_be_parsed_yet_needs_less_than_the_limit(
        bytes in proptest::collection::vec(any::<u8>(), 8..64),
        kind in 0_u8..24,
    ) {
        let mut bytes = bytes;
        bytes[0] = kind;
        bytes.resize(MAX_PARSED, 0);
        prop_assert_ne!(parse(&bytes), Ok(None));
    }
}

#[test]
fn what_is_too_long_is_damage_at_once() {
    for (kind, bound) in [
        (kind::READ, MAX_TRANSFER),
        (kind::WRITE, MAX_TRANSFER),
        (kind::BYTES, MAX_TRANSFER),
        (kind::SEND, MAX_MESSAGE),
        (kind::PERSIST, MAX_RANGES),
        (kind::FAILED, MAX_REASON),
    ] {
        let head = Head {
            kind,
            flags: 0,
            zero: U16::ZERO,
            length: U32::new(bound + 1),
        };
        assert!(parse(head.as_bytes()).is_err(), "kind {kind}");
    }
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let reason = "é".repeat(MAX_REASON as usize);
    let mut bytes = Vec::new();
    Frame::Refused { reason: &reason }.put(&mut bytes);
    match parse(&bytes) {
        Ok(Some((Frame::Refused { reason }, _))) => assert_eq!(reason.len(), MAX_REASON as usize),
        other => panic!("{other:?}"),
    }
}

//! Messages of any length as pieces that the fabric takes, and back.
//!
//! Putting together checks everything: no bytes panic, and what is held is bounded.

use super::layout::Piece;
use super::message::Bad;
use bytes::{Buf, Bytes};
use std::collections::BTreeMap;

/// Bytes of a piece, its head included: well below what the fabric takes as one message.
const PIECE: usize = 256 << 10;

/// The pieces as which `bytes` travel.
pub(super) fn split(number: u64, bytes: &[u8]) -> Vec<Bytes> {
    let mut parts = bytes.chunks(PIECE - Piece::LEN).peekable();
    let mut pieces = Vec::new();
    while let Some(part) = parts.next() {
        let head = Piece {
            version: Piece::VERSION,
            more: u32::from(parts.peek().is_some()),
            number,
        };
        pieces.push([&head.to_bytes(), part].concat().into());
    }
    pieces
}

/// Puts pieces together; those of different numbers may come in turns.
#[derive(Debug)]
pub(super) struct Assembler {
    parts: BTreeMap<u64, Vec<u8>>,
    held: usize,
    limit: usize,
}

impl Assembler {
    /// For messages that are not whole yet of up to `limit` bytes in all.
    pub(super) fn new(limit: usize) -> Assembler {
        Assembler {
            parts: BTreeMap::new(),
            held: 0,
            limit,
        }
    }

    /// A piece that came; with the last one of its number, all bytes.
    pub(super) fn push(&mut self, mut piece: Bytes) -> Result<Option<(u64, Bytes)>, Bad> {
        let head = piece.first_chunk().ok_or("a piece without its head")?;
        let head = Piece::from_bytes(head);
        if head.version != Piece::VERSION {
            return Err("another version; run the same version on both machines");
        }
        if head.more > 1 {
            return Err("a piece of no known kind");
        }
        piece.advance(Piece::LEN);
        if head.more == 1 && piece.is_empty() {
            return Err("an empty piece");
        }
        if self.held + piece.len() > self.limit {
            return Err("it is too long");
        }
        if head.more == 1 {
            self.held += piece.len();
            self.parts.entry(head.number).or_default().extend(&piece);
            return Ok(None);
        }
        let Some(mut bytes) = self.parts.remove(&head.number) else {
            return Ok(Some((head.number, piece)));
        };
        self.held -= bytes.len();
        bytes.extend(&piece);
        Ok(Some((head.number, bytes.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_pieces_do_harm(noise: Vec<Vec<u8>>) {
            let mut assembler = Assembler::new(50);
            for piece in noise {
                let mut likely = vec![1, 0, 0, 0, piece.len() as u8 % 3, 0, 0, 0];
                likely.extend(&piece);
                let _ = assembler.push(piece.into());
                let _ = assembler.push(likely.into());
                prop_assert!(assembler.held <= 50);
                let held: usize = assembler.parts.values().map(Vec::len).sum();
                prop_assert_eq!(held, assembler.held);
            }
        }
    }

    #[test]
    fn a_long_message_travels_in_pieces_that_may_come_among_others() {
        let long: Vec<u8> = (0..3 * PIECE).map(|i| i as u8).collect();
        let other = vec![7; PIECE];
        let (a, b) = (split(1, &long), split(2, &other));
        assert_eq!((a.len(), b.len()), (4, 2));
        assert!(a.iter().chain(&b).all(|piece| piece.len() <= PIECE));
        let mut assembler = Assembler::new(4 * PIECE);
        let mut whole = Vec::new();
        for (i, piece) in a.into_iter().enumerate() {
            whole.extend(assembler.push(piece).unwrap());
            if let Some(piece) = b.get(i) {
                whole.extend(assembler.push(piece.clone()).unwrap());
            }
        }
        assert_eq!(whole, [(2, Bytes::from(other)), (1, Bytes::from(long))]);
        assert_eq!((assembler.held, assembler.parts.len()), (0, 0));
    }

    #[test]
    fn what_is_too_long_or_of_another_version_is_refused() {
        let pieces = split(1, &vec![0; 3 * PIECE]);
        let mut assembler = Assembler::new(2 * PIECE);
        assembler.push(pieces[0].clone()).unwrap();
        assembler.push(pieces[1].clone()).unwrap();
        assert!(assembler.push(pieces[2].clone()).is_err());
        let mut newer = split(1, b"x")[0].to_vec();
        newer[0] = 2;
        let why = Assembler::new(100).push(newer.into()).unwrap_err();
        assert!(why.contains("version"));
    }
}

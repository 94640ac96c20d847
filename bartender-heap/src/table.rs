//! The superblock table: where its pieces lie, and which of its entries are
//! meant.
//!
//! It promises that every extent it returns lies in allocated home space,
//! outside of the table itself, and overlaps no other. It does not know which
//! blocks are live; only marking does.

use crate::class;
use crate::error::{Error, Result};
use crate::layout::{CHUNK_UNITS, FIRST_PIECE, TABLE, TableEntry, UNIT, UNIT_SHIFT};
use std::collections::BTreeMap;
use std::ops::Range;

/// Units that the first piece describes.
const FIRST_UNITS: u64 = FIRST_PIECE / UNIT;
/// No heap lives to see so many births.
pub(crate) const MAX_BIRTH: u64 = 1 << 62;
/// Bytes of a piece's table from which on it is worth asking which of them were ever written.
const LONG_PIECE: u64 = 128 << 10;
/// Entries of the table that one unit holds.
const ENTRIES_PER_UNIT: u64 = UNIT / size_of::<TableEntry>() as u64;

/// One piece of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// First unit that it describes.
    pub(crate) first: u64,
    /// End of the units that it describes.
    pub(crate) end: u64,
    /// Unit where it lies.
    pub(crate) at: u64,
    /// Units that it takes.
    pub(crate) units: u64,
}

impl Piece {
    /// The piece that describes `unit` in a home of `max` units.
    pub(crate) fn of(unit: u64, max: u64) -> Piece {
        if unit < FIRST_UNITS {
            let end = FIRST_UNITS.min(max);
            return Piece {
                first: 0,
                end,
                at: TABLE / UNIT,
                units: end.div_ceil(ENTRIES_PER_UNIT),
            };
        }
        let first = 1 << (u64::BITS - 1 - unit.leading_zeros());
        let end = (first * 2).min(max);
        Piece {
            first,
            end,
            at: first,
            units: (end - first).div_ceil(ENTRIES_PER_UNIT),
        }
    }

    /// First unit behind the piece's own.
    pub(crate) fn behind(&self) -> u64 {
        self.at + self.units
    }
}

/// All pieces of the table of a home of `max` units.
pub(crate) fn pieces(max: u64) -> impl Iterator<Item = Piece> {
    let mut next = 0;
    std::iter::from_fn(move || {
        (next < max).then(|| {
            let piece = Piece::of(next, max);
            next = piece.end;
            piece
        })
    })
}

/// Home offset of the entry of `unit` in a home of `max` units.
pub(crate) fn entry_offset(unit: u64, max: u64) -> u64 {
    let piece = Piece::of(unit, max);
    (piece.at << UNIT_SHIFT) + (unit - piece.first) * size_of::<TableEntry>() as u64
}

/// The unit whose entry is at home offset `offset`, if that is one.
pub(crate) fn entry_unit(offset: u64, max: u64) -> Option<u64> {
    let unit = offset >> UNIT_SHIFT;
    if unit >= max {
        return None;
    }
    let piece = Piece::of(unit, max);
    let at = offset.checked_sub(piece.at << UNIT_SHIFT)?;
    let described = piece.first + at / size_of::<TableEntry>() as u64;
    (at % size_of::<TableEntry>() as u64 == 0 && described < piece.end).then_some(described)
}

/// An extent that the table describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Its first unit.
    pub(crate) unit: u64,
    /// Its entry.
    pub(crate) entry: TableEntry,
}

impl Extent {
    /// One past its last unit.
    pub(crate) fn end(&self) -> u64 {
        self.unit + u64::from(self.entry.units)
    }

    /// Checks that this can be an extent of a home of which `end` units of `max` are allocated.
    pub(crate) fn check(&self, end: u64, max: u64) -> Result<()> {
        let bad = |what: String| {
            Err(Error::Damaged {
                offset: entry_offset(self.unit, max),
                what,
            })
        };
        let TableEntry {
            birth,
            units,
            class,
            flags,
        } = self.entry;
        if birth == 0 || birth > MAX_BIRTH {
            return bad(format!("superblock entry with birth {birth:#x}"));
        }
        if flags != 0 {
            return bad(format!("superblock entry with unknown flags {flags:#x}"));
        }
        if class != TableEntry::LARGE {
            let Some(class) = class::TABLE.get(class as usize) else {
                return bad(format!("superblock entry of unknown size class {class}"));
            };
            if class.units != units {
                return bad(format!(
                    "superblock entry of {units} units instead of {}",
                    class.units
                ));
            }
            if !self.unit.is_multiple_of(CHUNK_UNITS) {
                return bad(format!(
                    "superblock entry at unit {}, which is no multiple of {CHUNK_UNITS}",
                    self.unit
                ));
            }
        } else if u64::from(units) < CHUNK_UNITS {
            return bad(format!("large run of {units} units only"));
        }
        let piece = Piece::of(self.unit, max);
        if units == 0 || self.unit < piece.behind() || self.end() > piece.end.min(end) {
            return bad(format!(
                "superblock entry of {units} units at unit {}, where only {} to {} can be",
                self.unit,
                piece.behind(),
                piece.end.min(end)
            ));
        }
        Ok(())
    }
}

/// All entries in the table of a home whose first bytes are `home`. Of long pieces those parts are read that `written`
/// returns for a range of home offsets: whole entries, outside of which there are zeroes.
pub(crate) fn read(
    home: &[u8],
    max: u64,
    written: impl Fn(Range<u64>) -> Vec<Range<u64>>,
) -> Vec<Extent> {
    const ENTRY: u64 = size_of::<TableEntry>() as u64;
    let end = home.len() as u64 / UNIT;
    let mut extents = Vec::new();
    for piece in pieces(max) {
        let (first, last) = (piece.behind(), piece.end.min(end));
        if first >= last {
            continue;
        }
        let start = entry_offset(first, max);
        let whole = start..start + (last - first) * ENTRY;
        let parts = match whole.end - whole.start > LONG_PIECE {
            true => written(whole),
            false => vec![whole],
        };
        for part in parts {
            let (entries, _) = home[part.start as usize..part.end as usize].as_chunks();
            let entries = entries.iter().map(|bytes| TableEntry::from_bytes(*bytes));
            extents.extend(
                (first + (part.start - start) / ENTRY..)
                    .zip(entries)
                    .filter(|(_, entry)| entry.birth != 0)
                    .map(|(unit, entry)| Extent { unit, entry }),
            );
        }
    }
    extents
}

/// Resolves which of `entries` are meant: of those that overlap the newest is,
/// the others are remainders. Returns them by unit, with the highest birth seen.
///
/// # Errors
/// `Damaged` if a newest entry makes no sense.
pub(crate) fn resolve(
    mut entries: Vec<Extent>,
    end: u64,
    max: u64,
) -> Result<(BTreeMap<u64, Extent>, u64)> {
    entries.sort_unstable_by_key(|extent| std::cmp::Reverse(extent.entry.birth));
    let newest = entries.first().map_or(0, |extent| extent.entry.birth);
    let mut meant: BTreeMap<u64, Extent> = BTreeMap::new();
    for extent in entries {
        let within = |other: &Extent| other.unit <= extent.unit && extent.unit < other.end();
        let before = meant.range(..=extent.unit).next_back();
        if before.is_some_and(|(_, other)| within(other)) {
            continue;
        }
        extent.check(end, max)?;
        if meant.range(extent.unit..extent.end()).next().is_none() {
            meant.insert(extent.unit, extent);
        }
    }
    Ok((meant, newest))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const GIB: u64 = (1 << 30) / UNIT;

    fn extent(unit: u64, birth: u64, units: u32) -> Extent {
        Extent {
            unit,
            entry: TableEntry {
                birth,
                units,
                class: TableEntry::LARGE,
                flags: 0,
            },
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "safe code, many steps")]
    fn pieces_cover_everything_once_and_hold_an_entry_for_each_unit() {
        for max in [
            256,
            4000,
            8192,
            8193,
            9000,
            3 * 8192,
            GIB,
            64 * GIB,
            64 * GIB + 1,
        ] {
            let mut next = 0;
            for piece in pieces(max) {
                assert_eq!(piece.first, next);
                assert!(piece.at >= piece.first && piece.units * 512 >= piece.end - piece.first);
                next = piece.end;
            }
            assert_eq!(next, max);
            let own: u64 = pieces(max).map(|piece| piece.units).sum();
            assert!(own <= max / 512 + 16);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "safe code, many steps")]
    fn entry_offsets_are_distinct_and_lead_back() {
        let max = 20_000;
        let mut last = 0;
        for unit in 0..max {
            let offset = entry_offset(unit, max);
            assert!(offset > last || unit == 0);
            assert_eq!(entry_unit(offset, max), Some(unit));
            assert_eq!(entry_unit(offset + 8, max), None);
            last = offset;
        }
        assert_eq!(entry_unit(0, max), None);
        assert_eq!(entry_unit(u64::MAX, max), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "safe code, many steps")]
    fn only_what_was_written_of_long_pieces_is_read_and_all_of_short_ones() {
        let max = 4 * FIRST_UNITS;
        let mut home = vec![0; (max * UNIT) as usize];
        let mut put = |unit: u64| {
            let at = entry_offset(unit, max) as usize;
            home[at..at + 16].copy_from_slice(&extent(unit, unit, 8).entry.to_bytes());
        };
        let (short, long) = (100, 2 * FIRST_UNITS + 5000);
        for unit in [short, long, long + 8, long + 2000] {
            put(unit);
        }
        // Pages, as a medium says it.
        let page = entry_offset(long, max) / 4096 * 4096;
        let written = |range: Range<u64>| {
            assert!(range.contains(&page), "only the long piece is asked for");
            let part = page..page + 4096;
            vec![part]
        };
        let units: Vec<u64> = read(&home, max, written).iter().map(|e| e.unit).collect();
        assert_eq!(units, [short, long, long + 8]);
        let units = read(&home, max, |all| vec![all]).len();
        assert_eq!(units, 4);
    }

    #[test]
    fn the_newest_of_overlapping_entries_wins() {
        let entries = vec![
            extent(20, 5, 16),
            extent(29, 9, 16),
            extent(20, 12, 8),
            extent(48, 2, 8),
            extent(23, 1, 30),
        ];
        let (meant, newest) = resolve(entries, 100, 100).expect("sound entries");
        let units: Vec<u64> = meant.keys().copied().collect();
        assert_eq!((units, newest), (vec![20, 29, 48], 12));
    }

    #[test]
    fn entries_that_make_no_sense_are_refused() {
        for (bad, end) in [
            (extent(1, 1, 1), 100),
            (extent(50, 1, 0), 100),
            (extent(50, 1, 51), 100),
            (extent(50, 1, 10), 55),
            (extent(50, 1, 7), 100),
            (
                Extent {
                    unit: 50,
                    entry: TableEntry {
                        birth: 1,
                        units: 8,
                        class: 1,
                        flags: 0,
                    },
                },
                100,
            ),
            (
                Extent {
                    unit: 48,
                    entry: TableEntry {
                        birth: 1,
                        units: 8,
                        class: 90,
                        flags: 0,
                    },
                },
                100,
            ),
            (
                Extent {
                    unit: 48,
                    entry: TableEntry {
                        birth: 1,
                        units: 9,
                        class: 1,
                        flags: 0,
                    },
                },
                100,
            ),
            (
                Extent {
                    unit: 48,
                    entry: TableEntry {
                        birth: 1,
                        units: 8,
                        class: 1,
                        flags: 1,
                    },
                },
                100,
            ),
        ] {
            assert!(resolve(vec![bad], end, 100).is_err(), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "safe code, many steps")]
        fn any_table_resolves_or_is_refused(
            words in proptest::collection::vec(proptest::prelude::any::<[u8; 16]>(), 0..40),
            at in 0u64..200,
            tame in proptest::prelude::any::<bool>(),
        ) {
            let max = 256;
            let mut home = vec![0; (max * UNIT) as usize];
            let from = entry_offset(20 + at, max) as usize;
            for (n, mut word) in words.into_iter().enumerate() {
                if tame {
                    // Low births and no flags: more of them get through.
                    word[4..8].fill(0);
                    word[9..].fill(0);
                    word[12..].fill(0xff);
                    word[14..].fill(0);
                }
                home[from + n * 16..][..16].copy_from_slice(&word);
            }
            if let Ok((meant, _)) = resolve(read(&home, max, |all| vec![all]), max, max) {
                let mut end = 0;
                for extent in meant.values() {
                    assert!(extent.unit >= end && extent.end() <= max);
                    end = extent.end();
                }
            }
        }
    }
}

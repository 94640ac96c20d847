//! Marks of a set of superblocks: what marking sees of the heap.
//!
//! It promises that `locate` answers for any number, and that exactly one of
//! those who mark a block at the same time is told that it was the first. It
//! holds a copy of the superblock table and changes nothing else.

use crate::block::{BlockRef, Blocks, NotABlock, Row};
use crate::class;
use crate::layout::{TableEntry, UNIT, UNIT_SHIFT};
use crate::table::Extent;
use bartender_pm::sync::atomic::{AtomicU64, Ordering::*};

/// Superblocks and a mark for each of their blocks.
///
/// `words` is set by anyone (`fetch_or`) while marking runs; the rest does not
/// change once it is built.
pub(crate) struct Marks {
    superblocks: Vec<Marked>,
    /// What each unit is part of (a [`Unit`]). All that it takes to find a block is in here and in the
    /// table of classes, which stays in the cache: so a look-up is one load from far away.
    units: Vec<u64>,
    words: Vec<AtomicU64>,
    /// Which blocks are free, if that is known: those cannot be live.
    free: Option<Vec<u64>>,
}

struct Marked {
    extent: Extent,
    size: u64,
    /// Where its words are in `Marks::words`.
    first: usize,
    words: usize,
}

/// A unit's place in its superblock, as a look-up needs it without more than masks and a shift:
/// `first << 19 | nth << 13 | kind`.
///
/// `kind` is 0 for a unit of no superblock, else the class + 1, or one of the
/// two below. The superblock's words begin at `first`, and `nth` units of it lie
/// before this one; of a large run `first` is the number of its superblock.
#[derive(Debug, Clone, Copy)]
struct Unit(u64);

impl Unit {
    /// No superblock of a class has more units.
    const MOST: u64 = 64;
    /// The first unit of a large run.
    const LARGE: u8 = 0xff;
    /// Another one of a large run.
    const INSIDE: u8 = 0xfe;

    fn new(kind: u8, nth: u64, first: usize) -> Unit {
        debug_assert!(nth < Unit::MOST);
        Unit((first as u64) << 19 | nth << UNIT_SHIFT | u64::from(kind))
    }

    #[inline(always)]
    fn kind(self) -> u8 {
        self.0 as u8
    }

    /// Home offset `offset`, which lies in this unit, from the start of the superblock.
    #[inline(always)]
    fn within(self, offset: u64) -> u64 {
        self.0 & (Unit::MOST - 1) << UNIT_SHIFT | offset & (UNIT - 1)
    }

    /// The number of the superblock's first mark.
    #[inline(always)]
    fn first_mark(self) -> u64 {
        self.0 >> 13 & !63
    }

    fn first(self) -> usize {
        (self.0 >> 19) as usize
    }
}

const _: () = assert!(UNIT_SHIFT == 13 && Unit::MOST == 64);
const _: () = assert!(class::CLASSES < Unit::INSIDE as usize);

/// What a look-up needs of a class.
#[derive(Clone, Copy)]
struct Kind {
    /// 0, by which no offset divides, where there is no class.
    reciprocal: u64,
    size: u32,
    blocks: u32,
}

/// By [`Unit::kind`]: a byte needs no check.
static KINDS: [Kind; 256] = {
    let none = Kind {
        reciprocal: 0,
        size: 0,
        blocks: 0,
    };
    let mut kinds = [none; 256];
    let mut class = 0;
    while class < class::CLASSES {
        let of = &class::TABLE[class];
        assert!(of.units as u64 <= Unit::MOST);
        kinds[class + 1] = Kind {
            reciprocal: of.reciprocal,
            size: of.size,
            blocks: of.blocks,
        };
        class += 1;
    }
    kinds
};

impl Marks {
    /// No marks yet, on superblocks that do not overlap, in a home of `end` units.
    pub(crate) fn new(extents: impl IntoIterator<Item = Extent>, end: u64) -> Self {
        let mut marks = Marks {
            superblocks: Vec::new(),
            units: vec![0; end as usize],
            words: Vec::new(),
            free: None,
        };
        for extent in extents {
            marks.add(extent);
        }
        marks
    }

    /// The same, where the free blocks are known.
    pub(crate) fn with_free(
        extents: impl IntoIterator<Item = (Extent, Vec<u64>)>,
        end: u64,
    ) -> Self {
        let mut free = Vec::new();
        let extents = extents.into_iter().map(|(extent, mut words)| {
            free.append(&mut words);
            extent
        });
        let mut marks = Marks::new(extents, end);
        marks.free = Some(free);
        marks
    }

    fn add(&mut self, extent: Extent) {
        let class = extent.entry.class;
        let (size, words) = match class::TABLE.get(class as usize) {
            Some(class) => (u64::from(class.size), class.words()),
            None => (u64::from(extent.entry.units) * UNIT, 1),
        };
        let first = self.words.len();
        self.words.resize_with(first + words, || AtomicU64::new(0));
        let units = &mut self.units[extent.unit as usize..extent.end() as usize];
        if class == TableEntry::LARGE {
            let number = self.superblocks.len();
            units.fill(Unit::new(Unit::INSIDE, 0, number).0);
            units[0] = Unit::new(Unit::LARGE, 0, number).0;
        } else {
            for (nth, unit) in units.iter_mut().enumerate() {
                *unit = Unit::new(class as u8 + 1, nth as u64, first).0;
            }
        }
        self.superblocks.push(Marked {
            extent,
            size,
            first,
            words,
        });
    }

    /// The block that home offset `offset` lies in, if it is in one that is not known to be free.
    pub(crate) fn around(&self, offset: u64) -> Option<BlockRef> {
        let unit = Unit(*self.units.get((offset >> UNIT_SHIFT) as usize)?);
        let start = match unit.kind() {
            0 => return None,
            Unit::LARGE | Unit::INSIDE => self.superblocks[unit.first()].extent.unit * UNIT,
            kind => offset - unit.within(offset) % u64::from(KINDS[usize::from(kind)].size),
        };
        self.locate(start).ok()
    }

    /// The superblocks, each with the words of its marks and the words of its free blocks (0 if unknown).
    pub(crate) fn each(
        &self,
    ) -> impl Iterator<Item = (Extent, u64, impl Iterator<Item = (u64, u64)>)> {
        self.superblocks.iter().map(|marked| {
            let words = (marked.first..marked.first + marked.words).map(|at| {
                let free = self.free.as_ref().map_or(0, |free| free[at]);
                (self.words[at].load(Relaxed), free)
            });
            (marked.extent, marked.size, words)
        })
    }

    /// The block at `offset` if that starts a large run, or why there is none that starts there.
    #[cold]
    fn locate_other(&self, unit: Unit, offset: u64) -> Result<BlockRef, NotABlock> {
        match unit.kind() {
            0 => Err(NotABlock::NoSuperblock),
            Unit::LARGE if offset.is_multiple_of(UNIT) => {
                let marked = &self.superblocks[unit.first()];
                let mark = marked.first as u64 * 64;
                self.unless_free(mark)?;
                Ok(BlockRef {
                    mark,
                    start: offset,
                    size: marked.size,
                })
            }
            _ => Err(NotABlock::NotAStart),
        }
    }

    #[inline(always)]
    fn unless_free(&self, mark: u64) -> Result<(), NotABlock> {
        match &self.free {
            Some(free) if free[mark as usize / 64] >> (mark % 64) & 1 == 1 => Err(NotABlock::Free),
            _ => Ok(()),
        }
    }
}

impl Blocks for Marks {
    #[inline(always)]
    fn locate(&self, offset: u64) -> Result<BlockRef, NotABlock> {
        let unit = *self
            .units
            .get((offset >> UNIT_SHIFT) as usize)
            .ok_or(NotABlock::Outside)?;
        let unit = Unit(unit);
        let kind = &KINDS[usize::from(unit.kind())];
        let Some(index) = class::divide(unit.within(offset), kind.reciprocal) else {
            return self.locate_other(unit, offset);
        };
        if index >= u64::from(kind.blocks) {
            return Err(NotABlock::NotAStart);
        }
        let mark = unit.first_mark() + index;
        self.unless_free(mark)?;
        Ok(BlockRef {
            mark,
            start: offset,
            size: u64::from(kind.size),
        })
    }

    #[inline]
    fn row(&self, offset: u64) -> Row {
        let unit = self.units.get((offset >> UNIT_SHIFT) as usize);
        let Some(unit) = unit.filter(|_| self.free.is_none()) else {
            return Row::default();
        };
        let unit = Unit(*unit);
        // Of what is no class its blocks' span is 0.
        let kind = &KINDS[usize::from(unit.kind())];
        Row {
            start: offset - unit.within(offset),
            span: u64::from(kind.blocks) * u64::from(kind.size),
            reciprocal: kind.reciprocal,
            size: u64::from(kind.size),
            mark: unit.first_mark(),
        }
    }

    fn words(&self) -> usize {
        self.words.len()
    }

    #[inline]
    fn mark(&self, word: usize, bits: u64) -> bool {
        let word = &self.words[word];
        // A look is cheap beside a locked instruction.
        word.load(Relaxed) & bits != bits && word.fetch_or(bits, Relaxed) & bits == 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::layout::TableEntry;

    #[test]
    fn blocks_are_found_by_their_start_only_and_marked_once() {
        let large = TableEntry {
            birth: 1,
            units: 3,
            class: TableEntry::LARGE,
            flags: 0,
        };
        let class = class::of(48, 8).expect("a class") as u16;
        let small = TableEntry {
            birth: 2,
            units: 8,
            class,
            flags: 0,
        };
        let extents = [
            Extent {
                unit: 20,
                entry: large,
            },
            Extent {
                unit: 30,
                entry: small,
            },
        ];
        let marks = Marks::new(extents, 64);
        let at = marks.locate(30 * UNIT + 96).expect("a block");
        assert_eq!((at.mark, at.size), (64 + 2, 48));
        assert!(marks.mark(1, 0b100) && !marks.mark(1, 0b110));
        assert_eq!(marks.locate(30 * UNIT + 95), Err(NotABlock::NotAStart));
        assert_eq!(marks.locate(21 * UNIT), Err(NotABlock::NotAStart));
        assert_eq!(marks.locate(23 * UNIT), Err(NotABlock::NoSuperblock));
        assert_eq!(marks.locate(64 * UNIT), Err(NotABlock::Outside));
        assert_eq!(marks.locate(u64::MAX), Err(NotABlock::Outside));
        let run = marks.locate(20 * UNIT).expect("a block");
        assert_eq!(run.size, 3 * UNIT);
        // 65536 / 48 = 1365 blocks: the last bytes are none.
        assert_eq!(
            marks.locate(30 * UNIT + 1365 * 48),
            Err(NotABlock::NotAStart)
        );
        let found: Vec<Vec<u64>> = marks
            .each()
            .map(|(_, _, words)| words.map(|(mark, _)| mark).collect())
            .collect();
        assert_eq!((found[0][0], found[1][0]), (0, 0b110));
    }

    #[test]
    fn every_unit_of_a_superblock_leads_to_its_blocks() {
        // A small superblock first, so that the words of the second begin somewhere.
        let extents = [(30, 8), (40, 64)].map(|(unit, units)| {
            let size = if units == 8 { 8 } else { 9 << 10 };
            let class = class::of(size, 8).expect("a class") as u16;
            let entry = TableEntry {
                birth: unit,
                units,
                class,
                flags: 0,
            };
            Extent { unit, entry }
        });
        let marks = Marks::new(extents, 128);
        for (extent, first) in extents.iter().zip([0, 128 * 64]) {
            let class = &class::TABLE[extent.entry.class as usize];
            let size = u64::from(class.size);
            let behind = extent.unit * UNIT + u64::from(class.blocks) * size;
            for index in 0..u64::from(class.blocks) {
                let at = extent.unit * UNIT + index * size;
                let block = marks.locate(at).expect("a block");
                assert_eq!((block.mark, block.size), (first + index, size));
                let row = marks.row(at + size - 1);
                assert_eq!(row.locate(at), Some(block));
                assert_eq!(row.locate(at + 1), None);
            }
            assert_eq!(marks.row(behind).locate(behind), None);
            assert_eq!(marks.row(behind).locate(extent.unit * UNIT - size), None);
            assert!(marks.locate(behind).is_err());
        }
    }

    #[test]
    fn what_is_known_to_be_free_is_no_block() {
        let class = class::of(8192, 8).expect("a class") as u16;
        let entry = TableEntry {
            birth: 2,
            units: 8,
            class,
            flags: 0,
        };
        let marks = Marks::with_free([(Extent { unit: 30, entry }, vec![0b10])], 64);
        assert!(marks.locate(30 * UNIT).is_ok());
        assert_eq!(marks.locate(31 * UNIT), Err(NotABlock::Free));
    }
}

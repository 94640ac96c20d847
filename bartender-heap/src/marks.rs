//! Marks of a set of superblocks: what marking sees of the heap.
//!
//! It promises that `locate` answers for any number, and that exactly one of
//! those who mark a block at the same time is told that it was the first. It
//! holds a copy of the superblock table and changes nothing else.

use crate::block::{BlockRef, Blocks, NotABlock};
use crate::class;
use crate::layout::{UNIT, UNIT_SHIFT};
use crate::table::Extent;
use bartender_pm::sync::atomic::{AtomicU64, Ordering::*};

/// Superblocks and a mark for each of their blocks.
///
/// `words` is set by anyone (`fetch_or`) while marking runs; the rest does not
/// change once it is built.
pub(crate) struct Marks {
    superblocks: Vec<Marked>,
    /// Unit → number of the superblock + 1.
    units: Vec<u32>,
    words: Vec<AtomicU64>,
    /// Which blocks are free, if that is known: those cannot be live.
    free: Option<Vec<u64>>,
}

struct Marked {
    extent: Extent,
    size: u64,
    blocks: u32,
    /// Where its words are in `Marks::words`.
    first: usize,
    words: usize,
}

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
        let (size, blocks, words) = match class::TABLE.get(extent.entry.class as usize) {
            Some(class) => (u64::from(class.size), class.blocks, class.words()),
            None => (u64::from(extent.entry.units) * UNIT, 1, 1),
        };
        let first = self.words.len();
        self.words.extend((0..words).map(|_| AtomicU64::new(0)));
        self.superblocks.push(Marked {
            extent,
            size,
            blocks,
            first,
            words,
        });
        let number = self.superblocks.len() as u32;
        self.units[extent.unit as usize..extent.end() as usize].fill(number);
    }

    /// The block that home offset `offset` lies in, if it is in one that is not known to be free.
    pub(crate) fn around(&self, offset: u64) -> Option<BlockRef> {
        let number = *self.units.get((offset >> UNIT_SHIFT) as usize)?;
        let marked = &self.superblocks[number.checked_sub(1)? as usize];
        let start = marked.extent.unit * UNIT;
        let index = (offset - start) / marked.size;
        if index >= u64::from(marked.blocks) {
            return None;
        }
        self.locate(start + index * marked.size).ok()
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
}

impl Blocks for Marks {
    fn locate(&self, offset: u64) -> Result<BlockRef, NotABlock> {
        let number = *self
            .units
            .get((offset >> UNIT_SHIFT) as usize)
            .ok_or(NotABlock::Outside)?;
        let superblock = number.checked_sub(1).ok_or(NotABlock::NoSuperblock)?;
        let marked = &self.superblocks[superblock as usize];
        let within = offset - marked.extent.unit * UNIT;
        let index = within / marked.size;
        if index * marked.size != within || index >= u64::from(marked.blocks) {
            return Err(NotABlock::NotAStart);
        }
        if let Some(free) = &self.free
            && free[marked.first + index as usize / 64] >> (index % 64) & 1 == 1
        {
            return Err(NotABlock::Free);
        }
        Ok(BlockRef {
            superblock,
            index: index as u32,
            start: offset,
            size: marked.size,
        })
    }

    fn mark(&self, block: &BlockRef) -> bool {
        let marked = &self.superblocks[block.superblock as usize];
        let word = &self.words[marked.first + block.index as usize / 64];
        let bit = 1 << (block.index % 64);
        // Most blocks are met once, but a look is cheap beside a locked instruction.
        word.load(Relaxed) & bit == 0 && word.fetch_or(bit, Relaxed) & bit == 0
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
        assert_eq!((at.superblock, at.index, at.size), (1, 2, 48));
        assert!(marks.mark(&at) && !marks.mark(&at));
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
        assert_eq!((found[0][0], found[1][0]), (0, 4));
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

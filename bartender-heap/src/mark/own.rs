//! Marks that a worker keeps for itself while it walks, so that it needs no locked instruction,
//! which would also keep the processor from overlapping the latencies of many blocks.
//!
//! A block has one owner, so two workers never mark the same one unless data are damaged; and
//! that is noticed when the marks of all are put together. Until then each follows a block
//! once at most, so that the walk ends whatever the data are.

use crate::block::{BlockRef, Blocks, prefetch};
use bartender_pm::sync::Mutex;

/// Own marks of all workers take at most this part of what is marked. Further workers share.
const PART: usize = 32;

/// The marks of the workers, while they are not at work.
pub(super) struct Pool {
    spare: Mutex<Spare>,
}

struct Spare {
    own: Vec<Vec<u64>>,
    /// How many more may be made.
    more: usize,
}

/// A worker's marks.
pub(super) struct Own<'a, B> {
    /// By word; empty for a worker that shares.
    own: Vec<u64>,
    blocks: &'a B,
}

/// Marks of one word that a loop has not set yet: blocks that were allocated one after the other
/// are often found so, and then cost one access to the marks together.
#[derive(Default)]
pub(super) struct Gathered {
    word: usize,
    bits: u64,
}

impl Pool {
    /// No marks, for blocks in a home of `len` bytes.
    pub(super) fn new(blocks: &impl Blocks, len: usize) -> Pool {
        let one = blocks.words().max(1) * size_of::<u64>();
        let own = Vec::new();
        let more = (len / PART / one).max(1);
        Pool {
            spare: Mutex::new(Spare { own, more }),
        }
    }

    /// For a worker that begins.
    pub(super) fn take<'a, B: Blocks>(&self, blocks: &'a B) -> Own<'a, B> {
        let mut spare = self.spare.lock();
        let mut own = spare.own.pop().unwrap_or_default();
        if own.is_empty() && spare.more > 0 {
            spare.more -= 1;
            drop(spare);
            own = vec![0; blocks.words()];
        }
        Own { own, blocks }
    }

    /// From a worker that ends.
    pub(super) fn give<B>(&self, own: Own<'_, B>) {
        if !own.own.is_empty() {
            self.spare.lock().own.push(own.own);
        }
    }

    /// Sets the marks of all workers, which have ended; false if two of them marked one block.
    pub(super) fn finish(&self, blocks: &impl Blocks) -> bool {
        let all = std::mem::take(&mut self.spare.lock().own);
        all.iter().fold(true, |once, own| {
            let set = own.iter().enumerate().filter(|(_, bits)| **bits != 0);
            set.fold(once, |once, (word, &bits)| blocks.mark(word, bits) && once)
        })
    }
}

impl<B: Blocks> Own<'_, B> {
    /// Marks a block; false if it is known to be marked already.
    #[inline(always)]
    pub(super) fn mark(&mut self, block: &BlockRef) -> bool {
        let (word, bit) = block.place();
        self.set(word, bit)
    }

    #[inline(always)]
    fn set(&mut self, word: usize, bits: u64) -> bool {
        match self.own.get_mut(word) {
            Some(word) => {
                let first = *word & bits == 0;
                *word |= bits;
                first
            }
            None => self.blocks.mark(word, bits),
        }
    }

    /// Brings what `mark` will read and write into the cache.
    #[inline(always)]
    pub(super) fn prefetch(&self, block: &BlockRef) {
        prefetch(self.own.as_ptr().wrapping_add(block.place().0));
    }
}

impl Gathered {
    /// Marks a block, soon; false if it, or one before it, is known to be marked already.
    #[inline(always)]
    pub(super) fn mark(&mut self, block: &BlockRef, own: &mut Own<'_, impl Blocks>) -> bool {
        let (word, bit) = block.place();
        if word == self.word {
            let first = self.bits & bit == 0;
            self.bits |= bit;
            return first;
        }
        let first = self.flush(own);
        *self = Gathered { word, bits: bit };
        first
    }

    /// Sets the marks; false if one of them is known to be set already.
    #[inline(always)]
    pub(super) fn flush(&mut self, own: &mut Own<'_, impl Blocks>) -> bool {
        let bits = std::mem::take(&mut self.bits);
        bits == 0 || own.set(self.word, bits)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::mark::tests::image::Image;

    fn block(mark: u64) -> BlockRef {
        BlockRef {
            mark,
            start: mark,
            size: 8,
        }
    }

    fn image() -> Image {
        let mut image = Image::new();
        image.block(1000, 8);
        image
    }

    #[test]
    fn a_block_that_two_workers_marked_is_noticed_at_the_end() {
        let blocks = image();
        for twice in [false, true] {
            // Room for two workers' marks: the third one shares.
            let pool = Pool::new(&blocks, 2 * PART * blocks.words() * 8);
            let mut workers = [(); 3].map(|()| pool.take(&blocks));
            assert!(workers[1].mark(&block(8)) && !workers[1].mark(&block(8)));
            assert!(workers[2].mark(&block(500)) && !workers[2].mark(&block(500)));
            assert!(workers[0].mark(&block(if twice { 8 } else { 9 })));
            workers.into_iter().for_each(|own| pool.give(own));
            assert_eq!(pool.finish(&blocks), !twice);
            assert_eq!(blocks.take_marks().len(), if twice { 2 } else { 3 });
        }
    }

    #[test]
    fn gathered_marks_are_set_when_their_word_is_left() {
        let blocks = image();
        let pool = Pool::new(&blocks, usize::MAX);
        let mut own = pool.take(&blocks);
        let mut gathered = Gathered::default();
        for mark in [64, 65, 127, 128] {
            assert!(gathered.mark(&block(mark), &mut own));
        }
        assert!(!own.mark(&block(65)) && own.mark(&block(128)));
        assert!(!gathered.mark(&block(128), &mut own), "twice in one word");
        assert!(!gathered.flush(&mut own), "set by another meanwhile");
        assert!(gathered.flush(&mut own), "nothing is left");
    }
}

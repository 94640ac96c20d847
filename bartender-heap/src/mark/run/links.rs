//! Following linked blocks: those whose values hold boxes and nothing else to look at.
//!
//! The same walk as for everything else, in the least that it takes. A block is located when it
//! enters the queue, so that both it and its mark are on their way when it is visited. In a list
//! there is nothing to overlap with: it is followed in a loop of its own, in which nothing waits
//! but for the next pointer. What is not linked goes to the other stack.

use super::{Bad, Found, PERIOD, Piece, Scope, Task, Worker};
use crate::block::{BlockRef, Blocks, Row, prefetch};
use crate::mark::fault::Fault;
use crate::mark::own::Gathered;
use crate::mark::program::{Link, Linked, To};

/// Blocks between a prefetch and the visit.
const QUEUE: usize = 32;
/// Links of a list between two looks at the other workers.
const LINKS: u64 = 1024;

/// A value in words, one of which is a pointer where a link says so.
type Words<'a> = &'a [[u8; 8]];

impl<'s, B: Blocks> Worker<'s, B> {
    /// Visits linked blocks until none is left.
    #[inline(never)]
    pub(super) fn follow(&mut self, scope: &Scope<'s>) -> Result<(), Bad> {
        let (view, blocks) = (self.view, self.shared.blocks);
        let all = &*self.program.linked;
        let Some(first) = all.first() else {
            return Ok(());
        };
        let nowhere = BlockRef {
            mark: 0,
            start: 0,
            size: 0,
        };
        let mut queue = [(nowhere, first); QUEUE];
        let (mut head, mut len) = (0, 0);
        loop {
            if self.pause(scope) {
                return Ok(());
            }
            for _ in 0..PERIOD {
                while len < QUEUE
                    && let Some(Found { offset, linked }) = self.found.pop()
                {
                    let linked = &all[linked as usize];
                    let block = view.locate_one(blocks, offset, linked.size)?;
                    prefetch(view.bytes.as_ptr().wrapping_add(offset as usize));
                    self.own.prefetch(&block);
                    queue[(head + len) % QUEUE] = (block, linked);
                    len += 1;
                }
                if len == 0 {
                    return Ok(());
                }
                let (block, linked) = queue[head];
                (head, len) = ((head + 1) % QUEUE, len - 1);
                if len == 0
                    && let Some(next) = linked.next
                {
                    self.list(&linked.links[0], next, block)?;
                    break;
                }
                self.visit_linked(linked, block)?;
            }
        }
    }

    /// Marks a block and visits its value.
    #[inline(always)]
    fn visit_linked(&mut self, linked: &'s Linked, block: BlockRef) -> Result<(), Bad> {
        self.claim(&block)?;
        let value = self.view.range(block.start, linked.size)?;
        self.links(linked, value.as_chunks().0, block.start)
    }

    /// Follows a list, which `block` is of, whose blocks hold `link` to the next one.
    #[inline(never)]
    fn list(&mut self, link: &Link, linked: u32, block: BlockRef) -> Result<(), Bad> {
        let (view, blocks) = (self.view, self.shared.blocks);
        let (link, mut block) = (*link, block);
        let (mut gathered, mut row) = (Gathered::default(), Row::default());
        let (mut marked, mut bytes) = (0, 0);
        let shared = |block: &BlockRef| Fault::Shared(view.address(block.start));
        let next = loop {
            if !gathered.mark(&block, &mut self.own) {
                return Err(shared(&block).into());
            }
            marked += 1;
            bytes += block.size;
            let value: Words<'_> = view.range(block.start, link.size)?.as_chunks().0;
            let ptr = u64::from_le_bytes(value[link.at]);
            if ptr == 0 {
                match link.or_null {
                    true => break None,
                    false => return Err(Fault::Null.into()),
                }
            }
            let offset = view.follow_masked(ptr, link.mask)?;
            blocks.pointer(block.start + link.at as u64 * 8);
            if marked == LINKS {
                break Some(offset);
            }
            block = view.locate_near(blocks, &mut row, offset, link.size)?;
        };
        if !gathered.flush(&mut self.own) {
            return Err(shared(&block).into());
        }
        self.marked += marked;
        self.bytes += bytes;
        self.found
            .extend(next.map(|offset| Found { offset, linked }));
        Ok(())
    }

    /// Visits the values that fill `values`, which lie at home offset `base`.
    pub(super) fn linked(&mut self, linked: u32, values: &[u8], base: u64) -> Result<(), Bad> {
        let linked = &self.program.linked[linked as usize];
        let words: Words<'_> = values.as_chunks().0;
        if let [link] = &*linked.links
            && linked.size == 8
            && matches!(link.to, To::Plain)
        {
            return self.plain_boxes(link, words, base);
        }
        let offsets = (base..).step_by(linked.size as usize);
        for (value, at) in words.chunks_exact(linked.size as usize / 8).zip(offsets) {
            self.links(linked, value, at)?;
        }
        Ok(())
    }

    /// Marks what the boxes in `words` hold, which is plain.
    #[inline(never)]
    fn plain_boxes(&mut self, link: &Link, words: Words<'_>, base: u64) -> Result<(), Bad> {
        let (view, blocks) = (self.view, self.shared.blocks);
        let link = *link;
        let (mut gathered, mut row) = (Gathered::default(), Row::default());
        let (mut marked, mut bytes) = (0, 0);
        for (word, at) in words.iter().zip((base..).step_by(8)) {
            let ptr = u64::from_le_bytes(*word);
            if ptr == 0 && link.or_null {
                continue;
            }
            let offset = view.follow_masked(ptr, link.mask)?;
            let block = view.locate_near(blocks, &mut row, offset, link.size)?;
            blocks.pointer(at);
            if !gathered.mark(&block, &mut self.own) {
                return Err(Fault::Shared(ptr).into());
            }
            marked += 1;
            bytes += block.size;
        }
        if !gathered.flush(&mut self.own) {
            return Err(Fault::Shared(view.address(base)).into());
        }
        self.marked += marked;
        self.bytes += bytes;
        Ok(())
    }

    /// Follows the boxes of one value.
    #[inline(always)]
    fn links(&mut self, linked: &Linked, value: Words<'_>, base: u64) -> Result<(), Bad> {
        for link in &linked.links {
            let ptr = u64::from_le_bytes(value[link.at]);
            if ptr == 0 && link.or_null {
                continue;
            }
            let offset = self.view.follow_masked(ptr, link.mask)?;
            self.shared.blocks.pointer(base + link.at as u64 * 8);
            match link.to {
                To::Linked(linked) => self.found.push(Found { offset, linked }),
                To::Plain => {
                    let blocks = self.shared.blocks;
                    let block = self.view.locate_one(blocks, offset, link.size)?;
                    self.claim(&block)?;
                }
                To::Other(elem) => self.stack.push(Piece {
                    offset,
                    a: link.size,
                    b: 1,
                    task: Task::Block { elem },
                }),
            }
        }
        Ok(())
    }
}

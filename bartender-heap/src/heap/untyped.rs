//! What a heap without types has instead: roots by their names, marking by
//! looking at each word, and a collection on demand.
//!
//! It promises to hand out no reference into the data: the program changes
//! them as it likes. How roots are changed durably, the C interface knows.

use super::inspect::each_lost;
use super::{Entry, Heap, home};
use crate::arena::Refused;
use crate::block::{Blocks, NotABlock};
use crate::error::{Error, Result};
use crate::header;
use crate::layout::NamedRoot;
use crate::mark::{MarkReport, View, conservative};
use crate::marks::Marks;
use crate::stats::{CheckReport, Collected};
use crate::types::Schema;
use bartender_pm::{Region, mutant};
use std::ptr::NonNull;
use std::time::Instant;

/// Marks what the block of named roots at the address `root` (0: none) leads to.
pub(super) fn mark(root: u64, view: View<'_>, marks: &Marks) -> Result<MarkReport> {
    let offset = root.wrapping_sub(view.home_base);
    if root != 0
        && let Err(why) = marks.locate(offset)
    {
        let what = format!("the named roots should be at {root:#x}: {why}");
        let offset = header::ROOT;
        return Err(Error::Damaged { offset, what });
    }
    Ok(conservative::mark(&[root], &[view], marks))
}

impl Heap {
    /// Opens the heap in a region without types, or creates one if the region
    /// holds none yet.
    ///
    /// # Errors
    /// `Typed` if it holds typed data; else as [`Heap::open`]: nothing was changed.
    pub fn open_untyped(region: Region) -> Result<Heap> {
        // A crash may have come between the region's creation and the heap's.
        if Heap::is_blank(&region) {
            return Heap::create(region, &Schema::untyped());
        }
        let (_, schema) = header::read(home(&region))?;
        if !schema.is_untyped() {
            let root = schema.name(schema.root());
            return Err(Error::Typed { root });
        }
        Heap::open(region)
    }

    /// The block that `address` lies in, with its usable bytes. Whether it is
    /// free is seen as far as its superblock's owner has heard of it.
    ///
    /// # Errors
    /// `NotABlock`.
    pub fn block_of(&self, address: NonNull<u8>) -> Result<(NonNull<u8>, usize)> {
        let refuse = |why| Err(self.refused(address, Refused::NotABlock(why)));
        let offset = address.addr().get().wrapping_sub(self.base) as u64;
        let superblock = match self.arena.around(offset) {
            Ok(superblock) => superblock,
            Err(why) => return refuse(why),
        };
        let size = superblock.size();
        let index = offset.wrapping_sub(superblock.offset_of(0)) / size;
        if index >= u64::from(superblock.blocks()) {
            return refuse(NotABlock::NotAStart);
        }
        if superblock.is_free(index as u32) {
            return refuse(NotABlock::Free);
        }
        let start = superblock.offset_of(index as u32);
        Ok((self.address(start), size as usize))
    }

    /// Makes a block of more than 64 KiB `size` bytes long where it is, if there is
    /// room behind it: its new entry, which has to be durable with whatever is
    /// stored there. `None`: nothing was done. Until the entry is durable a crash
    /// leaves the block as it was. Cost: the global lock; growth of the region
    /// where the block is the last thing in it.
    ///
    /// # Safety
    /// Nobody else frees the block or asks for its length meanwhile.
    pub unsafe fn grow(&self, block: NonNull<u8>, size: usize) -> Option<Entry> {
        let offset = block.addr().get().wrapping_sub(self.base) as u64;
        let run = self.arena.grow(offset, size, &self.region)?;
        Some(self.entry(run))
    }

    /// Where the block of named roots is, and how many fit it; `None` before the first one.
    ///
    /// # Errors
    /// `NotABlock` if the root slot holds anything else.
    pub fn root_table(&self) -> Result<Option<(NonNull<NamedRoot>, usize)>> {
        let Some(root) = self.root() else {
            return Ok(None);
        };
        let bytes = self.usable_size(root)?;
        Ok(Some((root.cast(), bytes / size_of::<NamedRoot>())))
    }

    /// The named roots that are set.
    ///
    /// # Errors
    /// As [`Heap::root_table`].
    ///
    /// # Safety
    /// Nobody changes roots meanwhile.
    pub unsafe fn named_roots(&self) -> Result<Vec<NamedRoot>> {
        let Some((table, count)) = self.root_table()? else {
            return Ok(Vec::new());
        };
        // SAFETY: a block of that many, which nobody changes, as the caller says.
        let table = unsafe { std::slice::from_raw_parts(table.as_ptr(), count) };
        Ok(table
            .iter()
            .filter(|root| root.is_used())
            .copied()
            .collect())
    }

    /// Frees every block to which nothing leads from the named roots, neither in
    /// the view nor in what is durable: a link that the program took out without
    /// making that durable still counts. Cost: a checkpoint, marking of both,
    /// and a free of each block found.
    ///
    /// # Errors
    /// The region's.
    ///
    /// # Safety
    /// The heap has no types. No other thread allocates, frees, commits or
    /// changes data meanwhile, and blocks that no root leads to are used no more.
    pub unsafe fn collect(&self) -> Result<Collected> {
        let start = Instant::now();
        let marks = self.allocated();
        let view = View::at(self.base, home(&self.region));
        self.region.checkpoint()?;
        let frozen = self.region.freeze()?;
        // SAFETY: that many bytes, as long as `frozen` is there. A checkpoint may
        // rewrite bytes with themselves before it changes the home's; but there
        // is nothing to take home since the last line but one.
        let durable = unsafe { std::slice::from_raw_parts(frozen.base(), frozen.size() as usize) };
        let root_in = |bytes| header::read(bytes).map(|(header, _)| header.root);
        let roots = [root_in(view.bytes)?, root_in(durable)?];
        let pictures = [view, View::at(self.base, durable)];
        let pictures = &pictures[..if mutant::is("collect_by_view") { 1 } else { 2 }];
        let live = conservative::mark(&roots, pictures, &marks);
        let mut report = Collected {
            live_blocks: live.blocks,
            live_bytes: live.bytes,
            ..Collected::default()
        };
        let mut done = Ok(());
        each_lost(&marks, |offset, size| {
            if done.is_err() {
                return;
            }
            // SAFETY: it is allocated, and used no more, as the caller says.
            done = unsafe { self.free(self.address(offset)) };
            report.blocks += 1;
            report.bytes += size;
        });
        done?;
        report.took = start.elapsed();
        Ok(report)
    }

    /// [`Heap::check`] of a heap without types: the block of named roots and what
    /// each of them leads to, superblock by superblock. Blocks that cannot be
    /// reached are no error: the program may hold them.
    pub(super) fn check_untyped(&self) -> Result<CheckReport> {
        let start = Instant::now();
        let marks = self.allocated();
        let view = View::at(self.base, home(&self.region));
        let mut end = 0;
        let mut extents: Vec<_> = marks.each().map(|(extent, ..)| extent).collect();
        extents.sort_unstable_by_key(|extent| extent.unit);
        for extent in extents {
            let max = self.region.max_size() / crate::layout::UNIT;
            extent.check(self.region.size() / crate::layout::UNIT, max)?;
            if extent.unit < end {
                let offset = extent.unit * crate::layout::UNIT;
                let what = "two superblocks overlap".into();
                return Err(Error::Damaged { offset, what });
            }
            end = extent.end();
        }
        let root = self.root().map_or(0, |root| root.addr().get() as u64);
        let MarkReport { blocks, bytes, .. } = mark(root, view, &marks)?;
        if let Some((table, count)) = self.root_table()? {
            for i in 0..count {
                // SAFETY: a block of that many; the program stands still, as `check` asks.
                let root = unsafe { table.add(i).read() };
                let offset = table.addr().get() as u64 + (i * size_of::<NamedRoot>()) as u64;
                let bad = |what: String| {
                    let path = format!("root `{}`", String::from_utf8_lossy(root.name()));
                    let offset = offset.wrapping_sub(view.home_base);
                    Err(Error::BadData { path, offset, what })
                };
                if !root.is_sound() {
                    return bad("neither a named root nor an unused one".into());
                }
                let address = root.address.wrapping_sub(view.home_base);
                if root.is_used() && marks.around(address).is_none() {
                    return bad(format!("{:#x} lies in no block", root.address));
                }
            }
        }
        Ok(CheckReport {
            blocks,
            bytes,
            took: start.elapsed(),
        })
    }
}

//! Writing a heap anew, without what is free in it.
//!
//! Blocks are moved for good only where nobody has a pointer to one: not while the heap is used. So a region is taken
//! alone, its live blocks are copied into a new region beside it, one behind the other, and every pointer is rewritten
//! on the way; which words are pointers, the stored types say, as for [relocation](crate::open_region). When all of it
//! is durable and was checked, the new file takes the old one's name. A crash before leaves the old one, and one
//! behind it the new one; there is no time at which both are half.
//!
//! Moving blocks inside the one file, transaction by transaction, would need no second one; but it would log every block,
//! and leave the file as long as it was, full of holes.

#![allow(unsafe_code)]

use crate::error::{Error, Result};
use crate::header;
use crate::heap::{Entry, Heap};
use crate::layout::UNIT;
use crate::mark::View;
use crate::relocate::{self, Words};
use bartender_pm::{Durability, Options, Record, Region, Writer};
use std::alloc::Layout;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::slice;

/// Bytes that are copied before they are made durable.
const BATCH: u64 = 64 << 20;
/// Bytes for each byte of the longest record: what is said of them is far less.
const FOR_EACH: u64 = 64;
/// Table entries in one record.
const ENTRIES: usize = 1000;

/// What compacting has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// Bytes of the file before, holes among them.
    pub before: u64,
    /// Bytes of the file now.
    pub after: u64,
    /// Live blocks.
    pub blocks: u64,
}

/// A live block, by home offsets.
#[derive(Debug, Clone, Copy)]
struct Moved {
    old: u64,
    new: u64,
    size: u64,
}

/// Writes the region at `path` anew, without what is free in it: the file is as long as its data need, and its blocks lie
/// where those of a new heap would. It gets another home address; size of the log and maximum size stay.
///
/// Cost: as opening after a crash, and a write of all data; for a time there are two files. 24 bytes of memory for each
/// block.
///
/// # Errors
/// Those of opening it; `Immovable`; those of the new region, as when the disk is full. The region is as it was then.
pub fn compact(options: &Options, path: impl AsRef<Path>) -> Result<Compacted> {
    let path = path.as_ref();
    // The file itself, where there are links to it.
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if !std::fs::metadata(path).is_ok_and(|of| of.is_file()) {
        return Err(bartender_pm::Error::BadOption {
            option: "compact",
            what: "only files are written anew".into(),
        }
        .into());
    }
    let mut alone = options.clone();
    alone.create(false).background(false);
    // Its lock is held until the new one has its name.
    let heap = Heap::open(relocate::open_region(&alone, path)?)?;
    if heap.schema().is_untyped() {
        return Err(Error::Immovable);
    }
    let temporary = beside(path);
    // What a crash has left: nobody else makes it while the region is locked.
    let _ = std::fs::remove_file(&temporary);
    let made = write(&heap, &temporary)
        .and_then(|made| Ok((made, bartender_pm::replace_file(&temporary, path)?)));
    if made.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    let (made, ()) = made?;
    // What its closing writes goes to a file without a name.
    let _ = heap.close();
    Ok(made)
}

/// Where the new file lies before it takes the old one's name.
fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".compact");
    path.with_file_name(name)
}

/// Writes a new region with what is live in `from`, and closes it.
fn write(from: &Heap, path: &Path) -> Result<Compacted> {
    let old = from.region();
    let home = bytes_of(old);
    let schema = from.schema();
    let root = from.root().map_or(0, |root| root.addr().get() as u64);
    let view = View::at(old.base().addr(), home);
    let found = relocate::find(schema, root, view, old.max_size())?;
    let mut options = Options::like(old);
    options.background(false);
    let region = options.open(path)?;
    let to = Heap::create(region, schema)?;
    let new = to.region();

    // Those that are aligned to more than a unit are large.
    let most = schema.types().iter().map(|of| of.align).max().unwrap_or(1);
    let mut moved = Vec::new();
    let mut entries = HashSet::new();
    found.each_block(|offset, size| {
        let align = match most > UNIT {
            true => most.min(1 << (old.base().addr() as u64 + offset).trailing_zeros()),
            false => 8,
        };
        let layout = Layout::from_size_align(size as usize, align as usize);
        let block = to.alloc(layout.map_err(|_| Error::Immovable)?)?;
        entries.extend(block.entry);
        moved.push(Moved {
            old: offset,
            new: (block.ptr.addr().get() - new.base().addr()) as u64,
            size,
        });
        Ok(())
    })?;
    moved.sort_unstable_by_key(|block| block.old);
    let blocks = moved.len() as u64;
    announce(&to, entries)?;

    let copy = Copy {
        home,
        from: old.base().addr() as u64,
        moved: &moved,
        words: &found.words,
        to: new,
    };
    copy.all()?;
    if root != 0 {
        let root = copy.address(root)?;
        let mut writer = new.writer()?;
        let mut record = Record::new();
        // SAFETY: a word in the view, of which nobody else knows.
        unsafe {
            let slot = new.base().add(header::ROOT as usize);
            slot.cast::<u64>().write(root);
        }
        record.change(header::ROOT, &root.to_le_bytes());
        append(new, &mut writer, &mut record)?;
    }
    to.check()?;
    to.close()?;
    Ok(Compacted {
        before: old.file_size(),
        after: new.file_size(),
        blocks,
    })
}

/// The home as it is in the view.
fn bytes_of(region: &Region) -> &[u8] {
    // SAFETY: `size` bytes are mapped and readable as long as the region is open, and nobody writes: it was opened for
    // this.
    unsafe { slice::from_raw_parts(region.base(), region.size() as usize) }
}

/// Makes the entries of the superblock table durable.
fn announce(to: &Heap, entries: HashSet<Entry>) -> Result<()> {
    let entries: Vec<Entry> = entries.into_iter().collect();
    for some in entries.chunks(ENTRIES) {
        let mut writer = to.region().writer()?;
        let mut record = Record::new();
        some.iter()
            .for_each(|entry| record.change(entry.offset, &entry.bytes));
        append(to.region(), &mut writer, &mut record)?;
        some.iter().for_each(|entry| to.entry_durable(entry));
    }
    Ok(())
}

fn append(region: &Region, writer: &mut Writer<'_>, record: &mut Record) -> Result<()> {
    let ticket = writer.append(record, Durability::Immediate)?;
    Ok(region.wait_durable(ticket.seq)?)
}

/// From one home to the other.
struct Copy<'a> {
    home: &'a [u8],
    /// The home address of the old region.
    from: u64,
    /// By rising old offsets.
    moved: &'a [Moved],
    words: &'a Words,
    to: &'a Region,
}

impl Copy<'_> {
    /// Copies all blocks, by rising new offsets.
    fn all(&self) -> Result<()> {
        let mut order: Vec<&Moved> = self.moved.iter().collect();
        order.sort_unstable_by_key(|block| block.new);
        let batch = BATCH.min(self.to.log_capacity() * FOR_EACH);
        let mut rest = &order[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |block: &&&Moved| {
                bytes += block.size;
                bytes <= batch
            };
            let (now, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            self.some(now)?;
            rest = later;
        }
        Ok(())
    }

    /// Copies blocks and makes them durable: one record.
    fn some(&self, blocks: &[&Moved]) -> Result<()> {
        let mut writer = self.to.writer()?;
        let mut record = Record::new();
        for run in blocks.chunk_by(|a, b| a.new + a.size == b.new) {
            for block in run {
                self.copy(block)?;
            }
            let (first, last) = (run[0], run[run.len() - 1]);
            let (start, end) = (first.new, last.new + last.size);
            // SAFETY: blocks of the new heap, side by side in its view, which nobody else knows of.
            let bytes = unsafe {
                let at = self.to.base().add(start as usize);
                slice::from_raw_parts(at, (end - start) as usize)
            };
            writer.write_fresh(start, bytes)?;
            record.extent(start, end - start, crc32c::crc32c(bytes));
        }
        append(self.to, &mut writer, &mut record)
    }

    fn copy(&self, block: &Moved) -> Result<()> {
        let old = &self.home[block.old as usize..][..block.size as usize];
        // SAFETY: a block of the new heap that nobody else knows of, of that size at least.
        let new = unsafe {
            let at = self.to.base().add(block.new as usize);
            slice::from_raw_parts_mut(at, old.len())
        };
        new.copy_from_slice(old);
        for at in self.words.within(block.old, block.old + block.size) {
            let word = &mut new[(at - block.old) as usize..][..8];
            let pointer = u64::from_le_bytes((&*word).try_into().expect("a word"));
            word.copy_from_slice(&self.address(pointer)?.to_le_bytes());
        }
        Ok(())
    }

    /// Where what the old pointer led to is now.
    fn address(&self, pointer: u64) -> Result<u64> {
        let offset = pointer.wrapping_sub(self.from);
        let behind = self.moved.partition_point(|block| block.old <= offset);
        let block = behind.checked_sub(1).map(|at| self.moved[at]);
        match block.filter(|block| offset < block.old + block.size) {
            Some(block) => Ok(self.to.base().addr() as u64 + block.new + (offset - block.old)),
            None => Err(Error::Damaged {
                offset: 0,
                what: format!("a pointer to {pointer:#x} leads to no block"),
            }),
        }
    }
}

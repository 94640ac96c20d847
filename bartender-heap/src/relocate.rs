//! Opening a region whose home address is taken: a copy of it is open already,
//! or something else lies there. The region is moved.
//!
//! The stored types say where the pointers are. All data are checked, and
//! their pointers found, before the first one is rewritten; in which order
//! that survives a crash, `bartender_pm` knows. What a clean close saved holds
//! offsets only, so a moved region need not be marked again for the allocator.
//! What moves is typed data only: a region of the C interface is refused.

#![allow(unsafe_code)]

use crate::block::{BlockRef, Blocks, NotABlock, Row};
use crate::error::{Error, Result};
use crate::header;
use crate::layout::UNIT;
use crate::mark::{View, mark};
use crate::marks::Marks;
use crate::table;
use crate::types::Schema;
use bartender_pm::medium::Medium;
use bartender_pm::sync::atomic::{AtomicU64, Ordering::*};
use bartender_pm::{Options, Region, Relocation};
use std::path::Path;
use std::sync::Arc;

/// Moves that are tried when somebody else takes the place meanwhile.
const MOVES: usize = 4;

/// Opens the region at `path`, as `options` say, at another home address if
/// its own is taken: then every pointer in it is rewritten, and stays so.
/// Finishes a move that a crash interrupted, wherever the region is then.
///
/// Cost: as [`Options::open`]; of a move, marking, and a write of each pointer.
///
/// # Errors
///
/// As [`Options::open`] but for `AddressTaken` and `Relocating`, which only reading is refused. Of a move:
/// `NotAHeap`, `NewerFormat`, `Damaged`, `BadSchema`, `BadData`, and the region
/// stays where it was.
pub fn open_region(options: &Options, path: impl AsRef<Path>) -> Result<Region> {
    let path = path.as_ref();
    place_file(options, path, || options.open(path))
}

/// As [`open_region`], but a file that is created has no name before [`Region::give_name`]
/// (see [`Options::open_unnamed`]).
///
/// # Errors
///
/// As [`open_region`].
pub fn open_region_unnamed(options: &Options, path: impl AsRef<Path>) -> Result<Region> {
    let path = path.as_ref();
    place_file(options, path, || options.open_unnamed(path))
}

/// As [`place`], for the region in a file.
fn place_file(
    options: &Options,
    path: &Path,
    open: impl Fn() -> bartender_pm::Result<Region>,
) -> Result<Region> {
    // Moving is writing.
    if options.is_read_only() {
        return Ok(open()?);
    }
    place(open, || options.relocate(path))
}

/// [`open_region`] for a region on a medium of the caller's.
///
/// # Errors
///
/// As [`open_region`].
pub fn open_region_on(options: &Options, medium: Arc<dyn Medium>) -> Result<Region> {
    place(
        || options.open_on(medium.clone()),
        || options.relocate_on(medium.clone()),
    )
}

fn place(
    open: impl Fn() -> bartender_pm::Result<Region>,
    relocate: impl Fn() -> bartender_pm::Result<Relocation>,
) -> Result<Region> {
    use bartender_pm::Error::{AddressTaken, Relocating};
    let mut result = open();
    for _ in 0..MOVES {
        if !matches!(result, Err(AddressTaken { .. } | Relocating { .. })) {
            break;
        }
        let relocation = relocate()?;
        let words = pointers(&relocation)?;
        result = relocation.run(words.each());
    }
    Ok(result?)
}

/// Checks all data and finds their pointers.
fn pointers(relocation: &Relocation) -> Result<Words> {
    let home = relocation.home();
    // SAFETY: `size` bytes are there while the relocation is, and nobody
    // changes them: the region is locked, and open nowhere.
    let home = unsafe { std::slice::from_raw_parts(home.base(), home.size() as usize) };
    if home.iter().take(header::LEN).all(|byte| *byte == 0) {
        // No heap was created yet.
        return Ok(Words(Vec::new()));
    }
    let (header, schema) = header::read(home)?;
    if schema.is_untyped() {
        return Err(Error::Immovable);
    }
    let view = View {
        home_base: relocation.to(),
        other_base: relocation.from(),
        bytes: home,
    };
    let found = find(&schema, header.root, view, relocation.max_size())?;
    found.pointer(header::ROOT);
    Ok(found.words)
}

/// Checks all data that the block at the address `root` leads to, and finds their blocks and pointers.
pub(crate) fn find(schema: &Schema, root: u64, view: View<'_>, max_size: u64) -> Result<Finder> {
    let home = view.bytes;
    let (end, max) = (home.len() as u64 / UNIT, max_size / UNIT);
    let (extents, _) = table::resolve(table::read(home, max, |all| vec![all]), end, max)?;
    let words = (0..home.len().div_ceil(512)).map(|_| 0.into()).collect();
    let found = Finder {
        marks: Marks::new(extents.into_values(), end),
        words: Words(words),
    };
    mark(schema, root, view, &found)?;
    Ok(found)
}

/// Home offsets of pointers: a bit for each word of 8 bytes.
pub(crate) struct Words(Vec<AtomicU64>);

impl Words {
    /// Those in the home bytes `start..end`, ascending.
    pub(crate) fn within(&self, start: u64, end: u64) -> impl Iterator<Item = u64> {
        let of_all = move |i: usize| {
            let bits = self.0[i].load(Relaxed);
            let here = (0..64).filter(move |bit| bits >> bit & 1 == 1);
            here.map(move |bit| (i as u64 * 64 + bit) * 8)
        };
        let words = start as usize / 512..(end as usize).div_ceil(512);
        words
            .flat_map(of_all)
            .skip_while(move |at| *at < start)
            .take_while(move |at| *at < end)
    }

    /// The offsets, ascending.
    fn each(&self) -> impl Iterator<Item = u64> {
        self.0.iter().enumerate().flat_map(|(i, bits)| {
            let bits = bits.load(Relaxed);
            let here = (0..64).filter(move |bit| bits >> bit & 1 == 1);
            here.map(move |bit| (i as u64 * 64 + bit) * 8)
        })
    }
}

/// Marks, and keeps where the pointers are.
///
/// `words` is set by anyone (`fetch_or`) while marking runs, and read when all
/// of its threads are through.
pub(crate) struct Finder {
    marks: Marks,
    pub(crate) words: Words,
}

impl Finder {
    /// Calls `f` with home offset and size of each block that was found.
    pub(crate) fn each_block(&self, mut f: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
        for (extent, size, words) in self.marks.each() {
            for (at, (mut mark, _)) in words.enumerate() {
                while mark != 0 {
                    let index = at as u64 * 64 + u64::from(mark.trailing_zeros());
                    mark &= mark - 1;
                    f(extent.unit * UNIT + index * size, size)?;
                }
            }
        }
        Ok(())
    }
}

impl Blocks for Finder {
    fn locate(&self, offset: u64) -> Result<BlockRef, NotABlock> {
        self.marks.locate(offset)
    }

    fn row(&self, offset: u64) -> Row {
        self.marks.row(offset)
    }

    fn words(&self) -> usize {
        self.marks.words()
    }

    fn mark(&self, word: usize, bits: u64) -> bool {
        self.marks.mark(word, bits)
    }

    fn pointer(&self, offset: u64) {
        self.words.0[offset as usize / 512].fetch_or(1 << (offset / 8 % 64), Relaxed);
    }
}

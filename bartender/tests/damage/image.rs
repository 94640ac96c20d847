//! Files of regions, and what may have happened to them: bits flipped, words, blocks and pages written over, exchanged
//! or gone, the file cut. Checksums can be made to fit again, so that damage comes to where no checksum tells it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

const PAGE: usize = 4096;

/// A file; pages that are not there are zeroes, and clones share what they have not changed.
#[derive(Clone)]
pub(crate) struct Image {
    len: u64,
    pages: BTreeMap<usize, Arc<[u8; PAGE]>>,
    /// Home offset 0 in the file.
    home: usize,
}

/// Numbers to choose by.
pub(crate) trait Choices {
    /// Any number, or none when all are drawn.
    fn next(&mut self) -> Option<u64>;

    /// One below `n`.
    fn below(&mut self, n: usize) -> Option<usize> {
        Some((self.next()? % n.max(1) as u64) as usize)
    }
}

/// Without an end, from a seed.
pub(crate) struct Seeded(pub(crate) u64);

impl Choices for Seeded {
    fn next(&mut self) -> Option<u64> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(z ^ (z >> 31))
    }
}

/// The pages of a range: which, from where in it, and which part of the range that is.
fn parts(range: Range<usize>) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
    let pages = range.start / PAGE..range.end.div_ceil(PAGE);
    pages.map(move |page| {
        let start = range.start.max(page * PAGE);
        let end = range.end.min((page + 1) * PAGE);
        (page, start % PAGE, start - range.start..end - range.start)
    })
}

impl Image {
    pub(crate) fn read(path: &Path) -> Image {
        let bytes = std::fs::read(path).expect("read");
        let pages = bytes.as_chunks::<PAGE>().0.iter().enumerate();
        let pages = pages.filter(|(_, page)| page.iter().any(|byte| *byte != 0));
        let mut image = Image {
            len: bytes.len() as u64,
            pages: pages.map(|(at, page)| (at, Arc::new(*page))).collect(),
            home: 0,
        };
        image.home = image.word(48) as usize;
        image
    }

    pub(crate) fn write(&self, path: &Path) {
        let file = std::fs::File::create(path).expect("created");
        file.set_len(self.len).expect("room");
        for (at, page) in &self.pages {
            let (at, len) = (at * PAGE, self.len as usize);
            if at < len {
                let page = &page[..PAGE.min(len - at)];
                file.write_all_at(page, at as u64).expect("written");
            }
        }
    }

    fn bytes(&self, range: Range<usize>) -> Vec<u8> {
        let mut bytes = vec![0; range.len()];
        for (page, at, part) in parts(range) {
            if let Some(page) = self.pages.get(&page) {
                bytes[part.clone()].copy_from_slice(&page[at..at + part.len()]);
            }
        }
        bytes
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at..at + 8).try_into().expect("8 bytes"))
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (page, at, part) in parts(at..at + bytes.len()) {
            let page = self.pages.entry(page);
            let page = Arc::make_mut(page.or_insert_with(|| Arc::new([0; PAGE])));
            page[at..at + part.len()].copy_from_slice(&bytes[part]);
        }
    }

    /// Where something is: a word that is not zero, mostly of the home.
    fn place(&self, choices: &mut impl Choices) -> Option<usize> {
        let first = match choices.below(8)? {
            0 => 0,
            _ => self.home / PAGE,
        };
        let pages: Vec<usize> = self.pages.range(first..).map(|(at, _)| *at).collect();
        let page = *pages.get(choices.below(pages.len())?)? * PAGE;
        let word = choices.below(PAGE / 8)?;
        let words = (word..PAGE / 8).chain(0..word).map(|word| page + word * 8);
        words.into_iter().find(|at| self.word(*at) != 0)
    }

    /// Damages the image by what is chosen, at least once; says how.
    pub(crate) fn damage(&mut self, choices: &mut impl Choices) -> String {
        let mut what = Vec::new();
        let hits = 1 + choices.below(4).unwrap_or(0);
        for _ in 0..hits {
            what.extend(self.hit(choices));
        }
        if choices.below(2).is_some_and(|fit| fit == 0) {
            self.fit();
            what.push("checksums fit".to_owned());
        }
        what.join(", ")
    }

    fn hit(&mut self, choices: &mut impl Choices) -> Option<String> {
        let kind = choices.below(16)?;
        match kind {
            0 => {
                let (a, b) = (self.place(choices)? / PAGE, self.place(choices)? / PAGE);
                let (x, y) = (self.pages.remove(&a), self.pages.remove(&b));
                self.pages.extend(x.map(|page| (b, page)));
                self.pages.extend(y.map(|page| (a, page)));
                Some(format!("pages {a:#x} and {b:#x} exchanged"))
            }
            1 => {
                let a = self.place(choices)? / PAGE;
                self.pages.remove(&a);
                Some(format!("page {a:#x} zeroed"))
            }
            2 => {
                let (a, b) = (self.place(choices)? / PAGE, self.place(choices)? / PAGE);
                let page = self.pages.get(&a)?.clone();
                self.pages.insert(b, page);
                Some(format!("page {a:#x} copied over {b:#x}"))
            }
            3 if choices.below(4)? == 0 => {
                self.len = choices.below(self.len as usize)? as u64;
                Some(format!("cut to {:#x}", self.len))
            }
            3 => {
                // A log that ends before its end: the pages from one on are gone.
                let log = 2..self.home / PAGE;
                let from = log.start + choices.below(log.len())?;
                self.pages.retain(|page, _| !(from..log.end).contains(page));
                Some(format!("log ends at page {from:#x}"))
            }
            4 => {
                // The head of the heap's header, or of the region's.
                let at = [self.home, 0, PAGE][choices.below(3)?] + choices.below(90)? * 8;
                let new = self.word(at) ^ 1 << choices.below(64)?;
                self.put(at, &new.to_le_bytes());
                Some(format!("{at:#x}: {new:#x}"))
            }
            5 => {
                // What another place holds, which may be a pointer of another type.
                let (a, b) = (self.place(choices)?, self.place(choices)?);
                let new = self.word(a);
                self.put(b, &new.to_le_bytes());
                Some(format!("{b:#x}: {new:#x}, as {a:#x}"))
            }
            6 => {
                let (at, len) = (self.place(choices)?, 8 << choices.below(5)?);
                let new = choices.next()?.to_le_bytes();
                let new: Vec<u8> = new.into_iter().cycle().take(len).collect();
                self.put(at, &new);
                Some(format!("{at:#x}: {len} bytes"))
            }
            _ => {
                let at = self.place(choices)?;
                let word = self.word(at);
                let new = match choices.below(9)? {
                    0 | 1 => word ^ 1 << choices.below(64)?,
                    2 => 0,
                    3 => u64::MAX,
                    4 => choices.next()?,
                    5 => word.wrapping_add(8 << choices.below(4)?),
                    6 => word.wrapping_sub(1),
                    7 => word ^ 0xff << (8 * choices.below(8)?),
                    _ => word.wrapping_mul(2),
                };
                self.put(at, &new.to_le_bytes());
                Some(format!("{at:#x}: {word:#x} -> {new:#x}"))
            }
        }
    }

    /// Zeroes the first page of the home, where the heap's header is.
    #[allow(dead_code, reason = "not every user damages by hand")]
    pub(crate) fn lose_heap_header(&mut self) {
        self.pages.remove(&(self.home / PAGE));
    }

    /// Has the region's header say so large a maximum size.
    #[allow(dead_code, reason = "not every user damages by hand")]
    pub(crate) fn claim(&mut self, max_size: u64) {
        for copy in [0, PAGE] {
            self.put(copy + 56, &max_size.to_le_bytes());
        }
        self.fit();
    }

    /// What the file at `path` has in its home.
    #[allow(dead_code, reason = "not every user compares")]
    pub(crate) fn home_bytes(&self, path: &Path) -> Vec<u8> {
        std::fs::read(path).expect("read")[self.home..].to_vec()
    }

    /// Lets the checksums fit that cover what lies in headers: the region's, the heap's, of the types and of the saved
    /// allocator. Those of log records stay: what they hold comes to the home, where damage is all the same.
    fn fit(&mut self) {
        for copy in [0, PAGE] {
            let mut header = self.bytes(copy..copy + 656);
            header[12..16].fill(0);
            self.put(copy + 12, &crc32c::crc32c(&header).to_le_bytes());
        }
        let home = self.home;
        let extent = |image: &Image, at: usize, len: usize| -> Option<Vec<u8>> {
            let (at, len) = (
                image.word(home + at) as usize,
                image.word(home + len) as usize,
            );
            let fits = at < 16 << 20 && len < 16 << 20;
            fits.then(|| image.bytes(home + at..home + at + len))
        };
        if let Some(types) = extent(self, 16, 24) {
            self.put(home + 32, &crc32c::crc32c(&types).to_le_bytes());
        }
        if let Some(saved) = extent(self, 48, 56) {
            self.put(home + 72, &crc32c::crc32c(&saved).to_le_bytes());
        }
        let covered = self.bytes(home + 16..home + 40);
        self.put(home + 12, &crc32c::crc32c(&covered).to_le_bytes());
    }
}

/// Two regions to damage: one that was closed, one as a crash leaves it, with a log.
pub(crate) fn originals(folder: &Path) -> [Image; 2] {
    use crate::world::{fill, options};
    let path = folder.join("original.region");
    let heap = options().open(&path).expect("created");
    fill(&heap, 0, 60).expect("fits");
    heap.close().expect("closed");
    let closed = Image::read(&path);
    let heap = options().background(false).open(&path).expect("opened");
    fill(&heap, 60, 90).expect("fits");
    let crashed = Image::read(&path);
    drop(heap);
    std::fs::remove_file(&path).expect("removed");
    [closed, crashed]
}

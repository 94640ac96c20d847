//! Files of regions, damaged in any way: what opens with all of it checked is read as a whole, changed, closed and opened
//! again. The region and the ways are those of the test `damage`.

#![no_main]

#[path = "../../bartender/tests/damage/image.rs"]
mod image;
#[path = "../../bartender/tests/damage/world.rs"]
mod world;

use image::{Choices, Image, Seeded};
use libfuzzer_sys::fuzz_target;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// What the fuzzer says, and behind its end what follows from that: an input of a few bytes damages as much as a long one.
struct Drawn<'a> {
    said: &'a [u8],
    more: Seeded,
}

impl Drawn<'_> {
    fn new(said: &[u8]) -> Drawn<'_> {
        let mut seed = DefaultHasher::new();
        said.hash(&mut seed);
        let more = Seeded(seed.finish());
        Drawn { said, more }
    }
}

impl Choices for Drawn<'_> {
    fn next(&mut self) -> Option<u64> {
        match self.said.split_first_chunk() {
            Some((number, rest)) => {
                self.said = rest;
                Some(u32::from_le_bytes(*number).into())
            }
            None => self.more.next(),
        }
    }
}

/// Where files are, and the undamaged ones. The folder is left to the system.
static PLACE: LazyLock<(PathBuf, [Image; 2])> = LazyLock::new(|| {
    let shared = Path::new("/dev/shm");
    let folder = match shared.exists() {
        true => tempfile::tempdir_in(shared),
        false => tempfile::tempdir(),
    };
    let folder = folder.expect("a folder").keep();
    let originals = image::originals(&folder);
    (folder, originals)
});

fuzz_target!(|bytes: &[u8]| {
    let (folder, originals) = &*PLACE;
    let mut choices = Drawn::new(bytes);
    let mut image = originals[choices.below(2).unwrap_or(0)].clone();
    image.damage(&mut choices);
    let path = folder.join("damaged.region");
    image.write(&path);
    let _ = world::use_it(&path);
});

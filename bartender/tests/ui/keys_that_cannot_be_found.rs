//! Keys of stored maps, and values of stored sets, can be looked for: they would have to be when they are converted.

use bartender::{PBTreeSet, PHashMap, Persist};

#[derive(Persist)]
#[repr(C)]
struct Point(f64, f64);

#[derive(Persist)]
#[repr(C)]
struct World {
    names: PHashMap<Point, u64>,
    places: PBTreeSet<Point>,
}

fn main() {}

//! Bytes for an entry, of words: what the allocator under the map has reserved for it, on both sides.

use super::stores::{BTreeStore, HashStore};
use super::{Extent, Medium, SameHasher, Setting, Store, words};
use crate::harness::Report;
use bartender::Stats;
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;

const SPACE: &str = "space of a map of words";

/// What the C library's allocator has: small blocks' arenas, and large blocks.
fn reserved() -> u64 {
    // SAFETY: asks for figures, changes nothing.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}

pub(super) fn run(report: &mut Report, extent: Extent<'_>) {
    if !extent.args.wants(SPACE) {
        return;
    }
    let n = extent.n;
    let pairs = words(n);
    let mut note = |subject: &str, bytes: u64| {
        let each = bytes as f64 / n as f64;
        println!("  {subject:<34} {each:>12.2}");
        report.note(SPACE, 1, subject, each, "B");
    };
    println!("\n{SPACE}, {n} of them, bytes for each");

    let before = reserved();
    let mut map = HashMap::with_hasher(SameHasher::new());
    map.extend(pairs.iter().copied());
    note("std HashMap", reserved() - before);
    black_box(map);

    let before = reserved();
    let mut map = BTreeMap::new();
    for &(key, value) in &pairs {
        map.insert(key, value);
    }
    note("std BTreeMap", reserved() - before);
    black_box(map);

    let folder = Medium::Shared.folder();
    let setting = Setting {
        folder: folder.path(),
        survives: Medium::Shared.survives(),
        entries: n,
    };
    let (hash, btree) = (HashStore::open(setting), BTreeStore::open(setting));
    let mut ours = |name: &str, store: &dyn Store, stats: &dyn Fn() -> Stats| {
        let before = stats().reserved_bytes;
        store.insert_words(&pairs);
        let after = stats();
        note(name, after.reserved_bytes - before);
        note(
            &format!("{name}, at its peak"),
            after.reserved_peak - before,
        );
    };
    ours("PHashMap", &hash, &|| hash.0.stats());
    ours("PBTreeMap", &btree, &|| btree.0.stats());

    for (ours, std) in [("PHashMap", "std HashMap"), ("PBTreeMap", "std BTreeMap")] {
        let ratio = report.median(SPACE, 1, ours) / report.median(SPACE, 1, std);
        report.at_most(format!("{SPACE}: {ours} against {std}"), ratio, 1.25);
    }
}

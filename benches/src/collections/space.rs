//! Bytes for an entry, of words: what the allocator under the map has reserved for it, on both sides.

use super::stores::HashStore;
use super::{Extent, Medium, SameHasher, Setting, Store, words};
use crate::harness::Report;
use std::collections::HashMap;
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
    let mut map = HashMap::with_hasher(SameHasher);
    pairs.iter().for_each(|&(key, value)| {
        map.insert(key, value);
    });
    note("std HashMap", reserved() - before);
    black_box(map);

    let folder = Medium::Shared.folder();
    let store = HashStore::open(Setting {
        folder: folder.path(),
        survives: Medium::Shared.survives(),
        entries: n,
    });
    let before = store.0.stats().reserved_bytes;
    store.insert_words(&pairs);
    let stats = store.0.stats();
    note("PHashMap", stats.reserved_bytes - before);
    note("PHashMap, at its peak", stats.reserved_peak - before);

    let ratio = report.median(SPACE, 1, "PHashMap") / report.median(SPACE, 1, "std HashMap");
    report.at_most(
        format!("{SPACE}: PHashMap against std HashMap"),
        ratio,
        1.25,
    );
}

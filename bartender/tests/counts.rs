//! Costs that `golden.rs` has no row for: what is taken back, shipped fresh, or not waited for.
#![cfg(not(loom))]

use bartender::{Durability, Heap, PBox, PMutex, PVec, Persist, Result};
use bartender_pm::{Counts, LogStyle};
use std::path::Path;

type Root = PMutex<(u64, Option<PBox<u64>>, PVec<u64>)>;

fn open<R: Persist + Default>(path: &Path) -> Heap<R> {
    let options = Heap::<R>::options().max_size(64 << 20).log_size(4 << 20);
    let options = options.background(false);
    options.open(path.join("r")).expect("a new region")
}

/// One `u64`, changed.
fn change(heap: &Heap<Root>) {
    heap.update(|mut root| {
        *root.project().0 += 1;
        Ok(())
    })
    .expect("a small transaction");
}

#[test]
fn reading_and_what_changes_nothing_cost_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let heap = open::<Root>(folder.path());
    change(&heap);
    let (n, cost) = Counts::of(|| heap.read().0);
    assert_eq!((n, cost), (1, Counts::default()));
    let (result, cost) = Counts::of(|| heap.update(|root| Ok(root.0)));
    assert_eq!((result.unwrap(), cost), (1, Counts::default()));
    let (result, cost) = Counts::of(|| -> Result<()> {
        heap.update(|mut root| {
            *root.project().0 = 9;
            root.project().1.set(Some(PBox::new(1)))?;
            Err(bartender::Error::abort("taken back"))
        })
    });
    result.unwrap_err();
    assert_eq!(cost, Counts::default());
}

#[test]
fn a_large_block_is_not_logged() {
    let folder = tempfile::tempdir().unwrap();
    let heap = open::<Root>(folder.path());
    let bytes = 8 * 500_000;
    let ((), cost) = Counts::of(|| {
        heap.update(|mut root| root.project().2.set((0..500_000).collect()))
            .unwrap();
    });
    assert_eq!(cost.barriers, 2);
    assert!(cost.log_bytes < bytes / 1000, "{cost:?}");
    assert_eq!(heap.read().2[499_999], 499_999);
    drop(heap);
    let heap = open::<Root>(folder.path());
    assert_eq!(heap.read().2[499_999], 499_999);
    heap.check().unwrap();
}

#[test]
fn eventual_commits_do_not_wait() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let options = Heap::<PMutex<u64>>::options().max_size(64 << 20);
    let options = options.background(false).durability(Durability::Eventual);
    let heap = options.open(folder.path().join("r")).unwrap();
    if heap.region().log_style() != LogStyle::Stream {
        return;
    }
    let ((), cost) = Counts::of(|| {
        for _ in 0..100 {
            heap.update(|mut n| {
                *n += 1;
                Ok(())
            })
            .unwrap();
        }
    });
    assert_eq!(cost.barriers, 0);
    let ((), cost) = Counts::of(|| heap.sync().unwrap());
    assert_eq!(cost.barriers, 1);
}

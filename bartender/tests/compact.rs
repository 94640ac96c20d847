//! Heaps that are written anew: everything is there, and what was free is not.
#![cfg(not(loom))]

use bartender::{Error, Heap, PBox, PHashMap, PMutex, PString, PVec, Persist, Result};
use bartender_pm::fault;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

#[derive(Persist, Default)]
#[repr(C)]
struct Node {
    number: u64,
    next: Option<PBox<Node>>,
}

#[derive(Persist, Default)]
#[repr(C)]
struct Root {
    map: PHashMap<u64, PString>,
    list: PVec<PBox<u64>>,
    large: PVec<PVec<u8>>,
    chain: Option<PBox<Node>>,
    locks: PVec<PMutex<u64>>,
}

type Bank = Heap<PMutex<Root>>;

fn folders() -> Vec<TempDir> {
    let on_disk = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let places = [PathBuf::from("/dev/shm"), on_disk];
    let places = places.iter().filter(|place| place.is_dir());
    places
        .map(|place| tempfile::tempdir_in(place).unwrap())
        .collect()
}

fn open(path: &Path) -> Bank {
    let options = Heap::options().max_size(512 << 20).log_size(1 << 20);
    options.open(path).unwrap()
}

/// Values of all sizes; `keeps` says which of them stay.
fn fill(heap: &Bank, count: u64, keeps: impl Fn(u64) -> bool) {
    let text = |n: u64| -> PString { format!("{n} ").repeat(1 + n as usize % 60).into() };
    for from in (0..count).step_by(500) {
        heap.update(|mut root| {
            let mut root = root.project();
            for n in from..from + 500 {
                root.map.insert(n, text(n))?;
                root.list.push(PBox::new(n))?;
                if n % 100 == 0 {
                    root.large
                        .push(vec![n as u8; 100_000 + n as usize].into())?;
                }
                if n % 50 == 0 {
                    let next = root.chain.take_moved_into()?;
                    root.chain.set(Some(PBox::new(Node { number: n, next })))?;
                    root.locks.push(PMutex::new(n))?;
                }
            }
            Ok(())
        })
        .unwrap();
    }
    heap.update(|mut root| {
        let mut root = root.project();
        root.map.retain(|n, _| keeps(*n))?;
        root.list.retain(|n| keeps(**n))?;
        root.large
            .retain(|bytes| keeps(bytes.len() as u64 - 100_000))?;
        root.map.shrink_to_fit()
    })
    .unwrap();
}

trait TakeInto {
    fn take_moved_into(&mut self) -> Result<Option<PBox<Node>>>;
}

impl TakeInto for bartender::Mut<'_, Option<PBox<Node>>> {
    fn take_moved_into(&mut self) -> Result<Option<PBox<Node>>> {
        bartender::Mut::take(self)
    }
}

/// All that there is.
#[derive(Debug, PartialEq)]
struct Contents(
    BTreeMap<u64, String>,
    Vec<u64>,
    Vec<(usize, u8)>,
    Vec<u64>,
    Vec<u64>,
);

fn contents(heap: &Bank) -> Contents {
    let root = heap.read();
    let mut chain = Vec::new();
    let mut next = root.chain.as_ref();
    while let Some(node) = next {
        chain.push(node.number);
        next = node.next.as_ref();
    }
    Contents(
        root.map
            .iter()
            .map(|(n, text)| (*n, text.to_string()))
            .collect(),
        root.list.iter().map(|n| **n).collect(),
        root.large
            .iter()
            .map(|bytes| {
                assert!(bytes.iter().all(|byte| *byte == bytes[0]));
                (bytes.len(), bytes[0])
            })
            .collect(),
        chain,
        root.locks.iter().map(|lock| *lock.read()).collect(),
    )
}

/// Bytes that the file takes.
fn space(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

const LOG: u64 = 1 << 20;

#[test]
fn what_was_deleted_here_and_there_takes_no_space_any_more() {
    for folder in folders() {
        let path = folder.path().join("r");
        let heap = open(&path);
        // A tenth stays, at random places.
        fill(&heap, 20_000, |n| {
            n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 < u64::from(u32::MAX / 10)
        });
        heap.purge().unwrap();
        let (purged, live) = (space(&path), heap.stats().live_bytes);
        let before = contents(&heap);
        assert!(before.0.len() > 1000 && before.3.len() == 400);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();

        let heap = heap.compact().unwrap();
        assert_eq!(contents(&heap), before);
        assert_eq!(heap.stats().live_bytes, live);
        heap.check().unwrap();
        heap.purge().unwrap();
        let has = space(&path);
        println!("{live} bytes are live: {purged} purged, {has} compacted");
        // Besides them the log, headers, table, and superblocks that are not full.
        assert!(
            has < live + live / 4 + LOG + (3 << 20),
            "{has} bytes, {live} live"
        );
        assert!(has < purged);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

        // It is a heap like any other: it goes on, closes, recovers, and is compacted again.
        fill(&heap, 1000, |n| n % 3 == 0);
        let before = contents(&heap);
        std::fs::copy(&path, folder.path().join("crashed")).unwrap();
        drop(heap);
        for name in ["r", "crashed"] {
            let heap = open(&folder.path().join(name));
            assert_eq!(contents(&heap), before);
            heap.check().unwrap();
            let heap = heap.compact().unwrap().compact().unwrap();
            assert_eq!(contents(&heap), before);
        }
    }
}

#[test]
fn where_compacting_fails_the_region_is_as_it_was() {
    if !bartender_pm::mutant::ON {
        return;
    }
    for folder in folders() {
        let path = folder.path().join("r");
        let mut heap = open(&path);
        fill(&heap, 1000, |n| n % 3 == 0);
        let before = contents(&heap);
        // Each record of the new region is refused in turn.
        for nth in 0.. {
            let (compacted, struck) = fault::with("append", nth, || heap.compact());
            if !struck {
                heap = compacted.unwrap();
                assert!(nth > 3);
                break;
            }
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
            heap = match compacted {
                // What closing the old file writes does not matter any more.
                Ok(heap) => heap,
                Err(Error::Region(bartender_pm::Error::LogFull { .. })) => open(&path),
                Err(error) => panic!("{error}"),
            };
            assert_eq!(contents(&heap), before);
        }
        heap.check().unwrap();
        // What a crash has left of the new file is overwritten.
        std::fs::write(folder.path().join(".r.compact"), "half a region").unwrap();
        let heap = heap.compact().unwrap();
        assert_eq!(contents(&heap), before);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(heap);
        // Only who could write can compact.
        let read_only: Bank = Heap::options().read_only(true).open(&path).unwrap();
        assert!(read_only.compact().is_err());
        assert_eq!(contents(&open(&path)), before);
    }
}

#[test]
fn another_file_at_the_path_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("r"), folder.path().join("moved"));
    let heap = open(&path);
    fill(&heap, 100, |n| n % 3 == 0);
    let before = contents(&heap);
    std::fs::rename(&path, &moved).unwrap();
    let refused = heap.compact().unwrap_err().to_string();
    assert!(refused.contains("leads to another file"), "{refused}");
    assert!(!path.exists());
    let heap = open(&moved);
    assert_eq!(contents(&heap), before);
    std::fs::rename(&moved, &path).unwrap();
    let other = open(&moved);
    let nothing = contents(&other);
    drop(other);
    assert!(heap.compact().is_err());
    assert_eq!(contents(&open(&moved)), nothing);
    assert_eq!(contents(&open(&path)), before);
}

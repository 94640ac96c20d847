//! Stored collections against their `std` twins: transactions of random operations, of which some
//! abort or panic, with the region closed and opened again among them. After each transaction the
//! stored data equal the twin's and the region's check finds every block reachable.
#![cfg(not(loom))]

use bartender::{Error, Heap, Mut, PHashMap, PMutex, PString, PVec, Persist, Result};
use proptest::prelude::*;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

#[derive(Persist, Default)]
#[repr(C)]
struct Root {
    words: PVec<PString>,
    numbers: PVec<u64>,
    text: PString,
    map: PHashMap<PString, PVec<u32>>,
    nested: PHashMap<u16, PHashMap<u8, PString>>,
}

#[derive(Default, Clone, Debug, PartialEq)]
struct Twin {
    words: Vec<String>,
    numbers: Vec<u64>,
    text: String,
    map: HashMap<String, Vec<u32>>,
    nested: HashMap<u16, HashMap<u8, String>>,
}

/// A copy in the program's own types.
fn copy(root: &Root) -> Twin {
    let text = |s: &PString| s.to_string();
    Twin {
        words: root.words.iter().map(text).collect(),
        numbers: root.numbers.to_vec(),
        text: text(&root.text),
        map: root
            .map
            .iter()
            .map(|(k, v)| (text(k), v.to_vec()))
            .collect(),
        nested: root
            .nested
            .iter()
            .map(|(k, v)| (*k, v.iter().map(|(k, v)| (*k, text(v))).collect()))
            .collect(),
    }
}

fn folder() -> TempDir {
    let shared = PathBuf::from("/dev/shm");
    let base = if shared.is_dir() {
        shared
    } else {
        std::env::temp_dir()
    };
    tempfile::tempdir_in(base).expect("a folder for the test")
}

fn open(path: &Path) -> Heap<PMutex<Root>> {
    Heap::options()
        .max_size(64 << 20)
        .log_size(32 << 20)
        .open(path)
        .expect("the region opens")
}

/// One operation: which, where, and with what.
type Op = (u8, usize, u32, String);

fn op() -> impl Strategy<Value = Op> {
    (0..44u8, 0..40usize, any::<u32>(), "[a-zäß]{0,12}")
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Commit,
    Abort,
    Panic,
    Reopen,
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        6 => Just(End::Commit),
        2 => Just(End::Abort),
        1 => Just(End::Panic),
        1 => Just(End::Reopen),
    ]
}

fn words(op: &Op, words: &mut Mut<'_, PVec<PString>>, twin: &mut Vec<String>) -> Result<()> {
    let (which, at, number, text) = op;
    let len = twin.len();
    match which {
        0..=2 => {
            words.push(text.as_str().into())?;
            twin.push(text.clone());
        }
        3 => assert_eq!(words.pop()?.map(PString::into_string), twin.pop()),
        4 => {
            words.insert(at % (len + 1), text.as_str().into())?;
            twin.insert(at % (len + 1), text.clone());
        }
        5 if len > 0 => assert_eq!(words.remove(at % len)?, twin.remove(at % len)),
        6 if len > 0 => assert_eq!(words.swap_remove(at % len)?, twin.swap_remove(at % len)),
        7 if number % 3 == 0 => {
            words.truncate(*at)?;
            twin.truncate(*at);
        }
        8 => {
            words.retain(|w| w.len() % 3 != 0)?;
            twin.retain(|w| w.len() % 3 != 0);
        }
        9 if len > 0 => {
            words.swap_elements(at % len, *number as usize % len)?;
            twin.swap(at % len, *number as usize % len);
        }
        10 => {
            words.extend((0..3).map(|i| PString::from(format!("{text}{i}"))))?;
            twin.extend((0..3).map(|i| format!("{text}{i}")));
        }
        11 => {
            for mut word in words.iter_mut() {
                word.push('.')?;
            }
            twin.iter_mut().for_each(|word| word.push('.'));
        }
        12 => {
            if let Some(mut word) = words.get_mut(*at) {
                let old = Mut::replace(&mut word, text.as_str().into())?;
                assert_eq!(old, std::mem::replace(&mut twin[*at], text.clone()));
            }
        }
        _ => {
            words.reserve(*at)?;
        }
    }
    Ok(())
}

fn text(op: &Op, ours: &mut Mut<'_, PString>, twin: &mut String) -> Result<()> {
    let (which, at, _, text) = op;
    let at = twin
        .char_indices()
        .map(|(i, _)| i)
        .nth(*at)
        .unwrap_or(twin.len());
    match which % 8 {
        0 | 1 => {
            ours.push_str(text)?;
            twin.push_str(text);
        }
        2 => assert_eq!(ours.pop()?, twin.pop()),
        3 => {
            ours.insert_str(at, text)?;
            twin.insert_str(at, text);
        }
        4 if at < twin.len() => assert_eq!(ours.remove(at)?, twin.remove(at)),
        5 => {
            ours.truncate(at)?;
            twin.truncate(at);
        }
        6 => {
            ours.insert(at, 'ß')?;
            twin.insert(at, 'ß');
        }
        _ => {
            ours.clear()?;
            twin.clear();
        }
    }
    Ok(())
}

fn numbers(op: &Op, ours: &mut Mut<'_, PVec<u64>>, twin: &mut Vec<u64>) -> Result<()> {
    let (which, at, number, _) = op;
    let slice: Vec<u64> = (0..u64::from(number % 50)).collect();
    let at = at % (twin.len() + 1);
    match which % 6 {
        0 => {
            ours.extend_from_slice(&slice)?;
            twin.extend_from_slice(&slice);
        }
        1 => {
            ours.insert_slice(at, &slice)?;
            twin.splice(at..at, slice);
        }
        2 => {
            if let Some(mut last) = ours.last_mut() {
                *last += 1;
                *twin.last_mut().unwrap() += 1;
            }
        }
        3 => {
            ours.retain(|n| *n % 3 != 0)?;
            twin.retain(|n| n % 3 != 0);
        }
        4 => {
            ours.iter_mut().for_each(|mut n| *n *= 2);
            twin.iter_mut().for_each(|n| *n *= 2);
        }
        _ => {
            ours.set(slice.clone().into())?;
            *twin = slice;
        }
    }
    Ok(())
}

fn map(
    op: &Op,
    ours: &mut Mut<'_, PHashMap<PString, PVec<u32>>>,
    twin: &mut HashMap<String, Vec<u32>>,
) -> Result<()> {
    let (which, at, number, text) = op;
    let key = format!("k{at}");
    match which % 10 {
        0..=2 => {
            let old = ours.insert(key.as_str().into(), PVec::from([*number]))?;
            assert_eq!(old.map(PVec::into_vec), twin.insert(key, vec![*number]));
        }
        3 | 4 => assert_eq!(
            ours.remove(key.as_str())?.map(PVec::into_vec),
            twin.remove(&key)
        ),
        5 | 6 => {
            ours.entry(key.as_str().into())
                .or_default()?
                .push(*number)?;
            twin.entry(key).or_default().push(*number);
        }
        7 => {
            let changed = ours.entry(key.as_str().into()).and_modify(|mut v| {
                v.clear().expect("no locks are in it");
            });
            changed.or_insert(PVec::from([1]))?;
            twin.entry(key).and_modify(Vec::clear).or_insert(vec![1]);
        }
        8 if text.len() < 3 => {
            ours.retain(|_, v| v.len() > 1)?;
            twin.retain(|_, v| v.len() > 1);
        }
        9 if text.is_empty() => {
            ours.clear()?;
            twin.clear();
        }
        _ => {
            for (_, mut v) in ours.iter_mut() {
                v.push(7)?;
            }
            twin.values_mut().for_each(|v| v.push(7));
            ours.reserve(*at)?;
        }
    }
    Ok(())
}

fn nested(
    op: &Op,
    ours: &mut Mut<'_, PHashMap<u16, PHashMap<u8, PString>>>,
    twin: &mut HashMap<u16, HashMap<u8, String>>,
) -> Result<()> {
    let (which, at, number, text) = op;
    let (outer, inner) = ((*at % 5) as u16, *number as u8 % 40);
    match which % 4 {
        0 | 1 => {
            let old = ours
                .entry(outer)
                .or_default()?
                .insert(inner, text.as_str().into())?;
            let twin_old = twin.entry(outer).or_default().insert(inner, text.clone());
            assert_eq!(old.map(PString::into_string), twin_old);
        }
        2 => {
            // Out of the region, changed as an owned value, and in again.
            let mut taken = ours.remove(&outer)?.unwrap_or_default();
            let mut twin_taken = twin.remove(&outer).unwrap_or_default();
            taken.extend((0..20).map(|i| (i, PString::from(text.as_str()))));
            twin_taken.extend((0..20).map(|i| (i, text.clone())));
            ours.insert(outer, taken)?;
            twin.insert(outer, twin_taken);
        }
        _ => assert_eq!(
            ours.remove(&outer)?.is_some(),
            twin.remove(&outer).is_some()
        ),
    }
    Ok(())
}

fn apply(op: &Op, root: &mut Mut<'_, Root>, twin: &mut Twin) -> Result<()> {
    match op.0 {
        0..=13 => words(op, &mut root.words_mut(), &mut twin.words),
        14..=19 => numbers(op, &mut root.numbers_mut(), &mut twin.numbers),
        20..=25 => text(op, &mut root.text_mut(), &mut twin.text),
        26..=36 => map(op, &mut root.map_mut(), &mut twin.map),
        _ => nested(op, &mut root.nested_mut(), &mut twin.nested),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn stored_collections_are_like_their_twins(
        transactions in prop::collection::vec((prop::collection::vec(op(), 1..12), end()), 1..24),
    ) {
        let folder = folder();
        let path = folder.path().join("region");
        let mut heap = open(&path);
        let mut twin = Twin::default();
        for (ops, end) in transactions {
            let mut next = twin.clone();
            let run = || {
                heap.update(|mut root| {
                    for op in &ops {
                        apply(op, &mut root, &mut next)?;
                    }
                    // A transaction sees its own writes.
                    assert_eq!(copy(&root), next);
                    match end {
                        End::Abort => Err(Error::abort("as planned")),
                        End::Panic => std::panic::resume_unwind(Box::new("as planned")),
                        _ => Ok(()),
                    }
                })
            };
            match (catch_unwind(AssertUnwindSafe(run)), end) {
                (Ok(Ok(())), End::Commit | End::Reopen) => twin = next,
                (Ok(Err(Error::Aborted(_))), End::Abort) => {}
                (Err(panic), End::Panic) => prop_assert_eq!(panic.downcast_ref(), Some(&"as planned")),
                (Err(panic), _) => std::panic::resume_unwind(panic),
                (Ok(other), _) => prop_assert!(false, "{other:?} at {end:?}"),
            }
            prop_assert_eq!(&copy(&heap.read()), &twin);
            heap.check().expect("every block is reachable and whole");
            if end == End::Reopen {
                heap.close().expect("the region closes");
                heap = open(&path);
                prop_assert_eq!(&copy(&heap.read()), &twin);
                heap.check().expect("every block is reachable and whole");
            }
        }
    }
}

#[test]
fn large_collections_move_in_and_out_whole() {
    let folder = folder();
    let path = folder.path().join("region");
    let heap = open(&path);
    let words = || (0..20_000).map(|i| PString::from(format!("word {i}")));
    heap.update(|mut root| {
        root.words_mut().set(words().collect())?;
        root.map_mut()
            .set(words().zip((0..).map(|i| PVec::from([i; 3]))).collect())?;
        root.nested_mut().set(
            (0..100)
                .map(|i| (i, (0..50).zip(words()).collect()))
                .collect(),
        )
    })
    .unwrap();
    heap.check().unwrap();
    heap.close().unwrap();

    let heap = open(&path);
    heap.check().unwrap();
    assert!(heap.read().words.iter().eq(&words().collect::<Vec<_>>()));
    assert_eq!(heap.read().map["word 17"], [17; 3]);
    let (taken, map, nested) = heap
        .update(|mut root| {
            let taken = Mut::take(&mut root.words_mut())?;
            let map = Mut::take(&mut root.map_mut())?;
            Ok((taken, map, Mut::take(&mut root.nested_mut())?))
        })
        .unwrap();
    heap.check().unwrap();
    assert_eq!(heap.stats().live_blocks, 1, "the root's block");
    drop(heap);
    assert!(taken.into_iter().eq(words()));
    assert_eq!((map.len(), map["word 19999"][0]), (20_000, 19_999));
    assert_eq!(nested[&99][&49], "word 49");
}

#[test]
fn a_caught_panic_of_a_callback_leaves_the_collections_whole() {
    let folder = folder();
    let heap = open(&folder.path().join("region"));
    heap.update(|mut root| {
        root.words_mut()
            .extend((0..10).map(|i| PString::from(format!("word {i}"))))?;
        let mut seen = 0;
        let caught = catch_unwind(AssertUnwindSafe(|| {
            root.words_mut().retain(|_| {
                seen += 1;
                assert!(seen < 5, "in the middle");
                false
            })
        }));
        assert!(caught.is_err());
        Ok(())
    })
    .unwrap();
    assert_eq!(heap.read().words.len(), 10);
    heap.check().unwrap();
}

#[test]
fn a_full_region_is_an_error_and_changes_nothing() {
    let folder = folder();
    let heap = Heap::<PMutex<PVec<PString>>>::options()
        .max_size(8 << 20)
        .log_size(8 << 20)
        .open(folder.path().join("region"))
        .unwrap();
    let long = "x".repeat(100_000);
    let mut pushed = 0;
    let error = loop {
        match heap.update(|mut words| words.push(long.as_str().into())) {
            Ok(()) => pushed += 1,
            Err(error) => break error,
        }
        assert!(pushed < 1000, "the region is smaller");
    };
    assert!(
        matches!(error, Error::Region(_)) || error.to_string().contains("space"),
        "{error}"
    );
    assert_eq!(heap.read().len(), pushed);
    heap.check().unwrap();
    heap.update(|mut words| words.clear()).unwrap();
    heap.check().unwrap();
}

//! Operations on stored collections and the same on their `std` twins.

mod trees;

use bartender::{Mut, PBTreeMap, PBTreeSet, PHashMap, PString, PVec, Persist, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The root of the region.
#[derive(Persist, Default)]
#[repr(C)]
pub(crate) struct Root {
    pub(crate) words: PVec<PString>,
    pub(crate) numbers: PVec<u64>,
    pub(crate) text: PString,
    pub(crate) map: PHashMap<PString, PVec<u32>>,
    pub(crate) nested: PHashMap<u16, PHashMap<u8, PString>>,
    pub(crate) tree: PBTreeMap<PString, PVec<u32>>,
    pub(crate) ordered: PBTreeMap<u32, u64>,
    pub(crate) other: PBTreeMap<u32, u64>,
    pub(crate) set: PBTreeSet<PString>,
}

/// The root's twin.
#[derive(Default, Clone, Debug, PartialEq)]
pub(crate) struct Twin {
    words: Vec<String>,
    numbers: Vec<u64>,
    text: String,
    map: HashMap<String, Vec<u32>>,
    nested: HashMap<u16, HashMap<u8, String>>,
    tree: BTreeMap<String, Vec<u32>>,
    ordered: BTreeMap<u32, u64>,
    other: BTreeMap<u32, u64>,
    set: BTreeSet<String>,
}

/// A copy in the program's own types.
pub(crate) fn copy(root: &Root) -> Twin {
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
        tree: root
            .tree
            .iter()
            .map(|(k, v)| (text(k), v.to_vec()))
            .collect(),
        ordered: root.ordered.iter().map(|(k, v)| (*k, *v)).collect(),
        other: root.other.iter().rev().map(|(k, v)| (*k, *v)).collect(),
        set: root.set.iter().map(text).collect(),
    }
}

/// One operation: which, where, and with what.
pub(crate) type Op = (u8, usize, u32, String);

/// The operations on each collection; all below the last end.
pub(crate) const KINDS: [(&str, std::ops::Range<u8>); 8] = [
    ("a vector of strings", 0..14),
    ("a vector of numbers", 14..21),
    ("a string", 21..27),
    ("a map", 27..38),
    ("a map of maps", 38..45),
    ("a tree", 45..58),
    ("two trees of numbers", 58..70),
    ("an ordered set", 70..80),
];

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
    match which % 7 {
        6 => {
            ours.as_mut_slice().sort_unstable_by(|a, b| b.cmp(a));
            twin.sort_unstable_by(|a, b| b.cmp(a));
        }
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

/// Does the operation to both, and compares the answers.
pub(crate) fn apply(op: &Op, root: &mut Mut<'_, Root>, twin: &mut Twin) -> Result<()> {
    match op.0 {
        0..=13 => words(op, &mut root.words_mut(), &mut twin.words),
        14..=20 => numbers(op, &mut root.numbers_mut(), &mut twin.numbers),
        21..=26 => text(op, &mut root.text_mut(), &mut twin.text),
        27..=37 => map(op, &mut root.map_mut(), &mut twin.map),
        38..=44 => nested(op, &mut root.nested_mut(), &mut twin.nested),
        45..=57 => trees::tree(op, &mut root.tree_mut(), &mut twin.tree),
        58..=69 => trees::numbers(op, root, &mut twin.ordered, &mut twin.other),
        _ => trees::set(op, &mut root.set_mut(), &mut twin.set),
    }
}

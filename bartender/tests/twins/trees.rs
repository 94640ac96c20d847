//! Operations on stored trees and the same on `std`'s.

use super::{Op, Root, RootFieldsMut};
use bartender::btree_map::StoredEntry;
use bartender::{Mut, PBTreeMap, PBTreeSet, PString, PVec, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

fn key(at: usize) -> String {
    format!("k{}", at * 7 % 64)
}

pub(super) fn tree(
    op: &Op,
    ours: &mut Mut<'_, PBTreeMap<PString, PVec<u32>>>,
    twin: &mut BTreeMap<String, Vec<u32>>,
) -> Result<()> {
    let (which, at, number, text) = op;
    let key = key(*at);
    let ours_key = || PString::from(key.as_str());
    match (which - 45) % 13 {
        0 | 1 => {
            let old = ours.insert(ours_key(), PVec::from([*number]))?;
            assert_eq!(old.map(PVec::into_vec), twin.insert(key, vec![*number]));
        }
        2 => {
            // Several levels at once.
            let many = || (0..*number % 70).map(|i| (format!("k{}", i * 37 % 101), i));
            ours.extend(many().map(|(k, i)| (k.as_str().into(), PVec::from([i]))))?;
            twin.extend(many().map(|(k, i)| (k, vec![i])));
        }
        3 | 4 => assert_eq!(
            ours.remove(key.as_str())?.map(PVec::into_vec),
            twin.remove(&key)
        ),
        5 => {
            ours.entry(ours_key()).or_default()?.push(*number)?;
            twin.entry(key).or_default().push(*number);
        }
        6 => {
            match ours.entry(ours_key()) {
                StoredEntry::Occupied(entry) => drop(entry.remove_entry()?),
                StoredEntry::Vacant(entry) => entry.insert(PVec::from([1]))?.push(2)?,
            }
            if twin.remove(&key).is_none() {
                twin.insert(key, vec![1, 2]);
            }
        }
        7 => {
            let plain = |(k, v): (PString, PVec<u32>)| (k.into_string(), v.into_vec());
            assert_eq!(ours.pop_first()?.map(plain), twin.pop_first());
            assert_eq!(ours.pop_last()?.map(plain), twin.pop_last());
        }
        8 => {
            let keep =
                |v: &[u32]| v.iter().fold(0, |a: u32, n| a.wrapping_add(*n)) % 3 != number % 3;
            if number % 2 == 0 {
                ours.retain(|_, v| keep(&v))?;
                twin.retain(|_, v| keep(v));
                return Ok(());
            }
            let gone = ours.extract_if(ours_key().., |_, v| !keep(&v))?;
            let plain = |(k, v): (PString, PVec<u32>)| (k.into_string(), v.into_vec());
            let gone: BTreeMap<_, _> = gone.map(plain).collect();
            assert!(
                twin.range(key.clone()..)
                    .filter(|(_, v)| !keep(v))
                    .eq(&gone)
            );
            twin.retain(|k, v| *k < key || keep(v));
        }
        9 if text.is_empty() => {
            ours.clear()?;
            twin.clear();
        }
        10 => {
            for (_, mut value) in
                ours.range_mut::<str, _>((Bound::Included(&*key), Bound::Unbounded))
            {
                value.push(7)?;
            }
            twin.range_mut(key..).for_each(|(_, value)| value.push(7));
        }
        11 => {
            // A value moves to another key, and what was there to the end.
            if let Some(moved) = ours.remove_moved(key.as_str())? {
                let old = ours.insert_moved("k0".into(), moved)?;
                if let Some(old) = old {
                    ours.insert_moved("last".into(), old)?;
                }
            }
            if let Some(moved) = twin.remove(&key)
                && let Some(old) = twin.insert("k0".into(), moved)
            {
                twin.insert("last".into(), old);
            }
        }
        _ => {
            // Out of the region, changed as an owned value, and in again.
            let mut taken = Mut::take(ours)?;
            taken.extend([(ours_key(), PVec::from([*number]))]);
            taken.remove("last");
            ours.set(taken)?;
            twin.insert(key, vec![*number]);
            twin.remove("last");
        }
    }
    Ok(())
}

pub(super) fn numbers(
    op: &Op,
    root: &mut Mut<'_, Root>,
    twin: &mut BTreeMap<u32, u64>,
    other: &mut BTreeMap<u32, u64>,
) -> Result<()> {
    let (which, at, number, _) = op;
    let (key, value) = (*number % 400, *at as u64);
    match (which - 58) % 12 {
        0..=2 => {
            let old = root.ordered_mut().insert(key, value)?;
            assert_eq!(old, twin.insert(key, value));
        }
        3 | 4 => {
            let many = || (0..*at as u32 * 5).map(|i| ((key + i * 13) % 400, u64::from(i)));
            root.ordered_mut().extend(many())?;
            twin.extend(many());
        }
        5 => assert_eq!(root.ordered_mut().remove(&key)?, twin.remove(&key)),
        6 => {
            let mut ours = root.ordered_mut();
            for key in key..key + 60 {
                assert_eq!(ours.remove(&key)?, twin.remove(&key));
            }
        }
        7 => {
            let moved = root.ordered_mut().split_off_moved(&key)?;
            root.other_mut().set_moved(moved)?;
            *other = twin.split_off(&key);
        }
        8 => {
            let mut parts = root.project();
            parts.ordered.append(&mut parts.other)?;
            twin.append(other);
        }
        9 => {
            root.other_mut()
                .extend((0..*at as u32).map(|i| (i * 31 % 400, value)))?;
            other.extend((0..*at as u32).map(|i| (i * 31 % 400, value)));
        }
        10 => {
            for mut value in root.ordered_mut().values_mut() {
                *value += 1;
            }
            twin.values_mut().for_each(|value| *value += 1);
        }
        _ => {
            let copy = root.ordered.clone();
            assert_eq!(&copy, &*twin);
            assert!(root.ordered.range(..key).eq(twin.range(..key)));
        }
    }
    Ok(())
}

pub(super) fn set(
    op: &Op,
    ours: &mut Mut<'_, PBTreeSet<PString>>,
    twin: &mut BTreeSet<String>,
) -> Result<()> {
    let (which, at, number, _) = op;
    let key = key(*at);
    match (which - 70) % 10 {
        0 | 1 => assert_eq!(ours.insert(key.as_str().into())?, twin.insert(key)),
        2 => assert_eq!(ours.remove(key.as_str())?, twin.remove(&key)),
        3 => {
            let many = || (0..*number % 50).map(|i| format!("k{i}"));
            ours.extend(many().map(PString::from))?;
            twin.extend(many());
        }
        4 => {
            ours.retain(|value| value.len() % 2 == usize::from(number.is_multiple_of(2)))?;
            twin.retain(|value| value.len() % 2 == usize::from(number.is_multiple_of(2)));
        }
        5 => {
            let many = |value: &str| value.len() % 3 == *at % 3;
            let gone = ours.extract_if(.., |value| many(value))?;
            let gone: Vec<_> = gone.map(PString::into_string).collect();
            assert!(twin.iter().filter(|value| many(value)).eq(&gone));
            twin.retain(|value| !many(value));
        }
        6 => {
            let above = ours.split_off_moved(key.as_str())?;
            let twins = twin.split_off(&key);
            let above = above.into_owned()?;
            assert!(
                above
                    .iter()
                    .map(|value| &**value)
                    .eq(twins.iter().map(String::as_str))
            );
            ours.extend(above.into_iter().skip(1))?;
            twin.extend(twins.into_iter().skip(1));
        }
        7 => {
            // Out, and in again: once more, it is there already.
            if let Some(moved) = ours.remove_moved(key.as_str())? {
                assert!(ours.insert_moved(moved)?);
            }
            if let Some(first) = ours.pop_first_moved()? {
                ours.insert(twin.first().expect("is there").as_str().into())?;
                assert!(!ours.insert_moved(first)?);
            }
        }
        8 => {
            let last = ours.pop_last_moved()?;
            let last = last.map(|last| last.into_owned()).transpose()?;
            assert_eq!(last.map(PString::into_string), twin.pop_last());
        }
        _ => {
            assert_eq!(
                ours.pop_first()?.map(PString::into_string),
                twin.pop_first()
            );
            assert_eq!(
                ours.take_value(key.as_str())?.map(PString::into_string),
                twin.take(&key)
            );
        }
    }
    Ok(())
}

//! What stored vectors and strings have of their `std` twins beyond pushing and popping: order, parts, several elements at a
//! time. The same operations on both, with aborts and reopens.
#![cfg(not(loom))]

use bartender::{Error, Heap, Mut, PMutex, PString, PVec, Persist, Result};
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;

#[derive(Persist, Default)]
#[repr(C)]
struct Root {
    words: PVec<PString>,
    other: PVec<PString>,
    numbers: PVec<u64>,
    locks: PVec<PMutex<u64>>,
}

fn open(path: &std::path::Path) -> Heap<PMutex<Root>> {
    let options = Heap::options().max_size(16 << 20).log_size(4 << 20);
    options.open(path).expect("the region opens")
}

type Op = (u8, usize, u8);

fn text(n: usize) -> String {
    format!("word {}", n * 7 % 23)
}

fn ours(n: usize) -> PString {
    text(n).into()
}

fn apply(op: Op, root: &mut Mut<'_, Root>, twin: &mut Vec<String>) -> Result<()> {
    let fields = root.project();
    let (mut words, mut other) = (fields.words, fields.other);
    let (op, at, n) = op;
    let len = twin.len();
    let (a, b) = (at % (len + 1), (at + usize::from(n)) % (len + 1));
    let (from, to) = (a.min(b), a.max(b));
    match op {
        0..=3 => {
            words.extend((at..at + 5).map(ours))?;
            twin.extend((at..at + 5).map(text));
        }
        4 => {
            words.sort()?;
            twin.sort();
        }
        5 => {
            words.sort_by(|a, b| a.len().cmp(&b.len()))?;
            twin.sort_by_key(String::len);
        }
        6 => {
            words.sort_by_cached_key(|word| std::cmp::Reverse(word.len()))?;
            twin.sort_by_cached_key(|word| std::cmp::Reverse(word.len()));
        }
        7 => {
            words.sort_unstable_by(|a, b| b.cmp(a))?;
            twin.sort_unstable_by(|a, b| b.cmp(a));
        }
        8 => {
            words.reverse()?;
            twin.reverse();
        }
        9 => {
            words.rotate_left(a)?;
            twin.rotate_left(a);
        }
        10 => {
            words.rotate_right(a)?;
            twin.rotate_right(a);
        }
        11 => {
            let gone: Vec<_> = words.drain(from..to)?.map(String::from).collect();
            assert_eq!(gone, twin.drain(from..to).collect::<Vec<_>>());
        }
        12 => {
            let gone = words.extract_if(|word| word.len() % 2 == 0)?;
            let twin_gone: Vec<_> = twin.extract_if(.., |word| word.len() % 2 == 0).collect();
            assert_eq!(gone.map(String::from).collect::<Vec<_>>(), twin_gone);
        }
        13 => {
            let gone = words.splice(from..to, (0..3).map(ours))?;
            let twin_gone: Vec<_> = twin.splice(from..to, (0..3).map(text)).collect();
            assert_eq!(gone.map(String::from).collect::<Vec<_>>(), twin_gone);
        }
        14 => {
            words.dedup()?;
            twin.dedup();
        }
        15 => {
            words.dedup_by_key(|word| word.len())?;
            twin.dedup_by_key(|word| word.len());
        }
        16 => {
            words.resize(at, ours(at))?;
            twin.resize(at, text(at));
        }
        17 => {
            // The second part to the other vector, and all of it back behind the first.
            let part = words.split_off(a)?;
            other.set_moved(part)?;
            assert_eq!((words.len(), other.len()), (a, len - a));
            other.append(&mut words)?;
            words.append(&mut other)?;
            twin.rotate_left(a);
        }
        18 => words.shrink_to_fit()?,
        19 if len > 1 => {
            let (a, b) = (at % len, (at + 1) % len);
            let (mut x, mut y) = words.pair_mut(a, b);
            x.push('x')?;
            y.push('y')?;
            twin[a].push('x');
            twin[b].push('y');
        }
        20 if len > 0 => {
            let at = at % len;
            let mut word = words.get_mut(at).expect("there");
            string(n, &mut word, &mut twin[at])?;
        }
        _ => {
            let (mut front, mut back) = words.split_at_mut(a);
            if let (Some(mut x), Some(mut y)) = (front.last_mut(), back.last_mut()) {
                Mut::swap(&mut x, &mut y)?;
                twin.swap(a - 1, len - 1);
            }
        }
    }
    assert!(words.iter().eq(&*twin), "{op}: {words:?} {twin:?}");
    Ok(())
}

fn string(n: u8, ours: &mut Mut<'_, PString>, twin: &mut String) -> Result<()> {
    use std::fmt::Write;
    let at = usize::from(n / 8).min(twin.len());
    match n % 8 {
        0 => {
            let gone = ours.drain(at..)?;
            assert_eq!(gone, twin.drain(at..).collect::<String>());
        }
        1 => {
            ours.replace_range(..at, "äh")?;
            twin.replace_range(..at, "äh");
            // Characters of one byte, so that any index will do elsewhere.
            ours.retain(|c| c.is_ascii())?;
            twin.retain(|c| c.is_ascii());
        }
        2 => {
            ours.make_ascii_uppercase();
            twin.make_ascii_uppercase();
        }
        3 => {
            ours.make_ascii_lowercase();
            twin.make_ascii_lowercase();
        }
        4 => {
            let part = ours.split_off(at)?.into_owned()?;
            assert_eq!(part, twin.split_off(at));
        }
        5 => {
            write!(ours, "{n:>3}").expect("room");
            write!(twin, "{n:>3}").expect("room");
        }
        6 => {
            ours.extend(["a", "b"])?;
            twin.extend(["a", "b"]);
        }
        _ => {
            ours.retain(|c| c != 'o')?;
            twin.retain(|c| c != 'o');
            ours.shrink_to_fit()?;
        }
    }
    assert_eq!(**ours, *twin);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stored_vectors_and_strings_are_like_their_twins(
        transactions in prop::collection::vec(
            (prop::collection::vec((0..23u8, 0..30usize, any::<u8>()), 0..14), 0..6u8), 1..12),
    ) {
        let place = places::place();
        let mut heap = open(place.region());
        let mut twin = Vec::new();
        for (ops, end) in transactions {
            let mut next = twin.clone();
            let done = heap.update(|mut root| {
                ops.iter().try_for_each(|op| apply(*op, &mut root, &mut next))?;
                match end {
                    0 | 1 => Err(Error::abort("as planned")),
                    _ => Ok(()),
                }
            });
            match (done, end) {
                (Err(Error::Aborted(_)), 0 | 1) => {}
                (done, _) => {
                    done.unwrap();
                    twin = next;
                }
            }
            prop_assert!(heap.read().words.iter().eq(&twin));
            heap.check().unwrap();
            if end == 2 {
                heap.close().unwrap();
                heap = open(place.region());
                prop_assert!(heap.read().words.iter().eq(&twin));
            }
        }
    }
}

#[test]
fn a_comparison_that_panics_leaves_the_elements_in_their_order() {
    let place = places::place();
    let heap = open(place.region());
    heap.update(|mut root| root.words_mut().extend((0..50).map(ours)))
        .unwrap();
    heap.update(|mut root| {
        let mut words = root.words_mut();
        let mut calls = 0;
        for which in 0..4 {
            calls = 0;
            let mut compare = |a: &PString, b: &PString| {
                calls += 1;
                assert!(calls < 40, "in the middle");
                a.cmp(b)
            };
            let caught = catch_unwind(AssertUnwindSafe(|| match which {
                0 => words.sort_by(compare),
                1 => words.sort_unstable_by(compare),
                2 => words.dedup_by(|a, b| compare(a, b).is_eq()),
                _ => words
                    .extract_if(|word| compare(&word, &word).is_eq())
                    .map(drop),
            }));
            assert!(caught.is_err());
            assert!(words.iter().eq(&(0..50).map(text).collect::<Vec<_>>()));
        }
        assert!(calls >= 40);
        Ok(())
    })
    .unwrap();
    assert_eq!(heap.read().words.len(), 50);
    heap.check().unwrap();
}

#[test]
fn plain_elements_are_filled_and_repeated_and_locks_are_sorted() {
    let place = places::place();
    let heap = open(place.region());
    heap.update(|mut root| {
        let mut numbers = root.numbers_mut();
        numbers.extend_from_slice(&[3, 1, 2])?;
        numbers.extend_from_within(1..)?;
        numbers.as_slice_mut().split_at_mut(1).1.fill(8);
        numbers.extend_from_within(..1)?;
        numbers.sort_unstable_by_key(|n| std::cmp::Reverse(*n))?;
        let mut locks = root.locks_mut();
        locks.extend((0..20).map(PMutex::from))?;
        locks.reverse()?;
        locks.split_off(15)?.into_owned()?;
        locks.drain(..2).map(drop)
    })
    .unwrap();
    assert_eq!(heap.read().numbers, [8, 8, 8, 8, 3, 3]);
    let values = heap
        .update(|mut root| {
            let mut locks = root.locks_mut();
            Ok(locks
                .iter_mut()
                .map(|mut n| *n.project())
                .collect::<Vec<_>>())
        })
        .unwrap();
    assert_eq!(values, (5..18).rev().collect::<Vec<_>>());
    heap.check().unwrap();
}

#[test]
fn what_is_of_another_heap_is_not_appended() {
    let (one, other) = (places::place(), places::place());
    let (one, other) = (open(one.region()), open(other.region()));
    one.update(|mut root| root.words_mut().extend((0..3).map(ours)))
        .unwrap();
    let refused = one.update(|mut root| {
        other.update(|mut foreign| {
            let error = foreign.words_mut().append(&mut root.words_mut());
            assert!(matches!(error, Err(Error::ForeignValue)));
            Ok(())
        })
    });
    refused.unwrap();
    assert_eq!((one.read().words.len(), other.read().words.len()), (3, 0));
}

#[test]
fn owned_vectors_and_strings_have_the_same_methods() {
    let mut vec: PVec<PString> = (0..20).map(ours).collect();
    let mut twin: Vec<String> = (0..20).map(text).collect();
    assert!(vec.drain(3..7).eq(twin.drain(3..7)));
    assert!(
        vec.splice(1..4, (0..6).map(ours))
            .eq(twin.splice(1..4, (0..6).map(text)))
    );
    assert!(
        vec.extract_if(2.., |w| w.len() > 6)
            .eq(twin.extract_if(2.., |w| w.len() > 6))
    );
    vec.sort();
    twin.sort();
    vec.dedup_by_key(|w| w.len());
    twin.dedup_by_key(|w| w.len());
    vec.extend_from_within(..1);
    twin.extend_from_within(..1);
    vec.dedup_by(|a, b| a == b);
    twin.dedup_by(|a, b| a == b);
    vec.resize(9, ours(1));
    twin.resize(9, text(1));
    vec.resize_with(11, PString::new);
    twin.resize_with(11, String::new);
    vec.retain_mut(|w| !w.is_empty());
    twin.retain_mut(|w| !w.is_empty());
    assert!(vec.pop_if(|w| w.is_empty()).is_none());
    vec.shrink_to(0);
    vec.reserve_exact(1);
    assert_eq!(vec, twin);
    assert_eq!(twin, vec);
    assert_eq!(
        vec.clone().into_boxed_slice().len(),
        Box::<[PString]>::from(vec.clone()).len()
    );
    assert!(<[PString; 3]>::try_from(vec.clone()).is_err());
    assert_eq!(<[u8; 2]>::try_from(PVec::from("ab")), Ok(*b"ab"));
    let mut bytes = PVec::new();
    std::io::Write::write_all(&mut bytes, b"xy").expect("memory");
    assert_eq!(bytes, b"xy");

    let mut name = PString::from("Grace Hopper");
    assert_eq!(name.drain(..6), "Grace ");
    name.replace_range(1..2, "öö");
    assert_eq!(name.split_off(5), "pper");
    name.extend_from_within(..1);
    name.extend([PString::from("!"), "?".into()]);
    name.make_ascii_lowercase();
    assert_eq!(name, "hööh!?");
    assert_eq!(
        PString::from_utf8(name.clone().into_bytes()).as_ref(),
        Ok(&name)
    );
    assert_eq!(PString::from_utf8_lossy(b"a\xff"), "a\u{fffd}");
    assert_eq!(&*name.into_boxed_str(), "hööh!?");
}

#[derive(Persist, Default)]
#[repr(C)]
struct Wrapped {
    around: std::num::Wrapping<u8>,
    full: std::num::Saturating<i32>,
    order: PVec<std::cmp::Reverse<PString>>,
    last: Option<std::cmp::Ordering>,
    from: Option<(std::net::Ipv4Addr, std::net::Ipv6Addr)>,
    nested: Option<Option<Option<u8>>>,
    took: std::time::Duration,
    waited: Option<std::time::Duration>,
    many: PVec<[u16; 1000]>,
}

#[test]
fn small_types_of_std_are_stored() {
    use std::cmp::{Ordering, Reverse};
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;
    let place = places::place();
    let open = || {
        Heap::<PMutex<Wrapped>>::options()
            .max_size(8 << 20)
            .open(place.region())
    };
    let addresses = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    let heap = open().unwrap();
    heap.update(|mut root| {
        *root.around_mut() -= 1;
        *root.full_mut() += i32::MAX;
        root.order_mut().extend((0..3).map(|n| Reverse(ours(n))))?;
        root.order_mut().sort()?;
        root.order_mut()
            .first_mut()
            .expect("there")
            .project()
            .push('!')?;
        root.last_mut().set(Some(Ordering::Less))?;
        root.from_mut().set(Some(addresses))?;
        root.many_mut().push([7; 1000])?;
        root.took_mut().set(Duration::new(u64::MAX, 999_999_999))?;
        root.waited_mut().set(Some(Duration::from_millis(1500)))?;
        root.nested_mut().set(Some(Some(None)))
    })
    .unwrap();
    heap.check().unwrap();
    heap.close().unwrap();
    let heap = open().unwrap();
    heap.check().unwrap();
    let root = heap.read();
    assert_eq!(
        (root.around.0, root.full.0, root.many[0][999]),
        (255, i32::MAX, 7)
    );
    assert_eq!(
        (root.last, root.from),
        (Some(Ordering::Less), Some(addresses))
    );
    assert_eq!(root.nested, Some(Some(None)));
    let times = (root.took, root.waited);
    assert_eq!(times, (Duration::MAX, Some(Duration::from_millis(1500))));
    assert!(root.order[0].0.ends_with('!') && root.order[1].0 > root.order[2].0);
}

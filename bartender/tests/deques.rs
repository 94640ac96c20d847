//! Deques against `std`'s: owned, stored with aborts, panics and reopens, and through crashes on the simulated medium.
#![cfg(not(loom))]

use bartender::{Error, Heap, Mut, PMutex, PString, PVec, PVecDeque, Persist, Result};
use bartender_pm::medium::sim::{Bound, Image, Rng, SimKind, SimMedium, SimMemory};
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;

type Op = (u8, usize, u8);

fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec((0..26u8, 0..40usize, any::<u8>()), 0..most)
}

fn text(n: u8) -> String {
    format!("element number {n}")
}

fn ours(n: u8) -> PString {
    text(n).into()
}

/// The operations that owned and stored deques have in common, on both. `$try` is what a stored one's results need.
macro_rules! common {
    ($deque:ident, $twin:ident, $op:expr, |$result:ident| $try:expr) => {{
        macro_rules! run {
            ($call:expr) => {{
                let $result = $call;
                $try
            }};
        }
        let (op, at, n) = $op;
        let len = $twin.len();
        let (low, high) = (at % (len + 1), (at + usize::from(n)) % (len + 1));
        let range = low.min(high)..low.max(high);
        match op {
            0..=3 => {
                run!($deque.push_back(ours(n)));
                $twin.push_back(text(n));
            }
            4..=6 => {
                run!($deque.push_front(ours(n)));
                $twin.push_front(text(n));
            }
            7 => assert_eq!(run!($deque.pop_back()).map(String::from), $twin.pop_back()),
            8 => assert_eq!(
                run!($deque.pop_front()).map(String::from),
                $twin.pop_front()
            ),
            9 | 10 => {
                run!($deque.insert(at % (len + 1), ours(n)));
                $twin.insert(at % (len + 1), text(n));
            }
            11 | 12 => assert_eq!(run!($deque.remove(at)).map(String::from), $twin.remove(at)),
            13 => assert_eq!(
                run!($deque.swap_remove_back(at)).map(String::from),
                $twin.swap_remove_back(at)
            ),
            14 => assert_eq!(
                run!($deque.swap_remove_front(at)).map(String::from),
                $twin.swap_remove_front(at)
            ),
            15 if n < 60 => {
                run!($deque.truncate(at));
                $twin.truncate(at);
            }
            16 | 17 => {
                run!($deque.rotate_left(at % (len + 1)));
                $twin.rotate_left(at % (len + 1));
            }
            18 => {
                run!($deque.rotate_right(at % (len + 1)));
                $twin.rotate_right(at % (len + 1));
            }
            19 if n < 60 => {
                run!($deque.retain(|e| e.len() % 2 == 0));
                $twin.retain(|e| e.len() % 2 == 0);
            }
            20 => {
                let drained: Vec<String> = run!($deque.drain(range.clone()))
                    .map(String::from)
                    .collect();
                assert_eq!(drained, $twin.drain(range).collect::<Vec<_>>());
            }
            21 => {
                run!($deque.resize(at, ours(n)));
                $twin.resize(at, text(n));
            }
            22 if n < 80 => run!($deque.shrink_to_fit()),
            23 => run!($deque.reserve(at)),
            24 if n < 10 => {
                run!($deque.clear());
                $twin.clear();
            }
            25 => {
                run!($deque.make_contiguous());
                assert!($deque.as_slices().1.is_empty());
            }
            _ => {
                run!($deque.extend((0..3).map(ours)));
                $twin.extend((0..3).map(text));
            }
        }
        assert_eq!(*$deque, *$twin);
    }};
}

fn owned(op: Op, deque: &mut PVecDeque<PString>, twin: &mut VecDeque<String>) {
    common!(deque, twin, op, |result| result);
    let (_, at, n) = op;
    let len = twin.len();
    let (from, to) = (at.min(len), (at + usize::from(n % 8)).min(len));
    assert!(deque.iter().rev().eq(twin.iter().rev()));
    assert!(deque.range(from..to).eq(twin.range(from..to)));
    assert!(deque.range(from..to).rev().eq(twin.range(from..to).rev()));
    assert_eq!(
        deque.get(at).map(|e| e.as_str()),
        twin.get(at).map(|e| e.as_str())
    );
    assert_eq!(deque.iter().nth(at).is_some(), at < len);
    if n % 8 == 0 {
        deque.iter_mut().for_each(|e| e.push('!'));
        twin.iter_mut().for_each(|e| e.push('!'));
        deque.range_mut(from..to).rev().for_each(|e| e.push('?'));
        twin.range_mut(from..to).rev().for_each(|e| e.push('?'));
        let mut part = deque.split_off(at.min(len));
        let mut twin_part = twin.split_off(at.min(len));
        assert_eq!(part, twin_part);
        part.append(deque);
        twin_part.append(twin);
        (*deque, *twin) = (part, twin_part);
        assert_eq!(deque, twin);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_owned_deque_is_like_its_twin(ops in ops(80)) {
        let mut deque = PVecDeque::new();
        let mut twin = VecDeque::new();
        for op in ops {
            owned(op, &mut deque, &mut twin);
        }
        prop_assert_eq!(format!("{deque:?}"), format!("{twin:?}"));
        prop_assert_eq!(&deque.clone(), &deque);
        let copy = PVecDeque::from(Vec::from(deque.clone()));
        let hasher = RandomState::new();
        prop_assert_eq!(hasher.hash_one(&copy), hasher.hash_one(&deque));
        prop_assert!(copy.cmp(&deque).is_eq() && copy.partial_cmp(&deque).is_some());
        prop_assert_eq!(PVec::from(deque.clone()).len(), twin.len());
        prop_assert_eq!(VecDeque::from(deque.clone()), Vec::from(deque.clone()));
        prop_assert_eq!(PVecDeque::from(twin.clone()), twin.clone());
        let mut both = (deque.into_iter(), twin.into_iter());
        loop {
            prop_assert_eq!(both.0.len(), both.1.len());
            prop_assert_eq!(both.0.next_back().map(String::from), both.1.next_back());
            let (a, b) = (both.0.next(), both.1.next());
            prop_assert_eq!(a.map(String::from), b.clone());
            if b.is_none() {
                break;
            }
        }
    }

    #[test]
    fn searches_find_what_std_finds(mut values in prop::collection::vec(0..30u32, 0..30), turn in 0..30usize, key in 0..30u32) {
        values.sort_unstable();
        let mut deque: PVecDeque<u32> = values.iter().copied().collect();
        // The same order, but from another place on.
        for _ in 0..turn.min(values.len()) {
            let first = deque.pop_front().expect("there");
            deque.push_back(first);
        }
        deque.rotate_right(turn.min(values.len()));
        let twin: VecDeque<u32> = values.into_iter().collect();
        prop_assert_eq!(&deque, &twin);
        prop_assert_eq!(deque.binary_search(&key).is_ok(), twin.binary_search(&key).is_ok());
        prop_assert_eq!(deque.partition_point(|n| *n < key), twin.partition_point(|n| *n < key));
        prop_assert_eq!(deque.contains(&key), twin.contains(&key));
        prop_assert_eq!(
            deque.binary_search_by_key(&(key * 2), |n| n * 2).is_err(),
            twin.binary_search_by_key(&(key * 2), |n| n * 2).is_err()
        );
    }

    #[test]
    fn a_stored_deque_is_like_its_twin(transactions in prop::collection::vec((ops(14), 0..6u8), 1..12)) {
        let place = places::place();
        let mut heap = open(place.region());
        let mut twin = VecDeque::new();
        for (ops, end) in transactions {
            let mut next = twin.clone();
            let done = catch_unwind(AssertUnwindSafe(|| heap.update(|mut root| {
                ops.iter().try_for_each(|op| stored(*op, &mut root, &mut next))?;
                match end {
                    0 => Err(Error::abort("as planned")),
                    1 => std::panic::resume_unwind(Box::new("as planned")),
                    _ => Ok(()),
                }
            })));
            match (done, end) {
                (Ok(Err(Error::Aborted(_))), 0) => {}
                (Err(panic), 1) if panic.is::<&str>() => {}
                (Err(panic), _) => std::panic::resume_unwind(panic),
                (Ok(done), _) => {
                    done.unwrap();
                    twin = next;
                }
            }
            prop_assert_eq!(&heap.read().deque, &twin);
            heap.check().unwrap();
            if end == 2 {
                heap.close().unwrap();
                heap = open(place.region());
                prop_assert_eq!(&heap.read().deque, &twin);
            }
        }
    }
}

#[derive(Persist, Default)]
#[repr(C)]
struct Root {
    deque: PVecDeque<PString>,
    other: PVecDeque<PString>,
    numbers: PVecDeque<u64>,
}

fn open(path: &std::path::Path) -> Heap<PMutex<Root>> {
    let options = Heap::options().max_size(16 << 20).log_size(4 << 20);
    options.open(path).expect("the region opens")
}

fn stored(op: Op, root: &mut Mut<'_, Root>, twin: &mut VecDeque<String>) -> Result<()> {
    let fields = root.project();
    let (mut deque, mut other) = (fields.deque, fields.other);
    common!(deque, twin, op, |result| result?);
    let (_, at, n) = op;
    let at = at.min(twin.len());
    match n % 8 {
        0 => {
            for mut element in deque.iter_mut().rev() {
                element.push('!')?;
            }
            twin.iter_mut().for_each(|element| element.push('!'));
        }
        1 => {
            // The second part goes to the other place, and comes back in front.
            let part = deque.split_off(at)?;
            other.set_moved(part)?;
            other.append(&mut deque)?;
            assert!(deque.is_empty());
            Mut::swap(&mut deque, &mut other)?;
            twin.rotate_left(at);
        }
        2 if at < twin.len() => {
            let moved = deque.remove_moved(at)?.expect("there");
            let twin_moved = twin.remove(at).expect("there");
            let to = usize::from(n / 8).min(twin.len());
            deque.insert_moved(to, moved)?;
            twin.insert(to, twin_moved);
        }
        3 => {
            if let Some(moved) = deque.pop_back_moved()? {
                deque.push_front_moved(moved)?;
                twin.rotate_right(1);
            }
            if let Some(moved) = deque.pop_front_moved()? {
                deque.push_back_moved(moved)?;
                twin.rotate_left(1);
            }
        }
        4 => {
            // Out of the region and in again.
            let taken = Mut::take(&mut deque)?;
            deque.set(taken)?;
        }
        5 if at < twin.len() => deque.swap_elements(at, 0).map(|()| twin.swap(at, 0))?,
        _ => {}
    }
    assert_eq!(*deque, *twin);
    Ok(())
}

#[test]
fn no_crash_tears_a_deque() {
    const TRANSACTIONS: u64 = 30;
    let operations = |k: u64| -> Vec<Op> {
        let mut rng = Rng(0xdec << 32 | k << 8);
        let mut op = || {
            (
                rng.below(26) as u8,
                rng.below(12) as usize,
                rng.draw() as u8,
            )
        };
        (0..1 + k % 3).map(|_| op()).collect()
    };
    let open = |medium| {
        let mut region = bartender_pm::Options::new();
        region
            .max_size(8 << 20)
            .log_size(256 << 10)
            .lanes(1)
            .background(false);
        Heap::<PMutex<Root>>::options().open_region(region.open_on(medium)?, Default::default)
    };
    let step = |heap: &Heap<PMutex<Root>>, k: u64, twin: &mut VecDeque<String>| {
        let ops = operations(k);
        heap.update(|mut root| ops.iter().try_for_each(|op| stored(*op, &mut root, twin)))
    };
    for kind in [SimKind::Dax, SimKind::Disk] {
        let memory = SimMemory::new(8 << 20);
        let medium = SimMedium::new(kind, Image::default(), &memory);
        let heap = open(medium.clone()).unwrap();
        medium.note(0);
        let mut twin = VecDeque::new();
        let mut states = vec![twin.clone()];
        for k in 1..=TRANSACTIONS {
            step(&heap, k, &mut twin).unwrap();
            states.push(twin.clone());
            medium.note(k);
            if k % 9 == 0 {
                heap.checkpoint().unwrap();
            }
        }
        heap.close().unwrap();
        let trace = medium.trace();
        drop(medium);
        let bound = Bound {
            images_per_point: 24,
            ..Bound::default()
        };
        let explored = trace.explore(bound, |crash| -> Result<(), String> {
            let medium = SimMedium::new(kind, crash.image, &memory);
            medium.stop_recording();
            let opened = open(medium);
            let Some(&told) = crash.notes.last() else {
                return Ok(());
            };
            let heap = opened.map_err(|error| error.to_string())?;
            heap.check().map_err(|error| error.to_string())?;
            let found = states[told as usize..].iter().take(2);
            let guard = heap.read();
            let Some(found) = found.into_iter().find(|state| guard.deque == **state) else {
                return Err(format!("after {told} transactions: {:?}", guard.deque));
            };
            drop(guard);
            let mut twin = found.clone();
            step(&heap, 99, &mut twin).map_err(|error| error.to_string())?;
            heap.check().map(drop).map_err(|error| error.to_string())
        });
        explored.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
    }
}

#[test]
fn plain_numbers_are_written_in_slices() {
    let place = places::place();
    let heap = open(place.region());
    heap.update(|mut root| {
        let mut numbers = root.numbers_mut();
        numbers.extend_from_slice(&[3, 4, 5])?;
        numbers.push_front(2)?;
        numbers.extend_from_slice(&[6; 10])?;
        numbers.push_front(1)?;
        let (front, back) = numbers.as_mut_slices();
        front.iter_mut().chain(back).for_each(|n| *n *= 10);
        numbers.make_contiguous()?;
        numbers.as_mut_slices().0[..5].sort_unstable_by(|a, b| b.cmp(a));
        Ok(())
    })
    .unwrap();
    assert!(heap.read().numbers.range(..6).eq(&[50, 40, 30, 20, 10, 60]));
}

#[test]
fn locks_inside_elements_move_with_them() {
    let place = places::place();
    let heap = Heap::<PMutex<PVecDeque<PMutex<u64>>>>::options()
        .max_size(16 << 20)
        .open(place.region())
        .unwrap();
    heap.update(|mut deque| deque.extend((0..20).map(PMutex::from)))
        .unwrap();
    heap.update(|mut deque| {
        *deque.get_mut(10).unwrap().project() += 100;
        deque.insert(3, PMutex::from(7))?;
        assert_eq!(deque.remove(1)?.map(PMutex::into_inner), Some(1));
        deque.rotate_left(5)?;
        deque.retain(|mut n| *n.project() % 3 != 0)?;
        deque.truncate(9)?;
        let part = deque.split_off(4)?;
        deque.push_front(PMutex::from(500))?;
        let part = part.into_owned()?;
        deque.extend(part)
    })
    .unwrap();
    heap.check().unwrap();
    let sum = heap
        .update(|mut deque| Ok(deque.iter_mut().map(|mut n| *n.project()).sum::<u64>()))
        .unwrap();
    assert!(sum > 600, "{sum}");
}

/// Counts its drops, and panics in one of them.
struct Mine(Rc<Cell<u32>>, bool);

impl Drop for Mine {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
        assert!(!self.1, "in a drop");
    }
}

#[test]
fn elements_are_dropped_once_also_when_one_panics() {
    for mine in 0..8 {
        for clear in [false, true] {
            let dropped = Rc::new(Cell::new(0));
            let mut deque = PVecDeque::with_capacity(8);
            for i in 0..5 {
                deque.push_back(Mine(dropped.clone(), i == mine));
            }
            for i in 5..8 {
                deque.push_front(Mine(dropped.clone(), i == mine));
            }
            let caught = catch_unwind(AssertUnwindSafe(|| match clear {
                true => deque.clear(),
                false => drop(deque),
            }));
            assert!(caught.is_err());
            assert_eq!(dropped.get(), 8);
        }
    }
    let dropped = Rc::new(Cell::new(0));
    let mut deque: PVecDeque<_> = (0..6).map(|_| Mine(dropped.clone(), false)).collect();
    let mut seen = 0;
    let caught = catch_unwind(AssertUnwindSafe(|| {
        deque.retain(|_| {
            seen += 1;
            assert!(seen < 5, "in the middle");
            seen % 2 == 0
        });
    }));
    assert!(caught.is_err());
    assert_eq!((deque.len(), dropped.get()), (6, 0));
    drop(deque.drain(1..3).next());
    assert_eq!((deque.len(), dropped.get()), (4, 2));
    let mut rest = deque.into_iter();
    drop(rest.next());
    drop(rest);
    assert_eq!(dropped.get(), 6);
}

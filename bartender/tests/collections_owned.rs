//! Owned collections against their `std` twins: the same operations give the same answers.

use bartender::{PHashMap, PString, PVec};
use proptest::prelude::*;
use std::collections::HashMap;
use std::rc::Rc;

#[derive(Debug, Clone)]
enum VecOp {
    Push(u8),
    Pop,
    Insert(usize, u8),
    Remove(usize),
    SwapRemove(usize),
    Truncate(usize),
    Clear,
    Extend(Vec<u8>),
    Retain(u8),
    Shrink,
    Reserve(usize),
    SplitOff(usize),
    Dedup,
    Swap(usize, usize),
}

fn vec_op() -> impl Strategy<Value = VecOp> {
    use VecOp::*;
    let index = 0..20usize;
    prop_oneof![
        8 => any::<u8>().prop_map(Push),
        2 => Just(Pop),
        2 => (index.clone(), any::<u8>()).prop_map(|(i, v)| Insert(i, v)),
        2 => index.clone().prop_map(Remove),
        2 => index.clone().prop_map(SwapRemove),
        1 => index.clone().prop_map(Truncate),
        1 => Just(Clear),
        2 => prop::collection::vec(any::<u8>(), 0..10).prop_map(Extend),
        1 => any::<u8>().prop_map(Retain),
        1 => Just(Shrink),
        1 => index.clone().prop_map(Reserve),
        1 => index.clone().prop_map(SplitOff),
        1 => Just(Dedup),
        1 => (index.clone(), index).prop_map(|(a, b)| Swap(a, b)),
    ]
}

/// An element that owns memory, so that a double drop or a leak shows under Miri and valgrind.
fn element(v: u8) -> PString {
    // Every third has a block.
    let rest = [" of some", "", " of more than fit without a block"];
    PString::from(format!("element number {v}{}", rest[usize::from(v % 3)]))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_vector_is_like_its_twin(ops in prop::collection::vec(vec_op(), 0..60)) {
        let mut ours: PVec<PString> = PVec::new();
        let mut twin: Vec<PString> = Vec::new();
        for op in ops {
            let len = twin.len();
            match op {
                VecOp::Push(v) => {
                    ours.push(element(v));
                    twin.push(element(v));
                }
                VecOp::Pop => prop_assert_eq!(ours.pop(), twin.pop()),
                VecOp::Insert(i, v) => {
                    let i = i % (len + 1);
                    ours.insert(i, element(v));
                    twin.insert(i, element(v));
                }
                VecOp::Remove(i) if len > 0 => prop_assert_eq!(ours.remove(i % len), twin.remove(i % len)),
                VecOp::SwapRemove(i) if len > 0 => {
                    prop_assert_eq!(ours.swap_remove(i % len), twin.swap_remove(i % len));
                }
                VecOp::Truncate(n) => {
                    ours.truncate(n);
                    twin.truncate(n);
                }
                VecOp::Clear => {
                    ours.clear();
                    twin.clear();
                }
                VecOp::Extend(values) => {
                    ours.extend(values.iter().map(|&v| element(v)));
                    twin.extend(values.iter().map(|&v| element(v)));
                }
                VecOp::Retain(v) => {
                    ours.retain(|e| e.len() % 2 == usize::from(v % 2));
                    twin.retain(|e| e.len() % 2 == usize::from(v % 2));
                }
                VecOp::Shrink => ours.shrink_to_fit(),
                VecOp::Reserve(n) => ours.reserve(n),
                VecOp::SplitOff(i) => {
                    let i = i % (len + 1);
                    prop_assert_eq!(ours.split_off(i), twin.split_off(i));
                }
                VecOp::Dedup => {
                    ours.dedup();
                    twin.dedup();
                }
                VecOp::Swap(a, b) if len > 0 => {
                    ours.swap(a % len, b % len);
                    twin.swap(a % len, b % len);
                }
                _ => {}
            }
            prop_assert_eq!(&ours, &twin);
            prop_assert!(ours.capacity() >= ours.len());
        }
        prop_assert_eq!(format!("{ours:?}"), format!("{twin:?}"));
        prop_assert_eq!(ours.clone().into_vec(), twin.clone());
        prop_assert_eq!(ours.into_iter().rev().collect::<Vec<_>>(), twin.into_iter().rev().collect::<Vec<_>>());
    }

    #[test]
    fn a_string_is_like_its_twin(ops in prop::collection::vec((0..11u8, any::<char>(), 0..12usize, ".{0,6}"), 0..40)) {
        let mut ours = PString::new();
        let mut twin = String::new();
        for (op, c, i, text) in ops {
            let at = twin.char_indices().map(|(at, _)| at).nth(i).unwrap_or(twin.len());
            match op {
                0 => {
                    ours.push(c);
                    twin.push(c);
                }
                1 => {
                    ours.push_str(&text);
                    twin.push_str(&text);
                }
                2 => prop_assert_eq!(ours.pop(), twin.pop()),
                3 => {
                    ours.insert(at, c);
                    twin.insert(at, c);
                }
                4 => {
                    ours.insert_str(at, &text);
                    twin.insert_str(at, &text);
                }
                5 if at < twin.len() => prop_assert_eq!(ours.remove(at), twin.remove(at)),
                6 => {
                    ours.truncate(at);
                    twin.truncate(at);
                }
                7 => {
                    ours.extend([&text[..]; 2]);
                    twin.extend([&text[..]; 2]);
                }
                8 => {
                    ours.retain(|x| x < c);
                    twin.retain(|x| x < c);
                }
                9 => ours.shrink_to_fit(),
                10 => {
                    ours.reserve(i);
                    prop_assert!(ours.capacity() - ours.len() >= i);
                    ours.make_ascii_uppercase();
                    twin.make_ascii_uppercase();
                    prop_assert_eq!(&ours.clone(), &twin);
                }
                _ => {
                    ours.clear();
                    twin.clear();
                }
            }
            prop_assert_eq!(&ours, &twin);
        }
        prop_assert_eq!(format!("{ours:?} {ours}"), format!("{twin:?} {twin}"));
        prop_assert_eq!(ours.into_string(), twin);
    }

    #[test]
    fn a_map_is_like_its_twin(
        ops in prop::collection::vec((0..10u8, 0..80u16, any::<u16>()), 0..400),
        spread in prop::sample::select(vec![1u16, 40, 80]),
    ) {
        let mut ours: PHashMap<PString, PString> = PHashMap::new();
        let mut twin: HashMap<String, String> = HashMap::new();
        for (op, key, value) in ops {
            let key = format!("key {}", key % spread);
            let text = value.to_string();
            match op {
                0..=3 => {
                    let old = ours.insert(key.as_str().into(), text.as_str().into());
                    prop_assert_eq!(old.map(PString::into_string), twin.insert(key, text));
                }
                4..=5 => {
                    let old = ours.remove(key.as_str());
                    prop_assert_eq!(old.map(PString::into_string), twin.remove(&key));
                }
                6 => {
                    ours.entry(key.as_str().into()).and_modify(|v| v.push('!')).or_insert_with(|| "?".into());
                    twin.entry(key).and_modify(|v| v.push('!')).or_insert_with(|| "?".into());
                }
                7 if value % 8 == 0 => {
                    ours.retain(|_, v| v.len() % 2 == 0);
                    twin.retain(|_, v| v.len() % 2 == 0);
                }
                8 if value % 16 == 0 => {
                    ours.clear();
                    twin.clear();
                }
                9 if value % 4 == 0 => ours.shrink_to_fit(),
                _ => {
                    prop_assert_eq!(ours.get(key.as_str()).map(|v| v.as_str()), twin.get(&key).map(|v| v.as_str()));
                    prop_assert_eq!(ours.contains_key(key.as_str()), twin.contains_key(&key));
                }
            }
            prop_assert_eq!(ours.len(), twin.len());
        }
        for (key, value) in &ours {
            prop_assert_eq!(&twin[key.as_str()], value);
        }
        prop_assert_eq!(ours.iter().count(), twin.len());
        prop_assert_eq!(&ours.clone(), &ours);
        let mut pairs: Vec<_> = ours.into_iter().map(|(k, v)| (k.into_string(), v.into_string())).collect();
        let mut twins: Vec<_> = twin.into_iter().collect();
        pairs.sort();
        twins.sort();
        prop_assert_eq!(pairs, twins);
    }
}

#[test]
fn elements_are_dropped_exactly_once() {
    let token = Rc::new(());
    let count = || Rc::strong_count(&token) - 1;

    let mut vec: PVec<_> = std::iter::repeat_with(|| token.clone()).take(10).collect();
    vec.truncate(7);
    drop(vec.remove(0));
    assert_eq!(count(), 6);
    let mut iter = vec.into_iter();
    iter.next();
    assert_eq!(count(), 5);
    drop(iter);
    assert_eq!(count(), 0);

    let mut map: PHashMap<_, _> = (0..100).map(|i| (i, token.clone())).collect();
    assert_eq!(count(), 100);
    map.insert(3, token.clone());
    map.remove(&4);
    map.retain(|k, _| k % 2 == 1);
    assert_eq!(count(), 50);
    let mut iter = map.into_iter();
    iter.next();
    assert_eq!(count(), 49);
    drop(iter);
    assert_eq!(count(), 0);

    let mut map: PHashMap<_, _> = (0..100).map(|i| (i, token.clone())).collect();
    map.clear();
    assert_eq!((count(), map.len()), (0, 0));
    map.extend((0..10).map(|i| (i, token.clone())));
    drop(map);
    assert_eq!(count(), 0);
}

/// A key whose hash function can fail.
#[derive(PartialEq, Eq)]
struct Moody(u32, Rc<std::cell::Cell<bool>>);

impl std::hash::Hash for Moody {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        assert!(!self.1.get() || self.0 == 1000, "not today");
        self.0.hash(state);
    }
}

#[test]
fn a_panicking_hash_function_leaves_the_map_whole() {
    let bad = Rc::new(std::cell::Cell::new(false));
    let mut map = PHashMap::new();
    for i in 0..14 {
        map.insert(Moody(i, bad.clone()), i);
    }
    bad.set(true);
    let grown = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        map.insert(Moody(1000, bad.clone()), 0);
    }));
    assert!(grown.is_err(), "the fifteenth entry needs a larger block");
    bad.set(false);
    assert_eq!(map.len(), 14);
    assert!((0..14).all(|i| map.get(&Moody(i, bad.clone())) == Some(&i)));
}

#[test]
fn reading_takes_every_form_that_std_takes() {
    let vec = PVec::from([3, 1, 2]);
    assert_eq!(
        (vec[0], &vec[1..], vec.iter().max(), vec.contains(&9)),
        (3, &[1, 2][..], Some(&3), false)
    );
    assert!(vec == [3, 1, 2] && vec == vec![3, 1, 2]);
    assert!(vec.cmp(&PVec::from([3, 1])).is_gt() && vec.partial_cmp(&PVec::new()).is_some());
    assert_eq!(Vec::from(vec.clone()), vec![3, 1, 2]);

    let name = PString::from("Grace");
    assert_eq!(name, "Grace");
    assert_eq!("Grace", name);
    assert_eq!(name, *"Grace");
    assert_eq!(name, String::from("Grace"));
    assert_eq!(
        (name.len(), &name[1..3], name.to_uppercase()),
        (5, "ra", "GRACE".to_owned())
    );
    assert_eq!("a-b".parse::<PString>().unwrap() + "-c", "a-b-c");

    let map = PHashMap::from([(PString::from("one"), 1), ("two".into(), 2)]);
    assert_eq!(
        (map["one"], map.get("three"), map.keys().count()),
        (1, None, 2)
    );
    assert_eq!(map.values().sum::<i32>(), 3);
    assert_eq!(format!("{:?}", PHashMap::from([(1, 'x')])), "{1: 'x'}");

    let set: PHashMap<PVec<u8>, ()> = [(PVec::from([1]), ())].into();
    assert!(set.contains_key(&[1u8][..]));
}

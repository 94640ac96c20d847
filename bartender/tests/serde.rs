//! Feature `serde`: what is written is what std's twins write, in a form for people and in one for machines, and is read
//! back from either.

use bartender::{
    PBTreeMap, PBTreeSet, PBox, PHashMap, PHashSet, PMutex, PRwLock, PString, PVec, PVecDeque,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::sync::Mutex;

#[track_caller]
fn same<P, S>(ours: P, twin: S)
where
    P: Serialize + DeserializeOwned + Debug + PartialEq,
    S: Serialize + DeserializeOwned + Debug + PartialEq,
{
    let (json, bytes) = (
        serde_json::to_string(&ours).unwrap(),
        bincode::serialize(&ours).unwrap(),
    );
    assert_eq!(json, serde_json::to_string(&twin).unwrap());
    assert_eq!(bytes, bincode::serialize(&twin).unwrap());
    assert_eq!(serde_json::from_str::<S>(&json).unwrap(), twin);
    assert_eq!(bincode::deserialize::<S>(&bytes).unwrap(), twin);
    assert_eq!(serde_json::from_str::<P>(&json).unwrap(), ours);
    assert_eq!(bincode::deserialize::<P>(&bytes).unwrap(), ours);
}

#[test]
fn collections_have_the_forms_of_their_twins() {
    let words = ["a", "", "süß"];
    same(
        PVec::from(words.map(PString::from)),
        Vec::from(words.map(String::from)),
    );
    same(PVec::<u64>::new(), Vec::<u64>::new());
    let mut queue = PVecDeque::from([2, 3]);
    queue.push_front(1);
    same(queue, VecDeque::from([1, 2, 3]));
    same(PHashSet::from([7u8]), HashSet::from([7u8]));
    same(
        PHashMap::from([(PString::from("k"), PVec::from([1u8]))]),
        HashMap::from([("k".to_owned(), vec![1u8])]),
    );
    same(PBTreeSet::from([7u8, 3]), BTreeSet::from([3u8, 7]));
    same(
        PBTreeMap::from([(2, PString::from("b")), (1, PString::from("a"))]),
        BTreeMap::from([(1, "a".to_owned()), (2, "b".to_owned())]),
    );
    same(PString::from("text"), "text".to_owned());
    same(PBox::new(5u32), Box::new(5u32));
    same(PBox::<[u16]>::from([1, 2]), Box::<[u16]>::from([1, 2]));
    same(PBox::<str>::from("text"), Box::<str>::from("text"));
    same(
        Some(PBox::new(PString::from("x"))),
        Some(Box::new("x".to_owned())),
    );
}

#[test]
fn many_entries_come_back_from_what_the_twin_wrote() {
    let map: HashMap<u32, String> = (0..1000).map(|n| (n, n.to_string())).collect();
    let set: HashSet<u32> = map.keys().copied().collect();
    let ours: PHashMap<u32, PString> =
        serde_json::from_str(&serde_json::to_string(&map).unwrap()).unwrap();
    assert!(ours.len() == 1000 && ours.iter().all(|(n, text)| *text == map[n]));
    let ours: PHashSet<u32> = bincode::deserialize(&bincode::serialize(&set).unwrap()).unwrap();
    assert_eq!(HashSet::from(ours), set);
}

#[test]
fn locks_are_what_they_guard() {
    let twin = serde_json::to_string(&Mutex::new(vec![1])).unwrap();
    assert_eq!(
        serde_json::to_string(&PMutex::new(PVec::from([1]))).unwrap(),
        twin
    );
    let read: PRwLock<PVec<i32>> = serde_json::from_str(&twin).unwrap();
    assert_eq!(read.into_inner(), [1]);
}

#[test]
fn a_length_that_is_a_lie_allocates_nothing() {
    let lie = u64::MAX.to_le_bytes();
    assert!(bincode::deserialize::<PVec<u64>>(&lie).is_err());
    assert!(bincode::deserialize::<PVecDeque<u64>>(&lie).is_err());
    assert!(bincode::deserialize::<PHashSet<u64>>(&lie).is_err());
    assert!(bincode::deserialize::<PHashMap<u64, u64>>(&lie).is_err());
}

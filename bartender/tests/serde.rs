//! Feature `serde`: what is written is what std's twins write, in a form for people and in one for machines, and is read
//! back from either.

use bartender::{
    Heap, PAtomicI64, PAtomicIsize, PAtomicU64, PAtomicUsize, PBTreeMap, PBTreeSet, PBox, PHashMap,
    PHashSet, PMutex, PRcu, PRwLock, PShared, PString, PVec, PVecDeque, Persist,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicIsize, AtomicU64, AtomicUsize};

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
fn what_is_shared_replaced_or_counted_is_written_by_its_value() {
    same(PShared::new(PString::from("x")), "x".to_owned());
    same(
        PVec::from([PShared::new(1u8), PShared::new(2)]),
        vec![1u8, 2],
    );
    fn number<P: Serialize + DeserializeOwned, S: Serialize>(ours: P, twin: S) {
        let json = serde_json::to_string(&twin).unwrap();
        assert_eq!(serde_json::to_string(&ours).unwrap(), json);
        let read: P = serde_json::from_str(&json).unwrap();
        let bytes = bincode::serialize(&twin).unwrap();
        assert_eq!(bincode::serialize(&read).unwrap(), bytes);
        let read: P = bincode::deserialize(&bytes).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
        assert!(serde_json::from_str::<P>("\"text\"").is_err());
    }
    number(PAtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX));
    number(PAtomicI64::new(i64::MIN), AtomicI64::new(i64::MIN));
    number(PAtomicUsize::new(7), AtomicUsize::new(7));
    number(PAtomicIsize::new(-7), AtomicIsize::new(-7));
    number(PRcu::new((1u8, -1i64)), (1u8, -1i64));
}

#[derive(Persist, Default, Serialize, Deserialize)]
#[repr(C)]
struct Site {
    hits: PAtomicU64,
    config: PRcu<PString>,
    pages: PMutex<PVec<PShared<PString>>>,
}

#[test]
fn what_is_stored_is_written_as_it_was_committed() {
    let folder = tempfile::tempdir().unwrap();
    let options = Heap::<Site>::options().max_size(8 << 20);
    let heap = options.open(folder.path().join("r")).unwrap();
    let text = || serde_json::to_string(heap.root()).unwrap();
    assert_eq!(text(), r#"{"hits":0,"config":"","pages":[]}"#);
    heap.transaction(|tx| {
        let site = heap.root();
        site.hits.add(tx, 3)?;
        site.config.replace(tx, "new".into())?;
        // Not before it is committed.
        let both = serde_json::to_string(&(&site.hits, &site.config));
        assert_eq!(both.unwrap(), r#"[0,""]"#);
        let mut pages = tx.lock(&site.pages)?;
        pages.push(PShared::new("page".into()))?;
        let again = pages[0].share(tx)?;
        pages.push_moved(again)
    })
    .unwrap();
    assert_eq!(
        text(),
        r#"{"hits":3,"config":"new","pages":["page","page"]}"#
    );
    let read: Site = serde_json::from_str(&text()).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), text());
    // Each place has an owner of its own, as with `Arc`.
    assert!(
        read.pages
            .read()
            .iter()
            .all(|page| PShared::owners(page) == 1)
    );
}

#[test]
fn a_length_that_is_a_lie_allocates_nothing() {
    let lie = u64::MAX.to_le_bytes();
    assert!(bincode::deserialize::<PVec<u64>>(&lie).is_err());
    assert!(bincode::deserialize::<PVecDeque<u64>>(&lie).is_err());
    assert!(bincode::deserialize::<PHashSet<u64>>(&lie).is_err());
    assert!(bincode::deserialize::<PHashMap<u64, u64>>(&lie).is_err());
}

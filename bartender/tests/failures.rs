//! Whatever fails inside of a transaction, nothing is left of it: contents, allocator, locks and ordinary memory are as
//! they were, and the same transaction succeeds next.
//!
//! [`PROGRAMS`] and [`BESIDE`] have a line for each method that changes something. Each program is run with its first allocation failing,
//! its second, and so on until it gets through; with its record refused by the log; with an error and with a panic at
//! its end; as a savepoint; and with each step of the medium failing. A new method gets a line there.
#![cfg(not(loom))]

use bartender::{
    Error, Heap, Mut, PAtomicI64, PAtomicU64, PBTreeMap, PBTreeSet, PBox, PHashMap, PHashSet,
    PMutex, PRcu, PShared, PString, PVec, PVecDeque, Persist, Result, Tx,
};
use bartender_pm::medium::sim::{Image, SimKind, SimMedium, SimMemory};
use bartender_pm::{LogStyle, Medium, MediumKind, ViewSource, fault, mutant};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the ordinary memory of each thread.
struct Counting;

thread_local!(static LIVE: Cell<isize> = const { Cell::new(0) });

// SAFETY: hands everything on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get() + layout.size() as isize);
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size() as isize);
        // SAFETY: as the caller says.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Persist, Default)]
#[repr(C)]
struct Node {
    name: PString,
    next: Option<PBox<Node>>,
}

#[derive(Persist, Default)]
#[repr(C)]
struct Root {
    number: u64,
    node: Node,
    other: Node,
    list: PVec<PString>,
    bytes: PVec<u8>,
    text: PString,
    /// One without a block.
    short: PString,
    map: PHashMap<u64, PString>,
    names: PHashMap<PString, PVec<u64>>,
    set: PHashSet<PString>,
    ring: PVecDeque<PString>,
    numbers: PVec<u64>,
    tree: PBTreeMap<u64, PString>,
    above: PBTreeMap<u64, PString>,
    order: PBTreeSet<PString>,
    slice: PBox<[PString]>,
    name: PBox<str>,
    shared: PVec<PShared<PString>>,
    versions: PVec<PRcu<PString>>,
    counts: PVec<PAtomicU64>,
}

/// The root behind its lock, and what has none.
#[derive(Persist, Default)]
#[repr(C)]
struct All {
    root: PMutex<Root>,
    version: PRcu<PVec<PString>>,
    number: PAtomicU64,
    signed: PAtomicI64,
}

/// A node, and what hangs on it.
fn node(names: &[&str]) -> Node {
    names.iter().rev().fold(Node::default(), |next, name| Node {
        name: (*name).into(),
        next: (!next.name.is_empty()).then(|| PBox::new(next)),
    })
}

fn string(n: u64) -> PString {
    format!("the text of number {n}, which needs a block").into()
}

/// What every program finds.
fn fill(mut root: Mut<'_, Root>) -> Result<()> {
    let root = root.project();
    let (mut node_at, mut other, mut list) = (root.node, root.other, root.list);
    let (mut bytes, mut text, mut map, mut names) = (root.bytes, root.text, root.map, root.names);
    let mut set = root.set;
    let (mut ring, mut numbers) = (root.ring, root.numbers);
    // Two levels, of which the last leaf is full.
    let (mut tree, mut above) = (root.tree, root.above);
    let (mut slice, mut name, mut shared) = (root.slice, root.name, root.shared);
    let (mut versions, mut counts) = (root.versions, root.counts);
    slice.set((0..4).map(string).collect())?;
    name.set("a name".into())?;
    shared.extend((0..3).map(|n| PShared::new(string(n))))?;
    versions.extend((0..2).map(|n| PRcu::new(string(n))))?;
    counts.extend((0..3).map(PAtomicU64::new))?;
    tree.extend((0..31).map(|n| (2 * n, string(n))))?;
    above.extend((30..34).map(|n| (n, string(n))))?;
    let mut order = root.order;
    order.extend((10..70).map(string))?;
    ring.extend((0..5).map(string))?;
    (5..7).try_for_each(|n| ring.push_front(string(n)))?;
    numbers.extend([3, 1, 1, 2, 2, 2, 9])?;
    node_at.set(node(&["one", "two", "three"]))?;
    other.set(node(&["ten", "eleven"]))?;
    list.extend((0..4).map(string))?;
    bytes.extend_from_slice(b"0123456789abcdef")?;
    text.push_str("some text, which has a block")?;
    let mut short = root.short;
    short.push_str("some text, not long")?;
    map.extend((0..7).map(|n| (n, string(n))))?;
    names.extend((0..3).map(|n| (string(n), (0..n).collect())))?;
    set.extend((0..3).map(string))
}

/// Everything that there is, as text.
fn state(all: &All) -> String {
    let root = &*all.root.read();
    let nodes = |mut node: &Node| {
        let mut names = vec![node.name.to_string()];
        while let Some(next) = &node.next {
            names.push(next.name.to_string());
            node = next;
        }
        names
    };
    let map: BTreeMap<_, _> = root.map.iter().map(|(k, v)| (*k, v.to_string())).collect();
    let names: BTreeMap<_, _> = root
        .names
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_vec()))
        .collect();
    let set: BTreeSet<_> = root.set.iter().map(|v| v.to_string()).collect();
    let owners = |shared: &PShared<PString>| (shared.to_string(), PShared::owners(shared));
    let shared: Vec<_> = root.shared.iter().map(owners).collect();
    let versions: Vec<_> = root.versions.iter().map(|v| v.read().to_string()).collect();
    let counts: Vec<_> = root.counts.iter().map(PAtomicU64::load).collect();
    let words = format!(
        "{:?} {} {} {:?} {:?} {:?} {shared:?} {versions:?} {counts:?}",
        &all.version.read()[..],
        all.number.load(),
        all.signed.load(),
        root.slice,
        root.name,
        root.short,
    );
    format!(
        "{words} {} {:?} {:?} {:?} {:?} {:?} {map:?} {names:?} {set:?} {:?} {:?} {:?} {:?} {:?}",
        root.number,
        nodes(&root.node),
        nodes(&root.other),
        root.list,
        root.bytes,
        root.text,
        root.ring,
        root.numbers,
        root.tree,
        root.above,
        root.order,
    )
}

type Program = fn(&mut Tx<'_>, &All) -> Result<()>;

/// A line for each method: its name, and what uses it on the parts of the root behind its lock, or (with `tx`) on these
/// and the transaction.
macro_rules! programs {
    ($($name:literal: $root:ident $(, $tx:ident, $all:ident)? => $body:expr;)*) => {
        const PROGRAMS: &[(&str, Program)] = &[$(($name, |tx, all| {
            let tx: &Tx<'_> = tx;
            let mut root = tx.lock(&all.root)?;
            #[allow(unused_mut)]
            let mut $root = root.project();
            $(let ($tx, $all) = (tx, all);)?
            $body;
            Ok(())
        })),*];
    };
}

/// The same for what takes the whole transaction.
macro_rules! beside {
    ($($name:literal: $tx:ident, $all:ident => $body:expr;)*) => {
        const BESIDE: &[(&str, Program)] = &[$(($name, |$tx, $all| {
            $body;
            Ok(())
        })),*];
    };
}

beside! {
    "PRcu::replace": tx, all => all.version.replace(tx, [string(7)].into())?;
    "PRcu::replace, again": tx, all => {
        all.version.replace(tx, (5..9).map(string).collect())?;
        all.version.replace(tx, PVec::new())?;
        let now = all.version.get(tx)?.clone();
        all.version.replace(tx, now.into_iter().chain([string(1)]).collect())?
    };
    "PRcu::update": tx, all => all.version.update(tx, |old| {
        old.iter().cloned().chain([string(3)]).collect()
    })?;
    "all words at once": tx, all => {
        all.number.add(tx, 1)?;
        all.version.replace(tx, PVec::new())?;
        all.signed.sub(tx, 1)?;
        let root = tx.lock(&all.root)?;
        root.counts[1].add(tx, 5)?
    };
}

programs! {
    "PBox::project": r => {
        let mut node = r.node.project();
        let mut next = node.next.project().expect("is there");
        next.project().project().name.push_str(" and more than fits")?
    };
    "PBox<[T]>, Mut::set": r => r.slice.set((5..15).map(string).collect())?;
    "PBox<[T]>, Mut::take": r => assert_eq!(Mut::take(&mut r.slice)?.into_vec().len(), 4);
    "PBox<[T]>::project": r => {
        let mut slice = r.slice.project();
        slice.reverse()?;
        slice.iter_mut().try_for_each(|mut text| text.push_str(" and more than fits"))?
    };
    "PBox<[T]>, moved": r => {
        let moved = Mut::take_moved(&mut r.slice)?;
        r.slice.set([string(0)].into_iter().collect())?;
        let _dropped = Mut::replace_moved(&mut r.slice, PBox::default())?;
        r.slice.set_moved(moved)?
    };
    "PBox<str>, Mut::set": r => r.name.set("another name, not the same".into())?;
    "PBox<str>, Mut::take": r => assert_eq!(*Mut::take(&mut r.name)?, *"a name");

    "PShared::new": r => r.shared.push(PShared::new(string(9)))?;
    "PShared::share": r, tx, _all => {
        let again = r.shared[0].share(tx)?;
        r.shared.push_moved(again)?
    };
    "PShared::share, dropped": r, tx, _all => {
        drop(r.shared[0].share(tx)?);
        r.shared.pop()?
    };
    "PShared, the last owner goes": r => r.shared.clear()?;
    "PShared, Mut::take": r => assert_eq!(Mut::take(&mut r.shared)?.len(), 3);
    "PShared, one owner is taken out": r => assert_eq!(**r.shared.remove(0)?, *string(0));
    "PShared, moved": r, tx, _all => {
        let again = r.shared[1].share(tx)?;
        let moved = Mut::take_moved(&mut r.shared)?;
        r.shared.set_moved(moved)?;
        r.shared.insert_moved(0, again)?;
        r.shared.truncate(1)?
    };

    "PRcu::project": r => r.versions.get_mut(0).expect("is there").project().push_str(" and more than fits")?;
    "PRcu, Mut::set": r => r.versions.get_mut(0).expect("is there").set(PRcu::new(string(7)))?;
    "PRcu, Mut::take": r => assert_eq!(Mut::take(&mut r.versions)?.len(), 2);
    "PRcu, moved": r => {
        r.versions.push(PRcu::new(string(1)))?;
        r.versions.swap_elements(0, 2)?;
        let moved = r.versions.remove_moved(1)?;
        r.versions.push_moved(moved)?
    };
    "PRcu, released": r => r.versions.clear()?;

    "PAtomicU64::add": _r, tx, all => all.number.add(tx, 3)?;
    "PAtomicU64::sub": _r, tx, all => all.number.sub(tx, 3)?;
    "PAtomicU64::max": _r, tx, all => all.number.max(tx, 99)?;
    "PAtomicU64::min": _r, tx, all => all.number.min(tx, 9)?;
    "PAtomicU64::and": _r, tx, all => all.number.and(tx, 8)?;
    "PAtomicU64::or": _r, tx, all => all.number.or(tx, 7)?;
    "PAtomicU64::xor": _r, tx, all => all.number.xor(tx, 12)?;
    "PAtomicU64::store": _r, tx, all => all.number.store(tx, 12)?;
    "PAtomicI64::add": _r, tx, all => all.signed.add(tx, -3)?;
    "PAtomicI64::sub": _r, tx, all => all.signed.sub(tx, 3)?;
    "PAtomicI64::max": _r, tx, all => all.signed.max(tx, -1)?;
    "PAtomicI64::min": _r, tx, all => all.signed.min(tx, -9)?;
    "PAtomicI64::and": _r, tx, all => all.signed.and(tx, 8)?;
    "PAtomicI64::or": _r, tx, all => all.signed.or(tx, 1)?;
    "PAtomicI64::xor": _r, tx, all => all.signed.xor(tx, 12)?;
    "PAtomicI64::store": _r, tx, all => all.signed.store(tx, 12)?;
    "an atomic, Mut::set": r => r.counts.get_mut(1).expect("is there").set(PAtomicU64::new(5))?;
    "steps on what moves": r, tx, _all => {
        r.counts[0].add(tx, 5)?;
        r.counts[2].store(tx, 7)?;
        r.counts.reserve(100)?;
        r.counts[1].max(tx, 70)?;
        r.counts.remove(1)?;
        r.counts[1].add(tx, 1)?
    };

    "DerefMut": r => *r.number += 1;
    "Mut::set": r => r.node.set(node(&["a", "b"]))?;
    "Mut::replace": r => assert_eq!(*Mut::replace(&mut r.node, node(&["a"]))?.name, *"one");
    "Mut::take": r => Mut::take(&mut r.node)?;
    "Mut::swap": r => Mut::swap(&mut r.node, &mut r.other)?;
    "Mut::set_moved": r => {
        let moved = Mut::take_moved(&mut r.other)?;
        r.node.set_moved(moved)?
    };
    "Mut::replace_moved": r => {
        let moved = Mut::replace_moved(&mut r.node, node(&["a", "b"]))?;
        r.other.set_moved(moved)?
    };
    "a Moved that is dropped": r => { let _ = Mut::take_moved(&mut r.node)?; };

    "PVec::reserve": r => { r.list.reserve(100)?; r.list.push(string(1))? };
    "PVec::reserve_exact": r => { r.list.reserve_exact(5)?; r.list.push(string(1))? };
    "PVec::push": r => (0..9).try_for_each(|n| r.list.push(string(n)))?;
    "PVec::pop": r => r.list.pop()?;
    "PVec::insert": r => r.list.insert(1, string(9))?;
    "PVec::remove": r => r.list.remove(1)?;
    "PVec::swap_remove": r => r.list.swap_remove(0)?;
    "PVec::swap_elements": r => r.list.swap_elements(0, 3)?;
    "PVec::truncate": r => r.list.truncate(1)?;
    "PVec::clear": r => r.list.clear()?;
    "PVec::extend": r => r.list.extend((10..30).map(string))?;
    "PVec::get_mut": r => r.list.get_mut(2).expect("is there").set(string(8))?;
    "PVec::iter_mut": r => {
        let mut all = r.list.iter_mut();
        all.try_for_each(|mut text| text.push_str(" and more than fits"))?
    };
    "PVec::retain": r => r.list.retain(|text| text.contains('2'))?;
    "PVec::extend_from_slice": r => r.bytes.extend_from_slice(&[7; 300])?;
    "PVec::extend_from_slice, large": r => r.bytes.extend_from_slice(&[7; 100_000])?;
    "PVec::insert_slice": r => r.bytes.insert_slice(3, &[7; 300])?;
    "PVec::as_mut_slice": r => r.bytes.as_mut_slice().reverse();
    "Write for PVec<u8>": r => r.bytes.write_all(&[7; 300]).map_err(Error::abort)?;
    "PVec::pop_moved, push_moved": r => {
        let moved = r.list.pop_moved()?.expect("is there");
        r.list.clear()?;
        r.list.push_moved(moved)?
    };
    "PVec::remove_moved, insert_moved": r => {
        let moved = r.list.remove_moved(0)?;
        r.list.insert_moved(2, moved)?
    };
    "PVec::swap_remove_moved": r => {
        let moved = r.list.swap_remove_moved(0)?;
        r.text.set_moved(moved)?
    };

    "PVec::shrink_to_fit": r => { r.list.truncate(2)?; r.list.shrink_to_fit()? };
    "PVec::drain": r => assert_eq!(r.list.drain(1..3)?.count(), 2);
    "PVec::extract_if": r => assert_eq!(r.list.extract_if(|text| text.contains('2'))?.count(), 1);
    "PVec::splice": r => assert_eq!(r.list.splice(1..2, (5..25).map(string))?.count(), 1);
    "PVec::dedup": r => r.numbers.dedup()?;
    "PVec::dedup_by_key": r => r.list.dedup_by_key(|text| text.len())?;
    "PVec::resize": r => r.list.resize(20, string(1))?;
    "PVec::resize_with": r => r.list.resize_with(20, || string(2))?;
    "PVec::append": r => {
        r.names.retain(|_, list| list.len() == 2)?;
        let mut other = r.names.values_mut().next().expect("is there");
        r.numbers.append(&mut other)?
    };
    "PVec::split_off": r => {
        let moved = r.list.split_off(1)?;
        r.list.set_moved(moved)?
    };
    "PVec::reverse": r => r.list.reverse()?;
    "PVec::rotate_left": r => r.list.rotate_left(1)?;
    "PVec::sort": r => { r.list.reverse()?; r.list.sort()? };
    "PVec::sort_by_cached_key": r => r.list.sort_by_cached_key(|text| std::cmp::Reverse(text.to_string()))?;
    "PVec::sort_unstable_by": r => r.list.sort_unstable_by(|a, b| b.cmp(a))?;
    "PVec::fill": r => r.numbers.fill(4);
    "PVec::extend_from_within": r => r.numbers.extend_from_within(1..)?;

    "PVecDeque::reserve": r => { r.ring.reserve(100)?; r.ring.push_back(string(1))? };
    "PVecDeque::reserve_exact": r => { r.ring.reserve_exact(9)?; r.ring.push_back(string(1))? };
    "PVecDeque::shrink_to_fit": r => { r.ring.truncate(2)?; r.ring.shrink_to_fit()? };
    "PVecDeque::push_back": r => (0..9).try_for_each(|n| r.ring.push_back(string(n)))?;
    "PVecDeque::push_front": r => (0..9).try_for_each(|n| r.ring.push_front(string(n)))?;
    "PVecDeque::pop_back": r => r.ring.pop_back()?;
    "PVecDeque::pop_front": r => r.ring.pop_front()?;
    "PVecDeque::insert": r => r.ring.insert(1, string(9))?;
    "PVecDeque::remove": r => r.ring.remove(1)?;
    "PVecDeque::swap_remove_back": r => r.ring.swap_remove_back(1)?;
    "PVecDeque::swap_remove_front": r => r.ring.swap_remove_front(3)?;
    "PVecDeque::swap_elements": r => r.ring.swap_elements(0, 6)?;
    "PVecDeque::rotate_left": r => r.ring.rotate_left(3)?;
    "PVecDeque::rotate_right": r => r.ring.rotate_right(2)?;
    "PVecDeque::make_contiguous": r => { r.ring.make_contiguous()?; r.ring.pop_front()? };
    "PVecDeque::clear": r => r.ring.clear()?;
    "PVecDeque::drain": r => assert_eq!(r.ring.drain(1..5)?.count(), 4);
    "PVecDeque::extend": r => r.ring.extend((9..30).map(string))?;
    "PVecDeque::resize": r => r.ring.resize(20, string(1))?;
    "PVecDeque::retain": r => r.ring.retain(|text| text.contains('2'))?;
    "PVecDeque::iter_mut": r => {
        let mut all = r.ring.iter_mut();
        all.try_for_each(|mut text| text.push_str(" and more than fits"))?
    };
    "PVecDeque, moved": r => {
        let moved = r.ring.pop_back_moved()?.expect("is there");
        r.ring.push_front_moved(moved)?;
        let moved = r.ring.remove_moved(2)?.expect("is there");
        r.ring.insert_moved(4, moved)?;
        let moved = r.ring.pop_front_moved()?.expect("is there");
        r.list.push_moved(moved)?
    };
    "PVecDeque::split_off": r => {
        let moved = r.ring.split_off(2)?;
        r.ring.set_moved(moved)?
    };

    "PString::shrink_to_fit": r => { r.text.truncate(3)?; r.text.shrink_to_fit()? };
    "PString::extend": r => r.text.extend(["more ", "and more ", "and more than fits"])?;
    "PString::drain": r => assert_eq!(r.text.drain(2..6)?.len(), 4);
    "PString::replace_range": r => r.text.replace_range(2..4, &"more ".repeat(20))?;
    "PString::retain": r => r.text.retain(|c| c != 't')?;
    "PString::make_ascii_uppercase": r => r.text.make_ascii_uppercase();
    "PString::split_off": r => {
        let moved = r.text.split_off(4)?;
        r.text.set_moved(moved)?
    };
    "fmt::Write for PString": r => {
        use std::fmt::Write as _;
        write!(r.text, "{:100}", 7).map_err(Error::abort)?
    };
    "PString::reserve": r => { r.text.reserve(500)?; r.text.push('x')? };
    "PString::push": r => "and much more äöü".chars().try_for_each(|c| r.text.push(c))?;
    "PString::push_str": r => r.text.push_str(&"more ".repeat(50))?;
    "PString::pop": r => r.text.pop()?;
    "PString::insert": r => r.text.insert(4, 'ß')?;
    "PString::insert_str": r => r.text.insert_str(4, &"more ".repeat(50))?;
    "PString::remove": r => r.text.remove(4)?;
    "PString::truncate": r => r.text.truncate(4)?;
    "PString::clear": r => r.text.clear()?;
    "PString::extend, short": r => r.short.extend(["m", "or", "e and more"])?;
    "PString::drain, short": r => assert_eq!(r.short.drain(2..6)?.len(), 4);
    "PString::replace_range, short": r => {
        r.short.replace_range(2..4, "mo")?;
        r.short.replace_range(2..4, &"more ".repeat(20))?
    };
    "PString::retain, short": r => r.short.retain(|c| c != 't')?;
    "PString::make_ascii_uppercase, short": r => r.short.make_ascii_uppercase();
    "PString::split_off, short": r => {
        let moved = r.short.split_off(4)?;
        r.short.set_moved(moved)?
    };
    "PString::reserve, short": r => { r.short.reserve(500)?; r.short.push('x')? };
    "PString::push, short": r => "and".chars().try_for_each(|c| r.short.push(c))?;
    "PString::push_str, short": r => r.short.push_str(&"more ".repeat(50))?;
    "PString::insert_str, short": r => r.short.insert_str(4, &"more ".repeat(50))?;
    "PString::truncate, short": r => { r.short.truncate(4)?; r.short.shrink_to_fit()? };

    "PHashMap::reserve": r => { r.map.reserve(100)?; r.map.insert(100, string(1))? };
    "PHashMap::shrink_to_fit": r => { r.map.retain(|n, _| *n < 2)?; r.map.shrink_to_fit()? };
    "PHashMap::insert": r => (5..20).try_for_each(|n| r.map.insert(n, string(n + 1)).map(drop))?;
    "PHashMap::remove": r => r.map.remove(&3)?;
    "PHashMap::remove_entry": r => r.map.remove_entry(&3)?;
    "PHashMap::get_mut": r => r.map.get_mut(&3).expect("is there").push_str(" and more than fits")?;
    "PHashMap::entry": r => (5..12).try_for_each(|n| {
        r.names.entry(string(n)).or_insert(PVec::new())?.extend(0..n)
    })?;
    "PHashMap::clear": r => r.names.clear()?;
    "PHashMap::retain": r => r.names.retain(|_, list| list.len() == 1)?;
    "PHashMap::drain": r => assert_eq!(r.names.drain()?.count(), 3);
    "PHashMap::extract_if": r => assert_eq!(r.map.extract_if(|n, _| *n < 3)?.count(), 3);
    "PHashMap::extend": r => r.names.extend((7..20).map(|n| (string(n), (0..n).collect())))?;
    "PHashMap::iter_mut": r => {
        let mut all = r.names.iter_mut();
        all.try_for_each(|(_, mut list)| list.extend(0..9))?
    };
    "PHashMap::values_mut": r => {
        let mut all = r.names.values_mut();
        all.try_for_each(|mut list| list.push(9))?
    };
    "PHashMap::remove_moved, insert_moved": r => {
        let moved = r.map.remove_moved(&1)?.expect("is there");
        r.map.insert_moved(99, moved)?;
        let moved = r.map.remove_moved(&2)?.expect("is there");
        let _replaced = r.map.insert_moved(3, moved)?;
    };

    "PHashSet::reserve": r => { r.set.reserve(100)?; r.set.insert(string(9))? };
    "PHashSet::shrink_to_fit": r => { r.set.clear()?; r.set.shrink_to_fit()? };
    "PHashSet::insert": r => (2..20).try_for_each(|n| r.set.insert(string(n)).map(drop))?;
    "PHashSet::replace_value": r => { r.set.replace_value(string(1))?; r.set.replace_value(string(7))? };
    "PHashSet::remove": r => r.set.remove(&*string(1))?;
    "PHashSet::take_value": r => r.set.take_value(&*string(1))?;
    "PHashSet::remove_moved, insert_moved": r => {
        let moved = r.set.remove_moved(&*string(1))?.expect("is there");
        r.set.remove(&*string(2))?;
        r.set.insert_moved(moved)?
    };
    "PHashSet::retain": r => r.set.retain(|text| text.contains('2'))?;
    "PHashSet::extract_if": r => {
        assert_eq!(r.set.extract_if(|text| text.contains('2'))?.count(), 1)
    };
    "PHashSet::drain": r => assert_eq!(r.set.drain()?.count(), 3);
    "PHashSet::extend": r => r.set.extend((2..20).map(string))?;

    "PBTreeMap::insert": r => (8..20).try_for_each(|n| r.tree.insert(n, string(n)).map(drop))?;
    "PBTreeMap::remove": r => (8..30).try_for_each(|n| r.tree.remove(&n).map(drop))?;
    "PBTreeMap::pop_first, pop_last": r => { r.tree.pop_first()?; r.tree.pop_last()? };
    "PBTreeMap::entry": r => (57..70).try_for_each(|n| {
        r.tree.entry(n).or_default()?.push_str("and more than fits")
    })?;
    "PBTreeMap::clear": r => r.tree.clear()?;
    "PBTreeMap::retain": r => r.tree.retain(|n, _| n % 3 == 0)?;
    "PBTreeMap::extend": r => r.tree.extend((60..90).map(|n| (n, string(n))))?;
    "PBTreeMap::append": r => r.tree.append(&mut r.above)?;
    "PBTreeMap::append of what is above, and below": r => {
        r.tree.retain(|n, _| *n < 30)?;
        r.tree.append(&mut r.above)?;
        (70..140).try_for_each(|n| r.above.insert(n, string(n)).map(drop))?;
        r.above.append(&mut r.tree)?
    };
    "PBTreeMap::split_off_moved": r => {
        let moved = r.tree.split_off_moved(&20)?;
        r.above.set_moved(moved)?
    };
    "PBTreeMap::extract_if": r => {
        assert_eq!(r.tree.extract_if(10..40, |n, _| n % 3 == 0)?.count(), 5)
    };
    "PBTreeMap::remove_moved, insert_moved": r => {
        let moved = r.tree.remove_moved(&4)?.expect("is there");
        r.above.insert_moved(99, moved)?;
        let moved = r.tree.pop_last_moved()?.expect("is there");
        let _replaced = r.above.insert_moved(30, moved)?;
    };

    "PBTreeSet::insert, extend": r => {
        r.order.insert(string(5))?;
        r.order.extend((60..100).map(string))?
    };
    "PBTreeSet::replace_value": r => r.order.replace_value(string(20))?;
    "PBTreeSet::remove, take_value": r => {
        r.order.remove(&*string(20))?;
        r.order.take_value(&*string(21))?
    };
    "PBTreeSet::pop_first, pop_last": r => { r.order.pop_first()?; r.order.pop_last()? };
    "PBTreeSet::clear": r => r.order.clear()?;
    "PBTreeSet::retain": r => r.order.retain(|text| text.contains('2'))?;
    "PBTreeSet::extract_if": r => {
        assert_eq!(r.order.extract_if(string(20).., |text| text.contains('3'))?.count(), 14)
    };
    "PBTreeSet::remove_moved, insert_moved": r => {
        let moved = r.order.remove_moved(&*string(20))?.expect("is there");
        r.order.remove(&*string(21))?;
        r.order.insert_moved(moved)?;
        let moved = r.order.pop_first_moved()?.expect("is there");
        r.order.insert_moved(moved)?;
        let moved = r.order.pop_last_moved()?.expect("is there");
        r.order.insert(string(69))?;
        assert!(!r.order.insert_moved(moved)?)
    };
    "PBTreeSet::split_off_moved": r => {
        let moved = r.order.split_off_moved(&*string(40))?;
        r.order.set_moved(moved)?
    };
}

/// The simulated medium, of which one step may fail.
#[derive(Debug)]
struct Faulty {
    inner: Arc<SimMedium>,
    /// Steps until the one that fails.
    left: AtomicU64,
    /// The step that fails is made all the same: nobody learns of that.
    is_made: bool,
}

impl Faulty {
    fn step(&self, step: impl FnOnce() -> bartender_pm::Result<()>) -> bartender_pm::Result<()> {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.wrapping_sub(1), Ordering::Relaxed);
        if left != 0 {
            return step();
        }
        if self.is_made {
            step()?;
        }
        Err(bartender_pm::Error::Io {
            path: self.path().into(),
            action: "write to",
            source: std::io::Error::other("on purpose"),
        })
    }

    /// The step `nth` from now, from 0, fails.
    fn arm(&self, nth: u64) {
        self.left.store(nth, Ordering::Relaxed);
    }

    fn has_struck(&self) -> bool {
        self.left.load(Ordering::Relaxed) > u64::MAX / 2
    }
}

impl Medium for Faulty {
    fn kind(&self) -> MediumKind {
        self.inner.kind()
    }
    fn log_style(&self) -> LogStyle {
        self.inner.log_style()
    }
    fn path(&self) -> &Path {
        self.inner.path()
    }
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> bartender_pm::Result<()> {
        self.inner.read(offset, buf)
    }
    fn write(&self, offset: u64, bytes: &[u8]) -> bartender_pm::Result<()> {
        self.step(|| self.inner.write(offset, bytes))
    }
    fn persist(&self, ranges: &[(u64, u64)]) -> bartender_pm::Result<()> {
        self.step(|| self.inner.persist(ranges))
    }
    fn append(&self, pieces: &[(u64, &[u8])]) -> bartender_pm::Result<()> {
        self.step(|| self.inner.append(pieces))
    }
    fn grow(&self, len: u64) -> bartender_pm::Result<()> {
        self.step(|| self.inner.grow(len))
    }
    fn view(&self) -> ViewSource<'_> {
        self.inner.view()
    }
}

const SIZE: u64 = 4 << 20;
const KINDS: [SimKind; 2] = [SimKind::Disk, SimKind::Dax];
const NEVER: u64 = u64::MAX / 2;

type Bank = Heap<All>;

fn run(heap: &Bank, program: Program) -> Result<()> {
    heap.transaction(|tx| program(tx, heap.root()))
}

fn open(
    memory: &Arc<SimMemory>,
    kind: SimKind,
    image: Image,
    is_made: bool,
) -> (Bank, Arc<Faulty>) {
    let inner = SimMedium::new(kind, image, memory);
    inner.stop_recording();
    let medium = Arc::new(Faulty {
        inner,
        left: NEVER.into(),
        is_made,
    });
    let options = Heap::options().max_size(SIZE).log_size(256 << 10);
    let heap = options.background(false);
    let heap = heap.open_on(medium.clone(), Default::default);
    (heap.expect("opens"), medium)
}

/// A heap that programs can be run on, as it lies on its medium.
fn filled(kind: SimKind) -> (Arc<SimMemory>, Image) {
    let memory = SimMemory::new(SIZE);
    let (heap, medium) = open(&memory, kind, Image::default(), false);
    run(&heap, |tx, all| {
        fill(tx.lock(&all.root)?)?;
        all.number.store(tx, 40)?;
        all.signed.store(tx, -4)?;
        all.version.replace(tx, (0..3).map(string).collect())
    })
    .expect("commits");
    let image = medium.inner.image();
    drop(heap);
    (memory, image)
}

fn now(heap: &Bank) -> String {
    // On another thread: the lock is free.
    std::thread::scope(|scope| {
        let read = scope.spawn(|| state(heap.root()));
        read.join().expect("no panic")
    })
}

/// What a transaction must not leave behind.
fn traces(heap: &Bank) -> (String, u64, u64) {
    let stats = heap.stats();
    (now(heap), stats.live_blocks, stats.live_bytes)
}

/// Runs `fail`, which has to fail; nothing is left of it. Run again and again, it takes no more memory at some time:
/// buffers that are kept have grown by then.
fn leaves_no_trace(heap: &Bank, what: &str, fail: impl Fn() -> Result<()>) {
    let before = traces(heap);
    let stays = (0..8).any(|_| {
        let live = LIVE.get();
        let failed = fail();
        assert!(failed.is_err(), "{what}: {failed:?}");
        drop(failed);
        LIVE.get() == live
    });
    assert!(stays, "{what}: ordinary memory is leaked");
    assert_eq!(traces(heap), before, "{what}");
    let checked = heap.check();
    assert!(checked.is_ok(), "{what}: {checked:?}");
}

/// How the state of the heap is after an undisturbed run.
fn expected(memory: &Arc<SimMemory>, kind: SimKind, image: &Image, program: Program) -> String {
    let (heap, _medium) = open(memory, kind, image.clone(), false);
    run(&heap, program).expect("commits");
    heap.check().expect("passes");
    now(&heap)
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn what_fails_inside_of_a_transaction_leaves_no_trace() {
    if !mutant::ON {
        return;
    }
    let mut allocations = 0;
    for kind in KINDS {
        let (memory, image) = filled(kind);
        for &(name, program) in PROGRAMS.iter().chain(BESIDE) {
            let expected = expected(&memory, kind, &image, program);
            let (heap, _medium) = open(&memory, kind, image.clone(), false);
            let what = |how: &str| format!("{name}, {kind:?}: {how}");

            leaves_no_trace(&heap, &what("an error"), || {
                heap.transaction(|tx| {
                    program(tx, heap.root())?;
                    Err(Error::abort("on purpose"))
                })
            });
            leaves_no_trace(&heap, &what("a panic"), || {
                let panicking = AssertUnwindSafe(|| {
                    heap.transaction(|tx| {
                        program(tx, heap.root())?;
                        resume_unwind(Box::new("on purpose"))
                    })
                });
                catch_unwind(panicking).unwrap_or(Err(Error::Busy))
            });
            leaves_no_trace(&heap, &what("a full log"), || {
                fault::with("append", 0, || run(&heap, program)).0
            });
            // Each allocation in turn, until there are no more.
            for nth in 0.. {
                let run = || fault::with("alloc", nth, || run(&heap, program));
                let before = traces(&heap);
                let (ended, struck) = run();
                if !struck {
                    ended.unwrap_or_else(|error| panic!("{}: {error}", what("at last")));
                    break;
                }
                drop(ended);
                assert_eq!(traces(&heap), before, "{}", what("the first failure"));
                let how = what(&format!("allocation {nth}"));
                leaves_no_trace(&heap, &how, || run().0);
                // The same as a part of a transaction that goes on.
                let goes_on = fault::with("alloc", nth, || {
                    heap.transaction(|tx| {
                        let part = tx.savepoint(|tx| program(tx, heap.root()));
                        assert!(part.is_err(), "{how}");
                        Ok(())
                    })
                });
                goes_on.0.unwrap_or_else(|error| panic!("{how}: {error}"));
                assert_eq!(traces(&heap), before, "{how}, in a savepoint");
                allocations += 1;
            }
            assert_eq!(now(&heap), expected, "{}", what("and then it succeeds"));
            heap.check().expect("passes");
        }
    }
    println!(
        "{} programs, {allocations} allocations failed",
        PROGRAMS.len() + BESIDE.len()
    );
}

/// A closure that goes on after an error commits what else it did, unless the method says that it can only abort: then
/// nothing is leaked, nothing is lost, and what a crash leaves is what everybody saw.
#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn a_transaction_that_goes_on_without_what_found_no_room_is_sound() {
    if !mutant::ON {
        return;
    }
    let (mut committed, mut doomed) = (0, 0);
    for kind in KINDS {
        let (memory, image) = filled(kind);
        for &(name, program) in PROGRAMS.iter().chain(BESIDE) {
            for nth in 0.. {
                let (heap, medium) = open(&memory, kind, image.clone(), false);
                let before = now(&heap);
                let what = format!("{name}, {kind:?}, allocation {nth}");
                let mut struck = false;
                let outcome = heap.transaction(|tx| {
                    let (ended, strikes) = fault::with("alloc", nth, || program(tx, heap.root()));
                    assert_eq!(ended.is_err(), strikes, "{what}");
                    struck = strikes;
                    // What was given back is anybody's. (There a lock is granted again.)
                    tx.savepoint(|tx| {
                        let mut root = tx.lock(&heap.root().root)?;
                        let mut root = root.project();
                        root.list.extend((20..40).map(string))?;
                        root.tree.extend((100..110).map(|n| (n, string(n))))?;
                        root.bytes.extend_from_slice(&[5; 5000])
                    })
                });
                match outcome {
                    Ok(()) => committed += u64::from(struck),
                    Err(Error::Doomed { .. }) => {
                        assert_eq!(now(&heap), before, "{what}");
                        doomed += 1;
                    }
                    Err(error) => panic!("{what}: {error}"),
                }
                let checked = heap.check();
                checked.unwrap_or_else(|error| panic!("{what}: {error}"));
                let shown = now(&heap);
                let left = medium.inner.image();
                drop((heap, medium));
                let (heap, _medium) = open(&memory, kind, left, false);
                let checked = heap.check();
                checked.unwrap_or_else(|error| panic!("{what}, reopened: {error}"));
                assert_eq!(now(&heap), shown, "{what}, reopened");
                if !struck {
                    break;
                }
            }
        }
    }
    println!("{committed} went on, {doomed} could not");
    assert!(committed > 4 * doomed);
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn after_an_error_of_the_medium_exactly_what_was_committed_is_there() {
    let mut steps = 0;
    for kind in KINDS {
        let (memory, image) = filled(kind);
        for (i, &(name, program)) in PROGRAMS.iter().chain(BESIDE).enumerate() {
            let expected = expected(&memory, kind, &image, program);
            // All steps of the commit, and some of the checkpoint's many.
            let steps_to_try = std::iter::successors(Some(0), |nth| Some(nth + 1 + nth / 4));
            for nth in steps_to_try {
                let is_made = (i as u64 + nth).is_multiple_of(2);
                let (heap, medium) = open(&memory, kind, image.clone(), is_made);
                let before = now(&heap);
                medium.arm(nth);
                // With a checkpoint, whose steps fail too.
                let ended = run(&heap, program);
                let committed = ended.is_ok();
                let ended = ended.and_then(|()| heap.checkpoint());
                let struck = medium.has_struck();
                medium.arm(NEVER);
                let what = format!("{name}, {kind:?}, step {nth}");
                if struck {
                    assert!(ended.is_err(), "{what}");
                    steps += 1;
                    // It may be poisoned by now, and then says so. It shows nothing else than what is committed.
                    let again = heap.transaction(|tx| {
                        *tx.lock(&heap.root().root)?.project().number += 0;
                        Ok(())
                    });
                    if again.is_ok() {
                        assert_eq!(now(&heap), if committed { &*expected } else { &*before });
                    }
                } else {
                    ended.unwrap_or_else(|error| panic!("{what}: {error}"));
                }
                let left = medium.inner.image();
                drop((heap, medium));
                let (heap, _medium) = open(&memory, kind, left, false);
                heap.check()
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                let found = now(&heap);
                let is_before = found == before && !committed;
                assert!(is_before || found == expected, "{what}: {found}");
                // Where nobody was told and it is not there, it can be run again.
                if is_before && before != expected {
                    run(&heap, program).expect("commits");
                    assert_eq!(now(&heap), expected, "{what}");
                }
                if !struck {
                    break;
                }
            }
        }
    }
    println!(
        "{} programs, {steps} steps failed",
        PROGRAMS.len() + BESIDE.len()
    );
}

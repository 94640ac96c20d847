//! Table entries that some record has to take along, for users of the heap
//! whose commits do not know which blocks they link: the C interface.
//!
//! It promises that an entry which was pushed is in every record appended from
//! then on until one with it is durable, and that of two entries for one place
//! the newer one has the last word in the log. It writes no record itself.

use crate::heap::Entry;
use crate::layout::TableEntry;
use bartender_pm::mutant;
use bartender_pm::sync::Mutex;
use bartender_pm::sync::atomic::{AtomicUsize, Ordering::*};
use std::collections::BTreeMap;

/// Entries that are not durable yet.
///
/// *Why an entry is pushed before its block is seen.* `Heap::alloc` returns an
/// entry with each block of a superblock until
/// [`entry_durable`](crate::Heap::entry_durable) is called. Here that call does not say that it
/// is durable but that somebody takes care: who allocates pushes the entry and
/// calls it at once. Blocks that come without an entry come from a superblock of
/// which somebody has pushed it before: a superblock belongs to one thread, and
/// changes hands under a lock. So, by the time that anybody can store a block's
/// address anywhere, its superblock's entry was pushed, and whoever reads that
/// address reads `count` and `entries` after the push.
///
/// *Why every record takes all.* Which blocks a range of bytes links, nobody
/// knows. A record that linked one without its entry would be durable with a
/// link into nothing. It does not help that another record with the entry was
/// appended before: on lanes the later one may survive alone. So an entry stays
/// here until a record that carries it *is durable*, and then a record without
/// it comes after one that no crash takes back.
///
/// *Why the records that carry something are appended one after the other.* A
/// superblock may die while its entry waits, and another be born in its place.
/// The table has one slot for the two. If a record that had copied the older
/// entry drew its number after one that carried the newer, the older would stand
/// there in the end. `order` is held from copying until the number is drawn.
/// Where nothing is pending, as most of the time, no lock is taken.
///
/// Who may touch what: `entries` under its lock; `count` is their number, stored
/// under that lock, read by anyone. Lock order: `order`, then whatever an append
/// takes; `entries` alone.
#[derive(Debug, Default)]
pub struct Pending {
    order: Mutex<()>,
    entries: Mutex<BTreeMap<u64, [u8; 16]>>,
    count: AtomicUsize,
}

/// What a record carried: hand it to [`Pending::durable`].
#[derive(Debug, Default)]
#[must_use]
pub struct Carried(Vec<Entry>);

impl Pending {
    /// Nothing waits.
    pub fn new() -> Self {
        Pending::default()
    }

    /// From now on records take `entry` along. Call
    /// [`Heap::entry_durable`](crate::Heap::entry_durable) next, and hand out
    /// its block after that.
    #[cold]
    pub fn push(&self, entry: Entry) {
        let mut entries = self.entries.lock();
        let birth = |bytes| TableEntry::from_bytes(bytes).birth;
        let old = entries.get(&entry.offset);
        if old.is_none_or(|old| birth(*old) < birth(entry.bytes)) {
            entries.insert(entry.offset, entry.bytes);
        }
        self.count.store(entries.len(), Release);
    }

    /// How many wait: a record takes 24 bytes for each.
    pub fn len(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Runs `append`, which appends one record with the entries it is given. On
    /// the caller's side the record's other bytes have been copied before.
    pub fn append<R>(&self, append: impl FnOnce(&[Entry]) -> R) -> (R, Carried) {
        if self.count.load(Acquire) == 0 || mutant::is("no_entries") {
            return (append(&[]), Carried::default());
        }
        let ordered = (!mutant::is("entries_unordered")).then(|| self.order.lock());
        let entries = self.entries.lock();
        let carried = entries.iter().map(|(offset, bytes)| Entry {
            offset: *offset,
            bytes: *bytes,
        });
        let carried = Carried(carried.collect());
        drop(entries);
        if mutant::is("entries_once") {
            self.forget(&carried);
        }
        let result = append(&carried.0);
        drop(ordered);
        (result, carried)
    }

    /// A record that carried these is durable.
    pub fn durable(&self, carried: Carried) {
        if !carried.0.is_empty() {
            self.forget(&carried);
        }
    }

    #[cold]
    fn forget(&self, carried: &Carried) {
        let mut entries = self.entries.lock();
        for entry in &carried.0 {
            // Another may have been born there meanwhile.
            if entries.get(&entry.offset) == Some(&entry.bytes) {
                entries.remove(&entry.offset);
            }
        }
        self.count.store(entries.len(), Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    pub(super) fn entry(offset: u64, birth: u64) -> Entry {
        let entry = TableEntry {
            birth,
            units: 8,
            class: 3,
            flags: 0,
        };
        Entry {
            offset,
            bytes: entry.to_bytes(),
        }
    }

    #[test]
    fn an_entry_travels_until_a_record_with_it_is_durable() {
        let pending = Pending::new();
        pending.push(entry(16, 1));
        let (seen, first) = pending.append(<[Entry]>::to_vec);
        assert_eq!(seen, [entry(16, 1)]);
        let (seen, second) = pending.append(<[Entry]>::to_vec);
        assert_eq!(seen, [entry(16, 1)]);
        pending.durable(second);
        let (seen, third) = pending.append(<[Entry]>::to_vec);
        assert!(seen.is_empty());
        pending.durable(first);
        pending.durable(third);
    }

    #[test]
    fn a_newer_entry_takes_the_place_of_an_older_one_and_stays() {
        let pending = Pending::new();
        pending.push(entry(16, 1));
        let ((), old) = pending.append(|_| ());
        pending.push(entry(16, 2));
        pending.push(entry(16, 1));
        pending.durable(old);
        let (seen, _new) = pending.append(<[Entry]>::to_vec);
        assert_eq!(seen, [entry(16, 2)]);
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use bartender_pm::sync::{Arc, thread};

    /// Birth and number of records; the log is what was appended, in order.
    #[derive(Default)]
    struct World {
        pending: Pending,
        log: Mutex<Vec<Vec<u64>>>,
        durable: Mutex<Vec<bool>>,
    }

    impl World {
        fn born(&self, birth: u64) {
            let entry = TableEntry {
                birth,
                units: 8,
                class: 3,
                flags: 0,
            };
            self.pending.push(Entry {
                offset: 16,
                bytes: entry.to_bytes(),
            });
        }

        /// Commits a link into the superblock born as `birth`. When its record
        /// gets its number, that record or a durable one carries the entry.
        fn commit(&self, birth: u64) {
            let (at, carried) = self.pending.append(|entries| {
                let births = entries
                    .iter()
                    .map(|e| TableEntry::from_bytes(e.bytes).birth);
                let births: Vec<u64> = births.collect();
                let (mut log, mut durable) = (self.log.lock(), self.durable.lock());
                let known = |(births, durable): (&Vec<u64>, &bool)| {
                    *durable && births.iter().any(|b| *b >= birth)
                };
                let before = log.iter().zip(&*durable).any(known);
                assert!(before || births.iter().any(|b| *b >= birth), "a link alone");
                log.push(births);
                durable.push(false);
                log.len() - 1
            });
            self.durable.lock()[at] = true;
            self.pending.durable(carried);
        }
    }

    /// One superblock dies and another is born in its place, while a second
    /// thread commits; then both commit.
    fn born_again_beside_a_commit() {
        loom::model(|| {
            let world = Arc::new(World::default());
            world.born(1);
            let other = {
                let world = world.clone();
                thread::spawn(move || world.commit(1))
            };
            world.born(2);
            world.commit(2);
            other.join().expect("the model's thread");
            let log = world.log.lock();
            let last = log.iter().flatten().last();
            assert_eq!(last, Some(&2), "the older entry has the last word");
        });
    }

    /// Two threads link blocks of one superblock.
    fn two_commits() {
        loom::model(|| {
            let world = Arc::new(World::default());
            world.born(1);
            let other = {
                let world = world.clone();
                thread::spawn(move || world.commit(1))
            };
            world.commit(1);
            other.join().expect("the model's thread");
        });
    }

    #[test]
    fn loom_every_link_is_durable_with_its_entry() {
        two_commits();
    }

    #[test]
    #[should_panic(expected = "a link alone")]
    fn loom_entries_that_travel_once_are_noticed() {
        mutant::with("entries_once", two_commits);
    }

    #[test]
    fn loom_the_newest_entry_has_the_last_word() {
        born_again_beside_a_commit();
    }

    #[test]
    #[should_panic(expected = "the older entry")]
    fn loom_entries_without_an_order_are_noticed() {
        mutant::with("entries_unordered", born_again_beside_a_commit);
    }
}

//! What is measured as a store: ours, and those that people use today to make a map survive. All of them keep a map
//! from words to words and one from texts to texts, in the types that each has for that.
//!
//! A subject is set up as its own documentation advises: a cache that holds everything, a batch as one transaction.
//! Its commits promise what ours do on the same medium ([`Survives`]), and not more.

mod ours;
#[cfg(feature = "stores")]
mod peers;
#[cfg(feature = "stores")]
mod sqlite;

pub(super) use ours::{BTreeStore, HashStore, Parts, options};

use std::path::Path;

/// What a commit has to survive once it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Survives {
    /// The death of the process, as commits in shared memory do.
    Death,
    /// The loss of power, as commits on a disk do.
    PowerLoss,
}

/// A map that survives. Whatever fails ends the benchmark.
pub(super) trait Store: Sync {
    /// Puts all pairs in, in one durable transaction.
    fn insert_words(&self, pairs: &[(u64, u64)]);

    /// As [`insert_words`](Self::insert_words), of texts.
    fn insert_texts(&self, pairs: &[(String, String)]);

    /// Empties both maps, and waits until what they had can be used again, where the store says so.
    fn clear(&self);

    /// Puts one pair in, in a durable transaction of its own.
    fn insert(&self, key: u64, value: u64);

    /// The sum of the values of keys that are there, in one transaction if that is faster.
    fn read(&self, keys: &[u64]) -> u64;
}

/// Where a store is, and what for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) folder: &'a Path,
    #[cfg_attr(
        not(feature = "stores"),
        expect(dead_code, reason = "the medium decides it for ours")
    )]
    pub(super) survives: Survives,
    /// So many will be in it, about.
    pub(super) entries: usize,
}

/// How a kind of store is opened, or created.
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// Whether it is ours.
    pub(super) ours: bool,
    pub(super) open: fn(Setting<'_>) -> Box<dyn Store>,
    /// Whether its durable commits on a disk survive the loss of power: on a disk it is not measured else.
    pub(super) syncs: bool,
    /// Of a hundred single commits in shared memory, as many are done in a round: slow ones take no longer then.
    pub(super) percent: usize,
}

const fn ours(name: &'static str, open: fn(Setting<'_>) -> Box<dyn Store>) -> Kind {
    Kind {
        name,
        ours: true,
        open,
        syncs: true,
        percent: 100,
    }
}

impl Kind {
    /// Whether its commits survive what they have to.
    pub(super) fn promises(&self, survives: Survives) -> bool {
        self.syncs || survives == Survives::Death
    }
}

/// All kinds, ours first.
pub(super) const KINDS: &[Kind] = &[
    ours("PHashMap", |setting| Box::new(HashStore::open(setting))),
    ours("PBTreeMap", |setting| Box::new(BTreeStore::open(setting))),
    #[cfg(feature = "stores")]
    peers::REDB,
    #[cfg(feature = "stores")]
    peers::HEED,
    #[cfg(feature = "stores")]
    peers::FJALL,
    #[cfg(feature = "stores")]
    peers::SLED,
    #[cfg(feature = "stores")]
    sqlite::SQLITE,
];

/// Bytes that each peer may use as a cache: more than any workload here has.
#[cfg(feature = "stores")]
const CACHE: usize = 1 << 30;

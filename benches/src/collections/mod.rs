//! The collections: reading beside `std`'s, and as stores beside those that people use to make a map survive, in
//! shared memory and on a disk.
//!
//! Keys come in random order. What is measured on `std`'s maps has our hash function. A store is as `stores` sets it up.
//! Before who inserts is timed, free memory is touched ([`touch_free_memory`](crate::machine::touch_free_memory)).
//!
//! - *reading*: look-up, iteration, ranges, beside `std`'s collections ([`reading`]);
//! - *one transaction*: a million entries in one durable transaction, into a new store, and into one that was emptied of as
//!   many ([`bulk`]): in between lies what the system takes for memory and space that nobody had before;
//! - *single commits*: each entry in a durable transaction of its own, on one thread and several ([`single`]);
//! - *point reads*: of all entries, in another random order ([`bulk`]);
//! - *opening*: after the process that had the store was killed by SIGKILL ([`killed`]);
//! - *marking* beside the program after that, and what it costs ([`marked`]);
//! - *space*: bytes for an entry ([`space`]).

mod bulk;
mod killed;
mod marked;
mod reading;
mod single;
mod space;
mod stores;

use crate::args::Args;
use crate::harness::Report;
pub(crate) use killed::{CHILD, child};
use siphasher::sip::SipHasher13;
use std::error::Error;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Barrier;
use std::time::Instant;
use stores::{KINDS, Setting, Store, Survives};
use tempfile::TempDir;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Extent<'a> {
    /// Entries.
    n: usize,
    rounds: usize,
    args: &'a Args,
}

/// The hash function of `PHashMap`, for `std`'s map, with a map's own keys as in `RandomState`: constants would be folded.
#[derive(Clone)]
struct SameHasher(u64, u64);

impl SameHasher {
    fn new() -> SameHasher {
        black_box(SameHasher(1, 2))
    }
}

impl BuildHasher for SameHasher {
    type Hasher = SipHasher13;
    #[inline]
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

/// Bytes of free memory, for each entry, that are touched before inserts are timed: more than any store takes.
const TOUCHED: usize = 1 << 10;

/// Where a store lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Medium {
    Shared,
    Disk,
}

impl Medium {
    fn name(self) -> &'static str {
        match self {
            Medium::Shared => "shared memory",
            Medium::Disk => "disk",
        }
    }

    fn survives(self) -> Survives {
        match self {
            Medium::Shared => Survives::Death,
            Medium::Disk => Survives::PowerLoss,
        }
    }

    /// A new folder there.
    fn folder(self) -> TempDir {
        let parent = match self {
            Medium::Shared => "/dev/shm".into(),
            Medium::Disk => {
                std::env::var_os("BARTENDER_BENCH_DIR").map_or("target".into(), PathBuf::from)
            }
        };
        tempfile::tempdir_in(parent).expect("a folder for the measurements")
    }
}

/// The `i`th key: all different, in random order.
fn key(i: usize) -> u64 {
    let z = (i as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The first `n` pairs of words.
fn words(n: usize) -> Vec<(u64, u64)> {
    (0..n).map(|i| (key(i), i as u64)).collect()
}

/// The first `n` pairs of texts, of 20 and 12 bytes.
fn texts(n: usize) -> Vec<(String, String)> {
    let pair = |i| (format!("key {:016x}", key(i)), format!("value {i:06}"));
    (0..n).map(pair).collect()
}

/// The first `n` keys, in an order that has nothing to do with that in which they are put in.
fn order(n: usize) -> Vec<u64> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, key(i) as usize % (i + 1));
    }
    order.into_iter().map(key).collect()
}

/// Nanoseconds in which each of so many threads does one of its `n` operations; `f` does them all, for thread `i`.
fn on_threads(threads: usize, n: usize, f: impl Fn(usize) + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let one = |i: usize| {
        crate::machine::pin(i);
        barrier.wait();
        let start = Instant::now();
        f(i);
        start.elapsed()
    };
    let longest = std::thread::scope(|s| {
        let one = &one;
        let all: Vec<_> = (0..threads).map(|i| s.spawn(move || one(i))).collect();
        let times = all.into_iter().map(|t| t.join().expect("a thread"));
        times.max().expect("one thread at least")
    });
    longest.as_nanos() as f64 / n as f64
}

/// The peer with the best figure of a workload, and the figure: the lowest, or the highest.
fn best_peer(
    report: &Report,
    workload: &str,
    threads: usize,
    lowest: bool,
) -> Option<(String, f64)> {
    let is_peer = |name: &str| KINDS.iter().any(|kind| kind.name == name && !kind.ours);
    let sign = if lowest { 1.0 } else { -1.0 };
    report
        .subjects(workload, threads)
        .filter(|(name, _)| is_peer(name))
        .min_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1)))
        .map(|(name, figure)| (name.to_owned(), figure))
}

/// All of it.
pub(crate) fn run(report: &mut Report, args: &Args) -> Result<(), Box<dyn Error>> {
    let usual = if args.quick { 20_000 } else { 1_000_000 };
    let extent = Extent {
        n: args.n.unwrap_or(usual),
        rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 5 }),
        args,
    };
    if !cfg!(feature = "stores") {
        println!("without redb, heed, fjall, sled and SQLite: feature `stores`");
    }
    reading::run(report, extent);
    bulk::run(report, extent);
    single::run(report, extent)?;
    killed::run(report, extent)?;
    marked::run(report, extent)?;
    space::run(report, extent);
    Ok(())
}

//! Allocation beside the volatile allocators that people use: the classic
//! programs at 1, 2 and 4 threads, all subjects in turns within one run; then
//! how much space they take.

mod programs;
mod space;
mod subject;

use crate::args::Args;
use crate::harness::{Report, Subject};
use programs::Order;
pub(crate) use space::{CHILD, child};
use std::error::Error;
use subject::{Allocator, Bartender, BartenderC, LIBC, MIMALLOC, PMEMOBJ};
#[cfg(feature = "peers")]
use subject::{JEMALLOC, SNMALLOC, TCMALLOC};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Extent<'a> {
    /// Operations of a thread in a round.
    n: usize,
    rounds: usize,
    args: &'a Args,
}

impl<'a> Extent<'a> {
    fn new(args: &'a Args) -> Extent<'a> {
        let n = if args.quick { 100_000 } else { 1_000_000 };
        Extent {
            n: args.n.unwrap_or(n),
            rounds: args.rounds(),
            args,
        }
    }
}

/// A program over every subject.
macro_rules! over_all {
    ($report:expr, $extent:expr, $opened:expr, $name:expr, $threads:expr, $program:expr) => {
    if $extent.args.wants($name) {
        let mut subjects: Vec<Subject<'_>> = Vec::new();
        over_all!(@one subjects, $extent, &$opened.rust, $program);
        over_all!(@one subjects, $extent, &$opened.c, $program);
        over_all!(@one subjects, $extent, &MIMALLOC, $program);
        over_all!(@one subjects, $extent, &LIBC, $program);
        #[cfg(feature = "peers")]
        {
            over_all!(@one subjects, $extent, &JEMALLOC, $program);
            over_all!(@one subjects, $extent, &SNMALLOC, $program);
            over_all!(@one subjects, $extent, &TCMALLOC, $program);
        }
        #[cfg(feature = "pmemobj")]
        over_all!(@one subjects, $extent, &$opened.pmemobj, $program);
        $report.measure($name, $threads, "ns", $extent.rounds, subjects);
    }
    };
    (@one $subjects:expr, $extent:expr, $subject:expr, $program:expr) => {{
        let subject = $subject;
        let (name, n) = (name_of(subject), operations(subject, $extent.n));
        $subjects.push((name, Box::new(move || $program(subject, n))));
    }};
}

fn name_of<A: Allocator>(_: &A) -> &'static str {
    A::NAME
}

/// How many of a program's `n` operations a subject does.
fn operations<A: Allocator>(_: &A, n: usize) -> usize {
    (n / A::FEWER).max(1)
}

/// The subjects that have a file.
struct Opened {
    rust: Bartender,
    c: BartenderC,
    #[cfg(feature = "pmemobj")]
    pmemobj: subject::Pmemobj,
}

const THREADS: [usize; 3] = [1, 2, 4];

/// Runs everything that was asked for.
pub(crate) fn run(report: &mut Report, args: &Args) -> Result<(), Box<dyn Error>> {
    let extent = Extent::new(args);
    let opened = &Opened {
        rust: Bartender::new(REGION)?,
        c: BartenderC::new(REGION)?,
        #[cfg(feature = "pmemobj")]
        pmemobj: subject::Pmemobj::new(POOL)?,
    };
    println!(
        "bartender, bartender-c: a region each in shared memory (tmpfs), used from Rust and through the C interface"
    );
    #[cfg(feature = "pmemobj")]
    println!("{PMEMOBJ}: {}", crate::pmemobj::medium());
    let sizes = |usual: &[usize]| args.size.map_or(usual.to_vec(), |size| vec![size]);
    for &threads in args.threads.as_deref().unwrap_or(&THREADS) {
        for size in sizes(&[64, 256]) {
            let name = &format!("pair {}", bytes(size));
            over_all!(report, extent, opened, name, threads, |a, n| {
                programs::pairs(a, threads, n, size)
            });
            best_peer(report, name, threads, 1.0);
        }
        for size in sizes(&[64, 256, 4096]) {
            for (how, order) in [
                ("first in first out", Order::First),
                ("last in first out", Order::Last),
                ("random", Order::Random),
            ] {
                let name = &format!("batch {}, {how}", bytes(size));
                over_all!(report, extent, opened, name, threads, |a, n| {
                    programs::batches(a, threads, n, size, order)
                });
                best_peer(report, name, threads, 1.1);
            }
        }
        over_all!(report, extent, opened, "threadtest", threads, |a, n| {
            programs::threadtest(a, threads, n)
        });
        over_all!(report, extent, opened, "shbench", threads, |a, n| {
            programs::shbench(a, threads, n)
        });
        over_all!(report, extent, opened, "larson", threads, |a, n| {
            programs::larson(a, threads, n)
        });
        over_all!(report, extent, opened, "cache-thrash", threads, |a, n| {
            programs::thrash(a, threads, n)
        });
        over_all!(report, extent, opened, "cache-scratch", threads, |a, n| {
            programs::scratch(a, threads, n)
        });
        over_all!(
            report,
            extent,
            opened,
            "linux-scalability",
            threads,
            |a, n| { programs::pairs(a, threads, n, 512) }
        );
        let mut classics = CLASSICS.to_vec();
        if threads > 1 {
            over_all!(
                report,
                extent,
                opened,
                "producer-consumer",
                threads,
                |a, n| { programs::producers(a, threads, n) }
            );
            classics.push("producer-consumer");
        }
        for name in classics {
            if !args.wants(name) {
                continue;
            }
            for ours in OURS {
                let goal =
                    format!("{name}, {threads} threads: throughput of {ours} against mimalloc");
                let time = |subject| report.median(name, threads, subject);
                let reached = time(subject::Mimalloc::NAME) / time(ours);
                report.at_least(goal, reached, 1.0);
            }
        }
    }
    scaling(report);
    space::run(report, args)?;
    durable_peer(report);
    Ok(())
}

/// A size as the programs' names have it.
fn bytes(size: usize) -> String {
    match size {
        _ if size >= 1024 && size.is_multiple_of(1024) => format!("{} KiB", size / 1024),
        _ => format!("{size} B"),
    }
}

/// What is ours among the subjects.
const OURS: [&str; 2] = [Bartender::NAME, BartenderC::NAME];

/// Bytes that our region may grow to.
const REGION: u64 = 8 << 30;

/// Bytes of libpmemobj's pool.
#[cfg(feature = "pmemobj")]
const POOL: usize = 512 << 20;

const CLASSICS: [&str; 6] = [
    "threadtest",
    "shbench",
    "larson",
    "cache-thrash",
    "cache-scratch",
    "linux-scalability",
];

/// Peers that are shown, and are no measure of speed.
const NOT_FOR_SPEED: [&str; 2] = [subject::Libc::NAME, PMEMOBJ];

/// Our time against that of the fastest peer that is an allocator for speed. The
/// C library's is measured and shown: what it takes for 4 KiB depends on whether
/// what ran before has left its arenas with room (20 ns), or it gives each batch
/// back to the kernel and faults it in again (2000 ns and more).
fn best_peer(report: &mut Report, workload: &str, threads: usize, bound: f64) {
    let best = report
        .subjects(workload, threads)
        .filter(|(subject, _)| !OURS.contains(subject) && !NOT_FOR_SPEED.contains(subject))
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(subject, median)| (subject.to_owned(), median));
    let Some((peer, best)) = best else { return };
    for ours in OURS {
        let goal =
            format!("{workload}, {threads} threads: time of {ours} against the best ({peer})");
        report.at_most(goal, report.median(workload, threads, ours) / best, bound);
    }
}

/// By what the rate of `subject` grows from one thread to two.
fn scale(report: &Report, name: &str, subject: &str) -> f64 {
    // Times are those of one thread's operations: a rate is threads by time.
    2.0 * report.median(name, 1, subject) / report.median(name, 2, subject)
}

/// Twice the threads do the work at nearly twice the rate, where the best peer's do.
fn scaling(report: &mut Report) {
    for name in CLASSICS {
        let best = report
            .subjects(name, 1)
            .filter(|(subject, _)| *subject != PMEMOBJ)
            .map(|(subject, _)| scale(report, name, subject))
            .fold(0.0, f64::max);
        if best >= 1.8 {
            for ours in OURS {
                let goal =
                    format!("{name}: scaling of {ours} from 1 to 2 threads (best {best:.2})");
                report.at_least(goal, scale(report, name, ours), 1.8);
            }
        }
    }
}

/// How we stand beside an allocator whose blocks are durable too. No goal: each
/// of its calls makes a block durable, of ours the transaction that takes it.
fn durable_peer(report: &Report) {
    let time = |subject| report.median("pair 64 B", 1, subject);
    if time(PMEMOBJ).is_finite() {
        let faster = OURS.map(|ours| format!("{ours} {:.0}", time(PMEMOBJ) / time(ours)));
        println!(
            "\npair 64 B, 1 thread, times as fast as {PMEMOBJ}: {} (ours durable with their transaction only)",
            faster.join(", ")
        );
    }
}

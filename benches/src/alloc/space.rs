//! How much space the allocators take for what they hold, each in a process of
//! its own, whose resident set says it.
//!
//! *Live* is what was asked for. *Heap* is, for bartender, the home space in
//! superblocks and large runs (`Stats::reserved_peak`), and for every subject,
//! bartender too, the growth of the process's resident set at its peak (every
//! page of every block is written to). What the programs remember of their
//! blocks stands there before the counting begins.

mod programs;

use super::subject::{Allocator, Bartender, LIBC, MIMALLOC};
#[cfg(feature = "peers")]
use super::subject::{JEMALLOC, SNMALLOC, TCMALLOC};
use crate::args::Args;
use crate::harness::Report;
use bartender_heap::Stats;
use programs::Tally;
use std::collections::BTreeMap;
use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

/// The word that makes a process of this program a measurement.
pub(crate) const CHILD: &str = "--measure-space";

/// What the region of a child may grow to.
const REGION: u64 = 16 << 30;

/// The programs: name in a child's command line, name in the report.
const PROGRAMS: [(&str, &str); 3] = [
    ("consumers", "space: producer and consumer over time"),
    ("phases", "space: one size after the other"),
    ("soak", "space: fragmentation soak"),
];

/// Measures every program over every subject.
pub(crate) fn run(report: &mut Report, args: &Args) -> Result<(), Box<dyn Error>> {
    let threads = args.threads.clone().unwrap_or_else(|| vec![1, 2, 4]);
    for (program, name) in PROGRAMS {
        for &threads in threads.iter().filter(|_| args.wants(name)) {
            if program == "consumers" && threads < 2 {
                continue;
            }
            let live = (if args.quick { 32 } else { 128 }) << 20;
            let n = args.n.unwrap_or(if args.quick { 1 << 20 } else { 1 << 23 });
            println!("\n{name} ({threads} threads), peaks in bytes for a live byte");
            for subject in subjects() {
                let found = measure(program, subject, [threads, live, n])?;
                note(report, name, threads, subject, &found);
            }
        }
    }
    if args.wants(OBJECTS) {
        objects(report, args)?;
    }
    Ok(())
}

/// One line and its rows; of ours the goal too.
fn note(report: &mut Report, name: &str, threads: usize, subject: &str, found: &Found) {
    let live = found["live"];
    let resident = found["resident"] / live;
    report.note(name, threads, subject, resident, "resident/live");
    let Some(reserved) = found.get("reserved") else {
        println!("  {subject:<20} {resident:>7.3} resident");
        return;
    };
    let ratio = reserved / live;
    let usable = found["usable"] / live;
    let constant = constant(threads, found["classes"] as usize);
    println!(
        "  {subject:<20} {resident:>7.3} resident, {ratio:.3} in superblocks and runs \
         (blocks as long as their classes: {usable:.3}; constant {:.1} MiB)",
        constant / f64::from(1 << 20)
    );
    report.note(name, threads, "bartender (reserved)", ratio, "heap/live");
    let goal = format!("{name}, {threads} threads: (peak heap − constant) / peak live");
    report.at_most(goal, (reserved - constant) / live, 1.15);
}

/// The constant beside which the goal stands: a superblock of 64 KiB for each
/// thread and size class, which is what the thread hands out from and what any
/// heap of superblocks keeps. It is less than the emptiness rule promises, by
/// which a thread may keep four more of each class before an empty one has to go,
/// and 16 to 64 before one does that is partly in use.
fn constant(threads: usize, classes: usize) -> f64 {
    (threads * classes) as f64 * f64::from(64 << 10)
}

const OBJECTS: &str = "space: 64-byte objects";

/// Very many small objects.
fn objects(report: &mut Report, args: &Args) -> Result<(), Box<dyn Error>> {
    let n = args
        .n
        .unwrap_or(if args.quick { 1_000_000 } else { 10_000_000 });
    println!("\n{OBJECTS}, {n} of them, bytes for each");
    for subject in subjects() {
        let found = measure("objects", subject, [1, 0, n])?;
        let each = |what: &str| found.get(what).map(|bytes| bytes / n as f64);
        let resident = found["resident"] / n as f64;
        report.note(OBJECTS, 1, subject, resident, "B");
        let (Some(home), Some(file), Some(dram)) = (each("home"), each("file"), each("dram"))
        else {
            println!("  {subject:<20} {resident:>7.2} resident");
            continue;
        };
        // The same without touching them: what grows are our own books.
        let books = measure("untouched", subject, [1, 0, n])?["resident"] / n as f64;
        println!(
            "  {subject:<20} {resident:>7.2} resident, {home:.2} of home (of the file with its \
             log: {file:.2}), {dram:.2} of memory by our count, {books:.2} by the kernel's"
        );
        let goal = |what| format!("{n} 64-byte objects: bytes of {what} for each");
        report.at_most(goal("region (home)"), home, 66.0);
        report.at_most(goal("memory, as counted"), dram, 1.0);
        report.at_most(goal("memory, as the process grew"), books, 1.0);
    }
    Ok(())
}

/// What a child found out: names and numbers.
type Found = BTreeMap<String, f64>;

/// Runs `program` over `subject` in a process of its own.
fn measure(program: &str, subject: &str, numbers: [usize; 3]) -> Result<Found, Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([CHILD, program, subject]);
    command.args(numbers.map(|number| number.to_string()));
    let output = command.output()?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{program} over {subject}: {words}").into());
    }
    let mut found = Found::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        if let Some((name, number)) = line.split_once(' ') {
            found.insert(name.into(), number.parse()?);
        }
    }
    Ok(found)
}

fn subjects() -> Vec<&'static str> {
    let mut subjects = vec!["bartender", "mimalloc", "malloc (libc)"];
    if cfg!(feature = "peers") {
        subjects.extend(["jemalloc", "snmalloc", "tcmalloc"]);
    }
    subjects
}

/// A measurement: prints what it found, a name and a number a line.
pub(crate) fn child(mut words: impl Iterator<Item = String>) -> Result<(), Box<dyn Error>> {
    let mut word = || words.next().ok_or("a word is missing");
    let (program, subject) = (word()?, word()?);
    let job = Job {
        program,
        threads: word()?.parse()?,
        live: word()?.parse()?,
        n: word()?.parse()?,
    };
    match subject.as_str() {
        "bartender" => {
            let ours = Bartender::new(REGION)?;
            job.run(&ours);
            let stats = ours.heap().stats();
            say("reserved", stats.reserved_peak as f64);
            say("dram", stats.dram_bytes as f64);
            let (home, file) = file_bytes(&ours, &stats)?;
            say("home", home);
            say("file", file);
        }
        "mimalloc" => job.run(&MIMALLOC),
        "malloc (libc)" => job.run(&LIBC),
        #[cfg(feature = "peers")]
        "jemalloc" => job.run(&JEMALLOC),
        #[cfg(feature = "peers")]
        "snmalloc" => job.run(&SNMALLOC),
        #[cfg(feature = "peers")]
        "tcmalloc" => job.run(&TCMALLOC),
        _ => return Err(format!("no subject {subject}").into()),
    }
    Ok(())
}

/// Bytes that the file has for the home, and in all.
fn file_bytes(ours: &Bartender, stats: &Stats) -> Result<(f64, f64), Box<dyn Error>> {
    let region = ours.heap().region();
    let file = std::fs::metadata(region.path())?.blocks() as f64 * 512.0;
    let log = region.file_size() - stats.home_bytes;
    Ok((file - log as f64, file))
}

/// What a child does.
struct Job {
    program: String,
    threads: usize,
    live: usize,
    n: usize,
}

impl Job {
    fn run<A: Allocator>(&self, a: &A) {
        let tally = Tally::new();
        let before = std::cell::Cell::new(0.0);
        let begin = || before.set(resident_from_now());
        match self.program.as_str() {
            "consumers" => programs::consumers(a, &tally, self.threads, self.n, begin),
            "phases" => programs::phases(a, &tally, self.threads, self.live, begin),
            "soak" => programs::soak(a, &tally, self.threads, self.live, self.n, begin),
            "objects" => programs::objects(a, self.n, true, begin),
            _ => programs::objects(a, self.n, false, begin),
        }
        let peak = status("VmHWM:");
        say("resident", (peak - before.get()).max(0.0));
        let (live, usable, classes) = tally.peaks();
        say("live", live as f64);
        say("usable", usable as f64);
        say("classes", classes as f64);
    }
}

fn say(name: &str, number: f64) {
    println!("{name} {number}");
}

/// Lets the kernel forget the peak of the resident set; returns what it is now.
fn resident_from_now() -> f64 {
    // Refused, the peak so far stays, which is that of a small process.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    status("VmRSS:")
}

/// Bytes of a line of the process's status.
fn status(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    number.unwrap_or(f64::NAN) * 1024.0
}

//! Marking in the background after a kill: how long it takes, and what it costs the transactions beside it.
//!
//! A process opens a heap with a map of texts, of which each has two blocks, and inserts words until marking is through. Another one,
//! which has marked before it begins, inserts as many: both find the same pages untouched. Of each the time of
//! a commit counts.

use super::killed::{CHILD, READY, SHORT, live};
use super::stores::HashStore;
use super::{Extent, Medium, Setting, Store, key, texts};
use crate::harness::{Report, Subject};
use bartender::Marking;
use std::cell::Cell;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

/// Second argument of such a process.
pub(super) const MARKING: &str = "marking";

/// What it prints: nanoseconds of a commit, how many there were, and milliseconds of marking.
const COMMIT: &str = "commit";
const COMMITS: &str = "commits";
const MARKED: &str = "marked";

const BESIDE: &str = "single commit, beside it";
const AFTER: &str = "single commit, marked before";

pub(super) fn run(report: &mut Report, extent: Extent<'_>) -> Result<(), Box<dyn Error>> {
    for n in [extent.n, 10 * extent.n] {
        let workload = format!("marking after a kill: {n} texts, shared memory");
        if extent.args.wants(&workload) {
            one(report, extent, &workload, n)?;
        }
    }
    Ok(())
}

fn one(
    report: &mut Report,
    extent: Extent<'_>,
    workload: &str,
    n: usize,
) -> Result<(), Box<dyn Error>> {
    let folder = Medium::Shared.folder();
    let process = |what: &str, commits: usize| {
        let numbers = [n, commits].map(|number| number.to_string());
        let [n, commits] = &numbers;
        let words = [CHILD, MARKING, what, n, commits].map(Path::new);
        live(words.into_iter().chain([folder.path()]), SHORT)
    };
    process("make", 0)?;
    let commits = Cell::new(0);
    let mut times = Vec::new();
    let subjects: Vec<Subject<'_>> = vec![
        (
            BESIDE,
            Box::new(|| {
                let figures = process("beside", 0).expect("opens");
                commits.set(figures[COMMITS] as usize);
                times.push(figures[MARKED]);
                figures[COMMIT]
            }),
        ),
        (
            AFTER,
            Box::new(|| process("after", commits.get()).expect("opens")[COMMIT]),
        ),
    ];
    report.measure(workload, 1, "ns", extent.rounds, subjects);
    times.sort_by(f64::total_cmp);
    let time = times[times.len() / 2];
    println!(
        "  until it is through, ms: {time:.2}; commits meanwhile: {}",
        commits.get()
    );
    report.note(
        &format!("{workload}: time"),
        1,
        "until it is through",
        time,
        "ms",
    );
    let ratio = report.median(workload, 1, BESIDE) / report.median(workload, 1, AFTER);
    report.at_most(
        format!("{workload}: time of a commit beside it"),
        ratio,
        1.2,
    );
    Ok(())
}

/// The program of such a process: `collections-child marking make|beside|after TEXTS COMMITS FOLDER`.
pub(super) fn child(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [what, n, commits, folder] = arguments else {
        return Err("four arguments".into());
    };
    let (n, commits): (usize, usize) = (n.parse()?, commits.parse()?);
    let setting = Setting {
        folder: Path::new(folder),
        survives: Medium::Shared.survives(),
        entries: n,
    };
    let when = match &**what {
        "after" => Marking::Before,
        _ => Marking::Background,
    };
    let store = HashStore::open_marking(setting, when);
    // Others than were put there before, time after time.
    let first = std::process::id() as usize * n;
    let insert = |i: usize| store.insert(key(first + i), i as u64);
    if what == "make" {
        for part in texts(n).chunks(1 << 20) {
            store.insert_texts(part);
        }
    } else {
        let start = Instant::now();
        let mut done = 0;
        while done < commits.max(1) || what == "beside" && store.0.marking().under_way {
            insert(done);
            done += 1;
        }
        let commit = start.elapsed().as_nanos() as f64 / done as f64;
        println!("{COMMIT}\t{commit}\n{COMMITS}\t{done}");
        let marked = store.0.marking().took.as_nanos() as f64 / 1e6;
        println!("{MARKED}\t{marked}");
    }
    println!("{READY}");
    for i in n.. {
        insert(i);
    }
    Ok(())
}

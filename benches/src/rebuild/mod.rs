//! Rebuilding the allocator's state after a crash: how long opening a region takes that nobody
//! has closed, for live objects of 64 bytes.
//!
//! The crashes are real: each figure is from a process of its own that opens the region and ends
//! without closing it, so that the next one finds it as a crash leaves it, and has no page of it
//! mapped. The region is in shared memory, its pages are there, its log is empty. *Rebuild* is
//! what [`OpenReport::took`](bartender_heap::OpenReport) says: reading header, schema and table,
//! marking, setting up the descriptors of superblocks, and the page faults of all that; *opening*
//! adds mapping and recovering the region. A list is followed by plain loads in the same process,
//! once through pages that are mapped, and once after they were unmapped again.

mod data;

use crate::harness::{Report, Subject};
use bartender_heap::Heap;
use bartender_pm::Options;
use data::Shape;
use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// First argument of a process that does one thing to a region.
pub(crate) const CHILD: &str = "rebuild-child";

/// Figures of one opening, in nanoseconds for an object.
type Figures = HashMap<String, f64>;

struct Case {
    name: &'static str,
    shape: Shape,
    shuffled: bool,
    /// Nanoseconds for an object.
    goal: Option<f64>,
}

const CASES: [Case; 6] = [
    Case {
        name: "rebuild of a vector of boxes in allocation order",
        shape: Shape::Vector,
        shuffled: false,
        goal: Some(15.0),
    },
    Case {
        name: "rebuild of a vector of boxes in random order",
        shape: Shape::Vector,
        shuffled: true,
        goal: Some(15.0),
    },
    Case {
        name: "rebuild of a tree in allocation order",
        shape: Shape::Tree,
        shuffled: false,
        goal: Some(15.0),
    },
    Case {
        name: "rebuild of a tree in random order",
        shape: Shape::Tree,
        shuffled: true,
        goal: Some(45.0),
    },
    Case {
        name: "rebuild of a list in allocation order",
        shape: Shape::List,
        shuffled: false,
        goal: None,
    },
    Case {
        name: "rebuild of a list in random order",
        shape: Shape::List,
        shuffled: true,
        goal: None,
    },
];

pub(crate) fn run(report: &mut Report, quick: bool) -> Result<(), Box<dyn Error>> {
    let n = if quick { 1_000_000 } else { 10_000_000 };
    println!("\n{n} objects of 64 bytes; processes that end without closing the region");
    for (number, case) in CASES.iter().enumerate() {
        one(report, number, case, n)?;
    }
    Ok(())
}

const REBUILD: &str = "rebuild";
const OPENING: &str = "opening, in all";
const CLEAN: &str = "opening after a clean close, in all";
const MAPPED: &str = "plain chase, pages mapped";
const UNMAPPED: &str = "plain chase, pages not mapped";

fn one(report: &mut Report, number: usize, case: &Case, n: usize) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir_in("/dev/shm")?;
    let path = folder.path().join("a.region");
    child("build", number, n, &path)?;
    let figures = RefCell::new(Figures::new());
    let figure = |name: &str| figures.borrow().get(name).copied().unwrap_or(f64::NAN);
    let open = || {
        *figures.borrow_mut() = child("open", number, n, &path).expect("opens");
        figure(REBUILD)
    };
    let clean = || {
        child("close", number, n, &path).expect("opens and closes");
        // It leaves the region as a crash does, like any other.
        child("open", number, n, &path).expect("opens")[OPENING]
    };
    let mut subjects: Vec<Subject<'_>> = vec![
        (REBUILD, Box::new(open)),
        (OPENING, Box::new(|| figure(OPENING))),
    ];
    if case.shape == Shape::List {
        subjects.push((MAPPED, Box::new(|| figure(MAPPED))));
        subjects.push((UNMAPPED, Box::new(|| figure(UNMAPPED))));
    } else {
        subjects.push((CLEAN, Box::new(clean)));
    }
    report.measure(case.name, 1, "ns", 5, subjects);
    let ours = report.median(case.name, 1, REBUILD);
    if let Some(goal) = case.goal {
        report.at_most(format!("{}, ns an object", case.name), ours, goal);
    } else {
        let plain = report.median(case.name, 1, UNMAPPED);
        report.at_most(
            format!("{}, against a plain chase", case.name),
            ours / plain,
            1.3,
        );
    }
    Ok(())
}

/// Has a process do `what`; returns what it measured.
fn child(what: &str, number: usize, n: usize, path: &Path) -> Result<Figures, Box<dyn Error>> {
    let output = Command::new(std::env::current_exe()?)
        .args([CHILD, what, &number.to_string(), &n.to_string()])
        .arg(path)
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("{what}: {}", output.status).into());
    }
    let lines = String::from_utf8(output.stdout)?;
    let figures = lines.lines().filter_map(|line| {
        let (name, value) = line.split_once('\t')?;
        Some((name.to_owned(), value.parse::<f64>().ok()? / n as f64))
    });
    Ok(figures.collect())
}

/// The program of such a process: `rebuild-child build|open|close CASE OBJECTS PATH`.
pub(crate) fn child_main(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [what, number, n, path] = arguments else {
        return Err("four arguments".into());
    };
    let case = &CASES[number.parse::<usize>()?];
    let n = n.parse()?;
    let path = Path::new(path);
    if what == "build" {
        return data::build(path, case.shape, n, case.shuffled);
    }
    let start = Instant::now();
    let mut options = Options::new();
    let region = options.create(false).open(path)?;
    let heap = Heap::open(region)?;
    let print = |name: &str, nanos: u128| println!("{name}\t{nanos}");
    print(OPENING, start.elapsed().as_nanos());
    let opened = heap.report();
    if opened.marked {
        print(REBUILD, opened.took.as_nanos());
    }
    if !(n as u64 + 1..n as u64 + 3).contains(&opened.blocks) {
        return Err(format!("{} blocks instead of {n} and a few", opened.blocks).into());
    }
    if what == "close" {
        return Ok(heap.close()?);
    }
    if case.shape == Shape::List {
        for name in [MAPPED, UNMAPPED] {
            if name == UNMAPPED {
                let region = heap.region();
                // SAFETY: the view's own pages. No byte of them was changed here, and they show
                // the home again when they are next touched.
                let result = unsafe {
                    libc::madvise(
                        region.base().cast(),
                        region.size() as usize,
                        libc::MADV_DONTNEED,
                    )
                };
                assert_eq!(result, 0, "cannot unmap pages");
            }
            let start = Instant::now();
            let count = data::chase(&heap);
            print(name, start.elapsed().as_nanos());
            assert_eq!(count, n as u64, "links of the list");
        }
    }
    // The process is to end as by a crash.
    std::mem::forget(heap);
    Ok(())
}

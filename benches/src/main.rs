//! Benchmarks of bartender beside its peers: `cargo xtask bench [WORKLOAD...] [OPTION...]`,
//! see [`args::HELP`] (`--help`).
//!
//! Each prints a table and, per goal, the ratio reached, and writes
//! `target/bench/<name>.csv` and a chart of each workload. `--quick` measures a
//! tenth of the allocator's programs and of what is rebuilt, and little of the collections. The disk is the one that holds the build folder,
//! or `BARTENDER_BENCH_DIR`.

mod alloc;
mod args;
mod chart;
mod collections;
mod commit;
mod disk;
mod harness;
mod machine;
mod memory;
mod net;
#[cfg(feature = "pmemobj")]
mod pmemobj;
mod rebuild;

use args::Args;
use std::error::Error;

/// A workload: fills a report in, as much of it as was asked for.
type Workload = fn(&mut harness::Report, &Args) -> Result<(), Box<dyn Error>>;

const WORKLOADS: &[(&str, Workload)] = &[
    ("commit", |report, _| commit::run(report)),
    ("disk", |report, _| disk::run(report)),
    ("alloc", alloc::run),
    ("read", |report, _| memory::reading(report)),
    ("bulk", |report, _| memory::bulk(report)),
    ("net", net::run),
    ("collections", collections::run),
    ("rebuild", |report, args| rebuild::run(report, args.quick)),
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1).peekable();
    match words.peek().map(String::as_str) {
        Some(alloc::CHILD) => return alloc::child(words.skip(1)),
        Some(collections::CHILD) => {
            return collections::child(&words.skip(1).collect::<Vec<_>>());
        }
        Some(rebuild::CHILD) => return rebuild::child_main(&words.skip(1).collect::<Vec<_>>()),
        Some("--help") => {
            print!("{}", args::HELP);
            return Ok(());
        }
        _ => {}
    }
    let args = Args::parse(words)?;
    let asked = &args.workloads;
    if let Some(unknown) = asked
        .iter()
        .find(|a| !WORKLOADS.iter().any(|(name, _)| name == a))
    {
        return Err(format!("no workload {unknown}").into());
    }
    machine::print();
    for (name, run) in WORKLOADS {
        if asked.is_empty() || asked.iter().any(|a| a == name) {
            let mut report = harness::Report::default();
            run(&mut report, &args)?;
            report.finish(name)?;
        }
    }
    Ok(())
}

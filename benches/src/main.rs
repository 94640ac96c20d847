//! Benchmarks of bartender beside its peers: `cargo xtask bench [--quick] [commit|disk|alloc|read|bulk|rebuild]…`.
//!
//! Each prints a table and, per goal, the ratio reached, and writes
//! `target/bench/<name>.csv` and a chart of each workload. `--quick` measures a
//! tenth of the allocator's programs and of what is rebuilt. The disk is the one that holds the build folder,
//! or `BARTENDER_BENCH_DIR`.

mod alloc;
mod chart;
mod commit;
mod disk;
mod harness;
mod memory;
#[cfg(feature = "pmemobj")]
mod pmemobj;
mod rebuild;

use std::error::Error;

/// A workload: fills a report in, perhaps quickly.
type Workload = fn(&mut harness::Report, bool) -> Result<(), Box<dyn Error>>;

const WORKLOADS: &[(&str, Workload)] = &[
    ("commit", |report, _| commit::run(report)),
    ("disk", |report, _| disk::run(report)),
    ("alloc", alloc::run),
    ("read", |report, _| memory::reading(report)),
    ("bulk", |report, _| memory::bulk(report)),
    ("rebuild", rebuild::run),
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut asked: Vec<String> = std::env::args().skip(1).collect();
    if asked.first().is_some_and(|a| a == rebuild::CHILD) {
        return rebuild::child_main(&asked[1..]);
    }
    let all = asked.len();
    asked.retain(|a| a != "--quick");
    let quick = asked.len() < all;
    if let Some(unknown) = asked
        .iter()
        .find(|a| !WORKLOADS.iter().any(|(name, _)| name == a))
    {
        return Err(format!("no workload {unknown}").into());
    }
    harness::print_machine();
    for (name, run) in WORKLOADS {
        if asked.is_empty() || asked.iter().any(|a| a == name) {
            let mut report = harness::Report::default();
            run(&mut report, quick)?;
            report.finish(name)?;
        }
    }
    Ok(())
}

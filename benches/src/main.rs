//! Benchmarks of bartender beside its peers: `cargo xtask bench [commit|disk|alloc|read|bulk]…`.
//!
//! Each prints a table and, per goal, the ratio reached, and writes
//! `target/bench/<name>.csv`. The disk is the one that holds the build folder,
//! or `BARTENDER_BENCH_DIR`.

mod commit;
mod disk;
mod harness;
mod memory;
#[cfg(feature = "pmemobj")]
mod pmemobj;

use std::error::Error;

/// A workload: fills a report in.
type Workload = fn(&mut harness::Report) -> Result<(), Box<dyn Error>>;

const WORKLOADS: &[(&str, Workload)] = &[
    ("commit", commit::run),
    ("disk", disk::run),
    ("alloc", memory::allocation),
    ("read", memory::reading),
    ("bulk", memory::bulk),
];

fn main() -> Result<(), Box<dyn Error>> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
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
            run(&mut report)?;
            report.finish(name)?;
        }
    }
    Ok(())
}

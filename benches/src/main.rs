//! Benchmarks of bartender beside its peers: `cargo xtask bench [commit|disk|memory]…`.
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
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|a| a == name);
    harness::print_machine();
    if wanted("commit") {
        let mut report = harness::Report::default();
        commit::run(&mut report)?;
        report.finish("commit")?;
    }
    if wanted("disk") {
        let folder = std::env::var_os("BARTENDER_BENCH_DIR").map_or("target".into(), PathBuf::from);
        std::fs::create_dir_all(&folder)?;
        let mut report = harness::Report::default();
        disk::run(&mut report, &folder)?;
        report.finish("disk")?;
    }
    if wanted("memory") {
        let mut report = harness::Report::default();
        memory::run(&mut report)?;
        report.finish("memory")?;
    }
    Ok(())
}

//! The chores that are more than one plain command: loom models, crash runs,
//! benchmarks.

use crate::step::{Failure, Runner, cargo, root, target};
use std::fs;
use std::path::Path;

/// Crates that may hold loom models.
const LOOM_CRATES: &[&str] = &["bartender-pm", "bartender-heap", "bartender"];

/// `cargo xtask loom [CRATE]`.
pub(crate) fn loom(only: Option<&str>) -> Result<(), Failure> {
    let mut steps = Runner::default();
    loom_steps(&mut steps, only)?;
    steps.summary();
    Ok(())
}

/// One step for each place that holds models: a crate's unit tests under a
/// module named `loom`, and its `tests/loom.rs`.
pub(crate) fn loom_steps(steps: &mut Runner, only: Option<&str>) -> Result<(), Failure> {
    let mut found = false;
    for name in LOOM_CRATES {
        if only.is_some_and(|only| only != *name) {
            continue;
        }
        let folder = root().join(name);
        let in_source = mentions(&folder.join("src"), "loom::model");
        let in_tests = folder.join("tests/loom.rs").is_file();
        for (there, arguments) in [
            (in_source, ["--lib", "loom"].as_slice()),
            (in_tests, ["--test", "loom"].as_slice()),
        ] {
            if !there {
                continue;
            }
            found = true;
            let mut command = cargo(["test", "--release", "-p", name]);
            command
                .args(arguments)
                .env("RUSTFLAGS", "--cfg loom")
                .env("CARGO_TARGET_DIR", target("loom"));
            if std::env::var_os("LOOM_MAX_PREEMPTIONS").is_none() {
                command.env("LOOM_MAX_PREEMPTIONS", "2");
            }
            steps.run(&format!("loom {name} {}", arguments[0]), &mut command)?;
        }
    }
    if !found {
        match only {
            Some(only) => return Err(format!("{only}: no loom models there")),
            None => steps.skip("loom", "no models"),
        }
    }
    Ok(())
}

/// Whether a Rust file below `folder` contains `text`.
fn mentions(folder: &Path, text: &str) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            mentions(&path, text)
        } else {
            path.extension().is_some_and(|extension| extension == "rs")
                && fs::read_to_string(&path).is_ok_and(|source| source.contains(text))
        }
    })
}

/// `cargo xtask crash [FILTER]`: the tests whose names speak of crashes and
/// deaths (or the filter), optimised, one at a time, with what they print.
pub(crate) fn crash(filter: Option<&str>) -> Result<(), Failure> {
    let mut command = cargo(["test", "--workspace", "--release", "--"]);
    match filter {
        Some(filter) => command.arg(filter),
        None => command.args(["crash", "mutant", "death", "dies", "killed"]),
    };
    command.args(["--nocapture", "--test-threads=1"]);
    Runner::default().run("crash", &mut command)
}

/// `cargo xtask sim [SECONDS]`: simulated clusters, from a seed that the clock gives, so that
/// each run looks elsewhere. A failure prints the seed that replays it.
pub(crate) fn sim(seconds: Option<&str>) -> Result<(), Failure> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let first = now.map_or(0, |since| since.as_secs()) * 1_000_000;
    let mut command = cargo(["test", "--release", "-p", "bartender-dist"]);
    command
        .args(["--test", "simulation", "--", "--nocapture", "nothing_that"])
        .env("BARTENDER_SIM_FIRST", first.to_string())
        .env("BARTENDER_SIM_SECONDS", seconds.unwrap_or("60"));
    println!("sim: from seed {first} on");
    Runner::default().run("sim", &mut command)
}

/// `cargo xtask bench [ARG...]`. The allocator's peers that are written in C++
/// take part where they can be built; those of the fabric and of the collections, where these are measured.
pub(crate) fn bench(arguments: &[String]) -> Result<(), Failure> {
    let mut command = cargo(["run", "--release", "-p", "bartender-benches"]);
    let there = |tool: &str| {
        let version = std::process::Command::new(tool).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    };
    if there("make") && there("c++") {
        command.args(["--features", "peers"]);
    } else {
        println!("bench: without jemalloc and snmalloc, which need make and a C++ compiler");
    }
    let named = |workload: &str| arguments.iter().any(|word| word == workload);
    let all = arguments.iter().all(|word| word.starts_with('-'));
    if named("net") || all {
        command.args(["--features", "netpeers"]);
    }
    if (named("collections") || all) && there("cc") {
        command.args(["--features", "stores"]);
    }
    command.arg("--").args(arguments);
    Runner::default().run("bench", &mut command)
}

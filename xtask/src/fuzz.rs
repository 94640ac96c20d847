//! `cargo xtask fuzz`: what is read from the network, and files of regions, fuzzed with libFuzzer under AddressSanitizer.
//!
//! Needs a nightly toolchain and a C++ compiler, and installs cargo-fuzz where it is missing. What is found is in
//! `fuzz/artifacts`; `cargo +nightly fuzz run TARGET FILE` there shows it again. Not part of `ci`.

use crate::miri::{outside, provide_nightly, succeeds};
use crate::step::{Failure, Runner, cargo, target};

/// `frames` and `connection` of the TCP backend; a `copy` that is sent a log, a `node` and a `coordinator` that are
/// asked; a `region` that is damaged, checked, read and changed.
const TARGETS: &[&str] = &[
    "frames",
    "connection",
    "copy",
    "node",
    "coordinator",
    "region",
];

/// Where they are.
const FOLDER: &str = "fuzz";

/// `cargo xtask fuzz [TARGET] [SECONDS]`: each for so long, a minute unless told.
pub(crate) fn fuzz(arguments: &[String]) -> Result<(), Failure> {
    let (mut only, mut seconds) = (None, 60);
    for argument in arguments {
        match argument.parse() {
            Ok(number) => seconds = number,
            Err(_) if TARGETS.contains(&argument.as_str()) => only = Some(argument.as_str()),
            Err(_) => {
                return Err(format!(
                    "{argument}: neither seconds nor one of {}",
                    TARGETS.join(", ")
                ));
            }
        }
    }
    provide_nightly(&[], |nightly| succeeds(nightly("cargo").arg("--version")))?;
    let mut steps = Runner::default();
    if !succeeds(outside("cargo").args(["fuzz", "--version"])) {
        let mut install = cargo(["install", "--locked", "cargo-fuzz"]);
        steps.run("install cargo-fuzz", &mut install)?;
    }
    for name in TARGETS
        .iter()
        .filter(|t| only.is_none_or(|only| only == **t))
    {
        let mut command = outside("cargo");
        command.args(["+nightly", "fuzz", "run", "--fuzz-dir", FOLDER]);
        if *name == "region" {
            // No magic numbers are to be found: choices are taken modulo what there is.
            command.arg("--no-trace-compares");
        }
        command
            .args([name, "--"])
            .arg(format!("-max_total_time={seconds}"))
            // A mapping of a region is address space, not memory.
            .args(["-rss_limit_mb=4096", "-print_final_stats=1"])
            .env("CARGO_TARGET_DIR", target("fuzz"));
        if *name == "region" {
            // The threads of a marker end by themselves, a moment after it: what they hold then looks lost.
            command.arg("-detect_leaks=0");
            // An input is a list of choices, of which none takes many.
            command.args(["-max_len=128", "-len_control=0"]);
        }
        steps.run(&format!("fuzz {name}"), &mut command)?;
    }
    steps.summary();
    Ok(())
}

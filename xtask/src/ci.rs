//! `cargo xtask ci`: the list of what a change has to pass, cheapest first.
//!
//! Needs the stable toolchain with rustfmt and clippy, and a linker. What needs
//! more (Miri, ThreadSanitizer, a C compiler, etcd) runs where it is there or can be added, and is reported as skipped
//! elsewhere.

use crate::step::{Failure, Runner, cargo};
use crate::{capi, chores, etcd, instructions, miri, tsan};

/// What clippy looks at: every feature set. (That of libpmemobj is checked
/// without the library; only linking needs it. The other peers of the benches
/// need make and a C++ compiler.)
const FEATURE_SETS: &[(&str, &[&str])] = &[
    ("clippy", &["--workspace", "--all-targets"]),
    ("clippy, no features", &["-p", "bartender-pm"]),
    (
        "clippy, command-line tool",
        &["-p", "bartender", "--all-targets", "--features", "cli"],
    ),
    (
        "clippy, serde",
        &["-p", "bartender", "--all-targets", "--features", "serde"],
    ),
    // Their tests need cards: `cargo xtask vm test-rdma` and `vm failover`.
    (
        "clippy, RDMA",
        &["-p", "bartender-net", "--all-targets", "--features", "rdma"],
    ),
    (
        "clippy, clusters over RDMA",
        &["-p", "bartender", "--all-targets", "--features", "rdma"],
    ),
    (
        "clippy, benches with all peers",
        &["-p", "bartender-benches", "--all-targets", "--all-features"],
    ),
    // `cargo xtask fuzz` runs them.
    (
        "clippy, fuzz targets",
        &["--manifest-path", "fuzz/Cargo.toml"],
    ),
];

/// Runs all steps.
pub(crate) fn run() -> Result<(), Failure> {
    let mut steps = Runner::default();
    steps.run("format", &mut cargo(["fmt", "--all", "--check"]))?;
    for (label, features) in FEATURE_SETS {
        let mut clippy = cargo(["clippy"]);
        clippy.args(*features).args(["--", "-D", "warnings"]);
        steps.run(label, &mut clippy)?;
    }
    // The README's second command, to the letter; doc tests are part of it.
    steps.run("tests and doc tests", &mut cargo(["test", "--workspace"]))?;
    let serde = [
        "test",
        "-p",
        "bartender",
        "--features",
        "serde",
        "--test",
        "serde",
    ];
    steps.run("tests, serde", &mut cargo(serde))?;
    steps.run(
        "documentation",
        cargo(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    instructions::step(&mut steps)?;
    capi::test_steps(&mut steps)?;
    etcd::run(&mut steps)?;
    chores::loom_steps(&mut steps, None)?;
    miri::run(&mut steps, None)?;
    tsan::run(&mut steps)?;
    steps.summary();
    Ok(())
}

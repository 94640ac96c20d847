//! `cargo xtask ci`: the list of what a change has to pass, cheapest first.
//!
//! Needs the stable toolchain with rustfmt and clippy, and a linker. What needs
//! more (Miri) runs where it is there and is reported as skipped elsewhere.

use crate::chores;
use crate::step::{Failure, Runner, cargo, target};

/// What clippy looks at: every feature set. (That of libpmemobj is checked
/// without the library; only linking needs it. The other peers of the benches
/// need make and a C++ compiler.)
const FEATURE_SETS: &[(&str, &[&str])] = &[
    ("clippy", &["--workspace", "--all-targets"]),
    ("clippy, no features", &["-p", "bartender-pm"]),
    (
        "clippy, benches with all peers",
        &["-p", "bartender-benches", "--all-targets", "--all-features"],
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
    steps.run(
        "documentation",
        cargo(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    chores::loom_steps(&mut steps, None)?;
    miri(&mut steps)?;
    steps.summary();
    Ok(())
}

/// Miri on the crates whose tests it can run: a test it cannot run (files,
/// mappings, processes) says `cfg_attr(miri, ignore)`.
fn miri(steps: &mut Runner) -> Result<(), Failure> {
    const CRATES: &[&str] = &["bartender-pm", "bartender-heap", "bartender"];
    // `cargo` set by rustup names the toolchain that runs us; "+nightly" is
    // understood by rustup's own front end only.
    let nightly = || {
        let mut command = std::process::Command::new("cargo");
        command.arg("+nightly").arg("miri").env_remove("CARGO");
        command.env_remove("RUSTUP_TOOLCHAIN");
        command
    };
    let there = nightly()
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    if !there {
        steps.skip("miri", "no miri");
        return Ok(());
    }
    for name in CRATES {
        let mut command = nightly();
        command
            .args(["test", "-p", name, "--lib"])
            .env("CARGO_TARGET_DIR", target("miri"))
            .env("MIRIFLAGS", "-Zmiri-permissive-provenance");
        steps.run(&format!("miri {name}"), &mut command)?;
    }
    Ok(())
}

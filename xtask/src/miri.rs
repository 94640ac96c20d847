//! `cargo xtask miri`: the tests that Miri can run, under Miri.
//!
//! Miri interprets the program and stops at undefined behaviour, data races and
//! leaks. It is slow and knows no files and no mappings: a test that is too much
//! for it says `cfg_attr(miri, ignore)` with the reason, or does less under
//! `cfg!(miri)`. Needs a nightly toolchain and adds Miri to it where it is
//! missing; without either it is reported as skipped.

use crate::step::{Failure, Runner, target};
use std::process::{Command, Stdio};

/// Crates, and what of them runs.
const TESTS: &[(&str, &[&str])] = &[
    ("bartender-pm", &["--lib"]),
    ("bartender-heap", &["--lib"]),
    // The other backends do input and output.
    ("bartender-net", &["--lib", "sim::"]),
    ("bartender", &["--test", "simulated"]),
];

/// Pointers are stored as integers, so provenance has to be permissive. Proptest
/// gets few cases, and no file to remember failures in.
const MIRIFLAGS: &str = "-Zmiri-permissive-provenance -Zmiri-env-set=PROPTEST_CASES=2 \
     -Zmiri-env-set=PROPTEST_DISABLE_FAILURE_PERSISTENCE=1";

/// `cargo xtask miri [CRATE]`.
pub(crate) fn miri(only: Option<&str>) -> Result<(), Failure> {
    let mut steps = Runner::default();
    run(&mut steps, only)?;
    steps.summary();
    Ok(())
}

/// One step for each crate. `MIRIFLAGS` from outside come behind ours.
pub(crate) fn run(steps: &mut Runner, only: Option<&str>) -> Result<(), Failure> {
    if only.is_some_and(|only| TESTS.iter().all(|(name, _)| *name != only)) {
        return Err(format!("{}: not tested under Miri", only.unwrap_or("")));
    }
    if let Err(why) = provide() {
        steps.skip("miri", why);
        return Ok(());
    }
    let more = std::env::var("MIRIFLAGS").unwrap_or_default();
    for (name, arguments) in TESTS {
        if only.is_some_and(|only| only != *name) {
            continue;
        }
        let mut command = outside("cargo");
        command
            .args(["+nightly", "miri", "test", "-p", name])
            .args(*arguments)
            .env("CARGO_TARGET_DIR", target("miri"))
            .env("MIRIFLAGS", format!("{MIRIFLAGS} {more}").trim_end())
            // Miri knows the checksum's instruction, which saves it many steps.
            .env("RUSTFLAGS", "-Ctarget-feature=+sse4.2");
        steps.run(&format!("miri {name}"), &mut command)?;
    }
    Ok(())
}

/// Sees to it that Miri is there, or says why it is not.
fn provide() -> Result<(), &'static str> {
    provide_nightly(&["miri", "rust-src"], |nightly| {
        succeeds(nightly("cargo").args(["miri", "--version"]))
    })
}

/// Sees to it that the nightly toolchain has what `there` looks for, by adding
/// `components` where it has not, or says why it does not.
pub(crate) fn provide_nightly(
    components: &[&str],
    there: impl Fn(fn(&str) -> Command) -> bool,
) -> Result<(), &'static str> {
    let nightly: fn(&str) -> Command = |program| {
        let mut command = outside(program);
        command.arg("+nightly");
        command
    };
    if !succeeds(nightly("cargo").arg("--version")) {
        return Err("no nightly toolchain");
    }
    if there(nightly) {
        return Ok(());
    }
    let mut install = outside("rustup");
    install.args(["component", "add"]).args(components);
    install.args(["--toolchain", "nightly"]);
    if succeeds(&mut install) && there(nightly) {
        return Ok(());
    }
    Err("the nightly toolchain lacks a component that could not be added")
}

/// A command of rustup's: "+nightly" is understood by its front end only, not by
/// the `cargo` that runs us, whose variables are in the way.
pub(crate) fn outside(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    command
}

/// Whether a command, whose output nobody wants, succeeds.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

//! `cargo xtask tsan`: the thread stress of the heap under ThreadSanitizer.
//!
//! ThreadSanitizer watches every access of a real run, on real mappings, which
//! neither loom nor Miri see; it reports two accesses that nothing orders. The
//! standard library is built anew for it, since it must see the locks in there.
//! Under `--cfg tsan` tests do less, and regions are put where its shadow leaves
//! room. It does not know fences: what a fence alone orders looks like a race to
//! it. Needs a nightly toolchain with its sources; skipped elsewhere.

use crate::miri::{outside, provide_nightly};
use crate::step::{Failure, Runner, target};

/// Crates and their tests that run.
const TESTS: &[(&str, &[&str])] = &[
    ("bartender-heap", &["--test", "threads"]),
    ("bartender-heap", &["--lib", "threads_pass"]),
];

/// Sanitizers are of a target, which has to be named.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// `cargo xtask tsan`.
pub(crate) fn tsan() -> Result<(), Failure> {
    let mut steps = Runner::default();
    run(&mut steps)?;
    steps.summary();
    Ok(())
}

/// One step for each entry of the list.
pub(crate) fn run(steps: &mut Runner) -> Result<(), Failure> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        steps.skip("tsan", "only set up for Linux on x86-64");
        return Ok(());
    }
    if let Err(why) = provide_nightly(&["rust-src"], |nightly| {
        // Where the sources are, `rustc` says; cargo would only complain later.
        let sysroot = nightly("rustc").args(["--print", "sysroot"]).output();
        let sysroot = sysroot.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        sysroot.is_ok_and(|root| {
            let library = "lib/rustlib/src/rust/library/std/src/lib.rs";
            std::path::Path::new(root.trim()).join(library).is_file()
        })
    }) {
        steps.skip("tsan", why);
        return Ok(());
    }
    for (name, arguments) in TESTS {
        let mut command = outside("cargo");
        command
            .args(["+nightly", "test", "-Zbuild-std", "--target", TARGET])
            .args(["-p", name])
            .args(*arguments)
            .env("CARGO_TARGET_DIR", target("tsan"))
            .env("RUSTFLAGS", "-Zsanitizer=thread --cfg tsan")
            .env("TSAN_OPTIONS", "halt_on_error=1 second_deadlock_stack=1");
        steps.run(&format!("tsan {name} {}", arguments[1]), &mut command)?;
    }
    Ok(())
}

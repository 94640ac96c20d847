//! What must not compile does not, and the error says what to do instead.
//!
//! The expected messages are those of one version of the compiler; with another one there is
//! nothing to compare and the test says so. After an update they are written anew with
//! `TRYBUILD=overwrite` and read before they are committed.
#![cfg(not(loom))]

use std::process::Command;

/// The compiler whose messages are expected.
const COMPILER: &str = "rustc 1.95.";

#[test]
fn what_is_unsound_does_not_compile() {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(compiler)
        .arg("--version")
        .output()
        .expect("the compiler runs");
    let version = String::from_utf8_lossy(&version.stdout);
    if !version.starts_with(COMPILER) {
        println!("skipped: the messages are those of {COMPILER}x, this is {version}");
        return;
    }
    let tests = trybuild::TestCases::new();
    tests.compile_fail("tests/ui/*.rs");
}

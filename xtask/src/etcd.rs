//! `cargo xtask etcd-test`: the coordinator on a real etcd.
//!
//! Each test starts a server of its own, on free loopback ports in a temporary folder, and stops exactly that one. What
//! is needed: `etcd` (Debian: etcd-server) and `protoc` (Debian: protobuf-compiler), which the command installs where
//! apt-get is, and CI does not.

use crate::step::{Failure, Runner, cargo};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs, with the Debian packages that have them.
const NEEDED: [(&str, &str); 2] = [("etcd", "etcd-server"), ("protoc", "protobuf-compiler")];

/// Where a program is.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let places = std::env::split_paths(&path).map(|folder| folder.join(program));
    places.into_iter().find(|place| place.is_file())
}

fn missing() -> Vec<&'static str> {
    let missing = |(program, package): &(&str, &'static str)| match find(program) {
        Some(_) => None,
        None => Some(*package),
    };
    NEEDED.iter().filter_map(missing).collect()
}

/// The command: installs what is missing, if it can.
pub(crate) fn etcd_test() -> Result<(), Failure> {
    let packages = missing();
    let mut steps = Runner::default();
    if !packages.is_empty() {
        let names = packages.join(", ");
        if find("apt-get").is_none() {
            return Err(format!("missing: {names} (as Debian calls them)"));
        }
        let mut install = match (find("sudo"), is_root()) {
            (Some(sudo), false) => {
                let mut command = Command::new(sudo);
                command.arg("apt-get");
                command
            }
            _ => Command::new("apt-get"),
        };
        install.args(["install", "-y", "-qq"]).args(&packages);
        install.env("DEBIAN_FRONTEND", "noninteractive");
        steps.run(&format!("install {names}"), &mut install)?;
    }
    run(&mut steps)?;
    steps.summary();
    Ok(())
}

/// `cargo xtask failover [N]`.
pub(crate) fn failover(kills: Option<&str>) -> Result<(), Failure> {
    let (Some(server), []) = (find("etcd"), &missing()[..]) else {
        let names = missing().join(", ");
        return Err(format!(
            "missing: {names} (as Debian calls them); `etcd-test` installs them"
        ));
    };
    let test = |name: &str| {
        let mut test = cargo(["test", "--release", "-p", "bartender", "--features", "etcd"]);
        test.args([
            "--test",
            "failover",
            "--",
            "--nocapture",
            "--test-threads=1",
        ])
        .arg(name)
        .env("BARTENDER_KILLS", kills.unwrap_or("50"))
        .env("BARTENDER_COMMITS", "1000000")
        .env("BARTENDER_ETCD_SERVER", &server);
        test
    };
    let mut steps = Runner::default();
    steps.run("failover", &mut test("primaries"))?;
    steps.run("a million commits", &mut test("commits_ask"))
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    Path::new("/proc/self")
        .metadata()
        .is_ok_and(|meta| meta.uid() == 0)
}

/// The steps, for CI: skipped where something is missing.
pub(crate) fn run(steps: &mut Runner) -> Result<(), Failure> {
    let packages = missing();
    let (Some(server), true) = (find("etcd"), packages.is_empty()) else {
        let why = format!("not installed: {}", packages.join(", "));
        steps.skip("coordinator on etcd", &why);
        return Ok(());
    };
    let etcd = ["-p", "bartender-dist", "--features", "etcd"];
    let mut clippy = cargo(["clippy"]);
    clippy
        .args(etcd)
        .args(["--all-targets", "--", "-D", "warnings"]);
    steps.run("clippy, etcd", &mut clippy)?;
    let mut clippy = cargo(["clippy", "-p", "bartender", "--features", "cli,etcd"]);
    clippy.args(["--all-targets", "--", "-D", "warnings"]);
    steps.run("clippy, tool with etcd", &mut clippy)?;
    // Of the whole workspace, so that what was built for its tests does for these.
    let test = |more: &[&str]| {
        let mut test = cargo(["test", "--workspace", "--features", "bartender/etcd"]);
        test.args(more)
            .env("BARTENDER_KILLS", "3")
            .env("BARTENDER_ETCD_SERVER", &server);
        test
    };
    steps.run("coordinator on etcd", &mut test(&["--lib", "etcd"]))?;
    let failover = ["--test", "failover", "--", "--nocapture", "with_etcd"];
    steps.run("failover with etcd", &mut test(&failover))
}

//! `cargo xtask capi`: the C interface as an installed library.
//!
//! Promises that what `install` lays down is what `test` compiles against: the
//! header, the static library, the shared one under its versioned name with the
//! usual links, and a pkg-config file that names the prefix. Does not strip,
//! and does not tell the dynamic linker.

use crate::step::{Failure, Runner, cargo, root, target};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

const FOLDER: &str = "bartender-heap/capi";
/// What programs linked with it ask for; `build.rs` of the crate says so too.
const SONAME: &str = "libbartender.so.0";

/// `cargo xtask capi install --prefix DIR` and `cargo xtask capi test`.
pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut steps = Runner::default();
    match arguments[..] {
        ["install", "--prefix", prefix] => {
            let prefix = std::path::absolute(prefix).map_err(|e| format!("{prefix}: {e}"))?;
            install(&mut steps, &prefix)?;
            println!("installed below {}", prefix.display());
        }
        ["test"] => test_steps(&mut steps)?,
        _ => return Err("capi: say `install --prefix DIR` or `test`".into()),
    }
    steps.summary();
    Ok(())
}

/// Installs into the build folder, and runs the tests that compile C programs.
pub(crate) fn test_steps(steps: &mut Runner) -> Result<(), Failure> {
    let there = Command::new("cc").arg("--version").output();
    if !there.is_ok_and(|output| output.status.success()) {
        steps.skip("C programs", "there is no C compiler `cc`");
        return Ok(());
    }
    let prefix = target("capi");
    install(steps, &prefix)?;
    let mut command = cargo(["test", "-p", "bartender-capi", "--test", "c_programs"]);
    command.env("BARTENDER_CAPI_PREFIX", &prefix);
    steps.run("C programs", &mut command)
}

/// Builds, and lays everything below `prefix`.
fn install(steps: &mut Runner, prefix: &Path) -> Result<(), Failure> {
    let mut build = cargo(["build", "--release", "-p", "bartender-capi"]);
    steps.run("C interface", &mut build)?;
    lay(prefix).map_err(|error| format!("cannot install below {}: {error}", prefix.display()))
}

fn lay(prefix: &Path) -> std::io::Result<()> {
    let (built, source) = (target("release"), root().join(FOLDER));
    let version = env!("CARGO_PKG_VERSION");
    let (include, lib) = (prefix.join("include"), prefix.join("lib"));
    let pkgconfig = lib.join("pkgconfig");
    for folder in [&include, &pkgconfig] {
        fs::create_dir_all(folder)?;
    }
    let put = |from: &Path, to: &Path| {
        // A program may run with the old one: a new file, not new bytes in it.
        let new = to.with_extension("new");
        fs::copy(from, &new)?;
        fs::rename(&new, to)
    };
    put(
        &source.join("include/bartender.h"),
        &include.join("bartender.h"),
    )?;
    put(&built.join("libbartender_c.a"), &lib.join("libbartender.a"))?;
    let shared = format!("libbartender.so.{version}");
    put(&built.join("libbartender_c.so"), &lib.join(&shared))?;
    for (link, to) in [(SONAME, &shared[..]), ("libbartender.so", SONAME)] {
        let link = lib.join(link);
        match fs::remove_file(&link) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => symlink(to, &link)?,
        }
    }
    let text = fs::read_to_string(source.join("bartender.pc.in"))?
        .replace("@PREFIX@", &prefix.to_string_lossy())
        .replace("@VERSION@", version);
    fs::write(pkgconfig.join("bartender.pc"), text)
}

//! `cargo xtask vm test`: the tests that can use persistent memory, built on
//! the host and run in one boot of the guest, one program after the other.
//!
//! They find the folder and the device by the variables that
//! `bartender-pm/tests/places` describes.

use super::machine::Machine;
use super::{DAX_DEVICE, DAX_FOLDER, quoted};
use crate::step::{Failure, cargo, root};
use std::process::Stdio;

/// Packages, their test programs, and which of a program's tests (all: "").
const PROGRAMS: &[(&str, &[(&str, &str)])] = &[
    (
        "bartender-pm",
        &[("dax", ""), ("region", ""), ("rules", "")],
    ),
    ("bartender-heap", &[("heap", "")]),
    (
        "bartender",
        &[
            ("golden", ""),
            ("transactions", ""),
            ("rules", ""),
            ("models", ""),
            ("collections_stored", ""),
            ("log_rules", ""),
            ("kill", "persistent_memory"),
        ],
    ),
];

/// A folder on ext4 with DAX, then the device: tests that want one place take
/// that which there is.
const TURNS: [(&str, &str, &str); 2] = [
    ("ext4 with DAX", "BARTENDER_TEST_DIR", DAX_FOLDER),
    ("a device", "BARTENDER_TEST_DEVDAX", DAX_DEVICE),
];

/// Runs them all, or the tests that `filters` name.
pub(super) fn run(filters: &[&str]) -> Result<u8, Failure> {
    let machine = Machine::new()?;
    let mut programs = Vec::new();
    for (package, wanted) in PROGRAMS {
        let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
        let built = build(package, &names, &[], &[])?;
        for ((name, filter), program) in wanted.iter().zip(built) {
            programs.push((*package, *name, *filter, program));
        }
    }
    let mut script = "failed=\n".to_owned();
    for (place, variable, value) in TURNS {
        for (package, name, filter, program) in &programs {
            let folder = quoted(&root().join(package).to_string_lossy());
            let program = quoted(program);
            let mut words: Vec<String> = filters.iter().map(|word| quoted(word)).collect();
            if words.is_empty() {
                words.push((*filter).into());
            }
            let words = words.join(" ");
            let title = format!("{package} {name} on {place}");
            script += &format!(
                "echo; echo '== {title}'; SECONDS=0; cd {folder}\n\
                 {variable}={value} {program} {words} || failed+='; {title}'\n\
                 echo \"== {title}: $SECONDS s\"\n"
            );
        }
    }
    script += "[ -z \"$failed\" ] || { echo \"failed:${failed#;}\"; exit 1; }\n";
    machine.start(&script, std::io::stdout())?.wait()
}

/// Builds test programs of a package, with features: their paths, in this order.
pub(super) fn build(
    package: &str,
    names: &[&str],
    features: &[&str],
    options: &[&str],
) -> Result<Vec<String>, Failure> {
    let mut command = cargo(["test", "--no-run", "--message-format=json", "-p", package]);
    command.args(options);
    for name in names {
        command.args(["--test", name]);
    }
    for feature in features {
        command.args(["--features", feature]);
    }
    let built = command
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output();
    let built = built.map_err(|error| format!("vm: cannot start cargo: {error}"))?;
    if !built.status.success() {
        return Err(format!("vm: the tests of {package} do not build"));
    }
    let messages = String::from_utf8_lossy(&built.stdout);
    let find = |name: &&str| {
        let target = format!("\"kind\":[\"test\"],\"crate_types\":[\"bin\"],\"name\":\"{name}\"");
        let line = messages.lines().find(|line| line.contains(&target));
        let program = line.and_then(|line| text_of(line, "executable"));
        program.ok_or_else(|| format!("vm: cargo built no test {package}/{name}"))
    };
    names.iter().map(find).collect()
}

/// The text of a field in a line of JSON; paths with quotes in them are not ours.
fn text_of(line: &str, field: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!("\"{field}\":\""))?;
    rest.split_once('"').map(|(text, _)| text.to_owned())
}

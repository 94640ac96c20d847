//! Steps: a named command, its time, and a clear word when it fails.
//!
//! Promises that a step's own output goes through unchanged and that nothing
//! runs after a failure. Does not capture, retry or run steps side by side.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Why a chore stopped, as one line.
pub(crate) type Failure = String;

/// Runs steps one after the other and remembers how long each took.
#[derive(Default)]
pub(crate) struct Runner {
    done: Vec<(String, Outcome)>,
}

enum Outcome {
    Took(Duration),
    Skipped(String),
}

impl Runner {
    /// Runs `command` as the step `name`.
    pub(crate) fn run(&mut self, name: &str, command: &mut Command) -> Result<(), Failure> {
        println!("\n== {name}: {}", shown(command));
        let start = Instant::now();
        let status = command
            .current_dir(root())
            .status()
            .map_err(|error| format!("step `{name}`: cannot start {}: {error}", shown(command)))?;
        let took = start.elapsed();
        println!("== {name}: {:.1} s", took.as_secs_f64());
        if !status.success() {
            return Err(format!(
                "step `{name}` failed after {:.1} s ({status}); to repeat it: {}",
                took.as_secs_f64(),
                shown(command)
            ));
        }
        self.done.push((name.to_owned(), Outcome::Took(took)));
        Ok(())
    }

    /// Notes that the step `name` cannot run here.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        println!("\n== {name}: skipped: {why}");
        self.done
            .push((name.to_owned(), Outcome::Skipped(why.to_owned())));
    }

    /// Prints all steps with their times.
    pub(crate) fn summary(&self) {
        let mut total = Duration::ZERO;
        println!("\n== summary");
        for (name, outcome) in &self.done {
            match outcome {
                Outcome::Took(time) => {
                    total += *time;
                    println!("{name:<28} {:>8.1} s", time.as_secs_f64());
                }
                Outcome::Skipped(why) => println!("{name:<28}  skipped: {why}"),
            }
        }
        println!("{:<28} {:>8.1} s", "all", total.as_secs_f64());
    }
}

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace's root")
}

/// `cargo` with these arguments: the one that runs us.
pub(crate) fn cargo<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(arguments: I) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

/// A target folder of its own for builds with other flags, so that they do
/// not throw away what the plain build made.
pub(crate) fn target(name: &str) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    root().join(target).join(name)
}

fn shown(command: &Command) -> String {
    let mut line = String::new();
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            let value = value.to_string_lossy();
            line += &format!("{}='{value}' ", key.to_string_lossy());
        }
    }
    let program = Path::new(command.get_program());
    line += &program.file_name().unwrap_or_default().to_string_lossy();
    for argument in command.get_args() {
        line += " ";
        line += &argument.to_string_lossy();
    }
    line
}

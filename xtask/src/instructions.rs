//! `cargo xtask instructions`: what operations cost in instructions, as
//! valgrind's callgrind counts them, beside the table of what they should.
//!
//! These counts repeat exactly where times do not. Each operation of the
//! example `operations` runs twice, for different numbers of times, and the
//! difference is its own; in the same way those with a `lock` prefix are
//! counted. The counts belong to a compiler: with another one than the table's
//! they are printed and not compared.

use crate::step::{Failure, Runner, cargo, root, target};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// The table.
const TABLE: &str = "benches/instructions.csv";
/// Its head, after the line that names the compiler.
const COLUMNS: &str = "operation,instructions,locked";
/// How often an operation runs, less often and more.
const TIMES: [u64; 2] = [20_000, 120_000];
/// By what part a count may exceed the table's.
const TOLERANCE: f64 = 0.05;

/// Instructions of one operation: all, and the locked ones.
#[derive(Clone, Copy)]
struct Cost {
    all: f64,
    locked: f64,
}

/// Compares, or with `--bless` writes the table anew.
pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let bless = match arguments {
        [] => false,
        [one] if one == "--bless" => true,
        _ => return Err("instructions: only --bless is known".into()),
    };
    for tool in ["valgrind", "objdump"] {
        if !is_there(tool) {
            return Err(format!(
                "instructions: {tool} is missing (Debian: apt-get install valgrind binutils)"
            ));
        }
    }
    let program = build()?;
    let locked = locked(&program)?;
    let names = output(&mut Command::new(&program))?;
    let mut costs = BTreeMap::new();
    println!(
        "{:<36} {:>14} {:>10}",
        "operation", "instructions", "locked"
    );
    for name in names.lines() {
        let cost = cost(&program, name, &locked)?;
        println!("{name:<36} {:>14.1} {:>10.2}", cost.all, cost.locked);
        costs.insert(name.to_owned(), cost);
    }
    let compiler = output(Command::new("rustc").arg("--version"))?;
    let compiler = compiler.trim();
    let table = root().join(TABLE);
    if bless {
        let mut text = format!("# {compiler}\n{COLUMNS}\n");
        for name in names.lines() {
            let Cost { all, locked } = costs[name];
            let quoted = format!("\"{name}\"");
            let _ = writeln!(text, "{quoted},{all:.1},{locked:.2}");
        }
        return std::fs::write(&table, text).map_err(|error| format!("{TABLE}: {error}"));
    }
    let text = std::fs::read_to_string(&table).map_err(|error| format!("{TABLE}: {error}"))?;
    compare(&text, compiler, &costs)
}

/// The step of `ci`, where there is valgrind.
pub(crate) fn step(steps: &mut Runner) -> Result<(), Failure> {
    if !is_there("valgrind") || !is_there("objdump") {
        steps.skip("instructions", "no valgrind");
        return Ok(());
    }
    steps.run("instructions", &mut cargo(["xtask", "instructions"]))
}

/// Whether `program` can be started.
fn is_there(program: &str) -> bool {
    let version = Command::new(program).arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

fn compare(table: &str, compiler: &str, costs: &BTreeMap<String, Cost>) -> Result<(), Failure> {
    let mut lines = table.lines();
    let head = lines.next().unwrap_or_default();
    if head != format!("# {compiler}") {
        println!("not compared: the table is of {head}, this is {compiler}");
        return Ok(());
    }
    let mut wrong = Vec::new();
    let mut known = HashSet::new();
    for line in lines.skip(1) {
        let row = line
            .strip_prefix('"')
            .and_then(|line| line.split_once("\","));
        let row = row.and_then(|(name, rest)| {
            let (all, locked) = rest.split_once(',')?;
            Some((name, all.parse::<f64>().ok()?, locked.parse::<f64>().ok()?))
        });
        let (name, all, locked) = row.ok_or_else(|| format!("{TABLE}: no row: {line}"))?;
        known.insert(name);
        let Some(cost) = costs.get(name) else {
            wrong.push(format!("{name} is not measured any more"));
            continue;
        };
        if cost.all > all * (1.0 + TOLERANCE) || cost.locked > locked + 0.05 {
            wrong.push(format!(
                "{name}: {:.1} instructions, {:.2} locked, instead of {all} and {locked}",
                cost.all, cost.locked
            ));
        } else if cost.all < all * (1.0 - TOLERANCE) || cost.locked < locked - 0.05 {
            println!("{name} has become cheaper: --bless notes it");
        }
    }
    let new = costs.keys().filter(|name| !known.contains(name.as_str()));
    wrong.extend(new.map(|name| format!("{name} has no row")));
    if wrong.is_empty() {
        return Ok(());
    }
    let wrong = wrong.join("\n  ");
    Err(format!(
        "instructions:\n  {wrong}\nIf that is meant: cargo xtask instructions --bless"
    ))
}

fn build() -> Result<std::path::PathBuf, Failure> {
    let folder = target("instructions");
    let mut build = cargo(["build", "--release", "-p", "bartender-benches"]);
    build.args(["--example", "operations"]);
    build.env("CARGO_TARGET_DIR", &folder).current_dir(root());
    let status = build.status().map_err(|error| error.to_string())?;
    if !status.success() {
        return Err("instructions: the example does not build".into());
    }
    Ok(folder.join("release/examples/operations"))
}

/// Addresses of the instructions with a `lock` prefix.
fn locked(program: &Path) -> Result<HashSet<u64>, Failure> {
    let mut objdump = Command::new("objdump");
    let text = output(objdump.args(["-d", "--no-show-raw-insn"]).arg(program))?;
    let locked = text.lines().filter_map(|line| {
        let (address, instruction) = line.split_once(':')?;
        // An exchange with memory is locked without saying so.
        let exchange = instruction.contains("xchg") && instruction.contains('(');
        if !instruction.trim_start().starts_with("lock") && !exchange {
            return None;
        }
        u64::from_str_radix(address.trim(), 16).ok()
    });
    Ok(locked.collect())
}

fn cost(program: &Path, name: &str, locked: &HashSet<u64>) -> Result<Cost, Failure> {
    let [few, many] = [0, 1].map(|at| counted(program, name, TIMES[at], locked));
    let (few, many) = (few?, many?);
    let each = |few: u64, many: u64| many.saturating_sub(few) as f64 / (TIMES[1] - TIMES[0]) as f64;
    Ok(Cost {
        all: each(few.0, many.0),
        locked: each(few.1, many.1),
    })
}

/// Instructions of a whole run: all, and the locked ones of the program itself.
fn counted(
    program: &Path,
    name: &str,
    times: u64,
    locked: &HashSet<u64>,
) -> Result<(u64, u64), Failure> {
    let file = program.with_extension("callgrind");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["-q", "--tool=callgrind", "--dump-instr=yes"]);
    valgrind.args(["--compress-pos=no", "--compress-strings=no"]);
    valgrind.arg(format!("--callgrind-out-file={}", file.display()));
    output(valgrind.arg(program).args([name, &times.to_string()]))?;
    let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
    let _ = std::fs::remove_file(&file);
    let ours = format!("ob={}", program.display());
    let (mut all, mut of_locked) = (0, 0);
    let (mut in_ours, mut is_call) = (false, false);
    for line in text.lines() {
        if line.starts_with("ob=") {
            in_ours = line == ours;
        } else if line.starts_with("calls=") {
            // The next line is the cost of what was called, which has its own.
            is_call = true;
        } else if let Some(rest) = line.strip_prefix("0x") {
            if std::mem::take(&mut is_call) {
                continue;
            }
            let mut words = rest.split(' ');
            let address = words
                .next()
                .and_then(|word| u64::from_str_radix(word, 16).ok());
            let count: u64 = words.nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
            all += count;
            if in_ours && address.is_some_and(|address| locked.contains(&address)) {
                of_locked += count;
            }
        }
    }
    Ok((all, of_locked))
}

fn output(command: &mut Command) -> Result<String, Failure> {
    let run = command.output().map_err(|error| error.to_string())?;
    if !run.status.success() {
        let error = String::from_utf8_lossy(&run.stderr);
        return Err(format!("{:?} failed: {error}", command.get_program()));
    }
    Ok(String::from_utf8_lossy(&run.stdout).into_owned())
}

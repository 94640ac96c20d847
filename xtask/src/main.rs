//! `cargo xtask`: the chores of the workspace, in Rust, so that they run
//! wherever the workspace does.
//!
//! This file reads the command line. [`step`] runs one command after the other
//! and stops at the first that fails; [`ci`], [`miri`], [`tsan`], [`book`], [`capi`], [`etcd`], [`fuzz`], [`instructions`] and [`chores`] say which commands;
//! [`vm`] runs them on persistent memory.
//! Nothing here is needed to build or to use bartender.

mod book;
mod capi;
mod chores;
mod ci;
mod etcd;
mod fuzz;
mod instructions;
mod miri;
mod step;
mod tsan;
mod vm;

use std::process::ExitCode;

const HELP: &str = "\
Usage: cargo xtask COMMAND [ARGUMENT...]

  ci              everything a change has to pass; stops at the first failure
  loom [CRATE]    the loom models, of one crate or of all
  miri [CRATE]    the tests that Miri can run, of one crate or of all;
                  MIRIFLAGS are added to ours
  tsan            the heap's thread stress under ThreadSanitizer
  fuzz [TARGET] [SECONDS]
                  what is read from the network, by libFuzzer, each target for a
                  minute if nothing is said; needs nightly and a C++ compiler
  crash [FILTER]  crash exploration and real deaths, in release mode, with
                  what they print
  sim [SECONDS]   simulated clusters under everything that can happen to them, from a seed of
                  its own on, in release mode; for a minute if nothing is said
  failover [N]    three members as processes, with TLS: the primary is killed under load N times
                  (50), with a coordinator of ours and with an etcd of their own
  bench [ARG...]  the benchmarks; `bench --help` says which there are and what
                  can be chosen
  book            builds the book below the build folder, with mdbook, which is
                  installed first if it is missing
  instructions    what operations of the allocator cost, counted by valgrind, beside
                  benches/instructions.csv; --bless writes that
  capi install --prefix DIR
                  builds the C interface and lays header, libraries and
                  pkg-config file below DIR
  capi test       installs it in the build folder and compiles and runs the C
                  programs of its tests; needs a C compiler
  etcd-test       the coordinator's tests on a real etcd, which is installed first
                  where apt-get is
  vm COMMAND...   runs a command in a virtual machine with persistent memory,
                  in the same folder, and exits with its status;
    vm setup            once before: fetches what the machine is made of
    vm test [FILTER...] the tests that can use persistent memory, on ext4 with
                        DAX and on a device
    vm test-rdma [FILTER...] the verbs backend over two emulated cards, and what
                        a read takes beside ib_read_lat
    vm powercut [N]     pulls the plug of a machine that commits, N times
    vm failover [N]     pulls the plug of a cluster's primary, which reaches its
                        backup by RDMA, N times
  help            this text

CARGO_TARGET_DIR is respected. LOOM_MAX_PREEMPTIONS bounds the models (default 2).
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next();
    let rest: Vec<String> = arguments.collect();
    let outcome = match command.as_deref() {
        Some("ci") if rest.is_empty() => ci::run(),
        Some("loom") if rest.len() <= 1 => chores::loom(rest.first().map(String::as_str)),
        Some("miri") if rest.len() <= 1 => miri::miri(rest.first().map(String::as_str)),
        Some("tsan") if rest.is_empty() => tsan::tsan(),
        Some("fuzz") if rest.len() <= 2 => fuzz::fuzz(&rest),
        Some("crash") if rest.len() <= 1 => chores::crash(rest.first().map(String::as_str)),
        Some("sim") if rest.len() <= 1 => chores::sim(rest.first().map(String::as_str)),
        Some("failover") if rest.len() <= 1 => etcd::failover(rest.first().map(String::as_str)),
        Some("bench") => chores::bench(&rest),
        Some("book") if rest.is_empty() => book::book(),
        Some("instructions") => instructions::run(&rest),
        Some("etcd-test") if rest.is_empty() => etcd::etcd_test(),
        Some("capi") if !rest.is_empty() => capi::run(&rest),
        Some("vm") => match vm::run(&rest) {
            Ok(status) => return ExitCode::from(status),
            Err(failure) => Err(failure),
        },
        Some("help" | "--help" | "-h") => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

//! The command-line tool: memory nodes, certificates, and what operators ask and tell a cluster.
//!
//! Data goes to the standard output, all else to the standard error. It ends with 0 when what was asked was done, with 1 when not, and with 2
//! for a command line that makes no sense. It holds no logic of the cluster's: that is the library's.

mod args;
mod cert;
mod cluster;
mod connect;
mod node;
mod table;

use args::{Args, Command};
use clap::Parser;
use std::error::Error;
use std::io;
use std::process::ExitCode;

/// Whatever went wrong, in words that say what to do next.
type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("BARTENDER_LOG");
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_env_filter(filter.unwrap_or_else(|_| args.log_level().into()))
        .init();
    let done = match args.command {
        Command::Node(args) => node::run(*args),
        Command::Cert(args) => cert::run(args),
        Command::Cluster(args) => cluster::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bartender: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever read has had enough.
fn is_closed_pipe(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

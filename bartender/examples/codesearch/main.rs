//! `codesearch`: a word index over source trees, kept in one bartender region.
//!
//! ```text
//! codesearch index DIR          reads what is new or changed below DIR
//! codesearch search WORD...     prints path:line for the files with all words
//! codesearch stats              what the index and its region hold
//! ```
//!
//! The process may be killed at any instant: the next run goes on where this
//! one stopped, and no file is ever counted twice. Searching opens the region
//! and follows pointers; nothing is loaded.
//!
//! Read [`model`] first: it is all that the region knows about searching. The
//! modules below it make it (`tokens`, `postings`, `builder`, `walk`,
//! `compact`, `store`, `indexer`) and look at it (`query`, `stats`, `output`).
//!
//! Exit status: 0, or 1 after an error, or 2 after a wrong command line. A
//! search that finds nothing prints nothing, with status 0.

mod builder;
mod compact;
mod error;
mod indexer;
mod model;
mod output;
mod postings;
mod query;
mod stats;
mod store;
mod tokens;
mod walk;

use crate::error::{Error, Result};
use crate::indexer::Report;
use crate::output::bytes;
use crate::store::{Owned, Store, Stored};
use clap::{Parser, Subcommand};
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A word index over source trees that survives being killed at any moment.
#[derive(Parser)]
#[command(name = "codesearch", version)]
struct Cli {
    /// The region that holds the index
    /// [default: bartender/codesearch.region in the user's data folder]
    #[arg(long, global = true, value_name = "FILE")]
    region: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring the index up to date with a folder
    ///
    /// Reads the files that are new or changed, and drops those that are gone.
    /// What a .gitignore excludes, .git folders, binary files and symbolic
    /// links are left out. Other folders in the same index stay as they are.
    Index {
        /// The folder
        dir: PathBuf,
        /// Keep the index in ordinary memory and throw it away, to see what
        /// the region costs
        #[arg(long, conflicts_with = "region")]
        in_memory: bool,
        /// Bytes of sources for one transaction
        #[arg(long, default_value_t = indexer::BATCH, value_name = "BYTES")]
        batch: u64,
    },
    /// Print path:line for the files that hold all the words, best first
    ///
    /// A word is a run of ASCII letters, digits and _ that does not start with
    /// a digit, whole, in the same case. Better files have more lines with the
    /// words, for their length, and with the rarer words (BM25).
    Search {
        /// The words
        #[arg(required = true, value_name = "WORD")]
        words: Vec<String>,
        /// At most so many files
        #[arg(long, default_value_t = 20, value_name = "N")]
        limit: usize,
        /// One JSON object a file: {"path": ..., "lines": [...]}
        #[arg(long)]
        json: bool,
    },
    /// Print what the index and its region hold
    Stats {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "codesearch: {}", error.line());
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let region = || match cli.region.clone() {
        Some(path) => Ok(path),
        None => default_region(),
    };
    match cli.command {
        Command::Index {
            dir,
            in_memory,
            batch,
        } => {
            let folder = indexer::folder(&dir)?;
            if in_memory {
                return index(&mut Owned::default(), &folder, batch, None);
            }
            let path = region()?;
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(|source| Error::DataFolder {
                    path: parent.to_owned(),
                    source,
                })?;
            }
            let mut store = store::open(&path, true)?;
            let leave_out = fs::metadata(&path)
                .ok()
                .map(|file| (file.dev(), file.ino()));
            index(&mut store, &folder, batch, leave_out)?;
            store.close()?;
        }
        Command::Search { words, limit, json } => {
            if let Some(odd) = words.iter().find(|word| !tokens::is_word(word)) {
                return Err(Error::NotAWord(odd.clone()));
            }
            let store = open_existing(&region()?)?;
            store::Store::read(&store, |index| {
                let answer = query::search(index, &words, limit);
                output::answer(&answer, json)
            })?;
            store.close()?;
        }
        Command::Stats { json } => {
            let start = Instant::now();
            let path = region()?;
            let store = open_existing(&path)?;
            let took = start.elapsed();
            let stats = stats::Stats::new(&path, &store, took);
            output::print(|out| stats.write(out, json))?;
            store.close()?;
        }
    }
    Ok(())
}

fn open_existing(path: &Path) -> Result<Stored> {
    if !path.exists() {
        return Err(Error::NoIndex(path.to_owned()));
    }
    store::open(path, false)
}

/// `codesearch.region` in the user's data folder.
fn default_region() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let data = set("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".local/share")))
        .ok_or(Error::NoDataFolder)?;
    Ok(data.join("bartender").join("codesearch.region"))
}

fn index(
    store: &mut impl Store,
    folder: &Path,
    batch: u64,
    leave_out: Option<(u64, u64)>,
) -> Result<()> {
    let start = Instant::now();
    let report = indexer::index(store, folder, batch, leave_out)?;
    let took = start.elapsed();
    let (totals, words) = store.read(|index| (stats::totals(index), stats::distinct_words(index)));
    output::print(|out| {
        summary(out, &report, took)?;
        writeln!(
            out,
            "index: {} files, {} words, {} places",
            totals.files, words, totals.postings
        )?;
        if let Some(peak) = stats::peak_memory() {
            writeln!(out, "peak memory: {}", bytes(peak))?;
        }
        Ok(())
    })
}

fn summary(out: &mut dyn Write, report: &Report, took: Duration) -> std::io::Result<()> {
    let seconds = took.as_secs_f64();
    writeln!(
        out,
        "indexed {} files, {}, in {seconds:.3} s: {:.1} MB/s",
        report.indexed,
        bytes(report.bytes),
        report.bytes as f64 / 1e6 / seconds
    )?;
    writeln!(
        out,
        "unchanged {}, dropped {}, binary {}, unreadable {}",
        report.unchanged, report.dropped, report.binary, report.unreadable
    )
}

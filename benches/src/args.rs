//! The command line of the benchmarks.
//!
//! It knows which words there are and what they mean; a workload reads what
//! concerns it and ignores the rest.

use std::error::Error;
use std::str::FromStr;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Usage: cargo xtask bench [WORKLOAD...] [OPTION...]

Workloads: commit disk alloc read bulk net collections rebuild (all, if none is named)

  --quick          a tenth of the allocator's programs and of what is rebuilt, a
                   fiftieth of the collections'
  --threads LIST   thread counts of the allocator's programs, as in 1,2 (1,2,4)
  --n NUMBER       operations of a thread in a round, or objects
  --size BYTES     block size of the programs that take one (64, 256, 512, 4096)
  --rounds NUMBER  rounds after the warm-up (7; 5 if quick)
  --only TEXT      only programs whose name contains it (pair, batch, threadtest,
                   larson, space, reading, single, …)
";

/// What was asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Args {
    /// Names of workloads; none: all.
    pub(crate) workloads: Vec<String>,
    /// A tenth of everything.
    pub(crate) quick: bool,
    /// Thread counts.
    pub(crate) threads: Option<Vec<usize>>,
    /// Operations or objects.
    pub(crate) n: Option<usize>,
    /// Bytes of a block.
    pub(crate) size: Option<usize>,
    /// Rounds.
    pub(crate) rounds: Option<usize>,
    /// Part of a program's name.
    pub(crate) only: Option<String>,
}

impl Args {
    /// Reads the command line.
    ///
    /// # Errors
    /// What cannot be understood, in words.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Args, Box<dyn Error>> {
        let mut args = Args::default();
        while let Some(word) = words.next() {
            let mut value = || {
                let value = words.next();
                value.ok_or_else(|| format!("{word} needs a value"))
            };
            match word.as_str() {
                // Between cargo's arguments and ours, and harmless here.
                "--" => {}
                "--quick" => args.quick = true,
                "--threads" => {
                    let list = value()?;
                    args.threads = Some(list.split(',').map(number).collect::<Result<_, _>>()?);
                }
                "--n" => args.n = Some(number(&value()?)?),
                "--size" => args.size = Some(number(&value()?)?),
                "--rounds" => args.rounds = Some(number(&value()?)?),
                "--only" => args.only = Some(value()?),
                _ if word.starts_with('-') => return Err(format!("no option {word}").into()),
                _ => args.workloads.push(word),
            }
        }
        Ok(args)
    }

    /// Whether the program `name` is to run.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only))
    }

    /// Rounds after the warm-up.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 5 } else { 7 })
    }
}

fn number(text: &str) -> Result<usize, String> {
    match usize::from_str(text) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{text}: not a number above 0")),
    }
}

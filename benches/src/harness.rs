//! Timing that survives noisy machines: the subjects of a workload take turns,
//! every round measures all of them, and what counts is the median of the
//! rounds and the ratio of medians within one run.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// One result: a subject in a workload.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) workload: String,
    pub(crate) threads: usize,
    pub(crate) subject: String,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) unit: &'static str,
}

/// A goal and what was reached.
#[derive(Debug)]
struct Verdict {
    goal: String,
    reached: f64,
    bound: f64,
    at_least: bool,
}

/// Results gathered over a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    verdicts: Vec<Verdict>,
}

/// A subject of a workload: its name, and a closure that does one round and
/// returns its figure (time for an operation, or a rate).
pub(crate) type Subject<'a> = (&'a str, Box<dyn FnMut() -> f64 + 'a>);

impl Report {
    /// Measures the subjects in turns, `rounds` times after one warm-up.
    pub(crate) fn measure(
        &mut self,
        workload: &str,
        threads: usize,
        unit: &'static str,
        rounds: usize,
        mut subjects: Vec<Subject<'_>>,
    ) {
        let mut figures = vec![Vec::new(); subjects.len()];
        for round in 0..=rounds {
            for (i, (_, run)) in subjects.iter_mut().enumerate() {
                let figure = run();
                if round > 0 {
                    figures[i].push(figure);
                }
            }
        }
        println!(
            "\n{workload} ({threads} thread{}), {unit}",
            if threads == 1 { "" } else { "s" }
        );
        for ((subject, _), mut figures) in subjects.into_iter().zip(figures) {
            figures.sort_by(f64::total_cmp);
            let row = Row {
                workload: workload.into(),
                threads,
                subject: subject.into(),
                median: figures[figures.len() / 2],
                min: figures[0],
                max: figures[figures.len() - 1],
                unit,
            };
            println!(
                "  {:<34} {:>12.2}   ({:.2} to {:.2})",
                row.subject, row.median, row.min, row.max
            );
            self.rows.push(row);
        }
    }

    /// Notes one figure of a subject, which was measured elsewhere.
    pub(crate) fn note(
        &mut self,
        workload: &str,
        threads: usize,
        subject: &str,
        figure: f64,
        unit: &'static str,
    ) {
        self.rows.push(Row {
            workload: workload.into(),
            threads,
            subject: subject.into(),
            median: figure,
            min: figure,
            max: figure,
            unit,
        });
    }

    /// The median of a subject.
    pub(crate) fn median(&self, workload: &str, threads: usize, subject: &str) -> f64 {
        self.rows
            .iter()
            .find(|r| r.workload == workload && r.threads == threads && r.subject == subject)
            .map_or(f64::NAN, |r| r.median)
    }

    /// The subjects of a workload with their medians, in the order of their turns.
    pub(crate) fn subjects(
        &self,
        workload: &str,
        threads: usize,
    ) -> impl Iterator<Item = (&str, f64)> {
        let rows = self.rows.iter();
        rows.filter(move |r| r.workload == workload && r.threads == threads)
            .map(|r| (r.subject.as_str(), r.median))
    }

    /// Records that `reached` should be at most `bound`.
    pub(crate) fn at_most(&mut self, goal: impl Into<String>, reached: f64, bound: f64) {
        self.verdicts.push(Verdict {
            goal: goal.into(),
            reached,
            bound,
            at_least: false,
        });
    }

    /// Records that `reached` should be at least `bound`.
    pub(crate) fn at_least(&mut self, goal: impl Into<String>, reached: f64, bound: f64) {
        self.verdicts.push(Verdict {
            goal: goal.into(),
            reached,
            bound,
            at_least: true,
        });
    }

    /// Prints the verdicts, writes the table to `target/bench/<name>.csv` and a chart of each workload beside it.
    pub(crate) fn finish(self, name: &str) -> Result<(), Box<dyn Error>> {
        println!("\ngoals");
        for v in &self.verdicts {
            let met = if v.at_least {
                v.reached >= v.bound
            } else {
                v.reached <= v.bound
            };
            println!(
                "  {:<84} {:>9.2} {} {:<6} {}",
                v.goal,
                v.reached,
                if v.at_least { "≥" } else { "≤" },
                v.bound,
                if met { "met" } else { "MISSED" }
            );
        }
        let mut csv = String::from("workload,threads,subject,median,min,max,unit\n");
        for r in &self.rows {
            let _ = writeln!(
                csv,
                "{},{},{},{:.3},{:.3},{:.3},{}",
                // A name with a comma would be two columns.
                r.workload.replace(',', ";"),
                r.threads,
                r.subject,
                r.median,
                r.min,
                r.max,
                r.unit
            );
        }
        let folder = PathBuf::from("target/bench");
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{name}.csv"));
        fs::write(&path, csv)?;
        let charts = crate::chart::draw(&self.rows, &folder.join(name))?;
        println!("\nwritten to {}, and {charts} charts", path.display());
        Ok(())
    }
}

/// Nanoseconds for one of `n` operations that `f` does.
pub(crate) fn nanos(n: u64, f: impl FnOnce()) -> f64 {
    let start = std::time::Instant::now();
    f();
    start.elapsed().as_nanos() as f64 / n as f64
}

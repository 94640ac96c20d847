//! Opening a store whose process was killed by SIGKILL while it inserted.
//!
//! A process opens the store, or makes it, reads a key, and inserts until it is killed; each of them finds what the
//! death of the one before left. Its figure is the time from before the opening to after the first read. The files are
//! in the page cache, as they are after a process has died and is started again.
//!
//! Processes die a tenth of a second after they are ready. The first finds what was loaded at once, by the million, in
//! the log, and its opening stands apart; after that one lives for seconds.

use super::stores::Kind;
use super::{Extent, KINDS, Medium, Setting, key, marked, words};
use crate::harness::{Report, Subject};
use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// First argument of a process that is going to be killed.
pub(crate) const CHILD: &str = "collections-child";

/// What such a process prints, in microseconds.
const OPENED: &str = "opened";
pub(super) const READY: &str = "ready";

pub(super) fn run(report: &mut Report, extent: Extent<'_>) -> Result<(), Box<dyn Error>> {
    for medium in [Medium::Shared, Medium::Disk] {
        for (n, peers) in [(extent.n, true), (10 * extent.n, false)] {
            let workload = name_of(n, medium);
            if extent.args.wants(&workload) {
                // Peers take minutes for ten million entries.
                let kinds = KINDS.iter().filter(|kind| kind.ours || peers).collect();
                measure(report, extent, &workload, n, medium, kinds)?;
            }
        }
        independent(report, extent, medium);
    }
    Ok(())
}

fn name_of(n: usize, medium: Medium) -> String {
    format!("opening after a kill: {n} words, {}", medium.name())
}

fn measure(
    report: &mut Report,
    extent: Extent<'_>,
    workload: &str,
    n: usize,
    medium: Medium,
    kinds: Vec<&'static Kind>,
) -> Result<(), Box<dyn Error>> {
    let folder = medium.folder();
    let path = folder.path();
    let mut subjects: Vec<Subject<'_>> = Vec::new();
    for kind in &kinds {
        life(kind, medium, path, n, true, SHORT)?;
        let longer = if extent.args.quick { SHORT } else { LONG };
        let loaded = life(kind, medium, path, n, false, longer)?[OPENED] / 1e3;
        println!("\n{workload}, just loaded, {}: {loaded:.2} ms", kind.name);
        report.note(
            &format!("{workload}, just loaded"),
            1,
            kind.name,
            loaded,
            "ms",
        );
        let open = move || life(kind, medium, path, n, false, SHORT).expect("opens")[OPENED] / 1e3;
        subjects.push((kind.name, Box::new(open)));
    }
    report.measure(workload, 1, "ms", extent.rounds, subjects);
    for kind in kinds.iter().filter(|kind| kind.ours) {
        let goal = format!("{workload}: ms until the first read, {}", kind.name);
        report.at_most(goal, report.median(workload, 1, kind.name), 5.0);
    }
    Ok(())
}

/// Ten times the entries should take the same time.
fn independent(report: &mut Report, extent: Extent<'_>, medium: Medium) {
    for kind in KINDS.iter().filter(|kind| kind.ours) {
        let time = |n| report.median(&name_of(n, medium), 1, kind.name);
        let ratio = time(10 * extent.n) / time(extent.n);
        if !ratio.is_nan() {
            let goal = format!(
                "opening after a kill, {}: ten times the words against {}, {}",
                medium.name(),
                extent.n,
                kind.name
            );
            report.at_most(goal, ratio, 1.5);
        }
    }
}

/// How long processes insert before they are killed.
pub(super) const SHORT: Duration = Duration::from_millis(100);
/// How long one of them does: longer than a million changes take to be written home on a disk.
const LONG: Duration = Duration::from_secs(5);

/// Lets a process live until it has opened the store and inserted for a while; returns what it measured.
fn life(
    kind: &Kind,
    medium: Medium,
    folder: &Path,
    n: usize,
    make: bool,
    inserts: Duration,
) -> Result<HashMap<String, f64>, Box<dyn Error>> {
    let n = n.to_string();
    let what = if make { "make" } else { "open" };
    let words = [CHILD, kind.name, medium.name(), &n, what].map(Path::new);
    live(words.into_iter().chain([folder]), inserts)
}

/// Lets a process live until it is ready, and so much longer; returns what it measured.
pub(super) fn live<'a>(
    arguments: impl Iterator<Item = &'a Path>,
    longer: Duration,
) -> Result<HashMap<String, f64>, Box<dyn Error>> {
    let mut process = Command::new(std::env::current_exe()?)
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(process.stdout.take().expect("was asked for")).lines();
    let mut figures = HashMap::new();
    for line in lines {
        let line = line?;
        let (name, figure) = line.split_once('\t').unwrap_or((&line, "0"));
        figures.insert(name.to_owned(), figure.parse()?);
        if name == READY {
            break;
        }
    }
    std::thread::sleep(longer);
    process.kill()?;
    process.wait()?;
    match figures.contains_key(READY) {
        true => Ok(figures),
        false => Err("a process ended early".into()),
    }
}

/// The program of such a process: `collections-child KIND MEDIUM WORDS make|open FOLDER`.
pub(crate) fn child(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    if let [word, rest @ ..] = arguments
        && word == marked::MARKING
    {
        return marked::child(rest);
    }
    let [kind, medium, n, what, folder] = arguments else {
        return Err("five arguments".into());
    };
    let kind = KINDS.iter().find(|known| known.name == kind);
    let kind = kind.ok_or("no such store")?;
    let media = [Medium::Shared, Medium::Disk];
    let medium = media.into_iter().find(|known| known.name() == medium);
    let n: usize = n.parse()?;
    let start = Instant::now();
    let store = (kind.open)(Setting {
        folder: Path::new(folder),
        survives: medium.ok_or("no such medium")?.survives(),
        entries: n,
    });
    if what == "make" {
        for part in words(n).chunks(1 << 20) {
            store.insert_words(part);
        }
    } else {
        let first = key(0);
        let value = store.read(&[first]);
        println!("{OPENED}\t{}", start.elapsed().as_nanos() as f64 / 1e3);
        if value != 0 {
            return Err("another value than was put there".into());
        }
        let sample: Vec<u64> = (0..n).step_by(n.div_ceil(1000)).map(key).collect();
        let sum: usize = (0..n).step_by(n.div_ceil(1000)).sum();
        if store.read(&sample) != sum as u64 {
            return Err("other values than were put there".into());
        }
    }
    println!("{READY}");
    // Others than were put there before, time after time.
    let first = n + std::process::id() as usize * n;
    for i in first.. {
        store.insert(key(i), i as u64);
    }
    Ok(())
}

//! Brings the index up to date with a folder.
//!
//! Walk the folder, compare with what is known, then: one pool of threads reads
//! and tokenises the files that are new or changed, each thread building a
//! segment of its own; this thread commits the segments as they come. A segment
//! and the death of the older versions of its files are one transaction, so a
//! process that is killed has indexed each file either wholly or not at all,
//! and the next run finds by itself what is left to do.
//!
//! A known file of this folder that the walk does not meet is dropped. One that
//! was indexed from another folder is dropped only when it is gone from the
//! disk, and nothing is dropped below a folder that could not be read.

use crate::builder::{Builder, Source};
use crate::compact;
use crate::error::{Error, Result};
use crate::model::{FileRef, Segment, Stamp, State};
use crate::output::shown;
use crate::store::{Change, HEAVY, Store};
use crate::walk::{Found, stamp, walk};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of sources for one segment, and so for one transaction, unless told
/// otherwise.
pub(crate) const BATCH: u64 = 8 << 20;
/// Files that die in one transaction.
const DEATHS: usize = 4096;
/// A file that changed less than this before it was read may change again
/// without a new time stamp: clocks of file systems tick every 4 or 10 ms.
const TICK: i64 = 20_000_000;

/// What a run did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    /// Files that were read and indexed.
    pub(crate) indexed: u64,
    /// Bytes of them.
    pub(crate) bytes: u64,
    /// Places of words in them.
    pub(crate) postings: u64,
    /// Files that are indexed as they are.
    pub(crate) unchanged: u64,
    /// Files that were binary when they were read.
    pub(crate) binary: u64,
    /// Files that are gone and were dropped from the index.
    pub(crate) dropped: u64,
    /// Files and folders that could not be read.
    pub(crate) unreadable: u64,
}

/// A file to read, and its older version.
struct Job {
    found: Found,
    old: Option<FileRef>,
}

/// What a thread has made.
struct Made {
    segment: Segment,
    /// Older versions, of unreadable files too.
    dead: Vec<FileRef>,
    failed: Vec<(PathBuf, String)>,
}

/// The folder as it will stand in the index.
///
/// # Errors
///
/// It does not exist, is no folder, or may not be read.
pub(crate) fn folder(given: &Path) -> Result<PathBuf> {
    let fail = |what: String| Error::Folder {
        path: given.to_owned(),
        what,
    };
    let path = fs::canonicalize(given).map_err(|error| fail(error.to_string()))?;
    if !path.is_dir() {
        return Err(fail("not a folder".to_owned()));
    }
    fs::read_dir(&path).map_err(|error| fail(error.to_string()))?;
    Ok(path)
}

/// Indexes `folder`, which [`folder`](self::folder) has made, with about
/// `batch` bytes of sources a transaction. `leave_out` is `(device, inode)` of
/// the region.
pub(crate) fn index(
    store: &mut impl Store,
    folder: &Path,
    batch: u64,
    leave_out: Option<(u64, u64)>,
) -> Result<Report> {
    let mut report = Report::default();
    let root = root(store, folder)?;
    let walked = walk(folder, leave_out);
    for (path, why) in &walked.failed {
        warn(None, path, why);
    }
    report.unreadable = walked.failed.len() as u64;

    let mut known = known(store, folder);
    let mut jobs = Vec::new();
    for found in walked.files {
        let known = known.remove(found.path.as_os_str().as_bytes());
        match known {
            Some((_, stamp, _)) if stamp == found.stamp => report.unchanged += 1,
            _ => jobs.push(Job {
                found,
                old: known.map(|(at, _, _)| at),
            }),
        }
    }
    let gone = known.iter().filter(|(path, (_, _, of))| {
        let path = Path::new(OsStr::from_bytes(path));
        let lost = || fs::symlink_metadata(path).is_err_and(|e| e.kind() == NOT_FOUND);
        let hidden = walked.failed.iter().any(|(at, _)| path.starts_with(at));
        !hidden && (*of == root || lost())
    });
    let gone: Vec<FileRef> = gone.map(|(_, (at, _, _))| *at).collect();
    report.dropped = gone.len() as u64;
    for dead in gone.chunks(DEATHS) {
        let dead = dead.to_vec();
        store.apply(Change::Files { new: None, dead })?;
    }

    let batches = batches(&jobs, batch);
    read_all(store, root, &batches, &mut report)?;

    loop {
        let due = store.read(compact::due);
        if due.is_empty() {
            return Ok(report);
        }
        let new = store.read(|index| compact::merged(index, &due));
        store.apply(Change::Replace { old: due, new })?;
    }
}

const NOT_FOUND: std::io::ErrorKind = std::io::ErrorKind::NotFound;

/// Place of `folder` among the roots; it is made if there is none.
fn root(store: &mut impl Store, folder: &Path) -> Result<u32> {
    let path = folder.as_os_str().as_bytes();
    let (at, there) = store.read(|index| {
        let at = index.roots.iter().position(|root| root[..] == *path);
        (at.unwrap_or(index.roots.len()) as u32, at.is_some())
    });
    if !there {
        store.apply(Change::Root(path.to_vec()))?;
    }
    Ok(at)
}

/// The files below `folder` that the index knows: where each is, how it
/// looked, and which root it came from.
fn known(store: &impl Store, folder: &Path) -> HashMap<Box<[u8]>, (FileRef, Stamp, u32)> {
    store.read(|index| {
        let mut known = HashMap::new();
        for (segment, files) in index.segments.iter().enumerate() {
            for (file, entry) in files.files.iter().enumerate() {
                let path: &[u8] = &entry.path;
                if entry.state != State::Dead
                    && Path::new(OsStr::from_bytes(path)).starts_with(folder)
                {
                    let at = FileRef { segment, file };
                    known.insert(path.into(), (at, entry.stamp, entry.root));
                }
            }
        }
        known
    })
}

/// Cuts the jobs where they make up about `size` bytes.
fn batches(jobs: &[Job], size: u64) -> Vec<&[Job]> {
    let mut batches = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, job) in jobs.iter().enumerate() {
        bytes += job.found.stamp.size;
        if bytes >= size {
            batches.push(&jobs[from..=at]);
            (from, bytes) = (at + 1, 0);
        }
    }
    batches.push(&jobs[from..]);
    batches
}

/// Reads the files of all jobs and commits what they hold.
fn read_all(
    store: &mut impl Store,
    root: u32,
    batches: &[&[Job]],
    report: &mut Report,
) -> Result<()> {
    let sizes = batches.iter().copied().flatten();
    let total = sizes.map(|job| job.found.stamp.size).sum();
    let progress = ProgressBar::new(total);
    progress.set_style(
        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left")
            .expect("the template is well-formed"),
    );
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let outcome = thread::scope(|scope| {
        let (sender, receiver) = sync_channel(threads);
        for _ in 0..threads.min(batches.len()) {
            let sender = sender.clone();
            scope.spawn(|| read_batches(root, batches, &next, &progress, sender));
        }
        drop(sender);
        for made in receiver {
            for (path, why) in &made.failed {
                warn(Some(&progress), path, why);
            }
            report.unreadable += made.failed.len() as u64;
            report.indexed += made.segment.stored.files;
            report.bytes += made.segment.stored.bytes;
            report.postings += made.segment.stored.postings;
            report.binary += made.segment.stored.binary;
            let new = (!made.segment.files.is_empty()).then_some(made.segment);
            if new.is_some() || !made.dead.is_empty() {
                // An error drops the receiver, which stops the threads.
                store.apply(Change::Files {
                    new,
                    dead: made.dead,
                })?;
            }
        }
        Ok(())
    });
    progress.finish_and_clear();
    outcome
}

/// Takes batch after batch until none is left, or nobody listens.
fn read_batches(
    root: u32,
    batches: &[&[Job]],
    next: &AtomicUsize,
    progress: &ProgressBar,
    sender: SyncSender<Made>,
) {
    let mut builder = Builder::new();
    let mut dead = Vec::new();
    let mut failed = Vec::new();
    while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
        for (at, job) in batch.iter().enumerate() {
            dead.extend(job.old);
            if let Err(error) = read(&mut builder, root, &job.found.path) {
                failed.push((job.found.path.clone(), error.to_string()));
            }
            progress.inc(job.found.stamp.size);
            if at + 1 == batch.len() || builder.weight() >= HEAVY {
                let made = Made {
                    segment: builder.finish(),
                    dead: std::mem::take(&mut dead),
                    failed: std::mem::take(&mut failed),
                };
                if sender.send(made).is_err() {
                    return;
                }
            }
        }
    }
}

fn read(builder: &mut Builder, root: u32, path: &Path) -> std::io::Result<()> {
    let file = fs::File::open(path)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_nanos() as i64);
    let mut stamp = stamp(&file.metadata()?);
    if (now - stamp.changed).abs() < TICK {
        stamp.changed = 0;
    }
    let source = Source {
        path: path.as_os_str().as_bytes(),
        stamp,
        root,
    };
    builder.add(&source, file)
}

fn warn(progress: Option<&ProgressBar>, path: &Path, why: &str) {
    let path = shown(path.as_os_str().as_bytes());
    let print = || eprintln!("codesearch: warning: {path}: {why}; skipped");
    match progress {
        Some(progress) => progress.suspend(print),
        None => print(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::search;
    use crate::store::Owned;

    fn paths(store: &Owned, below: &Path, word: &str) -> Vec<String> {
        store.read(|index| {
            let answer = search(index, &[word.to_owned()], 99);
            let mut paths: Vec<String> = answer
                .hits
                .iter()
                .map(|hit| {
                    let path = Path::new(OsStr::from_bytes(hit.path));
                    let path = path.strip_prefix(below).unwrap();
                    path.to_str().unwrap().to_owned()
                })
                .collect();
            paths.sort();
            paths
        })
    }

    /// Times of files just written are not trusted: wait until they are.
    fn settle() {
        thread::sleep(std::time::Duration::from_nanos(TICK as u64 + 1_000_000));
    }

    #[test]
    fn a_second_run_reads_what_changed_and_drops_what_is_gone() {
        let tree = tempfile::tempdir().unwrap();
        let tree = tree.path().canonicalize().unwrap();
        for name in ["a", "b", "c"] {
            fs::write(tree.join(name), "word").unwrap();
        }
        fs::write(tree.join("bin"), "word\0").unwrap();
        settle();
        let mut store = Owned::default();
        let first = index(&mut store, &tree, BATCH, None).unwrap();
        assert_eq!((first.indexed, first.binary, first.unchanged), (3, 1, 0));
        let second = index(&mut store, &tree, BATCH, None).unwrap();
        assert_eq!((second.indexed, second.binary, second.unchanged), (0, 0, 4));

        fs::write(tree.join("a"), "wort").unwrap();
        fs::remove_file(tree.join("b")).unwrap();
        let third = index(&mut store, &tree, BATCH, None).unwrap();
        assert_eq!((third.indexed, third.dropped, third.unchanged), (1, 1, 2));
        assert_eq!(paths(&store, &tree, "word"), ["c"]);
        assert_eq!(paths(&store, &tree, "wort"), ["a"]);
    }

    #[test]
    fn folders_do_not_drop_each_others_files() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let (inner, other) = (home.join("tree/made"), home.join("other"));
        for folder in [&inner, &other] {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join("f"), "word").unwrap();
        }
        let tree = home.join("tree");
        fs::write(tree.join(".gitignore"), "made\n").unwrap();
        let mut store = Owned::default();
        for folder in [&inner, &other, &tree] {
            index(&mut store, folder, BATCH, None).unwrap();
        }
        assert_eq!(paths(&store, &home, "word"), ["other/f", "tree/made/f"]);
        // Gone from the disk: any folder above notices.
        fs::remove_file(inner.join("f")).unwrap();
        fs::remove_file(other.join("f")).unwrap();
        assert_eq!(index(&mut store, &tree, BATCH, None).unwrap().dropped, 1);
        assert_eq!(paths(&store, &home, "word"), ["other/f"]);
        assert_eq!(index(&mut store, &other, BATCH, None).unwrap().dropped, 1);
        assert!(store.read(|index| index.segments.iter().all(|s| s.live.postings <= 1)));
    }

    #[test]
    fn a_folder_that_is_none_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file, home.path().join("missing")] {
            let line = folder(&path).unwrap_err().line();
            assert!(line.contains(path.to_str().unwrap()), "{line}");
        }
    }
}

//! Which files of a tree are to be indexed.
//!
//! All regular files below the folder, except what a `.gitignore` excludes
//! (and `.git/info/exclude`), folders named `.git`, and the region itself.
//! Hidden files count; symbolic links are not followed. In a git work tree the
//! `.gitignore` files of the folders above count up to its top, as they do for
//! git; elsewhere those from the folder downwards, with or without a `.git`.
//! What cannot be read becomes a warning, not an error.

use crate::model::Stamp;
use ignore::{DirEntry, WalkBuilder, WalkState};
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;

/// A file to be looked at.
#[derive(Debug)]
pub(crate) struct Found {
    /// Where it is, absolute.
    pub(crate) path: PathBuf,
    /// How it looked from outside.
    pub(crate) stamp: Stamp,
}

/// What a walk brought home.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// The files, in the order of their paths' bytes.
    pub(crate) files: Vec<Found>,
    /// Folders and files that could not be read, and why.
    pub(crate) failed: Vec<(PathBuf, String)>,
}

/// Walks `folder`, which is absolute, with a few threads. `leave_out` is
/// `(device, inode)` of the region.
pub(crate) fn walk(folder: &Path, leave_out: Option<(u64, u64)>) -> Walked {
    let in_work_tree = folder.ancestors().any(|above| above.join(".git").exists());
    let walker = WalkBuilder::new(folder)
        .hidden(false)
        .ignore(false)
        .git_global(false)
        .require_git(in_work_tree)
        .parents(in_work_tree)
        .follow_links(false)
        .filter_entry(|entry| entry.depth() == 0 || entry.file_name() != ".git")
        .threads(thread::available_parallelism().map_or(1, usize::from))
        .build_parallel();
    let (sender, receiver) = channel();
    walker.run(|| {
        let sender = sender.clone();
        Box::new(move |entry| {
            if let Some(seen) = look(entry, folder, leave_out) {
                sender.send(seen).expect("the receiver outlives the walk");
            }
            WalkState::Continue
        })
    });
    drop(sender);
    let mut walked = Walked::default();
    for seen in receiver {
        match seen {
            Ok(found) => walked.files.push(found),
            Err(failed) => walked.failed.push(failed),
        }
    }
    let order = |a: &Path, b: &Path| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes());
    walked
        .files
        .sort_unstable_by(|a, b| order(&a.path, &b.path));
    walked.failed.sort_unstable_by(|a, b| order(&a.0, &b.0));
    walked
}

/// One entry of the walk, if it is a file or a failure.
fn look(
    entry: Result<DirEntry, ignore::Error>,
    folder: &Path,
    leave_out: Option<(u64, u64)>,
) -> Option<Result<Found, (PathBuf, String)>> {
    let entry = match entry {
        Ok(entry) => entry,
        Err(error) => {
            let path = path_of(&error).unwrap_or(folder).to_owned();
            return Some(Err((path, reason(&error))));
        }
    };
    if !entry.file_type().is_some_and(|kind| kind.is_file()) {
        return None;
    }
    match entry.metadata() {
        Ok(metadata) if Some((metadata.dev(), metadata.ino())) == leave_out => None,
        Ok(metadata) => Some(Ok(Found {
            stamp: stamp(&metadata),
            path: entry.into_path(),
        })),
        Err(error) => {
            let why = reason(&error);
            Some(Err((entry.into_path(), why)))
        }
    }
}

/// How a file looks from outside.
pub(crate) fn stamp(metadata: &Metadata) -> Stamp {
    let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000) + nanos;
    Stamp {
        size: metadata.size(),
        modified: nanos(metadata.mtime(), metadata.mtime_nsec()),
        changed: nanos(metadata.ctime(), metadata.ctime_nsec()),
    }
}

fn path_of(error: &ignore::Error) -> Option<&Path> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => {
            path_of(err)
        }
        _ => None,
    }
}

fn reason(error: &ignore::Error) -> String {
    error
        .io_error()
        .map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(folder: &Path) -> Vec<String> {
        walk(folder, None)
            .files
            .iter()
            .map(|found| {
                let path = found.path.strip_prefix(folder).unwrap();
                path.to_str().unwrap().to_owned()
            })
            .collect()
    }

    #[test]
    fn gitignore_counts_hidden_files_do_too_links_do_not() {
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::create_dir_all(tree.join(".git")).unwrap();
        fs::write(home.path().join(".gitignore"), "*\n").unwrap();
        fs::write(tree.join(".gitignore"), "made\n").unwrap();
        fs::write(tree.join(".git/config"), "").unwrap();
        fs::write(tree.join("made"), "").unwrap();
        fs::write(tree.join("sub/made"), "").unwrap();
        fs::write(tree.join("sub/kept"), "").unwrap();
        fs::write(tree.join(".hidden"), "").unwrap();
        std::os::unix::fs::symlink(tree.join("sub/kept"), tree.join("link")).unwrap();
        assert_eq!(names(&tree), [".gitignore", ".hidden", "sub/kept"]);
        // Inside of a work tree the files above count, up to its top.
        fs::write(tree.join("sub/made"), "").unwrap();
        assert_eq!(names(&tree.join("sub")), ["kept"]);
        // Outside of one they do not.
        fs::remove_dir_all(tree.join(".git")).unwrap();
        assert_eq!(names(&tree.join("sub")), ["kept", "made"]);
    }

    #[test]
    fn the_region_is_left_out() {
        let tree = tempfile::tempdir().unwrap();
        let region = tree.path().join("my.region");
        fs::write(&region, "x").unwrap();
        let metadata = fs::metadata(&region).unwrap();
        let walked = walk(tree.path(), Some((metadata.dev(), metadata.ino())));
        assert!(walked.files.is_empty());
    }
}

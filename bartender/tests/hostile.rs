//! Hostile programs: safe code that tries to break the rules of the typed interface.
//!
//! Each names what it is after: a persistent pointer outside of its transaction, a reference that outlives what it
//! looks at, a change that a reader should not see, memory that an abort puts back under somebody. What the
//! compiler has to refuse is in `ui`; the page of the book that states the rules says which program is for which.
#![cfg(not(loom))]

use bartender::{Heap, Options, Persist};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

#[path = "hostile/calls.rs"]
mod calls;
#[path = "hostile/ends.rs"]
mod ends;
#[path = "hostile/files.rs"]
mod files;
#[path = "hostile/guards.rs"]
mod guards;
#[path = "hostile/scopes.rs"]
mod scopes;
#[path = "hostile/shapes.rs"]
mod shapes;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;

fn folder() -> TempDir {
    places::folder()
}

fn region(folder: &TempDir) -> PathBuf {
    folder.path().join("r")
}

fn options<R: Persist>() -> Options<R> {
    Heap::<R>::options().max_size(64 << 20).log_size(4 << 20)
}

fn open_at<R: Persist + Default>(path: &Path) -> Heap<R> {
    options().open(path).expect("a region")
}

fn open<R: Persist + Default>(folder: &TempDir) -> Heap<R> {
    open_at(&region(folder))
}

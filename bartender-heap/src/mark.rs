//! Marking: finding every live block by following the stored types from the root, and checking
//! all that is followed.
//!
//! Whatever the bytes are, marking ends, reads nothing outside of the [`View`] it was given,
//! and says either how much is live or what is damaged and where (`accounts[17].owner`). It
//! does so in two walks: a fast parallel one over a compiled form of the schema, which keeps no
//! paths, and, only when that one met damage, a second one over the schema itself, which finds
//! the first damage in depth-first order and names the way to it.
//!
//! Data without types are another matter: see [`conservative`].
//!
//! It is precise: what no pointer of a described type leads to is not marked. It changes
//! nothing but the marks, does not know how superblocks look (that is [`Blocks`]) nor whether a
//! key stands in the right bucket of its table or in the right order in its tree. The world must stand still while it runs, or
//! the view be a frozen copy.

pub(crate) mod conservative;
mod counted;
mod entries;
mod fault;
mod own;
mod program;
mod run;
mod tasks;
#[cfg(test)]
mod tests;
mod trace;
mod view;

pub(crate) use view::View;

pub(crate) use tasks::aside;

use crate::block::Blocks;
use crate::error::{Error, Result};
use crate::types::Schema;
use bartender_pm::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What marking found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MarkReport {
    /// Live blocks.
    pub blocks: u64,
    /// Their usable bytes.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// How far a walk has come, for who looks at it, or stops it, meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Blocks found so far.
    pub(crate) blocks: AtomicU64,
    /// Their usable bytes.
    pub(crate) bytes: AtomicU64,
    /// The walk is to end where it is.
    pub(crate) stop: AtomicBool,
}

/// Marks the block at the address `root` (0: there is none), which holds a value of the
/// schema's root type, and every block it leads to. Runs on rayon's current thread pool.
///
/// # Errors
///
/// [`Error::BadData`] with the first damage in depth-first order, the same on each run. The
/// marks are then incomplete.
pub(crate) fn mark(
    schema: &Schema,
    root: u64,
    view: View<'_>,
    blocks: &impl Blocks,
) -> Result<MarkReport> {
    let all = mark_beside(schema, root, view, blocks, &Progress::default())?;
    Ok(all.expect("nobody stops it"))
}

/// The same, watched through `progress`. `None`: it was stopped.
///
/// # Errors
///
/// As there.
pub(crate) fn mark_beside(
    schema: &Schema,
    root: u64,
    view: View<'_>,
    blocks: &impl Blocks,
    progress: &Progress,
) -> Result<Option<MarkReport>> {
    let start = Instant::now();
    let program = program::Program::compile(schema);
    let found = run::run(&program, root, view, blocks, progress);
    if progress.stop.load(Relaxed) {
        return Ok(None);
    }
    match found {
        // The walk's end orders the workers' additions before these loads.
        Ok(()) => Ok(Some(MarkReport {
            blocks: progress.blocks.load(Relaxed),
            bytes: progress.bytes.load(Relaxed),
            took: start.elapsed(),
        })),
        Err(fault) => Err(match trace::first_damage(schema, root, view, blocks) {
            Some(damage) => Error::BadData {
                path: damage.path,
                offset: damage.offset,
                what: damage.what,
            },
            // Two walks over bytes that stand still agree; but these did not stand still, or
            // one walk is wrong.
            None => Error::BadData {
                path: "an unknown place".into(),
                offset: 0,
                what: fault.to_string(),
            },
        }),
    }
}

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

use crate::block::Blocks;
use crate::error::{Error, Result};
use crate::types::Schema;
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
    let start = Instant::now();
    let program = program::Program::compile(schema);
    match run::run(&program, root, view, blocks) {
        Ok((blocks, bytes)) => Ok(MarkReport {
            blocks,
            bytes,
            took: start.elapsed(),
        }),
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

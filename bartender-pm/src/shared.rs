//! What the handles of an open region share, and its background thread.
//!
//! The thread writes what nobody waits for, checkpoints, and gives the view's pages back. It
//! answers nobody: an error that it meets poisons the region, and the next commit says so.
//!
//! *When it checkpoints.* When a lane is a quarter full, so that commits find space. When nobody has
//! committed for a while and a good deal is logged. And when the home is behind, by what
//! a recovery takes long for: each record may change a page that
//! nobody has touched since the death, and an extent is read. So what is to be replayed is bounded, whatever the
//! log's size. It is bounded by what commits in the time of a checkpoint, not by a number: nobody waits for
//! it. It makes a checkpoint no less safe and none necessary, so no order depends on it. On a stream there may be
//! more of them: there a checkpoint is a write of all changed pages, and commits come a hundred times slower.

use crate::checkpoint::Home;
use crate::error::{Error, Result};
use crate::gate::Gate;
use crate::log::Log;
use crate::medium::{LogStyle, Medium, MediumKind, ViewSource};
use crate::os;
use crate::recover::Rest;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::view::View;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// When a commit is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// After the persist barrier: an acknowledged transaction survives.
    #[default]
    Immediate,
    /// At once. The last moments may be lost in a crash; what survives is a
    /// prefix of what was committed. On lanes (DAX, shared memory) it equals
    /// `Immediate`.
    Eventual,
}

/// What opening found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Opened {
    /// The region was created by this open.
    pub created: bool,
    /// The last user closed it: nothing had to be recovered.
    pub clean: bool,
    /// Counts the opens of this region, this one included.
    pub generation: u64,
    /// Records replayed from the log.
    pub records: u64,
    /// Bytes they changed.
    pub bytes: u64,
}

/// What the background thread calls after each of its checkpoints.
#[derive(Default)]
pub(crate) struct Tidy(std::sync::OnceLock<Call>);

type Call = Box<dyn Fn(&Shared) + Send + Sync>;

impl fmt::Debug for Tidy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tidy").finish_non_exhaustive()
    }
}

impl Tidy {
    pub(crate) fn set(&self, call: impl Fn(&Shared) + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(call));
    }

    fn run(&self, shared: &Shared) {
        if let Some(call) = self.0.get() {
            call(shared);
        }
    }
}

/// Everything about an open region. Fields are immutable or rule themselves.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) gate: Gate,
    pub(crate) home: Home,
    pub(crate) path: PathBuf,
    pub(crate) kind: MediumKind,
    pub(crate) max_size: u64,
    pub(crate) durability: Durability,
    pub(crate) background: bool,
    /// There are no writers, and nothing is written.
    pub(crate) read_only: bool,
    pub(crate) view_pages: u64,
    /// After the background thread gave pages back in vain: changed pages from which on it tries again. Written by that
    /// thread.
    pub(crate) trim_from: AtomicU64,
    pub(crate) forks: u32,
    pub(crate) growing: Mutex<()>,
    pub(crate) control: Mutex<Control>,
    pub(crate) wake: Condvar,
    /// The background thread was told to look, and has not looked yet.
    pub(crate) kicked: AtomicBool,
    /// Enough is in the log to be taken home once nobody commits for a while, and the
    /// background thread waits for that.
    pub(crate) backlog: AtomicBool,
    pub(crate) opened: Opened,
    pub(crate) tidy: Tidy,
    // Before `medium`, which it was mapped from.
    pub(crate) view: View,
    pub(crate) log: Log,
    pub(crate) medium: std::sync::Arc<dyn Medium>,
}

#[derive(Debug, Default)]
pub(crate) struct Control {
    pub(crate) stop: bool,
}

impl Shared {
    /// For what writes: refused to a child of `fork` (rule 10 of the log, the home and the view), which has no view and
    /// no right to the file.
    ///
    /// # Errors
    ///
    /// `Forked`.
    #[inline]
    pub(crate) fn check_own(&self) -> Result<()> {
        match os::forks() == self.forks {
            true => Ok(()),
            false => Err(Error::Forked),
        }
    }

    /// The region's file goes into errors that do not know it.
    pub(crate) fn named<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| match error {
            Error::Poisoned { cause, .. } => Error::Poisoned {
                path: self.path.clone(),
                cause,
            },
            other => other,
        })
    }

    /// Tells the background thread to look, unless it seems to know: for a
    /// log that fills, whose next commit says so again.
    #[inline]
    pub(crate) fn remind(&self) {
        if !self.kicked.load(Ordering::Relaxed) {
            self.kick();
        }
    }

    /// Tells the background thread that there is something to do when nobody commits.
    #[inline]
    pub(crate) fn remind_of_backlog(&self) {
        if !self.backlog.load(Ordering::Relaxed) {
            self.backlog.store(true, Ordering::Release);
            self.kick();
        }
    }

    /// Looks at what recovery has left. Commits wait for it.
    pub(crate) fn search(&self, rest: Rest) {
        // Damage poisons the region; commits then say so.
        if let Err(error) = rest.search(&*self.medium) {
            self.log.poison(error);
        }
        self.log.searched();
    }

    /// Whether more is above the checkpoint than a recovery replays in a few milliseconds, where `seq` is the last number.
    #[inline]
    pub(crate) fn is_behind(&self, seq: u64) -> bool {
        let bulk = self.home.bulk.load(Ordering::Relaxed);
        let records = seq.saturating_sub(self.home.checkpoint.load(Ordering::Relaxed));
        match self.log.style {
            LogStyle::Lanes => records > MANY_RECORDS || bulk > MUCH_BULK,
            LogStyle::Stream => records > MANY_RECORDS_ON_STREAM || bulk > MUCH_BULK_ON_STREAM,
        }
    }

    /// Tells the background thread to look.
    #[cold]
    pub(crate) fn kick(&self) {
        if !self.kicked.swap(true, Ordering::AcqRel) {
            drop(self.control.lock());
            self.wake.notify_all();
        }
    }

    /// The background thread: writes what nobody waits for, checkpoints, and
    /// gives pages of the view back.
    pub(crate) fn work(&self) {
        // What was replayed is taken home once; after that only a filling log counts.
        let mut recovered = self.opened.records > 0;
        // Bytes appended when free space was last looked at.
        let mut tidied = self.log.appended();
        loop {
            // Nobody has committed for a while.
            let mut quiet = false;
            {
                let mut control = self.control.lock();
                while !control.stop && !self.kicked.load(Ordering::Acquire) && !quiet {
                    if self.backlog.load(Ordering::Acquire) {
                        let last = self.log.last_seq();
                        control = self.wake.wait_timeout(control, QUIET);
                        quiet = self.log.last_seq() == last;
                    } else {
                        control = self.wake.wait(control);
                    }
                }
                if control.stop {
                    return;
                }
            }
            if self.log.has_unwritten() {
                // A moment for more to join; then it is no longer "at once".
                std::thread::sleep(Duration::from_millis(1));
            }
            self.kicked.store(false, Ordering::Release);
            // Errors poison the region; commits then say so.
            let _ = self.log.wait_durable(&*self.medium, self.log.last_seq());
            let full = self.log.fill() >= CHECKPOINT_FILL;
            let calm = quiet || std::mem::take(&mut recovered);
            if full || calm || self.is_behind(self.log.last_seq()) {
                self.backlog.store(false, Ordering::Release);
                let before = self.home.checkpoint.load(Ordering::Relaxed);
                let done = self.home.checkpoint(&*self.medium, &self.log, true);
                if done.is_ok() && self.home.checkpoint.load(Ordering::Relaxed) == before {
                    if self.log.last_seq() > before {
                        // A commit that has its number is not through: it may wait for this processor.
                        self.backlog.store(true, Ordering::Release);
                    }
                    if !full {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                let appended = self.log.appended();
                let much = appended - tidied >= self.log.shortest() / 256 * CHECKPOINT_FILL;
                if done.is_ok() && (full || calm || much) {
                    tidied = appended;
                    self.tidy.run(self);
                }
            }
            self.trim_to_limit();
        }
    }

    /// Gives pages of the view back if it is over its limit. Where a long transaction stands in the way, the others have
    /// waited at the gate for nothing: not again before a good deal more has changed.
    pub(crate) fn trim_to_limit(&self) {
        if !self.view_is_over_limit() {
            return;
        }
        let from = match self.trim() {
            Ok(true) => 0,
            _ => self.home.private.len() + self.view_pages / 16 + 1,
        };
        self.trim_from.store(from, Ordering::Relaxed);
    }

    /// Whether more pages of the view stand in the home by now than may stay private, and giving them back is worth a try.
    pub(crate) fn view_is_over_limit(&self) -> bool {
        let private = self.home.private.len();
        private > self.view_pages && private >= self.trim_from.load(Ordering::Relaxed)
    }

    pub(crate) fn trim(&self) -> Result<bool> {
        let ViewSource::Map(file) = self.medium.view() else {
            return Ok(false);
        };
        let catch_up = || {
            if crate::mutant::is("trim_unapplied") {
                return Ok(());
            }
            self.log.wait_durable(&*self.medium, self.log.last_seq())?;
            self.home.apply_only(&*self.medium, &self.log)
        };
        // Most of the work outside of the gate, the rest inside.
        catch_up()?;
        let size = self.home.size.load(Ordering::Acquire);
        let mut at = 0;
        while at < size {
            let end = (at + TRIM_CHUNK).min(size);
            let give_back = || {
                catch_up()?;
                self.view.give_back(&*self.medium, file, at..end)?;
                self.home.private.remove(at..end);
                Ok(())
            };
            let done = if crate::mutant::is("trim_over_writers") {
                Some(give_back())
            } else {
                self.gate.shut_for(TRIM_PATIENCE, give_back)
            };
            match done {
                None => return Ok(false),
                Some(result) => result?,
            }
            at = end;
        }
        Ok(true)
    }
}

/// A lane this full, in 256ths, wakes the background thread.
pub(crate) const CHECKPOINT_FILL: u64 = 64;
/// Records above the checkpoint of a log of lanes that wake it, too: replayed in a millisecond or two where each
/// changes another page.
pub(crate) const MANY_RECORDS: u64 = 1000;
/// The same on a stream.
const MANY_RECORDS_ON_STREAM: u64 = 8192;
/// Bytes of long records and of extents that wake it.
const MUCH_BULK: u64 = 1 << 20;
/// The same on a stream, where it costs a barrier of the whole file.
const MUCH_BULK_ON_STREAM: u64 = 16 << 20;
/// Bytes of a lane that are taken home when nobody commits: what a recovery would
/// replay in a millisecond or two.
pub(crate) const BACKLOG: u64 = 64 << 10;
/// Nobody commits if nobody has for so long.
const QUIET: Duration = Duration::from_millis(20);
/// View given back per closing of the gate, in bytes.
const TRIM_CHUNK: u64 = 64 << 20;
/// How long the gate may stay shut for writers inside to leave.
const TRIM_PATIENCE: Duration = Duration::from_millis(5);

#[cfg(all(test, not(loom)))]
mod tests;

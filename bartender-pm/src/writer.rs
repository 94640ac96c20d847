//! A writer: one transaction's right to write, and how it commits.

use crate::error::Result;
use crate::gate::Place;
use crate::log::Refused;
use crate::medium::{LogStyle, ViewSource};
use crate::newest::PAGE;
use crate::record::Record;
use crate::shared::{BACKLOG, CHECKPOINT_FILL, Durability, Shared};
use crate::sync::atomic::Ordering;
use std::marker::PhantomData;
use std::time::Duration;

/// Fresh bytes in one piece from which on the view's pages are given back: a
/// huge page, less is not worth a system call.
const MUCH_FRESH: u64 = 2 << 20;

/// Pieces of anonymous memory that the view may be cut into: a process has
/// 65 530 mappings for everything. The next trim joins them again.
const MAX_PIECES: usize = if cfg!(test) { 8 } else { 1000 };

/// The right of one transaction to write.
#[derive(Debug)]
pub struct Writer<'r> {
    pub(crate) shared: &'r Shared,
    pub(crate) place: Place,
    /// File ranges written fresh, to be made durable before the record.
    pub(crate) fresh: Vec<(u64, u64)>,
    pub(crate) not_send: PhantomData<*const ()>,
}

/// What [`Writer::append`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The transaction's sequence number.
    pub seq: u64,
    /// Whether it is durable already.
    pub durable: bool,
}

impl Writer<'_> {
    /// Writes wholly fresh bytes straight to the home. They stand in the view
    /// already. The `append` that follows makes them durable, before its
    /// record, by one more barrier, and gives the view's pages back where they
    /// are many: what is loaded in bulk takes its memory once.
    ///
    /// The range must not have been reachable by any transaction whose number
    /// is above [`Region::checkpoint_seq`](crate::Region::checkpoint_seq): recovery would store that
    /// transaction's bytes over these.
    ///
    /// # Errors
    ///
    /// The medium's; `Forked`.
    ///
    /// # Panics
    ///
    /// If the range lies beyond [`Region::size`](crate::Region::size), or the region is replicated: its replicas get
    /// what is logged and nothing else.
    pub fn write_fresh(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.shared.check_own()?;
        let home = &self.shared.home;
        let size = home.size.load(Ordering::Acquire);
        let replicated = self.shared.log.replication().is_some();
        assert!(!replicated, "fresh bytes that no replica gets");
        assert!(
            offset + bytes.len() as u64 <= size,
            "fresh bytes beyond the home"
        );
        // What was there is nobody's, but in a picture that was taken before it was freed.
        let first = offset / PAGE * PAGE;
        let pages = (first..offset + bytes.len() as u64).step_by(PAGE as usize);
        home.frozen.before_change(pages);
        self.shared.medium.write(home.offset + offset, bytes)?;
        self.fresh.push((home.offset + offset, bytes.len() as u64));
        Ok(())
    }

    /// Commits: draws a number and appends the record.
    ///
    /// On lanes it is durable on return (one barrier). On a stream it has its
    /// position, and locks may be released; but nobody may be answered before
    /// [`Region::wait_durable`](crate::Region::wait_durable) of its number
    /// returns, unless `durability` is `Eventual`.
    ///
    /// # Errors
    ///
    /// `LogFull` (too large for any log of this size), `Poisoned`, or the I/O
    /// error that poisons: nothing was acknowledged; restore the view. `Forked` in
    /// a child that was born while its parent had this writer: there is no view.
    #[inline]
    pub fn append(&mut self, record: &mut Record, durability: Durability) -> Result<Ticket> {
        let shared = self.shared;
        shared.check_own()?;
        if record.size() > shared.log.capacity() || crate::fault::strikes("append") {
            return Err(shared.log.too_long(record.size()));
        }
        if !self.fresh.is_empty() && !crate::mutant::is("no_fresh_barrier") {
            let result = shared.medium.persist(&self.fresh);
            shared.named(result.map_err(|error| shared.log.poison(error)))?;
        }
        let slot = match self.place {
            Place::Slot(i) => Some(i),
            Place::Overflow => None,
        };
        let seq = loop {
            match shared.log.append(&*shared.medium, slot, record) {
                Ok(seq) => break seq,
                Err(Refused::NoSpace) => self.make_space()?,
                Err(Refused::Error(error)) => return shared.named(Err(error)),
            }
        };
        let shipped = !self.fresh.is_empty();
        if shipped || record.size() > BACKLOG {
            self.count_bulk(record.size());
        }
        if shared.background {
            let (used, quarter) = shared.log.used(slot, record.size());
            if used > quarter || shared.is_behind(seq) {
                shared.remind();
            } else if used > BACKLOG || shipped {
                shared.remind_of_backlog();
            }
        }
        match shared.log.style {
            LogStyle::Lanes => Ok(Ticket { seq, durable: true }),
            LogStyle::Stream => {
                if durability == Durability::Eventual {
                    if shared.log.batch_is_long() {
                        shared.named(shared.log.wait_durable(&*shared.medium, seq))?;
                    } else if shared.background {
                        shared.kick();
                    }
                }
                Ok(Ticket {
                    seq,
                    durable: false,
                })
            }
        }
    }

    /// Counts what was appended in bulk, after a record of `size` bytes.
    #[cold]
    fn count_bulk(&mut self, size: u64) {
        let fresh = self.fresh.iter().map(|&(_, len)| len).sum::<u64>();
        let bulk = &self.shared.home.bulk;
        bulk.fetch_add(size + fresh, Ordering::Relaxed);
        if fresh != 0 {
            self.give_back_fresh();
        }
    }

    /// Lets the view show the home where much was written fresh: the same
    /// bytes, and memory that the next fresh bytes can have. Nobody but this
    /// transaction knows of these pages before its locks are released.
    #[cold]
    fn give_back_fresh(&mut self) {
        let ViewSource::Map(file) = self.shared.medium.view() else {
            return self.fresh.clear();
        };
        let shared = self.shared;
        let home = shared.home.offset;
        let mut kept = false;
        for (offset, len) in self.fresh.drain(..) {
            let start = (offset - home).next_multiple_of(PAGE);
            let end = (offset - home + len) / PAGE * PAGE;
            // Where it fails the private pages stay, as good as before.
            let much = end >= start + MUCH_FRESH && shared.view.pieces() < MAX_PIECES;
            let give_back = || shared.view.give_back(&*shared.medium, file, start..end);
            if much && give_back().is_ok() {
                shared.home.private.remove(start..end);
            } else {
                let (first, end) = (offset - home, offset - home + len);
                let pages = (first / PAGE * PAGE..end).step_by(PAGE as usize);
                shared.home.private.add(pages);
                kept = true;
            }
        }
        // The log does not fill by them, so nothing else would say so.
        if kept && shared.background && shared.view_is_over_limit() {
            shared.remind();
        }
    }

    /// The log is full: lets the checkpoint give some of it back.
    #[cold]
    fn make_space(&self) -> Result<()> {
        let shared = self.shared;
        shared.named(
            shared
                .log
                .wait_durable(&*shared.medium, shared.log.last_seq()),
        )?;
        if shared.log.waits_for_replicas() {
            if let Some(replication) = shared.log.replication() {
                replication.make_room();
            }
            shared.log.wait_space(Duration::from_millis(2));
            return shared.named(shared.log.check());
        }
        // Below its mark the background thread would not: one long record does not fit, and nothing else comes.
        if shared.background && shared.log.fill() >= CHECKPOINT_FILL {
            shared.kick();
            shared.log.wait_space(Duration::from_millis(2));
            if shared.log.fill() < 255 {
                return shared.named(shared.log.check());
            }
        }
        shared.named(shared.home.checkpoint(&*shared.medium, &shared.log, false))
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.shared.gate.leave(self.place);
    }
}

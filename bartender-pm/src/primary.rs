//! What the primary of a replicated region offers to whoever ships its log.
//!
//! *Offsets* are absolute in the stream (lane 0), never reset, and the same on
//! every replica: an offset says how far a replica is. Three of them matter.
//! Below `committed` every replica that has to have it has it, durably. Up to
//! the `tail` the primary has records. Below the *floor*, the lowest start of
//! what any replica still has in its ring, space may be used again.

use crate::error::Result;
use crate::frozen::Frozen;
use crate::layout::{FLAG_CLEAN, FLAG_HOLES, FLAG_INSTALLING, FLAG_REPLICA, Header, bytes_of};
use crate::log::Sealed;
use crate::record;
use crate::region::Region;
use crate::sync::atomic::Ordering;
use std::ops::Range;
use std::sync::Arc;

/// A whole copy of a region as of some moment, to start a replica from.
///
/// The replica needs the log from [`head`](Self::head) on. Where that was used again before the home was copied, there is a way that is shorter
/// than another copy: of a later picture, the pages that [have changed](Frozen::changed) since this one. (As the memory of a
/// virtual machine is copied that moves while it runs: Clark et al., 2005.)
#[derive(Debug)]
pub struct Picture {
    /// Home bytes: everything below [`head`](Self::head), and perhaps more of what follows.
    pub home: Arc<Frozen>,
    /// The header of the replica to be: for [`Standby::install`](crate::Standby::install).
    pub header: Vec<u8>,
    /// Offset in the stream from which on the replica needs the log.
    pub head: u64,
}

impl Region {
    /// Whether its log is shipped to replicas. Then everything is logged: [`Writer::write_fresh`](crate::Writer::write_fresh) is not for it, and
    /// no holes are punched.
    #[inline]
    pub fn is_replicated(&self) -> bool {
        self.shared.log.replication().is_some()
    }

    /// Whether what is read is the latest, which another machine's commits cannot have changed.
    ///
    /// # Errors
    ///
    /// `Fenced` when the lease of this machine has ended. Never of a region that is not replicated.
    #[inline]
    pub fn check_current(&self) -> Result<()> {
        match self.shared.log.replication() {
            None => Ok(()),
            Some(replication) => replication.check_current(),
        }
    }

    /// Takes the batch that has gathered, if there is one and nobody leads: for who waits for commits without blocking a thread.
    /// [`Replication::lead`](crate::Replication::lead) is the other way.
    pub fn try_lead(&self) -> Option<Sealed<'_>> {
        self.shared.log.try_lead(&*self.shared.medium)
    }

    /// The stream from where it was last truncated here to where the next batch starts. All of it but a batch that is being led
    /// can be [read](Self::read_stream).
    pub fn stream(&self) -> Range<u64> {
        let head = self.shared.log.lanes[0].head.load(Ordering::Acquire);
        head..self.shared.log.batch_start()
    }

    /// Where the stream ended when this opened it: its first batch starts there.
    pub fn opened_at(&self) -> u64 {
        self.shared.log.opened_at
    }

    /// Whether it can be committed to.
    ///
    /// # Errors
    ///
    /// `Poisoned`, `Fenced`: never again, before it is opened anew.
    pub fn check_usable(&self) -> Result<()> {
        self.shared.named(self.shared.log.check())
    }

    /// Where the stream ends that every replica has.
    pub fn committed(&self) -> u64 {
        self.shared.log.lanes[0].tail.load(Ordering::Acquire)
    }

    /// Whole records of the stream, from `at` on and ending at `end` at most: one at least, and else no more than `most` bytes.
    ///
    /// # Errors
    ///
    /// The medium's; `Damaged` where there is no record at `at`.
    pub fn read_records(&self, at: u64, end: u64, most: u64) -> Result<Vec<u8>> {
        const FIRST: u64 = 64;
        let mut len = most.min(end - at).max(FIRST);
        loop {
            let mut bytes = self.read_stream(at, len)?;
            let mut whole = 0;
            let mut next = 0;
            while let Some(rest) = bytes.get(whole..)
                && let Some(size) = record::size_of_first(rest)
            {
                next = size;
                if size as usize > rest.len() {
                    break;
                }
                whole += size as usize;
            }
            if whole != 0 {
                bytes.truncate(whole);
                return Ok(bytes);
            }
            if next <= len || next > end - at {
                return Err(crate::Error::Damaged {
                    path: self.path().into(),
                    offset: at,
                    what: "there is no record in the stream where there was one".into(),
                });
            }
            len = next;
        }
    }

    /// Bytes of records that the log takes now without waiting for anybody.
    pub fn free(&self) -> u64 {
        self.shared.log.stream_free()
    }

    /// Says to whoever ships the log that somebody waits for space in it, as a writer does that finds none.
    pub fn ask_for_room(&self) {
        if let Some(replication) = self.shared.log.replication() {
            replication.make_room();
        }
    }

    /// What is in its header: the same for all replicas.
    pub fn uuid(&self) -> [u8; 16] {
        self.shared.home.header.lock().uuid
    }

    /// Bytes that the stream's ring holds.
    pub fn ring(&self) -> u64 {
        self.shared.log.lanes[0].len
    }

    /// Bytes of the stream. The floor must be at or below `at`, or they may be overwritten meanwhile.
    ///
    /// # Errors
    ///
    /// The medium's.
    pub fn read_stream(&self, at: u64, len: u64) -> Result<Vec<u8>> {
        self.shared.log.lanes[0].read(&*self.shared.medium, at, len)
    }

    /// Says where the lowest ring of all replicas starts: from there on the stream is kept. `u64::MAX`: there are none. Raising it
    /// makes room in the log.
    pub fn set_floor(&self, floor: u64) {
        self.shared.log.set_floor(floor);
    }

    /// Makes the region unusable: another machine has, or may have, taken over. Commits under way fail, later ones too.
    pub fn fence(&self, current: u64) {
        let log = &self.shared.log;
        let epoch = log.epoch;
        log.poison(crate::Error::Fenced { epoch, current });
    }

    /// The epoch in which it was opened.
    pub fn epoch(&self) -> u64 {
        self.shared.log.epoch
    }

    /// A picture of the region to start a replica from. The floor must have been at or below `stream().start` before, and stay at or below
    /// [`Picture::head`] until the replica has the log from there on.
    ///
    /// # Errors
    ///
    /// As [`freeze`](Self::freeze).
    pub fn picture(&self) -> Result<Picture> {
        // First: a checkpoint between the two only makes the picture newer than the header says.
        let header = *self.shared.home.header.lock();
        let home = self.freeze()?;
        let header = Header {
            flags: header.flags & !(FLAG_CLEAN | FLAG_HOLES) | FLAG_REPLICA | FLAG_INSTALLING,
            ..header
        };
        Ok(Picture {
            home,
            head: header.heads[0],
            header: bytes_of(&header).to_vec(),
        })
    }
}

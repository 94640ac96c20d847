//! Requests to a coordinator in another process, and its answers: as values, and as the bytes that
//! [`layout`](super::layout) describes.
//!
//! Decoding checks everything: no bytes panic, and nothing is allocated that was not sent.

use super::layout::{answer, request};
use super::{Change, Changes, Compare, Entry, LeaseId, MAX_KEY, Snapshot, Transacted};
use crate::error::Error;
use bytes::{Buf, Bytes};
use std::time::Duration;

/// What is wrong with a message, in words.
pub(super) type Bad = &'static str;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Read {
        prefix: String,
    },
    Transact {
        compares: Vec<Compare>,
        changes: Vec<Change>,
    },
    /// The first revision above `after` that touches the prefix, or `Quiet` after a while.
    Next {
        prefix: String,
        after: u64,
    },
    Grant {
        millis: u64,
    },
    KeepAlive(LeaseId),
    Revoke(LeaseId),
    Cancel,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Snapshot(Snapshot),
    Transacted(Transacted),
    Changes(Changes),
    Quiet,
    Lease { id: LeaseId, millis: u64 },
    Beat { millis: u64 },
    Done,
    LeaseEnded(u64),
    BadRequest(String),
    Compacted { asked: u64, oldest: u64 },
    Failed(String),
}

impl From<Error> for Answer {
    fn from(error: Error) -> Answer {
        match error {
            Error::LeaseEnded { lease } => Answer::LeaseEnded(lease),
            Error::BadRequest { what } => Answer::BadRequest(what),
            Error::Compacted { asked, oldest } => Answer::Compacted { asked, oldest },
            other => Answer::Failed(other.to_string()),
        }
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Bytes in the making.
struct Writer(Vec<u8>);

impl Writer {
    fn tagged(tag: u8) -> Writer {
        Writer(vec![tag])
    }

    fn tag(&mut self, tag: u8) {
        self.0.push(tag);
    }

    fn number(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        let count = u32::try_from(count).expect("what is sent was bounded");
        self.0.extend(count.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend(bytes);
    }

    fn numbers(mut self, numbers: &[u64]) -> Vec<u8> {
        numbers.iter().for_each(|number| self.number(*number));
        self.0
    }

    fn words(mut self, words: &str) -> Vec<u8> {
        self.bytes(words.as_bytes());
        self.0
    }
}

/// Bytes that were received.
struct Reader(Bytes);

impl Reader {
    fn need(&self, len: usize) -> Result<(), Bad> {
        match self.0.len() >= len {
            true => Ok(()),
            false => Err("it ends too early"),
        }
    }

    fn tag(&mut self) -> Result<u8, Bad> {
        self.need(1)?;
        Ok(self.0.get_u8())
    }

    fn number(&mut self) -> Result<u64, Bad> {
        self.need(8)?;
        Ok(self.0.get_u64_le())
    }

    fn bytes(&mut self) -> Result<Bytes, Bad> {
        self.need(4)?;
        let len = self.0.get_u32_le() as usize;
        self.need(len)?;
        Ok(self.0.split_to(len))
    }

    fn string(&mut self) -> Result<String, Bad> {
        let bytes = self.bytes()?;
        let text = std::str::from_utf8(&bytes).map_err(|_| "a string that is no UTF-8")?;
        Ok(text.to_owned())
    }

    fn prefix(&mut self) -> Result<String, Bad> {
        let prefix = self.string()?;
        match prefix.len() <= MAX_KEY {
            true => Ok(prefix),
            false => Err("a prefix longer than any key"),
        }
    }

    fn lease(&mut self) -> Result<Option<LeaseId>, Bad> {
        let lease = self.number()?;
        Ok((lease != 0).then_some(LeaseId(lease)))
    }

    fn list<T>(&mut self, one: impl Fn(&mut Reader) -> Result<T, Bad>) -> Result<Vec<T>, Bad> {
        self.need(4)?;
        let count = self.0.get_u32_le();
        // Grown as they come: each takes bytes that were sent.
        (0..count).map(|_| one(self)).collect()
    }

    fn end<T>(self, value: T) -> Result<T, Bad> {
        match self.0.is_empty() {
            true => Ok(value),
            false => Err("there is more than there should be"),
        }
    }
}

impl Request {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Request::Read { prefix } => Writer::tagged(request::READ).words(prefix),
            Request::Next { prefix, after } => {
                let mut to = Writer::tagged(request::NEXT);
                to.bytes(prefix.as_bytes());
                to.numbers(&[*after])
            }
            Request::Grant { millis } => Writer::tagged(request::GRANT).numbers(&[*millis]),
            Request::KeepAlive(id) => Writer::tagged(request::KEEP_ALIVE).numbers(&[id.0]),
            Request::Revoke(id) => Writer::tagged(request::REVOKE).numbers(&[id.0]),
            Request::Cancel => Writer::tagged(request::CANCEL).numbers(&[]),
            Request::Transact { compares, changes } => {
                let mut to = Writer::tagged(request::TRANSACT);
                to.count(compares.len());
                for compare in compares {
                    encode_compare(compare, &mut to);
                }
                to.count(changes.len());
                for change in changes {
                    encode_change(change, &mut to);
                }
                to.0
            }
        }
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Request, Bad> {
        let mut from = Reader(bytes);
        let request = match from.tag()? {
            request::READ => Request::Read {
                prefix: from.prefix()?,
            },
            request::NEXT => Request::Next {
                prefix: from.prefix()?,
                after: from.number()?,
            },
            request::GRANT => Request::Grant {
                millis: from.number()?,
            },
            request::KEEP_ALIVE => Request::KeepAlive(LeaseId(from.number()?)),
            request::REVOKE => Request::Revoke(LeaseId(from.number()?)),
            request::CANCEL => Request::Cancel,
            request::TRANSACT => Request::Transact {
                compares: from.list(decode_compare)?,
                changes: from.list(decode_change)?,
            },
            _ => return Err("a request of no known kind"),
        };
        from.end(request)
    }
}

fn encode_compare(compare: &Compare, to: &mut Writer) {
    match compare {
        Compare::Revision(key, revision) => {
            to.tag(request::REVISION);
            to.bytes(key.as_bytes());
            to.number(*revision);
        }
        Compare::Absent(key) => {
            to.tag(request::ABSENT);
            to.bytes(key.as_bytes());
        }
        Compare::Value(key, value) => {
            to.tag(request::VALUE);
            to.bytes(key.as_bytes());
            to.bytes(value);
        }
    }
}

fn decode_compare(from: &mut Reader) -> Result<Compare, Bad> {
    let (tag, key) = (from.tag()?, from.string()?);
    match tag {
        request::REVISION => Ok(Compare::Revision(key, from.number()?)),
        request::ABSENT => Ok(Compare::Absent(key)),
        request::VALUE => Ok(Compare::Value(key, from.bytes()?)),
        _ => Err("a comparison of no known kind"),
    }
}

fn encode_change(change: &Change, to: &mut Writer) {
    match change {
        Change::Put { key, value, lease } => {
            to.tag(request::PUT);
            to.bytes(key.as_bytes());
            to.bytes(value);
            to.number(lease.map_or(0, |lease| lease.0));
        }
        Change::Delete { key } => {
            to.tag(request::DELETE);
            to.bytes(key.as_bytes());
        }
    }
}

fn decode_change(from: &mut Reader) -> Result<Change, Bad> {
    let (tag, key) = (from.tag()?, from.string()?);
    match tag {
        request::PUT => {
            let (value, lease) = (from.bytes()?, from.lease()?);
            Ok(Change::Put { key, value, lease })
        }
        request::DELETE => Ok(Change::Delete { key }),
        _ => Err("a change of no known kind"),
    }
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let tagged = Writer::tagged;
        match self {
            Answer::Transacted(Transacted::Committed { revision }) => {
                tagged(answer::COMMITTED).numbers(&[*revision])
            }
            Answer::Transacted(Transacted::Refused) => tagged(answer::REFUSED).numbers(&[]),
            Answer::Quiet => tagged(answer::QUIET).numbers(&[]),
            Answer::Lease { id, millis } => tagged(answer::LEASE).numbers(&[id.0, *millis]),
            Answer::Beat { millis } => tagged(answer::BEAT).numbers(&[*millis]),
            Answer::Done => tagged(answer::DONE).numbers(&[]),
            Answer::LeaseEnded(lease) => tagged(answer::LEASE_ENDED).numbers(&[*lease]),
            Answer::BadRequest(words) => tagged(answer::BAD_REQUEST).words(words),
            Answer::Compacted { asked, oldest } => {
                tagged(answer::COMPACTED).numbers(&[*asked, *oldest])
            }
            Answer::Failed(words) => tagged(answer::FAILED).words(words),
            Answer::Snapshot(snapshot) => {
                let mut to = tagged(answer::SNAPSHOT);
                to.number(snapshot.revision);
                to.count(snapshot.entries.len());
                for entry in &snapshot.entries {
                    to.bytes(entry.key.as_bytes());
                    to.bytes(&entry.value);
                    to.number(entry.revision);
                    to.number(entry.lease.map_or(0, |lease| lease.0));
                }
                to.0
            }
            Answer::Changes(changes) => {
                let mut to = tagged(answer::CHANGES);
                to.number(changes.revision);
                to.count(changes.keys.len());
                for (key, value) in &changes.keys {
                    to.bytes(key.as_bytes());
                    to.tag(u8::from(value.is_some()));
                    if let Some(value) = value {
                        to.bytes(value);
                    }
                }
                to.0
            }
        }
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Answer, Bad> {
        let mut from = Reader(bytes);
        let answer = match from.tag()? {
            answer::COMMITTED => {
                let revision = from.number()?;
                Answer::Transacted(Transacted::Committed { revision })
            }
            answer::REFUSED => Answer::Transacted(Transacted::Refused),
            answer::QUIET => Answer::Quiet,
            answer::LEASE => Answer::Lease {
                id: LeaseId(from.number()?),
                millis: from.number()?,
            },
            answer::BEAT => Answer::Beat {
                millis: from.number()?,
            },
            answer::DONE => Answer::Done,
            answer::LEASE_ENDED => Answer::LeaseEnded(from.number()?),
            answer::BAD_REQUEST => Answer::BadRequest(from.string()?),
            answer::COMPACTED => Answer::Compacted {
                asked: from.number()?,
                oldest: from.number()?,
            },
            answer::FAILED => Answer::Failed(from.string()?),
            answer::SNAPSHOT => {
                let revision = from.number()?;
                let entry = |from: &mut Reader| {
                    Ok(Entry {
                        key: from.string()?,
                        value: from.bytes()?,
                        revision: from.number()?,
                        lease: from.lease()?,
                    })
                };
                let entries = from.list(entry)?;
                Answer::Snapshot(Snapshot { entries, revision })
            }
            answer::CHANGES => {
                let revision = from.number()?;
                let key = |from: &mut Reader| {
                    let key = from.string()?;
                    match from.tag()? {
                        0 => Ok((key, None)),
                        1 => Ok((key, Some(from.bytes()?))),
                        _ => Err("a key that is neither there nor gone"),
                    }
                };
                let keys = from.list(key)?;
                Answer::Changes(Changes { revision, keys })
            }
            _ => return Err("an answer of no known kind"),
        };
        from.end(answer)
    }
}

#[cfg(test)]
mod tests;

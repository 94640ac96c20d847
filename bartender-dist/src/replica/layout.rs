//! What primaries and backups say to each other: every byte of it.
//!
//! A message is a kind (`u8`), then its fields, little-endian, in order; strings and bytes have their length (`u32`)
//! before them. The primary asks and the backup answers each question once, in order. The log itself does not travel in
//! messages: it is written to the backup's ring.

use bartender_net::{Access, PersistMethod, RemoteMemory};
use bartender_pm::Position;
use bytes::Bytes;

/// Version of this page; part of [`Ask::Attach`].
pub(crate) const VERSION: u32 = 4;

/// Longest message, in bytes.
pub(crate) const MAX_MESSAGE: usize = 320 << 10;

/// Bytes of home that one message carries at most.
pub(crate) const HOME_PIECE: usize = 256 << 10;

/// Most digests that one answer carries.
pub(crate) const MAX_DIGESTS: u64 = 1024;

/// Which copy is compared or repaired, and as of when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AsOf {
    pub(crate) region: String,
    /// The asking primary's.
    pub(crate) epoch: u64,
    /// The home has to be exact at this number…
    pub(crate) number: u64,
    /// …whose record ends here in the stream.
    pub(crate) upto: u64,
}

/// What is asked of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The primary of `epoch` wants to send its log.
    Attach { epoch: u64, region: String },
    /// Everything below `upto` is on every replica. With `room`, commits wait for space in the log: what is committed is to be taken
    /// home at once, however little it is.
    Commit { upto: u64, room: bool },
    /// There is nothing worth keeping here: a copy of the home follows. With the header it starts from.
    Install { header: Bytes },
    /// A piece of it.
    Home { offset: u64, bytes: Bytes },
    /// That was all. With the header of the picture that it is of: the one it started from, or a later one.
    Finish { header: Bytes },
    /// How far is it? Asked by another backup.
    Query { region: String },
    /// Digests of the home from `offset` on: `count` of them, each of `step` bytes.
    Digests {
        of: AsOf,
        offset: u64,
        step: u64,
        count: u64,
    },
    /// Bytes of its home.
    Read { of: AsOf, offset: u64, len: u64 },
    /// Its home is damaged there, and this is what it should hold.
    Repair { of: AsOf, offset: u64, bytes: Bytes },
    /// What are you for which region? Asked by anybody who may read.
    Status,
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It follows: where it is, where its ring is, and whether anybody waits there for the region: a *taker*.
    Attached {
        position: Place,
        ring: Option<Ring>,
        taker: bool,
    },
    /// It has no copy.
    Nothing,
    /// Done.
    Done,
    /// A higher epoch was promised.
    Fenced { current: u64 },
    /// It cannot.
    Failed { why: String },
    /// Its home is not exact at that number: it is at this one, or not quite.
    Elsewhere { checkpoint: u64 },
    /// Digests; none of what cannot be read.
    Digests { digests: Vec<Option<u128>> },
    /// Bytes of the home.
    Home { bytes: Bytes },
    /// It has a copy that is damaged, and that counts: it is set aside once it does not.
    Damaged { why: String },
    /// A [`NodeStatus`](crate::NodeStatus) as JSON.
    Status { json: Bytes },
}

/// [`Position`] as it travels.
pub(crate) type Place = Position;

/// The memory to which the log is written, at its offset modulo the length.
pub(crate) type Ring = RemoteMemory;

struct Writer(Vec<u8>);

impl Writer {
    fn kind(kind: u8) -> Writer {
        Writer(vec![kind])
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn bytes(self, bytes: &[u8]) -> Self {
        let mut writer = self.u32(bytes.len() as u32);
        writer.0.extend_from_slice(bytes);
        writer
    }

    fn place(mut self, place: &Place) -> Self {
        self.0.extend_from_slice(&place.uuid);
        let Place {
            epoch,
            head,
            committed,
            tail,
            checkpoint,
            ..
        } = *place;
        let words = [epoch, head, committed, tail, checkpoint];
        words.into_iter().fold(self, Writer::u64)
    }

    fn moment(self, of: &AsOf) -> Self {
        self.u32(VERSION)
            .bytes(of.region.as_bytes())
            .u64(of.epoch)
            .u64(of.number)
            .u64(of.upto)
    }

    fn end(self) -> Bytes {
        self.0.into()
    }
}

struct Reader(Bytes);

impl Reader {
    fn take(&mut self, len: usize) -> Option<Bytes> {
        (self.0.len() >= len).then(|| self.0.split_to(len))
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn u32(&mut self) -> Option<u32> {
        let bytes = self.take(4)?;
        Some(u32::from_le_bytes(bytes[..].try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        let bytes = self.take(8)?;
        Some(u64::from_le_bytes(bytes[..].try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    fn string(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn place(&mut self) -> Option<Place> {
        Some(Place {
            uuid: self.take(16)?[..].try_into().ok()?,
            epoch: self.u64()?,
            head: self.u64()?,
            committed: self.u64()?,
            tail: self.u64()?,
            checkpoint: self.u64()?,
        })
    }

    fn moment(&mut self) -> Option<AsOf> {
        Some(AsOf {
            region: self.string()?,
            epoch: self.u64()?,
            number: self.u64()?,
            upto: self.u64()?,
        })
    }

    fn digests(&mut self) -> Option<Vec<Option<u128>>> {
        let count = self.u32()?;
        let digest = |reader: &mut Reader| {
            let known = reader.u8()?;
            let digest = u128::from_le_bytes(reader.take(16)?[..].try_into().ok()?);
            match (known, digest) {
                (1, digest) => Some(Some(digest)),
                (0, 0) => Some(None),
                _ => None,
            }
        };
        (u64::from(count) <= MAX_DIGESTS).then_some(())?;
        (0..count).map(|_| digest(self)).collect()
    }

    fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

impl Ask {
    pub(crate) fn encode(&self) -> Bytes {
        match self {
            Ask::Attach { epoch, region } => Writer::kind(1)
                .u32(VERSION)
                .u64(*epoch)
                .bytes(region.as_bytes()),
            Ask::Commit { upto, room } => Writer::kind(2).u64(*upto).u32(u32::from(*room)),
            Ask::Install { header } => Writer::kind(3).bytes(header),
            Ask::Home { offset, bytes } => Writer::kind(4).u64(*offset).bytes(bytes),
            Ask::Finish { header } => Writer::kind(5).bytes(header),
            Ask::Query { region } => Writer::kind(6).u32(VERSION).bytes(region.as_bytes()),
            Ask::Digests {
                of,
                offset,
                step,
                count,
            } => Writer::kind(7)
                .moment(of)
                .u64(*offset)
                .u64(*step)
                .u64(*count),
            Ask::Status => Writer::kind(10).u32(VERSION),
            Ask::Read { of, offset, len } => Writer::kind(8).moment(of).u64(*offset).u64(*len),
            Ask::Repair { of, offset, bytes } => {
                Writer::kind(9).moment(of).u64(*offset).bytes(bytes)
            }
        }
        .end()
    }

    /// The question that these bytes are; `Err` says why they are none.
    pub(crate) fn decode(message: Bytes) -> Result<Ask, String> {
        if message.len() > MAX_MESSAGE {
            return Err(format!("a message of {} bytes", message.len()));
        }
        let mut reader = Reader(message);
        let kind = reader.u8();
        if matches!(kind, Some(1 | 6..=10)) {
            match reader.u32() {
                Some(VERSION) => {}
                Some(other) => return Err(format!("version {other}, this is {VERSION}")),
                None => return Err("a message that ends too early".into()),
            }
        }
        let read = |mut reader: Reader| {
            let ask = match kind? {
                1 => Ask::Attach {
                    epoch: reader.u64()?,
                    region: reader.string()?,
                },
                2 => Ask::Commit {
                    upto: reader.u64()?,
                    room: match reader.u32()? {
                        0 => false,
                        1 => true,
                        _ => return None,
                    },
                },
                3 => Ask::Install {
                    header: reader.bytes()?,
                },
                4 => Ask::Home {
                    offset: reader.u64()?,
                    bytes: reader.bytes()?,
                },
                5 => Ask::Finish {
                    header: reader.bytes()?,
                },
                6 => Ask::Query {
                    region: reader.string()?,
                },
                7 => Ask::Digests {
                    of: reader.moment()?,
                    offset: reader.u64()?,
                    step: reader.u64()?,
                    count: reader.u64()?,
                },
                8 => Ask::Read {
                    of: reader.moment()?,
                    offset: reader.u64()?,
                    len: reader.u64()?,
                },
                10 => Ask::Status,
                9 => Ask::Repair {
                    of: reader.moment()?,
                    offset: reader.u64()?,
                    bytes: reader.bytes()?,
                },
                _ => return None,
            };
            reader.end(ask)
        };
        read(reader).ok_or_else(|| "a question that makes no sense".into())
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> Bytes {
        match self {
            Answer::Attached {
                position,
                ring,
                taker,
            } => {
                let writer = Writer::kind(1).place(position).u32(u32::from(*taker));
                match ring {
                    None => writer.u64(0).u64(0).u64(0).u32(0),
                    Some(ring) => writer.u64(ring.key).u64(ring.base).u64(ring.len).u32(
                        1 << 16 | u32::from(ring.access.bits()) << 8 | u32::from(ring.method as u8),
                    ),
                }
            }
            Answer::Nothing => Writer::kind(2),
            Answer::Done => Writer::kind(3),
            Answer::Fenced { current } => Writer::kind(4).u64(*current),
            Answer::Failed { why } => Writer::kind(5).bytes(why.as_bytes()),
            Answer::Elsewhere { checkpoint } => Writer::kind(6).u64(*checkpoint),
            Answer::Digests { digests } => {
                let mut writer = Writer::kind(7).u32(digests.len() as u32);
                for digest in digests {
                    writer.0.push(u8::from(digest.is_some()));
                    writer.0.extend(digest.unwrap_or(0).to_le_bytes());
                }
                writer
            }
            Answer::Home { bytes } => Writer::kind(8).bytes(bytes),
            Answer::Status { json } => Writer::kind(10).bytes(json),
            Answer::Damaged { why } => Writer::kind(9).bytes(why.as_bytes()),
        }
        .end()
    }

    /// The answer that these bytes are, if they are one.
    pub(crate) fn decode(message: Bytes) -> Option<Answer> {
        if message.len() > MAX_MESSAGE {
            return None;
        }
        let mut reader = Reader(message);
        let answer = match reader.u8()? {
            1 => {
                let position = reader.place()?;
                let taker = match reader.u32()? {
                    0 => false,
                    1 => true,
                    _ => return None,
                };
                let (key, base, len) = (reader.u64()?, reader.u64()?, reader.u64()?);
                let how = reader.u32()?;
                let method = match how as u8 {
                    0 => PersistMethod::Acknowledged,
                    1 => PersistMethod::ReadAfterWrite,
                    2 => PersistMethod::Flush,
                    _ => return None,
                };
                let ring = (how >> 16 != 0).then_some(RemoteMemory {
                    key,
                    base,
                    len,
                    access: Access::from_bits((how >> 8) as u8),
                    method,
                });
                Answer::Attached {
                    position,
                    ring,
                    taker,
                }
            }
            2 => Answer::Nothing,
            3 => Answer::Done,
            4 => Answer::Fenced {
                current: reader.u64()?,
            },
            5 => Answer::Failed {
                why: reader.string()?,
            },
            6 => Answer::Elsewhere {
                checkpoint: reader.u64()?,
            },
            7 => Answer::Digests {
                digests: reader.digests()?,
            },
            8 => Answer::Home {
                bytes: reader.bytes()?,
            },
            10 => Answer::Status {
                json: reader.bytes()?,
            },
            9 => Answer::Damaged {
                why: reader.string()?,
            },
            _ => return None,
        };
        reader.end(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place() -> Place {
        Place {
            uuid: [7; 16],
            epoch: 3,
            head: 64,
            committed: 128,
            tail: 256,
            checkpoint: 9,
        }
    }

    fn as_of() -> AsOf {
        AsOf {
            region: "bank".into(),
            epoch: 3,
            number: 9,
            upto: 128,
        }
    }

    #[test]
    fn what_is_said_is_understood() {
        let asks = [
            Ask::Attach {
                epoch: 7,
                region: "bank".into(),
            },
            Ask::Commit {
                upto: 1 << 40,
                room: true,
            },
            Ask::Install {
                header: Bytes::from_static(b"header"),
            },
            Ask::Home {
                offset: 4096,
                bytes: Bytes::from(vec![1; 4096]),
            },
            Ask::Finish {
                header: Bytes::from_static(&[7; 60]),
            },
            Ask::Query {
                region: "bank".into(),
            },
            Ask::Digests {
                of: as_of(),
                offset: 4096,
                step: 4096,
                count: 3,
            },
            Ask::Read {
                of: as_of(),
                offset: 4096,
                len: 8192,
            },
            Ask::Repair {
                of: as_of(),
                offset: 4096,
                bytes: Bytes::from(vec![1; 4096]),
            },
        ];
        assert_eq!(Ask::decode(Ask::Status.encode()), Ok(Ask::Status));
        for ask in asks {
            assert_eq!(Ask::decode(ask.encode()), Ok(ask));
        }
        let ring = RemoteMemory {
            key: 1,
            base: 2,
            len: 3,
            access: Access::WRITE,
            method: PersistMethod::Flush,
        };
        let answers = [
            Answer::Attached {
                position: place(),
                ring: Some(ring),
                taker: true,
            },
            Answer::Attached {
                position: place(),
                ring: None,
                taker: false,
            },
            Answer::Nothing,
            Answer::Done,
            Answer::Fenced { current: 5 },
            Answer::Failed { why: "full".into() },
            Answer::Elsewhere { checkpoint: 7 },
            Answer::Digests {
                digests: vec![Some(0), None, Some(u128::MAX)],
            },
            Answer::Home {
                bytes: Bytes::from(vec![1; 4096]),
            },
            Answer::Damaged { why: "old".into() },
            Answer::Status {
                json: Bytes::from_static(b"{}"),
            },
        ];
        for answer in answers {
            assert_eq!(Answer::decode(answer.encode()), Some(answer));
        }
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let mut bytes = Ask::Query { region: "r".into() }.encode().to_vec();
        bytes[1] = 9;
        assert_eq!(
            Ask::decode(bytes.into()),
            Err(format!("version 9, this is {VERSION}"))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 2000 }))]

        #[test]
        fn any_bytes_are_a_message_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(ask) = Ask::decode(bytes.clone().into()) {
                prop_assert_eq!(ask.encode(), bytes.clone());
            }
            let _ = Answer::decode(bytes.into());
        }
    }
}

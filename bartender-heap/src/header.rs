//! The heap's header in the home: writing it when a heap is created, reading
//! and checking it when one is opened.
//!
//! It promises that whatever bytes are there, reading ends in a header that
//! makes sense or in an error that says what does not.

use crate::error::{Error, Result};
use crate::layout::{FORMAT, HEADER, HeapHeader, MAGIC, SnapshotRef};
use crate::types::Schema;
use std::mem::offset_of;

/// Bytes of the header.
pub(crate) const LEN: usize = size_of::<HeapHeader>();
/// Home offset of the root's address.
pub(crate) const ROOT: u64 = HEADER + offset_of!(HeapHeader, root) as u64;
/// Home offset of the reference to the snapshot.
pub(crate) const SNAPSHOT: u64 = HEADER + offset_of!(HeapHeader, snapshot) as u64;

/// Home offset of the checksum and of what it covers: what says which types are there.
pub(crate) const DESCRIPTION: u64 = HEADER + offset_of!(HeapHeader, crc) as u64;

/// The bytes at [`DESCRIPTION`] of a header.
pub(crate) fn description(header: &HeapHeader) -> Vec<u8> {
    to_bytes(header)[offset_of!(HeapHeader, crc)..offset_of!(HeapHeader, root)].to_vec()
}

/// The header of a new heap whose encoded schema lies at home offset `at`.
pub(crate) fn new(schema: &Schema, encoded: &[u8], at: u64) -> HeapHeader {
    let mut header = HeapHeader {
        magic: MAGIC,
        format: FORMAT,
        crc: 0,
        schema_offset: at,
        schema_len: encoded.len() as u64,
        schema_crc: crc32c::crc32c(encoded),
        root_type: schema.root().index() as u32,
        root: 0,
        snapshot: SnapshotRef::default(),
    };
    header.crc = checksum(&to_bytes(&header));
    header
}

/// Covers the fields that change with the description of the types only.
fn checksum(bytes: &[u8; LEN]) -> u32 {
    crc32c::crc32c(&bytes[offset_of!(HeapHeader, schema_offset)..offset_of!(HeapHeader, root)])
}

/// The header as the medium holds it.
pub(crate) fn to_bytes(header: &HeapHeader) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &header.magic);
    put(8, &header.format.to_le_bytes());
    put(12, &header.crc.to_le_bytes());
    put(16, &header.schema_offset.to_le_bytes());
    put(24, &header.schema_len.to_le_bytes());
    put(32, &header.schema_crc.to_le_bytes());
    put(36, &header.root_type.to_le_bytes());
    put(40, &header.root.to_le_bytes());
    put(48, &snapshot_to_bytes(&header.snapshot));
    bytes
}

/// A reference to a snapshot as the medium holds it.
pub(crate) fn snapshot_to_bytes(snapshot: &SnapshotRef) -> [u8; size_of::<SnapshotRef>()] {
    let mut bytes = [0; size_of::<SnapshotRef>()];
    bytes[..8].copy_from_slice(&snapshot.offset.to_le_bytes());
    bytes[8..16].copy_from_slice(&snapshot.len.to_le_bytes());
    bytes[16..24].copy_from_slice(&snapshot.generation.to_le_bytes());
    bytes[24..28].copy_from_slice(&snapshot.crc.to_le_bytes());
    bytes
}

/// Whether a heap starts here.
pub(crate) fn is_there(home: &[u8]) -> bool {
    home.starts_with(&MAGIC)
}

/// What is wrong with a home whose header is all zeroes, and the rest is not.
pub(crate) const GONE: &str =
    "where its header should be are zeroes, and other data behind: it is damaged, or no heap";

/// Whether there is nothing at all.
pub(crate) fn is_blank(home: &[u8]) -> bool {
    home.chunks(4096)
        .all(|page| page.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Reads the header and the schema.
///
/// # Errors
/// `NotAHeap`, `NewerFormat`, `OlderFormat`, `Damaged`, `BadSchema`.
pub(crate) fn read(home: &[u8]) -> Result<(HeapHeader, Schema)> {
    let Some(bytes) = home.first_chunk::<LEN>() else {
        return Err(Error::NotAHeap {
            what: format!("{} bytes of home", home.len()),
        });
    };
    if !is_there(home) {
        let what = if is_blank(home) {
            "it is empty".to_owned()
        } else if bytes.iter().all(|byte| *byte == 0) {
            GONE.to_owned()
        } else {
            format!("it starts with {:02x?}", &bytes[..8])
        };
        return Err(Error::NotAHeap { what });
    }
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let header = HeapHeader {
        magic: MAGIC,
        format: u32_at(8),
        crc: u32_at(12),
        schema_offset: u64_at(16),
        schema_len: u64_at(24),
        schema_crc: u32_at(32),
        root_type: u32_at(36),
        root: u64_at(40),
        snapshot: SnapshotRef {
            offset: u64_at(48),
            len: u64_at(56),
            generation: u64_at(64),
            crc: u32_at(72),
            reserved: u32_at(76),
        },
    };
    if header.format > FORMAT {
        return Err(Error::NewerFormat {
            found: header.format,
            known: FORMAT,
        });
    }
    if header.format != 0 && header.format < FORMAT {
        return Err(Error::OlderFormat {
            found: header.format,
            known: FORMAT,
        });
    }
    let crc = checksum(bytes);
    if header.format == 0 || crc != header.crc {
        let what = format!(
            "the heap's header has checksum {crc:#x}, not {:#x}",
            header.crc
        );
        return Err(Error::Damaged {
            offset: HEADER,
            what,
        });
    }
    let encoded = slice(home, header.schema_offset, header.schema_len)
        .filter(|encoded| crc32c::crc32c(encoded) == header.schema_crc)
        .ok_or_else(|| Error::Damaged {
            offset: header.schema_offset,
            what: "the description of the types does not have its checksum".into(),
        })?;
    let schema = Schema::decode(encoded)?;
    if schema.root().index() as u32 != header.root_type {
        let what = format!(
            "root type {}, not {}",
            header.root_type,
            schema.root().index()
        );
        return Err(Error::Damaged {
            offset: HEADER,
            what,
        });
    }
    Ok((header, schema))
}

/// `len` bytes of the home at `offset`, if they are there.
pub(crate) fn slice(home: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(len).ok()?)?;
    home.get(start..end)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::types::{Kind, Type};
    use proptest::prelude::*;

    fn home_with_header() -> Vec<u8> {
        let int = Kind::Int {
            signed: false,
            nonzero: false,
        };
        let schema = Schema::of(|b| b.define::<u64>(|_| Type::of::<u64>("u64", int)));
        let schema = schema.expect("sound");
        let encoded = schema.encode();
        let mut home = vec![0; 64 << 10];
        let bytes = to_bytes(&new(&schema, &encoded, 8192));
        home[..LEN].copy_from_slice(&bytes);
        home[8192..8192 + encoded.len()].copy_from_slice(&encoded);
        home
    }

    #[test]
    fn a_header_reads_back() {
        let home = home_with_header();
        let (header, schema) = read(&home).expect("as it was written");
        assert_eq!(to_bytes(&header), home[..LEN]);
        assert_eq!(schema.types().len(), 1);
    }

    #[test]
    fn a_header_of_another_format_says_so() {
        let mut home = home_with_header();
        home[8] = 9;
        let error = read(&home).expect_err("from the future");
        assert!(matches!(
            error,
            Error::NewerFormat {
                found: 9,
                known: FORMAT
            }
        ));
        home[8] = 1;
        let error = read(&home).expect_err("from the past");
        assert!(matches!(
            error,
            Error::OlderFormat {
                found: 1,
                known: FORMAT
            }
        ));
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "safe code, many steps")]
        fn any_bytes_are_read_or_refused(
            hits in prop::collection::vec((0usize..LEN + 200, any::<u8>()), 1..8),
            len in 0usize..20_000,
        ) {
            let mut home = home_with_header();
            for (at, value) in hits {
                let at = if at < LEN { at } else { 8192 + at - LEN };
                home[at] = value;
            }
            let _ = read(&home);
            home.truncate(len);
            let _ = read(&home);
        }
    }
}

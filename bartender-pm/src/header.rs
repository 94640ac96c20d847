//! The two copies of the header: which one counts, and writing the other.

use crate::error::{Error, Result};
use crate::layout::{FORMAT, HEADER_BLOCK, Header, MAGIC, MAGIC_CREATING, bytes_of, read_from};
use crate::medium::Medium;

fn checksum(header: &Header) -> u32 {
    let zeroed = Header { crc: 0, ..*header };
    crc32c::crc32c(bytes_of(&zeroed))
}

/// What the header blocks of a medium hold.
pub(crate) enum Found {
    /// Nothing but zeroes.
    Blank,
    /// A creation that was interrupted.
    Unfinished,
    /// The header that counts.
    Header(Box<Header>),
}

/// Reads both copies and returns the newer intact one.
///
/// # Errors
///
/// `NotARegion`, `NewerFormat`, `OlderFormat`, `Damaged` (both copies), or the medium's.
pub(crate) fn read(medium: &dyn Medium) -> Result<Found> {
    let mut blank = true;
    let mut newest: Option<Header> = None;
    let mut other_format = None;
    let mut magic_seen = false;
    let mut first = [0u8; 8];
    for copy in 0..2 {
        let mut block = vec![0u8; HEADER_BLOCK as usize];
        if medium.len() >= (copy + 1) * HEADER_BLOCK {
            medium.read(copy * HEADER_BLOCK, &mut block)?;
        } else if copy == 0 && !medium.is_empty() {
            medium.read(0, &mut block[..medium.len() as usize])?;
        }
        blank = blank && block == [0; HEADER_BLOCK as usize];
        let header: Header = read_from(&block).expect("a block is longer than a header");
        if copy == 0 {
            first = header.magic;
        }
        if header.magic != MAGIC {
            continue;
        }
        magic_seen = true;
        if header.format != FORMAT {
            // Where its checksum is only that format knows.
            other_format = Some(header.format);
        } else if checksum(&header) == header.crc
            && newest.as_ref().is_none_or(|n| n.revision < header.revision)
        {
            newest = Some(header);
        }
    }
    if let Some(header) = newest {
        return Ok(Found::Header(Box::new(header)));
    }
    let path = medium.path().to_path_buf();
    if first == MAGIC_CREATING {
        return Ok(Found::Unfinished);
    }
    let known = FORMAT;
    match other_format {
        Some(found) if found > known => {
            return Err(Error::NewerFormat { path, found, known });
        }
        Some(found @ 1..) => return Err(Error::OlderFormat { path, found, known }),
        _ => {}
    }
    if magic_seen {
        return Err(Error::Damaged {
            path,
            offset: 0,
            what: "both header copies fail their checksum".into(),
        });
    }
    if blank {
        return Ok(Found::Blank);
    }
    let what = if first == [0; 8] {
        "it starts with zeroes".into()
    } else {
        format!("it starts with {:?}", String::from_utf8_lossy(&first))
    };
    Err(Error::NotARegion { path, what })
}

/// Says on a blank medium that a region is being created.
pub(crate) fn announce(medium: &dyn Medium) -> Result<()> {
    medium.append(&[(0, &MAGIC_CREATING)])
}

/// Writes `header` over the older copy, durably: one barrier.
pub(crate) fn write(medium: &dyn Medium, header: &mut Header) -> Result<()> {
    header.revision += 1;
    header.crc = checksum(header);
    let copy = if crate::mutant::is("one_header") {
        0
    } else {
        header.revision % 2
    };
    medium.append(&[(copy * HEADER_BLOCK, bytes_of(header))])
}

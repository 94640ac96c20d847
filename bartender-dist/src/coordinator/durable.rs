//! The embedded coordinator's state in a bartender heap: each [`Delta`] one record, durable before it is applied.
//!
//! It promises that after a crash the state is that of all deltas up to the last that was answered, or one more; and
//! that nothing leaks, because recovery finds what is live by following the root. It knows no time: leases start anew
//! with what reads it. After an error in the middle of a commit it is *broken*: what is durable is unknown until the
//! region is opened again, and every call says so.
//!
//! Invariant: `header`, the slots and the items that `keys`, `leases` and `free` name lie in blocks of this heap, which
//! only this touches.

#![allow(unsafe_code)]

use super::LeaseId;
use super::layout::{CHUNK, Header, Item, ROOT, SLOTS, word};
use super::state::{Delta, Kept, State};
use crate::error::{Error, Result};
use bartender_heap::layout::NamedRoot;
use bartender_heap::{Heap, Pending};
use bartender_pm::{Durability, Options, Record, Region, Writer, mutant};
use bytes::Bytes;
use std::alloc::Layout;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::ptr::NonNull;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of home; a cluster's facts take a few MiB of them.
const MAX_SIZE: u64 = 1 << 30;
/// Bytes of log: a transaction of the largest size, twice over.
const LOG: u64 = 8 << 20;

/// Where something is kept: addresses.
#[derive(Debug, Clone, Copy)]
struct Place {
    slot: u64,
    item: u64,
}

/// The state as the region holds it.
pub(crate) struct Durable {
    heap: Heap,
    pending: Pending,
    header: u64,
    chunks: u64,
    last_lease: u64,
    keys: BTreeMap<String, Place>,
    leases: BTreeMap<LeaseId, Place>,
    /// Slots that hold nothing.
    free: BTreeSet<u64>,
    broken: Option<String>,
}

impl fmt::Debug for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Durable")
            .field(&self.heap.region().path())
            .finish()
    }
}

fn failed(path: &Path, what: impl fmt::Display) -> Error {
    Error::Coordinator {
        endpoints: path.display().to_string(),
        what: what.to_string(),
    }
}

fn pointer(address: u64) -> Option<NonNull<u8>> {
    NonNull::new(std::ptr::with_exposed_provenance_mut(address as usize))
}

/// Stores to the view, and adds the bytes to the record.
fn put(region: &Region, record: &mut Record, address: u64, bytes: &[u8]) {
    let offset = address.wrapping_sub(region.base().addr() as u64);
    let end = offset.checked_add(bytes.len() as u64);
    assert!(
        end.is_some_and(|end| end <= region.size()),
        "only addresses of own blocks are kept"
    );
    let to = region.base().wrapping_add(offset as usize);
    // SAFETY: inside of the view, as was just checked, in a block that by the invariant above only `Durable` touches; it is
    // borrowed mutably for the whole commit, so that there is no reference into it.
    unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    record.change(offset, bytes);
}

/// The options of a coordinator's region.
pub(crate) fn options() -> Options {
    let mut options = Options::new();
    options.max_size(MAX_SIZE).log_size(LOG).lanes(1);
    options
}

impl Durable {
    /// The state that a region holds, or an empty one that is made there; leases begin at `now`.
    pub(crate) fn open(region: Region, now: Instant) -> Result<(Durable, State)> {
        let path = region.path().to_owned();
        let heap = Heap::open_untyped(region).map_err(|e| failed(&path, e))?;
        let mut durable = Durable {
            heap,
            pending: Pending::new(),
            header: 0,
            chunks: 0,
            last_lease: 0,
            keys: BTreeMap::new(),
            leases: BTreeMap::new(),
            free: BTreeSet::new(),
            broken: None,
        };
        let state = match durable.heap.root() {
            None => {
                durable.format()?;
                State::new(1, 0, BTreeMap::new(), BTreeMap::new(), now)
            }
            Some(_) => durable.load(now)?,
        };
        Ok((durable, state))
    }

    fn failed(&self, what: impl fmt::Display) -> Error {
        failed(self.heap.region().path(), what)
    }

    /// A block, which no crash leaks: nothing leads to it before it is committed.
    fn alloc(&self, size: usize) -> Result<u64> {
        let layout = Layout::from_size_align(size, 16).map_err(|e| self.failed(e))?;
        let block = self.heap.alloc(layout).map_err(|e| self.failed(e))?;
        if let Some(entry) = block.entry {
            self.pending.push(entry);
            self.heap.entry_durable(&entry);
        }
        Ok(block.ptr.as_ptr().expose_provenance() as u64)
    }

    fn free(&self, address: u64) {
        if let Some(block) = pointer(address) {
            // SAFETY: a block of this heap by the invariant; nothing leads to it any more, durably, or nothing ever did.
            // An error would only mean that it stays taken until the next open.
            let _ = unsafe { self.heap.free(block) };
        }
    }

    /// Appends the record with the entries that wait, and waits for it. The view's bytes were stored in the writer's life.
    fn append(&self, mut writer: Writer<'_>, mut record: Record) -> Result<()> {
        let (ticket, carried) = self.pending.append(|entries| {
            for entry in entries {
                record.change(entry.offset, &entry.bytes);
            }
            writer.append(&mut record, Durability::Immediate)
        });
        let ticket = ticket.map_err(|e| self.failed(e))?;
        drop(writer);
        if !ticket.durable && !mutant::is("answered_before_durable") {
            let region = self.heap.region();
            region
                .wait_durable(ticket.seq)
                .map_err(|e| self.failed(e))?;
        }
        self.pending.durable(carried);
        Ok(())
    }

    /// An empty state in a heap that has no root.
    fn format(&mut self) -> Result<()> {
        let (table, header) = (
            self.alloc(size_of::<NamedRoot>())?,
            self.alloc(Header::LEN)?,
        );
        let root = NamedRoot::new(ROOT, header).expect("a short name");
        let region = self.heap.region().clone();
        let writer = region.writer().map_err(|e| self.failed(e))?;
        let slot = region.base().addr() as u64 + self.heap.root_slot();
        let mut record = Record::new();
        self.header = header;
        put(&region, &mut record, table, &root.to_bytes());
        put(&region, &mut record, header, &self.header(1).to_bytes());
        put(&region, &mut record, slot, &table.to_le_bytes());
        self.append(writer, record)
    }

    fn header(&self, revision: u64) -> Header {
        Header {
            magic: Header::MAGIC,
            format: Header::FORMAT,
            revision,
            last_lease: self.last_lease,
            chunks: self.chunks,
        }
    }

    /// The first `len` bytes of the block at `address`.
    fn block(&self, address: u64, len: usize) -> Result<&[u8]> {
        let block = pointer(address).ok_or_else(|| self.failed("a link to nowhere"))?;
        let size = self.heap.usable_size(block).map_err(|e| self.failed(e))?;
        if size < len {
            return Err(self.failed(format!("{len} bytes in a block of {size}")));
        }
        // SAFETY: a block of this heap of at least that many bytes, as was just checked; only `Durable` writes to it,
        // which is borrowed.
        Ok(unsafe { std::slice::from_raw_parts(block.as_ptr(), len) })
    }

    /// Reads everything, and checks what it reads.
    fn load(&mut self, now: Instant) -> Result<State> {
        // SAFETY: nobody else uses this heap.
        let roots = unsafe { self.heap.named_roots() }.map_err(|e| self.failed(e))?;
        let root = roots.iter().find(|root| root.name() == ROOT);
        let Some(root) = root else {
            return Err(self.failed("this region is another program's: no root `coordinator`"));
        };
        let bytes = self.block(root.address, Header::LEN)?.first_chunk();
        let header = Header::from_bytes(bytes.expect("so long"));
        if header.magic != Header::MAGIC || header.format != Header::FORMAT {
            let what = format!(
                "format {}, this program knows {}",
                header.format,
                Header::FORMAT
            );
            return Err(self.failed(what));
        }
        self.header = root.address;
        self.chunks = header.chunks;
        self.last_lease = header.last_lease;
        let (mut keys, mut leases) = (BTreeMap::new(), BTreeMap::new());
        let mut chunk = header.chunks;
        let mut seen = BTreeSet::new();
        while chunk != 0 {
            if !seen.insert(chunk) {
                return Err(self.failed("the chunks run in a circle"));
            }
            let bytes = self.block(chunk, CHUNK)?.to_vec();
            for i in 1..=SLOTS {
                let (slot, item) = (chunk + 8 * i as u64, word(&bytes, i));
                match item {
                    0 => drop(self.free.insert(slot)),
                    _ => self.load_item(Place { slot, item }, &header, &mut keys, &mut leases)?,
                }
            }
            chunk = word(&bytes, 0);
        }
        let kept_by = |kept: &Kept| kept.lease.is_none_or(|lease| leases.contains_key(&lease));
        if let Some((key, _)) = keys.iter().find(|(_, kept)| !kept_by(kept)) {
            return Err(self.failed(format!("key {key} has a lease that is not there")));
        }
        Ok(State::new(
            header.revision,
            header.last_lease,
            keys,
            leases,
            now,
        ))
    }

    fn load_item(
        &mut self,
        place: Place,
        header: &Header,
        keys: &mut BTreeMap<String, Kept>,
        leases: &mut BTreeMap<LeaseId, Duration>,
    ) -> Result<()> {
        let bytes = self.block(place.item, Item::LEN)?.first_chunk();
        let item = Item::from_bytes(bytes.expect("so long"));
        let key_end = Item::LEN + item.key as usize;
        let bytes = self.block(place.item, key_end + item.value as usize)?;
        let lease = LeaseId(item.lease);
        let fits = match item.kind {
            Item::LEASE => {
                let ttl = Duration::from_millis(item.number);
                lease.0 != 0
                    && lease.0 <= header.last_lease
                    && leases.insert(lease, ttl).is_none()
                    && self.leases.insert(lease, place).is_none()
            }
            Item::KEY => {
                let Ok(key) = std::str::from_utf8(&bytes[Item::LEN..key_end]) else {
                    return Err(self.failed("a key that is no UTF-8"));
                };
                let (key, value) = (key.to_owned(), Bytes::copy_from_slice(&bytes[key_end..]));
                let kept = Kept {
                    value,
                    revision: item.number,
                    lease: (lease.0 != 0).then_some(lease),
                };
                item.number <= header.revision
                    && keys.insert(key.clone(), kept).is_none()
                    && self.keys.insert(key, place).is_none()
            }
            _ => false,
        };
        match fits {
            true => Ok(()),
            false => Err(self.failed(format!("an item that does not fit: {item:?}"))),
        }
    }

    /// Whether it can still be used.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.broken {
            Some(what) => Err(self.failed(format!("{what} (before); open it again"))),
            None => Ok(()),
        }
    }

    /// Makes one step durable. One barrier.
    ///
    /// # Errors
    ///
    /// No space: nothing has changed. Others: it is broken.
    pub(crate) fn commit(&mut self, delta: &Delta) -> Result<()> {
        self.check()?;
        let mut new = Vec::new();
        for (key, kept) in &delta.keys {
            if let Some(kept) = kept {
                new.push((Name::Key(key), encode_key(key, kept)));
            }
        }
        if let Some((id, ttl)) = delta.granted {
            new.push((Name::Lease(id), encode_lease(id, ttl)));
        }
        let place_of = |name: &Name<'_>| match name {
            Name::Key(key) => self.keys.get(*key).copied(),
            Name::Lease(id) => self.leases.get(id).copied(),
        };
        let gone = delta.keys.iter().filter(|(_, kept)| kept.is_none());
        let gone = gone
            .map(|(key, _)| Name::Key(key))
            .chain(delta.ended.map(Name::Lease));
        let old: Vec<_> = gone
            .filter_map(|name| Some((place_of(&name)?, name)))
            .collect();
        let replaced: Vec<_> = new.iter().map(|(name, _)| place_of(name)).collect();

        // What may fail for lack of space comes first.
        let slots = replaced.iter().filter(|place| place.is_none()).count();
        let mut blocks = Vec::with_capacity(new.len() + 1);
        let sizes = new.iter().map(|(_, bytes)| bytes.len());
        for size in sizes.chain((slots > self.free.len()).then_some(CHUNK)) {
            match self.alloc(size) {
                Ok(block) => blocks.push(block),
                Err(error) => {
                    blocks.into_iter().for_each(|block| self.free(block));
                    return Err(error);
                }
            }
        }

        let region = self.heap.region().clone();
        let writer = match region.writer() {
            Ok(writer) => writer,
            Err(error) => {
                blocks.into_iter().for_each(|block| self.free(block));
                return Err(self.failed(error));
            }
        };
        let mut record = Record::new();
        if let Some(chunk) = blocks.get(new.len()) {
            let mut bytes = [0; CHUNK];
            bytes[..8].copy_from_slice(&self.chunks.to_le_bytes());
            put(&region, &mut record, *chunk, &bytes);
            self.chunks = *chunk;
            self.free.extend((1..=SLOTS as u64).map(|i| chunk + 8 * i));
        }
        let mut placed = Vec::with_capacity(new.len());
        for (((name, bytes), replaced), item) in new.into_iter().zip(&replaced).zip(&blocks) {
            let slot = match replaced {
                Some(place) => place.slot,
                None => self.free.pop_first().expect("a chunk has more slots"),
            };
            let mut beside = Record::new();
            let to = match mutant::is("items_not_logged") {
                true => &mut beside,
                false => &mut record,
            };
            put(&region, to, *item, &bytes);
            put(&region, &mut record, slot, &item.to_le_bytes());
            placed.push((name, Place { slot, item: *item }));
        }
        for (place, _) in &old {
            put(&region, &mut record, place.slot, &[0; 8]);
        }
        self.last_lease = delta.granted.map_or(self.last_lease, |(id, _)| id.0);
        let header = self.header(delta.revision).to_bytes();
        put(&region, &mut record, self.header, &header);
        if let Err(error) = self.append(writer, record) {
            self.broken = Some(error.to_string());
            return Err(error);
        }

        for (name, place) in placed {
            match name {
                Name::Key(key) => drop(self.keys.insert(key.clone(), place)),
                Name::Lease(id) => drop(self.leases.insert(id, place)),
            }
        }
        replaced.iter().flatten().for_each(|p| self.free(p.item));
        for (place, name) in old {
            match name {
                Name::Key(key) => drop(self.keys.remove(key)),
                Name::Lease(id) => drop(self.leases.remove(&id)),
            }
            self.free(place.item);
            self.free.insert(place.slot);
        }
        Ok(())
    }
}

/// Whose item.
enum Name<'a> {
    Key(&'a String),
    Lease(LeaseId),
}

fn encode_key(key: &str, kept: &Kept) -> Vec<u8> {
    let item = Item {
        kind: Item::KEY,
        // Both are bounded, far below.
        key: key.len() as u32,
        value: kept.value.len() as u32,
        reserved: 0,
        number: kept.revision,
        lease: kept.lease.map_or(0, |lease| lease.0),
    };
    [&item.to_bytes(), key.as_bytes(), &kept.value].concat()
}

fn encode_lease(id: LeaseId, ttl: Duration) -> Vec<u8> {
    let item = Item {
        kind: Item::LEASE,
        key: 0,
        value: 0,
        reserved: 0,
        number: ttl.as_millis() as u64,
        lease: id.0,
    };
    item.to_bytes().to_vec()
}

#[cfg(test)]
mod tests;

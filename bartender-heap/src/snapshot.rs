//! The allocator's state as a clean close saves it and the next open restores it.
//!
//! It promises that any bytes are either restored as the superblocks they
//! describe, without overlap, or refused. It does not know when a snapshot is
//! up to date; `heap` does.

use crate::class;
use crate::global::Global;
use crate::layout::{SnapshotHeader, SnapshotSuperblock, TableEntry, UNIT};
use crate::map::Map;
use crate::table::{Extent, MAX_BIRTH};

/// The state of the superblocks in `global`, whose threads stand still.
pub(crate) fn save(global: &Global, map: &Map) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<SnapshotHeader>()];
    let mut count = 0u64;
    for superblock in map.all() {
        if superblock.live() == 0 {
            continue;
        }
        count += 1;
        bytes.extend(superblock.entry().to_bytes());
        bytes.extend(superblock.unit().to_le_bytes());
        if !superblock.is_large() {
            bytes.extend(superblock.free_words().flat_map(u64::to_le_bytes));
        }
    }
    bytes[..8].copy_from_slice(&global.next_birth.to_le_bytes());
    bytes[8..16].copy_from_slice(&count.to_le_bytes());
    bytes
}

/// Restores what `save` wrote. `durable` says whether the table holds an
/// extent's entry. Returns (blocks, bytes) that are live.
///
/// # Errors
/// What does not fit; `global` is then half restored and has to go.
pub(crate) fn restore(
    bytes: &[u8],
    global: &mut Global,
    map: &Map,
    durable: impl Fn(&Extent) -> bool,
) -> Result<(u64, u64), &'static str> {
    let mut rest = Reader(bytes);
    global.next_birth = rest.u64()?;
    if global.next_birth > MAX_BIRTH {
        return Err("the heap is older than it can be");
    }
    let count = rest.u64()?;
    let (end, max) = (global.units.end(), global.units.max());
    let mut live = (0, 0);
    for _ in 0..count {
        let entry = TableEntry::from_bytes(rest.take()?);
        let extent = Extent {
            unit: rest.u64()?,
            entry,
        };
        if extent.unit >= end || extent.check(end, max).is_err() {
            return Err("it describes an impossible superblock");
        }
        if !global.units.take_at(extent.unit, entry.units.into()) {
            return Err("its superblocks overlap");
        }
        if entry.birth >= global.next_birth {
            return Err("a superblock is older than the heap");
        }
        let words = match class::TABLE.get(entry.class as usize) {
            Some(class) => (0..class.words())
                .map(|_| rest.u64())
                .collect::<Result<Vec<_>, _>>()?,
            None => vec![0],
        };
        let superblock = global.restore(extent, durable(&extent), words.into_iter(), map);
        let used = u64::from(superblock.live());
        live.0 += used;
        live.1 += used * superblock.size();
    }
    if rest.0.is_empty() {
        Ok(live)
    } else {
        Err("something follows its end")
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (head, rest) = self.0.split_first_chunk().ok_or("it ends too early")?;
        self.0 = rest;
        Ok(*head)
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        self.take().map(u64::from_le_bytes)
    }
}

/// Units that a snapshot of `len` bytes takes.
pub(crate) fn units(len: usize) -> u64 {
    (len as u64).div_ceil(UNIT)
}

const _: () = assert!(size_of::<SnapshotHeader>() == 16 && size_of::<SnapshotSuperblock>() == 24);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::arena::Arena;
    use crate::arena::tests::Fake;
    use crate::class;
    use crate::home::Home;
    use proptest::prelude::*;

    const MAX: u64 = 4096;
    const COUNT: usize = if cfg!(miri) { 150 } else { 3000 };

    fn used() -> (Arena, Fake) {
        let home = Fake::new(MAX * UNIT);
        let arena = Arena::new(MAX);
        // SAFETY: it lives as long as the arena.
        let local = unsafe { arena.join().as_ref() };
        for n in 0..COUNT {
            let class = class::of(n * 7 % 9000 + 1, 8).expect("a class");
            // SAFETY: the one thread's own heap.
            let got = unsafe { arena.alloc(local, class, &home) }.expect("room");
            if n % 3 == 0 {
                // SAFETY: nobody uses it.
                unsafe { arena.free(None, got.offset, &home) }.expect("a block");
            }
        }
        arena.alloc_large(1 << 20, 8, &home).expect("room");
        (arena, home)
    }

    fn fresh(size: u64) -> Arena {
        let arena = Arena::new(MAX);
        arena.lock().0.units.grown(size / UNIT, 0);
        arena
    }

    #[test]
    fn what_was_saved_comes_back() {
        let (arena, home) = used();
        let saved = save(&arena.lock().0, arena.map());
        let again = fresh(home.size());
        let (mut global, map) = again.lock();
        let live = restore(&saved, &mut global, map, |_| true).expect("as it was saved");
        assert_eq!(live.0, COUNT as u64 * 2 / 3 + 1);
        assert_eq!(save(&global, map).len(), saved.len());
        drop(global);
        let old = arena.map().all().count();
        assert!(old > COUNT / 60);
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "many steps")]
        fn damage_is_refused_or_restores_something_sound(
            hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let (arena, home) = used();
            let mut saved = save(&arena.lock().0, arena.map());
            for (at, value) in hits {
                let at = at.index(saved.len());
                saved[at] = value;
            }
            saved.truncate(cut.map_or(usize::MAX, |cut| cut.index(saved.len())));
            let again = fresh(home.size());
            let (mut global, map) = again.lock();
            // Whatever it says, it ends, and overlaps nothing (`take_at`).
            let _ = restore(&saved, &mut global, map, |_| true);
        }
    }
}

//! Blocks with several owners, each of which counts: who met them, and as what.
//!
//! The first owner that is met has the block marked and visited, the others are only counted. It promises that all of
//! them take the block for a value of one type, and that in the end the block's count is the number of its owners: one
//! that is too low would have it freed under the last of them. A box that leads to such a block is no owner: then
//! the block is marked twice, as any other that has two.

use super::fault::Fault;
use super::view::{View, u64_at};
use bartender_pm::sync::Mutex;
use std::collections::HashMap;

/// Parts with a lock of their own.
const PARTS: usize = 64;

/// How a block was met.
#[derive(Debug, Clone, Copy)]
struct Met {
    /// Number of the type in the schema.
    elem: u32,
    owners: u64,
}

/// Blocks with several owners, by home offset.
#[derive(Debug)]
pub(super) struct Counted {
    parts: Box<[Mutex<HashMap<u64, Met>>]>,
}

impl Counted {
    pub(super) fn new() -> Self {
        let parts = (0..PARTS).map(|_| Mutex::new(HashMap::new()));
        Counted {
            parts: parts.collect(),
        }
    }

    /// One more owner of the block at home offset `offset`, which takes it for an `elem`; whether it is the first.
    pub(super) fn meet(&self, view: View<'_>, offset: u64, elem: u32) -> Result<bool, Fault> {
        let mixed = offset.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut part = self.parts[(mixed >> 58) as usize].lock();
        let met = part.entry(offset).or_insert(Met { elem, owners: 0 });
        if met.elem != elem {
            return Err(Fault::Twofold(view.address(offset)));
        }
        met.owners += 1;
        Ok(met.owners == 1)
    }

    /// That all counts are right, when all owners were met; else about the one with the lowest address.
    pub(super) fn finish(&self, view: View<'_>) -> Result<(), Fault> {
        let mut wrong: Option<(u64, Fault)> = None;
        for part in &self.parts {
            for (&offset, met) in part.lock().iter() {
                let said = u64_at(view.range(offset, 8)?, 0);
                if said != met.owners && wrong.as_ref().is_none_or(|(first, _)| offset < *first) {
                    let ptr = view.address(offset);
                    let found = met.owners;
                    wrong = Some((offset, Fault::Count { ptr, said, found }));
                }
            }
        }
        wrong.map_or(Ok(()), |(_, fault)| Err(fault))
    }
}

//! How many entries trees have, and whether they say so: who iterates over one reserves room for as many.
//!
//! The nodes of a tree are visited in any order, by any worker. So each worker sums up for each tree what it has found, less
//! what the tree says where that was seen; in the end the sums of all workers come to nothing, or the tree is
//! wrong. A sum that is nothing already is not kept: of many trees, those that are being visited need memory.

use super::fault::Fault;
use super::view::View;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Entries found, less those that were promised, by the home offset of the tree. Modulo 2^64.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// The tree of the node before, which most often is that of the next one, too.
    tree: u64,
    sum: u64,
    others: HashMap<u64, u64>,
}

impl Entries {
    /// A node of the tree at home offset `tree` has `len` entries, on level `level`.
    #[inline]
    pub(super) fn found(
        &mut self,
        view: View<'_>,
        tree: u64,
        level: u64,
        len: u64,
    ) -> Result<(), Fault> {
        let (height, said) = view.promise(tree)?;
        if tree != self.tree {
            self.leave();
            self.tree = tree;
        }
        let promised = if level == height { said } else { 0 };
        self.sum = self.sum.wrapping_add(len).wrapping_sub(promised);
        Ok(())
    }

    /// Puts the sum of the last tree to the others.
    fn leave(&mut self) {
        let (tree, sum) = (self.tree, std::mem::take(&mut self.sum));
        if sum != 0 {
            self.add(tree, sum);
        }
    }

    fn add(&mut self, tree: u64, sum: u64) {
        match self.others.entry(tree) {
            Entry::Vacant(place) => {
                place.insert(sum);
            }
            Entry::Occupied(mut there) => {
                *there.get_mut() = there.get().wrapping_add(sum);
                if *there.get() == 0 {
                    there.remove();
                }
            }
        }
    }

    /// Takes in what another worker has found.
    pub(super) fn join(&mut self, mut other: Entries) {
        other.leave();
        self.leave();
        for (tree, sum) in other.others {
            self.add(tree, sum);
        }
    }

    /// That all trees have as many entries as they say, when all nodes were met; else about the one with the lowest address.
    pub(super) fn finish(&mut self, view: View<'_>) -> Result<(), Fault> {
        self.leave();
        let Some((&tree, &sum)) = self.others.iter().min() else {
            return Ok(());
        };
        let (_, said) = view.promise(tree)?;
        let found = said.wrapping_add(sum);
        Err(Fault::Entries { tree, said, found })
    }
}

//! Trees: every node is found, and what is wrong with one is said.

use super::image::{BASE, Image, home};
use super::{Bank, NULL, Sampled, bank, both, damaged};
use crate::layout::RawNode;
use crate::types::NodeLayout;
use crate::types::sample::{PBox, PString, PTree, PVec, TREE_CAP, schema_of};
use std::mem::offset_of;

const LAYOUT: NodeLayout = NodeLayout::of::<PString, PBox<u64>>(TREE_CAP);

/// Where the root's node of the bank's tree lies.
fn node(bank: &Bank) -> u64 {
    home(bank.by_date.0.root)
}

/// Where child `i` of a node lies.
fn child(image: &Image, node: u64, i: u64) -> u64 {
    let at = (node + LAYOUT.children + 8 * i) as usize;
    home(u64::from_le_bytes(
        image.bytes[at..at + 8].try_into().unwrap(),
    ))
}

#[test]
#[cfg_attr(miri, ignore = "safe code, many steps")]
fn trees_of_all_sizes_are_marked() {
    for len in 0..200u32 {
        let mut image = Image::new();
        let entries: Vec<_> = (0..len).map(|n| (n, image.boxed(n))).collect();
        let tree = image.tree(&entries);
        let root = image.boxed(tree).0.ptr.get();
        let live = image.table.len() as u64;
        image.block(64, 8);
        let schema = schema_of::<PTree<u32, PBox<u32>>>();
        assert_eq!(both(&image, root, &schema), Ok(live), "{len} entries");
    }
}

#[test]
#[cfg_attr(miri, ignore = "safe code, many steps")]
fn nodes_are_checked() {
    let Sampled { image, bank, .. } = bank();
    assert_eq!(bank.by_date.0.height, 2);
    let at = |field: usize| (offset_of!(Bank, by_date) + field) as u64;
    damaged(
        "by_date",
        "a tree without a node, but with 20 entries and height 2",
        |image, root, _| image.write(root + at(0), 0u64),
    );
    damaged(
        "by_date",
        "pointer 0x8 leads out of the region",
        |image, root, _| image.write(root + at(0), 8u64),
    );
    damaged("by_date", "a tree of height 24", |image, root, _| {
        image.write(root + at(8), RawNode::LEVELS as u64);
    });
    damaged(
        "by_date",
        "a tree of no entries has a node",
        |image, root, _| image.write(root + at(16), 0u64),
    );
    damaged(
        "by_date",
        "a node of level 2 where one of level 3 should be",
        |image, root, _| image.write(root + at(8), 3u64),
    );
    damaged(
        "by_date",
        "a node of 5 entries, with room for 4",
        |image, _, bank| image.write(node(bank), 5u32),
    );
    damaged(
        "by_date",
        "a node of 0 entries, with room for 4",
        |image, _, bank| {
            let leaf = child(image, child(image, node(bank), 1), 0);
            image.write(leaf, 0u32);
        },
    );
    damaged("by_date", NULL, |image, _, bank| {
        image.write(node(bank) + LAYOUT.children + 8, 0u64);
    });
    // A leaf has no room for children.
    let leaf = child(&image, child(&image, node(&bank), 0), 0);
    damaged(
        "by_date",
        &format!(
            "{} bytes are needed, the block at {:#x} has {}",
            LAYOUT.size,
            BASE + leaf,
            LAYOUT.children
        ),
        |image, _, bank| image.write(node(bank) + LAYOUT.children, BASE + leaf),
    );
    // Two children are one.
    damaged(
        "by_date",
        &format!(
            "the block at {:#x} is owned by by_date already",
            BASE + leaf
        ),
        |image, _, bank| {
            let parent = child(image, node(bank), 0);
            image.write(parent + LAYOUT.children + 8, BASE + leaf);
        },
    );
}

#[test]
#[cfg_attr(miri, ignore = "safe code, many steps")]
fn a_tree_has_as_many_entries_as_it_says() {
    let at = offset_of!(Bank, by_date) as u64 + 16;
    for said in [1, 19, 21, u64::MAX] {
        damaged(
            "by_date",
            &format!("a tree of {said} entries has 20"),
            |image, root, _| image.write(root + at, said),
        );
    }
    // In a tree of one node, and beside many that are well; the first one is named.
    for wrong in [0u32, 1, 3] {
        let mut image = Image::new();
        let trees: Vec<_> = (0..40u32)
            .map(|len| {
                let entries: Vec<_> = (0..len).map(|n| (n, image.boxed(n))).collect();
                let mut tree = image.tree(&entries);
                let is_wrong = [wrong, 33].contains(&len) && len > 0;
                tree.0.len += u64::from(is_wrong);
                tree
            })
            .collect();
        let root = image.vec(&trees);
        let root = image.boxed(root).0.ptr.get();
        let schema = schema_of::<PVec<PTree<u32, PBox<u32>>>>();
        let first = if wrong == 0 { 33 } else { wrong };
        let found = both(&image, root, &schema).expect_err("two are wrong");
        let what = format!("a tree of {} entries has {first}", first + 1);
        assert_eq!((found.path, found.what), (format!("root[{first}]"), what));
    }
}

#[test]
#[cfg_attr(miri, ignore = "safe code, many steps")]
fn keys_and_values_are_checked_where_they_are() {
    damaged("by_date{key \"d00\"}", NULL, |image, _, bank| {
        let leaf = child(image, child(image, node(bank), 0), 0);
        image.write(leaf + LAYOUT.values, 0u64);
    });
    damaged(
        "by_date[slot 0]",
        "length 9 is over the capacity 3",
        |image, _, bank| image.write(node(bank) + LAYOUT.keys + 16, 9u64),
    );
}

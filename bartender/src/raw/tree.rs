//! An ordered map in the layout of [`RawTree`]: a B-tree whose nodes hold entries on every level, with no pointers
//! upwards and none between leaves.
//!
//! `node` is one node, `cursor` a place in the tree with the way to it, `edit` what changes it, `join` makes one of two
//! and two of one. A node has
//! its keys in one array, so that a search touches few lines, and is as large as makes shifting a
//! part of it a short range in a transaction's record.
//!
//! It promises that a tree keeps its shape whatever the keys' `Ord` says: where an entry goes is a number that is in range,
//! and nothing else depends on what compares how. No foreign code is called while a tree is between two shapes.
//! It does not adopt, evict, hold or drop entries.

mod balance;
mod cursor;
mod edit;
mod join;
mod node;

pub(crate) use cursor::{Cursor, Range};
pub(crate) use node::Node;

use super::{Ordinary, Store};
use crate::ending;
use bartender_heap::layout::{RawNode, RawTree};
use bartender_heap::types::NodeLayout;
use std::borrow::Borrow;
use std::marker::PhantomData;
use std::ptr;

/// Levels of a tree, at most: nodes that are a third full hold all address space in so many.
pub(crate) const LEVELS: usize = RawNode::LEVELS;

/// Bytes that a leaf is made to fill, if its entries are of a size with which that makes sense.
const LEAF: usize = 1024;

/// A tree of entries of `K` and `V`.
///
/// Invariant: either `root == 0`, and all is zero, or there is a node at `root` of level `height`. A node of level `n > 0`
/// has one child more than entries, all of level `n - 1`; no node is without an entry.
#[repr(transparent)]
pub(crate) struct Tree<K, V> {
    raw: RawTree,
    entries: PhantomData<(K, V)>,
}

impl<K, V> Tree<K, V> {
    /// Entries that a node has room for.
    pub(crate) const CAP: usize = {
        let entry = size_of::<K>() + size_of::<V>();
        let fit = (LEAF - size_of::<RawNode>()) / if entry == 0 { 1 } else { entry };
        if fit < 11 {
            11
        } else if fit > 31 {
            31
        } else {
            fit
        }
    };

    /// A node with fewer gets some from a sibling, or becomes one with it. Less than half, so that a node that was
    /// split does not at once become one with its sibling again.
    const MIN: usize = Self::CAP / 3;

    const LAYOUT: NodeLayout = NodeLayout::of::<K, V>(Self::CAP as u64);

    /// A tree without a node.
    pub(crate) const fn new() -> Self {
        Tree {
            raw: RawTree {
                root: 0,
                height: 0,
                len: 0,
            },
            entries: PhantomData,
        }
    }

    /// Entries that are there.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.raw.len as usize
    }

    /// Levels of nodes.
    #[inline]
    fn levels(&self) -> usize {
        match self.raw.root {
            0 => 0,
            _ => self.raw.height as usize + 1,
        }
    }

    /// The root's node.
    #[inline]
    pub(crate) fn root(&self) -> Option<Node<K, V>> {
        Node::from_raw(self.raw.root)
    }

    /// The node that has `key`, and where.
    #[inline]
    pub(crate) fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(Node<K, V>, usize)>
    where
        K: Borrow<Q>,
    {
        let mut node = self.root()?;
        for level in (0..=self.raw.height).rev() {
            // SAFETY: a node of a tree that is borrowed, of this level; what a search returns is at most its length.
            unsafe {
                let (index, found) = node.search(key);
                if found {
                    return Some((node, index));
                }
                if level == 0 {
                    return None;
                }
                node = node.child(index);
            }
        }
        None
    }

    /// The place of `key`: the level where it is, or none and where it would go.
    #[inline]
    pub(crate) fn place<Q: Ord + ?Sized>(&self, key: &Q) -> (Cursor<K, V>, Option<usize>)
    where
        K: Borrow<Q>,
    {
        self.place_near(key, |_| {})
    }

    /// As [`place`](Self::place), and tells of the leaf as soon as it is known: searching it waits for memory, and what is
    /// asked for meanwhile comes beside.
    #[inline]
    pub(crate) fn place_near<Q: Ord + ?Sized>(
        &self,
        key: &Q,
        near: impl Fn(Node<K, V>),
    ) -> (Cursor<K, V>, Option<usize>)
    where
        K: Borrow<Q>,
    {
        let mut cursor = Cursor::new(self.levels());
        let Some(mut node) = self.root() else {
            return (cursor, None);
        };
        for level in (0..self.levels()).rev() {
            if level == 0 {
                near(node);
            }
            // SAFETY: as in `find`.
            unsafe {
                let (index, found) = node.search(key);
                cursor.set(level, node, index);
                if found {
                    return (cursor, Some(level));
                }
                if level > 0 {
                    node = node.child(index);
                }
            }
        }
        (cursor, None)
    }

    /// The place before the entries from `key` on, or before those behind it.
    pub(crate) fn edge<Q: Ord + ?Sized>(&self, key: &Q, behind: bool) -> Cursor<K, V>
    where
        K: Borrow<Q>,
    {
        let mut met = false;
        self.walk(|node| {
            // SAFETY: a node of a tree that is borrowed.
            unsafe {
                if met {
                    // Beside the key's own place there is nothing to compare.
                    return if behind { 0 } else { node.len() };
                }
                let (index, found) = node.search(key);
                met = found;
                index + usize::from(found && behind)
            }
        })
    }

    /// The place before the first entry.
    pub(crate) fn first(&self) -> Cursor<K, V> {
        self.walk(|_| 0)
    }

    /// The place behind the last entry.
    pub(crate) fn last(&self) -> Cursor<K, V> {
        // SAFETY: a node of a tree that is borrowed.
        self.walk(|node| unsafe { node.len() })
    }

    /// The way down on which `choose` names the children, and at last the place in a leaf.
    #[inline]
    fn walk(&self, mut choose: impl FnMut(Node<K, V>) -> usize) -> Cursor<K, V> {
        let mut cursor = Cursor::new(self.levels());
        if let Some(mut node) = self.root() {
            for level in (0..self.levels()).rev() {
                let index = choose(node);
                cursor.set(level, node, index);
                if level > 0 {
                    // SAFETY: a node above level 0 of a tree that is borrowed; the choice is at most its length.
                    node = unsafe { node.child(index) };
                }
            }
        }
        cursor
    }

    /// All entries.
    pub(crate) fn all(&self) -> Range<K, V> {
        Range::new(self.first(), self.last())
    }

    /// Calls `f` for each node, those below first.
    ///
    /// # Safety
    ///
    /// The tree's nodes are there. `f` may end a node.
    pub(crate) unsafe fn each_node(&self, f: &mut dyn FnMut(Node<K, V>)) {
        // As deep as the tree has levels.
        unsafe fn below<K, V>(node: Node<K, V>, f: &mut dyn FnMut(Node<K, V>)) {
            // SAFETY: a node of the tree, which `f` has not had yet.
            unsafe {
                if node.level() > 0 {
                    for i in 0..=node.len() {
                        below(node.child(i), f);
                    }
                }
                f(node);
            }
        }
        if let Some(root) = self.root() {
            // SAFETY: the caller's promise.
            unsafe { below(root, f) }
        }
    }

    /// Calls `f` for each node, those above first: it moves the node, and says where it is then.
    ///
    /// # Safety
    ///
    /// The tree's nodes are there, and `f` copies all their bytes.
    pub(crate) unsafe fn move_nodes(&mut self, f: &mut dyn FnMut(Node<K, V>) -> Node<K, V>) {
        // As deep as the tree has levels.
        unsafe fn below<K, V>(
            node: Node<K, V>,
            f: &mut dyn FnMut(Node<K, V>) -> Node<K, V>,
        ) -> Node<K, V> {
            let node = f(node);
            // SAFETY: a node of the tree, at its new place; its children are still where they were.
            unsafe {
                if node.level() > 0 {
                    for i in 0..=node.len() {
                        node.set_child(i, below(node.child(i), f));
                    }
                }
            }
            node
        }
        if let Some(root) = self.root() {
            // SAFETY: the caller's promise.
            let root = unsafe { below(root, f) };
            self.raw.root = root.to_raw();
        }
    }

    /// Drops the entries of an owned tree, and frees its nodes. What a drop that panics leaves is leaked.
    ///
    /// # Safety
    ///
    /// As [`free_owned`](Self::free_owned), for an owner that is being ended.
    pub(crate) unsafe fn end_owned(&mut self) {
        // SAFETY: the caller's promise; each entry is dropped once, before its node goes.
        unsafe {
            self.each_node(&mut |node| {
                let (block, layout, len) = (node.block(), node.layout(), node.len());
                ending::inside(block.as_ptr(), layout.size(), || {
                    ptr::slice_from_raw_parts_mut(node.keys(), len).drop_in_place();
                    ptr::slice_from_raw_parts_mut(node.values(), len).drop_in_place();
                });
                Ordinary.free(block, layout);
            });
        }
        *self = Tree::new();
    }

    /// Frees the nodes of an owned tree, whatever their entries are.
    ///
    /// # Safety
    ///
    /// The tree is owned, and nobody uses it or its entries any more.
    pub(crate) unsafe fn free_owned(&mut self) {
        // SAFETY: the caller's promise.
        unsafe {
            self.each_node(&mut |node| Ordinary.free(node.block(), node.layout()));
        }
        *self = Tree::new();
    }
}

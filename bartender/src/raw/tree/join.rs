//! Making two trees of one, and one of two, by the nodes on one way from the root to a leaf: what lies beside it stays in
//! its nodes.
//!
//! Joining puts the root of the lower tree beside the nodes of its level at the edge of the higher one (so costs as many
//! nodes as the heights differ). A cut takes the nodes on the way apart, from the leaf upwards, and joins what is on each
//! side: the differences of heights add up to the height of the tree. No foreign code is called.

use super::cursor::Step;
use super::edit::{Entry, Notes, Upwards, copy, copy_children};
use super::{Cursor, Node, Tree};
use crate::raw::Store;

/// The nodes of the trees are there, may be changed by `s`, and nobody else sees them: this is what all functions ask for.
/// They take trees, and give back what has become of them; after an error that is nobody's.
impl<K, V> Tree<K, V> {
    /// One tree of two, and of an entry between them, by its bytes.
    pub(crate) unsafe fn join<S: Store>(
        left: Self,
        (key, value): (*const K, *const V),
        right: Self,
        s: S,
    ) -> Result<Self, S::Error> {
        // SAFETY: the promise of all functions; the caller gives the entry up.
        unsafe { Self::join_with(left, Entry::read(key, value), right, s) }
    }

    unsafe fn join_with<S: Store>(
        left: Self,
        entry: Entry<K, V>,
        right: Self,
        s: S,
    ) -> Result<Self, S::Error> {
        let len = left.raw.len.wrapping_add(right.raw.len).wrapping_add(1);
        let (levels, others) = (left.levels(), right.levels());
        // SAFETY: the promise of all functions. The lower tree's root is put on the level that it has, and the steps of the
        // cursor lead to it, or to its twin beside it.
        unsafe {
            // The root of the lower tree, which has a few entries only perhaps.
            let (mut tree, mut cursor, low, up, from);
            if others <= levels {
                (cursor, low, from) = (left.last(), right.root(), others);
                let is_twin = |twin: Node<K, V>| {
                    levels == others && low.is_some_and(|low| twin.len() < low.len())
                };
                up = Upwards {
                    entry,
                    child: low,
                    right: low.is_some() && !left.root().is_some_and(is_twin),
                };
                tree = left;
            } else {
                (cursor, low, from) = (right.first(), left.root(), levels);
                let child = low.map(|_| cursor.step(from).node.child(0));
                up = Upwards {
                    entry,
                    child,
                    right: false,
                };
                tree = right;
            }
            let spare = Self::prepare_from(&cursor, from, s)?;
            if let (Some(low), false) = (low, others <= levels) {
                // It comes before all, so the child that was first goes behind the entry.
                let node = cursor.step(from).node;
                Notes::of(node, s).change(node.children(), 1);
                node.set_child(0, low);
            }
            let beside = up.right || others > levels;
            Self::insert_from(&raw mut tree, &mut cursor, spare, from, up, s);
            if let Some(low) = low {
                if beside {
                    cursor.set(from - 1, low, 0);
                }
                Self::fill(&raw mut tree, &mut cursor, from - 1, s);
            }
            tree.raw.len = len;
            Ok(tree)
        }
    }

    /// The trees of the entries before a place of the tree, and behind it. Reads the heads of all nodes of one of them, for
    /// the number of its entries: most likely of the smaller one.
    pub(crate) unsafe fn cut<S: Store>(
        this: Self,
        cursor: &Cursor<K, V>,
        s: S,
    ) -> Result<(Self, Self), S::Error> {
        let (mut left, mut right) = (Tree::new(), Tree::new());
        // SAFETY: the promise of all functions. Each entry, and each child but those on the way, goes to one side.
        unsafe {
            for level in 0..cursor.levels() {
                let Step { node, index } = cursor.step(level);
                let leaf = level == 0;
                let len = node.len();
                // In a leaf nothing is between the two sides; above, an entry on each side of the child that was cut.
                if index < len && leaf {
                    right = match index {
                        0 => Self::of(node),
                        _ => Self::part(node, index, s)?,
                    };
                } else if index < len {
                    let entry = Entry::read(node.key(index), node.value(index));
                    let behind = Self::part(node, index + 1, s)?;
                    right = Self::join_with(right, entry, behind, s)?;
                }
                let kept = if leaf { index } else { index.saturating_sub(1) };
                if kept > 0 {
                    Notes::of(node, s);
                    node.set_len(kept);
                }
                if index > 0 && leaf {
                    left = Self::of(node);
                } else if index > 0 {
                    let entry = Entry::read(node.key(index - 1), node.value(index - 1));
                    let before = match kept {
                        0 => Self::of(node.child(0)),
                        _ => Self::of(node),
                    };
                    left = Self::join_with(before, entry, left, s)?;
                }
                if kept == 0 && !leaf {
                    s.free(node.block(), node.layout());
                }
            }
            let size = |tree: &Self| (tree.levels(), tree.root().map_or(0, |root| root.len()));
            let (smaller, larger) = match size(&left) <= size(&right) {
                true => (&mut left, &mut right),
                false => (&mut right, &mut left),
            };
            let mut count = 0;
            smaller.each_node(&mut |node| count += node.len() as u64);
            smaller.raw.len = count;
            larger.raw.len = this.raw.len.saturating_sub(count);
        }
        Ok((left, right))
    }

    /// The tree below a node, without a number of entries.
    unsafe fn of(node: Node<K, V>) -> Self {
        let mut tree = Tree::new();
        tree.raw.root = node.to_raw();
        // SAFETY: the promise of all functions.
        tree.raw.height = unsafe { node.level() } as u64;
        tree
    }

    /// The tree of the entries of a node from an index on, with the children on both sides of each, without a number of
    /// entries. They are still in the node.
    unsafe fn part<S: Store>(node: Node<K, V>, from: usize, s: S) -> Result<Self, S::Error> {
        // SAFETY: the promise of all functions; the index is below the length, or (above level 0) the length.
        unsafe {
            let (count, level) = (node.len() - from, node.level());
            if count == 0 {
                return Ok(Self::of(node.child(from)));
            }
            let new = Node::new(level, s)?;
            copy((node, from), (new, 0), count);
            if level > 0 {
                copy_children((node, from), (new, 0), count + 1);
            }
            new.set_len(count);
            Ok(Self::of(new))
        }
    }
}

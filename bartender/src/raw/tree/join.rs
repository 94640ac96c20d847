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
    /// One tree of two, of which the second is put at a place of the first.
    pub(crate) unsafe fn splice<S: Store>(
        this: Self,
        cursor: &Cursor<K, V>,
        other: Self,
        s: S,
    ) -> Result<Self, S::Error> {
        // SAFETY: the promise of all functions.
        unsafe {
            if cursor.next_level().is_none() {
                return Self::concat(this, other, s);
            }
            if cursor.level_before().is_none() {
                return Self::concat(other, this, s);
            }
            let len = this.raw.len.wrapping_add(other.raw.len);
            let (below, above) = Self::cut_uncounted(this, cursor, s)?;
            let below = Self::concat(below, other, s)?;
            let mut all = Self::concat(below, above, s)?;
            all.raw.len = len;
            Ok(all)
        }
    }

    /// One tree of two, one behind the other.
    unsafe fn concat<S: Store>(left: Self, mut right: Self, s: S) -> Result<Self, S::Error> {
        if right.levels() == 0 {
            return Ok(left);
        }
        if left.levels() == 0 {
            return Ok(right);
        }
        let mut first = right.first();
        // SAFETY: the promise of all functions. The first entry of the second tree is given up there, to be between the two.
        unsafe {
            let node = first.step(0).node;
            let entry = Entry::read(node.key(0), node.value(0));
            Self::remove(&raw mut right, &mut first, 0, s);
            Self::join(left, entry, right, s)
        }
    }

    /// One tree of two, and of an entry between them.
    unsafe fn join<S: Store>(
        left: Self,
        entry: Entry<K, V>,
        right: Self,
        s: S,
    ) -> Result<Self, S::Error> {
        let len = left.raw.len.wrapping_add(right.raw.len).wrapping_add(1);
        let (levels, others) = (left.levels(), right.levels());
        let at_end = others <= levels;
        let (mut tree, low, from) = match at_end {
            true => (left, right.root(), others),
            false => (right, left.root(), levels),
        };
        let mut cursor = if at_end { tree.last() } else { tree.first() };
        // SAFETY: the promise of all functions. The root of the lower tree comes to its level in the higher one, where it gets
        // some entries from the node beside it if it has too few.
        unsafe {
            let spare = Self::prepare_from(&cursor, from, s)?;
            let child = match low {
                Some(low) if !at_end => {
                    // It comes before all, so the child that was the first goes behind the entry.
                    let node = cursor.step(from).node;
                    let first = node.child(0);
                    Notes::of(node, s).change(node.children(), 1);
                    node.set_child(0, low);
                    Some(first)
                }
                low => low,
            };
            // Of two roots on one level it may be the other that has too few.
            let is_other = levels == others
                && (tree.root().zip(low)).is_some_and(|(root, low)| root.len() < low.len());
            let up = Upwards {
                entry,
                child,
                right: low.is_some() && at_end && !is_other,
            };
            Self::insert_from(&raw mut tree, &mut cursor, spare, from, up, s);
            if let Some(low) = low {
                if !is_other {
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
        let len = this.raw.len;
        // SAFETY: the promise of all functions.
        unsafe {
            if cursor.next_level().is_none() {
                return Ok((this, Tree::new()));
            }
            if cursor.level_before().is_none() {
                return Ok((Tree::new(), this));
            }
            let (mut left, mut right) = Self::cut_uncounted(this, cursor, s)?;
            let size = |tree: &Self| (tree.levels(), tree.root().map_or(0, |root| root.len()));
            let (smaller, larger) = match size(&left) <= size(&right) {
                true => (&mut left, &mut right),
                false => (&mut right, &mut left),
            };
            let mut count = 0;
            smaller.each_node(&mut |node| count += node.len() as u64);
            smaller.raw.len = count;
            larger.raw.len = len.saturating_sub(count);
            Ok((left, right))
        }
    }

    /// The same, without numbers of entries.
    unsafe fn cut_uncounted<S: Store>(
        this: Self,
        cursor: &Cursor<K, V>,
        s: S,
    ) -> Result<(Self, Self), S::Error> {
        let (mut left, mut right) = (Tree::new(), Tree::new());
        // SAFETY: the promise of all functions. Each entry, and each child but those on the way, goes to one side.
        unsafe {
            for level in 0..this.levels() {
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
                    right = Self::join(right, entry, behind, s)?;
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
                    left = Self::join(before, entry, left, s)?;
                }
                if kept == 0 && !leaf {
                    s.free(node.block(), node.layout());
                }
            }
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

//! What is done about nodes with too few entries: they get some of a sibling's, or become one with it.

use super::cursor::Step;
use super::edit::{Notes, copy, copy_children, note, remove_fit};
use super::{Cursor, Node, Tree};
use crate::raw::Store;

/// As in `edit`: the nodes of the cursor are there, may be changed by `s`, and nobody else sees them.
impl<K, V> Tree<K, V> {
    /// Sees to it that the nodes on the way from a level upwards, of which the lowest may have too few entries, have enough.
    pub(super) unsafe fn fill<S: Store>(
        this: *mut Self,
        cursor: &mut Cursor<K, V>,
        from: usize,
        s: S,
    ) {
        // SAFETY: the promise of all functions; a parent has one entry at least, so a sibling is there.
        unsafe {
            for level in from.. {
                let Step { node, index } = cursor.step(level);
                if level + 1 == cursor.levels() {
                    if node.len() == 0 {
                        Self::drop_root(this, cursor, s);
                    }
                    return;
                }
                if node.len() >= Self::MIN {
                    return;
                }
                let Step {
                    node: parent,
                    index: at,
                } = cursor.step(level + 1);
                if at > 0 {
                    let left = parent.child(at - 1);
                    let (len, more) = (left.len(), node.len());
                    if len + 1 + more <= Self::CAP {
                        Self::merge(parent, at - 1, left, node, s);
                        cursor.set(level, left, index + len + 1);
                        cursor.set(level + 1, parent, at - 1);
                    } else {
                        let count = (len - more) / 2;
                        Self::from_left(parent, at - 1, left, node, count, s);
                        cursor.set(level, node, index + count);
                        return;
                    }
                } else {
                    let right = parent.child(1);
                    if node.len() + 1 + right.len() <= Self::CAP {
                        Self::merge(parent, 0, node, right, s);
                    } else {
                        let count = (right.len() - node.len()) / 2;
                        Self::from_right(parent, node, right, count, s);
                        return;
                    }
                }
            }
        }
    }

    /// Takes the root's node, which has no entry, out.
    unsafe fn drop_root<S: Store>(this: *mut Self, cursor: &mut Cursor<K, V>, s: S) {
        let levels = cursor.levels();
        let root = cursor.step(levels - 1).node;
        // SAFETY: the promise of all functions.
        unsafe {
            if levels == 1 {
                (*this).raw.root = 0;
                cursor.set(0, Node::nothing(), 0);
            } else {
                (*this).raw.root = root.child(0).to_raw();
                (*this).raw.height -= 1;
            }
            cursor.set_levels(levels - 1);
            s.free(root.block(), root.layout());
        }
    }

    /// Makes two siblings and the entry `at` between them one node, the left one.
    unsafe fn merge<S: Store>(
        parent: Node<K, V>,
        at: usize,
        left: Node<K, V>,
        right: Node<K, V>,
        s: S,
    ) {
        // SAFETY: the promise of all functions; there is room for all.
        unsafe {
            let (len, more) = (left.len(), right.len());
            let notes = Notes::of(left, s);
            note(notes, left, len, more + 1);
            copy((parent, at), (left, len), 1);
            copy((right, 0), (left, len + 1), more);
            if left.level() > 0 {
                notes.change(left.children().add(len + 1), more + 1);
                copy_children((right, 0), (left, len + 1), more + 1);
            }
            left.set_len(len + 1 + more);
            remove_fit(parent, at, s);
            s.free(right.block(), right.layout());
        }
    }

    /// Moves `count` entries to a node from its left sibling; the entry `at` is between them.
    unsafe fn from_left<S: Store>(
        parent: Node<K, V>,
        at: usize,
        left: Node<K, V>,
        node: Node<K, V>,
        count: usize,
        s: S,
    ) {
        // SAFETY: the promise of all functions; the sibling has more than `count`, which is above 0, and there is room.
        unsafe {
            let (from, len) = (left.len() - count, node.len());
            let notes = Notes::of(node, s);
            note(notes, node, 0, len + count);
            note(Notes::of(parent, s), parent, at, 1);
            Notes::of(left, s);
            copy((node, 0), (node, count), len);
            copy((parent, at), (node, count - 1), 1);
            copy((left, from + 1), (node, 0), count - 1);
            copy((left, from), (parent, at), 1);
            if node.level() > 0 {
                notes.change(node.children(), len + count + 1);
                copy_children((node, 0), (node, count), len + 1);
                copy_children((left, from + 1), (node, 0), count);
            }
            left.set_len(from);
            node.set_len(len + count);
        }
    }

    /// Moves `count` entries to a parent's first child from its second.
    unsafe fn from_right<S: Store>(
        parent: Node<K, V>,
        node: Node<K, V>,
        right: Node<K, V>,
        count: usize,
        s: S,
    ) {
        // SAFETY: as `from_left`.
        unsafe {
            let (len, rest) = (node.len(), right.len() - count);
            let (notes, others) = (Notes::of(node, s), Notes::of(right, s));
            note(notes, node, len, count);
            note(others, right, 0, rest);
            note(Notes::of(parent, s), parent, 0, 1);
            copy((parent, 0), (node, len), 1);
            copy((right, 0), (node, len + 1), count - 1);
            copy((right, count - 1), (parent, 0), 1);
            copy((right, count), (right, 0), rest);
            if node.level() > 0 {
                notes.change(node.children().add(len + 1), count);
                others.change(right.children(), rest + 1);
                copy_children((right, 0), (node, len + 1), count);
                copy_children((right, count), (right, 0), rest + 1);
            }
            right.set_len(rest);
            node.set_len(len + count);
        }
    }
}

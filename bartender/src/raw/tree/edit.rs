//! Changing a tree: inserting and removing at a place, with what that asks of the nodes around it.
//!
//! What can fail comes first ([`Tree::prepare`]); after that bytes are moved and nothing is called. The cursor follows its
//! place through all of it. The algorithms are those of Bayer and McCreight, with two changes: a node that is full when
//! something is added at the very end of the tree stays full (ascending keys fill their nodes), and a node
//! that has too few gets half of what its sibling has more.

use super::cursor::Step;
use super::{Cursor, LEVELS, Node, Tree};
use crate::raw::Store;
use std::mem::MaybeUninit;
use std::ptr;

/// New nodes for an insertion, the lowest first.
pub(crate) struct Spare<K, V> {
    nodes: [MaybeUninit<Node<K, V>>; LEVELS],
    count: usize,
    used: usize,
}

impl<K, V> Spare<K, V> {
    fn add(&mut self, node: Node<K, V>) {
        self.nodes[self.count] = MaybeUninit::new(node);
        self.count += 1;
    }

    fn next(&mut self) -> Node<K, V> {
        assert!(self.used < self.count, "as many nodes as were prepared");
        self.used += 1;
        // SAFETY: the first `count` are set.
        unsafe { self.nodes[self.used - 1].assume_init() }
    }
}

/// Notes changes of one node.
#[derive(Clone, Copy)]
struct Notes<S> {
    s: S,
    /// There is nothing left to note.
    covered: bool,
}

impl<S: Store> Notes<S> {
    #[inline]
    unsafe fn of<K, V>(node: Node<K, V>, s: S) -> Self {
        // SAFETY: the node is there and may be changed, by the caller's word.
        let covered = unsafe { s.covers(node.block().as_ptr(), node.layout().size()) };
        let notes = Notes { s, covered };
        // SAFETY: as above. Its head is changed by everything.
        unsafe { notes.change(node.block().as_ptr(), 8) };
        notes
    }

    #[inline]
    unsafe fn change<T>(self, at: *mut T, count: usize) {
        if !self.covered {
            // SAFETY: a part of the node.
            unsafe { self.s.change(at.cast(), count * size_of::<T>()) };
        }
    }
}

/// Copies `count` entries.
#[inline]
unsafe fn copy<K, V>(from: (Node<K, V>, usize), to: (Node<K, V>, usize), count: usize) {
    // SAFETY: there are so many entries, and there is room for them, by the caller's word; untyped, so that padding
    // that was zeroed stays so.
    unsafe {
        ptr::copy(from.0.key(from.1), to.0.key(to.1), count);
        ptr::copy(from.0.value(from.1), to.0.value(to.1), count);
    }
}

/// Copies `count` children.
#[inline]
unsafe fn copy_children<K, V>(from: (Node<K, V>, usize), to: (Node<K, V>, usize), count: usize) {
    // SAFETY: as `copy`.
    unsafe {
        ptr::copy(
            from.0.children().add(from.1),
            to.0.children().add(to.1),
            count,
        )
    }
}

/// Notes that `count` entries from `index` on are written.
#[inline]
unsafe fn note<K, V, S: Store>(notes: Notes<S>, node: Node<K, V>, index: usize, count: usize) {
    // SAFETY: within the node, by the caller's word.
    unsafe {
        notes.change(node.key(index), count);
        notes.change(node.value(index), count);
    }
}

/// Puts an entry at `index` into a node with room for it, and the child behind it.
unsafe fn insert_fit<K, V, S: Store>(
    node: Node<K, V>,
    index: usize,
    (key, value): (*const K, *const V),
    child: Option<Node<K, V>>,
    s: S,
) {
    // SAFETY: the node is there and has room, the index is at most its length, by the caller's word.
    unsafe {
        let len = node.len();
        let notes = Notes::of(node, s);
        note(notes, node, index, len + 1 - index);
        copy((node, index), (node, index + 1), len - index);
        ptr::copy_nonoverlapping(key, node.key(index), 1);
        ptr::copy_nonoverlapping(value, node.value(index), 1);
        if let Some(child) = child {
            notes.change(node.children().add(index + 1), len + 1 - index);
            copy_children((node, index + 1), (node, index + 2), len - index);
            node.set_child(index + 1, child);
        }
        node.set_len(len + 1);
    }
}

/// Closes the gap of an entry whose bytes are elsewhere by now, and of the child behind it.
unsafe fn remove_fit<K, V, S: Store>(node: Node<K, V>, index: usize, s: S) {
    // SAFETY: the node is there, the index below its length, by the caller's word.
    unsafe {
        let len = node.len();
        let notes = Notes::of(node, s);
        note(notes, node, index, len - 1 - index);
        copy((node, index + 1), (node, index), len - 1 - index);
        if node.level() > 0 {
            notes.change(node.children().add(index + 1), len - 1 - index);
            copy_children((node, index + 2), (node, index + 1), len - 1 - index);
        }
        node.set_len(len - 1);
    }
}

/// The nodes of the cursor are there, may be changed by `s`, and nobody else sees them: this is what all functions ask for.
/// The tree itself is changed without a word to `s`: who calls has seen to that.
impl<K, V> Tree<K, V> {
    /// Makes the nodes that inserting at the cursor's place in the leaf takes. Nothing changed if that fails.
    pub(crate) unsafe fn prepare<S: Store>(
        cursor: &Cursor<K, V>,
        s: S,
    ) -> Result<Spare<K, V>, S::Error> {
        let mut spare = Spare {
            nodes: [const { MaybeUninit::uninit() }; LEVELS],
            count: 0,
            used: 0,
        };
        let mut level = 0;
        // SAFETY: the promise of all functions.
        unsafe {
            while level < cursor.levels() && cursor.step(level).node.len() == Self::CAP {
                level += 1;
            }
        }
        let splits = level;
        let rooted = usize::from(splits == cursor.levels());
        assert!(splits + rooted <= LEVELS, "a tree of {LEVELS} full levels");
        for level in 0..splits + rooted {
            match Node::new(level, s) {
                Ok(node) => spare.add(node),
                Err(error) => {
                    while spare.used < spare.count {
                        let node = spare.next();
                        // SAFETY: made just now.
                        unsafe { s.free(node.block(), node.layout()) };
                    }
                    return Err(error);
                }
            }
        }
        Ok(spare)
    }

    /// Puts an entry, by its bytes, at the cursor's place in the leaf. The cursor is before the entry then, which is the one
    /// at step 0.
    pub(crate) unsafe fn insert<S: Store>(
        this: *mut Self,
        cursor: &mut Cursor<K, V>,
        mut spare: Spare<K, V>,
        key: *const K,
        value: *const V,
        s: S,
    ) {
        // What goes in, on the level that it comes to, and the child behind it.
        let (mut up_key, mut up_value) = (MaybeUninit::<K>::uninit(), MaybeUninit::<V>::uninit());
        let mut child = None;
        // Whether the place is in that child.
        let mut right = false;
        // SAFETY: the promise of all functions. An entry is in one place at a time: what a split takes out goes in above.
        unsafe {
            ptr::copy_nonoverlapping(key, up_key.as_mut_ptr(), 1);
            ptr::copy_nonoverlapping(value, up_value.as_mut_ptr(), 1);
            (*this).raw.len = (*this).raw.len.wrapping_add(1);
            for level in 0.. {
                let entry = (up_key.as_ptr(), up_value.as_ptr());
                if level == cursor.levels() {
                    let root = spare.next();
                    if let Some(below) = (*this).root() {
                        root.set_child(0, below);
                    }
                    insert_fit(root, 0, entry, child, s);
                    (*this).raw.root = root.to_raw();
                    (*this).raw.height = level as u64;
                    cursor.set_levels(level + 1);
                    cursor.set(level, root, usize::from(right));
                    return;
                }
                let Step { node, index } = cursor.step(level);
                let place = index + usize::from(right);
                if node.len() < Self::CAP {
                    insert_fit(node, index, entry, child, s);
                    cursor.set(level, node, place);
                    return;
                }
                let middle = match index == Self::CAP && cursor.is_at_end(level) {
                    true => Self::CAP - 1,
                    false => Self::CAP / 2,
                };
                let new = spare.next();
                let (mut next_key, mut next_value) = (MaybeUninit::uninit(), MaybeUninit::uninit());
                Self::split(node, new, middle, s);
                ptr::copy_nonoverlapping(node.key(middle), next_key.as_mut_ptr(), 1);
                ptr::copy_nonoverlapping(node.value(middle), next_value.as_mut_ptr(), 1);
                right = index > middle;
                if right {
                    insert_fit(new, index - middle - 1, entry, child, s);
                    cursor.set(level, new, place - middle - 1);
                } else {
                    insert_fit(node, index, entry, child, s);
                    cursor.set(level, node, place);
                }
                (up_key, up_value) = (next_key, next_value);
                child = Some(new);
            }
        }
    }

    /// Moves what is behind the entry `middle` of a full node to a new one.
    unsafe fn split<S: Store>(node: Node<K, V>, new: Node<K, V>, middle: usize, s: S) {
        let count = Self::CAP - middle - 1;
        // SAFETY: the promise of all functions; all of a new node is noted.
        unsafe {
            Notes::of(node, s);
            copy((node, middle + 1), (new, 0), count);
            if node.level() > 0 {
                copy_children((node, middle + 1), (new, 0), count + 1);
            }
            new.set_len(count);
            node.set_len(middle);
        }
    }

    /// Removes the entry at the step of `level`, whose bytes are elsewhere by now; below, the cursor leads
    /// [down](Cursor::down) to the end of the leaf. The cursor keeps its place: above level 0, it is before the entry
    /// that was before the one that went, else behind it.
    pub(crate) unsafe fn remove<S: Store>(
        this: *mut Self,
        cursor: &mut Cursor<K, V>,
        level: usize,
        s: S,
    ) {
        // SAFETY: the promise of all functions. No node is empty, so a leaf has a last entry.
        unsafe {
            (*this).raw.len = (*this).raw.len.saturating_sub(1);
            let Step { node: leaf, index } = cursor.step(0);
            if level == 0 {
                remove_fit(leaf, index, s);
            } else {
                let Step { node, index } = cursor.step(level);
                let last = leaf.len() - 1;
                note(Notes::of(node, s), node, index, 1);
                copy((leaf, last), (node, index), 1);
                remove_fit(leaf, last, s);
                cursor.set(0, leaf, last);
            }
            Self::fill(this, cursor, s);
        }
    }

    /// Sees to it that the nodes on the way, of which the lowest has lost an entry, have enough.
    unsafe fn fill<S: Store>(this: *mut Self, cursor: &mut Cursor<K, V>, s: S) {
        // SAFETY: the promise of all functions; a parent has one entry at least, so a sibling is there.
        unsafe {
            for level in 0.. {
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

impl<K, V> Cursor<K, V> {
    /// Whether all steps above a level lead to the last child.
    unsafe fn is_at_end(&self, level: usize) -> bool {
        (level + 1..self.levels()).all(|above| {
            let Step { node, index } = self.step(above);
            // SAFETY: the node is there, by the caller's word.
            index == unsafe { node.len() }
        })
    }
}

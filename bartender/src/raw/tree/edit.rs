//! Changing a tree: inserting and removing at a place, with what that asks of the nodes around it.
//!
//! What can fail comes first ([`Tree::prepare`]); after that bytes are moved and nothing is called. The cursor follows its
//! place through all of it. The algorithms are those of Bayer and McCreight, with two changes: a node that is full when
//! something is added at the very end of the tree stays full (ascending keys fill their nodes), and a node
//! that has too few gets half of what its sibling has more (`balance`).

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

/// What goes into a node: an entry, by its bytes, and the child behind it.
pub(super) struct Upwards<K, V> {
    pub(super) entry: Entry<K, V>,
    pub(super) child: Option<Node<K, V>>,
    /// The cursor's place is in that child.
    pub(super) right: bool,
}

/// The bytes of an entry that is in no node.
pub(super) struct Entry<K, V> {
    key: MaybeUninit<K>,
    value: MaybeUninit<V>,
}

impl<K, V> Entry<K, V> {
    /// # Safety
    ///
    /// Key and value are there, and who has them gives them up.
    #[inline]
    pub(super) unsafe fn read(key: *const K, value: *const V) -> Self {
        let mut entry = Entry {
            key: MaybeUninit::uninit(),
            value: MaybeUninit::uninit(),
        };
        // SAFETY: the caller's promise.
        unsafe {
            ptr::copy_nonoverlapping(key, entry.key.as_mut_ptr(), 1);
            ptr::copy_nonoverlapping(value, entry.value.as_mut_ptr(), 1);
        }
        entry
    }

    #[inline]
    pub(super) fn parts(&self) -> (*const K, *const V) {
        (self.key.as_ptr(), self.value.as_ptr())
    }
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
pub(super) struct Notes<S> {
    s: S,
    /// There is nothing left to note.
    covered: bool,
}

impl<S: Store> Notes<S> {
    #[inline]
    pub(super) unsafe fn of<K, V>(node: Node<K, V>, s: S) -> Self {
        // SAFETY: the node is there and may be changed, by the caller's word.
        let covered = unsafe { s.covers(node.block().as_ptr(), node.layout().size()) };
        let notes = Notes { s, covered };
        // SAFETY: as above. Its head is changed by everything.
        unsafe { notes.change(node.block().as_ptr(), 8) };
        notes
    }

    #[inline]
    pub(super) unsafe fn change<T>(self, at: *mut T, count: usize) {
        if !self.covered {
            // SAFETY: a part of the node.
            unsafe { self.s.change(at.cast(), count * size_of::<T>()) };
        }
    }
}

/// Copies `count` entries.
#[inline]
pub(super) unsafe fn copy<K, V>(from: (Node<K, V>, usize), to: (Node<K, V>, usize), count: usize) {
    // SAFETY: there are so many entries, and there is room for them, by the caller's word; untyped, so that padding
    // that was zeroed stays so.
    unsafe {
        ptr::copy(from.0.key(from.1), to.0.key(to.1), count);
        ptr::copy(from.0.value(from.1), to.0.value(to.1), count);
    }
}

/// Copies `count` children.
#[inline]
pub(super) unsafe fn copy_children<K, V>(
    from: (Node<K, V>, usize),
    to: (Node<K, V>, usize),
    count: usize,
) {
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
pub(super) unsafe fn note<K, V, S: Store>(
    notes: Notes<S>,
    node: Node<K, V>,
    index: usize,
    count: usize,
) {
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
pub(super) unsafe fn remove_fit<K, V, S: Store>(node: Node<K, V>, index: usize, s: S) {
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
        // SAFETY: passed on.
        unsafe { Self::prepare_from(cursor, 0, s) }
    }

    /// The same for an insertion on a level, which may be the one above the root.
    pub(super) unsafe fn prepare_from<S: Store>(
        cursor: &Cursor<K, V>,
        from: usize,
        s: S,
    ) -> Result<Spare<K, V>, S::Error> {
        let mut spare = Spare {
            nodes: [const { MaybeUninit::uninit() }; LEVELS],
            count: 0,
            used: 0,
        };
        let mut level = from;
        // SAFETY: the promise of all functions.
        unsafe {
            while level < cursor.levels() && cursor.step(level).node.len() == Self::CAP {
                level += 1;
            }
        }
        let end = level + usize::from(level == cursor.levels());
        assert!(end <= LEVELS, "a tree of {LEVELS} full levels");
        for level in from..end {
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
        spare: Spare<K, V>,
        key: *const K,
        value: *const V,
        s: S,
    ) {
        // SAFETY: passed on; the caller gives the entry up.
        unsafe {
            let up = Upwards {
                entry: Entry::read(key, value),
                child: None,
                right: false,
            };
            Self::insert_from(this, cursor, spare, 0, up, s);
        }
    }

    /// Puts an entry, and a child behind it if the level is above 0, at the cursor's place on a level. The steps from there on
    /// lead to where the place is then.
    pub(super) unsafe fn insert_from<S: Store>(
        this: *mut Self,
        cursor: &mut Cursor<K, V>,
        mut spare: Spare<K, V>,
        from: usize,
        mut up: Upwards<K, V>,
        s: S,
    ) {
        // SAFETY: the promise of all functions. An entry is in one place at a time: what a split takes out goes in above.
        unsafe {
            (*this).raw.len = (*this).raw.len.wrapping_add(1);
            for level in from.. {
                let Upwards {
                    entry,
                    child,
                    right,
                } = up;
                let entry = entry.parts();
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
                let middle = match from == 0 && index == Self::CAP && cursor.is_at_end(level) {
                    true => Self::CAP - 1,
                    false => Self::CAP / 2,
                };
                let new = spare.next();
                Self::split(node, new, middle, s);
                let next = Entry::read(node.key(middle), node.value(middle));
                let right = index > middle;
                if right {
                    insert_fit(new, index - middle - 1, entry, child, s);
                    cursor.set(level, new, place - middle - 1);
                } else {
                    insert_fit(node, index, entry, child, s);
                    cursor.set(level, node, place);
                }
                up = Upwards {
                    entry: next,
                    child: Some(new),
                    right,
                };
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
            Self::fill(this, cursor, 0, s);
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

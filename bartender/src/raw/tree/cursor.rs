//! A place between two entries of a tree, with the way to it; and the entries between two of them.

use super::{LEVELS, Node};
use std::mem::MaybeUninit;

/// A node on the way, and which of its children comes next; in the leaf, which entry.
pub(crate) struct Step<K, V> {
    pub(crate) node: Node<K, V>,
    pub(crate) index: usize,
}

impl<K, V> Clone for Step<K, V> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for Step<K, V> {}

/// A place between two entries.
///
/// It is good as long as the tree is there and was not changed but through it. Invariant: the steps `0..levels` are set, and
/// step 0 always; each leads to the node of the one below.
pub(crate) struct Cursor<K, V> {
    levels: usize,
    steps: [MaybeUninit<Step<K, V>>; LEVELS],
}

impl<K, V> Clone for Cursor<K, V> {
    fn clone(&self) -> Self {
        let mut copy = Cursor::new(self.levels);
        for level in 0..self.levels {
            copy.steps[level] = self.steps[level];
        }
        copy
    }
}

/// The tree is there, and was not changed but through the cursor: this is what all unsafe methods ask for.
impl<K, V> Cursor<K, V> {
    /// A cursor in a tree of so many levels, whose steps are to be [`set`](Self::set).
    #[inline]
    pub(super) fn new(levels: usize) -> Self {
        let mut cursor = Cursor {
            levels,
            steps: [const { MaybeUninit::uninit() }; LEVELS],
        };
        cursor.set(0, Node::nothing(), 0);
        cursor
    }

    /// Levels of the tree.
    #[inline]
    pub(crate) fn levels(&self) -> usize {
        self.levels
    }

    #[inline]
    pub(super) fn set_levels(&mut self, levels: usize) {
        self.levels = levels;
    }

    #[inline]
    pub(super) fn set(&mut self, level: usize, node: Node<K, V>, index: usize) {
        self.steps[level] = MaybeUninit::new(Step { node, index });
    }

    /// The step on a level, which is below `levels`, or 0.
    #[inline]
    pub(crate) fn step(&self, level: usize) -> Step<K, V> {
        debug_assert!(level == 0 || level < self.levels);
        // SAFETY: the steps are set, by the type's invariant.
        unsafe { self.steps[level].assume_init() }
    }

    /// Whether both are one place of the same tree.
    #[inline]
    fn is_at(&self, other: &Self) -> bool {
        let (a, b) = (self.step(0), other.step(0));
        a.node == b.node && a.index == b.index
    }

    /// The level of the entry behind the place, if there is one: it is at the step's index.
    #[inline]
    pub(crate) unsafe fn next_level(&self) -> Option<usize> {
        (0..self.levels).find(|&level| {
            let Step { node, index } = self.step(level);
            // SAFETY: the promise of all methods.
            index < unsafe { node.len() }
        })
    }

    /// The level of the entry before the place, if there is one: it is just before the step's index.
    #[inline]
    pub(super) unsafe fn level_before(&self) -> Option<usize> {
        (0..self.levels).find(|&level| self.step(level).index > 0)
    }

    /// Goes before the last entry of the leaf, which is not empty, from its end.
    pub(crate) fn back_in_leaf(&mut self) {
        let Step { node, index } = self.step(0);
        self.set(0, node, index - 1);
    }

    /// Goes to where an entry was that was removed from a level.
    pub(crate) unsafe fn settle(&mut self, level: usize) {
        // Above the leaves, the entry before has taken its place: it was passed.
        if level > 0 {
            // SAFETY: the promise of all methods.
            unsafe {
                if let Some(level) = self.next_level() {
                    self.pass(level);
                }
            }
        }
    }

    /// Goes behind the entry at the step of a level.
    #[inline]
    pub(crate) unsafe fn pass(&mut self, level: usize) {
        let Step { node, index } = self.step(level);
        self.set(level, node, index + 1);
        // SAFETY: the promise of all methods.
        unsafe { self.down(level, false) };
    }

    /// Goes to the leaf below the step of a level: to its end or its start.
    #[inline]
    pub(crate) unsafe fn down(&mut self, level: usize, to_end: bool) {
        let Step {
            mut node,
            mut index,
        } = self.step(level);
        for level in (0..level).rev() {
            // SAFETY: the promise of all methods; above level 0 there is a child at each step.
            unsafe {
                node = node.child(index);
                index = if to_end { node.len() } else { 0 };
            }
            self.set(level, node, index);
        }
    }
}

/// The entries between two places of a tree. It hands out each once, as long as the tree is there and keeps its shape.
pub(crate) struct Range<K, V> {
    front: Cursor<K, V>,
    back: Cursor<K, V>,
}

impl<K, V> Clone for Range<K, V> {
    fn clone(&self) -> Self {
        Range {
            front: self.front.clone(),
            back: self.back.clone(),
        }
    }
}

/// The tree is there and keeps its shape: this is what all methods ask for.
impl<K, V> Range<K, V> {
    #[inline]
    pub(crate) fn new(front: Cursor<K, V>, back: Cursor<K, V>) -> Self {
        Range { front, back }
    }

    /// Where it starts.
    pub(crate) fn into_front(self) -> Cursor<K, V> {
        self.front
    }

    /// The next entry: key and value.
    #[inline]
    pub(crate) unsafe fn next(&mut self) -> Option<(*mut K, *mut V)> {
        if self.front.is_at(&self.back) {
            return None;
        }
        let Step { node, index } = self.front.step(0);
        // SAFETY: the promise of all methods.
        unsafe {
            if index < node.len() {
                self.front.set(0, node, index + 1);
                return Some((node.key(index), node.value(index)));
            }
            self.next_above()
        }
    }

    unsafe fn next_above(&mut self) -> Option<(*mut K, *mut V)> {
        // SAFETY: the promise of all methods.
        unsafe {
            let level = self.front.next_level()?;
            let Step { node, index } = self.front.step(level);
            self.front.pass(level);
            Some((node.key(index), node.value(index)))
        }
    }

    /// The last entry: key and value.
    #[inline]
    pub(crate) unsafe fn next_back(&mut self) -> Option<(*mut K, *mut V)> {
        if self.front.is_at(&self.back) {
            return None;
        }
        let Step { node, index } = self.back.step(0);
        if index > 0 {
            self.back.set(0, node, index - 1);
            return Some((node.key(index - 1), node.value(index - 1)));
        }
        // SAFETY: the promise of all methods.
        unsafe { self.next_back_above() }
    }

    unsafe fn next_back_above(&mut self) -> Option<(*mut K, *mut V)> {
        // SAFETY: the promise of all methods.
        unsafe {
            let level = self.back.level_before()?;
            let Step { node, index } = self.back.step(level);
            self.back.set(level, node, index - 1);
            self.back.down(level, true);
            Some((node.key(index - 1), node.value(index - 1)))
        }
    }
}

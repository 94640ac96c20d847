//! One node of a tree: where its parts lie, searching it, making one.

use super::Tree;
use crate::raw::Store;
use bartender_heap::layout::RawNode;
use std::alloc::Layout;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::marker::PhantomData;
use std::mem::needs_drop;
use std::ptr::{self, NonNull};

/// What a place in a tree without nodes refers to.
static NOTHING: RawNode = RawNode { len: 0, level: 0 };

/// The address of a node. Whoever has one knows why the node is there.
pub(crate) struct Node<K, V> {
    at: NonNull<u8>,
    of: PhantomData<*const (K, V)>,
}

impl<K, V> Clone for Node<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for Node<K, V> {}

impl<K, V> PartialEq for Node<K, V> {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

/// Whether keys are compared in so little time that looking at all of a node costs less than a branch that is
/// predicted wrongly.
const fn is_cheap<K>() -> bool {
    !needs_drop::<K>() && size_of::<K>() <= 8
}

/// Asks for the memory of `count` values at `values`, if there is any: they are about to be looked at.
#[inline]
fn prefetch<T>(values: *const T, count: usize) {
    const LINE: usize = 64;
    for offset in (0..count * size_of::<T>()).step_by(LINE) {
        bartender_heap::prefetch(values.cast::<u8>().wrapping_add(offset));
    }
}

/// A node is there, of the types that are said, and nobody else changes it: this is what all methods ask for.
impl<K, V> Node<K, V> {
    /// The node of a tree without nodes: nothing is in it.
    #[inline]
    pub(super) fn nothing() -> Self {
        Node {
            at: NonNull::from(&NOTHING).cast(),
            of: PhantomData,
        }
    }

    /// The node at a stored address, which may be none.
    #[inline]
    pub(super) fn from_raw(address: u64) -> Option<Self> {
        let at = ptr::with_exposed_provenance_mut(address as usize);
        Some(Node {
            at: NonNull::new(at)?,
            of: PhantomData,
        })
    }

    /// The node in a block that is one.
    pub(crate) fn in_block(at: NonNull<u8>) -> Self {
        Node {
            at,
            of: PhantomData,
        }
    }

    /// The address as it is stored.
    #[inline]
    pub(super) fn to_raw(self) -> u64 {
        self.at.as_ptr().expose_provenance() as u64
    }

    /// The block that it is.
    #[inline]
    pub(crate) fn block(self) -> NonNull<u8> {
        self.at
    }

    const fn layout_of(level: usize) -> Layout {
        let layout = Tree::<K, V>::LAYOUT;
        let size = layout.bytes(level as u64) as usize;
        match Layout::from_size_align(size, layout.align as usize) {
            Ok(layout) => layout,
            Err(_) => panic!("a node beyond all address space"),
        }
    }

    /// The block of a node of level 0, and of those above.
    const LAYOUTS: [Layout; 2] = [Self::layout_of(0), Self::layout_of(1)];

    /// A new node without entries.
    pub(super) fn new<S: Store>(level: usize, s: S) -> Result<Self, S::Error> {
        let layout = Self::LAYOUTS[usize::from(level > 0)];
        let node = Node::in_block(s.alloc(layout)?);
        // SAFETY: a new block with room for a node.
        unsafe {
            s.fresh(node.at.as_ptr(), layout.size());
            let level = level as u32;
            node.at
                .cast::<RawNode>()
                .as_ptr()
                .write(RawNode { len: 0, level });
        }
        Ok(node)
    }

    /// The layout of its block.
    #[inline]
    pub(crate) unsafe fn layout(self) -> Layout {
        // SAFETY: the promise of all methods.
        Self::LAYOUTS[usize::from(unsafe { self.level() } > 0)]
    }

    /// Entries that are there.
    #[inline]
    pub(crate) unsafe fn len(self) -> usize {
        // SAFETY: the promise of all methods.
        unsafe { (*self.at.cast::<RawNode>().as_ptr()).len as usize }
    }

    #[inline]
    pub(super) unsafe fn set_len(self, len: usize) {
        // SAFETY: the promise of all methods.
        unsafe { (*self.at.cast::<RawNode>().as_ptr()).len = len as u32 }
    }

    /// Its level, 0 for a leaf.
    #[inline]
    pub(crate) unsafe fn level(self) -> usize {
        // SAFETY: the promise of all methods.
        unsafe { (*self.at.cast::<RawNode>().as_ptr()).level as usize }
    }

    /// Where its first key is.
    #[inline]
    pub(crate) fn keys(self) -> *mut K {
        let at = Tree::<K, V>::LAYOUT.keys as usize;
        self.at.as_ptr().wrapping_add(at).cast()
    }

    /// Where its first value is.
    #[inline]
    pub(crate) fn values(self) -> *mut V {
        let at = Tree::<K, V>::LAYOUT.values as usize;
        self.at.as_ptr().wrapping_add(at).cast()
    }

    /// Where the address of its first child is.
    #[inline]
    pub(super) fn children(self) -> *mut u64 {
        let at = Tree::<K, V>::LAYOUT.children as usize;
        self.at.as_ptr().wrapping_add(at).cast()
    }

    /// A key; the index is below the length.
    #[inline]
    pub(crate) fn key(self, index: usize) -> *mut K {
        self.keys().wrapping_add(index)
    }

    /// A value; the index is below the length.
    #[inline]
    pub(crate) fn value(self, index: usize) -> *mut V {
        self.values().wrapping_add(index)
    }

    /// A child; the level is above 0, the index at most the length.
    #[inline]
    pub(crate) unsafe fn child(self, index: usize) -> Node<K, V> {
        // SAFETY: the promise of all methods; a child's address is not 0.
        unsafe {
            let address = self.children().add(index).read();
            let at = ptr::with_exposed_provenance_mut(address as usize);
            Node::in_block(NonNull::new_unchecked(at))
        }
    }

    /// Says where a child is from now on, which has been copied there byte by byte.
    pub(crate) unsafe fn set_child(self, index: usize, child: Node<K, V>) {
        // SAFETY: the promise of all methods.
        unsafe { self.children().add(index).write(child.to_raw()) }
    }

    /// Where `key` is, or would be inserted. At most the length, whatever `Ord` says.
    #[inline(always)]
    pub(super) unsafe fn search<Q: Ord + ?Sized>(self, key: &Q) -> (usize, bool)
    where
        K: Borrow<Q>,
    {
        // SAFETY: the promise of all methods.
        let keys = unsafe { std::slice::from_raw_parts(self.keys(), self.len()) };
        if is_cheap::<K>() {
            // Their number does not depend on a branch.
            let less = |k: &K| usize::from(k.borrow().cmp(key) == Ordering::Less);
            let index = keys.iter().map(less).sum();
            let found = keys
                .get(index)
                .is_some_and(|k: &K| Ordering::Equal == k.borrow().cmp(key));
            return (index, found);
        }
        // All lines at once: the search would wait for one after the other.
        prefetch(keys.as_ptr(), keys.len());
        let (mut low, mut high) = (0, keys.len());
        while low < high {
            let middle = (low + high) / 2;
            match keys[middle].borrow().cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return (middle, true),
                Ordering::Greater => high = middle,
            }
        }
        (low, false)
    }

    /// Asks for the memory of the values from `index` on, which are about to be moved.
    #[inline]
    pub(crate) unsafe fn prefetch_values(self, index: usize) {
        // SAFETY: the promise of all methods.
        let len = unsafe { self.len() };
        prefetch(self.value(index), len.saturating_sub(index));
    }

    /// Zeroes the places without an entry: a block that moves into the region goes as it is, and ordinary memory
    /// may hold what is nobody's business there.
    pub(crate) unsafe fn zero_vacant(self) {
        let layout = Tree::<K, V>::LAYOUT;
        // SAFETY: the promise of all methods; within the block.
        unsafe {
            let (len, start) = (self.len(), self.at.as_ptr());
            let zero = |from: *mut u8, to: u64| {
                let from = from.addr() - start.addr();
                start.add(from).write_bytes(0, to as usize - from);
            };
            zero(start.add(size_of::<RawNode>()), layout.keys);
            zero(self.key(len).cast(), layout.values);
            zero(self.value(len).cast(), layout.children);
            if self.level() > 0 {
                zero(self.children().add(len + 1).cast(), layout.size);
            }
        }
    }
}

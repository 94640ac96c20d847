//! How a [`PBTreeMap`] is described, and moves into the region and out of it: its nodes as they are, byte by
//! byte, and then the addresses in them. When values of a stored map change their type, the nodes are made anew, in the
//! same order; when keys do, each looks for its place, and no two may have become equal. (So a map asks of its keys that
//! they have an order, to be `Persist`.) All of it is as deep as the tree has levels, which are few.

use super::PBTreeMap;
use crate::error::Result;
use crate::persist::{Adopt, Evict, Import, Match, Persist, Release, matches};
use crate::raw::tree::{Node, Tree};
use bartender_heap::layout::{RawNode, RawTree};
use bartender_heap::types::{Kind, NodeLayout, SchemaBuilder, Type, TypeRef};
use std::ptr::{self, NonNull};

/// Describes a tree.
pub(crate) fn describe<T: 'static, K: Persist, V: Persist>(
    b: &mut SchemaBuilder,
    name: &str,
) -> TypeRef {
    b.define::<T>(|b| {
        let kind = Kind::Tree {
            key: K::describe(b),
            value: V::describe(b),
            cap: Tree::<K, V>::CAP as u64,
        };
        Type::of::<T>(name, kind)
    })
}

// SAFETY: the layout is that of `RawTree`; each node moves whole, and each entry is queued once.
unsafe impl<K: Persist + Ord, V: Persist> Persist for PBTreeMap<K, V> {
    const HAS_POINTERS: bool = true;
    const HAS_LOCKS: bool = false;

    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        describe::<Self, K, V>(b, "PBTreeMap")
    }

    unsafe fn adopt(this: *mut Self, a: &mut Adopt<'_>) {
        // SAFETY: an owned map, whose nodes are ordinary memory of the layout they say.
        unsafe {
            (*this).tree.move_nodes(&mut |node| {
                let layout = node.layout();
                node.zero_vacant();
                let node = Node::in_block(a.move_block(node.block(), layout, layout.size()));
                a.elements(node.keys(), node.len());
                a.elements(node.values(), node.len());
                node
            });
        }
    }

    unsafe fn evict(this: *mut Self, e: &mut Evict<'_>) {
        // SAFETY: a copy of a stored map, whose nodes have the layout they say.
        unsafe {
            let mut held = true;
            (*this).tree.each_node(&mut |node| {
                let len = node.len();
                held &= e.hold((0..len).map(|i| node.key(i)));
                held &= e.hold((0..len).map(|i| node.value(i)));
            });
            if !held {
                return;
            }
            (*this).tree.move_nodes(&mut |node| {
                let layout = node.layout();
                let node = Node::in_block(e.move_block(node.block(), layout, layout.size()));
                e.elements(node.keys(), node.len());
                e.elements(node.values(), node.len());
                node
            });
        }
    }

    unsafe fn release(this: *const Self, r: &mut Release<'_>) {
        // SAFETY: a stored map, whose nodes have the layout they say; they are freed when the transaction is durable.
        unsafe {
            (*this).tree.each_node(&mut |node| {
                r.elements(node.keys(), node.len());
                r.elements(node.values(), node.len());
                r.tx().free(node.block());
            });
        }
    }

    unsafe fn for_each_lock(_this: *const Self, _f: &mut dyn FnMut(usize)) {}

    unsafe fn zero_padding(_this: *mut Self) {}

    fn parts_match(m: &mut Match<'_>, ty: TypeRef) -> bool {
        parts_match::<K, V>(m, ty, "PBTreeMap")
    }

    unsafe fn import_parts(i: &mut Import<'_>, ty: TypeRef, at: *const u8) -> Result<Self> {
        let Kind::Tree { key, value, cap } = *i.kind(ty) else {
            return Err(i.refused::<Self>(ty));
        };
        let sizes = |ty| (i.size(ty) as u64, i.align(ty) as u64);
        let stored = Stored {
            key,
            value,
            stays: i.stays::<K>(key),
            sizes: (i.size(key), i.size(value)),
            layout: NodeLayout::new(cap, sizes(key), sizes(value)),
        };
        let mut map = PBTreeMap::new();
        // SAFETY: a stored map with nodes of the stored layout.
        unsafe {
            let raw = at.cast::<RawTree>().read();
            if raw.root != 0 {
                import_node(i, &stored, raw.root, &mut map)?;
            }
        }
        Ok(map)
    }
}

/// Whether the stored type `ty` is a tree of this name, whose keys and values become those of the program.
pub(crate) fn parts_match<K: Persist, V: Persist>(
    m: &mut Match<'_>,
    ty: TypeRef,
    name: &str,
) -> bool {
    match *m.kind(ty) {
        Kind::Tree { key, value, .. } => {
            m.is_named(ty, name) && matches::<K>(m, key) && matches::<V>(m, value)
        }
        _ => false,
    }
}

/// A stored tree's types, and how they lie in its nodes.
struct Stored {
    key: TypeRef,
    value: TypeRef,
    /// Keys do not change their type, so neither their order.
    stays: bool,
    sizes: (usize, usize),
    layout: NodeLayout,
}

/// Takes the entries below a stored node, in their order, and gives its block back.
///
/// # Safety
///
/// At the address lies a node of a stored tree of these types.
unsafe fn import_node<K: Persist + Ord, V: Persist>(
    i: &mut Import<'_>,
    stored: &Stored,
    address: u64,
    map: &mut PBTreeMap<K, V>,
) -> Result<()> {
    let at: *mut u8 = ptr::with_exposed_provenance_mut(address as usize);
    // SAFETY: the caller's promise; entries and children are as many as the node says.
    unsafe {
        let RawNode { len, level } = at.cast::<RawNode>().read();
        let part = |start: u64, size: usize, n: usize| at.add(start as usize + n * size);
        for n in 0..=len as usize {
            if level > 0 {
                let child = part(stored.layout.children, 8, n).cast::<u64>().read();
                import_node(i, stored, child, map)?;
            }
            if n < len as usize {
                let (key, value) = i.inside(|i| {
                    let key = part(stored.layout.keys, stored.sizes.0, n);
                    let value = part(stored.layout.values, stored.sizes.1, n);
                    Ok((
                        i.value::<K>(stored.key, key)?,
                        i.value::<V>(stored.value, value)?,
                    ))
                })?;
                if stored.stays {
                    map.push_back(key, value);
                } else if map.insert(key, value).is_some() {
                    return Err(i.became_equal::<K>(stored.key));
                }
            }
        }
        i.tx().free(NonNull::new_unchecked(at));
    }
    Ok(())
}

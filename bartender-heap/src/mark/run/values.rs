//! What is in the values of one block: checking each by its compiled form, and
//! noting the blocks that it leads to. Which block comes next, `run` says.

use super::{Bad, Found, Piece, Task, Worker};
use crate::block::Blocks;
use crate::mark::fault::Fault;
use crate::mark::program::{Body, Elem, Form, NOT_LINKED, Op, PLAIN};
use crate::mark::view::{
    self, Target, Text, check_below, check_bool, check_char, check_lock, check_nonzero, check_text,
    is_full, u64_at, uint_at,
};
use crate::types::NoneForm;

impl<'s, B: Blocks> Worker<'s, B> {
    /// Visits the values of `size` bytes that fill `values`, which lie at home offset `base`.
    pub(super) fn values(
        &mut self,
        body: Body,
        values: &'s [u8],
        size: usize,
        base: u64,
    ) -> Result<(), Bad> {
        let program = self.program;
        let ops = &program.bodies[body as usize];
        if let [Op::Bool { .. }] = **ops
            && size == 1
        {
            return Ok(values.iter().try_for_each(|&byte| check_bool(byte))?);
        }
        for (i, value) in values.chunks_exact(size).enumerate() {
            self.value(ops, value, base + (i * size) as u64)?;
        }
        Ok(())
    }

    /// Checks and follows what one value holds, which lies at home offset `base`.
    fn value(&mut self, ops: &'s [Op], value: &'s [u8], base: u64) -> Result<(), Bad> {
        let program = self.program;
        for op in ops {
            match *op {
                Op::Bool { at } => check_bool(value[at as usize])?,
                Op::Char { at } => check_char(uint_at(value, at as usize, 4) as u32)?,
                Op::Nonzero { at, size } => {
                    check_nonzero(&value[at as usize..(at + size) as usize])?;
                }
                Op::Below { at, size, end } => {
                    check_below(uint_at(value, at as usize, size as usize), end)?;
                }
                Op::Lock { at } => check_lock(u64_at(value, at as usize))?,
                Op::Box { at, elem, or_null } => {
                    let ptr = u64_at(value, at as usize);
                    if !(or_null && ptr == 0) {
                        let Elem {
                            size, align, body, ..
                        } = program.elems[elem as usize];
                        if let Some(target) = self.view.boxed(ptr, size, align)? {
                            self.shared.blocks.pointer(base + at);
                            match self.program.elems[elem as usize].linked {
                                NOT_LINKED => self.block_of(elem, body, target)?,
                                linked => self.found.push(Found {
                                    offset: target.offset,
                                    linked,
                                }),
                            }
                        }
                    }
                }
                Op::Shared { at, elem } => {
                    let Elem {
                        size, align, body, ..
                    } = program.elems[elem as usize];
                    let ptr = u64_at(value, at as usize);
                    if let Some(target) = self.view.boxed(ptr, size, align)? {
                        self.shared.blocks.pointer(base + at);
                        let counted = &self.shared.counted;
                        if counted.meet(self.view, target.offset, elem)? {
                            self.block_of(elem, body, target)?;
                        }
                    }
                }
                Op::Vec { at, elem } => {
                    let Elem {
                        size, align, body, ..
                    } = program.elems[elem as usize];
                    let raw = &value[at as usize..];
                    if let Some(target) = self.view.vec(raw, size, align)? {
                        self.shared.blocks.pointer(base + at);
                        self.block_of(elem, body, target)?;
                    }
                }
                Op::Slice { at, elem } => {
                    let Elem {
                        size, align, body, ..
                    } = program.elems[elem as usize];
                    let raw = &value[at as usize..];
                    if let Some(target) = self.view.slice(raw, size, align)? {
                        self.shared.blocks.pointer(base + at);
                        self.block_of(elem, body, target)?;
                    }
                }
                Op::Deque { at, elem } => {
                    let Elem {
                        size, align, body, ..
                    } = program.elems[elem as usize];
                    let raw = &value[at as usize..];
                    match self.view.deque(raw, size, align)? {
                        None => {}
                        Some((target, _)) if body == PLAIN => {
                            self.shared.blocks.pointer(base + at);
                            self.block_of(elem, body, target)?;
                        }
                        Some((target, _)) => {
                            self.shared.blocks.pointer(base + at);
                            self.stack.push(Piece {
                                offset: target.offset,
                                a: target.need,
                                b: base + at,
                                task: Task::Ring { elem },
                            });
                        }
                    }
                }
                Op::Text { at } => match self.view.text(&value[at as usize..])? {
                    Text::Short(text) => check_text(text)?,
                    Text::Long(target) => self.text(target, base + at),
                },
                Op::TextSlice { at } => {
                    let target = self.view.slice(&value[at as usize..], 1, 1)?;
                    self.text(target, base + at);
                }
                Op::Map { at, map } => {
                    let entry = &program.maps[map as usize].entry;
                    if let Some((target, _)) = self.view.table(&value[at as usize..], entry)? {
                        self.shared.blocks.pointer(base + at);
                        self.stack.push(Piece {
                            offset: target.offset,
                            a: target.need,
                            b: base + at,
                            task: Task::Table { map },
                        });
                    }
                }
                Op::Tree { at, tree } => {
                    let node = &program.trees[tree as usize].node;
                    if let Some(target) = self.view.tree(&value[at as usize..], node)? {
                        self.found_node(tree, target, base + at, base + at);
                    }
                }
                Op::Option { at, form, body } => {
                    let form = &program.forms[form as usize];
                    let inner = &value[at as usize..(at + form.size) as usize];
                    if is_some(form, inner)? && body != PLAIN {
                        self.value(&program.bodies[body as usize], inner, base + at)?;
                    }
                }
                Op::Switch { at, cases } => {
                    let cases = &program.cases[cases as usize];
                    let inner = &value[at as usize..(at + cases.size) as usize];
                    let tag = uint_at(inner, cases.tag_offset, cases.tag_size);
                    let body = variant(&cases.by_tag, tag)?;
                    if body != PLAIN {
                        self.value(&program.bodies[body as usize], inner, base + at)?;
                    }
                }
                Op::Array { at, elem, len } => {
                    let Elem { size, body, .. } = program.elems[elem as usize];
                    let values = &value[at as usize..(at + size * len) as usize];
                    self.values(body, values, size as usize, base + at)?;
                }
                Op::Call { at, size, body } => {
                    let inner = &value[at as usize..(at + size) as usize];
                    self.value(&program.bodies[body as usize], inner, base + at)?;
                }
            }
        }
        Ok(())
    }

    /// A block of `elem`s was found: one that needs no visit is marked at once.
    #[inline]
    fn block_of(&mut self, elem: u32, body: Body, target: Target) -> Result<(), Bad> {
        if body == PLAIN {
            let blocks = self.shared.blocks;
            let block = self.view.locate(blocks, target.offset, target.need)?;
            return self.claim(&block);
        }
        self.stack.push(Piece::block(elem, target));
        Ok(())
    }

    /// A text was found, by the pointer at home offset `at`, if it has a block.
    fn text(&mut self, target: Option<Target>, at: u64) {
        if let Some(target) = target {
            self.shared.blocks.pointer(at);
            self.stack.push(Piece {
                offset: target.offset,
                a: target.need,
                b: target.count,
                task: Task::Text,
            });
        }
    }

    /// Visits the elements of the ring at home offset `at`, whose block is marked.
    pub(super) fn ring(&mut self, elem: u32, at: u64) -> Result<(), Bad> {
        let Elem { size, align, .. } = self.program.elems[elem as usize];
        let raw = self.view.range(at, view::DEQUE_SIZE)?;
        let Some((target, ring)) = self.view.deque(raw, size, align)? else {
            return Ok(());
        };
        let (front, back) = ring.parts();
        self.elems(elem, target.offset + ring.head * size, front)?;
        self.elems(elem, target.offset, back)
    }

    /// Checks the table at home offset `at`, whose block is marked.
    pub(super) fn table(&mut self, map: u32, at: u64) -> Result<(), Bad> {
        let entry = &self.program.maps[map as usize].entry;
        let raw = self.view.range(at, view::TABLE_SIZE)?;
        let Some((target, table)) = self.view.table(raw, entry)? else {
            return Ok(());
        };
        table.check(self.view.range(target.offset, table.ctrl_len())?)?;
        self.buckets(map, at, 0, table.buckets)
    }

    /// The pointer at home offset `at` leads to a node of the tree at `whole`.
    #[inline]
    fn found_node(&mut self, tree: u32, target: Target, at: u64, whole: u64) {
        self.shared.blocks.pointer(at);
        self.stack.push(Piece {
            offset: target.offset,
            a: whole,
            b: target.count,
            task: Task::Node { tree },
        });
    }

    /// Visits the node at home offset `at`, whose block is marked, of the tree at `whole`: its entries now, its children
    /// later.
    pub(super) fn node(&mut self, tree: u32, at: u64, level: u64, whole: u64) -> Result<(), Bad> {
        let program = self.program;
        let kind = &program.trees[tree as usize];
        let len = self.view.node_len(at, level, &kind.node)?;
        self.entries.found(self.view, whole, level, len)?;
        self.elems(kind.key, at + kind.node.keys, len)?;
        self.elems(kind.value, at + kind.node.values, len)?;
        if level == 0 {
            return Ok(());
        }
        let at = at + kind.node.children;
        let children = self.view.range(at, 8 * (len + 1))?;
        for i in 0..=len {
            let ptr = u64_at(children, 8 * i as usize);
            let target = self.view.node(ptr, level - 1, &kind.node)?;
            self.found_node(tree, target, at + 8 * i, whole);
        }
        Ok(())
    }

    /// Visits the entries of the buckets `from..to` of the table at home offset `at`, at most a
    /// chunk of them now.
    pub(super) fn buckets(&mut self, map: u32, at: u64, from: u64, to: u64) -> Result<(), Bad> {
        let program = self.program;
        let kind = &program.maps[map as usize];
        if kind.body == PLAIN {
            return Ok(());
        }
        let raw = self.view.range(at, view::TABLE_SIZE)?;
        let Some((target, table)) = self.view.table(raw, &kind.entry)? else {
            return Ok(());
        };
        let to = self.split(from, to, |from, to| Piece {
            offset: at,
            a: from,
            b: to,
            task: Task::Buckets { map },
        });
        let ctrl = self.view.range(target.offset + from, to - from)?;
        let start = target.offset + table.entries_at(&kind.entry) + from * kind.entry.size;
        let entries = self.view.range(start, (to - from) * kind.entry.size)?;
        let ops = &program.bodies[kind.body as usize];
        let size = kind.entry.size as usize;
        for (i, entry) in entries.chunks_exact(size).enumerate() {
            if is_full(ctrl[i]) {
                self.value(ops, entry, start + (i * size) as u64)?;
            }
        }
        Ok(())
    }
}

/// Whether the option in `value` holds something.
fn is_some(form: &Form, value: &[u8]) -> Result<bool, Fault> {
    match &form.none {
        NoneForm::Niche { offset, bytes } => {
            let offset = *offset as usize;
            Ok(value[offset..offset + bytes.len()] != **bytes)
        }
        NoneForm::Tag {
            offset,
            size,
            none,
            some,
        } => match uint_at(value, *offset as usize, *size as usize) {
            tag if tag == *none => Ok(false),
            tag if tag == *some => Ok(true),
            tag => Err(Fault::Tag(tag)),
        },
    }
}

/// The list of the variant with this tag. Most enums count their variants from 0.
#[inline]
fn variant(by_tag: &[(u64, Body)], tag: u64) -> Result<Body, Fault> {
    if let Some(&(found, body)) = by_tag.get(tag as usize)
        && found == tag
    {
        return Ok(body);
    }
    match by_tag.binary_search_by_key(&tag, |&(tag, _)| tag) {
        Ok(at) => Ok(by_tag[at].1),
        Err(_) => Err(Fault::Tag(tag)),
    }
}

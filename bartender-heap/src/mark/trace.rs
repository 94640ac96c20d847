//! The slow walk: sequential, over the schema itself, with the way from the root to where it is.
//!
//! It runs only when the fast walk has met damage, finds the first one in depth-first order,
//! and describes it. A value's own bytes come before what it points to; elements come in order.
//! It keeps no marks: what it has seen is in a set of its own, so that the [`Blocks`] need not
//! be reset.
//!
//! The way is a chain of [`Node`]s. Jobs are taken from a stack, so the nodes made after a job
//! was put there belong to nobody once it is taken off again, and memory stays proportional to
//! the depth, not to the heap.

use super::counted::Counted;
use super::entries::Entries;
use super::fault::Fault;
use super::view::{
    self, Ring, Text, View, check_below, check_bool, check_char, check_lock, check_nonzero,
    check_text, is_full, u64_at, uint_at,
};
use crate::block::Blocks;
use crate::layout::{HEADER, HeapHeader};
use crate::types::{Field, Kind, NoneForm, Schema, TypeRef};
use std::collections::HashSet;
use std::mem::offset_of;

/// The first damage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) path: String,
    /// Home offset of the bytes that are wrong.
    pub(super) offset: u64,
    pub(super) what: String,
}

/// Finds the first damage on the way from `root`.
pub(super) fn first_damage(
    schema: &Schema,
    root: u64,
    view: View<'_>,
    blocks: &impl Blocks,
) -> Option<Damage> {
    let (fault, node, offset, trace) = Trace::new(schema, view, blocks, None).run(root)?;
    let what = match fault {
        Fault::Shared(ptr) => {
            let block = ptr.wrapping_sub(view.home_base);
            let owner = Trace::new(schema, view, blocks, Some(block)).run(root);
            match owner {
                Some((_, node, _, trace)) => format!(
                    "the block at {ptr:#x} is owned by {} already",
                    trace.path(node)
                ),
                None => fault.to_string(),
            }
        }
        // Met at the end, when the way is gone: it is that to the block, or to the tree's first one.
        Fault::Count { .. } | Fault::Entries { .. } => {
            let (offset, block) = match fault {
                Fault::Entries { tree, .. } => {
                    let first = view.range(tree, 8).map_or(0, |word| u64_at(word, 0));
                    (tree, view.follow(first, 1).unwrap_or(0))
                }
                _ => (offset, offset),
            };
            let owner = Trace::new(schema, view, blocks, Some(block)).run(root);
            let path = owner.map(|(_, node, _, trace)| trace.path(node));
            return Some(Damage {
                path: path.unwrap_or_else(|| "root".into()),
                offset,
                what: fault.to_string(),
            });
        }
        fault => fault.to_string(),
    };
    Some(Damage {
        path: trace.path(node),
        offset,
        what,
    })
}

/// One step of a way.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step<'a> {
    Field(&'a str),
    Variant(&'a str),
    Index(u64),
    Key(String),
    Slot(u64),
}

/// A step and the number of the node before it.
#[derive(Debug)]
struct Node<'a> {
    before: u32,
    step: Step<'a>,
}

/// Elements in the order in which they stand.
fn in_row(ty: TypeRef, target: view::Target) -> Holds {
    let len = target.count;
    let (cap, head) = (len, 0);
    Holds::Many(ty, Ring { cap, head, len })
}

/// The node of the root.
const ROOT: u32 = u32::MAX;
/// Steps of a way that are shown at either end.
const SHOWN: usize = 24;

/// Something to visit.
#[derive(Debug, Clone, Copy)]
struct Job {
    task: Task,
    /// The node of what is visited.
    node: u32,
    /// Nodes that are in use below this job on the stack.
    keep: usize,
}

#[derive(Debug, Clone, Copy)]
enum Task {
    /// A block that the pointer at `from` leads to.
    Block {
        offset: u64,
        need: u64,
        from: u64,
        holds: Holds,
    },
    /// The elements from `next` on of those at `offset`.
    Elems {
        ty: TypeRef,
        offset: u64,
        next: u64,
        ring: Ring,
    },
    /// The node at `offset` of the tree at `tree`, from its entry `next` on, and then its children.
    Node {
        ty: TypeRef,
        tree: u64,
        offset: u64,
        level: u64,
        next: u64,
    },
    /// The buckets from `next` on of the table at `at`.
    Buckets { ty: TypeRef, at: u64, next: u64 },
}

/// What a block holds.
#[derive(Debug, Clone, Copy)]
enum Holds {
    One(TypeRef),
    Many(TypeRef, Ring),
    Text(u64),
    Table(TypeRef, u64),
    /// The tree's type, where it lies, and the level.
    Node(TypeRef, u64, u64),
}

struct Trace<'a, B> {
    schema: &'a Schema,
    view: View<'a>,
    blocks: &'a B,
    /// Stop at the first way to this block.
    goal: Option<u64>,
    seen: HashSet<u64>,
    counted: Counted,
    entries: Entries,
    nodes: Vec<Node<'a>>,
    stack: Vec<Job>,
    /// Jobs found by the one at work, in order.
    found: Vec<Job>,
}

/// A fault, and the node and home offset where it is.
type At = (Fault, u32, u64);

impl<'a, B: Blocks> Trace<'a, B> {
    fn new(schema: &'a Schema, view: View<'a>, blocks: &'a B, goal: Option<u64>) -> Self {
        Trace {
            schema,
            view,
            blocks,
            goal,
            seen: HashSet::new(),
            counted: Counted::new(),
            entries: Entries::default(),
            nodes: Vec::new(),
            stack: Vec::new(),
            found: Vec::new(),
        }
    }

    fn run(mut self, root: u64) -> Option<(Fault, u32, u64, Self)> {
        if root == 0 {
            return None;
        }
        let from = HEADER + offset_of!(HeapHeader, root) as u64;
        if let Err(fault) = self.boxed(self.schema.root(), root, ROOT, from) {
            return Some((fault, ROOT, from, self));
        }
        loop {
            let keep = self.nodes.len();
            for mut job in self.found.drain(..).rev() {
                job.keep = job.keep.max(keep);
                self.stack.push(job);
            }
            let Some(job) = self.stack.pop() else {
                let counts = self.counted.finish(self.view);
                let wrong = counts.and_then(|()| self.entries.finish(self.view)).err()?;
                let at = match wrong {
                    Fault::Count { ptr, .. } => ptr.wrapping_sub(self.view.home_base),
                    Fault::Entries { tree, .. } => tree,
                    _ => 0,
                };
                return Some((wrong, ROOT, at, self));
            };
            self.nodes.truncate(job.keep);
            if let Err((fault, node, offset)) = self.job(job) {
                return Some((fault, node, offset, self));
            }
        }
    }

    fn job(&mut self, job: Job) -> Result<(), At> {
        let node = job.node;
        match job.task {
            Task::Block {
                offset,
                need,
                from,
                holds,
            } => {
                let at = |fault| (fault, node, from);
                self.view.locate(self.blocks, offset, need).map_err(at)?;
                if self.goal == Some(offset) || !self.seen.insert(offset) {
                    return Err(at(Fault::Shared(self.view.address(offset))));
                }
                match holds {
                    Holds::One(ty) => {
                        let size = self.schema.get(ty).size;
                        let value = self.view.range(offset, size).map_err(at)?;
                        self.value(ty, value, node, offset)
                    }
                    Holds::Many(ty, ring) => self.elems(ty, offset, 0, ring, node),
                    Holds::Text(len) => {
                        let text = self.view.range(offset, len).map_err(at)?;
                        check_text(text).map_err(|fault| (fault, node, offset))
                    }
                    Holds::Table(ty, table) => {
                        self.table(ty, table, node)?;
                        self.buckets(ty, table, 0, node)
                    }
                    Holds::Node(ty, tree, level) => self.node(ty, tree, offset, level, 0, node),
                }
            }
            Task::Elems {
                ty,
                offset,
                next,
                ring,
            } => self.elems(ty, offset, next, ring, node),
            Task::Node {
                ty,
                tree,
                offset,
                level,
                next,
            } => self.node(ty, tree, offset, level, next, node),
            Task::Buckets { ty, at, next } => self.buckets(ty, at, next, node),
        }
    }

    fn step(&mut self, before: u32, step: Step<'a>) -> u32 {
        self.nodes.push(Node { before, step });
        u32::try_from(self.nodes.len() - 1).unwrap_or(ROOT - 1)
    }

    fn block(&mut self, target: view::Target, holds: Holds, node: u32, from: u64) {
        self.found.push(Job {
            task: Task::Block {
                offset: target.offset,
                need: target.need,
                from,
                holds,
            },
            node,
            keep: 0,
        });
    }

    fn boxed(&mut self, ty: TypeRef, ptr: u64, node: u32, from: u64) -> Result<(), Fault> {
        let this = self.schema.get(ty);
        // A root without bytes has a block all the same.
        let size = this.size.max(u64::from(node == ROOT));
        if let Some(target) = self.view.boxed(ptr, size, this.align)? {
            self.block(target, Holds::One(ty), node, from);
        }
        Ok(())
    }

    /// Visits elements until one leads somewhere: what it leads to comes before the next one.
    fn elems(
        &mut self,
        ty: TypeRef,
        offset: u64,
        next: u64,
        ring: Ring,
        node: u32,
    ) -> Result<(), At> {
        let size = self.schema.get(ty).size;
        let keep = self.nodes.len();
        for i in next..ring.len {
            self.nodes.truncate(keep);
            let at = offset + ring.place(i) * size;
            let value = self.view.range(at, size).map_err(|f| (f, node, at))?;
            let here = self.step(node, Step::Index(i));
            self.value(ty, value, here, at)?;
            if !self.found.is_empty() {
                self.later(
                    Task::Elems {
                        ty,
                        offset,
                        next: i + 1,
                        ring,
                    },
                    node,
                    keep,
                );
                break;
            }
        }
        Ok(())
    }

    /// Puts a job below those that were found just now; the nodes up to `keep` are its own.
    fn later(&mut self, task: Task, node: u32, keep: usize) {
        self.stack.push(Job { task, node, keep });
    }

    fn table(&mut self, ty: TypeRef, at: u64, node: u32) -> Result<(), At> {
        let Kind::Map { entry, .. } = &self.schema.get(ty).kind else {
            unreachable!("only maps hold tables");
        };
        let wrong = |fault| (fault, node, at);
        let raw = self.view.range(at, view::TABLE_SIZE).map_err(wrong)?;
        if let Some((target, table)) = self.view.table(raw, entry).map_err(wrong)? {
            let ctrl = self.view.range(target.offset, table.ctrl_len());
            ctrl.and_then(|ctrl| table.check(ctrl)).map_err(wrong)?;
        }
        Ok(())
    }

    /// Visits entries until one leads somewhere.
    fn buckets(&mut self, ty: TypeRef, at: u64, next: u64, node: u32) -> Result<(), At> {
        let Kind::Map { key, value, entry } = self.schema.get(ty).kind else {
            unreachable!("only maps hold tables");
        };
        let wrong = |fault| (fault, node, at);
        let raw = self.view.range(at, view::TABLE_SIZE).map_err(wrong)?;
        let Some((target, table)) = self.view.table(raw, &entry).map_err(wrong)? else {
            return Ok(());
        };
        let ctrl = self
            .view
            .range(target.offset, table.buckets)
            .map_err(wrong)?;
        let start = target.offset + table.entries_at(&entry);
        let keep = self.nodes.len();
        for bucket in next..table.buckets {
            if !is_full(ctrl[bucket as usize]) {
                continue;
            }
            self.nodes.truncate(keep);
            let here = start + bucket * entry.size;
            let bytes = self.view.range(here, entry.size).map_err(wrong)?;
            let slot = self.step(node, Step::Slot(bucket));
            self.value(key, bytes, slot, here)?;
            let shown = match self.key(key, bytes) {
                Some(shown) => Step::Key(shown),
                None => Step::Slot(bucket),
            };
            let shown = self.step(node, shown);
            let offset = entry.value_offset;
            let bytes = &bytes[offset as usize..];
            self.value(value, bytes, shown, here + offset)?;
            if !self.found.is_empty() {
                let next = bucket + 1;
                self.later(Task::Buckets { ty, at, next }, node, keep);
                break;
            }
        }
        Ok(())
    }

    /// Visits the entries of a node until one leads somewhere, and then notes its children.
    fn node(
        &mut self,
        ty: TypeRef,
        tree: u64,
        offset: u64,
        level: u64,
        next: u64,
        node: u32,
    ) -> Result<(), At> {
        let Kind::Tree { key, value, cap } = self.schema.get(ty).kind else {
            unreachable!("only trees have nodes");
        };
        let layout = self.schema.node(key, value, cap);
        let wrong = |fault| (fault, node, offset);
        let len = self.view.node_len(offset, level, &layout).map_err(wrong)?;
        if next == 0 {
            let found = self.entries.found(self.view, tree, level, len);
            found.map_err(wrong)?;
        }
        let (key_size, value_size) = (self.schema.get(key).size, self.schema.get(value).size);
        let keep = self.nodes.len();
        for i in next..len {
            self.nodes.truncate(keep);
            let at = offset + layout.keys + i * key_size;
            let bytes = self.view.range(at, key_size).map_err(wrong)?;
            let slot = self.step(node, Step::Slot(i));
            self.value(key, bytes, slot, at)?;
            let shown = match self.key(key, bytes) {
                Some(shown) => Step::Key(shown),
                None => Step::Slot(i),
            };
            let shown = self.step(node, shown);
            let at = offset + layout.values + i * value_size;
            let bytes = self.view.range(at, value_size).map_err(wrong)?;
            self.value(value, bytes, shown, at)?;
            if !self.found.is_empty() {
                let next = i + 1;
                let task = Task::Node {
                    ty,
                    tree,
                    offset,
                    level,
                    next,
                };
                self.later(task, node, keep);
                return Ok(());
            }
        }
        self.nodes.truncate(keep);
        if level == 0 {
            return Ok(());
        }
        for i in 0..=len {
            let at = offset + layout.children + 8 * i;
            let ptr = self.view.range(at, 8).map_err(wrong)?;
            let child = self.view.node(u64_at(ptr, 0), level - 1, &layout);
            let child = child.map_err(|fault| (fault, node, at))?;
            self.block(child, Holds::Node(ty, tree, level - 1), node, at);
        }
        Ok(())
    }

    /// A key in words, when it has short ones.
    fn key(&self, ty: TypeRef, value: &[u8]) -> Option<String> {
        let this = self.schema.get(ty);
        match this.kind {
            Kind::Int { signed, .. } if this.size <= 8 => {
                let number = uint_at(value, 0, this.size as usize);
                let unused = 64 - 8 * this.size as u32;
                Some(match signed {
                    true => ((number << unused) as i64 >> unused).to_string(),
                    false => number.to_string(),
                })
            }
            Kind::Bool => Some((value[0] != 0).to_string()),
            Kind::Char => {
                let letter = char::from_u32(uint_at(value, 0, 4) as u32)?;
                Some(format!("{letter:?}"))
            }
            Kind::Str => {
                let text = match self.view.text(value).ok()? {
                    Text::Short(text) => text,
                    // A key that its block could not hold will be reported; here it is only not
                    // shown.
                    Text::Long(Some(target)) if target.count <= 80 => {
                        self.view
                            .locate(self.blocks, target.offset, target.need)
                            .ok()?;
                        self.view.range(target.offset, target.count).ok()?
                    }
                    Text::Long(Some(_)) => return None,
                    Text::Long(None) => &[],
                };
                Some(format!("{:?}", std::str::from_utf8(text).ok()?))
            }
            _ => None,
        }
    }

    fn fields(
        &mut self,
        fields: &'a [Field],
        value: &[u8],
        node: u32,
        base: u64,
    ) -> Result<(), At> {
        for field in fields {
            let (nodes, found) = (self.nodes.len(), self.found.len());
            let here = self.step(node, Step::Field(&field.name));
            let part = &value[field.offset as usize..];
            self.value(field.ty, part, here, base + field.offset)?;
            if self.found.len() == found {
                self.nodes.truncate(nodes);
            }
        }
        Ok(())
    }

    /// Checks the value of type `ty` that `value` starts with, which lies at home offset `base`.
    fn value(&mut self, ty: TypeRef, value: &[u8], node: u32, base: u64) -> Result<(), At> {
        let wrong = |fault| (fault, node, base);
        let this = self.schema.get(ty);
        if this.size == 0 {
            return Ok(());
        }
        match &this.kind {
            Kind::Int { nonzero: true, .. } => {
                check_nonzero(&value[..this.size as usize]).map_err(wrong)
            }
            Kind::Int { nonzero: false, .. } | Kind::Atomic { .. } => Ok(()),
            Kind::Float | Kind::Opaque | Kind::Untyped => Ok(()),
            Kind::Below { end } => {
                let number = uint_at(value, 0, this.size as usize);
                check_below(number, *end).map_err(wrong)
            }
            Kind::Bool => check_bool(value[0]).map_err(wrong),
            Kind::Char => check_char(uint_at(value, 0, 4) as u32).map_err(wrong),
            Kind::Struct { fields } | Kind::Tuple { fields } => {
                self.fields(fields, value, node, base)
            }
            Kind::Enum {
                tag_offset,
                tag_size,
                variants,
            } => {
                let tag = uint_at(value, *tag_offset as usize, *tag_size as usize);
                let Some(variant) = variants.iter().find(|variant| variant.tag == tag) else {
                    return Err((Fault::Tag(tag), node, base + tag_offset));
                };
                let here = self.step(node, Step::Variant(&variant.name));
                self.fields(&variant.fields, value, here, base)
            }
            Kind::Option {
                payload,
                offset,
                none,
            } => {
                let some = match none {
                    NoneForm::Niche { offset, bytes } => {
                        value[*offset as usize..][..bytes.len()] != **bytes
                    }
                    NoneForm::Tag {
                        offset,
                        size,
                        none,
                        some,
                    } => {
                        let tag = uint_at(value, *offset as usize, *size as usize);
                        if tag != *none && tag != *some {
                            return Err((Fault::Tag(tag), node, base + offset));
                        }
                        tag == *some
                    }
                };
                match some {
                    true => self.value(*payload, &value[*offset as usize..], node, base + offset),
                    false => Ok(()),
                }
            }
            Kind::Array { elem, len } => {
                let size = self.schema.get(*elem).size;
                for i in 0..*len {
                    let (nodes, found) = (self.nodes.len(), self.found.len());
                    let here = self.step(node, Step::Index(i));
                    let part = &value[(i * size) as usize..];
                    self.value(*elem, part, here, base + i * size)?;
                    if self.found.len() == found {
                        self.nodes.truncate(nodes);
                    }
                }
                Ok(())
            }
            Kind::Shared { elem } => {
                let ptr = u64_at(value, 0);
                let block = self.schema.get(*elem);
                let target = self.view.boxed(ptr, block.size, block.align);
                if let Some(target) = target.map_err(wrong)? {
                    let number = elem.index() as u32;
                    let first = self.counted.meet(self.view, target.offset, number);
                    if first.map_err(wrong)? {
                        self.block(target, Holds::One(*elem), node, base);
                    }
                }
                Ok(())
            }
            Kind::Box { elem } | Kind::Rcu { elem } => {
                let ptr = u64_at(value, 0);
                self.boxed(*elem, ptr, node, base).map_err(wrong)
            }
            Kind::Vec { elem } => {
                let of = self.schema.get(*elem);
                let target = self.view.vec(value, of.size, of.align).map_err(wrong)?;
                if let Some(target) = target {
                    self.block(target, in_row(*elem, target), node, base);
                }
                Ok(())
            }
            Kind::Slice { elem } => {
                let of = self.schema.get(*elem);
                let target = self.view.slice(value, of.size, of.align);
                if let Some(target) = target.map_err(wrong)? {
                    self.block(target, in_row(*elem, target), node, base);
                }
                Ok(())
            }
            Kind::Deque { elem } => {
                let of = self.schema.get(*elem);
                let target = self.view.deque(value, of.size, of.align);
                if let Some((target, ring)) = target.map_err(wrong)? {
                    self.block(target, Holds::Many(*elem, ring), node, base);
                }
                Ok(())
            }
            Kind::StrSlice => {
                if let Some(target) = self.view.slice(value, 1, 1).map_err(wrong)? {
                    self.block(target, Holds::Text(target.count), node, base);
                }
                Ok(())
            }
            Kind::Str => {
                match self.view.text(value).map_err(wrong)? {
                    Text::Short(text) => check_text(text).map_err(wrong)?,
                    Text::Long(Some(target)) => {
                        self.block(target, Holds::Text(target.count), node, base);
                    }
                    Text::Long(None) => {}
                }
                Ok(())
            }
            Kind::Map { entry, .. } => {
                if let Some((target, _)) = self.view.table(value, entry).map_err(wrong)? {
                    self.block(target, Holds::Table(ty, base), node, base);
                }
                Ok(())
            }
            Kind::Tree {
                key,
                value: of,
                cap,
            } => {
                let layout = self.schema.node(*key, *of, *cap);
                if let Some(target) = self.view.tree(value, &layout).map_err(wrong)? {
                    let holds = Holds::Node(ty, base, target.count);
                    self.block(target, holds, node, base);
                }
                Ok(())
            }
            Kind::Lock { inner, offset, .. } => {
                check_lock(u64_at(value, 0)).map_err(wrong)?;
                self.value(*inner, &value[*offset as usize..], node, base + offset)
            }
        }
    }

    /// The way to a node, as a programmer writes it. A very long one is shown by its ends.
    fn path(&self, node: u32) -> String {
        let mut steps = Vec::new();
        let mut node = node;
        while let Some(here) = self.nodes.get(node as usize) {
            steps.push(&here.step);
            node = here.before;
        }
        steps.reverse();
        let mut out = String::new();
        for (i, step) in steps.iter().enumerate() {
            if steps.len() > 2 * SHOWN && (SHOWN..steps.len() - SHOWN).contains(&i) {
                if i == SHOWN {
                    out.push_str(&format!(" … {} more … ", steps.len() - 2 * SHOWN));
                }
                continue;
            }
            if i == 0 && !matches!(step, Step::Field(_)) {
                out.push_str("root");
            }
            match step {
                Step::Field(name) if i == 0 => out.push_str(name),
                Step::Field(name) => out.push_str(&format!(".{name}")),
                Step::Variant(name) => out.push_str(&format!("::{name}")),
                Step::Index(index) => out.push_str(&format!("[{index}]")),
                Step::Key(key) => out.push_str(&format!("{{key {key}}}")),
                Step::Slot(slot) => out.push_str(&format!("[slot {slot}]")),
            }
        }
        match out.is_empty() {
            true => "root".into(),
            false => out,
        }
    }
}

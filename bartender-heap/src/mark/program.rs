//! The compiled form of a schema: for each type the list of what must be checked or followed in
//! a value, with offsets, and nothing for the rest. A type with an empty list is *plain*:
//! arrays and vectors of it are skipped wholesale.
//!
//! Small parts are copied into the list of their whole; larger ones are called, so that the
//! lists stay as small as the schema.

use crate::types::{EntryLayout, Field, Kind, NodeLayout, NoneForm, Schema, TypeRef};

/// The list of a type; [`PLAIN`] for an empty one.
pub(super) type Body = u32;
/// Nothing to check, nothing to follow.
pub(super) const PLAIN: Body = u32::MAX;
/// Lists up to this long are copied.
const COPIED: usize = 16;

/// One thing to do with a value. `at` is an offset from the start of the value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    Bool {
        at: u64,
    },
    Char {
        at: u64,
    },
    Nonzero {
        at: u64,
        size: u64,
    },
    Below {
        at: u64,
        size: u32,
        end: u64,
    },
    Lock {
        at: u64,
    },
    /// A box, or an option of one when `or_null`.
    Box {
        at: u64,
        elem: u32,
        or_null: bool,
    },
    /// A block with several owners.
    Shared {
        at: u64,
        elem: u32,
    },
    Vec {
        at: u64,
        elem: u32,
    },
    /// Elements in a block that they fill.
    Slice {
        at: u64,
        elem: u32,
    },
    Deque {
        at: u64,
        elem: u32,
    },
    Text {
        at: u64,
    },
    /// Text in a block that it fills.
    TextSlice {
        at: u64,
    },
    Map {
        at: u64,
        map: u32,
    },
    Tree {
        at: u64,
        tree: u32,
    },
    Option {
        at: u64,
        form: u32,
        body: Body,
    },
    Switch {
        at: u64,
        cases: u32,
    },
    Array {
        at: u64,
        elem: u32,
        len: u64,
    },
    Call {
        at: u64,
        size: u64,
        body: Body,
    },
}

/// A type whose values hold boxes and nothing else to look at, as most blocks of lists, trees
/// and vectors of boxes do.
#[derive(Debug)]
pub(super) struct Linked {
    pub(super) size: u64,
    pub(super) links: Box<[Link]>,
    /// Its own number if it holds one box of its own type: then it is of a list.
    pub(super) next: Option<u32>,
}

/// A box in such a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    /// In words of 8 bytes, as pointers are aligned.
    pub(super) at: usize,
    /// The alignment of what it holds, less one.
    pub(super) mask: u64,
    /// Bytes of what it holds; not 0.
    pub(super) size: u64,
    pub(super) or_null: bool,
    pub(super) to: To,
}

/// What a box holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum To {
    Plain,
    /// By number in `Program::linked`.
    Linked(u32),
    /// Something else, by its type.
    Other(u32),
}

/// No number in `Program::linked`.
pub(super) const NOT_LINKED: u32 = u32::MAX;

/// A type as the element of something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Elem {
    pub(super) size: u64,
    pub(super) align: u64,
    pub(super) body: Body,
    /// Its number in `Program::linked`.
    pub(super) linked: u32,
}

/// How an option tells `None`.
#[derive(Debug, Clone)]
pub(super) struct Form {
    pub(super) none: NoneForm,
    /// Bytes of the option.
    pub(super) size: u64,
}

/// The variants of an enum.
#[derive(Debug, Clone)]
pub(super) struct Cases {
    /// Bytes of the enum.
    pub(super) size: u64,
    pub(super) tag_offset: usize,
    pub(super) tag_size: usize,
    /// (tag, list), by tag.
    pub(super) by_tag: Vec<(u64, Body)>,
}

/// A kind of table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Map {
    pub(super) entry: EntryLayout,
    pub(super) body: Body,
}

/// A kind of tree: its keys and values by their types, as they stand in arrays.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree {
    pub(super) key: u32,
    pub(super) value: u32,
    pub(super) node: NodeLayout,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Program {
    /// By type of the schema.
    pub(super) elems: Vec<Elem>,
    pub(super) root: u32,
    pub(super) bodies: Vec<Box<[Op]>>,
    pub(super) linked: Vec<Linked>,
    pub(super) forms: Vec<Form>,
    pub(super) cases: Vec<Cases>,
    pub(super) maps: Vec<Map>,
    pub(super) trees: Vec<Tree>,
}

impl Program {
    pub(super) fn compile(schema: &Schema) -> Program {
        let mut compiler = Compiler {
            schema,
            done: vec![None; schema.types().len()],
            program: Program::default(),
        };
        for (index, ty) in schema.types().iter().enumerate() {
            let body = compiler.body(index);
            compiler.program.elems.push(Elem {
                size: ty.size,
                align: ty.align,
                body,
                linked: NOT_LINKED,
            });
        }
        // Entries are compiled at last: keys and values may be types of any number.
        for map in 0..compiler.program.maps.len() {
            compiler.entry(map);
        }
        let mut program = compiler.program;
        program.link();
        program.root = schema.root().index() as u32;
        program
    }
}

impl Program {
    /// Finds the types that are [`Linked`].
    fn link(&mut self) {
        let is_link =
            |op: &Op| matches!(*op, Op::Box { elem, .. } if self.elems[elem as usize].size != 0);
        let mut linked = Vec::new();
        for (ty, elem) in self.elems.iter().enumerate() {
            if elem.body != PLAIN && self.bodies[elem.body as usize].iter().all(is_link) {
                linked.push(ty);
            }
        }
        for (number, &ty) in linked.iter().enumerate() {
            self.elems[ty].linked = number as u32;
        }
        for (number, ty) in linked.into_iter().enumerate() {
            let Elem { size, body, .. } = self.elems[ty];
            let ops = self.bodies[body as usize].iter();
            let links: Box<[Link]> = ops.filter_map(|op| self.link_of(op)).collect();
            let next = match *links {
                [
                    Link {
                        to: To::Linked(to), ..
                    },
                ] if to as usize == number => Some(to),
                _ => None,
            };
            self.linked.push(Linked { size, links, next });
        }
    }

    fn link_of(&self, op: &Op) -> Option<Link> {
        let Op::Box {
            at,
            elem: ty,
            or_null,
        } = *op
        else {
            return None;
        };
        let elem = self.elems[ty as usize];
        let to = match elem {
            Elem { body: PLAIN, .. } => To::Plain,
            Elem {
                linked: NOT_LINKED, ..
            } => To::Other(ty),
            Elem { linked, .. } => To::Linked(linked),
        };
        Some(Link {
            at: at as usize / 8,
            mask: elem.align - 1,
            size: elem.size,
            or_null,
            to,
        })
    }
}

struct Compiler<'a> {
    schema: &'a Schema,
    done: Vec<Option<Body>>,
    program: Program,
}

impl Compiler<'_> {
    /// The list of a type. Recursion is as deep as parts nest, which the schema's rules bound.
    fn body(&mut self, ty: usize) -> Body {
        if let Some(done) = self.done[ty] {
            return done;
        }
        let ops = self.ops(ty);
        let body = self.add(ops);
        self.done[ty] = Some(body);
        body
    }

    fn add(&mut self, ops: Vec<Op>) -> Body {
        if ops.is_empty() {
            return PLAIN;
        }
        self.program.bodies.push(ops.into());
        self.program.bodies.len() as Body - 1
    }

    fn ops(&mut self, ty: usize) -> Vec<Op> {
        let schema = self.schema;
        let this = &schema.types()[ty];
        let mut ops = Vec::new();
        if this.size == 0 {
            return ops;
        }
        match &this.kind {
            Kind::Int { nonzero: true, .. } => ops.push(Op::Nonzero {
                at: 0,
                size: this.size,
            }),
            // Untyped data are marked in another way and never compiled.
            Kind::Int { nonzero: false, .. } | Kind::Atomic { .. } => {}
            Kind::Float | Kind::Opaque | Kind::Untyped => {}
            Kind::Below { end } => ops.push(Op::Below {
                at: 0,
                size: this.size as u32,
                end: *end,
            }),
            Kind::Bool => ops.push(Op::Bool { at: 0 }),
            Kind::Char => ops.push(Op::Char { at: 0 }),
            Kind::Struct { fields } | Kind::Tuple { fields } => self.fields(fields, &mut ops),
            Kind::Enum {
                tag_offset,
                tag_size,
                variants,
            } => {
                let mut by_tag = Vec::new();
                for variant in variants {
                    let mut inner = Vec::new();
                    self.fields(&variant.fields, &mut inner);
                    by_tag.push((variant.tag, self.add(inner)));
                }
                by_tag.sort_unstable();
                self.program.cases.push(Cases {
                    size: this.size,
                    tag_offset: *tag_offset as usize,
                    tag_size: *tag_size as usize,
                    by_tag,
                });
                ops.push(Op::Switch {
                    at: 0,
                    cases: self.program.cases.len() as u32 - 1,
                });
            }
            Kind::Option {
                payload,
                offset,
                none,
            } => self.option(this.size, *payload, *offset, none, &mut ops),
            Kind::Array { elem, len } => {
                if self.body(elem.index()) != PLAIN {
                    ops.push(Op::Array {
                        at: 0,
                        elem: elem.index() as u32,
                        len: *len,
                    });
                }
            }
            Kind::Box { elem } | Kind::Rcu { elem } => ops.push(Op::Box {
                at: 0,
                elem: elem.index() as u32,
                or_null: false,
            }),
            Kind::Shared { elem } => ops.push(Op::Shared {
                at: 0,
                elem: elem.index() as u32,
            }),
            Kind::Vec { elem } => ops.push(Op::Vec {
                at: 0,
                elem: elem.index() as u32,
            }),
            Kind::Slice { elem } => ops.push(Op::Slice {
                at: 0,
                elem: elem.index() as u32,
            }),
            Kind::Deque { elem } => ops.push(Op::Deque {
                at: 0,
                elem: elem.index() as u32,
            }),
            Kind::StrSlice => ops.push(Op::TextSlice { at: 0 }),
            Kind::Str => ops.push(Op::Text { at: 0 }),
            Kind::Map { entry, .. } => {
                // The entry's list follows in `entry`; until then the type's number stands for it.
                self.program.maps.push(Map {
                    entry: *entry,
                    body: ty as Body,
                });
                ops.push(Op::Map {
                    at: 0,
                    map: self.program.maps.len() as u32 - 1,
                });
            }
            Kind::Tree { key, value, cap } => {
                self.program.trees.push(Tree {
                    key: key.index() as u32,
                    value: value.index() as u32,
                    node: schema.node(*key, *value, *cap),
                });
                ops.push(Op::Tree {
                    at: 0,
                    tree: self.program.trees.len() as u32 - 1,
                });
            }
            Kind::Lock { inner, offset, .. } => {
                ops.push(Op::Lock { at: 0 });
                self.part(*inner, *offset, &mut ops);
            }
        }
        ops
    }

    fn fields(&mut self, fields: &[Field], ops: &mut Vec<Op>) {
        for field in fields {
            self.part(field.ty, field.offset, ops);
        }
    }

    /// Adds what is to be done with a part at `at`.
    fn part(&mut self, ty: TypeRef, at: u64, ops: &mut Vec<Op>) {
        let body = self.body(ty.index());
        if body == PLAIN {
            return;
        }
        let list = &self.program.bodies[body as usize];
        if list.len() <= COPIED {
            ops.extend(list.iter().map(|op| op.shifted(at)));
        } else {
            ops.push(Op::Call {
                at,
                size: self.schema.get(ty).size,
                body,
            });
        }
    }

    fn option(
        &mut self,
        size: u64,
        payload: TypeRef,
        offset: u64,
        none: &NoneForm,
        ops: &mut Vec<Op>,
    ) {
        let null = NoneForm::Niche {
            offset: 0,
            bytes: vec![0; 8],
        };
        if let Kind::Box { elem } = self.schema.get(payload).kind
            && offset == 0
            && *none == null
        {
            ops.push(Op::Box {
                at: 0,
                elem: elem.index() as u32,
                or_null: true,
            });
            return;
        }
        let mut inner = Vec::new();
        self.part(payload, offset, &mut inner);
        if inner.is_empty() && matches!(none, NoneForm::Niche { .. }) {
            return;
        }
        let body = self.add(inner);
        self.program.forms.push(Form {
            none: none.clone(),
            size,
        });
        ops.push(Op::Option {
            at: 0,
            form: self.program.forms.len() as u32 - 1,
            body,
        });
    }

    fn entry(&mut self, map: usize) {
        let ty = self.program.maps[map].body as usize;
        let schema = self.schema;
        let Kind::Map { key, value, entry } = &schema.types()[ty].kind else {
            unreachable!("only maps are noted in `maps`");
        };
        let mut ops = Vec::new();
        self.part(*key, 0, &mut ops);
        self.part(*value, entry.value_offset, &mut ops);
        self.program.maps[map].body = self.add(ops);
    }
}

impl Op {
    /// The same at an offset further on.
    fn shifted(&self, by: u64) -> Op {
        let mut op = *self;
        match &mut op {
            Op::Bool { at }
            | Op::Char { at }
            | Op::Nonzero { at, .. }
            | Op::Below { at, .. }
            | Op::Lock { at }
            | Op::Box { at, .. }
            | Op::Shared { at, .. }
            | Op::Vec { at, .. }
            | Op::Slice { at, .. }
            | Op::Deque { at, .. }
            | Op::TextSlice { at }
            | Op::Text { at }
            | Op::Map { at, .. }
            | Op::Tree { at, .. }
            | Op::Option { at, .. }
            | Op::Switch { at, .. }
            | Op::Array { at, .. }
            | Op::Call { at, .. } => *at += by,
        }
        op
    }
}

//! What differs between two schemas, in lines for people.
//!
//! Both are walked together from their roots; each pair of structs or enums is compared once.
//! What has no name of its own (an array, an option, a container) is compared where it is used,
//! so that a line always starts with a name from the program: `Bank.accounts: PVec<u32> →
//! PVec<u64>`.

use super::{Field, Kind, Renamed, Schema, TypeRef, Variant};
use std::collections::{HashSet, VecDeque};

struct Diff<'a> {
    old: &'a Schema,
    new: &'a Schema,
    lines: Vec<String>,
    seen: HashSet<(TypeRef, TypeRef)>,
    /// Structs and enums still to be compared.
    queue: VecDeque<(TypeRef, TypeRef)>,
}

pub(super) fn diff(old: &Schema, new: &Schema) -> Vec<String> {
    if old == new {
        return Vec::new();
    }
    let name = |schema: &Schema| schema.name(schema.root());
    match (old.is_untyped(), new.is_untyped()) {
        (false, false) => {}
        (true, _) => {
            let new = name(new);
            return vec![format!(
                "root: the untyped data of a C program → {new}; only the C interface opens it"
            )];
        }
        (_, true) => {
            let old = name(old);
            return vec![format!("root: {old} → the untyped data of a C program")];
        }
    }
    let mut diff = Diff {
        old,
        new,
        lines: Vec::new(),
        seen: HashSet::new(),
        queue: VecDeque::new(),
    };
    diff.place("root", old.root(), new.root());
    while let Some((a, b)) = diff.queue.pop_front() {
        diff.named(a, b);
    }
    if diff.lines.is_empty() {
        diff.lines
            .push("the descriptions differ in how they are built, not in what they say".into());
    }
    diff.lines
}

impl Diff<'_> {
    /// Compares the types at a place that the program has a name for.
    fn place(&mut self, place: &str, a: TypeRef, b: TypeRef) {
        let mut pairs = Vec::new();
        if self.alike(a, b, &mut pairs, 0) {
            for pair in pairs {
                if self.seen.insert(pair) {
                    self.queue.push_back(pair);
                }
            }
            return;
        }
        let (from, to) = (self.old.name(a), self.new.name(b));
        if from != to {
            self.lines.push(format!("{place}: {from} → {to}"));
            return;
        }
        let (x, y) = (self.old.get(a), self.new.get(b));
        let before = self.lines.len();
        self.sizes(&format!("{place}: {from}"), a, b);
        if self.lines.len() == before {
            // Same name, size and alignment: bytes laid out differently inside, or another kind
            // of type.
            let what = match std::mem::discriminant(&x.kind) == std::mem::discriminant(&y.kind) {
                true => "is laid out differently",
                false => "is another kind of type",
            };
            self.lines.push(format!("{place}: {from} {what}"));
        }
    }

    /// Whether two types are the same up to the structs and enums inside them, which go to `pairs`.
    fn alike(
        &self,
        a: TypeRef,
        b: TypeRef,
        pairs: &mut Vec<(TypeRef, TypeRef)>,
        depth: u32,
    ) -> bool {
        // No program nests anonymous types so deep.
        if depth > 64 {
            return false;
        }
        let (x, y) = (self.old.get(a), self.new.get(b));
        let mut go = |a: &TypeRef, b: &TypeRef| self.alike(*a, *b, pairs, depth + 1);
        // Sizes of what holds a struct follow from the struct, which gets its own lines; here
        // only what does not follow is compared.
        match (&x.kind, &y.kind) {
            (Kind::Struct { .. }, Kind::Struct { .. }) | (Kind::Enum { .. }, Kind::Enum { .. }) => {
                let was = self.new.renamed_from(b, &Renamed::Type);
                let same = x.name == y.name || was == Some(&x.name) || self.same_outline(a, b);
                if same {
                    pairs.push((a, b));
                }
                same
            }
            (Kind::Tuple { fields: m }, Kind::Tuple { fields: n }) => {
                m.len() == n.len()
                    && m.iter().zip(n).all(|(m, n)| go(&m.ty, &n.ty))
                    && (x.size != y.size || m.iter().zip(n).all(|(m, n)| m.offset == n.offset))
            }
            (
                Kind::Option {
                    payload: m,
                    none: p,
                    ..
                },
                Kind::Option {
                    payload: n,
                    none: q,
                    ..
                },
            ) => go(m, n) && (x.size != y.size || p == q),
            (Kind::Array { elem: m, len: k }, Kind::Array { elem: n, len: l }) => {
                k == l && go(m, n)
            }
            (Kind::Box { elem: m }, Kind::Box { elem: n })
            | (Kind::Shared { elem: m }, Kind::Shared { elem: n })
            | (Kind::Rcu { elem: m }, Kind::Rcu { elem: n })
            | (Kind::Deque { elem: m }, Kind::Deque { elem: n })
            | (Kind::Slice { elem: m }, Kind::Slice { elem: n })
            | (Kind::Vec { elem: m }, Kind::Vec { elem: n }) => x.name == y.name && go(m, n),
            (
                Kind::Map {
                    key: m, value: v, ..
                },
                Kind::Map {
                    key: n, value: w, ..
                },
            ) => x.name == y.name && go(m, n) && go(v, w),
            (
                Kind::Tree {
                    key: m,
                    value: v,
                    cap: k,
                },
                Kind::Tree {
                    key: n,
                    value: w,
                    cap: l,
                },
            ) => {
                // The capacity follows from the sizes.
                let size = |schema: &Schema, ty: &TypeRef| schema.get(*ty).size;
                let resized = size(self.old, m) != size(self.new, n)
                    || size(self.old, v) != size(self.new, w);
                x.name == y.name && (k == l || resized) && go(m, n) && go(v, w)
            }
            (
                Kind::Lock {
                    inner: m,
                    rw: p,
                    offset: i,
                },
                Kind::Lock {
                    inner: n,
                    rw: q,
                    offset: j,
                },
            ) => x.name == y.name && p == q && (x.size != y.size || i == j) && go(m, n),
            _ => x == y,
        }
    }

    /// Whether two structs or enums of different names look like one that was renamed.
    fn same_outline(&self, a: TypeRef, b: TypeRef) -> bool {
        let (x, y) = (self.old.get(a), self.new.get(b));
        let outline = |fields: &[Field]| -> Vec<(String, u64)> {
            fields.iter().map(|f| (f.name.clone(), f.offset)).collect()
        };
        x.size == y.size
            && x.align == y.align
            && match (&x.kind, &y.kind) {
                (Kind::Struct { fields: m }, Kind::Struct { fields: n }) => {
                    outline(m) == outline(n)
                }
                (Kind::Enum { variants: m, .. }, Kind::Enum { variants: n, .. }) => {
                    let names = |v: &[Variant]| -> Vec<String> {
                        v.iter().map(|v| v.name.clone()).collect()
                    };
                    names(m) == names(n)
                }
                _ => false,
            }
    }

    /// Compares two structs or two enums.
    fn named(&mut self, a: TypeRef, b: TypeRef) {
        let (x, y) = (self.old.get(a), self.new.get(b));
        if x.name != y.name {
            self.lines
                .push(format!("type `{}` renamed to `{}`", x.name, y.name));
        }
        let name = y.name.clone();
        match (&x.kind, &y.kind) {
            (Kind::Struct { fields: m }, Kind::Struct { fields: n }) => {
                self.fields(&name, b, None, m, n);
            }
            (
                Kind::Enum {
                    tag_offset: i,
                    tag_size: k,
                    variants: m,
                },
                Kind::Enum {
                    tag_offset: j,
                    tag_size: l,
                    variants: n,
                },
            ) => {
                if k != l {
                    self.lines.push(format!("{name}: tag of {k} → {l} bytes"));
                }
                if i != j {
                    self.lines
                        .push(format!("{name}: tag moved from offset {i} to {j}"));
                }
                self.variants(&name, b, m, n);
            }
            _ => unreachable!("only pairs of one kind are queued"),
        }
        self.sizes(&name, a, b);
    }

    /// Compares the fields of `owner`, whose type is `ty` now, or of a `variant` of it.
    fn fields(
        &mut self,
        owner: &str,
        ty: TypeRef,
        variant: Option<&str>,
        old: &[Field],
        new: &[Field],
    ) {
        let schema = self.new;
        // The name that a field of now had then.
        let was = |field: &Field| -> String {
            let name = field.name.clone();
            let part = match variant {
                None => Renamed::Field(name),
                Some(variant) => Renamed::VariantField(variant.to_owned(), name),
            };
            let was = schema.renamed_from(ty, &part);
            match was {
                Some(was) if !old.iter().any(|f| f.name == field.name) => was.to_owned(),
                _ => field.name.clone(),
            }
        };
        let new: Vec<(&Field, String)> = new.iter().map(|field| (field, was(field))).collect();
        for field in old {
            let was = &field.name;
            let Some(&(twin, _)) = new.iter().find(|(_, then)| then == was) else {
                self.lines.push(format!("{owner}: field `{was}` removed"));
                continue;
            };
            let name = &twin.name;
            if was != name {
                self.lines
                    .push(format!("{owner}: field `{was}` renamed to `{name}`"));
            }
            self.place(&format!("{owner}.{name}"), field.ty, twin.ty);
            if field.offset != twin.offset {
                let (from, to) = (field.offset, twin.offset);
                self.lines.push(format!(
                    "{owner}: field `{name}` moved from offset {from} to {to}"
                ));
            }
        }
        for (field, was) in &new {
            let name = &field.name;
            if !old.iter().any(|twin| twin.name == *was) {
                let of = schema.name(field.ty);
                self.lines
                    .push(format!("{owner}: field `{name}: {of}` added"));
            }
        }
        let then: Vec<String> = old.iter().map(|f| f.name.clone()).collect();
        let now: Vec<String> = new.into_iter().map(|(_, was)| was).collect();
        // Fields without bytes can change places without moving.
        if shared(&then, &now) != shared(&now, &then) {
            self.lines.push(format!("{owner}: fields in another order"));
        }
    }

    fn variants(&mut self, owner: &str, ty: TypeRef, old: &[Variant], new: &[Variant]) {
        let schema = self.new;
        let was = |variant: &Variant| -> String {
            let was = schema.renamed_from(ty, &Renamed::Variant(variant.name.clone()));
            match was {
                Some(was) if !old.iter().any(|v| v.name == variant.name) => was.to_owned(),
                _ => variant.name.clone(),
            }
        };
        let new: Vec<(&Variant, String)> = new.iter().map(|v| (v, was(v))).collect();
        for variant in old {
            let was = &variant.name;
            let Some(&(twin, _)) = new.iter().find(|(_, then)| then == was) else {
                self.lines.push(format!("{owner}: variant `{was}` removed"));
                continue;
            };
            let name = &twin.name;
            if was != name {
                self.lines
                    .push(format!("{owner}: variant `{was}` renamed to `{name}`"));
            }
            let place = format!("{owner}::{name}");
            if variant.tag != twin.tag {
                self.lines
                    .push(format!("{place}: tag {} → {}", variant.tag, twin.tag));
            }
            self.fields(&place, ty, Some(name), &variant.fields, &twin.fields);
        }
        for (variant, was) in &new {
            let name = &variant.name;
            if !old.iter().any(|twin| twin.name == *was) {
                self.lines.push(format!("{owner}: variant `{name}` added"));
            }
        }
        let then: Vec<String> = old.iter().map(|v| v.name.clone()).collect();
        let now: Vec<String> = new.into_iter().map(|(_, was)| was).collect();
        if shared(&then, &now) != shared(&now, &then) {
            self.lines
                .push(format!("{owner}: variants in another order"));
        }
    }

    fn sizes(&mut self, what: &str, a: TypeRef, b: TypeRef) {
        let (x, y) = (self.old.get(a), self.new.get(b));
        if x.size != y.size {
            let (from, to) = (x.size, y.size);
            self.lines.push(format!("{what}: size {from} → {to} bytes"));
        }
        if x.align != y.align {
            let (from, to) = (x.align, y.align);
            self.lines.push(format!("{what}: alignment {from} → {to}"));
        }
    }
}

/// Those names of `list` that `other` has as well.
fn shared<'a>(list: &'a [String], other: &[String]) -> Vec<&'a String> {
    list.iter().filter(|name| other.contains(name)).collect()
}

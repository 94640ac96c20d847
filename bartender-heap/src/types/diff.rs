//! What differs between two schemas, in lines for people.
//!
//! Both are walked together from their roots, nearest first; each pair of structs or enums is compared once, at the
//! first place that leads to it, so types that hold themselves end. What has no name of its own (an array, an option, a
//! container) is compared where it is used. A line begins with the place, as a path from the root, in the program's
//! names: `Bank.accounts[].cents: u32 → u64`. `[]` are the elements, `[key]` and `[value]` those of a map; what only
//! holds a value (a box, a lock, an option) is no step. However long the descriptions are, the lines are few and short.

use super::{Field, Kind, Renamed, Schema, TypeRef, Variant};
use std::collections::{HashSet, VecDeque};

/// Lines that are told; of more, only how many.
const MAX_LINES: usize = 100;
/// Bytes of a path; of a longer one, the middle is left out.
const MAX_PATH: usize = 120;

/// Two structs or enums, and where they lie.
type Pair = (TypeRef, TypeRef, String);

struct Diff<'a> {
    old: &'a Schema,
    new: &'a Schema,
    lines: Vec<String>,
    seen: HashSet<(TypeRef, TypeRef)>,
    /// Structs and enums still to be compared.
    queue: VecDeque<Pair>,
    /// What the path of the root begins with.
    root: String,
    /// Lines that were left out.
    more: usize,
}

/// What a path begins with: the name of the root type, or of what is in its lock.
fn root_name(schema: &Schema) -> String {
    let mut ty = schema.root();
    // Locks in locks end as parts do.
    while let Kind::Lock { inner, .. } = &schema.get(ty).kind {
        ty = *inner;
    }
    let name = &schema.get(ty).name;
    match schema.get(ty).kind {
        Kind::Tuple { .. } | Kind::Array { .. } | Kind::Option { .. } => "root".into(),
        _ => name.split('<').next().unwrap_or_default().to_owned(),
    }
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
        root: root_name(new),
        more: 0,
    };
    let root = diff.root.clone();
    diff.place(&root, old.root(), new.root());
    while let Some((a, b, place)) = diff.queue.pop_front() {
        diff.named(&place, a, b);
    }
    if diff.more != 0 {
        diff.lines
            .push(format!("and {} more differences", diff.more));
    }
    if diff.lines.is_empty() {
        diff.lines
            .push("the descriptions differ in how they are built, not in what they say".into());
    }
    diff.lines
}

impl Diff<'_> {
    fn line(&mut self, place: &str, what: String) {
        if self.lines.len() < MAX_LINES {
            self.lines.push(format!("{place}: {what}"));
        } else {
            self.more += 1;
        }
    }

    /// The place that is a step behind another.
    fn step(&self, place: &str, step: &str) -> String {
        if place.len() + step.len() > MAX_PATH && place.len() > self.root.len() {
            return format!("{}…{step}", self.root);
        }
        format!("{place}{step}")
    }

    /// Compares the types at a place that the program has a name for.
    fn place(&mut self, place: &str, a: TypeRef, b: TypeRef) {
        let mut pairs = Vec::new();
        if self.alike(a, b, place, &mut pairs, 0) {
            for pair in pairs {
                if self.seen.insert((pair.0, pair.1)) {
                    self.queue.push_back(pair);
                }
            }
            return;
        }
        let (from, to) = (self.old.name(a), self.new.name(b));
        if from != to {
            // That the root is one type and not another, its name does not say better.
            let place = if place == self.root { "root" } else { place };
            self.line(place, format!("{from} → {to}"));
            return;
        }
        let (x, y) = (self.old.get(a), self.new.get(b));
        if !self.sizes(place, a, b) {
            // Same name, size and alignment: bytes laid out differently inside, or another kind
            // of type.
            let what = match std::mem::discriminant(&x.kind) == std::mem::discriminant(&y.kind) {
                true => "is laid out differently",
                false => "is another kind of type",
            };
            self.line(place, format!("{from} {what}"));
        }
    }

    /// Whether two types at a place are the same up to the structs and enums inside them, which go to `pairs`.
    fn alike(
        &self,
        a: TypeRef,
        b: TypeRef,
        place: &str,
        pairs: &mut Vec<Pair>,
        depth: u32,
    ) -> bool {
        // No program nests anonymous types so deep.
        if depth > 64 {
            return false;
        }
        let (x, y) = (self.old.get(a), self.new.get(b));
        let mut go = |step: &str, a: &TypeRef, b: &TypeRef| {
            self.alike(*a, *b, &self.step(place, step), pairs, depth + 1)
        };
        // Sizes of what holds a struct follow from the struct, which gets its own lines; here
        // only what does not follow is compared.
        match (&x.kind, &y.kind) {
            (Kind::Struct { .. }, Kind::Struct { .. }) | (Kind::Enum { .. }, Kind::Enum { .. }) => {
                let was = self.new.renamed_from(b, &Renamed::Type);
                let same = x.name == y.name || was == Some(&x.name) || self.same_outline(a, b);
                if same {
                    pairs.push((a, b, place.to_owned()));
                }
                same
            }
            (Kind::Tuple { fields: m }, Kind::Tuple { fields: n }) => {
                m.len() == n.len()
                    && (m.iter().zip(n)).all(|(m, n)| go(&format!(".{}", n.name), &m.ty, &n.ty))
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
            ) => go("", m, n) && (x.size != y.size || p == q),
            (Kind::Array { elem: m, len: k }, Kind::Array { elem: n, len: l }) => {
                k == l && go("[]", m, n)
            }
            (Kind::Box { elem: m }, Kind::Box { elem: n })
            | (Kind::Rcu { elem: m }, Kind::Rcu { elem: n }) => x.name == y.name && go("", m, n),
            (Kind::Shared { elem: m }, Kind::Shared { elem: n }) => {
                let (m, n) = (behind_count(self.old, m), behind_count(self.new, n));
                go("", &m, &n)
            }
            (Kind::Deque { elem: m }, Kind::Deque { elem: n })
            | (Kind::Slice { elem: m }, Kind::Slice { elem: n })
            | (Kind::Vec { elem: m }, Kind::Vec { elem: n }) => x.name == y.name && go("[]", m, n),
            (
                Kind::Map {
                    key: m, value: v, ..
                },
                Kind::Map {
                    key: n, value: w, ..
                },
            ) => {
                let (key, value) = self.entry(w);
                x.name == y.name && go(key, m, n) && go(value, v, w)
            }
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
                let (key, value) = self.entry(w);
                x.name == y.name && (k == l || resized) && go(key, m, n) && go(value, v, w)
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
            ) => x.name == y.name && p == q && (x.size != y.size || i == j) && go("", m, n),
            _ => x == y,
        }
    }

    /// The steps to the keys and to the values of a map to `value`: a set is a map to nothing.
    fn entry(&self, value: &TypeRef) -> (&'static str, &'static str) {
        match self.new.get(*value).size {
            0 => ("[]", "[value]"),
            _ => ("[key]", "[value]"),
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
    fn named(&mut self, place: &str, a: TypeRef, b: TypeRef) {
        let (x, y) = (self.old.get(a), self.new.get(b));
        if x.name != y.name {
            self.line(place, format!("type {} renamed to {}", x.name, y.name));
        }
        match (&x.kind, &y.kind) {
            (Kind::Struct { fields: m }, Kind::Struct { fields: n }) => {
                self.fields(place, b, None, m, n);
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
                    self.line(place, format!("tag of {k} → {l} bytes"));
                }
                if i != j {
                    self.line(place, format!("tag moved from offset {i} to {j}"));
                }
                self.variants(place, b, m, n);
            }
            _ => unreachable!("only pairs of one kind are queued"),
        }
        self.sizes(place, a, b);
    }

    /// Compares the fields of what is at `owner`, whose type is `ty` now, or of a `variant` of it.
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
                let of = self.old.name(field.ty);
                let place = self.step(owner, &format!(".{was}"));
                self.line(&place, format!("{of} removed"));
                continue;
            };
            let name = &twin.name;
            let place = self.step(owner, &format!(".{name}"));
            if was != name {
                self.line(&place, format!("renamed from `{was}`"));
            }
            self.place(&place, field.ty, twin.ty);
            if field.offset != twin.offset {
                let (from, to) = (field.offset, twin.offset);
                self.line(&place, format!("moved from offset {from} to {to}"));
            }
        }
        for (field, was) in &new {
            let name = &field.name;
            if !old.iter().any(|twin| twin.name == *was) {
                let of = schema.name(field.ty);
                let place = self.step(owner, &format!(".{name}"));
                self.line(&place, format!("{of} added"));
            }
        }
        let then: Vec<String> = old.iter().map(|f| f.name.clone()).collect();
        let now: Vec<String> = new.into_iter().map(|(_, was)| was).collect();
        // Fields without bytes can change places without moving.
        if shared(&then, &now) != shared(&now, &then) {
            self.line(owner, "fields in another order".into());
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
                let place = self.step(owner, &format!("::{was}"));
                self.line(&place, "variant removed".into());
                continue;
            };
            let name = &twin.name;
            let place = self.step(owner, &format!("::{name}"));
            if was != name {
                self.line(&place, format!("renamed from `{was}`"));
            }
            if variant.tag != twin.tag {
                self.line(&place, format!("tag {} → {}", variant.tag, twin.tag));
            }
            self.fields(&place, ty, Some(name), &variant.fields, &twin.fields);
        }
        for (variant, was) in &new {
            let name = &variant.name;
            if !old.iter().any(|twin| twin.name == *was) {
                let place = self.step(owner, &format!("::{name}"));
                self.line(&place, "variant added".into());
            }
        }
        let then: Vec<String> = old.iter().map(|v| v.name.clone()).collect();
        let now: Vec<String> = new.into_iter().map(|(_, was)| was).collect();
        if shared(&then, &now) != shared(&now, &then) {
            self.line(owner, "variants in another order".into());
        }
    }

    /// Tells of another size or alignment of what is at `place`; whether there is one.
    fn sizes(&mut self, place: &str, a: TypeRef, b: TypeRef) -> bool {
        let (x, y) = (self.old.get(a), self.new.get(b));
        let name = self.new.name(b);
        if x.size != y.size {
            let (from, to) = (x.size, y.size);
            self.line(place, format!("size of {name} {from} → {to} bytes"));
        }
        if x.align != y.align {
            let (from, to) = (x.align, y.align);
            self.line(place, format!("alignment of {name} {from} → {to}"));
        }
        x.size != y.size || x.align != y.align
    }
}

/// What lies behind the count in the block of a shared value, whose type has no name in the program.
fn behind_count(schema: &Schema, block: &TypeRef) -> TypeRef {
    match &schema.get(*block).kind {
        Kind::Struct { fields } if fields.len() == 2 => fields[1].ty,
        _ => *block,
    }
}

/// Those names of `list` that `other` has as well.
fn shared<'a>(list: &'a [String], other: &[String]) -> Vec<&'a String> {
    list.iter().filter(|name| other.contains(name)).collect()
}

//! Descriptions: numbering, rules, bytes, differences.

use super::*;
use proptest::prelude::*;

/// A field for [`structure`]: name, offset, type.
type Part<'a> = (&'a str, u64, TypeRef);

fn fields(parts: &[Part<'_>]) -> Vec<Field> {
    let field = |&(name, offset, ty): &Part<'_>| Field {
        name: name.into(),
        offset,
        ty,
    };
    parts.iter().map(field).collect()
}

fn structure(name: &str, size: u64, align: u64, parts: &[Part<'_>]) -> Type {
    Type {
        name: name.into(),
        size,
        align,
        kind: Kind::Struct {
            fields: fields(parts),
        },
    }
}

fn plain(kind: Kind, name: &str, size: u64) -> Type {
    Type {
        name: name.into(),
        size,
        align: size,
        kind,
    }
}

fn uint<T: 'static>(b: &mut SchemaBuilder, name: &str) -> TypeRef {
    let kind = Kind::Int {
        signed: false,
        nonzero: false,
    };
    b.define::<T>(|_| Type::of::<T>(name, kind))
}

fn raw(name: &str, size: u64, kind: Kind) -> Type {
    Type {
        name: name.into(),
        size,
        align: 8,
        kind,
    }
}

// Stand-ins for the types of a program: only their identity counts.
struct List;
struct Link;
struct Boxed;
struct Bank;
struct Accounts;
struct Account;
struct Name;
struct Shape;

/// `struct List { next: Option<PBox<List>>, value: u64 }`
fn list(b: &mut SchemaBuilder) -> TypeRef {
    b.define::<List>(|b| {
        let next = b.define::<Link>(|b| {
            let payload = b.define::<Boxed>(|b| {
                let elem = list(b);
                raw("PBox", 8, Kind::Box { elem })
            });
            let none = NoneForm::Niche {
                offset: 0,
                bytes: vec![0; 8],
            };
            raw(
                "Option",
                8,
                Kind::Option {
                    payload,
                    offset: 0,
                    none,
                },
            )
        });
        let value = uint::<u64>(b, "u64");
        structure("List", 16, 8, &[("next", 0, next), ("value", 8, value)])
    })
}

/// What the difference tests vary.
#[derive(Clone)]
struct Plan {
    account: &'static str,
    cents: &'static str,
    owner: bool,
    note: bool,
    front: bool,
    element: &'static str,
    circle: u64,
    square: bool,
}

const PLAN: Plan = Plan {
    account: "Account",
    cents: "u64",
    owner: true,
    note: false,
    front: false,
    element: "u32",
    circle: 0,
    square: true,
};

fn bank(plan: &Plan) -> Schema {
    Schema::of(|b| {
        b.define::<Bank>(|b| {
            let accounts = b.define::<Accounts>(|b| {
                let elem = b.define::<Account>(|b| {
                    let cents = uint::<u64>(b, plan.cents);
                    let owner = b.define::<Name>(|_| raw("PString", 24, Kind::Str));
                    let mut parts = Vec::new();
                    let mut at = 0;
                    let mut put = |name, ty, size| {
                        parts.push((name, at, ty));
                        at += size;
                    };
                    if plan.front {
                        put("id", cents, 8);
                    }
                    put("cents", cents, 8);
                    if plan.owner {
                        put("owner", owner, 24);
                    }
                    if plan.note {
                        put("note", owner, 24);
                    }
                    structure(plan.account, at, 8, &parts)
                });
                raw("PVec", 24, Kind::Vec { elem })
            });
            let numbers = b.define::<Vec<u32>>(|b| {
                let elem = uint::<u32>(b, plan.element);
                raw("PVec", 24, Kind::Vec { elem })
            });
            let shape = b.define::<Shape>(|b| {
                let radius = uint::<u32>(b, plan.element);
                let mut variants = vec![Variant {
                    name: "Circle".into(),
                    tag: plan.circle,
                    fields: fields(&[("radius", 4, radius)]),
                }];
                if plan.square {
                    variants.push(Variant {
                        name: "Square".into(),
                        tag: 7,
                        fields: fields(&[("0", 4, radius)]),
                    });
                }
                Type {
                    name: "Shape".into(),
                    size: 8,
                    align: 4,
                    kind: Kind::Enum {
                        tag_offset: 0,
                        tag_size: 1,
                        variants,
                    },
                }
            });
            let parts = [
                ("accounts", 0, accounts),
                ("numbers", 24, numbers),
                ("shape", 48, shape),
            ];
            structure("Bank", 56, 8, &parts)
        })
    })
    .expect("the description is well formed")
}

#[test]
fn a_type_that_contains_itself_behind_a_pointer_is_described() {
    let schema = Schema::of(list).unwrap();
    assert_eq!(schema.types().len(), 4);
    assert_eq!(schema.root().index(), 0);
    assert_eq!(schema.name(TypeRef(0)), "List");
    assert_eq!(schema.name(TypeRef(1)), "Option<PBox<List>>");
    assert_eq!(Schema::decode(&schema.encode()).unwrap(), schema);
}

#[test]
fn numbers_do_not_depend_on_the_order_of_definitions() {
    let first = Schema::of(list).unwrap();
    let second = Schema::of(|b| {
        uint::<u8>(b, "u8");
        uint::<u64>(b, "u64");
        let inner = list(b);
        b.define::<Bank>(|b| raw("PBox", 8, Kind::Box { elem: list(b) }));
        inner
    })
    .unwrap();
    assert_eq!(first, second);
    assert_eq!(first.encode(), second.encode());
}

#[test]
fn every_kind_survives_encoding() {
    let schema = everything();
    assert_eq!(Schema::decode(&schema.encode()).unwrap(), schema);
    assert!(schema.diff(&schema.clone()).is_empty());
}

fn everything() -> Schema {
    struct Tagged;
    struct Pair;
    struct Locked;
    struct Table;
    struct Tree;
    Schema::of(|b| {
        b.define::<Bank>(|b| {
            let list = list(b);
            let text = b.define::<Name>(|_| raw("PString", 24, Kind::Str));
            let flag = b.define::<bool>(|_| plain(Kind::Bool, "bool", 1));
            let letter = b.define::<char>(|_| plain(Kind::Char, "char", 4));
            let real = b.define::<f64>(|_| plain(Kind::Float, "f64", 8));
            let short = uint::<u16>(b, "u16");
            let some = b.define::<std::num::NonZeroI16>(|_| {
                let kind = Kind::Int {
                    signed: true,
                    nonzero: true,
                };
                plain(kind, "NonZeroI16", 2)
            });
            let tagged = b.define::<Tagged>(|_| {
                let none = NoneForm::Tag {
                    offset: 0,
                    size: 2,
                    none: 0,
                    some: 1,
                };
                Type {
                    name: "Option".into(),
                    size: 4,
                    align: 2,
                    kind: Kind::Option {
                        payload: short,
                        offset: 2,
                        none,
                    },
                }
            });
            let pair = b.define::<Pair>(|_| Type {
                name: "tuple".into(),
                size: 4,
                align: 2,
                kind: Kind::Tuple {
                    fields: fields(&[("0", 2, flag), ("1", 0, some)]),
                },
            });
            let array = b.define::<[char; 3]>(|_| Type {
                name: "array".into(),
                size: 12,
                align: 4,
                kind: Kind::Array {
                    elem: letter,
                    len: 3,
                },
            });
            let bytes = b.define::<[u8; 5]>(|_| Type::opaque::<[u8; 5]>("Digest"));
            let table = b.define::<Table>(|_| {
                let entry = EntryLayout {
                    size: 40,
                    align: 8,
                    value_offset: 8,
                };
                let kind = Kind::Map {
                    key: pair,
                    value: text,
                    entry: EntryLayout { size: 32, ..entry },
                };
                raw("PHashMap", 40, kind)
            });
            let locked = b.define::<Locked>(|_| {
                let kind = Kind::Lock {
                    inner: table,
                    offset: 8,
                    rw: true,
                };
                raw("PRwLock", 48, kind)
            });
            let tree = b.define::<Tree>(|_| {
                let kind = Kind::Tree {
                    key: text,
                    value: real,
                    cap: 15,
                };
                raw("PBTreeMap", 24, kind)
            });
            struct Ring;
            struct Row;
            let ring = b.define::<Ring>(|_| raw("PVecDeque", 32, Kind::Deque { elem: real }));
            let row = b.define::<Row>(|_| raw("PBox", 16, Kind::Slice { elem: text }));
            let nanos =
                b.define::<std::time::Duration>(|_| plain(Kind::Below { end: 7 }, "Nanos", 4));
            let line = b.define::<Box<str>>(|_| raw("PBox<str>", 16, Kind::StrSlice));
            let parts = [
                ("ring", 120, ring),
                ("row", 152, row),
                ("line", 168, line),
                ("nanos", 184, nanos),
                ("tree", 96, tree),
                ("list", 0, list),
                ("locked", 16, locked),
                ("real", 64, real),
                ("tagged", 72, tagged),
                ("array", 76, array),
                ("bytes", 88, bytes),
            ];
            structure("All", 192, 8, &parts)
        })
    })
    .expect("the description is well formed")
}

#[test]
fn names_are_those_of_the_program() {
    let schema = everything();
    let names: Vec<_> = (0..schema.types().len())
        .map(|i| schema.name(TypeRef(i as u32)))
        .collect();
    for name in [
        "PRwLock<PHashMap<(bool, NonZeroI16), PString>>",
        "Option<u16>",
        "PBTreeMap<PString, f64>",
        "PVecDeque<f64>",
        "PBox<[PString]>",
        "PBox<str>",
        "[char; 3]",
    ] {
        assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
    }
}

#[test]
fn broken_rules_are_refused() {
    fn refused(what: &str, describe: impl FnOnce(&mut SchemaBuilder) -> TypeRef) {
        let error = Schema::of(describe).expect_err(what).to_string();
        assert!(error.contains(what), "{error:?} does not say {what:?}");
    }
    let two = |b: &mut SchemaBuilder, at: u64, size: u64, align: u64| {
        let int = uint::<u64>(b, "u64");
        b.define::<Bank>(|_| structure("S", size, align, &[("a", 0, int), ("b", at, int)]))
    };
    refused("field `b`: a part of 8 bytes at 16", |b| two(b, 16, 16, 8));
    refused("two parts overlap at 0", |b| two(b, 0, 16, 8));
    refused("field `b`: a part with alignment 8 at 12", |b| {
        two(b, 12, 24, 8)
    });
    refused("in alignment 4", |b| two(b, 8, 16, 4));
    refused("size 17 with alignment 8", |b| two(b, 8, 17, 8));
    refused("alignment 12", |b| two(b, 12, 24, 12));
    refused("`S` holds itself", |b| {
        b.define::<Bank>(|b| {
            let me = b.define::<Bank>(|_| unreachable!("it is being described"));
            structure("S", 8, 8, &[("me", 0, me)])
        })
    });
    refused("holds itself", |b| {
        // Of size zero, so that no offset or size gives it away.
        b.define::<Bank>(|b| {
            let inner = b.define::<Account>(|b| {
                let me = b.define::<Bank>(|_| unreachable!("it is being described"));
                structure("A", 0, 1, &[("me", 0, me)])
            });
            structure("S", 0, 1, &[("a", 0, inner)])
        })
    });
    let one = |b: &mut SchemaBuilder, ty: Type| b.define::<Bank>(|_| ty);
    refused("size 3", |b| {
        one(b, plain(Kind::Opaque, "x", 1));
        b.define::<u8>(|_| Type {
            size: 3,
            align: 1,
            ..plain(Kind::Bool, "odd", 1)
        })
    });
    refused("an enum without variants", |b| {
        let kind = Kind::Enum {
            tag_offset: 0,
            tag_size: 1,
            variants: vec![],
        };
        one(b, plain(kind, "E", 1))
    });
    let tagged = |size: u64, tags: [u64; 2]| {
        let variant = |tag| Variant {
            name: format!("V{tag}"),
            tag,
            fields: vec![],
        };
        let kind = Kind::Enum {
            tag_offset: 0,
            tag_size: size,
            variants: tags.map(variant).to_vec(),
        };
        plain(kind, "E", 2)
    };
    refused("no number is below 0", |b| {
        one(b, plain(Kind::Below { end: 0 }, "x", 4))
    });
    refused("two variants have tag 3", |b| one(b, tagged(1, [3, 3])));
    refused("tag 256 in 1 bytes", |b| one(b, tagged(1, [3, 256])));
    refused("a tag of 3 bytes", |b| one(b, tagged(3, [3, 4])));
    refused("a tag of 4 bytes", |b| one(b, tagged(4, [3, 4])));
    refused("elements of 8 bytes", |b| {
        let elem = uint::<u64>(b, "u64");
        one(
            b,
            raw(
                "array",
                24,
                Kind::Array {
                    elem,
                    len: u64::MAX / 4,
                },
            ),
        )
    });
    refused("the pattern of None", |b| {
        let payload = uint::<u64>(b, "u64");
        let none = NoneForm::Niche {
            offset: 1,
            bytes: vec![0; 8],
        };
        one(
            b,
            raw(
                "Option",
                8,
                Kind::Option {
                    payload,
                    offset: 0,
                    none,
                },
            ),
        )
    });
    refused("no room for the word of a lock", |b| {
        let inner = uint::<u32>(b, "u32");
        let kind = Kind::Lock {
            inner,
            offset: 0,
            rw: false,
        };
        one(b, plain(kind, "PMutex", 4))
    });
    for cap in [0, 1, 1025, u64::MAX] {
        refused(&format!("nodes with room for {cap} entries"), |b| {
            let int = uint::<u64>(b, "u64");
            let (key, value) = (int, int);
            one(b, raw("PBTreeMap", 24, Kind::Tree { key, value, cap }))
        });
    }
    refused("two parts overlap at 0", |b| {
        let inner = uint::<u32>(b, "u32");
        let kind = Kind::Lock {
            inner,
            offset: 0,
            rw: false,
        };
        one(b, raw("PMutex", 16, kind))
    });
}

#[test]
#[cfg_attr(miri, ignore = "safe code, many steps")]
fn nesting_has_a_bound() {
    // Types of a program are nested by generics; here by hand, from the bottom up.
    let nest = |depth: u32| {
        let mut types = vec![plain(Kind::Bool, "bool", 1)];
        for i in 0..depth {
            types.push(structure("S", 1, 1, &[("s", 0, TypeRef(i))]));
        }
        let schema = builder::renumber(types, TypeRef(depth), Default::default()).unwrap();
        check::check(&schema).map(|()| schema)
    };
    let deep = nest(check::MAX_DEPTH).unwrap();
    assert_eq!(Schema::decode(&deep.encode()).unwrap(), deep);
    let error = nest(check::MAX_DEPTH + 1).unwrap_err().to_string();
    assert!(error.contains("deep"), "{error}");
}

#[test]
#[cfg_attr(miri, ignore = "safe code, many steps")]
fn decoding_refuses_foreign_newer_and_cut_off_bytes() {
    let bytes = everything().encode();
    let error = |bytes: &[u8]| Schema::decode(bytes).unwrap_err().to_string();
    for len in 0..bytes.len() {
        error(&bytes[..len]);
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(error(&longer).contains("canonical"));
    let mut foreign = bytes.clone();
    foreign[0] ^= 1;
    assert!(error(&foreign).contains("not a type description"));
    let mut newer = bytes;
    newer[8] += 1;
    assert!(error(&newer).contains("version 2"));
}

#[test]
#[cfg_attr(miri, ignore = "safe code, many steps")]
fn differences_are_told_field_by_field() {
    let old = bank(&PLAN);
    let lines = |plan: Plan| old.diff(&bank(&plan));
    assert_eq!(lines(PLAN), Vec::<String>::new());
    assert_eq!(
        lines(Plan {
            cents: "i64",
            ..PLAN
        }),
        ["Bank.accounts[].cents: u64 → i64"]
    );
    assert_eq!(
        lines(Plan {
            owner: false,
            ..PLAN
        }),
        [
            "Bank.accounts[].owner: PString removed",
            "Bank.accounts[]: size of Account 32 → 8 bytes"
        ]
    );
    assert_eq!(
        lines(Plan { note: true, ..PLAN }),
        [
            "Bank.accounts[].note: PString added",
            "Bank.accounts[]: size of Account 32 → 56 bytes"
        ]
    );
    assert_eq!(
        lines(Plan {
            front: true,
            ..PLAN
        }),
        [
            "Bank.accounts[].cents: moved from offset 0 to 8",
            "Bank.accounts[].owner: moved from offset 8 to 16",
            "Bank.accounts[].id: u64 added",
            "Bank.accounts[]: size of Account 32 → 40 bytes",
        ]
    );
    assert_eq!(
        lines(Plan {
            account: "Client",
            ..PLAN
        }),
        ["Bank.accounts[]: type Account renamed to Client"]
    );
    assert_eq!(
        lines(Plan {
            account: "Client",
            owner: false,
            ..PLAN
        }),
        ["Bank.accounts: PVec<Account> → PVec<Client>"]
    );
    assert_eq!(
        lines(Plan {
            element: "f32",
            ..PLAN
        }),
        [
            "Bank.numbers: PVec<u32> → PVec<f32>",
            "Bank.shape::Circle.radius: u32 → f32",
            "Bank.shape::Square.0: u32 → f32",
        ]
    );
    assert_eq!(
        lines(Plan { circle: 1, ..PLAN }),
        ["Bank.shape::Circle: tag 0 → 1"]
    );
    assert_eq!(
        lines(Plan {
            square: false,
            ..PLAN
        }),
        ["Bank.shape::Square: variant removed"]
    );
    let shorter = bank(&Plan {
        square: false,
        ..PLAN
    });
    assert_eq!(shorter.diff(&old), ["Bank.shape::Square: variant added"]);
    // Another root altogether.
    assert_eq!(old.diff(&Schema::of(list).unwrap()), ["root: Bank → List"]);
}

#[test]
#[cfg_attr(miri, ignore = "safe code, many steps")]
fn however_much_differs_the_lines_are_few_and_short() {
    // A chain of structs, each held by the one before, whose last has many fields; and a map of maps of maps.
    let schema = |depth: u32, fields: u32, leaf: &str| {
        let mut types = vec![plain(Kind::Bool, leaf, 1)];
        let names: Vec<String> = (0..fields).map(|n| format!("field_{n}")).collect();
        let parts: Vec<Part<'_>> = (names.iter().zip(0..))
            .map(|(name, at)| (name.as_str(), at, TypeRef(0)))
            .collect();
        types.push(structure("Last", fields.into(), 1, &parts));
        for i in 1..=depth {
            let part = ("the_next_of_many", 0, TypeRef(i));
            types.push(structure(&format!("S{i}"), fields.into(), 1, &[part]));
        }
        builder::renumber(types, TypeRef(depth + 1), Default::default()).unwrap()
    };
    let lines = schema(50, 2, "bool").diff(&schema(50, 2, "truth"));
    let place = format!("S50…{}", ".the_next_of_many".repeat(2));
    assert_eq!(
        lines,
        [
            format!("{place}.field_0: bool → truth"),
            format!("{place}.field_1: bool → truth")
        ]
    );
    let lines = schema(0, 1000, "bool").diff(&schema(0, 1000, "truth"));
    assert_eq!(
        (lines.len(), lines[100].as_str()),
        (101, "and 900 more differences")
    );

    let mut types = vec![plain(Kind::Bool, "bool", 1)];
    for i in 0..40 {
        let parts = [("0", 0, TypeRef(i)), ("1", 1 << i, TypeRef(i))];
        let kind = Kind::Tuple {
            fields: fields(&parts),
        };
        types.push(Type {
            name: String::new(),
            size: 2 << i,
            align: 1,
            kind,
        });
    }
    let pairs = builder::renumber(types, TypeRef(40), Default::default()).unwrap();
    assert!(pairs.name(pairs.root()).len() < 500);
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "safe code, many steps")]
    fn decoding_never_panics_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut framed = everything().encode()[..32].to_vec();
        framed.extend_from_slice(&bytes);
        prop_assert!(Schema::decode(&bytes).is_err());
        let _ = Schema::decode(&framed);
    }

    #[test]
    #[cfg_attr(miri, ignore = "safe code, many steps")]
    fn decoding_damaged_bytes_is_an_error_or_another_schema(
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let good = everything();
        let mut bytes = good.encode();
        for (at, value) in hits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(schema) = Schema::decode(&bytes) {
            // What is accepted is in canonical form and can be shown and compared.
            prop_assert_eq!(schema.encode(), bytes);
            let lines = good.diff(&schema);
            prop_assert_eq!(lines.is_empty(), good == schema);
            let _ = schema.to_string();
        }
    }
}

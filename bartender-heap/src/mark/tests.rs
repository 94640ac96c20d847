//! Marking over images that tests build: what is found, what is refused, and how it is said.

pub(crate) mod image;
mod owners;
mod rings;
mod speed;
mod trees;

use super::run;
use super::trace::{self, Damage};
use crate::error::Error;
use crate::layout::RawStr;
use crate::mark::program::Program;
use crate::mark::{Progress, View, mark};
use crate::types::sample::{
    PBox, PLock, PMap, PString, PTree, PVec, Sample, Tagged, sample_struct, schema_of,
};
use crate::types::{Field, Kind, SchemaBuilder, Type, TypeRef, Variant};
use image::{BASE, Image, home};
use proptest::prelude::*;
use std::mem::{offset_of, size_of};
use std::num::NonZeroU32;

#[derive(Clone, Copy)]
#[repr(C)]
struct Node {
    next: Option<PBox<Node>>,
    value: u64,
}
sample_struct!(Node { next: Option<PBox<Node>>, value: u64 });

/// `enum Plan { Basic, Saving { rate: NonZeroU32, sign: char }, Joint(PBox<Account>) }`,
/// written out.
#[derive(Clone, Copy)]
#[repr(C)]
struct Plan {
    tag: u8,
    rate: u32,
    sign: u32,
    joint: Option<PBox<Account>>,
}

impl Sample for Plan {
    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Plan>(|b| {
            let field = |name: &str, offset: usize, ty| Field {
                name: name.into(),
                offset: offset as u64,
                ty,
            };
            let saving = vec![
                field("rate", offset_of!(Plan, rate), NonZeroU32::describe(b)),
                field("sign", offset_of!(Plan, sign), char::describe(b)),
            ];
            let joint = PBox::<Account>::describe(b);
            let joint = vec![field("0", offset_of!(Plan, joint), joint)];
            let variant = |name: &str, tag, fields| Variant {
                name: name.into(),
                tag,
                fields,
            };
            let variants = vec![
                variant("Basic", 0, vec![]),
                variant("Saving", 1, saving),
                variant("Joint", 9, joint),
            ];
            let kind = Kind::Enum {
                tag_offset: 0,
                tag_size: 1,
                variants,
            };
            Type::of::<Plan>("Plan", kind)
        })
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Account {
    owner: PString,
    cents: u64,
    active: u8,
    plan: Plan,
}
// `active` is a bool that tests set to other bytes.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct AnyBool(#[allow(dead_code)] u8);
impl Sample for AnyBool {
    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        bool::describe(b)
    }
}
sample_struct!(Account {
    owner: PString,
    cents: u64,
    active: AnyBool,
    plan: Plan,
});

#[derive(Clone, Copy)]
#[repr(C)]
struct Bank {
    accounts: PVec<Account>,
    by_id: PMap<i16, PBox<u64>>,
    by_name: PMap<PString, Option<bool>>,
    list: Option<PBox<Node>>,
    letters: PLock<PVec<char>>,
    flags: [PVec<bool>; 3],
    pair: (PBox<u64>, Tagged<PBox<u32>>),
    rows: PVec<[u64; 8]>,
    by_date: PTree<PString, PBox<u64>>,
}
sample_struct!(Bank {
    accounts: PVec<Account>,
    by_id: PMap<i16, PBox<u64>>,
    by_name: PMap<PString, Option<bool>>,
    list: Option<PBox<Node>>,
    letters: PLock<PVec<char>>,
    flags: [PVec<bool>; 3],
    pair: (PBox<u64>, Tagged<PBox<u32>>),
    rows: PVec<[u64; 8]>,
    by_date: PTree<PString, PBox<u64>>,
});

/// The image of a bank with all sorts of things in it, and where its root is.
struct Sampled {
    image: Image,
    root: u64,
    bank: Bank,
}

fn account(image: &mut Image, owner: &str, plan: Plan) -> Account {
    Account {
        owner: image.text(owner),
        cents: 1,
        active: 1,
        plan,
    }
}

const BASIC: Plan = Plan {
    tag: 0,
    rate: 0,
    sign: 0,
    joint: None,
};

fn bank() -> Sampled {
    let mut image = Image::new();
    let i = &mut image;
    let partner = account(i, "Eve", BASIC);
    let joint = Plan {
        tag: 9,
        joint: Some(i.boxed(partner)),
        ..BASIC
    };
    let saving = Plan {
        tag: 1,
        rate: 3,
        sign: 'x' as u32,
        ..BASIC
    };
    let accounts = [
        account(i, "Ada", BASIC),
        account(i, "Bob", saving),
        account(i, "", joint),
    ];
    let by_id: Vec<_> = (-3..20).map(|n| (n, i.boxed(n as u64))).collect();
    let by_name: Vec<_> = ["ada", "bob", "söta"]
        .map(|name| (i.text(name), Some(true)))
        .into();
    let by_date: Vec<_> = (0..20)
        .map(|n| (i.text(&format!("d{n:02}")), i.boxed(n)))
        .collect();
    let mut list = None;
    for value in 0..100 {
        list = Some(i.boxed(Node { next: list, value }));
    }
    let bank = Bank {
        accounts: i.vec(&accounts),
        by_id: i.map(&by_id),
        by_name: i.map(&by_name),
        list,
        letters: PLock {
            lock: Default::default(),
            value: i.vec(&['a', 'ß', '語']),
        },
        flags: [i.vec(&[true, false]), i.vec(&[]), i.vec(&[false; 5])],
        pair: (
            i.boxed(7),
            Tagged {
                tag: 1,
                value: i.boxed(8),
            },
        ),
        rows: i.vec(&[[1; 8]; 5]),
        by_date: i.tree(&by_date),
    };
    let root = i.boxed(bank).0.ptr.get();
    Sampled { image, root, bank }
}

/// Both walks; they agree on whether there is damage, and on the marks when there is none.
fn both(image: &Image, root: u64, schema: &crate::types::Schema) -> Result<u64, Damage> {
    let program = Program::compile(schema);
    let progress = Progress::default();
    let fast = run::run(&program, root, image.view(), image, &progress);
    let marks = image.take_marks();
    let slow = trace::first_damage(schema, root, image.view(), image);
    match (fast, slow) {
        (Ok(()), None) => {
            let (blocks, bytes) = (progress.blocks.into_inner(), progress.bytes.into_inner());
            assert_eq!(blocks, marks.len() as u64);
            assert_eq!(bytes, marks.iter().map(|at| image.table[at]).sum::<u64>());
            Ok(blocks)
        }
        (Err(_), Some(damage)) => Err(damage),
        (fast, slow) => panic!("the fast walk says {fast:?}, the slow one {slow:?}"),
    }
}

#[test]
fn every_live_block_is_marked_and_no_other() {
    let mut sampled = bank();
    let live = sampled.image.table.len() as u64;
    sampled.image.block(64, 8);
    let schema = schema_of::<Bank>();
    assert_eq!(both(&sampled.image, sampled.root, &schema), Ok(live));
    let report = mark(&schema, sampled.root, sampled.image.view(), &sampled.image).unwrap();
    assert_eq!(report.blocks, live);
}

#[test]
fn a_heap_without_a_root_has_no_live_blocks() {
    let sampled = bank();
    assert_eq!(both(&sampled.image, 0, &schema_of::<Bank>()), Ok(0));
}

#[test]
fn the_bytes_may_lie_elsewhere_than_their_pointers_say() {
    let sampled = bank();
    // The image is no mapping at BASE, and a moved copy of it marks as well.
    let copy = sampled.image.bytes.clone();
    let view = View {
        home_base: BASE,
        other_base: BASE,
        bytes: &copy,
    };
    assert!(mark(&schema_of::<Bank>(), sampled.root, view, &sampled.image).is_ok());
}

/// Damages a bank and looks at what marking says of it.
#[track_caller]
fn damaged(path: &str, what: &str, damage: impl FnOnce(&mut Image, u64, &Bank)) {
    let Sampled {
        mut image,
        root,
        bank,
    } = bank();
    damage(&mut image, home(root), &bank);
    let found = both(&image, root, &schema_of::<Bank>()).expect_err("it is damaged");
    assert_eq!(
        (found.path.as_str(), found.what.as_str()),
        (path, what),
        "at {:#x}",
        found.offset
    );
    // The public face says the same.
    match mark(&schema_of::<Bank>(), root, image.view(), &image) {
        Err(Error::BadData {
            path, offset, what, ..
        }) => assert_eq!(
            Damage { path, offset, what },
            found,
            "two runs say two things"
        ),
        other => panic!("{other:?}"),
    }
}

const NULL: &str = "a null pointer";

#[test]
#[cfg_attr(miri, ignore = "safe code, many steps")]
fn bad_pointers_are_found() {
    let second = |bank: &Bank| home(bank.accounts.0.ptr) + size_of::<Account>() as u64;
    damaged("accounts[1].owner", NULL, |image, _, bank| {
        image.write(second(bank), 0u64);
    });
    damaged(
        "accounts[1].owner",
        "pointer 0x7 leads out of the region",
        |image, _, bank| image.write(second(bank), 7u64),
    );
    damaged(
        "accounts[1].owner",
        "pointer 0x200040000000 leads to no block: nothing is allocated there",
        |image, _, bank| image.write(second(bank), BASE),
    );
    damaged(
        "pair.0",
        "pointer 0x3ffffffffff8 leads out of the region",
        |image, root, _| {
            let at = root
                + (offset_of!(Bank, pair) + offset_of!((PBox<u64>, Tagged<PBox<u32>>), 0)) as u64;
            image.write(at, 0x3fff_ffff_fff8u64);
        },
    );
    let list = offset_of!(Bank, list) as u64;
    let Sampled { bank: found, .. } = bank();
    let head = found.list.map_or(0, |node| node.0.ptr.get());
    damaged(
        "list",
        &format!("pointer {:#x} is not aligned to 8", head + 4),
        |image, root, _| image.write(root + list, head + 4),
    );
    damaged(
        "list",
        &format!(
            "pointer {:#x} leads to no block: it is not the start of a block",
            head + 8
        ),
        |image, root, _| image.write(root + list, head + 8),
    );
    let path = "list.next.next";
    damaged(
        path,
        NULL.replace("a null pointer", "pointer 0x8 leads out of the region")
            .as_str(),
        |image, _, _| {
            let mut at = head;
            for _ in 0..1 {
                at = u64::from_le_bytes(image.bytes[home(at) as usize..][..8].try_into().unwrap());
            }
            image.write(home(at), 8u64);
        },
    );
}

#[test]
fn the_root_is_checked_as_well() {
    let schema = schema_of::<Bank>();
    let Sampled { image, root, .. } = bank();
    let damage = both(&image, root + 8, &schema).unwrap_err();
    assert_eq!(damage.path, "root");
    assert_eq!(
        damage.offset,
        offset_of!(crate::layout::HeapHeader, root) as u64
    );
    let damage = both(&image, BASE - 8, &schema).unwrap_err();
    assert!(damage.what.ends_with("leads out of the region"));
    let small = image.table.keys().next().copied().unwrap();
    let damage = both(&image, BASE + small, &schema).unwrap_err();
    assert!(damage.what.contains("bytes are needed"), "{}", damage.what);
}

#[test]
#[cfg_attr(miri, ignore = "safe code, many steps")]
fn lengths_and_capacities_are_checked() {
    let accounts = |field| offset_of!(Bank, accounts) as u64 + field;
    let (cap, len) = (8, 16);
    damaged(
        "accounts",
        "length 5 is over the capacity 4",
        |image, root, _| image.write(root + accounts(len), 5u64),
    );
    let Sampled { bank, .. } = bank();
    let size = size_of::<Account>() as u64;
    damaged(
        "accounts",
        &format!(
            "{} bytes are needed, the block at {:#x} has {}",
            5 * size,
            bank.accounts.0.ptr,
            4 * size
        ),
        |image, root, _| image.write(root + accounts(cap), 5u64),
    );
    damaged(
        "accounts",
        &format!("a capacity of {} elements of {size} bytes", u64::MAX),
        |image, root, _| image.write(root + accounts(cap), u64::MAX),
    );
    let flags = offset_of!(Bank, flags) as u64 + 24;
    damaged("flags[1]", NULL, |image, root, _| {
        image.write(root + flags, 0u64);
    });
}

#[test]
#[cfg_attr(miri, ignore = "safe code, many steps")]
fn two_owners_of_one_block_are_both_named() {
    let Sampled { bank, .. } = bank();
    let shared = bank.pair.0.0.ptr.get();
    damaged(
        "pair.0",
        &format!("the block at {shared:#x} is owned by by_id{{key -2}} already"),
        |image, _, bank| {
            let at = home(bank.by_id.0.ptr) + 80 + 2 * 16 + 8;
            image.write(at, shared);
        },
    );
    // A list that bites its tail.
    damaged(
        "list.next.next",
        &format!(
            "the block at {:#x} is owned by list already",
            bank.list.unwrap().0.ptr
        ),
        |image, _, bank| {
            let head = bank.list.unwrap().0.ptr.get();
            let at = home(head) as usize;
            let next = u64::from_le_bytes(image.bytes[at..at + 8].try_into().unwrap());
            image.write(home(next), head);
        },
    );
}

#[test]
#[cfg_attr(miri, ignore = "safe code, many steps")]
fn values_are_checked() {
    let field = |bank: &Bank, account: u64, field: usize| {
        home(bank.accounts.0.ptr) + account * size_of::<Account>() as u64 + field as u64
    };
    let plan = offset_of!(Account, plan);
    damaged("accounts[2].active", "3 is no bool", |image, _, bank| {
        image.write(field(bank, 2, offset_of!(Account, active)), 3u8);
    });
    damaged(
        "accounts[0].plan",
        "no variant has the tag 2",
        |image, _, bank| {
            image.write(field(bank, 0, plan), 2u8);
        },
    );
    damaged(
        "accounts[1].plan::Saving.rate",
        "zero in a number that is never zero",
        |image, _, bank| image.write(field(bank, 1, plan + offset_of!(Plan, rate)), 0u32),
    );
    damaged(
        "accounts[1].plan::Saving.sign",
        "0xd800 is no char",
        |image, _, bank| image.write(field(bank, 1, plan + offset_of!(Plan, sign)), 0xd800u32),
    );
    damaged("accounts[2].plan::Joint.0", NULL, |image, _, bank| {
        image.write(field(bank, 2, plan + offset_of!(Plan, joint)), 0u64);
    });
    damaged(
        "accounts[2].plan::Joint.0.active",
        "255 is no bool",
        |image, _, bank| {
            let at = field(bank, 2, plan + offset_of!(Plan, joint)) as usize;
            let ptr = u64::from_le_bytes(image.bytes[at..at + 8].try_into().unwrap());
            image.write(home(ptr) + offset_of!(Account, active) as u64, 255u8);
        },
    );
    damaged("letters[1]", "0x110000 is no char", |image, _, bank| {
        image.write(home(bank.letters.value.0.ptr) + 4, 0x11_0000u32);
    });
    damaged("flags[2][4]", "2 is no bool", |image, _, bank| {
        image.write(home(bank.flags[2].0.ptr) + 4, 2u8);
    });
    damaged("pair.1", "no variant has the tag 2", |image, root, _| {
        let at = offset_of!(Bank, pair) + offset_of!((PBox<u64>, Tagged<PBox<u32>>), 1);
        image.write(root + at as u64, 2u32);
    });
    damaged(
        "letters",
        "the word of a lock is 0x1 instead of zero",
        |image, root, _| image.write(root + offset_of!(Bank, letters) as u64, 1u64),
    );
    damaged(
        "accounts[0].owner",
        "the text is not UTF-8 from byte 1 on",
        |image, _, bank| {
            let at = field(bank, 0, 0) as usize;
            let ptr = u64::from_le_bytes(image.bytes[at..at + 8].try_into().unwrap());
            image.write(home(ptr) + 1, 0xffu8);
        },
    );
    let short = |text: [u8; 2], len: u8| {
        move |image: &mut Image, _: u64, bank: &Bank| {
            let mut bytes = [0; RawStr::ROOM];
            bytes[..2].copy_from_slice(&text);
            let tag = RawStr::SHORT + len;
            image.write(field(bank, 0, 0), RawStr { bytes, tag });
        }
    };
    damaged(
        "accounts[0].owner",
        "the text is not UTF-8 from byte 1 on",
        short([b'a', 0xff], 2),
    );
    damaged(
        "accounts[0].owner",
        "length 24 is over the capacity 23",
        short(*b"ab", 24),
    );
    let Sampled {
        mut image,
        root,
        bank,
    } = bank();
    short(*b"ab", 2)(&mut image, root, &bank);
    let found = both(&image, root, &schema_of::<Bank>());
    found.expect("a short text leads nowhere");
}

#[test]
#[cfg_attr(miri, ignore = "safe code, many steps")]
fn what_is_unused_may_hold_anything() {
    let Sampled {
        mut image,
        root,
        bank,
    } = bank();
    let schema = schema_of::<Bank>();
    let live = both(&image, root, &schema).unwrap();
    // Beyond the length of a vector, the payload of another variant, plain data, and an entry
    // without a key.
    let last = home(bank.accounts.0.ptr) + 3 * size_of::<Account>() as u64;
    for i in 0..size_of::<Account>() as u64 {
        image.write(last + i, 0xffu8);
    }
    let plan = home(bank.accounts.0.ptr) + offset_of!(Account, plan) as u64;
    image.write(plan + offset_of!(Plan, joint) as u64, u64::MAX);
    image.write(home(bank.rows.0.ptr), u64::MAX);
    image.write(home(bank.by_id.0.ptr) + 80 + 16 + 8, u64::MAX);
    assert_eq!(both(&image, root, &schema), Ok(live));
}

#[test]
#[cfg_attr(miri, ignore = "safe code, many steps")]
fn tables_are_checked() {
    let at = |field: u64| offset_of!(Bank, by_id) as u64 + field;
    let (mask, items, growth) = (8, 16, 24);
    damaged("by_id", "a table with mask 0x3e", |image, root, _| {
        image.write(root + at(mask), 62u64);
    });
    damaged("by_id", "a table with mask 0x7", |image, root, _| {
        image.write(root + at(mask), 7u64);
    });
    damaged(
        "by_id",
        &format!("a table with mask {:#x}", u64::MAX),
        |image, root, _| image.write(root + at(mask), u64::MAX),
    );
    damaged(
        "by_id",
        &format!("a capacity of {} elements of 16 bytes", 1u64 << 63),
        |image, root, _| image.write(root + at(mask), (1u64 << 63) - 1),
    );
    damaged(
        "by_id",
        "a table without a block, but with 23 items and room for 32",
        |image, root, _| image.write(root + at(mask), 0u64),
    );
    damaged("by_id", "a table of 24 items has 23", |image, root, _| {
        image.write(root + at(items), 24u64);
    });
    damaged(
        "by_id",
        "a table of 64 buckets with 23 items and 1 deleted ones cannot have room for 33",
        |image, root, _| image.write(root + at(growth), 33u64),
    );
    damaged(
        "by_id",
        "control byte 0x81 of bucket 3",
        |image, _, bank| image.write(home(bank.by_id.0.ptr) + 3, 0x81u8),
    );
    damaged(
        "by_id",
        "the copy of control byte 2 differs",
        |image, _, bank| image.write(home(bank.by_id.0.ptr) + 64 + 2, 0x33u8),
    );
    let Sampled { bank, .. } = bank();
    let table = bank.by_id.0.ptr;
    damaged(
        "by_id",
        &format!(
            "{} bytes are needed, the block at {table:#x} has {}",
            128 + 16 + 128 * 16,
            64 + 16 + 64 * 16
        ),
        |image, root, _| image.write(root + at(mask), 127u64),
    );
    damaged("by_id{key -3}", NULL, |image, _, bank| {
        image.write(home(bank.by_id.0.ptr) + 80 + 8, 0u64);
    });
    // 16 control bytes and their copies, then entries of a string and an option.
    let entry = |bank: &Bank, i: u64| home(bank.by_name.0.ptr) + 32 + 2 * i * 32;
    damaged("by_name{key \"bob\"}", "7 is no bool", |image, _, bank| {
        image.write(entry(bank, 1) + 24, 7u8);
    });
    damaged(
        "by_name[slot 4]",
        "length 99 is over the capacity 5",
        |image, _, bank| image.write(entry(bank, 2) + 16, 99u64),
    );
}

#[test]
#[cfg_attr(miri, ignore = "safe code, many steps")]
fn long_ways_are_shown_by_their_ends() {
    let mut image = Image::new();
    let mut list = image.boxed(Node {
        next: None,
        value: 0,
    });
    image.write(home(list.0.ptr.get()), 8u64);
    for value in 0..100_000 {
        list = image.boxed(Node {
            next: Some(list),
            value,
        });
    }
    let damage = both(&image, list.0.ptr.get(), &schema_of::<Node>()).unwrap_err();
    assert!(damage.path.starts_with("next.next.next"));
    assert!(damage.path.contains("… 99953 more …"), "{}", damage.path);
    assert!(damage.path.len() < 400);
}

#[test]
fn deep_and_wide_structures_are_marked_by_all_workers() {
    let mut image = Image::new();
    let wide: Vec<PBox<PVec<PBox<u64>>>> = (0..if cfg!(miri) { 20 } else { 300 })
        .map(|n| {
            let inner: Vec<_> = (0..n).map(|n| image.boxed(n)).collect();
            let inner = image.vec(&inner);
            image.boxed(inner)
        })
        .collect();
    let wide = image.vec(&wide);
    let root = image.boxed(wide).0.ptr.get();
    let live = image.table.len() as u64;
    let schema = schema_of::<PVec<PBox<PVec<PBox<u64>>>>>();
    if cfg!(miri) {
        assert_eq!(both(&image, root, &schema), Ok(live));
        return;
    }
    for threads in [1, 2, 7] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        assert_eq!(pool.install(|| both(&image, root, &schema)), Ok(live));
    }
}

#[test]
#[cfg_attr(miri, ignore = "safe code, many steps")]
fn a_large_table_is_marked_in_pieces() {
    let mut image = Image::new();
    let entries: Vec<_> = (0..3000u32).map(|n| (n, image.boxed(n))).collect();
    let map = image.map(&entries);
    let root = image.boxed(map).0.ptr.get();
    let live = image.table.len() as u64;
    let schema = schema_of::<PMap<u32, PBox<u32>>>();
    assert_eq!(both(&image, root, &schema), Ok(live));
    image.write(home(map.0.ptr) + 8192 + 16 + 2 * 2999 * 16 + 8, 1u64);
    let damage = both(&image, root, &schema).unwrap_err();
    assert_eq!(damage.path, "root{key 2999}");
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "safe code, many steps")]
    fn any_damage_is_found_or_harmless(
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let Sampled { mut image, root, .. } = bank();
        for (at, value) in hits {
            let at = at.index(image.bytes.len());
            image.bytes[at] = value;
        }
        let _ = both(&image, root, &schema_of::<Bank>());
    }

    #[test]
    #[cfg_attr(miri, ignore = "safe code, many steps")]
    fn words_that_look_like_pointers_are_found_or_harmless(
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6),
    ) {
        let Sampled { mut image, root, .. } = bank();
        let starts: Vec<u64> = image.table.keys().copied().collect();
        for (at, to) in hits {
            let at = at.index(image.bytes.len() / 8 - 1) as u64 * 8;
            image.write(at, BASE + starts[to.index(starts.len())]);
        }
        let _ = both(&image, root, &schema_of::<Bank>());
    }

    #[test]
    #[cfg_attr(miri, ignore = "safe code, many steps")]
    fn a_cut_off_or_foreign_image_is_an_error(
        len in any::<prop::sample::Index>(),
        noise in any::<u8>(),
    ) {
        let Sampled { mut image, root, .. } = bank();
        // The last block may end in room that nobody uses.
        let len = len.index(image.bytes.len() * 3 / 4);
        image.bytes[len..].fill(noise);
        let _ = both(&image, root, &schema_of::<Bank>());
        image.bytes.truncate(len);
        prop_assert!(both(&image, root, &schema_of::<Bank>()).is_err());
    }
}

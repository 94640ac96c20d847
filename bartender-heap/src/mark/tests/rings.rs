//! Rings, boxes of slices and of text, and numbers with a bound.

use super::image::{BASE, Image, home};
use super::{Damage, both};
use crate::types::sample::{
    PBox, PDeque, PSlice, PString, PText, Sample, sample_struct, schema_of,
};
use crate::types::{Kind, SchemaBuilder, Type, TypeRef};
use proptest::prelude::*;
use std::mem::offset_of;

/// A number below ten.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Digit(#[allow(dead_code)] u64);

impl Sample for Digit {
    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Digit>(|_| Type::of::<Digit>("Digit", Kind::Below { end: 10 }))
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Shop {
    queue: PDeque<PString>,
    /// Of boxes only: such elements are visited in another way.
    boxes: PDeque<PBox<u64>>,
    plain: PDeque<u16>,
    empty: PDeque<bool>,
    rows: PSlice<PBox<u64>>,
    none: PSlice<bool>,
    name: PText,
    nobody: PText,
    digits: [Digit; 3],
}
sample_struct!(Shop {
    queue: PDeque<PString>,
    boxes: PDeque<PBox<u64>>,
    plain: PDeque<u16>,
    empty: PDeque<bool>,
    rows: PSlice<PBox<u64>>,
    none: PSlice<bool>,
    name: PText,
    nobody: PText,
    digits: [Digit; 3],
});

fn shop() -> (Image, u64, Shop) {
    let mut image = Image::new();
    let i = &mut image;
    let queue: Vec<_> = ["Ada", "", "Bob", "Cleo"].map(|name| i.text(name)).into();
    let boxes: Vec<_> = (0..900).map(|n| i.boxed(n)).collect();
    let rows: Vec<_> = (0..3).map(|n| i.boxed(n)).collect();
    let shop = Shop {
        queue: i.deque(&queue, 5, 3),
        boxes: i.deque(&boxes, 1000, 700),
        plain: i.deque(&[1u16; 7], 7, 6),
        empty: i.deque(&[], 0, 0),
        rows: i.slice(&rows),
        none: i.slice(&[]),
        name: i.boxed_text("söta"),
        nobody: i.boxed_text(""),
        digits: [Digit(0), Digit(5), Digit(9)],
    };
    let root = i.boxed(shop).0.ptr.get();
    (image, root, shop)
}

#[test]
fn rings_and_slices_are_marked_whole() {
    let (mut image, root, _) = shop();
    let live = image.table.len() as u64;
    image.block(64, 8);
    assert_eq!(both(&image, root, &schema_of::<Shop>()), Ok(live));
}

#[track_caller]
fn damaged(path: &str, what: &str, damage: impl FnOnce(&mut Image, u64, &Shop)) {
    let (mut image, root, shop) = shop();
    damage(&mut image, home(root), &shop);
    let found = both(&image, root, &schema_of::<Shop>()).expect_err("it is damaged");
    let Damage {
        path: at,
        what: why,
        ..
    } = found;
    assert_eq!((at.as_str(), why.as_str()), (path, what));
}

#[test]
#[cfg_attr(miri, ignore = "safe code, many steps")]
fn what_is_wrong_with_a_ring_or_a_slice_is_said_with_its_place() {
    let at = |field: usize, word: u64| field as u64 + 8 * word;
    let queue = offset_of!(Shop, queue);
    damaged(
        "queue",
        "length 6 is over the capacity 5",
        |image, root, _| {
            image.write(root + at(queue, 3), 6u64);
        },
    );
    damaged(
        "queue",
        "a ring of 5 places begins at place 5",
        |image, root, _| {
            image.write(root + at(queue, 2), 5u64);
        },
    );
    let empty = offset_of!(Shop, empty);
    damaged(
        "empty",
        "a ring of 0 places begins at place 1",
        |image, root, _| {
            image.write(root + at(empty, 2), 1u64);
        },
    );
    // Element 2 stands at place 0, behind the end.
    damaged("queue[2]", "a null pointer", |image, _, shop| {
        image.write(home(shop.queue.0.ptr), 0u64);
    });
    damaged("boxes[899]", "a null pointer", |image, _, shop| {
        image.write(home(shop.boxes.0.ptr) + 8 * 599, 0u64);
    });
    damaged(
        "rows",
        "a capacity of 2305843009213693952 elements of 8 bytes",
        |image, root, _| {
            image.write(root + at(offset_of!(Shop, rows), 1), 1u64 << 61);
        },
    );
    damaged(
        "rows[1]",
        "pointer 0x200040000000 leads to no block: nothing is allocated there",
        |image, _, shop| {
            image.write(home(shop.rows.0.ptr.get()) + 8, BASE);
        },
    );
    damaged(
        "name",
        "the text is not UTF-8 from byte 1 on",
        |image, _, shop| {
            image.write(home(shop.name.0.ptr.get()) + 2, b'x');
        },
    );
    damaged("digits[1]", "10 is not below 10", |image, root, _| {
        image.write(root + at(offset_of!(Shop, digits), 1), 10u64);
    });
    damaged("nobody", "a null pointer", |image, root, _| {
        image.write(root + at(offset_of!(Shop, nobody), 0), 0u64);
    });
}

#[test]
fn what_no_element_is_in_may_hold_anything() {
    let (mut image, root, shop) = shop();
    let live = image.table.len() as u64;
    // Place 2 of 5 is free: four elements from place 3 on.
    image.write(home(shop.queue.0.ptr) + 2 * 24, [7u64; 3]);
    assert_eq!(both(&image, root, &schema_of::<Shop>()), Ok(live));
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "safe code, many steps")]
    fn any_damage_of_rings_is_found_or_harmless(
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        raw in prop::collection::vec((0..27u64, 0..1100u64), 0..3),
    ) {
        let (mut image, root, _) = shop();
        for (at, value) in hits {
            let at = at.index(image.bytes.len());
            image.bytes[at] = value;
        }
        for (word, value) in raw {
            image.write(home(root) + word * 8, value);
        }
        let _ = both(&image, root, &schema_of::<Shop>());
    }
}

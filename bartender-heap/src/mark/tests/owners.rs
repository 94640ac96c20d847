//! Blocks with several owners, and the types that may not be there.

use super::image::{BASE, Image, home};
use super::{Damage, both};
use crate::types::sample::{PBox, PLock, PVec, Sample, sample_struct, schema_of};
use crate::types::{Kind, Schema, SchemaBuilder, Type, TypeRef};
use std::marker::PhantomData;

/// A counted block of an account book.
#[derive(Clone, Copy)]
#[repr(C)]
struct Counted<T> {
    count: u64,
    value: T,
}

impl<T: Sample> Sample for Counted<T> {
    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Self>(|b| {
            let field = |name: &str, offset, ty| crate::types::Field {
                name: name.into(),
                offset,
                ty,
            };
            let value = std::mem::offset_of!(Self, value) as u64;
            let fields = vec![
                field("count", 0, u64::describe(b)),
                field("value", value, T::describe(b)),
            ];
            Type::of::<Self>("Counted", Kind::Struct { fields })
        })
    }
}

macro_rules! pointer {
    ($name:ident, $kind:ident, $of:ty) => {
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        struct $name<T>(u64, PhantomData<fn() -> T>);

        impl<T: Sample> Sample for $name<T> {
            fn describe(b: &mut SchemaBuilder) -> TypeRef {
                b.define::<Self>(|b| {
                    let elem = <$of>::describe(b);
                    Type::of::<Self>(stringify!($name), Kind::$kind { elem })
                })
            }
        }
    };
}
pointer!(PShared, Shared, Counted<T>);
pointer!(PRcu, Rcu, T);

#[derive(Clone, Copy)]
#[repr(C)]
struct Book {
    first: PShared<PVec<u64>>,
    others: PVec<PShared<PVec<u64>>>,
    number: PShared<u64>,
}
sample_struct!(Book {
    first: PShared<PVec<u64>>,
    others: PVec<PShared<PVec<u64>>>,
    number: PShared<u64>,
});

fn counted<S, T: Copy>(image: &mut Image, count: u64, value: T) -> (PShared<S>, u64) {
    let ptr = image.boxed(Counted { count, value }).0.ptr.get();
    (PShared(ptr, PhantomData), home(ptr))
}

/// A vector with `said` owners by its own account, and four of them.
fn book(said: u64) -> (Image, u64, Book, u64) {
    let mut image = Image::new();
    let list = image.vec(&[1u64, 2]);
    let (first, at) = counted(&mut image, said, list);
    let (number, _) = counted(&mut image, 1, 5u64);
    let others = image.vec(&[first; 3]);
    let book = Book {
        first,
        others,
        number,
    };
    let root = image.boxed(book).0.ptr.get();
    (image, root, book, at)
}

#[test]
fn a_shared_block_is_marked_once_and_its_count_is_that_of_its_owners() {
    let (image, root, ..) = book(4);
    let live = image.table.len() as u64;
    assert_eq!(both(&image, root, &schema_of::<Book>()), Ok(live));
    for said in [0, 3, 5, u64::MAX] {
        let (image, root, _, at) = book(said);
        let found = both(&image, root, &schema_of::<Book>()).expect_err("the count is wrong");
        let ptr = BASE + at;
        let what = format!("the shared block at {ptr:#x} counts {said} owners and has 4");
        let (path, offset) = ("first".to_owned(), at);
        assert_eq!(found, Damage { path, offset, what });
    }
}

#[test]
fn a_shared_block_is_of_one_type_and_no_box_has_it() {
    let (mut image, root, book, at) = book(4);
    let number = home(root) + std::mem::offset_of!(Book, number) as u64;
    image.write(number, book.first);
    let found = both(&image, root, &schema_of::<Book>()).expect_err("it is two things");
    let ptr = BASE + at;
    let what = format!("the block at {ptr:#x} is shared as values of two types");
    assert_eq!((found.path.as_str(), found.what), ("number", what));

    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Mixed {
        shared: PShared<u64>,
        boxed: PBox<Counted<u64>>,
    }
    sample_struct!(Mixed {
        shared: PShared<u64>,
        boxed: PBox<Counted<u64>>,
    });
    let mut image = Image::new();
    let boxed = image.boxed(Counted {
        count: 1,
        value: 7u64,
    });
    let shared = PShared(boxed.0.ptr.get(), PhantomData);
    let root = image.boxed(Mixed { shared, boxed }).0.ptr.get();
    let found = both(&image, root, &schema_of::<Mixed>()).expect_err("it has a box, too");
    let what = format!("the block at {:#x} is owned by shared already", shared.0);
    assert_eq!((found.path.as_str(), found.what), ("boxed", what));
}

#[test]
fn versions_lead_to_nothing_that_changes_by_itself() {
    fn schema<T: Sample>() -> Result<Schema, crate::types::BadSchema> {
        Schema::of(PRcu::<T>::describe)
    }
    assert!(schema::<PVec<PBox<u64>>>().is_ok());
    let refused = [
        schema::<PVec<PLock<u64>>>(),
        schema::<PBox<PShared<u64>>>(),
        schema::<PVec<PRcu<u64>>>(),
    ];
    for refused in refused {
        let error = refused.expect_err("it changes by itself").to_string();
        assert!(error.contains("readers of an old version"), "{error}");
    }
    // The other way round is well.
    assert!(Schema::of(PShared::<PRcu<u64>>::describe).is_ok());
    assert!(Schema::of(PShared::<PLock<u64>>::describe).is_ok());
    let kinds = Schema::of(PShared::<(PRcu<u64>, PRcu<u64>)>::describe).expect("well formed");
    assert_eq!(Schema::decode(&kinds.encode()), Ok(kinds));
}

#[test]
fn a_shared_block_begins_with_a_count() {
    let schema = Schema::of(|b| {
        b.define::<PShared<u32>>(|b| {
            let elem = PBox::<u32>::describe(b);
            Type::of::<PShared<u32>>("PShared", Kind::Shared { elem })
        })
    });
    let error = schema.expect_err("no count").to_string();
    assert!(error.contains("does not begin with a count"), "{error}");
}

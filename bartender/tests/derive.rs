//! What the derive macros generate: descriptions, padding, projections' shape.

use bartender::{PBox, PHashMap, PString, PVec, Persist, PlainData};
use bartender_heap::types::{Kind, Schema};
use std::mem::{MaybeUninit, offset_of};

/// Public, with fields of each visibility.
#[derive(Persist)]
#[repr(C)]
pub struct Account {
    /// Public.
    pub owner: PString,
    pub(crate) cents: u64,
    open: bool,
}

#[derive(Persist, Default)]
#[repr(C)]
struct Pair<A, B>
where
    B: Send,
{
    first: A,
    second: B,
}

#[derive(Persist)]
#[repr(C)]
struct Node<T: Persist> {
    value: T,
    next: Option<PBox<Node<T>>>,
    children: PVec<Node<T>>,
    by_name: PHashMap<PString, Node<T>>,
}

#[derive(Persist, Clone, Copy)]
#[repr(C)]
struct Meters(f64);

#[derive(Persist)]
#[repr(transparent)]
struct Wrapper<T>(T);

#[derive(Persist, Clone, Copy)]
#[repr(C)]
struct Nothing;

#[derive(Persist)]
#[repr(C)]
struct Grid<T, const N: usize> {
    cells: [T; N],
}

#[derive(Persist, PlainData, Clone, Copy, PartialEq, Debug)]
#[repr(C)]
struct Point {
    x: i32,
    y: i32,
}

#[derive(Persist, PlainData, Clone, Copy, PartialEq, Debug)]
#[repr(u8)]
enum Color {
    Red = 3,
    Green,
    Blue = 9,
}

#[derive(Persist, Clone)]
#[repr(u8)]
enum Shape<T> {
    Empty,
    Dot(u16, u32) = 5,
    Named { name: PString, of: T },
    Last(u8),
}

#[derive(Persist, Clone)]
#[repr(C, u8)]
enum Prefixed<T> {
    Small(u8, u16),
    Large { a: u8, b: T },
    None,
}

/// `Self` in a field means the declared type, also where the macro copies the field elsewhere.
#[derive(Persist, Clone, Debug)]
#[repr(u8)]
enum List<T: Persist> {
    Nil,
    Cons(T, PBox<Self>),
}

#[derive(Persist)]
#[repr(C)]
struct Tree {
    r#type: Color,
    branches: [Option<PBox<Self>>; 2],
}

fn schema<T: Persist>() -> Schema {
    Schema::of(T::describe).expect("a derived description is well formed")
}

#[test]
fn a_struct_is_described_as_it_lies_in_memory() {
    let schema = schema::<Account>();
    let root = schema.get(schema.root());
    assert_eq!(
        (root.name.as_str(), root.size as usize),
        ("Account", size_of::<Account>())
    );
    let Kind::Struct { fields } = &root.kind else {
        panic!("{root:?}")
    };
    let found: Vec<_> = fields
        .iter()
        .map(|f| (f.name.as_str(), f.offset as usize, schema.name(f.ty)))
        .collect();
    assert_eq!(
        found,
        [
            ("owner", offset_of!(Account, owner), "PString".to_owned()),
            ("cents", offset_of!(Account, cents), "u64".to_owned()),
            ("open", offset_of!(Account, open), "bool".to_owned()),
        ]
    );
}

#[test]
fn recursive_and_generic_types_have_descriptions() {
    let recursive = schema::<Node<Pair<u8, PVec<PString>>>>();
    assert_eq!(
        recursive.name(recursive.root()),
        "Node<Pair<u8, PVec<PString>>>"
    );
    for shape in [
        schema::<Wrapper<Meters>>(),
        schema::<Nothing>(),
        schema::<List<PString>>(),
        schema::<Tree>(),
        schema::<Grid<Color, 3>>(),
        schema::<Pair<Nothing, Shape<Point>>>(),
        schema::<Prefixed<Account>>(),
    ] {
        assert_eq!(Schema::decode(&shape.encode()).as_ref(), Ok(&shape));
    }
}

/// Offsets of a value's parts, found in the value itself.
fn offset<T, F>(whole: &T, part: &F) -> u64 {
    ((&raw const *part).addr() - (&raw const *whole).addr()) as u64
}

#[test]
fn variants_are_described_where_the_compiler_puts_them() {
    let described = |schema: &Schema, variant: usize| -> (u64, Vec<u64>) {
        let Kind::Enum {
            tag_offset: 0,
            tag_size: 1,
            variants,
        } = &schema.get(schema.root()).kind
        else {
            panic!("{schema}")
        };
        let v = &variants[variant];
        (v.tag, v.fields.iter().map(|f| f.offset).collect())
    };
    let schema_of_shape = schema::<Shape<u128>>();
    let dot = Shape::<u128>::Dot(1, 2);
    let Shape::Dot(a, b) = &dot else {
        unreachable!()
    };
    assert_eq!(
        described(&schema_of_shape, 1),
        (5, vec![offset(&dot, a), offset(&dot, b)])
    );
    let named = Shape::Named {
        name: "n".into(),
        of: 1u128,
    };
    let Shape::Named { name, of } = &named else {
        unreachable!()
    };
    assert_eq!(
        described(&schema_of_shape, 2),
        (6, vec![offset(&named, name), offset(&named, of)])
    );
    assert_eq!(described(&schema_of_shape, 0), (0, vec![]));
    let last = Shape::<u128>::Last(1);
    let Shape::Last(a) = &last else {
        unreachable!()
    };
    assert_eq!(described(&schema_of_shape, 3), (7, vec![offset(&last, a)]));

    let schema_of_prefixed = schema::<Prefixed<u64>>();
    let small = Prefixed::<u64>::Small(1, 2);
    let Prefixed::Small(a, b) = &small else {
        unreachable!()
    };
    assert_eq!(
        described(&schema_of_prefixed, 0),
        (0, vec![offset(&small, a), offset(&small, b)])
    );
    let large = Prefixed::Large { a: 1, b: 2u64 };
    let Prefixed::Large { a, b } = &large else {
        unreachable!()
    };
    assert_eq!(
        described(&schema_of_prefixed, 1),
        (1, vec![offset(&large, a), offset(&large, b)])
    );

    let schema_of_color = schema::<Color>();
    let tags: Vec<_> = (0..3).map(|i| described(&schema_of_color, i).0).collect();
    assert_eq!(
        tags,
        [Color::Red as u64, Color::Green as u64, Color::Blue as u64]
    );
}

/// The bytes of a value that was written over bytes of 0xAA and whose padding was then zeroed.
fn bytes_without_padding<T: Persist>(value: T) -> Vec<u8> {
    let mut place = MaybeUninit::<T>::uninit();
    let at = place.as_mut_ptr();
    // SAFETY: the place is as large as the value, and all of its bytes are written before they are read: by the
    // fill, by the value, and where the value has padding by `zero_padding`.
    unsafe {
        at.cast::<u8>().write_bytes(0xaa, size_of::<T>());
        at.write(value);
        T::zero_padding(at);
        std::slice::from_raw_parts(at.cast::<u8>(), size_of::<T>()).to_vec()
    }
}

#[test]
fn padding_is_zeroed() {
    let pair = Pair {
        first: 0xffu8,
        second: Pair {
            first: u32::MAX,
            second: 0xffu8,
        },
    };
    assert_eq!(
        bytes_without_padding(pair),
        [0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]
    );
    assert_eq!(
        bytes_without_padding(Shape::<u8>::Dot(u16::MAX, u32::MAX))[..8],
        [5, 0, 255, 255, 255, 255, 255, 255]
    );
    let empty = bytes_without_padding(Shape::<u64>::Empty);
    assert!(empty.iter().all(|&byte| byte == 0));
    let small = bytes_without_padding(Prefixed::<u32>::Small(0xff, u16::MAX));
    assert_eq!(small, [0, 0, 0, 0, 0xff, 0, 0xff, 0xff, 0, 0, 0, 0]);
    assert_eq!(
        bytes_without_padding(Prefixed::<u32>::None),
        [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(bytes_without_padding(Wrapper(7u16)), 7u16.to_ne_bytes());
}

#[test]
fn owned_values_are_like_any_others() {
    let list = List::Cons(1, PBox::new(List::Cons(2, PBox::new(List::Nil))));
    assert_eq!(format!("{:?}", list.clone()), "Cons(1, Cons(2, Nil))");
    let List::Cons(1, tail) = list else { panic!() };
    assert!(matches!(&*tail, List::Cons(2, _)));
}

#[test]
fn pointers_are_seen_through_fields() {
    const {
        assert!(Account::HAS_POINTERS && !Account::HAS_LOCKS);
        assert!(!Pair::<u8, Meters>::HAS_POINTERS);
        assert!(Pair::<u8, Wrapper<PString>>::HAS_POINTERS);
        assert!(Shape::<u8>::HAS_POINTERS && !Prefixed::<u8>::HAS_POINTERS);
        assert!(Node::<u8>::HAS_POINTERS && !Grid::<Point, 4>::HAS_POINTERS);
    }
}

#[test]
fn projections_have_the_fields_names_and_visibility() {
    // Never called: that it compiles is the test.
    #[allow(dead_code)]
    fn account(mut account: bartender::Mut<'_, Account>) -> bartender::Result<()> {
        account.owner_mut().push_str("!")?;
        *account.cents_mut() += 1;
        *account.open_mut() = true;
        let AccountProj {
            mut owner,
            mut cents,
            open: _,
        } = account.into_project();
        owner.clear()?;
        *cents += owner.len() as u64;
        Ok(())
    }
    #[allow(dead_code)]
    fn shape(mut shape: bartender::Mut<'_, Shape<Point>>) -> bartender::Result<()> {
        match shape.project() {
            ShapeProj::Empty => {}
            ShapeProj::Dot(mut a, b) => *a = *b as u16,
            ShapeProj::Named { mut name, mut of } => {
                name.push('x')?;
                of.x += 1;
            }
            ShapeProj::Last(mut n) => n.set(3)?,
        }
        Ok(())
    }
    #[allow(dead_code)]
    fn selves(
        mut list: bartender::Mut<'_, List<u8>>,
        mut tree: bartender::Mut<'_, Tree>,
    ) -> bartender::Result<()> {
        if let ListProj::Cons(mut head, mut tail) = list.project() {
            *head += 1;
            tail.project().set(List::Cons(3, PBox::new(List::Nil)))?;
        }
        *tree.type_mut() = Color::Blue;
        tree.branches_mut().set([None, None])
    }
    #[allow(dead_code)]
    fn color(mut color: bartender::Mut<'_, Color>) -> ColorProj {
        color.project()
    }
    #[allow(dead_code)]
    fn pair(mut pair: bartender::Mut<'_, Pair<PString, Meters>>) -> bartender::Result<()> {
        pair.first_mut().set("one".into())?;
        let Pair { .. } = &*pair;
        let MetersProj(mut m) = pair.second_mut().into_project_again();
        *m += 1.0;
        Ok(())
    }
    trait IntoProjectAgain<'a> {
        fn into_project_again(self) -> MetersProj<'a>;
    }
    impl<'a> IntoProjectAgain<'a> for bartender::Mut<'a, Meters> {
        fn into_project_again(self) -> MetersProj<'a> {
            self.into_project()
        }
    }
}

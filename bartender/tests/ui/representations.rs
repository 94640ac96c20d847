//! Layouts that the compiler may change, or whose fields cannot be borrowed.

use bartender::Persist;

#[derive(Persist)]
struct NoRepr {
    cents: u64,
}

#[derive(Persist)]
#[repr(C)]
enum NoTagSize {
    A,
    B,
}

#[derive(Persist)]
#[repr(u16)]
enum WideTag {
    A,
    B,
}

#[derive(Persist)]
#[repr(C, packed)]
struct Packed {
    cents: u64,
}

#[derive(Persist)]
#[repr(C)]
union Either {
    a: u64,
    b: i64,
}

#[derive(Persist)]
#[repr(u8)]
enum Never {}

#[derive(Persist)]
#[repr(C)]
struct Borrows<'a> {
    name: std::borrow::Cow<'a, str>,
}

fn main() {}

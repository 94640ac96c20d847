//! What `#[persist(…)]` says about names and earlier types.

use bartender::Persist;

#[derive(Persist)]
#[repr(C)]
#[persist(form = Old)]
struct Unknown {
    cents: u64,
}

#[derive(Persist)]
#[repr(C)]
struct OnAField {
    #[persist(from = u32)]
    cents: u64,
}

#[derive(Persist)]
#[repr(C)]
struct TwoOfOneName {
    #[persist(name = "cents")]
    euros: u64,
    cents: u64,
}

#[derive(Persist)]
#[repr(u8)]
enum TwoVariants {
    A,
    #[persist(name = "A")]
    B,
}

#[derive(Persist)]
#[repr(C)]
struct Twice {
    #[persist(name = "a", name = "b")]
    cents: u64,
}

#[derive(Persist)]
#[repr(C)]
struct FromItself {
    #[persist(name = "a", renamed_from = "a")]
    cents: u64,
}

#[derive(Persist)]
#[repr(C)]
struct Nameless {
    #[persist(name = "")]
    cents: u64,
}

#[derive(Persist)]
#[repr(C)]
struct Old {
    cents: u32,
}

#[derive(Persist)]
#[repr(C)]
#[persist(from = Old)]
struct NoConversion {
    cents: u64,
}

#[derive(Persist)]
#[repr(C)]
#[persist(from = String)]
struct FromVolatile {
    cents: u64,
}

impl From<String> for FromVolatile {
    fn from(old: String) -> Self {
        FromVolatile {
            cents: old.len() as u64,
        }
    }
}

fn main() {}

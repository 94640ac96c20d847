//! A type without `Persist`.

use bartender::Persist;

struct Foreign;

#[derive(Persist)]
#[repr(C)]
struct Account {
    owner: Foreign,
}

fn main() {}

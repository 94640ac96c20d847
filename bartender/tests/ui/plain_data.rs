//! Plain data has no padding and no pointers.

use bartender::{PString, Persist, PlainData};

#[derive(Persist, PlainData, Clone, Copy)]
#[repr(C)]
struct Padded {
    small: u8,
    large: u64,
}

#[derive(Persist, PlainData, Clone)]
#[repr(C)]
struct Pointer {
    name: PString,
}

#[derive(Persist, PlainData, Clone, Copy)]
#[repr(C)]
struct Generic<T> {
    value: T,
}

fn main() {}

//! A stored value is not dropped by the program, so its `Drop` would never run.

use bartender::Persist;

#[derive(Persist)]
#[repr(C)]
struct File {
    handle: u64,
}

impl Drop for File {
    fn drop(&mut self) {}
}

fn main() {}

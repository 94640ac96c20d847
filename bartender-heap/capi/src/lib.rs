//! bartender for C: `malloc` and friends in a region, named roots, and the ways
//! to make stores durable. The reference is `include/bartender.h`.
//!
//! A region used through this interface has no types. Its data are marked
//! conservatively, so any word may be a pointer, and it is never moved to
//! another address. C code stores into the view as it likes, which nobody sees:
//! so pages of the view are not given back while it is open, and what becomes
//! durable is exactly what is asked for, range by range.
//!
//! What is promised to C: no panic crosses the boundary, a failing call sets
//! `errno` and a message of its thread, and allocating and freeing cost what
//! they cost in [`bartender_heap::Heap`] and a handful of instructions.
//!
//! [`malloc`], [`free`] are for benchmarks too;
//! the rest of this crate is no interface for Rust programs, which have the
//! crate `bartender`.

// Modules in dependency order, which rustfmt would sort: hence the paragraphs.

mod error;

mod core;

mod roots;

mod transaction;

mod handle;

// What C sees, by chapters of the header.
mod ffi_alloc;
mod ffi_durable;
mod ffi_heap;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod failure_tests;

pub use crate::core::Core;
pub use ffi_alloc::*;
pub use ffi_durable::*;
pub use ffi_heap::*;
pub use handle::bt_heap;
pub use transaction::bt_tx;

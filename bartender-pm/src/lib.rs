//! Placeholder.
mod error;
mod region;
pub mod sync;
pub use error::{Error, Result};
pub use region::{Durability, Opened, Options, Record, Region, Ticket, Writer};

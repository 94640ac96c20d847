//! A replicated region: the primary that ships its log, the backups that take it.
//!
//! The protocol is of the primary-backup kind of PacificA (Lin et al., 2008): the coordinator agrees on who is primary in
//! which epoch and who is *in sync*; the primary answers a commit when everybody who is in sync has it; who takes over is in sync;
//! a log takes nothing of an older epoch. So an old primary that does not know that it is over cannot answer anything: whoever
//! took its place would have to acknowledge it. What the lease is for is reading.

mod layout;

mod digest;
mod findings;

mod backup;
mod ring;

mod primary;
mod scrub;

pub(crate) use backup::{Answers, Counts, Slot, serve};
pub use findings::{Repaired, Scrubbed, Scrubs, Undecided, Unrepaired};
pub(crate) use layout::{Answer, Ask};
pub use primary::Lag;
pub(crate) use primary::{Bounds, Primary};

//! How a transaction that did not commit ends: it is tried again, or its caller is told why.

use crate::error::Error;
use crate::tx::Doom;
use bartender_pm::mutant;
use std::panic;
use std::time::{Duration, Instant};

/// How long a transaction is tried again when it conflicts with others.
const PATIENCE: Duration = Duration::from_secs(10);

/// With this a read guard unwinds out of a transaction that has to be tried again.
struct ConflictUnwind;

/// Leaves the running transaction, which is doomed by a conflict, from where no error can be returned.
pub(crate) fn unwind_conflict() -> ! {
    if cfg!(panic = "abort") {
        panic!("a read guard inside of a transaction would be a deadlock; use `tx.read`");
    }
    panic::resume_unwind(Box::new(ConflictUnwind))
}

/// Whether the closure may be called again: not if it panicked for a reason of its own.
pub(super) fn may_retry<T>(outcome: &std::thread::Result<T>) -> bool {
    outcome
        .as_ref()
        .err()
        .is_none_or(|panic| panic.is::<ConflictUnwind>())
}

/// Lets others go first; `false` when it has lasted too long.
pub(super) fn back_off(started: &mut Option<(Instant, u32)>) -> bool {
    let (start, tries) = started.get_or_insert_with(|| (Instant::now(), 0));
    *tries += 1;
    match *tries {
        0..=3 => std::thread::yield_now(),
        tries => std::thread::sleep(Duration::from_micros(1 << tries.min(10))),
    }
    start.elapsed() < PATIENCE && !mutant::is("no_patience")
}

/// What the caller of a transaction that was taken back gets.
#[cold]
pub(super) fn failure<A, E: From<Error>>(
    outcome: std::thread::Result<Result<A, E>>,
    doom: Option<Doom>,
) -> E {
    match (outcome, doom) {
        (Err(panic), _) if panic.is::<ConflictUnwind>() => Error::Conflict.into(),
        (Err(panic), _) => panic::resume_unwind(panic),
        (Ok(Err(error)), _) => error,
        (Ok(Ok(_)), Some(Doom::Failed(cause))) => Error::Doomed { cause }.into(),
        (Ok(Ok(_)), _) => Error::Conflict.into(),
    }
}

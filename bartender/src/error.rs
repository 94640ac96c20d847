//! What can go wrong with a heap or a transaction, in words that say what to do next.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a heap, a transaction or a stored value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The region or its medium: a missing file, a full disk, a damaged or poisoned region.
    #[error(transparent)]
    Region(#[from] bartender_pm::Error),

    /// The heap in the region: it is full, damaged, or something else.
    #[error(transparent)]
    Heap(bartender_heap::Error),

    /// The cluster: its network, its coordinator, its records.
    #[cfg(feature = "cluster")]
    #[error(transparent)]
    Cluster(#[from] bartender_dist::Error),

    /// The region holds a root of another type. Nothing was changed.
    #[error(
        "{}: the region's root has another type than the program's:\n  {}",
        path.display(),
        differences.join("\n  ")
    )]
    TypeMismatch {
        /// The region's file.
        path: PathBuf,
        /// One line for each difference, from what is stored to what the program wants.
        differences: Vec<String>,
    },

    /// Data of an earlier type could not be converted to the program's. Nothing was changed: the region has the data as
    /// they were, for a program with the earlier types.
    #[error("the data stay as they are: a stored {from} could not be converted to {to}: {source}")]
    Migration {
        /// The earlier type.
        from: String,
        /// The program's type.
        to: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// Waiting for a lock could have been a deadlock: everything the transaction did was taken back.
    /// `transaction` retries by itself and gives up after many attempts; `update` can be called again.
    #[error("the transaction conflicts with another one that is older; run it again")]
    Conflict,

    /// An inner call or a failed change made the transaction unable to commit, and the closure ignored it.
    /// Everything the transaction did was taken back.
    #[error(
        "the transaction was doomed by a failure inside it that the closure did not return: {cause}"
    )]
    Doomed {
        /// What failed.
        cause: String,
    },

    /// A lock that does not lie in the region of the transaction.
    #[error(
        "the lock does not lie in this transaction's region: lock it in a transaction of its own heap"
    )]
    ForeignLock,

    /// A lock that this thread's transaction, or a read guard of this thread, holds already.
    #[error(
        "this thread holds the lock already: by its transaction, which keeps what it has locked to its end, also when the `Mut` or a read guard is gone, or by a read guard from before. Go on with that `Mut`, drop read guards before the transaction begins, or take a savepoint, where a transaction's locks are granted again"
    )]
    AlreadyLocked,

    /// A value that does not lie in the region of the transaction, or is not stored at all.
    #[error(
        "the value does not lie in this transaction's region: store it first, and use a transaction of its own heap"
    )]
    NotStored,

    /// A shared value that holds locks, atomics or versions was to be taken out as a copy. The transaction can only abort
    /// then.
    #[error(
        "a shared value with locks or atomics inside cannot be taken out as a copy: move its owner by a `…_moved` method, or drop it"
    )]
    SharedCells,

    /// Two values of different transactions.
    #[error("the two values belong to different transactions")]
    ForeignValue,

    /// A savepoint of a transaction that is not the innermost one, or of an inner call.
    #[error(
        "a savepoint is taken by the innermost open transaction, and not by a call that joined it: take it where the transaction began"
    )]
    NotInnermost,

    /// Something that needs the heap to stand still was asked for while a transaction runs.
    #[error("a transaction is running; ask again when it has ended")]
    Busy,

    /// The closure's own reason to abort; see [`Error::abort`].
    #[error("{0}")]
    Aborted(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// An error with which a closure takes its transaction back for a reason of its own.
    pub fn abort(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Error::Aborted(reason.into())
    }
}

impl From<bartender_heap::Error> for Error {
    fn from(error: bartender_heap::Error) -> Self {
        match error {
            bartender_heap::Error::Region(error) => Error::Region(*error),
            error => Error::Heap(error),
        }
    }
}

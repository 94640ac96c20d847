//! [`Moved`]: a stored value between two places, and how `Mut` takes and attaches one.
//!
//! Rule 8 of the typed interface: a value moves inside the region without a copy of what it owns. The
//! transaction keeps the value's own bytes (in `detached`); a `Moved` is no more than the ticket for them. What
//! follows:
//!
//! - A ticket that is dropped, forgotten, unwound or carried out of its transaction costs nothing: the value is
//!   still the transaction's, which frees it when it commits, or puts it back where it was when it aborts.
//! - A ticket is honoured by its own transaction, once. Everywhere else attaching is an error. So that an error that the
//!   program swallows cannot lose a value, a failed attachment dooms the transaction that the value is of.
//! - There is no way into a value while it is detached, and who detaches it has it for himself: nobody can hold a
//!   `Mut` inside of it, so it cannot be attached to a part of itself.

use crate::error::{Error, Result};
use crate::mutref::Mut;
use crate::persist::{Persist, hold_all};
use crate::thread;
use crate::tx::{Doom, TxRef};
use std::fmt;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr;

/// A stored value that its transaction has taken from one place, to be attached to another one: with
/// [`Mut::set_moved`] or the `…_moved` methods of stored collections.
///
/// What the value owns stays where it is in the region: moving a vector of any length copies and logs the 24 bytes of
/// the vector itself, once for each of the two places.
///
/// A value that was not attached when the transaction commits is freed by it. When the transaction aborts, the value
/// is where it was.
///
/// ```
/// # use bartender::{Heap, Mut, PMutex, PVec, Persist};
/// #[derive(Persist, Default)]
/// #[repr(C)]
/// struct Queues {
///     todo: PVec<PVec<u8>>,
///     done: PVec<PVec<u8>>,
/// }
/// # fn main() -> Result<(), bartender::Error> {
/// # let folder = tempfile::tempdir().expect("a folder");
/// # let path = folder.path().join("r");
/// let heap = Heap::<PMutex<Queues>>::options().max_size(1 << 30).open(path)?;
/// heap.update(|mut queues| {
///     queues.todo_mut().push(PVec::from(vec![7; 1 << 20]))?;
///     if let Some(first) = queues.todo_mut().pop_moved()? {
///         queues.done_mut().push_moved(first)?; // the megabyte is not touched
///     }
///     Ok(())
/// })?;
/// assert_eq!(heap.read().done[0].len(), 1 << 20);
/// # Ok(())
/// # }
/// ```
#[must_use = "a moved value that is not attached is freed when the transaction commits"]
pub struct Moved<T> {
    /// In the keeping of the transaction that gave it, which is of this thread. No other value ever has it.
    id: u64,
    /// The value's type; and a ticket does not leave its thread.
    value: PhantomData<*const T>,
}

/// Ends a value that nobody wanted: a [`ReleaseDetached`](crate::tx::ReleaseDetached).
///
/// # Safety
///
/// At `bytes` lie those of a detached `T` of the transaction.
unsafe fn release<T: Persist>(tx: TxRef<'_>, bytes: *const u8) -> Result<()> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the caller's promise; the copy is aligned. Nothing refers to the value.
    unsafe {
        ptr::copy_nonoverlapping(bytes, value.as_mut_ptr().cast(), size_of::<T>());
        tx.release(value.as_ptr())
    }
}

/// Takes the stored value at `at` into the transaction's keeping. The bytes stay; nobody may see a value there from
/// now on.
///
/// # Errors
///
/// [`Error::Conflict`] when a lock inside cannot be held; nothing changed.
///
/// # Safety
///
/// A stored value that this transaction has for itself, and to whose place nothing refers once the caller is done.
pub(crate) unsafe fn detach<T: Persist>(tx: TxRef<'_>, at: *mut T) -> Result<Moved<T>> {
    // SAFETY: the caller's promise.
    unsafe {
        hold_all(tx, at, 1)?;
        Ok(Moved::keep(tx, at))
    }
}

impl<T: Persist> Moved<T> {
    /// A new ticket, for a copy of the bytes of `value`.
    ///
    /// # Safety
    ///
    /// A value that is stored, or a copy of one, which belongs to the transaction's keeping from here on.
    pub(crate) unsafe fn keep(tx: TxRef<'_>, value: *const T) -> Self {
        let id = thread::with(|thread| thread.next_ticket());
        let detached = &mut tx.context().detached;
        // SAFETY: the value can be read.
        unsafe { detached.keep(id, value.cast(), size_of::<T>(), release::<T>) };
        Moved {
            id,
            value: PhantomData,
        }
    }

    /// A copy of the bytes, if the value is in the keeping of `tx`.
    fn bytes(&self, tx: TxRef<'_>) -> Option<MaybeUninit<T>> {
        let bytes = tx.context().detached.bytes(self.id)?;
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: this number stands for a `T`.
        unsafe { ptr::copy_nonoverlapping(bytes, value.as_mut_ptr().cast(), size_of::<T>()) };
        Some(value)
    }

    /// The running transaction that keeps the value, and a copy of the bytes.
    fn find<'a>(&self) -> Result<(TxRef<'a>, MaybeUninit<T>)> {
        let found = thread::with(|thread| {
            thread.running().find_map(|context| {
                // SAFETY: it runs on this thread until after the caller, which runs inside of it, has returned.
                let tx = unsafe { TxRef::new(context) };
                Some((tx, self.bytes(tx)?))
            })
        });
        found.ok_or(Error::ForeignValue)
    }

    /// Attaches the value: `place` gets its bytes, padding zeroed, and copies them to where they belong. Whatever can
    /// fail or panic comes before that.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignValue`], or that of `place`. The value's transaction is doomed then.
    pub(crate) fn attach<A>(
        self,
        tx: TxRef<'_>,
        place: impl FnOnce(*const T) -> Result<A>,
    ) -> Result<A> {
        let Some(mut value) = self.bytes(tx) else {
            if let Ok((owner, _)) = self.find() {
                let cause = "a value was to be moved to another transaction's place";
                owner.context().doom(Doom::Failed(cause.to_owned()));
            }
            return Err(Error::ForeignValue);
        };
        // SAFETY: a valid value, in a copy of ours.
        unsafe { T::zero_padding(value.as_mut_ptr()) };
        let placed = place(value.as_ptr());
        match &placed {
            Ok(_) => tx.context().detached.take(self.id),
            Err(error) => tx.doom(error),
        }
        placed
    }

    /// Takes the value out of the region after all, into ordinary memory.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignValue`] when its transaction has ended; [`Error::Conflict`] when a lock inside cannot be held.
    pub fn into_owned(self) -> Result<T> {
        let (tx, mut value) = self.find()?;
        // SAFETY: a copy of a value to which nothing refers.
        unsafe {
            tx.evict(value.as_mut_ptr())?;
            tx.context().detached.take(self.id);
            Ok(value.assume_init())
        }
    }

    /// The same value as an option, to be attached where one is wanted.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignValue`] when its transaction has ended.
    pub fn some(self) -> Result<Moved<Option<T>>> {
        let (tx, value) = self.find()?;
        // SAFETY: a valid value, which changes its number and type, and is not dropped: that would take it for an
        // owned one.
        unsafe {
            let value = ManuallyDrop::new(Some(value.assume_init()));
            tx.context().detached.take(self.id);
            Ok(Moved::keep(tx, &raw const *value))
        }
    }
}

impl<T: Persist> Moved<Option<T>> {
    /// What is in the option, if anything is.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignValue`] when its transaction has ended.
    pub fn transpose(self) -> Result<Option<Moved<T>>> {
        let (tx, value) = self.find()?;
        // SAFETY: as in `some`.
        unsafe {
            let value = ManuallyDrop::new(value.assume_init());
            tx.context().detached.take(self.id);
            Ok(value.as_ref().map(|inside| Moved::keep(tx, inside)))
        }
    }
}

impl<T> fmt::Debug for Moved<T> {
    /// Without the value: there is no way into it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moved").finish_non_exhaustive()
    }
}

/// Writes the bytes of a value to its place, and holds the locks in it.
///
/// # Safety
///
/// At `value` lie the bytes of a value whose owner this place becomes; the place is stored, what was there is gone, and
/// this transaction may change it.
pub(crate) unsafe fn write<T: Persist>(
    tx: TxRef<'_>,
    place: *mut T,
    value: *const T,
) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        tx.change(place.cast(), size_of::<T>());
        ptr::copy_nonoverlapping(value, place, 1);
        hold_all(tx, place, 1)
    }
}

impl TxRef<'_> {
    /// Frees, with the transaction, what was detached and never attached.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when a lock inside cannot be held; the transaction is doomed then.
    pub(crate) fn release_detached(self) -> Result<()> {
        while let Some((bytes, release)) = self.context().detached.pop() {
            // SAFETY: the bytes of a detached value of the type that `release` is for.
            unsafe { release(self, bytes)? };
        }
        Ok(())
    }
}

/// Moving inside the region.
impl<T: Persist> Mut<'_, T> {
    /// Attaches a value of this transaction here. The old one is freed when the transaction is durable.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignValue`] if the value is not of this transaction: it is not lost, for its own transaction can only
    /// abort then. A lock inside cannot be held: this one can only abort.
    pub fn set_moved(&mut self, moved: Moved<T>) -> Result<()> {
        let (at, tx) = (Mut::as_ptr(self), Mut::tx(self));
        moved.attach(tx, |value| {
            // SAFETY: the old value is stored, and ours alone.
            unsafe {
                hold_all(tx, at, 1)?;
                tx.release(at)?;
                write(tx, at, value)
            }
        })
    }

    /// Stores `value` here and takes the old one, to be attached somewhere else.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn replace_moved(this: &mut Self, value: T) -> Result<Moved<T>> {
        let (at, tx) = (Mut::as_ptr(this), Mut::tx(this));
        // SAFETY: the old value is stored and ours alone; the new one is owned, and moved in by its bytes.
        unsafe {
            hold_all(tx, at, 1)?;
            let mut value = ManuallyDrop::new(value);
            tx.adopt::<T>(&mut *value)?;
            let old = detach(tx, at)?;
            write(tx, at, &raw const *value)?;
            Ok(old)
        }
    }

    /// Takes the value, to be attached somewhere else, and leaves the default.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn take_moved(this: &mut Self) -> Result<Moved<T>>
    where
        T: Default,
    {
        Mut::replace_moved(this, T::default())
    }
}

//! [`WithDurability`]: transactions that are answered in another way than the heap's others.

use super::Heap;
use crate::error::{Error, Result};
use crate::lock::{self, Lock};
use crate::mutref::Mut;
use crate::persist::Persist;
use crate::transaction::Tx;
use bartender_pm::Durability;
use std::fmt;

/// A heap, for transactions of one [`Durability`]. From [`Heap::with_durability`].
///
/// What is answered before it is durable is *seen* at once, too, by whoever reads it. It becomes durable with the next
/// commit that is waited for (the log is one stream, of which a prefix survives), by [`Heap::sync`], or soon by itself
/// where the heap has a [background](super::Options::background) thread. A transaction that joins another one, or is
/// joined by one, is answered as the stronger of the two asks for.
pub struct WithDurability<'h, R: Persist> {
    heap: &'h Heap<R>,
    durability: Durability,
}

impl<R: Persist> Clone for WithDurability<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R: Persist> Copy for WithDurability<'_, R> {}

impl<'h, R: Persist> WithDurability<'h, R> {
    #[inline]
    pub(super) fn new(heap: &'h Heap<R>, durability: Durability) -> Self {
        WithDurability { heap, durability }
    }

    /// [`Heap::transaction`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn transaction<A>(self, f: impl FnMut(&mut Tx<'_>) -> Result<A>) -> Result<A> {
        self.try_transaction(f)
    }

    /// [`Heap::try_transaction`].
    ///
    /// # Errors
    ///
    /// As there.
    #[inline]
    pub fn try_transaction<A, E: From<Error>>(
        self,
        mut f: impl FnMut(&mut Tx<'_>) -> Result<A, E>,
    ) -> Result<A, E> {
        let core = &self.heap.core;
        core.run(true, self.durability, |tx| f(&mut Tx::new(tx)))
    }
}

impl<'h, L: Lock> WithDurability<'h, L> {
    /// [`Heap::update`].
    ///
    /// # Errors
    ///
    /// As there.
    #[inline]
    pub fn update<A>(self, f: impl FnOnce(Mut<'_, L::Target>) -> Result<A>) -> Result<A> {
        self.try_update(f)
    }

    /// [`Heap::try_update`].
    ///
    /// # Errors
    ///
    /// As there.
    #[inline]
    pub fn try_update<A, E: From<Error>>(
        self,
        f: impl FnOnce(Mut<'_, L::Target>) -> Result<A, E>,
    ) -> Result<A, E> {
        let mut f = Some(f);
        self.heap.core.run(false, self.durability, |tx| {
            let f = f.take().expect("without a retry it is called once");
            f(lock::lock(self.heap.root(), tx)?)
        })
    }
}

impl<R: Persist> fmt::Debug for WithDurability<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithDurability")
            .field("heap", self.heap)
            .field("durability", &self.durability)
            .finish()
    }
}

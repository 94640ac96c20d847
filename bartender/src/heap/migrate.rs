//! Opening a region whose data have an earlier type: the data and their description are replaced in one transaction.
//!
//! What becomes what, and how values are read, [`crate::persist`] knows. Here is the order of things: everything is
//! checked by the old description; the new one gets a place; the root is taken out, converted, and stored anew, and the
//! header refers to the new description; all of that is one record. Where only names differ, the data stay.

use crate::error::Result;
use crate::persist::{Persist, Plan};
use crate::run::Core;
use bartender_heap::types::Schema;
use bartender_pm::Durability;
use std::ptr;

/// What has to be done to a region before it is the program's.
pub(super) struct Migration {
    /// The data have the program's types already, but for names.
    names_only: bool,
}

impl Migration {
    /// From data of the schema `old` to a root `R` of the schema `new`, if they differ and there is a way.
    pub(super) fn find<R: Persist>(old: &Schema, new: &Schema) -> Option<Self> {
        if old == new || old.is_untyped() {
            return None;
        }
        let names_only = old.renamed_as(new) == *new;
        (names_only || Plan::find::<R>(old).is_some()).then_some(Migration { names_only })
    }

    /// Whether only names differ.
    pub(super) fn is_of_names(&self) -> bool {
        self.names_only
    }

    /// Does it, and waits until it is durable. In a region that is only read there is nothing to be done for names.
    ///
    /// # Errors
    ///
    /// The data are damaged; a conversion failed; the region or its log has no room. Nothing was changed.
    pub(super) fn run<R: Persist>(self, core: &mut Core, new: &Schema) -> Result<()> {
        // The data are as good by their old names. Nothing is written here.
        if core.region.is_read_only() && self.names_only {
            return Ok(());
        }
        if !self.names_only {
            core.heap.wait_marked()?;
            core.heap.check()?;
        }
        let described = core.heap.new_schema(new)?;
        let done = core.run(false, Durability::Immediate, |tx| {
            let base = core.region.base();
            for (offset, bytes) in described.changes() {
                // SAFETY: bytes of the header, and of space that was allocated for them: nobody else reads or writes either.
                unsafe {
                    let at = base.add(offset as usize);
                    tx.change(at, bytes.len());
                    ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len());
                }
            }
            let Some(root) = core.heap.root().filter(|_| !self.names_only) else {
                return Ok(());
            };
            let old = core.heap.schema().clone();
            let plan = Plan::find::<R>(&old).expect("it was found before");
            // SAFETY: a root of that schema, which was checked above, and nobody has the heap yet.
            let value = unsafe { plan.root::<R>(tx, root)? };
            super::options::store_root(core, tx, value)
        });
        match done.and_then(|()| Ok(core.region.sync()?)) {
            Ok(()) => {
                core.heap.schema_committed(described);
                Ok(())
            }
            Err(error) => {
                core.heap.schema_dropped(described);
                Err(error)
            }
        }
    }
}

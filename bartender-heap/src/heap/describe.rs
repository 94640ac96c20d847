//! Storing another description of the types: what a migration of the data commits with them.
//!
//! It promises that the place of a description that is not committed, or no longer, is free again, and that nothing
//! is stored by itself: who asks writes the changes in a record of his own, so that data and description never
//! disagree on the medium.

use super::Heap;
use crate::error::Result;
use crate::header;
use crate::layout::UNIT;
use crate::types::Schema;
use crate::units::Run;

/// A description that has a place in the home, and waits to be committed.
#[derive(Debug)]
#[must_use = "its place is lost until the heap is opened again"]
pub struct NewSchema {
    schema: Schema,
    encoded: Vec<u8>,
    run: Run,
    head: Vec<u8>,
}

impl NewSchema {
    /// What a record has to change, in any order: bytes and their home offsets. The second lies in space that nobody
    /// has seen.
    pub fn changes(&self) -> [(u64, &[u8]); 2] {
        [
            (header::DESCRIPTION, &self.head),
            (self.run.start * UNIT, &self.encoded),
        ]
    }
}

impl Heap {
    /// Finds a place for the description `schema` of the data as they will be after a transaction. Cost: the global
    /// lock; the region may grow.
    ///
    /// # Errors
    /// `OutOfSpace` and `Io` of the region.
    pub fn new_schema(&self, schema: &Schema) -> Result<NewSchema> {
        let encoded = schema.encode();
        let units = (encoded.len() as u64).div_ceil(UNIT);
        let take = || self.arena.lock().0.run(units, 1, &self.region);
        let run = self.marker.make_room(take)?;
        let head = header::description(&header::new(schema, &encoded, run.start * UNIT));
        Ok(NewSchema {
            schema: schema.clone(),
            encoded,
            run,
            head,
        })
    }

    /// A record with all changes of `new` is durable: it describes the data from now on, and the place of the old one is
    /// free.
    pub fn schema_committed(&mut self, new: NewSchema) {
        let old = self.schema_at;
        self.schema_at = (new.run.start, new.run.len);
        self.schema = new.schema;
        self.give_units(old);
    }

    /// Nothing of `new` is in a record.
    pub fn schema_dropped(&self, new: NewSchema) {
        self.give_units((new.run.start, new.run.len));
    }

    fn give_units(&self, (start, len): (u64, u64)) {
        let stamp = self.region.last_seq();
        let (mut global, _) = self.arena.lock();
        global.units.give(Run { start, len, stamp });
    }
}

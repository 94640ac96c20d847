//! What stands in a bucket: a key and its value, in the layout that the schema of a map tells.

use crate::Persist;

/// One entry of a table.
#[derive(Persist)]
#[repr(C)]
pub(crate) struct Slot<K, V> {
    pub(crate) key: K,
    pub(crate) value: V,
}

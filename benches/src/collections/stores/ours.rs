//! Our maps as stores.

use super::{Setting, Store};
use bartender::{Heap, Marking, Options, PBTreeMap, PHashMap, PMutex, PString, PVec, Persist};

/// How a region for so many entries is opened here. The log has room for all of them: a transaction's record is not
/// split.
pub(in crate::collections) fn options<R: Persist>(entries: usize) -> Options<R> {
    let log = (entries as u64 * 256).clamp(16 << 20, 512 << 20);
    Heap::<R>::options().max_size(16 << 30).log_size(log)
}

/// A map of each kind of pair.
#[derive(Persist, Default)]
#[repr(C)]
pub(in crate::collections) struct Maps<W: Persist, T: Persist> {
    pub(in crate::collections) words: PMutex<W>,
    pub(in crate::collections) texts: PMutex<T>,
}

/// A map of words for each thread, under a lock of its own.
pub(in crate::collections) type Parts = PVec<PMutex<PHashMap<u64, u64>>>;

macro_rules! store {
    ($name:ident, $map:ident, $file:literal) => {
        #[doc = concat!("[`", stringify!($map), "`]s as a store.")]
        pub(in crate::collections) struct $name(
            pub(in crate::collections) Heap<Maps<$map<u64, u64>, $map<PString, PString>>>,
        );

        impl $name {
            pub(in crate::collections) fn open(setting: Setting<'_>) -> Self {
                Self::open_marking(setting, Marking::Auto)
            }

            pub(in crate::collections) fn open_marking(
                setting: Setting<'_>,
                marking: Marking,
            ) -> Self {
                let path = setting.folder.join($file);
                let options = options(setting.entries).marking(marking);
                $name(options.open(path).expect("a region"))
            }
        }

        impl Store for $name {
            fn insert_words(&self, pairs: &[(u64, u64)]) {
                self.0
                    .transaction(|tx| {
                        let mut map = tx.lock(&self.0.root().words)?;
                        pairs
                            .iter()
                            .try_for_each(|&(k, v)| map.insert(k, v).map(drop))
                    })
                    .expect("commits");
            }

            fn insert_texts(&self, pairs: &[(String, String)]) {
                self.0
                    .transaction(|tx| {
                        let mut map = tx.lock(&self.0.root().texts)?;
                        pairs.iter().try_for_each(|(k, v)| {
                            let (k, v) = (PString::from(k.as_str()), PString::from(v.as_str()));
                            map.insert(k, v).map(drop)
                        })
                    })
                    .expect("commits");
            }

            fn clear(&self) {
                let cleared = self.0.transaction(|tx| {
                    tx.lock(&self.0.root().words)?.set(Default::default())?;
                    tx.lock(&self.0.root().texts)?.set(Default::default())
                });
                cleared.expect("commits");
                self.0.checkpoint().expect("is home");
            }

            fn insert(&self, key: u64, value: u64) {
                self.0
                    .transaction(|tx| tx.lock(&self.0.root().words)?.insert(key, value).map(drop))
                    .expect("commits");
            }

            fn read(&self, keys: &[u64]) -> u64 {
                let map = self.0.root().words.read();
                keys.iter().map(|key| map[key]).fold(0, u64::wrapping_add)
            }
        }
    };
}

store!(HashStore, PHashMap, "hash.region");
store!(BTreeStore, PBTreeMap, "btree.region");

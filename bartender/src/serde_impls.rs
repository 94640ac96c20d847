//! Feature `serde`: collections, boxes, locks and numbers are written as their `std` twins are, and read from the same forms.
//!
//! What is shared is written as what it is, wherever it is met, as an `Arc`: what is read has an owner for each place. A
//! `PRcu` is written as its version of now.
//!
//! What is stored is written where it is; what is read is an owned value. Lengths that an input claims are not
//! believed: room is made as elements come.

use crate::atomic::{PAtomicI64, PAtomicU64};
#[cfg(target_pointer_width = "64")]
use crate::atomic::{PAtomicIsize, PAtomicUsize};
use crate::btree_map::PBTreeMap;
use crate::btree_set::PBTreeSet;
use crate::hash_map::PHashMap;
use crate::hash_set::PHashSet;
use crate::lock::{PMutex, PRwLock};
use crate::pbox::{Boxed, PBox};
use crate::persist::Persist;
use crate::rcu::PRcu;
use crate::shared::PShared;
use crate::string::PString;
use crate::vec::PVec;
use crate::vec_deque::PVecDeque;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error, Serialize, Serializer};
use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;

/// Elements one after the other.
macro_rules! sequence {
    ($($name:ident [$($bound:tt)*] $add:ident;)*) => {$(
        impl<T: Serialize> Serialize for $name<T> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self)
            }
        }

        impl<'de, T: Deserialize<'de> $($bound)*> Deserialize<'de> for $name<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Elements<T>(PhantomData<T>);

                impl<'de, T: Deserialize<'de> $($bound)*> Visitor<'de> for Elements<T> {
                    type Value = $name<T>;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a sequence")
                    }

                    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
                        let mut all = $name::new();
                        while let Some(element) = elements.next_element()? {
                            all.$add(element);
                        }
                        Ok(all)
                    }
                }

                deserializer.deserialize_seq(Elements(PhantomData))
            }
        }
    )*};
}

sequence! {
    PVec [] push;
    PVecDeque [] push_back;
    PHashSet [+ Hash + Eq] insert;
    PBTreeSet [+ Ord] insert;
}

/// Keys with their values.
macro_rules! map {
    ($($name:ident [$($bound:tt)*];)*) => {$(
        impl<K: Serialize, V: Serialize> Serialize for $name<K, V> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self)
            }
        }

        impl<'de, K: Deserialize<'de> + $($bound)*, V: Deserialize<'de>> Deserialize<'de> for $name<K, V> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Entries<K, V>(PhantomData<(K, V)>);

                impl<'de, K: Deserialize<'de> + $($bound)*, V: Deserialize<'de>> Visitor<'de> for Entries<K, V> {
                    type Value = $name<K, V>;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a map")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
                        let mut all = $name::new();
                        while let Some((key, value)) = entries.next_entry()? {
                            all.insert(key, value);
                        }
                        Ok(all)
                    }
                }

                deserializer.deserialize_map(Entries(PhantomData))
            }
        }
    )*};
}

map! {
    PHashMap [Hash + Eq];
    PBTreeMap [Ord];
}

impl Serialize for PString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl<'de> Deserialize<'de> for PString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(PString::from)
    }
}

impl<T: ?Sized + Boxed + Serialize> Serialize for PBox<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de, T: Persist + Deserialize<'de>> Deserialize<'de> for PBox<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(PBox::new)
    }
}

impl<'de, T: Persist + Deserialize<'de>> Deserialize<'de> for PBox<[T]> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        PVec::deserialize(deserializer).map(PBox::from)
    }
}

impl<'de> Deserialize<'de> for PBox<str> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(PBox::from)
    }
}

impl<T: Persist + Serialize> Serialize for PShared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de, T: Persist + Deserialize<'de>> Deserialize<'de> for PShared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(PShared::new)
    }
}

/// The value inside, read under the lock, as std's; or the version that was committed last.
macro_rules! read {
    ($($name:ident)*) => {$(
        impl<T: Persist + Serialize> Serialize for $name<T> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let inside = self.try_read().map_err(S::Error::custom)?;
                inside.serialize(serializer)
            }
        }

        impl<'de, T: Persist + Deserialize<'de>> Deserialize<'de> for $name<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                T::deserialize(deserializer).map($name::new)
            }
        }
    )*};
}

read!(PMutex PRwLock PRcu);

/// A number, as the last durable commit left it.
macro_rules! number {
    ($($name:ident $type:ident;)*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.try_load().map_err(S::Error::custom)?.serialize(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $type::deserialize(deserializer).map($name::new)
            }
        }
    )*};
}

number! {
    PAtomicU64 u64;
    PAtomicI64 i64;
}

#[cfg(target_pointer_width = "64")]
number! {
    PAtomicUsize usize;
    PAtomicIsize isize;
}

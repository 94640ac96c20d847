//! What a cluster keeps in its coordinator: keys, and values as JSON, for operators who look with etcd's tools.
//!
//! | key | value | bound to |
//! |---|---|---|
//! | `bartender/CLUSTER/members/NAME` | [`Member`] | the member's lease |
//! | `bartender/CLUSTER/incarnations/NAME` | the number of the last [`Member::incarnation`] | nothing |
//! | `bartender/CLUSTER/regions/NAME` | [`RegionRecord`] | nothing |
//! | `bartender/CLUSTER/primaries/REGION` | [`Primary`] | the primary's lease |
//!
//! Encoding is deterministic (fields in order, no white space), so that a value can be compared. Fields that a newer
//! version added are ignored when read; a record whose `format` is above 1 is refused.

use crate::error::{Error, Result};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Version of the records.
pub(crate) const FORMAT: u32 = 1;

/// A machine that takes part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Version of the record; 1.
    pub format: u32,
    /// Grows with each start of the machine's process; never repeats.
    pub incarnation: u64,
    /// Where its fabric listens.
    pub address: String,
}

/// Who may commit to a region, for as long as its lease lasts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Primary {
    /// Version of the record; 1.
    pub format: u32,
    /// Its name.
    pub member: String,
    /// Which of its lives.
    pub incarnation: u64,
    /// Since which epoch of the region.
    pub epoch: u64,
}

/// What a primary does when a backup does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Commits wait until it answers, or is no member any more and the coordinator has removed it from those that are in sync. For one
    /// that is a member, and that its primary alone does not reach, they wait until an operator removes it.
    Block,
    /// It is removed as soon as it is slow beyond a bound, and commits go on without it.
    Degrade,
}

/// Names a region for ever: the bytes in its file's header.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RegionId(pub [u8; 16]);

/// What the cluster knows of a region.
///
/// Invariants: `primary` is in `in_sync`, `in_sync` is part of `replicas`, no name comes twice; `epoch` only grows, by
/// one with each primary that takes over or opens anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionRecord {
    /// Version of the record; 1.
    pub format: u32,
    /// The region's identity.
    pub uuid: RegionId,
    /// Which reign this is; the first is 1.
    pub epoch: u64,
    /// Who commits to it, or did last.
    pub primary: String,
    /// Whose logs hold every acknowledged commit, the primary's included: the only ones that may take over.
    pub in_sync: Vec<String>,
    /// All members that are to have a copy, in the order of preference.
    pub replicas: Vec<String>,
    /// When another member took over last: milliseconds since 1970 by its clock, for people only.
    pub last_failover: Option<u64>,
    /// What to do about slow backups.
    pub policy: Policy,
}

impl RegionRecord {
    /// The first invariant that does not hold, in words.
    pub fn check(&self) -> Result<(), String> {
        let twice = |names: &[String]| (1..names.len()).any(|i| names[..i].contains(&names[i]));
        if twice(&self.in_sync) || twice(&self.replicas) {
            return Err("a replica is named twice".into());
        }
        if let Some(name) = self.in_sync.iter().find(|n| !self.replicas.contains(n)) {
            return Err(format!("{name} is in sync and no replica"));
        }
        if !self.in_sync.contains(&self.primary) {
            return Err(format!("the primary {} is not in sync", self.primary));
        }
        match self.epoch {
            0 => Err("there is no epoch 0".into()),
            _ => Ok(()),
        }
    }
}

/// A record with the revision that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen<T> {
    /// The record.
    pub record: T,
    /// The revision.
    pub revision: u64,
}

/// Values that are records.
pub(crate) trait Stored: Serialize + DeserializeOwned {
    fn format(&self) -> u32;

    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    fn encode(&self) -> Bytes {
        // Strings, numbers and lists of them.
        let json = serde_json::to_vec(self).expect("records have nothing that JSON lacks");
        json.into()
    }

    /// Reads the value of `key`.
    fn decode(key: &str, value: &[u8]) -> Result<Self> {
        let bad = |what: String| Error::BadRecord {
            key: key.to_owned(),
            what,
        };
        let record: Self = serde_json::from_slice(value).map_err(|e| bad(e.to_string()))?;
        if record.format() > FORMAT {
            let found = record.format();
            return Err(bad(format!("format {found}, this program knows {FORMAT}")));
        }
        record.check().map_err(bad)?;
        Ok(record)
    }
}

impl Stored for Member {
    fn format(&self) -> u32 {
        self.format
    }
}

impl Stored for Primary {
    fn format(&self) -> u32 {
        self.format
    }
}

impl Stored for RegionRecord {
    fn format(&self) -> u32 {
        self.format
    }

    fn check(&self) -> Result<(), String> {
        self.check()
    }
}

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegionId({self})")
    }
}

impl Serialize for RegionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RegionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u128::from_str_radix(&text, 16) {
            Ok(number) if digits && text.len() == 32 => Ok(RegionId(number.to_be_bytes())),
            _ => Err(serde::de::Error::custom("an id is 32 hexadecimal digits")),
        }
    }
}

/// Keys of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// `bartender/CLUSTER/`
    pub(crate) prefix: String,
}

impl Keys {
    pub(crate) const MEMBERS: &'static str = "members/";
    pub(crate) const REGIONS: &'static str = "regions/";
    pub(crate) const PRIMARIES: &'static str = "primaries/";

    pub(crate) fn new(cluster: &str) -> Result<Keys> {
        check_name(cluster)?;
        let prefix = format!("bartender/{cluster}/");
        Ok(Keys { prefix })
    }

    pub(crate) fn member(&self, name: &str) -> String {
        format!("{}{}{name}", self.prefix, Self::MEMBERS)
    }

    pub(crate) fn incarnation(&self, name: &str) -> String {
        format!("{}incarnations/{name}", self.prefix)
    }

    pub(crate) fn region(&self, name: &str) -> String {
        format!("{}{}{name}", self.prefix, Self::REGIONS)
    }

    pub(crate) fn primary(&self, region: &str) -> String {
        format!("{}{}{region}", self.prefix, Self::PRIMARIES)
    }
}

/// Names of clusters, members and regions become parts of keys.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
    if name.is_empty() || name.len() > 200 || !name.chars().all(fits) {
        let name = name.chars().take(64).collect();
        return Err(Error::BadName { name });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> RegionRecord {
        RegionRecord {
            format: FORMAT,
            uuid: RegionId(*b"0123456789abcdef"),
            epoch: 3,
            primary: "a".into(),
            in_sync: vec!["a".into(), "b".into()],
            replicas: vec!["a".into(), "b".into(), "c".into()],
            last_failover: Some(1_700_000_000_000),
            policy: Policy::Block,
        }
    }

    #[test]
    fn a_region_record_has_exactly_this_form() {
        let json = concat!(
            r#"{"format":1,"uuid":"30313233343536373839616263646566","epoch":3,"primary":"a","#,
            r#""in_sync":["a","b"],"replicas":["a","b","c"],"last_failover":1700000000000,"policy":"block"}"#
        );
        assert_eq!(record().encode(), json);
        assert_eq!(
            RegionRecord::decode("k", json.as_bytes()).unwrap(),
            record()
        );
    }

    #[test]
    fn a_record_of_a_newer_format_is_refused_and_new_fields_are_not() {
        let newer = r#"{"format":2,"member":"a","incarnation":1,"epoch":1}"#;
        let error = Primary::decode("k", newer.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("format 2"), "{error}");
        let more = r#"{"format":1,"member":"a","incarnation":1,"epoch":1,"hue":"red"}"#;
        assert!(Primary::decode("k", more.as_bytes()).is_ok());
    }

    #[test]
    fn a_record_that_breaks_an_invariant_is_refused() {
        let broken: [fn(&mut RegionRecord); 5] = [
            |r| r.primary = "c".into(),
            |r| r.in_sync.push("d".into()),
            |r| r.in_sync.push("a".into()),
            |r| r.replicas.push("a".into()),
            |r| r.epoch = 0,
        ];
        for change in broken {
            let mut record = record();
            change(&mut record);
            let error = RegionRecord::decode("k", &record.encode()).unwrap_err();
            assert!(matches!(error, Error::BadRecord { .. }), "{error}");
        }
    }

    #[test]
    fn names_that_would_reach_into_other_keys_are_refused() {
        for name in ["", "a/b", "a b", "..\0", "é", &"x".repeat(201)] {
            assert!(matches!(check_name(name), Err(Error::BadName { .. })));
        }
        check_name("node-1.rack_2:7000@x").unwrap();
    }

    proptest! {
        #[test]
        fn damaged_records_are_errors(mut bytes: Vec<u8>, at: usize, with: u8) {
            let _ = RegionRecord::decode("k", &bytes);
            bytes = record().encode().to_vec();
            let at = at % bytes.len();
            bytes[at] = with;
            let _ = RegionRecord::decode("k", &bytes);
        }
    }
}

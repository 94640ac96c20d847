//! Messages come back as they were sent, and no bytes do harm.

use super::*;
use proptest::prelude::*;

fn key() -> impl Strategy<Value = String> {
    "[a-zä/]{0,8}"
}

fn value() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn lease() -> impl Strategy<Value = Option<LeaseId>> {
    proptest::option::of((1..u64::MAX).prop_map(LeaseId))
}

fn compare() -> impl Strategy<Value = Compare> {
    prop_oneof![
        (key(), any::<u64>()).prop_map(|(key, revision)| Compare::Revision(key, revision)),
        key().prop_map(Compare::Absent),
        (key(), value()).prop_map(|(key, value)| Compare::Value(key, value)),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (key(), value(), lease()).prop_map(|(key, value, lease)| Change::Put { key, value, lease }),
        key().prop_map(|key| Change::Delete { key }),
    ]
}

fn requests() -> impl Strategy<Value = Request> {
    let (compares, changes) = (
        proptest::collection::vec(compare(), 0..4),
        proptest::collection::vec(change(), 0..4),
    );
    prop_oneof![
        key().prop_map(|prefix| Request::Read { prefix }),
        (key(), any::<u64>()).prop_map(|(prefix, after)| Request::Next { prefix, after }),
        any::<u64>().prop_map(|millis| Request::Grant { millis }),
        any::<u64>().prop_map(|id| Request::KeepAlive(LeaseId(id))),
        any::<u64>().prop_map(|id| Request::Revoke(LeaseId(id))),
        Just(Request::Cancel),
        (compares, changes).prop_map(|(compares, changes)| Request::Transact { compares, changes }),
    ]
}

fn answers() -> impl Strategy<Value = Answer> {
    let entry =
        (key(), value(), any::<u64>(), lease()).prop_map(|(key, value, revision, lease)| Entry {
            key,
            value,
            revision,
            lease,
        });
    let keys = proptest::collection::vec((key(), proptest::option::of(value())), 0..4);
    prop_oneof![
        (proptest::collection::vec(entry, 0..4), any::<u64>())
            .prop_map(|(entries, revision)| Answer::Snapshot(Snapshot { entries, revision })),
        any::<u64>().prop_map(|revision| Answer::Transacted(Transacted::Committed { revision })),
        Just(Answer::Transacted(Transacted::Refused)),
        (any::<u64>(), keys)
            .prop_map(|(revision, keys)| Answer::Changes(Changes { revision, keys })),
        Just(Answer::Quiet),
        any::<(u64, u64)>().prop_map(|(id, millis)| Answer::Lease {
            id: LeaseId(id),
            millis
        }),
        any::<u64>().prop_map(|millis| Answer::Beat { millis }),
        Just(Answer::Done),
        any::<u64>().prop_map(Answer::LeaseEnded),
        key().prop_map(Answer::BadRequest),
        any::<(u64, u64)>().prop_map(|(asked, oldest)| Answer::Compacted { asked, oldest }),
        key().prop_map(Answer::Failed),
    ]
}

fn damaged(mut bytes: Vec<u8>, at: usize, with: u8) -> [Bytes; 2] {
    let at = at % bytes.len();
    let short = Bytes::copy_from_slice(&bytes[..at]);
    bytes[at] = with;
    [short, bytes.into()]
}

proptest! {
    #[test]
    fn messages_come_back_as_they_were_sent(
        request in requests(),
        answer in answers(),
        at: usize,
        with: u8,
        noise: Vec<u8>,
    ) {
        prop_assert_eq!(Request::decode(request.encode().into()), Ok(request.clone()));
        prop_assert_eq!(Answer::decode(answer.encode().into()), Ok(answer.clone()));
        let mut more = request.encode();
        more.push(with);
        prop_assert!(Request::decode(more.into()).is_err());
        for bytes in damaged(request.encode(), at, with) {
            let _ = Request::decode(bytes);
        }
        for bytes in damaged(answer.encode(), at, with) {
            let _ = Answer::decode(bytes);
        }
        let noise = Bytes::from(noise);
        let _ = (Request::decode(noise.clone()), Answer::decode(noise));
    }
}

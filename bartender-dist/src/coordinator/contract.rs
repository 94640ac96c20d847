//! What every coordinator has to do, as tests that are written once and run on each of them.
//!
//! Each test works below a prefix of its own, so that they may share one, and waits on tokio's clock: under a
//! paused one they take no time.

use super::{
    Change, Changes, Compare, Coordinator, MAX_PARTS, MAX_VALUE, MAX_VALUES, Transacted, Watch,
};
use crate::error::Error;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What is asked for: the shortest that etcd grants.
const TTL: Duration = Duration::from_secs(2);

type Subject = Arc<dyn Coordinator>;

async fn put(subject: &Subject, key: &str, value: &'static str) -> u64 {
    commit(subject, vec![], vec![Change::put(key, value)]).await
}

async fn commit(subject: &Subject, compares: Vec<Compare>, changes: Vec<Change>) -> u64 {
    match subject.transact(compares, changes).await.unwrap() {
        Transacted::Committed { revision } => revision,
        Transacted::Refused => panic!("refused"),
    }
}

async fn refused(subject: &Subject, compare: Compare, key: &str) {
    let before = subject.read("").await.unwrap().revision;
    let transacted = subject
        .transact(vec![compare], vec![Change::put(key, "never")])
        .await;
    assert_eq!(transacted.unwrap(), Transacted::Refused);
    assert_eq!(subject.read("").await.unwrap().revision, before);
}

async fn map(subject: &Subject, prefix: &str) -> BTreeMap<String, Bytes> {
    let read = subject.read(prefix).await.unwrap();
    read.entries.into_iter().map(|e| (e.key, e.value)).collect()
}

/// Watches until `prefix` holds what `wanted` says.
async fn wait_until(
    subject: &Subject,
    prefix: &str,
    wanted: impl Fn(&BTreeMap<String, Bytes>) -> bool,
) {
    let read = subject.read(prefix).await.unwrap();
    let mut now: BTreeMap<_, _> = read.entries.into_iter().map(|e| (e.key, e.value)).collect();
    let mut watch = subject.watch(prefix, read.revision).await.unwrap();
    while !wanted(&now) {
        apply(&mut now, watch.next().await.unwrap());
    }
}

fn apply(map: &mut BTreeMap<String, Bytes>, changes: Changes) {
    for (key, value) in changes.keys {
        match value {
            Some(value) => drop(map.insert(key, value)),
            None => drop(map.remove(&key)),
        }
    }
}

/// Runs all of it on one coordinator. `at` starts all keys.
pub(crate) async fn all(subject: Subject, at: &str) {
    comparisons_decide(&subject, &format!("{at}compare/")).await;
    reads_are_of_a_prefix_at_one_revision(&subject, &format!("{at}read/")).await;
    what_changes_nothing_makes_no_revision(&subject, &format!("{at}nothing/")).await;
    bad_requests_do_nothing(&subject, &format!("{at}bad/")).await;
    increments_are_never_lost(&subject, &format!("{at}count/")).await;
    of_many_who_create_a_key_one_does(&subject, &format!("{at}create/")).await;
    watches_give_every_revision_whole_and_in_order(&subject, &format!("{at}watch/")).await;
    watches_start_anywhere(&subject, &format!("{at}start/")).await;
    keys_vanish_with_their_lease_and_not_before(&subject, &format!("{at}lease/")).await;
    beats_keep_a_lease(&subject, &format!("{at}beat/")).await;
    a_revoked_lease_is_over(&subject, &format!("{at}revoke/")).await;
    a_key_follows_its_last_lease(&subject, &format!("{at}rebind/")).await;
    crate::cluster::tests::stories(&subject, at).await;
}

async fn comparisons_decide(subject: &Subject, at: &str) {
    let (a, b) = (format!("{at}a"), format!("{at}b"));
    refused(subject, Compare::Revision(a.clone(), 1), &a).await;
    refused(subject, Compare::Value(a.clone(), Bytes::new()), &a).await;
    let first = commit(
        subject,
        vec![Compare::Absent(a.clone())],
        vec![Change::put(&*a, "1"), Change::put(&*b, "")],
    )
    .await;
    refused(subject, Compare::Absent(a.clone()), &b).await;
    refused(subject, Compare::Absent(b.clone()), &b).await;
    refused(subject, Compare::Revision(a.clone(), first - 1), &a).await;
    refused(subject, Compare::Revision(a.clone(), first + 1), &a).await;
    refused(subject, Compare::Value(a.clone(), "2".into()), &a).await;
    refused(subject, Compare::Value(a.clone(), "".into()), &a).await;
    let second = commit(
        subject,
        vec![
            Compare::Revision(a.clone(), first),
            Compare::Value(a.clone(), "1".into()),
            Compare::Value(b.clone(), "".into()),
        ],
        vec![Change::put(&*a, &b"\0\xff"[..]), Change::delete(&*b)],
    )
    .await;
    assert!(second > first);
    // One of two that do not hold is enough.
    let compares = vec![Compare::Absent(b.clone()), Compare::Absent(a.clone())];
    let transacted = subject.transact(compares, vec![Change::delete(&*a)]).await;
    assert_eq!(transacted.unwrap(), Transacted::Refused);
    let read = subject.read(at).await.unwrap();
    assert_eq!(read.entries.len(), 1);
    let entry = &read.entries[0];
    assert_eq!((&entry.key, &entry.value[..]), (&a, &b"\0\xff"[..]));
    assert_eq!((entry.revision, entry.lease), (second, None));
}

async fn reads_are_of_a_prefix_at_one_revision(subject: &Subject, at: &str) {
    for key in ["b", "a/x", "a", "a0", "ä", "a/y", "B"] {
        put(subject, &format!("{at}{key}"), "v").await;
    }
    let keys = async |prefix: &str| {
        let entries = subject
            .read(&format!("{at}{prefix}"))
            .await
            .unwrap()
            .entries;
        let short = |e: super::Entry| e.key[at.len()..].to_owned();
        entries.into_iter().map(short).collect::<Vec<_>>()
    };
    assert_eq!(keys("").await, ["B", "a", "a/x", "a/y", "a0", "b", "ä"]);
    assert_eq!(keys("a/").await, ["a/x", "a/y"]);
    assert_eq!(keys("c").await, [""; 0]);
    let all = subject.read("").await.unwrap();
    assert!(all.entries.len() >= 7 && all.entries.iter().all(|e| e.revision <= all.revision));
}

async fn what_changes_nothing_makes_no_revision(subject: &Subject, at: &str) {
    let before = put(subject, &format!("{at}a"), "v").await;
    let same = commit(subject, vec![], vec![]).await;
    let gone = commit(subject, vec![], vec![Change::delete(format!("{at}b"))]).await;
    assert_eq!((same, gone), (before, before));
    assert_eq!(subject.read(at).await.unwrap().revision, before);
    // The same value anew is a change.
    assert_eq!(put(subject, &format!("{at}a"), "v").await, before + 1);
}

async fn bad_requests_do_nothing(subject: &Subject, at: &str) {
    let a = format!("{at}a");
    let many = |n: usize| (0..n).map(|i| Change::put(format!("{at}{i}"), "v"));
    let bad = [
        vec![Change::put(&*a, "1"), Change::delete(&*a)],
        vec![Change::put(&*a, "1"), Change::put(&*a, "2")],
        vec![Change::put("", "1")],
        vec![Change::put("a\0b", "1")],
        vec![Change::put("x".repeat(2000), "1")],
        vec![Change::put(&*a, vec![1; MAX_VALUE + 1])],
        many(MAX_PARTS + 1).collect(),
        (0..9)
            .map(|i| Change::put(format!("{at}{i}"), vec![1; MAX_VALUES / 8]))
            .collect(),
    ];
    for changes in bad {
        let error = subject.transact(vec![], changes).await.unwrap_err();
        assert!(matches!(error, Error::BadRequest { .. }), "{error}");
    }
    let error = subject.grant(Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, Error::BadRequest { .. }), "{error}");
    assert_eq!(map(subject, at).await, BTreeMap::new());
    commit(subject, vec![], many(MAX_PARTS).collect()).await;
    commit(subject, vec![], vec![Change::put(&*a, vec![1; MAX_VALUE])]).await;
    let read = map(subject, at).await;
    assert_eq!((read.len(), read[&a].len()), (MAX_PARTS + 1, MAX_VALUE));
}

async fn increments_are_never_lost(subject: &Subject, at: &str) {
    const TASKS: u64 = 6;
    const EACH: u64 = 10;
    let key = format!("{at}n");
    put(subject, &key, "0").await;
    let one = |subject: Subject, key: String| async move {
        for _ in 0..EACH {
            loop {
                let read = subject.read(&key).await.unwrap();
                let entry = &read.entries[0];
                let n: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                // So that others come in between on one thread, too.
                tokio::task::yield_now().await;
                let compare = Compare::Revision(key.clone(), entry.revision);
                let change = Change::put(&*key, (n + 1).to_string());
                let transacted = subject.transact(vec![compare], vec![change]).await;
                if transacted.unwrap() != Transacted::Refused {
                    break;
                }
            }
        }
    };
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| tokio::spawn(one(subject.clone(), key.clone())))
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let n = (TASKS * EACH).to_string();
    assert_eq!(map(subject, at).await[&key], n);
}

async fn of_many_who_create_a_key_one_does(subject: &Subject, at: &str) {
    for round in 0..5 {
        let key = format!("{at}{round}");
        let one = |subject: Subject, key: String, me: u32| async move {
            let change = Change::put(&*key, me.to_string());
            let transacted = subject
                .transact(vec![Compare::Absent(key)], vec![change])
                .await;
            (transacted.unwrap() != Transacted::Refused).then_some(me)
        };
        let tasks: Vec<_> = (0..8)
            .map(|me| tokio::spawn(one(subject.clone(), key.clone(), me)))
            .collect();
        let mut winners = Vec::new();
        for task in tasks {
            winners.extend(task.await.unwrap());
        }
        assert_eq!(winners.len(), 1);
        assert_eq!(map(subject, &key).await[&key], winners[0].to_string());
    }
}

async fn watches_give_every_revision_whole_and_in_order(subject: &Subject, at: &str) {
    const WRITERS: u64 = 4;
    const EACH: u64 = 25;
    let start = put(subject, &format!("{at}x/first"), "v").await;
    let mut all = subject.watch(at, start).await.unwrap();
    let mut part = subject.watch(&format!("{at}y/"), start).await.unwrap();
    let one = |subject: Subject, at: String, me: u64| async move {
        let mut revisions = Vec::new();
        for i in 0..EACH {
            let (x, y) = (format!("{at}x/{}", i % 3), format!("{at}y/{me}"));
            let last = match i % 4 {
                3 => Change::delete(&*y),
                _ => Change::put(&*y, i.to_string()),
            };
            let changes = vec![Change::put(&*x, format!("{me}.{i}")), last];
            revisions.push(commit(&subject, vec![], changes).await);
            tokio::task::yield_now().await;
        }
        revisions
    };
    let tasks: Vec<_> = (0..WRITERS)
        .map(|me| tokio::spawn(one(subject.clone(), at.to_owned(), me)))
        .collect();
    let mut seen = map(subject, "no such prefix").await;
    let mut revisions = Vec::new();
    for _ in 0..WRITERS * EACH {
        let changes = all.next().await.unwrap();
        assert_eq!(changes.keys.len(), 2, "{changes:?}");
        revisions.push(changes.revision);
        apply(&mut seen, changes);
    }
    assert!(revisions.is_sorted_by(|a, b| a < b));
    let mut written = Vec::new();
    for task in tasks {
        written.extend(task.await.unwrap());
    }
    written.sort_unstable();
    assert_eq!(revisions, written);
    let mut now = map(subject, at).await;
    now.remove(&format!("{at}x/first"));
    assert_eq!(seen, now);
    for revision in written {
        let changes = part.next().await.unwrap();
        assert_eq!((changes.revision, changes.keys.len()), (revision, 1));
    }
}

async fn quiet(watch: &mut Watch) {
    let next = tokio::time::timeout(Duration::from_millis(50), watch.next()).await;
    assert!(next.is_err(), "{next:?}");
}

async fn watches_start_anywhere(subject: &Subject, at: &str) {
    let key = format!("{at}a");
    let mut revisions = Vec::new();
    for value in ["1", "2", "3"] {
        revisions.push(put(subject, &key, value).await);
    }
    for from in 0..3 {
        let mut watch = subject.watch(at, revisions[from]).await.unwrap();
        for revision in &revisions[from + 1..] {
            // What is given up loses nothing.
            drop(watch.next());
            assert_eq!(watch.next().await.unwrap().revision, *revision);
        }
        quiet(&mut watch).await;
    }
    // In the future.
    let mut watch = subject.watch(at, revisions[2] + 1).await.unwrap();
    put(subject, &key, "4").await;
    quiet(&mut watch).await;
    let last = commit(subject, vec![], vec![Change::delete(&*key)]).await;
    let keys = vec![(key, None)];
    let revision = last;
    assert_eq!(watch.next().await.unwrap(), Changes { revision, keys });
}

async fn keys_vanish_with_their_lease_and_not_before(subject: &Subject, at: &str) {
    let sent = Instant::now();
    let lease = subject.grant(TTL).await.unwrap();
    assert!(lease.ttl >= TTL);
    let (a, b, c) = (format!("{at}a"), format!("{at}b"), format!("{at}c"));
    let changes = vec![
        Change::put_bound(&*a, "1", lease.id),
        Change::put_bound(&*b, "2", lease.id),
        Change::put(&*c, "3"),
    ];
    let bound = commit(subject, vec![], changes).await;
    let read = subject.read(&a).await.unwrap();
    assert_eq!(read.entries[0].lease, Some(lease.id));
    let mut watch = subject.watch(at, bound).await.unwrap();
    let changes = watch.next().await.unwrap();
    assert!(sent.elapsed() >= lease.ttl, "after {:?}", sent.elapsed());
    assert!(changes.revision > bound);
    assert_eq!(changes.keys, [(a.clone(), None), (b, None)]);
    assert_eq!(map(subject, at).await.len(), 1);
    is_over(subject, lease.id, &a).await;
}

async fn is_over(subject: &Subject, lease: super::LeaseId, key: &str) {
    let error = subject.keep_alive(lease).await.unwrap_err();
    assert!(matches!(error, Error::LeaseEnded { lease: id } if id == lease.0));
    let other = format!("{key}.other");
    let before = subject.read("").await.unwrap().revision;
    let changes = vec![
        Change::put(&*other, "x"),
        Change::put_bound(key, "x", lease),
    ];
    let error = subject.transact(vec![], changes).await.unwrap_err();
    assert!(matches!(error, Error::LeaseEnded { lease: id } if id == lease.0));
    assert!(map(subject, key).await.is_empty());
    assert_eq!(subject.read("").await.unwrap().revision, before);
    subject.revoke(lease).await.unwrap();
}

async fn beats_keep_a_lease(subject: &Subject, at: &str) {
    let start = Instant::now();
    let lease = subject.grant(TTL).await.unwrap();
    let key = format!("{at}a");
    commit(
        subject,
        vec![],
        vec![Change::put_bound(&*key, "1", lease.id)],
    )
    .await;
    let mut sent = start;
    while start.elapsed() < lease.ttl * 2 {
        tokio::time::sleep(lease.ttl / 4).await;
        sent = Instant::now();
        assert_eq!(subject.keep_alive(lease.id).await.unwrap(), lease.ttl);
    }
    assert_eq!(map(subject, at).await.len(), 1);
    wait_until(subject, at, BTreeMap::is_empty).await;
    assert!(sent.elapsed() >= lease.ttl);
    is_over(subject, lease.id, &key).await;
}

async fn a_revoked_lease_is_over(subject: &Subject, at: &str) {
    let lease = subject.grant(Duration::from_secs(600)).await.unwrap();
    let key = format!("{at}a");
    let change = Change::put_bound(&*key, "1", lease.id);
    let revision = commit(subject, vec![], vec![change]).await;
    subject.revoke(lease.id).await.unwrap();
    let mut watch = subject.watch(at, revision).await.unwrap();
    assert_eq!(watch.next().await.unwrap().keys, [(key.clone(), None)]);
    is_over(subject, lease.id, &key).await;
    is_over(subject, super::LeaseId(0x7777_7777), &key).await;
}

async fn a_key_follows_its_last_lease(subject: &Subject, at: &str) {
    let first = subject.grant(Duration::from_secs(600)).await.unwrap().id;
    let second = subject.grant(Duration::from_secs(600)).await.unwrap().id;
    assert_ne!(first, second);
    let [a, b, c] = ["a", "b", "c"].map(|key| format!("{at}{key}"));
    for key in [&a, &b, &c] {
        commit(subject, vec![], vec![Change::put_bound(&**key, "1", first)]).await;
    }
    commit(subject, vec![], vec![Change::put_bound(&*a, "2", second)]).await;
    put(subject, &b, "2").await;
    commit(subject, vec![], vec![Change::delete(&*c)]).await;
    put(subject, &c, "2").await;
    subject.revoke(first).await.unwrap();
    assert_eq!(map(subject, at).await.len(), 3);
    subject.revoke(second).await.unwrap();
    let left: Vec<_> = map(subject, at).await.into_keys().collect();
    assert_eq!(left, [b, c]);
}

//! A primary before it knows its backups, and with one that makes no sense.

use super::*;
use crate::cluster::ClusterMap;
use crate::coordinator::LeaseId;
use crate::records::{FORMAT, Policy, RegionId};
use crate::replica::layout::Answer;
use crate::{Coordinator, Embedded};
use bartender_net::sim::{Settings, run};
use bartender_net::{Access, PersistMethod};
use bartender_pm::{Options, Position};
use std::pin::pin;
use tokio::time::timeout;

fn record() -> Seen<RegionRecord> {
    let names = vec!["a".to_owned(), "b".to_owned()];
    Seen {
        record: RegionRecord {
            format: FORMAT,
            uuid: RegionId([7; 16]),
            epoch: 1,
            primary: "a".into(),
            in_sync: names.clone(),
            replicas: names,
            last_failover: None,
            policy: Policy::Block,
        },
        revision: 1,
    }
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn no_commit_is_answered_before_the_backups_are_known() {
    let folder = tempfile::tempdir().unwrap();
    run(1, Settings::default(), |network| async move {
        let fabric = network.node("a");
        let coordinator: Arc<dyn Coordinator> = Arc::new(Embedded::volatile());
        let map = ClusterMap::new(coordinator, "test").unwrap();
        let (tasks, second) = (Tasks::default(), Duration::from_secs(1));
        let members = Membership::start(map, "a", "a".into(), second, &tasks);
        let me = Identity {
            name: "a".into(),
            incarnation: 1,
            lease: LeaseId(1),
        };
        let bounds = Bounds {
            beat: Duration::from_millis(20),
            patience: second,
            lag: second,
        };
        let primary = Primary::new("bank", record(), me, members, fabric, tasks, bounds);
        let mut options = Options::new();
        options.max_size(4 << 20).log_size(64 << 10);
        options.background(false).replicated(1, primary.clone());
        let region = options.open(folder.path().join("bank")).unwrap();

        let mut flushed = pin!(primary.flush(&region));
        let early = timeout(second, &mut flushed).await;
        assert!(early.is_err(), "{early:?} without the backup");
        assert!(region.durable_seq() < region.last_seq());

        // Another node at its address is not the backup.
        let other = network.node("c");
        let listener = other.listen("c").await.unwrap();
        let accepting = tokio::spawn(async move { listener.accept().await });
        let answered = primary.connect("b", "c").await.unwrap_err();
        let another = bartender_net::Error::AnotherNode {
            peer: "c".into(),
            found: "c".into(),
            expected: "b".into(),
        };
        assert_eq!(answered.to_string(), another.to_string());
        accepting.abort();

        let position = Position {
            uuid: region.uuid(),
            epoch: 1,
            head: 0,
            committed: 0,
            tail: 0,
            checkpoint: 0,
        };
        for len in [0, 64, region.ring() - 64, u64::MAX] {
            let ring = Some(Ring {
                key: 1,
                base: 0,
                len,
                access: Access::WRITE,
                method: PersistMethod::Acknowledged,
            });
            let answer = Answer::Attached {
                position,
                ring,
                taker: false,
            };
            let attached = primary.attached(&region, answer, "b");
            assert!(attached.is_err(), "a ring of {len} bytes");
        }

        primary.start(&region).await;
        assert!(flushed.await.is_err(), "the backup never came");
        assert!(region.durable_seq() < region.last_seq());
    });
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn who_waits_for_commits_may_go_away() {
    for apart in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        run(1, Settings::default(), |network| async move {
            let fabric = network.node("a");
            let coordinator: Arc<dyn Coordinator> = Arc::new(Embedded::volatile());
            let map = ClusterMap::new(coordinator, "test").unwrap();
            let (tasks, second) = (Tasks::default(), Duration::from_secs(1));
            let members = Membership::start(map, "a", "a".into(), second, &tasks);
            let me = Identity {
                name: "a".into(),
                incarnation: 1,
                lease: LeaseId(1),
            };
            let bounds = Bounds {
                beat: Duration::from_millis(20),
                patience: second,
                lag: second,
            };
            let primary = Primary::new("bank", record(), me, members, fabric, tasks, bounds);
            let mut options = Options::new();
            options.max_size(4 << 20).log_size(64 << 10);
            options.background(false).replicated(1, primary.clone());
            let region = options.open(folder.path().join("bank")).unwrap();
            let waited = if apart {
                timeout(second, primary.flush_apart(&region)).await
            } else {
                timeout(second, primary.flush(&region)).await
            };
            assert!(waited.is_err(), "there is nobody else");
            assert_eq!(region.check_usable().is_ok(), apart);
            primary.stop();
        });
    }
}

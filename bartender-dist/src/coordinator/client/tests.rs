//! The contract, on a coordinator in another process: over a simulated network, calm and rough, and over TCP with TLS.

use super::super::contract;
use super::*;
use crate::{Embedded, serve_coordinator};
use bartender_net::sim::{self, Settings};
use bartender_net::tls::Authority;
use bartender_net::{Roles, TcpFabric, TcpOptions};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Serves until it is aborted, which ends its connections.
async fn serve(
    coordinator: &Embedded,
    fabric: Arc<dyn Fabric>,
    at: &str,
) -> (String, JoinHandle<Result<()>>) {
    let listener = fabric.listen(at).await.unwrap();
    let address = listener.address();
    let coordinator = Arc::new(coordinator.clone());
    (
        address,
        tokio::spawn(serve_coordinator(coordinator, listener)),
    )
}

#[test]
fn one_over_a_simulated_network_keeps_the_contract() {
    let rough = Settings::rough();
    for (seed, settings) in [(0, Settings::default()), (1, rough.clone()), (2, rough)] {
        sim::run(seed, settings, |network| async move {
            let server = network.node("server");
            let (address, _) = serve(&Embedded::volatile(), server, "server:0").await;
            let remote = RemoteCoordinator::new(network.node("client"), address);
            contract::all(Arc::new(remote), "t/").await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_over_tcp_with_tls_keeps_the_contract() {
    let day = Duration::from_secs(86_400);
    let authority = Authority::create(day).unwrap();
    let fabric = |name: &str, roles| -> Arc<dyn Fabric> {
        let identity = authority.issue(name, roles, day).unwrap();
        let options = TcpOptions::default();
        Arc::new(TcpFabric::secure(Handle::current(), &identity, options).unwrap())
    };
    let server = fabric("server", Roles::NODE);
    let (address, _) = serve(&Embedded::volatile(), server, "127.0.0.1:0").await;
    let remote = RemoteCoordinator::new(fabric("writer", Roles::WRITER), &*address);
    contract::all(Arc::new(remote), "t/").await;
    // Another node's certificate does not make it the coordinator.
    let named = |name| {
        let writer = fabric("writer", Roles::WRITER);
        RemoteCoordinator::new(writer, format!("{name}@{address}"))
    };
    named("server").read("").await.unwrap();
    let error = named("other").read("").await.unwrap_err().to_string();
    assert!(
        error.contains("server") && error.contains("other"),
        "{error}"
    );
    // Who may only read changes nothing, and says so.
    let reader = RemoteCoordinator::new(fabric("reader", Roles::READER), &*address);
    let before = reader.read("").await.unwrap();
    assert!(!before.entries.is_empty());
    let error = reader.transact(vec![], vec![Change::put("k", "v")]).await;
    let words = error.unwrap_err().to_string();
    assert!(words.contains("reader may not do that"), "{words}");
    reader.grant(Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(reader.read("").await.unwrap(), before);
}

#[test]
fn a_watch_and_a_lease_live_through_lost_connections_and_a_restart() {
    sim::run(3, Settings::default(), |network| async move {
        let embedded = Embedded::volatile();
        let server = network.node("server");
        let (address, task) = serve(&embedded, server, "server:0").await;
        let remote = RemoteCoordinator::new(network.node("client"), &*address);
        let lease = remote.grant(Duration::from_secs(60)).await.unwrap();
        let mut watch = remote.watch("k", 1).await.unwrap();
        let keys = |value: &'static str| vec![("k".to_owned(), Some(Bytes::from(value)))];
        let put = async |value: &'static str| {
            let put = vec![Change::put_bound("k", value, lease.id)];
            embedded.transact(vec![], put).await.unwrap();
        };
        put("1").await;
        assert_eq!(watch.next().await.unwrap().keys, keys("1"));

        // Nobody answers, and nobody says that the connection is gone.
        network.partition(&["client"], &["server"]);
        remote.keep_alive(lease.id).await.unwrap_err();
        put("2").await;
        put("3").await;
        network.heal_all();
        assert_eq!(watch.next().await.unwrap().keys, keys("2"));
        network.lose_connections("client", "server");
        assert_eq!(watch.next().await.unwrap().keys, keys("3"));
        assert_eq!(remote.keep_alive(lease.id).await.unwrap(), lease.ttl);

        let waiting = tokio::spawn(async move { watch.next().await.unwrap().keys });
        tokio::time::sleep(Duration::from_secs(1)).await;
        task.abort();
        let _ = task.await;
        network.kill("server");
        tokio::time::sleep(Duration::from_secs(20)).await;
        remote.read("").await.unwrap_err();
        let (_, _task) = serve(&embedded, network.restart("server"), &address).await;
        put("4").await;
        assert_eq!(waiting.await.unwrap(), keys("4"));
        assert_eq!(remote.keep_alive(lease.id).await.unwrap(), lease.ttl);
        // It was kept alive by nobody else.
        remote.revoke(lease.id).await.unwrap();
        assert!(embedded.read("").await.unwrap().entries.is_empty());
    });
}

#[test]
fn watches_that_are_dropped_leave_nothing_at_the_server() {
    sim::run(4, Settings::default(), |network| async move {
        let embedded = Embedded::volatile();
        let (address, _) = serve(&embedded, network.node("server"), "server:0").await;
        let remote = RemoteCoordinator::new(network.node("client"), address);
        // Far more than may be under way at once.
        for _ in 0..3000 {
            let mut watch = remote.watch("k", 1).await.unwrap();
            let soon = Duration::from_millis(10);
            let nothing = tokio::time::timeout(soon, watch.next()).await;
            assert!(nothing.is_err(), "{nothing:?}");
        }
        remote.read("").await.unwrap();
    });
}

#[test]
fn what_is_no_request_ends_the_connection() {
    sim::run(5, Settings::default(), |network| async move {
        let embedded = Embedded::volatile();
        let (address, _) = serve(&embedded, network.node("server"), "server:0").await;
        let client = network.node("client");
        let garbage = [&b""[..], b"hello", &[0; 16], &[1; 40]];
        for bytes in garbage {
            let connection = client.connect(&address).await.unwrap();
            let _ = connection.send(bytes).await;
            connection.closed().await;
        }
        let remote = RemoteCoordinator::new(client, address);
        remote.read("").await.unwrap();
    });
}

/// Three clients create entries of one log while connections are lost, a fourth follows, and each keeps a lease. Gives
/// the run's digest, how many attempts succeeded, were refused and had no answer, and how many beats had none.
fn race(seed: u64) -> (u64, [usize; 3], usize) {
    let settings = Settings {
        loss: 20_000,
        ..Settings::lossy()
    };
    sim::run(seed, settings, |network| async move {
        let embedded = Embedded::volatile();
        let (address, _task) = serve(&embedded, network.node("server"), "server:0").await;
        let client = |name: &str| {
            let limit = Duration::from_millis(700);
            RemoteCoordinator::with_limit(network.node(name), &*address, limit)
        };
        let follower = client("follower");
        let follows = tokio::spawn(async move {
            let mut watch = follower.watch("log/", 1).await.unwrap();
            let mut seen = Vec::new();
            loop {
                let changes = watch.next().await.unwrap();
                let last = changes.keys.iter().any(|(key, _)| key == "log/end");
                seen.push((changes.revision, changes.keys));
                if last {
                    return seen;
                }
            }
        });
        let writers = ["a", "b", "c"].map(|name| {
            let (remote, embedded) = (client(name), embedded.clone());
            tokio::spawn(async move {
                let beats = keeps_its_lease(&remote, &embedded, name).await;
                (writes(&remote, name).await, beats)
            })
        });
        let mut sums = [0; 3];
        let mut lost_beats = 0;
        let mut claims = Vec::new();
        for writer in writers {
            let (claimed, lost) = writer.await.unwrap();
            lost_beats += lost;
            claims.extend(claimed);
        }
        // What was on its way has arrived.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let read = embedded.read("log/").await.unwrap();
        for (key, mine, outcome) in claims {
            let entry = read.entries.iter().find(|entry| entry.key == key);
            let is_mine = entry.is_some_and(|entry| entry.value == mine);
            match outcome {
                Some(Transacted::Committed { revision }) => {
                    assert!(is_mine && entry.unwrap().revision == revision);
                    sums[0] += 1;
                }
                Some(Transacted::Refused) => {
                    assert!(entry.is_some() && !is_mine, "{key} {mine}");
                    sums[1] += 1;
                }
                None => sums[2] += 1,
            }
        }
        let end = vec![Change::put("log/end", "")];
        embedded.transact(vec![], end).await.unwrap();
        let seen = follows.await.unwrap();
        let read = embedded.read("log/").await.unwrap();
        let mut written: Vec<_> = read
            .entries
            .into_iter()
            .map(|e| (e.revision, vec![(e.key, Some(e.value))]))
            .collect();
        written.sort();
        assert_eq!(seen, written);
        (network.digest(), sums, lost_beats)
    })
}

/// Attempts: key, value, and the answer if there was one.
async fn writes(
    remote: &RemoteCoordinator,
    name: &str,
) -> Vec<(String, String, Option<Transacted>)> {
    let mut claims = Vec::new();
    for i in 0..60 {
        let (key, mine) = (format!("log/{i}"), format!("{name}{i}"));
        let absent = vec![Compare::Absent(key.clone())];
        let put = vec![Change::put(&*key, mine.clone())];
        let outcome = remote.transact(absent, put).await.ok();
        claims.push((key, mine, outcome));
    }
    claims
}

/// While the last beat that was answered had been sent less than the ttl ago, the key is there. Beats without answer.
async fn keeps_its_lease(remote: &RemoteCoordinator, embedded: &Embedded, name: &str) -> usize {
    let ttl = Duration::from_secs(3);
    let key = format!("life/{name}");
    let mut unanswered = 0;
    let (lease, mut sent) = loop {
        let sent = Instant::now();
        if let Ok(lease) = remote.grant(ttl).await {
            break (lease, sent);
        }
    };
    let put = Change::put_bound(&*key, name.to_owned(), lease.id);
    embedded.transact(vec![], vec![put]).await.unwrap();
    for _ in 0..80 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let beat = Instant::now();
        match remote.keep_alive(lease.id).await {
            Ok(_) => sent = beat,
            Err(Error::LeaseEnded { .. }) => assert!(sent.elapsed() >= ttl),
            Err(_) => unanswered += 1,
        }
        let alive = !embedded.read(&key).await.unwrap().entries.is_empty();
        assert!(alive || sent.elapsed() >= ttl);
    }
    unanswered
}

#[test]
fn answers_are_true_while_connections_are_lost_and_runs_repeat() {
    let mut sums = [0; 3];
    let mut lost_beats = 0;
    for seed in 0..20 {
        let (_, outcomes, lost) = race(seed);
        for (sum, outcome) in sums.iter_mut().zip(outcomes) {
            *sum += outcome;
        }
        lost_beats += lost;
    }
    println!("committed, refused, unknown: {sums:?}; beats without answer: {lost_beats}");
    assert!(sums.iter().all(|sum| *sum > 20) && lost_beats > 20);
    assert_eq!(race(7), race(7));
}

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

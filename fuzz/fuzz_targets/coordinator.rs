//! A coordinator that is asked anything over the network: it answers, or ends the connection, and serves the next one.

#![no_main]

use bartender_dist::{Coordinator, Embedded, RemoteCoordinator, serve_coordinator};
use bartender_net::Fabric;
use bartender_net::sim::{Settings, run};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;
use std::time::Duration;

fuzz_target!(|pieces: Vec<Vec<u8>>| {
    run(1, Settings::default(), |network| async move {
        let server = network.node("server");
        let peer = network.node("peer");
        let listener = server.listen("server").await.expect("it listens");
        let coordinator: Arc<dyn Coordinator> = Arc::new(Embedded::volatile());
        let serving = tokio::spawn(serve_coordinator(coordinator, listener));
        let connection = peer.connect("server").await.expect("it listens");
        for piece in pieces {
            let sent = connection.send(Bytes::from(piece));
            if !matches!(
                tokio::time::timeout(Duration::from_secs(1), sent).await,
                Ok(Ok(()))
            ) {
                break;
            }
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), connection.recv()).await;
        let other = RemoteCoordinator::new(peer, "server");
        other.read("").await.expect("it serves others");
        serving.abort();
    });
});

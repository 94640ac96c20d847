//! Who is let in with TLS, and who is not; what an attempt costs the others.

// Miri knows no sockets.
#![cfg(not(miri))]

mod contract;

use bartender_net::tls::{Authority, Identity};
use bartender_net::{Connection, Error, Fabric, Listener, Result, Roles, TcpFabric, TcpOptions};
use contract::both;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

const DAY: Duration = Duration::from_secs(86_400);

fn fabric(identity: &Identity) -> TcpFabric {
    TcpFabric::secure(Handle::current(), identity, TcpOptions::default()).unwrap()
}

/// A node of an authority, listening.
async fn node(authority: &Authority) -> (TcpFabric, Listener) {
    let fabric = fabric(&authority.issue("node-1", Roles::NODE, DAY).unwrap());
    let listener = fabric.listen("127.0.0.1:0").await.unwrap();
    (fabric, listener)
}

/// Connects, and says something: in TLS 1.3 who was turned away learns it by the first answer at the latest.
async fn attempt(identity: &Identity, listener: &Listener) -> Result<Connection> {
    fabric(identity).connect(&listener.address()).await
}

/// Nobody but `good` is there to be accepted.
async fn serves_only(good: &Identity, listener: &Listener) {
    let (near, far) = both(attempt(good, listener), listener.accept()).await;
    let (near, far) = (near.unwrap(), far.unwrap());
    assert_eq!(far.peer().name, good.name());
    near.send("hello").await.unwrap();
    far.recv().await.unwrap();
}

#[tokio::test]
async fn both_ends_know_name_and_roles_of_the_other() {
    let authority = Authority::create(DAY).unwrap();
    let (_node, listener) = node(&authority).await;
    let reader = authority.issue("reader.7", Roles::READER, DAY).unwrap();
    let (near, far) = both(attempt(&reader, &listener), listener.accept()).await;
    let (near, far) = (near.unwrap(), far.unwrap());
    assert_eq!(
        (near.peer().name.as_str(), near.peer().roles),
        ("node-1", Roles::NODE)
    );
    assert_eq!(
        (far.peer().name.as_str(), far.peer().roles),
        ("reader.7", Roles::READER)
    );
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_turned_away() {
    let authority = Authority::create(DAY).unwrap();
    let (_node, listener) = node(&authority).await;
    let stranger = Authority::create(DAY)
        .unwrap()
        .issue("node-1", Roles::ALL, DAY)
        .unwrap();
    let error = attempt(&stranger, &listener).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    let good = authority.issue("good", Roles::WRITER, DAY).unwrap();
    serves_only(&good, &listener).await;
}

#[tokio::test]
async fn an_expired_certificate_and_one_of_tomorrow_are_turned_away() {
    let authority = Authority::create(DAY).unwrap();
    let (_node, listener) = node(&authority).await;
    let now = SystemTime::now();
    for (from, until) in [(now - 3 * DAY, now - DAY), (now + DAY, now + 3 * DAY)] {
        let bad = authority
            .issue_between("bad", Roles::ALL, from, until)
            .unwrap();
        let error = attempt(&bad, &listener).await.unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "{error}");
        // Nor does anybody connect to it.
        let lair = fabric(&bad).listen("127.0.0.1:0").await.unwrap();
        let good = authority.issue("good", Roles::READER, DAY).unwrap();
        attempt(&good, &lair).await.unwrap_err();
    }
    let good = authority.issue("good", Roles::READER, DAY).unwrap();
    serves_only(&good, &listener).await;
}

#[tokio::test]
async fn who_is_no_node_cannot_be_connected_to() {
    let authority = Authority::create(DAY).unwrap();
    let reader = authority
        .issue("reader", Roles::READER | Roles::WRITER, DAY)
        .unwrap();
    let posing = fabric(&reader).listen("127.0.0.1:0").await.unwrap();
    let good = authority.issue("good", Roles::READER, DAY).unwrap();
    let error = attempt(&good, &posing).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
}

#[tokio::test]
async fn who_shows_no_certificate_gets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::create(DAY).unwrap();
    authority.save(folder.path()).unwrap();
    let (_node, listener) = node(&authority).await;
    let mut roots = rustls::RootCertStore::empty();
    let believed = CertificateDer::from_pem_file(folder.path().join("authority.pem")).unwrap();
    roots.add(believed).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(listener.address()).await.unwrap();
    let host = ServerName::try_from(bartender_net::tls::NODE_HOST).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut heard = Vec::new();
    if let Ok(mut stream) = connector.connect(host, stream).await {
        let _ = stream.write_all(&[0; 32]).await;
        let _ = stream.read_to_end(&mut heard).await;
    }
    assert!(heard.is_empty());
    let good = authority.issue("good", Roles::READER, DAY).unwrap();
    serves_only(&good, &listener).await;
}

#[tokio::test]
async fn plain_text_and_tls_do_not_mix() {
    let authority = Authority::create(DAY).unwrap();
    let (_node, listener) = node(&authority).await;
    let plain = TcpFabric::insecure(Handle::current(), TcpOptions::default());
    plain.connect(&listener.address()).await.unwrap_err();
    let good = authority.issue("good", Roles::READER, DAY).unwrap();
    let open = plain.listen("127.0.0.1:0").await.unwrap();
    attempt(&good, &open).await.unwrap_err();
    serves_only(&good, &listener).await;
}

#[tokio::test]
async fn half_a_handshake_is_dropped_and_others_served() {
    let authority = Authority::create(DAY).unwrap();
    let mut options = TcpOptions::default();
    options.handshake_limit = Duration::from_millis(200);
    options.handshakes = 2;
    let identity = authority.issue("node-1", Roles::NODE, DAY).unwrap();
    let fabric = TcpFabric::secure(Handle::current(), &identity, options).unwrap();
    let listener = fabric.listen("127.0.0.1:0").await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(listener.address()).await.unwrap();
        // The start of a TLS record, and no more.
        stream.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        silent.push(stream);
    }
    for mut stream in silent {
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
    }
    let good = authority.issue("good", Roles::READER, DAY).unwrap();
    serves_only(&good, &listener).await;
}

#[tokio::test]
async fn another_node_than_the_one_expected_is_named_and_let_go() {
    let authority = Authority::create(DAY).unwrap();
    let (_node, listener) = node(&authority).await;
    let reader = authority.issue("reader", Roles::READER, DAY).unwrap();
    let (near, far) = both(attempt(&reader, &listener), listener.accept()).await;
    let near = near.unwrap().expect("node-1").unwrap();
    let far = far.unwrap();
    near.send("hello").await.unwrap();
    let error = near.expect("node-2").unwrap_err();
    match &error {
        Error::AnotherNode {
            found, expected, ..
        } => assert_eq!((found.as_str(), expected.as_str()), ("node-1", "node-2")),
        other => panic!("{other}"),
    }
    assert!(!error.effect_unknown());
    far.closed().await;
}

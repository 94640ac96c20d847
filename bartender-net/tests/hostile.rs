//! Peers over TCP that do what they should not: speak another version or nothing at all, answer wrongly, die, stop
//! reading, ask for too much. They cost others a bounded share of this machine, and nobody else the service.

// Miri knows no sockets.
#![cfg(not(miri))]

mod contract;

use bartender_net::layout::{self, Frame, Hello};
use bartender_net::{
    Access, Connection, Error, Fabric, Listener, RemoteMemory, TcpFabric, TcpOptions,
};
use contract::memory::{Counted, Plain};
use contract::stories::at_once;
use contract::{both, pattern};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use zerocopy::{FromBytes, IntoBytes};

const LOOPBACK: &str = "127.0.0.1:0";

fn fabric(change: impl FnOnce(&mut TcpOptions)) -> TcpFabric {
    let mut options = TcpOptions::default();
    change(&mut options);
    TcpFabric::insecure(Handle::current(), options)
}

/// A socket that has exchanged hellos.
async fn greeted(stream: &mut TcpStream) {
    stream.write_all(Hello::ours().as_bytes()).await.unwrap();
    let mut hello = [0; size_of::<Hello>()];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(Hello::read_from_bytes(&hello).unwrap(), Hello::ours());
}

/// Our listening end, with what we hold of a peer that can say what it likes.
async fn hostile_client() -> (TcpStream, Connection, TcpFabric, Listener) {
    let fabric = fabric(|_| ());
    let listener = fabric.listen(LOOPBACK).await.unwrap();
    let client = async {
        let mut stream = TcpStream::connect(listener.address()).await.unwrap();
        greeted(&mut stream).await;
        stream
    };
    let (stream, connection) = both(client, listener.accept()).await;
    (stream, connection.unwrap(), fabric, listener)
}

/// Our connecting end, with a server that can say what it likes.
async fn hostile_server() -> (TcpStream, Connection) {
    let fabric = fabric(|_| ());
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        greeted(&mut stream).await;
        stream
    };
    let (stream, connection) = both(server, fabric.connect(&address)).await;
    (stream, connection.unwrap())
}

/// Memory that nobody holds: the peer is not ours.
fn nowhere() -> RemoteMemory {
    RemoteMemory {
        key: 1,
        base: 0,
        len: 1 << 30,
        access: Access::ALL,
        method: bartender_net::PersistMethod::Acknowledged,
    }
}

fn frame(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.put(&mut bytes);
    bytes
}

/// Reads until the end, which may be a reset.
async fn to_the_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

/// The listener still lets in who behaves.
async fn still_serves(fabric: &TcpFabric, listener: &Listener) {
    let address = listener.address();
    let (near, far) = both(fabric.connect(&address), listener.accept()).await;
    near.unwrap().send("hello").await.unwrap();
    drop(far);
}

#[tokio::test]
async fn another_version_is_named_by_the_connecting_end() {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let hello = Hello {
            protocol: 9.into(),
            ..Hello::ours()
        };
        stream.write_all(hello.as_bytes()).await.unwrap();
        stream
    };
    let fabric = fabric(|_| ());
    let (_stream, error) = both(server, fabric.connect(&address)).await;
    let error = error.unwrap_err();
    assert!(
        matches!(&error, Error::Protocol { found: 9, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn another_version_and_garbage_are_turned_away_and_others_served() {
    let fabric = fabric(|_| ());
    let listener = fabric.listen(LOOPBACK).await.unwrap();
    let newer = Hello {
        protocol: 9.into(),
        ..Hello::ours()
    };
    let garbage = pattern(3, 500);
    for said in [
        newer.as_bytes(),
        &garbage,
        b"GET / HTTP/1.1\r\nHost: bartender\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(listener.address()).await.unwrap();
        stream.write_all(said).await.unwrap();
        let heard = to_the_end(&mut stream).await;
        // A hello at most: it is what tells the other version which one this is.
        assert!(heard.len() <= size_of::<Hello>());
        still_serves(&fabric, &listener).await;
    }
}

#[tokio::test]
async fn peers_that_never_say_hello_are_dropped_and_others_served() {
    let fabric = fabric(|options| {
        options.handshake_limit = Duration::from_millis(50);
        options.handshakes = 2;
    });
    let listener = fabric.listen(LOOPBACK).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(listener.address()).await.unwrap();
        // One byte of a hello is as good as none.
        stream.write_all(&layout::MAGIC[..1]).await.unwrap();
        silent.push(stream);
    }
    for mut stream in silent {
        assert!(to_the_end(&mut stream).await.len() <= size_of::<Hello>());
    }
    still_serves(&fabric, &listener).await;
}

#[tokio::test]
async fn peers_that_never_say_hello_keep_nobody_out() {
    let fabric = fabric(|options| {
        options.handshake_limit = Duration::from_secs(3600);
        options.handshakes = 2;
    });
    let listener = fabric.listen(LOOPBACK).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(listener.address()).await.unwrap());
        still_serves(&fabric, &listener).await;
    }
    // Nor do those that were let in and wait to be accepted, as far as there is room for them.
    let _waiting = fabric.connect(&listener.address()).await.unwrap();
    silent.push(TcpStream::connect(listener.address()).await.unwrap());
    let near = fabric.connect(&listener.address()).await.unwrap();
    let _first = listener.accept().await.unwrap();
    let second = listener.accept().await.unwrap();
    near.send("hello").await.unwrap();
    second.recv().await.unwrap();
}

#[tokio::test]
async fn connecting_to_a_peer_that_says_nothing_ends() {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let fabric = fabric(|options| options.handshake_limit = Duration::from_millis(50));
    let error = fabric.connect(&address).await.unwrap_err();
    assert!(
        matches!(&error, Error::Connect { source, .. } if source.kind() == std::io::ErrorKind::TimedOut)
    );
}

#[tokio::test]
async fn what_makes_no_sense_cuts_the_peer_off() {
    let too_long = {
        let mut bytes = frame(&Frame::Send { len: 0 });
        bytes[4..8].copy_from_slice(&(layout::MAX_MESSAGE + 1).to_le_bytes());
        bytes
    };
    let said = [
        pattern(9, 300),
        too_long,
        frame(&Frame::Done { count: 1 }),
        frame(&Frame::Word { word: 1 }),
        frame(&Frame::Bytes { len: 0 }),
        frame(&Frame::Refused { reason: "no" }),
        frame(&Frame::Grant { bytes: 1 }),
    ];
    for said in said {
        let (mut stream, connection, fabric, listener) = hostile_client().await;
        stream.write_all(&said).await.unwrap();
        connection.closed().await;
        assert!(connection.recv().await.unwrap_err().effect_unknown());
        to_the_end(&mut stream).await;
        still_serves(&fabric, &listener).await;
    }
}

#[tokio::test]
async fn a_peer_cannot_leave_more_messages_than_there_is_room_for() {
    let (mut stream, connection, ..) = hostile_client().await;
    let mut bytes = frame(&Frame::Send {
        len: layout::MAX_MESSAGE,
    });
    bytes.resize(bytes.len() + layout::MAX_MESSAGE as usize, 0);
    let flood = async {
        // The write fails once the other end is gone.
        while stream.write_all(&bytes).await.is_ok() {}
    };
    both(flood, connection.closed()).await;
    let mut delivered = 0;
    while connection.recv().await.is_ok() {
        delivered += layout::MAX_MESSAGE;
    }
    assert!(delivered <= layout::WINDOW);
}

#[tokio::test]
async fn a_peer_that_asks_and_does_not_read_is_cut_off() {
    let (mut stream, connection, fabric, _listener) = hostile_client().await;
    let region = fabric.register(Plain::new(1 << 20), Access::ALL).unwrap();
    let key = region.remote().key;
    let request = frame(&Frame::Read {
        key,
        offset: 0,
        len: 1 << 20,
    })
    .repeat(1000);
    let flood = async { while stream.write_all(&request).await.is_ok() {} };
    both(flood, connection.closed()).await;
}

#[tokio::test]
async fn small_answers_that_nobody_reads_are_bounded_too() {
    let (mut stream, connection, fabric, _listener) = hostile_client().await;
    let region = fabric.register(Plain::new(64), Access::ALL).unwrap();
    let key = region.remote().key;
    let request = frame(&Frame::FetchAdd {
        key,
        offset: 0,
        addend: 1,
    })
    .repeat(1000);
    let flood = async { while stream.write_all(&request).await.is_ok() {} };
    both(flood, connection.closed()).await;
}

#[tokio::test]
async fn an_answer_of_another_kind_leaves_the_effect_unknown() {
    for answer in [
        Frame::Word { word: 1 },
        Frame::Done { count: 1 },
        Frame::Done { count: 2 },
        Frame::Bytes { len: 9 },
    ] {
        let (mut stream, connection) = hostile_server().await;
        let read = connection.read(nowhere(), 0, 8);
        let after = connection.write(nowhere(), 0, vec![1]);
        stream.write_all(&frame(&answer)).await.unwrap();
        assert!(read.await.unwrap_err().effect_unknown());
        assert!(after.await.unwrap_err().effect_unknown());
        connection.closed().await;
    }
}

#[tokio::test]
async fn death_in_the_middle_leaves_the_effect_unknown() {
    // Before the answer, in the middle of its head, in the middle of its bytes.
    let mut answer = frame(&Frame::Bytes { len: 100_000 });
    answer.resize(50_000, 3);
    for part in [0, 3, 8, 5000, 50_000] {
        let (mut stream, connection) = hostile_server().await;
        let read = connection.read(nowhere(), 0, 100_000);
        let write = connection.write(nowhere(), 0, vec![0; 3_000_000]);
        stream.write_all(&answer[..part]).await.unwrap();
        drop(stream);
        assert!(write.await.unwrap_err().effect_unknown());
        // It was posted first, so it was told first; by whom it was let down it says as well.
        let error = at_once(read).unwrap_err();
        assert!(error.effect_unknown());
        assert!(error.to_string().starts_with("127.0.0.1"), "{error}");
        connection.closed().await;
        assert!(matches!(connection.recv().await, Err(Error::Broken { .. })));
    }
}

#[tokio::test]
async fn a_deadline_that_passes_leaves_the_connection_in_order() {
    let (mut stream, connection) = hostile_server().await;
    let late = connection.read(nowhere(), 0, 4);
    let error = late.within(Duration::from_millis(5)).await.unwrap_err();
    assert!(error.effect_unknown());
    let next = connection.read(nowhere(), 0, 4);
    for answer in [b"late", b"next"] {
        stream
            .write_all(&frame(&Frame::Bytes { len: 4 }))
            .await
            .unwrap();
        stream.write_all(answer).await.unwrap();
    }
    assert_eq!(next.await.unwrap(), "next");
}

#[tokio::test]
async fn buffers_of_a_peer_that_does_not_read_go_when_the_connection_closes() {
    let (_stream, connection) = hostile_server().await;
    let gone = Arc::new(AtomicU64::new(0));
    let mut kept = Vec::new();
    for i in 0..20 {
        let bytes = Counted::watched(vec![0; 1 << 20], &gone);
        let write = connection.write(nowhere(), 0, bytes);
        // Some are waited for with a deadline, some are dropped at once.
        if i % 2 == 0 {
            kept.push(write);
        }
    }
    for write in kept {
        assert!(
            write
                .within(Duration::from_millis(1))
                .await
                .unwrap_err()
                .effect_unknown()
        );
    }
    // The system holds some megabytes; the rest is still ours.
    assert!(gone.load(Ordering::Acquire) < 20);
    connection.close();
    connection.closed().await;
    assert_eq!(gone.load(Ordering::Acquire), 20);
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_sent() {
    let (_stream, connection) = hostile_server().await;
    let error = connection
        .read(nowhere(), 0, layout::MAX_TRANSFER + 1)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    connection.closed().await;
    let (_stream, connection) = hostile_server().await;
    let before = connection.read(nowhere(), 0, 1);
    let error = connection
        .send(vec![0; layout::MAX_MESSAGE as usize + 1])
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(before.await.unwrap_err().effect_unknown());
}

#[tokio::test]
async fn who_is_not_authenticated_passes_for_anybody() {
    let (_stream, connection) = hostile_server().await;
    connection.expect("node-1").unwrap();
}

#[tokio::test]
async fn a_write_that_is_refused_may_be_there_in_part() {
    let (mut stream, connection) = hostile_server().await;
    let write = connection.write(nowhere(), 0, vec![1; 4096]);
    let reason = "the memory region was taken back meanwhile";
    stream
        .write_all(&frame(&Frame::Refused { reason }))
        .await
        .unwrap();
    let error = write.await.unwrap_err();
    assert!(matches!(&error, Error::Refused { .. }), "{error}");
    assert!(error.effect_unknown());
}

#[tokio::test]
async fn a_peer_that_stops_in_the_middle_does_not_keep_memory_that_was_taken_back() {
    let (mut stream, connection, fabric, _listener) = hostile_client().await;
    let memory = Plain::new(32 << 20);
    let region = fabric.register(memory.clone(), Access::ALL).unwrap();
    let key = region.remote().key;
    // A large read that it does not take, and half a write.
    let mut bytes = frame(&Frame::Read {
        key,
        offset: 0,
        len: 32 << 20,
    });
    bytes.extend(frame(&Frame::Write {
        key,
        offset: 0,
        len: 4096,
        immediate: None,
    }));
    bytes.extend([7; 1000]);
    stream.write_all(&bytes).await.unwrap();
    // Words of eight are stored as they come.
    while memory.word(992) == 0 {
        tokio::task::yield_now().await;
    }
    drop(region);
    assert_eq!(Arc::strong_count(&memory), 1);
    stream.write_all(&[7; 3096]).await.unwrap();
    connection.closed().await;
    assert_eq!(memory.word(1000), 0);
}

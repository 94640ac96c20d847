//! What is denied, and what a failure or an end of the connection means for everything else.

use super::memory::Plain;
use super::{Pair, both, denied};
use bartender_net::{Access, Error, Received, RemoteMemory};
use std::sync::Arc;

/// The memory of `far`'s that is told of to `near` with another key, length or rights than it has: what a peer
/// could do that knows the protocol.
fn forged(remote: RemoteMemory) -> RemoteMemory {
    RemoteMemory {
        len: u64::MAX,
        access: Access::ALL,
        ..remote
    }
}

pub async fn what_is_out_of_bounds_is_denied(pair: Pair) {
    for attempt in 0..6 {
        let (connection, _far) = pair.connect().await;
        let (memory, region) = pair.memory(4096);
        let remote = forged(region.remote());
        match attempt {
            0 => denied(connection.read(remote, 4096, 1).await),
            1 => denied(connection.read(remote, 0, 4097).await),
            2 => denied(connection.write(remote, 4090, vec![1; 7]).await),
            3 => denied(connection.compare_swap(remote, 4096, 0, 1).await),
            4 => denied(connection.fetch_add(remote, 1 << 40, 1).await),
            _ => denied(connection.persist(remote, vec![(0, 8), (4000, 97)]).await),
        }
        connection.closed().await;
        assert_eq!(memory.bytes(0, 4096), [0; 4096]);
        assert!(memory.persisted.lock().unwrap().is_empty());
    }
}

pub async fn offsets_do_not_wrap(pair: Pair) {
    for attempt in 0..4 {
        let (connection, _far) = pair.connect().await;
        let (memory, region) = pair.memory(4096);
        let remote = forged(region.remote());
        match attempt {
            0 => denied(connection.read(remote, u64::MAX, 2).await),
            1 => denied(connection.write(remote, u64::MAX - 3, vec![1; 8]).await),
            2 => denied(connection.fetch_add(remote, u64::MAX - 7, 1).await),
            _ => denied(connection.persist(remote, vec![(8, u64::MAX)]).await),
        }
        assert_eq!(memory.bytes(0, 4096), [0; 4096]);
    }
}

pub async fn rights_are_checked(pair: Pair) {
    let rights = [Access::READ, Access::WRITE, Access::ATOMIC];
    for given in rights {
        for attempt in 0..5 {
            let (connection, _far) = pair.connect().await;
            let memory = Plain::new(64);
            let region = pair.far.register(memory.clone(), given).unwrap();
            assert_eq!(region.remote().access, given);
            let remote = forged(region.remote());
            let (needed, denial) = match attempt {
                0 => (Access::READ, connection.read(remote, 0, 8).await.err()),
                1 => (
                    Access::WRITE,
                    connection.write(remote, 0, vec![1]).await.err(),
                ),
                2 => (
                    Access::ATOMIC,
                    connection.compare_swap(remote, 0, 0, 1).await.err(),
                ),
                3 => (
                    Access::ATOMIC,
                    connection.fetch_add(remote, 0, 1).await.err(),
                ),
                _ => (
                    Access::WRITE,
                    connection.persist(remote, vec![(0, 8)]).await.err(),
                ),
            };
            if given.allows(needed) {
                assert!(denial.is_none(), "{denial:?}");
            } else {
                denied(denial.map_or(Ok(()), Err));
                assert_eq!(memory.word(0), 0);
            }
        }
    }
}

pub async fn a_key_that_was_never_given_is_denied(pair: Pair) {
    let (connection, _far) = pair.connect().await;
    let (memory, region) = pair.memory(64);
    let remote = RemoteMemory {
        key: region.remote().key ^ 0x55,
        ..region.remote()
    };
    denied(connection.write(remote, 0, vec![1]).await);
    assert_eq!(memory.word(0), 0);
}

pub async fn a_revoked_key_is_denied(pair: Pair) {
    let (connection, _far) = pair.connect().await;
    let (memory, region) = pair.memory(64);
    let remote = region.remote();
    connection.write(remote, 0, vec![1]).await.unwrap();
    drop(region);
    denied(connection.write(remote, 0, vec![2]).await);
    assert_eq!(memory.word(0), 1);
    // The memory is its owner's alone now.
    assert_eq!(Arc::strong_count(&memory), 1);
}

pub async fn registrations_are_revoked_one_by_one(pair: Pair) {
    let (connection, _far) = pair.connect().await;
    let memory = Plain::new(64);
    let first = pair.far.register(memory.clone(), Access::ALL).unwrap();
    let second = pair.far.register(memory.clone(), Access::READ).unwrap();
    assert!(first.remote().key != second.remote().key);
    drop(first);
    assert_eq!(
        connection.read(second.remote(), 0, 8).await.unwrap().len(),
        8
    );
}

pub async fn atomics_want_aligned_offsets(pair: Pair) {
    for swap in [true, false] {
        let (connection, _far) = pair.connect().await;
        let (memory, region) = pair.memory(64);
        if swap {
            denied(connection.compare_swap(region.remote(), 4, 0, 1).await);
        } else {
            denied(connection.fetch_add(region.remote(), 1, 1).await);
        }
        assert_eq!(memory.bytes(0, 64), [0; 64]);
    }
}

pub async fn what_is_too_large_is_denied(pair: Pair) {
    let (_memory, region) = pair.memory(64);
    for len in [bartender_net::layout::MAX_TRANSFER + 1, u32::MAX] {
        let (connection, _far) = pair.connect().await;
        denied(connection.read(forged(region.remote()), 0, len).await);
        connection.closed().await;
    }
}

pub async fn after_a_failure_all_that_follows_fails(pair: Pair) {
    let (connection, _far) = pair.connect().await;
    let (_memory, region) = pair.memory(64);
    let remote = region.remote();
    let mut batch = connection.batch();
    let good = batch.write(remote, 0, vec![1; 8]);
    let bad = batch.read(forged(remote), 64, 1);
    let rest: Vec<_> = (0..10).map(|_| batch.read(remote, 0, 8)).collect();
    batch.post();
    good.await.unwrap();
    denied(bad.await);
    for read in rest {
        read.await.unwrap_err();
    }
    connection.closed().await;
    connection.write(remote, 0, vec![2]).await.unwrap_err();
}

pub async fn what_follows_a_failure_has_no_effect(pair: Pair) {
    let (connection, far) = pair.connect().await;
    let (memory, region) = pair.memory(64);
    let remote = region.remote();
    let mut batch = connection.batch();
    let good = batch.write(remote, 0, vec![1; 8]);
    let bad = batch.write(forged(remote), 60, vec![2; 8]);
    let after = batch.write(remote, 8, vec![3; 8]);
    let message = batch.send("never");
    batch.post();
    good.await.unwrap();
    denied(bad.await);
    after.await.unwrap_err();
    message.await.unwrap_err();
    far.recv().await.unwrap_err();
    far.closed().await;
    assert_eq!(memory.bytes(0, 16), [[1; 8], [0; 8]].concat());
    assert_eq!(memory.bytes(56, 8), [0; 8]);
}

pub async fn closing_is_told_to_the_peer(pair: Pair) {
    let (connection, far) = pair.connect().await;
    connection.close();
    connection.close();
    connection.closed().await;
    far.closed().await;
    far.recv().await.unwrap_err();
    connection.recv().await.unwrap_err();
}

pub async fn what_had_arrived_is_delivered_after_closing(pair: Pair) {
    let (connection, far) = pair.connect().await;
    connection.send("one").await.unwrap();
    connection.send("two").await.unwrap();
    connection.close();
    far.closed().await;
    assert_eq!(far.recv().await.unwrap(), Received::Message("one".into()));
    assert_eq!(far.recv().await.unwrap(), Received::Message("two".into()));
    assert!(far.recv().await.unwrap_err().effect_unknown());
}

pub async fn operations_under_way_fail_when_the_peer_closes(pair: Pair) {
    let (connection, far) = pair.connect().await;
    // Nobody receives them: sooner or later there is no room for more.
    let sends: Vec<_> = (0..5000)
        .map(|_| connection.send(vec![7; 10_000]))
        .collect();
    far.close();
    let mut failed = 0;
    for send in sends {
        match send.await {
            Ok(()) => assert_eq!(failed, 0, "an operation succeeded after one that failed"),
            Err(error) => {
                assert!(error.effect_unknown(), "{error}");
                failed += 1;
            }
        }
    }
    assert!(failed > 0);
    connection.closed().await;
}

pub async fn a_closed_connection_takes_nothing(pair: Pair) {
    let (connection, _far) = pair.connect().await;
    let (memory, region) = pair.memory(64);
    connection.close();
    let error = connection.write(region.remote(), 0, vec![1]).await;
    assert!(matches!(error, Err(Error::Broken { .. })), "{error:?}");
    assert_eq!(memory.word(0), 0);
}

pub async fn dropping_the_last_handle_closes(pair: Pair) {
    let (connection, far) = pair.connect().await;
    let (_memory, region) = pair.memory(64);
    let clone = connection.clone();
    drop(connection);
    clone.write(region.remote(), 0, vec![1]).await.unwrap();
    drop(clone);
    far.closed().await;
}

pub async fn peers_have_names(pair: Pair) {
    let (connection, far) = pair.connect().await;
    for end in [&connection, &far] {
        assert!(!end.peer().name.is_empty());
        assert!(!end.peer().address.is_empty());
    }
}

pub async fn connecting_to_nobody_fails(pair: Pair) {
    let listener = pair.far.listen(&pair.address).await.unwrap();
    let address = listener.address();
    let (near, far) = both(pair.near.connect(&address), listener.accept()).await;
    drop((near, far, listener));
    let error = pair.near.connect(&address).await;
    assert!(matches!(error, Err(Error::Connect { .. })), "{error:?}");
}

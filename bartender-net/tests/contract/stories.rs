//! What operations do when nothing goes wrong, and who holds their buffers.

use super::memory::{Counted, Plain};
use super::{Pair, both, pattern};
use bartender_net::{Access, Error, Received};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub async fn a_write_is_read_back(pair: Pair) {
    let (connection, _far) = pair.connect().await;
    let (_memory, region) = pair.memory(1 << 16);
    let remote = region.remote();
    for (i, len) in [1, 7, 8, 9, 63, 64, 65, 1000, 4096, 40_000]
        .into_iter()
        .enumerate()
    {
        for offset in [0, 1, 7, 8, 4095] {
            let bytes = pattern(i as u64 * 31 + offset, len);
            connection
                .write(remote, offset, bytes.clone())
                .await
                .unwrap();
            let read = connection.read(remote, offset, len as u32).await.unwrap();
            assert_eq!(read, bytes, "{len} bytes at {offset}");
        }
    }
}

pub async fn a_completed_write_is_in_place(pair: Pair) {
    let (connection, _far) = pair.connect().await;
    let (memory, region) = pair.memory(1 << 17);
    for len in [1, 8, 64, 5000, 100_001] {
        let bytes = pattern(len as u64, len);
        connection
            .write(region.remote(), 3, bytes.clone())
            .await
            .unwrap();
        assert_eq!(memory.bytes(3, len), bytes);
    }
}

pub async fn what_is_beside_a_write_stays(pair: Pair) {
    let (connection, _far) = pair.connect().await;
    let (memory, region) = pair.memory(4096);
    memory.fill(0, &[0xEE; 4096]);
    connection
        .write(region.remote(), 101, vec![1; 50])
        .await
        .unwrap();
    assert_eq!(memory.bytes(0, 101), [0xEE; 101]);
    assert_eq!(memory.bytes(101, 50), [1; 50]);
    assert_eq!(memory.bytes(151, 3945), [0xEE; 3945]);
}

pub async fn nothing_can_be_read_and_written(pair: Pair) {
    let (connection, far) = pair.connect().await;
    let (_memory, region) = pair.memory(64);
    let remote = region.remote();
    connection.write(remote, 0, Bytes::new()).await.unwrap();
    connection.write(remote, 64, Bytes::new()).await.unwrap();
    assert_eq!(connection.read(remote, 64, 0).await.unwrap(), Bytes::new());
    connection.send(Bytes::new()).await.unwrap();
    assert_eq!(far.recv().await.unwrap(), Received::Message(Bytes::new()));
}

pub async fn an_immediate_comes_after_its_bytes(pair: Pair) {
    let (connection, far) = pair.connect().await;
    let (memory, region) = pair.memory(1 << 16);
    for round in 1..50_u32 {
        let bytes = pattern(u64::from(round), 9000);
        let write = connection.write_with_immediate(region.remote(), 0, bytes.clone(), round);
        assert_eq!(far.recv().await.unwrap(), Received::Immediate(round));
        assert_eq!(memory.bytes(0, 9000), bytes);
        write.await.unwrap();
    }
}

pub async fn compare_swap_changes_only_what_it_expected(pair: Pair) {
    let (connection, _far) = pair.connect().await;
    let (memory, region) = pair.memory(64);
    let remote = region.remote();
    assert_eq!(connection.compare_swap(remote, 8, 0, 5).await.unwrap(), 0);
    assert_eq!(connection.compare_swap(remote, 8, 0, 9).await.unwrap(), 5);
    assert_eq!(memory.word(8), 5);
    let max = u64::MAX;
    assert_eq!(connection.compare_swap(remote, 8, 5, max).await.unwrap(), 5);
    assert_eq!((memory.word(0), memory.word(8)), (0, max));
}

pub async fn fetch_add_wraps(pair: Pair) {
    let (connection, _far) = pair.connect().await;
    let (memory, region) = pair.memory(64);
    let remote = region.remote();
    assert_eq!(connection.fetch_add(remote, 56, 7).await.unwrap(), 0);
    assert_eq!(connection.fetch_add(remote, 56, u64::MAX).await.unwrap(), 7);
    assert_eq!(memory.word(56), 6);
}

pub async fn atomics_of_two_connections_do_not_lose_updates(pair: Pair) {
    let (one, _far) = pair.connect().await;
    let (two, _far_too) = pair.connect().await;
    let (memory, region) = pair.memory(8);
    let remote = region.remote();
    let add = |connection: bartender_net::Connection| async move {
        for _ in 0..10 {
            let adds: Vec<_> = (0..20)
                .map(|_| connection.fetch_add(remote, 0, 3))
                .collect();
            for add in adds {
                add.await.unwrap();
            }
        }
    };
    both(add(one), add(two)).await;
    assert_eq!(memory.word(0), 2 * 10 * 20 * 3);
}

pub async fn messages_come_in_order_and_whole(pair: Pair) {
    let (connection, far) = pair.connect().await;
    for (i, len) in [0, 1, 64, 1000, 40_000, 3].into_iter().enumerate() {
        let sent = connection.send(pattern(i as u64, len));
        let got = far.recv().await.unwrap();
        assert_eq!(got, Received::Message(pattern(i as u64, len).into()));
        sent.await.unwrap();
    }
    // More than the receiver has room for: the sender is held back, and nothing is lost.
    let send = async {
        let sends: Vec<_> = (0..3000_u32)
            .map(|i| connection.send(i.to_le_bytes().repeat(50)))
            .collect();
        for send in sends {
            send.await.unwrap();
        }
    };
    let receive = async {
        for i in 0..3000_u32 {
            let expected = i.to_le_bytes().repeat(50).into();
            assert_eq!(far.recv().await.unwrap(), Received::Message(expected));
        }
    };
    both(send, receive).await;
}

pub async fn messages_and_immediates_come_in_the_order_of_posting(pair: Pair) {
    let (connection, far) = pair.connect().await;
    let (_memory, region) = pair.memory(64);
    let mut batch = connection.batch();
    let first = batch.write_with_immediate(region.remote(), 0, vec![1], 1);
    let second = batch.send("two");
    let third = batch.write_with_immediate(region.remote(), 0, vec![3], 3);
    batch.post();
    assert_eq!(far.recv().await.unwrap(), Received::Immediate(1));
    assert_eq!(far.recv().await.unwrap(), Received::Message("two".into()));
    assert_eq!(far.recv().await.unwrap(), Received::Immediate(3));
    first.await.unwrap();
    second.await.unwrap();
    third.await.unwrap();
}

pub async fn persist_sees_the_writes_before_it(pair: Pair) {
    let (connection, _far) = pair.connect().await;
    let (memory, region) = pair.memory(1 << 16);
    let remote = region.remote();
    for round in 0..10 {
        let bytes = pattern(round, 5000);
        let mut batch = connection.batch();
        let write = batch.write(remote, 96, bytes.clone());
        let persist = batch.persist(remote, vec![(96, 5000), (0, 8)]);
        batch.post();
        persist.await.unwrap();
        write.await.unwrap();
        let (ranges, found) = memory.persisted.lock().unwrap().pop().unwrap();
        assert_eq!(ranges, [(96, 5000), (0, 8)]);
        assert_eq!(found, bytes);
    }
    connection.persist(remote, vec![]).await.unwrap();
}

pub async fn a_barrier_that_fails_is_told(pair: Pair) {
    let (connection, _far) = pair.connect().await;
    let (memory, region) = pair.memory(64);
    memory.broken.store(true, Ordering::Relaxed);
    let error = connection.persist(region.remote(), vec![(0, 8)]).await;
    let error = error.unwrap_err();
    // A part of it may be durable.
    assert!(error.effect_unknown());
    match error {
        Error::Refused { reason, .. } => assert!(reason.contains("the disk is gone")),
        other => panic!("{other:?}"),
    }
    connection.closed().await;
}

pub async fn a_batch_completes_in_order(pair: Pair) {
    let (connection, _far) = pair.connect().await;
    let (_memory, region) = pair.memory(4096);
    let remote = region.remote();
    let mut batch = connection.batch();
    let write = batch.write(remote, 0, 40_u64.to_le_bytes().to_vec());
    let add = batch.fetch_add(remote, 0, 1);
    let swap = batch.compare_swap(remote, 0, 41, 42);
    let overwrite = batch.write(remote, 8, vec![9; 8]);
    let read = batch.read(remote, 0, 16);
    batch.post();
    let mut expected = 42_u64.to_le_bytes().to_vec();
    expected.extend([9; 8]);
    assert_eq!(read.await.unwrap(), expected);
    // All before it are complete by now.
    assert_eq!((at_once(add).unwrap(), at_once(swap).unwrap()), (40, 41));
    write.await.unwrap();
    overwrite.await.unwrap();
}

pub async fn thousands_of_operations_are_in_flight(pair: Pair) {
    let (connection, _far) = pair.connect().await;
    let (memory, region) = pair.memory(1 << 16);
    let remote = region.remote();
    let mut batch = connection.batch();
    let mut adds = Vec::new();
    let mut reads = Vec::new();
    for i in 0..6000_u64 {
        adds.push(batch.fetch_add(remote, i % 64 * 8, 1));
        reads.push(batch.read(remote, 0, 512));
    }
    batch.post();
    for add in adds {
        add.await.unwrap();
    }
    for read in reads {
        assert_eq!(read.await.unwrap().len(), 512);
    }
    let sum: u64 = (0..64).map(|i| memory.word(i * 8)).sum();
    assert_eq!(sum, 6000);
}

pub async fn both_ends_post_at_once(pair: Pair) {
    let (near, far) = pair.connect().await;
    let (_far_memory, far_region) = pair.memory(1 << 20);
    let near_memory = Plain::new(1 << 20);
    let near_region = pair.near.register(near_memory, Access::ALL).unwrap();
    let talk = |from: bartender_net::Connection, to: bartender_net::RemoteMemory, seed: u64| async move {
        let rounds: Vec<_> = (0..8_u64)
            .map(|i| {
                let bytes = pattern(seed + i, 100_000);
                let write = from.write(to, i * 100_000, bytes.clone());
                (write, from.read(to, i * 100_000, 100_000), bytes)
            })
            .collect();
        let mut sends = Vec::new();
        for i in 0..500_u32 {
            sends.push(from.send(i.to_le_bytes().to_vec()));
        }
        for (write, read, bytes) in rounds {
            write.await.unwrap();
            assert!(read.await.unwrap() == bytes, "other bytes came back");
        }
        for i in 0..500_u32 {
            let expected = i.to_le_bytes().to_vec().into();
            assert_eq!(from.recv().await.unwrap(), Received::Message(expected));
        }
        for send in sends {
            send.await.unwrap();
        }
    };
    both(
        talk(near.clone(), far_region.remote(), 1),
        talk(far.clone(), near_region.remote(), 1000),
    )
    .await;
}

pub async fn a_large_transfer_comes_whole(pair: Pair) {
    let (connection, _far) = pair.connect().await;
    let (_memory, region) = pair.memory(9 << 20);
    let remote = region.remote();
    let bytes: Bytes = pattern(77, (8 << 20) + 5).into();
    let write = connection.write(remote, 11, bytes.clone());
    let read = connection.read(remote, 11, bytes.len() as u32);
    write.await.unwrap();
    assert!(read.await.unwrap() == bytes, "other bytes came back");
}

pub async fn a_dropped_pending_does_not_stop_its_write(pair: Pair) {
    let (connection, _far) = pair.connect().await;
    let (memory, region) = pair.memory(1 << 20);
    drop(connection.write(region.remote(), 0, vec![5; 700_000]));
    connection.read(region.remote(), 0, 8).await.unwrap();
    assert!(memory.bytes(0, 700_000) == [5; 700_000]);
}

pub async fn buffers_are_let_go(pair: Pair) {
    let (connection, far) = pair.connect().await;
    let (memory, region) = pair.memory(1 << 20);
    let gone = Arc::new(AtomicU64::new(0));
    let mut posted = 0;
    for len in [1_usize, 64, 5000, 300_000] {
        for keep in [true, false] {
            let bytes = Counted::watched(vec![len as u8; len], &gone);
            let write = connection.write(region.remote(), 0, bytes);
            posted += 1;
            if keep {
                write.await.unwrap();
            }
        }
        drop(connection.send(Counted::watched(vec![1; len.min(5000)], &gone)));
        posted += 1;
        far.recv().await.unwrap();
    }
    connection.read(region.remote(), 0, 1).await.unwrap();
    drop(connection);
    drop(far);
    // The backend's own tasks may need a moment to let go.
    while gone.load(Ordering::Acquire) != posted {
        yield_now().await;
    }
    assert!(memory.bytes(0, 300_000) == [(300_000 % 256) as u8; 300_000]);
}

/// The outcome of what is complete.
pub fn at_once<T>(pending: bartender_net::Pending<T>) -> Result<T, Error> {
    use std::task::{Context, Poll, Waker};
    match std::pin::pin!(pending).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("not complete"),
    }
}

/// Lets others run.
async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

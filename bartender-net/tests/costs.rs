//! Golden counts: what operations over TCP cost in system calls on sockets, exactly. Both ends run on one thread.

// Miri knows no sockets.
#![cfg(not(miri))]

mod contract;

use bartender_net::counts::Counts;
use bartender_net::{Access, Connection, Fabric, MemoryRegion, TcpFabric, TcpOptions};
use contract::both;
use contract::memory::Plain;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use tokio::runtime::Handle;

async fn connected() -> (Connection, Connection, MemoryRegion) {
    let fabric = TcpFabric::insecure(Handle::current(), TcpOptions::default());
    let listener = fabric.listen("127.0.0.1:0").await.unwrap();
    let address = listener.address();
    let (near, far) = both(fabric.connect(&address), listener.accept()).await;
    let region = fabric.register(Plain::new(1 << 20), Access::ALL).unwrap();
    (near.unwrap(), far.unwrap(), region)
}

/// A request and its answer: each is one write and one read.
const ROUND_TRIP: Counts = Counts {
    writes: 2,
    reads: 2,
    kicks: 0,
};

/// What posting and waiting cost.
async fn cost<F: Future>(operation: impl FnOnce() -> F) -> Counts {
    let before = Counts::now();
    operation().await;
    Counts::now().since(before)
}

#[tokio::test(flavor = "current_thread")]
async fn an_operation_is_one_write_and_one_read_at_each_end() {
    let (connection, far, region) = connected().await;
    let remote = region.remote();
    for _ in 0..10 {
        assert_eq!(
            cost(|| connection.write(remote, 0, vec![1; 64])).await,
            ROUND_TRIP
        );
        assert_eq!(cost(|| connection.read(remote, 0, 64)).await, ROUND_TRIP);
        assert_eq!(
            cost(|| connection.compare_swap(remote, 0, 0, 1)).await,
            ROUND_TRIP
        );
        assert_eq!(
            cost(|| connection.fetch_add(remote, 0, 1)).await,
            ROUND_TRIP
        );
        assert_eq!(
            cost(|| connection.persist(remote, vec![(0, 64)])).await,
            ROUND_TRIP
        );
        assert_eq!(cost(|| connection.send("message")).await, ROUND_TRIP);
        let (_, received) = Counts::of(|| {
            pin!(far.recv())
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_ready()
        });
        assert_eq!(received, Counts::default());
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_batch_costs_what_one_operation_does() {
    let (connection, _far, region) = connected().await;
    let remote = region.remote();
    let mut batch = connection.batch();
    let mut writes = Vec::new();
    for i in 0..50 {
        writes.push(batch.write(remote, i * 1000, vec![7; 1000]));
    }
    let persist = batch.persist(remote, vec![(0, 50_000)]);
    let (_, posting) = Counts::of(|| batch.post());
    let posted = Counts {
        writes: 1,
        reads: 0,
        kicks: 0,
    };
    assert_eq!(posting, posted);
    let rest = cost(|| persist).await;
    assert_eq!(
        rest,
        Counts {
            writes: 1,
            reads: 2,
            kicks: 0
        }
    );
    for write in writes {
        assert_eq!(cost(|| write).await, Counts::default());
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_large_payload_does_not_cost_a_write_of_its_own() {
    let (connection, _far, region) = connected().await;
    let write = |len| connection.write(region.remote(), 0, vec![7; len]);
    let (write, posting) = Counts::of(|| write(40_000));
    assert_eq!(
        posting,
        Counts {
            writes: 1,
            reads: 0,
            kicks: 0
        }
    );
    write.await.unwrap();
}

/// Unparks a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits by parking.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_thread_outside_the_runtime_posts_and_waits_without_its_help() {
    let (connection, far, region) = connected().await;
    let remote = region.remote();
    let poster = std::thread::spawn(move || {
        for i in 0..100_u64 {
            let (write, cost) =
                Counts::of(|| connection.write(remote, 8, i.to_le_bytes().to_vec()));
            assert_eq!(
                cost,
                Counts {
                    writes: 1,
                    reads: 0,
                    kicks: 0
                }
            );
            block_on(write).unwrap();
            let read = block_on(connection.read(remote, 8, 8)).unwrap();
            assert_eq!(*read, i.to_le_bytes());
        }
        block_on(connection.send("done")).unwrap();
        // A large one does not fit the socket: the task goes on with it.
        block_on(connection.write(remote, 0, vec![1; 1 << 20])).unwrap();
        connection
    });
    far.recv().await.unwrap();
    tokio::task::spawn_blocking(|| poster.join())
        .await
        .unwrap()
        .unwrap();
}

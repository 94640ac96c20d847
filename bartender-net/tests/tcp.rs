//! The contract of the fabric over TCP: insecure and with TLS, on a runtime of several threads and of one.

// Miri knows no sockets.
#![cfg(not(miri))]

mod contract;

use bartender_net::tls::Authority;
use bartender_net::{Fabric, Roles, TcpFabric, TcpOptions};
use contract::{Pair, Story};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};

fn many() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn one() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn pair(fabric: impl Fn() -> TcpFabric) -> Pair {
    let fabric = || -> Arc<dyn Fabric> { Arc::new(fabric()) };
    Pair {
        near: fabric(),
        far: fabric(),
        address: "127.0.0.1:0".into(),
    }
}

fn insecure(runtime: Runtime, test: fn(Pair) -> Story) {
    runtime.block_on(async {
        let fabric = || TcpFabric::insecure(Handle::current(), TcpOptions::default());
        test(pair(fabric)).await;
    });
}

fn secure(test: fn(Pair) -> Story) {
    let day = Duration::from_secs(86_400);
    let authority = Authority::create(day).unwrap();
    let identity = authority.issue("n", Roles::ALL, day).unwrap();
    many().block_on(async {
        let fabric =
            || TcpFabric::secure(Handle::current(), &identity, TcpOptions::default()).unwrap();
        test(pair(fabric)).await;
    });
}

/// While the answer to the first is half received, as many others are under way as may be.
#[test]
fn large_reads_that_are_posted_by_the_thousand_come() {
    insecure(one(), |pair| {
        Box::pin(async move {
            let (near, far) = pair.connect().await;
            let (_memory, region) = pair.memory(64 << 20);
            let len = 64 << 20;
            let mut batch = near.batch();
            let mut reads: Vec<_> = (0..5000)
                .map(|_| batch.read(region.remote(), 0, len))
                .collect();
            batch.post();
            for read in reads.drain(..2) {
                assert_eq!(read.await.unwrap().len(), len as usize);
            }
            drop(far);
        })
    });
}

fn insecure_on_many_threads(test: fn(Pair) -> Story) {
    insecure(many(), test);
}

fn insecure_on_one_thread(test: fn(Pair) -> Story) {
    insecure(one(), test);
}

mod on_many_threads {
    use super::{contract, insecure_on_many_threads};
    contract!(insecure_on_many_threads);
}

mod on_one_thread {
    use super::{contract, insecure_on_one_thread};
    contract!(insecure_on_one_thread);
}

mod with_tls {
    use super::{contract, secure};
    contract!(secure);
}

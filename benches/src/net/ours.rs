//! The fabric: one connection, to a memory of 8 MiB.

use super::memory::Zeroes;
use super::{SMALL, rate, runtime, serve, wait};
use bartender_net::tls::{Authority, Identity};
use bartender_net::{Access, Connection, Fabric, RemoteMemory, Roles, TcpFabric, TcpOptions};
use bytes::Bytes;
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, Runtime};

/// The client's end.
pub(super) struct Client {
    runtime: Runtime,
    connection: Connection,
    remote: RemoteMemory,
}

fn fabric(identity: Option<&Identity>) -> TcpFabric {
    let (handle, options) = (Handle::current(), TcpOptions::default());
    match identity {
        None => TcpFabric::insecure(handle, options),
        Some(identity) => {
            TcpFabric::secure(handle, identity, options).expect("the certificate was just issued")
        }
    }
}

impl Client {
    pub(super) fn start(tls: bool) -> Client {
        let identity = tls.then(|| {
            let day = Duration::from_secs(86_400);
            let issued = Authority::create(day)
                .and_then(|authority| authority.issue("bench", Roles::ALL, day));
            issued.expect("keys can be made")
        });
        let servers = identity.clone();
        let (address, remote) = serve(move |ready| async move {
            let fabric = fabric(servers.as_ref());
            let region = fabric
                .register(Zeroes::new(8 << 20), Access::ALL)
                .expect("it is aligned");
            let listener = fabric
                .listen("127.0.0.1:0")
                .await
                .expect("loopback can be listened at");
            let _ = ready.send((listener.address(), region.remote()));
            if let Ok(connection) = listener.accept().await {
                connection.closed().await;
            }
        });
        let runtime = runtime();
        let connected = async { fabric(identity.as_ref()).connect(&address).await };
        let connection = runtime.block_on(connected).expect("the server listens");
        Client {
            runtime,
            connection,
            remote,
        }
    }

    /// Median of `n` times, in microseconds.
    pub(super) fn round(&self, n: usize, write: bool) -> f64 {
        let (connection, remote) = (self.connection.clone(), self.remote);
        super::timed(&self.runtime, async move {
            let mut times = Vec::with_capacity(n);
            let bytes = Bytes::from_static(&[7; SMALL]);
            for _ in 0..n {
                let start = Instant::now();
                if write {
                    let write = connection.write(remote, 0, bytes.clone());
                    write.await.expect("the server lives");
                } else {
                    let read = connection.read(remote, 0, SMALL as u32);
                    read.await.expect("the server lives");
                }
                times.push(start.elapsed());
            }
            times
        })
    }

    /// The same from a thread outside the runtime, which runs in another.
    pub(super) fn blocking_round(&self, n: usize, write: bool) -> f64 {
        let (connection, remote) = (self.connection.clone(), self.remote);
        let poster = std::thread::spawn(move || {
            crate::machine::pin(0);
            let bytes = Bytes::from_static(&[7; SMALL]);
            let mut times = Vec::with_capacity(n);
            for _ in 0..n {
                let start = Instant::now();
                if write {
                    block_on(connection.write(remote, 0, bytes.clone())).expect("the server lives");
                } else {
                    block_on(connection.read(remote, 0, SMALL as u32)).expect("the server lives");
                }
                times.push(start.elapsed());
            }
            super::median(times)
        });
        self.runtime.block_on(async {
            let joined = tokio::task::spawn_blocking(|| poster.join()).await;
            joined
                .expect("a thread can be waited for")
                .expect("the loop does not panic")
        })
    }

    /// MiB a second, over `blocks` of `size`, `depth` of them in flight.
    pub(super) fn bulk_round(&self, size: usize, blocks: usize, depth: usize) -> f64 {
        crate::machine::pin(0);
        let (connection, remote) = (self.connection.clone(), self.remote);
        self.runtime.block_on(wait(async move {
            let start = Instant::now();
            let mut reads = VecDeque::new();
            for _ in 0..blocks {
                reads.push_back(connection.read(remote, 0, size as u32));
                if reads.len() == depth
                    && let Some(read) = reads.pop_front()
                {
                    read.await.expect("the server lives");
                }
            }
            for read in reads {
                read.await.expect("the server lives");
            }
            rate(size * blocks, start)
        }))
    }
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

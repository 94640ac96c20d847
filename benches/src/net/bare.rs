//! The measure: the same bytes over a `TcpStream` with nothing around it.

use super::{SMALL, rate, runtime, serve, wait};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

/// Bytes of a request for a block.
const REQUEST: usize = 24;

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback can be listened at");
    let address = listener.local_addr().expect("it was bound");
    (listener, address)
}

async fn accept(listener: TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().await.expect("a client connects");
    stream.set_nodelay(true).expect("it is a TCP socket");
    stream
}

/// The client's stream, and its runtime.
struct Client {
    runtime: Runtime,
    stream: Arc<Mutex<TcpStream>>,
}

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let runtime = runtime();
        let stream = runtime.block_on(async {
            let stream = TcpStream::connect(address)
                .await
                .expect("the server listens");
            stream.set_nodelay(true).expect("it is a TCP socket");
            stream
        });
        Client {
            runtime,
            stream: Arc::new(Mutex::new(stream)),
        }
    }
}

/// 64 bytes there and back.
pub(super) struct PingPong(Client);

impl PingPong {
    pub(super) fn start() -> PingPong {
        let address = serve(|ready| async move {
            let (listener, address) = listen().await;
            let _ = ready.send(address);
            let echo = async move {
                let mut stream = accept(listener).await;
                let mut bytes = [0; SMALL];
                while stream.read_exact(&mut bytes).await.is_ok() {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            };
            wait(echo).await;
        });
        PingPong(Client::connect(address))
    }

    /// Median of `n` times, in microseconds.
    pub(super) fn round(&self, n: usize) -> f64 {
        let stream = self.0.stream.clone();
        super::timed(&self.0.runtime, async move {
            let mut times = Vec::with_capacity(n);
            let mut stream = stream.lock().await;
            let mut bytes = [7; SMALL];
            for _ in 0..n {
                let start = Instant::now();
                stream.write_all(&bytes).await.expect("the server lives");
                stream
                    .read_exact(&mut bytes)
                    .await
                    .expect("the server lives");
                times.push(start.elapsed());
            }
            times
        })
    }
}

/// Blocks of one size, from a buffer of the server's to one of the client's.
pub(super) struct Copy {
    client: Client,
    size: usize,
    stream: bool,
}

impl Copy {
    /// `stream`: without being asked for each.
    pub(super) fn start(size: usize, stream: bool) -> Copy {
        let address = serve(move |ready| async move {
            let (listener, address) = listen().await;
            let _ = ready.send(address);
            let send = async move {
                let mut socket = accept(listener).await;
                let block = vec![5; size];
                let mut request = [0; REQUEST];
                // A request says how many blocks follow.
                while socket.read_exact(&mut request).await.is_ok() {
                    let mut blocks = [0; 8];
                    blocks.copy_from_slice(&request[..8]);
                    for _ in 0..u64::from_le_bytes(blocks) {
                        if socket.write_all(&block).await.is_err() {
                            return;
                        }
                    }
                }
            };
            wait(send).await;
        });
        let client = Client::connect(address);
        Copy {
            client,
            size,
            stream,
        }
    }

    /// MiB a second, over `blocks` of them.
    pub(super) fn round(&self, blocks: usize) -> f64 {
        crate::machine::pin(0);
        let (size, streamed, stream) = (self.size, self.stream, self.client.stream.clone());
        self.client.runtime.block_on(wait(async move {
            let mut stream = stream.lock().await;
            let mut block = vec![0; size];
            let mut request = [0; REQUEST];
            let each = if streamed { blocks } else { 1 };
            request[..8].copy_from_slice(&(each as u64).to_le_bytes());
            let start = Instant::now();
            for i in 0..blocks {
                if i % each == 0 {
                    stream.write_all(&request).await.expect("the server lives");
                }
                stream
                    .read_exact(&mut block)
                    .await
                    .expect("the server lives");
            }
            rate(size * blocks, start)
        }))
    }
}

//! Remote procedure calls that a user would pick instead: tarpc with bincode, and tonic with messages and service
//! written by hand, as its generator would. Both read or write 64 bytes of a buffer behind a lock.

use super::{SMALL, runtime, serve, wait};
use futures::StreamExt;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tarpc::server::{BaseChannel, Channel as _};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::tokio_util::codec::LengthDelimitedCodec;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server, server::TcpIncoming};
use tonic_prost::ProstCodec;

/// What both serve.
#[derive(Clone)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn new() -> Memory {
        Memory(Arc::new(Mutex::new(vec![0; 1 << 20])))
    }

    fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        self.0.lock().expect("nobody panics")[offset..][..len].to_vec()
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.0.lock().expect("nobody panics")[offset..][..bytes.len()].copy_from_slice(bytes);
    }
}

#[tarpc::service]
trait Remote {
    /// Bytes at an offset.
    async fn read(offset: u64, len: u32) -> Vec<u8>;
    /// Replaces them.
    async fn write(offset: u64, bytes: Vec<u8>);
}

impl Remote for Memory {
    async fn read(self, _: tarpc::context::Context, offset: u64, len: u32) -> Vec<u8> {
        Memory::read(&self, offset as usize, len as usize)
    }

    async fn write(self, _: tarpc::context::Context, offset: u64, bytes: Vec<u8>) {
        Memory::write(&self, offset as usize, &bytes);
    }
}

/// A client of tarpc's.
pub(super) struct Tarpc {
    runtime: Runtime,
    client: RemoteClient,
}

impl Tarpc {
    pub(super) fn start() -> Tarpc {
        let address = serve(|ready| async move {
            let listener = TcpListener::bind("127.0.0.1:0")
                .await
                .expect("loopback can be listened at");
            let _ = ready.send(listener.local_addr().expect("it was bound"));
            let (stream, _) = listener.accept().await.expect("a client connects");
            stream.set_nodelay(true).expect("it is a TCP socket");
            let framed = LengthDelimitedCodec::builder().new_framed(stream);
            let transport = tarpc::serde_transport::new(framed, Bincode::default());
            let requests = BaseChannel::with_defaults(transport).execute(Memory::new().serve());
            let each = requests.for_each(async |response| {
                tokio::spawn(response);
            });
            each.await;
        });
        let runtime = runtime();
        let client = runtime.block_on(async {
            let stream = TcpStream::connect(address)
                .await
                .expect("the server listens");
            stream.set_nodelay(true).expect("it is a TCP socket");
            let framed = LengthDelimitedCodec::builder().new_framed(stream);
            let transport = tarpc::serde_transport::new(framed, Bincode::default());
            RemoteClient::new(tarpc::client::Config::default(), transport).spawn()
        });
        Tarpc { runtime, client }
    }

    /// Median of `n` times, in microseconds.
    pub(super) fn round(&self, n: usize, write: bool) -> f64 {
        let client = self.client.clone();
        super::timed(&self.runtime, async move {
            let mut times = Vec::with_capacity(n);
            for _ in 0..n {
                let start = Instant::now();
                let context = tarpc::context::current();
                if write {
                    client
                        .write(context, 0, vec![7; SMALL])
                        .await
                        .expect("the server lives");
                } else {
                    client
                        .read(context, 0, SMALL as u32)
                        .await
                        .expect("the server lives");
                }
                times.push(start.elapsed());
            }
            times
        })
    }
}

/// Which bytes are wanted.
#[derive(Clone, PartialEq, prost::Message)]
struct ReadRequest {
    #[prost(uint64, tag = "1")]
    offset: u64,
    #[prost(uint32, tag = "2")]
    len: u32,
}

/// The answer to it.
#[derive(Clone, PartialEq, prost::Message)]
struct ReadAnswer {
    #[prost(bytes = "vec", tag = "1")]
    bytes: Vec<u8>,
}

/// Which bytes are replaced.
#[derive(Clone, PartialEq, prost::Message)]
struct WriteRequest {
    #[prost(uint64, tag = "1")]
    offset: u64,
    #[prost(bytes = "vec", tag = "2")]
    bytes: Vec<u8>,
}

/// The answer to it.
#[derive(Clone, PartialEq, prost::Message)]
struct WriteAnswer {}

impl UnaryService<ReadRequest> for Memory {
    type Response = ReadAnswer;
    type Future = BoxFuture<tonic::Response<ReadAnswer>, tonic::Status>;

    fn call(&mut self, request: tonic::Request<ReadRequest>) -> Self::Future {
        let request = request.into_inner();
        let bytes = Memory::read(self, request.offset as usize, request.len as usize);
        Box::pin(async move { Ok(tonic::Response::new(ReadAnswer { bytes })) })
    }
}

impl UnaryService<WriteRequest> for Memory {
    type Response = WriteAnswer;
    type Future = BoxFuture<tonic::Response<WriteAnswer>, tonic::Status>;

    fn call(&mut self, request: tonic::Request<WriteRequest>) -> Self::Future {
        let request = request.into_inner();
        Memory::write(self, request.offset as usize, &request.bytes);
        Box::pin(async move { Ok(tonic::Response::new(WriteAnswer {})) })
    }
}

impl NamedService for Memory {
    const NAME: &'static str = "bench.Remote";
}

impl<B> Service<http::Request<B>> for Memory
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let memory = self.clone();
        Box::pin(async move {
            Ok(if request.uri().path().ends_with("/Read") {
                let codec = ProstCodec::<ReadAnswer, ReadRequest>::default();
                tonic::server::Grpc::new(codec).unary(memory, request).await
            } else {
                let codec = ProstCodec::<WriteAnswer, WriteRequest>::default();
                tonic::server::Grpc::new(codec).unary(memory, request).await
            })
        })
    }
}

/// A client of tonic's.
pub(super) struct Tonic {
    runtime: Runtime,
    channel: Channel,
}

impl Tonic {
    pub(super) fn start() -> Tonic {
        let address = serve(|ready| async move {
            let any = "127.0.0.1:0".parse().expect("it is an address");
            let incoming = TcpIncoming::bind(any)
                .expect("loopback can be listened at")
                .with_nodelay(Some(true));
            let _ = ready.send(incoming.local_addr().expect("it was bound"));
            let server = Server::builder().add_service(Memory::new());
            wait(async move { server.serve_with_incoming(incoming).await })
                .await
                .expect("it serves until the end");
        });
        let runtime = runtime();
        let channel = runtime.block_on(async {
            let endpoint =
                Endpoint::from_shared(format!("http://{address}")).expect("it is an address");
            endpoint
                .tcp_nodelay(true)
                .connect()
                .await
                .expect("the server listens")
        });
        Tonic { runtime, channel }
    }

    /// Median of `n` times, in microseconds.
    pub(super) fn round(&self, n: usize, write: bool) -> f64 {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        super::timed(&self.runtime, async move {
            let path = |name| http::uri::PathAndQuery::from_static(name);
            let mut times = Vec::with_capacity(n);
            for _ in 0..n {
                let start = Instant::now();
                client.ready().await.expect("the server lives");
                if write {
                    let request = WriteRequest {
                        offset: 0,
                        bytes: vec![7; SMALL],
                    };
                    let codec = ProstCodec::<WriteRequest, WriteAnswer>::default();
                    let done = client.unary(
                        tonic::Request::new(request),
                        path("/bench.Remote/Write"),
                        codec,
                    );
                    done.await.expect("the server lives");
                } else {
                    let request = ReadRequest {
                        offset: 0,
                        len: SMALL as u32,
                    };
                    let codec = ProstCodec::<ReadRequest, ReadAnswer>::default();
                    let done = client.unary(
                        tonic::Request::new(request),
                        path("/bench.Remote/Read"),
                        codec,
                    );
                    done.await.expect("the server lives");
                }
                times.push(start.elapsed());
            }
            times
        })
    }
}

//! One small update that is durable on three machines before it is answered, all of them on this one, on the same disk.
//!
//! - *bare*: 64 bytes to two servers over TCP and into a local file, each with one synchronous write; as long as the slowest takes.
//! - *bartender*: a heap on a primary and two backups, each with a file, over TCP without TLS.
//! - *Redis*: `SET` and `WAIT 2`, a master and two replicas, each with `appendfsync always`.
//! - *etcd*: a put to a cluster of three, through its HTTP gateway.
//!
//! Servers that are not installed (Debian: redis-server, etcd-server) do not take part.

use super::median;
use crate::args::Args;
use crate::disk::Bare;
use crate::harness::{Report, Subject};
use bartender::{Cluster, Coordinator, Embedded, Heap, PMutex, PVec, Persist, Replicated};
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const WORKLOAD: &str = "replicated commit";
/// Threads that commit at once.
const MANY: usize = 64;

type Fallible<T> = Result<T, Box<dyn Error>>;

/// Two servers that write what they get, and answer.
struct Servers {
    peers: Vec<TcpStream>,
    local: Bare,
}

impl Servers {
    fn start(folder: &Path) -> Fallible<Servers> {
        let mut peers = Vec::new();
        for i in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let mut file = Bare::new(&folder.join(format!("bare{i}")))?;
            peers.push(TcpStream::connect(listener.local_addr()?)?);
            std::thread::spawn(move || {
                let (mut client, _) = listener.accept().expect("it is connected");
                client.set_nodelay(true).expect("a socket");
                let mut line = [0; 64];
                while client.read_exact(&mut line).is_ok() {
                    file.write::<64>();
                    if client.write_all(&line[..8]).is_err() {
                        return;
                    }
                }
            });
        }
        for peer in &peers {
            peer.set_nodelay(true)?;
        }
        Ok(Servers {
            peers,
            local: Bare::new(&folder.join("bare"))?,
        })
    }

    fn commit(&mut self) {
        for peer in &mut self.peers {
            peer.write_all(&[7; 64]).expect("it lives");
        }
        self.local.write::<64>();
        let mut answer = [0; 8];
        for peer in &mut self.peers {
            peer.read_exact(&mut answer).expect("it lives");
        }
    }
}

#[derive(Persist)]
#[repr(C)]
struct Cells {
    cells: PVec<PMutex<u64>>,
}

impl Default for Cells {
    fn default() -> Self {
        Cells {
            cells: (0..MANY).map(|_| PMutex::new(0)).collect(),
        }
    }
}

/// Three members in this process.
struct Ours {
    heap: Replicated<Cells>,
    _others: Vec<Cluster>,
}

impl Ours {
    fn start(folder: &Path) -> Fallible<Ours> {
        const NAMES: [&str; 3] = ["a", "b", "c"];
        let coordinator: Arc<dyn Coordinator> = Arc::new(Embedded::volatile());
        let mut clusters = Vec::new();
        for name in NAMES {
            let data = folder.join(name);
            std::fs::create_dir(&data)?;
            let coordinator = coordinator.clone();
            let cluster = Cluster::options(name, "bench")
                .data(data)
                .insecure()
                .max_size(64 << 20)
                .log_size(64 << 20)
                .join(|| async { Ok(coordinator) })?;
            clusters.push(cluster);
        }
        let heap = Heap::<Cells>::options()
            .replicas(NAMES)
            .open_in(&clusters[0], "cells")?;
        for cluster in &clusters[1..] {
            // Follows; its turn never comes.
            let cluster = cluster.clone();
            std::thread::spawn(move || drop(cluster.open::<Cells>("cells")));
        }
        while !heap.lags().iter().all(|lag| lag.live && lag.required) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Ours {
            heap,
            _others: clusters,
        })
    }

    fn commit(&self, i: usize) {
        let committed = self.heap.transaction(|tx| {
            *tx.lock(&self.heap.root().cells[i])? += 1;
            Ok(())
        });
        committed.expect("commits");
    }

    /// Commits a second of so many threads.
    fn rate(&self, threads: usize) -> f64 {
        let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
        let start = Instant::now();
        std::thread::scope(|scope| {
            for i in 0..threads {
                let (stop, count) = (&stop, &count);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        self.commit(i);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(500));
            stop.store(true, Ordering::Relaxed);
        });
        count.into_inner() as f64 / start.elapsed().as_secs_f64()
    }
}

/// Servers of others, which end with this value.
struct Programs(Vec<Child>);

impl Drop for Programs {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_port() -> Fallible<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn quiet(command: &mut Command) -> std::io::Result<Child> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null()).spawn()
}

fn connect(port: u16) -> Fallible<TcpStream> {
    let start = Instant::now();
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if start.elapsed() > Duration::from_secs(10) => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A master and two replicas.
struct Redis {
    stream: BufReader<TcpStream>,
    _servers: Programs,
}

impl Redis {
    fn start(folder: &Path) -> Fallible<Redis> {
        let ports = [free_port()?, free_port()?, free_port()?];
        let mut servers = Programs(Vec::new());
        for port in ports {
            let data = folder.join(format!("redis{port}"));
            std::fs::create_dir(&data)?;
            let mut command = Command::new("redis-server");
            command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
            command.args([
                "--save",
                "",
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
            ]);
            command.arg("--dir").arg(data);
            if port != ports[0] {
                command.args(["--replicaof", "127.0.0.1", &ports[0].to_string()]);
            }
            servers.0.push(quiet(&mut command)?);
        }
        let stream = BufReader::new(connect(ports[0])?);
        let mut redis = Redis {
            stream,
            _servers: servers,
        };
        let start = Instant::now();
        while redis.commit()? != ":2" {
            if start.elapsed() > Duration::from_secs(20) {
                return Err("its replicas do not follow".into());
            }
        }
        Ok(redis)
    }

    /// How many replicas had it.
    fn commit(&mut self) -> Fallible<String> {
        let (key, value) = ("k".repeat(16), "v".repeat(48));
        // The last number: milliseconds after which it gives up.
        let request = format!("SET {key} {value}\r\nWAIT 2 1000\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        line.clear();
        self.stream.read_line(&mut line)?;
        Ok(line.trim_end().into())
    }
}

/// A cluster of three.
struct Etcd {
    stream: BufReader<TcpStream>,
    _servers: Programs,
}

impl Etcd {
    fn start(folder: &Path) -> Fallible<Etcd> {
        let mut ports = Vec::new();
        for _ in 0..3 {
            ports.push((free_port()?, free_port()?));
        }
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let members: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(i, &(_, peer))| format!("m{i}={}", url(peer)))
            .collect();
        let mut servers = Programs(Vec::new());
        for (i, &(client, peer)) in ports.iter().enumerate() {
            let mut command = Command::new("etcd");
            command.args(["--name", &format!("m{i}"), "--data-dir"]);
            command.arg(folder.join(format!("etcd{i}")));
            command.args(["--listen-client-urls", &url(client)]);
            command.args(["--advertise-client-urls", &url(client)]);
            command.args(["--listen-peer-urls", &url(peer)]);
            command.args(["--initial-advertise-peer-urls", &url(peer)]);
            command.args(["--initial-cluster", &members.join(",")]);
            servers.0.push(quiet(&mut command)?);
        }
        let mut etcd = Etcd {
            stream: BufReader::new(connect(ports[0].0)?),
            _servers: servers,
        };
        let start = Instant::now();
        while !etcd.commit()? {
            if start.elapsed() > Duration::from_secs(20) {
                return Err("it has no leader".into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(etcd)
    }

    /// Whether it was put.
    fn commit(&mut self) -> Fallible<bool> {
        let body = r#"{"key":"a2tra2tra2tra2tr","value":"dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2"}"#;
        let request = format!(
            "POST /v3/kv/put HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (mut line, mut len, mut done) = (String::new(), 0, false);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let lower = line.trim_end().to_ascii_lowercase();
            done |= lower.starts_with("http/1.1 200");
            if let Some(n) = lower.strip_prefix("content-length: ") {
                len = n.parse()?;
            }
            if lower.is_empty() {
                break;
            }
        }
        let mut answer = vec![0; len];
        self.stream.read_exact(&mut answer)?;
        Ok(done)
    }
}

/// Median of the times of `n` calls, in microseconds.
fn p50(n: usize, mut f: impl FnMut()) -> f64 {
    let time = |_| {
        let start = Instant::now();
        f();
        start.elapsed()
    };
    median((0..n).map(time).collect())
}

/// All of it.
pub(super) fn run(report: &mut Report, args: &Args) -> Fallible<()> {
    if !args.wants(WORKLOAD) {
        return Ok(());
    }
    // Not the folder for temporary files, which may be memory.
    std::fs::create_dir_all("target/bench")?;
    let folder = tempfile::tempdir_in("target/bench")?;
    let n = args.n.unwrap_or(if args.quick { 200 } else { 1000 });
    let mut bare = Servers::start(folder.path())?;
    let ours = Ours::start(folder.path())?;
    let absent = |name: &str, error: Box<dyn Error>| println!("without {name}: {error}");
    let mut redis = Redis::start(folder.path())
        .map_err(|error| absent("Redis", error))
        .ok();
    let mut etcd = Etcd::start(folder.path())
        .map_err(|error| absent("etcd", error))
        .ok();
    let mut subjects: Vec<Subject<'_>> = vec![
        ("bare", Box::new(|| p50(n, || bare.commit()))),
        ("bartender", Box::new(|| p50(n, || ours.commit(0)))),
    ];
    if let Some(redis) = &mut redis {
        let round = || p50(n, || assert_eq!(redis.commit().expect("it lives"), ":2"));
        subjects.push(("Redis, WAIT 2", Box::new(round)));
    }
    if let Some(etcd) = &mut etcd {
        let round = || p50(n / 4, || assert!(etcd.commit().expect("it lives")));
        subjects.push(("etcd, three members", Box::new(round)));
    }
    report.measure(WORKLOAD, 1, "µs", args.rounds(), subjects);
    let of = |subject: &str| report.median(WORKLOAD, 1, subject);
    let (bare, own, redis, etcd) = (
        of("bare"),
        of("bartender"),
        of("Redis, WAIT 2"),
        of("etcd, three members"),
    );
    report.at_most(
        format!("{WORKLOAD}: p50, times the slowest bare acknowledgement"),
        own / bare,
        1.3,
    );
    if !redis.is_nan() {
        report.at_most(format!("{WORKLOAD}: p50, times Redis"), own / redis, 1.0);
    }
    if !etcd.is_nan() {
        report.at_least(
            format!("{WORKLOAD}: times below an etcd put"),
            etcd / own,
            10.0,
        );
    }
    let workload = "replicated commits a second";
    for threads in [1, MANY] {
        let subjects: Vec<Subject<'_>> = vec![("bartender", Box::new(|| ours.rate(threads)))];
        report.measure(workload, threads, "1/s", args.rounds(), subjects);
    }
    let ratio =
        report.median(workload, MANY, "bartender") / report.median(workload, 1, "bartender");
    report.at_least(
        format!("{workload}: {MANY} committers, times one"),
        ratio,
        10.0,
    );
    Ok(())
}

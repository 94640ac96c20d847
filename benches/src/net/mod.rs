//! The fabric over loopback TCP beside a bare socket, and beside what a user would pick instead.
//!
//! Client and server have a thread and a current-thread runtime each, pinned to different processors, whatever the
//! subject; the clients' loops are tasks. A figure of the small operations is the median of the times of a round.
//!
//! - *read*, *write*: 64 bytes, one at a time. Bare is 64 bytes there and 64 back, `TcpStream` to `TcpStream`.
//! - *bulk*: bare is a server that writes the same buffer over and over and a client that reads it in blocks; ours has
//!   4 to 16 reads in flight. *bulk, one at a time*: bare is a request of 24 bytes for each block.
//! - *replicated commit*: see [`commit`].

mod bare;
mod commit;
mod memory;
mod ours;
#[cfg(feature = "netpeers")]
mod peers;

use crate::args::Args;
use crate::harness::{Report, Subject};
use std::error::Error;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

/// Bytes of a small operation.
const SMALL: usize = 64;

/// A runtime of one thread.
fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs a few file handles")
}

/// A server in a thread of its own, which ends with the process.
fn serve<T: Send + 'static, F: Future<Output = ()>>(
    server: impl FnOnce(oneshot::Sender<T>) -> F + Send + 'static,
) -> T {
    let (sender, ready) = oneshot::channel();
    std::thread::spawn(move || {
        crate::machine::pin(1);
        runtime().block_on(server(sender));
    });
    ready
        .blocking_recv()
        .expect("the server says where it listens")
}

/// Median, in microseconds, of the times that a loop takes down. The loop is a task of `runtime`: what `block_on`
/// itself runs is woken through a file handle.
fn timed(runtime: &Runtime, round: impl Future<Output = Vec<Duration>> + Send + 'static) -> f64 {
    crate::machine::pin(0);
    median(runtime.block_on(wait(round)))
}

/// The median, in microseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_nanos() as f64 / 1e3
}

/// Spawns a future that borrows nothing, and waits.
async fn wait<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(task).await.expect("the loop does not panic")
}

/// All of it.
pub(crate) fn run(report: &mut Report, args: &Args) -> Result<(), Box<dyn Error>> {
    let n = args.n.unwrap_or(if args.quick { 2000 } else { 10_000 });
    let rounds = args.rounds();
    small(report, args, n, rounds);
    bulk(report, args, rounds);
    commit::run(report, args)
}

fn small(report: &mut Report, args: &Args, n: usize, rounds: usize) {
    for (workload, write) in [("read of 64 bytes", false), ("write of 64 bytes", true)] {
        if !args.wants(workload) {
            continue;
        }
        let bare = bare::PingPong::start();
        let plain = ours::Client::start(false);
        let secure = ours::Client::start(true);
        #[cfg(feature = "netpeers")]
        let (tarpc, tonic) = (peers::Tarpc::start(), peers::Tonic::start());
        let mut subjects: Vec<Subject<'_>> = vec![
            ("bare ping-pong", Box::new(|| bare.round(n))),
            ("bartender", Box::new(|| plain.round(n, write))),
            (
                "bartender, blocking thread",
                Box::new(|| plain.blocking_round(n, write)),
            ),
            ("bartender, TLS", Box::new(|| secure.round(n, write))),
        ];
        #[cfg(feature = "netpeers")]
        subjects.extend::<Vec<Subject<'_>>>(vec![
            ("tarpc", Box::new(|| tarpc.round(n, write))),
            ("tonic", Box::new(|| tonic.round(n, write))),
        ]);
        report.measure(workload, 1, "µs", rounds, std::mem::take(&mut subjects));
        let of = |subject: &str| report.median(workload, 1, subject);
        let (ours, bare, tarpc, tonic) = (
            of("bartender"),
            of("bare ping-pong"),
            of("tarpc"),
            of("tonic"),
        );
        report.at_most(
            format!("{workload}: p50, times a bare ping-pong"),
            ours / bare,
            1.25,
        );
        if !tarpc.is_nan() {
            report.at_least(
                format!("{workload}: times faster than tarpc"),
                tarpc / ours,
                1.5,
            );
            report.at_least(
                format!("{workload}: times faster than tonic"),
                tonic / ours,
                3.0,
            );
        }
    }
}

fn bulk(report: &mut Report, args: &Args, rounds: usize) {
    let total: usize = if args.quick { 256 << 20 } else { 1 << 30 };
    for size in [64 << 10, 256 << 10, 1 << 20, 4 << 20] {
        // 4 MiB in flight, in 4 to 16 reads.
        let many = ((4 << 20) / size).clamp(4, 16);
        for (kind, depth) in [("bulk", many), ("bulk, one at a time", 1)] {
            let workload = format!("{kind}: read of {} KiB", size >> 10);
            if !args.wants(&workload) {
                continue;
            }
            let bare = bare::Copy::start(size, depth > 1);
            let plain = ours::Client::start(false);
            let secure = ours::Client::start(true);
            let blocks = total / size;
            let subjects: Vec<Subject<'_>> = vec![
                ("bare socket", Box::new(|| bare.round(blocks))),
                (
                    "bartender",
                    Box::new(|| plain.bulk_round(size, blocks, depth)),
                ),
                // It is several times slower; a part of it will do.
                (
                    "bartender, TLS",
                    Box::new(|| secure.bulk_round(size, blocks / 4, depth)),
                ),
            ];
            report.measure(&workload, 1, "MiB/s", rounds, subjects);
            let ratio = report.median(&workload, 1, "bartender")
                / report.median(&workload, 1, "bare socket");
            report.at_least(
                format!("{workload}: part of a bare socket's rate"),
                ratio,
                0.9,
            );
        }
    }
}

/// MiB a second.
fn rate(bytes: usize, start: Instant) -> f64 {
    bytes as f64 / f64::from(1 << 20) / start.elapsed().as_secs_f64()
}

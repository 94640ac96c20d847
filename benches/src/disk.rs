//! Commits on a disk: group commit, and a checkpoint beside.

use crate::harness::{Report, Subject};
use bartender::{Heap, PMutex, PVec, Persist};
use std::error::Error;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ROUND: Duration = Duration::from_millis(400);

#[derive(Persist)]
#[repr(C)]
struct Bank {
    /// One lock for all.
    hot: PMutex<u64>,
    /// A lock for each thread.
    cells: PVec<PMutex<u64>>,
    /// What the checkpoint has to write back.
    ballast: PMutex<PVec<u64>>,
}

impl Default for Bank {
    fn default() -> Self {
        Bank {
            hot: PMutex::new(0),
            cells: (0..8).map(|_| PMutex::new(0)).collect(),
            ballast: PMutex::new((0..4 << 20).map(|i| i as u64).collect()),
        }
    }
}

/// A file of zeroes that is overwritten by synchronous writes, of whole lines of 64 bytes each.
pub(crate) struct Bare {
    file: File,
    at: u64,
}

impl Bare {
    pub(crate) fn new(path: &Path) -> std::io::Result<Bare> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        file.write_all_at(&vec![0; 32 << 20], 0)?;
        file.sync_all()?;
        Ok(Bare { file, at: 0 })
    }

    pub(crate) fn write<const N: usize>(&mut self) {
        let lines = [7u8; N];
        let iov = libc::iovec {
            iov_base: lines.as_ptr().cast_mut().cast(),
            iov_len: N,
        };
        self.at = (self.at + N as u64) % (32 << 20);
        // SAFETY: one buffer that outlives the call.
        let n = unsafe {
            libc::pwritev2(
                self.file.as_raw_fd(),
                &iov,
                1,
                self.at as i64,
                libc::RWF_DSYNC,
            )
        };
        assert_eq!(n, N as isize);
    }
}

/// Microseconds for one call of `f`, over a round.
fn micros(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut n = 0;
    while start.elapsed() < ROUND {
        f();
        n += 1;
    }
    start.elapsed().as_micros() as f64 / n as f64
}

/// Microseconds below which 99 of 100 calls of `f` stay.
fn p99(samples: usize, mut f: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..samples)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_nanos() as f64 / 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[samples * 99 / 100]
}

fn add_hot(heap: &Heap<Bank>) {
    heap.transaction(|tx| {
        *tx.lock(&heap.root().hot)? += 1;
        Ok(())
    })
    .expect("commits");
}

fn add_cell(heap: &Heap<Bank>, i: usize) {
    heap.transaction(|tx| {
        *tx.lock(&heap.root().cells[i])? += 1;
        Ok(())
    })
    .expect("commits");
}

/// Commits a second of `threads` threads, over a while.
pub(crate) fn rate(threads: usize, round: Duration, f: impl Fn(usize) + Sync) -> f64 {
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let total: u64 = std::thread::scope(|s| {
        let workers: Vec<_> = (0..threads)
            .map(|i| {
                let (stop, f) = (&stop, &f);
                s.spawn(move || {
                    let mut n = 0;
                    while !stop.load(Ordering::Relaxed) {
                        f(i);
                        n += 1;
                    }
                    n
                })
            })
            .collect();
        std::thread::sleep(round);
        stop.store(true, Ordering::Relaxed);
        workers
            .into_iter()
            .map(|w| w.join().expect("a worker"))
            .sum()
    });
    total as f64 / start.elapsed().as_secs_f64()
}

pub(crate) fn run(report: &mut Report) -> Result<(), Box<dyn Error>> {
    let folder = std::env::var_os("BARTENDER_BENCH_DIR").map_or("target".into(), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    let folder = tempfile::tempdir_in(folder)?;
    let heap = Heap::<Bank>::options()
        .max_size(1 << 30)
        .open(folder.path().join("a.region"))?;
    heap.checkpoint()?;
    println!("disk medium: {}", heap.region().kind());
    let mut bare = Bare::new(&folder.path().join("bare"))?;
    let w = "commit on a disk";
    {
        let subjects: Vec<Subject<'_>> = vec![
            (
                "bare RWF_DSYNC write",
                Box::new(|| micros(|| bare.write::<64>())),
            ),
            (
                "one-word transaction",
                Box::new(|| micros(|| add_hot(&heap))),
            ),
        ];
        report.measure(w, 1, "us", 7, subjects);
    }
    let ratio =
        report.median(w, 1, "one-word transaction") / report.median(w, 1, "bare RWF_DSYNC write");
    report.at_most(
        "one thread's commit against a bare synchronous write",
        ratio,
        1.15,
    );

    let w = "commit rate on a disk";
    let subjects: Vec<Subject<'_>> = vec![
        (
            "1 thread",
            Box::new(|| rate(1, ROUND, |i| add_cell(&heap, i))),
        ),
        (
            "8 threads, disjoint locks",
            Box::new(|| rate(8, ROUND, |i| add_cell(&heap, i))),
        ),
        (
            "8 threads, one hot lock",
            Box::new(|| rate(8, ROUND, |_| add_hot(&heap))),
        ),
    ];
    report.measure(w, 8, "commits/s", 5, subjects);
    let one = report.median(w, 8, "1 thread");
    report.at_least(
        "8 threads under disjoint locks against one thread",
        report.median(w, 8, "8 threads, disjoint locks") / one,
        5.0,
    );
    report.at_least(
        "8 threads under one hot lock against one thread",
        report.median(w, 8, "8 threads, one hot lock") / one,
        2.5,
    );

    // A checkpoint beside: one thread dirties ballast and checkpoints all the
    // time, except while the quiet figure is taken.
    let w = "commit beside a checkpoint";
    let stop = AtomicBool::new(false);
    let busy = AtomicBool::new(false);
    std::thread::scope(|s| {
        let (heap, stop, busy) = (&heap, &stop, &busy);
        s.spawn(move || {
            let mut at = 0usize;
            while !stop.load(Ordering::Relaxed) {
                if !busy.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                heap.transaction(|tx| {
                    let mut ballast = tx.lock(&heap.root().ballast)?;
                    for k in 0..256usize {
                        let i = (at + k * 16_127) % (4 << 20);
                        if let Some(mut word) = ballast.get_mut(i) {
                            *word += 1;
                        }
                    }
                    Ok(())
                })
                .expect("commits");
                at += 509;
                if at.is_multiple_of(509 * 16) {
                    heap.checkpoint().expect("no I/O error");
                }
            }
        });
        let measure = |on: bool| {
            busy.store(on, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
            let value = p99(1000, || add_hot(heap));
            busy.store(false, Ordering::Relaxed);
            value
        };
        let subjects: Vec<Subject<'_>> = vec![
            ("p99, quiet", Box::new(|| measure(false))),
            ("p99, while a checkpoint runs", Box::new(|| measure(true))),
            ("bare p99", Box::new(|| p99(1000, || bare.write::<64>()))),
        ];
        report.measure(w, 1, "us", 5, subjects);
        stop.store(true, Ordering::Relaxed);
    });
    let quiet = report.median(w, 1, "p99, quiet");
    report.at_most(
        "p99 of a commit while a checkpoint runs, against quiet",
        report.median(w, 1, "p99, while a checkpoint runs") / quiet,
        3.0,
    );
    Ok(())
}

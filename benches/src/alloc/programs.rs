//! The classic programs, written anew from their descriptions: threadtest,
//! cache-thrash, cache-scratch and the producer and consumer of Hoard (Berger
//! et al., ASPLOS 2000), shbench in the shape it has there, Larson's server
//! (Larson and Krishnan, ISMM 1998), linux-scalability (Lever and Boreham,
//! USENIX 2000), as Ralloc uses them (Cai et al., ISMM 2020).
//!
//! Each is one round: it starts its threads, lets them begin together, and
//! returns nanoseconds of wall time for an operation of one thread, an
//! operation being an allocation with its free. What a program hands out is
//! written to once, and every round but the first finds its memory touched.

use super::subject::Allocator;
use crate::machine::pin;
use std::alloc::Layout;
use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::Barrier;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

/// A block that may change threads.
#[derive(Debug, Clone, Copy)]
struct Block {
    at: NonNull<u8>,
    layout: Layout,
}

// SAFETY: nobody but its holder touches the memory.
unsafe impl Send for Block {}
// SAFETY: what is shared of it is its address.
unsafe impl Sync for Block {}

impl Block {
    #[inline(always)]
    fn new<A: Allocator>(a: &A, size: usize) -> Block {
        let layout = Layout::from_size_align(size.max(1), 8).expect("a layout");
        let at = a.alloc(layout);
        // SAFETY: the block has a byte at least.
        unsafe { at.as_ptr().write(1) };
        Block { at, layout }
    }

    #[inline(always)]
    fn free<A: Allocator>(self, a: &A) {
        // SAFETY: made by `new` of the same allocator; blocks are not copied
        // but to be freed once.
        unsafe { a.free(self.at, self.layout) };
    }

    /// Writes its first byte again and again.
    fn write(self, times: usize) {
        for i in 0..times {
            // SAFETY: ours, and at least a byte long.
            unsafe { self.at.as_ptr().write_volatile(i as u8) };
        }
    }
}

/// Xorshift: the same numbers in every round and for every subject.
#[derive(Debug, Clone, Copy)]
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0) * n as u128) >> 64) as usize
    }
}

/// Nanoseconds for one of the `n` operations that each of `threads` threads
/// does, from when the first begins to when the last has ended.
fn together(threads: usize, n: usize, f: impl Fn(usize) + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let times: Vec<(Instant, Instant)> = std::thread::scope(|s| {
        let workers: Vec<_> = (0..threads)
            .map(|i| {
                let (barrier, f) = (&barrier, &f);
                s.spawn(move || {
                    pin(i);
                    barrier.wait();
                    let start = Instant::now();
                    f(i);
                    (start, Instant::now())
                })
            })
            .collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, _>| worker.join().expect("no panic");
        workers.into_iter().map(join).collect()
    });
    let start = times.iter().map(|time| time.0).min().expect("a thread");
    let end = times.iter().map(|time| time.1).max().expect("a thread");
    (end - start).as_nanos() as f64 / n as f64
}

/// The order in which a batch is freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// As it was allocated.
    First,
    /// The last first.
    Last,
    /// Any.
    Random,
}

/// Allocate, free, `n` times.
pub(crate) fn pairs<A: Allocator>(a: &A, threads: usize, n: usize, size: usize) -> f64 {
    together(threads, n, |_| {
        for _ in 0..n {
            black_box(Block::new(a, black_box(size))).free(a);
        }
    })
}

/// Allocate a thousand, free a thousand, until there were `n`.
pub(crate) fn batches<A: Allocator>(
    a: &A,
    threads: usize,
    n: usize,
    size: usize,
    order: Order,
) -> f64 {
    const BATCH: usize = 1000;
    let mut places: Vec<usize> = (0..BATCH).collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    match order {
        Order::First => {}
        Order::Last => places.reverse(),
        Order::Random => (1..BATCH).for_each(|i| places.swap(i, random.below(i + 1))),
    }
    let rounds = (n / BATCH).max(1);
    together(threads, rounds * BATCH, |_| {
        let mut held = Vec::with_capacity(BATCH);
        for _ in 0..rounds {
            held.clear();
            held.extend((0..BATCH).map(|_| Block::new(a, black_box(size))));
            for &place in &places {
                held[place].free(a);
            }
        }
    })
}

/// Threadtest: the threads share a hundred thousand 64-byte objects, and each
/// allocates its part and frees it, again and again.
pub(crate) fn threadtest<A: Allocator>(a: &A, threads: usize, n: usize) -> f64 {
    let part = 100_000 / threads;
    let rounds = (n / part).max(1);
    together(threads, rounds * part, |_| {
        let mut held = Vec::with_capacity(part);
        for _ in 0..rounds {
            held.extend((0..part).map(|_| Block::new(a, 64)));
            held.drain(..).for_each(|block| block.free(a));
        }
    })
}

/// Shbench: sizes from 1 to 1000 bytes, small ones more often; some blocks go
/// at once, most stay for a while.
pub(crate) fn shbench<A: Allocator>(a: &A, threads: usize, n: usize) -> f64 {
    const SLOTS: usize = 1000;
    together(threads, n, |i| {
        let mut random = Random(0x1234_5678_9abc_def1 + i as u64);
        let mut slots: Vec<Option<Block>> = vec![None; SLOTS];
        for _ in 0..n {
            // The product of two: half of them below 150 bytes.
            let size = 1 + random.below(32) * random.below(32);
            let block = Block::new(a, size);
            if let Some(old) = slots[random.below(SLOTS)].replace(block) {
                old.free(a);
            }
        }
        slots.into_iter().flatten().for_each(|block| block.free(a));
    })
}

/// Larson's server: each thread replaces random blocks among a thousand of 10
/// to 500 bytes, then ends and leaves them to a new thread, ten times.
pub(crate) fn larson<A: Allocator>(a: &A, threads: usize, n: usize) -> f64 {
    const SLOTS: usize = 1000;
    const LIVES: usize = 10;
    let mut slots: Vec<Vec<Block>> = (0..threads)
        .map(|_| (0..SLOTS).map(|_| Block::new(a, 64)).collect())
        .collect();
    let each = n / LIVES;
    let start = Instant::now();
    for life in 0..LIVES {
        std::thread::scope(|s| {
            for (i, slots) in slots.iter_mut().enumerate() {
                s.spawn(move || {
                    pin(i);
                    let mut random = Random((life * 64 + i + 1) as u64 * 0x9e37_79b9);
                    for _ in 0..each {
                        let slot = &mut slots[random.below(SLOTS)];
                        slot.free(a);
                        *slot = Block::new(a, 10 + random.below(491));
                    }
                });
            }
        });
    }
    let time = start.elapsed().as_nanos() as f64 / (each * LIVES) as f64;
    slots.into_iter().flatten().for_each(|block| block.free(a));
    time
}

/// Producer and consumer: half of the threads allocate 64-byte objects, the
/// other half free what it gets from them, a thousand at a time.
pub(crate) fn producers<A: Allocator>(a: &A, threads: usize, n: usize) -> f64 {
    const BATCH: usize = 1000;
    let rounds = (n / BATCH).max(1);
    let start = Instant::now();
    std::thread::scope(|s| {
        for pair in 0..threads / 2 {
            let (send, receive) = sync_channel::<Vec<Block>>(4);
            let (back, empty) = sync_channel::<Vec<Block>>(8);
            s.spawn(move || {
                pin(2 * pair);
                for _ in 0..rounds {
                    let mut batch = empty.try_recv().unwrap_or_default();
                    batch.extend((0..BATCH).map(|_| Block::new(a, 64)));
                    if send.send(batch).is_err() {
                        return;
                    }
                }
            });
            s.spawn(move || {
                pin(2 * pair + 1);
                for mut batch in receive {
                    batch.drain(..).for_each(|block| block.free(a));
                    let _ = back.try_send(batch);
                }
            });
        }
    });
    start.elapsed().as_nanos() as f64 / (rounds * BATCH) as f64
}

/// Cache-thrash: objects of 8 bytes that one thread writes to. Two of them on
/// one line make the threads wait for each other: active false sharing.
pub(crate) fn thrash<A: Allocator>(a: &A, threads: usize, n: usize) -> f64 {
    const WRITES: usize = 100;
    let n = (n / 10).max(1);
    together(threads, n, |_| {
        for _ in 0..n {
            let block = black_box(Block::new(a, 8));
            block.write(WRITES);
            block.free(a);
        }
    })
}

/// Cache-scratch: the same, but each thread first gets an object that another
/// allocated, and gives it back: does its line come again to somebody else?
pub(crate) fn scratch<A: Allocator>(a: &A, threads: usize, n: usize) -> f64 {
    const WRITES: usize = 100;
    let n = (n / 10).max(1);
    let given: Vec<Block> = (0..threads).map(|_| Block::new(a, 8)).collect();
    together(threads, n, |i| {
        given[i].free(a);
        for _ in 0..n {
            let block = black_box(Block::new(a, 8));
            block.write(WRITES);
            block.free(a);
        }
    })
}

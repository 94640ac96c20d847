//! A heap under many threads: blocks that change hands, threads that come and
//! go. `cargo xtask tsan` runs this under ThreadSanitizer, to which every block
//! that two threads hold at a time is a race.

use bartender_heap::{Heap, Kind, Schema, Type};
use bartender_pm::Options;
use std::alloc::Layout;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use tempfile::TempDir;

/// Less of it where every access is watched.
const SCALE: usize = if cfg!(tsan) { 20 } else { 1 };

fn heap(folder: &TempDir) -> Heap {
    heap_of(folder, 1 << 30)
}

fn heap_of(folder: &TempDir, max_size: u64) -> Heap {
    let mut options = Options::new();
    options.max_size(max_size).log_size(1 << 20);
    let region = options.open(Path::new(folder.path()).join("a.region"));
    let schema = Schema::of(|b| {
        let (signed, nonzero) = (false, false);
        b.define::<u64>(|_| Type::of::<u64>("u64", Kind::Int { signed, nonzero }))
    });
    Heap::create(region.expect("creates"), &schema.expect("sound")).expect("formats")
}

/// In shared memory, so that nothing waits for a disk.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a folder")
}

/// A block, full of the same byte.
struct Held {
    at: NonNull<u8>,
    size: usize,
    fill: u8,
}

// SAFETY: who has it has the block alone; that is what is tested.
unsafe impl Send for Held {}

impl Held {
    fn new(heap: &Heap, size: usize, fill: u8) -> Held {
        let layout = Layout::from_size_align(size, 8).expect("a layout");
        let block = heap.alloc(layout).expect("room");
        if let Some(entry) = &block.entry {
            heap.entry_durable(entry);
        }
        // SAFETY: the block has so many bytes, and nobody else has it.
        unsafe { block.ptr.write_bytes(fill, size) };
        let at = block.ptr;
        Held { at, size, fill }
    }

    fn free(self, heap: &Heap) {
        for at in [0, self.size / 2, self.size - 1] {
            // SAFETY: inside of the block.
            assert_eq!(unsafe { self.at.add(at).read() }, self.fill);
        }
        // SAFETY: nobody else has it.
        unsafe { heap.free(self.at) }.expect("a live block");
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }

    /// Small sizes, and now and then one of another kind of superblock or of none.
    fn size(&mut self) -> usize {
        match self.below(100) {
            0 => 70_000 + self.below(100_000),
            1..=3 => 9000 + self.below(50_000),
            4..=20 => 200 + self.below(4000),
            _ => 8 + self.below(192),
        }
    }
}

/// Every block goes to another thread, every thread ends and is followed by
/// another, and nothing is left over.
#[test]
fn blocks_change_hands_while_threads_come_and_go() {
    let folder = folder();
    let heap = &heap(&folder);
    let boxes: &[Mutex<Vec<Held>>] = &[const { Mutex::new(Vec::new()) }; 4];
    std::thread::scope(|scope| {
        for line in 0..4 {
            scope.spawn(move || {
                for life in 0..20 {
                    std::thread::scope(|scope| {
                        let lives = scope.spawn(move || work(heap, boxes, line, life));
                        // The end of a scope does not wait for a thread's last words.
                        lives.join().expect("no panic");
                    });
                }
            });
        }
    });
    for held in boxes
        .iter()
        .flat_map(|held| held.lock().expect("no panic").split_off(0))
    {
        held.free(heap);
    }
    let stats = heap.stats();
    assert_eq!((stats.live_blocks, stats.reserved_bytes), (0, 0), "{stats}");
}

fn work(heap: &Heap, boxes: &[Mutex<Vec<Held>>], line: usize, life: usize) {
    let mut random = Random((line * 1000 + life + 1) as u64);
    let mut mine = Vec::new();
    for step in 0..10_000 / SCALE {
        if mine.len() < 200 && random.below(2) == 0 {
            let size = random.size();
            mine.push(Held::new(heap, size, (line * 50 + step % 50) as u8));
        } else if !mine.is_empty() {
            let held: Held = mine.swap_remove(random.below(mine.len()));
            match random.below(3) {
                0 => held.free(heap),
                _ => boxes[random.below(4)].lock().expect("no panic").push(held),
            }
        }
        if random.below(4) == 0 {
            let came = boxes[line].lock().expect("no panic").split_off(0);
            came.into_iter().for_each(|held| held.free(heap));
        }
    }
    // It ends with blocks of others in its box, and others have some of its own.
    let mut left = boxes[(line + 1) % 4].lock().expect("no panic");
    left.append(&mut mine);
}

/// Threads that are all alive, each with a little of everything, and with more a
/// while ago: what they keep for themselves is bounded.
#[test]
fn many_threads_that_used_every_size_leave_room_for_each_other() {
    const THREADS: u64 = if cfg!(tsan) { 12 } else { 120 };
    let folder = folder();
    let heap = &heap_of(&folder, THREADS * (2 << 20));
    let turn = &Mutex::new(());
    std::thread::scope(|scope| {
        // A thread goes on when its sender is gone.
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (goes_on, waits) = channel::<()>();
                let (done, is_done) = channel();
                scope.spawn(move || {
                    let mut random = Random(thread + 1);
                    let one_at_a_time = turn.lock();
                    for size in (0..14).flat_map(|doubling| [8 << doubling, 7 << doubling]) {
                        let held: Vec<Held> = (0..10)
                            .map(|_| Held::new(heap, size.min(60_000), 1))
                            .collect();
                        held.into_iter().for_each(|held| held.free(heap));
                    }
                    let kept: Vec<Held> = (0..5)
                        .map(|_| Held::new(heap, random.size() / 2 + 8, 2))
                        .collect();
                    drop(one_at_a_time);
                    done.send(()).expect("somebody waits");
                    let _ = waits.recv();
                    kept.into_iter().for_each(|held| held.free(heap));
                });
                (goes_on, is_done)
            })
            .collect();
        let done = threads.iter().filter(|thread| thread.1.recv().is_ok());
        assert_eq!(done.count() as u64, THREADS, "{:#}", heap.stats());
        println!("{}", heap.stats());
    });
}

/// A thread that only frees what others allocate hears of what became of its own.
#[test]
fn who_only_frees_gives_up_what_others_freed_of_its_own() {
    const BLOCKS: usize = 5000;
    let folder = folder();
    let heap = &heap(&folder);
    let some = move || {
        (0..BLOCKS)
            .map(|_| Held::new(heap, 256, 7))
            .collect::<Vec<_>>()
    };
    let (give, take) = channel::<Vec<Held>>();
    let (answer, answered) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let theirs = some();
            for held in take.iter().next().expect("they come") {
                held.free(heap);
            }
            answer.send(theirs).expect("somebody waits");
            // It lives on, and does nothing.
            let _ = take.recv();
        });
        give.send(some()).expect("somebody waits");
        let theirs = answered.recv().expect("they come");
        let before = heap.stats();
        theirs.into_iter().for_each(|held| held.free(heap));
        let after = heap.stats();
        let of_one = (BLOCKS * 256) as u64;
        assert!(before.reserved_bytes >= 2 * of_one, "{before}");
        assert!(after.reserved_bytes <= of_one + (512 << 10), "{after}");
        drop(give);
    });
}

/// What a thread leaves behind is used by those that follow.
#[test]
fn thousands_of_short_lived_threads_do_not_grow_the_heap() {
    let folder = folder();
    let heap = &heap(&folder);
    let mut left: Vec<Held> = Vec::new();
    let mut early = 0;
    for life in 0..3000 / SCALE {
        let before = std::mem::take(&mut left);
        left = std::thread::scope(|scope| {
            let lives = scope.spawn(move || {
                let mut random = Random(life as u64 + 1);
                let mut held: Vec<Held> = (0..100)
                    .map(|_| Held::new(heap, random.size(), life as u8))
                    .collect();
                before.into_iter().for_each(|held| held.free(heap));
                let left = held.split_off(50);
                held.into_iter().for_each(|held| held.free(heap));
                left
            });
            lives.join().expect("no panic")
        });
        if life == 100 / SCALE {
            early = heap.stats().reserved_peak;
        }
    }
    let stats = heap.stats();
    assert!(stats.dram_bytes < 4 << 20, "{stats}");
    // Sizes are random: some threads hold more large blocks than any before.
    assert!(
        stats.reserved_peak <= early * 2,
        "{early} at first, now {stats}"
    );
    left.into_iter().for_each(|held| held.free(heap));
}

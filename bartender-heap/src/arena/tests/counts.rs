//! Whether superblocks are in one place each, and counted there, whatever comes.

use super::*;
use std::ptr::NonNull;

/// Thread heaps, all played by one thread, and what they have handed out.
struct World {
    home: Fake,
    arena: Arena,
    heaps: Vec<NonNull<Local>>,
    live: Vec<u64>,
    random: u64,
}

impl World {
    fn new(max: u64, heaps: usize, seed: u64) -> World {
        let arena = Arena::new(max / UNIT);
        World {
            home: Fake::new(max),
            heaps: (0..heaps).map(|_| arena.join()).collect(),
            arena,
            live: Vec::new(),
            random: seed,
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        let next = self.random.wrapping_mul(6364136223846793005);
        self.random = next.wrapping_add(1442695040888963407);
        (self.random >> 33) % n
    }

    fn heap(&self, at: usize) -> &Local {
        // SAFETY: it lives as long as the arena.
        unsafe { self.heaps[at].as_ref() }
    }

    fn alloc(&self, heap: usize, size: u64) -> Result<Got> {
        let (size, local, home) = (size as usize, self.heap(heap), &self.home);
        // SAFETY: one thread plays all.
        unsafe {
            match class::of(size, 8) {
                Some(class) => self.arena.alloc(local, class, home),
                None => self.arena.alloc_large_by(local, size, 8, home),
            }
        }
    }

    fn free(&self, heap: usize, block: u64) -> Result<(), Refused> {
        // SAFETY: one thread plays all, and nobody uses the block.
        unsafe { self.arena.free(Some(self.heap(heap)), block, &self.home) }
    }

    /// Its thread ends, and another begins.
    fn renew(&mut self, heap: usize) {
        // SAFETY: the heap is not used after this.
        unsafe { self.arena.retire(self.heaps[heap]) };
        self.heaps[heap] = self.arena.join();
    }

    fn audit(&self) {
        // SAFETY: one thread plays all.
        let of_heaps = (0..self.heaps.len()).map(|at| unsafe { self.heap(at).audit() });
        let of_heaps: usize = of_heaps.sum();
        let (global, map) = self.arena.lock();
        let small = map.all().filter(|one| !one.is_large());
        assert_eq!(of_heaps + global.audit(map), small.count());
    }

    /// A burst: of allocations until there is no space, perhaps; of frees, here
    /// and there; or the end of a thread.
    fn step(&mut self, max: u64) {
        let heap = self.below(self.heaps.len() as u64) as usize;
        let some = self.below(self.live.len() as u64 + 1) as usize;
        match self.below(20) {
            0..10 => {
                let size = match self.below(10) {
                    0..4 => self.below(128) + 1,
                    4..7 => self.below(8192) + 1,
                    7..9 => self.below(65536) + 1,
                    _ => self.below(300_000) + 1,
                };
                let bytes = self.below(max / 4);
                for _ in 0..=(bytes / size).min(10_000) {
                    let Ok(got) = self.alloc(heap, size) else {
                        break;
                    };
                    if self.below(2) == 0 {
                        let superblock = got.superblock;
                        superblock.set_durable(superblock.entry().birth);
                    }
                    self.live.push(got.offset);
                }
            }
            10..15 => {
                for block in self.live.split_off(some) {
                    assert_eq!(self.free(heap, block), Ok(()));
                    if self.below(100) == 0 {
                        let again = (0..self.heaps.len()).map(|at| self.free(at, block));
                        assert!(again.collect::<Vec<_>>().iter().all(Result::is_err));
                    }
                }
            }
            15..17 => {
                let stay = self.below(8);
                for block in self.live.split_off(some) {
                    match self.below(10) < stay {
                        true => self.live.push(block),
                        false => {
                            let heap = self.below(self.heaps.len() as u64) as usize;
                            assert_eq!(self.free(heap, block), Ok(()));
                        }
                    }
                }
            }
            17 => self.renew(heap),
            _ => {
                for at in (1..self.live.len()).rev() {
                    let other = self.below(at as u64 + 1) as usize;
                    self.live.swap(at, other);
                }
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "many steps")]
fn every_superblock_is_in_one_place_and_counted_there() {
    for seed in 1..16 {
        let max = [2, 4, 16, 64, 256][seed as usize % 5] << 20;
        let mut world = World::new(max, 3, seed);
        world.arena.set_random_order(seed % 4 == 0);
        for _ in 0..200 {
            world.step(max);
            world.audit();
        }
        for block in std::mem::take(&mut world.live) {
            assert_eq!(world.free(0, block), Ok(()));
        }
        world.audit();
        for heap in std::mem::take(&mut world.heaps) {
            // SAFETY: the heap is not used after this.
            unsafe { world.arena.retire(heap) };
        }
        assert!(all_free(&world.arena, &world.home));
    }
}

/// What a thread keeps of its own is in nobody's way but others'.
#[test]
#[cfg_attr(miri, ignore = "many steps")]
fn a_long_block_fits_where_a_thread_has_freed_short_ones() {
    for size in [16, 64, 1000, 8192, 20_000] {
        let mut world = World::new(4 << 20, 2, 1);
        while let Ok(got) = world.alloc(0, size) {
            world.live.push(got.offset);
        }
        let live = std::mem::take(&mut world.live);
        for (at, block) in live.into_iter().enumerate() {
            assert_eq!(world.free(at / 2 % 2, block), Ok(()));
        }
        world.renew(1);
        // All but the table and the hindmost part of its chunk.
        let most = (4 << 20) - (128 << 10);
        assert!(world.alloc(0, most).is_ok(), "after blocks of {size} bytes");
        world.audit();
    }
}

/// Superblocks of 11 KiB blocks are longer than those of 12 KiB.
#[test]
#[cfg_attr(miri, ignore = "many steps")]
fn a_full_home_answers_from_a_shorter_superblock_of_longer_blocks() {
    let world = World::new(2 << 20, 2, 1);
    let idle = world.alloc(0, 12 << 10).expect("room").offset;
    while world
        .alloc(1, 64)
        .is_ok_and(|got| got.superblock.size() == 64)
    {}
    assert_eq!(world.free(0, idle), Ok(()));
    let got = world.alloc(0, 11 << 10).expect("the block of 12 KiB");
    assert_eq!(got.offset, idle);
    world.audit();
}

/// Others wait for the lock meanwhile.
#[test]
#[cfg_attr(miri, ignore = "many steps")]
fn a_free_gives_few_superblocks_back_however_many_threads_there_are() {
    let world = World::new(1 << 30, 8, 1);
    let blocks: Vec<u64> = (0..2 * 8 * 64 * 8)
        .map(|_| world.alloc(0, 8192).expect("room").offset)
        .collect();
    let free = || world.arena.lock().0.units.free();
    let (mut before, first) = (free(), free());
    for block in blocks {
        assert_eq!(world.free(0, block), Ok(()));
        let now = free();
        assert!(now - before <= 64 * 8, "{} units at once", now - before);
        before = now;
    }
    assert!(before - first > 512 * 8, "half of it");
    world.audit();
}

/// What one thread has freed here and there is most of a small region.
#[test]
#[cfg_attr(miri, ignore = "many steps")]
fn a_thread_keeps_little_of_a_small_region_that_is_partly_free() {
    for (max, size) in [(4 << 20, 64), (4 << 20, 1000), (16 << 20, 20_000)] {
        let mut world = World::new(max, 2, 1);
        while let Ok(got) = world.alloc(0, size) {
            world.live.push(got.offset);
        }
        let mut freed = 0;
        for (at, block) in world.live.iter().enumerate() {
            if at % 8 != 0 {
                assert_eq!(world.free(0, *block), Ok(()));
                freed += 1;
            }
        }
        let there = (0..freed).take_while(|_| world.alloc(1, size).is_ok());
        let (there, size) = (there.count(), size as usize);
        assert!(there * 5 >= freed * 4, "{there} of {freed} of {size} bytes");
        world.audit();
    }
}

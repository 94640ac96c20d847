//! The arena against a model, under threads, and under loom.

use super::*;
#[cfg(not(loom))]
use crate::class;
use crate::table::pieces;
use bartender_pm::sync::atomic::{AtomicU64, Ordering::*};

/// A home that only counts.
pub(crate) struct Fake {
    size: AtomicU64,
    max: u64,
    seq: AtomicU64,
    checkpoint: AtomicU64,
}

impl Fake {
    pub(crate) fn new(max: u64) -> Self {
        Fake {
            size: AtomicU64::new((256 * UNIT).min(max)),
            max,
            seq: AtomicU64::new(0),
            checkpoint: AtomicU64::new(0),
        }
    }
}

impl Home for Fake {
    fn extend(&self, end: u64) -> Result<()> {
        assert!(end <= self.max);
        self.size.fetch_max(end, Relaxed);
        Ok(())
    }
    fn refill(&self, start: u64, end: u64) -> Result<()> {
        assert!(start < end && end <= self.size());
        Ok(())
    }
    fn size(&self) -> u64 {
        self.size.load(Relaxed)
    }
    fn last_seq(&self) -> u64 {
        self.seq.load(Relaxed)
    }
    fn checkpoint_seq(&self) -> u64 {
        self.checkpoint.load(Relaxed)
    }
}

/// Every unit that is not the table's is free.
pub(crate) fn all_free(arena: &Arena, home: &Fake) -> bool {
    let (mut global, map) = arena.lock();
    global.collect();
    global.flush(map, home);
    let end = global.units.end();
    let table: u64 = pieces(global.units.max())
        .filter(|piece| piece.at < end)
        .map(|piece| piece.behind().min(end) - piece.at)
        .sum();
    end == 0 || global.units.free() == end - table - 1
}

#[cfg(not(loom))]
mod counts;

#[cfg(not(loom))]
mod real {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::Mutex as StdMutex;
    use std::sync::atomic::AtomicU8;

    const MAX: u64 = 1 << 30;

    fn alloc(arena: &Arena, local: &Local, size: usize, align: usize, home: &Fake) -> Result<Got> {
        match class::of(size, align) {
            // SAFETY: tests give each thread its own heap.
            Some(class) => unsafe { arena.alloc(local, class, home) },
            None => arena.alloc_large(size, align, home),
        }
    }

    #[derive(Debug, Clone)]
    enum Op {
        Alloc {
            size: usize,
            shift: u32,
            thread: usize,
        },
        Free {
            pick: prop::sample::Index,
            thread: usize,
        },
        Twice {
            pick: prop::sample::Index,
            thread: usize,
        },
        Inside {
            pick: prop::sample::Index,
            by: usize,
        },
        Renew {
            thread: usize,
        },
    }

    fn op() -> impl Strategy<Value = Op> {
        let size = prop_oneof![
            6 => 1usize..200,
            2 => 200usize..9000,
            1 => 9000usize..70_000,
            1 => 70_000usize..3_000_000,
        ];
        prop_oneof![
            8 => (size, prop_oneof![8 => Just(0u32), 1 => 0u32..16], 0usize..3)
                .prop_map(|(size, shift, thread)| Op::Alloc { size, shift, thread }),
            6 => (any::<prop::sample::Index>(), 0usize..3)
                .prop_map(|(pick, thread)| Op::Free { pick, thread }),
            1 => (any::<prop::sample::Index>(), 0usize..3)
                .prop_map(|(pick, thread)| Op::Twice { pick, thread }),
            1 => (any::<prop::sample::Index>(), 1usize..5000)
                .prop_map(|(pick, by)| Op::Inside { pick, by }),
            1 => (0usize..3).prop_map(|thread| Op::Renew { thread }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        #[cfg_attr(miri, ignore = "many steps")]
        fn blocks_never_overlap_and_everything_returns(
            ops in prop::collection::vec(op(), 1..400)
        ) {
            let home = Fake::new(MAX);
            let arena = Arena::new(MAX / UNIT);
            // SAFETY: heaps live as long as the arena; one thread plays them all, in turn.
            let mut locals: Vec<&Local> =
                (0..3).map(|_| unsafe { arena.join().as_ref() }).collect();
            // Offset → (end, owner of the superblock or not).
            let mut live: BTreeMap<u64, u64> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Alloc { size, shift, thread } => {
                        let align = 1usize << shift;
                        let got = alloc(&arena, locals[thread], size, align, &home)
                            .expect("there is room");
                        let (start, end) = (got.offset, got.offset + size as u64);
                        prop_assert_eq!(start % align as u64, 0);
                        prop_assert!(got.superblock.size() >= size as u64);
                        prop_assert!(end <= home.size());
                        let before = live.range(..end).next_back();
                        prop_assert!(before.is_none_or(|(_, before)| *before <= start));
                        live.insert(start, start + got.superblock.size());
                    }
                    Op::Free { pick, thread } if !live.is_empty() => {
                        let at = *live.keys().nth(pick.index(live.len())).expect("one of them");
                        live.remove(&at);
                        // SAFETY: nobody uses the block.
                        let freed = unsafe { arena.free(Some(locals[thread]), at, &home) };
                        prop_assert_eq!(freed, Ok(()));
                    }
                    Op::Twice { pick, thread } if !live.is_empty() => {
                        let at = *live.keys().nth(pick.index(live.len())).expect("one of them");
                        live.remove(&at);
                        // SAFETY: nobody uses the block.
                        let freed = unsafe { arena.free(Some(locals[thread]), at, &home) };
                        prop_assert_eq!(freed, Ok(()));
                        for local in &locals {
                            // SAFETY: nobody uses the block.
                            let twice = unsafe { arena.free(Some(*local), at, &home) };
                            prop_assert!(twice.is_err());
                        }
                    }
                    Op::Inside { pick, by } if !live.is_empty() => {
                        let (at, end) =
                            live.iter().nth(pick.index(live.len())).expect("one of them");
                        let inside = at + by as u64;
                        if inside < *end {
                            let not = Err(Refused::NotABlock(NotABlock::NotAStart));
                            // SAFETY: it is no block.
                            let freed = unsafe { arena.free(Some(locals[0]), inside, &home) };
                            prop_assert_eq!(freed, not);
                        }
                    }
                    Op::Renew { thread } => {
                        // SAFETY: the heap is not used after this.
                        unsafe { arena.retire(NonNull::from(locals[thread])) };
                        // SAFETY: as above.
                        locals[thread] = unsafe { arena.join().as_ref() };
                    }
                    _ => {}
                }
            }
            for offset in [0, UNIT, MAX - 8, MAX, u64::MAX, home.size()] {
                // SAFETY: it is no block.
                let freed = unsafe { arena.free(None, offset, &home) };
                prop_assert!(freed.is_err());
            }
            for at in live.into_keys() {
                // SAFETY: nobody uses the block.
                prop_assert_eq!(unsafe { arena.free(Some(locals[0]), at, &home) }, Ok(()));
            }
            for local in locals {
                // SAFETY: the heap is not used after this.
                unsafe { arena.retire(NonNull::from(local)) };
            }
            prop_assert!(all_free(&arena, &home));
        }
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (self.0 >> 33) % n
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks for more memory than there can be")]
    fn a_home_whose_descriptors_fit_no_memory_is_an_error() {
        for max in [1 << 50, u64::MAX / UNIT, u64::MAX] {
            let refused = Arena::try_new(max).err();
            assert!(matches!(refused, Some(Error::NoMemory { .. })), "{max}");
        }
    }

    /// Threads allocate, pass blocks around, free what they got from others, and
    /// end; each block carries its owner's mark in a shadow of the home.
    #[test]
    fn threads_pass_blocks_around_and_nothing_is_handed_out_twice() {
        // Miri takes its time: coarser, and fewer of all.
        const GRAIN: u64 = if cfg!(miri) { 512 } else { 8 };
        let max = if cfg!(miri) { 4 << 20 } else { 256 << 20 };
        let threads = if cfg!(miri) { 3 } else { 8 };
        let (heaps, steps) = if cfg!(miri) { (2, 12) } else { (6, 4000) };
        let home = Fake::new(max);
        let arena = Arena::new(max / UNIT);
        let shadow: Vec<AtomicU8> = (0..max / GRAIN).map(|_| AtomicU8::new(0)).collect();
        let post: StdMutex<Vec<u64>> = StdMutex::new(Vec::new());
        let own = |offset: u64, size: u64, from: u8, to: u8| {
            for at in offset / GRAIN..(offset + size) / GRAIN {
                let was = shadow[at as usize].swap(to, AcqRel);
                assert_eq!(was, from, "at {offset:#x}");
            }
        };
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (arena, home, post, own) = (&arena, &home, &post, &own);
                scope.spawn(move || {
                    let mut random = Random(thread + 1);
                    for _ in 0..heaps {
                        let handle = arena.join();
                        // SAFETY: it lives as long as the arena.
                        let local = unsafe { handle.as_ref() };
                        let mut mine = Vec::new();
                        for _ in 0..steps {
                            if random.below(100) < 55 {
                                let size = match random.below(100) {
                                    0..80 => random.below(256) + 1,
                                    80..99 => random.below(8000) + 1,
                                    _ => random.below(200_000) + 1,
                                };
                                let size = size.next_multiple_of(GRAIN);
                                if mine.len() < 3000 {
                                    let got = alloc(arena, local, size as usize, 8, home)
                                        .expect("there is room");
                                    own(got.offset, got.superblock.size(), 0, 1);
                                    mine.push(got.offset);
                                }
                            } else if let Some(at) = mine.pop() {
                                if random.below(2) == 0 {
                                    post.lock().expect("no panic").push(at);
                                } else {
                                    mine.insert(0, at);
                                    let at =
                                        mine.swap_remove(random.below(mine.len() as u64) as usize);
                                    let size = arena.find(at).expect("live").0.size();
                                    own(at, size, 1, 0);
                                    // SAFETY: nobody else knows the block.
                                    unsafe { arena.free(Some(local), at, home) }.expect("live");
                                }
                            }
                            if random.below(4) == 0 {
                                let other = post.lock().expect("no panic").pop();
                                if let Some(at) = other {
                                    let size = arena.find(at).expect("live").0.size();
                                    own(at, size, 1, 0);
                                    // SAFETY: out of the post, so only we know it.
                                    unsafe { arena.free(Some(local), at, home) }.expect("live");
                                }
                            }
                        }
                        post.lock().expect("no panic").append(&mut mine);
                        // SAFETY: the heap is not used after this.
                        unsafe { arena.retire(handle) };
                    }
                });
            }
        });
        for at in post.into_inner().expect("no panic") {
            // SAFETY: all threads are gone.
            unsafe { arena.free(None, at, &home) }.expect("live");
        }
        assert!(all_free(&arena, &home));
    }

    #[test]
    fn a_producer_and_a_consumer_do_not_blow_up() {
        let max = 64 << 20;
        let home = Fake::new(max);
        let arena = Arena::new(max / UNIT);
        // SAFETY: heaps live as long as the arena; one thread plays both.
        let (producer, consumer) = unsafe { (arena.join().as_ref(), arena.join().as_ref()) };
        let (rounds, count) = if cfg!(miri) { (2, 40) } else { (200, 10_000) };
        for _ in 0..rounds {
            let blocks: Vec<u64> = (0..count)
                .map(|_| alloc(&arena, producer, 64, 8, &home).expect("room").offset)
                .collect();
            for at in blocks {
                // SAFETY: nobody uses the block.
                unsafe { arena.free(Some(consumer), at, &home) }.expect("live");
            }
        }
        assert!(home.size() <= 4 << 20, "{} bytes for 640 kB", home.size());
    }

    #[test]
    #[cfg_attr(miri, ignore = "many steps")]
    fn a_thread_that_frees_most_of_its_blocks_lets_others_have_the_space() {
        let max = 64 << 20;
        let home = Fake::new(max);
        let arena = Arena::new(max / UNIT);
        // SAFETY: heaps live as long as the arena; one thread plays both.
        let (one, other) = unsafe { (arena.join().as_ref(), arena.join().as_ref()) };
        let blocks: Vec<u64> = (0..16 << 20 >> 6)
            .map(|_| alloc(&arena, one, 64, 8, &home).expect("room").offset)
            .collect();
        let grown = home.size();
        for (at, offset) in blocks.iter().enumerate() {
            if at % 8 != 0 {
                // SAFETY: nobody uses the block.
                unsafe { arena.free(Some(one), *offset, &home) }.expect("live");
            }
        }
        for _ in 0..8 << 20 >> 6 {
            alloc(&arena, other, 64, 8, &home).expect("room");
        }
        assert_eq!(
            home.size(),
            grown,
            "half of what was freed fits into its holes"
        );
    }

    #[test]
    #[cfg_attr(miri, ignore = "many steps")]
    fn what_a_thread_has_left_comes_to_who_frees_it() {
        let home = Fake::new(MAX);
        let arena = Arena::new(MAX / UNIT);
        // SAFETY: heaps live as long as the arena; one thread plays both.
        let (one, other) = unsafe { (arena.join().as_ref(), arena.join().as_ref()) };
        let new = |local| alloc(&arena, local, 64, 8, &home).expect("room").offset;
        let blocks: Vec<u64> = (0..3000).map(|_| new(one)).collect();
        // SAFETY: nobody uses the heap and the blocks.
        let free = |block| unsafe { arena.free(Some(other), block, &home) };
        let owned = |block| other.owns(arena.find(block).expect("a block").0);
        assert_eq!((free(blocks[0]), owned(blocks[0])), (Ok(()), false));
        // SAFETY: as above.
        unsafe { arena.retire(NonNull::from(one)) };
        for block in [blocks[1], blocks[2999]] {
            assert_eq!((free(block), owned(block)), (Ok(()), true));
            assert_eq!(free(block), Err(Refused::AlreadyFree));
        }
        assert_eq!(free(blocks[0]), Err(Refused::AlreadyFree), "it came along");
        for block in &blocks[2..2999] {
            assert_eq!(free(*block), Ok(()));
        }
        // SAFETY: as above.
        unsafe { arena.retire(NonNull::from(other)) };
        assert!(all_free(&arena, &home));
    }

    #[test]
    #[cfg_attr(miri, ignore = "many steps")]
    fn empty_superblocks_serve_any_class() {
        let max = 32 << 20;
        let home = Fake::new(max);
        let arena = Arena::new(max / UNIT);
        // SAFETY: it lives as long as the arena.
        let local = unsafe { arena.join().as_ref() };
        for size in [8, 64, 1000, 8192, 60_000, 1 << 20] {
            let blocks: Vec<u64> = (0..(24 << 20) / size)
                .map(|_| alloc(&arena, local, size, 8, &home).expect("room").offset)
                .collect();
            for at in blocks {
                // SAFETY: nobody uses the block.
                unsafe { arena.free(Some(local), at, &home) }.expect("live");
            }
        }
    }

    /// The region is full, but of free blocks: of other sizes, in the thread's own
    /// heap and in the global one.
    #[test]
    #[cfg_attr(miri, ignore = "many steps")]
    fn a_full_home_answers_with_longer_blocks() {
        let max = 4 << 20;
        let home = Fake::new(max);
        let arena = Arena::new(max / UNIT);
        // SAFETY: they live as long as the arena.
        let [local, gone] = [(); 2].map(|()| unsafe { arena.join().as_ref() });
        let get =
            |local, size, align| alloc(&arena, local, size, align, &home).map(|got| got.offset);
        let near = |offset: u64, other: u64| offset / (64 << 10) == other / (64 << 10);
        // A block of 128 bytes in a superblock of the global heap, and one of 200 in ours.
        let of_gone = get(gone, 128, 8).expect("room");
        // SAFETY: its thread, which is this one, uses it no more.
        unsafe { arena.retire(std::ptr::NonNull::from(gone)) };
        get(local, 200, 8).expect("room");
        let idle = get(local, 3000, 8).expect("room");
        loop {
            let got = alloc(&arena, local, 64, 64, &home).expect("a longer one at last");
            if got.superblock.size() != 64 {
                assert!(near(got.offset, of_gone));
                break;
            }
        }
        let small = get(local, 100, 8).expect("a block of 128 bytes");
        assert!(near(small, of_gone));
        let aligned = get(local, 130, 16).expect("a block of 200 bytes or more");
        assert!(aligned.is_multiple_of(16) && !near(aligned, of_gone));
        // A superblock that is wholly free serves before.
        // SAFETY: nobody uses the block.
        unsafe { arena.free(Some(local), idle, &home) }.expect("live");
        let first = get(local, 5000, 8).expect("the superblock of 3000 bytes");
        assert!(near(first, idle));
        assert!(get(local, 40_000, 8).is_err());
    }

    #[test]
    fn a_large_run_grows_where_it_is_while_there_is_room_behind_it() {
        let home = Fake::new(MAX);
        let arena = Arena::new(MAX / UNIT);
        let new = |size| arena.alloc_large(size, 8, &home).expect("room").offset;
        let length = |offset| arena.find(offset).expect("a run").0.size();
        let birth = |offset| arena.find(offset).expect("a run").0.entry().birth;
        let first = new(100_000);
        let before = birth(first);
        // Beyond the home's end, which grows.
        assert!(arena.grow(first, 3 << 20, &home).is_some());
        assert!(length(first) >= 3 << 20 && home.size() >= first + (3 << 20));
        assert!(
            birth(first) > before,
            "the new entry wins over what was behind"
        );
        assert!(arena.around(first + (3 << 20) - 1).is_ok());
        let wall = new(100_000);
        assert!(wall >= first + length(first));
        assert!(arena.grow(first, 4 << 20, &home).is_none());
        assert!(arena.grow(first + UNIT, 4 << 20, &home).is_none());
        // SAFETY: nobody uses it.
        unsafe { arena.free(None, wall, &home).expect("live") };
        assert!(arena.grow(first, 4 << 20, &home).is_some());
        assert!(arena.grow(first, 2 * MAX as usize, &home).is_none());
        assert!(arena.grow(first, 1 << 20, &home).is_none(), "not shorter");
        // SAFETY: nobody uses it.
        unsafe { arena.free(None, first, &home).expect("live") };
        assert!(arena.grow(first, 5 << 20, &home).is_none());
        assert!(all_free(&arena, &home));
    }

    /// The last part of a free of a run that another thread has freed meanwhile.
    #[test]
    fn a_late_second_free_leaves_another_run_in_its_chunk_alone() {
        let home = Fake::new(MAX);
        let arena = Arena::new(MAX / UNIT);
        let run = |units: u64| {
            let size = (units * UNIT) as usize;
            let got = arena.alloc_large(size, 8, &home).expect("room");
            got.offset
        };
        let first = run(8);
        let second = run(16);
        assert!(
            !second.is_multiple_of(64 << 10),
            "it begins inside of a chunk"
        );
        let (superblock, index) = arena.find(second).expect("a run");
        // SAFETY: nobody uses them.
        unsafe {
            arena.free(None, second, &home).expect("live");
            arena.free(None, first, &home).expect("live");
        }
        let filler = run(9);
        let other = run(8);
        assert_eq!(other / (64 << 10), second / (64 << 10));
        assert_ne!(other, second);
        let refused = arena.free_elsewhere(superblock, index, second, &home);
        assert_eq!(refused, Err(Refused::AlreadyFree));
        // SAFETY: nobody uses them.
        unsafe {
            arena.free(None, filler, &home).expect("live");
            arena.free(None, other, &home).expect("live");
        }
    }

    /// The last part of a free of a block that another thread has freed meanwhile,
    /// whose superblock died; one of longer blocks, which nobody owns, is there now.
    #[test]
    fn a_late_second_free_claims_nothing_where_its_block_was() {
        let home = Fake::new(MAX);
        let arena = Arena::new(MAX / UNIT);
        // SAFETY: heaps live as long as the arena; one thread plays all, and uses none that ended.
        let [one, two, late] = [(); 3].map(|()| unsafe { arena.join().as_ref() });
        let blocks: Vec<u64> = (0..8192)
            .map(|_| alloc(&arena, one, 8, 8, &home).expect("room").offset)
            .collect();
        let block = blocks[8191];
        let (superblock, index) = arena.find(block).expect("live");
        for block in blocks {
            // SAFETY: nobody uses it.
            unsafe { arena.free(Some(one), block, &home) }.expect("live");
        }
        // SAFETY: as above.
        unsafe { arena.retire(NonNull::from(one)) };
        let other = alloc(&arena, two, 20_000, 8, &home).expect("room");
        assert!(other.superblock == superblock && superblock.words() < index as usize / 64);
        // SAFETY: as above.
        unsafe {
            arena.retire(NonNull::from(two));
            assert!(!arena.claim(late, superblock, index, block));
            assert!(arena.free(Some(late), other.offset, &home).is_ok());
            assert!(late.owns(superblock));
        }
    }

    #[test]
    fn a_run_is_fresh_once_the_checkpoint_has_passed_its_free() {
        let home = Fake::new(MAX);
        let arena = Arena::new(MAX / UNIT);
        let first = arena.alloc_large(4 << 20, 8, &home).expect("room");
        assert!(first.fresh);
        home.seq.store(5, Relaxed);
        // SAFETY: nobody uses the block.
        unsafe { arena.free(None, first.offset, &home) }.expect("live");
        let again = arena.alloc_large(4 << 20, 8, &home).expect("room");
        assert_eq!((again.offset, again.fresh), (first.offset, false));
        // SAFETY: nobody uses the block.
        unsafe { arena.free(None, again.offset, &home) }.expect("live");
        home.checkpoint.store(5, Relaxed);
        assert!(arena.alloc_large(4 << 20, 8, &home).expect("room").fresh);
    }

    #[test]
    #[cfg_attr(miri, ignore = "many steps")]
    fn a_full_home_is_an_error_and_stays_usable() {
        let max = 4 << 20;
        let home = Fake::new(max);
        let arena = Arena::new(max / UNIT);
        // SAFETY: it lives as long as the arena.
        let local = unsafe { arena.join().as_ref() };
        let mut blocks = Vec::new();
        while let Ok(got) = alloc(&arena, local, 1000, 8, &home) {
            blocks.push(got.offset);
        }
        assert!(blocks.len() > 3500);
        assert!(alloc(&arena, local, 3 << 20, 8, &home).is_err());
        for at in blocks {
            // SAFETY: nobody uses the block.
            unsafe { arena.free(Some(local), at, &home) }.expect("live");
        }
        alloc(&arena, local, 3 << 20, 8, &home).expect("room again");
    }

    #[test]
    fn an_owner_who_only_frees_and_has_room_hears_of_others_frees() {
        let home = Fake::new(MAX);
        let arena = Arena::new(MAX / UNIT);
        // SAFETY: heaps live as long as the arena; one thread plays both, in turn.
        let (old, new) = unsafe { (arena.join().as_ref(), arena.join().as_ref()) };
        let got: Vec<Got> = (0..600)
            .map(|_| alloc(&arena, old, 64, 8, &home).expect("room"))
            .collect();
        // SAFETY: live blocks, freed once; `old` is used no more.
        unsafe {
            // The mail goes to a thread that ends; another takes the superblock over.
            arena.free(None, got[0].offset, &home).expect("live");
            arena.retire(NonNull::from(old));
            alloc(&arena, new, 64, 8, &home).expect("room");
            arena.free(None, got[1].offset, &home).expect("live");
            assert!(got[0].superblock.has_remote());
            for one in &got[100..116] {
                arena.free(Some(new), one.offset, &home).expect("live");
            }
        }
        assert!(!got[0].superblock.has_remote());
    }

    #[test]
    fn a_random_order_hands_out_every_block_once_and_rarely_neighbours() {
        let home = Fake::new(MAX);
        let arena = Arena::new(MAX / UNIT);
        arena.set_random_order(true);
        // SAFETY: it lives as long as the arena.
        let local = unsafe { arena.join().as_ref() };
        let mut got: Vec<u64> = (0..1024)
            .map(|_| alloc(&arena, local, 64, 8, &home).expect("room").offset)
            .collect();
        let neighbours = got.windows(2).filter(|two| two[1] == two[0] + 64).count();
        assert!(neighbours < 512, "{neighbours} of 1023");
        got.sort_unstable();
        assert!(got.windows(2).all(|two| two[1] == two[0] + 64));
    }

    #[test]
    #[cfg_attr(miri, ignore = "many steps")]
    fn metadata_take_at_most_a_byte_for_each_block_of_64_bytes() {
        let home = Fake::new(MAX);
        let arena = Arena::new(MAX / UNIT);
        // SAFETY: it lives as long as the arena.
        let local = unsafe { arena.join().as_ref() };
        let count = 1 << 20;
        for _ in 0..count {
            alloc(&arena, local, 64, 8, &home).expect("room");
        }
        let (global, _) = arena.lock();
        let bytes = global.pool.bytes() + arena.map().bytes();
        assert!(bytes <= count, "{bytes} bytes for {count} blocks");
    }
}

//! The arena under loom: every interleaving, with at most three preemptions, of
//! a few threads on superblocks of eight blocks.

use super::tests::{Fake, all_free};
use super::*;
use crate::class;
use crate::snapshot;
use bartender_pm::mutant;
use bartender_pm::sync::{Arc, UnsafeCell, thread};

/// A chunk with header and table, and two superblocks.
const MAX: u64 = 3 * 8;
const BLOCKS: u32 = 8;

struct World {
    arena: Arena,
    home: Fake,
    /// What stands in each block: loom tells if two threads get at it unordered.
    data: Vec<UnsafeCell<u32>>,
}

// SAFETY: `data` is what the models check.
unsafe impl Sync for World {}
// SAFETY: as above.
unsafe impl Send for World {}

impl World {
    fn new() -> Arc<World> {
        Arc::new(World {
            arena: Arena::new(MAX),
            home: Fake::new(MAX * UNIT),
            data: (0..MAX).map(|_| UnsafeCell::new(0)).collect(),
        })
    }

    fn alloc(&self, local: &Local) -> Result<u64> {
        let class = class::of(8192, 8).expect("a class");
        // SAFETY: models give each thread its own heap.
        let got = unsafe { self.arena.alloc(local, class, &self.home) }?;
        self.touch(got.offset);
        Ok(got.offset)
    }

    fn touch(&self, offset: u64) {
        // SAFETY: the block is ours, which is what the models check.
        self.data[(offset / UNIT) as usize].with_mut(|data| unsafe { *data += 1 });
    }

    fn alloc_all(&self, local: &Local) -> Vec<u64> {
        (0..BLOCKS)
            .map(|_| self.alloc(local).expect("room"))
            .collect()
    }

    fn free(&self, local: Option<&Local>, offset: u64) {
        self.touch(offset);
        // SAFETY: models free what they allocated, once.
        unsafe { self.arena.free(local, offset, &self.home) }.expect("a live block");
    }

    fn join(&self) -> &Local {
        // SAFETY: it lives as long as the arena.
        unsafe { self.arena.join().as_ref() }
    }

    fn retire(&self, local: &Local) {
        // SAFETY: models do not use it any more.
        unsafe { self.arena.retire(NonNull::from(local)) };
    }
}

/// Runs `f` on a thread of its own, as the thread that holds `local`. What the
/// model's first thread does late in an execution loom interleaves less.
fn as_owner<R: 'static>(
    world: &Arc<World>,
    local: &Local,
    f: impl FnOnce(&World, &Local) -> R + 'static,
) -> thread::JoinHandle<R> {
    let world = world.clone();
    let local = NonNull::from(local).as_ptr() as usize;
    thread::spawn(move || {
        let local = NonNull::new(local as *mut Local).expect("not null");
        // SAFETY: it lives as long as the arena, and is this thread's now.
        f(&world, unsafe { local.as_ref() })
    })
}

fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 10_000;
    builder.check(body);
}

/// Two threads give blocks back while their owner, who has none left, takes
/// them in and hands them out again.
#[test]
fn loom_remote_frees_against_the_owner_collecting() {
    remote_frees_against_the_owner_collecting();
}

/// The same where the owner lowers `summary` after it has read the words.
#[test]
#[should_panic]
fn loom_mail_that_is_marked_read_too_late_is_noticed() {
    mutant::with("summary_last", remote_frees_against_the_owner_collecting);
}

fn remote_frees_against_the_owner_collecting() {
    model(|| {
        let world = World::new();
        let local = world.join();
        let mut blocks = world.alloc_all(local);
        let frees: Vec<_> = [blocks.pop(), blocks.pop()]
            .map(|block| {
                let world = world.clone();
                thread::spawn(move || world.free(None, block.expect("eight of them")))
            })
            .into();
        let owner = as_owner(&world, local, |world, local| {
            // Out of the mail, or out of the second superblock.
            [(); 2].map(|()| world.alloc(local).expect("room"))
        });
        for block in owner.join().expect("no panic") {
            assert!(!blocks.contains(&block));
            blocks.push(block);
        }
        for free in frees {
            free.join().expect("no panic");
        }
        for block in blocks {
            world.free(Some(local), block);
        }
        world.retire(local);
        assert!(all_free(&world.arena, &world.home));
    });
}

/// A block given back twice at the same time is told to one of the two.
#[test]
fn loom_a_race_of_two_frees_of_one_block_has_one_winner() {
    a_race_of_two_frees();
}

/// The same with a load and a store for the read-modify-write.
#[test]
#[should_panic]
fn loom_a_free_in_two_steps_is_noticed() {
    mutant::with("free_in_two_steps", a_race_of_two_frees);
}

fn a_race_of_two_frees() {
    model(|| {
        let world = World::new();
        let local = world.join();
        let block = world.alloc(local).expect("room");
        world.alloc(local).expect("room");
        let other = {
            let world = world.clone();
            // SAFETY: a mistake that the arena has to notice.
            thread::spawn(move || unsafe { world.arena.free(None, block, &world.home) })
        };
        // SAFETY: as above.
        let mine = unsafe { world.arena.free(None, block, &world.home) };
        let theirs = other.join().expect("no panic");
        assert!(mine.is_ok() != theirs.is_ok());
    });
}

/// The owner draws a free block while another thread gives it back once more.
#[test]
fn loom_a_second_free_is_told_while_the_owner_draws() {
    a_second_free_while_the_owner_draws();
}

/// The same where a block that is drawn is nowhere for a moment.
#[test]
#[should_panic]
fn loom_a_draw_out_of_sight_is_noticed() {
    mutant::with("draw_out_of_sight", a_second_free_while_the_owner_draws);
}

fn a_second_free_while_the_owner_draws() {
    model(|| {
        let world = World::new();
        let local = world.join();
        let blocks = world.alloc_all(local);
        world.free(Some(local), blocks[0]);
        world.free(Some(local), blocks[1]);
        let owner = as_owner(&world, local, |world, local| world.alloc(local));
        let other = {
            let (world, block) = (world.clone(), blocks[1]);
            // SAFETY: a mistake that the arena has to notice.
            thread::spawn(move || unsafe { world.arena.free(None, block, &world.home) })
        };
        let got = owner.join().expect("no panic").expect("room");
        assert_eq!(got, blocks[0]);
        let refused = other.join().expect("no panic");
        assert_eq!(refused, Err(Refused::AlreadyFree));
    });
}

/// A thread ends while another gives back a block of its; a third thread goes
/// on with the superblock.
#[test]
fn loom_remote_free_against_the_owner_ending() {
    remote_free_against_the_owner_ending();
}

/// The same where nobody reads the mail of threads that ended.
#[test]
#[should_panic]
fn loom_mail_that_nobody_reads_is_noticed() {
    mutant::with("leave_idle_mail", remote_free_against_the_owner_ending);
}

fn remote_free_against_the_owner_ending() {
    model(|| {
        let world = World::new();
        let local = world.join();
        let mut blocks = world.alloc_all(local);
        let block = blocks.pop().expect("eight of them");
        let free = {
            let world = world.clone();
            thread::spawn(move || world.free(None, block))
        };
        world.retire(local);
        let next = world.join();
        let mut more = vec![world.alloc(next).expect("room")];
        free.join().expect("no panic");
        more.push(world.alloc(next).expect("room"));
        // By somebody without a heap: `next`, which has the same mailbox, would read it.
        for block in blocks.iter().chain(&more) {
            world.free(None, *block);
        }
        world.retire(next);
        assert!(all_free(&world.arena, &world.home));
    });
}

/// A thread that ended left a superblock to the global heap; another takes it
/// over while blocks are given back, and the mail follows.
#[test]
fn loom_remote_free_against_a_new_owner() {
    remote_free_against_a_new_owner();
}

/// The same where a reader keeps what is not its own.
#[test]
#[should_panic]
fn loom_mail_that_is_not_passed_on_is_noticed() {
    mutant::with("keep_foreign_mail", remote_free_against_a_new_owner);
}

fn remote_free_against_a_new_owner() {
    model(|| {
        let world = World::new();
        let local = world.join();
        let blocks = world.alloc_all(local);
        world.free(Some(local), blocks[0]);
        world.retire(local);
        let frees = {
            let (world, a, b) = (world.clone(), blocks[1], blocks[2]);
            thread::spawn(move || {
                world.free(None, a);
                world.free(None, b);
            })
        };
        let next = world.join();
        let owner = as_owner(&world, next, |world, next| {
            [(); 3].map(|()| world.alloc(next).expect("room"))
        });
        let mut got = owner.join().expect("no panic").to_vec();
        frees.join().expect("no panic");
        got.sort_unstable();
        got.dedup();
        assert_eq!(got.len(), 3);
        assert!(blocks[3..].iter().all(|block| !got.contains(block)));
        for block in blocks[3..].iter().chain(&got) {
            world.free(Some(next), *block);
        }
        world.retire(next);
        assert!(all_free(&world.arena, &world.home));
    });
}

/// Two threads free blocks of what a third has left, and each would have it.
#[test]
fn loom_two_threads_claim_what_a_third_has_left() {
    two_threads_claim();
}

/// The same where nobody looks again whose it is.
#[test]
#[should_panic]
fn loom_a_claim_of_what_somebody_owns_is_noticed() {
    mutant::with("claim_unseen", two_threads_claim);
}

fn two_threads_claim() {
    model(|| {
        let world = World::new();
        let local = world.join();
        let blocks = world.alloc_all(local);
        let heirs = [world.join(), world.join()];
        world.retire(local);
        let threads = [0, 1].map(|i| {
            let block = blocks[i];
            as_owner(&world, heirs[i], move |world, heir| {
                world.free(Some(heir), block);
                world.alloc(heir).expect("room")
            })
        });
        let got = threads.map(|thread| thread.join().expect("no panic"));
        assert_ne!(got[0], got[1]);
        for block in blocks[2..].iter().chain(&got) {
            world.free(None, *block);
        }
        heirs.map(|heir| world.retire(heir));
        assert!(all_free(&world.arena, &world.home));
    });
}

/// The owner gives its superblock up by the emptiness rule, and its units are
/// used for a large run, while the last remote free is on its way.
#[test]
fn loom_late_mail_of_a_dead_superblock() {
    late_mail_of_a_dead_superblock();
}

/// The same where mail is read whatever it is about.
#[test]
#[should_panic]
fn loom_mail_of_the_dead_that_is_heeded_is_noticed() {
    mutant::with("heed_the_dead", late_mail_of_a_dead_superblock);
}

fn late_mail_of_a_dead_superblock() {
    model(|| {
        let world = World::new();
        let local = world.join();
        let mut first = world.alloc_all(local);
        let second = world.alloc_all(local);
        let last = first.pop().expect("eight of them");
        let early = first.pop().expect("eight of them");
        for block in first {
            world.free(Some(local), block);
        }
        let free = {
            let world = world.clone();
            thread::spawn(move || {
                world.free(None, early);
                world.free(None, last);
            })
        };
        // Takes in the mail so far; if the first superblock is empty by then, it dies.
        world.retire(local);
        // All of it is fresh ground to whoever gets it.
        let run = world.arena.alloc_large(8 * UNIT as usize, 8, &world.home);
        free.join().expect("no panic");
        if let Ok(run) = run {
            (0..8).for_each(|unit| world.touch(run.offset + unit * UNIT));
            world.free(None, run.offset);
        }
        for block in second {
            world.free(None, block);
        }
        assert!(all_free(&world.arena, &world.home));
    });
}

/// A heap closes while a thread of it ends and its last remote free arrives:
/// what is saved has every live block, and both ends are reached.
#[test]
fn loom_saving_against_a_thread_ending() {
    saving_against_a_thread_ending();
}

/// The same where what is in the mail counts as in use.
#[test]
#[should_panic]
fn loom_saving_without_the_mail_is_noticed() {
    mutant::with("save_without_mail", saving_against_a_thread_ending);
}

fn saving_against_a_thread_ending() {
    model(|| {
        let world = World::new();
        let local = world.join();
        let blocks = world.alloc_all(local);
        let ends = {
            let world = world.clone();
            let local = NonNull::from(local).as_ptr() as usize;
            thread::spawn(move || {
                let local = NonNull::new(local as *mut Local).expect("not null");
                // SAFETY: the thread's heap by now, used no more.
                unsafe { world.arena.retire(local) };
            })
        };
        let free = {
            let (world, block) = (world.clone(), blocks[7]);
            thread::spawn(move || world.free(None, block))
        };
        let saved = snapshot::save(&world.arena.lock().0, world.arena.map());
        let word = u64::from_le_bytes(saved[16 + 24..].try_into().expect("one word"));
        assert!(word == 0 || word == 1 << 7, "{word:#x}");
        ends.join().expect("no panic");
        free.join().expect("no panic");
        let saved = snapshot::save(&world.arena.lock().0, world.arena.map());
        let word = u64::from_le_bytes(saved[16 + 24..].try_into().expect("one word"));
        assert_eq!(word, 1 << 7);
    });
}

/// A heap closes while a thread ends that has allocated a few blocks: none of
/// the others is taken for one in use, which would be lost for good.
#[test]
fn loom_what_an_ending_thread_had_at_hand_is_saved_as_free() {
    model(|| {
        let world = World::new();
        let local = world.join();
        let blocks: Vec<u64> = (0..2).map(|_| world.alloc(local).expect("room")).collect();
        world.free(Some(local), blocks[0]);
        let ends = as_owner(&world, local, |world, local| world.retire(local));
        let saved = snapshot::save(&world.arena.lock().0, world.arena.map());
        let word = u64::from_le_bytes(saved[16 + 24..].try_into().expect("one word"));
        assert_eq!(word, 0xff & !(1 << 1), "{word:#x}");
        ends.join().expect("no panic");
    });
}

/// Blocks of a superblock that was there at opening are given back while its marks
/// become known: each is free once, and what marking did not find as well.
#[test]
fn loom_frees_against_marks_becoming_known() {
    frees_against_marks_becoming_known();
}

/// The same where what was taken in before counts as live again.
#[test]
#[should_panic]
fn loom_frees_that_marks_undo_are_noticed() {
    mutant::with("forget_frees_since", frees_against_marks_becoming_known);
}

fn frees_against_marks_becoming_known() {
    const UNIT_OF_IT: u64 = 8;
    model(|| {
        let world = World::new();
        let class = class::of(8192, 8).expect("a class");
        let entry = crate::layout::TableEntry {
            birth: 1,
            units: class::TABLE[class].units,
            class: class as u16,
            flags: 0,
        };
        let extent = crate::table::Extent {
            unit: UNIT_OF_IT,
            entry,
        };
        let (mut global, map) = world.arena.lock();
        global.units.grown(world.home.size() / UNIT, 0);
        assert!(global.units.take_at(UNIT_OF_IT, entry.units.into()));
        global.restore_unmarked(extent, map);
        drop(global);
        let frees = {
            let world = world.clone();
            thread::spawn(move || {
                for block in [0, 1] {
                    world.free(None, (UNIT_OF_IT + block) * UNIT);
                }
            })
        };
        let marker = {
            let world = world.clone();
            thread::spawn(move || {
                // Somebody asks for a block, and so takes in what was given back so far.
                world.arena.lock().0.collect();
                let (mut global, map) = world.arena.lock();
                let superblock = map.begin(UNIT_OF_IT);
                global.learn(superblock, &[0b1111], false, map, &world.home)
            })
        };
        frees.join().expect("no panic");
        assert_eq!(marker.join().expect("no panic"), None);
        let superblock = world.arena.map().begin(UNIT_OF_IT);
        let (mut global, _) = world.arena.lock();
        global.collect();
        assert_eq!(superblock.live(), 2);
        drop(global);
        let local = world.join();
        let mut blocks: Vec<u64> = (0..6).map(|_| world.alloc(local).expect("room")).collect();
        let of_it = |at: &u64| (UNIT_OF_IT..UNIT_OF_IT + 8).contains(&(at / UNIT));
        assert!(
            blocks.iter().all(of_it),
            "the six free ones are there: {blocks:?}"
        );
        blocks.extend([2, 3].map(|block| (UNIT_OF_IT + block) * UNIT));
        for block in blocks {
            world.free(Some(local), block);
        }
        world.retire(local);
        assert!(all_free(&world.arena, &world.home));
    });
}

//! A superblock under loom: who looks from afar while the owner draws.

use super::*;
use crate::pool::Pool;
use bartender_pm::sync::{Arc, thread};

/// A superblock of 512-byte blocks in which these are free.
struct World {
    superblock: Superblock,
    owner: Mailbox,
    _pool: Pool,
}

impl World {
    fn new(free: [u64; 2]) -> Arc<World> {
        let class = class::of(512, 8).expect("a class");
        let entry = TableEntry {
            birth: 1,
            units: class::TABLE[class].units,
            class: class as u16,
            flags: 0,
        };
        let mut pool = Pool::new();
        let bits = pool.take(words(&entry));
        let world = Arc::new(World {
            superblock: Superblock::dead(),
            owner: Mailbox::new(),
            _pool: pool,
        });
        world.superblock.be(&Birth {
            unit: 0,
            home: 0,
            entry,
            bits,
            owner: NonNull::from(&world.owner),
        });
        // SAFETY: nobody else has it.
        unsafe { world.superblock.restore(free.into_iter().chain([0])) };
        world
    }
}

fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(body);
}

/// A block in use is given back while the owner draws a word in which the same
/// bit is free.
#[test]
fn loom_a_free_is_accepted_while_the_owner_draws_another_word() {
    a_free_while_the_owner_draws_another_word();
}

/// The same where nobody asks whose draw the hand is of.
#[test]
#[should_panic]
fn loom_a_hand_of_another_draw_is_noticed() {
    mutant::with("trust_any_hand", a_free_while_the_owner_draws_another_word);
}

/// The same where the hand is filled before it is said from where.
#[test]
#[should_panic]
fn loom_a_hand_filled_too_early_is_noticed() {
    mutant::with(
        "draw_before_drawn",
        a_free_while_the_owner_draws_another_word,
    );
}

fn a_free_while_the_owner_draws_another_word() {
    model(|| {
        let world = World::new([1 << 3, 1 << 5]);
        // SAFETY: the owner is who has it, here and in `owner`.
        let first = unsafe { world.superblock.take() };
        assert_eq!(first, Some(3 * 512));
        let owner = {
            let world = world.clone();
            // SAFETY: as above.
            thread::spawn(move || unsafe { world.superblock.take() })
        };
        let other = {
            let world = world.clone();
            thread::spawn(move || {
                // SAFETY: it lives as long as the world.
                let superblock = unsafe { Ref::new(NonNull::from(&world.superblock)) };
                Superblock::give_remote(superblock, 5)
            })
        };
        assert_eq!(owner.join().expect("no panic"), Some((64 + 5) * 512));
        assert_eq!(other.join().expect("no panic"), Ok(()));
    });
}

/// A block that waits in the hand is given back once more while the owner puts
/// the hand back.
#[test]
fn loom_a_second_free_is_told_while_the_hand_goes_back() {
    a_second_free_while_the_hand_goes_back();
}

/// The same where the free bitmap is looked at only before the hand.
#[test]
#[should_panic]
fn loom_a_look_at_the_hand_alone_is_noticed() {
    mutant::with("look_once", a_second_free_while_the_hand_goes_back);
}

fn a_second_free_while_the_hand_goes_back() {
    model(|| {
        let world = World::new([1 << 3 | 1 << 5, 0]);
        // SAFETY: the owner is who has it, here and in `owner`.
        let first = unsafe { world.superblock.take() };
        assert_eq!(first, Some(3 * 512));
        let owner = {
            let world = world.clone();
            // SAFETY: as above.
            thread::spawn(move || unsafe { world.superblock.rest() })
        };
        let other = {
            let world = world.clone();
            thread::spawn(move || {
                // SAFETY: it lives as long as the world.
                let superblock = unsafe { Ref::new(NonNull::from(&world.superblock)) };
                Superblock::give_remote(superblock, 5)
            })
        };
        owner.join().expect("no panic");
        assert_eq!(other.join().expect("no panic"), Err(AlreadyFree));
    });
}

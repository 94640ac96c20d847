//! The lock table by itself: what is granted and refused, and (under loom) that no schedule blocks for ever.

use super::*;
#[cfg(loom)]
use bartender_pm::sync::thread;

#[derive(Debug, Clone)]
struct Never;

impl Position for Never {
    fn is_durable(&self) -> bool {
        false
    }
}

fn owner() -> &'static Owner {
    Box::leak(Box::default())
}

#[cfg(not(loom))]
mod plain {
    use super::*;
    use Mode::{Exclusive, Shared};
    use Patience::{Die, Free, Wound};
    use bartender_pm::sync::{Arc, UnsafeCell};
    use std::time::Duration;

    #[test]
    fn an_entry_lives_as_long_as_it_is_needed() {
        let table = Table::<Never>::new();
        let (a, b) = (owner(), owner());
        assert!(table.acquire(8, Exclusive, a, Free).unwrap().is_none());
        assert!(table.acquire(16, Shared, a, Free).unwrap().is_none());
        assert!(table.acquire(16, Shared, b, Free).unwrap().is_none());
        assert_eq!(table.len(), 2);
        table.release(8, Exclusive, a);
        table.release(16, Shared, a);
        assert_eq!(table.len(), 1);
        table.release(16, Shared, b);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn very_many_locks_are_found_again_in_whatever_order_they_go() {
        const MANY: usize = if cfg!(miri) { 500 } else { 100_000 };
        let table = Table::<Never>::new();
        let (a, b) = (owner(), owner());
        for step in [1, 7, 3] {
            for i in 0..MANY {
                table.acquire(8 + i * 8, Exclusive, a, Free).unwrap();
            }
            assert_eq!(table.len(), MANY);
            // Each once, as the steps have no divisor with `MANY` in common.
            for i in 0..MANY {
                let addr = 8 + i * step % MANY * 8;
                assert!(table.look(addr, || ()).is_none());
                table.release(addr, Exclusive, a);
                table.acquire(addr, Shared, b, Free).unwrap();
                table.release(addr, Shared, b);
            }
            assert_eq!(table.len(), 0);
        }
    }

    #[test]
    fn a_lock_of_ones_own_is_refused() {
        let table = Table::<Never>::new();
        let a = owner();
        table.acquire(8, Exclusive, a, Free).unwrap();
        for (mode, patience) in [(Exclusive, Die), (Shared, Die), (Shared, Wound)] {
            assert_eq!(
                table.acquire(8, mode, a, patience).unwrap_err(),
                Refused::Own
            );
        }
        table.acquire(16, Shared, a, Die).unwrap();
        assert_eq!(
            table.acquire(16, Exclusive, a, Die).unwrap_err(),
            Refused::Own
        );
        table.acquire(16, Shared, a, Die).unwrap();
    }

    #[test]
    fn the_younger_dies() {
        let table = Table::<Never>::new();
        let (old, young) = (owner(), owner());
        table.number(old);
        table.number(young);
        table.acquire(8, Exclusive, old, Free).unwrap();
        assert_eq!(
            table.acquire(8, Exclusive, young, Die).unwrap_err(),
            Refused::Conflict
        );
        table.acquire(16, Shared, old, Free).unwrap();
        assert_eq!(
            table.acquire(16, Exclusive, young, Die).unwrap_err(),
            Refused::Conflict
        );
        table.acquire(16, Shared, young, Die).unwrap();
    }

    #[test]
    fn a_commit_that_is_not_durable_is_told_to_the_next() {
        let table = Table::<Never>::new();
        let a = owner();
        table.acquire(8, Exclusive, a, Free).unwrap();
        table.release_after(8, a, Never);
        assert_eq!(table.len(), 1);
        assert!(table.acquire(8, Shared, a, Free).unwrap().is_some());
        table.release(8, Shared, a);
        table.purge(0, 100);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_waiting_reader_wounds_and_a_wounded_waiter_gives_up() {
        let table = Arc::new(Table::<Never>::new());
        let (reader, tx) = (owner(), owner());
        table.acquire(8, Shared, reader, Free).unwrap();
        table.acquire(16, Exclusive, tx, Free).unwrap();
        let other = {
            let table = table.clone();
            std::thread::spawn(move || {
                let refused = table.acquire(8, Exclusive, tx, Die).unwrap_err();
                table.release(16, Exclusive, tx);
                refused
            })
        };
        std::thread::sleep(Duration::from_millis(20));
        table.acquire(16, Shared, reader, Wound).unwrap();
        assert_eq!(other.join().unwrap(), Refused::Conflict);
        table.release(8, Shared, reader);
        table.release(16, Shared, reader);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_lock_taken_late_is_waited_for_by_all_who_come_late_and_no_other_is() {
        let table = Arc::new(Table::<Never>::new());
        let (a, b) = (owner(), owner());
        table.acquire_late(8, a).unwrap();
        assert!(table.look(8, || ()).is_none());
        let waits = {
            let table = table.clone();
            std::thread::spawn(move || {
                table.acquire_late(8, b).unwrap();
                table.release(8, Exclusive, b);
            })
        };
        std::thread::sleep(Duration::from_millis(20));
        table.release(8, Exclusive, a);
        waits.join().unwrap();
        table.acquire(8, Exclusive, a, Free).unwrap();
        assert_eq!(table.acquire_late(8, b).unwrap_err(), Refused::Conflict);
        table.release(8, Exclusive, a);
        assert_eq!(table.look(8, || 7), Some(7));
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn many_threads_exclude_one_another() {
        let table = Arc::new(Table::<Never>::new());
        #[derive(Default)]
        struct Counters([UnsafeCell<u64>; 3]);
        // SAFETY: each counter is touched under its lock.
        unsafe impl Sync for Counters {}
        let counters = Arc::new(Counters::default());
        let threads: Vec<_> = (0..4)
            .map(|t| {
                let (table, counters) = (table.clone(), counters.clone());
                std::thread::spawn(move || {
                    let me = owner();
                    for i in 0..2000 {
                        let (a, b) = ((i + t) % 3, (i * 7 + t) % 3);
                        loop {
                            me.begin();
                            table.acquire(8 * a + 8, Mode::Exclusive, me, Free).unwrap();
                            let second = if a == b {
                                Ok(None)
                            } else {
                                table.acquire(8 * b + 8, Mode::Exclusive, me, Die)
                            };
                            if second.is_ok() {
                                // SAFETY: under the lock.
                                counters.0[a].with_mut(|c| unsafe { *c += 1 });
                                if a != b {
                                    table.release(8 * b + 8, Mode::Exclusive, me);
                                }
                            }
                            table.release(8 * a + 8, Mode::Exclusive, me);
                            if second.is_ok() {
                                break;
                            }
                        }
                        me.end();
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        // SAFETY: all threads have ended.
        let total: u64 = counters.0.iter().map(|c| c.with(|c| unsafe { *c })).sum();
        assert_eq!(total, 8000);
        assert_eq!(table.len(), 0);
    }
}

#[cfg(loom)]
mod models {
    use super::*;
    use bartender_pm::mutant;
    use loom::sync::Arc;

    /// Whether `model` deadlocks with the rule `name` off. That ends a process, so it is a child: this same test, told
    /// by the environment who it is.
    fn deadlocks(name: &'static str, model: fn()) {
        const CHILD: &str = "BARTENDER_TEST_DEADLOCK";
        if std::env::var_os(CHILD).is_some() {
            return mutant::with(name, model);
        }
        let test = std::thread::current().name().unwrap().to_owned();
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([&test, "--exact", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&child.stderr);
        assert!(told.contains("deadlock; threads"), "{told}");
    }

    /// Two transactions take two locks in opposite order: one of them dies and tries again, both end.
    #[test]
    fn loom_opposite_orders_end() {
        opposite_orders();
    }

    /// The same where a transaction waits for older ones too.
    #[test]
    fn loom_waiting_for_anybody_is_noticed() {
        deadlocks("wait_for_anybody", opposite_orders);
    }

    fn opposite_orders() {
        loom::model(|| {
            let table = Arc::new(Table::<Never>::new());
            let run = |table: Arc<Table<Never>>, first: usize, second: usize| {
                let me = owner();
                loop {
                    me.begin();
                    table
                        .acquire(first, Mode::Exclusive, me, Patience::Free)
                        .unwrap();
                    let second_taken = table.acquire(second, Mode::Exclusive, me, Patience::Die);
                    if second_taken.is_ok() {
                        table.release(second, Mode::Exclusive, me);
                    }
                    table.release(first, Mode::Exclusive, me);
                    if second_taken.is_ok() {
                        break;
                    }
                    thread::yield_now();
                }
                me.end();
            };
            let others = [(8, 16), (16, 8)].map(|(first, second)| {
                let table = table.clone();
                thread::spawn(move || run(table, first, second))
            });
            for other in others {
                other.join().unwrap();
            }
        });
    }

    /// A reader that holds a guard waits for a transaction that waits for that guard: the transaction gives up.
    #[test]
    fn loom_locks_taken_late_and_by_rising_address_end() {
        late_locks();
    }

    /// The same where they are taken in any order.
    #[test]
    fn loom_late_locks_in_any_order_are_noticed() {
        deadlocks("late_in_any_order", late_locks);
    }

    /// Two transactions with an ordinary lock that both share, at their ends; nobody gives up.
    fn late_locks() {
        loom::model(|| {
            let table = Arc::new(Table::<Never>::new());
            let run = |table: Arc<Table<Never>>, mut late: [usize; 2]| {
                let me = owner();
                table
                    .acquire(8, Mode::Shared, me, Patience::Free)
                    .expect("readers share");
                if !mutant::is("late_in_any_order") {
                    late.sort_unstable();
                }
                for addr in late {
                    table.acquire_late(addr, me).expect("it waits");
                }
                for addr in late {
                    table.release(addr, Mode::Exclusive, me);
                }
                table.release(8, Mode::Shared, me);
            };
            let other = table.clone();
            let thread = thread::spawn(move || run(other, [16, 24]));
            run(table.clone(), [24, 16]);
            thread.join().unwrap();
            assert_eq!(table.len(), 0);
        });
    }

    #[test]
    fn loom_a_reader_is_never_in_a_circle() {
        a_reader_and_a_transaction();
    }

    /// The same where the reader wounds nobody.
    #[test]
    fn loom_a_reader_that_does_not_wound_is_noticed() {
        deadlocks("no_wound", a_reader_and_a_transaction);
    }

    fn a_reader_and_a_transaction() {
        loom::model(|| {
            let table = Arc::new(Table::<Never>::new());
            let other = table.clone();
            let thread = thread::spawn(move || {
                let me = owner();
                other
                    .acquire(16, Mode::Exclusive, me, Patience::Free)
                    .unwrap();
                if other.acquire(8, Mode::Exclusive, me, Patience::Die).is_ok() {
                    other.release(8, Mode::Exclusive, me);
                }
                other.release(16, Mode::Exclusive, me);
            });
            let reader = thread::spawn(move || {
                let reader = owner();
                table
                    .acquire(8, Mode::Shared, reader, Patience::Free)
                    .unwrap();
                table
                    .acquire(16, Mode::Shared, reader, Patience::Wound)
                    .unwrap();
                table.release(16, Mode::Shared, reader);
                table.release(8, Mode::Shared, reader);
            });
            reader.join().unwrap();
            thread.join().unwrap();
        });
    }

    /// A commit on a stream: its place in the log, and what is durable.
    #[derive(Debug, Clone)]
    struct Placed(u64, Arc<AtomicU64>);

    impl Position for Placed {
        fn is_durable(&self) -> bool {
            self.1.load(Ordering::Acquire) >= self.0
        }
    }

    /// A lock released before its commit is durable: whoever sees the change is told what to wait for.
    #[test]
    fn loom_nobody_sees_what_is_not_durable() {
        a_commit_and_a_reader();
    }

    /// The same where the lock does not remember its last commit.
    #[test]
    #[should_panic]
    fn loom_a_lock_without_memory_is_noticed() {
        mutant::with("forget_the_last", a_commit_and_a_reader);
    }

    fn a_commit_and_a_reader() {
        loom::model(|| {
            let table = Arc::new(Table::<Placed>::new());
            let durable = Arc::new(AtomicU64::new(0));
            let value = Arc::new(AtomicU64::new(0));
            let writer = {
                let (table, durable, value) = (table.clone(), durable.clone(), value.clone());
                thread::spawn(move || {
                    let me = owner();
                    table
                        .acquire(8, Mode::Exclusive, me, Patience::Free)
                        .unwrap();
                    value.store(1, Ordering::Relaxed);
                    let commit = Placed(1, durable.clone());
                    table.release_after(8, me, commit);
                    durable.store(1, Ordering::Release);
                    table.settle(8);
                })
            };
            let reader = {
                let table = table.clone();
                thread::spawn(move || {
                    let me = owner();
                    let last = table.acquire(8, Mode::Shared, me, Patience::Free).unwrap();
                    if value.load(Ordering::Relaxed) == 1 && last.is_none() {
                        assert_eq!(durable.load(Ordering::Acquire), 1);
                    }
                    table.release(8, Mode::Shared, me);
                })
            };
            reader.join().unwrap();
            writer.join().unwrap();
            assert_eq!(table.len(), 0);
        });
    }
}

//! Each fault of the simulated network, shown to happen and to be bounded.

use super::*;
use crate::error::{Error, Result};
use crate::fabric::{Connection, Fabric, Listener};
use crate::memory::{Access, MemoryRegion, PersistMethod};
use crate::operation::Received;
use bytes::Bytes;
use tokio::time::sleep;

/// How many seeds a test tries that looks for something which is drawn.
/// Under Miri, which is slow, they are too few to find it.
const SEEDS: u64 = if cfg!(miri) { 1 } else { 64 };

/// That something drawn was seen.
fn seen(it: bool) {
    assert!(it || cfg!(miri));
}

struct Two {
    network: Network,
    a: Arc<SimFabric>,
    b: Arc<SimFabric>,
    listener: Listener,
    to_b: Connection,
    at_b: Connection,
    memory: Arc<DurableMemory>,
    region: MemoryRegion,
}

/// Nodes a and b, a connected to b, with memory at b.
async fn two(network: Network) -> Two {
    let (a, b) = (network.node("a"), network.node("b"));
    let listener = b.listen("b").await.unwrap();
    let to_b = a.connect("b").await.unwrap();
    let at_b = listener.accept().await.unwrap();
    let memory = b.memory(1088);
    let region = b.register(memory.clone(), Access::ALL).unwrap();
    Two {
        network,
        a,
        b,
        listener,
        to_b,
        at_b,
        memory,
        region,
    }
}

/// A connection to b beside the first.
async fn another(t: &Two) -> (Connection, Connection) {
    let to_b = t.a.connect("b").await.unwrap();
    (to_b, t.listener.accept().await.unwrap())
}

fn torn() -> Settings {
    Settings {
        tear: 1_000_000,
        tear_within: 0..=20,
        ..Settings::default()
    }
}

async fn ms(n: u64) {
    sleep(Duration::from_millis(n)).await;
}

fn is_broken<T: fmt::Debug>(result: Result<T>) -> bool {
    matches!(result, Err(Error::Broken { .. }))
}

#[test]
fn operations_do_what_they_say() {
    run(1, Settings::rough(), |network| async {
        let t = two(network).await;
        let at = t.region.remote();
        t.to_b.write(at, 3, &b"hello"[..]).await.unwrap();
        assert_eq!(&t.to_b.read(at, 2, 7).await.unwrap()[..], b"\0hello\0");
        assert_eq!(t.to_b.fetch_add(at, 64, 5).await.unwrap(), 0);
        assert_eq!(t.to_b.compare_swap(at, 64, 4, 9).await.unwrap(), 5);
        assert_eq!(t.to_b.compare_swap(at, 64, 5, 9).await.unwrap(), 5);
        assert_eq!(t.memory.read(64, 8), 9u64.to_ne_bytes());
        t.to_b.send(&b"news"[..]).await.unwrap();
        let news = Received::Message(Bytes::from_static(b"news"));
        assert_eq!(t.at_b.recv().await.unwrap(), news);
        let bytes = vec![7; 300];
        t.to_b
            .write_with_immediate(at, 100, bytes, 42)
            .await
            .unwrap();
        assert_eq!(t.at_b.recv().await.unwrap(), Received::Immediate(42));
        assert_eq!(t.memory.read(100, 300), [7; 300]);
        assert_eq!(
            (t.to_b.peer().name.as_str(), t.at_b.peer().name.as_str()),
            ("b", "a")
        );
        let counts = t.network.counts("a");
        assert_eq!(
            (counts.round_trips, counts.writes, counts.messages),
            (8, 2, 1)
        );
    });
}

/// A run with all that can happen; its digest.
fn busy(seed: u64) -> u64 {
    let steps = if cfg!(miri) { 10 } else { 200 };
    run(seed, Settings::lossy(), |network| async move {
        let fabrics = ["a", "b", "c"].map(|name| network.node(name));
        let memory = fabrics[0].memory(1024);
        let mut region = fabrics[0].register(memory.clone(), Access::ALL).unwrap();
        let mut listener = fabrics[0].listen("a:1").await.unwrap();
        let mut ends = Vec::new();
        for step in 0..steps {
            let who = network.draw(1..=2) as usize;
            let other = ["b", "c"][network.draw(0..=1) as usize];
            match network.draw(0..=19) {
                0 => network.cut("a", other),
                1 => network.cut(other, "a"),
                2..=4 => network.heal_all(),
                5 if step % 10 == 0 => {
                    network.kill("a");
                    let a = network.restart("a");
                    region = a.register(memory.clone(), Access::ALL).unwrap();
                    listener = a.listen("a:1").await.unwrap();
                }
                6 => network.pause("a"),
                7 => network.resume("a"),
                8 => network.lose_connections("a", other),
                9..=11 => {
                    let connected = fabrics[who].connect("a:1").await;
                    network.note(&format!("{connected:?}"));
                    if let Ok(connection) = connected {
                        ends.push((connection, listener.accept().await));
                    }
                }
                _ => {
                    if let Some((connection, _)) = ends.last() {
                        let mut batch = connection.batch();
                        let offset = network.draw(0..=63) * 8;
                        let write = batch.write(region.remote(), offset, vec![step as u8; 300]);
                        let add = batch.fetch_add(region.remote(), offset, 1);
                        let persist = batch.persist(region.remote(), vec![(offset, 300)]);
                        batch.post();
                        let limit = Duration::from_millis(network.draw(1..=30));
                        let persisted = persist.within(limit).await;
                        drop((write, add));
                        network.note(&format!("{persisted:?}"));
                    }
                }
            }
            ms(network.draw(0..=20)).await;
        }
        let sum: u64 = memory.durable().into_iter().map(u64::from).sum();
        network.note(&format!("{sum}"));
        network.digest()
    })
}

#[test]
fn a_seed_replays_its_run_and_another_gives_another() {
    for seed in 0..SEEDS.div_ceil(4) {
        let first = busy(seed);
        assert_eq!(first, busy(seed), "seed {seed}");
        assert_ne!(first, busy(seed + 1000), "seed {seed}");
    }
}

#[test]
fn one_connection_keeps_order_and_two_do_not() {
    let mut overtaken = false;
    for seed in 0..SEEDS {
        overtaken |= run(seed, Settings::rough(), |network| async {
            let t = two(network).await;
            let (other, other_at_b) = another(&t).await;
            for i in 0..20u8 {
                drop(t.to_b.send(vec![i]));
            }
            drop(t.to_b.write(t.region.remote(), 0, &[1u8][..]));
            drop(other.write(t.region.remote(), 0, &[2u8][..]));
            let last = other.send(&b"x"[..]);
            for i in 0..20 {
                let message = Received::Message(Bytes::from(vec![i]));
                assert_eq!(t.at_b.recv().await.unwrap(), message);
            }
            let read = t.to_b.read(t.region.remote(), 0, 1).await.unwrap();
            last.await.unwrap();
            other_at_b.recv().await.unwrap();
            assert!(read[0] == 1 || read[0] == 2);
            t.memory.read(0, 1) == [1]
        });
    }
    seen(overtaken);
}

#[test]
fn what_is_not_allowed_fails_and_closes_the_connection() {
    for case in 0..5 {
        run(case, Settings::rough(), |network| async move {
            let t = two(network).await;
            let weak = t.b.register(t.memory.clone(), Access::READ).unwrap();
            let gone = t.b.register(t.memory.clone(), Access::ALL).unwrap();
            let (weak, revoked) = (weak.remote(), gone.remote());
            drop(gone);
            let at = t.region.remote();
            let before = t.to_b.fetch_add(at, 0, 1);
            let failed = match case {
                0 => t.to_b.write(at, 1082, &[1; 7][..]).await.map(drop),
                1 => t.to_b.read(at, u64::MAX - 2, 7).await.map(drop),
                2 => t.to_b.write(weak, 0, &[1; 7][..]).await.map(drop),
                3 => t.to_b.write(revoked, 0, &[1; 7][..]).await.map(drop),
                _ => t.to_b.fetch_add(at, 12, 1).await.map(drop),
            };
            let after = t.to_b.fetch_add(at, 0, 1);
            assert_eq!(before.await.unwrap(), 0);
            match case {
                3 => assert!(matches!(failed, Err(Error::Refused { .. })), "{failed:?}"),
                _ => assert!(
                    matches!(failed, Err(Error::OutOfBounds { .. })),
                    "{failed:?}"
                ),
            }
            assert!(is_broken(after.await));
            t.to_b.closed().await;
            t.at_b.closed().await;
            assert_eq!(t.memory.read(0, 8), 1u64.to_ne_bytes());
        });
    }
}

#[test]
fn over_a_line_cut_one_way_a_write_happens_and_nobody_learns_it() {
    run(1, Settings::default(), |network| async {
        let t = two(network).await;
        t.network.cut("b", "a");
        let write = t.to_b.write(t.region.remote(), 0, &[9][..]);
        assert!(is_broken(write.await));
        assert_eq!(t.memory.read(0, 1), [9]);
        let write = t.to_b.write(t.region.remote(), 0, &[8][..]);
        assert!(is_broken(write.await));
        assert_eq!(t.memory.read(0, 1), [9]);
        assert!(is_broken(t.at_b.recv().await), "the way to b is open");
        assert!(matches!(t.a.connect("b").await, Err(Error::Connect { .. })));
    });
}

#[test]
fn a_line_that_is_healed_in_time_only_delays() {
    run(1, Settings::default(), |network| async {
        let t = two(network).await;
        t.network.partition(&["a"], &["b"]);
        let write = t.to_b.write(t.region.remote(), 0, &[9][..]);
        ms(100).await;
        assert_eq!(t.memory.read(0, 1), [0]);
        t.network.heal_all();
        write.await.unwrap();
        assert_eq!(t.memory.read(0, 1), [9]);
        // And the other end of one that was given up hears of it then.
        t.network.partition(&["a"], &["b"]);
        assert!(is_broken(t.to_b.send(&b"x"[..]).await));
        let idle = tokio::time::timeout(Duration::from_secs(60), t.at_b.closed());
        assert!(idle.await.is_err(), "nothing told b");
        t.network.heal_all();
        t.at_b.closed().await;
    });
}

#[test]
fn lines_of_a_torn_write_appear_one_by_one_and_its_own_connection_never_sees_that() {
    let mut partial = 0;
    for seed in 0..SEEDS {
        partial += run(seed, torn(), |network| async {
            let t = two(network).await;
            let write = t.to_b.write(t.region.remote(), 32, vec![1; 256]);
            let mut seen = 0;
            for _ in 0..20 {
                ms(1).await;
                let now = t.memory.read(32, 256);
                let count = now.iter().filter(|byte| **byte == 1).count();
                seen += usize::from(count > 0 && count < 256);
                assert_eq!(count % 32, 0);
            }
            write.await.unwrap();
            let write = t.to_b.write(t.region.remote(), 32, vec![2; 256]);
            write.await.unwrap();
            assert_eq!(t.memory.read(32, 256), [2; 256], "complete means in place");
            drop(t.to_b.write(t.region.remote(), 32, vec![3; 256]));
            let read = t.to_b.read(t.region.remote(), 32, 256).await.unwrap();
            assert_eq!(&read[..], [3; 256]);
            seen
        });
    }
    seen(partial > 0);
}

#[test]
fn a_read_of_many_lines_may_be_torn() {
    let torn_reads = (0..SEEDS).filter(|&seed| {
        run(seed, torn(), |network| async {
            let t = two(network).await;
            let read = t.to_b.read(t.region.remote(), 0, 256);
            ms(5).await;
            t.memory.write(0, &[1; 256]);
            let read = read.await.unwrap();
            read.contains(&0) && read.contains(&1)
        })
    });
    seen(torn_reads.count() > 0);
}

#[test]
fn an_early_completion_is_told_from_visibility_by_others_only() {
    let early = Settings {
        early: 1_000_000,
        ..torn()
    };
    let mut others = 0;
    for seed in 0..SEEDS {
        others += run(seed, early.clone(), |network| async {
            let t = two(network).await;
            let (other, _at_b) = another(&t).await;
            t.to_b
                .write(t.region.remote(), 0, vec![1; 512])
                .await
                .unwrap();
            let theirs = other.read(t.region.remote(), 0, 512).await.unwrap();
            t.to_b.close();
            ms(100).await;
            assert_eq!(t.memory.read(0, 512), [1; 512], "complete: it happens");
            usize::from(theirs.contains(&0))
        });
        run(seed, early.clone(), |network| async {
            let t = two(network).await;
            t.to_b
                .write(t.region.remote(), 0, vec![1; 512])
                .await
                .unwrap();
            let own = t.to_b.read(t.region.remote(), 0, 512).await.unwrap();
            assert_eq!(&own[..], [1; 512]);
        });
    }
    seen(others > 0);
}

#[test]
fn a_connection_that_breaks_in_the_middle_leaves_some_lines_only() {
    let mut kinds = [0; 3];
    for seed in 0..SEEDS {
        let left = run(seed, torn(), |network| async {
            let t = two(network).await;
            let write = t.to_b.write(t.region.remote(), 0, vec![1; 256]);
            ms(t.network.draw(0..=20)).await;
            t.network.lose_connections("a", "b");
            let outcome = write.await;
            ms(100).await;
            let left = t.memory.read(0, 256);
            let count = left.iter().filter(|byte| **byte == 1).count();
            assert!(outcome.is_err() || count == 256);
            count
        });
        kinds[match left {
            0 => 0,
            256 => 2,
            _ => 1,
        }] += 1;
    }
    seen(kinds.iter().all(|kind| *kind > 0));
}

#[test]
fn after_a_death_persisted_lines_are_there_and_of_the_others_some() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..SEEDS {
        let left = run(seed, Settings::rough(), |network| async {
            let t = two(network).await;
            let at = t.region.remote();
            let mut batch = t.to_b.batch();
            drop(batch.write(at, 0, vec![1; 128]));
            let persist = batch.persist(at, vec![(0, 128)]);
            batch.post();
            persist.await.unwrap();
            t.to_b.write(at, 64, vec![2; 256]).await.unwrap();
            ms(100).await;
            t.network.kill("b");
            assert!(is_broken(t.to_b.fetch_add(at, 0, 1).await));
            assert!(is_broken(t.at_b.recv().await));
            assert!(t.b.register(t.memory.clone(), Access::ALL).is_err());
            assert!(t.b.listen("b").await.is_err());
            assert!(is_broken(t.listener.accept().await));
            assert!(matches!(t.a.connect("b").await, Err(Error::Connect { .. })));
            let left = t.memory.durable();
            assert_eq!(left, t.memory.read(0, 1088));
            // The next life, and the same memory.
            let b = t.network.restart("b");
            let region = b.register(t.memory.clone(), Access::ALL).unwrap();
            let listener = b.listen("b").await.unwrap();
            let to_b = t.a.connect("b").await.unwrap();
            let at_b = listener.accept().await.unwrap();
            let read = to_b.read(region.remote(), 0, 1088).await.unwrap();
            assert_eq!(&read[..], left);
            assert!(
                to_b.read(at, 0, 8).await.is_err(),
                "a key of the earlier life"
            );
            drop(at_b);
            left
        });
        assert_eq!(left[..64], [1; 64]);
        assert_eq!(left[320..], [0; 1088 - 320]);
        for (i, line) in left[64..320].chunks(64).enumerate() {
            let old = u8::from(i == 0);
            assert!(line == [old; 64] || line == [2; 64], "{line:?}");
            kept += usize::from(line[0] == 2);
            lost += usize::from(line[0] == old);
        }
    }
    seen(kept > 0 && lost > 0);
}

#[test]
fn a_node_that_stands_still_answers_one_sided_operations_only() {
    run(1, Settings::default(), |network| async {
        let t = two(network).await;
        let at = t.region.remote();
        let flushed = t.b.memory_with(64, PersistMethod::ReadAfterWrite);
        let flushed = t.b.register(flushed, Access::ALL).unwrap();
        t.network.pause("b");
        t.to_b.write(at, 0, &[1][..]).await.unwrap();
        t.to_b
            .persist(flushed.remote(), vec![(0, 8)])
            .await
            .unwrap();
        t.to_b.send(&b"x"[..]).await.unwrap();
        let limit = Duration::from_secs(5);
        assert!(tokio::time::timeout(limit, t.at_b.recv()).await.is_err());
        let persist = t.to_b.persist(at, vec![(0, 1)]);
        let write = t.to_b.write(at, 1, &[2][..]);
        ms(1000).await;
        assert_eq!(t.memory.read(0, 2), [1, 2], "its card goes on");
        assert_eq!(t.memory.durable()[0], 0);
        t.network.resume("b");
        t.at_b.recv().await.unwrap();
        persist.await.unwrap();
        write.await.unwrap();
        assert_eq!(t.memory.durable()[0], 1);
    });
}

#[test]
fn memory_that_was_taken_back_does_not_change_any_more() {
    for seed in 0..SEEDS {
        run(seed, torn(), |network| async {
            let t = two(network).await;
            let write = t.to_b.write(t.region.remote(), 0, vec![1; 1024]);
            ms(t.network.draw(0..=15)).await;
            drop(t.region);
            let then = t.memory.read(0, 1024);
            let _ = write.await;
            ms(100).await;
            assert_eq!(t.memory.read(0, 1024), then);
        });
    }
}

#[test]
fn a_full_disk_refuses_and_says_why() {
    run(1, Settings::default(), |network| async {
        let t = two(network).await;
        t.memory.refuse(Some("no space is left"));
        let refused = t.to_b.persist(t.region.remote(), vec![(0, 8)]).await;
        assert!(
            matches!(&refused, Err(Error::Refused { reason, .. }) if reason == "no space is left"),
            "{refused:?}"
        );
    });
}

#[test]
fn closing_delivers_what_had_arrived_and_then_says_so() {
    run(1, Settings::default(), |network| async {
        let t = two(network).await;
        t.to_b.send(&b"last"[..]).await.unwrap();
        drop(t.to_b);
        t.at_b.closed().await;
        assert!(t.at_b.recv().await.is_ok());
        assert!(is_broken(t.at_b.recv().await));
        assert!(is_broken(t.at_b.send(&b"x"[..]).await));
    });
}

#[test]
#[should_panic(expected = "not over after")]
fn a_test_in_which_nothing_moves_any_more_ends() {
    run(1, Settings::default(), |network| async {
        let t = two(network).await;
        let _ = t.at_b.recv().await;
    });
}

#[test]
fn a_barrier_that_has_begun_ends_after_its_connection_and_is_forgotten() {
    let slow = Settings {
        persist: 50..=50,
        ..Settings::default()
    };
    run(1, slow, |network| async {
        let t = two(network).await;
        let at = t.region.remote();
        t.to_b.write(at, 0, vec![7; 8]).await.unwrap();
        drop(t.to_b.persist(at, vec![(0, 8)]));
        ms(5).await;
        drop((t.to_b, t.at_b));
        ms(20).await;
        drop(t.region);
        assert!(Arc::strong_count(&t.memory) > 1, "it is under way");
        ms(100).await;
        assert_eq!(Arc::strong_count(&t.memory), 1);
        t.network.kill("b");
        assert_eq!(t.memory.read(0, 8), [7; 8]);
    });
    run(2, Settings::rough(), |network| async {
        let t = two(network).await;
        let at = t.region.remote();
        drop(t.to_b.persist(at, vec![(0, 8)]));
        ms(5).await;
        drop((t.to_b, t.at_b, t.region));
        t.network.kill("b");
        ms(500).await;
        assert_eq!(Arc::strong_count(&t.memory), 1);
    });
}

#[test]
fn a_read_may_see_what_was_posted_behind_it_unless_it_was_waited_for() {
    let late = Settings {
        late: 500_000,
        tear_within: 0..=8,
        ..Settings::default()
    };
    let (mut old, mut new, mut added) = (false, false, false);
    for seed in 0..SEEDS {
        run(seed, late.clone(), |network| async {
            let t = two(network).await;
            let at = t.region.remote();
            let mut batch = t.to_b.batch();
            let before = batch.write(at, 0, vec![1; 8]);
            let read = batch.read(at, 0, 8);
            let behind = batch.write(at, 0, vec![2; 8]);
            let word = batch.read(at, 64, 8);
            let add = batch.fetch_add(at, 64, 1);
            let nothing = batch.read(at, 70, 0);
            batch.post();
            before.await.unwrap();
            let read = read.await.unwrap();
            behind.await.unwrap();
            assert!(read == [1; 8][..] || read == [2; 8][..], "{read:?}");
            old |= read == [1; 8][..];
            new |= read == [2; 8][..];
            added |= word.await.unwrap() != [0; 8][..];
            assert_eq!(add.await.unwrap(), 0);
            assert!(nothing.await.unwrap().is_empty());
            // Waited for, it shows what was there.
            let read = t.to_b.read(at, 0, 8).await.unwrap();
            t.to_b.write(at, 0, vec![3; 8]).await.unwrap();
            assert_eq!(read, [2; 8][..]);
        });
    }
    seen(old && new && added);
}

//! Clusters of three to five machines under everything that can happen to them, on a virtual clock.
//!
//! *Fault model.* Machines die with what their disks had not drained, and come back; stand still for longer than a lease; lose
//! each other, also one way; lose the coordinator, or only its answers; disks get slow, are full for a while, fail in the
//! middle of whatever is written, pages of copies decay, and one of the disks is lost. The network delays, tears and loses. The coordinator itself is sound. One schedule is a function of its seed, which every failure prints:
//! `BARTENDER_SIM_SEED=n cargo test -p bartender-dist --test simulation -- --nocapture one`.

mod world;

use bartender_dist::Policy;
use bartender_net::sim::{Network, Settings, run};
use bartender_pm::mutant;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use world::{LEASE, World};

#[derive(Debug, Default, Clone, Copy)]
struct Done {
    answered: u64,
    reads: u64,
    kills: u64,
    refused: u64,
    histories: u64,
    unsearched: u64,
    digest: u64,
}

/// What happens to a cluster for some virtual seconds; then it has to come to rest. With `leases` it is always the primary that
/// is struck, by what lets its lease end while it knows nothing of that.
async fn schedule(
    network: Network,
    machines: usize,
    faults: u64,
    leases: bool,
) -> Result<Done, String> {
    let policy = match network.draw(0..=3) {
        0 => Policy::Degrade,
        _ => Policy::Block,
    };
    let mut world = World::new(network.clone(), machines, policy).await;
    sleep(LEASE * 2).await;
    let (mut kills, mut lost) = (0, false);
    for _ in 0..faults {
        sleep(Duration::from_millis(network.draw(10..=1500))).await;
        world.all_in_sync_are_required().await?;
        let i = network.draw(0..=machines as u64 - 1) as usize;
        let j = network.draw(0..=machines as u64 - 1) as usize;
        // Whoever is primary is worth more attention.
        let i = match (0..machines).find(|&i| world.serves(i)) {
            Some(primary) if leases || network.draw(0..=2) == 0 => primary,
            _ => i,
        };
        let (a, b) = (format!("m{i}"), format!("m{j}"));
        let kind = match leases {
            true => network.draw(23..=27),
            false => network.draw(0..=28),
        };
        match kind {
            0..=2 => {
                world.kill(i).await;
                kills += 1;
            }
            3..=5 => {
                if let Some(down) = (0..machines).find(|&i| !world.is_up(i)) {
                    world.start(down).await;
                }
            }
            6 => world.hold(i),
            7 => (0..machines).for_each(|i| world.go_on(i)),
            8 if i != j => network.cut(&a, &b),
            9 if i != j => network.partition(&[&a], &[&b]),
            10 => {
                let others: Vec<String> = (0..machines)
                    .filter(|&o| o != i)
                    .map(|o| format!("m{o}"))
                    .collect();
                let others: Vec<&str> = others.iter().map(String::as_str).collect();
                network.partition(&[&a], &others);
            }
            11 => network.heal_all(),
            12 => world.cut_coordinator(i, true),
            13 => (0..machines).for_each(|i| world.cut_coordinator(i, false)),
            14 if i != j => network.lose_connections(&a, &b),
            15 => world.unsure(true),
            16 => world.unsure(false),
            17 => world.break_disk(i, network.draw(0..=12)),
            18 => (0..machines).for_each(|i| world.mend_disk(i)),
            19 => world.fill_disk(i, true),
            20 => (0..machines).for_each(|i| world.fill_disk(i, false)),
            22 => world.damage(i),
            21 if !lost => {
                lost = true;
                world.lose(i).await;
            }
            23..=25 => {
                // Longer than its lease, as a rule; then it goes on where it was.
                world.hold(i);
                sleep(Duration::from_millis(network.draw(800..=2500))).await;
                world.go_on(i);
            }
            26 | 27 => {
                world.cut_coordinator(i, true);
                sleep(Duration::from_millis(network.draw(800..=2500))).await;
                world.cut_coordinator(i, false);
            }
            _ => {
                let slow = network.draw(0..=300);
                network.change(|settings| settings.persist = 0..=slow);
            }
        }
    }
    world.all_in_sync_are_required().await?;
    let settled = world.settle().await;
    let (errors, answered, reads, refused) = {
        let ledger = world.ledger.lock().expect("no panic");
        (
            ledger.errors.clone(),
            ledger.answered,
            ledger.reads,
            ledger.refused,
        )
    };
    let history = world.history.clone();
    world.end().await;
    if std::env::var_os("BARTENDER_SIM_TRACE").is_some() {
        network.trace().iter().for_each(|line| println!("{line}"));
    }
    // What must never be, before what has to come.
    if let Some(error) = errors.first() {
        return Err(format!("{error} (and {} more)", errors.len() - 1));
    }
    let history = history.lock().expect("no panic");
    let unsearched = history.check()?;
    settled?;
    Ok(Done {
        answered,
        reads,
        kills,
        refused,
        histories: history.answered(),
        unsearched,
        digest: network.digest(),
    })
}

fn strikes_leases(seed: u64) -> bool {
    seed % 4 == 3
}

fn one(seed: u64) -> Result<Done, String> {
    let mut settings = if seed.is_multiple_of(2) {
        Settings::rough()
    } else {
        Settings::lossy()
    };
    if std::env::var_os("BARTENDER_SIM_TRACE").is_some() {
        settings.trace = 1 << 20;
    }
    let machines = 3 + (seed % 5 / 3) as usize * 2;
    let faults = 12;
    let leases = strikes_leases(seed);
    run(seed, settings, |network| {
        schedule(network, machines, faults, leases)
    })
    .map_err(|error| format!("seed {seed}: {error}"))
}

fn explore(seeds: impl Iterator<Item = u64>, limit: Duration) -> (u64, Done) {
    let start = Instant::now();
    let mut total = Done::default();
    let mut count = 0;
    for seed in seeds {
        match one(seed) {
            Ok(done) => {
                total.answered += done.answered;
                total.reads += done.reads;
                total.kills += done.kills;
                total.refused += done.refused;
                total.histories += done.histories;
                total.unsearched += done.unsearched;
            }
            Err(error) => panic!("{error}"),
        }
        count += 1;
        if start.elapsed() > limit {
            break;
        }
    }
    (count, total)
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn nothing_that_was_answered_is_lost_whatever_happens() {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse().ok());
    if let Some(seed) = number("BARTENDER_SIM_SEED") {
        println!("{:?}", one(seed).expect("the schedule passes"));
        return;
    }
    let first = number("BARTENDER_SIM_FIRST").unwrap_or(0);
    let limit = Duration::from_secs(number("BARTENDER_SIM_SECONDS").unwrap_or(20));
    let (count, total) = explore(first.., limit);
    println!("{count} schedules: {total:?}");
    assert!(total.answered > count && total.reads > 0 && total.kills > 0);
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 4] {
        let (a, b) = (one(seed).expect("passes"), one(seed).expect("passes"));
        assert_eq!(a.digest, b.digest);
        assert_eq!(a.answered, b.answered);
    }
}

/// A cluster of three in which nothing happens by chance, at work; and who is primary.
async fn sound(network: &Network, policy: Policy) -> (World, usize) {
    let world = World::new(network.clone(), 3, policy).await;
    for _ in 0..100 {
        sleep(Duration::from_millis(100)).await;
        if let Some(primary) = (0..3).find(|&i| world.all_follow(i)) {
            return (world, primary);
        }
    }
    panic!("nobody serves: {}", world.describe().await);
}

/// Whether something is answered in the next seconds.
async fn goes_on(world: &World) -> bool {
    let answered = || world.ledger.lock().expect("no panic").answered;
    // What is on its way.
    sleep(LEASE).await;
    let before = answered();
    sleep(LEASE * 4).await;
    answered() > before
}

async fn ends_well(mut world: World) {
    world.settle().await.expect("all are the same");
    let errors = world.ledger.lock().expect("no panic").errors.clone();
    assert_eq!(errors, Vec::<String>::new());
    let history = world.history.lock().expect("no panic").check();
    history.expect("it is linearizable");
    world.end().await;
}

#[test]
#[cfg_attr(miri, ignore = "seconds")]
fn a_backup_whose_disk_is_full_holds_commits_up_or_is_dropped_and_comes_back() {
    for (policy, dropped) in [(Policy::Block, false), (Policy::Degrade, true)] {
        run(1, Settings::default(), |network| async move {
            let (world, primary) = sound(&network, policy).await;
            let backup = (primary + 1) % 3;
            world.fill_disk(backup, true);
            // Nobody's home grows yet.
            while !world.is_grown(primary) {
                sleep(Duration::from_millis(100)).await;
            }
            assert_eq!(goes_on(&world).await, dropped, "{policy:?}");
            let in_sync = world.record().await.expect("it is there").in_sync;
            assert_eq!(in_sync.len(), if dropped { 2 } else { 3 }, "{policy:?}");
            assert!(world.serves(primary), "nobody has to take over");
            world.fill_disk(backup, false);
            assert!(goes_on(&world).await, "{policy:?}");
            ends_well(world).await;
        });
    }
}

#[test]
#[cfg_attr(miri, ignore = "seconds")]
fn a_primary_whose_disk_is_full_refuses_what_needs_space_and_nothing_else() {
    run(1, Settings::default(), |network| async move {
        let (world, primary) = sound(&network, Policy::Block).await;
        world.fill_disk(primary, true);
        let epoch = world.record().await.expect("it is there").epoch;
        let refused = || world.ledger.lock().expect("no panic").refused;
        while refused() < 3 {
            sleep(Duration::from_millis(100)).await;
        }
        assert!(goes_on(&world).await);
        assert!(world.serves(primary));
        assert_eq!(world.record().await.expect("it is there").epoch, epoch);
        world.fill_disk(primary, false);
        ends_well(world).await;
    });
}

/// While the coordinator takes its time over removing a backup that is away, it comes back.
fn comes_back_while_it_is_removed() -> Result<(), String> {
    run(1, Settings::default(), |network| async move {
        let (world, primary) = sound(&network, Policy::Degrade).await;
        let backup = (primary + 1) % 3;
        world.late(400);
        network.partition(&[&format!("m{primary}")], &[&format!("m{backup}")]);
        while world.record().await.expect("it is there").in_sync.len() == 3 {
            sleep(Duration::from_millis(5)).await;
        }
        // The primary has not heard of that.
        network.heal_all();
        for _ in 0..1000 {
            sleep(Duration::from_millis(5)).await;
            world.all_in_sync_are_required().await?;
        }
        world.late(0);
        ends_well(world).await;
        Ok(())
    })
}

#[test]
#[cfg_attr(miri, ignore = "seconds")]
fn a_backup_that_comes_back_while_it_is_removed_is_waited_for_if_it_is_in_sync() {
    comes_back_while_it_is_removed().expect("always");
    let rule = "admit_removed";
    let noticed = mutant::with(rule, comes_back_while_it_is_removed);
    assert!(noticed.is_err(), "nothing noticed that {rule}");
}

/// What was lost, or seen twice, or stale, because a rule was switched off. That it does not come to rest is not enough.
fn is_caught(rule: &'static str, seeds: impl Iterator<Item = u64>) {
    is_caught_by(|error| !error.contains("does not settle"), rule, seeds);
}

/// The same, by an error that `counts`.
fn is_caught_by(
    counts: impl Fn(&String) -> bool,
    rule: &'static str,
    seeds: impl Iterator<Item = u64>,
) {
    let mut errors = seeds.filter_map(|seed| mutant::with(rule, || one(seed)).err());
    let caught = errors.find(counts);
    let caught = caught.unwrap_or_else(|| panic!("nothing noticed that {rule}"));
    println!("{rule}: {caught}");
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn acknowledging_before_all_have_it_is_noticed() {
    is_caught("ack_early", 0..400);
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn repairing_what_is_sound_from_what_is_damaged_is_noticed() {
    is_caught("scrub_backwards", 0..400);
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn a_primary_that_nothing_fences_is_noticed() {
    is_caught("no_fencing", (0..1600).filter(|&seed| strikes_leases(seed)));
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn reading_after_the_lease_is_noticed() {
    is_caught(
        "no_lease_wait",
        (0..1600).filter(|&seed| strikes_leases(seed)),
    );
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn reading_without_asking_for_the_lease_is_no_linearizable_history() {
    is_caught_by(
        |error| error.contains("not linearizable"),
        "stale_reads",
        (0..1600).filter(|&seed| strikes_leases(seed)),
    );
}

//! Races over a cluster's records: whoever bids, exactly one wins; whoever lost its reign changes nothing.

use super::*;
use crate::Embedded;
use crate::coordinator::Counted;
use bartender_pm::mutant;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(600);

async fn cluster(coordinator: &Arc<dyn Coordinator>, at: &str, story: &str) -> ClusterMap {
    let name: String = format!("{at}{story}").replace('/', "-");
    ClusterMap::new(coordinator.clone(), &name).unwrap()
}

async fn member(map: &ClusterMap, name: &str) -> Identity {
    let lease = map.coordinator().grant(LONG).await.unwrap();
    map.join(name, &format!("{name}:7000"), lease.id)
        .await
        .unwrap()
}

/// Its lease ends.
async fn dies(map: &ClusterMap, who: &Identity) {
    map.coordinator().revoke(who.lease).await.unwrap();
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn new() -> NewRegion {
    NewRegion {
        uuid: RegionId([7; 16]),
        replicas: names(&["a", "b", "c"]),
        in_sync: names(&["a", "b", "c"]),
        policy: Policy::Block,
    }
}

fn done(verdict: Verdict) -> Seen<RegionRecord> {
    match verdict {
        Verdict::Done(seen) => seen,
        Verdict::Refused(why) => panic!("{why:?}"),
    }
}

fn refused(verdict: Verdict) -> Refusal {
    match verdict {
        Verdict::Done(seen) => panic!("{seen:?}"),
        Verdict::Refused(why) => why,
    }
}

/// All that hold on every coordinator.
pub(crate) async fn stories(coordinator: &Arc<dyn Coordinator>, at: &str) {
    lives_are_numbered(&cluster(coordinator, at, "lives").await).await;
    of_two_creators_one_does(&cluster(coordinator, at, "create").await).await;
    of_two_bidders_one_wins(&cluster(coordinator, at, "bid").await).await;
    nobody_bids_against_a_lease(&cluster(coordinator, at, "alive").await).await;
    only_the_reigning_change_who_is_in_sync(&cluster(coordinator, at, "sync").await).await;
    a_primary_opens_anew_in_the_next_epoch(&cluster(coordinator, at, "anew").await).await;
    a_lost_answer_is_found_again(&cluster(coordinator, at, "lost").await).await;
    a_later_reign_is_no_change_of_this_one(&cluster(coordinator, at, "later").await).await;
}

async fn lives_are_numbered(map: &ClusterMap) {
    let first = member(map, "a").await;
    let second = member(map, "a").await;
    assert!(second.incarnation > first.incarnation);
    // The end of the first life does not take the second's record along.
    dies(map, &first).await;
    let seen = map.member("a").await.unwrap().unwrap().record;
    assert_eq!(seen.incarnation, second.incarnation);
    assert_eq!(seen.address, "a:7000");
    dies(map, &second).await;
    assert_eq!(map.member("a").await.unwrap(), None);
    assert!(member(map, "a").await.incarnation > second.incarnation);
}

async fn of_two_creators_one_does(map: &ClusterMap) {
    let (a, b) = (member(map, "a").await, member(map, "b").await);
    let one = |me: Identity, map: ClusterMap| {
        tokio::spawn(async move { map.create_region("r", new(), &me).await.unwrap() })
    };
    let (x, y) = (one(a, map.clone()), one(b, map.clone()));
    let verdicts = [x.await.unwrap(), y.await.unwrap()];
    let won = verdicts.iter().filter(|v| matches!(v, Verdict::Done(_)));
    assert_eq!(won.count(), 1, "{verdicts:?}");
    let seen = map.region("r").await.unwrap().unwrap();
    for verdict in verdicts {
        match verdict {
            Verdict::Done(mine) => assert_eq!(mine, seen),
            Verdict::Refused(why) => assert_eq!(why, Refusal::Exists(seen.clone())),
        }
    }
    let primary = map.primary("r").await.unwrap().unwrap();
    assert_eq!(primary.record.member, seen.record.primary);
    assert_eq!((primary.record.epoch, seen.record.epoch), (1, 1));
    let bad = NewRegion {
        in_sync: names(&["b"]),
        ..new()
    };
    let a = member(map, "a").await;
    let error = map.create_region("q", bad, &a).await.unwrap_err();
    assert!(matches!(error, Error::BadRequest { .. }), "{error}");
}

/// What explains a refusal is read one after the other: who reigns, and then a record that may be of a later reign.
async fn a_later_reign_is_no_change_of_this_one(map: &ClusterMap) {
    let (a, b) = (member(map, "a").await, member(map, "b").await);
    let seen = done(map.create_region("r", new(), &a).await.unwrap());
    let reigning = map.primary("r").await.unwrap();
    dies(map, &a).await;
    done(map.take_over("r", &seen, &b, 17).await.unwrap());
    let attempt = attempt::Attempt::Amend(&seen);
    let verdict = map.explain("r", &a, attempt, reigning).await.unwrap();
    assert_eq!(refused(verdict), Refusal::NotPrimary);
}

async fn of_two_bidders_one_wins(map: &ClusterMap) {
    let [a, b, c] = [
        member(map, "a").await,
        member(map, "b").await,
        member(map, "c").await,
    ];
    let seen = done(map.create_region("r", new(), &a).await.unwrap());
    dies(map, &a).await;
    let one = |me: Identity, map: ClusterMap, seen: Seen<RegionRecord>| {
        tokio::spawn(async move { map.take_over("r", &seen, &me, 17).await.unwrap() })
    };
    let x = one(b, map.clone(), seen.clone());
    let y = one(c, map.clone(), seen.clone());
    let verdicts = [x.await.unwrap(), y.await.unwrap()];
    let now = map.region("r").await.unwrap().unwrap();
    let won = verdicts
        .iter()
        .filter(|v| **v == Verdict::Done(now.clone()));
    assert_eq!(won.count(), 1, "{verdicts:?}");
    let lost = Verdict::Refused(Refusal::Changed(now.clone()));
    assert_eq!(verdicts.iter().filter(|v| **v == lost).count(), 1);
    let now = now.record;
    assert_eq!((now.epoch, now.last_failover), (2, Some(17)));
    assert_eq!(now.in_sync, names(&["b", "c"]));
    assert_eq!(now.replicas, new().replicas);
    // The old one comes back: it lacks what was committed since.
    let a = member(map, "a").await;
    let now = map.region("r").await.unwrap().unwrap();
    let why = refused(map.take_over("r", &now, &a, 18).await.unwrap());
    assert_eq!(why, Refusal::NotInSync);
    let why = refused(map.next_epoch("r", &seen, &a).await.unwrap());
    assert!(matches!(why, Refusal::Changed(s) if s == now));
    let picture = map.picture().await.unwrap();
    assert_eq!(picture.regions["r"], now);
    assert_eq!(picture.primaries["r"].record.epoch, 2);
    assert_eq!(picture.members.len(), 3);
}

async fn nobody_bids_against_a_lease(map: &ClusterMap) {
    let (a, b) = (member(map, "a").await, member(map, "b").await);
    let seen = done(map.create_region("r", new(), &a).await.unwrap());
    let why = refused(map.take_over("r", &seen, &b, 0).await.unwrap());
    assert_eq!(why, Refusal::PrimaryAlive(a.primary(1)));
    dies(map, &a).await;
    // Nor without one of its own.
    dies(map, &b).await;
    let error = map.take_over("r", &seen, &b, 0).await.unwrap_err();
    assert!(matches!(error, Error::LeaseEnded { .. }), "{error}");
    assert_eq!(map.region("r").await.unwrap(), Some(seen.clone()));
    let why = refused(
        map.take_over("no", &seen, &member(map, "b").await, 0)
            .await
            .unwrap(),
    );
    assert_eq!(why, Refusal::NoSuchRegion);
}

async fn only_the_reigning_change_who_is_in_sync(map: &ClusterMap) {
    let (a, b) = (member(map, "a").await, member(map, "b").await);
    let first = done(map.create_region("r", new(), &a).await.unwrap());
    let less = done(map.remove_from_in_sync("r", &first, &a, "c").await.unwrap());
    assert_eq!(less.record.in_sync, names(&["a", "b"]));
    assert_eq!(less.record.epoch, 1);
    // By what it saw before, not again.
    let why = refused(map.add_to_in_sync("r", &first, &a, "c").await.unwrap());
    assert_eq!(why, Refusal::Changed(less.clone()));
    let why = refused(map.remove_from_in_sync("r", &less, &b, "c").await.unwrap());
    assert_eq!(why, Refusal::NotPrimary);
    for nobody in ["a", "d"] {
        let why = refused(
            map.remove_from_in_sync("r", &less, &a, nobody)
                .await
                .unwrap(),
        );
        assert_eq!(why, Refusal::NotABackup);
        let why = refused(map.add_to_in_sync("r", &less, &a, nobody).await.unwrap());
        assert_eq!(why, Refusal::NotABackup);
    }
    // Who is not in sync does not bid.
    let c = member(map, "c").await;
    dies(map, &a).await;
    let why = refused(map.take_over("r", &less, &c, 0).await.unwrap());
    assert_eq!(why, Refusal::NotInSync);
    // A primary whose lease is over changes nothing, before another took over and after.
    let why = refused(map.add_to_in_sync("r", &less, &a, "c").await.unwrap());
    assert_eq!(why, Refusal::NotPrimary);
    let taken = done(map.take_over("r", &less, &b, 0).await.unwrap());
    let why = refused(map.add_to_in_sync("r", &less, &a, "c").await.unwrap());
    assert_eq!(why, Refusal::NotPrimary);
    let why = refused(map.add_to_in_sync("r", &taken, &a, "a").await.unwrap());
    assert_eq!(why, Refusal::NotPrimary);
    let back = done(map.add_to_in_sync("r", &taken, &b, "a").await.unwrap());
    assert_eq!(back.record.in_sync, names(&["b", "a"]));
    let same = done(map.add_to_in_sync("r", &back, &b, "a").await.unwrap());
    assert_eq!(same.record, back.record);
}

async fn a_primary_opens_anew_in_the_next_epoch(map: &ClusterMap) {
    let (a, b) = (member(map, "a").await, member(map, "b").await);
    let first = done(map.create_region("r", new(), &a).await.unwrap());
    let why = refused(map.next_epoch("r", &first, &b).await.unwrap());
    assert_eq!(why, Refusal::NotPrimary);
    // The old lease still runs.
    let again = member(map, "a").await;
    let second = done(map.next_epoch("r", &first, &again).await.unwrap());
    assert_eq!(second.record.epoch, 2);
    assert_eq!(second.record.in_sync, first.record.in_sync);
    assert_eq!(second.record.last_failover, None);
    // Its end does not end the new reign.
    dies(map, &a).await;
    let reign = map.primary("r").await.unwrap().unwrap().record;
    assert_eq!(reign, again.primary(2));
    let why = refused(
        map.remove_from_in_sync("r", &second, &a, "c")
            .await
            .unwrap(),
    );
    assert_eq!(why, Refusal::NotPrimary);
    // An earlier life does not follow a later one.
    let why = refused(map.next_epoch("r", &second, &a).await.unwrap());
    assert_eq!(why, Refusal::PrimaryAlive(again.primary(2)));
    dies(map, &again).await;
    let third = member(map, "a").await;
    // A bid against itself is the same.
    let third = done(map.take_over("r", &second, &third, 5).await.unwrap());
    assert_eq!((third.record.epoch, third.record.last_failover), (3, None));
    assert_eq!(third.record.in_sync, first.record.in_sync);
}

async fn a_lost_answer_is_found_again(map: &ClusterMap) {
    let (a, b) = (member(map, "a").await, member(map, "b").await);
    let first = done(map.create_region("r", new(), &a).await.unwrap());
    assert_eq!(
        done(map.create_region("r", new(), &a).await.unwrap()),
        first
    );
    dies(map, &a).await;
    let second = done(map.take_over("r", &first, &b, 0).await.unwrap());
    assert_eq!(
        done(map.take_over("r", &first, &b, 0).await.unwrap()),
        second
    );
    let b = member(map, "b").await;
    let third = done(map.next_epoch("r", &second, &b).await.unwrap());
    assert_eq!(done(map.next_epoch("r", &second, &b).await.unwrap()), third);
    let fourth = done(map.remove_from_in_sync("r", &third, &b, "c").await.unwrap());
    let why = refused(map.remove_from_in_sync("r", &third, &b, "c").await.unwrap());
    assert_eq!(why, Refusal::Changed(fourth));
}

#[tokio::test(start_paused = true)]
async fn steps_take_the_calls_that_are_promised() {
    let counted = Arc::new(Counted::new(Embedded::volatile()));
    let map = ClusterMap::new(counted.clone(), "x").unwrap();
    let (a, b) = (member(&map, "a").await, member(&map, "b").await);
    let mut before = counted.calls();
    let mut took = || {
        let now = counted.calls();
        now - std::mem::replace(&mut before, now)
    };
    let seen = done(map.create_region("r", new(), &a).await.unwrap());
    assert_eq!(took(), 1);
    let seen = done(map.remove_from_in_sync("r", &seen, &a, "c").await.unwrap());
    assert_eq!(took(), 1);
    dies(&map, &a).await;
    assert_eq!(took(), 1);
    let seen = done(map.take_over("r", &seen, &b, 0).await.unwrap());
    assert_eq!(took(), 1);
    let b = member(&map, "b").await;
    took();
    done(map.next_epoch("r", &seen, &b).await.unwrap());
    assert_eq!(took(), 2);
    map.coordinator().keep_alive(b.lease).await.unwrap();
    assert_eq!((took(), counted.beats()), (0, 1));
}

/// Bids against a lease that runs succeed only when the rule is off.
#[tokio::test(start_paused = true)]
async fn a_transaction_that_ignores_its_comparisons_is_noticed() {
    let map = ClusterMap::new(Arc::new(Embedded::volatile()), "x").unwrap();
    let (a, b) = (member(&map, "a").await, member(&map, "b").await);
    let seen = done(map.create_region("r", new(), &a).await.unwrap());
    // The switch is the thread's, and nothing below waits.
    let bid = || {
        let mut bid = std::pin::pin!(map.take_over("r", &seen, &b, 0));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match bid.as_mut().poll(&mut context) {
            std::task::Poll::Ready(verdict) => verdict.unwrap(),
            std::task::Poll::Pending => unreachable!("the embedded one answers at once"),
        }
    };
    assert!(matches!(bid(), Verdict::Refused(_)));
    if mutant::ON {
        let broken = mutant::with("transaction_without_compares", bid);
        assert!(matches!(broken, Verdict::Done(_)));
    }
}

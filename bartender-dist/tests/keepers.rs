//! Memory nodes keep what programs have left, and give it to whoever wants to use it next; operators change who has copies.
//!
//! On a simulated network and a virtual clock; each story is a function of its seed.

#[allow(dead_code)]
#[path = "world/disk.rs"]
mod disk;

use bartender_dist::{
    ClusterMap, Embedded, Hosting, Node, NodeOptions, Policy, RegionRecord, Role, Serving, Verdict,
    Wanted, cluster_status, node_status,
};
use bartender_net::sim::{Network, Settings, run};
use bartender_net::{Fabric, Roles};
use bartender_pm::medium::sim::{Image, SimKind};
use bartender_pm::{Durability, Record, mutant};
use disk::Disk;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

const REGION: &str = "words";
const LEASE: Duration = Duration::from_millis(1000);
/// Virtual time after which something that should happen does not.
const LONG: Duration = Duration::from_secs(30);

struct Machine {
    disk: Arc<Disk>,
    left: Option<Image>,
    node: Option<Node>,
}

struct Cluster {
    network: Network,
    coordinator: Arc<Embedded>,
    machines: BTreeMap<&'static str, Machine>,
}

impl Cluster {
    fn new(network: Network) -> Cluster {
        Cluster {
            network,
            coordinator: Arc::new(Embedded::volatile()),
            machines: BTreeMap::new(),
        }
    }

    fn map(&self) -> ClusterMap {
        ClusterMap::new(self.coordinator.clone(), "test").expect("a name")
    }

    async fn record(&self) -> RegionRecord {
        let seen = self.map().region(REGION).await.expect("sound");
        seen.expect("there is a region").record
    }

    /// A machine starts, with what its disk has.
    async fn start(&mut self, name: &'static str, memory_node: bool) {
        let (mut options, network) = (NodeOptions::new(name, "test"), &self.network);
        options = options.lease(LEASE).beat(Duration::from_millis(20));
        if memory_node {
            options = options.keep_all();
        }
        let (machine, fabric) = match self.machines.get_mut(name) {
            Some(machine) => (machine, network.restart(name)),
            None => {
                let new = Machine {
                    disk: Arc::new(Disk::new(SimKind::Disk)),
                    left: None,
                    node: None,
                };
                let machine = self.machines.entry(name).or_insert(new);
                (machine, network.node(name))
            }
        };
        if let Some(image) = machine.left.take() {
            machine.disk.restart(image).await;
        }
        let disk = machine.disk.clone();
        let node = Node::start(options, name, fabric, self.coordinator.clone(), disk);
        machine.node = Some(node.await.expect("a name of its own"));
    }

    /// A machine dies; `with_disk` for good.
    async fn kill(&mut self, name: &'static str, with_disk: bool) {
        let seed = self.network.draw(0..=u64::MAX);
        let machine = self.machines.get_mut(name).expect("it is there");
        machine.left = Some(match with_disk {
            true => Image::default(),
            false => machine.disk.crash(seed),
        });
        self.network.kill(name);
        machine.node = None;
        sleep(Duration::from_millis(1)).await;
    }

    fn host(&self, name: &str, replicas: Option<&[&str]>) -> Hosting {
        let node = self.machines[name].node.as_ref().expect("it runs");
        let wanted = replicas.map(|names| Wanted {
            replicas: names.iter().map(|name| (*name).into()).collect(),
            policy: Policy::Block,
        });
        node.host(REGION, wanted)
    }

    /// Waits until the record is so.
    async fn until(&self, what: &str, so: impl Fn(&RegionRecord) -> bool) -> RegionRecord {
        for _ in 0..LONG.as_millis() / 10 {
            let record = self.record().await;
            if so(&record) {
                return record;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("never {what}: {:?}", self.record().await);
    }
}

async fn turn(hosting: &mut Hosting) -> Serving {
    let served = timeout(LONG, hosting.serve()).await;
    served.expect("its turn comes").expect("it has not left")
}

fn word(serving: &Serving) -> u64 {
    // SAFETY: inside the home, which is larger; one thread.
    unsafe {
        serving
            .region()
            .base()
            .add(4096)
            .cast::<u64>()
            .read_volatile()
    }
}

async fn set(serving: &Serving, value: u64) {
    let region = serving.region();
    let mut writer = region.writer().expect("usable");
    let mut record = Record::new();
    // SAFETY: as above; nobody else reads or writes it.
    unsafe {
        region.base().add(4096).cast::<u64>().write_volatile(value);
    }
    record.change(4096, &value.to_le_bytes());
    writer
        .append(&mut record, Durability::Eventual)
        .expect("room");
    drop(writer);
    serving.flush().await.expect("the primary");
}

fn story<F: Future<Output = ()>>(seed: u64, story: impl FnOnce(Cluster) -> F) {
    run(seed, Settings::rough(), |network| async move {
        story(Cluster::new(network)).await;
    });
}

fn in_sync(n: usize) -> impl Fn(&RegionRecord) -> bool {
    move |record| record.in_sync.len() == n
}

/// An application and two memory nodes, with 7 in the region.
async fn app_and_nodes(cluster: &mut Cluster) -> (Hosting, Serving) {
    for (name, node) in [("app", false), ("k1", true), ("k2", true)] {
        cluster.start(name, node).await;
    }
    let mut hosting = cluster.host("app", Some(&["app", "k1", "k2"]));
    let serving = turn(&mut hosting).await;
    cluster.until("all in sync", in_sync(3)).await;
    set(&serving, 7).await;
    (hosting, serving)
}

async fn an_application_comes_back(mut cluster: Cluster, without_disk: bool) {
    let gone = app_and_nodes(&mut cluster).await;
    cluster.kill("app", without_disk).await;
    drop(gone);
    let kept = cluster.until("kept", |r| r.primary != "app").await;
    assert!(!kept.in_sync.contains(&"app".to_owned()), "{kept:?}");
    cluster.start("app", false).await;
    let mut hosting = cluster.host("app", None);
    let serving = turn(&mut hosting).await;
    assert_eq!(word(&serving), 7);
    set(&serving, 8).await;
    cluster.until("all in sync", in_sync(3)).await;
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn memory_nodes_keep_what_an_application_left_and_hand_it_over_when_it_comes_back() {
    for seed in 0..6 {
        story(seed, |cluster| an_application_comes_back(cluster, false));
    }
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn an_application_on_an_empty_machine_gets_everything() {
    for seed in 0..6 {
        story(seed, |cluster| an_application_comes_back(cluster, true));
    }
}

fn fails(rule: &'static str, test: impl Fn()) {
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        mutant::with(rule, &test);
    }));
    assert!(failed.is_err(), "nothing noticed that {rule}");
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn a_keeper_that_stays_is_noticed() {
    fails("keeper_stays", || {
        story(0, |cluster| an_application_comes_back(cluster, false));
    });
}

/// `z` is to go on, though `k1` has as much and a better name.
async fn another_application_goes_on(mut cluster: Cluster) {
    for (name, node) in [("app", false), ("k1", true), ("k2", true), ("z", false)] {
        cluster.start(name, node).await;
    }
    let mut hosting = cluster.host("app", Some(&["app", "k1", "k2", "z"]));
    let first = turn(&mut hosting).await;
    let mut other = cluster.host("z", None);
    let waits = tokio::spawn(async move { turn(&mut other).await });
    cluster.until("all in sync", in_sync(4)).await;
    set(&first, 7).await;
    let epoch = first.epoch();
    cluster.kill("app", false).await;
    drop((first, hosting));
    let second = waits.await.expect("no panic");
    assert_eq!((second.epoch(), word(&second)), (epoch + 1, 7), "at once");
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn of_those_in_sync_an_application_goes_before_every_memory_node() {
    for seed in 0..6 {
        story(seed, another_application_goes_on);
    }
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn bids_by_name_alone_are_noticed() {
    fails("keepers_first", || {
        (0..6).for_each(|seed| story(seed, another_application_goes_on));
    });
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn who_gives_a_region_back_gets_it_again_if_nobody_else_waits() {
    story(1, |mut cluster| async move {
        let (mut hosting, serving) = app_and_nodes(&mut cluster).await;
        drop(serving);
        sleep(LEASE * 3).await;
        let again = turn(&mut hosting).await;
        assert_eq!(word(&again), 7);
        // With somebody else who waits: theirs, and nobody's machine died.
        cluster.start("z", false).await;
        let map = cluster.map();
        let seen = map.region(REGION).await.expect("sound").expect("there");
        let replicas = ["app", "k1", "k2", "z"].map(String::from).to_vec();
        let changed = map.set_replicas(REGION, &seen, replicas).await;
        assert!(matches!(changed, Ok(Verdict::Done(_))), "{changed:?}");
        let mut other = cluster.host("z", None);
        let waits = tokio::spawn(async move { turn(&mut other).await });
        cluster.until("all in sync", in_sync(4)).await;
        set(&again, 9).await;
        drop(again);
        let other = waits.await.expect("no panic");
        assert_eq!(word(&other), 9);
        // And back.
        let waits = tokio::spawn(async move { turn(&mut hosting).await });
        cluster.until("all in sync", in_sync(4)).await;
        drop(other);
        assert_eq!(word(&waits.await.expect("no panic")), 9);
    });
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn a_dead_machine_is_replaced_while_its_region_is_used() {
    for seed in 0..6 {
        story(seed, |mut cluster| async move {
            let (_hosting, serving) = app_and_nodes(&mut cluster).await;
            cluster.kill("k1", true).await;
            cluster.start("k3", true).await;
            let map = cluster.map();
            loop {
                let seen = map.region(REGION).await.expect("sound").expect("there");
                let replicas = ["app", "k2", "k3"].map(String::from).to_vec();
                match map.set_replicas(REGION, &seen, replicas).await {
                    Ok(Verdict::Done(_)) => break,
                    Ok(Verdict::Refused(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            set(&serving, 8).await;
            let record = cluster.until("replaced", in_sync(3)).await;
            assert!(record.in_sync.contains(&"k3".to_owned()), "{record:?}");
            set(&serving, 9).await;
            let mut lags = serving.lags();
            lags.sort_by(|a, b| a.backup.cmp(&b.backup));
            let names: Vec<&str> = lags.iter().map(|lag| lag.backup.as_str()).collect();
            assert_eq!(names, ["k2", "k3"], "the dead one holds nobody up");
            // One that comes back the same day is a replica anew.
            cluster.start("k1", true).await;
            let seen = map.region(REGION).await.expect("sound").expect("there");
            let replicas = ["app", "k1", "k2", "k3"].map(String::from).to_vec();
            let changed = map.set_replicas(REGION, &seen, replicas).await;
            assert!(matches!(changed, Ok(Verdict::Done(_))), "{changed:?}");
            cluster.until("back", in_sync(4)).await;
            // Its primary cannot be taken away.
            let seen = map.region(REGION).await.expect("sound").expect("there");
            let without = map.set_replicas(REGION, &seen, vec!["k1".into()]).await;
            assert!(without.is_err(), "{without:?}");
        });
    }
}

#[test]
#[cfg_attr(miri, ignore = "minutes")]
fn the_status_says_who_is_what_and_who_does_not_answer() {
    story(1, |mut cluster| async move {
        let (_hosting, serving) = app_and_nodes(&mut cluster).await;
        set(&serving, 8).await;
        sleep(LEASE).await;
        let patience = Duration::from_secs(1);
        let network = cluster.network.clone();
        let operator: Arc<dyn Fabric> = network.node_with_roles("operator", Roles::READER);
        let status = cluster_status(&cluster.map(), &operator, patience).await;
        let status = status.expect("sound");
        assert_eq!(status.regions[0].reigning.as_deref(), Some("app"));
        let app = status.of("app", REGION).expect("it answers");
        assert_eq!(app.role, Role::Primary);
        assert!(
            app.counts.commits >= 2 && app.counts.installed >= 2,
            "{app:?}"
        );
        assert_eq!(app.committed, serving.region().committed());
        for name in ["k1", "k2"] {
            let own = status.of(name, REGION).expect("it answers");
            assert_eq!((own.role, own.taker), (Role::Backup, false));
            assert_eq!(own.committed, app.committed);
            let seen = status.backup(&status.regions[0], name).expect("known");
            assert!(
                seen.live && seen.required && seen.lag_bytes == 0,
                "{seen:?}"
            );
        }
        network.partition(&["operator"], &["k1"]);
        let status = cluster_status(&cluster.map(), &operator, patience).await;
        let silent = |name| {
            let members = &status.as_ref().expect("sound").members;
            let member = members.iter().find(|m| m.name == name);
            member.expect("a member").silent.is_some()
        };
        assert_eq!((silent("k1"), silent("k2")), (true, false));
        let nobody = network.node_with_roles("nobody", Roles::NONE);
        assert!(node_status(&*nobody, "k2", "k2", patience).await.is_err());
    });
}

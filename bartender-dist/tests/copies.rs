//! What takes long, or is large, over TCP and with real threads: copies that a disk takes its time over, records of any size that the
//! log takes. Nothing here depends on how long anything takes, but a limit after which the test has failed.

use bartender_dist::{
    ClusterMap, Coordinator, Embedded, Error, Folder, Node, NodeOptions, Policy, Result, Serving,
    Store, Wanted,
};
use bartender_net::{TcpFabric, TcpOptions};
use bartender_pm::{Installing, Options, Record, Region, Replication, Standby};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

const LOG: u64 = 64 << 10;
/// Long after everything should be over.
const LIMIT: Duration = Duration::from_secs(60);

/// A door that is shut at first, or open.
#[derive(Debug, Default)]
struct Door(Mutex<bool>, Condvar);

impl Door {
    fn pass(&self) {
        let open = self.0.lock().expect("no panic");
        drop(self.1.wait_while(open, |open| !*open).expect("no panic"));
    }

    fn open(&self) {
        *self.0.lock().expect("no panic") = true;
        self.1.notify_all();
    }
}

/// Copies in a folder; making one waits at a door, and opening one at another.
#[derive(Debug)]
struct Slow {
    folder: Folder,
    door: Arc<Door>,
    opens: Arc<Door>,
    installs: Arc<AtomicU64>,
}

impl Store for Slow {
    fn standby(&self, region: &str) -> Result<Option<Standby>> {
        self.opens.pass();
        self.folder.standby(region)
    }

    fn set_aside(&self, region: &str) -> Result<()> {
        self.folder.set_aside(region)
    }

    fn install(&self, region: &str, header: &[u8]) -> Result<Installing> {
        self.installs.fetch_add(1, Ordering::Relaxed);
        self.door.pass();
        self.folder.install(region, header)
    }

    fn create(&self, region: &str) -> Result<[u8; 16]> {
        self.folder.create(region)
    }

    fn primary(&self, region: &str, epoch: u64, by: Arc<dyn Replication>) -> Result<Region> {
        self.folder.primary(region, epoch, by)
    }
}

/// One transaction of `len` bytes, durable on all replicas that count.
fn commit(serving: &Serving, value: u8, len: usize) {
    let region = serving.region();
    let bytes = vec![value; len];
    region.extend(8192 + len as u64).expect("room");
    let mut record = Record::new();
    let mut writer = region.writer().expect("usable");
    record.change(8192, &bytes);
    let ticket = writer.append(&mut record, Default::default());
    let seq = ticket.expect("it fits").seq;
    drop(writer);
    region.wait_durable(seq).expect("it is the primary");
}

struct Pair {
    coordinator: Arc<Embedded>,
    door: Arc<Door>,
    /// Of the next node.
    opens: Arc<Door>,
    installs: Arc<AtomicU64>,
    lease: Duration,
    log: u64,
}

impl Pair {
    fn new(lease: Duration, log: u64) -> Pair {
        let opens = Arc::new(Door::default());
        opens.open();
        Pair {
            coordinator: Arc::new(Embedded::volatile()),
            door: Arc::default(),
            opens,
            installs: Arc::default(),
            lease,
            log,
        }
    }

    async fn node(&self, name: &str, folder: &Path) -> Node {
        let data = folder.join(name);
        std::fs::create_dir(&data).expect("a folder");
        let mut options = Options::new();
        options.max_size(512 << 20).log_size(self.log);
        let store = Slow {
            folder: Folder::new(data, options),
            door: self.door.clone(),
            opens: self.opens.clone(),
            installs: self.installs.clone(),
        };
        let fabric = Arc::new(TcpFabric::insecure(
            Handle::current(),
            TcpOptions::default(),
        ));
        let node = NodeOptions::new(name, "test")
            .lease(self.lease)
            .scrub_every(None);
        let (coordinator, store) = (self.coordinator.clone(), Arc::new(store));
        Node::start(node, "127.0.0.1:0", fabric, coordinator, store)
            .await
            .expect("it listens")
    }

    /// The first one, which is the primary.
    async fn primary(&self, folder: &Path) -> (Node, Arc<Serving>) {
        let node = self.node("a", folder).await;
        let serving = node.host("region", wanted()).serve().await;
        (node, Arc::new(serving.expect("it is the primary")))
    }
}

fn wanted() -> Option<Wanted> {
    Some(Wanted {
        replicas: vec!["a".into(), "b".into()],
        policy: Policy::Block,
    })
}

/// Waits until the backup counts.
async fn in_sync(serving: &Serving) {
    let waits = async {
        while !serving.lags().iter().any(|lag| lag.required && lag.live) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, waits).await.expect("the backup counts");
}

/// `f` on a thread of its own, for which nobody waits after the limit.
async fn aside(f: impl FnOnce() + Send + 'static) {
    let (sender, done) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        f();
        let _ = sender.send(());
    });
    let done = timeout(LIMIT, done).await;
    done.expect("in time").expect("no panic")
}

/// A copy whose beginning takes until far more was committed than the log holds.
async fn a_long_copy(lease: Duration) {
    let folder = tempfile::tempdir().expect("a folder");
    let pair = Pair::new(lease, LOG);
    let (_a, serving) = pair.primary(folder.path()).await;
    let b = pair.node("b", folder.path()).await;
    let waits = b.host("region", None);
    while pair.installs.load(Ordering::Relaxed) == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let primary = serving.clone();
    aside(move || (0..200).for_each(|i| commit(&primary, i, 4000))).await;
    // Longer than a lease, too: nobody gives up what goes on.
    sleep(lease.min(Duration::from_secs(1)) * 2).await;
    assert_eq!(pair.installs.load(Ordering::Relaxed), 1);
    pair.door.open();
    in_sync(&serving).await;
    let primary = serving.clone();
    aside(move || (0..50).for_each(|i| commit(&primary, i, 4000))).await;
    assert_eq!(pair.installs.load(Ordering::Relaxed), 1);
    drop(waits);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_do_not_wait_for_a_copy_that_is_made() {
    a_long_copy(LIMIT * 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_may_take_longer_than_a_lease() {
    a_long_copy(Duration::from_millis(500)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_costs_no_membership() {
    let folder = tempfile::tempdir().expect("a folder");
    let lease = Duration::from_millis(500);
    let mut pair = Pair::new(lease, LOG);
    pair.door.open();
    let (_a, _serving) = pair.primary(folder.path()).await;
    pair.opens = Arc::default();
    let b = Arc::new(pair.node("b", folder.path()).await);
    let _waits = b.host("region", None);
    // Whoever asks how it is gets no answer.
    for _ in 0..3 {
        let asked = b.clone();
        tokio::spawn(async move { asked.status() });
    }
    let coordinator: Arc<dyn Coordinator> = pair.coordinator.clone();
    let map = ClusterMap::new(coordinator, "test").expect("a name");
    let life = || async {
        map.member("b")
            .await
            .expect("sound")
            .map(|seen| seen.record.incarnation)
    };
    let mut first = None;
    while first.is_none() {
        sleep(Duration::from_millis(10)).await;
        first = life().await;
    }
    for _ in 0..40 {
        sleep(lease / 10).await;
        assert_eq!(life().await, first);
    }
    pair.opens.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_goes_fences_what_it_ships() {
    let folder = tempfile::tempdir().expect("a folder");
    let pair = Pair::new(LIMIT, LOG);
    pair.door.open();
    let (a, serving) = pair.primary(folder.path()).await;
    let b = pair.node("b", folder.path()).await;
    let waits = b.host("region", None);
    in_sync(&serving).await;
    // Nobody is there to acknowledge what comes now.
    drop((waits, b));
    let region = serving.region().clone();
    region.extend(64 << 10).expect("room");
    let mut record = Record::new();
    record.change(8192, &[1; 100]);
    let mut writer = region.writer().expect("usable");
    let eventual = bartender_pm::Durability::Eventual;
    writer.append(&mut record, eventual).expect("it fits");
    drop(writer);
    let flushing = serving.clone();
    let flushed = tokio::spawn(async move { flushing.flush().await });
    while serving.lags().iter().any(|lag| lag.bytes == 0) {
        sleep(Duration::from_millis(1)).await;
    }
    drop(a);
    let fenced = |error: Error| matches!(error, Error::Region(bartender_pm::Error::Fenced { .. }));
    let flushed = flushed.await.expect("no panic");
    assert!(fenced(flushed.expect_err("nobody acknowledged it")));
    let usable = region.check_usable().map_err(Error::from);
    assert!(fenced(usable.expect_err("another one may go on")));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_of_a_region_leads_out_of_the_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let pair = Pair::new(LIMIT, LOG);
    let a = pair.node("a", folder.path()).await;
    let mut evil = a.host("../evil", wanted());
    let served = timeout(Duration::from_millis(500), evil.serve()).await;
    assert!(served.is_err());
    assert!(!folder.path().join("evil.region").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_as_long_as_the_log_follow_each_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let pair = Pair::new(LIMIT, LOG);
    pair.door.open();
    let (_a, serving) = pair.primary(folder.path()).await;
    let b = pair.node("b", folder.path()).await;
    let _waits = b.host("region", None);
    in_sync(&serving).await;
    let primary = serving.clone();
    aside(move || {
        for (i, len) in [33, 33, 10, 55, 2, 58, 33, 33].into_iter().enumerate() {
            commit(&primary, i as u8, len << 10);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_longer_than_one_transfer_is_shipped_and_sent_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let pair = Pair::new(LIMIT, 160 << 20);
    pair.door.open();
    let (_a, serving) = pair.primary(folder.path()).await;
    // One that is in the log already, and one that is not.
    let primary = serving.clone();
    aside(move || commit(&primary, 1, 70 << 20)).await;
    let b = pair.node("b", folder.path()).await;
    let _waits = b.host("region", None);
    in_sync(&serving).await;
    let primary = serving.clone();
    aside(move || commit(&primary, 2, 70 << 20)).await;
    assert!(matches!(
        serving.flush().await,
        Ok(()) | Err(Error::Region(_))
    ));
    assert!(serving.lags().iter().all(|lag| lag.bytes == 0));
}
